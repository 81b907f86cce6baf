/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The kernel functions that BPF programs may call (kfuncs): each may be missing. */
#ifndef TCPTOP_KERNEL_BPF_H
#define TCPTOP_KERNEL_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Both since Linux 6.2. */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/*
 * Makes a pointer untrusted: the verifier knows its type and nothing more. When a
 * program follows a trusted pointer to another one, the verifier searches all of the
 * kernel's types several times to learn whether it can trust the second one too. These
 * searches took a quarter of tcptop's start.
 */
#define untrusted(type, object)                                                                    \
	(bpf_ksym_exists(bpf_rdonly_cast) ?                                                        \
		 (type *)bpf_rdonly_cast(object, bpf_core_type_id_kernel(type)) :                  \
		 (object))

#endif
