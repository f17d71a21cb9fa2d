# SPDX-License-Identifier: Apache-2.0
# limit: 400
# The demo of two virtual machines: says what it does while it does it, prints figures, their ratios and the
# path, and cleans up, also after ^C.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "tools/demo needs root"
[[ $(uname -m) = x86_64 ]] || skip "guests are x86-64"
. "$SRC/test/docs/traces.sh"
DEMO=("$SRC/tools/demo" --vm --no-install --build "$B")

step "from end to end"
env "$MARK" "${DEMO[@]}" </dev/null 2>&1 | while IFS= read -r line; do
	printf '%d %s\n' $SECONDS "$line"
done >"$T/out" || {
	tail -n 60 "$T/out"
	fail "it failed: $(grep -m 1 '^[0-9]* demo: ' "$T/out")"
}
cat "$T/out"
grep -Eq 'guests boot … [0-9]+ s +one: .* \| two: ' "$T/out" || fail "it does not say what the guests do"
awk '$1 - last > 15 { print "silent before: " $0; bad = 1 } { last = $1 } END { exit bad }' "$T/out" || fail "it is silent"
[[ $(grep -cE ' 10\.77\.0\.12:[0-9]+ +ring +ivshmem ' "$T/out") = 4 ]] || fail "xvm ss does not show the ring"
for row in 'round trips' 'stream' 'iperf3' 'redis GET'; do
	grep -Eq "  $row.* [0-9]+\.[0-9]+x .* on ring" "$T/out" || fail "no ratio: $row"
done
left_nothing || fail "it leaves something behind"

step "^C, several times"
# A shell that is not interactive starts its jobs with SIGINT ignored.
env --default-signal=INT "$MARK" setsid "${DEMO[@]}" </dev/null >"$T/out" 2>&1 &
p=$!
wait_for 120 grep -q 'guests boot …' "$T/out" || fail "no guests within two minutes: $(tail "$T/out")"
for n in 1 2 3; do
	kill -INT -- "-$p" 2>/dev/null || true
	pause 0.01
done
wait_for 30 eval "! kill -0 $p" || fail "it does not end on ^C"
status=0
wait "$p" || status=$?
[[ $status = 130 ]] || fail "^C ended it with $status: $(tail "$T/out")"
left_nothing || fail "it leaves something behind after ^C"
