# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# nginx for the tests: its files and its configuration.

web_files()
{
	local i
	mkdir -p "$T/www/small" "$T/www/put" "$T/ngx"
	chmod 777 "$T/www/put" "$T/ngx"
	random_file "$T/www/big" "${1:-100000000}"
	for i in {0..99}; do
		head -c 1024 /dev/urandom >"$T/www/small/$i"
	done
}

# web_conf ADDR
web_conf()
{
	cat >"$T/nginx.conf" <<-END
	daemon off;
	worker_processes 2;
	pid $T/nginx.pid;
	error_log stderr notice;
	events { worker_connections 1024; }
	http {
		sendfile on;
		tcp_nopush on;
		keepalive_requests 1000000;
		client_max_body_size 1g;
		client_body_temp_path $T/ngx/body;
		proxy_temp_path $T/ngx/proxy;
		fastcgi_temp_path $T/ngx/fastcgi;
		uwsgi_temp_path $T/ngx/uwsgi;
		scgi_temp_path $T/ngx/scgi;
		access_log off;
		server {
			listen $1:8080;
			root $T/www;
			location /put/ { dav_methods PUT; }
		}
	}
	END
}

# What wrk said in $T/wrk.log: answers, and nothing but.
web_wrk_ok()
{
	! grep -E 'Socket errors|Non-2xx' "$T/wrk.log" || fail "$(cat "$T/wrk.log")"
	grep -E 'Requests/sec: +[1-9]' "$T/wrk.log" || fail "$(cat "$T/wrk.log")"
}
