/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of a socket's state. Making the storage is the dearest thing that we do (1.1 us), hence it
 * is made when a socket gets a peer, a port or a raw protocol, and not for each socket().
 */
#ifndef TATTLE_SOCKET_BPF_H
#define TATTLE_SOCKET_BPF_H

#include "event.bpf.h"
#include "opening.bpf.h"
#include "phase.bpf.h"
#include "process.bpf.h"

enum { TCP_FIN_WAIT1 = 4, TCP_CLOSE = 7, TCP_LAST_ACK = 9, TCP_LISTEN = 10 }; /* include/net/tcp_states.h */

/* Does anybody ask to see loopback traffic of a process of this target to or at this port? */
static __always_inline bool loopback_wanted(__be16 port, __u32 target)
{
	const struct settings *now = setting();

	if (port == bpf_htons(DNS_PORT))
		return true; /* a name that is asked for goes out, by whatever resolver */
	return target || !now || now->loopback;
}

static __always_inline void start_flow(struct socket_state *state, __u64 process, __u8 proto, __u8 direction)
{
	state->flow.process = process;
	state->flow.proto = proto;
	state->flow.direction = direction;
	state->opened_ns = bpf_ktime_get_boot_ns();
}

/* From here on the connection's bytes pass in another phase: what was counted so far keeps its own. */
static __always_inline void change_phase(struct socket_state *state, struct slot *slot, __u8 phase)
{
	fold(state->slot);
	state->flow.phase = phase;
	if (!slot)
		return;
	slot->flow.phase = phase;
	slot->flags &= ~FLOW_OVERLAP;
	slot->first_ns = coarse_now();
}

/* What was counted since the last fold belongs to this phase, too: only now it is known. */
static __always_inline void correct_phase(struct socket_state *state, struct slot *slot, __u8 phase)
{
	state->own_phase = state->flow.phase = phase;
	if (!slot)
		return;
	slot->flow.phase = phase;
	slot->flags &= ~FLOW_OVERLAP;
}

/* Of the phases in which requests are in flight, the one for which the name said here is contacted. */
static __noinline __u32 phase_by_name(struct __sk_buff *skb, __u32 busy)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	const __u32 *named = map_lookup(named_phases, &cookie);

	return named ? only_phase(busy & *named) : PHASE_UNKNOWN;
}

/*
 * In which phase does this packet pass? A connection belongs to the requests that were in flight when it
 * was opened, or when it last sent data, if they were all of one phase; to that as long as one of them is.
 * So a pull's bytes are a pull's while a prompt is answered. Else the name that was said on it may tell.
 * What cannot be told apart goes to the target's phase, and its flow says so.
 */
static __noinline void rephase(struct __sk_buff *skb, struct socket_state *state, bool out)
{
	__u32 busy = busy_phases(state->target), only = only_phase(busy), phase;
	struct slot *slot = slot_at(state->slot);
	bool owned;

	if (only && out && state->own_phase != only && has_payload(skb))
		state->own_phase = only;
	owned = busy >> (state->own_phase & (PHASE_ROOM - 1)) & 1;
	if (busy && !only && !owned) {
		phase = phase_by_name(skb, busy);
		if (phase) {
			correct_phase(state, slot, phase);
			return;
		}
	}
	phase = owned ? state->own_phase : phase_of(state->target);
	if (state->flow.phase != phase)
		change_phase(state, slot, phase);
	if (slot && busy && !only && !owned)
		slot->flags |= FLOW_OVERLAP;
}

/* The flow of a socket belongs to another process: what was counted so far stays with the old one. */
static __always_inline void give_flow(struct socket_state *state, __u64 process)
{
	struct slot *slot;

	if (state->flow.process == process)
		return;
	fold(state->slot);
	state->flow.process = process;
	slot = slot_at(state->slot);
	if (!slot)
		return;
	slot->flow.process = process;
	slot->first_ns = coarse_now();
}

/* Which packets of a socket that got this peer are worth more than counting. */
static __always_inline __u8 cares_for(const struct flow_key *flow)
{
	if (flow->direction != DIRECTION_OUT)
		return 0;
	if (flow->remote_port == bpf_htons(DNS_PORT))
		return CARE_DNS;
	if (flow->proto == PROTO_TCP || flow->remote_port == bpf_htons(QUIC_PORT))
		return CARE_HELLO;
	return 0;
}

/* One peer from here on: the socket gets counters of its own. */
static __always_inline void set_peer(struct socket_state *state, const union address *remote, __be16 port)
{
	struct slot *slot;

	__builtin_memcpy(state->flow.remote, remote, ADDRESS_LEN);
	state->flow.remote_port = port;
	state->mode = MODE_FIXED;
	state->care = cares_for(&state->flow);
	slot = slot_take(&state->slot);
	if (!slot)
		return;
	slot->flow = state->flow;
	slot->first_ns = state->opened_ns;
}

