/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: finds the flow of a packet and counts it, for the cgroup_skb programs. */
#ifndef TCPTOP_UDP_CGROUP_BPF_H
#define TCPTOP_UDP_CGROUP_BPF_H

#include "sock.bpf.h"
#include "udp_count.bpf.h"
#include "udp_owner.bpf.h"

/* No UDP header was found, but it may be a packet of a UDP socket. */
#define NO_HEADER (~0U)

/* The next header is not UDP. TCP is most packets of most hosts: only it must be cheap. */
static __always_inline __u32 other_protocol(__u8 protocol)
{
	return protocol == IPPROTO_TCP ? 0 : NO_HEADER;
}

/*
 * Fills in the key's addresses and ports. Returns the bytes of headers before the
 * payload, 0 if the packet is TCP, or NO_HEADER. Skips those IPv6 extension headers (RFC
 * 8200, section 4) that a sender can set with a socket option.
 */
static __always_inline __u32 udp_headers(struct __sk_buff *skb, struct flow_key *key, bool out)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u64 *from = out ? key->local : key->remote;
	__u64 *to = out ? key->remote : key->local;
	struct udphdr *udp;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end)
			return NO_HEADER;
		if (ip->protocol != IPPROTO_UDP)
			return other_protocol(ip->protocol);
		offset = ip->ihl * 4;
		if (offset < sizeof(*ip))
			return NO_HEADER;
		set_ipv4(from, ip->saddr);
		set_ipv4(to, ip->daddr);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		__u64 *addresses;
		__u8 next;

		if ((void *)(ip + 1) > end)
			return NO_HEADER;
		next = ip->nexthdr;
		if (next == IPPROTO_TCP)
			return 0;
		offset = sizeof(*ip);
		addresses = (__u64 *)&ip->saddr;
		from[0] = addresses[0];
		from[1] = addresses[1];
		to[0] = addresses[2];
		to[1] = addresses[3];
		for (int headers = 0; headers < 4 && next != IPPROTO_UDP; headers++) {
			__u8 *header = data + offset;

			/* hop-by-hop, routing, destination */
			if (next != 0 && next != 43 && next != 60)
				return other_protocol(next);
			if ((void *)(header + 8) > end)
				return NO_HEADER;
			next = header[0];
			offset += 8 + header[1] * 8;
			if (offset > 512)
				return NO_HEADER;
		}
		if (next != IPPROTO_UDP)
			return other_protocol(next);
	} else {
		return NO_HEADER;
	}
	udp = data + offset;
	if ((void *)(udp + 1) > end)
		return NO_HEADER;
	key->local_port = out ? udp->source : udp->dest;
	key->remote_port = out ? udp->dest : udp->source;
	return offset + sizeof(*udp);
}

/*
 * The verifier lets a cgroup_skb program read only the fields of struct bpf_sock through
 * its socket pointer. This returns the same address as a plain kernel address, through
 * which the copying helper can read the struct sock.
 */
static __always_inline struct sock *kernel_address(void *sk)
{
	void *const *where = &sk;
	struct sock *address = NULL;

	asm volatile("" ::"r"(where) : "memory");
	bpf_probe_read_kernel(&address, sizeof(address), where);
	return address;
}

/* A raw socket can send UDP packets of its own, and gets copies of those for other
 * sockets: neither counts. */
static __always_inline bool packet_is_of_udp_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->type == SOCK_DGRAM && sk->protocol == IPPROTO_UDP;
}

static __noinline struct flow *packet_flow_create(struct __sk_buff *skb, struct flow_key *key)
{
	struct bpf_sock *sk = skb->sk;
	__u32 ifindex = skb->ifindex;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return NULL;
	return flow_create(key, kernel_address(sk), bpf_sk_storage_get(&udp_sockets, sk, NULL, 0),
			   ifindex);
}

/* The cookie of the packet's socket. Only the first packet needs a call, on a kernel
 * that lets the program read the socket itself. */
static __always_inline __u64 packet_cookie(struct __sk_buff *skb)
{
	if (bpf_ksym_exists(bpf_cast_to_kern_ctx)) {
		struct sk_buff *packet = bpf_cast_to_kern_ctx(skb);
		struct sock *sk = packet->sk;
		__u64 cookie = sk ? sock_known_cookie(sk) : 0;

		if (cookie)
			return cookie;
	}
	return bpf_get_socket_cookie(skb);
}

static __always_inline void udp_packet(struct __sk_buff *skb, bool out)
{
	struct flow_key key;
	struct flow *flow;
	__u32 headers, bytes, datagrams;

	headers = udp_headers(skb, &key, out);
	if (!headers)
		return;
	if (headers == NO_HEADER) {
		if (packet_is_of_udp_socket(skb))
			lost(TCPTOP_LOST_UNREADABLE,
			     gso_datagrams(skb->len, skb->gso_segs, skb->gso_size));
		return;
	}
	if (!udp_wanted(&key))
		return;
	key.cookie = packet_cookie(skb);
	key_hash(&key);
	flow = flow_lookup(&key);
	if (!flow) {
		if (!packet_is_of_udp_socket(skb))
			return;
		flow = packet_flow_create(skb, &key);
	}
	bytes = skb->len - headers;
	datagrams = gso_datagrams(bytes, skb->gso_segs, skb->gso_size);
	if (!flow) {
		flow_lost(bytes, datagrams);
		return;
	}
	if (out) {
		flow_sent(flow, bytes, datagrams);
		if (!owner_is(&flow->owner, bpf_get_current_task_btf()))
			flow_set_owner(flow, kernel_address(skb->sk));
	} else {
		flow_received(flow, bytes, datagrams);
	}
}

#endif
