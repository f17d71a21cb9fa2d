# SPDX-License-Identifier: Apache-2.0
# limit: 240
# System call filters that the program was started under or sets itself, chroot, setuid, user
# namespaces.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/fault/scene.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
both='server client'
chmod 777 "$T"
for when in start under; do
	scenes "$both" $when tcp no_memfd no_unix no_mmap no_sendmsg no_tcp_info
	scenes "$both" $when ring no_eventfd no_fcntl
done
# What is on the ring needs no more of the kernel than waiting and waking.
scenes "$both" mid ring no_memfd no_unix no_mmap no_tcp_info no_eventfd no_fcntl chroot setuid userns netns
# Death for all but what the program itself does.
scenes "$both" mid any strict
scenes "$both" start tcp chroot
scenes "$both" start any setuid userns
