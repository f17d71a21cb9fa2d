# SPDX-License-Identifier: Apache-2.0
# xvmd.conf: rules by port, address, program and user; read again on SIGHUP; a wrong one is refused with file,
# line and reason, and the old one stays in force.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is no xvmd on plain TCP"
start_xvmd
set_mode both
port=8200

on_tcp()
{
	_ss path "$1" | grep -qx "tcp $2"
}

# connection REASON
connection()
{
	local s c addr=${2:-$B4}
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
			fail "the connection is not on TCP because of '$1'"
		}
	fi
	kill -TERM "$c"
	finished "$c"
	finished "$s"
	exact client server
}

# reload TEXT-IN-LOG: the configuration comes from stdin.
reload()
{
	cat >"$T/xvmd.conf"
	: >"$T/xvmd.log"
	kill -HUP "$XVMD"
	says xvmd "$1"
}

step "no rules"
connection none
for rule in "address $B4" "address 10.77.0.0/24" "port 8000-9000" "program flow" "user root"; do
	step "deny $rule"
	reload 'read again' <<<"pair deny $rule"
	connection rule
done
step "deny the other port, address, program, user"
reload 'read again' <<END
# what does not apply
pair deny port 22
pair deny address 192.0.2.0/24
pair deny program sshd
pair deny user 65534
END
connection none
step "the first one that applies decides"
reload 'read again' <<END
pair allow address fd77::/64
pair deny
END
connection rule
connection none "$B6"

for wrong in 'pair perhaps' 'pair deny port 99999' 'pair deny address 1.2.3' 'pair deny user nobody-such' \
	'nonsense' 'pair deny address 10.0.0.0/33'; do
	step "wrong: $wrong"
	reload "xvmd.conf:2: " <<<"# a comment"$'\n'"$wrong"
	running "$XVMD"
	cat "$T/xvmd.log"
done
step "half-written"
printf 'pair deny por' >"$T/xvmd.conf"
: >"$T/xvmd.log"
kill -HUP "$XVMD"
says xvmd "xvmd.conf:1: "
connection rule
connection none "$B6"
step "none again"
reload 'read again' </dev/null
connection none

step "wrong at the start"
echo 'pair deny port x' >"$T/wrong.conf"
status=0
timeout 5 "$B/xvmd" --foreground --config "$T/wrong.conf" --socket "$T/other.sock" 2>"$T/err" || status=$?
((status > 0 && status < 124)) || fail "xvmd started with a wrong configuration: $status"
grep -q 'wrong.conf:1: ' "$T/err" || fail "$(cat "$T/err")"
