/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The user's filters that can be checked cheaply on a socket or a packet: address
 * family and ports. User space applies all filters, these included.
 */
#ifndef TCPTOP_FILTER_BPF_H
#define TCPTOP_FILTER_BPF_H

#include "control.bpf.h"
#include "sock.bpf.h"
#include <bpf/bpf_endian.h>

static __always_inline bool ports_wanted(__u16 local, __u16 remote)
{
	if (!settings.filter_port_count)
		return true;
	for (__u32 i = 0; i < FILTER_PORTS && i < settings.filter_port_count; i++) {
		__u16 port = settings.filter_ports[i];

		if (port == local || port == remote)
			return true;
	}
	return false;
}

/* Whether the address (16 bytes, IPv4 as IPv4-mapped) is of the wanted family. */
static __always_inline bool address_wanted(const __u64 *address)
{
	__u64 high = address[0], low = address[1];
	bool mapped = !high && *(__u32 *)&low == bpf_htonl(0xffff);

	return mapped == (settings.filter_family == AF_INET);
}

/* Ports in network order. A socket without a local port is wanted: it is checked
 * again when it has one. */
static __always_inline bool tcp_wanted(struct sock *sk, __u16 local_port)
{
	if (settings.filter_family) {
		if (sk->__sk_common.skc_family == AF_INET) {
			if (settings.filter_family != AF_INET)
				return false;
		} else if (!address_wanted((__u64 *)&sk->__sk_common.skc_v6_daddr)) {
			return false;
		}
	}
	return !local_port || ports_wanted(local_port, sk->__sk_common.skc_dport);
}

#endif
