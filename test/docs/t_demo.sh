# SPDX-License-Identifier: Apache-2.0
# limit: 600
# The README's first command: prints both figures, their ratio and the path, and cleans up, also after ^C.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "tools/demo needs root"
cd "$SRC"
[[ -x tools/demo ]] || fail "there is no tools/demo"

. "$SRC/test/docs/traces.sh"
step "from end to end"
env "$MARK" tools/demo </dev/null >"$T/out" 2>&1 || {
	tail -n 60 "$T/out"
	fail "it failed"
}
cat "$T/out"
for word in iperf3 redis ring; do
	grep -qi "$word" "$T/out" || fail "it does not say $word"
done
grep -Eq '[0-9]\.?[0-9]* ?(x|×|times)' "$T/out" || fail "it shows no ratio"
left_nothing || fail "it leaves something behind"

step "^C"
# A shell that is not interactive starts its jobs with SIGINT ignored.
env --default-signal=INT "$MARK" setsid tools/demo </dev/null >"$T/out" 2>&1 &
p=$!
wait_for 120 eval "ip netns list | grep -q ." || fail "no namespaces within two minutes: $(tail "$T/out")"
kill -INT -- "-$p"
wait_for 30 eval "! kill -0 $p" || fail "it does not end on ^C"
wait "$p" && fail "^C ended it with success" || true
left_nothing || fail "it leaves something behind after ^C"
