/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/region.h"

#include <errno.h>
#include <string.h>

#define RES_TRIES 1000

/* ---- figures ---------------------------------------------------------- */

static uint64_t page_up(uint64_t n)
{
	return (n + XVM_REGION_PAGE - 1) & ~(uint64_t)(XVM_REGION_PAGE - 1);
}

int xvm_region_figure(struct xvm_region *g, uint64_t size, uint32_t peers, uint32_t vectors)
{
	memset(g, 0, sizeof(*g));
	/* A PCI BAR is a power of two. */
	if (size < XVM_REGION_SIZE_MIN || size > XVM_REGION_SIZE_MAX || (size & (size - 1)))
		return -ERANGE;
	if (peers < 2 || peers > XVM_REGION_PEERS_MAX)
		return -ERANGE;
	if (vectors < 1 || vectors > XVM_REGION_VECTORS_MAX)
		return -ERANGE;
	g->size = size;
	g->peers = peers;
	g->vectors = vectors;
	g->arena_size = size / peers & ~(uint64_t)(XVM_REGION_PAGE - 1);
	g->box_off = page_up(sizeof(struct xvm_shm_region));
	g->res_off = g->box_off + (uint64_t)peers * XVM_REGION_BOX;
	g->lease_off = page_up(g->res_off + XVM_REGION_RES_MAX * sizeof(struct xvm_shm_region_res));
	if (g->arena_size < g->lease_off || g->arena_size - g->lease_off < XVM_REGION_LEASE_MIN)
		return -ENOSPC;
	static_assert(sizeof(struct xvm_shm_region) >= XVM_REGION_PAGE,
		      "the host's arena is the fullest: what it has room for, all have");
	return 0;
}

void xvm_region_format(const struct xvm_region *g)
{
	struct xvm_shm_region *h = xvm_region_header(g);

	h->version = XVM_REGION_VERSION;
	h->peers = g->peers;
	h->size = g->size;
	h->arena_size = g->arena_size;
	h->generation = g->generation;
	h->vectors = g->vectors;
	h->box_off = (uint32_t)g->box_off;
	h->res_off = (uint32_t)g->res_off;
	h->lease_off = (uint32_t)g->lease_off;
	/* Last: pairs with the acquire in xvm_region_open(). */
	__atomic_store_n(&h->magic, XVM_REGION_MAGIC, __ATOMIC_RELEASE);
}

static uint32_t once32(const uint32_t *word)
{
	return *(const volatile uint32_t *)word;
}

static uint64_t once64(const uint64_t *word)
{
	return *(const volatile uint64_t *)word;
}

int xvm_region_open(struct xvm_region *g, void *map, uint64_t size)
{
	const struct xvm_shm_region *h = map;
	uint64_t magic;

	if (size < sizeof(*h))
		return -EPROTO;
	magic = __atomic_load_n(&h->magic, __ATOMIC_ACQUIRE);
	if (!magic)
		return -EAGAIN;
	if (magic != XVM_REGION_MAGIC)
		return -EPROTO;
	if (once32(&h->version) != XVM_REGION_VERSION)
		return -EPROTONOSUPPORT;
	/* The file may be larger than the device: BAR2 is what counts, and it is all of it. */
	if (once64(&h->size) != size)
		return -EPROTO;
	if (xvm_region_figure(g, size, once32(&h->peers), once32(&h->vectors)))
		return -EPROTO;
	/* These follow from what was read already: they are compared, never used. */
	if (once64(&h->arena_size) != g->arena_size || once32(&h->box_off) != g->box_off ||
	    once32(&h->res_off) != g->res_off || once32(&h->lease_off) != g->lease_off)
		return -EPROTO;
	g->generation = once64(&h->generation);
	g->map = map;
	return 0;
}

bool xvm_region_piece_ok(const struct xvm_region *g, uint32_t peer, uint64_t off, uint64_t len)
{
	if (peer >= g->peers || off % XVM_REGION_PAGE || !len)
		return false;
	if (off < xvm_region_lease_off(g, peer) || off > g->arena_size)
		return false;
	return len <= g->arena_size - off;
}

struct xvm_shm_box *xvm_region_host_box(const struct xvm_region *g, uint32_t peer)
{
	return (struct xvm_shm_box *)(g->map + g->box_off + (uint64_t)peer * XVM_REGION_BOX);
}

struct xvm_shm_box *xvm_region_peer_box(const struct xvm_region *g, uint32_t peer)
{
	return (struct xvm_shm_box *)(g->map + xvm_region_arena(g, peer));
}

/* ---- letters ---------------------------------------------------------- */

