# SPDX-License-Identifier: Apache-2.0
# limit: 180
# What the tests with guests stand on: commands in guests, files to and from them, the network between
# guests, host and namespaces, migration, the end of a guest.
. "$(dirname "$0")/vm.sh"
. "$SRC/test/lib/flow.sh"

vm_start one
vm_start two
vm_ready one two

step "commands: output, status, arguments"
[[ $(vm_run one hostname) = one && $(vm_run two hostname) = two ]] || fail "not the guests' names"
vm_run one sh -c 'echo out; echo err >&2; exit 7' >"$T/out" 2>"$T/err" && fail "exit 7 was lost" || status=$?
[[ $status = 7 && $(<"$T/out") = out && $(<"$T/err") = err ]] || fail "$status $(cat "$T/out" "$T/err")"
vm_run one sh -c 'kill -SEGV $$' && fail "a signal was lost" || status=$?
[[ $status = 139 ]] || fail "SIGSEGV became $status"
vm_run one no-such-program 2>/dev/null && fail "it exists" || status=$?
[[ $status = 127 ]] || fail "a missing program became $status"
[[ $(vm_run one printf '<%s>' 'a  b' '' $'c\nd' 'e"f') = $'<a  b><><c\nd><e"f>' ]] || fail "arguments"
[[ $(seq 3 | while read -r n; do vm_run one echo "$n"; done) = $'1\n2\n3' ]] || fail "vm_run takes its caller's stdin"

step "files, binary, both ways"
random_file "$T/file" 8000000
vm_put two "$T/file" /tmp/file
vm_get two /tmp/file "$T/back"
same "$T/file" "$T/back"
[[ $(vm_run two sha256sum /tmp/file) = "$(sha256sum <"$T/file" | cut -d ' ' -f 1)  /tmp/file" ]] || fail "sha256 differs"

step "ten commands at once"
mkfifo "$T/gate"
exec {GATE}<>"$T/gate"
pids=()
for n in {1..10}; do
	: >"$T/many$n.log"
	vm_in one sh -c "echo there; cat; exit $n" <"$T/gate" >"$T/many$n.log" {GATE}>&- &
	pids+=($!)
done
for n in {1..10}; do
	says "many$n" there
done
# They are all there. Now their stdin ends.
exec {GATE}>&-
for n in {1..10}; do
	status=0
	wait "${pids[n - 1]}" || status=$?
	[[ $status = "$n" ]] || fail "command $n ended with $status"
done

step "signals reach the command; a killed vmctl takes it along"
bg waits plain one sh -c 'trap "echo told; exit 0" USR1; echo there; while :; do read -r -t 1 x <>/tmp/none; done'
says waits there
kill -USR1 "$PID"
finished "$PID"
says waits told
bg waits plain one sh -c 'echo $$; read -r x <>/dev/ptmx'
says waits '[0-9]'
pid=$(<"$T/waits.log")
vm_run one test -d "/proc/$pid" || fail "process $pid is not there"
stop "$PID" KILL
wait_for 10 eval "! vm_run one test -d /proc/$pid" || fail "process $pid is still there"

step "ping and TCP between each two of guests, host and namespace"
addr()
{
	case $1$2 in
	a4) echo "$A4" ;;
	a6) echo "$A6" ;;
	host4) echo "$H4" ;;
	host6) echo "$H6" ;;
	*4) echo "${VM4[$1]}" ;;
	*6) echo "${VM6[$1]}" ;;
	esac
}
port=7000
for pair in 'one two' 'two one' 'one host' 'host two' 'a one' 'two a'; do
	for v in 4 6; do
		read -r from to <<<"$pair"
		to_addr=$(addr "$to" $v)
		plain "$from" busybox ping -c 1 -W 20 "$to_addr" >"$T/ping" || fail "$from cannot ping $to: $(cat "$T/ping")"
		port=$((port + 1))
		bg server plain "$to" "$FLOW" serve "$to_addr" $port --send 3M
		s=$PID
		wait_port "$to" $port
		bg client plain "$from" "$FLOW" connect "$to_addr" $port --send 3M
		finished "$PID"
		finished "$s"
		exact client server
		step "$from to $to, IPv$v"
	done
done

step "a file over TCP, from guest to guest"
bg receiver plain one python3 "$SRC/test/net/file.py" "${VM4[one]}" 7100 /tmp/received
s=$PID
wait_port one 7100
vm_run two python3 "$SRC/test/net/file.py" /tmp/file "${VM4[one]}" 7100
finished "$s"
[[ $(<"$T/receiver.log") = "$(sha256sum <"$T/file" | cut -d ' ' -f 1)" ]] || fail "sha256 differs"

step "xvm in a guest: two of its processes share a ring"
bg xvmd plain one "$B/xvmd" --foreground
x=$PID
wait_for 20 plain one "$B/xvm" ss || fail "xvmd does not answer: $(<"$T/xvmd.log")"
bg server xvm one "$FLOW" serve 127.0.0.1 7200 --forever --rate 5M
s=$PID
wait_port one 7200
bg client xvm one "$FLOW" connect 127.0.0.1 7200 --forever --rate 5M
on_ring()
{
	[[ $(plain one "$B/xvm" ss | grep -c ' ring ') = 2 ]]
}
wait_for 30 on_ring || fail "not on the ring: $(plain one "$B/xvm" ss)"
kill -TERM "$PID"
finished "$PID"
finished "$s"
exact client server
stop "$x"

step "QMP"
[[ $(vm_qmp two query-status) = *'"running"'* ]] || fail "two does not run"

boot_id=$(vm_run two cat /proc/sys/kernel/random/boot_id)
for back in '' ' back'; do
	port=$((port + 1))
	vm_run two sh -c "setsid $FLOW serve ${VM4[two]} $port --forever --rate 1M </dev/null >/tmp/flow.log 2>&1 &"
	wait_port two $port
	bg client plain one "$FLOW" connect "${VM4[two]}" $port --forever --rate 1M
	c=$PID
	vm_migrate two
	[[ $(vm_run two cat /proc/sys/kernel/random/boot_id) = "$boot_id" ]] || fail "it has booted"
	kill -TERM "$c"
	finished "$c"
	wait_for 20 vm_run two grep -q '^done' /tmp/flow.log || fail "flow does not end"
	vm_get two /tmp/flow.log "$T/server.log"
	exact client server
	step "it is there$back, its TCP connection went along"
done

step "a guest is killed"
bg waits plain two sh -c 'echo there; read -r x <>/dev/ptmx'
says waits there
w=$PID
qemu=${VM_PID[two]}
vm_kill two
_gone "$qemu" || fail "QEMU is still there"
wait_for 5 eval '! ip link show vttwo' || fail "its tap is still there"
wait_for 10 _gone "$w" || fail "its command does not end"
status=0
wait "$w" || status=$?
grep -q 'the guest is gone' "$T/waits.log" && [[ $status = 255 ]] || fail "$status $(<"$T/waits.log")"
[[ $(vm_run one hostname) = one ]] || fail "the other one suffers"

step "a guest switches itself off"
qemu=${VM_PID[one]}
vm_halt one
_gone "$qemu" || fail "QEMU is still there"
wait_for 5 eval '! ip link show vtone' || fail "its tap is still there"
compgen -G "$T/vm-*" && fail "something is left of the guests"
step "done"
