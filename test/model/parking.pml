/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EPOLL_CTL_DEL and ADD without the kernel (shim/epreg.c): what is parked is nothing to the
 * application and registered with the kernel yet. The application deletes and adds a socket r, and
 * a descriptor q of the kernel's, both with the same data, so that an event does not say whose it
 * is; W threads wait in the epoll. What comes to r is bytes in the ring, once, or its end, of which
 * only the kernel knows, and stays; something comes to q once, and stays. Somebody else may look at
 * the epoll with the kernel's eyes.
 *
 * No event is told of what was deleted before the kernel gave it; none is made up for q by what
 * came to r; and none is lost: nobody sleeps while there is something.
 *
 *   W OPS  threads; calls of epoll_ctl
 *   END    1: the end comes to r, not bytes
 */
#ifndef W
#define W 2
#endif
#ifndef OPS
#define OPS 4
#endif
#ifndef END
#define END 1
#endif

#define NONE 0
#define RING 1			/* of our own eventfd */
#define DATA 2			/* an event that has the data of r and q */

/* The kernel's. */
bool in_r, in_q;		/* registered */
bool end, come_q;		/* level-triggered */
bool rung;			/* our eventfd: each ring is one event */

/* Ours, with the lock. */
bool lock;
bool rec_r, parked, rec_q, exposed, ghosts;
byte takers;
byte sleepers;

/* The ring of r. */
bool bytes, word;		/* word: whoever publishes rings */

/* The application's view: is it registered, and how often was it? */
bool reg_r, reg_q;
byte adds_r, adds_q;
bool over;			/* no more calls */

#define ready_r (bytes || end)
#define kernel_has (rung || in_r && end || in_q && come_q)

inline take_lock() { atomic { !lock -> lock = true } }

inline evict() {
	/* What a thread has taken and not judged may be its. */
#ifndef MUTANT_NO_GHOSTS
	ghosts = (takers > 0);
#endif
#ifndef MUTANT_EVICT_RECORD_ONLY
	in_r = false;
#endif
#ifndef MUTANT_EVICT_KERNEL_ONLY
	rec_r = false;
	parked = false
#else
	skip
#endif
}

/* Something was registered at some time since the event was taken. */
#define seen_r (reg_r || was_r || adds_r != had_r)
#define seen_q (reg_q || was_q || adds_q != had_q)

inline look_on() {
	was_r = reg_r;
	was_q = reg_q;
	had_r = adds_r;
	had_q = adds_q
}

/* What the application is told: an event with the data that both have. */
inline tell() {
	assert(ready_r && seen_r || come_q && seen_q)
}

/* Rule W6: a ring was for all. */
inline pass_on() {
	if
	:: sleepers > 0 ->
		word = rec_r && !parked;
		if
		:: rec_r && !parked && ready_r -> rung = true
		:: else
		fi
	:: else
	fi
}

inline judge() {
	if
	:: hand == RING -> skip
	:: hand == DATA && !rec_r && !rec_q ->
		if
		:: ghosts -> skip
		:: else -> tell(); told = true
		fi
	:: hand == DATA && rec_r && parked ->
#ifdef MUTANT_PARKED_TOLD
		tell(); told = true
#else
		evict();
		if
		:: rec_q && come_q -> tell(); told = true	/* it is asked */
		:: else
		fi
#endif
	:: hand == DATA && rec_r && !parked ->
		if
		:: ready_r || rec_q && come_q -> tell(); told = true
		:: else
		fi
	:: hand == DATA && !rec_r && rec_q ->
#ifdef MUTANT_GHOST_BELIEVED
		tell(); told = true
#else
		if
		:: ghosts && !come_q -> skip		/* it is asked, too */
		:: else -> tell(); told = true
		fi
#endif
	fi
}

proctype waiter() {
	byte hand, had_r, had_q;
	bool told, was_r, was_q;

	do
	:: told -> break	/* and is away, with what it was told */
	:: else ->
		take_lock();
		look_on();
		word = rec_r && !parked;
		if
		:: rec_r && !parked && ready_r -> tell(); told = true; lock = false
		:: else ->
			sleepers++;
			takers++;
			lock = false;
end_asleep:		atomic {
				kernel_has;
				look_on();
				if
				:: rung -> rung = false; hand = RING
				:: in_r && end -> hand = DATA
				:: in_q && come_q -> hand = DATA
				fi
			}
			sleepers--;
			take_lock();
			judge();
			if
			:: hand == RING -> pass_on()
			:: else
			fi;
			atomic {
				takers--;
#ifdef MUTANT_GHOSTS_SOON
				ghosts = false
#else
				if
				:: takers == 0 -> ghosts = false
				:: else
				fi
#endif
			}
			lock = false
		fi
	od
}

/* Calls of epoll_ctl, any of them. */
proctype application() {
	byte i;

	do
	:: break
	:: i < OPS && !reg_r ->
		take_lock();
		atomic { adds_r++; reg_r = true };	/* within a call either will do */
		if
		:: rec_r && parked -> parked = false
		:: !rec_r -> in_r = true; rec_r = true
		fi;
#ifndef MUTANT_NOT_ARMED
		/* For those who sleep since before. */
		if
		:: sleepers > 0 ->
			word = true;
			if
			:: ready_r -> rung = true
			:: else
			fi
		:: else
		fi;
#endif
		lock = false;
		i++
	:: i < OPS && reg_r ->
		take_lock();
		if
		:: sleepers == 0 && !exposed -> parked = true
		:: else -> in_r = false; rec_r = false
		fi;
		reg_r = false;
		lock = false;
		i++
	:: i < OPS && !reg_q ->
		take_lock();
		atomic { adds_q++; reg_q = true };
		if
		:: rec_r && parked -> evict()	/* the data are q's from now on */
		:: else
		fi;
		in_q = true;
		rec_q = true;
		lock = false;
		i++
	:: i < OPS && reg_q ->
		take_lock();
		in_q = false;
		rec_q = false;
		reg_q = false;
		lock = false;
		i++
	od;
	over = true
}

/* A poll, an epoll around it, or a fork: it sees what the kernel has. */
proctype other() {
	bool readable, was_r, was_q;
	byte had_r, had_q;

	take_lock();
#ifndef MUTANT_NOT_EXPOSED
	exposed = true;
	if
	:: rec_r && parked -> evict()
	:: else
	fi;
#endif
	lock = false;
	atomic {
		readable = (in_r && end || in_q && come_q);
		look_on();
		if
		:: readable -> tell()
		:: else
		fi
	}
}

proctype source() {
#if END
	end = true;
#else
	bytes = true;
	if
	:: word -> word = false; rung = true
	:: else
	fi;
#endif
	come_q = true
}

init {
	byte i;

	atomic {
		for (i : 1 .. W) { run waiter() }
		run application();
		run other();
		run source()
	}
	/* All has come to rest: who sleeps then sleeps for good. */
	timeout ->
	assert(over);
	assert(sleepers == 0 || !(reg_r && ready_r || reg_q && come_q))
}
