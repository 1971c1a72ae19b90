#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL of a whole platform is put back to an older point under real VMs: the agent keeps every VM, the edge goes on serving, the
operator looks, applies and finishes with the CLI, and what the restored log does not know is stopped only then. COST 96 s, 19 s of processor.
"""
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403


class Recovery:
    def __init__(self, p):
        self.p = p
        self.pid_t0 = self.vms = None

    def copy(self):
        """The data of a stopped server, which the supervisor starts again."""
        self.freeze()
        shutil.copytree(f"{self.p.data}/pg", f"{self.p.work}/t0", symlinks=True)
        self.thaw()

    def freeze(self):
        """Supervisor gone, PostgreSQL stopped in order: VMs, agent, edge and control go on."""
        p = self.p
        pid = p.pid("postgres")
        p.kill("up")
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 30, "PostgreSQL has ended")

    def thaw(self):
        self.p.up()

    def first(self):
        p = self.p
        p.up()
        r = p.deploy(p.hello_manifest(p.push_hello("v1", "one")))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        self.copy()
        p.fetch()
        p.cli("scale", "--app", "hello", "--env", "prod", "web=2")
        p.ready(n=2)
        self.vms = p.vms()
        check(len(self.vms) == 2, f"{self.vms}")

    def restored(self):
        p = self.p
        self.freeze()
        st = os.stat(f"{p.data}/pg")
        shutil.rmtree(f"{p.data}/pg")
        shutil.copytree(f"{p.work}/t0", f"{p.data}/pg", symlinks=True)
        for base, _, files in os.walk(f"{p.data}/pg"):
            for f in [base] + [os.path.join(base, x) for x in files]:
                os.chown(f, st.st_uid, st.st_gid)
        self.thaw()
        seen = {}
        # the counts are what the node has told of itself so far
        wait_until(lambda: seen.update(self.plan()) or seen["state"] == "frozen" and seen["counts"] == {"adopt": 1, "start": 0, "stop": 0, "ignore": 1, "unknown": 0}, 30,
                   "a recovery that knows both")
        code, out, err = p.cli("scale", "--app", "hello", "--env", "prod", "web=3", want=None)
        check(code == 6 and "recovery" in err, f"{code} {out} {err}")
        check("in recovery (frozen)" in p.cli("status", "--app", "hello")[2], "reads carry no warning")
        end = time.monotonic() + 13  # longer than an absence takes to count
        while time.monotonic() < end:
            p.fetch()
            check(p.vms() == self.vms, f"{self.vms} are {p.vms()}")
            time.sleep(0.5)

    def plan(self):
        return self.p.json("admin", "recovery", "plan")["data"]

    def apply(self):
        p = self.p
        p.cli("admin", "recovery", "apply", "--reason", "test")
        end = time.monotonic() + 13
        while time.monotonic() < end:
            p.fetch()
            check(p.vms() == self.vms, f"after apply: {self.vms} are {p.vms()}")
            time.sleep(0.5)

    def finish(self):
        p = self.p
        p.cli("admin", "recovery", "finish", "--reason", "test")
        left = wait_until(lambda: len(p.vms()) == 1 and p.vms(), 120, "what the log does not know is stopped")
        check(left[0] in self.vms, "the VM that the log knows was replaced")
        p.fetch()
        p.cli("scale", "--app", "hello", "--env", "prod", "web=2")
        p.ready(n=2)
        addresses = {i["overlay_ipv6"] for i in p.instances() if i.get("overlay_ipv6")}
        check(len(p.vms()) == 2 and len(addresses) != 1, f"{p.vms()} {addresses}")


def main():
    need_root()
    own_host()
    cases, p = Cases(), Platform("recov")
    t = Recovery(p)
    try:
        if cases.run("one VM, a copy of the database, a second VM", t.first) and \
           cases.run("restored: no VM is stopped, the edge serves, changes are refused", t.restored):
            cases.run("apply: both VMs go on", t.apply)
            cases.run("finish: the unknown VM is stopped, the known one is the same, work goes on", t.finish)
    finally:
        p.close()
    return 1 if cases.failed else 0


if __name__ == "__main__":
    sys.exit(main())
