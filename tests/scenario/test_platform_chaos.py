#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything goes wrong at random while somebody works: kills of every component, processes that stand still for seconds, a full disk, drawn from a seed. Afterwards
all that was acknowledged is there, the log has no gap, the views are what it says, and no VM, tap or lock is left over. COST 77 s, 20 s of processor.

SEED chooses the run (printed; drawn when absent), CHAOS_S how long it goes wrong (default 45, with MOAT_FULL=1 600).
"""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
CHAOS_S = int(os.environ.get("CHAOS_S") or (600 if os.environ.get("MOAT_FULL") else 45))
DISK = f"moat-chaos-{os.getpid()}"  # the platform's filesystem, which can be filled; a VM's root is on it
WHOS = ("control", "agent", "edge", "postgres")


class Work:
    """The golden path, again and again, by the command line; what it was told is remembered."""

    def __init__(self, p, images, rnd):
        self.p, self.images, self.rnd, self.ending = p, images, rnd, threading.Event()
        self.apps, self.deploys, self.asked, self.scales = [], [], 0, 0
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self.small, self.large)]
        for t in self.threads:
            t.start()

    def ask(self, *args, **kw):
        self.asked += 1
        try:
            return self.p.cli(*args, want=None, **kw)
        except subprocess.TimeoutExpired:
            return -1, "", ""

    def small(self):
        n = 0
        while not self.ending.is_set():
            name = f"chaos{n}"
            if self.ask("apps", "create", name, timeout=60)[0] == 0:
                self.apps.append(name)
            n += 1
            self.ending.wait(0.3)

    def large(self):
        while not self.ending.is_set():
            if self.rnd.random() < 0.6:
                code, out, _ = self.ask("deploy", "-f", "-", "--json", "--confirm-no-secrets", stdin=self.p.hello_manifest(self.rnd.choice(self.images)), timeout=60)
                lines = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
                if code == 0 and lines:
                    self.deploys.append(json.dumps(lines[-1]))
            elif self.ask("scale", "--app", "hello", f"web={self.rnd.choice((1, 2))}", timeout=60)[0] == 0:
                self.scales += 1
            self.ending.wait(2)

    def end(self):
        self.ending.set()
        for t in self.threads:
            t.join(150)
            check(not t.is_alive(), "a command of moat never came back")


class Chaos:
    def __init__(self, p, rnd):
        self.p, self.rnd, self.done, self.stopped = p, rnd, {}, []

    def count(self, what):
        self.done[what] = self.done.get(what, 0) + 1

    def kill(self, who):
        if who == "registry":
            for pid, _ in processes_of(f"{self.p.data}/etc/registry.yml"):
                os.kill(pid, signal.SIGKILL)
        else:
            self.p.kill(who)
        self.count("kill " + who)

    def hold(self, who, seconds):
        """Cut off: it neither answers nor asks, and its connections stay open."""
        pid = self.p.kill(who, signal.SIGSTOP)
        self.stopped.append(pid)
        time.sleep(seconds)
        self.let_go()
        self.count("cut " + who)

    def let_go(self):
        for pid in self.stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.stopped.clear()

    def fill(self, seconds):
        """Not a byte is left where database, state and images are."""
        filler, free = f"{self.p.data}/filler", os.statvfs(self.p.data)
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for what in (lambda: os.posix_fallocate(fd, 0, free.f_bavail * free.f_frsize), lambda: os.lseek(fd, 0, os.SEEK_END) and self.to_the_brim(fd)):
                try:
                    what()
                except OSError:  # somebody else took the last of it
                    pass
            time.sleep(seconds)
        finally:
            os.close(fd)
            os.unlink(filler)
        self.count("disk full")

    def to_the_brim(self, fd):
        while True:
            os.write(fd, b"x" * 4096)

    def supervisor(self):
        self.p.kill("up")
        self.count("kill up")
        time.sleep(self.rnd.uniform(0, 2))
        self.p.up()

    def run(self, seconds):
        end, bag = time.monotonic() + seconds, []
        while time.monotonic() < end or len(self.done) < 5 and time.monotonic() < end + 60:  # a few long cuts in the beginning are not all kinds of it
            if not bag:  # each once in a random order, then again: a short run has had all kinds
                bag = [("kill", w) for w in WHOS + ("registry",)] + [("cut", w) for w in WHOS] + [("disk", ""), ("up", ""), ("two", "")]
                self.rnd.shuffle(bag)
            what, who = bag.pop()
            try:
                if what == "kill":
                    self.kill(who)
                elif what == "cut":
                    self.hold(who, self.rnd.choice((0.5, 2, 9)))
                elif what == "disk":
                    self.fill(self.rnd.uniform(1, 4))
                elif what == "two":
                    for w in self.rnd.sample(WHOS, 2):
                        self.kill(w)
                else:
                    self.supervisor()
            except (Failed, OSError, ValueError, subprocess.TimeoutExpired):
                self.count("not there just then")  # killed a moment ago, not started again yet
            time.sleep(self.rnd.uniform(0.5, 3))


def vms():
    found = []
    for pid, _ in processes_of("qemu-system-x86_64"):
        try:
            with open(f"/proc/{pid}/mountinfo") as f:
                if f" {DISK} " in f.readline():
                    found.append(pid)
        except OSError:
            pass
    return found


def locks_below(folder):
    """Files of the folder that somebody holds a lock on, by the kernel's list."""
    inodes = {}
    for d, _, names in os.walk(folder):
        for n in names:
            try:
                inodes[os.lstat(os.path.join(d, n)).st_ino] = os.path.join(d, n)
            except OSError:
                pass
    dev = os.stat(folder).st_dev
    held = []
    for line in open("/proc/locks"):
        word = next((w for w in line.split() if w.count(":") == 2), "0:0:0").split(":")
        if os.makedev(int(word[0], 16), int(word[1], 16)) == dev and int(word[2]) in inodes:
            held.append(inodes[int(word[2])])
    return held


