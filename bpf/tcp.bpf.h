/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP's states, as sockops tells them: who got through, who was let in, how it ended. */
#ifndef TATTLE_TCP_BPF_H
#define TATTLE_TCP_BPF_H

#include "http.bpf.h"

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

/*
 * MPTCP connects by subflows, sockets of the kernel's own: the first one in the caller's context, a
 * later one in a kernel thread. What they have in common is the MPTCP socket above them
 * (net/mptcp/protocol.h, mptcp_subflow_context.conn), which runs no hook itself. 0: none.
 */
static __always_inline __u64 mptcp_above(struct bpf_sock *sk)
{
	struct inet_connection_sock *tcp = (void *)bpf_skc_to_tcp_sock(sk);
	struct mptcp_subflow_context *context;
	const struct tcp_ulp_ops *ulp;
	union {
		char text[8];
		__u64 word;
	} name, mptcp = {.text = "mptcp"}; /* net/mptcp/subflow.c: subflow_ulp_ops */

	if (!bpf_core_type_exists(struct mptcp_subflow_context) || !tcp) /* CONFIG_MPTCP */
		return 0;
	ulp = READ(tcp, icsk_ulp_ops);
	if (!ulp || bpf_probe_read_kernel(&name, sizeof(name), &ulp->name) || name.word != mptcp.word)
		return 0;
	context = BPF_CORE_READ(tcp, icsk_ulp_data);
	return (__u64)BPF_CORE_READ(context, conn);
}

/* Whose is a socket that a kernel thread connects: the thread's own, or MPTCP's and so somebody else's. */
static __always_inline __u64 thread_owner(__u64 above)
{
	const __u64 *owner = above ? map_lookup(mptcp_owners, &above) : NULL;

	return owner ? *owner : identify(target_of(cgroup_of(current_task())));
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
	follow_states(ops, state);
	report_attempt(state, EVENT_CONNECT, state->opened_ns, bpf_get_socket_cookie(ops));
}

static __always_inline void tcp_listening(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state;
	union address local;
	__u32 target = target_of(cgroup_of(current_task()));
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
	listener_up(target);
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
	count(&slot->fresh.traffic, known->fresh.bytes_out, known->fresh.packets_out, true);
	count(&slot->fresh.traffic, known->fresh.bytes_in, known->fresh.packets_in, false);
	map_delete(handshakes, &key);
}

/* The new socket's state is a copy of its listener's (BPF_F_CLONE). */
static __always_inline void tcp_accepted(struct bpf_sock_ops *ops, struct socket_state *state)
{
	union address remote;

	remote_of(ops, &remote);
	if (is_loopback(&remote) && !(state->flags & SOCKET_LOOPBACK)) {
		state->mode = MODE_IGNORED;
		return;
	}
	start_flow(state, state->flow.process, PROTO_TCP, DIRECTION_IN);
	set_peer(state, &remote, remote_port(ops));
	state->flags &= SOCKET_LOOPBACK;
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
	else if (state->mode == MODE_FIXED)
		count_established(ops, state, EVENT_ESTABLISHED);
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

/* Packets may still follow (a reset): they find SOCKET_CLOSED and go to the flow at once. */
static __noinline void tcp_closed(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_state *state = sk ? socket_lookup(sockets, sk) : NULL;
	int error;

	if (!state || !sk || state->mode != MODE_FIXED || state->flags & SOCKET_CLOSED)
		return;
	error = error_of(sk);
	report(ops, state, EVENT_CLOSE, error || state->flags & SOCKET_ESTABLISHED ? error : RESULT_UNKNOWN);
	end_peer(state);
}

#endif /* TATTLE_TCP_BPF_H */
