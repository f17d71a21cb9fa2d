# SPDX-License-Identifier: Apache-2.0
# limit: 180
# iperf3 in all directions. It does not check what it transfers, and its -F loses bytes itself
# (also plain): t_flow.sh compares.
. "$(dirname "$0")/../lib/net.sh"

# run SECONDS OPTION...
run()
{
	local secs=$1 s c
	shift
	port=$((port + 1))
	bg_server server iperf3 -s -1 -p $port
	s=$PID
	wait_port b $port
	bg_client client iperf3 -c "$B4" -p $port -J -t "$secs" "$@"
	c=$PID
	expect_path "$c" "$s"
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
		run 1
		run 1 -R
		run 1 --bidir
		run 1 -P 8
		run 1 -P 4 -R -l 1000
		;;
	*)
		run 1
		run 1 -R
		;;
	esac
done
