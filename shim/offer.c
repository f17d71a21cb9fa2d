/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a socket that is tracked to one that is paired: it is offered to xvmd once it has made
 * enough calls and nothing speaks against it, and paired, or left on TCP, when xvmd answers.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "detect/client.h"
#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/inside.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "shim/vm.h"
#include "transport/sys.h"

#define LONG (256u << 10) /* bytes */

static void local_options(struct xvm_shm_ep *ep, int fd)
{
	struct timeval tv;
	socklen_t len = sizeof(tv);
	int v, fl = REAL(fcntl)(fd, F_GETFL);

	if (fl >= 0 && (fl & O_NONBLOCK))
		atomic_fetch_or(&ep->flags, XVM_EPF_NONBLOCK);
	else
		atomic_fetch_and(&ep->flags, ~XVM_EPF_NONBLOCK);
	memset(&tv, 0, sizeof(tv));
	if (!REAL(getsockopt)(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len))
		atomic_store(&ep->rcvtimeo_us, (int64_t)tv.tv_sec * 1000000 + tv.tv_usec);
	memset(&tv, 0, sizeof(tv));
	len = sizeof(tv);
	if (!REAL(getsockopt)(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &len))
		atomic_store(&ep->sndtimeo_us, (int64_t)tv.tv_sec * 1000000 + tv.tv_usec);
	len = sizeof(v);
	v = 0;
	REAL(getsockopt)(fd, IPPROTO_TCP, TCP_NODELAY, &v, &len);
	atomic_store(&ep->opt_nodelay, (uint32_t)v);
	len = sizeof(v);
	v = 0;
	REAL(getsockopt)(fd, IPPROTO_TCP, TCP_CORK, &v, &len);
	atomic_store(&ep->opt_cork, (uint32_t)v);
	/* A pad must not wait for an acknowledgement or a cork. */
	v = 0;
	REAL(setsockopt)(fd, IPPROTO_TCP, TCP_CORK, &v, sizeof(v));
	v = 1;
	REAL(setsockopt)(fd, IPPROTO_TCP, TCP_NODELAY, &v, sizeof(v));
}

static bool supported(int fd)
{
	socklen_t len = sizeof(int);
	int v = REAL(fcntl)(fd, F_GETFL);

	if (v < 0 || (v & O_ASYNC)) /* no signal would come */
		return false;
	if (REAL(getsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, &v, &len) || v > 1)
		return false;
	len = sizeof(v);
	if (!REAL(getsockopt)(fd, SOL_SOCKET, SO_ZEROCOPY, &v, &len) && v)
		return false;
	len = sizeof(v);
	if (!REAL(getsockopt)(fd, SOL_SOCKET, SO_OOBINLINE, &v, &len) && v)
		return false;
	return true;
}

/* The half is there: say so to xvmd. */
static bool offer_half(struct xvm_sock *s, int fd, int half_fd, uint64_t off, uint32_t len)
{
	struct xvm_shm_ep *ep = s->ep;

	atomic_fetch_and(&ep->flags, ~XVM_EPF_SEEN);
	atomic_store(&ep->state, XVM_EP_OFFERED);
	atomic_store(&ep->reason, XVM_R_OFFERED);
	s->piece = off;
	if (xvm_link_offer(s, fd, half_fd, off, len) == 0) {
		XVM_COUNT(offers);
		xvm_log(2, "fd %d: offered\n", fd);
		return true;
	}
	return false;
}

static enum xvm_reason offer_memfd(struct xvm_sock *s, int fd)
{
	int hfd;
	bool ok;

	if (xvm_half_create(&s->mine, xvm_conf.ring_size, &hfd) < 0)
		return XVM_R_NO_MEMORY;
	atomic_store(&s->ep->medium, XVM_MEDIUM_MEMFD);
	ok = offer_half(s, fd, hfd, 0, 0);
	xvm_sys6(SYS_close, hfd, 0, 0, 0, 0, 0);
	if (!ok)
		xvm_half_close(&s->mine);
	return ok ? XVM_R_OFFERED : XVM_R_NO_DAEMON;
}

/* The other end is in another machine. Pieces come by and by. */
static enum xvm_reason offer_piece(struct xvm_sock *s, int fd, unsigned region)
{
	uint32_t len, ring = XVM_RING_MIN;
	uint64_t off;

