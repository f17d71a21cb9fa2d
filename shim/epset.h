/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the shim knows of an epoll instance: a record for each registration, found by descriptor
 * (epoll_ctl) and by data (what the kernel reports). Shared by epoll*.c, ep*.c and wait.c.
 *
 * Locks, in the order in which they may nest: an epoll's lock, of an outer epoll before its inner
 * ones; a direction's lock (rx.c, tx.c); the lock of all sockets' lists of records (epchange.c).
 * xvm_epoll_changed() comes with a direction's lock held, so it takes only the last, and leaves its
 * word on the epoll's stack of changes, where the holder of the epoll's lock finds it.
 */
#ifndef XVM_SHIM_EPSET_H
#define XVM_SHIM_EPSET_H

#include "shim/epoll.h"
#include "shim/waker.h"
#include "transport/lock.h"

#define XVM_EP_FLAGS ((uint32_t)(EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE))
#define XVM_EP_IN ((uint32_t)(EPOLLIN | EPOLLRDNORM))
#define XVM_EP_OUT ((uint32_t)(EPOLLOUT | EPOLLWRNORM))

enum xvm_reg_where {
	XVM_REG_KERNEL, /* the kernel's events are the truth: not tracked, or not paired */
	XVM_REG_HOT,	/* looked at in every wait, armed before every sleep */
	XVM_REG_COLD,	/* armed by pad: the kernel will report it */
};

enum xvm_reg_todo { XVM_TODO_NONE, XVM_TODO_MOD, XVM_TODO_DEL };

struct xvm_reg {
	_Atomic uint32_t link; /* pool.c */
	int fd;
	uint32_t events; /* what the application asked for */
	uint32_t kmask;	 /* what the kernel was asked for */
	uint64_t data;
	struct xvm_epoll *ep;
	struct xvm_sock *sock;	 /* a reference, or NULL */
	struct xvm_epoll *inner; /* a reference, or NULL: fd is itself an epoll */

	uint8_t where; /* enum xvm_reg_where */
	uint8_t idle;  /* sleeps since it last had something */
	uint8_t vain;  /* events of the kernel, in a row, that were none of the stream */
	bool gone;   /* its descriptor was closed, the open file was not: no epoll_ctl reaches it */
	bool spent;  /* one-shot: reported, and not asked for again */
	bool fresh;  /* edge-triggered: nothing reported since it was last asked for */
	bool calm;   /* level-triggered, but edge-triggered in the kernel: see vain */
	bool warm;   /* hot, but quiet for long: in e->warm */
	bool parked; /* the application has deleted it, the kernel has it still: xvm_epset_park() */
	struct xvm_edge edge; /* what was last reported, */
	uint32_t told;	      /* and of errors and ends, which make an edge when they come */
	uint64_t rx_epoch; /* edge-triggered: where its reader was when the kernel was last asked */
	uint64_t call;	   /* e->call in which it was reported */

	uint32_t armed; /* EPOLLIN, EPOLLOUT: sleep words that were set for it */
	struct xvm_waker *armed_by;

	struct xvm_reg *fd_next, *data_next;
	struct xvm_reg *prev, *next; /* in e->hot or e->warm; or in e->nested (next alone) */
	struct xvm_reg *sock_next;   /* in sock->regs */

	_Atomic uint32_t changed;     /* it lies on e->changes */
	struct xvm_reg *changed_next; /* there, or on e->late */
	uint32_t todo; /* enum xvm_reg_todo, left by a signal handler, with what MOD asked for */
	uint32_t todo_events;
	uint64_t todo_data;
};

struct xvm_ring {
	struct xvm_reg *first; /* scans start here */
	uint32_t n;
};

#define XVM_EP_BUCKETS 16 /* to begin with */

struct xvm_epoll {
	struct xvm_file file;	   /* first: kind XVM_FILE_EPOLL */
	_Atomic uint32_t sleepers; /* threads: in it, in an outer epoll, in a poll with it */
	_Atomic int fd;		   /* the descriptor by which it was last used */
	struct xvm_shm_lock lock;
	_Atomic(struct xvm_reg *) changes;
	_Atomic(struct xvm_reg *) late;	   /* records made by a signal handler, to be linked in */
	_Atomic uint32_t rescan;	   /* changes whose records are not known */
	_Atomic(struct xvm_waker *) waker; /* registered in the kernel's epoll with data = this */
	_Atomic bool kicked;		   /* so is what wakes where there is none, and it did */
	bool inherited; /* made before a fork: the kernel's epoll is the parent's too */
	bool opaque;	/* holds descriptors without a record */
	bool broken;	/* a fork came amid another thread's change: the records make no sense */
	bool amid;	/* and amid our own: its child is to see to them when it is done */
	bool exposed;	/* others may look at it with the kernel's eyes: nothing is parked */
	/* The last arming left something that nobody will ring for, so one of those that sleep has
	 * to look again by and by: how many do. xvm_epset_see_to(). */
	_Atomic bool bounded;
	_Atomic uint32_t lookers;
	int maker; /* process that made it */
	uint32_t asked;

