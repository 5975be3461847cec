/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls that name a peer, in the process that makes them: connect, sendmsg, bind. Here is who
 * it is, and here a call can still fail.
 */
#ifndef TATTLE_CALL_BPF_H
#define TATTLE_CALL_BPF_H

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
	__u64 cookie;

	if (!datagrams && ctx->protocol != PROTO_TCP && ctx->protocol != PROTO_MPTCP)
		return true;
	peer_of(ctx, remote, datagrams ? PROTO_UDP : PROTO_TCP, &peer);
	if (!datagrams && target && !call_allowed(&peer, target, 0))
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
	open_fixed(state, remote, peer.port, peer.proto, identify());
	if (datagrams)
		return true;
	cookie = bpf_get_socket_cookie(ctx);
	if (ctx->protocol == PROTO_MPTCP)
		bpf_map_update_elem(&mptcp_owners, &cookie, &state->flow.process, BPF_ANY);
	state->asked_target = target;
	state->asked_generation = now;
	report_attempt(state, EVENT_CONNECT, state->opened_ns, cookie);
	return true;
}

/* sendmsg with an address: the datagram's own, whatever the socket is connected to. */
static __always_inline bool sending(struct bpf_sock_addr *ctx, const union address *remote)
{
	bool loopback = is_loopback(remote);
	__u32 target = current_target();
	struct socket_state *state;
	struct peer peer = {};
	__u32 now = generation();

	peer_of(ctx, remote, ctx->protocol, &peer);
	if (target && !call_allowed(&peer, target, bpf_get_socket_cookie(ctx)))
		return false;
	if (loopback && !loopback_wanted(peer.port, target))
		return true;
	state = socket_create(sockets, ctx->sk);
	if (state && state->mode == MODE_FIXED) {
		if (state->flow.remote_port == peer.port && same_address(state->flow.remote, remote))
			return true;
		reset(state);
	}
	state = open_per_packet(state, peer.proto, loopback);
	if (!state)
		return true;
	__builtin_memcpy(state->asked, remote, ADDRESS_LEN);
	state->asked_port = peer.port;
	state->asked_target = target;
	state->asked_generation = now;
	return true;
}

/* A datagram socket that gets a port may be spoken to before it speaks. */
static __always_inline void bound(struct bpf_sock *ctx, const union address *local)
{
	bool wanted;

	if (ctx->protocol != PROTO_UDP && ctx->protocol != PROTO_UDPLITE)
		return;
	wanted = loopback_wanted(0, current_target());
	if (local->words[3] && is_loopback(local) && !wanted)
		return;
	open_per_packet(socket_create(sockets, ctx), ctx->protocol, wanted);
}

#endif /* TATTLE_CALL_BPF_H */
