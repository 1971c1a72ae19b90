# SPDX-License-Identifier: Apache-2.0
"""A whole platform for a scenario: `moat up` on a scratch data folder, images made here and pushed to its registry, the CLI as the
user types it, pages fetched through the edge. Everything is real; what the host looked like before is compared at the end."""
import atexit
import contextlib
import ctypes
import fcntl
import gzip
import hashlib
import io
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import agentkit  # noqa: E402
import fair  # noqa: E402

ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin")
HOST = "hello.moat.test"
DAEMONS = {"control": "moat-control", "agent": "moat-agent", "edge": "moat-edge"}


class Failed(Exception):
    pass


class Skip(Exception):
    pass


def check(cond, why):
    if not cond:
        raise Failed(why)


def wait_until(fn, seconds, what):
    """First true value of fn(), asked every 20 ms or less often; Failed after the time. When it comes is not the claim."""
    seconds = fair.limit(seconds)
    end, pace = fair.now() + seconds, fair.Pace(0.02)
    last = None
    while fair.now() < end:
        try:
            last = fn()
            if last:
                return last
        except (OSError, Failed, KeyError, IndexError) as e:
            last = e
        pace.rest()
    raise Failed(f"{what}: not within {seconds} s (last: {str(last)[:200]})")


class Cases:
    """Runs functions in order and prints the lines that tests/run counts. After a failure the rest still runs, unless it is `fatal`."""

    def __init__(self):
        self.failed = 0

    def run(self, name, fn, *args):
        start = time.monotonic()
        try:
            fn(*args)
            print(f"ok - {name}", flush=True)
            print(f"  {time.monotonic() - start:.1f} s", flush=True)
            return True
        except Skip as e:
            print(f"skip - {name}: {e}", flush=True)
        except Exception as e:  # noqa: BLE001: any failure of a case is a failed case
            self.failed += 1
            print(f"not ok - {name}: {str(e)[:500]}", flush=True)
            if not isinstance(e, Failed):
                traceback.print_exc(file=sys.stdout)
        return False


def host_snapshot():
    """What a platform could leave behind: links, addresses, routes, firewall, mounts, cgroups, sysctls."""
    def out(*argv):
        return subprocess.run(argv, capture_output=True, text=True).stdout

    cgroups = []
    for base, dirs, _ in os.walk("/sys/fs/cgroup"):
        cgroups += [os.path.join(base, d) for d in dirs if ("moat" in d or "inst" in d) and "test" not in base + d and "moat-vm" not in base + d]
        if base.count("/") > 7:
            dirs.clear()
    mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
    return {
        "links": sorted(line.split(":")[1].strip() for line in out("ip", "-o", "link").splitlines()),
        "addresses": sorted(line.split()[3] for line in out("ip", "-6", "-o", "addr").splitlines()),
        "routes": sorted(line.split(" expires")[0].strip() for line in out("ip", "-6", "route", "show", "table", "all").splitlines()),
        "nft": sorted(line.strip() for line in out("nft", "list", "tables").splitlines()),
        "mounts": sorted(mounts),
        "cgroups": sorted(cgroups),
        "forwarding": open("/proc/sys/net/ipv6/conf/all/forwarding").read().strip(),
    }


def processes_of(needle):
    """Pids whose command line holds needle."""
    found = []
    for p in os.listdir("/proc"):
        if p.isdigit() and int(p) != os.getpid():
            try:
                with open(f"/proc/{p}/cmdline", "rb") as f:
                    cmd = f.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if needle in cmd:
                found.append((int(p), cmd.strip()))
    return found


