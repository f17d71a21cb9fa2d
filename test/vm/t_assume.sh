# SPDX-License-Identifier: Apache-2.0
# limit: 240
# What Linux and QEMU make of an ivshmem device, as far as the design relies on it. README.md has the list,
# with the figures that this prints.
. "$(dirname "$0")/vm.sh"

MEMORY=$B/test/vm/iv_memory
DOORBELL=$B/test/vm/iv_doorbell
SIZE=$((16 << 20))

# on_pci NAME DRIVER: binds the guest's ivshmem device to DRIVER; fails if that fails.
on_pci()
{
	# Busybox's modprobe does not know the soft dependency of vfio-pci on the second.
	vm_run "$1" sh -c 'modprobe "$1" && modprobe vfio_iommu_type1 && cd /sys/bus/pci &&
		echo "$1" >"devices/$2/driver_override" && echo "$2" >drivers_probe && test -e "drivers/$1/$2"' \
		- "$2" "$(vm_run "$1" "$MEMORY" where)"
}

# fences CMD...: of a guest and this command.
fences()
{
	bg fences plain one "$MEMORY" fences 0 300000
	"$@"
	finished "$PID" 60
	cat "$T/fences.log"
}

# seen TEXT PLACE CMD...: that reads place 100 of the memory.
seen()
{
	[[ $("${@:3}") = "$1" ]] || fail "$2 does not see '$1'"
}

# ---- memory ----

# One QEMU makes the memory, the other gets it from there.
vm_start one -object memory-backend-memfd,id=m,size=$SIZE,share=on -device ivshmem-plain,memdev=m
memfd()
{
	MEM=$(find "/proc/${VM_PID[one]}/fd" -lname '/memfd:*' -printf '%p\n') && [[ -e $MEM ]]
}
wait_for 20 memfd || fail "QEMU has no memfd"
vm_start two -object "memory-backend-file,id=m,size=$SIZE,share=on,mem-path=$MEM" -device ivshmem-plain,memdev=m
vm_ready one two

step "a byte written at one place is seen at the others"
vm_run one "$MEMORY" poke 100 'from one'
seen 'from one' two vm_run two "$MEMORY" peek 100 8
seen 'from one' host "$MEMORY" peek 100 8 "$MEM"
"$MEMORY" poke 100 'of  host' "$MEM"
seen 'of  host' one vm_run one "$MEMORY" peek 100 8

step "BAR2 by sysfs"
vm_run one mount -t debugfs debugfs /sys/kernel/debug
vm_run one "$MEMORY" facts
vm_run one "$MEMORY" speed

step "fences, between guests and with the host"
fences vm_run two "$MEMORY" fences 1 300000
fences "$MEMORY" fences 1 300000 "$MEM"

step "without an IOMMU no driver of the stock kernel brings interrupts"
on_pci two vfio-pci 2>/dev/null && fail "vfio-pci takes it"
on_pci two uio_pci_generic || fail "uio_pci_generic does not take it"
status=0
vm_run two timeout 20 head -c 4 /dev/uio0 2>"$T/err" && fail "/dev/uio0 can be read" || status=$?
grep -qi 'input/output error' "$T/err" || fail "/dev/uio0: $status $(<"$T/err")"
vm_kill one
vm_kill two

# ---- interrupts ----

# A QEMU that corrupts its heap is to be seen at once.
VM_QEMU=(env LD_PRELOAD=libc_malloc_debug.so.0 MALLOC_CHECK_=3 "${VM_QEMU[@]}")

bg server plain host python3 "$SRC/test/vm/ivserver.py" "$T/iv" $SIZE 4
SERVER=$PID
says server memory
iv=(-chardev "socket,id=iv,path=$T/iv" -device ivshmem-doorbell,id=ivdev,vectors=4,chardev=iv)
vm_start left --iommu --cpus 2 -device pcie-root-port,id=rp0 "${iv[@]},bus=rp0"
vm_start right --iommu --cpus 2 "${iv[@]}"
vm_start bare "${iv[@]}"
vm_ready left right bare
on_pci left vfio-pci
on_pci right vfio-pci

id()
{
	vm_run "$1" "$DOORBELL" id
}

step "ringing needs no driver"
vm_run bare "$DOORBELL" send 0 3
says server 'rung 3'

step "interrupts and mappings by vfio-pci"
vm_run right "$DOORBELL" facts

for guest in left right; do
	step "vfio's users come and go, $guest"
	vm_run $guest "$DOORBELL" life
done

# ping_pong [DOORBELL-OPTION...]: between right and left
ping_pong()
{
	bg pong plain right "$DOORBELL" pong "$(id left)" 2000
	says pong ready
	vm_run left "$DOORBELL" ping "$(id right)" 2000
	finished "$PID"
}

step "times"
ping_pong
bg pong plain right "$DOORBELL" tcp-pong "${VM4[right]}" 2000
wait_port right 7200
vm_run left "$DOORBELL" tcp-ping "${VM4[right]}" 2000
finished "$PID"
echo "with a host's process that is written in Python:"
vm_run left "$DOORBELL" ping 0 2000

come_back()
{
	vm_qmp left chardev-add "{\"id\": \"iv\", \"backend\": {\"type\": \"socket\", \"data\":
		{\"server\": false, \"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"$T/iv\"}}}}}"
	vm_qmp left device_add \
		'{"driver": "ivshmem-doorbell", "id": "ivdev", "bus": "rp0", "vectors": 4, "chardev": "iv"}'
	wait_for 20 vm_run left "$MEMORY" where || fail "no device comes back"
	on_pci left vfio-pci
}

step "the device is taken away, and comes back"
bg unplug plain left "$DOORBELL" unplug
p=$PID
says unplug ready
vm_qmp left unplug ivdev
finished "$p"
# QEMU's connection outlives its device.
old=$(sed -n "s/^peer \([0-9]*\) pid ${VM_PID[left]}$/\1/p" "$T/server.log")
! grep -q "gone $old" "$T/server.log" || fail "the server was told of device_del"
vm_qmp left chardev-remove '{"id": "iv"}'
says server "gone $old"
come_back

step "a guest is killed: the server sees it, and its number goes to the next one"
old=$(id bare)
vm_kill bare
says server "gone $old"
vm_boot next "${iv[@]}"
[[ $(id next) = "$old" ]] || fail "it is peer $(id next), not $old"
ping_pong

step "a device is taken away after peers have come and gone, the guest migrates and has one again"
vm_kill next
vm_qmp left migrate 'exec:cat >/dev/null' 2>"$T/err" && fail "it migrates with its device"
grep -q 'Migration is disabled' "$T/err" || fail "$(<"$T/err")"
vm_qmp left unplug ivdev
vm_qmp left chardev-remove '{"id": "iv"}'
vm_migrate left -device pcie-root-port,id=rp0
come_back

step "the server is killed: guests still ring each other"
stop "$SERVER" KILL
ping_pong
vm_run left "$MEMORY" poke 100 'still on'
seen 'still on' right vm_run right "$MEMORY" peek 100 8
step "done"
