# SPDX-License-Identifier: Apache-2.0
"""A moat-agent with a stand-in control plane, in a network namespace of its own: for the agent's scenario tests.

Not a test itself. The control plane is a small HTTP/1.1 server on a Unix socket that hands out one plan and keeps every
report; everything below it is real: registry, image, QEMU, moat-vsock, moat-init, tap, nft.
"""
import base64
import ctypes
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair  # noqa: E402
import imagekit  # noqa: E402

ROOT = imagekit.ROOT
BIN = imagekit.BIN
STANDIN = os.path.join(os.environ.get("MOAT_BUILD", os.path.join(ROOT, "build")), "tests/tools/standin_vm")
CLONE_NEWNET = 0x40000000
P = "fd7a:6d6f:6174"
NODE_ADDRESS = P + "::1"
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def ulid():
    t = int(time.time() * 1000)
    head = "".join(ALPHABET[(t >> (5 * i)) & 31] for i in reversed(range(10)))
    return head + "".join(random.choice(ALPHABET) for _ in range(16))


def new_id(kind):
    return kind + "_" + ulid()


def fs_uuid(volume_id):
    """mt_volume_fs_uuid of src/model/volume.c"""
    n = 0
    for ch in volume_id.split("_")[1]:
        n = n << 5 | ALPHABET.index(ch)
    b = bytearray((n & ((1 << 128) - 1)).to_bytes(16, "big"))
    b[6], b[8] = b[6] & 0x0f | 0x80, b[8] & 0x3f | 0x80
    h = b.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


def make_bundle():
    """Folder of the tree's kernel bundle, built from the Debian archive at most once for a moat-init; for the first time where there is a network."""
    given, place = os.environ.get("MOAT_BOOT_DIR"), os.path.join(ROOT, "build-bundle")
    if not given:
        given = os.path.join(place, "boot")
        sh(os.path.join(ROOT, "packaging/bundle/make-bundle"), "--init", os.path.join(BIN, "moat-init"), "--out", given,
           "--cache", os.path.join(place, "cache"))
    return given


def own_network():
    """The whole test process moves into a fresh network namespace; the cgroup mounts stay visible."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def own_mounts():
    """What this process and its children mount from here on, nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 16384 | 1 << 18, None) != 0:  # CLONE_NEWNS; MS_REC | MS_PRIVATE
        raise OSError(ctypes.get_errno(), "unshare")


def sh(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, **kw).stdout.decode()


def within(what, fn, seconds, every=0.02):
    """First true value of fn(); that it comes within @seconds is the claim."""
    end, pace = fair.now() + seconds, fair.Pace(every)
    while True:
        got = fn()
        if got:
            return got
        if fair.now() > end:
            raise AssertionError("waited %g s for %s" % (seconds, what))
        pace.rest()


def wait_for(what, fn, seconds=20, every=0.02):
    """First true value of fn(); when it comes is not the claim."""
    return within(what, fn, fair.limit(seconds), every)


# What control/nodes/node.c answers to who speaks another protocol.
kit_problem = {"type": "urn:moat:error:agent_incompatible", "title": "The agent's version does not fit", "status": 426, "code": "agent_incompatible", "retryable": False,
               "detail": "this control plane (moat 9.9.9) speaks node/9 with its nodes, the caller node/1: install on the node the version that the control plane has. What runs there goes on"}


