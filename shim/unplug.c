/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device that halves lie in is about to be unplugged. Both directions of each socket go to TCP,
 * as when it is handed over: ours leaves (S3), the peer's is cut (C1), and the peer sends again
 * what was not taken. What both halves have then is final. Copies take their place, in one step, as
 * other threads may be looking; to the rest of the shim it is a peer that never consents again.
 *
 * A direction that the peer has left, or ended, with bytes unread need not be cut: they are in the
 * copy, and read there. Not where forks share the socket, who have copies of their own: there the
 * daemon's patience ends it.
 *
 * xvmd asks again and again, so nothing waits in here.
 */
#include <sys/mman.h>

#include "shim/epoll.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "shim/stream_priv.h"
#include "shim/vm.h"
#include "transport/lock.h"

/* ring: of the ring, too, as far as it has been used. */
static bool copy(struct xvm_half *h, int prot, bool ring)
{
	uint64_t windows = atomic_load(&h->shm->windows);
	size_t len = XVM_HALF_CTL;
	size_t off = (size_t)((char *)h->shm - (char *)h->map);
	long p = xvm_sys(SYS_mmap, 0, h->map_len, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (xvm_sys_failed(p))
		return false;
	if (ring)
		len += (size_t)h->first << (windows < h->last ? windows : h->last);
	memcpy((char *)p + off, h->shm, len);
	if (!xvm_sys(SYS_mprotect, p, h->map_len, prot) &&
	    !xvm_sys_failed(xvm_sys(SYS_mremap, p, h->map_len, h->map_len,
				    MREMAP_MAYMOVE | MREMAP_FIXED, h->map)))
		return true;
	xvm_sys(SYS_munmap, p, h->map_len);
	return false;
}

/* In our own ring there is nothing more to be sent. */
static bool copies(struct xvm_sock *s, bool unread)
{
	return copy(&s->peer, PROT_READ, unread) && copy(&s->mine, PROT_READ | PROT_WRITE, false);
}

/* Under rx_lock: has the peer left the ring for good, or ended, so that its half stays as it is? */
static bool final_locked(struct xvm_sock *s, int fd)
{
	struct xvm_shm_half *p = s->peer.shm;
	struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};

	/* It does not enter again: there is no consent. */
	if (!(atomic_load(&p->epoch) & 1))
		return true;
	return atomic_load(&p->fin) || REAL(poll)(&pfd, 1, 0) > 0;
}

/* Bytes lie in the ring that nobody would send again. */
static bool to_be_read(struct xvm_sock *s, int fd)
{
	uint64_t avail = 0;
	bool yes = false;

	if (xvm_cut_begun(s) || xvm_lock(&s->ep->rx_lock) < 0)
		return false;
	xvm_rx_recount_locked(s, fd);
	if (xvm_rx_settle_locked(s, fd, &avail) == 0 && avail && final_locked(s, fd)) {
		atomic_store(&s->mine.shm->consent, XVM_CONSENT_NO);
		yes = true;
	}
	xvm_unlock(&s->ep->rx_lock);
	return yes;
}

/* Its last word on the ring is fin: there is nothing to leave with. */
static bool shut(struct xvm_sock *s)
{
	return atomic_load(&s->ep->flags) & XVM_EPF_TX_SHUT;
}

static bool go_ashore(struct xvm_sock *s, int fd, bool unread)
{
	struct xvm_shm_ep *ep = s->ep;
	bool done = false;

	if (xvm_lock(&ep->rx_lock) < 0)
		return false;
	if (xvm_trylock(&ep->tx_lock) < 0)
		goto out;
	xvm_rx_recount_locked(s, fd);
	xvm_tx_recount_locked(s, fd);
	if (((ep->tx_epoch & 1) && !shut(s)) || ep->tx_owed != XVM_OWED_NOTHING ||
	    (unread && (!final_locked(s, fd) || xvm_holders_other(ep, false))))
		goto out_tx;
	done = copies(s, unread);
out_tx:
	xvm_unlock(&ep->tx_lock);
out:
	xvm_unlock(&ep->rx_lock);
	return done;
}

static void wake(struct xvm_sock *s, int fd, _Atomic uint64_t *sleep, _Atomic uint64_t *rung)
{
	uint64_t word = atomic_load(sleep);

	if (word != atomic_load(rung))
		xvm_tx_wake(s, fd, word, rung, false);
}

/* A fork may have mapped what we have left: the last says it. */
static void unpair(struct xvm_sock *s)
{
	if (s->unpaired || !xvm_holders_ashore(s->ep))
		return;
	s->unpaired = true;
	xvm_link_drop(s->slot, s->gen, true);
}

static void ashore(struct xvm_sock *s, int fd)
{
	s->ashore = true;
	atomic_store(&s->ep->reason, XVM_R_NO_DEVICE);
	unpair(s);
	xvm_epoll_changed(s);
	xvm_log(2, "fd %d: its device is unplugged: on TCP\n", fd);
}

/* The connection is dissolved, as its process was too late, or the other end's machine is dead.
 * Nothing is written: the device may have gone, and another have come where its memory was. */
static bool leave_dead(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	bool done = false;

	xvm_sock_forbid(s, XVM_R_NO_DEVICE);
	if (xvm_lock(&ep->rx_lock) < 0)
		return false;
	if (xvm_lock(&ep->tx_lock) == 0) {
		done = copies(s, true);
		xvm_unlock(&ep->tx_lock);
	}
	xvm_unlock(&ep->rx_lock);
	if (done)
		ashore(s, fd);
	return done;
}

/* True: it does not need the region any more. */
static bool leave(struct xvm_sock *s, int fd, bool late)
{
	bool unread;
	int rx = 0, tx = 0;

	xvm_sock_forbid(s, XVM_R_NO_DEVICE);
	unread = to_be_read(s, fd);
	if (!unread)
		rx = xvm_cut_rx(s, fd);
	if (!shut(s))
		tx = xvm_tx_leave(s, fd, XVM_R_NO_DEVICE);
	wake(s, fd, &s->peer.shm->sleep_data, &s->rung_data);
	wake(s, fd, &s->peer.shm->sleep_room, &s->rung_room);
	if (rx == -EBUSY) /* it reads on by the rules of reading */
		unread = true;
	else if (rx == -EAGAIN || (rx == -EINPROGRESS && !late))
		return false;
	if (tx == -EAGAIN || !go_ashore(s, fd, unread))
		return false;
	ashore(s, fd);
	return true;
}

void xvm_unplug(unsigned region, bool late, bool gone)
{
	struct xvm_sock *s;
	unsigned left = 0;

	xvm_vm_leaving(region);
	for (int fd = 0; (s = xvm_sock_next(&fd)); fd++) {
		if (!xvm_sock_on(s) || xvm_conf.sandboxed ||
		    atomic_load(&s->ep->medium) != XVM_MEDIUM_REGION + region)
			;
		else if (s->ashore)
			unpair(s); /* another may have ended without a word */
		else if (gone || atomic_load(&s->ep->flags) & XVM_EPF_PEER_DEAD)
			left += !leave_dead(s, fd);
		else
			left += !leave(s, fd, late);
		xvm_sock_put(s);
	}
	if (!left || gone)
		xvm_vm_gone(region);
}
