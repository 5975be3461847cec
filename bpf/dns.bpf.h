/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * DNS of a target that has rules by name. A question leaves if a rule allows its name, and nothing else
 * with it. An answer is read before the program can: when it connects, the address is open already.
 *
 * What cannot be read opens nothing and, where names are denied, does not leave.
 */
#ifndef TATTLE_DNS_BPF_H
#define TATTLE_DNS_BPF_H

#include "policy.bpf.h"
#include "sample.bpf.h"

enum {
	DNS_RESPONSE = 0x8000,
	DNS_OPCODE = 0x7800,
	DNS_TRUNCATED = 0x0200,
	DNS_FAILED = 0x000f, /* RCODE */
	DNS_POINTER = 0xc0,  /* RFC 1035 4.1.4 */
	DNS_LABEL = 63,
	DNS_A = 1,
	DNS_AAAA = 28, /* RFC 3596 2.1 */
	DNS_IN = 1,
	DNS_ANSWERS = 128,  /* records that are read */
	DNS_HEADER = 12,    /* RFC 1035 4.1.1 */
	DNS_RECORD = 10,    /* behind its name: type, class, time to live, length; RFC 1035 4.1.3 */
	DNS_TAIL = 11 + 44, /* behind a question: EDNS (RFC 6891 6.1.2) with a cookie (RFC 7873 4), no more */
	DNS_LENGTH = 2,	    /* in front of a message in TCP, RFC 1035 4.2.2 */
	DNS_QUERY = 512,    /* bytes of a query that comes in several packets; a plain one has fewer */
	DNS_MESSAGES = 512, /* that one packet may hold */
};

/* Is this packet for a resolver? Asked by what the program named, before any NAT. */
static __always_inline bool asks_names(const struct socket_state *state, const struct peer *peer)
{
	return peer->port == bpf_htons(DNS_PORT) ||
	       (state->mode == MODE_PER_PACKET && state->asked_port == bpf_htons(DNS_PORT));
}

/* The resolver that was asked: Docker's is reached by another port than 53. */
static __always_inline void resolver_asked(const struct socket_state *state, const struct peer *peer,
					   struct peer *asked)
{
	*asked = *peer;
	if (peer->port == bpf_htons(DNS_PORT))
		return;
	__builtin_memcpy(&asked->remote, state->asked, ADDRESS_LEN);
	asked->port = state->asked_port;
}

/* Also of what does not leave. */
static __noinline void sample_asked(struct __sk_buff *skb, const struct socket_state *state,
				    const struct peer *peer, bool out, enum verdict verdict)
{
	struct peer asked;

	resolver_asked(state, peer, &asked);
	sample_dns(skb, state, &asked, out, verdict);
}

/* Where a name without pointers ends; 0: it is none, or has too many labels. */
checked_once __u32 name_end(struct __sk_buff *skb, __u32 offset)
{
	for (int i = 0; i <= LABELS; i++) {
		__u64 length = word_at(skb, offset, 1);

		if (length > DNS_LABEL)
			return 0;
		offset += length + 1;
		if (!length)
			return offset;
	}
	return 0;
}

/* Behind a name, which may end in a pointer; 0: it is none. */
checked_once __u32 skip_name(struct __sk_buff *skb, __u32 offset)
{
	for (int i = 0; i <= LABELS; i++) {
		__u64 length = word_at(skb, offset, 1);

		if (length >= UNREAD)
			return 0;
		if ((length & DNS_POINTER) == DNS_POINTER)
			return offset + 2;
		offset += length + 1;
		if (!length || length > DNS_LABEL)
			return length ? 0 : offset;
	}
	return 0;
}

/* What the rules say of the name from `offset` to `end`, and of those above it. */
checked_once __u64 ask_wire(struct __sk_buff *skb, __u32 policy, __u32 offset, __u32 end)
{
	__u64 found = ask_name(skb, policy, NAME_WIRE, offset, end - offset);

	for (int i = 0; i < LABELS; i++) {
		__u64 length = word_at(skb, offset, 1);

		offset += length + 1;
		if (length >= UNREAD || !length || offset + 1 >= end)
			break;
		found = stronger(found, ask_name(skb, policy, NAME_WIRE_BELOW, offset, end - offset));
	}
	return found;
}

/* A message with one question, which ends at `end`; the message ends at `stop`. Numbers in host order. */
struct dns_message {
	__u64 found; /* what the rules say of its name */
	__u32 end, stop;
	__u16 id, flags, answers, type;
};

/* Is there at most EDNS behind the question? `counts`: of records; RFC 1035 4.1.1. */
static __always_inline bool has_no_records(__u64 answers, __u64 authorities_additionals)
{
	return !answers && authorities_additionals <= 1;
}

