/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting in an epoll. Rings of hot sockets are looked at here, everything else is the kernel's: it
 * reports cold sockets when a pad comes, and our own eventfd, registered with the address of
 * the instance as data, when a peer has rung.
 *
 * A wait looks, spins if that has paid off lately, then arms all hot sockets with one new number of
 * the eventfd (W1), looks again and sleeps. A socket that was armed several times and had nothing
 * goes cold, so a wait costs as much as is active, not as much as is registered.
 *
 * No lock is held across a sleep. A signal that comes while a wait spins or looks, rather than
 * sleeps, runs its handler and does not end the wait: as if it had come just before the call.
 */
#include <limits.h>
#include <pthread.h>

#include "shim/epset.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "transport/sys.h"

#define SKIP_MAX 8	  /* waits in a row that rings alone may answer */
#define ROUGH_NS 10000000 /* a tick of the rough clock, at most */
#define LOOK_NS 8000	  /* between looks at the kernel while spinning */

/* Which of libc's functions the application called: a sandbox may know no other. */
enum how { HOW_WAIT, HOW_PWAIT, HOW_PWAIT2 };

struct wait {
	struct xvm_epoll *e;
	int epfd, max;
	enum how how;
	struct epoll_event *evs;
	const sigset_t *mask;
	struct xvm_inners in;
	bool counted; /* e->sleepers has us */
	bool rung;    /* we took from the kernel a wake-up that others who sleep here may need */
};

/* ---- the kernel's events ------------------------------------------------ */

/* Several descriptors may be registered with the same data: then any of them may be meant. */
static uint32_t translate(struct wait *w, const struct epoll_event *ev)
{
	struct xvm_epoll *e = w->e;
	bool other = e->opaque, ours = false;
	struct xvm_reg *r, *next;
	struct xvm_file *f;
	uint32_t bits = 0;

	for (r = xvm_epset_first(e, ev->data.u64); r; r = next) {
		next = r->data_next;
		if (r->data != ev->data.u64)
			continue;
		if (r->where != XVM_REG_KERNEL) {
			ours = true;
			continue;
		}
		f = r->sock || r->inner || r->gone ? NULL : xvm_fdtab_peek(r->fd);
		if (f && atomic_load(&f->kind) == XVM_FILE_SOCK)
			xvm_epset_drop(e, r); /* of a descriptor that was closed and used again */
		else
			other = true;
	}
	if (!ours)
		return ev->events;
	w->rung = true; /* a pad, perhaps: it was for all who sleep here */
	for (r = xvm_epset_first(e, ev->data.u64); r; r = next) {
		next = r->data_next;
		if (r->data == ev->data.u64 && r->where != XVM_REG_KERNEL)
			bits |= xvm_epset_feed(e, r, ev->events);
	}
	return other ? bits | ev->events : bits;
}

/* An event of what was parked: the application has long deleted it, and we have meanwhile. */
static bool ghost(struct xvm_epoll *e, uint64_t data)
{
	struct xvm_reg *r;

	if (!e->ghosts || e->opaque || e->broken)
		return false;
	r = xvm_epset_first(e, data);
	while (r && r->data != data)
		r = r->data_next;
	return !r;
}

/* Leave of n events what is the application's. */
static int filter(struct wait *w, int n)
{
	struct xvm_epoll *e = w->e;
	int out = 0;

	for (int i = 0; i < n; i++) {
		struct epoll_event ev = w->evs[i];

		if (ev.data.u64 == xvm_epset_own(e)) {
			w->rung = true;
			continue;
		}
		if (ghost(e, ev.data.u64))
			continue;
		if (e->managed && !e->broken)
			ev.events = translate(w, &ev);
		if (ev.events)
			w->evs[out++] = ev;
	}
	e->skipped = 0;
	e->vain = out ? 0 : e->vain + 1;
	return out;
}

