#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Role x endpoint, tenant x endpoint, token state x endpoint: auth_matrix.py walked over the whole route table
(acceptance tests 7 and 8 of control-plane.md section 19).
COST 9 s, 8 s of processor."""
import json, os, re, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import auth_matrix as m
import authkit
import control_kit as kit
from authkit import Person, new_token, token_hash
from control_kit import call, case, wait_for

kit.need("auth matrix")

table = []  # (method, path) of what the API listener serves
for line in subprocess.run([kit.program("moat-control"), "--routes"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
    method, path = line.split()[:2]
    if path.startswith("/v1/"):
        table.append((method, path))

w = kit.World(allow_secret_export=True)  # off it is refused to everybody: test_control_secrets
authkit.prepare(w)
ULID = "01aryz6s4104hmasw9nf6yy093"
PREFIX = {"org_id": "org", "app_id": "app", "env_id": "env", "release_id": "rel", "deploy_id": "dep", "instance_id": "inst", "route_id": "rt",
          "member_id": "mem", "sp_id": "sp", "project_id": "prj", "node_id": "node", "token_id": "tok", "user_id": "usr", "volume_id": "vol", "attachment_id": "att", "snapshot_id": "snap", "restore_id": "rst", "migration_id": "mig", "version_id": "sv"}


def fill(path, ids):
    return re.sub(r"\{(\w+)\}", lambda x: ids.get(x.group(1)) or PREFIX.get(x.group(1), x.group(1)) + "_" + ULID, path)


def probe(path, token, ids, method):
    """One request that is authorised or not, and that does nothing when it is: no route knows the query parameter."""
    h = {"Authorization": "Bearer " + token} if token else {}
    r = call(w.api, method, fill(path, ids) + "?a_probe=1", None if method == "GET" else {}, h)
    j = r.json if r.text.startswith(b"{") else {}
    return r.status, "no owner" if j.get("detail") in OWNERS else j.get("code"), r


OWNERS = ("there is no such organisation", "there is no such app", "there is no such environment")


def passed(status, code):
    """The caller was let through to the handler, which then found nothing to do."""
    return status in (200, 400, 409, 503, 504) or status == 404 and code != "no owner"


def fixture(owner, name):
    org = owner.ok("POST", "/v1/orgs", {"name": name})["id"]
    app = owner.ok("POST", "/v1/orgs/%s/apps" % org, {"name": "one"})["id"]
    env = owner.ok("POST", "/v1/orgs/%s/apps/%s/envs" % (org, app), {"name": "prod"})["id"]
    app2 = owner.ok("POST", "/v1/orgs/%s/apps" % org, {"name": "two"})["id"]
    env2 = owner.ok("POST", "/v1/orgs/%s/apps/%s/envs" % (org, app2), {"name": "prod"})["id"]
    env3 = owner.ok("POST", "/v1/orgs/%s/apps/%s/envs" % (org, app), {"name": "test"})["id"]
    return {"org_id": org, "app_id": app, "env_id": env, "app2": app2, "env2": env2, "env3": env3}


def guard(method, path):
    return m.ROUTES["%s %s" % (method, path)]


def kind(g):
    return "op" if isinstance(g, m.op) else g if g in (m.OPEN, m.ANY, m.USER) else "scope"


def routes(*kinds):
    return [(a, b, guard(a, b)) for a, b in table if kind(guard(a, b)) in kinds]


def carried(g, scopes):
    """One of the scopes that the route takes is there."""
    return any(s in scopes for s in str(g).split("|"))


def check(bad):
    assert not bad, "%d wrong: %s" % (len(bad), "; ".join(bad[:6]))


try:
    @case("every route of the server has its line in auth_matrix.py, and every line its route")
    def _():
        have, want = {"%s %s" % r for r in table}, set(m.ROUTES)
        missing = sorted(have - want)
        assert not missing, ("routes without a line in tests/scenario/auth_matrix.py: add to ROUTES, with the scope that the "
                             "specification gives, for example:  \"%s\": \"apps:read\",  all: %s" % (missing[0], missing))
        assert not want - have, "lines without a route: %s" % sorted(want - have)

    # A route without a line is reported above; the walks below go over the others.
    table = [r for r in table if "%s %s" % r in m.ROUTES]

    owner = Person(w, "owner@a.example")
    mine = fixture(owner, "alpha")
    people = {"o": owner}
    for letter, role in (("a", "admin"), ("d", "developer"), ("r", "readonly")):
        owner.ok("POST", "/v1/orgs/%s/members" % mine["org_id"], {"email": role + "@a.example", "role": role})
        people[letter] = Person(w, role + "@a.example")
    stranger = Person(w, "owner@b.example")
    theirs = fixture(stranger, "beta")
    root = Person(w, "root@ops.example", operator=True)

    @case("the scopes that the server knows are those of section 10.4")
    def _():
        assert set(w.all_scopes) == set(m.SCOPES) | set(m.OPERATOR) , set(w.all_scopes) ^ (set(m.SCOPES) | set(m.OPERATOR))

    @case("A08 each role x each endpoint is as section 10.4 says")
    def _():
        bad, n = [], 0
        for letter, person in people.items():
            for method, path, g in routes("scope"):
                status, code, _ = probe(path, person.token, mine, method)
                allowed = any(letter in m.SCOPES[s] for s in str(g).split("|"))
                n += 1
                if allowed and not passed(status, code) or not allowed and (status, code) != (403, "insufficient_scope"):
                    bad.append("%s %s %s -> %d %s" % (letter, method, path, status, code))
        print("# %d probes" % n)
        check(bad)

    @case("no token, a false, an unknown, an expired, a revoked one x each endpoint: 401, before anything else")
    def _():
        pat = {}
        for k, extra in (("token_expired", "expires_at = now() - interval '1 second'"), ("token_revoked", "revoked_at = now()")):
            t = owner.ok("POST", "/v1/auth/tokens", {"name": k, "scopes": [s for s in w.all_scopes if s in m.SCOPES and m.SCOPES[s]]})
            w.pg.sql("UPDATE moat.personal_tokens SET %s WHERE token_id = '%s'" % (extra, t["id"]))
            pat[k] = t["token"]
        sp = owner.ok("POST", "/v1/orgs/%s/service-principals" % mine["org_id"], {"name": "gone", "scopes": ["apps:read"]})
        minted = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"],
                                                        "client_secret": sp["client_secret"]}).json["access_token"]
        owner.ok("DELETE", "/v1/orgs/%s/service-principals/%s" % (mine["org_id"], sp["id"]))
        tokens = [("unauthorized", None), ("unauthorized", "nonsense"), ("unauthorized", new_token("moat_at_")),
                  ("unauthorized", new_token("moat_pat_")), ("unauthorized", owner.refresh), ("unauthorized", sp["client_secret"]),
                  ("token_expired", pat["token_expired"]), ("token_revoked", pat["token_revoked"]), ("token_revoked", minted)]
        bad = []
        for method, path, g in routes("scope", "op", m.ANY, m.USER):
            for want, token in tokens:
                status, code, _ = probe(path, token, mine, method)
                if (status, code) != (401, want):
                    bad.append("%s %s with %s -> %d %s" % (method, path, (token or "")[:12], status, code))
        check(bad)

    @case("A07 each endpoint x foreign and mixed ids: 404, the same whether the thing exists or not")
    def _():
        nobody = dict(mine, org_id="org_" + ULID)
        mixed = [dict(mine, org_id=theirs["org_id"]), dict(theirs, org_id=mine["org_id"]), dict(mine, app_id=theirs["app_id"]),
                 dict(mine, env_id=theirs["env_id"]), dict(mine, env_id=mine["env2"]), dict(mine, app_id=mine["app2"])]
        bad = []
        for method, path, g in routes("scope"):
            def body(ids):
                status, code, r = probe(path, stranger.token, ids, method)
                j = r.json
                for k in ("request_id", "instance"):
                    j.pop(k, None)
                return status, code, json.dumps(j, sort_keys=True)
            there, absent = body(mine), body(nobody)
            if there[:2] != (404, "no owner") or there != absent:
                bad.append("%s %s: existing %s, absent %s" % (method, path, there, absent))
            for ids in mixed:
                if fill(path, ids) == fill(path, mine) or (ids["app_id"] == mine["app2"] and "{env_id}" not in path):
                    continue  # names nothing foreign
                status, code, r = probe(path, owner.token, ids, method)
                if (status, code) != (404, "no owner"):
                    bad.append("%s %s -> %d %s" % (method, fill(path, ids), status, code))
        check(bad)

    @case("A07 each endpoint x foreign ids: the database is asked the same, in the same order, whether the thing exists or not")
    def _():
        # A clock would tell of this machine; what takes the time is what is run. Statements of the workers, by their connections.
        w.pg.sql("ALTER SYSTEM SET log_statement = 'all'")
        w.pg.sql("ALTER SYSTEM SET log_line_prefix = '%p '")
        w.pg.sql("SELECT pg_reload_conf()")
        log = open(w.pg.d + "/pg.log", errors="replace")

        def asked():
            """[(connection, statement)] since the last call"""
            return [(pid, text if name == "<unnamed>" else name) for pid, name, text in re.findall(r"^(\d+) LOG:  execute (\S+?): (.*)$", log.read(), re.M)]

        # Behind a pooler (MOAT_POOLED) the workers' statements have no names, and nobody else's go through it: there their text is what is compared.
        def of_auth(statement):
            return " " in statement if os.environ.get("MOAT_POOLED") else statement.startswith("auth_")

        def first():
            log.seek(0, os.SEEK_END)
            probe("/v1/orgs/{org_id}", stranger.token, mine, "GET")
            return any(of_auth(name) for _, name in asked())
        wait_for("statements in the server's log", first)
        bad, n = [], 0
        nobody = dict(mine, org_id="org_" + ULID)
        try:
            for method, path, g in routes("scope"):
                got = []
                for ids in (mine, nobody):
                    asked()
                    probe(path, stranger.token, ids, method)
                    seen = asked()
                    mine_alone = {pid for pid, name in seen if of_auth(name)}
                    got.append([name for pid, name in seen if pid in mine_alone])
                n += len(got[0])
                if got[0] != got[1] or not got[0]:
                    bad.append("%s %s: existing %s, absent %s" % (method, path, *got))
        finally:
            w.pg.sql("ALTER SYSTEM RESET ALL")
            w.pg.sql("SELECT pg_reload_conf()")
            log.close()
        print("# %d statements compared" % n)
        check(bad)

    @case("A07 another tenant's row is not there for the database either: what a statement forgets to ask, the fence asks")
    def _():
        # An environment of the other tenant below an app of mine: the list asks for what is below the app, and for no more.
        w.pg.sql("UPDATE envs_view SET app_id = '%s', name = 'moved' WHERE env_id = '%s'" % (mine["app_id"], theirs["env_id"]))

        def seen():
            return theirs["env_id"] in [e["id"] for e in owner.ok("GET", fill("/v1/orgs/{org_id}/apps/{app_id}/envs", mine))["items"]]
        try:
            assert not seen(), "the row of another tenant was listed"
            w.pg.sql("ALTER TABLE envs_view DISABLE ROW LEVEL SECURITY")
            assert seen(), "the list does not show what the fence would have to hide"
        finally:
            w.pg.sql("ALTER TABLE envs_view ENABLE ROW LEVEL SECURITY")
            w.pg.sql("UPDATE envs_view SET app_id = '%s', name = 'prod' WHERE env_id = '%s'" % (theirs["app_id"], theirs["env_id"]))

    @case("operator endpoints: 403 for tenants; an operator needs the scope; an operator is nobody in a tenant's organisation")
    def _():
        bad = []
        for method, path, g in routes("op"):
            ids = dict(mine)
            status, code, _ = probe(path, owner.token, ids, method)
            if (status, code) != (403, "operator_only"):
                bad.append("tenant %s %s -> %d %s" % (method, path, status, code))
            status, code, _ = probe(path, root.token, ids, method)
            if not passed(status, code):
                bad.append("operator %s %s -> %d %s" % (method, path, status, code))
            without = root.login([s for s in w.all_scopes if s != g])
            status, code, _ = probe(path, without, ids, method)
            if (status, code) != (403, "insufficient_scope"):
                bad.append("without %s: %s %s -> %d %s" % (g, method, path, status, code))
            root.login()
        for method, path, g in routes("scope"):
            status, code, _ = probe(path, root.token, mine, method)
            if (status, code) != (404, "no owner"):
                bad.append("operator in a tenant: %s %s -> %d %s" % (method, path, status, code))
        check(bad)

    @case("a token without one scope x each endpoint: that scope and nothing else is missing")
    def _():
        tenant = [s for s in w.all_scopes if s in m.SCOPES and m.SCOPES[s]]
        used = sorted({s for _, _, g in routes("scope") for s in str(g).split("|")})
        bad = []
        for scope in used:
            t = owner.ok("POST", "/v1/auth/tokens", {"name": "without", "scopes": [s for s in tenant if s != scope], "org_id": mine["org_id"]})
            for method, path, g in routes("scope"):
                status, code, _ = probe(path, t["token"], mine, method)
                rest = carried(g, [s for s in tenant if s != scope])
                if not rest and (status, code) != (403, "insufficient_scope") or rest and not passed(status, code):
                    bad.append("without %s: %s %s -> %d %s" % (scope, method, path, status, code))
            owner.ok("DELETE", "/v1/auth/tokens/" + t["id"])
        check(bad)

    @case("a service principal x each endpoint: its scopes, in its organisation; never the endpoints of people and operators")
    def _():
        tenant = [s for s in w.all_scopes if s in m.SCOPES and m.SCOPES[s]]
        bad = []
        for given in (tenant, ["apps:read", "deploys:write"]):
            sp = owner.ok("POST", "/v1/orgs/%s/service-principals" % mine["org_id"], {"name": "ci", "scopes": given})
            r = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"],
                                                       "client_secret": sp["client_secret"]})
            assert r.status == 200, r.text
            token = r.json["access_token"]
            for method, path, g in routes("scope"):
                status, code, _ = probe(path, token, mine, method)
                may = carried(g, given)
                if may and not passed(status, code) or not may and (status, code) != (403, "insufficient_scope"):
                    bad.append("sp %s %s -> %d %s" % (method, path, status, code))
                status, code, _ = probe(path, token, theirs, method)
                if (status, code) != (404, "no owner"):
                    bad.append("sp abroad %s %s -> %d %s" % (method, path, status, code))
            for method, path, g in routes(m.USER, "op"):
                status, code, _ = probe(path, token, mine, method)
                if status != 403:
                    bad.append("sp %s %s -> %d %s" % (method, path, status, code))
        check(bad)

    @case("a restricted token x each endpoint: inside as its scopes say, outside 403 restricted_token")
    def _():
        tenant = [s for s in w.all_scopes if s in m.SCOPES and m.SCOPES[s]]
        bad = []
        by_app = owner.ok("POST", "/v1/auth/tokens", {"name": "a", "scopes": tenant, "restrict": {"app_ids": [mine["app_id"]]}})["token"]
        by_env = owner.ok("POST", "/v1/auth/tokens", {"name": "e", "scopes": tenant, "restrict": {"env_ids": [mine["env_id"]]}})["token"]
        other_app, other_env = dict(mine, app_id=mine["app2"], env_id=mine["env2"]), dict(mine, env_id=mine["env3"])
        denied = (403, "restricted_token")
        for method, path, g in routes("scope"):
            def see(name, token, ids, ok):
                status, code, _ = probe(path, token, ids, method)
                if ok and not passed(status, code) or not ok and (status, code) != denied:
                    bad.append("%s: %s %s -> %d %s" % (name, method, path, status, code))
            level = "env" if "{env_id}" in path else "app" if "{app_id}" in path else "org"
            if level == "org":
                see("by app", by_app, mine, isinstance(g, m.inside))
                see("by env", by_env, mine, isinstance(g, m.inside))
                continue
            see("by app", by_app, mine, True)
            see("by app, other app", by_app, other_app, False)
            see("by env, other app", by_env, other_app, False)
            if level == "env":
                see("by app, other env", by_app, other_env, True)
                see("by env", by_env, mine, True)
                see("by env, other env", by_env, other_env, False)
            else:
                see("by env, its app", by_env, mine, method == "GET" or g.startswith("releases:"))
        for method, path, g in routes(m.USER):
            status, code, _ = probe(path, by_app, mine, method)
            if (status, code) != denied:
                bad.append("restricted: %s %s -> %d %s" % (method, path, status, code))
        check(bad)

        def names(token, path):
            r = call(w.api, "GET", path, None, {"Authorization": "Bearer " + token})
            assert r.status == 200, r.text
            return sorted(x["name"] for x in r.json["items"])
        O, A = "/v1/orgs/" + mine["org_id"], "/v1/orgs/%s/apps/%s" % (mine["org_id"], mine["app_id"])
        assert names(owner.token, O + "/apps") == ["one", "two"]
        assert names(by_app, O + "/apps") == ["one"] and names(by_env, O + "/apps") == ["one"]
        assert names(by_app, A + "/envs") == ["prod", "test"] and names(by_env, A + "/envs") == ["prod"]
        seen = call(w.api, "GET", O + "/events?limit=500", None, {"Authorization": "Bearer " + by_env}).json["items"]
        assert seen and {(e["app_id"], e["env_id"]) for e in seen} == {(mine["app_id"], mine["env_id"])}, seen

    @case("any token reads whoami and its organisations; a disabled account nothing; back again when enabled")
    def _():
        for person in list(people.values()) + [stranger]:
            me = person.ok("GET", "/v1/auth/whoami")
            assert me["email"] == person.email and len(me["orgs"]) == 1 and not me["is_operator"], me
            assert set(me["scopes"]) & set(m.OPERATOR) == set(), me
            assert [o["id"] for o in person.ok("GET", "/v1/orgs")["items"]] == [me["orgs"][0]["org_id"]]
        u = root.ok("GET", "/v1/users?email=readonly@a.example")["items"][0]
        root.ok("PATCH", "/v1/users/" + u["id"], {"state": "disabled", "expected_version": u["resource_version"]})
        bad = []
        for method, path, g in routes("scope", m.ANY, m.USER, "op"):
            status, code, _ = probe(path, people["r"].token, mine, method)
            if (status, code) != (403, "account_disabled"):
                bad.append("%s %s -> %d %s" % (method, path, status, code))
        root.ok("PATCH", "/v1/users/" + u["id"], {"state": "active", "expected_version": u["resource_version"] + 1})
        assert people["r"].ok("GET", "/v1/auth/whoami")
        check(bad)

    @case("the probes have changed nothing")
    def _():
        E = "/v1/orgs/%s/apps/%s/envs/%s" % (mine["org_id"], mine["app_id"], mine["env_id"])
        assert owner.ok("GET", E)["name"] == "prod"
        kinds = w.pg.sql("SELECT string_agg(DISTINCT event_type, ' ') FROM moat.events WHERE org_id = '%s'" % mine["org_id"]).split()
        assert set(kinds) == {"org.created", "org_member.added", "org_member.activated", "app.created", "env.created",
                              "service_principal.created", "service_principal.deleted"}, kinds
finally:
    w.close()
kit.finish()
