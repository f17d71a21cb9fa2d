/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "detect/daemon.h"
#include "detect/guest_ep.h"
#include "detect/guest_kin.h"

/* That a process is dead is known a moment after its socket is closed; of forks that we never heard
 * of, by looking now and then. */
#define WATCH_S .01
#define WATCH_MAX_S 1.

static struct xvm_guest_kin *kin(struct xvm_list *n)
{
	return xvm_container(n, struct xvm_guest_kin, in_guest);
}

static void forget(struct xvm_guest_kin *k)
{
	if (k->arena)
		k->arena->kin[k->g->index] = NULL;
	xvm_list_del(&k->in_guest);
	free(k);
}

static struct xvm_guest_kin *add(struct xvm_guest *g, uint64_t name)
{
	struct xvm_guest_kin *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->g = g;
	k->name = name;
	xvm_list_init(&k->pieces);
	xvm_list_add(&g->kins, &k->in_guest);
	return k;
}

struct xvm_guest_kin *xvm_guest_kin_of(const struct xvm_guest *g, const struct xvm_conn *c)
{
	return c->arena->kin[g->index];
}

static void connect(struct xvm_guest_kin *k, struct xvm_arena_ref *a)
{
	k->arena = a;
	a->kin[k->g->index] = k;
}

struct xvm_guest_kin *xvm_guest_kin_make(struct xvm_guest *g, struct xvm_conn *c)
{
	struct xvm_guest_kin *k = add(g, g->record.head->kin + 1);

	if (!k)
		return NULL;
	/* Whatever becomes of it, nobody else is to have this name in the run. */
	g->record.head->kin++;
	k->dev = c->arena->dev;
	k->ino = c->arena->ino;
	k->uid = c->uid;
	k->pid = c->pid;
	connect(k, c->arena);
	return k;
}

struct xvm_guest_kin *xvm_guest_kin_join(struct xvm_guest *g, struct xvm_conn *c)
{
	struct xvm_arena_ref *a = c->arena;
	struct xvm_list *n, *t;

	if (a->kin[g->index])
		return a->kin[g->index];
	for (XVM_EACH(n, t, &g->kins))
		if (kin(n)->dev == a->dev && kin(n)->ino == a->ino) {
			connect(kin(n), a);
			xvm_guest_eps_rejoin(kin(n));
			return kin(n);
		}
	return NULL;
}

struct xvm_guest_kin *xvm_guest_kin_restore(struct xvm_guest *g, const struct xvm_record_row *row)
{
	struct xvm_guest_kin *k;
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->kins))
		if (kin(n)->name == row->kin)
			return kin(n);
	k = add(g, row->kin);
	if (!k)
		return NULL;
	k->dev = row->dev;
	k->ino = row->ino;
	k->uid = (uid_t)row->uid;
	k->pid = row->pid;
	return k;
}

/* ---- ends ------------------------------------------------------------- */

/* True: it lives. */
static bool look_at(struct xvm_guest_kin *k)
{
	if (xvm_life_held(&k->g->life, k->name))
		return true;
	xvm_guest_eps_kin_dead(k);
	forget(k);
	return false;
}

void xvm_guest_kins_look(struct xvm_guest *g)
{
	struct xvm_list *n, *t;
	bool any = false;

	for (XVM_EACH(n, t, &g->kins))
		if (!kin(n)->arena && look_at(kin(n)))
			any = true;
	ev_timer_stop(g->d->loop, &g->watch);
	if (!any)
		return;
	ev_timer_set(&g->watch, g->watch_s, 0.);
	ev_timer_start(g->d->loop, &g->watch);
	g->watch_s = g->watch_s * 2 < WATCH_MAX_S ? g->watch_s * 2 : WATCH_MAX_S;
}

static void on_watch(struct ev_loop *loop, ev_timer *w, int events)
{
	xvm_guest_kins_look(w->data);
}

void xvm_guest_kin_parted(struct xvm_guest_kin *k)
{
	struct xvm_guest *g = k->g;

	k->arena = NULL;
	g->watch_s = WATCH_S;
	xvm_guest_kins_look(g);
}

void xvm_guest_kins_init(struct xvm_guest *g)
{
	xvm_list_init(&g->kins);
	g->watch_s = WATCH_S;
	ev_timer_init(&g->watch, on_watch, 0., 0.);
	g->watch.data = g;
}

void xvm_guest_kins_exit(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	ev_timer_stop(g->d->loop, &g->watch);
	for (XVM_EACH(n, t, &g->kins))
		forget(kin(n));
}
