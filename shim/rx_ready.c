/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to be received, said without taking it. */
#define XVM_REAL_IS_QUIET
#include <linux/sockios.h>

#include "shim/stream_priv.h"
#include "transport/lock.h"

bool xvm_rx_peek(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint64_t epoch = atomic_load_explicit(&p->epoch, memory_order_acquire);
	uint64_t mine = *(volatile uint64_t *)&ep->rx_epoch;

	if (__builtin_expect(xvm_cut_done(s), 0))
		return false;
	if (mine & 1) {
		uint64_t tail = *(volatile uint64_t *)&ep->rx_tail, fin;

		if (epoch !=
		    mine) /* left: more of the ring, or the boundary, if its pads are taken */
			return atomic_load_explicit(&p->bnd_ring, memory_order_relaxed) != tail ||
			       atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed) ==
				       *(volatile uint64_t *)&ep->rx_tcp_got;
		fin = atomic_load_explicit(&p->fin, memory_order_relaxed);
		return atomic_load_explicit(&p->head, memory_order_acquire) != tail ||
		       (fin && fin == tail + 1) || ep->rx_end;
	}
	return epoch != mine && atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed) ==
					*(volatile uint64_t *)&ep->rx_tcp_got;
}

/* Back on TCP: is there input now? What the kernel reported may have been a pad, that of the leave,
 * which has been taken since; a call that blocks must not be promised it. */
static uint32_t still(struct xvm_sock *s, int fd, uint32_t kernel)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	if (!(kernel & EPOLLIN) || s->ep->rx_epoch == 0)
		return kernel & EPOLLIN;
	return REAL(poll)(&pfd, 1, 0) == 0 ? 0 : EPOLLIN;
}

uint32_t xvm_rx_ready(struct xvm_sock *s, int fd, uint32_t kernel)
{
	struct xvm_shm_ep *ep = s->ep;
	uint64_t avail;
	uint32_t out = 0;
	int r;

	if (xvm_lock(&ep->rx_lock) < 0)
		return xvm_rx_peek(s) ? EPOLLIN : 0;
	xvm_rx_recount_locked(s, fd);
	xvm_rx_consent_locked(s, fd);
	if (kernel)
		ep->rx_kcheck = 1;
	do {
		r = xvm_rx_settle_locked(s, fd, &avail);
		if (r < 0) {
			out = r == -EAGAIN ? 0 : EPOLLIN;
			break;
		}
		if (avail) {
			out = EPOLLIN;
			/* Pads must not stay: a level-triggered wait would spin on them. */
			if (kernel & EPOLLIN && (ep->rx_epoch & 1))
				xvm_pads_ask_locked(s, fd);
			break;
		}
		if (ep->rx_end) {
			out = EPOLLIN;
			break;
		}
		if (!(ep->rx_epoch & 1)) {
			out = still(s, fd, kernel);
			break;
		}
		if (atomic_load(&s->peer.shm->fin) == ep->rx_tail + 1 &&
		    atomic_load(&s->peer.shm->epoch) == ep->rx_epoch) {
			xvm_rx_eof_locked(s);
			out = EPOLLIN;
			break;
		}
		if (atomic_load(&s->peer.shm->epoch) != ep->rx_epoch)
			break; /* the leave pad is under way and will be reported */
	} while (ep->rx_kcheck && xvm_pads_ask_locked(s, fd));
	if ((out & EPOLLIN) && (atomic_load(&ep->flags) & XVM_EPF_LOWAT) &&
	    !xvm_rx_enough_locked(s, fd))
		out = 0;
	/* The end is input: behind it the kernel has no more. */
	if ((atomic_load(&ep->flags) & XVM_EPF_RX_SHUT) || (kernel & (EPOLLRDHUP | EPOLLHUP)))
		out |= EPOLLIN;
	if ((atomic_load(&ep->flags) & (XVM_EPF_FIN_SEEN | XVM_EPF_RX_SHUT)) ||
	    atomic_load(&s->peer.shm->fin)) /* before the kernel is asked again */
		out |= EPOLLRDHUP;
	xvm_unlock(&ep->rx_lock);
	return out;
}

