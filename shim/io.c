/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data calls. All have the same shape: a descriptor that is not tracked goes to libc at once;
 * one that is tracked but not paired is counted and goes to the kernel as it came; a paired one
 * becomes a struct xvm_io. errno is set here and nowhere deeper.
 */
#include <limits.h>
#include <pthread.h>

#include "shim/fault.h"
#include "shim/inside.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"

#define CMSG_COMPAT ((int)(1u << 31)) /* the kernel's own; of interest where there is a message */

/* Linux moves at most this many bytes in one call. */
#define RW_MAX (INT_MAX & ~4095)

#define ELSEWHERE_CALLS 4096

/* xvm_offer_engage(), at less cost where the peer is elsewhere and nobody has come here since. Of a
 * daemon that was killed the table says nothing more: so there it is looked for now and then. */
static bool engage(struct xvm_sock *s, int fd, bool rx)
{
	const struct xvm_shm_table *t = atomic_load_explicit(&xvm_link_table, memory_order_relaxed);
	uint32_t calls;

	if (t && atomic_load_explicit(&s->ep->reason, memory_order_relaxed) == XVM_R_NOT_RESIDENT &&
	    atomic_load_explicit(&s->ep->state, memory_order_relaxed) == XVM_EP_CANDIDATE &&
	    xvm_link_version(t) == atomic_load_explicit(&s->res_seq, memory_order_relaxed)) {
		calls = atomic_load_explicit(&s->ep->calls, memory_order_relaxed);
		atomic_store_explicit(&s->ep->calls, calls + 4, memory_order_relaxed);
		if (__builtin_expect(calls / 4 % ELSEWHERE_CALLS == 0, 0))
			xvm_link_look();
		xvm_link_poll();
		return xvm_sock_on(s);
	}
	return xvm_offer_engage(s, fd, rx);
}

/* It is not on the ring, or was not. Apart, as the others have no use for so many registers. */
static __attribute__((noinline)) struct xvm_sock *claim_tcp(struct xvm_sock *s, int fd, bool rx,
							    bool told, struct xvm_counted *counted)
{
	if (told) {
		atomic_fetch_add(xvm_inside_told(s, rx), 1); /* the ring is others' (holders.c) */
	} else if (engage(s, fd, rx)) {
		xvm_inside_back(s, rx);
		return s;
	}
	counted->s = s;
	counted->rx = rx;
	return NULL;
}

/* R1, S2: counted from here to xvm_io_unclaim(). */
struct xvm_sock *xvm_io_claim(int fd, bool rx, struct xvm_counted *counted)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);
	struct xvm_sock *s;
	bool told;

	counted->s = NULL;
	if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_SOCK)
		return NULL;
	/* As the kernel's call would be, while nothing is held yet. */
	pthread_testcancel();
	counted->forks = xvm_forks;
	s = xvm_inside_enter(fd, rx, &told);
	if (!s || (told && xvm_sock_on(s)))
		return s;
	return claim_tcp(s, fd, rx, told, counted);
}

/*
 * recv() in the kernel says EPIPE (Linux 6.7 and later) if the connection is dissolved under it.
 * xvmd has done that if the other end's machine has died: what it says before it does so is there
 * by now.
 */
static int dissolved(struct xvm_sock *s)
{
	xvm_link_poll();
	return atomic_load(&s->ep->flags) & XVM_EPF_PEER_DEAD ? ECONNRESET : EPIPE;
}

/* For xvm ss. Where nobody else of the process is inside, it need not be atomic. */
static void tally(_Atomic uint64_t *sum, uint64_t n, uint64_t users)
{
	if ((users & XVM_FILE_USERS) > 2)
		atomic_fetch_add_explicit(sum, n, memory_order_relaxed);
	else
		atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + n,
				      memory_order_relaxed);
}

ssize_t xvm_io_unclaim(struct xvm_counted *counted, ssize_t r)
{
	struct xvm_sock *s = counted->s;
	bool rx;

	if (!s)
		return r;
	rx = counted->rx;
	counted->s = NULL;
	if (r < 0 && rx && errno == EPIPE)
		errno = dissolved(s);
	if (r > 0)
		tally(rx ? &s->ep->n_rx_tcp : &s->ep->n_tx_tcp, (uint64_t)r,
		      atomic_load_explicit(&s->file.users, memory_order_relaxed));
	if (__builtin_expect(counted->forks == xvm_forks, 1))
		xvm_inside_leave(s, rx);
	else
		xvm_sock_put(s);
	return r;
}

/* A socket that is put however its scope is left. */
static void put(struct xvm_sock **s)
{
	xvm_sock_put(*s);
}