	uint32_t parked;
	uint32_t takers; /* threads that may have events of the kernel which they have not judged */
	bool ghosts;	 /* and what is parked no more may be among them */
	uint32_t managed; /* hot and cold ones, parked ones too, and those gone */
	uint32_t gone;	  /* of them */
	/* Those that are hot. A wait that finds something in the first looks at the others now and
	 * then; none sleeps or answers that there is nothing without having looked at both. */
	struct xvm_ring hot, warm;
	struct xvm_reg *nested;
	_Atomic bool adding; /* the kernel may report what has no record yet */
	bool unarmed;	     /* one of those has come since they were armed */

	uint64_t call;
	bool filled;	   /* the last wait's events were all the kernel's */
	uint32_t skipped;  /* waits in a row that did not ask the kernel */
	uint32_t vain;	   /* waits in a row that have asked it, and it had nothing */
	uint64_t asked_at; /* when that was, by the rough clock */

	uint32_t count, mask; /* records; buckets - 1 */
	struct xvm_reg **by_fd, **by_data;
	struct xvm_reg *first_fd[XVM_EP_BUCKETS], *first_data[XVM_EP_BUCKETS];
};

static inline void xvm_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("yield");
#endif
}

/* One of those that sleep or look goes. A fork that came amid that has forgotten it in the child.
 */
static inline void xvm_epset_less(_Atomic uint32_t *count)
{
	uint32_t n = atomic_load(count);

	while (n && !atomic_compare_exchange_weak(count, &n, n - 1))
		;
}

static inline uint64_t xvm_epset_own(const struct xvm_epoll *e)
{
	return (uint64_t)(uintptr_t)e;
}

/* Instances. get: a reference, to be put; NULL if epfd is none that is known. */
struct xvm_epoll *xvm_epset_new(int epfd);
struct xvm_epoll *xvm_epset_get(int epfd);
void xvm_epset_put(struct xvm_epoll *e);
/* One more reference. False: it is being disposed of. */
bool xvm_epset_hold(struct xvm_epoll *e);

/* Is it nothing that we know? Else whoever waits in it has to be counted, even with nothing of ours
 * in it: that may change while he sleeps, and then he must not be given our own eventfd's event. */
static inline bool xvm_epset_plain(int epfd)
{
	struct xvm_file *f = xvm_fdtab_peek(epfd);

	return !f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_EPOLL;
}

/* All below, with e->lock held. */

struct xvm_reg *xvm_epset_find(struct xvm_epoll *e, int fd);
static inline struct xvm_reg *xvm_epset_first(struct xvm_epoll *e, uint64_t data)
{
	uint64_t h = data * 0x9e3779b97f4a7c15ull;

	return e->by_data[(uint32_t)(h >> 32) & e->mask];
}
/* A record of what the kernel has taken. s and inner: references, passed on; NULL where there is no
 * memory (then they are still the caller's). */
struct xvm_reg *xvm_epset_add(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			      struct xvm_sock *s, struct xvm_epoll *inner);
void xvm_epset_modify(struct xvm_epoll *e, struct xvm_reg *r, uint32_t events, uint64_t data);
/* False: not now, which only a signal handler can meet with. */
bool xvm_epset_drop(struct xvm_epoll *e, struct xvm_reg *r);

/* What to ask of the kernel; and to ask it if that has changed, or in any case. */
uint32_t xvm_epset_kmask(struct xvm_sock *s, uint32_t events);
void xvm_epset_remask(struct xvm_epoll *e, struct xvm_reg *r, bool force);
/* Has it been paired? Then it is looked at from now on. */
void xvm_epset_convert(struct xvm_epoll *e, struct xvm_reg *r);
void xvm_epset_heat(struct xvm_epoll *e, struct xvm_reg *r);
void xvm_epset_cool(struct xvm_epoll *e, struct xvm_reg *r);
/* A look had nothing for r: if it has been so for some time, r is warm. */
void xvm_epset_warm(struct xvm_epoll *e, struct xvm_reg *r);

/* A walk along what is hot; both: those that have been quiet first, so that they find room. What it
 * stands on may be moved or taken out. stop: the next one begins behind this. */
