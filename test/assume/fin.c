/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends of a connection (PROTOCOL.md, R5, S6, S7):
 * a FIN counts one in tcpi_bytes_received, and in tcpi_bytes_acked once it is acknowledged;
 * closing with unread bytes resets, closing without does not; what was received before a
 * FIN or a RST... is read as TCP reads it; SO_LINGER {1, 0} resets; a send after the peer's close
 * draws a RST; a connection lives as long as a message in flight holds its socket.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include "assume.h"

static struct tcp_info info(int fd)
{
	struct tcp_info ti = {0};
	socklen_t len = sizeof(ti);

	NEED(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len));
	return ti;
}

static int queued(int fd, unsigned long what)
{
	int n;

	NEED(!ioctl(fd, what, &n));
	return n;
}

/* A FIN is one byte of the sequence space, and the counts show it. */
static void fin_counts(enum assume_kind kind)
{
	struct assume_pair p = assume_connect(kind);
	int64_t early = kind == ASSUME_DEFERRED ? 5 : 0;
	char buf[64];

	NEED(send(p.active, buf, 10, 0) == 10);
	NEED(send(p.passive, buf, 20, 0) == 20);
	NEED(!shutdown(p.active, SHUT_WR));
	while (!(assume_poll(p.passive, POLLRDHUP, 1000) & POLLRDHUP))
		;
	ASSUME((int64_t)info(p.passive).tcpi_bytes_received == 10 + early + 1, "%lld",
	       (long long)info(p.passive).tcpi_bytes_received);
	ASSUME(queued(p.passive, SIOCINQ) == 10 + early ||
		       queued(p.passive, SIOCINQ) == 10 + early + 1,
	       "%d", queued(p.passive, SIOCINQ));
	/* Everything read: the FIN is still counted, and SIOCINQ does not show it. */
	NEED(recv(p.passive, buf, sizeof(buf), 0) == 10 + early);
	ASSUME(recv(p.passive, buf, 1, 0) == 0, "no end of file");
	ASSUME((int64_t)info(p.passive).tcpi_bytes_received - queued(p.passive, SIOCINQ) ==
		       10 + early + 1,
	       "%lld - %d", (long long)info(p.passive).tcpi_bytes_received,
	       queued(p.passive, SIOCINQ));
	/* The sender: SYN and FIN and the bytes. */
	for (int i = 0; i < 1000 && queued(p.active, SIOCOUTQ); i++)
		poll(NULL, 0, 1);
	ASSUME((int64_t)info(p.active).tcpi_bytes_acked + queued(p.active, SIOCOUTQ) ==
		       10 + early + 2,
	       "%lld + %d", (long long)info(p.active).tcpi_bytes_acked, queued(p.active, SIOCOUTQ));
	/* The other direction is as it was. */
	ASSUME(recv(p.active, buf, sizeof(buf), 0) == 20, "the other direction");
	NEED(!shutdown(p.passive, SHUT_WR));
	ASSUME(recv(p.active, buf, sizeof(buf), 0) == 0, "no end of file");
	for (int i = 0; i < 1000 && queued(p.passive, SIOCOUTQ); i++)
		poll(NULL, 0, 1);
	ASSUME((int64_t)info(p.passive).tcpi_bytes_acked + queued(p.passive, SIOCOUTQ) == 20 + 1,
	       "%lld + %d", (long long)info(p.passive).tcpi_bytes_acked,
	       queued(p.passive, SIOCOUTQ));
	assume_close(p);
}

static void unread_resets(enum assume_kind kind, bool unread)
{
	struct assume_pair p = assume_connect(kind);
	char buf[64];
	ssize_t n;

	/* So a pad that is left unread at close would turn the FIN into a RST. */
	if (kind == ASSUME_DEFERRED)
		NEED(recv(p.passive, buf, 5, MSG_WAITALL) == 5);
	NEED(send(p.active, buf, 1, 0) == 1);
	NEED(assume_poll(p.passive, POLLIN, 1000) & POLLIN);
	if (!unread)
		NEED(recv(p.passive, buf, 1, 0) == 1);
	close(p.passive);
	n = recv(p.active, buf, sizeof(buf), 0);
	if (unread)
		ASSUME(n < 0 && errno == ECONNRESET, "recv gave %zd", n);
	else
		ASSUME(n == 0, "recv gave %zd, %s", n, strerror(errno));
	close(p.active);
}

