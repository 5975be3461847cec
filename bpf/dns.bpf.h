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

/* RFC 1035 4.1.1 */
struct dns_header {
	__be16 id, flags, questions, answers, authorities, additionals;
};

/* RFC 1035 4.1.2, behind the name */
struct dns_question {
	__be16 type, class;
};

/* RFC 1035 4.1.3, behind the name */
struct dns_record {
	__be16 type, class;
	__be32 ttl;
	__be16 length;
} __attribute__((packed));

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
	DNS_ANSWERS = 32,   /* records that are read */
	DNS_TAIL = 11 + 44, /* behind a question: EDNS (RFC 6891 6.1.2) with a cookie (RFC 7873 4), no more */
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
		__u8 length;

		if (bpf_skb_load_bytes(skb, offset, &length, 1) || length > DNS_LABEL)
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
		__u8 length;

		if (bpf_skb_load_bytes(skb, offset, &length, 1))
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
		__u8 length;

		if (bpf_skb_load_bytes(skb, offset, &length, 1))
			break;
		offset += length + 1;
		if (!length || offset + 1 >= end)
			break;
		found = stronger(found, ask_name(skb, policy, NAME_WIRE_BELOW, offset, end - offset));
	}
	return found;
}

/* Where the message starts: behind its length (RFC 1035 4.2.2) for TCP, which must be all that is there. */
static __always_inline __u32 dns_start(struct __sk_buff *skb, __u8 proto)
{
	__u32 start = transport_header(skb) & 0xffff;
	__be16 length;

	if (!start || proto != PROTO_TCP)
		return start;
	if (bpf_skb_load_bytes(skb, start, &length, sizeof(length)) ||
	    skb->len != start + sizeof(length) + bpf_ntohs(length))
		return 0;
	return start + sizeof(length);
}

/* A message with one question; `end` is behind it. False: it is none. */
struct dns_message {
	struct dns_header header;
	struct dns_question question;
	__u32 end;
	__u64 found;
};

static __always_inline bool read_message(struct __sk_buff *skb, __u32 policy, __u32 start,
					 struct dns_message *message)
{
	__u32 name = start + sizeof(message->header);

	if (!start || bpf_skb_load_bytes(skb, start, &message->header, sizeof(message->header)) ||
	    message->header.questions != bpf_htons(1))
		return false;
	message->end = name_end(skb, name);
	if (!message->end ||
	    bpf_skb_load_bytes(skb, message->end, &message->question, sizeof(message->question)) ||
	    message->question.class != bpf_htons(DNS_IN))
		return false;
	message->found = ask_wire(skb, policy, name, message->end);
	message->end += sizeof(message->question);
	return true;
}

static __always_inline bool is_address_type(__be16 type)
{
	return type == bpf_htons(DNS_A) || type == bpf_htons(DNS_AAAA);
}

/* A plain question, and nothing with it that could carry data out. */
static __always_inline bool is_plain_query(struct __sk_buff *skb, const struct dns_message *message)
{
	return !(message->header.flags & bpf_htons(DNS_RESPONSE | DNS_OPCODE)) && !message->header.answers &&
	       !message->header.authorities && bpf_ntohs(message->header.additionals) <= 1 &&
	       is_address_type(message->question.type) && skb->len - message->end <= DNS_TAIL;
}

/* Remember the question: only its answer will be believed. */
static __always_inline void note_query(struct __sk_buff *skb, const struct dns_message *message,
				       const union address *resolver)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct lookups *known = whole ? socket_create(lookups, whole) : NULL;
	struct lookup *one;

	if (!known)
		return;
	one = &known->asked[known->next++ & (LOOKUPS - 1)];
	one->name = 0;
	__builtin_memcpy(one->resolver, resolver, ADDRESS_LEN);
	one->asked_ns = coarse_now();
	one->id = message->header.id;
	one->type = message->question.type;
	one->name = message->found;
}

