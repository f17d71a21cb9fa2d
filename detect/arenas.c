/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/arenas.h"
#include "detect/daemon.h"
#include "detect/guest_ep.h"
#include "detect/pairs.h"
#include "detect/share.h"

enum {
#define X(name) COUNTER_##name,
	XVM_COUNTERS(X)
#undef X
		COUNTERS
};
static_assert(COUNTERS <= XVM_ARENAS_COUNTERS, "room for all counters");

#define EPS_OFF_MAX (sizeof(struct xvm_shm_arena) + 65536)

/* Where the endpoints begin; 0 if this is no arena of this version. */
static uint32_t header(const struct xvm_arena_ref *a, uint32_t *hi)
{
	/* The head of struct xvm_shm_arena, as plain words. */
	uint32_t h[8];

	static_assert(offsetof(struct xvm_shm_arena, ep_hi) == 24, "words of h[]");
	if (pread(a->fd, h, sizeof(h), 0) != sizeof(h))
		return 0;
	if (h[0] != XVM_ARENA_MAGIC || h[1] != XVM_ABI_VERSION ||
	    h[2] != sizeof(struct xvm_shm_ep) || h[3] > XVM_ARENA_EPS)
		return 0;
	if (h[4] < sizeof(struct xvm_shm_arena) || h[4] > EPS_OFF_MAX)
		return 0;
	if (hi)
		*hi = h[6] < h[3] ? h[6] : h[3];
	return h[4];
}

int xvm_arenas_join(struct xvm_conn *c, int fd)
{
	struct xvm_daemon *d = c->d;
	struct xvm_arena_ref *a;
	struct xvm_list *n, *t;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	for (XVM_EACH(n, t, &d->arenas)) {
		a = xvm_container(n, struct xvm_arena_ref, in_all);
		if (a->dev == st.st_dev && a->ino == st.st_ino) {
			close(fd);
			goto out_join;
		}
	}
	if (!xvm_conn_charge(c, 1))
		return -EMFILE;
	a = calloc(1, sizeof(*a));
	if (!a) {
		xvm_conn_release(c, 1);
		return -ENOMEM;
	}
	a->fd = fd;
	a->dev = st.st_dev;
	a->ino = st.st_ino;
	a->serial = ++d->arena_serial;
	a->d = d;
	a->user = c->user;
	a->user->refs++;
	xvm_list_init(&a->conns);
	xvm_list_init(&a->ends);
	xvm_list_init(&a->pieces);
	xvm_list_add(&d->arenas, &a->in_all);
out_join:
	c->arena = a;
	xvm_list_add(&a->conns, &c->in_arena);
	return 0;
}

void xvm_arenas_leave(struct xvm_conn *c)
{
	struct xvm_arena_ref *a = c->arena;
	struct xvm_daemon *d = c->d;
	uint64_t n[XVM_ARENAS_COUNTERS];
	int i;

	if (!a)
		return;
	c->arena = NULL;
	xvm_list_del(&c->in_arena);
	if (!xvm_list_empty(&a->conns))
		return;
	xvm_pairs_arena_gone(d, a);
	xvm_guest_arena_gone(a);
	xvm_share_arena_gone(a);
	if (!xvm_arenas_counters(a, n))
		for (i = 0; i < COUNTERS; i++)
			d->retired[i] += n[i];
	xvm_list_del(&a->in_all);
	close(a->fd);
	d->fds--;
	a->user->fds--;
	xvm_user_put(a->user);
	free(a);
}

/* No two slots of one arena share a bucket, so nobody can make a chain longer than there are
 * arenas. */
static struct xvm_slot **bucket(const struct xvm_arena_ref *a, uint32_t slot)
{
	return &a->d->slot[(a->serial * 0x9e3779b1u + slot) % XVM_SLOT_BUCKETS];
}

struct xvm_slot *xvm_arenas_slot(const struct xvm_arena_ref *a, uint32_t slot)
{
	struct xvm_slot *s = *bucket(a, slot);

	while (s && (s->arena != a || s->slot != slot))
		s = s->hash_next;
	return s;
}

struct xvm_slot *xvm_arenas_slot_make(struct xvm_arena_ref *a, uint32_t slot)
{
	struct xvm_slot **b = bucket(a, slot), *s = xvm_arenas_slot(a, slot);

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->arena = a;
	s->slot = slot;
	s->hash_next = *b;
	*b = s;
	return s;
}

void xvm_arenas_slot_tidy(struct xvm_slot *s)
{
	struct xvm_slot **b;

	if (s->offer || s->end)
		return;
	b = bucket(s->arena, s->slot);
	while (*b != s)
		b = &(*b)->hash_next;
	*b = s->hash_next;
	free(s);
}

uint32_t xvm_arenas_read(const struct xvm_arena_ref *a, uint32_t first, uint32_t n,
			 struct xvm_shm_ep *eps)
{
	uint32_t hi, off = header(a, &hi);
	ssize_t got;

	if (!off || first >= hi)
		return 0;
	if (n > hi - first)
		n = hi - first;
	got = pread(a->fd, eps, n * sizeof(*eps), off + (off_t)first * sizeof(*eps));
	return got < 0 ? 0 : got / sizeof(*eps);
}

int xvm_arenas_counters(const struct xvm_arena_ref *a, uint64_t n[XVM_ARENAS_COUNTERS])
{
	static const size_t off[] = {
#define X(name) offsetof(struct xvm_shm_arena, n_##name),
		XVM_COUNTERS(X)
#undef X
	};
	int i;

	memset(n, 0, XVM_ARENAS_COUNTERS * sizeof(*n));
	if (!header(a, NULL))
		return -EPROTO;
	for (i = 0; i < COUNTERS; i++)
		if (pread(a->fd, &n[i], sizeof(n[i]), off[i]) != sizeof(n[i]))
			return -EPROTO;
	return 0;
}
