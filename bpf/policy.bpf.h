/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * May it? A target's policy is asked where a call can still say no (connect, sendmsg: EPERM at once),
 * and again where the packet leaves, for what has no call (raw, SCTP, sockets handed over or opened
 * before). The answer is kept on the socket until the policies change.
 *
 * Fails closed: a socket without state, a cgroup without entry, a full table never open anything.
 */
#ifndef TATTLE_POLICY_BPF_H
#define TATTLE_POLICY_BPF_H

#include "socket.bpf.h"

/* What denied() counts. */
enum { DENIED_CALL = 1, DENIED_PACKET = 2 };

/* RFC 1918, RFC 6598 (100.64/10), RFC 3927 (169.254/16) */
static __always_inline bool is_lan_ipv4(__u32 ip)
{
	return (ip & bpf_htonl(0xff000000)) == bpf_htonl(0x0a000000) ||
	       (ip & bpf_htonl(0xfff00000)) == bpf_htonl(0xac100000) ||
	       (ip & bpf_htonl(0xffff0000)) == bpf_htonl(0xc0a80000) ||
	       (ip & bpf_htonl(0xffc00000)) == bpf_htonl(0x64400000) ||
	       (ip & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
}

/* One bit of enum scope_bit; tracer/scope.py says the same in more words. */
static __always_inline __u32 scope_of(const union address *remote)
{
	if (is_loopback(remote))
		return SCOPE_LOOPBACK;
	if (!remote->halves[0] && remote->words[2] == bpf_htonl(0xffff)) {
		/* RFC 5771 (224/4), RFC 919 (255.255.255.255) */
		if ((remote->bytes[12] & 0xf0) == 0xe0 || remote->words[3] == ~0U)
			return SCOPE_MULTICAST;
		return is_lan_ipv4(remote->words[3]) ? SCOPE_LAN : SCOPE_INTERNET;
	}
	if (remote->bytes[0] == 0xff) /* RFC 4291 2.7 */
		return SCOPE_MULTICAST;
	if ((remote->bytes[0] & 0xfe) == 0xfc ||				 /* RFC 4193 */
	    (remote->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000)) /* RFC 4291 2.5.6 */
		return SCOPE_LAN;
	return SCOPE_INTERNET;
}

static __always_inline __u16 rule_of(const __u16 *by_scope, __u32 scope)
{
	__u32 bit = scope == SCOPE_LOOPBACK    ? 0
		    : scope == SCOPE_LAN       ? 1
		    : scope == SCOPE_MULTICAST ? 2
		    : scope == SCOPE_INTERNET  ? 3
					       : 4;

	return by_scope[bit];
}

/* Deny wins over allow among the rules of a prefix; false: none of them speaks of this port. */
static __always_inline bool ask_prefix(const struct policy *policy, const struct peer *peer, bool *deny,
				       __u16 *rule)
{
	struct rule_key key = {.prefix_bits = 32 + 128, .policy = policy->number};
	const struct rules *found;
	bool spoken = false;

	__builtin_memcpy(key.address, &peer->remote, ADDRESS_LEN);
	found = map_lookup(rules, &key);
	if (!found)
		return false;
	for (int i = 0; i < RULE_PORTS; i++) {
		const struct rule_port *port = &found->ports[i];

		if (i >= found->count)
			break;
		if ((port->port && port->port != bpf_ntohs(peer->port)) ||
		    (port->proto && port->proto != peer->proto))
			continue;
		spoken = true;
		*deny = port->deny;
		*rule = port->rule;
		if (port->deny)
			break;
	}
	return spoken;
}

static __noinline __u32 judge(const struct policy *policy, const struct peer *peer)
{
	__u32 scope = peer->port == bpf_htons(DNS_PORT) ? SCOPE_DNS : scope_of(&peer->remote);
	bool deny = false;
	__u16 rule = 0;
	bool spoken = ask_prefix(policy, peer, &deny, &rule);

	if (policy->deny_scopes & scope)
		return VERDICT_DENIED | (__u32)rule_of(policy->deny_rule, scope) << 16;
	if (spoken)
		return (deny ? VERDICT_DENIED : VERDICT_ALLOWED) | (__u32)rule << 16;
	if (policy->allow_scopes & scope)
		return VERDICT_ALLOWED | (__u32)rule_of(policy->allow_rule, scope) << 16;
	if (policy->default_allow || scope == SCOPE_LOOPBACK)
		return VERDICT_ALLOWED;
	return VERDICT_DENIED;
}

static __always_inline __u8 verdict_of(__u32 judged)
{
	return judged & 0xff;
}

/* The policy of a target that has one, and does something. */
static __always_inline const struct policy *policy_of(__u32 target)
{
	const struct policy *policy = target ? map_lookup(policies, &target) : NULL;

	return policy && policy->mode != POLICY_OBSERVE ? policy : NULL;
}

/*
 * Each denial is counted in its flow. One event tells of the first, and then of so many more once a
 * second: a program that tries 100,000 times a second floods nobody.
 */
static __noinline void denied(const struct flow_key *key, const struct policy *policy, __u16 rule, __u32 how)
{
	struct flow *flow = flow_of(key);
	struct event *event;
	__u64 now = coarse_now(), total;

	if (!flow)
		return;
	if (how & DENIED_CALL) {
		add(policy->mode == POLICY_AUDIT ? &flow->would_deny : &flow->denied, 1);
		if (policy->mode != POLICY_AUDIT)
			add(&flow->attempts, 1);
	}
	if (how & DENIED_PACKET)
		add(&flow->denied_packets, 1);
	flow->rule = rule;
	flow->last_ns = now;
	total = flow->denied + flow->would_deny + flow->denied_packets;
	if (flow->denial_ns && now - flow->denial_ns < DENY_REPORT_MS * 1000000ULL)
		return;
	event = event_new(EVENT_DENY, key, bpf_ktime_get_boot_ns());
	if (!event)
		return;
	event->packets_out = total - flow->denials_reported;
	flow->denials_reported = total;
	flow->denial_ns = now;
	event->verdict = policy->mode == POLICY_AUDIT ? VERDICT_WOULD_DENY : VERDICT_DENIED;
	event->rule = rule;
	event->result = policy->mode == POLICY_AUDIT ? RESULT_OK : EPERM;
	event_send(event);
}

static __always_inline void flow_key_of(struct flow_key *key, __u64 process, const struct peer *peer)
{
	key->process = process;
	__builtin_memcpy(key->remote, &peer->remote, ADDRESS_LEN);
	key->remote_port = peer->port;
	key->proto = peer->proto;
	key->direction = DIRECTION_OUT;
	key->reserved = 0;
}

/* Has this peer sent a datagram to this socket of late? */
static __always_inline bool has_asked(__u64 cookie, const struct peer *peer)
{
	struct peer_key key = {.socket = cookie, .port = peer->port};
	const __u64 *when;

	__builtin_memcpy(key.remote, &peer->remote, ADDRESS_LEN);
	when = map_lookup(asked_peers, &key);
	return when && coarse_now() - *when < REPLY_SECONDS * 1000000000ULL;
}

static __always_inline void note_asked(__u64 cookie, const struct peer *peer)
{
	struct peer_key key = {.socket = cookie, .port = peer->port};
	__u64 now = coarse_now();

	__builtin_memcpy(key.remote, &peer->remote, ADDRESS_LEN);
	bpf_map_update_elem(&asked_peers, &key, &now, BPF_ANY);
}

/* A call of the current process to this peer: false, it fails with EPERM. */
static __noinline bool call_allowed(const struct peer *peer, __u32 target, __u64 cookie)
{
	const struct policy *policy = policy_of(target);
	struct flow_key key;
	__u32 judged;

	if (!policy)
		return true;
	judged = judge(policy, peer);
	if (verdict_of(judged) == VERDICT_ALLOWED)
		return true;
	if (peer->proto == PROTO_UDP && !policy->strict && has_asked(cookie, peer))
		return true;
	flow_key_of(&key, identify(), peer);
	denied(&key, policy, judged >> 16, DENIED_CALL);
	return policy->mode == POLICY_AUDIT;
}

#endif /* TATTLE_POLICY_BPF_H */
