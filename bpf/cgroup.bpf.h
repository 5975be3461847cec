/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Cgroups that come and go. The kernel tells of a new cgroup after it is filled in and before its
 * directory can be seen (kernel/cgroup/cgroup.c, cgroup_mkdir), so that whoever is in it is known
 * from the first packet. It is forgotten when the last reference is gone (an open socket is one),
 * not when the directory is.
 */
#ifndef TATTLE_CGROUP_BPF_H
#define TATTLE_CGROUP_BPF_H

#include "process.bpf.h"

/* The v1 hierarchies tell of theirs too, and their ids overlap with v2's; v2 is number 0. */
static __always_inline bool is_v2(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, root, hierarchy_id) == 0;
}

static __always_inline void cgroup_made(struct cgroup *cgroup, const char *path)
{
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	__u64 parent = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	const struct blank *from = blank();
	struct cgroup_entry *entry;
	const __u32 *named;

	if (!is_v2(cgroup))
		return;
	if (from)
		map_insert(cgroups, &id, &from->cgroup);
	entry = map_lookup(cgroups, &id);
	if (!entry) {
		lost(LOSS_CGROUPS_FULL);
		return;
	}
	if (bpf_probe_read_kernel_str(entry->path, sizeof(entry->path), path) == sizeof(entry->path))
		entry->flags |= CGROUP_PATH_CUT;
	named = map_lookup(target_paths, entry->path);
	entry->target = named ? *named : target_of(parent);
}

static __always_inline void cgroup_gone(struct cgroup *cgroup)
{
	__u64 id = BPF_CORE_READ(cgroup, kn, id);

	if (is_v2(cgroup))
		map_delete(cgroups, &id);
}

#endif /* TATTLE_CGROUP_BPF_H */
