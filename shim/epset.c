/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/epset.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "shim/link.h"
#include "shim/pool.h"
#include "shim/process.h"
#include "shim/wait.h"
#include "transport/sys.h"

static struct xvm_pool epolls = XVM_POOL(struct xvm_epoll, file.next, 16384);
static struct xvm_pool regs = XVM_POOL(struct xvm_reg, link, 1 << 18);

/* All sockets' lists of records. Held for a few instructions, none of which takes another lock. */
static struct xvm_shm_lock lists;
static _Atomic uint32_t missed; /* a signal handler could not take it */
static _Atomic int kick_fd;	/* 1 + an eventfd that is always readable */

/* ---- instances ---------------------------------------------------------- */

struct xvm_epoll *xvm_epset_new(int epfd)
{
	struct xvm_epoll *e;

	if ((unsigned)epfd >= XVM_FD_MAX || !xvm_fdtab)
		return NULL;
	e = xvm_pool_get(&epolls);
	if (!e)
		return NULL;
	/* file.users may be touched by a stale lookup, and sleepers by a stale sleeper: they are
	 * only ever added to and taken from. */
	atomic_store(&e->file.nfds, 0);
	memset((char *)e + offsetof(struct xvm_epoll, fd), 0,
	       sizeof(*e) - offsetof(struct xvm_epoll, fd));
	e->mask = XVM_EP_BUCKETS - 1;
	e->by_fd = e->first_fd;
	e->by_data = e->first_data;
	e->maker = xvm_pid();
	atomic_store(&e->fd, epfd);
	atomic_store(&e->file.kind, XVM_FILE_EPOLL);
	xvm_fdtab_set(epfd, &e->file);
	return e;
}

struct xvm_epoll *xvm_epset_get(int epfd)
{
	struct xvm_epoll *e = (struct xvm_epoll *)xvm_fdtab_get(epfd, XVM_FILE_EPOLL);

	if (e)
		atomic_store_explicit(&e->fd, epfd, memory_order_relaxed);
	return e;
}

void xvm_epset_put(struct xvm_epoll *e)
{
	xvm_file_put(&e->file);
}

bool xvm_epset_hold(struct xvm_epoll *e)
{
	uint64_t users = atomic_load(&e->file.users);

	while (users && !atomic_compare_exchange_weak(&e->file.users, &users, users + 1))
		;
	return users != 0;
}

static size_t table_bytes(uint32_t mask)
{
	return 2 * ((size_t)mask + 1) * sizeof(struct xvm_reg *);
}

static void free_table(struct xvm_epoll *e)
{
	if (e->by_fd != e->first_fd)
		xvm_sys(SYS_munmap, e->by_fd, table_bytes(e->mask));
}

void xvm_epoll_dispose(struct xvm_file *f)
{
	struct xvm_epoll *e = (struct xvm_epoll *)f;
	struct xvm_waker *w = atomic_exchange(&e->waker, NULL);

	atomic_store(&f->kind, XVM_FILE_NONE);
	if (w)
		xvm_waker_put(w);
	/* What cannot be taken apart now stays as it is for good: harmless, and next to impossible.
	 */
	for (uint32_t i = 0; !e->broken && i <= e->mask; i++)
		while (e->by_data[i])
			if (!xvm_epset_drop(e, e->by_data[i]))
				return;
	free_table(e);
	e->by_fd = e->first_fd;
	xvm_pool_put(&epolls, e);
}

/* A descriptor of e in this process, or -1. */
static int fd_of(struct xvm_epoll *e)
{
	int fd = atomic_load_explicit(&e->fd, memory_order_relaxed);

	return xvm_fdtab_peek(fd) == &e->file ? fd : -1;
}

long xvm_epset_control(struct xvm_epoll *e, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	return xvm_sys(SYS_epoll_ctl, fd_of(e), op, fd, &ev);
}

