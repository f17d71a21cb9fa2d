/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/half.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "transport/memfd.h"
#include "transport/sys.h"

static uint32_t round_ring(uint32_t size)
{
	uint32_t n = XVM_RING_MIN;

	while (n < size && n < XVM_RING_MAX)
		n <<= 1;
	return n;
}

static void set_up(struct xvm_half *h, void *at, uint32_t ring_size)
{
	h->shm = at;
	h->ring = (uint8_t *)at + XVM_HALF_CTL;
	h->ring_size = ring_size;
}

static void put_down(struct xvm_half *h, void *at, uint32_t ring_size)
{
	struct xvm_shm_half *shm = at;

	set_up(h, at, ring_size);
	/* No barrier: the peer learns of it by a message, which orders what came before. */
	shm->magic = XVM_HALF_MAGIC;
	shm->version = XVM_ABI_VERSION;
	shm->ring_size = ring_size;
	shm->ring_off = XVM_HALF_CTL;
	atomic_store_explicit(&shm->sleep_data, XVM_SLEEP(1, XVM_WAKER_PAD), memory_order_relaxed);
	atomic_store_explicit(&shm->sleep_room, XVM_SLEEP(1, XVM_WAKER_PAD), memory_order_relaxed);
}

int xvm_half_create(struct xvm_half *h, uint32_t ring_size, int *fd)
{
	void *map;
	int mfd;

	memset(h, 0, sizeof(*h));
	ring_size = round_ring(ring_size);
	mfd = xvm_memfd_make("xvm-half", XVM_HALF_CTL + ring_size, &map);
	if (mfd < 0)
		return mfd;
	put_down(h, map, ring_size);
	h->map = map;
	h->map_len = XVM_HALF_CTL + ring_size;
	*fd = mfd;
	return 0;
}

/*
 * Map len bytes at off: the piece is at *at. Of huge pages none can be mapped or unmapped in part,
 * so there the mapping begins and ends where pages do, in the midst of others' pieces. It stays
 * within the file: of a writable one beyond the end the kernel would lengthen it.
 */
static int map_piece(struct xvm_half *h, void **at, int fd, uint64_t off, uint64_t len, int prot)
{
	uint64_t page = XVM_HALF_CTL, before;
	struct statfs fs;
	struct stat st;
	long ret;

	if (off % XVM_HALF_CTL)
		return -EINVAL;
	ret = xvm_sys(SYS_fstatfs, fd, &fs);
	if (!ret && fs.f_type == HUGETLBFS_MAGIC) {
		page = (uint64_t)fs.f_bsize;
		ret = xvm_sys(SYS_fstat, fd, &st);
	}
	if (ret)
		return (int)ret;
	before = off & (page - 1);
	off -= before;
	len = (before + len + page - 1) & ~(page - 1);
	if (page != XVM_HALF_CTL && (off >= (uint64_t)st.st_size || len > st.st_size - off))
		return -EINVAL;
	ret = xvm_sys(SYS_mmap, 0, len, prot, MAP_SHARED, fd, off);
	if (xvm_sys_failed(ret))
		return (int)ret;
	h->map = (void *)ret;
	h->map_len = len;
	*at = (char *)ret + before;
	return 0;
}

int xvm_half_create_at(struct xvm_half *h, int fd, uint64_t off, uint32_t len)
{
	uint32_t ring_size = XVM_RING_MIN;
	void *at;
	int err;

	memset(h, 0, sizeof(*h));
	if (len < XVM_HALF_CTL + XVM_RING_MIN)
		return -EINVAL;
	while (ring_size < XVM_RING_MAX && ring_size * 2 <= len - XVM_HALF_CTL)
		ring_size *= 2;
	err = map_piece(h, &at, fd, off, XVM_HALF_CTL + ring_size, PROT_READ | PROT_WRITE);
	if (err)
		return err;
	memset(at, 0, XVM_HALF_CTL);
	put_down(h, at, ring_size);
	return 0;
}

/* The peer may rewrite a word at any time, seals or not: exactly one read of each. */
static uint32_t read_once(const uint32_t *word)
{
	return *(const volatile uint32_t *)word;
}

/* The size of the ring, if there is a half with room for it in len bytes; or -EPROTO. */
static int64_t judge(const struct xvm_shm_half *shm, int64_t len)
{
	uint32_t magic = read_once(&shm->magic), version = read_once(&shm->version);
	uint32_t ring_size = read_once(&shm->ring_size), ring_off = read_once(&shm->ring_off);

	if (magic != XVM_HALF_MAGIC || version != XVM_ABI_VERSION || ring_off != XVM_HALF_CTL)
		return -EPROTO;
	if (ring_size < XVM_RING_MIN || ring_size > XVM_RING_MAX || ring_size & (ring_size - 1))
		return -EPROTO;
	if (len - XVM_HALF_CTL < ring_size)
		return -EPROTO;
	return ring_size;
}

int xvm_half_open(struct xvm_half *h, int fd)
{
	int64_t size, ring_size;
	void *map;
	int err;

	memset(h, 0, sizeof(*h));
	size = xvm_memfd_judge(fd);
	if (size < 0)
		return (int)size;
	if (size < XVM_HALF_CTL + XVM_RING_MIN)
		return -EPROTO;

	err = xvm_memfd_map(fd, XVM_HALF_CTL, &map);
	if (err)
		return err;
	ring_size = judge(map, size);
	xvm_memfd_unmap(map, XVM_HALF_CTL);
	if (ring_size < 0)
		return (int)ring_size;

	err = xvm_memfd_map(fd, XVM_HALF_CTL + (size_t)ring_size, &map);
	if (err)
		return err;
	set_up(h, map, (uint32_t)ring_size);
	h->map = map;
	h->map_len = XVM_HALF_CTL + (size_t)ring_size;
	return 0;
}

int xvm_half_open_at(struct xvm_half *h, int fd, uint64_t off, uint32_t len)
{
	int64_t ring_size;
	void *at;
	int err;

	memset(h, 0, sizeof(*h));
	if (len < XVM_HALF_CTL + XVM_RING_MIN)
		return -EPROTO;
	err = map_piece(h, &at, fd, off, len, PROT_READ);
	if (err)
		return err;
	ring_size = judge(at, len);
	if (ring_size < 0) {
		xvm_memfd_unmap(h->map, h->map_len);
		memset(h, 0, sizeof(*h));
		return (int)ring_size;
	}
	set_up(h, at, (uint32_t)ring_size);
	return 0;
}

void xvm_half_close(struct xvm_half *h)
{
	if (h->shm)
		xvm_memfd_unmap(h->map, h->map_len);
	memset(h, 0, sizeof(*h));
}

void xvm_half_put(const struct xvm_half *h, uint64_t pos, const void *src, size_t n)
{
	size_t at = pos & (h->ring_size - 1), first = h->ring_size - at;

	if (n <= first) {
		memcpy(h->ring + at, src, n);
		return;
	}
	memcpy(h->ring + at, src, first);
	memcpy(h->ring, (const char *)src + first, n - first);
}

void xvm_half_get(const struct xvm_half *h, uint64_t pos, void *dst, size_t n)
{
	size_t at = pos & (h->ring_size - 1), first = h->ring_size - at;

	if (n <= first) {
		memcpy(dst, h->ring + at, n);
		return;
	}
	memcpy(dst, h->ring + at, first);
	memcpy((char *)dst + first, h->ring, n - first);
}
