/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An address that an answer has opened stays open as long as a connection to it is: each connection that
 * came by it is counted in it, once, and counted off where its peer ends.
 */
#ifndef TATTLE_OPENING_BPF_H
#define TATTLE_OPENING_BPF_H

#include "address.bpf.h"

/* One connection more (or less, `more` is -1) to an address by this name. 0: it is not open by it. */
checked_once int hold_opening(__u32 target, __u64 high, __u64 low, __u32 name, __u32 more)
{
	struct numbered_address key = {.number = target};
	union address remote = {.halves = {high, low}};
	struct opening *opening;

	__builtin_memcpy(key.address, &remote, ADDRESS_LEN);
	opening = map_lookup(openings, &key);
	for (int i = 0; opening && i < OPENINGS; i++) {
		if (opening->by[i].name != name)
			continue;
		if (more == 1 || opening->by[i].open)
			add(&opening->by[i].open, more);
		return 1;
	}
	return 0;
}

/* A new connection keeps the opening that it came by; it is given up where the socket's peer ends. */
static __always_inline void keep_open(struct socket_state *state, __u32 target, __u32 name)
{
	const union address *remote = (const void *)state->flow.remote;

	if (state->held_target || state->flags & SOCKET_CLOSED ||
	    !hold_opening(target, remote->halves[0], remote->halves[1], name, 1))
		return;
	state->held_name = name;
	state->held_target = target;
}

static __always_inline void give_up_opening(struct socket_state *state)
{
	const union address *remote = (const void *)state->flow.remote;
	__u32 target = state->held_target;

	if (!target)
		return;
	state->held_target = 0;
	hold_opening(target, remote->halves[0], remote->halves[1], state->held_name, -1);
}

#endif /* TATTLE_OPENING_BPF_H */
