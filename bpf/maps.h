/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps, and the only words by which programs use maps. Sizes are defaults: the loader sets them.
 * No LRU for evidence: it is never evicted behind our back; a full map is counted (see lost()).
 */
#ifndef TATTLE_MAPS_H
#define TATTLE_MAPS_H

#include "abi.h"
#include "kernel.h"

#define MAP_HASH(name, key_type, value_type, entries, flags) \
	struct map_##name {                                  \
		MAP_KIND(BPF_MAP_TYPE_HASH);                 \
		__uint(max_entries, entries);                \
		__uint(map_flags, flags);                    \
		__type(key, key_type);                       \
		__type(value, value_type);                   \
	} name SEC(".maps")

#define MAP_ARRAY(name, value_type, entries)  \
	struct map_##name {                   \
		MAP_KIND(BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, entries); \
		__type(key, __u32);           \
		__type(value, value_type);    \
	} name SEC(".maps")

#define MAP_LRU(name, key_type, value_type, entries) \
	struct map_##name {                          \
		MAP_KIND(BPF_MAP_TYPE_LRU_HASH);     \
		__uint(max_entries, entries);        \
		__type(key, key_type);               \
		__type(value, value_type);           \
	} name SEC(".maps")

#define MAP_PREFIX(name, key_type, value_type, entries) \
	struct map_##name {                             \
		MAP_KIND(BPF_MAP_TYPE_LPM_TRIE);        \
		__uint(max_entries, entries);           \
		__uint(map_flags, BPF_F_NO_PREALLOC);   \
		__type(key, key_type);                  \
		__type(value, value_type);              \
	} name SEC(".maps")

#define MAP_SOCKET_STORAGE(name, value_type)                        \
	struct map_##name {                                         \
		MAP_KIND(BPF_MAP_TYPE_SK_STORAGE);                  \
		__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE); \
		__type(key, int);                                   \
		__type(value, value_type);                          \
	} name SEC(".maps")

#define MAP_QUEUE(name, value_type, entries)  \
	struct map_##name {                   \
		MAP_KIND(BPF_MAP_TYPE_QUEUE); \
		__uint(max_entries, entries); \
		__type(value, value_type);    \
	} name SEC(".maps")

#define MAP_SCRATCH(name, value_type, entries)       \
	struct map_##name {                          \
		MAP_KIND(BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, entries);        \
		__type(key, __u32);                  \
		__type(value, value_type);           \
	} name SEC(".maps")

#define MAP_RING(name, bytes)                   \
	struct map_##name {                     \
		MAP_KIND(BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);     \
	} name SEC(".maps")

#define map_lookup(map, key) bpf_map_lookup_elem(MAP(map), key)
#define map_insert(map, key, value) bpf_map_update_elem(MAP(map), key, value, BPF_NOEXIST)
#define map_delete(map, key) bpf_map_delete_elem(MAP(map), key)
#define map_put(map, key, value) bpf_map_update_elem(MAP(map), key, value, BPF_ANY)
#define queue_pop(map, value) bpf_map_pop_elem(MAP(map), value)
#define queue_push(map, value) bpf_map_push_elem(MAP(map), value, 0)
#define socket_lookup(map, sk) bpf_sk_storage_get(MAP(map), sk, 0, 0)
#define socket_create(map, sk) bpf_sk_storage_get(MAP(map), sk, 0, BPF_SK_STORAGE_GET_F_CREATE)
#define socket_forget(map, sk) bpf_sk_storage_delete(MAP(map), sk)
#define ring_reserve(map, size) bpf_ringbuf_reserve(MAP(map), size, 0)
#define ring_filled(map) bpf_ringbuf_query(MAP(map), BPF_RB_AVAIL_DATA)

typedef struct {
	char bytes[CGROUP_PATH_LEN];
} cgroup_path;

/* Not preallocated: large preallocated maps are what makes loading slow. */
MAP_HASH(flows, struct flow_key, struct flow, 65536, BPF_F_NO_PREALLOC);
MAP_HASH(processes, __u64, struct process, 16384, BPF_F_NO_PREALLOC);
/* Preallocated: made and deleted at each accepted connection. */
MAP_HASH(handshakes, struct handshake_key, struct handshake, 8192, 0);
/* Preallocated: written by tracepoints, where 5.10 warns of anything else. */
MAP_HASH(cgroups, __u64, struct cgroup_entry, 8192, 0);
MAP_HASH(target_paths, cgroup_path, __u32, 1024, 0);
/* The same by the last part of a path, wherever that stands: units, and containers that are known. */
MAP_HASH(target_names, cgroup_path, __u32, 4096, 0);
/* Processes of targets, whatever cgroup they are in (target.bpf.h). */
MAP_HASH(marks, __u32, struct mark, 32768, 0);
MAP_HASH(sets, __u32, struct target_set, SETS, 0);
MAP_HASH(unions, struct target_pair, __u32, 2 * SETS, 0);
/* Since when a target is named (CLOCK_BOOTTIME, seconds); 0: it is not, and sockets forget it. */
MAP_ARRAY(targets, __u32, 1024);
/* Parents of processes that no one has marked, by tgid; only while user space marks what runs. */
MAP_HASH(births, __u32, __u32, 8192, 0);
MAP_HASH(parts, struct part_key, struct part_rule, 4096, 0);
MAP_ARRAY(globs, struct part_glob, GLOBS);
MAP_ARRAY(held, struct held_count, HOLD_REASONS);
/* How long candidates were held: by the logarithm of milliseconds; the last element sums microseconds. */
MAP_ARRAY(held_times, __u64, 18);
/* Where a path is looked at (path.bpf.h): one for programs, one for cgroups. */
struct path_room {
	struct part_key key;
	__u32 part_len;
	__u32 found; /* targets of the parts so far */
	__u32 asked; /* the same, if nothing speaks against it */
	__u32 node;
	__u32 up; /* parts to leave out, after ".." */
	__u32 reserved;
	char name[CGROUP_PATH_LEN];
	char text[TEXT_LEN + CGROUP_PATH_LEN];
};
MAP_SCRATCH(path_rooms, struct path_room, 2);
/*
 * By an MPTCP socket that has connected (its address is its name): whose its later subflows are. An
 * LRU, since nothing tells of its end; whoever is evicted has a worker of the kernel instead.
 */
