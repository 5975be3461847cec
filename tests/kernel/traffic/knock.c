// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// knock HOST PORT MILLISECONDS: its first act is a connection and a datagram, then more of both, each anew.
// Without words it waits, as the container that holds a pod does.
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void knock(const struct sockaddr_in *to)
{
	int stream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int datagrams = socket(AF_INET, SOCK_DGRAM, 0);

	connect(stream, (const struct sockaddr *)to, sizeof(*to));
	sendto(datagrams, "knock", 5, 0, (const struct sockaddr *)to, sizeof(*to));
	usleep(4000);
	close(stream);
	close(datagrams);
}

int main(int count, char **words)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	long until = now();

	if (count == 1)
		return pause();
	if (count != 4 || inet_pton(AF_INET, words[1], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons(atoi(words[2]));
	until += atoi(words[3]);
	do
		knock(&to);
	while (now() < until);
	return 0;
}
