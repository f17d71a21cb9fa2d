/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the reader is: consent (R1), the boundaries that it passes (R2, R4), the end (R5).
 * Everything named *_locked runs under ep->rx_lock, and never waits.
 */
#define XVM_REAL_IS_QUIET
#include "shim/epoll.h"
#include "shim/position.h"
#include "shim/stream_priv.h"
#include "transport/lock.h"

/*
 * The holder of the lock may have been killed between the kernel's receive and our count of it:
 * then the kernel's count is the truth. What it had received is lost with it, as on TCP.
 */
void xvm_rx_inherit_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint64_t pos, over;
	int r;

	ep->rx_epoch = atomic_load(&s->mine.shm->reached);
	r = xvm_position_rx(fd, &pos);
	if (r == 0 || r == -ENOTCONN)
		ep->rx_tcp_got = pos;
	xvm_busy(&ep->rx_busy, false);
	/* R2: what it took may have reached into the pads behind the boundary. */
	over = ep->rx_tcp_got - atomic_load(&p->bnd_tcp);
	if (!(ep->rx_epoch & 1) && atomic_load(&p->epoch) == ep->rx_epoch + 1 &&
	    (int64_t)over > 0 && over <= atomic_load(&p->tcp_put) - atomic_load(&p->bnd_tcp))
		xvm_rx_reach_locked(s, ep->rx_epoch + 1);
}

void xvm_rx_consent_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	uint64_t pos;
	int r;

	if (atomic_load_explicit(&s->mine.shm->consent, memory_order_relaxed) ||
	    (atomic_load(&ep->flags) & XVM_EPF_NEVER) || (atomic_load(&ep->want) & XVM_WANT_LEAVE))
		return;
	if (xvm_conf.sandboxed || atomic_load(&ep->krecv) || xvm_holders_unmapped(ep))
		return;
	if (!(atomic_load(&ep->flags) & XVM_EPF_RX_POS)) {
		r = xvm_position_rx(fd, &pos);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			xvm_sock_forbid(s, XVM_R_NO_TCP_INFO);
			return;
		}
		ep->rx_tcp_got = pos;
		atomic_fetch_or(&ep->flags, XVM_EPF_RX_POS);
	}
	atomic_store(&s->mine.shm->consent, 1);
	/* Forbidden meanwhile: who forbids says so first, and then takes the consent back. */
	if ((atomic_load(&ep->flags) & XVM_EPF_NEVER) || (atomic_load(&ep->want) & XVM_WANT_LEAVE))
		atomic_store(&s->mine.shm->consent, 0);
}

void xvm_rx_consent(struct xvm_sock *s, int fd)
{
	if (atomic_load_explicit(&s->mine.shm->consent, memory_order_relaxed) ||
	    xvm_trylock(&s->ep->rx_lock) < 0)
		return;
	xvm_rx_consent_locked(s, fd);
	xvm_unlock(&s->ep->rx_lock);
}

static void ended(struct xvm_sock *s, uint32_t end)
{
	if (!s->ep->rx_end)
		s->ep->rx_end = end;
	if (!(atomic_fetch_or(&s->ep->flags, XVM_EPF_FIN_SEEN) & XVM_EPF_FIN_SEEN))
		xvm_epoll_changed(s);
}

void xvm_rx_eof_locked(struct xvm_sock *s)
{
	ended(s, XVM_END_FIN);
}

void xvm_rx_zero_locked(struct xvm_sock *s)
{
	int err = atomic_load(&s->ep->err);

	/* The kernel tells an error once, and a call of ours was told. EPIPE is that of who has had
	 * the FIN. */
	if (err == EPIPE && xvm_rx_only_pads_locked(s, err))
		return;
	if (xvm_error_final(err) && err != EPIPE && !atomic_load(&s->peer.shm->fin))
		xvm_rx_error_locked(s, err);
	else if (atomic_load(&s->ep->flags) & XVM_EPF_RX_SHUT)
		/* It says so of our own shutdown, too, after which there may be an error. */
		atomic_fetch_or(&s->ep->flags, XVM_EPF_FIN_SEEN);
	else
		xvm_rx_eof_locked(s);
}

/*
 * The kernel resets a connection whose process ends with input unread, and takes pads for input.
 * Where nothing but pads of ours can have been unread, TCP would have sent a FIN: say what it would
 * say. Not where its own direction was on TCP: of that the reset may have cost bytes.
 */
