# SPDX-License-Identifier: Apache-2.0
# limit: 240
# jemalloc, tcmalloc, and an allocator that opens files, pipes and sockets from its first call on; each before
# the library and behind it.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
LIBS=/usr/lib/$(gcc -print-multiarch)
for lib in "$LIBS/libjemalloc.so.2" "$LIBS/libtcmalloc_minimal.so.4" "$B/test/fault/libopening.so"; do
	[[ -e $lib ]] || fail "there is no $lib"
	for side in server client; do
		scene $side none start ring "LD_PRELOAD=$lib:$T/libxvm.so"
		scene $side none start ring "LD_PRELOAD=$T/libxvm.so:$lib"
		scene $side ticks start ring "LD_PRELOAD=$T/libxvm.so:$lib"
	done
done
