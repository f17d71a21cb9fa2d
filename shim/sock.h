/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracked socket as this process sees it, and the two directions of its stream.
 *
 * Shared with forks: the endpoint (struct xvm_shm_ep, in the arena). Private to the process:
 * struct xvm_sock, which holds the mappings. All of the process's descriptors of one open file
 * share one xvm_sock. Lives in type-stable memory, so a stale pointer may always be looked at.
 */
#ifndef XVM_SHIM_SOCK_H
#define XVM_SHIM_SOCK_H

#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "shim/fdtab.h"
#include "transport/half.h"

struct xvm_waker;
struct xvm_reg;
struct xvm_peer;

struct xvm_sock {
	struct xvm_file file; /* first: kind XVM_FILE_SOCK */
	struct xvm_shm_ep *ep;
	uint32_t slot, gen;	    /* of ep; offers are known by them */
	_Atomic uint32_t paired;    /* 1: mine and peer are mapped in this process */
	bool inherited;		    /* paired before a fork: only the pad may wake us here */
	bool fork_on, fork_counted; /* how it was counted before the last fork */
	bool fork_held;		    /* which came while the thread held its locks: adrift.c */
	bool adopted;  /* came to us open: others may hold it that we know nothing of */
	bool ashore;   /* unplug.c: mine and peer are copies, of what is final */
	bool unpaired; /* unplug.c: and so are all others' */
	bool last;     /* this process was the last holder: the endpoint goes with the socket */
	_Atomic uint32_t asleep; /* calls that wait for it */
	_Atomic int kept; /* closed while others are in a call: a descriptor for them; or -1 */
	struct xvm_half mine, peer;
	struct xvm_peer *proc;	     /* the process at the other end */
	uint64_t cookie;	     /* SO_COOKIE, once paired */
	_Atomic uint64_t res_seq;    /* the table when the peer's address was last looked up */
	_Atomic uint32_t offered_to; /* xvm_link_count when it was offered; 0: that is not
				      * done yet, or it is a candidate */
	_Atomic uint8_t last_call;   /* before it is offered: 1 to send, 2 to receive */
	uint64_t piece;		     /* where its half lies, in a region */

	uint64_t peer_tail, stuck_tsc;	       /* tx_lock: last tail seen; S7 */
	_Atomic uint64_t rung_data, rung_room; /* the peer's sleep words last acted on (W2) */
	_Atomic(struct xvm_reg *) regs;	       /* epchange.c: registrations of this socket */
};

/* A reference to fd's socket, to be put; NULL if fd is not tracked. Async-signal-safe. */
struct xvm_sock *xvm_sock_get(int fd);
static inline void xvm_sock_put(struct xvm_sock *s)
{
	xvm_file_put(&s->file);
}

/* A call waits for it no more. A fork that came amid that, from a signal handler, has forgotten it
 * in the child. */
static inline void xvm_sock_awake(struct xvm_sock *s)
{
	uint32_t n = atomic_load(&s->asleep);

	while (n && !atomic_compare_exchange_weak(&s->asleep, &n, n - 1))
		;
}

/* Must its readiness be asked of us (it is paired), rather than of the kernel alone? */
static inline bool xvm_sock_on(const struct xvm_sock *s)
{
	return atomic_load_explicit(&s->paired, memory_order_acquire) != 0;
}

/*
 * For paired sockets. What poll(2) would report now, of EPOLLIN EPOLLOUT EPOLLRDHUP EPOLLHUP
 * EPOLLERR EPOLLPRI and the EPOLL*NORM bits, limited to interest (ERR and HUP always count).
 * kernel: what the kernel has just reported for fd; 0 where it was not asked. The result holds of
 * the kernel's bits just what is true of the stream: a pad is not EPOLLIN, and on the ring
 * the kernel's EPOLLOUT means nothing. Pads that are due are taken if the kernel reported input.
 * Also takes the chances that a call on the fd offers: consent, and obeying the operator.
 */
uint32_t xvm_sock_poll(struct xvm_sock *s, int fd, uint32_t interest, uint32_t kernel);

/* The same from shared memory alone, without a lock or a system call: what a spinning wait looks
 * at. May miss what only the kernel knows; never says what is not so. */
uint32_t xvm_sock_peek(struct xvm_sock *s, uint32_t interest);

/*
 * What to ask of the kernel for this fd while waiting for interest. Always has EPOLLIN; has
 * EPOLLOUT only while sending is on TCP. Changes when the sending direction enters or leaves, of
 * which xvm_epoll_changed() tells.
 */
uint32_t xvm_sock_kmask(struct xvm_sock *s, uint32_t interest);

/*
 * Rule W1: about to sleep for interest (EPOLLIN: data, EPOLLOUT: room), to be woken by w with
 * number seq, or by pad if w is NULL or cannot serve (W3); without w, seq is who sleeps: a number
 * that no other thread or epoll of the process has, the same to disarm. The caller looks again
 * (xvm_sock_poll or peek) before it sleeps, and disarms with the same w afterwards.
 * Returns the number of ms that the sleep may last at most, -1 for no bound (W4).
 */
