#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-agent ends itself by SIGKILL at every recorded step of prepare, life and teardown; the next agent must end with exactly
one running VM or with a clean host. The list of steps comes from the agent itself (--list-steps). From the launch to the end of its process a
real guest goes on without the agent; at the other steps no guest takes part, and the VM is a stand-in (agentkit.stand_in).

Those of the way up; test_agent_kill_end.py has those of the end. Arguments: names of steps to try instead, or `end`.
COST 49 s, 22 s of processor.
"""
import fcntl
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
from imagekit import Report, want  # noqa: E402


ENDING = ("life.draining", "life.stopping", "life.exited", "life.stopped")


def at_end(step):
    return step.startswith("teardown.") or step in ENDING


def steps(end):
    out = subprocess.run([os.path.join(kit.BIN, "moat-agent"), "--list-steps"], stdout=subprocess.PIPE, check=True).stdout
    return [s for s in out.decode().split() if at_end(s) == end and not s.startswith("volume.")]


def with_guest(step):
    """A guest is there when the agent dies, or comes to be."""
    return step.startswith(("prepare.launch.", "life.")) or not os.path.exists(kit.STANDIN)


class Suite:
    def __init__(self, world):
        self.w, self.c = world, world.control
        self.image = world.push()
        self.start()
        self.volume = self.c.volume()  # each workload has it, one after the other
        wl = self.workload()  # once without a kill: image in the cache, driver chosen
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", 60)
        self.c.want(wl["instance_id"], "stopped")
        self.c.wait_status(wl["instance_id"], "stopped", 20)
        self.c.drop(wl["instance_id"])
        self.end()
        self.clean = self.w.host()

    def start(self, **more):
        """As configured by self.w.conf."""
        self.w.start(fsck_user="nobody", storage={"allow_copy_snapshots": True}, **more)

    def workload(self):
        v = self.volume
        return self.w.workload(self.image, mounts=[{"volume_id": v["volume_id"], "name": "data", "path": "/data", "read_only": False,
                                                    "filesystem": "ext4", "fs_uuid": v["fs_uuid"]}])

    def held(self):
        with open(os.path.join(self.w.dir, "volumes", self.volume["volume_id"] + ".lock"), "r+b") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def end(self):
        got, rc = self.w.stop_all()
        want(rc == 0 and got[0]["clean"], (got, rc))

    def dies(self, what, seconds=40):
        try:
            rc = self.w.ended(seconds)
        except AssertionError:
            raise AssertionError("the agent did not die at " + what) from None
        want(rc == -9, "agent ended with %s" % rc)

    def one_vm(self, i):
        """exactly one VM: two processes, and the state names them"""
        d = self.w.describe(i)
        running = self.w.vm_processes()
        want(sum(exe.startswith("qemu") for exe in running.values()) == 1 and set(d["pids"]) <= set(running), "state %s, host %s" % (d["pids"], running))
        kit.wait_for("its two processes and no other: %s, host %s" % (d["pids"], running), lambda: sorted(self.w.vm_processes()) == sorted(d["pids"]) and len(d["pids"]) == 2, 20)
        want(self.held(), "the VM runs and nobody has the lock of its volume")
        # what the dead one left of an attempt that never ran goes with the look for it, which may come after the next attempt is ready
        jails = lambda: self.w.host()["jails"]
        kit.wait_for("one jail", lambda: len(jails()) == 1 and jails()[0].endswith(d["jail_id"]), 20)
        kit.wait_for("one scratch disk", lambda: len(self.w.host()["scratch"]) == 1, 20)
        kit.wait_for("one tap", lambda: kit.sh("ip", "-o", "link").count(": mt") == 1, 20)

    def nothing_left(self):
        after = self.w.host()
        for key, value in self.clean.items():
            want(after[key] == value, "%s: before %s after %s" % (key, value, after[key]))
        want(not self.held(), "no VM runs and somebody has the lock of its volume")

    def step(self, name):
        w, c = self.w, self.c
        wl = self.workload()
        i = wl["instance_id"]
        ending = at_end(name)
        if not with_guest(name) and not w.conf:
            w.conf = w.stand_in()
            kit.answer_for_instances(kit.P + ":1:1::/80", 8080)
            self.clean = w.host()
        self.start(env={"MT_TEST_KILL_STEP": name})
        c.want(i, workload=wl)
        if ending:
            c.wait_status(i, "ready", 40)
            c.want(i, "draining" if name == "life.draining" else "stopped", delay=1)
        self.dies(name)
        self.start()
        if ending:
            c.wait_status(i, "stopped", 40)
            want(not w.vm_processes(), "a VM is left: %s" % w.vm_processes())
        else:
            c.wait_status(i, "ready", 60)
            self.one_vm(i)
            want(w.describe(i)["restart_count"] == 0, "the crash was held against the workload")
            c.want(i, "stopped")
            c.wait_status(i, "stopped", 30)
        c.assignments.pop(i)
        self.end()
        self.nothing_left()

    def end_of_platform_after_kill(self):
        """kill -9 in the middle, then the planned end by the next agent, at once"""
        wl = self.workload()
        self.start(env={"MT_TEST_KILL_STEP": "life.started"})
        self.c.want(wl["instance_id"], workload=wl)
        self.dies("life.started")
        self.start()
        self.end()
        self.nothing_left()
        self.c.assignments.pop(wl["instance_id"])


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - agent killed at every step: needs root")
        return 0
    kit.own_network()
    world = kit.World("kill")
    try:
        world.bundle()
        suite = Suite(world)
        names = steps(True) if sys.argv[1:] == ["end"] else sys.argv[1:] or steps(False)
        cases = [("agent killed at " + n, suite.step, n) for n in sorted(names, key=lambda n: not with_guest(n))]  # stand-ins last: the host answers for them
        cases.insert(sum(map(with_guest, names)), ("agent: planned end right after a kill", suite.end_of_platform_after_kill))
        for case in cases:
            failed = report.failed
            report.case(*case)
            if world.proc.poll() is None:
                world.kill()
            if report.failed != failed:  # the next one begins on a host without VMs and anything of them all the same
                world.control.assignments.clear()
                world.kill_vms()
                try:
                    suite.start()
                    world.stop_all()
                except (AssertionError, OSError) as e:
                    print("# not cleaned up after it: %s" % e, flush=True)
                    world.kill()
                    world.kill_vms()
        if report.failed:
            print("agent log: " + world.tail(30), flush=True)
    finally:
        world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
