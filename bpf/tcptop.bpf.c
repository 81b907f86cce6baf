// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The kernel side: which hooks there are, and why.
 *
 *   inet_sock_set_state      a TCP connection begins or ends      lifecycle
 *   tcp_sendmsg_locked, ...  a process sends or receives          owner
 *   task_rename              a process has a new name             owner
 *   bpf_sk_storage_map       every tick, each tracked socket      samples
 *   task_file, tcp           once at start, each existing socket  seed
 *   ip_send_skb, ...         a UDP datagram is sent or received   UDP
 *   cgroup_skb               the same, without BPF trampolines    UDP
 *   taken_slots              every tick, each UDP flow            UDP samples
 *
 * No program runs per byte or per segment: the kernel counts those in every
 * tcp_sock, and here they are only read.
 *
 * None is loaded by itself ("?"): user space chooses.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "control.bpf.h"
#include "event.h"
#include "pass.bpf.h"
#include "sock.bpf.h"
#include "tcp.bpf.h"
#include "tcp_use.bpf.h"
#include "tracked.bpf.h"
#include "udp_cgroup.bpf.h"
#include "udp_entry.bpf.h"
#include "udp_owner.bpf.h"
#include "udp_sample.bpf.h"

/*
 * Never set. A type gets into this object's BTF, from where Rust takes it, by being the
 * type of something: these are not, otherwise.
 */
struct tcptop_wire {
	struct tcptop_event event;
	enum tcptop_flags flags;
	enum tcptop_loss loss;
	enum tcptop_flow_table flow_table;
};
struct tcptop_wire *wire;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/*
 * Lifecycle. Sees every transition of every TCP socket in every network
 * namespace, before the new state is stored, often in softirq: only connect()
 * and listen() are sure to run in the process that asked for them. Does not see
 * request and TIME_WAIT sockets (they are no struct sock), and fires for other
 * protocols too.
 */
static __always_inline bool is_beginning(int old_state, int new_state)
{
	return new_state == TCP_SYN_SENT || new_state == TCP_LISTEN ||
	       (new_state == TCP_SYN_RECV && old_state == TCP_LISTEN);
}

static __always_inline int tcp_changes(struct sock *sk, int old_state, int new_state)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (new_state == TCP_CLOSE)
		tcp_ends(sk, old_state);
	else if (!is_beginning(old_state, new_state))
		tcp_moves_on(sk);
	else if (new_state == TCP_SYN_RECV)
		tcp_child_begins(sk, new_state);
	else
		tcp_begins(sk, new_state);
	return 0;
}

/* A beginning or an end for which no program has run. */
static __always_inline int tcp_catch(struct sock *sk, int old_state, int new_state)
{
	struct tracked *tracked;

	if (new_state != TCP_CLOSE && !is_beginning(old_state, new_state))
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tracked = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (tracked && tracked->state == new_state)
		return 0;
	return tcp_changes(sk, old_state, new_state);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int old_state, int new_state)
{
	return tcp_changes(sk, old_state, new_state);
}

/*
 * The same for what the one before has missed. The kernel does not start a program on
 * a processor where it runs already: not for the packet whose softirq interrupts a
 * process that just connects or closes, and since Linux 7.0, which can preempt a
 * program, not for other processes, for milliseconds. The third is for those.
 */
SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_second, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch(sk, old_state, new_state);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_third, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch(sk, old_state, new_state);
}

/*
 * Owner, best provider: sending as TCP alone sees it (Linux 6.16), so that other
 * protocols' calls cost nothing, and receiving. The first fires under the
 * socket's lock for every 32 KiB or so that a call copies, whatever call it was,
 * and for one that then finds no room. The second fires in process context with
 * the result of the call, for every family; splice() from a socket is missed.
 */
