#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A script of calls must print the same on plain TCP and preloaded, and the ring must be used.
# limit: 120
. "$(dirname "$0")/../lib/test.sh"

P=$B/test/preload
for name in same_data; do
	step "$name, plain"
	timeout 30 "$P/$name" >"$T/plain" || fail "$name fails on plain TCP"
	for after in 8 1 30; do
		step "$name, preloaded, offered after $after calls"
		timeout 60 env XVM_OFFER_AFTER=$after XVM_LOG=3 "$B/xvm" run --private -- "$P/$name" \
			>"$T/xvm" 2>"$T/log" || { diff "$T/plain" "$T/xvm" || true
				fail "$name fails preloaded: $(tail -n 3 "$T/log")"; }
		diff "$T/plain" "$T/xvm" || fail "$name prints other results preloaded"
		grep -q 'enters [1-9]' "$T/log" || fail "$name never entered the ring"
		if grep -q 'broken [1-9]' "$T/log"; then fail "a peer's half was found broken"; fi
	done
done
