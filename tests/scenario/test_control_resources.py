#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Tenant resources over HTTP: change, remove, versions, keys, lists, dry runs (control-plane.md 3, 7, 9). Needs root."""
import base64, concurrent.futures, json, os, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for, call

if os.geteuid() != 0:
    kit.skip("control resources", "needs root")
    sys.exit(0)
if not kit.program("moat-control"):
    kit.skip("control resources", "moat-control is not built")
    sys.exit(0)

w = kit.World()
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
            refused(w.q("PATCH", path, {field: old.json.get(field), "expected_version": v}), 400,
                    "no_changes" if field in old.json else "no_changes")
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
        e = w.ok("PATCH", E, {"label_selector": {"disk": "nvme"}, "backup_interval_seconds": 3600, "expected_version": 1})
        assert e["label_selector"] == {"disk": "nvme"} and e["backup_interval_seconds"] == 3600, e
        refused(w.q("PATCH", E, {"label_selector": {"a": 1}, "expected_version": 2}), 400, "invalid_argument")
        e = w.ok("PATCH", E, {"label_selector": None, "expected_version": 2})
        assert "label_selector" not in e and w.ok("GET", E) == e, e

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
        assert sorted(types) == ["app.deleted", "env.deleted", "env.deleted", "route.deleted"], types
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
        before = w.pg.sql(noted)
        time.sleep(0.5)
        assert w.pg.sql(noted) == before, "the scheduler goes on writing about an environment that is gone"
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

    @case("acceptance 2: every mutation repeated with its key has one effect, with another body it is refused, 50 at once too")
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
            ("PATCH", E, {"private_network": True, "expected_version": 1}, {"private_network": False, "expected_version": 1}),
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

    @case("acceptance 3: 200 parallel creates of one name make one app; the log has no gap")
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
                ("DELETE", E + "?cascade=true", {}, ["route.deleted", "env.deleted"]),
                ("DELETE", A + "?cascade=true", {}, ["route.deleted", "env.deleted", "app.deleted"])):
            path += ("&" if "?" in path else "?") + "dry_run=true"
            r = w.q(method, path, body, key="dry-%s-%s" % (method, path[-60:].replace("/", "_")))
            assert r.status == 200 and r.json["dry_run"] is True, r.text
            assert [c["event_type"] for c in r.json["changes"]] == types, r.json["changes"]
            assert "X-Event-Id" not in r.headers
        refused(w.q("DELETE", A + "?dry_run=true"), 409, "has_dependents")
        refused(w.q("POST", E + "/routes?dry_run=true", {"hostname": "dry.example.com", "backend_process_type": "web", "backend_port": 8443}),
                409, "hostname_taken")
        refused(w.q("POST", A + "/envs?dry_run=true", {"name": "x"}), 400, "invalid_argument")
        assert events_after(n) == [], events_after(n)

    @case("SIGTERM ends the process cleanly")
    def _():
        w.agent.stop()
        w.control.terminate()
        assert w.control.wait(25) == 0
finally:
    w.close()
kit.finish()
