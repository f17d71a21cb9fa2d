# SPDX-License-Identifier: Apache-2.0
"""What test/bench/run runs: see cases.py for what is measured, peers.py for how, report.py for what is said."""

import argparse
import fnmatch
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time

import cases
import peers
import report

FULL = dict(rounds=5, seconds=0.2, minutes=40, retries=2)
QUICK = dict(rounds=2, seconds=0.02, minutes=3, retries=0)
# A run beside which somebody else had more than so much of a core is repeated, a few times.
NOISE = 0.3


def say(text, end="\n"):
    print(text, end=end, flush=True)


def wanted(case, names):
    full = f"{case['part']} {case['name']} {case['cpus']}"
    return not names or any(n in (case["part"], case["name"]) or fnmatch.fnmatch(full, n) for n in names)


def spread(values):
    return dict(median=statistics.median(values), min=min(values), max=max(values), samples=values)


class Case:
    def __init__(self, row, opt, deadline):
        self.row, self.opt, self.deadline = row, opt, deadline
        self.runs, self.noise, self.facts, self.absent = {}, [], {}, {}

    def start(self):
        self.peers = {}
        names = self.row["peers"]
        if self.opt.quick and self.whole():
            names = [names[0], "xvm"]
        for i, name in enumerate(names):
            if self.opt.peers and name not in self.opt.peers:
                continue
            p = peers.make(name, self.row, i)
            self.peers[name] = p
            try:
                p.start()
            except (peers.Trouble, OSError, subprocess.SubprocessError) as e:
                self.lose(name, e)
            else:
                self.runs[name] = []

    def whole(self):
        """Does its client know whole seconds only?"""
        return peers.APPS.get(self.row["kind"], {}).get("whole", False)

    def lose(self, name, why):
        self.absent[name] = dict(why=str(why) or repr(why), failed=not isinstance(why, peers.Absent))
        self.peers.pop(name).stop()
        self.runs.pop(name, None)

    def timed(self, p):
        for _ in range(1 + self.opt.retries):
            busy, t = peers.busy(), time.monotonic()
            run = p.run(self.opt.seconds)
            took = time.monotonic() - t
            busy = peers.busy() - busy
            # A run that does not know its own work keeps its CPUs busy.
            ours = run.cpu if run.cpu is not None else took * (2 if self.row["cpus"] == "two" else 1)
            noise = max(0, busy - ours) / took
            if noise < NOISE or time.monotonic() > self.deadline:
                break
        self.noise.append(noise)
        return run

    def measure(self):
        rounds = self.opt.rounds * self.row.get("slices", 1)
        if self.opt.quick:
            rounds = 1 if self.whole() else self.opt.rounds
        for i in range(rounds):
            names = list(self.peers)
            for name in names[i % len(names) :] + names[: i % len(names)] if names else []:
                try:
                    self.runs[name].append(self.timed(self.peers[name]))
                except (peers.Trouble, OSError, subprocess.SubprocessError) as e:
                    self.lose(name, e)

    def stop(self):
        for name, p in list(self.peers.items()):
            try:
                if self.runs.get(name):
                    p.finish()
            except (peers.Trouble, OSError, subprocess.SubprocessError) as e:
                self.lose(name, e)
                continue
            self.facts[name] = p.facts
            p.stop()

    def result(self):
        row = {k: v for k, v in self.row.items() if k not in ("peers", "owed")}
        row["unit"] = row.get("unit", "")
        row["noise"] = statistics.median(self.noise) if self.noise else 0
        row["absent"] = self.absent
        row["peers"] = {}
        for name, runs in self.runs.items():
            one = dict(rate=spread([r.rate for r in runs]), facts=self.facts.get(name, {}))
            if all(r.cpu is not None for r in runs):
                one["cpu"] = spread([r.cpu / max(r.count, 1) for r in runs])
            row["peers"][name] = one
        row["ratios"] = {
            f"{name}/{base}": self.ratio(name, base, lambda r: r.rate)
            for base in (self.row["peers"][0], "raw", "ucx", "xvm")
            for name in self.runs
            if name != base and base in self.runs
        }
        row["owed"] = [self.judge(o) for o in self.row["owed"]]
        return row

    def ratio(self, name, base, of):
        """Of neighbours in time: whatever came and went hit both."""
        return spread([of(a) / of(b) if of(b) else 0 for a, b in zip(self.runs[name], self.runs[base])])

    def judge(self, o):
        out = dict(o)
        out["text"] = o["text"] or "both ends on one core: " + self.row["name"]
        missing = [p for p in (o["peer"], o["over"]) if p and p not in self.runs]
        if missing:
            # A peer that this machine does not have owes nothing; ours, or one that failed, does.
            out["held"] = None
            out["why"] = self.absent.get(missing[0], dict(why="not asked for"))["why"]
            if missing[0].startswith("xvm") and missing[0] in self.absent:
                out["held"] = False
            return out
        if o["what"] == "rate":
            got = spread([r.rate for r in self.runs[o["peer"]]])
        elif o["what"] == "cpu":
            got = self.ratio(o["peer"], o["over"], lambda r: r.cpu / max(r.count, 1))
        else:
            got = self.ratio(o["peer"], o["over"], lambda r: r.rate)
        if o["what"] != "cpu" and "raw" in self.runs and o["over"] != "raw":
            # What no socket can be faster than, here and now.
            limit = self.ratio("raw", o["over"], lambda r: r.rate) if o["over"] else spread([r.rate for r in self.runs["raw"]])
            out["limit"] = limit["median"]
        got.pop("samples")
        out["got"] = got
        out["held"] = got["median"] >= o["least"] if "least" in o else got["median"] <= o["most"]
        return out


