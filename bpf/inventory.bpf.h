/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who holds the sockets that were open before us. Walking all descriptors in the kernel names their
 * owners by the same snapshot as everybody else, with the start time in ns that /proc does not tell.
 */
#ifndef TATTLE_INVENTORY_BPF_H
#define TATTLE_INVENTORY_BPF_H

#include "mptcp.bpf.h"

enum { S_IFMT = 0170000, S_IFSOCK = 0140000 }; /* include/uapi/linux/stat.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inode {
	__u16 i_mode;
	unsigned long i_ino;
};

struct file___inventory {
	struct inode *f_inode;
	void *private_data;
};

#pragma clang attribute pop

/* include/linux/bpf.h and kernel/bpf/task_iter.c */
struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

/* Also a path to a socket that was opened (O_PATH) has such an inode: the reader finds out. */
static __always_inline bool is_socket(struct inode *inode)
{
	return (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFSOCK;
}

static __always_inline void list_descriptor(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file___inventory *file = (void *)ctx->file;
	struct descriptor found = {};
	struct inode *inode;

	if (!task || !file)
		return;
	inode = BPF_CORE_READ(file, f_inode);
	if (!is_socket(inode))
		return;
	found.process = identify_task(task, target_of_task(task));
	found.inode = BPF_CORE_READ(inode, i_ino);
	found.tgid = BPF_CORE_READ(task, tgid);
	found.fd = ctx->fd;
	found.counted = mptcp_found(BPF_CORE_READ(file, private_data), found.process);
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
}

#endif /* TATTLE_INVENTORY_BPF_H */
