/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/half.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

/* A stranger's memfd: a header that is right unless the test spoils it. */
struct forged {
	uint32_t magic, version, ring_size, ring_off;
	uint64_t process;
	uint32_t first;
	off_t len;
	int seals;
};

static const struct forged honest = {
	XVM_HALF_MAGIC, XVM_HALF_VERSION, 8192, XVM_HALF_CTL, 0, 4096, XVM_HALF_CTL + 8192, SEALS,
};

static int try_open(const struct forged *f)
{
	struct xvm_half h;
	int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, f->len), 0);
	/* A file too short for the header stays empty: what counts is that it is refused. */
	if (f->len >= 28)
		cr_assert_eq(pwrite(fd, f, 28, 0), 28);
	if (f->seals)
		cr_assert_eq(fcntl(fd, F_ADD_SEALS, f->seals), 0);
	err = xvm_half_open(&h, fd);
	if (err)
		cr_assert_null(h.shm, "a refused half stayed mapped");
	xvm_half_close(&h);
	close(fd);
	return err;
}

Test(half, create_and_open)
{
	struct xvm_half mine, peer;
	struct stat st;
	int fd;

	cr_assert_eq(xvm_half_create(&mine, 8192, &fd), 0);
	cr_assert_eq(mine.ring_size, 8192u);
	cr_assert_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_GET_SEALS) & SEALS, SEALS);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600u);
	cr_assert_eq(st.st_size, XVM_HALF_CTL + 8192);
	cr_assert_eq(mine.shm->sleep_data, XVM_SLEEP(1, XVM_WAKER_PAD));
	cr_assert_eq(mine.shm->sleep_room, XVM_SLEEP(1, XVM_WAKER_PAD));

	cr_assert_eq(xvm_half_open(&peer, fd), 0);
	close(fd);
	cr_assert_eq(peer.ring_size, 8192u);
	atomic_store(&mine.shm->head, 77);
	cr_assert_eq(peer.shm->head, 77u);
	xvm_half_close(&mine);
	cr_assert_eq(peer.shm->head, 77u, "a half outlives the process that wrote it");
	xvm_half_close(&peer);
	xvm_half_close(&peer);
}

Test(half, sizes_are_rounded)
{
	static const uint32_t in[] = {
		0, 1, 4096, 4097, 100000, XVM_RING_MAX, XVM_RING_MAX + 1, UINT32_MAX};
	static const uint32_t out[] = {4096,   4096,	     4096,	   8192,
				       131072, XVM_RING_MAX, XVM_RING_MAX, XVM_RING_MAX};
	struct xvm_half h;
	unsigned i;
	int fd;

	for (i = 0; i < sizeof(in) / sizeof(*in); i++) {
		cr_assert_eq(xvm_half_create(&h, in[i], &fd), 0);
		cr_expect_eq(h.ring_size, out[i], "%u", in[i]);
		xvm_half_close(&h);
		close(fd);
	}
}

/* What a peer holds of us lets it read, and nothing else. */
Test(half, peer_cannot_write)
{
	struct xvm_half h;
	int fd;

	cr_assert_eq(xvm_half_create(&h, 4096, &fd), 0);
	cr_expect_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	cr_expect_eq(write(fd, "x", 1), -1);
	cr_expect_eq(ftruncate(fd, 0), -1);
	cr_expect_eq(ftruncate(fd, 1 << 20), -1);
	cr_expect_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	xvm_half_close(&h);
	cr_assert_eq(xvm_half_open(&h, fd), 0);
	cr_expect_eq(mprotect(h.shm, 4096, PROT_READ | PROT_WRITE), -1);
	xvm_half_close(&h);
	close(fd);
}

