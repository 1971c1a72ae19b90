#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Proofs whose volume has a probe: a copy that was restored from a backup is booted in a microVM of its own, a command says whether it is good, and
nothing of that stays. Everything is real (store, moat-backup, QEMU under TCG, moat-init) but the control plane.

COST 64 s, 30 s of processor."""
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import backupkit as bk  # noqa: E402
import imagekit  # noqa: E402
import test_agent_backups as backups  # noqa: E402
from imagekit import Report, want  # noqa: E402

STEPS = ["volume.probe_" + s for s in ("prepared", "launched", "started", "ended")]


class Suite(backups.Suite):
    def proof(self, command, seconds=60, **more):
        """Job of a proof with a probe; as src/model/spec_probe.c makes them"""
        v = self.c.volume("copy")
        self.c.extra["volumes"].remove(v)
        mounts = [{"volume_id": v["volume_id"], "name": "data", "path": "/data", "read_only": False, "filesystem": "ext4"}]
        restore_id = kit.new_id("rst")
        wl = self.w.workload(self.image, instance_id="inst_" + restore_id[4:], command=command, ports=(), mounts=mounts, **more)
        wl["network"]["overlay_ipv6"] = "::1"
        j = {"restore_id": restore_id, "snapshot_id": self.last, "source_volume_id": self.v["volume_id"], "source_org_id": self.v["org_id"],
             "new_volume_id": v["volume_id"], "size_bytes": backups.GIB, "key_epoch": 1, "cancel": False, "proof": True,
             "probe": {"timeout_seconds": seconds, "workload": wl}}
        self.c.extra["restore_jobs"] = [j]
        self.c.publish()
        return j

    def ended(self, j, status, seconds=60):
        """What was told last of a job; an end of the other kind is not waited through"""
        def look():
            return [r for r in self.c.told_of(j["restore_id"], "restore_id") if r["status"] in ("succeeded", "failed")]
        r = kit.wait_for("the end of %s" % j["restore_id"], look, seconds)[0]
        want(r["status"] == status, (r, [x for x in self.w.log_events("probe.console") + self.w.log_events("restore.run_failed") if x["restore_id"] == j["restore_id"]]))
        return r

    def probe_files(self):
        return [f for f in self.files() if f.endswith((".try", ".ring", ".part", ".rjl"))]

    def left(self):
        now = self.w.host()
        return {"processes": now["processes"], "jails": now["jails"], "scratch": now["scratch"], "cgroups": now["cgroups"], "files": self.probe_files()}

    def nothing_left(self, seconds=40):
        """But what was there without any probe"""
        try:
            kit.wait_for("the end of what a probe leaves", lambda: self.left() == self.before, seconds)
        except AssertionError as e:
            raise AssertionError("%s: %s, before %s" % (e, self.left(), self.before)) from None
        self.nothing_begun()

    def over(self, j):
        if "restore_id" not in j:
            return super().over(j)
        self.c.extra["restore_jobs"] = []
        self.c.publish()
        self.nothing_left()

    # -- cases

    def a_backup_of_what_a_guest_wrote(self):
        self.write_conf()
        self.start()
        self.beat_says(True)
        self.a_volume_that_is_written_to()
        self.c.want(self.i, "stopped")
        self.c.wait_status(self.i, "stopped", 30)
        self.c.drop(self.i)
        kit.wait_for("the end of its VM", lambda: not self.w.host()["jails"] and not self.w.host()["scratch"], 40)
        self.before = self.left()

    def one_that_finds_what_was_written(self):
        j = self.proof(["/app", "probe", "/data", "two"])
        r = self.ended(j, "succeeded")
        p = r["probe"]
        want(r["fs_uuid"] == self.v["fs_uuid"] and p["exit_code"] == 0 and 0 < p["ms"] < 120000 and "detail" not in p, r)
        want(p["output"].splitlines() == ["interface lo", "secrets no", "WORD moat kept one two "] or p["output"].splitlines() == ["interface lo", "secrets no", "WORD moat kept one two"], p)
        self.over(j)
        print("  from the start of its VM to its end: %d ms" % p["ms"], flush=True)

    def one_that_does_not(self):
        j = self.proof(["/app", "probe", "/data", "seven"])
        r = self.ended(j, "failed")
        want(r["failed_reason"] == "probe_failed" and not r["snapshot_damaged"], r)
        want(r["probe"]["exit_code"] == 3 and r["probe"]["detail"] == "exited with 3" and "kept one two" in r["probe"]["output"], r)
        self.over(j)

    def one_that_does_not_end(self):
        j = self.proof(["/app", "deaf"], seconds=2)
        r = self.ended(j, "failed")
        want(r["failed_reason"] == "probe_failed" and r["probe"]["detail"] == "it did not end within 2 s" and "exit_code" not in r["probe"], r)
        self.over(j)

    def one_that_takes_its_kernel_down(self):
        j = self.proof(["/app", "panic"])
        r = self.ended(j, "failed")
        want(r["failed_reason"] == "probe_failed" and "VM ended" in r["probe"]["detail"], r)
        self.over(j)

    def one_that_is_not_in_the_image(self):
        j = self.proof(["/nothing/there"])
        r = self.ended(j, "failed")
        want(r["failed_reason"] == "probe_failed" and "/nothing/there" in r["probe"]["detail"], r)
        self.over(j)

    def what_it_says_is_bounded_and_printable(self):
        j = self.proof(["/app", "babble", "3000"])  # and ends when it has said all of it
        r = self.ended(j, "failed")
        want(r["probe"].get("exit_code") == 4, r)
        lines = r["probe"]["output"].splitlines()
        want(len(r["probe"]["output"]) <= 1000 and len(lines) > 20 and any("2999" in line for line in lines[-3:]), r)
        self.over(j)

    def one_whose_image_is_not_to_be_had_is_tried_again(self):
        gone = (self.image[0], "sha256:" + "ab" * 32)
        image, self.image = self.image, gone
        j = self.proof(["/app", "probe", "/data", "two"])
        self.image = image
        kit.wait_for("a try", lambda: [x for x in self.w.log_events("restore.run_failed") if x["restore_id"] == j["restore_id"]], 30)
        tried = [x for x in self.w.log_events("restore.run_failed") if x["restore_id"] == j["restore_id"]][0]
        want(tried["reason"] == "probe_not_run" and tried["retryable"], tried)
        want(not self.probe_files(), "the volume was fetched before its probe could be run: %s" % self.files())
        j["cancel"] = True
        self.c.publish()
        r = self.ended(j, "failed")
        want(r["failed_reason"] == "cancelled" and "probe" not in r, r)
        self.over(j)

    def one_of_a_private_image_is_pulled_with_its_credential_and_not_with_that_of_another_registry(self):
        private = imagekit.Registry(os.path.join(self.w.dir, "private"), ("robot", "cAnArY-of-a-probe"))
        try:
            kept, self.image = self.image, self.w.push({"Entrypoint": ["/app"], "Labels": {"n": "private"}}, "private", private)
            self.w.kill()
            self.w.registries.append(private.host)
            self.start()
            other = imagekit.Registry(os.path.join(self.w.dir, "other"), private.login)
            other.stop()
            j = self.proof(["/app", "probe", "/data", "two"])
            self.c.logins[j["restore_id"]] = other
            self.image = kept
            tried = lambda: [x for x in self.w.log_events("restore.run_failed") if x["restore_id"] == j["restore_id"]]  # noqa: E731
            kit.wait_for("a try", tried, 30)
            want(tried()[0]["reason"] == "probe_not_run" and "auth" in tried()[0]["error"], tried()[0])
            self.c.logins[j["restore_id"]] = private
            r = self.ended(j, "succeeded", 90)
            want(r["probe"]["exit_code"] == 0, r)
            asked = [b for p, b in self.c.posts if p.endswith("/registry-credential") and b.get("restore_id") == j["restore_id"]]
            want(len(asked) >= 2 and all(list(b) == ["restore_id"] for b in asked), asked)
            want(b"cAnArY" not in open(self.w.log_path, "rb").read(), "the password is in the log")
            self.over(j)
        finally:
            private.stop()

    def one_that_has_no_room_waits(self):
        j = self.proof(["/app", "probe", "/data", "two"], memory=4 << 20)
        kit.wait_for("a refusal", lambda: [x for x in self.w.log_events("probe.not_begun") if x["restore_id"] == j["restore_id"]], 30)
        want(not self.c.told_of(j["restore_id"], "restore_id"), self.c.told_of(j["restore_id"], "restore_id"))
        j["cancel"] = True
        self.c.publish()
        want(self.ended(j, "failed")["failed_reason"] == "cancelled", self.c.told_of(j["restore_id"], "restore_id"))
        self.over(j)

    def one_that_is_cancelled_while_it_runs(self):
        j = self.proof(["/app", "deaf"], seconds=600)
        kit.wait_for("its VM", lambda: self.w.vm_processes(), 40)
        j["cancel"] = True
        self.c.publish()
        r = self.ended(j, "failed", 30)
        want(r["failed_reason"] == "cancelled" and "probe" not in r, r)
        self.over(j)

    def killed_at_each_step_it_begins_anew(self):
        self.w.kill()
        self.start(env={"MT_TEST_KILL_STEP": STEPS[0]})
        j = self.proof(["/app", "probe", "/data", "two"])
        for next in STEPS[1:] + [None]:
            want(self.w.ended(90) == -9, "the agent did not die before " + str(next))
            want([f for f in self.files() if f.endswith(".try")] and [f for f in self.files() if f.endswith(".part")], self.files())
            want(not [f for f in self.files() if f.endswith(".rjl")], "a copy that a guest may have written to would be gone on with: %s" % self.files())
            want([x for x in self.c.told_of(j["restore_id"], "restore_id") if x["status"] != "running"] == [], self.c.told_of(j["restore_id"], "restore_id"))
            self.start(ready=next is None, env={"MT_TEST_KILL_STEP": next} if next else None)
            self.c.publish()  # or it asks for half a minute what is new
        r = self.ended(j, "succeeded", 90)
        want(r["probe"]["exit_code"] == 0, r)
        fetched = [x["bytes_fetched"] for x in self.w.log_events("restore.fetched") if x["restore_id"] == j["restore_id"]]
        want(len(fetched) == 5 and all(b > 0 for b in fetched), fetched)
        self.over(j)

    def killed_and_no_longer_wanted_it_leaves_nothing(self):
        for step in STEPS:
            self.w.kill()
            self.start(env={"MT_TEST_KILL_STEP": step})
            self.proof(["/app", "probe", "/data", "two"])
            want(self.w.ended(90) == -9, "the agent did not die at " + step)
            self.c.extra["restore_jobs"] = []
            self.start()
            self.c.publish()
            kit.wait_for("the sweep", lambda: self.left() == self.before, 60)
            self.nothing_left()

    def the_end_of_the_platform_is_its_end(self):
        self.proof(["/app", "deaf"], seconds=600)
        kit.wait_for("its VM", lambda: self.w.vm_processes(), 40)
        got, rc = self.w.stop_all()
        want(rc == 0 and got[0]["clean"], (got, rc))
        want(not self.w.vm_processes() and not self.w.host()["jails"] and not self.w.host()["scratch"], self.left())


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - probes of an agent: needs root")
        return 0
    scratch = tempfile.mkdtemp(prefix="mx", dir="/tmp")  # short: sockets of jails are below it
    objects = tempfile.mkdtemp(prefix="mt-objects-", dir="/var/tmp")
    world = store = None
    try:
        why = bk.versitygw()[1]  # made where there is a network
        kit.own_network()
        why = why or backups.xfs(scratch)
        if why:
            print("skip - probes of an agent: %s" % why)
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
        for fn in (s.a_backup_of_what_a_guest_wrote, s.one_that_finds_what_was_written, s.one_that_does_not, s.one_that_does_not_end, s.one_that_takes_its_kernel_down,
                   s.one_that_is_not_in_the_image, s.what_it_says_is_bounded_and_printable, s.one_whose_image_is_not_to_be_had_is_tried_again,
                   s.one_of_a_private_image_is_pulled_with_its_credential_and_not_with_that_of_another_registry, s.one_that_has_no_room_waits, s.one_that_is_cancelled_while_it_runs, s.killed_at_each_step_it_begins_anew,
                   s.killed_and_no_longer_wanted_it_leaves_nothing, s.the_end_of_the_platform_is_its_end):
            if os.environ.get("MOAT_CASES") and fn != s.a_backup_of_what_a_guest_wrote and os.environ["MOAT_CASES"] not in fn.__name__:
                continue
            report.case("probes: " + fn.__name__.replace("_", " "), fn)
            if report.failed and not hasattr(s, "before"):
                break  # without a backup there is nothing for the others to begin with
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
