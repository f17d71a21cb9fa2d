/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "detect/conf.h"
#include "detect/conf_parse.h"

#define WORDS_MAX 16
#define LINE_MAX_BYTES 1024
#define RULES_MAX 10000

enum { HAS_USER = 1, HAS_PROGRAM = 2, HAS_ADDRESS = 4, HAS_PORT = 8 };

struct xvm_conf_rule {
	bool allow;
	unsigned has;
	uid_t uid;
	char *program;
	uint8_t net[16];
	unsigned prefix; /* of the 16-byte form */
	uint16_t port_lo, port_hi;
};

int xvm_conf_wrong(struct xvm_conf_parser *p, const char *fmt, ...)
{
	va_list ap;
	int n;

	n = snprintf(p->err, p->err_len, "%s:%u: ", p->name, p->line);
	if (n < 0 || (size_t)n >= p->err_len)
		return -EINVAL;
	va_start(ap, fmt);
	vsnprintf(p->err + n, p->err_len - n, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

int xvm_conf_number(const char *s, unsigned long max, unsigned long *v)
{
	unsigned long n = 0;

	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		if (!isdigit((unsigned char)*s))
			return -EINVAL;
		n = n * 10 + (*s - '0');
		if (n > max)
			return -ERANGE;
	}
	*v = n;
	return 0;
}

int xvm_conf_user(struct xvm_conf_parser *p, uid_t *uid, const char *w)
{
	struct passwd *pw;
	unsigned long v;

	if (!xvm_conf_number(w, (uid_t)-2, &v)) {
		*uid = (uid_t)v;
		return 0;
	}
	pw = getpwnam(w);
	if (!pw)
		return xvm_conf_wrong(p, "there is no user \"%s\"", w);
	*uid = pw->pw_uid;
	return 0;
}

static int parse_program(struct xvm_conf_parser *p, struct xvm_conf_rule *r, const char *w)
{
	if (w[0] != '/' && strchr(w, '/'))
		return xvm_conf_wrong(p, "program \"%s\" is neither an absolute path nor a name",
				      w);
	r->program = strdup(w);
	return r->program ? 0 : xvm_conf_wrong(p, "out of memory");
}

static int parse_address(struct xvm_conf_parser *p, struct xvm_conf_rule *r, char *w)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	char *slash = strchr(w, '/');
	unsigned long bits, max;
	unsigned i;

	if (slash)
		*slash = 0;
	if (inet_pton(AF_INET, w, r->net + 12) == 1) {
		memcpy(r->net, mapped, sizeof(mapped));
		max = 32;
	} else if (inet_pton(AF_INET6, w, r->net) == 1) {
		max = 128;
	} else {
		return xvm_conf_wrong(p, "\"%s\" is no IPv4 or IPv6 address", w);
	}
	bits = max;
	if (slash && xvm_conf_number(slash + 1, max, &bits))
		return xvm_conf_wrong(p, "\"%s\" is no prefix length of 0 to %lu", slash + 1, max);
	r->prefix = (unsigned)(bits + 128 - max);
	for (i = r->prefix; i < 128; i++)
		if (r->net[i / 8] & (0x80 >> i % 8))
			return xvm_conf_wrong(p, "%s/%lu has bits set beyond its prefix", w, bits);
	return 0;
}

static int parse_port(struct xvm_conf_parser *p, struct xvm_conf_rule *r, char *w)
{
	char *dash = strchr(w, '-');
	unsigned long lo, hi;

	if (dash)
		*dash = 0;
	if (xvm_conf_number(w, 65535, &lo))
		return xvm_conf_wrong(p, "\"%s\" is no port of 0 to 65535", w);
	hi = lo;
	if (dash && xvm_conf_number(dash + 1, 65535, &hi))
		return xvm_conf_wrong(p, "\"%s\" is no port of 0 to 65535", dash + 1);
	if (hi < lo)
		return xvm_conf_wrong(p, "the ports %lu-%lu are the wrong way round", lo, hi);
	r->port_lo = (uint16_t)lo;
	r->port_hi = (uint16_t)hi;
	return 0;
}

