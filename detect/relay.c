/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/offer.h"
#include "detect/pairs.h"
#include "detect/relay.h"
#include "detect/share.h"
#include "detect/vmep.h"
#include "detect/vms.h"

#define READ_AT_ONCE 64 /* letters, before others have their turn */

struct queued {
	struct xvm_list in_queue;
	struct xvm_letter l;
};

struct xvm_vm_relay {
	struct xvm_mailbox box;
	bool greeted; /* it has said hello: run is valid */
	bool cleared; /* nobody reads what its last run has left */
	bool up;      /* its xvmd is welcome */
	bool bye;     /* it has let its device go, and what it had unpaired lives on by TCP */
	uint64_t run;
	uint32_t flags;
	struct xvm_list queue;
	uint32_t n_queue;
	bool ring;	    /* there is mail that it has not been rung for */
	const char *broken; /* why its run is to end */
};

/* ---- sending ---------------------------------------------------------- */

static void dequeue(struct xvm_vm_relay *r, struct queued *q)
{
	xvm_list_del(&q->in_queue);
	r->n_queue--;
	free(q);
}

static void drop_queue(struct xvm_vm_relay *r)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &r->queue))
		dequeue(r, xvm_container(n, struct queued, in_queue));
}

static void enqueue(struct xvm_vm *vm, const struct xvm_letter *l)
{
	struct xvm_vm_relay *r = vm->relay;
	struct queued *q = r->n_queue < XVM_RELAY_QUEUE_MAX ? malloc(sizeof(*q)) : NULL;

	if (!q) {
		r->broken = "it does not read its letters";
		return;
	}
	q->l = *l;
	xvm_list_add(&r->queue, &q->in_queue);
	r->n_queue++;
}

void xvm_relay_send(struct xvm_vm *vm, const struct xvm_letter *l)
{
	struct xvm_vm_relay *r = vm->relay;
	int ret = -EAGAIN;

	if (!r || vm->dead || r->broken)
		return;
	if (xvm_list_empty(&r->queue))
		ret = xvm_mailbox_put(&r->box, l);
	if (!ret)
		r->ring = true;
	else if (ret == -EAGAIN)
		enqueue(vm, l);
	else
		r->broken = "it has read letters that were never written";
}

static void send_queue(struct xvm_vm *vm)
{
	struct xvm_vm_relay *r = vm->relay;
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &r->queue)) {
		struct queued *q = xvm_container(n, struct queued, in_queue);

		if (xvm_mailbox_put(&r->box, &q->l))
			return;
		r->ring = true;
		dequeue(r, q);
	}
}

void xvm_relay_addr_refused(struct xvm_vm *vm, const uint8_t addr[16], int err)
{
	struct xvm_letter l = {.type = XVM_LETTER_ADDR_REFUSED, .arg = err};

	/* Its xvmd may be away; it needs this for its log, and is told again. */
	if (vm->relay && vm->relay->n_queue)
		return;
	memcpy(l.laddr, addr, 16);
	xvm_relay_send(vm, &l);
}

static void say_again(struct xvm_vm *vm, int err)
{
	struct xvm_letter l = {.type = XVM_LETTER_AGAIN, .arg = err};

	xvm_relay_send(vm, &l);
}

/* ---- runs ------------------------------------------------------------- */

bool xvm_relay_up(const struct xvm_vm *vm)
{
	return vm->relay && vm->relay->up && !vm->dead;
}

uint32_t xvm_relay_flags(const struct xvm_vm *vm)
{
	return vm->relay ? vm->relay->flags : 0;
}

bool xvm_relay_bye(const struct xvm_vm *vm)
{
	return vm->relay && vm->relay->bye;
}

/* Its xvmd is another, or none: what is paired goes on without. */
static void end_xvmd(struct xvm_vm *vm)
{
	struct xvm_vm_relay *r = vm->relay;
	struct xvm_daemon *d = vm->group->d;

	r->up = false;
	xvm_offer_vm_gone(vm);
	xvm_vms_unclaim_all(vm);
	if (vm->place)
		xvm_residency_ns_del(&d->residency, vm->place);
	vm->place = NULL;
	if (!vm->dead)
		xvm_vm_state(vm, XVM_PEER_JOINED, 0);
}

static void end_run(struct xvm_vm *vm)
{
	struct xvm_vm_relay *r = vm->relay;

	drop_queue(r);
	r->greeted = r->cleared = false;
	r->broken = NULL;
	end_xvmd(vm);
	xvm_pairs_vm_gone(vm);
}

static void welcome(struct xvm_vm *vm)
{
	struct xvm_vm_relay *r = vm->relay;
	struct xvm_letter l = {.type = XVM_LETTER_WELCOME,
			       .arg = XVM_REGION_VERSION,
			       .run = r->run,
			       .peer = (uint16_t)vm->peer,
			       .peer_gen = vm->gen};

	if (!r->up) {
		vm->place = xvm_residency_vm_add(&vm->group->d->residency, vm->serial, vm->peer,
						 vm->group);
		if (!vm->place)
			return; /* it will say hello again */
		vm->place->region = vm->group->index;
		r->up = true;
		xvm_vm_find_taps(vm);
		xvm_vm_state(vm, XVM_PEER_UP, r->flags);
		xvm_log(LOG_NOTICE, "group %s: the xvmd of VM %u (pid %d) is there",
			vm->group->conf.name, vm->peer, vm->pid);
	}
	xvm_relay_send(vm, &l);
}

