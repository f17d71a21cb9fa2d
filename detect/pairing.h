/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offers that wait for their other end, and what is checked when both are there. Pure
 * logic: no descriptors are touched and nobody is told anything here.
 *
 * An offer is found by where its socket is and by the 4-tuple, all of which come from the kernel,
 * or of a socket in a VM from the VM's xvmd. In one place such a tuple names one socket; which
 * place the other end must be in is told by residency.h. So there is never a choice between
 * candidates.
 */
#ifndef XVM_DETECT_PAIRING_H
#define XVM_DETECT_PAIRING_H

#include <stdbool.h>
#include <stdint.h>

#include "detect/list.h"
#include "transport/abi.h"

#define XVM_PAIRING_BUCKETS 65536

struct xvm_vm;
struct xvm_piece;

/* A network namespace of this kernel, or a VM. What is in a VM is its own business: its xvmd offers
 * nothing that is not unique there. */
struct xvm_where {
	uint64_t netns; /* cookie; 0: in a VM */
	uint32_t vm;	/* its serial; 0: on this kernel */
};

/* What the kernel said about an offered socket. */
struct xvm_facts {
	uint8_t laddr[16], raddr[16]; /* v4 as v4-mapped */
	uint16_t lport, rport;	      /* host order */
	uint32_t ifindex;	      /* bound to this interface (or VRF), or 0 */
	uint64_t cookie;
	struct xvm_where where;
	uint64_t acked, received; /* TCP_INFO, read after outq: acked + outq is never too low */
	uint32_t outq;
};

struct xvm_offer {
	struct xvm_offer *hash_next;
	struct xvm_list in_owner;
	struct xvm_facts f;
	void *owner;	   /* struct xvm_conn, or NULL */
	struct xvm_vm *vm; /* the owner, if it is none of this kernel */
	uint32_t client;   /* what a VM calls it, with slot and gen */
	uint32_t slot, gen;
	uint32_t role; /* enum xvm_role, as the owner says */
	int half;      /* a memfd, or -1: in the owner's arena of the region, at off */
	uint64_t off, len;
	struct xvm_piece *piece; /* where that is the host's arena */
};

static inline bool xvm_where_same(struct xvm_where a, struct xvm_where b)
{
	return a.netns == b.netns && a.vm == b.vm;
}

struct xvm_pairing {
	struct xvm_offer **bucket;
	uint64_t seed;
	uint32_t count;
};

int xvm_pairing_init(struct xvm_pairing *p);
void xvm_pairing_exit(struct xvm_pairing *p);

void xvm_pairing_add(struct xvm_pairing *p, struct xvm_offer *o);
void xvm_pairing_del(struct xvm_pairing *p, struct xvm_offer *o);

/* The offer of the very tuple in the very place (an older socket's, where tuples are reused). */
struct xvm_offer *xvm_pairing_same(const struct xvm_pairing *p, const struct xvm_facts *f);

/* The offer of the mirrored tuple in that place. */
struct xvm_offer *xvm_pairing_mirror(const struct xvm_pairing *p, const struct xvm_facts *f,
				     struct xvm_where where);

/*
 * May these be the two ends of one connection? XVM_R_NONE, and their roles; or why not.
 * Refuses by counts only what is surely wrong: older's were read before newer's, unless one of them
 * has come from a VM.
 */
uint32_t xvm_pairing_judge(const struct xvm_offer *older, const struct xvm_offer *newer,
			   uint32_t *older_role, uint32_t *newer_role);

#endif