static void forked(struct xvm_epoll *e, void *arg)
{
	if (atomic_load(&e->lock.word))
		e->broken = true;
	atomic_store(&e->lock.word, 0);
	atomic_store(&e->sleepers, 0);
	e->takers = 0;
	atomic_store(&e->waker, NULL);
	e->inherited = true;
	for (uint32_t i = 0; !e->broken && i <= e->mask; i++) {
		for (struct xvm_reg *r = e->by_data[i]; r; r = r->data_next) {
			if (r->where == XVM_REG_HOT)
				xvm_epset_cool(e, r);
			r->armed = 0; /* that was the parent's sleep */
			atomic_store(&e->rescan, 1);
		}
	}
}

/* Only what this thread holds lives on in the child: it is in fork(), so nothing but records. */
static void only_own(struct xvm_epoll *e, void *arg)
{
	atomic_store(&e->file.users, 1);
}

static void count_records(struct xvm_epoll *e, void *arg)
{
	for (uint32_t i = 0; !e->broken && i <= e->mask; i++) {
		for (struct xvm_reg *r = e->by_data[i]; r; r = r->data_next) {
			if (r->sock)
				atomic_fetch_add(&r->sock->file.users, 1);
			if (r->inner)
				atomic_fetch_add(&r->inner->file.users, 1);
		}
	}
}

static void expose(struct xvm_epoll *e, void *arg)
{
	if (!xvm_epset_hold(e))
		return;
	if (xvm_lock(&e->lock) == 0) {
		xvm_epset_expose(e);
		xvm_unlock(&e->lock);
	}
	xvm_epset_put(e);
}

void xvm_epoll_sharing(void)
{
	xvm_epset_each(expose, NULL);
}

void xvm_epoll_forked(void)
{
	atomic_store(&lists.word, 0);
	xvm_wait_forked();
	xvm_epset_each(only_own, NULL);
	xvm_epset_each(forked, NULL);
	xvm_epset_each(count_records, NULL);
}

/* ---- waking ------------------------------------------------------------- */

void xvm_epoll_moved(int fd, int to)
{
	atomic_compare_exchange_strong(&kick_fd, &(int){fd + 1}, to + 1);
}

/*
 * Wakes those who sleep in an epoll that has no waker: to ask for a readable descriptor anew makes
 * an event. An extra eventfd for each epoll would do as well, but most never need one.
 */
