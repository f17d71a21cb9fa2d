/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pads, the TCP bytes that are no stream data: sending them (S4), asking the kernel for them and
 * taking them (R3), as many as were counted and for all who sleep on the fd (W6), and the last of
 * them before a close (S6).
 */
#define XVM_REAL_IS_QUIET
#include "shim/stream_priv.h"
#include "transport/lock.h"

/* A pad that was counted comes at once, but its sender may have to wait for a CPU: one that comes
 * after the close would cost what we have sent last. A millisecond each. */
#define FINISH_LOOKS 300

#define PADS_MAX 64 /* receives of pads in a row */

/* ---- receiving, under rx_lock ---------------------------------------- */

ssize_t xvm_pads_discard_locked(struct xvm_sock *s, int fd, uint64_t n)
{
	ssize_t r;

	static char sink[4096];

	xvm_busy(&s->ep->rx_busy, true);
	if (xvm_conf.sandboxed) {
		char buf[256];

		errno = EAGAIN;
		r = xvm_readable(fd) ? REAL(read)(fd, buf, n < sizeof(buf) ? n : sizeof(buf)) : -1;
	} else {
		/* MSG_TRUNC: nothing is written. */
		r = REAL(recv)(fd, sink, n < sizeof(sink) ? n : sizeof(sink),
			       MSG_TRUNC | MSG_DONTWAIT);
	}
	if (r > 0) {
		s->ep->rx_tcp_got += (uint64_t)r;
		s->ep->rx_pads += (uint64_t)r;
		XVM_COUNT_BY(pads_taken, r);
	}
	xvm_busy(&s->ep->rx_busy, false);
	return r < 0 ? -errno : r;
}

/* As recv(MSG_PEEK) of one byte. In a sandbox it is taken, and is a pad that was just counted (S4).
 */
static ssize_t peek1(struct xvm_sock *s, int fd)
{
	ssize_t r;
	char c;

	if (xvm_conf.sandboxed)
		return xvm_pads_discard_locked(s, fd, 1);
	r = REAL(recv)(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
	return r < 0 ? -errno : r;
}

/* W6: store a new value in a word that somebody sleeps by, if it names the pad. */
static bool rearm(_Atomic uint64_t *sleeper, _Atomic uint64_t *word, _Atomic uint64_t *pads)
{
	uint64_t w = atomic_load(word);

	if (!atomic_load(sleeper) || XVM_SLEEP_WAKER(w) != XVM_WAKER_PAD)
		return false;
	/* By compare and exchange: the sleeper itself may be arming, with the next number. */
	atomic_compare_exchange_strong(word, &w,
				       XVM_SLEEP(atomic_fetch_add(pads, 1) + 2, XVM_WAKER_PAD));
	return true;
}

/*
 * W6: a pad is one for all who sleep on the fd. Before it is taken away they are armed anew; and it
 * stays where what they wait for is there, so that they wake as well.
 */
static bool keep_pads(struct xvm_sock *s)
{
	struct xvm_shm_half *m = s->mine.shm;
	bool data = rearm(&s->ep->rx_sleeper, &m->sleep_data, &s->ep->rx_seq);
	bool room = rearm(&s->ep->tx_sleeper, &m->sleep_room, &s->ep->tx_seq);

	if (!data && !room)
		return false;
	atomic_thread_fence(memory_order_seq_cst);
	/* One who was killed in his sleep takes no pad away. */
	return (data && xvm_rx_peek(s) && xvm_sock_sleeps(&s->ep->rx_sleeper)) ||
	       (room && xvm_tx_peek(s) && xvm_sock_sleeps(&s->ep->tx_sleeper));
}

bool xvm_pads_ask_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint64_t due;
	ssize_t r;

	if (ep->rx_end == XVM_END_ERROR)
		return false;
	ep->rx_kcheck = 0;
	for (int looks = 0, taken = 0;; looks++) {
		due = atomic_load_explicit(&p->tcp_put, memory_order_acquire) - ep->rx_tcp_got;
		if (ep->rx_end && !due)
			return false; /* told by the flag, with pads still to be taken */
		if (due > 0 && due < (1u << 30)) {
			if (keep_pads(s))
				return false;
			r = xvm_pads_discard_locked(s, fd, due);
		} else {
			r = peek1(s, fd);
			/* S4: a pad is counted before it is sent; look at the count again. */
			if (r > 0) {
				if (atomic_load(&p->epoch) != ep->rx_epoch)
					return true;
				if (looks < 3)
					continue;
				xvm_sock_broken(s, fd);
				return true;
			}
		}
		/* An honest peer sends one to a sleeper; one that lies is not to keep us here. */
		if (r > 0 && ++taken < PADS_MAX)
			continue;
		if (r > 0) {
			ep->rx_kcheck = 1;
			return false;
		}
		if (r == 0)
			xvm_rx_zero_locked(s);
		else if (r != -EAGAIN && r != -EINTR)
			xvm_rx_error_locked(s, (int)-r);
		/* R3: what was published before the kernel said so is there by now. */
		return ep->rx_end || atomic_load(&p->head) != ep->rx_tail ||
		       atomic_load(&p->epoch) != ep->rx_epoch;
	}
}

