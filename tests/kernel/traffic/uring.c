/*
 * TCP through io_uring: `uring HOST PORT UP DOWN MODE`.
 *
 * MODE: connect (connect, too, is submitted), transfer (only the data), each plain, `-async` (forced into
 * worker threads) or `-sqpoll` (submitted by a kernel thread). Raw system calls: no library is needed.
 */
#include "lab.h"
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { ENTRIES = 8, CHUNK = 65536 };

struct ring {
	int fd;
	int sqpoll;
	unsigned int *sq_tail, *sq_mask, *sq_array, *sq_flags;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static void *map_ring(int fd, size_t size, off_t offset)
{
	void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);

	if (area == MAP_FAILED)
		exit(3);
	return area;
}

static void open_ring(struct ring *ring, int sqpoll)
{
	struct io_uring_params p = {.flags = sqpoll ? IORING_SETUP_SQPOLL : 0, .sq_thread_idle = 1000};
	char *sq, *cq;

	ring->fd = (int)syscall(__NR_io_uring_setup, ENTRIES, &p);
	if (ring->fd < 0)
		exit(3);
	ring->sqpoll = sqpoll;
	sq = map_ring(ring->fd, p.sq_off.array + p.sq_entries * sizeof(unsigned int), IORING_OFF_SQ_RING);
	cq = map_ring(ring->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	ring->sqes = map_ring(ring->fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring->sq_tail = (unsigned int *)(sq + p.sq_off.tail);
	ring->sq_mask = (unsigned int *)(sq + p.sq_off.ring_mask);
	ring->sq_array = (unsigned int *)(sq + p.sq_off.array);
	ring->sq_flags = (unsigned int *)(sq + p.sq_off.flags);
	ring->cq_head = (unsigned int *)(cq + p.cq_off.head);
	ring->cq_tail = (unsigned int *)(cq + p.cq_off.tail);
	ring->cq_mask = (unsigned int *)(cq + p.cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static void enter(struct ring *ring)
{
	unsigned int flags = IORING_ENTER_GETEVENTS;

	if (ring->sqpoll && (__atomic_load_n(ring->sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP))
		flags |= IORING_ENTER_SQ_WAKEUP;
	syscall(__NR_io_uring_enter, ring->fd, ring->sqpoll ? 0 : 1, 1, flags, NULL, 0);
}

static long submit(struct ring *ring, const struct io_uring_sqe *sqe)
{
	unsigned int tail = *ring->sq_tail, head = *ring->cq_head;
	unsigned int slot = tail & *ring->sq_mask;
	long result;

	ring->sqes[slot] = *sqe;
	ring->sq_array[slot] = slot;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_SEQ_CST);
	while (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		enter(ring);
	result = ring->cqes[head & *ring->cq_mask].res;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

static long transfer(struct ring *ring, int op, int fd, void *data, size_t size, int async)
{
	struct io_uring_sqe sqe = {
		.opcode = op,
		.fd = fd,
		.addr = (uint64_t)(uintptr_t)data,
		.len = (unsigned int)size,
		.flags = async ? IOSQE_ASYNC : 0,
	};

	return submit(ring, &sqe);
}

static long connect_by(struct ring *ring, int fd, struct sockaddr_storage *peer, socklen_t size, int async)
{
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_CONNECT,
		.fd = fd,
		.addr = (uint64_t)(uintptr_t)peer,
		.off = size,
		.flags = async ? IOSQE_ASYNC : 0,
	};

	return submit(ring, &sqe);
}

static void move_all(struct ring *ring, struct outcome *outcome, int op, int fd, long size, int async)
{
	static char data[CHUNK];
	long *moved = op == IORING_OP_SEND ? &outcome->sent : &outcome->received;
	long target = *moved + size;

	while (*moved < target) {
		long left = target - *moved;
		long done = transfer(ring, op, fd, data, left < CHUNK ? left : CHUNK, async);

		if (note(outcome, done) <= 0)
			return;
		*moved += done;
	}
}

static void finish(int fd)
{
	char byte;

	shutdown(fd, SHUT_WR);
	while (read(fd, &byte, 1) > 0)
		;
	close(fd);
}

int main(int argc, char **argv)
{
	struct outcome outcome = {0};
	struct sockaddr_storage peer;
	struct ring ring;
	struct request request;
	socklen_t size;
	int fd, async;
	long result;

	if (argc != 6)
		return 2;
	size = parse_peer(&peer, argv[1], atoi(argv[2]));
	request = make_request(atol(argv[3]), atol(argv[4]), 0);
	async = strstr(argv[5], "-async") != NULL;
	open_ring(&ring, strstr(argv[5], "-sqpoll") != NULL);
	fd = socket(peer.ss_family, SOCK_STREAM, 0);
	if (strncmp(argv[5], "connect", 7) == 0)
		result = connect_by(&ring, fd, &peer, size, async);
	else
		result = connect(fd, (struct sockaddr *)&peer, size) ? -errno : 0;
	if (note(&outcome, result) == 0) {
		result = transfer(&ring, IORING_OP_SEND, fd, &request, sizeof(request), async);
		outcome.sent += note(&outcome, result) > 0 ? result : 0;
		move_all(&ring, &outcome, IORING_OP_SEND, fd, atol(argv[3]), async);
		move_all(&ring, &outcome, IORING_OP_RECV, fd, atol(argv[4]), async);
		finish(fd);
	}
	print_outcome(&outcome);
	return 0;
}
