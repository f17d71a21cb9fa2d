/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting in an epoll. Rings of hot sockets are looked at here, everything else is the kernel's: it
 * reports cold sockets when a pad comes, and our own eventfd, registered with the address of
 * the instance as data, when a peer has rung.
 *
 * A wait looks, spins if that has paid off lately, then arms all hot sockets with one new number of
 * the eventfd (W1), looks again and sleeps. A socket that was armed several times and had nothing,
 * or was looked at very often, goes cold, so a wait costs as much as is active, not as much as is
 * registered.
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
#include "shim/quiet.h"
#include "transport/sys.h"

#define SKIP_MAX 8	  /* waits in a row that rings alone may answer, */
#define VAIN_MIN 16	  /* once so many in a row have asked the kernel in vain */
#define ROUGH_NS 10000000 /* a tick of the rough clock, at most */
#define LOOK_NS 8000	  /* between looks at the kernel while spinning */
#define WARM_EACH 16	  /* of so many looks, one is at those too that have been quiet for long */
#define CHILLS 64	  /* in one look, at most: each takes a fence and a lock */
#define GLANCE_NS 5000000 /* between looks at the rings without the lock */

/* Which of libc's functions the application called: a sandbox may know no other. */
enum how { HOW_WAIT, HOW_PWAIT, HOW_PWAIT2 };

struct wait {
	struct xvm_epoll *e;
	int epfd, max;
	enum how how;
	struct epoll_event *evs;
	const sigset_t *mask;
	struct xvm_inners in;
	bool counted;	/* e->sleepers has us */
	bool looks;	/* and e->lookers */
	uint32_t forks; /* xvm_forks, when it was begun */
	bool rung;	/* we took from the kernel a wake-up that others who sleep here may need */
	bool asked;	/* the kernel was, and had nothing: e->vain has counted that */
};

/* ---- the kernel's events ------------------------------------------------ */

/* Good enough for what is hardly ever needed, at a tenth of the cost. Never more than has gone by.
 */
static uint64_t rough_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int filter(struct wait *w, int n)
{
	if (n > 0)
		n = xvm_epset_filter(w->e, w->evs, n, &w->rung);
	w->e->skipped = 0;
	w->e->asked_at = rough_ns();
	if (n > 0)
		w->e->vain = 0;
	else if (!w->asked)
		w->e->vain++;
	w->asked = n <= 0;
	return n;
}

/* Nothing of the kernel's is left to be judged. */
static void judged(struct xvm_epoll *e)
{
	if (e->takers && --e->takers == 0)
		e->ghosts = false;
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
	w->e->takers++;
	n = filter(w, n < 0 ? 0 : (int)n);
	judged(w->e);
	return (int)n;
}

/* ---- the rings ---------------------------------------------------------- */

/* From evs[n] on; how many there are then, or -EFAULT. Starts where the last one found no more
 * room: nobody starves. */
static int scan(struct wait *w, int n, bool both)
{
	struct xvm_epoll *e = w->e;
	struct xvm_walk k = xvm_epset_walk(e, both);
	struct xvm_reg *r;
	struct epoll_event ev;
	/* Whoever sleeps has armed them his way. */
	unsigned chills = atomic_load(&e->sleepers) ? 0 : CHILLS;
	struct xvm_edge now;
	uint32_t bits;

	while (n < w->max && (r = xvm_walk_next(&k))) {
		if (r->call == e->call)
			continue;
		bits = xvm_epset_look(r, false, &now);
		if (!bits && chills && xvm_epset_is_quiet(e, r)) {
			bits = xvm_epset_chill(e, r, &now);
			chills--;
		} else if (!bits) {
			xvm_epset_warm(e, r);
		}
		if (!bits)
			continue;
		ev = (struct epoll_event){.events = bits, .data.u64 = r->data};
		if (xvm_user_copy(&w->evs[n], &ev, sizeof(ev)) < 0)
			return n ? n : -EFAULT;
		n++;
		xvm_epset_reported(e, r, &now, bits, false);
		if (n == w->max)
			xvm_walk_stop(&k);
	}
	return n;
}

