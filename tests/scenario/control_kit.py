# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL, a real moat-control, and fakes of agent and edge over its Unix sockets. Needs root."""
import atexit, base64, csv, glob, hashlib, http.client, io, json, os, pwd, shutil, signal, socket, subprocess, sys, tempfile, threading, time

import fair

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
results = []


def program(name):
    for d in (os.environ.get("MOAT_BIN"), os.path.join(ROOT, "bin"), os.environ.get("MOAT_BUILD")):
        if not d:
            continue
        for p in (os.path.join(d, name), os.path.join(d, "src/control", name)):
            if os.access(p, os.X_OK):
                return p
    return None


def case(name):
    """Decorator of a case: runs it at once, prints its line."""
    def run(fn):
        try:
            fn()
            results.append(True)
            print("ok - " + name, flush=True)
        except Exception as e:  # a failing case must not stop the others
            results.append(False)
            where = e.__traceback__
            while where.tb_next:
                where = where.tb_next
            print("not ok - %s: %s: %s (line %d)" % (name, type(e).__name__, str(e)[:600].replace("\n", " "), where.tb_lineno), flush=True)
        return fn
    return run


def finish():
    sys.exit(0 if all(results) else 1)


def skip(name, why):
    print("skip - %s: %s" % (name, why), flush=True)


def need(what, *programs):
    """The file ends as skipped unless root runs it and moat-control (and @programs) is built."""
    missing = [p for p in ("moat-control",) + programs if not program(p)]
    if os.geteuid() != 0 or missing:
        skip(what, "needs root" if os.geteuid() != 0 else missing[0] + " is not built")
        sys.exit(0)


PATIENCE = float(os.environ.get("MOAT_PATIENCE", "1"))  # an emulated host is that much slower


def within(what, fn, seconds):
    """First true value of fn(); that it comes within @seconds is the claim."""
    seconds *= PATIENCE
    end, pace = fair.now() + seconds, fair.Pace(0.01 if PATIENCE == 1 else 0.5)
    last = None
    while fair.now() < end:
        last = fn()
        if last:
            return last
        pace.rest()
    raise AssertionError("%s did not happen in %s s (last: %r)" % (what, seconds, last))


def wait_for(what, fn, seconds=10):
    """First true value of fn(); when it comes is not the claim."""
    return within(what, fn, fair.limit(seconds))


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=70):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Reply:
    def __init__(self, r):
        self.status, self.headers, self.text = r.status, r.headers, r.read()

    @property
    def json(self):
        return json.loads(self.text)


def call(path, method, target, body=None, headers=None, timeout=70):
    c = UnixHTTP(path, timeout)
    try:
        h = dict(headers or {})
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            h.setdefault("Content-Type", "application/json")
        c.request(method, target, data, h)
        return Reply(c.getresponse())
    finally:
        c.close()


def in_memory(d):
    """A folder in memory that stands where @d is not yet, or @d itself where there is no room: what a cluster writes and flushes costs the
    disk that all tests share more than they cost the processor, and processes die here, never the machine."""
    shm = "/dev/shm"
    try:
        for old in glob.glob(shm + "/mtc-*"):  # of files that were killed
            if not os.path.exists("/proc/" + old.split("-")[1]):
                shutil.rmtree(old, ignore_errors=True)
        s = os.statvfs(shm)
        free = min(s.f_bavail * s.f_frsize, int(open("/proc/meminfo").read().split("MemAvailable:")[1].split()[0]) << 10)
        if free > 6 << 30 and not os.path.exists(d) and not os.environ.get("MOAT_KEEP"):
            os.symlink(tempfile.mkdtemp(prefix="mtc-%d-" % os.getpid(), dir=shm), d)
    except (OSError, IndexError, ValueError):
        pass
    os.makedirs(d, 0o700, exist_ok=True)


def remove(d):
    """@d of in_memory()."""
    if os.path.islink(d):
        shutil.rmtree(os.path.realpath(d), ignore_errors=True)
        os.unlink(d)
    shutil.rmtree(d, ignore_errors=True)


