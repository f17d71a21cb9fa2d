/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/vm.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "shim/process.h"
#include "shim/real.h"
#include "transport/sys.h"

#define PIECES 16	/* lent and not in use, of one region */
#define KEEP 2		/* so many are asked for ahead */
#define DOORBELL_REG 12 /* bytes into the device's registers */
#define DRY_NS 1000000000ull

struct region {
	_Atomic int fd;		  /* 0: not ours */
	_Atomic bool stale;	  /* a former daemon has said so, and this one nothing yet */
	_Atomic uint32_t told_by; /* xvm_link_count when it was last spoken of */
	_Atomic bool kept;	  /* then: what a former daemon has lent is ours yet */
	void *life, *vector_life; /* mapped as long as we, and forks, use the region; our vector */
	_Atomic bool leaving;	  /* its device is about to go */
	uint8_t unplug;		  /* 1, 2 (late): to be done when all mail is read */
	uint64_t off, len;
	_Atomic(volatile uint32_t *) doorbell;
	_Atomic uint32_t asked;		/* for pieces, not answered */
	_Atomic uint64_t dry_until;	/* there were no more */
	_Atomic uint64_t piece[PIECES]; /* piece_word(), or 0 */
	_Atomic(struct xvm_peer *) peer[XVM_VM_PEERS];
};

static struct region regions[XVM_VM_REGIONS];

/* ---- pieces --------------------------------------------------------------- */

/* As one word: its offset, which is page-aligned, and the size of a ring in it as a power of two.
 */
static uint64_t piece_word(uint64_t off, uint64_t len)
{
	return off | (uint64_t)__builtin_ctzll(len - XVM_HALF_CTL);
}

static uint64_t piece_off(uint64_t word)
{
	return word & ~4095ull;
}

static uint32_t piece_len(uint64_t word)
{
	return XVM_HALF_CTL + (1u << (word & 63));
}

static bool keep(struct region *g, uint64_t word)
{
	for (int i = 0; i < PIECES; i++) {
		uint64_t none = 0;

		if (atomic_compare_exchange_strong(&g->piece[i], &none, word))
			return true;
	}
	return false;
}

/* One that was kept, or 0. */
static uint64_t find(struct region *g)
{
	uint64_t word = 0;

	for (int i = 0; i < PIECES && !word; i++)
		word = atomic_exchange(&g->piece[i], 0);
	return word;
}

static unsigned kept(struct region *g)
{
	unsigned n = 0;

	for (int i = 0; i < PIECES; i++)
		n += atomic_load(&g->piece[i]) != 0;
	return n;
}

static void ask(unsigned region, uint32_t len)
{
	struct region *g = &regions[region];

	while (kept(g) + atomic_load(&g->asked) < KEEP) {
		atomic_fetch_add(&g->asked, 1);
		if (xvm_link_lease(region, len) < 0) {
			atomic_fetch_sub(&g->asked, 1);
			return;
		}
	}
}

/* Which process we are. Random, as process numbers are the same in several namespaces, and come
 * again. */
static _Atomic uint64_t self;

static uint64_t myself(void)
{
	uint64_t id = atomic_load(&self), none = 0;

	if (id)
		return id;
	if (xvm_sys(SYS_getrandom, &id, sizeof(id), GRND_NONBLOCK) != sizeof(id))
		return 0; /* one ring a sleep and connection, then */
	return atomic_compare_exchange_strong(&self, &none, id) ? id : none;
}

int xvm_vm_make(unsigned region, uint32_t len, struct xvm_half *h, uint64_t *off)
{
	struct region *g = &regions[region < XVM_VM_REGIONS ? region : 0];
	int r, fd = atomic_load(&g->fd);
	uint64_t word;

	if (region >= XVM_VM_REGIONS || !fd || atomic_load(&g->stale) || atomic_load(&g->leaving))
		return -ENODEV;
	word = find(g);
	if (!word) {
		if (xvm_now_ns() < atomic_load(&g->dry_until))
			return -ENOMEM;
		ask(region, len);
		return -EAGAIN;
	}
	ask(region, len);
	*off = piece_off(word);
	r = xvm_half_create_at(h, fd, g->off + *off, piece_len(word));
	if (r < 0)
		keep(g, word);
	else
		h->shm->process = myself();
	return r;
}

