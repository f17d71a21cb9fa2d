# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Go makes its system calls without libc: caddy as server and as client of preloaded programs, on TCP.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/web.sh"

export HOME=$T XDG_CONFIG_HOME=$T XDG_DATA_HOME=$T
web_files 20000000
web_conf "$B4"
cat >"$T/caddy.json" <<END
{"admin": {"disabled": true}, "apps": {"http": {"servers": {
"files": {"listen": ["$B4:8090"], "automatic_https": {"disable": true},
	"routes": [{"handle": [{"handler": "file_server", "root": "$T/www"}]}]},
"proxy": {"listen": ["$B4:8091"], "automatic_https": {"disable": true},
	"routes": [{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "$B4:8080"}]}]}]}
}}}}
END

start_xvmd
for mode in ${MODES/client server/}; do
	set_mode "$mode"
	bg_server nginx nginx -c "$T/nginx.conf"
	n=$PID
	bg_server caddy caddy run --config "$T/caddy.json"
	s=$PID
	wait_port b 8080
	wait_port b 8090
	wait_port b 8091
	for port in 8090 8091; do
		step "port $port"
		client curl -sS -o "$T/got" "http://$B4:$port/big"
		same "$T/www/big" "$T/got"
		rm -rf "$T/got.d"
		mkdir "$T/got.d"
		client curl -sS "http://$B4:$port/small/[0-99]" -o "$T/got.d/#1"
		diff -r "$T/www/small" "$T/got.d"
		bg_client curl curl -sS --limit-rate 10M -o "$T/got" "http://$B4:$port/big"
		expect_all_tcp "$PID"
		expect_unseen "$s"
		finished "$PID"
		same "$T/www/big" "$T/got"
	done
	step "up"
	client curl -sS -T "$T/www/big" "http://$B4:8091/put/$mode" -o /dev/null -w '%{http_code}\n' | grep -x 201
	same "$T/www/big" "$T/www/put/$mode"
	compat "Go (caddy)" "$(dpkg-query -W -f '${Version}' caddy)" "$s" "system calls without libc"
	stop "$s"
	stop "$n"
done
