/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of one TCP connection as paired sockets in this process, without wrappers or daemon. */
#ifndef XVM_TEST_SHIM_PAIR_H
#define XVM_TEST_SHIM_PAIR_H

#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "test/unit/shim_alone.h"

static int fd[2];
static struct xvm_sock *s[2];
static struct xvm_peer nobody;
static uint64_t sent, got; /* from 0 to 1 */
static uint32_t window;	   /* bytes of the first (G1); 0: as ever */

static inline void make_pair(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0), half[2];

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(l, 1), 0);
	getsockname(l, (struct sockaddr *)&sa, &len);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert_eq(connect(fd[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	fd[1] = accept(l, NULL, NULL);
	close(l);
	cr_assert_eq(xvm_fdtab_init(), 0);
	for (int i = 0; i < 2; i++) {
		xvm_sock_track(fd[i], i ? XVM_ROLE_PASSIVE : XVM_ROLE_ACTIVE);
		s[i] = xvm_sock_get(fd[i]);
		cr_assert(s[i]);
		cr_assert_eq(xvm_half_create(&s[i]->mine, xvm_conf.ring_size, &half[i]), 0);
		if (window)
			xvm_half_window(&s[i]->mine, window);
		atomic_store(&s[i]->ep->state, XVM_EP_OFFERED);
	}
	for (int i = 0; i < 2; i++) {
		struct xvm_half peer;
		int err = xvm_half_open(&peer, half[!i]);

		xvm_offer_paired(s[i]->slot, s[i]->gen, 0, err, &peer, &nobody);
	}
	for (int i = 0; i < 2; i++) {
		cr_assert(xvm_sock_on(s[i]));
		close(half[i]);
	}
	sent = got = 0;
}

#endif
