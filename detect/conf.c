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
#include "transport/region.h"

#define WORDS_MAX 16
#define LINE_MAX_BYTES 1024
#define RULES_MAX 10000
#define GROUPS_MAX 64
#define GROUP_SIZE (256ull << 20)
#define GROUP_PEERS 8
#define GROUP_VECTORS 16

enum { HAS_USER = 1, HAS_PROGRAM = 2, HAS_ADDRESS = 4, HAS_PORT = 8 };

struct rule {
	bool allow;
	unsigned has;
	uid_t uid;
	char *program;
	uint8_t net[16];
	unsigned prefix; /* of the 16-byte form */
	uint16_t port_lo, port_hi;
};

struct xvm_conf {
	struct rule *rule;
	size_t n;
	struct xvm_conf_group *group;
	size_t n_groups;
	int log_level;
	bool log_given;
};

struct parser {
	struct xvm_conf *c;
	const char *name;
	unsigned line;
	char *err;
	size_t err_len;
};

static int wrong(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int wrong(struct parser *p, const char *fmt, ...)
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

/* The whole word, decimal. */
static int number(const char *s, unsigned long max, unsigned long *v)
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

static int parse_user(struct parser *p, uid_t *uid, const char *w)
{
	struct passwd *pw;
	unsigned long v;

	if (!number(w, (uid_t)-2, &v)) {
		*uid = (uid_t)v;
		return 0;
	}
	pw = getpwnam(w);
	if (!pw)
		return wrong(p, "there is no user \"%s\"", w);
	*uid = pw->pw_uid;
	return 0;
}

static int parse_program(struct parser *p, struct rule *r, const char *w)
{
	if (w[0] != '/' && strchr(w, '/'))
		return wrong(p, "program \"%s\" is neither an absolute path nor a name", w);
	r->program = strdup(w);
	return r->program ? 0 : wrong(p, "out of memory");
}

static int parse_address(struct parser *p, struct rule *r, char *w)
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
		return wrong(p, "\"%s\" is no IPv4 or IPv6 address", w);
	}
	bits = max;
	if (slash && number(slash + 1, max, &bits))
		return wrong(p, "\"%s\" is no prefix length of 0 to %lu", slash + 1, max);
	r->prefix = (unsigned)(bits + 128 - max);
	for (i = r->prefix; i < 128; i++)
		if (r->net[i / 8] & (0x80 >> i % 8))
			return wrong(p, "%s/%lu has bits set beyond its prefix", w, bits);
	return 0;
}

static int parse_port(struct parser *p, struct rule *r, char *w)
{
	char *dash = strchr(w, '-');
	unsigned long lo, hi;

	if (dash)
		*dash = 0;
	if (number(w, 65535, &lo))
		return wrong(p, "\"%s\" is no port of 0 to 65535", w);
	hi = lo;
	if (dash && number(dash + 1, 65535, &hi))
		return wrong(p, "\"%s\" is no port of 0 to 65535", dash + 1);
	if (hi < lo)
		return wrong(p, "the ports %lu-%lu are the wrong way round", lo, hi);
	r->port_lo = (uint16_t)lo;
	r->port_hi = (uint16_t)hi;
	return 0;
}

static int parse_selector(struct parser *p, struct rule *r, const char *key, char *value)
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
		return wrong(p, "\"%s\" is none of user, program, address, port", key);
	if (!value)
		return wrong(p, "%s is not followed by a value", key);
	if (r->has & bit)
		return wrong(p, "%s is given twice", key);
	r->has |= bit;
	switch (bit) {
	case HAS_USER:
		return parse_user(p, &r->uid, value);
	case HAS_PROGRAM:
		return parse_program(p, r, value);
	case HAS_ADDRESS:
		return parse_address(p, r, value);
	default:
		return parse_port(p, r, value);
	}
}

static int parse_pair(struct parser *p, char **w, int n)
{
	struct xvm_conf *c = p->c;
	struct rule *more, r = {0};
	int i, ret;

	if (n < 2 || (strcmp(w[1], "allow") && strcmp(w[1], "deny")))
		return wrong(p, "pair is not followed by allow or deny");
	if (c->n >= RULES_MAX)
		return wrong(p, "more than %d rules", RULES_MAX);
	r.allow = !strcmp(w[1], "allow");
	for (i = 2; i < n; i += 2) {
		ret = parse_selector(p, &r, w[i], i + 1 < n ? w[i + 1] : NULL);
		if (ret)
			goto out_free;
	}
	/* Doubling, at powers of two. */
	if (!(c->n & (c->n - 1))) {
		more = realloc(c->rule, (c->n ? c->n * 2 : 1) * sizeof(*more));
		if (!more) {
			ret = wrong(p, "out of memory");
			goto out_free;
		}
		c->rule = more;
	}
	c->rule[c->n++] = r;
	return 0;

out_free:
	free(r.program);
	return ret;
}

