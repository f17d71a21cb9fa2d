/* SPDX-License-Identifier: Apache-2.0 */
/* An allocator that opens files, pipes and sockets now and then, from the first call on. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAP (64u << 20)
#define ALIGN 16

static char heap[HEAP] __attribute__((aligned(ALIGN)));
static size_t used;
static __thread int depth;

static void look_around(void)
{
	static unsigned calls;
	char buf[64];
	int fd, p[2];

	if (depth || __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) % 8)
		return;
	depth++;
	fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, buf, sizeof(buf)) > 0)
		close(dup(fd));
	close(fd);
	if (pipe(p) == 0) {
		if (write(p[1], "x", 1) == 1 && read(p[0], buf, 1) == 1)
			fcntl(p[0], F_GETFL);
		close(p[0]);
		close(p[1]);
	}
	fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	close(fd);
	close(epoll_create1(EPOLL_CLOEXEC));
	depth--;
}

void *malloc(size_t n)
{
	size_t at;

	look_around();
	n = (n + 2 * ALIGN - 1) & ~(size_t)(ALIGN - 1);
	at = __atomic_fetch_add(&used, n, __ATOMIC_RELAXED);
	if (n > HEAP || at > HEAP - n)
		return NULL;
	*(size_t *)(heap + at) = n - ALIGN;
	return heap + at + ALIGN;
}

void free(void *p)
{
	look_around();
}

void *calloc(size_t n, size_t size)
{
	return malloc(n * size); /* never used before, so zero */
}

void *realloc(void *p, size_t n)
{
	size_t was = p ? *(size_t *)((char *)p - ALIGN) : 0;
	void *q = malloc(n);

	if (p && q)
		memcpy(q, p, was < n ? was : n);
	return q;
}
