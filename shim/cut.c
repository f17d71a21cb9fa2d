/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Off the ring though it holds bytes that R has not taken: the receiver cuts its direction (C1),
 * and the sender, when it notices, sends again by TCP what was not taken (C2). Where each of the
 * two looks for what the other may have done meanwhile: C3, C4. handover.c is whom this is for.
 */
#define XVM_REAL_IS_QUIET
#include "shim/epoll.h"
#include "shim/stream_priv.h"
#include "transport/lock.h"

#define LOOKS_MAX 1000

/* ---- receiving, under rx_lock ------------------------------------------ */

static int cut_locked(struct xvm_sock *s)
{
	if (s->ep->rx_epoch & 1)
		xvm_rx_reach_locked(s, s->ep->rx_epoch + 1);
	atomic_fetch_or(&s->ep->flags, XVM_EPF_CUT);
	xvm_epoll_changed(s);
	return 0;
}

int xvm_cut_decide_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	ssize_t r;

	/* A peer that lies may change what it says for ever: it is not waited for in here. */
	for (int looks = 0; looks < LOOKS_MAX; looks++) {
		/* In this order; pairs with the stores in xvm_cut_recall_locked(). */
		uint64_t epoch = atomic_load(&p->epoch), recalled = atomic_load(&p->recalled);
		uint64_t put = atomic_load(&p->tcp_put), bnd = atomic_load(&p->bnd_tcp);
		uint64_t due = put - ep->rx_tcp_got;
		bool left = epoch != ep->rx_epoch;

		if (!(ep->rx_epoch & 1)) { /* on TCP */
			if (!left && !recalled)
				return cut_locked(s);
			if (!(atomic_load(&ep->flags) & XVM_EPF_RX_POS))
				return xvm_sock_broken(s, fd);
			if ((int64_t)(bnd - ep->rx_tcp_got) > 0)
				return put == bnd ? cut_locked(s) : -EBUSY;
			if (!recalled) {
				if (epoch != ep->rx_epoch + 1 || bnd != ep->rx_tcp_got)
					return xvm_sock_broken(s, fd);
				xvm_rx_reach_locked(s, epoch);
				continue;
			}
		} else if (!recalled) {
			if (left && epoch != ep->rx_epoch + 1)
				return xvm_sock_broken(s, fd);
			if (left && bnd == ep->rx_tcp_got)
				return -EBUSY; /* its pad has been taken */
			if (left)
				due = bnd - 1 - ep->rx_tcp_got;
		}
		if (due >= 1u << 30)
			return xvm_sock_broken(s, fd);
		if (due == 0 && (recalled || !left))
			return cut_locked(s);
		if (!xvm_readable(fd))
			return -EAGAIN;
		/* Said before anything is sent again: what was there until now is a pad. */
		if (!recalled && (atomic_load(&p->recalled) || atomic_load(&p->tcp_put) != put))
			continue;
		if (due == 0)
			return -EBUSY; /* the pad of its leave, or the end */
		r = xvm_pads_discard_locked(s, fd, due);
		if (r == -EAGAIN || r == -EINTR)
			return -EAGAIN;
		if (r <= 0) /* the end: who is gone resends nothing */
			return recalled ? cut_locked(s) : -EBUSY;
	}
	return -EAGAIN;
}

