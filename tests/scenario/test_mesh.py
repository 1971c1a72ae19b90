#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Three nodes (then four) of a mesh: real moat-agent and wireguard-go in namespaces, a router between them, a stand-in control plane.

Handshakes and full-size packets, sources that WireGuard refuses, plans that change nothing, drift of every kind, sections that are
refused, no control plane, narrow links, key rotation under a running transfer with a kill -9 in it, a partition, join and leave.
COST 65 s, 8 s of processor."""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair  # noqa: E402
import meshkit as kit  # noqa: E402
from agentkit import wait_for  # noqa: E402
from imagekit import Report, want  # noqa: E402

COPY = r"""
import hashlib, socket, sys
side, addr, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if side == "recv":
    s = socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((addr, port)); s.listen(); print("ready", flush=True)
    c, _ = s.accept(); n = 0
    while True:
        d = c.recv(65536)
        if not d: break
        n += len(d)
    print(n, flush=True)
else:
    import time
    sys.path.insert(0, sys.argv[5]); import fair
    s = socket.create_connection((addr, port), 10); end = time.monotonic() + size; n = 0; block = bytes(16384); worst = 0
    while time.monotonic() < end:
        t = fair.now(); s.sendall(block); worst = max(worst, fair.now() - t); n += len(block); time.sleep(0.01)
    s.close(); print(n, worst, flush=True)
"""

OLD = r"""
import socket, sys
side, addr = sys.argv[1:3]
if side == "serve":
    s = socket.socket(socket.AF_INET6); s.bind((addr, 7010)); s.listen(); print("ready", flush=True)
    c, _ = s.accept(); c.recv(3); sys.stdin.readline(); c.sendall(b"answer"); c.recv(1)
else:
    s = socket.create_connection((addr, 7010), 10); s.sendall(b"ask"); print("asked", flush=True)
    s.settimeout(30); print(s.recv(6).decode(), flush=True)