/* The kernel, without waiting: no cancellation point, so it may be called with the lock held. */
static int look_kernel(struct wait *w, int max)
{
	static const struct timespec zero;
	long n;

	if (w->how == HOW_PWAIT2)
		n = xvm_sys(SYS_epoll_pwait2, w->epfd, w->evs, max, &zero, NULL, 8);
#ifdef SYS_epoll_wait
	else if (w->how == HOW_WAIT)
		n = xvm_sys(SYS_epoll_wait, w->epfd, w->evs, max, 0);
#endif
	else
		n = xvm_sys(SYS_epoll_pwait, w->epfd, w->evs, max, 0, NULL, 8);
	return n > 0 ? filter(w, (int)n) : 0;
}

/* ---- the rings ---------------------------------------------------------- */

/* From evs[n] on; how many there are then, or -EFAULT. Starts where the last one found no more
 * room: nobody starves. */
static int scan(struct wait *w, int n)
{
	struct xvm_epoll *e = w->e;
	struct xvm_reg *r = e->hot, *next;
	struct epoll_event ev;
	struct xvm_edge now;
	uint32_t bits;

	for (uint32_t left = e->hot_count; left && n < w->max; left--, r = next) {
		next = r->next;
		if (r->call == e->call)
			continue;
		bits = xvm_epset_look(r, false, &now);
		if (!bits)
			continue;
		ev = (struct epoll_event){.events = bits, .data.u64 = r->data};
		if (xvm_user_copy(&w->evs[n], &ev, sizeof(ev)) < 0)
			return n ? n : -EFAULT;
		n++;
		xvm_epset_reported(e, r, &now, bits, false);
		if (n == w->max && e->hot_count)
			e->hot = r->where == XVM_REG_HOT ? r->next : next;
	}
	return n;
}

/*
 * Rings and, now and then, the kernel: so that a kernel's descriptor does not starve while rings
 * are busy, and first, so that it finds room. Often where it had something lately.
 */
static int look(struct wait *w, bool kernel)
{
	struct xvm_epoll *e = w->e;
	int n = 0, known;

	e->call++;
	if (kernel || e->skipped >= SKIP_MAX || (e->vain < 2 && e->skipped))
		n = look_kernel(w, e->hot_count ? (w->max + 1) / 2 : w->max);
	known = n;
	n = scan(w, n);
	/* Where there is room for one only, it is the rings' turn after the kernel's. */
	if (n > known || (n && n < w->max))
		e->skipped++;
	return n;
}

/* ---- before and after a sleep ------------------------------------------- */

/*
 * Rule W6: a ring or a pad that we took was for all who sleep here, and what it told of was
 * disarmed; they have to be armed anew, and told if something is left for them.
 */
static void pass_on(struct wait *w)
{
	struct xvm_epoll *e = w->e;
	bool found = false;

	if (w->rung && atomic_load(&e->sleepers) && !e->broken &&
	    (xvm_epset_arm_all(e, NULL, &found) >= 0 || found))
		xvm_epset_wake(e);
	w->rung = false;
}

/* Nothing of the kernel's is left to be judged. */
static void judged(struct xvm_epoll *e)
{
	if (--e->takers == 0)
		e->ghosts = false;
}

/* Back from the sleep. The last one to go disarms. */
static void leave(struct wait *w)
{
	if (atomic_load(&w->e->sleepers))
		pass_on(w);
	else
		xvm_epset_disarm_all(w->e);
}

static void uncount(struct wait *w)
{
	if (w->counted)
		atomic_fetch_sub(&w->e->sleepers, 1);
	w->counted = false;
	xvm_inners_end(&w->in);
}

/* The thread is cancelled in its sleep. */
static void cancelled(void *arg)
{
	struct wait *w = arg;

	uncount(w);
	if (xvm_lock(&w->e->lock) == 0) {
		w->rung = true; /* perhaps: the kernel may have given us the event */
		judged(w->e);
		leave(w);
		xvm_unlock(&w->e->lock);
	}
	xvm_epset_put(w->e);
}

