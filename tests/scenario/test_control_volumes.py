#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Volumes in the control plane: made by hand and by a deploy, homed without overcommitment, reported by a node, grown, deleted
(storage-and-secrets.md 2, control-plane.md 4.4, 9.3). The node is a fake one that speaks the internal API. Needs root.
COST 65 s, 9 s of processor."""
import base64, calendar, concurrent.futures, hashlib, http.client, json, os, random, signal, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control volumes")

GIB = 1 << 30


w = kit.World()


def manifest(volumes, mounts, extra="", max_=1):
    t = 'schema_version = "v1"\n[image]\nref = "registry.test:5000/hello:latest"\n[processes.db]\ncommand = ["/db"]\n'
    t += '[processes.db.resources]\nmemory = "128Mi"\ncpu = 0.1\n'
    for name, path in mounts:
        t += '[[processes.db.mounts]]\nvolume = "%s"\npath = "%s"\n' % (name, path)
    for name, size in volumes:
        t += '[[volumes]]\nname = "%s"\nsize = "%dGi"\n' % (name, size)
    return t + extra


def release(app, text):
    return w.ok("POST", app + "/releases", {"manifest": text, "image_digest": "sha256:" + "1" * 64, "verify_image": False})["id"]


def deploy(app, env, text):
    return w.q("POST", env + "/deploys", {"release_id": release(app, text)})


def refused(r, code, status=409):
    assert r.status == status and r.json["code"] == code, (r.status, r.text)
    return r.json


def volumes(env):
    return {v["name"]: v for v in w.ok("GET", env + "/volumes")["items"]}


def instances(env, *states):
    return [i for i in w.ok("GET", env + "/instances")["items"] if i["status"] in states]


def ready(env):
    return wait_for("a ready instance", lambda: instances(env, "ready"), 30)[0]


def interval(seconds):
    w.ok("PATCH", E, {"backup_interval_seconds": seconds, "expected_version": w.ok("GET", E)["resource_version"]})


def tenant(name, *scopes):
    """Like w.q, with no more than these scopes and as nobody's operator."""
    sp = w.ok("POST", O + "/service-principals", {"name": name, "scopes": list(scopes)})
    token = kit.call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json["access_token"]
    return lambda method, target, body=None: kit.call(w.api, method, target, body, {"Authorization": "Bearer " + token})


def put_keys(text):
    """Other master keys for the running server."""
    path, n = w.d + "/master-keys", open(w.d + "/control.log").read().count("master_keys.loaded")
    at = os.stat(path)
    with open(path + ".new", "w", opener=lambda p, flags: os.open(p, flags, 0o400)) as f:
        f.write(text)
    os.chown(path + ".new", at.st_uid, at.st_gid)
    os.rename(path + ".new", path)
    w.control.send_signal(signal.SIGHUP)
    wait_for("the keys", lambda: open(w.d + "/control.log").read().count("master_keys.loaded") > n, 10)


