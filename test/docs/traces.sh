# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What a demo could leave behind. Its processes are those with this in their environment.
MARK=XVM_TEST_MARK=$T

traces()
{
	ip netns list 2>/dev/null | sort
	ip -br link | awk '{ print $1 }' | sort
	{ grep -lsz "^$MARK" /proc/[0-9]*/environ || true; } | while IFS=/ read -r _ _ p _; do
		echo "process $p: $(tr '\0' ' ' <"/proc/$p/cmdline")"
	done
	ls -d "${TMPDIR:-/tmp}"/xvm-demo* /tmp/xvm-demo* /run/xvm 2>/dev/null || true
}

left_nothing()
{
	traces >"$T/after"
	# Its status is 1 where anything differs, and with pipefail that of a pipeline.
	diff "$T/before" "$T/after" >"$T/differ" || true
	! grep '^>' "$T/differ"
}

traces >"$T/before"
