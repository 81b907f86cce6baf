/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* UDP: samples flows, and removes those that were silent for the timeout. */
#ifndef TCPTOP_UDP_SAMPLE_BPF_H
#define TCPTOP_UDP_SAMPLE_BPF_H

#include "pass.bpf.h"
#include "ring.bpf.h"
#include "udp_count.bpf.h"
#include "udp_owner.bpf.h"

/*
 * Reads what the flow's socket has dropped. The address may be out of date. The memory
 * of a socket that is closed, or of anything that came after it, has another cookie: then
 * what was read last stays.
 */
static __always_inline struct flow_socket *flow_read_drops(struct flow *flow, __u32 slot)
{
	struct flow_socket *socket = bpf_map_lookup_elem(&flow_sockets, &slot);
	struct sock *sk;
	__u32 drops;

	if (!socket)
		return NULL;
	sk = (struct sock *)socket->address;
	drops = 1 + sock_drops(sk);
	if (BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == flow->cookie)
		socket->drops = drops;
	return socket;
}

static __always_inline bool flow_emit(struct flow *flow, __u32 slot, enum tcptop_kind kind,
				      bool longer, struct flow_socket *socket)
{
	struct tcptop_event *event;

	if (ring_half_full())
		return false;
	event = record_reserve(longer, false);
	if (!event)
		return false;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->family = AF_INET6;
	event->protocol = TCPTOP_UDP;
	event->flags = flow->flags;
	/* Never equal to a TCP socket's address: that is never so small. */
	event->object = slot + 1;
	event->born_ns = flow->born_ns;
	if (kind == TCPTOP_EXPIRED)
		event->time_ns = bpf_ktime_get_ns();
	event->packets_in = flow->in.datagrams;
	event->packets_out = flow->out.datagrams;
	flow->sampled_datagrams_in = event->packets_in;
	flow->sampled_datagrams_out = event->packets_out;
	/* A datagram's bytes are added before the datagram is counted. The datagrams were
	 * read first, so their bytes are all in here. */
	event->bytes_in = flow->in.bytes;
	event->bytes_out = flow->out.bytes;
	event->cgroup = flow->cgroup;
	__builtin_memcpy(event->local_addr, flow->local, sizeof(event->local_addr));
	__builtin_memcpy(event->remote_addr, flow->remote, sizeof(event->remote_addr));
	event->local_port = bpf_ntohs(flow->local_port);
	event->remote_port = bpf_ntohs(flow->remote_port);
	event->netns = flow->netns;
	event->uid = flow->uid;
	event->ifindex = flow->ifindex;
	event->scope = flow->ifindex;
	event->tgid = flow->owner.tgid;
	__builtin_memcpy(event->comm, flow->owner.comm, sizeof(event->comm));
	if (longer) {
		struct tcptop_identified *identified = (struct tcptop_identified *)event;

		if (socket) {
			event->drops = socket->drops;
			socket->sampled_drops = socket->drops;
		}
		identified->identity.cookie = flow->cookie;
		identified->identity.part = flow->born_ns / settings.flow_timeout_ns;
	}
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return true;
}

/* Subtracts the sampled amount from one counter of a total. The rest arrived after the
 * sample: it stays and goes to the next flow in this slot, so it is counted, though for
 * the wrong flow. */
static __always_inline void total_clear(__u64 *half, __u64 sampled)
{
	__u64 late = __sync_lock_test_and_set(half, 0) - sampled;

	if (late)
		__sync_fetch_and_add(half, late);
}

/* If lookups find this flow in another slot: 1 + the number of that slot; else 0. */
static __always_inline __u32 flow_find_twin(struct flow *flow, __u32 slot)
{
	struct flow_key key = {
		.local = { flow->local[0], flow->local[1] },
		.remote = { flow->remote[0], flow->remote[1] },
		.cookie = flow->cookie,
		.local_port = flow->local_port,
		.remote_port = flow->remote_port,
	};
	__u32 first;

	key_hash(&key);
	first = flow_find(&key);
	return first == NO_SLOT || first == slot ? 0 : first + 1;
}

/* True if there were datagrams to move. */
static __always_inline bool total_move(struct total *from, struct total *to)
{
	__u64 bytes = __sync_lock_test_and_set(&from->bytes, 0);
	__u64 datagrams = __sync_lock_test_and_set(&from->datagrams, 0);

	if (bytes)
		__sync_fetch_and_add(&to->bytes, bytes);
	if (datagrams)
		__sync_fetch_and_add(&to->datagrams, datagrams);
	return datagrams;
}

