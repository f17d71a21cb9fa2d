#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""inject.py BUILD DIR redis|nginx server|client [RUN [TIMES]]

Runs a session of a server and a client, both preloaded, again and again. In each run one system call
that the library makes for itself fails in the one or the other (hook.c): the k-th with an errno that
it can have, for each k until no more is reached, alone and with all of its kind that follow. The
session must end as it does without, byte for byte and in time, and what is on TCP must have a reason.

RUN: only that one, as a failure names it: KIND:K:ERRNO, or KIND:K:ERRNO:on; TIMES over.
"""

import contextlib
import errno
import json
import mmap
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

CALLS = 2048
CALL = struct.Struct("16s28si")
HEAD = struct.Struct("16siiiiii")
LOSE_FDS = 1000
LIMIT = 30  # seconds that a session may take; it takes a tenth of one

ERRNOS = {
    "mmap": "ENOMEM EPERM EAGAIN",
    "memfd_create": "EMFILE ENFILE ENOMEM EPERM ENOSYS",
    "eventfd": "EMFILE ENFILE ENOMEM EPERM",
    "socket": "EMFILE ENFILE ENOMEM EPERM EAFNOSUPPORT",
    "connect": "ECONNREFUSED EAGAIN EACCES EPERM ENOENT ENOMEM",
    "sendmsg": "EAGAIN ENOBUFS ENOMEM EPIPE ECONNRESET EPERM ETOOMANYREFS",
    "recvmsg": "EAGAIN ENOMEM EPERM LOSE_FDS",
    "ppoll": "EINTR ENOMEM EPERM",
    "dup": "EMFILE EINVAL EPERM",
    "fcntl": "EPERM EINVAL",
    "ftruncate": "ENOMEM ENOSPC EPERM",
    "fstat": "EPERM ENOMEM",
    "getsockopt": "EPERM ENOMEM",
    "open": "EMFILE ENFILE ENOMEM EACCES ENOENT",
    "madvise": "ENOMEM EPERM EAGAIN",
    "epoll_ctl": "ENOMEM ENOSPC EPERM",
    "write": "EAGAIN",
}


def number(name):
    return LOSE_FDS if name == "LOSE_FDS" else getattr(errno, name)


class Failure(Exception):
    pass


class Fault:
    """The record that hook.c works by."""

    def __init__(self, path, kind="", at=0, err="", on=False):
        self.path = path
        with open(path, "wb") as f:
            f.write(HEAD.pack(kind.encode(), at, number(err) if err else 0, on, 0, 0, 0))
            f.truncate(HEAD.size + CALLS * CALL.size)

    def read(self):
        """How often it failed, and all calls."""
        with open(self.path, "rb") as f:
            data = f.read()
        n, fired = HEAD.unpack_from(data)[5:7]
        calls = []
        for i in range(min(n, CALLS)):
            kind, file, line = CALL.unpack_from(data, HEAD.size + i * CALL.size)
            calls.append((kind.rstrip(b"\0").decode(), file.rstrip(b"\0").decode(), line))
        return fired, calls


class Session:
    """One of several that run at the same time: it has a directory and a port of its own."""

    def __init__(self, build, directory, index):
        self.build = build
        self.dir = os.path.join(directory, str(index))
        os.mkdir(self.dir)
        self.port = 7000 + index
        self.address = "127.0.0.1"
        self.prepare()

    def prepare(self):
        pass

    def start(self, side, faulty, fault, command, **pipes):
        env = dict(os.environ, XVM_OFFER_AFTER="1", XVM_RING_SIZE="8k", XVM_LOG="1")
        env["LD_PRELOAD"] = f"{self.build}/libxvm.so"
        if side == faulty:
            env["LD_PRELOAD"] = f"{self.build}/test/fault/libxvm-fault.so"
            env["XVM_FAULT_FILE"] = fault.path
        log = open(os.path.join(self.dir, side + ".log"), "wb")
        p = subprocess.Popen(command, env=env, stderr=log, cwd=self.dir, process_group=0, **pipes)
        log.close()
        self.running[side] = p
        return p

    def log(self, side):
        with open(os.path.join(self.dir, side + ".log"), errors="replace") as f:
            return f.read()

    def connect(self):
        """To see that the server is there."""
        while True:
            s = socket.socket()
            s.settimeout(max(0.01, self.end - time.monotonic()))
            if s.connect_ex((self.address, self.port)) == 0:
                return s
            s.close()
            if self.running["server"].poll() is not None or time.monotonic() > self.end:
                raise Failure(f"the server does not listen: {self.log('server')[-500:]}")
            time.sleep(0.001)

    def ask(self, client, request, answer):
        """What the client is told on stdin, and what it has to print then."""
        client.stdin.write(request)
        client.stdin.flush()
        self.expect(client, answer)

    def expect(self, client, answer):
        got = b""
        while len(got) < len(answer):
            chunk = os.read(client.stdout.fileno(), 65536)
            if not chunk:
                raise Failure(f"the client ended: {self.log('client')[-300:]}")
            got += chunk
        if got != answer:
            at = next((i for i, (x, y) in enumerate(zip(got, answer)) if x != y), len(answer))
            raise Failure(f"wrong from byte {at} on: {got[at : at + 40]} not {answer[at : at + 40]}")

    def reasons(self):
        """Each end is on the ring, or there is a reason why it is not."""
        r = subprocess.run([f"{self.build}/xvm", "ss", "--json"], capture_output=True, timeout=LIMIT)
        rows = json.loads(r.stdout)
        if isinstance(rows, dict):
            rows = next(v for v in rows.values() if isinstance(v, list))
        paths = {}
        for side, p in self.running.items():
            pids = {p.pid, *children(p.pid)}
            mine = [r for r in rows if r["pid"] in pids and str(self.port) in r["local"] + r["remote"]]
            if not mine:
                paths[side] = "unseen"
                if "xvm[" not in self.log(side):
                    raise Failure(f"nothing says why the {side} is on TCP")
            for row in mine:
                paths[side] = row["path"]
                if row["path"] == "tcp":
                    paths[side] = row["reason"]
                    if row["reason"] in ("", "-", "none", None):
                        raise Failure(f"the {side} is on TCP for no reason")
        return paths

    def ended(self, side):
        try:
            status = self.running[side].wait(max(0.01, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failure(f"the {side} does not end") from None
        if status:
            raise Failure(f"the {side} ended with {status}: {self.log(side)[-500:]}")

    def run(self, faulty, fault):
        """The paths of both; or Failure."""
        self.running = {}
        self.end = time.monotonic() + LIMIT
        alarm = threading.Timer(LIMIT, self.hang)
        self.hung = ""
        alarm.start()
        try:
            return self.scene(faulty, fault)
        except (Failure, OSError, ValueError) as e:
            raise Failure(f"hangs: {self.hung}" if self.hung else str(e)) from None
        finally:
            alarm.cancel()
            for p in self.running.values():
                # With its children, also where it has ended itself.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(p.pid, signal.SIGKILL)
                p.wait()
                for f in (p.stdin, p.stdout):
                    if f:
                        f.close()

    def hang(self):
        for side, p in self.running.items():
            for pid in [p.pid, *children(p.pid)]:
                r = subprocess.run(
                    ["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 8"],
                    capture_output=True, text=True, timeout=60,
                )  # fmt: skip
                self.hung += f"\n{side}:\n" + "\n".join(x for x in r.stdout.split("\n") if x[:1] == "#")
        for p in self.running.values():
            p.kill()


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


class Redis(Session):
    def prepare(self):
        self.small = b"".join(b"%d," % i for i in range(700))
        self.big = b"".join(b"%x-" % (i * i) for i in range(6000))

    def scene(self, faulty, fault):
        self.start("server", faulty, fault,
                   ["redis-server", "--bind", self.address, "--port", str(self.port), "--save", "", "--hz", "100",
                    "--appendonly", "no", "--enable-debug-command", "local"],
                   stdout=subprocess.DEVNULL)  # fmt: skip
        control = self.connect()
        client = self.start("client", faulty, fault, ["redis-cli", "--raw", "-h", self.address, "-p", str(self.port)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        for i in range(6):
            self.ask(client, b"ECHO %d\n" % i, b"%d\n" % i)
        for name, value in ((b"small", self.small), (b"big", self.big)):
            self.ask(client, b"SET %s %s\n" % (name, value), b"OK\n")
            self.ask(client, b"GET %s\n" % name, value + b"\n")
        self.ask(client, b"DEBUG SLEEP 0.002\n", b"OK\n")
        paths = self.reasons()
        self.ask(client, b"APPEND small x\nGET small\n", b"%d\n%sx\n" % (len(self.small) + 1, self.small))
        client.stdin.close()
        self.expect(client, b"")
        self.ended("client")
        control.sendall(b"SHUTDOWN NOSAVE\r\n")
        self.ended("server")
        control.close()
        return paths


class Nginx(Session):
    def prepare(self):
        os.mkdir(f"{self.dir}/www")
        self.files = {"0": b"nothing much\n", "1": os.urandom(3000), "2": os.urandom(50000)}
        for name, data in self.files.items():
            with open(f"{self.dir}/www/{name}", "wb") as f:
                f.write(data)
        temp = "".join(f"{x}_temp_path {self.dir}/{x};\n" for x in "client_body proxy fastcgi uwsgi scgi".split())
        with open(f"{self.dir}/nginx.conf", "w") as f:
            f.write(f"""
                daemon off; worker_processes 1; pid {self.dir}/pid; error_log stderr warn; user root;
                events {{ worker_connections 64; }}
                http {{
                    sendfile on; access_log off; server_tokens off; etag off; add_header Last-Modified "";
                    keepalive_requests 1000; {temp}
                    server {{ listen {self.address}:{self.port}; root {self.dir}/www; }}
                }}""")

    def get(self, client, name):
        self.ask(client, f"GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            c = os.read(client.stdout.fileno(), 1)
            if not c:
                raise Failure("the client ended")
            head += c
        if not head.startswith(b"HTTP/1.1 200 ") or b"Content-Length: %d\r\n" % len(self.files[name]) not in head:
            raise Failure(f"not what was asked for: {head}")
        self.expect(client, self.files[name])

    def scene(self, faulty, fault):
        server = self.start("server", faulty, fault, ["nginx", "-c", f"{self.dir}/nginx.conf"],
                            stdout=subprocess.DEVNULL)  # fmt: skip
        self.connect().close()
        client = self.start("client", faulty, fault, [f"{self.build}/test/fault/talk", self.address, str(self.port)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        for name in "000121":
            self.get(client, name)
        paths = self.reasons()
        for name in "210":
            self.get(client, name)
        client.stdin.close()
        self.expect(client, b"")
        self.ended("client")
        server.send_signal(signal.SIGTERM)
        self.ended("server")
        bad = re.search(r"exited on signal|\[(alert|crit|emerg)\].*", self.log("server"))
        if bad:
            raise Failure(bad.group(0))
        return paths


def plan(calls):
    """The runs: each call once and with all that follow, and all errnos of each place."""
    seen = {}
    runs = []
    for call in calls:
        kind = call[0]
        names = ERRNOS[kind].split()
        at = seen[kind] = seen.get(kind, 0) + 1
        times = seen[call] = seen.get(call, 0) + 1
        for i, name in enumerate(names):
            if times == 1 or i == times % len(names):
                runs.append((kind, at, name, False))
        name = names[times % len(names)]
        runs.append((kind, at, name if name != "EINTR" else names[0], True))
    return runs


def main():
    build, directory, what, faulty = sys.argv[1:5]
    kind = {"redis": Redis, "nginx": Nginx}[what]
    sessions = [kind(build, directory, i) for i in range(2)]
    began = time.monotonic()

    def fault(session, *args):
        return Fault(f"{session.dir}/fault", *args)

    calls = []
    for session in sessions:  # the second finds what is only there sometimes
        f = fault(session)
        paths = session.run(faulty, f)
        if set(paths.values()) != {"ring"}:
            sys.exit(f"without any failure: {paths}")
        calls = max(calls, f.read()[1], key=len)
    todo = queue.Queue()
    runs = plan(calls)
    if len(sys.argv) > 5:
        kind, at, name, *on = sys.argv[5].split(":")
        runs = [(kind, int(at), name, bool(on))] * int([*sys.argv, 1][6])
    for run in runs:
        todo.put(run)
    bad, outcomes, missed = [], {}, []

    def work(session):
        while True:
            try:
                run = todo.get_nowait()
            except queue.Empty:
                return
            f = fault(session, *run)
            try:
                paths = session.run(faulty, f)
                outcome = " ".join(f"{side}={path}" for side, path in sorted(paths.items()))
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            except Failure as e:
                bad.append((run, str(e)))
                print(f"{run[0]}:{run[1]}:{run[2]}{':on' if run[3] else ''}: {e}", flush=True)
            if not f.read()[0]:
                missed.append(run)

    threads = [threading.Thread(target=work, args=(s,)) for s in sessions]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - began
    print(f"{what}, in the {faulty}: {len(calls)} calls at {len(set(calls))} places, {len(runs)} runs, {took:.0f} s")
    for outcome, n in sorted(outcomes.items(), key=lambda x: -x[1]):
        print(f"{n:5} {outcome}")
    # How often something is called depends on the time that things take.
    if len(missed) > len(runs) / 10:
        sys.exit(f"{len(missed)} of {len(runs)} failures did not come about")
    if bad:
        sys.exit(f"{len(bad)} of {len(runs)} runs fail")


main()
