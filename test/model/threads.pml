/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several threads or forks on one endpoint (rules W3, W6): two read, one writes, each blocks. Both
 * directions are on the ring. The peer publishes N messages and takes what the writer
 * writes. A pad is one for all: it makes the fd readable for whoever waits on it, whatever for,
 * and who takes it away takes it from everybody.
 *
 *   N K   messages for the readers, the last of which reads one; and from the writer
 *   FD    1: who sleeps alone on a word names its own eventfd; 0: pads only (forks)
 *   KILL  thread 0 may be killed at any instruction; its locks are taken over
 */
#ifndef FD
#define FD 0
#endif
#ifndef N
#define N 3
#endif
#ifndef K
#define K 2
#endif
#define RING 2

#define ACTED 0
#define BY_PAD 1
#define BY_FD(t) (2 + (t))

byte head, tail;		/* the peer's ring: messages for the readers */
byte rhead, rtail;		/* our ring, of one message, for the peer */
byte tcp_put, tgot;		/* pads sent by the peer, taken by us */
byte pads;			/* in the kernel, unread: the fd is readable */
bool efd[3];
byte sleep_data = BY_PAD, sleep_room = BY_PAD;
byte data_sleepers, room_sleepers;
bool rx_lock;
bool dead;			/* thread 0 */
bool holds;			/* thread 0 has rx_lock */

#define room_there (rhead == rtail)

inline lock() {
	atomic { !rx_lock -> rx_lock = true; if :: me == 0 -> holds = true :: else fi }
}

inline unlock() {
	atomic { rx_lock = false; if :: me == 0 -> holds = false :: else fi }
}

/*
 * W6, with rx_lock. Others who sleep may have been promised this pad. So they are armed anew, and
 * what they wait for is looked at, before it is taken away. What came after that look came with
 * a pad of its own, so no more are taken than were counted before.
 */
inline take_pads() {
	due = tcp_put - tgot;
#if !defined(MUTANT_TAKE_FIRST)
	if
	:: due > 0 && data_sleepers > asleep -> sleep_data = BY_PAD
	:: else
	fi;
#ifndef MUTANT_ROOM_FORGOTTEN
	if
	:: due > 0 && room_sleepers > 0 && !writes -> sleep_room = BY_PAD
	:: else
	fi;
#endif
#ifdef MUTANT_DUE_LATE
	keep = (head != tail || room_sleepers > 0 && !writes && room_there);
	due = tcp_put - tgot;
#elif !defined(MUTANT_ARM_NO_LOOK)
	keep = (head != tail && (data_sleepers > asleep || !writes));
#ifndef MUTANT_ROOM_FORGOTTEN
	keep = keep || (room_sleepers > 0 && !writes && room_there);
#endif
#endif
#endif
	if
	:: keep -> keep = false
	:: else ->
		atomic {
			do
			:: due > 0 && pads > 0 -> pads--; tgot++; due--
			:: else -> break
			od
		}
	fi;
#ifdef MUTANT_TAKE_FIRST
	/* ... and armed anew afterwards, as one who leaves. */
	if
	:: data_sleepers > asleep -> sleep_data = BY_PAD
	:: else
	fi;
	if
	:: room_sleepers > 0 && !writes -> sleep_room = BY_PAD
	:: else
	fi;
#endif
	due = 0
}

#define name(others) (FD && (others) == 0 -> BY_FD(me) : BY_PAD)

proctype thread(byte me; byte quota) {
	byte due;
	bool keep, writes, asleep, again;

	writes = (me == 2);
	{
	do
	:: quota == 0 -> break
	:: quota > 0 && !writes ->
		lock();
		if
		:: head != tail -> atomic { tail++; quota-- }
		:: else -> take_pads(); again = true
		fi;
		unlock();
		if
		:: again ->
			again = false;
			atomic { data_sleepers++; asleep = true }
#ifdef MUTANT_TWO_EVENTFDS
			sleep_data = name(0);
#else
			sleep_data = name(data_sleepers - 1);
#endif
			if
			:: head != tail
			:: else -> (pads > 0 || efd[me])
			fi;
			atomic { efd[me] = false; data_sleepers--; asleep = false }
		:: else
		fi
	:: quota > 0 && writes ->
		if
		:: room_there -> atomic { rhead++; quota-- }
		:: else ->
			atomic { room_sleepers++ }
			sleep_room = name(room_sleepers - 1);
			if
			:: room_there
			:: else ->
				(pads > 0 || efd[me]);
				lock(); take_pads(); unlock()
			fi;
			atomic { efd[me] = false; room_sleepers-- }
		fi
	od
	} unless { me == 0 && dead };
	if
	:: me == 0 && dead && holds -> rx_lock = false
	:: else
	fi
}

inline ring(word) {
	atomic { w = word; word = ACTED }
	if
	:: w == BY_PAD -> tcp_put++; pads++
	:: w > BY_PAD -> efd[w - 2] = true
	:: else
	fi;
	w = 0
}

proctype peer() {
	byte w;
end:	do
	:: head < N && head - tail < RING -> head++; ring(sleep_data)
	:: rhead != rtail -> rtail++; ring(sleep_room)
	od
}

#ifdef KILL
active proctype killer() {
	if
	:: dead = true
	:: true
	fi
}
#endif

init {
	atomic { run thread(0, N - 1); run thread(1, 1); run thread(2, K); run peer() }
}