static int parse_selector(struct xvm_conf_parser *p, struct xvm_conf_rule *r, const char *key,
			  char *value)
{
	unsigned bit;

	if (!strcmp(key, "user"))
		bit = HAS_USER;
	else if (!strcmp(key, "program"))
		bit = HAS_PROGRAM;
	else if (!strcmp(key, "address"))
		bit = HAS_ADDRESS;
	else if (!strcmp(key, "port"))
		bit = HAS_PORT;
	else
		return xvm_conf_wrong(p, "\"%s\" is none of user, program, address, port", key);
	if (!value)
		return xvm_conf_wrong(p, "%s is not followed by a value", key);
	if (r->has & bit)
		return xvm_conf_wrong(p, "%s is given twice", key);
	r->has |= bit;
	switch (bit) {
	case HAS_USER:
		return xvm_conf_user(p, &r->uid, value);
	case HAS_PROGRAM:
		return parse_program(p, r, value);
	case HAS_ADDRESS:
		return parse_address(p, r, value);
	default:
		return parse_port(p, r, value);
	}
}

/* One more at the end of a list that grows by doubling, at powers of two. */
static int append(struct xvm_conf_parser *p, struct xvm_conf_rule **list, size_t *n,
		  const struct xvm_conf_rule *r)
{
	struct xvm_conf_rule *more;

	if (*n >= RULES_MAX)
		return xvm_conf_wrong(p, "more than %d rules", RULES_MAX);
	if (!(*n & (*n - 1))) {
		more = realloc(*list, (*n ? *n * 2 : 1) * sizeof(*more));
		if (!more)
			return xvm_conf_wrong(p, "out of memory");
		*list = more;
	}
	(*list)[(*n)++] = *r;
	return 0;
}

static int parse_rule(struct xvm_conf_parser *p, char **w, int n, struct xvm_conf_rule *r)
{
	int i, ret;

	memset(r, 0, sizeof(*r));
	if (n < 2 || (strcmp(w[1], "allow") && strcmp(w[1], "deny")))
		return xvm_conf_wrong(p, "%s is not followed by allow or deny", w[0]);
	r->allow = !strcmp(w[1], "allow");
	for (i = 2; i < n; i += 2) {
		ret = parse_selector(p, r, w[i], i + 1 < n ? w[i + 1] : NULL);
		if (ret)
			return ret;
	}
	return 0;
}

static int parse_pair(struct xvm_conf_parser *p, char **w, int n)
{
	struct xvm_conf_rule r;
	int ret = parse_rule(p, w, n, &r);

	if (!ret)
		ret = append(p, &p->c->rule, &p->c->n, &r);
	if (ret)
		free(r.program);
	return ret;
}

static int parse_share(struct xvm_conf_parser *p, char **w, int n)
{
	struct xvm_conf_rule r;
	int ret = parse_rule(p, w, n, &r);

	/* It is about programs, before they have any connection. */
	if (!ret && (r.has & (HAS_ADDRESS | HAS_PORT)))
		ret = xvm_conf_wrong(p, "share knows user and program only");
	if (!ret)
		ret = append(p, &p->c->share, &p->c->n_share, &r);
	if (ret)
		free(r.program);
	return ret;
}

static int parse_log(struct xvm_conf_parser *p, char **w, int n)
{
	static const struct {
		const char *name;
		int level;
	} levels[] = {{"error", LOG_ERR},
		      {"warning", LOG_WARNING},
		      {"notice", LOG_NOTICE},
		      {"info", LOG_INFO},
		      {"debug", LOG_DEBUG}};
	size_t i;

	if (p->c->log_given)
		return xvm_conf_wrong(p, "log is given twice");
	if (n > 2)
		return xvm_conf_wrong(p, "log is followed by more than one word");
	for (i = 0; n == 2 && i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(w[1], levels[i].name)) {
			p->c->log_level = levels[i].level;
			p->c->log_given = true;
			return 0;
		}
	return xvm_conf_wrong(p, "log is not followed by error, warning, notice, info or debug");
}

