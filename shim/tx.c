/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sending direction: enter (S1), leave (S3), publishing (S5), the end (S6), and noticing that
 * nobody is there (S7). Everything named *_locked runs under ep->tx_lock and never waits.
 */
#define XVM_REAL_IS_QUIET
#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/position.h"
#include "shim/stream_priv.h"
#include "transport/lock.h"

/* A rough clock without a system call, to ask the kernel at most about once a millisecond. */
static uint64_t ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return xvm_now_ns() * 2;
#endif
}
#define TICKS_MS 2000000

#define FINISH_MS 1000 /* a close waits so long for a peer that takes nothing of what is owed */

static int owed_pad_locked(struct xvm_sock *s, int fd)
{
	int r;

	xvm_busy(&s->ep->tx_busy, true);
	r = xvm_pads_send(fd);
	/* Where it can never be sent, the kernel's end or error tells R. */
	if (r != -EAGAIN && r != -EINTR && r != -ENOBUFS)
		s->ep->tx_owed = XVM_OWED_NOTHING;
	xvm_busy(&s->ep->tx_busy, false);
	if (r < 0) {
		xvm_error_keep(s, -r);
		return r;
	}
	s->ep->tx_pads++;
	XVM_COUNT(pads_sent);
	return 0;
}

/* What goes to the kernel before anything else: the pad of a leave (S3), or what was recalled (C2).
 * 0 if nothing is left of it. */
static int owed_locked(struct xvm_sock *s, int fd)
{
	int r;

	if (s->ep->tx_owed == XVM_OWED_NOTHING)
		return 0;
	if (s->ep->tx_owed == XVM_OWED_PAD) {
		/* C3, S6: the epoch is out; pairs with xvm_cut_rx() and xvm_pads_finish(). */
		atomic_thread_fence(memory_order_seq_cst);
		if (!xvm_cut_by_peer(s)) {
			if (!atomic_load(&s->peer.shm->rx_closed))
				return owed_pad_locked(s, fd);
			s->ep->tx_owed = XVM_OWED_NOTHING;
			return 0;
		}
		r = xvm_cut_recall_locked(s, fd);
		if (r < 0)
			return r;
	}
	return xvm_cut_resend_locked(s, fd);
}

/* S3, if it may be now; or C2, where R has cut. -EAGAIN: not yet, or something is still owed. */
static int leave_locked(struct xvm_sock *s, int fd, enum xvm_reason why)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm;

	if (!(ep->tx_epoch & 1))
		return owed_locked(s, fd) == -EAGAIN ? -EAGAIN : 0;
	xvm_tx_recount_locked(s, fd);
	if (xvm_cut_by_peer(s)) {
		int r = xvm_cut_recall_locked(s, fd);

		if (r == 0)
			r = owed_locked(s, fd) == -EAGAIN ? -EAGAIN : 0;
		xvm_epoll_changed(s);
		return r;
	}
	/* Nothing follows, or nobody reads it: a pad would draw an RST, or could not be sent. */
	if ((atomic_load(&ep->flags) & XVM_EPF_TX_SHUT) || atomic_load(&s->peer.shm->rx_closed))
		return 0;
	if (atomic_load_explicit(&s->peer.shm->reached, memory_order_acquire) != ep->tx_epoch)
		return -EAGAIN;
	/* Its holder may be killed from here on: see xvm_tx_recount_locked(). */
	xvm_busy(&ep->tx_busy, true);
	ep->tx_tcp_put++;
	atomic_store_explicit(&m->bnd_tcp, ep->tx_tcp_put, memory_order_relaxed);
	atomic_store_explicit(&m->bnd_ring, ep->tx_head, memory_order_relaxed);
	atomic_store_explicit(&m->tcp_put, ep->tx_tcp_put, memory_order_relaxed);
	ep->tx_owed = XVM_OWED_PAD;
	ep->tx_epoch++;
	/* Pairs with the acquire in settle_locked(): the boundary is there before the epoch. */
	atomic_store_explicit(&m->epoch, ep->tx_epoch, memory_order_release);
	xvm_busy(&ep->tx_busy, false);
	atomic_store(&ep->reason, why);
	XVM_COUNT(leaves);
	owed_locked(s, fd);
	xvm_epoll_changed(s);
	return 0;
}

