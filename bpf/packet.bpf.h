/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: from a packet to the flow it belongs to, for both kinds of provider. */
#ifndef TCPTOP_PACKET_BPF_H
#define TCPTOP_PACKET_BPF_H

#define SOCK_DGRAM 2
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* User space wants UDP. */
const volatile bool count_udp;

/* Not a raw socket of that protocol. */
static __always_inline bool is_udp(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM &&
	       (family == AF_INET || family == AF_INET6);
}

/* ------------------------------------------------------------- cgroup_skb */

/*
 * Bytes of headers before the payload, 0 where this is no UDP. Of the IPv6
 * extension headers (RFC 8200, section 4) those that a sender can set with a
 * socket option are passed over.
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

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP)
			return 0;
		offset = ip->ihl * 4;
		if (offset < sizeof(*ip))
			return 0;
		key_set_ipv4(from, ip->saddr);
		key_set_ipv4(to, ip->daddr);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		__u64 *addresses;
		__u8 next;

		if ((void *)(ip + 1) > end)
			return 0;
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

			if (next != 0 && next != 43 && next != 60) /* hop-by-hop, routing, destination */
				return 0;
			if ((void *)(header + 8) > end)
				return 0;
			next = header[0];
			offset += 8 + header[1] * 8;
			if (offset > 512)
				return 0;
		}
		if (next != IPPROTO_UDP)
			return 0;
	} else {
		return 0;
	}
	udp = data + offset;
	if ((void *)(udp + 1) > end)
		return 0;
	key->local_port = out ? udp->source : udp->dest;
	key->remote_port = out ? udp->dest : udp->source;
	return offset + sizeof(*udp);
}

/*
 * A cgroup_skb program's socket is a pointer with which the verifier allows
 * nothing but its own fields. As a number, what it points to can be read with
 * the copying helper.
 */
static __always_inline struct sock *kernel_address(void *sk)
{
	void *const *where = &sk;
	struct sock *address = NULL;

	asm volatile("" ::"r"(where) : "memory");
	bpf_probe_read_kernel(&address, sizeof(address), where);
	return address;
}

/* A raw socket gets copies of other sockets' datagrams, and makes its own. */
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
	return flow_create(key, kernel_address(sk), bpf_sk_storage_get(&sockets, sk, NULL, 0),
			   ifindex);
}

/* The cookie of the packet's socket, where possible without the call that only the
 * first packet needs. */
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
	if (!headers || !udp_wanted(&key))
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
		if (!flow_is_current(flow))
			flow_used(flow, kernel_address(skb->sk));
	} else {
		flow_received(flow, bytes, datagrams);
	}
}

/* ----------------------------------------------------------------- fentry */

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
		key_set_ipv4(from, ip.saddr);
		key_set_ipv4(to, ip.daddr);
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

/* The device that a packet came in by, or its route leads to. */
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
		flow = flow_create(key, sk, bpf_sk_storage_get(&sockets, sk, NULL, 0),
				   skb_ifindex(skb, out));
	if (!flow) {
		flow_lost(bytes, datagrams);
		return;
	}
	if (out)
		flow_sent(flow, bytes, datagrams);
	else
		flow_received(flow, bytes, datagrams);
	if (!flow_is_current(flow))
		flow_used(flow, sk);
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
	    !skb_addresses(skb, family, key.local, key.remote))
		return;
	key.local_port = udp.source;
	key.remote_port = udp.dest;
	udp_count(sk, skb, &key, skb->len - headers - sizeof(udp), true);
}

/*
 * Whether a datagram stays in the socket. A peek is told by its length, below 0,
 * but for a length of 0: then the socket's queue holds the datagram as well.
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
	    !skb_addresses(skb, family, key.remote, key.local))
		return;
	key.local_port = udp.dest;
	key.remote_port = udp.source;
	/* The UDP header was taken off when the datagram was queued. */
	udp_count(sk, skb, &key, skb->len, false);
}

#endif
