#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Records of failed attempts at the control plane: kept once each, within their bounds, from the right node only; a record that is
nonsense is left out and holds up no report.
COST 3 s, 1 s of processor."""
import os
import sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control autopsy")
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h"]
[processes.web.resources]
memory = "100Mi"
"""
w = kit.World()


def record(n, **more):
    r = {"boot_id": "boot_%026d" % n, "boot_seq": n, "ended_at": "2026-01-01T00:%02d:%02d.000000Z" % (n // 60 % 60, n % 60), "reason_code": "workload_exited", "exit_code": 3,
         "oom": {"guest_kills": 0, "cgroup_kills": 0}, "console": [], "log": [{"ts": "2026-01-01T00:00:00.000000Z", "stream": "stdout", "line": "bye \ufffd \u00e9"}]}
    r.update(more)
    return {k: v for k, v in r.items() if v is not None}


try:
    O = w.open()
    A, E = w.make_app("one")
    other = A + "/envs/" + w.ok("POST", A + "/envs", {"name": "other"})["id"]
    rel, dep = w.deploy(A, E, M)
    inst = w.ok("GET", E + "/instances")["items"][0]["id"]

    def tell(*records, instance=inst):
        return [w.agent.report(instance, "ready", autopsy=r).json for r in records][-1]

    def listed(query=""):
        return w.ok("GET", E + "/autopsies" + query)["items"]

    @case("a record is kept under its release, as the agent wrote it, and once")
    def _():
        tell(record(1))
        tell(record(1, exit_code=4))
        got = listed()
        assert len(got) == 1 and got[0]["record"] in (record(1), record(1, log=got[0]["record"]["log"])) and got[0]["record"]["exit_code"] == 3, got
        assert got[0]["release_id"] == rel and got[0]["instance_id"] == inst and got[0]["process_type"] == "web", got
        assert got[0]["reason_text"] and got[0]["ended_at"] == record(1)["ended_at"], got

    @case("the newest five of an instance stay, newest first; filters and limit")
    def _():
        tell(*[record(n) for n in range(2, 10)])
        assert [g["record"]["boot_seq"] for g in listed()] == [9, 8, 7, 6, 5], listed()
        assert [g["record"]["boot_seq"] for g in listed("?limit=2&release_id=%s&process_type=web&instance_id=%s" % (rel, inst))] == [9, 8]
        for q in ("?release_id=rel_x", "?instance_id=inst_x", "?process_type=worker"):
            assert listed(q) == [], q
        assert w.ok("GET", other + "/autopsies")["items"] == []
        for q in ("?limit=0", "?limit=51", "?nothing=1", "?release_id=" + "r" * 64):
            assert w.q("GET", E + "/autopsies" + q).status == 400, q

    @case("nonsense is left out, and the report with it is taken all the same")
    def _():
        before = listed()
        for bad in (record(20, boot_id=None), record(20, boot_id="x"), record(20, ended_at="yesterday"), record(20, reason_code=None), record(20, reason_code="r" * 100),
                    record(20, console=["x" * 1000] * 40), {}):
            answer = tell(bad)
            assert answer["rejected"] == [], (bad, answer)
        assert listed() == before, "something of it was kept"

    @case("of an instance that is not on the node nothing is kept")
    def _():
        before = listed()
        tell(record(30), instance="inst_%026d" % 7)
        assert listed() == before

    @case("what a workload printed needs the right to its logs, and reading it is on record")
    def _():
        r = kit.call(w.api, "GET", E + "/autopsies", None, {})
        assert r.status == 401, r.status
        seen = wait_for("the audit record", lambda: [a for a in w.ok("GET", O + "/audit?action=logs.read")["items"]], 10)
        assert seen

    @case("old ones go with the collector")
    def _():
        w.pg.sql("UPDATE moat.autopsies SET received_at = now() - interval '31 days' WHERE record->>'boot_seq' <> '9'")
        w.kill_control()
        w.start_control()  # it collects as soon as it leads
        wait_for("the old ones gone", lambda: [g["record"]["boot_seq"] for g in listed()] == [9], 30)
finally:
    w.close()
kit.finish()
