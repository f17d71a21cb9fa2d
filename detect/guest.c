/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest.h"
#include "detect/guest_addrs.h"
#include "detect/guest_ep.h"
#include "detect/guest_lease.h"
#include "detect/log.h"
#include "detect/notify.h"
#include "detect/uevent.h"
#include "detect/unplug.h"

#define READ_AT_ONCE 64

struct queued {
	struct xvm_list in_queue;
	struct xvm_letter l;
};

/* ---- sending ---------------------------------------------------------- */

static void dequeue(struct xvm_guest *g, struct queued *q)
{
	xvm_list_del(&q->in_queue);
	g->n_queue--;
	free(q);
}

static void drop_queue(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->queue))
		dequeue(g, xvm_container(n, struct queued, in_queue));
}

static void enqueue(struct xvm_guest *g, const struct xvm_letter *l)
{
	struct queued *q = malloc(sizeof(*q));

	if (!q) {
		g->broken = "no memory for letters that the host does not read";
		return;
	}
	q->l = *l;
	xvm_list_add(&g->queue, &q->in_queue);
	g->n_queue++;
}

void xvm_guest_send(struct xvm_guest *g, const struct xvm_letter *l)
{
	int ret = -EAGAIN;

	if (g->broken)
		return;
	if (xvm_list_empty(&g->queue))
		ret = xvm_mailbox_put(&g->box, l);
	if (!ret)
		g->ring = true;
	else if (ret == -EAGAIN)
		enqueue(g, l);
	else
		g->broken = "the host has read letters that were never written";
}

static void send_queue(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->queue)) {
		struct queued *q = xvm_container(n, struct queued, in_queue);

		if (xvm_mailbox_put(&g->box, &q->l))
			return;
		g->ring = true;
		dequeue(g, q);
	}
}

void xvm_guest_hello(struct xvm_guest *g)
{
	struct xvm_letter l = {.type = XVM_LETTER_HELLO, .arg = XVM_REGION_VERSION, .run = g->run};

	if (g->dev.reg_fd >= 0)
		l.flags |= XVM_LETTER_F_DOORBELL;
	if (g->dev.vectors)
		l.flags |= XVM_LETTER_F_INTERRUPTS;
	/* One that waits for room will do. */
	if (xvm_list_empty(&g->queue))
		xvm_guest_send(g, &l);
}

/* ---- runs ------------------------------------------------------------- */

/* The end of what was welcome, or the beginning. */
static void begin(struct xvm_guest *g)
{
	g->up = false;
	g->broken = NULL;
	drop_queue(g);
	g->n_told = 0;
	g->asked = 0;
	ev_timer_stop(g->d->loop, &g->patience);
	ev_timer_set(&g->patience, XVM_GUEST_PATIENCE_S, 0.);
	ev_timer_start(g->d->loop, &g->patience);
}

static void new_run(struct xvm_guest *g)
{
	begin(g);
	g->resumed = false;
	if (getrandom(&g->run, sizeof(g->run), GRND_NONBLOCK) != sizeof(g->run))
		g->run = (uint64_t)(ev_now(g->d->loop) * 1e6) ^ (uint64_t)getpid() << 40;
	/* First what was: a successor that finds the new run is to find it over. */
	xvm_guest_eps_run_over(g);
	g->record.head->run = g->run;
	xvm_guest_addrs_forget(g);
}

static void say_trouble(struct xvm_guest *g, const char *what)
{
	if (g->said == what)
		return;
	g->said = what;
	xvm_log(LOG_WARNING, "device %s: %s", g->dev.bdf, what);
}

