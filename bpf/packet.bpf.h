/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet costs: one storage look-up, a look at its header and three adds, for a socket with one peer.
 * All else is the slow path. In these programs "current" is whoever runs: never ask it who sent.
 */
#ifndef TATTLE_PACKET_BPF_H
#define TATTLE_PACKET_BPF_H

#include "filter.bpf.h"
#include "http.bpf.h"
#include "mptcp.bpf.h"
#include "payload.bpf.h"

/* A flow of an unconnected socket is seen for the first time. */
static __always_inline struct flow *first_datagram(struct __sk_buff *skb, struct flow_key *key)
{
	struct flow *flow = new_flow(key);
	struct event *event;

	if (!flow)
		return NULL;
	add(&flow->attempts, 1);
	if (skb->ifindex == LOOPBACK_IFINDEX)
		flow->flags |= FLOW_VIA_LOOPBACK;
	event = event_new(EVENT_SEND, key, bpf_ktime_get_boot_ns());
	if (!event)
		return flow;
	event->socket = bpf_get_socket_cookie(skb);
	event->flags = flow->flags;
	event_send(event);
	return flow;
}

/* With its port, or in the row of its address (see enum usage). */
static __always_inline struct flow *asked_first(const struct flow_key *key)
{
	struct flow_key portless = *key;
	struct flow *flow = map_lookup(flows, key);

	if (flow || !ported_full())
		return flow;
	portless.remote_port = 0;
	return map_lookup(flows, &portless);
}

/*
 * An outgoing datagram belongs to a flow that we started, or to one of a peer that asked first. One
 * that is neither and leaves for another address than sendmsg named was translated on its way (local
 * DNAT; Docker's resolver): its flow is the one that was asked for.
 */
static __always_inline struct flow *find_out(struct __sk_buff *skb, const struct socket_state *state,
					     struct flow_key *key)
{
	struct flow *flow = map_lookup(flows, key);

	if (flow)
		return flow;
	key->direction = DIRECTION_IN;
	key->phase = PHASE_UNKNOWN; /* as of all that others start */
	flow = asked_first(key);
	if (flow)
		return flow;
	key->direction = DIRECTION_OUT;
	key->phase = state->flow.phase;
	if (state->asked_port &&
	    (key->remote_port != state->asked_port || !same_address(key->remote, state->asked))) {
		__builtin_memcpy(key->remote, state->asked, ADDRESS_LEN);
		key->remote_port = state->asked_port;
		flow = map_lookup(flows, key);
		if (flow)
			return flow;
	}
	return first_datagram(skb, key);
}

/* In which phase has this peer been spoken to? PHASES: in none. */
checked_once __u32 phase_asked(__u64 process, __u64 high, __u64 low, __u32 port_proto)
{
	union address remote = {.halves = {high, low}};
	struct flow_key key = {.process = process, .remote_port = port_proto >> 16, .proto = port_proto};

	__builtin_memcpy(key.remote, &remote, ADDRESS_LEN);
	for (int i = 0; i < PHASES; i++) {
		key.phase = i;
		if (map_lookup(flows, &key))
			return i;
	}
	return PHASES;
}

/* What comes back belongs to the phase in which it was asked for. */
static __always_inline struct flow *find_in(struct flow_key *key)
{
	const union address *remote = (const void *)key->remote;
	struct flow *flow = map_lookup(flows, key);
	__u32 phase;

	if (flow)
		return flow;
	if (key->phase) {
		phase = phase_asked(key->process, remote->halves[0], remote->halves[1],
				    (__u32)key->remote_port << 16 | key->proto);
		if (phase < PHASES) {
			key->phase = phase;
			return flow_of(key);
		}
	}
	key->phase = PHASE_UNKNOWN; /* as of all that others start */
	key->direction = DIRECTION_IN;
	return flow_of(key);
}

