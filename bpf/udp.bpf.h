/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * UDP: the kernel counts nothing per flow, so every datagram is counted here.
 *
 * The flow table is an array used as a hash table of our own: a lookup in an
 * array is a few instructions that the JIT writes in line, a datagram mostly
 * finds its flow in the first slot it looks at, and what it compares and adds to
 * lies in one cache line, the owner in the next. The kernel's hash map costs a function
 * call, a hash over the whole key and a walk along a list, and three times the
 * throughput.
 *
 * A flow may lie in any slot of two groups of FLOW_WAYS; where all are taken the
 * datagram is counted as lost.
 */
#ifndef TCPTOP_UDP_BPF_H
#define TCPTOP_UDP_BPF_H

#define FLOW_WAYS 8

/* Values of flow.tag; every other one is a hash of the key, with FLOW_LIVE set. */
#define FLOW_FREE 0
#define FLOW_BUSY 1  /* being filled in */
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
	/* Owner. */
	__u32 tgid;     /* 0 unknown */
	__u32 name_age; /* name_changes when a datagram's sender had this name */
	__u64 comm[2];
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
	__u16 owner_version; /* may come round: every sample tells the owner */
	__u16 sampled_owner;
	__u32 twin; /* 1 + the slot of the same flow, made at the same time; 0 none */
	__u32 netns;
	__u32 uid;
	__u32 ifindex;
	__u32 scope;
	__u8 flags;    /* enum tcptop_event_flags */
	__u8 evidence; /* enum evidence, for the owner */
	__u8 told;     /* it has had a sample */
	__u8 pad;
};
_Static_assert(__builtin_offsetof(struct flow, tgid) == 64, "one cache line receives");
_Static_assert(__builtin_offsetof(struct flow, comm) < 128, "a second one sends");
_Static_assert(sizeof(struct flow) == 192, "whole cache lines");

/* Mapped memory begins at a page, other arrays 8 bytes before a cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * FLOW_WAYS); /* user space sets the real size */
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

/* Which slots are taken, 64 to an element: the sampler visits no others. */
#define SLOTS_PER_WORD 64
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} taken_slots SEC(".maps");

/* Who last received on a socket, by its cookie: receiving runs in softirq up to
 * the socket, so a flow cannot learn it from its datagrams. Written only when
 * the receiver changes. */
struct receiver {
	__u8 comm[16];
	__u32 tgid;
	__u32 evidence; /* enum evidence */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct receiver);
} receivers SEC(".maps");

/* Number of slots - 1; the number is a power of two. */
const volatile __u32 flow_mask;
/* Random, so that nobody can aim at a group. */
const volatile __u64 flow_seed;
/* A flow without a datagram for so long is forgotten. */
const volatile __u64 flow_timeout_ns;

static struct tcptop_pass flow_pass;
static __u32 flow_epoch = 1;

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
	__u64 hash = flow_seed ^ key->cookie;

	hash = (hash ^ key->remote[0]) * GOLDEN_RATIO;
	hash ^= hash >> 32 ^ key->remote[1] ^ (key->local[1] >> 32 | key->local[1] << 32);
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 29;
	hash = (hash ^ ((__u32)key->remote_port << 16 | key->local_port)) * 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 32;
	key->tag = (__u32)(hash >> 8) | FLOW_LIVE;
	key->slots[0] = (__u32)hash & flow_mask;
	key->slots[1] = (__u32)(hash >> 32) & flow_mask;
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

#define NO_SLOT (~0U)

/* Where the flow lies, NO_SLOT where it is not in the table. A global function:
 * the verifier looks into it once, not at every call. */