def main():
    need_root()
    own_host()
    p = Platform("k")
    os.mkdir(p.data)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=755", DISK, p.data], check=True)
    p.before = host_snapshot()
    c = Cases()
    rnd = random.Random(SEED)
    print(f"# SEED={SEED}, {CHAOS_S} s", flush=True)
    images, made = [], {}

    def start():
        p.up()
        images.extend(p.push_hello(v, v) for v in ("v1", "v2"))
        r = p.deploy(p.hello_manifest(images[0]), timeout=600)
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        wait_until(lambda: p.curl(ok=False), 60, "the page")

    def goes_wrong():
        work, chaos = Work(p, images, random.Random(SEED + 1)), Chaos(p, rnd)
        made["work"] = work
        try:
            chaos.run(CHAOS_S)
        finally:
            chaos.let_go()
            work.end()
        print("# " + ", ".join(f"{v} x {k}" for k, v in sorted(chaos.done.items())), flush=True)
        print(f"# of {work.asked} commands {len(work.apps)} apps, {len(work.deploys)} deploys, {work.scales} scalings were acknowledged", flush=True)
        check(work.apps and len(chaos.done) >= 5, "nothing was done, or nothing went wrong")

    def recovers():
        try:
            p.pid("up")
            os.kill(p.pid("up"), 0)
        except (Failed, OSError, ValueError):
            p.up()
        wait_until(lambda: p.cli("whoami", want=None)[0] == 0, 90, "the control plane answers")
        # by hand as after any such day: what stands still after failed attempts is deployed anew
        wait_until(lambda: p.cli("scale", "--app", "hello", "web=2")[0] == 0, 60, "a change is taken")
        r = p.deploy(p.hello_manifest(images[1]), timeout=600)
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        wait_until(lambda: sorted(i["status"] for i in p.instances() if i["status"] not in ("stopped", "failed", "lost")) == ["ready", "ready"], 120,
                   "two instances, both ready")
        wait_until(lambda: p.curl(ok=False), 60, "the page")

    def acknowledged():
        have = {a["name"] for a in p.json("apps", "list")["items"]}
        lost = [a for a in made["work"].apps if a not in have]
        check(not lost, f"acknowledged and not there: {lost}")
        known = p.cli("deploys", "list", "--app", "hello", "--json")[1]
        ids = {w for d in made["work"].deploys for w in d.replace('"', " ").replace(",", " ").split() if w.startswith("dep_")}
        lost = [i for i in ids if i not in known and p.cli("deploys", "get", i, "--app", "hello", want=None)[0] != 0]
        check(not lost, f"deploys acknowledged and not there: {lost}")
        print(f"# {len(made['work'].apps)} apps and {len(ids)} deploys are there", flush=True)

    def log_and_views():
        for verb in ("verify-log", "verify-views", "--verify-audit"):
            def tried(v=verb):
                return subprocess.run([f"{BIN}/moat-control", "--config", f"{p.data}/etc/control.toml", v], capture_output=True, text=True, timeout=600)
            r = tried()
            check(r.returncode == 0, f"{verb}: {r.stdout[-600:]}{r.stderr[-600:]}")
            print("# " + (r.stdout.strip().splitlines() or ["-"])[-1][:160], flush=True)

    def nothing_over():
        wait_until(lambda: len(vms()) == 2, 60, "two VMs for two instances")
        def taps():
            return {x["ifname"] for x in json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout) if x["ifname"].startswith("mt")}
        wait_until(lambda: len(taps()) == 2, 60, "two taps for two VMs")

        def jails():
            return [d for d in os.listdir(f"{p.data}/jail/qemu") if d.startswith("inst")] if os.path.isdir(f"{p.data}/jail/qemu") else []
        wait_until(lambda: len(jails()) <= 2, 60, "no more jails than VMs")

    try:
        if c.run("the platform serves", start) and c.run("everything goes wrong while commands are given", goes_wrong):
            if c.run("left alone it comes back, and the next deploy succeeds", recovers):
                c.run("all that was acknowledged is there", acknowledged)
                c.run("log without a gap, views as it says, audit chains whole", log_and_views)
                c.run("no VM, tap or jail but those of the two instances", nothing_over)
    finally:
        p.finish(c)
        left = locks_below(p.data) + [f"VM {v}" for v in vms()]
        if left:
            print(f"not ok - no lock and no VM is left: {left}")
            c.failed += 1
        subprocess.run(["umount", "-l", p.data])
        subprocess.run(["rm", "-rf", p.dir])
        if c.failed:
            print(f"# again: SEED={SEED} CHAOS_S={CHAOS_S} tests/scenario/test_platform_chaos.py")
    return 1 if c.failed else 0


sys.exit(main())