def headline(r):
    """One line of progress: ours against the first peer."""
    base = next(iter(r["peers"]), None)
    ours = next((n for n in r["peers"] if n.startswith("xvm") and n != base and f"{n}/{base}" in r["ratios"]), None)
    text = f"{report.ratio(r['ratios'][f'{ours}/{base}']['median'])}" if ours else "-"
    missed = [o for o in r["owed"] if o["held"] is False]
    failed = [f"{n}: {a['why']}" for n, a in r["absent"].items() if a["failed"]]
    return text + (" MISSED" if missed else "") + (f" FAILED {failed[0]}" if failed else "")


def machine():
    cpu = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
    version = subprocess.run(["git", "-C", peers.E["SRC"], "describe", "--always", "--dirty"], capture_output=True, text=True)
    return dict(cpu=cpu, cpus=os.cpu_count(), kernel=platform.release(), source=version.stdout.strip(),
                time=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def options(argv):
    p = argparse.ArgumentParser(
        prog="test/bench/run",
        description="xvm against TCP and others, in one run. Names are parts, cases or patterns of 'PART CASE CPUS'; "
        "all if there are none.",
    )
    p.add_argument("names", nargs="*", metavar="NAME")
    p.add_argument("--list", action="store_true", help="the cases, and what is owed in each")
    p.add_argument("--quick", action="store_true", help="a few cases, too short to judge: does it work?")
    p.add_argument("--out", metavar="DIR", help="where bench.json, bench.md and plots go (default: build/bench)")
    p.add_argument("--rounds", type=int, help="alternating runs of each peer (default: 5)")
    p.add_argument("--seconds", type=float, help="of each run (default: 0.2; some programs take whole seconds)")
    p.add_argument("--minutes", type=float, help="no case starts after so many (default: 40; quick: 3)")
    p.add_argument("--retries", type=int, help="of a run that others' work disturbed (default: 2)")
    p.add_argument("--peers", type=lambda s: s.split(","), help="only these, such as veth,xvm")
    p.add_argument("--report", metavar="JSON", help="measure nothing: write table and plots of an earlier run anew")
    p.add_argument("--readme", metavar="FILE", help="replace what stands between FILE's bench markers, and its plot")
    opt = p.parse_args(argv)
    for k, v in (QUICK if opt.quick else FULL).items():
        if getattr(opt, k) is None:
            setattr(opt, k, v)
    return opt


def chosen(opt):
    rows = [c for c in cases.CASES if wanted(c, opt.names) and (not opt.quick or c["quick"])]
    if not rows:
        sys.exit(f"test/bench/run: no case is called {' '.join(opt.names)} (see --list)")
    return rows


def run_all(opt):
    rows = chosen(opt)
    if os.cpu_count() < 2:
        rows = [r for r in rows if r["cpus"] == "one"]
    began = time.monotonic()
    deadline = began + opt.minutes * 60
    results, left = [], []
    for i, row in enumerate(rows):
        if time.monotonic() > deadline:
            left.append(f"{row['part']}: {row['name']}, {row['cpus']}")
            continue
        say(f"[{i + 1:3}/{len(rows)}] {row['part'] + ': ' + row['name']:45} {row['cpus']} … ", end="")
        c = Case(row, opt, deadline)
        t = time.monotonic()
        try:
            c.start()
            c.measure()
        finally:
            c.stop()
        results.append(c.result())
        say(f"{headline(results[-1])} ({time.monotonic() - t:.1f} s)")
    took = time.monotonic() - began
    return dict(machine=machine(), quick=opt.quick, rounds=opt.rounds, seconds=opt.seconds, took=round(took, 1),
                not_run=left, titles=cases.PEERS, cases=results)


def main():
    opt = options(sys.argv[1:])
    if opt.list:
        for c in chosen(opt):
            owed = "; ".join(report.owed_number(o) for o in c["owed"])
            say(f"{c['part']:10} {c['name']:45} {c['cpus']:4} {owed}")
        return 0
    out = opt.out or os.path.join(os.environ.get("B") or os.path.dirname(opt.report or "."), "bench" if not opt.report else "")
    os.makedirs(out, exist_ok=True)
    if opt.report:
        with open(opt.report) as f:
            data = json.load(f)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            data = run_all(opt)
        finally:
            peers.Cgroup.end()
        with open(os.path.join(out, "bench.json"), "w") as f:
            json.dump(data, f, indent=1)
    report.write(data, cases.PLOTS, out)
    if opt.readme:
        report.readme(data, opt.readme, out)
    with open(os.path.join(out, "bench.md")) as f:
        say(report.summary(f.read()))
    say(f"{data['took'] / 60:.1f} minutes; all of it is in {out}")
    # Figures are for a reader to judge; a peer that did not work is an error.
    failed = [f"{c['part']} {c['name']} {c['cpus']}: {n}: {a['why']}" for c in data["cases"]
              for n, a in c["absent"].items() if a["failed"]]
    for line in failed:
        print("failed:", line, file=sys.stderr)
    return 1 if failed else 0


sys.exit(main())
