# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Java: blocking sockets, a Selector, and HttpServer with HttpClient.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"

start_xvmd
mkdir "$T/java"
java -m jdk.compiler/com.sun.tools.javac.Main -d "$T/java" "$SRC/test/lang/Echo.java"
v=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.version = //p')
for how in blocking nio http; do
	echoes "Java, $how" "$v" ring java -XX:+UseSerialGC -cp "$T/java" Echo $how
done
