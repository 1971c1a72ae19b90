#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Volumes on a node: a moat-agent with a stand-in control plane and real QEMU microVMs. Made, attached, written and kept over instances,
kills of VM and agent, and growth; one writer at a time; removed without a trace; missing ones told and never made again empty.

COST 96 s, 28 s of processor."""
import fcntl
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
from imagekit import Report, want  # noqa: E402

GIB = 1 << 30


def ask(address, path="", seconds=60):
    r = subprocess.run(["curl", "-6", "-s", "-m", str(seconds), "http://[%s]:8080/%s" % (address, path)], stdout=subprocess.PIPE)
    return r.stdout.decode()


class Suite:
    def __init__(self, world):
        self.w, self.c = world, world.control
        self.image = world.push()
        self.dir = os.path.join(world.dir, "volumes")
        self.v = None  # the volume of most cases

    def start(self, **more):
        self.w.start(fsck_user="nobody", storage={"allow_copy_snapshots": True}, **more)

    def plan(self, v, **fields):
        """Change what the plan says of @v, None takes a member away."""
        for k, x in fields.items():
            if x is None:
                v.pop(k, None)
            else:
                v[k] = x
        self.c.publish()

    def drop(self, v):
        self.c.extra["volumes"].remove(v)
        self.c.publish()

    def workload(self, v, generation=1, ro=False, command=("/app", "keep", "/data"), **more):
        mounts = [{"volume_id": v["volume_id"], "name": v["name"], "path": "/data", "read_only": ro, "filesystem": "ext4", "fs_uuid": v["fs_uuid"]}]
        return self.w.workload(self.image, command=list(command), generation=generation, mounts=mounts, **more)

    def run(self, v, **more):
        wl = self.workload(v, **more)
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", 60)
        return wl["instance_id"], wl["network"]["overlay_ipv6"]

    def stop(self, i):
        self.c.want(i, "stopped")
        self.c.wait_status(i, "stopped", 30)
        self.c.drop(i)

    def files(self):
        return sorted(os.listdir(self.dir))

    def image_of(self, v):
        return os.path.join(self.dir, "vol-%s.img" % v["volume_id"])

    def locked(self, v):
        with open(os.path.join(self.dir, v["volume_id"] + ".lock"), "r+b") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def unlocked(self, v):
        """The lock does not stay when its VM is gone; who looks whether something is left has it for a moment."""
        kit.wait_for("the lock's end", lambda: not self.locked(v), 20)

    def none_of(self, v):
        kit.wait_for("the end of all its files", lambda: not [f for f in self.files() if v["volume_id"] in f], 20)

    # -- cases, from basic to complex

    def storage_is_told(self):
        self.start()
        beat = kit.wait_for("a heartbeat with storage", lambda: next((b["storage"] for b in self.c.beats if b.get("storage")), None), 20)
        want(beat["backend"] in ("copy", "reflink") and beat["healthy"] and beat["pool_bytes"] > GIB and beat["orphans"] == [], beat)

    def made_with_its_filesystem(self):
        v = self.v = self.c.volume()
        self.c.publish()
        r = self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        want(r["fs_uuid"] == v["fs_uuid"] and r["size_bytes"] == GIB, r)
        st = os.stat(self.image_of(v))
        want(st.st_size == GIB and st.st_blocks * 512 >= GIB and st.st_mode & 0o777 == 0o600, "%s" % (st,))
        out = kit.sh("dumpe2fs", "-h", self.image_of(v))
        want(v["fs_uuid"] in out and "Filesystem volume name:   data" in out, out)
        self.plan(v, was_available=True)

    def written_data_is_there_for_the_next_instance(self):
        i, at = self.run(self.v)
        want(ask(at).startswith("| "), ask(at))
        want(ask(at, "w/one").startswith("one |"), ask(at))
        want(self.locked(self.v), "a running VM does not hold its volume's lock")
        self.stop(i)
        self.unlocked(self.v)
        i, at = self.run(self.v, generation=2, ro=True)
        want(ask(at).startswith("one |"), ask(at))
        want(ask(at, "w/no").startswith("Read-only file system"), ask(at, "w/no"))
        self.stop(i)

    def fsynced_data_outlives_the_vm(self):
        i, at = self.run(self.v)
        before = self.w.describe(i)
        want(ask(at, "w/two").startswith("one two |"), ask(at))
        n = len(self.c.reports_of(i))
        for pid, exe in self.w.vm_processes().items():
            if exe.startswith("qemu"):
                os.kill(pid, signal.SIGKILL)
        self.c.wait_status(i, "ready", 60, since=n)
        kit.wait_for("another boot", lambda: (lambda d: d["phase"] == "ready" and d["boot_seq"] == before["boot_seq"] + 1)(self.w.describe(i)), 60)
        want(ask(at).startswith("one two |"), ask(at))
        self.stop(i)

    def one_writer_while_the_agent_is_killed(self):
        v = self.v
        i, at = self.run(v)
        want(ask(at, "w/three").startswith("one two three |"), ask(at))
        before = self.w.describe(i)
        self.w.kill()
        self.unlocked(v)
        want(ask(at).startswith("one two three |"), "the VM does not go on without its agent")
        other = self.workload(v)  # what no control plane does: a second instance on the same volume
        self.c.want(other["instance_id"], workload=other)
        self.start()
        kit.wait_for("the guest to come back", lambda: self.w.describe(i)["guest_connected"], 20)
        want(self.locked(v), "the lock is not taken again")
        r = self.c.wait_status(other["instance_id"], "booting", 30, status_detail="backoff", reason_code="volume_attach_failed")
        want(r["reason_detail"].startswith("busy_or_already_attached"), r)
        want(self.w.describe(i)["pids"] == before["pids"], "the VM was restarted")
        self.stop(other["instance_id"])
        self.stop(i)

    def a_lost_state_makes_no_second_writer(self):
        """no lock tells of a VM whose state is gone: the kernel knows who has the file open for writing"""
        v = self.v
        with open(self.image_of(v), "r+b"):  # as a VM has it that nobody knows of
            wl = self.workload(v)
            self.c.want(wl["instance_id"], workload=wl)
            r = self.c.wait_status(wl["instance_id"], "booting", 30, status_detail="backoff", reason_code="volume_attach_failed")
            want(r["reason_detail"].startswith("busy_or_already_attached"), r)
        self.c.wait_status(wl["instance_id"], "ready", 60)
        self.stop(wl["instance_id"])

    def grows_before_the_next_boot(self):
        v = self.v
        i, at = self.run(v)
        small = int(ask(at).split("| ")[1])
        self.plan(v, resize_to_bytes=GIB + (256 << 20))
        want(os.stat(self.image_of(v)).st_size == GIB, "it grew under a running VM")
        self.stop(i)
        n = len(self.c.storage)
        i, at = self.run(v)
        r = self.c.wait_volume(v["volume_id"], "resized", since=n, result="ok")
        want(r["size_bytes"] == GIB + (256 << 20), r)
        self.plan(v, size_bytes=GIB + (256 << 20), resize_to_bytes=None)
        got = ask(at)
        want(got.startswith("one two three |") and int(got.split("| ")[1]) > small + 200, got)
        self.stop(i)

    def killed(self, step, v, **next):
        """The agent ends itself at @step; the next one begins with a clean view."""
        try:
            rc = self.w.ended()
        except AssertionError:
            raise AssertionError("the agent did not die at " + step) from None
        want(rc == -9, "agent ended with %s" % rc)
        self.start(**next)

    def killed_while_it_makes_one(self, step):
        self.end()
        self.start(env={"MT_TEST_KILL_STEP": step})
        v = self.c.volume()
        self.c.publish()
        self.killed(step, v)
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok", fs_uuid=v["fs_uuid"])
        mine = lambda: [f for f in self.files() if v["volume_id"] in f]
        kit.wait_for("image and lock and nothing else, of %s" % mine(), lambda: mine() == ["vol-%s.img" % v["volume_id"], v["volume_id"] + ".lock"], 20)
        kit.sh("e2fsck", "-fn", self.image_of(v))
        self.plan(v, desired="absent")
        self.c.wait_volume(v["volume_id"], "deleted")
        self.drop(v)

    def killed_while_it_removes_one(self):
        v = self.c.volume()
        self.c.publish()
        self.c.wait_volume(v["volume_id"], "provisioned", result="ok")
        self.end()
        self.start(env={"MT_TEST_KILL_STEP": "volume.removed"})
        self.plan(v, desired="absent")
        self.killed("volume.removed", v)
        self.c.wait_volume(v["volume_id"], "deleted")
        self.none_of(v)
        self.drop(v)

    def killed_while_it_grows(self):
        v, size, n = self.v, GIB + (320 << 20), len(self.c.storage)
        self.end()
        self.start(env={"MT_TEST_KILL_STEP": "volume.extended"})
        self.plan(v, resize_to_bytes=size)
        wl = self.workload(v)
        self.c.want(wl["instance_id"], workload=wl)
        self.killed("volume.extended", v, env={"MT_TEST_KILL_STEP": "volume.grown"})
        self.killed("volume.grown", v)
        self.c.wait_status(wl["instance_id"], "ready", 60)
        self.c.wait_volume(v["volume_id"], "resized", since=n, result="ok", size_bytes=size)
        self.plan(v, size_bytes=size, resize_to_bytes=None)
        got = ask(wl["network"]["overlay_ipv6"])
        want(got.startswith("one two three |") and int(got.split("| ")[1]) > (size >> 20) * 0.9, got)
        self.stop(wl["instance_id"])

    def a_missing_one_is_told_and_not_made_again(self):
        v, aside = self.v, os.path.join(self.w.dir, "aside")
        self.end()
        os.rename(self.image_of(v), aside)
        n = len(self.c.storage)
        self.start()
        self.c.wait_volume(v["volume_id"], "missing", since=n)
        wl = self.workload(v)
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "booting", 30, status_detail="backoff", reason_code="volume_attach_failed")
        want(r["reason_detail"].startswith("volume_not_present_on_node"), r)
        want(not os.path.exists(self.image_of(v)), "it was made again")
        os.rename(aside, self.image_of(v))
        self.c.wait_status(wl["instance_id"], "ready", 60)
        want(ask(wl["network"]["overlay_ipv6"]).startswith("one two three |"), "other data")
        self.c.wait_volume(v["volume_id"], "provisioned", 60, since=n, result="ok")
        self.stop(wl["instance_id"])

    def a_wrong_filesystem_is_not_given_to_a_guest(self):
        v = self.v
        wl = self.workload(dict(v, fs_uuid="00000000-0000-4000-8000-000000000001"))
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "booting", 30, status_detail="backoff", reason_code="volume_attach_failed")
        want(r["reason_detail"].startswith("filesystem_mismatch"), r)
        self.stop(wl["instance_id"])

    def looked_at(self, number, repair, seconds=60):
        n = len(self.c.storage)
        self.plan(self.v, check={"number": number, "repair": repair})
        return self.c.wait_volume(self.v["volume_id"], "checked", seconds, since=n)["check"]

    def an_operator_has_it_looked_at_and_mended(self):
        v = self.v
        r = self.looked_at(1, False)
        want(r["number"] == 1 and r["result"] == "clean" and " files (" in r["detail"] and "/" + "proc" not in r["detail"], r)
        with open(self.image_of(v), "r+b") as f:  # how many blocks are free, in the superblock
            f.seek(1024 + 0x0c)
            free = f.read(4)
            f.seek(1024 + 0x0c)
            f.write(bytes([free[0] ^ 0x55]) + free[1:])
        r = self.looked_at(2, False)
        want(r["number"] == 2 and r["result"] == "damaged" and r["detail"], r)
        with open(self.image_of(v), "rb") as f:
            f.seek(1024 + 0x0c)
            want(f.read(1) == bytes([free[0] ^ 0x55]), "what was only looked at was changed")
        self.end()
        self.start(env={"MT_TEST_KILL_STEP": "volume.checked"})
        n = len(self.c.storage)
        self.plan(v, check={"number": 3, "repair": True})
        self.killed("volume.checked", v)  # mended and not told: the next one mends nothing, and tells
        r = self.c.wait_volume(v["volume_id"], "checked", 60, since=n)["check"]
        want(r["number"] == 3 and r["result"] == "clean", r)
        with open(self.image_of(v), "r+b") as f:
            f.seek(1024 + 0x0c)
            f.write(bytes([free[0] ^ 0x55]) + free[1:])
        r = self.looked_at(4, True)
        want(r["result"] == "repaired" and r["detail"], r)
        self.plan(v, check=None)
        st = os.stat(self.image_of(v))
        want(st.st_uid == 0 and st.st_mode & 0o777 == 0o600, "%s" % (st,))
        self.unlocked(v)

    def what_cannot_be_made_is_told(self):
        v = self.c.volume(size=1 << 41)
        self.c.publish()
        r = self.c.wait_volume(v["volume_id"], "provisioned", result="failed")
        want(r["error_reason"] == "no_space", r)
        self.none_of(v)
        self.drop(v)

    def orphans_are_named_and_kept(self):
        i = kit.new_id("vol")
        path = os.path.join(self.dir, "vol-%s.img" % i)
        with open(path, "wb") as f:
            f.truncate(4 << 20)
        self.c.publish()  # a plan: the folder is looked through
        kit.wait_for("the orphan in a heartbeat", lambda: (self.c.beats[-1].get("storage") or {}).get("orphans") == [i], 40)
        os.unlink(path)

    def many_reports_come_in_batches_that_one_command_can_take(self):
        before = self.c.extra["volumes"]
        many = [self.c.volume(was_available=True) for _ in range(70)]
        n, b = len(self.c.storage), len(self.c.batches)
        self.c.publish()
        for v in many:
            self.c.wait_volume(v["volume_id"], "missing", since=n)
        want(max(x["volumes"] for x in self.c.batches[b:]) <= 32, self.c.batches[b:])
        self.c.extra["volumes"] = before
        self.c.publish()

    def told_again_to_one_that_was_away(self):
        n, away = len(self.c.storage), self.c.turned_away
        self.c.down = True
        try:
            kit.wait_for("heartbeats that are not taken", lambda: self.c.turned_away > away + 2, 20)
        finally:
            self.c.down = False
        self.c.wait_volume(self.v["volume_id"], "provisioned", 40, since=n)

    def removed_without_a_trace_when_its_vm_is_gone(self):
        v = self.v
        i, at = self.run(v)
        r = self.looked_at(5, True)
        want(r["result"] == "in_use" and ask(at).startswith("one"), "mended under a running VM: %s" % r)
        n = len(self.c.storage)
        self.plan(v, desired="absent", check=None)
        kit.wait_for("the refusal", lambda: self.w.log_events("volume.busy"), 20)
        want(os.path.exists(self.image_of(v)) and ask(at).startswith("one"), "removed under a running VM")
        self.stop(i)
        self.c.wait_volume(v["volume_id"], "deleted", since=n)
        kit.wait_for("an empty folder", lambda: self.files() == [], 20)
        self.drop(v)

    def end(self):
        got, rc = self.w.stop_all()
        want(rc == 0 and got[0]["clean"], (got, rc))

    def stays_over_the_planned_end(self):
        v = self.c.volume("stays")
        i, at = self.run(v)  # one plan brings both: the attempt waits for its volume
        want(self.w.describe(i)["boot_seq"] == 1 and self.c.wait_volume(v["volume_id"], "provisioned", result="ok"), self.w.describe(i))
        want(ask(at, "w/kept").startswith("kept |"), ask(at))
        self.end()
        after = self.w.host()
        want(not after["processes"] and not after["jails"] and not after["mounts"], after)
        want(self.files() == ["vol-%s.img" % v["volume_id"], v["volume_id"] + ".lock"], self.files())
        self.plan(v, was_available=True)
        n = len(self.c.reports_of(i))
        self.start()
        self.c.wait_status(i, "ready", 60, since=n)
        want(ask(at).startswith("kept |"), ask(at))
        self.end()


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - volumes of an agent: needs root")
        return 0
    kit.own_network()
    world = kit.World("volumes")
    try:
        world.bundle()
        s = Suite(world)
        cases = [(s.storage_is_told,), (s.made_with_its_filesystem,), (s.written_data_is_there_for_the_next_instance,),
                 (s.fsynced_data_outlives_the_vm,), (s.one_writer_while_the_agent_is_killed,), (s.a_lost_state_makes_no_second_writer,),
                 (s.grows_before_the_next_boot,)]
        cases += [(s.killed_while_it_makes_one, "volume." + step) for step in ("reserved", "formatted", "named")]
        cases += [(s.killed_while_it_removes_one,), (s.killed_while_it_grows,), (s.a_missing_one_is_told_and_not_made_again,),
                  (s.a_wrong_filesystem_is_not_given_to_a_guest,), (s.an_operator_has_it_looked_at_and_mended,), (s.what_cannot_be_made_is_told,), (s.orphans_are_named_and_kept,),
                  (s.many_reports_come_in_batches_that_one_command_can_take,),
                  (s.told_again_to_one_that_was_away,), (s.removed_without_a_trace_when_its_vm_is_gone,), (s.stays_over_the_planned_end,)]
        for fn, *args in cases:  # each finds what the one before left
            report.case("volumes: " + " ".join([fn.__name__.replace("_", " ")] + [str(a) for a in args if isinstance(a, str)]), fn, *args)
        if report.failed:
            print("agent log: " + world.tail(30), flush=True)
    finally:
        world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
