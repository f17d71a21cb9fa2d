/* SPDX-License-Identifier: Apache-2.0 */
/* FILEs, descriptors that are passed on, other files than sockets, calls that sockets refuse. */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "test/diff/actor.h"
#include "test/diff/via.h"
#include "transport/sys.h"

#define MOST 4096

static FILE *files[HIDDEN];

static FILE **file_of(int fd)
{
	if (fd < 0 || fd >= HIDDEN)
		die("no such file");
	return &files[fd];
}

/* fdopen FD, then for the FD: fwrite, fread, fclose */
static void op_fdopen(struct call *c)
{
	int fd = fd_of(arg(c, 1));
	FILE *f = fdopen(fd, "r+");

	if (f)
		*file_of(fd) = f;
	result(c, f ? fileno(f) : -1);
}

static void op_fwrite(struct call *c)
{
	FILE *f = *file_of(fd_of(arg(c, 1)));
	size_t n = (size_t)number(arg(c, 2), 0);
	char buf[MOST];

	if (n > sizeof(buf) || !f)
		die("fwrite");
	pattern(buf, n);
	begin(c);
	n = fwrite(buf, 1, n, f);
	result(c, fflush(f) ? -1 : (long)n);
}

static void op_fread(struct call *c)
{
	FILE *f = *file_of(fd_of(arg(c, 1)));
	size_t n = (size_t)number(arg(c, 2), 0);
	char buf[MOST];

	if (n > sizeof(buf) || !f)
		die("fread");
	begin(c);
	n = fread(buf, 1, n, f);
	result(c, (long)n);
	tell(c, " %08x", hash_of(buf, n));
}

static void op_fclose(struct call *c)
{
	FILE **f = file_of(fd_of(arg(c, 1)));

	if (!*f)
		die("fclose");
	result(c, fclose(*f));
	*f = NULL;
}

static void op_dprintf(struct call *c)
{
	begin(c);
	result(c, dprintf(fd_of(arg(c, 1)), "%0*d", (int)number(arg(c, 2), 1), 7));
}

/* ---- other files ---- */

/* NAME=unix OTHER: two that are connected */
static void op_unix(struct call *c)
{
	int p[2] = {-1, -1};

	result(c, socketpair(AF_UNIX, SOCK_STREAM, 0, p) < 0 ? -1 : p[0]);
	if (c->r < 0)
		return;
	tell(c, " %d", p[1]);
	set_name(arg(c, 1), p[1]);
}

/* At its end for ever, as the JVM's. */
static void op_marker(struct call *c)
{
	int p[2] = {-1, -1};

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, p) < 0)
		die("socketpair");
	close(p[1]);
	result(c, p[0]);
}

/* opened HOW: a descriptor of another kind */
static void op_opened(struct call *c)
{
	const char *how = arg(c, 1);
	int p[2] = {-1, -1};

	if (!strcmp(how, "file"))
		result(c, open("/dev/null", O_RDWR));
	else if (!strcmp(how, "eventfd"))
		result(c, eventfd(0, EFD_NONBLOCK));
	else if (!strcmp(how, "memfd"))
		result(c, memfd_create("opened", 0));
	else if (!strcmp(how, "pipe"))
		result(c, pipe(p) < 0 ? -1 : p[0]);
	else
		die(how);
}

/* ---- passing ---- */

union control {
	char space[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

/* pass FD THROUGH */
static void op_pass(struct call *c)
{
	int fd = fd_of(arg(c, 1));
	union control u;
	char byte = 'x';
	struct iovec v = {&byte, 1};
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	memset(&u, 0, sizeof(u));
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	begin(c);
	result(c, via_sendmsg(fd_of(arg(c, 2)), &m, 0));
}

/* NAME=take THROUGH [CLOEXEC] */
static void op_take(struct call *c)
{
	union control u;
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	struct cmsghdr *h;
	int fd = -1;

	begin(c);
	if (via_recvmsg(fd_of(arg(c, 1)), &m,
			!strcmp(arg(c, 2), "CLOEXEC") ? MSG_CMSG_CLOEXEC : 0) >= 0) {
		h = CMSG_FIRSTHDR(&m);
		errno = ENOMSG;
		if (h && h->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(h), sizeof(fd));
	}
	result(c, fd);
}

/* NAME=pidfd_getfd FD: our parent's */
static void op_pidfd_getfd(struct call *c)
{
	int p = (int)xvm_sys(SYS_pidfd_open, getppid(), 0), fd = fd_of(arg(c, 1)), e;

	begin(c);
	fd = via == VIA_RAW ? (int)syscall(SYS_pidfd_getfd, p, fd, 0) : pidfd_getfd(p, fd, 0);
	e = errno;
	xvm_sys(SYS_close, p);
	errno = e;
	result(c, fd);
}

/* ---- what sockets refuse ---- */

static void op_lseek(struct call *c)
{
	result(c, lseek(fd_of(arg(c, 1)), 0, SEEK_CUR));
}

/* at CALL FD: with an offset, 0 */
static void op_at(struct call *c)
{
	const char *what = arg(c, 1);
	int fd = fd_of(arg(c, 2));
	char b[8] = "";
	struct iovec v = {b, sizeof(b)};

	if (!strcmp(what, "pread"))
		result(c, pread(fd, b, sizeof(b), 0));
	else if (!strcmp(what, "pread64"))
		result(c, pread64(fd, b, sizeof(b), 0));
	else if (!strcmp(what, "pwrite"))
		result(c, pwrite(fd, b, sizeof(b), 0));
	else if (!strcmp(what, "pwrite64"))
		result(c, pwrite64(fd, b, sizeof(b), 0));
	else if (!strcmp(what, "preadv"))
		result(c, preadv(fd, &v, 1, 0));
	else if (!strcmp(what, "preadv64"))
		result(c, preadv64(fd, &v, 1, 0));
	else if (!strcmp(what, "pwritev"))
		result(c, pwritev(fd, &v, 1, 0));
	else if (!strcmp(what, "pwritev64"))
		result(c, pwritev64(fd, &v, 1, 0));
	else if (!strcmp(what, "preadv2"))
		result(c, via_preadv2(fd, &v, 1, 0, 0));
	else if (!strcmp(what, "pwritev2"))
		result(c, via_pwritev2(fd, &v, 1, 0, 0));
	else
		die(what);
}

/* tee FD, vmsplice FD, copy_file_range FD */
static void op_tee(struct call *c)
{
	result(c, tee(fd_of(arg(c, 1)), pipe_in[1], 5, 0));
}

static void op_vmsplice(struct call *c)
{
	char b[8] = "";
	struct iovec v = {b, sizeof(b)};

	result(c, vmsplice(fd_of(arg(c, 1)), &v, 1, 0));
}

static void op_copy_file_range(struct call *c)
{
	result(c, copy_file_range(file_fd, NULL, fd_of(arg(c, 1)), NULL, 5, 0));
}

const struct op file_ops[] = {
	{"fdopen", op_fdopen},
	{"fwrite", op_fwrite},
	{"fread", op_fread},
	{"fclose", op_fclose},
	{"dprintf", op_dprintf},
	{"unix", op_unix},
	{"marker", op_marker},
	{"opened", op_opened},
	{"pass", op_pass},
	{"take", op_take},
	{"pidfd_getfd", op_pidfd_getfd},
	{"lseek", op_lseek},
	{"at", op_at},
	{"tee", op_tee},
	{"vmsplice", op_vmsplice},
	{"copy_file_range", op_copy_file_range},
	{NULL, NULL},
};
