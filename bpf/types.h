/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The few names that bcc's own headers want from a kernel's <linux/types.h>, so that they need no kernel. */
#ifndef TATTLE_TYPES_H
#define TATTLE_TYPES_H

typedef unsigned char __u8, u8;
typedef signed char __s8, s8;
typedef unsigned short __u16, u16, __be16, __le16, __sum16;
typedef short __s16, s16;
typedef unsigned int __u32, u32, __be32, __le32, __wsum;
typedef int __s32, s32, pid_t;
typedef unsigned long long __u64, u64, __be64, __le64;
typedef long long __s64, s64;
typedef unsigned long size_t, uintptr_t;

#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define offsetof(type, member) __builtin_offsetof(type, member)
#define bool _Bool
#define true 1
#define false 0
#define NULL ((void *)0)

#endif /* TATTLE_TYPES_H */
