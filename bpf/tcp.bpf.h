/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* TCP: when a connection begins and ends, and what its socket has counted. */
#ifndef TCPTOP_TCP_BPF_H
#define TCPTOP_TCP_BPF_H

#include "filter.bpf.h"
#include "loss.bpf.h"
#include "pass.bpf.h"
#include "pool.bpf.h"
#include "recent.bpf.h"
#include "ring.bpf.h"
#include "sock.bpf.h"
#include "tcp_details.bpf.h"
#include "tracked.bpf.h"

static __always_inline bool fin_received(struct sock *sk)
{
	return sk->__sk_common.skc_flags & (1UL << SOCK_DONE);
}

/* Payload received in order. The kernel counts a received FIN as a byte in
 * bytes_received, since it takes a sequence number; tcp_fin() sets SOCK_DONE. */
static __always_inline __u64 tcp_bytes_in(struct sock *sk, struct tcp_sock *tp)
{
	__u64 bytes = tp->bytes_received;

	return bytes && fin_received(sk) ? bytes - 1 : bytes;
}

/* True in the states in which a FIN is sent, or is about to be. */
static __always_inline bool tcp_finishes(__u8 state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING ||
	       state == TCP_LAST_ACK;
}

/*
 * Payload put on the wire once: what was sent less what was sent again. But a segment that
 * this host drops itself (a full queue, a packet filter, no route) is in bytes_sent, and the
 * kernel sends it later as if for the first time. Then it is how far the sequence numbers
 * have come, less the SYN and the FIN. `ends`: the counters stand still.
 *
 * Nobody knows whether a socket that is older than tcptop has sent a SYN: where its segments
 * are dropped, that byte is counted.
 */
static __always_inline __u64 tcp_bytes_out(struct tcp_sock *tp, __u8 state, bool syn, bool ends)
{
	__u64 again = tp->bytes_retrans, sent = tp->bytes_sent, reached;
	__u32 unacked, next;

	sent = sent > again ? sent - again : 0;
	/* In this order, so that what an ACK or a segment changes meanwhile raises the limit. */
	barrier();
	unacked = tp->snd_una;
	barrier();
	next = tp->snd_nxt;
	barrier();
	reached = tp->bytes_acked + (next - unacked);
	reached -= syn && reached;
	if (sent < reached || !tcp_finishes(state) || next != tp->write_seq)
		return sent < reached ? sent : reached;
	/* A moment after the state has changed there is no FIN yet. */
	if (sent == reached && !ends)
		return sent;
	return reached - !!reached;
}

/* Network order. Not skc_num: it is 0 after the socket has released its port. */
static __always_inline __u16 tcp_local_port(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.inet_sport;
}

/* Counts from now on: what the socket moved before belongs to an earlier connection,
 * or to the time before tcptop. */
static __always_inline void tcp_set_base(struct tracked *tracked, struct sock *sk,
					 struct tcp_sock *tp, __u8 state)
{
	tracked->base_bytes_in = tcp_bytes_in(sk, tp);
	tracked->base_bytes_out = tcp_bytes_out(tp, state, tracked->syn, false);
	tracked->base_segs_in = tp->segs_in;
	tracked->base_segs_out = tp->segs_out;
	tracked->base_retrans = tp->total_retrans;
}

/* What a kernel counter grew by since the base was taken. A counter below its base was
 * written (TCP_REPAIR can do this): then nothing is subtracted. */
static __always_inline __u64 counted_since(__u64 now, __u64 base)
{
	return now >= base ? now - base : now;
}

static __always_inline void fill_tcp(struct tcptop_event *event, struct sock *sk,
				     struct tcp_sock *tp, struct tracked *tracked)
{
	bool ends = event->kind == TCPTOP_CLOSED;

