# SPDX-License-Identifier: Apache-2.0
# limit: 300
# haproxy between client and nginx, by TCP (with splice) and by HTTP, in a namespace of its own; reloads
# under load, in which a new process is sent the old one's listeners.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"
. "$SRC/test/lib/web.sh"

C4=10.77.0.4
add_ns c "$C4" fd77::4
cat >"$T/haproxy.cfg" <<END
global
	maxconn 1000
	nbthread 2
	stats socket $T/haproxy.sock mode 600 level admin expose-fd listeners
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
		[[ $port != 8002 ]] || compat haproxy "$(haproxy -v | sed -n 's/^HAProxy version \([0-9.]*\).*/\1/p')" "$h"
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

# workers N: N workers have been made after the first, and the one before the last has closed its listeners.
workers()
{
	(($(grep -c 'Loading success' "$T/haproxy.log" || true) > $1)) && (($(grep -c 'Proxy http stopped' "$T/haproxy.log" || true) >= $1))
}

few_workers()
{
	(($(pgrep -c -P "$h") <= $1))
}

load_files
sed -i "s|root .*|root $T/www/load;|" "$T/nginx.conf"
for mode in $LOAD_MODES; do
	set_mode "$mode"
	step "reloads under load"
	load_before ${XVMD-}
	bg_server nginx nginx -c "$T/nginx.conf"
	s=$PID
	bg haproxy "$CMODE" c haproxy -W -db -f "$T/haproxy.cfg"
	h=$PID
	wait_port b 8080
	wait_port c 8001
	wait_port c 8002
	load_before "$h"
	load_http http "$C4" 8002 20 get "$T/www/load"
	c=$PID
	# The connections of the TCP kind are not closed by a reload: a worker stays for them until the client ends them.
	load_http tcp "$C4" 8001 5 get "$T/www/load" 200
	n=0
	while running "$LOAD" && running "$c"; do
		load_ring "$LOAD" "$c" "$(pgrep -n -P "$h")" "$s"
		n=$((n + 1))
		# One that meets it while it executes itself is lost.
		for _ in {1..10}; do
			kill -USR2 "$h"
			! wait_for 3 workers $n || break
		done
		workers $n || fail "no reload: $(tail "$T/haproxy.log")"
		wait_for 30 few_workers 4 || fail "old workers do not end: $(pgrep -a -P "$h")"
	done
	load_done
	LOAD=$c
	load_done $((n * 20))
	echo "$n reloads"
	wait_for 20 few_workers 1 || fail "old workers do not end: $(pgrep -a -P "$h")"
	load_after 16 "$h"
	stop "$h"
	stop "$s"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.log" || fail "nginx's log"
	# haproxy 2.6.12's old workers may crash in their last moments, plain as well.
	echo "$(grep -cE 'Former worker .*code (134|135|136|137|139)' "$T/haproxy.log" || true) old workers crashed"
	! grep -E 'Current worker .*code (134|135|136|137|139)' "$T/haproxy.log" || fail "haproxy's log"
	load_after 0 ${XVMD-}
	nothing_broken
done
