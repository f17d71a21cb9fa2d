/* SPDX-License-Identifier: Apache-2.0 */
/* A handful of measurements of one thing. */
#ifndef XVM_TOOLS_SAMPLES_H
#define XVM_TOOLS_SAMPLES_H

#define XVM_SAMPLES_MAX 512

struct xvm_samples {
	unsigned n;
	double v[XVM_SAMPLES_MAX];
};

void xvm_samples_add(struct xvm_samples *s, double v);	/* beyond the maximum: dropped */
double xvm_samples_median(const struct xvm_samples *s); /* 0 if there is none */
double xvm_samples_min(const struct xvm_samples *s);
double xvm_samples_max(const struct xvm_samples *s);
/* Half the distance between the quartiles, as a part of the median: one stray run does not count.
 */
double xvm_samples_spread(const struct xvm_samples *s);

/*
 * The median of a[i] / b[i], for samples that were taken in turns. What slows the machine down for
 * a while slows both of a pair: so this is steadier than the ratio of the medians.
 */
double xvm_samples_ratio(const struct xvm_samples *a, const struct xvm_samples *b);

#endif
