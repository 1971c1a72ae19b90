# SPDX-License-Identifier: Apache-2.0
"""Object stores of others, the faults between them and us, and calls of moat-backup, for tests and bench/backup. Not a test itself.

Stores: versitygw (Go module, checks signatures and payload hashes, files on disk) and moto (PyPI, memory); both pinned, tests only.
"""
import calendar
import fcntl
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

from ports import free_port

ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BACKUP = os.path.join(os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin"), "moat-backup")
CHUNK = 4 << 20
ACCESS, SECRET, BUCKET = "moatkey", "moatsecret0123456789", "moat-test"
VERSITY, MOTO = "v1.0.14", "5.0.28"


def oid(prefix, n):
    return "%s_%026d" % (prefix, n)


ORG, VOL, ORG2, VOL2 = oid("org", 1), oid("vol", 1), oid("org", 2), oid("vol", 2)
KEY, KEY2 = "11" * 32, "22" * 32


def tools():
    d = os.environ.get("MOAT_S3_TOOLS") or os.path.join(ROOT, "build", "s3-tools")
    os.makedirs(d, exist_ok=True)
    return d


def versitygw():
    """Path, or the reason why not."""
    path = os.path.join(tools(), "versitygw")
    with open(path + ".lock", "w") as lock:  # files of the tier that run at once make it once, and none starts half of it
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path, None if os.path.exists(path) else make_versitygw(path)


def make_versitygw(path):
    """None, or why there is none"""
    go = shutil.which("go") or ("/usr/local/go/bin/go" if os.path.exists("/usr/local/go/bin/go") else None)
    if not go:
        return "no Go compiler builds versitygw"
    r = subprocess.run([go, "install", "github.com/versity/versitygw/cmd/versitygw@" + VERSITY], capture_output=True, text=True,
                       env=dict(os.environ, GOBIN=tools(), GOFLAGS="-p=2"))
    return None if os.path.exists(path) else "versitygw is not obtainable: " + r.stderr[-200:]


def moto():
    venv = os.path.join(tools(), "moto-" + MOTO)
    path = venv + "/bin/moto_server"
    if os.path.exists(venv + "/done"):
        return path, None
    r = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if r.returncode == 0:
        r = subprocess.run([venv + "/bin/pip", "install", "-q", "--no-compile", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
                            "moto[server]==" + MOTO], capture_output=True, text=True)
    if r.returncode:
        return None, "moto is not obtainable: " + r.stderr[-200:]
    open(venv + "/done", "w").close()
    return path, None


class Store:
    """A running store with an empty bucket; port, and for versitygw the folder of its objects."""

    def __init__(self, kind, scratch, *options):
        path, why = (versitygw if kind == "versitygw" else moto)()
        self.why, self.proc, self.kind = why, None, kind
        if why:
            return
        self.port = free_port()
        self.dir = os.path.join(scratch, kind)
        os.makedirs(self.dir, exist_ok=True)
        if kind == "versitygw":
            argv = [path, "--access", ACCESS, "--secret", SECRET, "--port", "127.0.0.1:%d" % self.port, "--region", "us-east-1", "--quiet", *options, "posix", self.dir]
        else:
            argv = [path, "-H", "127.0.0.1", "-p", str(self.port)]
        self.argv = argv
        self.begin()
        if kind == "versitygw":
            os.makedirs(os.path.join(self.dir, BUCKET), exist_ok=True)
        else:
            self.ask("PUT", "")

    def begin(self):
        """Also after a close(): the same port, and with versitygw the same objects."""
        self.proc = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 180
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > end or self.proc.poll() is not None:
                    raise RuntimeError(self.kind + " did not start")
                time.sleep(0.05)

    def path(self, key=""):
        return os.path.join(self.dir, BUCKET, key)

    def ask(self, method, what):
        """A request of ours to moto, which wants a signature and looks at none; the body of the answer"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        c.request(method, "/" + BUCKET + what, headers={"Authorization": "AWS4-HMAC-SHA256 Credential=%s/20260101/us-east-1/s3/aws4_request, "
                                                        "SignedHeaders=host, Signature=0" % ACCESS})
        r = c.getresponse()
        body = r.read()
        c.close()
        if r.status not in (200, 204):
            raise RuntimeError("%s %s: %d" % (method, what, r.status))
        return body.decode()

    def listed(self, below):
        out, after = {}, ""
        while True:
            page = self.ask("GET", "?" + urllib.parse.urlencode({"list-type": 2, "prefix": below, "start-after": after}))
            found = re.findall(r"<Key>([^<]+)</Key>.*?<Size>(\d+)</Size>", page, re.S)
            out.update((key, int(size)) for key, size in found)
            if not found or "<IsTruncated>true" not in page:
                return out
            after = found[-1][0]

    def delete(self, key):
        if self.kind == "versitygw":
            os.unlink(self.path(key))
        else:
            self.ask("DELETE", "/" + urllib.parse.quote(key))

    def wipe(self):
        """Nothing is left in the bucket."""
        if self.kind == "versitygw":
            shutil.rmtree(self.path("pre"), ignore_errors=True)
        else:
            for key in self.listed(""):
                self.delete(key)

    def objects(self, below=""):
        """Keys below a folder, with sizes"""
        if self.kind != "versitygw":
            return self.listed(below.rstrip("/") + "/" if below else "")
        out = {}
        top = self.path(below)
        for d, _, files in os.walk(top):
            for f in files:
                p = os.path.join(d, f)
                try:
                    out[os.path.relpath(p, self.path())] = os.path.getsize(p)
                except FileNotFoundError:
                    continue  # deleted while we looked
        return out

    def close(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()


class Proxy:
    """Between us and the store: `fault(n, first_line)` says for each connection's request what happens: None, "cut", "503", "corrupt", "slow"."""

    def __init__(self, port, fault=lambda n, line: None, ahead=0, address="127.0.0.1"):
        """@ahead: the store's clock, seconds before ours; requests that are off by half of it are refused"""
        self.ahead = ahead
        self.to, self.fault, self.count, self.lock = port, fault, 0, threading.Lock()
        self.listener = socket.socket()
        self.listener.bind((address, 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        """One request a connection: `Connection: close` is put in."""
        try:
            with c:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = c.recv(65536)
                    if not part:
                        return
                    head += part
                head, rest = head.split(b"\r\n\r\n", 1)
                lines = head.split(b"\r\n")
                with self.lock:
                    self.count += 1
                    self.peer = c.getpeername()[0]  # of this one; for the function that is asked now
                    what = self.fault(self.count, lines[0].decode())
                length = next((int(x.split(b":")[1]) for x in lines if x.lower().startswith(b"content-length:")), 0)
                if what == "503":
                    got = len(rest)
                    while got < length:
                        got += len(c.recv(1 << 20)) or length
                    c.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                stamp = next((x.split(b":")[1].strip() for x in lines if x.lower().startswith(b"x-amz-date:")), None)
                if self.ahead and calendar.timegm(time.strptime(stamp.decode(), "%Y%m%dT%H%M%SZ")) < time.time() + self.ahead / 2:
                    self.refused = True
                    text = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
                    c.sendall(b"HTTP/1.1 403 Forbidden\r\nDate: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (
                        time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + self.ahead)).encode(), len(text)) + (text if not head.startswith(b"HEAD") else b""))
                    return
                with socket.create_connection(("127.0.0.1", self.to), 20) as s:
                    s.sendall(b"\r\n".join([lines[0], b"Connection: close"] + [x for x in lines[1:] if not x.lower().startswith(b"connection:")]) + b"\r\n\r\n")
                    sent = 0
                    while sent < length:
                        part = rest or c.recv(1 << 18)
                        rest = b""
                        if not part:
                            return
                        sent += len(part)
                        if what == "cut" and sent > length // 2:
                            return
                        s.sendall(part)
                    first, total = True, 0
                    while True:
                        part = s.recv(1 << 18)
                        if not part:
                            return
                        total += len(part)
                        if what == "cut" and total > 400:
                            c.sendall(part[:100])
                            return
                        if what == "corrupt" and total > 2000:
                            at = len(part) // 2
                            part = part[:at] + bytes([part[at] ^ 0x55]) + part[at + 1:]
                            what = None
                        if what == "slow":
                            time.sleep(0.2)
                        c.sendall(part)
                        first = False
        except OSError:
            pass

    def close(self):
        self.listener.close()


