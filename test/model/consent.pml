/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules R1 and S2: threads that were inside an unlocked kernel recv or send when the pair became known.
 * R has two threads: one receives, as ever, without a lock until it sees PAIRED; the other
 * learns of the pair and consents. S likewise: one sends as ever, the other enters.
 */
#define PAD 0

chan tcp = [4] of { byte };
byte head;
bool r_paired, s_paired, consent, epoch;
byte krecv, ksend, bnd_tcp, tput;
bool stop;

/* A thread of R, in the wild. */
active proctype receiver() {
	byte v;

#ifdef MUTANT_LOOK_THEN_COUNT
	if
	:: r_paired -> goto locked
	:: else -> krecv++
	fi;
#else
	krecv++;
	if
	:: r_paired -> krecv--; goto locked
	:: else
	fi;
#endif
	/* The kernel's recv blocks, and takes what comes: it must be data. */
	if
	:: tcp?v -> assert(v != PAD)
	:: stop
	fi;
	krecv--;
locked:	skip
}

active proctype consenter() {
#ifdef MUTANT_PAIRED_LATE
	if
	:: krecv == 0 -> r_paired = true; consent = true
	:: else
	fi
#else
	r_paired = true;
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

/* A thread of S that sends as ever: two bytes, one after the other, inside one kernel send. */
active proctype sender() {
	ksend++;
	if
	:: s_paired -> ksend--; goto out
	:: else
	fi;
	atomic { tcp!1; tput++; assert(!epoch) }
	atomic { tcp!2; tput++; assert(!epoch) }
	ksend--;
out:	skip
}

active proctype enterer() {
	s_paired = true;
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
