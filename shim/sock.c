/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracked socket's life: tracked at connect or accept, offered once it has made enough
 * calls, paired when xvmd answers, disposed of with its last descriptor.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/mman.h>

#include "detect/client.h"
#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/pool.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"
#include "shim/vm.h"
#include "shim/waker.h"
#include "transport/arena.h"
#include "transport/lock.h"
#include "transport/sys.h"

struct xvm_shm_arena *xvm_arena;
int xvm_arena_fd = -1;

static struct xvm_pool socks = XVM_POOL(struct xvm_sock, file.next, XVM_ARENA_EPS);
static _Atomic(struct xvm_sock *) by_slot[XVM_ARENA_EPS];
extern _Atomic int xvm_fdtab_hi;

struct xvm_sock *xvm_sock_get(int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);

	if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_SOCK)
		return NULL;
	return (struct xvm_sock *)xvm_fdtab_get(fd, XVM_FILE_SOCK);
}

void xvm_sock_put(struct xvm_sock *s)
{
	xvm_file_put(&s->file);
}

/* ---- tracking ---------------------------------------------------------- */

/* Other processes that hold the socket and live. */
static unsigned other_holders(struct xvm_shm_ep *ep, bool unmapped_only)
{
	unsigned n = atomic_load(&ep->unmapped) + (unmapped_only ? 0 : atomic_load(&ep->forking));
	int me = xvm_pid();

	if (xvm_conf.sandboxed)
		return 1; /* kill(2) may not be ours to call */

	for (int i = 0; i < XVM_HOLDERS; i++) {
		int pid = atomic_load(&ep->holders[i].pid);

		if (pid == 0 || pid == me)
			continue;
		if (xvm_lock_dead((uint32_t)pid)) {
			atomic_compare_exchange_strong(&ep->holders[i].pid, &pid, 0);
			continue;
		}
		if (!unmapped_only || !atomic_load(&ep->holders[i].mapped))
			n++;
	}
	return n;
}

/* Endpoints whose holders have all died without closing: a fork that was killed or simply ended. */
static void sweep(void)
{
	uint32_t n = atomic_load(&xvm_arena->ep_hi), zero;

	for (uint32_t i = 0; i < n; i++) {
		struct xvm_shm_ep *ep = xvm_arena_ep(xvm_arena, i);

		zero = 0;
		/* pid is the last thing to be set where a slot is put to use. */
		if (atomic_load(&ep->state) != XVM_EP_FREE && atomic_load(&ep->pid) &&
		    !atomic_load(&by_slot[i]) && !other_holders(ep, false) &&
		    atomic_compare_exchange_strong(&ep->final, &zero, 1))
			xvm_arena_free(xvm_arena, ep);
	}
}

bool xvm_sock_arena(void)
{
	struct xvm_shm_arena *a, *none = NULL;
	int fd;

	if (__atomic_load_n(&xvm_arena, __ATOMIC_ACQUIRE))
		return true;
	a = xvm_arena_create(&fd);
	if (!a)
		return false;
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
	struct xvm_shm_ep *ep;
	struct xvm_sock *s;

	if (!xvm_sock_arena())
		return;
	ep = xvm_arena_alloc(xvm_arena);
	if (!ep) {
		sweep();
		ep = xvm_arena_alloc(xvm_arena);
	}
	if (!ep)
		return;
	s = xvm_pool_get(&socks);
	if (!s) {
		xvm_arena_free(xvm_arena, ep);
		return;
	}
	/* file.users may be touched by a stale lookup: it is only ever added to and taken from. */
	atomic_store(&s->file.nfds, 0);
	atomic_store(&s->paired, 0);
	memset((char *)s + offsetof(struct xvm_sock, inherited), 0,
	       sizeof(*s) - offsetof(struct xvm_sock, inherited));
	atomic_store(&s->kept, -1);
	s->adopted = role == XVM_ROLE_UNKNOWN;
	s->ep = ep;
	s->slot = xvm_arena_slot(xvm_arena, ep);
	s->gen = atomic_load(&ep->gen);
	atomic_store(&ep->role, role);
	atomic_store(&ep->reason, XVM_R_NEW);
	atomic_store(&ep->fd, fd);
	atomic_store(&ep->holders[0].mapped, 0);
	atomic_store(&ep->holders[0].pid, xvm_pid());
	atomic_store(&ep->pid, xvm_pid());
	atomic_store(&by_slot[s->slot], s);
	atomic_store(&s->file.kind, XVM_FILE_SOCK);
	XVM_COUNT(connections);
	xvm_fdtab_set(fd, &s->file);
	if (role != XVM_ROLE_PASSIVE) /* it may be in an epoll since before it was connected */
		xvm_epoll_tracked(s, fd);
}

