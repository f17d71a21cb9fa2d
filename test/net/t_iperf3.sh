# SPDX-License-Identifier: Apache-2.0
# limit: 180
# iperf3 in all directions. It does not check what it transfers, and its -F loses bytes itself
# (also plain): t_flow.sh compares.
. "$(dirname "$0")/../lib/net.sh"

# run OPTION...: for a second; longer where it was over before it could be seen.
run()
{
	local secs
	for secs in 1 4 16; do
		! once "$secs" "$@" || return 0
	done
	fail "iperf3 $* ended before it was seen"
}

# once SECONDS OPTION...
once()
{
	local secs=$1 s c
	shift
	port=$((port + 1))
	bg_server server iperf3 -s -1 -p $port
	s=$PID
	wait_port b $port
	bg_client client iperf3 -c "$B4" -p $port -J -t "$secs" "$@"
	c=$PID
	(expect_path "$c" "$s") >"$T/seen" || {
		running "$c" || ! grep -q 'ended before it was seen' "$T/seen" || {
			finished "$c"
			finished "$s"
			return 1
		}
		fail "$(cat "$T/seen")"
	}
	cat "$T/seen"
	finished "$c"
	finished "$s"
	python3 - "$T/client.log" "${*:-plain}" <<-'END'
	import json, sys
	r = json.load(open(sys.argv[1]))
	if "error" in r:
	    sys.exit(f"iperf3 says: {r['error']}")
	sums = [v for k, v in r["end"].items() if k.startswith("sum_") ]
	assert sums, r["end"].keys()
	for s in sums:
	    assert s["bytes"] > 1000000, s
	print(sys.argv[2], *(f"{s['bits_per_second'] / 1e9:.2f} Gbit/s" for s in sums))
	END
}

start_xvmd
port=5200
for mode in $MODES; do
	set_mode "$mode"
	case $mode in
	plain | both)
		run
		run -R
		run --bidir
		run -P 8
		run -P 4 -R -l 1000
		;;
	*)
		run
		run -R
		;;
	esac
done
