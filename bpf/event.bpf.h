/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The log. Events are lines for people; nothing is counted by them, so a full ring loses lines and
 * no facts. The reader is woken at a fill mark only: waking it for each event costs the watched
 * program a quarter of its connect rate and more (it drains on a timer instead).
 */
#ifndef TATTLE_EVENT_BPF_H
#define TATTLE_EVENT_BPF_H

#include "flow.bpf.h"

static __always_inline struct event *event_new(enum event_kind kind, const struct flow_key *flow, __u64 now)
{
	struct event *event = ring_reserve(events, sizeof(*event));

	if (!event) {
		lost(LOSS_RING_FULL);
		return NULL;
	}
	*event = (struct event){};
	event->time_ns = now;
	event->kind = kind;
	event->process = flow->process;
	__builtin_memcpy(event->remote, flow->remote, ADDRESS_LEN);
	event->remote_port = flow->remote_port;
	event->proto = flow->proto;
	event->direction = flow->direction;
	event->phase = flow->phase;
	event->result = RESULT_UNKNOWN;
	return event;
}

static __always_inline void event_send(struct event *event)
{
	const struct settings *now = setting();
	bool wake = now && ring_filled(events) >= now->wake_bytes;

	bpf_ringbuf_submit(event, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* What the socket has carried in all: the end of its story. */
static __always_inline void event_totals(struct event *event, const struct slot *slot)
{
	const struct counters *fresh = &slot->fresh.traffic, *folded = &slot->folded;

	event->bytes_out = folded->bytes_out + fresh->bytes_out;
	event->bytes_in = folded->bytes_in + fresh->bytes_in;
	event->packets_out = folded->packets_out + fresh->packets_out;
	event->packets_in = folded->packets_in + fresh->packets_in;
	event->flags |= slot->flags;
}

#endif /* TATTLE_EVENT_BPF_H */
