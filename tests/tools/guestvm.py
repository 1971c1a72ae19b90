# SPDX-License-Identifier: Apache-2.0
"""One microVM of the kernel bundle under QEMU TCG, driven by hand: the agent's side of the guest channels in Python.

For tests of moat-init alone; nothing of moat-agent takes part. Needs root, qemu-system-x86_64, mke2fs, a static
busybox, moat-init and moat-vsock. Flags and their reasons: runtime.md 7.6. The caller runs inside a network
namespace of its own (enter_netns), so taps and routes go away with the process.
"""
import ctypes
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import uuid

ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin")
CONTROL, LOG = 5161, 5163
ADDRESS = "fd00:77::2"
CLONE_NEWNET = 0x40000000
# What the driver adds for TCG (src/agent/vmm/qemu.c).
TCG_ARGS = (" tsc=reliable no_timer_check noreplace-smp cryptomgr.notests pci=off 8250.nr_uarts=1 lsm=lockdown,landlock,yama"
            " initcall_blacklist=load_system_certificate_list,jent_mod_init,trace_eval_init,ftrace_check_for_weak_functions,"
            "bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init")
# The limit of 2 s is for a machine where the same bundle, booted with QEMU's and the kernel's own defaults, needs 2.6 s.
HELLO_SECONDS, HELLO_TO_PLAIN = 2.0, 0.75


