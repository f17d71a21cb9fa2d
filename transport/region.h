/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that the virtual machines of a group and their host share: layout, mailboxes, and
 * how what is read from there is judged. REGION.md beside this file says who writes what.
 *
 * All of it can be written by every VM of the group, whatever the rules say. So nothing in it is
 * believed: a word is read once into private memory, and the copy is judged. What a side has
 * written itself it does not read back, but keeps.
 */
#ifndef XVM_TRANSPORT_REGION_H
#define XVM_TRANSPORT_REGION_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/abi.h"

#define XVM_REGION_MAGIC 0x006e6765726d7678ull /* "xvmregn" */
#define XVM_REGION_VERSION 1
#define XVM_REGION_PAGE 4096u

#define XVM_REGION_SIZE_MIN (1ull << 20)
#define XVM_REGION_SIZE_MAX (1ull << 36)
#define XVM_REGION_PEERS_MAX 64 /* with the host */
#define XVM_REGION_VECTORS_MAX 64
#define XVM_REGION_RES_MAX 4096		   /* addresses */
#define XVM_REGION_LEASE_MIN (64ull << 10) /* that an arena has to hand out */

#define XVM_PEER_HOST 0u   /* number of the host's arena */
#define XVM_VECTOR_MAIL 0u /* a peer's vector 0 is its xvmd's; the rest are its processes' */

/* A sleep word (abi.h) of an endpoint in the region may name one of its VM's vectors, and
 * have_wakers may say that its owner can ring those of the peer. */
#define XVM_WAKER_VECTOR 128u
#define XVM_HAVE_DOORBELL (1ull << 63)

/* ---- mailboxes -------------------------------------------------------- */

#define XVM_MAIL_SLOTS 128u /* a power of two */

/* In the order of the wire; never renumber. The comment says which fields are used. An endpoint
 * is what its VM calls it: client, slot, gen; the host only gives them back. */
enum xvm_letter_type {
	/* VM to host */
	XVM_LETTER_HELLO = 1, /* arg = version, run, flags = XVM_LETTER_F_* */
	XVM_LETTER_ADDR,      /* laddr, mac, arg = 1: is there; 0: is there no more */
	XVM_LETTER_OFFER,     /* endpoint, laddr, raddr, lport, rport, role, acked, received, outq,
				 cookie, off, len = the half, relative to the VM's own arena */
	XVM_LETTER_WITHDRAW,  /* endpoint: the offer is void */
	XVM_LETTER_UNPAIR,    /* endpoint: closed, and the peer's half is mapped no more */
	XVM_LETTER_BYE,	      /* this xvmd ends, or the device is about to go */

	/* host to VM */
	XVM_LETTER_WELCOME = 32, /* arg = version, run = as in the hello, peer = who you are */
	XVM_LETTER_AGAIN,	 /* arg = errno: what you sent made no sense. Say hello */
	XVM_LETTER_PAIRED,	 /* endpoint, role = its own, peer, peer_gen, off, len = where in
				    the peer's arena its half is, flags of the peer */
	XVM_LETTER_REFUSED,	 /* endpoint, arg = enum xvm_reason */
	XVM_LETTER_GONE, /* peer, peer_gen: it has died. Reset what is paired with it, and unpair */
	XVM_LETTER_ADDR_REFUSED, /* laddr: it is not seen behind your network device */
	XVM_LETTER_FREED,	 /* endpoint: both ends have unpaired; its half is read by nobody */
};

#define XVM_LETTER_F_DOORBELL 1u   /* its processes can ring the peers' vectors */
#define XVM_LETTER_F_INTERRUPTS 2u /* its processes can be woken by vectors */
#define XVM_LETTER_F_ALL 3u

