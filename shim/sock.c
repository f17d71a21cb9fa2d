/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracked socket's life: tracked at connect or accept, offered and paired (offer.c), kept off the
 * ring or taken from it, closed (ending.c), and disposed of with its last descriptor.
 */
#include <sched.h>

#include "shim/epoll.h"
#include "shim/link.h"
#include "shim/pool.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "transport/arena.h"

struct xvm_shm_arena *xvm_arena;
int xvm_arena_fd = -1;

static struct xvm_pool socks = XVM_POOL(struct xvm_sock, file.next, XVM_ARENA_EPS);
static _Atomic(struct xvm_sock *) by_slot[XVM_ARENA_EPS];

struct xvm_sock *xvm_sock_get(int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);

	if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_SOCK)
		return NULL;
	return (struct xvm_sock *)xvm_fdtab_get(fd, XVM_FILE_SOCK);
}

/* ---- tracking ---------------------------------------------------------- */

/* Endpoints whose holders have all died without closing: a fork that was killed or simply ended. */
static void sweep(void)
{
	uint32_t n = atomic_load(&xvm_arena->ep_hi), zero;

	for (uint32_t i = 0; i < n; i++) {
		struct xvm_shm_ep *ep = xvm_arena_ep(xvm_arena, i);

		zero = 0;
		/* pid is the last thing to be set where a slot is put to use. */
		if (atomic_load(&ep->state) != XVM_EP_FREE && atomic_load(&ep->pid) &&
		    !atomic_load(&by_slot[i]) && !xvm_holders_other(ep, false) &&
		    atomic_compare_exchange_strong(&ep->final, &zero, 1))
			xvm_arena_free(xvm_arena, ep);
	}
}

/* Of what is not tracked `xvm ss` knows nothing. */
static void say_untracked(const char *why)
{
	static _Atomic int told;

	if (!atomic_exchange(&told, 1))
		xvm_log(1, "connections stay on TCP: %s (error %d)\n", why, errno);
}

bool xvm_sock_arena(void)
{
	struct xvm_shm_arena *a, *none = NULL;
	int fd;

	if (__atomic_load_n(&xvm_arena, __ATOMIC_ACQUIRE))
		return true;
	errno = EMFILE;
	a = xvm_fd_spare() ? xvm_arena_create(&fd) : NULL;
	if (!a) {
		say_untracked("no memory or descriptor for the table of them");
		return false;
	}
	fd = xvm_fd_hide(fd);
	/* Two threads at once: one arena wins. Its descriptor is known before it is. */
	if (!__atomic_compare_exchange_n(&xvm_arena_fd, &(int){-1}, fd, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST)) {
		xvm_arena_close(a);
		xvm_fd_unhide_close(fd);
		while (!__atomic_load_n(&xvm_arena, __ATOMIC_ACQUIRE))
			sched_yield();
		return true;
	}
	__atomic_compare_exchange_n(&xvm_arena, &none, a, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_SEQ_CST);
	return true;
}

