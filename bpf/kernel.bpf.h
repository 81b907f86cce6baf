/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The kernel's own functions for programs (kfuncs): each may be missing. */
#ifndef TCPTOP_KERNEL_BPF_H
#define TCPTOP_KERNEL_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Both Linux 6.2. */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/*
 * A pointer of which the verifier believes nothing but its type. Where a trusted one
 * is followed to another one, it searches all the kernel's types, several times, for
 * a word on whether that can be trusted as well: a quarter of the time of tcptop's
 * start.
 */
#define untrusted(type, object)                                                                    \
	(bpf_ksym_exists(bpf_rdonly_cast) ?                                                        \
		 (type *)bpf_rdonly_cast(object, bpf_core_type_id_kernel(type)) :                  \
		 (object))

#endif
