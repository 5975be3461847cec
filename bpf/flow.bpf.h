/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where bytes go: into the slot of a socket, and from there into its flow ("folding"): at the end of
 * the socket, and whenever somebody reads (the program flush).
 *
 * Folding moves an amount by adding to the flow what it takes from the slot. The sum of both is the
 * same at each step, whoever else counts or folds at that moment. Two who fold the same amount leave
 * a negative rest, and the next turn of the loop gives it back: no lock, and no atomic exchange,
 * which 5.10 does not have.
 */
#ifndef TATTLE_FLOW_BPF_H
#define TATTLE_FLOW_BPF_H

#include "address.bpf.h"

/* What one packet of a socket adds, which may be several on the wire. */
struct amount {
	__u64 bytes;
	__u64 packets;
	__u64 payload; /* 0 of what comes in */
};

static __always_inline void count(struct counters *to, const struct amount *amount, bool out)
{
	add(out ? &to->bytes_out : &to->bytes_in, amount->bytes);
	add(out ? &to->packets_out : &to->packets_in, amount->packets);
	if (amount->payload)
		add(&to->payload_out, amount->payload);
}

static __always_inline void count_flow(struct flow *flow, const struct amount *amount, bool out)
{
	add(out ? &flow->bytes_out : &flow->bytes_in, amount->bytes);
	add(out ? &flow->packets_out : &flow->packets_in, amount->packets);
	if (amount->payload)
		add(&flow->payload_out, amount->payload);
}

/* The element that takes the traffic of flows for which there is no room. */
static __always_inline struct flow *overflow_flow(__u8 direction)
{
	__u32 index = direction & 1;

	lost(LOSS_FLOWS_FULL);
	return map_lookup(overflow, &index);
}

static __always_inline bool ported_full(void)
{
	__u32 made_at = USAGE_PORTED_MADE, gone_at = USAGE_PORTED_GONE;
	const __u64 *made = map_lookup(usage, &made_at), *gone = map_lookup(usage, &gone_at);
	const struct settings *now = setting();

	return made && gone && now && *made - *gone >= now->ported_max;
}

static __always_inline void count_ported(void)
{
	__u32 made_at = USAGE_PORTED_MADE;
	__u64 *made = map_lookup(usage, &made_at);

	if (made)
		add(made, 1);
}

/*
 * A copy of a flow that all share, for its callers leave it little stack. Two who write the times into it
 * at once write the same to a tick.
 */
static __noinline struct flow *new_flow(const struct flow_key *wanted)
{
	struct flow_key key = *wanted;
	struct blank *from = blank();
	struct flow *flow;
	bool ported = key.direction == DIRECTION_IN && key.remote_port;

	if (ported && ported_full()) {
		ported = false;
		key.remote_port = 0;
	}
	if (from) {
		from->flow.first_ns = from->flow.last_ns = coarse_now();
		if (!map_insert(flows, &key, &from->flow) && ported)
			count_ported();
	}
	flow = map_lookup(flows, &key);
	return flow ? flow : overflow_flow(key.direction);
}

/* Never NULL in fact; the verifier wants the caller to look. */
static __always_inline struct flow *flow_of(const struct flow_key *key)
{
	struct flow *flow = map_lookup(flows, key);

	return flow ? flow : new_flow(key);
}

/* Moves what `from` holds; the amount. */
static __always_inline __u64 move(__u64 *from, __u64 *to)
{
	__u64 moved = 0;

	for (int i = 0; i < 3; i++) {
		__s64 amount = *(volatile __s64 *)from;

		if (!amount)
			break;
		add(from, -amount);
		add(to, amount);
		moved += amount;
		if (*(volatile __s64 *)from >= 0)
			break;
	}
	return moved;
}

static __always_inline struct slot *slot_at(__u32 index)
{
	return index ? map_lookup(slots, &index) : NULL;
}

checked_once int fold(__u32 index)
{
	struct slot *slot = slot_at(index);
	struct counters *fresh, *folded;
	struct flow_key key;
	struct flow *flow;

	if (!slot)
		return 0;
	fresh = &slot->fresh.traffic;
	folded = &slot->folded;
	if (!fresh->packets_out && !fresh->packets_in && !slot->fresh.attempts && !slot->fresh.established)
		return 0;
	key = slot->flow;
	flow = flow_of(&key);
	if (!flow)
		return 0;
	move(&slot->fresh.attempts, &flow->attempts);
	move(&slot->fresh.established, &flow->established);
	folded->bytes_out += move(&fresh->bytes_out, &flow->bytes_out);
	folded->bytes_in += move(&fresh->bytes_in, &flow->bytes_in);
	folded->packets_out += move(&fresh->packets_out, &flow->packets_out);
	folded->packets_in += move(&fresh->packets_in, &flow->packets_in);
	folded->payload_out += move(&fresh->payload_out, &flow->payload_out);
	flow->last_ns = coarse_now();
	if (slot->first_ns < flow->first_ns)
		flow->first_ns = slot->first_ns;
	flow->flags |= slot->flags;
	return 0;
}

/* What came after the last owner had closed (a packet on another CPU) is still his. */
static __always_inline struct slot *slot_take(__u32 *index)
{
	struct slot *slot;

	if (queue_pop(free_slots, index)) {
		*index = 0;
		lost(LOSS_SLOTS_FULL);
		return NULL;
	}
	slot = slot_at(*index);
	if (!slot)
		return NULL;
	fold(*index);
	__builtin_memset(&slot->folded, 0, sizeof(slot->folded));
	slot->flags = 0;
	return slot;
}

static __always_inline void slot_give(__u32 index)
{
	queue_push(free_slots, &index);
}

/*
 * A super-packet over 64 KiB has a hop-by-hop header with its length (RFC 2675), which the kernel takes
 * out before it makes segments (include/net/ipv6.h, ipv6_hopopt_jumbo_remove).
 */
static __always_inline __u32 jumbo_bytes(struct __sk_buff *skb)
{
	struct {
		__u8 next, words, option;
	} header;
	struct ipv6_header ip;

	if (skb->len <= 0xffff || skb->protocol != bpf_htons(ETH_P_IPV6) || !load(skb, 0, &ip) ||
	    ip.next != PROTO_HOPOPTS || !load(skb, sizeof(ip), &header))
		return 0;
	return header.option == 0xc2 ? 8 : 0; /* RFC 2675 2: jumbo payload */
}

/*
 * The hook sees a TCP or UDP super-packet before it is segmented (GSO) or after it was put together
 * (GRO): skb->len has the headers of one segment only. On the wire each has its own.
 */
static __noinline __u32 super_bytes(struct __sk_buff *skb, __u32 segments)
{
	__u32 jumbo = jumbo_bytes(skb);

	return skb->len - jumbo + (segments - 1) * (header_bytes(skb) - jumbo);
}

static __always_inline void measure_wire(struct __sk_buff *skb, struct amount *amount)
{
	__u32 segments = skb->gso_segs;

	amount->packets = segments < 2 ? 1 : segments;
	amount->bytes = segments < 2 ? skb->len : super_bytes(skb, segments);
	amount->payload = 0;
}

#endif /* TATTLE_FLOW_BPF_H */
