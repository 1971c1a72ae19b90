#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moat edge explain` says what the edge then does; minimum TLS version by hello; dedicated IPv4 listeners.

COST 1 s, 1 s of processor."""
import json
import os
import socket
import ssl
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from edgekit import EDGE, Backend, Control, Edge, Scratch, check, client_hello, free_port, read_all, run_cases, snapshot, until  # noqa: E402

scratch = Scratch()
MOAT = os.path.join(os.path.dirname(EDGE), "moat")
PORT, RAW, HTTP = free_port(), free_port(), free_port()


def say(word):
    def handle(c):
        c.recv(65536)
        c.sendall(word)
    return Backend(handle)


one, two = say(b"one"), say(b"two")
V4 = "127.0.0.1"
state = {"rev": 0}


def hello(name, best=None):
    """first flight of python's client, at most of TLS @best"""
    if best is None:
        return client_hello(name)
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode, ctx.maximum_version = False, ssl.CERT_NONE, best
    out = ssl.MemoryBIO()
    try:
        ctx.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def publish():
    state["rev"] += 1
    s = snapshot(state["rev"], [
        {"name": "one.example.com", "port": 443, "backends": [("inst_1", one.port)]},
        {"name": "new.example.com", "port": 443, "backends": [("inst_2", two.port)], "min_tls_version": "1.3"},
        {"name": "off.example.com", "port": 443, "backends": [("inst_1", one.port)], "disabled": True},
        {"name": "none.example.com", "port": 443, "backends": []},
        {"port": RAW, "proto": "tcp_raw", "backends": [("inst_r", two.port)]}], http_redirect=state.get("redirect", False))
    s["listeners"].append({"address_scope": "ipv4", "protocol": "tls_passthrough", "port": 443, "address": V4})
    s["routes"].append({"route_id": "rt_v4", "env_id": "env_t", "protocol": "tls_passthrough", "address_scope": "ipv4", "address": V4,
                        "hostname": "v4.example.com", "listen_port": 443, "allow_non_tls": True})
    s["backends"]["rt_v4"] = [{"instance_id": "inst_4", "address": "::1", "port": two.port}]
    s["ipv4"] = [{"allocation_id": "ip_1", "env_id": "env_t", "ipv4_address": V4}]
    state["control"].set(s)
    until(lambda: [x for x in list(state["control"].statuses) if x["revision"] == state["rev"]], "the acknowledgement")


def explain(*args, code=0):
    r = subprocess.run([MOAT, "edge", "explain", "--socket", scratch.path("admin"), "--json"] + list(args), capture_output=True, text=True)
    check(r.returncode == code, "exit status %d: %s%s" % (r.returncode, r.stdout, r.stderr))
    return json.loads(r.stdout)["data"] if code == 0 else r.stdout + r.stderr


def does(data, host="::1", port=PORT):
    """what the edge answers to these first bytes"""
    s = socket.create_connection((host, port), timeout=60)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    try:
        return read_all(s)
    finally:
        s.close()


def starts():
    state["control"] = Control(scratch.path("control"))
    os.mkdir(scratch.path("data"), 0o700)
    state["edge"] = Edge(["--config", scratch.write("edge.toml", 'data_dir = "%s"\ncontrol_socket = "%s"\nadmin_socket = "%s"\npublic_addresses = ["::1"]\n'
                                                    'workers = 2\n[port_map]\n443 = %d\n80 = %d\n' %
                                                    (scratch.path("data"), scratch.path("control"), scratch.path("admin"), PORT, HTTP))])
    publish()


