#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Machines become nodes: a real moat-control with its node listener, real agents in network namespaces of their own that join over it with
tokens, and forged callers beside them: tokens, keys, requests and certificates that must not get in.
COST 34 s, 11 s of processor."""
import base64
import contextlib
import ctypes
import http.client
import ipaddress
import json
import os
import signal
import ssl
import struct
import subprocess
import sys
import time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
import meshkit
from control_kit import case, wait_for

if os.geteuid() != 0:
    kit.skip("nodes", "needs root")
    sys.exit(0)
if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
    kit.skip("nodes", "no network namespace can be made here")
    sys.exit(0)

CONTROL = "10.77.0.1:7443"
CLOCK_SHIFT = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(kit.ROOT, "build"), "tests/tools/clock_shift.so")


def sh(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, text=True, **kw).stdout


class Machine:
    """A host of its own: network and mount namespaces on the bridge, a data folder, an agent."""
    number = 1

    def __init__(self, name):
        Machine.number += 1
        self.name, self.ip = name, "10.77.0.%d" % Machine.number
        self.d = w.d + "/m-" + name
        os.makedirs(self.d)
        self.place = meshkit.Place()
        self.place.run("umount", "/sys")  # its own has no cgroups
        link = "v%d" % Machine.number
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
        sh("ip", "link", "set", link, "master", "br0", "up")
        self.place.run("ip", "addr", "add", self.ip + "/24", "dev", "eth0")
        self.place.run("ip", "link", "set", "eth0", "up")
        self.agent = None
        self.configure()

    def configure(self, **more):
        conf = {"data_dir": self.d, "host_firewall": "taps", "edge_user": "nobody", "control_user": "nobody", "vmm": "qemu", "heartbeat_ms": 1000, "cgroup_parent": "moat-%d/%s" % (os.getpid(), self.name)}
        conf.update(more)
        with open(self.d + "/agent.toml", "w") as f:
            for k, v in conf.items():
                f.write("%s = %s\n" % (k, json.dumps(v)))

    def join(self, token, *more, control=CONTROL, how="-", env=None):
        """(exit status, everything that was said)."""
        r = subprocess.run(self.place.argv(kit.program("moat-agent"), "--config", self.d + "/agent.toml", "join",
                                           "--control", control, "--token", how, *more), input=token, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, env=env)
        return r.returncode, r.stdout

    def identity(self):
        return json.load(open(self.d + "/keys/identity.json"))

    def clock(self, seconds, passed=0):
        """What its wall clock is off by, from now on, and the time that passed besides the true one; for programs begun with a clock of their own."""
        with open(self.d + "/clock", "r+b" if os.path.exists(self.d + "/clock") else "wb") as f:
            f.write(struct.pack("=qq", int(seconds * 1e9), int(passed * 1e9)))

    def own_clock(self):
        return dict(os.environ, LD_PRELOAD=CLOCK_SHIFT, MOAT_CLOCK_FILE=self.d + "/clock")

    def start(self, env=None):
        with open(self.d + "/agent.log", "ab") as log:
            self.agent = self.place.popen(kit.program("moat-agent"), "--config", self.d + "/agent.toml", stderr=log, env=env)

    def stop(self, sig=signal.SIGTERM):
        if self.agent and self.agent.poll() is None:
            self.agent.send_signal(sig)
            self.agent.wait(90)
        self.agent = None

    @contextlib.contextmanager
    def away(self):
        """Its agent is not there; afterwards, however that ends, it is, with the true clock."""
        self.stop()
        try:
            yield
        finally:
            self.stop()
            self.start()

    def log(self):
        return open(self.d + "/agent.log").read()

    def close(self):
        self.stop(signal.SIGKILL)
        self.place.close()  # and wireguard-go, which outlives its agent


def post(target, body, cert=None, method="POST", timeout=90, **headers):
    """A call to the node listener by somebody who trusts the cluster's authority; @cert: PEM file with certificate and key."""
    ctx = ssl.create_default_context(cafile=w.d + "/control/node-ca.crt")
    ctx.check_hostname = False
    if cert:
        ctx.load_cert_chain(cert)
    host, port = CONTROL.split(":")
    c = http.client.HTTPSConnection(host, int(port), context=ctx, timeout=timeout)
    try:
        c.request(method, target, json.dumps(body).encode() if body is not None else None, dict({"Content-Type": "application/json"}, **{k.replace("_", "-"): v for k, v in headers.items()}))
        return kit.Reply(c.getresponse())
    finally:
        c.close()


SECRETIVE = """schema_version = "v1"
[app]
name = "vault"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[processes.web.resources]
memory = "128Mi"
[processes.web.secrets]
required = true
"""


def kit_id(like):
    """An id of the same kind that is nobody's."""
    return like[:-4] + ("0000" if like[-4:] != "0000" else "1111")


def csr(cn, key=None, subject=None, more=()):
    """A certificate request by openssl: an implementation that is not ours."""
    key = key or w.d + "/k-%d.pem" % time.monotonic_ns()
    if not os.path.exists(key):
        sh("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
    return sh("openssl", "req", "-new", "-key", key, "-subj", subject or "/CN=" + cn, *more)


def wg():
    return base64.b64encode(os.urandom(31) + b"\x42").decode()


def wish(token, name="forged", **more):
    body = {"token": token.split(".")[0], "csr": None, "name": name, "wireguard_public_key": wg(), "endpoints": [], "arch": "amd64",
            "clock_unix_ms": int(time.time() * 1000), "agent_version": "test"}
    body.update(more)
    if body["csr"] is None:
        body["csr"] = csr(body["name"])
    return body


def token(**more):
    return w.ok("POST", "/v1/enrollment-tokens", more)


def node(name):
    found = [n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] == name]
    return found[0] if found else None


def inside_of_the_cluster():
    """a prefix of the cluster's that no node has"""
    return str(ipaddress.ip_network(w.ok("GET", "/v1/nodes")["items"][0]["overlay_ipv6"] + "/64", strict=False).network_address + (0xbad << 64)) + "/64"


@contextlib.contextmanager
def no_rotation_after(name):
    """A rotation's moment is two minutes away: nobody waits for it here, and the next case begins without."""
    try:
        yield
    finally:
        w.pg.sql("UPDATE moat_views.nodes_view SET key_at = now(), next_public_key = NULL, cutover_unix_ms = NULL, rotation_lead_s = NULL WHERE name = '%s'" % name)


