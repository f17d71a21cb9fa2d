# SPDX-License-Identifier: Apache-2.0
# limit: 900
# Unit and stress tests, built with the address and undefined behaviour sanitizers.
. "$(dirname "$0")/../lib/sanitize.sh"

sanitize address,undefined
