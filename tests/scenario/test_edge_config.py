#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-edge with its configuration from a control plane: long poll, acknowledgements, last known good, swaps, raw TCP, limits.
COST 33 s, 2 s of processor."""
import ctypes
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair  # noqa: E402
from edgekit import (Backend, Control, Edge, Scratch, check, client_hello, connect, curl, free_port, read_all, run_cases,  # noqa: E402
                     snapshot, tls_backend, until, within)

scratch = Scratch()
a, b = tls_backend(scratch, "this is a"), tls_backend(scratch, "this is b")
PORT, PORT2, RAW = free_port(), free_port(), free_port()
DATA = scratch.path("data")
os.mkdir(DATA, 0o700)


def config(name="edge.toml", more="", limits=""):
    return scratch.write(name, 'data_dir = "%s"\ncontrol_socket = "%s"\nadmin_socket = "%s"\npublic_addresses = ["::1"]\nworkers = 2\n%s\n'
                         '[port_map]\n443 = %d\n%s\n' % (DATA, scratch.path("control"), scratch.path("admin"), more, PORT, limits))


def hold(c):
    while True:
        d = c.recv(65536)
        if not d:
            return
        c.sendall(d)


echo = Backend(hold)


def greet(c):
    c.sendall(b"220 hello\r\n")
    c.sendall(b"got " + c.recv(100))


greeter = Backend(greet)
state = {"rev": 0}
A = {"name": "a.example.com", "port": 443, "backends": [("inst_a", a.port)]}
B = {"name": "b.example.com", "port": 443, "backends": [("inst_b", b.port)]}
ECHO = {"name": "echo.example.com", "port": 443, "backends": [("inst_e", echo.port)]}


def publish(routes, **more):
    state["rev"] += 1
    state["control"].set(snapshot(state["rev"], routes, **more))
    return state["rev"]


def acked(rev, limit=5):
    return until(lambda: [s for s in list(state["control"].statuses) if s["revision"] == rev], "acknowledgement of %d" % rev, limit)[-1]


def say(name):
    code, out, err = curl(scratch, name, PORT)
    return out if code == 0 else err


def waits_for_a_first_configuration_and_says_so():
    state["edge"] = Edge(["--config", config()])
    state["edge"].wait("edge.started")
    state["edge"].wait("edge.control_away")
    check(admin("/livez")[0] == 200 and admin("/readyz")[0] == 503, "health")


def admin(path):
    def asked():
        """None: it gives a caller 300 ms for its request, and on a full machine that may have passed by then"""
        try:
            s = socket.socket(socket.AF_UNIX)
            s.connect(scratch.path("admin"))
            c = http.client.HTTPConnection("unix")
            c.sock = s
            c.request("GET", path)
            r = c.getresponse()
            return r.status, r.read().decode()
        except (ConnectionError, http.client.HTTPException):
            return None
    return until(asked, "an answer to GET %s" % path)


def first_snapshot_is_applied_and_acknowledged_at_once():
    state["control"] = Control(scratch.path("control"))
    start = fair.now()
    rev = publish([A, B, ECHO])
    s = acked(rev)
    check(fair.now() - start < 3, "took %.1f s" % (fair.now() - start))
    check(s["epoch"] == 1 and s["applied_at"].endswith("Z") and s["listeners"] ==
          [{"address_scope": "shared6", "port": 443, "local": "[::1]:%d" % PORT, "state": "open"}], s)
    check(say("a.example.com") == "this is a" and say("b.example.com") == "this is b", "routing")
    check(admin("/readyz")[0] == 200, "not ready")


def file_on_disk_has_the_true_header():
    def there():
        return os.path.exists(DATA + "/config.json")
    until(there, "config.json")
    raw = open(DATA + "/config.json", "rb").read()
    head, text = raw.split(b"\n", 1)
    want = "moat-edge-config 1 length=%d sha256=%s epoch=1 revision=%d" % (len(text), hashlib.sha256(text).hexdigest(), state["rev"])
    check(head.decode() == want and json.loads(text)["revision"] == state["rev"], head)
    check(os.stat(DATA + "/config.json").st_mode & 0o777 == 0o600, "mode")


def new_backend_is_used_within_two_seconds():
    start = fair.now()
    publish([dict(A, backends=[("inst_b", b.port)]), B, ECHO])
    within(lambda: say("a.example.com") == "this is b", "the new backend", 2)
    check(fair.now() - start < 2, "late")
    publish([A, B, ECHO])
    within(lambda: say("a.example.com") == "this is a", "the old backend", 2)


def swaps_leave_established_connections_alone():
    s = connect(PORT)
    hello = client_hello("echo.example.com")
    s.sendall(hello)
    check(s.recv(65536) == hello, "no echo")
    failed = []

    def load():
        while not stop.is_set():
            t = connect(PORT)
            t.sendall(hello)
            if t.recv(65536) != hello:
                failed.append(1)
            t.close()
    stop = threading.Event()
    threads = [threading.Thread(target=load) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for i in range(100):
            rev = publish([A, B, ECHO] + [{"name": "n%d.example.com" % k, "port": 443, "backends": [("inst_x", a.port)]} for k in range(i % 7)])
            if i % 10 == 0:
                s.sendall(b"still %d" % i)
                check(s.recv(100) == b"still %d" % i, "the connection was touched")
        acked(rev)
    finally:
        stop.set()
        for t in threads:
            t.join()
    check(not failed, "%d connections went wrong" % len(failed))
    publish([A, B])  # its route is gone; for 60 s it lives on
    acked(state["rev"])
    s.sendall(b"after")
    check(s.recv(100) == b"after", "the connection ended with its route")
    s.close()


def invalid_snapshots_are_refused_whole_and_reported():
    good = publish([A, B, ECHO])
    acked(good)
    # a shape, a double name, an unknown feature, a foreign cluster, an address outside the prefix, a wrong key
    bad = [snapshot(good + 1, [A], epoch="x"), snapshot(good + 1, [A, dict(A, id="rt_other")]),
           snapshot(good + 1, [A], required_features=["teleport"]), snapshot(good + 1, [A], cluster_id="cl_other"),
           snapshot(good + 1, [A], instance_prefix="fd00:1:2:1::/64"), snapshot(good + 1, [A], backends={"rt_nobody": []}),
           snapshot(good + 1, [dict(A, hostname="A.Example.com")]), snapshot(good + 1, [dict(A, listen_port=0)]),
           snapshot(good + 1, [A], traces=["4bf92f3577b34da6a3ce929d0e0e4736", "x"])]
    words = ["epoch", "both have the name", "teleport", "cl_other", "outside of instance_prefix", "names no route", "hostname", "listen_port", "traces[1]"]
    edge = state["edge"]
    for s, word in zip(bad, words):
        state["control"].set(s)
        until(lambda: [x for x in edge.find("edge.config_rejected") if word in x["error"]], "refusal with '%s'" % word, 8)
    state["control"].set("{\"format\":1,")
    last = until(lambda: [x for x in list(state["control"].statuses) if "rejected" in x and "snapshot" in x["rejected"]["detail"]],
                 "a report of the broken one", 8)[-1]
    check(last["revision"] == good and last["rejected"]["error"] == "edge_config_rejected", last)
    check(say("a.example.com") == "this is a" and say("b.example.com") == "this is b", "the good one is gone")
    state["rev"] = good + 1
    rev = publish([A, B, ECHO])
    check("rejected" not in acked(rev, 8), "still reported")


def shrink_guard_holds_until_allowed():
    many = [{"name": "m%d.example.com" % k, "port": 443, "backends": []} for k in range(30)]
    acked(publish([A, B, ECHO] + many))
    refused = publish([A, B])
    until(lambda: [x for x in state["edge"].find("edge.config_rejected") if "allow_shrink" in x["error"]], "the guard", 8)
    check(say("a.example.com") == "this is a", "routing")
    check(not [s for s in state["control"].statuses if s["revision"] == refused], "it was applied")
    acked(publish([A, B, ECHO], allow_shrink=True), 8)


def raw_port_opens_serves_a_server_that_speaks_first_and_closes():
    raw = {"port": RAW, "proto": "tcp_raw", "backends": [("inst_g", greeter.port)]}
    acked(publish([A, B, ECHO, raw]))
    s = connect(RAW)
    check(s.recv(100) == b"220 hello\r\n", "no greeting")
    s.sendall(b"EHLO")
    check(s.recv(100) == b"got EHLO", "no answer")
    gone = free_port()
    acked(publish([A, B, ECHO, dict(raw, backends=[("inst_g", gone)])]))
    try:
        check(connect(RAW).recv(10) is None, "no reset from a dead backend")
    except ConnectionResetError:
        pass  # during the connect already, or at the first read
    acked(publish([A, B, ECHO]))

    def refused():
        try:
            connect(RAW).close()
            return False
        except ConnectionRefusedError:
            return True
    until(refused, "the port to close")


def raw_route_sends_its_proxy_header_without_waiting():
    got = []
    keep = Backend(lambda c: (got.append(c.recv(100)), c.sendall(b"ok")))
    acked(publish([A, B, ECHO, {"port": RAW, "proto": "tcp_raw", "backends": [("inst_p", keep.port)], "proxy_protocol": "v2"}]))
    s = connect(RAW)
    check(s.recv(10) == b"ok", "no answer")
    want = (bytes.fromhex("0d0a0d0a000d0a515549540a21210024") + socket.inet_pton(socket.AF_INET6, "::1") * 2 +
            struct.pack(">HH", s.getsockname()[1], RAW))
    check(got[0] == want, got[0].hex())
    keep.end()
    acked(publish([A, B, ECHO]))


def proxy_tlvs_carry_name_and_connection_id():
    got = []
    keep = Backend(lambda c: got.append(c.recv(65536)))
    acked(publish([A, B, ECHO, {"name": "p.example.com", "port": 443, "backends": [("inst_p", keep.port)], "proxy_protocol": "v2",
                                "proxy_tlv": True}]))
    s = connect(PORT)
    hello = client_hello("p.example.com")
    s.sendall(hello)
    until(lambda: got, "the backend to read")
    head, rest = got[0][:52], got[0][52:]
    size = struct.unpack(">H", head[14:16])[0]
    check(size == 36 + (3 + 13) + 19 + 7 and got[0][16 + size:] == hello, "length %d" % size)
    check(rest[:16] == b"\x02\x00\x0dp.example.com" and rest[16:19] == b"\x05\x00\x10" and rest[35:38] == b"\x03\x00\x04", rest.hex())
    s.close()
    line = state["edge"].wait("edge.conn.closed", sni="p.example.com")[-1]
    check(line["conn_id"] == rest[19:35].hex(), "connection id differs from the log: %s" % line)
    keep.end()
    acked(publish([A, B, ECHO]))


def suspended_route_is_answered_like_an_unknown_one():
    acked(publish([A, dict(B, disabled=True), ECHO]))
    s = connect(PORT)
    s.sendall(client_hello("b.example.com"))
    check(read_all(s) == bytes([21, 3, 1, 0, 2, 2, 112]), "no alert 112")
    state["edge"].wait("edge.conn.closed", result="suspended")
    acked(publish([A, B, ECHO]))


def route_without_backend_gets_alert_80_and_the_limit_too():
    acked(publish([A, B, dict(ECHO, max_connections=2), {"name": "none.example.com", "port": 443, "backends": []}]))
    s = connect(PORT)
    s.sendall(client_hello("none.example.com"))
    check(read_all(s) == bytes([21, 3, 1, 0, 2, 2, 80]), "no alert 80")
    conns = []
    for _ in range(2):
        c = connect(PORT)
        c.sendall(client_hello("echo.example.com"))
        c.recv(65536)
        conns.append(c)
    c = connect(PORT)
    c.sendall(client_hello("echo.example.com"))
    check(read_all(c) == bytes([21, 3, 1, 0, 2, 2, 80]), "the third got through")
    for c in conns:
        c.close()
    state["edge"].wait("edge.conn.closed", result="route_limit")
    acked(publish([A, B, ECHO]))


def listener_that_cannot_open_is_reported_and_opens_later():
    blocker = socket.socket(socket.AF_INET6)
    blocker.bind(("::1", PORT2))
    blocker.listen(1)
    rev = publish([A, B, ECHO, dict(A, id="rt_second", port=PORT2)])
    bad = [x for x in acked(rev)["listeners"] if x["port"] == PORT2]
    check(bad and bad[0]["state"] == "error" and "in use" in bad[0]["error"], bad)
    check(say("a.example.com") == "this is a", "the other listener suffers")
    blocker.close()
    acked(publish([A, B, ECHO, dict(A, id="rt_second", port=PORT2)]))
    code, out, err = curl(scratch, "a.example.com", PORT2)
    check(code == 0 and out == "this is a", err)
    acked(publish([A, B, ECHO]))


def counters_of_routes_travel_with_the_acknowledgement():
    say("a.example.com")
    r = until(lambda: acked(publish([A, B, ECHO]))["routes"].get("rt_a_example_com"), "counters")
    check(r["connections"] >= 2 and r["bytes_in"] > 600 and r["bytes_out"] > 600, r)
    status, text = admin("/metrics")
    check(status == 200 and 'moat_edge_connections_total{listener_port="443",result="ok"}' in text and "moat_edge_config_age_seconds" in text,
          text[:500])
    check(not [w for w in ("example.com", "inst_", "rt_") if w in text], "a label that must not be there")


def serves_without_the_control_plane_and_hears_it_when_it_is_back():
    state["control"].end()
    state["edge"].wait("edge.control_away", count=2)
    for _ in range(5):
        check(say("a.example.com") == "this is a", "routing")
    state["control"] = Control(scratch.path("control"))
    rev = publish([dict(A, backends=[("inst_b", b.port)]), B, ECHO])
    acked(rev)
    check(say("a.example.com") == "this is b", "the new snapshot")
    acked(publish([A, B, ECHO]))


def a_control_plane_of_another_protocol_is_told_once_by_name_and_not_asked_in_a_loop():
    """426 agent_incompatible: one line with version and mend, the routes stay, polls at the pace of a control plane that is away; then all is as before."""
    control, edge = state["control"], state["edge"]
    control.strange = True
    with control.changed:
        control.changed.notify_all()
    line = edge.wait("edge.control_incompatible", limit=45)[0]
    check("9.9.9" in json.dumps(line) and "install" in line["mend"] and line["edge_version"], "what is wrong and what mends it: %r" % line)
    control.polls = 0
    began = time.monotonic()
    until(lambda: control.polls >= 4, "some polls", 30)
    rate = control.polls / (time.monotonic() - began)
    check(rate <= 8, "%.1f polls a second" % rate)
    check(say("a.example.com") == "this is a", "routing")
    check(len(edge.find("edge.control_incompatible")) == 1, "it is said once")
    control.strange = False
    acked(publish([dict(A, backends=[("inst_b", b.port)]), B, ECHO]))
    check(say("a.example.com") == "this is b", "the new snapshot")
    acked(publish([A, B, ECHO]))


def saved(rev):
    def there():
        try:
            with open(DATA + "/config.json") as f:
                return f.readline().strip().endswith("revision=%d" % rev)
        except FileNotFoundError:  # between the two renames
            return False
    until(there, "revision %d on disk" % rev)


def kill_9_and_start_without_the_control_plane_within_a_second():
    saved(state["rev"])
    state["control"].end()
    state["edge"].proc.kill()
    state["edge"].proc.wait()
    start = fair.now()
    state["edge"] = Edge(["--config", config()])

    def up():
        try:
            connect(PORT).close()
            return True
        except ConnectionRefusedError:
            return False
    until(up, "the listener")
    took = fair.now() - start
    check(took < 1.0, "took %.2f s" % took)
    check(say("a.example.com") == "this is a" and say("b.example.com") == "this is b", "routing")
    state["edge"].wait("edge.config_applied", **{"from": "disk"})


def damaged_file_falls_back_to_the_one_before():
    state["control"] = Control(scratch.path("control"))
    time.sleep(1.1)  # at most one write a second
    rev = publish([A, ECHO])
    acked(rev)
    saved(rev)
    state["control"].end()
    check(state["edge"].end() == 0, "exit status")
    raw = bytearray(open(DATA + "/config.json", "rb").read())
    for what in ("a flipped bit", "half of the file", "no file"):
        if what == "a flipped bit":
            open(DATA + "/config.json", "wb").write(raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
        elif what == "half of the file":
            open(DATA + "/config.json", "wb").write(raw[:len(raw) // 2])
        else:
            os.unlink(DATA + "/config.json")
        e = Edge(["--config", config()])
        try:
            e.wait("edge.config_applied", **{"from": "disk_prev"})
            check(say("b.example.com") == "this is b", "%s: the one before is not served" % what)
            if what != "no file":
                check(e.find("edge.config_file_unusable", prev=False), "%s: not named" % what)
        finally:
            e.end()


def wrong_settings_are_named_with_line_and_nearest_key():
    for text, words in (('data_dri = "/x"\n', ["data_dri", "data_dir", ":1:"]), ('workers = 9999\n', ["workers"]),
                        ('data_dir = "/x"\ncontrol_socket = "/y"\nsource_address = "nowhere"\n', ["source_address", "nowhere"]),
                        ('data_dir = "/x"\n', ["control_socket", "control_address"]),
                        ('data_dir = "/x"\ncontrol_socket = "/y"\ncontrol_address = "c:1"\n', ["exclude"]),
                        ('data_dir = "/x"\ncontrol_address = "c:1"\n', ["keys_dir", "missing"]),
                        ('data_dir = "/x"\nkeys_dir = "/k"\ncontrol_address = "fd00::1:7443"\n', ["control_address", "host:port"]),
                        ('control_socket = "/y"\n', ["data_dir", "missing"])):
        e = Edge(["--config", scratch.write("bad.toml", text), "--check-config"])
        check(e.proc.wait(60) == 2, "exit status %s for %r" % (e.proc.returncode, text))
        said = until(lambda: all(w in str(e.lines) for w in words) and str(e.lines), "%s of %r in %s" % (words, text, e.lines), 2)
        check(said, "nothing said")
    e = Edge(["--config", config("good.toml"), "--check-config"])
    check(e.proc.wait(60) == 0, "a good file is refused")


def limits_of_a_source_close_what_is_over():
    e = Edge(["--config", config("limits.toml", limits="[limits]\nloopback = true\nsource_conns = 20\nsource_preroute = 5\n"
                                 "source_new_per_s = 1000\nsource_burst = 1000\n", more="hello_timeout_ms = 30000")])
    try:
        e.wait("edge.config_applied")
        first = [connect(PORT) for _ in range(10)]  # none shows its name: the sixth and later push out the oldest
        for s in first:
            s.sendall(b"\x16")
        e.wait("edge.conn.closed", result="source_limit", count=5)
        for s in first:
            s.close()
        e.wait("edge.conn.closed", result="client_eof", count=5)
        hello, conns = client_hello("echo.example.com"), []
        for _ in range(20):
            s = connect(PORT)
            s.sendall(hello)
            check(s.recv(65536) == hello, "one within the limit was refused")
            conns.append(s)
        s = connect(PORT)
        s.sendall(hello)
        try:
            check(s.recv(100) == b"", "the 21st was served")
        except ConnectionResetError:
            pass
        conns.pop().close()

        def again():
            s = connect(PORT)
            s.sendall(hello)
            try:
                return s.recv(65536) == hello
            except ConnectionResetError:
                return False
        until(again, "room for one more")
    finally:
        e.end()


def a_hot_route_is_slowed_and_no_other_one():
    e = Edge(["--config", config("rate.toml", limits="[limits]\nroute_new_per_s = 1\nroute_burst = 5\n")])
    try:
        e.wait("edge.config_applied")
        hello = client_hello("echo.example.com")

        def answer():
            s = connect(PORT)
            s.sendall(hello)
            return s.recv(65536)
        for n in range(5):
            check(answer() == hello, "number %d of a burst of 5 was refused" % (n + 1))
        until(lambda: answer() == bytes([21, 3, 1, 0, 2, 2, 80]), "alert 80 for one too many", 30)
        check(say("a.example.com") == "this is a", "another route suffers")
        e.wait("edge.conn.closed", result="route_limit")
        until(lambda: answer() == hello, "a place a second later", 30)
    finally:
        e.end()


def over_the_limit_in_all_those_without_a_name_go_first_and_those_that_relay_stay():
    e = Edge(["--config", config("all.toml", more="max_conns = 10\nhello_timeout_ms = 30000", limits="[limits]\nloopback = false\n")])
    try:
        e.wait("edge.config_applied")
        e.wait("edge.started")
        listeners = e.fds_by_kind()["socket"]
        hello = client_hello("echo.example.com")

        def served():
            s = connect(PORT)
            s.sendall(hello)
            check(s.recv(65536) == hello, "one within the limit was refused")
            return s
        held = [served() for _ in range(8)]
        mute = [connect(PORT) for _ in range(8)]
        for s in mute:
            s.sendall(b"\x16")
        e.wait("edge.conn.closed", result="overload")
        held[0].sendall(b"still there")
        check(held[0].recv(100) == b"still there", "a connection with a backend was touched")
        for s in held[1:] + mute:
            s.close()
        until(lambda: e.fds_by_kind()["socket"] <= listeners + 2, "all connections but one, with its backend, to end")
        held.append(served())  # accepting goes on
        held[0].sendall(b"to the end")
        check(held[0].recv(100) == b"to the end", "a connection with a backend was touched")
        for s in (held[0], held[-1]):
            s.close()
    finally:
        e.end()


def above_its_rate_the_log_counts_connections_in_place_of_lines():
    e = Edge(["--config", config("log.toml", more='access_log_per_s = 2', limits="[limits]\nloopback = false\n")])
    try:
        e.wait("edge.config_applied")
        hello, n = client_hello("nobody.example.com"), 60

        def at_once(count):
            """in a burst: as many lines as seconds allow are no claim about who is slow"""
            conns = [connect(PORT) for _ in range(count)]
            for s in conns:
                s.sendall(hello)
            for s in conns:
                read_all(s)
                s.close()
        at_once(n)
        end = fair.now() + fair.limit(20)
        while True:  # a later line of each worker brings what was left out before
            seen = e.find("edge.conn.closed")
            told = len(seen) + sum(int(x["suppressed"]) for x in seen)
            if told >= n and any(int(x["suppressed"]) > 0 for x in seen):
                break
            check(fair.now() < end, "%d connections, %d told of in %d lines" % (n, told, len(seen)))
            time.sleep(0.2)
            at_once(1)
            n += 1
        check(told <= n, "%d connections, %d told of" % (n, told))
        check(len(seen) < n - 20, "%d lines of %d connections" % (len(seen), n))
    finally:
        e.end()


def option_of(pid, fd, level, name):
    """of a socket of another process"""
    mine = ctypes.CDLL(None, use_errno=True).syscall(438, os.pidfd_open(pid), fd, 0)  # pidfd_getfd
    check(mine >= 0, "pidfd_getfd: %s" % os.strerror(ctypes.get_errno()))
    with socket.socket(fileno=mine) as s:
        return s.getsockopt(level, name)


def both_ends_have_keepalive_and_a_user_timeout():
    e = Edge(["--config", config("keep.toml")])
    try:
        e.wait("edge.config_applied")
        hello = client_hello("echo.example.com")
        s = connect(PORT)
        s.sendall(hello)
        check(s.recv(65536) == hello, "routing")

        def ends():
            """(to the client, to the backend) of the edge's open sockets"""
            found = {}
            for fd in os.listdir("/proc/%d/fd" % e.proc.pid):
                try:
                    mine = ctypes.CDLL(None).syscall(438, os.pidfd_open(e.proc.pid), int(fd), 0)
                    with socket.socket(fileno=mine) as x:
                        found[x.getpeername()[1]] = int(fd)
                except OSError:
                    pass
            return found.get(s.getsockname()[1]), found.get(echo.port)
        client, backend = until(lambda: (lambda x: x if all(x) else None)(ends()), "both sockets")
        want = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120000, "TCP_NODELAY": 1}

        def of(fd):
            return {k: option_of(e.proc.pid, fd, socket.SOL_SOCKET if k[:2] == "SO" else socket.IPPROTO_TCP, getattr(socket, k)) for k in want}
        check(of(client) == want, "to the client: %s" % of(client))
        s.sendall(b"more")  # the second write: no Nagle from here on; the rest is set once it has lasted
        until(lambda: of(backend) == want, "to the backend: %s" % of(backend), 15)
        s.close()
    finally:
        e.end()