void xvm_sock_track(int fd, enum xvm_role role)
{
	int pid = xvm_pid();
	struct xvm_shm_ep *ep;
	struct xvm_sock *s;

	if (xvm_conf.disabled || !xvm_sock_arena())
		return;
	ep = xvm_arena_alloc(xvm_arena);
	if (!ep) {
		sweep();
		ep = xvm_arena_alloc(xvm_arena);
	}
	s = ep ? xvm_pool_get(&socks) : NULL;
	if (!s) {
		say_untracked("no place in the table of them");
		if (ep)
			xvm_arena_free(xvm_arena, ep);
		return;
	}
	/* file.users may be touched by a stale lookup: it is only ever added to and taken from.
	 * Nobody looks at the rest before it is in the tables. */
	atomic_store_explicit(&s->file.nfds, 0, memory_order_relaxed);
	atomic_store_explicit(&s->paired, 0, memory_order_relaxed);
	memset((char *)s + offsetof(struct xvm_sock, inherited), 0,
	       sizeof(*s) - offsetof(struct xvm_sock, inherited));
	atomic_store_explicit(&s->kept, -1, memory_order_relaxed);
	s->adopted = role == XVM_ROLE_UNKNOWN;
	s->ep = ep;
	s->slot = xvm_arena_slot(xvm_arena, ep);
	s->gen = atomic_load(&ep->gen);
	atomic_store_explicit(&ep->role, role, memory_order_relaxed);
	atomic_store_explicit(&ep->reason, XVM_R_NEW, memory_order_relaxed);
	atomic_store_explicit(&ep->fd, fd, memory_order_relaxed);
	atomic_store_explicit(&ep->holders[0].mapped, 0, memory_order_relaxed);
	atomic_store_explicit(&ep->holders[0].pid, pid, memory_order_relaxed);
	atomic_store_explicit(&by_slot[s->slot], s, memory_order_release);
	atomic_store_explicit(&ep->pid, pid, memory_order_release); /* the last: sweep() */
	atomic_store_explicit(&s->file.kind, XVM_FILE_SOCK, memory_order_release);
	XVM_COUNT(connections);
	xvm_fdtab_set(fd, &s->file);
	if (role != XVM_ROLE_PASSIVE) /* it may be in an epoll since before it was connected */
		xvm_epoll_tracked(s, fd);
}

void xvm_sock_dispose(struct xvm_file *f)
{
	struct xvm_sock *s = (struct xvm_sock *)f;
	struct xvm_shm_ep *ep = s->ep;
	bool last;

	xvm_ending_kept(s);
	atomic_store_explicit(&by_slot[s->slot], NULL, memory_order_release);
	/* Not closed by a call of ours, if nobody has let go yet: its number was used again. */
	last = s->last || xvm_holders_release(s);
	/* A pair is over when nobody reads the peer's half any more: a fork may. */
	if (s->mine.shm && (last || !atomic_load(&s->paired)))
		xvm_link_drop(s->slot, s->gen, atomic_load(&s->paired));
	atomic_store_explicit(&s->paired, 0, memory_order_release);
	if (!xvm_conf.sandboxed) { /* which may know no munmap(): there will be no more of them */
		xvm_half_close(&s->mine);
		xvm_half_close(&s->peer);
	}
	memset(&s->mine, 0, sizeof(s->mine));
	memset(&s->peer, 0, sizeof(s->peer));
	if (s->proc)
		xvm_link_peer_put(s->proc);
	s->proc = NULL;
	atomic_store_explicit(&f->kind, XVM_FILE_NONE, memory_order_release);
	atomic_store_explicit(&f->users, 0, memory_order_release); /* told no more */
	if (last)
		xvm_arena_free(xvm_arena, ep);
	xvm_pool_put(&socks, s);
}

/* ---- finding ----------------------------------------------------------- */

static int any_fd(struct xvm_sock *s)
{
	int fd = atomic_load(&s->ep->fd), hi = atomic_load(&xvm_fdtab_hi);

	if (xvm_fdtab_peek(fd) == &s->file)
		return fd;
	for (fd = 0; fd < hi; fd++)
		if (xvm_fdtab_peek(fd) == &s->file)
			return fd;
	return -1;
}

int xvm_sock_fd(struct xvm_sock *s, int fd)
{
	if (xvm_fdtab_peek(fd) == &s->file)
		return fd;
	if (atomic_load(&s->file.nfds) && (fd = any_fd(s)) >= 0)
		return fd;
	return atomic_load(&s->kept);
}

struct xvm_sock *xvm_sock_of_slot(uint32_t slot, uint32_t gen, int *fd)
{
	struct xvm_sock *s, *got;

	if (slot >= XVM_ARENA_EPS || !(s = atomic_load(&by_slot[slot])))
		return NULL;
	/* One is closed meanwhile, and the number used again, but the socket may have another. */
	for (;;) {
		*fd = any_fd(s);
		if (*fd < 0)
			return NULL;
		got = xvm_sock_get(*fd);
		if (got == s)
			break;
		if (got)
			xvm_sock_put(got);
	}
	if (s->slot != slot || s->gen != gen) {
		xvm_sock_put(s);
		return NULL;
	}
	return s;
}

