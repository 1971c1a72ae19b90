#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshot jobs on a node: a moat-agent with a stand-in control plane, real QEMU microVMs, volumes on XFS, and versitygw as the store. Images of
a volume that is written to, whole and restored; deltas; guests that do not answer; kills, a store that is away, cancellation, removal. Restore jobs:
a new volume in a guest, larger ones, kills at each step, damage, proofs.

With MOAT_FS=btrfs the same on btrfs, by hand: the tier has its storage functions on both (tests/unit/agent/test_volume.c).
COST 236 s, 27 s of processor."""
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import backupkit as bk  # noqa: E402
from imagekit import Report, want  # noqa: E402

GIB = 1 << 30
FS_BYTES = 8 * GIB


def ask(address, path="", seconds=60):
    r = subprocess.run(["curl", "-6", "-s", "-m", str(seconds), "http://[%s]:8080/%s" % (address, path)], stdout=subprocess.PIPE)
    return r.stdout.decode()


def xfs(scratch, size=FS_BYTES, written=False):
    """A filesystem that clones, mounted where only this process and its children see it, in a file with no holes if @written; the reason why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 16384 | 1 << 18, None) != 0:
        return "no mount namespace"
    image = scratch + ".img"
    with open(image, "wb") as f:
        if written:
            for _ in range(size >> 20):
                f.write(bytes(1 << 20))
            os.fsync(f.fileno())
        f.truncate(size)
    mkfs = ["mkfs.btrfs", "-q", "-f", image] if os.environ.get("MOAT_FS") == "btrfs" else ["mkfs.xfs", "-K", "-q", "-m", "reflink=1", image]
    for argv in (mkfs, ["mount", "-o", "loop", image, scratch]):
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if r.returncode:
            return "%s: %s" % (argv[0], r.stdout.decode()[-200:])
    return None


