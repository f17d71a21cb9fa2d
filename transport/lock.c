/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The word is 0, or the holder's tid, with XVM_LOCK_WAITERS if somebody may sleep on it. As in
 * the third mutex of Drepper's "Futexes Are Tricky", who has slept takes the lock with the bit
 * set: it cannot know whether others still sleep, and a wake too many costs little.
 *
 * Any holder or waiter may be killed at any instruction, so no wake can be relied on: a waiter
 * that was woken and then killed swallows the wake of the next. Hence each sleep is bounded, and
 * who has slept so long also asks whether the holder still lives. No robust futex list: a
 * thread has just one, and it is libc's.
 *
 * A tid means something in one pid namespace only. A fork that lands in another must not share
 * locks with its parent; and a tid that has been used again keeps a dead holder's lock from being
 * taken over until the new owner of the number exits.
 */
#include "transport/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "transport/sys.h"

#define SPINS 100
#define ASK_NS (50 * 1000 * 1000)

_Thread_local uint32_t xvm_my_tid __attribute__((tls_model("initial-exec")));

uint32_t xvm_lock_ask_tid(void)
{
	xvm_my_tid = (uint32_t)xvm_sys(SYS_gettid);
	return xvm_my_tid;
}

static uint32_t forker; /* the thread that we are a copy of */

void xvm_lock_forked(void)
{
	forker = xvm_my_tid;
	xvm_my_tid = 0;
}

bool xvm_lock_mine(const struct xvm_shm_lock *l)
{
	return (atomic_load(&l->word) & ~XVM_LOCK_WAITERS) == xvm_lock_tid();
}

bool xvm_lock_kept(struct xvm_shm_lock *l)
{
	bool kept = forker && (atomic_load(&l->word) & ~XVM_LOCK_WAITERS) == forker;

	atomic_store(&l->word, kept ? xvm_lock_tid() : 0);
	return kept;
}

int xvm_lock_renamed(struct xvm_shm_lock *l, uint32_t tid)
{
	uint32_t me = xvm_lock_tid(), v = atomic_load(&l->word);

	/* Waiters see but another holder. */
	while ((v & ~XVM_LOCK_WAITERS) == tid)
		if (atomic_compare_exchange_weak(&l->word, &v, me | (v & XVM_LOCK_WAITERS)))
			return 0;
	return (v & ~XVM_LOCK_WAITERS) == me ? 0 : -EDEADLK;
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("yield");
#endif
}

/*
 * A killed process that nobody has waited for still answers kill(2); the one to wait for it may
 * be stuck in this very lock. So look at its state as well, where /proc can be read.
 */
static bool is_zombie(uint32_t tid)
{
	char path[32] = "/proc/4294967295/stat", buf[64];
	char *p = path + 16;
	long fd, n, i;

	/* Digits from the right, and "/proc" moved up to them. */
	for (; tid; tid /= 10)
		*--p = (char)('0' + tid % 10);
	p -= 6;
	memmove(p, path, 6);

	fd = xvm_sys(SYS_openat, AT_FDCWD, p, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = xvm_sys(SYS_read, fd, buf, sizeof(buf));
	xvm_sys(SYS_close, fd);

	/* "tid (comm) S ...": comm has at most 15 bytes and may hold a ')' itself. */
	for (i = n - 3; i >= 0; i--)
		if (buf[i] == ')')
			return buf[i + 2] == 'Z' || buf[i + 2] == 'X';
	return false;
}

bool xvm_lock_dead(uint32_t tid)
{
	return xvm_sys(SYS_kill, tid, 0) == -ESRCH || is_zombie(tid);
}

int xvm_lock_slow(struct xvm_shm_lock *l, uint32_t tid)
{
	static const struct timespec ask = {0, ASK_NS};
	uint32_t v, want;
	long err;
	int i;

	for (i = 0; i < SPINS; i++) {
		v = atomic_load_explicit(&l->word, memory_order_relaxed);
		if ((v & ~XVM_LOCK_WAITERS) == tid)
			return -EDEADLK;
		if (!v && atomic_compare_exchange_weak_explicit(
				  &l->word, &v, tid, memory_order_acquire, memory_order_relaxed))
			return 0;
		relax();
	}

	want = tid | XVM_LOCK_WAITERS;
	for (;;) {
		v = atomic_load_explicit(&l->word, memory_order_relaxed);
		if (!v) {
			if (atomic_compare_exchange_weak_explicit(
				    &l->word, &v, want, memory_order_acquire, memory_order_relaxed))
				return 0;
			continue;
		}
		if (!(v & XVM_LOCK_WAITERS)) {
			if (!atomic_compare_exchange_weak_explicit(
				    &l->word, &v, v | XVM_LOCK_WAITERS, memory_order_relaxed,
				    memory_order_relaxed))
				continue;
			v |= XVM_LOCK_WAITERS;
		}
		/* Shared, not private: forks wait on the same page. */
		err = xvm_sys(SYS_futex, &l->word, FUTEX_WAIT, v, &ask);
		if (err != -ETIMEDOUT || !xvm_lock_dead(v & ~XVM_LOCK_WAITERS))
			continue;
		/* What the dead did must be seen in full by its heir: acquire. */
		if (atomic_compare_exchange_strong_explicit(
			    &l->word, &v, want, memory_order_acquire, memory_order_relaxed))
			return 0;
	}
}

bool xvm_unlock_slow(struct xvm_shm_lock *l)
{
	uint32_t tid = xvm_lock_tid();
	uint32_t v = atomic_load_explicit(&l->word, memory_order_relaxed);

	/* Not ours: it was taken from us, wrongly. Do not make it worse. */
	do {
		if ((v & ~XVM_LOCK_WAITERS) != tid)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&l->word, &v, 0, memory_order_release,
							memory_order_relaxed));
	if (v & XVM_LOCK_WAITERS)
		xvm_sys(SYS_futex, &l->word, FUTEX_WAKE, 1);
	return true;
}
