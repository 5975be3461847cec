/*
 * The yardstick for rules: what systemd's IPAddressAllow=/IPAddressDeny= do to each packet.
 *
 * After systemd's src/core/bpf-firewall.c: read the remote address from the packet, look it up in
 * an allow trie, then in a deny trie, and let the more specific decide. IPv4 only: the bench's
 * packets are.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <stddef.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct prefix {
	__u32 length;
	__u32 address;
};

struct trie {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix);
	__type(value, __u64);
};

struct trie allowed SEC(".maps");
struct trie denied SEC(".maps");

static __always_inline int judge(struct __sk_buff *skb, __u32 offset)
{
	struct prefix key = {.length = 32};

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 1;
	if (bpf_skb_load_bytes(skb, offset, &key.address, sizeof(key.address)))
		return 1;
	if (bpf_map_lookup_elem(&allowed, &key))
		return 1;
	return !bpf_map_lookup_elem(&denied, &key);
}

SEC("cgroup_skb/ingress") int ingress(struct __sk_buff *skb)
{
	return judge(skb, offsetof(struct iphdr, saddr));
}

SEC("cgroup_skb/egress") int egress(struct __sk_buff *skb)
{
	return judge(skb, offsetof(struct iphdr, daddr));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