def missing():
    """None, or why these tests cannot run here"""
    if os.geteuid() != 0:
        return "needs root (network namespace, tap)"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    for program in ("qemu-system-x86_64", "mke2fs", "busybox", "ip", "depmod", "modprobe", "zstd"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return "no " + program
    for program in ("moat-init", "moat-vsock"):
        if not os.path.exists(os.path.join(BIN, program)):
            return "no %s in %s" % (program, BIN)
    return None


def run(*argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw).stdout


def enter_netns():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare network")
    run("ip", "link", "set", "lo", "up")


def bundle():
    """path of the kernel bundle, built at most once for a moat-init; asking the archive whether it is the newest costs 2 s each time"""
    if os.environ.get("MOAT_BUNDLE"):
        return os.environ["MOAT_BUNDLE"]
    place = os.path.join(ROOT, "build-bundle")
    return run(os.path.join(ROOT, "packaging/bundle/make-bundle"), "--init", os.path.join(BIN, "moat-init"),
               "--out", os.path.join(place, "boot"), "--cache", os.path.join(place, "cache")).strip().splitlines()[-1]


def tsc_khz():
    """The TSC of a TCG guest is the host's; measured as the agent does, by three machine instructions."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("0f31" "48c1e220" "4809d0" "c3"))  # rdtsc; shl rdx,32; or rax,rdx; ret
    keep = ctypes.c_char.from_buffer(page)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(keep))
    best = None
    for _ in range(3):
        t0, c0 = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), rdtsc()
        time.sleep(0.03)
        c1, t1 = rdtsc(), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        khz = (c1 - c0) * 1000000 // (t1 - t0)
        best = khz if best is None else max(best, khz)  # a pause between the two reads only lowers it
    return best


def make_root_disk(path, files):
    """ext4 with busybox and @files {path: text or bytes}; returns its UUID"""
    uid = str(uuid.uuid4())
    with tempfile.TemporaryDirectory() as tree:
        for d in ("bin", "dev", "etc", "proc", "sys", "run", "tmp", "root", "srv"):
            os.mkdir(os.path.join(tree, d), 0o755)
        shutil.copy(shutil.which("busybox"), os.path.join(tree, "bin/busybox"))
        for applet in ("sh", "cat", "echo", "kill", "id", "env", "httpd", "sleep", "tail", "seq", "awk", "true", "false", "hostname", "ls",
                       "mount", "stat", "date"):
            os.symlink("busybox", os.path.join(tree, "bin", applet))
        for name, data in files.items():
            full = os.path.join(tree, name.lstrip("/"))
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as f:
                f.write(data.encode() if isinstance(data, str) else data)
            os.chmod(full, 0o644)
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-U", uid, "-d", tree, path, "24M")
    return uid


class Listener:
    """<uds>_PORT; keeps the accepted connections"""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(4)

    def accept(self, limit, alive=lambda: None):
        """@alive raises when waiting is pointless"""
        until = time.monotonic() + limit
        self.sock.settimeout(0.25)
        while True:
            try:
                return self.sock.accept()[0]
            except TimeoutError:
                alive()
                if time.monotonic() > until:
                    raise


class Stopwatch:
    """Seconds that the processes @pids took by themselves: time of the clock, less what their threads waited for a processor that others
    had, and never less than the processor time of the first one. @since: when they were started, if they were just now."""

    def __init__(self, *pids, since=None):
        self.pids, self.begun = pids, (since, 0, 0) if since else self.look(pids)

    @staticmethod
    def look(pids):
        ran = waited = 0
        for pid in pids:
            for tid in os.listdir("/proc/%d/task" % pid):
                try:
                    with open("/proc/%d/task/%s/schedstat" % (pid, tid)) as f:
                        on, off, _ = f.read().split()
                except OSError:  # that thread has ended
                    continue
                waited += int(off)
                ran += int(on) if pid == pids[0] else 0
        return time.monotonic(), ran / 1e9, waited / 1e9

    def seconds(self):
        wall, ran, waited = (b - a for a, b in zip(self.begun, self.look(self.pids)))
        return max(ran, wall - max(0.0, waited))


class Peer:
    """How much slower this machine is, in this run, than the one that the limits of time were made for: by the same bundle booted with
    plain defaults. The best of all boots so far counts."""

    def __init__(self, shared):
        self.shared, self.took = shared, []

    def boot(self):
        g = Guest(*self.shared)
        g.plain = True
        try:
            g.start().connect()
            g.expect("hello")
            self.took.append(g.since_start())
        finally:
            g.end()

    def slower(self):
        return max(1.0, HELLO_TO_PLAIN * min(self.took) / HELLO_SECONDS)


class Guest:
    count = 0

    def __init__(self, boot, khz, disk, disk_uuid, memory_mib=128, name="web-1", volumes=(), counted=False):
        Guest.count += 1
        self.counted = counted  # True: the guest's clock counts its own instructions, one a nanosecond
        self.plain = False  # True: with QEMU's and the kernel's own defaults, the peer that our start is measured by
        self.dir = tempfile.mkdtemp(prefix="moat-guest-")
        self.instance_id = "inst_%026d" % Guest.count
        self.boot_id = "boot_%026d" % Guest.count
        self.boot, self.khz, self.disk, self.disk_uuid, self.memory_mib, self.name = boot, khz, disk, disk_uuid, memory_mib, name
        self.volumes = volumes  # image files, vdc on
        self.tap = "mt%05x" % Guest.count
        self.seq, self.buffer = 0, b""
        self.control = None
        self.records, self.log_thread = [], None
        self.record_seen = threading.Condition()
        self.vsock = self.qemu = None

    # --- machine ---

    def _tap(self):
        run("ip", "tuntap", "add", self.tap, "mode", "tap")
        with open("/proc/sys/net/ipv6/conf/%s/accept_ra" % self.tap, "w") as f:
            f.write("0")
        run("ip", "link", "set", self.tap, "address", "02:fc:00:00:00:01", "up")
        run("ip", "-6", "addr", "add", "fe80::1/64", "dev", self.tap, "nodad")
        run("ip", "-6", "route", "replace", ADDRESS + "/128", "dev", self.tap)
        run("ip", "-6", "neigh", "replace", ADDRESS, "lladdr", "02:fc:00:00:00:02", "dev", self.tap, "nud", "permanent")

    def start(self):
        self._tap()
        self.scratch = os.path.join(self.dir, "scratch.ext4")
        self.scratch_uuid = str(uuid.uuid4())
        with open(self.scratch, "wb") as f:
            f.truncate(256 << 20)
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,nodiscard",
            "-U", self.scratch_uuid, self.scratch)
        uds = os.path.join(self.dir, "v.sock")
        self.control_listener, self.log_listener = Listener(uds + "_%d" % CONTROL), Listener(uds + "_%d" % LOG)
        ours, theirs = socket.socketpair()
        self.vsock = subprocess.Popen([os.path.join(BIN, "moat-vsock"), "--uds", uds, "--cid", "3", "--vhost-fd", str(ours.fileno())],
                                      pass_fds=[ours.fileno()], stderr=open(os.path.join(self.dir, "vsock.log"), "wb"))
        ours.close()
        append = ("console=ttyS0 quiet loglevel=4 reboot=k panic=-1 random.trust_cpu=on i8042.noaux i8042.nomux i8042.dumbkbd "
                  "swiotlb=noforce initcall_blacklist=slab_late_init moat.instance=%s moat.boot=%s moat.proto=1 tsc_early_khz=%d%s"
                  % (self.instance_id, self.boot_id, 1000000 if self.counted else self.khz, "" if self.plain else TCG_ARGS))
        self.console = os.path.join(self.dir, "console.log")
        argv = ["qemu-system-x86_64", "-M", "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,memory-backend=mem",
                "-accel", "tcg,thread=single,tb-size=%d" % (32 if self.plain else 56), "-cpu", "max" if self.plain else "max,-erms", "-smp", "1", "-m", str(self.memory_mib),
                "-object", "memory-backend-memfd,id=mem,size=%dM,share=on" % self.memory_mib,
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                "-kernel", os.path.join(self.boot, "vmlinux"), "-initrd", os.path.join(self.boot, "initramfs.cpio"),
                "-serial", "file:" + self.console, "-device", "i8042",
                "-drive", "id=d0,file=%s,format=raw,if=none,readonly=on" % self.disk, "-device", "virtio-blk-device,drive=d0",
                "-drive", "id=d1,file=%s,format=raw,if=none,cache=unsafe" % self.scratch, "-device", "virtio-blk-device,drive=d1",
                "-netdev", "tap,id=n0,ifname=%s,script=no,downscript=no" % self.tap,
                "-device", "virtio-net-device,netdev=n0,mac=02:fc:00:00:00:02",
                "-chardev", "socket,id=vs,fd=%d" % theirs.fileno(), "-device", "vhost-user-vsock-device,chardev=vs",
                "-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-device,rng=r", "-append", append]
        if self.counted:
            argv += ["-icount", "shift=0"]
        argv += self.qemu_extra()
        for i, path in enumerate(self.volumes):
            argv += ["-drive", "id=v%d,file=%s,format=raw,if=none,cache=writeback,werror=report" % (i, path), "-device", "virtio-blk-device,drive=v%d" % i]
        self.t0 = time.monotonic()
        self.qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=open(os.path.join(self.dir, "qemu.log"), "wb"), pass_fds=[theirs.fileno()])
        theirs.close()
        self.watch = Stopwatch(self.qemu.pid, self.vsock.pid, since=self.t0)
        return self

    def qemu_extra(self):
        """more arguments, for who wants another machine"""
        return []

    def since_start(self):
        """seconds since QEMU was started, by its stopwatch"""
        return self.watch.seconds()

    def since_config(self):
        return self.config_watch.seconds()

    def end(self):
        """stop what still runs, remove everything; harmless after a clean end"""
        for p in (self.qemu, self.vsock):
            if p and p.poll() is None:
                p.send_signal(signal.SIGKILL)
            if p:
                p.wait()
        subprocess.run(["ip", "link", "del", self.tap], stderr=subprocess.DEVNULL)
        if self.log_thread:
            self.log_thread.join(5)
        shutil.rmtree(self.dir, ignore_errors=True)

    def wait_exit(self, limit=60):
        """QEMU's exit status, after moat-vsock ended too"""
        status = self.qemu.wait(limit)
        self.vsock.wait(60)
        return status

    def alive(self):
        for p, log in ((self.qemu, "qemu.log"), (self.vsock, "vsock.log")):
            if p.poll() is not None:
                with open(os.path.join(self.dir, log), errors="replace") as f:
                    raise EOFError("%s ended with %d: %s" % (log[:-4], p.returncode, f.read()[-500:]))

    def console_tail(self):
        try:
            with open(self.console, errors="replace") as f:
                return f.read()[-1500:]
        except OSError:
            return ""

    # --- control channel ---

    def connect(self, limit=60):
        if self.control:
            self.control.close()
        self.control = self.control_listener.accept(limit, self.alive)
        self.seq, self.buffer = 0, b""

    def send(self, kind, **fields):
        self.seq += 1
        self.send_raw((json.dumps(dict({"v": 1, "type": kind, "seq": self.seq}, **fields)) + "\n").encode())

    def send_raw(self, data):
        self.control.sendall(data)

    def receive(self, limit=60):
        self.control.settimeout(limit)
        while b"\n" not in self.buffer:
            got = self.control.recv(65536)
            if not got:
                raise EOFError("control channel closed; console: " + self.console_tail())
            self.buffer += got
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def expect(self, kind, state=None, limit=60):
        """the next message of that type; others are an error"""
        m = self.receive(limit)
        if m["type"] != kind or (state and m.get("state") != state):
            raise AssertionError("wanted %s %s, got %s" % (kind, state or "", m))
        return m

    def config(self, argv, **process):
        p = {"argv": argv, "cwd": "/", "env": {}, "user": "0:0", "stop_signal": "TERM", "prestart": []}
        p.update(process)
        return {"instance_id": self.instance_id, "boot_id": self.boot_id, "generation": 7, "required_features": [],
                "hostname": self.name, "process": p,
                "root": {"lower": "/dev/vda", "lower_uuid": self.disk_uuid, "upper": "/dev/vdb", "upper_uuid": self.scratch_uuid},
                "mounts": [],
                "network": {"ifname": "eth0", "mac": "02:fc:00:00:00:02", "address": ADDRESS, "prefix_len": 128,
                            "gateway": "fe80::1", "gateway_mac": "02:fc:00:00:00:01", "mtu": 1420, "dns": [], "search": [],
                            "hosts": []},
                "secrets": {"present": False, "required": False}, "exec": {"enabled": False},
                "logs": {"port": LOG, "line_max": 16384, "ring_bytes": 1048576},
                "tmpfs": {"run_bytes": 0, "tmp_bytes": 0, "shm_bytes": 0}, "time_ns": time.time_ns()}

    def boot_with(self, config):
        """hello, config, ack; returns the hello"""
        self.connect()
        hello = self.expect("hello")
        self.config_watch = Stopwatch(self.qemu.pid, self.vsock.pid)
        self.send("config", **config)
        self.expect("ack")
        return hello

    # --- log channel ---

    def collect_logs(self, limit=60):
        """accept the log connection and read records in the background until it closes"""
        conn = self.log_listener.accept(limit, self.alive)

        def reader():
            data = b""
            while True:
                try:
                    got = conn.recv(65536)
                except OSError:
                    got = b""
                if not got:
                    break
                data += got
                while len(data) >= 4:
                    n, = struct.unpack_from(">I", data)
                    if len(data) < 4 + n:
                        break
                    stream, flags, seq, ns = struct.unpack_from(">BBQQ", data, 4)
                    with self.record_seen:
                        self.records.append((stream, flags, seq, ns, data[22:4 + n]))
                        self.record_seen.notify_all()
                    data = data[4 + n:]
            conn.close()

        self.log_thread = threading.Thread(target=reader, daemon=True)
        self.log_thread.start()

    def wait_record(self, payload, limit=60):
        with self.record_seen:
            return self.record_seen.wait_for(lambda: any(r[4] == payload for r in self.records), limit)

    def lines(self, stream):
        with self.record_seen:
            return [r[4].decode("utf-8", "replace") for r in self.records if r[0] == stream and not r[1] & 2]
