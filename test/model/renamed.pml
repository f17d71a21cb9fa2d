/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rule P4 where data change (shim/epreg.c): the application deletes a socket, which is parked, and adds
 * it with other data, or changes them; the kernel may just have given a waiting thread an event with
 * the old ones. None is told by data that nothing had, for the application, since the event was taken.
 */
#ifndef W
#define W 2
#endif
#ifndef OPS
#define OPS 4
#endif

/* The kernel's, level-triggered; data are 0 or 1. */
bool in_r, end;
bit kdata;
/* Ours, with the lock. */
bool lock, rec, parked, ghosts;
bit rdata;
byte takers, sleepers;
/* The application's view. */
bool reg;
bit data;
bool amid;			/* in a call that changes them: the old ones will do, too */
byte adds[2];			/* how often each was registered */
bool over;

inline take_lock() { atomic { !lock -> lock = true } }

/* The record's data, and the kernel's, are d from now on. */
inline rename(d) {
#ifdef MUTANT_NO_GHOSTS
	skip;
#else
	if
	:: takers > 0 -> ghosts = true
	:: else
	fi;
#endif
	kdata = d;
	rdata = d
}

inline tell() { assert(was || adds[hand] != had); told = true }

proctype waiter() {
	bit hand;
	byte had;
	bool told, was;

	do
	:: told -> break
	:: else ->
		take_lock();
		sleepers++;
		takers++;
		lock = false;
end_asleep:	atomic {
			in_r && end;
			hand = kdata;
			was = reg && (data == hand || amid);
			had = adds[hand]
		}
		sleepers--;
		take_lock();
		if
		:: rec && rdata == hand && parked ->
			in_r = false;
			rec = false;
			parked = false;
			ghosts = takers > 0
		:: rec && rdata == hand && !parked -> tell()
		:: !(rec && rdata == hand) ->
			if
			:: ghosts
			:: else -> tell()
			fi
		fi;
		takers--;
#ifdef MUTANT_GHOSTS_SOON
		ghosts = false;
#else
		if
		:: takers == 0 -> ghosts = false
		:: else
		fi;
#endif
		lock = false
	od
}

/* In a call, what is from now on: whoever takes an event meanwhile may be told of either. */
inline now_is(d) { atomic { reg = true; data = d; adds[d]++ } }

proctype application() {
	byte i;
	bit d;

	do
	:: break
	:: i < OPS && !reg ->
		select(d : 0 .. 1);
		take_lock();
		now_is(d);
		if
		:: rec && parked ->
			if
			:: d != rdata -> rename(d)
			:: else
			fi;
			parked = false
		:: else ->
			atomic { in_r = true; kdata = d };
			rec = true;
			rdata = d
		fi;
		lock = false;
		i++
	:: i < OPS && reg ->
		take_lock();
		d = 1 - data;
		atomic { now_is(d); amid = true };
		rename(d);
		amid = false;
		lock = false;
		i++
	:: i < OPS && reg ->
		take_lock();
		if
		:: sleepers == 0 -> parked = true
		:: else -> in_r = false; rec = false
		fi;
		reg = false;
		lock = false;
		i++
	od;
	over = true
}

init {
	byte i;

	atomic {
		for (i : 1 .. W) { run waiter() }
		run application()
	}
	end = true;
	timeout ->
	assert(over);
	assert(sleepers == 0 || !reg)
}
