#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A platform of three machines, all of it real: moat-control with its agent on one, moat-edge on the second, a microVM on the third, each a
host of its own (network and mount namespace) on one link, WireGuard between them.

The edge takes its configuration over TLS; a page is fetched through it out of the VM over the mesh; logs and exec of the instance go from the
control plane to the agent over the mesh; who is not the control plane gets nothing there; a node that is away hides nobody else's lines. A node
is drained under load without a failed request, and one that dies whole is replaced.
COST 175 s, 41 s of processor."""
import json
import os
import socket
import ssl
import subprocess
import sys
import threading

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "lib")]
import platform_kit  # noqa: E402
if os.geteuid() != 0:
    print("skip - two nodes: needs root")
    sys.exit(0)
platform_kit.own_host()
import agentkit  # noqa: E402
import control_kit as kit  # noqa: E402
import fair  # noqa: E402
import imagekit  # noqa: E402
import meshkit  # noqa: E402
from control_kit import case, wait_for  # noqa: E402

why = meshkit.missing()
if why:
    kit.skip("two nodes", why)
    sys.exit(0)
kit.need("two nodes", "moat-agent", "moat-edge", "moat")
DNS = ["2606:4700:4700::1111", "64:ff9b::808:808"]
BIN, CONTROL, HOST, PORT = imagekit.BIN, "10.78.0.1:7443", "hello.moat.test", 8443


def sh(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, text=True, **kw).stdout


class Machine:
    """@number 1: where this process and the control plane are."""
    all = []

    def __init__(self, name, number):
        Machine.all.append(self)
        self.name, self.ip, self.d = name, "10.78.0.%d" % number, w.d + "/" + name
        self.place = self.agent = self.edge = None
        self.sock = self.d + "/run/agent.sock" if number > 1 else "/run/agent-of-control.sock"
        for d in ("", "/run", "/edge"):
            os.makedirs(self.d + d, 0o755)
        os.chown(self.d + "/edge", 65534, 65534)
        os.symlink(boot, self.d + "/boot")
        if number > 1:
            self.place = meshkit.Place()
            self.place.run("umount", "/sys")  # its own has no cgroups
            sh("ip", "link", "add", "v%d" % number, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
            sh("ip", "link", "set", "v%d" % number, "master", "br0", "up")
            self.place.run("ip", "addr", "add", self.ip + "/24", "dev", "eth0")
            self.place.run("ip", "link", "set", "eth0", "up")

    def argv(self, *argv):
        return self.place.argv(*argv) if self.place else list(argv)

    def configure(self, **more):
        conf = {"data_dir": self.d, "bin_dir": BIN, "host_firewall": "full" if self.place else "taps", "host_accepted": ["nofile"], "edge_user": "nobody", "control_user": "nobody", "worker_user": "nobody",
                "vmm": "qemu", "heartbeat_ms": 500, "cgroup_parent": "moat-%d/%s" % (os.getpid(), self.name), "egress_mode": "none", **more}
        with open(self.d + "/agent.toml", "w") as f:
            f.write("".join("%s = %s\n" % (k, json.dumps(v)) for k, v in conf.items()))
            f.write("[image]\nlocal_registries = [%s]\ninsecure_registries = [%s]\n" % (json.dumps(registry.host), json.dumps(registry.host)))

    def join(self, *roles):
        self.configure()
        t = w.ok("POST", "/v1/enrollment-tokens", {"roles": list(roles)})["token"]
        r = subprocess.run(self.argv(BIN + "/moat-agent", "--config", self.d + "/agent.toml", "join", "--control", CONTROL, "--token", "-", "--name", self.name,
                                     "--endpoint", self.ip + ":51820"), input=t, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        assert r.returncode == 0, r.stdout
        self.start()

    def start(self, files=None):
        """@files: most descriptors of it"""
        self.agent = subprocess.Popen((["prlimit", "--nofile=%d" % files] if files else []) + self.argv(BIN + "/moat-agent", "--config", self.d + "/agent.toml"), stderr=open(self.d + "/agent.log", "ab"), start_new_session=True)

    def start_edge(self):
        with open(self.d + "/edge.toml", "w") as f:
            f.write("data_dir = %s\ncontrol_address = %s\nkeys_dir = %s\nsource_address = %s\n[port_map]\n443 = %d\n" % (
                *(json.dumps(x) for x in (self.d + "/edge", CONTROL, self.d + "/keys/edge", node(self.name)["overlay_ipv6"])), PORT))
        self.edge = subprocess.Popen(self.argv("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", BIN + "/moat-edge", "--config", self.d + "/edge.toml"),
                                     stderr=open(self.d + "/edge.log", "ab"), start_new_session=True)

    def ask(self, request):
        """One answer of the agent's local socket, {} while it does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(10)
                s.connect(self.sock)
                s.sendall(json.dumps(request).encode() + b"\n")
                return json.loads(s.makefile().readline() or "{}")
        except OSError:
            return {}

    def log(self, what="agent"):
        return open(self.d + "/%s.log" % what, errors="replace").read()

    def end(self, p):
        if p and p.poll() is None:
            p.terminate()
            p.wait(90)

    def close(self):
        if self.agent and self.agent.poll() is None:
            try:
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(20)
                s.connect(self.sock)
                s.sendall(b'{"op":"stop-all","deadline_ms":5000}\n')
                s.recv(4096)
                self.agent.wait(60)
            except (OSError, subprocess.TimeoutExpired):
                pass
        for p in (self.edge, self.agent):
            if p and p.poll() is None:
                p.kill()
                p.wait()
        if self.place:
            self.place.close()


