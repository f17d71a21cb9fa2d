/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of one TCP connection as paired sockets in one process, without wrappers, daemon or
 * waits: the two directions are driven step by step, and what one direction delivers is checked
 * byte by byte, whichever path it took. And a peer that lies.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test/unit/shim_pair.h"
#include "transport/arena.h"

/* What comes next is anything, and the same in each run. */
static unsigned shuffle(unsigned x)
{
	x ^= x << 13;
	x ^= x >> 17;
	return x ^ x << 5;
}

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)((i * 0x9E3779B97F4A7C15ull) >> 56);
}

static ssize_t put(size_t n)
{
	uint8_t buf[20000];
	struct iovec iov = {buf, n};
	struct xvm_io io = {.iov = &iov, .iovcnt = 1, .left = n, .flags = MSG_DONTWAIT};
	ssize_t r;

	for (size_t i = 0; i < n; i++)
		buf[i] = pattern(sent + i);
	r = xvm_tx(s[0], fd[0], &io);
	if (r > 0)
		sent += (uint64_t)r;
	return r;
}

/* TCP is done with what was sent when the receiver's kernel has it. */
static void settle(void)
{
	struct pollfd p = {.fd = fd[1], .events = POLLIN};

	poll(&p, 1, 20);
}

static ssize_t take(size_t n, int flags)
{
	uint8_t buf[20000];
	struct iovec iov[2] = {{buf, n / 3}, {buf + n / 3, n - n / 3}};
	struct xvm_io io = {.iov = iov, .iovcnt = 2, .left = n, .flags = MSG_DONTWAIT | flags};
	ssize_t r = xvm_rx(s[1], fd[1], &io);

	for (ssize_t i = 0; i < r; i++)
		cr_assert_eq(buf[i], pattern(got + (uint64_t)i), "byte %lu", got + (uint64_t)i);
	if (r > 0 && !(flags & MSG_PEEK))
		got += (uint64_t)r;
	return r;
}

static bool on_ring(void)
{
	return s[0]->ep->tx_epoch & 1;
}

static void enter(void)
{
	take(1, 0); /* consents */
	cr_assert_gt(put(10), 0);
	cr_assert(on_ring());
}

TestSuite(phases, .init = make_pair, .timeout = 60);

Test(phases, enters_only_with_consent)
{
	cr_assert_eq(put(100), 100);
	cr_assert(!on_ring());
	settle();
	cr_assert_eq(take(30, 0), 30);
	cr_assert_eq(put(50), 50);
	cr_assert(on_ring());
	cr_assert_eq(take(1000, 0), 120); /* TCP up to the boundary, and the ring behind it */
	cr_assert_eq(take(1000, 0), -EAGAIN);
}

/* Who waits for edges takes a short answer for an empty socket. */
Test(phases, all_that_lies_on_both_sides_of_the_boundary_is_one_answer)
{
	uint8_t buf[6000];
	struct iovec iov[60];
	struct xvm_io io = {.iov = iov, .iovcnt = 60, .left = 6000, .flags = MSG_DONTWAIT};

	for (int i = 0; i < 60; i++)
		iov[i] = (struct iovec){buf + (size_t)i * 100, 100};
	cr_assert_eq(put(5000), 5000);
	settle();
	cr_assert_eq(take(1, 0), 1);
	cr_assert_eq(put(50), 50);
	cr_assert(on_ring());
	cr_assert_eq(xvm_rx(s[1], fd[1], &io), 5049);
	for (int i = 0; i < 5049; i++)
		cr_assert_eq(buf[i], pattern(got + (uint64_t)i));
	got += 5049;
	cr_assert_eq(take(1000, 0), -EAGAIN);
}

