/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vmctl (host) and vmagent (guest) say to each other over one virtio-serial port.
 *
 * A port carries one command at a time, so it needs no streams and no credits: back pressure is the
 * port's own. A guest has CHANNEL_PORTS of them; vmctl takes a free one by flock().
 *
 *   host   RUN, then IN and SIGNAL while it runs ............ BYE
 *   guest                      HERE OUT ERR OUT ... EXIT          BYE
 *
 * BYE is answered when the guest has read all that the host wrote, so the next command finds the
 * port empty. Where the host goes away without BYE (it was killed), the guest kills the command and
 * leaves the port for good: what half a frame may lie in it, nobody can tell.
 */
#ifndef XVM_TEST_CHANNEL_H
#define XVM_TEST_CHANNEL_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define CHANNEL_PORTS 16
#define CHANNEL_NAME "xvm." /* and the port's number */

enum channel_type {
	CHANNEL_RUN = 'R',    /* argv, each string with its NUL */
	CHANNEL_IN = 'I',     /* stdin; empty: its end */
	CHANNEL_SIGNAL = 'S', /* one byte, its number: for the command's process */
	CHANNEL_BYE = 'B',    /* both ways */
	CHANNEL_HERE = 'H',   /* somebody listens */
	CHANNEL_OUT = 'O',    /* stdout */
	CHANNEL_ERR = 'E',    /* stderr */
	CHANNEL_EXIT = 'X',   /* one byte, as the shell has it in $? */
};

/* virtio_console takes 32 KB in one write at most; a frame is never cut in two. */
#define CHANNEL_MAX 30000

struct channel_frame {
	uint16_t len;
	uint8_t type;
	uint8_t zero;
	char data[CHANNEL_MAX];
};
#define CHANNEL_HEAD 4

/* A frame on its way in. */
struct channel_in {
	struct channel_frame f;
	unsigned have;
};

/* 1: a frame is complete in in->f, and in->have is to be set to 0 when it has been dealt with.
 * 0: not yet; -EPIPE: the other end has closed, or is out of its mind; else -errno. */
static inline int channel_read(int fd, struct channel_in *in)
{
	for (;;) {
		unsigned want = CHANNEL_HEAD;
		ssize_t n;

		if (in->have >= CHANNEL_HEAD) {
			if (in->f.len > CHANNEL_MAX || in->f.zero)
				return -EPIPE;
			want += in->f.len;
		}
		if (in->have >= CHANNEL_HEAD && in->have == want)
			return 1;
		n = read(fd, (char *)&in->f + in->have, want - in->have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (n == 0)
			return -EPIPE;
		in->have += n;
	}
}

#endif