/* S1, if it may be now. */
static bool enter_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm, *p = s->peer.shm;
	uint32_t flags = atomic_load_explicit(&ep->flags, memory_order_relaxed);
	uint64_t pos;
	int r;

	/* S7: after the peer's FIN it could not wait for room. */
	if (xvm_conf.sandboxed || ep->tx_owed ||
	    (flags & (XVM_EPF_NEVER | XVM_EPF_TX_SHUT | XVM_EPF_FIN_SEEN)))
		return false;
	xvm_tx_recount_locked(s, fd);
	if (atomic_load_explicit(&ep->want, memory_order_relaxed) & XVM_WANT_LEAVE)
		return false;
	if (atomic_load(&p->consent) != XVM_CONSENT_YES ||
	    atomic_load_explicit(&p->reached, memory_order_acquire) != ep->tx_epoch)
		return false;
	if (atomic_load(&p->rx_closed))
		return false;
	if (atomic_load(&ep->ksend))
		return false;
	if (xvm_holders_unmapped(ep)) {
		atomic_store(&ep->reason, XVM_R_SHARED);
		return false;
	}
	if (!(flags & XVM_EPF_TX_POS)) {
		r = xvm_position_tx(fd, atomic_load(&ep->role) == XVM_ROLE_ACTIVE, &pos);
		if (r < 0) {
			if (r != -EAGAIN)
				xvm_sock_never(s, XVM_R_NO_TCP_INFO);
			return false;
		}
		ep->tx_tcp_put = pos;
		atomic_fetch_or(&ep->flags, XVM_EPF_TX_POS);
	}
	atomic_store_explicit(&m->bnd_tcp, ep->tx_tcp_put, memory_order_relaxed);
	atomic_store_explicit(&m->bnd_ring, ep->tx_head, memory_order_relaxed);
	atomic_store_explicit(&m->tcp_put, ep->tx_tcp_put, memory_order_relaxed);
	xvm_busy(&ep->tx_busy, true);
	ep->tx_epoch++;
	atomic_store_explicit(&m->epoch, ep->tx_epoch, memory_order_release);
	xvm_busy(&ep->tx_busy, false);
	atomic_store(&ep->reason, XVM_R_NONE);
	XVM_COUNT(enters);
	xvm_epoll_changed(s);
	return true;
}

void xvm_tx_inherit_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm;
	uint64_t pos;
	int r = -EAGAIN;

	ep->tx_epoch = atomic_load(&m->epoch);
	if (ep->tx_epoch & 1)
		ep->tx_owed = XVM_OWED_NOTHING; /* killed before the leave was published */
	if (atomic_load(&ep->flags) & XVM_EPF_TX_POS)
		for (int i = 0; i < 100 && r == -EAGAIN; i++)
			r = xvm_position_tx(fd, atomic_load(&ep->role) == XVM_ROLE_ACTIVE, &pos);
	if (r == 0 && ep->tx_owed == XVM_OWED_PAD) {
		/* Published with the pad in it, which may have been sent by now. */
		ep->tx_tcp_put = atomic_load(&m->bnd_tcp);
		if (pos == ep->tx_tcp_put)
			ep->tx_owed = XVM_OWED_NOTHING;
	} else if (r == 0) {
		ep->tx_tcp_put = pos;
		if (ep->tx_epoch & 1)
			atomic_store(&m->tcp_put, pos);
	}
	xvm_busy(&ep->tx_busy, false);
}

/* With what a holder that was killed has left behind put in order. */
static int lock_tx(struct xvm_sock *s, int fd)
{
	int r = xvm_lock(&s->ep->tx_lock);

	if (r == 0)
		xvm_tx_recount_locked(s, fd);
	return r;
}

