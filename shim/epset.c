/* SPDX-License-Identifier: Apache-2.0 */
/* Epoll instances, and the records of what is registered in them. */
#include "shim/epset.h"

#include <string.h>
#include <sys/mman.h>

#include "shim/announce.h"
#include "shim/pool.h"
#include "shim/process.h"
#include "transport/sys.h"

static struct xvm_pool epolls = XVM_POOL(struct xvm_epoll, file.next, 16384);
static struct xvm_pool regs = XVM_POOL(struct xvm_reg, link, 1 << 18);

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
	xvm_epset_take_late(e);
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

/* ---- forks -------------------------------------------------------------- */

void xvm_epset_forked_records(struct xvm_epoll *e)
{
	e->amid = false;
	for (uint32_t i = 0; !e->broken && i <= e->mask; i++) {
		for (struct xvm_reg *r = e->by_data[i]; r; r = r->data_next) {
			if (r->where == XVM_REG_HOT)
				xvm_epset_cool(e, r);
			r->armed = 0; /* that was the parent's sleep */
			atomic_store(&e->rescan, 1);
		}
	}
}

static void forked(struct xvm_epoll *e, void *arg)
{
	bool locked = atomic_load(&e->lock.word);

	/* By this thread, whom a signal handler interrupted: it goes on where it was. */
	e->amid = xvm_lock_kept(&e->lock);
	if (locked && !e->amid)
		e->broken = true;
	atomic_store(&e->sleepers, 0);
	atomic_store(&e->lookers, 0);
	e->takers = 0;
	atomic_store(&e->waker, NULL);
	e->inherited = true;
	if (e->amid)
		atomic_store(&e->rescan, 1);
	else
		xvm_epset_forked_records(e);
}

/* Only what this thread holds lives on in the child: it is in fork(), so nothing but records. If
 * that is in a signal handler, amid a call of ours: see xvm_file_dispose(). */
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
	xvm_epset_forked_lists();
	xvm_announce_forked();
	xvm_epset_each(only_own, NULL);
	xvm_epset_each(forked, NULL);
	xvm_epset_each(count_records, NULL);
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

void xvm_epset_revive(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg **b = fd_bucket(e, r->fd);

	r->gone = false;
	e->gone--;
	e->managed--;
	r->fd_next = *b;
	*b = r;
	xvm_epset_convert(e, r);
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
	e->by_fd = (struct xvm_reg **)p;
	e->by_data = e->by_fd + mask + 1;
	/* A fork amid this, in a signal handler, finds tables as large as the mask says. */
	atomic_signal_fence(memory_order_seq_cst);
	e->mask = mask;
	atomic_signal_fence(memory_order_seq_cst);
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

static struct xvm_reg *make(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			    struct xvm_sock *s, struct xvm_epoll *inner)
{
	struct xvm_reg *r = xvm_pool_get(&regs);

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
	return r;
}

static void take(struct xvm_epoll *e, struct xvm_reg *r)
{
	struct xvm_reg *old = xvm_epset_find(e, r->fd);

	/* The kernel would have said EEXIST: the number was closed and used again. */
	if (old)
		xvm_epset_drop(e, old);
	if (++e->count > 2 * (e->mask + 1))
		grow(e);
	link_in(e, r);
	if (r->inner) {
		r->next = e->nested;
		e->nested = r;
	}
	if (r->sock)
		xvm_epset_link_sock(r);
}

struct xvm_reg *xvm_epset_add(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			      struct xvm_sock *s, struct xvm_epoll *inner)
{
	struct xvm_reg *r = make(e, fd, ev, s, inner);

	if (r)
		take(e, r);
	return r;
}

bool xvm_epset_add_late(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			struct xvm_sock *s)
{
	struct xvm_reg *r = make(e, fd, ev, s, NULL);

	if (!r)
		return false;
	/* The holder of the lock, whom we interrupted, is the only one to take from it. */
	r->changed_next = atomic_load(&e->late);
	atomic_store(&e->late, r);
	atomic_store(&e->rescan, 1);
	if (atomic_load(&e->sleepers))
		xvm_epset_wake(e);
	return true;
}

void xvm_epset_take_late(struct xvm_epoll *e)
{
	struct xvm_reg *r = atomic_exchange(&e->late, NULL), *next;

	for (; r; r = next) {
		next = r->changed_next;
		if (r->todo == XVM_TODO_DEL) {
			xvm_sock_put(r->sock);
			r->ep = NULL;
			xvm_pool_put(&regs, r);
			continue;
		}
		xvm_epset_claim(e, r->data, r);
		take(e, r);
	}
}

/* The handler changes what it has made itself. */
bool xvm_epset_defer_late(struct xvm_epoll *e, int fd, uint32_t todo, const struct epoll_event *ev)
{
	struct xvm_reg *r = atomic_load(&e->late);

	while (r && (r->fd != fd || r->todo))
		r = r->changed_next;
	if (!r)
		return false;
	if (todo == XVM_TODO_MOD) {
		r->events = r->kmask = ev->events;
		r->data = ev->data.u64;
	} else {
		r->todo = todo;
	}
	return true;
}

struct named {
	struct xvm_sock *s;
	int fd;
};

static bool is_parked(struct xvm_reg *r, void *arg)
{
	struct named *n = arg;

	return r->sock == n->s && r->fd == n->fd && r->parked && r->todo != XVM_TODO_DEL;
}

bool xvm_epset_parked(struct xvm_epoll *e, struct xvm_sock *s, int fd)
{
	return xvm_epset_any(e, is_parked, &(struct named){s, fd});
}

bool xvm_epset_any(struct xvm_epoll *e, bool (*fn)(struct xvm_reg *r, void *arg), void *arg)
{
	char *base = atomic_load(&regs.base);
	uint32_t n = atomic_load(&regs.hi);

	for (uint32_t i = 0; base && i < n; i++) {
		struct xvm_reg *r = (void *)(base + (size_t)i * sizeof(*r));

		/* Others' records come and go meanwhile; it must be its descriptor's yet. */
		if (__atomic_load_n(&r->ep, __ATOMIC_RELAXED) == e && r->sock &&
		    xvm_fdtab_peek(r->fd) == &r->sock->file && fn(r, arg))
			return true;
	}
	return false;
}

void xvm_epset_modify(struct xvm_epoll *e, struct xvm_reg *r, uint32_t events, uint64_t data)
{
	if (data != r->data) {
		/* P3: the kernel may just have reported it by the old ones. It does so again. */
		if (r->where != XVM_REG_KERNEL && e->takers)
			e->ghosts = true;
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
	if (r->where != XVM_REG_KERNEL || r->gone)
		e->managed--;
	e->gone -= r->gone;
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
	r->ep = NULL; /* xvm_epset_any() */
	xvm_pool_put(&regs, r);
	return true;
}