/* May this question leave? `said` is what the rules by address say of the resolver. */
static __noinline bool query_allowed(struct __sk_buff *skb, const struct policy *policy,
				     const union address *resolver, __u8 proto, __u64 said)
{
	bool open = verdict_of(said) == VERDICT_ALLOWED && !(said & ASK_NAME);
	struct dns_message message = {};
	__u32 spoken;

	if (!read_message(skb, policy->number, dns_start(skb, proto), &message))
		return open && !(policy->names & NAMES_DENIED);
	spoken = message.found >> 32;
	if (spoken & NAME_DENIED)
		return false;
	if (!(spoken & NAME_SPOKEN))
		return open;
	if (!open && !is_plain_query(skb, &message))
		return false;
	note_query(skb, &message, resolver);
	return true;
}

/* A packet to port 53 of a target with rules by name. */
static __noinline bool query_passes(struct __sk_buff *skb, const struct socket_state *state,
				    const struct policy *policy, const struct peer *peer)
{
	struct flow_key key;
	struct peer asked;
	__u64 said;

	resolver_asked(state, peer, &asked);
	said = judge(state->policed, &asked);
	if (query_allowed(skb, policy, &asked.remote, asked.proto, said))
		return true;
	flow_key_of(&key, state->flow.process, state->flow.phase, &asked);
	denied(&key, policy, verdict_of(said) == VERDICT_DENIED ? said : 0,
	       peer->proto == PROTO_TCP ? DENIED_PACKET : DENIED_CALL | DENIED_PACKET);
	return policy->mode == POLICY_AUDIT;
}

/* The source port of a packet that leaves: a target may not answer for a resolver. */
static __always_inline bool from_dns_port(struct __sk_buff *skb, __u8 proto)
{
	__be16 source;

	return has_ports(proto) && load(skb, transport_at(transport_header(skb)), &source) &&
	       source == bpf_htons(DNS_PORT);
}

static __always_inline __u32 open_until(__be32 ttl)
{
	__u32 seconds = bpf_ntohl(ttl);

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
	union address address = {};
	struct dns_record record;
	__be32 ip;

	if (bpf_skb_load_bytes(skb, offset, &record, sizeof(record)) || record.class != bpf_htons(DNS_IN))
		return 0;
	offset += sizeof(record);
	if (record.type == bpf_htons(DNS_A) && record.length == bpf_htons(4)) {
		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
			return 0;
		from_ipv4(&address, ip);
	} else if (record.type == bpf_htons(DNS_AAAA) && record.length == bpf_htons(ADDRESS_LEN)) {
		if (bpf_skb_load_bytes(skb, offset, &address, sizeof(address)))
			return 0;
	} else {
		return 0;
	}
	if (may_open(&address, target_lan & 1))
		open_address(target_lan >> 1, address.halves[0], address.halves[1], name,
			     open_until(record.ttl));
	return 0;
}

static __always_inline bool same_lookup(const struct lookup *asked, const struct dns_message *message,
					const union address *resolver)
{
	return asked->name == (__u32)message->found && asked->id == message->header.id &&
	       asked->type == message->question.type && same_address(asked->resolver, resolver) &&
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

/* An answer that comes to a target with rules by name: what it names is open from now on. */
static __noinline void read_answer(struct __sk_buff *skb, const struct socket_state *state,
				   const union address *resolver)
{
	const struct policy *policy = policy_of(state->policed);
	struct dns_message message = {};
	__u32 at, name, target_lan;

	if (!policy || !read_message(skb, policy->number, dns_start(skb, state->flow.proto), &message) ||
	    !(message.found >> 32 & NAME_SPOKEN) || message.found >> 32 & NAME_DENIED ||
	    (message.header.flags & bpf_htons(DNS_RESPONSE | DNS_OPCODE | DNS_TRUNCATED | DNS_FAILED)) !=
		    bpf_htons(DNS_RESPONSE) ||
	    !was_asked(skb, &message, resolver))
		return;
	name = message.found;
	target_lan = state->policed << 1 | name_opens_lan(policy->number, name);
	at = message.end;
	for (int i = 0; i < DNS_ANSWERS && i < bpf_ntohs(message.header.answers); i++) {
		__be16 length;

		at = skip_name(skb, at);
		if (!at)
			return;
		open_record(skb, target_lan, name, at);
		if (bpf_skb_load_bytes(skb, at + sizeof(struct dns_record) - sizeof(length), &length,
				       sizeof(length)))
			return;
		at += sizeof(struct dns_record) + bpf_ntohs(length);
	}
}

#endif /* TATTLE_DNS_BPF_H */
