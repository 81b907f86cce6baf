/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* TCP: a process that sends or receives becomes the owner. */
#ifndef TCPTOP_TCP_USE_BPF_H
#define TCPTOP_TCP_USE_BPF_H

#include "filter.bpf.h"
#include "recent.bpf.h"
#include "tcp.bpf.h"
#include "pool.bpf.h"

#define PF_KTHREAD 0x00200000

/* True if the task is a kernel thread that finishes what a process has sent (TLS,
 * sockmap). A kernel thread owns only the kernel's own sockets, which have no file. */
static __always_inline bool works_for_another(struct sock *sk, struct task_struct *task)
{
	struct socket *socket;

	if (!(task->flags & PF_KTHREAD))
		return false;
	socket = untrusted(struct sock, sk)->sk_socket;
	return socket && socket->file;
}

/* The socket is older than tcptop, and no look-up has found it: it may be in a network
 * namespace that no process is in. NULL if it is not one to track. */
static __noinline struct tracked *tcp_seed_used(struct sock *sk)
{
	if (!sk)
		return NULL;
	tcp_seed(sk, NULL);
	return bpf_sk_storage_get(&sockets, sk, NULL, 0);
}

/*
 * The current process uses the TCP socket: makes it the owner.
 *
 * `locked`: the hook runs under the socket's lock. If no process holds the lock, a
 * softirq does, and the current process is just the one that it has interrupted.
 */
static __always_inline void tcp_use_seen(struct sock *sk, bool locked)
{
	__u64 number = tcp_socket_number(sk);
	struct tracked *tracked;
	struct task_struct *task;

	if (!tcp_wanted(sk, bpf_htons(sk->__sk_common.skc_num)))
		return;
	task = bpf_get_current_task_btf();
	if (used_just_now(number, task))
		return;
	tracked = tracked_of(sk);
	if (!tracked) {
		tracked = tcp_seed_used(sk);
		if (!tracked)
			return;
	}
	mark_active(tracked);
	if (owner_is_known(&tracked->owner, task, EVIDENCE_USES)) {
		remember_use(number, &tracked->owner, task);
		return;
	}
	if ((locked && !sk->sk_lock.owned) || works_for_another(sk, task))
		return;
	owner_set(&tracked->owner, task, EVIDENCE_USES);
	forget_recent_use(number);
}

#endif
