#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may reach whom: the isolation matrix of a mesh of four nodes, sent packet by packet and compared with the table below.

Real: agents, mesh (wireguard-go), the table `inet moat`, taps, routes, packets. Stood in: where QEMU would be there is a program that runs no
guest (tests/tools/standin_vm.c); the guest is a namespace, and this process carries frames between its link and the tap that the agent made, as
QEMU would. So is the rest of the internet. Every row is sent before anything happens, with the agents killed, with the next agents, which adopt
the VMs, and after the table was deleted and loaded anew.
COST 60 s, 14 s of processor."""
import contextlib
import ctypes
import fcntl
import json
import os
import re
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import meshkit as kit  # noqa: E402
from agentkit import STANDIN, World, make_bundle, new_id, stand_in, ulid, wait_for  # noqa: E402
from imagekit import Report, want  # noqa: E402

SERVE = r"""
import socket, sys, threading
def tcp(port):
    s = socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("::", port)); s.listen(64)
    while True:
        c, _ = s.accept(); c.sendall(b"hi"); c.close()
def udp(port, at):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind((at, port))
    while True:
        d, who = s.recvfrom(2048)
        with open(sys.argv[1], "ab") as f: f.write(d + b"\n")
        try: s.sendto(d, who)
        except OSError: pass
for p in (25, 53, 80, 443, 5000, 5180, 8080, 9090, 9463, 12345, 23456): threading.Thread(target=tcp, args=(p,), daemon=True).start()
for at in sys.argv[2:]: threading.Thread(target=udp, args=(int(at.partition("@")[2] or 7777), at.partition("@")[0]), daemon=True).start()
print("ready", flush=True); threading.Event().wait()
"""

PROBE = r"""
import json, select, socket, struct, sys, threading
jobs, out = json.load(sys.stdin), {}
def one(i, key, kind, target, port, source, scope, seconds):
    try:
        at = (target, port, 0, socket.if_nametoindex(scope) if scope else 0)
        if kind == "tcp":
            s = socket.socket(socket.AF_INET6); s.settimeout(seconds)
            if source: s.bind((source, 0))
            s.connect(at); out[key] = s.recv(2) == b"hi"
        elif kind == "udp":
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(seconds)
            s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: a source that is not ours
            if source: s.bind((source, 0))
            s.sendto(key.encode(), at); out[key] = s.recv(2048) == key.encode()
        else:
            s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            if source: s.bind((source, 0))
            # A raw socket hears every answer that comes to this place, before its bind those to other addresses too: ours is the one with our key.
            s.sendto(struct.pack("!BBHHH", 128, 0, 0, 3000 + i, 1) + key.encode(), (target, 0) + at[2:])
            while select.select([s], [], [], seconds)[0]:
                d, _ = s.recvfrom(2048)
                if d[0] == 129 and d[8:] == key.encode(): out[key] = True; break
    except OSError as e:
        out[key] = False
ts = [threading.Thread(target=one, args=(i, *j)) for i, j in enumerate(jobs)]
[t.start() for t in ts]; [t.join() for t in ts]
print(json.dumps(out))
"""

# One UDP flow from one port: for each line of stdin a datagram; 1 when its answer comes within the seconds that the line says.
FLOW = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.connect((sys.argv[1], 7777))
for n, seconds in enumerate(sys.stdin):
    said = b"flow %d" % n
    s.settimeout(float(seconds))
    try:
        s.send(said)
        while s.recv(99) != said: pass
        print(1, flush=True)
    except OSError: print(0, flush=True)
"""

# As many datagrams as told, as fast as that goes, from as many ports; told are the answers and the seconds from the first one sent to the last one answered.
FLOOD = r"""
import json, select, socket, sys, time
target, (port, ports, count, patience, first) = sys.argv[1], map(int, sys.argv[2:])
ss = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for i in range(ports)]
for i, s in enumerate(ss): s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22); s.bind(("::", first + i)); s.connect((target, port))  # SO_RCVBUFFORCE
answers, begin = 0, time.monotonic()
last = begin
def hear(seconds):
    global answers, last
    for s in select.select(ss, [], [], seconds)[0]:
        try:
            while s.recv(9): answers, last = answers + 1, time.monotonic()
        except OSError: pass
for i in range(count):
    try: ss[i % ports].send(b"?")
    except OSError: pass
    if i % 20 == 19: hear(0.001)
while answers < count and time.monotonic() - last < patience: hear(0.1)
print(json.dumps([answers, last - begin]))
"""

# What passes may take its time on a busy machine; what does not is waited for this long, and looked for at its target once more at the end.
PASSES, DOES_NOT = 20, 1.5
NOTHING = dict(tcp=False, other=False, udp=False, icmp6=False)
EVERYTHING = dict(tcp=True, other=True, udp=True, icmp6=True)
DECLARED = dict(NOTHING, tcp=True)

