/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * UDP: the table of flows. The kernel counts nothing per flow, so every datagram is
 * counted here.
 *
 * It is an array used as a hash table of our own: a lookup in an array is a few
 * instructions that the JIT writes in line, a datagram mostly finds its flow in the
 * first slot it looks at, and what it compares and adds to lies in one cache line, the
 * owner in the next. The kernel's hash map costs a function call, a hash over the whole
 * key and a walk along a list, and three times the throughput.
 *
 * A flow may lie in any slot of two groups of FLOW_WAYS; where all are taken the
 * datagram is counted as lost.
 */
#ifndef TCPTOP_UDP_TABLE_BPF_H
#define TCPTOP_UDP_TABLE_BPF_H

#include "filter.bpf.h"
#include "owner.bpf.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Values of flow.tag; every other one is a hash of the key, with FLOW_LIVE set. */
#define FLOW_FREE 0
#define FLOW_BUSY 1 /* being filled in */
#define FLOW_DYING 2 /* was silent for the timeout: finds nobody any more */
#define FLOW_LIVE 4

struct total {
	__u64 bytes;
	__u64 datagrams;
};

struct flow {
	/* What a datagram is compared with, and what it adds to. */
	__u32 tag;
	__u16 local_port; /* network order */
	__u16 remote_port;
	__u64 cookie; /* the socket's: its tuple can be another one's too */
	__u64 local[2]; /* IPv4 as IPv4-mapped IPv6 */
	__u64 remote[2];
	__u64 lately_in; /* both of a struct total in one word, see flow_add() */
	__u64 lately_out;
	struct owner owner;
	__u64 born_ns;
	__u64 moved_ns; /* when the sampler last found it changed */
	/* Totals but for what came lately. */
	struct total in;
	struct total out;
	/* The last sample. */
	__u64 sampled_datagrams_in;
	__u64 sampled_datagrams_out;
	__u64 cgroup;
	__u32 sampled_epoch;
	__u32 twin; /* 1 + the slot of the same flow, made at the same time; 0 none */
	__u32 netns;
	__u32 uid;
	__u32 ifindex;
	__u8 flags; /* enum tcptop_flags */
	bool sampled; /* user space was told of it */
	__u16 pad;
};
_Static_assert(__builtin_offsetof(struct flow, owner) == 64, "one cache line receives");
_Static_assert(__builtin_offsetof(struct flow, in) < 128, "a second one sends");
_Static_assert(sizeof(struct flow) == 192, "whole cache lines");

/* Mapped memory begins at a page, other arrays 8 bytes before a cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * FLOW_WAYS); /* user space sets the real size */
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

/* Which slots are taken, a bit each: the sampler visits no others. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} taken_slots SEC(".maps");

struct flow_key {
	__u64 local[2];
	__u64 remote[2];
	__u64 cookie;
	__u16 local_port; /* network order */
	__u16 remote_port;
	__u32 tag;
	/* Where to look first, in each of the two groups. */
	__u32 slots[2];
};

/* Written as it will be read: a load of two stores waits for both. */
static __always_inline void key_set_ipv4(__u64 *address, __u32 ipv4)
{
	address[0] = 0;
	address[1] = bpf_cpu_to_be64(0xffff00000000ULL | bpf_ntohl(ipv4));
}

/* Both IPv4 addresses fill half of their second word: one is turned round, so that
 * together they fill one. */
static __always_inline void key_hash(struct flow_key *key)
{
	__u64 hash = settings.flow_seed ^ key->cookie;

	hash = (hash ^ key->remote[0]) * 0x9e3779b97f4a7c15ULL;
	hash ^= hash >> 32 ^ key->remote[1] ^ (key->local[1] >> 32 | key->local[1] << 32);
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 29;
	hash = (hash ^ ((__u32)key->remote_port << 16 | key->local_port)) * 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 32;
	key->tag = (__u32)(hash >> 8) | FLOW_LIVE;
	key->slots[0] = (__u32)hash & settings.flow_mask;
	key->slots[1] = (__u32)(hash >> 32) & settings.flow_mask;
}