static void linger_resets(enum assume_kind kind)
{
	struct assume_pair p = assume_connect(kind);
	struct linger l = {1, 0};
	char buf[64];
	ssize_t n;

	if (kind == ASSUME_DEFERRED)
		NEED(recv(p.passive, buf, 5, MSG_WAITALL) == 5);
	NEED(send(p.passive, buf, 9, 0) == 9);
	NEED(assume_poll(p.active, POLLIN, 1000) & POLLIN);
	NEED(!setsockopt(p.passive, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	close(p.passive);
	while (!(assume_poll(p.active, 0, 1000) & POLLERR))
		;
	/* Bytes that had come before the RST can still be read after it, then the error is said
	 * once. */
	n = recv(p.active, buf, sizeof(buf), 0);
	ASSUME(n == 9 || (n < 0 && errno == ECONNRESET), "recv gave %zd, %s", n, strerror(errno));
	if (n == 9) {
		n = recv(p.active, buf, sizeof(buf), 0);
		ASSUME(n < 0 && errno == ECONNRESET, "then recv gave %zd", n);
	}
	n = recv(p.active, buf, sizeof(buf), 0);
	ASSUME(n == 0, "the error was said twice: %zd, %s", n, strerror(errno));
	n = send(p.active, buf, 1, MSG_NOSIGNAL);
	ASSUME(n < 0 && errno == EPIPE, "send gave %zd, %s", n, strerror(errno));
	close(p.active);
}

/* S7: after the peer's FIN a pad draws the RST if nobody is there. */
static void send_draws_reset(enum assume_kind kind)
{
	struct assume_pair p = assume_connect(kind);
	char buf[64];

	if (kind == ASSUME_DEFERRED)
		NEED(recv(p.passive, buf, 5, MSG_WAITALL) == 5);
	close(p.passive);
	NEED(assume_poll(p.active, POLLRDHUP, 1000) & POLLRDHUP);
	ASSUME(!(assume_poll(p.active, 0, 0) & (POLLERR | POLLHUP)),
	       "error before anything is sent");
	NEED(send(p.active, "x", 1, MSG_NOSIGNAL) == 1);
	ASSUME(assume_poll(p.active, 0, 1000) & POLLERR, "no error after a send");
	ASSUME(send(p.active, "x", 1, MSG_NOSIGNAL) < 0 && (errno == EPIPE || errno == ECONNRESET),
	       "%s", strerror(errno));
	close(p.active);
}

/* xvmd has a copy of the socket while an offer is on its way. */
static void in_flight(enum assume_kind kind)
{
	struct assume_pair p = assume_connect(kind);
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl = {.buf = {0}};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ctl.buf,
			     .msg_controllen = sizeof(ctl.buf)};
	struct cmsghdr *c;
	char buf[64];
	int sp[2], fd;

	if (kind == ASSUME_DEFERRED)
		NEED(recv(p.passive, buf, 5, MSG_WAITALL) == 5);
	NEED(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sp));
	c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &p.passive, sizeof(int));
	NEED(sendmsg(sp[0], &msg, 0) == 1);
	close(p.passive);
	ASSUME(!(assume_poll(p.active, POLLIN | POLLRDHUP, 100) & (POLLIN | POLLRDHUP)),
	       "closed though a message holds it");
	ASSUME(send(p.active, "hello", 5, MSG_NOSIGNAL) == 5, "%s", strerror(errno));
	NEED(recvmsg(sp[1], &msg, 0) == 1);
	c = CMSG_FIRSTHDR(&msg);
	NEED(c && c->cmsg_type == SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(c), sizeof(int));
	ASSUME(recv(fd, buf, sizeof(buf), 0) == 5, "what was sent meanwhile is lost");
	/* The last holder's close is the connection's: also by closing the socket it lies unread
	 * in. */
	c->cmsg_level = SOL_SOCKET;
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	msg.msg_controllen = sizeof(ctl.buf);
	NEED(sendmsg(sp[0], &msg, 0) == 1);
	close(fd);
	close(sp[0]);
	close(sp[1]);
	ASSUME(assume_poll(p.active, POLLIN, 1000) & POLLIN, "not closed with the last holder");
	ASSUME(recv(p.active, buf, sizeof(buf), 0) == 0, "no end of file");
	close(p.active);
}

int main(void)
{
	for (enum assume_kind k = 0; k < ASSUME_KINDS; k++) {
		fin_counts(k);
		unread_resets(k, true);
		unread_resets(k, false);
		linger_resets(k);
		send_draws_reset(k);
		in_flight(k);
	}
	return assume_end();
}
