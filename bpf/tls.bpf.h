/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One address serves many names. Where a rule by name has let a connection begin, the server's name in
 * the ClientHello (RFC 6066 3) is read before it leaves, however many packets and writes the hello comes in.
 * What cannot be read is not allowed: that is also a hello in several records, or longer than PIECES_ROOM.
 */
#ifndef TATTLE_TLS_BPF_H
#define TATTLE_TLS_BPF_H

#include "policy.bpf.h"
#include "sample.bpf.h"

enum {
	TLS_CLIENT_HELLO = 1, /* RFC 8446 4 */
	TLS_MAJOR = 3,	      /* of all versions on the wire, RFC 8446 5.1 */
	TLS_VERSION_RANDOM = 34,
	TLS_SERVER_NAME = 0, /* RFC 6066 1.1 */
	TLS_EXTENSION = 4,   /* bytes of an extension's head: type, length; RFC 8446 4.2 */
	TLS_EXTENSIONS = 96, /* that are searched */
	TLS_NAME_HEAD = 5,   /* length of the list, type of the name, its length; RFC 6066 3 */
	TLS_NAME_MAX = 255,
};

/* What find_sni() returns beside a place: offset << 16 | length of the name. */
enum {
	SNI_BROKEN = 0,
	SNI_MORE = 1, /* there may be a name in what is still to come */
	SNI_NONE = 2, /* a whole hello without one */
};

