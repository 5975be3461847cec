/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a process or a cgroup is a member of. One number says it: a target's, or that of a set of targets
 * (`sets`), or 0. A process has the targets of its cgroup and those of its mark, and a socket those of its
 * cgroup and of the process that used it last; each of them binds.
 *
 * The bit TARGET_HELD says that user space has not decided yet: what is not loopback is dropped, without an
 * error. tracer/targets/kernel.py decides.
 */
#ifndef TATTLE_TARGET_BPF_H
#define TATTLE_TARGET_BPF_H

#include "maps.h"

static __always_inline __u32 number_of(__u32 target)
{
	return target & ~TARGET_HELD;
}

static __always_inline bool is_held(__u32 target)
{
	return target & TARGET_HELD;
}

/* The target with this index among those that a number stands for; 0: there are no more. */
checked_once __u32 member_of(__u32 number, __u32 index)
{
	const struct target_set *set;

	if (number < SETS_FROM)
		return index ? 0 : number;
	set = map_lookup(sets, &number);
	if (!set || index >= SET_MEMBERS)
		return 0;
	asm volatile("" : "+r"(index));
	return set->members[index & (SET_MEMBERS - 1)];
}
_Static_assert((SET_MEMBERS & (SET_MEMBERS - 1)) == 0, "a mask finds a member");

/* Run the statement that follows for each target that a number stands for. */
#define for_each_member(one, number)                                                    \
	for (__u32 _index = 0, one = member_of(number, 0); one && _index < SET_MEMBERS; \
	     one = member_of(number, ++_index))

/* A set in one word, so that functions that are checked once can take it: see struct target_set. */
union packed_set {
	struct target_set set;
	__u64 word;
};
_Static_assert(sizeof(union packed_set) == sizeof(__u64), "a set is one word");

/* With one more member, if it is none yet; all ones: there is no room. */
checked_once __u64 with_member(__u64 word, __u32 one)
{
	union packed_set packed = {.word = word};

	for (int i = 0; i < SET_MEMBERS; i++) {
		if (packed.set.members[i] == one)
			return packed.word;
		if (!packed.set.members[i]) {
			packed.set.members[i] = one;
			return packed.word;
		}
	}
	return ~0ULL;
}

/* The members of both, those of `one` first; all ones: too many. */
static __always_inline __u64 with_members(__u64 word, __u32 number)
{
	for (int i = 0; i < SET_MEMBERS; i++) {
		__u32 one = member_of(number, i);

		if (!one || !~word)
			break;
		word = with_member(word, one);
	}
	return word;
}

/*
 * The number of a set, a new one where it is new; 0: there is no room. A few places are tried, from one that
 * the members tell: user space looks in the same way.
 */
checked_once __u32 set_number(__u64 word)
{
	__u32 place = (word * 0x9e3779b97f4a7c15ULL) >> 48;

	if (word <= 0xffff)
		return word;
	for (int i = 0; i < 8; i++) {
		__u32 number = SETS_FROM + ((place + i) & 0xffff);
		const union packed_set *found;
		union packed_set wanted = {.word = word};

		map_insert(sets, &number, &wanted);
		found = map_lookup(sets, &number);
		if (found && found->word == word)
			return number;
	}
	return 0;
}

/* Fails closed: who is in more than can be told apart is held. */
static __always_inline __u32 cannot_unite(__u32 one)
{
	lost(LOSS_SETS_FULL);
	return one | TARGET_HELD;
}

/* A number that stands for the members of both, those of `one` first. */
checked_once __u32 unite(__u32 one, __u32 other)
{
	__u32 is_undecided = (one | other) & TARGET_HELD;
	struct target_pair pair = {number_of(one), number_of(other)};
	const __u32 *known;
	__u32 number;
	__u64 word;

	if (!pair.other || pair.one == pair.other)
		return pair.one | is_undecided;
	if (!pair.one)
		return pair.other | is_undecided;
	known = map_lookup(unions, &pair);
	if (known)
		return *known | is_undecided;
	word = with_members(with_members(0, pair.one), pair.other);
	number = ~word ? set_number(word) : 0;
	if (!number)
		return cannot_unite(one);
	map_insert(unions, &pair, &number);
	return number | is_undecided;
}

/* Those of a number that are still named. */
checked_once __u32 still_named(__u32 number)
{
	__u64 word = 0;

	for (int i = 0; i < SET_MEMBERS; i++) {
		__u32 one = member_of(number, i);
		const __u32 *named = one ? map_lookup(targets, &one) : NULL;

		if (!one)
			break;
		if (named && *named)
			word = with_member(word, one);
	}
	return word ? set_number(word) : 0;
}

static __always_inline void count_candidate(enum hold_reason reason)
{
	__u32 index = reason;
	struct held_count *count = map_lookup(held, &index);

	if (count)
		add(&count->candidates, 1);
}

/* A packet of a candidate is dropped. */
static __always_inline void count_held(void)
{
	__u32 index = HOLD_NONE;
	struct held_count *count = map_lookup(held, &index);

	if (count)
		add(&count->packets, 1);
}

/* Tell user space, at once. */
static __always_inline void notify(enum notice_kind kind, __u64 id, __u64 cgroup, __u32 target,
				   enum hold_reason reason)
{
	struct notice *notice = ring_reserve(notices, sizeof(*notice));

	if (!notice) {
		lost(LOSS_NOTICES_FULL);
		return;
	}
	notice->time_ns = bpf_ktime_get_boot_ns();
	notice->id = id;
	notice->cgroup = cgroup;
	notice->kind = kind;
	notice->target = number_of(target);
	notice->reason = reason;
	notice->reserved = 0;
	bpf_ringbuf_submit(notice, BPF_RB_FORCE_WAKEUP);
}

#endif /* TATTLE_TARGET_BPF_H */