/* Which allows what a program does that reads, writes and waits. */
Test(phases, a_boundary_is_passed_in_a_sandbox)
{
	struct sock_filter no_ioctl[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {4, no_ioctl};

	enter();
	settle();
	cr_assert_eq(take(1000, 0), 10);
	cr_assert_eq(put(50), 50);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), 0);
	atomic_store(&s[0]->ep->want, XVM_WANT_LEAVE);
	cr_assert_eq(put(20), 20);
	settle();
	xvm_conf.sandboxed = true;
	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
	cr_assert_eq(take(1000, 0), 70);
}

Test(phases, pads_behind_the_boundary_are_taken_off)
{
	take(1, 0);
	cr_assert_eq(put(100), 100); /* on the ring at once, with a pad for the first sleep word */
	cr_assert(on_ring());
	settle();
	cr_assert_eq(s[0]->ep->tx_pads, 1);
	/* R is on TCP still: its kernel recv gets the pad and nothing else. */
	cr_assert_eq(take(1000, MSG_PEEK), 100);
	cr_assert_eq(take(1000, 0), 100);
	cr_assert_eq(take(1000, 0), -EAGAIN);
}

Test(phases, leave_waits_for_the_enter_to_be_reached)
{
	take(1, 0);
	put(10);
	cr_assert(on_ring());
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), -EAGAIN);
	cr_assert_eq(take(4, 0), 4);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), 0);
	atomic_store(&s[0]->ep->want, XVM_WANT_LEAVE);
	cr_assert_eq(put(20), 20);
	cr_assert(!on_ring());
	settle();
	cr_assert_eq(take(100, 0), 26, "all that is there, on both sides of the boundary");
	atomic_store(&s[0]->ep->want, 0);
	cr_assert_eq(put(20), 20);
	cr_assert(on_ring());
	cr_assert_eq(take(100, 0), 20);
}

/* The kernel reports the pad of a leave: to a program that will block in recv() that is no input.
 */
Test(phases, leave_pad_is_no_input)
{
	enter();
	settle();
	cr_assert_eq(take(1000, 0), 10);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), 0);
	settle();
	cr_assert_eq(xvm_sock_poll(s[1], fd[1], EPOLLIN, EPOLLIN) & EPOLLIN, 0);
	cr_assert_eq(s[1]->ep->rx_epoch & 1, 0);
	atomic_store(&s[0]->ep->want, XVM_WANT_LEAVE);
	cr_assert_eq(put(20), 20);
	cr_assert(!on_ring());
	settle();
	cr_assert_eq(xvm_sock_poll(s[1], fd[1], EPOLLIN, EPOLLIN) & EPOLLIN, EPOLLIN);
	cr_assert_eq(take(100, 0), 20);
}

Test(phases, full_ring)
{
	enter();
	take(10, 0);
	cr_assert_eq(put(5000), 4096);
	cr_assert_eq(put(1), -EAGAIN);
	cr_assert(!xvm_tx_ready(s[0], fd[0], EPOLLOUT));
	cr_assert_eq(take(2000, 0), 2000);
	cr_assert(!xvm_tx_ready(s[0], fd[0], 0), "less than half is free");
	cr_assert_eq(take(48, 0), 48);
	cr_assert(xvm_tx_ready(s[0], fd[0], 0));
	cr_assert_eq(put(5000), 2048);
	cr_assert_eq(take(5000, 0), 4096);
}

Test(phases, end_comes_after_the_bytes)
{
	enter();
	put(500);
	xvm_tx_shutdown(s[0], fd[0]);
	shutdown(fd[0], SHUT_WR);
	settle();
	cr_assert(xvm_rx_ready(s[1], fd[1], EPOLLIN | EPOLLRDHUP) & EPOLLRDHUP);
	while (got < sent)
		cr_assert_gt(take(100, 0), 0);
	cr_assert_eq(take(100, 0), 0);
	cr_assert_eq(take(100, 0), 0);
}

Test(phases, killed_after_publishing)
{
	enter();
	put(500);
	close(fd[0]); /* as the kernel does for a dead process: no flag */
	settle();
	while (got < sent)
		cr_assert_gt(take(100, 0), 0);
	cr_assert_eq(take(100, 0), 0);
}

