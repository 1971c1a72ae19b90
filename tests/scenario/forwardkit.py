# SPDX-License-Identifier: Apache-2.0
"""Receivers of log lines and the rig that forwards to them (tests/tools/forward_rig.c). Not a test itself.

rsyslog is Debian's, with its GnuTLS driver. The OTLP receiver is strict: what it took is parsed by Google's protobuf with the published
schema (opentelemetry-proto from PyPI), where an unknown field or a wrong type is an error.
"""
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
from ports import free_port  # noqa: E402

BUILD = os.environ.get("MOAT_BUILD", os.path.join(kit.ROOT, "build"))
RIG = os.path.join(BUILD, "tests/tools/forward_rig")
FORWARD = os.path.join(kit.BIN, "moat-forward")
OTLP_PROTO = "1.27.0"

STRICT = r"""
import json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
for line in sys.stdin:
    m = json_format.Parse(json.loads(line), ExportLogsServiceRequest())
    out = []
    for rl in m.resource_logs:
        res = {a.key: a.value.string_value for a in rl.resource.attributes}
        for sl in rl.scope_logs:
            for r in sl.log_records:
                at = {a.key: (a.value.string_value or a.value.int_value or a.value.bool_value) for a in r.attributes}
                out.append([res, at, r.body.string_value, r.time_unix_nano, r.severity_number, r.severity_text, sl.scope.name])
    print(json.dumps(out))
"""


def strict_parser():
    """(python with the published schema, None) or (None, why not); made once, before anything leaves the network."""
    venv = os.path.join(BUILD, "otlp-" + OTLP_PROTO)
    python = venv + "/bin/python3"
    if os.path.exists(venv + "/done"):
        return python, None
    r = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if r.returncode == 0:
        r = subprocess.run([venv + "/bin/pip", "install", "-q", "--no-compile", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
                            "opentelemetry-proto==" + OTLP_PROTO], capture_output=True, text=True)
    if r.returncode:
        return None, "opentelemetry-proto is not obtainable: " + r.stderr[-200:]
    open(venv + "/done", "w").close()
    return python, None


class Certs:
    """An authority and what it signed, in @dir: ca.pem, NAME.pem, NAME.key."""

    def __init__(self, dir_, authority="moat test authority"):
        self.dir = dir_
        os.makedirs(dir_, exist_ok=True)
        kit.sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=" + authority,
               "-keyout", self.at("ca.key"), "-out", self.at("ca.pem"), "-addext", "keyUsage=critical,keyCertSign")

    def at(self, name):
        return os.path.join(self.dir, name)

    def make(self, name, alt):
        with open(self.at(name + ".ext"), "w") as f:
            f.write("subjectAltName=%s\n" % alt)
        kit.sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name, "-keyout", self.at(name + ".key"),
               "-out", self.at(name + ".csr"))
        kit.sh("openssl", "x509", "-req", "-in", self.at(name + ".csr"), "-CA", self.at("ca.pem"), "-CAkey", self.at("ca.key"), "-CAcreateserial", "-days", "2",
               "-extfile", self.at(name + ".ext"), "-out", self.at(name + ".pem"))
        return self.at(name + ".pem"), self.at(name + ".key")

    def text(self, name):
        with open(self.at(name)) as f:
            return f.read()


class Rsyslog:
    """A real rsyslogd on 127.0.0.1 that writes what it parsed, one JSON object a line. Its queue is direct: what it has read is written."""

    def __init__(self, scratch, certs, name="server", need_client=True, port=None):
        self.dir = tempfile.mkdtemp(prefix="rsyslog-", dir=scratch)
        self.out, self.port, self.proc = os.path.join(self.dir, "out"), port or free_port(), None
        with open(os.path.join(self.dir, "conf"), "w") as f:
            f.write('global(workDirectory="%s" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off" DefaultNetstreamDriver="gtls"\n'
                    ' DefaultNetstreamDriverCAFile="%s" DefaultNetstreamDriverCertFile="%s" DefaultNetstreamDriverKeyFile="%s")\n'
                    'main_queue(queue.type="direct")\n'
                    'module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="%s" %s)\n'
                    'input(type="imtcp" port="%d" address="127.0.0.1")\n'
                    'template(name="t" type="list" option.jsonf="on") {\n' % (
                        self.dir, certs.at("ca.pem"), certs.at(name + ".pem"), certs.at(name + ".key"), "x509/name" if need_client else "anon",
                        'PermittedPeer=["moat-node"]' if need_client else "", self.port))
            for k in ("pri", "timestamp", "hostname", "app-name", "procid", "msgid", "structured-data", "msg"):
                f.write(' property(outname="%s" name="%s" format="jsonf"%s)\n' % (k, k, ' dateFormat="rfc3339"' if k == "timestamp" else ""))
            f.write('}\naction(type="omfile" file="%s" template="t")\n' % self.out)
        self.start()

    def start(self):
        env = dict(os.environ, RSYSLOG_DEBUG="")
        self.proc = subprocess.Popen(["rsyslogd", "-n", "-f", os.path.join(self.dir, "conf"), "-i", os.path.join(self.dir, "pid")], stdout=subprocess.DEVNULL,
                                     stderr=open(os.path.join(self.dir, "err"), "ab"), env=env)
        kit.wait_for("rsyslogd", self.listens, 20)

    def listens(self):
        if self.proc.poll() is not None:
            raise AssertionError("rsyslogd ended: " + open(os.path.join(self.dir, "err")).read()[-500:])
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def rows(self):
        if not os.path.exists(self.out):
            return []
        rows = []
        with open(self.out, errors="surrogateescape") as f:
            for line in f:
                try:
                    rows.append(json.loads(line))
                except ValueError:  # the last line of a receiver that was killed, maybe with the first one of the next
                    try:
                        rows.append(json.loads(line[max(0, line.rfind('{"pri":')):]))
                    except ValueError:
                        continue
        return rows

    def got(self, instance):
        """[(seq, text)] of an instance, in the order of arrival"""
        out = []
        for r in self.rows():
            if r["procid"] == instance:
                out.append((int(re.search(r'seq="(\d+)"', r["structured-data"]).group(1)), r["msg"].lstrip("\ufeff")))
        return out


