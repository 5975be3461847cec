/*
 * Processes that are gone before anybody can look: `brief HOST PORT COUNT PROGRAM`.
 *
 * COUNT times in turn: fork, execute PROGRAM (a link to this file) with `HOST PORT`, which connects, sends one
 * byte and exits at once. Without PROGRAM it is that child.
 */
#include "lab.h"
#include <sys/wait.h>

static int child(const char *host, int port)
{
	struct sockaddr_storage peer;
	socklen_t size = parse_peer(&peer, host, port);
	int fd = socket(peer.ss_family, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&peer, size))
		_exit(errno);
	if (send(fd, "x", 1, MSG_NOSIGNAL) != 1)
		_exit(errno);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct outcome outcome = {0};

	if (argc == 3)
		return child(argv[1], atoi(argv[2]));
	if (argc != 5)
		return 2;
	for (int i = 0; i < atoi(argv[3]); i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			execl(argv[4], argv[4], argv[1], argv[2], NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			return 3;
		if (note(&outcome, -WEXITSTATUS(status)) == 0)
			outcome.sent++;
	}
	print_outcome(&outcome);
	return 0;
}
