# SPDX-License-Identifier: Apache-2.0
# python3: http.server, and asyncio streams that echo random chunks.
. "$(dirname "$0")/../lib/net.sh"

mkdir "$T/www"
random_file "$T/www/big" 100000000
random_file "$T/www/small" 1000
start_xvmd
port=8100
for mode in $MODES; do
	set_mode "$mode"
	port=$((port + 2))
	bg_server http python3 -u -m http.server --bind "$B4" --directory "$T/www" $port
	s=$PID
	wait_port b $port
	step "http.server"
	for f in big small; do
		client python3 -c 'import sys, urllib.request, shutil
shutil.copyfileobj(urllib.request.urlopen(sys.argv[1]), open(sys.argv[2], "wb"))' \
			"http://$B4:$port/$f" "$T/got"
		same "$T/www/$f" "$T/got"
	done
	bg_client curl curl -sS --limit-rate 50M -o "$T/got" "http://$B4:$port/big"
	c=$PID
	expect_path "$c" "$s"
	finished "$c"
	same "$T/www/big" "$T/got"
	stop "$s"

	step "asyncio"
	port=$((port + 1))
	bg_server echo python3 "$SRC/test/net/echo.py" serve "$B4" $port
	s=$PID
	wait_port b $port
	bg_client client python3 "$SRC/test/net/echo.py" connect "$B4" $port 2
	c=$PID
	expect_path "$c" "$s"
	finished "$c"
	cat "$T/client.log"
	stop "$s"
done
