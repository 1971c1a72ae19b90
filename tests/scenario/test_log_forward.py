#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Log lines to receivers outside: a real rsyslog over TLS, a strict OTLP/HTTP receiver, receivers that lie, hang and flood, and kills of all
three parts in between. The store, the sinks and moat-forward are the real ones; an agent with a real VM is at the end. COST 78 s, 22 s of processor."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import fair  # noqa: E402
import forwardkit as fk  # noqa: E402
import imagekit  # noqa: E402
from imagekit import want  # noqa: E402

report = imagekit.Report()


def whole(got, word, n):
    """Every line of @word at least once, numbers never behind one that came before, but for repeats."""
    texts = {t for _, t in got}
    missing = [k for k in range(n) if "%s %d" % (word, k) not in texts]
    want(not missing, "%d of %d lines are missing, the first is %s" % (len(missing), n, missing[:3]))
    first = {}
    for i, (seq, _) in enumerate(got):
        first.setdefault(seq, i)
    order = [s for s, _ in sorted(first.items(), key=lambda kv: kv[1])]
    want(order == sorted(order), "lines came out of order")


def arrives(receiver, instance, word, n, seconds=60):
    def there():
        return len({t for _, t in receiver.got(instance) if t.startswith(word + " ")}) >= n
    try:
        kit.wait_for("%d lines '%s'" % (n, word), there, seconds, every=0.1)
    except AssertionError as e:
        raise AssertionError("%s; %d came" % (e, len({t for _, t in receiver.got(instance)}))) from None
    whole([g for g in receiver.got(instance) if g[1].startswith(word + " ")], word, n)


def tls_conf(r, host="127.0.0.1", ca=None, client=True):
    conf = {"kind": "syslog", "host": host, "port": r.port, "tls": True, "ca": ca or certs.text("ca.pem")}
    if client:
        conf.update(cert=certs.text("moat-node.pem"), key=certs.text("moat-node.key"))
    return conf


def syslog_whole():
    """RFC 5424 over TLS with certificates on both sides into rsyslog: fields, order, parts of long lines, bytes that are no text."""
    rig, r = fk.Rig(scratch), fk.Rsyslog(scratch, certs)
    try:
        a, b = rig.inst(), rig.inst(process="worker")
        rig.ok("put", a, 10, "before")  # a new sink is not sent what was there
        rig.sink("node", **tls_conf(r))
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        rig.ok("put", a, 3000, "a")
        rig.ok("put", b, 3000, "b")
        rig.ok("raw", a, b"\xff\xfe caf\xc3\xa9 \x00 ]\"\\ end".hex())
        rig.ok("raw", a, ("é" * 10000).encode().hex())
        arrives(r, a, "a", 3000)
        arrives(r, b, "b", 3000)
        want(not any(t.startswith("before ") for _, t in r.got(a)), "lines of before the sink came")
        rows = kit.wait_for("the long line", lambda: (lambda x: x if len(x) > 1 else None)([q for q in r.rows() if 'part="' in q["structured-data"]]))
        kit.wait_for("all parts", lambda: len([q for q in r.rows() if 'part="' in q["structured-data"]]) == int(re.search(r'part="\d+/(\d+)"', rows[0]["structured-data"]).group(1)))
        rows = [q for q in r.rows() if 'part="' in q["structured-data"]]
        want("".join(q["msg"].lstrip("\ufeff") for q in rows) == "é" * 10000, "the parts of a long line do not make it up")
        odd = [t for _, t in r.got(a) if "caf" in t]
        want(odd == ["\ufffd\ufffd café \ufffd ]\"\\ end"], odd)
        one = next(q for q in r.rows() if q["procid"] == b)
        want((one["pri"], one["hostname"], one["app-name"], one["msgid"]) == ("14", "node_test", "worker", "stdout"), one)
        for k, v in (("org", rig.org), ("app", rig.app), ("env", rig.env), ("process", "worker"), ("instance", b), ("node", "node_test"), ("boot", "1")):
            want(' %s="%s"' % (k, v) in one["structured-data"], (k, one))
        kit.wait_for("nothing waits", lambda: rig.state("node")["waiting"] == 0)
        want(rig.state("node")["up"] and rig.totals()["lost"] == 0, rig.totals())
    finally:
        rig.end()
        r.kill()


