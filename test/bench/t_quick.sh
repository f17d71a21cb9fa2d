# SPDX-License-Identifier: Apache-2.0
# limit: 200
# The bench from end to end with runs far too short to judge: all peers work, JSON, table and plots are whole.
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "test/bench/run needs root"
step "which cases there are"
"$SRC/test/bench/run" --list >"$T/list"
(($(wc -l <"$T/list") > 80)) || fail "$(wc -l <"$T/list") cases"
grep -q 'redis GET, 50 clients, pipeline 1 .*at least 3' "$T/list" || fail "nothing is owed of redis"
! "$SRC/test/bench/run" --list no-such-case >"$T/none" 2>&1 || fail "a case that is not there"

step "quick"
# The daemon and all programs end with it.
"$SRC/test/bench/run" --quick --out "$T/out" >"$T/log" 2>&1 || {
	cat "$T/log"
	fail "it failed"
}
cat "$T/log"

step "what it wrote"
python3 - "$T/out" <<'END_PY'
import json, sys, xml.dom.minidom

out = sys.argv[1]
data = json.load(open(out + "/bench.json"))
assert not data["not_run"], data["not_run"]
parts, peers, absent = set(), set(), {}
for c in data["cases"]:
    parts.add(c["part"])
    peers |= set(c["peers"])
    absent.update({n: a["why"] for n, a in c["absent"].items()})
    for p in c["peers"].values():
        rate = p["rate"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"], c
        assert rate["samples"], c
    if "xvm" in c["peers"] and c["part"] != "crr" and c.get("keep", True):
        assert c["peers"]["xvm"]["facts"]["path"] == "ring", c
    for o in c["owed"]:
        assert o["held"] is not None or o["over"] in c["absent"], o
want = {"rtt", "nospin", "wait", "conns", "stream", "msg", "crr", "elsewhere", "idle", "redis", "memcached", "nginx",
        "pgbench", "iperf3"}
assert parts == want, parts ^ want
# What the kernel or the machine may not have.
assert set(data["titles"]) - peers <= {"sockmap", "ucx"}, (set(data["titles"]) - peers, absent)
table = open(out + "/bench.md").read()
for words in ("## What is owed", "UCX", "| redis GET, 50 clients |", "at least 3.00x veth", "(rtt.svg)"):
    assert words in table, words
plots = ("rtt", "rtt-ratio", "stream", "stream-one-ratio", "conns", "idle")
for p in plots:
    svg = xml.dom.minidom.parse(f"{out}/{p}.svg")
    assert len(svg.getElementsByTagName("path")) > 3, p
    assert open(f"{out}/{p}.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n", p
print(len(data["cases"]), "cases;", "not here:", absent)
END_PY

step "what a README shows of it"
printf 'before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n' >"$T/README"
"$SRC/test/bench/run" --report "$T/out/bench.json" --out "$T/again" --readme "$T/README" >"$T/log" 2>&1 || fail "$(cat "$T/log")"
[[ $(head -n 1 "$T/README") = before && $(tail -n 1 "$T/README") = after ]] || fail "$(cat "$T/README")"
! grep -q old "$T/README" || fail "what was there is still there"
grep -q '^| redis GET, 50 clients | at least 3.00x veth | ' "$T/README" || fail "$(cat "$T/README")"
[[ -s $T/test/bench/rtt.svg ]] || fail "no plot for it"
grep -q '^<!-- bench: begin -->' "$SRC/README.md" && grep -q '^<!-- bench: end -->' "$SRC/README.md" || fail "README.md has no place for it"
