#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What retention gives up is taken out of the store of backups: the real moat-control, its moat-backup and a real store (versitygw), backups made by
moat-backup under the key that the control plane hands out (storage-and-secrets.md §4.10).
COST 64 s, 12 s of processor."""
import base64, glob, hashlib, json, os, random, shutil, subprocess, sys, tempfile, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import backupkit as bk
import cli_schema
import control_kit as kit
from control_kit import case, wait_for

kit.need("collection of backups", "moat-backup")
GIB, CHUNK, DAY = 1 << 30, bk.CHUNK, 86400
D = tempfile.mkdtemp(prefix="mtg.", dir="/tmp")
store = bk.Store("versitygw", D)
if store.why:
    kit.skip("collection of backups", store.why)
    shutil.rmtree(D)
    sys.exit(kit.finish())


class Gate:
    """Between moat-control and the store: lets requests through while it is open, and keeps those that come while it is shut."""

    def __init__(self):
        self.open, self.waiting = threading.Event(), threading.Event()
        self.open.set()
        self.proxy = bk.Proxy(store.port, self.fault)

    def fault(self, n, line):
        if not self.open.is_set():
            self.waiting.set()
            self.open.wait(60)
        return None


gate = Gate()
with open(D + "/gc.toml", "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
    f.write('endpoint = "http://127.0.0.1:%d"\nbucket = "%s"\nprefix = "pre/fix"\naccess_key = "%s"\nsecret_key = "%s"\ntries = 2\n' % (gate.proxy.port, bk.BUCKET, bk.ACCESS, bk.SECRET))
w = kit.World(backup_program=bk.BACKUP, backup_gc_file=D + "/gc.toml", backup_keep_last=2)
rnd = random.Random(8)
plan_job = []  # of the last backup


def volume():
    return w.ok("GET", E + "/volumes/" + V)


def collections():
    return [e["payload"] for e in w.ok("GET", O + "/events?event_type=volume.backups_collected&limit=100")["items"]]


def objects(kind):
    return store.objects("pre/fix/v1/%s/%s/%s/%s" % (cluster, org, V, kind))


def write_some(image, chunks):
    with open(image, "r+b") as f:
        for _ in range(chunks):
            f.seek(rnd.randrange(GIB // CHUNK) * CHUNK)
            f.write(rnd.randbytes(CHUNK))


def scope(key, **more):
    return bk.request(store.port, cluster_id=cluster, org_id=org, volume_id=V, keys=[key], **more)


def job(s):
    return [x for x in w.agent.plans[-1].get("snapshot_jobs", []) if x["snapshot_id"] == s]


def back_up(image):
    """As a node does it; scheduled, as far as the rows are concerned."""
    s = w.ok("POST", E + "/volumes/" + V + "/snapshots", {})["id"]
    plan_job[:] = wait_for("the job", lambda: job(s), 30)
    k = w.agent.post("volume-key", {"volume_id": V, "job_id": s}).json
    key = {"epoch": k["key_epoch"], "key": k["key"]}
    put = bk.call("put-key", scope(key, key_epoch=k["key_epoch"], wrapped=k["wrapped"]))
    assert put["ok"], put
    fd, at = os.open(image, os.O_RDONLY), int(time.time() * 1000)
    r = bk.call("backup", scope(key, snapshot_id=s, key_epoch=k["key_epoch"], size_bytes=GIB, captured_at_ms=at, image_fd=fd), [fd])
    os.close(fd)
    assert r["ok"], r
    w.pg.sql("UPDATE snapshots_view SET origin = 'scheduled' WHERE snapshot_id = '%s'" % s)
    assert w.agent.snapshot(s, "succeeded", captured_at_ms=at, size_bytes=GIB, key_epoch=k["key_epoch"], image_root=r["image_root"], manifest_sha256=r["manifest_sha256"]).json["accepted"] == 1
    copy = "%s/%s.img" % (D, s)
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return s, key, copy


def restores(s, key, copy):
    fd = os.open(D + "/back.img", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    r = bk.call("restore", scope(key, snapshot_id=s, image_fd=fd, zeroed=True), [fd])
    os.close(fd)
    return r["ok"] and bk.same(copy, D + "/back.img")


def age():
    """What is in the store was put there three days ago."""
    for p in glob.glob(store.dir + "/**", recursive=True):
        if os.path.isfile(p):
            os.utime(p, (time.time() - 3 * DAY,) * 2)


def due():
    """A week has gone by."""
    n = len(collections())
    w.pg.sql("UPDATE volumes_view SET collected_at = collected_at - interval '8 days', collect_tried_at = collect_tried_at - interval '8 days' WHERE volume_id = '%s'" % V)
    return n


def next_collection(n):
    wait_for("a collection", lambda: len(collections()) > n, 60)
    return collections()[n]


def offline(*argv, config=None):
    return subprocess.run([kit.program("moat-control"), "--config", config or w.d + "/control.toml", *argv], capture_output=True, text=True)


def scan(*argv, **more):
    r = offline("scan-backups", *argv, **more)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def told(*argv):
    """The same through the CLI, as documented."""
    r = subprocess.run([os.path.join(os.path.dirname(bk.BACKUP), "moat"), "admin", "backups", *argv, "--config", w.d + "/control.toml", "--json"], capture_output=True, text=True)
    assert r.returncode == 0, (r.stdout, r.stderr)
    wrong = cli_schema.one("object", json.loads(r.stdout))
    assert not wrong, wrong
    return json.loads(r.stdout)["data"]


def everything_is_lost():
    """Database, data folder and operator; what is left are the bucket and the master keys."""
    w.kill_control()
    for sql in ("DROP DATABASE moat WITH (FORCE)", "CREATE DATABASE moat OWNER moat_owner"):
        w.pg.sql(sql, db="postgres")
    shutil.rmtree(w.d + "/control")
    os.unlink(w.d + "/operator.token")
    w.agent.after, w.agent.epoch, w.agent.plans, w.agent.restores = 0, 1, [], True
    r = offline("init", "--id", cluster)
    assert r.returncode == 0 and cluster in r.stdout, (r.stdout, r.stderr)
    w.start_control()
    wait_for("room", lambda: [n for n in w.ok("GET", "/v1/nodes")["items"] if n["allocatable"].get("volume_bytes")], 30)


try:
    O = w.open()
    w.agent.pool = 20 * GIB
    wait_for("room", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"].get("volume_bytes"), 30)
    w.agent.backup_store = True
    A, E = w.make_app("shop")
    w.ok("PATCH", E, {"backup_interval_seconds": 2592000, "expected_version": w.ok("GET", E)["resource_version"]})
    org = w.ok("GET", E)["org_id"]
    V = w.ok("POST", E + "/volumes", {"name": "data", "size_bytes": GIB})["id"]
    wait_for("the volume", lambda: volume()["state"] == "available", 30)
    cluster = w.agent.plans[-1]["cluster_id"]
    image = D + "/image"
    with open(image, "wb") as f:
        f.truncate(GIB)
    made = []

    @case("the newest two stay, the others are given up and their manifests go; young chunks stay")
    def _():
        wait_for("a node that makes backups", lambda: w.q("POST", E + "/volumes/" + V + "/snapshots?dry_run=true", {}).status == 200, 30)
        for _ in range(4):
            write_some(image, 3)
            made.append(back_up(image))
        have = lambda: [s["id"] for s in w.ok("GET", E + "/volumes/" + V + "/snapshots")["items"]]  # noqa: E731
        wait_for("the oldest given up", lambda: len(have()) == 2, 60)
        assert sorted(have()) == sorted(m[0] for m in made[2:])
        assert {e["payload"]["reason"] for e in w.ok("GET", O + "/events?event_type=snapshot.pruned")["items"]} == {"retention"}
        due()  # one that came between the two is not followed by another for an hour
        wait_for("their manifests gone", lambda: len(objects("m")) == 2, 60)
        # One collection may have taken both, or each its own: all of them are over and told before the next case counts them.
        wait_for("its event", lambda: sum(c.get("manifests_deleted", 0) for c in collections()) == 2, 30)
        assert all(c["result"] == "ok" and not c["purged"] and c["chunks_deleted"] == 0 for c in collections()), collections()
        v = wait_for("it told", lambda: volume() if "collected_at" in volume() else None, 10)
        assert "collect_failed" not in v, v

    @case("a week later the chunks go that nobody names, and what is kept restores to the last byte")
    def _():
        before = len(objects("c"))
        age()
        c = next_collection(due())
        assert c["result"] == "ok" and c["chunks_deleted"] > 0 and len(objects("c")) == before - c["chunks_deleted"], (c, before)
        assert all(restores(*m) for m in made[2:])
        assert not restores(*made[0])  # the test would see it

    @case("a snapshot waits for the end of a collection, a kill of the control plane ends that, and it is made up for")
    def _():
        gate.waiting.clear()
        gate.open.clear()
        n = due()
        assert gate.waiting.wait(60)
        s = w.ok("POST", E + "/volumes/" + V + "/snapshots", {})["id"]
        heard = len(w.agent.plans)
        w.ok("POST", E + "/volumes", {"name": "other", "size_bytes": GIB})  # something else for the node to be told of
        wait_for("a plan", lambda: len(w.agent.plans) > heard and [v for v in w.agent.plans[-1]["volumes"] if v["volume_id"] != V], 30)
        assert not job(s) and w.ok("GET", E + "/snapshots/" + s)["status"] == "queued"
        kids = subprocess.run(["pgrep", "-P", str(w.control.pid), "-x", "moat-backup"], capture_output=True, text=True).stdout.split()
        assert len(kids) == 1, kids
        w.kill_control()
        wait_for("its program gone too", lambda: not os.path.exists("/proc/" + kids[0]) or " Z " in open("/proc/%s/stat" % kids[0]).read(), 10)
        gate.open.set()
        w.start_control()
        w.pg.sql("UPDATE moat.backup_collections SET until = clock_timestamp() WHERE until > clock_timestamp()")
        c = next_collection(n)
        assert (c["result"], c["failed_reason"]) == ("failed", "interrupted"), c
        wait_for("the job", lambda: job(s), 30)
        assert w.agent.snapshot(s, "failed", failed_reason="cancelled").json["accepted"] == 1
        c = next_collection(n + 1)
        assert c["result"] == "ok" and "collect_failed" not in volume(), c
        assert all(restores(*m) for m in made[2:])

    @case("a manifest that is damaged stops it before anything is deleted, and that is told")
    def _():
        path = store.path("pre/fix/v1/%s/%s/%s/m/%s" % (cluster, org, V, made[2][0]))
        good, before = open(path, "rb").read(), sorted(objects("c"))
        w.ok("DELETE", E + "/volumes/%s/snapshots/%s" % (V, made[3][0]), {})
        with open(path, "r+b") as f:
            f.seek(100)
            f.write(bytes([good[100] ^ 1]))
        age()
        c = next_collection(due())
        assert (c["result"], c["failed_reason"], c["detail"]) == ("failed", "internal_error", "manifest_unreadable"), c
        assert sorted(objects("c")) == before and volume()["collect_failed"] == "internal_error"
        wait_for("the gauge", lambda: b"moat_backup_uncollected_volumes 1" in kit.call(w.api, "GET", "/metrics").text, 30)
        with open(path, "r+b") as f:
            f.write(good)
        age()
        c = next_collection(due())
        assert c["result"] == "ok" and c["chunks_deleted"] > 0 and restores(*made[2]) and "collect_failed" not in volume(), c

    @case("a volume that is deleted with its backups leaves nothing in the store, keys last")
    def _():
        n = len(collections())
        w.ok("DELETE", E + "/volumes/" + V, {"delete_backups": True})
        wait_for("it purged", lambda: [c for c in collections()[n:] if c["purged"]], 90)
        assert store.objects("pre/fix/v1/%s/%s/%s" % (cluster, org, V)) == {}
        assert w.pg.sql("SELECT count(*) FROM moat.volume_backup_keys WHERE volume_id = '%s'" % V).strip() == "0"
        assert w.pg.sql("SELECT count(*) FROM moat.backup_collections").strip() == "0"

    @case("database and machine lost: bucket and master keys make the index of the backups again, killed in the middle too, and what is listed restores to the last byte")
    def _():
        global E, O, made, V, v_uuid
        V = w.ok("POST", E + "/volumes", {"name": "again", "size_bytes": GIB})["id"]
        wait_for("the volume", lambda: volume()["state"] == "available", 30)
        made = []
        for _ in range(3):
            write_some(image, 2)
            made.append(back_up(image))
        everything_is_lost()
        assert not [o for o in w.ok("GET", "/v1/orgs")["items"] if o["id"] == org]
        with open(w.d + "/other-key", "w", opener=lambda p, f: os.open(p, f, 0o400)) as f:
            key = os.urandom(32)
            f.write("%s active %s\n" % (hashlib.sha256(b"moat-master-key-v1\0" + key).hexdigest()[:16], base64.b64encode(key).decode()))
        text = open(w.d + "/control.toml").read()
        with open(w.d + "/other.toml", "w") as f:
            f.write(text.replace(w.d + "/master-keys", w.d + "/other-key"))
        r = scan(config=w.d + "/other.toml")
        assert r["missing"] == 0 and [u["key_epoch"] for u in r["unreadable"]] == [1], r
        r = told("scan")
        assert (r["volumes"], r["known"], r["missing"], r["added"], r["applied"]) == (1, 0, 3, 0, False) and sorted(i["snapshot_id"] for i in r["items"]) == sorted(m[0] for m in made), r
        r = offline("scan-backups", "--apply", "--reason", "the machine burnt")
        assert r.returncode == 1 and "--node" in r.stderr and V in r.stderr, r.stderr
        apply = ("--apply", "--reason", "the machine burnt", "--node", w.agent.node_id)
        for ms in (60, 150, 300):  # moments that nobody chose
            p = subprocess.Popen([kit.program("moat-control"), "--config", w.d + "/control.toml", "scan-backups", *apply], stdout=subprocess.DEVNULL)
            time.sleep(ms / 1000)
            p.kill()
            p.wait()
        r = scan(*apply)
        assert r["known"] + r["added"] == 3 and r["unreadable"] == [], r
        r = scan(*apply)
        assert (r["known"], r["missing"], r["added"]) == (3, 0, 0), r
        O = "/v1/orgs/" + org
        v = [x for x in w.ok("GET", O + "/volumes")["items"] if x["id"] == V][0]
        assert v["state"] == "error" and v["error_reason"] == "volume_not_present_on_node" and v["size_bytes"] == GIB, v
        E, v_uuid = O + "/apps/%s/envs/%s" % (v["app_id"], v["env_id"]), v["fs_uuid"]
        listed = w.ok("GET", E + "/volumes/" + V + "/snapshots")["items"]
        assert {(s["id"], s["status"], s["note"]) for s in listed} == {(m[0], "succeeded", "found in the store") for m in made}, listed
        for s, _, copy in made[::2]:
            new = w.ok("POST", E + "/volumes/" + V + "/restore", {"snapshot_id": s})["id"]
            j = wait_for("the job", lambda: [x for x in w.agent.plans[-1].get("restore_jobs", []) if x["restore_id"] == new], 30)[0]
            assert (j["source_org_id"], j["source_volume_id"], j["key_epoch"]) == (org, V, 1), j
            k = w.agent.post("volume-key", {"volume_id": V, "job_id": new}).json
            assert restores(s, {"epoch": k["key_epoch"], "key": k["key"]}, copy)
            assert w.agent.restore(new, "failed", failed_reason="cancelled").json["accepted"] == 1
        for what in ("verify-log", "verify-views"):
            r = offline(what)
            assert r.returncode == 0, (r.stdout, r.stderr)
        assert w.ok("POST", "/v1/admin/keys/verify", {})["opened"] >= 1

    @case("the database put back to an older point: what was backed up since is entered once more, in recovery too, and as what it was")
    def _():
        w.agent.backup_store = True
        assert w.agent.volume(V, "provisioned", result="ok", fs_uuid=v_uuid, size_bytes=GIB).json["accepted"] == 1  # its node has it still
        wait_for("a volume that is there", lambda: volume()["state"] == "available", 20)
        w.pg.backup(w.d + "/base")
        write_some(image, 2)
        s, key, copy = back_up(image)
        w.kill_control()
        w.pg.restore(w.d + "/base")
        w.start_control()
        r = scan("--apply", "--reason", "put back")
        assert (r["known"], r["missing"], r["added"]) == (3, 1, 1), r
        got = w.ok("GET", E + "/snapshots/" + s)
        assert got["status"] == "succeeded" and got["volume_id"] == V and got["size_bytes"] == GIB, got
        assert restores(s, key, copy)

    @case("another key from now on: refused while a backup runs, the next one is full and opens with the new key alone, the ones before stay readable")
    def _():
        for step in ("apply", "finish"):  # of a recovery, where the server had written down how far the log had come before it was killed
            w.ok("POST", "/v1/admin/recovery/" + step, {"reason": "test"}, want=(200, 409))
        before = made[0]
        s = w.ok("POST", E + "/volumes/" + V + "/snapshots", {})["id"]
        wait_for("the job", lambda: job(s), 30)
        r = offline("rekey-backups", "--id", V, "--reason", "a key was seen")
        assert r.returncode == 1 and "under way" in r.stderr, r.stderr
        assert w.agent.snapshot(s, "failed", failed_reason="cancelled").json["accepted"] == 1
        r = told("rekey", V, "--reason", "a key was seen")
        assert r == {"volume_id": V, "key_epoch": 2}, r
        write_some(image, 1)
        s, key, copy = back_up(image)
        assert key["epoch"] == 2 and key["key"] != before[1]["key"] and "parent_snapshot_id" not in plan_job[0], plan_job
        assert restores(s, key, copy) and restores(*before) and not restores(s, before[1], copy)
        assert [e["payload"] for e in w.ok("GET", "/v1/admin/events?event_type=volume.backup_key_rotated")["items"]] == [{"key_epoch": 2, "reason": "a key was seen"}]
        assert w.ok("GET", O + "/events?event_type=volume.backup_key_rotated")["items"] == []  # of operators alone
        assert scan()["missing"] == 0 and len(objects("k")) == 2
finally:
    gate.open.set()
    w.close()
    gate.proxy.close()
    store.close()
    shutil.rmtree(D, ignore_errors=True)
sys.exit(kit.finish())
