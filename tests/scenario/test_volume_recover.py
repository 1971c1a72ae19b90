#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node with a volume is lost: nothing moves by itself, nobody takes its place before an operator has said that the machine is off and somebody has named
what is given up, and then the last backup runs on another node (storage-and-secrets.md 5.3). And backups that are tried on request. Fake nodes
(fleetkit.py) under a real moat-control, the real CLI. COST 28 s, 3 s of processor."""
import json
import os
import subprocess
import sys
import time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for
from fleetkit import GIB, Fleet
from ports import free_port

kit.need("volume recover")

MANIFEST = """schema_version = "v1"
[image]
ref = "registry.test:5000/hello:latest"
[processes.db]
command = ["/db"]
[processes.db.resources]
memory = "128Mi"
cpu = 0.1
[[processes.db.mounts]]
volume = "data"
path = "/data"
[[volumes]]
name = "data"
size = "2Gi"
"""
CAPTURED = 1790000000123

NODES = "127.0.0.1:%d" % free_port()
w = kit.World(listen_nodes=NODES, nodes_address=NODES, rate_limit_percent=1000, suspect_seconds=10, offline_seconds=30, startup_grace_seconds=0)
fleet = None


def moat(*words, app="shop"):
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
    return subprocess.Popen([kit.program("moat"), *words, "--org", "local", "--app", app, "--env", "prod"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(p, seconds=400):
    out, errs = p.communicate(timeout=seconds)
    return p.returncode, out + errs


def volumes():
    return {v["name"]: v for v in w.ok("GET", E + "/volumes")["items"]}


def db():
    return [i for i in w.ok("GET", E + "/instances")["items"] if i["desired_state"] == "running" and i["status"] == "ready"]


def node_of(node_id):
    return next(n for n in fleet.nodes if n.node_id == node_id)


def restores_of(volume):
    sql = "SELECT restore_id FROM moat_views.restores_view WHERE source_volume_id = '%s' AND status IN ('queued','running') ORDER BY created_at" % volume
    return [x for x in w.pg.sql(sql).split() if x]


try:
    w.start_edge()
    O = w.open()
    fleet = Fleet(w, 3, NODES, memory=2 * GIB)
    w.ok("POST", "/v1/nodes/%s/cordon" % w.agent.node_id, {"reason": "the fleet only"})
    for n in fleet.nodes:
        n.pool = 64 * GIB
        n.heartbeat()
    wait_for("the fleet", lambda: sum(h == "ready" for h in fleet.health().values()) == 4, 30)
    A, E = w.make_app("shop")
    w.ok("PATCH", E, {"backup_interval_seconds": 2592000, "expected_version": w.ok("GET", E)["resource_version"]})
    w.deploy(A, E, MANIFEST)
    wait_for("the process", db, 40)
    V = volumes()["data"]
    HOME = node_of(V["home_node_id"])

    @case("a volume without a backup is not verified, and one whose node is there is not recovered")
    def _():
        code, text = said(moat("volumes", "verify", "data"))
        assert code != 0 and "has no backup" in text and "moat snapshots create" in text, (code, text)
        code, text = said(moat("volumes", "recover", "data", "--accept-loss-since", "now"))
        assert code != 0 and "is there, nothing of volume 'data' is lost" in text, (code, text)

    @case("a backup is tried on request: one at a time, its answer is the snapshot's, and nothing of it is a volume")
    def _():
        s = w.ok("POST", E + "/volumes/" + V["id"] + "/snapshots", {})["id"]
        r = HOME.tell("snapshots", snapshot_id=s, status="succeeded", captured_at_ms=CAPTURED, size_bytes=2 * GIB, key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64)
        assert r.status == 200, r.text
        wait_for("the backup", lambda: volumes()["data"].get("last_backup_snapshot_id") == s, 20)
        assert w.ok("POST", E + "/volumes/" + V["id"] + "/verify?dry_run=true", {})["dry_run"] and restores_of(V["id"]) == []
        p = moat("volumes", "verify", "data", "--wait", "--wait-timeout", "300s")
        job = wait_for("the job", lambda: restores_of(V["id"]), 30)[0]
        again = w.q("POST", E + "/volumes/" + V["id"] + "/verify", {"snapshot_id": s})
        assert again.status == 409 and job in again.json["detail"], again.text
        for bad, code in (({"snapshot_id": "snap_" + "0" * 26}, "not_found"), ({"snapshot_id": "x"}, "invalid_argument"), ({"other": 1}, "unknown_field")):
            assert w.q("POST", E + "/volumes/" + V["id"] + "/verify", bad).json["code"] == code, bad
        at = w.ok("GET", O + "/restores/" + job)
        assert at["requested_by"] != "backups" and list(volumes()) == ["data"], at
        r = node_of(at["target_node_id"]).tell("restores", restore_id=job, status="succeeded", fs_uuid=V["fs_uuid"], bytes_done=2 * GIB, bytes_total=2 * GIB)
        assert r.status == 200, r.text
        code, text = said(p)
        assert code == 0, (code, text)
        assert volumes()["data"]["last_proven_restore_at"], volumes()
        assert [e["event_type"] for e in w.ok("GET", O + "/events?event_type=snapshot.proof_recorded")["items"]] == ["snapshot.proof_recorded"]
        p = moat("volumes", "verify", "data", "--wait", "--wait-timeout", "300s")  # one that is not whole
        job = wait_for("the job", lambda: restores_of(V["id"]), 30)[0]
        node_of(w.ok("GET", O + "/restores/" + job)["target_node_id"]).tell("restores", restore_id=job, status="failed", failed_reason="fsck_failed")
        code, text = said(p)
        assert code != 0 and "restore is failed" in text and "moat describe restore " + job in text, (code, text)
        assert w.ok("GET", O + "/restores/" + job)["failed_reason"] == "fsck_failed"

    @case("a silent node is not taken for a lost one: nothing moves, and recover names who has to say that it is off")
    def _():
        HOME.vanish()
        wait_for("it is silent", lambda: fleet.health()[HOME.node_id] in ("suspect", "offline"), 60)
        wait_for("that it cannot be reached", lambda: not volumes()["data"]["reachable"] or fleet.health()[HOME.node_id] == "suspect", 60)
        wait_for("offline", lambda: fleet.health()[HOME.node_id] == "offline", 60)
        code, text = said(moat("volumes", "recover", "data", "--accept-loss-since", volumes()["data"]["last_backup_at"]))
        assert code != 0 and "may run the process" in text and "moat node mark-lost " + HOME.node_id in text, (code, text)
        r = w.q("POST", E + "/volumes/" + V["id"] + "/recover", {"accept_loss_since": volumes()["data"]["last_backup_at"]})
        assert r.status == 409 and r.json["code"] == "conflict" and "mark-lost" in r.json["detail"], r.text
        assert restores_of(V["id"]) == [] and "node_lost" not in volumes()["data"] and list(volumes()) == ["data"], volumes()

    @case("what is given up is told and has to be named; then the last backup takes the place on another node, and the process runs on it")
    def _():
        w.ok("POST", "/v1/nodes/%s/mark-lost" % HOME.node_id, {"reason": "burnt"})
        wait_for("it is lost", lambda: volumes()["data"].get("node_lost"), 20)
        since = volumes()["data"]["last_backup_at"]
        assert since.startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(CAPTURED // 1000))), since
        for words in ((), ("--accept-loss-since", "2001-01-01T00:00:00Z")):
            code, text = said(moat("volumes", "recover", "data", *words))
            assert code != 0 and "is lost: since " + since in text and "--accept-loss-since " + since in text, (code, text)
        recover = lambda body, **kw: w.q("POST", E + "/volumes/" + V["id"] + "/recover", body, **kw)
        for body, status, code in (({}, 409, "conflict"), ({"accept_loss_since": "2001-01-01T00:00:00Z"}, 409, "conflict"), ({"accept_loss_since": since, "node_id": "x"}, 400, "invalid_argument"),
                                   ({"accept_loss_since": since, "node_id": HOME.node_id}, 409, "no_capacity_storage"), ({"snapshot_id": "x"}, 400, "unknown_field")):
            r = recover(body)
            assert (r.status, r.json["code"]) == (status, code), (body, r.text)
        r = w.q("POST", E + "/volumes/" + V["id"] + "/recover?dry_run=true", {"accept_loss_since": since})
        assert r.status in (200, 201) and r.json["dry_run"], r.text
        assert restores_of(V["id"]) == [], "a restore began before it was accepted"
        p = moat("volumes", "recover", "data", "--accept-loss-since", since, "--wait-timeout", "300s")
        job = wait_for("the restore", lambda: restores_of(V["id"]), 30)[0]
        at = w.ok("GET", O + "/restores/" + job)
        assert at["target_node_id"] != HOME.node_id, at
        target = node_of(at["target_node_id"])
        assert target.tell("restores", restore_id=job, status="succeeded", fs_uuid="00000000-0000-4000-8000-000000000007", bytes_done=2 * GIB, bytes_total=2 * GIB).status == 200
        code, text = said(p)
        assert code == 0, (code, text)
        now = volumes()
        assert sorted(now) == ["data", "data-1"] and now["data"]["id"] == at["new_volume_id"] and now["data-1"]["id"] == V["id"], now
        wait_for("the process on the new node", lambda: [i["node_id"] for i in db()] == [target.node_id], 60)
        assert [(x["desired"]) for x in w.ok("GET", E + "/scale")["processes"]] == [1]

    @case("the lost node comes back: its volume is nobody's, and the process stays where it is")
    def _():
        before = [i["id"] for i in db()]
        HOME.beats = HOME.connect()
        HOME.heartbeat()
        plan = HOME.ask(HOME.connect(), "GET", "/internal/v1/nodes/self/plan?after=0&epoch=1&wait=1")
        assert [a for a in (plan.json["instances"] if plan.status == 200 else []) if a["desired_state"] == "running"] == [], plan.text
        assert fleet.health()[HOME.node_id] == "lost" and [i["id"] for i in db()] == before and "attachment" not in volumes()["data-1"], volumes()

    @case("a node goes with its volumes by force only, when it is powered off; what was deleted of them ends without it")
    def _():
        third = next(n for n in fleet.nodes if n.node_id not in (HOME.node_id, db()[0]["node_id"]))
        spare = w.ok("POST", E + "/volumes", {"name": "spare", "size_bytes": GIB, "node_id": third.node_id})  # where an operator says
        assert spare["home_node_id"] == third.node_id, spare
        for n in (HOME, third):
            w.ok("POST", "/v1/nodes/%s/disable" % n.node_id, {"reason": "gone"})
        for n, query, mend in ((HOME, "", "--force"), (third, "", "--force"), (third, "?force=true", "mark-lost")):
            r = w.q("DELETE", "/v1/nodes/" + n.node_id + query, {"reason": "gone"})
            assert r.status == 409 and r.json["code"] == "node_has_volumes" and mend in r.json["detail"], r.text
        p = subprocess.run([kit.program("moat"), "node", "remove", HOME.node_id, "--force", "--yes", "--reason", "gone"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                           env=dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1"))
        assert p.returncode == 0 and w.q("GET", "/v1/nodes/" + HOME.node_id).status == 404, p.stdout
        old = volumes()["data-1"]  # its backups can take its place still
        assert old["reachable"] is False and old["node_lost"] is True and old["last_backup_at"], old
        w.ok("DELETE", E + "/volumes/" + V["id"])
        wait_for("its end", lambda: "data-1" not in volumes(), 40)
        e = w.ok("GET", O + "/events?event_type=volume.deleted&aggregate_id=" + V["id"])["items"]
        assert [(x["payload"], x["actor"]["type"]) for x in e] == [({"forced": True, "delete_backups": False}, "system")], e
        assert {"data", "spare"} == set(volumes()), volumes()
finally:
    if fleet:
        fleet.close()
    w.close()
kit.finish()
