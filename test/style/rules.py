#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Of the rules of PROTOCOL.md and the code beside it: which are not named where the other says."""
import glob, re, sys

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
sys.exit("\n".join(wrong) or None)
