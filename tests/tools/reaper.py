#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run one program as the init of its tree: reaper.py REPORT PROGRAM [ARGUMENT...].

Whatever the program starts, and whatever those start and leave, ends as a child of this process (PR_SET_CHILD_SUBREAPER), so at the
end two things are known that its own parent could not know: the processor time of the whole tree, VMs and daemons included, and which
processes it left running. Those get 2 s, then SIGKILL. SIGTERM goes to the program; 20 s later the tree is killed.
REPORT gets one JSON object: {"status": exit code or -signal, "cpu": seconds of user and system time, "left": ["pid command"]}.

The kernel adds up the time of children that are waited for. That misses a VM killed together with its PID namespace, so as root, where
there is a cpuacct hierarchy (cgroup v1), a group of its own is that hierarchy's root for the tree: whatever group a VM is put into is below."""
import ctypes
import json
import os
import resource
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
GRACE_S, TERM_S = 2, 20


def descendants():
    """{pid: command} of everything below this process."""
    parent = {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat", "rb") as f:
                parent[int(p)] = int(f.read().rsplit(b")", 1)[1].split()[1])
        except OSError:
            continue
    below, grown = {os.getpid()}, True
    while grown:
        more = {p for p, up in parent.items() if up in below} - below
        below |= more
        grown = bool(more)
    found = {}
    for p in below - {os.getpid()}:
        try:
            with open(f"/proc/{p}/cmdline", "rb") as f:
                found[p] = f.read(300).replace(b"\0", b" ").decode(errors="replace").strip() or "?"
        except OSError:
            continue
    return found


class Group:
    """A cpuacct group, joined by this process and mounted over the root of the hierarchy for it and its children."""
    ROOT = "/sys/fs/cgroup/cpuacct"

    def __init__(self):
        self.name, self.outside = None, None
        libc = ctypes.CDLL(None, use_errno=True)
        name = f"moat-test-file-{os.getpid()}"
        try:
            self.outside = os.open(self.ROOT, os.O_RDONLY | os.O_DIRECTORY)
            os.mkdir(name, dir_fd=self.outside)
        except OSError:
            return
        self.name = name
        group = f"{self.ROOT}/{name}".encode()
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) or \
           libc.mount(group, self.ROOT.encode(), None, MS_BIND, None):
            self.end()
            return
        with open(f"{self.ROOT}/cgroup.procs", "w") as f:
            f.write(str(os.getpid()))

    def seconds(self):
        if not self.name:
            return 0.0
        with open(os.open(f"{self.name}/cpuacct.usage", os.O_RDONLY, dir_fd=self.outside)) as f:
            return int(f.read()) / 1e9

    def end(self):
        """Leave and remove it with all below; what still has a process stays."""
        if not self.name:
            return
        with open(os.open("cgroup.procs", os.O_WRONLY, dir_fd=self.outside), "w") as f:
            f.write(str(os.getpid()))
        for _, dirs, _, at in os.fwalk(self.name, topdown=False, dir_fd=self.outside):
            for d in dirs:
                self.drop(d, at)
        self.drop(self.name, self.outside)
        self.name = None

    @staticmethod
    def drop(name, at):
        try:
            os.rmdir(name, dir_fd=at)
        except OSError:
            pass


class Tree:
    def __init__(self, argv):
        self.status, self.term_at = None, None
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
        self.child = os.fork()
        if self.child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
            os.setsid()
            os.execv(argv[0], argv)

    def reap(self):
        """Take what has ended; False when nothing is left to wait for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                self.status = os.waitstatus_to_exitcode(status)

    def wait(self, until):
        """Reap until the program has ended (or, with a time, until nothing is left or the time is over); pass SIGTERM on."""
        while self.reap() and (self.status is None if until is None else time.monotonic() < until):
            got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, 0.5 if until is None else max(0.0, min(0.5, until - time.monotonic())))
            if got and got.si_signo == signal.SIGTERM and self.status is None:
                os.killpg(self.child, signal.SIGTERM)
                self.term_at = time.monotonic()
            if self.term_at and time.monotonic() > self.term_at + TERM_S:
                self.kill()

    def kill(self):
        """SIGKILL to the whole tree, until none is left: who is killed may have started another meanwhile."""
        for _ in range(50):
            left = descendants()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not left or not self.reap():
                return
            time.sleep(0.02)


def main():
    group = Group()
    t = Tree(sys.argv[2:])
    t.wait(None)
    t.wait(time.monotonic() + GRACE_S)
    left = descendants()
    if left:
        t.kill()
    t.reap()
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = max(use.ru_utime + use.ru_stime, group.seconds())
    group.end()
    with open(sys.argv[1], "w") as f:
        json.dump({"status": t.status, "cpu": cpu, "left": [f"{p} {c[:120]}" for p, c in sorted(left.items())]}, f)


if __name__ == "__main__":
    main()
