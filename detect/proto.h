/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control protocol: what clients (libxvm.so in a program, or xvm) and xvmd say to
 * each other on a Unix SOCK_SEQPACKET socket. One packet is one struct xvm_msg,
 * always whole; descriptors travel with it as SCM_RIGHTS. Nothing here ever blocks:
 * a client that does not read is dropped once XVM_BACKLOG messages wait for it.
 *
 * Before xvmd sends to client i it adds 1 to table->mail[i], so that a client sees
 * without a system call that there is something to read. It may be stopped before it has sent, for
 * any time: the client counts what has come, and looks as long as that is less. A daemon that ends
 * in good order adds 1 to all of them once the sockets are closed; one that was killed cannot.
 */
#ifndef XVM_DETECT_PROTO_H
#define XVM_DETECT_PROTO_H

#include <stdint.h>

#define XVM_PROTO_VERSION 1
#define XVM_PROTO_FDS 2 /* descriptors in one message, at most */
#define XVM_BACKLOG 4096
#define XVM_SOCKET_SYSTEM "/run/xvm/xvmd.sock" /* XVM_SOCKET overrides */

/* In the order of the wire; never renumber. The comment says fds and fields used. */
enum xvm_msg_type {
	/* client to xvmd */
	XVM_MSG_HELLO = 1, /* arg = version, pid = getpid(), text = comm; fds: [arena]. A tool
			      sends no fd. */
	XVM_MSG_OFFER,	  /* slot, gen, arg = enum xvm_role; fds: socket, half (read-only use). With
			     len != 0: fds: socket; the half is a piece: region, off, len */
	XVM_MSG_WITHDRAW, /* slot, gen: the offer is void. With len != 0: of a former xvmd; the
			     piece (region, off, len) is not used any more */
	XVM_MSG_WAKER,	  /* arg = index; fds: eventfd. xvmd hands it to all peers, now and later */
	XVM_MSG_UNPAIR,	  /* slot, gen: a paired endpoint is closed */
	XVM_MSG_CTL_DONE, /* arg = ticket, arg2 = endpoints changed; answers XVM_MSG_CTL */
	XVM_MSG_LEASE,	  /* region, len: one piece more, of at most that length, please. arg = 1: I
			     have a vector. Answer: PIECE */

	/* xvmd to client */
	XVM_MSG_WELCOME = 32, /* arg = version, arg2 = client id, arg64 = what mail[id] counts with
				 this one; fds: table */
	XVM_MSG_BAD_VERSION,  /* arg = xvmd's version; the connection then closes */
	XVM_MSG_SEEN,	      /* slot, gen: xvmd has closed its copy of the offered socket */
	XVM_MSG_PAIRED,	      /* slot, gen, arg = this end's enum xvm_role, arg2 = peer's client
				 id; fds: peer's half. With len != 0, no fd: region, off, len = where the
				 peer's half is, arg2 = its VM's number, arg64 = XVM_VM_* */
	XVM_MSG_REFUSED,      /* slot, gen, arg = enum xvm_reason */
	XVM_MSG_PEER_WAKER,   /* arg = index, arg2 = its client id; fds: eventfd */
	XVM_MSG_PEER_GONE,    /* arg2 = client id: its eventfds are of no use any more */
	XVM_MSG_CTL,	      /* arg = ticket, arg2 = enum xvm_ctl, fd (or -1 for all) */

	/* xvmd to client, between virtual machines: REGION.md. Sent once after the welcome to
	 * whoever may use that region; region is its index, from 0. */
	XVM_MSG_REGION,	  /* region, off, len = where in the fd it lies, arg = our own number in it,
			     arg2 = XVM_REGION_*; fds: what to map; what to map and keep (life.h) */
	XVM_MSG_DOORBELL, /* region, off, len: likewise the device's registers */
	XVM_MSG_VECTOR,	  /* region, arg = a vector that is this process's alone; fds: eventfd; what
			     to map and keep while it may be rung by it (life.h) */
	XVM_MSG_PEER_VECTOR, /* region, arg = vector, arg2 = number of a VM; fds: eventfd that rings
				it. On the host only, where there is no doorbell */
	XVM_MSG_PIECE,	     /* region, off, len: memory for one half; len = 0: there is no more */
	XVM_MSG_PEER_DEAD,   /* slot, gen: the other end's VM has died: ECONNRESET */
	XVM_MSG_UNPLUG,	     /* region: its device is about to go: leave its memory, and unpair.
				Repeated until that is done; arg = 1: it is late */

