/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/link.h"

#include <sys/resource.h>

#include "detect/client.h"
#include "shim/epoll.h"
#include "shim/pool.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/vm.h"
#include "transport/arena.h"
#include "transport/lock.h"
#include "transport/sys.h"

#define HELLO_MS 100 /* a welcome is waited for, once: a stopped daemon must not stop programs */
#define RETRY_NS 1000000000ull
#define LATE_NS 10000000ull	   /* between looks for a welcome that did not come in time, */
#define LATE_MAX_NS 30000000000ull /* for so long: another daemon may have taken the path */
#define LOOK_NS 100000000ull
#define VAIN_LOOKS 1000 /* for a message that was announced and does not come; then */
#define VAIN_EACH 64	/* by each so manieth call only */
#define FD_ABOVE 65536	/* limits up to this are stepped over */
#define FD_BASE 900	/* our own descriptors are moved up to here, if the limit allows */
#define FD_SPARE 16	/* the last ones are the application's, where the limit is hard */

_Atomic(const struct xvm_shm_table *) xvm_link_table;
uint64_t xvm_link_seen;
uint32_t xvm_link_id;
_Atomic bool xvm_link_regions;
_Atomic uint32_t xvm_link_count = 1;

static struct xvm_shm_lock lock;     /* of all below */
static struct xvm_shm_lock handling; /* one thread at a time reads the daemon's messages */
static int sock = -1;		     /* changes with both held, lock taken first or tried */
static int greeted = -1;	     /* or a connection on which the welcome is to come yet, */
static uint64_t greeted_at;	     /* since then */
static uint64_t next_try;
static enum xvm_reason why_down = XVM_R_NO_DAEMON;
static _Atomic(struct xvm_waker *) wakers[XVM_WAKERS_MAX];

static struct xvm_pool peers = XVM_POOL(struct xvm_peer, next, 16384);
static _Atomic(struct xvm_peer *) by_client[XVM_CLIENTS_MAX];

/* May the limit be stepped over? Then the application has all its numbers for itself. */
static bool above(const struct rlimit *rl)
{
	return rl->rlim_max > rl->rlim_cur && rl->rlim_cur <= FD_ABOVE;
}

bool xvm_fd_spare(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || above(&rl) || rl.rlim_cur > XVM_FD_MAX)
		return true;
	/* The lowest free number is taken first: a program that has come so far is near its end. */
	for (int i = 1; i <= FD_SPARE; i++)
		if (xvm_sys(SYS_fcntl, (long)rl.rlim_cur - i, F_GETFD) >= 0)
			return false;
	return true;
}

int xvm_fd_hide(int fd)
{
	static struct xvm_file own = {.kind = XVM_FILE_OWN, .users = 1};
	struct rlimit rl = {1024, 1024}, more;
	bool raise;
	long base, r;

	getrlimit(RLIMIT_NOFILE, &rl);
	raise = above(&rl);
	if (raise) {
		base = (long)rl.rlim_cur;
		more = rl;
		more.rlim_cur = rl.rlim_max < 2 * FD_ABOVE ? rl.rlim_max : 2 * FD_ABOVE;
		setrlimit(RLIMIT_NOFILE, &more);
	} else {
		base = rl.rlim_cur > FD_BASE + 64 ? FD_BASE : (long)rl.rlim_cur / 2;
	}
	r = xvm_sys6(SYS_fcntl, fd, F_DUPFD_CLOEXEC, base, 0, 0, 0);
	if (raise)
		setrlimit(RLIMIT_NOFILE, &rl);
	if (r >= 0) {
		xvm_sys6(SYS_close, fd, 0, 0, 0, 0, 0);
		fd = (int)r;
	}
	xvm_fdtab_set(fd, &own);
	return fd;
}

void xvm_fd_unhide_close(int fd)
{
	xvm_fdtab_clear(fd);
	xvm_sys6(SYS_close, fd, 0, 0, 0, 0, 0);
}

