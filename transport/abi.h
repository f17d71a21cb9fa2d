/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that lies in memory which more than one process maps. PROTOCOL.md
 * beside this file is the theory; the names of its rules (S1, R2, W1 ...) appear in the code.
 *
 * Three kinds of memory:
 *
 *   half    One endpoint writes it, its peer maps it read-only. One memfd (or one
 *           piece of an ivshmem arena) for each endpoint that has been offered.
 *           Whatever is read from the peer's half is hostile: read once, judge the copy.
 *   arena   The endpoints of one process and of the forks that share them. Never
 *           mapped by a peer. xvmd maps it read-only, for `xvm ss`, and trusts none of it.
 *   table   Residency and mail words. xvmd writes it, clients map it read-only.
 *
 * Only fixed-width fields and offsets; every field names its one writer.
 */
#ifndef XVM_TRANSPORT_ABI_H
#define XVM_TRANSPORT_ABI_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define XVM_ABI_VERSION 1
#define XVM_LINE 64 /* bytes in a cache line */

/* ---- half ------------------------------------------------------------- */

#define XVM_HALF_MAGIC 0x666c6168u /* "half" */
#define XVM_HALF_VERSION 2u	   /* a reader that knows no windows must not read */
#define XVM_HALF_CTL 4096	   /* bytes before the ring */
#define XVM_RING_MIN (4u << 10)
#define XVM_RING_MAX (16u << 20)
#define XVM_WINDOW_FIRST (64u << 10) /* of a ring, that is in use from the beginning (G1) */
#define XVM_WINDOWS 13		     /* each twice the one before, from a page to a whole ring */

/*
 * Sleep word: how the endpoint that owns the half is to be woken, and how often it
 * has slept. Low 8 bits: waker (XVM_WAKER_PAD, or XVM_WAKER_FD + index of one of its
 * process's eventfds). High 56 bits: number of the sleep. A peer rings at most once
 * for each value; the owner stores a new one before each sleep (rule W1).
 */
#define XVM_WAKER_PAD 1u
#define XVM_WAKER_FD 2u
#define XVM_WAKER_VECTOR 128u /* + an interrupt vector of the owner's VM: only between VMs */
#define XVM_WAKERS_MAX 62     /* eventfds a process may have; have_wakers is a bit mask */
#define XVM_SLEEP(seq, waker) (((uint64_t)(seq) << 8) | (waker))
#define XVM_SLEEP_WAKER(word) ((unsigned)((word)&0xff))
#define XVM_SLEEP_SEQ(word) ((uint64_t)(word) >> 8)

/* May the peer be on the ring? */
enum {
	XVM_CONSENT_NO,	 /* it may not enter, and is to leave */
	XVM_CONSENT_YES, /* it may enter */
	XVM_CONSENT_CUT, /* never again, and what was not taken is to be sent by TCP (C1) */
};

struct xvm_shm_half {
	/* Owner, once, before the half is offered. */
	uint32_t magic;
	uint32_t version;
	uint32_t ring_size; /* bytes, a power of two */
	uint32_t ring_off;  /* bytes from the start of the half */
	uint64_t process;   /* between machines: a number of the owner's own, or 0 (W2) */
	uint32_t first;	    /* bytes of the first window, a power of two (G1) */

	/* The owner as sender, for each message. */
	alignas(XVM_LINE) _Atomic uint64_t head; /* ring bytes published since the half was made */
	_Atomic uint64_t windows;		 /* how often the window has grown (G1) */

	/* The owner as sender, seldom. bnd_* are stored before the epoch that they belong to. */
	alignas(XVM_LINE) _Atomic uint64_t epoch; /* odd: on the ring; even: on TCP */
	_Atomic uint64_t bnd_tcp;		  /* TCP position at which the newest phase began */
	_Atomic uint64_t bnd_ring; /* ring position at which the newest phase began */
	_Atomic uint64_t tcp_put;  /* on the ring: TCP bytes ever put in, pads included */
	_Atomic uint64_t fin;	   /* 0, or 1 + the ring position of shutdown(SHUT_WR) */
	_Atomic uint64_t recalled; /* 1: what the peer had not taken goes by TCP (C2) */

	/* The owner as receiver, for each message. */
	alignas(XVM_LINE) _Atomic uint64_t tail; /* ring bytes of the peer's half consumed */

	/* The owner as receiver, seldom. */
	alignas(XVM_LINE) _Atomic uint64_t reached; /* the peer's epoch that has been reached */
	_Atomic uint64_t consent;		    /* XVM_CONSENT_* */
	_Atomic uint64_t have_wakers; /* bit i: the owner can ring the peer's eventfd i */
	_Atomic uint64_t rx_closed;   /* 1: nobody will ever read again */