class Postgres:
    def __init__(self, d, made=False):
        """@made: its data are there already."""
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.d, self.data, self.sock = d, d + "/pg", d + "/pgrun"
        self.pw = pwd.getpwnam("postgres")
        in_memory(self.data)
        os.makedirs(self.sock)
        for p in (self.data, self.sock):
            os.chown(p, self.pw.pw_uid, self.pw.pw_gid)
        self.proc = None
        empty = os.path.join(ROOT, "build", "empty-cluster-%s-%d-1" % (self.bin.split("/")[-2], self.pw.pw_uid))  # initdb takes a second of processor, a copy none
        if not made and os.path.isdir(empty):
            subprocess.run(["cp", "-a", empty + "/.", self.data], check=True)
        elif not made:
            self.run(self.bin + "/initdb", "-D", self.data, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
            self.start()
            for x in ("ROLE moat_owner LOGIN", "ROLE moat_projector NOLOGIN", "ROLE moat_control LOGIN NOINHERIT IN ROLE moat_projector",
                      "DATABASE moat OWNER moat_owner"):
                self.sql("CREATE " + x, db="postgres")
            self.stop()
            self.leave(empty)
        self.start()

    def leave(self, empty):
        """The next one is a copy of this, where there is a place for it. Who comes second finds it there."""
        mine = "%s.%d" % (empty, os.getpid())
        if not os.path.isdir(os.path.dirname(empty)) or not os.access(os.path.dirname(empty), os.W_OK):
            return
        try:
            subprocess.run(["cp", "-aH", self.data, mine], check=True)
            os.rename(mine, empty)
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(mine, ignore_errors=True)

    def as_user(self):
        os.setgroups([])
        os.setgid(self.pw.pw_gid)
        os.setuid(self.pw.pw_uid)

    def run(self, *argv):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, preexec_fn=self.as_user, cwd="/")

    def start(self, *settings):
        self.proc = subprocess.Popen([self.bin + "/postgres", "-D", self.data, "-k", self.sock, "-c", "listen_addresses=",
                                      "-c", "max_connections=60", "-c", "shared_buffers=32MB"] + [x for s in settings for x in ("-c", s)],
                                     stdout=subprocess.DEVNULL, stderr=open(self.d + "/pg.log", "ab"),
                                     preexec_fn=self.as_user, cwd="/", start_new_session=True)
        wait_for("postgres", lambda: subprocess.run([self.bin + "/psql", "-h", self.sock, "-U", "postgres", "-tAc", "SELECT 1",
                                                     "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0, 20)

    def stop(self, sig=signal.SIGINT):
        if self.proc:
            self.proc.send_signal(sig)
            self.proc.wait(90)
        self.proc = None

    def backup(self, to):
        """A base backup of the running server, as an operator makes one."""
        in_memory(to)
        os.chown(to, self.pw.pw_uid, self.pw.pw_gid)
        self.run(self.bin + "/pg_basebackup", "-h", self.sock, "-U", "postgres", "-D", to, "-X", "stream", "-c", "fast", "--no-sync")

    def restore(self, backup):
        """The server ends, its data are replaced by @backup, it starts again."""
        self.stop(signal.SIGQUIT)
        remove(self.data)
        in_memory(self.data)
        subprocess.run(["cp", "-a", backup + "/.", self.data], check=True)  # its files are postgres' own
        self.start("fsync=off")  # a start from a backup flushes each file first; processes die here, the machine does not

    def sql(self, text, db="moat", user="postgres"):
        r = subprocess.run([self.bin + "/psql", "-h", self.sock, "-U", user, "-v", "ON_ERROR_STOP=1", "-tAc", text, db],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if r.returncode:
            raise AssertionError(r.stderr)
        return r.stdout.strip()


class Bouncer:
    """A real PgBouncer before @pg in a folder @d of its own, as docs/postgresql.md sets one up; few connections to the server, so that sessions are shared."""

    def __init__(self, pg, mode, d, size=max(3, int(os.environ.get("MOAT_POOLED") or 3))):
        self.pg, self.d, self.ini = pg, d, d + "/pgbouncer.ini"
        os.makedirs(d)
        os.chown(d, pg.pw.pw_uid, pg.pw.pw_gid)
        with open(self.ini, "w") as f:
            f.write("[databases]\nmoat = host=%s dbname=moat\n[pgbouncer]\nunix_socket_dir = %s\nlisten_addr =\nlisten_port = 6432\nauth_type = trust\nauth_file = %s/users\n"
                    "pool_mode = %s\ndefault_pool_size = %d\nmax_client_conn = 400\nlogfile = %s/log\npidfile = %s/pid\nserver_login_retry = 1\nstats_users = moat_control\n"
                    % (pg.sock, d, d, mode, size, d, d))
        with open(d + "/users", "w") as f:
            f.write('"moat_control" ""\n"moat_owner" ""\n')
        self.url = "host=%s port=6432 dbname=moat user=moat_control" % d
        self.start()

    def start(self):
        self.proc = subprocess.Popen(["pgbouncer", self.ini], env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin"), preexec_fn=self.pg.as_user, cwd="/",
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("pgbouncer", lambda: os.path.exists(self.d + "/.s.PGSQL.6432"), 10)

    def kill(self):
        """At once; its folder is as it was before the start."""
        self.proc.kill()
        self.proc.wait()
        for x in ("/.s.PGSQL.6432", "/pid"):
            if os.path.exists(self.d + x):
                os.unlink(self.d + x)

    def pool(self):
        """How many connections of moat-control it has, and how many to the server."""
        out = subprocess.run([self.pg.bin + "/psql", "--csv", "-c", "SHOW POOLS", self.url.replace("dbname=moat", "dbname=pgbouncer")], check=True, stdout=subprocess.PIPE, text=True).stdout
        row = next(r for r in csv.DictReader(io.StringIO(out)) if r["user"] == "moat_control")
        return sum(int(row[k]) for k in ("cl_active", "cl_waiting")), sum(int(row[k]) for k in ("sv_active", "sv_idle", "sv_used"))

    def sql(self, text):
        r = subprocess.run([self.pg.bin + "/psql", "-v", "ON_ERROR_STOP=1", "-tAc", text, self.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert r.returncode == 0, r.stderr
        return r.stdout.strip()


class Sse(threading.Thread):
    """A stream as server-sent events, read as WHATWG HTML says: `got` holds (event, id, object), `comments` what is none, `last` the id that a
    client would come back with."""

    def __init__(self, path, target, token, last_id=None, accept="text/event-stream"):
        super().__init__(daemon=True)
        self.c = UnixHTTP(path, 60)
        headers = {"Authorization": "Bearer " + token, "Accept": accept}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        self.c.request("GET", target, headers=headers)
        self.r = self.c.getresponse()
        self.got, self.comments, self.last, self.retry = [], [], last_id or "", None
        if self.r.status != 200:
            raise AssertionError("%s -> %d %s" % (target, self.r.status, self.r.read()))
        assert self.r.headers["Content-Type"].startswith("text/event-stream"), self.r.headers
        self.start()

    def run(self):
        event, data, last = "message", [], self.last
        try:
            for line in iter(self.r.readline, b""):
                assert line.endswith(b"\n"), line
                name, _, value = line[:-1].decode().partition(":")
                value = value[1:] if value.startswith(" ") else value
                if line == b"\n":
                    self.last = last
                    if data:
                        self.got.append((event, last, json.loads("\n".join(data))))
                    event, data = "message", []
                elif not name:
                    self.comments.append(value)
                elif name == "id":
                    last = value
                elif name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                elif name == "retry":
                    self.retry = int(value)
                else:
                    raise AssertionError("not a field of an event: %r" % line)
        except (OSError, http.client.HTTPException):
            pass

    def messages(self):
        return [(i, o) for e, i, o in self.got if e == "message"]

    def close(self):
        try:
            self.c.sock.shutdown(socket.SHUT_RDWR)  # the answer's reader keeps a closed one open
        except OSError:
            pass
        self.join(5)


class HeldLog:
    """Nothing is appended inside `with`: somebody else has the append lock. What is appended afterwards was prepared before. Or another of
    src/control/log/locks.h."""
    LOG, REBUILD = 7885628624171986791, 7885628624172377442

    def __init__(self, pg, lock=LOG):
        self.pg, self.lock = pg, lock

    def __enter__(self):
        self.p = subprocess.Popen([self.pg.bin + "/psql", "-h", self.pg.sock, "-U", "postgres", "-qtA", "moat"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        self.p.stdin.write("SELECT 'held' FROM (SELECT pg_advisory_lock(%d)) x;\n" % self.lock)
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "held\n"
        return self

    def waited_for(self):
        return self.pg.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") != "0"

    def asked(self, table, since):
        """Some worker has read @table since and is done with it."""
        return self.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%%%s%%' AND query_start > to_timestamp(%f)" % (table, since)) != "0"

    def __exit__(self, *what):
        self.p.stdin.close()
        self.p.wait(60)


class Agent(threading.Thread):
    """Heartbeats, long-polls the plan, and drives every instance it is given by `behave(assignment)`."""

    def __init__(self, world, memory=8 << 30):
        super().__init__(daemon=True)
        self.w, self.stopped = world, threading.Event()
        self.node_id = "node_01j" + "0" * 23
        self.memory, self.after, self.epoch, self.seq = memory, 0, 1, {}
        self.pool = None  # bytes of storage for volumes; None: it tells of none
        self.orphans = []  # volumes on its disk that no plan has
        self.backup_store = self.restores = False  # it tells of a store for backups, and that it restores them
        self.public = {}  # "public_ipv6" and "public_ipv4" of the heartbeat
        self.makes, self.vseq = True, 0  # volumes of its plan are made and removed
        self.recovery, self.last = False, {}  # what the last heartbeat was told; the last report of each instance
        self.plans, self.plan_at, self.state, self.behave = [], {}, {}, lambda a: "ready"
        self.lock = threading.Lock()

    def post(self, what, body):
        return call(self.w.internal, "POST", "/internal/v1/nodes/self/" + what, body)

    def heartbeat(self):
        storage = {"storage": {"backend": "reflink", "pool_bytes": self.pool, "pool_used_bytes": 0, "healthy": True, "backup_store": self.backup_store, "restores": self.restores, "orphans": self.orphans}} if self.pool else {}
        return self.post("heartbeat", {
            **storage, **self.public,
            "node_id": self.node_id, "agent_version": "test", "arch": "amd64", "conditions": [], "protocols": ["v1"],
            "vmm": {"driver": "qemu", "accel": "tcg", "reason": "test"}, "epoch": self.epoch, "cursor_event_id": self.after,
            "allocatable": {"cpu_millis": 8000, "memory_bytes": self.memory, "disk_bytes": 100 << 30},
            "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}, "clock_unix_ms": int(time.time() * 1000)})

    def report(self, instance, status, **more):
        with self.lock:
            self.seq[instance] = self.seq.get(instance, 0) + 1
            seq = self.seq[instance]
        r = {"instance_id": instance, "generation": 1, "status": status, "restart_count": 0, "seq": seq}
        r.update(more)
        self.last[instance] = dict(r)
        end, why = time.monotonic() + REPORT_S, None
        while not self.stopped.wait(0.05 if why else 0):  # retried until acknowledged, as an agent does, but not for ever
            try:
                got = self.post("status", {"agent_version": "test", "instances": [r]})
                if got.status == 200:
                    self.state[instance] = status
                    return got
                why = "%d %s" % (got.status, got.text.decode(errors="replace")[:300])
            except (OSError, http.client.HTTPException) as e:
                why = repr(e)
            if time.monotonic() > end:
                print("# report %s refused for %d s: %s" % (r, REPORT_S, why), flush=True)
                raise AssertionError("report of %s as %s is refused: %s" % (instance, status, why))
        return None

    def resync(self):
        """The full list, as an agent sends it every 60 s and when it is told that a recovery began or ended."""
        with self.lock:
            rows = []
            for i, r in list(self.last.items()):
                if r["status"] != "stopped":
                    rows.append(r)
        return self.post("status", {"agent_version": "test", "resync": True, "instances": rows})

    def next_seq(self):
        with self.lock:  # the case and the agent's own thread tell of volumes
            self.vseq += 1
            return self.vseq

    def volume(self, volume_id, event, **more):
        return self.post("status", {"instances": [], "volumes": [dict(volume_id=volume_id, seq=self.next_seq(), event=event, **more)]})

    def snapshot(self, snapshot_id, status, **more):
        return self.post("status", {"instances": [], "snapshots": [dict(snapshot_id=snapshot_id, seq=self.next_seq(), status=status, **more)]})

    def restore(self, restore_id, status, **more):
        return self.post("status", {"instances": [], "restores": [dict(restore_id=restore_id, seq=self.next_seq(), status=status, **more)]})

    def apply(self, plan):
        for v in plan.get("volumes", []) if self.makes else []:
            if v["desired"] == "absent":
                self.volume(v["volume_id"], "deleted")
            elif not v["was_available"] and "from_restore" not in v:
                self.volume(v["volume_id"], "provisioned", result="ok", fs_uuid=v["fs_uuid"], size_bytes=v["size_bytes"])
            if v.get("check"):
                self.volume(v["volume_id"], "checked", check={"number": v["check"]["number"], "result": "clean"})
        for a in plan["instances"]:
            i, want, have = a["instance_id"], a["desired_state"], self.state.get(a["instance_id"])
            if want == "running" and have in (None, "stopped"):  # stopped: a restored log may ask for it again
                self.plan_at.setdefault(i, fair.now())
                what = self.behave(a)
                boot = "boot_" + i[5:]
                if what == "ready":
                    self.report(i, "booting", status_detail="booting_vm", boot_id=boot)
                    self.report(i, "ready", boot_id=boot)
                elif what == "exit":
                    for n in range(3):
                        self.report(i, "booting", status_detail="backoff", boot_id="boot_%s%d" % (i[5:-1], n), restart_count=n + 1,
                                    reason_code="workload_exited", exit_code=3)
                elif what.startswith("loop "):  # ready for a moment, then one crash after the other, all by that code
                    self.report(i, "booting", status_detail="booting_vm", boot_id=boot)
                    self.report(i, "ready", boot_id=boot)
                    self.report(i, "failed", status_detail="backoff", boot_id=boot, restart_count=5, reason_code="crash_loop_backoff",
                                reason_detail=what[5:], exit_code=3)
                elif what == "hang":
                    self.report(i, "starting", boot_id=boot)
            elif want == "draining" and i not in self.plan_at and have is None:
                self.report(i, "stopped")  # it never was: there is nothing to drain
            elif want == "draining" and have not in ("stopped", None) and a["drain_delay_seconds"] == 0:
                self.report(i, "stopped")
            elif want == "draining" and have == "ready":
                self.report(i, "draining")
            elif want == "stopped" and have != "stopped":
                self.report(i, "stopped")

    def run(self):
        beat = 0
        while not self.stopped.is_set():
            try:
                if time.monotonic() - beat > 2:
                    h = self.heartbeat()
                    if h.status == 200:
                        beat = time.monotonic()
                        if h.json["recovery"] != self.recovery and self.resync().status == 200:
                            self.recovery = h.json["recovery"]
                r = call(self.w.internal, "GET", "/internal/v1/nodes/self/plan?after=%d&epoch=%d&wait=%d" %
                         (self.after, self.epoch, 1 if self.recovery else 2))
                if r.status == 200:
                    plan = r.json
                    self.after, self.epoch = plan["cursor_event_id"], plan["epoch"]
                    self.plans.append(plan)
                    self.apply(plan)
                elif r.status != 304:
                    self.stopped.wait(0.1)
            except (OSError, http.client.HTTPException):
                self.stopped.wait(0.1)

    def stop(self):
        self.stopped.set()
        self.join(60)


class AgentSocket(threading.Thread):
    """The agent's own socket: answers log and console requests from a table."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.lines, self.console, self.asked, self.open = {}, {}, [], []
        self.s = socket.socket(socket.AF_UNIX)
        self.s.bind(path)
        self.s.listen(64)

    def run(self):
        while True:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            self.open.append(c)
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        with c:
            req = json.loads(c.makefile().readline())
            self.asked.append(req)
            i = req["instance_id"]
            if req["op"] == "console":
                for t in self.console.get(i, []):
                    c.sendall((json.dumps({"text": t}) + "\n").encode())
                return
            sent, left = req.get("since_seq", 0), 1 << 40
            if not req.get("follow") and req.get("limit"):  # the next ones, or the last ones
                left = req["limit"]
                if "since_seq" not in req:
                    sent = max([r["seq"] for r in self.lines.get(i, [])] or [0]) - left
            while True:
                # in one piece: who asks waits three seconds for thousands of lines, and this is one thread of a busy process
                new = [r for r in list(self.lines.get(i, [])) if r["seq"] > sent][:left]
                if new:
                    left -= len(new)
                    sent = new[-1]["seq"]
                    try:
                        c.sendall("".join(json.dumps(r) + "\n" for r in new).encode())
                    except OSError:
                        return
                if not req.get("follow"):
                    return
                time.sleep(0.02)

    def cut(self):
        """What is followed breaks off, as when an agent is killed."""
        while self.open:
            c = self.open.pop()
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def add(self, instance, line, stream="stdout"):
        have = self.lines.setdefault(instance, [])
        t = time.time()
        ts = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) + ".%06dZ" % int(t % 1 * 1e6)
        have.append({"ts": ts, "seq": len(have) + 1, "stream": stream, "line": line, "truncated": False})


REPORT_S = 120  # longer than any outage that a test makes
EDGE = r"""
import http.client, json, os, socket, sys, time
sys.path.insert(0, sys.argv[3]); from control_kit import call
after, epoch = 0, 1
while True:
    try:
        r = call(sys.argv[1], "GET", "/internal/v1/edge/config?after=%d&epoch=%d&wait=5" % (after, epoch))
        if r.status == 200:
            c = r.json; after, epoch = c["revision"], c["epoch"]
            with open(sys.argv[2] + ".tmp", "w") as f: json.dump(c, f)
            os.rename(sys.argv[2] + ".tmp", sys.argv[2])
            with open(sys.argv[2] + ".seen", "a") as f: f.write(json.dumps([epoch, c.get("allow_shrink")]) + "\n")
        elif r.status != 304:
            time.sleep(0.1)
        if after and os.path.exists(sys.argv[2] + ".ack"):
            call(sys.argv[1], "POST", "/internal/v1/edge/status", {"epoch": epoch, "revision": after})
    except (OSError, http.client.HTTPException):
        time.sleep(0.1)
"""


class World:
    def __init__(self, template=None, **conf):
        """@template: a folder of an earlier one that `keep()` left, gone on with; where making a database takes minutes."""
        self.d = tempfile.mkdtemp(prefix="mtc.", dir="/tmp")
        os.chmod(self.d, 0o755)
        if template:
            subprocess.run(["cp", "-a", template + "/.", self.d], check=True)
        self.api, self.internal, self.agent_sock = self.d + "/api.sock", self.d + "/int.sock", self.d + "/agent.sock"
        self.edge_dir = self.d + "/edge"
        os.makedirs(self.edge_dir)
        os.chown(self.edge_dir, 65534, 65534)
        if not template:
            key = os.urandom(32)
            fd = os.open(self.d + "/master-keys", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)
            os.write(fd, b"%s active %s\n" % (hashlib.sha256(b"moat-master-key-v1\0" + key).hexdigest()[:16].encode(), base64.b64encode(key)))
            os.close(fd)
        self.agent = Agent(self)
        self.pg = Postgres(self.d, made=bool(template))
        self.control = self.edge = self.twin = None
        atexit.register(self.close)  # whatever is raised before the file's own try: nothing is left that keeps its output open
        self.apis, self.asked = [self.api], 0  # requests take turns
        self.confirm = True  # environments that q() and ok() make get `secrets confirm-none`, so that deploys pass the gate
        self.conf = conf
        self.bouncer = None
        if os.environ.get("MOAT_POOLED"):  # any file behind a pooler: by hand
            self.bouncer = Bouncer(self.pg, "transaction", self.d + "/pool")
            self.conf["database_pool_url"] = self.bouncer.url
        self.write_config()
        self.logs = AgentSocket(self.agent_sock)
        self.logs.start()
        self.start_control()

    def write_config(self):
        lines = {"listen_api": self.api, "listen_internal": self.internal, "data_dir": self.d + "/control",
                 "database_url": "host=%s dbname=moat user=moat_control" % self.pg.sock,
                 "operator_token_file": self.d + "/operator.token", "agent_socket": self.agent_sock, "agent_user": "root",
                 "edge_user": "nobody", "internal_group": "nogroup", "fetch_program": "/bin/false"}
        # The fakes are ready at once: what a rollout waits for by the clock alone is as short as it goes, but where that wait is the claim.
        more = {"vmm_allowed": ["qemu-tcg"], "master_keys_file": self.d + "/master-keys", "min_ready_seconds": 1,
                "dns.check": False}
        more.update(self.conf)
        twin = {"listen_api": self.d + "/api2.sock", "listen_internal": self.d + "/int2.sock"}
        if "listen_nodes" in more:  # nodes know the first one's only
            host, port = more["listen_nodes"].rsplit(":", 1)
            twin["listen_nodes"] = "%s:%d" % (host, int(port) + 1)
        for n, own in ((0, {}), (1, twin)):
            with open(self.d + ("/control2.toml" if n else "/control.toml"), "w") as f:
                for k, v in {**lines, **more, **own}.items():
                    f.write("%s = %s\n" % (k, json.dumps(v)))

    def start_twin(self):
        """A second moat-control beside the first, on the same database and data folder."""
        self.twin = subprocess.Popen([program("moat-control"), "--config", self.d + "/control2.toml"], stderr=open(self.d + "/control2.log", "ab"))

        def up():
            try:
                return call(self.d + "/api2.sock", "GET", "/readyz", timeout=30).status == 200
            except OSError:
                return False
        wait_for("the second moat-control ready", lambda: self.twin.poll() is not None or up(), 30)
        if self.twin.poll() is not None:
            raise AssertionError("the second moat-control ended: " + open(self.d + "/control2.log").read()[-2000:])
        self.apis = [self.api, self.d + "/api2.sock"]

    def spawn_control(self):
        self.control = subprocess.Popen([program("moat-control"), "--config", self.d + "/control.toml"], stderr=open(self.d + "/control.log", "ab"))

    def start_control(self):
        self.spawn_control()
        try:
            wait_for("moat-control ready", lambda: self.control.poll() is not None or self.ready(), 30)
        except AssertionError as e:
            raise AssertionError("%s: %s" % (e, open(self.d + "/control.log").read()[-2000:])) from None
        if self.control.poll() is not None:
            raise AssertionError("moat-control ended: " + open(self.d + "/control.log").read()[-2000:])
        self.token = open(self.d + "/operator.token").read().strip()
        if os.environ.get("MOAT_REPLICAS") == "2" and not self.twin:
            self.start_twin()

    def ready(self):
        try:
            return all(call(a, "GET", "/readyz", timeout=30).status == 200 for a in self.apis)
        except OSError:
            return False

    def kill_control(self):
        self.control.kill()
        self.control.wait()

    def start_edge(self, ack=True):
        if ack:
            open(self.edge_dir + "/config.json.ack", "w").close()
        self.edge = subprocess.Popen(["/usr/bin/python3", "-c", EDGE, self.internal, self.edge_dir + "/config.json", HERE],
                                     user=65534, group=65534, extra_groups=[])

    def edge_config(self):
        try:
            return json.load(open(self.edge_dir + "/config.json"))
        except (OSError, ValueError):
            return None

    def q(self, method, target, body=None, key=None, **headers):
        h = {"Authorization": "Bearer " + self.token}
        if key:
            h["Idempotency-Key"] = key
        h.update({k.replace("_", "-"): v for k, v in headers.items()})
        self.asked += 1
        r = call(self.apis[self.asked % len(self.apis)], method, target, body, h)
        if self.confirm and method == "POST" and target.endswith("/envs") and r.status == 201 and r.json.get("config_gate") == "unset":
            call(self.api, "POST", "%s/%s/secrets/confirm-none" % (target, r.json["id"]), {}, {"Authorization": "Bearer " + self.token})
        return r

    def ok(self, method, target, body=None, key=None, want=(200, 201), **headers):
        r = self.q(method, target, body, key, **headers)
        if r.status not in want:
            raise AssertionError("%s %s -> %d %s" % (method, target, r.status, r.text.decode()[:500]))
        return r.json

    def org(self):
        """Path of the organisation that a new platform has."""
        return "/v1/orgs/" + self.ok("GET", "/v1/orgs?name=local")["items"][0]["id"]

    def make_app(self, name, env="prod"):
        """A new app of it with one environment: their paths."""
        a = self.org() + "/apps/"
        a += self.ok("POST", a[:-1], {"name": name})["id"]
        return a, a + "/envs/" + self.ok("POST", a + "/envs", {"name": env})["id"]

    def open(self):
        """The agent runs and its node is ready: the path of the organisation."""
        if not self.agent.is_alive():
            self.agent.start()
        wait_for("the node", lambda: [n for n in self.ok("GET", "/v1/nodes")["items"] if n["health"] == "ready"], 30)
        return self.org()

    def deploy(self, app, env, manifest, seconds=60):
        """A release of @manifest is deployed and has succeeded: the ids of release and deploy."""
        r = self.ok("POST", app + "/releases", {"manifest": manifest, "image_digest": "sha256:" + "1" * 64, "verify_image": False})["id"]
        d = self.ok("POST", env + "/deploys", {"release_id": r})["id"]
        wait_for("success", lambda: self.ok("GET", env + "/deploys/" + d)["status"] == "succeeded", seconds)
        return r, d

    def keep(self, folder):
        """End it, and leave what `template` takes in @folder."""
        self.control.terminate()
        self.control.wait(25)
        self.pg.stop()
        os.makedirs(folder)
        for n in ("pg", "control", "master-keys", "operator.token"):
            subprocess.run(["cp", "-aH", self.d + "/" + n, folder], check=True)

    def close(self):
        """Once: a second call does nothing."""
        atexit.unregister(self.close)
        self.agent.stopped.set()
        if self.control and self.control.poll() not in (None, 0):
            print("# moat-control ended with %s; its last lines:" % self.control.returncode)
            for line in open(self.d + "/control.log", errors="replace").read().splitlines()[-25:]:
                print("#   " + line[:400])
        for p in (self.edge, self.control, self.twin):
            if p and p.poll() is None:
                p.terminate()
        for p in (self.edge, self.control, self.twin):
            if p:
                try:
                    p.wait(25)
                except subprocess.TimeoutExpired:
                    p.kill()
        if self.bouncer:
            self.bouncer.kill()
        self.pg.stop(signal.SIGINT if os.environ.get("MOAT_KEEP") else signal.SIGQUIT)  # no checkpoint for what is thrown away
        if os.environ.get("MOAT_KEEP"):
            print("# kept " + self.d)
        else:
            for x in os.listdir(self.d):
                if os.path.islink(self.d + "/" + x):
                    remove(self.d + "/" + x)
            shutil.rmtree(self.d, ignore_errors=True)
