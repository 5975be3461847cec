/*
 * A service that restarts: `remade CGROUP BELOW HOST PORT ROUNDS`. Each round removes the cgroup, makes it (and
 * BELOW in it) again, and has a new process in it send a datagram and connect as its first acts. Prints how many
 * of these calls succeeded and how many failed with EPERM, as JSON.
 */
#include "lab.h"
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/sched.h>

enum { SENT = 1, SENT_DENIED = 2, CONNECTED = 4, CONNECT_DENIED = 8 };

static int first_acts(const struct sockaddr_storage *peer, socklen_t size)
{
	int udp = socket(peer->ss_family, SOCK_DGRAM, 0);
	int tcp = socket(peer->ss_family, SOCK_STREAM, 0);
	int result = 0;

	if (sendto(udp, "x", 1, 0, (const struct sockaddr *)peer, size) == 1)
		result |= SENT;
	else if (errno == EPERM)
		result |= SENT_DENIED;
	if (connect(tcp, (const struct sockaddr *)peer, size) == 0 || errno == ECONNREFUSED)
		result |= CONNECTED;
	else if (errno == EPERM)
		result |= CONNECT_DENIED;
	return result;
}

/* Born in the cgroup: clone3(2), CLONE_INTO_CGROUP. */
static pid_t start_in(int cgroup)
{
	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)cgroup,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static void remove_again(const char *path)
{
	while (rmdir(path) && errno == EBUSY) /* the last process is still on its way out */
		sched_yield();
}

static int round_of(const char *path, const char *leaf, const struct sockaddr_storage *peer, socklen_t size)
{
	int status, cgroup;
	pid_t child;

	if (strcmp(path, leaf) != 0)
		remove_again(leaf);
	remove_again(path);
	if (mkdir(path, 0755) || (strcmp(path, leaf) != 0 && mkdir(leaf, 0755)))
		exit(3);
	cgroup = open(leaf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	child = start_in(cgroup);
	if (child < 0)
		exit(4);
	if (child == 0)
		_exit(first_acts(peer, size));
	close(cgroup);
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	struct sockaddr_storage peer;
	int passed = 0, denied = 0;
	socklen_t size;
	char leaf[4096];

	if (argc != 6)
		return 2;
	size = parse_peer(&peer, argv[3], atoi(argv[4]));
	snprintf(leaf, sizeof(leaf), "%s%s", argv[1], argv[2]);
	for (int i = atoi(argv[5]); i > 0; i--) {
		int result = round_of(argv[1], leaf, &peer, size);

		passed += !!(result & SENT) + !!(result & CONNECTED);
		denied += !!(result & SENT_DENIED) + !!(result & CONNECT_DENIED);
	}
	remove_again(leaf);
	printf("[%d, %d]\n", passed, denied);
	return 0;
}
