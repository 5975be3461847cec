/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How the sources are said to bcc (`--engine bcc`): it includes its own helpers first, relocates nothing,
 * and knows no variables. What CO-RE would put in when it loads, tracer/bpf/loader/relocate.py has written
 * into the copy that is compiled: the offsets of the running kernel, and whether it has a type.
 */
#ifndef TATTLE_BCC_H
#define TATTLE_BCC_H

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

/* A map goes by its number, in whose place the loader puts its descriptor (tracer/bpf/loader/bcc.py). */
#define MAP(name) ((void *)bpf_pseudo_fd(1, sizeof(*name.number) / sizeof(int)))
#define MAP_KIND(kind)      \
	__uint(type, kind); \
	__uint(number, __COUNTER__ + 1)

/*
 * Static, since LLVM resolves no other calls when it compiles in memory; tracer/bpf/loader/bcc.py tells the
 * kernel that they are not. Used: else LLVM leaves out arguments, and their types would not be those
 * declared.
 */
#define checked_once static __noinline __attribute__((used))

/* As wide as a register: bcc compiles for the first instruction set, which compares nothing narrower. */
typedef __u64 bounded;

/* bcc puts older helpers in their place where it may not read the kernel's symbols (a service, say). */
#undef bpf_probe_read_kernel
#undef bpf_probe_read_kernel_str

#define bpf_be64_to_cpu(number) __builtin_bswap64(number)
#define bpf_core_field_offset(type, field) offsetof(type, field)
#define bpf_core_read(to, size, from) bpf_probe_read_kernel(to, size, from)

/* BPF_CORE_READ(a, b, c): a->b->c, where each arrow is a call. */
#define ___paste(a, b) a##b
#define ___named(prefix, number) ___paste(prefix, number)
#define ___fifth(_1, _2, _3, _4, _5, number, ...) number
#define ___count(args...) ___fifth(args, 5, 4, 3, 2, 1)
#define ___step(from, field)                                                          \
	({                                                                            \
		typeof((from)->field) _step;                                          \
		bpf_probe_read_kernel(&_step, sizeof(_step), (void *)&(from)->field); \
		_step;                                                                \
	})
#define ___read2(a, b) ___step(a, b)
#define ___read3(a, b, c) ___step(___read2(a, b), c)
#define ___read4(a, b, c, d) ___step(___read3(a, b, c), d)
#define ___read5(a, b, c, d, e) ___step(___read4(a, b, c, d), e)
#define BPF_CORE_READ(args...) ___named(___read, ___count(args))(args)
#define ___arrow2(a, b) a->b
#define ___arrow3(a, b, c) a->b->c
#define ___arrow4(a, b, c, d) a->b->c->d
#define ___arrow5(a, b, c, d, e) a->b->c->d->e
#define ___arrow(args...) ___named(___arrow, ___count(args))(args)

#endif /* TATTLE_BCC_H */
