/* SPDX-License-Identifier: Apache-2.0 */
/* What the parsers of xvmd.conf(5)'s statements share; nobody else's business. */
#ifndef XVM_DETECT_CONF_PARSE_H
#define XVM_DETECT_CONF_PARSE_H

#include "detect/conf.h"

struct xvm_conf_rule;

struct xvm_conf {
	struct xvm_conf_rule *rule; /* pair */
	size_t n;
	struct xvm_conf_rule *share;
	size_t n_share;
	struct xvm_conf_group *group;
	size_t n_groups;
	int log_level;
	bool log_given;
	bool noiommu;
};

/* The line that is being read. */
struct xvm_conf_parser {
	struct xvm_conf *c;
	const char *name;
	unsigned line;
	char *err;
	size_t err_len;
};

/* Say what is wrong in this line: -EINVAL. */
int xvm_conf_wrong(struct xvm_conf_parser *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The whole word, decimal. 0, -EINVAL or -ERANGE. */
int xvm_conf_number(const char *s, unsigned long max, unsigned long *v);
/* A user's name or number. */
int xvm_conf_user(struct xvm_conf_parser *p, uid_t *uid, const char *w);

/* The words of the line, the first of them "group". */
int xvm_conf_parse_group(struct xvm_conf_parser *p, char **w, int n);

#endif
