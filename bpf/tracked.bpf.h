/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What tcptop stores for each socket that it tracks, and when it lets go of it. */
#ifndef TCPTOP_TRACKED_BPF_H
#define TCPTOP_TRACKED_BPF_H

#include "control.bpf.h"
#include "event.h"
#include "owner.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/*
 * Of a TCP socket. Lies in the pool (pool.bpf.h), or in the socket's own storage, which the
 * kernel frees with the socket. There the first 56 bytes share one cache line with 8 bytes of
 * the kernel's. The owner hook reads nothing else, nor does a visit that finds nothing new.
 */
struct tracked {
	struct owner owner;
	__u8 active; /* set by a use or a new state; cleared by a visit that finds no change */
	__u8 flags; /* enum tcptop_flags */
	__u8 state; /* the last state that began or ended a connection */
	/* The last sample, to find what changed since. */
	__u8 sampled_state;
	__u32 sampled_progress; /* tcp_progress() */
	__u32 sampled_epoch;
	/* The handshake, where somebody asked for it: tcptop_details.connect_us. */
	__u32 connect_us;
	__u64 born_ns; /* CLOCK_MONOTONIC; also half of the connection's key */
	/* The kernel's counters when tcptop began to count. */
	__u64 base_bytes_in;
	__u64 base_bytes_out;
	__u32 base_segs_in;
	__u32 base_segs_out;
	__u32 base_retrans;
	__u16 syn_retrans;
	bool connected; /* connect_us and syn_retrans are those of a handshake that is over */
	bool syn; /* it has sent a SYN, which its sequence numbers count */
};
_Static_assert(__builtin_offsetof(struct tracked, base_bytes_in) == 56, "one cache line");
_Static_assert(sizeof(struct tracked) == 88, "what each socket costs");

/*
 * BPF_F_CLONE: an accepted socket gets a copy of its listener's entry, and so keeps the
 * listener's owner until a process does I/O on it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tracked);
} sockets SEC(".maps");

/*
 * Of a UDP socket. In a map of its own, since the sampling program visits the TCP sockets
 * only, and must not meet a socket that the kernel frees without a hook (storage_forget()).
 */
struct udp_socket {
	struct owner owner;
	__u8 flags; /* enum tcptop_flags */
	bool unpublished; /* `receivers` had no room for the owner, and this was counted */
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct udp_socket);
} udp_sockets SEC(".maps");

/* Whether the connection lies in one of these slices, a bit each; Slices::contains() in
 * src/event.rs computes the same. The upper bits of the product depend on all of the time. */
static __always_inline bool in_slices(struct tracked *tracked, __u64 slices)
{
	return slices && (slices >> (tracked->born_ns * 0x9e3779b97f4a7c15ULL >> 58) & 1);
}

static __always_inline void mark_active(struct tracked *tracked)
{
	if (!tracked->active)
		tracked->active = 1;
}

static __always_inline void mark_idle(struct tracked *tracked)
{
	if (tracked->active)
		tracked->active = 0;
}

/*
 * The storage of a socket in `map`, a new one with the values of `fresh` where it has none.
 * NULL if the kernel has no memory for it, or if the socket is being freed (sock_is_freed()).
 *
 * The kernel also fails where another program makes the socket's storage at the same
 * moment, or where an earlier tcptop's is just being freed (bpf_local_storage_update()
 * returns EAGAIN or EEXIST). Each of the two can happen once, or twice if two tcptops have
 * ended; after that the storage is there, or the place for it is free.
 */
static __always_inline void *storage_create(void *map, struct sock *sk, void *fresh)
{
	void *storage = NULL;

	for (int attempt = 0; attempt < 4 && !storage; attempt++)
		storage = bpf_sk_storage_get(map, sk, fresh, BPF_SK_STORAGE_GET_F_CREATE);
	return storage;
}

/*
 * A TCP socket is in CLOSE: the kernel may free it from now on. Since Linux 7.0 it then
 * clears the storage's link to the socket (bpf_selem_unlink_nofail(),
 * kernel/bpf/bpf_local_storage.c), and an iterator that is just visiting this storage
 * follows the cleared link and crashes the kernel (__bpf_sk_storage_map_seq_show(),
 * net/core/bpf_sk_storage.c). Storage that a program deletes keeps its link until no
 * iterator can see it, so there the programs delete it before the kernel does: in CLOSE, and
 * once more when the kernel destroys the socket.
 */
static __always_inline void storage_forget(struct sock *sk)
{
	if (settings.unlinks_storage)
		bpf_sk_storage_delete(&sockets, sk);
}

/* True if nobody has a reference to the socket any more. Such a socket gets no storage, and
 * needs none: its connection is over. */
static __always_inline bool sock_is_freed(struct sock *sk)
{
	return !sk->__sk_common.skc_refcnt.refs.counter;
}

#endif
