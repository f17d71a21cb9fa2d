/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/columns.h"

void xvm_columns_init(struct xvm_columns *c, unsigned cols, uint32_t right)
{
	*c = (struct xvm_columns){.cols = cols, .right = right};
}

void xvm_columns_add(struct xvm_columns *c, const char *fmt, ...)
{
	va_list ap;
	char *cell;
	unsigned char *p;

	if (c->used == c->room) {
		c->room = c->room ? 2 * c->room : 64;
		c->cells = realloc(c->cells, c->room * sizeof(*c->cells));
		if (!c->cells)
			abort();
	}
	va_start(ap, fmt);
	if (vasprintf(&cell, fmt, ap) < 0)
		abort();
	va_end(ap);
	for (p = (unsigned char *)cell; *p; p++)
		if (*p < ' ' || *p == 0x7f)
			*p = '?';
	c->cells[c->used++] = cell;
}

/* Columns of a terminal, near enough: UTF-8 continuation bytes take none. */
static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

void xvm_columns_print(struct xvm_columns *c, FILE *out)
{
	size_t *wide = calloc(c->cols, sizeof(*wide)), i, w;
	unsigned col;

	if (!wide)
		abort();
	for (i = 0; i < c->used; i++) {
		w = width(c->cells[i]);
		col = i % c->cols;
		if (w > wide[col])
			wide[col] = w;
	}
	for (i = 0; i < c->used; i++) {
		col = i % c->cols;
		w = wide[col] - width(c->cells[i]);
		if (c->right >> col & 1)
			fprintf(out, "%*s%s", (int)w, "", c->cells[i]);
		else if (col + 1 < c->cols)
			fprintf(out, "%s%*s", c->cells[i], (int)w, "");
		else
			fputs(c->cells[i], out);
		fputs(col + 1 < c->cols ? "  " : "\n", out);
		free(c->cells[i]);
	}
	free(wide);
	free(c->cells);
	*c = (struct xvm_columns){0};
}

const char *xvm_columns_si(double v, char buf[16])
{
	static const char units[] = " KMGTP";
	unsigned u = 0;

	/* 999.6 would be written as 1000. */
	while (v >= 999.5 && u + 1 < sizeof(units) - 1) {
		v /= 1000;
		u++;
	}
	if (!u)
		snprintf(buf, 16, v < 9.95 && v != (int)v ? "%.1f" : "%.0f", v);
	else
		snprintf(buf, 16,
			 v < 9.995   ? "%.2f %c"
			 : v < 99.95 ? "%.1f %c"
				     : "%.0f %c",
			 v, units[u]);
	return buf;
}
