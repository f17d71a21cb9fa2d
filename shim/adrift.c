/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child of a fork that a signal handler made amid a section of ours: the thread that forked holds
 * the lock of a direction, and in the child, when the handler returns, goes on in the middle of it.
 * The parent goes on there as well. Both would move the same cursors and take the same pads.
 *
 * So the child goes on with copies: of the endpoints and of what its halves have beside rings, at
 * the same addresses, and with sockets that are not connected in place of those on the ring. What
 * it does there nobody sees. The call that was interrupted says EINTR where it moves bytes
 * (xvm_unlock() says that the lock was not its own), and from then on the child has lost these
 * connections (ENOTCONN), and is a program without the library. To the parent and the peers it
 * has never had them.
 */
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "transport/arena.h"
#include "transport/lock.h"
#include "transport/sys.h"

#include <sys/mman.h>

bool xvm_adrift(void)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));)
		if (s->fork_held)
			return true;
	return false;
}

/* A child that would write to its parent's memory is worse than none. */
static void give_up(void)
{
	xvm_log(1, "forked amid a call, and no memory for copies: the child ends\n");
	xvm_sys(SYS_exit_group, 127);
}

static bool copy(void *at, size_t len)
{
	long p = xvm_sys(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);

	if (xvm_sys_failed(p))
		return false;
	memcpy((void *)p, at, len);
	if (!xvm_sys_failed(xvm_sys(SYS_mremap, p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at)))
		return true;
	xvm_sys(SYS_munmap, p, len);
	return false;
}

static void copy_half(struct xvm_half *h, bool all)
{
	size_t head = (size_t)(h->ring - (uint8_t *)h->shm) & ~4095ul;

	/* Of huge pages no part can be replaced. */
	if ((all || !copy(h->shm, head)) && !copy(h->map, h->map_len))
		give_up();
}

static void copy_arena(void)
{
	long p = xvm_sys(SYS_mmap, xvm_arena, xvm_arena_len(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED, xvm_arena_fd, 0);
	uint32_t n = atomic_load(&xvm_arena->ep_hi);

	if (xvm_sys_failed(p))
		give_up();
	/* Nobody else will ever give these back. */
	for (uint32_t i = 0; i < n && i < XVM_ARENA_EPS; i++) {
		struct xvm_shm_ep *ep = xvm_arena_ep(xvm_arena, i);

		atomic_store(&ep->rx_lock.word, 0);
		atomic_store(&ep->tx_lock.word, 0);
	}
}

/* fd is as good as closed, and no other file's. */
static void cut_loose(int fd)
{
	int fl = (int)xvm_sys(SYS_fcntl, fd, F_GETFD);
	int none = (int)xvm_sys(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (none < 0 || fl < 0) {
		xvm_sys(SYS_close, fd);
	} else {
		xvm_sys(SYS_dup3, none, fd, fl & FD_CLOEXEC ? O_CLOEXEC : 0);
		xvm_sys(SYS_close, none);
	}
}

void xvm_adrift_forked(void)
{
	int hi = atomic_load(&xvm_fdtab_hi), fd;
	struct xvm_sock *s;

	xvm_conf.disabled = true;
	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));) {
		if (xvm_sock_on(s))
			copy_half(&s->mine, s->fork_held);
		fd = atomic_exchange(&s->kept, -1);
		if (fd >= 0)
			xvm_fd_unhide_close(fd);
	}
	for (fd = 0; fd < hi; fd++) {
		struct xvm_file *f = xvm_fdtab_peek(fd);
		uint32_t kind = f ? atomic_load(&f->kind) : XVM_FILE_NONE;

		if (kind == XVM_FILE_SOCK && xvm_sock_on((struct xvm_sock *)f))
			cut_loose(fd);
		/* The call that goes on may use them yet: they stay what they are. */
		if (kind == XVM_FILE_SOCK || kind == XVM_FILE_EPOLL)
			atomic_store(&xvm_fdtab[fd], NULL);
	}
	copy_arena();
}