Test(half, lies_are_refused)
{
	struct forged f = honest;

	cr_expect_eq(try_open(&f), 0);
#define LIE(field, value, err)                                                                     \
	do {                                                                                       \
		f = honest;                                                                        \
		f.field = (value);                                                                 \
		cr_expect_eq(try_open(&f), err, #field " = " #value);                              \
	} while (0)
	LIE(magic, 0, -EPROTO);
	LIE(magic, XVM_HALF_MAGIC + 1, -EPROTO);
	LIE(version, 0, -EPROTO);
	LIE(version, XVM_HALF_VERSION + 1, -EPROTO);
	LIE(ring_size, 0, -EPROTO);
	LIE(ring_size, 1, -EPROTO);
	LIE(ring_size, 2048, -EPROTO);
	LIE(ring_size, 4097, -EPROTO);
	LIE(ring_size, 6144, -EPROTO);
	LIE(ring_size, 16384, -EPROTO);
	LIE(ring_size, XVM_RING_MAX * 2, -EPROTO);
	LIE(ring_size, 0x80000000u, -EPROTO);
	LIE(ring_size, UINT32_MAX, -EPROTO);
	LIE(ring_off, 0, -EPROTO);
	LIE(ring_off, 8192, -EPROTO);
	LIE(ring_off, UINT32_MAX - 4095, -EPROTO);
	LIE(first, 0, -EPROTO);
	LIE(first, 2048, -EPROTO);
	LIE(first, 6144, -EPROTO);
	LIE(first, 8192, 0);
	LIE(first, 16384, -EPROTO);
	LIE(first, UINT32_MAX, -EPROTO);
	LIE(len, 0, -EPROTO);
	LIE(len, 4096, -EPROTO);
	LIE(len, XVM_HALF_CTL + 8191, -EPROTO);
	LIE(len, XVM_HALF_CTL + 65536, 0);
	LIE(seals, 0, -EPERM);
	LIE(seals, SEALS & ~F_SEAL_SHRINK, -EPERM);
	LIE(seals, SEALS & ~F_SEAL_FUTURE_WRITE, -EPERM);
	LIE(seals, SEALS & ~F_SEAL_SEAL, -EPERM);
#undef LIE
}

Test(half, not_a_memfd)
{
	struct xvm_half h;
	char path[] = "/tmp/xvm-unit-XXXXXX";
	int p[2], fd;

	cr_expect_eq(xvm_half_open(&h, -1), -EBADF);
	cr_assert_eq(pipe(p), 0);
	cr_expect_eq(xvm_half_open(&h, p[0]), -EPERM);
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	unlink(path);
	cr_assert_eq(ftruncate(fd, XVM_HALF_CTL + 8192), 0);
	cr_expect_eq(xvm_half_open(&h, fd), -EPERM);
	close(fd);
}

Test(half, no_descriptor_left_on_failure)
{
	struct xvm_half h;
	int lim[] = {0, 1, 2}, fd = -7, before, after;
	unsigned i;

	/* No room for a descriptor at all. */
	before = dup(0);
	cr_assert_geq(before, 0);
	close(before);
	for (i = 0; i < sizeof(lim) / sizeof(*lim); i++)
		cr_expect_eq(xvm_half_open(&h, lim[i]), -EPERM);
	after = dup(0);
	cr_expect_eq(before, after);
	cr_expect_eq(fd, -7);
}

Test(half, copies_wrap)
{
	static uint8_t in[4096], out[4096];
	struct xvm_half h;
	uint64_t pos;
	size_t n, i;
	int fd;

	cr_assert_eq(xvm_half_create(&h, 4096, &fd), 0);
	for (i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + (i >> 8));
	for (pos = UINT64_MAX - 9000; pos < UINT64_MAX - 8000; pos += 13)
		for (n = 0; n <= 4096; n += n < 20 ? 1 : 1019) {
			memset(out, 0, sizeof(out));
			xvm_half_put(&h, pos, in, n);
			xvm_half_get(&h, pos, out, n);
			cr_assert_eq(memcmp(in, out, n), 0);
		}
	/* Byte by byte where a bulk copy put them, past the wrap of the position itself. */
	pos = UINT64_MAX - 5;
	xvm_half_put(&h, pos, in, 100);
	for (i = 0; i < 100; i++) {
		xvm_half_get(&h, pos + i, out, 1);
		cr_assert_eq(out[0], in[i]);
	}
	xvm_half_close(&h);
	close(fd);
}

/* ---- pieces of a shared file ------------------------------------------ */

#define FILE_LEN (4u << 20)
#define PIECE (XVM_HALF_CTL + 65536u)

/* A half at each of some offsets: what lies beside them is not touched, and nothing stays mapped.
 */
static void pieces_of(int fd)
{
	/* One across the middle, where a huge page ends; one at the very end. */
	static const uint64_t off[] = {0, 4096, (2u << 20) - 8192, FILE_LEN - PIECE};
	struct xvm_half mine, peer;
	uint8_t *all;
	unsigned i;

	all = mmap(NULL, FILE_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(all, MAP_FAILED);
	for (i = 0; i < sizeof(off) / sizeof(off[0]); i++) {
		memset(all, 0xa5, FILE_LEN);
		cr_assert_eq(xvm_half_create_at(&mine, fd, off[i], PIECE), 0);
		cr_assert_eq(mine.ring_size, 65536u);
		cr_assert_eq(xvm_half_open_at(&peer, fd, off[i], PIECE), 0);
		cr_assert_eq(peer.ring_size, 65536u);
		atomic_store(&mine.shm->head, 77 + i);
		cr_assert_eq(peer.shm->head, 77 + i);
		cr_assert_eq(memcmp(all + off[i], mine.shm, XVM_HALF_CTL), 0);
		memset(mine.ring, 1, mine.ring_size);
		cr_assert_eq(peer.ring[65535], 1);
		cr_assert(!off[i] || all[off[i] - 1] == 0xa5);
		cr_assert(off[i] + PIECE == FILE_LEN || all[off[i] + PIECE] == 0xa5);
		xvm_half_close(&mine);
		cr_assert_eq(peer.ring[0], 1);
		xvm_half_close(&peer);
	}
	cr_assert_eq(xvm_half_create_at(&mine, fd, 100, PIECE), -EINVAL);
	cr_assert_null(mine.shm);
	all[0] ^= 0xff;
	cr_assert_eq(xvm_half_open_at(&peer, fd, 0, PIECE), -EPROTO);
	cr_assert_null(peer.shm);
	munmap(all, FILE_LEN);
}

static unsigned mappings_of(const char *name)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	while (fgets(line, sizeof(line), f))
		n += strstr(line, name) != NULL;
	fclose(f);
	return n;
}

Test(half, pieces)
{
	int fd = memfd_create("pieces", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, FILE_LEN), 0);
	pieces_of(fd);
	cr_assert_eq(mappings_of("pieces"), 0u);
	close(fd);
}