struct xvm_sock *xvm_sock_next(int *fd)
{
	struct xvm_sock *s;

	for (; *fd < atomic_load(&xvm_fdtab_hi); (*fd)++) {
		s = xvm_sock_get(*fd);
		if (s)
			return s;
	}
	return NULL;
}

struct xvm_sock *xvm_sock_next_slot(uint32_t *slot)
{
	uint32_t n = xvm_arena ? atomic_load(&xvm_arena->ep_hi) : 0;
	struct xvm_sock *s = NULL;

	while (!s && *slot < n && *slot < XVM_ARENA_EPS)
		s = atomic_load(&by_slot[(*slot)++]);
	return s;
}

/* ---- off the ring ------------------------------------------------------ */

/* Who has cut the direction (C1) has said more. */
static void refuse(struct xvm_sock *s)
{
	uint64_t yes = XVM_CONSENT_YES;

	atomic_compare_exchange_strong(&s->mine.shm->consent, &yes, XVM_CONSENT_NO);
}

void xvm_sock_forbid(struct xvm_sock *s, enum xvm_reason why)
{
	struct xvm_shm_ep *ep = s->ep;

	if (!(atomic_fetch_or(&ep->flags, XVM_EPF_NEVER) & XVM_EPF_NEVER))
		atomic_store(&ep->reason, why);
}

void xvm_sock_never(struct xvm_sock *s, enum xvm_reason why)
{
	xvm_sock_forbid(s, why);
	if (xvm_sock_on(s))
		refuse(s);
}

int xvm_sock_broken(struct xvm_sock *s, int fd)
{
	if (!(atomic_fetch_or(&s->ep->flags, XVM_EPF_NEVER) & XVM_EPF_NEVER)) {
		XVM_COUNT(broken);
		xvm_log(1, "fd %d: the peer's half makes no sense: reset\n", fd);
	}
	atomic_store(&s->ep->reason, XVM_R_BROKEN);
	xvm_ending_reset(fd);
	REAL(shutdown)(fd, SHUT_RDWR);
	if (s->ep->rx_end != XVM_END_ERROR)
		atomic_store(&s->ep->err, ECONNRESET); /* told once, and then the end */
	s->ep->rx_end = XVM_END_ERROR;
	return -ECONNRESET;
}

void xvm_sock_peer_dead(uint32_t slot, uint32_t gen)
{
	int fd;
	struct xvm_sock *s = xvm_sock_of_slot(slot, gen, &fd);

	if (!s)
		return;
	if (xvm_sock_on(s)) {
		xvm_sock_forbid(s, XVM_R_PEER_LEFT);
		atomic_fetch_or(&s->ep->flags, XVM_EPF_PEER_DEAD);
		s->ep->rx_kcheck = 1;
		xvm_epoll_changed(s);
	}
	xvm_sock_put(s);
}

static bool wish(struct xvm_sock *s, int fd, bool leave)
{
	struct xvm_shm_ep *ep = s->ep;

	if (!xvm_sock_on(s))
		return false;
	if (!leave) {
		atomic_fetch_and(&ep->want, ~XVM_WANT_LEAVE);
		return !(atomic_load(&ep->flags) & XVM_EPF_NEVER);
	}
	atomic_fetch_or(&ep->want, XVM_WANT_LEAVE);
	/* Our direction now, if it may; theirs when they next send. */
	refuse(s);
	xvm_tx_leave(s, fd, XVM_R_OPERATOR);
	return true;
}

unsigned xvm_sock_wish(int want_fd, bool leave)
{
	unsigned n = 0;
	int hi = atomic_load(&xvm_fdtab_hi);

	for (int fd = want_fd < 0 ? 0 : want_fd; fd < (want_fd < 0 ? hi : want_fd + 1); fd++) {
		struct xvm_sock *s = xvm_sock_get(fd);

		if (!s)
			continue;
		n += wish(s, fd, leave);
		xvm_sock_put(s);
	}
	return n;
}
