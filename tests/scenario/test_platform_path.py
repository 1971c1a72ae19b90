#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole way as a user types it: up, deploy, page over TLS through the edge, update, hold, rollback, scale, logs, events, down.
COST 90 s, 55 s of processor."""
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403


def main():
    need_root()
    own_host()
    p = Platform("p", own_bundle=True)
    c = Cases()
    state = {}

    def up():
        p.up()
        check(os.path.exists(f"{p.data}/run/control/api.sock"), "no API socket")

    def up_is_fast():
        check(p.down().returncode == 0, "moat down failed")
        start = time.monotonic()
        p.up()
        took = time.monotonic() - start
        check(took <= 6.0, f"the second start took {took:.1f} s, more than 6")

    def second_up():
        code, _, err = p.cli("up", "--detach", "--data-dir", p.data)
        check("already" in err, err)

    def first_deploy():
        image = p.push_hello("v1", "one")
        state["image"] = image
        r = p.deploy(p.hello_manifest(image))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        steps = r["timeline_ms"]
        check(all(k in steps for k in ("scheduled", "disk", "VM", "ready", "routed")), f"timeline {steps}")

    def page():
        body = p.curl()
        check("hello from a microVM" in body and "release   v1" in body, body)
        inst = p.instances()[0]
        check(inst["id"] in body, f"instance {inst['id']} is not on the page: {body}")
        kernel = os.uname().release
        check(f"Linux {kernel}" not in body, "the page shows the host's kernel: not a VM")

    def wrong_name():
        r = subprocess.run(["openssl", "s_client", "-connect", f"[::1]:{p.port}", "-servername", "nobody.moat.test", "-brief"], input="",
                           capture_output=True, text=True, timeout=10)
        check("unrecognized name" in r.stderr, r.stderr[-300:])

    def json_everywhere():
        for args in (["status", "--app", "hello"], ["ps", "--app", "hello"], ["releases", "--app", "hello"], ["routes", "--app", "hello"], ["events"],
                     ["deploys", "list", "--app", "hello"], ["nodes"], ["whoami"], ["apps", "list"], ["envs", "list", "--app", "hello"],
                     ["orgs", "list"], ["logs", "--app", "hello"], ["scale", "--app", "hello"], ["version"], ["doctor"]):
            _, out, _ = p.cli(*args, "--json", want=None)
            check(len(out.strip().splitlines()) == 1, f"{args}: more than one document")
            doc = json.loads(out)
            check("kind" in doc, f"{args}: {out[:200]}")
        for args in (["status"], ["ps"], ["releases"], ["routes"], ["events"], ["logs"], ["scale"]):
            _, out, err = p.cli(*args, *(["--app", "hello"] if args != ["events"] else []))
            check(out.strip(), f"{args}: nothing on stdout: {err}")

    def logs():
        _, out, _ = p.cli("logs", "--app", "hello")
        check("hello: serving HTTPS" in out, out)

    def idempotent():
        text = p.hello_manifest(state["image"])
        a = p.json("deploy", "-f", "-", "--confirm-no-secrets", "--no-wait", stdin=text)
        check(a["kind"] == "Receipt", str(a))
        p.cli("deploys", "wait", a["resource"]["id"], "--app", "hello", "--wait")
        check(len(p.json("releases", "--app", "hello")["items"]) == 1, "the same image and manifest made a second release")
        check(len(p.instances()) == 1, "a deploy of the same release replaced the instance")

    def rolling_update():
        image = p.push_hello("v2", "two")
        state["image2"] = image
        load = Load(p)
        try:
            r = p.deploy(p.hello_manifest(image))
        finally:
            ok, errors = load.end()
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        check(not errors, f"{len(errors)} of {ok} requests failed during the update: {errors[:3]}")
        check({"v1", "v2"} <= load.bodies, f"pages seen: {load.bodies}")
        wait_until(lambda: len(p.instances()) == 1, 30, "the old instance is gone")

    def failing_release_is_held():
        image = p.push_app("bad", cmd=["exit", "7"])
        text = p.hello_manifest(image).replace('command = ["/app/hello", "8443"]', 'command = ["/app", "exit", "7"]')
        load = Load(p)
        try:
            p.deploy(text, want=8, timeout=240)
        finally:
            ok, errors = load.end()
        check(not errors, f"{len(errors)} of {ok} requests failed meanwhile: {errors[:3]}")
        d = p.json("deploys", "list", "--app", "hello")["items"][0]
        check(d["status"] == "failed", str(d))
        st = p.status()
        last = json.dumps(st["last_deploy"])
        check("7" in last or "workload_exited" in last, f"the reason does not tell: {last}")
        check("about to exit with 7" in json.dumps(p.json("deploys", "get", d["id"], "--app", "hello")), "the last log line is not told")
        check("release   v2" in p.curl(), "the old release does not serve")

    def rollback():
        p.cli("rollback", "--to", "v1", "--app", "hello", "--wait", timeout=180)
        wait_until(lambda: "release   v1" in p.curl(), 10, "the page of v1")

    def scale():
        p.cli("scale", "web=2", "--app", "hello")
        p.ready(n=2)
        wait_until(lambda: len({next(x for x in p.fetch().splitlines() if x.startswith("instance")) for _ in range(8)}) == 2, 20, "both replicas answer")
        p.cli("scale", "web=1", "--app", "hello")
        wait_until(lambda: len(p.instances()) == 1, 40, "one replica")

    def run_command():
        image = p.push_app("runme", cmd=["serve", "9000"])
        code, out, err = p.cli("run", image, "--port", "9000", "--wait")
        check('ref = "' in err and "schema_version" in err, "the generated manifest is not shown")
        check(len(p.ready("runme")) == 1, "no ready instance")

    def isolation():
        a, b = (p.instances("hello")[0]["overlay_ipv6"], p.instances("runme")[0]["overlay_ipv6"])
        check(a != b, "two VMs share an address")
        r = subprocess.run(["setpriv", "--reuid", "nobody", "--clear-groups", "curl", "-sS", "-m", "2", f"http://[{b}]:9000/"], capture_output=True, text=True)
        check(r.returncode != 0, "a user of this machine reaches a VM's port past the edge")
        r = subprocess.run(["setpriv", "--reuid", "moat-edge", "--clear-groups", "curl", "-sS", "-m", "5", f"http://[{b}]:9000/"], capture_output=True, text=True)
        check(r.returncode == 0 and r.stdout == "none", f"the edge's user does not reach a declared port: {r.stderr}")

    def confinement():
        for pid in p.vms() + [q for q, cmd in processes_of("moat-vsock") if p.is_ours(q)]:
            for t in os.listdir(f"/proc/{pid}/task"):
                s = dict(x.split(":\t", 1) for x in open(f"/proc/{pid}/task/{t}/status").read().splitlines() if ":\t" in x)
                check(s["Seccomp"] == "2" and s["NoNewPrivs"] == "1", f"{pid}: Seccomp {s['Seccomp']} NoNewPrivs {s['NoNewPrivs']}")
                check(int(s["CapEff"], 16) == 0 and int(s["CapPrm"], 16) == 0, f"{pid}: capabilities {s['CapEff']}")
                check(int(s["Uid"].split()[0]) >= 200000, f"{pid}: uid {s['Uid']}")

    def daemons_are_small():
        limits = {"agent": 12, "edge": 8, "control": 30}
        found = {d: pss_kib(p.pid(d)) / 1024 for d in limits}
        print("  Pss " + ", ".join(f"{d} {v:.1f} MiB" for d, v in found.items()))
        for d, v in found.items():
            check(v <= limits[d], f"{d} has {v:.1f} MiB Pss, more than {limits[d]}")

    def errors_are_clear():
        code, out, err = p.cli("deploy", "-f", "-", "--confirm-no-secrets", stdin=p.hello_manifest(state["image"]).replace("memory", "memmory"), want=2)
        check("memmory" in err and "did you mean 'memory'" in err and "<" not in err.split(":")[0], err)
        code, out, err = p.cli("status", "--app", "nothing", want=4)
        code, out, err = p.cli("deploy", "-f", "missing.toml", want=2)

    def ctrl_c():
        check(p.down().returncode == 0, "moat down failed")
        pid, tty = pty.fork()
        if pid == 0:
            os.execve(f"{BIN}/moat", ["moat", "up", "--data-dir", p.data], dict(p.env, TERM="dumb"))
        said = b""

        def read(until, seconds):
            nonlocal said
            end = time.monotonic() + seconds
            while until not in said:
                check(select.select([tty], [], [], max(0, end - time.monotonic()))[0], f"no {until!r} within {seconds} s: {said[-600:]!r}")
                try:
                    said += os.read(tty, 4096)
                except OSError:  # the other side is closed
                    break

        try:
            read(b"ready in", 60)
            wait_until(lambda: p.curl(ok=False), 40, "the page of a platform in the foreground")
            check(len(p.vms()) >= 1, "no VM runs")
            os.write(tty, b"\x03")
            read(b"stopped in", 60)
            _, status = os.waitpid(pid, 0)
            pid = 0
            check(os.waitstatus_to_exitcode(status) in (0, 130), f"moat up ended with {os.waitstatus_to_exitcode(status)}")
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(tty)
        left = p.host_differs()
        check(not left, "; ".join(left))

    try:
        if c.run("moat up starts a platform", up):
            c.run("a second start is ready within 6 s", up_is_fast)
            c.run("up --detach on a running platform says so", second_up)
            if c.run("deploy --wait brings the example up with a split timeline", first_deploy):
                c.run("curl gets the page over TLS that ends inside the VM", page)
                c.run("a name without a route gets alert unrecognized_name", wrong_name)
                c.run("every command speaks JSON, one document", json_everywhere)
                c.run("logs of the workload are shown", logs)
                c.run("deploying the same again changes nothing", idempotent)
                c.run("a rolling update loses no request", rolling_update)
                c.run("a failing release is held, the old one keeps serving", failing_release_is_held)
                c.run("rollback brings the first release back", rollback)
                c.run("scale to two and back", scale)
                c.run("moat run deploys an image without a file", run_command)
                c.run("only the edge reaches a VM, and only its declared ports", isolation)
                c.run("VMM processes are confined", confinement)
                c.run("idle daemons are small", daemons_are_small)
                c.run("errors name the thing, the reason and the mend", errors_are_clear)
                c.run("Ctrl-C ends a platform in the foreground and gives the host back", ctrl_c)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