MAP_LRU(mptcp_owners, __u64, __u64, 4096);
/* Likewise, those that listen: the target under which they are counted. */
MAP_HASH(mptcp_listeners, __u64, __u32, 1024, BPF_F_NO_PREALLOC);
MAP_ARRAY(slots, struct slot, 32768);
/* First in, first out: a slot rests as long as can be before another socket gets it. */
MAP_QUEUE(free_slots, __u32, 32768);
MAP_ARRAY(overflow, struct flow, 2);
MAP_ARRAY(losses, __u64, LOSS_REASONS);
MAP_ARRAY(settings, struct settings, 1);
MAP_ARRAY(clock, struct clock, 1);
MAP_ARRAY(usage, __u64, USAGES);
/* What new entries are copies of. Zeros, but for the times of a flow. */
struct blank {
	struct flow flow;
	union {
		struct process process;
		struct cgroup_entry cgroup;
	};
};
MAP_ARRAY(blanks, struct blank, 1);
MAP_HASH(policies, __u32, struct policy, 1024, 0);
MAP_PREFIX(rules, struct rule_key, struct rules, 65536);
/* Rules by name: by what they are called (asked by DNS and TLS), and by number (asked by address). */
MAP_HASH(names, struct name_key, struct name_rules, 16384, BPF_F_NO_PREALLOC);
MAP_HASH(named, struct named_key, struct name_rules, 16384, BPF_F_NO_PREALLOC);
MAP_HASH(openings, struct numbered_address, struct opening, 16384, BPF_F_NO_PREALLOC);
MAP_HASH(resolvers, struct numbered_address, __u32, 4096, BPF_F_NO_PREALLOC);
/* Addresses of this host, by network namespace: what a datagram may be sent to before its way is known. */
MAP_HASH(own_addresses, struct numbered_address, __u32, 4096, BPF_F_NO_PREALLOC);
MAP_HASH(hosted, struct numbered_address, struct hosted, 4096, BPF_F_NO_PREALLOC);
/* Only of sockets that ask for names that a rule allows. */
MAP_SOCKET_STORAGE(lookups, struct lookups);
/* Only while a message is incomplete; never handed down to another socket. */
struct map_pieces {
	MAP_KIND(BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pieces);
} pieces SEC(".maps");
/* An LRU, for what it forgets is a permission. */
/*
 * By a connection's cookie: the phases, as bits, in which its target contacts the name that the client has
 * said on it. Written by user space; for an LRU what it forgets is counted in the target's phase.
 */
MAP_LRU(named_phases, __u64, __u32, 4096);
/* By its two ports: who has connected within this host. For an LRU what it forgets is counted twice. */
MAP_LRU(inner_clients, __u64, __u64, 4096);
MAP_LRU(asked_peers, struct peer_key, __u64, 8192);
/* An LRU: who reads it ends the connection, and what is forgotten ends by itself. */
MAP_LRU(denied_streams, struct stream_key, __u64, 1024);
MAP_SOCKET_STORAGE(sockets, struct socket_state);
MAP_ARRAY(phased, struct phased, 1024);
MAP_ARRAY(phases, struct phase_state, 1024);
MAP_PREFIX(api_paths, struct api_path_key, __u32, 16384);
/* Only of connections to the API of such a target; never handed down to another socket. */
struct map_talks {
	MAP_KIND(BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct talk);
} talks SEC(".maps");
MAP_RING(events, 2 << 20);
MAP_RING(samples, 1 << 20);
MAP_RING(notices, 1 << 16);

static __always_inline struct blank *blank(void)
{
	__u32 first = 0;

	return map_lookup(blanks, &first);
}

#define add(counter, n) ((void)__sync_fetch_and_add(counter, n))

static __always_inline void lost(enum loss_reason reason)
{
	__u32 index = reason;
	__u64 *count = map_lookup(losses, &index);

	if (count)
		add(count, 1);
}

static __always_inline const struct settings *setting(void)
{
	__u32 first = 0;

	return map_lookup(settings, &first);
}

/* Grows with each change of a policy; 0: there never was one. */
static __always_inline __u32 generation(void)
{
	const struct settings *now = setting();

	return now ? now->generation : 0;
}

/*
 * CLOCK_BOOTTIME to a tick (1-10 ms), for what happens at each packet: reading the clock takes 45 ns,
 * comparing the tick takes one. Two who race here leave a time that is a tick old.
 */
static __always_inline __u64 coarse_now(void)
{
	__u32 first = 0;
	struct clock *last = map_lookup(clock, &first);
	__u64 tick = bpf_jiffies64();

	if (!last)
		return 0;
	if (last->jiffies != tick) {
		last->boot_ns = bpf_ktime_get_boot_ns();
		last->jiffies = tick;
	}
	return last->boot_ns;
}

#endif /* TATTLE_MAPS_H */