Test(phases, killed_between_enter_and_first_byte_read)
{
	put(50);
	settle();
	take(5, 0);
	put(70);
	cr_assert(on_ring());
	close(fd[0]);
	settle();
	while (got < sent)
		cr_assert_gt(take(100, 0), 0);
	cr_assert_eq(take(100, 0), 0);
}

/* Whatever the order of sends, receives, wishes and looks: no byte lost, repeated or moved. */
Test(phases, random_walk)
{
	unsigned switches = 0, was = 0;

	for (unsigned seed = 1; seed <= 20; seed++) {
		unsigned x = seed * 2654435761u;

		for (int step = 0; step < 5000; step++) {
			x = shuffle(x);
			switch (x % 9) {
			case 0:
			case 1:
			case 2:
				put(1 + x / 16 % 3000);
				break;
			case 3:
			case 4:
				take(1 + x / 16 % 3000, 0);
				break;
			case 5:
				take(1 + x / 16 % 3000, MSG_PEEK);
				break;
			case 6:
				atomic_store(&s[0]->ep->want, x / 16 % 2);
				break;
			case 7:
				xvm_sock_poll(s[1], fd[1], EPOLLIN, x / 16 % 2 ? EPOLLIN : 0);
				break;
			case 8: /* a sleeper, so that pads are sent */
				atomic_fetch_add(&s[1]->mine.shm->sleep_data, 256);
				break;
			}
			if (on_ring() != was)
				switches++, was = on_ring();
		}
		settle();
		while (take(10000, 0) > 0 || got < sent)
			settle();
		cr_assert_eq(got, sent);
	}
	cr_assert_gt(switches, 500);
}

static ssize_t take_back(void)
{
	uint8_t c;
	struct iovec iov = {&c, 1};
	struct xvm_io io = {.iov = &iov, .iovcnt = 1, .left = 1, .flags = MSG_DONTWAIT};

	return xvm_rx(s[0], fd[0], &io);
}

static void reset_by_peer(void)
{
	struct linger lg = {1, 0};

	setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
	close(fd[1]);
}

/* A pad takes the kernel's error away; it is told all the same. */
Test(phases, reset_found_by_a_pad)
{
	enter();
	reset_by_peer(); /* with bytes unread in the ring: no mere matter of pads */
	atomic_fetch_add(&s[1]->mine.shm->sleep_data, 256);
	cr_assert_eq(put(10), 10);
	cr_assert(xvm_sock_poll(s[0], fd[0], EPOLLIN, 0) & EPOLLERR);
	cr_assert_eq(take_back(), -ECONNRESET);
	cr_assert_eq(take_back(), 0);
}

/* What was unread was a pad: TCP would have said that it was the end. But only where the bytes of
 * the other direction, which a reset would cost, are in the ring. */
Test(phases, reset_for_a_pad)
{
	enter();
	take(10, 0);
	xvm_rx_consent(s[0], fd[0]);
	xvm_tx_enter(s[1], fd[1]);
	cr_assert_eq(take_back(), -EAGAIN);
	reset_by_peer();
	cr_assert_eq(take_back(), 0);
}

Test(phases, reset_while_the_other_direction_is_on_tcp)
{
	enter();
	take(10, 0);
	reset_by_peer();
	cr_assert_eq(take_back(), -ECONNRESET);
}

/* A number that no process has: that of a child that was waited for. */
static uint64_t nobody_lives(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	return (uint64_t)pid << 32;
}

