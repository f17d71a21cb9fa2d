/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel knows of a connection's positions (test/assume holds it to this):
 *
 * taken is tcpi_bytes_received - SIOCINQ: the peer's FIN counts one in the first, and the second
 * never shows it. given is tcpi_bytes_acked + SIOCOUTQ: the SYN of who connected counts one.
 * The parts of each come by two calls, between which bytes may arrive or be acknowledged: so
 * the first is read before and after the second, until nothing has moved in between.
 */
#define XVM_REAL_IS_QUIET
#include "shim/position.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>

#include "shim/quiet.h"

#define TRIES 8

/* TCP_INFO's states; netinet/tcp.h cannot be included beside linux/tcp.h. */
enum { ST_ESTABLISHED = 1, ST_FIN_WAIT1 = 4, ST_FIN_WAIT2 = 5, ST_CLOSE_WAIT = 8 };

struct look {
	struct tcp_info before, after;
	int queued;
};

static int tcp_info(int fd, struct tcp_info *info)
{
	socklen_t len = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return REAL(getsockopt)(fd, IPPROTO_TCP, TCP_INFO, info, &len);
}

static int look(int fd, unsigned long queue, struct look *l)
{
	if (tcp_info(fd, &l->before) < 0 || REAL(ioctl)(fd, queue, &l->queued) < 0 ||
	    tcp_info(fd, &l->after) < 0)
		return -errno;
	return 0;
}

int xvm_position_rx(int fd, uint64_t *pos)
{
	struct look l;

	for (int tries = 0; tries < TRIES; tries++) {
		int r = look(fd, SIOCINQ, &l), state = l.after.tcpi_state;

		if (r < 0)
			return r;
		if (l.before.tcpi_bytes_received != l.after.tcpi_bytes_received)
			continue;
		*pos = l.before.tcpi_bytes_received - (uint64_t)l.queued;
		/* A FIN counts one. A state that says there is none is older than the count, so the
		 * FIN may have come between: the first state must say so too. */
		if (state == ST_ESTABLISHED || state == ST_FIN_WAIT1 || state == ST_FIN_WAIT2)
			return 0;
		if (l.before.tcpi_state != state)
			continue;
		*pos -= 1;
		return -ENOTCONN;
	}
	return -EAGAIN;
}

int xvm_position_tx(int fd, bool active, uint64_t *pos)
{
	struct look l;

	for (int tries = 0; tries < TRIES; tries++) {
		int r = look(fd, SIOCOUTQ, &l);

		if (r < 0)
			return r;
		if (l.after.tcpi_state != ST_ESTABLISHED && l.after.tcpi_state != ST_CLOSE_WAIT)
			return -ENOTCONN;
		if (l.before.tcpi_bytes_acked != l.after.tcpi_bytes_acked)
			continue;
		*pos = l.before.tcpi_bytes_acked + (uint64_t)l.queued - (active ? 1 : 0);
		return 0;
	}
	return -EAGAIN;
}
