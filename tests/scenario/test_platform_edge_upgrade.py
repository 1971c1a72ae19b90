#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A new edge takes over from the one that `moat up` runs: no connection is refused or cut, the supervisor goes on with the new one,
and `moat down` leaves neither. COST 32 s, 8 s of processor."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403


def edges(p):
    return [pid for pid, cmd in processes_of(f"{p.data}/etc/edge.toml") if "moat-edge" in cmd.split()[0]]


def ask(s):
    """A page on a connection that stays; the example hangs up on one that says nothing for ten seconds, which on a full machine pass soon. True."""
    s.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(65536)
        check(part, "the connection from before was cut")
        got += part
    head, body = got.split(b"\r\n\r\n", 1)
    check(head.startswith(b"HTTP/1.1 200"), head[:80])
    left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(body)
    while left > 0:
        part = s.recv(65536)
        check(part, "the connection from before was cut within a page")
        left -= len(part)
    time.sleep(0.2)
    return True


def start_another(p):
    """As an administrator does after an upgrade: the same command line, the same user, beside the running one."""
    with open(f"/proc/{p.pid('edge')}/cmdline", "rb") as f:
        argv = f.read().decode().split("\0")[:-1]
    with open(f"{p.data}/log/edge.log", "ab") as log:
        return subprocess.Popen(["setpriv", "--reuid", "moat-edge", "--regid", "moat", "--clear-groups", "--inh-caps", "+net_bind_service", "--ambient-caps",
                                 "+net_bind_service", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def main():
    need_root()
    own_host()
    p = Platform("eu")
    c = Cases()
    new = []

    def start():
        p.up()
        r = p.deploy(p.hello_manifest(p.push_hello("v1", "one")))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        p.curl()
        check(os.stat(f"{p.data}/run/edge/handover.sock").st_mode & 0o777 == 0o600, "the handover socket is not the edge's own")

    def upgrade():
        old = p.pid("edge")
        ctx = ssl.create_default_context(cafile=f"{p.work}/hello/ca.pem")
        load = Load(p)
        with socket.create_connection(("::1", p.port), timeout=120) as s, ctx.wrap_socket(s, server_hostname=HOST) as kept:
            new.append(start_another(p))
            wait_until(lambda: ask(kept) and "edge.handover_taken" in p.log("edge", 400), 20, "the new edge has the sockets")
            end = time.monotonic() + 2
            while time.monotonic() < end:  # requests through the new one
                ask(kept)
            check(set(edges(p)) == {old, new[0].pid}, f"edges {edges(p)}, not {old} and {new[0].pid}")
            ask(kept)
        wait_until(lambda: edges(p) == [new[0].pid], 30, "the old edge has ended with its last connection")
        wait_until(lambda: "service.died" in p.log("up", 400), 10, "the supervisor has seen its end")
        time.sleep(3)  # its backoff: it must find the new one, not start a third
        check(edges(p) == [new[0].pid], f"edges {edges(p)}, not {new[0].pid}")
        ok, errors = load.end(21)
        check(ok > 20 and not errors, f"{ok} requests worked, failed: {errors[:3]}")
        print(f"# {ok} requests while the edge changed, none failed")

    def supervised():
        new[0].kill()
        new[0].wait()
        wait_until(lambda: len(edges(p)) == 1 and edges(p) != [new[0].pid], 20, "the supervisor has started the edge anew")
        wait_until(lambda: p.curl(ok=False), 20, "it serves")

    def down_ends_both():
        old = p.pid("edge")
        ctx = ssl.create_default_context(cafile=f"{p.work}/hello/ca.pem")
        with socket.create_connection(("::1", p.port), timeout=120) as s, ctx.wrap_socket(s, server_hostname=HOST) as kept:
            new.append(start_another(p))
            wait_until(lambda: ask(kept) and p.log("edge", 4000).count("edge.handover_taken") == 2, 20, "the new edge has the sockets")
            check(set(edges(p)) == {old, new[1].pid}, "both run")
            r = p.down()
            check(r.returncode == 0, f"moat down: {r.returncode} {r.stderr[-500:]}")
        new[1].wait(60)
        check(not edges(p), f"edges {edges(p)} are left")

    try:
        if not shutil.which("setpriv"):
            print("skip - an edge takes over under moat up: setpriv (util-linux) is not installed")
        elif c.run("the platform serves", start):
            c.run("a new edge takes over under load: nothing refused, nothing cut, the supervisor goes on with it", upgrade)
            c.run("killed, it is started anew like any other", supervised)
            c.run("moat down ends the one that took over as well", down_ends_both)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
