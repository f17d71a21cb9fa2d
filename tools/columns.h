/* SPDX-License-Identifier: Apache-2.0 */
/* Text in columns, as wide as what stands in them. */
#ifndef XVM_TOOLS_COLUMNS_H
#define XVM_TOOLS_COLUMNS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct xvm_columns {
	unsigned cols;
	uint32_t right; /* bit i: column i is flush right */
	char **cells;
	size_t used, room;
};

void xvm_columns_init(struct xvm_columns *c, unsigned cols, uint32_t right);
/* The next cell, row by row. Bytes that a terminal would act on are shown as '?'. */
void xvm_columns_add(struct xvm_columns *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void xvm_columns_print(struct xvm_columns *c, FILE *out); /* and free it */

/* A size with a unit, four significant digits at most: "131 K", "1.2 M". Powers of 1000. */
const char *xvm_columns_si(double v, char buf[16]);

#endif