__noinline __u32 flow_find(const struct flow_key *key)
{
	if (!key)
		return NO_SLOT;
	for (__u32 probe = 0; probe < 2 * FLOW_WAYS; probe++) {
		__u32 slot = flow_slot(key, probe);
		struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

		if (flow && flow_is(flow, key))
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
		struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

		if (flow &&
		    __sync_val_compare_and_swap(&flow->tag, FLOW_FREE, FLOW_BUSY) == FLOW_FREE)
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

/* What is the same for all datagrams of a flow. Read with a copying helper: in
 * a cgroup_skb program the socket is no BTF pointer. */
static __always_inline void flow_describe(struct flow *flow, struct sock *sk)
{
	flow->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	flow->uid = BPF_CORE_READ(sk, sk_uid.val);
	flow->scope = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	flow->ifindex = flow->scope;
	flow->cgroup = 0;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		flow->cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
}

static __always_inline bool flow_owner_is(struct flow *flow, __u32 tgid, const __u64 *comm)
{
	return flow->tgid == tgid && flow->comm[0] == comm[0] && flow->comm[1] == comm[1];
}

static __always_inline void flow_set_owner(struct flow *flow, __u32 tgid, const __u64 *comm,
					   __u8 evidence)
{
	flow->comm[0] = comm[0];
	flow->comm[1] = comm[1];
	flow->tgid = tgid;
	flow->evidence = evidence;
	flow->owner_version++;
}

/*
 * A slot for a flow that has none. `tracked` is what its socket's storage knows,
 * if anything: its holder, and that it is older than tcptop.
 *
 * Two processors can see the first datagrams of one flow at the same time and
 * both make a slot for it. From then on the first in the order of probes is
 * found; the other one is its twin, which the sampler folds into it.
 */
static __always_inline struct flow *flow_create(struct flow_key *key, struct sock *sk,
					   struct tracked *tracked, __u32 ifindex)
{
	__u32 slot = flow_claim(key);
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);

	if (!flow)
		return NULL;
	flow->cookie = key->cookie;
	flow->local[0] = key->local[0];
	flow->local[1] = key->local[1];
	flow->remote[0] = key->remote[0];
	flow->remote[1] = key->remote[1];
	flow->local_port = key->local_port;
	flow->remote_port = key->remote_port;
	flow->born_ns = bpf_ktime_get_ns();
	flow->moved_ns = flow->born_ns;
	flow->tgid = 0;
	flow->name_age = 0;
	flow->flags = 0;
	flow->evidence = EVIDENCE_NONE;
	flow->told = 0;
	flow->twin = 0;
	flow_describe(flow, sk);
	if (!flow->ifindex)
		flow->ifindex = ifindex;
	if (!flow->scope)
		flow->scope = ifindex;
	if (starting)
		flow->flags = TCPTOP_PARTIAL;
	if (tracked) {
		flow->flags = tracked->flags;
		if (tracked->tgid)
			flow_set_owner(flow, tracked->tgid, tracked->comm, tracked->evidence);
	}
	flow_publish(flow, key, slot);
	return flow;
}

static __always_inline void flow_lost(__u32 bytes, __u32 datagrams)
{
	lost(TCPTOP_LOST_FLOW_DATAGRAMS, datagrams);
	lost(TCPTOP_LOST_FLOW_BYTES, bytes);
}

/*
 * A datagram costs one atomic addition, of its bytes and of itself at once, which
 * go into the totals when a tick comes, or when one of the two has half filled
 * its part of the word: the other half has room for all that other processors add
 * meanwhile.
 */
#define LATELY_BYTES_BITS 40
#define LATELY_BYTES ((1ULL << LATELY_BYTES_BITS) - 1)
#define LATELY_HALF_FULL (1ULL << 63 | 1ULL << (LATELY_BYTES_BITS - 1))

static __noinline void flow_settle(__u64 *lately, struct total *total)
{
	__u64 amount;

	if (!lately || !total)
		return;
	amount = __sync_lock_test_and_set(lately, 0);
	if (!amount)
		return;
	__sync_fetch_and_add(&total->bytes, amount & LATELY_BYTES);
	__sync_fetch_and_add(&total->datagrams, amount >> LATELY_BYTES_BITS);
}

static __always_inline void flow_add(__u64 *lately, struct total *total, __u32 bytes,
				     __u32 datagrams)
{
	__u64 amount = (__u64)datagrams << LATELY_BYTES_BITS | bytes;

	if ((__sync_fetch_and_add(lately, amount) + amount) & LATELY_HALF_FULL)
		flow_settle(lately, total);
}

static __always_inline void flow_received(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->lately_in, &flow->in, bytes, datagrams);
}

static __always_inline void flow_sent(struct flow *flow, __u32 bytes, __u32 datagrams)
{
	flow_add(&flow->lately_out, &flow->out, bytes, datagrams);
}

