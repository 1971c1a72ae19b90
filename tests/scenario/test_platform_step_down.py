#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The agent dies at each recorded step of an instance, the supervisor with it, and `moat down` alone has to give the host back: links,
addresses, routes, firewall tables, mounts, cgroups, processes are what they were before the platform was ever started. COST 134 s, 35 s of processor.

The list of steps comes from the agent itself (--list-steps). Those of the way up; test_platform_step_down_end.py has those of the end. Arguments: names of steps to try instead, or `end`.
At the steps of the teardown nothing is left of the guest, only of its VM: it is a stand-in there (agentkit.stand_in), all else is real.
"""
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403
import agentkit  # noqa: E402

ENDING = ("life.draining", "life.stopping", "life.exited", "life.stopped")


def at_end(step):
    return step.startswith("teardown.") or step in ENDING


def steps(end):
    out = subprocess.run([f"{BIN}/moat-agent", "--list-steps"], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [s for s in out.split() if at_end(s) == end and not s.startswith("volume.")]  # those have test_agent_volumes.py


def stands_in(step):
    return step.startswith("teardown.") and os.path.exists(agentkit.STANDIN)


class StepDown:
    def __init__(self, p):
        self.p = p
        self.clean = None
        self.answers = False

    def host(self):
        """All that a platform may change on a host of its own."""
        s = host_snapshot()
        s["processes"] = [cmd[:200] for _, cmd in processes_of(self.p.data + "/")] + self.p.vms()
        return s

    def first(self):
        self.p.up()
        mount = '[[processes.web.mounts]]\nvolume = "data"\npath = "/data"\n[[volumes]]\nname = "data"\nsize = "1Gi"\n'  # or its steps do not come
        r = self.p.deploy(self.p.hello_manifest(self.p.push_hello("v1", "one"), more=mount))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        self.scale(0)
        self.prefix = self.p.json("nodes")["items"][0]["instance_prefix"]
        wait_until(lambda: not self.p.vms(), 30, "the VM has ended")
        self.down()

    def scale(self, n):
        self.p.cli("scale", "--app", "hello", "--env", "prod", f"web={n}")

    def down(self):
        r = self.p.down()
        check(r.returncode == 0, f"moat down: {r.returncode} {r.stdout[-400:]}{r.stderr[-800:]}")
        after = self.host()
        for key, value in self.clean.items():
            check(after[key] == value, f"{key}: before {value} after {after[key]}")

    def agent_that_dies(self, step):
        """The supervisor and its agent are killed; the same agent, told to end itself at the step, takes its place."""
        pid = self.p.pid("agent")
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            argv = f.read().decode().split("\0")[:-1]
        if stands_in(step):
            argv = [self.stand_in_config() if a.endswith("/etc/agent.toml") else a for a in argv]
        self.p.kill("up")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the agent has ended and its lock with it")
        with open(f"{self.p.data}/log/agent.log", "ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                    env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MT_TEST_KILL_STEP": step})

    def stand_in_config(self):
        """The agent's configuration file with other programs for the VM in it; its path."""
        keys = agentkit.stand_in(f"{self.p.dir}/programs")
        path = f"{self.p.data}/etc/agent-stand-in.toml"
        with open(f"{self.p.data}/etc/agent.toml") as f:
            lines = [f"bin_dir = {json.dumps(keys['bin_dir'])}\n" if line.startswith("bin_dir =") else line for line in f]
        with open(path, "w") as f:
            f.write("".join(lines) + "\n[programs]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys["programs"].items()))
        return path

    def step(self, name):
        p = self.p
        if stands_in(name) and not self.answers:
            self.answers = True
            agentkit.answer_for_instances(self.prefix, 8443)
            self.clean["routes"] = self.host()["routes"]
        p.up()
        wait_until(lambda: not p.instances(), 30, "what the step before left has ended")  # or the agent dies of that
        with open(f"{p.data}/run/vmm.json") as f:
            choice = f.read()
        agent = self.agent_that_dies(name)
        try:
            self.scale(1)
            if at_end(name):
                wait_until(lambda: agent.poll() is not None or [i for i in p.instances() if i["status"] == "ready"], 90, "the instance is ready")
                check(agent.poll() is None, "the agent died before the instance was ready")
                if name == "life.draining":
                    p.kill("edge")  # or it acknowledges at once and the agent is told `stopped` without `draining` before it
                self.scale(0)
            wait_until(lambda: agent.poll() is not None, 90, f"the agent's death at {name}")
            rc = agent.poll()
            check(rc == -signal.SIGKILL, f"the agent ended with {rc}")
            self.scale(0)  # or the next start would boot it before the agent that dies is there
        finally:
            if agent.poll() is None:
                agent.kill()
                agent.wait()
            with open(f"{p.data}/run/vmm.json", "w") as f:  # of the stand-in, it would make the next start boot a probe
                f.write(choice)
        self.down()


def main():
    need_root()
    own_host()
    p = Platform("sd")
    c, s = Cases(), StepDown(p)
    s.clean = s.host()
    try:
        if c.run("a platform that has run an instance goes down clean", s.first):
            names = steps(True) if sys.argv[1:] == ["end"] else sys.argv[1:] or steps(False)
            for name in sorted(names, key=stands_in):
                if not c.run(f"agent killed at {name}, then moat down: the host is as before", s.step, name):
                    p.down()
    finally:
        if c.failed:
            for n in ("up", "control", "agent"):
                print(f"--- log of {n}\n{p.log(n)}")
        left = p.close()
        if left:
            print(f"  left: {'; '.join(left)[:600]}")
    return 1 if c.failed else 0


sys.exit(main())
