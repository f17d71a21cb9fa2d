# SPDX-License-Identifier: Apache-2.0
# limit: 240
# Few descriptors and many of them, at start and in mid-stream.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
both='server client'
for when in start mid; do
	scenes "$both" $when ring fds32768 nofile128
done
scenes "$both" mid ring nofile_soft10 nofile10 nofile20 fds_all
scenes "$both" start any nofile_soft10
# None of the last ones is taken from the program.
scenes "$both" start tcp nofile10 nofile20 fds_all
scenes "$both" under tcp nofile10 nofile20