/* In a function of its own, so that its stack is free again where names are asked for. */
static __noinline void count_datagram(struct __sk_buff *skb, const struct socket_state *state,
				      const struct peer *peer, bool out)
{
	struct flow_key key = {.process = state->flow.process, .phase = state->flow.phase};
	struct amount amount;
	struct flow *flow;

	measure_datagram(skb, &amount, out);
	__builtin_memcpy(key.remote, &peer->remote, ADDRESS_LEN);
	key.remote_port = peer->port;
	key.proto = peer->proto;
	flow = out ? find_out(skb, state, &key) : find_in(&key);
	if (!flow)
		return;
	if (out && peer->port == bpf_htons(QUIC_PORT) && peer->proto == PROTO_UDP &&
	    flow->packets_out < HELLO_DATAGRAMS)
		sample_datagram(skb, state, peer);
	count_flow(flow, &amount, out);
	flow->last_ns = coarse_now();
}

/* What the kernel sends by itself: resets of closed ports, ACKs in TIME_WAIT, ICMP, IGMP. */
static __always_inline bool is_of_no_process(const struct socket_state *state, const struct peer *peer)
{
	return !state->flow.process && state->flow.direction == DIRECTION_OUT &&
	       (peer->proto == PROTO_TCP || peer->proto == PROTO_ICMP || peer->proto == PROTO_ICMPV6 ||
		peer->proto == PROTO_IGMP);
}

/* One row a scope and protocol, and no line in the log: else who scans our ports fills both. */
static __noinline void count_of_no_process(struct __sk_buff *skb, const struct peer *peer)
{
	union address all = {
		.words = {bpf_htonl(SUM_PREFIX << 16), 0, 0, bpf_htonl(1 << scope_of(&peer->remote))}};
	struct flow_key key = {.proto = peer->proto};
	struct amount amount;
	struct flow *flow;

	__builtin_memcpy(key.remote, &all, ADDRESS_LEN);
	flow = flow_of(&key);
	measure_wire(skb, &amount);
	if (!flow)
		return;
	count_flow(flow, &amount, true);
	flow->last_ns = coarse_now();
}

static __noinline bool per_packet(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	struct peer peer = {};
	bool passes;

	if (!read_peer(skb, out, &peer)) {
		lost(LOSS_PACKET_UNREADABLE);
		return !state->policed;
	}
	passes = !state->policed || !out || datagram_allowed(skb, state, &peer);
	if (peer.proto == PROTO_UDP &&
	    (peer.port == bpf_htons(DNS_PORT) || (out && asks_names(state, &peer))))
		sample_asked(skb, state, &peer, out, passes ? VERDICT_ALLOWED : VERDICT_DENIED);
	if (!passes)
		return false;
	if (state->policed && !out && peer.port == bpf_htons(DNS_PORT))
		read_datagram(skb, state, &peer.remote);
	if (state->policed && !out && peer.proto == PROTO_UDP)
		note_asked(bpf_get_socket_cookie(skb), &peer);
	if (is_loopback(&peer.remote) && !(state->flags & SOCKET_LOOPBACK) &&
	    peer.port != bpf_htons(DNS_PORT))
		return true;
	if (out && is_of_no_process(state, &peer))
		count_of_no_process(skb, &peer);
	else
		count_datagram(skb, state, &peer, out);
	return true;
}

static __always_inline void count_overflow(const struct amount *amount, bool out)
{
	__u32 index = DIRECTION_IN;
	struct flow *flow = map_lookup(overflow, &index);

	lost(LOSS_HANDSHAKES_FULL);
	if (flow)
		count_flow(flow, amount, out);
}

/*
 * A listener's packets are those of handshakes. They are kept until somebody is accepted, and then
 * are the first of that connection. Whoever only knocks (port scans, SYN floods) makes no flow.
 */
