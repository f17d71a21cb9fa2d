/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "tools/samples.h"

void xvm_samples_add(struct xvm_samples *s, double v)
{
	if (s->n < XVM_SAMPLES_MAX)
		s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The value that a share q of the samples lies below, between neighbours linearly. */
static double quantile(const struct xvm_samples *s, double q)
{
	double v[XVM_SAMPLES_MAX], at, part;
	unsigned i;

	if (!s->n)
		return 0;
	memcpy(v, s->v, s->n * sizeof(*v));
	qsort(v, s->n, sizeof(*v), by_value);
	at = q * (s->n - 1);
	i = (unsigned)at;
	part = at - i;
	return part > 0 ? v[i] + part * (v[i + 1] - v[i]) : v[i];
}

double xvm_samples_median(const struct xvm_samples *s)
{
	return quantile(s, 0.5);
}

double xvm_samples_min(const struct xvm_samples *s)
{
	return quantile(s, 0);
}

double xvm_samples_max(const struct xvm_samples *s)
{
	return quantile(s, 1);
}

double xvm_samples_spread(const struct xvm_samples *s)
{
	double m = quantile(s, 0.5);

	return m > 0 ? (quantile(s, 0.75) - quantile(s, 0.25)) / 2 / m : 0;
}

double xvm_samples_ratio(const struct xvm_samples *a, const struct xvm_samples *b)
{
	struct xvm_samples r = {0};
	unsigned i;

	for (i = 0; i < a->n && i < b->n; i++)
		if (b->v[i] > 0)
			xvm_samples_add(&r, a->v[i] / b->v[i]);
	return xvm_samples_median(&r);
}