static void kick(struct xvm_epoll *e)
{
	int fd = atomic_load(&kick_fd) - 1, none = 0;

	if (fd < 0) {
		fd = (int)xvm_sys(SYS_eventfd2, 1, EFD_NONBLOCK | EFD_CLOEXEC);
		if (fd < 0)
			return;
		fd = xvm_fd_hide(fd);
		if (!atomic_compare_exchange_strong(&kick_fd, &none, fd + 1)) {
			xvm_fd_unhide_close(fd);
			fd = none - 1;
		}
	}
	if (xvm_epset_control(e, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, xvm_epset_own(e)) == -ENOENT)
		xvm_epset_control(e, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
}

void xvm_epset_wake(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load(&e->waker);

	if (w)
		xvm_waker_ring(w);
	else
		kick(e);
}

void xvm_epset_unwake(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load(&e->waker);
	int fd = atomic_load(&kick_fd) - 1;

	if (e->inherited)
		return; /* the parent's wake-ups come that way too */
	if (w)
		xvm_waker_drain(w);
	else if (fd >= 0)
		xvm_epset_control(e, EPOLL_CTL_MOD, fd, 0, xvm_epset_own(e));
}

/*
 * While our parent may wait in the same kernel epoll, a ring for us could wake the parent in our
 * stead. A daemon's parent is soon gone.
 */
static bool orphaned(struct xvm_epoll *e)
{
	if (e->asked++ % 256 || xvm_sys(SYS_kill, e->maker, 0) != -ESRCH)
		return false;
	e->inherited = false;
	return true;
}

struct xvm_waker *xvm_epset_waker(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load_explicit(&e->waker, memory_order_relaxed);
	long r;

	if (w || (e->inherited && !orphaned(e)))
		return w;
	w = xvm_waker_get();
	if (!w)
		return NULL;
	/* A ring that came late for whoever had it last would be an event. */
	xvm_waker_drain(w);
	/* Edge-triggered: each ring is an event, and nobody need empty the eventfd. */
	r = xvm_epset_control(e, EPOLL_CTL_ADD, w->fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
	if (r == -EEXIST)
		r = xvm_epset_control(e, EPOLL_CTL_MOD, w->fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
	if (r < 0) {
		xvm_waker_put(w);
		return NULL;
	}
	atomic_store(&e->waker, w);
	return w;
}

/* ---- changes ------------------------------------------------------------ */

static void wake_sleepers(struct xvm_epoll *e)
{
	/* The change is on the stack before the count is read; pairs with the fence of who counts
	 * himself among the sleepers and then looks at the stack. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&e->sleepers, memory_order_relaxed))
		xvm_epset_wake(e);
}

static void rescan(struct xvm_epoll *e, void *arg)
{
	atomic_store(&e->rescan, 1);
	wake_sleepers(e);
}

static void unlock_lists(void)
{
	xvm_unlock(&lists);
	/* A change came while this thread held them: which, is not known. */
	if (atomic_load_explicit(&missed, memory_order_relaxed) && atomic_exchange(&missed, 0))
		xvm_epset_each(rescan, NULL);
}

static void push(struct xvm_reg *r)
{
	struct xvm_epoll *e = r->ep;
	struct xvm_reg *head;

	if (atomic_exchange(&r->changed, 1) == 0) {
		head = atomic_load(&e->changes);
		do {
			r->changed_next = head;
		} while (!atomic_compare_exchange_weak(&e->changes, &head, r));
	}
	wake_sleepers(e);
}

/* Off the stack of changes. It is off its socket's list, so it will not be pushed again. */
void xvm_epset_unpush(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg *q = atomic_load(&r->changed) ? atomic_exchange(&e->changes, NULL) : NULL;

	for (struct xvm_reg *next; q; q = next) {
		next = q->changed_next;
		atomic_store(&q->changed, 0);
		if (q != r)
			push(q);
	}
}

void xvm_epoll_changed(struct xvm_sock *s)
{
	xvm_wait_changed(s);
	/* What changed was stored before; pairs with the fence in xvm_epset_add(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load_explicit(&s->regs, memory_order_relaxed))
		return;
	if (xvm_lock(&lists) < 0) {
		atomic_store(&missed, 1);
		return;
	}
	for (struct xvm_reg *r = atomic_load(&s->regs); r; r = r->sock_next)
		push(r);
	unlock_lists();
}

static void settle_one(struct xvm_epoll *e, struct xvm_reg *r)
{
	uint32_t todo = r->todo;

	r->todo = XVM_TODO_NONE;
	if (todo == XVM_TODO_DEL) {
		xvm_epset_drop(e, r);
		return;
	}
	if (todo == XVM_TODO_MOD) {
		xvm_epset_modify(e, r, r->todo_events, r->todo_data);
		r->kmask = r->todo_events;
	}
	if (r->parked) {
		if (!xvm_sock_on(r->sock)) /* the kernel's events would be the application's */
			xvm_epset_evict(e, r);
	} else if (r->sock) {
		xvm_epset_convert(e, r);
	}
}

void xvm_epset_settle(struct xvm_epoll *e)
{
	struct xvm_reg *r, *next;

	if (e->broken)
		return;
	if (e->opaque && e->parked) /* their data may be an unknown one's */
		xvm_epset_expose(e);
	while (atomic_load_explicit(&e->changes, memory_order_relaxed)) {
		for (r = atomic_exchange(&e->changes, NULL); r; r = next) {
			next = r->changed_next;
			atomic_store(&r->changed, 0);
			settle_one(e, r);
		}
	}
	if (!atomic_load_explicit(&e->rescan, memory_order_relaxed))
		return;
	atomic_store(&e->rescan, 0);
	for (uint32_t i = 0; i <= e->mask; i++) {
		for (r = e->by_data[i]; r; r = next) {
			next = r->data_next;
			settle_one(e, r);
		}
	}
}

bool xvm_epset_defer(struct xvm_epoll *e, struct xvm_sock *s, int fd, uint32_t todo,
		     const struct epoll_event *ev)
{
	struct xvm_reg *r;

	if (xvm_lock(&lists) < 0)
		return false;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && r->fd == fd)
			break;
	if (r) {
		r->todo = todo;
		if (todo == XVM_TODO_MOD) {
			r->todo_events = ev->events;
			r->todo_data = ev->data.u64;
		}
		push(r);
	}
	unlock_lists();
	return r != NULL;
}

bool xvm_epset_parked(struct xvm_epoll *e, struct xvm_sock *s, int fd)
{
	struct xvm_reg *r = xvm_epset_reg_of(e, s, fd);

	return r && r->parked;
}

struct xvm_reg *xvm_epset_reg_of(struct xvm_epoll *e, struct xvm_sock *s, int fd)
{
	struct xvm_reg *r;

	if (xvm_lock(&lists) < 0)
		return NULL;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && (fd < 0 || r->fd == fd))
			break;
	unlock_lists();
	return r;
}

