# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What is in a guest: made of what is installed and built here.

# Of Debian's packages.
VM_PROGRAMS=(bash python3 ip ss iperf3 redis-server redis-cli redis-benchmark openssl setpriv)
# Of ours, and of the tests'.
VM_FILES=("$B"/{libxvm.so,xvmd,xvm} "$B"/test/{net,preload,vm}/* "$SRC"/test/{lib,net}/*.py)

# vm_initramfs [FILE...]: makes $T/initramfs. In a guest, ours lies under the same paths as here:
# $B/libxvm.so, $B/xvmd, $B/xvm, and the programs and scripts of the tests.
vm_initramfs()
{
	local p files=()
	step "initramfs"
	for p in "${VM_PROGRAMS[@]}"; do
		# Debian's own: elsewhere in $PATH may be anything.
		files+=("$(PATH=/usr/sbin:/usr/bin type -P "$p")") || fail "there is no $p to put into the guests"
	done
	if [[ " ${VM_PROGRAMS[*]} " = *' python3 '* ]]; then
		files+=("$(/usr/bin/python3 -c 'import os; print(os.path.dirname(os.__file__))')")
	fi
	files+=("${VM_FILES[@]}" "$@")
	mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -v -E '/(CMakeFiles|Makefile|cmake_install.cmake|CTest.*)$')
	python3 "$SRC/test/vm/initramfs.py" "$T/initramfs" \
		--as /init "$SRC/test/vm/init" --as /usr/sbin/vmagent "$B/test/vm/vmagent" \
		--as "$T/libxvm.so" "$B/libxvm.so" \
		--as /usr/lib/modules "$KERNEL/lib/modules" "${files[@]}"
}
