# SPDX-License-Identifier: Apache-2.0
# limit: 600
# The README's first command: prints both figures, their ratio and the path, and cleans up, also after ^C.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "tools/demo needs root"
cd "$SRC"
left_nothing()
{
	! diff "$T/before" "$T/after" | grep '^>'
}

[[ -x tools/demo ]] || fail "there is no tools/demo"

# What it could leave behind.
traces()
{
	ip netns list 2>/dev/null | sort
	ip -br link | awk '{ print $1 }' | sort
	{ pgrep -l -x 'xvmd|iperf3|redis-server' || true; } | awk '{ print $2 }' | sort
	{ ls -d /tmp/*xvm* /run/xvm 2>/dev/null || true; } | { grep -v '/tmp/xvm-test\|/tmp/xvm-run' || true; } | sort
}

traces >"$T/before"
step "from end to end"
tools/demo </dev/null >"$T/out" 2>&1 || {
	tail -n 60 "$T/out"
	fail "it failed"
}
cat "$T/out"
for word in iperf3 redis ring; do
	grep -qi "$word" "$T/out" || fail "it does not say $word"
done
grep -Eq '[0-9]\.?[0-9]* ?(x|×|times)' "$T/out" || fail "it shows no ratio"
traces >"$T/after"
left_nothing || fail "it leaves something behind"

step "^C"
# A shell that is not interactive starts its jobs with SIGINT ignored.
env --default-signal=INT setsid tools/demo </dev/null >"$T/out" 2>&1 &
p=$!
wait_for 120 eval "ip netns list | grep -q ." || fail "no namespaces within two minutes: $(tail "$T/out")"
kill -INT -- "-$p"
wait_for 30 eval "! kill -0 $p" || fail "it does not end on ^C"
wait "$p" && fail "^C ended it with success" || true
traces >"$T/after"
left_nothing || fail "it leaves something behind after ^C"
