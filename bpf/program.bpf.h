/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Programs that are targets: a process is marked when it executes one, its children when they are forked,
 * and the mark goes when its last thread does. All of it happens before the process can send anything.
 *
 * A program is what the kernel executes, the path by which it was called (a script, a link), and the script
 * or module that an interpreter is given. A process that is in a target by its cgroup, and that leaves this
 * cgroup, takes a mark with it: moving away is no way out.
 */
#ifndef TATTLE_PROGRAM_BPF_H
#define TATTLE_PROGRAM_BPF_H

#include "cgroup.bpf.h"

/*
 * Who a process is. The tasks that tracepoints hand over have no type that the verifier knows, unlike the
 * current one: each field of theirs is a call.
 */
struct who {
	__u64 start_ns;
	__u64 cgroup;
	__u32 tgid;
};

static __always_inline void who_is(struct task_struct *task, struct who *who)
{
	who->start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	who->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	who->tgid = BPF_CORE_READ(task, tgid);
}

static __always_inline __u32 mark_of_who(const struct who *who)
{
	__u32 tgid = who->tgid;
	const struct mark *mark = map_lookup(marks, &tgid);

	return is_marked(mark, who->start_ns) ? mark->target : 0;
}

/* Put a process into these targets; 0: into none. */
static __always_inline void set_mark(const struct who *who, __u32 target, enum hold_reason reason)
{
	struct mark mark = {.target = target, .reason = reason, .start_ns = who->start_ns};
	__u32 tgid = who->tgid;

	if (!target) {
		map_delete(marks, &tgid);
		return;
	}
	if (is_held(target))
		mark.held_ns = bpf_ktime_get_boot_ns();
	if (map_put(marks, &tgid, &mark))
		lost(LOSS_MARKS_FULL);
}

/* The part of a path that ends before `end` in the room's text is compared; where the next one ends. */
checked_once __u32 step_text(__u32 end)
{
	struct path_room *room = room_at(ROOM_PROGRAM);
	__u32 start = part_start(ROOM_PROGRAM, end);
	bounded size = end - start;

	if (!room || start >= TEXT_LEN)
		return 0;
	clear_part(room);
	asm volatile("" : "+r"(size));
	if (size >= PART_LEN)
		room->node = 0;
	else
		bpf_probe_read_kernel_str(room->key.part, size + 1, &room->text[start & (TEXT_LEN - 1)]);
	room->part_len = end - start;
	if (room->part_len == 2 && room->key.part[0] == '.' && room->key.part[1] == '.')
		room->up++;
	else if (room->part_len && !(room->part_len == 1 && room->key.part[0] == '.')) {
		if (room->up)
			room->up--;
		else
			step_part(ROOM_PROGRAM);
	}
	return start ? start - 1 : 0;
}

checked_once int step_dentry(__u64 from)
{
	struct path_room *room = room_at(ROOM_PROGRAM);
	struct dentry *dentry = (void *)from;

	if (!room)
		return 0;
	if (room->up)
		room->up--;
	else if (put_part(room, BPF_CORE_READ(dentry, d_name.name)))
		step_part(ROOM_PROGRAM);
	else
		room->node = 0;
	return 0;
}

/* The directories above a file, up to the root of its mount namespace (as read_exe does). */
checked_once int step_up(__u64 from, __u64 on)
{
	struct path_room *room = room_at(ROOM_PROGRAM);
	struct dentry *dentry = (void *)from;
	struct mount *mount = (void *)on - bpf_core_field_offset(struct mount, mnt);

	for (int i = 0; room && i < PROGRAM_DEPTH && room->node; i++) {
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			if (leave_mount(&mount, &dentry))
				continue;
			clear_part(room);
			step_part(ROOM_PROGRAM);
			break;
		}
		step_dentry((__u64)dentry);
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return 0;
}

/* The executable itself; its name stays in the room. */
static __always_inline void match_file(struct path_room *room, struct file *file)
{
	room->node = PROGRAM_ROOT;
	room->up = 0;
	step_up((__u64)BPF_CORE_READ(file, f_path.dentry), (__u64)BPF_CORE_READ(file, f_path.mnt));
}

/* A path that stands in the room's text, from the current directory on where it does not say from where. */
checked_once int match_text(__u32 length)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct path_room *room = room_at(ROOM_PROGRAM);
	__u32 end = length;

	if (!room)
		return 0;
	room->node = PROGRAM_ROOT;
	room->up = 0;
	for (int i = 0; i < PROGRAM_DEPTH && room->node && end; i++)
		end = step_text(end);
	if (!room->node)
		return 0;
	if (room->text[0] != '/')
		return step_up((__u64)BPF_CORE_READ(task, fs, pwd.dentry),
			       (__u64)BPF_CORE_READ(task, fs, pwd.mnt));
	clear_part(room);
	return step_part(ROOM_PROGRAM);
}

