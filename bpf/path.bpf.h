/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Paths against the trees of parts that user space has made of what targets are called (`parts`, `globs`).
 * A path is compared part by part, so that it may be as long as the kernel allows, and no hash stands for it.
 * Each step's result stands in the room and not in registers: old verifiers follow it that way.
 */
#ifndef TATTLE_PATH_BPF_H
#define TATTLE_PATH_BPF_H

#include "process.bpf.h"

enum { ROOM_PROGRAM = 0, ROOM_CGROUP = 1 };

/*
 * Keeps a loop's two bounds apart. Else the compiler makes one of them, the lesser, and asks with `!=`:
 * before 6.8 a verifier then sees no end.
 */
#define counted(i) asm volatile("" : "+r"(i))

static __always_inline struct path_room *room_at(__u32 index)
{
	return map_lookup(path_rooms, &index);
}

static __always_inline void take_rule(struct path_room *room, const struct part_rule *rule)
{
	room->found = unite(room->found, rule->always);
	room->asked = unite(room->asked, rule->asked);
	room->node = rule->next;
}

/* Where what stands there differs from this text, as far as the mask goes; 0: nowhere. */
static __always_inline __u64 differs_from(const char *at, const char *text, const char *mask)
{
	__u64 words[GLOB_LEN / 8], differs = 0;

	bpf_probe_read_kernel(words, sizeof(words), at);
	for (int i = 0; i < GLOB_LEN / 8; i++)
		differs |= (words[i] ^ ((const __u64 *)text)[i]) & ((const __u64 *)mask)[i];
	return differs;
}

/* Is this a pattern behind that node, and does the part begin and end as it does? */
checked_once int glob_fits(__u32 index, __u32 number, __u32 from)
{
	struct path_room *room = room_at(index);
	const struct part_glob *glob = map_lookup(globs, &number);

	if (!room || !glob || glob->node != from || glob->head_len + glob->tail_len > room->part_len)
		return false;
	if (differs_from(room->key.part, glob->head, glob->head_mask))
		return false;
	return !differs_from(&room->key.part[(room->part_len - glob->tail_len) & 127], glob->tail,
			     glob->tail_mask);
}

/*
 * The first pattern behind that node which the part fits; GLOBS: none. The counter is as wide as a register,
 * and no helper takes its address: 5.10 follows no narrower number on the stack, and sees a loop without end.
 */
checked_once __u32 fitting_glob(__u32 index, __u32 from)
{
	const struct settings *now = setting();
	__u64 limit = now ? now->globs : 0;

	for (__u64 i = 0; i < GLOBS; i++) {
		counted(i);
		if (i >= limit)
			break;
		if (glob_fits(index, i, from))
			return i;
	}
	return GLOBS;
}

static __always_inline void step_by_globs(struct path_room *room, __u32 index)
{
	__u32 number = fitting_glob(index, room->node);
	const struct part_glob *glob = map_lookup(globs, &number);

	if (glob)
		take_rule(room, &glob->rule);
	else
		room->node = 0;
}

/* Go on by the part that stands in the room's key; the node is 0 where no rule goes on. */
checked_once int step_part(__u32 index)
{
	struct path_room *room = room_at(index);
	const struct part_rule *rule;

	if (!room || !room->node)
		return 0;
	room->key.node = room->node;
	rule = map_lookup(parts, &room->key);
	if (rule)
		take_rule(room, rule);
	else
		step_by_globs(room, index);
	return room->node;
}

static __always_inline void clear_part(struct path_room *room)
{
	__u64 *words = (__u64 *)&room->key;

	for (int i = 0; i < (int)(sizeof(room->key) / sizeof(*words)); i++)
		words[i] = 0;
	room->part_len = 0;
}

/* Put a part into the room; false: it is longer than any that a rule can name. */
static __always_inline bool put_part(struct path_room *room, const void *from)
{
	long size;

	clear_part(room);
	size = bpf_probe_read_kernel_str(room->key.part, PART_LEN, from);
	room->part_len = size > 0 ? size - 1 : 0;
	return size > 0 && size < PART_LEN;
}

/* Where the part begins that ends before `end` in the room's text. */
checked_once __u32 part_start(__u32 index, __u32 end)
{
	struct path_room *room = room_at(index);

	for (__u32 i = 0; room && i < CGROUP_PATH_LEN; i++) {
		counted(i);
		if (i >= end || room->text[(end - i - 1) & (TEXT_LEN - 1)] == '/')
			return end - i;
	}
	return end;
}

#endif /* TATTLE_PATH_BPF_H */
