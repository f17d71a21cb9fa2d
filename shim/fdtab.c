/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/fdtab.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "shim/process.h"
#include "transport/sys.h"

_Atomic(struct xvm_file *) *xvm_fdtab;
_Atomic int xvm_fdtab_hi;

int xvm_fdtab_init(void)
{
	long r;

	if (xvm_fdtab)
		return 0;
	r = xvm_sys6(SYS_mmap, 0, XVM_FD_MAX * sizeof(*xvm_fdtab), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (xvm_sys_failed(r))
		return (int)r;
	xvm_fdtab = (void *)r;
	return 0;
}

struct xvm_file *xvm_fdtab_get(int fd, enum xvm_file_kind kind)
{
	struct xvm_file *f;
	uint64_t users;

	for (;;) {
		f = xvm_fdtab_peek(fd);
		if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != kind)
			return NULL;
		users = atomic_load(&f->users);
		if (!(users & XVM_FILE_USERS))
			continue; /* on its way out: the table is about to change */
		if (!atomic_compare_exchange_weak(&f->users, &users, users + 1))
			continue;
		if (xvm_fdtab_peek(fd) == f)
			return f;
		xvm_file_put(f);
	}
}

/*
 * Where a fork came amid a call, from a signal handler, the child has none of its references: what
 * the call puts when it goes on there was the table's, and is given back.
 */
void xvm_file_dispose(struct xvm_file *f)
{
	if (atomic_load(&f->nfds)) {
		atomic_fetch_add(&f->users, 1);
		return;
	}
	switch (atomic_load(&f->kind)) {
	case XVM_FILE_SOCK:
		xvm_sock_dispose(f);
		break;
	case XVM_FILE_EPOLL:
		xvm_epoll_dispose(f);
		break;
	default:
		break;
	}
}

void xvm_file_put_last(struct xvm_file *f, bool had)
{
	if (had)
		xvm_file_dispose(f);
	else /* closed by the handler meanwhile */
		atomic_fetch_add(&f->users, 1);
}

void xvm_fdtab_set(int fd, struct xvm_file *f)
{
	int hi;

	if ((unsigned)fd >= XVM_FD_MAX)
		return;
	xvm_fdtab_clear(fd);
	if (atomic_fetch_add(&f->nfds, 1) == 0)
		atomic_fetch_add(&f->users, 1);
	atomic_store(&xvm_fdtab[fd], f);
	hi = atomic_load(&xvm_fdtab_hi);
	while (fd >= hi && !atomic_compare_exchange_weak(&xvm_fdtab_hi, &hi, fd + 1))
		;
}

bool xvm_fdtab_clear(int fd)
{
	struct xvm_file *f;

	if (!xvm_fdtab_peek(fd)) /* most were never there */
		return false;
	f = atomic_exchange(&xvm_fdtab[fd], NULL);
	if (!f)
		return false;
	if (atomic_fetch_sub(&f->nfds, 1) == 1)
		xvm_file_put(f);
	return true;
}
