/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The user's filters that can be checked cheaply on a socket or a packet: address
 * family, addresses, ports and, for TCP, cgroups. User space applies all filters, these
 * included.
 */
#ifndef TCPTOP_FILTER_BPF_H
#define TCPTOP_FILTER_BPF_H

#include "control.bpf.h"
#include "sock.bpf.h"
#include <bpf/bpf_endian.h>

static __always_inline bool ports_wanted(__u16 local, __u16 remote)
{
	bool found = !settings.filter_ports.wanted;

	for (__u32 i = 0; i < FILTER_PORTS && i < settings.filter_ports.count; i++) {
		__u16 port = settings.filter_ports.list[i];

		if (port != local && port != remote)
			continue;
		if (i >= settings.filter_ports.wanted)
			return false;
		found = true;
	}
	return found;
}

/* An address: 16 bytes in network order, IPv4 as IPv4-mapped IPv6. */
static __always_inline bool address_wanted(const volatile struct tcptop_prefixes *prefixes,
					   const __u64 *address)
{
	bool found = !prefixes->wanted;

	for (__u32 i = 0; i < FILTER_PREFIXES && i < prefixes->count; i++) {
		const volatile struct tcptop_prefix *prefix = &prefixes->list[i];

		/* One branch for the whole prefix: each branch is one more path for the verifier. */
		if (((address[0] & prefix->mask[0]) ^ prefix->address[0]) |
		    ((address[1] & prefix->mask[1]) ^ prefix->address[1]))
			continue;
		if (i >= prefixes->wanted)
			return false;
		found = true;
	}
	return found;
}

static __always_inline bool family_wanted(const __u64 *address)
{
	__u64 high = address[0], low = address[1];
	bool mapped = !high && *(__u32 *)&low == bpf_htonl(0xffff);

	return mapped == (settings.filter_family == AF_INET);
}

static __always_inline bool addresses_wanted(const __u64 *local, const __u64 *remote)
{
	return (!settings.filter_family || family_wanted(remote)) &&
	       (!settings.filter_local.count || address_wanted(&settings.filter_local, local)) &&
	       (!settings.filter_remote.count || address_wanted(&settings.filter_remote, remote));
}

/* Whether the cgroup, or the one above it at this level, has the name. */
static __always_inline bool cgroup_is_below(struct cgroup *cgroup,
					    const volatile struct tcptop_cgroup_name *top)
{
	__u64 name[FILTER_CGROUP_NAME / 8] = {};
	struct cgroup *above = NULL;
	__u64 differ = 0;
	void *at;

	if (cgroup->level < 0 || (__u64)cgroup->level < top->level)
		return false;
	at = (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors);
	if (bpf_probe_read_kernel(&above, sizeof(above), at + top->level * sizeof(above)) ||
	    bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(above, kn, name)) < 0)
		return true;
	for (__u32 i = 0; i < FILTER_CGROUP_NAME / 8; i++)
		differ |= name[i] ^ top->name[i];
	return !differ;
}

/* A socket belongs to one cgroup all its life. Before Linux 6.1, where a cgroup has no
 * pointers to those above it, every socket is wanted. */
static __always_inline bool cgroup_wanted(struct sock *sk)
{
	struct cgroup *cgroup;

	if (!settings.filter_cgroup_count || !bpf_core_field_exists(sk->sk_cgrp_data.cgroup) ||
	    !bpf_core_field_exists(struct cgroup, ancestors))
		return true;
	cgroup = untrusted(struct sock, sk)->sk_cgrp_data.cgroup;
	for (__u32 i = 0; i < FILTER_CGROUPS && i < settings.filter_cgroup_count; i++) {
		if (cgroup_is_below(cgroup, &settings.filter_cgroups[i]))
			return true;
	}
	return false;
}

/* Ports in network order. A socket without a local port is wanted: it is checked
 * again when it has one. */
static __always_inline bool tcp_wanted(struct sock *sk, __u16 local_port)
{
	__u64 local[2], remote[2];

	if (!settings.filters || !local_port)
		return true;
	if (!ports_wanted(local_port, sk->__sk_common.skc_dport))
		return false;
	if (!settings.filter_family && !settings.filter_local.count &&
	    !settings.filter_remote.count)
		return true;
	sock_addresses(sk, local, remote);
	return addresses_wanted(local, remote);
}

/* With the filters that take too long for each use of a socket. */
static __always_inline bool tcp_shown(struct sock *sk, __u16 local_port)
{
	if (!settings.filters)
		return true;
	return tcp_wanted(sk, local_port) && cgroup_wanted(sk);
}

#endif
