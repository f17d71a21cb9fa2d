/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>

#include "tools/json.h"

/* Length of the UTF-8 sequence at s, or 0 if it is none (RFC 3629: shortest form, no surrogates).
 */
static int utf8_len(const unsigned char *s)
{
	int i, n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		n = 2;
	else if ((s[0] & 0xf0) == 0xe0)
		n = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		n = 4;
	else
		return 0;
	for (i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static void quote(struct xvm_json *j, const char *str)
{
	const unsigned char *s = (const unsigned char *)str;
	int n;

	putc('"', j->out);
	while (*s) {
		n = utf8_len(s);
		if (n == 0) {
			fputs("\\ufffd", j->out);
			s++;
		} else if (*s == '"' || *s == '\\') {
			fprintf(j->out, "\\%c", *s++);
		} else if (*s < 0x20 || *s == 0x7f) {
			fprintf(j->out, "\\u%04x", *s++);
		} else {
			fwrite(s, 1, n, j->out);
			s += n;
		}
	}
	putc('"', j->out);
}

/* Whatever comes before a value. Elements of the outermost array stand on lines of their own. */
static void lead(struct xvm_json *j, const char *key)
{
	if (j->depth) {
		if (j->more[j->depth])
			putc(',', j->out);
		if (j->depth == 1)
			fputs("\n  ", j->out);
		else if (j->more[j->depth])
			putc(' ', j->out);
		j->more[j->depth] = true;
	}
	if (key) {
		quote(j, key);
		fputs(": ", j->out);
	}
}

static void open_level(struct xvm_json *j, const char *key, char begin, char end)
{
	lead(j, key);
	putc(begin, j->out);
	j->depth++;
	j->more[j->depth] = false;
	j->end[j->depth] = end;
}

void xvm_json_begin(struct xvm_json *j, FILE *out)
{
	*j = (struct xvm_json){.out = out};
}

void xvm_json_object(struct xvm_json *j, const char *key)
{
	open_level(j, key, '{', '}');
}

void xvm_json_array(struct xvm_json *j, const char *key)
{
	open_level(j, key, '[', ']');
}

void xvm_json_close(struct xvm_json *j)
{
	if (j->depth == 1 && j->more[1])
		putc('\n', j->out);
	putc(j->end[j->depth], j->out);
	if (!--j->depth)
		putc('\n', j->out);
}

void xvm_json_str(struct xvm_json *j, const char *key, const char *val)
{
	lead(j, key);
	quote(j, val);
}

void xvm_json_int(struct xvm_json *j, const char *key, int64_t val)
{
	lead(j, key);
	fprintf(j->out, "%" PRId64, val);
}

void xvm_json_uint(struct xvm_json *j, const char *key, uint64_t val)
{
	lead(j, key);
	fprintf(j->out, "%" PRIu64, val);
}

void xvm_json_num(struct xvm_json *j, const char *key, double val)
{
	lead(j, key);
	/* JSON has no infinity. */
	if (isfinite(val))
		fprintf(j->out, "%.6g", val);
	else
		fputs("null", j->out);
}

void xvm_json_bool(struct xvm_json *j, const char *key, bool val)
{
	lead(j, key);
	fputs(val ? "true" : "false", j->out);
}
