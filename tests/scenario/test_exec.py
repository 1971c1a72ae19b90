#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`moat exec` on a whole platform: CLI, gateway, agent, a real microVM.

Exit codes, streams apart, pipes with 64 MiB, a terminal with resize and Ctrl-C while output floods, signals, limits, who may and who may not,
tokens that are good once, revocation, events and audit, and each part killed in a session: the terminal is as it was, the command is told.
What asks for milliseconds is run by test_exec_time.py.
COST 71 s, 14 s of processor."""
import fcntl
import hashlib
import http.client
import io
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import termios
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403
from ports import free_port  # noqa: E402

MEASURED = ("ctrl_c_under_flood",)  # run when named only
NAMES = ["sh", "cat", "stty", "sleep", "yes", "env", "id", "head", "wc", "sha256sum", "ps", "grep", "true", "seq", "printf"]


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)


class Tty:
    """The CLI with a terminal of its own."""

    def __init__(self, p, *args, cols=80, rows=24, env=None):
        go, set_ = os.pipe()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.close(set_)
            os.read(go, 1)  # until the size is set
            os.chdir(p.work)
            os.execve(f"{BIN}/moat", ["moat", *args], env or p.env)
        self.size(cols, rows)
        os.close(go)
        os.close(set_)
        self.before = termios.tcgetattr(self.fd)
        self.out = b""

    def size(self, cols, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def pump(self, seconds=0.1):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            self.out += data
            return bool(data)
        return True

    def until(self, text, seconds=30):
        end = fair.now() + fair.limit(seconds)
        while text not in self.out:
            check(fair.now() < end, f"no {text!r}: {self.out[-300:]!r}")
            check(self.pump() or text in self.out, f"ended without {text!r}: {self.out[-300:]!r}")

    def raw(self):
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def wait(self, seconds=30):
        """The exit status; the terminal must be as it was."""
        end = fair.now() + fair.limit(seconds)
        while fair.now() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                now = termios.tcgetattr(self.fd)
                check(now == self.before, "the terminal is not as it was")
                while self.pump(0) and select.select([self.fd], [], [], 0)[0]:
                    pass
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            self.pump(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise Failed(f"moat exec did not end: {self.out[-300:]!r}")


def main():
    need_root()
    if not os.path.exists("/usr/bin/busybox"):
        print("skip - all: needs /usr/bin/busybox (busybox-static)")
        return 0
    own_host()
    p = Platform("x")
    c = Cases()

    def busybox(tar):
        with open("/usr/bin/busybox", "rb") as f:
            data = f.read()
        t = tarfile.TarInfo("bin/busybox")
        t.size, t.mode = len(data), 0o755
        tar.addfile(t, io.BytesIO(data))
        for n in NAMES:
            t = tarfile.TarInfo("bin/" + n)
            t.type, t.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(t)

    def box(*args, want=0, **kw):
        return p.cli("exec", "--app", "box", "--env", "prod", *args, want=want, **kw)

    def guest(script):
        return box("web", "--", "sh", "-c", script, want=None)[1]

    def raw(*args, **kw):
        return subprocess.run([f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", *args], env=p.env, cwd=p.work, capture_output=True,
                              timeout=400, **kw)

    def tty(*args, **kw):
        return Tty(p, "exec", "--app", "box", "--env", "prod", "-it", "web", "--", *args, **kw)

    def spawn(*args, **kw):
        return subprocess.Popen([f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", *args], env=p.env, cwd=p.work, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

    def api(method, path, body=None, token=None, headers=None):
        h = Unix(api_path)
        h.request(method, path, json.dumps(body) if body is not None else None,
                  dict({"Authorization": "Bearer " + (token or root_token), "Content-Type": "application/json"}, **(headers or {})))
        r = h.getresponse()
        data = r.read()
        h.close()
        return r.status, json.loads(data) if data else None

    def sessions(**want):
        items = api("GET", env_path + "/exec-sessions?limit=50")[1]["items"]
        return [s for s in items if all(s.get(k) == v for k, v in want.items())]

    def start():
        p.up()
        image = p.push_app("box", extra=busybox, entrypoint=["/app"], cmd=["serve", "8080"])
        r = p.deploy(manifest("box", image, port=8080, memory="192Mi"))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))

    def codes_and_streams():
        code, out, err = box("web", "--", "sh", "-c", "echo one; echo two >&2; exit 7", want=7)
        check(out == "one\n" and err.endswith("two\n") and "inst_" in err, (out, err))
        box(instance, "--", "true")
        box("--process", "web", "--", "true")
        box("--", "sh", "-c", "kill -TERM $$", want=143)
        _, _, err = box("web", "--", "no-such-program", want=255)
        check("start_failed" in err and "no-such-program" in err, err)
        box("web", want=2)
        box("web", "--", want=2)
        box("worker", "--", "true", want=4)
        out = box("web", "-e", "A=b c", "--user", "1234", "--", "sh", "-c", "echo $A $(id -u)")[1]
        check(out == "b c 1234\n", out)
        _, out, err = box("web", "--json", "--", "sh", "-c", "echo x; exit 3", want=3)
        j = json.loads(err.strip().splitlines()[-1])
        check(out == "x\n" and j["kind"] == "ExecResult" and j["data"]["exit_code"] == 3, (out, err))

    def pipes():
        data = os.urandom(1 << 20) * 64
        start = time.monotonic()
        r = raw("-i", "web", "--", "cat", input=data)
        check(r.returncode == 0 and hashlib.sha256(r.stdout).digest() == hashlib.sha256(data).digest(), (r.returncode, len(r.stdout), r.stderr))
        print(f"  64 MiB through cat in {time.monotonic() - start:.1f} s", flush=True)
        r = raw("web", "--", "sh", "-c", "printf '\\377\\000\\001'")
        check(r.stdout == b"\xff\x00\x01", r.stdout)
        r = subprocess.run(f"{BIN}/moat exec --app box --env prod web -- yes 2>/dev/null | head -c 100000 | wc -c", shell=True, env=p.env, capture_output=True,
                           timeout=300)
        check(r.stdout.strip() == b"100000", r)
        r = raw("-i", "web", "--", "wc", "-c", input=b"x" * 100001)
        check(r.stdout.strip() == b"100001", r.stdout)

    def terminal():
        t = tty("sh", "-c", "stty size; trap 'stty size' WINCH; echo go; while :; do read x; [ \"$x\" = q ] && exit 5; done", cols=101, rows=37)
        t.until(b"37 101")
        t.until(b"go")
        check(t.raw(), "the terminal is not raw in a session")
        t.size(132, 50)
        wait_until(lambda: (os.write(t.fd, b"\r"), t.pump(0.1), b"50 132" in t.out)[2], 20, "the new size")
        os.write(t.fd, b"q\r")
        check(t.wait() == 5, "exit code of a terminal session")

    def ctrl_c_under_flood():
        def once():
            t = tty("yes", "x" * 70)
            end = time.monotonic() + 120
            while len(t.out) < 300000 and time.monotonic() < end:
                t.pump()
            start = time.monotonic()
            os.write(t.fd, b"\x03")
            check(t.wait(60) == 130, "Ctrl-C ends with 130")
            return (time.monotonic() - start) * 1000
        # of three in a row the middle one; what neighbours disturbed is done again
        took, quick = fair.best(once, lambda seen: sorted(seen[-3:])[1] < 250, 3, 24)
        print("  Ctrl-C to the end of the CLI: " + " ".join(f"{x:.0f}" for x in took) + " ms", flush=True)
        check(quick, took)  # the command itself gets it within 50 ms: test_exec_guest.py; this is up to the CLI's exit

    def signals_without_a_terminal():
        s = spawn("web", "--", "sh", "-c", "trap 'echo int; exit 9' INT; echo go; while :; do sleep 0.1; done")
        check(s.stdout.readline() == b"go\n", "no go")
        s.send_signal(signal.SIGINT)
        out, _ = s.communicate(timeout=120)
        check(s.returncode == 9 and out == b"int\n", (s.returncode, out))

    def stop_and_go():
        t = tty("sh", "-c", "echo go; read x; exit 4")
        t.until(b"go")
        os.kill(t.pid, signal.SIGTSTP)
        wait_until(lambda: not t.raw(), 10, "a cooked terminal while stopped")
        os.kill(t.pid, signal.SIGCONT)
        wait_until(t.raw, 10, "a raw terminal again")
        os.write(t.fd, b"\r")
        check(t.wait() == 4, "stopped and continued")

    def limit():
        a, b = spawn("-i", "web", "--", "cat"), spawn("-i", "web", "--", "cat")
        for s in (a, b):
            s.stdin.write(b"hello\n")
            s.stdin.flush()
            check(s.stdout.readline() == b"hello\n", "two at once")
        code, body = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["true"]})
        check(code == 429 and body["code"] == "too_many_exec_sessions", (code, body))
        for s in (a, b):
            s.stdin.close()
            check(s.wait(120) == 0, s.returncode)
        wait_until(lambda: not sessions(status="connected"), 10, "the ends")
        box("web", "--", "true")

    def who_may():
        token = p.cli("auth", "tokens", "create", "--name", "looker", "--scope", "instances:read", "--scope", "orgs:read", "-q")[1].split()[-1]
        code, body = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["true"]}, token=token)
        check(code == 403 and body["code"] == "insufficient_scope", (code, body))
        check(api("GET", env_path + "/exec-sessions", token=token)[0] == 403, "a list for somebody without scope")
        p.cli("orgs", "create", "other")
        other = next(o for o in p.json("orgs", "list")["items"] if o["name"] == "other")["id"]
        wrong = env_path.replace(org, other)
        check(api("POST", f"{wrong}/instances/{instance}/exec", {"command": ["true"]})[0] == 404, "through another organisation")
        check(api("POST", f"{env_path}/instances/inst_{'0' * 26}/exec", {"command": ["true"]})[0] == 404, "an instance that is not there")
        for bad in ({}, {"command": []}, {"command": [""]}, {"command": ["x"] * 65}, {"command": ["a"], "cols": 0}, {"command": ["a"], "env": {"1": "x"}},
                    {"command": ["a"], "extra": 1}, {"command": ["a"], "max_duration_seconds": 59}, {"command": ["a\u0000b"]}, {"command": ["y" * 9000]}):
            check(api("POST", f"{env_path}/instances/{instance}/exec", bad)[0] == 400, bad)

    def handshake(token, session, **more):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(120)
        s.connect(api_path)
        h = dict({"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": "moat.exec.v1",
                  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Authorization": "Bearer " + token}, **more)
        s.sendall(f"GET /v1/exec-sessions/{session}/connect HTTP/1.1\r\n".encode() + "".join(f"{k}: {v}\r\n" for k, v in h.items() if v).encode() + b"\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            part = s.recv(4096)
            if not part:
                break
            data += part
        return int(data.split()[1]), data, s

    def tokens_are_good_once():
        code, g = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["sleep", "100"], "stdin": True}, headers={"Idempotency-Key": "once"})
        check(code == 201 and g["session_token"].startswith("moat_ex_"), g)
        again = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["sleep", "100"], "stdin": True}, headers={"Idempotency-Key": "once"})[1]
        check(again["exec_session_id"] == g["exec_session_id"] and again["session_token"] is None, again)
        sid = g["exec_session_id"]
        check(handshake(root_token, sid)[0] == 401, "a token of the API is none of a session")
        check(handshake(g["session_token"], "exec_" + "0" * 26)[0] == 401, "another session")
        check(handshake(g["session_token"], sid, Upgrade="")[0] == 400, "no upgrade")
        check(handshake(g["session_token"], sid, **{"Sec-WebSocket-Protocol": "chat"})[0] == 400, "another protocol")
        check(handshake(g["session_token"], sid, Origin="https://evil.example")[0] == 403, "a page of another origin")
        status, data, s = handshake(g["session_token"], sid)
        check(status == 101 and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in data, data)
        check(handshake(g["session_token"], sid)[0] == 401, "the token was good twice")
        wait_until(lambda: api("GET", f"{env_path}/exec-sessions/{sid}")[1]["status"] == "connected", 20, "its status")
        code, body = api("DELETE", f"{env_path}/exec-sessions/{sid}", {})
        check(code == 200 and body["ok"], body)
        end = wait_until(lambda: sessions(id=sid, status="ended"), 20, "the revoked session's end")[0]
        check(end["end_reason"] == "revoked", end)
        s.close()
        g = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["true"]})[1]
        check(api("DELETE", f"{env_path}/exec-sessions/{g['exec_session_id']}", {})[0] == 200, "revoke before it is used")
        check(handshake(g["session_token"], g["exec_session_id"])[0] == 401, "a revoked token")

    def bad_frames():
        for frame in (b"\x82\x05hello", b"\x02\x80aaaa", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffaaaa", b"\x81\x81\0\0\0\0x", b"\x82\x81\0\0\0\0\x02",
                      b"\x82\x89\0\0\0\0\x10" + b"{\"type\":"):
            g = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["sleep", "100"], "stdin": True})[1]
            status, _, s = handshake(g["session_token"], g["exec_session_id"])
            check(status == 101, status)
            s.sendall(frame)
            data = b""
            while part := s.recv(65536):
                data += part
            check(b"protocol_error" in data, (frame, data[-200:]))
            s.close()
            wait_until(lambda: sessions(id=g["exec_session_id"], end_reason="protocol_error"), 10, "its end in the log")

    def told():
        s = sessions(end_reason="exited")[0]
        ev = [e for e in p.json("events", "--app", "box", "--type", "exec_session.*", "-n", "500")["items"] if e["aggregate_id"] == s["id"]]
        check([e["event_type"] for e in ev][-3:] in (["exec_session.granted", "exec_session.connected", "exec_session.ended"],
                                                      ["exec_session.ended", "exec_session.connected", "exec_session.granted"]), ev)
        check(s["command"] and s["actor_id"].startswith("usr_") and "session_token" not in json.dumps(ev), s)
        rows = wait_until(lambda: [r for r in p.json("audit", "--action", "exec_session.grant")["items"]], 10, "audit rows")
        check(any(r["resource_id"] == s["id"] for r in rows), rows[:2])

    def gone(mark):
        return guest(f"ps | grep -c '[s]leep {mark}'").strip() == "0"

    def cli_killed():
        t = tty("sleep", "981")
        wait_until(lambda: sessions(status="connected"), 20, "it to run")
        time.sleep(0.5)
        os.kill(t.pid, signal.SIGKILL)
        os.waitpid(t.pid, 0)
        wait_until(lambda: gone(981), 30, "the command's end")
        wait_until(lambda: sessions(end_reason="client_disconnect"), 10, "the reason")

    def cli_terminated():
        t = tty("sh", "-c", "echo go; sleep 982")
        t.until(b"go")
        os.kill(t.pid, signal.SIGTERM)
        check(t.wait() == 143, "TERM ends the CLI")
        wait_until(lambda: gone(982), 30, "the command's end")

    def agent_killed():
        t = tty("sh", "-c", "echo go; sleep 983")
        t.until(b"go")
        p.kill("agent")
        check(t.wait() == 255 and b"agent_unreachable" in t.out, t.out[-200:])
        wait_until(lambda: p.pid("agent"), 30, "an agent again")
        wait_until(lambda: box("web", "--", "true", want=None)[0] == 0, 60, "exec again")
        wait_until(lambda: gone(983), 20, "the end of the command, which the agent's connection took with it")

    def control_killed():
        t = tty("sh", "-c", "echo go; sleep 984")
        t.until(b"go")
        p.kill("control")
        check(t.wait() == 255 and b"broke" in t.out, t.out[-200:])
        wait_until(lambda: box("web", "--", "true", want=None)[0] == 0, 60, "exec again")
        wait_until(lambda: gone(984), 20, "the end of the command, which the gateway took with it")
        wait_until(lambda: not sessions(status="connected"), 60, "the session's end, said by the next server")

    def control_stopped():
        t = tty("sh", "-c", "echo go; sleep 985")
        t.until(b"go")
        p.kill("control", signal.SIGTERM)
        check(t.wait() == 255 and b"agent_unreachable" in t.out, t.out[-200:])
        wait_until(lambda: box("web", "--", "true", want=None)[0] == 0, 60, "exec again")

    def over_tls():
        """The server opens a TLS listener of its own; a session through it, with the key pinned."""
        cert, key, port = f"{p.data}/etc/api.pem", f"{p.data}/etc/api.key", free_port()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=moat",
                        "-addext", "subjectAltName=IP:::1", "-keyout", key, "-out", cert], check=True, capture_output=True)
        shutil.chown(key, "moat-control")
        with open(f"{p.data}/etc/control.toml", "a") as f:
            f.write(f'listen_https = "[::1]:{port}"\ntls_cert = "{cert}"\ntls_key = "{key}"\n')
        p.kill("control")
        env = dict(p.env, MOAT_API=f"https://[::1]:{port}", MOAT_CA_FILE=cert, MOAT_TOKEN=root_token)

        def tls(*args, **kw):
            return subprocess.run([f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", *args], env=env, cwd=p.work, capture_output=True, timeout=400, **kw)
        wait_until(lambda: tls("web", "--", "true").returncode == 0, 60, "exec over TLS")
        r = tls("web", "--", "sh", "-c", "echo one; echo two >&2; exit 7")
        check(r.returncode == 7 and r.stdout == b"one\n" and r.stderr.endswith(b"two\n"), r)
        data = os.urandom(1 << 20) * 8
        r = tls("-i", "web", "--", "cat", input=data)
        check(r.returncode == 0 and hashlib.sha256(r.stdout).digest() == hashlib.sha256(data).digest(), (r.returncode, len(r.stdout), r.stderr))
        t = Tty(p, "exec", "--app", "box", "--env", "prod", "-it", "web", "--", "sh", "-c", "stty size; read x; echo got $x", env=env, cols=101, rows=37)
        t.until(b"37 101")
        os.write(t.fd, b"yes\r")
        check(t.wait() == 0 and b"got yes" in t.out, t.out[-200:])
        other = dict(env, MOAT_CA_FILE="", MOAT_PIN="0" * 64)
        r = subprocess.run([f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", "web", "--", "true"], env=other, cwd=p.work, capture_output=True, timeout=300)
        check(r.returncode == 3 and b"not the pinned one" in r.stderr, r)  # before the session an error is told as by every command

    def instance_stopped():
        t = tty("sh", "-c", "echo go; sleep 986")
        t.until(b"go")
        p.cli("scale", "web=0", "--app", "box", "--env", "prod")
        check(t.wait(60) == 255 and b"instance_stopped" in t.out, t.out[-200:])
        box("web", "--", "true", want=4)
        code, body = api("POST", f"{env_path}/instances/{instance}/exec", {"command": ["true"]})
        check(code == 409 and body["code"] == "instance_not_execable", body)

    if c.run("a platform and an instance", start):
        conf = open(f"{p.data}/etc/cli.toml").read()
        value = lambda key: next(l.split('"')[1] for l in conf.splitlines() if l.split("=")[0].strip() == key)  # noqa: E731
        api_path = value("api")[len("unix:"):]
        root_token = open(value("token_file")).read().split()[0]
        one = p.ready("box")[0]
        instance, org = one["id"], one["org_id"]
        env_path = f"/v1/orgs/{org}/apps/{one['app_id']}/envs/{one['env_id']}"
        only = sys.argv[1:]
        for fn in (codes_and_streams, pipes, terminal, ctrl_c_under_flood, signals_without_a_terminal, stop_and_go, limit, who_may,
                   tokens_are_good_once, bad_frames, told, cli_killed, cli_terminated, agent_killed, control_killed, control_stopped, over_tls, instance_stopped):
            if fn.__name__ in only or not only and fn.__name__ not in MEASURED:
                c.run("A17 " + fn.__name__.replace("_", " "), fn)
    p.finish(c)
    return 1 if c.failed else 0


if __name__ == "__main__":
    sys.exit(main())
