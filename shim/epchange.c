/* SPDX-License-Identifier: Apache-2.0 */
/* What sockets tell the epolls that they are registered in: each has a list of its records. */
#include "shim/epset.h"

#include "shim/announce.h"
#include "shim/process.h"

/* All sockets' lists of records. Held for a few instructions, none of which takes another lock. */
static struct xvm_shm_lock lists;
static _Atomic uint32_t missed; /* a signal handler could not take it */

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
	xvm_announce_changed(s);
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
	uint32_t todo = __atomic_exchange_n(&r->todo, XVM_TODO_NONE, __ATOMIC_RELAXED);

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
	if (__builtin_expect(e->amid, 0))
		xvm_epset_forked_records(e);
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
	xvm_epset_take_late(e);
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

	/* Registered anew by such a handler: that record is the one. */
	if (xvm_epset_defer_late(e, fd, todo, ev))
		return true;
	if (xvm_lock(&lists) < 0)
		return false;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && r->fd == fd && !r->gone)
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

struct xvm_reg *xvm_epset_reg_of(struct xvm_epoll *e, struct xvm_sock *s, int fd)
{
	struct xvm_reg *r;

	if (xvm_lock(&lists) < 0)
		return NULL;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && (fd < 0 || (r->fd == fd && !r->gone)))
			break;
	unlock_lists();
	return r;
}

struct xvm_reg *xvm_epset_gone_of(struct xvm_epoll *e, struct xvm_sock *s, int fd)
{
	struct xvm_reg *r;

	if (xvm_lock(&lists) < 0)
		return NULL;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && r->fd == fd && r->gone)
			break;
	unlock_lists();
	return r;
}

struct xvm_reg *xvm_epset_armed_of(struct xvm_epoll *e, struct xvm_sock *s)
{
	struct xvm_reg *r;

	if (xvm_lock(&lists) < 0)
		return NULL;
	for (r = atomic_load(&s->regs); r; r = r->sock_next)
		if (r->ep == e && r->armed)
			break;
	unlock_lists();
	return r;
}

uint32_t xvm_epset_twin_armed(const struct xvm_reg *r)
{
	struct xvm_reg *q = atomic_load(&r->sock->regs);
	uint32_t armed = 0;

	if (!q || (q == r && !r->sock_next))
		return 0;
	if (xvm_lock(&lists) < 0)
		return r->armed; /* then others think that it is: they look again by and by */
	for (q = atomic_load(&r->sock->regs); q; q = q->sock_next)
		if (q != r && q->ep == r->ep && q->armed_by == r->armed_by)
			armed |= q->armed;
	unlock_lists();
	return armed;
}

struct xvm_epoll *xvm_epset_idle_of(struct xvm_sock *s)
{
	struct xvm_epoll *e = NULL;

	if (!atomic_load(&s->regs) || xvm_lock(&lists) < 0)
		return NULL;
	/* Looked at without their epolls' locks: who means to rely on it looks again. */
	for (struct xvm_reg *r = atomic_load(&s->regs); r && !e; r = r->sock_next)
		if (__atomic_load_n(&r->armed, __ATOMIC_RELAXED) &&
		    !atomic_load(&r->ep->sleepers) && xvm_epset_hold(r->ep))
			e = r->ep;
	unlock_lists();
	return e;
}

struct xvm_epoll *xvm_epset_of(struct xvm_sock *s, int fd)
{
	struct xvm_epoll *e = NULL;

	if (!atomic_load(&s->regs) || xvm_lock(&lists) < 0)
		return NULL;
	for (struct xvm_reg *r = atomic_load(&s->regs); r && !e; r = r->sock_next) {
		if (fd >= 0 && (r->fd != fd || r->gone))
			continue;
		/* Else it will drop the record itself. */
		if (xvm_epset_hold(r->ep))
			e = r->ep;
	}
	unlock_lists();
	return e;
}

/* ---- the lists ------------------------------------------------------------ */

void xvm_epset_forked_lists(void)
{
	xvm_lock_kept(&lists);
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