	while (ring < xvm_conf.ring_size)
		ring *= 2;
	len = XVM_HALF_CTL + ring;
	switch (xvm_vm_make(region, len, &s->mine, &off)) {
	case 0:
		break;
	case -EAGAIN:
		return XVM_R_NEW;
	case -ENODEV:
		return XVM_R_NO_DEVICE;
	default:
		return XVM_R_NO_MEMORY;
	}
	atomic_store(&s->ep->medium, XVM_MEDIUM_REGION + region);
	if (offer_half(s, fd, -1, off, XVM_HALF_CTL + s->mine.ring_size))
		return XVM_R_OFFERED;
	xvm_vm_unmake(region, &s->mine, off);
	return XVM_R_NO_DAEMON;
}

/* Why it cannot be offered now, or XVM_R_OFFERED. */
static enum xvm_reason offer(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	const struct xvm_shm_table *t;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	enum xvm_reason why;
	uint32_t flags;

	if (xvm_conf.sandboxed)
		return XVM_R_SECCOMP;
	if (xvm_has_uring())
		return XVM_R_UNSUPPORTED;
	if (atomic_load(&ep->flags) & (XVM_EPF_TX_SHUT | XVM_EPF_RX_SHUT))
		return XVM_R_NEW;
	if (xvm_holders_other(ep, false))
		return XVM_R_SHARED;
	/* libc and the images to come use these by means that no wrapper sees. */
	for (int std = 0; std <= 2; std++)
		if (xvm_fdtab_peek(std) == &s->file)
			return XVM_R_STDIO;
	if (s->adopted && xvm_held_elsewhere(fd))
		return XVM_R_SHARED;
	if (REAL(syscall)(SYS_getpeername, fd, &sa, &len) < 0 ||
	    xvm_client_addr((struct sockaddr *)&sa, len, ep->raddr, &ep->rport) < 0)
		return XVM_R_NEW;
	len = sizeof(sa);
	if (REAL(syscall)(SYS_getsockname, fd, &sa, &len) < 0 ||
	    xvm_client_addr((struct sockaddr *)&sa, len, ep->laddr, &ep->lport) < 0)
		return XVM_R_NEW;
	why = xvm_link_up();
	if (why)
		return why;
	xvm_link_poll(); /* regions are told of right behind the welcome */
	t = atomic_load(&xvm_link_table);
	if (!t)
		return XVM_R_NO_DAEMON;
	atomic_store(&s->res_seq, xvm_link_version(t));
	flags = xvm_client_resident(t, ep->raddr);
	if ((!flags || (flags & XVM_RES_AMBIGUOUS)) && xvm_link_lost()) {
		/* The table was a dead daemon's. */
		why = xvm_link_up();
		t = atomic_load(&xvm_link_table);
		if (why || !t)
			return why ? why : XVM_R_NO_DAEMON;
		atomic_store(&s->res_seq, xvm_link_version(t));
		flags = xvm_client_resident(t, ep->raddr);
	}
	if (!flags)
		return XVM_R_NOT_RESIDENT;
	if (flags & XVM_RES_AMBIGUOUS)
		return XVM_R_AMBIGUOUS;
	if (!supported(fd))
		return XVM_R_UNSUPPORTED;
	return flags & XVM_RES_VM ? offer_piece(s, fd, XVM_RES_REGION(flags)) : offer_memfd(s, fd);
}

static uint64_t moved(const struct xvm_shm_ep *ep)
{
	return atomic_load_explicit(&ep->n_rx_tcp, memory_order_relaxed) +
	       atomic_load_explicit(&ep->n_tx_tcp, memory_order_relaxed);
}

/*
 * The peer's address was not that of one here, and the residency table has changed since: is it
 * one now? A program's first connection to xvmd makes its namespace's addresses known, so that the
 * end which asks first is often a moment too early.
 */
static bool came_here(struct xvm_sock *s)
{
	const struct xvm_shm_table *t = atomic_load_explicit(&xvm_link_table, memory_order_relaxed);
	uint32_t flags;
	uint64_t seq;

	if (!t)
		return false;
	seq = xvm_link_version(t);
	if (atomic_exchange_explicit(&s->res_seq, seq, memory_order_relaxed) == seq)
		return false;
	flags = xvm_client_resident(t, s->ep->raddr);
	return flags && !(flags & XVM_RES_AMBIGUOUS);
}

