# SPDX-License-Identifier: Apache-2.0
"""Images made by hand for the scenario tests: tar layers byte by byte, blobs, manifests, and calls of moat-unpack.

Not a test itself. Standard library only (zstd through the command).
"""
import crypt
import gzip
import hashlib
import json
import os
import socket
import subprocess
import time

from ports import free_port

UID = 65534  # what moat-unpack and moat-fetch drop to when the test runs as root


def sha(data):
    return hashlib.sha256(data).hexdigest()


def _octal(n, width):
    return b"%0*o\0" % (width - 1, n)


def header(name, type=b"0", size=0, mode=0o644, uid=0, gid=0, mtime=1000, link=b"", magic=b"ustar\x0000", prefix=b"",
           checksum=None):
    """One 512 byte header; names are bytes, cut to their field."""
    h = bytearray(512)
    h[0:len(name[:100])] = name[:100]
    h[100:108] = _octal(mode, 8)
    h[108:116] = _octal(uid, 8)
    h[116:124] = _octal(gid, 8)
    h[124:136] = _octal(size, 12)
    h[136:148] = _octal(mtime, 12)
    h[156:157] = type
    h[157:157 + len(link[:100])] = link[:100]
    h[257:265] = magic
    h[345:345 + len(prefix[:155])] = prefix[:155]
    h[148:156] = b" " * 8
    total = sum(h) if checksum is None else checksum
    h[148:156] = b"%06o\0 " % total
    return bytes(h)


def pad(data):
    return data + b"\0" * (-len(data) % 512)


def pax(records):
    """Body of an extended header from [(key, value bytes)]."""
    out = b""
    for key, value in records:
        body = b" " + key.encode() + b"=" + value + b"\n"
        n = len(body)
        while n != len(body) + len(str(n)):
            n = len(body) + len(str(n))
        out += str(n).encode() + body
    return out


def entry(name, type=b"0", data=b"", pax_records=None, **kw):
    """A whole entry: extended header if wanted, header, data."""
    name = name.encode() if isinstance(name, str) else name
    if isinstance(kw.get("link"), str):
        kw["link"] = kw["link"].encode()
    out = b""
    if pax_records:
        body = pax(pax_records)
        out += header(b"PaxHeaders/x", b"x", len(body)) + pad(body)
    kw.setdefault("size", len(data))
    if type == b"5":
        kw.setdefault("mode", 0o755)
    return out + header(name, type, **kw) + pad(data)


def tar(*entries):
    return b"".join(entries) + b"\0" * 1024


def compress(data, how):
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "plain": ""}


class Store:
    """An image store folder that moat-unpack can work in."""

    def __init__(self, path):
        self.path = path
        for d in ("", "blobs", "blobs/sha256", "tmp"):
            os.makedirs(os.path.join(path, d), exist_ok=True)
            os.chmod(os.path.join(path, d), 0o755)
        self.count = 0

    def blob(self, data):
        digest = sha(data)
        p = os.path.join(self.path, "blobs/sha256", digest)
        if not os.path.exists(p):
            with open(p, "wb") as f:
                f.write(data)
            os.chmod(p, 0o644)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def image(self, layers, how="gzip", config=None, arch="amd64", diff_ids=None, media=None):
        """Layers are tar bytes (or (tar, how)); returns the manifest digest."""
        pairs = [l if isinstance(l, tuple) else (l, how) for l in layers]
        conf = {"architecture": arch, "os": "linux", "config": config or {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids or ["sha256:" + sha(t) for t, _ in pairs]}}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": dict(self.blob(json.dumps(conf).encode()), mediaType="application/vnd.oci.image.config.v1+json"),
                    "layers": [dict(self.blob(compress(t, h)),
                                    mediaType=media or "application/vnd.oci.image.layer.v1.tar" + SUFFIX[h])
                               for t, h in pairs]}
        return self.blob(json.dumps(manifest).encode())["digest"]

    def unpack(self, program, digest, arch="amd64", keep=None, **more):
        """Run moat-unpack; returns (answer, path of the disk or None)."""
        self.count += 1
        work = "build-%d-%d" % (os.getpid(), self.count)
        folder = os.path.join(self.path, "tmp", work)
        os.mkdir(folder, 0o700)
        request = dict({"images_dir": self.path, "work_dir": work, "digest": digest, "arch": arch}, **more)
        if os.geteuid() == 0:
            os.chown(folder, UID, UID)
            request.update(uid=UID, gid=UID)
        r = subprocess.run([program], input=json.dumps(request).encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=600)
        try:
            answer = json.loads(r.stdout)
        except ValueError:
            answer = {"ok": False, "error": {"reason_code": "no_answer", "detail": str(r.returncode),
                                             "message": r.stderr.decode(errors="replace")}}
        return answer, os.path.join(folder, "disk.ext4")


