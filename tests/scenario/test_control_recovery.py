#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL is restored to an older point under running instances (control-plane.md §16, acceptance test 15): a real base
backup, more work, the server replaced by the backup. With moat-control running on, killed and started again, started again
without its high-water file, and as two servers. Nothing is stopped, no plan and no edge configuration goes out until an operator
applies, no address is given twice, and afterwards log and views are whole.
COST 73 s, 17 s of processor."""
import ipaddress, json, os, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
from control_kit import call, case, wait_for

kit.need("control recovery")
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h"]
[processes.web.scaling]
min = %d
max = 8
[processes.web.resources]
memory = "64Mi"
[processes.web.vars]
V = "%s"
[[processes.web.ports]]
name = "tls"
internal = 8443
[[routes]]
env = "prod"
hostname = "%s.example.com"
process = "web"
port = "tls"
"""


class Case:
    def __init__(self, name, conf=None):
        self.name, self.w = name, kit.World(**(conf or {}))
        self.ever = {}  # instance -> address, of every plan there was

    def app(self, name):
        return self.w.make_app(name)

    def deploy(self, app, name, n, v):
        self.w.deploy(*app, M % (n, v, name))

    def last(self):
        return int(self.w.pg.sql("SELECT last_event_id FROM moat.event_counter"))

    def running(self):
        return sorted(i for i, s in self.w.agent.state.items() if s == "ready")

    def note(self):
        for p in self.w.agent.plans:
            for a in p["instances"]:
                if "workload" in a:
                    self.ever[a["instance_id"]] = a["workload"]["network"]["overlay_ipv6"]

    def before(self):
        w = self.w
        w.start_edge()
        self.O = w.open()
        self.kept, self.rolled = self.app("kept"), self.app("rolled")
        self.deploy(self.kept, "kept", 2, "a")
        self.deploy(self.rolled, "rolled", 1, "a")
        self.at_t0 = self.running()
        # What the backup ends with is known when nothing was said while it was made; else it is made again.
        for k in range(10):
            before = self.last()
            w.pg.backup(w.d + "/t0")
            self.head_t0 = self.last()
            if self.head_t0 == before:
                break
            kit.remove(w.d + "/t0")
        assert self.head_t0 == before, (self.head_t0, before)
        # What the backup knows nothing of: more replicas, an app, a release that replaced an instance, a token.
        v = w.ok("GET", self.kept[1] + "/scale")["resource_version"]
        w.ok("PUT", self.kept[1] + "/scale", {"processes": [{"process_type": "web", "desired": 4}], "expected_version": v})
        wait_for("four replicas", lambda: len(self.running()) == 5, 30)
        self.lost = self.app("lost")
        self.deploy(self.lost, "lost", 2, "a")
        self.deploy(self.rolled, "rolled", 1, "b")
        wait_for("the old one is gone", lambda: len(self.running()) == 7, 30)
        self.all = self.running()
        # Nothing is on its way any more: what comes after the restore comes of the restore.
        wait_for("the last plan", lambda: {a["instance_id"] for a in w.agent.plans[-1]["instances"]} == set(self.all), 20)
        wait_for("the edge", lambda: (w.edge_config() or {}).get("revision") and sorted(x["instance_id"] for v in w.edge_config()["backends"].values() for x in v) == self.all, 20)
        # An edge hears of what drains too: once more when that is released.
        gone = sorted(set(self.at_t0) - set(self.all))
        released = lambda: w.pg.sql("SELECT event_id FROM moat.events WHERE event_type = 'instance.released' AND aggregate_id = '%s'" % gone[0])
        assert len(gone) == 1, (self.at_t0, self.all)
        wait_for("the release of the old one", released, 30)
        wait_for("the edge's word of it", lambda: w.edge_config()["revision"] >= int(released()), 30)
        self.head = self.last()
        assert self.head > self.head_t0 + 20 and set(self.at_t0) - set(self.all)
        self.note()

    def stream(self):
        """A stream that has read to the head."""
        c = kit.UnixHTTP(self.w.api, 60)
        c.request("GET", self.O + "/events/stream?after_event_id=%d" % (self.head - 1), headers={"Authorization": "Bearer " + self.w.token})
        r = c.getresponse()
        assert json.loads(r.readline())["event_id"] == self.head
        lines = []
        t = threading.Thread(target=lambda: [lines.append(json.loads(x)) for x in r], daemon=True)
        t.start()
        return lines, t

    def recovery(self):
        r = self.w.q("GET", "/v1/admin/recovery")
        return r.json if r.status == 200 else {"state": r.status}


def verify(w):
    for verb in ("verify-log", "verify-views"):
        r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", verb], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0, r.stdout[-600:]


