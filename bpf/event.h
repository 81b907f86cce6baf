/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The wire: the records that the kernel side writes for user space, and the numbers
 * in them.
 *
 * This is the only definition. Rust gets it through the skeleton, which is made from
 * this object's BTF, and asserts the same sizes.
 */
#ifndef TCPTOP_EVENT_H
#define TCPTOP_EVENT_H

#include "vmlinux.h"

enum tcptop_kind {
	/* An open connection's totals; state is the current one. */
	TCPTOP_SAMPLE = 1,
	/* A TCP connection ended; state is the last one before CLOSE. */
	TCPTOP_CLOSED = 2,
	/* A UDP flow was silent for the timeout and is forgotten; its final totals. */
	TCPTOP_EXPIRED = 3,
	/* A cgroup was made; struct tcptop_cgroup. */
	TCPTOP_CGROUP_MADE = 4,
	/*
	 * A TCP connection for whose socket the kernel has no storage, so that tcptop cannot
	 * show it; struct tcptop_identified. The owner and all counters are 0. Where the
	 * connection is just beginning, the local port may be 0: it is not chosen yet.
	 */
	TCPTOP_UNTRACKED = 5,
} __attribute__((packed));

/* include/linux/socket.h; an IPv4-mapped address belongs to AF_INET6. */
enum tcptop_family {
	AF_INET = 2,
	AF_INET6 = 10,
} __attribute__((packed));

enum tcptop_protocol {
	TCPTOP_TCP = IPPROTO_TCP,
	TCPTOP_UDP = IPPROTO_UDP,
} __attribute__((packed));

/* The TCP states that a connection can have (include/net/tcp_states.h); 0 for UDP. */
enum tcptop_state {
	TCPTOP_NO_STATE = 0,
	TCPTOP_ESTABLISHED = TCP_ESTABLISHED,
	TCPTOP_SYN_SENT = TCP_SYN_SENT,
	TCPTOP_SYN_RECV = TCP_SYN_RECV,
	TCPTOP_FIN_WAIT1 = TCP_FIN_WAIT1,
	TCPTOP_FIN_WAIT2 = TCP_FIN_WAIT2,
	TCPTOP_CLOSE_WAIT = TCP_CLOSE_WAIT,
	TCPTOP_LAST_ACK = TCP_LAST_ACK,
	TCPTOP_CLOSING = TCP_CLOSING,
} __attribute__((packed));

enum tcptop_flags {
	/* Older than tcptop: the counters lack what it moved before tcptop started. */
	TCPTOP_PARTIAL = 1,
	/* The peer's FIN came in (SOCK_DONE). */
	TCPTOP_FIN_RECEIVED = 2,
	/* TCP_LINGER2 below 0: in FIN_WAIT2 this host sends a reset. */
	TCPTOP_NO_FIN_WAIT2 = 4,
	/* No process has the socket any more (SOCK_DEAD). */
	TCPTOP_ORPHAN = 8,
	/* TCPTOP_UNTRACKED: the connection may have been told of before. */
	TCPTOP_AGAIN = 16,
} __attribute__((packed));

struct tcptop_event {
	enum tcptop_kind kind;
	enum tcptop_family family; /* of the socket */
	enum tcptop_protocol protocol;
	enum tcptop_state state;
	__u8 flags; /* enum tcptop_flags */
	__u8 pad;
	__u16 error; /* sk_err, an errno; 0 for none */
	/*
	 * Together these two identify a connection: the address of the struct sock (UDP:
	 * 1 + the number of the flow's slot), and the CLOCK_MONOTONIC time at which
	 * tcptop first saw this connection or flow there.
	 */
	__u64 object;
	__u64 born_ns;
	__u64 time_ns; /* CLOCK_MONOTONIC of a close, or of forgetting a flow; 0 in a sample */
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
	__u32 tgid; /* owner, 0 unknown */
	__u32 uid;
	__u8 comm[16]; /* of the thread-group leader */
	__u32 srtt_us; /* smoothed RTT, us; 0 none */
	__u32 min_rtt_us; /* ~0 none */
	__u32 retransmits; /* segments */
	__u32 ifindex; /* bound device, else the route's; 0 none */
	__u32 scope; /* bound device: the scope of link-local addresses */
	__u32 drops; /* 1 + what the socket dropped; 0 unknown, or nobody asked */
};
_Static_assert(sizeof(struct tcptop_event) == 160, "wire size");

/*
 * Tells connections apart for ever, where `object` and `born_ns` do so for this tcptop
 * only: every tcptop on this host finds the same two numbers.
 */
