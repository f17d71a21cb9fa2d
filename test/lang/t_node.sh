# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Node: net, http, worker threads, and clusters, whose primary passes connections on.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"
. "$SRC/test/lib/load.sh"

start_xvmd
v=$(node --version)
for how in net http workers cluster; do
	echoes "Node, $how" "${v#v}" ring node "$SRC/test/lang/echo.js" $how
done

retired()
{
	(($(grep -c 'worker ended' "$T/cluster.log" || true) >= $1))
}

for mode in $LOAD_MODES; do
	set_mode "$mode"
	step "a cluster whose workers are replaced under load"
	load_before ${XVMD-}
	bg_server cluster node "$SRC/test/lang/echo.js" httpcluster serve "$B4" 8700
	s=$PID
	wait_port b 8700
	load_before "$s"
	load_http load "$B4" 8700 20 post /
	expect_ring "$LOAD" "$s"
	compat "Node, http in a cluster" "${v#v}" "$s"
	n=0
	while running "$LOAD"; do
		kill -HUP "$s"
		n=$((n + 1))
		wait_for 30 retired $((2 * n)) || fail "the old workers do not end: $(cat "$T/cluster.log")"
		load_ring "$LOAD" "$s"
	done
	load_done $((n * 20))
	echo "replaced $n times"
	load_after 70 "$s"
	stop "$s"
	load_after 0 ${XVMD-}
	nothing_broken
done