/* Bytes in all, or a negative errno. More than RW_MAX: the kernel will cut them. */
static ssize_t measure(const struct iovec *iov, size_t n)
{
	size_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t len = iov[i].iov_len;
		uintptr_t at = (uintptr_t)iov[i].iov_base;

		if (len > SSIZE_MAX)
			return -EINVAL;
		if (len > RW_MAX)
			len = RW_MAX;
		if (xvm_user_wild(at, at + len))
			return -EFAULT;
		sum += len;
	}
	return (ssize_t)sum;
}

/* With buffers of RW_MAX in all. */
static __attribute__((noinline)) ssize_t move_cut(struct xvm_sock *s, int fd, bool rx,
						  struct xvm_io *io)
{
	struct iovec cut[IOV_MAX];
	size_t n = 0;

	for (io->left = 0; io->left < RW_MAX; io->left += cut[n++].iov_len) {
		cut[n] = io->iov[n];
		if (cut[n].iov_len > RW_MAX - io->left)
			cut[n].iov_len = RW_MAX - io->left;
	}
	io->iov = cut;
	io->iovcnt = n;
	return rx ? xvm_rx(s, fd, io) : xvm_tx(s, fd, io);
}

/*
 * The call on a paired socket, from one buffer or from many. Puts s. file: one that files know as
 * well, for which the kernel does not ask the socket for no bytes.
 */
static ssize_t move(struct xvm_sock *s, int fd, bool rx, bool file, struct iovec *iov, size_t n,
		    struct msghdr *msg, int flags)
{
	struct xvm_sock *held __attribute__((cleanup(put))) = s;
	struct xvm_io io = {.iov = iov, .iovcnt = n, .msg = msg, .flags = flags};
	ssize_t r = measure(iov, n);

	if (r < 0 || (r == 0 && file))
		return xvm_result(r);
	if (!rx && (flags & MSG_FASTOPEN)) /* refused, as there is a connection */
		return REAL(send)(fd, "", 0, flags);
	if (r > RW_MAX)
		return xvm_result(move_cut(held, fd, rx, &io));
	io.left = (size_t)r;
	return xvm_result(rx ? xvm_rx(held, fd, &io) : xvm_tx(held, fd, &io));
}

static ssize_t move1(struct xvm_sock *s, int fd, bool rx, const void *buf, size_t n, int flags)
{
	struct xvm_sock *held __attribute__((cleanup(put))) = s;
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = n < RW_MAX ? n : RW_MAX};
	struct xvm_io io = {
		.iov = &iov, .iovcnt = 1, .flags = flags & ~CMSG_COMPAT, .left = iov.iov_len};

	if (xvm_user_wild((uintptr_t)buf, (uintptr_t)buf + iov.iov_len))
		return xvm_result(-EFAULT);
	if (!rx && (flags & MSG_FASTOPEN)) /* refused, as there is a connection */
		return REAL(send)(fd, "", 0, flags);
	return xvm_result(rx ? xvm_rx(held, fd, &io) : xvm_tx(held, fd, &io));
}

static ssize_t refuse(struct xvm_sock *s, int err)
{
	xvm_sock_put(s);
	return xvm_result(err);
}

/* read() and write(): the kernel takes n for signed. */
static ssize_t move_file(struct xvm_sock *s, int fd, bool rx, const void *buf, size_t n)
{
	if (n > SSIZE_MAX)
		return refuse(s, -EINVAL);
	/* Of no bytes, read() returns at once where recv() waits. */
	if (n == 0 && rx)
		return refuse(s, 0);
	return move1(s, fd, rx, buf, n, 0);
}

/* iov is the caller's and stays as it is: struct xvm_io only walks along it. */
static ssize_t movev(struct xvm_sock *s, int fd, bool rx, const struct iovec *iov, int n, int flags)
{
	if (n < 0 || n > IOV_MAX)
		return refuse(s, -EINVAL);
	if (xvm_user_readable(iov, (size_t)n * sizeof(*iov)) < 0)
		return refuse(s, -EFAULT);
	return move(s, fd, rx, true, (struct iovec *)iov, (size_t)n, NULL, flags);
}

/* *mh: a copy of the caller's, as the kernel makes one. */
static ssize_t movemsg(struct xvm_sock *s, int fd, bool rx, const struct msghdr *msg,
		       struct msghdr *mh, int flags)
{
	if (flags & CMSG_COMPAT)
		return refuse(s, -EINVAL);
	if (xvm_user_copy(mh, msg, sizeof(*mh)) < 0)
		return refuse(s, -EFAULT);
	if (mh->msg_name && (int)mh->msg_namelen < 0)
		return refuse(s, -EINVAL);
	if (mh->msg_iovlen > IOV_MAX)
		return refuse(s, -EMSGSIZE);
	if (xvm_user_readable(mh->msg_iov, mh->msg_iovlen * sizeof(struct iovec)) < 0)
		return refuse(s, -EFAULT);
	return move(s, fd, rx, false, mh->msg_iov, mh->msg_iovlen, mh, flags);
}

