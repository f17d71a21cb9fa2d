# SPDX-License-Identifier: Apache-2.0
# limit: 60
# xvm vm-args: what it prints is what QEMU takes, and well-formed XML.
. "$(dirname "$0")/../lib/test.sh"

xvm=$B/xvm
unset XVM_SOCKET
cat >"$T/conf" <<END
group db socket $T/db.ivshmem size 4M peers 2 vectors 3
group web.2 socket $T/web
group odd socket $T/it's,<odd>&
END
sock=$T/xvmd.sock
"$B/xvmd" --foreground --socket "$sock" --config "$T/conf" 2>"$T/log" &
daemon=$! qemu=
at_exit 'kill $daemon $qemu 2>/dev/null'
wait_for 10 "$xvm" vm-args --socket "$sock" || fail "$(cat "$T/log")"

step "the groups"
[[ $("$xvm" vm-args --socket "$sock") = $'db\nweb.2\nodd' ]] || fail "the list of groups"
rc=0
"$xvm" vm-args --socket "$sock" dbb >"$T/out" 2>"$T/err" || rc=$?
[[ $rc = 1 && ! -s $T/out ]] || fail "no such group: $rc"
grep -q 'web\.2' "$T/err" || fail "it does not say which there are"
rc=0
"$xvm" vm-args --socket "$sock" db web.2 >/dev/null 2>&1 || rc=$?
[[ $rc = 2 ]] || fail "two groups: $rc"
rc=0
"$xvm" vm-args --socket "$T/none" db >/dev/null 2>"$T/err" || rc=$?
[[ $rc = 2 ]] || fail "no daemon: $rc"

step "QEMU's command line"
"$xvm" vm-args --socket "$sock" db >"$T/args"
grep -q 'intel-iommu,intremap=on' "$T/args" || fail "no IOMMU"
grep -q "ivshmem-doorbell,.*chardev=xvm-db,vectors=3" "$T/args" || fail "$(cat "$T/args")"
grep -q "path=$T/db.ivshmem" "$T/args" || fail "$(cat "$T/args")"
"$xvm" vm-args --no-iommu --socket "$sock" db >"$T/args"
! grep -q iommu "$T/args" || fail "an IOMMU"

eval "set -- $("$xvm" vm-args --no-iommu --socket "$sock" odd)"
[[ $2 = "socket,id=xvm-odd,path=$T/it's,,<odd>&" ]] || fail "a word for the shell: $2"

vms()
{
	local n
	n=$(grep -c "group db: VM .* has come" "$T/log") || true
	[[ $n = "$1" ]]
}
if command -v qemu-system-x86_64 >/dev/null; then
	n=0
	for o in "" --no-iommu; do
		# shellcheck disable=SC2086
		eval "exec qemu-system-x86_64 $("$xvm" vm-args $o --socket "$sock" db) -accel tcg -m 32 -S -nodefaults" \
			"-display none" >"$T/qemu" 2>&1 &
		qemu=$!
		n=$((n + 1))
		wait_for 20 vms $n || fail "QEMU: $(cat "$T/qemu" "$T/log")"
		kill $qemu
		wait $qemu || true
		! grep -v 'terminating on signal' "$T/qemu" || fail "QEMU: $(cat "$T/qemu")"
	done
	wait_for 10 eval "[[ \$(grep -c 'has gone' '$T/log') = 2 ]]" || fail "$(cat "$T/log")"
	if [[ $(id -u) = 0 ]]; then
		step "a QEMU of a user that the group does not name ends, and says so"
		# shellcheck disable=SC2046
		! timeout 20 setpriv --reuid 65534 --clear-groups qemu-system-x86_64 -accel tcg -m 32 -S -nodefaults \
			-display none $("$xvm" vm-args --no-iommu --socket "$sock" db | tr -d '\\') >"$T/qemu" 2>&1 ||
			fail "it runs"
		grep -q version "$T/qemu" || fail "QEMU: $(cat "$T/qemu" "$T/log")"
		grep -q 'turned away: its user' "$T/log" || fail "$(cat "$T/log")"
	fi
fi

step "libvirt's XML"
for o in "" --no-iommu; do
	# shellcheck disable=SC2086
	"$xvm" vm-args --libvirt $o --socket "$sock" odd >"$T/xml"
	python3 - "$T/xml" "$T/it's,<odd>&" "$o" <<'END'
import sys, xml.etree.ElementTree as e
root = e.fromstring("<domain>" + open(sys.argv[1]).read() + "</domain>")
assert root.find("shmem/server").get("path") == sys.argv[2]
assert root.find("shmem/model").get("type") == "ivshmem-doorbell"
assert root.find("shmem/msi").get("vectors") == "16"
assert (root.find("iommu") is None) == (sys.argv[3] == "--no-iommu")
END
done

kill "$daemon"
wait "$daemon" || fail "xvmd ended with $?"
[[ ! -e $T/db.ivshmem && ! -e $T/db.ivshmem.lock ]] || fail "sockets are left"
