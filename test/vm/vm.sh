# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Guests on the bridge of test/lib/net.sh, beside its namespaces a and b:
#
#   guest one                      the test's own namespace           namespaces a, b
#   10.77.0.11, fd77::11 ──tap──── bridge xbr0 ──────────────veth──── 10.77.0.1, 10.77.0.2
#   guest two
#   10.77.0.12, fd77::12 ──tap───┘
#
# To the functions of net.sh (plain, xvm, bg, stop, finished, wait_port, …) a guest is one more
# namespace. README.md tells how to write a test.

if [[ -z ${XVM_TEST_INSIDE-} ]]; then
	if [[ $(uname -m) != x86_64 ]]; then
		echo "skip: guests are x86-64, made of this machine's programs"
		exit 77
	fi
	# From inside there is no way to where the package is.
	python3 "$(dirname "${BASH_SOURCE[0]}")/kernel.py" \
		"${XVM_BUILD:-$(dirname "${BASH_SOURCE[0]}")/../../build}/vm" || exit 1
fi
. "$(dirname "${BASH_SOURCE[0]}")/../lib/net.sh"
. "$SRC/test/vm/initramfs.sh"

KERNEL=$B/vm/kernel
VMCTL=$B/test/vm/vmctl
VM_QEMU=(qemu-system-x86_64)
# By the guest's name: addresses, QEMU's process, directory of its sockets and console, what vm_start was told.
declare -A VM4=() VM6=() VM_PID=() VM_DIR=() VM_MACHINE=()

# vm_start NAME [--iommu] [--cpus N] [--mem MB] [--append WORDS] [QEMU-OPTION...]: boots a guest; see vm_ready.
vm_start()
{
	local name=$1 n=$((${#VM4[@]} + 11)) iommu=0 cpus=1 mem=512 append='' dir=$T/vm-$1 opts
	shift
	# One that boots again is the same as before.
	[[ -z ${VM4[$name]-} ]] || n=${VM4[$name]##*.}
	VM4[$name]=10.77.0.$n VM6[$name]=fd77::$n
	while [[ ${1-} = --* ]]; do
		case $1 in
		--iommu) iommu=1 append+=" intel_iommu=on" ;;
		--cpus) cpus=$2 && shift ;;
		--mem) mem=$2 && shift ;;
		--append) append+=" $2" && shift ;;
		*) fail "vm_start: $1" ;;
		esac
		shift
	done
	append+=" console=ttyS0 panic=-1 oops=panic nokaslr mitigations=off no_timer_check"
	append+=" tsc=reliable tsc_early_khz=$("$B/test/vm/vmtsc")"
	append+=" xvm.name=$name xvm.v4=${VM4[$name]}/24 xvm.v6=${VM6[$name]}/64"
	VM_MACHINE[$name]="$iommu $cpus $mem $append"
	[[ -e $T/initramfs ]] || vm_initramfs
	[[ -c /dev/net/tun ]] || fail "there is no /dev/net/tun (modprobe tun)"
	mkdir "$dir"
	_vm_options "$name" "$dir" "vt$name"
	step "guest $name boots"
	bg "qemu-$name" plain host "${VM_QEMU[@]}" "${opts[@]}" "$@"
	VM_PID[$name]=$PID VM_DIR[$name]=$dir
}

# _vm_options NAME DIR TAP: to opts, what QEMU needs to be this guest, with its sockets in DIR.
_vm_options()
{
	local dir=$2 iommu cpus mem append i
	read -r iommu cpus mem append <<<"${VM_MACHINE[$1]}"
	opts=()
	# Before all devices that are to be behind it.
	((!iommu)) || opts+=(-device intel-iommu,intremap=on)
	opts+=(
		-machine q35,accel=tcg -cpu max,-erms -m "$mem"
		# With one processor, and none to come, TCG leaves out fences and the locks of instructions: two
		# guests that share memory would not see each other's writes in order.
		-smp "$cpus,maxcpus=$((cpus + 1))"
		-nodefaults -no-user-config -display none -no-reboot
		-kernel "$KERNEL/vmlinux" -initrd "$T/initramfs" -append "$append"
		-serial "file:$dir/console" -qmp "unix:$dir/qmp,server=on,wait=off"
		-device virtio-net-pci,netdev=net0,mac="52:54:00:77:00:${VM4[$1]##*.}"
		-netdev tap,id=net0,ifname="$3",script="$SRC/test/vm/ifup",downscript=no
		-device virtio-serial-pci,max_ports=$((VM_PORTS + 1))
	)
	for ((i = 0; i < VM_PORTS; i++)); do
		opts+=(-chardev "socket,id=ctl$i,path=$dir/ctl.$i,server=on,wait=off")
		opts+=(-device "virtserialport,chardev=ctl$i,name=xvm.$i,nr=$((i + 1))")
	done
}
VM_PORTS=16 # as channel.h has it

