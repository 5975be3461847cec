/* What the C traffic programs share: addresses, the opening request, the printed result. */
#ifndef LAB_H
#define LAB_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
	char magic[4];
	uint32_t flags;
	uint64_t up;
	uint64_t down;
} __attribute__((packed));

struct outcome {
	long calls;
	long sent;
	long received;
	long refused;
	int last;
};

static inline struct request make_request(uint64_t up, uint64_t down, uint32_t flags)
{
	struct request request = {
		.flags = htobe32(flags),
		.up = htobe64(up),
		.down = htobe64(down),
	};
	memcpy(request.magic, "LAB1", sizeof(request.magic));
	return request;
}

static inline socklen_t parse_peer(struct sockaddr_storage *peer, const char *host, int port)
{
	struct sockaddr_in *four = (struct sockaddr_in *)peer;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)peer;

	memset(peer, 0, sizeof(*peer));
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	if (inet_pton(AF_INET6, host, &six->sin6_addr) != 1)
		exit(2);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

/* Connects, sends one byte and exits at once, with 0 or the errno. */
static inline _Noreturn void say_a_byte(const char *host, int port)
{
	struct sockaddr_storage peer;
	socklen_t size = parse_peer(&peer, host, port);
	int fd = socket(peer.ss_family, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&peer, size))
		_exit(errno);
	_exit(send(fd, "x", 1, MSG_NOSIGNAL) == 1 ? 0 : errno);
}

static inline long note(struct outcome *outcome, long result)
{
	outcome->calls++;
	if (result < 0) {
		outcome->refused++;
		outcome->last = (int)-result;
	}
	return result;
}

static inline void print_outcome(const struct outcome *outcome)
{
	const char *name = strerrorname_np(outcome->last);

	printf("{\"calls\": %ld, \"bytes_sent\": %ld, \"bytes_received\": %ld, \"pid\": %d, ", outcome->calls,
	       outcome->sent, outcome->received, getpid());
	if (outcome->last)
		printf("\"errno\": \"%s\", \"errors\": {\"%s\": %ld}}\n", name, name, outcome->refused);
	else
		printf("\"errno\": null, \"errors\": {}}\n");
	fflush(stdout);
}

#endif /* LAB_H */