def play(name, restart, forget, twin):
    c = Case(name)
    w = c.w
    try:
        if twin and not w.twin:
            w.start_twin()
        c.before()
        plans, edge = len(w.agent.plans), w.edge_config()
        lines = thread = None

        @case(name + ": A15 found, nothing is stopped or told, changes are refused, reads go on with a warning")
        def _():
            nonlocal lines, thread
            if not restart:
                lines, thread = c.stream()
            if restart:
                wait_for("the high-water file", lambda: int(open(w.d + "/control/high-water").read().split("event=")[1].split()[0]) >= c.head, 10)
                w.kill_control()
                if forget:
                    os.unlink(w.d + "/control/high-water")
            w.pg.restore(w.d + "/t0")
            if restart:
                w.start_control()
            wait_for("recovery", lambda: c.recovery()["state"] == "frozen", 15)
            for k in range(6):  # every server
                r = w.q("POST", c.O + "/apps", {"name": "no%d" % k})
                assert r.status == 503 and r.json["code"] == "recovery" and int(r.headers["Retry-After"]) > 0, (r.status, r.text)
                r = w.q("GET", c.O + "/apps")
                assert r.status == 200, r.text
            for k in range(2):  # a server that did not find it itself looks once a second
                wait_for("the warning", lambda: w.q("GET", c.O + "/apps").headers.get("X-Moat-Recovery") == "frozen", 5)
            assert sorted(a["name"] for a in r.json["items"]) == ["kept", "rolled"], r.text
            rec = wait_for("the agent's list", lambda: (lambda x: x if x["counts"]["unknown"] == 0 else None)(c.recovery()), 15)
            # who found it: the server by what it knows, before it serves; without that the first one that reports
            assert ("has applied event" if forget else "this server knows event") in rec["reason"], rec["reason"]
            assert rec["epoch"] == 2 and rec["counts"] == {"adopt": 2, "start": 1, "stop": 0, "ignore": 5, "unknown": 0}, rec
            got = {i["instance_id"]: i["action"] for i in rec["items"]}
            assert {i for i, a in got.items() if a == "adopt"} == set(c.at_t0) & set(c.all)
            assert {i for i, a in got.items() if a == "ignore"} == set(c.all) - set(c.at_t0)
            time.sleep(3)  # polls come and go meanwhile
            assert len(w.agent.plans) == plans, w.agent.plans[plans:]
            assert c.running() == c.all, (c.running(), c.all)
            now = w.edge_config()
            assert now == edge, {k: (edge.get(k), v) for k, v in now.items() if v != edge.get(k)}
            bumps = w.pg.sql("SELECT event_id, payload->>'epoch' FROM moat.events WHERE event_type = 'cluster.epoch_bumped'")
            assert bumps == "%d|2" % (c.head_t0 + 1), bumps
            if w.control.poll() is not None:
                raise AssertionError("moat-control ended")

        @case(name + ": a stream and a cursor ahead of the log are reset, not skipped")
        def _():
            if thread:
                thread.join(60)
                end = lines[-1]
                assert end["type"] == "end" and end["reason"] == "reset" and c.head_t0 <= end["resume_after"] <= c.head_t0 + 1, lines[-3:]
            r = w.ok("GET", c.O + "/events?after_event_id=%d" % (c.head + 1000))
            assert r["items"] == [] and r["next_after_event_id"] == r["head_event_id"] and r["epoch"] == 2, r
            s = kit.UnixHTTP(w.api, 60)
            s.request("GET", c.O + "/events/stream?after_event_id=%d" % (c.head + 1000), headers={"Authorization": "Bearer " + w.token})
            end = json.loads(s.getresponse().readline())
            assert end == {"type": "end", "reason": "reset", "resume_after": r["head_event_id"]}, end
            s.close()

        @case(name + ": it survives a restart of moat-control; finish wants apply first; operators only")
        def _():
            r = w.q("POST", "/v1/admin/recovery/finish", {"reason": "too soon"})
            assert r.status == 409, r.text
            assert w.q("POST", "/v1/admin/recovery/apply", {}).status == 400
            w.kill_control()
            w.start_control()
            assert c.recovery()["state"] == "frozen" and w.pg.sql("SELECT epoch FROM moat.event_counter") == "2"
            r = w.q("POST", c.O + "/apps", {"name": "still-no"})
            assert r.status == 503 and r.json["code"] == "recovery", r.text
            assert len(w.agent.plans) == plans

        @case(name + ": apply: the log rules again, and what it does not know goes on")
        def _():
            assert w.ok("POST", "/v1/admin/recovery/apply", {"reason": "the backup of last night"})["state"] == "applied"
            assert w.ok("POST", "/v1/admin/recovery/apply", {"reason": "again"})["state"] == "applied"
            p = wait_for("a plan", lambda: len(w.agent.plans) > plans and w.agent.plans[-1], 10)
            assert p["epoch"] == 2 and p["recovery"] is True and {a["instance_id"] for a in p["instances"]} >= set(c.at_t0), p
            wait_for("what shall run is started", lambda: set(c.at_t0) <= set(c.running()), 20)
            assert set(c.all) <= set(c.running())
            e = wait_for("an edge configuration", lambda: (lambda x: x if x["epoch"] == 2 else None)(w.edge_config()), 10)
            assert sorted(r["hostname"] for r in e["routes"]) == ["kept.example.com", "rolled.example.com"], e["routes"]
            # the first answers after the decision may take away more than others may
            first = w.agent.plans[plans]
            assert first["epoch"] == 2 and first["allow_empty"] is True, {k: first.get(k) for k in ("epoch", "allow_empty", "cursor_event_id")}
            # written by the edge after the configuration itself
            seen = lambda: [json.loads(x) for x in open(w.edge_dir + "/config.json.seen") if x.endswith("\n")]
            assert wait_for("what it has seen", lambda: [x for x in seen() if x[0] == 2], 10)[0] == [2, True], seen()
            # A poll that waits hears of what is new at once, though the log is still shorter than it was.
            at, got = w.agent.after, []
            there = w.d + "/int2.sock" if w.twin else w.internal  # the second server was never started again
            target = "/internal/v1/nodes/self/plan?epoch=2&after=%d&wait="
            first = call(there, "GET", target % at + "0")  # a server that has sent nothing yet answers at once
            target %= first.json["cursor_event_id"] if first.status == 200 else at
            poll = threading.Thread(target=lambda: got.append(call(there, "GET", target + "40").status))
            poll.start()
            time.sleep(0.5)
            begun = fair.now()
            v = w.ok("GET", c.kept[1] + "/scale")["resource_version"]
            w.ok("PUT", c.kept[1] + "/scale", {"processes": [{"process_type": "web", "desired": 3}], "expected_version": v})
            poll.join(60)
            assert got == [200] and fair.now() - begun < 8, (got, fair.now() - begun)

        @case(name + ": what was lost is deployed again; no id and no address is given twice")
        def _():
            c.lost = c.app("lost")
            c.deploy(c.lost, "lost", 2, "a")
            old = dict(c.ever)
            c.note()
            new = {i: a for i, a in c.ever.items() if i not in old}
            assert len(new) >= 2 and not set(new.values()) & set(old.values()), (new, old)
            base = min(int(ipaddress.ip_address(a)) for a in old.values())
            assert all(int(ipaddress.ip_address(a)) - base >= 1 << 20 for a in new.values()), new
            assert set(c.all) <= set(c.running())

        @case(name + ": finish: plans say so, work goes on, log and views are whole")
        def _():
            assert w.ok("POST", "/v1/admin/recovery/finish", {"reason": "all is redeployed"})["state"] == "none"
            wait_for("a plan without recovery", lambda: "recovery" not in w.agent.plans[-1] and w.agent.plans[-1]["allow_empty"], 10)
            rec = c.recovery()
            assert rec["state"] == "none" and rec["epoch"] == 2, rec
            assert "X-Moat-Recovery" not in w.q("GET", c.O + "/apps").headers
            c.deploy(c.kept, "kept", 3, "c")
            # and later ones not: the decision is known to who has heard of it
            wait_for("a plan as ever", lambda: "allow_empty" not in w.agent.plans[-1], 10)
            wait_for("a configuration as ever", lambda: "allow_shrink" not in w.edge_config(), 10)
            assert w.q("POST", "/v1/admin/recovery/apply", {"reason": "no"}).status == 409
            n, top = w.pg.sql("SELECT count(*), max(event_id) FROM moat.events").split("|")
            assert n == top, (n, top)
            verify(w)
            types = [x["event_type"] for x in w.ok("GET", "/v1/admin/events?event_type=cluster.*&limit=500")["items"]]
            assert types.count("cluster.epoch_bumped") == 1 and types.count("cluster.recovery_finished") == 1, types
            got = [a["action"] for a in w.ok("GET", "/v1/admin/audit?chain=platform&action=recovery.*")["items"]]
            assert got.count("recovery.apply") >= 1 and got.count("recovery.finish") >= 1, got

        if not restart and not twin:
            @case(name + ": restored once more, to the same point: the epoch never comes back")
            def _():
                w.pg.restore(w.d + "/t0")
                wait_for("recovery", lambda: c.recovery()["state"] == "frozen", 15)
                assert c.recovery()["epoch"] == 3
                w.ok("POST", "/v1/admin/recovery/apply", {"reason": "twice"})
                w.ok("POST", "/v1/admin/recovery/finish", {"reason": "twice"})
                d = c.app("third")
                c.deploy(d, "third", 1, "x")
                c.note()
                assert len(set(c.ever.values())) == len(c.ever), "an address was given twice"
                verify(w)
    finally:
        w.close()


play("running on", False, False, False)
play("started again", True, False, False)
play("started again without its memory", True, True, False)
if os.environ.get("MOAT_REPLICAS") != "2":
    play("two servers", False, False, True)
kit.finish()
