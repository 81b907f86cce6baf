// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The kernel side: all hooks, and why each is there.
 *
 *   inet_sock_set_state      a TCP connection begins or ends      lifecycle
 *   tcp_sendmsg_locked, ...  a process sends or receives          owner
 *   task_rename              a process has a new name             owner
 *   bpf_sk_storage_map       every tick, each tracked socket      samples
 *   task_file, tcp           once at start, each existing socket  seed
 *   ip_send_skb, ...         a UDP datagram is sent or received   UDP
 *   cgroup_skb               the same, if trampolines are refused UDP
 *   taken_slots              every tick, each UDP flow            UDP samples
 *   cgroup_mkdir             a cgroup is made                     names
 *
 * No program runs per TCP byte or segment: the kernel counts them in every tcp_sock,
 * and the programs only read its counters.
 *
 * The "?" in SEC("?...") keeps libbpf from loading a program by default: user space
 * chooses which ones to load.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "cgroup.bpf.h"
#include "control.bpf.h"
#include "event.h"
#include "pass.bpf.h"
#include "pool.bpf.h"
#include "sock.bpf.h"
#include "tcp.bpf.h"
#include "tcp_use.bpf.h"
#include "tracked.bpf.h"
#include "udp_cgroup.bpf.h"
#include "udp_entry.bpf.h"
#include "udp_owner.bpf.h"
#include "udp_sample.bpf.h"

/*
 * Never used at run time. Rust takes types from this object's BTF, and the compiler puts
 * a type there only if some variable or function has it. For these types that is `wire`.
 */
struct tcptop_wire {
	struct tcptop_event event;
	struct tcptop_identified identified;
	struct tcptop_detailed detailed;
	struct tcptop_cgroup cgroup;
	enum tcptop_flags flags;
	enum tcptop_loss loss;
	enum tcptop_flow_table flow_table;
};
struct tcptop_wire *wire;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/*
 * Lifecycle. The hook inet_sock_set_state sees every state change of every TCP socket in
 * every network namespace, before the new state is stored. It often runs in softirq; only
 * connect() and listen() always run in the process that called them. It misses request
 * and TIME_WAIT sockets (they are not a struct sock), and also fires for other protocols.
 */
static __always_inline bool is_beginning(int old_state, int new_state)
{
	return new_state == TCP_SYN_SENT || new_state == TCP_LISTEN ||
	       (new_state == TCP_SYN_RECV && old_state == TCP_LISTEN);
}

static __always_inline int tcp_changes(struct sock *sk, int old_state, int new_state, bool longer,
				       bool again)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (new_state == TCP_CLOSE) {
		tcp_ends(sk, old_state, longer);
		forget(sk);
	} else if (!is_beginning(old_state, new_state)) {
		tcp_moves_on(sk, new_state, longer);
	} else if (new_state == TCP_SYN_RECV) {
		tcp_child_begins(sk, new_state, longer, again);
	} else {
		tcp_begins(sk, new_state, longer, again);
	}
	return 0;
}

/* Handles a beginning or an end that the program before this one has missed: then the
 * socket's storage does not have the new state. */
static __always_inline int tcp_catch_missed(struct sock *sk, int old_state, int new_state,
					    bool longer)
{
	struct tracked *tracked;

	if (new_state != TCP_CLOSE && !is_beginning(old_state, new_state) &&
	    !(longer && settings.detail && new_state == TCP_ESTABLISHED))
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tracked = tracked_of(sk);
	/* A socket in CLOSE that is not tracked has been forgotten, or was never tracked. */
	if (tracked ? tracked->state == new_state : new_state == TCP_CLOSE)
		return 0;
	return tcp_changes(sk, old_state, new_state, longer, true);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int old_state, int new_state)
{
	return tcp_changes(sk, old_state, new_state, false, false);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_longer, struct sock *sk, int old_state, int new_state)
{
	return tcp_changes(sk, old_state, new_state, true, false);
}

