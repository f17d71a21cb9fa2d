/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tools/addr.h"

#define V4(a, b, c, d)                                                                             \
	{                                                                                          \
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d                               \
	}

static const uint8_t v4[16] = V4(10, 0, 0, 1);
static const uint8_t loop6[16] = {[15] = 1};

Test(addr, plain)
{
	static const struct {
		const char *s;
		const uint8_t *want;
	} good[] = {{"10.0.0.1", v4}, {"::ffff:10.0.0.1", v4}, {"::1", loop6}, {"[::1]", loop6}};
	static const char *const bad[] = {
		"",	  " 10.0.0.1", "10.0.0.1 ", "10.0.0",	  "10.0.0.256",	 "localhost",
		"::1%lo", "[::1",      "::1]",	    "[]",	  "10.0.0.1:80", "[::1]:80",
		"1:2",	  "010.0.0.1", "[::1]80",   "0x7f000001", "[10.0.0.1]",
	};
	uint8_t addr[16];
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(xvm_addr_parse(good[i].s, addr), 0, "%s", good[i].s);
		cr_assert_arr_eq(addr, good[i].want, 16);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(xvm_addr_parse(bad[i], addr), -EINVAL, "'%s'", bad[i]);
}

Test(addr, port)
{
	static const char *const bad[] = {
		"10.0.0.1:",	"10.0.0.1:0",	"10.0.0.1:65536",
		"10.0.0.1:-1",	"10.0.0.1: 80", "10.0.0.1:80x",
		"[::1]:",	"[::1]x:80",	":80",
		"[10.0.0.1:80", "10.0.0.1:+80", "[::1]:80:80",
		"[::1]]:80",	"host:80",	"10.0.0.1:99999999999999999999",
	};
	uint8_t addr[16];
	size_t i;
	int port;

	cr_assert_eq(xvm_addr_parse_port("10.0.0.1:65535", addr, &port), 0);
	cr_assert_eq(port, 65535);
	cr_assert_arr_eq(addr, v4, 16);
	cr_assert_eq(xvm_addr_parse_port("[::1]:1", addr, &port), 0);
	cr_assert_eq(port, 1);
	cr_assert_arr_eq(addr, loop6, 16);
	/* Without brackets all of it is the address. */
	cr_assert_eq(xvm_addr_parse_port("::1:80", addr, &port), 0);
	cr_assert_eq(port, -1);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(xvm_addr_parse_port(bad[i], addr, &port), -EINVAL, "'%s'", bad[i]);
}

Test(addr, text)
{
	static const uint8_t none[16];
	static const uint8_t longest[16] = {0xfd, 0x77, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
					    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	char buf[XVM_ADDR_STR];

	cr_assert_str_eq(xvm_addr_str(v4, buf), "10.0.0.1");
	cr_assert_str_eq(xvm_addr_str(loop6, buf), "::1");
	cr_assert_str_eq(xvm_addr_port_str(v4, 80, buf), "10.0.0.1:80");
	cr_assert_str_eq(xvm_addr_port_str(loop6, 80, buf), "[::1]:80");
	cr_assert_str_eq(xvm_addr_port_str(none, 0, buf), "-");
	cr_assert_str_eq(xvm_addr_port_str(none, 80, buf), "[::]:80");
	cr_assert_str_eq(xvm_addr_port_str(longest, 65535, buf),
			 "[fd77:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
}

Test(addr, sockaddr)
{
	struct sockaddr_storage ss;

	cr_assert_eq(xvm_addr_sockaddr(v4, 80, &ss), sizeof(struct sockaddr_in));
	cr_assert_eq(ss.ss_family, AF_INET);
	cr_assert_eq(((struct sockaddr_in *)&ss)->sin_addr.s_addr, htonl(0x0a000001));
	cr_assert_eq(((struct sockaddr_in *)&ss)->sin_port, htons(80));
	cr_assert_eq(xvm_addr_sockaddr(loop6, 80, &ss), sizeof(struct sockaddr_in6));
	cr_assert_eq(ss.ss_family, AF_INET6);
}

Test(addr, pidfd)
{
	static const char *const bad[] = {"",
					  "1",
					  ":",
					  "1:",
					  ":1",
					  "0:1",
					  "-1:1",
					  "1:-1",
					  "1:2:3",
					  "a:1",
					  "1:a",
					  " 1:2",
					  "1:2 ",
					  "99999999999:1",
					  "1:99999999999",
					  "+1:2",
					  "11111111111111111111111111111111:1"};
	int32_t pid, fd;
	size_t i;

	cr_assert_eq(xvm_addr_parse_pidfd("2147483647:0", &pid, &fd), 0);
	cr_assert_eq(pid, 2147483647);
	cr_assert_eq(fd, 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(xvm_addr_parse_pidfd(bad[i], &pid, &fd), -EINVAL, "'%s'", bad[i]);
}
