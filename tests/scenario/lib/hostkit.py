# SPDX-License-Identifier: Apache-2.0
"""A Debian host with systemd as its PID 1, in namespaces of this machine: what is installed here, below an overlay that takes every write, in cgroups, a
network and a process tree of its own. Not a test itself. A test file calls `main(tests, prepare)`: outside, @prepare fills a scratch folder, the host is
started and runs the same file as a service; inside, `tests()` is called with that folder at /data.

Beside the lab (tests/lab) this host shares the kernel, and is as fast as the machine: dpkg, its scripts and systemd's units run in seconds.
"""
import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from platform_kit import ROOT, drop_cgroup, need_root, own_host

INSIDE = os.environ.get("HOSTKIT") == "1"
# Nothing of the machine's own: these would change the kernel that is shared, or wait for devices that nobody brings.
MASKED = ("systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service systemd-sysctl.service systemd-modules-load.service"
          " systemd-binfmt.service proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount systemd-random-seed.service systemd-remount-fs.service"
          " systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-sysusers.service systemd-firstboot.service systemd-machine-id-commit.service"
          " systemd-update-utmp.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service ldconfig.service apparmor.service"
          " systemd-pcrphase.service systemd-pcrphase-sysinit.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount"
          " sys-kernel-config.mount sys-fs-fuse-connections.mount timers.target networking.service nftables.service blk-availability.service lvm2-monitor.service"
          " lvm2-lvmpolld.socket dm-event.socket modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service"
          " postgresql.service systemd-logind.service").split()

ROOT_SCRIPT = r"""set -e
cd "$HOSTKIT_FOLDER"
mkdir root; mount -t tmpfs -o mode=755 host root; mkdir root/u root/w root/r
mount -t overlay host -o lowerdir=/,upperdir=root/u,workdir=root/w root/r
src=$PWD/in tree=$HOSTKIT_ROOT
cd root/r
mount -t proc proc proc
mount -t sysfs sys sys
mount -t tmpfs -o mode=755 cg sys/fs/cgroup
if grep -q ' - cgroup2 .*' /proc/self/mountinfo && grep -qw memory "$HOSTKIT_V2/cgroup.controllers" 2>/dev/null; then
  mount -t cgroup2 cgroup sys/fs/cgroup
else
  for c in systemd cpu cpuacct memory devices freezer pids blkio; do
    name=$c; [ $c != systemd ] || name=none,name=systemd
    mkdir sys/fs/cgroup/$c; mount -t cgroup -o $name cgroup sys/fs/cgroup/$c || rmdir sys/fs/cgroup/$c
  done
fi
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=1777 tmp var/tmp
# the tree may lie below what was just covered
mkdir -p data ".$tree"; mount --bind "$src" data; mountpoint -q ".$tree" || [ -e ".$tree/Makefile" ] || mount --bind "$tree" ".$tree"
mkdir -p run/systemd/system run/lock
for u in $HOSTKIT_MASKED; do ln -s /dev/null run/systemd/system/$u; done
cp data/.unit run/systemd/system/lab.service
printf '[Unit]\nRequires=basic.target lab.service\nAfter=basic.target\nAllowIsolate=yes\n' > run/systemd/system/lab.target
echo 6d6f61746c6162000000000000000001 > etc/machine-id
exec chroot . /usr/bin/env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=lab.target --log-target=journal --show-status=no
"""


def own_unified():
    """A version 2 hierarchy without controllers, which own_host leaves alone: systemd keeps its units in it."""
    for line in open("/proc/self/mountinfo"):
        where, kind = line.split()[4], line.split(" - ")[1].split()[0]
        if kind == "cgroup2" and "/moat-test-own-" not in line.split()[3]:
            ours = "moat-test-own-%d" % os.getpid()
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
            os.mkdir(where + "/" + ours)
            subprocess.run(["mount", "--bind", where + "/" + ours, where], check=True)
            atexit.register(drop_cgroup, ours, fd, os.getpid())


def groups():
    """Where the groups are that own_host made."""
    for line in open("/proc/self/mountinfo"):
        where, kind = line.split()[4], line.split(" - ")[1].split()[0]
        if kind in ("cgroup", "cgroup2") and "/moat-test-own-" in line.split()[3]:
            yield where


def own_groups():
    """This process into them, so that a cgroup namespace begins there."""
    for where in groups():
        with open(where + "/cgroup.procs", "w") as f:
            f.write("0")


def somebody_left():
    for where in groups():
        for d, _, _ in os.walk(where):
            try:
                if open(d + "/cgroup.procs").read():
                    return True
            except OSError:
                pass
    return False


def main(tests, prepare, limit=850):
    if INSIDE:
        return tests()
    need_root()
    for program in ("/lib/systemd/systemd", "/usr/bin/unshare"):
        if not os.path.exists(program):
            print("skip - all: %s is not here" % program)
            return 0
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))  # the host ends with us
    own_host()
    own_unified()
    folder = tempfile.mkdtemp(prefix="moat-host-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    given, host = folder + "/in", None
    try:
        os.mkdir(given)
        prepare(given)
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOSTKIT": "1", "MOAT_ROOT": ROOT, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/root"}
        env.update({k: v for k, v in os.environ.items() if k.startswith("MOAT_")})
        with open(given + "/.unit", "w") as f:
            f.write("[Unit]\nDescription=the test\n[Service]\nType=exec\nStandardInput=null\nStandardOutput=append:/data/.out\nStandardError=inherit\nTimeoutStopSec=5\n")
            f.write("".join('Environment="%s=%s"\n' % kv for kv in env.items()))
            f.write("ExecStart=%s %s\n" % (sys.executable, " ".join([os.path.abspath(sys.argv[0])] + sys.argv[1:])))
            f.write("ExecStopPost=/bin/sh -c 'echo \"$${EXIT_CODE} $${EXIT_STATUS}\" > /data/.end.new && mv /data/.end.new /data/.end'\n")
        open(given + "/.out", "w").close()
        with open(folder + "/said", "wb") as said:
            host = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child", "/bin/bash", "-c", ROOT_SCRIPT],
                                    env=dict(os.environ, HOSTKIT_FOLDER=folder, HOSTKIT_ROOT=ROOT, HOSTKIT_V2="/sys/fs/cgroup", HOSTKIT_MASKED=" ".join(MASKED)),
                                    stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=own_groups)
        return follow(host, folder, given, limit)
    finally:
        if host and host.poll() is None:
            os.kill(host.pid, signal.SIGKILL)  # --kill-child: its PID 1 goes with it, and all of the host with that
            host.wait()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if somebody_left():  # dying
                time.sleep(0.1)
                continue
            try:
                shutil.rmtree(folder)
                break
            except OSError:
                time.sleep(0.2)


def follow(host, folder, given, limit):
    """What the test prints is ours; its status, too."""
    end, status = time.monotonic() + limit, None
    with open(given + "/.out") as out:
        while True:
            ended = os.path.exists(given + "/.end")
            for line in out:
                print(line, end="", flush=True)
            if ended:
                with open(given + "/.end") as f:
                    how = f.read().split()
                status = int(how[1]) if how[:1] == ["exited"] and how[1].isdigit() else 1
                return status
            if host.poll() is not None or time.monotonic() > end:
                with open(folder + "/said", errors="replace") as f:
                    said = f.read()[-1500:]
                print("not ok - the host: %s: %s" % ("it ended before its work did" if host.poll() is not None else "its work did not end in %d s" % limit, said.replace("\n", " | ")))
                return 1
            time.sleep(0.1)