static void welcome(struct xvm_guest *g, const struct xvm_letter *l)
{
	if (l->run != g->run)
		return; /* the answer to a hello of a run that is over */
	if (l->arg != XVM_REGION_VERSION) {
		say_trouble(g, "the host's xvmd speaks another version");
		return;
	}
	if (g->up)
		return; /* we asked twice */
	g->up = true;
	g->resumed = false;
	g->said = NULL;
	ev_timer_stop(g->d->loop, &g->patience);
	xvm_guest_eps_welcome(g);
	xvm_guest_kins_look(g);
	xvm_guest_addrs_tell(g);
	xvm_guest_addrs_mirror(g);
	xvm_log(LOG_NOTICE, "device %s: we are VM %u of the group%s%s", g->dev.bdf, g->self,
		g->dev.vectors ? "" : "; no interrupts: ", g->dev.vectors ? "" : g->dev.why);
	xvm_guests_greet(g->d, NULL);
}

static void again(struct xvm_guest *g, uint32_t err)
{
	say_trouble(g, err == EPROTONOSUPPORT ? "the host's xvmd speaks another version"
					      : "the host's xvmd does not know us: begun anew");
	new_run(g);
	/* At once the first time, so that little is lost; then with patience. */
	if (err != EPROTONOSUPPORT)
		xvm_guest_hello(g);
}

static void receive(struct xvm_guest *g, const struct xvm_letter *l)
{
	const char *wrong = xvm_letter_wrong(l, &g->region, false, g->self);

	if (wrong) {
		if (g->up || g->resumed)
			g->broken = wrong;
		return;
	}
	switch (l->type) {
	case XVM_LETTER_WELCOME:
		welcome(g, l);
		break;
	case XVM_LETTER_AGAIN:
		if (g->up || g->resumed)
			again(g, l->arg);
		else if (l->arg == EPROTONOSUPPORT)
			say_trouble(g, "the host's xvmd speaks another version");
		break;
	case XVM_LETTER_ADDR_REFUSED:
		/* The host's log has the reasons; it takes our word again when it changes. */
		xvm_log(l->arg == EAGAIN ? LOG_INFO : LOG_WARNING,
			"device %s: the host does not believe that one of our addresses is here: "
			"%s",
			g->dev.bdf,
			l->arg == EAGAIN ? "it has not seen its MAC yet" : strerror((int)l->arg));
		break;
	default:
		/* Some were for our predecessor. */
		if (g->up || g->resumed)
			xvm_guest_letter(g, l);
	}
}

static void read_mail(struct xvm_guest *g)
{
	struct xvm_letter l;
	int i, ret = 0;

	for (i = 0; i < READ_AT_ONCE && !g->broken; i++) {
		ret = xvm_mailbox_get(&g->box, &l);
		if (ret)
			break;
		receive(g, &l);
	}
	if (ret == -EPROTO)
		g->broken = "the host has written more letters than there is room for";
	if (xvm_mailbox_done(&g->box))
		g->ring = true;
	send_queue(g);
	if (g->up)
		xvm_guest_addrs_mirror(g);
	/* The rest when others have had their turn. */
	if (i == READ_AT_ONCE)
		ev_feed_event(g->d->loop, &g->look, EV_CUSTOM);
}

/* ---- events ----------------------------------------------------------- */

static void on_bell(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_guest *g = w->data;

	xvm_fd_drain(g->bell);
	read_mail(g);
}

static void on_look(struct ev_loop *loop, ev_timer *w, int events)
{
	struct xvm_guest *g = w->data;
	struct xvm_shm_region *h = xvm_region_header(&g->region);
	uint64_t news = atomic_load_explicit(&h->peer[g->self].news, memory_order_acquire);

	if (news == g->news && !(events & EV_CUSTOM))
		return;
	g->news = news;
	read_mail(g);
}

/* ---- opening ---------------------------------------------------------- */

static void path_of(const struct xvm_guest *g, const char *bdf, const char *what, char path[300])
{
	snprintf(path, 300, "%.200s/run/xvm/%.15s.%s", g->d->guests.root, bdf, what);
}