static bool half_ok(const struct xvm_letter *l, const struct xvm_region *g, uint32_t peer)
{
	uint64_t ring = l->len - XVM_HALF_CTL;

	if (l->len < XVM_HALF_CTL + XVM_RING_MIN || ring > XVM_RING_MAX || (ring & (ring - 1)))
		return false;
	return xvm_region_piece_ok(g, peer, l->off, l->len);
}

static const char *from_vm_wrong(const struct xvm_letter *l, const struct xvm_region *g,
				 uint32_t peer)
{
	switch (l->type) {
	case XVM_LETTER_HELLO:
		return l->flags & ~XVM_LETTER_F_ALL ? "unknown flags" : NULL;
	case XVM_LETTER_ADDR:
		if (l->arg > 1)
			return "an address that is neither there nor gone";
		/* The group bit: nobody's own. */
		return l->mac[0] & 1 ? "a MAC of many" : NULL;
	case XVM_LETTER_OFFER:
		if (l->role > XVM_ROLE_PASSIVE)
			return "no such role";
		return half_ok(l, g, peer) ? NULL : "a half that is not in its own arena";
	case XVM_LETTER_WITHDRAW:
	case XVM_LETTER_UNPAIR:
	case XVM_LETTER_BYE:
		return NULL;
	default:
		return "a letter of unknown type";
	}
}

static const char *from_host_wrong(const struct xvm_letter *l, const struct xvm_region *g,
				   uint32_t peer)
{
	switch (l->type) {
	case XVM_LETTER_WELCOME:
		return l->peer == peer ? NULL : "a welcome for another";
	case XVM_LETTER_AGAIN:
	case XVM_LETTER_ADDR_REFUSED:
	case XVM_LETTER_FREED:
		return NULL;
	case XVM_LETTER_PAIRED:
		if (l->peer >= g->peers || l->peer == peer)
			return "a pair with nobody";
		if (l->role != XVM_ROLE_ACTIVE && l->role != XVM_ROLE_PASSIVE)
			return "no such role";
		if (l->flags & ~XVM_LETTER_F_ALL)
			return "unknown flags";
		return half_ok(l, g, l->peer) ? NULL : "a half that is not in its owner's arena";
	case XVM_LETTER_REFUSED:
		return l->arg && l->arg < XVM_R_COUNT ? NULL : "no such reason";
	case XVM_LETTER_GONE:
		return l->peer < g->peers && l->peer != peer ? NULL : "no such peer";
	default:
		return "a letter of unknown type";
	}
}

const char *xvm_letter_wrong(const struct xvm_letter *l, const struct xvm_region *g, bool from_vm,
			     uint32_t peer)
{
	return from_vm ? from_vm_wrong(l, g, peer) : from_host_wrong(l, g, peer);
}

/* ---- mailboxes -------------------------------------------------------- */

#define WORDS (sizeof(struct xvm_letter) / sizeof(uint64_t))

static_assert(sizeof(struct xvm_letter) % sizeof(uint64_t) == 0, "whole words");

void xvm_mailbox_init(struct xvm_mailbox *m, struct xvm_shm_box *mine,
		      const struct xvm_shm_box *theirs)
{
	memset(m, 0, sizeof(*m));
	m->mine = mine;
	m->theirs = theirs;
}

void xvm_mailbox_resume(struct xvm_mailbox *m, struct xvm_shm_box *mine,
			const struct xvm_shm_box *theirs, bool same_run)
{
	xvm_mailbox_init(m, mine, theirs);
	/* Whatever these words are, the host judges them when it sees them. */
	m->head = atomic_load_explicit(&mine->head, memory_order_relaxed);
	m->stuck = atomic_load_explicit(&mine->stuck, memory_order_relaxed);
	m->tail =
		atomic_load_explicit(same_run ? &mine->tail : &theirs->head, memory_order_acquire);
	m->stuck_seen = atomic_load_explicit(&theirs->stuck, memory_order_relaxed);
	atomic_store_explicit(&mine->tail, m->tail, memory_order_release);
}

static uint64_t used(const struct xvm_mailbox *m)
{
	/* Acquire: the slot is not written before the reader has left it. Pairs with the release
	 * in xvm_mailbox_done(). */
	return m->head - atomic_load_explicit(&m->theirs->tail, memory_order_acquire);
}

int xvm_mailbox_put(struct xvm_mailbox *m, const struct xvm_letter *l)
{
	uint64_t v[WORDS], *slot = m->mine->letter[m->head % XVM_MAIL_SLOTS];
	uint64_t n = used(m);
	size_t i;

	if (n == XVM_MAIL_SLOTS) {
		atomic_store_explicit(&m->mine->stuck, ++m->stuck, memory_order_relaxed);
		/* Pairs with the fence in xvm_mailbox_done(): either we see the room there, or
		 * the reader sees that we are stuck. */
		atomic_thread_fence(memory_order_seq_cst);
		n = used(m);
	}
	if (n > XVM_MAIL_SLOTS)
		return -EPROTO;
	if (n == XVM_MAIL_SLOTS)
		return -EAGAIN;
	memcpy(v, l, sizeof(v));
	for (i = 0; i < WORDS; i++)
		__atomic_store_n(&slot[i], v[i], __ATOMIC_RELAXED);
	/* Pairs with the acquire in xvm_mailbox_get(). */
	atomic_store_explicit(&m->mine->head, ++m->head, memory_order_release);
	return 0;
}

