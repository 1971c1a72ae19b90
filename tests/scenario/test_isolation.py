#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may reach whom: the isolation matrix of a mesh of four nodes, sent packet by packet and compared with the table below.

Real: mesh (moat-agent, wireguard-go), the table `inet moat` as the agent's own code loads it, routes, packets. Stood in: the VMs are
namespaces behind links named like taps, with the addresses, routes and neighbours that the agent gives a tap; so is the rest of the
internet. On the two nodes with VMs the agent is killed first (it knows no such VMs and would take their elements away) and
mesh_load, which calls the same code, loads the table: what is shown is the data path that outlives an agent.
COST 110 s, 8 s of processor."""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import meshkit as kit  # noqa: E402
from agentkit import ROOT  # noqa: E402
from imagekit import Report, want  # noqa: E402

MESH_LOAD = os.path.join(os.environ.get("MOAT_BUILD", os.path.join(ROOT, "build")), "tests/tools/mesh_load")

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
for p in (25, 80, 443, 5000, 5180, 8080, 9090): threading.Thread(target=tcp, args=(p,), daemon=True).start()
for at in sys.argv[2:]: threading.Thread(target=udp, args=(7777, at), daemon=True).start()
print("ready", flush=True); threading.Event().wait()
"""

PROBE = r"""
import json, select, socket, struct, sys, threading
jobs, out = json.load(sys.stdin), {}
def one(i, key, kind, target, port, source, scope):
    try:
        at = (target, port, 0, socket.if_nametoindex(scope) if scope else 0)
        if kind == "tcp":
            s = socket.socket(socket.AF_INET6); s.settimeout(1.5)
            if source: s.bind((source, 0))
            s.connect(at); out[key] = s.recv(2) == b"hi"
        elif kind == "udp":
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(1.5)
            s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: a source that is not ours
            if source: s.bind((source, 0))
            s.sendto(key.encode(), at); out[key] = s.recv(2048) == key.encode()
        else:
            s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            if source: s.bind((source, 0))
            s.sendto(struct.pack("!BBHHH", 128, 0, 0, 3000 + i, 1) + b"moat", (target, 0) + at[2:])
            while select.select([s], [], [], 1.5)[0]:
                d, _ = s.recvfrom(2048)
                if d[0] == 129 and d[4:6] == struct.pack("!H", 3000 + i): out[key] = True; break
    except OSError as e:
        out[key] = False
ts = [threading.Thread(target=one, args=(i, *j)) for i, j in enumerate(jobs)]
[t.start() for t in ts]; [t.join() for t in ts]
print(json.dumps(out))
"""

# One UDP flow from one port: for each line of stdin a datagram; 1 when its answer comes within a second and a half.
FLOW = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(1.5); s.connect((sys.argv[1], 7777))
for n, _ in enumerate(sys.stdin):
    said = b"flow %d" % n
    try:
        s.send(said)
        while s.recv(99) != said: pass
        print(1, flush=True)
    except OSError: print(0, flush=True)