/*
 * The socket's peer is no longer (or another): its counters go to the flow, its slot to the next.
 * The flag comes first: a packet that sees it does without the slot.
 */
static __always_inline void end_peer(struct socket_state *state)
{
	__u32 slot = state->slot;

	give_up_opening(state);
	state->flags |= SOCKET_CLOSED;
	if (!slot)
		return;
	fold(slot);
	state->slot = 0;
	slot_give(slot);
}

/* A socket that is used anew must not carry anything of its last peer to the next one. */
static __always_inline void reset(struct socket_state *state)
{
	end_peer(state);
	state->flags = 0;
	state->generation = 0;
	state->asked_target = 0; /* what was allowed once (SOCKET_ASK_AGAIN) is not remembered as allowed */
	state->asked_generation = 0;
	state->own_phase = 0;
	state->asked_terms = 0;
	state->care = 0;
	state->hello_seen = 0;
	state->hello_left = 0;
	state->name = 0;
}

static __always_inline void forget_peer(struct socket_state *state)
{
	if (!state)
		return;
	reset(state);
	state->mode = MODE_IGNORED;
}

/* Remember who sends: datagrams belong to the process that sent them, not to the one that opened. */
static __always_inline void note_sender(struct socket_state *state, __u32 target)
{
	struct task_struct *task = current_task();
	__u64 start_ns = READ(task, group_leader, start_boottime);
	__u32 exec_id = READ(task, self_exec_id);

	if (state->sender_start_ns == start_ns && state->sender_exec_id == exec_id)
		return;
	state->flow.process = identify(target);
	state->sender_start_ns = start_ns;
	state->sender_exec_id = exec_id;
}

/* The target under which a listener is counted, while the process runs that closes it. */
static __always_inline __u32 listened_for(const struct socket_state *state)
{
	if (state->asked_target)
		return state->asked_target;
	return state->target ? state->target : target_of_task(current_task());
}

/* The targets of the process that uses it: where they are others than before, it is judged anew. */
static __always_inline void note_mark(struct socket_state *state)
{
	__u32 mark = current_mark();

	if (state->marked == mark)
		return;
	state->marked = mark;
	state->generation = ~generation();
}

/* A socket without a peer of its own, whose packets say where they go. */
static __always_inline struct socket_state *open_per_packet(struct socket_state *state, __u8 proto,
							    bool loopback, __u32 target)
{
	if (!state) {
		lost(LOSS_STORAGE_REFUSED);
		return NULL;
	}
	if (!state->opened_ns)
		start_flow(state, 0, proto, DIRECTION_OUT);
	state->mode = MODE_PER_PACKET;
	if (loopback)
		state->flags |= SOCKET_LOOPBACK;
	note_sender(state, target);
	note_mark(state);
	return state;
}

static __always_inline void count_attempt(const struct socket_state *state)
{
	struct slot *slot = slot_at(state->slot);
	struct flow_key key = state->flow;
	struct flow *flow;

	if (slot) {
		add(&slot->fresh.attempts, 1);
		return;
	}
	flow = flow_of(&key);
	if (flow)
		add(&flow->attempts, 1);
}

static __always_inline void report_attempt(const struct socket_state *state, enum event_kind kind, __u64 now,
					   __u64 cookie)
{
	const struct slot *slot = slot_at(state->slot);
	struct flow_key key = state->flow;
	struct event *event;

	count_attempt(state);
	event = event_new(kind, &key, now);
	if (!event)
		return;
	event->socket = cookie;
	if (slot)
		event->flags = slot->flags;
	event_send(event);
}

/* A stream or connected datagram socket gets its peer. Nothing is counted yet. */
static __always_inline void open_fixed(struct socket_state *state, const union address *remote, __be16 port,
				       __u8 proto, __u64 process, __u8 phase)
{
	reset(state);
	start_flow(state, process, proto, DIRECTION_OUT);
	state->flow.phase = phase;
	set_peer(state, remote, port);
}

static __always_inline void report_close(struct socket_state *state, int result, __u64 cookie)
{
	struct flow_key key = state->flow;
	struct slot *slot = slot_at(state->slot);
	struct event *event = event_new(EVENT_CLOSE, &key, bpf_ktime_get_boot_ns());

	if (!event)
		return;
	event->socket = cookie;
	event->result = result;
	event->duration_ns = event->time_ns - state->opened_ns;
	if (slot)
		event_totals(event, slot);
	event_send(event);
}

#endif /* TATTLE_SOCKET_BPF_H */
