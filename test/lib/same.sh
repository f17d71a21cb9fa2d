# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# For tests that compare what a program of test/preload prints on plain TCP and preloaded, after
# . "$(dirname "$0")/../lib/test.sh".

# prints_plain WHAT PROGRAM...: its output is what a preloaded run has to print.
prints_plain()
{
	local what=$1
	shift
	step "$what, plain"
	timeout 60 "$@" >"$T/plain" 2>"$T/log" || fail "$what fails on plain TCP: $(tail -n 3 "$T/log")"
}

# prints_same WHAT HOW VAR=VALUE PROGRAM...: it prints the same, and the ring is used.
prints_same()
{
	local what=$1
	step "$what, preloaded, $2"
	timeout 60 env XVM_LOG=3 "$3" "$B/xvm" run --private -- "${@:4}" >"$T/xvm" 2>"$T/log" || {
		diff "$T/plain" "$T/xvm" || true
		fail "$what fails preloaded: $(tail -n 3 "$T/log")"
	}
	diff "$T/plain" "$T/xvm" || fail "$what prints other results preloaded"
	grep -q 'enters [1-9]' "$T/log" || fail "$what never entered the ring: $(grep -a '^xvm' "$T/log" | tail -n 40)"
	if grep -q 'broken [1-9]' "$T/log"; then fail "a peer's half was found broken"; fi
}
