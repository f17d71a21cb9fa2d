# SPDX-License-Identifier: Apache-2.0
# limit: 900
# The stress test, built with the thread sanitizer. Not the unit tests: Criterion itself crashes under it
# ("Could not initialize inheritable arena"), before it has run any.
. "$(dirname "$0")/../lib/sanitize.sh"

sanitize thread '^stress'
