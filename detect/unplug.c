/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest_ep.h"
#include "detect/log.h"
#include "detect/unplug.h"
#include "detect/vfio.h"

/* Mail is looked at inside calls: a thread that sleeps in one has to be woken. */
static void wake(const struct xvm_conn *c)
{
	int i;

	for (i = 0; i < XVM_WAKERS_MAX; i++)
		if (c->waker[i] >= 0)
			xvm_fd_ring(c->waker[i]);
}

/* first: all that know of the region; then those that have not left it. */
static void ask(struct xvm_guest *g, bool first, bool late)
{
	struct xvm_msg m = {.type = XVM_MSG_UNPLUG, .region = g->index, .arg = late};
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->d->all)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_all);

		/* Of a kin all: a fork has mapped what it may not have been told of. */
		if (c->dead || !c->arena || !c->arena->kin[g->index])
			continue;
		if (!first && !xvm_guest_eps_left(g, c->arena))
			continue;
		xvm_conn_send(c, &m, NULL, 0);
		wake(c);
	}
}

static void finish(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	xvm_guest_bye(g, true);
	/* Who waited for room or bytes in the ring is to wait for TCP instead. */
	for (XVM_EACH(n, t, &g->d->all)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_all);

		if (!c->dead && c->arena && c->regions & 1u << g->index)
			wake(c);
	}
	xvm_log(LOG_NOTICE, "device %s: let go, as it is unplugged", g->dev.bdf);
	xvm_guest_close(g);
}

static void on_step(struct ev_loop *loop, ev_timer *w, int events)
{
	struct xvm_guest *g = w->data;
	ev_tstamp since = ev_now(loop) - g->leaving;

	/* It takes no host. */
	if (since < XVM_UNPLUG_PATIENCE_S && g->opened && !g->broken) {
		if (xvm_guest_eps_left(g, NULL)) {
			ask(g, false, since >= XVM_UNPLUG_LATE_S);
			return;
		}
		if (g->up && !xvm_list_empty(&g->queue))
			return;
	}
	if (g->opened && xvm_guest_eps_kill(g))
		xvm_log(LOG_WARNING,
			"device %s: programs do not leave its memory: their connections to other "
			"machines are reset",
			g->dev.bdf);
	finish(g);
}

void xvm_unplug_begin(struct xvm_guest *g)
{
	if (g->leaving > 0. || g->absent)
		return;
	g->leaving = ev_now(g->d->loop);
	xvm_log(LOG_NOTICE, "device %s: it is to be unplugged: programs leave its memory",
		g->dev.bdf);
	if (g->opened)
		xvm_guest_eps_leave(g);
	ask(g, true, false);
	ev_timer_start(g->d->loop, &g->leave);
}

void xvm_unplug_gone(struct xvm_guest *g)
{
	xvm_log(LOG_WARNING, "device %s: it was unplugged: connections to other machines are reset",
		g->dev.bdf);
	g->leaving = ev_now(g->d->loop);
	ask(g, true, true);
	if (g->opened)
		xvm_guest_eps_kill(g);
	/* Not even letters reach anybody. */
	xvm_guest_close(g);
}

static void on_request(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_guest *g = w->data;

	xvm_fd_drain(g->request);
	xvm_unplug_begin(g);
}

void xvm_unplug_init(struct xvm_guest *g)
{
	int ret;

	ev_timer_init(&g->leave, on_step, XVM_UNPLUG_STEP_S, XVM_UNPLUG_STEP_S);
	g->leave.data = g;
	if (g->dev.vfio < 0)
		return;
	g->request = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = g->request < 0 ? -errno : xvm_vfio_request(g->dev.vfio, g->request);
	if (ret) {
		xvm_log(LOG_WARNING,
			"device %s: programs will not hear of it before it is unplugged: %s",
			g->dev.bdf, strerror(-ret));
		return;
	}
	ev_io_init(&g->request_io, on_request, g->request, EV_READ);
	g->request_io.data = g;
	ev_io_start(g->d->loop, &g->request_io);
}

void xvm_unplug_exit(struct xvm_guest *g)
{
	ev_timer_stop(g->d->loop, &g->leave);
	ev_io_stop(g->d->loop, &g->request_io);
	if (g->request >= 0)
		close(g->request);
	g->request = -1;
}