def request(port, **more):
    store = {"endpoint": "http://127.0.0.1:%d" % port, "bucket": BUCKET, "prefix": "pre/fix", "access_key": ACCESS, "secret_key": SECRET, "retry_base_ms": 20}
    store.update(more.pop("store", {}))
    q = {"store": store, "cluster_id": "test", "org_id": ORG, "volume_id": VOL, "keys": [{"epoch": 1, "key": KEY}]}
    q.update(more)
    return {k: v for k, v in q.items() if v is not None}


class Result(dict):
    pass


def start(verb, q, fds=(), **kw):
    p = subprocess.Popen([BACKUP, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=fds, **kw)
    p.stdin.write(json.dumps(q).encode())
    p.stdin.close()
    p.stdin = None
    return p


def finish(p):
    out, errs = p.communicate(timeout=600)
    lines = [json.loads(l) for l in out.splitlines()]
    r = Result(lines[-1] if lines else {})
    r.lines, r.status, r.stderr = lines, p.returncode, errs.decode(errors="replace")
    if "ok" in r and r.status != (0 if r["ok"] else 1):
        raise AssertionError("status %d for %s" % (r.status, r))
    return r


def call(verb, q, fds=()):
    return finish(start(verb, q, fds))


def backup(port, n, image, size, journal=None, ranges=None, kill=None, **more):
    """Backup `snap n` of the file. @ranges: [(offset, length)]. @kill: (step name, n-th) to end it with SIGKILL there: returns None. See killed()."""
    fds, q = [], request(port, snapshot_id=oid("snap", n), size_bytes=size, captured_at_ms=1800000000000 + n, **dict({"key_epoch": 1}, **more))
    fds.append(os.open(image, os.O_RDONLY))
    q["image_fd"] = fds[0]
    if journal:
        fds.append(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600))
        q["journal_fd"] = fds[-1]
    if ranges is not None:
        text = "".join("%d %d\n" % r for r in ranges) + "end %d\n" % len(ranges)
        fds.append(os.memfd_create("ranges"))
        os.write(fds[-1], text.encode())
        os.lseek(fds[-1], 0, 0)
        q["ranges_fd"] = fds[-1]
    try:
        return killed("backup", q, fds, kill) if kill else call("backup", q, fds)
    finally:
        for fd in fds:
            os.close(fd)


