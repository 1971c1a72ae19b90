#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The image store of the agent, moat-fetch and moat-unpack against a real docker-registry filled by skopeo. COST 39 s, 10 s of processor."""
import contextlib
import http.client
import http.server
import random
import shutil
import signal
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
import os
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair  # noqa: E402
from imagekit import *  # noqa: E402,F403

scratch = tempfile.mkdtemp(prefix="moat-pull-")
os.chmod(scratch, 0o755)
report = Report()
source = Store(os.path.join(scratch, "source"))
registry = None
counter = 0


def fresh():
    """An empty image store folder for image-tool."""
    global counter
    counter += 1
    path = os.path.join(scratch, "store%d" % counter)
    os.mkdir(path)
    return path


def tool(images, host, *args, **kw):
    """image-tool; returns its JSON lines."""
    r = subprocess.run([TOOL, images, FETCH, UNPACK, "--local", host] + [str(a) for a in args], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=kw.get("timeout", 120))
    want(r.returncode == 0, "image-tool: status %d, %s" % (r.returncode, r.stderr.decode(errors="replace")[-400:]))
    return [json.loads(l) for l in r.stdout.splitlines()]


def options(host=None):
    host = host or registry.host
    return {"local_registries": [host], "insecure_registries": [host]}


class Proxy:
    """Between client and registry: may corrupt, cut, delay, redirect or demand a token. Counts requests by path."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.corrupt = None      # substring of the path whose body is changed
        self.cut_after = None    # bytes of a blob after which the connection breaks, once for each entry of the list
        self.redirect = None     # function(path) -> url or None
        self.token = None        # required bearer token
        self.slow = 0            # seconds before each 64 KiB of a blob
        self.status = None       # function(path) -> (status, headers) or None
        self.seen = []
        self.auth_seen = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def answer(self, status, headers, body=b""):
                self.send_response(status)
                for k, v in headers.items():
                    self.send_header(k, v)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                proxy.seen.append((self.path, self.headers.get("Range")))
                proxy.auth_seen.append((self.path, self.headers.get("Authorization")))
                if self.path.startswith("/token"):
                    return self.answer(200, {"Content-Type": "application/json"},
                                       json.dumps({"token": proxy.token, "expires_in": 300}).encode())
                if proxy.status and proxy.status(self.path):
                    return self.answer(*proxy.status(self.path))
                if proxy.token and self.headers.get("Authorization") != "Bearer " + proxy.token:
                    return self.answer(401, {"WWW-Authenticate": 'Bearer realm="http://%s/token",service="test"' % proxy.host})
                if proxy.redirect and proxy.redirect(self.path):
                    return self.answer(307, {"Location": proxy.redirect(self.path)})
                c = http.client.HTTPConnection(proxy.upstream, timeout=120)
                send = {k: v for k, v in self.headers.items() if k in ("Accept", "Range")}
                try:
                    c.request("GET", self.path, headers=send)
                except OSError:
                    return self.answer(502, {})
                r = c.getresponse()
                body = r.read()
                c.close()
                if proxy.corrupt and proxy.corrupt in self.path and body:
                    body = body[:-1] + bytes([body[-1] ^ 1])
                self.send_response(r.status)
                for k, v in r.getheaders():
                    if k.lower() in ("content-type", "content-length", "content-range", "docker-content-digest"):
                        self.send_header(k, v)
                self.end_headers()
                blob = "/blobs/" in self.path and len(body) > 100000
                if blob and proxy.cut_after:
                    body = body[:proxy.cut_after.pop(0)]
                    self.close_connection = True
                for i in range(0, len(body), 65536):
                    if blob and proxy.slow:
                        time.sleep(proxy.slow)
                    try:
                        self.wfile.write(body[i:i + 65536])
                    except OSError:
                        return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def asked(self, part):
        return [r for p, r in self.seen if part in p]


# Incompressible, so that blobs have the sizes meant here; seeded, so that runs are alike.
noise = random.Random(7).randbytes
layers = [tar(entry("bin/", b"5"), entry("bin/a", data=noise(400000), mode=0o755)), tar(entry("b", data=noise(3000000))),
          tar(entry("c", data=noise(300000)), entry("bin/.wh.none"))]
config = {"Entrypoint": ["/bin/a"], "Cmd": ["x"], "Env": ["K=v"], "WorkingDir": "/bin", "User": "7:8", "StopSignal": "SIGINT",
          "ExposedPorts": {"8443/tcp": {}}}
amd = source.image(layers, config=config)
arm = source.image([tar(entry("arm"))], arch="arm64")
riscv = source.image([tar(entry("riscv"))], arch="riscv64")
zstd = source.image([(layers[0], "zstd"), (layers[1], "gzip")])
evil = source.image([tar(entry("ok"), entry("../../moat-pwned", data=b"x"))])


def index(entries):
    return source.blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d, "platform": {"os": "linux", "architecture": a},
         "size": os.path.getsize(source.path + "/blobs/sha256/" + d[7:])} for d, a in entries]}).encode())["digest"]


both = index([(amd, "amd64"), (arm, "arm64")])


def setup():
    global registry
    registry = Registry(scratch)
    multi = "application/vnd.oci.image.index.v1+json"
    for name, digest, media in (("one", amd, None), ("multi", both, multi), ("riscv", riscv, None), ("zstd", zstd, None), ("evil", evil, None)):
        kw = {"media": media} if media else {}
        registry.push(layout(source, os.path.join(scratch, "layout-" + name), "t", digest, **kw), "app:" + name)


def repo(host=None):
    return (host or registry.host) + "/app"


def resolve_tag():
    a = fetch(FETCH, ["resolve", repo() + ":one", "--json"], options())
    want(a["ok"] and a["kind"] == "manifest" and a["digest"] == amd and a["repository"] == repo() and a["tag"] == "one", a)
    p = a["platforms"]
    want(len(p) == 1 and p[0]["arch"] == "amd64" and p[0]["digest"] == amd and p[0]["config"]["ExposedPorts"] == ["8443/tcp"], a)


def resolve_index():
    a = fetch(FETCH, ["resolve", repo() + ":multi", "--json"], options())
    want(a["ok"] and a["kind"] == "index" and a["digest"] == both, a)
    want({(p["arch"], p["digest"]) for p in a["platforms"]} == {("amd64", amd), ("arm64", arm)}, a)
    a = fetch(FETCH, ["resolve", repo() + "@" + both, "--json"], options())
    want(a["ok"] and a["tag"] is None and a["digest"] == both, a)


def resolve_failures():
    for ref, opt, code, detail in ((":nope", options(), "image_not_found", "not_found"),
                                   (":riscv", options(), "image_platform_unsupported", "none"),
                                   (":one", dict(options(), max_compressed_bytes=1000), "image_too_large", "manifest"),
                                   (":one", {"insecure_registries": [registry.host]}, "registry_unavailable", "address_refused"),
                                   (":one", {"local_registries": [registry.host]}, "registry_unavailable", "tls"),
                                   (":Bad Tag", options(), "invalid_argument", "reference")):
        a = fetch(FETCH, ["resolve", repo() + ref, "--json"], opt)
        want(not a["ok"] and a["error"]["code"] == code and a["error"]["detail"] == detail, (ref, a))
    port = "127.0.0.1:%d" % free_port()
    a = fetch(FETCH, ["resolve", port + "/x:y", "--json"], options(port))
    want(a["error"]["code"] == "registry_unavailable" and a["error"]["detail"] == "connect" and a["error"]["retryable"], a)


def pull_and_cache():
    s = fresh()
    a = tool(s, registry.host, "ensure", repo(), amd, "amd64", 8)
    want(len(a) == 8 and all(x["ok"] for x in a) and len({x["path"] for x in a}) == 1, a)
    want(all(x["phases"] == "pulling_image building_rootfs" for x in a if not x["cached"]) and not a[0]["cached"], a)
    disk = a[0]["path"]
    want(os.stat(disk).st_mode & 0o7777 == 0o444 and subprocess.run(["/sbin/e2fsck", "-fn", disk], stdout=subprocess.PIPE, stderr=subprocess.PIPE).returncode == 0, "clean")
    want(os.path.getsize(disk) == a[0]["bytes"] and "Mode:  0755" in debugfs(disk, "stat /bin/a"), "content")
    about = json.load(open(disk[:-5] + ".json"))
    want(about["config"] == {"Entrypoint": ["/bin/a"], "Cmd": ["x"], "Env": ["K=v"], "WorkingDir": "/bin", "User": "7:8", "StopSignal": "SIGINT", "ExposedPorts": ["8443/tcp"]}, about)
    want(about["sha256"] == sha(open(disk, "rb").read()) and about["format_version"] == "r1", about)
    registry.stop()
    try:
        a = tool(s, registry.host, "ensure", repo(), amd, "amd64")
        want(a[0]["ok"] and a[0]["cached"] and a[0]["phases"] == "", "cached without a registry: %s" % a)
    finally:
        registry.start()
    want(os.listdir(s + "/tmp") == ["fetch"] and os.listdir(s + "/tmp/fetch") == [], "left in tmp")


def one_download():
    proxy = Proxy(registry.host)
    try:
        a = tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64", 16)
        want(all(x["ok"] for x in a), a)
        paths = [p for p, _ in proxy.seen]
        want(len(paths) == len(set(paths)) == 5, paths)  # manifest, config, three layers: each once
    finally:
        proxy.stop()


def zstd_and_gzip():
    a = tool(fresh(), registry.host, "ensure", repo(), zstd, "amd64")
    want(a[0]["ok"], a)


def identical():
    one = tool(fresh(), registry.host, "ensure", repo(), amd, "amd64")[0]
    time.sleep(1.1)
    two = tool(fresh(), registry.host, "ensure", repo(), amd, "amd64")[0]
    want(one["path"] != two["path"] and sha(open(one["path"], "rb").read()) == sha(open(two["path"], "rb").read()), (one, two))


def failure(a, reason, detail):
    want(len(a) == 1 and not a[0]["ok"] and a[0]["reason"] == reason and a[0]["detail"].startswith(detail), a)


def bad_images():
    s = fresh()
    failure(tool(s, registry.host, "ensure", repo(), "sha256:" + "1" * 64, "amd64"), "image_pull_failed", "not_found")
    failure(tool(s, registry.host, "ensure", repo(), arm, "amd64"), "image_arch_mismatch", "config")
    failure(tool(s, registry.host, "ensure", repo(), both, "amd64"), "image_unresolved", "index")
    failure(tool(s, registry.host, "ensure", repo(), "", "amd64"), "image_unresolved", "resolved_digest")
    failure(tool(s, registry.host, "ensure", repo(), evil, "amd64"), "image_layer_invalid", "U1 ../../moat-pwned")
    want(os.listdir(s + "/rootdisks") == [] and os.listdir(s + "/tmp") == ["fetch"], "left behind")


def corrupted():
    layer = json.load(open(source.path + "/blobs/sha256/" + amd[7:]))["layers"][1]["digest"]
    for part in (layer, amd):
        proxy = Proxy(registry.host)
        proxy.corrupt = part
        try:
            s = fresh()
            failure(tool(s, proxy.host, "ensure", repo(proxy.host), amd, "amd64"), "image_pull_failed", "digest_mismatch")
            want(len(proxy.asked(part)) == 1, "a wrong digest is not tried again")
            kept = os.listdir(s + "/tmp/fetch")
            want(not os.path.exists(s + "/blobs/sha256/" + part[7:]) and part[7:] + ".part" not in kept, "wrong data kept: %s" % kept)
            for name in kept:  # of the other layers, which were under way: the begin of what they are, for the next pull
                data = open(os.path.join(s, "tmp/fetch", name), "rb").read()
                whole = open(source.path + "/blobs/sha256/" + name[:-len(".part")], "rb").read()
                want(part == layer and whole.startswith(data), "%s holds wrong data" % name)
        finally:
            proxy.stop()


def resumed():
    layer = json.load(open(source.path + "/blobs/sha256/" + amd[7:]))["layers"][1]["digest"]
    proxy = Proxy(registry.host)
    proxy.cut_after = [1000000, 1000000, 500000]
    try:
        a = tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        want(a[0]["ok"], a)
        ranges = [r for r in proxy.asked("/blobs/") if r]
        want(ranges, "no Range was asked for: %s" % proxy.seen)
    finally:
        proxy.stop()
    want(layer, "")


def trickling():
    """A registry that gives little by little never ends a pull by silence: the limits of one layer and of the whole do, and what came is the begin of the next pull."""
    layer = json.load(open(source.path + "/blobs/sha256/" + amd[7:]))["layers"][1]["digest"]
    proxy = Proxy(registry.host)
    proxy.slow = 0.25  # 12 s for the large layer, 2 s for each of the others
    try:
        for limits, name in (("6 60", "layer_deadline"), ("60 3", "total_deadline")):
            s, began = fresh(), time.monotonic()
            a = tool(s, proxy.host, "--limits", *limits.split(), "ensure", repo(proxy.host), amd, "amd64")
            failure(a, "image_pull_timeout", name)
            took, least = time.monotonic() - began, min(int(x) for x in limits.split())
            want(took >= least, "%s after %.1f s" % (name, took))
            want(0 < os.path.getsize(s + "/tmp/fetch/" + layer[7:] + ".part") < 3000000, "no begin of the layer is kept")
        proxy.slow = 0
        proxy.seen.clear()
        a = tool(s, proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        want(a[0]["ok"] and any(r and int(r[6:].rstrip("-")) > 0 for r in proxy.asked(layer)), (a, proxy.seen))
    finally:
        proxy.stop()


def registry_killed():
    """The registry dies in mid-pull and comes back: the same pull ends well. It stays away: the next pull resumes the part."""
    layer = json.load(open(source.path + "/blobs/sha256/" + amd[7:]))["layers"][1]["digest"]
    proxy = Proxy(registry.host)
    proxy.slow = 0.05
    s = fresh()
    try:
        p = subprocess.Popen([TOOL, s, FETCH, UNPACK, "--local", proxy.host, "ensure", repo(proxy.host), amd, "amd64"], stdout=subprocess.PIPE)
        part = s + "/tmp/fetch/" + layer[7:] + ".part"
        deadline = fair.now() + fair.LEAST
        while not (os.path.exists(part) and os.path.getsize(part) > 300000):
            want(fair.now() < deadline, "the download does not start")
            time.sleep(0.01)
        os.kill(p.pid, signal.SIGKILL)  # the agent dies; so must its children
        p.wait()
        p.stdout.close()
        have = os.path.getsize(part)
        want(0 < have < 3000000, have)
        registry.stop()
        proxy.slow = 0
        proxy.seen.clear()
        threading.Timer(1.5, registry.start).start()
        a = tool(s, proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        want(a[0]["ok"], a)
        want(any(r and int(r[6:].rstrip("-")) > 0 for r in proxy.asked(layer)), proxy.seen)
    finally:
        proxy.stop()
        if registry.process.poll() is not None:
            registry.start()


def confined():
    """While bytes of a registry arrive, their reader has no user of ours, no privileges and few system calls."""
    proxy = Proxy(registry.host)
    proxy.slow = 0.05
    s = fresh()
    p = subprocess.Popen([TOOL, s, FETCH, UNPACK, "--local", proxy.host, "ensure", repo(proxy.host), amd, "amd64"], stdout=subprocess.PIPE)
    try:
        deadline, seen = fair.now() + fair.LEAST, []
        while not seen:
            want(p.poll() is None and fair.now() < deadline, "no download was seen")
            for pid in [n for n in os.listdir("/proc") if n.isdigit()]:
                try:
                    status = dict(l.split(":\t", 1) for l in open("/proc/%s/status" % pid).read().splitlines() if ":\t" in l)
                except OSError:
                    continue
                mine = status["Name"] == "moat-fetch" and int(status["PPid"]) == p.pid
                if mine and os.path.isdir(s + "/tmp/fetch") and os.listdir(s + "/tmp/fetch"):
                    seen.append(status)
            time.sleep(0.01)
        want(seen[0]["Seccomp"] == "2" and seen[0]["NoNewPrivs"] == "1" and int(seen[0]["CapEff"], 16) == 0, seen[0])
        if os.geteuid() == 0:
            want("0" not in seen[0]["Uid"].split() and seen[0]["Groups"].strip() == "", seen[0])
        proxy.slow = 0
        want(json.loads(p.communicate()[0].splitlines()[0])["ok"], "the pull failed")
    finally:
        p.kill()
        p.wait()
        proxy.stop()


def cancelled():
    proxy = Proxy(registry.host)
    proxy.slow = 0.3
    try:
        s = fresh()
        start = fair.now()
        a = tool(s, proxy.host, "ensure", repo(proxy.host), amd, "amd64", 3, 600)
        want(fair.now() - start < 4 and all(not x["ok"] and x["code"] == "cancelled" and x["reason"] == "" for x in a), a)
        deadline = fair.now() + fair.LEAST  # they die at once but not instantly
        while left := [cmdline(n)[:200] for n in os.listdir("/proc") if n.isdigit() and s in cmdline(n)]:
            want(fair.now() < deadline, "a child is left: %s" % left)
            time.sleep(0.02)
    finally:
        proxy.stop()


def cmdline(pid):
    try:
        return open("/proc/%s/cmdline" % pid).read() + os.readlink("/proc/%s/cwd" % pid)
    except OSError:
        return ""


def token():
    proxy = Proxy(registry.host)
    proxy.token = "tok-123"
    try:
        s = fresh()
        a = tool(s, proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        want(a[0]["ok"], a)
        want(len([p for p, _ in proxy.seen if p.startswith("/token")]) == 1, "one token serves all: %s" % proxy.seen)
        want("scope=repository%3Aapp%3Apull" in next(p for p, _ in proxy.seen if p.startswith("/token")), proxy.seen)
        leaked = subprocess.run(["grep", "-r", "tok-123", s], stdout=subprocess.PIPE).stdout
        want(leaked == b"", leaked)
    finally:
        proxy.stop()


def redirects():
    """Redirects never lead to an inside address, even that of a local registry."""
    proxy = Proxy(registry.host)
    proxy.redirect = lambda path: "http://%s%s" % (registry.host, path) if "/blobs/" in path else None
    try:
        a = tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        failure(a, "image_pull_failed", "redirect")
        proxy.redirect = lambda path: "http://%s%s?again" % (proxy.host, path) if "/blobs/" in path and "again" not in path else None
        a = tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        failure(a, "image_pull_failed", "address_refused")
    finally:
        proxy.stop()


def busy():
    """429 with Retry-After and 503 are tried again; 403 is not."""
    proxy = Proxy(registry.host)
    answers = [(429, {"Retry-After": "1"}), (503, {})]
    proxy.status = lambda path: answers.pop(0) if answers and "/manifests/" in path else None
    pending = []

    def status(path):
        if "/manifests/" not in path or not answers:
            return None
        return answers[0] if pending.append(path) is None and len(pending) % 2 == 1 else answers.pop(0)

    proxy.status = status
    try:
        a = tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64")
        want(a[0]["ok"] and len(proxy.asked("/manifests/")) == 3, (a, proxy.seen))
        proxy.status = lambda path: (403, {})
        proxy.seen.clear()
        failure(tool(fresh(), proxy.host, "ensure", repo(proxy.host), amd, "amd64"), "image_pull_failed", "auth")
        want(len(proxy.seen) == 1, proxy.seen)
    finally:
        proxy.stop()


def crash_residue():
    """kill -9 of everything at many moments of pull and build: the next open cleans up and the disk comes out the same."""
    s = fresh()
    reference = sha(open(tool(fresh(), registry.host, "ensure", repo(), amd, "amd64")[0]["path"], "rb").read())
    for ms in (20, 50, 80, 120, 160, 220, 300):
        p = subprocess.Popen([TOOL, s, FETCH, UNPACK, "--local", registry.host, "ensure", repo(), amd, "amd64"], stdout=subprocess.DEVNULL)
        time.sleep(ms / 1000)
        p.kill()
        p.wait()
    deadline = fair.now() + fair.LEAST  # children die with their parent, at once but not instantly
    while [n for n in os.listdir("/proc") if n.isdigit() and s in cmdline(n)]:
        want(fair.now() < deadline, "a child outlives the killed agent")
        time.sleep(0.02)
    a = tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]
    want(a["ok"] and sha(open(a["path"], "rb").read()) == reference, a)
    want(os.listdir(s + "/tmp") == ["fetch"], os.listdir(s + "/tmp"))
    # A disk cut short, or a description that fails its check, is built again.
    os.chmod(a["path"], 0o644)
    os.truncate(a["path"], 4096)
    want(not tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]["cached"], "a cut disk was handed out")
    about = a["path"][:-5] + ".json"
    text = open(about).read()
    os.unlink(about)
    open(about, "w").write(text.replace('"User":"7:8"', '"User":"0:0"'))
    want(not tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]["cached"], "a changed description was believed")


def corrupt_disk():
    s = fresh()
    a = tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]
    want(tool(s, registry.host, "verify")[0] == {"key": a["key"], "code": "ok"}, "verify")
    os.chmod(a["path"], 0o644)
    with open(a["path"], "r+b") as f:
        f.seek(70000)
        f.write(b"\xff")
    want(tool(s, registry.host, "verify")[0]["code"] == "corrupt", "a changed byte was not seen")


@contextlib.contextmanager
def own_disk(mib):
    """A store on a file system of its own: how full this machine's disk is decides nothing there."""
    s = fresh()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm,mode=755" % mib, "moat-test", s], check=True)
    try:
        yield s
    finally:
        subprocess.run(["umount", s], check=True)