bool xvm_offer_engage(struct xvm_sock *s, int fd, bool rx)
{
	struct xvm_shm_ep *ep = s->ep;
	bool at_once = false;
	enum xvm_reason why;
	uint32_t calls, more, candidate = XVM_EP_CANDIDATE;

	xvm_link_poll();
	if (xvm_sock_on(s))
		return true;
	if (atomic_load_explicit(&ep->state, memory_order_relaxed) == XVM_EP_OFFERED &&
	    atomic_fetch_add_explicit(&ep->calls, 1, memory_order_relaxed) % 64 == 0)
		xvm_link_lapsed(s);
	if (atomic_load_explicit(&ep->state, memory_order_relaxed) != XVM_EP_CANDIDATE)
		return false;
	why = atomic_load_explicit(&ep->reason, memory_order_relaxed);
	if (why == XVM_R_NOT_RESIDENT || why == XVM_R_AMBIGUOUS) {
		/* Said once for each change of the table, so it must not be lost. */
		at_once = came_here(s);
		if (!at_once && atomic_load_explicit(&xvm_link_table, memory_order_relaxed))
			return false;
	}
	/*
	 * Counted in quarters: one more in the direction of the last is a quarter, as an offer is
	 * not worth its cost to a connection that is used for one answer, unless that is long.
	 */
	more = atomic_load_explicit(&s->last_call, memory_order_relaxed) != 1 + rx ? 4 : 1;
	atomic_store_explicit(&s->last_call, 1 + rx, memory_order_relaxed);
	calls = atomic_load_explicit(&ep->calls, memory_order_relaxed);
	/* Of two at once one may be lost. */
	atomic_store_explicit(&ep->calls, calls + more, memory_order_relaxed);
	if (!at_once && calls / 4 < xvm_conf.offer_after && moved(ep) < LONG)
		return false;
	/* What was refused once is tried by the call that brings the count to a multiple of 16
	 * calls or past it. */
	if (why != XVM_R_NEW && !at_once && calls % 64 + more < 64)
		return false;
	if (atomic_load(&ep->flags) & XVM_EPF_NEVER)
		return false;
	/* One thread tries; OFFERED while it does, so that nobody else starts. */
	if (!atomic_compare_exchange_strong(&ep->state, &candidate, XVM_EP_OFFERED))
		return false;
	atomic_store(&ep->pid, xvm_pid());
	atomic_store(&ep->fd, fd);
	why = offer(s, fd);
	if (why != XVM_R_OFFERED) {
		if (atomic_exchange(&ep->reason, why) != why)
			xvm_log(2, "fd %d: on TCP: %s\n", fd, xvm_reason_name(why));
		if (why == XVM_R_UNSUPPORTED || why == XVM_R_SECCOMP)
			atomic_fetch_or(&ep->flags, XVM_EPF_NEVER);
		atomic_store(&ep->state, XVM_EP_CANDIDATE);
	}
	return xvm_sock_on(s);
}

/* ---- answers ------------------------------------------------------------ */

void xvm_offer_seen(uint32_t slot, uint32_t gen)
{
	int fd;
	struct xvm_sock *s = xvm_sock_of_slot(slot, gen, &fd);

	if (!s)
		return;
	atomic_fetch_or(&s->ep->flags, XVM_EPF_SEEN);
	xvm_sock_put(s);
}

/* On TCP for good: an offer came to nothing. */
static void stay(struct xvm_sock *s, int fd, enum xvm_reason why)
{
	xvm_log(2, "fd %d: stays on TCP: %s\n", fd, xvm_reason_name(why));
	atomic_store(&s->ep->reason, why);
	xvm_half_close(&s->mine);
	atomic_store(&s->ep->state, XVM_EP_TCP);
}

/*
 * xvmd sees the addresses a moment later than the kernel, or they were moving: where this end, too,
 * looks again when the table has changed since it was offered (came_here()). xvmd has let go of
 * that offer; a new name all the same, as between machines an answer may still be under way.
 */
static bool wait_for_table(struct xvm_sock *s, int fd, uint32_t why)
{
	struct xvm_shm_ep *ep = s->ep;

	if ((why != XVM_R_NOT_RESIDENT && why != XVM_R_AMBIGUOUS) || xvm_holders_other(ep, false))
		return false;
	xvm_log(2, "fd %d: on TCP: %s\n", fd, xvm_reason_name(why));
	xvm_half_close(&s->mine);
	s->gen = atomic_fetch_add(&ep->gen, 1) + 1;
	atomic_store(&s->offered_to, 0);
	atomic_store(&ep->reason, why);
	atomic_store(&ep->state, XVM_EP_CANDIDATE);
	return true;
}

/* A reference to the socket that waits for xvmd's answer; NULL if it waits no more. */
static struct xvm_sock *offered_get(uint32_t slot, uint32_t gen, int *fd)
{
	struct xvm_sock *s = xvm_sock_of_slot(slot, gen, fd);