/* ---- groups ----------------------------------------------------------- */

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
static int parse_size(struct parser *p, uint64_t *size, char *w)
{
	static const char units[] = "KMG";
	size_t len = strlen(w);
	const char *unit = strchr(units, w[len - 1]);
	unsigned long v;
	int ret;

	if (unit)
		w[len - 1] = 0;
	ret = number(w, XVM_REGION_SIZE_MAX, &v);
	if (unit)
		w[len - 1] = *unit;
	if (ret)
		return wrong(p, "\"%s\" is no size", w);
	*size = unit ? (uint64_t)v << 10 * (unit - units + 1) : v;
	if (*size < XVM_REGION_SIZE_MIN || *size > XVM_REGION_SIZE_MAX || (*size & (*size - 1)))
		return wrong(p, "a size is a power of two from %lluM to %lluG",
			     XVM_REGION_SIZE_MIN >> 20, XVM_REGION_SIZE_MAX >> 30);
	return 0;
}

static int parse_count(struct parser *p, uint32_t *to, const char *w, const char *what,
		       unsigned long max)
{
	unsigned long v;

	if (number(w, max, &v) || !v)
		return wrong(p, "\"%s\" is no number of %s, from 1 to %lu", w, what, max);
	*to = (uint32_t)v;
	return 0;
}

static int parse_socket(struct parser *p, struct xvm_conf_group *g, const char *w)
{
	if (*w != '/')
		return wrong(p, "socket \"%s\" is no absolute path", w);
	if (strlen(w) >= sizeof(g->socket))
		return wrong(p, "the socket's path is longer than %zu bytes",
			     sizeof(g->socket) - 1);
	snprintf(g->socket, sizeof(g->socket), "%s", w);
	return 0;
}

static int parse_group_word(struct parser *p, struct xvm_conf_group *g, unsigned bit, char *value)
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
		return parse_user(p, &g->uid, value);
	default:
		g->hugepages = true;
		return 0;
	}
}

static int parse_group_words(struct parser *p, struct xvm_conf_group *g, char **w, int n)
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
			return wrong(
				p,
				"\"%s\" is none of socket, size, peers, vectors, user, hugepages",
				w[i]);
		if (has & bit)
			return wrong(p, "%s is given twice", w[i]);
		has |= bit;
		if (bit != HAS_HUGE && ++i == n)
			return wrong(p, "%s is not followed by a value", w[i - 1]);
		ret = parse_group_word(p, g, bit, w[i]);
		if (ret)
			return ret;
	}
	return 0;
}

/* Each on its own is right; are they together? */
static int judge_group(struct parser *p, const struct xvm_conf_group *g)
{
	const struct xvm_conf *c = p->c;
	struct xvm_region figures;
	size_t i;

	for (i = 0; i < c->n_groups; i++) {
		if (!strcmp(c->group[i].name, g->name))
			return wrong(p, "there are two groups %s", g->name);
		if (!strcmp(c->group[i].socket, g->socket))
			return wrong(p, "group %s has the socket %s", c->group[i].name, g->socket);
	}
	if (xvm_region_figure(&figures, g->size, g->vms + 1, g->vectors))
		return wrong(p, "%lluM are too few for %u peers and the host",
			     (unsigned long long)(g->size >> 20), g->vms);
	if (g->hugepages && g->size < 2ull << 20)
		return wrong(p, "%lluM are less than a huge page",
			     (unsigned long long)(g->size >> 20));
	return 0;
}

static int parse_group(struct parser *p, char **w, int n)
{
	struct xvm_conf_group *more,
		g = {.size = GROUP_SIZE, .vms = GROUP_PEERS, .vectors = GROUP_VECTORS};
	struct xvm_conf *c = p->c;
	int ret;

	if (n < 2 || !name_ok(w[1]))
		return wrong(p,
			     "group is not followed by a name of 1 to %zu letters, digits, - _ .",
			     sizeof(g.name) - 1);
	if (c->n_groups >= GROUPS_MAX)
		return wrong(p, "more than %d groups", GROUPS_MAX);
	snprintf(g.name, sizeof(g.name), "%s", w[1]);
	snprintf(g.socket, sizeof(g.socket), "/run/xvm/%s.ivshmem", w[1]);
	ret = parse_group_words(p, &g, w + 2, n - 2);
	if (!ret)
		ret = judge_group(p, &g);
	if (ret)
		return ret;
	more = realloc(c->group, (c->n_groups + 1) * sizeof(*more));
	if (!more)
		return wrong(p, "out of memory");
	c->group = more;
	c->group[c->n_groups++] = g;
	return 0;
}

