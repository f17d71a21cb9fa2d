/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors being closed, copied and handed over. A vfork child does it in its parent's
 * memory but to its own descriptors: then the table is not ours to change. Descriptors of our
 * own are not there as far as the application can tell.
 */
#include <limits.h>
#include <linux/close_range.h>
#include <stdarg.h>

#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"
#include "transport/sys.h"

static bool is_own(int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);

	return f && atomic_load_explicit(&f->kind, memory_order_relaxed) == XVM_FILE_OWN;
}

/* fd is about to be closed, by whatever call. */
static void forget(int fd)
{
	if (!xvm_fdtab_peek(fd))
		return;
	xvm_ending_close(fd);
	xvm_fdtab_clear(fd);
}

void xvm_fdtab_dup(int from, int to)
{
	struct xvm_file *f = xvm_fdtab_peek(from);

	xvm_fdtab_clear(to);
	if (!f || atomic_load(&f->kind) == XVM_FILE_OWN)
		return;
	f = xvm_fdtab_get(from, atomic_load(&f->kind));
	if (!f)
		return;
	xvm_fdtab_set(to, f);
	xvm_file_put(f);
}

XVM_WRAP int close(int fd)
{
	if (__builtin_expect(xvm_fdtab_peek(fd) != NULL, 0) && !xvm_in_vfork()) {
		if (is_own(fd))
			return (int)xvm_result(-EBADF);
		forget(fd);
	}
	return REAL(close)(fd);
}

XVM_WRAP int __close(int fd)
{
	return close(fd);
}

XVM_WRAP int dup(int fd)
{
	int r = REAL(dup)(fd);

	if (r >= 0 && (xvm_fdtab_peek(fd) || xvm_fdtab_peek(r)) && !xvm_in_vfork())
		xvm_fdtab_dup(fd, r);
	return r;
}

static int dup_over(int from, int to, int flags, bool three)
{
	struct xvm_sock *s;
	int r;

	if ((!xvm_fdtab_peek(from) && !xvm_fdtab_peek(to)) || from == to || to < 0 ||
	    (flags & ~O_CLOEXEC) || xvm_in_vfork() || REAL(fcntl)(from, F_GETFD) < 0)
		return three ? REAL(dup3)(from, to, flags) : REAL(dup2)(from, to);
	if (!xvm_fd_vacate(to))
		return (int)xvm_result(-EBUSY);
	if (to <= 2 && (s = xvm_sock_get(from))) {
		xvm_hand_over(s, from, XVM_R_STDIO);
		xvm_sock_put(s);
	}
	forget(to);
	r = three ? REAL(dup3)(from, to, flags) : REAL(dup2)(from, to);
	if (r >= 0)
		xvm_fdtab_dup(from, to);
	return r;
}

XVM_WRAP int dup2(int from, int to)
{
	return dup_over(from, to, 0, false);
}

XVM_WRAP int __dup2(int from, int to)
{
	return dup_over(from, to, 0, false);
}

XVM_WRAP int dup3(int from, int to, int flags)
{
	return dup_over(from, to, flags, true);
}

/* All but what is ours. */
static int close_some(unsigned first, unsigned last, int flags)
{
	unsigned hi = (unsigned)atomic_load(&xvm_fdtab_hi), from = first;
	int r = 0;

	for (unsigned fd = first; fd <= last && fd < hi; fd++) {
		if (!is_own((int)fd)) {
			forget((int)fd);
			continue;
		}
		if (from < fd)
			r |= REAL(close_range)(from, fd - 1, flags);
		from = fd + 1;
	}
	if (from <= last)
		r |= REAL(close_range)(from, last, flags);
	return r;
}

XVM_WRAP int close_range(unsigned first, unsigned last, int flags)
{
	/* CLOSE_RANGE_CLOEXEC closes nothing. */
	if (!xvm_fdtab || first > last || (flags & ~CLOSE_RANGE_UNSHARE) || xvm_in_vfork())
		return REAL(close_range)(first, last, flags);
	return close_some(first, last, flags);
}

XVM_WRAP void closefrom(int low)
{
	if (!xvm_fdtab || xvm_in_vfork())
		REAL(closefrom)(low);
	else
		close_some(low < 0 ? 0 : (unsigned)low, UINT_MAX, 0);
}

/* What a FILE does with its descriptor no wrapper sees. */
XVM_WRAP FILE *fdopen(int fd, const char *mode)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	FILE *f = REAL(fdopen)(fd, mode);

	if (s && f) {
		xvm_hand_over(s, fd, XVM_R_STDIO);
		xvm_fdtab_clear(fd);
	}
	if (s)
		xvm_sock_put(s);
	return f;
}

/* libc writes these itself. */
XVM_WRAP int vdprintf(int fd, const char *fmt, va_list ap)
{
	char *s;
	int n;

	if (!xvm_fdtab_peek(fd))
		return REAL(vdprintf)(fd, fmt, ap);
	n = vasprintf(&s, fmt, ap);
	for (int done = 0; done < n;) {
		ssize_t r = write(fd, s + done, (size_t)(n - done));

		if (r < 0) {
			n = -1;
			break;
		}
		done += (int)r;
	}
	if (n >= 0 || errno != ENOMEM)
		free(s);
	return n;
}

XVM_WRAP int dprintf(int fd, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vdprintf(fd, fmt, ap);
	va_end(ap);
	return n;
}

XVM_WRAP int __vdprintf_chk(int fd, int flag, const char *fmt, va_list ap)
{
	return xvm_fdtab_peek(fd) ? vdprintf(fd, fmt, ap) : REAL(__vdprintf_chk)(fd, flag, fmt, ap);
}

XVM_WRAP int __dprintf_chk(int fd, int flag, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = __vdprintf_chk(fd, flag, fmt, ap);
	va_end(ap);
	return n;
}

/* Closes a descriptor that was given to fdopen() without calling close(). */
XVM_WRAP int fclose(FILE *f)
{
	int fd = xvm_fdtab ? fileno(f) : -1;

	if (__builtin_expect(xvm_fdtab_peek(fd) != NULL, 0) && !xvm_in_vfork())
		forget(fd);
	return REAL(fclose)(f);
}
