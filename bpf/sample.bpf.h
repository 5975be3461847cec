/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Copies of the few packets that tell names: DNS, and what a client says first (a TLS ClientHello, the
 * head of an HTTP request, a QUIC Initial). The rest of a transfer is never looked at again.
 *
 * A sample costs a label when it is lost, never a verdict: rules by name are judged in name_rules.bpf.h.
 */
#ifndef TATTLE_SAMPLE_BPF_H
#define TATTLE_SAMPLE_BPF_H

#include "socket.bpf.h"

enum {
	TLS_HANDSHAKE = 22, /* RFC 8446 5.1, ContentType */
	TLS_RECORD = 5,	    /* bytes of a record's header */
	TLS_MESSAGE = 4,    /* and of a handshake message's */
	TLS_RECORDS = 8,    /* room for headers of further records of a hello in several */
	HELLO_LONG = 16384, /* bytes of a hello that are copied */
};

struct short_sample {
	struct sample head;
	__u8 data[SAMPLE_SHORT];
};

struct long_sample {
	struct sample head;
	__u8 data[SAMPLE_LONG];
};

/* What a sample says beside its data. */
struct sampled {
	const struct socket_state *state;
	const struct peer *peer; /* NULL: the state's own */
	__u32 offset;		 /* of the payload */
	__u32 sequence;
	enum sample_kind kind;
	enum verdict verdict;
	bool out;
};

static __always_inline void sample_head(struct __sk_buff *skb, struct sample *head,
					const struct sampled *what)
{
	const struct socket_state *state = what->state;

	*head = (struct sample){};
	head->time_ns = bpf_ktime_get_boot_ns();
	head->process = state->flow.process;
	head->socket = bpf_get_socket_cookie(skb);
	__builtin_memcpy(head->remote, what->peer ? what->peer->remote.bytes : state->flow.remote,
			 ADDRESS_LEN);
	head->remote_port = what->peer ? what->peer->port : state->flow.remote_port;
	head->proto = what->peer ? what->peer->proto : state->flow.proto;
	head->sequence = what->sequence;
	head->payload = skb->len - what->offset;
	head->kind = what->kind;
	head->direction = state->flow.direction;
	head->phase = state->flow.phase;
	head->outgoing = what->out;
	head->verdict = what->verdict;
}

