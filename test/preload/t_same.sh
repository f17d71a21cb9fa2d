#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A script of calls must print the same on plain TCP and preloaded, and the ring must be used.
# limit: 120
. "$(dirname "$0")/../lib/test.sh"
. "$(dirname "$0")/../lib/same.sh"

prints_plain same_data "$B/test/preload/same_data"
for after in 8 1 30; do
	prints_same same_data "offered after $after calls" XVM_OFFER_AFTER=$after "$B/test/preload/same_data"
done