	event->protocol = TCPTOP_TCP;
	event->flags = tracked->flags;
	if (fin_received(sk))
		event->flags |= TCPTOP_FIN_RECEIVED;
	if (sk->__sk_common.skc_flags & (1UL << SOCK_DEAD))
		event->flags |= TCPTOP_ORPHAN;
	if ((int)tp->linger2 < 0)
		event->flags |= TCPTOP_NO_FIN_WAIT2;
	event->pad = 0;
	event->drops = 0;
	event->error = sk->sk_err;
	event->object = (__u64)sk;
	event->born_ns = tracked->born_ns;
	event->bytes_in = counted_since(tcp_bytes_in(sk, tp), tracked->base_bytes_in);
	event->bytes_out = counted_since(tcp_bytes_out(tp, event->state, tracked->syn, ends),
					 tracked->base_bytes_out);
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

/* The part of a record that only a longer one has. `place`: as in tcp_sample(). `failed`:
 * the connection ends in SYN_SENT. */
static __always_inline void fill_tcp_rest(struct tcptop_event *event, struct sock *sk,
					  struct tcp_sock *tp, struct tracked *tracked,
					  const __u64 *place, __u32 first_seq, bool failed)
{
	struct tcptop_detailed *detailed = (struct tcptop_detailed *)event;

	detailed->identity.cookie = place ? sock_known_cookie(sk) : sock_cookie(sk);
	detailed->identity.part = tcp_connection_part(event->local_port, first_seq);
	if (settings.drops)
		event->drops = 1 + sock_drops(sk);
	if (!settings.detail)
		return;
	fill_details(&detailed->details, sk, tp);
	fill_handshake(&detailed->details, tp, tracked, failed);
}

/*
 * A connection that cannot be tracked, since the kernel has no memory for the storage of
 * its socket. User space counts it, and knows those that it was told of `again`.
 */
static __noinline void tcp_untracked(struct sock *sk, __u8 state, bool again)
{
	struct tcptop_identified *record;
	struct tcp_sock *tp;

	if (!sk || sock_is_freed(sk))
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
		return;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->event.kind = TCPTOP_UNTRACKED;
	record->event.protocol = TCPTOP_TCP;
	record->event.state = state;
	record->event.flags = again ? TCPTOP_AGAIN : 0;
	record->event.object = (__u64)sk;
	record->event.local_port = bpf_ntohs(tcp_local_port(tp));
	fill_sock(&record->event, sk);
	record->identity.cookie = sock_cookie(sk);
	bpf_ringbuf_submit(&record->event, wake_when_filling());
}

/* Stores what is known of a connection that just begins, or of a listener. False if there is
 * neither place nor storage. `tracked`: what is known of an earlier connection of the socket,
 * or of its listener; NULL for nothing. `pools`: it may have a place in the pool. */
static __always_inline bool tcp_track(struct sock *sk, struct tracked *tracked,
				      struct tracked *fresh, bool pools)
{
	forget_recent_use(tcp_socket_number(sk));
	if (tracked) {
		*tracked = *fresh;
		pool_set_creator(sk);
		return true;
	}
	return (pools && pool_put(sk, fresh)) || storage_create(&sockets, sk, fresh);
}

/* connect() or listen(): the socket begins a new connection, or to listen. `again`: another
 * program may have seen this already. */
static __always_inline void tcp_begins(struct sock *sk, __u8 state, bool longer, bool again)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct tracked fresh = { .state = state, .active = 1 };

	if (!tp)
		return;
	fresh.born_ns = bpf_ktime_get_ns();
	fresh.syn = state == TCP_SYN_SENT && !BPF_CORE_READ_BITFIELD(tp, repair);
	tcp_set_base(&fresh, sk, tp, state);
	owner_set(&fresh.owner, bpf_get_current_task_btf(),
		  settings.holders_only ? EVIDENCE_INHERITED : EVIDENCE_USES);
	if (longer)
		sock_cookie(sk); /* a visitor of the pool cannot ask for it */
	/* Without a listener's storage its children only lack the owner, for a while. */
	if (!tcp_track(sk, tracked_of(sk), &fresh, true) && state != TCP_LISTEN)
		tcp_untracked(sk, state, again);
}

/*
 * The last ACK of a handshake has made a new socket, the listener's child. The owner is the
 * listener's for now. A listener that has storage left the child a copy of it. The kernel's
 * counters of the child began at 0.
 *
 * The longer records need the socket's cookie, which the kernel sets later. So with these no
 * child has a place in the pool.
 */
static __always_inline void tcp_child_begins(struct sock *sk, __u8 state, bool longer, bool again)
{
	struct tracked fresh = { .state = state, .active = 1 };
	const struct tracked *listener;
	struct tracked *copied;

	/* That of an earlier socket at this address, if its end was missed. */
	pool_release(sk);
	copied = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	listener = copied ? copied : pooled_listener(sk);
	if (listener)
		fresh.owner = listener->owner;
	fresh.owner.evidence = EVIDENCE_INHERITED;
	fresh.born_ns = bpf_ktime_get_ns();
	if (!tcp_track(sk, copied, &fresh, !longer))
		tcp_untracked(sk, state, again);
}

/* Marks the socket, so that the next tick reports its new state even if no process
 * uses it. */
static __always_inline void tcp_moves_on(struct sock *sk, __u8 state, bool longer)
{
	struct tracked *tracked;

	if (longer && settings.detail && state == TCP_ESTABLISHED)
		tcp_connected(sk);
	if (!control.marks_matter)
		return;
	tracked = tracked_of(sk);
	if (tracked)
		mark_active(tracked);
}