/* One kernel send, never waiting. */
static ssize_t kernel_send(int fd, struct xvm_io *io)
{
	int flags = io->flags | MSG_DONTWAIT;
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	struct iovec one;
	struct msghdr mh;
	ssize_t r;

	if (xvm_conf.sandboxed) {
		size_t n = io->iov[0].iov_len - io->off;

		if (REAL(poll)(&pfd, 1, 0) == 0)
			return -EAGAIN;
		/* What poll promises; a blocking socket must not block in here. */
		r = REAL(write)(fd, (char *)io->iov[0].iov_base + io->off, n < 4096 ? n : 4096);
		return r < 0 ? -errno : r;
	}
	if (io->msg && io->iov == io->msg->msg_iov && !io->off) {
		r = REAL(sendmsg)(fd, io->msg, flags);
		return r < 0 ? -errno : r;
	}
	memset(&mh, 0, sizeof(mh));
	mh.msg_iov = io->iov;
	mh.msg_iovlen = io->iovcnt;
	if (io->off) {
		one.iov_base = (char *)io->iov[0].iov_base + io->off;
		one.iov_len = io->iov[0].iov_len - io->off;
		mh.msg_iov = &one;
		mh.msg_iovlen = 1;
	}
	r = REAL(sendmsg)(fd, &mh, flags);
	return r < 0 ? -errno : r;
}

static ssize_t kernel_send_nothing(int fd, struct xvm_io *io)
{
	ssize_t r = xvm_conf.sandboxed ? 0 : REAL(send)(fd, "", 0, io->flags | MSG_DONTWAIT);

	return r < 0 ? -errno : 0;
}

/* The kernel has an error for this send, or a call of ours has taken it. EPIPE and its signal it
 * tells as often as it is asked; but should it have nothing to tell, nothing may be sent. */
static ssize_t send_fails(struct xvm_sock *s, int fd, struct xvm_io *io)
{
	int err = xvm_error_take(s->ep);
	ssize_t r;

	if (err && err != EPIPE)
		return -err;
	r = xvm_conf.sandboxed ? kernel_send(fd, io) : kernel_send_nothing(fd, io);
	return r ? r : -EAGAIN;
}

/*
 * S7: unread bytes lie in the ring and the reader does not move, or its end has come. About once a
 * millisecond ask the kernel; after the FIN send a pad, which draws an RST if nobody is
 * there. Negative: the kernel has an error for this send.
 */
static int deserted_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	bool fin = atomic_load_explicit(&ep->flags, memory_order_relaxed) & XVM_EPF_FIN_SEEN;
	struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};
	uint64_t now = ticks();
	int r;

	if (s->stuck_tsc == 0)
		s->stuck_tsc = fin ? now - TICKS_MS : now;
	if (now - s->stuck_tsc < TICKS_MS)
		return 0;
	s->stuck_tsc = now;
	if (fin) {
		r = xvm_pads_put_locked(s, fd);
		return r == -EAGAIN || r == -EINTR || r == -ENOBUFS ? 0 : r;
	}
	if (REAL(poll)(&pfd, 1, 0) > 0) {
		ep->rx_kcheck = 1;
		if (pfd.revents & POLLRDHUP)
			atomic_fetch_or(&ep->flags, XVM_EPF_FIN_SEEN);
		/* Not POLLERR alone, which a time stamp makes too: the kernel would send. */
		if (pfd.revents & POLLHUP)
			return -EPIPE;
	}
	return 0;
}

/* Bytes, or -EFAULT; the counterpart of copy_out(). */
static ssize_t copy_in(struct xvm_sock *s, const struct xvm_io *io, uint64_t pos, size_t n)
{
	size_t done = 0, off = io->off;

	if (xvm_io_simple(io, n))
		return xvm_user_put(&s->mine, pos, (char *)io->iov[0].iov_base + off, n) < 0
			       ? -EFAULT
			       : (ssize_t)n;
	for (size_t i = 0; done < n;) {
		size_t k = xvm_io_piece(io, i, off, done, n);

		if (xvm_user_put(&s->mine, pos + done, (char *)io->iov[i].iov_base + off, k) < 0)
			return xvm_io_fault(done);
		done += k;
		off += k;
		if (off == io->iov[i].iov_len)
			i++, off = 0;
	}
	return (ssize_t)n;
}

