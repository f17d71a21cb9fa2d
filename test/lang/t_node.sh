# SPDX-License-Identifier: Apache-2.0
# Node: net, http, worker threads, and a cluster, whose primary passes connections on.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"

start_xvmd
v=$(node --version)
for how in net http workers cluster; do
	echoes "Node, $how" "${v#v}" ring node "$SRC/test/lang/echo.js" $how
done
