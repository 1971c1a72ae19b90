#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Tenant resources over HTTP: change, remove, versions, keys, lists, dry runs (control-plane.md 3, 7, 9). Needs root.
COST 63 s, 17 s of processor."""
import base64, concurrent.futures, json, os, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
import dnskit
import fair
from control_kit import case, wait_for, call

kit.need("control resources")

BASE = "apps.moat.test"
w = kit.World(**{"dns.base_domain": BASE})
D1, D2 = ("sha256:" + c * 64 for c in "12")


def manifest(memory="128Mi", extra="", name="web"):
    return """schema_version = "v1"
[image]
ref = "registry.test:5000/hello:latest"
[processes.%s]
command = ["/hello"]
[processes.%s.resources]
memory = "%s"
cpu = 0.1
[[processes.%s.ports]]
name = "tls"
internal = 8443
%s""" % (name, name, memory, name, extra)


def refused(r, status, code):
    assert r.status == status and r.json["code"] == code, (r.status, r.text)
    assert r.headers["Content-Type"] == "application/problem+json" and r.json["status"] == status, r.text
    return r.json


def head():
    return w.ok("GET", O + "/events?limit=1")["head_event_id"]


def events_after(n, *types):
    return [e for e in w.ok("GET", O + "/events?after_event_id=%d&limit=500" % n)["items"] if not types or e["event_type"] in types]


def release(A, text=None, digest=D1):
    return w.ok("POST", A + "/releases", {"manifest": text or manifest(), "image_digest": digest, "verify_image": False})


def make(name):
    """An app with environment prod: its two paths."""
    a = w.ok("POST", O + "/apps", {"name": name})
    e = w.ok("POST", O + "/apps/%s/envs" % a["id"], {"name": "prod"})
    return O + "/apps/" + a["id"], O + "/apps/%s/envs/%s" % (a["id"], e["id"])


try:
    O = "/v1/orgs/" + w.ok("GET", "/v1/orgs")["items"][0]["id"]
    w.agent.start()
    w.start_edge()

    # ---------------------------------------------------------------- change

    @case("each named resource: a change needs the version it is based on, and tells the new one")
    def _():
        org = w.ok("POST", "/v1/orgs", {"name": "first", "billing_email": "a@b.example"})
        project = w.ok("POST", O + "/projects", {"name": "p-one"})
        A, E = make("changed")
        for path, field, value in (("/v1/orgs/" + org["id"], "name", "second"), (O + "/projects/" + project["id"], "name", "p-two"),
                                   (A, "description", "words"), (E, "protected", True)):
            old = w.q("GET", path)
            v = old.json["resource_version"]
            assert old.headers["ETag"] == '"%d"' % v, old.headers
            refused(w.q("PATCH", path, {field: value}), 400, "expected_version_required")
            p = refused(w.q("PATCH", path, {field: value, "expected_version": v + 1}), 409, "version_conflict")
            assert p["details"] == {"current_version": v}, p
            p = refused(w.q("PATCH", path, {field: value}, If_Match='"%d"' % (v + 1)), 412, "precondition_failed")
            assert p["details"] == {"current_version": v}, p
            refused(w.q("PATCH", path, {field: value, "expected_version": v}, If_Match='"%d"' % (v + 1)), 400, "invalid_argument")
            refused(w.q("PATCH", path, {field: value}, If_Match="%d" % v), 400, "invalid_argument")
            refused(w.q("PATCH", path, {"expected_version": v}), 400, "no_changes")
            refused(w.q("PATCH", path, {field: old.json.get(field), "expected_version": v}), 400, "no_changes")
            n = head()
            r = w.q("PATCH", path, {field: value}, If_Match='"%d"' % v)
            assert r.status == 200 and r.json[field] == value and r.json["resource_version"] == v + 1, r.text
            assert r.headers["ETag"] == '"%d"' % (v + 1) and int(r.headers["X-Event-Id"]) > n, r.headers
            assert w.ok("GET", path) == r.json, (w.ok("GET", path), r.json)

    @case("null clears what may be cleared, and only that")
    def _():
        project = w.ok("POST", O + "/projects", {"name": "holder"})
        a = w.ok("POST", O + "/apps", {"name": "cleared", "description": "d", "project_id": project["id"]})
        path = O + "/apps/" + a["id"]
        refused(w.q("PATCH", path, {"name": None, "expected_version": 1}), 400, "invalid_argument")
        b = w.ok("PATCH", path, {"description": None, "project_id": None, "expected_version": 1})
        assert "description" not in b and "project_id" not in b and w.ok("GET", path) == b, b
        refused(w.q("PATCH", path, {"project_id": "prj_nothing", "expected_version": 2}), 404, "not_found")
        org = w.ok("POST", "/v1/orgs", {"name": "mail", "billing_email": "a@b.example"})
        o = w.ok("PATCH", "/v1/orgs/" + org["id"], {"billing_email": None, "developer_exec": True, "expected_version": 2})
        assert "billing_email" not in o and o["developer_exec"] is True and w.ok("GET", "/v1/orgs/" + org["id"]) == o, o

    @case("a name that is taken, malformed or freed")
    def _():
        A, _ = make("name-one")
        B, _ = make("name-two")
        refused(w.q("PATCH", B, {"name": "name-one", "expected_version": 1}), 409, "name_taken")
        refused(w.q("PATCH", B, {"name": "No_Name", "expected_version": 1}), 400, "invalid_argument")
        w.ok("PATCH", A, {"name": "name-three", "expected_version": 1})
        w.ok("PATCH", B, {"name": "name-one", "expected_version": 1})

    @case("fields of the operator in an environment")
    def _():
        _, E = make("labels")
        e = w.ok("PATCH", E, {"label_selector": {"disk": "nvme"}, "expected_version": 1})
        assert e["label_selector"] == {"disk": "nvme"}, e
        refused(w.q("PATCH", E, {"private_network": "yes", "expected_version": 2}), 400, "invalid_argument")
        for bad in (0, 3599, 2592001, -1, "3600"):  # an hour to thirty days
            refused(w.q("PATCH", E, {"backup_interval_seconds": bad, "expected_version": 2}), 400, "invalid_argument")
        refused(w.q("PATCH", E, {"label_selector": {"a": 1}, "expected_version": 2}), 400, "invalid_argument")
        e = w.ok("PATCH", E, {"label_selector": None, "backup_interval_seconds": 3600, "expected_version": 2})
        assert "label_selector" not in e and e["backup_interval_seconds"] == 3600 and w.ok("GET", E) == e, e

    @case("of parallel changes based on one version exactly one is made")
    def _():
        A, _ = make("raced")
        with concurrent.futures.ThreadPoolExecutor(20) as ex:
            rs = list(ex.map(lambda i: w.q("PATCH", A, {"description": "n%d" % i, "expected_version": 1}), range(20)))
        assert sorted(r.status for r in rs) == [200] + [409] * 19, [r.status for r in rs]
        assert {r.json["code"] for r in rs if r.status == 409} == {"version_conflict"}
        assert w.ok("GET", A)["resource_version"] == 2

    # ---------------------------------------------------------------- remove

    @case("an app with environments is refused with their list, and goes with cascade; what ran is drained")
    def _():
        A, E = make("doomed")
        w.ok("POST", A + "/envs", {"name": "staging"})
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        w.ok("POST", E + "/routes", {"hostname": "doomed.example.com", "backend_process_type": "web", "backend_port": 8443})
        wait_for("success", lambda: w.ok("GET", E + "/deploys")["items"][0]["status"] == "succeeded", 20)
        p = refused(w.q("DELETE", A), 409, "has_dependents")
        assert p["details"]["total"] == 2 and {d["name"] for d in p["details"]["dependents"]} == {"prod", "staging"}, p
        p = refused(w.q("DELETE", E), 409, "has_dependents")
        assert p["details"]["dependents"][0]["type"] == "route" and "doomed.example.com" in p["details"]["dependents"][0]["name"], p
        n = head()
        r = w.q("DELETE", A + "?cascade=true")
        assert r.status == 200 and r.json == {"ok": True, "already_deleted": False}, r.text
        types = [e["event_type"] for e in events_after(n) if e["request_id"] == r.headers["X-Request-Id"]]
        assert sorted(types) == ["app.deleted", "env.deleted", "env.deleted", "route.deleted"] + ["secret_bundle.deleted"] * 2, types
        for path in (A, E, A + "/envs", E + "/status", E + "/routes"):
            refused(w.q("GET", path), 404, "not_found")
        i = w.pg.sql("SELECT instance_id FROM instances_view WHERE env_id = '%s'" % E.split("/")[-1])
        wait_for("the drain", lambda: w.pg.sql("SELECT desired_reason FROM instances_view WHERE instance_id = '%s'" % i) == "env_deleted")
        wait_for("the release", lambda: w.pg.sql("SELECT released_at IS NOT NULL FROM instances_view WHERE instance_id = '%s'" % i) == "t", 20)
        for path in (A + "?cascade=true", E):
            assert w.ok("DELETE", path) == {"ok": True, "already_deleted": True}
        make("doomed")  # the name is free again
        B, F = make("heir")
        w.ok("POST", F + "/routes", {"hostname": "doomed.example.com", "backend_process_type": "web", "backend_port": 8443})

    @case("a deploy under way in an environment that goes is failed, env_deleted")
    def _():
        A, E = make("unfinished")
        w.agent.behave = lambda a: "hang" if a["workload"]["env_vars"]["MOAT_APP"] == "unfinished" else "ready"
        d = w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        wait_for("an instance", lambda: w.ok("GET", E + "/instances")["items"])
        w.ok("DELETE", E)
        row = w.pg.sql("SELECT status, failed_reason FROM deploys_view WHERE deploy_id = '%s'" % d["id"])
        assert row == "failed|env_deleted", row
        noted = "SELECT count(*) FROM moat.events WHERE env_id = '%s' AND event_type = 'env.scheduling_changed'" % E.split("/")[-1]
        wait_for("the drain", lambda: w.pg.sql("SELECT count(*) FROM instances_view WHERE env_id = '%s' AND desired_state = 'running'" % E.split("/")[-1]) == "0")
        def quiet():
            """Half a second without a word; the last one may come after the drain."""
            before = w.pg.sql(noted)
            time.sleep(0.5)
            return w.pg.sql(noted) == before
        wait_for("the scheduler to write no more about an environment that is gone", quiet, 20)
        w.agent.behave = lambda a: "ready"

    @case("a protected environment stays until it is protected no more")
    def _():
        A, E = make("guarded")
        w.ok("PATCH", E, {"protected": True, "expected_version": 1})
        refused(w.q("DELETE", E), 409, "conflict")
        refused(w.q("DELETE", A + "?cascade=true"), 409, "conflict")
        w.ok("PATCH", E, {"protected": False, "expected_version": 2})
        refused(w.q("DELETE", E, {"expected_version": 2}), 409, "version_conflict")
        refused(w.q("DELETE", E, If_Match='"2"'), 412, "precondition_failed")
        w.ok("DELETE", E, {"expected_version": 3})

    @case("an organisation or project with apps is refused; empty ones go, twice")
    def _():
        org = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "leaving"})["id"]
        pid = w.ok("POST", org + "/projects", {"name": "p"})["id"]
        app = org + "/apps/" + w.ok("POST", org + "/apps", {"name": "a", "project_id": pid})["id"]
        for path in (org, org + "/projects/" + pid):
            p = refused(w.q("DELETE", path), 409, "has_dependents")
            assert p["details"] == {"dependents": [{"type": "app", "id": app.split("/")[-1], "name": "a"}], "total": 1}, p
        w.ok("DELETE", app)
        assert w.ok("DELETE", org + "/projects/" + pid)["already_deleted"] is False
        assert w.ok("DELETE", org + "/projects/" + pid)["already_deleted"] is True
        refused(w.q("GET", org + "/projects/" + pid), 404, "not_found")
        assert w.ok("DELETE", org)["already_deleted"] is False
        assert w.ok("DELETE", org)["already_deleted"] is True
        refused(w.q("GET", org), 404, "not_found")
        refused(w.q("POST", org + "/apps", {"name": "late"}), 404, "not_found")
        w.ok("POST", "/v1/orgs", {"name": "leaving"})

    @case("what never was, or is another's, is 404 to DELETE too")
    def _():
        other = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "foreign"})["id"]
        A, E = make("mine")
        rt = w.ok("POST", E + "/routes", {"hostname": "mine.example.com", "backend_process_type": "web", "backend_port": 1})["id"]
        for path in (other + "/apps/" + A.split("/")[-1], O + "/apps/app_nothing", A + "/envs/env_nothing", E + "/routes/rt_nothing",
                     O + "/projects/prj_nothing", "/v1/orgs/org_nothing", other + "/apps/%s/envs/%s" % tuple(E.split("/")[-3::2])):
            refused(w.q("DELETE", path), 404, "not_found")
        w.ok("DELETE", E + "?cascade=true")
        assert w.ok("DELETE", E + "/routes/" + rt)["already_deleted"] is True, "a route that went with its environment"

    @case("an owner that goes and a child that comes never both win")
    def _():
        for n in range(12):
            A, E = make("edge-%d" % n)
            jobs = [lambda: w.q("DELETE", A + "?cascade=true"), lambda: w.q("POST", A + "/envs", {"name": "late"}),
                    lambda: w.q("POST", E + "/routes", {"hostname": "e%d.example.com" % n, "backend_process_type": "web", "backend_port": 1}),
                    lambda: w.q("PATCH", E, {"protected": True, "expected_version": 1})]
            if n % 2:
                jobs.reverse()
            with concurrent.futures.ThreadPoolExecutor(4) as ex:
                rs = [f.result() for f in [ex.submit(j) for j in jobs]]
            assert all(r.status in (200, 201, 404, 409) for r in rs), [(r.status, r.text) for r in rs]
        orphans = w.pg.sql("""SELECT count(*) FROM envs_view e JOIN apps_view a USING (app_id) WHERE a.deleted AND NOT e.deleted""")
        routes = w.pg.sql("""SELECT count(*) FROM routes_view r JOIN envs_view e USING (env_id) WHERE e.deleted AND NOT r.deleted""")
        assert (orphans, routes) == ("0", "0"), (orphans, routes)

    # ---------------------------------------------------------------- keys

    @case("A02 every mutation repeated with its key has one effect, with another body it is refused, 50 at once too")
    def _():
        A, E = make("keys")
        B, _ = make("keys-other")
        C = O + "/apps/" + w.ok("POST", O + "/apps", {"name": "keys-empty"})["id"]
        rel = release(A)
        rel2 = release(A, manifest("160Mi"))
        w.ok("POST", E + "/deploys", {"release_id": rel["id"]})
        org = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "keyed"})["id"]
        project = O + "/projects/" + w.ok("POST", O + "/projects", {"name": "keyed"})["id"]
        route = E + "/routes/" + w.ok("POST", E + "/routes", {"hostname": "k.example.com", "backend_process_type": "web", "backend_port": 8443})["id"]
        scale = w.ok("GET", E + "/scale")["resource_version"]

        def web(n):
            return [{"process_type": "web", "desired": n}]
        mutations = [
            ("POST", "/v1/orgs", {"name": "k-org"}, {"name": "k-org2"}),
            ("PATCH", org, {"name": "k-org3", "expected_version": 1}, {"name": "k-org4", "expected_version": 1}),
            ("POST", O + "/projects", {"name": "k-prj"}, {"name": "k-prj2"}),
            ("PATCH", project, {"name": "k-prj3", "expected_version": 1}, {"name": "k-prj4", "expected_version": 1}),
            ("POST", O + "/apps", {"name": "k-app"}, {"name": "k-app2"}),
            ("PATCH", B, {"description": "x", "expected_version": 1}, {"description": "y", "expected_version": 1}),
            ("POST", A + "/envs", {"name": "k-env"}, {"name": "k-env2"}),
            ("PATCH", E, {"protected": True, "expected_version": 1}, {"name": "e2", "expected_version": 1}),
            ("POST", A + "/releases", {"manifest": manifest("200Mi"), "image_digest": D1, "verify_image": False},
             {"manifest": manifest("201Mi"), "image_digest": D1, "verify_image": False}),
            ("POST", E + "/routes", {"hostname": "k2.example.com", "backend_process_type": "web", "backend_port": 8443},
             {"hostname": "k3.example.com", "backend_process_type": "web", "backend_port": 8443}),
            ("PUT", E + "/scale", {"processes": web(2), "expected_version": scale}, {"processes": web(3), "expected_version": scale}),
            ("POST", E + "/deploys", {"release_id": rel2["id"]}, {"release_id": rel2["id"], "note": "n"}),
            ("POST", E + "/restarts", {}, {"on_failure": "rollback"}),
            ("POST", E + "/rollbacks", {"release_id": rel["id"]}, {"release_id": rel2["id"]}),
            ("DELETE", route, {}, {"expected_version": 1}),
            ("DELETE", C, {}, {"expected_version": 2}),
            ("DELETE", project, {}, {"expected_version": 2}),
            ("DELETE", org, {}, {"expected_version": 2}),
        ]
        for n, (method, path, body, other) in enumerate(mutations):
            key = "acc2-%d" % n
            before = int(w.pg.sql("SELECT count(*) FROM moat.events WHERE idempotency_key = '%s'" % key))
            assert before == 0
            with concurrent.futures.ThreadPoolExecutor(50) as ex:
                rs = list(ex.map(lambda _: w.q(method, path, body, key=key), range(50)))
            assert len({r.status for r in rs}) == 1 and rs[0].status in (200, 201), (method, path, [(r.status, r.text) for r in rs if r.status > 201][:2])
            assert len({r.text for r in rs}) == 1, (method, path, {r.text for r in rs})
            assert sum(r.headers["Idempotent-Replay"] != "true" for r in rs) == 1, (method, path)
            assert len({r.headers["X-Event-Id"] for r in rs}) == 1 and len({r.headers["Location"] for r in rs}) == 1, (method, path)
            ids = w.pg.sql("SELECT count(DISTINCT request_id) FROM moat.events WHERE idempotency_key = '%s'" % key)
            assert ids == "1", (method, path, ids)
            refused(w.q(method, path, other, key=key), 409, "idempotency_key_reuse")
        w.ok("PATCH", E, {"protected": False, "expected_version": 2})
        r = w.q("DELETE", A, key="casc")
        refused(r, 409, "has_dependents")  # not stored: asked again it is judged again
        assert w.q("DELETE", A + "?cascade=true", key="casc").status == 200
        refused(w.q("DELETE", A, key="casc"), 409, "idempotency_key_reuse")

    @case("a key that is no key, and the receipt on request, fresh and replayed")
    def _():
        for bad in ("", "x" * 129, "a b", "\x7f"):
            refused(w.q("POST", O + "/apps", {"name": "x"}, key=bad) if bad else
                    call(w.api, "POST", O + "/apps", {"name": "x"}, {"Authorization": "Bearer " + w.token, "Idempotency-Key": ""}),
                    400, "invalid_argument")
        one = w.ok("POST", O + "/apps", {"name": "receipt"}, key="rc", Prefer="return=receipt")
        two = w.ok("POST", O + "/apps", {"name": "receipt"}, key="rc", Prefer="return=receipt")
        r = one.pop("receipt")
        assert r["operation"] == "app.create" and r["resource_ids"] == {"app_id": one["id"]} and r["event_id"] and r["replayed"] is False, r
        assert two.pop("receipt") == dict(r, replayed=True) and two == one
        assert "receipt" not in w.ok("POST", O + "/apps", {"name": "receipt"}, key="rc")

    @case("A03 200 parallel creates of one name make one app; the log has no gap")
    def _():
        with concurrent.futures.ThreadPoolExecutor(50) as ex:
            rs = list(ex.map(lambda _: w.q("POST", O + "/apps", {"name": "two-hundred"}), range(200)))
        codes = [r.status for r in rs]
        assert codes.count(201) == 1 and codes.count(409) == 199, {c: codes.count(c) for c in set(codes)}
        assert {r.json["code"] for r in rs if r.status == 409} == {"name_taken"}
        n, top, low = w.pg.sql("SELECT count(*), max(event_id), min(event_id) FROM moat.events").split("|")
        assert n == top and low == "1", (n, top, low)
        bad = w.pg.sql("SELECT count(*) FROM (SELECT aggregate_id, count(*) n, max(aggregate_seq) m FROM moat.events"
                       " GROUP BY aggregate_type, aggregate_id) x WHERE n <> m")
        assert bad == "0", bad

    # ---------------------------------------------------------------- lists

    @case("lists: every page once, both orders, limits, and cursors bound to what they were made for")
    def _():
        A, _ = make("pages")
        ids = [w.ok("POST", A + "/envs", {"name": "e%02d" % n})["id"] for n in range(23)]
        ids = [e["id"] for e in w.ok("GET", A + "/envs?order=asc&limit=200")["items"]]
        for order in ("asc", "desc"):
            got, cursor = [], None
            while True:
                page = w.ok("GET", A + "/envs?limit=5&order=" + order + ("&cursor=" + cursor if cursor else ""))
                got += [e["id"] for e in page["items"]]
                cursor = page["next_cursor"]
                if not cursor:
                    break
                assert len(page["items"]) == 5
            assert got == (ids if order == "asc" else ids[::-1]), order
        c = w.ok("GET", A + "/envs?limit=5")["next_cursor"]
        B, _ = make("pages-other")
        for path in (A + "/envs?limit=5&order=asc&cursor=" + c, A + "/envs?name=x&cursor=" + c, B + "/envs?cursor=" + c,
                     A + "/envs?include_deleted=true&cursor=" + c, O + "/apps?cursor=" + c, A + "/envs?cursor=",
                     A + "/envs?cursor=x", A + "/envs?cursor=" + c[:-1], A + "/envs?cursor=" + c + "A", A + "/envs?cursor=" + "A" * 4000):
            refused(w.q("GET", path), 400, "invalid_cursor")
        w.ok("GET", A + "/envs?limit=7&cursor=" + c)  # the page may change its size
        for bad in ("limit=0", "limit=201", "limit=x", "limit=1e3", "order=up", "created_after=yesterday", "include_deleted=1"):
            refused(w.q("GET", A + "/envs?" + bad), 400, "invalid_argument")
        p = refused(w.q("GET", A + "/envs?nmae=x"), 400, "invalid_argument")
        assert "'nmae'" in p["detail"], p

    @case("lists: items that come in between are neither doubled nor skipped")
    def _():
        A, _ = make("moving")
        have = {w.ok("POST", A + "/envs", {"name": "b%02d" % n})["id"] for n in range(30)}
        have |= {e["id"] for e in w.ok("GET", A + "/envs?limit=200")["items"]}
        stop = threading.Event()

        def insert():
            n = 0
            while not stop.is_set():
                w.ok("POST", A + "/envs", {"name": "i%03d" % n})
                n += 1
        t = threading.Thread(target=insert)
        t.start()
        try:
            for order in ("asc", "desc", "asc", "desc"):
                got, cursor = [], None
                while True:
                    page = w.ok("GET", A + "/envs?limit=3&order=" + order + ("&cursor=" + cursor if cursor else ""))
                    got += [e["id"] for e in page["items"]]
                    cursor = page["next_cursor"]
                    if not cursor or len(got) > 2000:
                        break
                assert len(got) == len(set(got)), "doubled"
                assert have <= set(got), "skipped %s" % (have - set(got))
        finally:
            stop.set()
            t.join()

    @case("lists: filters by name, owner, time, and the deleted on request")
    def _():
        A, _ = make("filters")
        p = w.ok("POST", O + "/projects", {"name": "filter"})
        w.ok("PATCH", A, {"project_id": p["id"], "expected_version": 1})
        assert [a["name"] for a in w.ok("GET", O + "/apps?project_id=" + p["id"])["items"]] == ["filters"]
        one = w.ok("POST", A + "/envs", {"name": "one"})
        two = w.ok("POST", A + "/envs", {"name": "two"})
        got = w.ok("GET", A + "/envs?created_after=" + one["created_at"])["items"]
        assert [e["name"] for e in got] == ["two"], got
        got = w.ok("GET", A + "/envs?order=asc&created_before=" + two["created_at"])["items"]
        assert [e["name"] for e in got] == ["prod", "one"], got
        w.ok("DELETE", A + "/envs/" + one["id"])
        assert [e["name"] for e in w.ok("GET", A + "/envs?order=asc")["items"]] == ["prod", "two"]
        got = w.ok("GET", A + "/envs?order=asc&include_deleted=true")["items"]
        assert [(e["name"], e.get("deleted", False)) for e in got] == [("prod", False), ("one", True), ("two", False)], got

    # ---------------------------------------------------------------- dry run

    @case("dry runs check everything, tell the events that would come, and append nothing")
    def _():
        A, E = make("dry")
        rel = release(A, manifest(extra='[[routes]]\nenv = "prod"\nhostname = "dry.example.com"\nprocess = "web"\nport = "tls"\n'))
        w.ok("POST", E + "/deploys", {"release_id": rel["id"]})
        wait_for("quiet", lambda: w.ok("GET", E + "/deploys")["items"][0]["status"] == "succeeded", 20)
        v = w.ok("GET", E + "/scale")["resource_version"]
        n = head()
        for method, path, body, types in (
                ("POST", A + "/releases", {"manifest": manifest("999Mi"), "image_digest": D1, "verify_image": False}, ["release.created"]),
                ("POST", E + "/deploys", {"release_id": rel["id"]}, ["deploy.created", "env.desired_release_set"]),
                ("POST", E + "/rollbacks", {"release_id": rel["id"]}, ["deploy.created", "env.desired_release_set"]),
                ("PUT", E + "/scale", {"processes": [{"process_type": "web", "desired": 2}], "expected_version": v}, ["env.scale_set"]),
                ("POST", E + "/routes", {"hostname": "d2.example.com", "backend_process_type": "web", "backend_port": 8443}, ["route.created"]),
                ("DELETE", E + "/routes/" + w.ok("GET", E + "/routes")["items"][0]["id"], {}, ["route.deleted"]),
                ("DELETE", E + "?cascade=true", {}, ["route.deleted", "secret_bundle.deleted", "env.deleted"]),
                ("DELETE", A + "?cascade=true", {}, ["route.deleted", "secret_bundle.deleted", "env.deleted", "app.deleted"])):
            path += ("&" if "?" in path else "?") + "dry_run=true"
            r = w.q(method, path, body, key="dry-%s-%s" % (method, path[-60:].replace("/", "_")))
            assert r.status == 200 and r.json["dry_run"] is True, r.text
            assert [c["event_type"] for c in r.json["changes"]] == types, r.json["changes"]
            assert "X-Event-Id" not in r.headers
        refused(w.q("DELETE", A + "?dry_run=true"), 409, "has_dependents")
        refused(w.q("POST", E + "/routes?dry_run=true", {"hostname": "dry.example.com", "backend_process_type": "web", "backend_port": 8443}),
                409, "hostname_taken")
        refused(w.q("POST", A + "/envs?dry_run=true", {"name": "x"}), 400, "invalid_argument")
        mine = [e for e in events_after(n) if e["actor"]["type"] not in ("system", "node")]  # what was begun before this case may still come to its end
        assert mine == [], mine

    # ---------------------------------------------------------------- running things

    def settled(E, n=1):
        wait_for("it to settle", lambda: w.ok("GET", E + "/deploys")["items"][0]["status"] == "succeeded", 20)
        return wait_for("%d ready" % n, lambda: (lambda x: x if len(x) == n else None)(
            [i["id"] for i in w.ok("GET", E + "/instances?status=ready")["items"]]), 20)

    def scale(E, **want):
        return w.ok("PUT", E + "/scale", {"processes": [{"process_type": k, "desired": v} for k, v in want.items()],
                                          "expected_version": w.ok("GET", E + "/scale")["resource_version"]})

    @case("one instance restarted: its replacement is ready before it drains, the others stay")
    def _():
        A, E = make("again")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        settled(E)
        scale(E, web=3)
        old = settled(E, 3)
        n = head()
        r = w.ok("POST", E + "/instances/%s/restart" % old[1], {})
        assert r["restart_requested"] is True and r["id"] == old[1], r
        assert w.q("POST", E + "/instances/%s/restart" % old[1], {}).status == 200  # asked twice, replaced once
        now = wait_for("the replacement", lambda: (lambda x: x if len(x) == 3 and old[1] not in x else None)(
            [i["id"] for i in w.ok("GET", E + "/instances?status=ready")["items"]]), 20)
        assert len(set(now) - set(old)) == 1, (old, now)
        ev = [e for e in events_after(n) if e.get("env_id") == E.split("/")[-1]]
        new = (set(now) - set(old)).pop()
        at = {}
        for e in ev:
            at.setdefault((e["event_type"], e["aggregate_id"], e["payload"].get("status") or e["payload"].get("reason")), e["event_id"])
        ready, drain = at[("instance.status_changed", new, "ready")], at[("instance.desired_state_changed", old[1], "restart_requested")]
        assert ready < drain, ev
        assert len([e for e in ev if e["event_type"] == "instance.allocated"]) == 1, ev
        wait_for("its end", lambda: w.ok("GET", E + "/instances/" + old[1])["status"] == "stopped", 20)
        refused(w.q("POST", E + "/instances/%s/restart" % old[1], {}), 409, "conflict")
        refused(w.q("POST", E + "/instances/inst_nothing/restart", {}), 404, "not_found")

    @case("rebalance places every instance of a process anew, and says rebalanced")
    def _():
        A, E = make("moved")
        refused(w.q("POST", E + "/rebalance", {}), 409, "conflict")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        old = settled(E)
        s = w.ok("POST", E + "/rebalance", {"process_types": ["web"]})
        assert s["processes"][0]["process_type"] == "web", s
        wait_for("another", lambda: (lambda x: len(x) == 1 and x != old)([i["id"] for i in w.ok("GET", E + "/instances?status=ready")["items"]]), 20)
        assert w.ok("GET", E + "/instances/" + old[0])["desired_reason"] == "rebalanced"
        refused(w.q("POST", E + "/rebalance", {"process_types": ["nope"]}), 400, "unknown_process_type")
        refused(w.q("POST", E + "/rebalance", {"process_types": []}), 400, "invalid_argument")

    @case("restarts take the processes named, and only deployed ones")
    def _():
        A, E = make("partly")
        two = manifest() + manifest(name="api").split("\n", 3)[3].replace("ref = \"registry.test:5000/hello:latest\"\n", "")
        w.ok("POST", E + "/deploys", {"release_id": release(A, two)["id"]})
        settled(E, 2)
        kind = {i["id"]: i["process_type"] for i in w.ok("GET", E + "/instances?status=ready")["items"]}
        d = w.ok("POST", E + "/restarts", {"process_types": ["api"]})
        assert d["process_types"] == ["api"] and d["kind"] == "restart", d
        settled(E, 2)
        now = {i["id"]: i["process_type"] for i in w.ok("GET", E + "/instances?status=ready")["items"]}
        assert {i for i, t in kind.items() if t == "web"} == {i for i, t in now.items() if t == "web"}, (kind, now)
        assert {i for i, t in kind.items() if t == "api"} != {i for i, t in now.items() if t == "api"}, (kind, now)
        refused(w.q("POST", E + "/restarts", {"process_types": ["nope"]}), 400, "unknown_process_type")

    @case("A12 scale 3, 5, 3 leaves 3; without max above 1 may be asked, above max or below 0 not; reset goes back")
    def _():
        A, E = make("replicas")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        settled(E)
        for n in (3, 5, 3):
            assert scale(E, web=n)["processes"][0] == {"process_type": "web", "desired": n, "source": "user", "max": 100}
            settled(E, n)
        for n in (-1, 101, 1.5, "2", True):
            r = w.q("PUT", E + "/scale", {"processes": [{"process_type": "web", "desired": n}],
                                          "expected_version": w.ok("GET", E + "/scale")["resource_version"]})
            refused(r, 400, "invalid_argument")
        r = w.q("PUT", E + "/scale", {"processes": [{"process_type": "web", "desired": 1}] * 2, "expected_version": w.ok("GET", E + "/scale")["resource_version"]})
        refused(r, 400, "invalid_argument")
        scale(E, web=0)
        wait_for("none", lambda: w.ok("GET", E + "/instances?status=ready")["items"] == [], 20)
        assert scale(E, web=None)["processes"][0]["source"] == "manifest"
        settled(E, 1)
        mounts = manifest(extra='[[processes.web.mounts]]\nvolume = "data"\npath = "/data"\n[[volumes]]\nname = "data"\nsize = "1Gi"\n')
        v = w.ok("POST", A + "/manifest/validate", {"manifest": mounts})
        assert v["ok"] and v["canonical"]["processes"]["web"]["scaling"]["max"] == 1, v
        v = w.ok("POST", A + "/manifest/validate", {"manifest": manifest()})
        assert v["canonical"]["processes"]["web"]["scaling"]["max"] == 100, v

    @case("a user's scale survives a deploy and is clamped, with a warning, when the new release allows less")
    def _():
        A, E = make("clamped")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        settled(E)
        scale(E, web=3)
        settled(E, 3)
        low = release(A, manifest(extra="[processes.web.scaling]\nmax = 2\n"))
        d = w.ok("POST", E + "/deploys", {"release_id": low["id"]})
        want = [{"code": "scale_clamped", "process_type": "web", "desired": 3, "max": 2}]
        assert d["warnings"] == want and w.ok("GET", E + "/deploys/" + d["id"])["warnings"] == want, d
        settled(E, 2)
        s = w.ok("GET", E + "/status")
        assert [c for c in s["conditions"] if c["type"] == "scale_clamped"] == [
            {"type": "scale_clamped", "process_type": "web", "wanted": 3, "desired": 2}], s
        back = release(A, manifest("130Mi"))
        d = w.ok("POST", E + "/deploys", {"release_id": back["id"]})
        assert "warnings" not in d, d
        settled(E, 3)

    @case("scaling down takes the failed first, then the not ready, then the oldest")
    def _():
        A, E = make("order")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        settled(E)
        scale(E, web=3)
        old = sorted(settled(E, 3))
        ripe = "SELECT count(*) FROM instances_view WHERE env_id = '%s' AND now() - last_transition_at > interval '5.5 s'" % E.split("/")[-1]
        wait_for("all to be available", lambda: w.pg.sql(ripe) == "3")  # ready for a while: else the younger would go
        w.agent.behave = lambda a: "hang" if a["workload"]["env_vars"]["MOAT_APP"] == "order" else "ready"
        scale(E, web=4)
        slow = wait_for("a slow one", lambda: [i["id"] for i in w.ok("GET", E + "/instances?status=starting")["items"]])[0]
        w.agent.report(old[2], "failed", reason_code="workload_exited", exit_code=1, boot_id="boot_" + old[2][5:])
        w.agent.behave = lambda a: "ready"

        def gone():
            return {i["id"] for i in w.ok("GET", E + "/instances?include_stopped=true")["items"] if i["desired_state"] != "running"}
        for n, who in ((3, old[2]), (2, slow), (1, old[0])):
            before = gone()
            scale(E, web=n)
            wait_for("one to go", lambda: len(gone()) > len(before))
            assert gone() - before == {who}, (n, who, gone() - before)

    @case("A11 a failing release leaves the old serving and fails by the limits; on_failure=rollback goes back by itself, once")
    def _():
        A, E = make("broken")
        good = release(A)
        w.ok("POST", E + "/deploys", {"release_id": good["id"]})
        old = settled(E)
        w.agent.behave = lambda a: "exit" if a["workload"]["image"]["resolved_digest"] == D2 else "ready"
        bad = release(A, digest=D2)
        d = w.ok("POST", E + "/deploys", {"release_id": bad["id"], "on_failure": "rollback"})
        wait_for("failure", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "failed", 20)
        back = wait_for("the rollback", lambda: [x for x in w.ok("GET", E + "/deploys?kind=rollback")["items"] if x["status"] == "succeeded"], 20)
        assert len(back) == 1 and back[0]["release_id"] == good["id"] and back[0]["on_failure"] == "hold", back
        assert [i["id"] for i in w.ok("GET", E + "/instances?status=ready")["items"]] == old, "the old one served all the time"
        n = len(w.ok("GET", E + "/instances?include_stopped=true")["items"])
        time.sleep(1)
        assert len(w.ok("GET", E + "/instances?include_stopped=true")["items"]) == n, "thrash"
        w.agent.behave = lambda a: "ready"

    @case("a deploy that is not done in its time fails with timeout")
    def _():
        A, E = make("late")
        w.agent.behave = lambda a: "hang" if a["workload"]["env_vars"]["MOAT_APP"] == "late" else "ready"
        for bad in (9, 3601, "10"):
            refused(w.q("POST", E + "/deploys", {"release_id": release(A)["id"], "timeout_seconds": bad}), 400, "invalid_argument")
        d = w.ok("POST", E + "/deploys", {"release_id": release(A)["id"], "timeout_seconds": 10})
        d = wait_for("failure", lambda: (lambda x: x if x["status"] == "failed" else None)(w.ok("GET", E + "/deploys/" + d["id"])), 25)
        assert d["failed_reason"] == "timeout", d
        w.agent.behave = lambda a: "ready"

    # ---------------------------------------------------------------- routes

    @case("A13 a host name has one environment; conflicts never tell whose; other ports of it are free there")
    def _():
        org = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "rival"})["id"]
        other = org + "/apps/" + w.ok("POST", org + "/apps", {"name": "a"})["id"]
        F = other + "/envs/" + w.ok("POST", other + "/envs", {"name": "e"})["id"]
        A, E = make("owner")
        body = {"hostname": "one.example.org", "backend_process_type": "web", "backend_port": 8443}
        w.ok("POST", E + "/routes", body)
        for port in (443, 8443):
            p = refused(w.q("POST", F + "/routes", dict(body, listen_port=port)), 409, "hostname_taken")
            for secret in (E.split("/")[-1], A.split("/")[-1], O.split("/")[-1], "owner", "local"):
                assert secret not in json.dumps(p).replace(F, ""), p
        two = w.ok("POST", E + "/routes", dict(body, listen_port=8443))
        refused(w.q("POST", E + "/routes", dict(body, listen_port=8443)), 409, "hostname_taken")
        for r in w.ok("GET", E + "/routes")["items"]:
            w.ok("DELETE", E + "/routes/" + r["id"])
        w.ok("POST", F + "/routes", body)  # free at once
        assert two["listen_port"] == 8443

    @case("a route changes in every option, is checked as a new one, and never in what it listens on")
    def _():
        A, E = make("tuned")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        r = w.ok("POST", E + "/routes", {"hostname": "tuned.example.com", "backend_process_type": "web", "backend_port": 8443})
        path = E + "/routes/" + r["id"]
        v = r["resource_version"]
        for change in ({"max_connections": 100}, {"idle_timeout_seconds": 600}, {"balance": "least_conn"}, {"proxy_tlv": True},
                       {"min_tls_version": "1.2"}, {"min_tls_version": None}, {"min_tls_version": "1.3"},
                       {"proxy_protocol": "v2", "backend_expects_proxy_protocol": True}, {"max_connections": None}, {"idle_timeout_seconds": None}):
            r = w.ok("PATCH", path, dict(change, expected_version=v))
            v += 1
            assert r["resource_version"] == v and all(r.get(k) == x for k, x in change.items()), r
            got = w.ok("GET", path)
            assert {k: x for k, x in got.items() if k != "status"} == {k: x for k, x in r.items() if k != "status"}, (got, r)
        wait_for("the edge to have it", lambda: any(x.get("hostname") == "tuned.example.com" and x["proxy_protocol"] == "v2" and
                 x["balance"] == "least_conn" and "max_connections" not in x and x.get("min_tls_version") == "1.3" for x in (w.edge_config() or {}).get("routes", [])))
        for body, status, code in (({"backend_expects_proxy_protocol": False}, 400, "invalid_argument"), ({"backend_port": 1}, 409, "route_backend_missing"),
                                   ({"balance": "random"}, 400, "invalid_argument"), ({"min_tls_version": "1.4"}, 400, "invalid_argument"),
                                   ({"min_tls_version": 1}, 400, "invalid_argument"), ({"idle_timeout_seconds": 10}, 400, "invalid_argument"),
                                   ({"hostname": "x.example.com"}, 400, "not_supported"), ({"listen_port": 8443}, 400, "not_supported"),
                                   ({"protocol": "tcp_raw"}, 400, "not_supported"), ({"ipv4_required": True}, 409, "ipv4_not_enabled"),
                                   ({"default_for_listener": True}, 400, "invalid_argument"), ({"allow_non_tls": True}, 400, "invalid_argument"),
                                   ({"disabled": True}, 400, "unknown_field"), ({"balance": None}, 400, "invalid_argument"),
                                   ({"balance": "least_conn"}, 400, "no_changes")):
            refused(w.q("PATCH", path, dict(body, expected_version=v)), status, code)
        # a port has the PROXY header on every connection or on none, whoever makes its routes
        second = {"hostname": "tuned2.example.com", "backend_process_type": "web", "backend_port": 8443, "min_tls_version": "1.2"}
        refused(w.q("POST", E + "/routes", second), 409, "proxy_port_conflict")
        refused(w.q("POST", E + "/routes?dry_run=true", second), 409, "proxy_port_conflict")
        text = manifest(extra='[[routes]]\nenv = "prod"\nhostname = "tuned3.example.com"\nprocess = "web"\nport = "tls"\n')
        refused(w.q("POST", E + "/deploys", {"release_id": release(A, text)["id"]}), 409, "proxy_port_conflict")
        two = text.replace("tuned3", "tuned4") + 'proxy_protocol = "v2"\nbackend_expects_proxy_protocol = true\n[[routes]]\nenv = "prod"\nhostname = "tuned5.example.com"\nprocess = "web"\nport = "tls"\n'
        refused(w.q("POST", E + "/deploys", {"release_id": release(A, two)["id"]}), 409, "proxy_port_conflict")
        second.update(proxy_protocol="v2", backend_expects_proxy_protocol=True)
        other = w.ok("POST", E + "/routes", second)
        refused(w.q("PATCH", E + "/routes/" + other["id"], {"proxy_protocol": "off", "expected_version": 1}), 409, "proxy_port_conflict")
        w.ok("PATCH", E + "/routes/" + other["id"], {"max_connections": 7, "expected_version": 1})
        assert other["min_tls_version"] == w.ok("GET", E + "/routes/" + other["id"])["min_tls_version"] == "1.2", other
        w.ok("DELETE", E + "/routes/" + other["id"])
        refused(w.q("POST", E + "/routes", {"protocol": "tcp_raw", "listen_port": 10777, "backend_process_type": "web", "backend_port": 8443,
                                            "min_tls_version": "1.2"}), 400, "invalid_argument")
        net = w.ok("GET", E + "/networking")
        assert net["hostnames"] == ["tuned.example.com"] and net["listeners"] == [
            {"protocol": "tls_passthrough", "address_scope": "shared6", "listen_port": 443, "routes": 1, "ipv4_routes": 0}] and net["ipv4"] is None, net

    @case("below the platform's domain an environment has one name: a route without one gets it, and nobody gets another")
    def _():
        assert call(w.api, "GET", "/v1/capabilities").json["base_domain"] == BASE
        A, E = make("titled")
        plain = {"backend_process_type": "web", "backend_port": 8443}
        r = w.ok("POST", E + "/routes", plain)
        assert r["hostname"] == "titled-prod." + BASE and w.ok("GET", E + "/routes/" + r["id"])["hostname"] == r["hostname"], r
        refused(w.q("POST", E + "/routes", plain), 409, "hostname_taken")
        assert w.ok("POST", E + "/routes", dict(plain, listen_port=8443))["hostname"] == r["hostname"]
        for host in ("other-prod." + BASE, "x.titled-prod." + BASE, "www." + BASE, BASE):
            p = refused(w.q("POST", E + "/routes", dict(plain, hostname=host)), 400, "hostname_invalid")
            assert r["hostname"] in p["detail"], p
        w.ok("POST", E + "/routes", dict(plain, hostname="x" + BASE))  # that is another domain
        assert "hostname" not in w.ok("POST", E + "/routes", dict(plain, protocol="tcp_raw"))
        # two organisations with the same names: who came first has it, and who that is is not told
        X = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "namesake"})["id"]
        x = w.ok("POST", X + "/apps", {"name": "titled"})["id"]
        F = X + "/apps/%s/envs/%s" % (x, w.ok("POST", X + "/apps/%s/envs" % x, {"name": "prod"})["id"])
        p = refused(w.q("POST", F + "/routes", plain), 409, "hostname_taken")
        assert "titled-prod" not in p["detail"] and A.split("/")[-1] not in json.dumps(p), p
        # a manifest has the same rule
        text = manifest(extra='[[routes]]\nenv = "prod"\nhostname = "%s"\nprocess = "web"\nport = "tls"\n')
        refused(w.q("POST", E + "/deploys", {"release_id": release(A, text % ("else." + BASE))["id"]}), 400, "hostname_invalid")
        B, G = make("manifested")
        w.ok("POST", G + "/deploys", {"release_id": release(B, text % ("manifested-prod." + BASE))["id"]})
        long_app = w.ok("POST", O + "/apps", {"name": "l" * 60})["id"]
        L = O + "/apps/%s/envs/%s" % (long_app, w.ok("POST", O + "/apps/%s/envs" % long_app, {"name": "prod"})["id"])
        p = refused(w.q("POST", L + "/routes", plain), 400, "hostname_invalid")
        assert "too long" in p["detail"], p

    together = "a route with the PROXY header and one without to the same port, asked for at one moment: never both"
    if w.bouncer:
        print("skip - %s: behind a pooler a session's last statement is anybody's, and the case goes by it" % together, flush=True)

    @(case(together) if not w.bouncer else lambda fn: None)
    def _():
        A, E = make("mixed")
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        host = lambda k: {"hostname": k + ".mixed.example.com", "backend_process_type": "web", "backend_port": 8443}
        on, off = {"proxy_protocol": "v2", "backend_expects_proxy_protocol": True}, {"proxy_protocol": "off"}
        text = manifest(extra='[[routes]]\nenv = "prod"\nhostname = "deployed.mixed.example.com"\nprocess = "web"\nport = "tls"\n')
        plain, proxied = release(A, text)["id"], release(A, text + 'proxy_protocol = "v2"\nbackend_expects_proxy_protocol = true\n')["id"]
        calls = {"off": ("POST", E + "/routes", host("off")), "v2": ("POST", E + "/routes", dict(host("v2"), **on)),
                 "deploy off": ("POST", E + "/deploys", {"release_id": plain}), "deploy v2": ("POST", E + "/deploys", {"release_id": proxied})}
        for first, second in (("v2", "off"), ("off", "v2"), ("v2", "deploy off"), ("deploy off", "v2"), ("deploy v2", "off"), ("off", "deploy v2")):
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                with kit.HeldLog(w.pg) as log:
                    since = time.time()
                    one = pool.submit(w.q, *calls[first])
                    wait_for("one in the queue", lambda: log.asked("SELECT k.n, (CASE k.dim", since) and log.waited_for())
                    since = time.time()
                    two = pool.submit(w.q, *calls[second])
                    wait_for("the other prepared", lambda: log.asked("SELECT k.n, (CASE k.dim", since))  # the last that it asks for
                won, lost = sorted((one.result(20), two.result(20)), key=lambda r: r.status)  # whichever was first in the queue
                assert won.status == 201, (first, second, won.text)
                refused(lost, 409, "proxy_port_conflict")
            ways = {r["proxy_protocol"] for r in w.ok("GET", E + "/routes")["items"]}
            assert len(ways) == 1, (first, second, ways)
            for r in w.ok("GET", E + "/routes")["items"]:
                w.ok("DELETE", E + "/routes/" + r["id"])
        # one that is changed, against one that is made
        for change, other in ((on, "off"), (off, "v2")):
            r = w.ok("POST", E + "/routes", dict(host("changed"), **(off if change is on else on)))
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                with kit.HeldLog(w.pg) as log:
                    one = pool.submit(w.q, "PATCH", E + "/routes/" + r["id"], dict(change, expected_version=r["resource_version"]))
                    wait_for("the change in the queue", log.waited_for)
                    since = time.time()
                    two = pool.submit(w.q, *calls[other])
                    wait_for("the other prepared", lambda: log.asked("SELECT k.n, (CASE k.dim", since))
                won, lost = sorted((one.result(20), two.result(20)), key=lambda r: r.status)
                assert won.status in (200, 201), won.text
                refused(lost, 409, "proxy_port_conflict")
            for r in w.ok("GET", E + "/routes")["items"]:
                w.ok("DELETE", E + "/routes/" + r["id"])

    @case("manifest routes: made, changed and taken by full deploys only; those made by API stay; rollback touches none")
    def _():
        A, E = make("declared")

        def entry(host, port="tls", process="web"):
            return '[[routes]]\nenv = "prod"\nhostname = "%s"\nprocess = "%s"\nport = "%s"\n' % (host, process, port)
        second = '[[processes.web.ports]]\nname = "alt"\ninternal = 9443\n'

        def routes():
            return {r["hostname"]: (r["backend_port"], r["managed_by"]) for r in w.ok("GET", E + "/routes")["items"]}

        def deploy(text, **more):
            return w.q("POST", E + "/deploys", dict({"release_id": release(A, text)["id"]}, **more))
        w.ok("POST", E + "/routes", {"hostname": "api.decl.example.com", "backend_process_type": "web", "backend_port": 8443})
        one = deploy(manifest(extra=entry("a.decl.example.com") + '[[routes]]\nenv = "staging"\nhostname = "s.decl.example.com"\nprocess = "web"\nport = "tls"\n'))
        assert one.status == 201 and [c["action"] for c in one.json["routes"]] == ["create"], one.text
        assert routes() == {"api.decl.example.com": (8443, "api"), "a.decl.example.com": (8443, "manifest")}, routes()
        both = deploy(manifest(extra=second + entry("a.decl.example.com", "alt") + entry("api.decl.example.com", "alt")))
        assert [c["action"] for c in both.json["routes"]] == ["update"], both.text
        assert routes() == {"api.decl.example.com": (8443, "api"), "a.decl.example.com": (9443, "manifest")}, routes()
        part = deploy(manifest("131Mi", extra=second), process_types=["web"])
        assert part.json["routes"] == [] and len(routes()) == 2, part.text
        gone = deploy(manifest("132Mi", extra=second))
        assert [c["action"] for c in gone.json["routes"]] == ["delete"] and routes() == {"api.decl.example.com": (8443, "api")}, gone.text
        d = w.ok("POST", E + "/rollbacks", {"release_id": both.json["release_id"]})
        assert routes() == {"api.decl.example.com": (8443, "api")}, routes()
        lost = manifest().replace("internal = 8443", "internal = 9000")
        n = head()
        refused(deploy(lost), 409, "route_backend_missing")
        assert [e for e in events_after(n) if e["event_type"] != "release.created" and e["actor"]["type"] != "system"
                and e["event_type"] != "instance.status_changed"] == [], events_after(n)
        assert deploy(lost, force=True).status == 201
        B, F = make("squatter")
        w.ok("POST", F + "/routes", {"hostname": "held.example.com", "backend_process_type": "web", "backend_port": 8443})
        n = len(w.ok("GET", E + "/deploys")["items"])
        refused(deploy(manifest("133Mi", extra=entry("held.example.com")), force=True), 409, "hostname_taken")
        assert len(w.ok("GET", E + "/deploys")["items"]) == n, "a deploy came out of a refused command"

    # ---------------------------------------------------------------- releases

    @case("what a release changes, field by field, against the one before or any other")
    def _():
        A, E = make("compared")
        a = release(A)
        b = release(A, manifest("256Mi", extra='[[processes.web.ports]]\nname = "m"\ninternal = 9100\n'))
        c = release(A, manifest("256Mi", name="api"), D2)
        d = w.ok("GET", A + "/releases/%s/diff" % b["id"])
        assert d["from"]["release_id"] == a["id"] and d["to"]["number"] == 2 and d["image_changed"] is False and d["same"] is False, d
        by = {x["path"]: x for x in d["changes"]}
        assert by["processes.web.resources.memory_bytes"]["from"] == 128 << 20 and by["processes.web.resources.memory_bytes"]["to"] == 256 << 20, by
        assert by["processes.web.ports[9100]"]["op"] == "add" and len(by) == 2, by
        d = w.ok("GET", A + "/releases/%s/diff?against=%s" % (c["id"], a["id"]))
        assert d["image_changed"] and d["processes"] == {"added": ["api"], "removed": ["web"], "changed": []}, d
        assert [(x["path"], x["op"]) for x in d["changes"]] == [("processes.api", "add"), ("processes.web", "remove")], d
        assert w.ok("GET", A + "/releases/%s/diff?against=%s" % (a["id"], a["id"]))["same"] is True
        refused(w.q("GET", A + "/releases/%s/diff" % a["id"]), 400, "invalid_argument")
        B, _ = make("compared-other")
        refused(w.q("GET", A + "/releases/%s/diff?against=%s" % (a["id"], release(B)["id"])), 404, "not_found")
        refused(w.q("GET", B + "/releases/%s/diff?against=%s" % (a["id"], a["id"])), 404, "not_found")

    # ---------------------------------------------------------------- operator

    @case("an organisation is suspended: it drains, its routes answer as if unknown, and resumed all comes back")
    def _():
        org = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "abuser"})["id"]
        A = org + "/apps/" + w.ok("POST", org + "/apps", {"name": "a"})["id"]
        E = A + "/envs/" + w.ok("POST", A + "/envs", {"name": "e"})["id"]
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        w.ok("POST", E + "/routes", {"hostname": "abuser.example.com", "backend_process_type": "web", "backend_port": 8443})
        old = settled(E)

        def edge():
            return [r["disabled"] for r in (w.edge_config() or {}).get("routes", []) if r.get("hostname") == "abuser.example.com"]
        wait_for("the edge", lambda: edge() == [False])
        refused(w.q("POST", org + "/suspend", {}), 400, "invalid_argument")
        o = w.ok("POST", org + "/suspend", {"reason": "spam"})
        assert o["suspended"] is True and o["suspended_reason"] == "spam" and w.ok("GET", org) == o, o
        assert w.ok("POST", org + "/suspend", {"reason": "again"}) == o  # it is already
        wait_for("the edge to refuse", lambda: edge() == [True])
        wait_for("the drain", lambda: w.ok("GET", E + "/instances/" + old[0]).get("desired_reason") == "org_suspended")
        s = wait_for("blocked", lambda: (lambda s: s if s["processes"][0]["sched_condition"] == "blocked" else None)(w.ok("GET", E + "/status")))
        assert s["processes"][0]["reason"] == "org_suspended" and {"type": "org_suspended"} in s["conditions"], s
        wait_for("nothing to run", lambda: w.ok("GET", E + "/instances?status=ready")["items"] == [], 20)
        o = w.ok("POST", org + "/resume", {"reason": "sorry"})
        assert o["suspended"] is False and "suspended_reason" not in o and w.ok("GET", org) == o, o
        wait_for("it to be back", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 1, 20)
        wait_for("the edge to serve", lambda: edge() == [False])

    @case("a route is disabled and enabled by the operator, and says so")
    def _():
        A, E = make("switched")
        r = w.ok("POST", E + "/routes", {"hostname": "switched.example.com", "backend_process_type": "web", "backend_port": 8443})

        def edge():
            return [x["disabled"] for x in (w.edge_config() or {}).get("routes", []) if x.get("hostname") == "switched.example.com"]
        refused(w.q("POST", "/v1/routes/%s/disable" % r["id"], {}), 400, "invalid_argument")
        d = w.ok("POST", "/v1/routes/%s/disable" % r["id"], {"reason": "phishing"}, key="dis")
        assert d["disabled"] is True and d["resource_version"] == 2 and w.ok("GET", E + "/routes/" + r["id"])["disabled"] is True, d
        wait_for("the edge", lambda: edge() == [True])
        s = w.ok("GET", E + "/status")
        assert [c["type"] for c in s["conditions"]] == ["route_disabled"], s
        e = [x for x in w.ok("GET", O + "/events?event_type=route.updated&limit=500")["items"] if x["aggregate_id"] == r["id"]]
        assert e[-1]["payload"] == {"disabled": True, "reason": "phishing"} and e[-1]["actor"]["type"] == "operator", e
        w.ok("POST", "/v1/routes/%s/enable" % r["id"], {"reason": "cleaned"})
        wait_for("the edge", lambda: edge() == [False])
        refused(w.q("POST", "/v1/routes/rt_nothing/enable", {"reason": "x"}), 404, "not_found")

    @case("an environment's label selector keeps it off nodes without the label")
    def _():
        A, E = make("picky")
        w.ok("PATCH", E, {"label_selector": {"disk": "nvme"}, "expected_version": 1})
        w.ok("POST", E + "/deploys", {"release_id": release(A)["id"]})
        s = wait_for("blocked", lambda: (lambda s: s if s["processes"] and s["processes"][0]["sched_condition"] == "blocked" else None)(w.ok("GET", E + "/status")))
        assert s["processes"][0]["reason"] == "no_matching_label", s
        w.ok("PATCH", E, {"label_selector": None, "expected_version": 2})
        settled(E)

    def configured(**conf):
        """Again with these keys; what they were is given back to be put back."""
        old = {k: w.conf.get(k) for k in conf}
        for k, v in conf.items():
            if v is None:
                w.conf.pop(k, None)
            else:
                w.conf[k] = v
        w.write_config()
        w.kill_control()
        w.start_control()
        return old

    def tenant(scopes):
        sp = w.ok("POST", O + "/service-principals", {"name": "t-%d" % time.monotonic_ns(), "scopes": scopes})
        t = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json
        return "Bearer " + t["access_token"]

    @case("port_policy, quotas, logs.query_window and vmm_overhead_bytes do what they say; what makes no sense is refused before anything starts")
    def _():
        A, E = make("keyed")
        raw = lambda **f: w.q("POST", E + "/routes", dict({"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 9000}, **f))
        tls = lambda port, host="keyed.example.com": w.q("POST", E + "/routes", {"hostname": host, "listen_port": port, "backend_process_type": "web", "backend_port": 8443})
        before, other = raw(listen_port=27500).json, tls(9000, "keyed9.example.com").json
        old = configured(**{"port_policy.shared_raw_ranges": ["27000-27003", "28000"], "port_policy.tls_ranges": ["8443", "27500"], "port_policy.denied": ["27001", "8444"],
                            "logs.query_window": 3600, "vmm_overhead_bytes": 200 << 20, "quotas.max_projects": 1, "http_redirect": True})
        try:
            assert w.ok("PATCH", E + "/routes/" + before["id"], {"max_connections": 5, "expected_version": 1})["listen_port"] == 27500  # as it was made
            assert w.ok("PATCH", E + "/routes/" + other["id"], {"max_connections": 5, "expected_version": 1})["listen_port"] == 9000
            refused(tls(27500), 409, "port_taken")  # a port is of one kind, whatever the policy says by now
            for port in (27001, 10000, 28001, 27500):
                refused(raw(listen_port=port), 400, "port_not_allowed")
            for port in (9000, 8444, 80, 1024):
                assert "8443" in refused(tls(port), 400, "port_not_allowed")["detail"] or port == 80
            assert [raw().json["listen_port"] for _ in range(4)] == [27000, 27002, 27003, 28000]
            refused(raw(), 409, "port_taken")
            assert tls(443).status == 201 and tls(8443).status == 201
            pool = next(p for p in w.ok("GET", "/v1/admin/ipam")["items"] if p["pool"] == "shared_ports")
            assert (pool["allocated"], pool["free"]) == (4, 0), pool
            wait_for("the edge to be told of http_redirect", lambda: (w.edge_config() or {}).get("http_redirect") is True, 30)
            wait_for("its node to be told of its port", lambda: 80 in w.agent.plans[-1]["network"].get("edge_ports", []), 30)
            limit = lambda: next(q for q in w.ok("GET", O + "/quotas")["items"] if q["dimension"] == "max_projects")
            assert (limit()["limit"], limit()["source"]) == (1, "config"), limit()
            few = w.ok("POST", "/v1/orgs", {"name": "few-projects"})["id"]
            w.ok("POST", "/v1/orgs/%s/projects" % few, {"name": "one"})
            refused(w.q("POST", "/v1/orgs/%s/projects" % few, {"name": "two"}), 409, "quota_exceeded")
            who = tenant(["logs:read"])
            assert w.q("GET", E + "/logs?since=50m", Authorization=who).status == 200
            assert "1 hour" in refused(w.q("GET", E + "/logs?since=70m", Authorization=who), 400, "invalid_argument")["detail"]
            assert w.q("GET", E + "/logs?since=70m").status == 200  # operators
            wait_for("the node's room", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"]["memory_overhead_bytes"] == 200 << 20, 20)
            for bad, says in (({"port_policy.shared_raw_ranges": ["9000-12000"], "port_policy.tls_ranges": ["1024-9999"]}, "meets"), ({"port_policy.denied": ["x"]}, "'x'"),
                              ({"port_policy.shared_raw_ranges": []}, "1 to 32"), ({"dns.servers": ["localhost"]}, "dns.servers: 'localhost'"), ({"dns.base_domain": "*.x.test"}, "dns.base_domain"),
                              ({"logs.query_window": 5}, "3600"), ({"vmm_overhead_bytes": -1}, "vmm_overhead_bytes"), ({"volume.retired_grace": "7d"}, "volume.retired_grace"),
                              ({"http_redirect": "on"}, "http_redirect"), ({"quotas.max_things": 1}, "max_things"), ({"quotas.max_apps": -1}, "quotas"), ({"port_policy.x": 1}, "unknown key")):
                path = w.d + "/bad.toml"
                text = "".join(x for x in open(w.d + "/control.toml") if x.split(" ", 1)[0] not in bad)
                with open(path, "w") as f:
                    f.write(text + "".join("%s = %s\n" % (k, json.dumps(v)) for k, v in bad.items()))
                r = subprocess.run([kit.program("moat-control"), "--config", path, "check-config"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
                assert r.returncode == 2 and says in r.stdout, (bad, r.stdout)
        finally:
            configured(**old)
        wait_for("the edge to be told of that too", lambda: "http_redirect" not in (w.edge_config() or {"http_redirect": 1}), 30)
        wait_for("its node too", lambda: 80 not in w.agent.plans[-1]["network"].get("edge_ports", []), 30)
        wait_for("what the node says", lambda: w.ok("GET", "/v1/nodes")["items"][0]["allocatable"]["memory_overhead_bytes"] == 64 << 20, 20)
        assert 10000 <= raw().json["listen_port"] <= 29999

    @case("a route says whether its name leads here, by one question in five minutes, and what has to be in the DNS; with require_domain_proof nobody routes another's name")
    def _():
        dns = dnskit.Dns()
        A, E = make("named")
        w.agent.public = {"public_ipv6": "2001:db8:7::1", "public_ipv4": "192.0.2.7"}
        V6, V4 = ("AAAA", "2001:db8:7::1"), ("A", "203.0.113.9")
        dns.records.update({"good.example.com": [V6], "alias.example.com": [("CNAME", "good.example.com")], "half.example.com": [V6, V4], "else.example.com": [("AAAA", "2001:db8::99")],
                            "many.example.com": [("AAAA", "2001:db8::%x" % i) for i in range(1, 60)], "cut.example.com": [V6], "odd.example.com": [V6], "lies.example.com": [V6],
                            "off.example.com": [V6], "mute.example.com": [V6]})
        dns.ill.update({"cut.example.com": lambda r: r[:-9], "odd.example.com": lambda r: b"\xff" * len(r), "lies.example.com": lambda r: r.replace(b"\x04lies", b"\x04good"),
                        "off.example.com": "refused", "mute.example.com": "silent"})
        zone = w.d + "/zone"
        os.makedirs(zone)
        os.chmod(zone, 0o777)
        with open(zone + "/publish", "w") as f:
            f.write("#!/bin/sh\ncat > %s/new && mv %s/new %s/now\n" % (zone, zone, zone))
        os.chmod(zone + "/publish", 0o755)
        published = lambda: json.load(open(zone + "/now")) if os.path.exists(zone + "/now") else {}
        old = configured(**{"dns.servers": [dns.address], "dns.check": True, "dns.publish_program": zone + "/publish"})
        try:
            # the platform's own domain: each environment has one name there, and its records are put into the zone
            wait_for("the node's address", lambda: w.ok("GET", "/v1/nodes")["items"][0].get("public_ipv6") == "2001:db8:7::1", 20)
            own = "%s-%s.%s" % (w.ok("GET", A)["name"], w.ok("GET", E)["name"], BASE)
            mine = lambda: [x for x in published().get("records", []) if x["name"] == own]
            assert w.ok("GET", E + "/networking")["platform_hostname"] == own
            for host in (BASE, "x" + own, "a." + own, "other-prod." + BASE):
                assert own in refused(w.q("POST", E + "/routes", {"hostname": host, "backend_process_type": "web", "backend_port": 8443}), 400, "hostname_invalid")["detail"]
            w.ok("POST", E + "/routes", {"hostname": "not" + BASE, "backend_process_type": "web", "backend_port": 8443})
            r = w.ok("POST", E + "/routes", {"hostname": own, "backend_process_type": "web", "backend_port": 8443})
            wait_for("its record", lambda: mine() == [{"name": own, "type": "AAAA", "ttl": 60, "values": ["2001:db8:7::1"]}], 40)
            assert published()["base_domain"] == BASE and published()["event_id"] > 0
            w.ok("DELETE", E + "/routes/" + r["id"], {})
            wait_for("no record any more", lambda: not mine(), 40)
            wait_for("the node's address", lambda: w.ok("GET", "/v1/nodes")["items"][0].get("public_ipv6") == "2001:db8:7::1", 20)
            assert w.ok("GET", "/v1/nodes")["items"][0]["public_ipv4"] == "192.0.2.7"
            want = {"good": True, "alias": True, "half": False, "else": False, "none": False, "many": False, "cut": None, "odd": None, "lies": None, "off": None}
            ids = {n: w.ok("POST", E + "/routes", {"hostname": n + ".example.com", "backend_process_type": "web", "backend_port": 8443})["id"] for n in [*want, "mute"]}
            raw = w.ok("POST", E + "/routes", {"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 8443})["id"]
            get = lambda n: w.ok("GET", E + "/routes/" + ids[n])
            r = get("good")
            assert r["addresses"] == ["2001:db8:7::1"] and r["dns_records"] == [{"name": "good.example.com", "type": "AAAA", "ttl": 60, "value": "2001:db8:7::1"}], r
            for n, ok in want.items():
                wait_for("an answer about " + n, lambda: get(n).get("dns_ok") == ok and dns.count(n + ".example.com") > 0, 40)
                r = get(n)
                assert r["hints"] == (["dns_mismatch"] if ok is False else []) and ("dns_checked_at" in r) == (ok is not None), r
            for _ in range(5):
                listed = {x["id"]: x for x in w.ok("GET", O + "/routes?limit=200&env_id=" + E.rsplit("/", 1)[1])["items"]}
            assert listed[ids["good"]] == get("good") and "dns_records" not in listed[raw] and "dns_ok" not in listed[raw], listed[raw]
            assert (dns.count("good.example.com"), dns.count("else.example.com"), dns.count("none.example.com")) == (2, 2, 2), dns.asked  # AAAA and A, once
            wait_for("who does not answer is asked", lambda: dns.count("mute.example.com") > 0, 60)
            begun = fair.now()
            assert "dns_ok" not in get("mute") and fair.now() - begun < 1.5, "a read waits for nobody's DNS"

            configured(require_domain_proof=True)
            proof = w.ok("GET", E + "/networking")["domain_proof"]
            assert proof["required"] is True and proof["name"] == "_moat-challenge.DOMAIN" and len(proof["value"]) == 43, proof
            make_route = lambda host, at=E: w.q("POST", at + "/routes", {"hostname": host, "backend_process_type": "web", "backend_port": 8443})
            r = make_route(own)
            assert r.status == 201, "its own name is nobody's to prove"
            named = r.json["id"]
            r = refused(make_route("www.shop.test"), 409, "domain_not_proven")
            assert r["details"]["dns_records"] == [{"name": "_moat-challenge.www.shop.test", "type": "TXT", "ttl": 300, "value": proof["value"]}] and proof["value"] in r["detail"], r
            dry = w.q("POST", E + "/routes?dry_run=true", {"hostname": "www.shop.test", "backend_process_type": "web", "backend_port": 8443})
            refused(dry, 409, "domain_not_proven")
            # the domain proves names below it, for the organisation whose text it is
            dns.records["_moat-challenge.shop.test"] = [("TXT", "v=other"), ("TXT", proof["value"])]
            made = w.ok("POST", E + "/routes", {"hostname": "www.shop.test", "backend_process_type": "web", "backend_port": 8443})
            assert {"name": "_moat-challenge.www.shop.test", "type": "TXT", "ttl": 300, "value": proof["value"]} in w.ok("GET", E + "/routes/" + made["id"])["dns_records"]
            foreign = w.ok("POST", "/v1/orgs", {"name": "foreign-names"})
            F = "/v1/orgs/%s/apps/" % foreign["id"]
            F += w.ok("POST", F[:-1], {"name": "f"})["id"]
            F += "/envs/" + w.ok("POST", F + "/envs", {"name": "prod"})["id"]
            r = refused(make_route("api.shop.test", F), 409, "domain_not_proven")
            assert r["details"]["dns_records"][0]["value"] != proof["value"], r
            for host, row in (("longer.test", ("TXT", proof["value"] + "x")), ("shorter.test", ("TXT", proof["value"][:-1])), ("huge.test", ("TXT", "y" * 900))):
                dns.records["_moat-challenge." + host] = [row]
                refused(make_route(host), 409, "domain_not_proven")
            dns.records["_moat-challenge.delegated.test"] = [("CNAME", "proofs.elsewhere.test")]
            dns.records["proofs.elsewhere.test"] = [("TXT", proof["value"])]
            assert make_route("delegated.test").status == 201
            dns.ill["_moat-challenge.broken.test"] = lambda r: r[:20]
            dns.ill["_moat-challenge.closed.test"] = "refused"
            for host in ("broken.test", "closed.test"):
                r = w.q("POST", E + "/routes", {"hostname": host, "backend_process_type": "web", "backend_port": 8443})
                assert refused(r, 503, "unavailable")["retryable"] and r.headers["Retry-After"], r.text
            # a manifest cannot do what a request may not
            text = manifest(extra='[[routes]]\nenv = "prod"\nhostname = "taken.test"\nprocess = "web"\nport = "tls"\n')
            refused(w.q("POST", E + "/deploys", {"release_id": release(A, text)["id"]}), 409, "domain_not_proven")
            dns.records["_moat-challenge.taken.test"] = [("TXT", proof["value"])]
            assert w.q("POST", E + "/deploys", {"release_id": release(A, text)["id"]}).status == 201
            assert w.q("POST", E + "/routes", {"protocol": "tcp_raw", "hostname": "any.test", "backend_process_type": "web", "backend_port": 8443}).status == 201  # leads nobody anywhere
            # a program that hangs does not hold up the server's end, and does not outlive it
            with open(zone + "/hanging", "w") as f:
                f.write("#!/bin/sh\necho $$ > %s/mark && mv %s/mark %s/hangs\nsleep 600\n" % (zone, zone, zone))
            os.chmod(zone + "/hanging", 0o755)
            os.rename(zone + "/hanging", zone + "/publish")
            w.ok("DELETE", E + "/routes/" + named, {})
            wait_for("the program", lambda: os.path.exists(zone + "/hangs"), 40)
            w.control.terminate()
            assert w.control.wait(25) == 0  # it may run for 30 s
            # it is killed with the server; whoever inherits what is left of it takes a moment
            wait_for("its end", lambda: not os.path.exists("/proc/" + open(zone + "/hangs").read().strip()))
        finally:
            w.agent.public = {}
            configured(require_domain_proof=None, **old)
            dns.close()
        wait_for("no address any more", lambda: w.ok("GET", "/v1/nodes")["items"][0].get("public_ipv6") is None, 20)

    @case("SIGTERM ends the process cleanly")
    def _():
        w.agent.stop()
        w.control.terminate()
        assert w.control.wait(25) == 0
finally:
    w.close()
kit.finish()
