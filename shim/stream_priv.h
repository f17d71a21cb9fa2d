/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the two directions have in common: rx*.c, tx.c, pads.c, cut.c.
 * Everything named *_locked runs under the direction's lock, and never waits.
 */
#ifndef XVM_SHIM_STREAM_PRIV_H
#define XVM_SHIM_STREAM_PRIV_H

#include "shim/process.h"
#include "shim/quiet.h"
#include "shim/stream.h"

/*
 * A sandboxed program may make the system calls that it is known to make, read, write and poll
 * among them, but perhaps not recvmsg or sendmsg. These forms never wait.
 */
static inline bool xvm_readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	return xvm_quiet_poll(&pfd, 1, 0) > 0;
}

/* Without an error, for which write() would raise SIGPIPE. */
static inline bool xvm_writable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};

	return xvm_quiet_poll(&pfd, 1, 0) > 0 && pfd.revents == POLLOUT;
}

/* ---- error.c ------------------------------------------------------------- */

/* The kernel has told err (above 0): to the application; or to a call of our own, which is not the
 * one to tell it. */
void xvm_error_told(struct xvm_sock *s, int err);
void xvm_error_keep(struct xvm_sock *s, int err);
/* Nothing comes after it. */
bool xvm_error_final(int err);
/* What is kept, to be told now; or 0. */
static inline int xvm_error_take(struct xvm_shm_ep *ep)
{
	return atomic_load_explicit(&ep->err, memory_order_relaxed) ? atomic_exchange(&ep->err, 0)
								    : 0;
}

/* ---- cut.c -------------------------------------------------------------- */

/* Our consent was taken back by a cut. In force it is only when XVM_EPF_CUT says so. */
static inline bool xvm_cut_begun(struct xvm_sock *s)
{
	return atomic_load_explicit(&s->mine.shm->consent, memory_order_relaxed) == XVM_CONSENT_CUT;
}

static inline bool xvm_cut_done(struct xvm_sock *s)
{
	return atomic_load_explicit(&s->ep->flags, memory_order_relaxed) & XVM_EPF_CUT;
}

/* Has the reader cut the direction that we send in? */
static inline bool xvm_cut_by_peer(struct xvm_sock *s)
{
	return atomic_load_explicit(&s->peer.shm->consent, memory_order_relaxed) == XVM_CONSENT_CUT;
}

/*
 * Rule C1, consent being cut: what is S doing? Takes nothing but pads, and may be called again and
 * again. 0: cut; -EAGAIN: not to be told yet; -EBUSY: S had left by itself, or will be on the ring
 * until R has read on: then the rules of reading hold.
 */
int xvm_cut_decide_locked(struct xvm_sock *s, int fd);

/* C2. Also from the window between the epoch of a leave and its pad. */
int xvm_cut_recall_locked(struct xvm_sock *s, int fd);
/* C2: the ring's bytes that were recalled. 0: there are none left, and nothing is owed. */
int xvm_cut_resend_locked(struct xvm_sock *s, int fd);

/* ---- rx_path.c ---------------------------------------------------------- */

/* First of all under the lock: what a holder that was killed has left behind is put in order. What
 * it had not published has not happened. */
void xvm_rx_inherit_locked(struct xvm_sock *s, int fd);
static inline void xvm_rx_recount_locked(struct xvm_sock *s, int fd)
{
	s->ep->rx_tail = atomic_load_explicit(&s->mine.shm->tail, memory_order_relaxed);
	if (__builtin_expect(s->ep->rx_busy, 0))
		xvm_rx_inherit_locked(s, fd);
}
/* R1, if it may be now. */
void xvm_rx_consent_locked(struct xvm_sock *s, int fd);
/*
 * Pass the boundaries that have been reached (R2, R4). What is there then: bytes of the ring in
 * *avail, or (0) nothing that shared memory knows of. Negative: broken, or -EAGAIN: a cut that is
 * not decided.
 */
int xvm_rx_settle_locked(struct xvm_sock *s, int fd, uint64_t *avail);
void xvm_rx_reach_locked(struct xvm_sock *s, uint64_t epoch);
/* R7. Is as much there to be received as SO_RCVLOWAT says, or the end? */
bool xvm_rx_enough_locked(struct xvm_sock *s, int fd);
/* Before a sleep: what the kernel has to count. */
void xvm_rx_lowat(struct xvm_sock *s, int fd);
/* R5: the kernel's recv() has said 0; the peer has sent its FIN. */
void xvm_rx_zero_locked(struct xvm_sock *s);
void xvm_rx_eof_locked(struct xvm_sock *s);
/* R5: a reset that is no more than an end to the application. Then it has been noted as such. */
bool xvm_rx_only_pads_locked(struct xvm_sock *s, int err);
/* R5: the kernel has told of an error (above 0). */
void xvm_rx_error_locked(struct xvm_sock *s, int err);

/* ---- tx.c --------------------------------------------------------------- */

/* As xvm_rx_recount_locked(). */
void xvm_tx_inherit_locked(struct xvm_sock *s, int fd);
static inline void xvm_tx_recount_locked(struct xvm_sock *s, int fd)
{
	s->ep->tx_head = atomic_load_explicit(&s->mine.shm->head, memory_order_relaxed);
	if (__builtin_expect(s->ep->tx_busy, 0))
		xvm_tx_inherit_locked(s, fd);
}

/* ---- pads.c ------------------------------------------------------------- */

/* Throw away at most n bytes that are known to be pads: as recv() would answer. */
ssize_t xvm_pads_discard_locked(struct xvm_sock *s, int fd, uint64_t n);
/* On the ring with nothing in it: ask the kernel for pads, FIN and errors. True: look again. */
bool xvm_pads_ask_locked(struct xvm_sock *s, int fd);

/* One pad to the kernel, uncounted. */
int xvm_pads_send(int fd);
/* S4. 0 if a pad is on its way, or a negative errno, which is kept if it is the connection's. */
int xvm_pads_put_locked(struct xvm_sock *s, int fd);

#endif
