#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# poll, select and epoll say the same on plain TCP and preloaded, and the ring is used.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"

P=$B/test/preload/same_wait

for scene in poll signals select room epoll edge nested crowd crowd_edge crowd_once \
	cold early copies shared; do
	step "$scene, plain"
	timeout 60 "$P" $scene >"$T/plain" || fail "$scene fails on plain TCP"
	for spin in 50 0; do
		step "$scene, preloaded, spinning $spin us"
		timeout 60 env XVM_SPIN_US=$spin XVM_LOG=3 "$B/xvm" run --private -- "$P" $scene \
			>"$T/xvm" 2>"$T/log" || { diff "$T/plain" "$T/xvm" || true
				fail "$scene fails preloaded: $(tail -n 3 "$T/log")"; }
		diff "$T/plain" "$T/xvm" || fail "$scene prints other results preloaded"
		grep -q 'enters [1-9]' "$T/log" || fail "$scene never entered the ring"
		if grep -q 'broken [1-9]' "$T/log"; then fail "a peer's half was found broken"; fi
	done
done
