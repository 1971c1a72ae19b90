# SPDX-License-Identifier: Apache-2.0
"""Nodes of a mesh as namespaces: each with its own network, its own /run/wireguard, a link of its own to one router.

Not a test itself. Real: moat-agent, wireguard-go, nft, routes, packets. Stood in: the control plane (agentkit.Control hands each
agent its plan) and the machines. The router forwards between the links, so that a pair can be cut, a link made narrow.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile

import agentkit as kit
import fair
from agentkit import sh, wait_for

BIN = kit.BIN
P = "fd00:1:2"  # the cluster's prefix


def program(name):
    return shutil.which(name) or next((d + name for d in ("/usr/sbin/", "/sbin/", "/usr/bin/") if os.path.exists(d + name)), None)


def missing():
    """why no mesh can be made here, or None"""
    for name in ("wg", "wireguard-go", "nft", "nsenter", "unshare"):
        if not program(name):
            return "%s is not installed" % name
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    return None


def keypair():
    private = sh("wg", "genkey").strip()
    return private, subprocess.run(["wg", "pubkey"], input=private.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().strip()


ECHO = r"""
import select, socket, struct, sys
source, target, size, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, 62, 1)  # IPV6_DONTFRAG
s.bind((source, 0))
try:
    s.sendto(struct.pack("!BBHHH", 128, 0, 0, 4711, 1) + bytes(size - 48), (target, 0))
except OSError as e:
    sys.exit(str(e))
while select.select([s], [], [], seconds)[0]:
    data, who = s.recvfrom(65536)
    if data[0] == 129 and data[4:6] == struct.pack("!H", 4711) and len(data) == size - 40:
        sys.exit(0)
sys.exit("no reply")
"""


# The same to each of many addresses, again and again for so many seconds to those that have not answered; those that never did are told.
ECHO_ALL = r"""
import socket, struct, sys, time
source, size, seconds, left = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), set(sys.argv[4:])
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, 62, 1)  # IPV6_DONTFRAG
s.bind((source, 0))
end, again = time.monotonic() + seconds, 0
while left and time.monotonic() < end:
    if time.monotonic() >= again:
        again = time.monotonic() + 2
        for target in left:
            try: s.sendto(struct.pack("!BBHHH", 128, 0, 0, 4713, 1) + bytes(size - 48), (target, 0))
            except OSError: pass
    s.settimeout(0.2)
    try: data, who = s.recvfrom(size)
    except OSError: continue
    if data[0] == 129 and len(data) == size - 40 and data[4:6] == struct.pack("!H", 4713): left.discard(who[0])
print(*left)
"""


def ping(place, source, target, size=104, seconds=2):
    """one ICMPv6 echo of @size bytes with the IP header, never fragmented here; no package for it is needed"""
    return place.ok("python3", "-c", ECHO, source, target, str(size), str(seconds))


WINDOW = r"""
import socket, struct, sys, time
source, target, outstanding = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.bind((source, 0))
s.settimeout(5)
send = lambda: s.sendto(struct.pack("!BBHHH", 128, 0, 0, 4712, 1) + bytes(1372), (target, 0))
for _ in range(outstanding):
    send()
end = time.monotonic() + 120
while time.monotonic() < end:
    try:
        data = s.recv(65536)
    except TimeoutError:
        data = None
    if data is None or (data[0] == 129 and data[4:6] == struct.pack("!H", 4712)):
        send()
