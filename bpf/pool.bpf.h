/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Where what tcptop knows of a TCP socket lies: in the pool, or in the socket's storage.
 *
 * The kernel allocates a socket's storage and frees it with the socket. For a connection
 * that lives a millisecond this costs as much as all that the programs do. So the first
 * connections that begin here get a place in the pool, a table; when their place is taken,
 * they get storage. A connection keeps its place until it ends. Listeners have places too:
 * then the kernel need not copy a listener's storage for each child.
 *
 * Nobody who visits the pool has a reference to the sockets. A visitor reads a socket as
 * plain memory, and then looks whether the place still belongs to it: a program takes it
 * away in CLOSE, before the kernel can free the socket.
 */
#ifndef TCPTOP_POOL_BPF_H
#define TCPTOP_POOL_BPF_H

#include "kernel.bpf.h"
#include "recent.bpf.h"
#include "tracked.bpf.h"

/* Each tick looks at all 4096 places. */
#define POOL_BITS 12
#define POOL_SIZE (1 << POOL_BITS)

/* The address of the socket that has the place. */
#define PLACE_FREE 0
#define PLACE_BEING_FILLED 1
static __u64 pool_sockets[POOL_SIZE];

struct pooled {
	struct tracked tracked;
	struct proto *creator; /* of the socket: what has another one is not the socket any more */
};
static struct pooled pool[POOL_SIZE];

/* Since Linux 6.4: a visitor loops, and reads memory to which it has no reference. */
static __always_inline bool pool_usable(void)
{
	return settings.pool_places && bpf_ksym_exists(bpf_rdonly_cast) &&
	       bpf_ksym_exists(bpf_iter_num_new);
}

static __always_inline __u32 place_of(__u64 number)
{
	return number * GOLDEN_RATIO >> (64 - POOL_BITS);
}

/* What is known of the socket; NULL if it is not tracked. */
static __always_inline struct tracked *tracked_of(struct sock *sk)
{
	__u32 place;

	if (pool_usable()) {
		place = place_of(tcp_socket_number(sk));
		if (pool_sockets[place] == (__u64)sk)
			return &pool[place].tracked;
	}
	return bpf_sk_storage_get(&sockets, sk, NULL, 0);
}

/* Puts a socket that is not tracked into its place. False if the place is taken. */
static __always_inline bool pool_put(struct sock *sk, const struct tracked *fresh)
{
	__u32 place;

	if (!pool_usable())
		return false;
	place = place_of(tcp_socket_number(sk));
	if (place >= settings.pool_places || pool_sockets[place] != PLACE_FREE ||
	    __sync_val_compare_and_swap(&pool_sockets[place], PLACE_FREE, PLACE_BEING_FILLED) !=
		    PLACE_FREE)
		return false;
	pool[place].tracked = *fresh;
	pool[place].creator = untrusted(struct sock, sk)->sk_prot_creator;
	__sync_lock_test_and_set(&pool_sockets[place], (__u64)sk);
	return true;
}

/* If the end of an earlier socket at this address was missed, its place has that one's. */
static __always_inline void pool_set_creator(struct sock *sk)
{
	__u32 place;

	if (!pool_usable())
		return;
	place = place_of(tcp_socket_number(sk));
	if (pool_sockets[place] == (__u64)sk)
		pool[place].creator = untrusted(struct sock, sk)->sk_prot_creator;
}

static __always_inline void pool_release(struct sock *sk)
{
	__u32 place;

	if (!pool_usable())
		return;
	place = place_of(tcp_socket_number(sk));
	if (pool_sockets[place] == (__u64)sk)
		__sync_lock_test_and_set(&pool_sockets[place], PLACE_FREE);
}

/* For a visitor. Whether the place is still the same connection's: if so, all that was read
 * of its socket before is true. */
static __always_inline bool pool_still_has(__u64 *place, struct sock *sk,
					   const struct tracked *tracked, __u64 born_ns)
{
	return __sync_fetch_and_add(place, 0) == (__u64)sk && tracked->born_ns == born_ns;
}

static __always_inline void pool_take_away(__u64 *place, struct sock *sk)
{
	__sync_val_compare_and_swap(place, (__u64)sk, PLACE_FREE);
}

/*
 * What is known of the listener whose child the kernel is just making: in SYN_RECV, and still
 * a copy of the listener. So its empty list of sent segments still points into the listener
 * (tcp_create_openreq_child(), net/ipv4/tcp_minisocks.c, empties it later). NULL where it
 * points to nothing that has a place: then the owner is not known until a process uses the child.
 */
static __always_inline const struct tracked *pooled_listener(struct sock *child)
{
	struct tcp_sock *tp;
	struct sock *listener;
	__u32 place;

	if (!pool_usable())
		return NULL;
	tp = bpf_rdonly_cast(child, bpf_core_type_id_kernel(struct tcp_sock));
	listener = (void *)tp->tsorted_sent_queue.next -
		   bpf_core_field_offset(struct tcp_sock, tsorted_sent_queue);
	place = place_of(tcp_socket_number(listener));
	return pool_sockets[place] == (__u64)listener ? &pool[place].tracked : NULL;
}

/* The socket is in CLOSE, wherever it is tracked. */
static __always_inline void forget(struct sock *sk)
{
	pool_release(sk);
	storage_forget(sk);
}

#endif
