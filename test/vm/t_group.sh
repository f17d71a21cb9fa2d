# SPDX-License-Identifier: Apache-2.0
# limit: 600
# Programs in two machines and on their host, of one group, exchange their streams by ivshmem: both ways, IPv4
# and IPv6, with interrupts and without. Those of another group stay on TCP. Machines come, go and move.
. "$(dirname "$0")/group.sh"

port=8000

# flows FROM TO ivshmem|tcp: a byte-comparing transfer over both versions of IP.
flows()
{
	local v s c
	for v in 4 6; do
		port=$((port + 1))
		step "$1 to $2, IPv$v: $3"
		bg server xvm "$2" "$FLOW" serve "$(addr_of "$2" $v)" $port --forever --rate 20M
		s=$PID
		wait_port "$2" $port
		bg client xvm "$1" "$FLOW" connect "$(addr_of "$2" $v)" $port --forever --rate 20M
		c=$PID
		expect_on "$1" "$3" $port
		expect_on "$2" "$3" $port
		kill -TERM "$c"
		finished "$c"
		finished "$s"
		exact client server
	done
}

# tools FROM TO: iperf3 and redis-benchmark.
tools()
{
	local s to
	to=$(addr_of "$2" 4)
	step "$1 to $2: iperf3, redis-benchmark"
	port=$((port + 1))
	bg server xvm "$2" iperf3 -s -1 -p $port
	s=$PID
	wait_port "$2" $port
	bg client xvm "$1" iperf3 -c "$to" -p $port -t 6 -l 128K
	c=$PID
	expect_on "$1" ivshmem $port
	finished "$c"
	finished "$s"
	grep -E 'receiver' "$T/client.log"
	port=$((port + 1))
	bg server xvm "$2" redis-server --bind "$to" --port $port --protected-mode no --save ''
	s=$PID
	wait_port "$2" $port
	bg client xvm "$1" redis-benchmark -h "$to" -p $port -c 20 -n 20000 -t get,set -q
	c=$PID
	expect_on "$2" ivshmem $port
	finished "$c"
	! grep -iE 'error|abort' "$T/client.log" || fail "redis-benchmark"
	tr '\r' '\n' <"$T/client.log" | grep -E 'per second'
	stop "$s"
}

group_host
group_start one near --iommu
group_start two near --iommu
group_start three far
vm_ready one two three
group_up one two three

step "who is where"
for name in one two; do
	for v in 4 6; do
		# The host knows an address for sure when it has talked to it.
		busybox ping -c 1 -W 20 "$(addr_of $name $v)" >"$T/ping" || fail "no ping: $(<"$T/ping")"
		knows one "$(addr_of two $v)"
		knows two "$(addr_of one $v)"
		knows host "$(addr_of $name $v)"
		knows_not one "$(addr_of three $v)"
		knows_not three "$(addr_of $name $v)"
	done
done

flows one two ivshmem
flows two one ivshmem
flows one host ivshmem
flows host two ivshmem
flows one three tcp
flows three two tcp
tools one two
tools two host
tools host one

step "a machine joins, without interrupts"
group_start four near
vm_ready four
group_up four
knows one "${VM4[four]}"
flows four one ivshmem
flows host four ivshmem

step "a machine changes its address"
old=${VM4[four]}
VM4[four]=10.77.0.44
vm_run four ip addr del "$old/24" dev eth0
vm_run four ip addr add "${VM4[four]}/24" dev eth0
knows one "${VM4[four]}"
knows_not one "$old"
flows one four ivshmem

step "a machine is killed"
bg server xvm four "$FLOW" serve "${VM4[four]}" 8900 --forever --rate 20M
wait_port four 8900
bg client xvm one "$FLOW" connect "${VM4[four]}" 8900 --forever --rate 20M
c=$PID
expect_on one ivshmem 8900
t0=${EPOCHREALTIME/./}
vm_kill four
wait_for 5 _gone "$c" || fail "its peer goes on"
echo "its peer ended after $(((${EPOCHREALTIME/./} - t0) / 1000)) ms: $(grep ^done "$T/client.log")"
wait "$c" || true
unset "BG[$c]"
grep -q 'ECONNRESET\|reset' "$T/client.log" || fail "no ECONNRESET: $(<"$T/client.log")"
knows_not one "${VM4[four]}"

step "xvmd on the host ends, and starts again: what is paired goes on"
# In good order, as systemctl restart does, it has more chances to do harm than by SIGKILL.
run=()
for from in one host; do
	port=$((port + 1))
	bg "server-$from" xvm two "$FLOW" serve "${VM4[two]}" $port --forever --rate 20M
	run+=("$PID")
	wait_port two $port
	bg "client-$from" xvm $from "$FLOW" connect "${VM4[two]}" $port --forever --rate 20M --count "/tmp/xvm-count-$$"
	run+=("$PID")
	expect_on $from ivshmem $port
done
at_exit 'rm -f "/tmp/xvm-count-$$"'
stop "$XVMD"
start_xvmd
flows one two tcp
for i in 0 1; do
	x=$(count "/tmp/xvm-count-$$" $i)
	wait_for 20 moved "/tmp/xvm-count-$$" $i $((x + 5000000)) || fail "the host's stream stands still"
done
for i in 1 3; do
	kill -TERM "${run[i]}"
done
for p in "${run[@]}"; do
	finished "$p"
done
exact client-one server-one
exact client-host server-host