# source, target, what passes. tcp is port 8080, which every VM declares; other is 9090, which none does; `spoofed` is sent with the
# address of another VM and never passes. A dict with ports instead names single TCP ports.
MATRIX = [
    ("A", "B same env, same node", NOTHING), ("A", "C other tenant, same node", NOTHING),
    ("A", "D same env, other node", NOTHING), ("A", "E other tenant, other node", NOTHING),
    ("E other tenant, other node", "A", NOTHING), ("C other tenant, same node", "A", NOTHING),
    ("B same env, same node", "A", NOTHING), ("D same env, other node", "A", NOTHING), ("B same env, same node", "C other tenant, same node", NOTHING),
    ("B same env, same node", "edge, overlay", NOTHING), ("E other tenant, other node", "control, overlay", NOTHING), ("registry", "A", NOTHING),
    ("registry", "D same env, other node", NOTHING), ("control", "D same env, other node", NOTHING), ("outside", "B same env, same node", NOTHING),
    ("A", "own node, overlay", NOTHING), ("A", "own node, underlay", NOTHING), ("A", "own node, fe80::1", dict(NOTHING, icmp6=True)),
    ("A", "other node, overlay", NOTHING), ("A", "other node, underlay", NOTHING),
    ("A", "edge, overlay", NOTHING), ("A", "edge, underlay", NOTHING), ("A", "edge, underlay", {443: True, 80: True, 5180: False}),
    ("A", "control, overlay", NOTHING), ("A", "control, overlay", {5180: False, 443: False}), ("A", "control, underlay", {5180: False, 443: True}),
    ("A", "control, underlay", NOTHING), ("A", "registry (control's underlay)", NOTHING), ("A", "registry (control's underlay)", {5000: False}),
    ("A", "metadata", NOTHING), ("A", "metadata", {80: False}),
    ("A", "private IPv4 behind a NAT64", NOTHING), ("A", "private IPv4 behind a NAT64", {443: False}), ("A", "public IPv4 behind a NAT64", {443: True}),
    ("A", "resolver", {53: True, 443: False}), ("D same env, other node", "resolver", {53: True, 8080: False}), ("edge", "resolver", {53: False}),
    ("outside", "resolver", {53: False}), ("control", "own node, overlay", {53: False}), ("A", "own node, overlay", {53: False}),
    ("A", "outside", EVERYTHING), ("A", "outside", {25: False, 443: True}), ("E other tenant, other node", "outside", EVERYTHING),
    ("edge", "A", DECLARED), ("edge", "D same env, other node", DECLARED), ("edge", "E other tenant, other node", DECLARED),
    ("control", "A", NOTHING), ("other node", "A", NOTHING), ("own node", "A", DECLARED), ("outside", "A", NOTHING),
    ("outside", "own node, overlay", NOTHING),
    ("edge", "own node, overlay", dict(NOTHING, icmp6=True)), ("control", "own node, overlay", {5180: True, 9090: False}),
    ("edge", "own node, overlay", {5180: False, 9463: True}), ("other node", "own node, overlay", {9463: False}), ("A", "own node, overlay", {9463: False}),
    ("outside", "own node, underlay", {9463: False, 12345: False}), ("outside", "edge, underlay", {12345: True, 9090: False}), ("other node", "edge, overlay", {12345: False}),
    ("outside", "own node, underlay", {23456: True}), ("other node", "own node, overlay", {23456: False}), ("A", "own node, underlay", {23456: False}), ("A", "own node, overlay", {23456: False}), ("other node", "own node, overlay", {5180: False}),
]

# And all others of (VM, its neighbours, nodes, edge, control, registry, outside) by each of them. C sends to VMs alone: what is counted of one that
# tries nothing else is asked of it below. What a host itself sends to the outside no rule of ours is about.
ECHO = dict(NOTHING, icmp6=True)
VMS = ("A", "B same env, same node", "C other tenant, same node", "D same env, other node", "E other tenant, other node")


def everybody():
    for vm in VMS:
        own, other = ("own node", "other node") if vm[0] in "ABC" else ("other node", "own node")
        yield from ((vm, to, NOTHING) for to in VMS if to != vm)
        if vm[0] != "C":
            yield from ((vm, to + at, NOTHING) for to in (own, other, "edge", "control") for at in (", overlay", ", underlay"))
            yield from ((vm, "registry (control's underlay)", NOTHING), (vm, "registry (control's underlay)", {5000: False}), (vm, "control, overlay", {5180: False}),
                        (vm, "own node, fe80::1", ECHO), (vm, "metadata", NOTHING), (vm, "outside", EVERYTHING), (vm, "outside", {25: False}))
        yield from ((own, vm, DECLARED), (other, vm, NOTHING), ("edge", vm, DECLARED), ("control", vm, NOTHING), ("registry", vm, NOTHING), ("outside", vm, NOTHING))
    for to in ("own node", "other node", "edge", "control"):
        yield from ((at, to + ", overlay", ECHO) for at in ("own node", "other node", "edge", "control") if at != to)
        yield from ((at, to + ", overlay", {5180: at == "control"}) for at in ("own node", "other node", "edge", "control") if at != to)
        yield from (("registry", to + ", overlay", NOTHING), ("outside", to + ", overlay", NOTHING), ("outside", to + ", underlay", ECHO), ("outside", to + ", underlay", {5180: False}))


