#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Results, errno, partial counts, timeouts, signals and cancellation are those of plain TCP.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"

P=$B/test/preload/same_calls

for scene in nothing lengths messages many flags timeouts before async signals options shutdown pipe reset linger \
	cancel closed means; do
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
