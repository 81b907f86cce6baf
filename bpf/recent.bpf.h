/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who used which socket just now. Mostly that is who used it the last time, and to
 * learn this from the socket's storage costs a function call.
 *
 * A table of words, each of which stands for all that the storage would be compared
 * with and marked by: which socket, by which process, no process of the host has had
 * a new name since, and no round of visits has begun that looks for marks. What is
 * not found there is looked up in the storage, which alone is right: two sockets can
 * share a word.
 */
#ifndef TCPTOP_RECENT_BPF_H
#define TCPTOP_RECENT_BPF_H

#include "control.bpf.h"
#include "owner.bpf.h"
#include "sock.bpf.h"

#define RECENT_BITS 16
static __u64 recent_uses[1 << RECENT_BITS];

/* A PID is below 2^22 (PID_MAX_LIMIT, include/linux/threads.h). */
#define PID_BITS 22
#define GOLDEN_RATIO 0x9e3779b97f4a7c15ULL

/*
 * A number that no other socket has at the same time: of a TCP socket its place in
 * memory, in cache lines, with which it begins (SLAB_HWCACHE_ALIGN). Another one can
 * have the place later, so a socket that begins is to be forgotten first.
 *
 * Counted from here, since the verifier lets a pointer become a number only by
 * taking another one from it.
 */
static __always_inline __u64 tcp_socket_number(struct sock *sk)
{
	return ((__u64)sk - (__u64)recent_uses) >> 6;
}

/* Of a UDP socket its cookie, which is never used again; turned round, so that it is
 * far from any place. 0 where it has none yet. */
static __always_inline __u64 udp_socket_number(struct sock *sk)
{
	__u64 cookie = sock_known_cookie(sk);

	return cookie ? ~cookie : 0;
}

static __always_inline __u64 *recent_use_of(__u64 number)
{
	return &recent_uses[number * GOLDEN_RATIO >> (64 - RECENT_BITS)];
}

static __always_inline __u64 use_by(__u64 number, struct task_struct *task, __u32 name_age)
{
	__u64 since = (__u64)control.mark_rounds << 32 | name_age;

	return (number << PID_BITS | (__u32)task->tgid) ^ since * GOLDEN_RATIO;
}

static __always_inline void forget_recent_use(__u64 number)
{
	__sync_lock_test_and_set(recent_use_of(number), 0);
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
static __always_inline void remember_use(__u64 number, const struct owner *owner,
					 struct task_struct *task)
{
	__u64 use = use_by(number, task, owner->name_age);

	__sync_lock_test_and_set(recent_use_of(number), use);
	if (!owner_is_known(owner, task, EVIDENCE_USES))
		forget_recent_use(number);
}

#endif