@contextlib.contextmanager
def never_gone(folder, name):
    """A file that is there, and is replaced in one step or not at all."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert os.path.exists(os.path.join(folder, name)) and libc.inotify_add_watch(fd, folder.encode(), 0x40 | 0x80 | 0x200) >= 0  # moved from, moved to, deleted
        yield
        seen, at = [], 0
        try:
            got = os.read(fd, 1 << 20)
        except BlockingIOError:
            got = b""
        while at < len(got):
            mask, size = struct.unpack_from("=iIII", got, at)[1::2]
            seen.append((mask, got[at + 16:at + 16 + size].rstrip(b"\0").decode()))
            at += 16 + size
        assert (0x80, name) in seen and not [x for x in seen if x[1] == name and x[0] != 0x80], seen
    finally:
        os.close(fd)


def events(kind):
    return w.ok("GET", "/v1/admin/events?limit=200&order=desc&event_type=" + kind)["items"]  # of all kinds, what agents do meanwhile would push the older ones out


sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
sh("ip", "link", "set", "lo", "up")
w = kit.World(listen_nodes=CONTROL, nodes_address=CONTROL, rate_limit_percent=300)
machines = []
try:
    for name in ("one", "two", "three"):
        machines.append(Machine(name))
    one, two, third = machines

    @case("a token is shown once, listed without its text, and stored as a hash")
    def _():
        t = token(roles=["worker"])
        assert t["token"].startswith("moat_en_") and t["token"].count(".") == 1 and t["control_address"] == CONTROL, t
        listed = w.ok("GET", "/v1/enrollment-tokens")["items"]
        assert [x["state"] for x in listed if x["id"] == t["id"]] == ["unused"] and t["token"][:30] not in json.dumps(listed)
        dump = w.pg.sql("SELECT encode(token_hash, 'hex') FROM moat.enrollment_token_hashes") + w.pg.sql("SELECT payload FROM moat.events")
        assert t["token"].split(".")[0] not in dump and len(w.pg.sql("SELECT encode(token_hash, 'hex') FROM moat.enrollment_token_hashes")) >= 64
        for bad in ({"roles": []}, {"roles": ["boss"]}, {"roles": ["edge", "edge"]}, {"ttl_seconds": 10}, {"ttl_seconds": 86401}, {"node_name": "No"},
                    {"source_cidr": "10.0.0.0"}, {"source_cidr": "10.0.0.0/33"}, {"surprise": 1}):
            r = w.q("POST", "/v1/enrollment-tokens", bad)
            assert r.status == 400, (bad, r.status, r.text)

    @case("a machine joins with one command and its agent lives over TLS")
    def _():
        global one_token
        t = one_token = token(roles=["worker"])["token"]
        status, said = one.join(t, "--name", "one", "--endpoint", one.ip + ":51820")
        assert status == 0 and "is active" in said, (status, said)
        keys = one.d + "/keys/"
        assert all(os.stat(keys + f).st_mode & 0o777 == 0o600 for f in ("node.pem", "wg.key", "identity.json")), os.listdir(keys)
        assert not os.path.exists(keys + "node.key")
        one.start()
        n = wait_for("a heartbeat", lambda: (node("one") or {}).get("last_heartbeat_at") and node("one"), 20)
        assert n["admin_state"] == "active" and n["id"] == one.identity()["node_id"], n
        wait_for("its plan", lambda: "plan.applied" in one.log() or "plan.accepted" in one.log() or os.path.exists(one.d + "/agent/plan.json"), 20)
        names = [e["event_type"] for e in w.ok("GET", "/v1/admin/events?limit=200")["items"]]
        for want in ("enrollment_token.created", "node.enrolled", "enrollment_token.used", "node.admin_state_changed"):
            assert want in names, names
        text = sh("openssl", "x509", "-in", keys + "node.pem", "-noout", "-text")
        assert "URI:moat://" in text and "/node/" + n["id"] in text and "TLS Web Client Authentication" in text, text

    @case("what is wrong with a token is refused alike, and a good one survives what is wrong with the request")
    def _():
        good = token(roles=["worker"])
        used = one_token
        revoked = token()
        w.ok("DELETE", "/v1/enrollment-tokens/" + revoked["id"])
        assert w.ok("DELETE", "/v1/enrollment-tokens/" + revoked["id"])["already_deleted"] is True
        expired = token()
        w.pg.sql("UPDATE moat_views.enrollment_tokens_view SET expires_at = now() - interval '1 s' WHERE enr_id = '%s'" % expired["id"])
        elsewhere = token(source_cidr="192.0.2.0/24")
        for t in (used, revoked["token"], expired["token"], elsewhere["token"], good["token"][:-60] + "x" * 6, "moat_en_", "nonsense"):
            r = post("/internal/v1/enroll", wish(t))
            assert r.status == 401 and r.json["code"] == "enroll_token_invalid", (t, r.status, r.text)
        assert w.q("DELETE", "/v1/enrollment-tokens/" + [e["id"] for e in w.ok("GET", "/v1/enrollment-tokens")["items"] if e["state"] == "used"][0]).status == 409
        p256 = w.d + "/p256.pem"
        sh("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", p256)
        rsa = w.d + "/rsa.pem"
        sh("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", rsa)
        raw = bytearray(base64.b64decode("".join(csr("forged").splitlines()[1:-1])))
        raw[-3] ^= 1  # in the signature
        broken = "-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n" % base64.b64encode(raw).decode()
        rows = [({"csr": csr("other")}, 422, "csr_invalid"), ({"csr": csr("", subject="/CN=forged/O=us")}, 422, "csr_invalid"),
                ({"csr": csr("forged", more=("-addext", "subjectAltName=URI:moat://x/node/y"))}, 422, "csr_invalid"),
                ({"csr": csr("forged", key=rsa)}, 422, "csr_invalid"), ({"csr": broken}, 422, "csr_invalid"), ({"csr": "-----BEGIN"}, 422, "csr_invalid"),
                ({"wireguard_public_key": base64.b64encode(bytes(32)).decode()}, 422, "wireguard_key_invalid"), ({"wireguard_public_key": "short"}, 422, "wireguard_key_invalid"),
                ({"clock_unix_ms": -603000}, 422, "clock_skew"), ({"clock_unix_ms": 640000}, 422, "clock_skew"),
                ({"name": "Bad Name", "csr": csr("x")}, 400, "invalid_argument"), ({"endpoints": ["host.example:1"]}, 400, "invalid_argument"),
                ({"endpoints": ["192.0.2.1:1"] * 5}, 400, "invalid_argument"),
                ({"endpoints": ["[%s]:1" % w.ok("GET", "/v1/nodes")["items"][0]["overlay_ipv6"]]}, 400, "invalid_argument"), ({"arch": "vax"}, 400, "invalid_argument"), ({"more": 1}, 400, None),
                ({"underlay_routes": ["2001:db8::/32", w.ok("GET", "/v1/nodes")["items"][0]["instance_prefix"]]}, 409, "overlay_prefix_conflict"),
                ({"underlay_routes": ["2001:db8::1/32"]}, 400, "invalid_argument"), ({"underlay_routes": [7]}, 400, "invalid_argument"),
                ({"underlay_routes": ["2001:db8:%x::/48" % i for i in range(257)]}, 400, "invalid_argument")]
        for more, status, code in rows:
            if code == "clock_skew":  # by now
                off, more = more["clock_unix_ms"], {"clock_unix_ms": int(time.time() * 1000) + more["clock_unix_ms"]}
            r = post("/internal/v1/enroll", wish(good["token"], **more))
            assert r.status == status and (code is None or r.json["code"] == code), (more, r.status, r.text)
            if code == "clock_skew":
                assert "10 min" in r.json["detail"] and ("behind" in r.json["detail"]) == (off < 0), r.text
        r = post("/internal/v1/enroll", wish(good["token"]), X_Moat_Protocol="node/2")  # told before anything is done: the token is good still
        assert r.status == 426 and r.json["code"] == "agent_incompatible" and r.headers["Upgrade"] == "node/1", (r.status, r.text)
        r = post("/internal/v1/enroll", wish(good["token"], csr=csr("forged", key=p256)))
        assert r.status == 200, (r.status, r.text)
        assert w.ok("GET", "/v1/nodes")["items"] and node("forged")["admin_state"] == "enrolled"

    @case("the same machine that lost the answer gets it again, another with its token does not")
    def _():
        t = token()["token"]
        body = wish(t, name="lost")
        first, again = post("/internal/v1/enroll", body), post("/internal/v1/enroll", body)
        assert first.status == again.status == 200 and first.json["certificate"] == again.json["certificate"], again.text
        assert len([n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] == "lost"]) == 1
        assert post("/internal/v1/enroll", wish(t, name="lost")).status == 401

    @case("the agent refuses a control plane of another cluster before it shows the token, and tokens on the command line")
    def _():
        t = token()["token"]
        head, pin = t.split(".")
        false_pin = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        before = w.pg.sql("SELECT count(*) FROM moat.enrollment_token_hashes WHERE used_at IS NOT NULL")
        status, said = two.join(head + "." + false_pin, "--name", "two")
        assert status == 1 and "another cluster" in said, (status, said)
        status, said = two.join("", how=t)
        assert status == 2 and "stdin" in said, (status, said)
        status, said = two.join("moat_en_x")
        assert status == 2 and "node token create" in said, (status, said)
        status, said = two.join(t, "--name", "one")
        assert status == 1 and "--name" in said, (status, said)  # the name is taken; the token stays good
        assert w.pg.sql("SELECT count(*) FROM moat.enrollment_token_hashes WHERE used_at IS NOT NULL") == before
        key = open(two.d + "/keys/wg.key").read()
        foreign = inside_of_the_cluster()
        two.place.run("ip", "-6", "route", "add", foreign, "dev", "eth0")
        try:
            status, said = two.join(t, "--name", "two")
            assert status == 1 and "a route to %s, of the cluster's prefix" % foreign in said and "the token stays good" in said, (status, said)
        finally:
            two.place.run("ip", "-6", "route", "del", foreign, "dev", "eth0")
        status, said = two.join(t, "--name", "two", "--endpoint", two.ip + ":51820")
        assert status == 0 and open(two.d + "/keys/wg.key").read() == key, (status, said)
        status, said = two.join(t, "--name", "two")
        assert status == 1 and "a node already" in said, (status, said)

    @case("two nodes with one WireGuard key: the second is refused and its token ends")
    def _():
        t = token()
        key = sh("wg", "pubkey", input=open(one.d + "/keys/wg.key").read()).strip() if os.path.exists("/usr/bin/wg") else w.pg.sql(
            "SELECT wireguard_public_key FROM moat_views.nodes_view WHERE name = 'one'")
        assert key == w.pg.sql("SELECT wireguard_public_key FROM moat_views.nodes_view WHERE name = 'one'")
        r = post("/internal/v1/enroll", wish(t["token"], name="copy", wireguard_public_key=key))
        assert r.status == 409 and r.json["code"] == "wireguard_key_exists", (r.status, r.text)
        assert post("/internal/v1/enroll", wish(t["token"], name="copy")).status == 401
        assert [x["state"] for x in w.ok("GET", "/v1/enrollment-tokens")["items"] if x["id"] == t["id"]] == ["revoked"]

    @case("both nodes are in each other's plan with exactly their two prefixes, and an agent applies it")
    def _():
        two.start()
        plans = {}
        for m in (one, two):
            def has():
                r = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=m.d + "/keys/node.pem", method="GET")
                return r.status == 200 and len(r.json["network"]["peers"]) == 1 and r.json
            plans[m.name] = wait_for("a peer", has, 20)
        a, b = node("one"), node("two")
        p = plans["one"]["network"]["peers"][0]
        assert p["node_id"] == b["id"] and p["allowed_ips"] == [b["overlay_ipv6"] + "/128", b["instance_prefix"]] and p["endpoints"] == [two.ip + ":51820"], p
        assert plans["two"]["network"]["peers"][0]["node_id"] == a["id"]
        assert plans["one"]["network"]["mesh"]["revision"] == plans["two"]["network"]["mesh"]["revision"] > 0
        seen = w.ok("GET", "/v1/admin/mesh")
        assert {"one", "two"} <= {n["name"] for n in seen["nodes"]} and {frozenset((p["a"], p["b"])) for p in seen["pairs"]} >= {frozenset(("one", "two"))}, seen
        assert all(p["state"] in ("ok", "unknown", "missing", "broken", "one-way", "narrow", "lossy") and ("cause" in p) == (p["state"] != "ok") for p in seen["pairs"]), seen
        assert a["instance_prefix"] != b["instance_prefix"] and a["overlay_ipv6"] != b["overlay_ipv6"]

    @case("a route of another network into the cluster's prefix, that came when the machine was a node: its host is found wrong, and right without it")
    def _():
        def overlay():
            out = subprocess.run(two.place.argv(kit.program("moat-agent"), "--config", two.d + "/agent.toml", "ctl", "doctor"), stdout=subprocess.PIPE, text=True).stdout
            return next(((r["severity"], r["finding"]) for r in map(json.loads, out.splitlines()) if r.get("check") == "agent.overlay"), None)
        foreign = inside_of_the_cluster()
        wait_for("its plan's own routes, which are none of another network", lambda: "wg-moat" in two.place.run("ip", "-6", "route") and overlay() == ("ok", "no other network has the cluster's prefix"), 20)
        two.place.run("ip", "-6", "route", "add", foreign, "dev", "eth0")
        try:
            assert overlay() == ("fail", "a route of another network leads into the cluster's prefix: %s dev eth0" % foreign), overlay()
        finally:
            two.place.run("ip", "-6", "route", "del", foreign, "dev", "eth0")
        assert overlay()[0] == "ok", overlay()

    @case("labels and settings of a node: its agent keeps to them from the next plan on, and by itself again when they are taken back")
    def _():
        path = "/v1/nodes/" + node("one")["id"]

        def patch(**body):  # its own heartbeats change it too
            for _ in range(20):
                r = w.q("PATCH", path, dict(body, expected_version=w.ok("GET", path)["resource_version"]))
                if r.json.get("code") != "version_conflict":
                    return r
            raise AssertionError(r.text)
        labels = node("one")["labels"]
        got = patch(labels={"zone": "a", "disk": "ssd.1/x"})
        assert got.status == 200 and node("one")["labels"] == dict(labels, zone="a", disk="ssd.1/x"), got.text
        assert patch(labels={"zone": "b", "disk": None}).status == 200 and node("one")["labels"] == dict(labels, zone="b"), node("one")
        for bad, code in (({"labels": {"zone": "b"}}, "no_changes"), ({}, "no_changes"), ({"labels": {"zone": ""}}, "invalid_argument"), ({"labels": {"-a": "b"}}, "invalid_argument"),
                          ({"labels": {"vmm": "firecracker"}}, "invalid_argument"), ({"labels": ["zone"]}, "invalid_argument"), ({"labels": {"a": "x" * 64}}, "invalid_argument"),
                          ({"config": {"cpu_ceiling_percent": 300}}, "invalid_argument"), ({"config": {"cpu_ceiling_percent": 99}, "reason": "x"}, "invalid_argument"),
                          ({"config": {"cpu_ceiling_percent": "300"}, "reason": "x"}, "invalid_argument"), ({"config": {"color": 1}, "reason": "x"}, "unknown_field"), ({"color": 1}, "unknown_field")):
            r = patch(**bad)
            assert r.status == 400 and r.json["code"] == code, (bad, r.text)
        assert w.q("PATCH", path, {"labels": {"zone": "c"}}).json["code"] == "expected_version_required"
        before = node("one")["allocatable"]
        config = {"reserved_memory_bytes": 1 << 31, "memory_overhead_bytes": 128 << 20, "cpu_overcommit_percent": 200, "cpu_ceiling_percent": 300, "disk_ops_per_second": 900}
        assert patch(config=config, reason="a guest beside it").status == 200
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        want = {"memory_bytes": physical - (1 << 31), "memory_overhead_bytes": 128 << 20, "cpu_millis": os.cpu_count() * 2000, "ceiling_cpu_millis": os.cpu_count() * 3000}
        wait_for("what it has to give", lambda: {k: node("one")["allocatable"][k] for k in want} == want, 40)
        assert node("one")["config"] == config
        plan = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=one.d + "/keys/node.pem", method="GET").json["node_config"]
        assert plan == dict({k: v for k, v in config.items() if k != "disk_ops_per_second"}, limits={"disk_ops_per_second": 900}), plan
        assert patch(config={k: None for k in config}, reason="it moved out").status == 200
        wait_for("what it had", lambda: {k: node("one")["allocatable"][k] for k in want} == {k: before[k] for k in want}, 40)
        e = [x for x in w.ok("GET", "/v1/admin/events?event_type=node.config_set")["items"]]
        assert [(x["payload"]["changed"], x["payload"]["previous"], x["payload"]["reason"]) for x in sorted(e, key=lambda x: x["event_id"])] == [
            (config, {}, "a guest beside it"), ({k: None for k in config}, config, "it moved out")], e
        assert node("one")["config"] == {}

    @case("two dozen machines enrol at one moment: each has a number of its own, and the numbers have no gap")
    def _():
        import threading
        import concurrent.futures
        begin = threading.Barrier(24)
        wishes = [wish(token()["token"], name="crowd%d" % i) for i in range(24)]
        host, port = CONTROL.split(":")

        def enrol(body):
            ctx = ssl.create_default_context(cafile=w.d + "/control/node-ca.crt")
            ctx.check_hostname = False
            c = http.client.HTTPSConnection(host, int(port), context=ctx, timeout=60)
            c.connect()
            begin.wait(60)
            c.request("POST", "/internal/v1/enroll", json.dumps(body).encode(), {"Content-Type": "application/json"})
            try:
                return kit.Reply(c.getresponse())
            finally:
                c.close()
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            got = list(pool.map(enrol, wishes))
        assert [r.status for r in got] == [200] * 24, [(r.status, r.text) for r in got if r.status != 200]
        numbers = sorted(int(r.json["overlay_ipv6"].rsplit(":", 1)[1], 16) for r in got)
        assert numbers == list(range(numbers[0], numbers[0] + 24)) and len({r.json["instance_prefix"] for r in got}) == 24, numbers
        for r in got:
            w.ok("POST", "/v1/nodes/%s/disable" % r.json["node_id"], {"reason": "test"})

    @case("without a certificate, with one of another authority, or as another node nothing is answered")
    def _():
        assert post("/internal/v1/nodes/self/plan?wait=0", None, method="GET").status == 401
        own = w.d + "/own"
        sh("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=node", "-keyout", own + ".key", "-out", own + ".crt", "-days", "2",
           "-addext", "subjectAltName=URI:moat://%s/node/%s" % (one.identity()["cluster_id"], one.identity()["node_id"]))
        with open(own + ".pem", "w") as f:
            f.write(open(own + ".crt").read() + open(own + ".key").read())
        try:
            assert post("/internal/v1/nodes/self/plan?wait=0", None, cert=own + ".pem", method="GET").status in (401, 403)
        except (ssl.SSLError, OSError, http.client.HTTPException):
            pass  # the handshake itself says no
        beat = {"node_id": two.identity()["node_id"], "agent_version": "test", "arch": "amd64", "conditions": [], "protocols": ["v1"],
                "vmm": {"driver": "qemu", "accel": "tcg", "reason": "test"}, "epoch": 0, "cursor_event_id": 0, "allocatable": {"cpu_millis": 1, "memory_bytes": 1, "disk_bytes": 1},
                "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}}
        r = post("/internal/v1/nodes/self/heartbeat", beat, cert=one.d + "/keys/node.pem")
        assert r.status == 409 and "certificate" in r.json["detail"], (r.status, r.text)
        r = post("/internal/v1/edge/config?wait=0", None, cert=one.d + "/keys/node.pem", method="GET")
        assert r.status == 403, (r.status, r.text)  # it is the agent's, and the node has no edge
        r = post("/internal/v1/nodes/self/cert", {"csr": csr(one.identity()["node_id"]), "kind": "edge"}, cert=one.d + "/keys/node.pem")
        assert r.status == 403, (r.status, r.text)
        assert post("/v1/nodes", None, cert=one.d + "/keys/node.pem", method="GET").status == 404  # the API is elsewhere

    @case("a certificate is renewed with a new key only, for the caller only; the one before ends with the first use of the new")
    def _():
        me, old = two.identity()["node_id"], w.d + "/two-old.pem"
        with open(old, "w") as f:
            f.write(open(two.d + "/keys/node.pem").read())
        with two.away():
            for bad in (csr(one.identity()["node_id"]), csr("two"), csr(me, key=old)):
                r = post("/internal/v1/nodes/self/cert", {"csr": bad}, cert=old)
                assert r.status == 422 and r.json["code"] == "csr_invalid", (r.status, r.text)
            key = w.d + "/two-new.key"
            r = post("/internal/v1/nodes/self/cert", {"csr": csr(me, key=key)}, cert=old)
            assert r.status == 200, (r.status, r.text)
            assert post("/internal/v1/nodes/self/confirm", {}, cert=old).status == 200  # not used yet: the old one is all the node has
            with open(two.d + "/keys/node.pem", "w") as f:
                f.write(r.json["certificate"] + open(key).read())
            assert post("/internal/v1/nodes/self/confirm", {}, cert=two.d + "/keys/node.pem").status == 200
            r = post("/internal/v1/nodes/self/confirm", {}, cert=old)
            assert r.status == 403 and "revoked" in r.json["detail"], (r.status, r.text)
        assert events("node.certificate_renewed")
        wait_for("two lives with the new one", lambda: node("two")["last_heartbeat_at"] and "heartbeat.refused" not in two.log(), 10)

    @case("an agent renews by itself what is near its end")
    def _():
        me, key = one.identity()["node_id"], w.d + "/short.key"
        with one.away():
            sh("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
            with open(w.d + "/short.ext", "w") as f:
                f.write("extendedKeyUsage=clientAuth\nsubjectAltName=URI:moat://%s/node/%s\n" % (one.identity()["cluster_id"], me))
            with open(w.d + "/short.csr", "w") as f:
                f.write(csr(me, key=key))
            sh("openssl", "x509", "-req", "-in", w.d + "/short.csr", "-CA", w.d + "/control/node-ca.crt", "-CAkey", w.d + "/control/node-ca.key", "-days", "0",
               "-set_serial", "4242", "-extfile", w.d + "/short.ext", "-out", w.d + "/short.crt")
            with open(one.d + "/keys/node.pem", "w") as f:
                f.write(open(w.d + "/short.crt").read() + open(key).read())
            time.sleep(1.1)  # it has ended by now: good for its own renewal only
            r = post("/internal/v1/nodes/self/confirm", {}, cert=one.d + "/keys/node.pem")
            assert r.status == 403 and "renewal" in r.json["detail"], (r.status, r.text)
        wait_for("a new certificate", lambda: "identity.renewed" in one.log(), 20)
        text = sh("openssl", "x509", "-in", one.d + "/keys/node.pem", "-noout", "-enddate", "-checkend", str(80 * 86400))
        assert "will not expire" in text, text
        at = node("one")["last_heartbeat_at"]
        wait_for("heartbeats with it", lambda: node("one")["last_heartbeat_at"] > at, 20)

    def edges_for(name):
        """Addresses that may reach the VMs of a node, as its plan says."""
        pem = next(m for m in machines if m.name == name).d + "/keys/node.pem"
        return post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=pem, method="GET").json["network"]["edges"]

    @case("a node that has to be approved waits, gets no mesh, and comes in by an operator's word")
    def _():
        t = token(require_approval=True, node_name="guest", roles=["worker", "edge"])["token"]
        m = Machine("guest")
        machines.append(m)
        status, said = m.join(t, "--name", "other")
        assert status == 2 and "guest" in said, (status, said)
        status, said = m.join(t, "--name", "guest", "--endpoint", m.ip + ":51820")
        assert status == 0 and "pending_approval" in said and "moat node activate" in said, (status, said)
        plan = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=m.d + "/keys/node.pem", method="GET").json
        assert plan["network"]["peers"] == [] and "mesh" not in plan["network"], plan["network"]
        n = node("guest")
        assert n["overlay_ipv6"] not in edges_for("one"), "an edge that is not approved may reach VMs"
        assert w.q("POST", "/v1/nodes/%s/drain" % n["id"], {"reason": "x"}).status == 409
        assert w.q("POST", "/v1/nodes/%s/approve" % n["id"], {}).status == 400  # a reason is needed
        w.ok("POST", "/v1/nodes/%s/approve" % n["id"], {"reason": "known"})
        plan = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=m.d + "/keys/node.pem", method="GET").json
        assert len(plan["network"]["peers"]) == 2 and plan["network"]["mesh"]["public_key"], plan["network"]

    @case("cordon, drain, back; a disabled node is refused at once and for good, its name and addresses do not come back")
    def _():
        n = node("guest")
        path = "/v1/nodes/" + n["id"]
        for verb, state in (("cordon", "cordoned"), ("drain", "draining"), ("cordon", "cordoned"), ("uncordon", "active"), ("drain", "draining"), ("uncordon", "active")):
            assert w.ok("POST", path + "/" + verb, {"reason": "test"})["admin_state"] == state
            assert w.ok("GET", path)["admin_state"] == state
            drain = w.ok("GET", path).get("drain")
            assert drain == ({"state": "complete", "remaining": 0, "blocked_by_stateful": []} if state == "draining" else None), drain
            assert n["overlay_ipv6"] in edges_for("one"), "a %s node's edge may no longer reach VMs" % state
        assert w.q("DELETE", path, {"reason": "x"}).status == 409  # disable it first
        pem = next(m for m in machines if m.name == "guest").d + "/keys/node.pem"
        # it asks for its own drain, with a certificate of its own and a reason, once; what an operator said of its volumes stays
        asks = lambda body, **more: post("/internal/v1/nodes/self/drain", body, **more)
        assert asks({"reason": "x"}).status == 401 and asks({}, cert=pem).status == 400 and asks({"reason": "x", "stateful": "stop"}, cert=pem).status == 400
        assert w.ok("GET", path)["admin_state"] == "active"
        w.ok("POST", "/v1/admin/maintenance", {"on": True, "reason": "test"})
        try:
            assert asks({"reason": "x"}, cert=pem).status == 503
        finally:
            w.ok("POST", "/v1/admin/maintenance", {"on": False, "reason": "test"})
        r = asks({"reason": "a new disk"}, cert=pem)
        assert (r.status, r.json["admin_state"], r.json["already"]) == (200, "draining", False), r.text
        said = events("node.admin_state_changed")
        assert said[0]["payload"] == {"old": "active", "new": "draining", "reason": "a new disk", "stateful": "stay"} and said[0]["actor"] == {"type": "node", "id": n["id"]}, said[0]
        w.ok("POST", path + "/drain", {"reason": "test", "stateful": "stop"})
        assert asks({"reason": "again"}, cert=pem).json["already"] is True and len(events("node.admin_state_changed")) == len(said) + 1
        assert w.ok("GET", path)["admin_state"] == "draining" and w.ok("POST", path + "/uncordon", {"reason": "test"})["admin_state"] == "active"
        import threading
        got = {}
        after = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=pem, method="GET").json["cursor_event_id"]
        poll = threading.Thread(target=lambda: got.update(r=post("/internal/v1/nodes/self/plan?after=%d&wait=30" % after, None, cert=pem, method="GET")))
        poll.start()
        time.sleep(0.5)
        t0 = fair.now()
        w.ok("POST", path + "/disable", {"reason": "stolen"})
        poll.join(60)
        assert got["r"].status == 403 and got["r"].json["code"] in ("node_disabled", "forbidden") and fair.now() - t0 < 5, got["r"].text
        for target, body in (("confirm", {}), ("cert", {"csr": csr(n["id"])}), ("wg-key", {"public_key": wg()}), ("drain", {"reason": "x"})):
            assert post("/internal/v1/nodes/self/" + target, body, cert=pem).status == 403, target
        assert w.q("POST", path + "/uncordon", {"reason": "x"}).status == 409 and w.q("POST", path + "/approve", {"reason": "x"}).status == 409
        peers = post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=one.d + "/keys/node.pem", method="GET").json["network"]["peers"]
        assert n["id"] not in [p["node_id"] for p in peers], peers
        assert n["overlay_ipv6"] not in edges_for("one"), "a disabled node's edge may still reach VMs"
        # its number is held by nobody from now on, and listed after a day, until it is removed
        leaks = lambda: [(x["pool"], x["address"], x["reclaim"]) for x in w.ok("GET", "/v1/admin/ipam/leaks")["items"] if x["id"] == n["id"]]
        numbers = lambda: next(p for p in w.ok("GET", "/v1/admin/ipam")["items"] if p["pool"] == "nodes")
        before = numbers()
        assert before["retired"] == 0 and before["free"] == 65535 - before["allocated"], before
        w.pg.sql("UPDATE moat_views.nodes_view SET updated_at = now() - interval '23 hours' WHERE node_id = '%s'" % n["id"])
        assert leaks() == []
        w.pg.sql("UPDATE moat_views.nodes_view SET updated_at = now() - interval '25 hours' WHERE node_id = '%s'" % n["id"])
        assert leaks() == [("nodes", n["instance_prefix"], "moat node remove guest --reason TEXT")], w.ok("GET", "/v1/admin/ipam/leaks")
        w.ok("DELETE", path, {"reason": "gone"})
        assert w.q("GET", path).status == 404
        assert leaks() == [] and numbers() == dict(before, allocated=before["allocated"] - 1, retired=1), numbers()
        r = post("/internal/v1/enroll", wish(token()["token"], name="guest"))
        assert r.status == 200 and r.json["overlay_ipv6"] != n["overlay_ipv6"] and r.json["instance_prefix"] != n["instance_prefix"], r.text
        key = w.pg.sql("SELECT wireguard_public_key FROM moat_views.nodes_view WHERE node_id = '%s'" % n["id"])
        assert post("/internal/v1/enroll", wish(token()["token"], name="late", wireguard_public_key=key)).status == 409

    @case("a key rotation runs for one node at a time, ends at its moment or is taken back")
    def _():
        a, b = one.d + "/keys/node.pem", two.d + "/keys/node.pem"
        old, new = w.pg.sql("SELECT wireguard_public_key FROM moat_views.nodes_view WHERE name = 'one'"), wg()
        r = post("/internal/v1/nodes/self/wg-key", {"public_key": new}, cert=a)
        assert r.status == 202 and r.json["key_generation"] == 2 and r.json["cutover_unix_ms"] > time.time() * 1000 + 100000, r.text
        assert post("/internal/v1/nodes/self/wg-key", {"public_key": new}, cert=a).json == r.json
        assert post("/internal/v1/nodes/self/wg-key", {"public_key": wg()}, cert=b).status == 409
        assert post("/internal/v1/nodes/self/wg-key", {"public_key": old}, cert=b).json["code"] == "wireguard_key_exists"
        plan = lambda m: post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=m.d + "/keys/node.pem", method="GET").json["network"]
        peer = [p for p in plan(two)["peers"] if p["public_key"] == old][0]
        assert peer["rotation"]["next_public_key"] == new == plan(one)["mesh"]["rotation"]["next_public_key"], peer
        assert post("/internal/v1/nodes/self/wg-key/result", {"public_key": new, "ok": True}, cert=a).status == 409  # not yet
        assert post("/internal/v1/nodes/self/wg-key/result", {"public_key": new, "ok": False, "detail": "no handshake"}, cert=a).status == 200
        assert plan(one)["mesh"]["public_key"] == old and "rotation" not in plan(one)["mesh"] and events("node.wireguard_key_rotation_rolled_back")
        third = wg()
        assert post("/internal/v1/nodes/self/wg-key", {"public_key": third}, cert=a).status == 202
        w.pg.sql("UPDATE moat_views.nodes_view SET cutover_unix_ms = 1 WHERE name = 'one'")
        assert post("/internal/v1/nodes/self/wg-key/result", {"public_key": third, "ok": True}, cert=a).json["key_generation"] == 2
        assert plan(one)["mesh"]["public_key"] == third and plan(one)["mesh"]["key_generation"] == 2
        assert [n["wireguard_public_key"] for n in w.ok("GET", "/v1/nodes?name=one")["items"]] == [third]
        assert post("/internal/v1/nodes/self/wg-key", {"public_key": old}, cert=a).json["code"] == "wireguard_key_exists"  # retired for good

    @case("two nodes that ask for a rotation in one moment: one of them has it")
    def _():
        import concurrent.futures
        pems = [m.d + "/keys/node.pem" for m in (one, two)]
        with concurrent.futures.ThreadPoolExecutor(2) as ex:
            for _ in range(12):
                keys = [wg(), wg()]
                got = list(ex.map(lambda pem, key: post("/internal/v1/nodes/self/wg-key", {"public_key": key}, cert=pem), pems, keys))
                assert sorted(r.status for r in got) == [202, 409], [r.text for r in got]
                at = [r.status for r in got].index(202)
                assert got[1 - at].json["code"] == "conflict" and "one at a time" in got[1 - at].json["detail"], got[1 - at].text
                assert w.pg.sql("SELECT name FROM moat_views.nodes_view WHERE next_public_key IS NOT NULL") == ("one", "two")[at]
                assert post("/internal/v1/nodes/self/wg-key/result", {"public_key": keys[at], "ok": False, "detail": "test"}, cert=pems[at]).status == 200

    @case("the operator's word that most peers may go is in the plans of the present mesh, and ends with its next change")
    def _():
        mesh = lambda m: post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=m.d + "/keys/node.pem", method="GET").json["network"]["mesh"]
        assert "allow_mass_removal" not in mesh(one)
        got = w.ok("POST", "/v1/admin/mesh-removal", {"reason": "most are gone"})
        assert got["revision"] == mesh(one)["revision"] and mesh(one)["allow_mass_removal"] is True and mesh(two)["allow_mass_removal"] is True, got
        assert w.ok("POST", "/v1/admin/mesh-removal", {"reason": "again"})["revision"] == got["revision"]
        w.ok("POST", "/v1/nodes/%s/cordon" % node("two")["id"], {"reason": "a change"})
        assert mesh(one)["revision"] > got["revision"] and "allow_mass_removal" not in mesh(one)
        w.ok("POST", "/v1/nodes/%s/uncordon" % node("two")["id"], {"reason": "back"})

    @case("a key that is old enough is rotated without anybody's word; one that was taken back not before a day")
    def _():
        with no_rotation_after("two"):
            w.pg.sql("UPDATE moat_views.nodes_view SET key_at = now() - interval '80 days' WHERE name = 'one'")  # a tenth earlier at most
            w.pg.sql("UPDATE moat_views.nodes_view SET key_at = now() - interval '91 days', rotation_ended_at = now() - interval '23 hours' WHERE name = 'two'")
            asked = lambda: w.pg.sql("SELECT name FROM moat_views.nodes_view WHERE rotation_lead_s IS NOT NULL OR next_public_key IS NOT NULL")
            time.sleep(2.5)  # the leader looks every second
            assert asked() == "", asked()
            w.pg.sql("UPDATE moat_views.nodes_view SET rotation_ended_at = now() - interval '25 hours' WHERE name = 'two'")
            wait_for("asked", lambda: asked() == "two" and events("node.wireguard_key_rotation_requested"), 20)
            wait_for("its agent made and told a key", lambda: w.pg.sql("SELECT next_public_key IS NOT NULL FROM moat_views.nodes_view WHERE name = 'two'") == "t", 30)

    @case("a clock ten minutes off: TLS and plans go on, heartbeats do not count; twenty seconds: degraded, no rotation; right again: as before")
    def _():
        cert = two.d + "/keys/node.pem"
        plan = lambda: post("/internal/v1/nodes/self/plan?after=0&wait=0", None, cert=cert, method="GET").json
        beats = lambda: w.pg.sql("SELECT received_at FROM moat.node_heartbeats WHERE node_id = '%s'" % node("two")["id"])
        third.clock(-605)
        t = token()["token"]
        status, said = third.join(t, "--name", "three", env=third.own_clock())
        assert status == 2 and "clock_skew" in said and "10 min" in said and "behind" in said, (status, said)
        assert w.pg.sql("SELECT count(*) FROM moat_views.nodes_view WHERE name = 'three'") == "0"
        third.clock(640)
        status, said = third.join(t, "--name", "three", env=third.own_clock())
        assert status == 2 and "10 min" in said and "ahead" in said, (status, said)
        with two.away(), never_gone(two.d + "/agent", "plan.json"), no_rotation_after("two"):
            two.clock(-605)
            two.start(env=two.own_clock())
            wait_for("it knows", lambda: "clock.off" in two.log(), 30)
            last = beats()
            w.ok("POST", "/v1/nodes/%s/cordon" % node("one")["id"], {"reason": "a change of the plan"})
            cursor = plan()["cursor_event_id"]
            have = lambda: json.load(open(two.d + "/agent/plan.json"))
            w.ok("POST", "/v1/nodes/%s/uncordon" % node("one")["id"], {"reason": "back"})
            wait_for("the newer plan over TLS", lambda: '"cursor_event_id":%d' % plan()["cursor_event_id"] in json.dumps(have(), separators=(",", ":")), 30)
            assert beats() == last and plan()["cursor_event_id"] >= cursor, "a heartbeat with a clock ten minutes off was counted"
            two.clock(20)
            n = wait_for("degraded", lambda: (lambda n: n if "clock_skew" in n["conditions"] else None)(node("two")), 30)
            assert n["health"] in ("degraded", "suspect") and beats() > last, n
            w.ok("POST", "/v1/nodes/%s/rotate-key" % n["id"], {"reason": "test"})
            time.sleep(2.5)  # the agent has its plan long before
            assert "rotate" not in plan()["network"]["mesh"] and w.pg.sql("SELECT next_public_key IS NULL FROM moat_views.nodes_view WHERE name = 'two'") == "t"
            two.clock(0)
            wait_for("no longer", lambda: "clock_skew" not in node("two")["conditions"] and "clock.right_again" in two.log(), 40)
            wait_for("then its key", lambda: w.pg.sql("SELECT next_public_key IS NOT NULL FROM moat_views.nodes_view WHERE name = 'two'") == "t", 30)

    @case("secrets go over TLS to the node that hosts an instance of the version, to no other and not for another version")
    def _():
        key, pem = w.d + "/vault.key", w.d + "/vault.pem"
        b = wish(token(roles=["worker"])["token"], name="vault", csr=csr("vault", key=key))
        got = post("/internal/v1/enroll", b)
        assert got.status == 200, (got.status, got.text)
        with open(pem, "w") as f:
            f.write(got.json["certificate"] + open(key).read())
        assert post("/internal/v1/nodes/self/confirm", {}, cert=pem).status in (200, 204)
        beat = {"node_id": got.json["node_id"], "agent_version": "test", "arch": "amd64", "conditions": [], "protocols": ["v1"],
                "vmm": {"driver": "qemu", "accel": "tcg", "reason": "test"}, "epoch": 0, "cursor_event_id": 0,
                "allocatable": {"cpu_millis": 8000, "memory_bytes": 8 << 30, "disk_bytes": 100 << 30}, "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}}
        app, env = w.make_app("vault")
        w.ok("PATCH", env + "/secrets", {"set": {"DB_PASS": "over-the-wire-7f3b"}})
        version = w.ok("GET", env + "/secrets")["version_id"]
        release = w.ok("POST", app + "/releases", {"manifest": SECRETIVE, "image_digest": "sha256:" + "1" * 64, "verify_image": False})["id"]
        w.ok("POST", env + "/deploys", {"release_id": release})

        def placed():
            r = post("/internal/v1/nodes/self/heartbeat", beat, cert=pem)
            assert r.status in (200, 204), (r.status, r.text)
            return [i for i in w.ok("GET", env + "/instances")["items"] if i["node_id"] == beat["node_id"]]
        i = wait_for("an instance on it", placed, 30)[0]
        ask = {"instance_id": i["id"], "version_id": version}
        r = post("/internal/v1/nodes/self/secrets", ask, cert=pem)
        assert r.status == 200 and base64.b64decode(r.json["data"]) == b"# MOAT_SECRETS_V1\nDB_PASS=over-the-wire-7f3b\n", (r.status, r.text)
        assert post("/internal/v1/nodes/self/secrets", ask).status == 401
        for cert, body in ((one.d + "/keys/node.pem", ask), (pem, dict(ask, version_id=kit_id(version)))):
            r = post("/internal/v1/nodes/self/secrets", body, cert=cert)
            assert r.status == 403 and "over-the-wire" not in str(r.text), (r.status, r.text)
        trail = w.ok("GET", "/v1/admin/audit?limit=200")["items"]
        assert any("secrets.deliver" in json.dumps(t) and beat["node_id"] in json.dumps(t) for t in trail), trail[:5]
        # the same node is lost: not while it is heard, then what it held is free and it stays lost
        path = "/v1/nodes/" + beat["node_id"]
        assert post("/internal/v1/nodes/self/heartbeat", beat, cert=pem).status in (200, 204)
        said = w.q("POST", path + "/mark-lost", {"reason": "burnt"})
        assert said.status == 409 and "heard" in said.json["detail"], (said.status, said.text)
        assert w.ok("GET", path)["usage"]["instances"] == 1
        w.pg.sql("UPDATE moat.node_heartbeats SET received_at = now() - interval '25 seconds' WHERE node_id = '%s'" % beat["node_id"])
        wait_for("suspect", lambda: w.ok("GET", path)["health"] == "suspect", 40)
        w.ok("POST", path + "/mark-lost", {"reason": "burnt"})
        assert "burnt" in json.dumps(events("node.health_changed"))
        gone = wait_for("its release", lambda: (lambda x: x if x.get("released_at") else None)(w.ok("GET", env + "/instances/" + i["id"])), 20)
        assert gone["status"] == "stopped" and gone["desired_reason"] == "node_lost", gone
        assert w.ok("GET", path)["usage"] == {"instances": 0, "cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}
        left = w.pg.sql("SELECT count(*) FROM moat_views.instances_view WHERE overlay_ipv6 = '%s'" % gone["overlay_ipv6"])
        assert int(left) == 1, "its address was given out again"
        assert post("/internal/v1/nodes/self/heartbeat", beat, cert=pem).status in (200, 204)
        time.sleep(2.5)  # two looks at the nodes
        assert w.ok("GET", path)["health"] == "lost"
        held = [{"org": w.ok("GET", env.split("/apps/")[0])["name"], "app": w.ok("GET", app)["name"], "env": w.ok("GET", env)["name"], "env_id": env.rsplit("/", 1)[1]}]
        assert w.ok("POST", path + "/disable", {"reason": "burnt"})["secrets_to_rotate"] == held, "what the machine had is not said"
        w.ok("DELETE", app + "?cascade=true")

    @case("the authority is rotated under running agents: trusted before it signs, then everybody renews, then the one before is refused")
    def _():
        get = lambda: w.ok("GET", "/v1/admin/node-ca")
        step = lambda word, **more: w.q("POST", "/v1/admin/node-ca", dict({"step": word, "reason": "test"}, **more))
        say = lambda what: {n["name"]: n[what] for n in get()["nodes"]}
        there = ("one", "two", "three")
        certs = lambda path: open(path).read().count("BEGIN CERTIFICATE")
        keyid = lambda path, ext: sh("openssl", "x509", "-in", path, "-noout", "-ext", ext).split()[-1]
        ca = w.d + "/control/node-ca.crt"
        status, said = third.join(token(roles=["edge"])["token"], "--name", "three")
        assert status == 0, said
        third.start()
        wait_for("the edge's certificate", lambda: os.path.exists(third.d + "/keys/edge/node.pem"), 30)
        old_token, away_key, away = token()["token"], w.d + "/away.key", w.d + "/away.pem"
        r = post("/internal/v1/enroll", wish(token()["token"], name="away", csr=csr("away", key=away_key)))
        with open(away, "w") as f:
            f.write(r.json["certificate"] + open(away_key).read())
        assert r.json["ca"] == open(ca).read() and post("/internal/v1/nodes/self/confirm", {}, cert=away).status == 200
        first = get()
        assert first["phase"] == "steady" and [a["role"] for a in first["authorities"]] == ["signs"] and "since" not in first, first
        assert step("switch").status == 409 and step("nonsense").status == 400 and w.q("POST", "/v1/admin/node-ca", {"step": "prepare"}).status == 400
        r = step("prepare")
        assert r.status == 200 and r.json["phase"] == "prepared" and r.json["waiting"] >= 4 and get()["authorities"] == step("prepare").json["authorities"], r.text
        wait_for("trust", lambda: all(say("trusts")[m] for m in there), 40)
        wait_for("both in the files", lambda: certs(two.d + "/keys/ca.crt") == certs(third.d + "/keys/edge/ca.crt") == 2, 20)
        assert not say("trusts")["away"] and all(say("renewed")[m] for m in there)
        r = step("switch")
        assert r.status == 409 and "not said to trust" in r.json["detail"], r.text
        w.kill_control()
        w.start_control()
        assert get()["phase"] == "prepared"
        r = step("switch", force=True)
        assert r.status == 200 and r.json["phase"] == "switched" and r.json["authorities"][1]["pin"] == first["authorities"][0]["pin"], r.text
        wait_for("renewal", lambda: all(say("renewed")[m] for m in there), 60)
        for pem in (one.d + "/keys/node.pem", two.d + "/keys/node.pem", third.d + "/keys/node.pem", third.d + "/keys/edge/node.pem", w.d + "/control/node-server.crt"):
            wait_for(pem + " of the new authority", lambda: keyid(pem, "authorityKeyIdentifier") == keyid(ca, "subjectKeyIdentifier"), 20)
        assert not say("renewed")["away"] and post("/internal/v1/nodes/self/confirm", {}, cert=away).status == 200, "the one before is trusted on"
        late = Machine("late")
        machines.append(late)
        status, said = late.join(old_token, "--name", "late")
        assert status == 1 and "another cluster" in said, (status, said)
        r = post("/internal/v1/enroll", wish(token()["token"], name="fresh"))
        assert r.status == 200 and r.json["ca"].count("BEGIN CERTIFICATE") == 2 and r.json["ca"].startswith(open(ca).read()), r.text
        r = step("retire")
        assert r.status == 409 and "certificate of the replaced authority" in r.json["detail"], r.text
        beats = {m: node(m)["last_heartbeat_at"] for m in there}
        assert step("retire", force=True).json["phase"] == "steady"
        try:
            r = post("/internal/v1/nodes/self/confirm", {}, cert=away)
            assert r.status in (401, 403), (r.status, r.text)
        except (ssl.SSLError, OSError, http.client.HTTPException):
            pass  # the handshake itself says no
        assert w.pg.sql("SELECT count(*) FROM moat.node_certs c JOIN moat_views.nodes_view n USING (node_id) WHERE n.name = 'away' AND c.revoked_at IS NULL") == "0"
        wait_for("trust in one again", lambda: all(say("trusts")[m] for m in there) and certs(two.d + "/keys/ca.crt") == certs(third.d + "/keys/edge/ca.crt") == 1, 40)
        for m in there:
            wait_for(m + " is heard", lambda: node(m)["last_heartbeat_at"] > beats[m], 30)
        trail = json.dumps(w.ok("GET", "/v1/admin/audit?limit=200"))
        assert "node_ca.prepare" in trail and "node_ca.switch" in trail and "node_ca.retire" in trail

    @case("an hour without the control plane, by its clock: an agent goes on, and is back when it is, with the certificate that it has")
    def _():
        two.stop()
        two.clock(0)
        two.start(env=two.own_clock())
        wait_for("two beats", lambda: node("two")["health"] != "suspect" and "clock.off" not in two.log().rpartition("agent.started")[2], 30)
        pem = open(two.d + "/keys/node.pem").read()
        at = {m: node(m)["last_heartbeat_at"] for m in ("one", "two")}
        # what nobody owned for a day: three nodes disabled, one of them 23 hours ago and one with a volume, and a view that has what the log never had
        unowned = {}
        for name, hours in (("swept", 25), ("young", 23), ("holds", 25)):
            unowned[name] = post("/internal/v1/enroll", wish(token()["token"], name=name)).json["node_id"]
            w.ok("POST", "/v1/nodes/%s/disable" % unowned[name], {"reason": "test"})
            w.pg.sql("UPDATE moat_views.nodes_view SET updated_at = now() - interval '%d hours' WHERE node_id = '%s'" % (hours, unowned[name]))
        day = "now() - interval '25 hours'"
        w.pg.sql("INSERT INTO moat_views.volumes_view (volume_id, org_id, app_id, env_id, name, size_bytes, filesystem, backup_enabled, home_node_id, created_at, updated_at, resource_version, last_event_id)"
                 " VALUES ('vol_holds', 'org_x', 'app_x', 'env_x', 'data', 1, 'ext4', false, '%s', %s, %s, 1, 1)" % (unowned["holds"], day, day))
        w.pg.sql("INSERT INTO moat_views.ipv4_allocations_view (allocation_id, org_id, app_id, env_id, ipv4_address, carrier_at, created_at, updated_at, resource_version, last_event_id)"
                 " VALUES ('v4_lost', 'org_x', 'app_x', 'env_x', '203.0.113.99', %s, %s, %s, 1, 1)" % (day, day, day))
        w.kill_control()
        for minute in range(1, 61):
            two.clock(0, 60 * minute)
            time.sleep(0.05)
        assert one.agent.poll() is None and two.agent.poll() is None
        w.start_control()
        for m in at:
            wait_for(m + " is back", lambda: node(m)["last_heartbeat_at"] > at[m], 30)
        assert pem == open(two.d + "/keys/node.pem").read() and not w.pg.sql("SELECT 1 FROM moat.node_certs WHERE node_id = '%s' AND kind = 'node' AND revoked_at IS NULL OFFSET 1" % node("two")["id"])
        assert sh("openssl", "x509", "-in", w.d + "/control/node-ca.crt", "-noout", "-subject")
        # the sweeper of the one that came has taken it back, with its name under it
        leaks = lambda: {x["id"] for x in w.ok("GET", "/v1/admin/ipam/leaks")["items"]} & {*unowned.values(), "v4_lost"}
        wait_for("the sweeper", lambda: leaks() == {unowned["holds"]}, 40)
        assert {name for name, i in unowned.items() if w.q("GET", "/v1/nodes/" + i).status == 404} == {"swept"}
        done = lambda: {(x["action"], x["resource_id"]) for x in w.ok("GET", "/v1/admin/audit?limit=200")["items"] if x["actor_id"] == "ipam-sweeper"}
        wait_for("its records", lambda: done() == {("node.remove", unowned["swept"]), ("projections.rebuild", "ipv4_allocations_view")}, 20)
        assert [e["actor"] for e in events("node.removed") if e["aggregate_id"] == unowned["swept"]] == [{"type": "system", "id": "ipam-sweeper"}]
        w.pg.sql("DELETE FROM moat_views.volumes_view WHERE volume_id = 'vol_holds'")

    @case("a mesh of 200 is full: refused cleanly, the token stays good; from 40 on it is said")
    def _():
        prefix, t = node("one")["overlay_ipv6"].rsplit("::", 1)[0], token()
        # nodes that have not made their first call: counted, and in nobody's plan
        more = "INSERT INTO moat_views.nodes_view SELECT (jsonb_populate_record(n, jsonb_build_object('node_id', 'node_' || lpad(i::text, 26, '0'), 'name', 'filler' || i," \
               "'admin_state', 'enrolled', 'wireguard_public_key', 'filler' || i, 'overlay_ipv6', '%s::' || to_hex(8192 + i), 'instance_prefix', 'filler' || i))).*" \
               " FROM moat_views.nodes_view n, generate_series(1, %%d) i WHERE n.name = 'one'" % prefix
        counted = "SELECT count(*) FROM moat_views.nodes_view WHERE NOT deleted AND admin_state <> 'disabled' AND wireguard_public_key NOT LIKE 'local:%'"
        have = int(w.pg.sql(counted))
        assert have < 30, have
        try:
            w.pg.sql(more % (200 - have))
            r = post("/internal/v1/enroll", wish(t["token"], name="toomany"))
            assert r.status == 503 and r.json["code"] == "mesh_full" and "200" in r.text.decode(), (r.status, r.text)
            w.pg.sql("DELETE FROM moat_views.nodes_view WHERE name = 'filler1'")
            assert "mesh.large" not in open(w.d + "/control.log").read()
            r = post("/internal/v1/enroll", wish(t["token"], name="lastone"))
            assert r.status == 200, (r.status, r.text)
            wait_for("a line about it", lambda: "mesh.large" in open(w.d + "/control.log").read(), 20)
            assert post("/internal/v1/enroll", wish(token()["token"], name="onemore")).json["code"] == "mesh_full"
        finally:
            w.pg.sql("DELETE FROM moat_views.nodes_view WHERE name LIKE 'filler%'")

    @case("a node that enrols and is never heard loses its identity after an hour, not before")
    def _():
        silent = node("lastone")
        assert silent["admin_state"] == "enrolled", silent
        w.pg.sql("UPDATE moat_views.nodes_view SET created_at = now() - interval '59 minutes' WHERE name = 'lastone'")
        w.pg.sql("UPDATE moat_views.nodes_view SET created_at = now() - interval '2 hours' WHERE name IN ('one', 'two')")  # they were heard
        time.sleep(2.5)  # the leader looks every second
        assert node("lastone")["admin_state"] == "enrolled"
        w.pg.sql("UPDATE moat_views.nodes_view SET created_at = now() - interval '61 minutes' WHERE name = 'lastone'")
        wait_for("disabled", lambda: node("lastone")["admin_state"] == "disabled", 20)
        assert "without a first call" in node("lastone")["admin_reason"] and node("one")["admin_state"] == node("two")["admin_state"] == "active"
        wait_for("no certificate", lambda: w.pg.sql("SELECT count(*) FROM moat.node_certs WHERE node_id = '%s' AND revoked_at IS NULL" % silent["id"]) == "0", 20)

    @case("the last number was given out: refused cleanly, the token stays good")
    def _():
        prefix = node("one")["overlay_ipv6"].rsplit("::", 1)[0]
        t = token()
        w.pg.sql("UPDATE moat_views.nodes_view SET overlay_ipv6 = '%s::ffff' WHERE name = 'lost'" % prefix)
        r = post("/internal/v1/enroll", wish(t["token"], name="full"))
        assert r.status == 503 and r.json["code"] == "ipam_exhausted", (r.status, r.text)
        w.pg.sql("UPDATE moat_views.nodes_view SET overlay_ipv6 = '%s::fffe' WHERE name = 'lost'" % prefix)
        r = post("/internal/v1/enroll", wish(t["token"], name="full"))
        assert r.status == 200 and r.json["overlay_ipv6"].endswith("::ffff"), (r.status, r.text)

    @case("who guesses tokens is stopped: ten tries a minute, here thirty")
    def _():
        guess, begun, seen = wish("moat_en_guess"), time.monotonic(), []
        while 429 not in seen and len(seen) < 30 + (time.monotonic() - begun) / 2 + 2:  # one more each two seconds
            seen.append(post("/internal/v1/enroll", guess).status)
        assert seen[-1] == 429 and set(seen[:-1]) <= {401}, seen
        assert "node.enroll" in json.dumps(w.ok("GET", "/v1/admin/audit?limit=200"))
finally:
    for m in machines:
        m.close()
    w.close()
kit.finish()