/* What the kernel writes of a message that was received. */
static int give_back(struct msghdr *msg, const struct msghdr *mh)
{
	if ((mh->msg_name &&
	     xvm_user_copy(&msg->msg_namelen, &mh->msg_namelen, sizeof(mh->msg_namelen)) < 0) ||
	    xvm_user_copy(&msg->msg_flags, &mh->msg_flags, sizeof(mh->msg_flags)) < 0 ||
	    xvm_user_copy(&msg->msg_controllen, &mh->msg_controllen, sizeof(mh->msg_controllen)) <
		    0)
		return -EFAULT;
	return 0;
}

/* A connected stream names nobody. */
static int no_name(socklen_t *len)
{
	socklen_t n;

	if (xvm_user_copy(&n, len, sizeof(n)) < 0)
		return -EFAULT;
	if ((int)n < 0)
		return -EINVAL;
	n = 0;
	return xvm_user_copy(len, &n, sizeof(n));
}

/* ours: on a paired socket; theirs: what libc does. */
#define DATA_CALL(rx, ours, theirs)                                                                \
	do {                                                                                       \
		struct xvm_counted counted XVM_CLEANUP;                                            \
		struct xvm_sock *s = xvm_io_claim(fd, rx, &counted);                               \
                                                                                                   \
		if (s)                                                                             \
			return ours;                                                               \
		return xvm_io_unclaim(&counted, theirs);                                           \
	} while (0)

XVM_WRAP ssize_t read(int fd, void *buf, size_t n)
{
	DATA_CALL(true, move_file(s, fd, true, buf, n), REAL(read)(fd, buf, n));
}

XVM_WRAP ssize_t __read(int fd, void *buf, size_t n)
{
	return read(fd, buf, n);
}

XVM_WRAP ssize_t __read_chk(int fd, void *buf, size_t n, size_t size)
{
	if (n > size)
		__chk_fail();
	return read(fd, buf, n);
}

XVM_WRAP ssize_t recv(int fd, void *buf, size_t n, int flags)
{
	DATA_CALL(true, move1(s, fd, true, buf, n, flags), REAL(recv)(fd, buf, n, flags));
}

XVM_WRAP ssize_t __recv(int fd, void *buf, size_t n, int flags)
{
	return recv(fd, buf, n, flags);
}

XVM_WRAP ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags)
{
	if (n > size)
		__chk_fail();
	return recv(fd, buf, n, flags);
}

XVM_WRAP ssize_t recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *sa,
			  socklen_t *len)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s = xvm_io_claim(fd, true, &counted);
	ssize_t r;
	int err;

	if (!s)
		return xvm_io_unclaim(&counted, REAL(recvfrom)(fd, buf, n, flags, sa, len));
	r = move1(s, fd, true, buf, n, flags);
	if (r < 0 || !sa)
		return r;
	err = no_name(len);
	return err < 0 ? xvm_result(err) : r;
}

XVM_WRAP ssize_t __recvfrom_chk(int fd, void *buf, size_t n, size_t size, int flags,
				struct sockaddr *sa, socklen_t *len)
{
	if (n > size)
		__chk_fail();
	return recvfrom(fd, buf, n, flags, sa, len);
}

XVM_WRAP ssize_t readv(int fd, const struct iovec *iov, int n)
{
	DATA_CALL(true, movev(s, fd, true, iov, n, 0), REAL(readv)(fd, iov, n));
}

/* Descriptors in a message: ours to track where they arrive, off the ring where they leave. */
static void each_right(const struct msghdr *msg, void (*fn)(int fd))
{
	struct msghdr *mh = (struct msghdr *)msg;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			fn(fd);
		}
	}
}

/* The kernel refuses more than net.core.optmem_max. */
static bool has_control(const struct msghdr *msg)
{
	return xvm_user_there(msg, sizeof(*msg)) && msg->msg_control && msg->msg_controllen &&
	       msg->msg_controllen < (1 << 24) &&
	       xvm_user_there(msg->msg_control, msg->msg_controllen);
}

static void arrived(int fd)
{
	xvm_fdtab_clear(fd); /* the number was free for the kernel to give */
	xvm_adopt(fd);
}

static void leaving(int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);

	if (!s)
		return;
	xvm_hand_over(s, fd, XVM_R_SHARED);
	xvm_sock_put(s);
}