SEC("?tp_btf/tcp_sendmsg_locked")
int BPF_PROG(tcp_sending, struct sock *sk)
{
	tcp_used(sk, true);
	return 0;
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(sock_received, struct sock *sk, int result, int flags)
{
	if (result < 0)
		return 0;
	if (settings.count_tcp && sk->sk_protocol == IPPROTO_TCP)
		tcp_used(sk, false);
	else if (settings.track_receivers && is_udp(sk))
		udp_received_by(sk);
	return 0;
}

/* Owner, where that one is missing: sending as sock_received sees receiving
 * (Linux 6.3). A call that failed makes no owner. */
SEC("?tp_btf/sock_send_length")
int BPF_PROG(sock_sent, struct sock *sk, int result, int flags)
{
	if (result >= 0 && sk->sk_protocol == IPPROTO_TCP)
		tcp_used(sk, false);
	return 0;
}

/* A process changes its name, or a thread does, which is not told. */
SEC("?tp_btf/task_rename")
int BPF_PROG(renames, struct task_struct *task)
{
	if (task->pid == task->tgid)
		count_name_change();
	return 0;
}

/*
 * Owner, where those tracepoints are missing: the entry of the protocol's send
 * and receive functions. Their first argument is the socket on every kernel.
 * The result is not known yet, so a call that will fail makes an owner too.
 */
SEC("?fentry/tcp_sendmsg")
int BPF_PROG(tcp_sends, struct sock *sk)
{
	tcp_used(sk, false);
	return 0;
}

SEC("?fentry/tcp_recvmsg")
int BPF_PROG(tcp_receives, struct sock *sk)
{
	tcp_used(sk, false);
	return 0;
}

/*
 * Samples. Visits every socket that has storage, in all network namespaces, and
 * puts those that changed since the last visit into the ring. The last call has
 * no socket and writes the totals of the pass, the only thing that a reader of
 * the descriptor gets. Does not lock the socket: a total can be caught between
 * two steps of the kernel's and is right in the next sample.
 */
SEC("?iter/bpf_sk_storage_map")
int sample(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct tracked *tracked = ctx->value;

	if (!sk || !tracked)
		return end_pass(ctx->meta->seq, &pass, &epoch);
	pass.visited++;
	if (control.marked_only && !tracked->active)
		return 0;
	if (tcp_is_idle(sk, tracked))
		mark_idle(tracked);
	else if (sk->sk_protocol == IPPROTO_TCP)
		tcp_sample(sk, tracked);
	return 0;
}

/*
 * Seed: every socket that some process holds, in all network namespaces. A
 * process found to hold it is taken for its owner until one does I/O. Misses
 * sockets without a descriptor: not yet accepted, or closed by their process and
 * still sending.
 */
SEC("?iter/task_file")
int seed_held(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (settings.count_tcp && sk->sk_protocol == IPPROTO_TCP)
		tcp_seed(sk, task);
	else if (settings.count_udp && is_udp(sk))
		udp_seed(sk, task);
	return 0;
}

/* Seed: what seed_held misses, in the network namespace of the reader. */
SEC("?iter/tcp")
int seed_unheld(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	if (!common)
		return 0;
	/* Request and TIME_WAIT sockets are no tcp_sock. */
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		tcp_seed((struct sock *)tp, NULL);
	return 0;
}

/*
 * UDP, best provider: BPF trampolines on functions with one signature on every
 * kernel. Sending is seen where the IP packet is complete and not yet routed
 * through netfilter: corked sends as one datagram, a UDP_SEGMENT batch as one
 * packet with the number of its segments. Receiving is seen where a process
 * takes the datagram from the socket, in its context: what overflowed the
 * receive buffer, or failed its checksum, is not counted. Both miss in-kernel
 * users that do not go through a socket's send and receive functions (tunnels).
 */
SEC("?fentry/ip_send_skb")
int BPF_PROG(udp_sends_ipv4, struct net *net, struct sk_buff *skb)
{
	udp_sends(skb, AF_INET);
	return 0;
}

SEC("?fentry/ip6_send_skb")
int BPF_PROG(udp_sends_ipv6, struct sk_buff *skb)
{
	udp_sends(skb, AF_INET6);
	return 0;
}

SEC("?fentry/skb_consume_udp")
int BPF_PROG(udp_receives, struct sock *sk, struct sk_buff *skb, int len)
{
	if (!udp_peeked(skb, len))
		udp_consumed(sk, skb);
	return 0;
}

/*
 * UDP, where trampolines are refused: every packet of every socket of the host
 * passes here, TCP's too. Sending is seen before fragmentation and segmentation,
 * in the sender's context; receiving in softirq, for each socket that gets the
 * datagram, before the room in its receive buffer is checked: a datagram that is
 * dropped there is counted. Always lets the packet pass. Misses sockets whose
 * packets IPsec has wrapped by then.
 */
SEC("?cgroup_skb/egress")
int udp_egress(struct __sk_buff *skb)
{
	udp_packet(skb, true);
	return 1;
}

SEC("?cgroup_skb/ingress")
int udp_ingress(struct __sk_buff *skb)
{
	udp_packet(skb, false);
	return 1;
}

/* UDP samples: each element stands for 64 slots of the flow table. */
SEC("?iter/bpf_map_elem")
int sample_flows(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;
	__u64 taken, now;
	__u32 word;

	if (!key || !value)
		return end_pass(ctx->meta->seq, &flow_pass, &flow_epoch);
	taken = *value;
	word = *key;
	if (!taken)
		return 0;
	now = bpf_ktime_get_ns();
	for (__u32 bit = 0; bit < SLOTS_PER_WORD; bit++)
		if (taken & (1ULL << bit))
			flow_sample(word * SLOTS_PER_WORD + bit, now);
	return 0;
}