int xvm_sock_arm(struct xvm_sock *s, int fd, uint32_t interest, struct xvm_waker *w, uint64_t seq);
void xvm_sock_disarm(struct xvm_sock *s, uint32_t interest, struct xvm_waker *w, uint64_t who);

/* Armed for room without a bound, and about to ask the kernel for kmask: could nobody end that
 * sleep (W4, S7)? Then it needs a bound. */
bool xvm_sock_unwakeable(struct xvm_sock *s, uint32_t kmask);

/* Does who is named in ep->rx_sleeper or tx_sleeper live? */
bool xvm_sock_sleeps(_Atomic uint64_t *sleeper);

/* Counters that move whenever new input (or end of input), or new room, has come: for edges. */
struct xvm_edge {
	uint64_t in, out;
};
struct xvm_edge xvm_sock_edge(struct xvm_sock *s);

/* Is the peer's CPU, as it last said, the one that this thread runs on? Then spinning is vain. */
bool xvm_sock_same_cpu(struct xvm_sock *s);

/* Never again on the ring, for this reason: leaves as soon as it may, does not consent. Forbid: the
 * consent is the caller's business. */
void xvm_sock_never(struct xvm_sock *s, enum xvm_reason why);
void xvm_sock_forbid(struct xvm_sock *s, enum xvm_reason why);

/* ---- sock.c: for the rest of the shim ------------------------------------ */

/* Start to track a connected (or connecting) TCP socket. No memory: it is not tracked. */
void xvm_sock_track(int fd, enum xvm_role role);
/* fd, or where that was closed meanwhile, another descriptor of s; -1: there is none. */
int xvm_sock_fd(struct xvm_sock *s, int fd);
/* All descriptors that are tracked: for (fd = 0; (s = xvm_sock_next(&fd)); fd++), each to be put.
 */
struct xvm_sock *xvm_sock_next(int *fd);
/* The virtual machine at the other end is dead: what the kernel says is a reset. */
void xvm_sock_peer_dead(uint32_t slot, uint32_t gen);
/* The operator's wish, for fd or all (-1): how many sockets obey. */
unsigned xvm_sock_wish(int fd, bool leave);

/* ---- offer.c ------------------------------------------------------------- */

/* A call on a socket that is not paired: counts, offers, takes note of answers. True: paired now.
 */
bool xvm_offer_engage(struct xvm_sock *s, int fd, bool rx);
/* What xvmd says of an offer: that it has it, that it comes to nothing, or that it is paired.
 * err < 0: the peer's half could not be mapped. proc, if there is one, is a reference that is taken
 * over. */
void xvm_offer_seen(uint32_t slot, uint32_t gen);
/* The daemon that it was made to is gone: it may be offered anew. */
void xvm_offer_lapsed(struct xvm_sock *s);
void xvm_offer_refused(uint32_t slot, uint32_t gen, uint32_t why);
/* A daemon speaks of a region that a former one has told us of. What was offered to that and not
 * answered may be offered again. kept: pieces are still ours, to give back. */
void xvm_offer_again(unsigned region, bool kept);
void xvm_offer_paired(uint32_t slot, uint32_t gen, uint32_t role, int err, struct xvm_half *half,
		      struct xvm_peer *proc);

/* ---- ending.c ------------------------------------------------------------ */

/* fd is about to leave this process's table. Does what must precede the kernel's close (S6). */
void xvm_ending_close(int fd);
/* A call that counts itself in s->asleep is about to sleep by fd, with nothing by which a close
 * could wake it: a descriptor that nobody closes, or fd. */
int xvm_ending_keep(struct xvm_sock *s, int fd);
/* exit(), _exit(): pads that are left unread would make the kernel reset the connections. */
void xvm_ending_exit(void);
/* One of our own descriptors has another number. */
void xvm_ending_vacated(int fd, int to);

/* ---- holders.c ----------------------------------------------------------- */

/* R1: a fork that shares the socket and lacks the mapping may still be alive. */
bool xvm_holders_unmapped(struct xvm_shm_ep *ep);
/* exec() is about to be tried with fd open. */
void xvm_holders_exec(int fd);
/* Fork: before it, after one that failed, and in the child. */
void xvm_holders_forking(void);
void xvm_holders_fork_failed(void);
void xvm_holders_forked(void);
/* In a child that has lost those on the ring. */
void xvm_holders_lost(void);

/* ---- the arena (sock.c) -------------------------------------------------- */

/* Make the arena if that has not been done. False: no memory. */
bool xvm_sock_arena(void);
extern struct xvm_shm_arena *xvm_arena;
extern int xvm_arena_fd;
#define XVM_COUNT(name) XVM_COUNT_BY(name, 1)
#define XVM_COUNT_BY(name, n)                                                                      \
	atomic_fetch_add_explicit(&xvm_arena->n_##name, (uint64_t)(n), memory_order_relaxed)

#endif