class Suite:
    def __init__(self, world, store):
        self.w, self.c, self.store = world, world.control, store
        self.proxy = bk.Proxy(store.port, lambda n, line: self.fault(line))
        self.fault = lambda line: None
        self.image = world.push()
        self.dir = os.path.join(world.dir, "volumes")
        self.conf = os.path.join(world.dir, "backup.toml")

    def start(self, **more):
        self.w.start(fsck_user="nobody", storage={"backend": "reflink", "backup_file": self.conf}, limits={"patience": 6}, listen_metrics="127.0.0.1:9464", **more)

    def counted(self, name, **labels):
        """A sum of series of the agent's page; it is in a network of its own."""
        with urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=120) as r:
            lines = [l for l in r.read().decode().splitlines() if re.match(name + r"[{ ]", l) and all('%s="%s"' % x in l for x in labels.items())]
        want(lines, "nothing of %s %s" % (name, labels))
        return sum(float(l.rsplit(" ", 1)[1]) for l in lines)

    def write_conf(self):
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            f.write('endpoint = "http://127.0.0.1:%d"\nbucket = "%s"\nprefix = "p"\naccess_key = "%s"\nsecret_key = "%s"\ntries = 1\n'
                    % (self.proxy.port, bk.BUCKET, bk.ACCESS, bk.SECRET))

    def beat_says(self, ready):
        n = len(self.c.beats)
        kit.wait_for("backup_store %s" % ready, lambda: any(b.get("storage") and bool(b["storage"].get("backup_store")) == ready for b in self.c.beats[n:]), 20)

    def restored(self, job, told):
        """Path of the volume as the store has it, checked."""
        out = os.path.join(self.w.dir, "restored")
        fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        q = bk.request(self.store.port, snapshot_id=job["snapshot_id"], image_fd=fd, zeroed=True, image_root=told["image_root"], manifest_sha256=told["manifest_sha256"])
        q.update(cluster_id=self.c.cluster_id, org_id=job["org_id"], volume_id=job["volume_id"])
        q["store"]["prefix"] = "p"
        r = bk.call("restore", q, [fd])
        os.close(fd)
        want(r.get("ok"), r)
        return out

    def kept_in(self, image, clean=True):
        r = subprocess.run(["e2fsck", "-fn", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        want(r.returncode == 0 if clean else r.returncode in (0, 4), r.stdout.decode()[-400:])
        return subprocess.run(["debugfs", "-R", "cat /kept", image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()

    def files(self):
        return sorted(os.listdir(self.dir)) + sorted(f for f in os.listdir(os.path.join(self.w.dir, "backup")) if f != "clean")

    def snapshots(self):
        return [f[5:-4] for f in self.files() if f.startswith("snap-")]

    def the_only_one(self, snapshot_id):
        """The base of the next; the one before it goes after its end was told."""
        kit.wait_for("the image of %s, and no other" % snapshot_id, lambda: self.snapshots() == [snapshot_id], 40)

    def deltas(self):
        return [r["delta"] for r in self.w.log_events("backup.done")]

    def over(self, job):
        self.c.snapshot_over(job)
        self.last = job["snapshot_id"]

    def yielding(self, starved=0):
        """Is a moat-backup in the group of those that give way to the VMs, wholly? Asked while it waits for an answer of the store. One that got
        nothing for ten seconds, as on a machine that is always full, gives way mostly and says so: it said it @starved times before."""
        top, name = self.w.cgroup.rsplit("/", 1)
        group = "/sys/fs/cgroup/%s/backup.%s" % (("cpu/" if os.path.isdir("/sys/fs/cgroup/cpu") else "") + top.strip("/"), name)
        if os.path.exists(group + "/cpu.idle") and open(group + "/cpu.idle").read() != "1\n":
            try:
                kit.within("the word that it starved", lambda: len(self.w.log_events("backup.starved")) > starved, 5)
            except AssertionError:
                return False
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cgroup" % pid) as f:
                    if "%s/backup.%s\n" % (top, name) in f.read() and os.readlink("/proc/%s/exe" % pid).endswith("/moat-backup"):
                        return True
            except OSError:
                continue
        return False

    # -- cases, from basic to complex

    def a_store_is_told_when_there_is_one(self):
        self.start()
        self.beat_says(False)
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT, 0o644), "w") as f:
            f.write("endpoint = 1\n")
        kit.wait_for("the refusal", lambda: self.w.log_events("backup.store_refused"), 20)
        os.unlink(self.conf)
        self.write_conf()
        self.beat_says(True)

    def a_volume_that_is_written_to(self):
        v = self.v = self.c.volume()
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        v["was_available"] = True
        mounts = [{"volume_id": v["volume_id"], "name": v["name"], "path": "/data", "read_only": False, "filesystem": "ext4", "fs_uuid": v["fs_uuid"]}]
        wl = self.wl = self.w.workload(self.image, command=["/app", "keep", "/data", "beat"], memory=192, mounts=mounts)
        self.i, self.at = wl["instance_id"], wl["network"]["overlay_ipv6"]
        self.c.want(self.i, workload=wl)
        self.c.wait_status(self.i, "ready", 60)
        want(ask(self.at, "w/one").startswith("one |"), ask(self.at))
        ask(self.at, "max")
        alone = ask(self.at, "max") and [int(x) for x in (ask(self.at, "w/two") and ask(self.at, "max")).split()]
        j = self.c.snapshot(v)
        self.c.wait_snapshot(j, "running", phase="uploading")
        with_one = [int(x) for x in ask(self.at, "max").split()]
        ask(self.at, "rest")  # it goes on writing, but leaves the processor to the others of this run, the backup among them
        r = self.c.wait_snapshot(j, "succeeded")
        took = self.w.log_events("backup.captured")[-1]
        print("  longest write + fsync in the guest: %.1f ms of %d with a snapshot, %.1f ms of %d without; held still for %.1f ms, %.1f of them the image's"
              % (with_one[0] / 1e3, with_one[1], alone[0] / 1e3, alone[1], took["held_us"] / 1e3, took["image_us"] / 1e3), flush=True)
        want(r["consistency"] == "filesystem" and r["size_bytes"] == GIB and r["uploaded_bytes"] > 0, r)
        want(not self.w.log_events("backup.not_captured"), self.w.tail())
        seen = [(x["status"], x.get("phase")) for x in self.c.told_of(j["snapshot_id"])]
        want(("running", "uploading") in seen and seen == sorted(seen, key=lambda x: (x[0] != "running", ["capturing", "uploading", "verifying", None].index(x[1]))), seen)
        want(self.kept_in(self.restored(j, r)).startswith("one two"), "other data in the store")
        self.the_only_one(j["snapshot_id"])
        want(any(o.endswith("/k/1") for o in self.store.objects()), "no wrapped key in the store")
        for what in ("snapshots", "backups"):
            want(self.counted("moat_agent_%s_total" % what) == self.counted("moat_agent_%s_total" % what, result="succeeded", reason="none") == 1, what)
        want(self.counted("moat_agent_backup_bytes_total", kind="uploaded") == r["uploaded_bytes"] and self.counted("moat_agent_backup_seconds_count", result="succeeded") == 1, "bytes")
        want(self.counted("moat_agent_backup_bytes_total", kind="read") + self.counted("moat_agent_backup_bytes_total", kind="deduplicated") >= r["changed_bytes"] > 0, r)
        want(self.counted("moat_agent_volume_attach_total", result="ok") == self.counted("moat_agent_volume_attach_seconds_count") == 1, "attached")
        want(self.counted("moat_agent_pool_bytes", kind="total") > self.counted("moat_agent_pool_bytes", kind="used") > 0, "the pool")
        self.over(j)
        self.early = j["snapshot_id"]
        want(ask(self.at, "w/three").startswith("one two three |"), "the volume does not take writes any more")

    def the_next_reads_what_changed(self):
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        r = self.c.wait_snapshot(j, "succeeded")
        want(self.deltas()[-1] == 1 and r["parent_snapshot_id"] == self.last and r["changed_bytes"] < 200 << 20, (self.deltas(), r))
        want("three" in self.kept_in(self.restored(j, r)), "other data in the store")
        self.the_only_one(j["snapshot_id"])
        self.over(j)

    def a_full_read_when_it_is_asked_for(self):
        seen, starved = [], len(self.w.log_events("backup.starved"))
        self.fault = lambda line: seen.append(self.yielding(starved))
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last, full_read=True)
        self.c.wait_snapshot(j, "succeeded")
        self.fault = lambda line: None
        want(self.deltas()[-1] == 0, self.deltas())
        want(seen and all(seen), "a backup does not give way to the VMs: %s" % seen)
        self.over(j)

    def a_guest_that_does_not_answer_holds_nothing_up(self):
        vmm = [p for p, exe in self.w.vm_processes().items() if exe.startswith("qemu")][0]
        os.kill(vmm, signal.SIGSTOP)
        try:
            j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
            r = self.c.wait_snapshot(j, "running", phase="uploading")
        finally:
            os.kill(vmm, signal.SIGCONT)
        want(r["consistency"] == "crash", r)
        r = self.c.wait_snapshot(j, "succeeded")
        want("three" in self.kept_in(self.restored(j, r), clean=False), "other data in the store")
        self.over(j)
        want(ask(self.at, "w/four").startswith("one two three four |"), "the volume stays frozen")

    def killed_while_it_uploads(self):
        reached = []
        self.fault = lambda line: (reached.append(line), "cut")[1] if line.startswith("PUT") else None
        ask(self.at, "w/five")
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        before = self.c.wait_snapshot(j, "running", phase="uploading")
        kit.wait_for("an upload", lambda: reached, 30)
        self.w.kill()
        self.fault = lambda line: None
        self.start()
        r = self.c.wait_snapshot(j, "succeeded")
        want(r["captured_at_ms"] == before["captured_at_ms"] and r["consistency"] == "filesystem", (before, r))
        want("five" in self.kept_in(self.restored(j, r)), "other data in the store")
        want(self.deltas()[-1] == 0, "a base of before a kill was believed")
        self.the_only_one(j["snapshot_id"])
        kit.wait_for("the end of its journal", lambda: not [f for f in self.files() if f.endswith(".jnl")], 20)
        self.over(j)

    def a_success_that_was_not_told_is_told_by_the_next_agent(self):
        self.c.fail = 503
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        n = len(self.deltas())
        kit.wait_for("the backup", lambda: len(self.deltas()) > n, 60)
        kit.wait_for("its image as the base", lambda: self.snapshots() == [j["snapshot_id"]], 20)
        self.w.kill()
        self.c.fail = 0
        self.start()
        r = self.c.wait_snapshot(j, "succeeded")
        want("five" in self.kept_in(self.restored(j, r)), "other data in the store")
        self.over(j)

    def a_store_and_a_key_that_are_away_are_waited_for(self):
        self.fault = lambda line: "503"
        self.c.keyless = 503
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        kit.wait_for("a try without a key", lambda: [r for r in self.w.log_events("backup.run_failed") if r["snapshot_id"] == j["snapshot_id"]], 30)
        self.c.keyless = 0
        kit.wait_for("a try without a store", lambda: [r for r in self.w.log_events("backup.run_failed") if r["reason"] == "backup_store_unreachable"], 30)
        want(self.c.told_of(j["snapshot_id"])[-1]["status"] == "running", self.c.told_of(j["snapshot_id"])[-1])
        self.fault = lambda line: None
        self.c.wait_snapshot(j, "succeeded", 60)
        self.over(j)

    # -- restores

    def image_of(self, v):
        return os.path.join(self.dir, "vol-%s.img" % v["volume_id"])

    def size_of(self, v):
        return os.path.getsize(self.image_of(v))

    def whole(self, j, v, r, size=GIB):
        """What the job told is what lies there, and nothing else of it does."""
        want("five" in self.kept_in(self.image_of(v)), "other data in the new volume")
        out = kit.sh("dumpe2fs", "-h", self.image_of(v))
        want(r["fs_uuid"] == self.v["fs_uuid"] and r["fs_uuid"] in out and self.size_of(v) == size, (r, out))
        want("Block count:              %d" % (size // 4096) in out, out)
        self.c.restore_over(j, v, r)
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok", fs_uuid=r["fs_uuid"])
        self.nothing_begun()

    def nothing_begun(self):
        known = [v["volume_id"] for v in self.c.extra["volumes"]]

        def begun():
            return [f for f in self.files() if f.endswith((".part", ".rjl", ".tmp")) or f.endswith(".lock") and f[:-5] not in known]
        try:  # who looks whether something is left has the lock meanwhile, and asking LVM takes a second in the lab
            kit.wait_for("the end of what was begun", lambda: not begun(), 30, 0.1)
        except AssertionError as e:
            raise AssertionError("%s: %s of %s" % (e, begun(), self.files())) from None

    def removed(self, v):
        v["desired"] = "absent"
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "deleted")
        kit.wait_for("the end of all its files", lambda: not [f for f in self.files() if v["volume_id"] in f], 20)
        self.c.extra["volumes"].remove(v)

    def a_backup_becomes_a_new_volume_that_a_guest_has(self):
        self.beat_says(True)
        want(self.c.beats[-1]["storage"]["restores"], self.c.beats[-1]["storage"])
        j, v = self.c.restore(self.v, self.last)
        r = self.c.wait_restore(j, "succeeded")
        seen = [(x["status"], x.get("phase")) for x in self.c.told_of(j["restore_id"], "restore_id")]
        order = [("running", "downloading"), ("running", "checking"), ("succeeded", None)]
        want(seen == sorted(seen, key=order.index) and ("running", "downloading") in seen and r["bytes_done"] == GIB, seen)
        want(not [x for x in self.c.storage if x.get("volume_id") == v["volume_id"]], "told of as a volume before the end of its job was known")
        self.whole(j, v, r)
        mounts = [{"volume_id": v["volume_id"], "name": v["name"], "path": "/data", "read_only": False, "filesystem": "ext4", "fs_uuid": r["fs_uuid"]}]
        wl = self.w.workload(self.image, command=["/app", "keep", "/data"], memory=96, mounts=mounts)
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", 60)
        got = ask(wl["network"]["overlay_ipv6"], "w/back")
        want(got.startswith("one two three four five back |"), got)
        want(ask(self.at).startswith("one two three four five |"), "the source changed")
        self.c.want(wl["instance_id"], "stopped")
        self.c.wait_status(wl["instance_id"], "stopped", 30)
        self.c.drop(wl["instance_id"])
        self.removed(v)

    def killed_at_each_step_of_a_restore_into_a_larger_one(self):
        size = GIB + (128 << 20)
        steps = ["volume.restore_" + s for s in ("reserved", "fetched", "checked", "named")]
        self.w.kill()
        self.start(env={"MT_TEST_KILL_STEP": steps[0]})
        j, v = self.c.restore(self.v, self.last, size=size)
        for next in steps[1:] + [None]:
            want(self.w.ended(60) == -9, "the agent did not die before " + str(next))
            want(not [x for x in self.c.told_of(j["restore_id"], "restore_id") if x["status"] != "running"], self.c.told_of(j["restore_id"], "restore_id"))
            self.start(ready=next is None, env={"MT_TEST_KILL_STEP": next} if next else None)
        self.whole(j, v, self.c.wait_restore(j, "succeeded"), size)
        fetched = [(x["chunks_skipped"], x["bytes_fetched"]) for x in self.w.log_events("restore.fetched") if x["restore_id"] == j["restore_id"]]
        want(len(fetched) == 3 and fetched[0][1] > 0 and fetched[1][1] == 0 and fetched[2][1] == 0, fetched)
        self.removed(v)

    def a_move_is_a_pre_copy_and_what_differs(self):
        """The whole of a migration as its node sees it, killed at every step; the process is at rest for the last round."""
        older = self.early
        self.w.kill()
        self.start(env={"MT_TEST_KILL_STEP": "volume.restore_fetched"})
        j, v = self.c.restore(self.v, older, precopy=True)
        want(self.w.ended(60) == -9, "the agent did not die")
        self.start()
        r = self.c.wait_restore(j, "succeeded")
        want(r["fs_uuid"] == self.v["fs_uuid"] and not [x for x in self.c.told_of(j["restore_id"], "restore_id") if x.get("phase") == "checking"], self.c.told_of(j["restore_id"], "restore_id"))
        want([f for f in self.files() if v["volume_id"] in f and f.endswith(".part")] and not os.path.exists(self.image_of(v)), self.files())
        j["done"] = True
        self.c.publish()
        self.w.kill()  # the next agent keeps it for as long as the plan has the job
        self.start()
        seen = []
        self.fault = lambda line: seen.append(self.yielding())
        s = self.c.snapshot(self.v, origin="migration")
        told = self.c.wait_snapshot(s, "succeeded")
        self.fault = lambda line: None
        want(seen and not any(seen), "a process that stands still waits for others: %s" % seen)
        self.over(s)
        want([f for f in self.files() if f.endswith(".part")] and j["restore_id"] + ".rjl" in self.files(), self.files())
        v["from_restore"] = kit.new_id("rst")
        k = dict(j, restore_id=v["from_restore"], snapshot_id=s["snapshot_id"], base_restore_id=j["restore_id"], base_snapshot_id=older)
        del k["precopy"], k["done"]
        steps = ["volume.restore_" + x for x in ("reserved", "fetched", "checked", "named")]
        self.w.kill()
        self.start(env={"MT_TEST_KILL_STEP": steps[0]})
        self.c.extra["restore_jobs"] = sorted([j, k], key=lambda x: x["restore_id"])
        self.c.publish()
        for next in steps[1:] + [None]:
            want(self.w.ended(60) == -9, "the agent did not die before " + str(next))
            self.start(ready=next is None, env={"MT_TEST_KILL_STEP": next} if next else None)
        r = self.c.wait_restore(k, "succeeded")
        exact = self.restored(s, told)
        bad = subprocess.run(["cmp", "-l", exact, self.image_of(v)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.splitlines()
        at = [int(x.split()[0]) - 1 for x in bad]
        want(not [x for x in at if not 1024 <= x < 2048], "other bytes than those of the last snapshot, at %s" % at[:20])  # but for the check's own note in the superblock
        want("five" in self.kept_in(self.image_of(v)), "other data in the new volume")
        got = [x for x in self.w.log_events("restore.fetched") if x["restore_id"] == k["restore_id"]]
        all_chunks = GIB // (4 << 20)
        want(got and 0 < got[0]["bytes_fetched"] <= 16 << 20 and got[-1]["bytes_fetched"] == 0, (got, all_chunks))
        self.c.restore_over(k, v, r)
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok", fs_uuid=r["fs_uuid"])
        self.c.extra["restore_jobs"].remove(j)
        self.c.publish()
        self.nothing_begun()
        self.removed(v)

    def a_move_that_is_given_up_leaves_nothing(self):
        for cancel in (False, True):  # the job goes from the plan; or its volume is to go
            j, v = self.c.restore(self.v, self.last, precopy=True)
            self.c.wait_restore(j, "succeeded")
            j["done"] = True
            self.c.publish()
            want([f for f in self.files() if f.endswith(".part")], self.files())
            if cancel:
                j["cancel"], v["desired"] = True, "absent"
                self.c.publish()
                self.c.wait_volume(v["volume_id"], "deleted")
            self.c.extra["restore_jobs"].remove(j)
            self.c.extra["volumes"].remove(v)
            self.c.publish()
            self.nothing_begun()

    def killed_while_it_downloads(self):
        reached = []
        self.fault = lambda line: (reached.append(line), "cut")[1] if "/c/" in line else None
        j, v = self.c.restore(self.v, self.last)
        kit.wait_for("a download", lambda: reached, 30)
        self.w.kill()
        self.fault = lambda line: None
        self.start()
        self.whole(j, v, self.c.wait_restore(j, "succeeded"))
        self.removed(v)

    def parts_that_no_plan_wants_go(self):
        self.fault = lambda line: "503"
        j, v = self.c.restore(self.v, self.last)
        kit.wait_for("a try without a store", lambda: [r for r in self.w.log_events("restore.run_failed") if r["restore_id"] == j["restore_id"]], 30)
        want([f for f in self.files() if f.endswith(".part")] and self.c.told_of(j["restore_id"], "restore_id")[-1]["status"] == "running", self.files())
        self.w.kill()
        self.c.restore_over(j, v, {"status": "failed"})
        self.start()
        kit.wait_for("the end of the part", lambda: not [f for f in self.files() if f.endswith((".part", ".rjl"))], 20)
        self.fault = lambda line: None

    def one_whose_volume_is_deleted_is_cancelled(self):
        self.fault = lambda line: "503"
        j, v = self.c.restore(self.v, self.last)
        self.c.wait_restore(j, "running", phase="downloading")
        j["cancel"], v["desired"] = True, "absent"
        self.c.publish()
        r = self.c.wait_restore(j, "failed")
        want(r["failed_reason"] == "cancelled" and not r["snapshot_damaged"], r)
        self.c.wait_volume(v["volume_id"], "deleted")
        kit.wait_for("the end of all its files", lambda: not [f for f in self.files() if v["volume_id"] in f], 20)
        self.fault = lambda line: None
        self.c.restore_over(j, v, r)

    def a_damaged_backup_is_told_and_leaves_nothing(self):
        # one that this backup has for sure: it came with it
        had = set(self.store.objects())
        ask(self.at, "w/fresh")
        s = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        self.c.wait_snapshot(s, "succeeded")
        self.over(s)
        size, chunk = max((size, key) for key, size in self.store.objects().items() if self.v["volume_id"] in key and "/c/" in key and key not in had)
        path, at = self.store.path(chunk), size // 2
        with open(path, "r+b") as f:
            f.seek(at)
            kept = f.read(1)
            f.seek(at)
            f.write(bytes([kept[0] ^ 1]))
        try:
            j, v = self.c.restore(self.v, self.last)
            r = self.c.wait_restore(j, "failed")
            want(r["failed_reason"] == "integrity_check_failed" and r["snapshot_damaged"], r)
            want(not os.path.exists(self.image_of(v)), self.files())
            self.c.restore_over(j, v, r)
            self.nothing_begun()
        finally:
            with open(path, "r+b") as f:
                f.seek(at)
                f.write(kept)

    def what_cannot_be_restored_is_told(self):
        for snapshot, size, reason in ((kit.new_id("snap"), GIB, "snapshot_not_found"), (self.last, 1 << 41, "no_capacity")):
            j, v = self.c.restore(self.v, snapshot, size=size)
            r = self.c.wait_restore(j, "failed")
            want(r["failed_reason"] == reason and not r["snapshot_damaged"], r)
            self.c.restore_over(j, v, r)
            self.nothing_begun()
            want(self.counted("moat_agent_restores_total", result="failed", reason=reason) >= 1, reason)
        for what in ("snapshots", "backups", "restores"):
            want(self.counted("moat_agent_%s_total" % what, reason="other") == 0, "a reason that the page does not know")

    def a_proof_is_told_and_leaves_nothing(self):
        for step in ("volume.restore_checked", None):  # also one whose agent is killed in the middle
            self.w.kill()
            self.start(ready=step is None, env={"MT_TEST_KILL_STEP": step} if step else None)
            if step:
                j, v = self.c.restore(self.v, self.last, proof=True)
                want(self.w.ended(60) == -9, "the agent did not die")
                want([f for f in self.files() if f.endswith(".part")], self.files())
        r = self.c.wait_restore(j, "succeeded")
        want(r["fs_uuid"] == self.v["fs_uuid"] and r["bytes_done"] == GIB, r)
        want(not os.path.exists(self.image_of(v)) and not [x for x in self.c.storage if x.get("volume_id") == v["volume_id"]], self.files())
        self.c.restore_over(j, v, r)
        self.nothing_begun()

    def a_proof_finds_a_filesystem_that_is_not_whole(self):
        """each byte of it is as it was stored: the volume was broken before"""
        v = self.c.volume("broken")
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        v["was_available"] = True
        kit.sh("debugfs", "-w", "-R", "clri <2>", self.image_of(v))
        s = self.c.snapshot(v)
        self.c.wait_snapshot(s, "succeeded")
        self.c.snapshot_over(s)
        j, n = self.c.restore(v, s["snapshot_id"], proof=True)
        r = self.c.wait_restore(j, "failed")
        want(r["failed_reason"] == "fsck_failed" and not r["snapshot_damaged"], r)
        self.c.restore_over(j, n, r)
        self.nothing_begun()
        self.removed(v)

    # -- and the end

    def one_that_is_cancelled_leaves_nothing(self):
        self.fault = lambda line: "503"
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        self.c.wait_snapshot(j, "running", phase="uploading")
        j["cancel"] = True
        self.c.publish()
        r = self.c.wait_snapshot(j, "failed")
        want(not [x for x in self.c.told_of(j["snapshot_id"]) if x["status"] == "succeeded"], self.c.told_of(j["snapshot_id"]))
        want(r["failed_reason"] == "cancelled", r)
        self.the_only_one(self.last)
        self.fault = lambda line: None
        self.c.snapshot_over(j)

    def one_of_a_volume_that_is_not_here(self):
        j = self.c.snapshot(dict(self.v, volume_id=kit.new_id("vol")))
        want(self.c.wait_snapshot(j, "failed")["failed_reason"] == "preflight_failed:volume_not_found_on_node", self.c.told_of(j["snapshot_id"]))
        self.c.snapshot_over(j)

    def a_volume_at_rest(self):
        self.c.want(self.i, "stopped")
        self.c.wait_status(self.i, "stopped", 30)
        self.c.drop(self.i)
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        r = self.c.wait_snapshot(j, "succeeded")
        want(r["consistency"] == "filesystem", r)
        want("five" in self.kept_in(self.restored(j, r)), "other data in the store")
        self.over(j)

    def removed_with_its_snapshots(self):
        self.fault = lambda line: "503"
        j = self.c.snapshot(self.v, parent_snapshot_id=self.last)
        self.c.wait_snapshot(j, "running", phase="uploading")
        self.v["desired"] = "absent"
        self.c.publish()
        self.c.wait_volume(self.v["volume_id"], "deleted")
        r = self.c.wait_snapshot(j, "failed")
        want(r["failed_reason"] == "cancelled", r)
        left = lambda: [f for f in self.files() if not f.startswith("vol_") or self.v["volume_id"] in f]
        kit.wait_for("the end of all of it, of %s" % left(), lambda: not left(), 20)
        got, rc = self.w.stop_all()
        want(rc == 0 and got[0]["clean"], (got, rc))


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - backups of an agent: needs root")
        return 0
    scratch = tempfile.mkdtemp(prefix="mx", dir="/tmp")  # short: sockets of jails are below it
    objects = tempfile.mkdtemp(prefix="mt-objects-", dir="/var/tmp")
    world = store = None
    try:
        why = bk.versitygw()[1]  # made where there is a network
        kit.own_network()
        why = why or xfs(scratch)
        if why:
            print("skip - backups of an agent: %s" % why)
            return 0
        store = bk.Store("versitygw", objects)
        os.chmod(scratch, 0o755)
        os.environ["MOAT_TEST_TMP"] = scratch
        world = kit.World("b")
        world.bundle()
        boot = os.path.join(world.dir, "boot")  # kernel and init enter a jail as links: one filesystem
        given = os.path.realpath(boot)
        os.unlink(boot)
        shutil.copytree(given, boot, symlinks=True)
        s = Suite(world, store)
        for fn in (s.a_store_is_told_when_there_is_one, s.a_volume_that_is_written_to, s.the_next_reads_what_changed, s.a_full_read_when_it_is_asked_for,
                   s.a_guest_that_does_not_answer_holds_nothing_up, s.killed_while_it_uploads, s.a_success_that_was_not_told_is_told_by_the_next_agent,
                   s.a_store_and_a_key_that_are_away_are_waited_for, s.a_backup_becomes_a_new_volume_that_a_guest_has,
                   s.killed_at_each_step_of_a_restore_into_a_larger_one, s.killed_while_it_downloads, s.parts_that_no_plan_wants_go,
                   s.one_whose_volume_is_deleted_is_cancelled, s.a_damaged_backup_is_told_and_leaves_nothing, s.what_cannot_be_restored_is_told,
                   s.a_proof_is_told_and_leaves_nothing, s.a_proof_finds_a_filesystem_that_is_not_whole, s.one_that_is_cancelled_leaves_nothing, s.one_of_a_volume_that_is_not_here,
                   s.a_volume_at_rest, s.a_move_is_a_pre_copy_and_what_differs, s.a_move_that_is_given_up_leaves_nothing, s.removed_with_its_snapshots):
            report.case("backups: " + fn.__name__.replace("_", " "), fn)
            s.fault, s.c.fail, s.c.keyless = (lambda line: None), 0, 0  # also when it failed
            if report.failed and not hasattr(s, "last"):
                break  # without a first one there is nothing for the others to begin with
        if report.failed:
            print("agent log: " + world.tail(30), flush=True)
    finally:
        if world:
            world.close()
        if store:
            store.close()
        subprocess.run(["umount", "-l", scratch], stderr=subprocess.DEVNULL)
        for d in (scratch, objects):
            shutil.rmtree(d, ignore_errors=True)
        if os.path.exists(scratch + ".img"):
            os.unlink(scratch + ".img")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