MATRIX += [row for row in everybody() if row not in MATRIX and not (row[0] == "registry" and row[1].startswith("control"))]

# The same once A, B and D are of one environment with private_network, and the sets say so.
NEIGHBOURS = ("A", "B same env, same node", "D same env, other node")
PRIVATE = [(a, b, DECLARED) for a in NEIGHBOURS for b in NEIGHBOURS if a != b] + [
    ("A", "C other tenant, same node", NOTHING), ("C other tenant, same node", "A", NOTHING), ("A", "E other tenant, other node", NOTHING),
    ("E other tenant, other node", "A", NOTHING), ("E other tenant, other node", "D same env, other node", NOTHING), ("A", "edge, overlay", NOTHING),
    ("other node", "A", NOTHING), ("edge", "A", DECLARED), ("A", "own node, overlay", NOTHING),
    ("A", "outside", EVERYTHING)]


RESOLVER = "%s:2::53" % kit.P


class Cables:
    """Frames between taps and the namespaces that are the guests behind them, as QEMU carries them."""

    def __init__(self):
        self.ends, self.over = selectors.DefaultSelector(), False
        self.thread = threading.Thread(target=self.carry, daemon=True)

    def tap(self, place, name):
        """One end of the tap @name of a namespace, with the flags that the agent gives it."""
        def there():
            with open("/proc/%d/ns/net" % place.proc.pid) as ns:
                if ctypes.CDLL(None, use_errno=True).setns(ns.fileno(), 0x40000000) == 0:
                    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000))  # TUNSETIFF: tap, no protocol, vnet header
                    got.append(fd)
        got = []
        t = threading.Thread(target=there)  # a thread has a network namespace of its own to enter
        t.start()
        t.join()
        want(got, "no end of the tap " + name)
        return got[0]

    def connect(self, a, b):
        self.ends.register(a, selectors.EVENT_READ, b)
        self.ends.register(b, selectors.EVENT_READ, a)

    def carry(self):
        while not self.over:
            for key, _ in self.ends.select(0.5):
                try:
                    os.write(key.data, os.read(key.fd, 65536))
                except OSError:
                    pass  # a queue is full, or the other end is not up: a frame is lost

    def close(self):
        self.over = True
        if self.thread.is_alive():
            self.thread.join()
        for fd in list(self.ends.get_map()):
            os.close(fd)