/* True where the current task is the flow's owner already. */
static __always_inline bool flow_is_current(struct flow *flow)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return flow->tgid == (__u32)task->tgid && flow->name_age == name_changes;
}

/* The current task uses the flow. A socket without a file is the kernel's own
 * (a tunnel, a file system): whoever runs just now has nothing to do with it. */
static __noinline void flow_used(struct flow *flow, struct sock *sk)
{
	/* Before the name is read. */
	__u32 age = name_changes;
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 *comm = (__u64 *)untrusted(struct task_struct, task)->group_leader->comm;
	__u64 copy[2] = { comm[0], comm[1] };

	if (!flow || !task->tgid || !BPF_CORE_READ(sk, sk_socket, file))
		return;
	if (!flow_owner_is(flow, task->tgid, copy))
		flow_set_owner(flow, task->tgid, copy, EVIDENCE_USES);
	flow->evidence = EVIDENCE_USES;
	flow->name_age = age;
}

static __always_inline __u32 gso_datagrams(__u32 bytes, __u32 segments, __u32 size)
{
	if (!size)
		return 1;
	if (segments > 1)
		return segments;
	/* The kernel may leave the count to whoever needs it. */
	return bytes > size ? (bytes + size - 1) / size : 1;
}

/* Tells the socket's flows of its owner. */
static __always_inline void tell_receiver(struct sock *sk, struct tracked *tracked)
{
	__u64 cookie = sock_cookie(sk);
	struct receiver receiver = { .tgid = tracked->tgid, .evidence = tracked->evidence };

	__builtin_memcpy(receiver.comm, tracked->comm, sizeof(receiver.comm));
	if (bpf_map_update_elem(&receivers, &cookie, &receiver, BPF_ANY))
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
}

/* `number`: the socket's, for a use that may be the next one as well. */
static __always_inline void udp_owned_by(struct sock *sk, __u64 number, struct task_struct *task,
					 __u8 evidence)
{
	struct tracked fresh = { .flags = starting ? TCPTOP_PARTIAL : 0 };
	struct tracked *tracked;
	__u32 version;
	__u8 known;

	tracked = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tracked) {
		lost(TCPTOP_LOST_STORAGE_FULL, 1);
		return;
	}
	if (number && owner_is(tracked, task, evidence)) {
		remember_use(number, tracked, task);
		return;
	}
	known = tracked->evidence;
	if (known > evidence)
		return;
	version = tracked->owner_version;
	set_owner(tracked, task, evidence);
	if (number)
		forget_recent_use(number);
	if (tracked->owner_version != version || tracked->evidence != known)
		tell_receiver(sk, tracked);
}

/* The socket is older than tcptop, or nobody was seen using it. */
static __always_inline void udp_seed(struct sock *sk, struct task_struct *holder)
{
	udp_owned_by(sk, 0, holder, EVIDENCE_HOLDS);
}

/* The current task received on the socket. Compares first, and tells the flows only
 * of a change. */
static __always_inline void udp_received_by(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 number = udp_socket_number(sk);

	if (!number || !used_just_now(number, task))
		udp_owned_by(sk, number, task, EVIDENCE_USES);
}

/* A flow that only receives has its owner from whoever receives on its socket;
 * who just holds that is no better than who was seen using the flow. */
static __always_inline void flow_take_receiver(struct flow *flow)
{
	struct receiver *receiver = bpf_map_lookup_elem(&receivers, &flow->cookie);
	__u64 *comm;

	if (!receiver || receiver->evidence < flow->evidence)
		return;
	comm = (__u64 *)receiver->comm;
	flow->evidence = receiver->evidence;
	if (!flow_owner_is(flow, receiver->tgid, comm))
		flow_set_owner(flow, receiver->tgid, comm, receiver->evidence);
}

