# SPDX-License-Identifier: Apache-2.0
# limit: 300
# nginx with curl and wrk: sendfile both ways, keep-alive, reloads and binary upgrades under load.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"
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
	finished "$c"
	web_wrk_ok
	if [[ $mode != plain ]]; then
		step "wrk, until it is seen"
		load 60
		expect_path "$c" "$s"
		compat nginx "$(nginx -v 2>&1 | sed 's/.*nginx.//')" "$s"
		compat wrk "$(dpkg-query -W -f '${Version}' wrk)" "$c"
		kill -INT "$c"
		finished "$c"
	fi
	web_wrk_ok

	stop "$s"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.log" || fail "nginx's log"
done

workers_of()
{
	[[ $(pgrep -c -P "$1") -ge 2 ]]
}

no_workers_of()
{
	! pgrep -P "$1" -f 'nginx: worker'
}

reload()
{
	local before
	before=$(grep -c 'gracefully shutting down' "$T/nginx.err" || true)
	kill -HUP "$m"
	wait_for 10 eval "(( \$(grep -c 'gracefully shutting down' $T/nginx.err) > $before ))" || fail "no reload"
}

# Another binary inherits the listeners; the old one goes when its connections have.
upgrade()
{
	local old=$m
	kill -USR2 "$old"
	wait_for 10 test -s "$T/nginx.pid.oldbin" -a -s "$T/nginx.pid" || fail "no new binary: $(tail "$T/nginx.err")"
	m=$(cat "$T/nginx.pid")
	wait_for 10 workers_of "$m" || fail "the new binary has no workers"
	kill -WINCH "$old"
	wait_for 20 no_workers_of "$old" || fail "the old binary's workers do not end"
	kill -QUIT "$old"
	wait_for 10 _gone "$old" || fail "the old binary does not end"
}

# A daemon, as it upgrades itself only then. It gives a new binary no variable that is not named.
load_files
sed -i -e "s|^daemon off|env LD_PRELOAD; env XVM_SOCKET|; s|root .*|root $T/www/load;|" \
	-e "s|error_log .*|error_log $T/nginx.err notice;|" "$T/nginx.conf"
for mode in $MODES; do
	set_mode "$mode"
	step "reloads and upgrades under load"
	load_before ${XVMD-}
	: >"$T/nginx.err"
	server "$(command -v nginx)" -c "$T/nginx.conf"
	wait_for 10 test -s "$T/nginx.pid" || fail "nginx does not start"
	m=$(cat "$T/nginx.pid")
	wait_port b 8080
	load_http load "$B4" 8080 30 get "$T/www/load"
	n=0
	while running "$LOAD"; do
		reload
		upgrade
		# The workers of the new binary: those of the old one are gone.
		load_ring "$LOAD" "$m"
		n=$((n + 1))
	done
	# By a reload and by an upgrade each, or twice, where the next worker has yet to hear of it.
	load_done $((n * 4 * 30))
	echo "$n reloads, $n upgrades"
	((n > 0)) || fail "no upgrade"
	kill -QUIT "$m"
	wait_for 10 _gone "$m" || fail "nginx does not end"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.err" || fail "nginx's log"
	load_after 0 ${XVMD-}
	nothing_broken
done