/* W6: pads stay for one who sleeps by them; not for a fork that was killed in its sleep. */
Test(phases, killed_asleep)
{
	enter();
	take(10, 0);
	take(1, 0);
	atomic_store(&s[1]->ep->tx_sleeper, nobody_lives() | 1);
	atomic_store(&s[1]->mine.shm->sleep_room, XVM_SLEEP(7, XVM_WAKER_PAD));
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), 0);
	atomic_store(&s[0]->ep->want, XVM_WANT_LEAVE);
	cr_assert_eq(put(20), 20);
	cr_assert(!on_ring());
	settle();
	cr_assert_eq(take(100, 0), 20);
	atomic_store(&s[1]->ep->rx_sleeper, nobody_lives() | 1);
	xvm_sock_arm(s[1], fd[1], EPOLLIN, NULL, 1000);
	cr_assert_eq(atomic_load(&s[1]->ep->rx_sleeper) >> 32, getpid());
}

/* What a program that knows of no ring reads. */
static ssize_t take_raw(void)
{
	uint8_t buf[20000];
	ssize_t r = recv(fd[1], buf, sizeof(buf), MSG_DONTWAIT);

	for (ssize_t i = 0; i < r; i++)
		cr_assert_eq(buf[i], pattern(got + (uint64_t)i), "byte %lu", got + (uint64_t)i);
	if (r > 0)
		got += (uint64_t)r;
	return r;
}

Test(phases, cut_resends_what_was_not_taken)
{
	enter();
	take(10, 0);
	cr_assert_eq(put(3000), 3000);
	cr_assert_eq(take(1000, 0), 1000);
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), -EINPROGRESS, "the sender has not looked yet");
	cr_assert_eq(take_raw(), -1);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_PEER_LEFT), 0);
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), 0);
	cr_assert_eq(put(500), 500);
	cr_assert(!on_ring());
	while (got < sent)
		take_raw(), settle();
	cr_assert_eq(put(500), 500);
	cr_assert(!on_ring(), "never again");
	while (got < sent)
		take_raw(), settle();
}

Test(phases, cut_is_no_business_of_a_sender_that_has_left)
{
	enter();
	take(10, 0);
	put(300);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_OPERATOR), 0);
	atomic_store(&s[0]->ep->want, XVM_WANT_LEAVE);
	put(300);
	settle();
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), -EBUSY);
	while (got < sent)
		cr_assert_gt(take(100, 0), 0);
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), 0, "it has come to TCP by itself");
}

Test(phases, cut_after_the_end)
{
	enter();
	take(10, 0);
	put(300);
	cr_assert(xvm_tx_shutdown(s[0], fd[0]));
	shutdown(fd[0], SHUT_WR);
	settle();
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), -EBUSY, "nobody can resend");
}

Test(phases, cut_before_the_end)
{
	enter();
	take(10, 0);
	put(300);
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), -EINPROGRESS);
	if (xvm_tx_shutdown(s[0], fd[0]))
		shutdown(fd[0], SHUT_WR);
	settle();
	while (got < sent)
		cr_assert_gt(take_raw(), 0);
	settle();
	cr_assert_eq(take_raw(), 0);
}

static void make_big(void)
{
	xvm_conf.ring_size = 1 << 20;
	make_pair();
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &(int){4608}, sizeof(int));
	setsockopt(fd[1], SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int));
}

Test(phases, cut_with_more_than_the_kernel_takes, .init = make_big)
{
	enter();
	take(10, 0);
	for (int i = 0; i < 50; i++)
		cr_assert_eq(put(20000), 20000);
	cr_assert_eq(xvm_cut_rx(s[1], fd[1]), -EINPROGRESS);
	cr_assert_eq(xvm_tx_leave(s[0], fd[0], XVM_R_PEER_LEFT), -EAGAIN);
	cr_assert(xvm_tx_owes(s[0]));
	cr_assert_eq(put(1), -EAGAIN, "not before what is owed");
	cr_assert(xvm_sock_kmask(s[0], EPOLLIN) & EPOLLOUT);
	cr_assert(!(xvm_sock_poll(s[0], fd[0], EPOLLOUT, 0) & EPOLLOUT));
	cr_assert(!xvm_tx_shutdown(s[0], fd[0]), "the kernel's FIN has to wait");
	while (got < sent) {
		take_raw();
		xvm_sock_poll(s[0], fd[0], EPOLLIN, 0);
	}
	cr_assert(!xvm_tx_owes(s[0]));
	settle();
	cr_assert_eq(take_raw(), 0);
}

