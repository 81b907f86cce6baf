/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* TCP: when a connection begins and ends, and what its socket has counted. */
#ifndef TCPTOP_TCP_BPF_H
#define TCPTOP_TCP_BPF_H

#include "filter.bpf.h"
#include "loss.bpf.h"
#include "pass.bpf.h"
#include "recent.bpf.h"
#include "ring.bpf.h"
#include "sock.bpf.h"
#include "tracked.bpf.h"

static __always_inline bool fin_received(struct sock *sk)
{
	return sk->__sk_common.skc_flags & (1UL << SOCK_DONE);
}

/* Payload received in order. A FIN takes a sequence number and so counts as a
 * byte in bytes_received; tcp_fin() sets SOCK_DONE. */
static __always_inline __u64 tcp_bytes_in(struct sock *sk, struct tcp_sock *tp)
{
	__u64 bytes = tp->bytes_received;

	return bytes && fin_received(sk) ? bytes - 1 : bytes;
}

/* Payload put on the wire once. */
static __always_inline __u64 tcp_bytes_out(struct tcp_sock *tp)
{
	__u64 again = tp->bytes_retrans;
	__u64 sent = tp->bytes_sent;

	return sent > again ? sent - again : 0;
}

/* Network order. Not skc_num: that is 0 once the port was given back. */
static __always_inline __u16 tcp_local_port(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.inet_sport;
}

/* Count from here: what the socket did before is not this connection's, or not
 * of tcptop's time. */
static __always_inline void tcp_set_base(struct tracked *tracked, struct sock *sk,
					 struct tcp_sock *tp)
{
	tracked->base_bytes_in = tcp_bytes_in(sk, tp);
	tracked->base_bytes_out = tcp_bytes_out(tp);
	tracked->base_segs_in = tp->segs_in;
	tracked->base_segs_out = tp->segs_out;
	tracked->base_retrans = tp->total_retrans;
}

/* The kernel's counter since the base; a counter that went backwards
 * (TCP_REPAIR can write them) has no past to subtract. */
static __always_inline __u64 since(__u64 now, __u64 base)
{
	return now >= base ? now - base : now;
}

static __always_inline void fill_tcp(struct tcptop_event *event, struct sock *sk,
				     struct tcp_sock *tp, struct tracked *tracked)
{
	event->protocol = TCPTOP_TCP;
	event->flags = tracked->flags;
	if (fin_received(sk))
		event->flags |= TCPTOP_FIN_RECEIVED;
	if (sk->__sk_common.skc_flags & (1UL << SOCK_DEAD))
		event->flags |= TCPTOP_ORPHAN;
	if ((int)tp->linger2 < 0)
		event->flags |= TCPTOP_NO_FIN_WAIT2;
	event->pad = 0;
	event->pad2 = 0;
	event->error = sk->sk_err;
	event->object = (__u64)sk;
	event->born_ns = tracked->born_ns;
	event->bytes_in = since(tcp_bytes_in(sk, tp), tracked->base_bytes_in);
	event->bytes_out = since(tcp_bytes_out(tp), tracked->base_bytes_out);
	event->packets_in = (__u32)(tp->segs_in - tracked->base_segs_in);
	event->packets_out = (__u32)(tp->segs_out - tracked->base_segs_out);
	event->srtt_us = tp->srtt_us >> 3;
	event->min_rtt_us = tp->rtt_min.s[0].v;
	event->retransmits = tp->total_retrans - tracked->base_retrans;
	event->tgid = tracked->owner.tgid;
	__builtin_memcpy(event->comm, tracked->owner.comm, sizeof(event->comm));
	event->local_port = bpf_ntohs(tcp_local_port(tp));
	fill_sock(event, sk);
}

/* connect() or listen(): the socket starts a new life. */
static __always_inline void tcp_begins(struct sock *sk, __u8 state)
{
	struct tracked fresh = {};
	struct tracked *tracked;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	tracked = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tracked) {
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
		return;
	}
	forget_recent_use(tcp_socket_number(sk));
	tracked->born_ns = bpf_ktime_get_ns();
	tracked->state = state;
	tracked->active = 1;
	tracked->flags = 0;
	tracked->sampled_state = 0;
	tcp_set_base(tracked, sk, tp);
	owner_set(&tracked->owner, bpf_get_current_task_btf(),
		  settings.holders_only ? EVIDENCE_INHERITED : EVIDENCE_USES);
}

/*
 * The last ACK of a handshake made a socket of its own. Its storage is a copy of
 * the listener's: the owner stays, the rest starts anew. The child's counters
 * began at 0.
 */
static __always_inline void tcp_child_begins(struct sock *sk, __u8 state)
{
	struct tracked fresh = {};
	struct tracked *tracked;

	tracked = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tracked) {
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
		return;
	}
	tracked->state = state;
	tracked->base_bytes_in = 0;
	tracked->base_bytes_out = 0;
	tracked->base_segs_in = 0;
	tracked->base_segs_out = 0;
	tracked->base_retrans = 0;
	tracked->flags = 0;
	tracked->sampled_state = 0;
	tracked->owner.evidence = EVIDENCE_INHERITED;
	forget_recent_use(tcp_socket_number(sk));
	tracked->active = 1;
	tracked->born_ns = bpf_ktime_get_ns();
}

