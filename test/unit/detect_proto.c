/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/client.h"

static int sv[2];

static void setup(void)
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
}

TestSuite(proto, .init = setup);

static int open_fds(void)
{
	int i, n = 0;

	for (i = 0; i < 1024; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return !fstat(a, &x) && !fstat(b, &y) && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

Test(proto, a_message_arrives_as_it_was_sent)
{
	struct xvm_msg m = {.type = XVM_MSG_OFFER,
			    .slot = 7,
			    .gen = 9,
			    .pid = -1,
			    .arg64 = 1ull << 40},
		       r;
	int fds[XVM_PROTO_FDS], send[2] = {memfd_create("a", 0), memfd_create("b", 0)};

	strcpy(m.text, "hello");
	cr_assert_eq(xvm_proto_send(sv[0], &m, send, 2), 0);
	cr_assert_eq(xvm_proto_recv(sv[1], &r, fds, 0), 0);
	cr_assert_eq(r.type, XVM_MSG_OFFER);
	cr_assert_eq(r.slot, 7);
	cr_assert_eq(r.gen, 9);
	cr_assert_eq(r.pid, -1);
	cr_assert_eq(r.arg64, 1ull << 40);
	cr_assert_str_eq(r.text, "hello");
	cr_assert_eq(r.nfds, 2);
	cr_assert(same_file(fds[0], send[0]));
	cr_assert(same_file(fds[1], send[1]));
	cr_assert_eq(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
	cr_assert_eq(fcntl(send[0], F_GETFD), 0, "the sender keeps its own");
}

Test(proto, without_descriptors)
{
	struct xvm_msg m = {.type = XVM_MSG_SS, .nfds = 77}, r;
	int fds[XVM_PROTO_FDS] = {5, 5};

	cr_assert_eq(xvm_proto_send(sv[0], &m, NULL, 0), 0);
	cr_assert_eq(xvm_proto_recv(sv[1], &r, fds, 0), 0);
	cr_assert_eq(r.nfds, 0, "what the sender says of it means nothing");
	cr_assert_eq(fds[0], -1);
	cr_assert_eq(fds[1], -1);
	cr_assert_eq(xvm_proto_send(sv[0], &m, NULL, 3), -EINVAL);
	cr_assert_eq(xvm_proto_send(sv[0], &m, NULL, -1), -EINVAL);
}

Test(proto, errors)
{
	struct xvm_msg m = {.type = XVM_MSG_SS};
	int fds[XVM_PROTO_FDS], i;

	cr_assert_eq(xvm_proto_recv(sv[1], &m, fds, MSG_DONTWAIT), -EAGAIN);
	for (i = 0; i < 100000 && !xvm_proto_send(sv[0], &m, NULL, 0); i++)
		;
	cr_assert_eq(xvm_proto_send(sv[0], &m, NULL, 0), -EAGAIN);
	while (!xvm_proto_recv(sv[1], &m, fds, MSG_DONTWAIT))
		i--;
	cr_assert_eq(i, 0, "as many came as were sent");
	close(sv[0]);
	cr_assert_eq(xvm_proto_recv(sv[1], &m, fds, 0), -EPIPE);
	/* SIGPIPE would kill the test. */
	cr_assert_eq(xvm_proto_send(sv[1], &m, NULL, 0), -EPIPE);
	cr_assert_eq(xvm_proto_recv(-1, &m, fds, 0), -EBADF);
}

static void send_raw(size_t len, int nfds)
{
	static char body[4096];
	char ctl[CMSG_SPACE(16 * sizeof(int))] = {0};
	struct iovec iov = {body, len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	int i;

	memset(body, 'x', sizeof(body));
	if (nfds) {
		mh.msg_control = ctl;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &sv[0], sizeof(int));
	}
	cr_assert_eq(sendmsg(sv[0], &mh, 0), (ssize_t)len);
}

Test(proto, packets_that_are_no_messages_leak_nothing)
{
	static const size_t len[] = {1, sizeof(struct xvm_msg) - 1, sizeof(struct xvm_msg) + 1,
				     4096};
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS], before = open_fds(), nfds;
	size_t i;

	for (i = 0; i < sizeof(len) / sizeof(len[0]); i++)
		for (nfds = 0; nfds < 8; nfds++) {
			send_raw(len[i], nfds);
			cr_assert_eq(xvm_proto_recv(sv[1], &m, fds, 0), -EPROTO);
			cr_assert_eq(fds[0], -1);
			cr_assert_eq(open_fds(), before);
		}
}

Test(proto, too_many_descriptors_are_none)
{
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS], before = open_fds();

	send_raw(sizeof(m), 5);
	cr_assert_eq(xvm_proto_recv(sv[1], &m, fds, 0), 0);
	cr_assert_eq(m.nfds, 0);
	cr_assert_eq(fds[0], -1);
	cr_assert_eq(open_fds(), before);
	cr_assert_eq(m.text[sizeof(m.text) - 1], 0);
	cr_assert_eq(m.row.comm[sizeof(m.row.comm) - 1], 0);
}

Test(proto, no_room_for_descriptors)
{
	struct xvm_msg m = {.type = XVM_MSG_PAIRED, .slot = 3};
	struct rlimit rl = {.rlim_max = 1024};
	int fds[XVM_PROTO_FDS], before, fd;

	cr_assert_eq(xvm_proto_send(sv[0], &m, sv, 2), 0);
	before = open_fds();
	/* One is free, two are needed. */
	fd = dup(0);
	close(fd);
	rl.rlim_cur = fd + 1;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &rl), 0);
	cr_assert_eq(xvm_proto_recv(sv[1], &m, fds, 0), 0);
	cr_assert_eq(m.slot, 3, "the message itself is not lost");
	cr_assert_eq(m.nfds, 0);
	rl.rlim_cur = 1024;
	setrlimit(RLIMIT_NOFILE, &rl);
	cr_assert_eq(open_fds(), before);
}

