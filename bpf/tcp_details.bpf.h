/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * TCP: what only the longer records have. Who a connection is for every tcptop, how its
 * handshake went, and what the kernel knows about its speed.
 */
#ifndef TCPTOP_TCP_DETAILS_BPF_H
#define TCPTOP_TCP_DETAILS_BPF_H

#include "control.bpf.h"
#include "kernel.bpf.h"
#include "sock.bpf.h"
#include "pool.bpf.h"

/* include/net/tcp.h, enum tcp_chrono: what the kernel counts the time of at the moment. */
#define TCP_CHRONO_UNSPEC 0
#define TCP_CHRONO_BUSY 1

/* A bitfield before Linux 7.0 or so, a byte since. */
static __always_inline __u32 tcp_chrono(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, chrono_type);
}

/*
 * The first sequence number that this end sent, the SYN's; for an accepted connection
 * the one after it. The difference of these two counters is the same as long as the
 * connection lasts: tcp_snd_una_update() adds to both, connect() and accept set snd_una,
 * and only tcp_disconnect() clears bytes_acked.
 *
 * In SYN_SENT, snd_una is old until tcp_connect() prepares the SYN, which then stays in
 * packets_out until it is acknowledged. Until then write_seq is the number: connect()
 * chooses one for a new socket, and for a used one tcp_disconnect() adds at least 2 to
 * the last one. Between storing write_seq and packets_out the difference is 1.
 *
 * 0 if connect() has not chosen it yet.
 */
static __always_inline __u32 tcp_first_seq(struct tcp_sock *tp, __u8 state)
{
	__u32 acked, unacked, next;

	barrier(); /* called twice to compare: read anew */
	acked = tp->bytes_acked;
	unacked = tp->snd_una;
	next = tp->write_seq;
	if (state == TCP_SYN_SENT && !acked && !tp->packets_out && next - unacked > 1)
		return next;
	return unacked - acked;
}

/* The port makes it most unlikely that a socket which connects again and again finds the
 * same number after four billion bytes. */
static __always_inline __u64 tcp_connection_part(__u16 local_port, __u32 first_seq)
{
	return (__u64)local_port << 32 | first_seq;
}

/*
 * When connect() sent the first SYN. Without a repetition, the kernel still has the time
 * of the last packet that it sent: that one. Else when connect() began; a SYN that waits
 * for data (TCP_FASTOPEN_CONNECT) goes out later.
 */
static __always_inline __u64 tcp_syn_ns(struct tcp_sock *tp, const struct tracked *tracked)
{
	__u64 sent = tp->tcp_wstamp_ns;

	return tp->total_retrans == tracked->base_retrans && sent > tracked->born_ns ?
		       sent :
		       tracked->born_ns;
}

static __always_inline __u32 tcp_connect_us(struct tcp_sock *tp, const struct tracked *tracked)
{
	__u64 now = bpf_ktime_get_ns(), sent = tcp_syn_ns(tp, tracked);
	__u64 us = now > sent ? (now - sent) / 1000 : 0;

	return us < TCPTOP_UNKNOWN ? us + !us : TCPTOP_UNKNOWN;
}

/*
 * How long an accepted connection waited for the ACK of its SYN-ACK. The kernel has
 * measured this just now, as the first RTT (tcp_synack_rtt_meas()). Not if it has sent
 * the SYN-ACK again: then a kernel from 6.7 on knows the time in milliseconds. Of a
 * connection that was made from a SYN cookie, it knows only what a timestamp says.
 */
static __always_inline __u32 tcp_accept_us(struct tcp_sock *tp)
{
	if (!tp->total_retrans)
		return tp->srtt_us >> 3;
	if (bpf_core_field_exists(tp->total_rto_time))
		return tp->total_rto_time * 1000;
	return 0;
}

