# SPDX-License-Identifier: Apache-2.0
# limit: 120
# closefrom(3), close_range(3, ~0U), also by number, and close() of all there could be: the library's own
# descriptors survive, at start and in mid-stream.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
for when in start mid; do
	scenes 'server client' $when ring closefrom close_range close_range_syscall close_all
done
