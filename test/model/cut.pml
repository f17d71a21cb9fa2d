/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules C1 to C4: R hands its socket over to a program that knows nothing of rings. From then on
 * that program reads TCP alone, and must find there every byte that R has not taken, in order, and
 * no pad. S may be anywhere: about to enter, to leave, to publish, to send a pad, or asleep.
 *
 * R may find that it cannot be done (failed), but only where S had left by itself with bytes
 * unread in the ring, or had sent a pad behind TCP bytes that are unread.
 *
 *   N     stream bytes
 *   PADS  pads that S may send on the ring, for whatever reason
 *   MOVES enters and leaves of S by its own wish
 */
#ifndef N
#define N 3
#endif
#ifndef PADS
#define PADS 1
#endif
#ifndef MOVES
#define MOVES 2
#endif
#define RING 2
#define PAD 0

chan tcp = [N + PADS + MOVES] of { byte };

/* S's half. */
byte cell[RING], head, epoch, bnd_tcp, bnd_ring, tcp_put;
bool recalled;
/* R's half. */
byte tail, reached, consent = 1;

bool word;	/* S's sleep word: a value that R has not acted on */
bool efd;	/* S's eventfd */
bool done;	/* R's program has everything, and has answered */
bool failed;	/* reset */

#define on_ring (epoch % 2 == 1)
#define must_recall (consent == 2 && on_ring)

active proctype s() {
	byte sent, tput, pads, moves, resend, upto;
	bool owed;

	do
	:: failed -> break
	:: done -> break
	/* C2: first thing in every call. */
	:: must_recall ->
recall:
		upto = head;
		resend = tail;
		tcp_put = tput;
#ifndef MUTANT_RECALLED_LATE
		recalled = true;
#endif
		do
		:: resend < upto -> atomic { tcp!cell[resend % RING]; tput++ } resend++
		:: else -> break
		od;
#ifdef MUTANT_RECALLED_LATE
		recalled = true;
#endif
		if
		:: on_ring -> epoch++
		:: else
		fi
	/* Send on TCP. */
	:: !on_ring && sent < N && !owed -> sent++; atomic { tcp!sent; tput++ }
	/* S5 */
	:: !must_recall && on_ring && sent < N && head - tail < RING ->
		sent++;
		cell[head % RING] = sent;
		head++
	/* S1 */
	:: !on_ring && moves < MOVES && consent == 1 && reached == epoch && !owed ->
		moves++;
		atomic { bnd_tcp = tput; bnd_ring = head; tcp_put = tput }
		epoch++
	/* S3, C3 */
	:: !must_recall && on_ring && moves < MOVES && reached == epoch ->
		moves++;
		atomic { bnd_tcp = tput + 1; bnd_ring = head; tcp_put = tput + 1 }
		epoch++;
#ifndef MUTANT_LEAVE_NO_LOOK
		if
		:: consent == 2 -> goto recall
		:: else
		fi;
#endif
		atomic { tcp!PAD; tput++ }
	/* S4, C3 */
	:: !must_recall && on_ring && pads < PADS ->
		pads++;
#ifdef MUTANT_PAD_LOOK_FIRST
		if
		:: consent != 2 -> tcp_put = tput + 1; atomic { tcp!PAD; tput++ }
		:: else
		fi
#else
		tcp_put = tput + 1;
#ifndef MUTANT_PAD_NO_LOOK
		if
		:: consent == 2 -> tcp_put = tput
		:: else ->
#endif
			atomic { tcp!PAD; tput++ }
#ifndef MUTANT_PAD_NO_LOOK
		fi
#endif
#endif
	/* Everything sent: wait for the answer. W1. */
	:: sent == N ->
		word = true;
#ifdef MUTANT_SLEEP_NO_LOOK
		(efd || done || failed);
#else
		if
		:: must_recall
		:: else -> (efd || done || failed)
		fi;
#endif
		efd = false
	od
}

