/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Cgroups: their paths, for user space to know those that end before it looks. */
#ifndef TCPTOP_CGROUP_BPF_H
#define TCPTOP_CGROUP_BPF_H

#include "event.h"
#include "loss.bpf.h"
#include "ring.bpf.h"

/*
 * Reports a cgroup of v2. Hierarchies of v1 have other ids than 0 (cgroups(7)), and a
 * socket is in none of them. Wakes the reader at once: the files of a container runtime
 * that have the container's name may be gone within milliseconds. Fills only half of the
 * ring, as samples do: an ordinary user can be allowed to make cgroups, as fast as he likes.
 */
static __always_inline void cgroup_report(struct cgroup *cgroup, const char *path)
{
	struct tcptop_cgroup *record;
	long size;

	if (cgroup->root->hierarchy_id)
		return;
	record = ring_half_full() ? NULL : bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		lost(TCPTOP_LOST_CGROUPS, 1);
		return;
	}
	record->kind = TCPTOP_CGROUP_MADE;
	record->id = cgroup->kn->id;
	size = bpf_probe_read_kernel_str(record->path, sizeof(record->path), path);
	/* Where it is cut off, it tells at least what the cgroup is in. */
	if (size <= 1)
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
}

#endif
