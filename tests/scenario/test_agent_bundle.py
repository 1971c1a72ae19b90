#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A kernel bundle that does not boot is given up for the one before it: at the start by the probe, later by the boots that fail; that outlives the
agent and ends when a third one is named. With a pinned key an unsigned one is not taken. Real guests. COST 35 s, 22 s of processor."""
import base64
import hashlib
import json
import os
import shutil
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import imagekit  # noqa: E402
from imagekit import Report, want  # noqa: E402

LONG = 120


class Suite:
    def __init__(self, world):
        self.w, self.c = world, world.control
        self.boot = os.path.join(world.dir, "boot")
        self.given = os.path.join(kit.make_bundle(), "current")
        with open(os.path.join(self.given, "manifest.json")) as f:
            self.manifest = json.load(f)
        self.image = world.push()

    def bundle(self, version, ago, initramfs=None):
        """A bundle of the tree's kernel, made @ago seconds ago; with @initramfs another one than the tree's."""
        folder = os.path.join(self.boot, version)
        os.mkdir(folder)
        try:
            os.link(os.path.realpath(os.path.join(self.given, "vmlinux")), os.path.join(folder, "vmlinux"))
        except OSError:  # on another filesystem
            shutil.copy(os.path.join(self.given, "vmlinux"), folder)
        with open(os.path.join(self.given, "initramfs.cpio"), "rb") as f:
            data = initramfs or f.read()
        for name, content in (("initramfs.cpio", data), ("manifest.json", json.dumps(dict(
                self.manifest, version=version, initramfs_sha256=hashlib.sha256(data).hexdigest(), initramfs_bytes=len(data))).encode())):
            with open(os.path.join(folder, name), "wb") as f:
                f.write(content)
            os.chmod(os.path.join(folder, name), 0o444)
        os.utime(os.path.join(folder, "manifest.json"), (time.time() - ago,) * 2)

    def current(self, version):
        link = os.path.join(self.boot, "current")
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(version, link)

    def start(self, **conf):
        """The agent, and what it chose."""
        n = len(self.w.log_events("vmm.chosen")) if os.path.exists(self.w.log_path) else 0
        self.w.start(**{"limits.patience": 3, **conf})
        return kit.wait_for("the probe", lambda: self.w.log_events("vmm.chosen")[n:], LONG)[-1]

    def conditions(self, there):
        return kit.wait_for("a heartbeat %s the condition" % ("with" if there else "without"), lambda: next(
            (b for b in self.c.beats[-1:] if "probing" not in b["conditions"] and ("bundle_fallback" in b["conditions"]) == there), None), 60)

    def boots(self):
        wl = self.w.workload(self.image)
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", LONG)
        self.c.want(wl["instance_id"], "stopped")
        self.c.wait_status(wl["instance_id"], "stopped", LONG)

    # -- cases

    def given_up_at_the_start(self):
        self.bundle("v1-good", 7200)
        self.bundle("v2-bad", 60, b"no archive" * 400)
        self.current("v2-bad")
        chosen = self.start()
        want(chosen["ok"] and chosen["bundle"] == "v1-good", chosen)
        said = self.w.log_events("bundle.fell_back")[-1]
        want((said["from"], said["to"]) == ("v2-bad", "v1-good") and "not taken" in said["reason"], said)
        beat = self.conditions(True)
        want("v1-good" in json.dumps(beat), beat)
        row = next(r for r in self.w.ask({"op": "doctor"}) if r["check"] == "agent.bundle")
        want("v2-bad" in json.dumps(row) and "v1-good" in json.dumps(row), row)
        self.boots()

    def it_stays_so_over_a_restart(self):
        self.w.kill()
        chosen = self.start()
        want(chosen["ok"] and chosen["cached"] and chosen["bundle"] == "v1-good", "the bad one was booted again: %s" % chosen)
        self.conditions(True)

    def a_third_one_ends_it(self):
        self.w.kill()
        self.bundle("v3-good", 30)
        self.current("v3-good")
        chosen = self.start()
        want(chosen["ok"] and chosen["bundle"] == "v3-good", chosen)
        self.conditions(False)
        want(not os.path.exists(os.path.join(self.w.dir, "agent/bundle.json")), "the mark is left")

    def signed_by_a_pinned_key_or_not_taken(self):
        """The commands of docs/formats/bundle.md, by openssl itself."""
        key, folder = os.path.join(self.w.dir, "bundle-key.pem"), os.path.join(self.boot, "v3-good")
        kit.sh("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
        kit.sh("openssl", "pkey", "-in", key, "-pubout", "-outform", "DER", "-out", key + ".der")
        with open(key + ".der", "rb") as f:
            pinned = base64.b64encode(f.read()[-32:]).decode()
        try:
            self.w.kill()
            chosen = self.start(bundle_keys=[pinned])
            want(not chosen["ok"] and "is not signed" in chosen["reason"] and "v3-good" in chosen["reason"], chosen)
            kit.wait_for("the condition", lambda: {"no_boot_bundle", "vmm_unavailable"} <= set(self.c.beats[-1]["conditions"]), 60)
            kit.sh("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", folder + "/manifest.json", "-out", folder + "/manifest.sig")
            self.w.kill()
            chosen = self.start(bundle_keys=[pinned])
            want(chosen["ok"] and chosen["cached"] and chosen["bundle"] == "v3-good", chosen)
            row = next(r for r in self.w.ask({"op": "doctor"}) if r["check"] == "agent.bundle")
            want(row["severity"] == "ok" and row["finding"] == "v3-good, signed by %s..." % pinned[:12], row)
            self.w.kill()
            chosen = self.start()
            want(not chosen["ok"] and "no key to check it by" in chosen["reason"], chosen)
        finally:
            if os.path.exists(folder + "/manifest.sig"):
                os.unlink(folder + "/manifest.sig")
        self.w.kill()
        chosen = self.start()
        want(chosen["ok"] and chosen["bundle"] == "v3-good", chosen)

    def given_up_when_boots_fail(self):
        self.bundle("v4-bad", 0, b"no archive" * 400)
        self.c.extra["node_config"] = {"kernel_version": "v4-bad"}
        self.c.publish()
        kit.wait_for("the bundle of the plan", lambda: "v4-bad" in json.dumps(self.c.beats[-1]), 60)
        wls = [self.w.workload(self.image, lifecycle={"stop_grace_seconds": 2, "restart_policy": "always", "max_retries": 10, "backoff_seconds": 1})
               for _ in range(2)]
        for wl in wls:
            self.c.want(wl["instance_id"], workload=wl)
        for wl in wls:
            self.c.wait_status(wl["instance_id"], "ready", LONG)
        lost = [r for wl in wls for r in self.c.reports_of(wl["instance_id"]) if r.get("reason_code") == "vm_lost"]
        want(lost and all("Kernel panic" in r["reason_detail"] for r in lost), [(r["reason_code"], r.get("reason_detail")) for r in lost])
        said = self.w.log_events("bundle.fell_back")[-1]
        want((said["from"], said["to"]) == ("v4-bad", "v3-good"), said)
        self.conditions(True)


def main():
    report = Report()
    for program in ("qemu-system-x86_64", "docker-registry", "skopeo"):
        if not shutil.which(program):
            print("skip - agent bundle: %s is not installed" % program)
            return 0
    kit.make_bundle()  # where there is a network
    kit.own_network()
    world = kit.World("bundle")
    try:
        s = Suite(world)
        for name in ("given_up_at_the_start", "it_stays_so_over_a_restart", "a_third_one_ends_it", "signed_by_a_pinned_key_or_not_taken", "given_up_when_boots_fail"):
            report.case("agent bundle: " + name.replace("_", " "), getattr(s, name))
        if report.failed:
            print("agent log: " + world.tail(20), flush=True)
        world.stop_all(30000)
    finally:
        world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
