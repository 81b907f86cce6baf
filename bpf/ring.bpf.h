/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The ring buffer that carries all records to user space. */
#ifndef TCPTOP_RING_BPF_H
#define TCPTOP_RING_BPF_H

#include "control.bpf.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes; user space sets the real size */
} events SEC(".maps");

/* Room for a record. The program fills all of it. */
static __always_inline struct tcptop_event *record_reserve(bool longer, bool tcp)
{
	if (!longer)
		return bpf_ringbuf_reserve(&events, sizeof(struct tcptop_event), 0);
	if (tcp && settings.detail)
		return bpf_ringbuf_reserve(&events, sizeof(struct tcptop_detailed), 0);
	return bpf_ringbuf_reserve(&events, sizeof(struct tcptop_identified), 0);
}

/* Samples may fill only half of the ring: the rest is room for close records. */
static __always_inline bool ring_half_full(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > settings.ring_bytes / 2;
}

/*
 * Waking the reader costs more than the record (2.5 us against 0.4). So the reader
 * polls, and is woken only if the ring might fill up before the next poll.
 */
static __always_inline __u64 wake_when_filling(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > settings.ring_bytes / 4 ?
		       BPF_RB_FORCE_WAKEUP :
		       BPF_RB_NO_WAKEUP;
}

#endif
