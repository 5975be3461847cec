/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few kernel structures that we read, with the few fields that we need. The offsets written here
 * do not matter: preserve_access_index lets libbpf put in those of the running kernel (CO-RE).
 */
#ifndef TATTLE_KERNEL_H
#define TATTLE_KERNEL_H

#ifdef TATTLE_BCC
#include "bcc.h"
#else
#include "libbpf.h"
#endif

enum {
	AF_INET = 2, /* include/linux/socket.h */
	AF_INET6 = 10,
	SOCK_STREAM = 1, /* include/linux/net.h */
	SOCK_DGRAM = 2,
	ETH_P_IP = 0x0800, /* include/uapi/linux/if_ether.h */
	ETH_P_IPV6 = 0x86DD,
	LOOPBACK_IFINDEX = 1, /* include/net/flow.h: in each network namespace */
	EPERM = 1,	      /* include/uapi/asm-generic/errno-base.h */
	DNS_PORT = 53,	      /* RFC 1035 4.2 */
	QUIC_PORT = 443,      /* RFC 9114 3.1 */
};

/* IANA protocol numbers; MPTCP's is Linux' own (include/uapi/linux/in.h). */
enum {
	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_IGMP = 2,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_DCCP = 33,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_SCTP = 132,
	PROTO_UDPLITE = 136,
	PROTO_MPTCP = 262,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct qstr {
	__u32 len;
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
};

struct mm_struct {
	struct file *exe_file;
	unsigned long arg_start;
	unsigned long arg_end;
};

struct linux_binprm {
	struct file *file;
	const char *filename;
};

struct fs_struct {
	struct path pwd;
};

/* kernel/types.h: atomic_t */
typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t euid;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	__s32 tgid;
	unsigned int flags;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct cred *cred;
	struct mm_struct *mm;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	struct fs_struct *fs;
	struct signal_struct *signal;
	char comm[16];
};

struct sock {
	int sk_err;
	__u16 sk_protocol;
};

struct socket {
	struct sock *sk;
};

struct tcp_ulp_ops {
	char name[16];
};

/* A tcp_sock starts with its inet_connection_sock, and that with its sock (include/linux/tcp.h). */
struct inet_connection_sock {
	const struct tcp_ulp_ops *icsk_ulp_ops;
	void *icsk_ulp_data;
};

struct mptcp_subflow_context {
	struct sock *conn;
};

struct mptcp_pm_data {
	bool server_side;
};

struct mptcp_sock {
	struct mptcp_pm_data pm;
};

#pragma clang attribute pop

#endif /* TATTLE_KERNEL_H */
