/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reads a struct sock: cookie, addresses, namespace, user, device, cgroup. */
#ifndef TCPTOP_SOCK_BPF_H
#define TCPTOP_SOCK_BPF_H

#include "event.h"
#include "kernel.bpf.h"
#include <bpf/bpf_endian.h>

#define SOCK_DGRAM 2

/* A raw socket can have the same protocol; the type distinguishes them. */
static __always_inline bool is_udp(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM &&
	       (family == AF_INET || family == AF_INET6);
}

/* The socket's cookie: a number that this host never uses again. 0 until somebody asks
 * the kernel for it with sock_cookie(). */
static __always_inline __u64 sock_known_cookie(struct sock *sk)
{
	return sk->__sk_common.skc_cookie.counter;
}

static __always_inline __u64 sock_cookie(struct sock *sk)
{
	__u64 cookie = sock_known_cookie(sk);

	return cookie ? cookie : bpf_get_socket_cookie(sk);
}

/*
 * Before Linux 5.15 the pointer to the cgroup shared a word with two ids
 * ("cgroup: consolidate cgroup v1 and v2 socket data", 8520e224f547); on such a
 * kernel the cgroup is unknown.
 */
static __always_inline __u64 sock_cgroup(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return 0;
	return sk->sk_cgrp_data.cgroup->kn->id;
}

/* The device that the socket is bound to; else the one that received its last packet;
 * else the device of its cached route. */
static __always_inline __u32 sock_ifindex(struct sock *sk)
{
	__u32 ifindex = sk->__sk_common.skc_bound_dev_if;

	if (!ifindex && bpf_core_field_exists(sk->sk_rx_dst_ifindex))
		ifindex = sk->sk_rx_dst_ifindex;
	if (!ifindex)
		ifindex = sk->sk_dst_cache->dev->ifindex;
	return ifindex;
}

/*
 * Packets that the socket dropped (sk_drops_read(), include/net/sock.h). A UDP socket has
 * two counters for them in another place since Linux 6.18. Reads them with a copying
 * helper, so that `sk` may be a plain address.
 */
static __always_inline __u32 sock_drops(struct sock *sk)
{
	struct numa_drop_counters *counters = NULL;

	if (bpf_core_field_exists(sk->sk_drop_counters))
		counters = BPF_CORE_READ(sk, sk_drop_counters);
	if (counters)
		return BPF_CORE_READ(counters, drops0.counter) +
		       BPF_CORE_READ(counters, drops1.counter);
	return BPF_CORE_READ(sk, sk_drops.counter);
}

/* Stores each word whole, as it will be read: a load that spans two smaller stores has
 * to wait for both. */
static __always_inline void set_ipv4(__u64 *address, __u32 ipv4)
{
	address[0] = 0;
	address[1] = bpf_cpu_to_be64(0xffff00000000ULL | bpf_ntohl(ipv4));
}

/* The addresses of both ends, IPv4 as IPv4-mapped IPv6. */
static __always_inline void sock_addresses(struct sock *sk, __u64 *local, __u64 *remote)
{
	__u64 *from = (__u64 *)&sk->__sk_common.skc_v6_rcv_saddr;
	__u64 *to = (__u64 *)&sk->__sk_common.skc_v6_daddr;

	if (sk->__sk_common.skc_family == AF_INET) {
		set_ipv4(local, sk->__sk_common.skc_rcv_saddr);
		set_ipv4(remote, sk->__sk_common.skc_daddr);
		return;
	}
	local[0] = from[0];
	local[1] = from[1];
	remote[0] = to[0];
	remote[1] = to[1];
}

static __always_inline void fill_sock(struct tcptop_event *event, struct sock *sk)
{
	struct sock *plain = untrusted(struct sock, sk);

	event->family = sk->__sk_common.skc_family;
	if (event->family == AF_INET) {
		__builtin_memset(event->local_addr, 0, sizeof(event->local_addr));
		__builtin_memset(event->remote_addr, 0, sizeof(event->remote_addr));
		*(__u32 *)event->local_addr = sk->__sk_common.skc_rcv_saddr;
		*(__u32 *)event->remote_addr = sk->__sk_common.skc_daddr;
	} else {
		__u64 *local = (__u64 *)event->local_addr;
		__u64 *remote = (__u64 *)event->remote_addr;
		__u64 *from = (__u64 *)&sk->__sk_common.skc_v6_rcv_saddr;
		__u64 *to = (__u64 *)&sk->__sk_common.skc_v6_daddr;

		local[0] = from[0];
		local[1] = from[1];
		remote[0] = to[0];
		remote[1] = to[1];
	}
	event->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	event->netns = plain->__sk_common.skc_net.net->ns.inum;
	event->uid = sk->sk_uid.val;
	event->ifindex = sock_ifindex(plain);
	event->scope = sk->__sk_common.skc_bound_dev_if;
	event->cgroup = sock_cgroup(plain);
}

#endif
