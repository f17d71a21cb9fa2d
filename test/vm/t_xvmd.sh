# SPDX-License-Identifier: Apache-2.0
# limit: 400
# xvmd in guests, with real devices: one guest has an IOMMU, the other none. What they find, what they
# tell each other through the host's, a pair, and what becomes of it when a guest is killed.
. "$(dirname "$0")/vm.sh"
. "$SRC/test/lib/flow.sh"

SOCK=$T/xvmd.sock
# In guests the environment is their own.
PRE=(env "XVM_SOCKET=$SOCK" "LD_PRELOAD=$T/libxvm.so")

printf 'group g socket %s size 64M peers 3 vectors 8\nlog info\n' "$T/iv" >"$T/xvmd.conf"
bg xvmd plain host "$B/xvmd" --foreground --config "$T/xvmd.conf"
HOST=$PID
says xvmd 'group g'
iv=(-device "ivshmem-doorbell,vectors=8,chardev=iv" -chardev "socket,id=iv,path=$T/iv")
vm_start one --iommu --cpus 2 "${iv[@]}"
vm_start two --cpus 2 "${iv[@]}"
vm_ready one two
vm_run one sh -c 'modprobe vfio-pci && modprobe vfio_iommu_type1'

start()
{
	bg "xvmd-$1" plain "$1" "$B/xvmd" --foreground --socket "$SOCK"
	XVMD_OF[$1]=$PID
	says "xvmd-$1" 'we are VM'
}
declare -A XVMD_OF=()

ask()
{
	vm_run "$1" "$B/xvm" "${@:2}" --socket "$SOCK"
}

# resident GUEST ADDR STATUS: within a moment it is what it should be.
resident()
{
	wait_for 5 _resident "$@" || fail "$1: $2: $(ask "$1" resident "$2"), not $3"
}

_resident()
{
	local status=0
	ask "$1" resident "$2" >/dev/null || status=$?
	((status == $3))
}

step "the device"
start one
start two
! grep -q 'no interrupts' "$T/xvmd-one.log" || fail "$(<"$T/xvmd-one.log")"
grep -q 'no interrupts: there is no IOMMU' "$T/xvmd-two.log" || fail "$(<"$T/xvmd-two.log")"

step "who is where"
# A frame, so that the bridge knows where the MACs are.
vm_run one busybox ping -c 1 -W 20 "${VM4[two]}" >/dev/null || fail "no ping"
for guest in one two; do
	for addr in "${VM4[@]}" "${VM6[@]}" "$H4" "$H6"; do
		resident $guest "$addr" 0
	done
	resident $guest 10.77.0.99 1
done
vm_run two ip addr add 10.77.0.99/24 dev eth0
resident one 10.77.0.99 0
vm_run two ip addr del 10.77.0.99/24 dev eth0
resident one 10.77.0.99 1

step "what check says"
ask one check >"$T/check" || fail "$(<"$T/check")"
for line in 'ok    ivshmem' "ok    host's xvmd" 'ok    interrupts' 'ok    memory'; do
	grep -q "^$line" "$T/check" || fail "no '$line': $(<"$T/check")"
done
ask two check >"$T/check" || fail "$(<"$T/check")"
grep -q '^warn  interrupts' "$T/check" || fail "$(<"$T/check")"

paired()
{
	(($(ask "$1" stats | awk '$1 == "paired" { print $2 }') >= $2))
}

step "a stream from guest to guest"
bg server plain two "${PRE[@]}" "$FLOW" serve "${VM4[two]}" 7000 --send 10M
s=$PID
wait_port two 7000
bg client plain one "${PRE[@]}" "$FLOW" connect "${VM4[two]}" 7000 --send 10M
finished "$PID"
finished "$s"
exact client server
for guest in one two; do
	paired $guest 1 || fail "$guest: $(ask $guest stats)"
done

