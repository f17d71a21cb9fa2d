/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP positions (PROTOCOL.md): a socket's byte counts since it was established can be read at any
 * time, whatever has been done to it, and both ends have the same origin:
 *
 *   given = tcpi_bytes_acked + SIOCOUTQ, less 1 for the active opener (its SYN is counted)
 *   taken = tcpi_bytes_received - SIOCINQ
 */
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "assume.h"

static int64_t given(int fd, bool active)
{
	struct tcp_info ti = {0};
	socklen_t len = sizeof(ti);
	int queued, again;

	/* An ACK between the two readings would be counted on neither side. */
	do {
		NEED(!ioctl(fd, SIOCOUTQ, &queued));
		NEED(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len));
		NEED(!ioctl(fd, SIOCOUTQ, &again));
	} while (queued != again);
	NEED(len >= offsetof(struct tcp_info, tcpi_bytes_received) + 8);
	return (int64_t)ti.tcpi_bytes_acked + queued - active;
}

static int64_t taken(int fd)
{
	struct tcp_info ti = {0};
	socklen_t len = sizeof(ti);
	int queued, again;

	do {
		NEED(!ioctl(fd, SIOCINQ, &queued));
		NEED(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len));
		NEED(!ioctl(fd, SIOCINQ, &again));
	} while (queued != again);
	return (int64_t)ti.tcpi_bytes_received - queued;
}

static void check(const char *when, struct assume_pair p, const int64_t sent[2],
		  const int64_t got[2])
{
	ASSUME(given(p.active, true) == sent[0], "%s: active gave %lld, not %lld", when,
	       (long long)given(p.active, true), (long long)sent[0]);
	ASSUME(given(p.passive, false) == sent[1], "%s: passive gave %lld, not %lld", when,
	       (long long)given(p.passive, false), (long long)sent[1]);
	ASSUME(taken(p.active) == got[0], "%s: active took %lld, not %lld", when,
	       (long long)taken(p.active), (long long)got[0]);
	ASSUME(taken(p.passive) == got[1], "%s: passive took %lld, not %lld", when,
	       (long long)taken(p.passive), (long long)got[1]);
}

static int64_t fill(int fd)
{
	static char buf[10000];
	int64_t n = 0;
	ssize_t k;

	while ((k = send(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		n += k;
	NEED(errno == EAGAIN);
	return n;
}

static int64_t take(int fd, int64_t n)
{
	static char buf[10000];
	int64_t left = n;

	while (left > 0) {
		ssize_t k =
			recv(fd, buf, left < (int64_t)sizeof(buf) ? (size_t)left : sizeof(buf), 0);

		NEED(k > 0);
		left -= k;
	}
	return n;
}

static void one(enum assume_kind kind)
{
	struct assume_pair p = assume_connect(kind);
	int64_t sent[2] = {kind == ASSUME_DEFERRED ? 5 : 0, 0}, got[2] = {0, 0};
	char buf[100];

	if (kind == ASSUME_DEFERRED)
		NEED(assume_poll(p.passive, POLLIN, 1000) & POLLIN);
	check("at first", p, sent, got);
	NEED(send(p.active, buf, 100, 0) == 100);
	sent[0] += 100;
	check("after a send", p, sent, got);
	NEED(send(p.passive, buf, 7, 0) == 7);
	sent[1] += 7;
	got[1] += take(p.passive, 60);
	got[0] += take(p.active, 3);
	check("after part was read", p, sent, got);
	NEED(recv(p.active, buf, 2, MSG_PEEK) == 2);
	check("after a peek", p, sent, got);
	sent[0] += fill(p.active);
	sent[1] += fill(p.passive);
	check("with full queues both ways", p, sent, got);
	got[1] += take(p.passive, sent[0] - got[1]);
	check("one way drained", p, sent, got);
	got[0] += take(p.active, sent[1] - got[0] - 10);
	check("ten bytes left", p, sent, got);

	/* Corked bytes are given, though they are not sent yet. */
	NEED(!setsockopt(p.active, IPPROTO_TCP, TCP_CORK, &(int){1}, sizeof(int)));
	NEED(send(p.active, buf, 11, 0) == 11);
	sent[0] += 11;
	check("corked", p, sent, got);
	NEED(!setsockopt(p.active, IPPROTO_TCP, TCP_CORK, &(int){0}, sizeof(int)));
	NEED(send(p.active, buf, 13, MSG_MORE) == 13);
	sent[0] += 13;
	check("MSG_MORE", p, sent, got);

	/* Read with MSG_TRUNC, which throws bytes away, they count all the same. */
	NEED(send(p.active, buf, 1, 0) == 1);
	sent[0] += 1;
	while (taken(p.passive) + 25 > sent[0] || assume_poll(p.passive, POLLIN, 1000) != POLLIN)
		;
	NEED(recv(p.passive, NULL, 25, MSG_TRUNC | MSG_WAITALL) == 25);
	got[1] += 25;
	check("MSG_TRUNC", p, sent, got);
	assume_close(p);
}

int main(void)
{
	for (enum assume_kind k = 0; k < ASSUME_KINDS; k++)
		one(k);
	return assume_end();
}
