/* SPDX-License-Identifier: Apache-2.0 */
/* Writes JSON: commas and escapes are right by construction. A key of NULL is for array elements.
 */
#ifndef XVM_TOOLS_JSON_H
#define XVM_TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct xvm_json {
	FILE *out;
	int depth;
	bool more[8]; /* something stands before, at this depth */
	char end[8];
};

void xvm_json_begin(struct xvm_json *j, FILE *out);
void xvm_json_object(struct xvm_json *j, const char *key);
void xvm_json_array(struct xvm_json *j, const char *key);
void xvm_json_close(struct xvm_json *j); /* the innermost; the outermost ends the line */

/* Bytes that are no UTF-8 become U+FFFD: a process may call itself anything. */
void xvm_json_str(struct xvm_json *j, const char *key, const char *val);
void xvm_json_int(struct xvm_json *j, const char *key, int64_t val);
void xvm_json_uint(struct xvm_json *j, const char *key, uint64_t val);
void xvm_json_num(struct xvm_json *j, const char *key, double val);
void xvm_json_bool(struct xvm_json *j, const char *key, bool val);

#endif
