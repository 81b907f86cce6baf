/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The wire: what the kernel side writes into the ring buffer.
 *
 * The only definition. The Rust side takes it from the skeleton, which takes it
 * from this object's BTF, and asserts the same sizes.
 */
#ifndef TCPTOP_EVENT_H
#define TCPTOP_EVENT_H

enum tcptop_event_kind {
	/* An open connection's totals; state is the present one. */
	TCPTOP_SAMPLE = 1,
	/* A TCP connection ended; state is the last one before CLOSE. */
	TCPTOP_CLOSED = 2,
	/* A UDP flow was silent for the timeout and is forgotten. */
	TCPTOP_EXPIRED = 3,
};

enum tcptop_event_flags {
	/* Older than tcptop: the counters lack its past. */
	TCPTOP_PARTIAL = 1,
	/* The peer's FIN came in (SOCK_DONE). */
	TCPTOP_FIN_RECEIVED = 2,
	/* TCP_LINGER2 below 0: FIN_WAIT2 ends with a reset of our own. */
	TCPTOP_NO_FIN_WAIT2 = 4,
	/* No process has the socket any more (SOCK_DEAD). */
	TCPTOP_ORPHAN = 8,
};

struct tcptop_event {
	__u8 kind;     /* enum tcptop_event_kind */
	__u8 family;   /* AF_INET or AF_INET6, of the socket */
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 state;    /* include/net/tcp_states.h */
	__u8 flags;    /* enum tcptop_event_flags */
	__u8 pad;
	__u16 error; /* sk_err, an errno; 0 for none */
	/* What keeps two connections apart: the socket's address (UDP: the number
	 * of the flow's slot) and the moment (CLOCK_MONOTONIC) at which this use of
	 * it was first seen. */
	__u64 object;
	__u64 born_ns;
	__u64 time_ns; /* CLOCK_MONOTONIC of a close; 0 in a sample */
	__u64 bytes_in;
	__u64 bytes_out;
	/* TCP: modulo 2^32, as the kernel counts segments. */
	__u64 packets_in;
	__u64 packets_out;
	__u64 cgroup; /* id of the socket's cgroup v2, 0 unknown */
	/* Network order; an AF_INET address is in the first four bytes. */
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port; /* host order */
	__u16 remote_port;
	__u32 netns; /* inode number */
	__u32 tgid;  /* owner, 0 unknown */
	__u32 uid;
	__u8 comm[16];     /* of the thread-group leader */
	__u32 srtt_us;     /* smoothed RTT, us; 0 none */
	__u32 min_rtt_us;  /* ~0 none */
	__u32 retransmits; /* segments */
	__u32 ifindex;	   /* bound device, else the route's; 0 none */
	__u32 scope;	   /* bound device: the scope of link-local addresses */
	__u32 pad2;
};
_Static_assert(sizeof(struct tcptop_event) == 160, "wire size");

/* What a pass of the sampling iterator ends with, read from its descriptor. */
struct tcptop_pass {
	__u64 visited;	/* sockets and flows looked at */
	__u64 deferred; /* changed, but left for another pass: the ring was half full */
	__u64 ownerless; /* for a while now no process was seen using them */
};
_Static_assert(sizeof(struct tcptop_pass) == 24, "wire size");

/* Index into the per-CPU array of loss counters. */
enum tcptop_loss {
	TCPTOP_LOST_RING_FULL,	  /* close records without room in the ring */
	TCPTOP_LOST_STORAGE_FULL, /* sockets without storage */
	TCPTOP_LOST_FLOW_DATAGRAMS, /* UDP datagrams that found the flow table full */
	TCPTOP_LOST_FLOW_BYTES,	    /* their payload */
	TCPTOP_LOSS_CAUSES,
};

#endif
