/* SPDX-License-Identifier: Apache-2.0 */
/* The statement group of xvmd.conf(5). */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "detect/conf_parse.h"
#include "transport/region.h"

#define GROUPS_MAX 64
#define GROUP_SIZE (256ull << 20)
#define GROUP_PEERS 8
#define GROUP_VECTORS 16

enum {
	HAS_SOCKET = 1,
	HAS_SIZE = 2,
	HAS_PEERS = 4,
	HAS_VECTORS = 8,
	HAS_OWNER = 16,
	HAS_HUGE = 32
};

static const struct {
	const char *name;
	unsigned bit;
} group_words[] = {{"socket", HAS_SOCKET},   {"size", HAS_SIZE},  {"peers", HAS_PEERS},
		   {"vectors", HAS_VECTORS}, {"user", HAS_OWNER}, {"hugepages", HAS_HUGE}};

static bool name_ok(const char *w)
{
	size_t n = strspn(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return isalnum((unsigned char)*w) && !w[n] &&
	       n < sizeof(((struct xvm_conf_group *)0)->name);
}

/* A number with K, M or G behind it. */
static int parse_size(struct xvm_conf_parser *p, uint64_t *size, char *w)
{
	static const char units[] = "KMG";
	size_t len = strlen(w);
	const char *unit = strchr(units, w[len - 1]);
	unsigned long v;
	int ret;

	if (unit)
		w[len - 1] = 0;
	ret = xvm_conf_number(w, XVM_REGION_SIZE_MAX, &v);
	if (unit)
		w[len - 1] = *unit;
	if (ret)
		return xvm_conf_wrong(p, "\"%s\" is no size", w);
	*size = unit ? (uint64_t)v << 10 * (unit - units + 1) : v;
	if (*size < XVM_REGION_SIZE_MIN || *size > XVM_REGION_SIZE_MAX || (*size & (*size - 1)))
		return xvm_conf_wrong(p, "a size is a power of two from %lluM to %lluG",
				      XVM_REGION_SIZE_MIN >> 20, XVM_REGION_SIZE_MAX >> 30);
	return 0;
}

static int parse_count(struct xvm_conf_parser *p, uint32_t *to, const char *w, const char *what,
		       unsigned long max)
{
	unsigned long v;

	if (xvm_conf_number(w, max, &v) || !v)
		return xvm_conf_wrong(p, "\"%s\" is no number of %s, from 1 to %lu", w, what, max);
	*to = (uint32_t)v;
	return 0;
}

static int parse_socket(struct xvm_conf_parser *p, struct xvm_conf_group *g, const char *w)
{
	if (*w != '/')
		return xvm_conf_wrong(p, "socket \"%s\" is no absolute path", w);
	if (strlen(w) >= sizeof(g->socket))
		return xvm_conf_wrong(p, "the socket's path is longer than %zu bytes",
				      sizeof(g->socket) - 1);
	snprintf(g->socket, sizeof(g->socket), "%s", w);
	return 0;
}

static int parse_group_word(struct xvm_conf_parser *p, struct xvm_conf_group *g, unsigned bit,
			    char *value)
{
	switch (bit) {
	case HAS_SOCKET:
		return parse_socket(p, g, value);
	case HAS_SIZE:
		return parse_size(p, &g->size, value);
	case HAS_PEERS:
		return parse_count(p, &g->vms, value, "peers", XVM_REGION_PEERS_MAX - 1);
	case HAS_VECTORS:
		return parse_count(p, &g->vectors, value, "vectors", XVM_REGION_VECTORS_MAX);
	case HAS_OWNER:
		g->has_user = true;
		return xvm_conf_user(p, &g->uid, value);
	default:
		g->hugepages = true;
		return 0;
	}
}

static int parse_group_words(struct xvm_conf_parser *p, struct xvm_conf_group *g, char **w, int n)
{
	unsigned has = 0, bit;
	size_t k;
	int i, ret;

	for (i = 0; i < n; i++) {
		bit = 0;
		for (k = 0; k < sizeof(group_words) / sizeof(group_words[0]); k++)
			if (!strcmp(w[i], group_words[k].name))
				bit = group_words[k].bit;
		if (!bit)
			return xvm_conf_wrong(
				p,
				"\"%s\" is none of socket, size, peers, vectors, user, hugepages",
				w[i]);
		if (has & bit)
			return xvm_conf_wrong(p, "%s is given twice", w[i]);
		has |= bit;
		if (bit != HAS_HUGE && ++i == n)
			return xvm_conf_wrong(p, "%s is not followed by a value", w[i - 1]);
		ret = parse_group_word(p, g, bit, w[i]);
		if (ret)
			return ret;
	}
	return 0;
}

/* Each on its own is right; are they together? */
static int judge_group(struct xvm_conf_parser *p, const struct xvm_conf_group *g)
{
	const struct xvm_conf *c = p->c;
	struct xvm_region figures;
	size_t i;

	for (i = 0; i < c->n_groups; i++) {
		if (!strcmp(c->group[i].name, g->name))
			return xvm_conf_wrong(p, "there are two groups %s", g->name);
		if (!strcmp(c->group[i].socket, g->socket))
			return xvm_conf_wrong(p, "group %s has the socket %s", c->group[i].name,
					      g->socket);
	}
	if (xvm_region_figure(&figures, g->size, g->vms + 1, g->vectors))
		return xvm_conf_wrong(p, "%lluM are too few for %u peers and the host",
				      (unsigned long long)(g->size >> 20), g->vms);
	if (g->hugepages && g->size < 2ull << 20)
		return xvm_conf_wrong(p, "%lluM are less than a huge page",
				      (unsigned long long)(g->size >> 20));
	return 0;
}

int xvm_conf_parse_group(struct xvm_conf_parser *p, char **w, int n)
{
	struct xvm_conf_group *more,
		g = {.size = GROUP_SIZE, .vms = GROUP_PEERS, .vectors = GROUP_VECTORS};
	struct xvm_conf *c = p->c;
	int ret;

	if (n < 2 || !name_ok(w[1]))
		return xvm_conf_wrong(
			p, "group is not followed by a name of 1 to %zu letters, digits, - _ .",
			sizeof(g.name) - 1);
	if (c->n_groups >= GROUPS_MAX)
		return xvm_conf_wrong(p, "more than %d groups", GROUPS_MAX);
	snprintf(g.name, sizeof(g.name), "%s", w[1]);
	snprintf(g.socket, sizeof(g.socket), "/run/xvm/%s.ivshmem", w[1]);
	ret = parse_group_words(p, &g, w + 2, n - 2);
	if (!ret)
		ret = judge_group(p, &g);
	if (ret)
		return ret;
	more = realloc(c->group, (c->n_groups + 1) * sizeof(*more));
	if (!more)
		return xvm_conf_wrong(p, "out of memory");
	c->group = more;
	c->group[c->n_groups++] = g;
	return 0;
}
