# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of what bench.py has measured."""

import os
import shutil
import subprocess

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def si(v):
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if v >= factor:
            return f"{v / factor:.3g} {unit}"
    return f"{v:.3g} "


def ratio(v):
    return f"{v:.0f}x" if v >= 99.5 else f"{v:.1f}x" if v >= 9.95 else f"{v:.2f}x" if v < 0.9 or v > 1.1 else f"{v:.3f}x"


def owed_number(o):
    n = o.get("least", o.get("most"))
    if o["what"] == "rate":
        return f"at least {si(n)}/s"
    return f"{'at least' if 'least' in o else 'at most'} {ratio(n)}{' the CPU of ' if o['what'] == 'cpu' else ' '}{o['over']}"


def got_number(o):
    g = o.get("got")
    if not g:
        return o.get("why", "-")
    show = (lambda v: si(v) + "/s") if o["what"] == "rate" else ratio
    return f"{show(g['median'])} ({show(g['min'])} to {show(g['max'])})"


def limit(o):
    if "limit" not in o:
        return ""
    return si(o["limit"]) + "/s" if o["what"] == "rate" else ratio(o["limit"])


def verdict(o):
    if o["held"] is None:
        return "not measured"
    if o["held"]:
        return "held"
    if "got" not in o:
        return "**missed**"
    by = o["got"]["median"] / o["least"] if "least" in o else o["most"] / o["got"]["median"]
    noise = o["got"]["max"] >= o["least"] if "least" in o else o["got"]["min"] <= o["most"]
    return f"**missed** by {100 * (1 - by):.1f} %" + (", less than its runs differ by" if noise else "")


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(r) + " |" for r in rows] + [""]


CORES = {"two": "a core each", "one": "one core"}


# What is owed of many cases: one line for all of them, and one for each that missed.
GROUPS = {
    "both ends on one core": "both ends on one core",
    "not resident": "one end preloaded, the other elsewhere",
}


def owed_rows(data):
    rows, groups = [], {g: [] for g in GROUPS}
    for c in data["cases"]:
        for o in c["owed"]:
            group = o["text"].split(": ")[0]
            if group in groups:
                groups[group].append(o)
            else:
                rows.append([o["text"], owed_number(o), got_number(o), limit(o), verdict(o)])
    for g, owed in groups.items():
        if not owed:
            continue
        missed = [o for o in owed if o["held"] is False]
        got = [o for o in owed if o.get("got")]
        middle = sorted(o["got"]["median"] for o in got)
        rows.append([f"{GROUPS[g]}, {len(owed)} cases", owed_number(owed[0]),
                     f"{ratio(middle[0])} to {ratio(middle[-1])}" if got else "-", "",
                     f"**missed** in {len(missed)}" if missed else "held"])
        rows += [["– " + o["text"].split(": ")[1], "", got_number(o), limit(o), verdict(o)] for o in missed]
    return rows


def value(c, name):
    p = c["peers"].get(name)
    if not p:
        return "-"
    v = p["rate"]["median"]
    return f"{si(v)}{c['unit']}/s"


def cpu(c, name):
    p = c["peers"].get(name)
    if not p or "cpu" not in p:
        return None
    per = 1e9 if c["unit"] == "B" else 1e6
    return f"{p['cpu']['median'] * per:.3g} s"


def part_table(data, part):
    rows = [c for c in data["cases"] if c["part"] == part]
    names = [n for n in data["titles"] if any(n in c["peers"] or n in c["absent"] for c in rows)]
    ours = [n for n in names if n.startswith("xvm")]
    heads = ["case", "cores"] + [data["titles"][n] for n in names]
    heads += [f"{data['titles'][n]}: ratio to TCP (min to max)" for n in ours] + ["CPU of TCP", "of xvm", "others' work"]
    lines = []
    for c in rows:
        base = next(iter(c["peers"]), "veth")
        line = [c["name"], CORES[c["cpus"]]] + [value(c, n) for n in names]
        for n in ours:
            r = c["ratios"].get(f"{n}/{base}")
            line.append(f"{ratio(r['median'])} ({ratio(r['min'])} to {ratio(r['max'])})" if r else "-")
        line += [cpu(c, base) or "-", cpu(c, ours[-1]) or "-" if ours else "-", f"{100 * c['noise']:.0f} %"]
        lines.append(line)
    text = table(heads, lines)
    for c in rows:
        for n in c["peers"]:
            f = c["peers"][n]["facts"]
            if "idle_cpu" in f:
                m = f["memory_per_connection"]
                text.append(f"- {data['titles'][n]}, {c['idle']:,}: {m['processes'] / 1024:.1f} KB of the two processes' memory "
                            f"and {m['machine'] / 1024:.1f} KB of the machine's a connection; {1e6 * f['idle_cpu']:.0f} µs of "
                            f"CPU a second while idle"
                            + (f"; {100 * f['idle_on_ring']:.0f} % of them on the ring" if "idle_on_ring" in f else ""))
    if text[-1]:
        text.append("")
    return text