# vm_ready NAME...: they have booted, and their agents answer.
vm_ready()
{
	local name
	for name; do
		wait_for 20 _vm_made "$name" || fail "QEMU does not start"
		"$VMCTL" -t "${VM_TIMEOUT:-60}" "${VM_DIR[$name]}" true || fail "guest $name does not boot"
		step "guest $name is ready"
	done
}

# vm_boot NAME [as vm_start]
vm_boot()
{
	vm_start "$@"
	vm_ready "$1"
}

# QEMU makes its sockets one by one: when the last is there, all are. That it has ended is seen by vmctl.
_vm_made()
{
	[[ -S ${VM_DIR[$1]}/ctl.$((VM_PORTS - 1)) ]] || ! running "${VM_PID[$1]}"
}

# vm_console NAME [LINES]: the end of what the guest and its QEMU said.
vm_console()
{
	echo "-- QEMU of $1"
	tail -n 20 "$T/qemu-$1.log"
	echo "-- console of $1"
	tail -n "${2:-40}" "${VM_DIR[$1]}/console" 2>/dev/null | tr -d '\r' || true
}

# vm_run NAME CMD...: stdout, stderr and exit status are CMD's. Its stdin is empty; with vm_in it is
# the caller's. (A failure that is returned is reported with the caller's line.)
vm_run()
{
	"$VMCTL" "${VM_DIR[$1]}" "${@:2}" || return
}

vm_in()
{
	"$VMCTL" -i "${VM_DIR[$1]}" "${@:2}" || return
}

# vm_put NAME FILE PATH, vm_get NAME PATH FILE
vm_put()
{
	vm_in "$1" sh -c 'cat >"$1" && chmod "$2" "$1"' - "$3" "$(stat -c %a "$2")" <"$2"
}

vm_get()
{
	vm_run "$1" cat "$2" >"$3"
}

# vm_kill NAME: as if the host's kernel had killed QEMU.
vm_kill()
{
	stop "${VM_PID[$1]}" KILL
	_vm_forget "$1"
}

# vm_halt NAME: the guest switches itself off.
vm_halt()
{
	vm_run "$1" poweroff -f 2>/dev/null || true
	finished "${VM_PID[$1]}" 30
	_vm_forget "$1"
}

_vm_forget()
{
	unset "VM_PID[$1]"
	rm -rf "${VM_DIR[$1]}"
}

# vm_migrate NAME [QEMU-OPTION...]: moves the guest, while it runs, to another QEMU on this bridge. An ivshmem
# device must have been unplugged. Commands that run in the guest are killed; what is to live on starts by setsid.
vm_migrate()
{
	local name=$1 old=${VM_PID[$1]} from=${VM_DIR[$1]} to=$T/vm-$1 tap=vt$1 opts
	# A guest lives at one of two places.
	[[ $from != "$to" ]] || to=$T/vm-$name.2 tap=vu$name
	step "guest $name migrates"
	mkdir "$to"
	_vm_options "$name" "$to" "$tap"
	bg "qemu-$name" plain host "${VM_QEMU[@]}" "${opts[@]}" -incoming "unix:$to/incoming" "${@:2}"
	VM_PID[$name]=$PID VM_DIR[$name]=$to
	wait_for 20 test -S "$to/incoming" || fail "the other QEMU does not start"
	python3 "$SRC/test/vm/qmp.py" "$from/qmp" migrate "unix:$to/incoming"
	stop "$old" KILL
	rm -rf "$from"
	vm_ready "$name"
}

# vm_qmp NAME COMMAND [ARGUMENTS-AS-JSON]: what QEMU returns. vm_qmp NAME unplug ID: see qmp.py.
vm_qmp()
{
	python3 "$SRC/test/vm/qmp.py" "${VM_DIR[$1]}/qmp" "${@:2}" || return
}

# A test that fails shows what the guests said.
_vm_show()
{
	local name
	# $status is _on_exit's.
	((status != 0 && status != 77)) || return 0
	for name in "${!VM_PID[@]}"; do
		vm_console "$name" 20
	done
}
at_exit _vm_show

# ---- guests as namespaces, for net.sh ----

_wrap_plain()
{
	W=(nsenter --net="/run/netns/$1")
	[[ $1 != host ]] || W=(env)
	[[ -z ${VM_DIR[$1]-} ]] || W=("$VMCTL" "${VM_DIR[$1]}")
}
