/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eventfds to sleep by, and when to spin before a sleep.
 *
 * A waker is made when all that were made before are in use, announced to xvmd, and kept. To take
 * and to give back is one atomic operation on a bit mask, so a signal handler may do either
 * at any moment. A ring that comes late, for a sleep that is over, wakes the next
 * sleeper in vain and does no harm: every sleeper looks again.
 */
#include "shim/waker.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "shim/link.h"
#include "shim/process.h"
#include "transport/sys.h"

#define ALL ((1ull << XVM_WAKERS_MAX) - 1)
#define SEQ_GAP (1ull << 20) /* more sleeps than can begin while a vector changes wakers */

static struct xvm_waker wakers[XVM_WAKERS_MAX];
static _Atomic uint64_t made; /* bit i: wakers[i] has an eventfd */
static _Atomic uint64_t used; /* bit i: taken, or being made */

/* The one this thread had last, plus 1: its cache lines are warm. */
static _Thread_local unsigned last __attribute__((tls_model("initial-exec")));

static bool take(unsigned i)
{
	return !(atomic_fetch_or(&used, 1ull << i) >> i & 1);
}

/*
 * Whether the daemon could be told does not matter: without it nobody rings this one, so peers that
 * do not have it send pads, and the next daemon is told of all that there are.
 */
static struct xvm_waker *make(unsigned i)
{
	struct xvm_waker *w = &wakers[i];
	int fd = xvm_fd_spare() ? (int)xvm_sys(SYS_eventfd2, 0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;

	if (fd < 0) {
		atomic_fetch_and(&used, ~(1ull << i));
		return NULL;
	}
	w->fd = xvm_fd_hide(fd);
	w->index = i;
	xvm_link_waker(w);
	atomic_fetch_or(&made, 1ull << i);
	last = i + 1;
	return w;
}

bool xvm_waker_adopt(int fd, unsigned region, unsigned vector)
{
	uint64_t fresh, seq = 0;
	unsigned i;

	if (vector == 0 || vector >= XVM_WAKERS_MAX)
		return false;
	while ((fresh = ALL & ~(atomic_load(&made) | atomic_load(&used))) != 0) {
		i = (unsigned)__builtin_ctzll(fresh);
		if (!take(i))
			continue;
		if (!(atomic_load(&made) >> i & 1)) {
			/* Another of our wakers may have had that vector: W2 counts on. */
			for (unsigned k = 0; k < XVM_WAKERS_MAX; k++)
				if (atomic_load(&wakers[k].seq) > seq)
					seq = atomic_load(&wakers[k].seq);
			atomic_store(&wakers[i].seq, seq + SEQ_GAP);
			wakers[i].region = region;
			wakers[i].vector = vector;
			wakers[i].fd = xvm_fd_hide(fd);
			wakers[i].index = i;
			xvm_link_waker(&wakers[i]);
			atomic_fetch_or(&made, 1ull << i);
			atomic_fetch_and(&used, ~(1ull << i));
			return true;
		}
		atomic_fetch_and(&used, ~(1ull << i));
	}
	return false;
}

void xvm_waker_no_vectors(int region)
{
	for (unsigned i = 0; i < XVM_WAKERS_MAX; i++)
		if (region < 0 || wakers[i].region == (unsigned)region)
			wakers[i].vector = 0;
}

bool xvm_waker_has_vector(unsigned region)
{
	for (unsigned i = 0; i < XVM_WAKERS_MAX; i++)
		if (wakers[i].vector && wakers[i].region == region)
			return true;
	return false;
}

struct xvm_waker *xvm_waker_get(void)
{
	uint64_t have = atomic_load_explicit(&made, memory_order_acquire), idle, fresh;
	unsigned i = last - 1;

