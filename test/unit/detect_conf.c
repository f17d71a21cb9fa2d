/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "detect/conf.h"

static char err[256];

static struct xvm_conf *parse(const char *text)
{
	err[0] = 0;
	return xvm_conf_parse(text, strlen(text), "f", err, sizeof(err));
}

static void addr16(const char *text, uint8_t addr[16])
{
	if (strchr(text, ':')) {
		cr_assert(inet_pton(AF_INET6, text, addr) == 1);
		return;
	}
	memset(addr, 0, 10);
	memset(addr + 10, 0xff, 2);
	cr_assert(inet_pton(AF_INET, text, addr + 12) == 1);
}

static bool allows(const char *text, uid_t uid, const char *exe, const char *addr, uint16_t port)
{
	struct xvm_conf *c = parse(text);
	uint8_t a[16];
	bool ret;

	cr_assert_not_null(c, "%s: %s", text, err);
	addr16(addr, a);
	ret = xvm_conf_allows(c, uid, exe, a, port);
	xvm_conf_free(c);
	return ret;
}

static void wrong(const char *text, const char *where, const char *what)
{
	cr_assert_null(parse(text), "taken: %s", text);
	cr_assert_eq(strncmp(err, where, strlen(where)), 0, "%s: %s", text, err);
	cr_assert_not_null(strstr(err, what), "%s: %s", text, err);
	cr_assert_null(strchr(err, '\n'));
}

Test(conf, what_no_rule_is_about_is_allowed)
{
	cr_assert(allows("", 1, "/bin/x", "10.0.0.1", 1));
	cr_assert(allows("# pair deny\n\n  \t\n", 1, NULL, "::1", 1));
	cr_assert(allows("pair deny port 2\n", 1, "/bin/x", "10.0.0.1", 1));
	cr_assert(!allows("pair deny\n", 1, "/bin/x", "10.0.0.1", 1));
}

Test(conf, the_first_rule_that_holds_decides)
{
	static const char text[] = "pair allow port 80\npair deny port 1-100\npair allow\n";

	cr_assert(allows(text, 1, NULL, "10.0.0.1", 80));
	cr_assert(!allows(text, 1, NULL, "10.0.0.1", 81));
	cr_assert(!allows(text, 1, NULL, "10.0.0.1", 1));
	cr_assert(!allows(text, 1, NULL, "10.0.0.1", 100));
	cr_assert(allows(text, 1, NULL, "10.0.0.1", 101));
}

Test(conf, all_conditions_of_a_rule_have_to_hold)
{
	static const char text[] =
		"pair deny user 7 program nginx address 10.1.0.0/16 port 80 # but no other\n";

	cr_assert(!allows(text, 7, "/usr/sbin/nginx", "10.1.2.3", 80));
	cr_assert(allows(text, 8, "/usr/sbin/nginx", "10.1.2.3", 80));
	cr_assert(allows(text, 7, "/usr/sbin/nginx2", "10.1.2.3", 80));
	cr_assert(allows(text, 7, "/usr/sbin/nginx", "10.2.2.3", 80));
	cr_assert(allows(text, 7, "/usr/sbin/nginx", "10.1.2.3", 81));
}

Test(conf, users_by_name_and_number)
{
	cr_assert(!allows("pair deny user root\n", 0, NULL, "::1", 1));
	cr_assert(allows("pair deny user root\n", 1, NULL, "::1", 1));
	cr_assert(!allows("pair deny user 1234567\n", 1234567, NULL, "::1", 1));
	wrong("pair deny user no-such-user\n", "f:1: ", "no-such-user");
	/* -1 is no user, but what chown and setreuid take for "leave it". */
	wrong("pair deny user 4294967295\n", "f:1: ", "4294967295");
}

Test(conf, programs_by_name_and_path)
{
	cr_assert(!allows("pair deny program ng*\n", 1, "/usr/sbin/nginx", "::1", 1));
	cr_assert(allows("pair deny program sbin\n", 1, "/usr/sbin/nginx", "::1", 1));
	cr_assert(!allows("pair deny program /usr/*/nginx\n", 1, "/usr/sbin/nginx", "::1", 1));
	cr_assert(allows("pair deny program /usr/*\n", 1, "/usr/sbin/nginx", "::1", 1));
	cr_assert(!allows("pair deny program nginx\n", 1, "/usr/sbin/nginx (deleted)", "::1", 1));
	wrong("pair deny program sbin/nginx\n", "f:1: ", "sbin/nginx");
}