/* Bytes sent, or -EAGAIN where there is no room now. S5, G1. */
static ssize_t put_locked(struct xvm_sock *s, int fd, struct xvm_io *io)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm, *p = s->peer.shm;
	uint64_t used, word;
	uint32_t flags;
	int64_t room;
	ssize_t r;
	size_t n;

	xvm_tx_recount_locked(s, fd);
	r = owed_locked(s, fd);
	if (r < 0)
		return r == -EPIPE || atomic_load(&ep->err) ? send_fails(s, fd, io) : r;
	if (ep->tx_epoch & 1) {
		flags = atomic_load_explicit(&ep->flags, memory_order_relaxed);
		if (atomic_load_explicit(&p->rx_closed, memory_order_relaxed) ||
		    (flags & XVM_EPF_TX_SHUT))
			return kernel_send(fd, io); /* it has an error to tell, and a signal */
		if (atomic_load_explicit(&p->consent, memory_order_relaxed) != XVM_CONSENT_YES)
			leave_locked(s, fd, XVM_R_PEER_LEFT);
		else if (flags & XVM_EPF_NEVER)
			leave_locked(s, fd, atomic_load(&ep->reason) ?: XVM_R_UNSUPPORTED);
		else if (atomic_load_explicit(&ep->want, memory_order_relaxed) & XVM_WANT_LEAVE)
			leave_locked(s, fd, XVM_R_OPERATOR);
		if (ep->tx_owed)
			return -EAGAIN;
	}
	if (!(ep->tx_epoch & 1) && !enter_locked(s, fd)) {
		xvm_busy(&ep->tx_busy, true);
		r = kernel_send(fd, io);
		if (r > 0)
			ep->tx_tcp_put += (uint64_t)r;
		xvm_busy(&ep->tx_busy, false);
		if (r > 0) {
			atomic_fetch_add_explicit(&ep->n_tx_tcp, (uint64_t)r, memory_order_relaxed);
		}
		return r;
	}

	used = ep->tx_head - s->peer_tail;
	if (used) { /* the copy says it is not empty: see what the reader has done since */
		uint64_t tail = atomic_load_explicit(&p->tail, memory_order_acquire);

		used = ep->tx_head - tail;
		if (used > s->mine.ring_size)
			return xvm_sock_broken(s, fd);
		if (tail != s->peer_tail) {
			s->peer_tail = tail;
			s->stuck_tsc = 0;
		} else if (deserted_locked(s, fd) < 0) {
			return send_fails(s, fd, io);
		}
	} else if (!(atomic_load_explicit(&ep->flags, memory_order_relaxed) & XVM_EPF_FIN_SEEN)) {
		s->stuck_tsc = 0;
	} else if (deserted_locked(s, fd) < 0) {
		return send_fails(s, fd, io);
	}
	/* G1: what finds no room makes some. */
	do
		room = xvm_half_room(&s->mine, ep->tx_head, s->peer_tail);
	while (room >= 0 && (size_t)room < io->left && xvm_half_grow(&s->mine, ep->tx_head, room));
	if (room < 0)
		return xvm_sock_broken(s, fd);
	n = (size_t)room;
	if (n < io->left) {
		/* As after a short send on TCP, room that comes is an edge. */
		atomic_fetch_add_explicit(&ep->tx_full, 1, memory_order_relaxed);
		xvm_epoll_changed(s);
		if (n == 0)
			return -EAGAIN;
	} else {
		n = io->left;
	}
	r = copy_in(s, io, ep->tx_head, n);
	if (r < 0)
		return r;
	ep->tx_head += (size_t)r;
	atomic_store_explicit(&ep->n_tx_ring, ep->tx_head, memory_order_relaxed);
	/* S5: the bytes before the head that covers them; pairs with the acquire in
	 * settle_locked(). */
	atomic_store_explicit(&m->head, ep->tx_head, memory_order_release);
	/* W1, W2: head is out before the word is read; pairs with the fence in xvm_sock_arm(). */
	atomic_thread_fence(memory_order_seq_cst);
	word = atomic_load_explicit(&p->sleep_data, memory_order_relaxed);
	if (word != atomic_load_explicit(&s->rung_data, memory_order_relaxed))
		xvm_tx_wake(s, fd, word, &s->rung_data, true);
	if (__builtin_expect(xvm_cut_by_peer(s),
			     0)) /* C2: after the publication; pairs with xvm_cut_rx() */
		leave_locked(s, fd, XVM_R_PEER_LEFT);
	return r;
}

void xvm_tx_enter(struct xvm_sock *s, int fd)
{
	if ((*(volatile uint64_t *)&s->ep->tx_epoch & 1) ||
	    !atomic_load_explicit(&s->peer.shm->consent, memory_order_relaxed) ||
	    xvm_trylock(&s->ep->tx_lock) < 0)
		return;
	xvm_tx_recount_locked(s, fd);
	if (!(s->ep->tx_epoch & 1))
		enter_locked(s, fd);
	xvm_unlock(&s->ep->tx_lock);
}

