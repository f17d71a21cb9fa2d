/* SPDX-License-Identifier: Apache-2.0 */
/* Data by other means: sendfile and splice through a buffer of ours, ioctl's byte counts. */
#include <linux/sockios.h>
#include <stdarg.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/stream.h"

#define CHUNK (32 << 10) /* on the stack of whoever calls */

/*
 * Read at off (or at the file's own position), send, and set the position to what was sent.
 * Reads of a regular file do not wait; the socket's mode decides whether the send does.
 */
static ssize_t send_file(int out, int in, off64_t *off, size_t n)
{
	char buf[CHUNK];
	ssize_t done = 0, r, w;
	off64_t pos;

	if (off && xvm_user_copy(&pos, off, sizeof(pos)) < 0) {
		errno = EFAULT;
		return -1;
	}
	if (!off)
		pos = lseek64(in, 0, SEEK_CUR);
	if (pos < 0)
		return -1;
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
	else if (xvm_user_copy(off, &pos, sizeof(pos)) < 0) {
		errno = EFAULT;
		return -1;
	}
	return done;
}

XVM_WRAP ssize_t sendfile64(int out, int in, off64_t *off, size_t n)
{
	struct xvm_sock *counted, *s = xvm_io_claim(out, false, &counted);

	if (!s)
		return xvm_io_unclaim(counted, false, REAL(sendfile64)(out, in, off, n));
	xvm_sock_put(s);
	if (off && lseek64(in, 0, SEEK_CUR) < 0)
		return REAL(sendfile64)(out, in, off, n); /* the kernel's own error */
	return send_file(out, in, off, n);
}

XVM_WRAP ssize_t sendfile(int out, int in, off_t *off, size_t n)
{
	static_assert(sizeof(off_t) == sizeof(off64_t), "64-bit only");
	return sendfile64(out, in, (off64_t *)off, n);
}

/* A pipe on one side, a paired socket on the other: through a buffer, never more than fits. */
XVM_WRAP ssize_t splice(int in, off64_t *ioff, int out, off64_t *ooff, size_t n, unsigned flags)
{
	char buf[16 << 10];
	struct xvm_sock *in_counted, *out_counted;
	struct xvm_sock *from = xvm_io_claim(in, true, &in_counted);
	struct xvm_sock *to = xvm_io_claim(out, false, &out_counted);
	bool dontwait = flags & SPLICE_F_NONBLOCK;
	struct pollfd pfd;
	ssize_t r, w, done;

	if (!from && !to) {
		r = REAL(splice)(in, ioff, out, ooff, n, flags);
		xvm_io_unclaim(in_counted, true, r);
		return xvm_io_unclaim(out_counted, false, r);
	}
	/* One side is a pipe, which is not tracked. */
	if (from)
		xvm_sock_put(from);
	if (to)
		xvm_sock_put(to);
	if (ioff || ooff) {
		errno = ESPIPE;
		return -1;
	}
	if (n == 0)
		return 0;
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
		r = recv(in, buf, n, 0); /* SPLICE_F_NONBLOCK is about the pipe */
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
	if (dontwait && REAL(poll)(&pfd, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	pfd = (struct pollfd){.fd = out, .events = POLLOUT};
	r = poll(&pfd, 1, dontwait || (fcntl(out, F_GETFL) & O_NONBLOCK) ? 0 : -1);
	if (r == 0)
		errno = EAGAIN;
	if (r <= 0)
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
	if ((req != FIONREAD && req != SIOCOUTQ && req != FIONBIO) || !(s = xvm_sock_get(fd)))
		return REAL(ioctl)(fd, req, arg);
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
	n = (int)(req == FIONREAD ? xvm_rx_pending(s, fd) : xvm_tx_pending(s, fd));
	r = xvm_user_copy(arg, &n, sizeof(n));
	xvm_sock_put(s);
	if (r < 0) {
		errno = EFAULT;
		return -1;
	}
	return 0;
}
