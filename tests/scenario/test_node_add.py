#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""moat node add: a machine with a root, a network and a real sshd of its own becomes a node with one command; what goes wrong is named and
mended by running it again.

The machine is a namespace whose root is an overlay of this one's: what is prepared there touches nothing here. Real: ssh, sshd, moat-control,
moat-agent, wireguard-go, the kernel bundle.
COST 15 s, 8 s of processor."""
import ctypes
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "lib")]
import platform_kit  # noqa: E402
import control_kit as kit  # noqa: E402
import meshkit  # noqa: E402
from control_kit import case, wait_for  # noqa: E402

why = "needs root" if os.geteuid() != 0 else meshkit.missing() or next((n + " is not installed" for n in ("ssh", "sshd", "ssh-keygen") if not meshkit.program(n)), None)
if why:
    kit.skip("node add", why)
    sys.exit(0)
platform_kit.own_host()
kit.need("node add", "moat-agent", "moat")
BIN, CONTROL, HOST, SSH_PORT = os.path.dirname(kit.program("moat-agent")), "10.79.1.1:7443", "10.79.1.2", 2222


def sh(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True, **kw).stdout


class Machine:
    """Everything it runs ends with its namespace."""

    def __init__(self, d):
        self.d, self.root = d, d + "/t/root"
        os.makedirs(d + "/t")
        self.place = meshkit.Place()
        self.place.run("umount", "/sys", check=False)
        sh("ip", "link", "add", "vm2", "type", "veth", "peer", "name", "eth0", "netns", str(self.place.proc.pid))
        sh("ip", "link", "set", "vm2", "master", "br0", "up")
        self.place.run("ip", "addr", "add", HOST + "/24", "dev", "eth0")
        self.place.run("ip", "link", "set", "eth0", "up")
        # its mounts are seen by it alone: below, this machine's root; above, a tmpfs
        self.place.run("mount", "-t", "tmpfs", "none", d + "/t")
        self.place.run("mkdir", d + "/t/upper", d + "/t/work", self.root)
        self.place.run("mount", "-t", "overlay", "o", "-o", "lowerdir=/,upperdir=%s/t/upper,workdir=%s/t/work" % (d, d), self.root)
        for n in ("dev", "proc", "sys"):
            self.place.run("mount", "--rbind", "/" + n, self.root + "/" + n)
        for n in ("run", "tmp", "root", "etc/moat", "usr/lib/moat", "var/lib/moat"):
            self.place.run("mkdir", "-p", self.root + "/" + n)
            self.place.run("mount", "-t", "tmpfs", "none", self.root + "/" + n)
        self.ssh_dir = d + "/ssh"
        os.makedirs(self.ssh_dir, 0o700)
        for n in ("host", "user", "other"):
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.ssh_dir + "/" + n)
        self.inside("sh", "-c", "mkdir -p -m 700 /root/.ssh /run/sshd && cat > /root/.ssh/authorized_keys && chmod 600 /root/.ssh/authorized_keys",
                    input=open(self.ssh_dir + "/user.pub").read().encode())
        self.inside("sh", "-c", "cat > /tmp/host && chmod 600 /tmp/host", input=open(self.ssh_dir + "/host").read().encode())
        self.sshd = self.place.popen("chroot", self.root, meshkit.program("sshd"), "-D", "-e", "-p", str(SSH_PORT), "-h", "/tmp/host", "-o", "UsePAM=no", "-o",
                                     "PermitRootLogin=prohibit-password", "-o", "StrictModes=no", "-o", "PidFile=none", "-f", "/dev/null",
                                     stdout=open(d + "/sshd.log", "ab"), stderr=subprocess.STDOUT)

    def inside(self, *argv, **kw):
        return self.place.run("chroot", self.root, *argv, **kw)

    def read(self, path):
        return self.inside("cat", path)


def add(*more, want=0, user="root", identity="user"):
    """(stdout, stderr) of moat node add."""
    p = subprocess.run([BIN + "/moat", "node", "add", user + "@" + HOST, "--ssh-port", str(SSH_PORT), "--identity", m.ssh_dir + "/" + identity, "--ssh-config",
                        m.ssh_dir + "/config", "--bundle", BOOT + "/current", *more], env=dict(os.environ, MOAT_CONFIG=w.d + "/cli.toml", NO_COLOR="1"),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=240)
    assert p.returncode == want, (p.returncode, p.stdout[-800:], p.stderr[-1500:])
    return p.stdout, p.stderr


def nodes():
    return {n["name"]: n for n in w.ok("GET", "/v1/nodes")["items"]}


def steps(text):
    return {s["step"]: s["result"] for s in json.loads(text)["data"]["steps"]}


sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", "10.79.1.1/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
BOOT = os.environ.get("MOAT_BOOT_DIR")
if not BOOT:
    BOOT = platform_kit.ROOT + "/build-bundle/boot"
    sh(platform_kit.ROOT + "/packaging/bundle/make-bundle", "--init", BIN + "/moat-init", "--out", BOOT, "--cache", platform_kit.ROOT + "/build-bundle/cache")
w = kit.World(listen_nodes=CONTROL, nodes_address=CONTROL, rate_limit_percent=300)
m = None
try:
    with open(w.d + "/cli.toml", "w") as f:
        f.write('api = "unix:%s"\ntoken_file = "%s/operator.token"\norg = "local"\n' % (w.api, w.d))
    m = Machine(w.d + "/machine")
    with open(m.ssh_dir + "/config", "w") as f:
        f.write("UserKnownHostsFile %s/known\nGlobalKnownHostsFile /dev/null\nIdentitiesOnly yes\n" % m.ssh_dir)
    with open(w.d + "/agent.toml", "w") as f:
        f.write('data_dir = "/var/lib/moat"\nbin_dir = "/usr/lib/moat"\nhost_firewall = "full"\nhost_accepted = ["nofile"]\nfirewall_open = ["%d"]\nvmm = "qemu"\nheartbeat_ms = 500\negress_mode = "none"\n'
                'edge_user = "nobody"\ncontrol_user = "nobody"\ncgroup_parent = "moat-%d/added"\n' % (SSH_PORT, os.getpid()))
    wait_for("sshd", lambda: "Server listening" in open(m.d + "/sshd.log").read() or m.sshd.poll() is not None, 20)

    @case("what keeps ssh out is said, and nothing is made of it: unknown host, wrong key, a name that is an option")
    def _():
        assert "Host key verification failed" in add(want=1)[1]
        assert "Permission denied" in add("--accept-host-key", identity="other", want=1)[1]
        assert "is no [USER@]HOST" in add(user="$(id)", want=2)[1]
        assert 'says data_dir = "/var/lib/moat"' in add("--agent-config", w.d + "/agent.toml", "--node-data-dir", "/srv/moat", want=2)[1]
        assert not nodes() and not w.ok("GET", "/v1/enrollment-tokens")["items"]

    @case("one command: prepared, joined, ready, each step with its seconds")
    def _():
        out, err = add("--accept-host-key", "--name", "added", "--agent-config", w.d + "/agent.toml", "--json")
        n = nodes()["added"]
        assert n["health"] == "ready" and n["admin_state"] == "active" and json.loads(out)["data"]["id"] == n["id"], (n, out)
        told = json.loads(out)["data"]["steps"]
        assert [s["step"] for s in told] == ["connect", "packages", "programs", "bundle", "configure", "service", "join", "start", "ready"], told
        assert all(s["seconds"] >= 0 for s in told) and "6 of 6 copied" in steps(out)["programs"] and not err, (told, err)
        print("# " + ", ".join("%s %.1f s" % (s["step"], s["seconds"]) for s in told), flush=True)
        assert w.pg.sql("SELECT array_to_string(endpoints, ',') FROM moat_views.nodes_view WHERE name = 'added'") == HOST + ":51820"
        token = w.ok("GET", "/v1/enrollment-tokens")["items"]
        assert len(token) == 1 and token[0]["state"] == "used" and token[0]["used_by"] == n["id"], token
        assert "moat_en_" not in m.inside("sh", "-c", "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' '")

    @case("again: nothing is copied, nothing restarted, the same node")
    def _():
        n, pid = nodes()["added"], m.read("/var/lib/moat/run/moat-agent.pid")
        out, _ = add("--name", "added", "--agent-config", w.d + "/agent.toml", "--json")
        told = steps(out)
        assert told["programs"] == "all there" and told["bundle"].endswith("is there") and told["configure"].endswith("kept as it is"), told
        assert told["join"] == "is node %s already" % n["id"] and told["start"] == "the agent runs", told
        assert m.read("/var/lib/moat/run/moat-agent.pid") == pid and len(nodes()) == 1 and len(w.ok("GET", "/v1/enrollment-tokens")["items"]) == 1

    @case("a program that is not ours there is replaced and the agent started again, as the same node")
    def _():
        n, pid = nodes()["added"], m.read("/var/lib/moat/run/moat-agent.pid")
        m.inside("sh", "-c", "echo '#!/bin/false' > /usr/lib/moat/moat-fetch")
        out, err = add()
        assert "1 of 6 copied" in err and "the agent was started" in err and "added is ready" in err, err
        assert m.read("/var/lib/moat/run/moat-agent.pid") != pid and nodes()["added"]["id"] == n["id"]
        assert m.inside("sha256sum", "/usr/lib/moat/moat-fetch").split()[0] == sh("sha256sum", BIN + "/moat-fetch").split()[0]

    @case("a machine whose node was disabled is refused with what to do, and its keys stay")
    def _():
        w.ok("POST", "/v1/nodes/%s/disable" % nodes()["added"]["id"], {"reason": "stolen"})
        _, err = add(want=5)
        assert "has disabled" in err and "remove keys/" in err, err
        assert "node_id" in m.read("/var/lib/moat/keys/identity.json")
    @case("what the hint says mends it; a join that is refused leaves no token behind")
    def _():
        m.inside("sh", "-c", "p=$(cat /var/lib/moat/run/moat-agent.pid); kill $p; while [ -d /proc/$p ]; do sleep 0.1; done; rm -r /var/lib/moat/keys")
        _, err = add("--name", "added", want=1)  # the disabled node has that name
        assert "there is a node named 'added'" in err, err
        tokens = w.ok("GET", "/v1/enrollment-tokens")["items"]
        assert sorted(t["state"] for t in tokens) == ["revoked", "used"], tokens
        _, err = add("--name", "again")
        assert "again is ready" in err and nodes()["again"]["id"] != nodes()["added"]["id"], err
finally:
    if not all(kit.results) and m:
        for path in (m.d + "/sshd.log", w.d + "/control.log"):
            print("--- %s\n%s" % (path, open(path, errors="replace").read()[-1500:]))
        print("--- agent\n" + m.inside("sh", "-c", "tail -n 20 /var/log/moat-agent.log", check=False)[-3000:])
    if m:
        m.place.close()
    w.close()
kit.finish()