def debugfs(disk, *commands):
    """Output of debugfs commands on a disk."""
    out = ""
    for c in commands:
        out += subprocess.run(["/sbin/debugfs", "-R", c, disk], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=True).stdout.decode(errors="replace")
    return out


class Registry:
    """A real docker-registry on a free loopback port, in a scratch folder; ended by stop()."""

    def __init__(self, folder, login=None, address="127.0.0.1"):
        """@login (user, password) that it asks for, or None."""
        self.folder, self.login, self.address = folder, login, address
        self.port = free_port()
        self.host = "%s:%d" % (address, self.port)
        self.process = None
        os.makedirs(os.path.join(folder, "data"), exist_ok=True)
        self.config = os.path.join(folder, "registry.yml")
        with open(self.config, "w") as f:
            f.write("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s/data\n"
                    "  delete:\n    enabled: true\nhttp:\n  addr: %s\n" % (folder, self.host))
            if login:
                f.write("auth:\n  htpasswd:\n    realm: private\n    path: %s/htpasswd\n" % folder)
        if login:
            with open(os.path.join(folder, "htpasswd"), "w") as f:
                f.write("%s:%s\n" % (login[0], crypt.crypt(login[1], "$2b$05$" + "abcdefghijklmnopqrstuu")))
        self.start()

    def start(self):
        self.process = subprocess.Popen(["docker-registry", "serve", self.config], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while True:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError("docker-registry does not start")
                time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def push(self, layout, name):
        """skopeo copies an OCI layout folder ("dir:tag", all of an index) into the registry."""
        creds = ["--dest-creds", "%s:%s" % self.login] if self.login else []
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--all", "--dest-tls-verify=false"] + creds + ["oci:" + layout,
                        "docker://%s/%s" % (self.host, name)], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def layout(store, folder, tag, digest, media="application/vnd.oci.image.manifest.v1+json"):
    """An OCI layout folder over the blobs of a Store, with one tag."""
    os.makedirs(os.path.join(folder, "blobs"), exist_ok=True)
    link = os.path.join(folder, "blobs/sha256")
    if not os.path.islink(link):
        os.symlink(os.path.join(store.path, "blobs/sha256"), link)
    with open(os.path.join(folder, "oci-layout"), "w") as f:
        json.dump({"imageLayoutVersion": "1.0.0"}, f)
    path = os.path.join(store.path, "blobs/sha256", digest[7:])
    with open(os.path.join(folder, "index.json"), "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [{"mediaType": media, "digest": digest, "size": os.path.getsize(path),
                                                     "annotations": {"org.opencontainers.image.ref.name": tag}}]}, f)
    return "%s:%s" % (folder, tag)


def fetch(program, command, request, timeout=400):
    """Run moat-fetch; returns its answer."""
    r = subprocess.run([program] + command, input=json.dumps(request).encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=timeout)
    try:
        return json.loads(r.stdout)
    except ValueError:
        return {"ok": False, "error": {"code": "no_answer", "reason_code": "no_answer", "detail": str(r.returncode),
                                       "message": r.stderr.decode(errors="replace")}}


ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin")
FETCH = os.path.join(BIN, "moat-fetch")
UNPACK = os.path.join(BIN, "moat-unpack")
TOOL = os.environ.get("MOAT_IMAGE_TOOL") or os.path.join(ROOT, "build/tests/unit/image/image-tool")


class Report:
    """The ok / not ok lines of a scenario file."""

    def __init__(self):
        self.failed = 0

    def case(self, name, fn, *args):
        try:
            fn(*args)
        except Exception as e:  # noqa: BLE001 - any failure of a case is that case's result
            self.failed += 1
            print("not ok - %s: %s: %s" % (name, type(e).__name__, str(e).replace("\n", " | ")[:600]), flush=True)
        else:
            print("ok - %s" % name, flush=True)


def want(condition, shown):
    if not condition:
        raise AssertionError(str(shown))