/*
 * The connection ends. The socket's counters are final: in CLOSE nothing is sent or
 * received. Four kinds of sockets are not reported: a listener; a socket that closes a
 * second time; a socket whose connect() failed before it had a port; a child that the
 * kernel dropped before it was a connection (its peer's SYN had been answered twice).
 * Such a child has moved nothing and was never sampled. Other sockets can end in
 * SYN_RECV without an error too: those of a simultaneous open, and children of Fast Open.
 */
static __always_inline void tcp_ends(struct sock *sk, int old_state, bool longer)
{
	struct tcptop_event *event;
	struct tracked *tracked;
	struct tracked known;
	struct tcp_sock *tp;

	if (old_state == TCP_LISTEN || old_state == TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !tcp_shown(sk, tcp_local_port(tp)))
		return;
	tracked = tracked_of(sk);
	if (!tracked)
		return;
	tracked->state = TCP_CLOSE;
	/* A copy, since the verifier checks what follows for each place that it can come from. */
	known = *tracked;
	if (old_state == TCP_SYN_SENT && !tcp_local_port(tp))
		return;
	if (old_state == TCP_SYN_RECV && !sk->sk_err && !tp->bytes_received && !tp->bytes_sent &&
	    !known.sampled_state)
		return;
	event = record_reserve(longer, true);
	if (!event) {
		lost(TCPTOP_LOST_RING_FULL, 1);
		return;
	}
	event->kind = TCPTOP_CLOSED;
	event->state = old_state;
	event->time_ns = bpf_ktime_get_ns();
	fill_tcp(event, sk, tp, &known);
	if (longer)
		fill_tcp_rest(event, sk, tp, &known, NULL, tcp_first_seq(tp, old_state),
			      old_state == TCP_SYN_SENT);
	bpf_ringbuf_submit(event, wake_when_filling());
}

/*
 * Grows with every segment, with or without payload. If the details are asked for, also
 * with what the process writes and reads: this changes the queues, and needs no segment.
 */
static __always_inline __u32 tcp_progress(struct tcp_sock *tp, bool longer)
{
	__u32 progress = tp->segs_in + tp->segs_out;

	if (longer && settings.detail)
		progress += tp->write_seq + tp->copied_seq;
	return progress;
}

/* True if the kernel counts how long the socket is busy: that changes all the time. */
static __always_inline bool tcp_is_timed(struct tcp_sock *tp, bool longer)
{
	return longer && settings.detail && tcp_chrono(tp) != TCP_CHRONO_UNSPEC;
}

/*
 * True if a TCP socket did not change since its last sample. Reads as little as
 * possible: this check is the whole cost of an idle socket. It does not read the state,
 * since a segment comes with each change of state or soon after it.
 */
static __always_inline bool tcp_is_idle(struct sock *sk, struct tracked *tracked, bool longer)
{
	struct tcp_sock *tp;

	if (!bpf_ksym_exists(bpf_rdonly_cast))
		return false;
	if (!tracked->sampled_state || tracked->owner.evidence < EVIDENCE_HOLDS ||
	    in_slices(tracked, control.sample_slices))
		return false;
	tp = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
	return tcp_progress(tp, longer) == tracked->sampled_progress &&
	       !owner_changed_since_sample(&tracked->owner) && !tcp_is_timed(tp, longer);
}

/* `place`: the socket's in the pool; NULL if it has storage. */
static __always_inline void tcp_sample(struct sock *sk, struct tcp_sock *tp,
				       struct tracked *tracked, __u64 *place, bool longer)
{
	__u8 state = sk->__sk_common.skc_state;
	__u64 born_ns = tracked->born_ns;
	struct tcptop_event *event;
	__u32 progress, first_seq = 0;
	__u16 version;