static __noinline void handshake(struct __sk_buff *skb, const struct socket_state *state, bool out)
{
	struct handshake_key key = {.listener = state->listener};
	struct handshake *known, zero = {.process = state->flow.process};
	struct amount amount = {.bytes = skb->len, .packets = 1};
	struct peer peer = {};

	if (!read_peer(skb, out, &peer)) {
		lost(LOSS_PACKET_UNREADABLE);
		return;
	}
	if (is_loopback(&peer.remote) && !(state->flags & SOCKET_LOOPBACK))
		return;
	__builtin_memcpy(key.remote, &peer.remote, ADDRESS_LEN);
	key.remote_port = peer.port;
	known = map_lookup(handshakes, &key);
	if (!known) {
		zero.seen_ns = coarse_now();
		map_insert(handshakes, &key, &zero);
		known = map_lookup(handshakes, &key);
	}
	if (known)
		count(&known->fresh, &amount, out);
	else
		count_overflow(&amount, out);
}

/* First packet that leaves a socket with one peer. */
static __always_inline void first_out(struct __sk_buff *skb, struct socket_state *state, struct slot *slot)
{
	__u64 now;

	state->flags |= SOCKET_SENT;
	if (slot && skb->ifindex == LOOPBACK_IFINDEX)
		slot->flags |= FLOW_VIA_LOOPBACK;
	if (state->flow.proto == PROTO_TCP || state->flags & SOCKET_PREEXISTING)
		return;
	now = bpf_ktime_get_boot_ns();
	if (slot)
		slot->first_ns = now;
	report_attempt(state, EVENT_SEND, now, bpf_get_socket_cookie(skb));
}

/* First packets, and those after the end: a reset that close() sends has no slot any more. */
static __noinline void fixed_slowly(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	struct slot *slot = slot_at(state->slot);
	struct flow_key key = state->flow;
	struct amount amount;
	struct flow *flow;

	measure(skb, state, &amount, out);
	if (out && !(state->flags & SOCKET_SENT))
		first_out(skb, state, slot);
	if (slot && !(state->flags & SOCKET_CLOSED)) {
		count(&slot->fresh.traffic, &amount, out);
		return;
	}
	flow = flow_of(&key);
	if (!flow)
		return;
	count_flow(flow, &amount, out);
	flow->last_ns = coarse_now();
	if (state->flags & SOCKET_PREEXISTING)
		flow->flags |= FLOW_PREEXISTING;
	if (out && skb->ifindex == LOOPBACK_IFINDEX)
		flow->flags |= FLOW_VIA_LOOPBACK;
}

static __always_inline bool slowly(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	if (state->mode == MODE_PER_PACKET)
		return per_packet(skb, state, out);
	if (state->mode == MODE_FIXED)
		fixed_slowly(skb, state, out);
	else if (state->mode == MODE_LISTENER)
		handshake(skb, state, out);
	return true;
}

static __always_inline void listen_in_to(struct __sk_buff *skb, const struct socket_state *state, bool out)
{
	if (out)
		listen_out(skb, state);
	else
		listen_in(skb);
}

static __always_inline void adopt_listener(struct __sk_buff *skb, struct socket_state *state)
{
	state->listener = bpf_get_socket_cookie(skb);
	state->mode = MODE_LISTENER;
	state->flow.direction = DIRECTION_IN;
}

/* A connection of MPTCP's that is older than we are. It has no slot, for nobody would tell us of its end. */
static __always_inline void adopt_subflow(struct __sk_buff *skb, struct socket_state *state, bool out,
					  bool accepted)
{
	struct peer peer = {};

	if (!read_peer(skb, out, &peer))
		return;
	__builtin_memcpy(state->flow.remote, &peer.remote, ADDRESS_LEN);
	state->flow.remote_port = peer.port;
	state->flow.direction = accepted ? DIRECTION_IN : DIRECTION_OUT;
	state->flags |= SOCKET_SENT | SOCKET_ESTABLISHED | SOCKET_PREEXISTING;
	state->care = accepted ? CARE_END : 0;
	state->mode = MODE_FIXED;
}

