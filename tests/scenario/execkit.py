# SPDX-License-Identifier: Apache-2.0
"""Exec frames spoken by hand, over the agent's local socket: for tests and benches. Not a test itself."""
import datetime
import json
import os
import select
import socket
import struct

import agentkit
import fair

STDIN, STDOUT, STDERR, CONTROL, EXIT, WINDOW, OPEN, OPENED = 0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x20, 0x21


def frame(kind, payload=b""):
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    return struct.pack(">BBHI", kind, 0, 0, len(payload)) + payload


def grant(instance_id, env_id, command, seconds=60, limit=600, **more):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return dict({"session_id": agentkit.new_id("exec"), "instance_id": instance_id, "env_id": env_id, "command": list(command),
                 "expires_at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "max_duration_s": limit}, **more)


class Session:
    """One session; reads only when asked to, so that a test can be a slow reader."""

    def __init__(self, agent_socket, the_grant):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(agent_socket)
        self.sock.sendall(json.dumps({"op": "exec", "grant": the_grant}).encode() + b"\n")
        self.buf, self.out, self.err, self.controls = b"", bytearray(), bytearray(), []
        self.exit, self.pid, self.credit, self.ended = None, None, 0, False

    def send(self, kind, payload=b""):
        self.sock.sendall(frame(kind, payload))

    def control(self, **body):
        self.send(CONTROL, body)

    def pump(self, seconds=0.0):
        """Read once, at most @seconds away; false when nothing came."""
        if self.ended or not select.select([self.sock], [], [], seconds)[0]:
            return False
        data = self.sock.recv(262144)
        if not data:
            self.ended = True
            return False
        self.buf += data
        at = 0
        while len(self.buf) - at >= 8:
            kind, flags, zero, n = struct.unpack_from(">BBHI", self.buf, at)
            if flags or zero or n > 65536:
                raise AssertionError("bad header %r" % self.buf[at:at + 8])
            if len(self.buf) - at < 8 + n:
                break
            self.take(kind, self.buf[at + 8:at + 8 + n])
            at += 8 + n
        self.buf = self.buf[at:]
        return True

    def take(self, kind, payload):
        if self.exit is not None:
            raise AssertionError("a frame after EXIT")
        if kind == STDOUT:
            self.out += payload
        elif kind == STDERR:
            self.err += payload
        elif kind == WINDOW:
            self.credit += struct.unpack(">I", payload)[0]
        elif kind == OPENED:
            self.pid = json.loads(payload)["pid"]
        elif kind == CONTROL:
            self.controls.append(json.loads(payload))
        elif kind == EXIT:
            self.exit = json.loads(payload)
        else:
            raise AssertionError("frame of type %#x" % kind)

    def until(self, what, fn, seconds=30):
        end = fair.now() + fair.limit(seconds)
        while not fn():
            if self.ended or fair.now() > end:
                raise AssertionError("no %s: out %r err %r exit %r" % (what, bytes(self.out[-200:]), bytes(self.err[-200:]), self.exit))
            self.pump(0.2)
        return self

    def opened(self):
        return self.until("OPENED", lambda: self.pid)

    def finish(self, seconds=30):
        """To EXIT and the close behind it."""
        self.until("EXIT", lambda: self.exit is not None, seconds)
        end = fair.now() + fair.LEAST
        while not self.ended and fair.now() < end:
            self.pump(0.2)
        if not self.ended:
            raise AssertionError("not closed after EXIT")
        self.sock.close()
        return self.exit

    def write(self, data):
        """All of @data as the window allows."""
        at = 0
        while at < len(data):
            self.until("window", lambda: self.credit > 0 or self.exit is not None)
            if self.exit is not None:
                return
            n = min(self.credit, 65536, len(data) - at)
            self.send(STDIN, data[at:at + n])
            self.credit -= n
            at += n

    def close(self):
        self.sock.close()


def busybox_layer(kit):
    """Entries of a layer with a static busybox under the usual names."""
    import imagekit
    with open("/usr/bin/busybox", "rb") as f:
        box = f.read()
    names = ["sh", "cat", "stty", "sleep", "yes", "env", "id", "head", "wc", "sha256sum", "dd", "tty", "seq", "setsid", "printf",
             "kill", "true", "pwd", "ps", "grep", "tail"]
    out = [imagekit.entry("bin/", b"5", mode=0o755), imagekit.entry("bin/busybox", data=box, mode=0o755)]
    out += [imagekit.entry("bin/" + n, b"2", link=b"busybox", mode=0o777) for n in names]
    return out


def push_busybox(world, name="box"):
    import imagekit
    store = imagekit.Store(os.path.join(world.dir, "src-" + name))
    passwd = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1234:1234::/home/bob:/bin/sh\n"
    layer = imagekit.tar(*busybox_layer(None), imagekit.entry("app", data=world.testapp(), mode=0o755),
                         imagekit.entry("etc/", b"5", mode=0o755), imagekit.entry("etc/passwd", data=passwd, mode=0o644),
                         imagekit.entry("data", data=b"not a program", mode=0o644), imagekit.entry("work/", b"5", mode=0o777))
    digest = store.image([layer], config={"Entrypoint": ["/app"], "Cmd": ["serve", "8080"], "WorkingDir": "/work",
                                          "Env": ["WORD=image", "PATH=/bin"]})
    lay = imagekit.layout(store, os.path.join(world.dir, "layout-" + name), "t", digest)
    world.registry.push(lay, name + ":t")
    return "%s/%s" % (world.registry.host, name), digest
