# SPDX-License-Identifier: Apache-2.0
"""qmp.py SOCKET COMMAND [ARGUMENTS]: has QEMU do it; prints what it returns, as JSON."""
import json, socket, sys

s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
lines = s.makefile("rw")


def do(command, arguments):
    json.dump({"execute": command, "arguments": arguments}, lines)
    lines.flush()
    for line in lines:
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(f"qmp.py: {command}: {answer['error']['desc']}")
        if "return" in answer:
            return answer["return"]
    sys.exit("qmp.py: QEMU is gone")


lines.readline()
do("qmp_capabilities", {})
print(json.dumps(do(sys.argv[2], json.loads(sys.argv[3]) if sys.argv[3:] else {})))
