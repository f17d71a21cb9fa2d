/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "detect/lent.h"
#include "transport/region.h"

#define HEAD 64 /* bytes before the bits, one for each page */

static void set(uint8_t *bits, const struct xvm_lent *l, uint64_t off, uint64_t len)
{
	uint64_t page = (off - l->first) / XVM_REGION_PAGE, n = len / XVM_REGION_PAGE;

	for (; n && page < l->pages; page++, n--)
		bits[page / 8] |= 1u << page % 8;
}

/* In order, into a book that is empty. */
static int reserve(struct xvm_lease_book *b, uint64_t off, uint64_t len)
{
	struct xvm_piece *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->book = b;
	p->off = off;
	p->len = len;
	p->refs = 1;
	xvm_list_init(&p->in_owner);
	xvm_list_add(&b->pieces, &p->in_book);
	b->lent += len;
	return 0;
}

static int reserve_all(const struct xvm_lent *l, struct xvm_lease_book *b)
{
	const uint8_t *bits = l->map + HEAD;
	uint64_t i, first = 0, run = 0;
	int ret;

	for (i = 0; i <= l->pages; i++) {
		if (i < l->pages && bits[i / 8] >> i % 8 & 1) {
			first = run++ ? first : i;
			continue;
		}
		if (!run)
			continue;
		ret = reserve(b, l->first + first * XVM_REGION_PAGE, run * XVM_REGION_PAGE);
		if (ret)
			return ret;
		run = 0;
	}
	return 0;
}

int xvm_lent_open(struct xvm_lent *l, const char *path, uint64_t generation,
		  struct xvm_lease_book *b)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), ret = 0;
	uint64_t head[2];

	memset(l, 0, sizeof(*l));
	l->first = b->first;
	l->pages = (b->end - b->first) / XVM_REGION_PAGE;
	l->size = HEAD + (size_t)(l->pages + 7) / 8;
	l->next = malloc(l->size);
	if (fd < 0 || !l->next || ftruncate(fd, (off_t)l->size)) {
		ret = l->next ? -errno : -ENOMEM;
		goto out;
	}
	l->map = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (l->map == MAP_FAILED) {
		l->map = NULL;
		ret = -errno;
		goto out;
	}
	memcpy(head, l->map, sizeof(head));
	/* Another region, or another number in it: nobody of ours has anything of that. */
	if (head[0] != generation || head[1] != l->first) {
		memset(l->map, 0, l->size);
		memcpy(l->map, (uint64_t[2]){generation, l->first}, sizeof(head));
	}
	memcpy(l->next, l->map, l->size);
	ret = reserve_all(l, b);
out:
	if (fd >= 0)
		close(fd);
	if (ret)
		xvm_lent_close(l);
	return ret;
}

void xvm_lent_close(struct xvm_lent *l)
{
	if (l->map)
		munmap(l->map, l->size);
	free(l->next);
	l->map = l->next = NULL;
}

void xvm_lent_note(struct xvm_lent *l, const struct xvm_piece *p)
{
	if (l->map)
		set(l->map + HEAD, l, p->off, p->len);
}

void xvm_lent_sync(struct xvm_lent *l, const struct xvm_lease_book *b)
{
	struct xvm_list *n, *t;

	if (!l->map)
		return;
	memset(l->next + HEAD, 0, l->size - HEAD);
	for (XVM_EACH(n, t, &b->pieces)) {
		const struct xvm_piece *p = xvm_container(n, struct xvm_piece, in_book);

		set(l->next + HEAD, l, p->off, p->len);
	}
	/* Whenever we are killed, what is lent is in there: it was before, and is now. */
	memcpy(l->map + HEAD, l->next + HEAD, l->size - HEAD);
}