Test(proto, addresses)
{
	static const uint8_t v4[16] = {[10] = 0xff, [11] = 0xff, 10, 1, 2, 3};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(80)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(81)};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	uint8_t addr[16];
	uint16_t port;

	in.sin_addr.s_addr = htonl(0x0a010203);
	cr_assert_eq(xvm_client_addr((void *)&in, sizeof(in), addr, &port), 0);
	cr_assert_arr_eq(addr, v4, 16);
	cr_assert_eq(port, 80);
	memcpy(&in6.sin6_addr, v4, 16);
	cr_assert_eq(xvm_client_addr((void *)&in6, sizeof(in6), addr, &port), 0);
	cr_assert_arr_eq(addr, v4, 16);
	cr_assert_eq(port, 81);
	cr_assert_eq(xvm_client_addr((void *)&in6, 24, addr, &port), 0);
	cr_assert_eq(xvm_client_addr((void *)&in6, 23, addr, &port), -EAFNOSUPPORT);
	cr_assert_eq(xvm_client_addr((void *)&in, sizeof(in) - 1, addr, &port), -EAFNOSUPPORT);
	cr_assert_eq(xvm_client_addr((void *)&un, sizeof(un), addr, &port), -EAFNOSUPPORT);
	cr_assert_eq(xvm_client_addr((void *)&un, 0, addr, &port), -EAFNOSUPPORT);
}

Test(proto, reasons_have_names)
{
	cr_assert_str_eq(xvm_reason_name(XVM_R_NONE), "none");
	cr_assert_str_eq(xvm_reason_name(XVM_R_LIMIT), "limit");
	cr_assert_str_eq(xvm_reason_name(XVM_R_COUNT), "?");
	cr_assert_str_eq(xvm_reason_text(~0u), "?");
}

Test(proto, paths)
{
	char longpath[300];

	memset(longpath, 'x', sizeof(longpath));
	longpath[299] = 0;
	cr_assert_eq(xvm_client_connect(longpath), -ENAMETOOLONG);
	cr_assert_eq(xvm_client_connect("/nonexistent/sock"), -ENOENT);
	setenv("XVM_SOCKET", "/a/b", 1);
	cr_assert_str_eq(xvm_client_path(), "/a/b");
	setenv("XVM_SOCKET", "", 1);
	cr_assert_str_eq(xvm_client_path(), XVM_SOCKET_SYSTEM);
}

Test(proto, hello_to_nobody_ends)
{
	const struct xvm_shm_table *t;
	uint64_t mail;
	uint32_t id;

	cr_assert_eq(xvm_client_greet(sv[0], -1), 0);
	cr_assert_eq(xvm_client_welcome(sv[0], 20, &id, &mail, &t), -ETIMEDOUT);
	close(sv[1]);
	cr_assert(xvm_client_welcome(sv[0], 20, &id, &mail, &t) < 0);
	cr_assert(xvm_client_greet(sv[0], -1) < 0);
}

static int answer(uint32_t type, uint32_t arg, uint32_t arg2, int fd)
{
	struct xvm_msg m = {.type = type, .arg = arg, .arg2 = arg2};
	const struct xvm_shm_table *t;
	uint64_t mail;
	uint32_t id = 0;
	int ret;

	cr_assert_eq(xvm_proto_send(sv[1], &m, &fd, fd >= 0), 0);
	cr_assert_eq(xvm_client_greet(sv[0], -1), 0);
	ret = xvm_client_welcome(sv[0], 1000, &id, &mail, &t);
	if (ret == -EPROTONOSUPPORT)
		cr_assert_eq(id, arg);
	return ret;
}

Test(proto, a_late_welcome_is_one)
{
	struct xvm_msg m = {
		.type = XVM_MSG_WELCOME, .arg = XVM_PROTO_VERSION, .arg2 = 7, .arg64 = 3};
	const struct xvm_shm_table *t;
	uint64_t mail;
	uint32_t id;

	cr_assert_eq(xvm_client_greet(sv[0], -1), 0);
	cr_assert_eq(xvm_client_welcome(sv[0], 0, &id, &mail, &t), -ETIMEDOUT);
	cr_assert_eq(xvm_client_welcome(sv[0], 0, &id, &mail, &t), -ETIMEDOUT);
	cr_assert_eq(xvm_proto_send(sv[1], &m, NULL, 0), 0);
	cr_assert_eq(xvm_client_welcome(sv[0], 0, &id, &mail, &t), -EMFILE,
		     "it is seen, without its table");
}

Test(proto, welcomes_that_are_none)
{
	int plain = memfd_create("t", MFD_ALLOW_SEALING), sealed, before = open_fds();

	cr_assert_eq(answer(XVM_MSG_BAD_VERSION, 2, 0, -1), -EPROTONOSUPPORT);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 2, 0, plain), -EPROTONOSUPPORT);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, 0, -1), -EMFILE);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, XVM_CLIENTS_MAX, plain), -EPROTO);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, 0, plain), -EPROTO, "not sealed");
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, 0, 0), -EINVAL, "no memfd");
	sealed = memfd_create("t", MFD_ALLOW_SEALING);
	fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, 0, sealed), -EPROTO, "too short");
	cr_assert_eq(ftruncate(sealed, sizeof(struct xvm_shm_table)), 0);
	cr_assert_eq(answer(XVM_MSG_WELCOME, 1, 0, sealed), -EPROTO, "no table");
	close(sealed);
	cr_assert_eq(open_fds(), before);
}