void xvm_vm_unmake(unsigned region, struct xvm_half *h, uint64_t off)
{
	uint64_t word = piece_word(off, XVM_HALF_CTL + h->ring_size);

	xvm_half_close(h);
	keep(&regions[region], word);
}

static void piece(struct region *g, const struct xvm_msg *m)
{
	uint32_t asked = atomic_load(&g->asked);

	while (asked && !atomic_compare_exchange_weak(&g->asked, &asked, asked - 1))
		;
	if (!m->len)
		atomic_store(&g->dry_until, xvm_now_ns() + DRY_NS);
	else if (m->len >= XVM_HALF_CTL + XVM_RING_MIN && m->len <= XVM_HALF_CTL + XVM_RING_MAX &&
		 !(m->off % 4096) && m->off < g->len && m->len <= g->len - m->off)
		keep(g, piece_word(m->off, m->len));
}

/* ---- other machines ------------------------------------------------------- */

static struct xvm_peer *machine_of(unsigned region, uint32_t number)
{
	struct region *g = &regions[region];
	struct xvm_peer *p, *none = NULL;

	if (number >= XVM_VM_PEERS)
		return NULL;
	p = atomic_load(&g->peer[number]);
	if (p)
		return p;
	p = xvm_link_peer_vm(region, number);
	if (!p)
		return NULL;
	xvm_spin_elsewhere();
	/* The doorbell reaches every vector of every machine. */
	atomic_store(&p->mask, atomic_load(&g->doorbell) ? UINT64_MAX : 0);
	atomic_compare_exchange_strong(&g->peer[number], &none, p);
	return none ? none : p;
}

/* A process there, by the number that its halves have. Called by one thread at a time, and a record
 * that no socket refers to is no other thread's business. */
static struct xvm_peer *process_of(struct xvm_peer *machine, uint64_t process)
{
	struct xvm_peer *p, *idle = NULL;

	for (p = machine->other; p && p->process != process; p = p->other)
		if (!idle && !atomic_load(&p->socks))
			idle = p;
	if (p)
		return p;
	p = idle;
	if (!p) {
		p = xvm_link_peer_vm(machine->region, machine->number);
		if (!p)
			return NULL;
		p->machine = machine;
		p->other = machine->other;
		machine->other = p;
	}
	p->process = process;
	for (int i = 0; i < XVM_WAKERS_MAX; i++)
		atomic_store(&p->rung[i], 0);
	return p;
}

int xvm_vm_open(const struct xvm_msg *m, struct xvm_half *h, struct xvm_peer **peer)
{
	struct region *g = &regions[m->region < XVM_VM_REGIONS ? m->region : 0];
	struct xvm_peer *machine;
	int r, fd = atomic_load(&g->fd);

	if (m->region >= XVM_VM_REGIONS || !fd)
		return -ENODEV;
	if (m->off >= g->len || m->len > g->len - m->off || m->len > UINT32_MAX)
		return -EPROTO;
	machine = machine_of(m->region, m->arg2);
	if (!machine)
		return -ENOMEM;
	r = xvm_half_open_at(h, fd, g->off + m->off, (uint32_t)m->len);
	if (r < 0)
		return r;
	/* Whatever it says: it is asked what is its own. */
	*peer = process_of(machine, *(volatile uint64_t *)&h->shm->process);
	if (*peer)
		return 0;
	xvm_half_close(h);
	return -ENOMEM;
}

bool xvm_vm_ring(struct xvm_peer *p, unsigned vector)
{
	volatile uint32_t *bell = atomic_load(&regions[p->region].doorbell);
	uint64_t one = 1;

	if (bell) {
		*bell = p->number << 16 | vector;
		return true;
	}
	return vector < XVM_WAKERS_MAX && (atomic_load(&p->mask) >> vector & 1) &&
	       xvm_sys(SYS_write, atomic_load(&p->efd[vector]), &one, sizeof(one)) > 0;
}

/* ---- what xvmd says --------------------------------------------------------- */

/* How the daemon knows that somebody is alive (detect/life.h): by a mapping, whatever it is of. */
static bool live(void **map, int fd)
{
	long p = xvm_sys(SYS_mmap, 0, 4096, PROT_NONE, MAP_SHARED, fd, 0);

	if (xvm_sys_failed(p))
		return false;
	/* Never without: the one of a former daemon goes when this is there. */
	if (*map)
		xvm_sys(SYS_munmap, *map, 4096);
	*map = (void *)p;
	return true;
}