class Control:
    """The internal API of control-plane.md 9.6, as much of it as an agent calls."""

    def __init__(self, path, node_id):
        self.path, self.node_id = path, node_id
        self.cluster_id = "cl_" + ulid()  # as moat-control makes them
        self.lock = threading.Condition()
        self.cursor, self.epoch, self.assignments = 1, 1, {}
        self.extra = {}
        self.keyless = 0  # status to answer to who asks for a volume's key
        self.turned_away = 0  # heartbeats, while it was down
        self.storage = []  # items of volumes, snapshots, restores
        self.batches = []  # how many items of each kind a batch had
        self.reports, self.beats, self.polls, self.posts = [], [], [], []
        self.logins = {}  # id of an instance or of a proof to its registry (imagekit.Registry)
        self.secrets, self.asked = {}, []  # version id to (instance ids that may, content) or (status, code); who asked for what
        self.drains, self.drain_secrets = [], {}  # as a node is told of them; id to what it is given for one
        self.strange = False  # 426 to all, as a control plane of another protocol answers
        self.strangers = 0  # calls that were answered so
        self.fail = 0  # status to answer to reports instead of 200
        self.on_drain = (200, {"admin_state": "draining"})  # what a node hears that asks to be drained
        self.plan_id = ulid()
        self.server, self.down = None, False
        self.start()

    def start(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def reply(self, status, body=None):
                data = json.dumps(body, separators=(",", ":")).encode() if body is not None else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def away(self):
                if outer.strange and not outer.down:
                    outer.strangers += 1
                    self.reply(426, dict(kit_problem))
                    return True
                if outer.down:
                    outer.turned_away += self.path.endswith("/heartbeat")
                    self.close_connection = True
                return outer.down

            def do_GET(self):
                if self.away():
                    return
                if self.path.endswith("/log-drains"):
                    return self.reply(200, {"log_drains": outer.drains})
                query = dict(p.split("=") for p in self.path.partition("?")[2].split("&"))
                got = outer.poll(int(query["after"]), min(float(query["wait"]), outer.extra.get("_wait", 30)))
                if self.away():
                    return
                self.reply(200, got) if got else self.reply(304)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.away():
                    return
                if self.path.endswith("/heartbeat"):
                    with outer.lock:
                        outer.beats.append(body)
                        outer.lock.notify_all()
                    return self.reply(200, {"admin_state": "active", "epoch": 1, "plan_cursor": outer.cursor})
                with outer.lock:
                    outer.posts.append((self.path, body))
                if self.path.endswith("/registry-credential"):
                    login = outer.logins.get(body.get("instance_id") or body.get("restore_id"))
                    return self.reply(200, {"host": login.host, "username": login.login[0], "password": login.login[1]}) if login else self.reply(404, {"code": "not_found"})
                if self.path.endswith("/log-drain"):
                    return self.reply(200, outer.drain_secrets[body["log_drain_id"]]) if body["log_drain_id"] in outer.drain_secrets else self.reply(404, {"code": "not_found"})
                if self.path.endswith("/volume-key"):
                    return self.reply(*outer.volume_key(body))
                if self.path.endswith("/secrets"):
                    return self.reply(*outer.secret(body))
                if self.path.endswith("/self/drain"):
                    return self.reply(*outer.on_drain)
                if outer.fail:
                    return self.reply(outer.fail, {"code": "unavailable"})
                with outer.lock:
                    items = body.get("instances") or body.get("reports") or []
                    outer.reports += [dict(r, at=time.monotonic()) for r in items]
                    outer.batches.append({kind: len(body.get(kind) or []) for kind in ("instances", "volumes", "snapshots", "restores")})
                    outer.storage += [dict(r, kind=kind) for kind in ("volumes", "snapshots", "restores") for r in body.get(kind) or []]
                    outer.lock.notify_all()
                self.reply(200, {"accepted": len(items)})

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # an agent that was killed leaves its connections half way

            def get_request(self):
                conn, _ = self.socket.accept()
                return conn, ("agent", 0)

        if os.path.exists(self.path):
            os.unlink(self.path)
        self.down = False
        self.server = Server(self.path, Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.down = True
        self.publish()  # wakes the long poll, which then hangs up
        self.server.shutdown()
        self.server.server_close()
        os.unlink(self.path)

    def volume_key(self, body):
        """What moat-control answers (src/control/api/volume_key.c)."""
        if self.keyless:
            return self.keyless, {"code": "master_key_unavailable"}
        if not any(j["snapshot_id"] == body["job_id"] and j["volume_id"] == body["volume_id"] for j in self.extra.get("snapshot_jobs", [])) and \
           not any(j["restore_id"] == body["job_id"] and j["source_volume_id"] == body["volume_id"] for j in self.extra.get("restore_jobs", [])):
            return 403, {"code": "forbidden"}
        return 200, {"key_epoch": 1, "key": "11" * 32, "wrapped": base64.b64encode(b"W" * 72).decode()}

    def snapshot(self, volume, **more):
        """A job of the plan's section for @volume; published."""
        j = dict({"snapshot_id": new_id("snap"), "volume_id": volume["volume_id"], "org_id": volume["org_id"], "origin": "manual", "key_epoch": 1,
                  "full_read": False, "cancel": False}, **more)
        self.extra["snapshot_jobs"] = sorted(self.extra.get("snapshot_jobs", []) + [j], key=lambda x: x["snapshot_id"])
        self.publish()
        return j

    def snapshot_over(self, job):
        self.extra["snapshot_jobs"].remove(job)
        self.publish()

    def restore(self, source, snapshot_id, size=1 << 30, **more):
        """A restore into a new volume, and that volume; published."""
        v = self.volume("back", size, from_restore=new_id("rst"))
        del v["fs_uuid"]  # its image brings one
        j = dict({"restore_id": v["from_restore"], "snapshot_id": snapshot_id, "source_volume_id": source["volume_id"], "source_org_id": source["org_id"],
                  "new_volume_id": v["volume_id"], "size_bytes": size, "key_epoch": 1, "cancel": False}, **more)
        if more.get("proof"):  # nobody ever sees its volume
            self.extra["volumes"].remove(v)
        self.extra["restore_jobs"] = sorted(self.extra.get("restore_jobs", []) + [j], key=lambda x: x["restore_id"])
        self.publish()
        return j, v

    def restore_over(self, job, volume, told):
        """What the end of a job does to its volume: it is there, or gone again."""
        self.extra["restore_jobs"].remove(job)
        if job.get("proof"):
            pass
        elif told["status"] == "succeeded":
            volume.update(was_available=True, fs_uuid=told["fs_uuid"])
        else:
            self.extra["volumes"].remove(volume)
        self.publish()

    def wait_restore(self, job, status, seconds=60, **fields):
        return self.wait_job("restore_id", job, status, seconds, **fields)

    def told_of(self, job_id, key="snapshot_id"):
        with self.lock:
            return [r for r in self.storage if r.get(key) == job_id]

    def wait_snapshot(self, job, status, seconds=60, **fields):
        return self.wait_job("snapshot_id", job, status, seconds, **fields)

    def wait_job(self, key, job, status, seconds=60, **fields):
        def look():
            for r in self.told_of(job[key], key):
                if r["status"] == status and all(r.get(k) == v for k, v in fields.items()):
                    return r
        try:
            return wait_for("%s %s %s" % (key, status, fields), look, seconds)
        except AssertionError as e:
            raise AssertionError("%s; told %s" % (e, self.told_of(job[key], key)[-4:])) from None

    def secret(self, body):
        """What moat-control answers (src/control/api/delivery.c)."""
        with self.lock:
            self.asked.append((body["instance_id"], body["version_id"]))
        may, content = self.secrets.get(body["version_id"], ((), b""))
        if isinstance(may, int):
            return may, {"code": content}
        if body["instance_id"] not in may:
            return 403, {"code": "forbidden"}
        return 200, {"version_id": body["version_id"], "encoding": "base64", "sha256": hashlib.sha256(content).hexdigest(),
                     "data": base64.b64encode(content).decode()}

    def plan(self):
        return dict({"spec_version": "v1", "cluster_id": self.cluster_id, "node_id": self.node_id, "epoch": self.epoch,
                     "cursor_event_id": self.cursor, "plan_id": self.plan_id, "instances": list(self.assignments.values()),
                     "network": {"mtu": 1420, "cluster_prefix": P + "::/48", "overlay_ipv6": NODE_ADDRESS,
                                 "instance_prefix": P + ":1:1::/80", "dns": [], "edges": [NODE_ADDRESS], "gateways": [],
                                 "egress_mode": "none"}},
                    **{k: v for k, v in self.extra.items() if not k.startswith("_")})

    def poll(self, after, wait):
        end = time.monotonic() + wait
        with self.lock:
            while after >= self.cursor and time.monotonic() < end:
                self.lock.wait(max(0.01, min(0.5, end - time.monotonic())))
            return self.plan() if after < self.cursor else None

    def publish(self):
        with self.lock:
            self.cursor += 1
            self.plan_id = ulid()
            self.lock.notify_all()

    def want(self, instance_id, state="running", workload=None, delay=0, generation=None):
        a = self.assignments.get(instance_id, {"assignment_id": ulid(), "instance_id": instance_id, "generation": 1})
        a = dict(a, desired_state=state, drain_delay_seconds=delay)
        if workload:
            a["workload"] = workload
            a["generation"] = workload["generation"]
        self.assignments[instance_id] = a
        self.publish()

    def drop(self, instance_id):
        del self.assignments[instance_id]
        self.publish()

    def volume(self, name="data", size=1 << 30, **more):
        """A volume of the plan's section, as docs/formats/volume-plan.md has it. Not published yet."""
        i = new_id("vol")
        v = dict({"volume_id": i, "org_id": new_id("org"), "app_id": new_id("app"), "env_id": new_id("env"), "name": name, "size_bytes": size,
                  "fs_uuid": fs_uuid(i), "desired": "present", "was_available": False}, **more)
        self.extra["volumes"] = sorted(self.extra.get("volumes", []) + [v], key=lambda x: x["volume_id"])
        return v

    def wait_volume(self, volume_id, event, seconds=30, since=0, **fields):
        def look():
            with self.lock:
                mine = [r for r in self.storage[since:] if r.get("volume_id") == volume_id]
            for r in mine:
                if r["event"] == event and all(r.get(k) == v for k, v in fields.items()):
                    return r
        try:
            return wait_for("%s %s %s" % (volume_id, event, fields), look, seconds)
        except AssertionError as e:
            raise AssertionError("%s; told %s" % (e, self.storage[since:][-6:])) from None

    def reports_of(self, instance_id):
        with self.lock:
            return [r for r in self.reports if r["instance_id"] == instance_id]

    def wait_status(self, instance_id, status, seconds=60, since=0, **fields):
        def look():
            for r in self.reports_of(instance_id)[since:]:
                if r["status"] == status and all(r.get(k) == v for k, v in fields.items()):
                    return r
        try:
            return wait_for("%s %s" % (instance_id, status), look, seconds)
        except AssertionError as e:
            seen = [(r["status"], r.get("status_detail"), r.get("reason_code"), r.get("reason_detail")) for r in self.reports_of(instance_id)]
            raise AssertionError("%s; seen %s" % (e, seen[-6:])) from None


def choices():
    """Where the files of one run of tests/run keep which driver the probe boot chose, or None: they boot one guest of the same bundle
    for it after the other (2 s of processor each), on one machine."""
    given = os.environ.get("MOAT_BOOT_DIR")
    return given and os.path.join(os.path.dirname(given), "choice")


def lend_choice(run, want):
    """Before an agent's first start: what it would find in @run had it started before. It believes only what was probed with its own bundle,
    programs and @want since the machine's boot."""
    known = choices() and os.path.join(choices(), want + ".json")
    if known and os.path.exists(known) and not os.path.exists(os.path.join(run, "vmm.json")):
        os.makedirs(run, 0o755, exist_ok=True)
        shutil.copy(known, os.path.join(run, "vmm.json"))


def keep_choice(run):
    """At the end: the first one's is kept for the others, unless it is of programs that only this one has."""
    try:
        with open(os.path.join(run, "vmm.json")) as f:
            text = f.read()
        want, _, rest = json.loads(text)["key"].partition("|")
    except (OSError, ValueError, KeyError):
        return
    if choices() and "/programs/" not in rest:
        os.makedirs(choices(), exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=choices(), delete=False) as f:
            f.write(text)
            os.fchmod(f.fileno(), 0o644)
        os.rename(f.name, os.path.join(choices(), want + ".json"))


def stand_in(folder):
    """Keys of agent.toml for an agent whose VMs are none (tests/tools/standin_vm.c): for claims about the host and the agent, in which no guest
    takes part. All but QEMU and moat-vsock is real, and a boot costs 20 ms of processor instead of 2 s. Filled into @folder once."""
    qemu = os.path.join(folder, "qemu")
    if not os.path.exists(folder):
        os.mkdir(folder, 0o755)
        for name in ("moat-backup", "moat-fetch", "moat-forward", "moat-unpack"):
            shutil.copy(os.path.join(BIN, name), folder)
        for name in ("moat-vsock", "qemu"):
            shutil.copy(STANDIN, os.path.join(folder, name))
    return {"bin_dir": folder, "programs": {"qemu": qemu}}


def answer_for_instances(prefix, port):
    """A stand-in has no ports: from here on all addresses of @prefix are this process's, which listens at @port as a tcp check wants it."""
    sh("ip", "-6", "route", "add", "local", prefix, "dev", "lo")
    listener = socket.socket(socket.AF_INET6)
    listener.bind(("::", port))
    listener.listen(256)

    def answer():
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return
    threading.Thread(target=answer, daemon=True).start()


class World:
    """Data folder, registry, images, control plane and agent of one scenario file."""

    def __init__(self, name, registry=True):
        self.dir = tempfile.mkdtemp(prefix="mt-agent-%s-" % name, dir=os.environ.get("MOAT_TEST_TMP", "/var/tmp"))
        os.chmod(self.dir, 0o755)
        for d in ("run", "boot"):
            os.mkdir(os.path.join(self.dir, d), 0o755)
        self.node_id = new_id("node")
        self.org, self.app, self.env = new_id("org"), new_id("app"), new_id("env")
        self.next_address = 1
        self.proc = None
        self.log_path = os.path.join(self.dir, "agent.log")
        self.conf = {}  # further keys of every start
        self.cgroup = "moat-test-%d.slice/instances" % os.getpid()
        self.registry = imagekit.Registry(os.path.join(self.dir, "reg")) if registry else None
        self.registries = [self.registry.host] if registry else []  # that the agent may reach here
        self.control = Control(os.path.join(self.dir, "run/internal.sock"), self.node_id)

    # -- pieces

    def bundle(self):
        """The tree's kernel bundle becomes the agent's."""
        given = make_bundle()
        os.rmdir(os.path.join(self.dir, "boot"))
        os.symlink(given, os.path.join(self.dir, "boot"))

    def stand_in(self):
        """Keys of a configuration whose VMs are stand-ins (stand_in below)."""
        return stand_in(os.path.join(self.dir, "programs"))

    def testapp(self):
        path = os.path.join(self.dir, "testapp")
        if not os.path.exists(path):
            sh("gcc", "-static", "-O1", "-o", path, os.path.join(ROOT, "tests/scenario/lib/testapp.c"))
        with open(path, "rb") as f:
            return f.read()

    def push(self, config=None, name="app", registry=None):
        """An image that holds only the test program; returns (repository, digest)."""
        store = imagekit.Store(os.path.join(self.dir, "src"))
        layer = imagekit.tar(imagekit.entry("app", data=self.testapp(), mode=0o755), imagekit.entry("etc/", b"5"))
        digest = store.image([layer], config=config or {"Entrypoint": ["/app"], "Cmd": ["serve", "8080"], "Env": ["WORD=image"]})
        lay = imagekit.layout(store, os.path.join(self.dir, "layout-" + name), "t", digest)
        registry = registry or self.registry
        registry.push(lay, name + ":t")
        return "%s/%s" % (registry.host, name), digest

    def workload(self, image, instance_id=None, command=(), generation=1, ports=(8080,), memory=96, **more):
        address = "%s:1:1::%x" % (P, self.next_address)
        self.next_address += 1
        w = {"spec_version": "v1", "org_id": self.org, "app_id": self.app, "env_id": self.env, "process_type": "web",
             "instance_id": instance_id or new_id("inst"), "generation": generation, "release_id": new_id("rel"),
             "manifest_hash": "sha256:" + "0" * 64, "spec_hash": imagekit.sha(repr((image, command, more, generation)).encode()),
             "image": {"repository": image[0], "resolved_digest": image[1], "os": "linux", "arch": "amd64"},
             "command": list(command), "env_vars": {"WORD": "moat"},
             "resources": {"cpu_millis": 500, "memory_bytes": memory << 20, "disk_bytes": 1 << 30},
             "network": {"overlay_ipv6": address, "ports": [{"name": "p%d" % p, "port": p, "protocol": "tcp"} for p in ports]},
             "lifecycle": {"stop_grace_seconds": 2, "stop_signal": "TERM", "restart_policy": "always", "backoff_seconds": 1}}
        w.update(more)
        return w

    # -- agent

    def start(self, ready=True, env=None, **conf):
        keys = dict({"node_id": self.node_id, "data_dir": self.dir, "vmm": "qemu", "host_firewall": "taps", "bin_dir": BIN,
                     "log_level": "debug", "worker_user": "nobody", "heartbeat_ms": 500, "cgroup_parent": self.cgroup}, **dict(self.conf, **conf))
        lines = ["%s = %s" % (k, json.dumps(v)) for k, v in keys.items() if not isinstance(v, dict)]
        for k, table in keys.items():
            if isinstance(table, dict):
                lines += ["[%s]" % k] + ["%s = %s" % kv for kv in ((n, json.dumps(v)) for n, v in table.items())]
        if self.registry:
            lines += ["[image]", "local_registries = %s" % json.dumps(self.registries),
                      "insecure_registries = %s" % json.dumps(self.registries)]
        path = os.path.join(self.dir, "agent.toml")
        with open(path, "w") as f:
            f.write("\n".join(lines) + "\n")
        if "programs" not in keys:
            lend_choice(os.path.join(self.dir, "run"), keys["vmm"])
        log = open(self.log_path, "ab")
        self.proc = subprocess.Popen([os.path.join(BIN, "moat-agent"), "--config", path], stderr=log, stdout=log,
                                     env=dict(os.environ, **(env or {})), start_new_session=True)
        log.close()
        if ready:
            wait_for("the local socket", lambda: self.proc.poll() is not None or self.alive(), 10)
            if self.proc.poll() is not None:
                raise AssertionError("agent ended with %s: %s" % (self.proc.returncode, self.tail(5)))
        return self.proc

    def alive(self):
        try:
            self.ask({"op": "list"})
            return True
        except OSError:
            return False

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def ended(self, seconds=60):
        """Status of an agent that ends by itself, or was told to; when is not the claim."""
        wait_for("the agent's end", lambda: self.proc.poll() is not None, seconds)
        return self.proc.returncode

    def end(self, seconds=10):
        """SIGTERM: VMs go on."""
        self.proc.terminate()
        return self.ended(seconds)

    def stop_all(self, deadline_ms=15000):
        got = self.ask({"op": "stop-all", "deadline_ms": deadline_ms}, deadline_ms / 1000 + 10)
        return got, self.ended()

    def ask(self, request, seconds=60):
        """How soon it answers is never the claim: a socket's time is the wall's, and an agent without a processor is late."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(max(60, seconds))
        s.connect(os.path.join(self.dir, "run/agent.sock"))
        s.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while True:
            part = s.recv(65536)
            if not part:
                break
            data += part
        s.close()
        return [json.loads(l) for l in data.decode().splitlines()]

    def describe(self, instance_id):
        return self.ask({"op": "describe", "instance_id": instance_id})[0]

    def tail(self, lines=12):
        with open(self.log_path, errors="replace") as f:
            return " | ".join(l.strip()[:300] for l in f.readlines()[-lines:])

    def log_events(self, name):
        with open(self.log_path, errors="replace") as f:
            rows = [json.loads(l) for l in f if l.startswith("{") and l.endswith("\n")]  # one that is being written is of the next look
        return [r for r in rows if r["msg"] == name]

    # -- what is on the host

    def vm_processes(self):
        """pids of QEMU and moat-vsock of this data folder's cgroup"""
        out = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cgroup" % pid) as f:
                    mine = self.cgroup in f.read()
                if mine:
                    out[int(pid)] = os.path.basename(os.readlink("/proc/%s/exe" % pid))
            except OSError:
                continue
        return out

    def kill_vms(self):
        """All at once, as a loss of power would, and until they are gone."""
        def left():
            for pid in self.vm_processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass  # the other of its pair took it along
            return self.vm_processes()
        wait_for("the end of all VMs", lambda: not left(), 30)

    def host(self):
        """Everything the agent may leave behind, as one comparable value."""
        cgroups = []
        for top, dirs, _ in os.walk("/sys/fs/cgroup"):
            cgroups += [os.path.join(top, d) for d in dirs if self.cgroup.split("/")[0] in os.path.join(top, d)]
            if top.count("/") > 6:
                dirs[:] = []
        jail = os.path.join(self.dir, "jail")
        jails = [os.path.join(k, i) for k in sorted(os.listdir(jail)) for i in sorted(os.listdir(os.path.join(jail, k)))] if os.path.isdir(jail) else []
        scratch = os.path.join(self.dir, "scratch")
        with open("/proc/self/mountinfo") as f:
            mounts = sorted(l.split(" ", 4)[4] for l in f if self.dir in l)
        with open("/proc/sys/net/ipv6/conf/all/forwarding") as f:
            forwarding = f.read().strip()
        return {"processes": self.vm_processes(), "links": sh("ip", "-o", "link").count("\n"),
                "addresses": sh("ip", "-6", "-o", "addr", "show", "dev", "lo"), "routes": sh("ip", "-6", "route"),
                "nft": sh("nft", "list", "ruleset"), "cgroups": [c for c in cgroups if c.endswith("/vm") or "instances/" in c],
                "jails": jails, "scratch": sorted(os.listdir(scratch)) if os.path.isdir(scratch) else [], "mounts": mounts,
                "forwarding": forwarding}

    def close(self):
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.kill_vms()
        if self.registry:
            self.registry.stop()
        keep_choice(os.path.join(self.dir, "run"))
        keep = os.environ.get("MOAT_KEEP")
        for top in ("/sys/fs/cgroup",):
            for base, dirs, _ in os.walk(top, topdown=False):
                if self.cgroup.split("/")[0] in base:
                    for _ in range(20):
                        try:
                            os.rmdir(base)
                            break
                        except OSError:
                            time.sleep(0.05)
        if not keep:
            subprocess.run(["rm", "-rf", self.dir], check=False)
