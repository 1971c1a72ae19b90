#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Volumes in an LVM thin pool on a real host: a moat-agent with a stand-in control plane, versitygw as the store. What only this kind of storage has: deltas by
thin_delta, the pool's rules, what a pool that is full does, and agents killed between a snapshot and its record. No guest takes part: those are in
test_lvm_guest.py, beside the cases of tests/scenario/test_agent_backups.py, which hold here too.
COST 299 s, 246 s of processor."""
import json
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import labkit  # noqa: E402
import agentkit as kit  # noqa: E402
import backupkit as bk  # noqa: E402
import test_agent_backups as files  # noqa: E402
from imagekit import Report, want  # noqa: E402

# No udev in a lab host: device nodes are made by LVM itself.
LVM_CONF = """activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 thin_pool_autoextend_threshold=100 }
devices { obtain_device_list_from_udev=0 }
backup { backup=0 archive=0 }
"""
MIB, GIB = 1 << 20, 1 << 30
VG, POOL = "moat", "vols"
BLOCK = 128 << 10


def lvs(columns, *what):
    out = subprocess.run(["lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o", columns, *(what or (VG,))],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return [[f.strip() for f in line.split("|")] for line in out.splitlines()]


def names():
    return sorted(r[0] for r in lvs("lv_name") if r[0] != POOL)


def make_pool(place, gib=6):
    """A group with a pool on a loop device of a sparse file below @place."""
    labkit.modprobe("loop", "dm_thin_pool")
    with open("/etc/lvm/lvmlocal.conf", "w") as f:
        f.write(LVM_CONF)
    image = os.path.join(place, "pv.img")
    if not os.path.exists(image):
        with open(image, "wb") as f:
            f.truncate((gib + 1) * GIB)
    loop = kit.sh("losetup", "--find", "--show", image).strip()
    if not subprocess.run(["vgs", VG], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        kit.sh("vgcreate", "-q", VG, loop)
    return loop


def new_pool(mib, zero="y", full="y", discards="passdown"):
    """lvcreate of LVM 2.03.16 knows --errorwhenfull of its manual, and refuses it: another command sets it, and refuses what is so already."""
    kit.sh("lvcreate", "-q", "-y", "--type", "thin-pool", "-L", "%dM" % mib, "-c", "128k", "--zero", zero, "--discards", discards, "-n", POOL, VG)
    if full == "y":
        kit.sh("lvchange", "-q", "--errorwhenfull", full, "%s/%s" % (VG, POOL))


class Suite(files.Suite):
    """Those of files, whose names are those of logical volumes here."""

    def start(self, ready=True, env=None):
        more = {"programs.firecracker": "/nowhere/firecracker"} if self.guest else self.w.stand_in()
        self.w.start(ready=ready, env=env, vmm="auto" if self.guest else "qemu", fsck_user="nobody", storage={"backend": "lvm-thin", "backup_file": self.conf},
                     listen_metrics="127.0.0.1:9464",
                     **dict({"limits.patience": 30, "reserve.memory_bytes": 256 << 20}, **more))

    def image_of(self, v):
        return "/dev/%s/vol-%s" % (VG, v["volume_id"])

    def size_of(self, v):
        return next(int(r[1]) for r in lvs("lv_name,lv_size") if r[0] == "vol-" + v["volume_id"])

    def files(self):
        return names() + sorted(f for f in os.listdir(self.dir) if f not in ("lvm-thin", "delta.lock")) + \
            sorted(f for f in os.listdir(os.path.join(self.w.dir, "backup")) if f != "clean")

    def snapshots(self):
        return [n[5:] for n in names() if n.startswith("snap-")]

    def write(self, v, at, data):
        fd = os.open(self.image_of(v), os.O_WRONLY)
        try:
            os.pwrite(fd, data, at)
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- cases

    def the_pool_has_to_keep_tenants_apart(self):
        """each refusal names the command that mends it, and that command mends it"""
        os.environ["PATH"] += ":/sbin"
        for wrong, said, mend in ((None, "lvcreate --type thin-pool", None), ({"zero": "n"}, "does not zero blocks", "--zero y"),
                                  ({"full": "n"}, "wait when it is full", "--errorwhenfull y"), ({"discards": "ignore"}, "ignores discards", None)):
            if wrong:
                new_pool(512, **wrong)
            self.start()
            beat = kit.wait_for("a heartbeat", lambda: self.c.beats and self.c.beats[-1], 60)
            want(not beat["storage"]["healthy"] and beat["storage"]["backend"] == "lvm-thin" and said in beat["storage"]["reason"], beat["storage"])
            rows = {f["check"]: f for f in self.w.ask({"op": "doctor"})}
            want(said in json.dumps(rows["agent.storage"]) and "thin-provisioning-tools" in json.dumps(rows["agent.storage"]), rows["agent.storage"])
            self.w.kill()
            self.c.beats.clear()
            if mend:
                want("lvchange %s moat/vols" % mend in beat["storage"]["reason"], beat["storage"]["reason"])
                kit.sh("lvchange", "-q", *mend.split(), "moat/vols")
                self.start()
                beat = kit.wait_for("a heartbeat", lambda: self.c.beats and self.c.beats[-1], 60)
                want(beat["storage"]["healthy"], beat["storage"])
                rows = {f["check"]: f for f in self.w.ask({"op": "doctor"})}
                want("not encrypted" in json.dumps(rows["agent.storage"]) and "dm-crypt" in json.dumps(rows["agent.storage"]), rows["agent.storage"])
                self.w.kill()
                self.c.beats.clear()
            if wrong:
                kit.sh("lvremove", "-y", "moat/vols")
        new_pool(2560)

    def a_delta_is_what_changed(self):
        """by hand, in a volume that no guest has: the ranges that are read are the blocks of the pool that were written to, and no others"""
        v = self.c.volume("hand", 1 << 30)
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        v["was_available"] = True
        self.write(v, 512 * MIB, os.urandom(8 * MIB))
        base = self.c.snapshot(v)
        r = self.c.wait_snapshot(base, "succeeded", 120)
        self.c.snapshot_over(base)
        for at in (512 * MIB, 514 * MIB + 4096, 700 * MIB, 900 * MIB + BLOCK - 512):  # within what was there, and where nothing was
            self.write(v, at, os.urandom(1024))
        subprocess.run(["blkdiscard", "-f", "-o", str(518 * MIB), "-l", str(MIB), self.image_of(v)], check=True)
        blocks = {at // BLOCK for at in (512 * MIB, 514 * MIB + 4096, 700 * MIB, 900 * MIB + BLOCK - 512, 900 * MIB + BLOCK)} | \
            set(range(518 * MIB // BLOCK, 519 * MIB // BLOCK))
        self.fault = lambda line: "503"  # so that both are there for a look
        j = self.c.snapshot(v, parent_snapshot_id=base["snapshot_id"])
        self.c.wait_snapshot(j, "running", 120, phase="uploading")
        kit.wait_for("a try without a store", lambda: [x for x in self.w.log_events("backup.run_failed") if x["snapshot_id"] == j["snapshot_id"]], 60)
        told = self.delta(self.thin("snap-" + base["snapshot_id"]), self.thin("snap-" + j["snapshot_id"]))
        want(told == blocks, "the pool says %s, changed are %s" % (sorted(told), sorted(blocks)))
        self.fault = lambda line: None
        r = self.c.wait_snapshot(j, "succeeded", 120)
        want(self.deltas()[-1] == 1, "a full read")
        chunks = {b * BLOCK // bk.CHUNK for b in blocks}
        want(r["changed_bytes"] == len(chunks) * bk.CHUNK, "%d bytes for %d chunks" % (r["changed_bytes"], len(chunks)))
        want(self.same(self.restored(j, r), self.image_of(v)), "the store has other bytes than the volume")
        self.c.snapshot_over(j)
        held = lambda: subprocess.run(["dmsetup", "status", "moat-vols-tpool"], stdout=subprocess.PIPE, text=True).stdout.split()
        kit.wait_for("no frozen copy of the pool's metadata", lambda: held()[6] == "-", 60, 0.5)
        self.hand = v

    def thin(self, name):
        return next(r[1] for r in lvs("lv_name,thin_id") if r[0] == name)

    def delta(self, a, b):
        kit.sh("dmsetup", "message", "moat-vols-tpool", "0", "reserve_metadata_snap")
        try:
            import xml.etree.ElementTree as xml
            top = xml.fromstring(kit.sh("thin_delta", "-m", "--thin1", a, "--thin2", b, "/dev/mapper/moat-vols_tmeta"))
        finally:
            kit.sh("dmsetup", "message", "moat-vols-tpool", "0", "release_metadata_snap")
        want(int(top.get("data_block_size")) * 512 == BLOCK, top.attrib)
        return {n for e in top.find("diff") if e.tag != "same" for n in range(int(e.get("begin")), int(e.get("begin")) + int(e.get("length")))}

    @staticmethod
    def same(a, b):
        return subprocess.run(["cmp", a, b]).returncode == 0

    def killed_between_a_snapshot_and_its_record(self):
        v = self.hand
        base = self.snapshots()
        for cancel in (True, False):
            self.w.kill()
            self.start(env={"MT_TEST_KILL_STEP": "volume.snapped"})
            j = self.c.snapshot(v)
            want(self.w.ended(300) == -9, "the agent did not die")
            want(len(self.snapshots()) == len(base) + 1, self.snapshots())
            j["cancel"] = cancel
            self.c.publish()
            self.start()
            if cancel:
                want(self.c.wait_snapshot(j, "failed", 120)["failed_reason"] == "cancelled", self.c.told_of(j["snapshot_id"]))
                kit.wait_for("nothing but %s" % base, lambda: self.snapshots() == base, 60, 0.5)
            else:
                r = self.c.wait_snapshot(j, "succeeded", 120)
                want(self.same(self.restored(j, r), self.image_of(v)), "the store has other bytes than the volume")
                kit.wait_for("its image in the place of the base", lambda: (lambda now: j["snapshot_id"] in now and len(now) == len(base))(self.snapshots()), 60, 0.5)
            self.c.snapshot_over(j)

    def killed_in_the_middle_of_lvcreate(self):
        """at moments that nobody chose: what is left is a snapshot that the next agent takes, or none"""
        v, base = self.hand, self.snapshots()
        for ms in (0, 40, 120, 250):
            j = self.c.snapshot(v)
            self.c.wait_snapshot(j, "running", 60)
            time.sleep(ms / 1000)  # the moment, not a wait for something
            self.w.kill()
            j["cancel"] = True
            self.c.publish()
            self.start()
            self.c.wait_snapshot(j, "failed", 120)
            kit.wait_for("nothing but the base", lambda: self.snapshots() == base, 60)
            self.c.snapshot_over(j)

    def a_full_pool_is_told_and_survived(self):
        """filled by hand in a volume of somebody else; what is kept for backups goes first, a backup that runs with it, then writes fail at once and the
        node says so, at each step"""
        v = self.hand
        w = self.c.volume("busy", GIB)
        self.c.publish()
        self.c.wait_volume(w["volume_id"], "provisioned", result="ok")
        w["was_available"] = True
        self.c.publish()
        self.fault = lambda line: "503"
        running = self.c.snapshot(w)
        self.c.wait_snapshot(running, "running", 120, phase="uploading")
        want(any(self.snapshots()), "no base to give up")
        kit.sh("lvcreate", "-q", "-y", "-kn", "-Wn", "-n", "filler", "-V", "8G", "--thinpool", "moat/vols")
        fd = os.open("/dev/moat/filler", os.O_WRONLY)
        block, wrote = os.urandom(8 * MIB), 0

        def fill(percent):
            nonlocal wrote
            while True:
                size, used = (float(x) for x in lvs("lv_size,data_percent", "moat/vols")[0])
                missing = int((percent - used) / 100 * size)
                if missing <= 0:
                    return
                for _ in range(-(-missing // len(block))):
                    os.pwrite(fd, block, wrote)
                    wrote += len(block)
                os.fsync(fd)
        fill(82)
        kit.wait_for("a heartbeat that says it", lambda: self.c.beats[-1]["storage"]["pool_used_bytes"] >= self.c.beats[-1]["storage"]["pool_bytes"] * 80 // 100, 90)
        want("pool_pressure" not in self.c.beats[-1]["conditions"], self.c.beats[-1])
        j = self.c.snapshot(v)
        fill(91)
        r = self.c.wait_snapshot(running, "failed", 120)
        want(r["failed_reason"] == "pool_pressure", r)
        kit.wait_for("the condition", lambda: "pool_pressure" in self.c.beats[-1]["conditions"], 60)
        self.fault = lambda line: None
        self.c.snapshot_over(running)
        kit.wait_for("the end of the bases", lambda: not self.snapshots(), 120)
        want(not self.c.told_of(j["snapshot_id"]), "a snapshot was begun at 80 %%: %s" % self.c.told_of(j["snapshot_id"]))
        failed = False
        try:
            for _ in range(1024):
                os.pwrite(fd, block, wrote)
                os.fsync(fd)
                wrote += len(block)
        except OSError as e:
            failed = True
            print("# a write to the full pool: %s" % e, flush=True)
        want(failed, "the pool does not fill")
        beat = kit.wait_for("an unhealthy storage", lambda: not self.c.beats[-1]["storage"]["healthy"] and self.c.beats[-1], 120)
        want("takes no writes" in beat["storage"]["reason"] and "moat/vols" in beat["storage"]["reason"], beat["storage"])
        rows = {f["check"]: f for f in self.w.ask({"op": "doctor"})}
        want("takes no writes" in json.dumps(rows["agent.storage"]), rows["agent.storage"])
        n = self.c.volume("late", 64 * GIB)
        self.c.publish()
        r = self.c.wait_volume(n["volume_id"], "provisioned", 120)
        want(r["result"] == "failed" and r["error_reason"] == "no_space", r)
        self.c.extra["volumes"].remove(n)
        want(self.w.proc.poll() is None, "the agent ended")
        os.close(fd)
        kit.sh("lvremove", "-y", "moat/filler")
        kit.wait_for("health again", lambda: self.c.beats[-1]["storage"]["healthy"] and "pool_pressure" not in self.c.beats[-1]["conditions"], 120)
        r = self.c.wait_snapshot(j, "succeeded", 240)
        want(self.same(self.restored(j, r), self.image_of(v)), "the store has other bytes than the volume")
        self.c.snapshot_over(j)
        self.removed(w)

    def what_a_tenant_wrote_is_gone_with_its_volume(self):
        before = float(lvs("data_percent", "moat/vols")[0][0])
        mark = b"secret of one tenant" * 200
        v = self.c.volume("one", GIB)
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        self.write(v, 600 * MIB, mark * 4000)
        self.removed(v)
        kit.wait_for("its blocks given back", lambda: float(lvs("data_percent", "moat/vols")[0][0]) <= before + 0.1, 60, 0.5)
        n = self.c.volume("two", GIB)
        self.c.publish()
        self.c.wait_volume(n["volume_id"], "provisioned", result="ok")
        for at in range(0, 960 * MIB, 32 * MIB):
            self.write(n, at + 4096, b"x")  # a block of the pool each, of which the rest is nobody's
        r = subprocess.run(["grep", "-c", "-a", "secret of one tenant", self.image_of(n)], stdout=subprocess.PIPE, text=True)
        want(r.stdout.strip() == "0", "what another had there shows: %s times" % r.stdout.strip())
        self.removed(n)

    def files_after_lvm_are_refused(self):
        self.w.kill()
        self.w.start(fsck_user="nobody", storage={"backend": "copy", "allow_copy_snapshots": True, "backup_file": self.conf})
        self.c.beats.clear()
        beat = kit.wait_for("a heartbeat", lambda: self.c.beats and self.c.beats[-1], 60)
        want(not beat["storage"]["healthy"] and "in LVM" in beat["storage"]["reason"], beat["storage"])
        self.w.kill()
        self.start()
        self.beat_says(True)


HAND = ["the_pool_has_to_keep_tenants_apart", "a_store_is_told_when_there_is_one", "a_delta_is_what_changed", "killed_between_a_snapshot_and_its_record", "killed_in_the_middle_of_lvcreate",
        "a_full_pool_is_told_and_survived", "what_a_tenant_wrote_is_gone_with_its_volume", "files_after_lvm_are_refused"]


def tests(names=HAND, guest=False):
    report = Report()
    labkit.modprobe("tun", *(["kvm_amd"] if guest else []))
    if bk.versitygw()[1]:
        print("skip - volumes in LVM: " + bk.versitygw()[1])
        return 0
    make_pool("/data")
    if guest:
        new_pool(5 << 10)
    store = bk.Store("versitygw", "/data/objects")
    if guest:
        os.makedirs("/data/boot")
        name = os.path.basename(os.environ["MOAT_BUNDLE"])
        shutil.copytree(os.environ["MOAT_BUNDLE"], "/data/boot/" + name)
        os.symlink(name, "/data/boot/current")
        os.environ["MOAT_BOOT_DIR"] = "/data/boot"
    world = kit.World("lvm", registry=guest)
    try:
        if guest:
            shutil.copy(os.path.join(os.environ["LAB_EXAMPLE"], "testapp"), world.dir)
            world.bundle()
        else:
            world.push = lambda: None
        s = Suite(world, store)
        s.guest = guest
        only = sys.argv[1:]
        for n in names:
            if only and n not in only and n not in HAND[:2]:
                continue
            t0 = time.monotonic()
            report.case("volumes in LVM: " + n.replace("_", " "), getattr(s, n))
            print("# %.1f s" % (time.monotonic() - t0), flush=True)
        if report.failed:
            print("agent log: " + world.tail(40), flush=True)
            print("\n".join("# " + l for l in kit.sh("dmesg").splitlines()[-15:]), flush=True)
    finally:
        world.close()
        store.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    if not labkit.INSIDE:
        bk.versitygw()  # made where there is a network
    sys.exit(labkit.main(tests, "volumes in LVM"))
