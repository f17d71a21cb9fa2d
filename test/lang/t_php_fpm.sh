# SPDX-License-Identifier: Apache-2.0
# limit: 180
# PHP-FPM behind nginx, both preloaded: posts come back, also while FPM executes itself anew under load. Then it may cut
# off an answer in each child, plain as well, where the machine is busy; those are asked for again.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"
. "$SRC/test/lib/web.sh"

fpm=$(find /usr/sbin -name 'php-fpm*' | sort -V | tail -n 1)
[[ -n $fpm ]] || fail "PHP-FPM is not installed"
mkdir -p "$T/www"
cp "$SRC/test/lang/echo.php" "$T/www/"
chmod 755 "$T/www"
cat >"$T/fpm.conf" <<END
[global]
error_log = $T/fpm.err
daemonize = no
process_control_timeout = 1s
[www]
listen = $B4:9000
user = www-data
pm = static
pm.max_children = 8
END
web_files 1000
web_conf "$A4"
# FPM in b is asked by nginx in a, on connections that it keeps. A child serves but one: as many as could be needed.
# A request on one that FPM closes unanswered is made again, as if on another server: each name of it counts as one.
servers=$(printf "server $B4:9000 max_fails=0; %.0s" {1..9})
sed -i -e 's|worker_processes 2|worker_processes 1|' -e '/listen/,$d' -e 's|access_log off;.*|access_log off; upstream fpm { '"$servers"' keepalive 8; }|' "$T/nginx.conf"
cat >>"$T/nginx.conf" <<END
	listen $A4:8080;
	client_body_buffer_size 1m;
	location / {
		include /etc/nginx/fastcgi_params;
		fastcgi_param SCRIPT_FILENAME $T/www/echo.php;
		fastcgi_keep_conn on;
		fastcgi_next_upstream error timeout non_idempotent;
		fastcgi_pass fpm;
	}
} }
END

reloads()
{
	(($(grep -c 'ready to handle connections' "$T/fpm.err" || true) > $1))
}

start_xvmd
random_file "$T/in" 1000000
for mode in $MODES; do
	set_mode "$mode"
	: >"$T/fpm.err"
	load_before ${XVMD-}
	bg_server fpm "$fpm" -F -R -y "$T/fpm.conf"
	s=$PID
	wait_port b 9000
	bg_client nginx nginx -c "$T/nginx.conf"
	n=$PID
	wait_port a 8080
	load_before "$n"
	step "posts"
	for i in 1 2 3; do
		plain host curl -sS --data-binary "@$T/in" -o "$T/got" "http://$A4:8080/$i"
		same "$T/in" "$T/got"
	done
	step "reloads under load"
	# By nobody who is preloaded: what nginx has on the ring is to FPM.
	LOAD_CUT=1 LOAD_FROM="plain host" load_http load "$A4" 8080 8 post /
	expect_path "$n" "$s"
	compat "PHP-FPM" "$("$fpm" -v | sed -n 's/^PHP \([0-9.]*\).*/\1/p')" "$s"
	i=0
	while running "$LOAD"; do
		i=$((i + 1))
		kill -USR2 "$s"
		wait_for 30 reloads $i || fail "no reload: $(tail "$T/fpm.err")"
		load_ring "$n" "$s"
	done
	load_done $((i * 8))
	echo "$i reloads under load"
	step "a post afterwards"
	plain host curl -sS --data-binary "@$T/in" -o "$T/got" "http://$A4:8080/again"
	same "$T/in" "$T/got"
	load_after 70 "$n"
	stop "$n"
	stop "$s"
	! grep -E 'exited on signal|\[(alert|crit|emerg)\]' "$T/nginx.log" || fail "nginx's log"
	! grep -E 'exited on signal (4|6|7|8|11)|ALERT' "$T/fpm.err" || fail "FPM's log"
	load_after 0 ${XVMD-}
	nothing_broken
done