def restore(port, n, target, journal=None, kill=None, **more):
    fds = [os.open(target, os.O_RDWR | os.O_CREAT, 0o600)]
    q = request(port, snapshot_id=oid("snap", n), image_fd=fds[0], **more)
    if journal:
        fds.append(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600))
        q["journal_fd"] = fds[-1]
    try:
        return killed("restore", q, fds, kill) if kill else call("restore", q, fds)
    finally:
        for fd in fds:
            os.close(fd)


def killed(verb, q, fds, kill):
    """Let it go from step to step; SIGKILL at the given one, or what a third member of @kill does there. None when it died there, else its result."""
    r, w = os.pipe()
    p = start(verb, dict(q, step_fd=r), fds + [r])
    os.close(r)
    name, nth, *does = kill
    last = {}
    try:
        for line in p.stdout:
            last = json.loads(line)
            if "step" not in last:
                continue
            if last["step"] == name:
                nth -= 1
                if nth == 0 and does:
                    does[0]()
                elif nth == 0:
                    p.kill()
                    p.wait()
                    return None
            os.write(w, b"x")
    finally:
        os.close(w)
        p.stdout.close()
        p.stderr.close()
    p.wait()
    return Result(last)


def data_of(fd, size):
    """Where a sparse file has data, by 4 MiB chunks; what is not in it reads as zeros."""
    chunks, at = set(), 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole to the end
            break
        end = os.lseek(fd, at, os.SEEK_HOLE)
        chunks.update(range(at // CHUNK, (end - 1) // CHUNK + 1))
        at = end
    return chunks


def same(a, b):
    """Two files have the same bytes; what is a hole in both is not read."""
    with open(a, "rb") as x, open(b, "rb") as y:
        size = os.fstat(x.fileno()).st_size
        if os.fstat(y.fileno()).st_size != size:
            return False
        for c in data_of(x.fileno(), size) | data_of(y.fileno(), size):
            if os.pread(x.fileno(), CHUNK, c * CHUNK) != os.pread(y.fileno(), CHUNK, c * CHUNK):
                return False
    return True


def make_image(path, size, seed, share=0.5):
    """A volume of mixed data: text-like, random and zero areas, holes."""
    rnd = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(rnd.choice((256 << 10, 1 << 20, 3 << 20)), size - at)
            if rnd.random() < share:
                kind = rnd.randrange(3)
                f.seek(at)
                if kind == 0:
                    f.write(rnd.randbytes(n))
                elif kind == 1:
                    line = b"".join(b"%d user=%x path=/srv/%d\n" % (rnd.randrange(1 << 30), rnd.randrange(1 << 40), rnd.randrange(999)) for _ in range(400))
                    f.write((line * (n // len(line) + 1))[:n])
                else:
                    f.write((rnd.randbytes(2048) + bytes(2048)) * (n // 4096))
            at += n
