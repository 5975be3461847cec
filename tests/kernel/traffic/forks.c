// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Forks so many daemons, each through a child that ends at once, and so leaves them without a parent. When
 * standard input ends they, and this program, send one datagram each. forks HOST PORT COUNT
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void send_once(const char *host, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	char end;

	inet_pton(AF_INET, host, &to.sin_addr);
	while (read(0, &end, 1) > 0)
		;
	if (sendto(sock, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		dprintf(1, "refused\n");
	else
		dprintf(1, "through\n");
}

int main(int count, char **words)
{
	int port = atoi(words[2]), left = atoi(words[3]);

	if (count != 4)
		return 2;
	dprintf(1, "begins\n");
	for (; left > 0; left--) {
		if (!fork()) {
			if (fork())
				_exit(0);
			setsid();
			send_once(words[1], port);
			_exit(0);
		}
		wait(NULL);
	}
	dprintf(1, "made\n");
	send_once(words[1], port);
	return 0;
}