/* What was said of pieces and of other machines holds no more. Sockets that are paired go on with
 * the peers that they have; what comes may have other eventfds by the same numbers. The doorbell is
 * the device's. */
static void drop_told(struct region *g)
{
	atomic_store(&g->asked, 0);
	atomic_store(&g->dry_until, 0);
	for (int k = 0; k < PIECES; k++)
		atomic_store(&g->piece[k], 0);
	for (int k = 0; k < XVM_VM_PEERS; k++)
		atomic_store(&g->peer[k], NULL);
}

static void forget(struct region *g)
{
	int fd = atomic_exchange(&g->fd, 0);

	atomic_store(&g->stale, false);
	if (!fd)
		return;
	xvm_fd_unhide_close(fd);
	drop_told(g);
}

/* What a former daemon has told us of it holds, or not. */
static void renew(unsigned index, const struct xvm_msg *m)
{
	struct region *g = &regions[index];
	bool kept = m->arg2 & XVM_REGION_KEPT && g->off == m->off && g->len == m->len;

	if (!kept || !(m->arg2 & XVM_REGION_VECTORS))
		xvm_waker_no_vectors((int)index);
	/* Before it looks for them: whose offer is made meanwhile looks at this afterwards. */
	atomic_store(&g->kept, kept);
	atomic_store(&g->told_by, atomic_load(&xvm_link_count));
	xvm_offer_again(index, kept);
	if (kept) {
		/* What was asked of the former daemon and not answered will not be. */
		atomic_store(&g->asked, 0);
		atomic_store(&g->dry_until, 0);
		atomic_store(&g->stale, false);
		return;
	}
	/* Former halves may be mapped yet, so that life goes on. */
	g->life = g->vector_life = NULL;
	forget(g);
}

static void region(unsigned index, const struct xvm_msg *m, int *fds)
{
	struct region *g = &regions[index];
	int none = 0;

	if (fds[0] < 0 || !m->len || m->off > INT64_MAX || m->len > INT64_MAX - m->off)
		return;
	if (atomic_load(&g->stale)) {
		renew(index, m);
	} else if (atomic_load(&g->fd) && (g->unplug || atomic_load(&g->leaving))) {
		/* Another device than the one that we had not left when it went. */
		xvm_unplug(index, true, true);
	}
	g->unplug = 0;
	atomic_store(&g->leaving, false);
	if (fds[1] >= 0 && !live(&g->life, fds[1]))
		return;
	if (atomic_load(&g->fd))
		return;
	g->off = m->off;
	g->len = m->len;
	if (atomic_compare_exchange_strong(&g->fd, &none, xvm_fd_hide(fds[0])))
		fds[0] = -1;
	atomic_store_explicit(&xvm_link_regions, true, memory_order_relaxed);
}

static void vector(struct region *g, const struct xvm_msg *m, int *fds)
{
	if (fds[0] < 0 || (fds[1] >= 0 && !live(&g->vector_life, fds[1])))
		return;
	if (xvm_waker_adopt(fds[0], m->region, m->arg))
		fds[0] = -1;
}

static void doorbell(struct region *g, const struct xvm_msg *m, int fd)
{
	uint64_t in_page = m->off % 4096;
	long p;

	if (fd < 0 || m->len < DOORBELL_REG + 4 || m->len > 4096 || atomic_load(&g->doorbell))
		return;
	/* A BAR that is smaller than a page may begin within one. */
	p = xvm_sys(SYS_mmap, 0, in_page + m->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    m->off - in_page);
	if (xvm_sys_failed(p))
		return;
	atomic_store(&g->doorbell, (volatile uint32_t *)(p + (long)in_page + DOORBELL_REG));
	for (int i = 0; i < XVM_VM_PEERS; i++) {
		struct xvm_peer *peer = atomic_load(&g->peer[i]);

		if (peer)
			atomic_store(&peer->mask, UINT64_MAX);
	}
}