/*
 * May rings alone answer? What only the kernel can tell, that a pipe is readable or a peer is gone,
 * is then told later than it would be without us: by at most so many waits, and a tick of the
 * clock. So each wait asks, until the kernel has had nothing for long.
 */
static bool may_skip(const struct xvm_epoll *e)
{
	return e->vain >= VAIN_MIN && e->skipped < SKIP_MAX && e->asked_at == rough_ns();
}

/*
 * Rings and, now and then, the kernel: so that a kernel's descriptor does not starve while rings
 * are busy, and first, so that it finds room.
 */
static int look(struct wait *w, bool kernel)
{
	struct xvm_epoll *e = w->e;
	bool both;
	int n = 0;

	both = ++e->call % WARM_EACH == 0;
	/* Where there is room for one, the kernel's had it last time; or it is the turn of those
	 * that have been quiet, and the next wait is not. Else the kernel leaves them half. */
	if (w->max == 1 && (e->filled || both))
		n = scan(w, 0, both);
	e->filled = false;
	if (n < 0)
		return n;
	if (n == 0 && (kernel || (!w->asked && !may_skip(e)))) {
		n = look_kernel(w, e->hot.n || e->warm.n ? (w->max + 1) / 2 : w->max);
		e->filled = n == w->max;
	}
	n = scan(w, n, both);
	e->skipped += n && !w->asked;
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

	if (w->rung && atomic_load(&e->sleepers) && !e->broken) {
		xvm_epset_arm_all(e, NULL, &found);
		/* Woken for a nested one that nobody here has armed since it came. */
		if (found || e->unarmed)
			xvm_epset_wake(e);
	}
	w->rung = false;
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
	if (w->looks)
		xvm_epset_less(&w->e->lookers);
	if (w->counted)
		xvm_epset_less(&w->e->sleepers);
	w->counted = w->looks = false;
}

