/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The talk between a runtime's own HTTP API (HTTP/1, no TLS) and its clients: when a request begins and
 * when its response ends. Looked at are request lines and the heads of messages, never a body.
 *
 * Packets come in (ingress) without the socket's lock and leave (egress) under it. What both sides touch
 * is the queue of requests, which has a spin lock; all else is written by one side. The counts of
 * requests in flight are right because a request is counted by whoever puts it into the queue, and
 * counted off by whoever takes it out: its response, or the end of the connection.
 */
#ifndef TATTLE_HTTP_BPF_H
#define TATTLE_HTTP_BPF_H

#include "phase.bpf.h"
#include "sample.bpf.h"

enum {
	HEAD_PIECE = 16,   /* bytes of a head that are looked at in one go */
	HEAD_PIECES = 256, /* so many of one packet */
	TALK_ROUNDS = 4,   /* requests that one packet may hold, or responses */
	LINE_LEN = PATH_LEN,
	BODY_MAX = 1 << 30, /* of a request: what sequence numbers can still compare */
};

/* Who speaks: index of talk.messages. */
enum { HEARD = 0, SAID = 1 };

/* How a message ends; RFC 9112 6.3. */
enum ending {
	END_HEAD = 0, /* still in its head */
	END_LENGTH,   /* after `left` bytes */
	END_CHUNKED,  /* with the chunk of no bytes */
	END_CLOSE,    /* with the connection */
};

/* "GET " and its like, as the first bytes of a request in a big-endian number; RFC 9110 9, RFC 5789. */
#define TEXT(a, b, c, d, e, f, g, h)                                                                    \
	((__u64)(a) << 56 | (__u64)(b) << 48 | (__u64)(c) << 40 | (__u64)(d) << 32 | (__u64)(e) << 24 | \
	 (__u64)(f) << 16 | (__u64)(g) << 8 | (__u64)(h))

/* Length of the method with its space; 0: no request begins with these bytes. */
static __always_inline __u32 method_of(__u64 text)
{
	if (text >> 32 == TEXT('G', 'E', 'T', ' ', 0, 0, 0, 0) >> 32 ||
	    text >> 32 == TEXT('P', 'U', 'T', ' ', 0, 0, 0, 0) >> 32)
		return 4;
	if (text >> 24 == TEXT('P', 'O', 'S', 'T', ' ', 0, 0, 0) >> 24 ||
	    text >> 24 == TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0) >> 24)
		return 5;
	if (text >> 16 == TEXT('P', 'A', 'T', 'C', 'H', ' ', 0, 0) >> 16)
		return 6;
	if (text >> 8 == TEXT('D', 'E', 'L', 'E', 'T', 'E', ' ', 0) >> 8)
		return 7;
	return text == TEXT('O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') ? 8 : 0;
}

/* The sample of a request, or of its end: who serves it, and whom. */
static __always_inline void fill_request(struct sample *head, enum sample_kind kind,
					 const struct socket_state *state, __u64 cookie)
{
	*head = (struct sample){};
	head->time_ns = bpf_ktime_get_boot_ns();
	head->process = state->flow.process;
	head->socket = cookie;
	__builtin_memcpy(head->remote, state->flow.remote, ADDRESS_LEN);
	head->remote_port = state->flow.remote_port;
	head->proto = state->flow.proto;
	head->direction = state->flow.direction;
	head->kind = kind;
}

struct request_sample {
	struct sample head;
	char line[LINE_LEN];
};

static __always_inline void tell_request(struct __sk_buff *skb, const struct socket_state *state,
					 const char *line, __u32 length, __u32 phase)
{
	struct request_sample *sample = ring_reserve(samples, sizeof(*sample));

	if (!sample) {
		lost(LOSS_SAMPLES_FULL);
		return;
	}
	fill_request(&sample->head, SAMPLE_REQUEST, state, bpf_get_socket_cookie(skb));
	sample->head.length = length;
	sample->head.phase = phase;
	__builtin_memcpy(sample->line, line, LINE_LEN);
	sample_send(sample);
}

static __always_inline void tell_over(const struct socket_state *state, const struct asked *was, __u64 cookie)
{
	struct sample *sample = ring_reserve(samples, sizeof(*sample));

	if (!sample) {
		lost(LOSS_SAMPLES_FULL);
		return;
	}
	fill_request(sample, SAMPLE_REQUEST_END, state, cookie);
	sample->phase = was->phase;
	sample->duration_ns = sample->time_ns - was->began_ns;
	sample->outgoing = 1;
	sample_send(sample);
}

