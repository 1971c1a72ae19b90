# SPDX-License-Identifier: Apache-2.0
"""Two lab hosts with a cable between them. Not a test itself.

Both run the same test file (labkit, pair=True). Host b calls `serve()`: it dials host a and does what it is told there, so that
whatever firewall comes up on b later, the line of the test is one that b itself opened. Host a calls `Other()`. Real Debian hosts, kernel
and userland; nothing is between them but an Ethernet segment with these two addresses.
"""
import json
import os
import socket
import subprocess
import time

import labkit

A, B = "10.79.0.1", "10.79.0.2"
PORT = 9
LIMIT = 400  # s for one command


def cable(address):
    """This host's end: the module, the address, the link."""
    labkit.modprobe("virtio_net")
    end = time.monotonic() + 180
    while not os.path.exists("/sys/class/net/eth0"):
        if time.monotonic() > end:
            raise AssertionError("no eth0: %s" % os.listdir("/sys/class/net"))
        time.sleep(0.05)
    subprocess.run(["ip", "addr", "add", address + "/24", "dev", "eth0"], check=True)
    subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)


def serve():
    """Host b: until host a hangs up."""
    cable(B)
    # connections are followed from here on: a firewall that comes later knows the one that is dialed now
    subprocess.run(["nft", "-f", "-"], input="table inet lab {\n chain c {\n  type filter hook input priority 0\n  ct state established accept\n }\n}\n",
                   text=True, check=True)
    end, s = time.monotonic() + 400, None
    while s is None:
        try:
            s = socket.create_connection((A, PORT), 5)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    s.settimeout(None)
    f = s.makefile("rw")
    for line in f:
        order = json.loads(line)
        try:
            got = {"got": globals()["do_" + order.pop("do")](**order)}
        except Exception as e:  # noqa: BLE001 - told to who asked
            got = {"error": "%s: %s" % (type(e).__name__, e)}
        f.write(json.dumps(got) + "\n")
        f.flush()
    return 0


def do_sh(argv, input=None):
    r = subprocess.run(argv, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT)
    return [r.returncode, r.stdout[-20000:]]


def do_spawn(argv, log):
    with open(log, "ab") as f:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=f, stderr=f, start_new_session=True).pid


def do_write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def do_read(path):
    with open(path, errors="replace") as f:
        return f.read()[-20000:]


class Other:
    """Host b, from host a."""

    def __init__(self):
        cable(A)
        self.server = socket.create_server((A, PORT))
        self.accept()

    def accept(self, limit=400):
        """The next time that it dials: after each of its boots."""
        self.server.settimeout(limit)
        c, _ = self.server.accept()
        c.settimeout(LIMIT + 30)
        self.f = c.makefile("rw")

    def ask(self, do, **order):
        self.f.write(json.dumps(dict(order, do=do)) + "\n")
        self.f.flush()
        got = json.loads(self.f.readline())
        if "error" in got:
            raise AssertionError("host b: " + got["error"])
        return got["got"]

    def sh(self, *argv, input=None, want=0):
        rc, out = self.ask("sh", argv=argv, input=input)
        if rc != want:
            raise AssertionError("host b: %s: %d %s" % (" ".join(argv), rc, out[-600:]))
        return out