/* ns < 0: no bound. */
static int kernel_wait(struct wait *w, int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};
	int64_t ms = ns < 0 ? -1 : (ns + 999999) / 1000000;

	if (ms > INT_MAX)
		ms = INT_MAX;
	if (w->how == HOW_PWAIT2)
		return REAL(epoll_pwait2)(w->epfd, w->evs, w->max, ns < 0 ? NULL : &ts, w->mask);
	if (w->how == HOW_PWAIT)
		return REAL(epoll_pwait)(w->epfd, w->evs, w->max, (int)ms, w->mask);
	return REAL(epoll_wait)(w->epfd, w->evs, w->max, (int)ms);
}

/* The sleep itself, a cancellation point. A negative errno on failure. */
static int guarded_wait(struct wait *w, int64_t ns, void (*cleanup)(void *))
{
	int n;

	pthread_cleanup_push(cleanup, w);
	n = kernel_wait(w, ns);
	if (n < 0)
		n = -errno;
	pthread_cleanup_pop(0);
	return n;
}

static int64_t remaining(int64_t ns, uint64_t deadline)
{
	uint64_t now;

	if (ns <= 0)
		return ns;
	now = xvm_now_ns();
	return now < deadline ? (int64_t)(deadline - now) : 0;
}

/* ---- the wait ----------------------------------------------------------- */

static int spin(struct wait *w, int64_t ns)
{
	uint64_t budget = w->e->hot_count ? xvm_spin_budget() : 0, start, now, asked;
	int n = 0;

	/* On one CPU the peer runs only if we sleep. */
	if (!budget || !w->e->hot || xvm_sock_same_cpu(w->e->hot->sock))
		return 0;
	if (ns > 0 && (uint64_t)ns < budget)
		budget = (uint64_t)ns;
	start = asked = now = xvm_now_ns();
	if (w->e->vain < 2)
		asked = 0;
	while (n == 0 && now - start < budget) {
		bool kernel = now - asked > LOOK_NS;

		n = look(w, kernel);
		if (n || !w->e->hot)
			break;
		xvm_unlock(&w->e->lock);
		for (int i = 0; i < 8; i++)
			xvm_relax();
		if (kernel)
			asked = now;
		now = xvm_now_ns();
		if (xvm_lock(&w->e->lock) < 0)
			return -EDEADLK;
		xvm_epset_settle(w->e);
	}
	if (n) {
		xvm_spin_won(now - start);
		XVM_COUNT(spins_won);
	} else {
		XVM_COUNT(spins_lost);
	}
	return n;
}

/* What is ready in inner epolls is so in the kernel too, and nothing else. Returns the bound of the
 * sleep. */
static int prepare_nested(struct wait *w)
{
	for (struct xvm_reg *r = w->e->nested, *next; r; r = next) {
		next = r->next;
		if (!atomic_load(&r->inner->file.nfds))
			xvm_epset_drop(w->e, r); /* closed: the kernel has dropped it */
		else
			xvm_inners_add(&w->in, r->inner);
	}
	return w->in.n ? xvm_inners_prepare(&w->in) : -1;
}

