/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths, vectors, messages, flags, other means. */
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "test/preload/same_calls.h"

static struct sockaddr_in where;
static void *volatile null;

/* Of no bytes: some calls return at once, some wait for data, some tell an error. */
void scene_nothing(void)
{
	struct iovec v[2] = {{buf, 0}, {NULL, 0}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
	struct later l;
	int a, b;

	pair(&a, &b);
	DO(read(a, null, 0));
	DO(readv(a, v, 2));
	DO(readv(a, v, 0));
	DO(write(a, null, 0));
	DO(writev(a, v, 2));
	DO(writev(a, v, 0));
	DO(send(a, null, 0, 0));
	DO(sendmsg(a, &m, 0));
	DO(recv(a, null, 0, MSG_DONTWAIT));
	DO(recvmsg(a, &m, MSG_DONTWAIT));
	DO(recv(a, null, 0, MSG_DONTWAIT | MSG_PEEK));
	later(&l, 20, b, "x");
	DO(recv(a, null, 0, 0));
	pthread_join(l.t, NULL);
	DO(recv(a, null, 0, MSG_WAITALL));
	m.msg_iovlen = 0;
	DO(recvmsg(a, &m, 0));
	DO(recv(a, buf, 2, 0));
	/* At the end. */
	shutdown(b, SHUT_WR);
	nap(10);
	DO(recv(a, null, 0, 0));
	DO(read(a, null, 0));
	DO(recv(a, buf, 1, 0));
	/* After our own end. */
	shutdown(a, SHUT_WR);
	DO(write(a, null, 0));
	DO(writev(a, v, 2));
	DO(send(a, null, 0, 0));
	DO(sendmsg(a, &m, MSG_NOSIGNAL));
	close(a);
	close(b);
}

void scene_lengths(void)
{
	static struct iovec v[IOV_MAX + 1];
	volatile size_t much = 1ul << 44, half = 1u << 31;
	volatile int minus = -1;
	int a, b, n = 0;

	for (int i = 0; i <= IOV_MAX; i++)
		v[i] = (struct iovec){buf + i, 1};
	pair(&a, &b);
	put(b, "hello world");
	DO(recv(a, buf, much, MSG_PEEK));
	DO(recv(a, buf, half, MSG_PEEK));
	DO(recv(a, buf, much, MSG_DONTWAIT | MSG_PEEK));
	DO(readv(a, v, IOV_MAX + 1));
	DO(writev(a, v, IOV_MAX + 1));
	DO(readv(a, v, minus));
	DO(writev(a, v, minus));
	/* One of them is too long, or all together are. */
	v[1].iov_len = (size_t)minus;
	DO(readv(a, v, 2));
	DO(writev(a, v, 2));
	v[0].iov_len = 1u << 31;
	v[1].iov_len = 1;
	DO(readv(a, v, 2));
	put(b, "second");
	v[0].iov_len = 3;
	v[1].iov_base = buf + 3;
	v[1].iov_len = 1u << 31;
	DO(readv(a, v, 2));
	v[0].iov_len = v[1].iov_len = 1;
	DO(writev(a, v, IOV_MAX));
	nap(5);
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD", n);
	DO(recv(b, buf, IOV_MAX, MSG_WAITALL));
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD", n);
	/* Whatever was sent has been acknowledged by the other end's kernel. */
	put(a, "unread");
	nap(100);
	DO(ioctl(a, TIOCOUTQ, &n));
	say("SIOCOUTQ", n);
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD", n);
	shutdown(a, SHUT_WR);
	nap(10);
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD before the end", n);
	drain(b);
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD at the end", n);
	close(a);
	close(b);
}

static void show(const char *what, const struct msghdr *m)
{
	printf("%s: namelen %d controllen %zu flags %x\n", what, (int)m->msg_namelen,
	       m->msg_controllen, (unsigned)m->msg_flags);
}

void scene_messages(void)
{
	char control[64];
	struct iovec v = {buf, 4};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}, blank = m;
	socklen_t len;
	int a, b;

	pair(&a, &b);
	put(b, "one two three four five six seven eight nine");
	m.msg_namelen = 77;
	m.msg_flags = 99;
	DO(recvmsg(a, &m, 0));
	show("no name", &m);
	m.msg_name = &where;
	m.msg_namelen = sizeof(where);
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	DO(recvmsg(a, &m, 0));
	show("with a name", &m);
	m.msg_namelen = (socklen_t)-1;
	DO(recvmsg(a, &m, 0));
	show("bad name", &m);
	m = blank;
	m.msg_iovlen = IOV_MAX + 1;
	DO(recvmsg(a, &m, 0));
	DO(sendmsg(a, &m, 0));
	m.msg_iovlen = (size_t)-1;
	DO(recvmsg(a, &m, 0));
	DO(sendmsg(a, &m, 0));
	m = blank;
	DO(recvmsg(a, &m, MSG_CMSG_CLOEXEC));
	show("cloexec", &m);
	DO(recvmsg(a, &m, MSG_TRUNC));
	show("trunc", &m);
	DO(recvmsg(a, &m, MSG_PEEK));
	show("peek", &m);
	m.msg_namelen = 5;
	m.msg_flags = 7;
	DO(recvmsg(b, &m, MSG_DONTWAIT));
	show("nothing there", &m);
	len = sizeof(where);
	DO(recvfrom(a, buf, 4, 0, (struct sockaddr *)&where, &len));
	say("len", len);
	len = 17;
	DO(recvfrom(b, buf, 4, MSG_DONTWAIT, (struct sockaddr *)&where, &len));
	say("len", len);
	len = 0;
	DO(recvfrom(a, buf, 4, 0, (struct sockaddr *)&where, &len));
	len = 18;
	DO(recvfrom(a, buf, 4, 0, NULL, &len));
	say("len", len);
	len = (socklen_t)-5;
	DO(recvfrom(a, buf, 4, 0, (struct sockaddr *)&where, &len));
	/* A connected stream takes no notice of an address, unless it is none. */
	DO(sendto(b, "xy", 2, 0, (struct sockaddr *)&where, sizeof(where)));
	DO(sendto(b, "xy", 2, 0, (struct sockaddr *)&where, 3));
	DO(sendto(b, "xy", 2, 0, (struct sockaddr *)&where, 4000));
	m = blank;
	m.msg_name = &where;
	m.msg_namelen = sizeof(where);
	DO(sendmsg(b, &m, 0));
	m.msg_namelen = (socklen_t)-1;
	DO(sendmsg(b, &m, 0));
	shutdown(b, SHUT_WR);
	nap(10);
	drain(a);
	m = blank;
	m.msg_flags = 7;
	DO(recvmsg(a, &m, 0));
	show("at the end", &m);
	close(a);
	close(b);
}