	/* tool to xvmd, and the answers */
	XVM_MSG_SS = 64,   /* answers: one XVM_MSG_SS_ROW a connection, then XVM_MSG_END */
	XVM_MSG_SS_ROW,	   /* row */
	XVM_MSG_END,	   /* arg = 0, or a positive errno; arg2 = a count; text = detail */
	XVM_MSG_STATS,	   /* arg2 = 1: reset; answers: one XVM_MSG_STATS_ROW a counter, then END */
	XVM_MSG_STATS_ROW, /* text = name, arg64 = value */
	XVM_MSG_RESIDENT,  /* addr; answer: END, arg = 0 resident, ENOENT not, EEXIST ambiguous;
			      text = where it lives and how it is known */
	XVM_MSG_LEAVE,	   /* pid, fd (pid -1: all): answer: END, arg2 = connections that obeyed */
	XVM_MSG_ENTER,	   /* likewise */
	XVM_MSG_STATUS,	   /* answer: END, text = one line about the daemon. slot != 0: about its
			      ivshmem device slot - 1, arg = ENODEV if there is none,
			      arg2 = XVM_DEVICE_* */
	XVM_MSG_GROUP,	   /* text = name: answers: its row, END (ENOENT: no such group);
			      empty: a row for each with its name only, END */
	XVM_MSG_GROUP_ROW, /* text = socket (or name), arg = vectors, arg2 = VMs that there may be,
			      slot = VMs that there are, arg64 = bytes */
};

enum xvm_ctl { XVM_CTL_LEAVE = 1, XVM_CTL_ENTER };

#define XVM_DEVICE_UP 1u	 /* the host's xvmd has welcomed us */
#define XVM_DEVICE_INTERRUPTS 2u /* programs can be woken by them */
#define XVM_DEVICE_MAY 4u	 /* who asks may have its memory */
#define XVM_DEVICE_SILENT 8u	 /* the host's xvmd has not answered what was asked last */

#define XVM_REGIONS 8 /* that a program can know: */
#define XVM_REGIONS_GUEST                                                                          \
	4 /* below, those of devices; from here on, those of groups that we serve */

/* To one that had the region of a former xvmd, or before it was dropped: */
#define XVM_REGION_KEPT 1u    /* it is the same, and the pieces are its own still */
#define XVM_REGION_VECTORS 2u /* and so is its vector */

/* What the processes of a VM can do, as its xvmd says. */
#define XVM_VM_DOORBELL 1u   /* ring the vectors of other VMs */
#define XVM_VM_INTERRUPTS 2u /* be woken by vectors */

/* A row of `xvm ss`. Addresses: v4 as v4-mapped; ports in host order. */
struct xvm_msg_row {
	int32_t pid, fd;
	char comm[16];
	uint8_t laddr[16], raddr[16];
	uint16_t lport, rport;
	uint8_t tx_path, rx_path; /* 0 tcp, 1 ring */
	uint8_t medium;		  /* 0 none, 1 memfd, 2 ivshmem */
	uint8_t state;		  /* enum xvm_ep_state */
	uint32_t reason;
	uint32_t pad;
	uint64_t tx_ring, rx_ring, tx_tcp, rx_tcp; /* stream bytes, without pads */
};

struct xvm_msg {
	uint16_t type; /* enum xvm_msg_type */
	uint16_t nfds; /* how many descriptors came with it; set by xvm_proto_recv() */
	uint32_t slot, gen;
	int32_t pid, fd;
	uint32_t arg, arg2;
	uint32_t region;
	uint64_t arg64, off, len;
	uint8_t addr[16];
	char text[128]; /* always ends with a NUL */
	struct xvm_msg_row row;
};

/*
 * Send one message with n descriptors (n <= XVM_PROTO_FDS), without blocking and without
 * SIGPIPE. The descriptors stay the caller's. 0, or a negative errno (-EAGAIN: the
 * socket is full). Async-signal-safe.
 */
int xvm_proto_send(int sock, const struct xvm_msg *m, const int *fds, int n);

/*
 * Receive one message. fds has room for XVM_PROTO_FDS; those that came are close-on-exec
 * and the caller's, the rest are -1. flags: 0, or MSG_DONTWAIT. Returns 0, -EAGAIN, -EPIPE
 * at the end of the stream, -EPROTO for a packet that is no message (nothing is
 * leaked then), or another negative errno. Where descriptors were lost on the way
 * (RLIMIT_NOFILE, or more were sent than allowed) the message comes with nfds = 0.
 */
int xvm_proto_recv(int sock, struct xvm_msg *m, int *fds, int flags);

/* The same, but all *n descriptors that came are the caller's, whatever is returned and whatever
 * nfds says: xvmd has to be careful with closing what strangers sent. */
int xvm_proto_take(int sock, struct xvm_msg *m, int *fds, int *n, int flags);

#endif