static __always_inline __u32 flow_slot(const struct flow_key *key, __u32 probe)
{
	__u32 first = key->slots[probe / FLOW_WAYS & 1];

	return (first & ~(FLOW_WAYS - 1)) | ((first + probe) & (FLOW_WAYS - 1));
}

/* One branch for the whole key: the verifier follows each of them. */
static __always_inline bool flow_is(const struct flow *flow, const struct flow_key *key)
{
	__u64 ports = (flow->local_port ^ key->local_port) | (flow->remote_port ^ key->remote_port);

	return flow->tag == key->tag &&
	       !((flow->cookie ^ key->cookie) | ports | (flow->remote[1] ^ key->remote[1]) |
		 (flow->remote[0] ^ key->remote[0]) | (flow->local[1] ^ key->local[1]) |
		 (flow->local[0] ^ key->local[0]));
}

static __always_inline bool udp_wanted(const struct flow_key *key)
{
	return (!settings.filter_family || address_wanted(key->remote)) &&
	       ports_wanted(key->local_port, key->remote_port);
}

#define NO_SLOT (~0U)

/*
 * The functions from here on are global, so that the verifier looks into each of them
 * once, not at every call: the loops would be most of its work.
 */
__noinline bool flow_lies_in(const struct flow_key *key, __u32 slot)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	return key && flow && flow_is(flow, key);
}

/* Where the flow lies, NO_SLOT where it is not in the table. */
__noinline __u32 flow_find(const struct flow_key *key)
{
	if (!key)
		return NO_SLOT;
	for (__u32 probe = 0; probe < 2 * FLOW_WAYS; probe++) {
		__u32 slot = flow_slot(key, probe);

		if (flow_lies_in(key, slot))
			return slot;
	}
	return NO_SLOT;
}

static __always_inline struct flow *flow_lookup(const struct flow_key *key)
{
	__u32 slot = flow_slot(key, 0);
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	if (flow && flow_is(flow, key))
		return flow;
	slot = flow_find(key);
	/* An array has no such element: the lookup fails. */
	return bpf_map_lookup_elem(&flows, &slot);
}

/* True where the slot was free. */
__noinline bool flow_slot_claim(__u32 slot)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	return flow && __sync_val_compare_and_swap(&flow->tag, FLOW_FREE, FLOW_BUSY) == FLOW_FREE;
}

/*
 * A slot of its own for a new flow, NO_SLOT where none is free. It is BUSY, and
 * becomes the flow's with flow_publish().
 */
__noinline __u32 flow_claim(const struct flow_key *key)
{
	if (!key)
		return NO_SLOT;
	for (__u32 probe = 0; probe < 2 * FLOW_WAYS; probe++) {
		__u32 slot = flow_slot(key, probe);

		if (flow_slot_claim(slot))
			return slot;
	}
	return NO_SLOT;
}

static __always_inline void flow_publish(struct flow *flow, struct flow_key *key, __u32 number)
{
	__u32 word = number / SLOTS_PER_WORD;
	__u64 *taken = bpf_map_lookup_elem(&taken_slots, &word);

	if (taken)
		__sync_fetch_and_or(taken, 1ULL << (number % SLOTS_PER_WORD));
	/* An exchange, not a store: all of the above comes before it. */
	__sync_lock_test_and_set(&flow->tag, key->tag);
}

static __always_inline void flow_free(struct flow *flow, __u32 slot, __u64 *taken)
{
	flow->sampled_datagrams_in = 0;
	flow->sampled_datagrams_out = 0;
	/* In this order: who takes the slot again sets the bit again. */
	__sync_fetch_and_and(taken, ~(1ULL << slot % SLOTS_PER_WORD));
	__sync_lock_test_and_set(&flow->tag, FLOW_FREE);
}

#endif
