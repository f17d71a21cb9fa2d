/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a system call of libxvm.so's own comes to in the library that is built for this test. Those
 * that a kernel without memory or descriptors, or a sandbox, may refuse are numbered, those of each
 * kind, in the order in which a process and its forks make them; one fails, or all from one on.
 *
 *   XVM_FAULT_FILE  a file of sizeof(struct record) bytes: what is to fail, and what was called
 *
 * inject.py writes and reads it.
 */
#include "test/fault/hook.h"

#undef xvm_sys6
#define xvm_sys6 xvm_sys6_bare

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define CALLS 2048
#define LOSE_FDS 1000 /* instead of an errno: descriptors in a message are lost */

struct call {
	char kind[16], file[28];
	int32_t line;
};

struct record {
	char kind[16];		  /* of this kind */
	int32_t at, err;	  /* number at fails, from 1 on; 0: none does */
	int32_t on;		  /* and all that follow */
	_Atomic int32_t of_kind;  /* calls so far */
	_Atomic int32_t n, fired; /* calls of all kinds; that failed */
	struct call calls[CALLS];
};

static struct record none, *record;

static struct record *the_record(void)
{
	const char *path = getenv("XVM_FAULT_FILE");
	long fd, map = -1;

	if (record)
		return record;
	record = &none;
	fd = path ? xvm_sys(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
	if (fd >= 0) {
		map = xvm_sys(SYS_mmap, 0, sizeof(*record), PROT_READ | PROT_WRITE, MAP_SHARED, fd);
		xvm_sys(SYS_close, fd);
	}
	if (!xvm_sys_failed(map))
		record = (struct record *)map;
	return record;
}

static int domain(long fd)
{
	int v = -1;
	socklen_t len = sizeof(v);

	xvm_sys(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &v, &len);
	return v;
}

/* What may fail, by a name that inject.py has errnos for; NULL: what does not. */
static const char *kind_of(const char *file, long nr, long a, long b)
{
	switch (nr) {
	case SYS_mmap:
		return "mmap";
	case SYS_memfd_create:
		return "memfd_create";
	case SYS_eventfd2:
		return "eventfd";
	case SYS_socket:
		return "socket";
	case SYS_connect:
		return "connect";
	case SYS_sendmsg:
		return domain(a) == AF_UNIX ? "sendmsg" : NULL;
	case SYS_recvmsg:
		return domain(a) == AF_UNIX ? "recvmsg" : NULL;
	case SYS_ppoll:
		return strcmp(file, "client.c") ? NULL : "ppoll";
	case SYS_fcntl:
		return b == F_DUPFD_CLOEXEC ? "dup" : "fcntl";
	case SYS_fchmod:
	case SYS_ftruncate:
		return "ftruncate";
	case SYS_fstat:
	case SYS_fstatfs:
	case SYS_prlimit64:
		return "fstat";
	case SYS_getsockopt:
	case SYS_ioctl:
		return strcmp(file, "quiet.h") ? NULL : "getsockopt";
	case SYS_openat:
		return "open";
	case SYS_madvise:
		return "madvise";
	case SYS_epoll_ctl: /* elsewhere it is the application's */
		return b == EPOLL_CTL_ADD && !strcmp(file, "epset.c") ? "epoll_ctl" : NULL;
	case SYS_write: /* to an eventfd of the peer's: full */
		return strcmp(file, "link.c") ? NULL : "write";
	}
	return NULL;
}

static void lose_descriptors(struct msghdr *mh)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fds[16];

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || n > 16)
			continue;
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		for (size_t i = 0; i < n; i++)
			xvm_sys(SYS_close, fds[i]);
	}
	mh->msg_controllen = 0;
	mh->msg_flags |= MSG_CTRUNC;
}

long xvm_test_hook(const char *file, int line, long nr, long a, long b, long c, long d, long e,
		   long f)
{
	struct record *rec = the_record();
	const char *base = strrchr(file, '/'), *kind;
	int32_t n;
	long r;

	base = base ? base + 1 : file;
	kind = rec == &none ? NULL : kind_of(base, nr, a, b);
	if (!kind)
		return xvm_sys6(nr, a, b, c, d, e, f);
	n = atomic_fetch_add(&rec->n, 1);
	if (n < CALLS) {
		strncpy(rec->calls[n].kind, kind, sizeof(rec->calls[n].kind) - 1);
		strncpy(rec->calls[n].file, base, sizeof(rec->calls[n].file) - 1);
		rec->calls[n].line = line;
	}
	if (strcmp(rec->kind, kind))
		return xvm_sys6(nr, a, b, c, d, e, f);
	n = atomic_fetch_add(&rec->of_kind, 1) + 1;
	if (rec->on ? n < rec->at : n != rec->at)
		return xvm_sys6(nr, a, b, c, d, e, f);
	atomic_fetch_add(&rec->fired, 1);
	if (rec->err != LOSE_FDS)
		return -rec->err;
	r = xvm_sys6(nr, a, b, c, d, e, f);
	if (r >= 0)
		lose_descriptors((struct msghdr *)b);
	return r;
}