Test(half, pieces_of_huge_pages)
{
	int fd = memfd_create("pieces", MFD_CLOEXEC | MFD_HUGETLB);
	struct xvm_half h;
	struct stat st;

	/* Most machines have none in their pool; net-hugepages sees to that. */
	if (fd < 0 || ftruncate(fd, FILE_LEN) || fallocate(fd, 0, 0, FILE_LEN))
		return;
	pieces_of(fd);
	cr_assert_eq(mappings_of("pieces"), 0u);
	/* The kernel would lengthen it. */
	cr_assert_eq(xvm_half_create_at(&h, fd, FILE_LEN - 4096, PIECE), -EINVAL);
	cr_assert_eq(xvm_half_create_at(&h, fd, FILE_LEN, PIECE), -EINVAL);
	cr_assert_eq(xvm_half_create_at(&h, fd, 1ull << 40, PIECE), -EINVAL);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_size, FILE_LEN);
	close(fd);
}

/* ---- windows ------------------------------------------------------------ */

#define RING 65536u
#define FIRST 4096u

struct both {
	struct xvm_half mine, peer;
	uint64_t head, tail;
};

static void make_both(struct both *b, uint32_t ring, uint32_t first)
{
	int fd;

	cr_assert_eq(xvm_half_create(&b->mine, ring, &fd), 0);
	xvm_half_window(&b->mine, first);
	cr_assert_eq(xvm_half_open(&b->peer, fd), 0);
	close(fd);
	b->head = b->tail = 0;
}

static void unmake_both(struct both *b)
{
	xvm_half_close(&b->mine);
	xvm_half_close(&b->peer);
}

static uint8_t byte_at(uint64_t pos)
{
	return (uint8_t)((pos * 0x9E3779B97F4A7C15ull) >> 56);
}

/* As a sender puts them. Publishes only some of what it has written. */
static size_t send_some(struct both *b, size_t n, size_t publish)
{
	static uint8_t buf[RING];
	int64_t room;

	do {
		room = xvm_half_room(&b->mine, b->head, b->tail);
		cr_assert_geq(room, 0);
	} while ((size_t)room < n && xvm_half_grow(&b->mine, b->head, room));
	if (n > (size_t)room)
		n = (size_t)room;
	for (size_t i = 0; i < n; i++)
		buf[i] = i < publish ? byte_at(b->head + i) : 0xee;
	xvm_half_put(&b->mine, b->head, buf, n);
	if (n > publish)
		n = publish;
	b->head += n;
	return n;
}

static void take_some(struct both *b, size_t n, size_t most)
{
	static uint8_t buf[RING];

	if (n > b->head - b->tail)
		n = b->head - b->tail;
	/* In pieces, as an application's buffers have them. */
	for (size_t done = 0, k; done < n; done += k) {
		k = n - done < most ? n - done : most;
		xvm_half_get(&b->peer, b->tail + done, buf + done, k);
	}
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(buf[i], byte_at(b->tail + i), "byte %lu", b->tail + i);
	b->tail += n;
}