Test(conf, a_program_that_cannot_be_seen)
{
	cr_assert(!allows("pair deny program nginx\n", 1, NULL, "::1", 1));
	cr_assert(!allows("pair allow program nginx\npair deny\n", 1, NULL, "::1", 1));
}

Test(conf, addresses)
{
	cr_assert(!allows("pair deny address 10.0.0.1\n", 1, NULL, "10.0.0.1", 1));
	cr_assert(!allows("pair deny address 10.0.0.1\n", 1, NULL, "::ffff:10.0.0.1", 1));
	cr_assert(allows("pair deny address 10.0.0.1\n", 1, NULL, "10.0.0.2", 1));
	cr_assert(!allows("pair deny address 10.0.0.0/9\n", 1, NULL, "10.127.255.255", 1));
	cr_assert(allows("pair deny address 10.0.0.0/9\n", 1, NULL, "10.128.0.0", 1));
	cr_assert(!allows("pair deny address 0.0.0.0/0\n", 1, NULL, "1.2.3.4", 1));
	cr_assert(allows("pair deny address 0.0.0.0/0\n", 1, NULL, "fd00::1", 1));
	cr_assert(!allows("pair deny address ::/0\n", 1, NULL, "1.2.3.4", 1));
	cr_assert(!allows("pair deny address fd00::/8\n", 1, NULL, "fdff::1", 1));
	cr_assert(allows("pair deny address fd00::/8\n", 1, NULL, "fc00::1", 1));
	cr_assert(!allows("pair deny address fd00::1/128\n", 1, NULL, "fd00::1", 1));
	wrong("pair deny address 10.0.0.1/8\n", "f:1: ", "beyond its prefix");
	wrong("pair deny address 10.0.0.0/33\n", "f:1: ", "prefix");
	wrong("pair deny address fd00::/129\n", "f:1: ", "prefix");
	wrong("pair deny address 10.0.0.0/\n", "f:1: ", "prefix");
	wrong("pair deny address 10.0.0.0/-1\n", "f:1: ", "prefix");
	wrong("pair deny address 10.0.0\n", "f:1: ", "10.0.0");
}

Test(conf, ports)
{
	cr_assert(!allows("pair deny port 0-65535\n", 1, NULL, "::1", 65535));
	cr_assert(!allows("pair deny port 7-7\n", 1, NULL, "::1", 7));
	wrong("pair deny port 65536\n", "f:1: ", "65536");
	wrong("pair deny port 8-7\n", "f:1: ", "wrong way round");
	wrong("pair deny port 1-\n", "f:1: ", "no port");
	wrong("pair deny port -1\n", "f:1: ", "no port");
	wrong("pair deny port 1-2-3\n", "f:1: ", "no port");
	wrong("pair deny port 99999999999999999999999\n", "f:1: ", "no port");
	wrong("pair deny port 0x10\n", "f:1: ", "no port");
}

Test(conf, wrong_files_are_refused_with_line_and_reason)
{
	wrong("pair deny\n\nfoo\n", "f:3: ", "foo");
	wrong("pair\n", "f:1: ", "allow or deny");
	wrong("pair denyy\n", "f:1: ", "allow or deny");
	wrong("pair deny port\n", "f:1: ", "value");
	wrong("pair deny colour red\n", "f:1: ", "colour");
	wrong("pair deny port 1 port 2\n", "f:1: ", "twice");
	wrong("pair a b c d e f g h i j k l m n o p q\n", "f:1: ", "too many");
	wrong("log\n", "f:1: ", "log");
	wrong("log loud\n", "f:1: ", "log");
	wrong("log info\nlog info\n", "f:2: ", "twice");
	wrong("log info please\n", "f:1: ", "one word");
}

Test(conf, a_half_written_file_is_refused)
{
	/* As it stands it would mean something else, or the opposite. */
	wrong("pair deny port 80", "f:1: ", "half-written");
	wrong("pair allow\npair deny", "f:2: ", "half-written");
	cr_assert_null(xvm_conf_parse("log\0info\n", 9, "f", err, sizeof(err)));
	cr_assert_not_null(strstr(err, "NUL"));
}

