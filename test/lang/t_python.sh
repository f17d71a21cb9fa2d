# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Python: threads, asyncio, and processes to which connections are passed.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"

start_xvmd
v=$(python3 -c 'import platform; print(platform.python_version())')
for how in threads asyncio; do
	echoes "Python, $how" "$v" ring python3 "$SRC/test/lang/echo.py" $how
done
echoes "Python, sockets passed" "$v" ring python3 "$SRC/test/lang/echo.py" processes
