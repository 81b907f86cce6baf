/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Who owns a socket: the process that last did I/O on it. */
#ifndef TCPTOP_OWNER_BPF_H
#define TCPTOP_OWNER_BPF_H

/* The current process uses the socket. */
static __always_inline void owns(struct sock *sk)
{
	struct tracked *tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);

	if (tracked)
		set_owner(tracked, bpf_get_current_task_btf(), EVIDENCE_USES);
}

#endif
