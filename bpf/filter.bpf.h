/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * May this packet leave? Asked by the socket's own cgroup, whoever runs: it catches what no call
 * could (raw, SCTP, a descriptor that was handed over, a socket older than the policy).
 */
#ifndef TATTLE_FILTER_BPF_H
#define TATTLE_FILTER_BPF_H

#include "dns_tcp.bpf.h"
#include "tls.bpf.h"

checked_once __u32 packet_target(struct __sk_buff *skb)
{
	const struct settings *now = setting();
	const struct cgroup_entry *entry;
	__u64 cgroup;

	if (!now || !now->targets)
		return 0;
	cgroup = bpf_skb_cgroup_id(skb);
	entry = map_lookup(cgroups, &cgroup);
	return entry ? entry->target : target_above(bpf_skb_ancestor_cgroup_id, skb, );
}

/* May the rule that has opened this address still be used? Answers that expire close for new connections. */
static __always_inline __u64 judge_named(const struct socket_state *state, const struct policy *policy,
					 const struct peer *peer)
{
	__u32 answer = state->name ? ask_named(policy->number, state->name,
					       (__u32)peer->port << 16 | peer->proto, phases_for(policy))
				   : 0;

	return answer ? (__u64)state->name << 32 | answer | ASK_NAME : VERDICT_DENIED;
}

/* What is allowed, is it as far as its content tells a name? */
static __always_inline void ask_content(struct socket_state *state, __u32 target, __u64 answer)
{
	bool ask = answer & (ASK_NAME | ASK_DENIED);

	if (answer & ASK_NAME)
		state->name = answer >> 32;
	if (answer & ASK_NAME && state->name && state->flow.proto == PROTO_TCP)
		keep_open(state, target, state->name);
	if (ask && state->flow.remote_port == bpf_htons(DNS_PORT))
		state->care |= CARE_QUERY;
	else if (ask && state->flow.proto == PROTO_TCP && !(answer & ASK_NOTHING) &&
		 !(state->flags & SOCKET_NAMED))
		state->care |= CARE_SNI;
}

/* By the rule that has let it pass before, where its target is the one that denies and no other one does. */
static __always_inline __u64 judge_again(const struct socket_state *state, const struct peer *peer,
					 __u64 answer)
{
	const struct policy *policy = policy_of(state->named);
	__u64 beside, named;

	if (answer & SPOKEN || !policy || answer >> 32 != state->named)
		return answer;
	named = judge_named(state, policy, peer);
	if (verdict_of(named) == VERDICT_DENIED)
		return answer;
	beside = judge_beside(state, peer);
	return verdict_of(beside) == VERDICT_DENIED ? beside : named;
}

/* Has the call let this socket's peer pass, for the same targets, under the same policies and terms? */
static __always_inline bool was_let_pass(const struct socket_state *state, __u32 target)
{
	return state->asked_target == target && state->asked_generation == generation() &&
	       state->asked_terms == state->terms;
}

/* Connect was judged for the caller's targets; if those are the socket's too, it has been counted. */
static __always_inline void judge_fixed(struct __sk_buff *skb, struct socket_state *state, __u32 target)
{
	struct flow_key key = state->flow;
	struct peer peer = {
		.port = key.remote_port, .proto = key.proto, .host = skb->ifindex == LOOPBACK_IFINDEX};
	__u64 answer;

	__builtin_memcpy(&peer.remote, key.remote, ADDRESS_LEN);
	answer = judge(target, &peer);
	if (verdict_of(answer) == VERDICT_DENIED)
		answer = judge_again(state, &peer, answer);
	if (verdict_of(answer) == VERDICT_ALLOWED && !(state->flags & SOCKET_OVER)) {
		if (peer.host)
			state->care |= CARE_HOST;
		ask_content(state, state->named, answer);
		return;
	}
	state->rule = answer >> 16;
	state->denier = answer >> 32;
	if (!(answer & AUDITED))
		state->verdict = VERDICT_DENIED;
	else if (!was_let_pass(state, target))
		denied(&key, answer, DENIED_CALL);
}

static __always_inline bool is_here(const struct socket_state *state)
{
	return state->mode == MODE_FIXED && is_loopback((const union address *)state->flow.remote);
}

static __always_inline bool is_answering(const struct socket_state *state)
{
	return state->mode == MODE_LISTENER ||
	       (state->mode == MODE_FIXED && state->flow.direction == DIRECTION_IN);
}

/* Strict: no answers either, but to this host. A listener's packets say themselves whom they are for. */
static __always_inline void judge_answers(struct __sk_buff *skb, struct socket_state *state)
{
	bool here = state->mode == MODE_FIXED && skb->ifindex == LOOPBACK_IFINDEX;

	if (here)
		state->care |= CARE_HOST;
	else if (state->manner & MANNER_STRICT_ENFORCED)
		state->verdict = VERDICT_DENIED;
}

