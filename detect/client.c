/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of xvmd. Async-signal-safe, past every interposed name: see raw.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "detect/client.h"
#include "transport/sys.h"
#include "detect/table.h"

/* A reader gives up after a while of changes under its eyes: staying on TCP is always right. The
 * writer may have been interrupted by this very thread, so let it run now and then. */
#define SEQ_TRIES 1000
#define SEQ_YIELDS 5

const char *xvm_client_path(void)
{
	const char *p = secure_getenv("XVM_SOCKET");

	return p && *p ? p : XVM_SOCKET_SYSTEM;
}

int xvm_client_connect(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t len;
	long fd, ret;

	if (!path)
		path = xvm_client_path();
	len = strlen(path);
	if (len >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, len);

	/* Non-blocking until it is connected: a full backlog is an answer too. */
	fd = xvm_sys(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return (int)fd;
	ret = xvm_sys(SYS_connect, fd, &sa, sizeof(sa));
	if (!ret)
		ret = xvm_sys(SYS_fcntl, fd, F_SETFL, O_RDWR);
	if (ret < 0) {
		xvm_sys(SYS_close, fd);
		return (int)ret;
	}
	return (int)fd;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_readable(int sock, int64_t deadline)
{
	struct pollfd p = {.fd = sock, .events = POLLIN};
	struct timespec ts;
	int64_t left;
	long ret;

	for (;;) {
		left = deadline - now_ms();
		if (left < 0)
			left = 0;
		ts.tv_sec = left / 1000;
		ts.tv_nsec = left % 1000 * 1000000;
		ret = xvm_sys(SYS_ppoll, &p, 1, &ts);
		if (ret == -EINTR)
			continue;
		if (ret < 0)
			return (int)ret;
		return ret ? 0 : -ETIMEDOUT;
	}
}

static int map_table(int fd, const struct xvm_shm_table **table)
{
	const struct xvm_shm_table *t;
	struct stat st;
	long ret;

	ret = xvm_sys(SYS_fcntl, fd, F_GET_SEALS);
	if (ret < 0)
		return (int)ret;
	/* Without the seal the daemon could shrink it, and a look at it would be a SIGBUS here. */
	if (!(ret & F_SEAL_SHRINK))
		return -EPROTO;
	ret = xvm_sys(SYS_fstat, fd, &st);
	if (ret < 0)
		return (int)ret;
	if (st.st_size < (off_t)sizeof(*t))
		return -EPROTO;
	ret = xvm_sys(SYS_mmap, 0, sizeof(*t), PROT_READ, MAP_SHARED, fd);
	if ((unsigned long)ret > -4096ul)
		return (int)ret;
	t = (const struct xvm_shm_table *)ret;
	if (t->magic != XVM_TABLE_MAGIC || t->version != XVM_ABI_VERSION || t->size != sizeof(*t)) {
		xvm_sys(SYS_munmap, t, sizeof(*t));
		return -EPROTO;
	}
	*table = t;
	return 0;
}

int xvm_client_greet(int sock, int arena)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_HELLO;
	m.arg = XVM_PROTO_VERSION;
	m.pid = (int32_t)xvm_sys(SYS_getpid);
	xvm_sys(SYS_prctl, PR_GET_NAME, m.text);
	return xvm_proto_send(sock, &m, &arena, arena >= 0);
}

int xvm_client_welcome(int sock, int timeout_ms, uint32_t *id, uint64_t *mail,
		       const struct xvm_shm_table **table)
{
	struct xvm_msg m;
	int64_t deadline = now_ms() + timeout_ms;
	int fds[XVM_PROTO_FDS], i, ret;

	for (;;) {
		ret = wait_readable(sock, deadline);
		if (ret)
			return ret;
		ret = xvm_proto_recv(sock, &m, fds, MSG_DONTWAIT);
		if (ret == -EAGAIN)
			continue;
		if (ret)
			return ret;
		if (m.type == XVM_MSG_WELCOME || m.type == XVM_MSG_BAD_VERSION)
			break;
		for (i = 0; i < m.nfds; i++)
			xvm_sys(SYS_close, fds[i]);
	}

	ret = -EPROTO;
	if (m.type == XVM_MSG_BAD_VERSION || m.arg != XVM_PROTO_VERSION) {
		*id = m.arg;
		ret = -EPROTONOSUPPORT;
	} else if (m.nfds == 0) {
		ret = -EMFILE; /* it always comes: our own table of descriptors was full */
	} else if (m.arg2 < XVM_CLIENTS_MAX) {
		*id = m.arg2;
		*mail = m.arg64;
		ret = map_table(fds[0], table);
	}
	for (i = 0; i < m.nfds; i++)
		xvm_sys(SYS_close, fds[i]);
	return ret;
}

static uint32_t look_up(const struct xvm_shm_table *t, uint32_t slot, const uint64_t want[2])
{
	const struct xvm_shm_res *r;
	const uint64_t *a;
	uint32_t i, flags;

	for (i = 0; i < XVM_RES_SLOTS; i++) {
		r = &t->res[(slot + i) & (XVM_RES_SLOTS - 1)];
		a = (const uint64_t *)r->addr;
		/* Acquire, so that the second look at seq comes after these; pairs with
		 * the release stores in xvm_residency_publish(). */
		flags = __atomic_load_n(&r->flags, __ATOMIC_ACQUIRE);
		if (!flags)
			return 0;
		if (__atomic_load_n(&a[0], __ATOMIC_ACQUIRE) == want[0] &&
		    __atomic_load_n(&a[1], __ATOMIC_ACQUIRE) == want[1])
			return flags;
	}
	return 0;
}

/* True if flags is the answer. */
static bool try_look_up(const struct xvm_shm_table *t, uint32_t slot, const uint64_t want[2],
			uint32_t *flags)
{
	uint64_t seq = atomic_load_explicit(&t->seq, memory_order_acquire);

	if (seq & 1)
		return false;
	*flags = look_up(t, slot, want);
	return atomic_load_explicit(&t->seq, memory_order_relaxed) == seq;
}

uint32_t xvm_client_resident(const struct xvm_shm_table *table, const uint8_t addr[16])
{
	uint64_t want[2];
	uint32_t slot, flags;
	int i, k;

	if (xvm_table_loopback(addr))
		return XVM_RES_USED;
	memcpy(want, addr, sizeof(want));
	slot = xvm_table_slot(addr);
	for (i = 0; i < SEQ_YIELDS; i++) {
		for (k = 0; k < SEQ_TRIES; k++)
			if (try_look_up(table, slot, want, &flags))
				return flags;
		xvm_sys(SYS_sched_yield);
	}
	return 0;
}

int xvm_client_addr(const struct sockaddr *sa, socklen_t len, uint8_t addr[16], uint16_t *port)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	if (len < sizeof(sa->sa_family))
		return -EAFNOSUPPORT;
	if (sa->sa_family == AF_INET && len >= sizeof(in)) {
		memcpy(&in, sa, sizeof(in));
		memset(addr, 0, 10);
		memset(addr + 10, 0xff, 2);
		memcpy(addr + 12, &in.sin_addr, 4);
		*port = ntohs(in.sin_port);
		return 0;
	}
	/* Up to the address: RFC 2133's form, which the kernel takes too, has no scope id. */
	if (sa->sa_family == AF_INET6 && len >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
		memcpy(&in6, sa, offsetof(struct sockaddr_in6, sin6_scope_id));
		memcpy(addr, &in6.sin6_addr, 16);
		*port = ntohs(in6.sin6_port);
		return 0;
	}
	return -EAFNOSUPPORT;
}

const char *xvm_reason_name(uint32_t reason)
{
	static const char *const names[] = {
#define X(id, name, text) name,
		XVM_REASONS(X)
#undef X
	};

	return reason < XVM_R_COUNT ? names[reason] : "?";
}

const char *xvm_reason_text(uint32_t reason)
{
	static const char *const texts[] = {
#define X(id, name, text) text,
		XVM_REASONS(X)
#undef X
	};

	return reason < XVM_R_COUNT ? texts[reason] : "?";
}
