/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What tcptop keeps in each socket it tracks, and the ring the records go into. */
#ifndef TCPTOP_TRACKED_BPF_H
#define TCPTOP_TRACKED_BPF_H

#include "recent.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes; user space sets the real size */
} events SEC(".maps");

/* How the owner of a socket is known. */
enum evidence {
	EVIDENCE_NONE,
	/* It holds the socket's listener, and so may not hold the socket at all. */
	EVIDENCE_INHERITED,
	/* It was found to hold the socket. */
	EVIDENCE_HOLDS,
	/* It was seen using the socket. */
	EVIDENCE_USES,
};

/* In the socket's own storage: it dies with the socket, so nothing leaks. The first
 * 56 bytes lie in one cache line, with 8 of the kernel's: all that the owner hook
 * looks at, and a visit that finds nothing new. */
struct tracked {
	__u32 tgid; /* 0 unknown */
	__u32 name_age; /* name_changes when comm was read */
	__u8 evidence;  /* enum evidence, for the owner */
	__u8 active;    /* used, or its state changed, since a visit found nothing new */
	__u8 flags;     /* enum tcptop_event_flags */
	__u8 state;     /* the last one that began or ended a connection */
	__u32 owner_version; /* written after the owner */
	/* The last sample, to find what changed since: segs_in + segs_out grows
	 * with every byte and every ACK. */
	__u32 sampled_segs;
	__u32 sampled_owner;
	__u32 sampled_epoch;
	__u32 sampled_state;
	__u64 born_ns; /* CLOCK_MONOTONIC; also half of the connection's key */
	__u64 comm[2];
	/* What the kernel's counters said when tcptop began to count. */
	__u64 base_bytes_in;
	__u64 base_bytes_out;
	__u32 base_segs_in;
	__u32 base_segs_out;
	__u32 base_retrans;
	__u32 pad;
};
_Static_assert(__builtin_offsetof(struct tracked, base_bytes_in) == 56, "one cache line");

/*
 * BPF_F_CLONE: an accepted socket inherits its listener's entry, and so its
 * owner until a process does I/O on it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tracked);
} sockets SEC(".maps");

/* Totals of the running pass. */
static struct tcptop_pass pass;

/* Several passes can make one tick; none samples a socket twice. */
static __u32 epoch = 1;

/* Until the sockets that are older than tcptop have been seen. */
bool starting = true;

/* A socket or flow that nobody was seen using for so long has its owner looked up. */
#define OWNERLESS_FOR_NS 1000000000ULL

/* Set by user space where records were lost: sample every socket, changed or
 * not, so that those that are gone can be told from those that are idle. */
bool sample_all;

/* No hook tells who uses a socket: what is known of its owner is who holds it,
 * which is looked up again and again. */
const volatile bool holders_only;

/* Totals since connections opened, not since tcptop started. */
const volatile bool lifetime;

/* Size of the ring. Asking the ring for it costs a call each time. */
const volatile __u64 ring_bytes;

/* Room for lifecycle records: samples may fill half of the ring only. */
static __always_inline bool ring_half_full(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > ring_bytes / 2;
}

/*
 * Waking the reader costs more than the record (2.5 us against 0.4), so it
 * polls, and is woken only where the ring might fill before it does.
 */
static __always_inline __u64 wake_when_filling(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > ring_bytes / 4
		       ? BPF_RB_FORCE_WAKEUP
		       : BPF_RB_NO_WAKEUP;
}

/*
 * Set by user space where there are so many sockets that touching each of them
 * is what a tick costs: visit only those marked active, which their storage
 * tells. Progress without a system call (a long send, data that waits to be
 * read) makes no mark, so every few ticks all are visited.
 */
bool marked_only;

/* Set by user space where it may set that one at the next tick. */
bool marks_matter;

static __always_inline void mark_active(struct tracked *tracked)
{
	if (!tracked->active)
		tracked->active = 1;
}

static __always_inline void mark_idle(struct tracked *tracked)
{
	if (tracked->active)
		tracked->active = 0;
}

/*
 * How many processes of the host have changed their name, by exec() or prctl():
 * who knows a process by its name has nothing to compare while that stays.
 */
static __u32 name_changes = 1;
static __u32 settled_names = 1;

/* The hook runs just before a name changes. Whoever read the old one since then
 * reads again. */
static __always_inline void settle_names(void)
{
	if (settled_names != name_changes)
		settled_names = __sync_fetch_and_add(&name_changes, 1) + 1;
}

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

static __always_inline bool owner_is(struct tracked *tracked, struct task_struct *task,
				     __u8 evidence)
{
	return tracked->tgid == (__u32)task->tgid && tracked->name_age == name_changes &&
	       tracked->evidence == evidence;
}

/*
 * Makes the task's process the owner, if it is not. PID 0, the idle task, stands
 * for a softirq: that is nobody.
 */
static __always_inline void set_owner(struct tracked *tracked, struct task_struct *task,
				      __u8 evidence)
{
	/* Before the name is read. */
	__u32 age = name_changes;
	__u64 *name = (__u64 *)untrusted(struct task_struct, task)->group_leader->comm;
	__u32 tgid = task->tgid;

	if (!tgid)
		return;
	if (tracked->tgid != tgid || tracked->comm[0] != name[0] || tracked->comm[1] != name[1]) {
		tracked->comm[0] = name[0];
		tracked->comm[1] = name[1];
		tracked->tgid = tgid;
		tracked->owner_version++;
	}
	tracked->name_age = age;
	tracked->evidence = evidence;
}

static __always_inline bool used_just_now(__u64 number, struct task_struct *task)
{
	return *recent_use_of(number) == use_by(number, task, name_changes);
}

/*
 * The task's process uses the socket, and not for the first time: the next time need
 * not ask the storage. Another process that begins to use it at the same moment
 * changes the storage and then forgets: what this one wrote goes either there, or
 * here.
 */
static __always_inline void remember_use(__u64 number, struct tracked *tracked,
					 struct task_struct *task)
{
	__u64 use = use_by(number, task, tracked->name_age);

	__sync_lock_test_and_set(recent_use_of(number), use);
	if (!owner_is(tracked, task, EVIDENCE_USES))
		forget_recent_use(number);
}

#endif