bool xvm_sock_unmapped(struct xvm_shm_ep *ep)
{
	return other_holders(ep, true) != 0;
}

static void set_mapped(struct xvm_shm_ep *ep)
{
	for (int i = 0; i < XVM_HOLDERS; i++)
		if (atomic_load(&ep->holders[i].pid) == xvm_pid())
			atomic_store(&ep->holders[i].mapped, 1);
}

/* ---- offering ---------------------------------------------------------- */

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

	atomic_store(&ep->state, XVM_EP_OFFERED);
	atomic_store(&ep->reason, XVM_R_OFFERED);
	if (xvm_link_offer(s, fd, half_fd, off, len) == 0) {
		XVM_COUNT(offers);
		return true;
	}
	atomic_store(&ep->state, XVM_EP_CANDIDATE);
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
	uint32_t len = XVM_HALF_CTL + xvm_conf.ring_size;
	uint64_t off;

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
	if (xvm_conf.io_uring)
		return XVM_R_UNSUPPORTED;
	if (atomic_load(&ep->flags) & (XVM_EPF_TX_SHUT | XVM_EPF_RX_SHUT))
		return XVM_R_NEW;
	if (other_holders(ep, false))
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
	s->res_seq = atomic_load(&t->seq);
	flags = xvm_client_resident(t, ep->raddr);
	if ((!flags || (flags & XVM_RES_AMBIGUOUS)) && xvm_link_lost()) {
		/* The table was a dead daemon's. */
		why = xvm_link_up();
		t = atomic_load(&xvm_link_table);
		if (why || !t)
			return why ? why : XVM_R_NO_DAEMON;
		s->res_seq = atomic_load(&t->seq);
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

bool xvm_sock_engage(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;
	const struct xvm_shm_table *t;
	enum xvm_reason why;
	uint32_t calls, candidate = XVM_EP_CANDIDATE;

	xvm_link_poll();
	if (xvm_sock_on(s))
		return true;
	if (atomic_load_explicit(&ep->state, memory_order_relaxed) != XVM_EP_CANDIDATE)
		return false;
	why = atomic_load_explicit(&ep->reason, memory_order_relaxed);
	if (why == XVM_R_NOT_RESIDENT || why == XVM_R_AMBIGUOUS) {
		t = atomic_load_explicit(&xvm_link_table, memory_order_relaxed);
		if (t && atomic_load_explicit(&t->seq, memory_order_relaxed) == s->res_seq)
			return false;
	}
	calls = atomic_fetch_add_explicit(&ep->calls, 1, memory_order_relaxed);
	if (calls < xvm_conf.offer_after || (why != XVM_R_NEW && calls % 64))
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
		atomic_store(&ep->reason, why);
		if (why == XVM_R_UNSUPPORTED || why == XVM_R_SECCOMP)
			atomic_fetch_or(&ep->flags, XVM_EPF_NEVER);
		atomic_store(&ep->state, XVM_EP_CANDIDATE);
	}
	return xvm_sock_on(s);
}

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

static struct xvm_sock *slot_get(uint32_t slot, uint32_t gen, int *fd)
{
	struct xvm_sock *s, *got;

	if (slot >= XVM_ARENA_EPS || !(s = atomic_load(&by_slot[slot])))
		return NULL;
	*fd = any_fd(s);
	got = *fd < 0 ? NULL : xvm_sock_get(*fd);
	if (got != s) { /* closed meanwhile, and the number used again */
		if (got)
			xvm_sock_put(got);
		return NULL;
	}
	if (s->gen != gen) {
		xvm_sock_put(s);
		return NULL;
	}
	return s;
}