	if (state == TCP_CLOSE || state == TCP_LISTEN)
		return;
	/* skc_num, since it shares the cache line of skc_state; inet_sport does not. */
	if (!tcp_shown(sk, bpf_htons(sk->__sk_common.skc_num))) {
		/* It stays unwanted until it connects again. Later passes do not visit it. */
		if (place)
			pool_take_away(place, sk);
		else
			bpf_sk_storage_delete(&sockets, sk);
		return;
	}
	if (tracked->owner.evidence < EVIDENCE_HOLDS && state != TCP_SYN_SENT &&
	    bpf_ktime_get_ns() - tracked->born_ns > OWNERLESS_FOR_NS)
		socket_pass.ownerless++;
	progress = tcp_progress(tp, longer);
	version = tracked->owner.version;
	if (tracked->sampled_epoch == socket_epoch)
		return;
	if (progress == tracked->sampled_progress && state == tracked->sampled_state &&
	    version == tracked->owner.sampled_version &&
	    !in_slices(tracked, control.sample_slices) && !tcp_is_timed(tp, longer)) {
		mark_idle(tracked);
		return;
	}
	mark_active(tracked);
	/* connect() sets the state before it chooses a port and a sequence number. */
	if (!tcp_local_port(tp))
		return;
	if (longer) {
		first_seq = tcp_first_seq(tp, state);
		if (!first_seq && state == TCP_SYN_SENT)
			return;
	}
	if (ring_half_full()) {
		socket_pass.deferred++;
		return;
	}
	event = record_reserve(longer, true);
	if (!event) {
		socket_pass.deferred++;
		return;
	}
	event->kind = TCPTOP_SAMPLE;
	event->state = state;
	event->time_ns = 0;
	fill_tcp(event, sk, tp, tracked);
	if (longer) {
		fill_tcp_rest(event, sk, tp, tracked, place, first_seq, false);
		/* An ACK came in between the two counters. It takes hundreds of instructions to
		 * get here, so this shows all but the longest of such moments. */
		if (tcp_first_seq(tp, state) != first_seq) {
			bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
			socket_pass.deferred++;
			return;
		}
	}
	/* The connection has ended meanwhile: its end has been told of. */
	if (place && !pool_still_has(place, sk, tracked, born_ns)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return;
	}
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	tracked->sampled_progress = progress;
	tracked->sampled_state = state;
	tracked->owner.sampled_version = version;
	tracked->sampled_epoch = socket_epoch;
}

static __always_inline void sample_place(__u32 index, bool longer)
{
	struct tracked *tracked;
	struct tcp_sock *tp;
	struct sock *sk;
	void *address;

	if (index >= POOL_SIZE)
		return;
	address = (void *)pool_sockets[index];
	tracked = &pool[index].tracked;
	if ((__u64)address <= PLACE_BEING_FILLED)
		return;
	sk = bpf_rdonly_cast(address, bpf_core_type_id_kernel(struct sock));
	if (sk->sk_prot_creator != pool[index].creator)
		return;
	socket_pass.visited++;
	if (control.marked_only && !tracked->active)
		return;
	if (tcp_is_idle(sk, tracked, longer)) {
		mark_idle(tracked);
		return;
	}
	tp = bpf_rdonly_cast(address, bpf_core_type_id_kernel(struct tcp_sock));
	tcp_sample(sk, tp, tracked, &pool_sockets[index], longer);
}

/* Global functions, which the verifier checks once and not in each turn of the loop. */
__noinline int pool_sample(__u32 index)
{
	if (pool_usable())
		sample_place(index, false);
	return 0;
}

__noinline int pool_sample_longer(__u32 index)
{
	if (pool_usable())
		sample_place(index, true);
	return 0;
}

/* Samples the sockets that have a place in the pool: a pass's last part. */
static __always_inline void sample_pool(bool longer)
{
	int index;

	if (!pool_usable())
		return;
	bpf_for(index, 0, POOL_SIZE)
	{
		if (pool_sockets[index] == PLACE_FREE)
			continue;
		if (longer)
			pool_sample_longer(index);
		else
			pool_sample(index);
	}
}

/*
 * A socket that the seed found. The hooks are attached already: if the socket has
 * storage, a hook has made it, and only the owner can still be improved. A process that
 * holds the socket is a better owner than none or the listener's. If several processes
 * hold it, the last one found becomes the owner: it is the youngest, the worker that a
 * server has forked.
 */
static __always_inline void tcp_seed(struct sock *sk, struct task_struct *holder)
{
	struct tracked fresh = { .flags = TCPTOP_PARTIAL };
	__u8 state = sk->__sk_common.skc_state;
	struct tracked *tracked;
	struct tcp_sock *tp;

	if (state == TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	/* A listener is always kept: the peers that it will accept are not known yet. */
	if (state != TCP_LISTEN && !tcp_shown(sk, tcp_local_port(tp)))
		return;
	tracked = tracked_of(sk);
	if (tracked) {
		if (holder && tracked->owner.evidence < EVIDENCE_USES)
			owner_set(&tracked->owner, holder, EVIDENCE_HOLDS);
		return;
	}
	fresh.born_ns = bpf_ktime_get_ns();
	if (!settings.lifetime)
		tcp_set_base(&fresh, sk, tp, state);
	if (holder)
		owner_set(&fresh.owner, holder, EVIDENCE_HOLDS);
	/* Each process that holds the socket leads here, and each look-up. */
	if (!tcp_track(sk, NULL, &fresh, state == TCP_LISTEN) && state != TCP_LISTEN)
		tcp_untracked(sk, state, true);
}

#endif
