/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Loss: one per-CPU counter for each cause, so that nothing is lost silently. */
#ifndef TCPTOP_LOSS_BPF_H
#define TCPTOP_LOSS_BPF_H

#include "event.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TCPTOP_LOSS_CAUSES);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline void lost(__u32 cause, __u64 amount)
{
	__u64 *count = bpf_map_lookup_elem(&losses, &cause);

	/* Atomic: another program can interrupt this one on the same CPU. */
	if (count)
		__sync_fetch_and_add(count, amount);
}

#endif
