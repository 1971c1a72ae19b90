#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two Debian hosts, a cable between them and nothing else: `moat node add root@HOST` makes the second one a node, kernel WireGuard, HTTPS through the
edge of one into a VM on the other, keys rotated under a running transfer; then the second one is rebooted, then it loses its power: each time it comes
back by itself as the same node, with its mesh and what it runs.

Host a runs PostgreSQL, moat-control, moat-edge, an agent without VMs and a registry; host b, whose agent boots the VM with nested KVM, has systemd as its
first process, sshd, and a disk that everything it writes is on. All programs are the real ones. What udev would load and who gives the host its address
are stood in; nobody but its systemd starts moat there.
COST 300 s, 300 s of processor."""
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402

LONG = 60  # s, times MOAT_PATIENCE
HOST, PORT = "hello.moat.test", 8443
D = "/data/moat"
ROOM = "/proc/sys/net/netfilter/nf_conntrack_max"


def prepare(folder):
    """A platform that was started once: initdb and the schema take minutes in an emulated host, and half a second out here."""
    import control_kit
    w = control_kit.World()
    w.keep(folder + "/world")
    w.close()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "%s/%s" % (folder, name)], check=True)


def tests():
    import pairkit
    prepared = os.environ["LAB_PREPARED"]
    if os.environ["LAB_HOST"] == "b":
        os.makedirs("/run/sshd")
        sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-h", prepared + "/host", "-o", "AuthorizedKeysFile=" + prepared + "/user.pub", "-o", "StrictModes=no", "-o", "UsePAM=no",
                                 "-o", "PidFile=none", "-f", "/dev/null"], stdin=subprocess.DEVNULL)
        try:
            return pairkit.serve()
        finally:
            sshd.kill()
    labkit.modprobe("tun", "wireguard")
    sys.path.insert(0, os.path.join(labkit.ROOT, "tests/scenario/lib"))
    suite = Suite(pairkit.Other())
    try:
        return suite.run()
    finally:
        suite.close()


class Suite:
    def __init__(self, b):
        import control_kit
        import imagekit
        import pairkit
        self.b, self.kit, self.pairkit = b, control_kit, pairkit
        self.agent = self.edge = None
        t = time.monotonic()
        lap = lambda what: print("# %s after %.1f s" % (what, time.monotonic() - t), flush=True)
        self.registry = imagekit.Registry("/data/registry", address=pairkit.A)
        self.registry.push(os.path.join(os.environ["LAB_EXAMPLE"], "oci") + ":latest", "hello:t")
        lap("image")
        self.digest = json.load(open(os.path.join(os.environ["LAB_EXAMPLE"], "oci/index.json")))["manifests"][0]["digest"]
        self.control = pairkit.A + ":7443"
        self.w = control_kit.World(os.environ["LAB_PREPARED"] + "/world", listen_nodes=self.control, nodes_address=self.control, agent_socket="/run/moat-a.sock", vmm_allowed=["qemu-kvm"],
                                   node_roles=["edge", "control"], local_registries=[self.registry.host], insecure_registries=[self.registry.host])
        print("# PostgreSQL, registry and control plane after %.1f s" % (time.monotonic() - t), flush=True)

    def conf(self, **more):
        conf = dict({"data_dir": D, "bin_dir": labkit.BIN, "edge_user": "nobody", "control_user": "nobody", "worker_user": "nobody", "vmm": "qemu",
                     "heartbeat_ms": 2000, "egress_mode": "none"}, **more)
        text = "".join("%s = %s\n" % (k, json.dumps(v)) for k, v in conf.items())
        return text + "[limits]\npatience = 30\n[reserve]\nmemory_bytes = %d\n[image]\nlocal_registries = [%s]\ninsecure_registries = [%s]\n" % (
            256 << 20, json.dumps(self.registry.host), json.dumps(self.registry.host))

    def nodes(self):
        return {n["name"]: n for n in self.w.ok("GET", "/v1/nodes")["items"]}

    def log_b(self):
        return self.b.sh("journalctl", "-n", "40", "--no-pager", "-o", "cat", "-u", "moat-agent")

    def start_agent_of_a(self):
        """a has no bundle, so it runs no VM: it is there for the mesh and the edge"""
        import agentkit
        os.makedirs(D + "/run")
        os.makedirs(D + "/boot")
        with open(D + "/agent.toml", "w") as f:
            f.write(self.conf(node_id=agentkit.new_id("node"), control_socket=self.w.internal, admin_socket="/run/moat-a.sock",
                              mesh_endpoints=[self.pairkit.A + ":51820"], host_firewall="taps"))
        self.agent = subprocess.Popen([labkit.BIN + "/moat-agent", "--config", D + "/agent.toml"], stderr=open(D + "/agent.log", "ab"))

    # -- cases, in order

    def one_command_makes_it_a_node_under_systemd(self):
        self.start_agent_of_a()
        prepared = os.environ["LAB_PREPARED"]
        with open("/data/ssh_config", "w") as f:
            f.write("UserKnownHostsFile /data/known\nGlobalKnownHostsFile /dev/null\nIdentitiesOnly yes\n")
        with open("/data/cli.toml", "w") as f:
            f.write('api = "unix:%s"\ntoken_file = "%s/operator.token"\norg = "local"\n' % (self.w.api, self.w.d))
        with open("/data/agent-b.toml", "w") as f:
            f.write(self.conf(host_firewall="full", firewall_open=["22"], listen_metrics="[::1]:9464", bin_dir="/usr/lib/moat"))
        # 60 MB through ssh between two emulated hosts take minutes (shown by tests/scenario/test_node_add.py): it finds the bundle there
        bundle = os.environ["MOAT_BUNDLE"]
        self.b.sh("mkdir", "-p", D + "/boot")
        self.b.sh("cp", "-r", bundle, D + "/boot/")
        t = time.monotonic()
        r = subprocess.run([labkit.BIN + "/moat", "node", "add", "root@" + self.pairkit.B, "--identity", prepared + "/user", "--ssh-config", "/data/ssh_config", "--accept-host-key",
                            "--name", "b", "--agent-config", "/data/agent-b.toml", "--bundle", bundle, "--wait-timeout", "6m", "--json"],
                           env=dict(os.environ, MOAT_CONFIG="/data/cli.toml", NO_COLOR="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=900)
        if r.returncode != 0:
            raise AssertionError("%d %s %s; %s" % (r.returncode, r.stdout[-600:], r.stderr[-1500:], self.b.sh("journalctl", "-n", "40", "--no-pager", "-o", "cat", "-u", "moat-agent")))
        steps = {s["step"]: s for s in json.loads(r.stdout)["data"]["steps"]}
        print("# %.0f s: %s" % (time.monotonic() - t, ", ".join("%s %.1f s" % (n, s["seconds"]) for n, s in steps.items())), flush=True)
        if "written and enabled" not in steps["service"]["result"] or self.b.sh("systemctl", "is-enabled", "moat-agent").strip() != "enabled":
            raise AssertionError(steps)
        self.a = next(n for name, n in self.nodes().items() if name != "b")
        self.first = self.nodes()["b"]

    def the_mesh_is_the_kernels_and_carries_full_packets(self):
        import meshkit
        def ready():
            said = [n.get("mesh") or {} for n in self.nodes().values()]
            return len(said) == 2 and all(m.get("device") == "kernel" and m.get("peers") and m["peers"][0].get("mtu_ok") for m in said)
        self.kit.wait_for("both say kernel, handshake, full packets", ready, LONG)
        if "wireguard" not in subprocess.run(["ip", "-d", "link", "show", "wg-moat"], stdout=subprocess.PIPE, text=True).stdout:
            raise AssertionError("wg-moat is no WireGuard device of the kernel")
        if subprocess.run(["pgrep", "wireguard-go"], stdout=subprocess.DEVNULL).returncode == 0 or self.b.sh("pgrep", "wireguard-go", want=1):
            raise AssertionError("wireguard-go runs")

    def a_page_comes_through_the_edge_of_one_out_of_a_vm_on_the_other(self):
        import platform_kit
        with open(D + "/edge.toml", "w") as f:
            f.write("data_dir = %s\ncontrol_socket = %s\nsource_address = %s\n[port_map]\n443 = %d\n" % (
                json.dumps(self.w.edge_dir), json.dumps(self.w.internal), json.dumps(self.a["overlay_ipv6"]), PORT))
        self.edge = subprocess.Popen(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", labkit.BIN + "/moat-edge", "--config", D + "/edge.toml"],
                                     stderr=open(D + "/edge.log", "ab"))
        app, env = self.w.make_app("hello")
        text = platform_kit.manifest("hello", self.registry.host + "/hello:t", ["/app/hello", "8443"], port=8443, hostname=HOST)
        r = self.w.ok("POST", app + "/releases", {"manifest": text, "image_digest": self.digest, "verify_image": False})["id"]
        t = time.monotonic()
        d = self.w.ok("POST", env + "/deploys", {"release_id": r})["id"]
        self.kit.wait_for("success", lambda: self.w.ok("GET", env + "/deploys/" + d)["status"] == "succeeded", 2 * LONG)
        i = self.w.ok("GET", env + "/instances")["items"][0]
        if i["node_id"] != self.nodes()["b"]["id"]:
            raise AssertionError("it runs on %s" % i["node_id"])
        print("# deployed after %.1f s" % (time.monotonic() - t), flush=True)
        # a node that is ours has room for the flows of VMs (networking.md section 4), and says how much of it is used; another's machine is left as it is
        room = lambda: int(self.b.sh("cat", ROOM))
        self.kit.wait_for("room for 64 VMs", lambda: room() == 262144 + 512 * 64, LONG)
        said = self.b.sh("python3", "-c", "import urllib.request as u; print(u.urlopen('http://[::1]:9464/metrics', timeout=30).read().decode())")
        said = {kind: int(n) for kind, n in re.findall(r'^moat_agent_conntrack_entries\{kind="(\w+)"\} (\d+)$', said, re.M)}
        if said.get("max") != room() or not 0 < said.get("used", 0) < 1000:
            raise AssertionError("the metrics say %s" % said)
        with open(ROOM) as f:
            if int(f.read()) >= 262144:
                raise AssertionError("the machine of an agent that has its taps alone was changed")
        page = self.kit.wait_for("the page", self.page, LONG)
        if "hello from a microVM" not in page:
            raise AssertionError("the page says %r" % page[:300])

    def connection(self):
        """A TLS connection that ends in the VM, its certificate checked."""
        ctx = ssl.create_default_context(cafile=os.path.join(os.environ["LAB_EXAMPLE"], "ca.pem"))
        return ctx.wrap_socket(socket.create_connection(("::1", PORT), 60), server_hostname=HOST)

    def get(self, c):
        """One request on it: the page, whole."""
        c.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode())
        got = b""
        while b"\r\n\r\n" not in got:
            part = c.recv(65536)
            if not part:
                raise AssertionError("the connection ended")
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(next(l.split(b":")[1] for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")))
        while len(body) < length:
            part = c.recv(65536)
            if not part:
                raise AssertionError("the connection ended in a page")
            body += part
        return body.decode()

    def page(self):
        try:
            with self.connection() as c:
                return self.get(c)
        except (OSError, AssertionError) as e:
            self.last = e
            return None

    def keys_are_rotated_under_a_running_transfer_without_a_lost_connection(self):
        """One TLS connection into the VM, one page after another on it, while first b and then a take another key."""
        c, stop, worst, pages, broken = self.connection(), threading.Event(), [0.0], [0], []

        def transfer():
            try:
                while not stop.is_set():
                    t = time.monotonic()
                    if "hello from a microVM" not in self.get(c):
                        raise AssertionError("another page")
                    worst[0], pages[0] = max(worst[0], time.monotonic() - t), pages[0] + 1
            except (OSError, AssertionError) as e:
                broken.append(e)
        c.settimeout(180)
        thread = threading.Thread(target=transfer)
        old = self.public_keys()
        thread.start()
        try:
            for name in ("b", self.a["name"]):
                self.w.ok("POST", "/v1/nodes/%s/rotate-key" % self.nodes()[name]["id"], {"reason": "lab", "lead_seconds": 10})
            self.kit.wait_for("both rotations", lambda: broken or all(n["key_generation"] == 2 for n in self.nodes().values()), LONG)
            n = pages[0]
            self.kit.wait_for("pages after them", lambda: broken or pages[0] > n + 3, LONG)
        finally:
            stop.set()
            thread.join(200)
        if broken:
            raise AssertionError("after %d pages: %s" % (pages[0], broken[0]))
        print("# %d pages in one connection, the longest took %.2f s" % (pages[0], worst[0]), flush=True)
        new = self.public_keys()
        if new[0] == old[0] or new[1] == old[1] or set(new) & set(old):
            raise AssertionError("keys %s before, %s after" % (old, new))

    def public_keys(self):
        """What the kernels of a and b have."""
        return (subprocess.run(["wg", "show", "wg-moat", "public-key"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip(),
                self.b.sh("wg", "show", "wg-moat", "public-key").strip())

    def boot_id(self):
        return self.b.sh("cat", "/proc/sys/kernel/random/boot_id").strip()

    def came_back(self, end):
        """b is ended by end() and boots; then everything is asked for that was there before, and nothing is done for it."""
        before, keys, t = self.boot_id(), self.public_keys(), time.monotonic()
        beat = lambda: self.nodes()["b"]["last_heartbeat_at"]
        end()
        self.b.accept(600)
        if self.boot_id() == before:
            raise AssertionError("it did not boot")
        print("# booted after %.1f s" % (time.monotonic() - t), flush=True)
        t, last = time.monotonic(), beat()
        self.kit.wait_for("b to be heard", lambda: beat() != last, LONG)
        self.kit.wait_for("b to be ready", lambda: self.nodes()["b"]["health"] == "ready", 2 * LONG)
        said = self.b.sh("systemctl", "show", "moat-agent", "-p", "ActiveState,NRestarts,UnitFileState").split()
        if sorted(said) != ["ActiveState=active", "NRestarts=0", "UnitFileState=enabled"]:
            raise AssertionError(said)
        now = self.nodes()["b"]
        if len(self.nodes()) != 2 or any(now[k] != self.first[k] for k in ("id", "overlay_ipv6", "instance_prefix")) or self.public_keys() != keys:
            raise AssertionError("another node: %s, %s before" % (now, self.first))
        print("# ready %.1f s later" % (time.monotonic() - t), flush=True)
        self.kit.wait_for("the page", self.page, 4 * LONG)
        print("# the page %.1f s later" % (time.monotonic() - t), flush=True)
        self.the_mesh_is_the_kernels_and_carries_full_packets()
        if "policy drop" not in self.b.sh("nft", "list", "chain", "inet", "moat", "in"):
            raise AssertionError("no firewall")

    def rebooted_it_is_back_with_its_mesh_and_what_it_ran(self):
        self.came_back(lambda: self.b.ask("spawn", argv=["systemctl", "reboot"], log="/dev/null"))

    def without_power_too(self):
        # what was written in the last seconds need not be there, but what is there has to do
        self.came_back(lambda: print("LAB-CUT-B", flush=True))

    def run(self):
        from imagekit import Report
        report = Report()
        for n in NAMES:
            t = time.monotonic()
            report.case("two hosts: " + n.replace("_", " "), getattr(self, n))
            print("# %.1f s" % (time.monotonic() - t), flush=True)
            if report.failed:
                break  # each needs the one before
        if report.failed:
            print("# nodes: %s" % json.dumps([{k: n.get(k) for k in ("name", "health", "conditions", "vmm", "last_heartbeat_at")} for n in self.nodes().values()]))
            for what, text in (("control", lambda: open(self.w.d + "/control.log").read()), ("edge", lambda: open(D + "/edge.log").read()),
                               ("a", lambda: open(D + "/agent.log").read()), ("b", self.log_b)):
                try:
                    print("\n".join("# %s: %s" % (what, l[:300]) for l in text().splitlines()[-15:]), flush=True)
                except (OSError, AssertionError) as e:
                    print("# %s: %s" % (what, e), flush=True)
        return 1 if report.failed else 0

    def close(self):
        for p in (self.edge, self.agent):
            if p and p.poll() is None:
                p.kill()
                p.wait()
        self.w.close()
        self.registry.stop()


NAMES = ["one_command_makes_it_a_node_under_systemd", "the_mesh_is_the_kernels_and_carries_full_packets", "a_page_comes_through_the_edge_of_one_out_of_a_vm_on_the_other",
         "keys_are_rotated_under_a_running_transfer_without_a_lost_connection", "rebooted_it_is_back_with_its_mesh_and_what_it_ran", "without_power_too"]


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "two hosts", vms=True, pair=True, prepare=prepare, env={"MOAT_PATIENCE": "4"}, b_disk_gib=8,
                         b_env={"LAB_SYSTEMD": "1", "LAB_MODULES": "kvm_amd,tun,wireguard,virtio_net"}))