Test(conf, long_lines)
{
	struct xvm_conf *c;
	char text[3000];

	memset(text, ' ', sizeof(text));
	text[0] = '#';
	text[1023] = '\n';
	c = xvm_conf_parse(text, 1024, "f", err, sizeof(err));
	cr_assert_not_null(c);
	xvm_conf_free(c);
	text[1023] = ' ';
	text[1024] = '\n';
	cr_assert_null(xvm_conf_parse(text, 1025, "f", err, sizeof(err)));
}

Test(conf, many_rules)
{
	char *text = malloc(10001 * 24), *at = text;
	struct xvm_conf *c;
	uint8_t a[16];
	int i;

	addr16("::1", a);
	for (i = 0; i < 10000; i++)
		at += sprintf(at, "pair deny port %d\n", i);
	c = parse(text);
	cr_assert_not_null(c);
	cr_assert(!xvm_conf_allows(c, 1, NULL, a, 9999));
	cr_assert(xvm_conf_allows(c, 1, NULL, a, 10000));
	xvm_conf_free(c);
	strcpy(at, "pair deny\n");
	wrong(text, "f:10001: ", "more than");
	free(text);
}

Test(conf, log_level)
{
	struct xvm_conf *c = parse("log debug\n");

	cr_assert_eq(xvm_conf_log_level(c), LOG_DEBUG);
	xvm_conf_free(c);
	c = parse("");
	cr_assert_eq(xvm_conf_log_level(c), LOG_NOTICE);
	xvm_conf_free(c);
}

Test(conf, groups)
{
	struct xvm_conf *c = parse("group db\n"
				   "group web.2 socket /tmp/x size 1G peers 3 vectors 4 user 7 "
				   "hugepages # all\n");
	const struct xvm_conf_group *g;

	cr_assert_not_null(c, "%s", err);
	cr_assert_eq(xvm_conf_groups(c, &g), 2);
	cr_assert_str_eq(g[0].name, "db");
	cr_assert_str_eq(g[0].socket, "/run/xvm/db.ivshmem");
	cr_assert_eq(g[0].size, 256ull << 20);
	cr_assert_eq(g[0].vms, 8);
	cr_assert_eq(g[0].vectors, 16);
	cr_assert(!g[0].hugepages && !g[0].has_user);
	cr_assert_str_eq(g[1].name, "web.2");
	cr_assert_str_eq(g[1].socket, "/tmp/x");
	cr_assert_eq(g[1].size, 1ull << 30);
	cr_assert_eq(g[1].vms, 3);
	cr_assert_eq(g[1].vectors, 4);
	cr_assert(g[1].hugepages && g[1].has_user);
	cr_assert_eq(g[1].uid, 7);
	xvm_conf_free(c);
	c = parse("");
	cr_assert_eq(xvm_conf_groups(c, &g), 0);
	xvm_conf_free(c);
}

Test(conf, who_shares_with_vms)
{
	struct xvm_conf *c = parse("share allow user 7\nshare allow program /usr/bin/*\n"
				   "share deny user 0\n");

	cr_assert_not_null(c, "%s", err);
	cr_assert(xvm_conf_shares(c, 7, NULL, false));
	cr_assert(xvm_conf_shares(c, 8, "/usr/bin/x", false));
	cr_assert(!xvm_conf_shares(c, 8, NULL, false), "it cannot be seen");
	cr_assert(!xvm_conf_shares(c, 8, "/bin/x", false));
	cr_assert(xvm_conf_shares(c, 8, "/bin/x", true));
	cr_assert(!xvm_conf_shares(c, 0, "/bin/x", true));
	cr_assert(allows("share deny\n", 0, "/bin/x", "::1", 1), "another matter");
	xvm_conf_free(c);
	wrong("share\n", "f:1: ", "share is not followed by allow or deny");
	wrong("share allow port 7\n", "f:1: ", "user and program only");
	wrong("share allow program x address ::1\n", "f:1: ", "user and program only");
	wrong("share allow colour red\n", "f:1: ", "colour");
}