/* What our predecessor has left, if it is of this boot. */
static bool open_record(struct xvm_guest *g)
{
	char path[300], boot[40] = "";
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	int ret;

	if (f && !fgets(boot, sizeof(boot), f))
		boot[0] = 0;
	if (f)
		fclose(f);
	path_of(g, g->dev.bdf, "record", path);
	ret = xvm_record_open(&g->record, path, boot, g->region.generation, g->book.first,
			      g->book.end);
	if (ret == -ENOMEM)
		return false;
	if (ret < 0)
		xvm_log(LOG_WARNING, "device %s: %s: %s: restart no xvmd while programs use it",
			g->dev.bdf, path, strerror(-ret));
	/* Not the numbers of our predecessor, whose last question may be answered yet. */
	g->fence = ++g->record.head->starts << 16;
	if (ret <= 0)
		return true;
	xvm_guest_eps_restore(g);
	g->run = g->record.head->run;
	g->resumed = true;
	if (g->book.lent)
		xvm_log(LOG_NOTICE, "device %s: %llu KiB are lent since a former xvmd", g->dev.bdf,
			(unsigned long long)g->book.lent >> 10);
	return true;
}

static void start(struct xvm_guest *g)
{
	struct ev_loop *loop = g->d->loop;

	g->opened = true;
	xvm_mailbox_resume(&g->box, xvm_region_peer_box(&g->region, g->self),
			   xvm_region_host_box(&g->region, g->self), g->resumed);
	ev_timer_init(&g->look, on_look, XVM_GUEST_LOOK_S, XVM_GUEST_LOOK_S);
	g->look.data = g;
	if (g->dev.vectors)
		g->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->bell >= 0 && !xvm_ivshmem_vector(&g->dev, XVM_VECTOR_MAIL, g->bell)) {
		ev_io_init(&g->bell_io, on_bell, g->bell, EV_READ);
		g->bell_io.data = g;
		ev_io_start(loop, &g->bell_io);
	} else {
		g->dev.vectors = 0;
		ev_timer_start(loop, &g->look);
	}
	/* Who relies on interrupts that do not come any more is not to wait for ever; and what was
	 * read since may have been zeros. */
	g->lost = g->lost && g->record.head->vectors;
	g->record.head->vectors = g->dev.vectors;
	if (g->resumed && !g->lost)
		begin(g);
	else
		new_run(g);
	if (g->lost)
		say_trouble(g, "it was let go while programs used it: their connections are reset");
	xvm_guest_hello(g);
	/* What has come since our predecessor looked. */
	ev_feed_event(loop, &g->look, EV_CUSTOM);
}

/* Is the host's xvmd there, so that there is a region? */
static void try_open(struct xvm_guest *g)
{
	uint32_t self = xvm_ivshmem_position(&g->dev);
	int ret = xvm_region_open(&g->region, g->dev.mem, g->dev.size);
	uint64_t at;

	if (ret == -EAGAIN) {
		say_trouble(g, "there is no region in it: no xvmd of a host has made it");
		return;
	}
	if (ret) {
		say_trouble(g, ret == -EPROTONOSUPPORT ? "the host's xvmd speaks another version"
						       : "what is in it is not what an xvmd makes");
		return;
	}
	if (self == XVM_PEER_HOST || self >= g->region.peers) {
		say_trouble(g, "it has no number in the group: is it an ivshmem-doorbell?");
		return;
	}
	g->self = self;
	at = xvm_region_arena(&g->region, self);
	xvm_lease_init(&g->book, at + xvm_region_lease_off(&g->region, self),
		       at + g->region.arena_size);
	if (!open_record(g)) {
		say_trouble(g, "no memory");
		return;
	}
	start(g);
}

