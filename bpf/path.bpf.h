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

/* Does the part begin and end as this pattern does? */
checked_once int glob_fits(__u32 index, __u32 number)
{
	struct path_room *room = room_at(index);
	const struct part_glob *glob = map_lookup(globs, &number);
	__u64 begin[GLOB_LEN / 8], end[GLOB_LEN / 8];
	__u64 differs = 0;

	if (!room || !glob || glob->node != room->node || glob->head_len + glob->tail_len > room->part_len)
		return false;
	bpf_probe_read_kernel(begin, sizeof(begin), room->key.part);
	bpf_probe_read_kernel(end, sizeof(end), &room->key.part[(room->part_len - glob->tail_len) & 127]);
	for (int i = 0; i < GLOB_LEN / 8; i++) {
		differs |= (begin[i] ^ ((const __u64 *)glob->head)[i]) & ((const __u64 *)glob->head_mask)[i];
		differs |= (end[i] ^ ((const __u64 *)glob->tail)[i]) & ((const __u64 *)glob->tail_mask)[i];
	}
	return !differs;
}

static __always_inline void step_by_globs(struct path_room *room, __u32 index, __u32 from)
{
	const struct settings *now = setting();

	for (__u32 i = 0; now && i < GLOBS && i < now->globs; i++) {
		const struct part_glob *glob = map_lookup(globs, &i);

		room->node = from;
		if (glob && glob_fits(index, i)) {
			take_rule(room, &glob->rule);
			return;
		}
	}
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
		step_by_globs(room, index, room->node);
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
		if (i >= end || room->text[(end - i - 1) & (TEXT_LEN - 1)] == '/')
			return end - i;
	}
	return end;
}

#endif /* TATTLE_PATH_BPF_H */
