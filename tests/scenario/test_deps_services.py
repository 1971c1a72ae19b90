#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Installing what moat needs starts and enables nothing (ruling R31): in a bare Debian made here, packaging/deps/install brings in the
packages that carry services; the processes, database clusters and units enabled for the next boot are those of before.
COST 82 s, 34 s of processor."""
import glob
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

# Of packaging/deps/run.txt, those whose packages carry a service unit.
SERVICES = ("docker-registry", "nftables", "postgresql-15")


class Debian:
    def __init__(self, root):
        self.root = root

    def make(self):
        with open(f"{ROOT}/packaging/deps/run.txt") as f:
            listed = f.read().split()
        for p in SERVICES:
            check(p in listed, f"{p} is not in packaging/deps/run.txt")
        r = subprocess.run(["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--include=systemd,systemd-sysv", "bookworm", self.root],
                           capture_output=True, text=True, timeout=800)
        if r.returncode:
            if "Could not resolve" in r.stderr or "Temporary failure" in r.stderr:
                raise Skip("the Debian archive cannot be reached")
            raise Failed(r.stderr[-600:])
        shutil.copytree(f"{ROOT}/packaging/deps", f"{self.root}/root/deps")
        with open(f"{self.root}/root/deps/services.txt", "w") as f:
            f.write("\n".join(SERVICES) + "\n")
        shutil.copyfile("/etc/resolv.conf", f"{self.root}/etc/resolv.conf")
        for conf in glob.glob("/etc/apt/apt.conf.d/*"):  # how this machine reaches the archive, if it says so
            text = open(conf).read()
            if "roxy" in text or "Acquire::" in text and "GzipIndexes" not in text and "Languages" not in text:
                shutil.copyfile(conf, f"{self.root}/etc/apt/apt.conf.d/{os.path.basename(conf)}")

    def run(self, *argv):
        """In a pid namespace of its own, whose end is the end of all it started; what then still runs is listed first."""
        script = '"$@"; rc=$?; for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = 1 ] || [ $n = $$ ] || ' \
                 'echo "RUNS $(tr "\\0" " " < $p/cmdline)" >&2; done; exit $rc'
        return subprocess.run(["unshare", "--pid", "--fork", "--mount", "--mount-proc=" + self.root + "/proc", "chroot", self.root, "/bin/sh", "-c",
                               script, "sh", *argv], capture_output=True, text=True, timeout=800, stdin=subprocess.DEVNULL,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **{k: v for k, v in os.environ.items() if "proxy" in k}})

    def snapshot(self):
        return {
            "enabled units": sorted(p[len(self.root):] for p in glob.glob(f"{self.root}/etc/systemd/system/*.wants/*")),
            "clusters": sorted(p[len(self.root):] for p in glob.glob(f"{self.root}/etc/postgresql/*/*") + glob.glob(f"{self.root}/var/lib/postgresql/*/*")),
            "policy": os.path.exists(f"{self.root}/usr/sbin/policy-rc.d"),
        }

    def install(self):
        before = self.snapshot()
        r = self.run("/root/deps/install", "services")
        check(r.returncode == 0, r.stdout[-300:] + r.stderr[-600:])
        for p in SERVICES:
            check(os.path.exists(f"{self.root}/var/lib/dpkg/info/{p}.list") or glob.glob(f"{self.root}/var/lib/dpkg/info/{p}:*.list"), f"{p} is not installed")
        runs = [line for line in r.stderr.splitlines() if line.startswith("RUNS ") and "/bin/sh -c" not in line and line.strip() != "RUNS"]
        check(not runs, "; ".join(runs))
        after = self.snapshot()
        for key, value in before.items():
            check(after[key] == value, f"{key}: before {value} after {after[key]}")

    def again(self):
        r = self.run("/root/deps/install", "services")
        check(r.returncode == 0 and not r.stdout, f"a second call is not silent: {r.stdout}{r.stderr}")


def main():
    need_root()
    folder = tempfile.mkdtemp(prefix="mtdeps", dir="/var/tmp")
    c, d = Cases(), Debian(folder + "/root")
    try:
        if c.run("a bare Debian with systemd is made", d.make) and os.path.isdir(d.root + "/root/deps"):
            c.run("packages with services come in: nothing runs, nothing is enabled, no database cluster is made", d.install)
            c.run("a second call has nothing to do and says nothing", d.again)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if c.failed else 0


sys.exit(main())