void xvm_sock_seen(uint32_t slot, uint32_t gen)
{
	int fd;
	struct xvm_sock *s = slot_get(slot, gen, &fd);

	if (!s)
		return;
	atomic_fetch_or(&s->ep->flags, XVM_EPF_SEEN);
	xvm_sock_put(s);
}

/* On TCP for good: an offer came to nothing. */
static void stay(struct xvm_sock *s, enum xvm_reason why)
{
	atomic_store(&s->ep->reason, why);
	xvm_half_close(&s->mine);
	atomic_store(&s->ep->state, XVM_EP_TCP);
}

/* A reference to the socket that waits for xvmd's answer; NULL if it waits no more. */
static struct xvm_sock *offered_get(uint32_t slot, uint32_t gen, int *fd)
{
	struct xvm_sock *s = slot_get(slot, gen, fd);

	if (!s)
		return NULL;
	if (atomic_load(&s->ep->state) == XVM_EP_OFFERED && !xvm_sock_on(s) && s->mine.shm)
		return s;
	xvm_sock_put(s);
	return NULL;
}

void xvm_sock_refused(uint32_t slot, uint32_t gen, uint32_t why)
{
	int fd;
	struct xvm_sock *s = offered_get(slot, gen, &fd);

	if (!s)
		return;
	stay(s, why < XVM_R_COUNT ? why : XVM_R_RULE);
	XVM_COUNT(refused);
	xvm_sock_put(s);
}

void xvm_sock_paired(uint32_t slot, uint32_t gen, uint32_t role, int err, struct xvm_half *half,
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
			stay(s,
			     err == -ENOMEM || err == -EMFILE ? XVM_R_NO_MEMORY : XVM_R_BAD_PEER);
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
	set_mapped(ep);
	atomic_store(&ep->reason, XVM_R_NO_CONSENT);
	atomic_store(&s->mine.shm->have_wakers, atomic_load(&proc->mask));
	/* R1: PAIRED before krecv and ksend are read; pairs with the counting in io.c. */
	atomic_store(&ep->state, XVM_EP_PAIRED);
	atomic_store(&s->paired, 1);
	XVM_COUNT(paired);
	xvm_log(2, "fd %d: paired\n", fd);
	xvm_epoll_changed(s);
	xvm_sock_put(s);
}

