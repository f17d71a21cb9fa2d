# SPDX-License-Identifier: Apache-2.0
# A connection that was offered to an xvmd that is gone is offered to the next one.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is no xvmd to kill on plain TCP"
start_xvmd
set_mode both

bg_server redis env XVM_OFFER_AFTER=60 redis-server --bind "$B4" --protected-mode no --save ''
s=$PID
wait_port b 6379
mkfifo "$T/in"
exec {in}<>"$T/in"
bg_client cli sh -c "exec env XVM_OFFER_AFTER=1 XVM_LOG=2 redis-cli -h $B4 <'$T/in'"
c=$PID

# pings N: so many requests, all answered.
sent=0
pings()
{
	local i
	for ((i = 0; i < $1; i++)); do
		echo PING >&"$in"
	done
	sent=$((sent + $1))
	wait_for 10 eval "[[ \$(grep -c PONG $T/cli.log) = $sent ]]" || fail "no answer: $(tail -n 3 "$T/cli.log")"
}

paths()
{
	_ss path "$1"
}

pings 5
paths "$c" | grep -x 'tcp offered' || fail "the client has not offered: $(paths "$c")"
step "xvmd is killed, and another one comes"
stop "$XVMD" KILL
start_xvmd
wait_for 20 eval "pings 20; paths $c | grep -q ^ring && paths $s | grep -q ^ring" || {
	show_ss
	fail "does not come to the ring"
}
grep -q 'lost xvmd' "$T/cli.log" || fail "the client does not say that it has lost xvmd"
echo QUIT >&"$in"
finished "$c"
stop "$s"
