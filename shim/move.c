/* SPDX-License-Identifier: Apache-2.0 */
/* Data by other means: sendfile and splice through a buffer of ours, ioctl's byte counts. */
#include <limits.h>
#include <linux/sockios.h>
#include <stdarg.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/stream.h"

#define RW_MAX (INT_MAX & ~4095) /* Linux moves at most so many bytes in one call */
#define CHUNK (32 << 10)	 /* on the stack of whoever calls */

/*
 * Read at off (or at the file's own position), send, and set the position to what was sent.
 * Reads of a regular file do not wait; the socket's mode decides whether the send does.
 */
static ssize_t send_file(int out, int in, off64_t *off, size_t n)
{
	char buf[CHUNK];
	ssize_t done = 0, r, w;
	off64_t pos;

	if (off && xvm_user_copy(&pos, off, sizeof(pos)) < 0)
		return xvm_result(-EFAULT);
	if (!off)
		pos = lseek64(in, 0, SEEK_CUR);
	if (pos < 0)
		return xvm_result(-EINVAL);
	while ((size_t)done < n) {
		size_t k = n - (size_t)done < CHUNK ? n - (size_t)done : CHUNK;

		r = pread64(in, buf, k, pos + done);
		if (r <= 0) {
			if (r < 0 && !done)
				return -1;
			break;
		}
		w = send(out, buf, (size_t)r, 0);
		if (w < 0) {
			if (!done)
				return -1;
			break;
		}
		done += w;
		if (w < r)
			break;
	}
	pos += done;
	if (!off)
		lseek64(in, pos, SEEK_SET);
	else if (xvm_user_copy(off, &pos, sizeof(pos)) < 0)
		return xvm_result(-EFAULT);
	return done;
}

XVM_WRAP ssize_t sendfile64(int out, int in, off64_t *off, size_t n)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s = xvm_io_claim(out, false, &counted);

	if (!s)
		return xvm_io_unclaim(&counted, REAL(sendfile64)(out, in, off, n));
	xvm_sock_put(s);
	/* The kernel's own error, or its nothing. */
	if (n == 0 || n > SSIZE_MAX || lseek64(in, 0, SEEK_CUR) < 0)
		return REAL(sendfile64)(out, in, off, n);
	if (n > RW_MAX)
		n = RW_MAX;
	return send_file(out, in, off, n);
}

XVM_WRAP ssize_t sendfile(int out, int in, off_t *off, size_t n)
{
	static_assert(sizeof(off_t) == sizeof(off64_t), "64-bit only");
	return sendfile64(out, in, (off64_t *)off, n);
}

#define SPLICE_ALL (unsigned)(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT)

/* An end of a pipe that can be written, or read? */
static bool is_pipe(int fd, bool to_write)
{
	int mode = REAL(fcntl)(fd, F_GETFL);

	if (mode < 0 || (mode & O_PATH) || REAL(fcntl)(fd, F_GETPIPE_SZ) < 0)
		return false;
	return (mode & O_ACCMODE) == O_RDWR ||
	       (mode & O_ACCMODE) == (to_write ? O_WRONLY : O_RDONLY);
}

