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

static void set_up(struct xvm_half *h, void *at, uint32_t ring_size, uint32_t first)
{
	h->shm = at;
	h->ring = (uint8_t *)at + XVM_HALF_CTL;
	h->ring_size = ring_size;
	h->first = first;
	h->last = (uint32_t)__builtin_ctz(ring_size / first);
	h->window = XVM_WINDOW_NONE;
}

static void put_down(struct xvm_half *h, void *at, uint32_t ring_size)
{
	struct xvm_shm_half *shm = at;

	set_up(h, at, ring_size, ring_size < XVM_WINDOW_FIRST ? ring_size : XVM_WINDOW_FIRST);
	/* No barrier: the peer learns of it by a message, which orders what came before. */
	shm->magic = XVM_HALF_MAGIC;
	shm->version = XVM_HALF_VERSION;
	shm->ring_size = ring_size;
	shm->ring_off = XVM_HALF_CTL;
	shm->first = h->first;
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

static bool is_size(uint32_t n, uint32_t most)
{
	return n >= XVM_RING_MIN && n <= most && !(n & (n - 1));
}

/* The size of the ring, if there is a half with room for it in len bytes; or -EPROTO. */
static int64_t judge(const struct xvm_shm_half *shm, int64_t len, uint32_t *first)
{
	uint32_t magic = read_once(&shm->magic), version = read_once(&shm->version);
	uint32_t ring_size = read_once(&shm->ring_size), ring_off = read_once(&shm->ring_off);

	*first = read_once(&shm->first);
	if (magic != XVM_HALF_MAGIC || version != XVM_HALF_VERSION || ring_off != XVM_HALF_CTL)
		return -EPROTO;
	if (!is_size(ring_size, XVM_RING_MAX) || !is_size(*first, ring_size))
		return -EPROTO;
	if (len - XVM_HALF_CTL < ring_size)
		return -EPROTO;
	return ring_size;
}

int xvm_half_open(struct xvm_half *h, int fd)
{
	int64_t size, ring_size;
	uint32_t first;
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
	ring_size = judge(map, size, &first);
	xvm_memfd_unmap(map, XVM_HALF_CTL);
	if (ring_size < 0)
		return (int)ring_size;

	err = xvm_memfd_map(fd, XVM_HALF_CTL + (size_t)ring_size, &map);
	if (err)
		return err;
	set_up(h, map, (uint32_t)ring_size, first);
	h->map = map;
	h->map_len = XVM_HALF_CTL + (size_t)ring_size;
	return 0;
}

int xvm_half_open_at(struct xvm_half *h, int fd, uint64_t off, uint32_t len)
{
	int64_t ring_size;
	uint32_t first;
	void *at;
	int err;

	memset(h, 0, sizeof(*h));
	if (len < XVM_HALF_CTL + XVM_RING_MIN)
		return -EPROTO;
	err = map_piece(h, &at, fd, off, len, PROT_READ);
	if (err)
		return err;
	ring_size = judge(at, len, &first);
	if (ring_size < 0) {
		xvm_memfd_unmap(h->map, h->map_len);
		memset(h, 0, sizeof(*h));
		return (int)ring_size;
	}
	set_up(h, at, (uint32_t)ring_size, first);
	return 0;
}

void xvm_half_close(struct xvm_half *h)
{
	if (h->shm)
		xvm_memfd_unmap(h->map, h->map_len);
	memset(h, 0, sizeof(*h));
}

/* ---- windows ------------------------------------------------------------ */

void xvm_half_window(struct xvm_half *h, uint32_t first)
{
	set_up(h, h->shm, h->ring_size, first);
	h->shm->first = first;
}

static void load_window(struct xvm_half *h, uint32_t number, uint64_t from)
{
	/* A thread that does not come to the end of this has left nothing that is believed. */
	h->window = XVM_WINDOW_NONE;
	atomic_signal_fence(memory_order_seq_cst);
	h->mask = (h->first << number) - 1;
	h->from = from;
	/* The half that no window before had is used first. */
	h->base = number ? from - (h->first << number) / 2 : 0;
	atomic_signal_fence(memory_order_seq_cst);
	h->window = number;
}

static uint64_t begin(const struct xvm_half *h, uint32_t number)
{
	return number ? atomic_load_explicit(&h->shm->begin[number], memory_order_relaxed) : 0;
}

/* Not more than there can be, whatever is written there. */
static uint32_t newest(const struct xvm_half *h)
{
	uint64_t n = atomic_load_explicit(&h->shm->windows, memory_order_acquire);

	return n < h->last ? (uint32_t)n : h->last;
}

uint8_t *xvm_half_find(struct xvm_half *h, uint64_t pos, size_t *n)
{
	uint32_t number = newest(h);
	uint64_t from = begin(h, number);
	size_t at, row = *n;

	while (number && (int64_t)(pos - from) < 0) {
		if (row > from - pos)
			row = from - pos;
		from = begin(h, --number);
	}
	load_window(h, number, from);
	at = (pos - h->base) & h->mask;
	if (row > (size_t)h->mask + 1 - at)
		row = (size_t)h->mask + 1 - at;
	*n = row;
	return h->ring + at;
}

int64_t xvm_half_room_slow(struct xvm_half *h, uint64_t head, uint64_t tail)
{
	uint32_t number = newest(h);
	uint64_t bytes, room;

	if (number != h->window) /* grown by a fork that shares the socket, or not looked at yet */
		load_window(h, number, begin(h, number));
	bytes = (uint64_t)h->mask + 1;
	/* What the windows before hold lies in the lower half. */
	room = (int64_t)(tail - h->from) < 0 ? h->from + bytes / 2 - head : tail + bytes - head;
	return room <= bytes ? (int64_t)room : -EPROTO;
}

bool xvm_half_grow(struct xvm_half *h, uint64_t head, int64_t room)
{
	uint32_t number = newest(h) + 1;
	uint64_t pos = head + (uint64_t)room, line = pos & ~(uint64_t)(XVM_LINE - 1);

	if (number > h->last)
		return false;
	if ((int64_t)(line - head) >= 0) /* what was in one line stays in one */
		pos = line;
	atomic_store_explicit(&h->shm->begin[number], pos, memory_order_relaxed);
	/* G1: the head that passes pos comes later. Pairs with the acquire in xvm_half_at(). */
	atomic_store_explicit(&h->shm->windows, number, memory_order_release);
	load_window(h, number, pos);
	return true;
}

void xvm_half_put(struct xvm_half *h, uint64_t pos, const void *src, size_t n)
{
	for (size_t done = 0, k; done < n; done += k) {
		uint8_t *at;

		k = n - done;
		at = xvm_half_at(h, pos + done, &k);
		memcpy(at, (const char *)src + done, k);
	}
}

void xvm_half_get(struct xvm_half *h, uint64_t pos, void *dst, size_t n)
{
	for (size_t done = 0, k; done < n; done += k) {
		const uint8_t *at;

		k = n - done;
		at = xvm_half_at(h, pos + done, &k);
		memcpy((char *)dst + done, at, k);
	}
}
