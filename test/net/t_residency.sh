# SPDX-License-Identifier: Apache-2.0
# What xvmd knows of addresses, by events: they come, go, live twice; and what that does to connections.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is no xvmd on plain TCP"
start_xvmd
set_mode both
port=7900

# resident ADDR EXIT: within a few moments.
resident()
{
	wait_for 5 eval "timeout 5 $B/xvm resident $1 >$T/resident.log 2>&1; [[ \$? = $2 ]]" ||
		fail "xvm resident $1 does not end with $2, but says: $(cat "$T/resident.log")"
	cat "$T/resident.log"
}

# A preloaded program for as long as it is needed: xvmd looks at namespaces of its clients.
inhabit()
{
	port=$((port + 1))
	bg "inhabitant$1" xvm "$1" "$FLOW" serve 127.0.0.1 $port
	wait_port "$1" $port
	INHABITANT=$PID
}

# connection REASON [ADDR]: a -> b stays on TCP for that reason, or (none) is on the ring.
connection()
{
	local addr=${2:-$B4} s c
	port=$((port + 1))
	bg server xvm b "$FLOW" serve "$addr" $port --forever --epoll
	s=$PID
	wait_port b $port
	bg client xvm a "$FLOW" connect "$addr" $port --forever --rate 50M --poll
	c=$PID
	if [[ $1 = none ]]; then
		expect_ring "$c" "$s"
	else
		wait_for 10 on_tcp "$c" "$1" || {
			show_ss
			fail "the connection to $addr is not on TCP because of '$1'"
		}
	fi
	kill -TERM "$c"
	finished "$c"
	finished "$s"
	exact client server
}

on_tcp()
{
	_ss path "$1" | grep -qx "tcp $2"
}

step "addresses of namespaces with clients"
inhabit a
inhabit b
for addr in "$A4" "$A6" "$B4" "$B6" "$H4" "$H6" 127.0.0.1 ::1 "::ffff:$B4"; do
	resident "$addr" 0
done
for addr in 192.0.2.1 2001:db8::1 10.77.0.99; do
	resident "$addr" 1
done
"$B/xvm" resident --json "$A4" 192.0.2.1 >"$T/json" && fail "one of two is elsewhere" || [[ $? = 1 ]]
python3 -c 'import json, sys; assert len(json.load(open(sys.argv[1]))) == 2' "$T/json"

step "an address comes and goes"
ip -n b addr add 10.77.0.50/24 dev eth0
resident 10.77.0.50 0
connection none 10.77.0.50
ip -n b addr del 10.77.0.50/24 dev eth0
resident 10.77.0.50 1
ip -n b addr add fd77::50/64 dev eth0 nodad
resident fd77::50 0
connection none fd77::50

step "an address in two namespaces"
connection none
add_ns d 10.77.0.5 fd77::5

ip -n d addr add "$B4/32" dev lo
inhabit d
d=$INHABITANT
# It lives twice now: 1, as it cannot be said where.
resident "$B4" 1
connection ambiguous
resident "$B6" 0
connection none "$B6"
step "and in one again"
ip -n d addr del "$B4/32" dev lo
resident "$B4" 0
connection none

step "a namespace whose last client goes"
stop "$d" KILL
ip netns del d
resident 10.77.0.5 1
connection none

step "elsewhere"
add_ns e 10.77.0.6 fd77::6
bg server plain e "$FLOW" serve 10.77.0.6 7999 --forever
s=$PID
wait_port e 7999
bg client xvm a "$FLOW" connect 10.77.0.6 7999 --forever --rate 50M --poll
c=$PID
mode=client expect_tcp "$c"
kill -TERM "$c"
finished "$c"
finished "$s"
exact client server
