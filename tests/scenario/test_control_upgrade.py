#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-control of one version and of the next on one database: the next one migrates while the other serves, either may be killed and started again, and a
program that the database's migrations leave behind is told so. COST 7 s, 3 s of processor."""
import os, subprocess, sys, threading
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import call, case, wait_for

kit.need("control upgrade")
NEXT = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(kit.ROOT, "build"), "tests/tools/moat-control-next")
w = kit.World(rate_limit_percent=100000)  # limits are told elsewhere
API = {"this": w.api, "next": w.d + "/api2.sock"}


class Writers:
    """A change after the other on a server; what was acknowledged, and what was refused or broke off."""

    def __init__(self, sock, name):
        self.sock, self.name, self.ending, self.done, self.bad = sock, name, threading.Event(), [], []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        n = 0
        while not self.ending.is_set():
            n += 1
            app = "%s%d" % (self.name, n)
            try:
                r = call(self.sock, "POST", O + "/apps", {"name": app}, {"Authorization": "Bearer " + w.token, "Idempotency-Key": app}, 90)
                (self.done if r.status == 201 else self.bad).append(app if r.status == 201 else (app, r.status, r.text[:200]))
            except OSError as e:
                self.bad.append((app, repr(e)))
            self.ending.wait(0.02)

    def gone_on(self, since=0):
        """Five more than @since; at once an error when one was refused."""
        assert not self.bad, (self.name, len(self.done), self.bad[:3])
        return len(self.done) > since + 5

    def end(self):
        self.ending.set()
        self.thread.join(60)
        assert self.done and not self.bad, (len(self.done), self.bad[:3])
        return self.done


def start_next():
    w.twin = subprocess.Popen([NEXT, "--config", w.d + "/control2.toml"], stderr=open(w.d + "/control2.log", "ab"))

    def up():
        try:
            return call(API["next"], "GET", "/readyz", timeout=30).status == 200
        except OSError:
            return False
    wait_for("the next version ready", lambda: w.twin.poll() is not None or up(), 60)
    assert w.twin.poll() is None, open(w.d + "/control2.log").read()[-1500:]


def end(p):
    p.terminate()
    p.wait(60)


def versions():
    return w.pg.sql("SELECT max(version), max(coalesce(least, version)) FROM moat.schema_migrations").split("|")


def apps(sock):
    got, cursor = set(), ""
    while True:
        r = call(sock, "GET", O + "/apps?limit=200" + cursor, headers={"Authorization": "Bearer " + w.token}).json
        got |= {a["name"] for a in r["items"]}
        if not r["next_cursor"]:
            return got
        cursor = "&cursor=" + r["next_cursor"]


try:
    O = w.open()
    w.ok("PUT", O + "/quotas/max_apps", {"limit": 10000, "reason": "each change here is an app"})
    known, done = int(versions()[0]), []

    @case("the next version migrates while this one takes changes: none is refused, and then both take them")
    def _():
        mine = Writers(API["this"], "this")
        wait_for("changes", mine.gone_on, 30)
        start_next()
        assert versions() == [str(known + 1), str(known)], versions()
        assert w.pg.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'one_more'") == "1"
        other, before = Writers(API["next"], "next"), len(mine.done)
        wait_for("changes on both", lambda: other.gone_on() and mine.gone_on(before), 60)
        done.extend(mine.end() + other.end())
        assert set(done) <= apps(API["this"]) and apps(API["this"]) == apps(API["next"])

    @case("this one ends, the next one goes on and takes over what one server does alone")
    def _():
        other = Writers(API["next"], "alone")
        end(w.control)
        wait_for("the roles", lambda: w.pg.sql("SELECT count(*) FROM moat.leases WHERE holder LIKE '%%pid %d'" % w.twin.pid) == "5", 60)
        before = len(other.done)
        wait_for("changes", lambda: other.gone_on(before), 30)
        done.extend(other.end())

    @case("and back: this version starts on the newer schema, says so, and goes on alone")
    def _():
        other = Writers(API["next"], "still")
        w.start_control()
        mine = Writers(API["this"], "back")
        wait_for("changes on both", lambda: mine.gone_on() and other.gone_on(), 30)
        done.extend(other.end())
        end(w.twin)
        before = len(mine.done)
        wait_for("changes alone", lambda: mine.gone_on(before), 30)
        done.extend(mine.end())
        log = open(w.d + "/control.log").read()
        assert '"msg":"schema.newer"' in log and '"version":%d,"known":%d' % (known + 1, known) in log, log[-800:]
        assert versions()[0] == str(known + 1)
        d = {k["check"]: k for k in w.ok("GET", "/v1/admin/upgrade")["checks"]}
        assert d["upgrade.schema"]["severity"] == "warn", d["upgrade.schema"]

    @case("all that either acknowledged is there; log and views are whole to this version and to the next")
    def _():
        assert set(done) <= apps(API["this"]), set(done) - apps(API["this"])
        for program in (kit.program("moat-control"), NEXT):
            for verb in ("verify-log", "verify-views"):
                r = subprocess.run([program, "--config", w.d + "/control.toml", verb], capture_output=True, text=True, timeout=120)
                assert r.returncode == 0, (program, verb, r.stdout[-300:], r.stderr[-300:])
        print("# %d changes, none refused" % len(done))

    @case("a backup that this version makes of the newer schema is one that this version takes, and no other that is left behind")
    def _():
        env = {"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token}
        moat = lambda *a: subprocess.run([kit.program("moat"), "admin", "backup", *a, "--config", w.d + "/control.toml", "--json"], capture_output=True, text=True, timeout=120, env=env)
        r = moat(w.d + "/one.backup")
        assert r.returncode == 0 and '"schema_least":%d' % known in r.stdout and '"schema":%d' % (known + 1) in r.stdout, (r.stdout, r.stderr)
        assert moat("check", w.d + "/one.backup").returncode == 0
        w.pg.sql("INSERT INTO moat.schema_migrations (version, name) VALUES (99, 'takes away')")
        try:
            assert moat(w.d + "/two.backup").returncode == 0
            r = moat("check", w.d + "/two.backup")
            assert r.returncode != 0 and "install the version that made it" in r.stdout + r.stderr, (r.stdout, r.stderr)
        finally:
            w.pg.sql("DELETE FROM moat.schema_migrations WHERE version = 99")

    @case("a program that the migrations leave behind does not start, and says what to do")
    def _():
        end(w.control)
        w.pg.sql("UPDATE moat.schema_migrations SET least = NULL WHERE version = %d" % (known + 1))
        r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "migrate"], capture_output=True, text=True, timeout=60)
        assert r.returncode != 0 and "use a newer program" in r.stderr and "schema %d" % (known + 1) in r.stderr, (r.returncode, r.stderr)
        w.pg.sql("UPDATE moat.schema_migrations SET least = %d WHERE version = %d" % (known, known + 1))
        w.start_control()
finally:
    w.close()
kit.finish()
