# SPDX-License-Identifier: Apache-2.0
# limit: 300
# An nginx that sends files and a client that keeps its connection: whichever system call the library makes
# for itself fails, at whichever end, the session is as it is plain, and `xvm ss` says why it is on TCP.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "nothing of xvm's can fail"
start_xvmd
for side in server client; do
	step "in the $side"
	mkdir "$T/$side"
	python3 "$SRC/test/fault/inject.py" "$B" "$T/$side" nginx $side
done