/* ---- the processes at the other ends ------------------------------------ */

static void peer_close(struct xvm_peer *p)
{
	uint64_t mask = atomic_exchange(&p->mask, 0);

	for (int i = 0; i < XVM_WAKERS_MAX; i++)
		if (mask >> i & 1)
			xvm_fd_unhide_close(atomic_load(&p->efd[i]));
	atomic_compare_exchange_strong(&by_client[p->client], &(struct xvm_peer *){p}, NULL);
	atomic_store(&p->client, 0);
	xvm_pool_put(&peers, p);
}

static struct xvm_peer *peer_of(uint32_t client)
{
	struct xvm_peer *p;

	if (client >= XVM_CLIENTS_MAX)
		return NULL;
	p = atomic_load(&by_client[client]);
	if (p)
		return p;
	p = xvm_pool_get(&peers);
	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	atomic_store(&p->client, client);
	atomic_store(&by_client[client], p);
	return p;
}

void xvm_link_peer_put(struct xvm_peer *p)
{
	if (atomic_fetch_sub(&p->socks, 1) == 1 && atomic_load(&p->gone))
		peer_close(p);
}

/* No new socket will refer to it; it goes with the last that does. */
static void peer_gone(uint32_t client)
{
	struct xvm_peer *p =
		client < XVM_CLIENTS_MAX ? atomic_exchange(&by_client[client], NULL) : NULL;

	if (!p)
		return;
	atomic_fetch_add(&p->socks, 1);
	atomic_store(&p->gone, 1);
	xvm_link_peer_put(p);
}

bool xvm_link_ring(struct xvm_peer *p, unsigned index, uint64_t seq)
{
	uint64_t one = 1, old;

	if (index >= XVM_WAKERS_MAX || !(xvm_link_peer_mask(p) >> index & 1))
		return false;
	/* A machine's vector goes from one process to the next, whose sleeps count anew: so what
	 * was rung for is known by process. */
	old = p->vm && !p->process ? 0
				   : atomic_load_explicit(&p->rung[index], memory_order_acquire);
	if (old >= seq)
		return true;
	/* Ring first, note it then: who sees the note may rely on the ring. */
	if (p->vm ? !xvm_vm_ring(p->machine, index)
		  : xvm_sys6(SYS_write, atomic_load(&p->efd[index]), (long)&one, sizeof(one), 0, 0,
			     0) < 0)
		return false;
	XVM_COUNT(rings);
	while (old < seq && !atomic_compare_exchange_weak(&p->rung[index], &old, seq))
		;
	return true;
}

/* ---- up and down -------------------------------------------------------- */

static void down(enum xvm_reason why)
{
	if (sock >= 0) {
		xvm_log(1, "lost xvmd at %s\n", xvm_conf.socket);
		xvm_fd_unhide_close(sock);
		atomic_fetch_add(&xvm_link_count, 1);
	}
	sock = -1;
	why_down = why;
	next_try = xvm_now_ns() + RETRY_NS;
}

static int tell_waker(struct xvm_waker *w)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_WAKER;
	m.arg = w->index;
	return xvm_proto_send(sock, &m, &w->fd, 1);
}

static void ungreet(void)
{
	if (greeted >= 0)
		xvm_fd_unhide_close(greeted);
	greeted = -1;
}

/* A connection to xvmd that has said hello, in greeted. */
static int greet(void)
{
	int fd = xvm_fd_spare() ? xvm_client_connect(xvm_conf.socket) : -EMFILE;
	int r;

	if (fd < 0)
		return fd;
	r = xvm_client_greet(fd, xvm_arena_fd);
	if (r < 0)
		xvm_sys6(SYS_close, fd, 0, 0, 0, 0, 0);
	else
		greeted = xvm_fd_hide(fd);
	greeted_at = xvm_now_ns();
	return r;
}

