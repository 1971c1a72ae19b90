#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How an instance failed is kept: real VMs that cannot start, exit, run out of memory, are sick, or panic; what `moat releases autopsy`
and `moat instances describe` tell of each, and that no value of the environment is in it. COST 65 s, 27 s of processor."""
import json
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

HIDDEN = "swordfish-7d21"
SECRET = f'[processes.web.vars]\nPASSWORD = "{HIDDEN}"\n'


def main():
    need_root()
    own_host()
    p = Platform("a")
    c = Cases()

    def start():
        p.up()
        p.push_app("app")

    def fails(app, argv, code, memory="128Mi", **kw):
        """Deploy what cannot work; its autopsies, once there is one with @code."""
        p.cli("deploy", "-f", "-", "--confirm-no-secrets", "--no-wait", stdin=manifest(app, f"{p.registry}/app:latest", argv, memory=memory, more=SECRET, **kw))
        seen = []

        def told():
            seen[:] = p.json("releases", "autopsy", "--app", app)["items"]
            return [i for i in seen if i["reason_code"] == code]
        try:
            found = wait_until(told, 150, f"an autopsy with {code}")
        except Failed as e:
            raise Failed(f"{e}: {json.dumps(seen)[:600]}")
        finally:
            p.cli("scale", "web=0", "--app", app)
        item = found[0]
        r = item["record"]
        check(HIDDEN not in json.dumps(seen), "a value of the environment is in the autopsy")
        check(r["reason_code"] == code and r["boot_id"] == item["boot_id"] and len(json.dumps(r)) < 20000, json.dumps(r)[:400])
        _, text, _ = p.cli("releases", "autopsy", "v1", "--app", app)
        _, shown, _ = p.cli("instances", "describe", item["instance_id"], "--app", app)
        for out in (text, shown):
            check(code in out and HIDDEN not in out, out[-900:])
        return item, r, text

    def not_found():
        _, r, _ = fails("lost", ["/no-such-program"], "exec_not_found")
        check("no-such-program" in r["reason_detail"] and r["phase"] == "booting", json.dumps(r)[:500])
        check(not [x for x in r["log"] if x["stream"] != "system"] and r["vmm"].startswith("qemu/"), json.dumps(r)[:500])

    def exits():
        _, r, text = fails("three", ["/app", "exit", "3"], "workload_exited")
        check(r["exit_code"] == 3 and "signal" not in r, json.dumps(r)[:500])
        check([x["line"] for x in r["log"]][-1] == "testapp: about to exit with 3" and r["log"][-1]["stream"] == "stdout", json.dumps(r["log"]))
        check("exit code 3" in text and "about to exit with 3" in text, text)

    def out_of_memory():
        _, r, text = fails("hog", ["/app", "hog", "400"], "oom_killed", memory="96Mi")
        check(r["signal"] == "SIGKILL" and r["reason_detail"] == "guest", json.dumps(r)[:500])
        check(r["oom"]["guest_kills"] >= 1 and r["oom"]["cgroup_kills"] == 0 and r["oom"]["memory_bytes"] == 96 << 20, json.dumps(r["oom"]))
        check(any("taking 400 MiB" in x["line"] for x in r["log"]), json.dumps(r["log"]))
        check("96 MiB" in text and "killed for want of memory" in text, text)

    def sick():
        health = ('type = "http"\nport = "main"\npath = "/healthz"\ninterval_seconds = 3\ntimeout_seconds = 3\ngrace_period_seconds = 0\nfailure_threshold = 1')
        _, r, text = fails("sick", ["/app", "sick", "8080"], "healthcheck_failed", port=8080, health=health)
        h = r["health"]
        check(h["type"] == "http" and h["path"] == "/healthz" and h["port"] == 8080 and h["status"] == 503 and h["error"] == "http_503", json.dumps(h))
        check(h["body"] == "the database says: too many clients" and h["failures"] >= 3, json.dumps(h))
        check(r["phase"] == "starting" and "too many clients" in text and "/healthz" in text, text)

    def panics():
        _, r, text = fails("panic", ["/app", "panic"], "vm_lost")
        check("panic" in r["reason_detail"].lower(), r["reason_detail"])
        check(any("Kernel panic" in x for x in r["console"]), json.dumps(r["console"])[-800:])
        check(any("about to crash" in x["line"] for x in r["log"]) and "Kernel panic" in text, text[-900:])

    def no_memory_for_a_kernel():
        _, r, _ = fails("tiny", ["/app", "deaf"], "spec_unsupported", memory="64Mi")
        check("needs at least" in r["reason_detail"] and r["console"] == [] and r["log"] == [] and "vmm" not in r, json.dumps(r)[:500])

    def outage():
        """What fails while the control plane is away is told when it is back, also by an agent that was killed meanwhile."""
        p.cli("deploy", "-f", "-", "--confirm-no-secrets", "--no-wait", stdin=manifest("away", f"{p.registry}/app:latest", ["/app", "serve", "8080"], port=8080))
        inst = p.ready("away")[0]
        pid = p.pid("control")
        os.kill(pid, signal.SIGSTOP)
        try:
            for vm in p.vms():
                try:
                    os.kill(vm, signal.SIGKILL)
                except ProcessLookupError:  # of a case before, on its way out
                    pass
            kept = f"{p.data}/agent/instances/{inst['id']}/autopsy.json"
            wait_until(lambda: os.path.exists(kept), 30, "the agent keeps the record")
            check(HIDDEN not in open(kept).read() and os.stat(kept).st_mode & 0o777 == 0o600, "mode or content of the kept record")
            old = p.kill("agent")
            wait_until(lambda: p.pid("agent") != old, 30, "the agent is back")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: [i for i in p.json("releases", "autopsy", "--app", "away")["items"] if i["reason_code"] == "vm_lost"], 60, "the record is told")
        wait_until(lambda: not os.path.exists(kept), 30, "what is told is not kept")
        p.cli("scale", "web=0", "--app", "away")

    def previous():
        """The attempt before the present one, alone; with -f from its first line on."""
        p.cli("deploy", "-f", "-", "--confirm-no-secrets", "--no-wait", stdin=manifest("again", f"{p.registry}/app:latest", ["/app", "exit", "5"]))
        try:
            wait_until(lambda: [i for i in p.instances("again") if i.get("restart_count", 0) >= 1], 240, "a second attempt")
            wait_until(lambda: len([x for x in p.json("logs", "--app", "again", "-n", "500")["items"] if "about to exit" in x["line"]]) >= 2, 240, "lines of two attempts")
            lines = [x["line"] for x in p.json("logs", "--previous", "--app", "again")["items"]]
            check(lines.count("testapp: about to exit with 5") == 1, lines)
            check(len(p.json("logs", "--previous", "--app", "again", "-n", "1")["items"]) == 1, "-n")
        finally:
            p.cli("scale", "web=0", "--app", "again")

    def follow_through_a_restart():
        """`moat logs -f` while moat-control is killed, twice: every line once, in order."""
        p.cli("deploy", "-f", "-", "--confirm-no-secrets", "--no-wait", stdin=manifest("tail", f"{p.registry}/app:latest", ["/app", "count", "1500", "100"]))
        p.ready("tail", seconds=150)
        out = open(f"{p.work}/tail.out", "wb")
        f = subprocess.Popen([f"{BIN}/moat", "logs", "-f", "-n", "5000", "--json", "--app", "tail"], stdout=out, stderr=subprocess.PIPE, env=p.env, cwd=p.work)

        def rows():
            return [json.loads(x) for x in open(f"{p.work}/tail.out").read().splitlines(True) if x.endswith("\n")]
        try:
            for at in (100, 600):
                wait_until(lambda: sum(r["line"].startswith("n ") for r in rows()) > at, 120, f"line {at}")
                check(f.poll() is None, "moat logs -f ended")
                old = p.kill("control")
                wait_until(lambda: p.pid("control") != old, 30, "moat-control is back")
            wait_until(lambda: [r for r in rows() if r["line"].startswith("done")], 60, "the last line")
            seen = [int(r["line"].split()[1]) for r in rows() if r["line"].startswith("n ")]
            check(seen == list(range(1500)), f"{len(seen)} lines, first wrong: {[(i, x) for i, x in enumerate(seen) if i != x][:3]}")
        finally:
            f.kill()
            f.communicate()
            p.cli("scale", "web=0", "--app", "tail")

    try:
        if c.run("a platform and an image", start):
            c.run("a program that is not there: exec_not_found", not_found)
            c.run("exit 3 after a line: code and line", exits)
            c.run("out of memory: signal, kills and the cap", out_of_memory)
            c.run("a health check that fails: status and body", sick)
            c.run("a kernel panic: the console's last lines", panics)
            c.run("no VM at all: reason without lines", no_memory_for_a_kernel)
            c.run("failed while control and agent were away: told later", outage)
            c.run("logs --previous: the attempt before", previous)
            c.run("logs -f goes on through two kills of moat-control", follow_through_a_restart)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
