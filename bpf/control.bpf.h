/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The variables that user space sets for the programs: before they load, and while they run. */
#ifndef TCPTOP_CONTROL_BPF_H
#define TCPTOP_CONTROL_BPF_H

#include "event.h"

#define FILTER_PORTS 16
#define FILTER_PREFIXES 8
#define FILTER_CGROUPS 4
#define FILTER_CGROUP_NAME 64

/*
 * Values of a filter. At least one of the first `wanted` must match, if there are any,
 * and none of the others.
 */
struct tcptop_ports {
	__u16 wanted;
	__u16 count;
	__u16 list[FILTER_PORTS]; /* of either end, in network order */
};

/* The addresses that have the bits of `address` where `mask` has ones. In network order,
 * IPv4 as IPv4-mapped IPv6. */
struct tcptop_prefix {
	__u64 address[2];
	__u64 mask[2];
};

struct tcptop_prefixes {
	__u32 wanted;
	__u32 count;
	struct tcptop_prefix list[FILTER_PREFIXES];
};

/*
 * A cgroup and all below it, by its name and its level (1: just below the root). Others
 * can have the same name at this level. Not by its id: when a service starts again,
 * systemd makes a new cgroup, which has another id.
 */
struct tcptop_cgroup_name {
	__u64 level;
	/* As much of the name as fits with a 0; the rest is filled with 0. */
	__u64 name[FILTER_CGROUP_NAME / 8];
};

/*
 * User space writes these before it loads the programs. From then on they are constant,
 * so the verifier removes the code that a setting makes unreachable.
 */
struct tcptop_settings {
	__u64 ring_bytes; /* size of the ring; here, since each query of the ring is a call */
	__u64 flow_seed; /* random, so that nobody can aim flows at one group of the table */
	__u64 flow_timeout_ns; /* a UDP flow expires after this long without a datagram */
	__u32 pool_places; /* how many places of the pool are used: all, but in tests */
	__u32 flow_mask; /* number of slots in the flow table, a power of two, minus 1 */
	__u32 jiffy_us; /* length of a jiffy, rounded down as the kernel does for TCP_INFO */
	bool count_tcp;
	bool count_udp;
	bool lifetime; /* totals since the connection opened, not since tcptop started */
	/*
	 * No hook shows which process uses a TCP socket. Its owner is the process that
	 * holds it, which user space looks up regularly.
	 */
	bool holders_only;
	bool unlinks_storage; /* the kernel is as storage_forget() says */
	/* UDP is counted by cgroup_skb programs, which do not see the receiving process. */
	bool track_receivers;
	/*
	 * What the longer records have. The programs that write records exist twice: for
	 * the shortest record, and for longer ones (`longer`). So the shortest record costs
	 * nothing for the others. One program for all would, since the verifier removes the
	 * code that a setting makes unreachable, but not the test. Each test reads the
	 * setting anew: Linux 5.15 forgets the value when the program stores it.
	 */
	bool detail; /* struct tcptop_detailed for TCP; without it struct tcptop_identified */
	bool drops; /* what the socket dropped */
	/*
	 * True if one of the filters below is set: without filters, one check is all that
	 * they cost. Of values that do not fit, only user space knows: the programs let
	 * more pass then, never less.
	 */
	bool filters;
	__u8 filter_family; /* enum tcptop_family; 0 for both */
	struct tcptop_ports filter_ports;
	struct tcptop_prefixes filter_local;
	struct tcptop_prefixes filter_remote;
	/* TCP only. Any of them must match; a count of 0 lets every cgroup pass. */
	__u32 filter_cgroup_count;
	struct tcptop_cgroup_name filter_cgroups[FILTER_CGROUPS];
};
const volatile struct tcptop_settings settings = { .pool_places = ~0U };

/*
 * One thread of user space writes these in place while the programs run; the programs
 * only read them. It does not matter when exactly a program sees a change.
 */
struct tcptop_control {
	/*
	 * Incremented before each tick if marks_matter. This invalidates all of
	 * recent_uses, so that in each round the first use of a socket marks it again.
	 */
	__u32 mark_rounds;
	/*
	 * Set before each tick: the slices (in_slices()) whose sockets are all sampled,
	 * changed or not, so that user space can tell closed sockets from idle ones. All of
	 * them after records were lost.
	 */
	__u64 sample_slices;
	/* Cleared once, after the seed has visited the sockets that are older than tcptop. */
	bool starting;
	/*
	 * Set before each tick. True if so many sockets exist that reading each of them
	 * would make the tick expensive: then only those whose storage is marked active are
	 * compared. Progress without a system call (a long send, data that waits to be read)
	 * sets no mark, so every few ticks this is false.
	 */
	bool marked_only;
	/* Set before each tick. True if marked_only may be true at the next tick. */
	bool marks_matter;
};
struct tcptop_control control = { .starting = true };

#endif