/* A pipe on one side, a paired socket on the other: through a buffer, never more than fits. */
XVM_WRAP ssize_t splice(int in, off64_t *ioff, int out, off64_t *ooff, size_t n, unsigned flags)
{
	char buf[16 << 10];
	struct xvm_counted in_counted XVM_CLEANUP, out_counted XVM_CLEANUP = {NULL, false, 0};
	struct xvm_sock *from = xvm_io_claim(in, true, &in_counted);
	struct xvm_sock *to = from ? NULL : xvm_io_claim(out, false, &out_counted);
	bool dontwait = flags & SPLICE_F_NONBLOCK;
	struct pollfd pfd;
	ssize_t r, w, done;

	if (!from && !to) {
		r = REAL(splice)(in, ioff, out, ooff, n, flags);
		xvm_io_unclaim(&in_counted, r);
		return xvm_io_unclaim(&out_counted, r);
	}
	/* One side is a pipe, which is not tracked. */
	if (from)
		xvm_sock_put(from);
	if (to)
		xvm_sock_put(to);
	/* What moves no byte is the kernel's to answer. */
	if (n == 0 || (flags & ~SPLICE_ALL) || ioff || ooff || !is_pipe(from ? out : in, from))
		return REAL(splice)(in, ioff, out, ooff, n, flags);
	if (n > sizeof(buf))
		n = sizeof(buf);
	if (from) {
		int size = fcntl(out, F_GETPIPE_SZ), used = 0;

		/* Bytes that were received must fit: one page of a pipe may hold a single byte. */
		if (size < 0 || REAL(ioctl)(out, FIONREAD, &used) < 0)
			return -1;
		pfd = (struct pollfd){.fd = out, .events = POLLOUT};
		r = REAL(poll)(&pfd, 1, dontwait || (fcntl(out, F_GETFL) & O_NONBLOCK) ? 0 : -1);
		if (r == 0)
			errno = EAGAIN;
		if (r <= 0)
			return -1;
		if (n > 4096)
			n = used ? 4096 : n; /* POLLOUT promises one page */
		if (n > (size_t)size)
			n = (size_t)size;
		if (pfd.revents & POLLERR) { /* nobody reads: before anything is received */
			raise(SIGPIPE);
			errno = EPIPE;
			return -1;
		}
		/* SPLICE_F_NONBLOCK is about the pipe. What is there need not be SO_RCVLOWAT. */
		r = recv(in, buf, n, MSG_DONTWAIT);
		if (r < 0 && errno == EAGAIN)
			r = recv(in, buf, n, 0);
		for (done = 0; done < r; done += w) {
			w = REAL(write)(out, buf + done, (size_t)(r - done));
			/* What was received is in our hands: no signal may end this. */
			if (w < 0 && errno == EAGAIN)
				REAL(poll)(&pfd, 1, -1);
			else if (w < 0 && errno != EINTR)
				return -1;
			if (w < 0)
				w = 0;
		}
		return r;
	}
	/* tee() copies without consuming, so what the socket does not take stays in the pipe. */
	struct xvm_sock *s = xvm_sock_get(out);

	if (!s)
		return REAL(splice)(in, ioff, out, ooff, n, flags);
	if (n > s->mine.ring_size / 2)
		n = s->mine.ring_size / 2;
	xvm_sock_put(s);
	pfd = (struct pollfd){.fd = in, .events = POLLIN};
	if (dontwait && REAL(poll)(&pfd, 1, 0) == 0)
		return xvm_result(-EAGAIN);
	pfd = (struct pollfd){.fd = out, .events = POLLOUT};
	r = poll(&pfd, 1, dontwait || (fcntl(out, F_GETFL) & O_NONBLOCK) ? 0 : -1);
	if (r == 0)
		errno = EAGAIN;
	if (r <= 0)
		return -1;
	/* An error, before anything is taken out of the pipe. */
	if (send(out, "", 0, 0) < 0)
		return -1;
	r = REAL(read)(in, buf, n);
	for (done = 0; done < r; done += w) {
		w = send(out, buf + done, (size_t)(r - done), 0);
		/* It is out of the pipe: neither a signal nor a full socket may end this. */
		if (w < 0 && errno == EAGAIN)
			poll(&pfd, 1, -1);
		else if (w < 0 && errno != EINTR)
			return done ? done : -1;
		if (w < 0)
			w = 0;
	}
	return r;
}

XVM_WRAP int ioctl(int fd, unsigned long req, ...)
{
	struct xvm_sock *s;
	int n, r;
	va_list ap;
	void *arg;

	va_start(ap, req);
	arg = va_arg(ap, void *);
	va_end(ap);
	/* SIOCOUTQ, what the other end's kernel has not acknowledged, is of pads on the ring: none.
	 */
	if ((req != FIONREAD && req != FIONBIO && req != FIOASYNC && req != SIOCATMARK) ||
	    !(s = xvm_sock_get(fd)))
		return REAL(ioctl)(fd, req, arg);
	if (req == FIOASYNC || req == SIOCATMARK) {
		if (req == FIOASYNC) /* no signal would come */
			xvm_sock_never(s, XVM_R_UNSUPPORTED);
		else if (xvm_sock_on(s))
			xvm_rx_pending(s, fd); /* takes pads that lie before the mark */
		xvm_sock_put(s);
		return REAL(ioctl)(fd, req, arg);
	}
	if (req == FIONBIO) {
		r = REAL(ioctl)(fd, req, arg);
		if (r == 0 && *(int *)arg)
			atomic_fetch_or(&s->ep->flags, XVM_EPF_NONBLOCK);
		else if (r == 0)
			atomic_fetch_and(&s->ep->flags, ~XVM_EPF_NONBLOCK);
		xvm_sock_put(s);
		return r;
	}
	if (!xvm_sock_on(s)) {
		xvm_sock_put(s);
		return REAL(ioctl)(fd, req, arg);
	}
	n = (int)xvm_rx_pending(s, fd);
	r = xvm_user_copy(arg, &n, sizeof(n));
	xvm_sock_put(s);
	if (r < 0)
		return xvm_result(-EFAULT);
	return 0;
}
