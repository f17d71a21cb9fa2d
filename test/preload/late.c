/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded behind libxvm.so: what happens between the kernel's answer and its use takes longer. */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int epoll_wait(int ep, struct epoll_event *ev, int max, int timeout)
{
	static int (*real)(int, struct epoll_event *, int, int);
	int n, e;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "epoll_wait");
	n = real(ep, ev, max, timeout);
	e = errno;
	if (n > 0)
		poll(NULL, 0, 3);
	errno = e;
	return n;
}
