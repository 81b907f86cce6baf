/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Passes of the sampling iterators over sockets and over flows. */
#ifndef TCPTOP_PASS_BPF_H
#define TCPTOP_PASS_BPF_H

#include "event.h"
#include "owner.bpf.h"
#include <bpf/bpf_helpers.h>

/* Totals of the running pass. */
static struct tcptop_pass pass;
static struct tcptop_pass flow_pass;

/* Several passes can make one tick; none samples a socket or a flow twice. */
static __u32 epoch = 1;
static __u32 flow_epoch = 1;

/* The last call of a sampling iterator: tells the totals, and starts anew. */
static __always_inline int end_pass(struct seq_file *seq, struct tcptop_pass *totals, __u32 *number)
{
	/* Cannot overflow: nothing else is written into this file. */
	bpf_seq_write(seq, totals, sizeof(*totals));
	if (!totals->deferred)
		(*number)++;
	settle_names();
	totals->visited = 0;
	totals->deferred = 0;
	totals->ownerless = 0;
	return 0;
}

#endif