try:
    w.start_edge()  # what acknowledges ends the wait of a drain
    O = w.open()
    A, E = w.make_app("shop")
    interval(2592000)  # so that no scheduled backup begins in the middle of another case
    WITH = manifest([("data", 2)], [("data", "/data")])

    @case("a node that tells of no storage gets no volume, and a deploy says so instead of waiting")
    def _():
        p = refused(w.q("POST", E + "/volumes", {"name": "data", "size_bytes": GIB}), "no_capacity_storage")
        assert "1 told of no storage" in p["detail"], p
        refused(deploy(A, E, WITH), "no_capacity_storage")
        assert volumes(E) == {} and w.ok("GET", E + "/deploys")["items"] == []

    w.agent.pool = 20 * GIB  # 16 of them may be promised
    wait_for("room", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"].get("volume_bytes"), 20)

    @case("names, sizes and file systems that are not allowed are refused")
    def _():
        for body, code in (({"name": "A", "size_bytes": GIB}, "invalid_argument"), ({"name": "a", "size_bytes": GIB - 1}, "invalid_argument"),
                           ({"name": "a", "size_bytes": (1 << 41) + 1}, "invalid_argument"), ({"name": "a"}, "invalid_argument"),
                           ({"name": "a", "size_bytes": GIB, "filesystem": "xfs"}, "not_supported"), ({"name": "a", "size_bytes": GIB, "x": 1}, "unknown_field")):
            refused(w.q("POST", E + "/volumes", body), code, 400)
        refused(w.q("POST", E + "/volumes", {"name": "a", "size_bytes": 17 * GIB}), "no_capacity_storage")
        refused(w.q("POST", E + "/volumes", {"name": "a", "size_bytes": GIB, "node_id": "x"}), "invalid_argument", 400)
        refused(w.q("POST", E + "/volumes", {"name": "a", "size_bytes": GIB, "node_id": "node_" + "0" * 26}), "no_capacity_storage")
        refused(tenant("placer", "volumes:write")("POST", E + "/volumes", {"name": "a", "size_bytes": GIB, "node_id": w.agent.node_id}), "operator_only", 403)
        assert w.ok("POST", E + "/volumes?dry_run=true", {"name": "a", "size_bytes": GIB, "node_id": w.agent.node_id})["home_node_id"] == w.agent.node_id

    @case("a deploy makes and attaches the volumes of its manifest, and its instance gets them by id")
    def _():
        w.agent.makes = False
        d = deploy(A, E, WITH)
        assert d.status == 201 and [c["action"] for c in d.json["volumes"]] == ["create", "attach"], d.text
        v = volumes(E)["data"]
        assert v["size_bytes"] == 2 * GIB and v["home_node_id"] == w.agent.node_id and v["attachment"]["mount_path"] == "/data", v
        events = w.ok("GET", O + "/events?correlation_id=" + d.json["id"])["items"]
        assert {"volume.created", "volume_attachment.created", "deploy.created"} <= {e["event_type"] for e in events}, events
        plan = wait_for("the plan", lambda: [p for p in w.agent.plans if p.get("volumes") and p["instances"]], 20)[-1]
        got, mount = plan["volumes"][0], plan["instances"][0]["workload"]["mounts"][0]
        assert got["desired"] == "present" and not got["was_available"] and got["volume_id"] == v["id"], got
        assert (mount["volume_id"], mount["path"], mount["fs_uuid"]) == (v["id"], "/data", got["fs_uuid"]), mount
        refused(w.agent.volume(v["id"], "provisioned", result="ok"), "invalid_argument", 400)
        assert w.agent.volume("vol_" + v["id"][4:-1] + ("0" if v["id"][-1] != "0" else "1"), "missing").json["rejected"][0]["code"] == "not_on_this_node"
        r = w.agent.volume(v["id"], "provisioned", result="ok", fs_uuid=got["fs_uuid"], size_bytes=2 * GIB)
        assert r.json["accepted"] == 1, r.text
        assert w.agent.volume(v["id"], "provisioned", result="ok", fs_uuid=got["fs_uuid"], size_bytes=2 * GIB).json["ignored"] == 1
        ready(E)
        v = volumes(E)["data"]
        assert v["state"] == "in_use" and v["reachable"], v
        s = w.ok("GET", E + "/status")
        assert s["volumes"][0]["id"] == v["id"], s
        wait_for("was_available in the plan", lambda: [p for p in w.agent.plans if p.get("volumes") and p["volumes"][0]["was_available"]], 20)
        w.agent.makes = True

    @case("what is attached or used is not deleted, an environment with volumes not at all, one replica is the limit")
    def _():
        v = volumes(E)["data"]
        refused(w.q("DELETE", E + "/volumes/" + v["id"]), "volume_attached")
        refused(w.q("DELETE", E + "?cascade=true"), "has_dependents")
        refused(w.q("DELETE", A + "?cascade=true"), "has_dependents")
        version = w.ok("GET", E + "/scale")["resource_version"]
        refused(w.q("PUT", E + "/scale", {"processes": [{"process_type": "db", "desired": 2}], "expected_version": version}), "volume_replica_limit")

    @case("a new release stops the old instance and sees it stopped before the next one gets the volume")
    def _():
        old, held = ready(E)["id"], []
        report = w.agent.report

        def slow(instance, status, **more):
            if instance == old and status == "stopped":
                held.append(len(instances(E, "booting", "starting", "ready", "draining", "failed")))
                gate.wait(20)
            return report(instance, status, **more)
        gate, w.agent.report = threading.Event(), slow
        try:
            d = deploy(A, E, manifest([("data", 2)], [("data", "/data")], '[env.vars]\nA = "2"\n'))
            assert d.status == 201 and d.json["volumes"] == [], d.text
            wait_for("the stop", lambda: held, 30)
            assert held == [1] and len(w.ok("GET", E + "/instances")["items"]) == 1, w.ok("GET", E + "/instances")
        finally:
            gate.set()
            w.agent.report = report
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        assert ready(E)["id"] != old

    @case("a growth with restart starts its process anew by the same command; one that is asked for already can be followed by it; nothing without a process or the scope")
    def _():
        more = 2 * GIB + (4 << 20)  # the least step
        v, old = volumes(E)["data"]["id"], ready(E)["id"]
        at = E + "/volumes/" + v + "/resize"
        refused(w.q("POST", at, {"size_bytes": more, "restart": "now"}), "invalid_argument", 400)
        narrow = tenant("grower", "volumes:read", "volumes:write")
        refused(narrow("POST", at, {"size_bytes": more, "restart": True}), "insufficient_scope", 403)
        assert "resize_to_bytes" not in volumes(E)["data"]  # nothing of it
        assert w.ok("POST", at, {"size_bytes": 2 * GIB, "restart": True}).get("deploy_id") is None  # it has that size
        r = w.ok("POST", at, {"size_bytes": more, "restart": True})
        assert r["resize_to_bytes"] == more, r
        d = wait_for("its end", lambda: [x for x in [w.ok("GET", E + "/deploys/" + r["deploy_id"])] if x["status"] in ("succeeded", "failed")], 60)[0]
        assert (d["status"], d["kind"], d["process_types"]) == ("succeeded", "restart", ["db"]), d
        new = ready(E)["id"]
        assert new != old
        again = w.ok("POST", at, {"size_bytes": more, "restart": True})  # asked for already: only the start
        wait_for("its end", lambda: w.ok("GET", E + "/deploys/" + again["deploy_id"])["status"] == "succeeded", 60)
        assert ready(E)["id"] not in (old, new) and again["deploy_id"] != r["deploy_id"]
        assert w.agent.volume(v, "resized", result="ok", size_bytes=more).json["accepted"] == 1
        alone = w.ok("POST", E + "/volumes", {"name": "alone", "size_bytes": GIB})["id"]
        wait_for("it there", lambda: volumes(E)["alone"]["state"] == "available", 20)
        refused(w.q("POST", E + "/volumes/" + alone + "/resize", {"size_bytes": more, "restart": True}), "conflict")
        assert "resize_to_bytes" not in volumes(E)["alone"]
        w.ok("DELETE", E + "/volumes/" + alone)
        wait_for("it gone", lambda: "alone" not in volumes(E), 20)

    @case("a volume grows, never shrinks, and a manifest that wants more than it has is refused")
    def _():
        v = volumes(E)["data"]["id"]
        refused(w.q("POST", E + "/volumes/" + v + "/resize", {"size_bytes": GIB}), "volume_shrink_unsupported", 400)
        refused(w.q("POST", E + "/volumes/" + v + "/resize", {"size_bytes": 20 * GIB}), "no_capacity_storage")
        refused(deploy(A, E, manifest([("data", 3)], [("data", "/data")])), "volume_size_mismatch")
        assert w.ok("POST", E + "/volumes/" + v + "/resize", {"size_bytes": 3 * GIB})["resize_to_bytes"] == 3 * GIB
        wait_for("it in the plan", lambda: w.agent.plans[-1]["volumes"][0].get("resize_to_bytes") == 3 * GIB, 20)
        assert w.agent.volume(v, "resized", result="ok", size_bytes=3 * GIB).json["accepted"] == 1
        got = volumes(E)["data"]
        assert got["size_bytes"] == 3 * GIB and "resize_to_bytes" not in got, got

    @case("a report that meets a change of its volume is looked at anew, not answered as an error of the server")
    def _():
        v = w.ok("POST", E + "/volumes", {"name": "met", "size_bytes": GIB})["id"]
        wait_for("it there", lambda: volumes(E)["met"]["state"] == "available", 20)
        assert w.ok("POST", E + "/volumes/" + v + "/resize", {"size_bytes": 2 * GIB})["resize_to_bytes"] == 2 * GIB
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            with kit.HeldLog(w.pg) as log:
                change = pool.submit(w.q, "POST", E + "/volumes/" + v + "/resize", {"size_bytes": 3 * GIB})
                wait_for("the change in the queue", log.waited_for)
                since = time.time()
                report = pool.submit(w.agent.volume, v, "resized", result="ok", size_bytes=2 * GIB)
                wait_for("the report prepared", lambda: log.asked("resource_version, from_snapshot_id IS NOT NULL", since))
            assert change.result(20).status in (200, 201), change.result().text
            got = report.result(20)
        assert got.status == 200 and got.json["accepted"] + got.json["ignored"] == 1, got.text  # 2 GiB is not what is asked for by then
        assert w.agent.volume(v, "resized", result="ok", size_bytes=3 * GIB).json["accepted"] == 1
        assert volumes(E)["met"]["size_bytes"] == 3 * GIB, volumes(E)["met"]
        w.ok("DELETE", E + "/volumes/" + v)
        wait_for("it gone", lambda: "met" not in volumes(E), 20)

    @case("two at the same time never promise more than the node has, and a quota counts their bytes")
    def _():
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            rs = list(pool.map(lambda i: w.q("POST", E + "/volumes", {"name": "p%d" % i, "size_bytes": 4 * GIB}), range(8)))
        assert sorted(r.status for r in rs) == [201] * 3 + [409] * 5, [r.text for r in rs]
        assert all(r.status == 201 or r.json["code"] == "no_capacity_storage" for r in rs), [r.text for r in rs]
        assert sum(v["size_bytes"] for v in volumes(E).values()) == 15 * GIB
        w.ok("PUT", O + "/quotas/max_total_volume_bytes", {"limit": 15 * GIB, "reason": "test"})
        refused(w.q("POST", E + "/volumes", {"name": "q", "size_bytes": GIB}), "quota_exceeded")
        w.ok("PUT", O + "/quotas/max_total_volume_bytes", {"limit": None, "reason": "test"})
        refused(w.q("POST", E + "/volumes", {"name": "data", "size_bytes": GIB}), "name_taken")
        # What is promised to one organisation is gone for all: the node has 1 GiB left.
        X = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "another"})["id"]
        X += "/apps/" + w.ok("POST", X + "/apps", {"name": "shop"})["id"]
        X += "/envs/" + w.ok("POST", X + "/envs", {"name": "prod"})["id"]
        refused(w.q("POST", X + "/volumes", {"name": "data", "size_bytes": 2 * GIB}), "no_capacity_storage")

    @case("a volume on a node's disk that no plan has is told to the operator, and not any more when it is gone")
    def _():
        found = lambda: next(c for c in w.ok("GET", "/v1/admin/doctor")["checks"] if c["check"] == "volumes.orphans")
        assert found()["severity"] == "ok", found()
        w.agent.orphans = ["vol_" + "0" * 26]
        try:
            wait_for("the finding", lambda: found()["severity"] == "warn" and "vol_" + "0" * 26 + " " in found()["finding"], 20)
        finally:
            w.agent.orphans = []
        wait_for("its end", lambda: found()["severity"] == "ok", 20)

    @case("a volume that is missed is told, and comes back when its node says so")
    def _():
        v = wait_for("it available", lambda: [x for n, x in volumes(E).items() if n[0] == "p" and x["state"] == "available"], 20)[0]["id"]
        w.agent.volume(v, "missing")
        got = w.ok("GET", E + "/volumes/" + v)
        assert got["state"] == "error" and got["error_reason"] == "volume_not_present_on_node", got
        w.agent.volume(v, "provisioned", result="ok", fs_uuid=got["fs_uuid"], size_bytes=got["size_bytes"])
        assert w.ok("GET", E + "/volumes/" + v)["state"] == "available"

    @case("a volume gets another name while no process has it, and its backups are turned off and on")
    def _():
        v = [x for n, x in volumes(E).items() if n[0] == "p" and x["state"] == "available"][0]
        V, version = E + "/volumes/" + v["id"], v["resource_version"]
        refused(w.q("PATCH", V, {"name": "q"}), "expected_version_required", 400)
        refused(w.q("PATCH", V, {"expected_version": version}), "no_changes", 400)
        refused(w.q("PATCH", V, {"name": v["name"], "backup_enabled": True, "expected_version": version}), "no_changes", 400)
        refused(w.q("PATCH", V, {"size_bytes": GIB, "expected_version": version}), "unknown_field", 400)
        for bad in ("Q", "", None, 1):
            refused(w.q("PATCH", V, {"name": bad, "expected_version": version}), "invalid_argument", 400)
        refused(w.q("PATCH", V, {"name": "data", "expected_version": version}), "name_taken")
        refused(w.q("PATCH", V, {"name": "q", "expected_version": version + 1}), "version_conflict")
        data = volumes(E)["data"]
        refused(w.q("PATCH", E + "/volumes/" + data["id"], {"name": "q", "expected_version": data["resource_version"]}), "volume_attached")
        body = {"name": "q", "backup_enabled": False, "expected_version": version}
        assert w.ok("PATCH", V + "?dry_run=true", body)["name"] == "q" and w.ok("GET", V)["resource_version"] == version
        got = w.ok("PATCH", V, body)
        assert (got["name"], got["backup_enabled"], got["resource_version"]) == ("q", False, version + 1), got
        assert volumes(E)["q"]["id"] == v["id"] and v["name"] not in volumes(E)
        e = w.ok("GET", O + "/events?event_type=volume.updated")["items"]
        assert [(x["aggregate_id"], x["payload"]) for x in e] == [(v["id"], {"name": "q", "backup_enabled": False})], e
        assert "its name is now 'q'" in e[0]["summary"], e
        assert w.ok("PATCH", V, {"name": v["name"], "backup_enabled": True, "expected_version": version + 1})["backup_enabled"] is True
        got = w.ok("PATCH", E + "/volumes/" + data["id"], {"backup_enabled": False, "expected_version": data["resource_version"]})  # while a process has it
        w.ok("PATCH", E + "/volumes/" + data["id"], {"backup_enabled": True, "expected_version": got["resource_version"]})

    @case("a snapshot is refused where its node can make no backups, one of a volume is made at a time, and only forward")
    def _():
        v = [x for n, x in volumes(E).items() if n[0] == "p" and x["state"] == "available"][0]["id"]
        S = E + "/volumes/" + v + "/snapshots"
        p = refused(w.q("POST", S, {"note": "n"}), "backup_store_missing")
        assert "/etc/moat/backup.toml" in p["detail"] and w.ok("GET", S)["items"] == [], p
        w.agent.backup_store = True
        first = wait_for("the store to be known", lambda: (lambda r: r.status == 201 and r.json)(w.q("POST", S, {"note": "n"})), 20)
        s, key = first["id"], lambda job, vol=v: w.agent.post("volume-key", {"volume_id": vol, "job_id": job})
        refused(w.q("POST", S, {}), "snapshot_in_progress")
        refused(w.q("DELETE", E + "/volumes/" + v), "snapshot_in_progress")
        j = wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get("snapshot_jobs", []) if x["snapshot_id"] == s], 20)[0]
        assert (j["volume_id"], j["key_epoch"], j["origin"]) == (v, 1, "manual") and not j.get("cancel") and "parent_snapshot_id" not in j, j
        k = key(s)
        assert k.status == 200 and k.json["key_epoch"] == 1 and len(k.json["key"]) == 64 and len(base64.b64decode(k.json["wrapped"])) == 72, k.status
        assert key(s).json == k.json
        other = [x["id"] for x in volumes(E).values() if x["id"] != v][0]
        assert key(s, other).status == 403 and key("snap_" + "0" * 26).status == 403
        told = w.ok("GET", "/v1/admin/audit?action=volume_key.deliver&resource=" + s)["items"]
        assert [e["decision"] for e in told].count("allow") == 2 and "deny" in [e["decision"] for e in told], told
        root = dict(captured_at_ms=1800000000000, size_bytes=4 * GIB, key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64)
        assert w.agent.snapshot(s, "running", phase="uploading", uploaded_bytes=1).json["accepted"] == 1
        assert w.agent.snapshot(s, "running", phase="capturing").json["ignored"] == 1
        assert w.agent.snapshot(s, "running", phase="uploading", uploaded_bytes=2).json["ignored"] == 1
        assert w.agent.snapshot("snap_" + "0" * 26, "running").json["rejected"][0]["code"] == "not_on_this_node"
        assert w.agent.snapshot(s, "succeeded", consistency="crash", **root).json["accepted"] == 1
        assert w.agent.snapshot(s, "failed", failed_reason="cancelled").json["ignored"] == 1
        got = w.ok("GET", S + "/" + s)
        assert got["status"] == "succeeded" and got["consistency"] == "crash" and got["note"] == "n" and "phase" not in got and "image_root" not in got, got
        assert w.ok("GET", E + "/snapshots/" + s) == got and [x["id"] for x in w.ok("GET", E + "/snapshots")["items"]] == [s]
        refused(w.q("GET", E + "/snapshots/snap_" + "0" * 26), "not_found", 404)
        held = w.ok("GET", E + "/volumes/" + v)
        assert held["latest_snapshot"]["id"] == s and held["latest_snapshot"]["status"] == "succeeded", held
        assert held["last_backup_snapshot_id"] == s and held["last_backup_at"] == got["captured_at"] and held["backup_stale"] is False, held
        events = w.ok("GET", O + "/events?correlation_id=" + s)["items"]
        assert [e["event_type"] for e in events] == ["snapshot.created"] + ["snapshot.status_changed"] * 2, events
        assert "aaaa" not in json.dumps(events) and "key_epoch" not in json.dumps(events)
        assert key(s).status == 403  # it ended
        two = w.ok("POST", S, {})["id"]
        j = wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get("snapshot_jobs", []) if x["snapshot_id"] == two], 20)[0]
        assert j["parent_snapshot_id"] == s, j
        assert w.ok("DELETE", S + "/" + two)["already_deleted"] is False and w.ok("DELETE", S + "/" + two)["already_deleted"] is True
        assert key(two).status == 403
        refused(w.q("POST", S, {}), "snapshot_in_progress")
        wait_for("it to be cancelled", lambda: [x for p in w.agent.plans for x in p.get("snapshot_jobs", []) if x["snapshot_id"] == two and x["cancel"]], 20)
        assert w.agent.snapshot(two, "failed", failed_reason="cancelled").json["accepted"] == 1
        assert [x["id"] for x in w.ok("GET", S)["items"]] == [s] and len(w.ok("GET", S + "?include_deleted=true")["items"]) == 2
        w.ok("PUT", O + "/quotas/max_snapshots_per_volume", {"limit": 1, "reason": "test"})
        refused(w.q("POST", S, {}), "quota_exceeded")
        w.ok("PUT", O + "/quotas/max_snapshots_per_volume", {"limit": None, "reason": "test"})
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            rs = list(pool.map(lambda i: w.q("POST", S, {}), range(6)))
        assert sorted(r.status for r in rs) == [201] + [409] * 5 and all(r.status == 201 or r.json["code"] == "snapshot_in_progress" for r in rs), [r.text for r in rs]
        assert w.agent.snapshot([r for r in rs if r.status == 201][0].json["id"], "failed", failed_reason="snapshot_create_failed").json["accepted"] == 1
        assert w.pg.sql("SELECT count(*) FROM moat.volume_backup_keys WHERE volume_id = '%s'" % v).strip() == "1"
        v1 = w.ok("POST", "/v1/admin/keys/verify", {})
        assert v1["wrapped_keys"] == v1["opened"] >= 1, v1
        with open(w.d + "/master-keys") as f:
            old = f.read()
        new = bytes([7]) * 32
        name = hashlib.sha256(b"moat-master-key-v1\0" + new).hexdigest()[:16]
        put_keys(old.replace(" active ", " retired ") + "%s active %s\n" % (name, base64.b64encode(new).decode()))
        retire = lambda kid, **more: w.q("POST", "/v1/admin/keys/%s/retire" % kid, {"reason": "yearly", **more})
        first = next(x["id"] for x in w.ok("GET", "/v1/admin/keys")["keys"] if x["id"] != name)
        assert "still holds" in refused(retire(first), "conflict")["detail"] and "active" in refused(retire(name), "conflict")["detail"]
        refused(retire("f" * 16), "not_found", 404)
        refused(retire("x"), "invalid_id", 400)
        rewrapped = w.ok("POST", "/v1/admin/keys/rewrap", {})
        assert rewrapped["rewrapped"] >= 1 and rewrapped["remaining"] == rewrapped["failed"] == 0, rewrapped
        ids = lambda: [x["id"] for x in w.ok("GET", "/v1/admin/keys")["keys"]]
        assert retire(first).json["state"] == "forgotten" and ids() == [name] and retire(first).status == 404
        assert [a["reason"] for a in w.ok("GET", "/v1/admin/audit?action=master_keys.retire")["items"] if a["resource_id"] == first and a["result"] == "ok"] == ["yearly"]
        assert w.ok("POST", "/v1/admin/keys/verify", {})["opened"] == v1["opened"]
        w.control.send_signal(signal.SIGHUP)  # the file still has it
        wait_for("it is back", lambda: sorted(ids()) == sorted([name, first]), 20)
        put_keys("%s active %s\n" % (name, base64.b64encode(new).decode()))
        assert w.ok("POST", "/v1/admin/keys/verify", {})["opened"] == v1["opened"]
        three = w.ok("POST", S, {})["id"]
        assert key(three).json["key"] == k.json["key"] and key(three).json["wrapped"] != k.json["wrapped"]
        w.pg.sql("UPDATE moat.volume_backup_keys SET volume_id = '%s' WHERE volume_id = '%s'" % (other, v))
        assert key(three).status == 500, "a key opens as that of another volume"
        w.pg.sql("UPDATE moat.volume_backup_keys SET volume_id = '%s' WHERE volume_id = '%s'" % (v, other))
        assert w.agent.snapshot(three, "failed", failed_reason="upload_failed").json["accepted"] == 1

    @case("an operator sees the volumes of a node")
    def _():
        here = w.ok("GET", "/v1/admin/volumes?node_id=" + w.agent.node_id)["items"]
        assert {v["id"] for v in here} == {v["id"] for v in volumes(E).values()} and w.ok("GET", "/v1/admin/volumes?node_id=node_" + "0" * 26)["items"] == []
        assert len(w.ok("GET", "/v1/admin/volumes")["items"]) == len(here)

    @case("an operator sees whose backups are stale, tries one, and gives a volume another key: not while one is under way, not where there is none")
    def _():
        listed = {v["id"]: v for v in w.ok("GET", "/v1/admin/backups?limit=200")["items"]}
        mine = volumes(E)
        assert listed and set(listed) == {v["id"] for v in mine.values() if v["backup_enabled"]}, (listed, mine)
        assert w.ok("GET", "/v1/admin/backups?node_id=node_" + "0" * 26)["items"] == []
        stale = lambda: {v["id"] for v in w.ok("GET", "/v1/admin/backups?stale=true&limit=200")["items"]}
        want = {v["id"] for v in listed.values() if v["backup_stale"]}
        assert stale() == want and want < set(listed), (stale(), want)
        keyed = set(w.pg.sql("SELECT volume_id FROM moat.volume_backup_keys").split())
        v, one = next(x for x in listed if x in keyed), next(x for x in listed if x not in want and x not in keyed)
        rekey = lambda v, **more: w.q("POST", "/v1/admin/backups/rekey", {"volume_id": v, "reason": "it was seen", **more})
        epochs = lambda: int(w.pg.sql("SELECT max(key_epoch) FROM moat.volume_backup_keys WHERE volume_id = '%s'" % v))
        refused(rekey(one), "conflict")
        refused(rekey("vol_" + "0" * 26), "not_found", 404)
        refused(rekey(v, reason=""), "invalid_argument", 400)
        before = epochs()
        s = w.ok("POST", E + "/volumes/%s/snapshots" % v, {})["id"]
        refused(rekey(v), "snapshot_in_progress")
        assert w.agent.snapshot(s, "failed", failed_reason="cancelled").json["accepted"] == 1 and epochs() == before, epochs()
        stream = subprocess.Popen(["curl", "-sN", "--max-time", "60", "--unix-socket", w.api, "-H", "Authorization: Bearer " + w.token, "http://x" + O + "/events/stream"],
                                  stdout=subprocess.PIPE, text=True)
        try:
            assert "heartbeat" in stream.stdout.readline()
            r = rekey(v)
            w.ok("POST", E + "/volumes/%s/snapshots" % v, {})
            told = [stream.stdout.readline()]
            while told[-1] and "snapshot.created" not in told[-1]:
                told.append(stream.stdout.readline())
        finally:
            stream.kill()
            stream.wait()
        assert "snapshot.created" in told[-1] and not [line for line in told if "backup_key_rotated" in line], told
        s = w.ok("GET", E + "/volumes/%s/snapshots" % v)["items"][0]["id"]
        assert w.agent.snapshot(s, "failed", failed_reason="cancelled").json["accepted"] == 1
        assert r.status == 200 and r.json["key_epoch"] == before + 1 == epochs(), (r.text, before, epochs())
        assert [e["payload"] for e in w.ok("GET", "/v1/admin/events?event_type=volume.backup_key_rotated")["items"]] == [{"key_epoch": before + 1, "reason": "it was seen"}]
        seen = tenant("rekeyed", "events:read")("GET", O + "/events?event_type=volume.backup_key_rotated")
        assert seen.status == 200 and seen.json["items"] == [], seen.text  # of operators alone
        refused(w.q("POST", "/v1/admin/backups/verify", {"volume_id": one}), "snapshot_not_ready")
        refused(w.q("POST", "/v1/admin/backups/verify", {"volume_id": "vol_" + "0" * 26}), "not_found", 404)
        r = refused(w.q("POST", "/v1/admin/backups/scan", {}), "not_supported", 400)
        assert "moat admin backups scan" in w.q("POST", "/v1/admin/backups/scan", {}).json["detail"]

    @case("an operator has a filesystem looked at and mended: when nothing has it, once at a time, and what was mended is there again")
    def _():
        held = volumes(E)["data"]
        assert held["state"] == "in_use", held
        ask = lambda v, verb, **kw: w.q("POST", "/v1/admin/volumes/%s/%s" % (v, verb), **kw)
        refused(ask(held["id"], "repair"), "volume_in_use")
        refused(ask("vol_" + "0" * 26, "fsck"), "not_found", 404)
        v = [x for n, x in volumes(E).items() if n[0] in "pq" and x["state"] == "available"][0]
        V = E + "/volumes/" + v["id"]
        look = lambda: w.ok("GET", V)
        t = tenant("fsck", "volumes:write", "volumes:read")
        refused(t("POST", "/v1/admin/volumes/%s/fsck" % v["id"], {}), "operator_only", 403)
        refused(w.q("POST", "/v1/admin/volumes/%s/fsck" % v["id"], {"x": 1}), "unknown_field", 400)
        w.agent.makes = False
        try:
            assert "check" not in look() and ask(v["id"], "fsck").status == 200
            refused(ask(v["id"], "repair"), "conflict")
            got = wait_for("it in the plan", lambda: [x["check"] for p in w.agent.plans[-1:] for x in p.get("volumes", []) if x["volume_id"] == v["id"] and "check" in x], 20)[0]
            assert got == {"number": 1, "repair": False} and look()["check"] == {"repair": False, "pending": True}, (got, look())
            assert w.agent.volume(v["id"], "checked", check={"number": 2, "result": "clean"}).json["ignored"] == 1  # another one than was asked for
            assert w.agent.volume(v["id"], "checked", check={"number": 1, "result": "damaged", "detail": "Inode 12 has a bad block."}).json["accepted"] == 1
            c = look()["check"]
            assert (c["pending"], c["result"], c["detail"]) == (False, "damaged", "Inode 12 has a bad block.") and c["checked_at"] and look()["state"] == "available", c
            assert w.agent.volume(v["id"], "checked", check={"number": 1, "result": "clean"}).json["ignored"] == 1
            wait_for("it out of the plan", lambda: not [1 for p in w.agent.plans[-1:] for x in p["volumes"] if "check" in x], 20)
            w.agent.volume(v["id"], "error", error_reason="internal_error")
            for result, state in (("failed", "error"), ("damaged", "error"), ("repaired", "available")):
                assert look()["state"] == "error" and ask(v["id"], "repair").status == 200
                n = w.agent.volume(v["id"], "checked", check={"number": {"failed": 2, "damaged": 3, "repaired": 4}[result], "result": result})
                assert n.json["accepted"] == 1 and look()["state"] == state and look()["check"]["result"] == result, (n.text, look())
            assert "error_reason" not in look()
            w.agent.volume(v["id"], "error", error_reason="internal_error")
            assert ask(v["id"], "fsck").status == 200 and w.agent.volume(v["id"], "checked", check={"number": 5, "result": "clean"}).json["accepted"] == 1
            assert look()["state"] == "error"  # what only was looked at stays an operator's matter
            assert ask(v["id"], "repair").status == 200 and w.agent.volume(v["id"], "checked", check={"number": 6, "result": "clean"}).json["accepted"] == 1
            assert look()["state"] == "available"
            one = w.ok("GET", "/v1/admin/volumes?volume_id=" + v["id"])["items"]
            assert [x["id"] for x in one] == [v["id"]] and one[0]["check"]["result"] == "clean", one
            events = [e["event_type"] for e in w.ok("GET", O + "/events?aggregate_id=" + v["id"])["items"]]
            assert events.count("volume.check_requested") == events.count("volume.checked") == 6, events
        finally:
            w.agent.makes = True

    @case("a drain tells of the instances that stay with their volumes")
    def _():
        i = ready(E)
        path = "/v1/nodes/" + i["node_id"]
        w.ok("POST", path + "/drain", {"reason": "test"})
        got = w.ok("GET", path)["drain"]
        want = {"instance_id": i["id"], "volume_id": volumes(E)["data"]["id"], "env_id": i["env_id"]}
        assert got == {"state": "blocked", "remaining": 0, "blocked_by_stateful": [want]}, got
        w.ok("POST", path + "/uncordon", {"reason": "test"})
        assert "drain" not in w.ok("GET", path)

    @case("a drain that stops what has volumes comes to its end, and uncordoned the instance is back")
    def _():
        i = ready(E)
        path = "/v1/nodes/" + i["node_id"]
        no = w.q("POST", path + "/drain", {"reason": "test", "stateful": "fly"})
        assert no.status == 400 and b"stay, stop or migrate" in no.text, no.text
        w.ok("POST", path + "/drain", {"reason": "test"})
        try:
            assert w.ok("GET", path)["drain"]["state"] == "blocked"
            w.ok("POST", path + "/drain", {"reason": "then they stop", "stateful": "stop"})  # said of a drain that is under way
            wait_for("the end of the drain", lambda: w.ok("GET", path)["drain"]["state"] == "complete", 60)
            gone = w.ok("GET", E + "/instances/" + i["id"])
            assert (gone["status"], gone["desired_reason"]) == ("stopped", "node_draining"), gone

            def blocked():  # there is no other node; the scheduler says so in its next pass
                group = [g for g in w.ok("GET", E + "/status")["processes"] if g["process_type"] == i["process_type"]][0]
                return (group["sched_condition"], group.get("reason")) == ("blocked", "no_nodes_active")
            wait_for("the group is blocked, with the reason", blocked, 60)
        finally:
            w.ok("POST", path + "/uncordon", {"reason": "test"})
        wait_for("it is back", lambda: instances(E, "ready"), 60)
        assert ready(E)["node_id"] == i["node_id"]

    @case("a simulated loss tells which process waits for its volume and how old the newest backup is; a simulated drain that it stays")
    def _():
        i = ready(E)
        for what, reason in (("loss", "volume_home_node_offline"), ("drain", None)):
            said = w.ok("GET", "/v1/nodes/%s/simulate/%s" % (i["node_id"], what))
            mine = [g for g in said["groups"] if g["env_id"] == i["env_id"]]
            assert len(mine) == 1 and (mine[0]["stay"], mine[0]["missing"], mine[0]["restart_on"], mine[0].get("reason")) == (1, 0, [], reason), mine
            here = {v["id"]: v for v in said["volumes"]}
            assert set(here) == {v["id"] for v in w.ok("GET", "/v1/admin/volumes?node_id=" + i["node_id"])["items"]}, here
            for v in volumes(E).values():
                at = v.get("last_backup_at")
                assert here[v["id"]]["last_backup_at"] == at and (here[v["id"]]["loses_seconds"] is None) == (at is None), (v, here)
            assert any(v["last_backup_at"] for v in here.values()), here

    @case("a volume is taken from a process that is scaled to 0, and one that is gone blocks the process visibly")
    def _():
        a, e = w.make_app("gone")
        d = deploy(a, e, manifest([("only", 1)], [("only", "/data")]))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        v = volumes(e)["only"]
        at = e + "/volume-attachments/" + v["attachment"]["id"]
        assert w.ok("GET", e + "/volume-attachments")["items"][0]["volume_id"] == v["id"]
        refused(w.q("DELETE", at), "volume_in_use")

        def scale(n):
            w.ok("PUT", e + "/scale", {"processes": [{"process_type": "db", "desired": n}], "expected_version": w.ok("GET", e + "/scale")["resource_version"]})
        scale(0)
        refused(w.q("DELETE", E + at[len(e):]), "not_found", 404)
        wait_for("the end", lambda: volumes(e)["only"]["state"] == "available", 30)
        assert w.ok("DELETE", at)["already_deleted"] is False and w.ok("DELETE", at)["already_deleted"] is True
        w.ok("DELETE", e + "/volumes/" + v["id"])
        wait_for("it gone", lambda: volumes(e) == {}, 30)
        scale(1)
        g = wait_for("blocked", lambda: [p for p in w.ok("GET", e + "/status")["processes"] if p["sched_condition"] == "blocked"], 20)[0]
        assert g["reason"] == "volume_constraints_invalid", g
        d = w.ok("POST", e + "/deploys", {"release_id": d.json["release_id"]})
        assert [x["action"] for x in d["volumes"]] == ["create", "attach"], d
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d["id"])["status"] == "succeeded", 30)

    @case("a volume is attached by hand: its process starts anew with it, deploys leave it there, and what does not fit is refused")
    def _():
        a, e = w.make_app("hand")
        plain, pool = manifest([], []), w.agent.pool
        d = deploy(a, e, plain)
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 40)
        first, T = ready(e)["id"], e + "/volume-attachments"

        def scale(n):
            return w.q("PUT", e + "/scale", {"processes": [{"process_type": "db", "desired": n}], "expected_version": w.ok("GET", e + "/scale")["resource_version"]})

        def mounts(instance):
            got = [i["workload"]["mounts"] for p in list(w.agent.plans) for i in p["instances"] if i["instance_id"] == instance and "workload" in i]
            return [{(m["name"], m["path"], m["read_only"]) for m in l} for l in got]

        def attach(volume, path, **more):
            return w.q("POST", T, dict({"volume_id": volumes(e)[volume]["id"], "process_type": "db", "mount_path": path}, **more))
        try:
            w.agent.pool = 60 * GIB
            wait_for("room", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"].get("volume_bytes", 0) > 40 * GIB, 40)
            for n in ["v%d" % i for i in range(9)]:
                w.ok("POST", e + "/volumes", {"name": n, "size_bytes": GIB})
            wait_for("them", lambda: all(v["state"] == "available" for v in volumes(e).values()), 40)
            for bad in ("data", "/", "/etc/x", "/a/../b", "/a/", "/" + "x" * 255):
                refused(attach("v0", bad), "invalid_mount_path", 400)
            refused(attach("v0", "/v0", process_type="web"), "unknown_process_type", 400)
            refused(w.q("POST", T, {"volume_id": volumes(E)["data"]["id"], "process_type": "db", "mount_path": "/v0"}), "not_found", 404)
            assert scale(2).status == 200
            refused(attach("v0", "/v0"), "volume_replica_limit")
            assert scale(1).status == 200
            dry = w.q("POST", T + "?dry_run=true", {"volume_id": volumes(e)["v0"]["id"], "process_type": "db", "mount_path": "/v0"})
            assert dry.status == 200 and w.ok("GET", T)["items"] == [], dry.text
            wait_for("one", lambda: len(instances(e, "booting", "starting", "ready", "draining")) == 1, 40)
            first = ready(e)["id"]
            got = attach("v0", "/v0", read_only=True)
            assert got.status == 201 and (got.json["managed_by"], got.json["read_only"]) == ("api", True), got.text
            second = wait_for("another instance", lambda: [i for i in instances(e, "ready") if i["id"] != first], 60)[0]
            assert wait_for("its mount", lambda: mounts(second["id"]), 20)[-1] == {("v0", "/v0", True)}
            assert not any(mounts(first)), mounts(first)  # who ran before it never gets it
            assert volumes(e)["v0"]["state"] == "in_use" and volumes(e)["v0"]["attachment"]["managed_by"] == "api", volumes(e)["v0"]
            refused(attach("v0", "/again"), "volume_already_attached")
            refused(attach("v1", "/v0/below"), "mount_path_conflict")
            refused(scale(2), "volume_replica_limit")
            refused(w.q("DELETE", T + "/" + got.json["id"]), "volume_in_use")
            # A deploy leaves it there, and its new instance has it; one that needs its path, or it elsewhere, is refused.
            refused(deploy(a, e, manifest([("v0", 1)], [("v0", "/other")])), "mount_path_conflict")
            refused(deploy(a, e, manifest([("v1", 1)], [("v1", "/v0")])), "mount_path_conflict")
            refused(deploy(a, e, plain + "[processes.db.scaling]\nmin = 2\n"), "volume_replica_limit")
            d = deploy(a, e, plain + '[env.vars]\nA = "2"\n')
            assert d.status == 201 and d.json["volumes"] == [], d.text
            wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 60)
            third = ready(e)["id"]
            assert third != second["id"] and mounts(third)[-1] == {("v0", "/v0", True)}, mounts(third)
            # At rest: as many as fit, no more, and taken away again.
            assert scale(0).status == 200
            wait_for("rest", lambda: volumes(e)["v0"]["state"] == "available", 40)
            more = [attach("v%d" % i, "/v%d" % i) for i in range(1, 9)]
            assert [r.status for r in more[:7]] == [201] * 7, [r.text for r in more]
            refused(more[7], "too_many_mounts")
            refused(deploy(a, e, manifest([("v8", 1)], [("v8", "/v8")])), "too_many_mounts")
            d = deploy(a, e, manifest([("v7", 1)], [("v7", "/v7")]))  # it is there as the manifest has it
            assert d.status == 201 and d.json["volumes"] == [], d.text
            for t in [got] + more[:7]:
                assert w.ok("DELETE", T + "/" + t.json["id"])["already_deleted"] is False
            back = attach("v7", "/v7")  # what the release mounts: it is the manifest's again
            assert back.status == 201 and back.json["managed_by"] == "manifest", back.text
            refused(attach("v6", "/v7/x"), "mount_path_conflict")
            w.ok("DELETE", T + "/" + back.json["id"])
            refused(attach("v7", "/elsewhere"), "mount_path_conflict")
            assert {x["event_type"] for x in w.ok("GET", O + "/events?aggregate_type=volume_attachment&aggregate_id=" + got.json["id"])["items"]} == {"volume_attachment.created",
                                                                                                                                                       "volume_attachment.deleted"}
        finally:
            scale(0)
            for t in w.ok("GET", T)["items"]:
                wait_for("rest", lambda: volumes(e)[[n for n, v in volumes(e).items() if v["id"] == t["volume_id"]][0]]["state"] == "available", 40)
                w.ok("DELETE", T + "/" + t["id"])
            for v in volumes(e).values():
                w.ok("DELETE", e + "/volumes/" + v["id"])
            wait_for("them gone", lambda: not volumes(e), 40)
            w.agent.pool = pool
            wait_for("the room as before", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"].get("volume_bytes") == pool * 4 // 5, 40)

    @case("a volume lost from the manifest stays with its data until it is named; then the node removes it")
    def _():
        d = deploy(A, E, manifest([], []))
        assert d.status == 201 and [c["action"] for c in d.json["volumes"]] == ["detach"], d.text
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        wait_for("it free", lambda: volumes(E)["data"]["state"] == "available", 20)
        for v in volumes(E).values():
            assert w.ok("DELETE", E + "/volumes/" + v["id"])["already_deleted"] is False
        wait_for("all gone", lambda: volumes(E) == {}, 30)
        assert w.ok("GET", E + "/volumes?include_deleted=true")["items"][0]["state"] == "deleted"

    @case("by force an operator deletes a volume under the process that has it: that is scaled to 0, and the volume goes when its node says so")
    def _():
        a, e = w.make_app("forced")
        d = deploy(a, e, manifest([("only", 1)], [("only", "/data")]))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        v, i = volumes(e)["only"], ready(e)
        at = e + "/volumes/" + v["id"]
        refused(tenant("forcer", "volumes:read", "volumes:write")("DELETE", at + "?force=true"), "operator_only", 403)
        refused(tenant("recoverer", "volumes:read", "volumes:write")("POST", at + "/recover", {"accept_loss_since": "2026-01-01T00:00:00Z"}), "operator_only", 403)
        refused(w.q("DELETE", at + "?force=true", {"force": False}), "invalid_argument", 400)
        refused(w.q("DELETE", at + "?force=false"), "volume_attached")
        dry = w.ok("DELETE", at + "?dry_run=true", {"force": True, "delete_backups": True})
        assert [(c["event_type"], c["payload"].get("forced")) for c in dry["changes"]] == \
            [("env.scale_set", None), ("volume_attachment.deleted", True), ("volume.state_changed", True)], dry
        w.agent.makes = False  # its node does not answer yet
        try:
            assert w.ok("DELETE", at + "?force=true&delete_backups=true")["already_deleted"] is False
            assert w.ok("DELETE", at + "?force=true")["already_deleted"] is True
            got = volumes(e)["only"]
            assert got["state"] == "deleting" and "attachment" not in got, got
            assert [(x["desired"], x["source"]) for x in w.ok("GET", e + "/scale")["processes"]] == [(0, "user")]
            wait_for("the stop", lambda: w.ok("GET", e + "/instances/" + i["id"])["status"] == "stopped", 60)
            wait_for("it in the plan", lambda: [x for x in w.agent.plans[-1]["volumes"] if x["volume_id"] == v["id"] and x["desired"] == "absent"], 20)
            assert instances(e, "ready", "booting", "starting") == [] and volumes(e)["only"]["state"] == "deleting"
            assert w.agent.volume(v["id"], "deleted").json["accepted"] == 1
        finally:
            w.agent.makes = True
        assert volumes(e) == {}
        told = [x["payload"] for x in w.ok("GET", O + "/events?event_type=volume.deleted")["items"] if x["aggregate_id"] == v["id"]]
        assert told == [{"forced": True, "delete_backups": True}], told
        # What is attached to nothing is deleted by force too; a deploy makes the process whole again, with a new volume.
        spare = w.ok("POST", e + "/volumes", {"name": "spare", "size_bytes": GIB})["id"]
        w.ok("DELETE", e + "/volumes/" + spare + "?force=true")
        wait_for("it gone", lambda: volumes(e) == {}, 30)
        d = w.ok("POST", e + "/deploys", {"release_id": d.json["release_id"]})
        assert [x["action"] for x in d["volumes"]] == ["create", "attach"], d
        w.ok("PUT", e + "/scale", {"processes": [{"process_type": "db", "desired": None}], "expected_version": w.ok("GET", e + "/scale")["resource_version"]})
        assert ready(e)["id"] != i["id"]

    @case("what is due is backed up by itself: never two at once, none where none is wanted, as often as the operator says")
    def _():
        interval(None)
        off = w.ok("POST", E + "/volumes", {"name": "plain", "size_bytes": GIB, "backup_enabled": False})["id"]
        own = w.ok("POST", E + "/volumes", {"name": "own", "size_bytes": GIB})["id"]
        wait_for("both", lambda: volumes(E)["plain"]["state"] == volumes(E)["own"]["state"] == "available", 20)
        mine = lambda vol: w.ok("GET", E + "/volumes/" + vol + "/snapshots")["items"]  # noqa: E731
        assert volumes(E)["own"]["backup_stale"] is False
        held = [w.ok("POST", E + "/volumes/" + own + "/snapshots", {})["id"]]  # while it runs none is asked for
        # Three days ago: a whole slot has begun since. What is compared with the log at the end is put back below.
        w.pg.sql("UPDATE volumes_view SET created_at = created_at - interval '3 days' WHERE volume_id IN ('%s', '%s')" % (off, own))
        v = w.ok("GET", E + "/volumes/" + own)
        assert v["backup_stale"] is True and "backup_lag_seconds" not in v and w.ok("GET", E + "/volumes/" + off)["backup_stale"] is False, v
        stale = lambda: {x["id"] for x in w.ok("GET", "/v1/admin/backups?stale=true&limit=200")["items"]}
        assert own in stale() and off not in stale() and {x["id"] for x in w.ok("GET", "/v1/admin/backups?limit=200")["items"]} > stale(), stale()
        interval(2592000)
        assert w.ok("GET", E + "/volumes/" + own)["backup_stale"] is False and own not in stale()
        interval(86400)
        assert w.agent.snapshot(held[0], "failed", failed_reason="cancelled").json["accepted"] == 1
        s = wait_for("a scheduled snapshot", lambda: [x for x in mine(own) if x["origin"] == "scheduled"], 30)
        assert len(s) == 1 and s[0]["status"] == "queued" and s[0]["requested_by"] == "backups" and s[0]["source_node_id"] == w.agent.node_id, s
        refused(w.q("POST", E + "/volumes/" + own + "/snapshots", {}), "snapshot_in_progress")
        j = wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get("snapshot_jobs", []) if x["snapshot_id"] == s[0]["id"]], 20)[0]
        assert j["origin"] == "scheduled" and w.agent.post("volume-key", {"volume_id": own, "job_id": s[0]["id"]}).status == 200
        assert w.agent.snapshot(s[0]["id"], "succeeded", captured_at_ms=int(time.time() * 1000), size_bytes=GIB, key_epoch=1, image_root="c" * 64,
                                manifest_sha256="d" * 64).json["accepted"] == 1
        v = w.ok("GET", E + "/volumes/" + own)
        assert v["last_backup_snapshot_id"] == s[0]["id"] and v["backup_lag_seconds"] <= 60 and v["backup_stale"] is False, v
        assert mine(off) == [] and len(mine(own)) == 2  # the look that asked for the one saw the other
        w.pg.sql("UPDATE volumes_view SET created_at = created_at + interval '3 days' WHERE volume_id IN ('%s', '%s')" % (off, own))
        interval(2592000)

    @case("a backup is restored into a new volume, which is there when its node says so, and proves its backup; a failed one leaves nothing")
    def _():
        src = volumes(E)["own"]
        R, good = E + "/volumes/%s/restore" % src["id"], src["last_backup_snapshot_id"]
        bad = [x["id"] for x in w.ok("GET", E + "/volumes/" + src["id"] + "/snapshots")["items"] if x["status"] == "failed"][0]
        assert "last_proven_restore_at" not in src
        refused(w.q("POST", R, {"snapshot_id": good}), "backup_store_missing")
        w.agent.restores = True
        wait_for("the node to say so", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"].get("restores"), 20)
        refused(w.q("POST", R, {}), "invalid_argument", 400)
        refused(w.q("POST", R, {"snapshot_id": "snap_" + "0" * 26}), "not_found", 404)
        refused(w.q("POST", E + "/volumes/%s/restore" % volumes(E)["plain"]["id"], {"snapshot_id": good}), "not_found", 404)
        refused(w.q("POST", R, {"snapshot_id": bad}), "snapshot_not_ready")
        refused(w.q("POST", R, {"snapshot_id": good, "size_bytes": 1000}), "invalid_argument", 400)
        refused(w.q("POST", R, {"snapshot_id": good, "name": "plain"}), "name_taken")
        refused(w.q("POST", R, {"snapshot_id": good, "size_bytes": 100 * GIB}), "no_capacity_storage")
        refused(w.q("POST", R, {"snapshot_id": good, "target_node_id": "node_" + "0" * 26}), "no_capacity_storage")
        dry = w.ok("POST", R + "?dry_run=true", {"snapshot_id": good})
        assert dry["dry_run"] and w.ok("GET", O + "/restores")["items"] == []
        r = w.ok("POST", R, {"snapshot_id": good})
        rst, new = r["id"], r["new_volume_id"]
        v = w.ok("GET", E + "/volumes/" + new)
        assert (v["name"], v["state"], v["size_bytes"], v["from_snapshot_id"]) == ("own-restored", "creating", GIB, good), v
        j = wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get("restore_jobs", []) if x["restore_id"] == rst], 20)[0]
        assert (j["snapshot_id"], j["source_volume_id"], j["source_org_id"], j["new_volume_id"], j["key_epoch"], j["size_bytes"]) == \
            (good, src["id"], src["org_id"], new, 1, GIB) and not j.get("cancel"), j
        planned = [x for x in w.agent.plans[-1]["volumes"] if x["volume_id"] == new][0]
        assert planned["from_restore"] == rst and "fs_uuid" not in planned and planned["was_available"] is False, planned
        key = lambda vol, job: w.agent.post("volume-key", {"volume_id": vol, "job_id": job})  # noqa: E731
        assert key(src["id"], rst).status == 200 and key(new, rst).status == 403 and key(src["id"], "rst_" + "0" * 26).status == 403
        refused(w.q("DELETE", E + "/volumes/%s/snapshots/%s" % (src["id"], good), {}), "conflict")
        # So many at once for an organisation: none beside this one, then one more for whoever is first; what has ended does not count (below).
        w.ok("PUT", O + "/quotas/max_concurrent_restores", {"limit": 1, "reason": "test"})
        assert refused(w.q("POST", R, {"snapshot_id": good, "name": "many"}), "quota_exceeded")["details"] == \
            {"dimension": "max_concurrent_restores", "limit": 1, "current": 1, "requested": 1}
        w.ok("PUT", O + "/quotas/max_concurrent_restores", {"limit": 2, "reason": "test"})
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            rs = list(pool.map(lambda i: w.q("POST", R, {"snapshot_id": good, "name": "many%d" % i}), range(4)))
        assert sorted(x.status for x in rs) == [201] + [409] * 3 and all(x.status == 201 or x.json["code"] == "quota_exceeded" for x in rs), [x.text for x in rs]
        extra = [x.json for x in rs if x.status == 201][0]
        assert w.agent.restore(extra["id"], "failed", failed_reason="download_failed").json["accepted"] == 1
        w.ok("PUT", O + "/quotas/max_concurrent_restores", {"limit": 1, "reason": "test"})
        other = "12345678-1234-4234-8234-123456789abc"
        assert w.agent.volume(new, "provisioned", result="ok", fs_uuid=other, size_bytes=GIB).json["ignored"] == 1
        assert w.agent.restore("rst_" + "0" * 26, "running").json["rejected"][0]["code"] == "not_on_this_node"
        assert w.agent.restore(rst, "running", phase="downloading", bytes_done=1, bytes_total=GIB).json["accepted"] == 1
        assert w.agent.restore(rst, "running", phase="downloading", bytes_done=2, bytes_total=GIB).json["ignored"] == 1
        assert w.agent.restore(rst, "running", phase="checking", bytes_done=GIB, bytes_total=GIB).json["accepted"] == 1
        refused(deploy(A, E, manifest([("own-restored", 1)], [("own-restored", "/data")])), "conflict")
        assert w.agent.restore(rst, "succeeded", fs_uuid=other, bytes_done=GIB, bytes_total=GIB).json["accepted"] == 1
        assert w.agent.restore(rst, "failed", failed_reason="cancelled").json["ignored"] == 1 and key(src["id"], rst).status == 403
        v = w.ok("GET", E + "/volumes/" + new)
        assert v["state"] == "available" and v["fs_uuid"] == other, v
        assert w.ok("GET", O + "/restores/" + rst)["status"] == "succeeded"
        assert w.agent.volume(new, "provisioned", result="ok", fs_uuid=other, size_bytes=GIB).json["ignored"] == 1
        assert w.ok("POST", R + "?dry_run=true", {"snapshot_id": good, "name": "many"})["dry_run"]
        w.ok("PUT", O + "/quotas/max_concurrent_restores", {"limit": None, "reason": "test"})
        s = w.ok("GET", E + "/snapshots/" + good)
        assert s["restored_at"] == s["verified_at"] == w.ok("GET", E + "/volumes/" + src["id"])["last_proven_restore_at"] and "damaged" not in s, s
        # One that failed takes its volume away again; one that found damage says so of the backup, which is then no last backup any more.
        two = w.ok("POST", R, {"snapshot_id": good, "name": "second", "size_bytes": 2 * GIB})
        assert w.ok("GET", E + "/volumes/" + two["new_volume_id"])["size_bytes"] == 2 * GIB
        assert w.agent.restore(two["id"], "failed", failed_reason="download_failed").json["accepted"] == 1
        assert "second" not in volumes(E) and w.ok("GET", O + "/restores/" + two["id"])["failed_reason"] == "download_failed"
        # Deleted while it is made: the node is told to stop, the volume goes with its own word.
        three = w.ok("POST", R, {"snapshot_id": good, "name": "third"})
        w.ok("DELETE", E + "/volumes/" + three["new_volume_id"], {})
        wait_for("the cancellation", lambda: [x for p in w.agent.plans for x in p.get("restore_jobs", []) if x["restore_id"] == three["id"] and x.get("cancel")], 20)
        assert key(src["id"], three["id"]).status == 403
        assert w.agent.restore(three["id"], "failed", failed_reason="cancelled").json["accepted"] == 1
        wait_for("it to be gone", lambda: "third" not in volumes(E), 20)
        four = w.ok("POST", R, {"snapshot_id": good, "name": "fourth"})
        assert w.agent.restore(four["id"], "failed", failed_reason="integrity_check_failed", snapshot_damaged=True).json["accepted"] == 1
        assert w.ok("GET", E + "/snapshots/" + good)["damaged"] is True and "last_backup_at" not in w.ok("GET", E + "/volumes/" + src["id"])
        refused(w.q("POST", R, {"snapshot_id": good}), "snapshot_not_ready")
        events = [e["event_type"] for e in w.ok("GET", O + "/events?correlation_id=" + rst)["items"]]
        assert events == ["volume.created", "restore_job.created"] + ["restore_job.status_changed"] * 3 + ["volume.provisioned", "snapshot.proof_recorded"], events
        assert len(w.ok("GET", O + "/restores")["items"]) == 5
        for name, v in volumes(E).items():
            w.ok("DELETE", E + "/volumes/" + v["id"])
        wait_for("all gone", lambda: volumes(E) == {}, 30)

    @case("the newest backup is proven by itself: in a volume that nobody sees, one at a time, and what came of it is known")
    def _():
        own = w.ok("POST", E + "/volumes", {"name": "own", "size_bytes": GIB})["id"]
        wait_for("it", lambda: volumes(E)["own"]["state"] == "available", 20)
        s = w.ok("POST", E + "/volumes/" + own + "/snapshots", {})["id"]
        assert w.agent.snapshot(s, "succeeded", captured_at_ms=int(time.time() * 1000), size_bytes=GIB, key_epoch=1, image_root="c" * 64,
                                manifest_sha256="d" * 64).json["accepted"] == 1
        proofs = lambda: [r for r in {x["restore_id"]: x for p in w.agent.plans for x in p.get("restore_jobs", []) if x.get("proof")}.values()  # noqa: E731
                          if r["source_volume_id"] == own]
        events = lambda: [e["payload"] for e in w.ok("GET", O + "/events?event_type=snapshot.proof_recorded")["items"] if e["payload"]["volume_id"] == own]  # noqa: E731
        assert "proof_stale" not in w.ok("GET", E + "/volumes/" + own)
        # Its first hour is over, and two weeks more. What is compared with the log at the end is put back below.
        w.pg.sql("UPDATE snapshots_view SET finished_at = finished_at - interval '20 days' WHERE snapshot_id = '%s'" % s)
        assert w.ok("GET", E + "/volumes/" + own)["proof_stale"] is True
        one = wait_for("a proof", proofs, 30)[0]
        assert (one["snapshot_id"], one["source_volume_id"], one["size_bytes"], one["key_epoch"]) == (s, own, GIB, 1) and not one["cancel"], one
        assert list(volumes(E)) == ["own"] and one["new_volume_id"] not in [v["volume_id"] for v in w.agent.plans[-1]["volumes"]]
        assert len(w.ok("GET", O + "/restores")["items"]) == 5 and w.agent.post("volume-key", {"volume_id": own, "job_id": one["restore_id"]}).status == 200
        assert w.ok("DELETE", E + "/volumes/%s/snapshots/%s?dry_run=true" % (own, s), {})["dry_run"]  # a proof holds up nobody
        assert w.agent.restore(one["restore_id"], "running", phase="checking", bytes_done=GIB, bytes_total=GIB).json["accepted"] == 1
        assert w.agent.restore(one["restore_id"], "failed", bytes_done=GIB, failed_reason="fsck_failed").json["accepted"] == 1
        assert [(e["result"], e["kind"], e["bytes"], e["failed_reason"]) for e in events()] == [("failed", "restore", GIB, "fsck_failed")], events()
        v = w.ok("GET", E + "/volumes/" + own)
        assert "last_proven_restore_at" not in v and v["last_backup_snapshot_id"] == s, v
        assert w.agent.post("volume-key", {"volume_id": own, "job_id": one["restore_id"]}).status == 403
        w.pg.sql("UPDATE restores_view SET created_at = created_at - interval '7 hours' WHERE restore_id = '%s'" % one["restore_id"])
        two = wait_for("a second one", lambda: [x for x in proofs() if x["restore_id"] != one["restore_id"]], 30)[0]
        assert w.agent.restore(two["restore_id"], "succeeded", bytes_done=GIB, bytes_total=GIB, fs_uuid="12345678-1234-4234-8234-123456789abc").json["accepted"] == 1
        v = w.ok("GET", E + "/volumes/" + own)
        assert v["last_proven_restore_at"] and "proof_stale" not in v and [e["result"] for e in events()][-1] == "ok", (v, events())
        assert list(volumes(E)) == ["own"] and w.ok("GET", E + "/snapshots/" + s)["restored_at"]
        # Into another environment of the organisation: volume and job are there, the key is of here, and nobody elsewhere may be meant.
        R = E + "/volumes/%s/restore" % own
        a2, e2 = w.make_app("elsewhere")
        there = w.ok("GET", e2)
        refused(w.q("POST", R, {"snapshot_id": s, "target_env_id": "env_" + "0" * 26}), "not_found", 404)
        refused(w.q("POST", R, {"snapshot_id": s, "target_env_id": "x"}), "invalid_argument", 400)
        t = w.ok("POST", R, {"snapshot_id": s, "target_env_id": there["id"], "name": "own"})
        assert t["env_id"] == there["id"] and t["app_id"] == there["app_id"] and volumes(e2)["own"]["id"] == t["new_volume_id"] != own, t
        assert w.agent.post("volume-key", {"volume_id": own, "job_id": t["id"]}).status == 200
        assert w.agent.restore(t["id"], "succeeded", bytes_done=GIB, bytes_total=GIB, fs_uuid="12345678-1234-4234-8234-123456789abc").json["accepted"] == 1
        assert volumes(e2)["own"]["state"] == "available" and list(volumes(E)) == ["own"]
        w.ok("DELETE", e2 + "/volumes/" + t["new_volume_id"])
        wait_for("it gone too", lambda: volumes(e2) == {}, 30)
        w.pg.sql("UPDATE restores_view SET created_at = created_at + interval '7 hours' WHERE restore_id = '%s'" % one["restore_id"])
        w.pg.sql("UPDATE snapshots_view SET finished_at = finished_at + interval '20 days' WHERE snapshot_id = '%s'" % s)
        # With its backups, said in the query or in the body, in both only alike.
        D = E + "/volumes/" + own
        refused(w.q("DELETE", D + "?delete_backups=maybe"), "invalid_argument", 400)
        refused(w.q("DELETE", D + "?delete_backups=true", {"delete_backups": False}), "invalid_argument", 400)
        for query, body, said in (("delete_backups=true", {}, True), ("delete_backups=true", {"delete_backups": True}, True), ("delete_backups=false", {"delete_backups": True}, True),
                                  ("delete_backups=false", {}, None)):
            r = w.ok("DELETE", D + "?dry_run=true&" + query, body)
            assert [c["payload"].get("delete_backups") for c in r["changes"]] == [said], (query, body, r)
        w.ok("DELETE", D + "?delete_backups=true")
        wait_for("it gone", lambda: volumes(E) == {}, 30)
        wait_for("its backup given up", lambda: [x for x in w.ok("GET", O + "/events?event_type=snapshot.pruned")["items"] if x["aggregate_id"] == s], 30)

    @case("after a backup was found damaged each job says to believe nothing of the store, until one that was asked for since says that it did")
    def _():
        made = {n: w.ok("POST", E + "/volumes", {"name": n, "size_bytes": GIB})["id"] for n in ("rotten", "sound")}
        wait_for("them", lambda: all(x["state"] == "available" for x in volumes(E).values()), 20)
        v = made["rotten"]
        S = E + "/volumes/%s/snapshots" % v
        planned = lambda i: [x for p in w.agent.plans for x in p.get("snapshot_jobs", []) if x["snapshot_id"] == i]  # noqa: E731

        def asked(vol=v):
            i = w.ok("POST", E + "/volumes/%s/snapshots" % vol, {})["id"]
            return i, wait_for("the job", lambda: planned(i), 20)[-1].get("distrust_stored")

        def ends(i, status="succeeded", **more):
            how = dict(captured_at_ms=int(time.time() * 1000), size_bytes=GIB, key_epoch=1, image_root="c" * 64, manifest_sha256="d" * 64) if status == "succeeded" else {}
            assert w.agent.snapshot(i, status, **dict(how, **more)).json["accepted"] == 1

        def found_damaged(i):
            r = w.ok("POST", E + "/volumes/%s/restore" % v, {"snapshot_id": i})["id"]
            assert w.agent.restore(r, "failed", failed_reason="integrity_check_failed", snapshot_damaged=True).json["accepted"] == 1

        one, said = asked()
        assert said is None, said
        ends(one)
        two, said = asked()
        assert said is None, said
        found_damaged(one)
        wait_for("the job that waits to be told", lambda: planned(two)[-1].get("distrust_stored"), 20)
        ends(two, distrusted_stored=True)  # of which nobody knows whether it was before or after
        three, said = asked()
        assert said is True, "one that was asked for before the finding healed it"
        assert w.ok("DELETE", S + "/" + one)["already_deleted"] is False
        ends(three)  # an agent that knows nothing of it
        four, said = asked()
        assert said is True, "one that did not say so healed it, or one that was pruned is forgotten"
        ends(four, "failed", failed_reason="upload_failed", distrusted_stored=True)
        five, said = asked()
        assert said is True, "one that failed healed it"
        assert asked(made["sound"])[1] is None, "another volume's"
        ends(five, distrusted_stored=True)
        six, said = asked()
        assert said is None, "it was healed"
        ends(six)
        healed = [e["payload"].get("distrusted_stored") for e in w.ok("GET", O + "/events?event_type=snapshot.status_changed&limit=200")["items"] if e["aggregate_id"] in (three, five)]
        assert sorted(healed, key=str) == [None, True], healed
        found_damaged(five)  # again, and the same rule
        seven, said = asked()
        assert said is True, "found after it was healed"
        ends(seven, distrusted_stored=True)
        eight, said = asked()
        assert said is None, said
        ends(eight)
        w.ok("DELETE", S.replace(v, made["sound"]) + "/" + w.ok("GET", S.replace(v, made["sound"]))["items"][0]["id"])
        for x in w.ok("GET", S.replace(v, made["sound"]) + "?include_deleted=true")["items"]:
            assert w.agent.snapshot(x["id"], "failed", failed_reason="cancelled").json["accepted"] == 1
        for i in made.values():
            w.ok("DELETE", E + "/volumes/%s?delete_backups=true" % i)
        wait_for("them gone", lambda: volumes(E) == {}, 30)

    @case("the probe of a manifest goes to the node with a proof, and what it says is kept with the volume")
    def _():
        a, e = w.make_app("probed")
        probe = 'probe = ["/check", "--all"]\nprobe_timeout_seconds = 9\n'
        d = deploy(a, e, manifest([("kept", 1)], [("kept", "/data")], probe))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        v = volumes(e)["kept"]
        s = w.ok("POST", e + "/volumes/" + v["id"] + "/snapshots", {})["id"]
        assert w.agent.snapshot(s, "succeeded", captured_at_ms=int(time.time() * 1000), size_bytes=GIB, key_epoch=1, image_root="c" * 64,
                                manifest_sha256="d" * 64).json["accepted"] == 1
        assert "last_proof" not in volumes(e)["kept"]

        def verify():
            i = w.ok("POST", e + "/volumes/" + v["id"] + "/verify", {})["id"]
            return wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get("restore_jobs", []) if x["restore_id"] == i], 20)[0]
        j = verify()
        p = j["probe"]["workload"]
        assert j["proof"] and j["probe"]["timeout_seconds"] == 9 and p["command"] == ["/check", "--all"] and p["image"]["resolved_digest"] == "sha256:" + "1" * 64, j
        assert [(m["volume_id"], m["path"], m["read_only"]) for m in p["mounts"]] == [(j["new_volume_id"], "/data", False)], p
        assert p["instance_id"] == "inst_" + j["restore_id"][4:] and p["network"]["ports"] == [] and "secrets" not in p and p["resources"]["memory_bytes"] == 128 << 20, p
        # its image is the organisation's: the node that runs it may pull it as an instance's is pulled, as long as it runs
        asked = lambda body: kit.call(w.internal, "POST", "/internal/v1/nodes/self/registry-credential", body)  # noqa: E731
        of = {"restore_id": j["restore_id"]}
        assert asked(of).status == 404, "there is no credential yet"
        w.ok("PUT", O + "/registry-credentials/registry.test:5000", {"username": "robot", "password": "canary-of-a-probe"})
        assert asked(of).json == {"host": "registry.test:5000", "username": "robot", "password": "canary-of-a-probe"}, asked(of).text
        for bad, status in (({"restore_id": "rst_" + "0" * 26}, 403), ({"restore_id": "x"}, 400), (dict(of, instance_id="inst_" + "0" * 26), 400), ({}, 400)):
            assert asked(bad).status == status, (bad, asked(bad).text)
        wait_for("audit", lambda: {(x["decision"], x["resource_type"]) for x in w.ok("GET", O + "/audit?action=registry.deliver")["items"]} >= {("allow", "registry_credential")}, 10)
        w.pg.sql("UPDATE moat_views.restores_view SET target_node_id = 'node_x' WHERE restore_id = '%s'" % j["restore_id"])
        assert asked(of).status == 403, "another node's"
        w.pg.sql("UPDATE moat_views.restores_view SET target_node_id = '%s' WHERE restore_id = '%s'" % (w.agent.node_id, j["restore_id"]))
        events = lambda: [x["payload"] for x in w.ok("GET", O + "/events?event_type=snapshot.proof_recorded")["items"] if x["payload"]["volume_id"] == v["id"]]  # noqa: E731
        assert w.agent.restore(j["restore_id"], "failed", bytes_done=GIB, failed_reason="probe_not_run").json["accepted"] == 1
        assert events() == [] and "last_proof" not in volumes(e)["kept"]  # nothing is known
        assert asked(of).status == 403, "its job is over"
        j = verify()
        said = {"ms": 1234, "exit_code": 3, "detail": "exited with 3", "output": "row 7 is gone\nbye"}
        assert w.agent.restore(j["restore_id"], "failed", bytes_done=GIB, failed_reason="probe_failed", probe=said).json["accepted"] == 1
        got = volumes(e)["kept"]
        last = got["last_proof"]
        assert "last_proven_restore_at" not in got and (last["snapshot_id"], last["result"], last["failed_reason"]) == (s, "failed", "probe_failed"), got
        assert [last["probe_" + k] for k in ("ms", "exit_code", "detail", "output")] == list(said.values()) and last["at"] and last["bytes"] == GIB, last
        assert {k: x for k, x in events()[-1].items() if k.startswith("probe_")} == {"probe_" + k: x for k, x in said.items()}, events()
        assert not w.ok("GET", e + "/snapshots/" + s).get("damaged")
        j = verify()
        assert w.agent.restore(j["restore_id"], "succeeded", bytes_done=GIB, bytes_total=GIB, fs_uuid="12345678-1234-4234-8234-123456789abc",
                               probe={"ms": 5, "exit_code": 0}).json["accepted"] == 1
        got = volumes(e)["kept"]
        assert got["last_proven_restore_at"] == got["last_proof"]["at"] and got["last_proof"]["result"] == "ok" and got["last_proof"]["probe_exit_code"] == 0, got
        # A release without one takes it away from the next proof.
        d = deploy(a, e, manifest([("kept", 1)], [("kept", "/data")]))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        j = verify()
        assert j["proof"] and "probe" not in j, j
        assert asked({"restore_id": j["restore_id"]}).status == 403, "it runs nothing"
        w.ok("DELETE", O + "/registry-credentials/registry.test:5000", {})
        assert w.agent.restore(j["restore_id"], "failed", failed_reason="download_failed").json["accepted"] == 1
        d = deploy(a, e, manifest([], []))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        wait_for("it to be free", lambda: volumes(e)["kept"]["state"] == "available", 30)
        w.ok("DELETE", e + "/volumes/" + v["id"])
        wait_for("it gone", lambda: volumes(e) == {}, 30)

    @case("a volume gives name and place to another one while its process is at rest, and stays beside it")
    def _():
        a, e = w.make_app("swap")
        d = deploy(a, e, manifest([("only", 1)], [("only", "/data")]))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        old, new = volumes(e)["only"], w.ok("POST", e + "/volumes", {"name": "other", "size_bytes": 2 * GIB})["id"]
        at = e + "/volume-attachments/" + old["attachment"]["id"]
        wait_for("the other", lambda: volumes(e)["other"]["state"] == "available", 20)

        def scale(n):
            w.ok("PUT", e + "/scale", {"processes": [{"process_type": "db", "desired": n}], "expected_version": w.ok("GET", e + "/scale")["resource_version"]})
        refused(w.q("POST", at + "/replace", {"new_volume_id": new}), "volume_in_use")
        scale(0)
        wait_for("it at rest", lambda: volumes(e)["only"]["state"] == "available", 30)
        refused(w.q("POST", at + "/replace", {"new_volume_id": "vol_" + "0" * 26}), "not_found", 404)
        refused(w.q("POST", at + "/replace", {"new_volume_id": "x"}), "invalid_argument", 400)
        refused(w.q("POST", E + at[len(e):] + "/replace", {"new_volume_id": new}), "not_found", 404)
        assert w.ok("POST", at + "/replace", {"new_volume_id": old["id"]})["volume_id"] == old["id"]  # it has it already
        assert w.ok("POST", at + "/replace?dry_run=true", {"new_volume_id": new})["dry_run"] and volumes(e)["only"]["id"] == old["id"]
        assert w.ok("POST", at + "/replace", {"new_volume_id": new})["old_volume_id"] == old["id"]
        now = volumes(e)
        assert sorted(now) == ["only", "only-1"] and now["only"]["id"] == new and now["only-1"]["id"] == old["id"], now
        assert now["only"]["attachment"]["id"] == old["attachment"]["id"] and "attachment" not in now["only-1"], now
        refused(w.q("POST", at + "/replace", {"new_volume_id": new, "expected_version": 1}), "version_conflict")
        scale(1)
        wait_for("a ready instance", lambda: instances(e, "ready"), 30)
        i = [x for p in w.agent.plans[-1:] for x in p["instances"] if x.get("workload") and [m for m in x["workload"].get("mounts", []) if m["volume_id"] in (new, old["id"])]]
        assert [m["volume_id"] for x in i for m in x["workload"]["mounts"]] == [new], i
        assert volumes(e)["only"]["state"] == "in_use" and volumes(e)["only-1"]["state"] == "available"
        assert [x["event_type"] for x in w.ok("GET", O + "/events?event_type=volume_attachment.replaced")["items"]] == ["volume_attachment.replaced"]
        # The same by one command, while it runs: stopped for it, and scaled as it was.
        env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
        p = subprocess.run([kit.program("moat"), "volumes", "replace", "only", "only-1", "--drain", "--wait-timeout", "240s", "--org", "local", "--app", "swap", "--env", "prod"], env=env,
                           capture_output=True, text=True, timeout=300)
        assert p.returncode == 0, (p.stdout, p.stderr)
        assert (volumes(e)["only"]["id"], volumes(e)["only-2"]["id"]) == (old["id"], new), volumes(e)
        # What was replaced stays, and after volume.retired_grace the operator is told of it.
        retired = lambda: next(c for c in w.ok("GET", "/v1/admin/doctor")["checks"] if c["check"] == "volumes.retired")
        assert retired()["severity"] == "ok", retired()
        age = "SET session_replication_role = replica; UPDATE moat.events SET occurred_at = occurred_at %s interval '7 days 1 hour' WHERE aggregate_id = '%s' AND event_type = 'volume.renamed'"
        w.pg.sql(age % ("-", new))
        try:
            assert retired()["severity"] == "warn" and new in retired()["finding"] and old["id"] not in retired()["finding"], retired()
        finally:
            w.pg.sql(age % ("+", new))
        assert retired()["severity"] == "ok", retired()
        assert [(x["desired"], x["source"]) for x in w.ok("GET", e + "/scale")["processes"]] == [(1, "user")]
        wait_for("a ready instance again", lambda: instances(e, "ready"), 30)
        # A deploy may put another volume where one was, and let two change places: what goes, goes first.
        at_path = lambda: {v["name"]: v["attachment"]["mount_path"] for v in volumes(e).values() if "attachment" in v}
        for mounts in ([("only-2", "/data")], [("only-2", "/data"), ("only", "/more")], [("only", "/data"), ("only-2", "/more")]):
            d = deploy(a, e, manifest([("only", 1), ("only-2", 1)], mounts))
            assert d.status in (200, 201, 202), d.text
            assert at_path() == dict(mounts), (mounts, at_path())
            wait_for("its end", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 60)
        d = deploy(a, e, manifest([("only", 1)], [("only", "/data")]))
        wait_for("its end", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 60)
        w.ok("DELETE", e + "/volumes/" + new)
        wait_for("the other one gone", lambda: list(volumes(e)) == ["only"], 30)
        # By one call of the API, while it runs: a job, which stops the process; what is wanted of it stays as it is.
        third = w.ok("POST", e + "/volumes", {"name": "third", "size_bytes": GIB})["id"]
        wait_for("the third", lambda: volumes(e)["third"]["state"] == "available", 20)
        at = e + "/volume-attachments/" + volumes(e)["only"]["attachment"]["id"]
        first = wait_for("a ready instance", lambda: instances(e, "ready"), 30)[0]["id"]
        r = w.q("POST", at + "/replace", {"new_volume_id": third, "drain": True}, key="drained")
        assert r.status == 201 and r.json["status"] == "queued" and r.headers["Location"].endswith(r.json["migration_id"]), r.text
        assert w.q("POST", at + "/replace", {"new_volume_id": third, "drain": True}, key="drained").json["migration_id"] == r.json["migration_id"]
        job = lambda: w.ok("GET", O + "/migrations/" + r.json["migration_id"])
        assert job()["reason"] == "replace", job()
        wait_for("its end", lambda: job()["status"] == "succeeded", 40)
        now = volumes(e)
        assert sorted(now) == ["only", "only-1"] and (now["only"]["id"], now["only-1"]["id"]) == (third, old["id"]), now
        wait_for("it runs again, on the third", lambda: [x for x in instances(e, "ready") if x["id"] != first], 40)
        assert [(x["desired"], x["source"]) for x in w.ok("GET", e + "/scale")["processes"]] == [(1, "user")]
        w.ok("DELETE", e + "/volumes/" + old["id"])
        wait_for("the one before gone", lambda: list(volumes(e)) == ["only"], 30)

    @case("a restore that takes the place of its source: nothing is stopped before it is whole, and one that fails leaves all as it was")
    def _():
        a, e = w.make_app("takes")
        d = deploy(a, e, manifest([("only", 1)], [("only", "/data")]))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        old, first = volumes(e)["only"], wait_for("a ready instance", lambda: instances(e, "ready"), 30)[0]["id"]
        V = e + "/volumes/" + old["id"]
        s = w.ok("POST", V + "/snapshots", {})["id"]
        assert w.agent.snapshot(s, "succeeded", captured_at_ms=1800000000000, size_bytes=GIB, key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64).json["accepted"] == 1
        loose = w.ok("POST", e + "/volumes", {"name": "loose", "size_bytes": GIB})["id"]
        wait_for("it", lambda: volumes(e)["loose"]["state"] == "available", 20)
        t = w.ok("POST", e + "/volumes/" + loose + "/snapshots", {})["id"]
        assert w.agent.snapshot(t, "succeeded", captured_at_ms=1800000000000, size_bytes=GIB, key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64).json["accepted"] == 1
        refused(w.q("POST", e + "/volumes/" + loose + "/restore", {"snapshot_id": t, "replace": True}), "conflict")  # it has no place
        other = w.ok("POST", a + "/envs", {"name": "beside"})["id"]
        refused(w.q("POST", V + "/restore", {"snapshot_id": s, "replace": True, "target_env_id": other}), "invalid_argument", 400)
        refused(w.q("POST", V + "/restore", {"snapshot_id": s, "replace": "yes"}), "invalid_argument", 400)
        assert w.ok("POST", V + "/restore?dry_run=true", {"snapshot_id": s, "replace": True})["dry_run"] and sorted(volumes(e)) == ["loose", "only"]
        job = lambda r: w.ok("GET", O + "/migrations/" + r["migration_id"])

        def asked():
            r = w.ok("POST", V + "/restore", {"snapshot_id": s, "replace": True})
            assert r["new_volume_id"] in job(r)["new_volume_ids"] and job(r)["volume_ids"] == [old["id"]], (r, job(r))
            return r
        # while it is filled everything runs, and nobody else moves the volume
        r = asked()
        refused(w.q("POST", V + "/restore", {"snapshot_id": s, "replace": True}), "migration_in_progress")
        assert w.agent.restore(r["id"], "running", phase="downloading", bytes_done=1, bytes_total=GIB).json["accepted"] == 1
        time.sleep(1.5)
        assert job(r)["status"] == "queued" and [x["id"] for x in instances(e, "ready")] == [first], job(r)
        # its backup is broken: the new volume goes, and the place stays as it is
        assert w.agent.restore(r["id"], "failed", failed_reason="download_failed").json["accepted"] == 1
        wait_for("its end", lambda: job(r)["status"] == "failed", 20)
        assert job(r)["failed_reason"] == "restore_failed" and volumes(e)["only"]["id"] == old["id"] and [x["id"] for x in instances(e, "ready")] == [first], job(r)
        # taken back: the restore goes on, its volume stays beside
        r = asked()
        w.ok("DELETE", O + "/migrations/" + r["migration_id"])
        assert w.agent.restore(r["id"], "succeeded", bytes_done=GIB, bytes_total=GIB, fs_uuid="12345678-1234-4234-8234-123456789abc").json["accepted"] == 1
        wait_for("the new one", lambda: [v for v in volumes(e).values() if v["id"] == r["new_volume_id"] and v["state"] == "available"], 20)
        assert volumes(e)["only"]["id"] == old["id"] and [x["id"] for x in instances(e, "ready")] == [first]
        w.ok("DELETE", e + "/volumes/" + r["new_volume_id"])
        # and to its end, with a server that is killed in between
        r = asked()
        w.kill_control()
        w.start_control()
        assert w.agent.restore(r["id"], "succeeded", bytes_done=GIB, bytes_total=GIB, fs_uuid="12345678-1234-4234-8234-123456789abc").json["accepted"] == 1
        wait_for("its end", lambda: job(r)["status"] == "succeeded", 40)
        now = volumes(e)
        assert (now["only"]["id"], now["only-1"]["id"]) == (r["new_volume_id"], old["id"]) and now["only"]["attachment"]["id"] == old["attachment"]["id"], now
        wait_for("it runs again, on the restored one", lambda: [x for x in instances(e, "ready") if x["id"] != first], 40)
        d = deploy(a, e, manifest([], []))
        wait_for("success", lambda: w.ok("GET", e + "/deploys/" + d.json["id"])["status"] == "succeeded", 30)
        wait_for("it to be free", lambda: volumes(e)["only"]["state"] == "available", 30)
        for v in volumes(e).values():
            w.ok("DELETE", e + "/volumes/" + v["id"] + "?delete_backups=true")
        wait_for("them gone", lambda: volumes(e) == {}, 30)

    @case("usage of a month equals a replay of the log: processor, memory, volumes as they grew, backups as they came and went")
    def _():
        def resize(v, gib):
            w.ok("POST", E + "/volumes/" + v + "/resize", {"size_bytes": gib * GIB})
            assert w.agent.volume(v, "resized", result="ok", size_bytes=gib * GIB).json["accepted"] == 1

        def backup(v, uploaded):
            s = w.ok("POST", E + "/volumes/" + v + "/snapshots", {})["id"]
            assert w.agent.snapshot(s, "running", phase="uploading", uploaded_bytes=1).json["accepted"] == 1
            assert w.agent.snapshot(s, "succeeded", consistency="crash", captured_at_ms=1800000000000, size_bytes=GIB, uploaded_bytes=uploaded, key_epoch=1,
                                    image_root="a" * 64, manifest_sha256="b" * 64).json["accepted"] == 1

        def collected(v, **more):
            body = dict({"result": "ok", "purged": False, "upto_event_id": 0, "duration_ms": 1}, **more)
            r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "append", "--type", "volume.backups_collected", "--id", v, "--org", org,
                                "--app", A.split("/")[-1], "--env", E.split("/")[-1], "--payload", json.dumps(body), "--reason", "test"], capture_output=True, text=True, timeout=60)
            assert r.returncode == 0, r.stderr + r.stdout
        org = O.split("/")[-1]
        one = wait_for("room", lambda: (lambda r: r.status == 201 and r.json["id"])(w.q("POST", E + "/volumes", {"name": "metered", "size_bytes": GIB})), 20)
        wait_for("it there", lambda: volumes(E)["metered"]["state"] == "available", 20)
        resize(one, 2)
        w.ok("POST", E + "/volumes/" + one + "/resize", {"size_bytes": 3 * GIB})
        assert w.agent.volume(one, "resized", result="failed", error_reason="resize_failed", size_bytes=3 * GIB).status == 200  # stays what it was
        backup(one, 700 * 1000 * 1000)
        backup(one, 123456789)
        collected(one, bytes_deleted=500 * 1000 * 1000)
        collected(one, result="failed", bytes_deleted=7)
        backup(one, 5 * GIB)
        collected(one, purged=True, bytes_deleted=1)
        backup(one, 99999)
        w.ok("DELETE", E + "/volumes/" + one)
        wait_for("it gone", lambda: "metered" not in volumes(E), 20)
        month = time.strftime("%Y-%m", time.gmtime())
        got = w.ok("GET", O + "/usage/month?month=" + month)
        rows = json.loads(w.pg.sql("SELECT json_agg(json_build_array(event_type, aggregate_id, env_id, payload, (extract(epoch FROM occurred_at) * 1000000)::bigint)"
                                   " ORDER BY event_id) FROM moat.events WHERE org_id = '%s'" % org))
        as_of = int(w.pg.sql("SELECT (extract(epoch FROM timestamptz '%s') * 1000000)::bigint" % got["as_of"]))
        begin = int(w.pg.sql("SELECT (extract(epoch FROM timestamptz '%s') * 1000000)::bigint" % got["from"]))
        want, level = {}, {}  # {(env, kind): size times microseconds}; {(kind, object): (env, size, since)}

        def step(kind, key, env, size, us):
            env0, size0, since = level.get((kind, key), (env, 0, us))
            us, since = min(max(us, begin), as_of), min(max(since, begin), as_of)
            want[env0, kind] = want.get((env0, kind), 0) + max(size0, 0) * (us - since)
            level[kind, key] = (env0, size, us)
        sent = {}
        for what, key, env, p, us in rows:
            if what == "instance.allocated":
                step("vcpu", key, env, p["resources"]["cpu_millis"], us)
                step("memory", key, env, p["resources"]["memory_bytes"], us)
            elif what == "instance.released":
                step("vcpu", key, env, 0, us)
                step("memory", key, env, 0, us)
            elif what == "volume.created" or what == "volume.resized" and p["result"] == "ok":
                step("volume", key, env, p["size_bytes"], us)
            elif what == "volume.deleted":
                step("volume", key, env, 0, us)
            elif what == "snapshot.status_changed":
                sent[key] = p.get("uploaded_bytes", sent.get(key, 0))
                if p["status"] in ("succeeded", "failed"):
                    step("backup", p["volume_id"], env, level.get(("backup", p["volume_id"]), (0, 0))[1] + sent[key], us)
            elif what == "volume.backups_collected" and p["result"] == "ok":
                step("backup", key, env, 0 if p["purged"] else level.get(("backup", key), (0, 0))[1] - p.get("bytes_deleted", 0), us)
        for (kind, key), (env, size, _) in list(level.items()):
            step(kind, key, env, size, as_of)
        per = {"vcpu": 10**6, "memory": 10**6 * 2**20, "volume": 10**6 * 2**20, "backup": 10**6 * 2**20}
        told = {(x["env_id"], x["kind"]): x["quantity"] for x in got["items"]}
        assert told == {k: n // per[k[1]] for k, n in want.items() if n}, (told, {k: n // per[k[1]] for k, n in want.items()})
        assert {x["kind"]: x["quantity"] for x in got["totals"]} == {k: sum(n for (_, kind), n in want.items() if kind == k) // per[k] for k in per}, got["totals"]
        here = {kind: told[E.split("/")[-1], kind] for kind in per}
        assert all(here.values()) and got["final"] is False and got["month"] == month, here
        hours = w.ok("GET", O + "/usage?limit=200&kind=volume")["items"]
        late = w.ok("GET", O + "/usage/month?kind=volume&month=" + month)["totals"][0]["quantity"]
        assert late - 2 * len(hours) <= sum(h["quantity"] for h in w.ok("GET", O + "/usage?limit=200&kind=volume")["items"]) + 1, (late, hours)
        for bad in ("", "month=2026", "month=2026-13", "month=2026-00", "month=2026-1", "month=20261-1", "month=2999-01", "month=1969-12", "month=%2B026-11", "month=2026-11&kind=gpu",
                    "month=2026-11&env_id=x", "month=2026-11&since=1"):
            r = w.q("GET", O + "/usage/month?" + bad)
            assert r.status == 400 and r.json["code"] in ("invalid_argument", "invalid_id"), (bad, r.status, r.text)

    @case("killed in the middle of each change of a backup and of a restore, the control plane goes on: asked or told again, each has happened once")
    def _():
        a, e = w.make_app("killed")
        v = w.ok("POST", e + "/volumes", {"name": "own", "size_bytes": GIB})["id"]
        wait_for("it", lambda: volumes(e)["own"]["state"] == "available", 20)
        http_errors = (OSError, http.client.HTTPException)

        def struck(n, ask):
            """Killed some milliseconds after @ask has begun; then asked again, in the same words."""
            def first():
                try:
                    ask()
                except http_errors:
                    pass
            t = threading.Thread(target=first)
            t.start()
            time.sleep((0, 0.001, 0.002, 0.004, 0.008, 0.015)[n % 6])
            w.kill_control()
            t.join()
            w.start_control()
            return wait_for("an answer", lambda: (lambda r: r if r.status not in (429, 503) else None)(ask()), 30)

        def told(n, kind, **what):
            seq = w.agent.next_seq()
            r = struck(n, lambda: w.agent.post("status", {"instances": [], kind: [dict(what, seq=seq)]}))
            assert r.status == 200 and r.json["accepted"] + r.json["ignored"] == 1, r.text

        def jobs(kind, key, i):
            return wait_for("the job", lambda: [x for p in w.agent.plans for x in p.get(kind, []) if x[key] == i], 30)

        def once(i, *types):
            got = [x["event_type"] for x in w.ok("GET", O + "/events?limit=200&correlation_id=" + i)["items"] if x["aggregate_id"] == i]
            assert got == list(types), got
        for n in range(18 if os.environ.get("MOAT_FULL") else 3):
            r = struck(n, lambda: w.q("POST", e + "/volumes/" + v + "/snapshots", {}, key="killed-s-%d" % n))  # noqa: B023
            assert r.status == 201, r.text
            s = r.json["id"]
            jobs("snapshot_jobs", "snapshot_id", s)
            assert w.agent.post("volume-key", {"volume_id": v, "job_id": s}).status == 200
            told(n + 1, "snapshots", snapshot_id=s, status="running", phase="uploading", captured_at_ms=int(time.time() * 1000))
            done = {"status": "succeeded", "captured_at_ms": int(time.time() * 1000), "size_bytes": GIB, "key_epoch": 1, "image_root": "a" * 64, "manifest_sha256": "b" * 64}
            told(n + 2, "snapshots", snapshot_id=s, **done)
            assert w.ok("GET", e + "/volumes/" + v)["last_backup_snapshot_id"] == s
            assert len(w.ok("GET", e + "/volumes/" + v + "/snapshots?limit=100")["items"]) == n + 1
            once(s, "snapshot.created", "snapshot.status_changed", "snapshot.status_changed")
            r = struck(n + 3, lambda: w.q("POST", e + "/volumes/" + v + "/restore", {"snapshot_id": s, "name": "back"}, key="killed-r-%d" % n))  # noqa: B023
            assert r.status == 201, r.text
            i, new = r.json["id"], r.json["new_volume_id"]
            jobs("restore_jobs", "restore_id", i)
            assert w.agent.post("volume-key", {"volume_id": v, "job_id": i}).status == 200
            told(n + 4, "restores", restore_id=i, status="running", phase="downloading", bytes_done=1, bytes_total=GIB)
            assert volumes(e)["back"]["state"] == "creating"
            told(n + 5, "restores", restore_id=i, status="succeeded", fs_uuid="12345678-1234-4234-8234-123456789abc", bytes_done=GIB, bytes_total=GIB)
            assert (volumes(e)["back"]["id"], volumes(e)["back"]["state"]) == (new, "available") and set(volumes(e)) == {"own", "back"}
            once(i, "restore_job.created", "restore_job.status_changed", "restore_job.status_changed")
            w.ok("DELETE", e + "/volumes/" + new)
            wait_for("it gone", lambda: set(volumes(e)) == {"own"}, 30)
        w.ok("DELETE", e + "/volumes/" + v)
        wait_for("all gone", lambda: volumes(e) == {}, 30)

    @case("the views made again from the log are the same")
    def _():
        assert [v["name"] for v in w.ok("GET", O + "/volumes")["items"]] == ["only", "only", "only"]
        r = subprocess.run([kit.program("moat-control"), "verify-views", "--config", w.d + "/control.toml"], capture_output=True, text=True)
        assert r.returncode == 0 and "the views are what the log says" in r.stdout + r.stderr, r.stdout + r.stderr

    @case("hours of usage are exact for spans of any length: within one hour, over many, at its very edges")
    def _():
        hour, rows, want = 3600 * 10**6, [], {}
        now = int(time.time()) // 3600 * hour
        begin = now - 100 * hour  # what is asked for; spans reach out of it
        rnd = random.Random(20261129)
        for k in range(400):
            a = now - rnd.randrange(130 * hour)
            b = a + rnd.choice((rnd.randrange(1, 10**6), rnd.randrange(1, hour), rnd.randrange(1, 40 * hour)))
            if k % 5 == 0:
                a, b = a // hour * hour, b // hour * hour + (0 if b // hour > a // hour else hour)
            b = min(b, now)
            if b <= a:
                continue
            cpu, memory = rnd.randrange(50, 4000), rnd.randrange(64, 4096) * 1000003
            rows.append("('inst_%026d', %d, %d, %d, %d)" % (k, a, b, cpu, memory))
            for h in range(a // hour, (b - 1) // hour + 1):
                us = min(b, (h + 1) * hour) - max(a, h * hour)
                if begin // hour <= h < now // hour:
                    for kind, size in (("vcpu", cpu), ("memory", memory)):
                        want[h, kind] = want.get((h, kind), 0) + size * us
        env = w.ok("POST", A + "/envs", {"name": "spans"})["id"]
        w.pg.sql("INSERT INTO moat_views.instances_view (instance_id, org_id, app_id, env_id, process_type, node_id, release_id, overlay_ipv6, cpu_millis, memory_bytes,"
                 " disk_bytes, arch, image_digest, spec_hash, generation, desired_state, desired_changed_at, last_transition_at, released_at, created_at, updated_at,"
                 " resource_version, last_event_id) SELECT i, '%s', '%s', '%s', 'web', 'node', 'rel', i, c, m, 1, 'amd64', 'x', 'x', 1, 'stopped', t, t, t, f, t, 1, 1 FROM"
                 " (SELECT i, timestamptz 'epoch' + a * interval '1 microsecond' AS f, timestamptz 'epoch' + b * interval '1 microsecond' AS t, c, m FROM (VALUES %s) v(i, a, b, c, m)) x"
                 % (O.split("/")[-1], A.split("/")[-1], env, ", ".join(rows)))
        stamp = "%Y-%m-%dT%H:%M:%SZ"
        path, got = O + "/usage?limit=200&order=asc&env_id=%s&since=%s&until=%s" % (env, time.strftime(stamp, time.gmtime(begin / 1e6)), time.strftime(stamp, time.gmtime(now / 1e6))), {}
        cursor = ""
        while cursor is not None:
            page = w.ok("GET", path + (cursor and "&cursor=" + cursor))
            for x in page["items"]:
                h = calendar.timegm(time.strptime(x["from"][:19], stamp[:-1])) // 3600
                assert (h, x["kind"]) not in got and x["final"], x
                got[h, x["kind"]] = x["quantity"]
            cursor = page["next_cursor"]
        assert got == {k: n // (10**6 * (2**20 if k[1] == "memory" else 1)) for k, n in want.items() if n}, [(k, got.get(k), want.get(k)) for k in sorted(set(got) | set(want))][:6]
        assert len(got) > 150, len(got)
finally:
    w.close()
kit.finish()
