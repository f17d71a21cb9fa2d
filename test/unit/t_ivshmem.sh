# SPDX-License-Identifier: Apache-2.0
# The host's side of VMs without VMs: processes that have a tap as QEMU has, connect as QEMU does, and play the
# xvmd in the guest. Addresses are believed by what the kernel says of taps, bridge and neighbours.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "needs root, for namespaces"
[[ -c /dev/net/tun ]] || skip "there is no /dev/net/tun"
# A network of its own: whatever is made in it goes with it.
exec timeout 110 unshare --net python3 -B "$SRC/test/unit/ivshmem.py" "$B/xvmd" "$T"
