#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole way as a user types it: up, deploy, page over TLS through the edge, update, hold, rollback, scale, logs, events, down.
COST 209 s, 77 s of processor."""
import base64
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403
sys.path.insert(1, os.path.dirname(os.path.abspath(__file__)))
import backupkit  # noqa: E402


PG = "/usr/lib/postgresql/15/bin"
CANARY = "cAnArY-in-a-secret-"


def forms(value):
    """What a value may look like where it must not be: as it is, in hex, in base64 at each alignment."""
    raw = value.encode()
    out = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for pad in range(3):
        b = base64.b64encode(b"x" * pad + raw)
        out.add(b[4 if pad else 0:-4])
    return out


def chunks(path):
    """The data of a file, holes left out, in overlapping pieces."""
    with open(path, "rb") as f:
        at, end = 0, os.fstat(f.fileno()).st_size
        while at < end:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            data = os.pread(f.fileno(), 1 << 22, at)
            if not data:
                return
            yield data
            at += max(len(data) - 256, 1) if at + len(data) < end else len(data)


def search(p, planted):
    """(where, value) of each place that holds one: files of the platform with the database's and its WAL, scratch disks, logs; dump and
    decoded WAL; what commands, API, agent and metrics say. The node's tmpfs is where they may be, and is left out."""
    needles = {f: v for v in planted for f in forms(v)}
    pattern = re.compile(b"|".join(re.escape(n) for n in needles))
    hits = set()
    start = forms(CANARY)  # each form of a planted value begins with one of these: where none is, there is no value
    check(all(n.startswith(tuple(start)) for n in needles), needles)

    def look(where, data):
        if any(f in data for f in start):
            hits.update((where, needles[m]) for m in pattern.findall(data))

    def run(*argv, **kw):
        r = subprocess.run(argv, capture_output=True, cwd="/", **kw)
        look(" ".join(argv), r.stdout + r.stderr)
        return r

    r = run(f"{PG}/pg_dump", "-h", f"{p.data}/run/pg", "-U", "moat_owner", "moat", user="moat-control")
    check(r.returncode == 0 and b"secret_material" in r.stdout, r.stderr)
    wal = sorted(n for n in os.listdir(f"{p.data}/pg/pg_wal") if len(n) == 24)
    r = run(f"{PG}/pg_waldump", "-p", f"{p.data}/pg/pg_wal", wal[0], wal[-1])
    check(r.stdout.count(b"rmgr") > 1000, r.stderr[-300:])
    n = 0
    for top in (p.data, "/var/lib/systemd/coredump", "/var/crash"):
        for d, dirs, names in os.walk(top):
            if d == f"{p.data}/run/secrets":
                dirs.clear()
                continue
            for name in names:
                path = os.path.join(d, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    n += 1
                    try:
                        for data in chunks(path):
                            look(path, data)
                    except FileNotFoundError:  # of a database at work
                        pass
    check(n > 300, f"only {n} files were looked through")
    at = ("--app", "hello", "--env", "prod")
    inst = p.instances()[0]["id"]
    for words in (("secrets", "list"), ("secrets", "status"), ("secrets", "history"), ("secrets", "render"), ("events", "-n", "500"), ("status",), ("ps", "--all"), ("deploys", "list"),
                  ("instances", "get", inst), ("describe", "instance", inst), ("describe", "env", "prod"), ("why", inst), ("logs",), ("audit", "list"), ("diff", "--from", "-1h"),
                  ("status", "--at", "-1m"), ("releases", "autopsy"), ("secrets", "set", "A=B=C", "MOAT_X=1"), ("support-bundle", f"{p.work}/bundle{os.urandom(3).hex()}")):
        code, out, err = p.cli(*words, *at, "--json", "--debug", want=None)
        look("moat " + " ".join(words), (out + err).encode())
    for d, _, names in os.walk(p.work):
        for name in names:
            if "bundle" in d:
                look("support bundle", open(os.path.join(d, name), "rb").read())
    for sock in (f"{p.data}/run/control/api.sock", f"{p.data}/run/edge/edge.sock"):
        r = run("curl", "-sS", "--unix-socket", sock, "http://x/metrics")
        check(b"moat_" in r.stdout, f"no metrics at {sock}: {r.stderr}")
    for op in ({"op": "list"}, {"op": "describe", "instance_id": inst}, {"op": "logs", "instance_id": inst}, {"op": "console", "instance_id": inst}):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(f"{p.data}/run/agent.sock")
            s.sendall(json.dumps(op).encode() + b"\n")
            s.shutdown(socket.SHUT_WR)
            said = b""
            while piece := s.recv(65536):
                said += piece
        check(said, f"the agent says nothing to {op}")
        look(json.dumps(op), said)
    for pid, cmd in processes_of(p.data):
        look(f"command line of {pid}", cmd.encode())
        try:
            look(f"environment of {pid}", open(f"/proc/{pid}/environ", "rb").read())
        except OSError:
            pass
        if re.search("/moat-(control|agent)$", cmd.split()[0]):
            check(re.search(r"Max core file size +0 +0 ", open(f"/proc/{pid}/limits").read()), f"{cmd}: core dumps are on")
    return hits


def main():
    need_root()
    backupkit.versitygw()  # made where there is a network
    own_host()
    p = Platform("p", own_bundle=True)
    c = Cases()
    state, planted = {}, []

    def up():
        p.up()
        check(os.path.exists(f"{p.data}/run/control/api.sock"), "no API socket")

    def up_is_fast():
        def once():
            check(p.down().returncode == 0, "moat down failed")
            start = fair.now()
            p.up()
            return fair.now() - start
        took, quick = fair.best(once, lambda seen: min(seen) <= 6.0, 1, 4)
        check(quick, f"the second start took {took} s, more than 6")

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
                           capture_output=True, text=True, timeout=120)
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
            wait_until(lambda: {"v1", "v2"} <= load.bodies, 20, "a page of each release")
        finally:
            ok, errors = load.end()
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        check(not errors, f"{len(errors)} of {ok} requests failed during the update: {errors[:3]}")
        wait_until(lambda: len(p.instances()) == 1, 30, "the old instance is gone")

    def trace_is_everywhere():
        """The request that made the update, in what control plane, agent (of the new instance and of the one it replaced) and edge wrote about it."""
        made = max((e for e in p.json("events", "-n", "500", "--app", "hello")["items"] if e["event_type"] == "deploy.created"), key=lambda e: e["event_id"])
        trace = 0
        for letter in made["request_id"].removeprefix("req_"):
            trace = trace * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
        trace = f"{trace:032x}"

        def said(name):
            with open(f"{p.data}/log/{name}.log") as f:
                return [o for o in (json.loads(line) for line in f if trace in line) if o.get("trace_id") == trace]
        new = p.instances()[0]["id"]
        wait_until(lambda: {"booting", "ready"} <= {o["to"] for o in said("agent") if o["msg"] == "instance.phase" and o["instance_id"] == new}, 40, f"the agent's lines of {trace}")
        wait_until(lambda: {o["to"] for o in said("agent") if o["msg"] == "instance.phase" and o["instance_id"] != new} >= {"draining"}, 40, "those of the one that was replaced")
        wait_until(lambda: [o for o in said("edge") if o["msg"] == "edge.change_served" and o["revision"] > made["event_id"]], 40, "the edge's")

    def failing_release_is_held():
        image = p.push_app("bad", cmd=["exit", "7"])
        text = p.hello_manifest(image).replace('command = ["/app/hello", "8443"]', 'command = ["/app", "exit", "7"]')
        load = Load(p)
        try:
            p.deploy(text, want=8)
        finally:
            ok, errors = load.end()
        check(not errors, f"{len(errors)} of {ok} requests failed meanwhile: {errors[:3]}")
        d = p.json("deploys", "list", "--app", "hello")["items"][0]
        check(d["status"] == "failed", str(d))
        st = p.status()
        last = json.dumps(st["last_deploy"])
        check("7" in last or "workload_exited" in last, f"the reason does not tell: {last}")
        wait_until(lambda: "about to exit with 7" in json.dumps(p.json("deploys", "get", d["id"], "--app", "hello")), 20, "the last log line is told")
        check("release   v2" in p.curl(), "the old release does not serve")

    def rollback():
        p.cli("rollback", "--to", "v1", "--app", "hello", "--wait", timeout=600)
        wait_until(lambda: "release   v1" in p.curl(), 10, "the page of v1")

    def scale():
        p.cli("scale", "web=2", "--app", "hello")
        p.ready(n=2)
        wait_until(lambda: len({next(x for x in p.fetch().splitlines() if x.startswith("instance")) for _ in range(8)}) == 2, 20, "both replicas answer")
        p.cli("scale", "web=1", "--app", "hello")
        wait_until(lambda: len(p.instances()) == 1, 40, "one replica")

    def secret(name):
        planted.append(f"{CANARY}{name}-{os.urandom(6).hex()}")
        return planted[-1]

    def rotation():
        """Two replicas under load: a new version of the secrets replaces both, and every request is answered."""
        at = ("--app", "hello", "--env", "prod")
        p.cli("scale", "web=2", "--app", "hello", "--wait", timeout=600)
        old = {i["id"] for i in p.instances()}
        load = Load(p)
        try:
            _, out, err = p.cli("secrets", "set", "DB_PASS=-", *at, "--wait", stdin=secret("set"), timeout=600)
        finally:
            ok, errors = load.end(51)
        check(not errors, f"{len(errors)} of {ok} requests failed during the rotation: {errors[:3]}")
        check(ok > 50, f"only {ok} requests were made")
        check("2 of 2 instances on version" in err, err)
        wait_until(lambda: len(p.instances()) == 2, 60, "the old instances are gone")
        new, s = p.instances(), p.json("secrets", "status", *at)["data"]
        check(not old & {i["id"] for i in new}, f"not replaced: {new}")
        check({i["secret_version_id"] for i in new} == {s["version_id"]}, f"{s} {new}")
        wait_until(lambda: sorted(os.listdir(f"{p.data}/run/secrets")) == [s["version_id"]], 30, "the node keeps no other version")
        print(f"  {ok} requests, 0 failed", flush=True)

    def tampered():
        """What the database's own administrator changes does not start: the instance says so, the operator's log too, the old ones serve."""
        at = ("--app", "hello", "--env", "prod")

        def sql(text):
            r = subprocess.run([f"{PG}/psql", "-h", f"{p.data}/run/pg", "-U", "moat_owner", "-d", "moat", "-v", "ON_ERROR_STOP=1", "-Atc", text],
                               capture_output=True, text=True, cwd="/", user="moat-control")
            check(r.returncode == 0, r.stderr)
            return r.stdout.strip()

        before = {i["id"] for i in p.instances()}
        sql("CREATE FUNCTION moat.flip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.envelope = set_byte(NEW.envelope, 30, get_byte(NEW.envelope, 30) # 1);"
            " RETURN NEW; END $$; CREATE TRIGGER flip BEFORE INSERT ON moat.secret_material FOR EACH ROW EXECUTE FUNCTION moat.flip()")
        try:
            code, out, err = p.cli("secrets", "set", "DB_PASS=-", *at, stdin=secret("tampered"))
            version = p.json("secrets", "status", *at)["data"]["version_id"]

            def refused():
                return [i for i in p.json("ps", "--all", *at)["items"] if i.get("reason_code") == "secrets_injection_failed"]
            found = wait_until(refused, 60, "an instance whose secrets do not open")
            check(found[0]["reason_detail"] == f"decrypt_failed: {version}", found)
            wait_until(lambda: [line for line in open(f"{p.data}/log/control.log") if "secrets.do_not_open" in line and version in line], 20, "a line for the operator")
            check(before <= {i["id"] for i in p.instances() if i["status"] == "ready"}, "the old instances do not serve")
            check("hello from a microVM" in p.curl(), "the page")
        finally:
            sql("DROP TRIGGER flip ON moat.secret_material; DROP FUNCTION moat.flip")
        p.cli("secrets", "import", "-", "--replace", *at, "--wait", stdin=f"export DB_PASS='{secret('replaced')}'\n", timeout=600)
        p.cli("scale", "web=1", "--app", "hello", "--wait", timeout=600)

    def canaries():
        """The values planted above, looked for in everything that is kept or said; and one that is there on purpose is found."""
        check(len(planted) == 3, planted)
        there = f"{p.data}/log/planted.log"
        with open(there, "wb") as f:
            f.write(b"x" * 5000000 + base64.b64encode(b"ab" + planted[1].encode()))
        try:
            found = search(p, planted)
        finally:
            os.unlink(there)
        check((there, planted[1]) in found, "what is there on purpose was not found")
        found = [f"{where}: {v}" for where, v in found if where != there]
        check(not found, f"{len(found)}: {found[:5]}")
        inside = b"".join(open(os.path.join(f"{p.data}/run/secrets", n), "rb").read() for n in os.listdir(f"{p.data}/run/secrets"))
        check(planted[2].encode() in inside, "the tmpfs of the node does not hold the file that instances have")

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
        r = subprocess.run(["setpriv", "--reuid", "moat-edge", "--clear-groups", "curl", "-sS", "-m", "60", f"http://[{b}]:9000/"], capture_output=True, text=True)
        check(r.returncode == 0 and r.stdout == "none", f"the edge's user does not reach a declared port: {r.stderr}")

    def confinement():
        looked_at = 0
        for pid in p.vms() + [q for q, cmd in processes_of("moat-vsock") if p.is_ours(q)]:
            try:
                threads = [open(f"/proc/{pid}/task/{t}/status").read() for t in os.listdir(f"/proc/{pid}/task")]
            except (FileNotFoundError, ProcessLookupError):  # one of a VM that is just being ended
                continue
            looked_at += 1
            for status in threads:
                s = dict(x.split(":\t", 1) for x in status.splitlines() if ":\t" in x)
                if s["State"].startswith("Z"):
                    continue
                check(s["Seccomp"] == "2" and s["NoNewPrivs"] == "1", f"{pid}: Seccomp {s['Seccomp']} NoNewPrivs {s['NoNewPrivs']}")
                check(int(s["CapEff"], 16) == 0 and int(s["CapPrm"], 16) == 0, f"{pid}: capabilities {s['CapEff']}")
                check(int(s["Uid"].split()[0]) >= 200000, f"{pid}: uid {s['Uid']}")
        check(looked_at >= 4, f"only {looked_at} processes of two VMs were looked at")

    def daemons_are_small():
        limits = {"agent": 12, "edge": 8, "control": 30}
        found = {}

        def small():  # idle: what the case before asked for may still be on its way
            found.update({d: pss_kib(p.pid(d)) / 1024 for d in limits})
            return all(found[d] <= limits[d] for d in limits)
        end = fair.now() + fair.LEAST
        while not small() and fair.now() < end:
            time.sleep(0.5)
        print("  Pss " + ", ".join(f"{d} {v:.1f} MiB" for d, v in found.items()))
        for d, v in found.items():
            check(v <= limits[d], f"{d} has {v:.1f} MiB Pss, more than {limits[d]}")

    def errors_are_clear():
        code, out, err = p.cli("deploy", "-f", "-", "--confirm-no-secrets", stdin=p.hello_manifest(state["image"]).replace("memory", "memmory"), want=2)
        check("memmory" in err and "did you mean 'memory'" in err and "<" not in err.split(":")[0], err)
        code, out, err = p.cli("status", "--app", "nothing", want=4)
        code, out, err = p.cli("deploy", "-f", "missing.toml", want=2)

    def kept(path=""):
        """What the program of app `keeper` answers, asked on the node itself: what it kept, and the MiB of its filesystem."""
        at = [i for i in p.instances("keeper") if i["status"] == "ready"]
        r = at and subprocess.run(["curl", "-6", "-s", "-m", "60", f"http://[{at[0]['overlay_ipv6']}]:8080/{path}"], capture_output=True, text=True)
        return r.stdout if r and r.returncode == 0 else ""

    def keeper(n):
        r = p.deploy(manifest("keeper", state["keeper"], ["/app", "keep", "/data"], port=8080, more=f'[[processes.web.mounts]]\nvolume = "data"\n'
                              f'path = "/data"\n[[volumes]]\nname = "data"\nsize = "1Gi"\n[env.vars]\nN = "{n}"\n'))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))

    def volume_outlives_releases():
        state["keeper"] = p.push_app("keeper")
        keeper(1)
        check(kept("w/one").startswith("one |"), kept())
        keeper(2)
        wait_until(lambda: kept().startswith("one |"), 20, "what was kept, from the next release")
        small = int(kept().split("| ")[1])
        p.cli("volumes", "resize", "data", "--size", "2Gi", "--app", "keeper", "--env", "prod")
        keeper(3)
        got = wait_until(kept, 20, "an answer of the larger one")
        check(got.startswith("one |") and int(got.split("| ")[1]) > small + 800, got)
        at = wait_until(lambda: [v for v in p.json("volumes", "list", "--app", "keeper", "--env", "prod")["items"] if v["size_bytes"] == 2 << 30], 20, "the size in the list")[0]
        check(at["state"] == "in_use" and at["reachable"], at)
        state["volume"] = at["id"]

    def volume_is_deleted():
        at = ("--app", "keeper", "--env", "prod")
        p.cli("volumes", "create", "spare", "--size", "1Gi", *at)
        spare = wait_until(lambda: [v for v in p.json("volumes", "list", *at)["items"] if v["name"] == "spare" and v["state"] == "available"], 30, "the volume")[0]["id"]
        check(os.stat(f"{p.data}/volumes/vol-{spare}.img").st_size == 1 << 30, os.listdir(f"{p.data}/volumes"))
        p.cli("volumes", "delete", "spare", *at)
        wait_until(lambda: not [f for f in os.listdir(f"{p.data}/volumes") if spare in f], 30, "the end of its file")
        wait_until(lambda: [v["name"] for v in p.json("volumes", "list", *at)["items"]] == ["data"], 30, "the end of it in the list")
        check(sorted(os.listdir(f"{p.data}/volumes")) == [f"vol-{state['volume']}.img", state["volume"] + ".lock"], os.listdir(f"{p.data}/volumes"))

    def volume_is_restored():
        """by way of a store of somebody else"""
        at = ("--app", "keeper", "--env", "prod")
        store = backupkit.Store("versitygw", p.work)
        if store.why:
            raise Skip(store.why)
        try:
            with open(os.open(f"{p.data}/etc/backup.toml", os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
                f.write(f'endpoint = "http://127.0.0.1:{store.port}"\nbucket = "{backupkit.BUCKET}"\naccess_key = "{backupkit.ACCESS}"\nsecret_key = "{backupkit.SECRET}"\n')
            wait_until(lambda: p.json("nodes")["items"][0]["allocatable"].get("restores"), 30, "a node that restores")
            p.cli("snapshots", "create", "data", "--wait", *at, timeout=600)
            p.cli("volumes", "restore", "data", "--name", "copy", "--wait", *at, timeout=600)
            new = {v["name"]: v for v in p.json("volumes", "list", *at)["items"]}
            check(new["copy"]["state"] == "available" and new["copy"]["size_bytes"] == 2 << 30 and new["data"]["last_proven_restore_at"], json.dumps(new))
            image = f"{p.data}/volumes/vol-{new['copy']['id']}.img"
            r = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
            check(r.returncode == 0, r.stdout)
            r = subprocess.run(["debugfs", "-R", "cat /kept", image], capture_output=True, text=True)
            check(r.stdout.split() == ["one"], r.stdout)
            p.cli("volumes", "delete", "copy", "--yes", *at)
            wait_until(lambda: not [f for f in os.listdir(f"{p.data}/volumes") if new["copy"]["id"] in f], 30, "the end of it")
        finally:
            store.close()
            os.unlink(f"{p.data}/etc/backup.toml")

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
            read(b"ready in", 300)
            wait_until(lambda: p.curl(ok=False), 40, "the page of a platform in the foreground")
            check(len(p.vms()) >= 1, "no VM runs")
            if "volume" in state:
                wait_until(lambda: kept().startswith("one |"), 60, "the data of before `moat down`")
            os.write(tty, b"\x03")
            read(b"stopped in", 300)
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
            if c.run("A01 deploy --wait brings the example up with a split timeline", first_deploy):
                c.run("curl gets the page over TLS that ends inside the VM", page)
                c.run("a name without a route gets alert unrecognized_name", wrong_name)
                c.run("every command speaks JSON, one document", json_everywhere)
                c.run("logs of the workload are shown", logs)
                c.run("deploying the same again changes nothing", idempotent)
                c.run("a rolling update loses no request", rolling_update)
                c.run("its trace is in the lines of agent and edge", trace_is_everywhere)
                c.run("a failing release is held, the old one keeps serving", failing_release_is_held)
                c.run("A01 rollback brings the first release back", rollback)
                c.run("scale to two and back", scale)
                if c.run("a new version of the secrets replaces two replicas under load, no request fails", rotation):
                    c.run("tampered secrets start nothing, and instance and operator are told why", tampered)
                    c.run("planted values are in no file, log, answer, console or metric of the platform", canaries)
                c.run("moat run deploys an image without a file", run_command)
                c.run("only the edge reaches a VM, and only its declared ports", isolation)
                c.run("VMM processes are confined", confinement)
                c.run("idle daemons are small", daemons_are_small)
                if c.run("a volume outlives its releases, and grows with one", volume_outlives_releases):
                    c.run("a deleted volume leaves nothing", volume_is_deleted)
                    c.run("a volume is backed up to a store and comes back as a new one", volume_is_restored)
                c.run("errors name the thing, the reason and the mend", errors_are_clear)
                c.run("Ctrl-C ends a platform in the foreground and gives the host back", ctrl_c)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
