#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A fleet of fake nodes (fleetkit.py) under a real moat-control: what `moat simulate` foretells of a loss and of a drain is what then happens.
COST 23 s, 5 s of processor."""
import os
import sys
import time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for
from fleetkit import GIB, Fleet
from ports import free_port

kit.need("fleet")


def manifest(memory, processes):
    t = 'schema_version = "v1"\n[image]\nref = "registry.test:5000/hello:latest"\n'
    for name, n in processes.items():
        t += '[processes.%s]\ncommand = ["/hello"]\nscaling = { min = %d }\n[processes.%s.resources]\nmemory = "%s"\ncpu = 0.1\n' % (name, n, name, memory)
    return t


NODES = "127.0.0.1:%d" % free_port()
w = kit.World(listen_nodes=NODES, nodes_address=NODES, rate_limit_percent=1000, suspect_seconds=25, offline_seconds=45, startup_grace_seconds=0)  # two dozen nodes beat from one process
fleet = more = None


def running(env):
    """Where what is wanted runs: {process type: {node id: instances}}."""
    out = {}
    for i in w.ok("GET", env + "/instances?limit=200")["items"]:
        if i["desired_state"] == "running":
            at = out.setdefault(i["process_type"], {})
            at[i["node_id"]] = at.get(i["node_id"], 0) + 1
    return out


def settled(env, want):
    def ready():
        items = [i for i in w.ok("GET", env + "/instances?limit=200")["items"] if i["desired_state"] == "running" and i["status"] == "ready"]
        return len(items) == want
    wait_for("%d ready instances" % want, ready, 60)
    return running(env)


def foretold(before, node, answer):
    """What the answer makes of @before: instances of the node moved to where it says."""
    out = {t: dict(at) for t, at in before.items()}
    for g in answer["groups"]:
        at = out[g["process_type"]]
        assert at.pop(node) == g["instances"], (g, before)
        for p in g["restart_on"]:
            at[p["node_id"]] = at.get(p["node_id"], 0) + p["instances"]
    return out


try:
    w.start_edge()
    w.open()
    fleet = Fleet(w, 4, NODES, memory=2 * GIB)
    local = w.agent.node_id
    w.ok("POST", "/v1/nodes/%s/cordon" % local, {"reason": "the fleet only"})
    wait_for("the fleet", lambda: sum(h == "ready" for h in fleet.health().values()) == 5, 30)
    A, E = w.make_app("shop")
    w.deploy(A, E, manifest("128Mi", {"web": 9, "worker": 5, "cron": 1}))

    @case("a simulated loss or drain writes nothing, names every instance of the node, and is the same again")
    def _():
        head = w.ok("GET", "/v1/admin/events?limit=1&order=desc")["head_event_id"]
        before = running(E)
        for n in fleet.nodes:
            path = "/v1/nodes/%s/simulate/" % n.node_id
            loss, drain = w.ok("GET", path + "loss"), w.ok("GET", path + "drain")
            there = sum(at.get(n.node_id, 0) for at in before.values())
            assert loss["event"] == "loss" and drain["event"] == "drain" and loss["name"] == n.name, loss
            assert loss["instances"] == loss["restart"] == drain["instances"] == drain["restart"] == there, (loss, drain, before)
            assert loss["missing"] == drain["missing"] == loss["stay"] == drain["stay"] == 0 and loss["volumes"] == [], loss
            assert w.ok("GET", path + "loss") == loss and w.ok("GET", path + "drain") == drain
            assert sum(sum(at.values()) for at in foretold(before, n.node_id, loss).values()) == 15
        assert w.ok("GET", "/v1/nodes/%s/simulate/loss" % local)["instances"] == 0
        assert w.ok("GET", "/v1/admin/events?limit=1&order=desc")["head_event_id"] == head and running(E) == before

    @case("a node that is not there is not found")
    def _():
        assert w.q("GET", "/v1/nodes/node_%s/simulate/loss" % ("0" * 26)).status == 404

    @case("what a drain was foretold to do is what it does")
    def _():
        n, before = fleet.nodes[1], running(E)
        said = w.ok("GET", "/v1/nodes/%s/simulate/drain" % n.node_id)
        w.ok("POST", "/v1/nodes/%s/drain" % n.node_id, {"reason": "test"})
        wait_for("the drain", lambda: w.ok("GET", "/v1/nodes/" + n.node_id)["drain"]["state"] == "complete", 60)
        got = settled(E, 15)
        assert {t: sum(at.values()) for t, at in got.items()} == {"web": 9, "worker": 5, "cron": 1} and not any(n.node_id in at for at in got.values()), got
        assert got == foretold(before, n.node_id, said), (before, said, got)
        w.ok("POST", "/v1/nodes/%s/uncordon" % n.node_id, {"reason": "test"})

    @case("three of five nodes fall silent at once: suspect, nothing is moved; when it is two that stay silent, they are offline and what they had runs elsewhere")
    def _():
        before, quiet = running(E), fleet.nodes[:3]
        health = lambda: [fleet.health()[n.node_id] for n in quiet]

        def age(nodes):  # what a minute does
            w.pg.sql("UPDATE moat.node_heartbeats SET received_at = received_at - interval '70 seconds' WHERE received_at > now() - interval '60 seconds'"
                     " AND node_id IN (%s)" % ", ".join("'%s'" % n.node_id for n in nodes))
        for n in quiet:
            n.quiet = True
        try:
            wait_for("suspect", lambda: age(quiet) or health() == ["suspect"] * 3, 40)
            wait_for("the guard's word", lambda: "liveness.mass_failure_held" in open(w.d + "/control.log").read(), 20)
            a, e = w.make_app("meanwhile")  # placed on who is there, while the silent ones have been so for longer than offline_seconds
            w.deploy(a, e, manifest("64Mi", {"web": 1}))
            assert set(settled(e, 1)["web"]) == {fleet.nodes[3].node_id}
            w.ok("DELETE", e + "?cascade=true", {})
            assert health() == ["suspect"] * 3 and running(E) == before
            quiet[2].quiet = False
            wait_for("offline", lambda: age(quiet[:2]) or health()[:2] == ["offline"] * 2, 40)
            wait_for("replacements", lambda: not any(n.node_id in at for n in quiet[:2] for at in running(E).values()), 40)
            assert {t: sum(at.values()) for t, at in settled(E, 15).items()} == {"web": 9, "worker": 5, "cron": 1}
        finally:
            for n in quiet:
                n.quiet = False
        wait_for("them back", lambda: [n.heartbeat() for n in quiet] and health() == ["ready"] * 3, 60)
        settled(E, 15)

    @case("what a loss was foretold to do is what it does")
    def _():
        n, before = fleet.nodes[2], running(E)
        said = w.ok("GET", "/v1/nodes/%s/simulate/loss" % n.node_id)
        assert said["instances"] > 0 and said["missing"] == 0, said
        n.vanish()
        time.sleep(0.1)  # a beat on its way
        w.pg.sql("UPDATE moat.node_heartbeats SET received_at = received_at - interval '20 seconds' WHERE node_id = '%s'" % n.node_id)
        wait_for("suspect", lambda: fleet.health()[n.node_id] == "suspect", 40)
        assert running(E) == before
        w.ok("POST", "/v1/nodes/%s/confirm-offline" % n.node_id, {"reason": "test"})
        wait_for("replacements", lambda: not any(n.node_id in at for at in running(E).values()), 30)
        assert settled(E, 15) == foretold(before, n.node_id, said), (before, said, running(E))
        r = w.q("GET", "/v1/nodes/%s/simulate/loss" % n.node_id)
        assert r.status == 409 and "offline" in r.json["detail"], (r.status, r.text)

    @case("what does not fit is told with the reason, and then is so")
    def _():
        a, e = w.make_app("big")
        w.deploy(a, e, manifest("512Mi", {"web": 3}))
        before = running(e)["web"]
        n = max((x for x in fleet.nodes if x.node_id in before), key=lambda x: before[x.node_id])
        said = w.ok("GET", "/v1/nodes/%s/simulate/loss" % n.node_id)
        mine = [g for g in said["groups"] if g["app"] == "big"][0]
        assert mine["missing"] > 0 and mine["reason"] == "no_capacity_memory" and "memory" in mine["detail"], said
        drain = w.ok("GET", "/v1/nodes/%s/simulate/drain" % n.node_id)
        assert [g for g in drain["groups"] if g["app"] == "big"][0]["missing"] > 0, drain
        w.ok("POST", "/v1/nodes/%s/drain" % n.node_id, {"reason": "test"})

        def blocked():
            s = w.ok("GET", e + "/status")["processes"][0]
            return s["sched_condition"] == "blocked" and s["reason"] == "no_capacity_memory"
        wait_for("blocked", blocked, 30)
        # what has a place elsewhere leaves when its replacement is ready
        stays = [g for g in drain["groups"] if g["app"] == "big"][0]["missing"]
        wait_for("%d that stay" % stays, lambda: running(e)["web"].get(n.node_id) == stays, 30)

    @case("one deploy over more nodes than a command has statements: all of it is placed, spread over all of them")
    def _():
        global more
        more = Fleet(w, 20, NODES, memory=GIB, first=10)
        ids = {n.node_id for n in more.nodes}
        wait_for("them", lambda: sum(fleet.health()[i] == "ready" for i in ids) == 20, 30)
        a, e = w.make_app("wide")
        w.deploy(a, e, manifest("64Mi", {"web": 40}))
        at = settled(e, 40)["web"]
        assert sum(i in ids for i in at) == 20, at
        wrong = w.pg.sql("SELECT c.node_id, c.next_address, i.n FROM moat.ipam_counters c LEFT JOIN (SELECT node_id, count(*) AS n FROM moat_views.instances_view"
                         " GROUP BY node_id) i USING (node_id) WHERE c.next_address <> 1 + coalesce(i.n, 0)")
        assert not wrong, wrong  # one address for each instance there ever was
finally:
    if more:
        more.close()
    if fleet:
        fleet.close()
    w.close()
kit.finish()