active proctype r() {
	byte got, rgot, re, e, v, due;
	bool rl;

	/* As any receiver, for as long as it likes. */
	do
	:: got < N ->
		e = epoch;
		if
		:: re % 2 == 0 && e != re && rgot == bnd_tcp -> re++; reached = re
		:: re % 2 == 0 && !(e != re && rgot == bnd_tcp) ->
			if
			:: nempty(tcp) ->
				tcp?v;
				rgot++;
				if	/* R2 */
				:: epoch != re && rgot > bnd_tcp -> assert(v == PAD); re++; reached = re
				:: else -> got++; assert(v == got)
				fi
			:: empty(tcp)
			fi
		:: re % 2 == 1 && (e == re && tail != head || e != re && tail != bnd_ring) ->
			got++;
			assert(cell[tail % RING] == got);
			tail++
		:: re % 2 == 1 && e == re && tail == head && rgot < tcp_put && len(tcp) > 0 ->
			tcp?v; assert(v == PAD); rgot++
		:: re % 2 == 1 && e != re && tail == bnd_ring ->
			if
			:: rgot == bnd_tcp -> re++; reached = re
			:: rgot != bnd_tcp && nempty(tcp) -> tcp?v; assert(v == PAD); rgot++
			:: rgot != bnd_tcp && empty(tcp)
			fi
		:: else
		fi
	:: true -> break
	od;

	/* C1 */
	consent = 2;
	do
#ifdef MUTANT_RECALLED_FIRST
	:: rl = recalled;
		e = epoch;
#else
	:: e = epoch;
		rl = recalled;
#endif
		if
		:: rl ->	/* C4: nothing in S's half changes any more */
			if
			:: re % 2 == 0 && rgot < bnd_tcp && tcp_put > bnd_tcp -> failed = true; goto out
			:: re % 2 == 0 && rgot < bnd_tcp && tcp_put <= bnd_tcp
			:: else ->
#ifndef MUTANT_PADS_LEFT
				do
				:: rgot < tcp_put -> tcp?v; assert(v == PAD); rgot++
				:: else -> break
				od
#endif
			fi;
			break
		:: !rl && re % 2 == 1 ->
			if
			:: e == re -> due = tcp_put
			:: else -> due = bnd_tcp - 1
			fi;
			if
			:: e != re && rgot == bnd_tcp ->	/* its pad has been taken */
				failed = (tail != bnd_ring);
				break
			:: rgot < due || e != re && rgot == due ->
				(nempty(tcp) || recalled || e == re && epoch != re || tcp_put < due);
				/* Said before anything is sent again: what is here now is a pad. */
				if
#ifndef MUTANT_NO_SECOND_LOOK
				:: recalled
#endif
				:: !recalled && empty(tcp)
				:: !recalled && nempty(tcp) && rgot < due ->
					tcp?v; assert(v == PAD); rgot++
				:: !recalled && nempty(tcp) && rgot == due ->
					/* S has left by itself. */
					if
					:: tail != bnd_ring -> failed = true; goto out
					:: else -> tcp?v; assert(v == PAD); break
					fi
				fi
			:: else -> break	/* on the ring, and it will look */
			fi
		:: !rl && re % 2 == 0 && e == re -> break
		:: !rl && re % 2 == 0 && e != re && rgot == bnd_tcp -> re++; reached = re
		:: !rl && re % 2 == 0 && e != re && rgot != bnd_tcp ->
			/* Pads behind bytes of TCP that are unread. */
			if
			:: tcp_put > bnd_tcp -> failed = true; goto out
			:: else -> break
			fi
		fi
	od;
#ifndef MUTANT_NO_WAKE
	if
	:: failed -> goto out
	:: else
	fi;
	if /* W2 */
	:: atomic { word -> word = false; efd = true }
	:: else
	fi;
#endif
	/* A program that knows nothing. */
	do
	:: got < N -> tcp?v; got++; assert(v == got)
	:: else -> break
	od;
	done = true;
out:
	skip
}