/* Arms, counts us in. 0: sleep; -EAGAIN: look again; or events. With the lock held. */
static int ready_to_sleep(struct wait *w, int *bound)
{
	struct xvm_epoll *e = w->e;
	struct epoll_event ev;
	bool found = false;
	int b;

	e->call++;
	*bound = xvm_epset_arm_all(e, &ev, &found);
	if (found) {
		if (!atomic_load(&e->sleepers))
			xvm_epset_disarm_all(e);
		e->skipped++;
		return xvm_user_copy(&w->evs[0], &ev, sizeof(ev)) < 0 ? -EFAULT : scan(w, 1);
	}
	b = prepare_nested(w);
	if (b >= 0 && (*bound < 0 || b < *bound))
		*bound = b;
	w->counted = true;
	atomic_fetch_add(&e->sleepers, 1);
	/* Counted before the last look at the changes; pairs with wake_sleepers(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&e->changes) || atomic_load(&e->rescan)) {
		uncount(w);
		return -EAGAIN;
	}
	return 0;
}

static int sleep_once(struct wait *w, int64_t ns, int bound)
{
	int64_t cut = bound < 0 ? -1 : (int64_t)bound * 1000000;
	uint64_t start = xvm_now_ns();
	int n;

	XVM_COUNT(sleeps);
	n = guarded_wait(w, cut >= 0 && (ns < 0 || cut < ns) ? cut : ns, cancelled);
	xvm_spin_slept(xvm_now_ns() - start);
	uncount(w);
	return n;
}

/* The records make no sense to a child that was forked in the middle of a change. */
static int give_up(struct wait *w, int64_t ns)
{
	struct xvm_sock *s;
	int n, out = 0;

	for (int fd = 0; w->e->broken && (s = xvm_sock_next(&fd)); fd++) {
		xvm_sock_never(s, XVM_R_SHARED);
		xvm_sock_put(s);
	}
	n = kernel_wait(w, ns);
	if (n <= 0)
		return n < 0 ? -errno : n;
	for (int i = 0; i < n; i++)
		if (w->evs[i].data.u64 != xvm_epset_own(w->e))
			w->evs[out++] = w->evs[i];
	return out || ns >= 0 ? out : -EINTR; /* no data of the application's came with it */
}

/* Nothing in it is paired. Others may be about to change that: then we are woken. */
static bool none_paired(struct xvm_epoll *e)
{
	return !__atomic_load_n(&e->managed, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&e->nested, __ATOMIC_RELAXED) && !atomic_load(&e->changes) &&
	       !atomic_load(&e->rescan) && !e->broken;
}

static void uncount_only(void *arg)
{
	struct wait *w = arg;

	atomic_fetch_sub(&w->e->sleepers, 1);
}

/* Good enough for what is hardly ever needed, at a tenth of the cost. Never more than has gone by.
 */
static uint64_t rough_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/*
 * As the kernel does it, at the cost of being counted: a program that talks to nobody near by pays
 * for this with each wait. No reference is held: an instance that is closed meanwhile, and even
 * used again, stays a struct xvm_epoll, and sleepers is only ever added to and taken from.
 * False: the wait goes on by other means, for *ns.
 */
static bool pass_through(struct wait *w, int64_t *ns, int *result)
{
	uint64_t start = *ns > 0 ? rough_ns() : 0;
	struct xvm_epoll *e;
	int n, out = 0;

	/* Sequentially consistent, as is the look behind it; pairs with wake_sleepers(). */
	atomic_fetch_add(&w->e->sleepers, 1);
	if (!none_paired(w->e)) {
		atomic_fetch_sub(&w->e->sleepers, 1);
		return false;
	}
	n = guarded_wait(w, *ns, uncount_only);
	atomic_fetch_sub(&w->e->sleepers, 1);
	*result = n;
	if (n <= 0)
		return true;
	e = none_paired(w->e) ? NULL : xvm_epset_get(w->epfd);
	if (e == w->e) {
		/* What the kernel has given is not to be lost, nor a pad to be told. */
		if (xvm_lock(&w->e->lock) == 0) {
			xvm_epset_settle(w->e);
			w->e->call++;
			n = filter(w, n);
			pass_on(w);
			xvm_unlock(&w->e->lock);
		}
		xvm_epset_put(e);
	} else {
		if (e)
			xvm_epset_put(e); /* another by now, under the same number */
		for (int i = 0; i < n; i++)
			if (w->evs[i].data.u64 != xvm_epset_own(w->e))
				w->evs[out++] = w->evs[i];
		n = out;
	}
	*result = n;
	if (n == 0 && *ns > 0) {
		uint64_t gone = rough_ns() - start;

		gone -= gone < ROUGH_NS ? gone : ROUGH_NS;
		*ns = gone < (uint64_t)*ns ? *ns - (int64_t)gone : 0;
	}
	return n || *ns == 0;
}

static int wait_in(struct wait *w, int64_t ns)
{
	struct xvm_epoll *e = w->e;
	uint64_t deadline = 0;
	bool spun = false;
	int64_t left;
	int n, bound;

	if (ns > 0)
		deadline = xvm_now_ns() + (uint64_t)ns;
	for (;;) {
		/* Only a signal handler finds the lock its own: no look at rings for it. */
		if (e->broken || xvm_lock(&e->lock) < 0)
			return give_up(w, ns);
		xvm_epset_settle(e);
		if (e->nested) {
			prepare_nested(w);
			xvm_inners_end(&w->in);
		}
		n = look(w, false);
		if (n == 0 && ns && !spun) {
			n = spin(w, ns);
			if (n == -EDEADLK)
				return give_up(w, ns);
			spun = true;
		}
		if (n) {
			pass_on(w);
			xvm_unlock(&e->lock);
			return n;
		}
		left = remaining(ns, deadline);
		bound = -1;
		if (ns)
			n = ready_to_sleep(w, &bound);
		if (n > 0)
			pass_on(w);
		else if (ns && n == 0)
			w->rung = false; /* all are armed anew */
		e->takers += n == 0;
		xvm_unlock(&e->lock);
		if (n == -EAGAIN)
			continue;
		if (n)
			return n;

		n = sleep_once(w, left, bound);

		xvm_link_poll();
		if (xvm_lock(&e->lock) < 0)
			return n;
		xvm_epset_settle(e);
		e->call++;
		if (n >= 0)
			n = scan(w, filter(w, n));
		judged(e);
		leave(w);
		xvm_unlock(&e->lock);
		if (n)
			return n;
		if (ns >= 0 && (left == 0 || remaining(ns, deadline) == 0))
			return 0;
	}
}

static int epset_wait(int epfd, struct epoll_event *evs, int max, int64_t ns, const sigset_t *mask,
		      enum how how)
{
	struct wait w;
	int n;

	w.e = (struct xvm_epoll *)xvm_fdtab_peek(epfd);
	w.epfd = epfd;
	w.max = max;
	w.how = how;
	w.evs = evs;
	w.mask = mask;
	w.rung = false;
	if (w.e && none_paired(w.e) && pass_through(&w, &ns, &n))
		goto out;
	pthread_testcancel(); /* rings may answer without the kernel */
	w.in.n = 0;
	w.in.more = w.counted = false;
	w.e = xvm_epset_get(epfd);
	if (!w.e)
		return kernel_wait(&w, ns);
	n = wait_in(&w, ns);
	xvm_epset_put(w.e);
out:
	return (int)xvm_result(n);
}

static bool straight(int epfd, const struct epoll_event *evs, int max)
{
	xvm_link_care();
	xvm_link_poll();
	return xvm_epset_plain(epfd) || max <= 0 || max > INT_MAX / (int)sizeof(*evs) ||
	       xvm_user_wild((uintptr_t)evs, (uintptr_t)evs + (size_t)max * sizeof(*evs));
}

XVM_WRAP int epoll_wait(int epfd, struct epoll_event *evs, int max, int timeout)
{
	if (straight(epfd, evs, max))
		return REAL(epoll_wait)(epfd, evs, max, timeout);
	return epset_wait(epfd, evs, max, timeout < 0 ? -1 : (int64_t)timeout * 1000000, NULL,
			  HOW_WAIT);
}

XVM_WRAP int epoll_pwait(int epfd, struct epoll_event *evs, int max, int timeout,
			 const sigset_t *mask)
{
	if (straight(epfd, evs, max))
		return REAL(epoll_pwait)(epfd, evs, max, timeout, mask);
	return epset_wait(epfd, evs, max, timeout < 0 ? -1 : (int64_t)timeout * 1000000, mask,
			  HOW_PWAIT);
}

XVM_WRAP int epoll_pwait2(int epfd, struct epoll_event *evs, int max, const struct timespec *ts,
			  const sigset_t *mask)
{
	int64_t ns = -1;

	if (straight(epfd, evs, max) ||
	    (ts && (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= 1000000000)))
		return REAL(epoll_pwait2)(epfd, evs, max, ts, mask);
	if (ts && ts->tv_sec < INT64_MAX / 1000000000 - 1)
		ns = (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
	return epset_wait(epfd, evs, max, ns, mask, HOW_PWAIT2);
}
