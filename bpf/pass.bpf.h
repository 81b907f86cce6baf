/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Passes: complete runs of a sampling iterator, over the sockets or over the flows. */
#ifndef TCPTOP_PASS_BPF_H
#define TCPTOP_PASS_BPF_H

#include "event.h"
#include "owner.bpf.h"
#include <bpf/bpf_helpers.h>

/* Totals of the running pass. */
static struct tcptop_pass socket_pass;
static struct tcptop_pass flow_pass;

/*
 * Passes repeat until one defers nothing, and all of these share an epoch: a socket or
 * flow that was sampled in the epoch is not sampled again.
 */
static __u32 socket_epoch = 1;
static __u32 flow_epoch = 1;

/* The last call of a sampling iterator: writes the totals and resets them. */
static __always_inline int end_pass(struct seq_file *seq, struct tcptop_pass *totals, __u32 *epoch)
{
	/* Cannot overflow: nothing else is written into this file. */
	bpf_seq_write(seq, totals, sizeof(*totals));
	if (!totals->deferred)
		(*epoch)++;
	expire_early_names();
	totals->visited = 0;
	totals->deferred = 0;
	totals->ownerless = 0;
	return 0;
}

#endif
