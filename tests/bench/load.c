/*
 * load KIND: make one kind of traffic for a while and say what an operation costs.
 *
 * A client and, where the kind has one, a server thread, both on one CPU: then the CPU time of the
 * process is the whole work of both ends, softirq included, and neither an idle core's wake-up nor
 * a neighbour's preemption is in it. The time is cut into slices and the fastest tenth is the
 * result: what disturbs can only add. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	SLICES_MAX = 1024,
	BULK_BYTES = 64 << 10,
	SOCKET_BUFFER = 192 << 10, /* below net.core.[rw]mem_max's default */
	DATAGRAM_BYTES = 64,
	SINK_PORT = 9900,
	SERVER_PORT = 9901,
	CLOSED_PORT = 9902,
};

static struct options {
	const char *kind;
	const char *host;	/* of the TCP server */
	const char *datagrams;	/* first destination of datagrams */
	const char *client_net; /* a namespace's file, or NULL */
	const char *server_net;
	const char *cgroup;	   /* directory to move into first, or NULL */
	unsigned int destinations; /* for udp-many: addresses x ports */
	unsigned int addresses;
	unsigned int milliseconds;
	unsigned int slices;
	unsigned long count; /* stop after so many operations instead */
	unsigned int rate;   /* operations a second, 0: as many as go */
	int cpu;
	int server_cpu; /* another one, on request: then only the wall clock is worth reading */
	bool denied;	/* EPERM is what is measured */
	bool client_only; /* the server stays outside of the cgroup */
} options = {
	.kind = "",
	.host = "127.0.0.1",
	.datagrams = "127.1.0.1",
	.destinations = 1000,
	.addresses = 250,
	.milliseconds = 150,
	.slices = 30,
	.cpu = -1,
	.server_cpu = -1,
};

struct slice {
	double cpu; /* ns per operation */
	double wall;
};

struct kind {
	const char *name;
	int (*open)(void);
	void (*once)(int fd, unsigned long turn);
	void (*serve)(int listener);
	unsigned int batch; /* operations between two looks at the clock */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct sockaddr_in address_of(const char *host, unsigned int offset, unsigned int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		die(host);
	address.sin_addr.s_addr = htonl(ntohl(address.sin_addr.s_addr) + offset);
	return address;
}

static void enter(const char *net)
{
	int fd;

	if (!net)
		return;
	fd = open(net, O_RDONLY);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(net);
	close(fd);
}

static void move_into(const char *cgroup)
{
	int directory, procs;

	if (!cgroup)
		return;
	directory = open(cgroup, O_RDONLY | O_DIRECTORY);
	procs = openat(directory, "cgroup.procs", O_WRONLY);
	if (procs < 0 || write(procs, "0", 1) != 1)
		die(cgroup);
	close(procs);
	close(directory);
}

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/* Fixed buffers: a window that grows would make each bulk run another one. */
static int tcp_socket(void)
{
	int one = 1, room = SOCKET_BUFFER, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)))
		die("tcp socket");
	return fd;
}

static int tcp_connect(void)
{
	struct sockaddr_in to = address_of(options.host, 0, SERVER_PORT);
	int fd = tcp_socket();

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("connect");
	return fd;
}

static int no_socket(void)
{
	return -1;
}

/* --- the kinds ------------------------------------------------------------------------------ */

static void connect_once(int fd, unsigned long turn)
{
	char byte;

	(void)turn;
	fd = tcp_connect();
	if (read(fd, &byte, 1) != 0) /* the server closes first: no port of ours is used up */
		die("read of the end");
	close(fd);
}

static void serve_connects(int listener)
{
	for (;;)
		close(accept(listener, NULL, NULL));
}

static void denied_connect_once(int fd, unsigned long turn)
{
	struct sockaddr_in to = address_of(options.host, 0, CLOSED_PORT);

	(void)turn;
	fd = tcp_socket();
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 || errno != EPERM)
		die("a denied connect");
	close(fd);
}

static void bulk_once(int fd, unsigned long turn)
{
	static char buffer[BULK_BYTES];

	(void)turn;
	if (send(fd, buffer, sizeof(buffer), 0) != sizeof(buffer))
		die("bulk send");
}

