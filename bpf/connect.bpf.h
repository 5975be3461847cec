/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls that name a peer, in the process that makes them: connect, sendmsg, bind. Here is who
 * it is, and here a call can still fail.
 */
#ifndef TATTLE_CONNECT_BPF_H
#define TATTLE_CONNECT_BPF_H

#include "policy.bpf.h"

static __always_inline void peer_of(struct bpf_sock_addr *ctx, const union address *remote, __u8 proto,
				    struct peer *peer)
{
	peer->remote = *remote;
	peer->port = ctx->user_port;
	peer->proto = proto;
}

/*
 * TCP's attempt. For a datagram socket nothing has happened yet: resolvers do it to sort addresses,
 * so it is neither counted nor denied.
 */
static __always_inline bool connecting(struct bpf_sock_addr *ctx, const union address *remote)
{
	bool datagrams = ctx->protocol == PROTO_UDP;
	__u32 target = current_target();
	struct socket_state *state;
	struct peer peer = {};
	__u32 now = generation(); /* before the policy is asked, see judge_socket() */

	if (!datagrams && ctx->protocol != PROTO_TCP && ctx->protocol != PROTO_MPTCP)
		return true;
	if (!datagrams && READ(current_task(), flags) & PF_KTHREAD)
		return true; /* nobody's call: tcp_connecting() finds out whose */
	peer_of(ctx, remote, datagrams ? PROTO_UDP : PROTO_TCP, &peer);
	if (!datagrams && target && ask_call(&peer, target, 0) == ANSWER_NO)
		return false;
	if (is_loopback(remote) && !loopback_wanted(peer.port, target)) {
		forget_peer(socket_lookup(sockets, ctx->sk));
		return true;
	}
	state = socket_create(sockets, ctx->sk);
	if (!state) {
		lost(LOSS_STORAGE_REFUSED);
		return true;
	}
	open_fixed(state, remote, peer.port, peer.proto, identify(target), phase_of(target));
	if (datagrams)
		return true;
	state->asked_target = target;
	state->asked_generation = now;
	report_attempt(state, EVENT_CONNECT, state->opened_ns, bpf_get_socket_cookie(ctx));
	return true;
}

/* Has this socket asked for this very peer just before, for the same target and under the same policies? */
static __always_inline bool asked_before(const struct socket_state *state, const struct peer *peer,
					 __u32 target, __u32 now)
{
	return state && !(state->flags & SOCKET_ASK_AGAIN) && state->asked_target == target &&
	       state->asked_generation == now && state->asked_port == peer->port &&
	       same_address(state->asked, &peer->remote);
}

/* sendmsg with an address: the datagram's own, whatever the socket is connected to. */
static __always_inline bool sending(struct bpf_sock_addr *ctx, const union address *remote)
{
	bool loopback = is_loopback(remote);
	__u32 target = current_target();
	struct socket_state *state;
	struct peer peer = {};
	__u32 now = generation();
	enum answer answer = ANSWER_YES;

	peer_of(ctx, remote, ctx->protocol, &peer);
	state = socket_lookup(sockets, ctx->sk);
	if (target && !asked_before(state, &peer, target, now))
		answer = ask_call(&peer, target, state ? bpf_get_socket_cookie(ctx) : 0);
	if (answer == ANSWER_NO)
		return false;
	if (loopback && !loopback_wanted(peer.port, target))
		return true;
	if (!state)
		state = socket_create(sockets, ctx->sk);
	if (state && state->mode == MODE_FIXED) {
		if (state->flow.remote_port == peer.port && same_address(state->flow.remote, remote))
			return true;
		reset(state);
	}
	state = open_per_packet(state, peer.proto, loopback, target);
	if (!state)
		return true;
	__builtin_memcpy(state->asked, remote, ADDRESS_LEN);
	state->asked_port = peer.port;
	state->asked_target = target;
	state->asked_generation = now;
	if (answer == ANSWER_ONCE)
		state->flags |= SOCKET_ASK_AGAIN;
	else
		state->flags &= ~SOCKET_ASK_AGAIN;
	return true;
}

/* A datagram socket that gets a port may be spoken to before it speaks. */
static __always_inline void bound(struct bpf_sock *ctx, const union address *local)
{
	__u32 target;
	bool wanted;

	if (ctx->protocol != PROTO_UDP && ctx->protocol != PROTO_UDPLITE)
		return;
	target = current_target();
	wanted = loopback_wanted(0, target);
	if (local->words[3] && is_loopback(local) && !wanted)
		return;
	open_per_packet(socket_create(sockets, ctx), ctx->protocol, wanted, target);
}

#endif /* TATTLE_CONNECT_BPF_H */