	/* The owner before it sleeps. */
	alignas(XVM_LINE) _Atomic uint64_t sleep_data; /* for the peer's bytes */
	_Atomic uint64_t sleep_room;		       /* for room in the owner's own ring */
	_Atomic uint32_t cpu;			       /* 1 + the CPU it last ran on; a hint */

	/* The owner as sender, once each, before the number of windows that counts it. */
	alignas(XVM_LINE) _Atomic uint64_t begin[XVM_WINDOWS]; /* ring position; not of the first */
};

static_assert(sizeof(struct xvm_shm_half) <= XVM_HALF_CTL, "control part outgrew its page");
static_assert(offsetof(struct xvm_shm_half, head) == 64, "layout is ABI");
static_assert(offsetof(struct xvm_shm_half, epoch) == 128, "layout is ABI");
static_assert(offsetof(struct xvm_shm_half, tail) == 192, "layout is ABI");
static_assert(offsetof(struct xvm_shm_half, reached) == 256, "layout is ABI");
static_assert(offsetof(struct xvm_shm_half, sleep_data) == 320, "layout is ABI");
static_assert(offsetof(struct xvm_shm_half, begin) == 384, "layout is ABI");
static_assert(XVM_RING_MIN << (XVM_WINDOWS - 1) == XVM_RING_MAX, "a page to a whole ring");

/* ---- arena ------------------------------------------------------------ */

#define XVM_ARENA_MAGIC 0x6e657261u /* "aren" */
#define XVM_ARENA_EPS 65536	    /* endpoints; the memfd is sparse */
#define XVM_HOLDERS 6 /* processes that can hold one endpoint and still use the ring */

enum xvm_ep_state {
	XVM_EP_FREE = 0,
	XVM_EP_TCP,	  /* stays on TCP for good: see its reason */
	XVM_EP_CANDIDATE, /* nothing known yet; its calls are being counted */
	XVM_EP_OFFERED,	  /* xvmd has the offer */
	XVM_EP_PAIRED,	  /* both halves are mapped; each direction enters when it may */
};

/* Why a connection is on TCP. Kept in step with libxvm(7) and xvm_reason_name(). */
#define XVM_REASONS(X)                                                                             \
	X(NONE, "none", "on the ring, or nothing stands against it")                               \
	X(NEW, "new", "too few calls so far to be worth an offer")                                 \
	X(OFFERED, "offered", "offered; the other end has not answered (not preloaded, or idle)")  \
	X(NOT_RESIDENT, "not-resident", "the other address is in no namespace that xvmd knows of") \
	X(NO_DAEMON, "no-daemon", "no xvmd answers")                                               \
	X(BAD_VERSION, "bad-version", "xvmd speaks another protocol version")                      \
	X(AMBIGUOUS, "ambiguous", "the address lives in more than one namespace")                  \
	X(RULE, "rule", "a rule in xvmd.conf forbids it")                                          \
	X(NO_MEMORY, "no-memory", "no memory, mapping or descriptor for a half")                   \
	X(BAD_PEER, "bad-peer", "the other end's half or its counts make no sense")                \
	X(SELF, "self", "the socket is connected to itself, or both ends opened actively")         \
	X(NO_CONSENT, "no-consent", "the other end has made no call since it was paired")          \
	X(OPERATOR, "operator", "xvm leave took it off the ring")                                  \
	X(SHARED, "shared", "a process that was forked before pairing still holds the socket")     \
	X(UNSUPPORTED, "unsupported", "an option or call that the ring cannot serve")              \
	X(SECCOMP, "seccomp", "the program has set itself a system call filter")                   \
	X(EXEC, "exec", "another program image took the socket over")                              \
	X(STDIO, "stdio", "the socket is used through a FILE")                                     \
	X(DISABLED, "disabled", "XVM_DISABLE is set, or the daemon's rules exempt the program")    \
	X(NO_TCP_INFO, "no-tcp-info", "the kernel's byte counts could not be read")                \
	X(PEER_LEFT, "peer-left", "the other end does not consent at present")                     \
	X(BROKEN, "broken", "the other end wrote nonsense into its half; connection reset")        \
	X(LIMIT, "limit", "a table is full")                                                       \
	X(NO_DEVICE, "no-device", "the other end is in a VM whose memory this program may not use")

enum xvm_reason {
#define X(id, name, text) XVM_R_##id,
	XVM_REASONS(X)
#undef X
		XVM_R_COUNT
};

/* A lock in memory shared with forks: 0, or the holder's tid with XVM_LOCK_WAITERS. */
#define XVM_LOCK_WAITERS 0x80000000u
struct xvm_shm_lock {
	_Atomic uint32_t word;
};

struct xvm_shm_holder {
	_Atomic int32_t pid;	 /* 0: free */
	_Atomic uint32_t mapped; /* this process has both halves mapped; 2: copies (unplug.c) */
};

