# SPDX-License-Identifier: Apache-2.0
# kill -9 of xvmd, or it is stopped: streams go on, new connections stay on TCP until a new xvmd is there, then they pair;
# the programs are the same ones throughout.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is no xvmd to kill on plain TCP"
start_xvmd
set_mode both

bg_server server python3 "$SRC/test/net/echo.py" serve "$B4" 7500
s=$PID
wait_port b 7500
bg_server fserver "$FLOW" serve "$B4" 7501 --forever --count "$T/scount"
fs=$PID
wait_port b 7501
bg_client fclient "$FLOW" connect "$B4" 7501 --forever --count "$T/ccount"
fc=$PID
bg_client long python3 "$SRC/test/net/echo.py" connect "$B4" 7500 15
c=$PID
expect_ring "$c" "$s" "$fc" "$fs"

goes_on()
{
	local x
	x=$(count "$T/scount" 1)
	wait_for 10 moved "$T/scount" 1 $((x + 50000000)) || fail "the stream stands still"
	x=$(count "$T/ccount" 1)
	wait_for 10 moved "$T/ccount" 1 $((x + 50000000)) || fail "the stream stands still"
}

for sig in KILL TERM KILL; do
	step "xvmd is gone by SIG$sig"
	stop "$XVMD" $sig
	goes_on
	bg_client short python3 "$SRC/test/net/echo.py" connect "$B4" 7500 1
	p=$PID
	finished "$p"
	cat "$T/short.log"
	step "a new xvmd"
	start_xvmd
	goes_on
	bg_client short python3 "$SRC/test/net/echo.py" connect "$B4" 7500 3
	p=$PID
	expect_ring "$p" "$s"
	finished "$p"
done
step "xvmd is stopped: who comes meanwhile is on TCP, and on the ring when it goes on"
kill -STOP "$XVMD"
bg_server server2 python3 "$SRC/test/net/echo.py" serve "$B4" 7502
s2=$PID
wait_port b 7502
bg_client late python3 "$SRC/test/net/echo.py" connect "$B4" 7502 600
p=$PID
bg_client short python3 "$SRC/test/net/echo.py" connect "$B4" 7502 1
finished "$PID"
goes_on
kill -CONT "$XVMD"
expect_ring "$p" "$s2"
stop "$p" KILL
stop "$s2"
finished "$c"
cat "$T/long.log"
kill -TERM "$fc"
finished "$fc"
finished "$fs"
exact fclient fserver
stop "$s"