struct xvm_letter {
	uint32_t type;
	uint32_t client, slot, gen;
	uint8_t laddr[16], raddr[16]; /* v4 as v4-mapped */
	uint16_t lport, rport;	      /* host order */
	uint32_t role;
	uint64_t cookie, acked, received;
	uint32_t outq;
	uint16_t peer;
	uint8_t mac[6];
	uint32_t peer_gen;
	uint32_t arg;
	uint32_t flags;
	uint32_t pad[2];
	uint64_t off, len;
	uint64_t run; /* another each time that a guest boots: REGION.md, Restart */
};
static_assert(sizeof(struct xvm_letter) == 136, "layout is ABI");

/*
 * What one side of a mailbox writes: its letters, and how far it has read the other's. The host has
 * one for each VM, in its own arena; the VM's lies at the start of the VM's arena.
 */
struct xvm_shm_box {
	alignas(XVM_LINE) _Atomic uint64_t tail; /* letters of the other side that were read */
	alignas(XVM_LINE) _Atomic uint64_t head; /* letters written */
	_Atomic uint64_t stuck; /* times that there was no room: the reader rings when there is */
	alignas(XVM_LINE) uint64_t letter[XVM_MAIL_SLOTS][sizeof(struct xvm_letter) / 8];
};
static_assert(sizeof(struct xvm_shm_box) % XVM_LINE == 0, "layout is ABI");

#define XVM_REGION_BOX ((sizeof(struct xvm_shm_box) + 4095) & ~4095ul)

/* ---- header and tables: written by the host only ----------------------- */

enum xvm_peer_state {
	XVM_PEER_FREE = 0,
	XVM_PEER_JOINED, /* a QEMU is connected; no word of its guest's xvmd yet */
	XVM_PEER_UP,	 /* its xvmd has said hello */
	XVM_PEER_GONE,	 /* dead; others may still have its arena mapped */
};

struct xvm_shm_peer {
	alignas(XVM_LINE) _Atomic uint32_t state; /* enum xvm_peer_state */
	_Atomic uint32_t gen;	  /* of the VM: moves whenever this number is given away */
	_Atomic uint32_t vectors; /* that it was given */
	_Atomic uint32_t flags;	  /* XVM_LETTER_F_*, as it said */
	_Atomic uint64_t news;	  /* counts letters to it and changes of the tables: the one word to
				     look at where there are no interrupts */
};

struct xvm_shm_region_res {
	uint8_t addr[16]; /* v4 as v4-mapped */
	uint32_t flags;	  /* XVM_RES_* */
	uint16_t peer;	  /* where it lives */
	uint8_t mac[6];	  /* whose it is there; zero: the host's own */
};
static_assert(sizeof(struct xvm_shm_region_res) == 32 - 4, "layout is ABI");

struct xvm_shm_region {
	/* Once, before the first VM is let in; magic last. */
	uint64_t magic;
	uint32_t version;
	uint32_t peers; /* arenas: the host's, and one for each VM */
	uint64_t size;
	uint64_t arena_size;
	uint64_t generation; /* another for each region ever made */
	uint32_t vectors;    /* of each peer */
	uint32_t box_off, res_off, lease_off;

	alignas(XVM_LINE) _Atomic uint64_t res_seq; /* seqlock of res[]: odd while it changes */
	_Atomic uint64_t res_count;

	alignas(XVM_LINE) struct xvm_shm_peer peer[XVM_REGION_PEERS_MAX];
};
static_assert(sizeof(struct xvm_shm_region) == 128 + 64 * XVM_REGION_PEERS_MAX, "layout is ABI");

/* ---- the private view ------------------------------------------------- */

/* Follows from the size and the number of peers, so a header that says something else is wrong. */
struct xvm_region {
	uint8_t *map; /* NULL: only the figures */
	uint64_t size, arena_size, generation;
	uint32_t peers, vectors;
	uint64_t box_off;   /* of the host's first box, XVM_REGION_BOX bytes each, by peer */
	uint64_t res_off;   /* of the residency table */
	uint64_t lease_off; /* in the host's arena: what its processes may have begins here */
};

/* 0; -ERANGE: size is no power of two in the limits, or peers or vectors are beyond theirs;
 * -ENOSPC: too many peers for the size. map and generation are cleared. */
