# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Kinds of addresses: IPv6, IPv4-mapped at either end, loopback, an own address, the host's; both ends
# in one process; one 4-tuple in two namespaces at a time.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

start_xvmd
port=7100
MODES=${MODES/client server/}
OPT=(--conns 2 --forever --rate 200M)

# pair NS-OF-SERVER LISTEN NS-OF-CLIENT ADDR
pair()
{
	local s c
	port=$((port + 1))
	step "server $1 $2, client $3 to $4"
	bg server "$SMODE" "$1" "$FLOW" serve "$2" $port "${OPT[@]}"
	s=$PID
	wait_port "$1" $port
	bg client "$CMODE" "$3" "$FLOW" connect "$4" $port "${OPT[@]}" --epoll
	c=$PID
	says client 'received .*at='
	expect_ring "$c" "$s"
	kill -TERM "$c"
	finished "$c"
	finished "$s"
	exact client server
}

for mode in $MODES; do
	set_mode "$mode"
	pair b "$B6" a "$B6"
	pair b :: a "$B4"
	pair b "$B4" a "::ffff:$B4"
	pair b :: a "::ffff:$B4"
	pair a 127.0.0.1 a 127.0.0.1
	pair a ::1 a ::1
	pair a :: a 127.0.0.9
	pair b 0.0.0.0 b "$B4"
	pair host 0.0.0.0 b "$H4"
	pair b "$B4" host "$B4"
	pair host :: a "$H6"

	for addr in 127.0.0.1 ::1 "$A4"; do
		port=$((port + 1))
		step "one process, $addr"
		bg self "$CMODE" a "$FLOW" self "$addr" $port "${OPT[@]}"
		s=$PID
		says self 'received .*at='
		expect_ring "$s"
		kill -TERM "$s"
		finished "$s"
		exact self
	done
	port=$((port + 1))
	step "one process, asyncio"
	bg echo "$CMODE" a python3 "$SRC/test/net/echo.py" self 127.0.0.1 $port 2
	s=$PID
	expect_ring "$s"
	finished "$s"

	step "the same addresses and ports in two namespaces"
	port=$((port + 1))
	pids=()
	for ns in a b; do
		bg server$ns "$SMODE" $ns "$FLOW" serve 127.0.0.1 $port "${OPT[@]}"
		pids+=("$PID")
		wait_port $ns $port
		bg client$ns "$CMODE" $ns "$FLOW" connect 127.0.0.1 $port "${OPT[@]}" --from 5000
		pids+=("$PID")
	done
	expect_ring "${pids[@]}"
	says clienta 'received .*at='
	says clientb 'received .*at='
	kill -TERM "${pids[1]}" "${pids[3]}"
	for p in "${pids[@]}"; do
		finished "$p"
	done
	exact clienta servera
	exact clientb serverb
done