	if (!s)
		return NULL;
	if (atomic_load(&s->ep->state) == XVM_EP_OFFERED && !xvm_sock_on(s) && s->mine.shm)
		return s;
	xvm_sock_put(s);
	return NULL;
}

void xvm_offer_refused(uint32_t slot, uint32_t gen, uint32_t why)
{
	int fd;
	struct xvm_sock *s = offered_get(slot, gen, &fd);

	if (!s)
		return;
	if (!wait_for_table(s, fd, why))
		stay(s, fd, why < XVM_R_COUNT ? why : XVM_R_RULE);
	XVM_COUNT(refused);
	xvm_sock_put(s);
}

static void again(struct xvm_sock *s, int fd, unsigned region, bool kept)
{
	struct xvm_shm_ep *ep = s->ep;

	/* By that name it is known, and may be answered yet between the daemons. */
	xvm_link_return(s->slot, s->gen, region, s->piece,
			kept ? XVM_HALF_CTL + s->mine.ring_size : 0);
	if (xvm_holders_other(ep, false)) {
		stay(s, fd, XVM_R_NO_DAEMON); /* they go by the name too */
		return;
	}
	xvm_log(2, "fd %d: to be offered again\n", fd);
	xvm_half_close(&s->mine);
	s->gen = atomic_fetch_add(&ep->gen, 1) + 1;
	atomic_store(&s->offered_to, 0);
	atomic_store(&ep->reason, XVM_R_NEW);
	atomic_store(&ep->state, XVM_EP_CANDIDATE);
}

void xvm_offer_lapsed(struct xvm_sock *s)
{
	uint32_t medium = atomic_load(&s->ep->medium);
	bool kept;

	/* A fork's child has no half: the offer is its parent's. */
	if (atomic_load(&s->ep->state) != XVM_EP_OFFERED || xvm_sock_on(s) || !s->mine.shm)
		return;
	if (medium != XVM_MEDIUM_MEMFD) {
		/* The next daemon may answer it, until it speaks of the region. One that was still
		 * being made then xvm_offer_again() has not seen. */
		if (xvm_vm_told(medium - XVM_MEDIUM_REGION, &kept))
			again(s, atomic_load(&s->ep->fd), medium - XVM_MEDIUM_REGION, kept);
		return;
	}
	xvm_half_close(&s->mine);
	atomic_store(&s->offered_to, 0);
	atomic_store(&s->ep->reason, XVM_R_NEW);
	atomic_store(&s->ep->state, XVM_EP_CANDIDATE);
}

void xvm_offer_again(unsigned region, bool kept)
{
	uint32_t link = atomic_load(&xvm_link_count), by;
	struct xvm_sock *s, *got;
	int fd;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));) {
		by = atomic_load(&s->offered_to);
		if (!by || by == link || atomic_load(&s->ep->medium) != XVM_MEDIUM_REGION + region)
			continue;
		got = offered_get(s->slot, s->gen, &fd);
		if (!got)
			continue;
		again(got, fd, region, kept);
		xvm_sock_put(got);
	}
}

void xvm_offer_paired(uint32_t slot, uint32_t gen, uint32_t role, int err, struct xvm_half *half,
		      struct xvm_peer *proc)
{
	int fd;
	struct xvm_sock *s = offered_get(slot, gen, &fd);
	struct xvm_shm_ep *ep;

	if (!s || err < 0) {
		if (proc) {
			xvm_link_peer_put(proc);
			xvm_half_close(half);
		}
		if (s) {
			/* Without the peer's half there is no consent: it stays on TCP, as we do.
			 */
			stay(s, fd,
			     err == -EPROTO || err == -EPERM ? XVM_R_BAD_PEER : XVM_R_NO_MEMORY);
			xvm_link_drop(slot, gen, true);
			xvm_sock_put(s);
		}
		return;
	}
	xvm_fault_install();
	ep = s->ep;
	s->peer = *half;
	s->proc = proc;
	if (atomic_load(&ep->role) == XVM_ROLE_UNKNOWN)
		atomic_store(&ep->role, role);
	local_options(ep, fd);
	s->cookie = xvm_cookie(fd);
	xvm_holders_mapped(ep);
	atomic_store(&ep->reason, XVM_R_NO_CONSENT);
	atomic_store(&s->mine.shm->have_wakers, xvm_link_peer_mask(proc));
	xvm_inside_paired(s);
	XVM_COUNT(paired);
	xvm_log(2, "fd %d: paired\n", fd);
	xvm_epoll_changed(s);
	xvm_sock_put(s);
}