/* The state is news at the next tick, also where no process does anything. */
static __always_inline void tcp_moves_on(struct sock *sk)
{
	struct tracked *tracked;

	if (!control.marks_matter)
		return;
	tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (tracked)
		mark_active(tracked);
}

/*
 * The socket's counters are final: nothing is sent or received in CLOSE. Not
 * reported: a listener; a socket that closes twice; a connect() that failed
 * before it had a port; a child that the kernel threw away before it was a
 * connection (its peer's SYN had been answered twice).
 */
static __always_inline void tcp_ends(struct sock *sk, int old_state)
{
	struct tracked *tracked;
	struct tcptop_event *event;
	struct tcp_sock *tp;

	if (old_state == TCP_LISTEN || old_state == TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !tcp_wanted(sk, tcp_local_port(tp)))
		return;
	tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!tracked)
		return;
	tracked->state = TCP_CLOSE;
	if (old_state == TCP_SYN_SENT && !tcp_local_port(tp))
		return;
	if (old_state == TCP_SYN_RECV && !sk->sk_err && !tp->bytes_received)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		lost(TCPTOP_LOST_RING_FULL, 1);
		return;
	}
	event->kind = TCPTOP_CLOSED;
	event->state = old_state;
	event->time_ns = bpf_ktime_get_ns();
	fill_tcp(event, sk, tp, tracked);
	bpf_ringbuf_submit(event, wake_when_filling());
}

/*
 * Nothing to tell of a TCP socket since its last sample. Looks at as little as
 * possible, since that is what an idle socket costs: not even at the state, which
 * changes with a segment, or is soon followed by one.
 */
static __always_inline bool tcp_is_idle(struct sock *sk, struct tracked *tracked)
{
	struct tcp_sock *tp;

	if (!bpf_ksym_exists(bpf_rdonly_cast))
		return false;
	/* Without a sample it can be a UDP socket as well. */
	if (!tracked->sampled_state || tracked->owner.evidence < EVIDENCE_HOLDS ||
	    control.sample_all)
		return false;
	tp = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
	return tp->segs_in + tp->segs_out == tracked->sampled_segs &&
	       !owner_is_news(&tracked->owner);
}

static __always_inline void tcp_sample(struct sock *sk, struct tracked *tracked)
{
	__u8 state = sk->__sk_common.skc_state;
	struct tcptop_event *event;
	struct tcp_sock *tp;
	__u16 version;
	__u32 segs;

	if (state == TCP_CLOSE || state == TCP_LISTEN)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	/* In the cache line of the state, as the other one's place is not. */
	if (!tcp_wanted(sk, bpf_htons(sk->__sk_common.skc_num))) {
		mark_idle(tracked);
		return;
	}
	if (tracked->owner.evidence < EVIDENCE_HOLDS && state != TCP_SYN_SENT &&
	    bpf_ktime_get_ns() - tracked->born_ns > OWNERLESS_FOR_NS)
		pass.ownerless++;
	segs = tp->segs_in + tp->segs_out;
	version = tracked->owner.version;
	if (tracked->sampled_epoch == epoch)
		return;
	if (!control.sample_all && segs == tracked->sampled_segs &&
	    state == tracked->sampled_state && version == tracked->owner.sampled_version) {
		mark_idle(tracked);
		return;
	}
	mark_active(tracked);
	/* connect() sets the state before it chooses a port. */
	if (!tcp_local_port(tp))
		return;
	if (ring_half_full()) {
		pass.deferred++;
		return;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		pass.deferred++;
		return;
	}
	event->kind = TCPTOP_SAMPLE;
	event->state = state;
	event->time_ns = 0;
	fill_tcp(event, sk, tp, tracked);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	tracked->sampled_segs = segs;
	tracked->sampled_state = state;
	tracked->owner.sampled_version = version;
	tracked->sampled_epoch = epoch;
}

/*
 * A socket that existed before tcptop. The hooks are attached already, so a
 * socket that has storage is known better than it can be learnt here, but for an
 * owner: a process that holds it is better than none or than the listener's. Of
 * several holders the last wins, which is the youngest: the worker that a server
 * has split off.
 */
static __always_inline void tcp_seed(struct sock *sk, struct task_struct *holder)
{
	__u8 state = sk->__sk_common.skc_state;
	struct tracked fresh = {};
	struct tracked *tracked;
	struct tcp_sock *tp;

	if (state == TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	/* Neither is known of what a listener will accept. */
	if (state != TCP_LISTEN && !tcp_wanted(sk, tcp_local_port(tp)))
		return;
	tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!tracked) {
		fresh.born_ns = bpf_ktime_get_ns();
		fresh.flags = TCPTOP_PARTIAL;
		if (!settings.lifetime)
			tcp_set_base(&fresh, sk, tp);
		tracked = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
		if (!tracked) {
			lost(TCPTOP_LOST_STORAGE_FULL, 1);
			return;
		}
		forget_recent_use(tcp_socket_number(sk));
	}
	if (holder && tracked->owner.evidence < EVIDENCE_USES)
		owner_set(&tracked->owner, holder, EVIDENCE_HOLDS);
}

#endif
