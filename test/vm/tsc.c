/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmtsc: prints the rate of the machine's time stamp counter in kHz, which under TCG is the guest's
 * too. A guest that measures it while others have the processors gets it wrong, and its clock then
 * goes at any rate.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Counter and clock at one moment: of several tries that one that nothing came between. */
static void both(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 20; i++) {
		uint64_t before = __rdtsc(), t = now_ns(), after = __rdtsc();

		if (after - before < best) {
			best = after - before;
			*tsc = before + best / 2;
			*ns = t;
		}
	}
}

int main(void)
{
	struct timespec wait = {.tv_nsec = 20000000};
	uint64_t tsc[2] = {0}, ns[2] = {0};

	both(&tsc[0], &ns[0]);
	nanosleep(&wait, NULL);
	both(&tsc[1], &ns[1]);
	printf("%.0f\n", (double)(tsc[1] - tsc[0]) * 1e6 / (double)(ns[1] - ns[0]));
	return 0;
}
