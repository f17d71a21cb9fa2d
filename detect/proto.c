/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on the wire. Runs inside signal handlers of strangers: no malloc, no stdio, no errno. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "detect/proto.h"
#include "detect/raw.h"

/* Room for just XVM_PROTO_FDS: the kernel then drops any more, and says so. */
union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(XVM_PROTO_FDS * sizeof(int))];
};

int xvm_proto_send(int sock, const struct xvm_msg *m, const int *fds, int n)
{
	struct iovec iov = {.iov_base = (void *)m, .iov_len = sizeof(*m)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union control ctl;
	struct cmsghdr *c;
	long ret;

	if (n < 0 || n > XVM_PROTO_FDS)
		return -EINVAL;
	if (n) {
		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	do {
		ret = xvm_raw(SYS_sendmsg, sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL, 0);
	} while (ret == -EINTR);
	if (ret < 0)
		return (int)ret;
	return ret == (long)sizeof(*m) ? 0 : -EPROTO;
}

static void take_fds(struct msghdr *mh, int *fds, int *n)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		int *from = (int *)CMSG_DATA(c);
		size_t i, count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			if (*n < XVM_PROTO_FDS)
				fds[(*n)++] = from[i];
			else
				xvm_raw(SYS_close, from[i], 0, 0, 0);
		}
	}
}

static void drop_fds(int *fds, int *n)
{
	while (*n > 0) {
		xvm_raw(SYS_close, fds[--*n], 0, 0, 0);
		fds[*n] = -1;
	}
}

int xvm_proto_recv(int sock, struct xvm_msg *m, int *fds, int flags)
{
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union control ctl;
	int i, n = 0;
	long ret;

	for (i = 0; i < XVM_PROTO_FDS; i++)
		fds[i] = -1;
	mh.msg_control = ctl.buf;
	mh.msg_controllen = sizeof(ctl.buf);
	do {
		ret = xvm_raw(SYS_recvmsg, sock, &mh, flags | MSG_CMSG_CLOEXEC, 0);
	} while (ret == -EINTR);
	if (ret < 0)
		return (int)ret;
	take_fds(&mh, fds, &n);
	/*
	 * Some descriptors were lost: too many were sent, or the table of this process is full.
	 * The message itself is whole, and says which endpoint it was about.
	 */
	if (mh.msg_flags & MSG_CTRUNC)
		drop_fds(fds, &n);
	if (ret != (long)sizeof(*m) || (mh.msg_flags & MSG_TRUNC)) {
		drop_fds(fds, &n);
		return ret ? -EPROTO : -EPIPE;
	}
	m->nfds = n;
	m->text[sizeof(m->text) - 1] = 0;
	m->row.comm[sizeof(m->row.comm) - 1] = 0;
	return 0;
}
