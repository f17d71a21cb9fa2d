/* SPDX-License-Identifier: Apache-2.0 */
/* The two directions of a paired socket: rx.c, tx.c, pads.c and cut.c. PROTOCOL.md has the rules.
 */
#ifndef XVM_SHIM_STREAM_H
#define XVM_SHIM_STREAM_H

#include <errno.h>
#include <sys/uio.h>

#include "shim/sock.h"

/* One call's buffer. Advances as bytes move. */
struct xvm_io {
	struct iovec *iov;
	size_t iovcnt;
	size_t off;	    /* bytes of iov[0] that are done */
	size_t left;	    /* bytes that are not */
	struct msghdr *msg; /* recvmsg, sendmsg: for the kernel's other results, or NULL */
	int flags;	    /* MSG_* */
	bool some;	    /* received already, by this call: it does not pass an urgent mark */
	bool mark;	    /* which it has come to */
};

/* A fault spoils at most so much of a call. */
#define XVM_IO_CHUNK (32 << 10)

/* Do n bytes take but one copy? */
static inline bool xvm_io_simple(const struct xvm_io *io, size_t n)
{
	return n <= XVM_IO_CHUNK && n <= io->iov[0].iov_len - io->off;
}

/* The next bytes to copy, at iov[i] + off, done of n being done: within one chunk and one buffer.
 */
static inline size_t xvm_io_piece(const struct xvm_io *io, size_t i, size_t off, size_t done,
				  size_t n)
{
	size_t k = io->iov[i].iov_len - off, chunk = XVM_IO_CHUNK - done % XVM_IO_CHUNK;

	if (k > n - done)
		k = n - done;
	return k < chunk ? k : chunk;
}

static inline ssize_t xvm_io_fault(size_t done)
{
	done -= done % XVM_IO_CHUNK;
	return done ? (ssize_t)done : -EFAULT;
}

/* Receive or send as the call would: bytes, 0, or a negative errno (-EPIPE raises SIGPIPE
 * as the kernel would). Waits unless the socket or the flags say otherwise. */
ssize_t xvm_rx(struct xvm_sock *s, int fd, struct xvm_io *io);
ssize_t xvm_tx(struct xvm_sock *s, int fd, struct xvm_io *io);

/* Tell the peer which of its eventfds we have. */
void xvm_sock_publish(struct xvm_sock *s);

/* Readiness from shared memory alone. */
bool xvm_rx_peek(struct xvm_sock *s);
bool xvm_tx_peek(struct xvm_sock *s);

/* Readiness with the lock, after the kernel said kernel (EPOLL* bits, or 0). Result: EPOLLIN |
 * EPOLLRDHUP. */
uint32_t xvm_rx_ready(struct xvm_sock *s, int fd, uint32_t kernel);
uint32_t xvm_tx_ready(struct xvm_sock *s, int fd, uint32_t kernel);

size_t xvm_rx_pending(struct xvm_sock *s, int fd); /* FIONREAD */

/* From inside any call on the socket: consent for the direction that is not the call's own; enter
 * with one that has nothing to send, so that its pads can wake the peer. Tried, not insisted on. */
void xvm_rx_consent(struct xvm_sock *s, int fd);
void xvm_tx_enter(struct xvm_sock *s, int fd);

/* Rule W2, after consuming. */
void xvm_rx_room(struct xvm_sock *s, int fd);

/* Rule S3, if it may be, or C2. 0, or -EAGAIN: not yet, or something is still owed. With tx_lock
 * not held. */
int xvm_tx_leave(struct xvm_sock *s, int fd, enum xvm_reason why);
/* A pad, to find out whether anybody is there (S7). */
int xvm_tx_probe(struct xvm_sock *s, int fd);
/* Is anything owed to the kernel? Then room there is waited for whatever the application wants. */
static inline bool xvm_tx_owes(const struct xvm_sock *s)
{
	return *(volatile uint16_t *)&s->ep->tx_owed != XVM_OWED_NOTHING;
}
/* C2: up to where in the ring it has been sent again. It goes with tx_tcp_put alone, so that the
 * heir of a killed sender knows it from the kernel's count. */
static inline uint64_t xvm_tx_resend(const struct xvm_shm_ep *ep)
{
	return *(volatile uint64_t *)&ep->tx_resend + *(volatile uint64_t *)&ep->tx_tcp_put;
}
/* S6: shutdown(SHUT_WR) of a paired socket, before the kernel's. False: the kernel's comes later,
 * when what is owed has been sent. */
bool xvm_tx_shutdown(struct xvm_sock *s, int fd);
/* Can the peer wake us for room by pad (W4)? */
bool xvm_tx_pad_wakes(struct xvm_sock *s);
/* Rule W2: wake the peer that sleeps by word. locked: tx_lock is held. */
void xvm_tx_wake(struct xvm_sock *s, int fd, uint64_t word, _Atomic uint64_t *rung, bool locked);

