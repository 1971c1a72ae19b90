#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The whole host is lost in the middle of a backup (SIGKILL of its QEMU), boots again on the same disk, and its agent goes on: no success that is
none, the image of the same moment, only what was not yet in the store is sent. Real LVM on the host's second disk, which holds the pool, the agent's folder
and, written through, what stands for the object store of somebody else.
COST 99 s, 131 s of processor."""
import hashlib
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import labkit  # noqa: E402
import agentkit as kit  # noqa: E402
import backupkit as bk  # noqa: E402
import test_lvm as lvm  # noqa: E402
from imagekit import Report, want  # noqa: E402

DISK, MIB, GIB = "/dev/vdb", 1 << 20, 1 << 30
NEW = 30  # chunks that the second backup has to send
FREE = 772 * MIB  # blocks that the filesystem has no use for from here on: its journal is in the middle, copies of its superblock in other groups
SENT = {1: 4, 2: 9}  # by boot: after so many uploads of the second backup the host is lost
STATE, STORE = "/data/state", "/data/store"


class Suite(lvm.Suite):
    guest = False

    def chunks_of(self, text):
        return [o for o in self.store.objects() if text in o]


def mount(first):
    with open("/etc/lvm/lvmlocal.conf", "w") as f:
        f.write(lvm.LVM_CONF)
    labkit.modprobe("dm_thin_pool")
    if first:
        kit.sh("vgcreate", "-q", lvm.VG, DISK)
        lvm.new_pool(4 << 10)
        for name in ("state", "store"):
            kit.sh("lvcreate", "-q", "-y", "-L", "1G", "-n", name, lvm.VG)
            kit.sh("mkfs.ext4", "-q", "/dev/%s/%s" % (lvm.VG, name))
    else:
        kit.sh("vgchange", "-ay", lvm.VG)
    for name, place, how in (("state", STATE, "defaults"), ("store", STORE, "sync")):
        os.makedirs(place, exist_ok=True)
        kit.sh("mount", "-o", how, "/dev/%s/%s" % (lvm.VG, name), place)


def digest(path):
    """of its length and of what is not zero, and where that is: most of it is, and hashing is what an emulated processor is slow at"""
    h, zero, at = hashlib.sha256(), bytes(lvm.BLOCK), 0
    with open(path, "rb", buffering=0) as f:
        for part in iter(lambda: f.read(lvm.BLOCK), b""):
            if part != zero:
                h.update(b"%d " % at + part)
            at += len(part)
    h.update(b"%d" % at)
    return h.hexdigest()


def begin(s):
    """A volume with one backup, then the second, until enough of it is sent. Returns what the next host has to know."""
    v = s.c.volume("data", GIB)
    s.c.publish()
    s.c.wait_volume(v["volume_id"], "provisioned", 300, result="ok")
    v["was_available"] = True
    s.write(v, 300 * MIB, os.urandom(16 * MIB))
    base = s.c.snapshot(v)
    s.c.wait_snapshot(base, "succeeded", 240)
    s.c.snapshot_over(base)
    for i in range(NEW):
        s.write(v, FREE + i * bk.CHUNK, os.urandom(MIB))
    reach(s, 1)
    j = s.c.snapshot(v, parent_snapshot_id=base["snapshot_id"])
    captured = s.c.wait_snapshot(j, "running", 300, phase="uploading")["captured_at_ms"]
    return {"volume": v, "job": j, "captured": captured, "digest": digest(s.image_of(v)), "cluster": s.c.cluster_id, "cursor": s.c.cursor}


def reach(s, boot):
    """The store takes so many chunks of this boot, and is silent then."""
    s.puts = []

    def fault(line):
        if line.startswith("PUT") and "/c/" in line:
            if boot in SENT and len(s.puts) >= SENT[boot]:
                return "503"
            s.puts.append(line)
        return None
    s.fault = fault


def tests():
    boot = int(os.environ["LAB_BOOT"])
    kept, report = os.path.join(STATE, "kept.json"), Report()
    mount(boot == 1)
    store = bk.Store("versitygw", STORE)
    os.environ["MOAT_TEST_TMP"] = STATE
    world = kit.World("crash", registry=False)
    known = {}
    if boot > 1:
        with open(kept) as f:
            known = json.load(f)
        world.dir, world.node_id = known["dir"], known["node"]
        world.log_path = os.path.join(world.dir, "agent-%d.log" % boot)  # the last line of the one before may be torn
        os.makedirs(os.path.join(world.dir, "run"), exist_ok=True)
        world.control = kit.Control(os.path.join(world.dir, "run/internal.sock"), world.node_id)
        world.control.cluster_id, world.control.cursor = known["cluster"], known["cursor"] + 1000 * boot
        world.control.extra = {"volumes": [known["volume"]], "snapshot_jobs": [known["job"]]}
    world.push = lambda: None
    s = Suite(world, store)
    try:
        s.write_conf()
        if boot == 1:
            s.start()
            known = dict(begin(s), dir=world.dir, node=world.node_id)
            with open(kept, "w") as f:
                json.dump(known, f)
                f.flush()
                os.fsync(f.fileno())
            kit.wait_for("uploads", lambda: len(s.puts) >= SENT[1], 240)
            want(s.chunks_of("/c/"), "nothing is in the store")
            print("# boot 1: %d chunks of the second backup are sent" % len(s.puts), flush=True)
            print("LAB-CRASH", flush=True)
            subprocess.run(["sleep", "600"])
        report.case("a host lost in the middle of a backup: boot %d" % boot, again, s, known, boot)
        if report.failed:
            print("agent log: " + world.tail(40), flush=True)
            return 1
        if boot in SENT:
            print("LAB-CRASH", flush=True)
            subprocess.run(["sleep", "600"])
    finally:
        if boot not in SENT:
            world.close()
            store.close()
    return 1 if report.failed else 0


def again(s, known, boot):
    j, v = known["job"], known["volume"]
    name = "/m/" + j["snapshot_id"]
    want(not [o for o in s.chunks_of(name)], "there is a manifest of a backup that did not end")
    want(s.snapshots().count(j["snapshot_id"]) == 1, "the image is lost: %s" % lvm.names())
    reach(s, boot)
    before = len(s.chunks_of("/c/"))
    s.start()
    r = s.c.wait_snapshot(j, "running", 300, phase="uploading")
    want(r["captured_at_ms"] == known["captured"], "another moment: %s, it was %s" % (r["captured_at_ms"], known["captured"]))
    if boot in SENT:
        kit.wait_for("uploads", lambda: len(s.puts) >= SENT[boot], 240)
        want(not [x for x in s.c.told_of(j["snapshot_id"]) if x["status"] != "running"], s.c.told_of(j["snapshot_id"]))
        print("# boot %d: %d more are sent" % (boot, len(s.puts)), flush=True)
        return
    r = s.c.wait_snapshot(j, "succeeded", 240)
    print("# boot %d: %d of %d were there, %d sent" % (boot, before, len(s.chunks_of("/c/")), len(s.puts)), flush=True)
    want(len(s.puts) < NEW, "all was sent again: %d" % len(s.puts))
    want(s.deltas()[-1] == 0, "a base of before a crash was believed")
    out = s.restored(j, r)
    want(digest(out) == known["digest"], "the store has other bytes than the moment of the snapshot")
    os.unlink(out)
    s.the_only_one(j["snapshot_id"])
    want(digest(s.image_of(v)) == known["digest"], "the volume changed")
    want(subprocess.run(["e2fsck", "-fn", s.image_of(v)], stdout=subprocess.PIPE).returncode == 0, "the volume is not whole")


if __name__ == "__main__":
    if not labkit.INSIDE:
        bk.versitygw()  # made where there is a network
    sys.exit(labkit.main(tests, "a host lost in the middle of a backup", disk_gib=8))