	if (i < XVM_WAKERS_MAX && (have >> i & 1) && take(i))
		return &wakers[i];
	while ((idle = have & ~atomic_load(&used)) != 0) {
		i = (unsigned)__builtin_ctzll(idle);
		if (take(i)) {
			last = i + 1;
			return &wakers[i];
		}
	}
	if (xvm_conf.sandboxed)
		return NULL;
	while ((fresh = ALL & ~(atomic_load(&made) | atomic_load(&used))) != 0) {
		i = (unsigned)__builtin_ctzll(fresh);
		if (!take(i))
			continue;
		/* Made and given back by another thread since the look. */
		if (atomic_load(&made) >> i & 1)
			return &wakers[i];
		return make(i);
	}
	return NULL;
}

void xvm_waker_put(struct xvm_waker *w)
{
	atomic_store_explicit(&w->sock, NULL, memory_order_relaxed);
	atomic_fetch_and(&used, ~(1ull << w->index));
}

void xvm_waker_drain(struct xvm_waker *w)
{
	uint64_t n;

	xvm_sys(SYS_read, w->fd, &n, sizeof(n));
}

void xvm_waker_ring(struct xvm_waker *w)
{
	uint64_t one = 1;

	xvm_sys(SYS_write, w->fd, &one, sizeof(one));
}

void xvm_waker_ring_for(const struct xvm_sock *s)
{
	/* What is looked for was changed before; pairs with the fence in xvm_sock_arm(). */
	atomic_thread_fence(memory_order_seq_cst);
	for (uint64_t m = atomic_load(&made) & atomic_load(&used); m; m &= m - 1) {
		struct xvm_waker *w = &wakers[__builtin_ctzll(m)];

		if (atomic_load(&w->sock) == s)
			xvm_waker_ring(w);
	}
}

void xvm_waker_forked(void)
{
	uint64_t have = atomic_exchange(&made, 0);

	for (unsigned i = 0; i < XVM_WAKERS_MAX; i++)
		if (have >> i & 1) {
			xvm_fd_unhide_close(wakers[i].fd);
			wakers[i].fd = -1;
			wakers[i].vector = 0;
		}
	atomic_store(&used, 0);
}

/* ---- spinning ----------------------------------------------------------- */

#define FAILS_MAX 6 /* then a spin is tried once in 64 sleeps */

/*
 * A spin must be able to outlast the waking of a sleeping peer, or two ends that have both fallen
 * asleep never find out that neither need: each is as slow as the other's waking. So a spin has
 * its full length or is left out: after each one in vain, for twice as many sleeps.
 */
struct policy {
	uint32_t fails; /* vain spins in a row */
	uint32_t skip;	/* sleeps until the next */
	bool spun;
};
static _Thread_local struct policy mine __attribute__((tls_model("initial-exec")));

uint64_t xvm_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* With one CPU the peer cannot run while we spin. */
static bool alone(void)
{
	static _Atomic int cpus; /* 0: not asked yet */
	int n = atomic_load_explicit(&cpus, memory_order_relaxed);
	if (n || xvm_conf.sandboxed)
		return n <= 1;
	/* The machine's, not those that this thread may use: the peer may use others. */
	n = get_nprocs();
	atomic_store_explicit(&cpus, n, memory_order_relaxed);
	return n == 1;
}

/* There are peers in other machines, which have CPUs of their own. */
static _Atomic bool elsewhere;

void xvm_spin_elsewhere(void)
{
	atomic_store_explicit(&elsewhere, true, memory_order_relaxed);
}

static uint64_t bound(void)
{
	return alone() && !atomic_load_explicit(&elsewhere, memory_order_relaxed)
		       ? 0
		       : (uint64_t)xvm_conf.spin_us * 1000;
}

uint64_t xvm_spin_budget(void)
{
	mine.spun = mine.skip == 0;
	if (mine.spun)
		return bound();
	mine.skip--;
	return 0;
}

void xvm_spin_won(uint64_t ns)
{
	mine.fails = 0;
	mine.spun = false;
}

void xvm_spin_slept(uint64_t ns)
{
	if (ns < bound()) {
		/* It would have come while we spun: the other side is awake. */
		mine.fails /= 2;
		mine.skip = 0;
	} else if (mine.spun) {
		if (mine.fails < FAILS_MAX)
			mine.fails++;
		mine.skip = (1u << mine.fails) - 1;
	}
	mine.spun = false;
}
