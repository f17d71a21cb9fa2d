# SPDX-License-Identifier: Apache-2.0
# limit: 240
# Limits of memory; no /dev/shm.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
both='server client'
scenes "$both" mid ring as data memlock locked
scenes "$both" start tcp as data locked
scenes "$both" start ring memlock
scenes "$both" under tcp as
scenes "$both" under any data locked

step "no /dev/shm"
mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /dev/shm
scenes "$both" start ring none