/* Moves the totals into the twin and removes this flow, in the same steps as a silent
 * flow, but without a record to user space. */
static __always_inline void flow_fold(struct flow *flow, __u32 slot, __u64 *taken, __u32 tag)
{
	__u32 to = flow->twin - 1;
	struct flow *into = bpf_map_lookup_elem(&flows, &to);
	bool moved = false;

	if (into) {
		moved |= total_move(&flow->in, &into->in);
		moved |= total_move(&flow->out, &into->out);
	}
	if (tag != FLOW_DYING)
		__sync_val_compare_and_swap(&flow->tag, tag, FLOW_DYING);
	else if (!moved)
		flow_free(flow, slot, taken);
}

/*
 * A flow that was silent for the timeout is removed in steps, a tick apart. First it
 * becomes DYING: lookups no longer find it, and a new datagram makes a new flow. A
 * program that found the flow just before adds its datagram before the next tick. A tick
 * that finds nothing new frees the slot.
 */
static __always_inline int flow_visit(__u32 slot, __u64 now, bool longer)
{
	__u32 word = slot / SLOTS_PER_WORD;
	__u64 *taken = bpf_map_lookup_elem(&taken_slots, &word);
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);
	struct flow_socket *socket = NULL;
	bool received, sent;
	__u16 version;
	__u32 tag;

	if (!flow || !taken)
		return 0;
	tag = flow->tag;
	if (tag == FLOW_FREE || tag == FLOW_BUSY || flow->sampled_epoch == flow_epoch)
		return 0;
	flow_pass.visited++;
	flow_add_pending(&flow->pending_in, &flow->in);
	flow_add_pending(&flow->pending_out, &flow->out);
	if (!flow->sampled && !flow->twin && tag != FLOW_DYING)
		flow->twin = flow_find_twin(flow, slot);
	if (flow->twin) {
		flow->sampled_epoch = flow_epoch;
		flow_fold(flow, slot, taken, tag);
		return 0;
	}
	received = flow->in.datagrams != flow->sampled_datagrams_in;
	sent = flow->out.datagrams != flow->sampled_datagrams_out;
	/* A process may receive a counted datagram later, so the receiver can still change. */
	if (flow->owner.evidence < EVIDENCE_USES || (received && !sent))
		flow_take_receiver(flow);
	if (!flow->owner.tgid && now - flow->born_ns > OWNERLESS_FOR_NS)
		flow_pass.ownerless++;
	version = flow->owner.version;
	if (longer && settings.drops)
		socket = flow_read_drops(flow, slot);
	if (received || sent || version != flow->owner.sampled_version ||
	    (socket && socket->drops != socket->sampled_drops)) {
		if (!flow_emit(flow, slot, TCPTOP_SAMPLE, longer, socket)) {
			flow_pass.deferred++;
			return 0;
		}
		flow->sampled = true;
		flow->owner.sampled_version = version;
		if (received || sent)
			flow->moved_ns = now;
	} else if (tag == FLOW_DYING) {
		__u64 bytes_in = flow->in.bytes, bytes_out = flow->out.bytes;
		__u64 in = flow->sampled_datagrams_in, out = flow->sampled_datagrams_out;

		if (!flow_emit(flow, slot, TCPTOP_EXPIRED, longer, socket)) {
			flow_pass.deferred++;
			return 0;
		}
		total_clear(&flow->in.bytes, bytes_in);
		total_clear(&flow->out.bytes, bytes_out);
		total_clear(&flow->in.datagrams, in);
		total_clear(&flow->out.datagrams, out);
		flow_free(flow, slot, taken);
		return 0;
	} else if (now - flow->moved_ns >= settings.flow_timeout_ns) {
		__sync_val_compare_and_swap(&flow->tag, tag, FLOW_DYING);
	}
	flow->sampled_epoch = flow_epoch;
	return 0;
}

__noinline int flow_sample(__u32 slot, __u64 now)
{
	return flow_visit(slot, now, false);
}

__noinline int flow_sample_longer(__u32 slot, __u64 now)
{
	return flow_visit(slot, now, true);
}

#endif