static void up_locked(void)
{
	const struct xvm_shm_table *t;
	static int told; /* once for each time that it is away */
	uint64_t mail = 0;
	uint32_t id = 0;
	bool late = greeted >= 0;
	int r = 0;

	if (!xvm_sock_arena()) {
		down(XVM_R_NO_MEMORY);
		return;
	}
	if (!late)
		r = greet();
	if (r < 0) {
		if (!told++)
			xvm_log(1, "no xvmd answers at %s (error %d)\n", xvm_conf.socket, -r);
		down(XVM_R_NO_DAEMON);
		return;
	}
	r = xvm_client_welcome(greeted, late ? 0 : HELLO_MS, &id, &mail, &t);
	if (r == -ETIMEDOUT) {
		/* It is busy, or stopped. The welcome is not waited for again, but looked for. */
		why_down = XVM_R_NO_DAEMON;
		next_try = xvm_now_ns() + LATE_NS;
		if (next_try - greeted_at > LATE_MAX_NS)
			ungreet();
		return;
	}
	if (r < 0 || id >= XVM_CLIENTS_MAX) {
		if (!told++)
			xvm_log(1, "xvmd at %s does not welcome us (error %d)\n", xvm_conf.socket,
				-r);
		ungreet();
		down(r == -EPROTONOSUPPORT ? XVM_R_BAD_VERSION : XVM_R_NO_DAEMON);
		return;
	}
	told = 0;
	/*
	 * Client numbers start anew: what the old daemon said of peers says nothing now. Before
	 * anybody can read what the new one says.
	 */
	for (uint32_t i = 0; i < XVM_CLIENTS_MAX; i++)
		peer_gone(i);
	xvm_vm_stale();
	/* A table of a former daemon stays mapped: a reader may be in it. It is only ever one a
	 * restart. */
	xvm_link_id = id;
	/* What came behind the welcome is still to be read. */
	__atomic_store_n(&xvm_link_seen, mail, __ATOMIC_RELAXED);
	__atomic_store_n(&sock, greeted, __ATOMIC_RELEASE);
	greeted = -1;
	atomic_store(&xvm_link_table, t);
	why_down = XVM_R_NONE;
	for (int i = 0; i < XVM_WAKERS_MAX; i++)
		if (atomic_load(&wakers[i]))
			tell_waker(atomic_load(&wakers[i]));
	xvm_log(2, "client %u of xvmd\n", id);
}

enum xvm_reason xvm_link_up(void)
{
	enum xvm_reason why;

	/* Another thread is at it, or this one, in a signal handler: that says nothing. */
	if (xvm_trylock(&lock) < 0)
		return XVM_R_NEW;
	why = sock >= 0 ? XVM_R_NONE : why_down;
	if (sock < 0 && !xvm_conf.sandboxed && xvm_now_ns() >= next_try) {
		why = XVM_R_NEW;
		/* Who still reads what the former daemon has said counts it (xvm_link_seen). */
		if (xvm_trylock(&handling) == 0) {
			up_locked();
			why = sock >= 0 ? XVM_R_NONE : why_down;
			xvm_unlock(&handling);
		}
	}
	xvm_unlock(&lock);
	return why;
}

