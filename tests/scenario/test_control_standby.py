#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL with a streaming standby under two moat-control that name both servers (target_session_attrs=read-write): the primary is killed under
load and the standby promoted. With synchronous replication no acknowledged command is lost and the platform goes on by itself; without it what is
lost is bounded by the lag, found, and waits for an operator. PgBouncer between in session mode, and in transaction mode for the workers.
COST 26 s, 21 s of processor."""
import json, os, shutil, signal, subprocess, sys, threading, time
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
from control_kit import call, case, wait_for

kit.need("control standby")
os.environ.pop("MOAT_POOLED", None)  # its poolers are its own
WRITERS = 8


class Standby(kit.Postgres):
    """A copy of @primary that follows it; pg_basebackup -R, as docs/postgresql.md says."""

    def __init__(self, primary, d, name):
        self.bin, self.pw = primary.bin, primary.pw
        self.d, self.data, self.sock, self.proc = d, d + "/" + name, d + "/" + name + "run", None
        kit.in_memory(self.data)
        os.makedirs(self.sock, 0o700)
        for p in (self.data, self.sock):
            os.chown(p, self.pw.pw_uid, self.pw.pw_gid)
            os.chmod(p, 0o700 if p == self.data else 0o755)
        self.run(self.bin + "/pg_basebackup", "-d", "host=%s user=postgres application_name=%s" % (primary.sock, name), "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.start()
        wait_for("the standby streams", lambda: primary.sql("SELECT count(*) FROM pg_stat_replication WHERE application_name = '%s' AND state = 'streaming'" % name) == "1", 20)

    def promote(self):
        """Again when the server just restarts, as it does when a process of its own was killed: it forgets that it was asked."""
        for _ in range(6):
            try:
                self.run(self.bin + "/pg_ctl", "promote", "-w", "-t", "10", "-D", self.data)
                return
            except subprocess.CalledProcessError:
                pass
        assert self.sql("SELECT pg_is_in_recovery()", db="postgres") == "f", "the standby is not promoted"

    def receiver(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    line = f.read()
                with open("/proc/%s/stat" % pid) as f:
                    parent = int(f.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"walreceiver" in line and parent == self.proc.pid:
                return int(pid)
        return None


def kill_all(pg):
    """As a loss of power takes a server: every process at once, nothing flushed."""
    pids = [pg.proc.pid]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as f:
                if int(f.read().rpartition(")")[2].split()[1]) == pg.proc.pid:
                    pids.append(int(pid))
        except OSError:
            continue
    shared = set()
    for pid in pids:  # memory goes with the power too; files of it outlive a kill, and nobody comes back for them
        try:
            with open("/proc/%d/maps" % pid) as f:
                shared |= {l.split()[5] for l in f if "/dev/shm/PostgreSQL." in l and not l.endswith("(deleted)\n")}
        except OSError:
            continue
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    pg.proc.wait(90)
    pg.proc = None
    for path in shared:
        if os.path.exists(path):
            os.unlink(path)


class Load:
    """Writers that make apps through both servers and note what was acknowledged."""

    def __init__(self, w, org):
        self.w, self.org, self.acked, self.refused, self.stop, self.lock = w, org, {}, {}, threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(WRITERS)]
        for t in self.threads:
            t.start()

    def run(self, n):
        k = 0
        while not self.stop.is_set():
            k += 1
            name = "a%d-%d-%d" % (n, k, os.getpid() % 1000)
            try:
                r = call(self.w.apis[k % len(self.w.apis)], "POST", self.org + "/apps", {"name": name}, {"Authorization": "Bearer " + self.w.token}, timeout=20)
            except OSError:
                continue
            with self.lock:
                if r.status == 201:
                    self.acked[name] = (r.json["id"], time.monotonic())
                else:
                    self.refused[r.status] = self.refused.get(r.status, 0) + 1
            if r.status != 201:
                time.sleep(0.02)

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(30)
        return dict(self.acked)

    def so_far(self):
        with self.lock:
            return dict(self.acked)

    def since(self, t):
        with self.lock:
            return sum(at > t for _, at in self.acked.values())


def world(sync):
    """Two servers on a primary with a standby, told of both."""
    w = kit.World(quota_tier="unlimited")
    w.pg.sql("ALTER SYSTEM SET synchronous_standby_names = '%s'" % ("FIRST 1 (s1)" if sync else ""), db="postgres")
    w.pg.sql("ALTER SYSTEM SET wal_log_hints = on", db="postgres")  # for pg_rewind
    w.pg.sql("ALTER SYSTEM SET wal_keep_size = '256MB'", db="postgres")  # a rewind reads back to the checkpoint before the histories part
    w.pg.stop()
    w.pg.start()
    s = Standby(w.pg, w.d, "s1")
    w.control.terminate()
    w.control.wait(25)
    if sync:
        b = kit.Bouncer(s, "transaction", w.d + "/pool")
        try:
            w.conf["database_pool_url"] = b.url
            refused(w, "database_pool_url", "the pooler leads to a standby")
            del w.conf["database_pool_url"]
        finally:
            b.kill()
    w.conf["database_url"] = "host=%s,%s dbname=moat user=moat_control target_session_attrs=read-write connect_timeout=3" % (w.pg.sock, s.sock)
    w.write_config()
    w.start_control()
    w.start_twin()
    return w, s, w.org()


def in_db(pg):
    return {r.split("|")[0]: r.split("|")[1] for r in pg.sql("SELECT name, app_id FROM moat_views.apps_view").splitlines()}


def verify(w):
    for verb in ("verify-log", "verify-views"):
        r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", verb], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0, r.stdout[-600:]


def synchronous():
    w, s, org = world(True)
    try:
        @case("the check before an upgrade says how far the standby is behind, once its role may ask")
        def _():
            def said():
                return next(c for c in w.ok("GET", "/v1/admin/upgrade")["checks"] if c["check"] == "upgrade.standby")
            assert said()["severity"] == "warn" and "may not see" in said()["finding"] and "GRANT pg_read_all_stats" in said()["mend"], said()
            w.pg.sql("GRANT pg_read_all_stats TO moat_control")
            assert said()["finding"].startswith("1 standby, ") and "ms behind" in said()["finding"], said()
            # none stays: one of somebody else's, between two of its statements, is over soon
            wait_for("no transaction left open", lambda: w.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND usename = 'moat_control'") == "0", 20)
        load = Load(w, org)

        @case("synchronous: the primary is killed under load, the standby promoted: no acknowledged command is lost, nobody decides anything")
        def _():
            wait_for("some load", lambda: len(load.acked) > 300, 60)
            assert w.pg.sql("SELECT sync_state FROM pg_stat_replication WHERE application_name = 's1'") == "sync"
            epoch = w.ok("GET", "/v1/admin/recovery")["epoch"]
            kill_all(w.pg)
            at_kill = time.monotonic()
            time.sleep(0.5)  # requests run into the hole
            assert s.sql("SELECT pg_is_in_recovery()") == "t"
            s.promote()
            s.sql("ALTER SYSTEM SET synchronous_standby_names = ''", db="postgres")
            s.sql("SELECT pg_reload_conf()", db="postgres")
            promoted, fair0 = time.monotonic(), fair.now()
            wait_for("commands are taken again", lambda: load.since(promoted) > 50, 60)
            print("# from the promotion to the fiftieth command: %.1f s; from the kill: %.1f s" % (fair.now() - fair0, time.monotonic() - at_kill), flush=True)
            acked = load.end()
            have = in_db(s)
            lost = [n for n, (i, _) in acked.items() if have.get(n) != i]
            wait_for("both servers ready", w.ready, 60)  # fifty commands may all have been taken by one of them
            assert not lost, "%d of %d acknowledged commands are lost: %s" % (len(lost), len(acked), lost[:3])
            r = w.ok("GET", "/v1/admin/recovery")
            assert r["state"] == "none" and r["epoch"] == epoch, r
            verify(w)
            print("# %d commands acknowledged, %s refused meanwhile" % (len(acked), load.refused), flush=True)

        @case("synchronous: the old primary becomes the standby by pg_rewind, and the next failover loses nothing either")
        def _():
            back = Standby.__new__(Standby)
            back.__dict__.update(w.pg.__dict__)
            w.pg.start()  # a rewind wants a clean end; nobody writes here: the servers are told to want the writable one, and it is fenced at once
            w.pg.stop()
            s.sql("CHECKPOINT", db="postgres")  # or the rewind takes the new timeline for the old one
            w.pg.run(w.pg.bin + "/pg_rewind", "-D", w.pg.data, "--source-server", "host=%s user=postgres dbname=postgres" % s.sock, "-R")
            with open(w.pg.data + "/postgresql.auto.conf", "a") as f:
                f.write("primary_conninfo = 'host=%s user=postgres application_name=s2'\n" % s.sock)
            w.pg.start()
            wait_for("it follows", lambda: s.sql("SELECT count(*) FROM pg_stat_replication WHERE application_name = 's2' AND state = 'streaming'") == "1", 30)
            s.sql("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (s2)'", db="postgres")
            s.sql("SELECT pg_reload_conf()", db="postgres")
            wait_for("in step", lambda: s.sql("SELECT sync_state FROM pg_stat_replication WHERE application_name = 's2'") == "sync", 20)
            again = Load(w, org)
            wait_for("some load", lambda: len(again.acked) > 100, 60)
            kill_all(s)
            w.pg.sql("SELECT pg_promote(true)", db="postgres")
            w.pg.sql("ALTER SYSTEM SET synchronous_standby_names = ''", db="postgres")
            w.pg.sql("SELECT pg_reload_conf()", db="postgres")
            t = time.monotonic()
            wait_for("commands are taken again", lambda: again.since(t) > 50, 60)
            acked = {**load.acked, **again.end()}
            have = in_db(w.pg)
            lost = [n for n, (i, _) in acked.items() if have.get(n) != i]
            assert not lost, "%d of %d acknowledged commands are lost: %s" % (len(lost), len(acked), lost[:3])
            wait_for("both servers ready", w.ready, 60)
            assert w.ok("GET", "/v1/admin/recovery")["state"] == "none"
    finally:
        load.stop.set()
        w.close()
        s.stop()


def asynchronous():
    w, s, org = world(False)
    try:
        @case("asynchronous: what the standby did not have is lost, no more; it is found, said, and waits for an operator")
        def _():
            load = Load(w, org)
            wait_for("some load", lambda: len(load.acked) > 100, 60)
            wait_for("its receiver", s.receiver, 20)
            # What was acknowledged before this place in the log, which the standby is seen to have, must be there afterwards.
            safe, place = load.so_far(), w.pg.sql("SELECT pg_current_wal_lsn()", db="postgres")
            wait_for("the standby has it", lambda: s.sql("SELECT coalesce(pg_last_wal_receive_lsn() >= '%s', false)" % place, db="postgres") == "t", 60)
            os.kill(s.receiver(), signal.SIGSTOP)
            lagging = time.monotonic()
            wait_for("a lag", lambda: load.since(lagging) > 100, 60)
            kill_all(w.pg)
            try:
                os.kill(s.receiver() or 0, signal.SIGKILL) if s.receiver() else None
            except OSError:
                pass
            s.promote()
            r = wait_for("recovery", lambda: (lambda x: x.json if x.status == 200 and x.json["state"] == "frozen" else None)(w.q("GET", "/v1/admin/recovery")), 30)
            acked = load.end()
            have = in_db(s)
            lost = {n for n, (i, at) in acked.items() if have.get(n) != i}
            assert lost and not lost & set(safe), (len(lost), len(acked), len(safe), sorted(lost & set(safe))[:3])
            assert not [n for n, (i, at) in acked.items() if at > lagging and n not in lost and n not in have]
            assert w.q("POST", org + "/apps", {"name": "late"}).status == 503
            print("# lost %d of %d; said: %s" % (len(lost), len(acked), r["reason"]), flush=True)
            assert "event" in r["reason"] and any(ch.isdigit() for ch in r["reason"]), r["reason"]
            w.ok("POST", "/v1/admin/recovery/apply", {"reason": "failover"})
            w.ok("POST", "/v1/admin/recovery/finish", {"reason": "failover"})
            w.ok("POST", org + "/apps", {"name": "after"})
            verify(w)
    finally:
        w.close()
        s.stop()


def restart(w):
    """Both servers again, with w.conf as it is now."""
    for c in filter(None, (w.control, w.twin)):
        c.terminate()
        c.wait(25)
    w.twin, w.apis = None, [w.api]
    w.write_config()
    w.start_control()
    w.start_twin()


def through(w, b, org):
    """Load with the pooler killed in it: what was acknowledged is there."""
    load = Load(w, org)
    wait_for("some load", lambda: len(load.acked) > 200, 60)
    b.kill()
    b.start()
    t = time.monotonic()
    wait_for("commands are taken again", lambda: load.since(t) > 50, 60)
    acked = load.end()
    have = in_db(w.pg)
    lost = [n for n, (i, _) in acked.items() if have.get(n) != i]
    assert not lost, "%d of %d acknowledged commands are lost: %s" % (len(lost), len(acked), lost[:3])
    verify(w)


def refused(w, *words):
    """It ends, or goes on waiting for its database, and says each of @words."""
    at = os.path.getsize(w.d + "/control.log")
    w.write_config()
    r = subprocess.Popen([kit.program("moat-control"), "--config", w.d + "/control.toml"], stderr=open(w.d + "/control.log", "ab"))
    try:
        def said():
            with open(w.d + "/control.log") as f:
                f.seek(at)
                return [l for l in f if all(x in l for x in words)]
        print("# " + wait_for("the refusal", said, 30)[0].strip()[:300], flush=True)
        try:
            assert call(w.api, "GET", "/readyz", timeout=5).status != 200
        except OSError:
            pass
    finally:
        r.kill()
        r.wait()


def pooled():
    w = kit.World(quota_tier="unlimited")
    b = stray = None
    try:
        @case("PgBouncer in session mode: two servers, roles, fence between tenants, streams and a killed pooler")
        def _():
            nonlocal b
            b = kit.Bouncer(w.pg, "session", w.d + "/ps", 50)
            w.conf["database_url"] = b.url
            restart(w)
            assert int(w.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'moat_control'")) > 0
            through(w, b, w.open())

        @case("PgBouncer in transaction mode for the workers: sixteen of them share two sessions, nothing stays in one, and a killed pooler takes nothing with it")
        def _():
            nonlocal b
            b.kill()
            b = kit.Bouncer(w.pg, "transaction", w.d + "/pt", 2)
            w.conf.pop("database_url")
            w.conf["database_pool_url"] = b.url
            restart(w)
            names = {}  # two tenants at once, each over all workers
            for n in ("one", "two"):
                o = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": n})["id"]
                names[o] = {w.ok("POST", o + "/apps", {"name": "%s-%d" % (n, i)})["name"] for i in range(3)}

            def look(o):
                for _ in range(40):
                    got = {a["name"] for a in w.ok("GET", o + "/apps?limit=100")["items"]}
                    (ours if got == names[o] else strange).append(o)
            ours, strange = [], []
            threads = [threading.Thread(target=look, args=(o,)) for o in list(names) * 6]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert len(ours) == 480 and not strange, (len(ours), strange[:3])
            clients, sessions = b.pool()
            assert clients >= 8 and 1 <= sessions <= 2, (clients, sessions)
            # As a stranger to its requests finds such a session: nothing named, nothing prepared, no lock, no role.
            for _ in range(4):
                assert b.sql("SELECT COALESCE(current_setting('moat.org_id', true), '') || (SELECT count(*) FROM pg_prepared_statements) || current_setting('role')"
                             " || (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') || (SELECT count(*) FROM moat_views.apps_view)") == "0none00"
            through(w, b, w.org())

        @case("a pooler that leads to another cluster, by the owner's role, or shares sessions statement by statement is refused, and so is one in place of the server")
        def _():
            nonlocal b, stray
            for c in (w.control, w.twin):
                c.terminate()
                c.wait(25)
            w.twin = None
            w.conf["database_pool_url"] = b.url.replace("moat_control", "moat_owner")
            refused(w, "database_pool_url", "row security does not bind")
            stray = kit.World()
            foreign = kit.Bouncer(stray.pg, "transaction", stray.d + "/px")
            w.conf["database_pool_url"] = foreign.url
            refused(w, "database_pool_url leads to the database of cluster")
            foreign.kill()
            w.conf["database_url"] = w.conf.pop("database_pool_url") and b.url
            refused(w, "a pooler shares one session", "database_pool_url")
            w.conf.pop("database_url")
            b.kill()
            b = kit.Bouncer(w.pg, "statement", w.d + "/pe", 2)
            w.conf["database_pool_url"] = b.url
            refused(w, "database_pool_url", "statement")
    finally:
        for x in (b, stray):
            if x:
                x.kill() if x is b else x.close()
        w.close()


try:
    for f in (synchronous, asynchronous, pooled):
        if len(sys.argv) < 2 or f.__name__ in sys.argv[1:]:
            if f is pooled and not shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin"):
                kit.skip("PgBouncer", "pgbouncer is not installed (packaging/deps/test.txt)")
                continue
            f()
finally:
    kit.finish()