Test(half, a_window_that_suffices_does_not_grow)
{
	struct both b;

	make_both(&b, RING, FIRST);
	for (int i = 0; i < 1000; i++) {
		cr_assert_eq(send_some(&b, FIRST, FIRST), FIRST);
		take_some(&b, FIRST, FIRST);
	}
	cr_assert_eq(atomic_load(&b.mine.shm->windows), 0u);
	for (size_t i = FIRST; i < RING; i++)
		cr_assert_eq(b.mine.ring[i], 0);
	unmake_both(&b);
}

/* Wherever it was when it began to be filled. */
Test(half, is_filled_without_a_reader)
{
	static const uint64_t before[] = {0, 1, 63, 100, 2048, 4095, 4096, 5000, 9000};

	for (size_t i = 0; i < sizeof(before) / sizeof(*before); i++)
		for (size_t step = 1; step <= RING; step = step * 3 + 1) {
			struct both b;
			size_t sum = 0, n;

			make_both(&b, RING, FIRST);
			while (b.head < before[i]) {
				send_some(&b, before[i] - b.head < 1000 ? before[i] - b.head : 1000,
					  RING);
				take_some(&b, 1000, 1000);
			}
			while ((n = send_some(&b, step, RING)) > 0)
				sum += n;
			cr_assert_leq(sum, RING);
			cr_assert_gt(sum, RING - 4 * XVM_LINE, "%zu bytes by %zu", sum, step);
			take_some(&b, RING, 777);
			cr_assert_eq(send_some(&b, RING, RING), RING);
			take_some(&b, RING, RING);
			unmake_both(&b);
		}
}

/* Heirs of senders that wrote, and grew, and were killed before they published. */
Test(half, grows_at_any_time)
{
	for (unsigned seed = 1; seed <= 300; seed++) {
		unsigned x = seed * 2654435761u;
		uint32_t ring = FIRST << seed % 5;
		struct both b;

		make_both(&b, ring, FIRST);
		for (int i = 0; i < 300; i++) {
			size_t n, most;

			x = x * 1103515245 + 12345;
			n = x >> 8 & 1 ? (x >> 16) % 200 + 1 : (x >> 16) % ring + 1;
			most = x >> 9 & 3 ? n : n / 2;
			if (x >> 11 & 1) {
				send_some(&b, n, most);
			} else {
				if (x >> 12 & 1) /* another process's, which has seen nothing */
					b.mine.window = b.peer.window = XVM_WINDOW_NONE;
				take_some(&b, n, most ? most : 1);
			}
			cr_assert_leq(b.head - b.tail,
				      (uint64_t)FIRST << atomic_load(&b.mine.shm->windows));
		}
		take_some(&b, ring, ring);
		unmake_both(&b);
	}
}

Test(half, a_tail_that_cannot_be)
{
	struct both b;

	make_both(&b, RING, FIRST);
	cr_expect_eq(xvm_half_room(&b.mine, 100, 101 + FIRST), -EPROTO);
	cr_expect_eq(xvm_half_room(&b.mine, 10000, 10000 - FIRST - 1), -EPROTO);
	cr_expect_eq(xvm_half_room(&b.mine, 10000, 10000 - FIRST), 0);
	cr_assert(xvm_half_grow(&b.mine, 10000, 0));
	cr_expect_eq(xvm_half_room(&b.mine, 10000, 9999), (int64_t)FIRST);
	cr_expect_eq(xvm_half_room(&b.mine, 10000 + FIRST + 1, 9999), -EPROTO);
	cr_expect_eq(xvm_half_room(&b.mine, 10000 + FIRST, 10000), (int64_t)FIRST);
	unmake_both(&b);
}

Test(half, windows_that_lie_stay_in_the_ring)
{
	struct both b;
	uint64_t x = 1;

	make_both(&b, RING, FIRST);
	for (int i = 0; i < 200000; i++) {
		uint64_t v[4], pos;
		size_t n, want;
		uint8_t *at;

		for (int k = 0; k < 4; k++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			v[k] = x >> (x >> 58);
		}
		atomic_store(&b.mine.shm->windows, v[0] >> 32 & 1 ? v[1] : v[1] % XVM_WINDOWS);
		atomic_store(&b.mine.shm->begin[v[1] % XVM_WINDOWS], v[2] >> 40 & 1 ? v[2] : v[3]);
		pos = v[3];
		want = n = v[2] % RING + 1;
		at = xvm_half_at(&b.peer, pos, &n);
		cr_assert(n >= 1 && n <= want);
		cr_assert(at >= b.peer.ring && at < b.peer.ring + RING);
		cr_assert(n <= (size_t)(b.peer.ring + RING - at));
	}
	unmake_both(&b);
}
