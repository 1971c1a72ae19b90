#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One writer of a volume, with nothing stood in: moat-control, two machines (each a network namespace on one link) with moat-agents, QEMU microVMs that write and
fsync, volumes on XFS, versitygw as the store. A volume moves to the other machine; one moves whose machine is cut off in the middle of it; and a machine that
is cut off is declared lost and its volume recovered on the other, while its own VM goes on writing in the dark until the link is back.
All the time it is looked who has a volume's file open for writing. COST 75 s, 31 s of processor."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "lib")]
import platform_kit  # noqa: E402
if os.geteuid() != 0:
    print("skip - a volume in a partition: needs root")
    sys.exit(0)
import backupkit as bk  # noqa: E402
why = bk.versitygw()[1]  # made where there is a network
platform_kit.own_host()
import agentkit  # noqa: E402
import control_kit as kit  # noqa: E402
import imagekit  # noqa: E402
import meshkit  # noqa: E402
import test_agent_backups as files  # noqa: E402
from control_kit import case, wait_for  # noqa: E402

why = why or meshkit.missing()
kit.need("a volume in a partition", "moat-agent", "moat")
BIN, AT = imagekit.BIN, "10.79.0.1"
CONTROL = AT + ":7443"
MANIFEST = """schema_version = "v1"
[image]
ref = "%s"
[processes.db]
command = ["/app", "keep", "/data", "beat"]
[processes.db.resources]
memory = "96Mi"
cpu = 0.5
disk = "1Gi"
[[processes.db.ports]]
name = "main"
internal = 8080
[[processes.db.mounts]]
volume = "data"
path = "/data"
[[volumes]]
name = "data"
size = "1Gi"
"""


def sh(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, text=True, **kw).stdout