void xvm_sock_peer_dead(uint32_t slot, uint32_t gen)
{
	int fd;
	struct xvm_sock *s = slot_get(slot, gen, &fd);

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

/* ---- the end ----------------------------------------------------------- */

static void let_go(struct xvm_shm_ep *ep)
{
	for (int i = 0; i < XVM_HOLDERS; i++) {
		int pid = xvm_pid();

		atomic_compare_exchange_strong(&ep->holders[i].pid, &pid, 0);
	}
}

/* This process holds the socket no longer. True, once, for the last of all that did. */
static bool release(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	uint32_t zero = 0;

	let_go(ep);
	s->last = !s->last && !other_holders(ep, false) && atomic_load(&ep->gen) == s->gen &&
		  atomic_compare_exchange_strong(&ep->final, &zero, 1);
	return s->last;
}

static void reset_at_close(int fd)
{
	struct linger lg = {.l_onoff = 1, .l_linger = 0};

	REAL(setsockopt)(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
}

/* xvmd may still have the socket in its queue: the FIN, or the reset, must not wait for it. */
static void end_now(int fd)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct linger lg = {0, 0};
	socklen_t len = sizeof(lg);
	int unread = 0;

	REAL(ioctl)(fd, FIONREAD, &unread);
	REAL(getsockopt)(fd, SOL_SOCKET, SO_LINGER, &lg, &len);
	if (unread || (lg.l_onoff && !lg.l_linger))
		REAL(connect)(fd, &none, sizeof(none)); /* dissolves the connection by a reset */
	else
		REAL(shutdown)(fd, SHUT_RDWR);
}

/* The last close, as far as we know, of a paired socket. */
static void end_paired(struct xvm_sock *s, int fd)
{
	bool unread = xvm_pads_finish(s, fd);

	/* S6: TCP resets where input is left unread; the kernel sees only its own queue. */
	if (!xvm_tx_finish(s, fd) || unread)
		reset_at_close(fd);
}

/*
 * Closed by one thread while others wait in a call: the kernel lets their call go on, and the
 * connection lives as long. So a descriptor of our own takes the place of the one that is closed.
 */
static void keep_open(struct xvm_sock *s, int fd)
{
	long r;

	if (!atomic_load(&s->asleep) || atomic_load(&s->file.nfds) > 1 || !xvm_sock_on(s) ||
	    atomic_load(&s->kept) >= 0)
		return;
	r = xvm_sys6(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0, 0, 0, 0);
	if (r >= 0)
		atomic_store(&s->kept, xvm_fd_hide((int)r));
}

static void end_kept(struct xvm_sock *s)
{
	int fd = atomic_load(&s->kept);

	if (fd < 0)
		return;
	if (release(s) && !(atomic_load(&s->ep->flags) & XVM_EPF_GIVEN))
		end_paired(s, fd);
	xvm_fd_unhide_close(fd);
}

void xvm_sock_vacated(int fd, int to)
{
	for (uint32_t i = 0; xvm_arena && i < atomic_load(&xvm_arena->ep_hi); i++) {
		struct xvm_sock *s = atomic_load(&by_slot[i]);

		if (s)
			atomic_compare_exchange_strong(&s->kept, &(int){fd}, to);
	}
}

void xvm_sock_closing(int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	struct xvm_shm_ep *ep;

	if (!s)
		return;
	ep = s->ep;
	xvm_link_poll();
	keep_open(s, fd);
	xvm_epoll_closing(s, fd);
	if (atomic_load(&s->file.nfds) > 1 || atomic_load(&s->kept) >= 0 || !release(s) ||
	    (atomic_load(&ep->flags) & XVM_EPF_GIVEN))
		goto out;
	if (xvm_sock_on(s)) {
		end_paired(s, fd);
	} else if (!atomic_load(&ep->krecv) && !atomic_load(&ep->ksend) &&
		   atomic_load(&ep->state) == XVM_EP_OFFERED &&
		   !(atomic_load(&ep->flags) & XVM_EPF_SEEN)) {
		end_now(fd);
	}
out:
	xvm_sock_put(s);
}

void xvm_sock_dispose(struct xvm_file *f)
{
	struct xvm_sock *s = (struct xvm_sock *)f;
	struct xvm_shm_ep *ep = s->ep;

	end_kept(s);
	atomic_store(&by_slot[s->slot], NULL);
	if (s->mine.shm)
		xvm_link_drop(s->slot, s->gen, atomic_load(&s->paired));
	atomic_store(&s->paired, 0);
	xvm_half_close(&s->mine);
	xvm_half_close(&s->peer);
	if (s->proc)
		xvm_link_peer_put(s->proc);
	s->proc = NULL;
	atomic_store(&f->kind, XVM_FILE_NONE);
	/* Not closed by a call of ours, if nobody has let go yet: its number was used again. */
	if (s->last || release(s))
		xvm_arena_free(xvm_arena, ep);
	xvm_pool_put(&socks, s);
}

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
	reset_at_close(fd);
	REAL(shutdown)(fd, SHUT_RDWR);
	if (!s->ep->rx_err)
		s->ep->rx_err = ECONNRESET; /* told once, and then the end */
	return -ECONNRESET;
}

/* ---- the operator ------------------------------------------------------ */

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

/*
 * What stays open is on TCP in the new image, and what is not paired is nothing to the old one any
 * more, which may go on if exec fails: then it is just not tracked. A fork's child that execs
 * is no holder of what exec closes.
 */
void xvm_sock_exec(int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	int fl;

	if (!s)
		return;
	fl = REAL(fcntl)(fd, F_GETFD);
	if (!xvm_sock_on(s)) {
		/* Still a holder if it stays open: then nobody offers it meanwhile. */
		if (fl >= 0 && (fl & FD_CLOEXEC))
			xvm_fdtab_clear(fd);
	} else if ((fl < 0 || (fl & FD_CLOEXEC)) && other_holders(s->ep, false)) {
		let_go(s->ep);
	}
	xvm_sock_put(s);
}