Test(phases, random_cut)
{
	unsigned cut = 0, busy = 0;

	for (unsigned seed = 1; seed <= 200; seed++) {
		unsigned x = seed * 2654435761u, at;
		bool raw = false;
		int r;

		if (seed > 1)
			make_pair();
		at = 20 + seed % 97;
		for (unsigned step = 0; step < at + 100; step++) {
			x = shuffle(x);
			if (step >= at && !raw) {
				r = xvm_cut_rx(s[1], fd[1]);
				raw = r == 0 || r == -EINPROGRESS;
				cut += raw;
				busy += r == -EBUSY;
			}
			switch (x % 8) {
			case 0:
			case 1:
			case 2:
				put(1 + x / 16 % 3000);
				break;
			case 3:
			case 4:
				if (raw)
					take_raw();
				else
					take(1 + x / 16 % 1500, 0);
				break;
			case 5:
				atomic_store(&s[0]->ep->want, x / 16 % 2);
				break;
			case 6:
				xvm_sock_poll(s[0], fd[0], EPOLLIN, 0);
				break;
			case 7:
				atomic_fetch_add(&s[1]->mine.shm->sleep_data, 256);
				break;
			}
		}
		while (got < sent) {
			xvm_sock_poll(s[0], fd[0], EPOLLIN, 0);
			if ((raw ? take_raw() : take(10000, 0)) <= 0)
				settle();
		}
		cr_assert_eq(got, sent);
		for (int i = 0; i < 2; i++) {
			xvm_sock_put(s[i]);
			xvm_ending_close(fd[i]);
			xvm_fdtab_clear(fd[i]);
			close(fd[i]);
		}
	}
	cr_assert_gt(cut, 100);
	cr_assert_gt(busy, 10);
}

/* The sender's half is its own to write: nothing in it may hurt. */
static struct xvm_shm_half *lie(void)
{
	return s[0]->mine.shm;
}

static void refused(void)
{
	ssize_t r = 0;

	for (int i = 0; i < 50 && r >= 0; i++)
		r = take(1000, 0);
	cr_assert_eq(r, -ECONNRESET);
	cr_assert_eq(atomic_load(&s[1]->ep->reason), XVM_R_BROKEN);
	xvm_rx_ready(s[1], fd[1], EPOLLIN);
	take(1000, 0);
}

Test(phases, lie_head)
{
	enter();
	take(10, 0);
	atomic_store(&lie()->head, sent + 5000);
	refused();
}

Test(phases, lie_head_backwards)
{
	enter();
	take(10, 0);
	atomic_store(&lie()->head, 1);
	refused();
}

Test(phases, lie_epoch)
{
	enter();
	atomic_fetch_add(&lie()->epoch, 7);
	refused();
}

Test(phases, lie_boundary)
{
	enter();
	take(10, 0);
	atomic_store(&lie()->bnd_ring, UINT64_MAX / 2);
	atomic_fetch_add(&lie()->epoch, 1);
	refused();
}

Test(phases, lie_tcp_boundary)
{
	enter();
	take(10, 0);
	atomic_store(&lie()->bnd_ring, 10);
	atomic_store(&lie()->bnd_tcp, 0);
	atomic_fetch_add(&lie()->epoch, 1);
	atomic_store(&s[1]->ep->rx_tcp_got, 5);
	refused();
}

Test(phases, lie_tail)
{
	enter();
	atomic_store(&s[1]->mine.shm->tail, 5000);
	cr_assert_eq(put(10), -ECONNRESET);
}