static void serve_bulk(int listener)
{
	static char buffer[4 * BULK_BYTES];
	int fd = accept(listener, NULL, NULL);

	while (recv(fd, buffer, sizeof(buffer), 0) > 0)
		;
}

static void pingpong_once(int fd, unsigned long turn)
{
	char byte = 1;

	(void)turn;
	if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1)
		die("ping-pong");
}

static void serve_pingpong(int listener)
{
	int fd = accept(listener, NULL, NULL);
	char byte;

	while (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, 0) == 1)
		;
}

static int udp_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("udp socket");
	return fd;
}

static int udp_connected(void)
{
	struct sockaddr_in to = address_of(options.datagrams, 0, SINK_PORT);
	int fd = udp_socket();

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("udp connect");
	return fd;
}

static void judge_send(ssize_t sent)
{
	if (options.denied ? sent >= 0 || errno != EPERM : sent < 0)
		die(options.denied ? "a denied send" : "send");
}

static void send_once(int fd, unsigned long turn)
{
	static const char datagram[DATAGRAM_BYTES];

	(void)turn;
	judge_send(send(fd, datagram, sizeof(datagram), 0));
}

static void sendto_index(int fd, unsigned int index)
{
	static const char datagram[DATAGRAM_BYTES];
	struct sockaddr_in to = address_of("0.0.0.0", 0, SINK_PORT + index / options.addresses);
	static in_addr_t first;

	if (!first)
		first = ntohl(address_of(options.datagrams, 0, 0).sin_addr.s_addr);
	to.sin_addr.s_addr = htonl(first + index % options.addresses);
	judge_send(sendto(fd, datagram, sizeof(datagram), 0, (struct sockaddr *)&to, sizeof(to)));
}

static void sendto_one(int fd, unsigned long turn)
{
	(void)turn;
	sendto_index(fd, 0);
}

static void sendto_many(int fd, unsigned long turn)
{
	sendto_index(fd, turn % options.destinations);
}

static const struct kind kinds[] = {
	{"tcp-connect", no_socket, connect_once, serve_connects, 1},
	{"tcp-denied", no_socket, denied_connect_once, NULL, 8},
	{"tcp-bulk", tcp_connect, bulk_once, serve_bulk, 4},
	{"tcp-pingpong", tcp_connect, pingpong_once, serve_pingpong, 8},
	{"udp-connected", udp_connected, send_once, NULL, 32},
	{"udp-one", udp_socket, sendto_one, NULL, 32},
	{"udp-many", udp_socket, sendto_many, NULL, 32},
};

/* --- the frame ------------------------------------------------------------------------------ */

static const struct kind *find_kind(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, options.kind))
			return &kinds[i];
	fprintf(stderr, "load: no such kind: %s\n", options.kind);
	exit(2);
}

static int listening(void)
{
	struct sockaddr_in at = address_of("0.0.0.0", 0, SERVER_PORT);
	int one = 1, fd = tcp_socket();

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 64))
		die("listen");
	return fd;
}

/* Take datagrams that nobody reads: where they arrive, they end at the full buffer, after every hook. */
static void open_sinks(void)
{
	unsigned int ports = (options.destinations + options.addresses - 1) / options.addresses;

	for (unsigned int i = 0; i < ports; i++) {
		struct sockaddr_in at = address_of("0.0.0.0", 0, SINK_PORT + i);
		int small = 1, fd = udp_socket();

		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
		if (bind(fd, (struct sockaddr *)&at, sizeof(at)))
			die("sink");
	}
}

static pthread_barrier_t server_is_up;

static void *run_server(void *argument)
{
	const struct kind *kind = argument;
	int listener = -1;

	pin(options.server_cpu < 0 ? options.cpu : options.server_cpu);
	enter(options.server_net);
	if (kind->serve)
		listener = listening();
	else
		open_sinks();
	pthread_barrier_wait(&server_is_up);
	if (kind->serve)
		kind->serve(listener);
	return NULL;
}

static unsigned long run_slice(const struct kind *kind, int fd, unsigned long turn, struct slice *slice)
{
	long long length = options.milliseconds * 1000000LL / options.slices;
	long long cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), wall = clock_ns(CLOCK_MONOTONIC);
	unsigned long done = 0;

	do {
		for (unsigned int i = 0; i < kind->batch; i++)
			kind->once(fd, turn + done++);
	} while (clock_ns(CLOCK_MONOTONIC) - wall < length);
	slice->wall = (double)(clock_ns(CLOCK_MONOTONIC) - wall) / (double)done;
	slice->cpu = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (double)done;
	return turn + done;
}

