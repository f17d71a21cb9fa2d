/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection: both directions, each endpoint one thread. PROTOCOL.md's rules S1, S3 to S7,
 * R2 to R5, W1 to W5, and death at any instruction.
 *
 * A sleeper sees kernel facts only: bytes or an end in TCP, room in TCP, its eventfd. Shared
 * memory wakes nobody. So a wake-up that is lost shows as an invalid end state.
 *
 * Abstractions. Shared words are read and written one at a time, in any interleaving; a missing
 * fence is a mutant in which the two accesses are swapped. A sleep word is 0 when the peer has
 * acted on its newest value, else it is the waker that it names: exact, as values never come
 * again and the peer's memory of what it acted on is its own. TCP holds TCPCAP bytes, and a
 * byte in it is one that can be read. What a configuration sets (see run):
 *
 *   N0 N1    stream bytes that endpoint 0 and 1 send
 *   RING     bytes in a ring
 *   EVFD     0: wake by pad, 1: by eventfd, 2: either, as it happens
 *   BLOCKING 0: both wait for both (poll). 1: endpoint 0 sends all, then receives; 1 the other way
 *   LEAVES   how often each endpoint may leave by its own wish
 *   SHUT     endpoints shut down their direction when they have sent all; else they stop
 *   KILL     endpoint 1 may be killed at any instruction
 */
#ifndef N0
#define N0 3
#endif
#ifndef N1
#define N1 1
#endif
#ifndef RING
#define RING 1
#endif
#ifndef TCPCAP
#define TCPCAP 2
#endif
#ifndef EVFD
#define EVFD 0
#endif
#ifndef BLOCKING
#define BLOCKING 0
#endif
#ifndef LEAVES
#define LEAVES 1
#endif
#ifndef SHUT
#define SHUT 0
#endif

#define PAD 0
#define BY_PAD 1
#define BY_FD 2

/* By direction, which has its sender's name. The kernel's: */
chan tcp[2] = [TCPCAP] of { byte };
bool kfin[2];		/* the sender's end: FIN */
bool gone[2];		/* by endpoint: killed */
bool reset[2];		/* by endpoint: RST has come */
bool efd[2];		/* by endpoint: its eventfd has been rung */

/* The sender's half. */
byte cell[2 * RING];
byte head[2], epoch[2], bnd_tcp[2], bnd_ring[2], tcp_put[2], fin[2];
byte sleep_room[2] = BY_PAD;
/* The receiver's half. */
byte tail[2], reached[2], consent[2];
byte sleep_data[2] = BY_PAD;	/* by endpoint */

/* Not the program's: stream bytes that S has published, so that R must get them. */
byte pub[2];

#define on_ring(d) (epoch[d] % 2 == 1)
#define total(x) (x == 0 -> N0 : N1)
#define used(d) (head[d] - tail[d])

/* To a peer that is gone the kernel answers RST, and bytes vanish. */
inline tcp_send(b) {
	atomic {
		if
		:: gone[peer] -> reset[me] = true
		:: else -> tcp[me]!b; tput++
		fi
	}
}

/* S4 */
inline pad() {
#ifdef MUTANT_PAD_COUNT_LATE
	atomic {
		if
		:: gone[peer] -> reset[me] = true
		:: !gone[peer] && len(tcp[me]) < TCPCAP -> tcp[me]!PAD; tput++
		:: else
		fi
	}
	tcp_put[me] = tput;
#else
#ifdef MUTANT_PAD_NO_REVERT
	tcp_put[me]++;
#else
	tcp_put[me] = tput + 1;
#endif
	atomic {
		if
		:: gone[peer] -> reset[me] = true
		:: !gone[peer] && len(tcp[me]) < TCPCAP -> tcp[me]!PAD; tput++; stuffed = false
		:: else -> stuffed = true
		fi
	}
#ifndef MUTANT_PAD_NO_REVERT
	if
	:: stuffed -> tcp_put[me] = tput; stuffed = false
	:: else
	fi
#endif
#endif
}

inline ring_data() {
	if
	:: atomic { w == BY_FD -> efd[peer] = true; w = 0 }
	:: w == BY_PAD -> pad(); w = 0
	:: w == 0
	fi
}

/* A room pad goes on my own direction, so it must be on the ring, and not shut (W4). */
inline ring_room() {
	if
	:: atomic { w == BY_FD -> efd[peer] = true; w = 0 }
	:: w == BY_PAD && on_ring(me) && !kfin[me] -> pad(); w = 0
	:: else -> w = 0
	fi
}