static __noinline void adopt_stranger(struct __sk_buff *skb, struct socket_state *state, bool out,
				      __u64 above)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;

	if (!whole)
		return;
	start_flow(state, mptcp_owner(above), whole->protocol, DIRECTION_OUT);
	state->mode = MODE_PER_PACKET;
	if (skb->ifindex == LOOPBACK_IFINDEX)
		state->flags |= SOCKET_LOOPBACK;
	if (whole->state == TCP_LISTEN && whole->protocol == PROTO_TCP)
		adopt_listener(skb, state);
	else if (above)
		adopt_subflow(skb, state, out, mptcp_accepted(above));
}

/* Is it a packet of MPTCP's within this host, of a target whose API is known, and older than we are? */
static __always_inline bool is_older_within(struct __sk_buff *skb, struct bpf_sock *sk)
{
	return mptcp_older() && sk->protocol == PROTO_TCP && phased_target(packet_target(skb)) &&
	       mptcp_above(sk);
}

/* Is it a socket that is taken in, though nobody told us of it? */
static __noinline bool is_stranger(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return false;
	if (skb->ifindex != LOOPBACK_IFINDEX || sk->dst_port == bpf_htons(DNS_PORT))
		return bpf_sk_fullsock(sk);
	if (!mptcp_older())
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && is_older_within(skb, sk);
}

/*
 * A socket that nobody told us of: it belongs to the kernel (a tunnel, NFS, MPTCP), or its storage was
 * refused before. Its traffic counts for process 0, "not known", if it is not MPTCP's. NULL: no memory.
 */
static __noinline struct socket_state *take_in(struct __sk_buff *skb, bool out)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct socket_state *state = whole ? socket_create(sockets, whole) : NULL;

	if (!state || !whole) {
		lost(LOSS_STORAGE_REFUSED);
		return NULL;
	}
	adopt_stranger(skb, state, out, whole->protocol == PROTO_TCP ? mptcp_above(whole) : 0);
	judge_socket(skb, state);
	return state;
}

/* Does a rule by name let this packet pass? What comes is read, what leaves is judged. */
static __always_inline enum passage content_passes(struct __sk_buff *skb, struct socket_state *state,
						   bool out)
{
	const struct policy *policy = policy_of(state->named);
	struct peer peer = {.port = state->flow.remote_port, .proto = state->flow.proto};

	if (state->care & CARE_SNI)
		return out ? hello_passes(skb, state) : PASSAGE_YES;
	if (!policy || !has_payload(skb))
		return PASSAGE_YES;
	if (peer.proto == PROTO_TCP && out)
		return queries_pass(skb, state, policy);
	if (peer.proto == PROTO_TCP)
		return replies_pass(skb) ? PASSAGE_YES : PASSAGE_HELD;
	__builtin_memcpy(&peer.remote, state->flow.remote, ADDRESS_LEN);
	if (out)
		return query_passes(skb, state, policy, &peer) ? PASSAGE_YES : PASSAGE_NO;
	read_datagram(skb, state, &peer.remote);
	return PASSAGE_YES;
}

/*
 * The end of a connection of which no state is told: a FIN or a reset that leaves, or a reset that comes.
 * cgroup/sock_release has told it before where the socket is not the kernel's own, see mptcp.bpf.h.
 */
static __noinline void watch_end(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	__u32 header = transport_header(skb);
	struct bpf_sock *sk = skb->sk;
	struct talk *talk;
	__u8 flags;

	if (!header || !sk || !load(skb, transport_at(header) + 13, &flags) ||
	    !(flags & (out ? TCP_FIN | TCP_RST : TCP_RST)))
		return;
	state->care &= ~CARE_END;
	if (state->flags & SOCKET_CLOSED)
		return;
	talk = state->care & CARE_TALK ? socket_lookup(talks, sk) : NULL;
	if (talk)
		hang_up(talk, state, bpf_get_socket_cookie(skb));
	report_close(state, RESULT_UNKNOWN, bpf_get_socket_cookie(skb));
	end_peer(state);
}