struct tcptop_identity {
	__u64 cookie; /* the socket's; never used again until the next boot */
	/*
	 * Which of the socket's connections this is. TCP: the first sequence number that
	 * this end sent, below the local port. UDP: born_ns in units of the timeout; two
	 * flows of a socket that have the same tuple are further apart than that.
	 */
	__u64 part;
};
_Static_assert(sizeof(struct tcptop_identity) == 16, "wire size");

/* syn_retrans, where tcptop did not see the handshake. */
#define TCPTOP_UNKNOWN (~0U)

/* What TCP knows about its speed. As in TCP_INFO (include/uapi/linux/tcp.h), if a
 * comment says no more. */
struct tcptop_details {
	__u64 pacing_rate; /* bytes/s; ~0 not paced */
	__u64 delivery_rate; /* bytes/s; 0 not measured */
	__u64 bytes_retrans;
	__u64 busy_us;
	__u64 rwnd_limited_us;
	__u64 sndbuf_limited_us;
	__u8 congestion[16]; /* name of the algorithm */
	__u32 cwnd; /* segments */
	__u32 ssthresh; /* segments; 0x7fffffff none (TCP_INFINITE_SSTHRESH) */
	__u32 mss;
	__u32 rttvar_us; /* not measured where the event's srtt_us is 0 */
	__u32 rcv_rtt_us; /* 0 not measured */
	__u32 unacked; /* segments, as the next two */
	__u32 lost;
	__u32 reordering;
	__u32 dsack_dups;
	__u32 rcv_ooo;
	__u32 notsent; /* bytes */
	__u32 send_queue; /* bytes, as ss counts them: also SYN and FIN */
	__u32 recv_queue;
	/* From the first SYN, or SYN-ACK, to ESTABLISHED or to the end before that. 0 unknown,
	 * or not there yet. */
	__u32 connect_us;
	__u32 syn_retrans; /* SYNs or SYN-ACKs that were sent again; TCPTOP_UNKNOWN */
	__u32 pad;
};
_Static_assert(sizeof(struct tcptop_details) == 128, "wire size");

/* The longer records, where somebody asked for them. Their length tells them apart. */
struct tcptop_identified {
	struct tcptop_event event;
	struct tcptop_identity identity;
};
_Static_assert(sizeof(struct tcptop_identified) == 176, "wire size");

struct tcptop_detailed {
	struct tcptop_event event;
	struct tcptop_identity identity;
	struct tcptop_details details; /* TCP only */
};
_Static_assert(sizeof(struct tcptop_detailed) == 304, "wire size");

/* The longest path that the kernel hands out, with its NUL (TRACE_CGROUP_PATH_LEN). */
#define CGROUP_PATH_SIZE 1024

/* A cgroup (v2) that was made. */
struct tcptop_cgroup {
	enum tcptop_kind kind;
	__u8 pad[7];
	__u64 id; /* inode number of its directory */
	__u8 path[CGROUP_PATH_SIZE]; /* from the root of the hierarchy; ends at the first NUL */
};
_Static_assert(sizeof(struct tcptop_cgroup) == 16 + CGROUP_PATH_SIZE, "wire size");

/* The totals of one pass of a sampling iterator. Its descriptor yields nothing else. */
struct tcptop_pass {
	__u64 visited; /* sockets or flows looked at */
	__u64 deferred; /* changed, but left for another pass: no room in the ring */
	__u64 ownerless; /* old enough to have an owner, but no process is known */
};
_Static_assert(sizeof(struct tcptop_pass) == 24, "wire size");

/* Index into the per-CPU array of loss counters. */
enum tcptop_loss {
	TCPTOP_LOST_RING_FULL, /* close records without room in the ring */
	TCPTOP_LOST_STORAGE_FULL, /* TCPTOP_UNTRACKED without room in the ring */
	TCPTOP_LOST_FLOW_DATAGRAMS, /* UDP datagrams that found the flow table full */
	TCPTOP_LOST_FLOW_BYTES, /* their payload */
	TCPTOP_LOST_RECEIVERS, /* failed updates of `receivers`, the table of UDP receivers */
	TCPTOP_LOST_UNREADABLE, /* UDP datagrams without a UDP header where one is looked for */
	TCPTOP_LOST_CGROUPS, /* new cgroups without room in the ring */
	TCPTOP_LOSS_CAUSES,
};

/* How the table of UDP flows is laid out. */
enum tcptop_flow_table {
	/* Slots in a group. A flow may lie in any slot of two groups. */
	FLOW_WAYS = 8,
	/* Slots that one element of `taken_slots` stands for, a bit each. */
	SLOTS_PER_WORD = 64,
};

#endif
