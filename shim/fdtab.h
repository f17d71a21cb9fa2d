/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fd number -> what the shim knows of the open file. Lookups take no lock: a file's users count
 * is raised, then the table is read again; the last user of a file that has left the table
 * disposes of it. Files lie in type-stable memory. A fork has its own copy.
 */
#ifndef XVM_SHIM_FDTAB_H
#define XVM_SHIM_FDTAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum xvm_file_kind {
	XVM_FILE_NONE,
	XVM_FILE_SOCK,
	XVM_FILE_LISTENER,
	XVM_FILE_EPOLL,
	XVM_FILE_OWN
};

/* In users, which inside.h says more of. */
#define XVM_FILE_USERS 0xffffffffull
#define XVM_FILE_TOLD (1ull << 63)

struct xvm_file {
	_Atomic uint64_t users; /* threads inside a call, plus 1 while nfds > 0 */
	_Atomic uint32_t kind;
	_Atomic uint32_t nfds; /* descriptors of this process */
	_Atomic uint32_t next; /* pool.c */
};

#define XVM_FD_MAX (1 << 20)

extern _Atomic(struct xvm_file *) *xvm_fdtab; /* XVM_FD_MAX entries, lazily backed */
extern _Atomic int xvm_fdtab_hi;	      /* no entry from here on has ever been set */

static inline struct xvm_file *xvm_fdtab_peek(int fd)
{
	if ((unsigned)fd >= XVM_FD_MAX || !xvm_fdtab)
		return 0;
	return atomic_load_explicit(&xvm_fdtab[fd], memory_order_acquire);
}

/* A reference, or NULL if fd is no file of that kind. */
struct xvm_file *xvm_fdtab_get(int fd, enum xvm_file_kind kind);
void xvm_file_dispose(struct xvm_file *f); /* without users, unless it is in the table */
void xvm_file_put_last(struct xvm_file *f, bool had);
static inline void xvm_file_put(struct xvm_file *f)
{
	uint64_t users = atomic_fetch_sub(&f->users, 1) & XVM_FILE_USERS;

	if (__builtin_expect(users <= 1, 0))
		xvm_file_put_last(f, users);
}

/* Takes the fd's place in the table: the file gets one descriptor more. Whatever was
 * there under this number is forgotten first: the number was used again behind our back. */
void xvm_fdtab_set(int fd, struct xvm_file *f);
/* fd is about to be closed or reused. Returns true if something was there. */
bool xvm_fdtab_clear(int fd);

/* to is another descriptor of from's open file from now on. */
void xvm_fdtab_dup(int from, int to);

int xvm_fdtab_init(void);

/* By kind, what the last put does: implemented by sock.c and epset.c. */
void xvm_sock_dispose(struct xvm_file *f);
void xvm_epoll_dispose(struct xvm_file *f);

#endif
