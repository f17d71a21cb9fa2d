/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules R1 and S2: threads that were inside an unlocked kernel recv or send when the pair became known.
 * R has three threads: one receives, as ever, without a lock until it sees that the socket is told; one
 * learns of the pair; one consents. S likewise: two send as ever, one pairs, one enters.
 *
 * in_r, in_s and told: what is in a process's own word, changed by one atomic operation.
 */
#define PAD 0

chan tcp = [4] of { byte };
byte head;
bool r_paired, s_paired, consent, epoch;
byte in_r, in_s, krecv, ksend, bnd_tcp, tput;
bool r_told, s_told, stop;

#define GUARD 10

inline enter(in, told, was) {
#ifdef MUTANT_LOOK_THEN_COUNT
	was = told;
	if
	:: was
	:: else -> in++
	fi
#else
	atomic {
		was = told;
		if
		:: was
		:: else -> in++
		fi
	}
#endif
}

/* Moved meanwhile? Then it is in the endpoint that the thread was counted. */
inline leave(in, told, count, was) {
	atomic {
		was = told;
		if
		:: was
		:: else -> in--
		fi
	}
	if
	:: was -> count--
	:: else
	fi
}

inline pair(paired, in, told, count, n) {
#ifndef MUTANT_NO_GUARD
	count = count + GUARD;
#endif
	paired = true;
	atomic { told = true; n = in };
#ifdef MUTANT_NO_GUARD
	count = count + n
#else
	count = count + n - GUARD
#endif
}

/* A thread of R, in the wild. */
active proctype receiver() {
	byte v;
	bool was;

	enter(in_r, r_told, was);
	if
	:: was -> goto locked
	:: else
	fi;
	/* The kernel's recv blocks, and takes what comes: it must be data. */
	if
	:: tcp?v -> assert(v != PAD)
	:: stop
	fi;
	leave(in_r, r_told, krecv, was);
locked:	skip
}

active proctype r_pairs() {
	byte n;

	pair(r_paired, in_r, r_told, krecv, n)
}

active proctype consenter() {
#ifdef MUTANT_PAIRED_LATE
	if
	:: krecv == 0 -> consent = true
	:: else
	fi
#else
	r_paired;
#ifdef MUTANT_KRECV_IGNORED
	consent = true
#else
	if
	:: krecv == 0 -> consent = true
	:: else
	fi
#endif
#endif
}

/* Threads of S that send as ever: the one two bytes, one after the other, inside one kernel send. */
active proctype sender() {
	bool was;

	enter(in_s, s_told, was);
	if
	:: was -> goto out
	:: else
	fi;
	atomic { tcp!1; tput++; assert(!epoch) }
	atomic { tcp!2; tput++; assert(!epoch) }
	leave(in_s, s_told, ksend, was);
out:	skip
}

active proctype sender2() {
	bool was;

	enter(in_s, s_told, was);
	if
	:: was -> goto out
	:: else
	fi;
	atomic { tcp!3; tput++; assert(!epoch) }
	leave(in_s, s_told, ksend, was);
out:	skip
}

active proctype s_pairs() {
	byte n;

	pair(s_paired, in_s, s_told, ksend, n)
}

active proctype enterer() {
	s_paired;
	if
#ifdef MUTANT_KSEND_IGNORED
	:: consent ->
#else
	:: consent && ksend == 0 ->
#endif
		bnd_tcp = tput;
		epoch = true;
		head++;
		/* R sleeps, for all we know. */
		tcp!PAD
	:: true
	fi;
	stop = true
}