/* A millisecond. */
static ssize_t pass(uint64_t deadline)
{
	if (REAL(poll)(NULL, 0, 1) < 0)
		return -EINTR;
	return deadline && xvm_now_ns() >= deadline ? -EAGAIN : 0;
}

ssize_t xvm_tx(struct xvm_sock *s, int fd, struct xvm_io *io)
{
	bool urgent;
	struct xvm_shm_ep *ep = s->ep;
	bool wait = !(io->flags & MSG_DONTWAIT) && !(atomic_load(&ep->flags) & XVM_EPF_NONBLOCK);
	int64_t timeo = atomic_load_explicit(&ep->sndtimeo_us, memory_order_relaxed);
	uint64_t deadline = 0;
	ssize_t r, done = 0;
	uint32_t forks = xvm_forks;

	if ((io->flags & (MSG_OOB | MSG_ZEROCOPY)) || (io->msg && io->msg->msg_controllen))
		xvm_sock_never(s, XVM_R_UNSUPPORTED);
	/* Taken from the kernel and not yet told: of those who might tell it we are the first. */
	if (__builtin_expect(atomic_load_explicit(&ep->err, memory_order_relaxed), 0)) {
		r = send_fails(s, fd, io);
		if (r != -EAGAIN)
			return r;
	}
	if (io->left == 0) { /* none to move, but perhaps an error to tell */
		r = kernel_send_nothing(fd, io);
		if (r < 0)
			xvm_error_told(s, (int)-r);
		return r;
	}
	xvm_link_poll();
	xvm_sock_publish(s);
	xvm_rx_consent(s, fd);
	xvm_io_trim(io);
	for (;;) {
		r = xvm_lock(&ep->tx_lock);
		if (r < 0)
			return wait ? -EINTR : -EAGAIN;
		if ((io->flags & (MSG_OOB | MSG_ZEROCOPY)) && (ep->tx_epoch & 1))
			leave_locked(s, fd, XVM_R_UNSUPPORTED);
		urgent = (io->flags & MSG_OOB) && (ep->tx_epoch & 1) &&
			 !atomic_load(&s->peer.shm->rx_closed) &&
			 !(atomic_load(&ep->flags) & XVM_EPF_TX_SHUT);
		r = urgent ? -EAGAIN : put_locked(s, fd, io);
		if (!xvm_unlock(&ep->tx_lock) && forks != xvm_forks)
			return -EINTR; /* adrift.c */
		if (r > 0) {
			done += r;
			if ((size_t)r == io->left || !wait)
				return done;
			xvm_io_advance(io, (size_t)r);
			io->flags |= MSG_NOSIGNAL; /* what is done is told, not the error */
			continue;
		}
		if (r != -EAGAIN || !wait)
			break;
		if (timeo && !deadline)
			deadline = xvm_now_ns() + (uint64_t)timeo * 1000;
		/* S3: on the ring nothing is urgent, so wait until R has passed the enter. It says
		 * so to nobody. */
		r = urgent ? pass(deadline)
			   : xvm_sock_wait(s, &fd, EPOLLOUT, deadline, timeo || done);
		if (r < 0)
			break;
	}
	if (r < 0 && done)
		xvm_error_keep(s, (int)-r);
	else if (r < 0)
		xvm_error_told(s, (int)-r);
	return done ? done : r;
}

void xvm_tx_wake(struct xvm_sock *s, int fd, uint64_t word, _Atomic uint64_t *rung, bool locked)
{
	unsigned w = XVM_SLEEP_WAKER(word);

	unsigned first = s->proc && s->proc->vm ? XVM_WAKER_VECTOR : XVM_WAKER_FD;

	if (w >= first && s->proc && xvm_link_ring(s->proc, w - first, XVM_SLEEP_SEQ(word))) {
		atomic_store_explicit(rung, word, memory_order_relaxed);
		return;
	}
	if (!locked && lock_tx(s, fd) < 0)
		return;
	/* Amid TCP data a pad would be data (W4): then the sleeper has a bound of its own. */
	if ((s->ep->tx_epoch & 1) && !(atomic_load(&s->ep->flags) & XVM_EPF_TX_SHUT)) {
		/* No room for a pad: the peer has bytes to read, or will be asked again. */
		int r = xvm_pads_put_locked(s, fd);

		if (r != -EAGAIN)
			atomic_store_explicit(rung, word, memory_order_relaxed);
	}
	if (!locked)
		xvm_unlock(&s->ep->tx_lock);
}