/* Does what stands in the room's part belong to this table? */
static __always_inline bool is_in_table(struct path_room *room, __u32 table)
{
	room->key.node = table;
	return map_lookup(parts, &room->key) != NULL;
}

/* python3.12, pypy3, ld-linux-x86-64.so.2: a version may follow; others stand in a table. */
static __always_inline bool is_interpreter(struct path_room *room)
{
	const char *name = room->key.part;

	if (name[0] == 'p' && name[1] == 'y' && ((name[2] == 't' && name[3] == 'h') || name[2] == 'p'))
		return true;
	if (name[0] == 'l' && name[1] == 'd' && name[2] == '-')
		return true;
	if (name[0] == '.' && name[1] == 'a' && name[2] == 'p' &&
	    name[3] == 'e') /* .ape-1.10: APE's loader */
		return true;
	return is_in_table(room, PARTS_INTERPRETER);
}

/* Read the argument at this address into the room's text; returns its length with its NUL, 0: unreadable. */
static __always_inline __u32 read_argument(struct path_room *room, __u64 at)
{
	long size = bpf_probe_read_user_str(room->text, TEXT_LEN, (const void *)at);

	return size > 0 ? size : 0;
}

/* How an interpreter's option goes on. */
enum option {
	OPTION_ALONE,
	OPTION_VALUE,	    /* the next argument is its value */
	OPTION_MODULE,	    /* the next argument is a module */
	OPTION_MODULE_HERE, /* the rest of it is one: its place in the upper bits */
	OPTION_CODE,	    /* no script follows */
};

/* python's (and so much of others' that the first word without a dash is the script) */
checked_once __u32 option_kind(__u32 length)
{
	struct path_room *room = room_at(ROOM_PROGRAM);

	if (!room || (room->text[0] == '-' && room->text[1] == '-'))
		return OPTION_ALONE;
	for (__u32 i = 1; i < 12; i++) {
		char letter = room->text[i];

		counted(i);
		if (i + 1 >= length)
			break;

		if (letter == 'm')
			return i + 2 < length ? OPTION_MODULE_HERE | (i + 1) << 8 : OPTION_MODULE;
		if (letter == 'c')
			return OPTION_CODE;
		if (letter == 'W' || letter == 'X')
			return i + 2 < length ? OPTION_ALONE : OPTION_VALUE;
	}
	return OPTION_ALONE;
}

/* A module's name is one part. */
checked_once int match_module(__u32 from)
{
	struct path_room *room = room_at(ROOM_PROGRAM);

	if (!room)
		return 0;
	room->node = PROGRAM_ROOT;
	room->up = 0;
	if (put_part(room, &room->text[from & 15]))
		step_part(ROOM_PROGRAM);
	return 0;
}

/* What an argument is, and what is to be done with the next one; OPTION_CODE: with none. */
static __always_inline __u32 match_argument(__u32 length, __u32 kind)
{
	struct path_room *room = room_at(ROOM_PROGRAM);

	if (!room || kind == OPTION_VALUE)
		return OPTION_ALONE;
	if (kind == OPTION_MODULE) {
		match_module(0);
		return OPTION_CODE;
	}
	if (room->text[0] != '-' || length < 3) {
		match_text(length - 1);
		return OPTION_CODE;
	}
	kind = option_kind(length);
	if ((kind & 0xff) != OPTION_MODULE_HERE)
		return kind;
	match_module(kind >> 8);
	return OPTION_CODE;
}

/* Find the script or module among an interpreter's arguments. 0: they cannot be read. */
checked_once int match_script(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct path_room *room = room_at(ROOM_PROGRAM);
	__u64 at = BPF_CORE_READ(task, mm, arg_start), end = BPF_CORE_READ(task, mm, arg_end);
	__u32 kind = OPTION_VALUE; /* argv[0] */

	for (int i = 0; room && i < ARGUMENTS && at < end; i++) {
		__u32 length = read_argument(room, at);

		if (!length)
			return 0;
		at += length;
		kind = match_argument(length, kind);
		if (kind == OPTION_CODE)
			break;
	}
	return 1;
}

/*
 * The first word that is no option, behind the script where there is one, into the room's part; false: there
 * is none.
 */
checked_once int first_word(__u32 skipped)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct path_room *room = room_at(ROOM_PROGRAM);
	__u64 at = BPF_CORE_READ(task, mm, arg_start), end = BPF_CORE_READ(task, mm, arg_end);

	for (int i = 0; room && i < ARGUMENTS && at < end; i++) {
		__u32 length = read_argument(room, at);

		if (!length)
			return false;
		at += length;
		if (!i || room->text[0] == '-')
			continue;
		if (!skipped)
			return put_part(room, room->text);
		skipped--;
	}
	return false;
}