def names_are_explained_as_they_are_served():
    for name, decision, reason, answer in (("One.Example.com.", "proxy", "ok", b"one"), ("who.example.com", "alert", "no_route", 112),
                                           ("off.example.com", "alert", "suspended", 112), ("none.example.com", "alert", "no_backend", 80)):
        e = explain(name)
        check((e["decision"], e["reason"]) == (decision, reason), "%s: %s" % (name, e))
        got = does(hello(name.rstrip(".")))
        check(got == (bytes([21, 3, 1, 0, 2, 2, answer]) if isinstance(answer, int) else answer), "%s: %r" % (name, got))
        check(e.get("alert") == (answer if isinstance(answer, int) else None), e)
    until(lambda: explain("one.example.com")["route"]["backends"][0]["connections"] == 0, "the end of the connection at the edge, too")
    e = explain("one.example.com")
    check(e["route"]["backends"] == [{"instance_id": "inst_1", "address": "[::1]:%d" % one.port, "connections": 0, "ejected_for_ms": 0}] and
          e["listener"]["local"] == ["[::1]:%d" % PORT] and e["revision"] == state["rev"], e)
    check(explain("not a name")["reason"] == "no_sni", "a bad name")


def minimum_version_is_kept_by_hello_alone():
    for best, decision in ((ssl.TLSVersion.TLSv1_2, "alert"), (ssl.TLSVersion.TLSv1_3, "proxy")):
        for name in ("new.example.com", "one.example.com"):
            data = hello(name, best)
            with open(scratch.path("hello"), "wb") as f:
                f.write(data)
            e = explain("--from-hello", scratch.path("hello"))
            want = decision if name.startswith("new") else "proxy"
            check(e["decision"] == want and e["hello"]["tls_version"] == ("1.2" if best == ssl.TLSVersion.TLSv1_2 else "1.3"), e)
            got = does(data)
            check(got == {"alert": bytes([21, 3, 1, 0, 2, 2, 70]), "proxy": b"two" if name.startswith("new") else b"one"}[want], "%s %s: %r" % (best, name, got))
    state["edge"].wait("edge.conn.closed", result="tls_version")


def hellos_of_a_file_are_explained_whole_cut_and_broken():
    data = hello("one.example.com")
    for raw, decision, reason in ((data, "proxy", "ok"), (data[:100], "wait", "more"), (data[:5] + b"\x02" + data[6:], "alert", "malformed"),
                                  (b"GET / HTTP/1.1\r\n\r\n", "close", "not_tls"), (hello(None), "alert", "no_sni")):
        with open(scratch.path("hello"), "wb") as f:
            f.write(raw)
        e = explain("--from-hello", scratch.path("hello"))
        check((e["decision"], e["reason"]) == (decision, reason), e)
        if decision == "alert":
            check(does(raw)[-1:] == bytes([e["alert"]]), "the edge does otherwise")
    r = subprocess.run([MOAT, "edge", "explain", "other.example.com", "--from-hello", scratch.path("hello"), "--socket", scratch.path("admin")],
                       capture_output=True, text=True)
    check(r.returncode == 0 and "not for 'other.example.com'" in r.stderr and "alert 112" in r.stdout, r.stdout + r.stderr)
    check("missing" in explain(code=2) and "is empty" in explain("--from-hello", scratch.write("empty", ""), code=2), "usage")


def raw_ports_and_dedicated_addresses_too():
    e = explain("x", "--listen", str(RAW))
    check(e["decision"] == "proxy" and e["route"]["route_id"] == "rt_%d" % RAW, e)
    for name in (None, "v4.example.com"):  # its only route takes clients without a name too
        check(does(hello(name), V4) == b"two", "over IPv4: %s" % name)
    check(does(b"SSH-2.0-x\r\n", V4) == b"two", "allow_non_tls over IPv4")
    e = explain("v4.example.com", "--address", V4)
    check(e["decision"] == "proxy" and e["route"]["route_id"] == "rt_v4" and e["listener"]["local"] == ["%s:%d" % (V4, PORT)], e)
    check(explain("v4.example.com")["reason"] == "no_route", "a name of a dedicated address on the shared one")
    check(does(hello("v4.example.com")) == bytes([21, 3, 1, 0, 2, 2, 112]), "the shared listener serves it")
    check("address" in explain("x", "--address", "nowhere", code=2), "usage")


