/* SPDX-License-Identifier: Apache-2.0 */
/* Using a connection until it is on the ring, in a program that knows of none. */
#ifndef TEST_PRELOAD_WARM_H
#define TEST_PRELOAD_WARM_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct warm {
	uint64_t was;
	int rounds, quiet;
	time_t end;
};

/*
 * After each round of four bytes either way, at one end: is it warm? Preloaded it is when TCP has
 * carried no more than pads for a while; plain, after so many rounds. Whether it has come to the
 * ring at all is the caller's business: it ends in any case.
 */
bool warm_enough(struct warm *w, int fd);

/* Rounds between two ends in this thread until that is so. False where a call fails. */
bool warm_up(int a, int b);

#endif
