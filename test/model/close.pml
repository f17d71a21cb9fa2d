/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules S4 and S6: A writes into the ring, leaves it, writes to TCP, and closes, with nothing unread. B
 * drains, and may ring for room by a pad on its own direction. A byte that comes to a
 * socket after its close, or is unread at it, makes the kernel answer RST, and then what A had
 * in flight is lost. A program that only reads must never cause that.
 */
#define RING 2

byte head, tail;		/* A's ring */
bool left;			/* A has left, at head */
byte data;			/* A's bytes in TCP, behind the leave pad */
bool fresh = true;		/* A's sleep word for room: not yet acted on, by pad */
byte tcp_put, sent_pads;	/* B's pads: counted; sent and unread */
byte agot;			/* pads that A has taken */
bool rx_closed, closed, rst;

active proctype a() {
	do
	:: head < RING + 1 && head - tail < RING && !left -> head++
	:: fresh == false -> fresh = true	/* slept for room, was woken by something else */
	:: head > 0 -> break
	od;
	left = true;
	data = 1;
	/* close() */
#ifdef MUTANT_NO_CLOSED_FLAG
	atomic { agot = agot + sent_pads; sent_pads = 0 }
#else
	rx_closed = true;
#ifdef MUTANT_NO_WAIT
	atomic { agot = agot + sent_pads; sent_pads = 0 }
#else
	do
	:: atomic { sent_pads > 0 -> sent_pads--; agot++ }
	:: atomic { sent_pads == 0 && agot == tcp_put -> break }
	od;
#endif
#endif
	atomic {
		closed = true;
		if
		:: sent_pads > 0 -> rst = true
		:: else
		fi
	}
}

inline pad() {
#ifdef MUTANT_LOOK_THEN_COUNT
	if
	:: rx_closed
	:: else -> tcp_put++; send()
	fi
#elif defined(MUTANT_NO_CLOSED_FLAG)
	tcp_put++;
	send()
#else
	tcp_put++;
	if
	:: rx_closed -> tcp_put--
	:: else -> send()
	fi
#endif
}

inline send() {
	atomic {
		if
		:: closed -> rst = true
		:: else -> sent_pads++
		fi
	}
}

active proctype b() {
	do
	:: tail < head ->
		tail++;
		if
		:: head - tail <= RING / 2 && fresh -> fresh = false; pad()
		:: else
		fi
	:: left && tail == head && data > 0 -> data--; break
	od;
	(closed);
	assert(!rst)
}