/*
 * A connection that is denied for what it said: nothing more of it leaves. The user half, where it runs,
 * resets it; else the kernel gives it up, see tcp_writes().
 */
static __noinline void end_stream(struct __sk_buff *skb, struct socket_state *state)
{
	__u32 index = USAGE_STREAMS_DENIED;
	struct stream_key key = {.remote_port = state->flow.remote_port};
	__u64 *count = map_lookup(usage, &index);
	__u64 now = coarse_now();

	if (state->verdict == VERDICT_DENIED && state->flags & SOCKET_ENDED)
		return;
	state->verdict = VERDICT_DENIED;
	state->flags |= SOCKET_ENDED;
	__builtin_memcpy(key.remote, state->flow.remote, ADDRESS_LEN);
	load(skb, transport_at(transport_header(skb)), &key.local_port);
	map_put(denied_streams, &key, &now);
	if (count)
		add(count, 1);
}

/* A packet that is worth more than counting. False: drop it. One that is held comes again, and is copied
 * then. */
static __noinline bool careful(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	bool asks = state->care & (CARE_SNI | CARE_QUERY);
	enum passage passage = asks ? content_passes(skb, state, out) : PASSAGE_YES;
	enum verdict verdict = passage == PASSAGE_NO ? VERDICT_DENIED : VERDICT_ALLOWED;

	if (passage == PASSAGE_HELD)
		return false;
	if (state->care & CARE_DNS)
		sample_dns(skb, state, NULL, out, verdict);
	if (state->care & CARE_HELLO && out)
		sample_hello(skb, state, verdict);
	if (passage == PASSAGE_NO && state->flow.proto == PROTO_TCP)
		end_stream(skb, state);
	if (state->care & CARE_END)
		watch_end(skb, state, out);
	return passage != PASSAGE_NO;
}

/*
 * Has this connection spoken outside of its phase? TCP then has to believe that its data were sent: only a
 * retransmission that times out ends it (see tcp_retransmits).
 */
static __noinline bool is_over(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	const struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;

	return state && state->flags & SOCKET_OVER;
}

/* False: drop it. */
static __always_inline bool packet(struct __sk_buff *skb, bool out)
{
	struct socket_state *state;
	struct bpf_sock *sk = skb->sk;
	struct slot *slot;
	struct amount amount;

	if (!sk)
		return true;
	state = socket_lookup(sockets, sk);
	if (!state) {
		if (!is_stranger(skb))
			return true;
		state = take_in(skb, out);
		if (!state)
			return stateless_allowed(skb, out);
	}
	if (state->generation != generation() || (state->terms && state->terms != terms_of(state->policed)) ||
	    (state->care & CARE_HOST && skb->ifindex != LOOPBACK_IFINDEX))
		judge_socket(skb, state);
	if (state->care & CARE_PHASE)
		rephase(skb, state, out);
	if (state->verdict == VERDICT_DENIED && !pass_denied(skb, state, out)) {
		if (out && state->care & CARE_DNS) /* which name was wanted */
			sample_dns(skb, state, NULL, out, VERDICT_DENIED);
		return false;
	}
	if (state->care & CARE_TALK)
		listen_in_to(skb, state, out);
	if (state->care & ~(CARE_PHASE | CARE_TALK | CARE_HOST) && !careful(skb, state, out))
		return false;
	if (state->policed && out && has_options(skb) && !options_allowed(skb, state))
		return false;
	slot = slot_at(state->slot);
	if (!slot || (state->flags & (SOCKET_SENT | SOCKET_CLOSED)) != SOCKET_SENT)
		return slowly(skb, state, out);
	measure(skb, state, &amount, out);
	count(&slot->fresh.traffic, &amount, out);
	return true;
}

#endif /* TATTLE_PACKET_BPF_H */