#define MANY 4

static void tell(const char *what, int r, const struct mmsghdr *v)
{
	printf("%s: %s", what, r < 0 ? strerrorname_np(errno) : "");
	if (r >= 0)
		printf("%d", r);
	for (int i = 0; i < r && i < MANY; i++)
		printf(" %u", v[i].msg_len);
	printf("\n");
}

void scene_many(void)
{
	struct mmsghdr v[MANY];
	struct iovec iov[MANY];
	struct timespec ts;
	struct later l;
	static char big[8 << 20];
	int a, b, r;
	long sum, t;

	memset(v, 0, sizeof(v));
	for (int i = 0; i < MANY; i++) {
		iov[i] = (struct iovec){buf + 10 * i, 3};
		v[i].msg_hdr.msg_iov = &iov[i];
		v[i].msg_hdr.msg_iovlen = 1;
	}
	pair(&a, &b);
	tell("send none", sendmmsg(b, v, 0, 0), v);
	tell("send", sendmmsg(b, v, MANY, 0), v);
	nap(5);
	tell("receive none", recvmmsg(a, v, 0, 0, NULL), v);
	tell("receive", recvmmsg(a, v, MANY, 0, NULL), v);
	put(b, "12345");
	tell("do not wait", recvmmsg(a, v, MANY, MSG_DONTWAIT, NULL), v);
	tell("nothing there", recvmmsg(a, v, MANY, MSG_DONTWAIT, NULL), v);
	put(b, "12345");
	tell("wait for one", recvmmsg(a, v, MANY, MSG_WAITFORONE, NULL), v);
	/* The time is looked at after each message, and what is left is told. */
	put(b, "12345");
	ts = (struct timespec){0, 0};
	tell("no time", recvmmsg(a, v, MANY, 0, &ts), v);
	printf("left %ld %ld\n", (long)ts.tv_sec, ts.tv_nsec);
	drain(a);
	later(&l, 50, b, "late");
	ts = (struct timespec){0, 10000000};
	t = now_ms();
	tell("too late", recvmmsg(a, v, MANY, 0, &ts), v);
	printf("in time %d\n", now_ms() - t >= 40);
	pthread_join(l.t, NULL);
	drain(a);
	put(b, "123456789abc");
	ts = (struct timespec){20, 0};
	tell("in time", recvmmsg(a, v, MANY, 0, &ts), v);
	printf("left %d\n", ts.tv_sec == 19);
	ts = (struct timespec){0, 1000000000};
	tell("bad time", recvmmsg(a, v, MANY, 0, &ts), v);
	ts = (struct timespec){-1, 0};
	tell("bad time", recvmmsg(a, v, MANY, 0, &ts), v);
	/* A short one is the last. */
	nonblock(b);
	for (int i = 0; i < MANY; i++)
		iov[i] = (struct iovec){big, sizeof(big)};
	r = sendmmsg(b, v, MANY, 0);
	sum = 0;
	for (int i = 0; i < r; i++) {
		if (i + 1 < r && v[i].msg_len != sizeof(big))
			printf("a short one is not the last\n");
		sum += v[i].msg_len;
	}
	printf("sent %d\n", sum > 0 && sum < MANY * (long)sizeof(big));
	for (ssize_t n; (n = recv(a, big, sizeof(big), MSG_DONTWAIT)) > 0 || sum > 0; sum -= n)
		n = n < 0 ? nap(1), 0 : n;
	say("unaccounted", sum);
	for (int i = 0; i < MANY; i++)
		iov[i] = (struct iovec){buf + 10 * i, 3};
	put(b, "1234");
	shutdown(b, SHUT_WR);
	nap(10);
	tell("at the end", recvmmsg(a, v, MANY, MSG_DONTWAIT, NULL), v);
	tell("after the end", recvmmsg(a, v, MANY, 0, NULL), v);
	shutdown(a, SHUT_WR);
	tell("send after the end", sendmmsg(a, v, MANY, MSG_NOSIGNAL), v);
	close(a);
	close(b);
}

