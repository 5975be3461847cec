/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP's states, as sockops tells them: who got through, who was let in, how it ended. */
#ifndef TATTLE_TCP_BPF_H
#define TATTLE_TCP_BPF_H

#include "http.bpf.h"
#include "mptcp.bpf.h"
#include "policy.bpf.h"

enum { TCP_USER_TIMEOUT = 18 }; /* include/uapi/linux/tcp.h */

static __always_inline void remote_of(struct bpf_sock_ops *ops, union address *remote)
{
	if (ops->family == AF_INET) {
		from_ipv4(remote, ops->remote_ip4);
		return;
	}
	from_ipv6(remote, ops->remote_ip6);
}

static __always_inline void local_of(struct bpf_sock_ops *ops, union address *local)
{
	if (ops->family == AF_INET) {
		from_ipv4(local, ops->local_ip4);
		return;
	}
	from_ipv6(local, ops->local_ip6);
}

/* include/uapi/linux/bpf.h: the port stands in network order in the upper half of 32 bits. */
static __always_inline __be16 remote_port(struct bpf_sock_ops *ops)
{
	return bpf_htons(bpf_ntohl(ops->remote_port));
}

static __always_inline void follow_states(struct bpf_sock_ops *ops, struct socket_state *state)
{
	int wanted = ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG;

	if (state->asked_target)
		wanted |= BPF_SOCK_OPS_RTO_CB_FLAG;
	if (!bpf_sock_ops_cb_flags_set(ops, wanted))
		state->flags |= SOCKET_STATE_CB;
}

/*
 * A connection that was denied after it had begun retransmits what we drop, for a quarter of an hour. At
 * its first time-out it is told to give up at the next: the program gets ETIMEDOUT within a second or two.
 */
static __noinline void tcp_retransmits(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	int now = 1; /* ms */

	if (state && state->verdict == VERDICT_DENIED)
		bpf_setsockopt(ops, PROTO_TCP, TCP_USER_TIMEOUT, &now, sizeof(now));
}

/*
 * A connection may be denied for the first that it says, which then never leaves: nothing is in flight, so
 * that no retransmission times out, and the kernel probes for a quarter of an hour. Where a target's rules
 * read what a connection says, its segments are told of before they are sent (BPF_SOCK_OPS_HDR_OPT_LEN_CB),
 * until it has been allowed; TCP_USER_TIMEOUT then bounds the probes, too (net/ipv4/tcp_timer.c).
 */
