/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration of any bytes is taken, or refused with one line that names file and line. */
#include <stdlib.h>
#include <string.h>

#include "detect/conf.h"
#include "transport/region.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint8_t addr[16] = {[10] = 0xff, [11] = 0xff, 10, 0, 0, 1};
	char err[128] = "";
	const struct xvm_conf_group *g;
	struct xvm_region r;
	struct xvm_conf *c;
	size_t n;

	c = xvm_conf_parse((const char *)data, len, "file", err, sizeof(err));
	if (!c) {
		if (strncmp(err, "file:", 5) || strchr(err, '\n'))
			abort();
		return 0;
	}
	xvm_conf_allows(c, 0, "/usr/sbin/nginx", addr, 80);
	xvm_conf_allows(c, 7, NULL, addr, 0);
	xvm_conf_allows_vm(c, addr, 80);
	xvm_conf_shares(c, 0, "/usr/sbin/nginx", false);
	xvm_conf_shares(c, 7, NULL, true);
	for (n = xvm_conf_groups(c, &g); n; n--, g++)
		if (*g->socket != '/' || xvm_region_figure(&r, g->size, g->vms + 1, g->vectors))
			abort();
	xvm_conf_free(c);
	return 0;
}
