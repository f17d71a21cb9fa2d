#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Wrong pointers are EFAULT, and SIGSEGV and SIGBUS are the program's own, as on plain TCP.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"
. "$(dirname "$0")/../lib/same.sh"

P=$B/test/preload/same_fault

for scene in own flags old ends exec together; do
	prints_plain "$scene" "$P" "$scene"
	for after in 8 1; do
		prints_same "$scene" "offered after $after calls" XVM_OFFER_AFTER=$after "$P" "$scene"
	done
done