/* Is this a client by its first word? That stands in the room's part; the empty one is to have none. */
static __always_inline bool is_client(struct path_room *room, __u32 target, bool has_word)
{
	if (!has_word)
		clear_part(room);
	return is_in_table(room, PARTS_CLIENT | target);
}

/* One of those that a program belongs to unless it is only a client of theirs, or another one's child. */
checked_once int speaks_against(__u32 target, __u32 skipped)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct path_room *room = room_at(ROOM_PROGRAM);
	struct file *above = BPF_CORE_READ(task, real_parent, mm, exe_file);

	if (!room || is_client(room, target, first_word(skipped)))
		return true;
	return above && put_part(room, BPF_CORE_READ(above, f_path.dentry, d_name.name)) &&
	       is_in_table(room, PARTS_PARENT | target);
}

static __always_inline __u32 read_filename(struct path_room *room, struct linux_binprm *program)
{
	const char *name = BPF_CORE_READ(program, filename);
	long size = bpf_probe_read_kernel_str(room->text, TEXT_LEN, name);

	return size > 0 ? size - 1 : 0;
}

/* The targets that a program is; the bit TARGET_HELD where its arguments could not be read. */
static __always_inline __u32 match_program(struct path_room *room, struct linux_binprm *program)
{
	struct file *file = BPF_CORE_READ(program, file);
	__u32 found, asked, undecided = 0;
	bool interprets;

	room->found = room->asked = 0;
	match_file(room, file);
	match_text(read_filename(room, program));
	interprets = put_part(room, BPF_CORE_READ(file, f_path.dentry, d_name.name)) && is_interpreter(room);
	if (interprets && !match_script())
		undecided = TARGET_HELD;
	found = room->found;
	asked = number_of(room->asked);
	for_each_member(one, asked)
	{
		if (!speaks_against(one, interprets))
			found = unite(found, one);
	}
	return found | undecided;
}

static __always_inline void executed(struct task_struct *task, struct linux_binprm *program)
{
	struct path_room *room = room_at(ROOM_PROGRAM);
	const struct settings *now = setting();
	__u32 before, found;
	struct who who;

	if (!room || !now || !now->marking)
		return;
	who_is(task, &who);
	before = mark_of_who(&who);
	found = unite(match_program(room, program), number_of(before));
	if (found == before)
		return;
	set_mark(&who, found, is_held(found) ? HOLD_ARGUMENTS : HOLD_NONE);
	if (is_held(found))
		count_candidate(HOLD_ARGUMENTS);
	notify(is_held(found) ? NOTICE_HELD_PROCESS : NOTICE_APPEARED, who.tgid, who.cgroup, found,
	       is_held(found) ? HOLD_ARGUMENTS : HOLD_NONE);
}

/* The targets that a process takes with it when it leaves its cgroup. */
static __always_inline __u32 taken_along(const struct who *who)
{
	const struct settings *now = setting();

	return now && now->policed ? number_of(target_of(who->cgroup)) : 0;
}

/* A child is what its parent is. A thread has its process's mark. */
static __always_inline void forked(struct task_struct *parent, struct task_struct *child)
{
	const struct settings *now = setting();
	__u32 from = BPF_CORE_READ(parent, tgid);
	const struct mark *mark;
	struct who who;
	__u32 target;

	if (!now || !now->marking || from == (__u32)BPF_CORE_READ(child, tgid))
		return;
	who_is(child, &who);
	mark = map_lookup(marks, &from);
	target = unite(mark ? mark->target : 0, taken_along(&who));
	if (target)
		set_mark(&who, target, mark ? mark->reason : HOLD_NONE);
	else if (now->marking > 1)
		map_put(births, &who.tgid, &from);
}

/* The last thread has gone. */
static __always_inline void exited(struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);

	if (map_lookup(marks, &tgid) && !BPF_CORE_READ(task, signal, live.counter))
		map_delete(marks, &tgid);
}

/*
 * A process comes into another cgroup: what it is in now goes with it from here on. Told where it stays in a
 * target that the cgroup is not in.
 */
static __always_inline void moved(struct cgroup *cgroup, struct task_struct *task)
{
	__u32 before, now, here;
	struct who who;

	if (!is_v2(cgroup))
		return;
	who_is(task, &who);
	before = mark_of_who(&who);
	now = unite(before, taken_along(&who));
	if (now != before)
		set_mark(&who, now, HOLD_NONE);
	here = number_of(target_of(who.cgroup));
	if (now == before && before && unite(here, before) != here)
		notify(NOTICE_MOVED, who.tgid, who.cgroup, before, HOLD_NONE);
}

#endif /* TATTLE_PROGRAM_BPF_H */
