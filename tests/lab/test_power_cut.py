#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""R18 of docs/acceptance.md: what a workload has fsynced on its volume is there after the power of its host was cut (SIGKILL of the host's QEMU, in
the moment of the answer: what the host's own page cache held is lost, what had reached its disk is not). Twice: the VM is one of Firecracker, then
one of QEMU with KVM, each started by an agent that finds volume, image and plan on the disk that outlives the host.
COST 80 s, 80 s of processor."""
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
from imagekit import Report, want  # noqa: E402

DISK, STATE, LONG = "/dev/vdb", "/s", 300  # a short path: sockets of jails have to fit into it
DRIVERS = {1: "firecracker", 2: "qemu", 3: "qemu"}  # by boot; the last one only looks
WORDS = 5  # in each boot, each acknowledged when it was fsynced


def page(wl, path=""):
    r = subprocess.run(["curl", "-6", "-s", "-m", "180", "http://[%s]:8080/%s" % (wl["network"]["overlay_ipv6"], path)], stdout=subprocess.PIPE)
    return r.stdout.decode()


def start(world, boot):
    folder = os.environ.get("LAB_FIRECRACKER", "/nowhere")
    world.start(vmm=DRIVERS[boot], fsck_user="nobody", storage={"allow_copy_snapshots": True},
                **{"limits.patience": 30, "programs.firecracker": folder + "/firecracker", "programs.jailer": folder + "/jailer", "reserve.memory_bytes": 256 << 20})


def first(world):
    """The volume and what mounts it."""
    v = world.control.volume("data", 1 << 30)
    world.control.publish()
    world.control.wait_volume(v["volume_id"], "provisioned", LONG, result="ok")
    v["was_available"] = True
    mounts = [{"volume_id": v["volume_id"], "name": "data", "path": "/data", "read_only": False, "filesystem": "ext4", "fs_uuid": v["fs_uuid"]}]
    return v, world.workload(world.push(), command=["/app", "keep", "/data"], mounts=mounts, memory=128)


def there(world, wl, boot):
    """Every word of the boots before, in order; returns them."""
    world.control.wait_status(wl["instance_id"], "ready", LONG)
    want(world.describe(wl["instance_id"])["driver"] == DRIVERS[boot], "another driver")
    words = page(wl).split("|")[0].split()
    want(words == ["b%dw%d" % (b, i) for b in range(1, boot) for i in range(WORDS)], "kept are %s" % words)


def tests():
    boot, report = int(os.environ["LAB_BOOT"]), Report()
    if "LAB_FIRECRACKER" not in os.environ:
        print("skip - power cut: %s" % os.environ.get("LAB_NO_FIRECRACKER"))
        return 0
    labkit.modprobe("kvm_amd", "tun")
    if boot == 1:
        kit.sh("mkfs.ext4", "-q", DISK)
    os.makedirs(STATE, exist_ok=True)
    kit.sh("mount", DISK, STATE)
    os.environ["MOAT_TEST_TMP"] = STATE
    kept, known = os.path.join(STATE, "kept.json"), {}
    if boot == 1:
        os.makedirs(STATE + "/boot")
        name = os.path.basename(os.environ["MOAT_BUNDLE"])
        shutil.copytree(os.environ["MOAT_BUNDLE"], STATE + "/boot/" + name)
        os.symlink(name, STATE + "/boot/current")
    os.environ["MOAT_BOOT_DIR"] = STATE + "/boot"
    world = kit.World("cut", registry=boot == 1)
    if boot > 1:
        with open(kept) as f:
            known = json.load(f)
        world.dir, world.node_id = known["dir"], known["node"]
        world.log_path = os.path.join(world.dir, "agent-%d.log" % boot)  # the last line of the one before may be torn
        world.control = kit.Control(os.path.join(world.dir, "run/internal.sock"), world.node_id)
        world.control.cluster_id, world.control.cursor = known["cluster"], known["cursor"] + 1000 * boot
        world.control.extra = {"volumes": [known["volume"]]}
        world.control.want(known["workload"]["instance_id"], workload=known["workload"])
    else:
        shutil.copy(os.path.join(os.environ["LAB_EXAMPLE"], "testapp"), world.dir)
        world.bundle()
    try:
        start(world, boot)
        if boot == 1:
            v, wl = first(world)
            world.control.want(wl["instance_id"], workload=wl)
            known = {"volume": v, "workload": wl, "dir": world.dir, "node": world.node_id, "cluster": world.control.cluster_id, "cursor": world.control.cursor}
            with open(kept, "w") as f:
                json.dump(known, f)
        report.case("power cut: boot %d, a VM of %s has all that was fsynced before" % (boot, DRIVERS[boot]), there, world, known["workload"], boot)
        if report.failed:
            print("agent log: " + world.tail(40), flush=True)
        elif boot < 3:
            os.sync()  # what the agent itself has written is not the claim; what follows is the guest's alone
            time.sleep(1)
            for i in range(WORDS):
                last = page(known["workload"], "w/b%dw%d" % (boot, i))
            want(last.split("|")[0].split()[-1] == "b%dw%d" % (boot, WORDS - 1), last)
            print("LAB-CRASH", flush=True)
            time.sleep(600)
    finally:
        if boot == 3 or report.failed:
            world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "power cut", vms=True, disk_gib=6))
