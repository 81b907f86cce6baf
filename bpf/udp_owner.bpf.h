/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * UDP: who owns a flow. The process that sends its datagrams; for a flow that only
 * receives, the process that receives on its socket.
 */
#ifndef TCPTOP_UDP_OWNER_BPF_H
#define TCPTOP_UDP_OWNER_BPF_H

#include "loss.bpf.h"
#include "recent.bpf.h"
#include "tracked.bpf.h"
#include "udp_table.bpf.h"

/*
 * The process that last received on a socket, by the socket's cookie. The cgroup_skb
 * program sees a received datagram in softirq, so it cannot learn the receiver. An entry
 * is written only when the receiver changes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct owner);
} receivers SEC(".maps");

/* Makes the current process the owner of the flow. Not if the socket has no file: such a
 * socket is the kernel's own (a tunnel, a file system), and the process has no part in it. */
static __noinline void flow_set_owner(struct flow *flow, struct sock *sk)
{
	if (flow && BPF_CORE_READ(sk, sk_socket, file))
		owner_set(&flow->owner, bpf_get_current_task_btf(), EVIDENCE_USES);
}

/*
 * Makes the process that receives on the flow's socket the owner of the flow, unless the
 * flow's present owner has better evidence (was seen using it, not just holding it).
 */
static __always_inline void flow_take_receiver(struct flow *flow)
{
	struct owner *receiver = bpf_map_lookup_elem(&receivers, &flow->cookie);

	if (receiver && receiver->evidence >= flow->owner.evidence)
		owner_copy(&flow->owner, receiver);
}

/* Copies the socket's owner into `receivers`, where the socket's flows find it. A failure
 * counts once for each socket: each look-up of owners tries again. */
static __always_inline void receiver_publish(struct sock *sk, struct udp_socket *socket)
{
	__u64 cookie = sock_cookie(sk);
	bool failed = bpf_map_update_elem(&receivers, &cookie, &socket->owner, BPF_ANY);

	if (failed && !socket->unpublished)
		lost(TCPTOP_LOST_RECEIVERS, 1);
	socket->unpublished = failed;
}

/* An LRU map drops old entries, and an update may have failed. */
static __always_inline bool receiver_is_published(struct sock *sk)
{
	__u64 cookie = sock_cookie(sk);

	return bpf_map_lookup_elem(&receivers, &cookie);
}

/*
 * Makes the task's process the owner of the socket, unless better evidence names another
 * one. `number`: the socket's, to remember this use in recent_uses; 0 not to.
 */
static __always_inline void udp_set_owner(struct sock *sk, __u64 number, struct task_struct *task,
					  __u8 evidence)
{
	struct udp_socket fresh = { .flags = control.starting ? TCPTOP_PARTIAL : 0 };
	struct udp_socket *socket;
	__u16 version;
	__u8 known;

	socket = storage_create(&udp_sockets, sk, &fresh);
	if (!socket) {
		/* Without storage the evidence is lost, not the owner. */
		if (sock_is_freed(sk))
			return;
		owner_set(&fresh.owner, task, evidence);
		receiver_publish(sk, &fresh);
		return;
	}
	if (number && owner_is_known(&socket->owner, task, evidence)) {
		remember_use(number, &socket->owner, task);
		return;
	}
	known = socket->owner.evidence;
	if (known > evidence) {
		if (!receiver_is_published(sk))
			receiver_publish(sk, socket);
		return;
	}
	version = socket->owner.version;
	owner_set(&socket->owner, task, evidence);
	if (number)
		forget_recent_use(number);
	if (socket->owner.version != version || socket->owner.evidence != known)
		receiver_publish(sk, socket);
}

/* The seed has found a process that holds the socket. */
static __always_inline void udp_seed(struct sock *sk, struct task_struct *holder)
{
	udp_set_owner(sk, 0, holder, EVIDENCE_HOLDS);
}

/* The current process has received on the socket. */
static __always_inline void udp_receive_seen(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 number = udp_socket_number(sk);

	if (!number || !used_just_now(number, task))
		udp_set_owner(sk, number, task, EVIDENCE_USES);
}

#endif