def receiver_dies():
    """kill -9 of rsyslogd in the middle, five times: every line comes at least once, in order."""
    rig, r = fk.Rig(scratch), fk.Rsyslog(scratch, certs)
    try:
        a = rig.inst()
        rig.sink("node", **tls_conf(r))
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        n = 0
        for _ in range(5):
            rig.ok("put", a, 2000, "r%d" % n)
            kit.wait_for("some of it", lambda: any(t.startswith("r%d " % n) for _, t in r.got(a)), 60, every=0.005)
            r.kill()
            rig.ok("put", a, 500, "away%d" % n)
            r.start()
            arrives(r, a, "r%d" % n, 2000, 90)
            arrives(r, a, "away%d" % n, 500, 90)
            n += 1
    finally:
        rig.end()
        r.kill()


def forwarder_dies():
    """kill -9 of moat-forward, then of its parent: the next goes on where the receiver is; the child does not outlive the parent."""
    rig, r = fk.Rig(scratch), fk.Rsyslog(scratch, certs)
    try:
        a = rig.inst()
        rig.sink("node", **tls_conf(r))
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        for i in range(3):
            rig.ok("put", a, 2000, "k%d" % i)
            kit.wait_for("some of it", lambda: any(t.startswith("k%d " % i) for _, t in r.got(a)), 60, every=0.005)
            for pid in rig.children():
                os.kill(pid, signal.SIGKILL)
            arrives(r, a, "k%d" % i, 2000, 90)
        rig.ok("put", a, 5000, "last")
        kit.wait_for("some of it", lambda: any(t.startswith("last ") for _, t in r.got(a)), 60, every=0.005)
        child = rig.children()
        rig.kill()
        kit.wait_for("the child's end", lambda: not any(os.path.exists("/proc/%d" % p) for p in child))
        rig.start()
        rig.inst(a)
        rig.sink("node", **tls_conf(r))
        arrives(r, a, "last", 5000, 90)
        want(not any(t.startswith("k0 ") for _, t in r.got(a)[-3000:]), "the cursor was not kept")
    finally:
        rig.end()
        r.kill()


def forwarder_dies_in_flight():
    """kill -9 of moat-forward while it has lines that the receiver has not taken: the next child gets the same ones."""
    taken = {"yes": False}
    rig, o = fk.Rig(scratch), fk.Otlp(answer=lambda n, body: (200 if taken["yes"] else 503, {}, b"{}"))
    try:
        a = rig.inst()
        rig.sink("node", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % o.port)
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        rig.ok("put", a, 500, "held")
        kit.wait_for("a try", lambda: o.heads)
        for pid in rig.children():
            os.kill(pid, signal.SIGKILL)
        taken["yes"] = True
        arrives(o, a, "held", 500, 60)
    finally:
        rig.end()
        o.stop()


def bad_certificate():
    """A receiver that another authority vouches for, one with another name, and one that does not accept ours: not a line, and it is said why."""
    other = fk.Certs(os.path.join(scratch, "other"), "somebody else")
    rig, r = fk.Rig(scratch), fk.Rsyslog(scratch, certs)
    try:
        a = rig.inst()
        for sink, conf, word in (("ca", tls_conf(r, ca=other.text("ca.pem")), "certificate"), ("name", tls_conf(r, host="localhost"), "name"),
                                 ("anon", tls_conf(r, client=False), "")):
            rig.sink(sink, **conf)
            kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/%s.json" % sink))
            rig.ok("put", a, 10, sink)
            down = kit.wait_for("the refusal", lambda: (lambda s: s if not s["up"] and s["waiting"] and "nothing was sent" not in s["why"] else None)(rig.state(sink)))
            want(word in down["why"], down)
            rig.ok("end", sink, "forget")
        want(r.got(a) == [], "lines came to a receiver that is not trusted")
    finally:
        rig.end()
        r.kill()


