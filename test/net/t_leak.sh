# SPDX-License-Identifier: Apache-2.0
# limit: 240
# 20,000 connections opened and closed leave no descriptor, mapping or segment behind in client, server
# and xvmd; nor do those that a fork has inherited, and closed.
. "$(dirname "$0")/../lib/net.sh"

total=20000
start_xvmd
mode=both CMODE=xvm SMODE=xvm
[[ -z ${XVM_TEST_PLAIN-} ]] || mode=plain
for ns in a b; do
	plain $ns sh -c 'echo "1024 65535" >/proc/sys/net/ipv4/ip_local_port_range; echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse'
done

# things PID: how many descriptors and mappings; kB of shared memory.
things()
{
	echo "fds $(ls "/proc/$1/fd" | wc -l) maps $(wc -l <"/proc/$1/maps")" \
		"shmem $(awk '/^RssShmem/ { print $2 }' "/proc/$1/status")"
}

# All connections are known to be gone: nothing is under way between programs and xvmd.
quiet()
{
	[[ -n ${XVM_TEST_PLAIN-} ]] || [[ $("$B/xvm" ss --json | tr -d ' \n') = '[]' ]]
}

# settled PID FDS MAPS: not more than that.
settled()
{
	local now
	read -r _ f _ m _ _ < <(things "$1")
	((f <= $2 && m <= $3))
}

bg_server server "$CHURN" serve "$B4" 7800
s=$PID
wait_port b 7800
mkfifo "$T/go"
exec 7<>"$T/go"
"_wrap_$CMODE" a
"${W[@]}" "$CHURN" connect "$B4" 7800 $((total / 4)) 42 <"$T/go" >"$T/client.log" 2>&1 &
c=$!
BG[$c]=client
pids=("$c" "$s")
[[ -n ${XVM_TEST_PLAIN-} ]] || pids+=("$XVMD")

declare -A before
for round in 1 2 3 4 5; do
	echo go >&7
	wait_for 60 grep -q "round $round ok" "$T/client.log" || {
		_show_stuck "$c"
		_show_stuck "$s"
		fail "5,000 connections take more than a minute, or hang"
	}
	quiet || wait_for 20 quiet || {
		show_ss
		fail "connections that are closed are still known"
	}
	for p in "${pids[@]}"; do
		step "round $round, ${BG[$p]}: $(things "$p")"
		# The first round is for what is made once and kept.
		if ((round == 1)); then
			before[$p]=$(things "$p")
		else
			read -r _ f _ m _ _ <<<"${before[$p]}"
			wait_for 10 settled "$p" "$f" "$m" || {
				ls -l "/proc/$p/fd" | tail -n 20
				awk '{ print $6 }' "/proc/$p/maps" | sort | uniq -c | sort -n | tail -n 20
				fail "${BG[$p]} had ${before[$p]} and has $(things "$p")"
			}
		fi
	done
done
if [[ -z ${XVM_TEST_PLAIN-} ]]; then
	step "$(stat_of paired) endpoints were paired"
	(($(stat_of paired) >= total / 10)) || fail "too few were paired to show anything"
fi
step "shared memory has come back"
for p in "${pids[@]}"; do
	read -r _ _ _ _ _ m <<<"${before[$p]}"
	now=$(things "$p")
	((${now##* } <= m + 4096)) || fail "${BG[$p]} had ${before[$p]} and has $now"
done
exec 7>&-
step "forks"
bg_client forked python3 "$SRC/test/net/forked.py" "$B4" 7800 20
finished "$PID"
cat "$T/forked.log"
if [[ -z ${XVM_TEST_PLAIN-} ]]; then
	grep -q 'parent: .*, [1-9][0-9]* halves' "$T/forked.log" || fail "it had none on the ring"
fi
grep -qx 'child: 0 eventfds, 0 halves' "$T/forked.log" || fail "a fork keeps what it has closed"
stop "$c"
stop "$s"
