/* SPDX-License-Identifier: Apache-2.0 */
#ifndef XVM_TOOLS_BENCH_H
#define XVM_TOOLS_BENCH_H

#include <stdbool.h>

#include "tools/samples.h"

struct xvm_bench_case {
	char name[32];	  /* rtt1, stream128K, crr, other-rtt1, other-stream128K */
	const char *mode; /* see peer.c */
	const char *unit; /* of what is counted, a second */
	const char *pin;  /* same, split, none */
	unsigned size;
	bool other; /* the server is never preloaded: xvm must cost nothing */
	bool ring;  /* the preloaded pair must be found on the ring */

	/* Results. */
	struct xvm_samples plain, xvm;
	struct xvm_samples plain_cpu, xvm_cpu; /* seconds of both ends for each that is counted */
	char path[16];			       /* as ss had it after the last slice */
	char reason[24];		       /* likewise */
	double ring_share;		       /* of the bytes of all slices */
	bool ok;
	char why[200]; /* what went wrong */
};

struct xvm_bench_setup {
	const char *where; /* "loopback" or the namespaces */
	const char *addr;
	double seconds;
	unsigned rounds;
};

double xvm_bench_ratio(const struct xvm_bench_case *c);
double xvm_bench_cpu_ratio(const struct xvm_bench_case *c);
void xvm_bench_table(const struct xvm_bench_setup *s, const struct xvm_bench_case *c, unsigned n);
void xvm_bench_json(const struct xvm_bench_setup *s, const struct xvm_bench_case *c, unsigned n);

#endif
