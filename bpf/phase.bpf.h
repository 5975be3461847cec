/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a target is doing now, as the requests in flight on its API tell (http.bpf.h) and its listening
 * sockets. User space says whose API is known (the map `phased`) and never writes what is counted here.
 */
#ifndef TATTLE_PHASE_BPF_H
#define TATTLE_PHASE_BPF_H

#include "target.bpf.h"

static __always_inline struct phase_state *phase_state(__u32 target)
{
	return target ? map_lookup(phases, &target) : NULL;
}

static __always_inline const struct phased *phased_target(__u32 target)
{
	const struct phased *told = target ? map_lookup(phased, &target) : NULL;

	return told && told->phased ? told : NULL;
}

/* Of several targets the first whose phases are known. */
checked_once __u32 phased_member(__u32 number)
{
	if (number < SETS_FROM)
		return number;
	for (int i = 0; i < SET_MEMBERS; i++) {
		__u32 one = member_of(number, i);

		if (!one || phased_target(one))
			return one;
	}
	return 0;
}

/* Nobody listens: not started yet, or about to be started again. */
static __always_inline bool is_silent(const struct phase_state *state, const struct phased *told)
{
	return (__s32)(state->listeners + told->listeners) <= 0 && !state->answers;
}

static __always_inline bool is_busy(const struct phase_state *state, enum phase phase)
{
	return (__s32)state->inflight[phase] > 0 || (__s32)state->inner[phase] > 0;
}

/* Phases that have a request in flight, as bits. */
checked_once __u32 busy_phases(__u32 number)
{
	__u32 target = phased_member(number_of(number));
	const struct phase_state *state = phase_state(target);

	if (!state || !phased_target(target))
		return 0;
	return is_busy(state, PHASE_INFERENCE) << PHASE_INFERENCE | is_busy(state, PHASE_PULL) << PHASE_PULL |
	       is_busy(state, PHASE_ACCOUNT) << PHASE_ACCOUNT;
}

/*
 * The only phase of these; PHASE_UNKNOWN: there are none, or several. The barriers keep the compiler from
 * making a table of it: 5.10 knows no constants.
 */
static __always_inline __u32 only_phase(__u32 busy)
{
	__u32 inference = busy == 1 << PHASE_INFERENCE, pull, account;

	asm volatile("" : "+r"(inference), "+r"(busy));
	pull = busy == 1 << PHASE_PULL;
	asm volatile("" : "+r"(pull), "+r"(busy));
	account = busy == 1 << PHASE_ACCOUNT;
	return inference * PHASE_INFERENCE + pull * PHASE_PULL + account * PHASE_ACCOUNT;
}

/* The phase while no request is in flight. */
static __always_inline __u32 quiet_phase(const struct phase_state *state, const struct phased *told)
{
	if (is_silent(state, told))
		return PHASE_STARTUP;
	if (state->listening_ns && (__s64)(coarse_now() - state->listening_ns) < GRACE_SECONDS * 1000000000LL)
		return PHASE_STARTUP;
	return PHASE_IDLE;
}

checked_once __u32 phase_of(__u32 number)
{
	__u32 target = phased_member(number_of(number));
	const struct phased *told = phased_target(target);
	const struct phase_state *state = phase_state(target);

	if (!told || !state)
		return PHASE_UNKNOWN;
	if (is_busy(state, PHASE_INFERENCE))
		return PHASE_INFERENCE;
	if (is_busy(state, PHASE_PULL))
		return PHASE_PULL;
	if (is_busy(state, PHASE_ACCOUNT))
		return PHASE_ACCOUNT;
	return quiet_phase(state, told);
}

/*
 * The phases that a target has requests of in flight, as bits 1 << enum phase; where there are none, the
 * phase that it is in. Not one phase only: a pull stays a pull beside a prompt.
 */
checked_once __u32 phases_of(__u32 target)
{
	const struct phased *told = phased_target(target);
	const struct phase_state *state = phase_state(target);
	__u32 found = 0;

	if (!told || !state)
		return 0;
	for (__u32 i = PHASE_INFERENCE; i < PHASES; i++)
		if (is_busy(state, i))
			found |= 1 << i;
	return found ? found : 1 << quiet_phase(state, told);
}

/* Does a rule that is bound to these phases speak in those? Not bound at all, it does in each. */
static __always_inline bool speaks_in(__u8 bound, __u32 now)
{
	return !bound || bound & now;
}

static __always_inline void count_listener_of(__u32 target)
{
	struct phase_state *state = phase_state(target);
	const struct phased *told = phased_target(target);

	if (!state)
		return;
	if ((__s32)(state->listeners + (told ? told->listeners : 0)) <= 0) {
		state->listening_ns = bpf_ktime_get_boot_ns();
		state->answers = 0;
	}
	add(&state->listeners, 1);
}

static __always_inline void forget_listener_of(__u32 target)
{
	struct phase_state *state = phase_state(target);

	if (!state)
		return;
	add(&state->listeners, -1);
	state->answers = 0;
}

/* Whatever listens in a target is counted, phased or not: it may become so later. */
checked_once int listener_up(__u32 number)
{
	for_each_member(one, number_of(number)) count_listener_of(one);
	return 0;
}

checked_once int listener_down(__u32 number)
{
	for_each_member(one, number_of(number)) forget_listener_of(one);
	return 0;
}

/* The mask, where the compiler cannot drop it, is what 5.10 believes. */
static __always_inline __u32 *in_flight(struct phase_state *state, __u32 phase, bool inner)
{
	asm volatile("" : "+r"(phase));
	phase &= PHASE_ROOM - 1;
	return inner ? &state->inner[phase] : &state->inflight[phase];
}

/* Who answers has started, also by a listening socket of somebody else's (systemd's, handed over). */
static __always_inline void request_up(__u32 target, __u32 phase, bool inner)
{
	struct phase_state *state = phase_state(target);

	if (!state)
		return;
	add(in_flight(state, phase, inner), 1);
	if ((__s32)state->listeners <= 0)
		state->answers = 1;
}

static __always_inline void request_down(__u32 target, __u32 phase, bool inner)
{
	struct phase_state *state = phase_state(target);

	if (state)
		add(in_flight(state, phase, inner), -1);
}

#endif /* TATTLE_PHASE_BPF_H */