/* Not decided yet: nothing but loopback, and no names there. Datagrams are asked one by one. */
static __always_inline void judge_held(struct socket_state *state)
{
	if (state->mode == MODE_LISTENER ||
	    (state->mode == MODE_FIXED &&
	     (!is_here(state) || state->flow.remote_port == bpf_htons(DNS_PORT))))
		state->verdict = VERDICT_DENIED;
}

/*
 * Of a target whose API is known: what it starts is counted by phase, what it accepts is listened in to.
 * A connection that once was goes on to be, that its requests in flight have an end.
 */
static __noinline void care_for_phase(struct socket_state *state, __u32 target)
{
	bool is_phased = phased_target(target);
	bool accepted = state->mode == MODE_FIXED && state->flow.direction == DIRECTION_IN;

	if (state->mode == MODE_LISTENER && is_phased)
		state->flags |= SOCKET_LOOPBACK;
	else if (accepted && is_phased && state->flow.proto == PROTO_TCP)
		state->care |= CARE_TALK;
	else if (!accepted && state->mode != MODE_LISTENER && (is_phased || state->flow.phase))
		state->care |= CARE_PHASE;
}

/* Everything that is known of whose a socket is, as one number. */
checked_once __u32 label_of(__u64 process_id, __u32 target)
{
	const struct process *process = map_lookup(processes, &process_id);
	__u64 cgroup;

	if (!process)
		return number_of(target);
	cgroup = process->key.cgroup;
	return number_of(unite(target, target_of(cgroup)));
}

/* The targets of a socket: of the process that used it last, and of its own cgroup. */
static __always_inline __u32 socket_target(struct __sk_buff *skb, struct socket_state *state)
{
	state->marked = mark_of_process(state->flow.process, state->marked);
	return unite(state->marked, packet_target(skb));
}

/* Whose it is now: its flow goes on under that name. */
static __noinline void label_socket(struct socket_state *state, __u32 target)
{
	__u64 process = state->flow.process;

	state->target = phased_member(number_of(target));
	if (process)
		give_flow(state, relabel(process, label_of(process, target)));
}

static __always_inline void judge_policed(struct __sk_buff *skb, struct socket_state *state, __u32 target)
{
	if (is_held(target))
		judge_held(state);
	else if (state->manner && is_answering(state))
		judge_answers(skb, state);
	else if (state->manner && state->mode == MODE_FIXED)
		judge_fixed(skb, state, target);
}

/*
 * Once a socket, and again when a policy has changed, or what it depends on. Both are read before the
 * policy: who changes the policy raises the generation afterwards, so an old answer never bears the new
 * number. What is held is asked at each packet.
 */
static __noinline void judge_socket(struct __sk_buff *skb, struct socket_state *state)
{
	__u32 now = generation();
	__u32 target = socket_target(skb, state);
	const struct bpf_sock *sk = skb->sk;

	state->terms = terms_of(target);
	state->verdict = VERDICT_ALLOWED;
	state->manner = manner_of(target);
	state->named = state->manner & MANNER_NAMES ? with_names(target) : 0;
	state->policed = state->manner || state->terms || is_held(target) ? target : 0;
	label_socket(state, target);
	state->care &= ~(CARE_QUERY | CARE_SNI | CARE_PHASE | CARE_HOST);
	care_for_phase(state, state->target);
	judge_policed(skb, state, target);
	if (state->manner & MANNER_NAMES_ENFORCED && sk && sk->src_port == DNS_PORT)
		state->verdict = VERDICT_DENIED; /* whoever answers its own questions opens what it likes */
	state->generation = is_held(target) ? ~now : now;
}

/* A reset without data: it tells the peer of a connection that was cut, and carries nothing else. */
checked_once int is_bare_reset(struct __sk_buff *skb)
{
	struct peer peer = {};
	__u32 offset = skb->protocol == bpf_htons(ETH_P_IP) ? read_ipv4(skb, true, &peer)
							    : read_ipv6(skb, true, &peer);
	struct {
		__u8 words, flags;
	} tcp;

	if (!offset || peer.proto != PROTO_TCP || !load(skb, offset + 12, &tcp))
		return false;
	return tcp.flags & 4 && skb->len == offset + (tcp.words >> 4) * 4; /* RFC 9293 3.1: RST */
}

/* Data that a connection sends outside of its phase ends it: they must not leave with the next pull. */
static __noinline void mark_over(struct __sk_buff *skb, struct socket_state *state)
{
	if (has_payload(skb))
		state->flags |= SOCKET_OVER;
}

/* A packet of a socket that is denied as a whole. */
static __noinline bool pass_denied(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	struct flow_key key = state->flow;
	bool stream = key.proto == PROTO_TCP;

	if (!state->policed || (state->mode == MODE_LISTENER && skb->ifindex == LOOPBACK_IFINDEX))
		return true;
	if (!out)
		return false;
	if (is_held(state->policed)) {
		count_held();
		return false;
	}
	if (stream && is_bare_reset(skb))
		return true;
	if (stream && state->terms & TERMS_PHASES)
		mark_over(skb, state);
	denied(&key, (__u64)state->denier << 32 | (__u32)state->rule << 16,
	       stream ? DENIED_PACKET : DENIED_CALL | DENIED_PACKET);
	return false;
}