static int parse_vfio(struct xvm_conf_parser *p, char **w, int n)
{
	if (n != 2 || strcmp(w[1], "noiommu") != 0)
		return xvm_conf_wrong(p, "vfio is not followed by noiommu");
	p->c->noiommu = true;
	return 0;
}

static int parse_line(struct xvm_conf_parser *p, char *line)
{
	char *w[WORDS_MAX], *save, *s;
	int n = 0;

	s = strchr(line, '#');
	if (s)
		*s = 0;
	for (s = strtok_r(line, " \t\r", &save); s; s = strtok_r(NULL, " \t\r", &save)) {
		if (n == WORDS_MAX)
			return xvm_conf_wrong(p, "too many words");
		w[n++] = s;
	}
	if (!n)
		return 0;
	if (!strcmp(w[0], "pair"))
		return parse_pair(p, w, n);
	if (!strcmp(w[0], "log"))
		return parse_log(p, w, n);
	if (!strcmp(w[0], "group"))
		return xvm_conf_parse_group(p, w, n);
	if (!strcmp(w[0], "share"))
		return parse_share(p, w, n);
	if (!strcmp(w[0], "vfio"))
		return parse_vfio(p, w, n);
	return xvm_conf_wrong(
		p, "\"%.32s\" is no statement; there are pair, share, group, vfio and log", w[0]);
}

struct xvm_conf *xvm_conf_parse(const char *text, size_t len, const char *name, char *err,
				size_t err_len)
{
	struct xvm_conf_parser p = {.name = name, .err = err, .err_len = err_len};
	char line[LINE_MAX_BYTES];
	const char *nl;
	size_t n;

	p.c = calloc(1, sizeof(*p.c));
	if (!p.c) {
		xvm_conf_wrong(&p, "out of memory");
		return NULL;
	}
	p.c->log_level = LOG_NOTICE;
	for (; len; text += n + 1, len -= n + 1) {
		p.line++;
		nl = memchr(text, '\n', len);
		/* An editor or a script that is still writing: half a rule may mean the opposite.
		 */
		if (!nl) {
			xvm_conf_wrong(&p, "the last line has no end: is the file half-written?");
			goto out_free;
		}
		n = (size_t)(nl - text);
		if (n >= sizeof(line)) {
			xvm_conf_wrong(&p, "the line is longer than %zu bytes", sizeof(line) - 1);
			goto out_free;
		}
		memcpy(line, text, n);
		line[n] = 0;
		if (strlen(line) != n) {
			xvm_conf_wrong(&p, "there is a NUL byte in the line");
			goto out_free;
		}
		if (parse_line(&p, line))
			goto out_free;
	}
	return p.c;

out_free:
	xvm_conf_free(p.c);
	return NULL;
}

struct xvm_conf *xvm_conf_load(const char *path, bool missing_ok, char *err, size_t err_len)
{
	struct xvm_conf *c = NULL;
	struct stat st;
	char *text = NULL;
	size_t len = 0;
	ssize_t n = 0;
	int fd;