class Otlp:
    """An OTLP/HTTP receiver; @answer decides what each request gets: a function of (number, body) -> (status, headers, body), or None to hang."""

    def __init__(self, certs=None, answer=None):
        self.bodies, self.heads, self.seen, self.answer, self.lock = [], [], 0, answer or (lambda n, b: (200, {}, b"{}")), threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer.lock:
                    outer.seen += 1
                    n = outer.seen
                got = outer.answer(n, body)
                if got is None:
                    outer.hang.wait()
                    return
                status, headers, data = got
                with outer.lock:
                    outer.heads.append((self.path, dict(self.headers), status))
                    if status == 200:
                        outer.bodies.append(body.decode())
                self.send_response(status)
                for k, v in headers.items():
                    self.send_header(k, v)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:
                    pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *a):
                pass

        self.hang = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        if certs:
            c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            c.load_cert_chain(certs.at("server.pem"), certs.at("server.key"))
            self.server.socket = c.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()

    def records(self):
        """[(instance, seq, text)] of what was taken, read without the published schema"""
        out = []
        with self.lock:
            bodies = list(self.bodies)
        for b in bodies:
            for rl in json.loads(b)["resourceLogs"]:
                res = {a["key"]: a["value"]["stringValue"] for a in rl["resource"]["attributes"]}
                for sl in rl["scopeLogs"]:
                    for r in sl["logRecords"]:
                        seq = [a["value"]["intValue"] for a in r["attributes"] if a["key"] == "moat.seq"][0]
                        out.append((res["service.instance.id"], int(seq), r["body"]["stringValue"]))
        return out

    def got(self, instance):
        return [(s, t) for i, s, t in self.records() if i == instance]


class Rig:
    """Store, sinks and moat-forward as the agent has them, without the agent."""

    def __init__(self, scratch):
        self.dir = tempfile.mkdtemp(prefix="rig-", dir=scratch)
        os.chmod(self.dir, 0o755)
        for d in ("logs", "state"):
            os.mkdir(os.path.join(self.dir, d))
        self.org, self.app, self.env, self.confs = kit.new_id("org"), kit.new_id("app"), kit.new_id("env"), 0
        self.start()

    def start(self):
        self.proc = subprocess.Popen([RIG, os.path.join(self.dir, "logs"), os.path.join(self.dir, "state")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=open(os.path.join(self.dir, "log"), "ab"), text=True)

    def do(self, *words):
        self.proc.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.proc.stdin.flush()
        return self.proc.stdout.readline().strip()

    def ok(self, *words):
        got = self.do(*words)
        if got != "ok":
            raise AssertionError("%s: %s" % (words, got))

    def inst(self, id_=None, org=None, process="web"):
        id_ = id_ or kit.new_id("inst")
        self.ok("inst", id_, org or self.org, self.app, self.env, process)
        return id_

    def sink(self, id_, org="-", **conf):
        uid = 65534 if os.geteuid() == 0 else 0
        conf = dict({"node": "node_test", "any_address": True, "uid": uid, "gid": uid}, **conf)
        self.confs += 1
        path = os.path.join(self.dir, "conf-%d" % self.confs)
        with open(path, "w") as f:
            json.dump(conf, f)
        self.ok("sink", id_, org, path, FORWARD)

    def state(self, id_):
        return json.loads(self.do("state", id_))

    def totals(self):
        return json.loads(self.do("totals"))

    def children(self):
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    name, _, rest = f.read().partition("(")[2].rpartition(")")
                if name == "moat-forward" and int(rest.split()[1]) == self.proc.pid:
                    out.append(int(pid))
            except (OSError, ValueError):
                continue
        return out

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def end(self):
        self.proc.stdin.close()
        self.proc.wait(60)

    def log(self):
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()