def plain_http_is_sent_to_https_where_that_is_served_and_nothing_else_is_said():
    try:
        socket.create_connection(("::1", HTTP), timeout=60).close()
        check(False, "port 80 is served though nobody asked for it")
    except ConnectionRefusedError:
        pass
    state["redirect"] = True
    publish()

    def location(head):
        try:
            got = does(head, port=HTTP)
        except OSError:  # closed while we still sent
            got = b""
        if not got:
            return None
        check(got.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n") and got.endswith(b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") and got.count(b"\r\n\r\n") == 1, got)
        return got.split(b"Location: ", 1)[1].split(b"\r\n", 1)[0].decode()
    get = lambda host, path="/": ("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: x\r\n\r\n" % (path, host)).encode()
    for head, to in ((get("one.example.com"), "https://one.example.com/"), (get("One.Example.COM.:80", "/a/b?c=%20d"), "https://one.example.com/a/b?c=%20d"),
                     (b"POST /form HTTP/1.0\nHost:\tone.example.com \n\nbody=1", "https://one.example.com/form"),
                     (b"GET http://one.example.com/x HTTP/1.1\r\nHost: other.example.com\r\n\r\n", "https://one.example.com/x"),
                     (b"OPTIONS * HTTP/1.1\r\nHost: one.example.com\r\n\r\n", "https://one.example.com/"), (get("none.example.com"), "https://none.example.com/"),
                     (get("who.example.com"), None), (get("off.example.com"), None), (get("v4.example.com"), None), (get("127.0.0.1"), None), (get(""), None),
                     (get("one.example.com/../x"), None), (get("one.example.com", "no-slash"), "https://one.example.com/"), (b"GET / HTTP/1.1\r\n\r\n", None),
                     (b"GET / HTTP/1.1\r\nHost: one.example.com\r\nHost: one.example.com\r\n\r\n", None), (b"GET / HTTP/2.0\r\nHost: one.example.com\r\n\r\n", None),
                     (b"GET /\x01 HTTP/1.1\r\nHost: one.example.com\r\n\r\n", None), (b"get / HTTP/1.1\r\nHost: one.example.com\r\n\r\n", None),
                     (b"GET / HTTP/1.1\r\nHost : one.example.com\r\n\r\n", None), (b"GET / HTTP/1.1\r\nno header\r\nHost: one.example.com\r\n\r\n", None),
                     (b"GET / HTTP/1.1\r\nHost: one.example.com\r\n", None), (hello("one.example.com"), None), (b"\r\n\r\n", None), (b"\0" * 4000 + b"\r\n\r\n", None)):
        check(location(head) == to, "%r: %r" % (head[:80], location(head)))
    long = "/" + "p" * 3900
    check(location(get("one.example.com", long)) == "https://one.example.com" + long, "a long path")
    check(location(get("one.example.com", "/" + "p" * 4100)) is None and location(b"GET / HTTP/1.1\r\nX: " + b"y" * 9000) is None, "a head of more than 4 KiB")
    s = socket.create_connection(("::1", HTTP), timeout=60)  # byte by byte
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for b in get("one.example.com", "/slow"):
        s.sendall(bytes([b]))
    check(b"Location: https://one.example.com/slow\r\n" in read_all(s), "byte by byte")
    s.close()
    check(does(hello("one.example.com")) == b"one", "TLS beside it")
    state["redirect"] = False
    publish()

    def gone():
        try:
            socket.create_connection(("::1", HTTP), timeout=60).close()
            return False
        except ConnectionRefusedError:
            return True
    until(gone, "port 80 is closed again")


def end_is_clean():
    check(state["edge"].end() == 0, "exit status")
    state["control"].end()


CASES = [starts, names_are_explained_as_they_are_served, minimum_version_is_kept_by_hello_alone,
         hellos_of_a_file_are_explained_whole_cut_and_broken, raw_ports_and_dedicated_addresses_too,
         plain_http_is_sent_to_https_where_that_is_served_and_nothing_else_is_said, end_is_clean]

if __name__ == "__main__":
    try:
        status = run_cases(CASES)
    finally:
        if "edge" in state and state["edge"].proc.poll() is None:
            state["edge"].proc.kill()
        scratch.end()
    sys.exit(status)