/* Into the queue. False: the connection is over, or nobody can wait for so many answers. */
static __always_inline bool ask(struct talk *talk, __u32 target, __u32 phase, bool headless, bool inner)
{
	__u64 now = bpf_ktime_get_boot_ns();
	bool room;

	bpf_spin_lock(&talk->lock);
	room = !talk->closed && talk->waiting < TALK_DEPTH;
	if (room) {
		struct asked *last = &talk->asked[(talk->first + talk->waiting) & (TALK_DEPTH - 1)];

		last->began_ns = now;
		last->target = target;
		last->phase = phase;
		last->head_only = headless;
		last->inner = inner;
		talk->waiting++;
	}
	bpf_spin_unlock(&talk->lock);
	if (room)
		request_up(target, phase, inner);
	return room;
}

/* The oldest request is answered. False: there was none. */
static __noinline bool over(struct talk *talk, const struct socket_state *state, __u64 cookie)
{
	struct asked was = {};
	bool any;

	bpf_spin_lock(&talk->lock);
	any = talk->waiting > 0;
	if (any) {
		was = talk->asked[talk->first & (TALK_DEPTH - 1)];
		talk->first++;
		talk->waiting--;
	}
	bpf_spin_unlock(&talk->lock);
	if (!any)
		return false;
	request_down(was.target, was.phase, was.inner);
	if (!was.inner)
		tell_over(state, &was, cookie);
	return true;
}

/* The connection is: all its requests are over, whether answered or not, and none follows. */
static __noinline void hang_up(struct talk *talk, const struct socket_state *state, __u64 cookie)
{
	bpf_spin_lock(&talk->lock);
	talk->closed = 1;
	bpf_spin_unlock(&talk->lock);
	for (int i = 0; i < TALK_DEPTH; i++)
		if (!over(talk, state, cookie))
			break;
}

/* 1 or 0, as a number that the verifier does not take apart. */
static __always_inline __u64 same(__u64 a, __u64 b)
{
	__u64 differ = a ^ b, equal = (differ | -differ) >> 63 ^ 1;

	asm volatile("" : "+r"(equal));
	return equal;
}

/* Is it one of `count` characters from `first` on? Likewise. */
static __always_inline __u32 among(__u32 byte, __u32 first, __u32 count)
{
	__u32 is = (byte - first - count) >> 31 & ~((byte - first) >> 31);

	asm volatile("" : "+r"(is));
	return is & 1;
}

/*
 * One more byte of a head. The last 16, in lower case, are enough to see what we look for. Numbers
 * instead of branches, each of which the verifier would follow for each byte.
 */
static __always_inline void head_byte(struct message *head, __u32 byte, __u32 is_answer)
{
	__u64 number = head->in_length & among(byte, '0', 10), length, twelfth;

	byte += among(byte, 'A', 26) << 5;
	head->before = head->before << 8 | head->window >> 56;
	head->window = head->window << 8 | byte;
	head->seen++;
	length = same(head->window, TEXT('-', 'l', 'e', 'n', 'g', 't', 'h', ':')) &
		 same(head->before, TEXT('\n', 'c', 'o', 'n', 't', 'e', 'n', 't'));
	head->left = (head->left * (1 + 9 * number) + (byte - '0') * number) & (length - 1);
	head->in_length = number | length | (head->in_length & same(byte, ' '));
	head->has_length |= length;
	head->chunked |= same(head->window, TEXT('c', 'h', 'u', 'n', 'k', 'e', 'd', '\r'));
	twelfth = same(head->seen, 12); /* "HTTP/1.1 200": RFC 9112 4 */
	head->status |= head->window & 0xffffff & -twelfth;
	head->alien |= is_answer & same(head->seen, 8) &
		       (1 ^ same(head->window >> 8, TEXT(0, 'h', 't', 't', 'p', '/', '1', '.')));
	head->ended |= head->alien | same((__u32)head->window, 0x0d0a0d0a);
}

/*
 * A piece of a message's head; returns the offset behind what was read. It reads to the end of the head
 * and no further, 16 bytes at a time or one: the verifier likes what is constant.
 */
checked_once __u32 head_piece(struct __sk_buff *skb, __u32 at, __u32 who)
{
	struct bpf_sock *sk = skb->sk;
	struct talk *talk = sk ? socket_lookup(talks, sk) : NULL;
	struct message *head;
	__u8 piece[HEAD_PIECE];

	if (!talk)
		return at;
	head = &talk->messages[who & 1];
	if (head->ended)
		return at;
	if (bpf_skb_load_bytes(skb, at, piece, HEAD_PIECE)) {
		if (bpf_skb_load_bytes(skb, at, piece, 1))
			return at;
		head_byte(head, piece[0], who & 1);
		return at + 1;
	}
	for (__u32 i = 0; i < HEAD_PIECE; i++) {
		head_byte(head, piece[i], who & 1);
		if (head->ended)
			return at + i + 1;
	}
	return at + HEAD_PIECE;
}