def memory_with_a_thousand_routes_is_within_8_mib():
    state["control"] = Control(scratch.path("control"))
    e = Edge(["--config", config()])
    try:
        e.wait("edge.config_applied")
        rev = state["rev"] = 1000
        publish([A, B, ECHO] + [{"name": "t%d.example.com" % k, "port": 443, "backends": [("inst_%d" % k, a.port)]} for k in range(1000)])
        acked(rev + 1)
        check(say("a.example.com") == "this is a", "routing")
        pss = e.pss_kib()
        check(pss <= 8 * 1024, "Pss is %d KiB" % pss)
    finally:
        check(e.end() == 0, "exit status")
        state["control"].end()


CASES = [waits_for_a_first_configuration_and_says_so, first_snapshot_is_applied_and_acknowledged_at_once, file_on_disk_has_the_true_header,
         new_backend_is_used_within_two_seconds, swaps_leave_established_connections_alone, invalid_snapshots_are_refused_whole_and_reported,
         shrink_guard_holds_until_allowed, raw_port_opens_serves_a_server_that_speaks_first_and_closes,
         raw_route_sends_its_proxy_header_without_waiting, proxy_tlvs_carry_name_and_connection_id,
         suspended_route_is_answered_like_an_unknown_one, route_without_backend_gets_alert_80_and_the_limit_too,
         listener_that_cannot_open_is_reported_and_opens_later, counters_of_routes_travel_with_the_acknowledgement,
         serves_without_the_control_plane_and_hears_it_when_it_is_back, a_control_plane_of_another_protocol_is_told_once_by_name_and_not_asked_in_a_loop, kill_9_and_start_without_the_control_plane_within_a_second,
         damaged_file_falls_back_to_the_one_before, wrong_settings_are_named_with_line_and_nearest_key,
         limits_of_a_source_close_what_is_over, a_hot_route_is_slowed_and_no_other_one,
         over_the_limit_in_all_those_without_a_name_go_first_and_those_that_relay_stay,
         above_its_rate_the_log_counts_connections_in_place_of_lines, both_ends_have_keepalive_and_a_user_timeout, memory_with_a_thousand_routes_is_within_8_mib]

if __name__ == "__main__":
    try:
        status = run_cases(CASES)
    finally:
        if "edge" in state and state["edge"].proc.poll() is None:
            state["edge"].end(signal.SIGKILL)
        scratch.end()
    sys.exit(status)
