/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * UDP: the table of flows. The kernel has no counters per flow, so the programs count
 * every datagram here.
 *
 * The table is an array that is used as a hash table. A lookup in an array is a few
 * instructions, which the JIT inlines. A datagram mostly finds its flow in the first
 * slot; the fields that it compares and adds to share one cache line, the owner lies in
 * the next. The kernel's hash map needs a function call, a hash over the whole key and
 * a walk along a list, and cost three times the throughput.
 *
 * A flow may lie in any slot of two groups of FLOW_WAYS slots. If all of them are taken,
 * the datagram is counted as lost.
 */
#ifndef TCPTOP_UDP_TABLE_BPF_H
#define TCPTOP_UDP_TABLE_BPF_H

#include "filter.bpf.h"
#include "owner.bpf.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Values of flow.tag; any other value is a hash of the key with FLOW_LIVE set. */
#define FLOW_FREE 0
#define FLOW_BUSY 1 /* being filled in */
#define FLOW_DYING 2 /* was silent for the timeout: lookups no longer find it */
#define FLOW_LIVE 4

struct total {
	__u64 bytes;
	__u64 datagrams;
};

struct flow {
	/* The fields that a datagram is compared with, and those that it adds to. */
	__u32 tag;
	__u16 local_port; /* network order */
	__u16 remote_port;
	__u64 cookie; /* the socket's: two sockets can have the same tuple */
	__u64 local[2]; /* IPv4 as IPv4-mapped IPv6 */
	__u64 remote[2];
	__u64 pending_in; /* bytes and datagrams that are not in the totals yet: flow_add() */
	__u64 pending_out;
	struct owner owner;
	__u64 born_ns;
	__u64 moved_ns; /* when the sampler last found it changed */
	/* Totals, without what is pending. */
	struct total in;
	struct total out;
	/* The last sample. */
	__u64 sampled_datagrams_in;
	__u64 sampled_datagrams_out;
	__u64 cgroup;
	__u32 sampled_epoch;
	__u32 twin; /* 1 + the slot in which lookups find the same flow; 0 it is this one */
	__u32 netns;
	__u32 uid;
	__u32 ifindex;
	__u8 flags; /* enum tcptop_flags */
	bool sampled; /* user space has a sample of it */
	__u16 pad;
};
_Static_assert(__builtin_offsetof(struct flow, owner) == 64, "receiving needs one cache line");
_Static_assert(__builtin_offsetof(struct flow, in) < 128, "sending needs two cache lines");
_Static_assert(sizeof(struct flow) == 192, "whole cache lines");

/* BPF_F_MMAPABLE aligns the elements: its memory begins at a page. The memory of other
 * arrays begins 8 bytes before a cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * FLOW_WAYS); /* user space sets the real size */
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

/* Where the drops of a flow's socket are counted. */
struct flow_socket {
	__u64 address; /* of the struct sock, which may be freed and used again */
	__u32 drops; /* 1 + what the socket dropped, when last read; 0 unknown */
	__u32 sampled_drops; /* the same in the last sample */
};

/* By the number of the slot. Used only if settings.drops is set. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* user space sets the real size */
	__type(key, __u32);
	__type(value, struct flow_socket);
} flow_sockets SEC(".maps");

/* One bit for each slot that is taken: the sampler visits only these. */
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
	/* The slot to look at first, in each of the two groups. */
	__u32 slots[2];
};

/* An IPv4 address fills only half of its second word. Swapping the halves of one address
 * keeps the two apart in the XOR. */
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

/* One branch for the whole key: each branch is one more path for the verifier. */
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
	if (!settings.filters)
		return true;
	return ports_wanted(key->local_port, key->remote_port) &&
	       addresses_wanted(key->local, key->remote);
}

#define NO_SLOT (~0U)

/*
 * The __noinline functions below are global (not static), so that the verifier checks
 * each of them once and not at every call: their loops would be most of its work.
 */
__noinline bool flow_is_in_slot(const struct flow_key *key, __u32 slot)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	return key && flow && flow_is(flow, key);
}

/* The flow's slot; NO_SLOT if it is not in the table. */
__noinline __u32 flow_find(const struct flow_key *key)
{
	if (!key)
		return NO_SLOT;
	for (__u32 probe = 0; probe < 2 * FLOW_WAYS; probe++) {
		__u32 slot = flow_slot(key, probe);

		if (flow_is_in_slot(key, slot))
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
	/* With NO_SLOT the lookup fails: the array has no such element. */
	return bpf_map_lookup_elem(&flows, &slot);
}

/* Takes the slot if it is free; false if it is not. */
__noinline bool flow_slot_claim(__u32 slot)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	return flow && __sync_val_compare_and_swap(&flow->tag, FLOW_FREE, FLOW_BUSY) == FLOW_FREE;
}

/*
 * Takes a slot for a new flow; NO_SLOT if none is free. The slot stays FLOW_BUSY until
 * flow_publish().
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
	/* An exchange, not a store: it comes after all stores to the flow. */
	__sync_lock_test_and_set(&flow->tag, key->tag);
}

static __always_inline void flow_free(struct flow *flow, __u32 slot, __u64 *taken)
{
	flow->sampled_datagrams_in = 0;
	flow->sampled_datagrams_out = 0;
	/* The bit first: as soon as the tag is free, another flow can take the slot and set
	 * the bit again. */
	__sync_fetch_and_and(taken, ~(1ULL << slot % SLOTS_PER_WORD));
	__sync_lock_test_and_set(&flow->tag, FLOW_FREE);
}

#endif
