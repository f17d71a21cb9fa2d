#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Wrong pointers are EFAULT, and SIGSEGV and SIGBUS are the program's own, as on plain TCP.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"

P=$B/test/preload/same_fault

for scene in own flags old ends exec together; do
	step "$scene, plain"
	timeout 60 "$P" $scene >"$T/plain" 2>"$T/log" || fail "$scene fails on plain TCP: $(tail -n 3 "$T/log")"
	for after in 8 1; do
		step "$scene, preloaded, offered after $after calls"
		timeout 60 env XVM_OFFER_AFTER=$after XVM_LOG=3 "$B/xvm" run --private -- "$P" $scene \
			>"$T/xvm" 2>"$T/log" || { diff "$T/plain" "$T/xvm" || true
				fail "$scene fails preloaded: $(tail -n 3 "$T/log")"; }
		diff "$T/plain" "$T/xvm" || fail "$scene prints other results preloaded"
		grep -q 'enters [1-9]' "$T/log" || fail "$scene never entered the ring"
		if grep -q 'broken [1-9]' "$T/log"; then fail "a peer's half was found broken"; fi
	done
done
