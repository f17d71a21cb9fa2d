#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Of the rules of PROTOCOL.md and the code beside it: which are not named where the other says. And of the tests
that test/README.md names: which are not there, and which it should name."""
import glob, os, re, sys

COMMENT = r"(?:/\*(?:[^*]|\*(?!/))*\*/\n)?"
RULE = r"\b[RSWCG][1-9]\b"
protocol = open("transport/PROTOCOL.md").read()
rules = dict(re.findall(r"\*\*([RSWCG]\d) [^*]*\*\*\s+\(([^)]*(?:\(\)[^)]*)*)\)\.", protocol))
sources = {f: open(f).read() for f in glob.glob("shim/*.[ch]") + glob.glob("transport/*.[ch]")}
text = "\n".join(sources.values())
wrong = []

def spans(low, high):
    """ "C1 to C4" names those between as well."""
    return {low[0] + str(n) for n in range(int(low[1:]), int(high[1:]) + 1)}

def named(piece):
    found = set(re.findall(RULE, piece))
    for low, high in re.findall(r"(%s) to\s+(?:\* )?(%s)" % (RULE, RULE), piece):
        found |= spans(low, high)
    return found

if len(rules) < 20:
    sys.exit("PROTOCOL.md has %d rules that name their functions" % len(rules))
for rule in sorted(set(re.findall(r"\*\*([RSWCG]\d)\b", protocol)) - set(rules)):
    wrong.append("%s names no function" % rule)
for rule, names in sorted(rules.items()):
    for name in re.findall(r"`(\w+)\(\)`", names):
        # The comment above a definition, the definition, the comments above declarations.
        pieces = re.findall(
            COMMENT + r"^[a-z][^;{}\n]*\b" + name + r"\([^;{}]*\)(?:;|\n\{.*?^\})", text, re.M | re.S)
        if not pieces:
            wrong.append("%s: there is no %s()" % (rule, name))
        elif not any(rule in named(p) for p in pieces):
            wrong.append("%s is not named at %s()" % (rule, name))
for file, source in sorted(sources.items()):
    for rule in sorted(named("".join(re.findall(r"/\*.*?\*/", source, re.S))) - set(rules)):
        wrong.append("%s: there is no rule %s" % (file, rule))

def is_test(name):
    group, _, rest = name.partition("-")
    rest = rest.replace("-", "_")
    return os.path.exists("test/%s/t_%s.sh" % (group, rest)) or \
        os.path.exists("test/%s/run" % group if not rest else "test/diff/scripts/" + rest if group == "diff" else "")

tests = open("test/README.md").read()
rows = {h: [r for r in part.split("\n") if r.startswith("|")][2:]
        for h, part in re.findall(r"^## (.*)\n([^#]*)", tests, re.M)}
for heading in "Traps", "What is compared with plain TCP":
    if len(rows.get(heading, "")) < 20:
        wrong.append("test/README.md has no table of %s" % heading)
    for row in rows.get(heading, ""):
        named_tests = [n for n in re.findall(r"`([a-z0-9-]+)`", row.split("|", 3)[-1] if heading == "Traps" else row)]
        if not named_tests:
            wrong.append("test/README.md: no test in %s" % row)
        wrong += ["test/README.md: there is no test %s" % n for n in named_tests if not is_test(n)]
for path in sorted(glob.glob("test/diff/scripts/*") + glob.glob("test/*/t_trap_*.sh")):
    _, group, *_, name = path.split("/")
    name = group + "-" + re.sub(r"^t_|\.sh$", "", name).replace("_", "-")
    if "`%s`" % name not in tests:
        wrong.append("test/README.md does not name %s" % name)
sys.exit("\n".join(wrong) or None)