bool xvm_link_lost(void)
{
	static uint64_t next_look;
	bool lost = false;
	char c;
	long r;

	if (xvm_trylock(&lock) < 0)
		return false;
	/* Who handles messages finds out by himself, and is in a call with the descriptor. */
	if (sock >= 0 && xvm_now_ns() >= next_look && xvm_trylock(&handling) == 0) {
		next_look = xvm_now_ns() + LOOK_NS;
		r = xvm_sys6(SYS_recvfrom, sock, (long)&c, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
		/* A reset is told of first, though what was sent before it is still there. */
		lost = r == 0 || (r < 0 && r != -EAGAIN && r != -EINTR && r != -ECONNRESET);
		if (lost) {
			down(XVM_R_NO_DAEMON);
			next_try = 0;
		}
		xvm_unlock(&handling);
	}
	xvm_unlock(&lock);
	return lost;
}

void xvm_link_look(void)
{
	static _Atomic uint64_t next_look;
	uint64_t now = xvm_now_ns(), due = atomic_load_explicit(&next_look, memory_order_relaxed);

	if (now < due || !atomic_compare_exchange_strong(&next_look, &due, now + LOOK_NS))
		return;
	if (__atomic_load_n(&sock, __ATOMIC_RELAXED) >= 0 && !xvm_link_lost())
		return;
	if (xvm_link_up() == XVM_R_NONE)
		xvm_link_poll();
}

/* to: which daemon it was told to. */
static int tell_of(struct xvm_msg *m, const int *fds, int n, uint32_t *to)
{
	int r;

	/* Waits for another thread's few messages, never for the daemon. */
	if (xvm_lock(&lock) < 0)
		return -EAGAIN;
	if (to)
		*to = atomic_load(&xvm_link_count);
	r = sock < 0 ? -ENOTCONN : xvm_proto_send(sock, m, fds, n);
	xvm_unlock(&lock);
	/* What the daemon has sent before it ended is read first: pieces are in there, and pairs.
	 */
	if (r == -EPIPE || r == -ECONNRESET)
		xvm_link_handle();
	return r;
}

static int tell(struct xvm_msg *m, const int *fds, int n)
{
	return tell_of(m, fds, n, NULL);
}

static int offer_to(struct xvm_sock *s, struct xvm_msg *m, const int *fds, int n)
{
	uint32_t to;
	int r = tell_of(m, fds, n, &to);

	/* Not before: it might be thought to have lapsed while it is being made. */
	if (r == 0)
		atomic_store(&s->offered_to, to);
	return r;
}

int xvm_link_offer(struct xvm_sock *s, int fd, int half_fd, uint64_t off, uint32_t len)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_OFFER;
	m.slot = s->slot;
	m.gen = s->gen;
	m.arg = atomic_load(&s->ep->role);
	if (half_fd >= 0)
		return offer_to(s, &m, (int[]){fd, half_fd}, 2);
	m.region = s->ep->medium - XVM_MEDIUM_REGION;
	m.off = off;
	m.len = len;
	return offer_to(s, &m, &fd, 1);
}

void xvm_link_lapsed(struct xvm_sock *s)
{
	uint32_t to = atomic_load(&s->offered_to);

	xvm_link_lost(); /* one that was killed has said nothing */
	/* Who handles messages may be pairing it just now. */
	if (!to || to == atomic_load(&xvm_link_count) || xvm_trylock(&handling) < 0)
		return;
	/* Only that offer: by now another may be under way. */
	if (atomic_load(&s->offered_to) == to)
		xvm_offer_lapsed(s);
	xvm_unlock(&handling);
}

int xvm_link_lease(unsigned region, uint32_t len)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_LEASE;
	m.region = region;
	m.len = len;
	m.arg = xvm_waker_has_vector(region);
	return tell(&m, NULL, 0);
}

struct xvm_peer *xvm_link_peer_vm(unsigned region, uint32_t number)
{
	struct xvm_peer *p = xvm_pool_get(&peers);

	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	p->vm = true;
	p->region = (uint16_t)region;
	p->number = (uint16_t)number;
	return p;
}

void xvm_link_drop(uint32_t slot, uint32_t gen, bool was_paired)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = was_paired ? XVM_MSG_UNPAIR : XVM_MSG_WITHDRAW;
	m.slot = slot;
	m.gen = gen;
	tell(&m, NULL, 0);
}

void xvm_link_return(uint32_t slot, uint32_t gen, unsigned region, uint64_t off, uint32_t len)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_WITHDRAW;
	m.slot = slot;
	m.gen = gen;
	m.region = region;
	m.off = off;
	m.len = len;
	tell(&m, NULL, 0);
}