static void on_patience(struct ev_loop *loop, ev_timer *w, int events)
{
	struct xvm_guest *g = w->data;
	ev_tstamp next = w->repeat * 2;

	if (!g->opened)
		try_open(g);
	else if (!g->up)
		xvm_guest_hello(g);
	if (g->opened && g->up)
		return;
	if (next < XVM_GUEST_PATIENCE_S)
		next = XVM_GUEST_PATIENCE_S;
	if (next > XVM_GUEST_PATIENCE_MAX_S)
		next = XVM_GUEST_PATIENCE_MAX_S;
	if (!ev_is_active(w)) {
		ev_timer_set(w, next, next);
		ev_timer_start(loop, w);
		return;
	}
	w->repeat = next;
	ev_timer_again(loop, w);
}

void xvm_guest_bye(struct xvm_guest *g, bool unplugged)
{
	struct xvm_letter l = {.type = XVM_LETTER_BYE, .arg = unplugged};

	if (!g->opened || !g->up || g->broken)
		return;
	xvm_guest_send(g, &l);
	xvm_ivshmem_ring(&g->dev, XVM_PEER_HOST, XVM_VECTOR_MAIL);
}

static void guest_free(struct xvm_guest *g)
{
	struct ev_loop *loop = g->d->loop;

	xvm_unplug_exit(g);
	ev_timer_stop(loop, &g->patience);
	if (g->opened) {
		ev_timer_stop(loop, &g->look);
		ev_io_stop(loop, &g->bell_io);
	}
	if (g->bell >= 0)
		close(g->bell);
	drop_queue(g);
	xvm_guest_addrs_forget(g);
	xvm_guest_eps_exit(g);
	xvm_guest_vectors_exit(g);
	if (g->opened) {
		xvm_lease_exit(&g->book);
		xvm_record_close(&g->record);
	}
	xvm_guest_kins_exit(g);
	/* Who is left has the device open, by the keeper, and its memory mapped. */
	xvm_keeper_leave(&g->keeper);
	xvm_ivshmem_close(&g->dev);
	xvm_life_close(&g->life);
	free(g->told);
	free(g->res);
	free(g);
}

/* What device keeps in systemd's store: vfio's descriptor. */
static void name_of(char name[32], const char *bdf)
{
	snprintf(name, 32, "ivshmem-%.15s", bdf);
}

static struct xvm_guest *guest_new(struct xvm_daemon *d, const char *bdf, uint32_t index)
{
	struct xvm_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->d = d;
	g->index = index;
	g->bell = g->request = -1;
	g->life.fd = g->life.own = g->keeper.pidfd = g->record.fd = -1;
	g->dev.vfio = g->dev.mem_fd = g->dev.reg_fd = -1;
	snprintf(g->dev.bdf, sizeof(g->dev.bdf), "%.15s", bdf);
	memset(g->vector, 0xff, sizeof(g->vector));
	xvm_list_init(&g->queue);
	xvm_list_init(&g->eps);
	xvm_guest_kins_init(g);
	ev_timer_init(&g->patience, on_patience, 0., 0.);
	g->patience.data = g;
	return g;
}

static void remove_file(const struct xvm_guest *g, const char *what)
{
	char path[300];

	path_of(g, g->dev.bdf, what, path);
	unlink(path);
}

void xvm_guest_close(struct xvm_guest *g)
{
	struct xvm_guest *place = guest_new(g->d, g->dev.bdf, g->index);
	struct xvm_list *n, *t;
	char name[32];

	if (!place) {
		xvm_log(LOG_WARNING, "device %s: no memory to let it go", g->dev.bdf);
		return;
	}
	place->absent = true;
	g->d->guests.g[g->index] = place;
	for (XVM_EACH(n, t, &g->d->all))
		xvm_guest_take_vector(g, xvm_container(n, struct xvm_conn, in_all));
	/* Whoever may still live says nothing about the next device that is there. Before the
	 * keeper ends: a successor must not find it lost. */
	remove_file(g, "record");
	remove_file(g, "life");
	name_of(name, g->dev.bdf);
	if (g->dev.vfio >= 0)
		xvm_notify_keep_no_more(name);
	xvm_keeper_end(&g->keeper);
	guest_free(g);
}