bool xvm_rx_only_pads_locked(struct xvm_sock *s, int err)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint64_t sending = *(volatile uint64_t *)&ep->tx_epoch, epoch = atomic_load(&p->epoch);
	bool ring = (epoch & 1) &&
		    (epoch == ep->rx_epoch || atomic_load(&p->bnd_tcp) == ep->rx_tcp_got);

	if ((err == ECONNRESET || err == EPIPE) && !(atomic_load(&ep->flags) & XVM_EPF_PEER_DEAD) &&
	    ring && (sending & 1) && *(volatile uint64_t *)&ep->tx_pads &&
	    atomic_load(&p->reached) == sending &&
	    atomic_load(&p->tail) == atomic_load(&s->mine.shm->head) &&
	    !atomic_load(&p->rx_closed) && !atomic_load(&s->mine.shm->rx_closed)) {
		/* S6: to us, had we closed, it would have sent none: what drew it was data. */
		atomic_fetch_or(&ep->flags, XVM_EPF_PADS_RST | XVM_EPF_ERR_SEEN);
		xvm_error_take(ep);
		xvm_rx_eof_locked(s);
		return true;
	}
	return false;
}

void xvm_rx_error_locked(struct xvm_sock *s, int err)
{
	int kept = atomic_load(&s->ep->err);

	/* What a pad was told first is the reason for what we are told now. */
	if (xvm_error_final(kept))
		err = kept;
	if (xvm_rx_only_pads_locked(s, err))
		return;
	/* Of a connection that xvmd has dissolved, as nobody can send an RST any more. */
	if (atomic_load(&s->ep->flags) & XVM_EPF_PEER_DEAD)
		err = ECONNRESET;
	xvm_error_keep(s, err);
	if (xvm_error_final(err))
		ended(s, XVM_END_ERROR);
}

void xvm_rx_reach_locked(struct xvm_sock *s, uint64_t epoch)
{
	xvm_busy(&s->ep->rx_busy, true);
	s->ep->rx_epoch = epoch;
	atomic_store_explicit(&s->mine.shm->reached, epoch, memory_order_release);
	xvm_busy(&s->ep->rx_busy, false);
	xvm_epoll_changed(s);
}

int xvm_rx_settle_locked(struct xvm_sock *s, int fd, uint64_t *avail)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;

	for (;;) {
		uint64_t epoch = atomic_load_explicit(&p->epoch, memory_order_acquire);
		uint64_t end;
		int err;

		*avail = 0;
		if (__builtin_expect(xvm_cut_begun(s), 0)) {
			if (xvm_cut_done(s))
				return 0;
			err = xvm_cut_decide_locked(s, fd);
			if (err != -EBUSY || !(ep->rx_epoch & 1))
				return err == -EBUSY ? 0 : err;
			epoch = atomic_load_explicit(&p->epoch, memory_order_acquire);
		}
		if (epoch != ep->rx_epoch && epoch != ep->rx_epoch + 1)
			return xvm_sock_broken(s, fd);
		if (!(ep->rx_epoch & 1)) { /* on TCP */
			uint64_t bnd = atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed);

			if (epoch == ep->rx_epoch)
				return 0;
			if (!(atomic_load(&ep->flags) & XVM_EPF_RX_POS) ||
			    (int64_t)(bnd - ep->rx_tcp_got) < 0 ||
			    atomic_load_explicit(&p->bnd_ring, memory_order_relaxed) != ep->rx_tail)
				return xvm_sock_broken(s, fd);
			if (bnd != ep->rx_tcp_got)
				return 0;
			xvm_rx_reach_locked(s, epoch);
			continue;
		}
		if (epoch == ep->rx_epoch) {
			/* Not a remembered one: what an edge has told of must be read in full. */
			end = atomic_load_explicit(&p->head, memory_order_acquire);
		} else {
			end = atomic_load_explicit(&p->bnd_ring, memory_order_relaxed);
		}
		*avail = end - ep->rx_tail;
		if (*avail > s->peer.ring_size)
			return xvm_sock_broken(s, fd);
		if (*avail || epoch == ep->rx_epoch)
			return 0;
		/* R4: drained, and the sender has left. Pads up to the boundary, then TCP. */
		uint64_t due =
			atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed) - ep->rx_tcp_got;

		if ((int64_t)due < 0)
			return xvm_sock_broken(s, fd);
		/* W6: one that sleeps for room by pad has to see it: there will be no other. */
		if (due && xvm_sock_sleeps(&ep->tx_sleeper) &&
		    XVM_SLEEP_WAKER(atomic_load(&s->mine.shm->sleep_room)) == XVM_WAKER_PAD)
			return 0;
		if (due) {
			ssize_t r = xvm_pads_discard_locked(s, fd, due);

			if (r == 0)
				xvm_rx_zero_locked(s);
			else if (r < 0 && r != -EAGAIN && r != -EINTR)
				xvm_rx_error_locked(s, (int)-r);
			if (r <= 0)
				return 0;
			continue;
		}
		xvm_rx_reach_locked(s, epoch);
	}
}
