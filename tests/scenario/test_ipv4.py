#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The IPv4 add-on: pool, allocations, routes, quotas; and how it carries: two machines with real agents and real edges that join over
TLS, of which one has an environment's address, and clients that speak IPv4 to a backend that only has IPv6. Stood in: the worker (its
agent is the kit's) and the backend, a process at the instance's overlay address on the edge's host.
COST 30 s, 6 s of processor."""
import ctypes
import json
import os
import signal
import socket
import ssl
import subprocess
import shutil
import sys
import tempfile
import threading
import time
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("ipv4", "moat-agent", "moat-edge")
import meshkit  # noqa: E402
why = meshkit.missing()
if why or ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
    kit.skip("ipv4", why or "no network namespace can be made here")
    sys.exit(0)

CONTROL = "10.79.0.1:7443"
MANIFEST = """schema_version = "v1"
[app]
name = "APP"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[[processes.web.ports]]
name = "tls"
internal = 8443
[[processes.web.ports]]
name = "raw"
internal = 9000
[[processes.web.ports]]
name = "strict"
internal = 9100
[processes.web.resources]
memory = "128Mi"
"""


def sh(*argv, check=True):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=check, text=True).stdout


class Machine:
    """A host of its own with an agent and an edge that joined; IPv4 out by its default route."""

    def __init__(self, name, number):
        self.name, self.ip, self.d = name, "10.79.0.%d" % number, w.d + "/m-" + name
        self.agent = self.edge = None
        for d in ("", "/run", "/edge", "/hooks"):
            os.makedirs(self.d + d, 0o755)
        os.chown(self.d + "/edge", 65534, 65534)
        self.place = meshkit.Place()
        sh("ip", "link", "add", "v%d" % number, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
        sh("ip", "link", "set", "v%d" % number, "master", "br0", "up")
        p = self.place
        p.run("ip", "addr", "add", self.ip + "/24", "dev", "eth0")
        p.run("ip", "link", "set", "eth0", "up")
        p.run("ip", "route", "add", "default", "via", "10.79.0.1")
        p.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0")

    def configure(self, **more):
        conf = {"data_dir": self.d, "host_firewall": "full", "host_accepted": ["nofile"], "edge_user": "nobody", "control_user": "nobody", "worker_user": "nobody", "vmm": "qemu",
                "heartbeat_ms": 500, "drift_seconds": 5, "egress_mode": "none", "hook_dir": self.d + "/hooks", "cgroup_parent": "moat-%d/%s" % (os.getpid(), self.name), **more}
        with open(self.d + "/agent.toml", "w") as f:
            f.write("".join("%s = %s\n" % (k, json.dumps(v)) for k, v in conf.items()))

    def join(self):
        self.configure()
        t = w.ok("POST", "/v1/enrollment-tokens", {"roles": ["edge"]})["token"]
        r = subprocess.run(self.place.argv(kit.program("moat-agent"), "--config", self.d + "/agent.toml", "join", "--control", CONTROL, "--token", "-", "--name", self.name,
                                           "--endpoint", self.ip + ":51820"), input=t, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        assert r.returncode == 0, r.stdout
        self.start_agent()

    def start_agent(self):
        self.agent = self.place.popen(kit.program("moat-agent"), "--config", self.d + "/agent.toml", stderr=open(self.d + "/agent.log", "ab"), start_new_session=True)

    def start_edge(self):
        with open(self.d + "/edge.toml", "w") as f:
            f.write("data_dir = %s\ncontrol_address = %s\nkeys_dir = %s\n" % tuple(json.dumps(x) for x in (self.d + "/edge", CONTROL, self.d + "/keys/edge")))
        self.edge = self.place.popen("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", kit.program("moat-edge"), "--config", self.d + "/edge.toml",
                                     stderr=open(self.d + "/edge.log", "ab"), start_new_session=True)

    def kill(self):
        for p in (self.agent, self.edge):
            if p and p.poll() is None:
                p.send_signal(signal.SIGKILL)
                p.wait()

    def has(self, address):
        return address + "/32" in self.place.run("ip", "-4", "addr", "show")

    @property
    def node(self):
        return next(n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] == self.name)

    def close(self):
        self.kill()
        self.place.close()


# At the instance's address: answers, and where a PROXY v2 header comes first, with the client that it names.
BACKEND = """
import socket, sys, threading
def serve(port, proxied):
    s = socket.create_server((sys.argv[1], port, 0, 0), family=socket.AF_INET6)
    while True:
        c, _ = s.accept()
        try:
            c.settimeout(20)
            got, said = c.recv(4096), b"v6 only"
            if proxied:
                assert got[:12] == bytes.fromhex("0d0a0d0a000d0a515549540a") and got[12] == 0x21 and got[13] == 0x11, got[:16]
                said += b" for " + socket.inet_ntoa(got[16:20]).encode() + b" at " + socket.inet_ntoa(got[20:24]).encode()
            c.sendall(said)
        except OSError: pass
        finally: c.close()
