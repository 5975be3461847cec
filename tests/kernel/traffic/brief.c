/*
 * Processes that are gone before anybody can look: `brief HOST PORT COUNT PROGRAM`.
 *
 * COUNT times in turn: fork, execute PROGRAM (a link to this file) with `HOST PORT`, which connects, sends one
 * byte and exits at once. Without PROGRAM it is that child.
 */
#include "lab.h"
#include <sys/wait.h>

int main(int argc, char **argv)
{
	struct outcome outcome = {0};

	if (argc == 3)
		say_a_byte(argv[1], atoi(argv[2]));
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
