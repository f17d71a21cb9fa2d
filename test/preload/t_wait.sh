#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# poll, select and epoll say the same on plain TCP and preloaded, and the ring is used.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"
. "$(dirname "$0")/../lib/same.sh"

P=$B/test/preload/same_wait

for scene in poll signals select room epoll deleted edge nested inners crowd crowd_edge crowd_once \
	cold early copies shared bounds around twins quiet rest; do
	prints_plain "$scene" "$P" "$scene"
	for spin in 50 0; do
		prints_same "$scene" "spinning $spin us" XVM_SPIN_US=$spin "$P" "$scene"
	done
done

# A library between ours and libc, by which each wait is late to tell what the kernel has told it.
prints_plain handed "$P" handed
# shellcheck disable=SC2016
prints_same handed "late to hear" XVM_SPIN_US=50 \
	sh -c 'LD_PRELOAD="$LD_PRELOAD:$1" exec "$2" handed' sh "$B/test/preload/late.so" "$P"

# And one by which the program runs in the middle of a wait, with the epoll's lock held.
prints_plain amid "$P" amid
for spin in 50 0; do
	# shellcheck disable=SC2016
	prints_same amid "in the middle of a wait, spinning $spin us" XVM_SPIN_US=$spin \
		sh -c 'LD_PRELOAD="$LD_PRELOAD:$1" exec "$2" amid' sh "$B/test/preload/amid.so" "$P"
done