/* False: it is none, or no plain one of class IN. `plain` is set where nothing but a question is in it. */
static __always_inline bool read_message(struct __sk_buff *skb, const struct policy *policy, __u32 start,
					 struct dns_message *message, bool *plain)
{
	__u64 id_flags = word_at(skb, start, 4), counts = word_at(skb, start + 4, 4);
	__u64 question;

	message->end = name_end(skb, start + DNS_HEADER);
	question = word_at(skb, message->end, 4);
	if (id_flags >= UNREAD || counts >> 16 != 1 || !message->end || (question & 0xffff) != DNS_IN ||
	    message->end + 4 > message->stop)
		return false;
	message->found =
		held_in(ask_wire(skb, policy->number, start + DNS_HEADER, message->end), phases_for(policy));
	message->end += 4;
	message->id = id_flags >> 16;
	message->flags = id_flags;
	message->answers = counts;
	message->type = question >> 16;
	*plain = has_no_records(message->answers, word_at(skb, start + 8, 4));
	return true;
}

static __always_inline bool is_plain_query(const struct dns_message *message, bool plain)
{
	return plain && !(message->flags & (DNS_RESPONSE | DNS_OPCODE)) &&
	       (message->type == DNS_A || message->type == DNS_AAAA) &&
	       message->stop - message->end <= DNS_TAIL;
}

static __always_inline struct lookups *lookups_new(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;

	return whole ? socket_create(lookups, whole) : NULL;
}

/* Remember the question: only its answer will be believed. */
static __always_inline void note_query(struct __sk_buff *skb, const struct dns_message *message,
				       const union address *resolver)
{
	struct lookups *known = lookups_new(skb);
	struct lookup *one;

	if (!known)
		return;
	one = &known->asked[known->next++ & (LOOKUPS - 1)];
	one->name = 0;
	__builtin_memcpy(one->resolver, resolver, ADDRESS_LEN);
	one->asked_ns = coarse_now();
	one->id = message->id;
	one->type = message->type;
	one->name = message->found;
}

/*
 * May the query from `start` to `stop` leave? `said` is what the rules by address say of the resolver. The
 * name of a rule below a search domain (id 0) may be asked for, and its answer opens nothing.
 */
static __noinline bool query_allowed(struct __sk_buff *skb, const struct policy *policy,
				     const union address *resolver, __u64 start_stop, __u64 said)
{
	bool open = verdict_of(said) == VERDICT_ALLOWED && !(said & ASK_NAME), plain = false;
	struct dns_message message = {.stop = start_stop};
	__u32 spoken;

	if (!read_message(skb, policy, start_stop >> 32, &message, &plain))
		return open && !(policy->names & NAMES_DENIED);
	spoken = message.found >> 32;
	if (spoken & NAME_DENIED)
		return false;
	if (!(spoken & NAME_SPOKEN))
		return open;
	if (!open && !is_plain_query(&message, plain))
		return false;
	if ((__u32)message.found)
		note_query(skb, &message, resolver);
	return true;
}

/* Targets that share a socket with the one whose names are read: what they deny does not leave. */
static __always_inline __u64 judge_beside(const struct socket_state *state, const struct peer *asked)
{
	return judge_others((__u64)state->named << 32 | number_of(state->policed), asked->remote.halves[0],
			    asked->remote.halves[1], peer_word(asked));
}

static __always_inline __u64 judge_asked(const struct socket_state *state, const struct peer *asked)
{
	return judge_one(state->named, asked->remote.halves[0], asked->remote.halves[1], peer_word(asked));
}

static __noinline __attribute__((used)) void query_denied(const struct socket_state *state,
							  const struct policy *policy,
							  const struct peer *asked, __u64 said)
{
	struct flow_key key;

	flow_key_of(&key, state->flow.process, state->flow.phase, asked);
	denied(&key,
	       denied_by(state->named, policy, verdict_of(said) == VERDICT_DENIED ? said : VERDICT_DENIED),
	       asked->proto == PROTO_TCP ? DENIED_PACKET : DENIED_CALL | DENIED_PACKET);
}

/* A datagram to port 53 of a target with rules by name. */
static __noinline bool query_passes(struct __sk_buff *skb, const struct socket_state *state,
				    const struct policy *policy, const struct peer *peer)
{
	__u64 start = transport_header(skb) & 0xffff, said;
	struct peer asked;

	resolver_asked(state, peer, &asked);
	said = judge_asked(state, &asked);
	if (start && query_allowed(skb, policy, &asked.remote, start << 32 | skb->len, said))
		return true;
	query_denied(state, policy, &asked, said);
	return policy->mode == POLICY_AUDIT;
}

/* The source port of a packet that leaves: a target may not answer for a resolver. */
static __always_inline bool from_dns_port(struct __sk_buff *skb, __u8 proto)
{
	__be16 source;

	return has_ports(proto) && load(skb, transport_at(transport_header(skb)), &source) &&
	       source == bpf_htons(DNS_PORT);
}