static __always_inline bool flow_emit(struct flow *flow, __u32 slot, __u8 kind)
{
	struct tcptop_event *event;

	if (ring_half_full())
		return false;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return false;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->family = AF_INET6;
	event->protocol = IPPROTO_UDP;
	event->flags = flow->flags;
	/* A socket's address is never that small. */
	event->object = slot + 1;
	event->born_ns = flow->born_ns;
	event->packets_in = flow->in.datagrams;
	event->packets_out = flow->out.datagrams;
	flow->sampled_datagrams_in = event->packets_in;
	flow->sampled_datagrams_out = event->packets_out;
	/* A datagram's bytes are added before it is: these are not too few. */
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
	event->scope = flow->scope;
	event->tgid = flow->tgid;
	__builtin_memcpy(event->comm, flow->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return true;
}

/* Sets half of a total to zero. What came in since it was sampled stays, for
 * whichever flow has the slot next: it is counted, if not in the right place. */
static __always_inline void total_clear(__u64 *half, __u64 sampled)
{
	__u64 late = __sync_lock_test_and_set(half, 0) - sampled;

	if (late)
		__sync_fetch_and_add(half, late);
}

/* 1 + the slot in which datagrams of this flow are counted, if that is not this
 * one; else 0. */
static __always_inline __u32 flow_twin(struct flow *flow, __u32 slot)
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

/* True where there was something to move. */
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

static __always_inline void flow_free(struct flow *flow, __u32 slot, __u64 *taken)
{
	flow->sampled_datagrams_in = 0;
	flow->sampled_datagrams_out = 0;
	/* In this order: who takes the slot again sets the bit again. */
	__sync_fetch_and_and(taken, ~(1ULL << slot % SLOTS_PER_WORD));
	__sync_lock_test_and_set(&flow->tag, FLOW_FREE);
}

/* A twin goes as a silent flow does, in steps, but without a word. */
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
 * A flow that was silent for the timeout goes in steps, a tick apart. First it
 * becomes DYING: no datagram finds it any more, a new one makes a new flow. By
 * the next tick whoever had found it before has added what it had to add. Only
 * when a tick finds nothing new is the slot free.
 */
__noinline int flow_sample(__u32 slot, __u64 now)
{
	__u32 word = slot / SLOTS_PER_WORD;
	__u64 *taken = bpf_map_lookup_elem(&taken_slots, &word);
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);
	bool received, sent;
	__u32 tag, owner;

	if (!flow || !taken)
		return 0;
	tag = flow->tag;
	if (tag == FLOW_FREE || tag == FLOW_BUSY || flow->sampled_epoch == flow_epoch)
		return 0;
	flow_pass.visited++;
	flow_settle(&flow->lately_in, &flow->in);
	flow_settle(&flow->lately_out, &flow->out);
	if (!flow->told && !flow->twin && tag != FLOW_DYING)
		flow->twin = flow_twin(flow, slot);
	if (flow->twin) {
		flow->sampled_epoch = flow_epoch;
		flow_fold(flow, slot, taken, tag);
		return 0;
	}
	received = flow->in.datagrams != flow->sampled_datagrams_in;
	sent = flow->out.datagrams != flow->sampled_datagrams_out;
	/* What arrived may be received later, by whom nobody knows yet. */
	if (flow->evidence < EVIDENCE_USES || (received && !sent))
		flow_take_receiver(flow);
	if (!flow->tgid && now - flow->born_ns > OWNERLESS_FOR_NS)
		flow_pass.ownerless++;
	owner = flow->owner_version;
	if (received || sent || owner != flow->sampled_owner) {
		if (!flow_emit(flow, slot, TCPTOP_SAMPLE)) {
			flow_pass.deferred++;
			return 0;
		}
		flow->told = 1;
		flow->sampled_owner = owner;
		if (received || sent)
			flow->moved_ns = now;
	} else if (tag == FLOW_DYING) {
		__u64 bytes_in = flow->in.bytes, bytes_out = flow->out.bytes;
		__u64 in = flow->sampled_datagrams_in, out = flow->sampled_datagrams_out;

		if (!flow_emit(flow, slot, TCPTOP_EXPIRED)) {
			flow_pass.deferred++;
			return 0;
		}
		total_clear(&flow->in.bytes, bytes_in);
		total_clear(&flow->out.bytes, bytes_out);
		total_clear(&flow->in.datagrams, in);
		total_clear(&flow->out.datagrams, out);
		flow_free(flow, slot, taken);
		return 0;
	} else if (now - flow->moved_ns >= flow_timeout_ns) {
		__sync_val_compare_and_swap(&flow->tag, tag, FLOW_DYING);
	}
	flow->sampled_epoch = flow_epoch;
	return 0;
}

#endif
