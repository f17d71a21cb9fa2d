/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of one connection in one process, as in shim_phases.c, and the processor's single-step
 * trap: one end makes a call, and between each two of its instructions, in one run after
 * another, the other end acts; or the caller is killed there and a fork of it goes on. Whatever
 * happens between whichever two instructions: no byte is lost, repeated, moved or made up, and no
 * end is said that has not come.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <ucontext.h>

#include "test/unit/shim_pair.h"

#if defined(__x86_64__)

#define TRAP_FLAG 0x100
#define DEAD 0xff /* what a killed sender was about to send; in no pattern, nor is a pad */

static uint64_t dead_at; /* where bytes of a killed sender may be */
static size_t dead_left;
static uint64_t skip_to; /* a killed receiver may have taken up to here */

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(1 + ((i * 0x9E3779B97F4A7C15ull) >> 56) % 254);
}

/* ---- the connection ------------------------------------------------------ */

static void make(void)
{
	xvm_conf.ring_size = 8192;
	window = 4096;
	make_pair();
	skip_to = 0;
	dead_at = UINT64_MAX;
	dead_left = 0;
}

static void unmake(void)
{
	for (int i = 0; i < 2; i++) {
		xvm_sock_put(s[i]);
		xvm_fdtab_clear(fd[i]);
		close(fd[i]);
	}
}

static ssize_t put_bytes(size_t n, int dead)
{
	static uint8_t buf[8192];
	struct iovec iov = {buf, n};
	struct xvm_io io = {.iov = &iov, .iovcnt = 1, .left = n, .flags = MSG_DONTWAIT};
	ssize_t r;

	for (size_t i = 0; i < n; i++)
		buf[i] = dead ? DEAD : pattern(sent + i);
	r = xvm_tx(s[0], fd[0], &io);
	if (r > 0 && !dead)
		sent += (uint64_t)r;
	return r;
}

static ssize_t take_bytes(size_t n, int flags)
{
	static uint8_t buf[8192];
	struct iovec iov = {buf, n};
	struct xvm_io io = {.iov = &iov, .iovcnt = 1, .left = n, .flags = MSG_DONTWAIT | flags};
	ssize_t r = xvm_rx(s[1], fd[1], &io);
	uint64_t at = got, left = dead_left;

	for (ssize_t i = 0; i < r; i++) {
		if (buf[i] == DEAD && at == dead_at && left) {
			left--;
			continue;
		}
		while (buf[i] != pattern(at) && at < skip_to)
			at++;
		if (buf[i] != pattern(at)) /* each assertion costs a system call */
			cr_assert_fail("byte %lu is %02x", at, buf[i]);
		at++;
	}
	if (r > 0 && !(flags & MSG_PEEK)) {
		got = at;
		dead_left = left;
	}
	return r;
}

/* What was sent over TCP is in the receiver's kernel once it is acknowledged. */
static void arrive(void)
{
	int left = 1;

	while (ioctl(fd[0], SIOCOUTQ, &left) == 0 && left)
		poll(NULL, 0, 1);
}

static void want_leave(bool on)
{
	atomic_store(&s[0]->ep->want, on ? XVM_WANT_LEAVE : 0);
}

/* A sleeper, so that the next send rings by pad. */
static void asleep(void)
{
	atomic_fetch_add(&s[1]->mine.shm->sleep_data, 256);
}

/* ---- stepping ------------------------------------------------------------ */

static enum { OFF, BEGIN, STEP } stepping;
/* By instruction: how often it was acted before in all runs; how often passed in this run. */
static uint8_t acted[1 << 17], passed[1 << 17];
static void *last; /* instruction */
static unsigned state;
static void (*action)(void);
static sigjmp_buf killed;

/* An instruction of the code that is tested, not of libc, and this is one more pass of it than
 * has been acted before. Two are enough: more are loops over bytes. */
static bool next(greg_t at)
{
	extern char __executable_start, etext;
	size_t i = (size_t)(at - (greg_t)&__executable_start);

	if (at < (greg_t)&__executable_start || at >= (greg_t)&etext || i >= sizeof(acted) ||
	    passed[i] >= 2 || passed[i]++ < acted[i])
		return false;
	acted[i]++;
	last = (void *)i;
	return true;
}

static void on_trap(int sig, siginfo_t *si, void *arg)
{
	greg_t *regs = ((ucontext_t *)arg)->uc_mcontext.gregs, *flags = &regs[REG_EFL];

	if (stepping == BEGIN) {
		stepping = STEP;
		*flags |= TRAP_FLAG;
	} else if (stepping == OFF || next(regs[REG_RIP])) {
		*flags &= ~(greg_t)TRAP_FLAG;
		if (stepping == STEP) {
			stepping = OFF;
			action();
		}
	}
}

/* Does call, and act before the next of its instructions. False: that were all. */
static bool step(void (*call)(void), void (*act)(void))
{
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

	sigaction(SIGTRAP, &sa, NULL);
	memset(passed, 0, sizeof(passed));
	action = act;
	stepping = BEGIN;
	raise(SIGTRAP);
	call();
	if (stepping == OFF)
		return true;
	stepping = OFF;
	raise(SIGTRAP);
	return false;
}

/* ---- states, calls, actions ---------------------------------------------- */

static void on_tcp(void)
{
	take_bytes(1, 0); /* consents */
}

static void on_tcp_with_input(void)
{
	put_bytes(20, 0);
	arrive();
	take_bytes(5, 0);
}

