# SPDX-License-Identifier: Apache-2.0
# limit: 240
# Other allocators, in both orders, and one that opens files; limits of memory; no /dev/shm.
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

both='server client'
scenes "$both" mid ring as data memlock locked
scenes "$both" start tcp as data locked
scenes "$both" start ring memlock
scenes "$both" under tcp as
scenes "$both" under any data locked

step "no /dev/shm"
mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /dev/shm
scenes "$both" start ring none
