# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Guests in groups of xvmd on the host: machines `one` and `two` and the host itself in group `near`,
# `three` in group `far`, each with an xvmd of its own. xvmd finds out the rest.
. "$(dirname "${BASH_SOURCE[0]}")/vm.sh"
. "$SRC/test/lib/flow.sh"

VECTORS=8
mode=both # for the functions of net.sh

# group_host: xvmd on the host, which serves both groups.
group_host()
{
	start_xvmd
	printf 'group %s socket %s size 64M peers 4 vectors %d\n' near "$T/near" $VECTORS far "$T/far" $VECTORS >"$T/xvmd.conf"
	kill -HUP "$XVMD"
	wait_for 10 test -S "$T/far" || fail "no groups: $(<"$T/xvmd.log")"
}

# group_start NAME GROUP [as vm_start]: a guest of that group, as `xvm vm-args` says.
group_start()
{
	local name=$1 group=$2 args
	shift 2
	args=$("$B/xvm" vm-args "$group") || fail "xvm vm-args $group"
	# The machine and its IOMMU are vm_start's business.
	mapfile -t args < <(grep -oE -- "-(chardev|device) [^ ]*(socket|ivshmem)[^ \\]*" <<<"$args" | tr ' ' '\n')
	vm_start "$name" "$@" "${args[@]}"
}

# group_up NAME...: their xvmds run, and the host's has welcomed them.
group_up()
{
	local name
	for name; do
		vm_run "$name" modprobe -a vfio-pci vfio_iommu_type1 2>/dev/null || true
		bg "xvmd-$name" plain "$name" "$B/xvmd" --foreground
		GUEST_XVMD[$name]=$PID
	done
	for name; do
		wait_for 40 _sees "$name" "$H4" || {
			cat "$T/xvmd-$name.log" "$T/xvmd.log"
			fail "$name does not know that the host is co-resident: $(resident "$name" "$H4")"
		}
	done
}
declare -A GUEST_XVMD=()

# resident NAME ADDR: what `xvm resident` says there.
resident()
{
	_xvm_of "$1" resident "$2" || true
}

_sees()
{
	_xvm_of "$1" resident "$2" >/dev/null
}

# knows NAME ADDR, knows_not NAME ADDR: within ten seconds.
knows()
{
	wait_for "${3:-10}" _sees "$1" "$2" || fail "$2 is not co-resident for $1: $(resident "$1" "$2")"
}

knows_not()
{
	wait_for "${3:-10}" eval "! _sees $1 $2" || fail "$2 is still co-resident for $1: $(resident "$1" "$2")"
}

# The host's xvmd is at $XVM_SOCKET, a guest's at the usual place.
_xvm_of()
{
	local where=$1
	shift
	if [[ $where = host ]]; then
		timeout 10 "$B/xvm" "$@"
	else
		timeout 20 "$VMCTL" "${VM_DIR[$where]}" "$B/xvm" "$@"
	fi
}

# addr_of NAME 4|6
addr_of()
{
	case $1$2 in
	host4) echo "$H4" ;;
	host6) echo "$H6" ;;
	*4) echo "${VM4[$1]}" ;;
	*6) echo "${VM6[$1]}" ;;
	esac
}

# on_path NAME ivshmem|tcp PORT: `xvm ss` there has a connection of that port, and says so of all.
on_path()
{
	_xvm_of "$1" ss --json | python3 -c '
import json, sys
data = json.load(sys.stdin)
rows = next(v for v in data.values() if isinstance(v, list)) if isinstance(data, dict) else data
want, port = sys.argv[1], ":" + sys.argv[2]
mine = [r for r in rows if r["local"].endswith(port) or r["remote"].endswith(port)]
used = [r for r in mine if r["tx_ring"] + r["rx_ring"] + r["tx_tcp"] + r["rx_tcp"] > 0]
ok = [r for r in used if (want == "ivshmem") == (r["path"] == "ring" and r["medium"] == "ivshmem")]
print(*mine[:3], sep="\n")
sys.exit(not used or len(ok) != len(used))
' "$2" "$3" || return
}

# expect_on NAME ivshmem|tcp PORT: soon.
expect_on()
{
	wait_for 30 on_path "$@" || fail "on $1: not on $2: $(on_path "$@"; _xvm_of "$1" ss) $(_xvm_of "$1" stats | head -30)"
}