static void hello(struct xvm_vm *vm, const struct xvm_letter *l)
{
	struct xvm_vm_relay *r = vm->relay;

	if (l->arg != XVM_REGION_VERSION) {
		end_run(vm);
		say_again(vm, EPROTONOSUPPORT);
		return;
	}
	if (r->greeted && r->run == l->run) {
		end_xvmd(vm);
	} else {
		end_run(vm);
		r->greeted = true;
		r->run = l->run;
		/* Else as soon as nobody has the last run's halves mapped: there will be new ones.
		 */
		r->cleared = !vm->readers;
	}
	r->bye = false;
	r->flags = l->flags;
	if (r->cleared)
		welcome(vm);
}

/* Said once a run: who writes nonsense without one is just not listened to. */
static void cut_off(struct xvm_vm *vm, const char *why)
{
	bool greeted = vm->relay->greeted;

	end_run(vm);
	if (!greeted)
		return;
	xvm_log(LOG_WARNING,
		"group %s: the xvmd of VM %u (pid %d) is ignored until it says hello: %s",
		vm->group->conf.name, vm->peer, vm->pid, why);
	say_again(vm, EPROTO);
}

/* ---- receiving -------------------------------------------------------- */

static void dispatch(struct xvm_vm *vm, const struct xvm_letter *l)
{
	switch (l->type) {
	case XVM_LETTER_ADDR:
		if (!l->arg)
			xvm_vms_unclaim(vm, l->laddr);
		else if (!xvm_vms_claim(vm, l->laddr, l->mac))
			xvm_relay_addr_refused(vm, l->laddr, ENOSPC);
		break;
	case XVM_LETTER_OFFER:
		xvm_offer_from_vm(vm, l);
		break;
	case XVM_LETTER_WITHDRAW:
		xvm_offer_withdraw_vm(vm, l->client, l->slot, l->gen);
		break;
	case XVM_LETTER_UNPAIR:
		xvm_pairs_unpair_vm(vm, l->client, l->slot, l->gen);
		break;
	case XVM_LETTER_BYE:
		vm->relay->bye = l->arg;
		end_xvmd(vm);
		break;
	}
}

static void receive(struct xvm_vm *vm, const struct xvm_letter *l)
{
	const char *wrong = xvm_letter_wrong(l, &vm->group->region, true, vm->peer);

	if (!wrong && l->type == XVM_LETTER_HELLO) {
		hello(vm, l);
		return;
	}
	/* Of a run that is over, or of one that does not know yet that it is. */
	if (!vm->relay->up)
		return;
	if (!wrong) {
		dispatch(vm, l);
		return;
	}
	cut_off(vm, wrong);
}

/* True: there may be more. */
static bool read_some(struct xvm_vm *vm)
{
	struct xvm_letter l;
	int i, ret;

	for (i = 0; i < READ_AT_ONCE; i++) {
		ret = xvm_mailbox_get(&vm->relay->box, &l);
		if (ret == -EAGAIN)
			return false;
		if (!ret) {
			receive(vm, &l);
			continue;
		}
		cut_off(vm, "more letters than there is room for");
		return false;
	}
	return true;
}

static void on_rung(struct xvm_vm *vm)
{
	struct xvm_vm_relay *r = vm->relay;
	bool more = read_some(vm);

	if (xvm_mailbox_done(&r->box))
		r->ring = true;
	send_queue(vm);
	if (more)
		xvm_fd_ring(vm->bell);
}

/* ---- coming and going ------------------------------------------------- */

static int on_joined(struct xvm_vm *vm)
{
	const struct xvm_region *g = &vm->group->region;

	vm->relay = calloc(1, sizeof(*vm->relay));
	if (!vm->relay || xvm_vmep_init(vm)) {
		free(vm->relay);
		return -ENOMEM;
	}
	xvm_list_init(&vm->relay->queue);
	xvm_mailbox_init(&vm->relay->box, xvm_region_host_box(g, vm->peer),
			 xvm_region_peer_box(g, vm->peer));
	return 0;
}

static void on_gone(struct xvm_vm *vm)
{
	end_run(vm);
	xvm_vmep_exit(vm);
	free(vm->relay);
	vm->relay = NULL;
}

void xvm_relay_flush(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;
	uint32_t i;

	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		for (i = 1; i < g->region.peers; i++) {
			struct xvm_vm *vm = g->vm[i];

			if (!vm || vm->dead)
				continue;
			/* Here, where nobody is about anything of its. */
			if (vm->relay->broken)
				cut_off(vm, vm->relay->broken);
			if (vm->relay->greeted && !vm->relay->cleared && !vm->readers) {
				vm->relay->cleared = true;
				welcome(vm);
			}
			if (vm->relay->ring)
				xvm_vm_ring(vm);
			vm->relay->ring = false;
		}
	}
}

void xvm_relay_init(struct xvm_daemon *d)
{
	d->groups.joined = on_joined;
	d->groups.rung = on_rung;
	d->groups.gone = on_gone;
	d->groups.forgotten = xvm_pairs_vm_forgotten;
}
