# SPDX-License-Identifier: Apache-2.0
# xvmd itself, with clients that are no programs: pairs within and between namespaces, clients killed at
# random, private daemons, systemd's protocols, reloads, users that may not see each other.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "needs root, for namespaces"
# A network of its own: whatever is made in it goes with it.
exec timeout 110 unshare --net python3 -B "$SRC/test/unit/xvmd.py" "$B/xvmd" "$T"
