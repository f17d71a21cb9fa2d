/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A region whose words change at any time: header, mailboxes, residency. Whatever they are, nothing
 * outside of it is touched, and what passes for a letter keeps within the arena of its owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/region.h"

#define SIZE (1u << 20)
#define PEER 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct input {
	const uint8_t *at;
	size_t left;
};

static struct xvm_region host;
static struct xvm_shm_region_res res[XVM_REGION_RES_MAX];

static uint64_t take(struct input *in, size_t n)
{
	uint64_t v = 0;

	if (n > in->left)
		n = in->left;
	memcpy(&v, in->at, n);
	in->at += n;
	in->left -= n;
	return v;
}

static void check(const struct xvm_letter *l, const struct xvm_region *g, bool from_vm)
{
	uint64_t first, arena;
	uint32_t owner = from_vm ? PEER : l->peer;

	if (xvm_letter_wrong(l, g, from_vm, PEER))
		return;
	if (l->type != XVM_LETTER_OFFER && l->type != XVM_LETTER_PAIRED)
		return;
	arena = g->arena_size * owner;
	first = owner ? XVM_REGION_BOX : g->lease_off;
	if (owner >= g->peers || l->off < first || l->off >= g->arena_size ||
	    l->len > g->arena_size - l->off || arena + l->off + l->len > SIZE)
		abort();
}

/* The words that somebody hostile would choose, and any other. */
static void scribble(struct input *in)
{
	static const uint32_t base[] = {0, 64, 128, 8192, 8192 + XVM_REGION_BOX};
	uint64_t at = take(in, 1);
	uint64_t *word;

	switch (at & 3) {
	case 0:
		at = base[at / 4 % 5] + take(in, 1) * 8;
		break;
	case 1:
		at = host.arena_size * PEER + take(in, 2) % sizeof(struct xvm_shm_box);
		break;
	case 2:
		at = host.res_off + take(in, 2);
		break;
	default:
		at = take(in, 3) % SIZE;
	}
	word = (uint64_t *)(host.map + at / 8 * 8);
	*word = take(in, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct xvm_mailbox at_host, at_guest;
	struct input in = {data, len};
	struct xvm_region g = {0};
	struct xvm_letter l;
	int i, n;

	if (!host.map) {
		if (xvm_region_figure(&host, SIZE, 2, 4))
			abort();
		host.map = aligned_alloc(4096, SIZE);
	}
	memset(host.map, 0, SIZE);
	xvm_region_format(&host);
	xvm_mailbox_init(&at_host, xvm_region_host_box(&host, PEER),
			 xvm_region_peer_box(&host, PEER));
	xvm_mailbox_init(&at_guest, xvm_region_peer_box(&host, PEER),
			 xvm_region_host_box(&host, PEER));
	while (in.left) {
		switch (take(&in, 1) % 8) {
		case 0:
			if (!xvm_region_open(&g, host.map, SIZE) &&
			    (g.arena_size * g.peers > SIZE || g.lease_off > g.arena_size))
				abort();
			break;
		case 1:
			memset(&l, 0, sizeof(l));
			l.type = (uint32_t)take(&in, 1);
			l.role = XVM_ROLE_ACTIVE;
			l.peer = (uint16_t)take(&in, 1);
			l.off = take(&in, 3) << 12;
			l.len = XVM_HALF_CTL + (1ull << take(&in, 1) % 64);
			xvm_mailbox_put(&at_guest, &l);
			break;
		case 2:
			memset(&l, 0xff, sizeof(l));
			l.type = (uint32_t)take(&in, 1);
			xvm_mailbox_put(&at_host, &l);
			break;
		case 3:
			for (i = 0; i < 200 && !xvm_mailbox_get(&at_host, &l); i++)
				check(&l, &host, true);
			xvm_mailbox_done(&at_host);
			break;
		case 4:
			for (i = 0; i < 200 && !xvm_mailbox_get(&at_guest, &l); i++)
				check(&l, &host, false);
			xvm_mailbox_done(&at_guest);
			break;
		case 5:
			n = xvm_region_residents(&host, res);
			for (i = 0; i < n; i++)
				if (res[i].peer >= host.peers)
					abort();
			break;
		case 6:
			xvm_mailbox_resume(&at_guest, at_guest.mine, at_guest.theirs, false);
			break;
		default:
			scribble(&in);
		}
	}
	return 0;
}
