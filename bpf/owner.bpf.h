/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Who owns a socket: the process that last did I/O on it. */
#ifndef TCPTOP_OWNER_BPF_H
#define TCPTOP_OWNER_BPF_H

/* UDP flows are counted by cgroup_skb programs, which do not see who receives. */
const volatile bool track_receivers;

/* The current process uses the socket. What is no TCP has no storage, but for
 * the sockets of udp_received_by(): then it costs one comparison. */
static __always_inline void owns(struct sock *sk)
{
	struct tracked *tracked;

	if (!tcp_wanted(sk, bpf_htons(sk->__sk_common.skc_num)))
		return;
	tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!tracked)
		return;
	set_owner(tracked, bpf_get_current_task_btf(), EVIDENCE_USES);
	mark_active(tracked);
}

#endif
