/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One sleeper, one eventfd, two connections to one process (rule W2): one ring answers all sleep
 * words that name the eventfd with the same or a smaller number. So every connection that names it
 * is armed anew, with the new number, before each sleep.
 *
 * VECTORS: the eventfd is a vector's, of another machine, which two processes have one after the other. Each has one of
 * the connections and counts its sleeps from 0.
 */
#define N 2	/* messages on each connection */

#if defined(VECTORS) && !defined(MUTANT_ONE_MEMO)
#define memo rung[c]
#else
#define memo rung[0]
#endif

byte head[2], tail[2];
byte word[2];		/* number of the sleep that the connection's word names */
byte rung[2];		/* the peer process's: highest number that it has rung for */
bool efd;

proctype sender(byte c) {
	byte i, w;

	do
	:: i == N -> break
	:: else ->
#ifdef MUTANT_NO_FENCE
		w = word[c];
		head[c]++;
#else
		head[c]++;
		w = word[c];
#endif
		if
		:: w > memo ->
			efd = true;	/* ring first, note it then */
			atomic { memo = (w > memo -> w : memo) }
		:: else
		fi;
		atomic { i++; w = 0 }
	od
}

#define found (head[0] != tail[0] || head[1] != tail[1])

#ifdef VECTORS
active proctype sleepers() {
	byte seq, c;

	do
	:: c == 2 -> break
	:: c < 2 && tail[c] == N ->
		/* The next process begins, with an eventfd of its own; late rings go there. */
		atomic { c++; seq = 0; efd = false }
	:: c < 2 && tail[c] < N ->
		if
		:: head[c] != tail[c] -> tail[c]++
		:: else ->
			seq++;
			word[c] = seq;
			if
			:: head[c] != tail[c]
			:: else ->
				efd;
				efd = false
			fi
		fi
	od
}
#else
active proctype sleeper() {
	byte seq, c;
	bool busy[2];

	do
	:: tail[0] == N && tail[1] == N -> break
	:: else ->
		atomic { busy[0] = (seq == 0); busy[1] = (seq == 0) }
		c = 0;
		do
		:: c < 2 && head[c] != tail[c] -> tail[c]++; busy[c] = true; c++
		:: c < 2 && head[c] == tail[c] -> c++
		:: c == 2 -> break
		od;
		seq++;
#ifdef MUTANT_IDLE_NOT_ARMED
		if
		:: busy[0] -> word[0] = seq
		:: else
		fi;
		if
		:: busy[1] -> word[1] = seq
		:: else
		fi;
#else
		word[0] = seq;
		word[1] = seq;
#endif
		if
		:: found || tail[0] == N && tail[1] == N
		:: else ->
#ifdef MUTANT_DRAIN_LATE
			efd = false;
			efd
#else
			efd;
			efd = false
#endif
		fi
	od
}
#endif

init {
	atomic { run sender(0); run sender(1) }
}
