#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Continuous archiving as docs/recovery.md says it, word for word: pgbackrest of Debian takes base backups and the write-ahead log of moat's PostgreSQL into an
S3 store, sealed; the server's disk is lost, the database comes back at a moment between, and at the last one.
COST 24 s, 16 s of processor."""
import os, re, shutil, signal, subprocess, sys, time
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import backupkit
import control_kit as kit
from control_kit import case, wait_for

kit.need("write-ahead log")
if not shutil.which("pgbackrest"):
    kit.skip("continuous archiving", "pgbackrest is not installed (packaging/deps/test.txt)")
    sys.exit(0)


def recipe():
    """The blocks of the page's section: the configuration, settings of PostgreSQL, commands of the first day, commands of a restore."""
    text = open(os.path.join(kit.ROOT, "docs/recovery.md")).read()
    section = text[text.index("### Continuous archiving"):]
    section = section[:section.index("\n## ")]
    blocks = re.findall(r"```\n(.*?)```", section, re.S)
    assert len(blocks) == 4, len(blocks)
    return blocks


def commands(block):
    """Its lines without comments."""
    return [c for c in (l.split("   #")[0].strip() for l in block.splitlines()) if c and not c.startswith("#")]


w = kit.World(quota_tier="unlimited")
store = None
try:
    conf, settings, first, restore = recipe()
    tls = w.d + "/tls"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost", "-keyout", tls + ".key", "-out", tls + ".pem"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = backupkit.Store("versitygw", w.d, "--cert", tls + ".pem", "--key", tls + ".key")
    if store.why:
        kit.skip("continuous archiving", store.why)
        kit.finish()

    def pg_user(command, **env):
        r = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=w.pg.as_user, cwd="/", env=dict(os.environ, **env))
        assert r.returncode == 0, command + ": " + r.stdout[-1500:]
        return r.stdout

    def owned():
        """The data folder is a link here (in_memory), and pgbackrest takes the link's owner for the folder's."""
        for follow in (True, False):
            os.chown(w.pg.data, w.pg.pw.pw_uid, w.pg.pw.pw_gid, follow_symlinks=follow)

    def lose_and_restore(*instead):
        """The server dies and its disk with it; then as the page says."""
        w.pg.stop(signal.SIGQUIT)
        w.control.send_signal(signal.SIGCONT)
        kit.remove(w.pg.data)
        kit.in_memory(w.pg.data)
        owned()
        ours = [c for c in commands(restore) if c.startswith("pgbackrest")]
        assert len(ours) == 1 and [c.split()[0] for c in commands(restore)] == ["systemctl", "pgbackrest", "systemctl", "systemctl", "moat"], restore
        pg_user(re.sub(*instead, ours[0]))
        w.pg.start("fsync=off")
        wait_for("the end of the restore", lambda: w.pg.sql("SELECT pg_is_in_recovery()", db="postgres") == "f", 60)

    def archived():
        at = w.pg.sql("SELECT pg_walfile_name(pg_switch_wal())")
        wait_for("the log in the store", lambda: w.pg.sql("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver" % at) == "t", 40)

    def names():
        return {a["name"] for a in w.ok("GET", w.org() + "/apps?limit=100")["items"]}

    @case("as the page says: PostgreSQL's log and a base backup are in the store, sealed, and the upgrade's check knows of the archive")
    def _():
        for was, now in (("s3.example.net", "localhost:%d" % store.port), ("moat-control", backupkit.BUCKET), ("/var/lib/postgresql/15/main", w.pg.data)):
            global conf
            assert conf.count(was) == 1, was
            conf = conf.replace(was, now)
        for key, value in (("repo1-s3-key", backupkit.ACCESS), ("repo1-s3-key-secret", backupkit.SECRET), ("repo1-cipher-pass", "a long one of a test")):
            conf, n = re.subn(r"(?m)^%s = …" % key, "%s = %s" % (key, value), conf)
            assert n == 1, key
        at = w.d + "/pgbackrest"
        os.makedirs(at)
        os.chown(at, w.pg.pw.pw_uid, w.pg.pw.pw_gid)
        conf = re.sub(r" +#.*", "", conf).replace("[global]", "[global]\nrepo1-storage-ca-file = %s.pem\nlog-path = %s\nlock-path = %s\nspool-path = %s" % (tls, at, at, at))
        with open(at + "/conf", "w") as f:
            f.write(conf + "pg1-socket-path = %s\n" % w.pg.sock)
        os.environ["PGBACKREST_CONFIG"] = at + "/conf"  # /etc/pgbackrest.conf where there is no test
        owned()
        for s in commands(settings):
            w.pg.sql(s, db="postgres")
        w.pg.stop()
        w.pg.start()
        for c in commands(first):
            pg_user(c)
        global ended
        ended = int(time.time())
        kept = store.objects("pg")
        assert any("/archive/" in k for k in kept) and any("/backup/" in k for k in kept), sorted(kept)[:5]
        for k in kept:
            with open(store.path(k), "rb") as f:
                assert f.read(8) == b"Salted__", k
        org = w.open()
        w.ok("POST", org + "/apps", {"name": "before"})
        archived()
        check = {c["check"]: c for c in w.ok("GET", "/v1/admin/upgrade")["checks"]}
        assert check["upgrade.backup"]["severity"] == "ok", check["upgrade.backup"]

    if not kit.results[-1]:
        kit.finish()

    @case("the disk is lost and a moment between is restored: what was before is there, what was after is not, and that is found and waits for an operator")
    def _():
        org = w.org()
        wait_for("the backup's last second is over: to pgbackrest they are whole ones", lambda: time.time() > ended + 2)
        target = w.pg.sql("SELECT clock_timestamp()")
        w.ok("POST", org + "/apps", {"name": "after"})
        archived()
        epoch = w.ok("GET", "/v1/admin/recovery")["epoch"]
        lose_and_restore(r'--target="[^"]*"', '--target="%s"' % target)
        r = wait_for("recovery", lambda: (lambda x: x.json if x.status == 200 and x.json["state"] == "frozen" else None)(w.q("GET", "/v1/admin/recovery")), 60)
        assert r["epoch"] > epoch, r
        assert {"before"} <= names() and "after" not in names()
        w.ok("POST", "/v1/admin/recovery/apply", {"reason": "disk lost"})
        w.ok("POST", "/v1/admin/recovery/finish", {"reason": "disk lost"})
        w.ok("POST", org + "/apps", {"name": "again"})

    if not kit.results[-1]:
        kit.finish()

    @case("the last moment of the archive is restored: nothing that was acknowledged and archived is missing, and no recovery begins")
    def _():
        held = w.ok("GET", "/v1/admin/recovery")
        w.control.send_signal(signal.SIGSTOP)  # what it does by itself is either archived or not begun
        try:
            archived()
        except AssertionError:
            w.control.send_signal(signal.SIGCONT)
            raise
        lose_and_restore(r'--type=time --target="[^"]*" --target-action=promote', "--type=default")
        wait_for("it serves", lambda: w.q("GET", "/readyz").status == 200, 60)
        assert {"before", "again"} <= names()
        now = w.ok("GET", "/v1/admin/recovery")
        assert (now["state"], now["epoch"]) == ("none", held["epoch"]), now
        w.ok("POST", w.org() + "/apps", {"name": "later"})
        for verb in ("verify-log", "verify-views"):
            r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", verb], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert r.returncode == 0, r.stdout[-600:]
finally:
    if store:
        store.close()
    w.close()
kit.finish()
