/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * DNS over TCP (RFC 1035 4.2.2, RFC 7766) of a target that has rules by name: each message behind its length,
 * several in a packet, or one in several. What leaves is read query by query; what comes is read in order.
 */
#ifndef TATTLE_DNS_TCP_BPF_H
#define TATTLE_DNS_TCP_BPF_H

#include "dns.bpf.h"

enum { UNREADABLE = ~0U }; /* reading.skip: nothing more of this stream is read */

/* Where a message stands (in the packet or in `pieces`), and where reading goes on behind it. */
struct place {
	__u32 start, stop, next; /* start 0: it is not whole yet */
};

/* Where reading goes on, and whether what has been read may leave. */
static __always_inline __u64 step(enum passage passage, __u32 at)
{
	return (__u64)passage << 32 | at;
}

/* What follows of a query that has begun to leave. False: no query is so long. */
static __noinline bool rest_of_query(struct __sk_buff *skb, struct pieces *kept, __u32 at,
				     struct place *query)
{
	__u32 before = kept->left, copied = copy_piece(skb, at, skb->len - at, before);
	__u64 length;

	kept->left = before + copied;
	query->next = at + copied;
	length = word_at(skb, IN_PIECES, DNS_LENGTH);
	if (!copied || (length < UNREAD && length > DNS_QUERY))
		return false;
	if (length >= UNREAD || DNS_LENGTH + length > kept->left)
		return true;
	query->start = IN_PIECES + DNS_LENGTH;
	query->stop = query->start + length;
	query->next = at + DNS_LENGTH + length - before;
	return true;
}

/* Find the query that begins in this packet. False: its end is not here, and no plain query is so long. */
static __always_inline bool next_query(struct __sk_buff *skb, __u32 at, struct place *query)
{
	__u64 length = word_at(skb, at, DNS_LENGTH);

	query->next = skb->len;
	if (length >= UNREAD)
		return true;
	if (at + DNS_LENGTH + length > skb->len)
		return length <= DNS_QUERY;
	query->start = at + DNS_LENGTH;
	query->stop = query->next = query->start + length;
	return true;
}

/* The end of this packet is the beginning of a query: keep it, if waiting for the rest does not help. */
static __noinline enum passage keep_query(struct __sk_buff *skb, const struct policy *policy,
					  struct pieces *kept, __u32 at)
{
	__u32 size = skb->len - at;

	if (!waits_no_more(skb, policy))
		return PASSAGE_HELD;
	if (kept && kept->left)
		return PASSAGE_YES;
	kept = pieces_new(skb);
	if (!kept || !copy_pieces(skb, at, size, 0))
		return PASSAGE_NO;
	kept->left = size;
	return PASSAGE_YES;
}

static __always_inline bool is_allowed(struct __sk_buff *skb, const struct socket_state *state,
				       const struct policy *policy, const struct place *query)
{
	struct peer resolver = {.port = state->flow.remote_port, .proto = PROTO_TCP};
	__u64 said;

	__builtin_memcpy(&resolver.remote, state->flow.remote, ADDRESS_LEN);
	said = judge_asked(state, &resolver);
	return query_allowed(skb, policy, &resolver.remote, (__u64)query->start << 32 | query->stop, said);
}

/* One query that leaves, or a part of one. */
checked_once __u64 read_query(struct __sk_buff *skb, __u32 at)
{
	struct bpf_sock *sk = skb->sk;
	const struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	const struct policy *policy = state ? policy_of(state->named) : NULL;
	struct pieces *kept = pieces_of(skb);
	struct place query = {};
	bool waits = kept && kept->left;
	bool allowed;

	if (!policy || !(waits ? rest_of_query(skb, kept, at, &query) : next_query(skb, at, &query)))
		return step(PASSAGE_NO, at);
	if (!query.start)
		return step(keep_query(skb, policy, kept, at), query.next);
	allowed = is_allowed(skb, state, policy, &query);
	if (waits)
		kept->left = 0;
	return step(allowed ? PASSAGE_YES : PASSAGE_NO, query.next);
}

/* All queries from `at` to the packet's end. */
checked_once __u32 read_queries(struct __sk_buff *skb, __u32 at)
{
	for (int i = 0; i < DNS_MESSAGES; i++) {
		__u64 now = read_query(skb, at);

		if (now >> 32 != PASSAGE_YES)
			return now >> 32;
		at = now;
		if (at >= skb->len)
			return PASSAGE_YES;
	}
	return PASSAGE_NO;
}

/* A held packet comes again as it is now: what waits of the query before is as it was. */
static __always_inline enum passage read_new_queries(struct __sk_buff *skb, __u32 at)
{
	struct pieces *kept = pieces_of(skb);
	__u32 before = kept ? kept->left : 0;
	enum passage passage = read_queries(skb, at);

	kept = pieces_of(skb);
	if (passage != PASSAGE_YES && kept)
		kept->left = passage == PASSAGE_HELD ? before : 0;
	return passage;
}

/* A stream to a resolver is denied. In a function of its own: its stack is not that of what reads queries. */
static __noinline void stream_denied(struct socket_state *state, const struct policy *policy)
{
	struct peer resolver = {.port = state->flow.remote_port, .proto = PROTO_TCP};

	__builtin_memcpy(&resolver.remote, state->flow.remote, ADDRESS_LEN);
	query_denied(state, policy, &resolver, judge_asked(state, &resolver));
}