	/* Non-blocking: a FIFO must not hold the daemon up. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT && missing_ok)
		return xvm_conf_parse("", 0, path, err, err_len);
	if (fd < 0 || fstat(fd, &st)) {
		snprintf(err, err_len, "%s: %s", path, strerror(errno));
		goto out_close;
	}
	if (!S_ISREG(st.st_mode) && !(S_ISCHR(st.st_mode) && !st.st_size)) {
		snprintf(err, err_len, "%s: is no regular file", path);
		goto out_close;
	}
	text = malloc(XVM_CONF_MAX);
	while (text && len < XVM_CONF_MAX && (n = read(fd, text + len, XVM_CONF_MAX - len)) > 0)
		len += (size_t)n;
	if (!text || n < 0)
		snprintf(err, err_len, "%s: %s", path, strerror(errno));
	else if (len == XVM_CONF_MAX)
		snprintf(err, err_len, "%s: is larger than %u bytes", path, XVM_CONF_MAX - 1);
	else
		c = xvm_conf_parse(text, len, path, err, err_len);
out_close:
	free(text);
	if (fd >= 0)
		close(fd);
	return c;
}

void xvm_conf_free(struct xvm_conf *c)
{
	size_t i;

	if (!c)
		return;
	for (i = 0; i < c->n; i++)
		free(c->rule[i].program);
	for (i = 0; i < c->n_share; i++)
		free(c->share[i].program);
	free(c->rule);
	free(c->share);
	free(c->group);
	free(c);
}

static bool in_net(const struct xvm_conf_rule *r, const uint8_t addr[16])
{
	unsigned bytes = r->prefix / 8, bits = r->prefix % 8;

	if (memcmp(addr, r->net, bytes))
		return false;
	return !bits || !((addr[bytes] ^ r->net[bytes]) >> (8 - bits));
}

static bool is_program(const struct xvm_conf_rule *r, const char *exe)
{
	char path[4096];
	const char *name;
	size_t len;

	if (!exe)
		return false;
	/* What the kernel appends once the file has been replaced, by an upgrade say. */
	len = strlen(exe);
	if (len > 10 && !strcmp(exe + len - 10, " (deleted)"))
		len -= 10;
	if (len >= sizeof(path))
		return false;
	memcpy(path, exe, len);
	path[len] = 0;
	if (r->program[0] == '/')
		return !fnmatch(r->program, path, FNM_PATHNAME);
	name = strrchr(path, '/');
	return !fnmatch(r->program, name ? name + 1 : path, 0);
}

/* Is the rule about this user, address and port, and about a program that may be this one? */
static bool holds(const struct xvm_conf_rule *r, uid_t uid, const char *exe)
{
	if ((r->has & HAS_USER) && r->uid != uid)
		return false;
	if (!(r->has & HAS_PROGRAM) || is_program(r, exe))
		return true;
	/* Who cannot be told apart from a denied program is denied. */
	return !exe && !r->allow;
}

static bool holds_at(const struct xvm_conf_rule *r, const uint8_t addr[16], uint16_t port)
{
	if ((r->has & HAS_PORT) && (port < r->port_lo || port > r->port_hi))
		return false;
	return !(r->has & HAS_ADDRESS) || in_net(r, addr);
}

bool xvm_conf_allows(const struct xvm_conf *c, uid_t uid, const char *exe, const uint8_t addr[16],
		     uint16_t port)
{
	size_t i;

	for (i = 0; i < c->n; i++)
		if (holds_at(&c->rule[i], addr, port) && holds(&c->rule[i], uid, exe))
			return c->rule[i].allow;
	return true;
}

bool xvm_conf_allows_vm(const struct xvm_conf *c, const uint8_t addr[16], uint16_t port)
{
	size_t i;

	for (i = 0; i < c->n; i++)
		if (!(c->rule[i].has & (HAS_USER | HAS_PROGRAM)) &&
		    holds_at(&c->rule[i], addr, port))
			return c->rule[i].allow;
	return true;
}

bool xvm_conf_shares(const struct xvm_conf *c, uid_t uid, const char *exe, bool otherwise)
{
	size_t i;

	for (i = 0; i < c->n_share; i++)
		if (holds(&c->share[i], uid, exe))
			return c->share[i].allow;
	return otherwise;
}

bool xvm_conf_noiommu(const struct xvm_conf *c)
{
	return c->noiommu;
}

int xvm_conf_log_level(const struct xvm_conf *c)
{
	return c->log_level;
}

size_t xvm_conf_groups(const struct xvm_conf *c, const struct xvm_conf_group **group)
{
	*group = c->group;
	return c->n_groups;
}
