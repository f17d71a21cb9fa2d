# SPDX-License-Identifier: Apache-2.0
# Halves in pieces of a region, as between virtual machines, without a machine: every client of
# regiond is one. With vectors and by pads; with pieces for one connection only.
# limit: 180
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

install -m 755 "$B/libxvm.so" "$T/libxvm.so"
port=7100

# regiond OPTION...
regiond()
{
	[[ -z ${R-} ]] || stop "$R"
	bg regiond plain host "$B/test/net/regiond" "$XVM_SOCKET" "$A4" "$B4" "$A6" "$B6" "$@"
	R=$PID
	wait_for 10 grep -q ready "$T/regiond.log" || fail "regiond does not come up"
}

# flows ADDR CONNS OPTION...: both ends preloaded, bytes compared; counters in client.log.
flows()
{
	local addr=$1 conns=$2 s c
	shift 2
	port=$((port + 1))
	rm -f "$T/count"
	bg server xvm b env XVM_LOG=3 "$FLOW" serve "$addr" $port --conns "$conns" --forever "$@"
	s=$PID
	wait_port b $port
	bg client xvm a env XVM_LOG=3 "$FLOW" connect "$addr" $port --conns "$conns" --forever --rate 60M --count "$T/count" "$@"
	c=$PID
	wait_for 30 moved "$T/count" 0 60000000 || fail "the stream stands still"
	kill -TERM "$c"
	finished "$c"
	finished "$s"
	exact client server
}

# counter NAME: of the client, when it has ended.
counter()
{
	sed -n "s/.*xvm\[.*\]: $1 \([0-9]*\)$/\1/p" "$T/client.log" | tail -n 1
}

for how in "" novectors; do
	# shellcheck disable=SC2086 # words
	regiond $how
	for by in "" --poll --epoll; do
		for addr in "$B4" "$B6"; do
			step "${how:-vectors}, ${by:-blocking}, $addr"
			# shellcheck disable=SC2086
			flows "$addr" 3 $by
			(($(counter enters) >= 3)) || fail "$(counter enters) of 3 connections entered: $(tail -n 20 "$T/client.log" "$T/regiond.log")"
			(($(counter broken) == 0)) || fail "a half was found broken"
			if [[ -z $how ]]; then
				(($(counter rings) > 0)) || fail "no vector was rung: $(tail -n 20 "$T/client.log")"
			else
				(($(counter rings) == 0)) || fail "rings without vectors"
				(($(counter pads_sent) > 0)) || fail "no pad was sent"
			fi
		done
	done
done

step "no more pieces"
regiond dry
flows "$B4" 3
(($(counter paired) <= 1)) || fail "with a piece for one: $(counter paired) paired"
regiond dry
flows "$B4" 1
(($(counter enters) >= 1)) || fail "with a piece for one, that one did not enter"

step "a vector goes from one process to the next"
regiond machines
bg client xvm a env XVM_LOG=3 XVM_SPIN_US=0 python3 "$SRC/test/net/hands.py" connect "$B4" 7200 6 300
c=$PID
for i in 1 2 3 4 5 6; do
	bg "server-$i" xvm b env XVM_LOG=3 XVM_SPIN_US=0 python3 "$SRC/test/net/hands.py" serve "$B4" 7200 300
	s=$PID
	wait_for 60 grep -q "round $i" "$T/client.log" || fail "round $i: $(tail -n 40 "$T/client.log" "$T/server-$i.log" "$T/regiond.log")"
	wait "$s" || true
	unset "BG[$s]"
done
finished "$c"
(($(counter enters) >= 6)) || fail "$(counter enters) of 6 connections entered"
(($(counter rings) > 1000)) || fail "no vectors were rung: $(tail -n 20 "$T/client.log")"
