/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on the wire. Runs inside signal handlers of strangers: no malloc, no stdio, no errno. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "detect/proto.h"
#include "transport/sys.h"

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
		ret = xvm_sys(SYS_sendmsg, sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
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
				xvm_sys(SYS_close, from[i]);
		}
	}
}

static void drop_fds(int *fds, int *n)
{
	while (*n > 0) {
		xvm_sys(SYS_close, fds[--*n]);
		fds[*n] = -1;
	}
}

int xvm_proto_take(int sock, struct xvm_msg *m, int *fds, int *n, int flags)
{
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union control ctl;
	long ret;
	int i;

	*n = 0;
	for (i = 0; i < XVM_PROTO_FDS; i++)
		fds[i] = -1;
	mh.msg_control = ctl.buf;
	mh.msg_controllen = sizeof(ctl.buf);
	do {
		ret = xvm_sys(SYS_recvmsg, sock, &mh, flags | MSG_CMSG_CLOEXEC);
	} while (ret == -EINTR);
	if (ret < 0)
		return (int)ret;
	take_fds(&mh, fds, n);
	if (ret != (long)sizeof(*m) || (mh.msg_flags & MSG_TRUNC))
		return ret ? -EPROTO : -EPIPE;
	/*
	 * Some descriptors were lost: too many were sent, or the table of this process is full.
	 * The message itself is whole, and says which endpoint it was about.
	 */
	m->nfds = mh.msg_flags & MSG_CTRUNC ? 0 : *n;
	m->text[sizeof(m->text) - 1] = 0;
	m->row.comm[sizeof(m->row.comm) - 1] = 0;
	return 0;
}

int xvm_proto_recv(int sock, struct xvm_msg *m, int *fds, int flags)
{
	int n, ret = xvm_proto_take(sock, m, fds, &n, flags);

	if (ret || m->nfds == 0)
		drop_fds(fds, &n);
	return ret;
}
