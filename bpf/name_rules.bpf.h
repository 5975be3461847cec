/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rules by name: what a name is allowed, and which addresses answers have opened for a target.
 *
 * A name is compared byte by byte, in lower case, as its protocol writes it: no hash that a program
 * could find a collision of, and no dot inside a label that passes for a border of labels.
 */
#ifndef TATTLE_NAME_RULES_BPF_H
#define TATTLE_NAME_RULES_BPF_H

#include "socket.bpf.h"
#include "stream.bpf.h"

/* A verdict and the rule that gave it (0: the default), in one number. */
static __always_inline __u32 by_rule(enum verdict verdict, __u16 rule)
{
	return verdict | (__u32)rule << 16;
}

static __always_inline enum verdict verdict_of(__u32 judged)
{
	return judged & 0xff;
}

/* Above the verdict, below the rule's number. */
enum {
	SPOKEN = 0x100,	     /* a rule said so */
	ASK_NAME = 0x200,    /* allowed if a rule allows the name that its content tells */
	ASK_DENIED = 0x400,  /* allowed unless a rule denies that name */
	ASK_NOTHING = 0x800, /* allowed by a name, whatever the content tells */
	AUDITED = 0x1000,    /* by a policy that only counts */
	STRICT = 0x2000,     /* by one that denies answers, too */
	OWN_DENIED = 0x4000, /* by one that denies the addresses of this host */
};

/*
 * What ask_name() answers: the rule's number for the name below, which rule it is, what it says and, in the
 * top byte, the phases that it is bound to.
 */
enum { NAME_SPOKEN = 1 << 16, NAME_DENIED = 1 << 17 };

static __always_inline __u64 name_answer(const struct name_rules *found)
{
	__u32 said = found->rule | NAME_SPOKEN | (found->deny ? NAME_DENIED : 0);

	return (__u64)(said | (__u32)found->phases << 24) << 32 | found->id;
}

/*
 * A-Z to a-z in eight bytes at once. A length byte of DNS is at most 63, and 'A' is 65.
 * Each byte's top bit tells what an addition says of its low seven ones, and none carries over.
 */
static __always_inline __u64 lower(__u64 word)
{
	const __u64 tops = 0x8080808080808080ULL, ones = 0x0101010101010101ULL;
	__u64 low = word & ~tops;
	__u64 from_a = low + (0x80 - 'A') * ones;
	__u64 past_z = low + (0x80 - 'Z' - 1) * ones;

	return word | (((from_a & ~past_z & ~word) & tops) >> 2);
}

/* An answer of ask_name(), if it holds in these phases: those of a longer name hold whenever a shorter one's
 * do. */
static __always_inline __u64 held_in(__u64 answer, __u32 phases)
{
	return speaks_in(answer >> 56, phases) ? answer << 8 >> 8 : 0;
}

/* The rules of the name that stands at `offset`. */
checked_once __u64 ask_name(struct __sk_buff *skb, __u32 policy, __u32 form, __u32 offset, __u32 length)
{
	struct name_key key = {.policy = policy, .form = form, .length = length};
	const struct name_rules *found;
	__u64 *words = (__u64 *)key.text;
	bounded last = length - 1;

	asm volatile("" : "+r"(last)); /* one comparison and then one more: what 5.10 understands */
	if (last >= NAME_LEN || !text_at(skb, offset, key.text, last))
		return 0;
	for (int i = 0; i < NAME_LEN / 8; i++)
		words[i] = lower(words[i]);
	found = map_lookup(names, &key);
	return found ? name_answer(found) : 0;
}

/*
 * Two answers of one name: a denial beats all, the longer name's beats the shorter's. Checked
 * once: its branches would double the states of the loop around it.
 */
checked_once __u64 stronger(__u64 longer, __u64 shorter)
{
	if (!longer || shorter >> 32 & NAME_DENIED)
		return shorter ? shorter : longer;
	return longer;
}

