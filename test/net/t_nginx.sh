# SPDX-License-Identifier: Apache-2.0
# limit: 180
# nginx with curl and wrk: sendfile both ways, keep-alive, a reload under load.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/web.sh"

load()
{
	bg_client wrk wrk -t 2 -c 50 -d "$1" "http://$B4:8080/small/7"
	c=$PID
}

start_xvmd
web_files
web_conf "$B4"
for mode in $MODES; do
	set_mode "$mode"
	bg_server nginx nginx -c "$T/nginx.conf"
	s=$PID
	wait_port b 8080
	url=http://$B4:8080

	step "a large file"
	client curl -sS -o "$T/got" "$url/big"
	same "$T/www/big" "$T/got"
	if [[ $mode != plain ]]; then
		step "the same, slowly, to see its path"
		bg_client curl curl -sS --limit-rate 50M -o "$T/got" "$url/big"
		c=$PID
		expect_path "$c" "$s"
		finished "$c"
		same "$T/www/big" "$T/got"
	fi

	step "up"
	client curl -sS -T "$T/www/big" "$url/put/$mode" -o /dev/null -w '%{http_code}\n' | grep -x 201
	same "$T/www/big" "$T/www/put/$mode"

	step "small files on one connection"
	rm -rf "$T/got.d"
	mkdir "$T/got.d"
	client curl -sS "$url/small/[0-99]" -o "$T/got.d/#1"
	diff -r "$T/www/small" "$T/got.d"
	step "small files on a connection each"
	rm -rf "$T/got.d"
	mkdir "$T/got.d"
	client curl -sS -H 'Connection: close' "$url/small/[0-99]" -o "$T/got.d/#1"
	diff -r "$T/www/small" "$T/got.d"

	step "wrk"
	load 2
	expect_path "$c" "$s"
	finished "$c"
	web_wrk_ok

	step "wrk with reloads"
	load 3
	for k in 1 2 3; do
		kill -HUP "$s"
		says nginx "start worker processes" 10
		wait_for 10 eval "[[ \$(grep -c 'start worker process ' $T/nginx.log) -ge $((2 * k)) ]]" || true
	done
	finished "$c" 30
	# A worker that goes closes its idle connections: wrk counts what it had in flight as read errors.
	grep -q 'Non-2xx' "$T/wrk.log" && fail "$(cat "$T/wrk.log")"
	grep -E 'Requests/sec' "$T/wrk.log"
	stop "$s"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.log" || fail "nginx's log"
done
