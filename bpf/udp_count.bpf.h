/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: a flow begins, and its datagrams are counted. */
#ifndef TCPTOP_UDP_COUNT_BPF_H
#define TCPTOP_UDP_COUNT_BPF_H

#include "loss.bpf.h"
#include "tracked.bpf.h"
#include "udp_table.bpf.h"
#include <bpf/bpf_core_read.h>

/* include/uapi/linux/if_ether.h */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* What is the same for all datagrams of a flow. Read with a copying helper: in
 * a cgroup_skb program the socket is no BTF pointer. */
static __always_inline void flow_describe(struct flow *flow, struct sock *sk)
{
	flow->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	flow->uid = BPF_CORE_READ(sk, sk_uid.val);
	flow->ifindex = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	flow->cgroup = 0;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		flow->cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
}

/*
 * A slot for a flow that has none. `tracked` is what its socket's storage knows,
 * if anything: its holder, and that it is older than tcptop.
 *
 * Two processors can see the first datagrams of one flow at the same time and
 * both make a slot for it. From then on the first in the order of probes is
 * found; the other one is its twin, which the sampler folds into it.
 */
static __always_inline struct flow *flow_create(struct flow_key *key, struct sock *sk,
						struct tracked *tracked, __u32 ifindex)
{
	__u32 slot = flow_claim(key);
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	if (!flow)
		return NULL;
	flow->cookie = key->cookie;
	flow->local[0] = key->local[0];
	flow->local[1] = key->local[1];
	flow->remote[0] = key->remote[0];
	flow->remote[1] = key->remote[1];
	flow->local_port = key->local_port;
	flow->remote_port = key->remote_port;
	flow->born_ns = bpf_ktime_get_ns();
	flow->moved_ns = flow->born_ns;
	flow->owner.tgid = 0;
	flow->owner.name_age = 0;
	flow->owner.evidence = EVIDENCE_NONE;
	flow->flags = control.starting ? TCPTOP_PARTIAL : 0;
	flow->sampled = false;
	flow->twin = 0;
	flow_describe(flow, sk);
	if (!flow->ifindex)
		flow->ifindex = ifindex;
	if (tracked) {
		flow->flags = tracked->flags;
		if (tracked->owner.tgid)
			owner_copy(&flow->owner, &tracked->owner);
	}
	flow_publish(flow, key, slot);
	return flow;
}

static __always_inline __u32 gso_datagrams(__u32 bytes, __u32 segments, __u32 size)
{
	if (!size)
		return 1;
	if (segments > 1)
		return segments;
	/* The kernel may leave the count to whoever needs it. */
	return bytes > size ? (bytes + size - 1) / size : 1;
}

static __always_inline void flow_lost(__u32 bytes, __u32 datagrams)
{
	lost(TCPTOP_LOST_FLOW_DATAGRAMS, datagrams);
	lost(TCPTOP_LOST_FLOW_BYTES, bytes);
}

/*
 * A datagram costs one atomic addition, of its bytes and of itself at once, which
 * go into the totals when a tick comes, or when one of the two has half filled
 * its part of the word: the other half has room for all that other processors add
 * meanwhile.
 */
#define LATELY_BYTES_BITS 40
#define LATELY_BYTES ((1ULL << LATELY_BYTES_BITS) - 1)
#define LATELY_HALF_FULL (1ULL << 63 | 1ULL << (LATELY_BYTES_BITS - 1))

static __noinline void flow_settle(__u64 *lately, struct total *total)
{
	__u64 amount;

	if (!lately || !total)
		return;
	amount = __sync_lock_test_and_set(lately, 0);
	if (!amount)
		return;
	__sync_fetch_and_add(&total->bytes, amount & LATELY_BYTES);
	__sync_fetch_and_add(&total->datagrams, amount >> LATELY_BYTES_BITS);
}

static __always_inline void flow_add(__u64 *lately, struct total *total, __u32 bytes,
				     __u32 datagrams)
{
	__u64 amount = (__u64)datagrams << LATELY_BYTES_BITS | bytes;

	if ((__sync_fetch_and_add(lately, amount) + amount) & LATELY_HALF_FULL)
		flow_settle(lately, total);
}

static __always_inline void flow_received(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->lately_in, &flow->in, bytes, datagrams);
}

static __always_inline void flow_sent(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->lately_out, &flow->out, bytes, datagrams);
}

#endif
