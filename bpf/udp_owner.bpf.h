/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * UDP: who owns a flow. Its sender, who is seen with each datagram; of a flow that only
 * receives, who receives on its socket.
 */
#ifndef TCPTOP_UDP_OWNER_BPF_H
#define TCPTOP_UDP_OWNER_BPF_H

#include "loss.bpf.h"
#include "recent.bpf.h"
#include "tracked.bpf.h"
#include "udp_table.bpf.h"

/*
 * Who last received on a socket, by its cookie: receiving runs in softirq up to the
 * socket, so a flow cannot learn it from its datagrams. Written only when the receiver
 * changes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct owner);
} receivers SEC(".maps");

/* The current task uses the flow. A socket without a file is the kernel's own
 * (a tunnel, a file system): whoever runs just now has nothing to do with it. */
static __noinline void flow_used(struct flow *flow, struct sock *sk)
{
	if (flow && BPF_CORE_READ(sk, sk_socket, file))
		owner_set(&flow->owner, bpf_get_current_task_btf(), EVIDENCE_USES);
}

/*
 * A flow that only receives has its owner from whoever receives on its socket;
 * who just holds that is no better than who was seen using the flow.
 */
static __always_inline void flow_take_receiver(struct flow *flow)
{
	struct owner *receiver = bpf_map_lookup_elem(&receivers, &flow->cookie);

	if (receiver && receiver->evidence >= flow->owner.evidence)
		owner_copy(&flow->owner, receiver);
}

/* Tells the socket's flows of its owner. */
static __always_inline void tell_receiver(struct sock *sk, struct tracked *tracked)
{
	__u64 cookie = sock_cookie(sk);

	if (bpf_map_update_elem(&receivers, &cookie, &tracked->owner, BPF_ANY))
		lost(TCPTOP_LOST_RECEIVERS, 1);
}

/* The table keeps those that were asked for last, and may have had no room. */
static __always_inline bool receiver_is_told(struct sock *sk)
{
	__u64 cookie = sock_cookie(sk);

	return bpf_map_lookup_elem(&receivers, &cookie);
}

/* `number`: the socket's, for a use that may be the next one as well. */
static __always_inline void udp_owned_by(struct sock *sk, __u64 number, struct task_struct *task,
					 __u8 evidence)
{
	struct tracked fresh = { .flags = control.starting ? TCPTOP_PARTIAL : 0 };
	struct tracked *tracked;
	__u16 version;
	__u8 known;

	tracked = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tracked) {
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
		return;
	}
	if (number && owner_is_known(&tracked->owner, task, evidence)) {
		remember_use(number, &tracked->owner, task);
		return;
	}
	known = tracked->owner.evidence;
	if (known > evidence) {
		if (!receiver_is_told(sk))
			tell_receiver(sk, tracked);
		return;
	}
	version = tracked->owner.version;
	owner_set(&tracked->owner, task, evidence);
	if (number)
		forget_recent_use(number);
	if (tracked->owner.version != version || tracked->owner.evidence != known)
		tell_receiver(sk, tracked);
}

/* The socket is older than tcptop, or nobody was seen using it. */
static __always_inline void udp_seed(struct sock *sk, struct task_struct *holder)
{
	udp_owned_by(sk, 0, holder, EVIDENCE_HOLDS);
}

/* The current task received on the socket. Compares first, and tells the flows only
 * of a change. */
static __always_inline void udp_received_by(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 number = udp_socket_number(sk);

	if (!number || !used_just_now(number, task))
		udp_owned_by(sk, number, task, EVIDENCE_USES);
}

#endif