"""


def echoes_in(node):
    rows = dict(line.split() for line in node.place.run("cat", "/proc/net/snmp6").splitlines())
    return int(rows["Icmp6InEchos"])


def usage(proc):
    """CPU of the process in ticks, and faults of its ended children: a child that ran leaves some"""
    with open("/proc/%d/stat" % proc.pid) as f:
        row = f.read().rsplit(") ", 1)[1].split()
    return int(row[11]) + int(row[12]), int(row[8])


def forwards4(node):
    return node.place.run("sysctl", "-n", "net.ipv4.ip_forward").strip()


class Suite:
    def __init__(self):
        self.c = kit.Cluster("mesh", 3, [["worker", "edge"], ["worker"], ["worker"]])
        self.n1, self.n2, self.n3 = self.c.nodes
        for n in (self.n1, self.n2):
            n.conf = {"host_firewall": "taps"}  # transfers between the hosts themselves
        self.n3.conf = {"host_firewall": "full"}

    def start(self, *nodes):
        for n in nodes:
            n.start(**n.conf)

    def three_nodes_find_each_other(self):
        for n in self.c.nodes:
            n.place.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.start(*self.c.nodes)
        for n in self.c.nodes:
            n.applied()
        kit.wait_mesh(self.c.nodes)
        # what is ours forwards no IPv4, somebody's own machine what it likes
        wait_for("no IPv4 is forwarded", lambda: forwards4(self.n3) == "0", 20)
        want(forwards4(self.n1) == "1", "the host's own business")
        for a in self.c.nodes:
            others = [b for b in self.c.nodes if b is not a]
            want({k: v[1] for k, v in a.peers().items()} == {b.public: sorted([b.overlay + "/128", b.prefix]) for b in others}, a.peers())
            want(a.routes() == sorted([b.overlay for b in others] + [b.prefix for b in others]), a.routes())
            addresses = a.place.run("ip", "-6", "-o", "addr", "show", "dev", "wg-moat")
            want(addresses.count("inet6") == 1 and a.overlay + "/128" in addresses, addresses)

    def packets_of_full_size_pass_and_larger_ones_do_not(self):
        for a in self.c.nodes:
            for b in self.c.nodes:
                wait_for("1420 bytes from %d to %d" % (a.number, b.number), lambda: a is b or a.ping(b, 1420))
        want(not self.n1.ping(self.n2, 1421, seconds=0.3), "1421 bytes went through whole")

    def a_peer_cannot_speak_with_anothers_address(self):
        forged = self.n3.prefix.split("/")[0] + "7"
        self.n1.place.run("ip", "-6", "addr", "add", forged + "/128", "dev", "lo", "nodad")
        try:
            own = echoes_in(self.n2)
            wait_for("the honest one", lambda: self.n1.ping(self.n2))
            want(echoes_in(self.n2) > own, "echoes are not counted")
            def came_through(tries=5):
                before = echoes_in(self.n2)
                for _ in range(tries):
                    kit.ping(self.n1.place, forged, self.n2.overlay, seconds=0.1)
                return echoes_in(self.n2) - before
            # the agents' own probes are counted too: fewer than the forged ones in this second, if it is one
            seen, fewer = fair.best(came_through, lambda seen: seen[-1] < 5, 1, 5)
            want(fewer, "%s of 5 forged packets each time came through" % seen)
        finally:
            self.n1.place.run("ip", "-6", "addr", "del", forged + "/128", "dev", "lo")

    def a_plan_that_changes_nothing_starts_nothing(self):
        # Three looks in each drift_seconds do start wg: what falls into one of them is not told from it, and is made up for.
        clean = spoilt = 0
        begun, (cpu, _) = time.monotonic(), usage(self.n2.proc)
        while clean < 20:
            told, (_, faults) = len(self.n2.events("plan.accepted")), usage(self.n2.proc)
            self.n2.control.publish()
            wait_for("the plan", lambda: len(self.n2.events("plan.accepted")) > told)
            started = usage(self.n2.proc)[1] != faults
            clean, spoilt = clean + (not started), spoilt + started
            looks = (time.monotonic() - begun) / (5 / 3) + 1
            want(spoilt <= 3 * looks, "%d of %d plans without a change started processes; there were %d looks at most" % (spoilt, spoilt + clean, looks))
        now, _ = usage(self.n2.proc)
        print("# %d plans without a change, %d of them beside a look: %d ms of CPU" % (clean + spoilt, spoilt, (now - cpu) * 1000 // os.sysconf("SC_CLK_TCK")), flush=True)

    def what_somebody_changes_by_hand_is_mended(self):
        n, place = self.n3, self.n3.place
        before = (n.peers().keys(), n.routes())
        rules = place.run("nft", "-s", "list", "table", "inet", "moat")
        foreign = kit.keypair()[1]
        ways = [("the table", ["nft", "delete", "table", "inet", "moat"]),
                ("a chain's rules", ["nft", "flush", "chain", "inet", "moat", "through"]),
                ("an element", ["nft", "delete", "element", "inet", "moat", "edges", "{ %s }" % self.n1.overlay]),
                ("an element too many", ["nft", "add", "element", "inet", "moat", "tapsrc", '{ "mt00009" . %s9 }' % n.prefix.split("/")[0]])]
        for what, argv in ways:
            t = time.monotonic()
            place.run(*argv)
            if what == "an element too many":
                kit.kit.within("mending of " + what, lambda: "mt00009" not in place.run("nft", "list", "set", "inet", "moat", "tapsrc"), 7)  # drift_seconds
            else:
                kit.kit.within("mending of " + what, lambda: place.run("nft", "-s", "list", "table", "inet", "moat", check=False) == rules, 3)
            print("# %s: mended in %.2f s" % (what, time.monotonic() - t), flush=True)
        wait_for("a line about it", lambda: n.events("firewall.tampered"), 10)
        beats = len(n.control.beats)
        wait_for("the condition", lambda: "firewall_tampered" in n.control.beats[-1]["conditions"] and len(n.control.beats) > beats, 5)
        t = time.monotonic()
        place.run("wg", "set", "wg-moat", "peer", self.n1.public, "remove")
        place.run("wg", "set", "wg-moat", "peer", foreign, "allowed-ips", P_FOREIGN)
        place.run("wg", "set", "wg-moat", "peer", self.n2.public, "allowed-ips", self.n2.overlay + "/128")
        place.run("ip", "-6", "route", "del", self.n2.prefix, "dev", "wg-moat")
        place.run("ip", "-6", "route", "add", "fd00:1:2:1:9::/80", "dev", "wg-moat")
        place.run("ip", "-6", "addr", "del", n.overlay + "/128", "dev", "wg-moat")
        place.run("ip", "link", "set", "wg-moat", "mtu", "1500")
        wait_for("the mesh as it was", lambda: (n.peers().keys(), n.routes()) == before and "mtu 1420" in place.run("ip", "link", "show", "wg-moat") and
                 n.overlay + "/128" in place.run("ip", "-6", "addr", "show", "dev", "wg-moat"), 15)
        print("# peers, allowed IPs, routes, address, MTU: mended in %.1f s" % (time.monotonic() - t), flush=True)
        wait_for("a line about it", lambda: n.events("mesh.repaired"), 10)  # a worker mends, the loop says it afterwards
        kit.wait_mesh(self.c.nodes)

    def a_device_that_ends_is_made_again(self):
        n = self.n3
        old = n.go_pids()
        want(len(old) == 1, old)
        os.kill(old[0], 9)
        wait_for("another wireguard-go", lambda: n.go_pids() and n.go_pids() != old, 10)
        kit.wait_mesh(self.c.nodes)

    def a_section_that_breaks_the_rules_is_refused_and_the_last_good_one_stays(self):
        n = self.n2
        peer = self.n3.peer()
        bad = [("::/0", [dict(peer, allowed_ips=[self.n3.overlay + "/128", "::/0"])]),
               ("own address", [dict(peer, allowed_ips=[n.overlay + "/128", self.n3.prefix])]),
               ("overlap", [dict(self.n1.peer(), allowed_ips=[self.n1.overlay + "/128", self.n3.prefix]), peer]),
               ("one key twice", [dict(self.n1.peer(), public_key=self.n3.public), peer])]
        for what, peers in bad:
            good = n.mesh()["revision"]
            n.extra = {"peers": sorted(peers, key=lambda p: p["node_id"])}
            self.c.publish(n)
            said = wait_for("the refusal of " + what, lambda: n.mesh().get("rejected"), 5)
            print("# %s: %s" % (what, said), flush=True)
            want(n.mesh()["revision"] == good and "mesh_config_rejected" in n.control.beats[-1]["conditions"], n.mesh())
            want(set(n.peers()) == {self.n1.public, self.n3.public}, n.peers())
            n.extra = {}
            n.control.publish()
            wait_for("an end of it", lambda: "rejected" not in n.mesh() and n.mesh()["revision"] == self.c.revision, 5)
        # the newest plan on disk is a bad one: the last good section has a file of its own
        n.extra = {"peers": bad[0][1]}
        self.c.publish(n)
        wait_for("the refusal", lambda: n.mesh().get("rejected"), 5)
        n.kill()
        n.place.run("ip", "link", "del", "wg-moat")
        n.control.stop()
        self.start(n)
        wait_for("the mesh of the last good section", lambda: n.events("mesh.last_good"), 10)
        kit.wait_mesh([self.n1, n])
        n.extra = {}
        n.control.start()
        self.c.publish()
        for x in self.c.nodes:
            x.applied()

    def the_mesh_needs_neither_control_plane_nor_agent(self):
        n = self.n3
        n.kill()
        wait_for("the data path without the agent", lambda: n.ping(self.n1) and n.ping(self.n2))
        n.control.stop()
        n.place.run("ip", "link", "del", "wg-moat")
        wait_for("the end of wireguard-go", lambda: not n.go_pids(), 5)
        self.start(n)
        kit.wait_mesh([n, self.n1])
        n.control.start()
        n.applied(seconds=15)

    def most_peers_go_only_with_an_operators_word(self):
        n = self.n2
        others = [dict(self.n1.peer(), node_id=kit.kit.new_id("node"), public_key=kit.keypair()[1], endpoints=[],
                       allowed_ips=["%s::%x/128" % (kit.P, k), "%s:1:%x::/80" % (kit.P, k)]) for k in range(0x50, 0x54)]
        mine = [self.n1.peer(), self.n3.peer()]

        def publish(peers, **mesh):
            network = self.c.network(n)
            n.extra = {"peers": sorted(peers, key=lambda p: p["node_id"]), "mesh": dict(network["mesh"], revision=self.c.revision + 1, **mesh)}
            self.c.publish(n)
        publish(mine + others)
        wait_for("six peers", lambda: len(n.peers()) == 6, 10)
        publish(mine)
        said = wait_for("the refusal", lambda: (n.mesh() or {}).get("rejected"), 10)
        want("removal" in said or "half" in said, said)
        want(len(n.peers()) == 6, n.peers())
        publish(mine, allow_mass_removal=True)
        wait_for("two peers", lambda: set(n.peers()) == {self.n1.public, self.n3.public} and "rejected" not in n.mesh(), 10)
        n.extra = {}
        self.c.publish()
        for x in self.c.nodes:
            x.applied()
        kit.wait_mesh([self.n1, n])

    def a_narrow_underlay_lowers_the_mtu_and_nothing_is_lost(self):
        w = self.c.wire
        w.run("ip", "link", "set", self.n3.dev, "mtu", "1400")
        self.n3.place.run("ip", "link", "set", "eth0", "mtu", "1400")
        # 3 sees it on its own link, 1 and 2 by the router's Packet Too Big
        try:
            for n in self.c.nodes:
                wait_for("MTU 1320 on %d" % n.number, lambda: "mtu 1320" in n.place.run("ip", "link", "show", "wg-moat"), 40)
            wait_for("full-size packets", lambda: self.n1.ping(self.n3, 1320) and self.n3.ping(self.n2, 1320), 10)
            wait_for("the report", lambda: self.n1.mesh()["mtu"] == 1320 and self.n1.mesh()["underlay_mtu"] == 1400, 15)
            # as narrow as IPv6 allows: the mesh stays at its own least, what does not fit is sent in fragments
            w.run("ip", "link", "set", self.n3.dev, "mtu", "1280")
            self.n3.place.run("ip", "link", "set", "eth0", "mtu", "1280")
            for n in self.c.nodes:
                wait_for("MTU 1280 on %d" % n.number, lambda: "mtu 1280" in n.place.run("ip", "link", "show", "wg-moat"), 40)
            wait_for("packets of that size", lambda: self.n1.ping(self.n3, 1280) and self.n3.ping(self.n2, 1280), 20)
        finally:
            w.run("ip", "link", "set", self.n3.dev, "mtu", "1500")
            self.n3.place.run("ip", "link", "set", "eth0", "mtu", "1500")
            for n in (self.n1, self.n2):
                n.place.run("ip", "-6", "route", "flush", "cache")
        wait_for("MTU 1420 again", lambda: all("mtu 1420" in n.place.run("ip", "link", "show", "wg-moat") for n in self.c.nodes), 40)

    def a_key_is_rotated_under_a_transfer_with_a_kill_in_it(self):
        a, b = self.n1, self.n2
        # the agent makes the key and tells its public half
        want(a.ask({"op": "rotate-key"}) == [{"begun": True}], "not begun")
        public = wait_for("the new key", lambda: [p for p in a.control.posts if p[0].endswith("/self/wg-key")], 5)[-1][1]["public_key"]
        with open(os.path.join(a.dir, "keys/wg.key.next")) as f:
            private = f.read().strip()
        want(os.stat(f.name).st_mode & 0o777 == 0o600 and subprocess.run(["wg", "pubkey"], input=private.encode(), stdout=-1).stdout.decode().strip() == public, public)
        old, marks = a.public, [len(n.events("mesh.repaired")) for n in self.c.nodes[1:]]
        recv = b.place.popen("python3", "-c", COPY, "recv", b.overlay, "7000", "0", stdout=-1)
        want(recv.stdout.readline() == b"ready\n", "no receiver")
        send = a.place.popen("python3", "-c", COPY, "send", b.overlay, "7000", "9", os.path.dirname(os.path.abspath(__file__)), stdout=-1)
        cut = time.time() + 3
        a.rotation = {"next_public_key": public, "cutover_unix_ms": int(cut * 1000)}
        self.c.publish()
        b.applied()
        a.kill()  # in mid-rotation, before the cut-over; the next process finds its place by plan, clock and files
        self.start(a)
        wait_for("the new key at 2, and at 3, each by its own clock", lambda: all(public in n.peers() and old not in n.peers() for n in (b, self.n3)), 8)
        wait_for("the new key at 1", lambda: a.place.run("wg", "show", "wg-moat", "public-key").strip() == public, 8)
        took = time.time() - cut
        # the control plane ends the rotation: the next key is the key
        a.public, a.rotation = public, None
        self.c.publish()
        for n in self.c.nodes:
            n.applied()
        wait_for("the file", lambda: not os.path.exists(os.path.join(a.dir, "keys/wg.key.next")), 5)
        with open(os.path.join(a.dir, "keys/wg.key")) as f:
            want(f.read().strip() == private, "wg.key is not the next key")
        sent, worst = send.communicate(timeout=90)[0].split()
        got = int(recv.communicate(timeout=90)[0])
        want(int(sent) == got, "sent %s, got %d" % (sent.decode(), got))
        print("# %d bytes in one connection, in force after %.2f s, longest stall of the sender %.2f s" % (got, took, float(worst)), flush=True)
        want(float(worst) < 6, "stall of %s s" % worst.decode())
        told = wait_for("the result", lambda: [p for p in a.control.posts if p[0].endswith("/wg-key/result")], 20)
        want(told[-1][1] == {"public_key": public, "ok": True}, told)
        told = [e for n, k in zip(self.c.nodes[1:], marks) for e in n.events("mesh.repaired")[k:] if e["peers_missing"] or e["peers_foreign"]]
        want(not told, "what came at its moment is told as somebody else's change: %s" % told)

    def a_key_that_the_node_does_not_have_is_not_applied(self):
        n, real = self.n3, self.n3.public
        n.public = kit.keypair()[1]
        self.c.publish(n)
        wait_for("the fault", lambda: "another WireGuard key" in n.mesh().get("failed", ""), 5)
        want(n.place.run("wg", "show", "wg-moat", "public-key").strip() == real and n.ping(self.n1), "the mesh went with it")
        n.public = real
        self.c.publish()
        n.applied()

    def a_cut_between_two_nodes_is_seen(self):
        a, b = self.n1, self.n2
        doctor = lambda: next(x for x in a.ask({"op": "doctor"}) if x["check"] == "agent.mesh")
        self.c.cut(a, b)
        try:
            t = time.monotonic()
            wait_for("three lost probes", lambda: a.sees(b).get("lost_in_row", 0) >= 3 and b.sees(a).get("lost_in_row", 0) >= 3, 60)
            print("# seen by both after %.0f s" % (time.monotonic() - t), flush=True)
            # one probe of another pair may be late on a busy machine, not each of them
            wait_for("the third, which answers both", lambda: a.sees(self.n3)["lost_in_row"] == 0 and b.sees(self.n3)["lost_in_row"] == 0, 30)
            wait_for("the doctor's word", lambda: (lambda r: r["severity"] == "warn" and "1 of 2 peers answer" in r["finding"] and "net verify" in r["mend"])(doctor()), 30)
        finally:
            self.c.cut(a, b, on=False)
        wait_for("the end of it", lambda: a.sees(b)["lost_in_row"] == 0 and b.sees(a)["lost_in_row"] == 0, 30)
        wait_for("the doctor's word again", lambda: (lambda r: r["severity"] == "ok" and "2 of 2 peers answer" in r["finding"])(doctor()), 30)

    def a_node_joins_and_leaves(self):
        n4 = kit.Node(self.c, 4, ["worker"])
        n4.conf = {}
        self.c.nodes.append(n4)
        serve = self.n1.place.popen("python3", "-c", OLD, "serve", self.n1.underlay, stdin=-1, stdout=-1)
        want(serve.stdout.readline() == b"ready\n", "no server")
        old = n4.place.popen("python3", "-c", OLD, "ask", self.n1.underlay, stdout=-1)
        want(old.stdout.readline() == b"asked\n", "not connected")
        # 1 knows it before it is there: what is lost until then is told, and is no loss of the path once it answers
        self.c.publish(self.n1)
        wait_for("a lost probe", lambda: self.n1.sees(n4).get("lost_in_row", 0) >= 1, 20)
        t = time.monotonic()
        self.start(n4)
        self.c.publish()
        for n in self.c.nodes:
            n.applied()
        print("# configured everywhere after %.2f s" % (time.monotonic() - t), flush=True)
        seen = wait_for("an answer", lambda: self.n1.sees(n4).get("lost_in_row") == 0 and self.n1.sees(n4), 30)
        want(seen["loss_percent"] == 0, seen)
        listing = ("nft", "list", "chain", "inet", "moat", "in")  # the mesh may be told of before the table is there
        wait_for("the table", lambda: n4.place.ok(*listing) and "policy drop" in n4.place.run(*listing), 10)
        serve.communicate(b"\n")  # it speaks first on a connection that is older than the table
        want(old.communicate()[0] == b"answer\n", "a connection was cut by the table")
        kit.wait_mesh([n4, self.n1])
        self.c.nodes.remove(n4)
        t = time.monotonic()
        self.c.publish()
        wait_for("nobody knows it", lambda: all(n4.public not in n.peers() and n4.overlay not in n.routes() for n in self.c.nodes), 10)
        print("# gone everywhere after %.2f s" % (time.monotonic() - t), flush=True)
        # a plan without a mesh takes all of it down, and the address goes back to lo
        n4.extra = {"mesh": None, "peers": []}
        plan = n4.control.plan
        n4.control.plan = lambda: dict(plan(), network={k: v for k, v in plan()["network"].items() if v is not None})
        n4.control.publish()
        wait_for("the device is gone", lambda: not n4.place.ok("ip", "link", "show", "wg-moat") and not n4.go_pids(), 10)
        wait_for("the address on lo", lambda: n4.overlay + "/128" in n4.place.run("ip", "-6", "addr", "show", "dev", "lo"), 5)
        n4.close()

    def what_makes_the_device_is_found_out_and_the_lack_of_it_told(self):
        n5 = kit.Node(self.c, 5, ["worker"])

        def doctor():
            try:
                return next((x for x in n5.ask({"op": "doctor"}) if x["check"] == "agent.mesh"), {})
            except OSError:  # it does not listen yet
                return {}
        try:
            here = n5.place.ok("ip", "link", "add", "wg-trial", "type", "wireguard")
            here and n5.place.run("ip", "link", "del", "wg-trial")
            n5.start(programs={"wireguard_go": "/nowhere/wireguard-go"})
            if not here:
                said = wait_for("what is missing", lambda: doctor().get("severity") == "fail" and doctor(), 20)
                want("the kernel has no WireGuard" in said["finding"] and "/nowhere/wireguard-go" in said["finding"] and
                     "install the package wireguard-go" in said["finding"], said)
                n5.proc.kill()
                n5.proc.wait()
                n5.start()
            n5.applied()
            want(n5.mesh()["device"] == ("kernel" if here else "wireguard-go"), n5.mesh())
            want(doctor()["severity"] != "fail" and ("kernel" if here else "wireguard-go") in doctor()["finding"], doctor())
        finally:
            n5.close()

    def a_planned_end_leaves_nothing(self):
        n = self.n3
        n.ask({"op": "stop-all", "deadline_ms": 5000})
        n.proc.wait(60)
        want(not n.place.ok("ip", "link", "show", "wg-moat"), "the device is left")
        wait_for("wireguard-go ends", lambda: not n.go_pids(), 5)
        want("moat" not in n.place.run("nft", "list", "tables"), "the table is left")
        want(forwards4(n) == "1", "IPv4 is forwarded no more")
        want(n.overlay not in n.place.run("ip", "-6", "addr"), "the address is left")

    def close(self):
        self.c.close()


P_FOREIGN = "fd00:1:2::99/128"


def main():
    why = kit.missing() or (None if os.geteuid() == 0 else "needs root")
    if why:
        print("skip - the mesh: %s" % why)
        return 0
    report, suite = Report(), Suite()
    names = [n for n, v in vars(Suite).items() if n not in ("__init__", "start", "close") and callable(v)]
    chosen = [n for n in names if not sys.argv[1:] or n in sys.argv[1:] or n == names[0]]
    try:
        for name in chosen:
            t = time.monotonic()
            report.case(name.replace("_", " "), getattr(suite, name))
            if os.environ.get("MOAT_TIMES"):
                print("# %.1f s" % (time.monotonic() - t))
        if report.failed:
            for n in suite.c.nodes:
                print("# node %d: %s" % (n.number, n.tail(12)))
                print("# %s" % json.dumps(n.mesh()))
    finally:
        suite.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