void scene_flags(void)
{
	struct later l;
	int a, b, mark = -1;
	long t;

	pair(&a, &b);
	put(b, "12345");
	DO(recv(a, buf, 3, MSG_PEEK));
	DO(recv(a, buf, 10, MSG_PEEK | MSG_DONTWAIT));
	DO(recv(a, buf, 10, MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT));
	DO(recv(a, buf, 5, MSG_PEEK | MSG_WAITALL));
	/* A peek waits for all, too. */
	later(&l, 40, b, "67890");
	t = now_ms();
	DO(recv(a, buf, 10, MSG_PEEK | MSG_WAITALL));
	printf("waited %d: %.10s\n", now_ms() - t >= 30, buf);
	pthread_join(l.t, NULL);
	DO(recv(a, buf, 4, MSG_TRUNC | MSG_PEEK));
	DO(recv(a, buf, 4, MSG_TRUNC));
	DO(recv(a, null, 2, MSG_TRUNC));
	DO(recv(a, buf, 4, MSG_WAITALL));
	printf("%.4s\n", buf);
	DO(recv(a, buf, 4, MSG_WAITALL | MSG_DONTWAIT));
	DO(recv(a, buf, 4, MSG_OOB));
	DO(recv(a, buf, 4, MSG_ERRQUEUE));
	DO(recv(a, buf, 4, MSG_ERRQUEUE | MSG_PEEK));
	DO(send(b, "more", 4, MSG_MORE));
	DO(send(b, "done", 4, 0));
	DO(recv(a, buf, 8, MSG_WAITALL));
	DO(send(b, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL));
	DO(send(b, "y", 1, MSG_DONTROUTE | MSG_CONFIRM | MSG_EOR));
	nap(5);
	DO(recv(a, buf, 8, MSG_DONTWAIT));
	/* The peer's end while a peek waits for all. */
	put(b, "abc");
	shutdown(b, SHUT_WR);
	DO(recv(a, buf, 10, MSG_PEEK | MSG_WAITALL));
	DO(recv(a, buf, 10, MSG_WAITALL));
	DO(recv(a, buf, 10, MSG_PEEK | MSG_WAITALL));
	close(a);
	close(b);
	/* Urgent data. */
	pair(&a, &b);
	put(b, "before");
	DO(send(b, "!", 1, MSG_OOB));
	DO(send(b, "after", 5, 0));
	nap(10);
	DO(recv(a, buf, 100, 0));
	DO(ioctl(a, SIOCATMARK, &mark));
	say("mark", mark);
	DO(recv(a, buf, 1, MSG_OOB | MSG_PEEK));
	DO(recv(a, buf, 1, MSG_OOB));
	DO(recv(a, buf, 1, MSG_OOB));
	DO(recv(a, buf, 100, 0));
	DO(recv(a, buf, 100, MSG_DONTWAIT));
	put(b, "and on");
	DO(recv(a, buf, 100, 0));
	put(a, "and back");
	DO(recv(b, buf, 100, 0));
	close(a);
	close(b);
}

