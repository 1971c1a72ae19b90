#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The control plane's own backup: made while it works, looked through, damaged in every way, restored to a database and a data folder that are empty,
killed in the middle of both; what comes up is in recovery mode, has every row of the moment of the backup, opens its secrets and goes on.
COST 46 s, 21 s of processor."""
import base64, hashlib, json, os, random, shutil, signal, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import backupkit
import cli_schema
import control_kit as kit
from control_kit import case, wait_for

kit.need("control backup")
seed = int(os.environ.get("MOAT_SEED") or time.time_ns() % 10**9)
print("# seed %d" % seed)
rnd = random.Random(seed)
w = kit.World()
MOAT, B = kit.program("moat"), w.d + "/backup"
KEYS = w.d + "/master-keys"


def moat(*args, want=0, **kw):
    r = subprocess.run([MOAT, *args], capture_output=True, text=True, timeout=300, **kw)
    assert want is None or r.returncode == want, (args, r.returncode, r.stdout[-500:], r.stderr[-800:])
    return r


def backup(file=B):
    return json.loads(moat("admin", "backup", file, "--config", w.d + "/control.toml", "--json").stdout)["data"]


def restore(file=B, want=0):
    return moat("admin", "restore", file, "--config", w.d + "/control.toml", "--json", want=want)


def offline(*args, want=0):
    r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", *args], capture_output=True, text=True, timeout=300)
    assert r.returncode == want, (args, r.returncode, r.stdout, r.stderr[-800:])
    return r.stdout + r.stderr


def rows():
    """A digest of each table but the locks and what a server writes of itself while it only stands there."""
    out = {}
    for t in w.pg.sql("SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
                      " AND n.nspname IN ('moat', 'moat_views') ORDER BY 1").split():
        out[t] = w.pg.sql("SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM %s t" % t)
    return out


def lost():
    """The machine is gone: an empty database with the roles, an empty data folder."""
    if w.control.poll() is None:
        w.control.kill()
        w.control.wait()
    w.pg.sql("DROP DATABASE IF EXISTS moat WITH (FORCE)", db="postgres")
    w.pg.sql("CREATE DATABASE moat OWNER moat_owner", db="postgres")
    shutil.rmtree(w.d + "/control", ignore_errors=True)


def command(pid):
    try:
        with open("/proc/%s/cmdline" % pid) as f:
            return f.read().replace("\0", " ")
    except OSError:
        return ""


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return f.read().split()


def store_conf(port, secret=backupkit.SECRET):
    path = w.d + "/store.toml"
    with open(path, "w") as f:
        f.write('endpoint = "http://127.0.0.1:%d"\nbucket = "%s"\nprefix = "here"\naccess_key = "%s"\nsecret_key = "%s"\ntries = 2\n' % (port, backupkit.BUCKET, backupkit.ACCESS, secret))
    os.chmod(path, 0o600)
    return path


def tables():
    return int(w.pg.sql("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname LIKE 'moat%' AND c.relkind = 'r'"))


try:
    O = w.open()
    apps = [w.ok("POST", O + "/apps", {"name": "app%d" % i})["id"] for i in range(20)]
    app, env = w.make_app("kept")
    w.ok("PATCH", env + "/secrets", {"set": {"PASSWORD": "canary-of-the-backup"}})
    state = {}

    @case("a backup is made while the server is written to, and is of one moment")
    def _():
        stop, made = threading.Event(), []

        def write():
            while not stop.is_set():
                made.append(w.ok("POST", O + "/apps", {"name": "busy%d" % len(made)})["id"])
        t = threading.Thread(target=write)
        t.start()
        try:
            wait_for("writing", lambda: len(made) > 3)
            got = backup()
            there = len(made)
            wait_for("writing goes on", lambda: len(made) > there + 1)  # one that began and ended after the backup
        finally:
            stop.set()
            t.join()
        state["busy"] = got
        assert got["bytes"] == os.path.getsize(B) and os.stat(B).st_mode & 0o777 == 0o600, got
        assert "mac.key" in got["files"] and "high-water" not in got["files"], got
        head = int(w.pg.sql("SELECT last_event_id FROM moat.event_counter"))
        assert 0 < got["last_event_id"] < head, (got["last_event_id"], head)
        assert got["cluster_id"] == w.pg.sql("SELECT value #>> '{}' FROM moat_views.cluster_view WHERE key = 'cluster_id'"), got
        with open(KEYS) as f:
            assert got["master_keys"] == [f.read().split()[0]], got
        checked = json.loads(moat("admin", "backup", "check", B, "--config", w.d + "/control.toml", "--json").stdout)["data"]
        assert checked == got, (checked, got)
        if cli_schema.jsonschema:
            assert not cli_schema.one("object", {"api": "v1", "kind": "ControlBackup", "data": got})

    @case("nothing in it can be read without the master key")
    def _():
        data = open(B, "rb").read()
        for word in (b"kept", b"busy", b"PGDMP", b"mac.key", b"cluster_id", b"last_event_id", open(w.d + "/control/mac.key", "rb").read(), w.token.encode()):
            assert word not in data, word
        with open(KEYS) as f:
            right = f.read()
        try:
            key = os.urandom(32)
            with open(KEYS, "w") as f:
                f.write("%s active %s\n" % (hashlib.sha256(b"moat-master-key-v1\0" + key).hexdigest()[:16], base64.b64encode(key).decode()))
            os.chmod(KEYS, 0o400)
            said = moat("admin", "backup", "check", B, "--config", w.d + "/control.toml", want=1).stderr
            assert right.split()[0] in said, said  # which key is wanted
        finally:
            with open(KEYS, "w") as f:
                f.write(right)
            os.chmod(KEYS, 0o400)

    @case("a database that has tables is not touched")
    def _():
        before = rows()["moat.events"]
        said = restore(want=1).stdout
        assert "has tables already" in said and "setup-database" in said, said
        assert w.ok("GET", O + "/apps/" + apps[0])["name"] == "app0" and rows()["moat.events"] == before

    @case("damage of any byte, a cut, a frame of another backup, bytes behind it: refused before anything is changed")
    def _():
        state["whole"] = backup()
        w.control.terminate()
        w.control.wait()
        state["rows"] = rows()
        state["whole"] = backup()  # nothing is written any more: what comes back has to equal it
        other = w.d + "/other"
        backup(other)
        data, foreign = open(B, "rb").read(), open(other, "rb").read()
        lost()
        head = 22 + 144 + 1
        bad = [data[:n] for n in sorted(rnd.sample(range(len(data)), 6))] + [data[:head], b"", data[:-1], data + b"x", data + data]
        for at in [0, 30, head, head + 3, head + 4, len(data) - 1] + rnd.sample(range(len(data)), 8):
            bad.append(data[:at] + bytes([data[at] ^ 1 << rnd.randrange(8)]) + data[at + 1:])
        bad.append(data[:head] + foreign[head:])
        frame = 4 + 65536 + 16
        bad.append(data[:head] + data[head + frame:head + 2 * frame] + data[head:head + frame] + data[head + 2 * frame:])
        bad.append(data[:head] + bytes([data[head] | 0x80]) + data[head + 1:head + frame])  # the first frame says that it is the last
        for i, text in enumerate(bad):
            with open(w.d + "/bad", "wb") as f:
                f.write(text)
            said = restore(w.d + "/bad", want=1).stdout
            assert "backup" in said, (i, said)
            assert tables() == 0 and not os.path.exists(w.d + "/control"), (i, said)
        print("# %d damaged files" % len(bad))

    @case("killed at any moment, a restore has filled the database or not begun, and the next one does it")
    def _():
        whole = nothing = middle = 0
        began = time.monotonic()
        restore()
        longest = took = time.monotonic() - began
        while nothing < 8 or middle < 4:
            assert whole + nothing < 60, (whole, nothing, middle)
            lost()
            p = subprocess.Popen([kit.program("moat-control"), "--config", w.d + "/control.toml", "restore"], stdin=open(B), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
            if (whole + nothing) % 2:  # while the database is being filled, else at any moment
                while p.poll() is None and not children(p.pid):
                    time.sleep(0.002)
                time.sleep(rnd.uniform(0, longest / 3))
            else:
                time.sleep(rnd.uniform(0, longest))
            filling = p.poll() is None and bool(children(p.pid))
            p.kill()
            p.wait()
            # pg_restore goes with it; PostgreSQL notices when it next writes to it
            wait_for("its sessions are gone", lambda: w.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'moat'", db="postgres") == "0", 30)
            if tables():
                whole += 1
                longest = max(0.05, longest * 0.8)  # the first one was slower than they are
                assert rows() == state["rows"], (whole, nothing)
                offline("verify-log")
            else:
                nothing += 1
                middle += filling
        print("# restore took %.1f s; killed %d times: %d whole, %d nothing, %d of these while the database was filled" % (took, whole + nothing, whole, nothing, middle))
        lost()
        got = json.loads(restore().stdout)["data"]
        assert got == state["whole"], got

    @case("every row is there, log and views verify")
    def _():
        now = rows()
        assert now == state["rows"], [t for t in now if now[t] != state["rows"].get(t)]
        assert "the log is whole" in offline("verify-log") and "the views are what the log says" in offline("verify-views")

    @case("the server begins in recovery mode although nobody knows more than it, and goes on after finish")
    def _():
        w.start_control()  # its token comes out of the backup's database and the file beside it
        plan = w.ok("GET", "/v1/admin/recovery")
        assert plan["state"] == "frozen", plan
        r = w.q("POST", O + "/apps", {"name": "early"})
        assert r.status == 503 and r.json["code"] == "recovery", r.text
        assert w.ok("GET", O + "/apps/" + apps[7])["name"] == "app7"
        epoch = w.ok("GET", "/v1/admin/recovery")["epoch"]
        assert epoch == state["whole"]["epoch"] + 1, (epoch, state["whole"])
        for step in ("apply", "finish"):
            w.ok("POST", "/v1/admin/recovery/" + step, {"reason": "test"})
        assert w.ok("POST", O + "/apps", {"name": "later"})["name"] == "later"
        keys = w.ok("POST", "/v1/admin/keys/verify", {})
        assert 0 < keys["wrapped_keys"] == keys["opened"] and 0 < keys["envelopes"] == keys["envelopes_opened"], keys

    @case("killed at any moment, a backup's file is the one before or a new one that is whole")
    def _():
        began = time.monotonic()
        backup()
        took = time.monotonic() - began
        old, same, tries = open(B, "rb").read(), 0, 0
        while tries < 10 or same == 0:  # the first one may have been slower than all that follow
            assert tries < 60, (tries, took)
            tries += 1
            p = subprocess.Popen([MOAT, "admin", "backup", B, "--config", w.d + "/control.toml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 start_new_session=True)
            time.sleep(rnd.uniform(0, took * 1.2))
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            now = open(B, "rb").read()
            same += now == old
            took = took if now == old else max(0.02, took * 0.8)
            old = now
            moat("admin", "backup", "check", B, "--config", w.d + "/control.toml")
        print("# killed %d times: %d times the file of before" % (tries, same))
        backup()
        assert not os.path.exists(B + ".part")

    @case("the disaster drill is one command: a second control plane comes up from the backup, everything holds, nothing is left; the running one is not asked")
    def _():
        backup()
        before = set(os.listdir(w.d))
        env = dict(os.environ, MOAT_LIB=os.path.dirname(MOAT), DRILL_DIR=w.d)
        drill = [os.path.join(kit.ROOT, "packaging/deb/restore-drill"), B, w.d + "/control.toml"]
        w.control.kill()
        w.control.wait()
        r = subprocess.run(drill, capture_output=True, text=True, timeout=400, env=env)
        assert r.returncode == 0 and "drill passed" in r.stdout, r.stdout + r.stderr[-1500:]
        print("# " + r.stdout.strip().replace("\n", "\n# "))
        assert "in recovery mode" in r.stdout and '"opened":3' in r.stdout and "the views are what the log says" in r.stdout, r.stdout
        with open(w.d + "/bad", "wb") as f:
            f.write(open(B, "rb").read()[:-1])
        r = subprocess.run(drill[:1] + [w.d + "/bad"] + drill[2:], capture_output=True, text=True, timeout=400, env=env)
        assert r.returncode == 1 and "FAILED" in r.stderr and "cut off" in r.stderr, r.stdout + r.stderr
        # a row that is not what the log says: the drill is there to find it
        w.pg.sql("UPDATE moat_views.apps_view SET name = 'forged' WHERE app_id = '%s'" % apps[3])
        backup(w.d + "/forged")
        r = subprocess.run(drill[:1] + [w.d + "/forged"] + drill[2:], capture_output=True, text=True, timeout=400, env=env)
        assert r.returncode == 1 and "views" in r.stderr and "forged" in r.stderr, r.stdout + r.stderr
        assert set(os.listdir(w.d)) - before <= {"bad", "forged"}, os.listdir(w.d)
        left = [c for c in map(command, filter(str.isdigit, os.listdir("/proc"))) if w.d + "/moat-drill" in c]
        assert not left, left

    @case("the object store: sent and read back, listed, fetched the same; never overwritten; a store that lies, is away or refuses is told, and leaves no file")
    def _():
        store = backupkit.Store("versitygw", w.d)
        if store.why:
            return kit.skip("object store", store.why)
        try:
            conf = store_conf(store.port)
            to = ["--store", conf]
            assert json.loads(moat("admin", "backup", "stored", "--json", *to).stdout)["items"] == []
            whole = open(B, "rb").read()
            sent = json.loads(moat("admin", "backup", "send", B, "--json", *to).stdout)["data"]
            assert sent["sha256"] == hashlib.sha256(whole).hexdigest() and sent["bytes"] == len(whole) and not sent["already_done"], sent
            assert open(store.path("here/control/v1/backup"), "rb").read() == whole  # any S3 client gets it
            again = json.loads(moat("admin", "backup", "send", B, "--json", *to).stdout)["data"]
            assert again["already_done"] and again["sha256"] == sent["sha256"], again
            said = moat("admin", "backup", "stored", "--json", *to).stdout
            items = json.loads(said)["items"]
            assert [(i["name"], i["bytes"]) for i in items] == [("backup", len(whole))], items
            got = json.loads(moat("admin", "backup", "fetch", "backup", w.d + "/fetched", "--json", *to).stdout)["data"]
            assert open(w.d + "/fetched", "rb").read() == whole and got["sha256"] == sent["sha256"] and os.stat(w.d + "/fetched").st_mode & 0o777 == 0o600, got
            if cli_schema.jsonschema:
                assert not cli_schema.one("object", {"api": "v1", "kind": "StoredBackup", "data": sent}), sent
            moat("admin", "backup", "check", w.d + "/fetched", "--config", w.d + "/control.toml")
            # another backup by this name, of another and of the same length: refused, the store's stays
            os.mkdir(w.d + "/others")
            for other in (whole + b"x", whole[:-1] + bytes([whole[-1] ^ 1])):
                with open(w.d + "/others/backup", "wb") as f:
                    f.write(other)
                said = moat("admin", "backup", "send", w.d + "/others/backup", want=None, *to)
                assert said.returncode != 0 and "never overwritten" in said.stderr, said
            assert open(store.path("here/control/v1/backup"), "rb").read() == whole
            # damaged in the store: what is fetched is not taken for a backup
            with open(store.path("here/control/v1/backup"), "r+b") as f:
                f.seek(len(whole) // 2)
                f.write(bytes([whole[len(whole) // 2] ^ 1]))
            moat("admin", "backup", "fetch", "backup", w.d + "/fetched", *to)
            moat("admin", "backup", "check", w.d + "/fetched", "--config", w.d + "/control.toml", want=1)
            os.unlink(w.d + "/fetched")
            r = moat("admin", "backup", "fetch", "none", w.d + "/fetched", want=4, *to)
            assert "has no file 'none'" in r.stderr, r
            r = moat("admin", "backup", "send", B, "--store", store_conf(store.port, secret="wrong"), want=None)
            assert r.returncode != 0 and "credentials" in r.stderr and "wrong" not in r.stderr, r
            os.chmod(conf, 0o640)
            r = moat("admin", "backup", "send", B, want=None, *to)
            assert r.returncode != 0 and "0600" in r.stderr, r
            os.chmod(conf, 0o600)
        finally:
            store.close()
        conf = store_conf(store.port)
        r = moat("admin", "backup", "fetch", "backup", w.d + "/fetched", "--store", conf, want=None)
        assert r.returncode != 0 and "unreachable" in r.stderr and not [x for x in os.listdir(w.d) if x.startswith("fetched")], r

    @case("what the timers run: a backup here and in the store, the newest stay, the drill takes the store's; a failure is a failed unit and leaves the backup")
    def _():
        store = backupkit.Store("versitygw", w.d + "/second")
        if store.why:
            return kit.skip("timers", store.why)
        kept = w.d + "/backups"
        env = dict(os.environ, MOAT_LIB=w.d + "/lib", DRILL_DIR=w.d, DIR=kept, KEEP="2", CONFIG=w.d + "/control.toml", CONF_STORE=w.d + "/none.toml", AUDIT_KEY=w.d + "/none.pem")
        os.mkdir(w.d + "/lib")
        for n in os.listdir(os.path.dirname(MOAT)):
            os.symlink(os.path.join(os.path.dirname(MOAT), n), w.d + "/lib/" + n)
        os.symlink(os.path.join(kit.ROOT, "packaging/deb/restore-drill"), w.d + "/lib/restore-drill")

        def timed(what, **more):
            return subprocess.run([os.path.join(kit.ROOT, "packaging/deb/control-backup"), what], capture_output=True, text=True, timeout=400, env=dict(env, **more))
        w.pg.sql("UPDATE moat_views.apps_view SET name = 'app3' WHERE app_id = '%s'" % apps[3])  # as it was before the case of the drill
        try:
            r = timed("drill")
            assert r.returncode == 1 and "no backup in" in r.stderr, r
            names = []
            for i in range(3):
                with_store = {"CONF_STORE": store_conf(store.port)} if i else {}
                r = timed("make", **with_store)
                assert r.returncode == 0, r
                new = [x for x in sorted(os.listdir(kept)) if x not in names]
                assert len(new) == 1, (names, new)
                names += new
                time.sleep(1.1)  # its name is the second
                with open(kept + "/moat-killed.backup.part", "w") as f:
                    f.write("a run that was killed")
            assert sorted(os.listdir(kept)) == names[1:] + ["moat-killed.backup.part"], (os.listdir(kept), names)
            assert sorted(store.objects("here")) == ["here/control/v1/" + n for n in names[1:]], store.objects()
            # with a key there, the audit log's heads are signed into the store, and come back out of it
            subprocess.run("openssl genpkey -algorithm ed25519 -out %s/audit.pem && openssl pkey -in %s/audit.pem -pubout -out %s/audit.pub" % (w.d, w.d, w.d), shell=True, check=True)
            r = timed("make", CONF_STORE=store_conf(store.port), AUDIT_KEY=w.d + "/audit.pem")
            names.append(next(x for x in sorted(os.listdir(kept)) if x.endswith(".backup") and x not in names))
            heads = names[-1].replace(".backup", ".audit")
            assert r.returncode == 0 and heads in os.listdir(kept) and "here/control/v1/" + heads in store.objects("here"), (r, store.objects("here"))
            for words in (("backup", "fetch", heads, w.d + "/heads", "--store", store_conf(store.port)), ("audit", "check", w.d + "/heads", "--key", w.d + "/audit.pub", "--config", w.d + "/control.toml")):
                r = subprocess.run([MOAT, "admin", *words], capture_output=True, text=True, timeout=60)
                assert r.returncode == 0, r
            assert "the log has all of it" in r.stderr, r
            r = timed("drill", CONF_STORE=store_conf(store.port))
            assert r.returncode == 0 and "drill of %s, out of the store" % names[-1] in r.stdout and "drill passed" in r.stdout, r
            # what only the store has lost its bytes is found by the drill
            with open(store.path("here/control/v1/" + names[-1]), "r+b") as f:
                f.truncate(os.path.getsize(kept + "/" + names[-1]) - 1)
            r = timed("drill", CONF_STORE=store_conf(store.port))
            assert r.returncode == 1 and "cut off" in r.stderr, r
        finally:
            store.close()
        r = timed("make", CONF_STORE=store_conf(store.port))
        assert r.returncode != 0 and "unreachable" in r.stderr, r
        left = [x for x in sorted(os.listdir(kept)) if x.endswith(".backup")]
        assert len(left) == 2 and left[0] == names[-1], (left, names)  # the new one is there all the same
        assert not [x for x in os.listdir(w.d) if x.startswith("moat-drill")], os.listdir(w.d)

    @case("a failure says why and leaves no file: no key file, a database that is away, a folder that is not there")
    def _():
        said = moat("admin", "backup", "/nowhere/x", "--config", w.d + "/control.toml", want=1).stderr
        assert "/nowhere/x.part" in said, said
        with open(w.d + "/control.toml") as f:
            text = f.read()
        for wrong, word in ((text.replace(KEYS, "/nowhere/keys"), "/nowhere/keys"), (text.replace("host=" + w.pg.sock, "host=/nowhere"), "/nowhere")):
            with open(w.d + "/wrong.toml", "w") as f:
                f.write(wrong)
            said = moat("admin", "backup", w.d + "/none", "--config", w.d + "/wrong.toml", want=1).stderr
            assert word in said, said
            assert not os.path.exists(w.d + "/none") and not os.path.exists(w.d + "/none.part")
finally:
    w.close()
kit.finish()
