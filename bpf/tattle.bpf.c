// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tattle's programs. Each is a few lines here; how they work stands in the headers, by concern:
 * connect (connect, sendmsg, bind), packet (bytes), tcp (connections), cgroup (targets), policy (may
 * it?), http and phase (what for), process (who), socket (the state of a socket), flow (counters),
 * event (the log).
 * bpf/README.md has the table of hooks.
 */
#include "connect.bpf.h"
#include "cgroup.bpf.h"
#include "inventory.bpf.h"
#include "packet.bpf.h"
#include "program.bpf.h"
#include "tcp.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * What a hook that decides answers; DROP is EPERM in a call. The last one is known to egress only
 * (include/linux/bpf-cgroup.h, BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY): congestion, as TCP sees it.
 */
enum { DROP = 0, PASS = 1, DROP_AS_IF_SENT = 2 };

/* Types that no map holds: keep them in BTF, where the user half reads them. */
const struct event *_event __attribute__((used));
const struct descriptor *_descriptor __attribute__((used));
const enum limits *_limits __attribute__((used));
const enum event_kind *_event_kind __attribute__((used));
const enum direction *_direction __attribute__((used));
const enum verdict *_verdict __attribute__((used));
const enum result *_result __attribute__((used));
const enum loss_reason *_loss_reason __attribute__((used));
const enum usage *_usage __attribute__((used));
const enum flow_flags *_flow_flags __attribute__((used));
const enum socket_mode *_socket_mode __attribute__((used));
const enum socket_flags *_socket_flags __attribute__((used));
const enum care *_care __attribute__((used));
const enum cgroup_flags *_cgroup_flags __attribute__((used));
const enum process_flags *_process_flags __attribute__((used));
const enum policy_mode *_policy_mode __attribute__((used));
const enum engine *_engine __attribute__((used));
const enum scope_bit *_scope_bit __attribute__((used));
const enum name_kinds *_name_kinds __attribute__((used));
const enum name_form *_name_form __attribute__((used));
const enum phase *_phase __attribute__((used));
const enum sum_address *_sum_address __attribute__((used));
const enum terms *_terms __attribute__((used));
const enum sample_kind *_sample_kind __attribute__((used));
const enum unasked *_unasked __attribute__((used));
const struct sample *_sample __attribute__((used));
const struct notice *_notice __attribute__((used));
const enum notice_kind *_notice_kind __attribute__((used));
const enum hold_reason *_hold_reason __attribute__((used));
const enum part_table *_part_table __attribute__((used));
const enum manner *_manner __attribute__((used));

static __always_inline void user_ipv4(struct bpf_sock_addr *ctx, union address *remote)
{
	from_ipv4(remote, ctx->user_ip4);
}

static __always_inline void user_ipv6(struct bpf_sock_addr *ctx, union address *remote)
{
	from_ipv6(remote, ctx->user_ip6);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	union address remote;

	user_ipv4(ctx, &remote);
	return connecting(ctx, &remote);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	union address remote;

	user_ipv6(ctx, &remote);
	return connecting(ctx, &remote);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	union address remote;

	user_ipv4(ctx, &remote);
	return sending(ctx, &remote);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	union address remote;

	user_ipv6(ctx, &remote);
	return sending(ctx, &remote);
}

SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *ctx)
{
	union address local;

	from_ipv4(&local, ctx->src_ip4);
	bound(ctx, &local);
	return PASS;
}

SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *ctx)
{
	union address local;

	from_ipv6(&local, ctx->src_ip6);
	bound(ctx, &local);
	return PASS;
}

/* Only sockets that no later hook sees in its process: raw, ping, SCTP, DCCP and their like. */
SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	__u32 target;

	if (ctx->type == SOCK_STREAM && (ctx->protocol == PROTO_TCP || ctx->protocol == PROTO_MPTCP))
		return PASS;
	if (ctx->type == SOCK_DGRAM && (ctx->protocol == PROTO_UDP || ctx->protocol == PROTO_UDPLITE))
		return PASS;
	target = current_target();
	if (!socket_allowed(target, ctx->protocol))
		return !PASS;
	open_per_packet(socket_create(sockets, ctx), ctx->protocol, loopback_wanted(0, target), target);
	return PASS;
}

