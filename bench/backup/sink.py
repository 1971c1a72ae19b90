# SPDX-License-Identifier: Apache-2.0
"""A store that costs this machine what another machine's would: the kernel's part of the sending. It speaks as much of S3 as one bucket of one writer needs, checks no signature and no
hash, and keeps everything in memory. That real stores take what is sent is shown elsewhere (tests/scenario/test_backup.py); what they do with it is not this node's work."""
import multiprocessing
import os
import re
import signal
import socket
import threading
import urllib.parse
from xml.sax.saxutils import escape

RECV = 1 << 20


def read_head(s, had):
    while b"\r\n\r\n" not in had:
        part = s.recv(65536)
        if not part:
            return None, b""
        had += part
    head, rest = had.split(b"\r\n\r\n", 1)
    return head.decode(), rest


def listing(objects, query):
    q = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    keys = sorted(k for k in list(objects) if k.startswith(q.get("prefix", "")))
    return ("<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>" % "".join(
        "<Contents><Key>%s</Key><Size>%d</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>" % (escape(k), len(objects[k])) for k in keys)).encode()


def connection(s, bucket, objects, shared):
    had = b""
    with s:
        while True:
            head, had = read_head(s, had)
            if head is None:
                return
            method, target = head.split(" ", 2)[:2]
            length = int((re.search(r"(?im)^content-length: *(\d+)", head) or [0, "0"])[1])
            if re.search(r"(?im)^expect: *100-continue", head):
                s.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = bytearray(length)
            have = min(len(had), length)
            body[:have], had = had[:have], had[have:]
            while have < length:
                n = s.recv_into(memoryview(body)[have:], min(RECV, length - have))
                if not n:
                    return
                have += n
            path, _, query = target.partition("?")
            key = urllib.parse.unquote(path).removeprefix("/" + bucket).removeprefix("/")
            status, answer = "200 OK", b""
            if shared.forget.value:
                objects.clear()
                shared.forget.value = 0
            if method == "PUT":
                objects[key] = body
                with shared.bytes.get_lock():
                    shared.bytes.value += length
                    shared.count.value += 1
            elif method == "DELETE":
                status = "204 No Content"
                objects.pop(key, None)
            elif not key:
                answer = listing(objects, query)
            elif key in objects:
                answer = objects[key]
            else:
                status = "404 Not Found"
            s.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(answer)) + (b"" if method == "HEAD" else bytes(answer)))


def serve(listener, bucket, shared):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    objects = {}
    while True:
        s, _ = listener.accept()
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=connection, args=(s, bucket, objects, shared), daemon=True).start()


class Shared:
    def __init__(self):
        self.bytes, self.count, self.forget = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0), multiprocessing.Value("b", 0)


class Sink:
    """In a process of its own; `sent` and `count`: of all that was ever put."""

    def __init__(self, bucket):
        self.shared, listener = Shared(), socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = listener.getsockname()[1]
        self.proc = multiprocessing.get_context("fork").Process(target=serve, args=(listener, bucket, self.shared), daemon=True)
        self.proc.start()
        self.pid = self.proc.pid
        listener.close()

    def sent(self):
        return self.shared.bytes.value

    def count(self):
        return self.shared.count.value

    def forget(self):
        self.shared.forget.value = 1

    def close(self):
        if self.proc.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self.proc.join()
