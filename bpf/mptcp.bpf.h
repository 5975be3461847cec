/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * MPTCP: what a program holds is a socket that no packet and no cgroup hook ever sees (but connect and
 * release). Its packets are those of its subflows, TCP sockets of the kernel's own: the first is made in
 * the caller's context, a later one in a kernel thread. What they have in common is the MPTCP socket above
 * them (net/mptcp/protocol.h, mptcp_subflow_context.conn), which goes by its address here.
 *
 * A server that listens over MPTCP (every Go program since 1.24) has plain TCP sockets where its clients
 * speak plain TCP. These are the kernel's own, too: cgroup/sock_release does not run for them.
 */
#ifndef TATTLE_MPTCP_BPF_H
#define TATTLE_MPTCP_BPF_H

#include "process.bpf.h"

/* The MPTCP socket above a TCP socket; 0: it is no subflow. */
static __always_inline __u64 mptcp_above(struct bpf_sock *sk)
{
	struct inet_connection_sock *tcp = (void *)bpf_skc_to_tcp_sock(sk);
	struct mptcp_subflow_context *context;
	const struct tcp_ulp_ops *ulp;
	union {
		char text[8];
		__u64 word;
	} name, mptcp = {.text = "mptcp"}; /* net/mptcp/subflow.c: subflow_ulp_ops */

	if (!bpf_core_type_exists(struct mptcp_subflow_context) || !tcp) /* CONFIG_MPTCP */
		return 0;
	ulp = READ(tcp, icsk_ulp_ops);
	if (!ulp || bpf_probe_read_kernel(&name, sizeof(name), &ulp->name) || name.word != mptcp.word)
		return 0;
	context = BPF_CORE_READ(tcp, icsk_ulp_data);
	return (__u64)BPF_CORE_READ(context, conn);
}

/* Was the connection of this MPTCP socket accepted? */
static __always_inline bool mptcp_accepted(__u64 above)
{
	const struct mptcp_sock *sock = (const void *)above;

	return bpf_core_type_exists(struct mptcp_sock) && bpf_core_type_exists(struct mptcp_pm_data) &&
	       BPF_CORE_READ(sock, pm.server_side);
}

/* Whose an MPTCP socket is; 0: not known. */
static __always_inline __u64 mptcp_owner(__u64 above)
{
	const __u64 *owner = above ? map_lookup(mptcp_owners, &above) : NULL;

	return owner ? *owner : 0;
}

/*
 * A socket that a process holds, as the inventory finds it. The target under which it is counted as a
 * listener; 0: it is not, or is no MPTCP socket.
 */
static __always_inline __u32 mptcp_found(struct socket *socket, __u64 process)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	__u32 older = USAGE_MPTCP_OLDER;
	__u64 above = (__u64)sk, *count;
	const __u32 *counted;

	if (BPF_CORE_READ(sk, sk_protocol) != PROTO_MPTCP)
		return 0;
	counted = map_lookup(mptcp_listeners, &above);
	if (counted)
		return *counted;
	map_put(mptcp_owners, &above, &process);
	count = map_lookup(usage, &older);
	if (count)
		*count = 1;
	return 0;
}

/* May there be MPTCP sockets that are older than we are? */
static __always_inline bool mptcp_older(void)
{
	__u32 older = USAGE_MPTCP_OLDER;
	const __u64 *count = map_lookup(usage, &older);

	return count && *count;
}

#endif /* TATTLE_MPTCP_BPF_H */
