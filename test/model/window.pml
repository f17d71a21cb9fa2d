/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring that grows (rules G1, G2): one direction, its cells, and a sender that may be killed at any
 * instruction: its heir goes on with what it had published.
 *
 * What is in a cell is the position that it was written for, plus 1. How a sender is woken is
 * stream.pml's business: it sleeps only when the window is the whole ring, by the rules for that.
 *
 *   N      bytes to be sent
 *   FIRST  cells of the first window
 *   LAST   number of the last window, each twice the one before
 *   PUT    the most bytes that a call sends
 *   GETS   the most bytes that a receiving call takes
 *   KILLS  how often a sender is killed
 */
#ifndef N
#define N 10
#endif
#ifndef FIRST
#define FIRST 2
#endif
#ifndef LAST
#define LAST 2
#endif
#ifndef PUT
#define PUT 5
#endif
#ifndef GETS
#define GETS 3
#endif
#ifndef KILLS
#define KILLS 1
#endif

#define bytes(w) (FIRST << (w))

/* The sender's half. */
byte cell[8]; /* FIRST << LAST */
byte head, windows, begin[LAST + 1];
/* The receiver's half. */
byte tail;

bool dead;	/* the sender is killed, and its heir begins */

/* Where position p lies in window w, which begins at b: in the upper half first. */
#ifdef MUTANT_FROM_THE_LOW_HALF
#define at(p, w, b) (((p) - (b)) & (bytes(w) - 1))
#else
#define at(p, w, b) (((p) - (b) + (w == 0 -> 0 : bytes(w) / 2)) & (bytes(w) - 1))
#endif

/* G2: of window w, that was seen, or one before. */
inline find(p) {
	atomic {
		f = w;
		do
		:: f > 0 && p < begin[f] -> f--
		:: else -> break
		od
	}
}

/* G1: what may follow h when up to t has been taken. */
inline room_of() {
	atomic {
		if
#ifndef MUTANT_LOW_HALF_TOO_SOON
		:: w > 0 && t < begin[w] -> room = begin[w] + bytes(w) / 2 - h
#endif
		:: else -> room = t + bytes(w) - h
		fi
	}
}

inline grow() {
#ifdef MUTANT_BEGIN_LATE
	windows = w + 1;
	begin[w + 1] = h + room;
#else
#ifdef MUTANT_BEGIN_BEYOND
	begin[w + 1] = h + room + 1;
#else
	begin[w + 1] = h + room;
#endif
#ifndef MUTANT_WINDOWS_LATE
	windows = w + 1;
#endif
#endif
	w++
}

inline send() {
	h = head;
	w = windows;
	t = tail;
	if :: want = 1 :: want = 3 :: want = PUT fi;
	atomic { if :: want > N - h -> want = N - h :: else fi }
	room_of();
	do
	:: room < want && w < LAST -> grow(); room_of()
	:: else -> break
	od;
	atomic { if :: want > room -> want = room :: else fi; i = 0 }
	if
	:: want == 0 -> (tail != t)
	:: else ->
		/* At once, as is the reader's copy: a byte that is overwritten too soon may be so
		 * before its reader begins as well. */
		atomic {
			do
			:: i == want -> break
			:: else ->
				find(h + i);
				cell[at(h + i, f, begin[f])] = h + i + 1; i++; f = 0
			od
		}
#ifdef MUTANT_WINDOWS_LATE
		head = h + want;
		windows = w
#else
		head = h + want
#endif
	fi
}

/* Who is killed has forgotten all that is not in the half. */
active proctype sender() {
	byte h, room, w, f, want, i, t;

	do
	:: head == N -> break
	:: else ->
		{ send() } unless { atomic { dead -> dead = false } };
		atomic { h = 0; room = 0; w = 0; f = 0; want = 0; i = 0; t = 0 }
	od
}

active proctype killer() {
	byte k;

	do
	:: k < KILLS && head < N && !dead -> atomic { k++; dead = true }
	:: break
	od
}

active proctype receiver() {
	byte h, w, f, n, i;

	do
	:: tail == N -> break
	:: else ->
#ifdef MUTANT_WINDOWS_FIRST
		w = windows;
		h = head;
#else
		h = head;
		w = windows;
#endif
		if
		:: h == tail -> (head != tail)
		:: else ->
			if :: n = 1 :: n = GETS fi;
			atomic { if :: n > h - tail -> n = h - tail :: else fi; i = 0 }
			atomic {
				do
				:: i == n -> break
				:: else ->
#ifdef MUTANT_NEWEST_ONLY
					f = w;
#else
					find(tail + i);
#endif
					assert(cell[at(tail + i, f, begin[f])] == tail + i + 1);
					i++; f = 0
				od
			}
			tail = tail + n
		fi;
		atomic { h = 0; w = 0; n = 0; i = 0 }
	od
}