struct xvm_epoll *xvm_epset_of(struct xvm_sock *s, int fd)
{
	struct xvm_epoll *e = NULL;

	if (!atomic_load(&s->regs) || xvm_lock(&lists) < 0)
		return NULL;
	for (struct xvm_reg *r = atomic_load(&s->regs); r && !e; r = r->sock_next) {
		if (fd >= 0 && r->fd != fd)
			continue;
		/* Else it will drop the record itself. */
		if (xvm_epset_hold(r->ep))
			e = r->ep;
	}
	unlock_lists();
	return e;
}

void xvm_epset_each(void (*fn)(struct xvm_epoll *e, void *arg), void *arg)
{
	char *base = atomic_load(&epolls.base);
	uint32_t n = atomic_load(&epolls.hi);

	for (uint32_t i = 0; base && i < n; i++) {
		struct xvm_epoll *e = (void *)(base + (size_t)i * sizeof(*e));

		if (atomic_load(&e->file.kind) == XVM_FILE_EPOLL && atomic_load(&e->file.nfds))
			fn(e, arg);
	}
}

/* ---- records ------------------------------------------------------------ */

static struct xvm_reg **data_bucket(struct xvm_epoll *e, uint64_t data)
{
	uint64_t h = data * 0x9e3779b97f4a7c15ull;

	return &e->by_data[(uint32_t)(h >> 32) & e->mask];
}

static struct xvm_reg **fd_bucket(struct xvm_epoll *e, int fd)
{
	return &e->by_fd[(uint32_t)fd & e->mask];
}

static void link_in(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg **b = data_bucket(e, r->data);

	r->data_next = *b;
	*b = r;
	if (r->gone)
		return;
	b = fd_bucket(e, r->fd);
	r->fd_next = *b;
	*b = r;
}

static void unlink_data(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg **p = data_bucket(e, r->data);

	while (*p && *p != r)
		p = &(*p)->data_next;
	if (*p)
		*p = r->data_next;
}

void xvm_epset_unlink_fd(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg **p = fd_bucket(e, r->fd);

	while (*p && *p != r)
		p = &(*p)->fd_next;
	if (*p)
		*p = r->fd_next;
}

