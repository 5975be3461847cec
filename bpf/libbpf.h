/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How the sources are said to clang and libbpf: the words that bcc.h says otherwise. */
#ifndef TATTLE_LIBBPF_H
#define TATTLE_LIBBPF_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

/* A map, as a helper wants it. */
#define MAP(name) (&name)
/* What kind of map it is: the first line of its description. */
#define MAP_KIND(kind) __uint(type, kind)

/*
 * A function that is not static: the verifier checks it once and by itself, instead of at each call
 * with all that is known there. It takes numbers only (5.10), and the context.
 */
#define checked_once __noinline

/* A number below a bound that the verifier is to believe. */
typedef __u32 bounded;

#endif /* TATTLE_LIBBPF_H */