static int by_size(const void *left, const void *right)
{
	double difference = *(const double *)left - *(const double *)right;

	return (difference > 0) - (difference < 0);
}

static void measure(const struct kind *kind, int fd)
{
	static double cpu[SLICES_MAX], wall[SLICES_MAX];
	struct slice slice;
	unsigned long warmed = run_slice(kind, fd, 0, &slice), turn = warmed;

	for (unsigned int i = 0; i < options.slices; i++) {
		turn = run_slice(kind, fd, turn, &slice);
		cpu[i] = slice.cpu;
		wall[i] = slice.wall;
	}
	qsort(cpu, options.slices, sizeof(*cpu), by_size);
	qsort(wall, options.slices, sizeof(*wall), by_size);
	printf("{\"kind\": \"%s\", \"operations\": %lu, \"warmed\": %lu, \"cpu_ns\": %.1f, "
	       "\"wall_ns\": %.1f}\n",
	       kind->name, turn, warmed, cpu[options.slices / 10], wall[options.slices / 10]);
}

/* Sleeps every millisecond's worth of operations: close enough, and no busy wait. */
static void count_out(const struct kind *kind, int fd)
{
	long long start = clock_ns(CLOCK_MONOTONIC);
	unsigned long per_ms = options.rate / 1000 ? options.rate / 1000 : 1;

	for (unsigned long turn = 0; turn < options.count; turn++) {
		long long due;
		struct timespec until;

		kind->once(fd, turn);
		if (!options.rate || (turn + 1) % per_ms)
			continue;
		due = start + (long long)((double)(turn + 1) * 1e9 / options.rate);
		until = (struct timespec){due / 1000000000LL, due % 1000000000LL};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
	printf("{\"kind\": \"%s\", \"operations\": %lu, \"seconds\": %.3f}\n", kind->name, options.count,
	       (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9);
}

static void parse(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "k:h:d:c:s:g:n:a:t:l:o:r:p:q:ew")) != -1) {
		switch (option) {
		case 'k':
			options.kind = optarg;
			break;
		case 'h':
			options.host = optarg;
			break;
		case 'd':
			options.datagrams = optarg;
			break;
		case 'c':
			options.client_net = optarg;
			break;
		case 's':
			options.server_net = optarg;
			break;
		case 'g':
			options.cgroup = optarg;
			break;
		case 'n':
			options.destinations = (unsigned int)atoi(optarg);
			break;
		case 'a':
			options.addresses = (unsigned int)atoi(optarg);
			break;
		case 't':
			options.milliseconds = (unsigned int)atoi(optarg);
			break;
		case 'l':
			options.slices = (unsigned int)atoi(optarg);
			break;
		case 'o':
			options.count = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			options.rate = (unsigned int)atoi(optarg);
			break;
		case 'p':
			options.cpu = atoi(optarg);
			break;
		case 'q':
			options.server_cpu = atoi(optarg);
			break;
		case 'e':
			options.denied = true;
			break;
		case 'w':
			options.client_only = true;
			break;
		default:
			exit(2);
		}
	}
	if (!options.slices || options.slices > SLICES_MAX || !options.addresses)
		exit(2);
}

int main(int argc, char **argv)
{
	const struct kind *kind;
	pthread_t server;
	int fd;

	parse(argc, argv);
	kind = find_kind();
	if (!options.client_only)
		move_into(options.cgroup);
	if (options.count) /* the daemon is what is measured: leave it its share */
		options.cpu = -1;
	else
		setpriority(PRIO_PROCESS, 0, -20);
	pin(options.cpu);
	pthread_barrier_init(&server_is_up, NULL, 2);
	if (pthread_create(&server, NULL, run_server, (void *)kind))
		die("pthread_create");
	pthread_barrier_wait(&server_is_up);
	if (options.client_only) /* what the listener accepts belongs to the cgroup where it was made */
		move_into(options.cgroup);
	enter(options.client_net);
	fd = kind->open();
	if (options.count)
		count_out(kind, fd);
	else
		measure(kind, fd);
	fflush(stdout);
	_exit(0);
}
