/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who is it: a snapshot of the current process, taken where the process itself is running. All of it
 * is read from the task: that works in all our program types from 5.10 on, which the finer helpers
 * (current uid, cgroup id) do not. From 5.11 on the task has a type and its fields are plain loads
 * (kernel commit 3ca1032ab7ab); before, each is a call.
 */
#ifndef TATTLE_PROCESS_BPF_H
#define TATTLE_PROCESS_BPF_H

#include "target.bpf.h"

enum { PF_KTHREAD = 0x00200000 }; /* include/linux/sched.h */

#define task_has_type() bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)

/* One of both remains: libbpf puts a constant there and the verifier drops the other branch. */
#define READ(from, fields...)                                 \
	({                                                    \
		typeof(___arrow(from, fields)) _value;        \
		if (task_has_type())                          \
			_value = ___arrow(from, fields);      \
		else                                          \
			_value = BPF_CORE_READ(from, fields); \
		_value;                                       \
	})

static __always_inline struct task_struct *current_task(void)
{
	if (task_has_type())
		return bpf_get_current_task_btf();
	return (void *)bpf_get_current_task();
}

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return READ(task, cgroups, dfl_cgrp, kn, id);
}

/* 0 where the cgroup is in no target. */
static __always_inline __u32 target_of(__u64 cgroup)
{
	const struct cgroup_entry *entry = map_lookup(cgroups, &cgroup);

	return entry ? entry->target : 0;
}

/*
 * The nearest target above a cgroup that has no entry: there was no room for it when it was made, and
 * a full table must not open a block. `ancestor` gives 0 below the cgroup's own level.
 */
#define target_above(ancestor, context...)                               \
	({                                                               \
		__u32 _nearest = 0;                                      \
		for (int _level = 1; _level <= CGROUP_DEPTH; _level++) { \
			__u64 _id = ancestor(context _level);            \
			__u32 _target = _id ? target_of(_id) : 0;        \
			if (!_id)                                        \
				break;                                   \
			if (_target)                                     \
				_nearest = _target;                      \
		}                                                        \
		_nearest;                                                \
	})

static __always_inline __u64 start_of(struct task_struct *task)
{
	return READ(task, group_leader, start_boottime);
}

/* Does a mark belong to the process that started then? Its number may be in use again. */
static __always_inline bool is_marked(const struct mark *mark, __u64 start_ns)
{
	return mark && (!mark->start_ns || mark->start_ns == start_ns);
}

/* The targets that a process has by itself, whatever cgroup it is in. */
static __always_inline __u32 mark_of(struct task_struct *task)
{
	const struct settings *now = setting();
	__u32 tgid = READ(task, tgid);
	const struct mark *mark;

	if (!now || !now->marking)
		return 0;
	mark = map_lookup(marks, &tgid);
	return is_marked(mark, start_of(task)) ? mark->target : 0;
}

checked_once __u32 current_mark(void)
{
	return mark_of(current_task());
}

/* All targets of a process that may not be the current one. */
static __always_inline __u32 target_of_task(struct task_struct *task)
{
	return unite(mark_of(task), target_of(cgroup_of(task)));
}

/* For programs that run in a process (connect, sendmsg, bind, create). */
checked_once __u32 current_target(void)
{
	const struct settings *now = setting();
	const struct cgroup_entry *entry;
	__u64 cgroup;
	__u32 around;

	if (!now || !now->targets)
		return 0;
	cgroup = cgroup_of(current_task());
	entry = map_lookup(cgroups, &cgroup);
	around = entry ? entry->target : target_above(bpf_get_current_ancestor_cgroup_id, );
	return now->marking ? unite(current_mark(), around) : around;
}

/* Two words of it where that is a plain load. */
static __always_inline void read_comm(struct task_struct *leader, struct process_key *key)
{
	const __u64 *from = (const void *)leader->comm;
	__u64 *to = (void *)key->comm;

	if (task_has_type()) {
		to[0] = from[0];
		to[1] = from[1];
	} else if (bpf_core_read(key->comm, sizeof(key->comm), &leader->comm)) {
		lost(LOSS_NAME_UNREADABLE);
	}
}

static __always_inline void read_key(struct task_struct *task, __u32 target, struct process_key *key)
{
	key->start_ns = READ(task, group_leader, start_boottime);
	key->cgroup = cgroup_of(task);
	key->tgid = READ(task, tgid);
	key->exec_id = READ(task, self_exec_id);
	key->uid = READ(task, cred, euid.val);
	key->target = number_of(target);
	read_comm(READ(task, group_leader), key);
}

/* One round of a multiply-xorshift mix; tracer/bpf/abi.py has the same. */
static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 32);
}

static __always_inline __u64 process_id(const struct process_key *key)
{
	const __u64 *words = (const void *)key;
	__u64 id = 0;

	for (int i = 0; i < (int)(sizeof(*key) / sizeof(*words)); i++)
		id = mix(id, words[i]);
	return id ? id : 1;
}

/*
 * Write one part of a path; false when it does not fit. How far we are stands in the record and not in
 * a register: the verifier then need not follow each length that a part can have. The mask says to old
 * verifiers (6.1) what the comparison says to new ones, the barrier keeps the compiler from dropping it.
 */