static __always_inline __u32 open_until(__u32 ttl)
{
	__u32 seconds = ttl;

	if (seconds < OPEN_SECONDS)
		seconds = OPEN_SECONDS;
	return seconds_now() + (seconds < OPEN_SECONDS_MAX ? seconds : OPEN_SECONDS_MAX);
}

/* A name that comes from outside must not lead inside, unless its rule says so. */
static __always_inline bool may_open(const union address *address, bool lan)
{
	enum scope_index scope = scope_of(address);

	return scope == INTERNET || (scope == LAN && lan);
}

/* Take the address out of a record, if it has one. */
checked_once int open_record(struct __sk_buff *skb, __u32 target_lan, __u32 name, __u32 offset)
{
	__u64 type_class = word_at(skb, offset, 4), ttl = word_at(skb, offset + 4, 4);
	__u64 length = word_at(skb, offset + 8, 2), word;
	union address address = {};

	offset += DNS_RECORD;
	if (type_class == (DNS_A << 16 | DNS_IN) && length == 4) {
		word = word_at(skb, offset, 4);
		if (word >= UNREAD)
			return 0;
		from_ipv4(&address, bpf_htonl(word));
	} else if (type_class == (DNS_AAAA << 16 | DNS_IN) && length == ADDRESS_LEN) {
		for (int i = 0; i < 4; i++) {
			word = word_at(skb, offset + i * 4, 4);
			if (word >= UNREAD)
				return 0;
			address.words[i] = bpf_htonl(word);
		}
	} else {
		return 0;
	}
	if (may_open(&address, target_lan & 1))
		open_address(target_lan >> 1, address.halves[0], address.halves[1], name, open_until(ttl));
	return 0;
}

static __always_inline bool same_lookup(const struct lookup *asked, const struct dns_message *message,
					const union address *resolver)
{
	return asked->name == (__u32)message->found && asked->id == message->id &&
	       asked->type == message->type && same_address(asked->resolver, resolver) &&
	       coarse_now() - asked->asked_ns < LOOKUP_SECONDS * 1000000000ULL;
}

/* Was this asked, on this socket, of this resolver, a moment ago? Once answered, it was not. */
static __always_inline bool was_asked(struct __sk_buff *skb, const struct dns_message *message,
				      const union address *resolver)
{
	struct bpf_sock *sk = skb->sk;
	struct lookups *known = sk ? socket_lookup(lookups, sk) : NULL;

	for (int i = 0; known && i < LOOKUPS; i++) {
		if (known->asked[i].name && same_lookup(&known->asked[i], message, resolver)) {
			known->asked[i].name = 0;
			return true;
		}
	}
	return false;
}

/* What an answer names is open from now on. */
checked_once int open_answers(struct __sk_buff *skb, __u32 target_lan, __u32 name, __u64 at_stop,
			      __u32 answers)
{
	__u32 at = at_stop >> 32, stop = at_stop;

	for (int i = 0; i < DNS_ANSWERS; i++) {
		__u64 length;

		asm volatile("" : "+r"(answers)); /* keeps the two bounds apart, for the verifier */
		if (i >= answers)
			break;
		at = skip_name(skb, at);
		length = word_at(skb, at + DNS_RECORD - 2, 2);
		if (!at || at + DNS_RECORD + length > stop)
			return 0;
		open_record(skb, target_lan, name, at);
		at += DNS_RECORD + length;
	}
	return 0;
}

/* A message from `start` to `stop` that comes to a target with rules by name, if it is what was asked for. */
static __noinline void read_answer(struct __sk_buff *skb, const struct socket_state *state,
				   const union address *resolver, __u32 start, __u32 stop)
{
	const struct policy *policy = policy_of(state->named);
	struct dns_message message = {.stop = stop};
	__u32 name, target_lan;
	bool plain;

	if (!policy || !read_message(skb, policy, start, &message, &plain) ||
	    !(message.found >> 32 & NAME_SPOKEN) || message.found >> 32 & NAME_DENIED ||
	    (message.flags & (DNS_RESPONSE | DNS_OPCODE | DNS_TRUNCATED | DNS_FAILED)) != DNS_RESPONSE ||
	    !was_asked(skb, &message, resolver))
		return;
	name = message.found;
	target_lan = state->named << 1 | name_opens_lan(policy->number, name);
	open_answers(skb, target_lan, name, (__u64)message.end << 32 | stop, message.answers);
}

/* A datagram that comes from a resolver. */
static __always_inline void read_datagram(struct __sk_buff *skb, const struct socket_state *state,
					  const union address *resolver)
{
	__u32 start = transport_header(skb) & 0xffff;

	if (start)
		read_answer(skb, state, resolver, start, skb->len);
}

#endif /* TATTLE_DNS_BPF_H */