/* W2: read the word and remember that it was acted on. */
#define act_on(word) atomic { w = word; word = 0 }

inline leave() {
#ifdef MUTANT_LEAVE_PAD_IF_ASLEEP
	act_on(sleep_data[peer]);
	atomic {
		bnd_ring[me] = head[me];
		bnd_tcp[me] = tput + (w != 0 -> 1 : 0);
		tcp_put[me] = bnd_tcp[me];
		owed = (w != 0);
		w = 0
	}
#else
	atomic {
		bnd_ring[me] = head[me];
		bnd_tcp[me] = tput + 1;
		tcp_put[me] = tput + 1;
		owed = true
	}
#endif
	epoch[me]++;
	pay()
}

inline pay() {
	atomic {
		if
		:: owed && gone[peer] -> reset[me] = true
		:: owed && !gone[peer] && len(tcp[me]) < TCPCAP -> tcp[me]!PAD; tput++; owed = false
		:: else
		fi
	}
}

/* One byte of stream for the application. */
inline deliver(b) {
	got++;
	assert(b == got)
}

/* Try to receive. Sets progress, or eof. */
inline receive() {
	e = epoch[peer];
	if
	:: reached[peer] % 2 == 0 && e != reached[peer] && tgot == bnd_tcp[peer] ->
		reached[peer]++; progress = true
	:: reached[peer] % 2 == 0 && e != reached[peer] && tgot != bnd_tcp[peer] ->
		atomic {
			if
			:: tcp[peer]?v -> tgot++; progress = true; assert(v != PAD); deliver(v)
			:: empty(tcp[peer]) && kfin[peer] -> eof = true
			:: empty(tcp[peer]) && !kfin[peer]
			fi; v = 0
		}
	:: reached[peer] % 2 == 0 && e == reached[peer] ->
		/* The kernel's recv: one byte, or two. */
		atomic {
			k = 0;
			if
			:: tcp[peer]?v -> k = 1;
				if
				:: tcp[peer]?v2 -> k = 2
				:: true
				fi
			:: empty(tcp[peer]) && kfin[peer] -> eof = true
			:: empty(tcp[peer]) && !kfin[peer]
			fi
		}
		if
		:: k > 0 ->
			progress = true;
			atomic {
				/* R2 */
				e = epoch[peer];
				n = k;
#ifndef MUTANT_NO_STRIP
				if
				:: e != reached[peer] && tgot + k >= bnd_tcp[peer] ->
					n = bnd_tcp[peer] - tgot; reached[peer]++
				:: else
				fi;
#endif
				tgot = tgot + k;
				if
				:: n > 0 -> deliver(v)
				:: else -> assert(v == PAD)
				fi;
				if
				:: k == 2 && n == 2 -> deliver(v2)
				:: k == 2 && n < 2 -> assert(v2 == PAD)
				:: k < 2
				fi;
				k = 0; n = 0; v = 0; v2 = 0
			}
		:: else ->
#ifndef MUTANT_EOF_NO_LOOK
			/* R3: what was published before the end came is there by now. */
			if
			:: eof && epoch[peer] != reached[peer] -> eof = false; progress = true
			:: else
			fi
#endif
		fi
	:: reached[peer] % 2 == 1 ->
		if
		:: e == reached[peer] -> end = head[peer]
		:: else -> end = bnd_ring[peer]
		fi;
		if
		:: tail[peer] != end ->
#ifdef MUTANT_TAIL_FIRST
			tail[peer]++;
			v = cell[peer * RING + (tail[peer] - 1) % RING];
#else
			v = cell[peer * RING + tail[peer] % RING];
#endif
#ifdef MUTANT_NO_FENCE_TAIL
			act_on(sleep_room[peer]);
			tail[peer]++;
#else
#ifndef MUTANT_TAIL_FIRST
			tail[peer]++;
#endif
			if	/* W5 */
			:: atomic { used(peer) <= RING / 2 -> w = sleep_room[peer] }
				if
				:: w == BY_PAD && !(on_ring(me) && !kfin[me]) -> w = 0
				:: else -> act_on(sleep_room[peer])
				fi
			:: else
			fi;
#endif
			ring_room();
			atomic { progress = true; deliver(v); v = 0 }
		:: tail[peer] == end && e != reached[peer] ->
			/* R4 */
			if
			:: atomic { tgot != bnd_tcp[peer] && nempty(tcp[peer]) ->
				tcp[peer]?v; assert(v == PAD); tgot++; progress = true }
#ifdef MUTANT_WAIT_FOR_PADS
			:: tgot != bnd_tcp[peer] && empty(tcp[peer])
#else
			:: tgot != bnd_tcp[peer] && empty(tcp[peer]) && kfin[peer] -> eof = true
			:: tgot != bnd_tcp[peer] && empty(tcp[peer]) && !kfin[peer]
#endif
			:: tgot == bnd_tcp[peer] -> reached[peer]++; progress = true
			fi
		:: tail[peer] == end && e == reached[peer] ->
			/* R5: the flag first, then the epoch. */
			if
			:: fin[peer] == tail[peer] + 1 ->
#ifdef MUTANT_FIN_NO_EPOCH
				eof = true
#else
				eof = (epoch[peer] == reached[peer])
#endif
			:: else ->
				due = tcp_put[peer] - tgot;
				if
				:: atomic { due > 0 && nempty(tcp[peer]) ->
					progress = true;
					do
					:: due > 0 && nempty(tcp[peer]) ->
						tcp[peer]?v; assert(v == PAD); tgot++; due--
					:: else -> break
					od }
				:: due == 0 && nempty(tcp[peer]) ->
					/* Counted before it was sent, so a second look tells. Else the peer lies. */
					assert(tcp_put[peer] != tgot || epoch[peer] != reached[peer]);
					progress = true
				:: empty(tcp[peer]) && !kfin[peer]
				:: empty(tcp[peer]) && kfin[peer] ->
#ifdef MUTANT_EOF_NO_LOOK
					eof = true
#else
					eof = (head[peer] == tail[peer] && epoch[peer] == reached[peer]);
					progress = !eof
#endif
				fi;
				due = 0
			fi
		fi;
		end = 0
	fi;
	e = 0
}