static __always_inline void sample_send(void *record)
{
	const struct settings *now = setting();
	bool wake = now && ring_filled(samples) >= now->wake_bytes;

	bpf_ringbuf_submit(record, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* Copy up to `room` bytes of payload; the comparisons are for the verifier. */
#define sample_of(type, room, skb, what)                                                        \
	({                                                                                      \
		struct type *_sample = ring_reserve(samples, sizeof(*_sample));                 \
		bounded _last = (skb)->len - (what)->offset - 1;                                \
		if (!_sample) {                                                                 \
			lost(LOSS_SAMPLES_FULL);                                                \
		} else {                                                                        \
			sample_head(skb, &_sample->head, what);                                 \
			if (_last >= room)                                                      \
				_last = room - 1;                                               \
			asm volatile("" : "+r"(_last));                                         \
			if (_last < room &&                                                     \
			    !bpf_skb_load_bytes(skb, (what)->offset, _sample->data, _last + 1)) \
				_sample->head.length = _last + 1;                               \
			sample_send(_sample);                                                   \
		}                                                                               \
	})

static __always_inline void take_sample(struct __sk_buff *skb, const struct sampled *what)
{
	if (skb->len - what->offset <= SAMPLE_SHORT)
		sample_of(short_sample, SAMPLE_SHORT, skb, what);
	else
		sample_of(long_sample, SAMPLE_LONG, skb, what);
}

/*
 * A message of DNS has one question (RFC 9619). What else goes to port 53 by UDP may come in floods, and
 * tells no name. Of TCP a packet may be any part of one.
 */
static __always_inline bool may_be_dns(struct __sk_buff *skb, __u8 proto, __u32 offset)
{
	__be16 questions;

	return proto == PROTO_TCP ||
	       (!bpf_skb_load_bytes(skb, offset + 4, &questions, sizeof(questions)) && /* RFC 1035 4.1.1 */
		questions == bpf_htons(1));
}

/* A DNS message, or what claims to be one. `peer` NULL: the socket has one peer. */
static __noinline void sample_dns(struct __sk_buff *skb, const struct socket_state *state,
				  const struct peer *peer, bool out, enum verdict verdict)
{
	__u32 header = transport_header(skb);
	struct sampled what = {
		.state = state,
		.peer = peer,
		.offset = header & 0xffff,
		.kind = SAMPLE_DNS,
		.verdict = verdict,
		.out = out,
	};
	__be32 sequence;

	if (!header || skb->len <= what.offset ||
	    !may_be_dns(skb, peer ? peer->proto : state->flow.proto, what.offset))
		return;
	if (state->flow.proto == PROTO_TCP && load(skb, transport_at(header) + 4, &sequence))
		what.sequence = bpf_ntohl(sequence);
	take_sample(skb, &what);
}

/* How a TLS stream begins; RFC 8446 5.1 and 4. */
struct tls_start {
	__u8 type;
	__u8 version[2];
	__be16 record_length;
	__u8 message;
	__u8 message_length[3];
} __attribute__((packed));

/* Bytes of the hello that are not in this packet; if its beginning does not tell, as many as there may be. */
static __always_inline __u32 hello_missing(struct __sk_buff *skb, __u32 offset, __u32 payload)
{
	struct tls_start start = {};
	__u32 whole;

	if (payload < sizeof(start) || bpf_skb_load_bytes(skb, offset, &start, sizeof(start)))
		return HELLO_LONG;
	whole = TLS_RECORD + TLS_MESSAGE + (start.message_length[1] << 8 | start.message_length[2]);
	if (whole > TLS_RECORD + (__u32)bpf_ntohs(start.record_length))
		whole += TLS_RECORDS * TLS_RECORD;
	if (whole > HELLO_LONG)
		whole = HELLO_LONG;
	return whole > payload ? whole - payload : 0;
}

/* A packet that is longer than a sample is copied in several. */
static __always_inline void take_samples(struct __sk_buff *skb, struct sampled *what)
{
	for (int i = 0; i < HELLO_LONG / SAMPLE_LONG; i++) {
		take_sample(skb, what);
		if (skb->len - what->offset <= SAMPLE_LONG)
			return;
		what->offset += SAMPLE_LONG;
		what->sequence += SAMPLE_LONG;
	}
}

/*
 * The first packets with data that a client sends. Until a hello has begun only a byte is looked at: a
 * proxy is spoken to in its own protocol first. The first words of all are copied, whatever they are.
 */
static __noinline void sample_hello(struct __sk_buff *skb, struct socket_state *state, enum verdict verdict)
{
	__u32 header = transport_header(skb);
	struct sampled what = {
		.state = state,
		.offset = header & 0xffff,
		.kind = SAMPLE_HELLO,
		.verdict = verdict,
		.out = true,
	};
	bool datagrams = state->flow.proto == PROTO_UDP, hello;
	__u32 payload = skb->len - what.offset;
	__be32 sequence;
	__u8 first;

	if (!header || skb->len <= what.offset || bpf_skb_load_bytes(skb, what.offset, &first, 1))
		return;
	state->hello_seen++;
	hello = !datagrams && (state->hello_left || first == TLS_HANDSHAKE);
	if (state->hello_seen >= (datagrams ? HELLO_DATAGRAMS : hello ? HELLO_PIECES : HELLO_PACKETS))
		state->care &= ~CARE_HELLO;
	if (!hello && !datagrams && state->hello_seen > 1)
		return;
	if (state->hello_left)
		state->hello_left = state->hello_left > payload ? state->hello_left - payload : 0;
	else if (hello)
		state->hello_left = hello_missing(skb, what.offset, payload);
	if (hello && !state->hello_left)
		state->care &= ~CARE_HELLO;
	if (state->flow.proto == PROTO_TCP && load(skb, transport_at(header) + 4, &sequence))
		what.sequence = bpf_ntohl(sequence);
	if (hello)
		take_samples(skb, &what);
	else
		take_sample(skb, &what);
}

/* The first datagrams of a socket that names its peer with each. */
static __noinline void sample_datagram(struct __sk_buff *skb, const struct socket_state *state,
				       const struct peer *peer)
{
	__u32 header = transport_header(skb);
	struct sampled what = {
		.state = state,
		.peer = peer,
		.offset = header & 0xffff,
		.kind = SAMPLE_HELLO,
		.out = true,
	};

	if (header && skb->len > what.offset)
		take_sample(skb, &what);
}

#endif /* TATTLE_SAMPLE_BPF_H */
