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
	off_t len;
	int seals;
};

static const struct forged honest = {
	XVM_HALF_MAGIC, XVM_ABI_VERSION, 8192, XVM_HALF_CTL, XVM_HALF_CTL + 8192, SEALS,
};

static int try_open(const struct forged *f)
{
	struct xvm_half h;
	int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, f->len), 0);
	/* A file too short for the header stays empty: what counts is that it is refused. */
	if (f->len >= 16)
		cr_assert_eq(pwrite(fd, f, 16, 0), 16);
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
	LIE(version, XVM_ABI_VERSION + 1, -EPROTO);
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
