# SPDX-License-Identifier: Apache-2.0
# limit: 120
# All signals blocked; handlers of the program's own, also of SIGSEGV; a signal every 0.3 ms.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
for when in start mid; do
	scenes 'server client' $when ring blocked segv ticks ticks_restart ticks_mixed
done