/* Chains stay short; if there is no memory they grow, and no harm is done. */
static void grow(struct xvm_epoll *e)
{
	uint32_t old_mask = e->mask, mask = e->mask * 4 + 3;
	struct xvm_reg **old_fd = e->by_fd, **old_data = e->by_data, *next;
	size_t old_bytes = table_bytes(old_mask);
	long p;

	p = xvm_sys(SYS_mmap, 0, table_bytes(mask), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (xvm_sys_failed(p))
		return;
	e->mask = mask;
	e->by_fd = (struct xvm_reg **)p;
	e->by_data = e->by_fd + mask + 1;
	for (uint32_t i = 0; i <= old_mask; i++) {
		for (struct xvm_reg *q = old_data[i]; q; q = next) {
			next = q->data_next;
			link_in(e, q);
		}
	}
	if (old_fd != e->first_fd)
		xvm_sys(SYS_munmap, old_fd, old_bytes);
}

struct xvm_reg *xvm_epset_find(struct xvm_epoll *e, int fd)
{
	struct xvm_reg *r = *fd_bucket(e, fd);

	while (r && r->fd != fd)
		r = r->fd_next;
	return r;
}

void xvm_epset_link_sock(struct xvm_reg *r)
{
	/* A handler that interrupts the holder of the lists has its epoll_ctl deferred before it
	 * comes here, unless for another epoll: then this socket is not worth a deadlock. */
	if (xvm_lock(&lists) < 0) {
		xvm_sock_never(r->sock, XVM_R_LIMIT);
		return;
	}
	r->sock_next = atomic_load(&r->sock->regs);
	atomic_store(&r->sock->regs, r);
	unlock_lists();
	/* On its list before it is asked whether it is paired; pairs with xvm_epoll_changed(). */
	atomic_thread_fence(memory_order_seq_cst);
}

bool xvm_epset_unlink_sock(struct xvm_reg *r)
{
	struct xvm_reg *q;

	if (xvm_lock(&lists) < 0)
		return false;
	q = atomic_load(&r->sock->regs);
	if (q == r) {
		atomic_store(&r->sock->regs, r->sock_next);
	} else {
		while (q && q->sock_next != r)
			q = q->sock_next;
		if (q)
			q->sock_next = r->sock_next;
	}
	unlock_lists();
	return true;
}

struct xvm_reg *xvm_epset_add(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			      struct xvm_sock *s, struct xvm_epoll *inner)
{
	struct xvm_reg *r = xvm_epset_find(e, fd);

	/* The kernel would have said EEXIST: the number was closed and used again. */
	if (r)
		xvm_epset_drop(e, r);
	r = xvm_pool_get(&regs);
	if (!r) {
		e->opaque = true;
		return NULL;
	}
	memset((char *)r + sizeof(r->link), 0, sizeof(*r) - sizeof(r->link));
	r->ep = e;
	r->fd = fd;
	r->events = ev->events;
	r->kmask = ev->events;
	r->data = ev->data.u64;
	r->fresh = true;
	r->sock = s;
	r->inner = inner;
	if (++e->count > 2 * (e->mask + 1))
		grow(e);
	link_in(e, r);
	if (inner) {
		r->next = e->nested;
		e->nested = r;
	}
	if (s)
		xvm_epset_link_sock(r);
	return r;
}

void xvm_epset_modify(struct xvm_epoll *e, struct xvm_reg *r, uint32_t events, uint64_t data)
{
	if (data != r->data) {
		unlink_data(e, r);
		xvm_epset_unlink_fd(e, r);
		r->data = data;
		link_in(e, r);
	}
	r->events = events;
	r->spent = false;
	r->fresh = true;
	r->calm = false;
	r->vain = 0;
}

bool xvm_epset_drop(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg **p;

	if (r->sock && !xvm_epset_unlink_sock(r)) {
		/* A signal handler in the middle of a change of the lists: later. */
		r->todo = XVM_TODO_DEL;
		atomic_store(&e->rescan, 1);
		return false;
	}
	xvm_epset_disarm(r);
	xvm_epset_cool(e, r);
	if (r->where != XVM_REG_KERNEL)
		e->managed--;
	e->parked -= r->parked;
	if (r->sock) {
		xvm_epset_unpush(e, r);
		xvm_sock_put(r->sock);
	}
	if (r->inner) {
		for (p = &e->nested; *p && *p != r; p = &(*p)->next)
			;
		if (*p)
			*p = r->next;
		xvm_epset_put(r->inner);
	}
	unlink_data(e, r);
	if (!r->gone)
		xvm_epset_unlink_fd(e, r);
	e->count--;
	xvm_pool_put(&regs, r);
	return true;
}
