#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of libxvm(7) of programs and the path that their connections take.

compat.py make DIR PAGE   writes what the tests noted in DIR (test/lib/net.sh: compat) into PAGE
compat.py check DIR PAGE  0 if PAGE says the same: program and path. Versions may differ, and what was
                          not noted, as its test did not run, is not missed.
compat.py all DIR PAGE    the same, and PAGE names nothing that was not noted
"""

import glob
import re
import sys

BEGIN, END = '.\\" begin compat\n', '.\\" end compat\n'
HEAD = '.Bl -column "Python, sockets passed" "rustc 1.63.0" "Path"\n.It Program Ta Version Ta Path Ta Why\n'


def noted(folder):
    found = {}
    for name in glob.glob(f"{folder}/*"):
        with open(name) as f:
            for line in f:
                what, version, path, why = line.rstrip("\n").split("\t")
                found[what] = version, path, "" if why == "-" else why
    return found


def main():
    what, folder, page = sys.argv[1:]
    tests = noted(folder)
    with open(page) as f:
        before, rest = f.read().split(BEGIN)
    old, after = rest.split(END)
    if what == "make":
        rows = "".join(f".It {p} Ta {' Ta '.join(v)}\n" for p, v in sorted(tests.items()))
        rows = re.sub(r" Ta $", "", rows, flags=re.M)
        with open(page, "w") as f:
            f.write(before + BEGIN + HEAD + rows + ".El\n" + END + after)
        return
    written = dict(re.findall(r"^\.It (.*?) Ta .*? Ta (ring|tcp)\b", old, re.M))
    wrong = [f"{p}: {v[1]} here, {written.get(p)} in {page}" for p, v in sorted(tests.items()) if written.get(p) != v[1]]
    if what == "all":
        wrong += [f"{p}: not seen here" for p in sorted(set(written) - set(tests))]
    print(f"{len(tests)} of {len(written)} programs seen")
    sys.exit("\n".join(wrong) or None)


main()
