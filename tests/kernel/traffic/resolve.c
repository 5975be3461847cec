// Look a name up by getaddrinfo and connect to each address that it gives: glibc or musl, whichever it is linked with.
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

static int try(const struct addrinfo *one)
{
	int sock = socket(one->ai_family, SOCK_STREAM, 0);
	int failed = connect(sock, one->ai_addr, one->ai_addrlen) ? errno : 0;

	close(sock);
	return failed;
}

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	int result = argc >= 3 ? getaddrinfo(argv[1], argv[2], &hints, &found) : EAI_FAIL;
	int again = argc == 4 ? atoi(argv[3]) : 0; // a fourth word: so often once more, a tenth of a second apart
	const char *comma = "";

	for (; result == EAI_AGAIN && again; again--) {
		usleep(100000);
		result = getaddrinfo(argv[1], argv[2], &hints, &found);
	}

	printf("{\"error\": \"%s\", \"addresses\": {", result ? gai_strerror(result) : "");
	for (const struct addrinfo *one = found; one; one = one->ai_next) {
		char text[INET6_ADDRSTRLEN];
		void *raw = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
						      : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;

		inet_ntop(one->ai_family, raw, text, sizeof(text));
		printf("%s\"%s\": %d", comma, text, try(one));
		comma = ", ";
	}
	puts("}}");
	return 0;
}
