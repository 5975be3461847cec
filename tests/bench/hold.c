/*
 * hold OBJECT CGROUP [loopback=0|1] [cidrs=N]: attach every program of a BPF object, until told.
 *
 * Says "ready" once all is attached, detaches at the end of its stdin. Drains a ring called
 * `events`, so that the programs never see it full; in the end it says how many records came.
 * cidrs=N fills the trie `denied` with 0.0.0.0/0 and N prefixes that match nothing of the bench,
 * and `allowed` with the bench's own networks.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>

#include "abi.h"

enum {
	DRAIN_MS = 20,
	WAKE_BYTES = 1 << 20,
};

static unsigned long records;

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int count_record(void *context, void *data, size_t size)
{
	(void)context, (void)data, (void)size;
	records++;
	return 0;
}

static int set_loopback(struct bpf_object *object, unsigned int loopback)
{
	int map = bpf_object__find_map_fd_by_name(object, "settings");
	struct settings settings = {.loopback = loopback, .wake_bytes = WAKE_BYTES};
	__u32 zero = 0;

	return map < 0 ? 0 : bpf_map_update_elem(map, &zero, &settings, BPF_ANY);
}

/* A stock of numbers that the programs draw from: 1 .. as many as fit, less one. */
static int fill_stock(struct bpf_object *object)
{
	struct bpf_map *stock = bpf_object__find_map_by_name(object, "free_slots");
	int error = 0;

	for (__u32 i = 1; stock && i < bpf_map__max_entries(stock) && !error; i++)
		error = bpf_map_update_elem(bpf_map__fd(stock), NULL, &i, BPF_ANY);
	return error;
}

static int add_prefix(int map, __u32 length, const char *address, __u32 offset)
{
	struct {
		__u32 length;
		__u32 address;
	} key = {.length = length};
	__u64 one = 1;

	inet_pton(AF_INET, address, &key.address);
	key.address = htonl(ntohl(key.address) + offset);
	return bpf_map_update_elem(map, &key, &one, BPF_ANY);
}

static int fill_tries(struct bpf_object *object, unsigned int cidrs)
{
	int denied = bpf_object__find_map_fd_by_name(object, "denied");
	int allowed = bpf_object__find_map_fd_by_name(object, "allowed");
	int error = 0;

	if (denied < 0 || allowed < 0)
		return 0;
	error |= add_prefix(allowed, 24, "198.51.100.0", 0);
	error |= add_prefix(allowed, 16, "203.0.113.0", 0);
	error |= add_prefix(allowed, 8, "127.0.0.0", 0);
	for (unsigned int i = 0; i < cidrs && !error; i++)
		error |= add_prefix(denied, 24, "10.0.0.0", i << 8);
	return error;
}

/* Iterators, and what is attached to nothing: run by hand, they cost the load nothing. */
static bool is_run_by_hand(const struct bpf_program *program)
{
	return bpf_program__type(program) == BPF_PROG_TYPE_TRACING ||
	       !strcmp(bpf_program__section_name(program), "raw_tp");
}

static void leave_out(struct bpf_object *object)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object) if (is_run_by_hand(program))
		bpf_program__set_autoload(program, false);
}

static int attach_all(struct bpf_object *object, int cgroup)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object)
	{
		struct bpf_link *link;

		if (is_run_by_hand(program))
			continue;
		if (bpf_program__type(program) == BPF_PROG_TYPE_RAW_TRACEPOINT)
			link = bpf_program__attach(program);
		else
			link = bpf_program__attach_cgroup(program, cgroup);
		if (!link)
			return fail(bpf_program__name(program));
	}
	return 0;
}

static void drain_until_eof(struct bpf_object *object)
{
	int map = bpf_object__find_map_fd_by_name(object, "events");
	struct ring_buffer *ring = map < 0 ? NULL : ring_buffer__new(map, count_record, NULL, NULL);
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	char byte;

	while (poll(&input, 1, ring ? DRAIN_MS : -1) == 0 || read(STDIN_FILENO, &byte, 1) > 0)
		if (ring)
			ring_buffer__consume(ring);
	if (ring)
		ring_buffer__consume(ring);
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	unsigned int loopback = 0, cidrs = 0;
	int cgroup;

	if (argc < 3)
		return fprintf(stderr, "usage: hold OBJECT CGROUP [loopback=1] [cidrs=N]\n"), 2;
	for (int i = 3; i < argc; i++) {
		sscanf(argv[i], "loopback=%u", &loopback);
		sscanf(argv[i], "cidrs=%u", &cidrs);
	}
	cgroup = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (cgroup < 0)
		return fail(argv[2]);
	object = bpf_object__open_file(argv[1], NULL);
	if (!object)
		return fail(argv[1]);
	leave_out(object);
	if (bpf_object__load(object))
		return fail(argv[1]);
	if (set_loopback(object, loopback) || fill_stock(object) || fill_tries(object, cidrs))
		return fail("maps");
	if (attach_all(object, cgroup))
		return 1;
	printf("ready\n");
	fflush(stdout);
	drain_until_eof(object);
	printf("records %lu\n", records);
	return 0;
}
