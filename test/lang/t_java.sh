# SPDX-License-Identifier: Apache-2.0
# limit: 300
# Java: blocking sockets, a Selector, and HttpServer with HttpClient.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"
. "$SRC/test/lib/load.sh"

start_xvmd
mkdir "$T/java"
java -m jdk.compiler/com.sun.tools.javac.Main -d "$T/java" "$SRC/test/lang/Echo.java"
v=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.version = //p')
for how in blocking nio http; do
	echoes "Java, $how" "$v" ring java -XX:+UseSerialGC -cp "$T/java" Echo $how
done

there()
{
	plain b ss -Htn state established 'sport = :8700' | wc -l
}

all_there()
{
	(($(there) >= 1000))
}

ulimit -n 4096
# However slow the machine is: all of them are to come to the ring.
LOAD_WAIT=100
export LOAD_UNTIL=$T/seen
for mode in $LOAD_MODES; do
	set_mode "$mode"
	step "HttpServer with 1,000 clients"
	load_before ${XVMD-}
	bg_server http java -XX:+UseSerialGC -Dsun.net.httpserver.maxIdleConnections=2000 -cp "$T/java" Echo http serve "$B4" 8700
	s=$PID
	wait_port b 8700
	load_before "$s"
	rm -f "$LOAD_UNTIL"
	load_http load "$B4" 8700 1000 post /
	wait_for 60 all_there || fail "$(there) clients at a time"
	load_rings 1000 "$LOAD" "$s"
	: >"$LOAD_UNTIL"
	load_done
	load_after 200 "$s"
	stop "$s"
	load_after 0 ${XVMD-}
	nothing_broken
done