"""


class Slowed:
    """Inside `with`: what leaves @place by its link goes at 1 Mbit/s, and so many echoes of full size from @source to @target are on their way
    all the time that everything else waits for about a quarter of a second. Nothing is lost by it."""

    def __init__(self, place, source, target):
        self.place, self.source, self.target = place, source, target

    def __enter__(self):
        self.place.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "4kb", "latency", "3s")
        self.load = self.place.popen("python3", "-c", WINDOW, self.source, self.target, "20")
        return self

    def __exit__(self, *_):
        self.load.kill()
        self.load.wait()
        self.place.run("tc", "qdisc", "del", "dev", "eth0", "root")


class Place:
    """A network and mount namespace that lives until it is closed."""

    def __init__(self):
        self.proc = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", "mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && "
                                      "mount -t sysfs none /sys 2>/dev/null; ip link set lo up && echo ready && exec sleep 100000"],
                                     stdout=subprocess.PIPE)
        if self.proc.stdout.readline() != b"ready\n":
            raise AssertionError("no namespace")

    def argv(self, *argv):
        return ["nsenter", "-t", str(self.proc.pid), "-m", "-n"] + list(argv)

    def run(self, *argv, check=True, **kw):
        r = subprocess.run(self.argv(*argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **kw)
        if check and r.returncode != 0:
            raise AssertionError("%s: %s" % (" ".join(argv), r.stdout.decode(errors="replace")))
        return r.stdout.decode(errors="replace")

    def ok(self, *argv):
        return subprocess.run(self.argv(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def popen(self, *argv, **kw):
        return subprocess.Popen(self.argv(*argv), **kw)

    def pids(self):
        mine, out = os.readlink("/proc/%d/ns/net" % self.proc.pid), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink("/proc/%s/ns/net" % pid) == mine:
                    out.append(int(pid))
            except OSError:
                pass
        return out

    def close(self):
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.proc.wait()


class Control(kit.Control):
    """Hands one node its plan; what the mesh is made of comes from the cluster."""

    def __init__(self, path, node, cluster):
        self.node, self.cluster = node, cluster
        self.answers = {}  # path to (status, body) of further posts
        super().__init__(path, node.node_id)

    def plan(self):
        p = super().plan()
        p["cluster_id"] = self.cluster.cluster_id
        p["network"] = self.cluster.network(self.node)
        return p


class Node:
    def __init__(self, cluster, number, roles):
        self.cluster, self.number, self.roles = cluster, number, roles
        self.place = Place()
        self.node_id = kit.new_id("node")
        self.dir = os.path.join(cluster.dir, "n%d" % number)
        os.makedirs(os.path.join(self.dir, "run"))
        os.makedirs(os.path.join(self.dir, "boot"))
        os.makedirs(os.path.join(self.dir, "keys"), 0o700)
        private, self.public = keypair()
        self.write_key("wg.key", private)
        self.rotation = None
        self.overlay = "%s::%x" % (P, number)
        self.prefix = "%s:1:%x::/80" % (P, number)
        self.underlay = "2a00:fe:0:%x::2" % number
        self.endpoints = ["[%s]:51820" % self.underlay]
        self.extra, self.proc = {}, None
        self.log_path = os.path.join(self.dir, "agent.log")
        self.dev = "n%d" % number
        w = cluster.wire
        w.run("ip", "link", "add", self.dev, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
        for place, dev, end in ((w, self.dev, 1), (self.place, "eth0", 2)):
            place.run("ip", "-6", "addr", "add", "2a00:fe:0:%x::%d/64" % (number, end), "dev", dev, "nodad")
            place.run("ip", "link", "set", dev, "up")
        self.place.run("ip", "-6", "route", "add", "default", "via", "2a00:fe:0:%x::1" % number)
        self.control = Control(os.path.join(self.dir, "run/internal.sock"), self, cluster)

    def write_key(self, name, private):
        path = os.path.join(self.dir, "keys", name)
        with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(private + "\n")

    def peer(self):
        p = {"node_id": self.node_id, "public_key": self.public, "key_generation": 1, "roles": self.roles, "endpoints": self.endpoints,
             "allowed_ips": [self.overlay + "/128", self.prefix], "keepalive": 25}
        if self.rotation:
            p["rotation"] = self.rotation
        return p

    # -- agent

    def start(self, **conf):
        keys = dict({"node_id": self.node_id, "data_dir": self.dir, "vmm": "qemu", "host_firewall": "full", "bin_dir": BIN, "log_level": "debug",
                     "worker_user": "nobody", "heartbeat_ms": 500, "egress_mode": "routed", "drift_seconds": 5}, **conf)
        path = os.path.join(self.dir, "agent.toml")
        with open(path, "w") as f:
            f.write("".join("%s = %s\n" % (k, json.dumps(v)) for k, v in keys.items() if not isinstance(v, dict)))
            for name, table in keys.items():
                if isinstance(table, dict):
                    f.write("[%s]\n" % name + "".join("%s = %s\n" % (k, json.dumps(v)) for k, v in table.items()))
        with open(self.log_path, "ab") as log:
            self.proc = self.place.popen(os.path.join(BIN, "moat-agent"), "--config", path, stderr=log, stdout=log, start_new_session=True)
        return self

    def ask(self, request):
        """one op of the agent's local socket"""
        return kit.World.ask(self, request, 15)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def end(self):
        self.proc.terminate()
        self.proc.wait(90)

    def events(self, name):
        with open(self.log_path, errors="replace") as f:
            rows = [json.loads(line) for line in f if line.startswith("{") and line.endswith("\n")]  # one that is being written is of the next look
        return [r for r in rows if r["msg"] == name]

    def tail(self, n=8):
        with open(self.log_path, errors="replace") as f:
            return " | ".join(line.strip()[:300] for line in f.readlines()[-n:])

    def applied(self, revision=None, seconds=20):
        revision = revision or self.cluster.revision
        try:
            wait_for("revision %d" % revision, lambda: (self.mesh() or {}).get("revision") == revision, seconds)
        except AssertionError as e:
            raise AssertionError("%s; mesh %s; %s" % (e, self.mesh(), self.tail())) from None

    def mesh(self):
        """`mesh` of the newest heartbeat"""
        with self.control.lock:
            return self.control.beats[-1].get("mesh") if self.control.beats else None

    def sees(self, other):
        """what the newest heartbeat says of another node"""
        return next((p for p in (self.mesh() or {}).get("peers", []) if p["node_id"] == other.node_id), {})

    # -- what is there

    def ping(self, other, size=None, seconds=2):
        return ping(self.place, self.overlay, other.overlay, size or 104, seconds)

    def peers(self):
        """public key to (endpoint, allowed, latest handshake)"""
        rows = [line.split("\t") for line in self.place.run("wg", "show", "wg-moat", "dump").splitlines()[1:]]
        return {r[0]: (r[2], sorted(r[3].split(",")), int(r[4])) for r in rows}

    def routes(self):
        return sorted(l.split()[0] for l in self.place.run("ip", "-6", "route", "show", "dev", "wg-moat").splitlines() if "metric 50" in l)

    def go_pids(self):
        out = []
        for pid in self.place.pids():
            try:
                with open("/proc/%d/comm" % pid) as f:
                    if f.read().strip() == "wireguard-go":
                        out.append(pid)
            except OSError:
                pass
        return out

    def close(self):
        if self.proc and self.proc.poll() is None:
            self.kill()
        self.control.stop()
        self.place.close()