# signal GUEST SIGNAL: to xvmd there, and to no other process of that program.
signal()
{
	vm_run "$1" sh -c 'for p in /proc/[0-9]*; do
		[ "$(cat $p/comm 2>/dev/null)" = xvmd ] && kill -'"$2"' ${p#/proc/} && exit 0
	done
	exit 1' || fail "no xvmd in $1"
	wait "${XVMD_OF[$1]}" || true
	unset "BG[${XVMD_OF[$1]}]"
}

# goes_on WHEN: bytes in both directions of each stream, and round trips.
goes_on()
{
	local f i x
	for f in 0 1 2; do
		for i in 0 1; do
			x=$(so_far $f $i)
			wait_for 20 _moved $f $i $((x + 100000)) || fail "stream $f stands still in direction $i: $1"
		done
	done
}

so_far()
{
	vm_run one od -A n -t u8 -j $(($2 * 8)) -N 8 "/tmp/count-$1" | tr -d ' '
}

_moved()
{
	(($(so_far "$1" "$2") > $3))
}

on_ring()
{
	(($(ask "$1" ss | grep -c ' ring .*ivshmem') == $2))
}

step "streams, and programs that wake each other"
for guest in one two; do
	vm_put $guest "$SRC/test/vm/ping.py" /tmp/ping.py
done
run=()
for i in 0 1; do
	how=$([[ $i = 0 ]] || echo --epoll)
	# shellcheck disable=SC2086 # a word or none
	bg "server-$i" plain two "${PRE[@]}" "$FLOW" serve "${VM4[two]}" 710$i --forever --rate 2M $how
	run+=("$PID")
	wait_port two 710$i
	# shellcheck disable=SC2086
	bg "client-$i" plain one "${PRE[@]}" "$FLOW" connect "${VM4[two]}" 710$i --forever --rate 2M --count /tmp/count-$i $how
	run+=("$PID")
done
bg ping-server plain two "${PRE[@]}" python3 /tmp/ping.py serve "${VM4[two]}" 7102
run+=("$PID")
wait_port two 7102
bg ping plain one "${PRE[@]}" python3 /tmp/ping.py connect "${VM4[two]}" 7102 /tmp/count-2
run+=("$PID")
wait_for 30 on_ring one 3 || fail "$(ask one ss)"
goes_on "at first"

for sig in KILL TERM KILL; do
	for guest in one two; do
		step "xvmd of $guest is ended by SIG$sig and started again: they go on"
		signal $guest $sig
		goes_on "without xvmd in $guest, after SIG$sig"
		start $guest
		! grep -q 'begun anew' "$T/xvmd-$guest.log" || fail "$(<"$T/xvmd-$guest.log")"
		goes_on "with another xvmd in $guest, after SIG$sig"
		# They come back to it when they next sleep.
		wait_for 20 on_ring $guest 3 || fail "$guest: $(ask $guest ss)"
	done
	! grep -q 'no interrupts' "$T/xvmd-one.log" || fail "$(<"$T/xvmd-one.log")"
done

step "new ones are paired beside them"
bg server plain two "${PRE[@]}" "$FLOW" serve "${VM4[two]}" 7000 --send 6M --rate 2M
s=$PID
wait_port two 7000
bg client plain one "${PRE[@]}" "$FLOW" connect "${VM4[two]}" 7000 --send 6M --rate 2M
c=$PID
wait_for 20 on_ring one 4 || fail "$(ask one ss)"
finished "$c"
finished "$s"
exact client server
goes_on "beside another"

step "they end"
for i in 1 3 5; do
	kill -TERM "${run[i]}"
done
for p in "${run[@]}"; do
	finished "$p"
done
exact client-0 server-0
exact client-1 server-1
grep 'round trips' "$T/ping.log"

step "a guest is killed: who sleeps in a call on a connection to it is told at once"
cat >"$T/echo.py" <<'E'
import os, socket, sys, time
if sys.argv[1] == "serve":
    c = socket.create_server((sys.argv[2], 7001)).accept()[0]
    while data := c.recv(100):
        c.sendall(data)
else:
    c = socket.create_connection((sys.argv[2], 7001))
    for i in range(300):
        c.sendall(b"x")
        assert c.recv(1) == b"x"
    print("asleep", flush=True)
    try:
        print("received", c.recv(1), flush=True)
    except OSError as e:
        print(e.strerror, flush=True)
E
for guest in one two; do
	vm_put $guest "$T/echo.py" /tmp/echo.py
done
bg server plain two "${PRE[@]}" python3 /tmp/echo.py serve "${VM4[two]}"
wait_port two 7001
bg client plain one "${PRE[@]}" python3 /tmp/echo.py connect "${VM4[two]}"
c=$PID
says client asleep
paired one 1 || fail "$(ask one stats)"
vm_kill two
says client 'Connection reset by peer'
finished "$c"
resident one "$H4" 0
resident one "${VM4[one]}" 0
resident one 10.77.0.12 1

step "the host's xvmd is killed: check says so, and the guest's goes on"
stop "$HOST" KILL
! ask one check >"$T/check" || fail "$(<"$T/check")"
grep -q "^FAIL  host's xvmd *(does not answer" "$T/check" || fail "$(<"$T/check")"
resident one "$H4" 0
step "done"
