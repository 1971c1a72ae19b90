#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian host with systemd becomes a node by `moat node add root@HOST` and is rebooted, then loses its power: each time it comes back by itself
as the same node, with its mesh and what it runs.

Host a as in test_two_hosts.py (PostgreSQL, moat-control, moat-edge, an agent without VMs, a registry), between them a cable and nothing else. Host b
has systemd as its first process, sshd, and a disk that everything it writes is on. What udev would load and who gives the host its address are
stood in; nobody but its systemd starts moat there.
"""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402
import test_two_hosts as base  # noqa: E402
from test_two_hosts import LONG  # noqa: E402


def prepare(folder):
    base.prepare(folder)
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
        return suite.run(NAMES, "reboot")
    finally:
        suite.close()


class Suite(base.Suite):
    def one_command_makes_it_a_node_under_systemd(self):
        self.start_agent_of_a()
        prepared = os.environ["LAB_PREPARED"]
        with open("/data/ssh_config", "w") as f:
            f.write("UserKnownHostsFile /data/known\nGlobalKnownHostsFile /dev/null\nIdentitiesOnly yes\n")
        with open("/data/cli.toml", "w") as f:
            f.write('api = "unix:%s"\ntoken_file = "%s/operator.token"\norg = "local"\n' % (self.w.api, self.w.d))
        with open("/data/agent-b.toml", "w") as f:
            f.write(self.conf(host_firewall="full", firewall_open=["22"], bin_dir="/usr/lib/moat"))
        # 60 MB through ssh between two emulated hosts take minutes (shown by tests/scenario/test_node_add.py): it finds the bundle there
        bundle = os.environ["MOAT_BUNDLE"]
        self.b.sh("mkdir", "-p", base.D + "/boot")
        self.b.sh("cp", "-r", bundle, base.D + "/boot/")
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


NAMES = ["one_command_makes_it_a_node_under_systemd", "the_mesh_is_the_kernels_and_carries_full_packets", "a_page_comes_through_the_edge_of_one_out_of_a_vm_on_the_other",
         "rebooted_it_is_back_with_its_mesh_and_what_it_ran", "without_power_too"]


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "reboot", vms=True, pair=True, prepare=prepare, env={"MOAT_PATIENCE": "4"}, b_disk_gib=8,
                         b_env={"LAB_SYSTEMD": "1", "LAB_MODULES": "kvm_amd,tun,wireguard,virtio_net"}))