class Cluster:
    def __init__(self, name, n, roles=()):
        self.dir = tempfile.mkdtemp(prefix="mt-mesh-%s-" % name, dir=os.environ.get("MOAT_TEST_TMP", "/var/tmp"))
        os.chmod(self.dir, 0o755)
        self.cluster_id = "clu-" + kit.ulid()
        self.revision, self.extra = 1, {}
        self.wire = Place()
        self.wire.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        self.wire.run("nft", "-f", "-", input=b"table inet wire { set cut { type ipv6_addr . ipv6_addr; }\n"
                      b" chain f { type filter hook forward priority 0; ip6 saddr . ip6 daddr @cut drop; }\n}\n")
        self.nodes = [Node(self, i + 1, list(roles[i]) if i < len(roles) else ["worker"]) for i in range(n)]

    def network(self, node):
        peers = sorted((n.peer() for n in self.nodes if n is not node), key=lambda p: p["node_id"])
        mesh = {"revision": self.revision, "listen_port": 51820, "public_key": node.public, "key_generation": 1}
        if node.rotation:
            mesh["rotation"] = node.rotation
        net = {"mtu": 1420, "cluster_prefix": P + "::/48", "overlay_ipv6": node.overlay, "instance_prefix": node.prefix, "dns": [],
               "edges": [n.overlay for n in self.nodes if "edge" in n.roles], "gateways": [n.overlay for n in self.nodes if "control" in n.roles],
               "egress_mode": "routed", "mesh": mesh, "peers": peers}
        net.update(self.extra)
        net.update(node.extra)
        return net

    def publish(self, *nodes):
        """a new revision, to these nodes or all"""
        self.revision += 1
        for n in nodes or self.nodes:
            n.control.publish()

    def cut(self, a, b, on=True):
        pairs = "{ %s . %s, %s . %s }" % (a.underlay, b.underlay, b.underlay, a.underlay)
        self.wire.run("nft", "add" if on else "delete", "element", "inet", "wire", "cut", pairs)

    def close(self):
        for n in self.nodes:
            n.close()
        self.wire.close()
        if not os.environ.get("MOAT_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)


def wait_mesh(nodes, seconds=20):
    """until every node reaches every other"""
    end = fair.now() + fair.limit(seconds)
    for a in nodes:
        for b in nodes:
            while a is not b and not a.ping(b, seconds=1):
                if fair.now() > end:
                    raise AssertionError("%d does not reach %d: %s; %s" % (a.number, b.number, a.place.run("wg", "show", check=False)[:900], a.tail(4)))
