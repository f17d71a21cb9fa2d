# SPDX-License-Identifier: Apache-2.0
"""qmp.py SOCKET COMMAND [ARGUMENTS]: has QEMU do it; prints what it returns, as JSON.

qmp.py SOCKET unplug ID: takes a device away; ends when it is gone.
qmp.py SOCKET migrate URI: ends when the guest runs there.
"""
import json, os, socket, sys

s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
lines = s.makefile("r")


def receive(*kinds):
    for line in lines:
        message = json.loads(line)
        if any(k in message for k in kinds):
            return message
    sys.exit("qmp.py: QEMU is gone")


def do(command, arguments, fds=()):
    socket.send_fds(s, [json.dumps({"execute": command, "arguments": arguments}).encode()], fds)
    answer = receive("return", "error")
    if "error" in answer:
        sys.exit(f"qmp.py: {command}: {answer['error']['desc']}")
    return answer["return"]


def unplug(device):
    do("device_del", {"id": device})
    while True:
        event = receive("event")
        if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device:
            break
    # QEMU 7.2 closes the eventfds of an ivshmem device, but goes on watching their numbers, with a handler
    # for the device that it has freed (not where KVM has the interrupts). So that no other file
    # gets one of these numbers, something that never is readable does.
    for n in range(64):
        do("getfd", {"fdname": f"{device}.{os.getpid()}.{n}"}, [os.eventfd(0)])


def migrate(uri):
    do("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    do("migrate", {"uri": uri})
    while True:
        event = receive("event")
        status = event["event"] == "MIGRATION" and event["data"]["status"]
        if status == "completed":
            break
        if status in ("failed", "cancelled"):
            sys.exit(f"qmp.py: migration {status}")


receive("QMP")
do("qmp_capabilities", {})
if sys.argv[2] == "unplug":
    unplug(sys.argv[3])
elif sys.argv[2] == "migrate":
    migrate(sys.argv[3])
else:
    print(json.dumps(do(sys.argv[2], json.loads(sys.argv[3]) if sys.argv[3:] else {})))