/* A datagram of a candidate. */
static __always_inline bool held_passes(const struct peer *peer)
{
	if (is_loopback(&peer->remote) && peer->port != bpf_htons(DNS_PORT))
		return true;
	count_held();
	return false;
}

/* Port 53: the rules by name, and what the other targets of the socket say. */
static __noinline bool names_allowed(struct __sk_buff *skb, struct socket_state *state,
				     const struct peer *peer)
{
	const struct policy *policy = policy_of(state->named);
	__u64 beside = judge_beside(state, peer);
	struct flow_key key;

	if (verdict_of(beside) != VERDICT_DENIED)
		return !policy || query_passes(skb, state, policy, peer);
	flow_key_of(&key, state->flow.process, state->flow.phase, peer);
	denied(&key, beside, DENIED_CALL | DENIED_PACKET);
	return false;
}

/*
 * A datagram or raw packet of a target's socket. What sendmsg has let pass for the same target goes;
 * so does what leaves for another address than it named and has no peer of its own (then it was
 * translated on its way). All else is judged by what the packet says.
 */
static __always_inline bool datagram_allowed(struct __sk_buff *skb, struct socket_state *state,
					     const struct peer *peer)
{
	struct bpf_sock *sk = skb->sk;
	struct flow_key key;
	__u64 answer;

	if (is_held(state->policed))
		return held_passes(peer);
	if (state->manner & MANNER_NAMES && asks_names(state, peer))
		return names_allowed(skb, state, peer);
	if (state->manner & MANNER_NAMES && from_dns_port(skb, peer->proto))
		return !(state->manner & MANNER_NAMES_ENFORCED);
	if (state->asked_target == state->policed && state->asked_generation == generation() && sk &&
	    (!sk->dst_port || (peer->port == state->asked_port && same_address(&peer->remote, state->asked))))
		return true;
	answer = judge(state->policed, peer);
	if (verdict_of(answer) == VERDICT_ALLOWED)
		return true;
	if (peer->proto == PROTO_UDP && !(state->manner & MANNER_STRICT) &&
	    has_asked(bpf_get_socket_cookie(skb), peer))
		return true;
	if (!peer->host && same_address(&peer->remote, state->asked))
		state->foreign_until = seconds_now() + FOREIGN_SECONDS;
	flow_key_of(&key, state->flow.process, state->flow.phase, peer);
	denied(&key, answer, DENIED_CALL | DENIED_PACKET);
	return answer & AUDITED;
}

/* IPv4 options, or an IPv6 header before the transport's: a source route may be among them. */
static __always_inline bool has_options(struct __sk_buff *skb)
{
	struct {
		__u8 version_words, skipped[5], next;
	} ip;

	if (!load(skb, 0, &ip))
		return true;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (ip.version_words & 15) > 5;
	return ip.next == PROTO_HOPOPTS || ip.next == PROTO_ROUTING || ip.next == PROTO_DSTOPTS;
}

/*
 * With a source route (RFC 791 3.1, RFC 8200 4.4) a packet leaves for another address than the call
 * named: a program may name loopback and reach the internet. So whatever was judged before, such a
 * packet is judged by its own address.
 */
static __noinline bool options_allowed(struct __sk_buff *skb, const struct socket_state *state)
{
	struct peer peer = {};
	struct flow_key key;
	__u64 answer;

	if (!state->manner)
		return true;
	if (!read_peer(skb, true, &peer))
		return !(state->manner & MANNER_ENFORCED);
	if (state->mode == MODE_FIXED && same_address(&peer.remote, state->flow.remote))
		return true;
	answer = judge(state->policed, &peer);
	if (verdict_of(answer) == VERDICT_ALLOWED && !(answer & ASK_NAME))
		return true;
	flow_key_of(&key, state->flow.process, state->flow.phase, &peer);
	denied(&key, answer, peer.proto == PROTO_TCP ? DENIED_PACKET : DENIED_CALL | DENIED_PACKET);
	return !(state->manner & MANNER_ENFORCED);
}

/* No state at all: the kernel gave no memory for it. Only what needs none can be allowed. */
static __noinline bool stateless_allowed(struct __sk_buff *skb, bool out)
{
	__u32 target = packet_target(skb);
	struct peer peer = {};
	__u64 answer;

	if (is_held(target))
		return false;
	if (!(manner_of(target) & MANNER_ENFORCED) || !out)
		return true;
	if (!read_peer(skb, out, &peer))
		return false;
	answer = judge(target, &peer);
	return answer & AUDITED ||
	       (verdict_of(answer) == VERDICT_ALLOWED && !(answer & (ASK_NAME | ASK_DENIED)));
}

#endif /* TATTLE_FILTER_BPF_H */