Test(conf, group_sizes)
{
	static const struct {
		const char *text;
		uint64_t size;
	} t[] = {{"group g size 1048576 peers 1\n", 1 << 20},
		 {"group g size 1024K peers 1\n", 1 << 20},
		 {"group g size 64G\n", 64ull << 30}};
	const struct xvm_conf_group *g;
	struct xvm_conf *c;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		c = parse(t[i].text);
		cr_assert_not_null(c, "%s", err);
		xvm_conf_groups(c, &g);
		cr_assert_eq(g->size, t[i].size);
		xvm_conf_free(c);
	}
	wrong("group g size 3M\n", "f:1: ", "power of two");
	wrong("group g size 512K\n", "f:1: ", "power of two");
	wrong("group g size 128G\n", "f:1: ", "power of two");
	wrong("group g size 68719476735G\n", "f:1: ", "power of two");
	wrong("group g size 99999999999999999999\n", "f:1: ", "no size");
	wrong("group g size M\n", "f:1: ", "no size");
	wrong("group g size 1T\n", "f:1: ", "no size");
	wrong("group g size -1\n", "f:1: ", "no size");
	wrong("group g size 1M peers 8\n", "f:1: ", "too few for 8 peers");
	wrong("group g size 1M peers 1 hugepages\n", "f:1: ", "huge page");
}

Test(conf, groups_that_are_wrong)
{
	wrong("group\n", "f:1: ", "name");
	wrong("group ../x\n", "f:1: ", "name");
	wrong("group -x\n", "f:1: ", "name");
	wrong("group a/b\n", "f:1: ", "name");
	wrong("group 12345678901234567890123456789012\n", "f:1: ", "name");
	wrong("group g socket\n", "f:1: ", "socket is not followed by a value");
	wrong("group g socket x\n", "f:1: ", "absolute");
	wrong("group g socket /123456789/123456789/123456789/123456789/123456789/123456789/"
	      "123456789/123456789/123456789/123456789/1234567\n",
	      "f:1: ", "longer");
	wrong("group g peers 0\n", "f:1: ", "peers");
	wrong("group g peers 64\n", "f:1: ", "from 1 to 63");
	wrong("group g vectors 65\n", "f:1: ", "from 1 to 64");
	wrong("group g vectors x\n", "f:1: ", "vectors");
	wrong("group g user no-such-user\n", "f:1: ", "no-such-user");
	wrong("group g colour red\n", "f:1: ", "colour");
	wrong("group g size 1G size 2G\n", "f:1: ", "twice");
	wrong("group g hugepages hugepages\n", "f:1: ", "twice");
	wrong("group g\ngroup h\ngroup g\n", "f:3: ", "two groups g");
	wrong("group g socket /a\ngroup h socket /a\n", "f:2: ", "group g has the socket");
}

Test(conf, many_groups)
{
	char text[65 * 16], *at = text;
	const struct xvm_conf_group *g;
	struct xvm_conf *c;
	int i;

	for (i = 0; i < 64; i++)
		at += sprintf(at, "group g%d\n", i);
	c = parse(text);
	cr_assert_not_null(c, "%s", err);
	cr_assert_eq(xvm_conf_groups(c, &g), 64);
	xvm_conf_free(c);
	sprintf(at, "group g64\n");
	wrong(text, "f:65: ", "more than");
}

Test(conf, files)
{
	char path[] = "/tmp/xvm-unit-conf-XXXXXX";
	struct xvm_conf *c;
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, "pair deny\n", 10), 10);
	c = xvm_conf_load(path, false, err, sizeof(err));
	cr_assert_not_null(c, "%s", err);
	xvm_conf_free(c);
	cr_assert_eq(write(fd, "x", 1), 1);
	cr_assert_null(xvm_conf_load(path, true, err, sizeof(err)));
	close(fd);
	unlink(path);
	cr_assert_null(xvm_conf_load(path, false, err, sizeof(err)));
	cr_assert_not_null(strstr(err, path));
	c = xvm_conf_load(path, true, err, sizeof(err));
	cr_assert_not_null(c, "%s", err);
	xvm_conf_free(c);
	cr_assert_null(xvm_conf_load("/tmp", true, err, sizeof(err)));
	cr_assert_null(xvm_conf_load("/dev/zero", true, err, sizeof(err)));
}
