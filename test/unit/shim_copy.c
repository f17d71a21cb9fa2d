/* SPDX-License-Identifier: Apache-2.0 */
/* Copies that may fault, where nothing does: every length, and not a byte beyond. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shim/fault.h"

#define PAGE 65536 /* of any machine */
#define LONG 40000

uint8_t xvm_user_avx;

/* A page between two that are not to be touched. */
static unsigned char *fenced(void)
{
	unsigned char *p = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	cr_assert_eq(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
	return p + PAGE;
}

static bool all_are(const unsigned char *p, size_t n, unsigned char c)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != c)
			return false;
	return true;
}

/* n bytes from the start or the end of a page to the start or the end of another, aligned or not.
 */
static void one(unsigned char *to, unsigned char *from, size_t n, size_t skew)
{
	unsigned char *d = skew & 1 ? to + PAGE - n : to + skew, *s;

	s = skew & 2 ? from + PAGE - n : from + skew;
	memset(to, 0x55, PAGE);
	cr_assert_eq(xvm_user_copy(d, s, n), 0);
	cr_assert_eq(memcmp(d, s, n), 0, "%zu bytes", n);
	cr_assert(all_are(to, (size_t)(d - to), 0x55), "%zu bytes, before", n);
	cr_assert(all_are(d + n, (size_t)(to + PAGE - d) - n, 0x55), "%zu bytes, behind", n);
}

static void lengths(void)
{
	unsigned char *to = fenced(), *from = fenced();

	for (size_t i = 0; i < PAGE; i++)
		from[i] = (unsigned char)(i * 7 + (i >> 8));
	for (size_t n = 0; n < 400; n++)
		for (size_t skew = 0; skew < 4; skew++)
			one(to, from, n, skew);
	for (size_t n = 400; n < LONG; n += 1777)
		for (size_t skew = 0; skew < 40; skew += 3)
			one(to, from, n, skew);
	munmap(to - PAGE, 3 * PAGE);
	munmap(from - PAGE, 3 * PAGE);
}

Test(copy, of_every_length)
{
	xvm_user_avx = 0;
	lengths();
}

#if defined(__x86_64__)
Test(copy, with_avx)
{
	if (!__builtin_cpu_supports("avx2"))
		cr_skip("no AVX2");
	xvm_user_avx = 1;
	lengths();
}
#endif

Test(copy, tries)
{
	unsigned char *p = fenced();

	memset(p, 0xaa, PAGE);
	cr_assert_eq(xvm_user_readable(p, 0), 0);
	cr_assert_eq(xvm_user_readable(p - 1, 0), 0);
	cr_assert_eq(xvm_user_readable(p, PAGE), 0);
	cr_assert_eq(xvm_user_readable(p + 1, PAGE - 1), 0);
	cr_assert_eq(xvm_user_readable(p + PAGE - 1, 1), 0);
	cr_assert_eq(xvm_user_writable(p, 0), 0);
	cr_assert_eq(xvm_user_writable(p, PAGE), 0);
	cr_assert_eq(xvm_user_writable(p + PAGE - 1, 1), 0);
	cr_assert(all_are(p, PAGE, 0xaa));
}