/* The handshake is over. Runs before any other segment changes the counters. */
static __always_inline void tcp_connected(struct sock *sk)
{
	struct tracked *tracked = tracked_of(sk);
	struct tcp_sock *tp;

	if (!tracked || tracked->connected || tracked->flags & TCPTOP_PARTIAL)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	tracked->syn_retrans = tp->total_retrans - tracked->base_retrans;
	tracked->connect_us =
		tracked->state == TCP_SYN_RECV ? tcp_accept_us(tp) : tcp_connect_us(tp, tracked);
	tracked->connected = true;
}

/* `failed`: connect() ends without a connection. */
static __always_inline void fill_handshake(struct tcptop_details *details, struct tcp_sock *tp,
					   const struct tracked *tracked, bool failed)
{
	details->connect_us = 0;
	details->syn_retrans = TCPTOP_UNKNOWN;
	if (tracked->flags & TCPTOP_PARTIAL)
		return;
	if (tracked->connected) {
		details->connect_us = tracked->connect_us;
		details->syn_retrans = tracked->syn_retrans;
		return;
	}
	details->syn_retrans = tp->total_retrans - tracked->base_retrans;
	if (failed && tp->segs_out != tracked->base_segs_out)
		details->connect_us = tcp_connect_us(tp, tracked);
}

/* How long the kernel has counted its chronograph `type` (tcp_get_info_chrono_stats()). */
static __always_inline __u64 tcp_chrono_us(struct tcp_sock *tp, __u32 type, __u32 running,
					   __u32 now)
{
	__u64 jiffies = tp->chrono_stat[type - TCP_CHRONO_BUSY];

	if (running == type)
		jiffies += now - tp->chrono_start;
	return jiffies * settings.jiffy_us;
}

/* Segments that the network delivered over the time that this took, as bytes
 * (tcp_compute_delivery_rate()). */
static __always_inline __u64 tcp_delivery_rate(struct tcp_sock *tp)
{
	__u64 rate = (__u64)tp->rate_delivered * tp->mss_cache * 1000000;
	__u32 us = tp->rate_interval_us;

	return us ? rate / us : 0;
}

/* The values of tcp_get_info() and tcp_diag_get_info(), which call each other so in every
 * kernel from 5.10 to 7.3. */
static __always_inline void fill_details(struct tcptop_details *details, struct sock *sk,
					 struct tcp_sock *tp)
{
	__u32 running = tcp_chrono(tp), now = bpf_jiffies64();
	__u32 write_seq = tp->write_seq;
	__s32 notsent = write_seq - tp->snd_nxt, unread = tp->rcv_nxt - tp->copied_seq;
	__u64 *name;

	details->busy_us = tcp_chrono_us(tp, TCP_CHRONO_BUSY, running, now);
	details->rwnd_limited_us = tcp_chrono_us(tp, TCP_CHRONO_BUSY + 1, running, now);
	details->sndbuf_limited_us = tcp_chrono_us(tp, TCP_CHRONO_BUSY + 2, running, now);
	details->busy_us += details->rwnd_limited_us + details->sndbuf_limited_us;
	details->pacing_rate = sk->sk_pacing_rate;
	details->delivery_rate = tcp_delivery_rate(tp);
	details->bytes_retrans = tp->bytes_retrans;
	details->cwnd = tp->snd_cwnd;
	details->ssthresh = tp->snd_ssthresh;
	details->mss = tp->mss_cache;
	details->rttvar_us = tp->mdev_us >> 2;
	details->rcv_rtt_us = tp->rcv_rtt_est.rtt_us >> 3;
	details->unacked = tp->packets_out;
	details->lost = tp->lost_out;
	details->reordering = tp->reordering;
	details->dsack_dups = tp->dsack_dups;
	details->rcv_ooo = tp->rcv_ooopack;
	details->notsent = notsent > 0 ? notsent : 0;
	details->send_queue = write_seq - tp->snd_una;
	details->recv_queue = unread > 0 ? unread : 0;
	details->pad = 0;
	name = (__u64 *)untrusted(struct tcp_congestion_ops, tp->inet_conn.icsk_ca_ops)->name;
	__builtin_memcpy(details->congestion, name, sizeof(details->congestion));
}

#endif
