/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent on a connection of the cgroup goes to the socket at its other end, past TCP. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct key {
	__u32 local, remote;
	__u32 lport, rport; /* host order */
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct key);
	__type(value, __u32);
} socks SEC(".maps");

SEC("sockops")
int on_established(struct bpf_sock_ops *ops)
{
	struct key k = {};

	if (ops->family != 2 || (ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
				 ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB))
		return 1;
	k.local = ops->local_ip4;
	k.remote = ops->remote_ip4;
	k.lport = ops->local_port;
	k.rport = __builtin_bswap32(ops->remote_port);
	bpf_sock_hash_update(ops, &socks, &k, BPF_NOEXIST);
	return 1;
}

SEC("sk_msg")
int on_send(struct sk_msg_md *msg)
{
	struct key k = {};

	k.local = msg->remote_ip4;
	k.remote = msg->local_ip4;
	k.lport = __builtin_bswap32(msg->remote_port);
	k.rport = msg->local_port;
	/* Where the other end is not known it is TCP, as ever. */
	bpf_msg_redirect_hash(msg, &socks, &k, BPF_F_INGRESS);
	return SK_PASS;
}

char terms[] SEC("license") = "Dual BSD/GPL";