/* close(): for TCP its queue is still to be sent, the end comes at TCP_CLOSE (see tcp_closed). */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct socket_state *state = socket_lookup(sockets, ctx);

	/* What MPTCP accepts is a copy of its listener: with our state, and even with its cookie. */
	if (state && state->mode == MODE_LISTENER && !(state->flags & SOCKET_STATE_CB) &&
	    (ctx->protocol != PROTO_MPTCP || ctx->state == TCP_LISTEN))
		listener_down(listened_for(state));
	if (!state || state->mode != MODE_FIXED || state->flags & (SOCKET_STATE_CB | SOCKET_CLOSED))
		return PASS;
	if (state->flow.proto == PROTO_TCP || state->flags & SOCKET_SENT)
		report_close(state, state->flow.proto == PROTO_TCP ? RESULT_UNKNOWN : RESULT_OK,
			     bpf_get_socket_cookie(ctx));
	if (state->care & CARE_TALK)
		stop_listening_in(ctx, state);
	end_peer(state);
	return PASS;
}

/* Most calls are not for us: look at the operation before the socket. */
SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		tcp_connecting(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		tcp_listening(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		tcp_established(ctx);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		tcp_writes(ctx);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		tcp_retransmits(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_FIN_WAIT1 || ctx->args[1] == TCP_LAST_ACK ||
		    ctx->args[1] == TCP_CLOSE)
			tcp_hung_up(ctx);
		if (ctx->args[1] == TCP_CLOSE)
			tcp_closed(ctx);
		break;
	}
	return PASS;
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	return packet(skb, false);
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	if (packet(skb, true))
		return PASS;
	return is_over(skb) ? DROP_AS_IF_SENT : DROP;
}

SEC("raw_tp/cgroup_mkdir")
int cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx)
{
	cgroup_made((struct cgroup *)ctx->args[0], (const char *)ctx->args[1]);
	return 0;
}

SEC("raw_tp/cgroup_release")
int cgroup_release(struct bpf_raw_tracepoint_args *ctx)
{
	cgroup_gone((struct cgroup *)ctx->args[0]);
	return 0;
}

SEC("raw_tp/cgroup_attach_task")
int attach_task(struct bpf_raw_tracepoint_args *ctx)
{
	moved((struct cgroup *)ctx->args[0], (struct task_struct *)ctx->args[2]);
	return 0;
}

/* Programs that are targets; attached only while there are such, or policies (see tracer/targets/kernel.py).
 */
SEC("raw_tp/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	executed((struct task_struct *)ctx->args[0], (struct linux_binprm *)ctx->args[2]);
	return 0;
}

SEC("raw_tp/sched_process_fork")
int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	forked((struct task_struct *)ctx->args[0], (struct task_struct *)ctx->args[1]);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	exited((struct task_struct *)ctx->args[0]);
	return 0;
}

/*
 * Not attached to anything: whoever is about to read `flows` runs it (BPF_PROG_TEST_RUN, known to raw
 * tracepoints from 5.10 on), with the first of FLUSH_SLOTS slots as its argument. Afterwards the flows
 * hold all that was counted, also of sockets that are open.
 */
SEC("raw_tp")
int flush(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 first = ctx->args[0];

	for (__u32 i = 0; i < FLUSH_SLOTS; i++)
		fold(first + i);
	return 0;
}

/* Not attached either: run like `flush`, once, when the maps are new. Makes these slots free. */
SEC("raw_tp")
int fill(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 first = ctx->args[0];

	for (__u32 i = 0; i < FLUSH_SLOTS; i++) {
		__u32 index = first + i;

		if (index)
			queue_push(free_slots, &index);
	}
	return 0;
}

/* Read once, at the start: the sockets that were there before. */
SEC("iter/task_file")
int inventory(struct bpf_iter__task_file *ctx)
{
	list_descriptor(ctx);
	return 0;
}
