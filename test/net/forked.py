#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a fork has of its parent's connections once it has closed them.

forked.py ADDR PORT CONNECTIONS   echoes on each, then forks; the child's child goes on with one of
                                  them, closes it, and says which eventfds and rings are left
"""

import glob
import os
import socket
import sys

addr, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def talk(conn, times):
    for i in range(times):
        message = b"%d" % i * 1000
        conn.sendall(message)
        if conn.recv(len(message), socket.MSG_WAITALL) != message:
            sys.exit("the echo differs")


def left():
    fds = 0
    for name in glob.glob("/proc/self/fd/*"):
        try:
            fds += os.readlink(name) == "anon_inode:[eventfd]"
        except OSError:
            pass
    with open("/proc/self/maps") as f:
        return f"{fds} eventfds, {sum('memfd:xvm-half' in line for line in f)} halves"


conns = [socket.create_connection((addr, port)) for _ in range(count)]
for conn in conns:
    talk(conn, 300)
print("parent:", left(), flush=True)
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
for conn in conns[1:]:
    conn.close()
talk(conns[0], 300)
conns[0].close()
print("child:", left(), flush=True)
