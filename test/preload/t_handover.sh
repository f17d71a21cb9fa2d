#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A connection on the ring is handed to a program that is not preloaded: nothing is lost.
# limit: 300
. "$(dirname "$0")/../lib/test.sh"

P=$B/test/preload/handover

for writer in drained recv level edge send poll busy close exit _exit; do
	step "$writer"
	for how in exec0 exec fork vfork spawn spawn0 popen message file; do
		timeout 60 "$P" $how $writer || fail "$how, $writer fails on plain TCP"
		XVM_OFFER_AFTER=1 XVM_LOG=3 timeout 60 "$B/xvm" run --private -- "$P" $how $writer \
			2>"$T/log" || fail "$how, $writer: $(cat "$T/log")"
		grep -q 'enters [1-9]' "$T/log" || fail "$how, $writer: never entered the ring"
	done
done
