#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Results, errno, partial counts, timeouts, signals and cancellation are those of plain TCP.
# limit: 240
. "$(dirname "$0")/../lib/test.sh"
. "$(dirname "$0")/../lib/same.sh"

P=$B/test/preload/same_calls

for scene in nothing lengths messages many flags timeouts before async signals options shutdown pipe reset linger \
	cancel closed means lowat; do
	prints_plain "$scene" "$P" "$scene"
	for spin in 50 0; do
		prints_same "$scene" "spinning $spin us" XVM_SPIN_US=$spin "$P" "$scene"
	done
done