void xvm_sock_all_never(enum xvm_reason why)
{
	int hi = atomic_load(&xvm_fdtab_hi);

	for (int fd = 0; fd < hi; fd++) {
		struct xvm_sock *s = xvm_sock_get(fd);

		if (!s)
			continue;
		xvm_sock_never(s, why);
		if (xvm_sock_on(s))
			xvm_tx_leave(s, fd, why);
		xvm_sock_put(s);
	}
}

void xvm_sock_exiting(void)
{
	int hi = atomic_load(&xvm_fdtab_hi);

	for (int fd = 0; fd < hi; fd++) {
		struct xvm_sock *s = xvm_sock_get(fd);

		if (!s)
			continue;
		if (xvm_sock_on(s)) {
			bool unread = xvm_pads_tidy(s, fd);

			if (!other_holders(s->ep, false) &&
			    !(atomic_load(&s->ep->flags) & XVM_EPF_GIVEN) &&
			    (!xvm_tx_finish(s, fd) || unread))
				reset_at_close(fd);
		}
		xvm_sock_put(s);
	}
}

/* ---- forks ------------------------------------------------------------- */

/* Every socket of the process once, whatever its number of descriptors. */
static void each(void (*fn)(struct xvm_sock *s))
{
	uint32_t n = xvm_arena ? atomic_load(&xvm_arena->ep_hi) : 0;

	for (uint32_t i = 0; i < n && i < XVM_ARENA_EPS; i++) {
		struct xvm_sock *s = atomic_load(&by_slot[i]);

		if (s && atomic_load(&s->file.nfds))
			fn(s);
	}
}

/* Counted from before the fork until the child has put itself on the list of holders. */
static _Atomic uint32_t *fork_count(struct xvm_sock *s)
{
	return s->fork_on ? &s->ep->forking : &s->ep->unmapped;
}

/* As the child will find it, or a little less: another thread may be pairing it just now. */
static void forking(struct xvm_sock *s)
{
	s->fork_on = xvm_sock_on(s);
	s->fork_counted = true;
	atomic_fetch_add(fork_count(s), 1);
}

static void fork_failed(struct xvm_sock *s)
{
	if (s->fork_counted)
		atomic_fetch_sub(fork_count(s), 1);
	s->fork_counted = false;
}

static void forked_child(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	bool on = xvm_sock_on(s);
	int i;

	s->inherited = true;
	atomic_store(&s->asleep, 0); /* those were our parent's */
	if (xvm_sys6(SYS_getppid, 0, 0, 0, 0, 0, 0) == 0) {
		/* Another pid namespace: our tids mean nothing to the locks. Counted for good. */
		atomic_store(&s->paired, 0);
		atomic_store(&s->file.users, 1);
		return;
	}
	s->last = false;
	/* Only those of this thread live on in the child. */
	atomic_store(&s->file.users, 1);
	for (i = 0; i < XVM_HOLDERS; i++) {
		int none = 0;

		if (!atomic_compare_exchange_strong(&ep->holders[i].pid, &none, xvm_pid()))
			continue;
		atomic_store(&ep->holders[i].mapped, on);
		break;
	}
	if (!on) {
		/* What the parent has offered is the parent's. */
		xvm_half_close(&s->mine);
	}
	if (i < XVM_HOLDERS &&
	    s->fork_counted) /* else it stays counted, and nobody is ever the last */
		atomic_fetch_sub(fork_count(s), 1);
}

void xvm_sock_forking(void)
{
	each(forking);
}

void xvm_sock_fork_failed(void)
{
	each(fork_failed);
}

/* Only our parent's threads are in a call with it. */
static void forked_kept(void)
{
	uint32_t n = xvm_arena ? atomic_load(&xvm_arena->ep_hi) : 0;

	for (uint32_t i = 0; i < n && i < XVM_ARENA_EPS; i++) {
		struct xvm_sock *s = atomic_load(&by_slot[i]);
		int fd = s ? atomic_exchange(&s->kept, -1) : -1;

		if (fd >= 0)
			xvm_fd_unhide_close(fd);
	}
}

void xvm_sock_forked(void)
{
	each(forked_child);
	forked_kept();
}