static __always_inline bool read_part(struct process *process, struct dentry *dentry)
{
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	bool cut = BPF_CORE_READ(dentry, d_name.len) >= EXE_PART_LEN;
	__u32 at = process->exe_used;
	long size;

	if (at >= EXE_ROOM) {
		process->flags |= PROCESS_EXE_CUT;
		return false;
	}
	asm volatile("" : "+r"(at));
	at &= EXE_ROOM - 1;
	size = bpf_probe_read_kernel_str(&process->exe[at], EXE_PART_LEN, name);
	if (size <= 0 || cut)
		process->flags |= PROCESS_EXE_CUT;
	if (size > 0)
		process->exe_used = at + size;
	return size > 0;
}

/* One step up from a mount's root to where it is mounted; false: this is the top. */
static __always_inline bool leave_mount(struct mount **mount, struct dentry **dentry)
{
	struct mount *above = BPF_CORE_READ(*mount, mnt_parent);

	if (above == *mount)
		return false;
	*dentry = BPF_CORE_READ(*mount, mnt_mountpoint);
	*mount = above;
	return true;
}

/* The executable's path from the file name up to the root of its mount namespace (fs/d_path.c). */
static __always_inline void read_exe(struct task_struct *task, struct process *process)
{
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct dentry *dentry = BPF_CORE_READ(exe, f_path.dentry);
	struct vfsmount *vfsmount = BPF_CORE_READ(exe, f_path.mnt);
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);

	if (!exe) {
		process->flags |= PROCESS_EXE_UNKNOWN;
		return;
	}
	for (int i = 0; i < EXE_PARTS; i++) {
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			if (!leave_mount(&mount, &dentry))
				return;
		} else {
			if (!read_part(process, dentry))
				return;
			dentry = BPF_CORE_READ(dentry, d_parent);
		}
	}
	process->flags |= PROCESS_EXE_CUT;
}

/*
 * All that is told of a process and is no part of its key. The path of its cgroup is copied, for the
 * cgroup may be gone when somebody reads this.
 */
checked_once int describe(__u64 leader, __u64 id)
{
	struct task_struct *task = (void *)leader;
	struct task_struct *parent = BPF_CORE_READ(task, real_parent, group_leader);
	struct process *process = map_lookup(processes, &id);
	const struct cgroup_entry *cgroup;
	__u64 cgroup_id;

	if (!process)
		return 0;
	process->ppid = BPF_CORE_READ(parent, tgid);
	if (bpf_core_read(process->parent_comm, COMM_LEN, &parent->comm))
		lost(LOSS_NAME_UNREADABLE);
	cgroup_id = process->key.cgroup;
	cgroup = map_lookup(cgroups, &cgroup_id);
	if (cgroup)
		bpf_probe_read_kernel(process->cgroup_path, sizeof(process->cgroup_path), cgroup->path);
	read_exe(task, process);
	process->flags |= PROCESS_READY;
	return 0;
}

/* A process' key in `processes`, where it is described at its first appearance. */
static __always_inline __u64 identify_task(struct task_struct *task, __u32 target)
{
	struct process_key key = {};
	const struct blank *from;
	struct process *process;
	__u64 id;

	read_key(task, target, &key);
	id = process_id(&key);
	if (map_lookup(processes, &id))
		return id;
	from = blank();
	if (from)
		map_insert(processes, &id, &from->process);
	process = map_lookup(processes, &id);
	if (!process) {
		lost(LOSS_PROCESSES_FULL);
		return id;
	}
	process->key = key;
	describe((__u64)BPF_CORE_READ(task, group_leader), id); /* read like this, it is a number */
	return id;
}

/*
 * The same process, in other targets: as another one. Its record is a copy; a reader who sees it before it
 * has its own key sees that key and id do not fit.
 */
checked_once __u64 relabel(__u64 id, __u32 target)
{
	const struct process *old = map_lookup(processes, &id);
	struct process_key key;
	struct process *fresh;
	__u64 new_id;

	if (!old || old->key.target == target)
		return id;
	key = old->key;
	key.target = target;
	new_id = process_id(&key);
	if (map_lookup(processes, &new_id))
		return new_id;
	map_insert(processes, &new_id, old);
	fresh = map_lookup(processes, &new_id);
	if (!fresh) {
		lost(LOSS_PROCESSES_FULL);
		return id;
	}
	fresh->key.target = target;
	return new_id;
}

/* The mark of the process that a socket's flow belongs to; `known`: what it had when it was there. */
checked_once __u32 mark_of_process(__u64 id, __u32 known)
{
	const struct process *process = map_lookup(processes, &id);
	const struct settings *now = setting();
	const struct mark *mark;
	__u32 tgid;

	if (!now || !now->marking)
		return 0;
	if (!process)
		return still_named(known);
	tgid = process->key.tgid;
	mark = map_lookup(marks, &tgid);
	return is_marked(mark, process->key.start_ns) ? mark->target : still_named(known);
}

/* `target`: what current_target() says, where a program may ask that. */
checked_once __u64 identify(__u32 target)
{
	return identify_task(current_task(), target);
}

#endif /* TATTLE_PROCESS_BPF_H */
