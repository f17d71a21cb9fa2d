/* SPDX-License-Identifier: Apache-2.0 */
/* What `xvm bench` says about what it has measured. */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "tools/bench.h"
#include "tools/columns.h"
#include "tools/json.h"

double xvm_bench_ratio(const struct xvm_bench_case *c)
{
	return xvm_samples_ratio(&c->xvm, &c->plain);
}

double xvm_bench_cpu_ratio(const struct xvm_bench_case *c)
{
	return xvm_samples_ratio(&c->xvm_cpu, &c->plain_cpu);
}

static unsigned cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 0 : CPU_COUNT(&set);
}

static void add_rate(struct xvm_columns *cols, const struct xvm_samples *s, const char *unit)
{
	char buf[16];

	if (!s->n) {
		xvm_columns_add(cols, "-");
		xvm_columns_add(cols, "%s", "");
		return;
	}
	xvm_columns_si(xvm_samples_median(s), buf);
	xvm_columns_add(cols, "%s%s%s/s", buf, strchr(buf, ' ') ? "" : " ", unit);
	xvm_columns_add(cols, "±%.1f %%", 100 * xvm_samples_spread(s));
}

/* "ring", or how it was not. */
static void add_path(struct xvm_columns *cols, const struct xvm_bench_case *c)
{
	if (c->ring_share >= 0.995 || c->ring_share <= 0.005)
		xvm_columns_add(cols, "%s%s%s", c->path, c->ring ? "" : "  ",
				c->ring || !strcmp(c->reason, "none") ? "" : c->reason);
	else
		xvm_columns_add(cols, "%s, %.0f %% of the bytes", c->path, 100 * c->ring_share);
}

void xvm_bench_table(const struct xvm_bench_setup *s, const struct xvm_bench_case *c, unsigned n)
{
	static const char *const heads[] = {"CASE", "CPUS",  "PLAIN", "",    "XVM",
					    "",	    "RATIO", "CPU",   "PATH"};
	struct xvm_columns cols;
	const struct xvm_bench_case *e;
	unsigned i;

	printf("%s, address %s, %u rounds of %g s each in slices; medians, ± half the "
	       "interquartile range\nRATIO: of the speeds. CPU: what xvm takes for the same work, "
	       "of "
	       "plain's\n\n",
	       s->where, s->addr, s->rounds, s->seconds);
	xvm_columns_init(&cols, 9, 0xfc);
	for (i = 0; i < 9; i++)
		xvm_columns_add(&cols, "%s", heads[i]);
	for (e = c; e < c + n; e++) {
		xvm_columns_add(&cols, "%s", e->name);
		xvm_columns_add(&cols, "%s", e->pin);
		add_rate(&cols, &e->plain, e->unit);
		add_rate(&cols, &e->xvm, e->unit);
		if (e->plain.n && e->xvm.n)
			xvm_columns_add(&cols, "%.*fx", xvm_bench_ratio(e) < 9.995 ? 3 : 1,
					xvm_bench_ratio(e));
		else
			xvm_columns_add(&cols, "-");
		if (e->plain_cpu.n && e->xvm_cpu.n)
			xvm_columns_add(&cols, "%.2fx", xvm_bench_cpu_ratio(e));
		else
			xvm_columns_add(&cols, "-");
		if (e->ok)
			add_path(&cols, e);
		else
			xvm_columns_add(&cols, "FAIL: %s", e->why);
	}
	xvm_columns_print(&cols, stdout);
}

static void put_samples(struct xvm_json *j, const char *key, const struct xvm_samples *s)
{
	unsigned i;

	xvm_json_object(j, key);
	xvm_json_num(j, "median", xvm_samples_median(s));
	xvm_json_num(j, "min", xvm_samples_min(s));
	xvm_json_num(j, "max", xvm_samples_max(s));
	xvm_json_num(j, "spread", xvm_samples_spread(s));
	xvm_json_array(j, "samples");
	for (i = 0; i < s->n; i++)
		xvm_json_num(j, NULL, s->v[i]);
	xvm_json_close(j);
	xvm_json_close(j);
}

void xvm_bench_json(const struct xvm_bench_setup *s, const struct xvm_bench_case *c, unsigned n)
{
	const struct xvm_bench_case *e;
	struct utsname u;
	struct xvm_json j;

	uname(&u);
	xvm_json_begin(&j, stdout);
	xvm_json_object(&j, NULL);
	xvm_json_str(&j, "version", XVM_VERSION);
	xvm_json_str(&j, "kernel", u.release);
	xvm_json_uint(&j, "cpus", cpus());
	xvm_json_str(&j, "where", s->where);
	xvm_json_str(&j, "addr", s->addr);
	xvm_json_num(&j, "seconds", s->seconds);
	xvm_json_uint(&j, "rounds", s->rounds);
	xvm_json_array(&j, "cases");
	for (e = c; e < c + n; e++) {
		xvm_json_object(&j, NULL);
		xvm_json_str(&j, "case", e->name);
		xvm_json_str(&j, "pin", e->pin);
		xvm_json_str(&j, "unit", e->unit);
		xvm_json_uint(&j, "size", e->size);
		put_samples(&j, "plain", &e->plain);
		put_samples(&j, "xvm", &e->xvm);
		xvm_json_num(&j, "ratio", xvm_bench_ratio(e));
		put_samples(&j, "plain_cpu", &e->plain_cpu);
		put_samples(&j, "xvm_cpu", &e->xvm_cpu);
		xvm_json_num(&j, "cpu_ratio", xvm_bench_cpu_ratio(e));
		xvm_json_str(&j, "path", e->path);
		xvm_json_str(&j, "reason", e->reason);
		xvm_json_num(&j, "ring_share", e->ring_share);
		xvm_json_bool(&j, "ok", e->ok);
		if (!e->ok)
			xvm_json_str(&j, "why", e->why);
		xvm_json_close(&j);
	}
	xvm_json_close(&j);
	xvm_json_close(&j);
}
