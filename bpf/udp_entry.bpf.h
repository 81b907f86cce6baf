/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: finds the flow of a packet and counts it, for the fentry programs. */
#ifndef TCPTOP_UDP_ENTRY_BPF_H
#define TCPTOP_UDP_ENTRY_BPF_H

#include "sock.bpf.h"
#include "udp_count.bpf.h"
#include "udp_owner.bpf.h"

static __always_inline __u32 skb_datagrams(struct sk_buff *skb, __u32 bytes)
{
	struct skb_shared_info *shared;
	__u16 size, segments;

	shared = (struct skb_shared_info *)(skb->head + skb->end);
	size = BPF_CORE_READ(shared, gso_size);
	segments = size ? BPF_CORE_READ(shared, gso_segs) : 0;
	return gso_datagrams(bytes, segments, size);
}

static __always_inline bool skb_addresses(struct sk_buff *skb, __u16 family, __u64 *from, __u64 *to)
{
	void *header = skb->head + skb->network_header;

	if (family == AF_INET) {
		struct iphdr ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), header))
			return false;
		set_ipv4(from, ip.saddr);
		set_ipv4(to, ip.daddr);
	} else {
		struct ipv6hdr ip;
		__u64 *addresses = (__u64 *)&ip.saddr;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), header))
			return false;
		from[0] = addresses[0];
		from[1] = addresses[1];
		to[0] = addresses[2];
		to[1] = addresses[3];
	}
	return true;
}

/* The device that received the packet; for a sent packet, the device of its route. */
static __always_inline __u32 skb_ifindex(struct sk_buff *skb, bool out)
{
	struct dst_entry *route;

	if (!out)
		return skb->skb_iif;
	/* The lowest bit says that no reference is held (SKB_DST_NOREF). */
	route = (struct dst_entry *)(skb->_skb_refdst & ~1UL);
	return route ? BPF_CORE_READ(route, dev, ifindex) : 0;
}

static __always_inline void udp_count(struct sock *sk, struct sk_buff *skb, struct flow_key *key,
				      __u32 bytes, bool out)
{
	__u32 datagrams;
	struct flow *flow;

	if (!udp_wanted(key))
		return;
	datagrams = skb_datagrams(skb, bytes);
	key->cookie = sock_cookie(sk);
	key_hash(key);
	flow = flow_lookup(key);
	if (!flow)
		flow = flow_create(key, sk, bpf_sk_storage_get(&udp_sockets, sk, NULL, 0),
				   skb_ifindex(skb, out));
	if (!flow) {
		flow_lost(bytes, datagrams);
		return;
	}
	if (out)
		flow_sent(flow, bytes, datagrams);
	else
		flow_received(flow, bytes, datagrams);
	if (!owner_is(&flow->owner, bpf_get_current_task_btf()))
		flow_set_owner(flow, sk);
}

static __always_inline void udp_sends(struct sk_buff *skb, __u16 family)
{
	struct sock *sk = skb->sk;
	struct flow_key key;
	struct udphdr udp;
	__u32 headers;

	if (!sk || !is_udp(sk))
		return;
	headers = skb->transport_header - skb->network_header;
	if (bpf_probe_read_kernel(&udp, sizeof(udp), skb->head + skb->transport_header) ||
	    !skb_addresses(skb, family, key.local, key.remote)) {
		lost(TCPTOP_LOST_UNREADABLE, 1);
		return;
	}
	key.local_port = udp.source;
	key.remote_port = udp.dest;
	udp_count(sk, skb, &key, skb->len - headers - sizeof(udp), true);
}

/*
 * True if the process only peeks, so that the datagram stays in the socket. Then the
 * length is negative; for an empty datagram it is 0, and the second reference that the
 * socket's queue still holds shows the peek.
 */
static __always_inline bool udp_peeked(struct sk_buff *skb, int len)
{
	return len < 0 || (!len && BPF_CORE_READ(skb, users.refs.counter) > 1);
}

static __always_inline void udp_consumed(struct sock *sk, struct sk_buff *skb)
{
	struct flow_key key;
	struct udphdr udp;
	__u16 family;

	if (!is_udp(sk))
		return;
	family = skb->protocol == bpf_htons(ETH_P_IP) ? AF_INET : AF_INET6;
	if (bpf_probe_read_kernel(&udp, sizeof(udp), skb->head + skb->transport_header) ||
	    !skb_addresses(skb, family, key.remote, key.local)) {
		lost(TCPTOP_LOST_UNREADABLE, 1);
		return;
	}
	key.local_port = udp.dest;
	key.remote_port = udp.source;
	/* skb->len is the payload: the UDP header was removed before queueing. */
	udp_count(sk, skb, &key, skb->len, false);
}

#endif