/* To the end of a head, or of the packet. */
checked_once __u32 read_head(struct __sk_buff *skb, __u32 at, __u32 who)
{
	for (int i = 0; i < HEAD_PIECES; i++) {
		__u32 next = head_piece(skb, at, who);

		if (next == at)
			break;
		at = next;
	}
	return at;
}

static __always_inline void begin_message(struct message *head)
{
	head->window = head->before = head->left = 0;
	head->seen = 0;
	head->status = 0;
	head->ending = END_HEAD;
	head->ended = head->chunked = head->has_length = head->in_length = head->alien = 0;
}

/*
 * The request's line up to the end of its path: what is behind a `?` is as private as a body. Numbers
 * instead of branches, each of which the verifier would follow for each byte.
 */
static __always_inline __u32 cut_line(char *line, __u32 method)
{
	__u32 length = 4, over = 0;

	for (__u32 i = 4; i < LINE_LEN; i++) {
		__u32 byte = (__u8)line[i], in_path = (method - 1 - i) >> 31;

		over |= in_path & ((byte - ' ' - 1) >> 31 | ((byte ^ '?') - 1) >> 31);
		asm volatile("" : "+r"(over));
		length += 1 - over;
		line[i] = byte & (over - 1);
	}
	return length;
}

/* Does a request begin here? It does if the method is returned. */
checked_once __u32 request_at(struct __sk_buff *skb, __u32 at)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	struct talk *talk = sk ? socket_lookup(talks, sk) : NULL;
	struct api_path_key key = {.prefix_bits = 32 + 8 * PATH_LEN};
	bounded last = skb->len - at - 1;
	__u32 length, method, phase;
	const __u32 *found;
	__u64 text;

	if (!talk || !state || at >= skb->len || bpf_skb_load_bytes(skb, at, &text, sizeof(text)))
		return 0;
	text = bpf_be64_to_cpu(text);
	method = method_of(text);
	if (!method)
		return 0;
	if (last >= PATH_LEN)
		last = PATH_LEN - 1;
	asm volatile("" : "+r"(last)); /* see ask_name() */
	if (last >= PATH_LEN || bpf_skb_load_bytes(skb, at, key.text, last + 1))
		return 0;
	key.target = state->target;
	found = map_lookup(api_paths, &key);
	phase = found ? *found : PHASE_IDLE;
	if (!ask(talk, state->target, phase, text >> 24 == TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0) >> 24,
		 state->flags & SOCKET_INNER))
		return 0;
	length = cut_line(key.text, method);
	if (!(state->flags & SOCKET_INNER))
		tell_request(skb, state, key.text, length, phase);
	return method;
}

/* Offset of a TCP packet's data, and its sequence number; 0: it has none. */
static __always_inline __u32 data_of(struct __sk_buff *skb, __u32 *sequence)
{
	__u32 header = transport_header(skb), offset = header & 0xffff;
	__be32 number;

	if (!header || skb->len <= offset || !load(skb, transport_at(header) + 4, &number))
		return 0;
	*sequence = bpf_ntohl(number);
	return offset;
}

/*
 * Data from the client. A request may begin where the last one's body ends; where that is not known
 * (chunked, a head in two packets, a packet out of order), with the first data after the response.
 */
static __always_inline void hear(struct __sk_buff *skb, struct talk *talk)
{
	__u32 sequence = 0, at = data_of(skb, &sequence), start = at;
	__s32 old = talk->hears ? (__s32)(talk->heard_to - sequence) : 0;

	if (!at || old >= (__s32)(skb->len - at))
		return;
	if (talk->waiting && (old < 0 || !talk->exact))
		return;
	if (old > 0)
		at += old;
	for (int i = 0; i < TALK_ROUNDS; i++) {
		if (at >= skb->len || !request_at(skb, at))
			return;
		begin_message(&talk->messages[HEARD]);
		at = read_head(skb, at, HEARD);
		talk->hears = 1;
		talk->exact = talk->messages[HEARD].ended && !talk->messages[HEARD].chunked &&
			      talk->messages[HEARD].left < BODY_MAX;
		if (talk->exact)
			at += talk->messages[HEARD].left;
		else
			at = skb->len;
		talk->heard_to = sequence + (at - start);
	}
}