#ifdef MUTANT_DATA_BEFORE_OWED
#define may_send (!reset[me])
#else
#define may_send (!reset[me] && !owed)
#endif

/* Try to send one byte. */
inline transmit() {
	if
	:: reset[me] -> sent = total(me)
	:: else ->
#ifdef MUTANT_DATA_BEFORE_OWED
		if
#else
		pay();
		if
		:: owed
#endif
		:: may_send && on_ring(me) && used(me) < RING ->
			sent++;
#ifdef MUTANT_HEAD_FIRST
			atomic { head[me]++; pub[me]++ }
			cell[me * RING + (head[me] - 1) % RING] = sent;
#else
			cell[me * RING + head[me] % RING] = sent;
#ifdef MUTANT_NO_FENCE_HEAD
			act_on(sleep_data[peer]);
			atomic { head[me]++; pub[me]++ }
#else
			atomic { head[me]++; pub[me]++ }
			act_on(sleep_data[peer]);
#endif
#endif
			ring_data();
			progress = true
		:: may_send && !on_ring(me) && len(tcp[me]) < TCPCAP ->
			atomic { sent++; pub[me]++; tcp_send(sent); progress = true }
		:: else
		fi
	fi
}

#define may_enter (consent[peer] && !owed && !kfin[me])

/* Is there anything to do? What W1's second look looks for. */
#define data_there (reached[peer] != epoch[peer] && tgot == bnd_tcp[peer] || \
	reached[peer] % 2 == 1 && (tail[peer] != head[peer] || \
		reached[peer] == epoch[peer] && fin[peer] == tail[peer] + 1))
#define room_there (on_ring(me) && used(me) < RING)

/* W4: could the peer wake us for room by pad? It must be on the ring, we must have followed it
 * there, or its data would hide the pad; and it must not have shut its direction. */
#ifdef MUTANT_SLEEP_UNWAKEABLE
#define pad_can_come true
#elif defined(MUTANT_SLEEP_AFTER_FIN)
#define pad_can_come (on_ring(peer) && reached[peer] == epoch[peer])
#else
#define pad_can_come (on_ring(peer) && reached[peer] == epoch[peer] && fin[peer] == 0 && !kfin[peer])
#endif

inline choose(word) {
#if EVFD == 0
	word = BY_PAD
#elif EVFD == 1
	word = BY_FD
#else
	if
	:: word = BY_PAD
	:: word = BY_FD
	fi
#endif
}