/* On the host vectors are eventfds. */
static void peer_vector(const struct xvm_msg *m, int *fd)
{
	struct xvm_peer *p = machine_of(m->region, m->arg2);

	if (!p || *fd < 0 || m->arg >= XVM_WAKERS_MAX || (atomic_load(&p->mask) >> m->arg & 1))
		return;
	atomic_store(&p->efd[m->arg], xvm_fd_hide(*fd));
	*fd = -1;
	atomic_fetch_or(&p->mask, 1ull << m->arg);
}

void xvm_vm_message(const struct xvm_msg *m, int *fds)
{
	struct region *g;

	if (m->region >= XVM_VM_REGIONS)
		return;
	g = &regions[m->region];
	switch (m->type) {
	case XVM_MSG_REGION:
		region(m->region, m, fds);
		break;
	case XVM_MSG_DOORBELL:
		doorbell(g, m, fds[0]);
		break;
	case XVM_MSG_PEER_VECTOR:
		peer_vector(m, &fds[0]);
		break;
	case XVM_MSG_VECTOR:
		vector(g, m, fds);
		break;
	case XVM_MSG_PIECE:
		piece(g, m);
		break;
	case XVM_MSG_UNPLUG:
		g->unplug = m->arg ? 2 : 1;
		break;
	default:
		break;
	}
}

void xvm_vm_mail_read(void)
{
	for (unsigned i = 0; i < XVM_VM_REGIONS; i++) {
		bool late = regions[i].unplug == 2;

		if (!regions[i].unplug)
			continue;
		regions[i].unplug = 0;
		xvm_unplug(i, late, false);
	}
}

void xvm_vm_leaving(unsigned region)
{
	if (region < XVM_VM_REGIONS)
		atomic_store(&regions[region].leaving, true);
}

static void unlive(void **map)
{
	if (*map)
		xvm_sys(SYS_munmap, *map, 4096);
	*map = NULL;
}

void xvm_vm_gone(unsigned region)
{
	struct region *g = &regions[region < XVM_VM_REGIONS ? region : 0];
	volatile uint32_t *bell;
	long page, none;
	int fd;

	if (region >= XVM_VM_REGIONS || !(fd = atomic_exchange(&g->fd, 0)))
		return;
	/* Another thread may be about to map a piece: the number is never closed, lest it be
	 * another file's then. But it holds the device no more. */
	none = xvm_sys(SYS_eventfd2, 0, EFD_CLOEXEC);
	if (!xvm_sys_failed(none)) {
		xvm_sys(SYS_dup3, none, fd, O_CLOEXEC);
		xvm_sys(SYS_close, none);
	}
	xvm_waker_no_vectors((int)region);
	drop_told(g);
	/* Another device may come to be where the registers were. */
	bell = atomic_exchange(&g->doorbell, NULL);
	if (bell) {
		page = (long)((uintptr_t)bell & ~4095ul);
		xvm_sys(SYS_mmap, page, 4096, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
	/* Last: the daemon takes it for the end of our using it. */
	unlive(&g->vector_life);
	unlive(&g->life);
}

bool xvm_vm_told(unsigned region, bool *kept)
{
	struct region *g = &regions[region < XVM_VM_REGIONS ? region : 0];

	*kept = atomic_load(&g->kept);
	return region < XVM_VM_REGIONS && atomic_load(&g->told_by) == atomic_load(&xvm_link_count);
}

void xvm_vm_stale(void)
{
	for (int i = 0; i < XVM_VM_REGIONS; i++)
		if (atomic_load(&regions[i].fd))
			atomic_store(&regions[i].stale, true);
}

void xvm_vm_forked(void)
{
	atomic_store(&self, 0);
	xvm_waker_no_vectors(-1);
	for (int i = 0; i < XVM_VM_REGIONS; i++) {
		struct region *g = &regions[i];

		/* What is mapped of pieces we inherit, and with it the life. */
		if (g->vector_life)
			xvm_sys(SYS_munmap, g->vector_life, 4096);
		g->vector_life = NULL;
		forget(g);
	}
	atomic_store_explicit(&xvm_link_regions, false, memory_order_relaxed);
}

void xvm_vm_moved(int from, int to)
{
	for (int i = 0; i < XVM_VM_REGIONS; i++) {
		int was = from;

		atomic_compare_exchange_strong(&regions[i].fd, &was, to);
	}
}