/* On the way out. */
static void end(struct wait *w)
{
	xvm_inners_end(&w->in);
	xvm_epset_see_to(w->e);
	xvm_epset_put(w->e);
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
	end(w);
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
	uint64_t budget = w->e->hot.n ? xvm_spin_budget() : 0, start, now, asked;
	int n = 0;

	/* On one CPU the peer runs only if we sleep. */
	if (!budget || xvm_sock_same_cpu(w->e->hot.first->sock))
		return 0;
	if (ns > 0 && (uint64_t)ns < budget)
		budget = (uint64_t)ns;
	start = asked = now = xvm_now_ns();
	while (n == 0 && now - start < budget) {
		bool kernel = now - asked > LOOK_NS;

		n = look(w, kernel);
		if (n || !w->e->hot.n)
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
	struct xvm_inners old;
	int bound;

	if (!w->in.n && !w->e->nested)
		return -1;
	old = w->in;
	w->e->unarmed = false;
	w->in.n = 0;
	w->in.more = false;
	for (struct xvm_reg *r = w->e->nested, *next; r; r = next) {
		next = r->next;
		if (!atomic_load(&r->inner->file.nfds))
			xvm_epset_drop(w->e, r); /* closed: the kernel has dropped it */
		else
			xvm_inners_add(&w->in, r->inner);
	}
	bound = w->in.n ? xvm_inners_prepare(&w->in) : -1;
	xvm_inners_end(&old); /* not before we are counted anew */
	return bound;
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
		e->skipped += !w->asked;
		return xvm_user_copy(&w->evs[0], &ev, sizeof(ev)) < 0 ? -EFAULT : scan(w, 1, true);
	}
	b = prepare_nested(w);
	if (b >= 0 && (*bound < 0 || b < *bound))
		*bound = b;
	w->counted = true;
	atomic_fetch_add(&e->sleepers, 1);
	w->looks = *bound >= 0;
	atomic_fetch_add(&e->lookers, w->looks);
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

/*
 * Without the lock: a child that was forked in the middle of a change, whose records make no sense;
 * or a signal handler that interrupted the holder. Nothing can be armed, so what comes by a ring is
 * found by looking again and again.
 */
static int give_up(struct wait *w, int64_t ns)
{
	uint64_t deadline = ns > 0 ? xvm_now_ns() + (uint64_t)ns : 0;
	struct xvm_epoll *e = w->e;
	struct xvm_sock *s;
	bool rung = false;
	int n, out;

	for (int fd = 0; e->broken && (s = xvm_sock_next(&fd)); fd++) {
		xvm_sock_never(s, XVM_R_SHARED);
		xvm_sock_put(s);
	}
	for (int64_t left = ns;; left = remaining(ns, deadline)) {
		int64_t ns_now = left;

		if (xvm_epset_glance(e, w->evs, 0, w->max, &rung))
			ns_now = 0;
		else if (xvm_epset_on_ring(e) && (left < 0 || left > GLANCE_NS))
			ns_now = GLANCE_NS;
		n = kernel_wait(w, ns_now);
		if (n < 0)
			return -errno;
		out = xvm_epset_glance(e, w->evs, n, w->max, &rung);
		if (rung)
			xvm_epset_wake(e); /* for others, or the one whom we interrupted */
		rung = false;
		if (out || left == 0)
			return out;
		if (n)
			xvm_quiet_poll(NULL, 0, 1); /* not the application's, and still there */
	}
}

/* Nothing in it is paired. Others may be about to change that: then we are woken. */
static bool none_paired(struct xvm_epoll *e)
{
	return !__atomic_load_n(&e->managed, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&e->nested, __ATOMIC_RELAXED) && !atomic_load(&e->changes) &&
	       !atomic_load(&e->rescan) && !atomic_load(&e->adding) && !e->broken;
}

static void uncount_only(void *arg)
{
	struct wait *w = arg;

	xvm_epset_less(&w->e->sleepers);
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

	/* Counted before the look; pairs with wake_sleepers() and arm_for_sleepers(). */
	atomic_fetch_add(&w->e->sleepers, 1);
#if !defined(__x86_64__) /* where the addition is one */
	atomic_thread_fence(memory_order_seq_cst);
#endif
	if (!none_paired(w->e)) {
		xvm_epset_less(&w->e->sleepers);
		return false;
	}
	n = guarded_wait(w, *ns, uncount_only);
	xvm_epset_less(&w->e->sleepers);
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
			xvm_epset_see_to(e);
		} else {
			n = xvm_epset_glance(e, w->evs, n, w->max, &w->rung);
			if (w->rung)
				xvm_epset_wake(e);
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

/*
 * A signal handler that came amid this wait has forked, and this is the child: what was counted and
 * referred to is gone. False: so is the epoll.
 */
static bool forked_amid(struct wait *w)
{
	struct xvm_epoll *e;

	w->forks = xvm_forks;
	w->in.n = 0;
	w->in.more = w->counted = w->looks = false;
	e = xvm_epset_get(w->epfd);
	if (e == w->e)
		return true;
	if (e)
		xvm_epset_put(e);
	return false;
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
		if (e->nested)
			prepare_nested(w);
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
		e->takers += n == 0 && w->forks == xvm_forks;
		xvm_unlock(&e->lock);
		if (__builtin_expect(w->forks != xvm_forks, 0)) {
			if (!forked_amid(w))
				return n > 0 ? n : -EINTR;
			n = n ?: -EAGAIN;
		}
		if (n == -EAGAIN)
			continue;
		if (n)
			return n;

		n = sleep_once(w, left, bound);
		if (__builtin_expect(w->forks != xvm_forks, 0) && !forked_amid(w))
			return n < 0 ? n : -EINTR;

		xvm_link_poll();
		if (xvm_lock(&e->lock) < 0)
			return n;
		xvm_epset_settle(e);
		e->call++;
		if (n >= 0)
			n = scan(w, filter(w, n), true);
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
	w.forks = xvm_forks;
	w.rung = false;
	w.in.n = 0;
	w.in.more = w.counted = w.looks = w.asked = false;
	if (w.e && none_paired(w.e) && pass_through(&w, &ns, &n))
		goto out;
	pthread_testcancel(); /* rings may answer without the kernel */
	w.e = xvm_epset_get(epfd);
	if (!w.e)
		return kernel_wait(&w, ns);
	n = wait_in(&w, ns);
	end(&w);
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