class Machine:
    """A host of its own behind one link, which can be cut."""

    def __init__(self, name, number):
        self.name, self.ip, self.d, self.dev = name, "10.79.0.%d" % number, scratch + "/" + name, "v%d" % number
        self.cgroup, self.agent = "moat-%d/%s" % (os.getpid(), name), None
        os.makedirs(self.d + "/run")
        os.symlink(scratch + "/boot", self.d + "/boot")
        self.place = meshkit.Place()
        self.place.run("umount", "/sys")  # its own has no cgroups
        sh("ip", "link", "add", self.dev, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
        sh("ip", "link", "set", self.dev, "master", "br0", "up")
        self.place.run("ip", "addr", "add", self.ip + "/24", "dev", "eth0")
        self.place.run("ip", "link", "set", "eth0", "up")
        self.registry = self.place.popen("docker-registry", "serve", registry.config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def join(self):
        conf = {"data_dir": self.d, "bin_dir": BIN, "host_firewall": "full", "host_accepted": ["nofile"], "edge_user": "nobody", "control_user": "nobody", "worker_user": "nobody", "fsck_user": "nobody",
                "vmm": "qemu", "heartbeat_ms": 500, "cgroup_parent": self.cgroup, "egress_mode": "none"}
        with open(self.d + "/agent.toml", "w") as f:
            f.write("".join("%s = %s\n" % (k, json.dumps(v)) for k, v in conf.items()))
            f.write("[limits]\npatience = 3\n[storage]\nbackend = \"reflink\"\nbackup_file = %s\n" % json.dumps(self.d + "/backup.toml"))
            f.write("[image]\nlocal_registries = [%s]\ninsecure_registries = [%s]\n" % (json.dumps(registry.host), json.dumps(registry.host)))
        with open(os.open(self.d + "/backup.toml", os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write('endpoint = "http://%s:%d"\nbucket = "%s"\nprefix = "p"\naccess_key = "%s"\nsecret_key = "%s"\ntries = 1\nallow_insecure = true\n'
                    % (AT, proxy.port, bk.BUCKET, bk.ACCESS, bk.SECRET))
        agentkit.lend_choice(self.d + "/run", "qemu")
        # an edge's node may reach the VMs: so this test may, from there
        t = w.ok("POST", "/v1/enrollment-tokens", {"roles": ["worker", "edge"]})["token"]
        r = subprocess.run(self.place.argv(BIN + "/moat-agent", "--config", self.d + "/agent.toml", "join", "--control", CONTROL, "--token", "-", "--name", self.name,
                                           "--endpoint", self.ip + ":51820"), input=t, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        assert r.returncode == 0, r.stdout
        self.start()

    def start(self):
        self.agent = self.place.popen(BIN + "/moat-agent", "--config", self.d + "/agent.toml", stderr=open(self.d + "/agent.log", "ab"), start_new_session=True)

    def kill(self):
        self.agent.kill()
        self.agent.wait()

    def cut(self, on=True):
        sh("ip", "link", "set", self.dev, "down" if on else "up")

    def ask(self, address, path=""):
        return subprocess.run(self.place.argv("curl", "-6", "-s", "-m", "120", "http://[%s]:8080/%s" % (address, path)), stdout=subprocess.PIPE).stdout.decode()

    def vms(self):
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cgroup" % pid) as f:
                    mine = self.cgroup + "/" in f.read()
                if mine and "qemu" in os.readlink("/proc/%s/exe" % pid):
                    out.append(int(pid))
            except OSError:
                continue
        return out

    def log(self):
        return open(self.d + "/agent.log", errors="replace").read()

    def image(self, volume_id):
        return "%s/volumes/vol-%s.img" % (self.d, volume_id)

    def kept(self, volume_id):
        """What is kept in a volume that nobody has; also when its VM was too slow to unmount it, and the last of it is in its journal."""
        copy = scratch + "/looked-at"
        sh("cp", "--reflink=auto", self.image(volume_id), copy)
        subprocess.run(["e2fsck", "-fy", copy], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        out = subprocess.run(["debugfs", "-R", "cat /kept", copy], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        os.unlink(copy)
        return out.split()

    def close(self):
        try:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(60)
            s.connect(self.d + "/run/agent.sock")
            s.sendall(b'{"op":"stop-all","deadline_ms":3000}\n')
            s.recv(4096)
            self.agent.wait(120)
        except (OSError, subprocess.TimeoutExpired):
            pass
        if self.agent and self.agent.poll() is None:
            self.kill()
        agentkit.keep_choice(self.d + "/run")
        self.registry.kill()
        self.registry.wait()
        self.place.close()


class Watch(threading.Thread):
    """Who has the file of a volume open for writing, looked at all the time: the file is told by its inode, a VM knows it by another name."""

    def __init__(self, machines):
        super().__init__(daemon=True)
        self.machines, self.stopped, self.two, self.most, self.looks, self.allowed = machines, False, [], 0, 0, 1
        self.wrote = set()  # volumes that somebody was seen to write

    def look(self):
        names = {}
        for m in self.machines:
            folder = m.d + "/volumes"
            for f in os.listdir(folder) if os.path.isdir(folder) else []:
                if f.startswith("vol-") and f.endswith(".img"):
                    try:
                        names[os.stat(folder + "/" + f).st_ino] = f[4:-4]
                    except OSError:
                        continue  # gone meanwhile
        writers = {}
        for m in self.machines:
            for pid in m.vms():
                try:
                    for fd in os.listdir("/proc/%d/fd" % pid):
                        ino = os.stat("/proc/%d/fd/%s" % (pid, fd)).st_ino
                        with open("/proc/%d/fdinfo/%s" % (pid, fd)) as f:
                            flags = int(next(line for line in f if line.startswith("flags:")).split()[1], 8)
                        if ino in names and flags & os.O_ACCMODE != os.O_RDONLY:
                            writers.setdefault(names[ino], set()).add(pid)
                except (OSError, StopIteration):
                    continue  # ended meanwhile
        return writers

    def run(self):
        while not self.stopped:
            writers = self.look()
            self.looks += 1
            self.wrote |= set(writers)
            self.two += [(v, p) for v, p in writers.items() if len(p) > 1]
            self.most = max(self.most, len(writers))
            time.sleep(0.05)

    def well(self, most=1):
        """No volume had two writers so far; and @most volumes had one at one time since this was asked last, which also says that it sees who writes."""
        got, self.most = self.most, 0
        assert not self.two, "two VMs had one volume open for writing: %s" % self.two[:3]
        assert got == most, "%d VMs wrote at one time, not %d" % (got, most)


def instances():
    return [i for i in w.ok("GET", E + "/instances")["items"] if i["status"] != "stopped"]


def volumes():
    return {v["name"]: v for v in w.ok("GET", E + "/volumes")["items"]}


def serving(m):
    """The only instance, ready on @m: its address."""
    def look():
        i = instances()
        return len(i) == 1 and i[0]["status"] == "ready" and i[0]["node_id"] == m.id and i[0]["overlay_ipv6"]
    return wait_for("the process on " + m.name, look, 60)


def health(m):
    return w.ok("GET", "/v1/nodes/" + m.id)["health"]


def moat(*words, want=0):
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
    p = subprocess.run([BIN + "/moat", *words, "--org", "local", "--app", "shop", "--env", "prod"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    assert p.returncode == want if want is not None else p.returncode != 0, "moat %s: %d %s" % (" ".join(words), p.returncode, p.stdout[-600:])
    return p.stdout


def migration(target):
    moat("volumes", "migrate", "data", "--to-node", target.id, "--no-wait")
    return w.ok("GET", O + "/migrations?order=desc")["items"][0]["id"]


def of(job, *, phase=None, status=None, seconds=60):
    def look():
        m = w.ok("GET", O + "/migrations/" + job)
        assert m["status"] != "failed" or status == "failed", m
        return (m.get("phase") == phase if phase else m["status"] == status) and m
    return wait_for("migration %s" % (phase or status), look, seconds)


def write(m, address, word, all_of):
    got = wait_for("'%s' to be written" % word, lambda: m.ask(address, "w/" + word), 20)
    assert got.split("|")[0].split() == all_of, got


scratch = tempfile.mkdtemp(prefix="mv", dir="/tmp")  # short: sockets of jails are below it
objects = tempfile.mkdtemp(prefix="mt-objects-", dir="/var/tmp")
why = why or files.xfs(scratch, 16 << 30)
if why:
    kit.skip("a volume in a partition", why)
    sys.exit(0)
os.chmod(scratch, 0o755)
os.makedirs("/run/wireguard", exist_ok=True)
sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", AT + "/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
given = agentkit.make_bundle()
shutil.copytree(given, scratch + "/boot", symlinks=True)  # kernel and init enter a jail as links: one filesystem
registry = imagekit.Registry(objects + "/reg")
store = bk.Store("versitygw", objects)
gate = {"fault": None}
proxy = bk.Proxy(store.port, lambda n, line: gate["fault"] and gate["fault"](line), address=AT)
w = kit.World(listen_nodes=CONTROL, nodes_address=CONTROL, local_registries=[registry.host], insecure_registries=[registry.host], rate_limit_percent=1000,
              suspect_seconds=10, offline_seconds=600, startup_grace_seconds=0, drain_delay_seconds=0)
machines, watch, words = [], None, []
try:
    one, two = Machine("one", 2), Machine("two", 3)
    machines = [one, two]

    @case("two machines join, and what is deployed writes to its volume on one of them")
    def _():
        global O, A, E, watch, one, two, at
        one.join()
        wait_for("its choice of a driver", lambda: os.path.exists(one.d + "/run/vmm.json"), 120)
        shutil.copy(one.d + "/run/vmm.json", two.d + "/run")  # which is that of the other too: what it depends on is the same
        two.join()
        O = w.org()
        for m in machines:
            m.id = next(n["id"] for n in w.ok("GET", "/v1/nodes")["items"] if n["name"] == m.name)
        wait_for("both", lambda: {health(m) for m in machines} == {"ready"}, 60)
        src = imagekit.Store(scratch + "/src")
        sh("gcc", "-static", "-O1", "-o", scratch + "/testapp", HERE + "/lib/testapp.c")
        digest = src.image([imagekit.tar(imagekit.entry("app", data=open(scratch + "/testapp", "rb").read(), mode=0o755), imagekit.entry("etc/", b"5"))], config={})
        registry.push(imagekit.layout(src, scratch + "/layout", "t", digest), "app:t")
        A, E = w.make_app("shop")
        w.ok("PATCH", E, {"backup_interval_seconds": 2592000, "expected_version": w.ok("GET", E)["resource_version"]})
        watch = Watch(machines)
        watch.start()
        r = w.ok("POST", A + "/releases", {"manifest": MANIFEST % (registry.host + "/app:t"), "image_digest": digest, "verify_image": False})["id"]
        w.ok("POST", E + "/deploys", {"release_id": r})
        home = wait_for("the volume", lambda: volumes().get("data"), 20)["home_node_id"]
        one, two = sorted(machines, key=lambda m: m.id != home)  # one: where it is first
        at = serving(one)
        one.ask(at, "rest")
        words.append("first")
        write(one, at, "first", words)
        assert watch.wrote == {volumes()["data"]["id"]}, watch.wrote

    @case("it moves to the other machine with all that was written")
    def _():
        global at
        waits = []
        gate["fault"] = lambda line: (waits.append(line), "503")[1] if proxy.peer == two.ip and "/c/" in line else None  # the copy is not read yet
        job = migration(two)
        wait_for("the copy to be in the store, and asked for there", lambda: waits, 60)
        words.append("meanwhile")
        write(one, at, "meanwhile", words)
        gate["fault"] = None
        m = of(job, status="succeeded")
        print("# stood still for %d ms" % m["downtime_ms"], flush=True)
        at = serving(two)
        two.ask(at, "rest")
        words.append("moved")
        write(two, at, "moved", words)
        watch.well()
        wait_for("the old copy to go", lambda: list(volumes()) == ["data"], 30)

    @case("cut off while its volume moves, a machine's VM goes on alone: nothing starts elsewhere, and what it wrote in the dark comes along")
    def _():
        global at
        waits = []
        gate["fault"] = lambda line: (waits.append(line), "503")[1] if proxy.peer == one.ip and "/c/" in line else None  # the copy is not read yet
        job = migration(one)
        wait_for("the copy to be in the store, and asked for there", lambda: waits, 60)
        two.cut()
        gate["fault"] = None
        of(job, phase="stopping")  # the process is to stop, and its machine cannot hear that
        wait_for("its silence to be noticed", lambda: health(two) == "suspect", 60)
        assert of(job, phase="stopping") and one.vms() == [] and len(two.vms()) == 1 and [i["node_id"] for i in instances()] == [two.id], instances()
        words.append("dark")
        write(two, at, "dark", words)
        two.cut(False)
        of(job, status="succeeded")
        at = serving(one)
        one.ask(at, "rest")
        words.append("light")
        write(one, at, "light", words)
        watch.well()
        wait_for("the old copy to go", lambda: list(volumes()) == ["data"], 30)

    @case("a machine that is cut off is not recovered from before an operator says that it is off; then its last backup runs on the other, and its own VM cannot touch that")
    def _():
        global at, old, stale
        old, stale = volumes()["data"]["id"], at
        s = w.ok("POST", E + "/volumes/" + old + "/snapshots", {})["id"]
        wait_for("a backup", lambda: w.ok("GET", E + "/snapshots/" + s)["status"] == "succeeded", 60)
        one.cut()
        one.kill()
        one.start()  # from its plan on the disk: the VM is its own still
        wait_for("its silence to be noticed", lambda: health(one) == "suspect", 60)
        write(one, stale, "lost", words + ["lost"])
        moat("volumes", "recover", "data", "--accept-loss-since", volumes()["data"]["last_backup_at"], want=None)
        w.ok("POST", "/v1/nodes/%s/confirm-offline" % one.id, {"reason": "cannot be reached"})  # what has volumes moves for nobody's guess
        text = moat("volumes", "recover", "data", "--accept-loss-since", volumes()["data"]["last_backup_at"], want=None)
        assert "moat node mark-lost " + one.id in text, text
        r = w.q("POST", E + "/volumes/" + old + "/migrate", {"node_id": two.id})
        assert r.status == 409, r.text
        assert two.vms() == [] and list(volumes()) == ["data"], volumes()
        watch.well()
        w.ok("POST", "/v1/nodes/%s/mark-lost" % one.id, {"reason": "taken for dead"})
        moat("volumes", "recover", "data", "--accept-loss-since", volumes()["data"]["last_backup_at"])
        at = serving(two)
        two.ask(at, "rest")
        words.append("recovered")
        write(two, at, "recovered", words)
        assert sorted(volumes()) == ["data", "data-1"] and volumes()["data-1"]["id"] == old, volumes()
        # the operator was wrong: both run, each on a volume of its own
        write(one, stale, "late", words[:-1] + ["lost", "late"])
        assert len(one.vms()) == len(two.vms()) == 1
        watch.well(2)

    @case("its link is back: the stale VM is stopped and stays so, its volume has its own end, and the one that took its place has not seen any of it")
    def _():
        wait_for("both writers to be seen", lambda: watch.most == 2, 20)
        one.cut(False)
        wait_for("the stale VM to stop", lambda: not one.vms(), 60)
        assert one.kept(old) == words[:-1] + ["lost", "late"], one.kept(old)
        one.kill()
        n = one.log().count("agent.started")
        one.start()  # nor does its next agent begin it anew
        wait_for("the next agent", lambda: one.log().count("agent.started") > n, 30)
        words.append("last")
        write(two, at, "last", words)
        assert one.vms() == [] and [i["node_id"] for i in instances()] == [two.id] and health(one) == "lost", instances()
        wait_for("a hundred looks", lambda: watch.looks > 100, 30)
        watch.stopped = True
        watch.join()
        watch.well(2)
finally:
    gate["fault"] = None
    if watch:
        watch.stopped = True
    if not all(kit.results):
        for m in machines:
            print("--- %s\n%s" % (m.name, "\n".join(x[:300] for x in m.log().splitlines()[-14:])))
        print("--- control\n" + open(w.d + "/control.log").read()[-2500:])
    for m in machines:
        m.cut(False)
        m.close()
    w.close()
    registry.stop()
    store.close()
    os.system("umount -l %s 2> /dev/null" % scratch)
    for d in (scratch, objects, scratch + ".img"):
        subprocess.run(["rm", "-rf", d])
kit.finish()