static void one(const char *what, ssize_t r)
{
	printf("%s: %s %ld\n", what, r < 0 ? strerrorname_np(errno) : "ok", (long)(r < 0 ? 0 : r));
}

void scene_means(void)
{
	int a, b, p[2], f = memfd_create("f", 0), n = 0;
	struct iovec v = {buf, 3};
	off_t off;
	loff_t at = 0;

	pair(&a, &b);
	if (pipe(p) < 0 || f < 0 || write(f, "0123456789", 10) != 10)
		die("file");
	one("sendfile of a pipe", sendfile(a, p[0], NULL, 5));
	off = 0;
	one("sendfile of a pipe, at", sendfile(a, p[0], &off, 5));
	one("sendfile of a socket", sendfile(a, b, NULL, 5));
	one("sendfile of nothing", sendfile(a, 877, NULL, 5));
	off = -1;
	one("sendfile, bad offset", sendfile(a, f, &off, 5));
	off = 100;
	one("sendfile, past the end", sendfile(a, f, &off, 5));
	off = 2;
	one("sendfile, none", sendfile(a, f, &off, 0));
	one("sendfile, far too many", sendfile(a, f, &off, (size_t)-1));
	one("sendfile, too many", sendfile(a, f, &off, 0x7fffffff));
	say("off", off);
	nap(5);
	DO(recv(b, buf, 100, 0));
	one("splice, none", splice(a, NULL, p[1], NULL, 0, 0));
	one("splice to none", splice(p[0], NULL, a, NULL, 0, 0));
	one("splice, flags", splice(a, NULL, p[1], NULL, 5, 0x100));
	one("splice of two sockets", splice(a, NULL, b, NULL, 5, 0));
	one("splice, offset", splice(a, &at, p[1], NULL, 5, 0));
	one("splice, offset", splice(p[0], NULL, a, &at, 5, 0));
	one("splice of nothing", splice(877, NULL, p[1], NULL, 5, 0));
	one("splice to nothing", splice(a, NULL, 877, NULL, 5, 0));
	one("splice to the wrong end", splice(a, NULL, p[0], NULL, 5, 0));
	one("splice of the wrong end", splice(p[1], NULL, a, NULL, 5, 0));
	one("splice, empty pipe", splice(p[0], NULL, a, NULL, 5, SPLICE_F_NONBLOCK));
	put(b, "hello");
	one("splice", splice(a, NULL, p[1], NULL, 100, 0));
	one("splice back", splice(p[0], NULL, a, NULL, 100, 0));
	one("tee", tee(a, p[1], 5, 0));
	one("vmsplice", vmsplice(a, &v, 1, 0));
	one("copy_file_range", copy_file_range(f, NULL, a, NULL, 5, 0));
	nap(5);
	DO(recv(b, buf, 100, 0));
	one("preadv", preadv(a, &v, 1, 0));
	one("pwritev", pwritev(a, &v, 1, 0));
	put(b, "hello");
	one("preadv2", preadv2(a, &v, 1, 0, 0));
	one("preadv2, here", preadv2(a, &v, 1, -1, 0));
	one("preadv2, here, now", preadv2(a, &v, 1, -1, RWF_NOWAIT));
	one("preadv2, here, now", preadv2(a, &v, 1, -1, RWF_NOWAIT));
	one("pwritev2, here", pwritev2(a, &v, 1, -1, 0));
	nap(5);
	DO(recv(b, buf, 100, MSG_DONTWAIT));
	one("dprintf", dprintf(a, "%s", "hello"));
	nap(5);
	DO(recv(b, buf, 100, MSG_DONTWAIT));
	DO(ioctl(a, FIONBIO, &(int){1}));
	DO(recv(a, buf, 1, 0));
	DO(fcntl(a, F_GETFL) & O_NONBLOCK);
	DO(ioctl(a, FIONBIO, &n));
	DO(fcntl(a, F_GETFL) & O_NONBLOCK);
	DO(ioctl(a, SIOCATMARK, &n));
	close(p[0]);
	put(b, "hello");
	one("splice, broken pipe", splice(a, NULL, p[1], NULL, 100, 0));
	close(p[1]);
	close(f);
	close(a);
	close(b);
}
