#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an operator does beside a running server: verify, rebuild (also killed at random points), append a corrective event,
migrate a database whose views are of another definition.
COST 11 s, 6 s of processor."""
import os, random, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control offline")
seed = int(os.environ.get("MOAT_SEED") or time.time_ns() % 10**9)
print("# seed %d" % seed)
rnd = random.Random(seed)
w = kit.World()


def control(*args, want=0):
    r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", *args], capture_output=True, text=True, timeout=120)
    assert r.returncode == want, (args, r.returncode, r.stdout, r.stderr[-800:])
    return r.stdout + r.stderr


def schemas():
    return w.pg.sql("SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace WHERE nspname LIKE 'moat%'")


try:
    O = "/v1/orgs/" + w.ok("GET", "/v1/orgs")["items"][0]["id"]
    apps = [w.ok("POST", O + "/apps", {"name": "app%d" % i})["id"] for i in range(30)]
    for a in apps[:10]:
        w.ok("POST", O + "/apps/%s/envs" % a, {"name": "prod"})

    @case("verify-log and verify-views find the log whole and the views equal")
    def _():
        assert "the log is whole" in control("verify-log")
        assert "the views are what the log says" in control("verify-views")
        assert schemas() == "moat moat_views", schemas()

    @case("a forged row is named with its column, and a rebuild mends it")
    def _():
        w.pg.sql("UPDATE moat_views.apps_view SET name = 'forged' WHERE app_id = '%s'" % apps[3])
        out = control("verify-views", want=1)
        assert "apps_view, column name" in out and "forged" in out, out
        assert "rebuilt apps_view" in control("rebuild", "--view", "apps_view")
        control("verify-views")
        assert w.ok("GET", O + "/apps/" + apps[3])["name"] == "app3"

    @case("wrong usage says what is wrong")
    def _():
        assert "did you mean apps_view" in control("rebuild", "--view", "app_view", want=1)
        assert "usage" in control("rebuild", "twice", want=2)
        assert "needs --type" in control("append", "--type", "app.updated", want=2)
        assert "no event type" in control("append", "--type", "app.melted", "--id", "x", "--reason", "test", want=1)
        assert "name" in control("append", "--type", "app.updated", "--id", apps[0], "--payload", '{"name":7}', "--reason", "test", want=1)
        assert "there is no app" in control("append", "--type", "app.updated", "--id", "app_none", "--payload", '{"name":"x"}', "--reason", "test", want=1)
        control("check-config")
        control("migrate")

    @case("a corrective event is checked, appended and kept with its reason")
    def _():
        org = O.split("/")[-1]
        out = control("append", "--type", "app.updated", "--id", apps[5], "--org", org, "--app", apps[5], "--payload", '{"name":"mended"}',
                      "--reason", "name was wrong after the import")
        assert "appended event" in out, out
        assert w.ok("GET", O + "/apps/" + apps[5])["name"] == "mended"
        e = w.ok("GET", O + "/events?order=desc&limit=1")["items"][0]
        assert e["event_type"] == "app.updated" and e["actor"] == {"type": "operator", "id": "root"}, e
        assert w.pg.sql("SELECT reason || ' ' || os_user FROM moat.corrections WHERE event_id = %d" % e["event_id"]) == \
            "name was wrong after the import root"

    @case("rebuilds killed at random points leave the views whole and serving")
    def _():
        stop, bad, made = threading.Event(), [], []
        w.ok("PUT", O + "/quotas/max_apps", {"limit": 10000, "reason": "a fast machine makes more than 200"})

        def traffic():
            while not stop.is_set():
                r = w.q("POST", O + "/apps", {"name": "t%d" % len(made)})
                g = w.q("GET", O + "/apps/" + apps[1])
                if r.status != 201 or g.status != 200:
                    bad.append((r.status, r.text, g.status, g.text))
                made.append(r.status)
                time.sleep(0.02)
        t = threading.Thread(target=traffic)
        t.start()
        took, killed, tries = {"all": 60.0, "apps_view": 60.0}, 0, 0  # the quickest that ended by itself
        for view in took:
            began = time.monotonic()
            control("rebuild", "--view", view)
            took[view] = time.monotonic() - began
        while tries < 12 or (killed < 4 and tries < 60):  # when one is quicker than those before, it may end before its moment comes
            tries += 1
            view, began = rnd.choice(sorted(took)), time.monotonic()
            p = subprocess.Popen([kit.program("moat-control"), "--config", w.d + "/control.toml", "rebuild", "--view", view],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                p.wait(rnd.random() * took[view] * 1.1)
                took[view] = min(took[view], time.monotonic() - began)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                killed += 1
        wait_for("the last killed session to end", lambda: w.pg.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'moat-control rebuild'") == "0", 20)
        control("verify-views")
        control("rebuild")
        stop.set()
        t.join()
        print("# %d killed, %d requests meanwhile" % (killed, len(made)))
        assert killed >= 4 and not bad, (killed, bad[:2])
        control("verify-views")
        assert schemas() == "moat moat_views", schemas()
        assert w.pg.sql("SELECT string_agg(DISTINCT state, ',') FROM moat.projection_checkpoints") == "live"

    @case("a server that finds views of another definition rebuilds them before it serves")
    def _():
        w.kill_control()
        w.pg.sql("ALTER TABLE moat_views.apps_view DROP COLUMN project_id; UPDATE moat.views_state SET fingerprint = 'of an older program'")
        def told(path):
            try:
                r = w.q("GET", path)
            except OSError:
                return None  # it does not listen yet
            return r if r.status == 503 and r.json["code"] == "view_rebuilding" else None
        with kit.HeldLog(w.pg, kit.HeldLog.REBUILD):  # as if another server made them: that may take minutes
            w.spawn_control()
            for path in ("/readyz", "/v1/orgs", O + "/apps/" + apps[5]):
                r = wait_for("view_rebuilding", lambda: told(path), 30)
                assert r.json["retryable"] and r.headers["Retry-After"] == "5" and "from the log" in r.json["detail"], (r.headers, r.text)
            assert w.q("GET", "/livez").status == 200
        wait_for("it serves", w.ready, 60)
        assert w.ok("GET", O + "/apps/" + apps[5])["name"] == "mended"
        control("verify-views")
        log = open(w.d + "/control.log").read()
        assert '"views.changed"' in log and '"rebuild.done"' in log

    @case("an event type of the future stops the rebuild, not the service")
    def _():
        n = w.pg.sql("SELECT max(event_id) FROM moat.events")
        w.pg.sql("ALTER TABLE moat.events DISABLE TRIGGER USER; UPDATE moat.events SET event_type = 'app.dreamt' WHERE event_id = %s" % n)
        assert "does not know" in control("rebuild", want=1)
        assert w.pg.sql("SELECT string_agg(DISTINCT state, ',') FROM moat.projection_checkpoints") == "failed"
        assert w.ok("GET", O + "/apps/" + apps[5])["name"] == "mended"
        assert "damaged at event %s" % n in control("verify-log", want=1)
finally:
    w.close()
kit.finish()