int xvm_tx_probe(struct xvm_sock *s, int fd)
{
	if (lock_tx(s, fd) < 0)
		return -EAGAIN;
	if (s->ep->tx_epoch & 1)
		xvm_pads_put_locked(s, fd);
	xvm_unlock(&s->ep->tx_lock);
	return 0;
}

bool xvm_tx_pad_wakes(struct xvm_sock *s)
{
	return (*(volatile uint64_t *)&s->ep->rx_epoch & 1) &&
	       atomic_load(&s->peer.shm->epoch) == *(volatile uint64_t *)&s->ep->rx_epoch &&
	       !atomic_load(&s->peer.shm->fin) && !(atomic_load(&s->ep->flags) & XVM_EPF_FIN_SEEN);
}

int xvm_tx_leave(struct xvm_sock *s, int fd, enum xvm_reason why)
{
	int r = lock_tx(s, fd);

	if (r < 0)
		return -EAGAIN;
	r = leave_locked(s, fd, why);
	xvm_unlock(&s->ep->tx_lock);
	return r;
}

bool xvm_tx_shutdown(struct xvm_sock *s, int fd)
{
	bool now = true;

	if (lock_tx(s, fd) < 0)
		return now;
	owed_locked(s, fd);
	if (s->ep->tx_epoch & 1) {
		atomic_store(&s->mine.shm->fin, s->ep->tx_head + 1);
		/* C4: stored before the look; pairs with xvm_cut_rx(). */
		atomic_thread_fence(memory_order_seq_cst);
		if (xvm_cut_by_peer(s))
			leave_locked(s, fd, XVM_R_PEER_LEFT);
	}
	atomic_fetch_or(&s->ep->flags, XVM_EPF_TX_SHUT);
	if (s->ep->tx_owed == XVM_OWED_BYTES) {
		atomic_fetch_or(&s->ep->flags, XVM_EPF_FIN_DUE);
		now = false;
	}
	xvm_unlock(&s->ep->tx_lock);
	return now;
}

bool xvm_tx_finish(struct xvm_sock *s, int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	bool done;
	int r;

	if (lock_tx(s, fd) < 0)
		return true;
	/* C4: rx_closed was stored, and a fence, before. */
	if ((s->ep->tx_epoch & 1) && xvm_cut_by_peer(s))
		xvm_cut_recall_locked(s, fd);
	do {
		uint64_t before = s->ep->tx_tcp_put;

		r = owed_locked(s, fd);
		if (r != -EAGAIN || s->ep->tx_owed != XVM_OWED_BYTES)
			break;
		/* TCP would send it behind our back; as long as the peer takes some, wait. */
		if (before == s->ep->tx_tcp_put && REAL(poll)(&pfd, 1, FINISH_MS) == 0)
			break;
	} while (true);
	done = s->ep->tx_owed != XVM_OWED_BYTES;
	xvm_unlock(&s->ep->tx_lock);
	return done;
}

bool xvm_tx_peek(struct xvm_sock *s)
{
	uint64_t used;

	if (!(*(volatile uint64_t *)&s->ep->tx_epoch & 1))
		return false;
	if (atomic_load_explicit(&s->peer.shm->rx_closed, memory_order_relaxed) ||
	    xvm_cut_by_peer(s) ||
	    (atomic_load_explicit(&s->ep->flags, memory_order_relaxed) & XVM_EPF_TX_SHUT))
		return true;
	used = *(volatile uint64_t *)&s->ep->tx_head -
	       atomic_load_explicit(&s->peer.shm->tail, memory_order_acquire);
	return used <= s->mine.ring_size / 2; /* W5 */
}

uint32_t xvm_tx_ready(struct xvm_sock *s, int fd, uint32_t kernel)
{
	if (*(volatile uint64_t *)&s->ep->tx_epoch & 1)
		return xvm_tx_peek(s) || (kernel & (EPOLLERR | EPOLLHUP)) ? EPOLLOUT : 0;
	return xvm_tx_owes(s) ? 0 : kernel & EPOLLOUT;
}
