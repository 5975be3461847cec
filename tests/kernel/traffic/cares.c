// Look a name up by c-ares, with the search list of resolv.conf, and connect to each address that it gives.
#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static int try(const struct ares_addrinfo_node *one)
{
	int sock = socket(one->ai_family, SOCK_STREAM, 0);
	int failed = connect(sock, one->ai_addr, one->ai_addrlen) ? errno : 0;

	close(sock);
	return failed;
}

static void done(void *_, int status, int timeouts, struct ares_addrinfo *found)
{
	const char *comma = "";

	(void)_, (void)timeouts;
	printf("{\"error\": \"%s\", \"addresses\": {", status == ARES_SUCCESS ? "" : ares_strerror(status));
	for (const struct ares_addrinfo_node *one = found ? found->nodes : NULL; one; one = one->ai_next) {
		char text[INET6_ADDRSTRLEN];
		void *raw = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
						      : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;

		inet_ntop(one->ai_family, raw, text, sizeof(text));
		printf("%s\"%s\": %d", comma, text, try(one));
		comma = ", ";
	}
	puts("}}");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = {.ai_socktype = SOCK_STREAM};
	struct ares_options options = {.flags = argc > 3 ? ARES_FLAG_USEVC : 0};
	ares_channel channel;

	if (argc < 3 || ares_library_init(ARES_LIB_INIT_ALL) ||
	    ares_init_options(&channel, &options, argc > 3 ? ARES_OPT_FLAGS : 0))
		return 1;
	ares_getaddrinfo(channel, argv[1], argv[2], &hints, done, NULL);
	for (;;) {
		struct timeval until, *wait;
		fd_set readers, writers;
		int count;

		FD_ZERO(&readers);
		FD_ZERO(&writers);
		count = ares_fds(channel, &readers, &writers);
		if (!count)
			return 0;
		wait = ares_timeout(channel, NULL, &until);
		select(count, &readers, &writers, NULL, wait);
		ares_process(channel, &readers, &writers);
	}
}
