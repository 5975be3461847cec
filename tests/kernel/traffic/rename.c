/*
 * A thread that gives itself another name and then connects and sends: `rename HOST PORT BYTES`.
 * Linked statically, as programs in containers are.
 */
#include "lab.h"
#include <pthread.h>
#include <sys/prctl.h>

static char **arguments;
static struct outcome outcome;

static void send_all(int fd, long size)
{
	static char data[65536];

	while (size > 0) {
		long done = send(fd, data, size < (long)sizeof(data) ? size : (long)sizeof(data), MSG_NOSIGNAL);

		if (note(&outcome, done < 0 ? -errno : done) < 0)
			return;
		outcome.sent += done;
		size -= done;
	}
}

static void *work(void *unused)
{
	struct sockaddr_storage peer;
	socklen_t size = parse_peer(&peer, arguments[1], atoi(arguments[2]));
	struct request request = make_request(atol(arguments[3]), 0, 0);
	int fd = socket(peer.ss_family, SOCK_STREAM, 0);
	char byte;

	prctl(PR_SET_NAME, "other-name");
	if (note(&outcome, connect(fd, (struct sockaddr *)&peer, size) ? -errno : 0) < 0)
		return unused;
	outcome.sent += send(fd, &request, sizeof(request), MSG_NOSIGNAL);
	send_all(fd, atol(arguments[3]));
	shutdown(fd, SHUT_WR);
	while (read(fd, &byte, 1) > 0)
		;
	close(fd);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 4)
		return 2;
	arguments = argv;
	if (pthread_create(&thread, NULL, work, NULL))
		return 3;
	pthread_join(thread, NULL);
	print_outcome(&outcome);
	return 0;
}