class Suite:
    # name, node, slot, environment
    VMS = [("A", 1, 1, "one"), ("B same env, same node", 1, 2, "one"), ("C other tenant, same node", 1, 3, "two"), ("D same env, other node", 2, 1, "one"),
           ("E other tenant, other node", 2, 2, "two")]

    def __init__(self):
        self.c = kit.Cluster("iso", 4, [["worker"], ["worker"], ["edge"], ["control"]])
        self.n1, self.n2, self.n3, self.n4 = self.c.nodes
        self.with_vms = (self.n1, self.n2)
        self.places, self.addresses, self.vms, self.servers, self.registries = {}, {}, {}, [], []
        self.w, self.cables = World("isolation"), Cables()  # its registry and its image
        self.w.cgroup = "moat-%d" % os.getpid()

    def start(self, *nodes, **more):
        for n in nodes:
            if n in self.with_vms:
                n.start(egress_mode="nat66", resolver=RESOLVER, cgroup_parent="%s/%d" % (self.w.cgroup, n.number), reserve={"overhead_mib": 16, "memory_bytes": 1 << 29}, listen_metrics="[::1]:9464", metrics_scrapers=[self.n3.overlay],
                        image={"local_registries": [self.w.registry.host], "insecure_registries": [self.w.registry.host]}, **stand_in(os.path.join(self.c.dir, "programs")), **more)
            else:
                n.start(firewall_open=["22", "80", "443", "10000-29999"])

    def want_vms(self):
        with open(os.path.join(self.w.dir, "testapp"), "wb") as f:
            f.write(b"nobody runs it")
        image = self.w.push()
        ids = {"one": [new_id("org"), new_id("app"), new_id("env")], "two": [new_id("org"), new_id("app"), new_id("env")]}
        self.private = []
        for name, number, slot, of in self.VMS:
            node = self.c.nodes[number - 1]
            address = "%s:1:%x::%x" % (kit.P, number, slot)
            wl = self.w.workload(image, memory=96, network={"overlay_ipv6": address, "ports": [{"name": "web", "port": 8080, "protocol": "tcp"}]},
                                 **dict(zip(("org_id", "app_id", "env_id"), ids[of])))
            node.control.assignments[wl["instance_id"]] = {"assignment_id": ulid(), "instance_id": wl["instance_id"], "generation": 1, "desired_state": "running",
                                                           "drain_delay_seconds": 0, "workload": wl}
            self.vms[name], self.addresses[name] = (node, wl["instance_id"]), (address, None)
            if of == "one":
                self.private.append({"env_id": wl["env_id"], "address": address, "ports": [8080]})

    def guest(self, name):
        """The namespace that is the guest behind the tap of an instance."""
        node, instance = self.vms[name]
        node.control.wait_status(instance, "starting")  # it is ready when its port answers
        address, place = self.addresses[name][0], kit.Place()
        self.places[name] = place
        tap = json.loads(node.place.run("ip", "-j", "-6", "route", "show", address))[0]["dev"]
        mac = next(x["lladdr"] for x in json.loads(node.place.run("ip", "-j", "-6", "neigh", "show", "dev", tap)) if x["dst"] == address)
        self.cables.connect(self.cables.tap(node.place, tap), self.cables.tap(place, "eth0"))
        place.run("ip", "link", "set", "eth0", "address", mac, "mtu", "1420", "up")
        place.run("ip", "-6", "addr", "add", address + "/128", "dev", "eth0", "nodad")
        place.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")

    def processes(self):
        """Instance to the processes of its VM, as its agent knows them, and when each began."""
        got = {}
        for name, (node, instance) in self.vms.items():
            for pid in node.ask({"op": "describe", "instance_id": instance})[0]["pids"]:
                with open("/proc/%d/stat" % pid) as f:
                    got.setdefault(name, []).append((pid, f.read().rpartition(")")[2].split()[19]))
        return got

    def published(self, **network):
        """The sections of the plans are these from now on, and all nodes' tables say so."""
        self.c.extra = dict({"egress_mode": "nat66"}, **network)
        self.c.publish()
        for n in self.with_vms:
            for name, how_many in (("quarantine", len(network.get("quarantine", ()))), ("private6", sum(
                    x["address"] != y["address"] and n.prefix.split("::")[0] + "::" in x["address"] + y["address"] for x in network.get("private", ()) for y in network["private"]))):
                wait_for("%d in %s of node %d" % (how_many, name, n.number), lambda: len(self.in_set(n, name)) == how_many)

    def in_set(self, n, name):
        got = json.loads(n.place.run("nft", "-j", "list", "set", "inet", "moat", name))
        return next(x["set"] for x in got["nftables"] if "set" in x).get("elem", [])

    def table(self, n):
        """(the kernel's number of the table, its text without what traffic puts into it)"""
        tables = json.loads(n.place.run("nft", "-j", "list", "tables"))["nftables"]
        text = n.place.run("nft", "-s", "list", "table", "inet", "moat", check=False)
        text = re.sub(r"(set (?:(?:new)?flows|asks|n_[a-z0-9_]+) \{[^}]*?)\s*elements = \{[^}]*\}", r"\1", text)
        return [x["table"]["handle"] for x in tables if "table" in x and x["table"]["name"] == "moat"], re.sub(r"packets \d+ bytes \d+", "", text)

    def counted(self, name):
        """What a VM's node says of its traffic."""
        node, instance = self.vms[name]
        return node.ask({"op": "describe", "instance_id": instance})[0].get("traffic", {"firewall_drops": {}})

    def dropped(self, n):
        """Rule to packets, of the metrics page of a node."""
        page = n.place.run("python3", "-c", "import urllib.request as u; print(u.urlopen('http://[::1]:9464/metrics', timeout=10).read().decode())")
        return {r: int(v) for r, v in re.findall(r'^moat_agent_firewall_drops_total\{rule="(\w+)"\} (\d+)$', page, re.M)}

    def not_less(self, since):
        """Nothing that was counted is forgotten; @since is what this said before."""
        now = {name: self.counted(name) for name, *_ in self.VMS}
        for name, before in since.items():
            wait_for("what was counted of " + name, lambda: all(self.counted(name)["firewall_drops"].get(k, 0) >= v for k, v in before["firewall_drops"].items())
                     and all(self.counted(name)[k] >= before[k] for k in ("sent_bytes", "received_bytes", "sent_packets", "new_flows")))
        return now

    def nodes_and_vms_are_up(self):
        boot = os.path.join(self.c.dir, "boot")  # jails link to it: one filesystem
        shutil.copytree(make_bundle(), boot, symlinks=True)
        self.want_vms()
        self.c.extra = {"egress_mode": "nat66", "edge_ports": [23456]}
        for n in self.with_vms:
            n.place.run("umount", "/sys")  # its own has no cgroups
            os.rmdir(os.path.join(n.dir, "boot"))
            os.symlink(boot, os.path.join(n.dir, "boot"))
            self.registries.append(n.place.popen("docker-registry", "serve", self.w.registry.config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for("the registry", lambda: n.place.ok("python3", "-c", "import socket; socket.create_connection(('127.0.0.1', %d), 1)" % self.w.registry.port))
        self.start(*self.c.nodes)
        for n in self.c.nodes:
            n.applied()
        kit.wait_mesh(self.c.nodes, 40)
        for name, _, _, _ in self.VMS:
            self.guest(name)
        self.cables.thread.start()
        for n in self.with_vms:
            want(n.place.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "1", "no forwarding")
        self.places.update({"own node": self.n1.place, "other node": self.n2.place, "edge": self.n3.place, "control": self.n4.place, "registry": self.n4.place, "outside": self.c.wire})
        self.c.wire.run("ip", "-6", "addr", "add", "2a00:ff::1/128", "dev", "lo", "nodad")
        # whoever is outside may try to send to the cluster's addresses through a node
        self.c.wire.run("ip", "-6", "route", "add", "%s:1:1::/80" % kit.P, "via", self.n1.underlay)
        self.c.wire.run("ip", "-6", "route", "add", "%s:1:2::/80" % kit.P, "via", self.n2.underlay)
        for n in self.c.nodes:
            self.c.wire.run("ip", "-6", "route", "add", n.overlay + "/128", "via", n.underlay)
        at = self.addresses
        self.c.wire.run("ip", "-6", "route", "add", RESOLVER + "/128", "via", self.n1.underlay)
        for name, node in (("own node", self.n1), ("other node", self.n2), ("edge", self.n3), ("control", self.n4)):
            at[name + ", overlay"], at[name + ", underlay"] = (node.overlay, None), (node.underlay, None)
        at["own node, fe80::1"] = ("fe80::1", "eth0")
        at["registry (control's underlay)"] = at["control, underlay"]
        at["resolver"] = (RESOLVER, None)
        at["metadata"], at["outside"] = ("fd00:ec2::254", None), ("2a00:ff::1", None)
        at["blocked by the operator"] = ("2a00:ff:0:1::1", None)
        at["private IPv4 behind a NAT64"], at["public IPv4 behind a NAT64"] = ("64:ff9b::a00:1", None), ("64:ff9b::808:808", None)
        out = [at[name][0] for name in ("outside", "metadata", "blocked by the operator", "private IPv4 behind a NAT64", "public IPv4 behind a NAT64")]
        for address in out[1:]:
            self.c.wire.run("ip", "-6", "addr", "add", address + "/128", "dev", "lo", "nodad")
        for name, place in self.places.items():
            if name == "registry":
                continue  # the control's machine, by the address that it has outside of the mesh
            path = os.path.join(self.c.dir, "seen-" + name.split()[0] + name[-4:].strip())
            # answers come from the address that was asked
            at = out if name == "outside" else ["::", RESOLVER + "@53"] if name == "own node" else ["::"]
            p = place.popen("python3", "-c", SERVE, path, *at, stdout=subprocess.PIPE)
            self.servers.append((p, path))
            want(p.stdout.readline() == b"ready\n", "no server in " + name)
        for node, instance in self.vms.values():
            node.control.wait_status(instance, "ready")

    def source_address(self, source):
        if source == "registry":
            return self.n4.underlay
        node = {"own node": self.n1, "other node": self.n2, "edge": self.n3, "control": self.n4}.get(source)
        return node.overlay if node else "2a00:ff::1" if source == "outside" else self.addresses[source][0]

    def matrix(self, run, table=MATRIX):
        jobs, expected, forged = {}, {}, []
        for row, (source, target, what) in enumerate(table):
            to, scope = self.addresses[target]
            mine = self.source_address(source)
            for kind, passes in what.items():
                proto, port = {"tcp": ("tcp", 8080), "other": ("tcp", 9090), "udp": ("udp", 7777), "icmp6": ("icmp6", 0)}.get(kind, ("tcp", kind))
                key = "%s.%d: %s to %s, %s" % (run, row, source, target, kind)
                jobs.setdefault(source, []).append([key, proto, to, port, mine, scope, PASSES if passes else DOES_NOT])
                expected[key] = passes
            if "udp" in what and source in self.vms_named():
                # the neighbour's address, and one that nobody has
                neighbour = "A" if source.startswith("B") else "B same env, same node"
                for i, lie in enumerate((self.addresses[neighbour][0], "2a00:ff::66")):
                    key = "%s.%d: %s to %s, spoofed %d" % (run, row, source, target, i)
                    jobs[source].append([key, "udp", to, 7777, lie, scope, DOES_NOT])
                    expected[key] = False
                    forged.append(key)
        running = {s: self.places[s].popen("python3", "-c", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for s in jobs}
        got = {}
        for s, p in running.items():  # all at once: each begins when it has read its jobs to their end
            p.stdin.write(json.dumps(jobs[s]).encode())
            p.stdin.close()
        for p in running.values():
            got.update(json.loads(p.stdout.read()))
            p.wait()
        seen = b""
        for _, path in self.servers:
            if os.path.exists(path):
                with open(path, "rb") as f:
                    seen += f.read()
        wrong = ["%s: %s" % (k, "passes" if got.get(k) else "does not pass") for k, v in expected.items() if bool(got.get(k)) != v]
        # one that arrived and whose answer did not is a breach too
        wrong += ["%s: arrived" % k for k, v in expected.items() if not v and (k.encode() + b"\n") in seen]
        arrived = [k for k, v in expected.items() if v and k.endswith("udp") and (k.encode() + b"\n") in seen]
        want(arrived, "no datagram that may pass was recorded: the check of arrivals sees nothing")
        print("# %d probes, %d of them may pass, %d forged" % (len(expected), sum(expected.values()), len(forged)), flush=True)
        want(not wrong, "; ".join(wrong[:12]) + (" and %d more" % (len(wrong) - 12) if len(wrong) > 12 else ""))

    @contextlib.contextmanager
    def flow(self, source, target):
        """An open UDP flow; a call of what comes sends on it and tells whether that came back."""
        p = self.places[source].popen("python3", "-c", FLOW, self.addresses[target][0], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def echoes(seconds=PASSES):
            p.stdin.write(b"%g\n" % seconds)
            p.stdin.flush()
            return p.stdout.readline().strip() == b"1"
        try:
            yield echoes
        finally:
            p.stdin.close()
            p.wait()

    def vms_named(self):
        return [n for n in self.addresses if n in self.places and n != "outside"]

    def the_matrix_holds(self):
        self.matrix("first")

    def what_was_dropped_is_counted_for_each_vm_and_each_rule(self):
        """A tried everything; C next to it never left its node by a blocked port, and says nothing in A's name that A is blamed for"""
        rules = {"guest_spoof", "guest_to_host", "guest_lateral", "blocked_address", "blocked_port"}
        wait_for("what A was refused", lambda: rules <= set(self.counted("A")["firewall_drops"]), 40)
        # what the kernel counted comes to the agent at its looks, one after the other
        wait_for("all that A did", lambda: (lambda a: a.get("top_rejected_port") == "25/tcp" and a["new_flows"] >= 5 and a["sent_bytes"] > 1000 and a["received_bytes"] > 1000
                 and a["sent_packets"] > 10 and a["firewall_drops"]["guest_spoof"] > 20)(self.counted("A")), 60)
        wait_for("what C did", lambda: self.counted("C other tenant, same node")["firewall_drops"].get("guest_spoof"), 60)
        a, c = self.counted("A"), self.counted("C other tenant, same node")
        want(set(c["firewall_drops"]) <= {"guest_spoof", "guest_lateral", "to_guest", "host_to_guest"} and c["firewall_drops"]["guest_spoof"] and "top_rejected_port" not in c and c["new_flows"] == 0, c)
        wait_for("as much of the node", lambda: (lambda n: n["guest_spoof"] >= a["firewall_drops"]["guest_spoof"] + c["firewall_drops"]["guest_spoof"] and n["underlay_spoof"] > 0)(self.dropped(self.n1)), 60, 0.5)
        self.since = self.not_less({})

    def it_holds_while_all_agents_are_dead_and_with_the_next_ones_that_adopt_the_vms(self):
        before, tables = self.processes(), [self.table(n) for n in self.c.nodes]
        want(len(before) == len(self.VMS) and all(len(x) == 2 for x in before.values()), before)
        counted = lambda: self.addresses["A"][0] in self.n1.place.run("nft", "list", "set", "inet", "moat", "flows")
        with self.flow("A", "outside") as echoes:
            want(echoes() and counted(), "an open flow is not counted")
            self.agents_are_replaced(echoes)
            want(echoes() and counted(), "an open flow does not go on, or is not counted any more")
        want(self.processes() == before, "the VMs are others: %s, before %s" % (self.processes(), before))
        self.since = self.not_less(self.since)
        for n, table in zip(self.c.nodes, tables):
            wait_for("the table of before at node %d, and its number: %s" % (n.number, table), lambda: self.table(n) == table, 20, 0.5)
            want(not n.events("instance.not_adopted") and not n.events("firewall.tampered"), n.tail())

    def agents_are_replaced(self, echoes):
        for n in self.c.nodes:
            n.kill()
        try:
            self.matrix("agents killed")
            want(echoes(), "an open flow ends with the agents")
        finally:  # whatever is found, the cases that follow have agents
            at, loaded = {n: len(n.control.beats) for n in self.c.nodes}, {n: len(n.events("network.loaded")) for n in self.with_vms}
            self.start(*self.c.nodes)
        for n in self.c.nodes:
            wait_for("a heartbeat", lambda: len(n.control.beats) > at[n] and n.sees(self.n3 if n is self.n4 else self.n4))
        for node, instance in self.vms.values():
            wait_for("adoption", lambda: [e for e in node.events("instance.adopted") if e["instance_id"] == instance])
        for n in self.with_vms:
            wait_for("its plan", lambda: len(n.events("network.loaded")) > loaded[n])
        self.matrix("agents restarted")

    def what_a_vm_has_sent_is_told_by_what_the_world_saw(self):
        """the port that the node gave it leads from a time and an address to the VM; who asks is written down"""
        serve = ("import socket\ns=socket.socket(socket.AF_INET6); s.bind(('2a00:ff::1',7070)); s.listen(1); print('up', flush=True)\nc, who=s.accept(); print(who[1], flush=True)")
        call = "import socket\ns=socket.create_connection(('2a00:ff::1',7070),20); print(s.getsockname()[1])"
        server = self.places["outside"].popen("python3", "-c", serve, stdout=subprocess.PIPE)
        want(server.stdout.readline() == b"up\n", "no server")
        mine = int(self.places["A"].run("python3", "-c", call))
        seen = int(server.stdout.readline())
        server.wait()

        def flows(*args):
            out = self.n1.place.run(os.path.join(kit.BIN, "moat-agent"), "--config", os.path.join(self.n1.dir, "agent.toml"), "flows", *args)
            return [json.loads(line) for line in out.splitlines()]
        flow = {"proto": "tcp", "vm": self.addresses["A"][0], "vm_port": mine, "target": "2a00:ff::1", "target_port": 7070, "seen_as": self.n1.underlay, "seen_port": seen}
        found = lambda: [f for f in flows("--port", str(seen), "--address", self.n1.underlay) if f["kind"] == "new" and f["target_port"] == 7070]
        wait_for("the flow", found, 20)
        got = found()[0]
        want({k: got[k] for k in flow} == flow, "%s, not %s" % (got, flow))
        counts = lambda kind: [f for f in flows("--address", self.addresses["A"][0]) if f["kind"] == kind]
        # a minute's record has what came in that minute
        wait_for("what was counted, minute by minute", lambda: sum(f["sent_bytes"] for f in counts("counts")) > 1000 and
                 [f for f in counts("drops") if f["rule"] == "blocked_port" and f.get("top_rejected_port") == "25/tcp"], 130, 1)
        want([f for f in flows() if f["kind"] == "read" and f["uid"] == 0] and self.n1.events("flows.read"), "nobody wrote down who reads")
        want(not [f for f in flows() if f["kind"] in ("new", "end") and f["vm"] not in [a for a, _ in self.addresses.values()]], "flows of others are recorded")

    def it_holds_after_the_table_was_deleted_and_is_loaded_whole(self):
        for n in self.c.nodes:
            handle, text = self.table(n)
            n.place.run("nft", "delete", "table", "inet", "moat")
            wait_for("the table again", lambda: self.table(n)[1] == text)
            want(self.table(n)[0] != handle, "it is the same table")
            wait_for("word of it", lambda: n.events("firewall.tampered"))
        self.since = self.not_less(self.since)
        self.matrix("table loaded anew")

    def the_instances_of_a_private_network_reach_each_other_and_nobody_else(self):
        tables = [self.table(n)[0] for n in self.with_vms]
        self.published(private=self.private)
        self.matrix("private", PRIVATE)
        self.published(private=self.private, quarantine=[self.addresses["A"][0]])  # quarantine is stronger
        self.matrix("private, A in quarantine", [("A", "B same env, same node", NOTHING), ("A", "D same env, other node", NOTHING),
                                                 ("D same env, other node", "A", DECLARED), ("edge", "A", DECLARED), ("B same env, same node", "outside", EVERYTHING)])
        self.published()
        self.matrix("not private any more", [(a, b, NOTHING) for a, b, what in PRIVATE if what is DECLARED and a in NEIGHBOURS] + [
            ("edge", "A", DECLARED), ("A", "outside", EVERYTHING), ("outside", "own node, underlay", {23456: False})])
        want([self.table(n)[0] for n in self.with_vms] == tables, "the whole table was loaded for elements of it")

    def what_is_in_quarantine_opens_nothing_and_still_serves(self):
        """flows that the VM has opened end, in both directions; what is opened to it goes on, and another VM notices nothing"""
        b = "B same env, same node"

        def passes(source, target, port, kind="tcp", seconds=PASSES):
            job = ["k", kind, self.addresses[target][0], port, self.source_address(source), None, seconds]
            p = self.places[source].popen("python3", "-c", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            return json.loads(p.communicate(json.dumps([job]).encode(), timeout=150)[0]).get("k", False)
        with self.flow("A", "outside") as echoes:
            want(echoes(), "the flow does not pass before")
            self.published(quarantine=[self.addresses["A"][0]])
            want(not echoes(DOES_NOT), "a flow that was open goes on")
            want(not passes("A", "outside", 443, seconds=DOES_NOT) and not passes("A", "outside", 7777, "udp", DOES_NOT), "it opens new ones")
            want(passes("edge", "A", 8080), "it does not serve any more")
            want(passes(b, "outside", 443), "another VM is cut off")
            self.published()
            want(echoes() and passes("A", "outside", 443), "it does not come back")

    flooded_from = 10000

    def flood(self, name, target, port, ports, count, rate, burst, rule):
        """Not more of them pass than the limit lets through, no fewer than may come at once, and the rest is counted where it was refused."""
        counted = lambda: self.counted(name)["firewall_drops"].get(rule, 0)
        before, first = counted(), self.flooded_from
        self.flooded_from += ports  # below what the system gives out: a port that a flow had before would go on as that flow, which no limit of new ones counts
        answers, seconds = json.loads(self.places[name].run("python3", "-c", FLOOD, target, str(port), str(ports), str(count), "2", str(first)))
        print("# %d of %d passed in %.2f s: %d at once and %d/s may" % (answers, count, seconds, burst, rate), flush=True)
        want(burst // 2 <= answers <= burst + 1 + rate * seconds < count, "%d of %d passed in %.2f s" % (answers, count, seconds))
        wait_for("word of what was refused", lambda: counted() - before >= 100, 40)

    def what_a_vm_asks_the_resolver_is_limited_question_by_question(self):
        """200 a second and 400 at once, by one port or by many; another VM is answered meanwhile; quarantine ends it"""
        b = "B same env, same node"
        for ports in (1, 300):
            self.flood("A", RESOLVER, 53, ports, 3000, 200, 400, "guest_to_host")
            want(json.loads(self.places[b].run("python3", "-c", FLOOD, RESOLVER, "53", "1", "5", str(PASSES), "0"))[0] > 0, "another VM is not answered")
        ask = ("import socket,sys\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.connect((sys.argv[1],53))\nfor line in sys.stdin:\n  s.settimeout(float(line))\n"
               "  try: s.send(b'?'); s.recv(9); print(1, flush=True)\n  except OSError: print(0, flush=True)")
        p = self.places["A"].popen("python3", "-c", ask, RESOLVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def answered(seconds):
            p.stdin.write(b"%g\n" % seconds)
            p.stdin.flush()
            return p.stdout.readline() == b"1\n"
        try:
            wait_for("an answer", lambda: answered(2), PASSES)
            self.published(quarantine=[self.addresses["A"][0]])
            want(not answered(DOES_NOT), "a VM in quarantine is answered on")
            self.published()
            wait_for("an answer again", lambda: answered(2), PASSES)
        finally:
            p.stdin.close()
            p.wait()

    def packet_too_big_reaches_the_vm(self):
        """a path narrower than the mesh: the sender in the VM is told, through the node's table"""
        script = ("import socket,sys,time\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\ns.setsockopt(41,23,2)\ns.connect(('2a00:ff::1',7777))\n"
                  "for i in range(400):\n  try: s.send(bytes(1300))\n  except OSError: pass\n  time.sleep(0.05)\n"
                  "  if s.getsockopt(41,24)==1280: sys.exit(0)\nsys.exit('mtu %d' % s.getsockopt(41,24))")
        self.c.wire.run("ip", "link", "set", self.n1.dev, "mtu", "1280")
        self.n1.place.run("ip", "link", "set", "eth0", "mtu", "1280")
        try:
            self.places["A"].run("python3", "-c", script)
        finally:
            self.c.wire.run("ip", "link", "set", self.n1.dev, "mtu", "1500")
            self.n1.place.run("ip", "link", "set", "eth0", "mtu", "1500")

    def what_an_operator_sets_for_a_node_holds_there(self):
        """limits of flows and blocked ports of agent.toml; the table is made anew for them, and what was counted stays"""
        e = "E other tenant, other node"
        since = self.not_less({})
        loaded = lambda: len(self.n2.events("network.loaded"))
        self.n2.kill()
        before = loaded()
        self.start(self.n2, blocked_ports=["9090/tcp"], blocked_prefixes=["2a00:ff:0:1::/64"], limits={"flows_per_vm": 20, "new_flows_per_vm": 0})
        wait_for("its plan", lambda: loaded() > before)
        self.not_less({e: since[e]})
        script = ("import socket\nss=[socket.socket(socket.AF_INET6,socket.SOCK_DGRAM) for i in range(32)]\n"
                  "for s in ss: s.settimeout(0.3); s.connect(('2a00:ff::1',7777))\nok=set()\n"
                  "for again in range(8):\n  for i, s in enumerate(ss):\n    if i in ok or len(ok) == 20 and again > 1: continue\n"
                  "    try: s.send(b'x'); s.recv(9); ok.add(i)\n    except OSError: pass\nprint(len(ok))")
        got = int(self.places[e].run("python3", "-c", script))
        want(got == 20, "%d flows of 32 are open, with a limit of 20" % got)
        wait_for("word of them", lambda: self.counted(e)["firewall_drops"].get("flows_full", 0) >= 12, 40)
        self.n2.kill()
        before = loaded()
        self.start(self.n2, blocked_ports=["9090/tcp"], blocked_prefixes=["2a00:ff:0:1::/64"], limits={"new_flows_per_vm": 20, "new_flows_burst": 30})
        wait_for("its plan", lambda: loaded() > before)
        self.flood(e, "2a00:ff::1", 7777, 500, 500, 20, 30, "new_flows")
        self.matrix("other ports", [(e, "outside", {"udp": True, 9090: False, 25: True, 443: True}), (e, "blocked by the operator", {443: False}), ("A", "blocked by the operator", {443: True})])

    def close(self):
        for n in self.c.nodes:
            if n.proc and n.proc.poll() is None:
                n.kill()
        self.cables.close()
        for name in self.vms_named():
            self.places[name].close()
        self.c.close()
        self.w.close()
        for p in [p for p, _ in self.servers] + self.registries:
            p.wait()


def main():
    why = kit.missing() or (None if os.geteuid() == 0 else "needs root") or (None if os.path.exists(STANDIN) else "standin_vm is not built")
    why = why or (None if shutil.which("docker-registry") else "docker-registry is not installed")
    if why:
        print("skip - the isolation matrix: %s" % why)
        return 0
    report, suite = Report(), Suite()
    try:
        for name in [n for n, v in vars(Suite).items() if callable(v) and (n.startswith(("nodes_", "the_", "it_", "what_", "packet_")))]:
            t = time.monotonic()
            report.case(name.replace("_", " "), getattr(suite, name))
            if os.environ.get("MOAT_TIMES"):
                print("# %.1f s" % (time.monotonic() - t))
    finally:
        suite.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