/* How many bytes before the next dot, itself included; `length` if there is none. */
checked_once __u32 behind_dot(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	for (__u32 i = 0; i < TLS_NAME_MAX; i++) {
		asm volatile("" : "+r"(length)); /* keeps the two bounds apart, for the verifier */
		if (i >= length)
			break;
		if (word_at(skb, offset + i, 1) == '.')
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

/* The first bytes of a hello, as far as they are there: could it be one? */
checked_once __u64 hello_begins(struct __sk_buff *skb, __u32 offset, __u32 stop)
{
	if (word_at(skb, offset, 1) != TLS_HANDSHAKE)
		return SNI_BROKEN;
	if (offset + 1 < stop && word_at(skb, offset + 1, 1) != TLS_MAJOR)
		return SNI_BROKEN;
	if (offset + TLS_RECORD < stop && word_at(skb, offset + TLS_RECORD, 1) != TLS_CLIENT_HELLO)
		return SNI_BROKEN;
	return SNI_MORE;
}

/* Behind a field that has its length in its first `width` bytes; 0: that is not there, or too long. */
checked_once __u32 behind_field(struct __sk_buff *skb, __u32 offset, __u32 width, __u32 end)
{
	__u64 length = word_at(skb, offset, width);

	return length < UNREAD && offset + width + length <= end ? offset + width + length : 0;
}

/*
 * Where the extensions of a ClientHello start (RFC 8446 4.1.2), with its end in the upper half; SNI_MORE,
 * SNI_BROKEN. The whole hello has to be in one record: no other header may stand where we read.
 */
checked_once __u64 hello_extensions(struct __sk_buff *skb, __u32 offset, __u32 stop)
{
	const __u32 widths = 0x121; /* of the lengths of session id, cipher suites, compression methods */
	__u64 record, head, end;

	if (hello_begins(skb, offset, stop) == SNI_BROKEN)
		return SNI_BROKEN;
	record = word_at(skb, offset + 3, 2);
	head = word_at(skb, offset + TLS_RECORD, 4);
	if (record >= UNREAD || head >= UNREAD)
		return SNI_MORE;
	end = offset + TLS_RECORD + TLS_MESSAGE + (head & 0xffffff);
	if ((head & 0xffffff) + TLS_MESSAGE > record || end - offset > PIECES_ROOM)
		return SNI_BROKEN;
	offset += TLS_RECORD + TLS_MESSAGE + TLS_VERSION_RANDOM;
	for (int i = 0; i < 3; i++) {
		__u32 width = widths >> i * 4 & 3;

		if (offset + width > stop)
			return SNI_MORE;
		offset = behind_field(skb, offset, width, end);
		if (!offset)
			return SNI_BROKEN;
	}
	if (offset == end) /* RFC 5246 7.4.1.2: there need not be any */
		return end << 32 | offset;
	if (offset + 2 > stop)
		return SNI_MORE;
	if (offset + 2 + word_at(skb, offset, 2) != end)
		return SNI_BROKEN;
	return end << 32 | (offset + 2);
}

/* The name in the extension that begins at an offset; it has to be the only one in there. */
checked_once __u64 sni_in(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	__u64 list = word_at(skb, offset, 2), length = word_at(skb, offset + 3, 2);

	if (list + 2 != size || word_at(skb, offset + 2, 1) || length + 3 != list || length > TLS_NAME_MAX ||
	    !length)
		return SNI_BROKEN;
	return (__u64)(offset + TLS_NAME_HEAD) << 16 | length;
}

/* The place of the server's name in a hello that begins at an offset, of which all up to `stop` is there. */
checked_once __u64 find_sni(struct __sk_buff *skb, __u32 offset, __u32 stop)
{
	__u64 found = hello_extensions(skb, offset, stop);
	__u32 end = found >> 32;

	if (!end)
		return found;
	offset = found;
	for (int i = 0; i < TLS_EXTENSIONS; i++) {
		__u64 head;
		__u32 size;

		if (offset == end)
			return SNI_NONE;
		if (offset + TLS_EXTENSION > stop)
			return SNI_MORE;
		head = word_at(skb, offset, 4);
		size = head & 0xffff;
		offset += TLS_EXTENSION;
		if (offset + size > end)
			return SNI_BROKEN;
		if (head >> 16 == TLS_SERVER_NAME)
			return offset + size > stop ? SNI_MORE : sni_in(skb, offset, size);
		offset += size;
	}
	return SNI_BROKEN;
}

/* What the rules say of the server's name; it has to be allowed at this very port. */
static __always_inline bool sni_allowed(struct __sk_buff *skb, struct socket_state *state,
					const struct policy *policy, __u64 place)
{
	__u32 phases = phases_for(policy);
	__u64 found = held_in(ask_text(skb, policy->number, place >> 16, place & 0xffff), phases);
	__u32 port_proto = (__u32)state->flow.remote_port << 16 | state->flow.proto;
	__u32 said;

	if (!(found >> 32 & NAME_SPOKEN))
		return !state->name;
	said = ask_named(policy->number, found, port_proto, phases);
	if (verdict_of(said) == VERDICT_DENIED || (state->name && !(said & SPOKEN)))
		return false;
	if (state->name)
		state->name = found;
	return true;
}

/* A hello that is all there, as far as it matters. Where only some names are denied, no TLS is no matter. */
static __always_inline enum passage hello_allowed(struct __sk_buff *skb, struct socket_state *state,
						  const struct policy *policy, __u32 offset, __u64 place)
{
	bool passes;

	if (place == SNI_MORE)
		return PASSAGE_HELD;
	if (place == SNI_NONE)
		passes = !state->name;
	else if (place == SNI_BROKEN)
		passes = !state->name && word_at(skb, offset, 1) != TLS_HANDSHAKE;
	else
		passes = sni_allowed(skb, state, policy, place);
	return passes ? PASSAGE_YES : PASSAGE_NO;
}

/* A hello of which nothing has left yet. What is full leaves, and the rest is waited for. */
static __noinline enum passage first_of_hello(struct __sk_buff *skb, struct socket_state *state,
					      const struct policy *policy, __u32 offset, __u32 sequence)
{
	enum passage passage = hello_allowed(skb, state, policy, offset, find_sni(skb, offset, skb->len));
	__u32 size = skb->len - offset;
	struct pieces *kept;

	if (passage != PASSAGE_HELD || !waits_no_more(skb, policy))
		return passage;
	kept = pieces_new(skb);
	if (!kept || !copy_pieces(skb, offset, size, 0))
		return PASSAGE_NO;
	kept->left = size;
	kept->next = sequence + size;
	return PASSAGE_ON;
}

/* A hello that has begun to leave. */
static __noinline enum passage more_of_hello(struct __sk_buff *skb, struct socket_state *state,
					     const struct policy *policy, struct pieces *kept,
					     __u32 offset_sequence)
{
	__u32 offset = offset_sequence, before = kept->left, size = skb->len - offset;
	enum passage passage;

	if (before >= PIECES_ROOM || !copy_pieces(skb, offset, size, before))
		return PASSAGE_NO;
	kept->left = before + size;
	passage = hello_allowed(skb, state, policy, IN_PIECES,
				find_sni(skb, IN_PIECES, IN_PIECES + kept->left));
	if (passage != PASSAGE_HELD)
		return passage;
	if (waits_no_more(skb, policy)) {
		kept->next += size;
		return PASSAGE_ON;
	}
	kept->left = before;
	return PASSAGE_HELD;
}

static __always_inline enum passage hello_passage(struct __sk_buff *skb, struct socket_state *state,
						  const struct policy *policy)
{
	__u32 header = transport_header(skb), offset = header & 0xffff, sequence;
	struct pieces *kept = pieces_of(skb);

	if (!read_sequence(skb, header, &sequence))
		return PASSAGE_NO;
	if (!kept)
		return first_of_hello(skb, state, policy, offset, sequence);
	if (until(sequence, kept->next) < 0)
		return PASSAGE_NO;
	if (until(sequence + skb->len - offset, kept->next) >= 0)
		return PASSAGE_ON; /* sent again */
	return more_of_hello(skb, state, policy, kept, offset + kept->next - sequence);
}
/* A packet that leaves on a connection whose name is not known yet. */
static __noinline enum passage hello_passes(struct __sk_buff *skb, struct socket_state *state)
{
	__u32 offset = transport_header(skb) & 0xffff;
	const struct policy *policy = policy_of(state->named);
	struct flow_key key = state->flow;
	enum passage passage;

	if (!policy || !offset)
		return !policy || policy->mode == POLICY_AUDIT ? PASSAGE_YES : PASSAGE_NO;
	if (skb->len <= offset)
		return PASSAGE_YES;
	passage = hello_passage(skb, state, policy);
	if (passage == PASSAGE_ON || passage == PASSAGE_HELD)
		return passage;
	pieces_forget(skb);
	state->care &= ~CARE_SNI;
	state->flags |= SOCKET_NAMED;
	if (passage == PASSAGE_YES)
		return PASSAGE_YES;
	state->denier = state->named;
	denied(&key, denied_by(state->named, policy, VERDICT_DENIED), DENIED_PACKET);
	if (policy->mode == POLICY_AUDIT)
		return PASSAGE_YES;
	state->verdict = VERDICT_DENIED;
	give_up_opening(state);
	state->flags &= ~SOCKET_NAMED;
	state->rule = 0;
	return PASSAGE_NO;
}

#endif /* TATTLE_TLS_BPF_H */
