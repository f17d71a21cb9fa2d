#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two `xvm peer` processes, wherever their commands run them: how much they do in a second.

peer.py MODE SIZE ADDR SECONDS SERVER... -- CLIENT...   prints a rate

The commands are what runs `xvm peer` at either end, up to and with the path of xvm.
"""
import subprocess
import sys


def start(cmd):
    return subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def hear(p, word):
    line = p.stdout.readline()
    if not line.startswith(word):
        sys.exit(f"peer said {line!r}, not {word}")
    return line.split()[1:]


mode, size, addr, seconds, *rest = sys.argv[1:]
at = rest.index("--")
server = start(rest[:at] + ["peer", "serve", mode, size, addr])
port = hear(server, "port")[0]
client = start(rest[at + 1 :] + ["peer", "connect", mode, size, addr, port])
hear(client, "up")
# Warmed up in the same way that is measured: by then it is on whatever path it takes.
for ms in (1500, int(float(seconds) * 1000)):
    print("go", ms, file=client.stdin)
    count, took = hear(client, "done")
client.stdin.close()
client.wait(20)
# Not killed: a vmctl that is killed takes its channel into the guest with it.
server.terminate()
server.wait(20)
print(f"{float(count) / float(took):.3f}")