/* What the rules of this name say of a port, as ask_prefix() does. */
checked_once __u32 ask_named(__u32 policy, __u32 id, __u32 port_proto, __u32 phases)
{
	struct named_key key = {.policy = policy, .id = id};
	const struct name_rules *found = map_lookup(named, &key);
	__u16 port = bpf_ntohs(port_proto >> 16);

	if (!found)
		return 0;
	for (int i = 0; i < RULE_PORTS; i++) {
		const struct rule_port *rule = &found->rules.ports[i];

		if (!rule->rule)
			return 0;
		if ((!rule->port || rule->port == port) &&
		    (!rule->proto || rule->proto == (__u8)port_proto) && speaks_in(rule->phases, phases))
			return SPOKEN | by_rule(rule->deny, rule->rule) | (rule->plain ? ASK_NOTHING : 0);
	}
	return 0;
}

/* The phases that the rules of this policy may ask for. */
static __always_inline __u32 phases_for(const struct policy *policy)
{
	return policy->requests ? phases_of(policy->requests) : 0;
}

static __always_inline bool name_opens_lan(__u32 policy, __u32 id)
{
	struct named_key key = {.policy = policy, .id = id};
	const struct name_rules *found = map_lookup(named, &key);

	return found && found->lan;
}

static __always_inline __u32 seconds_now(void)
{
	return coarse_now() / 1000000000ULL;
}

/*
 * Has an answer opened this address for the target, by a name that may be spoken to at this port? The
 * name's number in the upper half, what its rule says in the lower.
 */
checked_once __u64 ask_opening(__u64 phases_target, __u32 policy, __u64 high, __u64 low, __u32 port_proto)
{
	struct numbered_address key = {.number = phases_target};
	union address remote = {.halves = {high, low}};
	const struct opening *opening;
	__u32 now = seconds_now(), phases = phases_target >> 32;

	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	opening = map_lookup(openings, &key);
	if (!opening)
		return 0;
	for (int i = 0; i < OPENINGS; i++) {
		__u32 name = opening->by[i].name;
		bool open = opening->by[i].until > now || opening->by[i].open;
		__u32 answer = name && open ? ask_named(policy, name, port_proto, phases) : 0;

		if (answer)
			return (__u64)name << 32 | answer;
	}
	return 0;
}

/* A target was given this address for a name. Two who race for one place leave one of them closed. */
checked_once int open_address(__u32 target, __u64 high, __u64 low, __u32 name, __u32 until)
{
	struct numbered_address key = {.number = target};
	union address remote = {.halves = {high, low}};
	struct opening none = {};
	struct opening *opening;
	__u32 now = seconds_now();
	int place = -1;

	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	map_insert(openings, &key, &none);
	opening = map_lookup(openings, &key);
	for (int i = 0; opening && i < OPENINGS; i++) {
		if (opening->by[i].name == name) {
			opening->by[i].until = until;
			opening->by[i].told = now;
			return 0;
		}
		if (place < 0 && opening->by[i].until <= now && !opening->by[i].open)
			place = i;
	}
	if (!opening || place < 0 || place >= OPENINGS) {
		lost(LOSS_OPENINGS_FULL);
		return 0;
	}
	opening->by[place].name = 0;
	opening->by[place].until = until;
	opening->by[place].told = now;
	opening->by[place].name = name;
	return 0;
}

/* Does a hosts file give this address a name that may be spoken to at this port? As ask_opening(). */
checked_once __u64 ask_hosted(__u32 policy, __u64 high, __u64 low, __u32 port_proto, __u32 phases)
{
	struct numbered_address key = {.number = policy};
	union address remote = {.halves = {high, low}};
	const struct hosted *found;

	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	found = map_lookup(hosted, &key);
	for (int i = 0; found && i < OPENINGS; i++) {
		__u32 name = found->names[i];
		__u32 answer = name ? ask_named(policy, name, port_proto, phases) : 0;

		if (answer)
			return (__u64)name << 32 | answer;
	}
	return 0;
}

/* May names be asked for here? A name is as true as who tells it: not any server will do. */
static __always_inline bool is_resolver(__u32 policy, const union address *remote)
{
	struct numbered_address key = {.number = policy};

	__builtin_memcpy(key.address, remote, ADDRESS_LEN);
	return map_lookup(resolvers, &key) != NULL;
}

#endif /* TATTLE_NAME_RULES_BPF_H */
