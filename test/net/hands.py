# SPDX-License-Identifier: Apache-2.0
"""A process whose peers are one process after another: each gets the vector of the last, while the
connections to those that have gone are still open and used.

hands.py serve ADDR PORT N             answers byte by byte, N times, then is killed while it sleeps
hands.py connect ADDR PORT TIMES N     comes to the next one when the last has gone
"""
import os
import select
import signal
import socket
import sys
import time

addr, port = sys.argv[2], int(sys.argv[3])


def serve(n):
    listener = socket.create_server((addr, port), family=socket.AF_INET6 if ":" in addr else socket.AF_INET)
    print("ready", flush=True)
    c = listener.accept()[0]
    for _ in range(n):
        c.sendall(c.recv(1))
    # As one that crashes: what comes now is for nobody.
    os.kill(os.getpid(), signal.SIGKILL)


def trip(c, i):
    c.sendall(bytes([i % 251]))
    assert select.select([c], [], [], 20)[0], f"no answer to byte {i}"
    data = c.recv(1)
    if not data:
        raise ConnectionError
    assert data == bytes([i % 251])


def come():
    while True:
        try:
            c = socket.create_connection((addr, port))
            trip(c, 0)
            return c
        except ConnectionError:  # none yet, or one that was about to go
            time.sleep(0.01)


def connect(times, n):
    old = []
    for _ in range(times):
        c = come()
        for i in range(1, n):
            trip(c, i)
            # Rings what was another's vector.
            for o in old:
                try:
                    o.send(b"x")
                except OSError:
                    pass
        old.append(c)
        print("round", len(old), flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[4]))
connect(int(sys.argv[4]), int(sys.argv[5]))
