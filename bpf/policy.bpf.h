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

#include "name_rules.bpf.h"

/* What denied() counts. */
enum { DENIED_CALL = 1, DENIED_PACKET = 2, DENIED_NOT = 4 /* audit */ };

/* RFC 1918, RFC 6598 (100.64/10), RFC 3927 (169.254/16) */
static __always_inline bool is_lan_ipv4(__u32 ip)
{
	return (ip & bpf_htonl(0xff000000)) == bpf_htonl(0x0a000000) ||
	       (ip & bpf_htonl(0xfff00000)) == bpf_htonl(0xac100000) ||
	       (ip & bpf_htonl(0xffff0000)) == bpf_htonl(0xc0a80000) ||
	       (ip & bpf_htonl(0xffc00000)) == bpf_htonl(0x64400000) ||
	       (ip & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
}

/* Numbers of the bits of enum scope_bit: index of allow_rule and deny_rule. */
enum scope_index { LOOPBACK = 0, LAN = 1, MULTICAST = 2, INTERNET = 3, DNS = 4, HOST = 5 };
_Static_assert(1 << LOOPBACK == SCOPE_LOOPBACK && 1 << LAN == SCOPE_LAN &&
		       1 << MULTICAST == SCOPE_MULTICAST && 1 << INTERNET == SCOPE_INTERNET &&
		       1 << DNS == SCOPE_DNS && 1 << HOST == SCOPE_HOST,
	       "scope_index numbers the bits of scope_bit");

static __always_inline enum scope_index plain_scope_of(const union address *remote)
{
	if (is_loopback(remote))
		return LOOPBACK;
	if (!remote->halves[0] && remote->words[2] == bpf_htonl(0xffff)) {
		/* RFC 5771 (224/4), RFC 919 (255.255.255.255) */
		if ((remote->bytes[12] & 0xf0) == 0xe0 || remote->words[3] == ~0U)
			return MULTICAST;
		return is_lan_ipv4(remote->words[3]) ? LAN : INTERNET;
	}
	if (remote->bytes[0] == 0xff) /* RFC 4291 2.7 */
		return MULTICAST;
	if ((remote->bytes[0] & 0xfe) == 0xfc ||				 /* RFC 4193 */
	    (remote->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000)) /* RFC 4291 2.5.6 */
		return LAN;
	return INTERNET;
}

/*
 * tracer/model/scope.py says the same in more words. Behind a NAT64 it is that of the IPv4 address, but
 * never loopback: the packet leaves this host.
 */
static __always_inline enum scope_index scope_of(const union address *remote)
{
	union address inside;
	enum scope_index scope;

	if (!is_nat64(remote))
		return plain_scope_of(remote);
	from_ipv4(&inside, nat64_inside(remote));
	scope = plain_scope_of(&inside);
	return scope == LOOPBACK ? LAN : scope;
}

/* Of a peer. An address of this host is nearer than its range says, but multicast is nobody's. */
static __always_inline enum scope_index place_of(const struct peer *peer)
{
	enum scope_index scope = scope_of(&peer->remote);

	return peer->host && (scope == LAN || scope == INTERNET) ? HOST : scope;
}

/*
 * What the rules of the longest prefix say of this port, with SPOKEN, or 0. The first that fits
 * decides; user space puts those that deny before those that allow.
 */
checked_once __u32 ask_prefix(__u32 number, __u64 high, __u64 low, __u32 port_proto, __u32 phases)
{
	struct rule_key key = {.prefix_bits = 32 + 128, .policy = number};
	union address remote = {.halves = {high, low}};
	__u16 port = bpf_ntohs(port_proto >> 16);
	const struct rules *found;

	if (is_nat64(&remote))
		from_ipv4(&remote, nat64_inside(&remote));
	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	found = map_lookup(rules, &key);
	if (!found)
		return 0;
	for (int i = 0; i < RULE_PORTS; i++) {
		const struct rule_port *rule = &found->ports[i];

		if (!rule->rule)
			return 0;
		if ((!rule->port || rule->port == port) &&
		    (!rule->proto || rule->proto == (__u8)port_proto) && speaks_in(rule->phases, phases))
			return SPOKEN | by_rule(rule->deny, rule->rule);
	}
	return 0;
}

/* Has this time not come yet? Of CLOCK_BOOTTIME, to a tick. */
checked_once __u32 is_ahead(__u64 boot_ns)
{
	return coarse_now() < boot_ns;
}

static __always_inline bool is_lifted(const struct policy *policy)
{
	return policy->until && is_ahead(policy->until);
}

/* The policy of a target that has one, and does something now. */
static __always_inline const struct policy *policy_of(__u32 target)
{
	const struct policy *policy = target ? map_lookup(policies, &target) : NULL;

	return policy && policy->mode != POLICY_OBSERVE && !is_lifted(policy) ? policy : NULL;
}

/* What judging this target depends on beside its policy, see enum terms. */
static __always_inline __u32 terms_of_one(__u32 target)
{
	const struct policy *policy = target ? map_lookup(policies, &target) : NULL;

	if (!policy)
		return TERMS_NONE;
	if (is_lifted(policy))
		return TERMS_LIFTED;
	return policy->requests ? TERMS_PHASES | phases_of(policy->requests) : TERMS_NONE;
}

/* The same for all that a number stands for: another number whenever one of them changes. */
checked_once __u32 terms_of(__u32 number)
{
	__u32 found = 0;

	for_each_member(one, number_of(number))
	{
		__u32 terms = terms_of_one(one);

		if (terms)
			found = ((found | terms) & 0xff00) | ((found * 31 + terms) & 0xff);
	}
	return found;
}

/* What the policies of these targets are (enum manner). */
checked_once __u32 manner_of(__u32 number)
{
	__u32 found = 0;

	for_each_member(one, number_of(number))
	{
		const struct policy *policy = policy_of(one);
		bool is_enforced;

		if (!policy)
			continue;
		is_enforced = policy->mode == POLICY_ENFORCE;
		found |= MANNER_POLICED | (is_enforced ? MANNER_ENFORCED : 0);
		if (policy->strict)
			found |= MANNER_STRICT | (is_enforced ? MANNER_STRICT_ENFORCED : 0);
		if (policy->names)
			found |= MANNER_NAMES | (is_enforced ? MANNER_NAMES_ENFORCED : 0);
	}
	return found;
}

/* The target whose rules by name a socket's contents are held against: the first that has any. */
checked_once __u32 with_names(__u32 number)
{
	for_each_member(one, number_of(number))
	{
		const struct policy *policy = policy_of(one);

		if (policy && policy->names)
			return one;
	}
	return 0;
}

/* What the rules by name say of a peer that the other rules deny by default. */
static __always_inline __u64 judge_by_name(__u32 target, const struct policy *policy, const struct peer *peer,
					   __u64 phases)
{
	__u64 answer;

	if (!(policy->names & NAMES_ALLOWED))
		return VERDICT_DENIED;
	if (peer->port == bpf_htons(DNS_PORT) && is_resolver(policy->number, &peer->remote))
		return VERDICT_ALLOWED | ASK_NAME;
	answer = ask_opening(phases << 32 | target, policy->number, peer->remote.halves[0],
			     peer->remote.halves[1], peer_word(peer));
	if (!answer)
		answer = ask_hosted(policy->number, peer->remote.halves[0], peer->remote.halves[1],
				    peer_word(peer), phases);
	return answer ? answer | ASK_NAME : VERDICT_DENIED;
}

/* What the policy is, beside what it says. */
static __always_inline __u32 way_of(const struct policy *policy)
{
	return (policy->mode == POLICY_AUDIT ? AUDITED : 0) | (policy->strict ? STRICT : 0) |
	       (policy->deny_scopes & SCOPE_HOST ? OWN_DENIED : 0);
}

/* A scope that is denied is denied with its DNS; one that is allowed does not allow DNS. */
static __always_inline __u64 ask_policy(__u32 target, const struct policy *policy, const struct peer *peer)
{
	enum scope_index place = place_of(peer);
	enum scope_index scope = peer->port == bpf_htons(DNS_PORT) ? DNS : place;
	__u32 phases = phases_for(policy);
	__u64 answer;

	if (policy->deny_scopes & 1 << scope)
		return by_rule(VERDICT_DENIED, policy->deny_rule[scope]);
	if (policy->deny_scopes & 1 << place)
		return by_rule(VERDICT_DENIED, policy->deny_rule[place]);
	answer = ask_prefix(policy->number, peer->remote.halves[0], peer->remote.halves[1], peer_word(peer),
			    phases);
	if (!(answer & SPOKEN) && policy->allow_scopes & 1 << scope &&
	    speaks_in(policy->allow_phases[scope], phases))
		answer = by_rule(VERDICT_ALLOWED, policy->allow_rule[scope]) | SPOKEN;
	if ((scope == LOOPBACK || scope == HOST) && !(answer & SPOKEN)) /* never leaves this host */
		return VERDICT_ALLOWED;
	if (answer & SPOKEN || policy->default_allow)
		return answer | (policy->names & NAMES_DENIED ? ASK_DENIED : 0);
	return judge_by_name(target, policy, peer, phases);
}

/* A denial, with the target whose policy denies in the upper half. */
static __always_inline __u64 denied_by(__u32 target, const struct policy *policy, __u64 answer)
{
	return (__u64)target << 32 | way_of(policy) | (__u32)answer;
}

/*
 * May one target speak to this peer? The address in two halves, then peer_word(). In the upper half of the
 * answer the name that has opened the address, if one has; of a denial the target.
 */
checked_once __u64 judge_one(__u32 target, __u64 high, __u64 low, __u32 word)
{
	struct peer peer = {
		.remote.halves = {high, low}, .port = word >> 16, .host = word >> 8, .proto = word};
	const struct policy *policy = policy_of(target);
	__u64 answer;

	if (!policy)
		return VERDICT_ALLOWED;
	answer = ask_policy(target, policy, &peer);
	return verdict_of(answer) == VERDICT_DENIED ? denied_by(target, policy, answer)
						    : answer | way_of(policy);
}

/* What two targets allow: the name that one of them asks for has to be told. */
static __always_inline __u64 allowed_by_both(__u64 one, __u64 other)
{
	__u64 both = (one | other) & (ASK_NAME | ASK_DENIED | STRICT | SPOKEN | OWN_DENIED);
	__u64 names = one >> 32 ? one : other;

	if ((one & ASK_NOTHING || !(one & ASK_NAME)) && (other & ASK_NOTHING || !(other & ASK_NAME)))
		both |= (one | other) & ASK_NOTHING;
	return names >> 32 << 32 | both;
}

/* May these targets? What one denies is denied; by a policy that only counts, if no other one denies. */
checked_once __u64 judge_numbers(__u32 number, __u64 high, __u64 low, __u32 word)
{
	__u64 allowed = 0, audited = 0;

	if (number < SETS_FROM)
		return judge_one(number, high, low, word);
	for_each_member(one, number)
	{
		__u64 answer = judge_one(one, high, low, word);

		if (verdict_of(answer) == VERDICT_ALLOWED)
			allowed = allowed_by_both(allowed, answer);
		else if (!(answer & AUDITED))
			return answer;
		else if (!audited)
			audited = answer;
	}
	return audited ? audited : allowed;
}

static __always_inline __u64 judge(__u32 target, const struct peer *peer)
{
	return judge_numbers(number_of(target), peer->remote.halves[0], peer->remote.halves[1],
			     peer_word(peer));
}

/* What the targets of a set beside this one say: a denial, or 0. */
checked_once __u64 judge_others(__u64 but_number, __u64 high, __u64 low, __u32 word)
{
	__u32 number = but_number, but = but_number >> 32;

	if (number < SETS_FROM)
		return VERDICT_ALLOWED;
	for_each_member(one, number)
	{
		__u64 answer = one == but ? VERDICT_ALLOWED : judge_one(one, high, low, word);

		if (verdict_of(answer) == VERDICT_DENIED && !(answer & AUDITED))
			return answer;
	}
	return VERDICT_ALLOWED;
}

static __always_inline void report_denial(const struct flow_key *key, struct flow *flow, bool audit,
					  __u16 rule, __u32 target)
{
	__u64 total = flow->denied + flow->would_deny + flow->denied_packets;
	struct event *event = event_new(EVENT_DENY, key, bpf_ktime_get_boot_ns());

	if (!event)
		return;
	event->packets_out = total - flow->denials_reported;
	flow->denials_reported = total;
	event->verdict = audit ? VERDICT_WOULD_DENY : VERDICT_DENIED;
	event->rule = rule;
	event->target = target;
	event->result = audit ? RESULT_OK : EPERM;
	event_send(event);
}

/*
 * Each denial is counted in its flow. One event tells of the first, and then of so many more once a
 * second: a program that tries 100,000 times a second floods nobody.
 */
checked_once int denied_numbers(__u64 process, __u64 high, __u64 low, __u64 port_proto_direction,
				__u64 target_rule_how)
{
	__u32 rule_how = target_rule_how;
	union address remote = {.halves = {high, low}};
	struct flow_key key = {.process = process,
			       .remote_port = port_proto_direction >> 16,
			       .proto = port_proto_direction >> 8,
			       .direction = port_proto_direction,
			       .phase = port_proto_direction >> 32};
	bool audit = rule_how & DENIED_NOT;
	struct flow *flow;
	__u64 now = coarse_now();

	__builtin_memcpy(key.remote, &remote, ADDRESS_LEN);
	flow = flow_of(&key);
	if (!flow)
		return 0;
	if (audit)
		add(&flow->would_deny, 1);
	if (!audit && rule_how & DENIED_CALL) {
		add(&flow->denied, 1);
		add(&flow->attempts, 1);
	}
	if (!audit && rule_how & DENIED_PACKET)
		add(&flow->denied_packets, 1);
	flow->rule = rule_how >> 16;
	flow->last_ns = now;
	if (flow->denial_ns && now - flow->denial_ns < DENY_REPORT_MS * 1000000ULL)
		return 0;
	flow->denial_ns = now;
	report_denial(&key, flow, audit, rule_how >> 16, target_rule_how >> 32);
	return 0;
}

/* `judged`: a denial, with its target. */
static __always_inline void denied(const struct flow_key *key, __u64 judged, __u32 how)
{
	const union address *remote = (const void *)key->remote;

	denied_numbers(key->process, remote->halves[0], remote->halves[1],
		       (__u64)key->phase << 32 | (__u64)key->remote_port << 16 | (__u32)key->proto << 8 |
			       key->direction,
		       (judged & 0xffffffffffff0000) | how | (judged & AUDITED ? DENIED_NOT : 0));
}

static __always_inline void flow_key_of(struct flow_key *key, __u64 process, __u8 phase,
					const struct peer *peer)
{
	key->process = process;
	__builtin_memcpy(key->remote, &peer->remote, ADDRESS_LEN);
	key->remote_port = peer->port;
	key->proto = peer->proto;
	key->direction = DIRECTION_OUT;
	key->phase = phase;
	__builtin_memset(key->reserved, 0, sizeof(key->reserved));
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
	map_put(asked_peers, &key, &now);
}

/* An incomplete message leaves where holding its packet does not help, or would change what is only counted.
 */
static __always_inline bool waits_no_more(struct __sk_buff *skb, const struct policy *policy)
{
	return policy->mode == POLICY_AUDIT || is_full(skb);
}

/*
 * May a socket of this protocol be made? No hook is asked when SCTP or DCCP connects: what is denied would be
 * dropped, and the program wait. So where the policy can allow nothing of it, not even the socket is made.
 */
checked_once int socket_allowed(__u32 number, __u32 proto)
{
	__u32 kind = proto == PROTO_SCTP ? UNASKED_SCTP : proto == PROTO_DCCP ? UNASKED_DCCP : 0;
	struct peer nowhere = {.proto = proto};
	struct flow_key key;

	if (!kind)
		return true;
	for_each_member(one, number_of(number))
	{
		const struct policy *policy = policy_of(one);

		if (!policy || policy->mode != POLICY_ENFORCE || policy->default_allow ||
		    policy->unasked & kind)
			continue;
		flow_key_of(&key, identify(number), phase_of(number), &nowhere);
		denied(&key, denied_by(one, policy, VERDICT_DENIED), DENIED_CALL);
		return false;
	}
	return true;
}

/* What a call of the current process to this peer is told. */
enum answer {
	ANSWER_NO,   /* EPERM */
	ANSWER_ONCE, /* yes, but ask again: an answer to a peer that asked, or a denial that is only counted
		      */
	ANSWER_YES,
	ANSWER_LATER, /* the packet is asked: only its way tells whether the address is this host's */
};

/* Would this peer be allowed if its address were one of this host? */
static __always_inline bool own_would_pass(__u32 target, const struct peer *peer)
{
	struct peer own = *peer;

	own.host = 1;
	return verdict_of(judge(target, &own)) == VERDICT_ALLOWED;
}

/* `cookie` 0: a socket that nobody has spoken to yet. `unsure`: whether the address is this host's. */
static __always_inline enum answer ask_call(const struct peer *peer, __u32 target, __u64 cookie, bool unsure)
{
	__u64 judged = is_held(target) ? VERDICT_ALLOWED : judge(target, peer); /* its packets are held */
	bool audit = judged & AUDITED, is_denied = verdict_of(judged) == VERDICT_DENIED;
	struct flow_key key;

	if (unsure && is_denied && peer->port == bpf_htons(DNS_PORT))
		return ANSWER_LATER;
	if (unsure && (is_denied || judged & OWN_DENIED) && is_denied == own_would_pass(target, peer))
		return ANSWER_LATER;
	if (!is_denied) /* if need be, its packets are asked for a name */
		return ANSWER_YES;
	if (cookie && peer->proto == PROTO_UDP && !(judged & STRICT) && has_asked(cookie, peer))
		return ANSWER_ONCE;
	flow_key_of(&key, identify(target), phase_of(target), peer);
	denied(&key, judged, DENIED_CALL);
	return audit ? ANSWER_ONCE : ANSWER_NO;
}

#endif /* TATTLE_POLICY_BPF_H */