/* ---- the rest --------------------------------------------------------- */

static int parse_log(struct parser *p, char **w, int n)
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
		return wrong(p, "log is given twice");
	if (n > 2)
		return wrong(p, "log is followed by more than one word");
	for (i = 0; n == 2 && i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(w[1], levels[i].name)) {
			p->c->log_level = levels[i].level;
			p->c->log_given = true;
			return 0;
		}
	return wrong(p, "log is not followed by error, warning, notice, info or debug");
}

static int parse_line(struct parser *p, char *line)
{
	char *w[WORDS_MAX], *save, *s;
	int n = 0;

	s = strchr(line, '#');
	if (s)
		*s = 0;
	for (s = strtok_r(line, " \t\r", &save); s; s = strtok_r(NULL, " \t\r", &save)) {
		if (n == WORDS_MAX)
			return wrong(p, "too many words");
		w[n++] = s;
	}
	if (!n)
		return 0;
	if (!strcmp(w[0], "pair"))
		return parse_pair(p, w, n);
	if (!strcmp(w[0], "log"))
		return parse_log(p, w, n);
	if (!strcmp(w[0], "group"))
		return parse_group(p, w, n);
	return wrong(p, "\"%.32s\" is no statement; there are pair, group and log", w[0]);
}

struct xvm_conf *xvm_conf_parse(const char *text, size_t len, const char *name, char *err,
				size_t err_len)
{
	struct parser p = {.name = name, .err = err, .err_len = err_len};
	char line[LINE_MAX_BYTES];
	const char *nl;
	size_t n;

	p.c = calloc(1, sizeof(*p.c));
	if (!p.c) {
		wrong(&p, "out of memory");
		return NULL;
	}
	p.c->log_level = LOG_NOTICE;
	for (; len; text += n + 1, len -= n + 1) {
		p.line++;
		nl = memchr(text, '\n', len);
		/* An editor or a script that is still writing: half a rule may mean the opposite.
		 */
		if (!nl) {
			wrong(&p, "the last line has no end: is the file half-written?");
			goto out_free;
		}
		n = (size_t)(nl - text);
		if (n >= sizeof(line)) {
			wrong(&p, "the line is longer than %zu bytes", sizeof(line) - 1);
			goto out_free;
		}
		memcpy(line, text, n);
		line[n] = 0;
		if (strlen(line) != n) {
			wrong(&p, "there is a NUL byte in the line");
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
	free(c->rule);
	free(c->group);
	free(c);
}

static bool in_net(const struct rule *r, const uint8_t addr[16])
{
	unsigned bytes = r->prefix / 8, bits = r->prefix % 8;

	if (memcmp(addr, r->net, bytes))
		return false;
	return !bits || !((addr[bytes] ^ r->net[bytes]) >> (8 - bits));
}

static bool is_program(const struct rule *r, const char *exe)
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

bool xvm_conf_allows(const struct xvm_conf *c, uid_t uid, const char *exe, const uint8_t addr[16],
		     uint16_t port)
{
	size_t i;

	for (i = 0; i < c->n; i++) {
		const struct rule *r = &c->rule[i];

		if ((r->has & HAS_USER) && r->uid != uid)
			continue;
		if ((r->has & HAS_PORT) && (port < r->port_lo || port > r->port_hi))
			continue;
		if ((r->has & HAS_ADDRESS) && !in_net(r, addr))
			continue;
		if ((r->has & HAS_PROGRAM) && !is_program(r, exe)) {
			/* Who cannot be told apart from a denied program is denied. */
			if (exe || r->allow)
				continue;
		}
		return r->allow;
	}
	return true;
}

bool xvm_conf_allows_vm(const struct xvm_conf *c, const uint8_t addr[16], uint16_t port)
{
	size_t i;

	for (i = 0; i < c->n; i++) {
		const struct rule *r = &c->rule[i];

		if (r->has & (HAS_USER | HAS_PROGRAM))
			continue;
		if ((r->has & HAS_PORT) && (port < r->port_lo || port > r->port_hi))
			continue;
		if ((r->has & HAS_ADDRESS) && !in_net(r, addr))
			continue;
		return r->allow;
	}
	return true;
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
