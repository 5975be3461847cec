/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Cgroups that come and go. The kernel tells of a new cgroup after it is filled in and before its
 * directory can be seen (kernel/cgroup/cgroup.c, cgroup_mkdir), so that whatever is in it is known
 * from the first packet. It is forgotten when the last reference is gone (an open socket is one),
 * not when the directory is.
 *
 * A new cgroup is in the targets of the one above it, and in those that its path (`target_paths`), its last
 * part (`target_names`) or a pattern (`parts`) name. One that is a container's, and of which no engine has
 * told yet, is held where settings.hold says so.
 */
#ifndef TATTLE_CGROUP_BPF_H
#define TATTLE_CGROUP_BPF_H

#include "path.bpf.h"

enum { CONTAINER_ID = 64, SCOPE_LEN = 6 /* ".scope" */ };

/* The v1 hierarchies tell of theirs too, and their ids overlap with v2's; v2 is number 0. */
static __always_inline bool is_v2(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, root, hierarchy_id) == 0;
}

/* The path, or its last bytes, into the entry; the last part into the room. Returns how long that is. */
static __always_inline __u32 read_path(struct path_room *room, struct cgroup_entry *entry, const char *path)
{
	long size = bpf_probe_read_kernel_str(room->text, TEXT_LEN, path);
	__u32 end = size > 0 ? size - 1 : 0;
	__u32 from = 0, start;
	long length;

	if (end >= CGROUP_PATH_LEN) {
		entry->flags |= CGROUP_PATH_CUT;
		from = end - (CGROUP_PATH_LEN - 1);
	}
	bpf_probe_read_kernel_str(entry->path, sizeof(entry->path), &room->text[from & (TEXT_LEN - 1)]);
	start = part_start(ROOM_CGROUP, end);
	for (int i = 0; i < CGROUP_PATH_LEN / 8; i++)
		((__u64 *)room->name)[i] = 0;
	length = bpf_probe_read_kernel_str(room->name, sizeof(room->name),
					   &room->text[start & (TEXT_LEN - 1)]);
	return length > 0 ? length - 1 : 0;
}

static __always_inline bool is_hex(char letter)
{
	return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
}

static __always_inline bool ends_in_scope(const struct path_room *room, __u32 length)
{
	__u32 at = (length - SCOPE_LEN) & (CGROUP_PATH_LEN - 1);

	return length > SCOPE_LEN && room->name[at] == '.' && room->name[at + 1] == 's' &&
	       room->name[at + 2] == 'c' && room->name[at + 3] == 'o' && room->name[at + 4] == 'p' &&
	       room->name[at + 5] == 'e';
}

/*
 * Where the id of a container stands in the last part of a path, and 0 where it has none (counted from 1):
 * ID, PREFIX-ID, PREFIX-ID.scope and PREFIX:ID, an id being 64 hexadecimal digits. conmon's scopes are none.
 */
checked_once __u32 container_in(__u32 length)
{
	struct path_room *room = room_at(ROOM_CGROUP);
	__u32 start;
	char before;

	if (!room || length >= CGROUP_PATH_LEN)
		return 0;
	if (ends_in_scope(room, length))
		length -= SCOPE_LEN;
	if (length < CONTAINER_ID)
		return 0;
	start = length - CONTAINER_ID;
	for (__u32 i = 0; i < CONTAINER_ID; i++) {
		if (!is_hex(room->name[(start + i) & (CGROUP_PATH_LEN - 1)]))
			return 0;
	}
	before = room->name[(start - 1) & (CGROUP_PATH_LEN - 1)];
	if (start && before != '-' && before != ':')
		return 0;
	if (start > 1 && room->name[(start - 2) & (CGROUP_PATH_LEN - 1)] == 'n') /* …conmon- */
		return 0;
	return start + 1;
}

/* What is known of the container with this id; TARGET_HELD: nothing is, and it has to be. */
checked_once __u32 container_target(__u32 start)
{
	struct path_room *room = room_at(ROOM_CGROUP);
	const struct settings *now = setting();
	const __u32 *known;

	if (!room || !now)
		return 0;
	for (int i = 0; i < CGROUP_PATH_LEN / 8; i++)
		((__u64 *)room->text)[i] = 0;
	bpf_probe_read_kernel_str(room->text, CONTAINER_ID + 1, &room->name[start & (CGROUP_PATH_LEN - 1)]);
	known = map_lookup(target_names, room->text);
	if (known)
		return *known;
	return now->hold ? TARGET_HELD : 0;
}

static __always_inline void hold_cgroup(struct cgroup_entry *entry, __u64 id)
{
	entry->held_ns = bpf_ktime_get_boot_ns();
	entry->reason = HOLD_CONTAINER;
	count_candidate(HOLD_CONTAINER);
	notify(NOTICE_HELD_CGROUP, id, id, entry->target, HOLD_CONTAINER);
}

/* By patterns: of the last part alone, and of the whole path. The room's node is where the path is then. */
static __always_inline void step_by_name(struct path_room *room)
{
	__u32 node = room->node;

	room->node = 0;
	if (!put_part(room, room->name))
		return;
	room->node = NAME_ROOT;
	step_part(ROOM_CGROUP);
	room->node = node;
	step_part(ROOM_CGROUP);
}

/* The targets that a new cgroup is in by what it is called. */
static __always_inline __u32 named_target(struct path_room *room, struct cgroup_entry *entry, __u32 length)
{
	const __u32 *by_path = map_lookup(target_paths, entry->path);
	const __u32 *by_name = map_lookup(target_names, room->name);
	__u32 container = container_in(length);
	__u32 target = unite(by_path ? *by_path : 0, by_name ? *by_name : 0);

	step_by_name(room);
	target = unite(target, room->found);
	return container ? unite(target, container_target(container - 1)) : target;
}

static __always_inline void cgroup_made(struct cgroup *cgroup, const char *path)
{
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	__u64 parent_id = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	struct path_room *room = room_at(ROOM_CGROUP);
	const struct settings *now = setting();
	const struct cgroup_entry *parent;
	const struct blank *from = blank();
	struct cgroup_entry *entry;
	__u32 own;

	if (!is_v2(cgroup) || !room)
		return;
	if (from)
		map_insert(cgroups, &id, &from->cgroup);
	entry = map_lookup(cgroups, &id);
	if (!entry) {
		lost(LOSS_CGROUPS_FULL);
		return;
	}
	parent = map_lookup(cgroups, &parent_id);
	room->found = room->asked = 0;
	room->node = parent ? parent->node : 0;
	own = named_target(room, entry, read_path(room, entry, path));
	entry->node = room->node;
	entry->target = unite(own, parent ? parent->target : target_of(parent_id));
	if (is_held(own))
		hold_cgroup(entry, id);
	else if (entry->target && now && now->policed)
		notify(NOTICE_CGROUP, id, id, entry->target, HOLD_NONE);
}

static __always_inline void cgroup_gone(struct cgroup *cgroup)
{
	__u64 id = BPF_CORE_READ(cgroup, kn, id);

	if (is_v2(cgroup))
		map_delete(cgroups, &id);
}

#endif /* TATTLE_CGROUP_BPF_H */