bool xvm_pads_tidy(struct xvm_sock *s, int fd)
{
	uint64_t avail = 0;

	if (xvm_lock(&s->ep->rx_lock) < 0)
		return false;
	if (xvm_rx_settle_locked(s, fd, &avail) == 0 && (s->ep->rx_epoch & 1))
		xvm_pads_ask_locked(s, fd);
	xvm_unlock(&s->ep->rx_lock);
	return avail != 0;
}

bool xvm_pads_finish(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint64_t avail = 0, due;
	ssize_t r;

	if (xvm_lock(&ep->rx_lock) < 0)
		return false;
	xvm_rx_recount_locked(s, fd);
	/* S6: nobody sends a pad after having seen this; pairs with xvm_pads_put_locked(). */
	atomic_store(&s->mine.shm->rx_closed, 1);
	atomic_thread_fence(memory_order_seq_cst);
	for (int i = 0; i < FINISH_LOOKS; i++) {
		if (xvm_rx_settle_locked(s, fd, &avail) < 0)
			break;
		due = atomic_load(&p->tcp_put) - ep->rx_tcp_got;
		if (!(ep->rx_epoch & 1) || !due || due >= (1u << 30) || ep->rx_end == XVM_END_ERROR)
			break;
		r = xvm_pads_discard_locked(s, fd, due);
		if (r == -EAGAIN)
			REAL(poll)(&pfd, 1, 1); /* counted, and about to be sent */
		else if (r == 0 || pfd.revents & (POLLHUP | POLLERR))
			break;
	}
	if (avail == 0)
		xvm_rx_settle_locked(s, fd, &avail);
	xvm_unlock(&ep->rx_lock);
	return avail != 0;
}

/* ---- sending, under tx_lock ------------------------------------------- */

int xvm_pads_send(int fd)
{
	ssize_t r;

	if (!xvm_conf.sandboxed)
		r = REAL(send)(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (xvm_writable(fd))
		r = REAL(write)(fd, "", 1);
	else
		return -EAGAIN;
	return r == 1 ? 0 : -errno;
}

int xvm_pads_put_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	int r;

	atomic_store(&s->mine.shm->tcp_put, ep->tx_tcp_put + 1);
	/* S4, S6, C3: counted before the look; pairs with xvm_pads_finish() and xvm_cut_rx(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (xvm_cut_by_peer(s) || atomic_load(&s->peer.shm->rx_closed)) {
		atomic_store(&s->mine.shm->tcp_put, ep->tx_tcp_put);
		return xvm_cut_by_peer(s) ? -EAGAIN : -EPIPE;
	}
	xvm_busy(&ep->tx_busy, true);
	r = xvm_pads_send(fd);
	if (r == 0) {
		ep->tx_tcp_put++;
		xvm_busy(&ep->tx_busy, false);
		ep->tx_pads++;
		XVM_COUNT(pads_sent);
		return 0;
	}
	xvm_busy(&ep->tx_busy, false);
	atomic_store(&s->mine.shm->tcp_put, ep->tx_tcp_put);
	if (r != -EAGAIN && r != -EINTR && r != -ENOBUFS)
		ep->rx_kcheck = 1;
	xvm_error_keep(s, -r);
	return r;
}