/*
 * One endpoint. Written by the processes that hold the socket: rx_* under rx_lock,
 * tx_* under tx_lock, the rest atomically.
 */
struct xvm_shm_ep {
	alignas(XVM_LINE) _Atomic uint32_t state; /* enum xvm_ep_state */
	_Atomic uint32_t reason;		  /* enum xvm_reason: why tx is on TCP */
	_Atomic uint32_t gen;	 /* counts the uses of this slot; offers carry it */
	_Atomic uint32_t role;	 /* enum xvm_role */
	_Atomic uint32_t calls;	 /* data calls in quarters, until it is offered */
	_Atomic uint32_t flags;	 /* XVM_EPF_* */
	_Atomic int32_t pid, fd; /* who used it last, for `xvm ss` */
	_Atomic uint32_t krecv; /* paired: threads inside a kernel recv without rx_lock (rule R1) */
	_Atomic uint32_t ksend; /* paired: threads inside a kernel send without tx_lock (rule S2) */
	_Atomic uint32_t unmapped; /* forks under way that have no mapping yet */
	_Atomic uint32_t want;	   /* XVM_WANT_*: the operator's wish */
	_Atomic uint32_t forking;  /* forks under way that will have the mapping */
	_Atomic uint32_t final;	   /* 1: the last holder has closed it, and gives the slot back */
	_Atomic int32_t err;	   /* taken from the kernel by a call of our own; not told yet */
	_Atomic uint32_t lowat;	   /* SO_RCVLOWAT, if above 1 (XVM_EPF_LOWAT) */

	alignas(XVM_LINE) struct xvm_shm_lock rx_lock;
	uint16_t rx_kcheck;	 /* the kernel has something to say (FIN, RST, pads) */
	uint16_t rx_busy;	 /* rx_tcp_got is about to change: its holder is in the kernel */
	uint64_t rx_tcp_got;	 /* TCP position: bytes taken from the kernel, pads included */
	uint64_t rx_pads;	 /* pads among them */
	uint64_t rx_epoch;	 /* = mine->reached */
	uint64_t rx_tail;	 /* = mine->tail */
	_Atomic uint64_t rx_seq; /* sleeps of the data word armed by pad */
	_Atomic uint64_t rx_sleeper; /* waker that sleeps for data now; 0 none */
	uint32_t rx_end;	     /* XVM_END_*: the end has been told of (R5) */
	_Atomic uint32_t rx_lowat;   /* what the kernel has for it at present (R7) */

	alignas(XVM_LINE) struct xvm_shm_lock tx_lock;
	uint16_t tx_owed;	 /* XVM_OWED_*: goes to the kernel before anything else */
	uint16_t tx_busy;	 /* tx_tcp_put is about to change: its holder is in the kernel */
	uint64_t tx_tcp_put;	 /* TCP position: bytes given to the kernel, pads included */
	uint64_t tx_pads;	 /* pads among them */
	uint64_t tx_epoch;	 /* = mine->epoch */
	uint64_t tx_head;	 /* = mine->head */
	_Atomic uint64_t tx_seq; /* sleeps of the room word armed by pad */
	_Atomic uint64_t tx_sleeper; /* waker that sleeps for room now; 0 none */
	_Atomic uint64_t
		tx_full; /* sends that found no room: each makes an edge of the next room */

	alignas(XVM_LINE) _Atomic uint64_t n_tx_tcp, n_rx_tcp; /* stream bytes by TCP, for ss */
	_Atomic uint64_t n_tx_ring, n_rx_ring;		       /* stream bytes by ring, for ss */
	_Atomic uint32_t opt_nodelay, opt_cork;	  /* what the application believes is set */
	_Atomic int64_t rcvtimeo_us, sndtimeo_us; /* 0: none */
	uint64_t tx_resend;			  /* C2, under tx_lock: see xvm_tx_resend() */

	alignas(XVM_LINE) struct xvm_shm_holder holders[XVM_HOLDERS];

	/* Addresses, once known: v4 as v4-mapped; ports in host order. */
	alignas(XVM_LINE) uint8_t laddr[16];
	uint8_t raddr[16];
	uint16_t lport, rport;
	_Atomic uint32_t medium; /* XVM_MEDIUM_*: where the halves lie */
};
static_assert(sizeof(struct xvm_shm_ep) == 448, "layout is ABI");

#define XVM_MEDIUM_NONE 0u
#define XVM_MEDIUM_MEMFD 1u
#define XVM_MEDIUM_REGION 2u /* and more: plus the index of the ivshmem region */

enum xvm_role { XVM_ROLE_UNKNOWN, XVM_ROLE_ACTIVE, XVM_ROLE_PASSIVE };