int xvm_link_waker(struct xvm_waker *w)
{
	int r = 0;

	atomic_store(&wakers[w->index], w);
	if (xvm_lock(&lock) < 0)
		return -EAGAIN;
	if (sock >= 0)
		r = tell_waker(w);
	xvm_unlock(&lock);
	return r;
}

/* ---- what xvmd says ------------------------------------------------------ */

static void control(const struct xvm_msg *in)
{
	struct xvm_msg m;

	memset(&m, 0, sizeof(m));
	m.type = XVM_MSG_CTL_DONE;
	m.arg = in->arg;
	m.arg2 = xvm_sock_wish(in->fd, in->arg2 == XVM_CTL_LEAVE);
	tell(&m, NULL, 0);
}

static void peer_waker(const struct xvm_msg *m, int *fd)
{
	struct xvm_peer *p = xvm_fd_spare() ? peer_of(m->arg2) : NULL;

	if (!p || m->arg >= XVM_WAKERS_MAX || *fd < 0 || (atomic_load(&p->mask) >> m->arg & 1))
		return;
	atomic_store(&p->efd[m->arg], xvm_fd_hide(*fd));
	*fd = -1;
	atomic_store(&p->rung[m->arg], 0);
	atomic_fetch_or(&p->mask, 1ull << m->arg);
}

static void paired(const struct xvm_msg *m, int *fds)
{
	struct xvm_peer *p = NULL;
	struct xvm_half half;
	int r;

	if (m->len) {
		r = xvm_vm_open(m, &half, &p);
	} else {
		p = peer_of(m->arg2);
		r = p && fds[0] >= 0 ? xvm_half_open(&half, fds[0]) : -ENOMEM;
	}
	if (r < 0)
		p = NULL;
	if (p)
		atomic_fetch_add(&p->socks, 1);
	xvm_offer_paired(m->slot, m->gen, m->arg, r, &half, p);
}

static void handle(const struct xvm_msg *m, int *fds)
{

	switch (m->type) {
	case XVM_MSG_SEEN:
		xvm_offer_seen(m->slot, m->gen);
		break;
	case XVM_MSG_PAIRED:
		paired(m, fds);
		break;
	case XVM_MSG_REFUSED:
		xvm_offer_refused(m->slot, m->gen, m->arg);
		break;
	case XVM_MSG_REGION:
	case XVM_MSG_DOORBELL:
	case XVM_MSG_VECTOR:
	case XVM_MSG_PEER_VECTOR:
	case XVM_MSG_PIECE:
	case XVM_MSG_UNPLUG:
		xvm_vm_message(m, fds);
		break;
	case XVM_MSG_PEER_DEAD:
		xvm_sock_peer_dead(m->slot, m->gen);
		break;
	case XVM_MSG_PEER_WAKER:
		peer_waker(m, &fds[0]);
		break;
	case XVM_MSG_PEER_GONE:
		peer_gone(m->arg2);
		break;
	case XVM_MSG_CTL:
		control(m);
		break;
	default:
		break;
	}
}

