/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a program hears of what xvmd sends (detect/proto.h, shim/link.c): xvmd adds 1 to a word, then
 * sends, and may be stopped between the two for any time. W threads of the program compare the word
 * with what they have counted, in each call, and look at the socket where it differs. Connection 0
 * is a former daemon's; the program goes over to 1 at some time.
 *
 * Nothing stays unread while no call would look.
 *
 *   W N  threads; messages of each daemon
 */
#ifndef W
#define W 2
#endif
#ifndef N
#define N 3
#endif
#define VAIN 2 /* looks for nothing, after which a call may look or not */

byte mail[2], queue[2];
bool done[2];
byte conn; /* the connection that is used */
byte seen; /* messages counted */
byte vain;
bool handling;

active [2] proctype xvmd()
{
	byte i = _pid, n;

	do
	:: n < N ->
		mail[i]++;
		queue[i]++;
		n++
	:: n == N ->
		break
	od;
	done[i] = true
}

inline look()
{
	c = conn;
	if
	:: atomic { queue[c] > 0 -> queue[c]-- };
		seen++;
		vain = 0
	:: else ->
		if
		:: vain < VAIN -> vain++
		:: else
		fi;
#ifdef MUTANT_GIVE_UP
		if
		:: vain == VAIN -> seen = mail[c]
		:: else
		fi
#endif
	fi
}

/* The former daemon is lost, and the next has said welcome. */
inline go_over()
{
	seen = 0;
	conn = 1
}

active [W] proctype program()
{
	byte c;

	do
	:: mail[conn] != seen ->
		if
		:: atomic { !handling -> handling = true };
			look();
			handling = false
		:: handling /* another does; or no call looks, for once */
		fi
	:: conn == 0 ->
#ifndef MUTANT_NOT_ALONE
		atomic { !handling -> handling = true };
#endif
		if
		:: conn == 0 -> go_over()
		:: else
		fi;
#ifndef MUTANT_NOT_ALONE
		handling = false
#endif
	:: atomic { done[0] && done[1] && conn == 1 && !handling && mail[1] == seen ->
			assert(queue[1] == 0) };
		break
	od
}