def node(name):
    return next((n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] == name), None)


def image():
    """The hello image with the test program beside it: (repository, digest)."""
    out = w.d + "/hello"
    sh(sys.executable, platform_kit.ROOT + "/examples/hello/build-image", out, "--hostname", HOST, "--compression", "none", "--tls", "openssl")
    blob = lambda digest: open(out + "/oci/blobs/sha256/" + digest.split(":")[1], "rb").read()
    index = json.load(open(out + "/oci/index.json"))
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    if "manifests" in manifest:
        manifest = json.loads(blob(manifest["manifests"][0]["digest"]))
    exe = w.d + "/testapp"
    sh("gcc", "-static", "-O1", "-o", exe, HERE + "/lib/testapp.c")
    store = imagekit.Store(w.d + "/src")
    layers = [blob(layer["digest"]) for layer in manifest["layers"]]
    digest = store.image(layers + [imagekit.tar(imagekit.entry("testapp", data=open(exe, "rb").read(), mode=0o755))],
                         config=json.loads(blob(manifest["config"]["digest"])).get("config") or {})
    registry.push(imagekit.layout(store, w.d + "/layout", "t", digest), "hello:t")
    return registry.host + "/hello:t", digest


def cli(*args, want=0, timeout=180, **kw):
    p = subprocess.run([BIN + "/moat", *args], env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml", NO_COLOR="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=timeout, cwd=w.d, **kw)
    assert p.returncode == want, "moat %s: %d %s %s" % (" ".join(args), p.returncode, p.stdout[-600:], p.stderr[-600:])
    return p.stdout