def strict(port):
    s = socket.create_server((sys.argv[1], port, 0, 0), family=socket.AF_INET6)
    while True:  # knows no PROXY header: ends what does not begin as it likes
        c, _ = s.accept()
        c.settimeout(20)
        try: c.recv(16)
        except OSError: pass
        c.close()
threading.Thread(target=strict, args=(9100,), daemon=True).start()
for port, proxied in ((8443, False), (9000, True)): threading.Thread(target=serve, args=(port, proxied), daemon=True).start()
threading.Event().wait()
"""


def hello(name):
    """The first bytes of a TLS client that wants @name."""
    out = ssl.MemoryBIO()
    t = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        t.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def speak(address, port, first, seconds=3):
    """What is answered to @first, b"" when nothing is."""
    try:
        with socket.create_connection((address, port), seconds) as s:
            s.sendall(first)
            return s.recv(4096)
    except OSError:
        return b""


def events(kind, env=None):
    return [e["payload"] for e in w.ok("GET", "/v1/admin/events?limit=500&event_type=" + kind)["items"] if env is None or e["env_id"] == env.rsplit("/", 1)[1]]


def ipv4(env):
    return w.ok("GET", env + "/networking")["ipv4"]


def published():
    return json.load(open(zone + "/now"))["records"]


def state(address):
    return next((p["state"] for p in w.ok("GET", "/v1/ipv4-pool")["items"] if p["address"] == address), None)


sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", "10.79.0.1/24", "dev", "br0")
sh("ip", "addr", "add", "203.0.113.1/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
sh("ip", "link", "set", "lo", "up")
zone = tempfile.mkdtemp(prefix="moat-zone-")
os.chmod(zone, 0o777)
with open(zone + "/publish", "w") as program:
    program.write("#!/bin/sh\ncat > %s/new && mv %s/new %s/now\n" % (zone, zone, zone))
os.chmod(zone + "/publish", 0o755)
w = kit.World(listen_nodes=CONTROL, nodes_address=CONTROL, rate_limit_percent=0, suspect_seconds=10, node_roles=["worker"],
              **{"dns.base_domain": "apps.example.net", "dns.publish_program": zone + "/publish"})
machines = []
try:
    org = w.open()
    app, env = w.make_app("shop")
    _, other = w.make_app("other")

    @case("the pool takes addresses that hosts can have, once; an environment gets one that is free, keeps it, and nobody else gets it")
    def _():
        r = w.q("POST", env + "/networking/ipv4", {})
        assert (r.status, r.json["code"]) == (409, "ipv4_pool_exhausted"), r.text
        r = w.q("POST", env + "/routes", {"hostname": "w4.example.com", "backend_process_type": "web", "backend_port": 8443, "ipv4_required": True})
        assert (r.status, r.json["code"]) == (409, "ipv4_not_enabled"), r.text
        for bad in ("", "203.0.113", "203.0.113.256", "fd00::1", "127.0.0.1", "0.1.2.3", "224.0.0.1", "169.254.1.1", "255.255.255.255", "203.0.113.10/32"):
            assert w.q("POST", "/v1/ipv4-pool", {"address": bad}).status == 400, bad
        first = w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.10"}, want=(201,))
        assert first["state"] == "free" and w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.10"}, want=(200,))["resource_version"] == 1
        got = w.ok("POST", env + "/networking/ipv4", {}, want=(201,))
        assert got["ipv4_address"] == "203.0.113.10" and got["status"] == "pending", got
        again = w.ok("POST", env + "/networking/ipv4", {}, want=(200,))
        assert again["allocation_id"] == got["allocation_id"] and again["detail"] == "no edge is there to carry it", again
        assert w.ok("GET", env)["ipv4"] == {"address": got["ipv4_address"], "allocation_id": got["allocation_id"]} and "ipv4" not in w.ok("GET", other)
        assert state("203.0.113.10") == "allocated" and w.q("POST", other + "/networking/ipv4", {}).json["code"] == "ipv4_pool_exhausted"
        r = w.q("DELETE", "/v1/ipv4-pool/203.0.113.10", {})
        assert (r.status, r.json["code"]) == (409, "ipv4_in_use"), r.text
        assert w.q("DELETE", "/v1/ipv4-pool/203.0.113.99", {}).status == 404
        assert w.q("POST", env + "/networking/ipv4", {"ipv4_address": "1.2.3.4"}).status == 400

    @case("twelve environments ask at once for four addresses: four get one each, the others are told; a limit is a limit")
    def _():
        for k in range(20, 24):
            w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.%d" % k})
        envs, got, lock = [w.make_app("many%d" % k)[1] for k in range(12)], [], threading.Lock()

        def ask(e):
            r = w.q("POST", e + "/networking/ipv4", {})
            with lock:
                got.append((r.status, r.json.get("ipv4_address") or r.json["code"], e))
        ts = [threading.Thread(target=ask, args=(e,)) for e in envs]
        [t.start() for t in ts]
        [t.join() for t in ts]
        won = [a for s, a, _ in got if s == 201]
        assert len(won) == len(set(won)) == 4 and all(s == 201 or a == "ipv4_pool_exhausted" for s, a, _ in got), got
        for k in range(24, 27):
            w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.%d" % k})
        w.ok("PUT", org + "/quotas/max_ipv4_allocations", {"limit": 5, "reason": "test"})
        lost = next(e for s, _, e in got if s == 409)
        r = w.q("POST", lost + "/networking/ipv4", {})
        assert (r.status, r.json["code"], r.json["details"]["dimension"]) == (409, "quota_exceeded", "max_ipv4_allocations"), r.text
        # an environment that is deleted gives its address back; it cools down and is nobody's
        won_env = next(e for s, _, e in got if s == 201)
        address = ipv4(won_env)["ipv4_address"]
        assert w.q("DELETE", won_env, {}).json["code"] == "has_dependents"
        w.ok("DELETE", won_env + "?cascade=true", {})
        assert state(address) == "cooldown" and events("env.ipv4_disabled", won_env) == [{"allocation_id": events("env.ipv4_enabled", won_env)[0]["allocation_id"],
                                                                                         "ipv4_address": address, "forced": False}]
        # one command ends both, so nothing leaks; a view that lost that is found out after a day, and made again from the log
        pool = lambda name: next(p for p in w.ok("GET", "/v1/admin/ipam")["items"] if p["pool"] == name)
        leaks = lambda: w.ok("GET", "/v1/admin/ipam/leaks")["items"]
        assert leaks() == [] and pool("ipv4") == {"pool": "ipv4", "allocated": 4, "cooldown": 1, "retired": 0, "free": 3}, pool("ipv4")
        e = won_env.rsplit("/", 1)[1]
        w.pg.sql("UPDATE moat_views.envs_view SET updated_at = updated_at - interval '25 hours' WHERE env_id = '%s'" % e)
        w.pg.sql("UPDATE moat_views.ipv4_allocations_view SET ended_at = NULL, updated_at = now() - interval '25 hours' WHERE env_id = '%s'" % e)
        found = [(x["pool"], x["address"], x["why"], x["reclaim"]) for x in leaks()]
        assert found == [("ipv4", address, "its environment was deleted", "moat admin projections rebuild ipv4_allocations_view")], found
        w.ok("POST", "/v1/admin/projections/ipv4_allocations_view/rebuild", {})
        w.pg.sql("UPDATE moat_views.envs_view SET updated_at = updated_at + interval '25 hours' WHERE env_id = '%s'" % e)
        wait_for("the view made again", lambda: leaks() == [] and pool("ipv4")["allocated"] == 4 and pool("ipv4")["cooldown"] == 1, 40)
        for e in envs:
            if e != won_env:
                w.ok("DELETE", e + "?cascade=true", {})
        for k in range(20, 27):  # the rest of the file has one address that is free: .30
            w.q("DELETE", "/v1/ipv4-pool/203.0.113.%d" % k, {"reason": "test"})
        w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.30"})
        w.ok("PUT", org + "/quotas/max_ipv4_allocations", {"limit": None, "reason": "test"})

    @case("routes on the address: a name there too, raw ports of one's own choice, five beside 80 and 443, none of both protocols, none that is denied")
    def _():
        tls = w.ok("POST", env + "/routes", {"hostname": "w4.example.com", "backend_process_type": "web", "backend_port": 8443})
        assert w.ok("PATCH", env + "/routes/" + tls["id"], {"ipv4_required": True, "expected_version": 1})["address_scope"] == "shared6"

        def raw(port, **more):
            return w.q("POST", env + "/routes", {"protocol": "tcp_raw", "listen_port": port, "backend_process_type": "web", "backend_port": 8443, "ipv4_required": True, **more})
        assert raw(443).json["code"] == "port_taken" and raw(25).json["code"] == "port_not_allowed"
        no_port = w.q("POST", env + "/routes", {"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 9000, "ipv4_required": True})
        assert no_port.status == 400, no_port.text
        r = raw(5432, backend_port=9000, proxy_protocol="v2", backend_expects_proxy_protocol=True)
        assert r.status == 201 and r.json["address_scope"] == "ipv4", r.text
        assert raw(5432).json["code"] == "port_taken"
        assert raw(5433, backend_port=9000).json["code"] == "proxy_port_conflict" and raw(5433, proxy_protocol="v2", backend_expects_proxy_protocol=True).json["code"] == "proxy_port_conflict"
        rest = [raw(p).json["id"] for p in (80, 22, 5001, 5002, 5003)]
        ports = lambda: next(p for p in w.ok("GET", "/v1/admin/ipam")["items"] if p["pool"] == "shared_ports")
        assert ports() == {"pool": "shared_ports", "allocated": 0, "cooldown": 0, "retired": 0, "free": 19999}, ports()  # those of the address are no shared ones; 10250 is nobody's
        shared = w.ok("POST", env + "/routes", {"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 8443})
        assert ports()["allocated"] == 1
        w.ok("DELETE", env + "/routes/" + shared["id"], {})
        assert ports() == {"pool": "shared_ports", "allocated": 0, "cooldown": 1, "retired": 0, "free": 19998}, ports()
        r = raw(5004)
        assert (r.status, r.json["details"]["dimension"], r.json["details"]["limit"]) == (409, "max_ipv4_extra_ports", 5), r.text
        for i in rest:
            w.ok("DELETE", env + "/routes/" + i, {})
        shown = {x["listen_port"]: x for x in w.ok("GET", env + "/routes")["items"]}
        assert shown[5432]["addresses"] == ["203.0.113.10"] and "203.0.113.10" in shown[443]["addresses"], shown
        assert w.q("PATCH", env + "/routes/" + shown[5432]["id"], {"ipv4_required": False, "expected_version": 1}).json["code"] == "not_supported"

    one, two = Machine("one", 2), Machine("two", 3)
    machines += [one, two]

    @case("another machine of the link answers for addresses of the pool: the edge does not take the one, nobody is given the other, and both are told")
    def _():
        mac = json.loads(sh("ip", "-j", "link", "show", "br0"))[0]["address"]
        for a in ("10", "30"):
            sh("ip", "addr", "add", "203.0.113.%s/32" % a, "dev", "br0")
        try:
            one.join()
            one.start_edge()
            name = w.ok("GET", env + "/networking")["platform_hostname"]
            w.ok("POST", env + "/routes", {"hostname": name, "backend_process_type": "web", "backend_port": 8443, "ipv4_required": True})
            wait_for("why it is not taken", lambda: ipv4(env).get("detail") == "203.0.113.10 is answered for by %s on eth0: find that machine, or take the address out of the pool" % mac, 40)
            assert not one.has("203.0.113.10") and ipv4(env)["status"] != "active"
            leaks = lambda: {x["address"]: (x["pool"], x["id"], x["why"], x["reclaim"]) for x in w.ok("GET", "/v1/admin/ipam/leaks")["items"]}
            want = ("ipv4", one.node["id"], mac + " answers for it on the link of node one", "take it from that machine, or: moat admin ipv4-pool remove 203.0.113.30")
            wait_for("what it found of the pool", lambda: leaks().get("203.0.113.30") == want, 20)
            r = w.q("POST", other + "/networking/ipv4", {})
            assert (r.status, r.json["code"]) == (409, "ipv4_pool_exhausted"), r.text
            wait_for("a zone", lambda: os.path.exists(zone + "/now"), 20)
            assert published() == [], "an address that is not served has a record"
        finally:
            for a in ("10", "30"):
                sh("ip", "addr", "del", "203.0.113.%s/32" % a, "dev", "br0")
        one.agent.kill()
        one.agent.wait()
        one.start_agent()
        wait_for("nothing of it is left", lambda: leaks() == {}, 20)

    @case("an edge carries it: clients that only speak IPv4 reach a backend that only has IPv6, and it is told who they are")
    def _():
        w.deploy(app, env, MANIFEST.replace("APP", "shop"))
        instance = w.ok("GET", env + "/instances?status=ready")["items"][0]["overlay_ipv6"]
        for m in (one, two):  # on each host itself: nothing but the mesh may bring packets from the cluster's addresses in
            m.place.run("ip", "-6", "addr", "add", instance + "/128", "dev", "lo", "nodad")
            m.backend = m.place.popen("python3", "-c", BACKEND, instance)
        v4 = wait_for("active", lambda: (lambda v: v if v["status"] == "active" else None)(ipv4(env)), 30)
        r = next(x for x in w.ok("GET", env + "/routes")["items"] if x.get("hostname", "").endswith(".apps.example.net"))
        wait_for("its record", lambda: published() == [{"name": r["hostname"], "type": "A", "ttl": 300, "values": ["203.0.113.10"]}], 20)
        w.ok("DELETE", env + "/routes/" + r["id"], {})
        wait_for("no record any more", lambda: published() == [], 20)
        assert v4["edge_node_id"] == one.node["id"] and one.has("203.0.113.10") and "detail" not in v4, v4
        assert wait_for("the page", lambda: speak("203.0.113.10", 443, hello("w4.example.com")), 20) == b"v6 only"
        assert speak("203.0.113.10", 443, hello("another.example.com"))[:1] != b"v"
        said = wait_for("the raw port", lambda: speak("203.0.113.10", 5432, b"x"), 20)
        assert said == b"v6 only for 203.0.113.1 at 203.0.113.10", said
        plan = w.pg.sql("SELECT body->'ipv4' FROM moat.node_heartbeats WHERE body ? 'ipv4'")
        assert '"state": "up"' in plan and "203.0.113.10" in plan, plan

    @case("of two names on the address one is made the default: clients that name none, and with allow_non_tls those without TLS, go to it")
    def _():
        mute = b"\x16\x03\x01" + (lambda h: len(h).to_bytes(2, "big") + h)(b"\x01\x00\x00\x29\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00")  # a hello without extensions
        serves = lambda first, at="203.0.113.10": speak(at, 443, first) == b"v6 only"
        first = next(x for x in w.ok("GET", env + "/routes")["items"] if x["listen_port"] == 443)
        wait_for("the only one of the address is its default", lambda: serves(mute), 20)
        made = w.ok("POST", env + "/routes", {"hostname": "other4.example.com", "backend_process_type": "web", "backend_port": 8443, "ipv4_required": True})
        try:
            wait_for("its name", lambda: serves(hello("other4.example.com")), 20)
            wait_for("of two none is", lambda: not serves(mute) and not serves(b"SSH-2.0-x\r\n"), 20)
            sp = w.ok("POST", org + "/service-principals", {"name": "routes-only", "scopes": ["routes:read", "routes:write"]})
            token = w.ok("POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]})["access_token"]
            change = lambda r, **f: w.q("PATCH", env + "/routes/" + r["id"], dict(f, expected_version=w.ok("GET", env + "/routes/" + r["id"])["resource_version"]),
                                        Authorization="Bearer " + token)  # the address is the tenant's own, and so is what it does with it
            assert change(made, default_for_listener=True).json["default_for_listener"] is True
            wait_for("the default", lambda: serves(mute), 20)
            assert not serves(b"SSH-2.0-x\r\n"), "TLS is still asked for"
            r = change(first, default_for_listener=True)
            assert (r.status, r.json["code"]) == (409, "conflict"), r.text
            r = w.q("POST", env + "/routes", {"hostname": "third.example.com", "backend_process_type": "web", "backend_port": 8443, "ipv4_required": True, "default_for_listener": True})
            assert (r.status, r.json["code"]) == (409, "conflict"), r.text
            for field in ({"ipv4_required": False}, {"allow_non_tls": True, "min_tls_version": "1.2"}):
                assert change(made, **field).status == 400, field
            assert change(made, allow_non_tls=True).json["allow_non_tls"] is True
            wait_for("without TLS", lambda: serves(b"SSH-2.0-x\r\n"), 20)
            assert change(made, default_for_listener=False, allow_non_tls=False).status == 200
            wait_for("no more", lambda: not serves(mute) and not serves(b"SSH-2.0-x\r\n"), 20)
        finally:
            w.ok("DELETE", env + "/routes/" + made["id"], {})

    @case("private_network: plans name who of the environment may reach whom where, but no port into which an edge writes who the client is")
    def _():
        version = w.ok("GET", env)["resource_version"]
        there = w.ok("GET", env + "/instances?status=ready")["items"][0]
        assert "private" not in w.agent.plans[-1]["network"]
        assert w.ok("PATCH", env, {"private_network": True, "expected_version": version})["private_network"] is True
        want = [{"env_id": env.rsplit("/", 1)[1], "address": there["overlay_ipv6"], "ports": [8443, 9100]}]  # 9000 has a PROXY route
        wait_for("the plan", lambda: w.agent.plans[-1]["network"].get("private") == want, 20)
        w.ok("PATCH", env, {"private_network": False, "expected_version": version + 1})
        wait_for("the plan without it", lambda: "private" not in w.agent.plans[-1]["network"], 20)

    if os.environ.get("MOAT_FULL"):  # a minute and more

        @case("a backend that ends what begins with the PROXY header makes its route suspect, and says so no more when it understands it")
        def _():
            r = w.ok("POST", env + "/routes", {"protocol": "tcp_raw", "listen_port": 5001, "backend_process_type": "web", "backend_port": 9100, "ipv4_required": True,
                                               "proxy_protocol": "v2", "backend_expects_proxy_protocol": True})
            hints = lambda: w.ok("GET", env + "/routes/" + r["id"])["hints"]
            wait_for("the listener", lambda: not speak("203.0.113.10", 5001, b"x") and socket.create_connection(("203.0.113.10", 5001), 3).close() is None, 20)

            def until(ready):
                end = time.monotonic() + 180
                while not ready():
                    assert time.monotonic() < end, hints()
                    speak("203.0.113.10", 5001, b"x", 1)
                    time.sleep(0.5)
            until(lambda: hints() == ["proxy_protocol_suspect"])
            assert next(x for x in w.ok("GET", org + "/routes")["items"] if x["id"] == r["id"])["hints"] == ["proxy_protocol_suspect"]
            w.ok("PATCH", env + "/routes/" + r["id"], {"backend_port": 9000, "expected_version": 1})
            until(lambda: hints() == [])
            w.ok("DELETE", env + "/routes/" + r["id"], {})

    @case("what the host itself serves on all addresses is not to be had at the environment's")
    def _():
        s = one.place.popen("python3", "-c", "import socket\ns=socket.create_server(('0.0.0.0',22))\nprint('ready',flush=True)\nwhile True: c,_=s.accept(); c.sendall(b'host'); c.close()",
                            stdout=subprocess.PIPE)
        try:
            assert s.stdout.readline() == b"ready\n"
            wait_for("the host's own", lambda: speak(one.ip, 22, b"x") == b"host", 20)
            assert speak("203.0.113.10", 22, b"x", 1) == b""
            rules = one.place.run("nft", "list", "table", "inet", "moat")
            assert "203.0.113.10 . 443" in rules and "203.0.113.10 . 5432" in rules, rules
        finally:
            s.kill()
            s.wait()

    @case("an address that somebody takes off the link is put back")
    def _():
        one.place.run("ip", "addr", "del", "203.0.113.10/32", "dev", "eth0")
        wait_for("it is back", lambda: one.has("203.0.113.10"), 30)
        wait_for("it serves", lambda: speak("203.0.113.10", 443, hello("w4.example.com")) == b"v6 only", 20)

    @case("its edge is silent: another one carries it, and the first gives it back before anything else when it returns")
    def _():
        with open(two.d + "/hooks/ipv4-up", "w") as f:
            f.write("#!/bin/sh\nip neigh flush dev br0 2>/dev/null\nip addr add $1/32 dev eth0 && echo up $1 >> %s/hooked\n" % two.d)
        with open(two.d + "/hooks/ipv4-down", "w") as f:
            f.write("#!/bin/sh\nip addr del $1/32 dev eth0; echo down $1 >> %s/hooked\n" % two.d)
        for h in ("up", "down"):
            os.chmod(two.d + "/hooks/ipv4-" + h, 0o755)
        two.join()
        two.start_edge()
        wait_for("the second edge is there", lambda: two.node["health"] == "ready" and two.node["admin_state"] == "active", 30)
        gone = one.node["id"]
        one.kill()

        def moved():  # what half a minute does
            for kind in ("node", "edge"):
                w.pg.sql("UPDATE moat.%s_heartbeats SET received_at = received_at - interval '60 seconds' WHERE node_id = '%s'" % (kind, gone))
            return ipv4(env)["edge_node_id"] == two.node["id"]
        wait_for("another carrier", moved, 60)
        told = lambda m: '"moved"' in open(m.d + "/agent/plan.json").read()
        wait_for("it is told that the address was another's", lambda: told(two), 20)
        assert not told(one), "the first of all edges has to ask the link"
        assert [e["reason"] for e in events("env.ipv4_carrier_changed", env)][-1] == "the edge is not heard", events("env.ipv4_carrier_changed", env)
        wait_for("active there", lambda: ipv4(env)["status"] == "active", 30)
        wait_for("its hook has run", lambda: os.path.exists(two.d + "/hooked") and open(two.d + "/hooked").read().splitlines()[:1] == ["up 203.0.113.10"], 20)
        assert "203.0.113.10/32" in two.place.run("ip", "addr", "show", "lo")
        one.place.run("ip", "link", "set", "eth0", "down")  # a machine that died, not one that lives on with the address
        sh("ip", "neigh", "flush", "dev", "br0")
        wait_for("it serves there", lambda: speak("203.0.113.10", 443, hello("w4.example.com")) == b"v6 only", 20)
        assert one.has("203.0.113.10")
        one.place.run("ip", "link", "set", "eth0", "up")
        one.place.run("ip", "route", "add", "default", "via", "10.79.0.1")
        one.start_agent()
        wait_for("given back", lambda: not one.has("203.0.113.10"), 30)

    @case("it is not taken from routes that need it but by an operator's force; connections have a minute, the address cools down")
    def _():
        r = w.q("DELETE", env + "/networking/ipv4", {})
        assert (r.status, r.json["code"], r.json["details"]["total"]) == (409, "ipv4_in_use", 2), r.text
        w.ok("DELETE", env + "/networking/ipv4?force=true", {})
        assert w.ok("DELETE", env + "/networking/ipv4", {})["already_deleted"] and ipv4(env) is None
        wait_for("no listener", lambda: speak("203.0.113.10", 443, hello("w4.example.com"), 1) == b"", 20)
        assert two.has("203.0.113.10") and state("203.0.113.10") == "cooldown"
        assert events("env.ipv4_disabled", env)[-1]["forced"] is True
        new = w.ok("POST", env + "/networking/ipv4", {}, want=(201,))
        assert new["ipv4_address"] == "203.0.113.30", new
        wait_for("the new one serves", lambda: speak("203.0.113.30", 443, hello("w4.example.com")) == b"v6 only", 30)

    @case("its hours are in the log for who bills, once each, and in the usage of the organisation")
    def _():
        had = wait_for("what was cut", lambda: events("usage.recorded", env), 20)
        # two where an hour ended meanwhile, perhaps before there was the extra port
        assert 1 <= len(had) <= 2 and {(h["ipv4_address"], h["kind"]) for h in had} == {("203.0.113.10", "ipv4")} and had[-1]["extra_ports"] == 1, had
        assert had[0]["from"] < had[0]["to"] and had[0]["to"] <= time.strftime("%Y-%m-%dT%H:%M:%S.999999Z", time.gmtime()), had
        rows = [r for r in w.ok("GET", org + "/usage?kind=ipv4&env_id=" + env.rsplit("/", 1)[1])["items"]]
        assert rows and all(r["unit"] == "address_seconds" for r in rows) and sum(r["quantity"] for r in rows) >= 1, rows
        # an hour that is over, of an allocation that goes on
        w.pg.sql("UPDATE moat_views.ipv4_allocations_view SET created_at = date_trunc('hour', now()) - interval '2 hours' WHERE env_id = '%s' AND ended_at IS NULL" % env.rsplit("/", 1)[1])
        whole = lambda: [e for e in events("usage.recorded", env) if e["ipv4_address"] == "203.0.113.30"]
        wait_for("two whole hours", lambda: len(whole()) >= 2, 20)
        assert [(e["from"][14:19], e["to"][14:19]) for e in whole()[:2]] == [("00:00", "00:00")] * 2, whole()

    @case("an edge that is drained: the last one not but by force; its address goes to the other one, it is told how many connections it holds, and it serves again when it is let")
    def _():
        edges = lambda: {e["name"]: e for e in w.ok("GET", "/v1/admin/edges")["items"]}
        here = two.node["id"]
        assert ipv4(env)["edge_node_id"] == here
        drain = lambda how="drain", node=here, **more: w.q("POST", "/v1/admin/edges/%s/%s" % (node, how), {"reason": "kernel", **more})
        r = drain()
        assert (r.status, r.json["code"]) == (409, "conflict") and "no other edge" in r.json["detail"], r.text
        assert drain(node=next(n["id"] for n in w.ok("GET", "/v1/nodes")["items"] if "edge" not in n["roles"])).status == 404
        one.start_edge()
        wait_for("both serve", lambda: [edges()[n]["state"] for n in ("one", "two")] == ["serving", "serving"], 40)
        assert edges()["two"]["ipv4"] == ["203.0.113.30"] and edges()["two"]["revision"] > 0 and not edges()["two"]["draining"], edges()["two"]
        with socket.create_connection(("203.0.113.30", 443), 60) as held:
            held.sendall(hello("w4.example.com"))
            assert held.recv(4096) == b"v6 only"
        dry = w.ok("POST", "/v1/admin/edges/%s/drain?dry_run=true" % here, {"reason": "look"})
        assert dry["draining"] and not edges()["two"]["draining"]
        got = drain()
        assert got.status == 200 and got.json["draining"] and got.json["state"] == "draining", got.text
        assert drain().json["draining"] and [e for e in events("node.config_set") if e["changed"].get("edge_drain")] == [{"changed": {"edge_drain": True}, "previous": {}, "reason": "kernel"}]
        wait_for("the other one carries it", lambda: ipv4(env)["edge_node_id"] == one.node["id"], 30)
        assert events("env.ipv4_carrier_changed", env)[-1]["reason"] == "the edge is out of service", events("env.ipv4_carrier_changed", env)
        sh("ip", "neigh", "flush", "dev", "br0")
        wait_for("it serves there", lambda: speak("203.0.113.30", 443, hello("w4.example.com")) == b"v6 only", 30)
        wait_for("it holds nothing any more", lambda: edges()["two"]["connections"] == 0, 30)
        assert edges()["two"]["state"] == "draining" and two.node["admin_state"] == "active" and "ipv4" not in edges()["two"], edges()["two"]
        plan = json.load(open(two.d + "/agent/plan.json"))
        assert "edge_drain" not in json.dumps(plan.get("node_config", {})), plan.get("node_config")
        back = drain("undrain")
        assert back.status == 200 and back.json["state"] == "serving" and not edges()["two"]["draining"], back.text
        assert drain("undrain").json["resource_version"] == back.json["resource_version"]

    @case("the log is checked and its views are as they would be made again")
    def _():
        w.pg.sql("UPDATE moat_views.ipv4_allocations_view a SET created_at = e.occurred_at FROM moat.events e WHERE e.event_type = 'env.ipv4_enabled'"
                 " AND e.payload->>'allocation_id' = a.allocation_id")
        r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "verify-views"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0, r.stdout[-600:]
finally:
    for m in machines:
        if any(not r for r in kit.results):
            for n in ("agent", "edge"):
                if os.path.exists(m.d + "/%s.log" % n):
                    print("# %s %s: %s" % (m.name, n, " | ".join(open(m.d + "/%s.log" % n).read().splitlines()[-6:])[:1500]))
        m.close()
    w.close()
    shutil.rmtree(zone, ignore_errors=True)
kit.finish()
