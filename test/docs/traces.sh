# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What a demo could leave behind.

traces()
{
	ip netns list 2>/dev/null | sort
	ip -br link | awk '{ print $1 }' | sort
	{ pgrep -l -x 'xvmd|iperf3|redis-server|qemu-system-x86' || true; } | awk '{ print $2 }' | sort
	{ ls -d /tmp/*xvm* /run/xvm "${TMPDIR:-/tmp}"/xvm-demo* 2>/dev/null || true; } |
		{ grep -v '^/tmp/xvm-test[^/]*$\|^/tmp/xvm-run[^/]*$' || true; } | sort -u
}

left_nothing()
{
	traces >"$T/after"
	! diff "$T/before" "$T/after" | grep '^>'
}

traces >"$T/before"
