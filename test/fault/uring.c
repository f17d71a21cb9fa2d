/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring PORT early|late: echoes a connection by recv() and send() for a while, then by io_uring.
 * The ring is made before all else, past libc as liburing does it; or by syscall(2) when it is
 * needed. Ends with 77 where the kernel has no io_uring for it.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/sys.h"

#define ENTRIES 4
#define WARM 450000 /* bytes by calls */

static struct io_uring_params params;
static int ring;
static char *sq, *cq;
static struct io_uring_sqe *sqes;

static void *map(size_t n, off_t what)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, ring, what);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void make_ring(bool past_libc)
{
	long fd = past_libc ? xvm_sys(SYS_io_uring_setup, ENTRIES, &params)
			    : syscall(SYS_io_uring_setup, ENTRIES, &params);

	if (fd < 0)
		exit(77);
	ring = (int)fd;
	sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		 IORING_OFF_CQ_RING);
	sqes = map(params.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
}

static unsigned *word(char *at, unsigned off)
{
	return (unsigned *)(at + off);
}

/* One operation, waited for. */
static int operation(unsigned char op, int fd, char *buf, size_t n)
{
	unsigned tail = *word(sq, params.sq_off.tail), i = tail & (params.sq_entries - 1), head;
	struct io_uring_cqe *cqe;

	memset(&sqes[i], 0, sizeof(sqes[i]));
	sqes[i].opcode = op;
	sqes[i].fd = fd;
	sqes[i].addr = (unsigned long)buf;
	sqes[i].len = (unsigned)n;
	word(sq, params.sq_off.array)[i] = i;
	__atomic_store_n(word(sq, params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	if (xvm_sys(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		errx(1, "io_uring_enter");
	head = *word(cq, params.cq_off.head);
	if (head == __atomic_load_n(word(cq, params.cq_off.tail), __ATOMIC_ACQUIRE))
		errx(1, "nothing is completed");
	cqe = (struct io_uring_cqe *)(cq + params.cq_off.cqes) + (head & (params.cq_entries - 1));
	__atomic_store_n(word(cq, params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	if (cqe->res < 0)
		errx(1, "operation %d: %s", op, strerror(-cqe->res));
	return cqe->res;
}

static ssize_t receive(bool by_ring, int fd, char *buf, size_t n)
{
	return by_ring ? operation(IORING_OP_RECV, fd, buf, n) : recv(fd, buf, n, 0);
}

static ssize_t transmit(bool by_ring, int fd, char *buf, size_t n)
{
	return by_ring ? operation(IORING_OP_SEND, fd, buf, n) : send(fd, buf, n, 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	static char buf[8192];
	size_t total = 0;
	ssize_t n, r;
	bool late = argc == 3 && !strcmp(argv[2], "late"), by_ring = false;
	int l, fd;

	if (argc != 3)
		errx(2, "usage: uring PORT early|late");
	if (!late)
		make_ring(true);
	sa.sin_port = htons((unsigned short)atoi(argv[1]));
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	l = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(l, 5) < 0)
		err(1, "listen");
	fd = accept(l, NULL, NULL);
	if (fd < 0)
		err(1, "accept");
	while ((n = receive(by_ring, fd, buf, sizeof(buf))) > 0) {
		for (ssize_t done = 0; done < n; done += r) {
			r = transmit(by_ring, fd, buf + done, (size_t)(n - done));
			if (r < 0)
				err(1, "send");
		}
		total += (size_t)n;
		if (total >= WARM && !by_ring) {
			if (late)
				make_ring(false);
			by_ring = true;
		}
	}
	if (n < 0)
		err(1, "recv");
	close(fd);
	return by_ring ? 0 : 3;
}
