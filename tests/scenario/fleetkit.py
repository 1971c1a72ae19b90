# SPDX-License-Identifier: Apache-2.0
"""Many nodes without machines: each enrols over the node listener with a token and keys of its own, heartbeats, long-polls its plan and answers it with
reports, as an agent with the fake VM driver would: what it is given is ready at once, what it is told to stop has stopped. One process, a few threads
for all nodes; TLS with client certificates, connections kept. For the scenario tier (a few nodes) and `bench/sched/fleet` (a hundred)."""
import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time

import control_kit as kit

GIB = 1 << 30


def wg():
    return base64.b64encode(os.urandom(31) + b"\x42").decode()


class Node(threading.Thread):
    pool = None  # bytes of storage for volumes, with a store of backups; None: it tells of none

    def __init__(self, fleet, name, memory):
        super().__init__(daemon=True)
        self.fleet, self.name, self.memory = fleet, name, memory
        self.pem = "%s/fleet-%s.pem" % (fleet.w.d, name)
        self.after, self.epoch, self.seq, self.state = 0, 1, 0, {}
        self.stopped, self.beat_at = threading.Event(), 0
        self.quiet = False  # it lives on and is not heard
        self.beats = None  # the connection of heartbeats and reports
        self.polls = None
        self.plan_bytes = self.plan_count = self.reports = 0
        self.lock = threading.Lock()
        self.made = set()  # volumes it has told of

    def connect(self):
        c = http.client.HTTPSConnection(*self.fleet.address, context=self.context, timeout=40)
        c.connect()
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return c

    def enrol(self, token):
        """A key and a request by openssl, the certificate of the platform."""
        csr = subprocess.run(["openssl", "req", "-new", "-newkey", "ed25519", "-nodes", "-keyout", self.pem, "-subj", "/CN=" + self.name],
                             check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        ctx = ssl.create_default_context(cafile=self.fleet.w.d + "/control/node-ca.crt")
        ctx.check_hostname = False
        self.context = ctx
        c = self.connect()
        body = {"token": token.split(".")[0], "csr": csr, "name": self.name, "wireguard_public_key": wg(), "endpoints": [], "arch": "amd64",
                "clock_unix_ms": int(time.time() * 1000), "agent_version": "test"}
        r = self.ask(c, "POST", "/internal/v1/enroll", body)
        c.close()
        assert r.status == 200, (r.status, r.text)
        self.node_id = r.json["node_id"]
        with open(self.pem, "a") as f:
            f.write(r.json["certificate"])
        ctx.load_cert_chain(self.pem)
        self.beats, self.polls = self.connect(), self.connect()
        r = self.ask(self.beats, "POST", "/internal/v1/nodes/self/confirm", {})
        assert r.status in (200, 204), (r.status, r.text)

    def ask(self, c, method, target, body=None):
        try:
            c.request(method, target, json.dumps(body).encode() if body is not None else None, {"Content-Type": "application/json"})
            return kit.Reply(c.getresponse())
        except (OSError, http.client.HTTPException):
            c.close()  # the next request opens it anew; one without its answer would take none any more
            raise

    def post(self, what, body):
        with self.lock:
            return self.ask(self.beats, "POST", "/internal/v1/nodes/self/" + what, body)

    def heartbeat(self):
        storage = {"storage": {"backend": "lvm-thin", "pool_bytes": self.pool, "pool_used_bytes": 0, "healthy": True, "backup_store": True, "restores": True, "orphans": []}}
        r = self.post("heartbeat", {
            **(storage if self.pool else {}),
            "node_id": self.node_id, "agent_version": "test", "arch": "amd64", "conditions": [], "protocols": ["v1"],
            "vmm": {"driver": "qemu", "accel": "tcg", "reason": "test"}, "epoch": self.epoch, "cursor_event_id": self.after,
            "allocatable": {"cpu_millis": 64000, "memory_bytes": self.memory, "disk_bytes": 10000 * GIB},
            "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}, "clock_unix_ms": int(time.time() * 1000)})
        assert r.status in (200, 204), (r.status, r.text)
        self.beat_at = time.monotonic()

    def row(self, instance, status, **more):
        self.seq += 1
        self.state[instance] = status
        return dict({"instance_id": instance, "generation": 1, "status": status, "restart_count": 0, "seq": self.seq}, **more)

    def tell(self, kind, **item):
        """One item of a volume, snapshot or restore."""
        self.seq += 1
        return self.post("status", {"agent_version": "test", "instances": [], kind: [dict(item, seq=self.seq)]})

    def answer(self, plan):
        """The reports that a plan leads to, in one call, as an agent batches them."""
        rows, there = [], set()
        for v in plan.get("volumes", []):
            if v["desired"] == "absent":
                self.tell("volumes", volume_id=v["volume_id"], event="deleted")
            elif not v["was_available"] and "from_restore" not in v and v["volume_id"] not in self.made:
                self.made.add(v["volume_id"])
                self.tell("volumes", volume_id=v["volume_id"], event="provisioned", result="ok", fs_uuid=v["fs_uuid"], size_bytes=v["size_bytes"])
        for kind, name in (("snapshot", "snapshots"), ("restore", "restores")):  # what is no longer wanted ends
            for j in plan.get(kind + "_jobs", []):
                if j["cancel"] and not j.get("done"):
                    self.tell(name, **{kind + "_id": j[kind + "_id"], "status": "failed", "failed_reason": "cancelled"})
        for a in plan["instances"]:
            i, want = a["instance_id"], a["desired_state"]
            have = self.state.get(i)
            there.add(i)
            if want == "running" and have is None:
                rows.append(self.row(i, "ready", boot_id="boot_" + i[5:]))
            elif want != "running" and have != "stopped":
                rows.append(self.row(i, "stopped"))
        for i in [i for i in self.state if i not in there]:
            del self.state[i]
        for k in range(0, len(rows), 100):
            r = self.post("status", {"agent_version": "test", "instances": rows[k:k + 100]})
            assert r.status == 200, (r.status, r.text)
            self.reports += 1

    def run(self):
        while not self.stopped.is_set():
            try:
                r = self.ask(self.polls, "GET", "/internal/v1/nodes/self/plan?after=%d&epoch=%d&wait=20" % (self.after, self.epoch))
                if r.status == 200:
                    plan = r.json
                    self.plan_bytes += len(r.text)
                    self.plan_count += 1
                    self.after, self.epoch = plan["cursor_event_id"], plan["epoch"]
                    self.answer(plan)
                elif r.status != 304:
                    self.stopped.wait(0.2)
            except (OSError, http.client.HTTPException, ssl.SSLError):
                if self.stopped.wait(0.2):
                    return
                with self.lock:
                    try:
                        self.beats, self.polls = self.connect(), self.connect()
                    except OSError:
                        pass

    def vanish(self):
        """As when its power goes: no more heartbeats, no more answers."""
        self.stopped.set()
        for c in (self.polls, self.beats):
            try:
                c.sock.shutdown(socket.SHUT_RDWR)
            except (OSError, AttributeError):
                pass


class Fleet:
    """@n nodes of @w, a World with listen_nodes; @address of that listener."""

    def __init__(self, w, n, address, memory=64 * GIB, first=0):
        host, port = address.rsplit(":", 1)
        self.w, self.address = w, (host, int(port))
        self.nodes = [Node(self, "n%03d" % (first + k), memory) for k in range(n)]
        for node in self.nodes:
            node.enrol(w.ok("POST", "/v1/enrollment-tokens", {"roles": ["worker"]})["token"])
        self.ended = threading.Event()
        self.beating = threading.Thread(target=self.beat, daemon=True)
        for node in self.nodes:
            node.heartbeat()
        self.beating.start()
        for node in self.nodes:
            node.start()

    def beat(self):
        while not self.ended.wait(0.5):
            for node in self.nodes:
                if not node.stopped.is_set() and not node.quiet and time.monotonic() - node.beat_at > 5:
                    try:
                        node.heartbeat()
                    except (OSError, http.client.HTTPException, AssertionError):
                        pass

    def health(self):
        return {x["id"]: x["health"] for x in self.w.ok("GET", "/v1/nodes?limit=200")["items"]}

    def close(self):
        self.ended.set()
        for node in self.nodes:
            node.vanish()
        for node in self.nodes:
            node.join(5)
