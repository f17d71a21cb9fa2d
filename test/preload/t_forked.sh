#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fork() in a handler that interrupts a call on a socket: parent and child both end the call.
# limit: 120
. "$(dirname "$0")/../lib/test.sh"
. "$(dirname "$0")/../lib/same.sh"

P=$B/test/preload/forked

for scene in asleep between; do
	prints_plain "$scene" "$P" "$scene"
	prints_same "$scene" "no spinning" XVM_SPIN_US=0 "$P" "$scene"
done
