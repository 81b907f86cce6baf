// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Designs that tcptop did not choose, for comparison: an event per call, a hash map
 * update per call, and programs that do nothing at all.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2

struct reference_key {
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 tgid;
};

struct reference_record {
	struct reference_key key;
	__u64 time_ns;
	__u64 bytes;
	__u8 comm[16];
	__u8 protocol;
	__u8 sent;
	__u8 pad[6];
};

struct reference_totals {
	__u64 sent;
	__u64 received;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct reference_key);
	__type(value, struct reference_totals);
} flows SEC(".maps");

static __always_inline void fill_key(struct reference_key *key, struct sock *sk)
{
	__u64 *local = (__u64 *)key->local_addr;
	__u64 *remote = (__u64 *)key->remote_addr;

	if (sk->__sk_common.skc_family == AF_INET) {
		local[0] = sk->__sk_common.skc_rcv_saddr;
		local[1] = 0;
		remote[0] = sk->__sk_common.skc_daddr;
		remote[1] = 0;
	} else {
		__u64 *from = (__u64 *)&sk->__sk_common.skc_v6_rcv_saddr;
		__u64 *to = (__u64 *)&sk->__sk_common.skc_v6_daddr;

		local[0] = from[0];
		local[1] = from[1];
		remote[0] = to[0];
		remote[1] = to[1];
	}
	key->local_port = sk->__sk_common.skc_num;
	key->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	key->tgid = bpf_get_current_pid_tgid() >> 32;
}

static __always_inline bool is_counted(struct sock *sk, int result)
{
	return result > 0 && (sk->sk_protocol == IPPROTO_TCP || sk->sk_protocol == IPPROTO_UDP);
}

static __always_inline int put_record(struct sock *sk, int result, bool sent)
{
	struct reference_record *record;

	if (!is_counted(sk, result))
		return 0;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record)
		return 0;
	fill_key(&record->key, sk);
	record->time_ns = bpf_ktime_get_ns();
	record->bytes = result;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	record->protocol = sk->sk_protocol;
	record->sent = sent;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

static __always_inline int add_to_flow(struct sock *sk, int result, bool sent)
{
	struct reference_totals fresh = {};
	struct reference_totals *totals;
	struct reference_key key = {};

	if (!is_counted(sk, result))
		return 0;
	fill_key(&key, sk);
	totals = bpf_map_lookup_elem(&flows, &key);
	if (!totals) {
		/* If another processor was faster, use its element. */
		bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
		totals = bpf_map_lookup_elem(&flows, &key);
		if (!totals)
			return 0;
	}
	__sync_fetch_and_add(sent ? &totals->sent : &totals->received, result);
	return 0;
}

SEC("?tp_btf/sock_send_length")
int BPF_PROG(ring_sent, struct sock *sk, int result, int flags)
{
	return put_record(sk, result, true);
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(ring_received, struct sock *sk, int result, int flags)
{
	return put_record(sk, result, false);
}

SEC("?tp_btf/sock_send_length")
int BPF_PROG(hash_sent, struct sock *sk, int result, int flags)
{
	return add_to_flow(sk, result, true);
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(hash_received, struct sock *sk, int result, int flags)
{
	return add_to_flow(sk, result, false);
}

SEC("?cgroup_skb/egress")
int empty_egress(struct __sk_buff *skb)
{
	return 1;
}

SEC("?cgroup_skb/ingress")
int empty_ingress(struct __sk_buff *skb)
{
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