int xvm_cut_rx(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};
	uint64_t avail;
	bool ended;
	int r;

	if (xvm_lock(&ep->rx_lock) < 0)
		return -EAGAIN;
	xvm_rx_recount_locked(s, fd);
	r = xvm_rx_settle_locked(s, fd, &avail);
	if (r < 0 && r != -EAGAIN)
		goto out;
	/* C1: stored before the looks; pairs with the looks in tx.c, pads.c and ready.c. */
	atomic_store(&s->mine.shm->consent, XVM_CONSENT_CUT);
	atomic_thread_fence(memory_order_seq_cst);
	r = xvm_rx_settle_locked(s, fd, &avail);
	if (r < 0 || !xvm_cut_done(s)) {
		/* It reads on by the rules of reading, and may come to TCP by them. */
		if (r == 0 && !avail && !(ep->rx_epoch & 1) &&
		    atomic_load(&p->epoch) == ep->rx_epoch)
			r = cut_locked(s);
		else if (r == 0)
			r = -EBUSY;
		goto out;
	}
	/* C4: nobody may be left to resend. */
	if (atomic_load(&p->head) != ep->rx_tail && !atomic_load(&p->recalled)) {
		ended = REAL(poll)(&pfd, 1, 0) > 0;
		if (!atomic_load(&p->recalled))
			r = ended ? -EBUSY : -EINPROGRESS;
	}
out:
	xvm_unlock(&ep->rx_lock);
	return r;
}

/* ---- sending, under tx_lock ------------------------------------------- */

int xvm_cut_recall_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm;
	uint64_t tail;

	xvm_tx_recount_locked(s, fd);
	tail = atomic_load_explicit(&s->peer.shm->tail, memory_order_acquire);
	if (ep->tx_head - tail > s->mine.ring_size)
		return xvm_sock_broken(s, fd);
	/* Killed in here: xvm_tx_recount_locked() finds the epoch odd, or what is owed, and all is
	 * done anew. */
	xvm_busy(&ep->tx_busy, true);
	if (ep->tx_owed == XVM_OWED_PAD)
		ep->tx_tcp_put--;
	ep->tx_resend = tail - ep->tx_tcp_put;
	atomic_signal_fence(memory_order_seq_cst);
	ep->tx_owed = XVM_OWED_BYTES;
	atomic_store_explicit(&m->tcp_put, ep->tx_tcp_put, memory_order_relaxed);
	/* Before anything is sent: then what R finds without it is a pad. Before the epoch: then
	 * R does not take that for a leave. Pairs with the loads in xvm_cut_decide_locked(). */
	atomic_store(&m->recalled, 1);
	if (ep->tx_epoch & 1) {
		ep->tx_epoch++;
		atomic_store(&m->epoch, ep->tx_epoch);
		XVM_COUNT(leaves);
	}
	xvm_busy(&ep->tx_busy, false);
	atomic_store(&ep->reason, XVM_R_PEER_LEFT);
	atomic_fetch_or(&ep->flags, XVM_EPF_NEVER);
	return 0;
}

/* One stretch of the ring's bytes that were recalled (C2). */
static ssize_t resend_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	uint64_t pos = xvm_tx_resend(ep);
	size_t n = (size_t)(ep->tx_head - pos);
	const uint8_t *at = xvm_half_at(&s->mine, pos, &n);
	ssize_t r;

	xvm_busy(&ep->tx_busy, true);
	if (!xvm_conf.sandboxed) {
		r = REAL(send)(fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else if (xvm_writable(fd)) {
		r = REAL(write)(fd, at, n < 4096 ? n : 4096);
	} else {
		errno = EAGAIN;
		r = -1;
	}
	if (r > 0)
		ep->tx_tcp_put += (uint64_t)r;
	xvm_busy(&ep->tx_busy, false);
	return r < 0 ? -errno : r;
}

/* Nothing is owed any more. */
static void paid_locked(struct xvm_sock *s, int fd)
{
	s->ep->tx_owed = XVM_OWED_NOTHING;
	if (atomic_fetch_and(&s->ep->flags, ~XVM_EPF_FIN_DUE) & XVM_EPF_FIN_DUE)
		REAL(shutdown)(fd, SHUT_WR);
	xvm_epoll_changed(s);
}

int xvm_cut_resend_locked(struct xvm_sock *s, int fd)
{
	while (xvm_tx_resend(s->ep) != s->ep->tx_head) {
		int r = (int)resend_locked(s, fd);

		if (r < 0) {
			xvm_error_keep(s, -r);
			return r;
		}
	}
	paid_locked(s, fd);
	return 0;
}
