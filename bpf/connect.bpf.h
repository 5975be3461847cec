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
 * Is this an address of the host, in the network namespace of the caller? User space has entered those that
 * it knows (tracer/netlink/addresses.py). Trusted no farther than the call: packets are judged by their way.
 */
checked_once int is_own(__u64 high, __u64 low)
{
	struct numbered_address key = {.number = READ(current_task(), nsproxy, net_ns, ns.inum)};
	union address remote = {.halves = {high, low}};

	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	return map_lookup(own_addresses, &key) != NULL;
}

/* include/uapi/linux/in.h, in6.h */
struct socket_address4 {
	__u16 family;
	__be16 port;
	__be32 address;
	__u8 zero[8];
};

struct socket_address6 {
	__u16 family;
	__be16 port;
	__be32 flow;
	__u32 address[4];
	__u32 scope;
};

enum { NO_SUCH_ADDRESS = -99, BOUND_ALREADY = -22 }; /* EADDRNOTAVAIL, EINVAL: asm-generic/errno.h */

static __always_inline long bind_to4(struct bpf_sock_addr *ctx, __be32 ip)
{
	struct socket_address4 here = {.family = AF_INET, .address = ip};

	return bpf_bind(ctx, (void *)&here, sizeof(here));
}

static __always_inline long bind_to6(struct bpf_sock_addr *ctx, __u64 high, __u64 low)
{
	union address address = {.halves = {high, low}};
	struct socket_address6 here = {};

	here.family = AF_INET6; /* an initializer would be a constant, which 5.10 does not know */
	asm volatile("" : : "r"(&here) : "memory");
	__builtin_memcpy(here.address, &address, sizeof(address));
	return bpf_bind(ctx, (void *)&here, sizeof(here));
}

/*
 * The kernel knows its own addresses better than any table: it binds a socket to no other (net/ipv4/af_inet.c
 * __inet_bind, net/ipv6/af_inet6.c __inet6_bind). Binding changes nothing for who connects to an own address,
 * since that is the source, too. Where another one is bound as well (IP_FREEBIND, ip_nonlocal_bind) the first
 * one proves nothing: 240/4 (RFC 1112 4) and 100::/64 (RFC 6666) are nobody's.
 */
checked_once int binds_to(struct bpf_sock_addr *ctx, __u64 high, __u64 low)
{
	bool ipv4 = ctx->user_family == AF_INET;
	long own = ipv4 ? bind_to4(ctx, low >> 32) : bind_to6(ctx, high, low);

	if (own && !(ipv4 && own == BOUND_ALREADY))
		return false;
	if (ipv4 && bind_to4(ctx, bpf_htonl(0xf0000001)) == NO_SUCH_ADDRESS)
		return true;
	if (!ipv4 &&
	    bind_to6(ctx, bpf_be64_to_cpu(0x0100000000000000ULL), bpf_be64_to_cpu(1)) == NO_SUCH_ADDRESS)
		return true;
	if (ipv4)
		bind_to4(ctx, 0);
	else
		bind_to6(ctx, 0, 0);
	return false;
}

/* Known at the call, before the first packet shows it. */
static __always_inline void mark_own(const struct socket_state *state)
{
	struct slot *slot = slot_at(state->slot);

	if (slot)
		slot->flags |= FLOW_VIA_LOOPBACK;
}

/* May this connect go on? An own address that no table has is only looked for where the answer were no. */
static __always_inline bool connect_allowed(struct bpf_sock_addr *ctx, struct peer *peer, __u32 target)
{
	const union address *remote = &peer->remote;
	enum answer answer = ask_call(peer, target, 0, !peer->host);

	if (answer != ANSWER_LATER)
		return answer != ANSWER_NO;
	peer->host = binds_to(ctx, remote->halves[0], remote->halves[1]);
	return ask_call(peer, target, 0, false) != ANSWER_NO;
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
	__u32 now = generation(), terms = terms_of(target); /* before the policy, see judge_socket() */

	if (!datagrams && ctx->protocol != PROTO_TCP && ctx->protocol != PROTO_MPTCP)
		return true;
	if (!datagrams && READ(current_task(), flags) & PF_KTHREAD)
		return true; /* nobody's call: tcp_connecting() finds out whose */
	peer_of(ctx, remote, datagrams ? PROTO_UDP : PROTO_TCP, &peer);
	if (!datagrams && !is_loopback(remote))
		peer.host = is_own(remote->halves[0], remote->halves[1]);
	if (!datagrams && target && !connect_allowed(ctx, &peer, target))
		return false;
	if (is_loopback(remote) && !loopback_wanted(peer.port, target)) {
		forget_peer(socket_lookup(sockets, ctx->sk));
		return true;
	}
	state = socket_create(sockets, ctx->sk);
	if (!state) {
		lost(LOSS_STORAGE_REFUSED);
		return !manner_of(current_mark()); /* its packets would not tell whose it is */
	}
	open_fixed(state, remote, peer.port, peer.proto, identify(target), phase_of(target));
	state->own_phase = only_phase(busy_phases(target));
	state->marked = current_mark();
	if (datagrams)
		return true;
	state->asked_target = target;
	state->asked_generation = now;
	state->asked_terms = terms;
	if (peer.host)
		mark_own(state);
	report_attempt(state, EVENT_CONNECT, state->opened_ns, bpf_get_socket_cookie(ctx));
	return true;
}

