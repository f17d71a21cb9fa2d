/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "detect/pairing.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0xff51afd7ed558ccdull;
	return h ^ (h >> 32);
}

static uint64_t mix_addr(uint64_t h, const uint8_t addr[16])
{
	uint64_t v[2];

	memcpy(v, addr, 16);
	return mix(mix(h, v[0]), v[1]);
}

/* Seeded: who chooses the ports of its connections must not choose their bucket. */
static uint32_t hash(const struct xvm_pairing *p, struct xvm_where w, const uint8_t l[16],
		     const uint8_t r[16], uint16_t lport, uint16_t rport)
{
	uint64_t h = mix(mix(p->seed, w.netns), w.vm);

	h = mix_addr(mix_addr(h, l), r);
	h = mix(h, (uint32_t)lport << 16 | rport);
	return (uint32_t)(h >> 20) % XVM_PAIRING_BUCKETS;
}

static uint32_t hash_of(const struct xvm_pairing *p, const struct xvm_facts *f)
{
	return hash(p, f->where, f->laddr, f->raddr, f->lport, f->rport);
}

int xvm_pairing_init(struct xvm_pairing *p)
{
	memset(p, 0, sizeof(*p));
	p->bucket = calloc(XVM_PAIRING_BUCKETS, sizeof(*p->bucket));
	if (!p->bucket)
		return -ENOMEM;
	if (getrandom(&p->seed, sizeof(p->seed), GRND_NONBLOCK) < 0)
		p->seed = (uint64_t)(uintptr_t)p->bucket;
	return 0;
}

void xvm_pairing_exit(struct xvm_pairing *p)
{
	free(p->bucket);
	p->bucket = NULL;
}

void xvm_pairing_add(struct xvm_pairing *p, struct xvm_offer *o)
{
	struct xvm_offer **b = &p->bucket[hash_of(p, &o->f)];

	o->hash_next = *b;
	*b = o;
	p->count++;
}

void xvm_pairing_del(struct xvm_pairing *p, struct xvm_offer *o)
{
	struct xvm_offer **b = &p->bucket[hash_of(p, &o->f)];

	while (*b && *b != o)
		b = &(*b)->hash_next;
	if (*b) {
		*b = o->hash_next;
		p->count--;
	}
}

static struct xvm_offer *find(const struct xvm_pairing *p, struct xvm_where w, const uint8_t l[16],
			      const uint8_t r[16], uint16_t lport, uint16_t rport)
{
	struct xvm_offer *o = p->bucket[hash(p, w, l, r, lport, rport)];

	for (; o; o = o->hash_next)
		if (xvm_where_same(o->f.where, w) && o->f.lport == lport && o->f.rport == rport &&
		    !memcmp(o->f.laddr, l, 16) && !memcmp(o->f.raddr, r, 16))
			return o;
	return NULL;
}

struct xvm_offer *xvm_pairing_same(const struct xvm_pairing *p, const struct xvm_facts *f)
{
	return find(p, f->where, f->laddr, f->raddr, f->lport, f->rport);
}

struct xvm_offer *xvm_pairing_mirror(const struct xvm_pairing *p, const struct xvm_facts *f,
				     struct xvm_where where)
{
	return find(p, where, f->raddr, f->laddr, f->rport, f->lport);
}

static uint32_t judge_roles(uint32_t a, uint32_t b, uint32_t *ra, uint32_t *rb)
{
	/* Nobody knows whose SYN is among the counts. */
	if (a == XVM_ROLE_UNKNOWN && b == XVM_ROLE_UNKNOWN)
		return XVM_R_UNSUPPORTED;
	if (a == XVM_ROLE_UNKNOWN)
		a = b == XVM_ROLE_ACTIVE ? XVM_ROLE_PASSIVE : XVM_ROLE_ACTIVE;
	if (b == XVM_ROLE_UNKNOWN)
		b = a == XVM_ROLE_ACTIVE ? XVM_ROLE_PASSIVE : XVM_ROLE_ACTIVE;
	if (a == b)
		return XVM_R_SELF;
	*ra = a;
	*rb = b;
	return XVM_R_NONE;
}

uint32_t xvm_pairing_judge(const struct xvm_offer *older, const struct xvm_offer *newer,
			   uint32_t *older_role, uint32_t *newer_role)
{
	const struct xvm_facts *o = &older->f, *n = &newer->f;

	bool same = xvm_where_same(o->where, n->where);

	if (same && o->cookie == n->cookie)
		return XVM_R_SELF;
	/* Two VRFs of one namespace, or two links with link-local addresses, are two worlds. */
	if (same && o->ifindex && n->ifindex && o->ifindex != n->ifindex)
		return XVM_R_UNSUPPORTED;
	/* A letter from a VM may have been overtaken: nobody knows which counts are the older. */
	if (o->where.vm || n->where.vm)
		return judge_roles(older->role, newer->role, older_role, newer_role);
	/* What had been acknowledged to the older end had arrived here; its SYN may count. */
	if (n->received < o->acked && o->acked - n->received > 1)
		return XVM_R_BAD_PEER;
	/* What the older end had received, had been sent here. */
	if (n->acked + n->outq < o->received)
		return XVM_R_BAD_PEER;
	return judge_roles(older->role, newer->role, older_role, newer_role);
}
