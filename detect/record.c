/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "detect/record.h"
#include "transport/region.h"

#define MAGIC 0x3164726365726d76ull /* "vmrecrd1" */
#define HEAD 4096u
/* No two pieces begin in the same two pages, as none is shorter. */
#define STEP (2 * XVM_REGION_PAGE)

static_assert(XVM_HALF_CTL + XVM_RING_MIN >= STEP, "a row for each piece");
static_assert(sizeof(struct xvm_record_head) <= HEAD, "room for it");

static bool map(struct xvm_record *r)
{
	int flags = r->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
	void *p = mmap(NULL, r->size, PROT_READ | PROT_WRITE, flags, r->fd, 0);

	if (p == MAP_FAILED)
		return false;
	r->head = p;
	r->row = (struct xvm_record_row *)((char *)p + HEAD);
	return true;
}

/* Sparse: most rows are never used. */
static int open_file(struct xvm_record *r, const char *path)
{
	r->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (r->fd >= 0 && !ftruncate(r->fd, (off_t)r->size) && map(r))
		return 0;
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	return -errno;
}

int xvm_record_open(struct xvm_record *r, const char *path, const char *boot, uint64_t generation,
		    uint64_t first, uint64_t end)
{
	struct xvm_record_head want = {.magic = MAGIC, .generation = generation, .first = first};
	int ret;

	memset(r, 0, sizeof(*r));
	snprintf((char *)want.boot, sizeof(want.boot), "%s", boot);
	r->first = first;
	r->rows = (size_t)((end - first + STEP - 1) / STEP);
	r->size = HEAD + r->rows * sizeof(*r->row);
	ret = open_file(r, path);
	if (ret && !map(r))
		return -ENOMEM;
	if (!ret && !memcmp(r->head, &want, offsetof(struct xvm_record_head, run)))
		return 1;
	/* Another boot or region, or another number in it: nobody has anything of that. */
	if (r->fd >= 0 && (ftruncate(r->fd, 0) || ftruncate(r->fd, (off_t)r->size)))
		return -errno;
	*r->head = want;
	return ret;
}

void xvm_record_close(struct xvm_record *r)
{
	if (r->head)
		munmap(r->head, r->size);
	if (r->fd >= 0 && r->head)
		close(r->fd);
	r->head = NULL;
	r->fd = -1;
}

struct xvm_record_row *xvm_record_row(const struct xvm_record *r, uint64_t off)
{
	return &r->row[(off - r->first) / STEP];
}

/* Holes are passed over: looking at them would fill them. */
static size_t skip_hole(const struct xvm_record *r, size_t i)
{
	off_t at = (off_t)(HEAD + i * sizeof(*r->row)), data = lseek(r->fd, at, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? r->rows : i;
	/* A row may begin in the hole. */
	return data <= at ? i : ((size_t)data - HEAD) / sizeof(*r->row);
}

struct xvm_record_row *xvm_record_next(const struct xvm_record *r, size_t *i)
{
	while (*i < r->rows) {
		if (r->fd >= 0)
			*i = skip_hole(r, *i);
		if (*i >= r->rows)
			break;
		(*i)++;
		if (atomic_load(&r->row[*i - 1].used))
			return &r->row[*i - 1];
	}
	return NULL;
}

void xvm_record_use(struct xvm_record_row *row)
{
	atomic_store(&row->used, 1);
}

void xvm_record_clear(struct xvm_record_row *row)
{
	atomic_store(&row->used, 0);
	atomic_store(&row->state, 0);
}
