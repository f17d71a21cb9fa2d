# SPDX-License-Identifier: Apache-2.0
# limit: 180
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

ulimit -n 4096
for mode in $LOAD_MODES; do
	set_mode "$mode"
	step "HttpServer with 1,000 clients"
	bg_server http java -XX:+UseSerialGC -Dsun.net.httpserver.maxIdleConnections=2000 -cp "$T/java" Echo http serve "$B4" 8700
	s=$PID
	wait_port b 8700
	load_http load "$B4" 8700 1000 post /
	expect_ring "$LOAD" "$s"
	load_done
	stop "$s"
	nothing_broken
done