/* Has this socket asked for this very peer just before, for the same target, policies and terms? */
static __always_inline bool asked_before(const struct socket_state *state, const struct peer *peer,
					 __u32 target, __u32 now, __u32 terms)
{
	return state && !(state->flags & SOCKET_ASK_AGAIN) && state->asked_target == target &&
	       state->asked_generation == now && state->asked_terms == terms &&
	       state->asked_port == peer->port && same_address(state->asked, &peer->remote);
}

/* No packet of this socket has shown of late that the address it named last is another host's. */
static __always_inline bool may_be_own(const struct socket_state *state, const struct peer *peer)
{
	return !peer->host && !is_loopback(&peer->remote) &&
	       !(state && state->foreign_until > seconds_now() && same_address(state->asked, &peer->remote));
}

/* Does a datagram socket of this network namespace take what is sent to this port, if the address is own? */
checked_once int received_here(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u32 port)
{
	union address remote = {.halves = {high, low}};
	bool ipv4 = !high && remote.words[2] == bpf_htonl(0xffff);
	struct bpf_sock_tuple way = {};
	struct bpf_sock *sk;

	if (ipv4) {
		way.ipv4.saddr = way.ipv4.daddr = remote.words[3];
		way.ipv4.dport = port;
		sk = bpf_sk_lookup_udp(ctx, &way, sizeof(way.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(way.ipv6.saddr, &remote, sizeof(remote));
		__builtin_memcpy(way.ipv6.daddr, &remote, sizeof(remote));
		way.ipv6.dport = port;
		sk = bpf_sk_lookup_udp(ctx, &way, sizeof(way.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/* A question for a name: its packet is dropped as well, but tells which name was wanted. */
checked_once int is_targets_resolver(__u32 number, __u64 high, __u64 low)
{
	union address remote = {.halves = {high, low}};

	for_each_member(one, number_of(number))
	{
		const struct policy *policy = policy_of(one);

		if (policy && is_resolver(policy->number, &remote))
			return true;
	}
	return false;
}

/* May this datagram go on? An answer of no is given here and at once, unless somebody here would receive it.
 */
static __always_inline enum answer ask_datagram(struct bpf_sock_addr *ctx, const struct socket_state *state,
						const struct peer *peer, __u32 target)
{
	__u64 cookie = state ? bpf_get_socket_cookie(ctx) : 0;
	bool asks_name = peer->port == bpf_htons(DNS_PORT) &&
			 is_targets_resolver(target, peer->remote.halves[0], peer->remote.halves[1]);
	enum answer answer = ask_call(peer, target, cookie, asks_name || may_be_own(state, peer));

	if (answer == ANSWER_LATER && !asks_name &&
	    !received_here(ctx, peer->remote.halves[0], peer->remote.halves[1], peer->port))
		return ask_call(peer, target, cookie, false);
	return answer;
}

/* sendmsg with an address: the datagram's own, whatever the socket is connected to. */
static __always_inline bool sending(struct bpf_sock_addr *ctx, const union address *remote)
{
	bool loopback = is_loopback(remote);
	__u32 target = current_target();
	struct socket_state *state;
	struct peer peer = {};
	__u32 now = generation(), terms = terms_of(target);
	enum answer answer = ANSWER_YES;

	peer_of(ctx, remote, ctx->protocol, &peer);
	if (target && !loopback)
		peer.host = is_own(remote->halves[0], remote->halves[1]);
	state = socket_lookup(sockets, ctx->sk);
	if (target && !asked_before(state, &peer, target, now, terms))
		answer = ask_datagram(ctx, state, &peer, target);
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
		return !manner_of(current_mark());
	__builtin_memcpy(state->asked, remote, ADDRESS_LEN);
	state->asked_port = peer.port;
	state->asked_target =
		peer.host || answer == ANSWER_LATER ? 0 : target; /* else its packet is judged */
	state->asked_generation = now;
	state->asked_terms = terms;
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
