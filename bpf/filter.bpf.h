/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the user asked for, as far as a socket or a packet tells it cheaply: the
 * rest is decided in user space, which decides on these as well.
 *
 * All of it is constant when the programs are loaded: what was not asked for the
 * verifier takes out.
 */
#ifndef TCPTOP_FILTER_BPF_H
#define TCPTOP_FILTER_BPF_H

/* User space wants TCP. (UDP: count_udp) */
const volatile bool count_tcp;

/* AF_INET (IPv4-mapped addresses included) or AF_INET6; 0 for both. */
const volatile __u8 filter_family;

/* Either end's; none stands for all. User space filters by itself where there
 * are more. */
#define FILTER_PORTS 16
const volatile __u32 filter_port_count;
const volatile __u16 filter_ports[FILTER_PORTS]; /* network order */

static __always_inline bool ports_wanted(__u16 local, __u16 remote)
{
	if (!filter_port_count)
		return true;
	for (__u32 i = 0; i < FILTER_PORTS && i < filter_port_count; i++) {
		__u16 port = filter_ports[i];

		if (port == local || port == remote)
			return true;
	}
	return false;
}

/* An address of 16 bytes. */
static __always_inline bool family_wanted(const __u64 *address)
{
	__u64 high = address[0], low = address[1];
	bool mapped = !high && *(__u32 *)&low == bpf_htonl(0xffff);

	return mapped == (filter_family == AF_INET);
}

/* Ports in network order. A socket that has no local port yet passes: it is
 * asked again once it has. */
static __always_inline bool tcp_wanted(struct sock *sk, __u16 local_port)
{
	if (filter_family) {
		if (sk->__sk_common.skc_family == AF_INET) {
			if (filter_family != AF_INET)
				return false;
		} else if (!family_wanted((__u64 *)&sk->__sk_common.skc_v6_daddr)) {
			return false;
		}
	}
	return !local_port || ports_wanted(local_port, sk->__sk_common.skc_dport);
}

static __always_inline bool udp_wanted(struct flow_key *key)
{
	return (!filter_family || family_wanted(key->remote)) &&
	       ports_wanted(key->local_port, key->remote_port);
}

#endif