static size_t pending_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	uint64_t avail = 0, epoch;
	int inq = 0;

	if (xvm_rx_settle_locked(s, fd, &avail) != 0)
		return (size_t)avail;
	if (ep->rx_epoch & 1) {
		/* S has left: behind the boundary and its pads lie bytes of TCP. */
		if (atomic_load(&s->peer.shm->epoch) != ep->rx_epoch && !xvm_cut_begun(s) &&
		    REAL(ioctl)(fd, SIOCINQ, &inq) == 0) {
			uint64_t due = atomic_load(&s->peer.shm->bnd_tcp) - ep->rx_tcp_got;

			if ((uint64_t)inq > due)
				avail += (uint64_t)inq - due;
		}
	} else {
		epoch = atomic_load_explicit(&s->peer.shm->epoch, memory_order_acquire);
		REAL(ioctl)(fd, SIOCINQ, &inq);
		avail = (uint64_t)inq;
		epoch |= atomic_load_explicit(&s->peer.shm->epoch, memory_order_acquire);
		if (epoch != ep->rx_epoch && !xvm_cut_done(s)) {
			uint64_t left = atomic_load(&s->peer.shm->bnd_tcp) - ep->rx_tcp_got;

			if (avail >= left) {
				uint64_t more = atomic_load(&s->peer.shm->head) - ep->rx_tail;

				avail = left + (more <= s->peer.ring_size ? more : 0);
			}
		}
	}
	return (size_t)avail;
}

size_t xvm_rx_pending(struct xvm_sock *s, int fd)
{
	size_t n;

	if (xvm_lock(&s->ep->rx_lock) < 0)
		return 0;
	xvm_rx_recount_locked(s, fd);
	xvm_rx_consent_locked(s, fd);
	n = pending_locked(s, fd);
	xvm_unlock(&s->ep->rx_lock);
	return n;
}

/* R7: what is missing, as the kernel counts. What the kernel has and what we remember of it change
 * under the lock alone. */
static void lowat_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint32_t low = atomic_load(&ep->lowat);
	uint64_t epoch = atomic_load_explicit(&p->epoch, memory_order_acquire);
	uint64_t mine = *(volatile uint64_t *)&ep->rx_epoch, ring = 0;
	int v = (int)low;

	if (!(atomic_load(&ep->flags) & XVM_EPF_LOWAT) || xvm_conf.sandboxed)
		return;
	if (mine & 1)
		ring = (epoch == mine ? atomic_load(&p->head) : atomic_load(&p->bnd_ring)) -
		       *(volatile uint64_t *)&ep->rx_tail;
	/* With what is in the ring less is missing, and pads come before that; the first of them
	 * tells that S has left. */
	if (ring && ring < low)
		v = epoch == mine ? 1
				  : (int)(low - ring + atomic_load(&p->bnd_tcp) -
					  *(volatile uint64_t *)&ep->rx_tcp_got);
	/* What follows in the ring adds but a pad to what the kernel counts. */
	if (!(mine & 1) && epoch == mine + 1) {
		uint64_t due = atomic_load(&p->bnd_tcp) - *(volatile uint64_t *)&ep->rx_tcp_got + 1;

		if (due < low)
			v = (int)due;
	}
	if (v > 0 && atomic_exchange(&ep->rx_lowat, (uint32_t)v) != (uint32_t)v)
		REAL(setsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, &v, sizeof(v));
}

/* R7 */
void xvm_rx_lowat(struct xvm_sock *s, int fd)
{
	if (!(atomic_load(&s->ep->flags) & XVM_EPF_LOWAT) || xvm_lock(&s->ep->rx_lock) < 0)
		return;
	xvm_rx_recount_locked(s, fd);
	lowat_locked(s, fd);
	xvm_unlock(&s->ep->rx_lock);
}

bool xvm_rx_enough_locked(struct xvm_sock *s, int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN | POLLRDHUP};
	size_t low = atomic_load(&s->ep->lowat);
	int inq = 0;

	if (xvm_conf.sandboxed)
		return true;
	xvm_rx_recount_locked(s, fd);
	/* G1, W5: a sender that waits for room sends no more. */
	if ((atomic_load(&s->peer.shm->epoch) & 1) && low > s->peer.ring_size / 2)
		low = s->peer.ring_size / 2;
	if (s->ep->rx_end || atomic_load(&s->peer.shm->fin) ||
	    (atomic_load(&s->ep->flags) & (XVM_EPF_FIN_SEEN | XVM_EPF_RX_SHUT)) ||
	    pending_locked(s, fd) >= low)
		return true;
	lowat_locked(s, fd);
	if (REAL(poll)(&pfd, 1, 0) <= 0)
		return false;
	if (pfd.revents & ~POLLIN)
		return true;
	/* For want of memory it may report less; but it counts pads. */
	return REAL(ioctl)(fd, SIOCINQ, &inq) == 0 && (uint32_t)inq < atomic_load(&s->ep->rx_lowat);
}
