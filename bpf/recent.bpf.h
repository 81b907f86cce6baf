/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A cache of socket uses. Most calls on a socket come from the process that used it
 * last, and a look at the socket's storage, to find this out, costs a function call.
 *
 * The cache is a table of words. A word encodes one use: the socket, the process,
 * name_changes and control.mark_rounds. If a use finds its own word, the storage already
 * has this owner and the active mark, so nothing is to be done. Otherwise the program
 * looks at the storage, which is the only reliable source: two sockets can share a word.
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
 * A number that no other socket has at the same time. For a TCP socket: its address in
 * units of cache lines, since the kernel aligns it to one (SLAB_HWCACHE_ALIGN). A later
 * socket can get the same address, so each new connection calls forget_recent_use().
 *
 * The address is taken relative to recent_uses: the verifier turns a pointer into a
 * number only if another pointer is subtracted from it.
 */
static __always_inline __u64 tcp_socket_number(struct sock *sk)
{
	return ((__u64)sk - (__u64)recent_uses) >> 6;
}

/* For a UDP socket: its cookie, which is never used again. Inverted, so that it cannot
 * equal the number of a TCP socket. 0 if the socket has no cookie yet. */
static __always_inline __u64 udp_socket_number(struct sock *sk)
{
	__u64 cookie = sock_known_cookie(sk);

	return cookie ? ~cookie : 0;
}

static __always_inline __u64 *recent_use_of(__u64 number)
{
	return &recent_uses[number * GOLDEN_RATIO >> (64 - RECENT_BITS)];
}

static __always_inline __u64 use_by(__u64 number, struct task_struct *task, __u32 name_stamp)
{
	__u64 generation = (__u64)control.mark_rounds << 32 | name_stamp;

	return (number << PID_BITS | (__u32)task->tgid) ^ generation * GOLDEN_RATIO;
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
 * The task's process uses the socket again, as its storage says. Stores the use, so that
 * the next one need not look at the storage. Another process may begin to use the socket
 * at the same moment: it changes the owner in the storage, then forgets. If it forgets
 * before the word is written, the check below sees the new owner and forgets as well.
 */
static __always_inline void remember_use(__u64 number, const struct owner *owner,
					 struct task_struct *task)
{
	__u64 use = use_by(number, task, owner->name_stamp);

	__sync_lock_test_and_set(recent_use_of(number), use);
	if (!owner_is_known(owner, task, EVIDENCE_USES))
		forget_recent_use(number);
}

#endif