struct xvm_walk {
	struct xvm_epoll *e;
	struct xvm_reg *next;
	uint32_t left, then;
	bool warm;
};
struct xvm_walk xvm_epset_walk(struct xvm_epoll *e, bool both);
struct xvm_reg *xvm_walk_next(struct xvm_walk *k);
void xvm_walk_stop(struct xvm_walk *k);
/* Do what xvm_epoll_changed() has left to do. */
void xvm_epset_settle(struct xvm_epoll *e);

/* fd is closed but another descriptor of the open file is left: the kernel keeps the registration
 * and nobody can reach it. It goes back to the kernel, and the socket to TCP. */
void xvm_epset_abandon(struct xvm_epoll *e, struct xvm_reg *r);
void xvm_epset_revive(struct xvm_epoll *e, struct xvm_reg *r);

/*
 * EPOLL_CTL_DEL, and ADD again, without the kernel: event loops do that with each request. What is
 * parked is nothing to the application, and quiet in the kernel, which knows that nobody wants more
 * than pads; when the kernel reports it after all it is deleted there too. Only where nobody but
 * the waits of this process, in e itself, would see the difference.
 */
bool xvm_epset_park(struct xvm_epoll *e, struct xvm_reg *r);
/* Registered again, with what ev says. False: that takes the kernel. */
bool xvm_epset_unpark(struct xvm_epoll *e, struct xvm_reg *r, const struct epoll_event *ev);
/* Delete what is parked in the kernel too: one, or all; and no more of that. */
bool xvm_epset_evict(struct xvm_epoll *e, struct xvm_reg *r);
void xvm_epset_expose(struct xvm_epoll *e);
/* From now on data mean own, or what it is about to be: what the kernel reports of one that is
 * parked with the same data is not its. */
void xvm_epset_claim(struct xvm_epoll *e, uint64_t data, const struct xvm_reg *own);
/* Does the kernel report all that mask asks for, and nothing else that would be noticed? */
bool xvm_epset_covers(const struct xvm_reg *r, uint32_t mask);

int xvm_epset_arm(struct xvm_reg *r, uint32_t what, struct xvm_waker *w, uint64_t seq);
void xvm_epset_disarm(struct xvm_reg *r);

/* The waker, made at first need; NULL where none is to be had. */
struct xvm_waker *xvm_epset_waker(struct xvm_epoll *e);

/* epoll_ctl by the kernel on e. A negative errno, as the kernel gives it. */
long xvm_epset_control(struct xvm_epoll *e, int op, int fd, uint32_t events, uint64_t data);

void xvm_epset_forked_lists(void);
void xvm_epset_forked_records(struct xvm_epoll *e);
void xvm_epset_link_sock(struct xvm_reg *r);
bool xvm_epset_unlink_sock(struct xvm_reg *r);
void xvm_epset_unpush(struct xvm_epoll *e, struct xvm_reg *r);
void xvm_epset_take_late(struct xvm_epoll *e);
bool xvm_epset_defer_late(struct xvm_epoll *e, int fd, uint32_t todo, const struct epoll_event *ev);
void xvm_epset_unlink_fd(struct xvm_epoll *e, struct xvm_reg *r);

/* Without the lock: whoever sleeps in it wakes. */
void xvm_epset_wake(struct xvm_epoll *e);
/* Whoever was to be woken looks, or is woken, anew: to the kernel e is readable no more by our
 * doing. */
void xvm_epset_unwake(struct xvm_epoll *e);
/* On the way out of a wait: if somebody has to look and nobody does, one of those that sleep is
 * woken, and will. */
static inline void xvm_epset_see_to(struct xvm_epoll *e)
{
	if (__builtin_expect(atomic_load_explicit(&e->bounded, memory_order_relaxed), 0) &&
	    atomic_load(&e->sleepers) && !atomic_load(&e->lookers))
		xvm_epset_wake(e);
}

/* A record of s in e, for fd or (-1) for any, also one that is gone; one that is gone; or one that
 * is armed. */
struct xvm_reg *xvm_epset_reg_of(struct xvm_epoll *e, struct xvm_sock *s, int fd);
struct xvm_reg *xvm_epset_gone_of(struct xvm_epoll *e, struct xvm_sock *s, int fd);
struct xvm_reg *xvm_epset_armed_of(struct xvm_epoll *e, struct xvm_sock *s);
/* What other records of its socket in its epoll are armed for, by the same name. */
uint32_t xvm_epset_twin_armed(const struct xvm_reg *r);
/* An epoll that has a record of s, for fd or (-1) for any: a reference, or NULL. */
struct xvm_epoll *xvm_epset_of(struct xvm_sock *s, int fd);
/* One that has an armed record of it, and nobody in it. */
struct xvm_epoll *xvm_epset_idle_of(struct xvm_sock *s);
/* All epolls of the process; without a reference, another thread may close one meanwhile. */
void xvm_epset_each(void (*fn)(struct xvm_epoll *e, void *arg), void *arg);

