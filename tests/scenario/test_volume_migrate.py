#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Volumes that move to another node, as the control plane drives it: the order of the steps, what may run when, what is refused, what is taken back, and a
server that is killed at every phase (storage-and-secrets.md 5.2). Fake nodes (fleetkit.py) that report what they are told to, when they are told to,
under a real moat-control, the real CLI. What happens to the bytes: test_agent_backups.py. COST 29 s, 9 s of processor."""
import os
import subprocess
import sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for
from fleetkit import GIB, Fleet
from ports import free_port

kit.need("volume migrate")

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
[[processes.db.mounts]]
volume = "wal"
path = "/wal"
[[volumes]]
name = "data"
size = "2Gi"
[[volumes]]
name = "wal"
size = "1Gi"
"""
CAPTURED = 1790000000123

NODES = "127.0.0.1:%d" % free_port()
w = kit.World(listen_nodes=NODES, nodes_address=NODES, rate_limit_percent=1000, suspect_seconds=15, offline_seconds=30, startup_grace_seconds=0)
fleet = None


def moat(*words):
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
    p = subprocess.run([kit.program("moat"), *words, "--org", "local", "--app", "shop", "--env", "prod"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return p.returncode, p.stdout


def volumes():
    return {v["name"]: v for v in w.ok("GET", E + "/volumes")["items"]}


def running():
    """Instances that hold the volumes: whatever is not observed stopped."""
    return [i for i in w.ok("GET", E + "/instances")["items"] if i["status"] != "stopped"]


def at(job):
    return w.ok("GET", O + "/migrations/" + job)


def node_of(node_id):
    return next(n for n in fleet.nodes if n.node_id == node_id)


def sql(text):
    return [line.split("|") for line in w.pg.sql(text).strip().splitlines() if line]


def snapshot_all(job):
    """The source has stored what it was asked for."""
    rows = sql("SELECT snapshot_id || '|' || source_node_id || '|' || (SELECT size_bytes FROM moat_views.volumes_view v WHERE v.volume_id = s.volume_id) FROM moat_views.snapshots_view s"
               " WHERE migration_id = '%s' AND status IN ('queued','running')" % job)
    for snap, node, size in rows:
        r = node_of(node).tell("snapshots", snapshot_id=snap, status="succeeded", captured_at_ms=CAPTURED, size_bytes=int(size), key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64)
        assert r.status == 200, r.text
    return len(rows)


def restores(job, node):
    plan = node.ask(node.connect(), "GET", "/internal/v1/nodes/self/plan?after=0&epoch=1&wait=1").json
    return [r for r in plan.get("restore_jobs", [])]


def restore_all(job, node, **how):
    rows = [r for r in restores(job, node) if not r.get("done")]
    for r in rows:
        item = dict({"status": "succeeded", "fs_uuid": "00000000-0000-4000-8000-000000000007", "bytes_done": r["size_bytes"], "bytes_total": r["size_bytes"]}, **how)
        assert node.tell("restores", restore_id=r["restore_id"], **item).status == 200
    return rows


def popen(*words):
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
    return subprocess.Popen([kit.program("moat"), *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def pump(done, seconds=90):
    """Nodes do what they are asked for, until @done; at no moment does more than one instance hold the volumes."""
    def turn():
        assert len(running()) <= 1, running()
        for m in w.ok("GET", O + "/migrations")["items"]:
            if m["status"] in ("queued", "running"):
                snapshot_all(m["id"])
                restore_all(m["id"], node_of(m["target_node_id"]))
        return done()
    wait_for("the end", turn, seconds)


def phase(job, name, seconds=30):
    return wait_for("phase " + name, lambda: (lambda m: m if m.get("phase") == name or m["status"] == name else None)(at(job)), seconds)


def no_snapshot_under_way():
    """A node tells of what was taken back when it has seen it; till then another migration is refused (snapshot_in_progress)."""
    wait_for("no snapshot under way", lambda: not sql("SELECT snapshot_id FROM moat_views.snapshots_view WHERE status IN ('queued','running')"), 30)


def migrate(target, **more):
    no_snapshot_under_way()
    return w.ok("POST", E + "/volumes/" + volumes()["data"]["id"] + "/migrate", dict({"node_id": target.node_id}, **more))["id"]


def elsewhere():
    return next(n for n in fleet.nodes if n.node_id not in (home(), poor.node_id))


def home():
    return volumes()["data"]["home_node_id"]


try:
    w.start_edge()
    O = w.open()
    fleet = Fleet(w, 3, NODES, memory=2 * GIB)
    w.ok("POST", "/v1/nodes/%s/cordon" % w.agent.node_id, {"reason": "the fleet only"})
    poor = fleet.nodes[2]
    for n in fleet.nodes[:2]:
        n.pool = 64 * GIB
        n.heartbeat()
    wait_for("the fleet", lambda: sum(h == "ready" for h in fleet.health().values()) == 4, 30)
    A, E = w.make_app("shop")
    w.ok("PATCH", E, {"backup_interval_seconds": 2592000, "expected_version": w.ok("GET", E)["resource_version"]})
    w.deploy(A, E, MANIFEST)
    wait_for("the process", lambda: [i["status"] for i in running()] == ["ready"], 40)
    first = dict(volumes())

    @case("what cannot begin is refused by name, with the mend, and leaves nothing")
    def _():
        V = E + "/volumes/" + volumes()["data"]["id"] + "/migrate"
        for body, code in (({}, "invalid_argument"), ({"node_id": "x"}, "invalid_argument"), ({"node_id": elsewhere().node_id, "x": 1}, "unknown_field")):
            assert w.q("POST", V, body).json["code"] == code, (body, w.q("POST", V, body).text)
        for node, code, words in ((home(), "conflict", "already"), ("node_" + "0" * 26, "not_found", "no node"), (poor.node_id, "no_capacity_storage", "[storage]"),
                                  (w.agent.node_id, "node_not_eligible", "cordoned")):
            r = w.q("POST", V, {"node_id": node})
            assert r.json["code"] == code and words in r.json["detail"], (code, r.text)
        assert w.q("POST", E + "/volumes/vol_" + "0" * 26 + "/migrate", {"node_id": elsewhere().node_id}).status == 404
        B, F = w.make_app("other")  # a volume of another environment is none of this one
        assert w.q("POST", F + "/volumes/" + volumes()["data"]["id"] + "/migrate", {"node_id": elsewhere().node_id}).status == 404
        r = w.q("POST", V + "?dry_run=true", {"node_id": elsewhere().node_id})
        assert r.status == 200 and r.json["dry_run"], r.text
        assert sorted(volumes()) == ["data", "wal"] and w.ok("GET", O + "/migrations")["items"] == []
        code, text = moat("volumes", "migrate", "data")
        assert code == 2 and "--to-node" in text, (code, text)

    @case("both volumes are copied while the process runs; it stops, what changed follows, and it starts on the other node; the old copy goes when the new one serves")
    def _():
        old_home, target = node_of(home()), elsewhere()
        code, text = moat("volumes", "migrate", "data", "--to-node", target.node_id, "--no-wait")
        assert code == 0 and "mig_" in text, (code, text)
        job = w.ok("GET", O + "/migrations")["items"][0]["id"]
        m = phase(job, "precopy")
        assert len(m["volume_ids"]) == 2 and m["process_type"] == "db", m
        assert restores(job, target) == [], "the target was told of a backup that is not there yet"
        assert volumes()["data"]["migration"]["id"] == job
        for path, body in (("/resize", {"size_bytes": 3 * GIB}), ("/migrate", {"node_id": target.node_id})):
            r = w.q("POST", E + "/volumes/" + volumes()["data"]["id"] + path, body)
            assert r.status == 409 and r.json["code"] == "migration_in_progress" and job in r.json["detail"], r.text
        assert snapshot_all(job) == 2
        pre = wait_for("the pre-copies", lambda: restores(job, target) if len(restores(job, target)) == 2 else None)
        assert all(r["precopy"] and "base_restore_id" not in r for r in pre), pre
        assert [i["node_id"] for i in running()] == [old_home.node_id]
        restore_all(job, target)
        phase(job, "final_copy")  # the fake node stops at once
        assert running() == [], running()
        wait_for("the pre-copies to be kept", lambda: {r["restore_id"]: r.get("done") for r in restores(job, target)} == {r["restore_id"]: True for r in pre}, 20)
        wait_for("the reason why it stands still", lambda: w.ok("GET", E + "/status")["processes"][0].get("reason") == "volume_migrating", 20)
        assert snapshot_all(job) == 2
        fin = wait_for("the final round", lambda: [r for r in restores(job, target) if "base_restore_id" in r] if len(restores(job, target)) == 4 else None)
        assert sorted(r["base_restore_id"] for r in fin) == sorted(r["restore_id"] for r in pre), fin
        assert running() == []
        restore_all(job, target)
        m = phase(job, "succeeded")
        assert m["downtime_ms"] >= 0 and "phase" not in m, m
        assert [i["node_id"] for i in running()] == [target.node_id]
        wait_for("the old copies to go", lambda: sorted(volumes()) == ["data", "wal"], 30)
        now = volumes()
        assert all(now[n]["id"] != first[n]["id"] and now[n]["home_node_id"] == target.node_id for n in now), now
        wait_for("a plan without its jobs", lambda: restores(job, target) == [], 20)
        code, text = moat("wait", "migration", job)
        assert code == 0, text
        code, text = moat("migrations", "get", job)
        assert code == 0 and "succeeded" in text, text
        code, text = moat("migrations", "list")
        assert code == 0 and job in text, text

    @case("taken back while the process runs, and while it stands still: it runs on the old volumes, and nothing is left of the new ones")
    def _():
        before = volumes()
        for until in ("precopy", "final_copy"):
            target, ran = elsewhere(), running()
            job = migrate(target)
            phase(job, "precopy")
            if until == "final_copy":
                snapshot_all(job)
                wait_for("the pre-copies", lambda: len(restores(job, target)) == 2)
                restore_all(job, target)
                phase(job, "final_copy")
                assert running() == []
            code, text = moat("migrations", "cancel", job)
            assert code == 0, text
            m = at(job)
            assert m["status"] == "failed" and m["failed_reason"] == "cancelled", m
            wait_for("the process", lambda: [(i["status"], i["node_id"]) for i in running()] == [("ready", home())], 40)
            wait_for("nothing of the new ones", lambda: sorted(volumes()) == ["data", "wal"], 30)
            assert {n: v["id"] for n, v in volumes().items()} == {n: v["id"] for n, v in before.items()}
            if until == "precopy":
                assert [i["id"] for i in running()] == [i["id"] for i in ran], "it was stopped for nothing"
            code, text = moat("migrations", "cancel", job)
            assert code == 0, text

    @case("a step that fails leaves the old volumes with the process: a snapshot, a pre-copy, the last restore")
    def _():
        before = {n: v["id"] for n, v in volumes().items()}
        for which, reason in (("snapshot", "snapshot_failed"), ("precopy", "restore_failed"), ("final", "restore_failed")):
            target = elsewhere()
            job = migrate(target)
            phase(job, "precopy")
            if which == "snapshot":
                snap, node = sql("SELECT snapshot_id || '|' || source_node_id FROM moat_views.snapshots_view WHERE migration_id = '%s' LIMIT 1" % job)[0]
                assert node_of(node).tell("snapshots", snapshot_id=snap, status="failed", failed_reason="upload_failed").status == 200
            else:
                snapshot_all(job)
                wait_for("the pre-copies", lambda: len(restores(job, target)) == 2)
                if which == "final":
                    restore_all(job, target)
                    phase(job, "final_copy")
                    snapshot_all(job)
                    wait_for("the final round", lambda: len(restores(job, target)) == 4)
                restore_all(job, target, status="failed", failed_reason="fsck_failed")
            m = phase(job, "failed")
            assert m["failed_reason"] == reason, m
            wait_for("the process", lambda: [(i["status"], i["node_id"]) for i in running()] == [("ready", home())], 40)
            wait_for("nothing of the new ones", lambda: {n: v["id"] for n, v in volumes().items()} == before, 30)

    @case("killed at every phase, the control plane goes on where it was; never two instances, and the end is the same")
    def _():
        target, worst = elsewhere(), []
        job = migrate(target)
        for name, act in (("precopy", lambda: snapshot_all(job)), ("precopy", lambda: len(restore_all(job, target))), ("final_copy", lambda: snapshot_all(job)),
                          ("final_copy", lambda: len(restore_all(job, target)))):
            phase(job, name)
            worst.append(len(running()))
            w.kill_control()
            w.start_control()
            for n in fleet.nodes:
                with n.lock:
                    n.beats = n.connect()
            wait_for("something to report", act, 40)
        phase(job, "succeeded", 60)
        assert max(worst) <= 1 and [i["node_id"] for i in running()] == [target.node_id], (worst, running())
        wait_for("the old copies to go", lambda: sorted(volumes()) == ["data", "wal"], 30)
        bad = sql("SELECT count(*) FROM moat.events WHERE event_type = 'volume_attachment.replaced'")
        assert bad == [["4"]], bad

    @case("a drain that migrates: simulated first, then done; the node is empty, and nothing ran twice")
    def _():
        away, target = node_of(home()), elsewhere()
        s = w.ok("GET", "/v1/nodes/%s/simulate/drain" % away.node_id)
        assert {v["name"]: v.get("moves_to") for v in s["volumes"]} == {"data": target.node_id, "wal": target.node_id}, s
        code, text = moat("simulate", "drain", away.name)
        assert code == 0 and "moves to " + target.node_id in text, (code, text)
        p = popen("node", "drain", away.name, "--stateful", "migrate", "--reason", "new disks", "--wait", "--wait-timeout", "300s")
        pump(lambda: p.poll() is not None)
        text = p.communicate()[0]
        assert p.returncode == 0 and "is drained" in text and "volumes are still to leave" in text, (p.returncode, text)
        d = w.ok("GET", "/v1/nodes/" + away.node_id)["drain"]
        assert d["state"] == "complete" and d["volumes"] == 0 and "not_moved" not in d, d
        assert [i["node_id"] for i in running()] == [target.node_id] and w.ok("GET", "/v1/admin/volumes?node_id=" + away.node_id)["items"] == []
        m = w.ok("GET", O + "/migrations?order=desc")["items"][0]
        assert m["reason"] == "drain" and m["status"] == "succeeded", m

    @case("what a drain cannot move is told with the reason, stays served, and moves by itself when the reason is gone")
    def _():
        here, full = node_of(home()), elsewhere()  # the other one is drained still: there is no node to go to
        p = popen("node", "drain", here.name, "--stateful", "migrate", "--reason", "new disks", "--wait", "--wait-timeout", "60s")
        text = p.communicate(timeout=300)[0]
        assert p.returncode == 8 and text.count("cannot be moved") >= 2 and "cannot take work now" in text, (p.returncode, text)
        d = w.ok("GET", "/v1/nodes/" + here.node_id)["drain"]
        assert d["state"] == "blocked" and {x["name"] for x in d["not_moved"]} == {"data", "wal"} and d["volumes"] == 2, d
        assert [i["status"] for i in running()] == ["ready"]
        s = w.ok("GET", "/v1/nodes/%s/simulate/drain" % here.node_id)
        assert all("cannot take work now" in v["not_moved"] for v in s["volumes"]), s
        said = [e["payload"]["code"] for e in w.ok("GET", O + "/events?event_type=volume.move_refused")["items"]]
        # once for each volume, and again only when the node itself has changed meanwhile (a busy machine makes it suspect)
        changed = int(sql("SELECT count(*) FROM moat.events WHERE aggregate_id = '%s' AND event_id > (SELECT max(event_id) FROM moat.events WHERE aggregate_id = '%s'"
                          " AND event_type = 'node.admin_state_changed')" % (here.node_id, here.node_id))[0][0])
        assert set(said) == {"no_capacity_storage"} and 2 <= len(said) <= 2 * (1 + changed), (said, changed)
        w.ok("POST", "/v1/nodes/%s/uncordon" % full.node_id, {"reason": "its disks are in"})
        pump(lambda: w.ok("GET", "/v1/nodes/" + here.node_id)["drain"]["state"] == "complete")
        assert home() == full.node_id and [i["node_id"] for i in running()] == [full.node_id]

    @case("a drain that is taken back begins nothing more, and what is under way comes to its end")
    def _():
        w.ok("POST", "/v1/nodes/%s/uncordon" % elsewhere().node_id, {"reason": "its disks are in"})
        here, target = node_of(home()), elsewhere()
        w.ok("POST", "/v1/nodes/%s/drain" % here.node_id, {"reason": "x", "stateful": "migrate"})
        job = wait_for("a migration", lambda: [m for m in w.ok("GET", O + "/migrations")["items"] if m["status"] in ("queued", "running")], 30)[0]["id"]
        w.ok("POST", "/v1/nodes/%s/uncordon" % here.node_id, {"reason": "not now"})
        pump(lambda: at(job)["status"] == "succeeded")
        assert home() == target.node_id
        for body in ({"reason": "x", "stateful": "fly"}, {"reason": "x", "stateful": 1}):
            assert w.q("POST", "/v1/nodes/%s/drain" % here.node_id, body).status == 400

    @case("volumes of one process live on one node: a deploy, an attachment and a replacement that would part them are refused, and leave nothing")
    def _():
        B, F = w.make_app("apart")
        ids = {}

        def make(name, at, gib):
            """A volume that can only be made on node @at."""
            for n in fleet.nodes[:2]:
                w.ok("POST", "/v1/nodes/%s/%scordon" % (n.node_id, "un" if n is at else ""), {"reason": "the other one"})
            ids[name] = w.ok("POST", F + "/volumes", {"name": name, "size_bytes": gib * GIB})["id"]
        for name, node, gib in (("wal", 1, 1), ("more", 1, 1), ("near", 0, 1), ("data", 0, 2)):
            make(name, fleet.nodes[node], gib)
        there = lambda: {v["name"]: v for v in w.ok("GET", F + "/volumes")["items"]}
        wait_for("the volumes", lambda: all(v["state"] == "available" for v in there().values()), 30)
        assert {n: v["home_node_id"] for n, v in there().items()} == {"data": fleet.nodes[0].node_id, "near": fleet.nodes[0].node_id, "wal": fleet.nodes[1].node_id, "more": fleet.nodes[1].node_id}

        def apart(r):
            assert r.status == 409 and r.json["code"] == "volume_home_node_mismatch", r.text
            assert fleet.nodes[0].node_id in r.json["detail"] or fleet.nodes[1].node_id in r.json["detail"], r.text
        release = w.ok("POST", B + "/releases", {"manifest": MANIFEST, "image_digest": "sha256:" + "1" * 64, "verify_image": False})["id"]
        apart(w.q("POST", F + "/deploys", {"release_id": release}))
        assert not w.ok("GET", F + "/deploys")["items"] and not w.ok("GET", F + "/volume-attachments")["items"]
        one = MANIFEST.replace('[[processes.db.mounts]]\nvolume = "wal"\npath = "/wal"\n', "").replace('[[volumes]]\nname = "wal"\nsize = "1Gi"\n', "")
        w.deploy(B, F, one)
        apart(w.q("POST", F + "/volume-attachments", {"volume_id": ids["more"], "process_type": "db", "mount_path": "/more"}))
        held = w.ok("POST", F + "/volume-attachments", {"volume_id": ids["near"], "process_type": "db", "mount_path": "/near"})["id"]
        w.ok("PUT", F + "/scale", {"processes": [{"process_type": "db", "desired": 0}], "expected_version": w.ok("GET", F + "/scale")["resource_version"]})
        wait_for("it stopped", lambda: all(i["status"] == "stopped" for i in w.ok("GET", F + "/instances")["items"]), 40)
        apart(w.q("POST", F + "/volume-attachments/" + held + "/replace", {"new_volume_id": ids["more"]}))
        assert {a["volume_id"] for a in w.ok("GET", F + "/volume-attachments")["items"]} == {ids["data"], ids["near"]}
finally:
    if fleet:
        fleet.close()
    w.close()
kit.finish()
