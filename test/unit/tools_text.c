/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/columns.h"
#include "tools/json.h"
#include "tools/preload.h"
#include "tools/samples.h"
#include "tools/unitname.h"

/* ---- JSON ---- */

static char *quoted(const char *s)
{
	struct xvm_json j;
	size_t len;
	char *text;
	FILE *f = open_memstream(&text, &len);

	xvm_json_begin(&j, f);
	xvm_json_str(&j, NULL, s);
	fclose(f);
	return text;
}

Test(json, strings)
{
	static const struct {
		const char *s, *want;
	} t[] = {
		{"", "\"\""},
		{"redis-server", "\"redis-server\""},
		{"a\"b\\c", "\"a\\\"b\\\\c\""},
		{"\n\x01\x7f", "\"\\u000a\\u0001\\u007f\""},
		{"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
		 "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
		/* Cut in the middle, overlong, a surrogate, beyond U+10FFFF, a stray tail. */
		{"x\xc3", "\"x\\ufffd\""},
		{"\xe2\x82", "\"\\ufffd\\ufffd\""},
		{"\xc0\x80", "\"\\ufffd\\ufffd\""},
		{"\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\""},
		{"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},
		{"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
		{"\xff", "\"\\ufffd\""},
	};
	size_t i;
	char *got;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		got = quoted(t[i].s);
		cr_assert_str_eq(got, t[i].want);
		free(got);
	}
}

Test(json, structure)
{
	struct xvm_json j;
	size_t len;
	char *text;
	FILE *f = open_memstream(&text, &len);

	xvm_json_begin(&j, f);
	xvm_json_array(&j, NULL);
	xvm_json_object(&j, NULL);
	xvm_json_int(&j, "a", -1);
	xvm_json_uint(&j, "b", UINT64_MAX);
	xvm_json_array(&j, "c");
	xvm_json_num(&j, NULL, 0.5);
	xvm_json_num(&j, NULL, INFINITY);
	xvm_json_close(&j);
	xvm_json_bool(&j, "d", true);
	xvm_json_close(&j);
	xvm_json_object(&j, NULL);
	xvm_json_close(&j);
	xvm_json_close(&j);
	xvm_json_array(&j, NULL);
	xvm_json_close(&j);
	fclose(f);
	cr_assert_str_eq(text, "[\n  {\"a\": -1, \"b\": 18446744073709551615, \"c\": [0.5, null], "
			       "\"d\": true},\n  {}\n]\n[]\n");
	free(text);
}

/* ---- columns ---- */

Test(columns, widths)
{
	struct xvm_columns c;
	size_t len;
	char *text;
	FILE *f = open_memstream(&text, &len);
	int i;

	xvm_columns_init(&c, 3, 1u << 1);
	for (i = 0; i < 2; i++) {
		xvm_columns_add(&c, "%s", i ? "\xc3\xa9" : "abc");
		xvm_columns_add(&c, "%d", i ? 1234 : 1);
		xvm_columns_add(&c, "%s", i ? "x" : "a\033b");
	}
	xvm_columns_print(&c, f);
	xvm_columns_init(&c, 3, 0);
	xvm_columns_print(&c, f);
	fclose(f);
	cr_assert_str_eq(text, "abc     1  a?b\n\xc3\xa9    1234  x\n");
	free(text);
}

Test(columns, si)
{
	static const struct {
		double v;
		const char *want;
	} t[] = {
		{0, "0"},	   {1, "1"},	       {1.25, "1.2"},	  {9.96, "10"},
		{999, "999"},	   {999.6, "1.00 K"},  {1234, "1.23 K"},  {12345, "12.3 K"},
		{999499, "999 K"}, {999501, "1.00 M"}, {4.2e9, "4.20 G"},
	};
	char buf[16];
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		cr_assert_str_eq(xvm_columns_si(t[i].v, buf), t[i].want);
}

/* ---- LD_PRELOAD ---- */

Test(preload, list)
{
	static const struct {
		const char *lib, *old, *want;
	} t[] = {
		{"/l/libxvm.so", NULL, "/l/libxvm.so"},
		{"/l/libxvm.so", "", "/l/libxvm.so"},
		{"/l/libxvm.so", "a.so b.so", "/l/libxvm.so:a.so:b.so"},
		{"/l/libxvm.so", ":a.so::/other/libxvm.so:b.so:", "/l/libxvm.so:a.so:b.so"},
		{NULL, "libxvm.so a.so", "a.so"},
		{NULL, "/x/libxvm.so", ""},
		/* Not ours, though the name ends alike. */
		{NULL, "/x/notlibxvm.so:b.so", "/x/notlibxvm.so:b.so"},
		{NULL, NULL, ""},
	};
	size_t i;
	char *got;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		got = xvm_preload_list(t[i].lib, t[i].old);
		cr_assert_str_eq(got, t[i].want);
		free(got);
	}
}

Test(preload, possible)
{
	cr_assert(xvm_preload_possible("/usr/lib/libxvm.so"));
	cr_assert_not(xvm_preload_possible("/my files/libxvm.so"));
	cr_assert_not(xvm_preload_possible("/a:b/libxvm.so"));
}

/* ---- systemd ---- */

Test(unitname, names)
{
	static const char *const bad[] = {"",	".",  "../x", "a/b", "a b",
					  "-x", "@x", "a;b",  "x\n", "\xc3\xa9"};
	static const char *const other[] = {"a.socket", "a.target", "a.timer", "a.mount"};
	char name[XVM_UNIT_MAX], big[400];
	size_t i;

	cr_assert_eq(xvm_unit_name("nginx", name), 0);
	cr_assert_str_eq(name, "nginx.service");
	cr_assert_eq(xvm_unit_name("a.service", name), 0);
	cr_assert_str_eq(name, "a.service");
	cr_assert_eq(xvm_unit_name("postgresql@15-main", name), 0);
	cr_assert_str_eq(name, "postgresql@15-main.service");
	cr_assert_eq(xvm_unit_name("my.socket.handler", name), 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(xvm_unit_name(bad[i], name), -EINVAL, "'%s'", bad[i]);
	for (i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		cr_assert_eq(xvm_unit_name(other[i], name), -EPROTOTYPE, "'%s'", other[i]);
	memset(big, 'a', sizeof(big));
	big[247] = 0;
	cr_assert_eq(xvm_unit_name(big, name), 0);
	big[247] = 'a';
	big[248] = 0;
	cr_assert_eq(xvm_unit_name(big, name), -EINVAL);
}

Test(unitname, env)
{
	char buf[32];

	cr_assert_eq(xvm_unit_env("A", "/a b%\"\\", buf, sizeof(buf)), 0);
	cr_assert_str_eq(buf, "\"A=/a b%%\\\"\\\\\"");
	cr_assert_eq(
		xvm_unit_env("A", "0123456789012345678901234567890123456789", buf, sizeof(buf)),
		-ENAMETOOLONG);
}

/* ---- samples ---- */

Test(samples, quantiles)
{
	struct xvm_samples s = {0};
	unsigned i;

	cr_assert_eq(xvm_samples_median(&s), 0);
	cr_assert_eq(xvm_samples_spread(&s), 0);
	xvm_samples_add(&s, 5);
	cr_assert_eq(xvm_samples_median(&s), 5);
	xvm_samples_add(&s, 1);
	cr_assert_eq(xvm_samples_median(&s), 3);
	xvm_samples_add(&s, 100);
	xvm_samples_add(&s, 4);
	xvm_samples_add(&s, 6);
	cr_assert_eq(xvm_samples_median(&s), 5);
	cr_assert_eq(xvm_samples_min(&s), 1);
	cr_assert_eq(xvm_samples_max(&s), 100);
	/* Quartiles 4 and 6. */
	cr_assert_float_eq(xvm_samples_spread(&s), 0.2, 1e-9);
	for (i = 0; i < 2 * XVM_SAMPLES_MAX; i++)
		xvm_samples_add(&s, 5);
	cr_assert_eq(s.n, XVM_SAMPLES_MAX);
}

Test(samples, ratio)
{
	struct xvm_samples a = {.n = 4, .v = {2, 20, 6, 9}}, b = {.n = 3, .v = {1, 10, 2}};

	/* The machine was ten times as fast for the second pair. */
	cr_assert_eq(xvm_samples_ratio(&a, &b), 2);
	b.v[0] = 0;
	cr_assert_eq(xvm_samples_ratio(&a, &b), 2.5);
	b.n = 0;
	cr_assert_eq(xvm_samples_ratio(&a, &b), 0);
}