"""

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
    ("A", "outside", EVERYTHING), ("A", "outside", {25: False, 443: True}), ("E other tenant, other node", "outside", EVERYTHING),
    ("edge", "A", DECLARED), ("edge", "D same env, other node", DECLARED), ("edge", "E other tenant, other node", DECLARED),
    ("control", "A", NOTHING), ("other node", "A", NOTHING), ("own node", "A", DECLARED), ("outside", "A", NOTHING),
    ("outside", "own node, overlay", NOTHING),
    ("edge", "own node, overlay", dict(NOTHING, icmp6=True)), ("control", "own node, overlay", {5180: True, 9090: False}),
    ("edge", "own node, overlay", {5180: False}), ("other node", "own node, overlay", {5180: False}),
]

# The same once A, B and D are of one environment with private_network, and the sets say so.
NEIGHBOURS = ("A", "B same env, same node", "D same env, other node")
PRIVATE = [(a, b, DECLARED) for a in NEIGHBOURS for b in NEIGHBOURS if a != b] + [
    ("A", "C other tenant, same node", NOTHING), ("C other tenant, same node", "A", NOTHING), ("A", "E other tenant, other node", NOTHING),
    ("E other tenant, other node", "A", NOTHING), ("E other tenant, other node", "D same env, other node", NOTHING), ("A", "edge, overlay", NOTHING),
    ("other node", "A", NOTHING), ("edge", "A", DECLARED), ("A", "own node, overlay", NOTHING),
    ("A", "outside", EVERYTHING)]


class Suite:
    def __init__(self):
        self.c = kit.Cluster("isolation", 4, [["worker"], ["worker"], ["edge"], ["control"]])
        self.n1, self.n2, self.n3, self.n4 = self.c.nodes
        self.places, self.addresses, self.vms, self.servers = {}, {}, {1: [], 2: []}, []

    def vm(self, name, node, slot):
        tap, address, place = "mt%05x" % slot, "%s:1:%x::%x" % (kit.P, node.number, slot), kit.Place()
        host = node.place
        host.run("ip", "link", "add", tap, "mtu", "1420", "type", "veth", "peer", "name", "eth0", "netns", str(place.proc.pid))
        place.run("ip", "link", "set", "eth0", "mtu", "1420", "up")
        host.run("ip", "-6", "addr", "add", "fe80::1/64", "dev", tap, "nodad")
        host.run("ip", "link", "set", tap, "up")
        place.run("ip", "-6", "addr", "add", address + "/128", "dev", "eth0", "nodad")
        place.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        mac = json.loads(place.run("ip", "-j", "link", "show", "eth0"))[0]["address"]
        host.run("ip", "-6", "neigh", "add", address, "lladdr", mac, "dev", tap, "nud", "permanent")
        host.run("ip", "-6", "route", "add", address + "/128", "dev", tap, "src", node.overlay)
        self.vms[node.number].append({"tap": tap, "address": address, "port": 8080})
        self.places[name], self.addresses[name] = place, (address, None)
        return place

    def load(self, node, quarantine=(), private=()):
        path = os.path.join(self.c.dir, "table-%d.json" % node.number)
        with open(path, "w") as f:
            json.dump({"mode": "full", "cluster_prefix": kit.P + "::/48", "egress_mode": "nat66", "edges": [self.n3.overlay], "gateways": [self.n4.overlay],
                       "underlay": [n.underlay for n in self.c.nodes if n is not node], "vms": self.vms[node.number],
                       "private": ["%s . %s . 8080" % (self.addresses[a][0], self.addresses[b][0]) for a in private for b in private if a != b],
                       "quarantine": [self.addresses[name][0] for name in quarantine]}, f)
        return json.loads(node.place.run(MESH_LOAD, "table", path))

    def nodes_and_stand_ins_are_up(self):
        for n in self.c.nodes:
            n.start(**({"firewall_open": ["22", "80", "443"]} if n in (self.n3, self.n4) else {}))
        for n in self.c.nodes:
            n.applied()
        kit.wait_mesh(self.c.nodes, 40)
        for n in (self.n1, self.n2):
            n.kill()
            want(n.place.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "1", "no forwarding")
        self.vm("A", self.n1, 1)
        self.vm("B same env, same node", self.n1, 2)
        self.vm("C other tenant, same node", self.n1, 3)
        self.vm("D same env, other node", self.n2, 1)
        self.vm("E other tenant, other node", self.n2, 2)
        self.places.update({"own node": self.n1.place, "other node": self.n2.place, "edge": self.n3.place, "control": self.n4.place, "registry": self.n4.place, "outside": self.c.wire})
        self.c.wire.run("ip", "-6", "addr", "add", "2a00:ff::1/128", "dev", "lo", "nodad")
        # whoever is outside may try to send to the cluster's addresses through a node
        self.c.wire.run("ip", "-6", "route", "add", "%s:1:1::/80" % kit.P, "via", self.n1.underlay)
        self.c.wire.run("ip", "-6", "route", "add", self.n1.overlay + "/128", "via", self.n1.underlay)
        at = self.addresses
        for name, node in (("own node", self.n1), ("other node", self.n2), ("edge", self.n3), ("control", self.n4)):
            at[name + ", overlay"], at[name + ", underlay"] = (node.overlay, None), (node.underlay, None)
        at["own node, fe80::1"] = ("fe80::1", "eth0")
        at["registry (control's underlay)"] = at["control, underlay"]
        at["metadata"], at["outside"] = ("fd00:ec2::254", None), ("2a00:ff::1", None)
        self.c.wire.run("ip", "-6", "addr", "add", "fd00:ec2::254/128", "dev", "lo", "nodad")
        for name, place in self.places.items():
            if name == "registry":
                continue  # the control's machine, by the address that it has outside of the mesh
            path = os.path.join(self.c.dir, "seen-" + name.split()[0] + name[-4:].strip())
            at = ["2a00:ff::1", "fd00:ec2::254"] if name == "outside" else ["::"]  # answers come from the address that was asked
            p = place.popen("python3", "-c", SERVE, path, *at, stdout=subprocess.PIPE)
            self.servers.append((p, path))
            want(p.stdout.readline() == b"ready\n", "no server in " + name)
        for n in (self.n1, self.n2):
            self.load(n)

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
                jobs.setdefault(source, []).append([key, proto, to, port, mine, scope])
                expected[key] = passes
            if "udp" in what and source in self.vms_named():
                # the neighbour's address, and one that nobody has
                neighbour = "A" if source.startswith("B") else "B same env, same node"
                for i, lie in enumerate((self.addresses[neighbour][0], "2a00:ff::66")):
                    key = "%s.%d: %s to %s, spoofed %d" % (run, row, source, target, i)
                    jobs[source].append([key, "udp", to, 7777, lie, scope])
                    expected[key] = False
                    forged.append(key)
        running = {s: self.places[s].popen("python3", "-c", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for s in jobs}
        got = {}
        for s, p in running.items():
            out, _ = p.communicate(json.dumps(jobs[s]).encode(), timeout=60)
            got.update(json.loads(out))
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

    def vms_named(self):
        return [n for n in self.addresses if n in self.places and n != "outside"]

    def the_matrix_holds(self):
        self.matrix("first")

    def the_table_is_loaded_whole_when_it_is_gone(self):
        for n in (self.n1, self.n2):
            n.place.run("nft", "delete", "table", "inet", "moat")
            want(self.load(n)["tables"] == 1, "not the whole table")

    def it_holds_with_agents_restarted_and_after_a_reload_that_leaves_the_table(self):
        """on the nodes with VMs the next process finds the table of the one before; edge and control have new agents"""
        for n in (self.n3, self.n4):
            n.kill()
            n.start(firewall_open=["22", "80", "443"])
            n.applied()
        for n in (self.n1, self.n2):
            got = self.load(n)
            want(got["tables"] == 0 and got["rules"] == 1, got)
        self.matrix("reloaded")

    def the_instances_of_a_private_network_reach_each_other_and_nobody_else(self):
        for n in (self.n1, self.n2):
            got = self.load(n, private=NEIGHBOURS)
            want(got["tables"] == 0, got)
        self.matrix("private", PRIVATE)
        self.load(self.n1, quarantine=["A"], private=NEIGHBOURS)  # quarantine is stronger
        self.matrix("private, A in quarantine", [("A", "B same env, same node", NOTHING), ("A", "D same env, other node", NOTHING),
                                                 ("D same env, other node", "A", DECLARED), ("edge", "A", DECLARED), ("B same env, same node", "outside", EVERYTHING)])
        for n in (self.n1, self.n2):
            self.load(n)
        self.matrix("not private any more", [(a, b, NOTHING) for a, b, what in PRIVATE if what is DECLARED and a in NEIGHBOURS] + [("edge", "A", DECLARED), ("A", "outside", EVERYTHING)])

    def what_is_in_quarantine_opens_nothing_and_still_serves(self):
        """flows that the VM has opened end, in both directions; what is opened to it goes on, and another VM notices nothing"""
        a, b = self.places["A"], "B same env, same node"
        flow = a.popen("python3", "-c", FLOW, self.addresses["outside"][0], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def echoes():
            flow.stdin.write(b"go\n")
            flow.stdin.flush()
            return flow.stdout.readline().strip()

        def passes(source, target, port, kind="tcp"):
            job = ["k", kind, self.addresses[target][0], port, self.source_address(source), None]
            p = self.places[source].popen("python3", "-c", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            return json.loads(p.communicate(json.dumps([job]).encode(), timeout=30)[0]).get("k", False)
        try:
            want(echoes() == b"1", "the flow does not pass before")
            got = self.load(self.n1, ["A"])
            want(got["tables"] == 0, got)
            want(self.addresses["A"][0] in self.n1.place.run("nft", "list", "set", "inet", "moat", "quarantine"), "not in the set")
            want(echoes() == b"0", "a flow that was open goes on")
            want(not passes("A", "outside", 443) and not passes("A", "outside", 7777, "udp"), "it opens new ones")
            want(passes("edge", "A", 8080), "it does not serve any more")
            want(passes(b, "outside", 443), "another VM is cut off")
            self.load(self.n1)
            want(echoes() == b"1" and passes("A", "outside", 443), "it does not come back")
        finally:
            flow.stdin.close()
            flow.wait()

    def what_is_counted_for_a_vm_goes_on_over_a_reload(self):
        before = self.n1.place.run("nft", "list", "set", "inet", "moat", "flows")
        want(self.addresses["A"][0] in before, before)
        self.load(self.n1)
        after = self.n1.place.run("nft", "list", "set", "inet", "moat", "flows")
        want(self.addresses["A"][0] in after, after)

    def packet_too_big_reaches_the_vm(self):
        """a path narrower than the mesh: the sender in the VM is told, through the node's table"""
        script = ("import socket,sys,time\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\ns.setsockopt(41,23,2)\ns.connect(('2a00:ff::1',7777))\n"
                  "for i in range(20):\n  try: s.send(bytes(1300))\n  except OSError: pass\n  time.sleep(0.05)\n"
                  "  if s.getsockopt(41,24)==1280: sys.exit(0)\nsys.exit('mtu %d' % s.getsockopt(41,24))")
        self.c.wire.run("ip", "link", "set", self.n1.dev, "mtu", "1280")
        self.n1.place.run("ip", "link", "set", "eth0", "mtu", "1280")
        try:
            self.places["A"].run("python3", "-c", script)
        finally:
            self.c.wire.run("ip", "link", "set", self.n1.dev, "mtu", "1500")
            self.n1.place.run("ip", "link", "set", "eth0", "mtu", "1500")

    def close(self):
        for name in self.vms_named():
            self.places[name].close()
        self.c.close()
        for p, _ in self.servers:
            p.wait()


def main():
    why = kit.missing() or (None if os.geteuid() == 0 else "needs root") or (None if os.path.exists(MESH_LOAD) else "mesh_load is not built")
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
