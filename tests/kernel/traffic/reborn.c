/*
 * One pid for several processes in turn: `reborn HOST PORT TIMES`. clone3(2) with set_tid picks the pid.
 */
#include "lab.h"
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static pid_t clone_as(pid_t wanted)
{
	struct clone_args arguments = {
		.exit_signal = SIGCHLD,
		.set_tid = wanted ? (uint64_t)(uintptr_t)&wanted : 0,
		.set_tid_size = wanted ? 1 : 0,
	};

	return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

int main(int argc, char **argv)
{
	struct outcome outcome = {0};
	pid_t pid = 0;

	if (argc != 4)
		return 2;
	for (int i = 0; i < atoi(argv[3]); i++) {
		int status;
		pid_t next = clone_as(pid);

		if (next == 0)
			say_a_byte(argv[1], atoi(argv[2]));
		if (next < 0 || waitpid(next, &status, 0) != next || (pid && next != pid))
			return 3;
		pid = next;
		if (note(&outcome, -WEXITSTATUS(status)) == 0)
			outcome.sent++;
	}
	printf("{\"pid_reused\": %d, \"calls\": %ld, \"errno\": null, \"bytes_sent\": %ld}\n", pid, outcome.calls,
	       outcome.sent);
	return 0;
}
