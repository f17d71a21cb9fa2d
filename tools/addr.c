/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/addr.h"

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* strtoul takes signs and blanks; nobody means them here. */
static int parse_number(const char *s, unsigned long max, long *v)
{
	char *end;
	unsigned long n;

	if (*s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	n = strtoul(s, &end, 10);
	if (*end || errno || n > max)
		return -EINVAL;
	*v = (long)n;
	return 0;
}

static int parse_plain(const char *s, uint8_t addr[16])
{
	if (inet_pton(AF_INET, s, addr + 12) == 1) {
		memcpy(addr, mapped, sizeof(mapped));
		return 0;
	}
	return inet_pton(AF_INET6, s, addr) == 1 ? 0 : -EINVAL;
}

int xvm_addr_parse_port(const char *s, uint8_t addr[16], int *port)
{
	char host[XVM_ADDR_STR];
	const char *tail, *from = s;
	size_t len;
	long v;
	int ret;

	*port = -1;
	if (*s == '[') {
		from = s + 1;
		tail = strchr(from, ']');
		if (!tail)
			return -EINVAL;
		len = tail - from;
		tail++;
		if (*tail && *tail != ':')
			return -EINVAL;
	} else {
		tail = strchr(s, ':');
		/* More than one colon: IPv6, which has a port only after brackets. */
		if (!tail || strchr(tail + 1, ':'))
			tail = s + strlen(s);
		len = tail - from;
	}
	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, from, len);
	host[len] = 0;
	/* Nothing else takes an IPv4 address in brackets. */
	if (*s == '[' && !strchr(host, ':'))
		return -EINVAL;
	ret = parse_plain(host, addr);
	if (ret || !*tail)
		return ret;
	if (parse_number(tail + 1, 65535, &v) || !v)
		return -EINVAL;
	*port = (int)v;
	return 0;
}

int xvm_addr_parse(const char *s, uint8_t addr[16])
{
	int port, ret;

	ret = xvm_addr_parse_port(s, addr, &port);
	return ret || port < 0 ? ret : -EINVAL;
}

const char *xvm_addr_str(const uint8_t addr[16], char buf[XVM_ADDR_STR])
{
	if (!memcmp(addr, mapped, sizeof(mapped)))
		inet_ntop(AF_INET, addr + 12, buf, XVM_ADDR_STR);
	else
		inet_ntop(AF_INET6, addr, buf, XVM_ADDR_STR);
	return buf;
}

const char *xvm_addr_port_str(const uint8_t addr[16], uint16_t port, char buf[XVM_ADDR_STR])
{
	static const uint8_t none[16];
	char host[XVM_ADDR_STR];

	if (!port && !memcmp(addr, none, sizeof(none)))
		return memcpy(buf, "-", 2);
	xvm_addr_str(addr, host);
	snprintf(buf, XVM_ADDR_STR, strchr(host, ':') ? "[%.46s]:%u" : "%.46s:%u", host, port);
	return buf;
}

socklen_t xvm_addr_sockaddr(const uint8_t addr[16], uint16_t port, struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *in = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof(*ss));
	if (!memcmp(addr, mapped, sizeof(mapped))) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, addr + 12, 4);
		return sizeof(*in);
	}
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, addr, 16);
	return sizeof(*in6);
}

int xvm_addr_parse_pidfd(const char *s, int32_t *pid, int32_t *fd)
{
	const char *colon = strchr(s, ':');
	char buf[16];
	long v;

	if (!colon || (size_t)(colon - s) >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, s, colon - s);
	buf[colon - s] = 0;
	if (parse_number(buf, INT_MAX, &v) || !v)
		return -EINVAL;
	*pid = (int32_t)v;
	if (parse_number(colon + 1, INT_MAX, &v))
		return -EINVAL;
	*fd = (int32_t)v;
	return 0;
}