/*
 * For a signal handler that interrupted the holder of e's lock, this very thread. It finds the
 * records as they were between two instructions, so it changes none but by what it leaves for
 * xvm_epset_settle(), and finds them by going through all that there are.
 */

/* Whether fn said true of one. Each has a socket. */
bool xvm_epset_any(struct xvm_epoll *e, bool (*fn)(struct xvm_reg *r, void *arg), void *arg);
/* Is fd's record parked? */
bool xvm_epset_parked(struct xvm_epoll *e, struct xvm_sock *s, int fd);
/* What the kernel has done with a registration, by fd. */
bool xvm_epset_defer(struct xvm_epoll *e, struct xvm_sock *s, int fd, uint32_t todo,
		     const struct epoll_event *ev);
/* What the kernel has taken. s: a reference, passed on. False: no memory. */
bool xvm_epset_add_late(struct xvm_epoll *e, int fd, const struct epoll_event *ev,
			struct xvm_sock *s);
/* epfilter.c: of n events of the kernel, what is the application's; and up to max what lies in
 * rings. *rung: a ring was among them. */
int xvm_epset_glance(struct xvm_epoll *e, struct epoll_event *evs, int n, int max, bool *rung);
/* May something come that only rings tell of? */
bool xvm_epset_on_ring(struct xvm_epoll *e);

/* epfilter.c: leave of n events what is the application's. *rung: among them was a wake-up, which
 * was for all who sleep in e. */
int xvm_epset_filter(struct xvm_epoll *e, struct epoll_event *evs, int n, bool *rung);

/* epready.c */

/*
 * What is ready in shared memory and news to the application. thorough: at the price of a lock, and
 * with the chances that a call on the socket offers (consent, leaving).
 *
 * now: as it is to be remembered if this is reported. Input that comes before the application
 * learns of the event belongs to the event; but a send that finds no room after we looked waits for
 * the next.
 */
uint32_t xvm_epset_look(struct xvm_reg *r, bool thorough, struct xvm_edge *now);
/* What an event of the kernel means for r: the bits to report, noted as reported. */
uint32_t xvm_epset_feed(struct xvm_epoll *e, struct xvm_reg *r, uint32_t kernel);
/* bits go to the application. What is not among them is still to make its edge. */
void xvm_epset_reported(struct xvm_epoll *e, struct xvm_reg *r, const struct xvm_edge *now,
			uint32_t bits, bool by_kernel);
/*
 * Rule W1 for all hot sockets. Returns the bound of the sleep in ms, -1 for none. Where something
 * is ready there will be no sleep: *found, and noted as reported in *ev unless that is NULL.
 */
int xvm_epset_arm_all(struct xvm_epoll *e, struct epoll_event *ev, bool *found);
/* Has it had nothing for so long that the kernel may report it? chill: so it shall, as after a
 * sleep by pad, for threads that never come to sleep. Returns what has come meanwhile. */
bool xvm_epset_is_quiet(const struct xvm_epoll *e, const struct xvm_reg *r);
uint32_t xvm_epset_chill(struct xvm_epoll *e, struct xvm_reg *r, struct xvm_edge *now);
void xvm_epset_disarm_all(struct xvm_epoll *e);

/*
 * For poll and outer epolls. Before a sleep outside: if something is ready in e, or
 * becomes so, e is readable in the kernel. Takes the lock. Returns the bound of the sleep in ms.
 */
int xvm_epset_prepare(struct xvm_epoll *e);

/* Inner epolls, to any depth, each with a reference; from add to end counted as slept in, so that
 * xvm_epoll_changed() makes them readable. */
#define XVM_EP_INNER 16
struct xvm_inners {
	struct xvm_epoll *e[XVM_EP_INNER];
	bool looks[XVM_EP_INNER]; /* counted among its lookers */
	unsigned n;
	bool more; /* than fit: do not sleep for long */
};
void xvm_inners_add(struct xvm_inners *in, struct xvm_epoll *e);
int xvm_inners_prepare(struct xvm_inners *in);
void xvm_inners_end(struct xvm_inners *in);
/* The kernel says that e is readable, as fd: is it? It may just have been told to look again. */
bool xvm_inners_readable(struct xvm_epoll *e, int fd, uint32_t events);

#endif
