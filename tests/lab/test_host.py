#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a lab host offers beyond VMs, one smoke test each: LVM thin with snapshots, kernel WireGuard, so that tests can build on them.
COST 12 s, 13 s of processor."""
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402

# No udev in a lab host: device nodes are made by LVM itself.
LVM_CONF = """activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
devices { obtain_device_list_from_udev=0 }
backup { backup=0 archive=0 }
"""
A, B = "fd01::a", "fd01::b"


def sh(*argv, **kw):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if r.returncode:
        raise AssertionError("%s: %s" % (" ".join(argv), r.stdout.strip()[-300:]))
    return r.stdout.strip()


def runs_debians_kernel_with_cgroup_v2():
    release = os.uname().release
    if "cloud-amd64" not in release or os.getpid() == 1:
        raise AssertionError(release)
    with open("/sys/fs/cgroup/cgroup.controllers") as f:
        have = set(f.read().split())
    if not {"cpu", "memory", "io", "pids"} <= have:
        raise AssertionError("controllers %s" % have)
    probe = "/usr/lab-%d" % os.getpid()  # the overlay takes it, the machine outside never sees it (its root is read-only here)
    with open(probe, "w") as f:
        f.write("x")
    os.unlink(probe)


def thin_snapshots_are_isolated():
    labkit.modprobe("loop", "dm_thin_pool")
    with open("/etc/lvm/lvmlocal.conf", "w") as f:
        f.write(LVM_CONF)
    image = "/data/pv.img"
    with open(image, "wb") as f:
        f.truncate(2 << 30)
    loop = sh("losetup", "--find", "--show", image)
    sh("vgcreate", "-q", "mt", loop)
    sh("lvcreate", "-q", "--type", "thin-pool", "-L", "1G", "-c", "64k", "-n", "pool", "mt")
    sh("lvcreate", "-q", "-V", "4G", "--thinpool", "pool", "-n", "vol", "mt")
    os.makedirs("/data/a")
    os.makedirs("/data/b")
    sh("mkfs.ext4", "-q", "/dev/mt/vol")
    sh("mount", "/dev/mt/vol", "/data/a")
    with open("/data/a/word", "w") as f:
        f.write("before")
    sh("sync", "-f", "/data/a")
    sh("lvcreate", "-q", "-s", "-kn", "-n", "snap", "mt/vol")
    with open("/data/a/word", "w") as f:
        f.write("after")
    sh("mount", "/dev/mt/snap", "/data/b")
    got = [open("/data/%s/word" % d).read() for d in "ab"]
    if got != ["after", "before"]:
        raise AssertionError("volume and snapshot hold %s" % got)
    sh("umount", "/data/a", "/data/b")
    sh("vgremove", "-q", "-f", "mt")
    sh("losetup", "-d", loop)


def wireguard_carries_traffic():
    labkit.modprobe("wireguard", "veth")
    keys = {}
    for n in ("a", "b"):
        private = sh("wg", "genkey")
        keys[n] = (private, sh("wg", "pubkey", input=private))
        sh("ip", "netns", "add", n)
    sh("ip", "link", "add", "va", "netns", "a", "type", "veth", "peer", "name", "vb", "netns", "b")
    for me, peer, address, other in (("a", "b", A, B), ("b", "a", B, A)):
        ns = ["ip", "-n", me]
        sh("ip", "netns", "exec", me, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        sh(*ns, "addr", "add", "fd00::%s/64" % me, "dev", "v" + me, "nodad")
        sh(*ns, "link", "set", "v" + me, "up")
        sh(*ns, "link", "add", "wg0", "type", "wireguard")
        with open("/run/key-" + me, "w") as f:
            f.write(keys[me][0])
        sh("ip", "netns", "exec", me, "wg", "set", "wg0", "listen-port", "51820", "private-key", "/run/key-" + me, "peer", keys[peer][1],
           "allowed-ips", other + "/128", "endpoint", "[fd00::%s]:51820" % peer)
        sh(*ns, "addr", "add", address + "/64", "dev", "wg0", "nodad")
        sh(*ns, "link", "set", "wg0", "mtu", "1420", "up")
    server = subprocess.Popen(["ip", "netns", "exec", "b", sys.executable, "-c",
                               "import socket\ns=socket.create_server(('%s', 7), family=socket.AF_INET6)\nc=s.accept()[0]\nc.sendall(c.recv(9)[::-1])" % B])
    try:
        end = time.monotonic() + 240
        while True:
            r = subprocess.run(["ip", "netns", "exec", "a", sys.executable, "-c",
                                "import socket\ns=socket.create_connection(('%s', 7), 20)\ns.sendall(b'abc')\nprint(s.recv(9).decode())" % B],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if r.stdout.strip() == "cba":
                break
            if time.monotonic() > end:
                raise AssertionError("no answer through the tunnel: %s" % r.stderr[-200:])
            time.sleep(0.2)
        sent = sh("ip", "netns", "exec", "a", "wg", "show", "wg0", "transfer").split()[-1]
        if int(sent) < 100:
            raise AssertionError("the tunnel carried %s bytes" % sent)
    finally:
        server.kill()
        server.wait()


def tests():
    from imagekit import Report
    report = Report()
    for case in (runs_debians_kernel_with_cgroup_v2, thin_snapshots_are_isolated, wireguard_carries_traffic):
        report.case("lab host: " + case.__name__.replace("_", " "), case)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "lab host"))