static void on_ring(void)
{
	on_tcp();
	put_bytes(10, 0);
	arrive();
	take_bytes(20, 0);
	take_bytes(1, 0);
	asleep();
}

static void on_ring_with_input(void)
{
	on_ring();
	put_bytes(20, 0);
	arrive();
}

static void entered(void)
{
	on_tcp_with_input();
	put_bytes(10, 0);
	arrive();
}

static void has_left(void)
{
	on_ring_with_input();
	want_leave(true);
	put_bytes(10, 0);
	arrive();
	want_leave(false);
}

/* The next put finds no room in the window. */
static void about_to_grow(void)
{
	on_ring();
	put_bytes(window - 4, 0);
}

/* Of what is there now some lies in either window. */
static void has_grown(void)
{
	about_to_grow();
	put_bytes(20, 0);
	take_bytes(window - 20, 0);
}

static void do_take(void)
{
	ssize_t r = take_bytes(40, 0);

	cr_assert(r > 0 || r == -EAGAIN, "recv says %zd", r);
}

static void do_take_little(void)
{
	cr_assert_neq(take_bytes(1, 0), 0);
}

static void do_peek(void)
{
	cr_assert_neq(take_bytes(40, MSG_PEEK), 0);
}

static void do_poll(void)
{
	cr_assert(!(xvm_sock_poll(s[1], fd[1], EPOLLIN | EPOLLRDHUP, EPOLLIN) & EPOLLRDHUP));
}

static void act_put(void)
{
	put_bytes(10, 0);
	arrive();
}

static void act_leave_put(void)
{
	want_leave(true);
	put_bytes(10, 0);
	arrive();
}

static void act_leave(void)
{
	xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR);
	arrive();
}

static void (*const states[])(void) = {
	on_tcp,	 on_tcp_with_input, on_ring,	   on_ring_with_input,
	entered, has_left,	    about_to_grow, has_grown};
#define SMALL 0x3fu /* those in which the window is not full */

/* What is there comes, and then no end. */
static void all_comes(void)
{
	ssize_t r;

	for (int i = 0; i < 400 && got < sent; i++) {
		r = take_bytes(8192, 0);

		cr_assert_neq(r, 0, "an end that has not come, after %lu of %lu", got, sent);
		if (r < 0) {
			cr_assert_eq(r, -EAGAIN, "recv says %s", strerror((int)-r));
			arrive();
		}
	}
	cr_assert_eq(got, sent, "%lu of %lu bytes came", got, sent);
	r = take_bytes(8192, 0);
	cr_assert_eq(r, -EAGAIN, "recv says %zd; state %u, after %p", r, state, last);
}

/* On to the other path, and back. */
static void goes_on(void)
{
	for (int i = 0; i < 4; i++) {
		want_leave(i % 2);
		cr_assert_eq(put_bytes(30, 0), 30);
		arrive();
		all_comes();
	}
}

static void between_in(unsigned which, void (*call)(void), void (*act)(void))
{
	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		bool more = which >> i & 1;

		memset(acted, 0, sizeof(acted));
		while (more) {
			make();
			states[i]();
			state = i;
			more = step(call, act);
			all_comes();
			goes_on();
			unmake();
		}
	}
}

TestSuite(steps, .timeout = 300);

Test(steps, sender_acts_while_receiver_takes)
{
	between_in(~0u, do_take, act_put);
}

Test(steps, sender_leaves_while_receiver_takes)
{
	between_in(SMALL, do_take, act_leave_put);
}

Test(steps, sender_acts_while_receiver_peeks)
{
	between_in(SMALL, do_peek, act_put);
}

Test(steps, sender_leaves_while_receiver_peeks)
{
	between_in(SMALL, do_peek, act_leave_put);
}

Test(steps, sender_acts_while_receiver_looks)
{
	between_in(1 << 0 | 1 << 4, do_poll, act_put);
}

Test(steps, sender_leaves_while_receiver_looks)
{
	between_in(1 << 2 | 1 << 4, do_poll, act_leave);
}

/* ---- killed -------------------------------------------------------------- */

/* What the fork that goes on finds: the lock is taken over. */
static void die(void)
{
	siglongjmp(killed, 1);
}

static void heir(int end)
{
	atomic_store(&s[end]->ep->rx_lock.word, 0);
	atomic_store(&s[end]->ep->tx_lock.word, 0);
}

static void do_put(void)
{
	put_bytes(10, 1);
}

static void do_leave(void)
{
	xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR);
}

static void do_leave_put(void)
{
	want_leave(true);
	put_bytes(10, 1);
}

static void killed_in(unsigned which, void (*call)(void), int end)
{
	for (volatile unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		volatile bool more = which >> i & 1;

		memset(acted, 0, sizeof(acted));
		while (more) {
			make();
			states[i]();
			state = i;
			if (end == 0) {
				dead_at = sent;
				dead_left = 10;
			} else {
				skip_to = sent;
			}
			if (!sigsetjmp(killed, 1))
				more = step(call, die);
			heir(end);
			arrive();
			goes_on();
			unmake();
		}
	}
}

Test(steps, killed_while_sending)
{
	killed_in(~0u, do_put, 0);
}

Test(steps, killed_while_leaving)
{
	killed_in(SMALL, do_leave, 0);
}

Test(steps, killed_while_leaving_and_sending)
{
	killed_in(SMALL, do_leave_put, 0);
}

Test(steps, killed_while_receiving)
{
	killed_in(~0u, do_take, 1);
}

Test(steps, killed_while_receiving_little)
{
	killed_in(SMALL, do_take_little, 1);
}

#endif