def collected():
    with own_disk(256) as s:
        over_budget(s)
    with own_disk(96) as s:  # below any budget; what is free of the disk decides
        disk_filled(s)


def disk_filled(s):
    now = int(time.time())
    disk = tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]["path"]
    os.utime(disk[:-5] + ".used", (now - 900, now - 900))
    want(tool(s, registry.host, "gc", now, 1 << 40)[0]["left"] == 1, "collected on a disk with room")
    v = os.statvfs(s)
    with open(s + "/filler", "wb") as f:
        f.write(bytes((v.f_bavail - v.f_blocks * 14 // 100) * v.f_frsize))  # 14 % stays free
    r = tool(s, registry.host, "gc", now, 1 << 40)[0]
    want(r["rootdisks"] == 1 and r["left"] == 0 and not os.path.exists(disk), r)


def over_budget(s):
    now = int(time.time())
    first = tool(s, registry.host, "ensure", repo(), amd, "amd64")[0]
    second = tool(s, registry.host, "ensure", repo(), zstd, "amd64")[0]
    os.utime(first["path"][:-5] + ".used", (now - 900, now - 900))
    os.utime(second["path"][:-5] + ".used", (now - 800, now - 800))
    os.makedirs(s + "/tmp/fetch", exist_ok=True)
    stale = s + "/tmp/fetch/" + "0" * 64 + ".part"
    open(stale, "w").write("x")
    os.utime(stale, (now - 4000, now - 4000))
    r = tool(s, registry.host, "gc", now, 1 << 40)[0]
    want(r["tmp"] == 1 and r["rootdisks"] == 0 and r["left"] == 2, r)
    used = sum(os.stat(x["path"]).st_blocks * 512 for x in (first, second))
    r = tool(s, registry.host, "gc", now, used * 9 // 10)[0]  # above: blobs go first, then the one used longest ago
    want(r["blobs"] > 0 and r["rootdisks"] == 1 and not os.path.exists(first["path"]) and os.path.exists(second["path"]), r)
    r = tool(s, registry.host, "gc", now, 1)[0]
    want(r["left"] == 0 and os.listdir(s + "/rootdisks") == [], r)


class Busy:
    """What VMs are to the scheduler: a loop on each processor, in a group below the parent of the VMs' groups."""

    def __init__(self, parent):
        top = "/sys/fs/cgroup/cpu" if os.path.isdir("/sys/fs/cgroup/cpu") else "/sys/fs/cgroup"
        self.folders, self.children = [], []
        for part in parent.split("/") + ["vm"]:
            control = os.path.join(top, "cgroup.subtree_control")
            if os.path.exists(control):
                with open(control, "w") as f:
                    f.write("+cpu")
            top = os.path.join(top, part)
            os.mkdir(top)
            self.folders.append(top)
        me = os.getpid()
        for cpu in sorted(os.sched_getaffinity(0)):
            pid = os.fork()
            if pid == 0:
                try:
                    os.sched_setaffinity(0, {cpu})
                    with open(top + "/cgroup.procs", "w") as f:
                        f.write("0")
                    while os.getppid() == me:
                        pass
                finally:
                    os._exit(1)
            self.children.append(pid)

    def used(self):
        """least processor time of them, seconds"""
        return min(ran(pid) for pid in self.children)

    def stop(self):
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for path in [os.path.dirname(self.folders[-2]) + "/work.instances"] + self.folders[::-1]:
            for _ in range(500):  # the last process leaves it in its own time
                try:
                    os.rmdir(path)
                except OSError:
                    time.sleep(0.01)
                else:
                    break


def ran(pid):
    """processor time of all threads of a process, seconds; 0 when it is gone"""
    total = 0
    try:
        for tid in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/schedstat" % (pid, tid)) as f:
                total += int(f.read().split()[0])
    except OSError:
        pass
    return total / 1e9


def workers(parent):
    """moat-fetch, moat-unpack, and what they started"""
    out, look = [], [parent]
    while look:
        below = []
        try:
            for tid in os.listdir("/proc/%d/task" % look[0]):
                with open("/proc/%d/task/%s/children" % (look[0], tid)) as f:
                    below += [int(x) for x in f.read().split()]
        except OSError:  # ended meanwhile
            pass
        out += below
        look = look[1:] + below
    return out


def gives_way():
    """Pull and build take next to nothing from processes in the VMs' cgroup, and are done at once when those rest."""
    parent = "moat-pull-%d.slice/instances" % os.getpid()
    busy = Busy(parent)
    shares, waiting, policies, groups = [], [], set(), set()

    def look(p):
        """how moat-fetch and moat-unpack of @p are run; on a machine that is full they may come to their exec only when the busy ones rest"""
        for pid in workers(p.pid):
            try:
                if open("/proc/%d/comm" % pid).read().startswith("moat-"):  # before its exec it is still image-tool, where that is
                    policies.add(os.sched_getscheduler(pid))
                    groups.update(line for line in open("/proc/%d/cgroup" % pid) if "moat-pull" in line)
            except OSError:  # ended meanwhile
                pass
    try:
        def beside():
            """processor time of pull and build for each second of a busy process, in about a second of it; more than 1 when they ended"""
            p = subprocess.Popen([TOOL, fresh(), FETCH, UNPACK, "--local", registry.host, "--cgroup", parent, "ensure", repo(), amd, "amd64"],
                                 stdout=subprocess.PIPE)
            begun, most = busy.used(), {}
            try:
                while busy.used() < begun + 1:
                    if p.poll() is not None:
                        return 2.0
                    for pid in workers(p.pid):
                        most[pid] = max(most.get(pid, 0), ran(pid))
                    look(p)
                    time.sleep(0.02)
                used = busy.used() - begun
                return sum(most.values()) / used / len(busy.children)
            finally:
                waiting.append(p)
        shares, good = fair.best(beside, lambda seen: seen[-1] < 0.03, 1, 3)
        print("# of a processor beside busy ones: %s" % ", ".join("%.4f" % s for s in shares), flush=True)
        want(good, "pull and build took %s of each processor from what runs beside them" % shares)
    finally:
        for pid in busy.children:
            os.kill(pid, signal.SIGSTOP)
        try:
            for p in waiting:
                while p.poll() is None and not (policies and groups):
                    look(p)
                    time.sleep(0.002)
                out = p.communicate(timeout=600)[0]
                want(json.loads(out)["ok"], out)
            want(policies == {os.SCHED_IDLE}, "policies %s" % policies)
            want(groups and all(g.endswith("/work.instances\n") for g in groups), groups)
        finally:
            busy.stop()


CASES = [("a tag resolves to digest, platform and config", resolve_tag), ("an index resolves to its platforms", resolve_index),
         ("resolving fails with the right code", resolve_failures), ("eight callers share one pull, build and cached disk", pull_and_cache),
         ("each blob is downloaded once", one_download), ("zstd and gzip layers in one image", zstd_and_gzip),
         ("two stores build identical bytes", identical), ("bad images are refused with the right reason", bad_images),
         ("corrupted bytes are found and not kept", corrupted), ("a broken download resumes with Range", resumed),
         ("a registry that trickles meets the limits of a layer and of the whole", trickling),
         ("agent and registry killed in mid-pull: the next pull resumes", registry_killed), ("a cancelled pull ends at once", cancelled),
         ("moat-fetch is confined while it reads", confined),
         ("a bearer token is fetched once and never stored", token), ("redirects to inside addresses are refused", redirects),
         ("429 and 503 are tried again, 403 is not", busy), ("kill -9 at any moment leaves nothing that is believed", crash_residue),
         ("pull and build give way to what runs in the VMs' cgroup", gives_way), ("a changed byte of a root disk is found", corrupt_disk), ("garbage collection keeps to order and thresholds", collected)]

try:
    missing = [p for p in (FETCH, UNPACK, TOOL) if not os.path.exists(p)]
    if missing:
        print("not ok - programs: %s is not built" % missing[0])
        sys.exit(1)
    for program in ("docker-registry", "skopeo"):
        if not shutil.which(program):
            print("skip - image pull: %s is not installed" % program)
            sys.exit(0)
    setup()
    for title, fn in CASES:
        report.case(title, fn)
finally:
    if registry:
        registry.stop()
    shutil.rmtree(scratch, ignore_errors=True)
sys.exit(1 if report.failed else 0)