def markdown(data):
    m = data["machine"]
    t = [
        "# xvm bench",
        "",
        f"{m['cpu']}, {m['cpus']} CPUs, Linux {m['kernel']}, xvm at {m['source']}, {m['time']}: "
        f"{data['rounds']} alternating runs of {data['seconds']} s (some programs: 1 s). Medians; ratios are medians of the "
        f"ratios of runs next to each other, with the least and the greatest. CPU is that of both ends and xvmd, for a GB or a "
        "million of what is counted; others' work: what somebody else took meanwhile, of a core. Streams are read by as many bytes as are written at once, and "
        "leave TCP to gather small writes, as iperf3's do; all else sets TCP_NODELAY.",
        "",
    ]
    if data["quick"]:
        t += ["A quick run: it shows that the bench works, no more.", ""]
    t += ["## What is owed", ""] + table(["what", "owed", "got (min to max)", "raw ring", ""], owed_rows(data))
    t += ["## All", ""]
    parts = []
    for c in data["cases"]:
        if c["part"] not in parts:
            parts.append(c["part"])
    for part in parts:
        t += [f"### {part}", ""] + part_table(data, part)
    absent = {}
    for c in data["cases"]:
        for n, a in c["absent"].items():
            absent.setdefault((n, a["why"]), []).append(f"{c['part']} {c['name']} {CORES[c['cpus']]}")
    if absent:
        t += ["## Not measured", ""]
        t += [f"- {data['titles'][n]}: {why} ({len(w)} cases: {', '.join(w[:3])}{' …' if len(w) > 3 else ''})"
              for (n, why), w in absent.items()] + [""]
    if data["not_run"]:
        t += ["Time was up before:", ""] + [f"- {n}" for n in data["not_run"]] + [""]
    return "\n".join(t)


def summary(md):
    return md.split("## What is owed")[1].split("## All")[0].strip().replace("**", "")


# ---- plots ----

COLOURS = ("#000000", "#1f77b4", "#2ca02c", "#9467bd", "#000000", "#000000", "#ff7f0e", "#7f7f7f", "#8c564b", "#17becf", "#1f77b4")
SETUP = """set logscale x 2
set logscale y
set format x "%.0b %B"
set format y "%.0s %c"
set key outside right top
set grid
set title "{title}"
set xlabel "{xlabel}"
set ylabel "{ylabel}"
"""


def plot(data, p, out):
    """Files NAME.svg and NAME.png; and NAME-ratio, each peer's speed over that of TCP. Names of those made."""
    rows = [c for c in data["cases"] if c["part"] == p["part"] and c["cpus"] == p["cpus"] and c["peers"]]
    rows.sort(key=lambda c: c["x"])
    names = [n for n in data["titles"] if any(n in c["peers"] for c in rows)]
    if not rows or not names:
        return []
    unit = rows[0]["unit"]
    made = []
    for kind in ("", "-ratio"):
        script, curves = [], []
        for i, n in enumerate(names):
            points = []
            for c in rows:
                base = next(iter(c["peers"]))
                if kind and (n == base or f"{n}/{base}" not in c["ratios"]) or n not in c["peers"]:
                    continue
                v = c["ratios"][f"{n}/{base}"] if kind else c["peers"][n]["rate"]
                v = [v["median"], v["min"], v["max"]]
                if not kind and p["y"] == "time":
                    v = [1 / v[0], 1 / v[2], 1 / v[1]]
                points.append(" ".join(str(x) for x in [max(c["x"], 1)] + v))
            if points:
                script += [f"$d{i} << EOD"] + points + ["EOD"]
                style = f"lw 1 lc rgb '{COLOURS[list(data['titles']).index(n) % len(COLOURS)]}'"
                if n.startswith("xvm"):
                    style = "lw 3 lc rgb '#c00000'" + (" dt 2" if n != "xvm" else "")
                curves.append(f'$d{i} using 1:2:3:4 with yerrorlines {style} title "{data["titles"][n]}"')
        if not curves:
            continue
        y = "speed, TCP over veth and a bridge = 1" if kind else "seconds" if p["y"] == "time" else f"{unit or 'round trips'} a second"
        setup = SETUP.format(title=p["title"], xlabel=p["xlabel"], ylabel=y)
        if kind:
            setup = setup.replace('set format y "%.0s %c"', 'set format y "%gx"')
        for term, ext in (("svg size 900,520 dynamic font 'sans,12' background 'white'", "svg"), ("pngcairo size 900,520", "png")):
            name = f"{p['name']}{kind}.{ext}"
            text = f"set terminal {term}\nset output '{os.path.join(out, name)}'\n{setup}" + "\n".join(script)
            text += "\nplot " + ", ".join(curves) + "\n"
            # It warns where there is but one point.
            r = subprocess.run(["gnuplot"], input=text, text=True, capture_output=True)
            if r.returncode:
                raise SystemExit(f"gnuplot: {r.stderr}")
            made.append(name)
    return made


def write(data, plots, out):
    text = markdown(data)
    if shutil.which("gnuplot"):
        made = [name for p in plots for name in plot(data, p, out)]
        text += "\n## Plots\n\n" + "".join(f"![{n}]({n})\n" for n in made if n.endswith(".svg"))
    else:
        text += "\nNo plots: gnuplot is not installed.\n"
    with open(os.path.join(out, "bench.md"), "w") as f:
        f.write(text)


def readme(data, path, out):
    """The table and the plot that the README shows."""
    with open(path) as f:
        text = f.read()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path} has no lines '{BEGIN}' and '{END}'")
    picture = "test/bench/rtt.svg"
    to = os.path.join(os.path.dirname(os.path.abspath(path)), picture)
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copyfile(os.path.join(out, "rtt.svg"), to)
    rows = [[t, o, g.split(" (")[0] + (", " + v.replace("**", "") if "missed" in v else ""), w]
            for t, o, g, w, v in owed_rows(data) if not t.startswith("– ")]
    m = data["machine"]
    block = [BEGIN, "", f"{m['cpu']}, {m['cpus']} CPUs, Linux {m['kernel']}; veth: plain TCP over veth and a bridge:", ""]
    block += table(["work", "owed", "measured", "bare ring"], rows)
    block += [f"![round trips]({picture})", "", END]
    head, rest = text.split(BEGIN)
    with open(path, "w") as f:
        f.write(head + "\n".join(block) + rest.split(END)[1])
