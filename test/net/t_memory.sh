# SPDX-License-Identifier: Apache-2.0
# limit: 120
# A connection with little under way touches no more of its rings than the first window (rule G1).
. "$(dirname "$0")/../lib/net.sh"

conns=1000
ulimit -n 8192
start_xvmd
set_mode both
bg_server server python3 "$SRC/test/net/memory.py" serve "$B4" 7800
s=$PID
wait_port b 7800
bg_client client python3 "$SRC/test/net/memory.py" connect "$B4" 7800 $conns 2800000
c=$PID
wait_for 90 grep -q '^done' "$T/client.log" || fail "no end of it: $(cat "$T/client.log")"
expect_path "$c" "$s"
# Both halves, each with the page before the ring; and what a process has once.
for p in "$c" "$s"; do
	kb=$(awk '/^RssShmem/ { print $2 }' "/proc/$p/status")
	step "${BG[$p]}: $((kb / conns)) kB of shared memory for each connection"
	((kb <= conns * 2 * (4 + 64) + 8192)) || fail "$kb kB"
	((kb >= conns * 2 * 64)) || fail "$kb kB: were they on the ring?"
done
stop "$c"
stop "$s"