def own_kib(pid):
    """Anonymous memory of a process, for who looks whether it grew: pages of files count for more or less as others begin or cease to map them."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Anonymous:"))


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


class Platform:
    def __init__(self, name="t", own_bundle=False):
        self.own_bundle = own_bundle
        self.dir = tempfile.mkdtemp(prefix=f"mt{name}", dir="/var/tmp")
        os.chmod(self.dir, 0o755)
        self.data = os.path.join(self.dir, "d")
        self.work = os.path.join(self.dir, "w")
        os.mkdir(self.work)
        self.env = dict(os.environ, MOAT_CONFIG=f"{self.data}/etc/cli.toml", NO_COLOR="1")
        self.before = host_snapshot()
        self.port = None
        self.registry = None

    # -- life ------------------------------------------------------------------------------------------------------------------
    def up(self, *args, timeout=400, env=None):
        self.lend_bundle()
        with first_of_host():
            p = subprocess.run([f"{BIN}/moat", "up", "--detach", "--data-dir", self.data, *args], capture_output=True, text=True, timeout=timeout,
                               env=dict(self.env, **(env or {})))
        if p.returncode:
            raise Failed(f"moat up ended with {p.returncode}: {p.stdout[-1500:]}{p.stderr[-1500:]}")
        with open(f"{self.data}/etc/up.json") as f:
            j = json.load(f)
        self.port = j["tls_port"]
        self.registry = f"127.0.0.1:{j['registry_port']}"
        return p.stderr

    def lend_bundle(self):
        """A copy of the kernel bundle that tests/run made of this very moat-init: `moat up` then finds it as a second start does.
        Without it, or with own_bundle, it makes its own (7 s of processor)."""
        made = os.environ.get("MOAT_BOOT_DIR")
        if made and not self.own_bundle and not os.path.exists(f"{self.data}/boot"):
            version = os.readlink(f"{made}/current")
            os.makedirs(f"{self.data}/boot", mode=0o755)
            shutil.copytree(f"{made}/{version}", f"{self.data}/boot/{version}", copy_function=shutil.copy)
            os.symlink(version, f"{self.data}/boot/current")
            agentkit.lend_choice(f"{self.data}/run", "auto")

    def down(self, *args, timeout=300):
        return subprocess.run([f"{BIN}/moat", "down", "--data-dir", self.data, *args], capture_output=True, text=True, timeout=timeout, env=self.env)

    def close(self):
        """Stop, remove, and say what is left on the host that was not there before."""
        left = []
        try:
            p = self.down()
            if p.returncode:
                left.append(f"moat down: {p.stderr[-600:]}")
        except subprocess.TimeoutExpired:
            left.append("moat down did not end")
        left += self.host_differs()
        for pid, _ in processes_of(self.data + "/"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        agentkit.keep_choice(f"{self.data}/run")
        if not os.environ.get("MOAT_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        return left

    def finish(self, cases):
        """The end of a file: the daemons' logs when a case failed, then `moat down` as the last case."""
        if cases.failed:
            for n in ("up", "control", "agent", "edge"):
                print(f"--- log of {n}\n{self.log(n)}")

        def down():
            left = self.close()
            if left:
                raise Failed("; ".join(left))
        cases.run("moat down leaves the host as it was", down)

    def host_differs(self):
        """What is on the host now and was not before the platform, or the other way round."""
        left = [f"process {pid} {cmd[:120]}" for pid, cmd in processes_of(self.data + "/")]
        after = host_snapshot()
        for k, v in self.before.items():
            if after[k] != v:
                left.append(f"{k}: {sorted(set(after[k]) ^ set(v)) if isinstance(v, list) else (v, after[k])}")
        return left

    def pid(self, what):
        """Pid of a daemon: control, agent, edge, or postgres, up."""
        if what == "up":
            return int(open(f"{self.data}/run/up.pid").read())
        if what == "postgres":
            return int(open(f"{self.data}/pg/postmaster.pid").readline())
        found = [p for p, cmd in processes_of(f"{self.data}/etc/{what}.toml") if DAEMONS[what] in cmd.split()[0]]
        if not found:
            raise Failed(f"no {what} runs")
        return found[0]

    def kill(self, what, sig=signal.SIGKILL):
        pid = self.pid(what)
        os.kill(pid, sig)
        return pid

    def vms(self):
        """Pids of the VMs' VMM processes."""
        return sorted(p for p, cmd in processes_of("qemu-system-x86_64") if self.is_ours(p))

    def is_ours(self, pid):
        try:
            root = os.readlink(f"/proc/{pid}/root")
            with open(f"/proc/{pid}/mountinfo") as f:
                return self.data in root or self.data in f.read() or self.data in open(f"/proc/{pid}/cmdline").read()
        except OSError:
            return False

    def log(self, name, lines=15):
        try:
            return "\n".join(open(f"{self.data}/log/{name}.log").read().splitlines()[-lines:])
        except OSError as e:
            return str(e)

    # -- the CLI ---------------------------------------------------------------------------------------------------------------
    def cli(self, *args, timeout=300, want=0, stdin=None):
        """Run a command; (exit code, stdout, stderr). want: the exit code that is right, None for any. @timeout is of the wall's clock, and no claim."""
        try:
            p = subprocess.run([f"{BIN}/moat", *args], capture_output=True, text=True, timeout=timeout, env=self.env, input=stdin, cwd=self.work)
        except subprocess.TimeoutExpired as e:
            said = b"\n".join(x[-1200:] for x in (e.stdout, e.stderr) if x).decode(errors="replace")
            raise Failed(f"moat {' '.join(args)}: goes on after {timeout} s; it said: {said}") from None
        if want is not None and p.returncode != want:
            raise Failed(f"moat {' '.join(args)}: exit {p.returncode}, not {want}\n{p.stdout[-800:]}\n{p.stderr[-1200:]}")
        return p.returncode, p.stdout, p.stderr

    def json(self, *args, **kw):
        """Parsed stdout of a command with --json (the last document of a stream)."""
        _, out, _ = self.cli(*args, "--json", **kw)
        return json.loads(out.strip().splitlines()[-1])

    def status(self, app="hello"):
        return self.json("status", "--app", app)["data"]

    def instances(self, app="hello"):
        return self.json("ps", "--app", app)["items"]

    def ready(self, app="hello", n=1, seconds=60):
        return wait_until(lambda: [i for i in self.instances(app) if i["status"] == "ready"][n - 1:] and self.instances(app), seconds,
                          f"{n} ready instances of {app}")

    # -- images ----------------------------------------------------------------------------------------------------------------
    def push_hello(self, tag="latest", label="", compression="gzip"):
        out = f"{self.work}/hello"
        p = subprocess.run([f"{ROOT}/examples/hello/build-image", out, "--hostname", HOST, "--label", label, "--compression", compression],
                           capture_output=True, text=True)
        check(p.returncode == 0, p.stderr)
        return self.push_oci(f"{out}/oci:latest", f"hello:{tag}")

    def push_oci(self, oci, ref):
        p = subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{oci}", f"docker://{self.registry}/{ref}"],
                           capture_output=True, text=True)
        check(p.returncode == 0, f"skopeo: {p.stderr}")
        return f"{self.registry}/{ref}"

    def testapp(self):
        """Path of the static test program."""
        exe = f"{self.work}/testapp"
        if not os.path.exists(exe):
            p = subprocess.run(["musl-gcc", "-static", "-Os", "-o", exe, f"{ROOT}/tests/scenario/lib/testapp.c"], capture_output=True, text=True)
            check(p.returncode == 0, p.stderr)
        return exe

    def push_app(self, name, files=None, entrypoint=None, cmd=None, arch="amd64", extra=None, user=""):
        """An image of the test program: files = {path: (bytes, mode)} more, extra(tar) adds raw entries."""
        buf = io.BytesIO()
        with tarfile.open(fileobj=buf, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            everything = {"app": (open(self.testapp(), "rb").read(), 0o755), **(files or {})}
            for path, (data, mode) in sorted(everything.items()):
                t = tarfile.TarInfo(path)
                t.size, t.mode, t.mtime = len(data), mode, 1
                tar.addfile(t, io.BytesIO(data))
            if extra:
                extra(tar)
        oci = f"{self.work}/img-{name}"
        write_oci(oci, [buf.getvalue()], {"Entrypoint": entrypoint or ["/app"], "Cmd": cmd or [], "User": user}, arch, compress=1)
        return self.push_oci(f"{oci}:latest", f"{name}:latest")

    # -- manifests -------------------------------------------------------------------------------------------------------------
    def hello_manifest(self, image, **kw):
        return manifest("hello", image, ["/app/hello", "8443"], port=8443, hostname=HOST, **kw)

    def deploy(self, text, *args, want=0, timeout=600):
        """Deploy manifest text with --wait --json; the receipt, or None when another exit code was wanted."""
        code, out, err = self.cli("deploy", "-f", "-", "--wait", "--json", "--confirm-no-secrets", *args, stdin=text, want=want, timeout=timeout)
        lines = [json.loads(line) for line in out.strip().splitlines() if line.startswith("{")]
        return lines[-1] if lines else None

    # -- traffic ---------------------------------------------------------------------------------------------------------------
    def curl(self, host=HOST, timeout=30, ok=True, args=()):
        p = subprocess.run(["curl", "-sS", "--fail", "-m", str(timeout), "--cacert", f"{self.work}/hello/ca.pem", "--resolve",
                            f"{host}:{self.port}:[::1]", *args, f"https://{host}:{self.port}/"], capture_output=True, text=True)
        if ok and p.returncode:
            raise Failed(f"curl: {p.returncode} {p.stderr.strip()}")
        return p.stdout if p.returncode == 0 else None

    def fetch(self, host=HOST, timeout=5):
        """One request by Python over a new connection, for load; the body. It may take @timeout seconds in which the machine had time for it."""
        ctx, start = ssl.create_default_context(cafile=f"{self.work}/hello/ca.pem"), fair.now()
        with socket.create_connection(("::1", self.port), timeout=timeout / fair.SLOWEST) as s, ctx.wrap_socket(s, server_hostname=host) as t:
            t.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := t.recv(65536):
                data += chunk
            if not data.startswith(b"HTTP/1.1 200"):
                raise Failed(f"answer: {data[:80]!r}")
            if fair.now() - start > timeout:
                raise Failed(f"answered after {fair.now() - start:.1f} s")
            return data.decode()


class Load:
    """Fetches the page in a thread, one request at a time with a pause, and counts what fails."""

    def __init__(self, platform, pause=0.03):
        import threading
        self.p, self.pause, self.ok, self.errors, self.stop = platform, pause, 0, [], threading.Event()
        self.bodies = set()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.stop.is_set():
            try:
                body = self.p.fetch()
                self.ok += 1
                self.bodies.add(next((x.split()[1] for x in body.splitlines() if x.startswith("release")), ""))
            except (OSError, ssl.SSLError, Failed) as e:
                self.errors.append(f"{type(e).__name__}: {e}")
            self.stop.wait(self.pause)

    def end(self, least=0):
        """Ends it once @least requests were answered; on a busy machine it makes fewer a second. (answered, what failed)"""
        end = fair.now() + fair.LEAST
        while self.ok < least and fair.now() < end:
            time.sleep(0.02)
        self.stop.set()
        self.thread.join(60)
        return self.ok, self.errors


def manifest(app, image, command=None, port=None, hostname=None, memory="128Mi", more="", health="", process_more="", min_replicas=None):
    t = f'schema_version = "v1"\n[app]\nname = "{app}"\n[image]\nref = "{image}"\n[processes.web]\n'
    if command:
        t += f"command = {json.dumps(command)}\n"
    t += f'{process_more}[processes.web.resources]\nmemory = "{memory}"\ncpu = 1\ndisk = "1Gi"\n'
    if min_replicas is not None:
        t += f"[processes.web.scaling]\nmin = {min_replicas}\n"
    if port:
        t += f'[[processes.web.ports]]\nname = "main"\ninternal = {port}\n'
    if health:
        t += f"[processes.web.health]\n{health}\n"
    t += more
    if hostname:
        t += f'[[routes]]\nenv = "prod"\nhostname = "{hostname}"\nprocess = "web"\nport = "main"\n'
    return t


def write_oci(path, layers, config, arch="amd64", compress=6):
    """An OCI layout with one image made of uncompressed layer tars, @compress: gzip's level or 0; the digest of its manifest."""
    os.makedirs(f"{path}/blobs/sha256", exist_ok=True)

    def blob(data, media, **more):
        d = hashlib.sha256(data).hexdigest()
        with open(f"{path}/blobs/sha256/{d}", "wb") as f:
            f.write(data)
        return dict({"mediaType": media, "digest": f"sha256:{d}", "size": len(data)}, **more)

    packed = [blob(gzip.compress(x, compress, mtime=0) if compress else x, "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else ""))
              for x in layers]
    conf = {"architecture": arch, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(x).hexdigest() for x in layers]}}
    man = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
           "config": blob(json.dumps(conf, sort_keys=True).encode(), "application/vnd.oci.image.config.v1+json"), "layers": packed}
    d = blob(json.dumps(man, sort_keys=True).encode(), man["mediaType"], annotations={"org.opencontainers.image.ref.name": "latest"})
    with open(f"{path}/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [d]}, f)
    with open(f"{path}/oci-layout", "w") as f:
        json.dump({"imageLayoutVersion": "1.0.0"}, f)
    return d["digest"]


def need_root():
    if os.geteuid() != 0:
        print("skip - all: needs root")
        sys.exit(0)


# What one host has once for all platforms. Everything else of a platform is below its data folder or named by it.
CLONE_NEWNS, CLONE_NEWNET, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x40000000, 4096, 16384, 1 << 18, 2
USERS = ("moat-pg", "moat-control", "moat-edge", "moat-registry", "moat-fetch", "moat-fsck")


def own_host():
    """From here on this process and all that it starts have a host of their own as far as a platform uses one: network namespace (taps,
    addresses, routes, ports, the firewall's table), mounts, and cgroups (a group of our own is mounted over each hierarchy's root). What is
    looked at "on the whole host" is then all of ours and nobody else's, and such files run beside each other. Needs to be called first.
    What has to come from the Debian archive is fetched before."""
    cache = "/var/cache/moat"
    if not os.path.isdir(cache) or not any(f.endswith(".deb") for f in os.listdir(cache)):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as t:
            subprocess.run([f"{ROOT}/packaging/bundle/make-bundle", "--init", f"{BIN}/moat-init", "--out", t, "--cache", cache], check=True,
                           stdout=subprocess.DEVNULL)
    libc = ctypes.CDLL(None, use_errno=True)

    def done(r, what):
        if r:
            raise OSError(ctypes.get_errno(), what)
    done(libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
    done(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private")
    for line in reversed(open("/proc/self/mountinfo").readlines()):
        where = line.split()[4]
        # what others have mounted in their scratch folders goes when they remove those, also here: not ours, so away with it now
        if where.startswith(("/tmp/", "/var/tmp/")) and not f"{ROOT}/".startswith(f"{where}/"):
            libc.umount2(where.encode(), MNT_DETACH)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    ours, outside = f"moat-test-own-{os.getpid()}", []
    for line in open("/proc/self/mountinfo"):
        where, kind = line.split()[4], line.split(" - ")[1].split()[0]
        if kind == "cgroup" or (kind == "cgroup2" and "memory" in open(f"{where}/cgroup.controllers").read().split()):
            outside.append((where, kind, os.open(where, os.O_RDONLY | os.O_DIRECTORY)))
    for where, kind, fd in outside:
        if kind == "cgroup2":
            with open(f"{where}/cgroup.subtree_control", "w") as f:
                f.write("+cpu +memory +pids")
        if kind == "cgroup" and os.path.exists(f"{where}/cpuset.cpus"):
            continue  # nothing of ours joins it
        os.mkdir(f"{where}/{ours}")
        done(libc.mount(f"{where}/{ours}".encode(), where.encode(), None, MS_BIND, None), f"bind {where}")
        atexit.register(drop_cgroup, ours, fd, os.getpid())


def drop_cgroup(name, fd, pid):
    """Remove a group and those below, seen from outside; children of this process, which inherit this call, must not."""
    if os.getpid() != pid:
        return
    for base, dirs, _, at in os.fwalk(name, topdown=False, dir_fd=fd):
        for d in dirs:
            try:
                os.rmdir(d, dir_fd=at)
            except OSError:
                pass  # still a process in it: the file has failed already, or is about to
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError:
        pass


@contextlib.contextmanager
def first_of_host():
    """One at a time while the users of a platform do not exist yet: useradd refuses a second caller."""
    def missing():
        return not {u.pw_name for u in pwd.getpwall()} >= set(USERS)
    if not missing():
        yield
        return
    with open("/run/moat-test-users.lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if not missing():
            fcntl.flock(f, fcntl.LOCK_UN)
        yield
