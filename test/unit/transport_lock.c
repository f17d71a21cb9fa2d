/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "transport/lock.h"

struct shared {
	struct xvm_shm_lock lock;
	_Atomic uint32_t turn;
	uint64_t plain; /* guarded by lock */
};

static struct shared *share(void)
{
	struct shared *s =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(s, MAP_FAILED);
	return s;
}

static pid_t forked(void)
{
	pid_t pid = fork();

	if (!pid)
		xvm_lock_forked();
	return pid;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

Test(lock, basics)
{
	struct shared *s = share();

	cr_expect_eq(xvm_lock_tid(), (uint32_t)gettid());
	cr_expect_eq(xvm_lock(&s->lock), 0);
	cr_expect_eq(s->lock.word, (uint32_t)gettid());
	cr_expect_eq(xvm_lock(&s->lock), -EDEADLK);
	cr_expect_eq(xvm_trylock(&s->lock), -EDEADLK);
	xvm_unlock(&s->lock);
	cr_expect_eq(s->lock.word, 0u);
	cr_expect_eq(xvm_trylock(&s->lock), 0);
	xvm_unlock(&s->lock);
	/* Not held: nothing happens. */
	xvm_unlock(&s->lock);
	cr_expect_eq(s->lock.word, 0u);
}

Test(lock, deadlk_with_waiters_bit)
{
	struct shared *s = share();

	s->lock.word = xvm_lock_tid() | XVM_LOCK_WAITERS;
	cr_expect_eq(xvm_lock(&s->lock), -EDEADLK);
	cr_expect_eq(xvm_trylock(&s->lock), -EDEADLK);
	xvm_unlock(&s->lock);
	cr_expect_eq(s->lock.word, 0u);
}

static void *add(void *arg)
{
	struct shared *s = arg;
	int i;

	for (i = 0; i < 100000; i++) {
		if (xvm_lock(&s->lock))
			abort();
		s->plain++;
		xvm_unlock(&s->lock);
	}
	return NULL;
}

Test(lock, threads_and_forks_exclude, .timeout = 60)
{
	struct shared *s = share();
	pthread_t t[2];
	pid_t pid;
	int i, st;

	pid = forked();
	for (i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, add, s), 0);
	add(s);
	for (i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	if (!pid)
		_exit(0);
	cr_assert_eq(waitpid(pid, &st, 0), pid);
	cr_assert_eq(st, 0);
	cr_expect_eq(s->plain, 600000u);
	cr_expect_eq(s->lock.word & ~XVM_LOCK_WAITERS, 0u);
}

/* Hands the lock to and fro between sleepers: a lost wake would cost 50 ms each time. */
Test(lock, wakes_are_not_lost, .timeout = 60)
{
	struct shared *s = share();
	uint64_t start = now_ms();
	uint32_t i, n = 300;
	pid_t pid = forked();
	uint32_t me = pid ? 0 : 1;

	for (i = 0; i < n;) {
		cr_assert_eq(xvm_lock(&s->lock), 0);
		if ((s->turn & 1) == me) {
			/* Long enough for the other to fall asleep on the lock. */
			struct timespec ts = {0, 200000};

			nanosleep(&ts, NULL);
			s->turn++;
			i++;
		}
		xvm_unlock(&s->lock);
	}
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	cr_expect_lt(now_ms() - start, 2 * n * 25, "%d ms", (int)(now_ms() - start));
}

static void hold_and_die(struct shared *s, bool reap)
{
	uint64_t start;
	pid_t pid = forked();

	if (!pid) {
		xvm_lock(&s->lock);
		s->plain = 42;
		raise(SIGKILL);
	}
	if (reap)
		waitpid(pid, NULL, 0);
	else
		waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT);
	cr_assert_eq(s->lock.word, (uint32_t)pid);
	start = now_ms();
	cr_expect_eq(xvm_lock(&s->lock), 0);
	cr_expect_lt(now_ms() - start, 5000u);
	cr_expect_eq(s->plain, 42u);
	cr_expect_eq(s->lock.word & ~XVM_LOCK_WAITERS, xvm_lock_tid());
	xvm_unlock(&s->lock);
	cr_expect_eq(s->lock.word, 0u);
	if (!reap)
		waitpid(pid, NULL, 0);
}

Test(lock, dead_holder, .timeout = 20)
{
	hold_and_die(share(), true);
}

/* The process that ought to wait for the dead is the one that waits for the lock. */
Test(lock, dead_holder_not_reaped, .timeout = 20)
{
	hold_and_die(share(), false);
}

static void *die_alone(void *arg)
{
	struct shared *s = arg;

	xvm_lock(&s->lock);
	return NULL;
}

Test(lock, dead_thread, .timeout = 20)
{
	struct shared *s = share();
	pthread_t t;

	pthread_create(&t, NULL, die_alone, s);
	pthread_join(t, NULL);
	cr_expect_eq(xvm_lock(&s->lock), 0);
	xvm_unlock(&s->lock);
}

/* Several heirs of one dead holder: exactly one at a time gets in. */
Test(lock, heirs_exclude, .timeout = 30)
{
	struct shared *s = share();
	pthread_t t[4];
	pid_t pid;
	int i;

	pid = forked();
	if (!pid) {
		xvm_lock(&s->lock);
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	for (i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, add, s);
	for (i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	cr_expect_eq(s->plain, 400000u);
}

/* A waiter that is killed after it was woken took the wake with it; the next must get on. */
Test(lock, dead_waiter_swallows_a_wake, .timeout = 30)
{
	struct shared *s = share();
	pid_t a, b;
	int st;

	cr_assert_eq(xvm_lock(&s->lock), 0);
	a = forked();
	if (!a) {
		xvm_lock(&s->lock);
		_exit(0);
	}
	b = forked();
	if (!b) {
		xvm_lock(&s->lock);
		xvm_unlock(&s->lock);
		_exit(0);
	}
	while (!(s->lock.word & XVM_LOCK_WAITERS))
		sched_yield();
	kill(a, SIGSTOP);
	xvm_unlock(&s->lock);
	kill(a, SIGKILL);
	cr_assert_eq(waitpid(b, &st, 0), b);
	cr_expect_eq(st, 0);
	waitpid(a, NULL, 0);
}
