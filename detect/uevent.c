/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/log.h"
#include "detect/uevent.h"
#include "detect/unplug.h"

#define KERNEL_GROUP 1
#define READ_AT_ONCE 64
/* The kernel tells of a device before its files are all there, and of nothing when they are. */
#define LOOK_S .2
#define LOOKS 10

/* One of the words behind the first, which end with a NUL each. */
static const char *value(const char *text, const char *end, const char *name)
{
	size_t len = strlen(name);

	for (; text < end; text += strlen(text) + 1)
		if (!strncmp(text, name, len) && text[len] == '=')
			return text + len + 1;
	return "";
}

static void removed(struct xvm_daemon *d, const char *bdf)
{
	uint32_t i;

	for (i = 0; i < d->guests.n; i++) {
		struct xvm_guest *g = d->guests.g[i];

		if (!g->absent && !strcmp(g->dev.bdf, bdf))
			xvm_unplug_gone(g);
	}
}

/* text ends with a NUL. */
static void uevent(struct xvm_daemon *d, const char *text, const char *end)
{
	const char *action = value(text, end, "ACTION");

	if (strcmp(value(text, end, "SUBSYSTEM"), "pci") != 0 ||
	    strcasecmp(value(text, end, "PCI_ID"), "1af4:1110") != 0)
		return;
	if (!strcmp(action, "remove")) {
		removed(d, value(text, end, "PCI_SLOT_NAME"));
	} else if (!strcmp(action, "add")) {
		d->guests.uevent_looks = LOOKS;
		ev_timer_again(d->loop, &d->guests.uevent_look);
	}
}

static void on_look(struct ev_loop *loop, ev_timer *w, int events)
{
	struct xvm_daemon *d = w->data;

	if (xvm_guests_look(d, d->guests.root) || !--d->guests.uevent_looks)
		ev_timer_stop(loop, w);
}

static void on_uevent(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_daemon *d = w->data;
	struct sockaddr_nl from;
	char text[8192];
	socklen_t len;
	ssize_t n;
	int i;

	for (i = 0; i < READ_AT_ONCE; i++) {
		len = sizeof(from);
		n = recvfrom(d->guests.uevents, text, sizeof(text) - 1, MSG_DONTWAIT,
			     (struct sockaddr *)&from, &len);
		if (n < 0 && errno == ENOBUFS) {
			/* Some were lost: one of ours may be among them. */
			d->guests.uevent_looks = LOOKS;
			ev_timer_again(loop, &d->guests.uevent_look);
			continue;
		}
		if (n < 0)
			return;
		text[n] = 0;
		/* Anybody can send; the kernel's come from 0. */
		if (len == sizeof(from) && from.nl_pid == 0)
			uevent(d, text, text + n);
	}
}

int xvm_uevents_init(struct xvm_daemon *d)
{
	struct sockaddr_nl sa = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_GROUP};
	int fd =
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	int ret = 0;

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)))
		ret = -errno;
	if (ret) {
		if (fd >= 0)
			close(fd);
		return ret;
	}
	d->guests.uevents = fd;
	ev_timer_init(&d->guests.uevent_look, on_look, 0., LOOK_S);
	d->guests.uevent_look.data = d;
	ev_io_init(&d->guests.uevent_io, on_uevent, fd, EV_READ);
	d->guests.uevent_io.data = d;
	ev_io_start(d->loop, &d->guests.uevent_io);
	return 0;
}

void xvm_uevents_exit(struct xvm_daemon *d)
{
	if (!d->guests.uevents)
		return;
	ev_io_stop(d->loop, &d->guests.uevent_io);
	ev_timer_stop(d->loop, &d->guests.uevent_look);
	close(d->guests.uevents);
	d->guests.uevents = 0;
}