static __always_inline void watch_writes(struct bpf_sock_ops *ops, struct socket_state *state)
{
	const struct policy *policy = policy_of(state->named);

	if (state->flow.direction == DIRECTION_IN || !policy || !policy->names ||
	    policy->mode != POLICY_ENFORCE)
		return;
	state->flags |= SOCKET_WATCHED;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/* A segment is about to be sent. */
static __noinline void tcp_writes(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	int patience = CUT_MS;

	if (!state || !(state->flags & SOCKET_WATCHED)) /* another instance's */
		return;
	if (state->verdict == VERDICT_DENIED)
		bpf_setsockopt(ops, PROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof(patience));
	else if (state->care & (CARE_SNI | CARE_QUERY))
		return;
	state->flags &= ~SOCKET_WATCHED;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

static __always_inline void report(struct bpf_sock_ops *ops, struct socket_state *state, enum event_kind kind,
				   int result)
{
	struct flow_key key = state->flow;
	struct slot *slot = slot_at(state->slot);
	__u64 now = kind == EVENT_ACCEPT ? state->opened_ns : bpf_ktime_get_boot_ns();
	struct event *event = event_new(kind, &key, now);

	if (!event)
		return;
	local_of(ops, (union address *)event->local);
	event->local_port = bpf_htons(ops->local_port);
	event->socket = bpf_get_socket_cookie(ops);
	event->result = result;
	event->duration_ns = event->time_ns - state->opened_ns;
	if (slot)
		event_totals(event, slot);
	event_send(event);
}

static __always_inline void count_established(struct bpf_sock_ops *ops, struct socket_state *state,
					      enum event_kind kind)
{
	struct slot *slot = slot_at(state->slot);
	struct flow_key key = state->flow;
	struct flow *flow = slot ? NULL : flow_of(&key);

	if (slot)
		add(&slot->fresh.established, 1);
	else if (flow)
		add(&flow->established, 1);
	state->flags |= SOCKET_ESTABLISHED;
	report(ops, state, kind, RESULT_OK);
}

/* Whose is a socket that a kernel thread connects: the thread's own, or MPTCP's and so somebody else's. */
static __always_inline __u64 thread_owner(__u64 above)
{
	__u64 owner = mptcp_owner(above);

	return owner ? owner : identify(target_of_task(current_task()));
}

/* The SYN is about to leave. Mostly the connect hook has seen this socket. */
static __noinline void tcp_connecting(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	union address remote;
	__u64 above;

	remote_of(ops, &remote);
	if (!sk || (!state && is_loopback(&remote)))
		return;
	above = mptcp_above(sk);
	if (state && state->mode == MODE_FIXED && !(READ(current_task(), flags) & PF_KTHREAD)) {
		if (above)
			map_put(mptcp_owners, &above, &state->flow.process);
		follow_states(ops, state);
		return;
	}
	if (state && state->mode != MODE_FIXED)
		return;
	state = socket_create(sockets, sk);
	if (!state) {
		lost(LOSS_STORAGE_REFUSED);
		return;
	}
	open_fixed(state, &remote, remote_port(ops), PROTO_TCP, thread_owner(above), PHASE_UNKNOWN);
	state->marked = mark_of_process(state->flow.process, state->marked);
	follow_states(ops, state);
	report_attempt(state, EVENT_CONNECT, state->opened_ns, bpf_get_socket_cookie(ops));
}

/*
 * A listener is counted up here and down when its state is TCP_CLOSE, where we can ask for that: close() of
 * one of MPTCP's runs no hook, and shutdown() of any does not either.
 */
static __always_inline void count_listener(struct bpf_sock_ops *ops, struct socket_state *state, __u64 above)
{
	__u32 target = state->asked_target;

	if (above)
		map_put(mptcp_owners, &above, &state->flow.process);
	if (above && target)
		map_put(mptcp_listeners, &above, &target);
	if ((target || above) &&
	    !bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		state->flags |= SOCKET_STATE_CB;
	listener_up(target);
}

static __noinline void tcp_listening(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state;
	union address local;
	__u32 target = target_of_task(current_task());
	bool wanted = loopback_wanted(bpf_htons(ops->local_port), target);

	local_of(ops, &local);
	if (!sk || (local.words[3] && is_loopback(&local) && !wanted))
		return;
	state = socket_create(sockets, sk);
	if (!state) {
		lost(LOSS_STORAGE_REFUSED);
		return;
	}
	reset(state);
	start_flow(state, identify(target), PROTO_TCP, DIRECTION_IN);
	state->listener = bpf_get_socket_cookie(ops);
	state->flags = wanted ? SOCKET_LOOPBACK : 0;
	state->mode = MODE_LISTENER;
	state->asked_target = target;
	state->marked = current_mark();
	count_listener(ops, state, mptcp_above(sk));
}

static __always_inline void count_fresh(struct counters *to, const struct counters *from, bool out)
{
	struct amount amount = {
		.bytes = out ? from->bytes_out : from->bytes_in,
		.packets = out ? from->packets_out : from->packets_in,
		.payload = out ? from->payload_out : 0,
	};

	count(to, &amount, out);
}

/* What the handshake has cost so far was counted at the listener. */
static __always_inline void take_handshake(struct socket_state *state)
{
	struct handshake_key key = {.listener = state->listener, .remote_port = state->flow.remote_port};
	struct slot *slot = slot_at(state->slot);
	struct handshake *known;

	__builtin_memcpy(key.remote, state->flow.remote, ADDRESS_LEN);
	known = map_lookup(handshakes, &key);
	if (!known || !slot)
		return;
	count_fresh(&slot->fresh.traffic, &known->fresh, true);
	count_fresh(&slot->fresh.traffic, &known->fresh, false);
	map_delete(handshakes, &key);
}

static __always_inline __u64 both_ports(__be16 client, __be16 server)
{
	return (__u64)client << 16 | server;
}

/* A connection within this host, by a process of a target whose API is known. */
static __always_inline void note_inner(struct bpf_sock_ops *ops, const struct socket_state *state)
{
	__u64 ports = both_ports(bpf_htons(ops->local_port), state->flow.remote_port);

	if (is_loopback((const union address *)state->flow.remote) && phased_target(state->asked_target))
		map_put(inner_clients, &ports, &state->flow.process);
}

/* Is the client the parent of the process that listens, both in one target? It asks on others' behalf. */
static __always_inline bool is_inner(struct bpf_sock_ops *ops, const struct socket_state *state)
{
	__u64 ports = both_ports(state->flow.remote_port, bpf_htons(ops->local_port));
	const __u64 *client = map_lookup(inner_clients, &ports);
	const struct process *asks, *serves;
	__u64 server = state->flow.process;

	if (!client)
		return false;
	asks = map_lookup(processes, client);
	serves = map_lookup(processes, &server);
	return asks && serves && serves->ppid == asks->key.tgid && serves->key.target == asks->key.target;
}

/* The new socket's state is a copy of its listener's (BPF_F_CLONE). */
static __always_inline void tcp_accepted(struct bpf_sock_ops *ops, struct socket_state *state)
{
	union address remote;

	remote_of(ops, &remote);
	if (is_loopback(&remote) && !(state->flags & SOCKET_LOOPBACK)) {
		state->mode = MODE_IGNORED;
		state->verdict = VERDICT_ALLOWED; /* of its listener, it may be another one */
		state->generation = 0;
		return;
	}
	start_flow(state, state->flow.process, PROTO_TCP, DIRECTION_IN);
	set_peer(state, &remote, remote_port(ops));
	state->flags &= SOCKET_LOOPBACK;
	if (is_loopback(&remote) && is_inner(ops, state))
		state->flags |= SOCKET_INNER;
	state->generation = 0;
	state->asked_target = 0;
	take_handshake(state);
	follow_states(ops, state);
	count_established(ops, state, EVENT_ACCEPT);
}

/* A simultaneous open comes here too, as a socket that had a peer before. */
static __noinline void tcp_established(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;

	if (!state)
		return;
	if (state->mode == MODE_LISTENER)
		tcp_accepted(ops, state);
	else if (state->mode == MODE_FIXED) {
		note_inner(ops, state);
		count_established(ops, state, EVENT_ESTABLISHED);
	}
	if (state->mode == MODE_FIXED)
		watch_writes(ops, state);
}

static __always_inline int error_of(struct bpf_sock *sk)
{
	struct sock *tcp = (void *)bpf_skc_to_tcp_sock(sk);

	return tcp ? READ(tcp, sk_err) : 0;
}

/* No more is said on this connection, or nobody listens: what was asked is over. */
static __noinline void tcp_hung_up(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	struct talk *talk = state && sk && state->care & CARE_TALK ? socket_lookup(talks, sk) : NULL;

	if (talk)
		hang_up(talk, state, bpf_get_socket_cookie(ops));
}

/* A child that dies before it is accepted has a copy of its listener's state, and another cookie. */
static __always_inline void tcp_deaf(struct bpf_sock_ops *ops, struct socket_state *state,
				     struct bpf_sock *sk)
{
	__u64 above;

	if (!(state->flags & SOCKET_STATE_CB) || state->flags & SOCKET_CLOSED ||
	    state->listener != bpf_get_socket_cookie(ops))
		return;
	state->flags |= SOCKET_CLOSED;
	listener_down(listened_for(state));
	above = mptcp_above(sk);
	if (above)
		map_delete(mptcp_listeners, &above);
}

/* Packets may still follow (a reset): they find SOCKET_CLOSED and go to the flow at once. */
static __noinline void tcp_closed(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	int error;

	if (state && sk && state->mode == MODE_LISTENER)
		tcp_deaf(ops, state, sk);
	if (!state || !sk || state->mode != MODE_FIXED || state->flags & SOCKET_CLOSED)
		return;
	error = error_of(sk);
	report(ops, state, EVENT_CLOSE, error || state->flags & SOCKET_ESTABLISHED ? error : RESULT_UNKNOWN);
	end_peer(state);
}

#endif /* TATTLE_TCP_BPF_H */
