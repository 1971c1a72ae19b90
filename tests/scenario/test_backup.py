#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-backup against object stores of others, with faults between and kills in the middle. COST 90 s, 55 s of processor."""
import base64
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import backupkit as k  # noqa: E402
from backupkit import CHUNK, oid  # noqa: E402

scratch = tempfile.mkdtemp(prefix="moat-backup-")
failed = 0
SIZE = 12 * CHUNK


def case(name, fn, *args):
    global failed
    began = time.monotonic()
    if sys.argv[1:] and not any(a in name for a in sys.argv[1:]):
        return
    try:
        why = fn(*args)
        print("skip - %s: %s" % (name, why) if why else "ok - " + name, flush=True)
        print("%.1f s" % (time.monotonic() - began), flush=True)
    except Exception as e:
        failed += 1
        traceback.print_exc()
        print("not ok - %s: %s" % (name, e), flush=True)


def want(cond, *what):
    if not cond:
        raise AssertionError(" ".join(str(w) for w in what)[:600])


def bytes_of(path):
    with open(path, "rb") as f:
        return f.read()


def new(name):
    return os.path.join(tempfile.mkdtemp(dir=scratch), name)


def restored(port, n, **more):
    t = new("out")
    r = k.restore(port, n, t, **more)
    want(r.get("ok"), "restore of", n, r, getattr(r, "stderr", ""))
    return bytes_of(t)


def wipe(s):
    s.wipe()


def whole_way(s, **store):
    """first backup, delta, the same without ranges, restore, verify, scan, keys, gc"""
    image = new("image")
    k.make_image(image, SIZE, 5)
    first = bytes_of(image)
    r = k.backup(s.port, 1, image, SIZE, store=store)
    want(r.get("ok") and r["scan_mode"] == "full" and r["verified_chunks"] >= min(8, r["chunks_uploaded"]), r, r.stderr)
    with open(image, "r+b") as f:
        f.seek(CHUNK - 100)
        f.write(os.urandom(200))
    r2 = k.backup(s.port, 2, image, SIZE, ranges=[(CHUNK - 100, 200)], base_snapshot_id=oid("snap", 1), store=store)
    want(r2["ok"] and r2["scan_mode"] == "delta" and r2["read_bytes"] == 2 * CHUNK and r2["chunks_uploaded"] == 2 and r2["changed_bytes"] == 2 * CHUNK, r2)
    r3 = k.backup(s.port, 3, image, SIZE, base_snapshot_id=oid("snap", 2), store=store)
    want(r3["ok"] and r3["image_root"] == r2["image_root"] and r3["chunks_uploaded"] == 0, r3)
    again = k.backup(s.port, 3, image, SIZE, base_snapshot_id=oid("snap", 2), store=store)
    want(again["ok"] and again["already_done"] and again["manifest_sha256"] == r3["manifest_sha256"], again)
    want(restored(s.port, 1, store=store) == first and restored(s.port, 2, store=store) == bytes_of(image), "bytes")
    want(k.call("verify", k.request(s.port, snapshot_id=oid("snap", 2), image_root=r2["image_root"], store=store))["ok"], "verify")
    other = k.call("verify", k.request(s.port, snapshot_id=oid("snap", 1), image_root=r2["image_root"], store=store))
    want(other["error"]["detail"] == "image_root", other)
    wrapped = base64.b64encode(bytes(range(72))).decode()
    want(k.call("put-key", k.request(s.port, key_epoch=1, wrapped=wrapped, store=store))["ok"], "put-key")
    want(k.call("get-key", k.request(s.port, key_epoch=1, store=store))["wrapped"] == wrapped, "get-key")
    clash = k.call("put-key", k.request(s.port, key_epoch=1, wrapped="A" * 96, keys=None, store=store))
    want(clash["error"]["detail"] == "key_exists", clash)
    clash = k.call("put-key", k.request(s.port, key_epoch=1, wrapped="A" * 96, keys=[{"epoch": 1, "key": k.KEY2}], store=store))
    want(clash["error"]["detail"] == "key_exists", "another key took the place of one that backups need", clash)
    again = base64.b64encode(bytes(range(1, 73))).decode()
    for text in (again, wrapped):  # the same key, wrapped anew as after a change of the master key
        want(k.call("put-key", k.request(s.port, key_epoch=1, wrapped=text, store=store))["ok"] and k.call("get-key", k.request(s.port, key_epoch=1, store=store))["wrapped"] == text, "rewrapped")
    scan = k.call("scan", k.request(s.port, check_chunks=True, store=store))
    want(scan["ok"] and scan["snapshots"] == 3 and [x["snapshot"]["missing_chunks"] for x in scan.lines[:3]] == [0, 0, 0], scan.lines)
    everything = k.call("scan", k.request(s.port, org_id=None, volume_id=None, keys=None, store=store)).lines
    want(everything[0]["volume"]["keys"] == [{"epoch": 1, "wrapped": wrapped}] and len(everything[0]["volume"]["snapshots"]) == 3, everything)
    gone = k.call("gc", k.request(s.port, delete_manifests=[oid("snap", 1)], expect_manifests=[oid("snap", 9)], min_age_s=0, store=store))
    want(gone["error"]["detail"] == "manifest_missing", gone)
    young = k.call("gc", k.request(s.port, delete_manifests=[oid("snap", 1)], store=store))
    want(young["ok"] and young["chunks_deleted"] == 0 and young["chunks_kept_young"] == 2, young)
    old = k.call("gc", k.request(s.port, min_age_s=0, expect_manifests=[oid("snap", 2), oid("snap", 3)], store=store))
    want(old["ok"] and old["chunks_deleted"] == 2, old)
    want(restored(s.port, 3, store=store) == bytes_of(image), "bytes after gc")
    want(k.restore(s.port, 1, new("x"), store=store)["error"]["failed_reason"] == "snapshot_not_found", "pruned")
    purged = k.call("gc", k.request(s.port, purge=True, store=store))
    want(purged["ok"], purged)
    left = k.call("scan", k.request(s.port, org_id=None, volume_id=None, keys=None, store=store))
    want(left["ok"] and left["volumes"] == 0, left)


