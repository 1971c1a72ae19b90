# SPDX-License-Identifier: Apache-2.0
"""What the edge scenarios share: a real moat-edge, TLS and raw backends, a control plane that serves snapshots by long poll.

Everything is on loopback and in a scratch folder; every process is ended by its pid.
"""
import collections
import glob
import http.server
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import fair
from ports import free_port  # noqa: F401

ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EDGE = os.path.join(os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin"), "moat-edge")


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def within(fn, what, limit):
    """wait for an event that can only be asked for; returns what fn returned; that it comes within @limit seconds is the claim"""
    end = fair.now() + limit
    while True:
        got = fn()
        if got:
            return got
        if fair.now() > end:
            raise AssertionError("did not come within %.1f s: %s" % (limit, what))
        time.sleep(0.01)


def until(fn, what, limit=5.0):
    """the same; when it comes is not the claim"""
    return within(fn, what, fair.limit(limit))


def run_cases(cases):
    """call each case, print its line; returns the exit status"""
    failed = 0
    for case in cases:
        name = case.__name__.replace("_", " ")
        try:
            case()
            print("ok - " + name, flush=True)
        except Exception as e:  # noqa: BLE001  a case may fail in any way
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print("not ok - %s: %s" % (name, str(e).split("\n")[0]), flush=True)
    return 1 if failed else 0


class Scratch:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="moat-edge-test.")
        self.cert = os.path.join(self.dir, "cert.pem")
        self.key = os.path.join(self.dir, "key.pem")
        names = ["DNS:%s" % n for n in ("a.example.com", "b.example.com", "c.example.com")]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                        self.key, "-out", self.cert, "-days", "2", "-subj", "/CN=edge test", "-addext",
                        "subjectAltName=" + ",".join(names)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def end(self):
        shutil.rmtree(self.dir, ignore_errors=True)