def otlp_whole():
    """OTLP/HTTP over TLS with a token: parsed with the published schema; requests of at most 1 MiB; what is refused is counted and said."""
    rig, o = fk.Rig(scratch), fk.Otlp(certs)
    try:
        a, b = rig.inst(), rig.inst(process="worker")
        rig.sink("node", kind="otlp", url="https://127.0.0.1:%d/v1/logs" % o.port, ca=certs.text("ca.pem"), headers="Authorization: Bearer s3cret\nX-Scope: a\n")
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        rig.ok("put", a, 3000, "a")
        rig.ok("put", b, 3000, "b")
        for _ in range(60):
            rig.ok("raw", b, (b"\x01" * 20000).hex())  # six bytes each in JSON
        rig.ok("raw", a, b"\xff caf\xc3\xa9 \x00 \"\\".hex())
        arrives(o, a, "a", 3000)
        arrives(o, b, "b", 3000)
        kit.wait_for("the heavy lines", lambda: len([t for _, t in o.got(b) if t.startswith("\x01")]) == 60)
        want(max(len(x) for x in o.bodies) <= 1 << 20, max(len(x) for x in o.bodies))
        path, head, _ = o.heads[0]
        want(path == "/v1/logs" and head["Authorization"] == "Bearer s3cret" and head["X-Scope"] == "a" and head["Content-Type"] == "application/json", (path, head))
        if python:
            r = subprocess.run([python, "-c", fk.STRICT], input="".join(json.dumps(x) + "\n" for x in o.bodies), capture_output=True, text=True)
            want(r.returncode == 0, r.stderr[-400:])
            rows = [row for line in r.stdout.splitlines() for row in json.loads(line)]
            want(len(rows) == len(o.records()), (len(rows), len(o.records())))
            res, at, text, ns, number, sev, scope = next(x for x in rows if x[2] == "b 7")
            want((number, sev, scope) == (9, "INFO", "moat") and abs(ns / 1e9 - time.time()) < 600, (number, sev, scope, ns))
            want(res == {"service.name": "worker", "service.instance.id": b, "moat.org": rig.org, "moat.app": rig.app, "moat.env": rig.env, "moat.process": "worker",
                         "moat.instance": b, "moat.node": "node_test"}, res)
            want(at["log.iostream"] == "stdout" and at["moat.boot"] == 1, at)
            want(any(x[2] == "\ufffd café \x00 \"\\" for x in rows), "odd bytes")
        want(not re.search("s3cret", rig.log()), "the token is in the log")
    finally:
        rig.end()
        o.stop()
    if not python:
        raise AssertionError(why)