/* In the place of one that was unplugged: what programs were told of that is void. */
static void put(struct xvm_daemon *d, struct xvm_guest *g)
{
	uint32_t bit = 1u << g->index;
	struct xvm_list *n, *t;

	if (g->index == d->guests.n) {
		d->guests.g[d->guests.n++] = g;
		return;
	}
	guest_free(d->guests.g[g->index]);
	d->guests.g[g->index] = g;
	for (XVM_EACH(n, t, &d->all)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_all);

		c->former |= c->regions & bit;
		c->regions &= ~bit;
		c->vectors &= ~bit;
	}
}

/* vfio's descriptor from a former life, or -1. */
static int kept(struct xvm_guest *g, const char *bdf, const char *name)
{
	int by_systemd = xvm_notify_kept(name), fd;
	char path[300];

	path_of(g, bdf, "keeper", path);
	fd = xvm_keeper_find(&g->keeper, path);
	if (fd < 0)
		return by_systemd;
	if (by_systemd >= 0)
		close(by_systemd);
	return fd;
}

static bool add(struct xvm_daemon *d, const char *bdf, uint32_t index)
{
	struct xvm_guest *g = guest_new(d, bdf, index);
	char name[32], path[300];
	int keep;

	if (!g)
		return false;
	g->told = calloc(XVM_GUEST_ADDRS_MAX, sizeof(*g->told));
	g->res = calloc(XVM_REGION_RES_MAX, sizeof(*g->res));
	snprintf(path, sizeof(path), "%.200s/run/xvm", d->guests.root);
	mkdir(path, 0755);
	path_of(g, bdf, "life", path);
	if (xvm_life_open(&g->life, path))
		xvm_log(LOG_WARNING, "device %s: %s: %s", bdf, path, strerror(errno));
	name_of(name, bdf);
	keep = kept(g, bdf, name);
	g->lost = keep < 0 && xvm_life_any(&g->life);
	if (xvm_guest_eps_init(g) || !g->told || !g->res ||
	    xvm_ivshmem_open(&g->dev, d->guests.root, bdf, keep, g->lost,
			     xvm_conf_noiommu(d->conf))) {
		xvm_log(LOG_WARNING, "device %s: %s", bdf, g->dev.why);
		guest_free(g);
		return false;
	}
	if (g->dev.vfio >= 0) {
		xvm_notify_keep(g->dev.vfio, name);
		xvm_keeper_start(&g->keeper, d->loop, &g->life, g->dev.vfio);
	}
	put(d, g);
	xvm_unplug_init(g);
	try_open(g);
	if (!g->opened) {
		ev_timer_set(&g->patience, XVM_GUEST_PATIENCE_S, XVM_GUEST_PATIENCE_S);
		ev_timer_start(d->loop, &g->patience);
	}
	return true;
}

bool xvm_guests_look(struct xvm_daemon *d, const char *root)
{
	char bdf[XVM_IVSHMEM_DEVICES_MAX][16];
	uint32_t i, k, n = xvm_ivshmem_find(root, bdf, XVM_IVSHMEM_DEVICES_MAX);
	bool found = false;

	d->guests.root = root;
	for (i = 0; i < n; i++) {
		for (k = 0; k < d->guests.n && strcmp(d->guests.g[k]->dev.bdf, bdf[i]) != 0; k++)
			;
		/* All places are taken: one whose device has gone will do. */
		if (k == XVM_IVSHMEM_DEVICES_MAX)
			for (k = 0; k < d->guests.n && !d->guests.g[k]->absent; k++)
				;
		if (k < XVM_IVSHMEM_DEVICES_MAX && (k == d->guests.n || d->guests.g[k]->absent))
			found = add(d, bdf[i], k) || found;
	}
	return found;
}

