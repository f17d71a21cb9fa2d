# SPDX-License-Identifier: Apache-2.0
# limit: 240
# A device is unplugged while programs use it: QEMU gets it back, and every stream goes on over TCP, in
# whatever call its ends are, none at all included. Then one is plugged in, and is found by itself.
. "$(dirname "$0")/group.sh"

group_host
args=$("$B/xvm" vm-args near)
[[ $args = *"path=$T/near"* ]] || fail "$args"
dev=(-chardev "socket,id=iv,path=$T/near")
vm_start one --iommu -device pcie-root-port,id=rp0 "${dev[@]}" \
	-device "ivshmem-doorbell,id=ivdev,vectors=$VECTORS,chardev=iv,bus=rp0"
vm_start two --iommu "${dev[@]}" -device "ivshmem-doorbell,vectors=$VECTORS,chardev=iv"
vm_ready one two
group_up one two
for name in one two; do
	busybox ping -c 1 -W 20 "${VM4[$name]}" >"$T/ping" || fail "no ping: $(<"$T/ping")"
done
vm_run one busybox ping -c 1 -W 20 "${VM4[two]}" >"$T/ping" || fail "no ping: $(<"$T/ping")"
knows one "${VM4[two]}"
knows two "${VM4[one]}"

# Both ends of a quiet connection: one sleeps in recv(), the other makes no call until there is a file.
cat >"$T/quiet.py" <<'P'
import os, socket, sys, time
what, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "serve":
    c = socket.create_server((addr, port)).accept()[0]
else:
    c = socket.create_connection((addr, port))
for i in range(300):
    if what == "serve":
        c.sendall(c.recv(1))
    else:
        c.sendall(b"x")
        assert c.recv(1) == b"x"
if what == "serve":
    c.sendall(b"before")
    print("quiet", flush=True)
    while not os.path.exists("/tmp/go"):
        time.sleep(.1)
    data = b""
    while len(data) < 6:  # sent before
        data += c.recv(100)
    print("got", data.decode(), flush=True)
    c.sendall(b"after" * 20000)
    assert c.recv(1) == b""
else:
    c.sendall(b"unread")
    data = b""
    while len(data) < 6:
        data += c.recv(6 - len(data))
    print("quiet", flush=True)
    while len(data) < 6 + 100000:
        data += c.recv(70000)  # asleep in here when the device goes
    assert data == b"before" + b"after" * 20000, len(data)
    print("all there", flush=True)
P
for name in one two; do
	vm_put $name "$T/quiet.py" /tmp/quiet.py
done

# flow_start NAME FROM TO PORT OPTION...
declare -A S=() C=()
flow_start()
{
	local name=$1 from=$2 to=$3 port=$4 addr
	addr=$(addr_of "$to" 4)
	shift 4
	bg "s-$name" xvm "$to" "$FLOW" serve "$addr" "$port" --forever "$@"
	S[$name]=$PID
	wait_port "$to" "$port"
	bg "c-$name" xvm "$from" "$FLOW" connect "$addr" "$port" --forever "$@"
	C[$name]=$PID
	expect_on "$from" ivshmem "$port"
	expect_on "$to" ivshmem "$port"
}

step "streams"
bg q-serve xvm two python3 /tmp/quiet.py serve "${VM4[two]}" 8104
qs=$PID
wait_port two 8104
bg q-connect xvm one python3 /tmp/quiet.py connect "${VM4[two]}" 8104
qc=$PID
says q-connect quiet
expect_on one ivshmem 8104
flow_start vm one two 8100 --rate 5M
flow_start epoll two one 8101 --rate 5M --epoll
flow_start host host one 8102 --rate 5M --poll

step "the device is unplugged"
vm_qmp one unplug ivdev
says xvmd-one 'let go'
! grep -q 'are reset' "$T/xvmd-one.log" || fail "$(<"$T/xvmd-one.log")"
for port in 8100 8101 8102; do
	expect_on one tcp $port
done
step "all that ends at the host's xvmd, as when the machine has moved"
vm_qmp one chardev-remove '{"id": "iv"}'
says xvmd 'VM 1'
knows_not host "${VM4[one]}"
vm_run two touch /tmp/go
says q-connect 'all there'
finished "$qc"
finished "$qs"
for name in vm epoll host; do
	kill -TERM "${C[$name]}"
	finished "${C[$name]}"
	finished "${S[$name]}"
	exact "c-$name" "s-$name"
done

step "it is plugged in again, and found"
vm_qmp one chardev-add "{\"id\": \"iv\", \"backend\": {\"type\": \"socket\", \"data\":
	{\"server\": false, \"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"$T/near\"}}}}}"
vm_qmp one device_add \
	"{\"driver\": \"ivshmem-doorbell\", \"id\": \"ivdev\", \"bus\": \"rp0\", \"vectors\": $VECTORS, \"chardev\": \"iv\"}"
knows one "${VM4[two]}" 40
knows two "${VM4[one]}" 40
flow_start again one two 8110 --rate 5M
kill -TERM "${C[again]}"
finished "${C[again]}"
finished "${S[again]}"
exact c-again s-again