inline wait() {
	/* W1 */
	again = false; timed = false;
	if
	:: want_in ->
#ifdef MUTANT_LOOK_FIRST
		again = data_there;
#endif
#ifndef MUTANT_NO_NEW_NUMBER
		choose(sleep_data[me]);
#endif
#if !defined(MUTANT_NO_LOOK) && !defined(MUTANT_LOOK_FIRST)
		again = data_there
#endif
	:: else
	fi;
	if
	:: want_out && !again ->
		choose(sleep_room[me]);
		by = sleep_room[me];
#ifndef MUTANT_NO_LOOK_ROOM
		again = room_there;
#endif
	:: else
	fi;
	if
	:: want_out && !again && on_ring(me) ->
		if
#ifdef MUTANT_SLEEP_AFTER_FIN
		:: by == BY_FD
#else
		/* S7: who shut and then dies does so in silence. */
		:: by == BY_FD && !kfin[peer]
#endif
		:: by == BY_PAD && pad_can_come
		:: else ->
			if
			:: reached[me] == epoch[me] -> leave(); again = true
			:: else -> timed = true; if :: kfin[peer] -> pad() :: else fi
			fi
		fi
	:: else
	fi;
	if
	:: again
	:: else ->
		/* The kernel's poll. */
		if
		/* Who has seen the end and looked again needs no more: to wait then is to hang. */
		:: want_in && (nempty(tcp[peer]) || kfin[peer] && !endseen)
		/* For input only if what comes is a pad: data would make this a busy loop. */
		:: by == BY_PAD && nempty(tcp[peer])
		:: want_out && on_ring(me) && kfin[peer] && !endseen
		:: want_out && (!on_ring(me) || owed) && len(tcp[me]) < TCPCAP
		:: efd[me]
		:: reset[me]
		:: timed
		:: want_out && gone[peer] && !on_ring(me)
		fi;
		efd[me] = false;
		endseen = kfin[peer]
	fi;
	again = false; timed = false; by = 0
}

proctype endpoint(byte me) {
	byte peer, sent, got, tput, tgot;
	byte e, v, v2, k, n, end, due, w, by, left;
	bool progress, eof, owed, stuffed, want_in, want_out, again, timed, endseen;

	peer = 1 - me;
	{
	do
	:: sent == total(me) && (got == total(peer) && !SHUT || eof) -> break
	:: else ->
		atomic {
			progress = false;
#if BLOCKING
			want_out = (sent < total(me)) && (me == 0 || got == total(peer));
			want_in = !want_out
#else
			want_out = (sent < total(me));
			want_in = !eof && (got < total(peer) || SHUT)
#endif
		}
		/* R1, inside any call. */
		consent[me] = 1;
		if
		:: want_in -> receive()
		:: else ->
			/* Pads that are due are taken for a sender as well. */
			if
			:: atomic { reached[peer] % 2 == 1 && tgot != tcp_put[peer] && nempty(tcp[peer]) ->
				tcp[peer]?v; assert(v == PAD); tgot++; progress = true; v = 0 }
			:: else
			fi
		fi;
		if
		:: want_out && !progress ->
			if
			:: true
#ifdef MUTANT_ENTER_NOT_REACHED
			:: !on_ring(me) && may_enter ->
#else
			:: !on_ring(me) && may_enter && reached[me] == epoch[me] ->
#endif
#ifdef MUTANT_EPOCH_FIRST
				epoch[me]++;
				atomic { bnd_tcp[me] = tput; bnd_ring[me] = head[me]; tcp_put[me] = tput }
#else
				atomic { bnd_tcp[me] = tput; bnd_ring[me] = head[me]; tcp_put[me] = tput }
				epoch[me]++
#endif
#ifdef MUTANT_LEAVE_EARLY
			:: on_ring(me) && left < LEAVES ->
#else
			:: on_ring(me) && left < LEAVES && reached[me] == epoch[me] ->
#endif
				left++; leave()
			fi;
			transmit()
		:: else
		fi;
		if
		:: SHUT && sent == total(me) && !kfin[me] && !reset[me] ->
			fin[me] = 1 + head[me];	/* S6 */
			kfin[me] = true;
			progress = true
		:: else
		fi;
		if
		:: progress || eof && sent == total(me)
		:: else -> wait()
		fi
	od;
	/* Every byte that was published, and no other. */
	assert(reset[me] || got == pub[peer]);
	assert(gone[peer] || got == total(peer))
	} unless { gone[me] }
}

#ifdef KILL
active proctype killer() {
	if
	:: atomic { gone[1] = true; kfin[1] = true }
	:: true
	fi
}
#endif

init {
	atomic { run endpoint(0); run endpoint(1) }
}
