# SPDX-License-Identifier: Apache-2.0
# limit: 180
# haproxy between client and nginx, by TCP (with splice) and by HTTP, in a namespace of its own.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/web.sh"

C4=10.77.0.4
add_ns c "$C4" fd77::4
cat >"$T/haproxy.cfg" <<END
global
	maxconn 1000
	nbthread 2
defaults
	timeout connect 10s
	timeout client 30s
	timeout server 30s
	option splice-auto
	option redispatch
listen tcp
	mode tcp
	bind $C4:8001
	server n $B4:8080
listen http
	mode http
	bind $C4:8002
	server n $B4:8080
END

start_xvmd
web_files
web_conf "$B4"
for mode in $MODES; do
	set_mode "$mode"
	bg_server nginx nginx -c "$T/nginx.conf"
	s=$PID
	# One end only: haproxy is plain when nginx is not, and the other way round.
	hmode=$CMODE
	bg haproxy "$hmode" c haproxy -db -f "$T/haproxy.cfg"
	h=$PID
	wait_port b 8080
	wait_port c 8001
	wait_port c 8002
	for port in 8001 8002; do
		step "port $port"
		url=http://$C4:$port
		client curl -sS -o "$T/got" "$url/big"
		same "$T/www/big" "$T/got"
		bg_client curl curl -sS --limit-rate 50M -o "$T/got" "$url/big"
		c=$PID
		expect_ring "$c" "$h" "$s"
		[[ $mode = server ]] && expect_tcp "$s"
		finished "$c"
		same "$T/www/big" "$T/got"
		client curl -sS -T "$T/www/big" "$url/put/$mode$port" -o /dev/null -w '%{http_code}\n' | grep -x 201
		same "$T/www/big" "$T/www/put/$mode$port"
		rm -rf "$T/got.d"
		mkdir "$T/got.d"
		client curl -sS "$url/small/[0-99]" -o "$T/got.d/#1"
		diff -r "$T/www/small" "$T/got.d"
		bg_client wrk wrk -t 2 -c 50 -d 2 "$url/small/7"
		finished "$PID"
		web_wrk_ok
	done
	stop "$h"
	stop "$s"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.log" || fail "nginx's log"
done