def migration(s):
    """a target that holds one snapshot becomes another by what differs; limits hold; a sample verifies"""
    wipe(s)
    image, t = new("image"), new("target")
    k.make_image(image, SIZE, 9, share=0.9)
    want(k.backup(s.port, 1, image, SIZE)["ok"], "first")
    want(k.restore(s.port, 1, t)["ok"], "pre-copy")
    with open(image, "r+b") as f:
        f.seek(3 * CHUNK)
        f.write(os.urandom(100) + bytes(CHUNK - 100))
        f.write(bytes(CHUNK))
    want(k.backup(s.port, 2, image, SIZE)["ok"], "final")
    r = k.restore(s.port, 2, t, have_snapshot_id=oid("snap", 1))
    want(r["ok"] and r["chunks_fetched"] == 1 and r["chunks_skipped"] == SIZE // CHUNK - 2 and bytes_of(t) == bytes_of(image), r)
    bigger = new("bigger")
    with open(bigger, "wb") as f:
        f.write(os.urandom(SIZE + CHUNK))
    want(k.restore(s.port, 2, bigger, size_bytes=SIZE + CHUNK)["ok"] and bytes_of(bigger) == bytes_of(image) + bytes(CHUNK), "over old content, grown")
    want(k.call("verify", k.request(s.port, snapshot_id=oid("snap", 2), mode="sample"))["chunks_checked"] == 8, "sample")
    wipe(s)
    with open(image, "wb") as f:
        f.write(os.urandom(4 * CHUNK))
    began = time.monotonic()
    want(k.backup(s.port, 1, image, 4 * CHUNK, store={"upload_limit_bytes": 8 << 20})["ok"], "limited")
    want(time.monotonic() - began > 1.0, "16 MiB at 8 MiB/s took", time.monotonic() - began)
    wipe(s)
    began = time.monotonic()
    want(k.backup(s.port, 1, image, CHUNK, store={"upload_limit_bytes": 3 << 20})["ok"], "one that is itself longer than the limit's half second")
    want(time.monotonic() - began > 1.0, "4 MiB at 3 MiB/s took", time.monotonic() - began)


def biggest(s):
    """2 TiB, nearly all holes: memory stays within 64 MiB both ways, holes are not read"""
    wipe(s)
    image, size = new("image"), 2 << 40
    with open(image, "wb") as f:
        f.truncate(size)
        for at in range(0, size, size // 24):
            f.seek(at + 4096 * 5)
            f.write(os.urandom(CHUNK))
    r = k.backup(s.port, 1, image, size)
    want(r["ok"] and r["chunks"] == 524288 and r["peak_memory_bytes"] <= 64 << 20 and r["read_bytes"] <= 60 * CHUNK, r)
    d = k.backup(s.port, 2, image, size, base_snapshot_id=oid("snap", 1), ranges=[(20480, 1)])
    want(d["ok"] and d["read_bytes"] == CHUNK and d["changed_bytes"] == 0 and d["peak_memory_bytes"] <= 64 << 20, d)
    t = new("out")
    b = k.restore(s.port, 2, t, zeroed=True)
    want(b["ok"] and b["peak_memory_bytes"] <= 64 << 20 and b["image_root"] == r["image_root"], b)
    m = k.restore(s.port, 2, t, have_snapshot_id=oid("snap", 1))
    want(m["ok"] and m["chunks_fetched"] == 0 and m["peak_memory_bytes"] <= 64 << 20, m)
    g = k.call("gc", k.request(s.port, min_age_s=0))
    want(g["ok"] and g["chunks_deleted"] == 0 and g["peak_memory_bytes"] <= 64 << 20, g)


def confined(s):
    """unprivileged, filtered, without core dumps, and the request's secrets are nowhere in its memory as text"""
    if os.geteuid() != 0:
        return "needs root"
    wipe(s)
    image, key = new("image"), os.urandom(32).hex()
    k.make_image(image, 2 * CHUNK, 3)
    fd, (r, w) = os.open(image, os.O_RDONLY), os.pipe()
    p = k.start("backup", k.request(s.port, snapshot_id=oid("snap", 1), key_epoch=1, size_bytes=2 * CHUNK, captured_at_ms=1, image_fd=fd, step_fd=r, uid=65534,
                                    gid=65534, keys=[{"epoch": 1, "key": key}]), [fd, r])
    try:
        want(b"start" in p.stdout.readline(), "no step")
        with open("/proc/%d/status" % p.pid) as f:
            st = dict(l.split(":\t", 1) for l in f.read().splitlines() if ":\t" in l)
        want(st["Seccomp"] == "2" and st["NoNewPrivs"] == "1" and st["Uid"].split() == ["65534"] * 4 and int(st["CapEff"], 16) == 0 and st["Groups"].strip() == "", st)
        with open("/proc/%d/limits" % p.pid) as f:
            want(any(l.startswith("Max core file size") and l.split()[4] == "0" for l in f), "core")
        found = 0
        with open("/proc/%d/maps" % p.pid) as maps, open("/proc/%d/mem" % p.pid, "rb") as mem:
            for line in maps:
                a, b = (int(x, 16) for x in line.split()[0].split("-"))
                if "rw" not in line.split()[1]:
                    continue
                mem.seek(a)
                data = mem.read(b - a)
                want(key.encode() not in data, "the key's text is in", line)
                found += bytes.fromhex(key) in data
        want(found == 0, "the volume's key is in memory")
        for _ in range(20):
            os.write(w, b"x" * 20)
    finally:
        os.close(w)
        os.close(r)
        os.close(fd)
    done = k.finish(p)
    want(done["ok"], done)


def tls(s):
    """https with the anchor given and without it"""
    d = tempfile.mkdtemp(dir=scratch)
    os.chmod(scratch, 0o755)
    os.chmod(d, 0o755)
    r = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", d + "/key", "-out", d + "/cert",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], capture_output=True)
    want(r.returncode == 0, r.stderr)
    t = k.Store("versitygw", d, "--cert", d + "/cert", "--key", d + "/key")
    try:
        image = new("image")
        k.make_image(image, 3 * CHUNK, 4)
        at = {"endpoint": "https://localhost:%d" % t.port}
        user = {"uid": 65534, "gid": 65534} if os.geteuid() == 0 else {}
        want(k.backup(t.port, 1, image, 3 * CHUNK, store=dict(at, ca_file=d + "/cert"), **user).get("ok"), "with the anchor")
        bad = k.backup(t.port, 2, image, 3 * CHUNK, store=at, **user)
        want(bad["error"]["detail"] == "tls" and not bad["error"]["retryable"], bad)
        want(restored(t.port, 1, store=dict(at, ca_file=d + "/cert")) == bytes_of(image), "bytes")
    finally:
        t.close()


def faults(s):
    """cut connections, 503s, a slow store on every third request, the first answer for each chunk spoilt: same bytes in the end"""
    image = new("image")
    k.make_image(image, SIZE, 6)
    for kind in ("cut", "503", "corrupt", "slow"):
        wipe(s)
        seen, hit = set(), {}

        def fault(n, line):
            if kind != "corrupt":  # one request is met four times at most: it is tried six times, and chance must not have all of them
                if n % 3 or hit.get(line, 0) == 4:
                    return None
                hit[line] = hit.get(line, 0) + 1
                return kind
            first = line.startswith("GET") and "/c/" in line and line not in seen
            seen.add(line)
            return kind if first else None

        p = k.Proxy(s.port, fault)
        r = k.backup(p.port, 1, image, SIZE)
        want(r.get("ok"), kind, r)
        seen.clear()
        want(restored(p.port, 1) == bytes_of(image), kind)
        want(kind != "corrupt" or seen, "nothing was spoilt")
        p.close()
    wipe(s)
    skew = k.Proxy(s.port, ahead=600)
    r = k.backup(skew.port, 1, image, SIZE)
    want(r.get("ok") and skew.refused, "clock skew is made good", r)
    skew.close()
    dead = k.Proxy(s.port, lambda n, line: "503")
    r = k.backup(dead.port, 2, image, SIZE, store={"tries": 3})
    want(r["error"]["failed_reason"] == "backup_store_unreachable" and r["error"]["detail"] == "http_503" and r["error"]["retryable"], r)
    dead.close()
    if s.kind == "versitygw":  # moto looks at no signature
        r = k.backup(s.port, 2, image, SIZE, store={"secret_key": "wrong"})
        want(r["error"]["failed_reason"] == "credentials_invalid" and not r["error"]["retryable"], r)
    r = k.backup(s.port, 2, image, SIZE, store={"bucket": "no-such-bucket"})
    want(r["error"]["failed_reason"] == "backup_store_unreachable" and r["error"]["detail"] == "bucket_not_found", r)
    want("wrong" not in str(r.lines) and image not in str(r.lines), "no secrets, no paths")


def kills(s):
    """killed at every step and started again with its journal: no success before its time, the same objects as without"""
    image = new("image")
    k.make_image(image, SIZE, 7)
    wipe(s)
    r = k.backup(s.port, 1, image, SIZE)
    want(r.get("ok"), r, r.stderr)
    clean = set(s.objects("pre"))
    steps = [("start", 1)] + [("chunk_put", i) for i in range(1, r["chunks_uploaded"] + 1, 3)] + [("verify", 1), ("manifest", 1), ("manifest_put", 1)]
    for step in steps:
        wipe(s)
        j = new("journal")
        want(k.backup(s.port, 1, image, SIZE, journal=j, kill=step) is None, "was to die at", step)
        there = k.call("scan", k.request(s.port))
        want(there["snapshots"] == (1 if step[0] == "manifest_put" else 0), step, there)
        again = k.backup(s.port, 1, image, SIZE, journal=j)
        want(again["ok"] and set(s.objects("pre")) == clean, step, again)
        want(again["already_done"] == (step[0] == "manifest_put"), step, again)
        if step[0] == "chunk_put":
            want(again["chunks_uploaded"] <= r["chunks_uploaded"] - step[1], "what is in the journal is not sent again", step, again)
    for step in [("start", 1), ("chunk_written", 1), ("chunk_written", 5), ("checkpoint", 1), ("done", 1)]:
        t, j = new("out"), new("journal")
        want(k.restore(s.port, 1, t, journal=j, kill=step) is None, step)
        again = k.restore(s.port, 1, t, journal=j)
        want(again["ok"] and bytes_of(t) == bytes_of(image), step, again)
        want((again["chunks_fetched"] == 0) == (step[0] == "done"), step, again)
    # a journal that promises what the store has lost: found by the list, read and sent again
    wipe(s)
    j = new("journal")
    want(k.backup(s.port, 1, image, SIZE, journal=j, kill=("verify", 1)) is None, "verify")
    lost = sorted(p for p in s.objects("pre") if "/c/" in p)[:2]
    for p in lost:
        s.delete(p)
    again = k.backup(s.port, 1, image, SIZE, journal=j)
    want(again["ok"] and again["chunks_healed"] == 2 and restored(s.port, 1) == bytes_of(image), again)


def store_dies(_):
    """the store is killed at a step (with MOAT_FULL=1 at each) and is back a moment later: each goes on, none ends well before its time, and no object is half there"""
    s = k.Store("versitygw", tempfile.mkdtemp(dir=scratch))
    image = new("image")
    small = 6 * CHUNK
    k.make_image(image, small, 21, share=0.9)
    patient = {"tries": 10, "retry_base_ms": 60}
    full = os.environ.get("MOAT_FULL") == "1"
    died = []

    def dies():
        died.append(1)
        s.close()
        back = threading.Timer(0.15, s.begin)
        back.start()
        died.append(back)
    try:
        for step in [("start", 1), ("chunk_put", 1), ("verify", 1), ("manifest_put", 1)] * full + [("chunk_put", 4), ("manifest", 1)]:
            wipe(s)
            r = k.backup(s.port, 1, image, small, kill=step + (dies,), store=patient)
            want(died and r and r.get("ok"), step, r)
            died.pop().join()
            died.clear()
            seen = k.call("scan", k.request(s.port, check_chunks=True))
            want(seen["ok"] and [x["snapshot"]["missing_chunks"] for x in seen.lines if "snapshot" in x] == [0], step, seen.lines)
        for step in [("start", 1), ("chunk_written", 1), ("checkpoint", 1), ("done", 1)] * full + [("chunk_written", 3)]:
            t = new("out")
            r = k.restore(s.port, 1, t, journal=new("journal"), kill=step + (dies,), store=patient)
            want(died and r and r.get("ok") and bytes_of(t) == bytes_of(image), step, r)
            died.pop().join()
            died.clear()
    finally:
        for x in died[1:]:
            x.join()
        s.close()


def damage(s):
    """flipped, truncated, swapped, replayed and missing objects are refused and named; the rest restores"""
    image = new("image")
    k.make_image(image, SIZE, 8, share=0.9)
    wipe(s)
    want(k.backup(s.port, 1, image, SIZE)["ok"], "first")
    before = bytes_of(image)
    with open(image, "r+b") as f:
        f.write(os.urandom(CHUNK))
    r2 = k.backup(s.port, 2, image, SIZE)
    want(r2["ok"], "second")
    foreign = k.backup(s.port, 1, image, SIZE, org_id=k.ORG2, volume_id=k.VOL2)
    want(foreign["ok"], foreign)
    base = "pre/fix/v1/test/%s/%s/" % (k.ORG, k.VOL)
    chunks = sorted(p for p in s.objects(base + "c"))
    man, man2 = s.path(base + "m/" + oid("snap", 1)), s.path(base + "m/" + oid("snap", 2))

    def spoilt(path, data, expect, n=1):
        keep = bytes_of(path)
        with open(path, "wb") as f:
            f.write(data)
        try:
            r = k.restore(s.port, n, new("out"))
            want(not r["ok"] and r["error"]["failed_reason"] == expect, path, r)
            if "/c/" in path:
                want(any(d["object"] == "c/" + os.path.basename(path) for d in r["error"]["damaged"]), "named", r)
                want(not k.call("verify", k.request(s.port, snapshot_id=oid("snap", n)))["ok"], "verify sees it too")
        finally:
            with open(path, "wb") as f:
                f.write(keep)

    used = None
    for c in chunks:  # one that the first backup names
        p = s.path(c)
        keep = bytes_of(p)
        os.unlink(p)
        r = k.restore(s.port, 1, new("out"))
        t = new("out")
        saved = k.restore(s.port, 1, t, salvage=True)
        with open(p, "wb") as f:
            f.write(keep)
        if not r["ok"]:
            used = c
            want(r["error"]["failed_reason"] == "backup_object_missing" and saved["ok"] and saved["damaged_count"] >= 1, r, saved)
            out, holes = bytes_of(t), {d["offset"] for d in saved["damaged"]}
            want(all(out[at:at + CHUNK] == (bytes(CHUNK) if at in holes else before[at:at + CHUNK]) for at in range(0, SIZE, CHUNK)), "the rest is whole")
            break
    want(used, "no chunk of the first backup")
    good = bytes_of(s.path(used))
    other = bytes_of(s.path([c for c in chunks if c != used][0]))
    for at in (0, 6, 9, 20, 40, len(good) // 2, len(good) - 1):
        spoilt(s.path(used), good[:at] + bytes([good[at] ^ 4]) + good[at + 1:], "integrity_check_failed")
    spoilt(s.path(used), good[:-1], "integrity_check_failed")
    spoilt(s.path(used), good[:10], "integrity_check_failed")
    spoilt(s.path(used), good + bytes(1), "integrity_check_failed")
    spoilt(s.path(used), other, "integrity_check_failed")
    spoilt(s.path(used), good + bytes(5 << 20), "integrity_check_failed")
    m = bytes_of(man)
    for at in (0, 9, 40, 300, len(m) - 1):
        spoilt(man, m[:at] + bytes([m[at] ^ 4]) + m[at + 1:], "encryption_failed" if at == 9 else "integrity_check_failed")
    spoilt(man, bytes_of(man2), "integrity_check_failed")
    spoilt(man, bytes_of(s.path("pre/fix/v1/test/%s/%s/m/%s" % (k.ORG2, k.VOL2, oid("snap", 1)))), "integrity_check_failed")
    spoilt(man, m[:100], "integrity_check_failed")
    # the same snapshot of the same volume and key, whole in itself, of somebody else: one name in the additional data is all that differs
    chunk, name = "c/%s/%s" % tuple(used.rsplit("/", 2)[1:]), "m/" + oid("snap", 1)
    with open(image, "r+b") as f:
        now = f.read(CHUNK)
        f.seek(0)
        f.write(before[:CHUNK])
    for org, cluster, prefix, more in ((k.ORG2, "test", "pre/fix", {"org_id": k.ORG2}), (k.ORG, "other", "pre/fix", {"cluster_id": "other"}),
                                       (k.ORG, "test", "pre/epoch", {"keys": [{"epoch": 2, "key": k.KEY}], "key_epoch": 2, "store": {"prefix": "pre/epoch"}})):
        want(k.backup(s.port, 1, image, SIZE, **more)["ok"], more)
        theirs = lambda rest: bytes_of(s.path("%s/v1/%s/%s/%s/%s" % (prefix, cluster, org, k.VOL, rest)))  # noqa: E731
        spoilt(s.path(used), theirs(chunk), "integrity_check_failed")
        spoilt(man, theirs(name), "encryption_failed" if "keys" in more else "integrity_check_failed")
        if "keys" in more:  # whose header says the epoch that is asked for
            spoilt(s.path(used), theirs(chunk)[:11] + bytes([1]) + theirs(chunk)[12:], "integrity_check_failed")
            spoilt(man, theirs(name)[:11] + bytes([1]) + theirs(name)[12:], "integrity_check_failed")
            with open(man, "wb") as f:  # with the keys of both at hand
                f.write(theirs(name))
            both = {"keys": [{"epoch": 1, "key": k.KEY}, {"epoch": 2, "key": k.KEY}]}
            r = k.restore(s.port, 1, new("out"), **both)
            want(r["error"]["failed_reason"] == "integrity_check_failed" and {d["why"] for d in r["error"]["damaged"]} == {"key_missing"}, "chunks of two epochs", r)
            with open(man, "wb") as f:
                f.write(m)
    want(restored(s.port, 1) == before, "all is as it was")
    with open(image, "r+b") as f:
        f.write(now)
    with open(man, "wb") as f:
        f.write(m[:-1] + b"x")
    stopped = k.call("gc", k.request(s.port, min_age_s=0))
    want(stopped["error"]["detail"] == "manifest_unreadable" and oid("snap", 1) in stopped["error"]["message"], stopped)
    want(sorted(s.objects(base + "c")) == chunks and restored(s.port, 2) == bytes_of(image), "nothing was deleted, the other restores")
    scan = k.call("scan", k.request(s.port))
    want(scan["snapshots"] == 1 and scan["damaged_manifests"] == 1, scan.lines)
    wrong = k.restore(s.port, 2, new("out"), keys=[{"epoch": 1, "key": k.KEY2}])
    want(wrong["error"]["failed_reason"] == "integrity_check_failed", wrong)
    cut = k.backup(s.port, 3, image, SIZE, base_snapshot_id=oid("snap", 2), ranges=[(SIZE, 1)])
    want(cut["error"]["detail"] == "ranges", cut)


def flip(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        was = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([was[0] ^ 4]))


def heals(s):
    """a chunk broken in the store is taken for good by its name and size, until a backup is told to believe nothing: that heals the older ones too, and is
    not said of one that was killed in between and had believed something"""
    image, other = new("image"), new("other")
    k.make_image(image, SIZE, 10, share=0.9)
    k.make_image(other, SIZE, 11, share=0.9)
    with open(image, "r+b") as f:
        twice = os.urandom(CHUNK)
        f.write(twice + bytes(CHUNK) + twice)
    wipe(s)
    first = bytes_of(image)
    r = k.backup(s.port, 1, image, SIZE)
    want(r["ok"] and not r["distrust_stored"], r)
    base, all_of_it = "pre/fix/v1/test/%s/%s/" % (k.ORG, k.VOL), r["chunks_uploaded"]
    want(all_of_it == len(s.objects(base + "c")), r)
    broken = sorted(s.objects(base + "c"))[all_of_it // 2]

    def fails(n):
        r = k.restore(s.port, n, new("out"))
        want(r["error"]["failed_reason"] == "integrity_check_failed" and {d["object"] for d in r["error"]["damaged"]} == {"c/" + os.path.basename(broken)}, n, r)

    flip(s.path(broken))
    want(k.backup(s.port, 2, image, SIZE)["chunks_uploaded"] == 0 and k.backup(s.port, 3, image, SIZE, base_snapshot_id=oid("snap", 2))["ok"], "taken for good")
    for n in (1, 2, 3):
        fails(n)
    r = k.backup(s.port, 4, image, SIZE, base_snapshot_id=oid("snap", 3), distrust_stored=True)
    want(r["ok"] and r["distrust_stored"] and not r["base_used"] and r["scan_mode"] == "full" and r["chunks_uploaded"] == all_of_it and r["verified_chunks"] >= 8, r)
    for n in (4, 1, 2, 3):
        want(restored(s.port, n) == first, "bytes of", n)
    want([x["snapshot"]["parent_snapshot_id"] for x in k.call("scan", k.request(s.port)).lines[:-1] if x["snapshot"]["snapshot_id"] == oid("snap", 4)] == [oid("snap", 3)], "its parent")
    no = k.backup(s.port, 5, image, SIZE, ranges=[(0, CHUNK)], base_snapshot_id=oid("snap", 3), distrust_stored=True)
    want(no["error"]["detail"] == "request", no)
    # believed by a run that asked the store, and noted in the journal that the next one has
    want(k.backup(s.port, 6, other, SIZE)["ok"], "another image")
    flip(s.path(broken))
    j, half = new("journal"), {"base_snapshot_id": oid("snap", 6), "store": {"parallel": 1}}
    want(k.backup(s.port, 7, image, SIZE, journal=j, kill=("verify", 1), **half) is None and os.path.getsize(j) == 32 * all_of_it, "killed")
    r = k.backup(s.port, 7, image, SIZE, journal=j, distrust_stored=True)
    want(r["ok"] and r["distrust_stored"] and r["chunks_uploaded"] == all_of_it and restored(s.port, 7) == first, r)
    # killed at every step: what was sent is not sent again, and nothing else is left out
    for step in [("start", 1), ("chunk_put", 1), ("chunk_put", all_of_it // 2), ("chunk_put", all_of_it), ("verify", 1), ("manifest", 1), ("manifest_put", 1)]:
        n, j = 10 + all_of_it, new("journal")
        flip(s.path(broken))
        want(k.backup(s.port, n, image, SIZE, journal=j, kill=step, distrust_stored=True, store={"parallel": 1}) is None, "was to die at", step)
        r = k.backup(s.port, n, image, SIZE, journal=j, distrust_stored=True)
        want(r["ok"] and r["distrust_stored"] and r["already_done"] == (step[0] == "manifest_put"), step, r)
        if not r["already_done"]:
            want(r["chunks_uploaded"] == all_of_it - (0 if step[0] == "start" else step[1] if step[0] == "chunk_put" else all_of_it), step, r)
        want(restored(s.port, n) == first, step)
        os.unlink(s.path(base + "m/" + oid("snap", n)))
    # done by a run that believed: the next one cannot say otherwise of it; nor one that believes of what was begun without
    for n, step, before, after in ((8, ("manifest_put", 1), {}, {"distrust_stored": True}), (9, ("chunk_put", 3), {"distrust_stored": True}, {})):
        j = new("journal")
        want(k.backup(s.port, n, image, SIZE, journal=j, kill=step, **before) is None, step)
        r = k.backup(s.port, n, image, SIZE, journal=j, **after)
        want(r["ok"] and not r["distrust_stored"] and restored(s.port, n) == first, step, r)


SEEDS = (1, 2, 3)  # the same in every run, beside one that nobody has seen; SEED=N runs that one alone


def all_histories(s):
    own = os.environ.get("SEED")
    if os.environ.get("MOAT_FULL"):  # a thousand patterns of writes, by hand: half an hour
        for seed in range(1, 29):
            history(s, seed, 36)
        return
    for seed in [int(own)] if own else SEEDS + (random.randrange(1 << 30),):
        history(s, seed, 9)


def history(s, seed, rounds):
    """random writes, backups, retention, collection, and kills in all of them: every listed backup restores to the bytes of its moment"""
    print("seed %d" % seed, flush=True)
    rnd = random.Random(seed)
    wipe(s)
    image, small, n, kept, base = new("image"), 5 * CHUNK, 0, {}, None
    content, dirty, did = bytearray(small), [], {}

    def count(what):
        did[what] = did.get(what, 0) + 1

    def saves(how):
        """One backup of what is there now: killed on the way, its journal lost now and then, or given up"""
        nonlocal n, base, dirty
        n += 1
        j, tries, whole = new("journal"), rnd.randrange(3), False
        for _ in range(tries):
            step = rnd.choice(("start", "chunk_put", "verify", "manifest", "manifest_put"))
            died = k.backup(s.port, n, image, small, journal=j, kill=(step, rnd.choice((1, 2))), **how) is None
            count("backup killed" if died else "backup too quick")
            whole |= not died or step == "manifest_put"  # its manifest is there
            if rnd.random() < 0.2:
                os.unlink(j)
                count("journal lost")
        if tries and rnd.random() < 0.25:  # nobody goes on with it; what is of it in the store is in the way of nobody
            count("backup given up")
            if whole:
                kept[n] = bytes(content)
            return
        r = k.backup(s.port, n, image, small, journal=j, **how)
        want(r["ok"], "seed", seed, r)
        kept[n], base, dirty = bytes(content), n, []

    def collects(drop):
        q = k.request(s.port, min_age_s=rnd.choice((0, 0, 0, 3600)), delete_manifests=[oid("snap", x) for x in drop], expect_manifests=[oid("snap", x) for x in kept])
        for _ in range(rnd.randrange(3)):
            died = k.killed("gc", q, [], (rnd.choice(("listed", "pruned", "deleting")), 1)) is None
            count("collection killed" if died else "collection too quick")
            there = [x["snapshot"]["snapshot_id"] for x in k.call("scan", k.request(s.port)).lines if "snapshot" in x]
            want({oid("snap", x) for x in kept if x not in drop} <= set(there), "seed", seed, "given up too much", there)
            q["expect_manifests"] = there
        g = k.call("gc", q)
        want(g["ok"], "seed", seed, g)
        count("collection")
        for x in drop:
            del kept[x]

    def restores(x):
        t, j = new("target"), new("journal")
        if rnd.random() < 0.3:
            step = (rnd.choice(("start", "chunk_written", "checkpoint", "done")), rnd.choice((1, 2)))
            count("restore killed" if k.restore(s.port, x, t, journal=j, kill=step) is None else "restore too quick")
            r = k.restore(s.port, x, t, journal=j)
            want(r["ok"] and bytes_of(t) == kept[x], "seed", seed, "snapshot", x, "differs after a kill at", step, r)
        else:
            want(restored(s.port, x) == kept[x], "seed", seed, "snapshot", x, "differs")

    for _ in range(rounds):
        for _ in range(rnd.randrange(1, 5)):
            at, length = rnd.randrange(small), rnd.choice((1, 700, 100000, 2 * CHUNK))
            length = min(length, small - at)
            content[at:at + length] = rnd.choice((bytes(length), rnd.randbytes(length), b"ab" * (length // 2) + b"c" * (length % 2)))
            dirty.append((at, length))
        with open(image, "wb") as f:
            f.write(content)
        how = {}
        if base in kept:
            how["base_snapshot_id"] = oid("snap", base)
            if rnd.random() < 0.7:
                how["ranges"] = list(dirty)
        saves(how)
        if len(kept) > 3 or rnd.random() < 0.3:
            collects([x for x in kept if x != base and (len(kept) > 3 or rnd.random() < 0.5)][:2])
        listed = [x["snapshot"]["snapshot_id"] for x in k.call("scan", k.request(s.port, check_chunks=True)).lines if "snapshot" in x]
        want(sorted(listed) == sorted(oid("snap", x) for x in kept), "seed", seed, listed)
        for x in rnd.sample(sorted(kept), min(2, len(kept))):
            restores(x)
    for x in kept:
        want(restored(s.port, x) == kept[x], "seed", seed, "snapshot", x, "differs in the end")
    print("  seed %d: %s" % (seed, ", ".join("%d %s" % (v, key) for key, v in sorted(did.items()))), flush=True)


def cached(path):
    return int(subprocess.run(["fincore", "-n", "-b", "-o", "PAGES", path], stdout=subprocess.PIPE, check=True).stdout)


def passes_by(s):
    """what a backup reads of an image it does not leave in memory, where the VMs' own blocks are"""
    wipe(s)
    if subprocess.run(["stat", "-f", "-c", "%T", scratch], stdout=subprocess.PIPE).stdout.strip() in (b"tmpfs", b"ramfs"):
        return "its files are memory"
    image = new("image")
    k.make_image(image, SIZE, 17)
    fd = os.open(image, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    bytes_of(image)
    want(cached(image) > 1000, "the measure sees nothing")
    for n, limit in ((1, None), (2, 64 << 20)):  # with the processors that there are, and with one
        r = k.backup(s.port, n, image, SIZE, store={"upload_limit_bytes": limit} if limit else {})
        want(r["ok"] and r["read_bytes"] > SIZE // 4, r)
        want(cached(image) <= 64, cached(image), "pages of", r["read_bytes"] // 4096, "are left")
    want(restored(s.port, 2) == bytes_of(image), "bytes")


def main():
    gw = moto = None
    try:
        gw, moto = k.Store("versitygw", scratch), k.Store("moto", scratch)
        for s, how in ((gw, {}), (moto, {}), (moto, {"style": "virtual"})):
            name = "the whole way against %s %s" % (s.kind, how.get("style", "path"))
            if how:
                how = dict(how, endpoint="http://localhost:%d" % s.port) if not s.why else how
            case(name, (lambda: s.why) if s.why else (lambda: whole_way(s, **how)))
        for name, fn in (("faults between us and moto", faults), ("kill -9 at every step, with moto", kills)):
            case(name, (lambda: moto.why) if moto.why else (lambda: fn(moto)))
        for name, fn in (("faults between us and the store", faults), ("kill -9 at every step", kills), ("kill -9 of the store at every step", store_dies), ("damaged objects", damage),
                         ("a chunk broken in the store, and healed", heals),
                         ("a target that holds a snapshot, limits, samples", migration), ("2 TiB within 64 MiB", biggest),
                         ("read, and not kept in memory", passes_by), ("confined, and nothing secret in memory", confined), ("TLS", tls), ("random histories", all_histories)):
            case(name, (lambda: gw.why) if gw.why else (lambda: fn(gw)))
    finally:
        for s in (gw, moto):
            if s:
                s.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