def otlp_answers():
    """503, 429 with Retry-After, 401 and 413 are tried again and nothing is lost; 400 and a partial success are final, counted, and said in the stream."""
    script, turn = [503, 429, 401, 413, 200], {"n": 0, "bad": False, "times": []}

    def answer(n, body):
        turn["times"].append(time.monotonic())
        if turn["bad"] == "partial":
            turn["bad"] = False
            return 200, {}, b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}'
        if turn["bad"] and re.search(rb'"refused \d+"', body):  # all of them, in however many requests they come
            return 400, {}, b"no"
        status = script.pop(0) if script else 200
        if status == 413 and body.count(b'"timeUnixNano"') > 1:
            script.insert(0, 413)  # until one record is alone in a request
            if turn["n"] > 3:
                script.pop(0)
            turn["n"] += 1
        return status, {"Retry-After": "2"} if status == 429 else {}, b"{}"
    rig, o = fk.Rig(scratch), fk.Otlp(answer=answer)
    try:
        a = rig.inst()
        rig.sink("node", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % o.port)
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        rig.ok("put", a, 1000, "a")
        arrives(o, a, "a", 1000)
        kit.wait_for("their acknowledgement", lambda: rig.totals()["lines"] >= 1000)  # the receiver had them a moment before
        want(rig.totals() == {"lines": 1000, "lost": 0, "refused": 0}, rig.totals())
        want([h[2] for h in o.heads][:4] == [503, 429, 401, 413], [h[2] for h in o.heads])
        want(turn["times"][2] - turn["times"][1] >= 2, "Retry-After was not kept")
        turn["bad"] = True
        rig.ok("put", a, 50, "refused")
        kit.wait_for("the count", lambda: rig.totals()["refused"] == 50)
        turn["bad"] = False
        rig.ok("put", a, 50, "after")
        arrives(o, a, "after", 50)
        said = [t for _, t in o.got(a) if re.match(r"forward dropped=\d+ lines: the receiver refused", t)]
        want(sum(int(re.search(r"\d+", t).group()) for t in said) == 50, (said, [t for _, t in o.got(a)][-52:][:2]))
        turn["bad"] = "partial"
        rig.ok("put", a, 10, "part")
        kit.wait_for("the count", lambda: rig.totals()["refused"] == 53)
    finally:
        rig.end()
        o.stop()