/* SO_ERROR, taken: the connection's error, if nobody was told yet. kernel: what the kernel has just
 * said. */
int xvm_sock_error(struct xvm_sock *s, int fd);
int xvm_error_so(struct xvm_sock *s, int kernel);
/* Rule C1: off the ring for good, and the peer resends by TCP what was not taken. 0;
 * -EINPROGRESS: done, but the peer has not said yet that it will; -EAGAIN: not yet; -EBUSY: it
 * cannot be done; or another negative errno. */
int xvm_cut_rx(struct xvm_sock *s, int fd);
/* handover.c: take both directions off the ring for good, or reset. Waits for the peer, but not
 * long. */
void xvm_hand_over(struct xvm_sock *s, int fd, enum xvm_reason why);
/* All of the process's sockets, of which some will be used so: none is reset. */
void xvm_hand_over_all(enum xvm_reason why);
/* The same for what another program image inherits: surely what lies on descriptors 0 to 2; perhaps
 * the rest, which is not reset. holder: its process is one of the endpoints' holders. */
void xvm_hand_over_inherited(enum xvm_reason why, bool holder);
/* Take the pads that are there: the process is about to end. Is input left unread? */
bool xvm_pads_tidy(struct xvm_sock *s, int fd);
/* Before the last close: take pads, and say whether input is left unread (then TCP resets). */
bool xvm_pads_finish(struct xvm_sock *s, int fd);
/* What is owed is sent. False: the peer does not take it; then the end has to be a reset. */
bool xvm_tx_finish(struct xvm_sock *s, int fd);

/* The peer wrote nonsense: reset. Returns -ECONNRESET. */
int xvm_sock_broken(struct xvm_sock *s, int fd);

/* Wait for EPOLLIN or EPOLLOUT until the deadline (ns, 0: none). 0: look again, by *fd, which may
 * have been closed meanwhile; -EAGAIN: time is up; -EINTR. timed: the socket has a timeout, so an
 * interrupted call is not restarted. */
int xvm_sock_wait(struct xvm_sock *s, int *fdp, uint32_t what, uint64_t deadline, bool timed);

/*
 * ep->rx_busy, ep->tx_busy: the heir of a killed holder believes them, so what they guard must lie
 * between the two stores in the machine's code as well. No more is needed: a killed process has
 * done all up to some instruction.
 */
static inline void xvm_busy(uint16_t *busy, bool on)
{
	atomic_signal_fence(memory_order_seq_cst);
	*(volatile uint16_t *)busy = on;
	atomic_signal_fence(memory_order_seq_cst);
}

/* For more input than a peek has found, which waits for all. Negative: look only once more. */
int xvm_sock_wait_more(struct xvm_sock *s, int *fdp, uint64_t deadline);

/* Empty buffers at the head would make the kernel's 0 look like an end. */
static inline void xvm_io_trim(struct xvm_io *io)
{
	while (io->left && io->iov[0].iov_len == io->off) {
		io->iov++;
		io->iovcnt--;
		io->off = 0;
	}
}

/*
 * io.c: a call on fd. The socket, if it is paired and the call ours to make; to be put. Else the
 * call is the kernel's: in *counted what is to be given to unclaim afterwards, with the call's
 * result, which it returns (rules R1, S2). A cancellation point, as those calls are.
 */
struct xvm_counted {
	struct xvm_sock *s; /* or NULL */
	bool rx;
	uint32_t forks; /* xvm_forks when it was counted */
};
struct xvm_sock *xvm_io_claim(int fd, bool rx, struct xvm_counted *counted);
ssize_t xvm_io_unclaim(struct xvm_counted *counted, ssize_t result);
/* A message on a paired socket, which is put. */
ssize_t xvm_io_recvmsg(struct xvm_sock *s, int fd, struct msghdr *msg, int flags);
ssize_t xvm_io_sendmsg(struct xvm_sock *s, int fd, const struct msghdr *msg, int flags);
/* On what is not tracked: descriptors that came in a message, or are about to go in one. */
void xvm_io_arrived(const struct msghdr *msg);
void xvm_io_leaving(const struct msghdr *msg);
/* Before a send: MSG_OOB keeps fd off the ring, also before it is paired. */
void xvm_io_urgent(int fd, int flags);
/* For the variable: the thread may be cancelled in the kernel's call. */
#define XVM_CLEANUP __attribute__((cleanup(xvm_io_cancelled)))
static inline void xvm_io_cancelled(struct xvm_counted *counted)
{
	if (counted->s)
		xvm_io_unclaim(counted, 0);
}

static inline void xvm_io_advance(struct xvm_io *io, size_t n)
{
	io->left -= n;
	while (n) {
		size_t k = io->iov[0].iov_len - io->off;

		if (n < k) {
			io->off += n;
			break;
		}
		n -= k;
		io->iov++;
		io->iovcnt--;
		io->off = 0;
	}
	xvm_io_trim(io);
}

#endif
