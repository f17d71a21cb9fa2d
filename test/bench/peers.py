# SPDX-License-Identifier: Apache-2.0
"""Peers: a pair of processes, or a program of others and its load, of which timed runs are asked.

Each has start(), run(seconds) -> Run, facts and stop(); what goes wrong is a Trouble with a line that says it.
"""

import json
import os
import re
import select
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass

from apps import APPS

E = os.environ
TICK = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    pass


class Absent(Trouble):
    """The peer cannot be had on this machine: it is left out, and the report says why."""


@dataclass
class Run:
    count: float
    seconds: float
    cpu: float  # seconds of both ends and the daemon; None: not known

    @property
    def rate(self):
        return self.count / self.seconds


# ---- processes ----


def cpu_of(pid):
    """Nanoseconds so far, of all threads that live; and what its children had used in ticks."""
    total = 0
    try:
        for t in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{t}/schedstat") as f:
                total += int(f.read().split()[0])
    except (OSError, IndexError):
        pass
    return total / 1e9


def tree_of(pid):
    pids = [pid]
    for p in pids:
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/children") as f:
                    pids += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return pids


def cpu_of_tree(pid):
    """Seconds of a process, its children, and those that have ended."""
    total = 0
    for p in tree_of(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                total += sum(int(x) for x in f.read().rpartition(")")[2].split()[11:15])
        except OSError:
            pass
    return total / TICK


def busy():
    """Seconds that the machine's CPUs have worked, for whomever."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:3]) + sum(v[5:8])) / TICK


class Cgroup:
    """Whose connections go by the sockmap. Made when first wanted, for the whole run."""

    path = None
    why = None
    proc = None

    @classmethod
    def get(cls):
        if cls.why:
            raise Absent(cls.why)
        if cls.path:
            return cls.path
        try:
            cls._make()
        except Trouble as e:
            cls.why = str(e)
            raise Absent(cls.why)
        return cls.path

    @classmethod
    def _make(cls):
        loader = f"{E['B']}/test/bench/sockmap"
        if not os.path.exists(loader) or not os.path.exists(loader + ".bpf.o"):
            raise Trouble("sockmap: not built (needs libbpf-dev and clang)")
        mnt = f"{E['T']}/cgroup"
        os.makedirs(mnt, exist_ok=True)
        r = subprocess.run(["mount", "-t", "cgroup2", "none", mnt], capture_output=True, text=True)
        if r.returncode:
            raise Trouble(f"sockmap: no cgroup2: {r.stderr.strip()}")
        path = f"{mnt}/xvm-bench-{os.path.basename(E['T'])}"
        os.mkdir(path)
        cls.path = path
        cls.proc = subprocess.Popen([loader, loader + ".bpf.o", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    text=True)
        line = cls.proc.stdout.readline().strip()
        if line != "ready":
            cls.end()
            raise Trouble(f"sockmap: the kernel refuses: {line.removeprefix('bad ') or 'no answer'}")

    @classmethod
    def end(cls):
        if cls.proc:
            cls.proc.stdin.close()
            cls.proc.wait()
            cls.proc = None
        if cls.path:
            for _ in range(100):
                try:
                    os.rmdir(cls.path)
                    break
                except OSError:
                    time.sleep(0.02)
            subprocess.run(["umount", "-l", os.path.dirname(cls.path)], check=False)
            cls.path = None


# peer -> namespace of the client, of the server, the server's address, what is preloaded, environment
WHERE = {
    "veth": ("a", "b", "B4", "", {}),
    "loopback": ("a", "a", "127.0.0.1", "", {}),
    "unix": ("a", "a", "unix", "", {}),
    "sockmap": ("a", "b", "B4", "", {}),
    "xvm": ("a", "b", "B4", "cs", {}),
    "xvm-nospin": ("a", "b", "B4", "cs", {"XVM_SPIN_US": "0"}),
    "far": ("a", "c", "C4", "", {}),
    "xvm-far": ("a", "c", "C4", "c", {}),
    "veth-idle": ("a", "b", "B4", "", {}),
    "xvm-idle": ("a", "b", "B4", "cs", {}),
}


class Pair:
    """What all peers with sockets have in common."""

    def __init__(self, name, case, index):
        self.name, self.case = name, case
        self.ns_client, self.ns_server, addr, self.preload, self.env = WHERE[name]
        self.addr = E.get(addr, addr)
        self.dir = f"{E['T']}/{name}"
        self.port = 7000 + index
        self.server = None
        self.facts = {}

    def cpus(self):
        return ("0", "1") if self.case["cpus"] == "two" else ("0", "0")

    def command(self, args, client, user=None):
        ns, cpu = (self.ns_client, self.cpus()[1]) if client else (self.ns_server, self.cpus()[0])
        cmd = []
        if self.name == "sockmap":
            cmd += ["sh", "-c", f'echo $$ >{Cgroup.get()}/cgroup.procs && exec "$@"', "sh"]
        cmd += ["nsenter", f"--net=/run/netns/{ns}", "taskset", "-c", cpu]
        if user:
            cmd += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        env = dict(self.env)
        if ("c" if client else "s") in self.preload:
            env["LD_PRELOAD"] = f"{E['T']}/libxvm.so"
        return cmd + ["env"] + [f"{k}={v}" for k, v in env.items()] + args

    def rows(self, *pids):
        r = subprocess.run([f"{E['B']}/xvm", "ss", "--json"], capture_output=True, text=True, timeout=20)
        return [r for r in json.loads(r.stdout or "[]") if r["pid"] in pids]

    def shared(self):
        return self.preload == "cs" and self.case.get("mode") != "crr"

    def stop(self):
        if self.server:
            end(self.server)
        self.server = None
        shutil.rmtree(self.dir, ignore_errors=True)


def end(proc):
    if proc.poll() is None:
        proc.terminate()
        try:
            proc.wait(5)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()
    for f in (proc.stdin, proc.stdout):
        if f:
            f.close()


def line_of(proc, want, seconds, who):
    ready, _, _ = select.select([proc.stdout], [], [], seconds)
    line = proc.stdout.readline().strip() if ready else None
    if line is None:
        raise Trouble(f"the {who} hangs: no answer for {seconds:.0f} s")
    if not line.startswith(want):
        raise Trouble(f"{who}: {line.removeprefix('bad ') or 'ended'}")
    return line.split()


class Load(Pair):
    """load.c at both ends; or at one, with a server of APPS."""

    def __init__(self, name, case, index):
        super().__init__(name, case, index)
        self.client = None

    def start(self):
        c = self.case
        os.makedirs(self.dir, exist_ok=True)
        where = f"{self.dir}/sock" if self.addr == "unix" else self.addr
        load = [f"{E['B']}/test/bench/load"]
        args = ["--mode", c["mode"], "--wait", c["wait"], "--addr", where]
        args += ["--size", str(c["size"])] if "size" in c else []
        args += ["--read", str(c["read"])] if "read" in c else []
        app = APPS.get(c["kind"])
        if app:
            self.port_, extra = self.serve_app(app, where), app["load"]
        else:
            self.server = spawn(self.command(load + ["serve"] + args, False), self.env_log())
            self.port_, extra = line_of(self.server, "port", 10, "server")[1], []
        args += ["--port", str(self.port_), "--conns", str(c.get("conns", 1))] + extra
        self.client = spawn(self.command(load + ["connect"] + args, True), self.env_log())
        line_of(self.client, "up", 20, "client")
        self.warm()
        if self.name.endswith("-idle"):
            self.open_idle(c["idle"])
        self.before = self.bytes() if self.shared() else None

    def env_log(self):
        return f"{self.dir}/log"

    def serve_app(self, app, where):
        args = app["server_unix" if self.addr == "unix" else "server"].format(
            addr=where, port=self.port, dir=self.dir
        )
        self.server = spawn(self.command(args.split(), False), self.env_log(), out=False)
        await_port(self, f"{self.dir}/sock" if self.addr == "unix" else None)
        return self.port

    def warm(self):
        """Until all connections are on the ring, or, for others, a moment."""
        until = time.monotonic() + 8
        self.go(0.03)
        while self.shared():
            rows = self.rows(self.client.pid)
            if rows and all(r["path"] == "ring" or (self.case["mode"] == "stream" and r["path"] == "ring/tcp") for r in rows):
                self.facts["path"] = "ring"
                break
            if time.monotonic() > until:
                raise Trouble(f"not on the ring: {[(r['path'], r['reason']) for r in rows][:3]}")
            self.go(0.03)
        self.go(0.03)

    def open_idle(self, n):
        before = self.memory()
        self.client.stdin.write(f"open {n}\n")
        self.client.stdin.flush()
        line_of(self.client, "opened", 120, "client")
        after = self.memory()
        self.facts["memory_per_connection"] = {k: round((after[k] - before[k]) / n) for k in before}
        if self.shared():
            rows = self.rows(self.client.pid)
            self.facts["idle_on_ring"] = sum(r["path"] == "ring" for r in rows) / len(rows)
        # What it costs to have them, while nothing happens.
        pids = [self.client.pid, self.server.pid]
        pids += [int(E["XVMD"])] if self.preload else []
        start, t = sum(map(cpu_of, pids)), time.monotonic()
        time.sleep(0.5 if n < 10000 else 1)
        self.facts["idle_cpu"] = (sum(map(cpu_of, pids)) - start) / (time.monotonic() - t)

    def memory(self):
        """Bytes: of both processes (their share of what they share), and by what the machine has less."""
        total = 0
        for p in (self.client.pid, self.server.pid):
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        with open("/proc/meminfo") as f:
            free = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
        return dict(processes=total << 10, machine=-free << 10)

    def go(self, seconds):
        self.client.stdin.write(f"go {seconds * 1000:.0f}\n")
        self.client.stdin.flush()
        w = line_of(self.client, "done", 20 + 4 * seconds, "client")
        return float(w[1]), float(w[2])

    def used(self):
        cpu = cpu_of(self.client.pid) + sum(map(cpu_of, tree_of(self.server.pid)))
        return cpu + (cpu_of(int(E["XVMD"])) if self.preload else 0)

    def run(self, seconds):
        # It makes 20,000 connections at most.
        if self.case["mode"] == "crr":
            self.stop()
            self.start()
        before = self.used()
        count, took = self.go(seconds)
        return Run(count / self.case.get("per", 1), took, self.used() - before)

    def bytes(self):
        """That the client has sent by either path."""
        rows = self.rows(self.client.pid)
        return [sum(r["tx_" + k] for r in rows) for k in ("ring", "tcp")]

    def finish(self):
        """Was it what it says to be?"""
        if not self.shared():
            return
        ring, tcp = (a - b for a, b in zip(self.bytes(), self.before))
        self.facts["ring_share"] = ring / max(ring + tcp, 1)
        if self.facts["ring_share"] < 0.98:
            raise Trouble(f"only {100 * self.facts['ring_share']:.0f} % of the bytes went by the ring")

    def stop(self):
        if self.client:
            end(self.client)
        self.client = None
        super().stop()


def spawn(cmd, log, out=True):
    """Its stderr, and stdout where nobody reads it, go to the log."""
    with open(log, "a") as f:
        return subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE if out else f, stderr=f, text=True)


def await_port(pair, unix=None, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if pair.server.poll() is not None:
            with open(f"{pair.dir}/log", errors="replace") as f:
                raise Trouble(f"the server ended: {f.read()[-200:].strip()}")
        if unix:
            if os.path.exists(unix):
                return
        elif subprocess.run(["nsenter", f"--net=/run/netns/{pair.ns_server}", "ss", "-Hltn", f"sport = :{pair.port}"],
                            capture_output=True).stdout:
            return
        time.sleep(0.02)
    raise Trouble("the server does not listen")


class App(Pair):
    """A server of APPS, and a client that is started for each run."""

    def start(self):
        self.app = app = APPS[self.case["kind"]]
        self.n = app.get("first", 1)
        os.makedirs(self.dir, exist_ok=True)
        user = app.get("user")
        unix = self.addr == "unix"
        self.words = dict(
            self.case, addr="127.0.0.1" if unix else self.addr, port=self.port, dir=self.dir, empty="",
            host=self.dir if unix else self.addr, pgbin=postgres_bin() if user else "",
            header="",
        )
        for name, text in app.get("files", {}).items():
            with open(f"{self.dir}/{name}", "w") as f:
                f.write(text.format(**self.words) if "{" in text else text)
        if user:
            shutil.copytree(postgres_data(), f"{self.dir}/data", symlinks=True)
            subprocess.run(["chown", "-R", f"{user}:", self.dir], check=True)
            os.chmod(f"{self.dir}/data", 0o700)
        self.server = spawn(self.command(self.fill(app["server"]), False, user), f"{self.dir}/log", out=False)
        await_port(self)
        if not app.get("whole"):
            # How many take how long.
            self.client(0.05)
        until = time.monotonic() + 6
        while True:
            try:
                return self.warm()
            except Trouble:
                # It may listen before it serves; and nobody may have looked at the right time.
                if time.monotonic() > until:
                    raise
            time.sleep(0.1)

    def fill(self, text, **more):
        # An argument may be empty, or have a blank in it.
        out = []
        for word in text.split():
            a = word.format(**self.words, **more)
            if word == "{header}":
                out += [] if self.case.get("keep", True) else ["-H", "Connection: close"]
            else:
                out.append(a)
        return out

    def warm(self):
        """Once longer, while somebody looks at the paths."""
        seen = []
        if self.shared():
            def look():
                for _ in range(200):
                    if done.wait(0.02):
                        return
                    seen.extend(r["path"] for r in self.rows(*tree_of(self.server.pid)))
                    if "ring" in seen:
                        return

            done = threading.Event()
            looker = threading.Thread(target=look)
            looker.start()
        try:
            self.client(0.3)
        finally:
            if self.shared():
                done.set()
                looker.join()
        if self.shared():
            self.facts["path"] = "ring" if "ring" in seen else "tcp"
            if "ring" not in seen and self.case.get("keep", True):
                raise Trouble(f"not on the ring: {sorted(set(seen)) or 'no connection seen'}")

    def client(self, seconds):
        """(rate, seconds, CPU) of one run of the client."""
        app = self.app
        seconds *= app.get("times", 1)
        if app.get("whole"):
            seconds = max(1, round(seconds))
            # iperf3's listens anew after each test.
            await_port(self)
        where = app.get("where_unix" if self.addr == "unix" else "where", "").format(**self.words)
        text = app["client"].replace("{where}", where)
        args = self.fill(text, secs=int(seconds), n=self.n)
        log = f"{self.dir}/client"
        with open(log, "w") as f:
            t = time.monotonic()
            p = subprocess.Popen(self.command(args, True), stdin=subprocess.DEVNULL, stdout=f, stderr=f)
            killer = threading.Timer(60 + 4 * seconds, p.kill)
            killer.start()
            _, status, used = os.wait4(p.pid, 0)
            p.returncode = status
            killer.cancel()
        took = time.monotonic() - t
        with open(log) as f:
            out = f.read()
        m = re.search(app["read"], out)
        if status or not m:
            raise Trouble(f"{args[0]}: {out[-200:].strip() or 'status %d' % status}")
        value = float(m[1]) * app.get("scale", 1)
        if not app.get("whole"):
            self.n = max(int(value * seconds), 200)
        return value, took, used.ru_utime + used.ru_stime

    def run(self, seconds):
        xvmd = int(E["XVMD"])
        before = cpu_of_tree(self.server.pid) + (cpu_of(xvmd) if self.preload else 0)
        value, took, cpu = self.client(seconds)
        cpu += cpu_of_tree(self.server.pid) + (cpu_of(xvmd) if self.preload else 0) - before
        # The rate is the client's own; what it took to start does not count as time.
        return Run(value * took, took, cpu)

    def finish(self):
        pass


def postgres_bin():
    dirs = sorted(d for d in (f"/usr/lib/postgresql/{v}/bin" for v in os.listdir("/usr/lib/postgresql"))
                  if os.path.exists(d + "/postgres")) if os.path.isdir("/usr/lib/postgresql") else []
    if not dirs:
        raise Absent("PostgreSQL is not installed")
    return dirs[-1]


def postgres_data():
    """A database with pgbench's tables, made once and copied for each server."""
    top = f"{E['T']}/pg"
    if os.path.exists(f"{top}/ready"):
        return f"{top}/data"
    bin_ = postgres_bin()
    os.makedirs(top)
    subprocess.run(["chown", "postgres:", top], check=True)
    as_pg = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    script = f"""cd {top} && {bin_}/initdb -A trust -N -E UTF8 --locale=C data &&
echo 'host all all 10.77.0.0/24 trust' >>data/pg_hba.conf &&
{bin_}/pg_ctl -D data -w -o "-c listen_addresses= -c unix_socket_directories={top} -c fsync=off" -l log start &&
pgbench -h {top} -i -s 1 -q postgres && {bin_}/pg_ctl -D data -w -m fast stop && touch ready"""
    r = subprocess.run(as_pg + ["bash", "-c", script], capture_output=True, text=True)
    if r.returncode:
        raise Trouble(f"no database: {(r.stdout + r.stderr)[-300:]}")
    return f"{top}/data"


class Raw:
    """rawring.c: started for each run."""

    def __init__(self, name, case, index):
        self.case, self.facts = case, {}

    def start(self):
        pass

    def run(self, seconds):
        c = self.case
        cpus = ("0", "1") if c["cpus"] == "two" else ("0", "0")
        how = "sleep" if c["cpus"] == "one" or c["part"] == "nospin" else "spin"
        size = c["size"]
        r = subprocess.run([f"{E['B']}/test/bench/rawring", c["mode"], str(size), f"{seconds * 1000:.0f}", *cpus, how],
                           capture_output=True, text=True, timeout=30 + 4 * seconds)
        w = r.stdout.split()
        if r.returncode or w[:1] != ["done"]:
            raise Trouble(f"rawring: {r.stderr.strip()}")
        return Run(float(w[1]) / c.get("per", 1), float(w[2]), None)

    def finish(self):
        pass

    def stop(self):
        pass


class Ucx:
    """ucx_perftest on UCX's shared memory only, as the stream that it has."""

    def __init__(self, name, case, index):
        self.case, self.facts, self.n, self.port = case, {}, 200, 13900 + index

    def start(self):
        if not shutil.which("ucx_perftest"):
            raise Absent("UCX: ucx_perftest is not installed (ucx-utils)")
        self.go()
        self.go()

    def go(self):
        c = self.case
        test = "stream_lat" if c["mode"] == "rtt" else "stream_bw"
        args = ["nsenter", "--net=/run/netns/a", "env", "UCX_TLS=posix,self", "ucx_perftest"]
        opts = ["-t", test, "-s", str(c["size"]), "-n", str(self.n), "-w", str(max(self.n // 20, 10)), "-p", str(self.port), "-f"]
        server = subprocess.Popen(args + opts + ["-c", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 10
            while not subprocess.run(["nsenter", "--net=/run/netns/a", "ss", "-Hltn", f"sport = :{self.port}"],
                                     capture_output=True).stdout:
                if time.monotonic() > until or server.poll() is not None:
                    raise Trouble("ucx_perftest does not listen")
            r = subprocess.run(args + ["127.0.0.1"] + opts + ["-c", "1"], capture_output=True, text=True, timeout=60)
            server.wait(20)
        except subprocess.TimeoutExpired:
            raise Trouble("ucx_perftest hangs")
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
        rows = [line.split() for line in r.stdout.splitlines() if line.strip()[:1].isdigit()]
        if r.returncode or not rows or len(rows[-1]) < 4:
            raise Trouble(f"ucx_perftest: {(r.stdout + r.stderr)[-200:]}")
        # Half a round trip, or a message, in µs.
        each = float(rows[-1][3]) * 1e-6 * (2 if c["mode"] == "rtt" else 1)
        return int(rows[-1][0]), max(each, 1e-9)

    def run(self, seconds):
        n, each = self.go()
        self.n = max(int(seconds / each), 100)
        c = self.case
        scale = c["size"] / c.get("per", 1) if c["mode"] == "stream" else 1
        return Run(n * scale, n * each, None)

    def finish(self):
        pass

    def stop(self):
        pass


def make(name, case, index):
    if name == "raw":
        return Raw(name, case, index)
    if name == "ucx":
        return Ucx(name, case, index)
    if case["kind"] == "load" or "load" in APPS[case["kind"]]:
        return Load(name, case, index)
    return App(name, case, index)