void xvm_guests_exit(struct xvm_daemon *d)
{
	uint32_t i;

	xvm_uevents_exit(d);
	for (i = 0; i < d->guests.n; i++) {
		xvm_guest_bye(d->guests.g[i], false);
		guest_free(d->guests.g[i]);
	}
	d->guests.n = 0;
}

/* ---- the loop --------------------------------------------------------- */

void xvm_guests_links_changed(struct xvm_daemon *d)
{
	uint32_t i;

	for (i = 0; i < d->guests.n; i++)
		d->guests.g[i]->links_changed = true;
}

void xvm_guests_flush(struct xvm_daemon *d)
{
	uint32_t i;

	for (i = 0; i < d->guests.n; i++) {
		struct xvm_guest *g = d->guests.g[i];

		if (!g->opened)
			continue;
		if (g->up && !g->broken &&
		    (g->links_changed || g->told_changes != d->residency.changes))
			xvm_guest_addrs_tell(g);
		/* Here, where nobody is about anything of its. The next hello is said with
		 * patience, lest two that do not understand each other be busy with it. */
		if (g->broken) {
			say_trouble(g, g->broken);
			new_run(g);
		}
		if (g->ring)
			xvm_ivshmem_ring(&g->dev, XVM_PEER_HOST, XVM_VECTOR_MAIL);
		g->ring = false;
	}
}

/* ---- programs --------------------------------------------------------- */

static void greet_one(struct xvm_guest *g, struct xvm_conn *c)
{
	struct xvm_msg m = {.type = XVM_MSG_REGION,
			    .region = g->index,
			    .off = g->dev.mem_off,
			    .len = g->dev.size,
			    .arg = g->self};
	struct xvm_guest_kin *k;
	int fds[2];

	if (!g->opened || !c->arena || c->dead)
		return;
	k = xvm_guest_kin_join(g, c);
	if (c->regions & 1u << g->index || !g->up || g->leaving)
		return;
	if (!xvm_conf_shares(g->d->conf, c->uid, c->exe, c->user->trusted))
		return;
	if (k)
		m.arg2 = XVM_REGION_KEPT | (g->lost ? 0 : XVM_REGION_VECTORS);
	else
		k = xvm_guest_kin_make(g, c);
	fds[0] = g->dev.mem_fd;
	fds[1] = k ? xvm_life_hold(&g->life, k->name) : -1;
	if (fds[1] < 0)
		return;
	c->regions |= 1u << g->index;
	xvm_conn_send(c, &m, fds, 2);
	close(fds[1]);
	if (g->dev.reg_fd < 0)
		return;
	m.type = XVM_MSG_DOORBELL;
	m.off = g->dev.reg_off;
	m.len = 16;
	xvm_conn_send(c, &m, &g->dev.reg_fd, 1);
}

void xvm_guests_greet(struct xvm_daemon *d, struct xvm_conn *c)
{
	struct xvm_list *n, *t;
	uint32_t i;

	for (i = 0; i < d->guests.n; i++) {
		if (c) {
			greet_one(d->guests.g[i], c);
			continue;
		}
		for (XVM_EACH(n, t, &d->all))
			greet_one(d->guests.g[i], xvm_container(n, struct xvm_conn, in_all));
	}
}

void xvm_guest_explain(const struct xvm_guest *g, char *text, size_t len)
{
	if (g->absent)
		snprintf(text, len, "%s: it was unplugged", g->dev.bdf);
	else if (!g->opened)
		snprintf(text, len, "%s: %s", g->dev.bdf, g->said ? g->said : "no region");
	else if (!g->up)
		snprintf(text, len, "%s: VM %u; %s", g->dev.bdf, g->self,
			 g->said ? g->said : "the host's xvmd does not answer");
	else
		snprintf(text, len, "%s: VM %u of a group of %u%s%s", g->dev.bdf, g->self,
			 g->region.peers - 1, g->dev.vectors ? "" : "; ",
			 g->dev.vectors ? "" : g->dev.why);
}