static __always_inline bool has_status(const struct message *head, char a, char b, char c)
{
	return head->status == ((__u32)a << 16 | (__u32)b << 8 | c);
}

/* The head has been read: how will the message end? */
static __always_inline void end_head(struct talk *talk, struct message *head)
{
	bool bodiless = talk->asked[talk->first & (TALK_DEPTH - 1)].head_only ||
			has_status(head, '2', '0', '4') || has_status(head, '3', '0', '4');

	if (head->alien || (head->status >> 16 == '1' && !has_status(head, '1', '0', '1'))) {
		begin_message(head); /* RFC 9110 15.2: the response is still to come */
		return;
	}
	if (bodiless)
		head->left = 0;
	if (bodiless || (head->has_length && !head->chunked))
		head->ending = END_LENGTH;
	else
		head->ending = head->chunked ? END_CHUNKED : END_CLOSE;
}

/* The last bytes of a chunked body so far: does the packet end with the chunk that ends it? */
static __always_inline bool last_chunk(struct __sk_buff *skb, struct message *body, __u32 at)
{
	__u32 length = skb->len - at;
	__u64 tail;
	__u8 byte;

	if (length >= sizeof(tail)) {
		if (bpf_skb_load_bytes(skb, skb->len - sizeof(tail), &tail, sizeof(tail)))
			return false;
		body->window = bpf_be64_to_cpu(tail);
	} else {
		for (__u32 i = 0; i < sizeof(tail) - 1; i++) {
			asm volatile("" : "+r"(i)); /* else the compiler counts down from `length` */
			if (i >= length || bpf_skb_load_bytes(skb, at + i, &byte, 1))
				break;
			body->window = body->window << 8 | byte;
		}
	}
	return body->window << 8 == TEXT('\r', '\n', '0', '\r', '\n', '\r', '\n', 0);
}

/* A part of a response; returns the offset behind it. */
static __always_inline __u32 say_part(struct __sk_buff *skb, struct talk *talk,
				      const struct socket_state *state, __u32 at)
{
	struct message *said = &talk->messages[SAID];
	__u32 rest;
	bool done = false;

	if (said->ending == END_HEAD) {
		at = read_head(skb, at, SAID);
		if (!said->ended || said->alien)
			at = skb->len; /* goes on in the next packet; or is the rest of an answer to nobody
					  known */
		if (said->ended)
			end_head(talk, said);
	}
	rest = skb->len - at;
	if (said->ending == END_HEAD)
		return at;
	if (said->ending == END_LENGTH) {
		if (said->left < rest)
			rest = said->left;
		said->left -= rest;
		at += rest;
		done = !said->left;
	} else {
		done = said->ending == END_CHUNKED && at < skb->len && last_chunk(skb, said, at);
		at = skb->len;
	}
	if (!done)
		return at;
	begin_message(said);
	over(talk, state, bpf_get_socket_cookie(skb));
	return at;
}

/* Data to the client. First transmissions are in order; what was sent before is skipped. */
static __always_inline void say(struct __sk_buff *skb, const struct socket_state *state, struct talk *talk)
{
	__u32 sequence = 0, at = data_of(skb, &sequence), length = skb->len - at;
	__s32 old = talk->says ? (__s32)(talk->said_to - sequence) : 0;

	if (!at || old >= (__s32)length)
		return;
	talk->said_to = sequence + length;
	talk->says = 1;
	if (old > 0)
		at += old;
	for (int i = 0; i < TALK_ROUNDS; i++) {
		if (at >= skb->len || !talk->waiting)
			return;
		at = say_part(skb, talk, state, at);
	}
}

/* A packet to, or from, a target whose API is known, on a connection that it has accepted. */
static __noinline void listen_in(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct talk *talk = whole ? socket_create(talks, whole) : NULL;

	if (talk)
		hear(skb, talk);
	else
		lost(LOSS_STORAGE_REFUSED);
}

static __noinline void listen_out(struct __sk_buff *skb, const struct socket_state *state)
{
	struct bpf_sock *sk = skb->sk;
	struct talk *talk = sk ? socket_lookup(talks, sk) : NULL;

	if (talk)
		say(skb, state, talk);
}

/* close() of a connection whose states are not told (it was open before us). */
static __noinline void stop_listening_in(struct bpf_sock *sk, const struct socket_state *state)
{
	struct talk *talk = socket_lookup(talks, sk);

	if (talk)
		hang_up(talk, state, bpf_get_socket_cookie(sk));
}

#endif /* TATTLE_HTTP_BPF_H */
