/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who owns a socket or a flow: the process that last did I/O on it. Sockets, flows and
 * the table of receivers each hold a struct owner, and only what is here writes to it.
 */
#ifndef TCPTOP_OWNER_BPF_H
#define TCPTOP_OWNER_BPF_H

#include "kernel.bpf.h"

/* How an owner is known, the better the higher. */
enum evidence {
	EVIDENCE_NONE,
	/* It holds the socket's listener, and so may not hold the socket at all. */
	EVIDENCE_INHERITED,
	/* It was found to hold the socket. */
	EVIDENCE_HOLDS,
	/* It was seen using the socket. */
	EVIDENCE_USES,
};

struct owner {
	__u32 tgid; /* 0 unknown */
	__u32 name_age; /* name_changes when the name was read from the process, else 0 */
	__u64 comm[2];
	/*
	 * Counts owners and their names, and is written after them. It may come round:
	 * every sample tells the owner.
	 */
	__u16 version;
	__u16 sampled_version; /* of the last sample */
	__u8 evidence; /* enum evidence */
	__u8 pad[3];
};
_Static_assert(sizeof(struct owner) == 32, "half a cache line");

/* Where nobody was seen using a socket or a flow for so long, its owner is looked up. */
#define OWNERLESS_FOR_NS 1000000000ULL

/*
 * How many processes of the host have changed their name, by exec() or prctl():
 * who knows a process by its name has nothing to compare while that stays.
 */
static __u32 name_changes = 1;
static __u32 settled_names = 1;

static __always_inline void count_name_change(void)
{
	__sync_fetch_and_add(&name_changes, 1);
}

/* The hook runs just before a name changes. Whoever read the old one since then
 * reads again. */
static __always_inline void settle_names(void)
{
	if (settled_names != name_changes)
		settled_names = __sync_fetch_and_add(&name_changes, 1) + 1;
}

/* True where the task's process is the owner, under the name that is known. */
static __always_inline bool owner_is(const struct owner *owner, struct task_struct *task)
{
	return owner->tgid == (__u32)task->tgid && owner->name_age == name_changes;
}

/* The same, and it is known in this way. */
static __always_inline bool owner_is_known(const struct owner *owner, struct task_struct *task,
					   __u8 evidence)
{
	return owner_is(owner, task) && owner->evidence == evidence;
}

/* True where it has another owner, or its owner another name, than the last sample told. */
static __always_inline bool owner_is_news(const struct owner *owner)
{
	return owner->version != owner->sampled_version;
}

/* True where this process, under this name, was not the owner yet. */
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
 * Makes the task's process the owner, if it is not. PID 0, the idle task, stands
 * for a softirq: that is nobody.
 */
static __always_inline void owner_set(struct owner *owner, struct task_struct *task, __u8 evidence)
{
	/* Before the name is read. */
	__u32 age = name_changes;
	__u64 *comm = (__u64 *)untrusted(struct task_struct, task)->group_leader->comm;

	if (!task->tgid)
		return;
	owner_write(owner, task->tgid, comm);
	owner->name_age = age;
	owner->evidence = evidence;
}

/*
 * Takes over what is known elsewhere. How old the name is stays unknown, so that the
 * process is looked at when it is seen using this one.
 */
static __always_inline void owner_copy(struct owner *owner, const struct owner *from)
{
	if (owner_write(owner, from->tgid, from->comm))
		owner->name_age = 0;
	owner->evidence = from->evidence;
}

#endif
