# SPDX-License-Identifier: Apache-2.0
# limit: 900
# Unit and stress tests, built with the thread sanitizer.
. "$(dirname "$0")/../lib/sanitize.sh"

sanitize thread