class Backend:
    """accepts on [::1]; handler(conn) gets each connection on its own thread. conns, heads are for looking at."""

    def __init__(self, handler, rcvbuf=None):
        self.sock = socket.socket(socket.AF_INET6)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.bind(("::1", 0))
        self.sock.listen(512)
        self.port = self.sock.getsockname()[1]
        self.conns = 0
        self.handler = handler
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            self.conns += 1
            threading.Thread(target=self._one, args=(c,), daemon=True).start()

    def _one(self, c):
        try:
            self.handler(c)
        except OSError:
            pass
        finally:
            c.close()

    def end(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def tls_backend(scratch, say):
    """HTTPS: answers any request with the text and closes"""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(scratch.cert, scratch.key)

    def handle(c):
        try:
            with ctx.wrap_socket(c, server_side=True) as t:
                t.recv(65536)
                body = say.encode()
                t.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                t.unwrap()
        except ssl.SSLError:
            pass
    return Backend(handle)


class Edge:
    """a moat-edge process; its log is kept line by line"""

    def __init__(self, args, env=None):
        self.lines = []
        self.proc = subprocess.Popen([EDGE] + args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                     text=True, errors="replace", env=env)
        self.pid = self.proc.pid
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.proc.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"msg": "not json", "text": line})

    def find(self, msg, **fields):
        return [x for x in list(self.lines) if x.get("msg") == msg and all(x.get(k) == v for k, v in fields.items())]

    def wait(self, msg, limit=5.0, count=1, **fields):
        def there():
            if self.proc.poll() is not None and not self.find(msg, **fields):
                raise AssertionError("moat-edge ended with %s before '%s': %s" % (self.proc.returncode, msg, self.lines[-3:]))
            return len(self.find(msg, **fields)) >= count and self.find(msg, **fields)
        return until(there, "log line '%s' %s" % (msg, fields), limit)

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def fds_by_kind(self):
        """how many descriptors of each kind: socket, pipe, anon_inode:[eventpoll], a path"""
        kinds = collections.Counter()
        for fd in os.listdir("/proc/%d/fd" % self.pid):
            try:
                kinds[re.sub(r":\[\d+\]$", "", os.readlink("/proc/%d/fd/%s" % (self.pid, fd)))] += 1
            except OSError:  # closed since
                pass
        return kinds

    def own_kib(self):
        """Memory of its own, for who looks whether it grew: files that are mapped are shared out among all edges that happen to run."""
        with open("/proc/%d/smaps_rollup" % self.pid) as f:
            return sum(int(line.split()[1]) for line in f if line.startswith(("Anonymous:", "Pss_Shmem:")))

    def pss_kib(self):
        with open("/proc/%d/smaps_rollup" % self.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss:"))

    def kill(self, n):
        self.proc.send_signal(n)

    def end(self, how=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(how)
        try:
            self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError("moat-edge did not end after signal %d" % how)
        return self.proc.returncode


class Control:
    """the two edge endpoints of the control plane on a Unix socket: set(snapshot) publishes, statuses holds what came"""

    def __init__(self, path):
        self.path = path
        self.text, self.revision = None, 0
        self.statuses = []
        self.polls = 0
        self.changed = threading.Condition()
        self.stopped = False
        self.strange = False  # 426 to all, as a control plane of another protocol answers
        control = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self):
                return "unix"

            def log_message(self, *_):
                pass

            def turned_away(self):
                if control.strange:
                    text = json.dumps({"type": "urn:moat:error:agent_incompatible", "title": "The agent's version does not fit", "status": 426, "code": "agent_incompatible",
                                       "detail": "this control plane (moat 9.9.9) speaks node/9 with its nodes, the caller node/1: install on the node the version that the control plane has."
                                                 " What runs there goes on"}).encode()
                    self.send_response(426)
                    self.send_header("Content-Type", "application/problem+json")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                return control.strange

            def do_GET(self):
                query = dict(p.split("=") for p in self.path.split("?")[1].split("&"))
                text = control.next(int(query["after"]), float(query["wait"]))
                if control.stopped:
                    self.close_connection = True
                    return
                if self.turned_away():
                    return
                if text is None:
                    self.send_response(304)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.turned_away():
                    return
                control.statuses.append(json.loads(body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            conns = []

            def get_request(self):
                c, _ = super().get_request()
                self.conns.append(c)
                return c, ("unix", 0)

        if os.path.exists(path):
            os.unlink(path)
        self.server = Server(path, Handler)
        self.server.conns = []
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def next(self, after, wait):
        with self.changed:
            self.polls += 1
            self.changed.wait_for(lambda: self.stopped or self.strange or (self.text is not None and self.revision > after), wait)
            return self.text if self.text is not None and self.revision > after else None

    def set(self, snapshot):
        """publish; a str goes out as it is, under the next revision"""
        with self.changed:
            if isinstance(snapshot, str):
                self.text, self.revision = snapshot.encode(), self.revision + 1
            else:
                self.text, self.revision = json.dumps(snapshot).encode(), snapshot["revision"]
            self.changed.notify_all()

    def end(self):
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()
        for c in self.server.conns:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if os.path.exists(self.path):
            os.unlink(self.path)


def snapshot(revision, routes, **more):
    """routes: dicts with name, port, backends [(instance, port)] and any further route fields; proto raw: no name"""
    s = {"format": 1, "cluster_id": "cl_test", "epoch": 1, "revision": revision, "generated_at": "2026-01-01T00:00:00.000000Z",
         "listeners": [], "routes": [], "backends": {}, "ipv4": [], "revoked_serials": [], "limits": {}}
    for r in routes:
        r = dict(r)
        proto = r.pop("proto", "tls_passthrough")
        name, port, backends = r.pop("name", None), r.pop("port"), r.pop("backends")
        rid = r.pop("id", "rt_%s" % (name or port).__str__().replace(".", "_"))
        listener = {"address_scope": "shared6", "protocol": proto, "port": port}
        if listener not in s["listeners"]:
            s["listeners"].append(listener)
        route = {"route_id": rid, "org_id": "org_t", "app_id": "app_t", "env_id": "env_t", "resource_version": 1, "protocol": proto,
                 "address_scope": "shared6", "listen_port": port, "backend_process_type": "web", "backend_port": 1,
                 "proxy_protocol": "off"}
        if name:
            route["hostname"] = name
        route.update(r)
        s["routes"].append(route)
        s["backends"][rid] = [{"instance_id": i, "address": "::1", "port": p, "weight": 1, "state": "ready"} for i, p in backends]
    s.update(more)
    return s


def client_hello(name, alpn=None):
    """the first flight of python's own TLS client"""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if alpn:
        ctx.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    t = ctx.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        t.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def connect(port, limit=60):
    s = socket.create_connection(("::1", port), timeout=limit)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_all(s):
    parts = []
    while True:
        d = s.recv(65536)
        if not d:
            return b"".join(parts)
        parts.append(d)


def curl(scratch, name, port, path="/"):
    """(exit status, body, stderr) of curl with verification against the test's certificate"""
    r = subprocess.run(["curl", "-sS", "--max-time", "60", "--cacert", scratch.cert, "--resolve", "%s:%d:[::1]" % (name, port),
                        "https://%s:%d%s" % (name, port, path)], capture_output=True, text=True)
    return r.returncode, r.stdout, r.stderr


def leftovers():
    """processes of this file's own edge binary that are still there (for the last case of a file)"""
    return [p for p in glob.glob("/proc/[0-9]*/exe") if os.path.exists(p) and os.readlink(p) == EDGE and
            open(os.path.dirname(p) + "/stat").read().rsplit(") ", 1)[1].split()[1] == str(os.getpid())]