def curl(seconds=10):
    p = subprocess.run(front.argv("curl", "-sS", "--fail", "-m", str(seconds), "--cacert", w.d + "/hello/ca.pem", "--resolve", "%s:%d:[::1]" % (HOST, PORT),
                                  "https://%s:%d/" % (HOST, PORT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return p.returncode == 0 and p.stdout


# One TLS connection, a request every 50 ms until a line comes; pages and the longest time from request to page.
READ = r"""
import select, socket, ssl, sys
sys.path.insert(0, sys.argv[4])
import fair
host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
c = ssl.create_default_context(cafile=ca).wrap_socket(socket.create_connection(("::1", port), 60), server_hostname=host)
c.settimeout(60)
pages, worst = 0, 0
while True:
    t = fair.now()
    c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    got = b""
    while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < int(got.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
        part = c.recv(65536)
        if not part:
            sys.exit("the connection ended after %d pages" % pages)
        got += part
    pages, worst = pages + 1, max(worst, fair.now() - t)
    if pages == 1:
        print("begun", flush=True)
    if select.select([sys.stdin], [], [], 0.05)[0]:
        break
print(pages, "%.2f" % worst)
"""


# A new TLS connection and a page each time, until a line comes: how many came, and what went wrong.
LOAD = r"""
import json, select, socket, ssl, sys
host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ctx = ssl.create_default_context(cafile=ca)
pages, errors = 0, []
while True:
    try:
        with ctx.wrap_socket(socket.create_connection(("::1", port), 60), server_hostname=host) as c:
            c.settimeout(60)
            c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = b""
            while True:
                part = c.recv(65536)
                if not part:
                    break
                got += part
        if not got.startswith(b"HTTP/1.1 200 ") or b"hello" not in got.lower():
            raise ValueError("answer of %d bytes: %r" % (len(got), got[:80]))
        pages += 1
        if pages == 1:
            print("begun", flush=True)
    except (OSError, ValueError) as e:
        errors.append(repr(e))
    if select.select([sys.stdin], [], [], 0.05)[0]:
        break
print(json.dumps({"pages": pages, "errors": errors}))
"""


ASK = r"""
import socket, ssl, sys
address, ca, cert, line = sys.argv[1:5]
c = ssl.create_default_context(cafile=ca); c.check_hostname = False
if cert: c.load_cert_chain(cert)
try:
    patience = float(sys.argv[5]); s = c.wrap_socket(socket.create_connection((address, 5180), patience)); s.settimeout(patience); s.sendall(line.encode() + b"\n"); got = b""
    while True:
        part = s.recv(65536)
        if not part: break
        got += part
    print(got.decode())
except (ssl.SSLError, ConnectionError) as e:
    print("refused:", e)
except TimeoutError as e:
    print("silence:", e)
"""


def ask(cert, line, place=None, seconds=30):
    """What the agent of `back` says at port 5180 to who shows @cert (None: nothing)."""
    argv = [sys.executable, "-c", ASK, node("back")["overlay_ipv6"], w.d + "/control/node-ca.crt", cert or "", line, str(seconds)]
    return subprocess.run(place.argv(*argv) if place else argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + 60).stdout


sh("mount", "-t", "tmpfs", "none", "/run")
os.makedirs("/run/wireguard")
sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", "10.78.0.1/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
boot = os.environ.get("MOAT_BOOT_DIR")
if not boot:
    boot = platform_kit.ROOT + "/build-bundle/boot"
    sh(platform_kit.ROOT + "/packaging/bundle/make-bundle", "--init", BIN + "/moat-init", "--out", boot, "--cache", platform_kit.ROOT + "/build-bundle/cache")
import tempfile  # noqa: E402
regdir = tempfile.mkdtemp(prefix="mt2.", dir="/var/tmp")
registry = imagekit.Registry(regdir)
w = kit.World(listen_nodes=CONTROL, nodes_address=CONTROL, agent_socket="/run/agent-of-control.sock", local_registries=[registry.host],
              insecure_registries=[registry.host], rate_limit_percent=300, vm_dns=DNS)
with open(w.d + "/cli.toml", "w") as f:
    f.write('api = "unix:%s"\ntoken_file = "%s/operator.token"\norg = "local"\nenv = "prod"\n' % (w.api, w.d))
other_registries = []
try:
    here, front, back = Machine("here", 1), Machine("front", 2), Machine("back", 3)
    other_registries = [m.place.popen("docker-registry", "serve", registry.config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for m in (front, back)]
    ref, digest = image()

    @case("the control plane's machine is in the mesh, two others join: one for the edge, one for work")
    def _():
        front.join("edge", "worker")
        back.join("worker")
        for m in (front, back):  # the host's firewall comes after the connection that asks for plans; what comes then must be heard all the same
            wait_for("the firewall of " + m.name, lambda: "network.loaded" in m.log(), 20)
        here.configure(node_id=agentkit.new_id("node"), control_socket=w.internal, admin_socket="/run/agent-of-control.sock", mesh_endpoints=[here.ip + ":51820"])
        here.start()
        local = wait_for("three nodes", lambda: len([n for n in w.ok("GET", "/v1/nodes")["items"] if n["health"] == "ready"]) == 3 and
                         [n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] not in ("front", "back")], 40)[0]
        for n in (local, node("front")):
            w.ok("POST", "/v1/nodes/%s/cordon" % n["id"], {"reason": "no work here"})
        for m, others in ((front, (back, here)), (back, (front, here))):
            for o in others:
                at = node(o.name)["overlay_ipv6"] if o.place else local["overlay_ipv6"]
                wait_for("%s reaches %s" % (m.name, o.name), lambda: meshkit.ping(m.place, node(m.name)["overlay_ipv6"], at, seconds=1), 12)

    @case("an edge of another node gets its configuration with a certificate of its own")
    def _():
        front.start_edge()
        wait_for("a configuration", lambda: '"control"' in front.log("edge") and "edge.config_applied" in front.log("edge"), 20)
        st = os.stat(front.d + "/keys/edge/node.pem")
        assert st.st_mode & 0o777 == 0o640 and st.st_gid == 65534, oct(st.st_mode)

    @case("a host that is not what it has to be takes nothing new, says why and what mends it, and comes back when it is mended or the operator accepts it")
    def _():
        global app, env, deploy
        back.end(back.agent)
        back.configure(host_accepted=[])
        back.start(files=4096)
        # its first heartbeats also say that it still tries its driver
        n = wait_for("out of placement, for this alone", lambda: (lambda n: n if n["conditions"] == ["host_nofile"] else None)(node("back")), 90)
        assert n["health"] == "degraded", n
        assert n["health_reason"] == "4096 descriptors: on the node, systemctl edit moat-agent: LimitNOFILE=1048576", n
        assert n["host_requirements"] == [{"item": "nofile", "finding": "4096 descriptors", "mend": "systemctl edit moat-agent: LimitNOFILE=1048576"}], n
        assert "nofile" in cli("node", "describe", "back") and "LimitNOFILE" in cli("node", "describe", "back")
        told = [e for e in w.ok("GET", "/v1/admin/events?limit=50&order=desc")["items"] if e["event_type"] == "node.health_changed" and e["aggregate_id"] == n["id"]]
        assert [e for e in told if "host_nofile" in e["payload"]["conditions"] and "4096" in e["payload"]["reason"]], told[:2]
        app, env = w.make_app("hello")
        text = platform_kit.manifest("hello", ref, ["/app/hello", "8443"], port=8443, hostname=HOST)
        r = w.ok("POST", app + "/releases", {"manifest": text, "image_digest": digest, "verify_image": False})["id"]
        deploy = w.ok("POST", env + "/deploys", {"release_id": r})["id"]
        wait_for("nowhere to place it", lambda: w.ok("GET", env + "/status")["processes"][0].get("reason") == "no_nodes_active", 30)
        assert not w.ok("GET", env + "/instances")["items"]
        doctor = [json.loads(x) for x in subprocess.run(back.argv(BIN + "/moat-agent", "--config", back.d + "/agent.toml", "ctl", "doctor"), stdout=subprocess.PIPE, text=True).stdout.splitlines()]
        assert [r["severity"] for r in doctor if r["check"] == "agent.nofile"] == ["fail"], doctor
        back.end(back.agent)
        back.configure()
        back.start(files=4096)
        n = wait_for("back in placement", lambda: (lambda n: n if n["health"] == "ready" else None)(node("back")), 90)
        assert n["conditions"] == [] and "host_requirements" not in n and "health_reason" not in n, n

    @case("a page comes through the edge of one node out of a VM on another")
    def _():
        global instance
        wait_for("success", lambda: w.ok("GET", env + "/deploys/" + deploy)["status"] == "succeeded", 60)
        opened = lambda m: m.place.run("nft", "list", "set", "inet", "moat", "edge_ports").count("elements = { 443 }")
        wait_for("the port of its route, open where an edge is", lambda: opened(front), 20)
        assert not opened(back)
        instance = w.ok("GET", env + "/instances")["items"][0]
        assert instance["node_id"] == node("back")["id"], instance
        page = wait_for("the page", curl, 15)
        assert "hello" in page.lower(), page[:200]

    @case("moat net rotate-keys: another key for two nodes, one at a time, a kill -9 in it, under one running connection")
    def _():
        def keys(name):
            return w.pg.sql("SELECT wireguard_public_key FROM moat_views.nodes_view WHERE name = '%s'" % name)
        old = {n: keys(n) for n in ("front", "back")}
        reader = subprocess.Popen(front.argv(sys.executable, "-c", READ, HOST, str(PORT), w.d + "/hello/ca.pem", HERE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        moat = None
        try:
            assert reader.stdout.readline() == "begun\n"
            moat = subprocess.Popen([BIN + "/moat", "net", "rotate-keys", "back", "front", "--reason", "test", "--lead", "2s", "--wait", "--json"],
                                    env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml", NO_COLOR="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            first = wait_for("the first rotation", lambda: w.pg.sql("SELECT name FROM moat_views.nodes_view WHERE next_public_key IS NOT NULL"), 20)
            victim = {"back": back, "front": front}[first]  # one name: the other waits
            victim.agent.kill()
            victim.agent.wait()
            victim.start()
            out, err = moat.communicate(timeout=300)
            assert moat.returncode == 0, (out, err)
            got = {n["name"]: (n["state"], n["key_generation"]) for n in json.loads(out)["data"]["nodes"]}
            assert got == {"back": ("rotated", 2), "front": ("rotated", 2)}, got
            said, _ = reader.communicate("end\n", timeout=120)
        finally:
            for p in (reader, moat):
                if p and p.poll() is None:
                    p.kill()
                    p.wait()
        pages, stall = said.split()
        assert int(pages) > 10 and float(stall) < 8, said
        print("# %s pages in one connection, longest wait %s s" % (pages, stall), flush=True)
        for m in (front, back):
            on = m.place.run("wg", "show", "wg-moat", "public-key").strip()
            assert on == keys(m.name) != old[m.name], (m.name, on)
            wait_for("the key's file in its place", lambda: not os.path.exists(m.d + "/keys/wg.key.next"), 20)
        wait_for("the other's new key alone", lambda: old["back"] not in front.place.run("wg", "show", "wg-moat", "peers"), 20)
        wait_for("an echo over it", lambda: meshkit.ping(front.place, node("front")["overlay_ipv6"], node("back")["overlay_ipv6"]), 20)

    @case("a rotation that nobody ends is taken back; its key is spent, and the next one is another")
    def _():
        now = w.pg.sql("SELECT wireguard_public_key FROM moat_views.nodes_view WHERE name = 'back'")
        back.agent.kill()
        back.agent.wait()
        try:
            spent = meshkit.keypair()[1]
            from_back = ssl.create_default_context(cafile=w.d + "/control/node-ca.crt")
            from_back.check_hostname = False
            from_back.load_cert_chain(back.d + "/keys/node.pem")
            import http.client
            c = http.client.HTTPSConnection(*CONTROL.split(":"), context=from_back, timeout=20)
            c.request("POST", "/internal/v1/nodes/self/wg-key", json.dumps({"public_key": spent}), {"Content-Type": "application/json"})
            assert c.getresponse().status == 202
            w.pg.sql("UPDATE moat_views.nodes_view SET cutover_unix_ms = (extract(epoch FROM now()) * 1000)::bigint - 239000 WHERE name = 'back'")
            wait_for("taken back", lambda: w.pg.sql("SELECT next_public_key IS NULL AND wireguard_public_key = '%s' AND '%s' = ANY (retired_keys)"
                                                    " FROM moat_views.nodes_view WHERE name = 'back'" % (now, spent)) == "t", 20)
        finally:
            back.start()
        # its health never changed: what shows that this process is there is the guest, connected to it again
        wait_for("the guest", lambda: back.ask({"op": "describe", "instance_id": instance["id"]}).get("guest_connected"), 30)
        wait_for("the page", curl, 20)

    @case("a cut between two nodes alone: net verify names the pair within a minute, the edge there answers without a backend, and both mend by themselves")
    def _():
        def verify():
            p = subprocess.run([BIN + "/moat", "net", "verify", "--json"], env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml"), stdout=subprocess.PIPE, text=True, timeout=120)
            return p.returncode, {tuple(sorted((x["a"], x["b"]))): x for x in json.loads(p.stdout)["data"]["pairs"]}
        wait_for("all pairs are well", lambda: verify()[0] == 0, 30)
        front.place.run("nft", "-f", "-", input=("table inet cut {\n chain i {\n  type filter hook input priority -10\n  ip saddr %s udp dport 51820 drop\n }\n"
                                                 " chain o {\n  type filter hook output priority -10\n  ip daddr %s udp dport 51820 drop\n }\n}\n" % (back.ip, back.ip)).encode())
        t = fair.now()
        try:
            code, pairs = wait_for("the pair", lambda: verify()[1][("back", "front")]["state"] == "broken" and verify(), 60)
            took = fair.now() - t
            assert code == 1 and took < 60 and [k for k, x in pairs.items() if x["state"] != "ok"] == [("back", "front")] and "between the two" in pairs[("back", "front")]["cause"], pairs
            t = fair.now()
            assert not curl() and fair.now() - t < 8
        finally:
            front.place.run("nft", "delete", "table", "inet", "cut")
        wait_for("the page again", curl, 30)
        # the last minute's loss is still told
        wait_for("the pair speaks again", lambda: verify()[1][("back", "front")]["state"] in ("ok", "lossy"), 40)
        print("# named after %.0f s" % took, flush=True)

    @case("a slow link between two nodes: net verify tells its round trip and no other's, the page comes, nobody loses a node or a connection")
    def _():
        def trips():
            p = subprocess.run([BIN + "/moat", "net", "verify", "--json"], env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml"), stdout=subprocess.PIPE, text=True, timeout=120)
            return {tuple(sorted((x["a"], x["b"]))): x.get("rtt_ms", 0) for x in json.loads(p.stdout)["data"]["pairs"]}
        # what the cases before did to nodes and agents is over
        wait_for("three nodes with nothing to say", lambda: all(n["health"] == "ready" and all(c.startswith("host_") for c in n["conditions"]) for n in w.ok("GET", "/v1/nodes")["items"]), 90)
        before = w.pg.sql("SELECT count(*) FROM moat.events WHERE event_type = 'node.health_changed'")
        with meshkit.Slowed(front.place, node("front")["overlay_ipv6"], node("back")["overlay_ipv6"]):
            # on a busy machine a round trip of the others may take long once
            seen = wait_for("the slow pair, and no other that is", lambda: next((t for t in [trips()] if t[("back", "front")] >= 100 and all(ms < 100 for pair, ms in t.items() if "front" not in pair)), None), 60)
            wait_for("a page over the slow link", curl, 20)
        wait_for("as before", lambda: max(trips().values()) < 100, 60)
        assert w.pg.sql("SELECT count(*) FROM moat.events WHERE event_type = 'node.health_changed'") == before, "a slow node is called unwell"
        wait_for("the page", curl, 20)
        print("# round trips while slow: %s" % seen, flush=True)

    @case("logs of an instance on another node: history, follow, nothing twice")
    def _():
        out = cli("logs", "--app", "hello")
        assert out.strip(), "no line of the instance"
        p = subprocess.Popen([BIN + "/moat", "logs", "--app", "hello", "--follow"], env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml", NO_COLOR="1"), stdout=subprocess.PIPE, text=True)
        lines = []
        t = threading.Thread(target=lambda: [lines.append(x) for x in p.stdout], daemon=True)
        t.start()
        try:
            wait_for("the past", lambda: len(lines) >= len(out.splitlines()), 15)
        finally:
            p.terminate()
            p.wait(60)
        assert len(set(lines)) == len(lines), lines

    @case("exec in an instance on another node: output, exit code, and its end in the log")
    def _():
        out = cli("exec", instance["id"], "--app", "hello", "--", "/testapp", "exit", "7", "/etc/resolv.conf", want=7)
        assert "about to exit with 7" in out, out
        # its node names no resolver: those of the plan
        assert [line.split()[1] for line in out.splitlines() if line.startswith("nameserver ")] == DNS, out
        ended = wait_for("its end", lambda: [s for s in w.ok("GET", env + "/exec-sessions")["items"] if s["status"] == "ended"], 10)
        assert ended[0]["exit_code"] == 7, ended

    @case("who is not the control plane gets no answer at the agent's port, and the control plane's certificate only reads and execs")
    def _():
        logs = json.dumps({"op": "logs", "instance_id": instance["id"]})
        server = w.d + "/control-both.pem"
        with open(server, "w") as f:
            f.write(open(w.d + "/control/node-server.crt").read() + open(w.d + "/control/node-server.key").read())
        assert '"seq":1' in ask(server, logs), ask(server, logs)
        for op in ("stop-all", "rotate-key", "list", "doctor", "describe"):
            said = ask(server, json.dumps({"op": op, "instance_id": instance["id"], "deadline_ms": 1000}))
            assert '"permission_denied"' in said or '"denied"' in said, (op, said)
        for cert in (None, front.d + "/keys/node.pem", front.d + "/keys/edge/node.pem", back.d + "/keys/node.pem"):
            assert ask(cert, logs).startswith("refused"), (cert, ask(cert, logs))
        # and from a machine that is no gateway the firewall lets nothing in, whatever it shows
        said = ask(server, logs, front.place, 5)
        assert said.startswith("silence"), said
        wait_for("a line about it", lambda: "remote.refused" in back.log(), 20)
        assert back.agent.poll() is None

    @case("the agent away: logs say whose lines are missing, exec says so, and both are back with it")
    def _():
        back.agent.kill()
        back.agent.wait()
        try:
            t0 = fair.now()
            got = w.ok("GET", env + "/logs?limit=10")
            assert got["missing_nodes"] == [node("back")["id"]] and not got["items"] and fair.now() - t0 < 8, got
            assert "does not answer" in subprocess.run([BIN + "/moat", "exec", instance["id"], "--app", "hello", "--", "/testapp", "exit", "0"], stderr=subprocess.PIPE, text=True,
                                                       env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml"), timeout=120).stderr
            assert curl(60), "the VM does not serve while its agent is away"
        finally:
            back.start()
        wait_for("lines again", lambda: w.ok("GET", env + "/logs?limit=10")["items"], 20)
        wait_for("the guest", lambda: back.ask({"op": "describe", "instance_id": instance["id"]}).get("guest_connected"), 30)  # lines are the node's, exec is the guest's
        cli("exec", instance["id"], "--app", "hello", "--", "/testapp", "exit", "3", want=3)

    @case("without the control plane the edge serves; with it back it polls again")
    def _():
        w.kill_control()
        try:
            assert curl(60), "no page without the control plane"
            wait_for("noticed", lambda: "edge.control_away" in front.log("edge"), 20)
        finally:
            w.start_control()
        wait_for("back", lambda: "edge.control_back" in front.log("edge"), 20)

    def running():
        return [i for i in w.ok("GET", env + "/instances")["items"] if i["desired_state"] == "running"]

    def scale(n):
        w.ok("PUT", env + "/scale", {"processes": [{"process_type": "web", "desired": n}], "expected_version": w.ok("GET", env + "/scale")["resource_version"]})

    @case("a microVM on each of the three machines: each one's page comes through the edge")
    def _():
        local = [n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] not in ("front", "back")][0]["id"]
        for n in (local, node("front")["id"]):
            w.ok("POST", "/v1/nodes/%s/uncordon" % n, {"reason": "all of them"})
        scale(3)
        three = wait_for("three that are ready", lambda: len([i for i in running() if i["status"] == "ready"]) == 3 and running(), 90)
        assert len({i["node_id"] for i in three}) == 3, three
        seen = set()
        wait_for("a page of each", lambda: seen.update(i["id"] for page in [curl()] if page for i in three if i["id"] in page) or len(seen) == 3, 60)
        scale(1)
        for n in (local, node("front")["id"]):  # what stays is on the machine where the others look for it
            w.ok("POST", "/v1/nodes/%s/drain" % n, {"reason": "no work here"})
            wait_for("it is drained", lambda: w.ok("GET", "/v1/nodes/" + n)["drain"]["state"] == "complete", 90)
        left = wait_for("one is left", lambda: len(running()) == 1 and running()[0]["status"] == "ready" and running(), 60)
        assert left[0]["node_id"] == node("back")["id"], left

    @case("a node is drained under load, and the other one after it: the replacement comes first, no request fails")
    def _():
        global instance
        local = [n for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] not in ("front", "back")][0]["id"]
        w.ok("POST", "/v1/nodes/%s/uncordon" % local, {"reason": "work here too"})
        load = subprocess.Popen(front.argv(sys.executable, "-c", LOAD, HOST, str(PORT), w.d + "/hello/ca.pem"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert load.stdout.readline() == "begun\n"
            for leaves, stays in ((node("back")["id"], local), (local, node("back")["id"])):
                w.ok("POST", "/v1/nodes/%s/drain" % leaves, {"reason": "a new kernel"})
                wait_for("it is drained", lambda: w.ok("GET", "/v1/nodes/" + leaves)["drain"]["state"] == "complete", 90)
                instance = running()[0]
                assert len(running()) == 1 and instance["node_id"] == stays and instance["status"] == "ready", running()
                w.ok("POST", "/v1/nodes/%s/uncordon" % leaves, {"reason": "it has it"})
            said = json.loads(load.communicate("end\n", 180)[0])
        finally:
            load.kill()
            load.wait()
        print("# %d pages, %d failed" % (said["pages"], len(said["errors"])), flush=True)
        assert not said["errors"] and said["pages"] > 20, said

    @case("a machine dies with all that is on it: what it ran is replaced on another, the page is back")
    def _():
        lost = node("back")["id"]
        back.place.close()  # agent, VM, interfaces: all of it at once
        back.agent.wait()
        back.place = None
        wait_for("suspect", lambda: node("back")["health"] == "suspect", 60)
        assert [i["node_id"] for i in running()] == [lost], "a suspect node keeps what it runs"
        w.ok("POST", "/v1/nodes/%s/confirm-offline" % lost, {"reason": "it is on fire"})
        there = wait_for("the replacement", lambda: [i for i in running() if i["status"] == "ready" and i["node_id"] != lost], 60)
        assert len(there) == 1 == len(running()), running()
        gone = w.ok("GET", env + "/instances/" + instance["id"])
        assert (gone["node_id"], gone["desired_state"]) == (lost, "stopped"), gone
        wait_for("the page", curl, 30)

    @case("a disabled node is out: its edge gets nothing more, nothing is asked of its agent")
    def _():
        w.ok("POST", "/v1/nodes/%s/disable" % node("back")["id"], {"reason": "stolen"})
        got = w.ok("GET", env + "/logs?limit=10&instance_id=" + instance["id"])
        assert got["missing_nodes"] == [instance["node_id"]], got
        w.ok("POST", "/v1/nodes/%s/disable" % node("front")["id"], {"reason": "stolen"})
        wait_for("the edge is refused", lambda: front.log("edge").count("edge.control_away") >= 2, 10)
finally:
    if not all(kit.results):
        for m in Machine.all:
            for what in ("agent", "edge"):
                if os.path.exists(m.d + "/%s.log" % what):
                    print("--- %s %s\n%s" % (m.name, what, "\n".join(x[:300] for x in m.log(what).splitlines()[-12:])))
        print("--- control\n" + open(w.d + "/control.log").read()[-2500:])
    for m in Machine.all:
        m.close()
    w.close()
    registry.stop()
    for r in other_registries:
        r.kill()
        r.wait()
    subprocess.run(["rm", "-rf", regdir])
kit.finish()
