#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two moat-control on one database: both serve, one holds the singleton roles; the other takes them over when it is killed or
stopped, and what wakes up afterwards does no harm. Also the work of the roles gc and projector. COST 17 s, 4 s of processor."""
import json, os, signal, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
from control_kit import call, case, wait_for

kit.need("control replicas")
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h"]
[processes.web.resources]
memory = "%dMi"
"""
w = kit.World()


def leases():
    return {r.split("|")[0]: (r.split("|")[1], int(r.split("|")[2])) for r in w.pg.sql("SELECT name, holder, epoch FROM moat.leases").splitlines()}


def leader():
    pid = int(leases()["scheduler"][0].split()[-1])
    return w.control if pid == w.control.pid else w.twin if pid == w.twin.pid else None


def moved(to):
    l = leases()
    return all(l[n][0].endswith("pid %d" % to.pid) for n in ("scheduler", "deploy-controller", "gc", "projector", "backups")) and l


def deploy(mib):
    r = w.ok("POST", A + "/releases", {"manifest": M % mib, "image_digest": "sha256:" + "1" * 64, "verify_image": False})
    return w.ok("POST", E + "/deploys", {"release_id": r["id"]})["id"]


def succeeded(d, seconds=60):
    wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d)["status"] == "succeeded", seconds)


try:
    w.start_twin()
    O = w.open()
    A, E = w.make_app("hello")

    @case("one holds every role; a reply is replayed by the other one")
    def _():
        l = wait_for("roles", lambda: moved(w.control) or moved(w.twin))
        assert set(l) == {"scheduler", "deploy-controller", "gc", "projector", "backups"}, l
        one = w.ok("POST", O + "/apps", {"name": "twice"}, key="k-twice")
        two = w.q("POST", O + "/apps", {"name": "twice"}, key="k-twice")
        assert two.status == 201 and two.headers["Idempotent-Replay"] == "true" and two.json["id"] == one["id"], two.text
        assert w.ok("GET", O + "/apps/" + one["id"] + "?min_event_id=1")["name"] == "twice"

    @case("gc prunes old replies, in the hour after it won the role")
    def _():
        w.pg.sql("INSERT INTO moat.idempotency_records (scope, event_id, created_at, status, request_mac, response_body)"
                 " SELECT md5('old' || n)::uuid, 1, now() - interval '8 days', 200, '', '{}'"
                 " FROM generate_series(1, 12000) n")
        n = int(w.pg.sql("SELECT count(*) FROM moat.idempotency_records"))
        lead = leader()
        lead.send_signal(signal.SIGTERM)
        assert lead.wait(25) == 0
        wait_for("pruning", lambda: int(w.pg.sql("SELECT count(*) FROM moat.idempotency_records")) <= n - 12000, 20)
        assert int(w.pg.sql("SELECT count(*) FROM moat.idempotency_records JOIN moat.events USING (event_id)"
                            " WHERE idempotency_key = 'k-twice'")) == 1
        (w.start_control if lead is w.control else w.start_twin)()

    @case("a rebuild asked for by the API is carried out by the projector")
    def _():
        w.pg.sql("UPDATE moat_views.apps_view SET description = 'forged'")
        assert w.q("POST", "/v1/admin/projections/nothing/rebuild").status == 404
        w.ok("POST", "/v1/admin/projections/apps_view/rebuild")
        wait_for("the rebuild", lambda: not [v for v in w.ok("GET", "/v1/admin/projections")["items"] if "rebuild" in v], 40)
        assert "description" not in w.ok("GET", A), w.ok("GET", A)
        v = w.ok("GET", "/v1/admin/projections")["items"]
        assert {x["state"] for x in v} == {"live"} and all(x["last_applied_event_id"] == x["head_event_id"] for x in v), v

    def takeover(how):
        lead = leader()
        other = w.twin if lead is w.control else w.control
        w.apis = [w.d + "/api2.sock" if other is w.twin else w.api]
        before = leases()["scheduler"][1]
        lead.send_signal(how)
        t = fair.now()
        l = wait_for("takeover", lambda: moved(other), 20)
        took = fair.now() - t
        print("# roles moved %.1f s after %s" % (took, how.name))
        assert took < 15 and l["scheduler"][1] > before, (took, l, before)
        return lead

    @case("the leader stopped: within 15 s the other deploys; the one that wakes up does nothing twice")
    def _():
        if leader() is w.control:  # the agent speaks to the first: let that one live on
            w.control.send_signal(signal.SIGTERM)
            w.control.wait(25)
            wait_for("the twin leads", lambda: moved(w.twin), 20)
            w.start_control()
        d = deploy(100)
        lead = takeover(signal.SIGSTOP)
        succeeded(d)
        lead.send_signal(signal.SIGCONT)
        log = w.d + ("/control2.log" if lead is w.twin else "/control.log")
        wait_for("the former leader to notice", lambda: '"role.lost"' in open(log).read().split('"role.won"')[-1], 20)
        w.apis = [w.api, w.d + "/api2.sock"]
        succeeded(deploy(101))
        n = w.pg.sql("SELECT count(*), count(DISTINCT overlay_ipv6), count(*) FILTER (WHERE released_at IS NULL AND desired_state = 'running') FROM moat_views.instances_view")
        assert n == "2|2|1", n
        assert leader() is not lead

    @case("the leader killed: within 15 s the other goes on with the deploy")
    def _():
        if leader() is w.control:
            w.control.send_signal(signal.SIGTERM)
            w.control.wait(25)
            wait_for("the twin leads", lambda: moved(w.twin), 20)
            w.start_control()
        w.apis = [w.api]
        d = deploy(102)
        takeover(signal.SIGKILL)
        succeeded(d)
        n, top = w.pg.sql("SELECT count(*), max(event_id) FROM moat.events").split("|")
        assert n == top
finally:
    if w.twin and w.twin.poll() is None:
        w.twin.send_signal(signal.SIGCONT)
    w.close()
kit.finish()
