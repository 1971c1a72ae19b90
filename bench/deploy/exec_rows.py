# SPDX-License-Identifier: Apache-2.0
"""Exec against a process in the same VM that does nothing but vsock: one byte there and back, and bytes out."""
import os
import socket
import statistics
import subprocess
import tarfile
import io
import time

from platform_kit import BIN, ROOT, Failed, check, manifest

TRIPS = 300


def image(p):
    exe = f"{p.work}/peer"
    r = subprocess.run(["musl-gcc", "-static", "-Os", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu", "-o", exe,
                        f"{ROOT}/bench/deploy/peer.c"], capture_output=True, text=True)
    check(r.returncode == 0, r.stderr)
    files = {"peer": (open(exe, "rb").read(), 0o755), "bin/busybox": (open("/usr/bin/busybox", "rb").read(), 0o755)}

    def links(tar):
        for n in ("sh", "cat", "head", "dd"):
            t = tarfile.TarInfo("bin/" + n)
            t.type, t.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(t, io.BytesIO())
    return p.push_app("box", files=files, extra=links, entrypoint=["/bin/sh", "-c", "/peer & exec /app serve 8080"])


def dial(p, port):
    """The VM's own vsock, as the agent reaches it."""
    for base, _, files in os.walk(f"{p.data}/jail"):
        if "v.sock" in files:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            here = os.getcwd()
            os.chdir(base)  # the path is longer than a socket's name may be
            try:
                s.connect("v.sock")
            except OSError:
                continue
            finally:
                os.chdir(here)
            s.sendall(b"CONNECT %d\n" % port)
            line = b""
            while not line.endswith(b"\n"):
                got = s.recv(1)
                if not got:
                    break
                line += got
            if line.startswith(b"OK "):
                return s
            s.close()
    raise Failed("no VM listens on vsock port %d" % port)


def trips(write, read):
    out = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        write(b"x")
        read()
        out.append((time.perf_counter() - began) * 1000)
    return statistics.median(out)


def rows(p, row):
    if not os.path.exists("/usr/bin/busybox"):
        return
    p.deploy(manifest("box", image(p), port=8080, memory="192Mi"))
    tcg = not os.path.exists("/dev/kvm") or p.json("nodes")["items"][0].get("vmm", {}).get("accel") == "tcg"
    mib = 1024
    argv = [f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", "-i", "web", "--", "cat"]
    s = dial(p, 9000)
    raw = trips(s.sendall, lambda: s.recv(1))
    s.close()
    c = subprocess.Popen(argv, env=p.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    ours = trips(c.stdin.write, lambda: c.stdout.read(1))
    c.stdin.close()
    c.wait(20)
    row("exec: a byte there and back, beyond vsock's own", ours - raw, 1.0, "ms", raw, "an echo over vsock in the same VM, ms")
    p.cli("exec", "--app", "box", "--env", "prod", "web", "--", "dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=32")
    times = 32
    rate, peer = [], []
    for _ in range(5):
        s = dial(p, 9001)
        left, began = mib << 20, time.perf_counter()
        while left > 0:
            left -= len(s.recv(1 << 20))
        peer.append(mib / (time.perf_counter() - began))
        s.close()
        began = time.perf_counter()
        r = subprocess.run([f"{BIN}/moat", "exec", "--app", "box", "--env", "prod", "web", "--", "cat"] + ["/tmp/big"] * (mib // times), env=p.env,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        check(r.returncode == 0, "cat")
        rate.append(mib / (time.perf_counter() - began))
    a, b = statistics.median(rate), statistics.median(peer)
    row(f"exec: {mib} MiB through cat{' (TCG)' if tcg else ''}, of vsock's own rate", a / b, 0.7, "", b, "MiB/s of a process that only sends zeros", at_least=True)