int xvm_mailbox_get(struct xvm_mailbox *m, struct xvm_letter *l)
{
	const uint64_t *slot = m->theirs->letter[m->tail % XVM_MAIL_SLOTS];
	uint64_t v[WORDS], head;
	size_t i;

	head = atomic_load_explicit(&m->theirs->head, memory_order_acquire);
	if (head == m->tail)
		return -EAGAIN;
	if (head - m->tail > XVM_MAIL_SLOTS) {
		m->tail = head;
		return -EPROTO;
	}
	/* The writer may change them under our eyes: once, and only the copy is looked at. */
	for (i = 0; i < WORDS; i++)
		v[i] = __atomic_load_n(&slot[i], __ATOMIC_RELAXED);
	memcpy(l, v, sizeof(v));
	m->tail++;
	return 0;
}

bool xvm_mailbox_done(struct xvm_mailbox *m)
{
	uint64_t stuck;

	atomic_store_explicit(&m->mine->tail, m->tail, memory_order_release);
	/* Pairs with the fence in xvm_mailbox_put(). */
	atomic_thread_fence(memory_order_seq_cst);
	stuck = atomic_load_explicit(&m->theirs->stuck, memory_order_relaxed);
	if (stuck == m->stuck_seen)
		return false;
	m->stuck_seen = stuck;
	return true;
}

/* ---- residency -------------------------------------------------------- */

#define RES_WORDS (sizeof(struct xvm_shm_region_res) / sizeof(uint32_t))

static uint32_t *res_at(const struct xvm_region *g, uint32_t i)
{
	return (uint32_t *)(g->map + g->res_off + i * sizeof(struct xvm_shm_region_res));
}

bool xvm_region_publish(const struct xvm_region *g, const struct xvm_shm_region_res *res,
			uint32_t n, struct xvm_shm_region_res *last, uint32_t *last_n)
{
	struct xvm_shm_region *h = xvm_region_header(g);
	uint32_t i, k, v[RES_WORDS];
	uint64_t seq;

	if (n == *last_n && !memcmp(res, last, n * sizeof(*res)))
		return false;
	/* The one word of our own that is read back: a wrong value delays readers, no more. */
	seq = atomic_load_explicit(&h->res_seq, memory_order_relaxed) & ~1ull;
	atomic_store_explicit(&h->res_seq, seq + 1, memory_order_relaxed);
	/* Readers that see any of these see seq odd, or moved; pairs with their acquire loads. */
	for (i = 0; i < n; i++) {
		memcpy(v, &res[i], sizeof(v));
		for (k = 0; k < RES_WORDS; k++)
			__atomic_store_n(&res_at(g, i)[k], v[k], __ATOMIC_RELEASE);
	}
	atomic_store_explicit(&h->res_count, n, memory_order_release);
	atomic_store_explicit(&h->res_seq, seq + 2, memory_order_release);
	memcpy(last, res, n * sizeof(*res));
	*last_n = n;
	return true;
}

static uint32_t copy_residents(const struct xvm_region *g, struct xvm_shm_region_res *res,
			       uint64_t count)
{
	uint32_t v[RES_WORDS], i, k, n = 0;

	if (count > XVM_REGION_RES_MAX)
		count = XVM_REGION_RES_MAX;
	for (i = 0; i < count; i++) {
		for (k = 0; k < RES_WORDS; k++)
			v[k] = __atomic_load_n(&res_at(g, i)[k], __ATOMIC_ACQUIRE);
		memcpy(&res[n], v, sizeof(v));
		if (res[n].peer < g->peers && (res[n].flags & XVM_RES_USED))
			n++;
	}
	return n;
}

int xvm_region_residents(const struct xvm_region *g, struct xvm_shm_region_res *res)
{
	const struct xvm_shm_region *h = xvm_region_header(g);
	uint64_t seq, count;
	uint32_t i, n;

	for (i = 0; i < RES_TRIES; i++) {
		seq = atomic_load_explicit(&h->res_seq, memory_order_acquire);
		if (seq & 1)
			continue;
		count = atomic_load_explicit(&h->res_count, memory_order_acquire);
		n = copy_residents(g, res, count);
		if (atomic_load_explicit(&h->res_seq, memory_order_relaxed) == seq)
			return (int)n;
	}
	return -EAGAIN;
}
