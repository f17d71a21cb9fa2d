/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket is about to be used by means that no wrapper sees: by another program image, by a
 * process that it is sent to, by a FILE, by TLS in the kernel. Then both directions have to be on
 * TCP first. Ours leaves as ever; the peer's is cut, and the peer resends what was not taken (C1 to
 * C4).
 */
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"
#include "transport/sys.h"

#define LEAVE_NS 200000000ull /* how long the peer may take */

/* False: it sleeps by pad, and there is no way to send one. */
static bool wake(struct xvm_sock *s, int fd, _Atomic uint64_t *sleep, _Atomic uint64_t *rung)
{
	uint64_t word = atomic_load(sleep);

	if (word != atomic_load(rung))
		xvm_tx_wake(s, fd, word, rung, false);
	return word == atomic_load(rung);
}

static bool wake_both(struct xvm_sock *s, int fd)
{
	bool data = wake(s, fd, &s->peer.shm->sleep_data, &s->rung_data);

	return wake(s, fd, &s->peer.shm->sleep_room, &s->rung_room) && data;
}

/* 0, -EAGAIN: not yet, or why it cannot be done. */
static int try(struct xvm_sock *s, int fd, enum xvm_reason why, bool late)
{
	int rx = xvm_cut_rx(s, fd), tx = xvm_tx_leave(s, fd, why);
	bool awake = wake_both(s, fd);

	if (rx == -EINPROGRESS && awake && late)
		rx = 0; /* it makes no call; when it does it resends */
	if (rx == -EINPROGRESS)
		rx = -EAGAIN;
	return rx ? rx : tx;
}

/* As often as it takes, until end. From now on others may hold the socket that are no holders of
 * the endpoint. */
static int insist(struct xvm_sock *s, int fd, enum xvm_reason why, uint64_t end)
{
	bool late;
	int r;

	xvm_sock_forbid(s, why);
	atomic_fetch_or(&s->ep->flags, XVM_EPF_GIVEN);
	if (!xvm_sock_on(s))
		return 0;
	for (;;) {
		late = xvm_now_ns() >= end;
		r = try(s, fd, why, late);
		if (r != -EAGAIN || late)
			return r;
		REAL(poll)(NULL, 0, 1);
	}
}

void xvm_hand_over(struct xvm_sock *s, int fd, enum xvm_reason why)
{
	int r = insist(s, fd, why, xvm_now_ns() + LEAVE_NS);

	if (r == 0)
		return;
	xvm_log(1, "fd %d: could not leave the ring (%s): reset\n", fd,
		r == -EBUSY ? "unread input" : "the peer does not answer");
	xvm_sock_broken(s, fd);
}

void xvm_hand_over_all(enum xvm_reason why)
{
	uint64_t end = xvm_now_ns() + LEAVE_NS; /* for all of them together */
	struct xvm_sock *s;

	for (int fd = 0; (s = xvm_sock_next(&fd)); fd++) {
		insist(s, fd, why, end);
		xvm_sock_put(s);
	}
}

/* The paired socket whose open file fd is: a reference, or NULL. A vfork's child may have closed
 * its copies of the descriptors that the table, its parent's, knows. */
static struct xvm_sock *by_cookie(int fd)
{
	uint64_t cookie = xvm_cookie(fd);
	struct xvm_sock *s;

	for (int other = 0; (s = xvm_sock_next(&other)); other++) {
		if (xvm_sock_on(s) && s->cookie == cookie)
			return s;
		xvm_sock_put(s);
	}
	return NULL;
}

void xvm_hand_over_inherited(enum xvm_reason why, bool holder)
{
	int hi = atomic_load(&xvm_fdtab_hi);
	uint64_t end = xvm_now_ns() + LEAVE_NS; /* for all of them together */

	for (int fd = 0; fd < (hi < 3 ? 3 : hi); fd++) {
		struct xvm_sock *s;
		int fl;

		if (fd > 2 && !xvm_fdtab_peek(fd))
			continue;
		s = fd > 2 ? xvm_sock_get(fd) : xvm_is_tcp(fd) ? by_cookie(fd) : NULL;
		if (!s)
			continue;
		fl = REAL(fcntl)(fd, F_GETFD);
		if (fd <= 2)
			xvm_hand_over(s, fd, why);
		else if (fl >= 0 && !(fl & FD_CLOEXEC) &&
			 (xvm_sock_on(s) ? xvm_cookie(fd) == s->cookie : !holder))
			insist(s, fd, why, end);
		xvm_sock_put(s);
	}
}
