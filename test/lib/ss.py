#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges the output of `xvm ss --json` or `xvm stats --json` on stdin.

ss.py ring PID...  0 if a connection of each PID, or of one of its descendants, is on the ring and
                 has moved bytes by it; ring:N demands N of each
ss.py tcp PID    0 if PID (or descendants) has connections and all are on TCP, with a reason, and
                 no byte went by ring
ss.py unseen PID...  0 if none of them has a connection
ss.py compat PID WHY  prints ring, or tcp and the reason; and WHY of one that has no connection
ss.py path PID   prints path and reason of each connection
ss.py fds PID    prints the fds of PID's connections
ss.py stat NAME  prints a counter

ss.py --wait XVM SECONDS ring[:N]|tcp PID... [while PID]  asks XVM itself until it is so. Exit status 3: one of
                 them has ended before, or it did not come about in time.
"""

import contextlib
import io
import json
import subprocess
import sys
import time

FIELDS = "pid comm fd local remote path medium reason tx_ring rx_ring tx_tcp rx_tcp".split()


def parents():
    """pid -> parent, of all processes."""
    import os

    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as f:
                    found[int(name)] = int(f.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    return found


def family(pid):
    up = parents()
    members = {pid}
    while True:
        more = {p for p, q in up.items() if q in members} - members
        if not more:
            return members
        members |= more


def rows(data):
    if isinstance(data, dict):
        data = next(v for v in data.values() if isinstance(v, list))
    for row in data:
        missing = [f for f in FIELDS if f not in row]
        if missing:
            sys.exit(f"xvm ss --json: a row lacks {', '.join(missing)}: {row}")
    return data


def text(row):
    return " ".join(f"{f}={row[f]}" for f in FIELDS)


def say(found):
    for row in found[:3]:
        print(text(row))
    if len(found) > 3:
        print(f"and {len(found) - 3} more")


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait(xvm, seconds, what, *pids):
    end = time.monotonic() + float(seconds)
    why = "nothing yet"
    needed = [p for p in pids if p != "while"]
    if "while" in pids:
        pids = pids[: pids.index("while")]
    while True:
        alive = all(running(p) for p in needed)
        r = subprocess.run([xvm, "ss", "--json"], capture_output=True, text=True, timeout=20)
        try:
            if r.returncode:
                sys.exit(r.stderr)
            with contextlib.redirect_stdout(io.StringIO()) as said:
                judge(what, pids, json.loads(r.stdout))
            print(said.getvalue(), end="")
            return
        except SystemExit as e:
            # What was said of one that has ended by now says nothing.
            why = f"{said.getvalue()}{e}" if alive else why
        if not alive:
            print(f"a process ended before it was seen on path {what}: {why}")
            sys.exit(3)
        if time.monotonic() > end:
            print(f"process {' '.join(pids)} is not on path {what}: {why}")
            sys.exit(3)
        time.sleep(0.01)


def main():
    what, *args = sys.argv[1:]
    if what == "--wait":
        wait(*args)
    else:
        judge(what, args, json.load(sys.stdin))


def judge(what, args, data):
    if what == "stat":
        counters = data.get("counters", data)
        if args[0] not in counters:
            sys.exit(f"xvm stats --json has no counter {args[0]}: {' '.join(map(str, counters))}")
        print(counters[args[0]])
        return
    if what == "fds":
        print(*(r["fd"] for r in rows(data) if r["pid"] == int(args[0])))
        return
    if what == "compat":
        mine = [r for r in rows(data) if r["pid"] in family(int(args[0]))]
        if any("ring" in r["path"] and r["tx_ring"] + r["rx_ring"] > 0 for r in mine):
            print("ring", "-", sep="\t")
        elif mine:
            # The most frequent reason, so that one that has just begun does not count.
            reasons = [r["reason"] for r in mine]
            print("tcp", max(reasons, key=reasons.count), sep="\t")
        elif args[1]:
            print("tcp", args[1], sep="\t")
        else:
            sys.exit(f"no connection of process {args[0]}")
        return
    for arg in args:
        members = family(int(arg))
        mine = [r for r in rows(data) if r["pid"] in members]
        if what == "path":
            for r in mine:
                print(r["path"], r["reason"])
        elif what.startswith("ring"):
            on = [r for r in mine if "ring" in r["path"] and r["tx_ring"] + r["rx_ring"] > 0]
            if len(on) < int(what.partition(":")[2] or 1):
                say(mine)
                sys.exit(f"{len(on)} connections of process {arg} on the ring, of {len(mine)}")
            say(on)
        elif what == "unseen":
            if mine:
                say(mine)
                sys.exit(f"process {arg} is seen")
        elif what == "tcp":
            say(mine)
            if not mine:
                sys.exit(f"no connection of process {arg}")
            for r in mine:
                if r["path"] != "tcp" or r["tx_ring"] or r["rx_ring"]:
                    sys.exit(f"not on TCP: {text(r)}")
                if r["reason"] in ("", "none", "-", None):
                    sys.exit(f"no reason: {text(r)}")


main()
