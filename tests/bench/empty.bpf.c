/*
 * The floor: tattle's hooks with programs that return at once. What is paid here is paid by the
 * kernel for calling any program, so tattle's own cost is what comes on top.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define EMPTY(section, name, type)               \
	SEC(section) int empty_##name(type *ctx) \
	{                                        \
		(void)ctx;                       \
		return 1;                        \
	}

EMPTY("cgroup/connect4", connect4, struct bpf_sock_addr)
EMPTY("cgroup/connect6", connect6, struct bpf_sock_addr)
EMPTY("cgroup/sendmsg4", sendmsg4, struct bpf_sock_addr)
EMPTY("cgroup/sendmsg6", sendmsg6, struct bpf_sock_addr)
EMPTY("cgroup/post_bind4", post_bind4, struct bpf_sock)
EMPTY("cgroup/post_bind6", post_bind6, struct bpf_sock)
EMPTY("cgroup/sock_create", sock_create, struct bpf_sock)
EMPTY("cgroup/sock_release", sock_release, struct bpf_sock)
EMPTY("sockops", sockops, struct bpf_sock_ops)
EMPTY("cgroup_skb/ingress", ingress, struct __sk_buff)
EMPTY("cgroup_skb/egress", egress, struct __sk_buff)
EMPTY("raw_tp/cgroup_mkdir", cgroup_mkdir, struct bpf_raw_tracepoint_args)
EMPTY("raw_tp/cgroup_release", cgroup_release, struct bpf_raw_tracepoint_args)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
