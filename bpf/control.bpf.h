/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What user space tells the programs: before they are loaded, and while they run. */
#ifndef TCPTOP_CONTROL_BPF_H
#define TCPTOP_CONTROL_BPF_H

#include "event.h"

#define FILTER_PORTS 16

/*
 * Written by user space before the programs are loaded, and constant from then on: the
 * verifier takes out the code that a setting makes needless.
 */
struct tcptop_settings {
	__u64 ring_bytes; /* size of the ring: asking the ring for it costs a call each time */
	__u64 flow_seed; /* random, so that nobody can aim at a group of the flow table */
	__u64 flow_timeout_ns; /* a UDP flow without a datagram for so long is forgotten */
	__u32 flow_mask; /* slots of the flow table - 1; their number is a power of two */
	bool count_tcp;
	bool count_udp;
	bool lifetime; /* totals since connections opened, not since tcptop started */
	/*
	 * No hook tells who uses a TCP socket: what is known of its owner is who holds it,
	 * which is looked up again and again.
	 */
	bool holders_only;
	/* UDP is counted by cgroup_skb programs, which do not see who receives. */
	bool track_receivers;
	__u8 filter_family; /* enum tcptop_family; 0 for both */
	/*
	 * Of either end, in network order; none stands for all. Where there are more than
	 * fit in here, user space filters by itself.
	 */
	__u16 filter_port_count;
	__u16 filter_ports[FILTER_PORTS];
};
const volatile struct tcptop_settings settings;

/*
 * Written by user space while the programs run, by one thread, in place; the programs
 * only read it. Nothing depends on the moment at which a program sees a change.
 */
struct tcptop_control {
	/*
	 * Before each tick, where marks matter: one more. What was remembered of uses in
	 * the round before counts no longer, so that each round marks anew what is used.
	 */
	__u32 mark_rounds;
	/* Cleared once, when the sockets that are older than tcptop have been seen. */
	bool starting;
	/*
	 * Before each tick. True where records were lost: every socket is sampled, changed
	 * or not, so that those that are gone can be told from those that are idle.
	 */
	bool sample_all;
	/*
	 * Before each tick. True where there are so many sockets that touching each of them
	 * is what a tick costs: only those marked active are visited, which their storage
	 * tells. Progress without a system call (a long send, data that waits to be read)
	 * makes no mark, so every few ticks all are visited.
	 */
	bool marked_only;
	/* Before each tick. True where marked_only may be true at the next one. */
	bool marks_matter;
};
struct tcptop_control control = { .starting = true };

#endif
