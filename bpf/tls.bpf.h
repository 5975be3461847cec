/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One address serves many names. Where a rule by name has let a connection begin, the server's name in
 * the ClientHello (RFC 6066 3) is read before it leaves. It has to stand in the first packet with data;
 * what cannot be read is not allowed.
 */
#ifndef TATTLE_TLS_BPF_H
#define TATTLE_TLS_BPF_H

#include "policy.bpf.h"
#include "sample.bpf.h"

enum {
	TLS_CLIENT_HELLO = 1, /* RFC 8446 4 */
	TLS_VERSION_RANDOM = 34,
	TLS_SERVER_NAME = 0, /* RFC 6066 1.1 */
	TLS_EXTENSIONS = 32, /* that are searched */
	TLS_NAME_MAX = 255,
};

/* RFC 8446 4.2 */
struct tls_extension {
	__be16 type, length;
};

/* RFC 6066 3: a list with one name in it */
struct tls_server_name {
	__be16 list_length;
	__u8 type;
	__be16 length;
} __attribute__((packed));

/* How many bytes before the next dot, itself included; `length` if there is none. */
checked_once __u32 behind_dot(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	for (__u32 i = 0; i < TLS_NAME_MAX; i++) {
		__u8 letter;

		if (i >= length || bpf_skb_load_bytes(skb, offset + i, &letter, 1))
			break;
		if (letter == '.')
			return i + 1;
	}
	return length;
}

/* What the rules say of a name with dots, and of those above it. */
checked_once __u64 ask_text(struct __sk_buff *skb, __u32 policy, __u32 offset, __u32 length)
{
	__u64 found = ask_name(skb, policy, NAME_TEXT, offset, length);

	for (int i = 0; i < LABELS; i++) {
		__u32 step = behind_dot(skb, offset, length);

		if (step >= length)
			break;
		offset += step;
		length -= step;
		found = stronger(found, ask_name(skb, policy, NAME_TEXT_BELOW, offset, length));
	}
	return found;
}

/* Where the extensions of a ClientHello start; 0: this is none, or not whole. */
checked_once __u32 hello_extensions(struct __sk_buff *skb, __u32 offset)
{
	struct tls_start start;
	__be16 ciphers;
	__u8 length;

	if (bpf_skb_load_bytes(skb, offset, &start, sizeof(start)) || start.type != TLS_HANDSHAKE ||
	    start.message != TLS_CLIENT_HELLO)
		return 0;
	offset += sizeof(start) + TLS_VERSION_RANDOM;
	if (bpf_skb_load_bytes(skb, offset, &length, 1)) /* session id */
		return 0;
	offset += 1 + length;
	if (bpf_skb_load_bytes(skb, offset, &ciphers, sizeof(ciphers)))
		return 0;
	offset += sizeof(ciphers) + bpf_ntohs(ciphers);
	if (bpf_skb_load_bytes(skb, offset, &length, 1)) /* compression methods */
		return 0;
	return offset + 1 + length + sizeof(__be16);
}

/* What the rules say of the server's name; 0: there is none, or it cannot be read. */
checked_once __u64 ask_sni(struct __sk_buff *skb, __u32 policy, __u32 offset)
{
	offset = hello_extensions(skb, offset);
	if (!offset)
		return 0;
	for (int i = 0; i < TLS_EXTENSIONS; i++) {
		struct tls_server_name name;
		struct tls_extension one;

		if (bpf_skb_load_bytes(skb, offset, &one, sizeof(one)))
			return 0;
		offset += sizeof(one);
		if (one.type == bpf_htons(TLS_SERVER_NAME)) {
			if (bpf_skb_load_bytes(skb, offset, &name, sizeof(name)) || name.type)
				return 0;
			return ask_text(skb, policy, offset + sizeof(name), bpf_ntohs(name.length));
		}
		offset += bpf_ntohs(one.length);
	}
	return 0;
}

/* The server's name against the rules; it has to be allowed at this very port. */
static __always_inline bool name_allowed(struct __sk_buff *skb, struct socket_state *state,
					 const struct policy *policy, __u32 offset)
{
	__u64 found = ask_sni(skb, policy->number, offset);
	__u32 port_proto = (__u32)state->flow.remote_port << 16 | state->flow.proto;
	__u32 said;
	__u8 first = 0;

	bpf_skb_load_bytes(skb, offset, &first, 1);
	if (!(found >> 32 & NAME_SPOKEN)) /* where only some names are denied, what is no TLS may pass */
		return !state->name && (first != TLS_HANDSHAKE || hello_extensions(skb, offset));
	said = ask_named(policy->number, found, port_proto);
	if (verdict_of(said) == VERDICT_DENIED || (state->name && !(said & SPOKEN)))
		return false;
	if (state->name)
		state->name = found;
	return true;
}

/* A packet that leaves on a connection whose name is not known yet. */
static __noinline bool hello_passes(struct __sk_buff *skb, struct socket_state *state)
{
	__u32 offset = transport_header(skb) & 0xffff;
	const struct policy *policy = policy_of(state->policed);
	struct flow_key key = state->flow;

	if (!policy || !offset)
		return !policy || policy->mode == POLICY_AUDIT;
	if (skb->len <= offset)
		return true;
	state->care &= ~CARE_SNI;
	state->flags |= SOCKET_NAMED;
	if (name_allowed(skb, state, policy, offset))
		return true;
	denied(&key, policy, 0, DENIED_PACKET);
	if (policy->mode == POLICY_AUDIT)
		return true;
	state->verdict = VERDICT_DENIED;
	state->flags &= ~SOCKET_NAMED;
	state->rule = 0;
	return false;
}

#endif /* TATTLE_TLS_BPF_H */
