/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: creates flows and counts their datagrams. */
#ifndef TCPTOP_UDP_COUNT_BPF_H
#define TCPTOP_UDP_COUNT_BPF_H

#include "loss.bpf.h"
#include "tracked.bpf.h"
#include "udp_table.bpf.h"
#include <bpf/bpf_core_read.h>

/* include/uapi/linux/if_ether.h */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* Fills in the fields that all datagrams of a flow share. Reads them with a copying
 * helper, since in a cgroup_skb program the socket is not a BTF pointer. */
static __always_inline void flow_describe(struct flow *flow, struct sock *sk)
{
	flow->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	flow->uid = BPF_CORE_READ(sk, sk_uid.val);
	flow->ifindex = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	flow->cgroup = 0;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		flow->cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
}

/* Remembers where the socket of a new flow is. */
static __always_inline void flow_keep_socket(__u32 slot, struct sock *sk)
{
	struct flow_socket *socket = bpf_map_lookup_elem(&flow_sockets, &slot);

	if (!socket)
		return;
	socket->address = (__u64)sk;
	socket->drops = 0;
	socket->sampled_drops = 0;
}

/*
 * Puts a new flow into a free slot. `socket` is the storage of its socket, or NULL: it
 * says who holds the socket and whether the socket is older than tcptop.
 *
 * Two processors can see the first datagrams of one flow at the same time and each
 * take a slot for it. Lookups then find the slot that comes first in the order of
 * probes; the sampler moves the totals of the other slot into that one (flow_fold()).
 */
static __always_inline struct flow *flow_create(struct flow_key *key, struct sock *sk,
						struct udp_socket *socket, __u32 ifindex)
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
	flow->owner.name_stamp = 0;
	flow->owner.evidence = EVIDENCE_NONE;
	flow->flags = control.starting ? TCPTOP_PARTIAL : 0;
	flow->sampled = false;
	flow->twin = 0;
	flow_describe(flow, sk);
	if (settings.drops)
		flow_keep_socket(slot, sk);
	if (!flow->ifindex)
		flow->ifindex = ifindex;
	if (socket) {
		flow->flags = socket->flags;
		if (socket->owner.tgid)
			owner_copy(&flow->owner, &socket->owner);
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
	/* The kernel does not always fill in gso_segs. */
	return bytes > size ? (bytes + size - 1) / size : 1;
}

static __always_inline void flow_lost(__u32 bytes, __u32 datagrams)
{
	lost(TCPTOP_LOST_FLOW_DATAGRAMS, datagrams);
	lost(TCPTOP_LOST_FLOW_BYTES, bytes);
}

/*
 * A datagram costs one atomic addition, which counts the datagram and its bytes in two
 * parts of one word. The word is moved into the totals at each tick, and earlier when
 * one part is half full: its other half is room for what other processors add until then.
 */
#define PENDING_BYTES_BITS 40
#define PENDING_BYTES ((1ULL << PENDING_BYTES_BITS) - 1)
#define PENDING_HALF_FULL (1ULL << 63 | 1ULL << (PENDING_BYTES_BITS - 1))

static __noinline void flow_add_pending(__u64 *pending, struct total *total)
{
	__u64 amount;

	if (!pending || !total)
		return;
	amount = __sync_lock_test_and_set(pending, 0);
	if (!amount)
		return;
	__sync_fetch_and_add(&total->bytes, amount & PENDING_BYTES);
	__sync_fetch_and_add(&total->datagrams, amount >> PENDING_BYTES_BITS);
}

static __always_inline void flow_add(__u64 *pending, struct total *total, __u32 bytes,
				     __u32 datagrams)
{
	__u64 amount = (__u64)datagrams << PENDING_BYTES_BITS | bytes;

	if ((__sync_fetch_and_add(pending, amount) + amount) & PENDING_HALF_FULL)
		flow_add_pending(pending, total);
}

static __always_inline void flow_received(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->pending_in, &flow->in, bytes, datagrams);
}

static __always_inline void flow_sent(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->pending_out, &flow->out, bytes, datagrams);
}

#endif
