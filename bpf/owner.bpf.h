/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who owns a socket or a flow: the process that last did I/O on it. Sockets, flows and
 * the table of receivers each hold a struct owner. Only the functions in this file set
 * an owner; a new flow clears it.
 */
#ifndef TCPTOP_OWNER_BPF_H
#define TCPTOP_OWNER_BPF_H

#include "kernel.bpf.h"

/* How the owner is known; a higher value is better evidence. */
enum evidence {
	EVIDENCE_NONE,
	/* The process owns the listener; it may not even hold the accepted socket. */
	EVIDENCE_INHERITED,
	/* The process holds a descriptor of the socket. */
	EVIDENCE_HOLDS,
	/* A hook saw the process use the socket. */
	EVIDENCE_USES,
};

struct owner {
	__u32 tgid; /* 0 unknown */
	__u32 name_stamp; /* name_changes when comm was read from the process; 0 unknown */
	__u64 comm[2];
	/*
	 * Incremented after each change of tgid or comm. It may wrap: a change that is
	 * missed this way appears in the next sample, since each sample has the owner.
	 */
	__u16 version;
	__u16 sampled_version; /* version in the last sample */
	__u8 evidence; /* enum evidence */
	__u8 pad[3];
};
_Static_assert(sizeof(struct owner) == 32, "half a cache line");

/* If a socket or flow this old has no known owner, user space looks at who holds it. */
#define OWNERLESS_FOR_NS 1000000000ULL

/*
 * Counts the processes of the host that changed their name, by exec() or prctl(). While
 * it stays the same, a name that was read before is still right and needs no comparison.
 */
static __u32 name_changes = 1;
static __u32 name_changes_expired = 1;

static __always_inline void count_name_change(void)
{
	__sync_fetch_and_add(&name_changes, 1);
}

/*
 * The task_rename hook runs just before the name changes, so a program can still read
 * the old name after the hook has counted. Counting once more, later, makes every such
 * program read the name again.
 */
static __always_inline void expire_early_names(void)
{
	if (name_changes_expired != name_changes)
		name_changes_expired = __sync_fetch_and_add(&name_changes, 1) + 1;
}

/* True if the task's process is the owner and no process has changed its name since. */
static __always_inline bool owner_is(const struct owner *owner, struct task_struct *task)
{
	return owner->tgid == (__u32)task->tgid && owner->name_stamp == name_changes;
}

/* The same, and the evidence is this one. */
static __always_inline bool owner_is_known(const struct owner *owner, struct task_struct *task,
					   __u8 evidence)
{
	return owner_is(owner, task) && owner->evidence == evidence;
}

/* True if the owner or its name differs from the last sample's. */
static __always_inline bool owner_changed_since_sample(const struct owner *owner)
{
	return owner->version != owner->sampled_version;
}

/* Stores process and name. False if they were stored already. */
static __always_inline bool owner_write(struct owner *owner, __u32 tgid, const __u64 *comm)
{
	if (owner->tgid == tgid && owner->comm[0] == comm[0] && owner->comm[1] == comm[1])
		return false;
	owner->comm[0] = comm[0];
	owner->comm[1] = comm[1];
	owner->tgid = tgid;
	owner->version++;
	return true;
}

/*
 * Makes the task's process the owner. The idle task (PID 0) owns nothing: a softirq has
 * interrupted it.
 */
static __always_inline void owner_set(struct owner *owner, struct task_struct *task, __u8 evidence)
{
	/* Read before the name, so that a change in between makes the name old. */
	__u32 stamp = name_changes;
	__u64 *comm = (__u64 *)untrusted(struct task_struct, task)->group_leader->comm;

	if (!task->tgid)
		return;
	owner_write(owner, task->tgid, comm);
	owner->name_stamp = stamp;
	owner->evidence = evidence;
}

/*
 * Copies the owner of a socket to one of its flows. A new name gets no stamp, so that it
 * is read from the process when a hook next sees the process use the flow.
 */
static __always_inline void owner_copy(struct owner *owner, const struct owner *from)
{
	if (owner_write(owner, from->tgid, from->comm))
		owner->name_stamp = 0;
	owner->evidence = from->evidence;
}

#endif
