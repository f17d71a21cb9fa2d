# SPDX-License-Identifier: Apache-2.0
# Halves in pieces of a region, as between virtual machines, without a machine: every client of
# regiond is one. With vectors and by pads; with pieces for one connection only.
# limit: 240
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
# maps_region PID: has it anything of the region mapped?
maps_region()
{
	grep -q memfd:region "/proc/$1/maps"
}

maps_not_both()
{
	! maps_region "$1" || ! maps_region "$2"
}

for how in "" novectors; do
	for by in "" --poll --epoll; do
		[[ $how$by != novectors?* ]] || continue
		# shellcheck disable=SC2086 # words
		regiond $how
		port=$((port + 1))
		step "${how:-vectors}, ${by:-blocking}: a device is unplugged, and its end is on TCP"
		rm -f "$T/count"
		# shellcheck disable=SC2086
		bg server xvm b env XVM_LOG=3 "$FLOW" serve "$B4" $port --conns 3 --forever $by
		s=$PID
		wait_port b $port
		# shellcheck disable=SC2086
		bg client xvm a env XVM_LOG=3 "$FLOW" connect "$B4" $port --conns 3 --forever --count "$T/count" $by
		c=$PID
		wait_for 30 moved "$T/count" 0 30000000 || fail "the stream stands still"
		maps_region "$c" && maps_region "$s" || fail "not in the region"
		kill -USR1 "$R"
		wait_for 20 eval '(($(grep -c unpaired "$T/regiond.log") == 3))' || fail "$(<"$T/regiond.log")"
		maps_not_both "$c" "$s" || fail "both map the region"
		n=$(count "$T/count" 0)
		wait_for 30 moved "$T/count" 0 $((n + 30000000)) || fail "the stream stands still on TCP"
		kill -TERM "$c"
		finished "$c"
		finished "$s"
		exact client server
		(($(counter broken) == 0)) || fail "a half was found broken"
	done
done

step "the other's machine dies while a thread sleeps in the kernel's recv()"
regiond dies
cat >"$T/dies.py" <<'P'
import os, socket, sys, time
if sys.argv[1] == "serve":
    c = socket.create_server(("10.77.0.2", 7190)).accept()[0]
    # The other end has offered, and is asleep in the kernel, before this one makes its first call.
    while not os.path.exists(sys.argv[2]):
        time.sleep(.02)
    for i in range(100):
        c.recv(1)
        time.sleep(.02)
    try:
        c.recv(1)
    except ConnectionResetError:
        pass
else:
    c = socket.create_connection(("10.77.0.2", 7190))
    for i in range(100):
        c.send(b"x")
        time.sleep(.02)  # xvmd has its say between two calls
    print("asleep", flush=True)
    try:
        print("received", c.recv(1))
    except OSError as e:
        print(e.strerror)
P
in_recv()
{
	# recv() is recvfrom() to the kernel: 45 on x86-64, 207 on arm64.
	grep -qE '^(45|207) ' "/proc/$1/syscall"
}
bg serve xvm b python3 "$T/dies.py" serve "$T/go"
s=$PID
wait_port b 7190
bg dies xvm a python3 "$T/dies.py" connect
c=$PID
says dies asleep
wait_for 10 in_recv "$c" || fail "not in recv(): $(<"/proc/$c/syscall")"
touch "$T/go"
finished "$c"
finished "$s"
grep -q 'Connection reset by peer' "$T/dies.log" || fail "$(<"$T/dies.log")"