int xvm_region_figure(struct xvm_region *g, uint64_t size, uint32_t peers, uint32_t vectors);

/* The host: lay the header down in zeroed memory at g->map. */
void xvm_region_format(const struct xvm_region *g);

/* A guest: judge the header at map, of which size bytes are mapped. 0, -EAGAIN: there is none yet,
 * -EPROTONOSUPPORT: another version's, -EPROTO. */
int xvm_region_open(struct xvm_region *g, void *map, uint64_t size);

static inline struct xvm_shm_region *xvm_region_header(const struct xvm_region *g)
{
	return (struct xvm_shm_region *)g->map;
}

static inline uint64_t xvm_region_arena(const struct xvm_region *g, uint32_t peer)
{
	return g->arena_size * peer;
}

/* Where in an arena the pieces begin that processes may have. */
static inline uint64_t xvm_region_lease_off(const struct xvm_region *g, uint32_t peer)
{
	return peer == XVM_PEER_HOST ? g->lease_off : XVM_REGION_BOX;
}

/* Is this piece of that peer's arena one that a process may have? off is relative to the arena. */
bool xvm_region_piece_ok(const struct xvm_region *g, uint32_t peer, uint64_t off, uint64_t len);

struct xvm_shm_box *xvm_region_host_box(const struct xvm_region *g, uint32_t peer);
struct xvm_shm_box *xvm_region_peer_box(const struct xvm_region *g, uint32_t peer);

/* ---- letters ---------------------------------------------------------- */

/* Does a letter that came from a VM (from_vm; peer is its number), or from the host, make sense?
 * NULL, or what is wrong with it. */
const char *xvm_letter_wrong(const struct xvm_letter *l, const struct xvm_region *g, bool from_vm,
			     uint32_t peer);

/* One side's view of a mailbox; never in shared memory. */
struct xvm_mailbox {
	struct xvm_shm_box *mine;
	const struct xvm_shm_box *theirs;
	uint64_t head, tail;	    /* what was written to mine */
	uint64_t stuck, stuck_seen; /* mine, and theirs that was acted on */
};

/* Both boxes are zero: a VM has just been let in. */
void xvm_mailbox_init(struct xvm_mailbox *m, struct xvm_shm_box *mine,
		      const struct xvm_shm_box *theirs);
/* A guest's xvmd after its predecessor: go on where that one stopped. In another run nothing old is
 * to be read; in the same one some letters may be read twice, but none is left out. */
void xvm_mailbox_resume(struct xvm_mailbox *m, struct xvm_shm_box *mine,
			const struct xvm_shm_box *theirs, bool same_run);

/* 0, and the reader is to be rung; -EAGAIN: no room, it will ring; -EPROTO: the reader's tail makes
 * no sense. */
int xvm_mailbox_put(struct xvm_mailbox *m, const struct xvm_letter *l);

/* 0; -EAGAIN: none there; -EPROTO: the writer's head makes no sense, and everything up to it has
 * been passed over. */
int xvm_mailbox_get(struct xvm_mailbox *m, struct xvm_letter *l);

/* After the last get: give the room back. True: the writer waits for it, and is to be rung. */
bool xvm_mailbox_done(struct xvm_mailbox *m);

/* ---- residency -------------------------------------------------------- */

/* The host: say what is true now. Nothing is written, and false returned, if it was so before. last
 * is the writer's copy of what it said, *last_n entries of at most XVM_REGION_RES_MAX. */
bool xvm_region_publish(const struct xvm_region *g, const struct xvm_shm_region_res *res,
			uint32_t n, struct xvm_shm_region_res *last, uint32_t *last_n);

/* A guest: a private, judged copy in res (XVM_REGION_RES_MAX entries). How many; entries that make
 * no sense are left out. -EAGAIN: it changes without end, or its writer died on the way. */
int xvm_region_residents(const struct xvm_region *g, struct xvm_shm_region_res *res);

#endif