/*
 * The same hook, for state changes that tcp_state missed. The kernel does not start a
 * program on a processor where the same program already runs. If tcp_state runs in a
 * process that connects or closes, and a packet's softirq interrupts it there, tcp_state
 * misses the state change of that packet. Since Linux 7.0 the kernel can also preempt a
 * program: then it misses, for milliseconds, the state changes of other processes.
 * tcp_state_third is there for these.
 */
SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_second, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch_missed(sk, old_state, new_state, false);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_second_longer, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch_missed(sk, old_state, new_state, true);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_third, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch_missed(sk, old_state, new_state, false);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_third_longer, struct sock *sk, int old_state, int new_state)
{
	return tcp_catch_missed(sk, old_state, new_state, true);
}

/*
 * The kernel destroys a TCP socket: it is in CLOSE, and no process holds it any more. If all
 * programs have missed CLOSE, the socket is still tracked, and must not be when the kernel
 * frees it (storage_forget()). Loaded only where that matters. It misses sockets whose
 * making has failed half-way: they were never tracked.
 */
SEC("?tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroyed, struct sock *sk)
{
	forget(sk);
	return 0;
}

/*
 * Owner, best provider: two tracepoints, for sending and for receiving.
 *
 * tcp_sendmsg_locked (Linux 6.16) fires only for TCP, so other protocols' sends cost
 * nothing. It sees every call that sends, under the socket's lock, about once per 32 KiB
 * copied; it also sees a call that then finds no room in the send buffer.
 */
SEC("?tp_btf/tcp_sendmsg_locked")
int BPF_PROG(tcp_sending, struct sock *sk)
{
	tcp_use_seen(sk, true);
	return 0;
}

/*
 * sock_recv_length (Linux 6.3) fires after each receiving call of every address family,
 * in the process, with the call's result. It misses splice() from a socket.
 */
SEC("?tp_btf/sock_recv_length")
int BPF_PROG(sock_received, struct sock *sk, int result, int flags)
{
	if (result < 0)
		return 0;
	if (settings.count_tcp && sk->sk_protocol == IPPROTO_TCP)
		tcp_use_seen(sk, false);
	else if (settings.track_receivers && is_udp(sk))
		udp_receive_seen(sk);
	return 0;
}

/* Owner, if the kernel has no tcp_sendmsg_locked tracepoint: sock_send_length (Linux 6.3)
 * fires after each sending call, with its result. A failed call makes no owner. */
SEC("?tp_btf/sock_send_length")
int BPF_PROG(sock_sent, struct sock *sk, int result, int flags)
{
	if (result >= 0 && sk->sk_protocol == IPPROTO_TCP)
		tcp_use_seen(sk, false);
	return 0;
}

/* The hook sees a thread just before its name changes. Only the name of the thread-group
 * leader counts: it is the name of the process. */
SEC("?tp_btf/task_rename")
int BPF_PROG(renames, struct task_struct *task)
{
	if (task->pid == task->tgid)
		count_name_change();
	return 0;
}

/*
 * Owner, if the kernel has none of these tracepoints: the entry of TCP's send and receive
 * functions. Their first argument is the socket on every kernel. The call's result is
 * not known yet, so a call that fails makes an owner too.
 */
SEC("?fentry/tcp_sendmsg")
int BPF_PROG(tcp_sends, struct sock *sk)
{
	tcp_use_seen(sk, false);
	return 0;
}

SEC("?fentry/tcp_recvmsg")
int BPF_PROG(tcp_receives, struct sock *sk)
{
	tcp_use_seen(sk, false);
	return 0;
}

/*
 * Samples. Visits every socket that has storage, in all network namespaces, and puts a
 * sample of each one that changed into the ring. The last call has no storage; it visits
 * the pool, and writes the totals of the pass, which are all that a reader of the
 * descriptor gets. It misses sockets without storage and place. It does not lock a socket,
 * so it may read a total while the kernel is updating it; the next sample is right again.
 */
static __always_inline int sample_socket(struct bpf_iter__bpf_sk_storage_map *ctx, bool longer)
{
	struct sock *sk = ctx->sk;
	struct tracked *tracked = ctx->value;
	struct tcp_sock *tp;

	if (!tracked) {
		sample_pool(longer);
		return end_pass(ctx->meta->seq, &socket_pass, &socket_epoch);
	}
	/*
	 * The kernel is freeing this socket: it has removed the owner from the storage, and
	 * not yet the storage from the map (bpf_selem_unlink_storage_nolock()).
	 */
	if (!sk)
		return 0;
	socket_pass.visited++;
	if (control.marked_only && !tracked->active)
		return 0;
	if (tcp_is_idle(sk, tracked, longer)) {
		mark_idle(tracked);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		tcp_sample(sk, tp, tracked, NULL, longer);
	return 0;
}

SEC("?iter/bpf_sk_storage_map")
int sample(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return sample_socket(ctx, false);
}

SEC("?iter/bpf_sk_storage_map")
int sample_longer(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return sample_socket(ctx, true);
}

/*
 * Seed. Visits every socket that a process holds, in all network namespaces. The process
 * that holds a socket counts as its owner until one does I/O on it. Misses sockets
 * without a descriptor: those not yet accepted, and those that their process has closed
 * but that still send.
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

/* Seed: the TCP sockets that seed_held misses, as far as they are in the network
 * namespace of the process that opened the iterator. */
SEC("?iter/tcp")
int seed_unheld(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	if (!common)
		return 0;
	/* NULL for request and TIME_WAIT sockets. */
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		tcp_seed((struct sock *)tp, NULL);
	return 0;
}

/*
 * UDP, best provider: BPF trampolines on functions whose signature is the same on every
 * kernel. Both directions miss in-kernel users that bypass a socket's send and receive
 * functions (tunnels).
 *
 * Sending: ip_send_skb and ip6_send_skb see the complete IP packet in the sender's
 * context, before netfilter. A corked send is one datagram; a UDP_SEGMENT batch is one
 * packet that says how many datagrams it holds.
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

/*
 * Receiving: skb_consume_udp sees a process take the datagram from its socket, in the
 * context of that process. Datagrams that overflowed the receive buffer or failed their
 * checksum never come here and are not counted.
 */
SEC("?fentry/skb_consume_udp")
int BPF_PROG(udp_receives, struct sock *sk, struct sk_buff *skb, int len)
{
	if (!udp_peeked(skb, len))
		udp_consumed(sk, skb);
	return 0;
}

/*
 * UDP, if the kernel refuses trampolines: these hooks see every packet of every socket
 * of the host, TCP's too. They always let the packet through.
 *
 * The egress hook sees a packet in the sender's context, before fragmentation and
 * segmentation. It misses packets that IPsec has already wrapped. The ingress hook runs
 * in softirq, once for each socket that gets the datagram, before the kernel checks for
 * room in the receive buffer: a datagram that is dropped there is counted.
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

/* UDP samples: visits the elements of taken_slots, each of which stands for 64 slots of
 * the flow table. */
static __always_inline int sample_slots(struct bpf_iter__bpf_map_elem *ctx, bool longer)
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
	for (__u32 bit = 0; bit < SLOTS_PER_WORD; bit++) {
		__u32 slot = word * SLOTS_PER_WORD + bit;

		if (!(taken & (1ULL << bit)))
			continue;
		if (longer)
			flow_sample_longer(slot, now);
		else
			flow_sample(slot, now);
	}
	return 0;
}

SEC("?iter/bpf_map_elem")
int sample_flows(struct bpf_iter__bpf_map_elem *ctx)
{
	return sample_slots(ctx, false);
}

SEC("?iter/bpf_map_elem")
int sample_flows_longer(struct bpf_iter__bpf_map_elem *ctx)
{
	return sample_slots(ctx, true);
}

/*
 * Names. cgroup_mkdir fires in every hierarchy, before the directory can be seen: so
 * before a process, and its sockets, can be in it. The path is that from the root of the
 * hierarchy, whatever the cgroup namespace. Misses cgroups that are older than tcptop.
 */
SEC("?tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup, const char *path)
{
	cgroup_report(cgroup, path);
	return 0;
}