void xvm_link_handle(void)
{
	static _Atomic unsigned vain;
	const struct xvm_shm_table *t = atomic_load(&xvm_link_table);
	unsigned looks = atomic_load_explicit(&vain, memory_order_relaxed);
	int fds[XVM_PROTO_FDS], r = 0, s;
	bool reset = false;
	struct xvm_msg m;

	/*
	 * xvmd may be stopped between announcing a message and sending it, for as long as the
	 * machine is busy. So it is looked for until it comes, but then not at each call: to give
	 * up would leave it unread till the next.
	 */
	if (looks >= VAIN_LOOKS) {
		atomic_store_explicit(&vain, looks + 1, memory_order_relaxed);
		if (looks % VAIN_EACH)
			return;
	}
	/* One thread handles; a signal handler that interrupts it goes on its way. */
	if (!t || xvm_trylock(&handling) < 0)
		return;
	for (int i = 0; i < 256; i++) {
		s = __atomic_load_n(&sock, __ATOMIC_RELAXED);
		if (s < 0)
			break;
		r = xvm_proto_recv(s, &m, fds, MSG_DONTWAIT);
		/* It had not read all that we sent: said once, before what it had sent itself. */
		if (r == -ECONNRESET && !reset) {
			reset = true;
			continue;
		}
		if (r < 0)
			break;
		/* We count what has come, not what was announced: it is announced before it is
		 * sent. */
		__atomic_store_n(&xvm_link_seen, xvm_link_seen + 1, __ATOMIC_RELAXED);
		atomic_store_explicit(&vain, 0, memory_order_relaxed);
		handle(&m, fds);
		for (int k = 0; k < XVM_PROTO_FDS; k++)
			if (fds[k] >= 0)
				xvm_sys6(SYS_close, fds[k], 0, 0, 0, 0, 0);
	}
	xvm_vm_mail_read();
	if (r == -EAGAIN && looks < VAIN_LOOKS)
		atomic_store_explicit(&vain, looks + 1, memory_order_relaxed);
	if (r < 0 && r != -EAGAIN && r != -EINTR && xvm_trylock(&lock) == 0) {
		down(XVM_R_NO_DAEMON);
		__atomic_store_n(&xvm_link_seen, atomic_load(&t->mail[xvm_link_id]),
				 __ATOMIC_RELAXED);
		xvm_unlock(&lock);
	}
	xvm_unlock(&handling);
}

bool xvm_fd_vacate(int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);
	char *base = atomic_load(&peers.base);
	int to;

	if (!f || atomic_load(&f->kind) != XVM_FILE_OWN)
		return true;
	to = (int)xvm_sys6(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1, 0, 0, 0);
	if (to < 0)
		return false;
	xvm_fdtab_set(to, f);
	if (sock == fd)
		sock = to;
	if (greeted == fd)
		greeted = to;
	if (xvm_arena_fd == fd)
		xvm_arena_fd = to;
	xvm_ending_vacated(fd, to);
	for (int i = 0; i < XVM_WAKERS_MAX; i++) {
		struct xvm_waker *w = atomic_load(&wakers[i]);

		if (w && w->fd == fd)
			w->fd = to;
	}
	/* All that ever were: sockets may refer to one that by_client[] no longer has. */
	for (uint32_t c = 0; base && c < atomic_load(&peers.hi); c++) {
		struct xvm_peer *p = (struct xvm_peer *)(base + c * sizeof(*p));

		for (int i = 0; i < XVM_WAKERS_MAX; i++)
			if ((atomic_load(&p->mask) >> i & 1) && atomic_load(&p->efd[i]) == fd)
				atomic_store(&p->efd[i], to);
	}
	xvm_vm_moved(fd, to);
	xvm_epoll_moved(fd, to);
	xvm_fdtab_clear(fd);
	return true;
}

void xvm_link_off(void)
{
	atomic_store(&xvm_link_table, NULL);
	if (sock >= 0)
		xvm_fd_unhide_close(sock);
	sock = -1;
	ungreet();
	next_try = UINT64_MAX;
}

void xvm_link_forked(void)
{
	/* The parent's connection and eventfds are the parent's. What peers' eventfds we inherited
	 * still ring the same sleepers: they go with the last socket that refers to them. */
	xvm_lock_kept(&lock);
	xvm_lock_kept(&handling);
	if (sock >= 0)
		xvm_fd_unhide_close(sock);
	sock = -1;
	ungreet();
	xvm_vm_forked();
	next_try = 0;
	why_down = XVM_R_NO_DAEMON;
	for (int i = 0; i < XVM_WAKERS_MAX; i++)
		atomic_store(&wakers[i], NULL);
	/* Looked at first: what is not written stays shared with the parent. */
	for (uint32_t i = 0; i < XVM_CLIENTS_MAX; i++)
		if (atomic_load_explicit(&by_client[i], memory_order_relaxed))
			peer_gone(i);
}
