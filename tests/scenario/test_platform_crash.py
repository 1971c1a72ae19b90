#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of anything: the supervisor restarts a daemon, a dead supervisor's programs are adopted, running VMs are never restarted,
and `moat down` works whatever is left. COST 53 s, 15 s of processor."""
import json
import os
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403


def main():
    need_root()
    own_host()
    p = Platform("c")
    c = Cases()
    before = {"restarts": 0}

    def start():
        p.up()
        r = p.deploy(p.hello_manifest(p.push_hello("v1", "one")))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        p.curl()

    def daemon_comes_back(what):
        vms = p.vms()
        old = p.kill(what)
        wait_until(lambda: p.pid(what) != old, 15, f"{what} is restarted")
        wait_until(lambda: p.curl(ok=False), 15, "the page")
        wait_until(lambda: p.instances()[0]["status"] == "ready", 20, "the instance is ready")
        time.sleep(1)
        check(p.vms() == vms, f"VMs were restarted: {vms} -> {p.vms()}")

    def supervisor_dies():
        vms, pids = p.vms(), {d: p.pid(d) for d in DAEMONS}
        p.kill("up")
        time.sleep(0.3)
        p.curl()
        p.up()
        check({d: p.pid(d) for d in DAEMONS} == pids, "daemons were restarted instead of adopted")
        check(p.vms() == vms, "VMs were restarted")
        p.curl()

    def everything_dies():
        vms = p.vms()
        for what in ("up", "control", "edge", "postgres", "agent"):
            p.kill(what)
        for pid, cmd in processes_of(f"{p.data}/etc/registry.yml"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        check(p.vms() == vms, "a VM died with the agent")
        p.up()
        wait_until(lambda: p.curl(ok=False), 20, "the page")
        wait_until(lambda: p.instances()[0]["status"] == "ready", 20, "the instance is ready")
        check(p.vms() == vms, f"VMs were restarted: {vms} -> {p.vms()}")

    def again(vms, seconds):
        """Another VM, a restart that is counted, and ready: looked at once each, since the first report of the end comes a moment later."""
        def there():
            now, i = p.vms(), p.instances()[0]
            return len(now) == 1 and now != vms and i["status"] == "ready" and i["restart_count"] > before["restarts"]
        wait_until(there, seconds, "a new boot attempt that is counted is ready")
        before["restarts"] = p.instances()[0]["restart_count"]

    def vm_dies():
        vms = p.vms()
        check(len(vms) == 1, f"VMs: {vms}")
        os.kill(vms[0], signal.SIGKILL)
        again(vms, 40)
        wait_until(lambda: p.curl(ok=False), 10, "the page")

    def vsock_dies():
        vms = p.vms()
        vs = [q for q, cmd in processes_of("moat-vsock") if "qemu" not in cmd and p.is_ours(q)]
        check(vs, "no moat-vsock runs")
        os.kill(vs[0], signal.SIGKILL)
        again(vms, 60)

    def down_and_up_again():
        check(p.down().returncode == 0, "moat down failed")
        check(not p.vms() and not processes_of(p.data + "/"), "something still runs")
        p.up()
        wait_until(lambda: p.curl(ok=False), 40, "the page after a restart of the whole platform")

    def down_after_everything_died():
        for what in ("up", "control", "edge", "postgres", "agent"):
            p.kill(what)
        left = p.close()
        check(not left, "; ".join(left))

    try:
        if c.run("a platform with one app", start):
            for what in ("control", "edge", "agent"):
                c.run(f"kill -9 of {what}: restarted, the VM runs on", daemon_comes_back, what)
            c.run("kill -9 of the supervisor: the next moat up adopts all", supervisor_dies)
            c.run("kill -9 of everything but the VM: the next moat up recovers, the VM runs on", everything_dies)
            c.run("kill -9 of the VM: a new boot attempt", vm_dies)
            c.run("kill -9 of moat-vsock: both end, a new boot attempt", vsock_dies)
            c.run("down and up again: the app comes back", down_and_up_again)
    finally:
        if c.failed:
            for n in ("up", "control", "agent", "edge"):
                print(f"--- log of {n}\n{p.log(n)}")
        c.run("moat down after kill -9 of everything leaves the host as it was", down_after_everything_died)
        if os.path.exists(p.dir):
            p.close()
    return 1 if c.failed else 0


sys.exit(main())