/* Data that leaves for a resolver. */
static __noinline enum passage queries_pass(struct __sk_buff *skb, struct socket_state *state,
					    const struct policy *policy)
{
	__u32 header = transport_header(skb), offset = header & 0xffff, size = skb->len - offset, sequence;
	struct lookups *known = lookups_new(skb);
	enum passage passage = PASSAGE_NO;
	__u32 noted = known ? known->next : 0;
	__s32 left;

	if (!known || !read_sequence(skb, header, &sequence))
		return policy->mode == POLICY_AUDIT ? PASSAGE_YES : PASSAGE_NO;
	left = known->said.begun ? until(sequence, known->said.next) : 0;
	if (left >= (__s32)size) /* sent again */
		return PASSAGE_YES;
	if (left >= 0)
		passage = read_new_queries(skb, offset + left);
	if (passage == PASSAGE_HELD) {
		known->next = noted; /* its queries will be noted again */
		return PASSAGE_HELD;
	}
	known->said.begun = 1;
	known->said.next = sequence + size;
	if (passage == PASSAGE_YES)
		return PASSAGE_YES;
	stream_denied(state, policy);
	if (policy->mode == POLICY_AUDIT)
		return PASSAGE_YES;
	state->verdict = VERDICT_DENIED;
	return PASSAGE_NO;
}

/* What follows of an answer that has begun to come. */
static __noinline void rest_of_answer(struct __sk_buff *skb, struct reading *heard, struct pieces *kept,
				      __u32 at, struct place *answer)
{
	__u32 before = kept->came, copied = copy_piece(skb, at, skb->len - at, PIECES_CAME + before);
	__u64 length;

	kept->came = before + copied;
	length = word_at(skb, IN_PIECES + PIECES_CAME, DNS_LENGTH);
	answer->next = copied ? at + copied : skb->len;
	if (!copied)
		heard->skip = UNREADABLE;
	else if (length < UNREAD && DNS_LENGTH + length <= kept->came) {
		answer->start = IN_PIECES + PIECES_CAME + DNS_LENGTH;
		answer->stop = answer->start + length;
		answer->next = at + DNS_LENGTH + length - before;
	}
}

/* An answer that begins in this packet and does not end in it; one that is too long is passed over. */
static __noinline void begin_answer(struct __sk_buff *skb, struct reading *heard, __u32 at, __u64 length)
{
	__u32 size = skb->len - at;
	struct pieces *kept = NULL;

	if (length >= UNREAD || DNS_LENGTH + length <= PIECES_CAME)
		kept = pieces_new(skb);
	if (kept && copy_pieces(skb, at, size, PIECES_CAME))
		kept->came = size;
	else
		heard->skip = length < UNREAD ? DNS_LENGTH + length - size : UNREADABLE;
}

static __always_inline void next_answer(struct __sk_buff *skb, struct reading *heard, __u32 at,
					struct place *answer)
{
	__u64 length = word_at(skb, at, DNS_LENGTH);

	answer->next = skb->len;
	if (length >= UNREAD || at + DNS_LENGTH + length > skb->len) {
		begin_answer(skb, heard, at, length);
		return;
	}
	answer->start = at + DNS_LENGTH;
	answer->stop = answer->next = answer->start + length;
}

/* One answer that comes, or a part of one; returns where the next begins. */
checked_once __u32 read_reply(struct __sk_buff *skb, __u32 at)
{
	struct bpf_sock *sk = skb->sk;
	const struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	struct lookups *known = state ? socket_lookup(lookups, sk) : NULL;
	struct pieces *kept = pieces_of(skb);
	__u32 size = skb->len - at, skip;
	bool waits = kept && kept->came;
	struct place answer = {};

	if (!known || known->heard.skip == UNREADABLE)
		return skb->len;
	skip = known->heard.skip < size ? known->heard.skip : size;
	if (skip) {
		known->heard.skip -= skip;
		return at + skip;
	}
	if (waits)
		rest_of_answer(skb, &known->heard, kept, at, &answer);
	else
		next_answer(skb, &known->heard, at, &answer);
	if (!answer.start)
		return answer.next;
	read_answer(skb, state, (const void *)state->flow.remote, answer.start, answer.stop);
	if (waits)
		kept->came = 0;
	return answer.next;
}

checked_once int read_replies(struct __sk_buff *skb, __u32 at)
{
	for (int i = 0; i < DNS_MESSAGES && at < skb->len; i++)
		at = read_reply(skb, at);
	return at >= skb->len;
}

/* The first data of a resolver's: is this it? */
static __always_inline bool begins_here(struct __sk_buff *skb, __u32 sequence)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct bpf_tcp_sock *tcp = whole ? bpf_tcp_sock(whole) : NULL;

	return tcp && tcp->rcv_nxt == sequence;
}

/* Data that comes from a resolver. False: it comes before its time, TCP shall send it again. */
static __always_inline bool replies_pass(struct __sk_buff *skb)
{
	__u32 header = transport_header(skb), offset = header & 0xffff, size = skb->len - offset, sequence;
	struct bpf_sock *sk = skb->sk;
	struct lookups *known = sk ? socket_lookup(lookups, sk) : NULL;
	__s32 came;

	if (!known || !read_sequence(skb, header, &sequence))
		return true;
	if (!known->heard.begun && !begins_here(skb, sequence))
		return false;
	came = known->heard.begun ? until(sequence, known->heard.next) : 0;
	if (came < 0)
		return false;
	if (came >= (__s32)size)
		return true;
	known->heard.begun = 1;
	known->heard.next = sequence + size;
	if (!read_replies(skb, offset + came))
		known->heard.skip = UNREADABLE;
	return true;
}

#endif /* TATTLE_DNS_TCP_BPF_H */