#define XVM_EPF_NONBLOCK 1u	/* O_NONBLOCK on the open file description */
#define XVM_EPF_TX_SHUT 2u	/* shutdown(SHUT_WR) was called here */
#define XVM_EPF_RX_SHUT 4u	/* shutdown(SHUT_RD) was called here */
#define XVM_EPF_NEVER 8u	/* must not enter again: reason says why */
#define XVM_EPF_FIN_SEEN 16u	/* the kernel has reported the peer's FIN */
#define XVM_EPF_SEEN 32u	/* xvmd has closed its copy of the offered socket */
#define XVM_EPF_LINGER 64u	/* SO_LINGER was set: ask the kernel at close */
#define XVM_EPF_RX_POS 128u	/* rx_tcp_got is known */
#define XVM_EPF_TX_POS 256u	/* tx_tcp_put is known */
#define XVM_EPF_PADS_RST 512u	/* the kernel's reset was about pads: it is a FIN to the program */
#define XVM_EPF_CUT 1024u	/* receives by TCP alone, for good (C1) */
#define XVM_EPF_FIN_DUE 2048u	/* shutdown(SHUT_WR) of the kernel waits for owed bytes */
#define XVM_EPF_PEER_DEAD 8192u /* the machine at the other end is dead */
#define XVM_EPF_ERR_SEEN                                                                           \
	16384u		     /* the kernel has told the connection's error, to us or to others     \
			      */
#define XVM_EPF_LOWAT 32768u /* SO_RCVLOWAT is more than one byte */
#define XVM_EPF_GIVEN 4096u  /* others hold it too that are no holders: no close is the last */

/* By a FIN; or by an error, which goes first if it is not told yet. */
enum { XVM_END_NONE, XVM_END_FIN, XVM_END_ERROR };

/* What goes to the kernel before anything else: the pad of a leave, or what was recalled. */
enum { XVM_OWED_NOTHING, XVM_OWED_PAD, XVM_OWED_BYTES };

#define XVM_WANT_LEAVE 1u /* off the ring until told otherwise */

/* Counters of one process family. */
/* clang-format off */
#define XVM_COUNTERS(X) \
	X(offers) X(paired) X(refused) X(enters) X(leaves) X(pads_sent) \
	X(pads_taken) X(rings) X(sleeps) X(spins_won) X(spins_lost) X(broken) \
	X(connections)
/* clang-format on */

struct xvm_shm_arena {
	uint32_t magic;
	uint32_t version;
	uint32_t ep_size; /* sizeof(struct xvm_shm_ep) */
	uint32_t ep_max;
	uint32_t ep_off;
	uint32_t pad;
	_Atomic uint32_t ep_hi; /* slots from here on were never used */
	_Atomic uint32_t pad2;
	_Atomic uint64_t ep_free;	      /* free list: ABA count << 32 | 1 + slot */
	_Atomic uint32_t next[XVM_ARENA_EPS]; /* links of the free list */
#define X(name) _Atomic uint64_t n_##name;
	XVM_COUNTERS(X)
#undef X
};

/* ---- table: residency and mail ---------------------------------------- */

#define XVM_TABLE_MAGIC 0x6c626174u /* "tabl" */
#define XVM_CLIENTS_MAX 16384
#define XVM_RES_SLOTS 16384 /* open addressing, a power of two */

#define XVM_RES_USED 1u
#define XVM_RES_AMBIGUOUS 2u /* in more than one namespace or VM */
#define XVM_RES_LOCAL 4u     /* in the daemon's own namespace */
#define XVM_RES_VM 8u	     /* in a VM, or (in a VM) in another VM or on the host: see REGION.md */
#define XVM_RES_SEEN 16u     /* of a VM: its host has seen the address there, not only its MAC */
#define XVM_RES_REGION(flags) ((flags) >> 8 & 0xff) /* with XVM_RES_VM: by which region */
#define XVM_RES_IN_REGION(i) (XVM_RES_VM | (uint32_t)(i) << 8)

struct xvm_shm_res {
	uint8_t addr[16]; /* v4 as v4-mapped */
	uint32_t flags;
	uint32_t where; /* id of the namespace, for `xvm resident`; daemon's own numbering */
};

/* Written by xvmd only. */
struct xvm_shm_table {
	uint32_t magic;
	uint32_t version;
	uint32_t size; /* bytes of the whole table */
	uint32_t pad;
	alignas(XVM_LINE) _Atomic uint64_t seq; /* seqlock of res[]: odd while it changes */
	_Atomic uint64_t count;			/* entries in res[] */
	/* mail[i] counts the messages ever sent to client i: a client looks here, not at its socket
	 */
	alignas(XVM_LINE) _Atomic uint64_t mail[XVM_CLIENTS_MAX];
	alignas(XVM_LINE) struct xvm_shm_res res[XVM_RES_SLOTS];
};

#endif