ssize_t xvm_io_recvmsg(struct xvm_sock *s, int fd, struct msghdr *msg, int flags)
{
	struct msghdr mh;
	ssize_t r = movemsg(s, fd, true, msg, &mh, flags);

	return r >= 0 && give_back(msg, &mh) < 0 ? xvm_result(-EFAULT) : r;
}

void xvm_io_arrived(const struct msghdr *msg)
{
	int e = errno;

	if (msg->msg_control && msg->msg_controllen && xvm_fdtab)
		each_right(msg, arrived);
	errno = e;
}

XVM_WRAP ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s = xvm_io_claim(fd, true, &counted);
	ssize_t r;

	if (s)
		return xvm_io_recvmsg(s, fd, msg, flags);
	if (counted.s)
		return xvm_io_unclaim(&counted, REAL(recvmsg)(fd, msg, flags));
	r = REAL(recvmsg)(fd, msg, flags);
	if (r >= 0)
		xvm_io_arrived(msg);
	return r;
}

/* A byte of urgent data is counted by its sender and, out of line, not by its receiver. Said also
 * before the socket is paired: the other end may have consented by then. */
void xvm_io_urgent(int fd, int flags)
{
	struct xvm_sock *s = flags & MSG_OOB ? xvm_sock_get(fd) : NULL;

	if (!s)
		return;
	xvm_sock_never(s, XVM_R_UNSUPPORTED);
	xvm_sock_put(s);
}

XVM_WRAP ssize_t write(int fd, const void *buf, size_t n)
{
	DATA_CALL(false, move_file(s, fd, false, buf, n), REAL(write)(fd, buf, n));
}

XVM_WRAP ssize_t __write(int fd, const void *buf, size_t n)
{
	return write(fd, buf, n);
}

XVM_WRAP ssize_t send(int fd, const void *buf, size_t n, int flags)
{
	xvm_io_urgent(fd, flags);
	DATA_CALL(false, move1(s, fd, false, buf, n, flags), REAL(send)(fd, buf, n, flags));
}

XVM_WRAP ssize_t __send(int fd, const void *buf, size_t n, int flags)
{
	return send(fd, buf, n, flags);
}

XVM_WRAP ssize_t sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *sa,
			socklen_t len)
{
	xvm_io_urgent(fd, flags);
	/* A connected stream ignores the address, unless it cannot be one. */
	DATA_CALL(false,
		  sa && len > sizeof(struct sockaddr_storage) ? refuse(s, -EINVAL)
							      : move1(s, fd, false, buf, n, flags),
		  REAL(sendto)(fd, buf, n, flags, sa, len));
}

XVM_WRAP ssize_t writev(int fd, const struct iovec *iov, int n)
{
	DATA_CALL(false, movev(s, fd, false, iov, n, 0), REAL(writev)(fd, iov, n));
}

ssize_t xvm_io_sendmsg(struct xvm_sock *s, int fd, const struct msghdr *msg, int flags)
{
	struct msghdr mh;

	return movemsg(s, fd, false, msg, &mh, flags);
}

void xvm_io_leaving(const struct msghdr *msg)
{
	if (xvm_fdtab && has_control(msg))
		each_right(msg, leaving);
}

XVM_WRAP ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s;

	xvm_io_urgent(fd, flags);
	s = xvm_io_claim(fd, false, &counted);
	if (s)
		return xvm_io_sendmsg(s, fd, msg, flags);
	if (!counted.s)
		xvm_io_leaving(msg);
	return xvm_io_unclaim(&counted, REAL(sendmsg)(fd, msg, flags));
}

/* At no position, these are readv and writev with flags; at one, the kernel refuses a socket. */
static int flags_of(int flags)
{
	return flags & RWF_NOWAIT ? MSG_DONTWAIT : 0;
}

static bool plain_flags(int flags)
{
	return !(flags & ~(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT));
}

XVM_WRAP ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t off, int flags)
{
	if (off != -1 || !plain_flags(flags))
		return REAL(preadv64v2)(fd, iov, n, off, flags);
	DATA_CALL(true, movev(s, fd, true, iov, n, flags_of(flags)),
		  REAL(preadv64v2)(fd, iov, n, off, flags));
}

XVM_WRAP ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	return preadv64v2(fd, iov, n, off, flags);
}

XVM_WRAP ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t off, int flags)
{
	if (off != -1 || !plain_flags(flags))
		return REAL(pwritev64v2)(fd, iov, n, off, flags);
	DATA_CALL(false, movev(s, fd, false, iov, n, flags_of(flags)),
		  REAL(pwritev64v2)(fd, iov, n, off, flags));
}

XVM_WRAP ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	return pwritev64v2(fd, iov, n, off, flags);
}
