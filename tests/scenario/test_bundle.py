#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kernel bundle builder: same input same bytes, nothing done twice, damage and bad input named. COST 20 s, 10 s of processor."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
import fair  # noqa: E402
import guestvm  # noqa: E402

INIT = os.path.join(guestvm.BIN, "moat-init")
BUILDER = os.path.join(guestvm.ROOT, "packaging/bundle/make-bundle")
CACHE = os.path.join(guestvm.ROOT, "build-bundle", "cache")


def make(out, *more, init=INIT, env=None):
    argv = [BUILDER, "--init", init, "--out", out, "--cache", CACHE] + list(more)
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def sha(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def built(out):
    r = make(out)
    check(r.returncode == 0, r.stderr)
    return r.stdout.strip()


def is_what_its_manifest_says(tmp):
    path = built(os.path.join(tmp, "a"))
    with open(os.path.join(path, "manifest.json")) as f:
        m = json.load(f)
    check(m["version"] == os.path.basename(path) and m["kind"] == "modules" and m["arch"] == "amd64", "manifest: %s" % m)
    for name, key in (("vmlinux", "vmlinux"), ("initramfs.cpio", "initramfs")):
        file = os.path.join(path, name)
        check(sha(file) == m[key + "_sha256"] and os.path.getsize(file) == m[key + "_bytes"], name)
        check(os.stat(file).st_mode & 0o777 == 0o444, "mode of " + name)
    check(m["init_sha256"] == sha(INIT) and m["proto_min"] <= m["proto_max"], "manifest: %s" % m)
    check(m["modules"].index("virtio_blk.ko") > m["modules"].index("virtio_mmio.ko"), "order: %s" % m["modules"])
    check(m["modules"].index("virtio_net.ko") > m["modules"].index("net_failover.ko") > m["modules"].index("failover.ko"), "order")
    check(os.readlink(os.path.join(tmp, "a", "current")) == m["version"], "link current")
    check(os.path.getsize(os.path.join(path, "initramfs.cpio")) <= 8 << 20, "initramfs is larger than 8 MiB")
    if os.path.exists("/etc/machine-id"):
        with open("/etc/machine-id", "rb") as f, open(os.path.join(path, "manifest.json"), "rb") as g, open(os.path.join(path, "built-here")) as h:
            check(h.read() == hashlib.sha256(f.read() + g.read()).hexdigest() + "\n", "built-here is not of this machine and manifest")


def init_is_small_and_static(_):
    size = os.path.getsize(INIT)
    check(size <= 400 * 1024, "moat-init has %d bytes" % size)
    with open(INIT, "rb") as f:
        data = f.read()
    offset, count = int.from_bytes(data[32:40], "little"), int.from_bytes(data[56:58], "little")
    kinds = [int.from_bytes(data[offset + 56 * i:offset + 56 * i + 4], "little") for i in range(count)]
    check(data[:4] == b"\x7fELF" and 3 not in kinds and 2 not in kinds, "moat-init asks for a loader (PT_INTERP or PT_DYNAMIC)")


def second_call_does_nothing(tmp):
    out = os.path.join(tmp, "a")
    path = built(out)
    before = os.stat(os.path.join(path, "vmlinux"))

    def again():
        before_cpu = os.times()
        check(built(out) == path, "another path")
        cpu = os.times()
        return cpu.children_user + cpu.children_system - before_cpu.children_user - before_cpu.children_system
    cpu, quick = fair.best(again, lambda seen: min(seen) < 4, 1, 6)
    after = os.stat(os.path.join(path, "vmlinux"))
    check((before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "it was built again")
    # its own time, and the best of some: what the neighbours do must not count. Asking apt takes 2.4 s of processor, building 7
    check(quick, "nothing to do took %s s of processor" % cpu)


def same_input_gives_same_bytes(tmp):
    a = built(os.path.join(tmp, "a"))
    b = os.environ.get("MOAT_BUNDLE") or built(os.path.join(tmp, "b"))  # tests/run has made one of the same moat-init
    check(os.path.basename(a) == os.path.basename(b), "versions differ")
    for name in ("vmlinux", "initramfs.cpio", "manifest.json"):
        check(sha(os.path.join(a, name)) == sha(os.path.join(b, name)), name + " differs")


def damage_is_mended(tmp):
    path = built(os.path.join(tmp, "a"))
    os.truncate(os.path.join(path, "vmlinux"), 1000)
    check(built(os.path.join(tmp, "a")) == path, "another path")
    check(os.path.getsize(os.path.join(path, "vmlinux")) > 1 << 20, "the cut kernel was kept")


def errors_name_thing_and_mend(tmp):
    out = os.path.join(tmp, "c")
    r = make(out, init="/no/such/moat-init")
    check(r.returncode == 1 and "/no/such/moat-init" in r.stderr, r.stderr)
    r = make(out, "--deb", "/etc/passwd")
    check(r.returncode == 1 and "/etc/passwd" in r.stderr, r.stderr)
    fake = os.path.join(tmp, "bin")
    os.mkdir(fake)
    with open(os.path.join(fake, "apt-cache"), "w") as f:  # a machine whose package lists are empty
        f.write("#!/bin/sh\nexit 100\n")
    with open(os.path.join(fake, "apt-get"), "w") as f:
        f.write("#!/bin/sh\necho 'E: Failed to fetch http://deb.debian.org/' >&2\nexit 100\n")
    for n in os.listdir(fake):
        os.chmod(os.path.join(fake, n), 0o755)
    r = make(out, env=dict(os.environ, PATH=fake + ":" + os.environ["PATH"]))
    check(r.returncode == 1 and "offline" in r.stderr and "--deb" in r.stderr, r.stderr)
    check("Traceback" not in r.stderr, r.stderr)
    check(not [d for d in os.listdir(out) if not d.startswith(".")], "a failed call left something behind")


def main():
    for program in ("dpkg-deb", "depmod", "zstd", "apt-cache"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            print("skip - kernel bundle: no " + program)
            return 0
    if not os.path.exists(INIT):
        print("skip - kernel bundle: no " + INIT)
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moat-bundle-") as tmp:
        for case in (is_what_its_manifest_says, init_is_small_and_static, second_call_does_nothing, same_input_gives_same_bytes, damage_is_mended,
                     errors_name_thing_and_mend):
            name = case.__name__.replace("_", " ")
            try:
                case(tmp)
                print("ok - " + name, flush=True)
            except Exception as e:  # a broken case must not hide the others
                failed = 1
                print("not ok - %s: %s: %s" % (name, type(e).__name__, str(e).replace("\n", " ")[:500]), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