def hostile(title, behave):
    """A receiver that @behave(connection) is; lines are stored as fast as ever, another sink is served, and nothing grows."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    kept = []

    def serve():
        while True:
            try:
                c = listener.accept()[0]
            except OSError:
                return
            kept.append(c)
            threading.Thread(target=behave, args=(c,), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    rig, good = fk.Rig(scratch), fk.Otlp()
    try:
        a = rig.inst()
        rig.sink("good", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % good.port)
        rig.sink("http", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % port)
        rig.sink("tcp", kind="syslog", host="127.0.0.1", port=port, tls=False)
        rig.sink("tls", kind="syslog", host="127.0.0.1", port=port, tls=True, ca=certs.text("ca.pem"))
        kit.wait_for("cursors", lambda: all(os.path.exists(rig.dir + "/state/%s.json" % s) for s in ("good", "http", "tcp", "tls")))
        slowest, began = 0.0, fair.now()
        for i in range(20):
            t = fair.now()
            rig.ok("put", a, 1000, "h%d" % i)
            slowest = max(slowest, fair.now() - t)
        arrives(good, a, "h19", 1000)
        want(slowest < 2.0, "1000 lines took %.2f s to store" % slowest)
        kit.wait_for("a connection", lambda: kept)
        for s in ("http", "tls"):
            st = rig.state(s)
            want(not st["up"], (s, st))
        for pid in rig.children() + [rig.proc.pid]:
            with open("/proc/%d/status" % pid) as f:
                rss = next(int(l.split()[1]) for l in f if l.startswith("VmRSS"))
            want(rss < 48 << 10, "process %d has %d KiB" % (pid, rss))
        t = fair.now()
        for s in ("http", "tcp", "tls"):
            rig.ok("end", s, "keep")
        want(fair.now() - t < 15, "a sink does not end: %.1f s" % (fair.now() - t))
        want(fair.now() - began < 120, "too long")
    finally:
        rig.end()
        good.stop()
        listener.close()
        for c in kept:
            c.close()


def reset(c):
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def flood(c):
    try:
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            c.sendall(b"x" * 65536)
    except OSError:
        pass


def silent(c):
    """takes the connection and reads nothing"""


def elsewhere(c):
    try:
        c.recv(65536)
        c.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n")
    except OSError:
        pass


def drip(c):
    try:
        for ch in b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100000:
            c.sendall(bytes([ch]))
            time.sleep(0.05)
    except OSError:
        pass


def inside():
    """A tenant's target that leads inside: no connection is made, whatever the name or form of the address."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen(16)
    listener.settimeout(0.5)
    port = listener.getsockname()[1]
    kit.sh("ip", "-6", "addr", "add", kit.NODE_ADDRESS + "/128", "dev", "lo")
    kit.sh("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
    rig = fk.Rig(scratch)
    try:
        a = rig.inst()
        hosts = ["127.0.0.1", "localhost", "::1", "169.254.169.254", kit.NODE_ADDRESS, "::ffff:127.0.0.1", "0.0.0.0", "10.0.0.1", "2130706433"]
        for i, h in enumerate(hosts):
            rig.sink("s%d" % i, any_address=False, kind="syslog", host=h, port=port, tls=True)
            rig.sink("o%d" % i, any_address=False, kind="otlp", url="https://%s:%d/v1/logs" % ("[%s]" % h if ":" in h else h, port))
        kit.wait_for("cursors", lambda: all(os.path.exists(rig.dir + "/state/%s%d.json" % (k, i)) for k in "so" for i in range(len(hosts))))
        rig.ok("put", a, 5, "x")
        for i, h in enumerate(hosts):
            for k in "so":
                st = kit.wait_for("a refusal of " + h, lambda: (lambda s: s if "nothing was sent" not in s["why"] else None)(rig.state("%s%d" % (k, i))), 60)
                want("public address" in st["why"] and not st["up"], (h, k, st))
        try:
            listener.accept()
            raise AssertionError("somebody connected")
        except socket.timeout:
            pass
        rig.sink("plain", any_address=False, kind="otlp", url="http://192.0.2.1:%d/" % port)
        kit.wait_for("its cursor", lambda: os.path.exists(rig.dir + "/state/plain.json"))  # what came before it is not its business
        rig.ok("put", a, 1, "y")
        kit.wait_for("the refusal of plain http", lambda: "protocol" in rig.state("plain")["why"].lower(), 60)
    finally:
        rig.end()
        listener.close()


def confined():
    """moat-forward while it serves: no user of weight, no new privileges, a seccomp filter, no capability, and not its secret in sight of others."""
    rig, o = fk.Rig(scratch), fk.Otlp()
    try:
        a = rig.inst()
        rig.sink("node", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % o.port, headers="Authorization: Bearer s3cret")
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        rig.ok("put", a, 5, "x")
        arrives(o, a, "x", 5)
        pid = rig.children()[0]
        with open("/proc/%d/status" % pid) as f:
            st = dict(l.rstrip("\n").split(":\t", 1) for l in f if ":\t" in l)
        want(st["Uid"].split() == ["65534"] * 4 and st["NoNewPrivs"] == "1" and int(st["CapEff"], 16) == 0 and int(st["CapPrm"], 16) == 0, st)
        want(st["Seccomp"] == "2", st["Seccomp"])
        for what in ("cmdline", "environ"):
            with open("/proc/%d/%s" % (pid, what), "rb") as f:
                want(b"s3cret" not in f.read(), what)
    finally:
        rig.end()
        o.stop()


def kept_too_briefly():
    """Segments that retention takes before the receiver was there: what is lost is counted to the line and said in the stream."""
    rig, o = fk.Rig(scratch), fk.Otlp()
    try:
        a = rig.inst()
        down = fk.free_port()
        rig.sink("node", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % down)
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/node.json"))
        text = ("z" * 20000).encode().hex()
        for _ in range(900):  # three segments of 8 MiB, of which a sink that gets no answer takes 3 MiB
            rig.ok("raw", a, text)
        folder = os.path.join(rig.dir, "logs", rig.env, a)
        segments = sorted(f for f in os.listdir(folder) if f.endswith(".log"))
        want(len(segments) >= 3, segments)
        rig.ok("end", "node", "keep")
        os.unlink(os.path.join(folder, segments[0]))
        lost = int(segments[1].split(".")[0]) - 1
        rig.sink("node", kind="otlp", url="http://127.0.0.1:%d/v1/logs" % o.port)
        kit.wait_for("the rest", lambda: rig.totals()["lines"] == 900 - lost, 60)
        want(rig.totals()["lost"] == lost, (rig.totals(), lost))
        want(o.got(a)[0][1].startswith("forward dropped=%d lines: removed here" % lost), o.got(a)[0][1][:80])
    finally:
        rig.end()
        o.stop()


def organisations():
    """A drain of one organisation gets its lines and nobody else's."""
    rig, o = fk.Rig(scratch), fk.Otlp()
    try:
        other = kit.new_id("org")
        a, b = rig.inst(), rig.inst(org=other)
        rig.sink("drn", org=other, kind="otlp", url="http://127.0.0.1:%d/v1/logs" % o.port)
        kit.wait_for("a cursor", lambda: os.path.exists(rig.dir + "/state/drn.json"))
        rig.ok("put", a, 100, "mine")
        rig.ok("put", b, 100, "theirs")
        arrives(o, b, "theirs", 100)
        kit.wait_for("nothing waits", lambda: rig.state("drn")["waiting"] == 0)
        want({i for i, _, _ in o.records()} == {b}, "lines of another organisation")
    finally:
        rig.end()
        o.stop()


def through_the_agent():
    """agent.toml names the receiver: lines of a workload in a real VM arrive over TLS; an agent that was killed goes on; metrics and doctor say so."""
    r, o, deaf = fk.Rsyslog(scratch, certs), fk.Otlp(certs), fk.Otlp(certs)
    w = kit.World("forward")
    try:
        w.bundle()
        image = w.push()
        wl = w.workload(image, command=("/app", "talk", "200"))
        key = certs.at("moat-node.key")
        os.chmod(key, 0o600)
        logs = {"sink": "syslog", "sink_target": "127.0.0.1:%d" % r.port, "sink_ca_file": certs.at("ca.pem"), "sink_cert_file": certs.at("moat-node.pem"), "sink_key_file": key,
                "local_targets": ["127.0.0.1:%d" % o.port]}
        mine, foreign, inside_ = kit.new_id("drn"), kit.new_id("drn"), kit.new_id("drn")
        url = "https://127.0.0.1:%d/v1/logs"
        w.control.drains = [{"id": i, "org_id": org, "version": 1, "since_ms": int(time.time() * 1000)} for i, org in
                            ((mine, w.org), (foreign, kit.new_id("org")), (inside_, w.org))]
        w.control.drain_secrets = {mine: {"kind": "otlp", "target": url % o.port, "token": "s3cret", "header": "X-Key", "ca_pem": certs.text("ca.pem")},
                                   foreign: {"kind": "otlp", "target": url % o.port, "ca_pem": certs.text("ca.pem")},
                                   inside_: {"kind": "otlp", "target": url % deaf.port, "ca_pem": certs.text("ca.pem")}}
        port = fk.free_port()
        w.start(logs=logs, listen_metrics="127.0.0.1:%d" % port)
        w.control.want(wl["instance_id"], workload=wl)
        i = wl["instance_id"]
        kit.wait_for("lines of the guest", lambda: len([t for _, t in r.got(i)]) >= 400, 120, every=0.2)
        kit.wait_for("lines of the guest at the organisation's receiver", lambda: len([t for _, t in o.got(i)]) >= 400, 60, every=0.2)
        want(all(h[1].get("X-Key") == "s3cret" for h in o.heads) and deaf.seen == 0, (o.heads[:2], deaf.seen))
        look = lambda: next((x for x in w.ask({"op": "doctor"}) if x["check"] == "agent.logs"), {"severity": "", "finding": ""})
        try:  # until it is tried, it is down because nothing was sent yet
            kit.wait_for("a try at the address inside", lambda: (lambda d: d["severity"] == "warn" and inside_ + ": down ('127.0.0.1' does not lead to a public address" in
                                                                 d["finding"].replace("the target", "'127.0.0.1'"))(look()), 60, every=0.2)
        except AssertionError as e:
            raise AssertionError("%s; it says %s" % (e, look())) from None
        w.control.drains = [d for d in w.control.drains if d["id"] not in (foreign, inside_)]
        for d in (foreign, inside_):
            del w.control.drain_secrets[d]
        kit.wait_for("their end", lambda: not os.path.exists(os.path.join(w.dir, "agent/forward/%s.json" % inside_)), 60, every=0.2)
        want("s3cret" not in open(w.log_path).read(), "the token is in the log")
        w.kill()
        w.start(logs=logs, listen_metrics="127.0.0.1:%d" % port)
        kit.wait_for("the doctor's good word", lambda: (lambda d: d["severity"] == "ok" and "node:" in d["finding"])(look()), 60, every=0.2)
        page = lambda: subprocess.run(["curl", "-s", "http://127.0.0.1:%d/metrics" % port], capture_output=True, text=True).stdout
        for line in ('moat_agent_log_sinks{sink="node",state="up"}', 'moat_agent_log_forwarded_total{sink="node"}', 'moat_agent_log_dropped_total{reason="retention"} 0',
                     'moat_agent_log_waiting_lines{sink="node"}'):
            kit.wait_for(line, lambda: line in page(), 20, every=0.2)
        os.chmod(key, 0o644)
        w.end()
        p = w.start(ready=False, logs=logs)
        want(w.ended() != 0 and "chmod 600" in w.tail(), (p.returncode, w.tail()))
        os.chmod(key, 0o600)
        w.start(logs=logs)
        w.stop_all()
    finally:
        r.kill()
        o.stop()
        deaf.stop()
        w.close()


missing = [p for p in (fk.RIG, fk.FORWARD) if not os.path.exists(p)]
if missing:
    print("not ok - programs: %s is not built" % missing[0])
    sys.exit(1)
if os.geteuid() != 0 or not shutil.which("rsyslogd", path=os.environ.get("PATH", "") + ":/usr/sbin"):
    print("skip - log forwarding: needs root and rsyslogd (packaging/deps/test.txt)")
    sys.exit(0)
python, why = fk.strict_parser()
os.environ["PATH"] += ":/usr/sbin:/sbin"
kit.make_bundle()  # from the archive, while there is a network
kit.own_network()
scratch = tempfile.mkdtemp(prefix="mt-forward-", dir=os.environ.get("MOAT_TEST_TMP", "/var/tmp"))
os.chmod(scratch, 0o755)
try:
    certs = fk.Certs(os.path.join(scratch, "certs"))
    certs.make("server", "IP:127.0.0.1")
    certs.make("moat-node", "DNS:moat-node")
    only = sys.argv[1:]
    for title, fn in (("RFC 5424 over TLS into rsyslog: whole, in order, nothing of before", syslog_whole),
                      ("the receiver is killed five times: at least once", receiver_dies),
                      ("moat-forward and its parent are killed: at least once", forwarder_dies),
                      ("moat-forward is killed with lines under way: the next has the same", forwarder_dies_in_flight),
                      ("a receiver with a bad certificate gets nothing", bad_certificate),
                      ("OTLP/HTTP by the published schema, in requests of at most 1 MiB", otlp_whole),
                      ("OTLP answers: again later, or counted and said", otlp_answers),
                      ("a receiver that resets holds up nobody", lambda: hostile("reset", reset)),
                      ("a receiver that floods holds up nobody", lambda: hostile("flood", flood)),
                      ("a receiver that is silent holds up nobody", lambda: hostile("silent", silent)),
                      ("a receiver that drips holds up nobody", lambda: hostile("drip", drip)),
                      ("a receiver that sends elsewhere is not followed", lambda: hostile("elsewhere", elsewhere)),
                      ("a tenant's target that leads inside is not called", inside),
                      ("moat-forward is confined", confined),
                      ("lines kept too briefly are counted and said", kept_too_briefly),
                      ("an organisation's drain gets its lines alone", organisations),
                      ("F14: through agent and VM, over an agent's end", through_the_agent)):
        if not only or any(o in title or o == getattr(fn, "__name__", "") for o in only):
            report.case(title, fn)
finally:
    shutil.rmtree(scratch, ignore_errors=True)
sys.exit(1 if report.failed else 0)
