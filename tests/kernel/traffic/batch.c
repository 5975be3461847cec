/*
 * Many datagrams a call: `batch send COUNT SIZE HOST PORT...` by sendmmsg, round robin over the ports;
 * `batch receive COUNT SIZE HOST PORT` asks for COUNT datagrams and takes them by recvmmsg.
 */
#include "lab.h"

enum { BATCH = 32, MOST = 65536 };

static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];
static struct sockaddr_storage peers[BATCH];
static char data[BATCH][MOST];

static int open_socket(const struct sockaddr_storage *peer)
{
	int fd = socket(peer->ss_family, SOCK_DGRAM, 0);
	int room = 8 << 20;
	struct timeval patience = {.tv_sec = 3};

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void prepare(int index, size_t size)
{
	vectors[index] = (struct iovec){.iov_base = data[index], .iov_len = size};
	messages[index].msg_hdr.msg_iov = &vectors[index];
	messages[index].msg_hdr.msg_iovlen = 1;
}

static void send_all(struct outcome *outcome, int fd, long count)
{
	while (count > 0) {
		int wanted = count < BATCH ? (int)count : BATCH;
		int done = sendmmsg(fd, messages, wanted, 0);

		if (note(outcome, done < 0 ? -errno : done) < 0) {
			count--; /* go on behind the message that was refused */
			continue;
		}
		for (int i = 0; i < done; i++)
			outcome->sent += messages[i].msg_len;
		count -= done;
		if (done < wanted)
			outcome->refused++;
	}
}

static void receive_all(struct outcome *outcome, int fd, long count)
{
	while (count > 0) {
		int done = recvmmsg(fd, messages, count < BATCH ? (int)count : BATCH, MSG_WAITFORONE, NULL);

		if (note(outcome, done < 0 ? -errno : done) <= 0)
			return;
		for (int i = 0; i < done; i++)
			outcome->received += messages[i].msg_len;
		count -= done;
	}
}

static void ask(struct outcome *outcome, int fd, long count, long size)
{
	struct request request = make_request(0, count * size, (uint32_t)size);
	struct msghdr *first = &messages[0].msg_hdr;
	long done = sendto(fd, &request, sizeof(request), 0, first->msg_name, first->msg_namelen);

	if (note(outcome, done < 0 ? -errno : done) > 0)
		outcome->sent += done;
}

int main(int argc, char **argv)
{
	struct outcome outcome = {0};
	long count, size;
	int fd;

	if (argc < 6)
		return 2;
	count = atol(argv[2]);
	size = atol(argv[3]);
	for (int i = 0; i < BATCH; i++) {
		int port = atoi(argv[5 + i % (argc - 5)]);

		prepare(i, size);
		messages[i].msg_hdr.msg_namelen = parse_peer(&peers[i], argv[4], port);
		messages[i].msg_hdr.msg_name = &peers[i];
	}
	fd = open_socket(&peers[0]);
	if (strcmp(argv[1], "send") == 0) {
		send_all(&outcome, fd, count);
	} else {
		ask(&outcome, fd, count, size);
		if (!outcome.last) {
			for (int i = 0; i < BATCH; i++)
				messages[i].msg_hdr.msg_name = NULL;
			receive_all(&outcome, fd, count);
		}
	}
	print_outcome(&outcome);
	return 0;
}
