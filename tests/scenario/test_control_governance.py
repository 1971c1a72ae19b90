#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Limits of organisations, rates of requests, the operators' switches and usage, over the API with a real PostgreSQL.
COST 33 s, 13 s of processor."""
import concurrent.futures, datetime, json, os, socket, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for, call

kit.need("control governance")

w = kit.World()
D1, D2 = ("sha256:" + c * 64 for c in "12")
MIB, GIB = 1 << 20, 1 << 30


def manifest(memory="128Mi", cpu="0.5", scale=1, host=None):
    routes = '[[routes]]\nenv = "prod"\nhostname = "%s"\nprocess = "web"\nport = "tls"\n' % host if host else ""
    return """schema_version = "v1"
[app]
name = "hello"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[processes.web.resources]
memory = "%s"
cpu = %s
[processes.web.scaling]
min = %d
[[processes.web.ports]]
name = "tls"
internal = 8443
%s""" % (memory, cpu, scale, routes)


# One request after the other as nobody, on one connection: "METHOD TARGET [BODY]" in, status and chosen headers out.
AS_NOBODY = r"""
import json, sys, http.client
sys.path.insert(0, sys.argv[2]); from control_kit import UnixHTTP
c = UnixHTTP(sys.argv[1], 20)
for line in sys.stdin:
    method, target, body = json.loads(line)
    h = {"Authorization": "Bearer " + sys.argv[3]}
    if body is not None: h["Content-Type"] = "application/json"
    c.request(method, target, None if body is None else json.dumps(body), h)
    r = c.getresponse(); text = r.read().decode()
    print(json.dumps({"status": r.status, "body": text, "headers": {k.lower(): v for k, v in r.getheaders()}}), flush=True)
"""


class Nobody:
    def __init__(self):
        self.p = subprocess.Popen(["/usr/bin/python3", "-c", AS_NOBODY, w.api, os.path.dirname(os.path.abspath(__file__)), w.token],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[])

    def q(self, method, target, body=None):
        self.p.stdin.write(json.dumps([method, target, body]) + "\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())

    def close(self):
        self.p.stdin.close()
        self.p.wait(20)


try:
    org = w.ok("GET", "/v1/orgs")["items"][0]
    O = "/v1/orgs/" + org["id"]
    w.agent.start()
    w.start_edge()

    def quota(dimension):
        return [q for q in w.ok("GET", O + "/quotas")["items"] if q["dimension"] == dimension][0]

    def limit(dimension, n, where=None):
        return w.ok("PUT", (where or O) + "/quotas/" + dimension, {"limit": n, "reason": "test"})

    def refused(r, dimension):
        assert r.status == 409 and r.json["code"] == "quota_exceeded", r.text
        assert r.json["details"]["dimension"] == dimension, r.text
        return r.json["details"]

    def make_env(app, env, rel_manifest=None):
        a = w.ok("POST", O + "/apps", {"name": app})["id"]
        e = w.ok("POST", O + "/apps/%s/envs" % a, {"name": env})["id"]
        return O + "/apps/" + a, O + "/apps/%s/envs/%s" % (a, e)

    def release(A, text, digest=D1):
        return w.ok("POST", A + "/releases", {"manifest": text, "image_digest": digest, "verify_image": False})["id"]

    def deployed(E, rel):
        d = w.ok("POST", E + "/deploys", {"release_id": rel})
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 30)
        return d

    def nothing_under_way():
        wait_for("nothing that starts or stops", lambda: w.pg.sql("SELECT count(*) FROM moat_views.instances_view WHERE released_at IS NULL AND"
                                                                 " (desired_state <> 'running' OR status <> 'ready')") == "0", 60)

    def put_scale(E, n, version=None):
        v = w.ok("GET", E + "/scale")["resource_version"] if version is None else version
        return w.q("PUT", E + "/scale", {"processes": [{"process_type": "web", "desired": n}], "expected_version": v})

    @case("quotas are told with limit, use and source; overrides are set with a reason, and taken back")
    def _():
        q = quota("max_apps")
        assert q["limit"] == 200 and q["used"] == 0 and q["source"] == "paid", q
        assert w.q("PUT", O + "/quotas/max_apps", {"limit": 3}).status == 400  # a reason is needed
        assert w.q("PUT", O + "/quotas/max_apps", {"limit": -1, "reason": "x"}).status == 400
        assert w.q("PUT", O + "/quotas/max_apps", {"limit": "3", "reason": "x"}).status == 400
        assert w.q("PUT", O + "/quotas/max_nothing", {"limit": 3, "reason": "x"}).status == 404
        r = limit("max_apps", 3)
        assert r["limit"] == 3 and r["source"] == "override", r
        ev = w.ok("GET", O + "/events?event_type=org.quota_set")["items"][-1]
        assert ev["payload"] == {"dimension": "max_apps", "limit": 3, "previous": None, "reason": "test"}, ev
        a = w.ok("GET", O + "/audit?action=quota.set")["items"]
        ok = [x for x in a if x["result"] == "ok"]
        assert len(ok) == 1 and ok[0]["event_id"] == ev["event_id"] and ok[0]["reason"] == "test", a
        assert limit("max_apps", None)["source"] == "paid"
        assert quota("max_apps")["limit"] == 200

    @case("a count at its limit refuses one more and says by how much; a delete makes room")
    def _():
        limit("max_projects", 2)
        ids = [w.ok("POST", O + "/projects", {"name": n})["id"] for n in ("one", "two")]
        d = refused(w.q("POST", O + "/projects", {"name": "three"}), "max_projects")
        assert d == {"dimension": "max_projects", "limit": 2, "current": 2, "requested": 1}, d
        r = w.q("POST", O + "/projects?dry_run=true", {"name": "three"})
        assert r.status in (400, 409), r.text  # where a dry run is offered, the check runs in it
        v = w.ok("GET", O + "/projects/" + ids[0])["resource_version"]
        w.ok("DELETE", O + "/projects/" + ids[0], None, None, (200,), If_Match='"%d"' % v)
        w.ok("POST", O + "/projects", {"name": "three"})
        limit("max_projects", 1)  # below what is there: nothing is taken away, nothing more is made
        assert quota("max_projects")["used"] == 2
        refused(w.q("POST", O + "/projects", {"name": "four"}), "max_projects")
        w.ok("DELETE", O + "/projects/" + ids[1])
        limit("max_projects", None)

    @case("fifty makers at once and five places: exactly five are made")
    def _():
        used = quota("max_apps")["used"]
        limit("max_apps", used + 5)
        with concurrent.futures.ThreadPoolExecutor(50) as ex:
            rs = list(ex.map(lambda i: w.q("POST", O + "/apps", {"name": "race-%d" % i}), range(50)))
        assert sorted({r.status for r in rs}) == [201, 409], [(r.status, r.text) for r in rs][:3]
        assert sum(r.status == 201 for r in rs) == 5
        for r in rs:
            if r.status != 201:
                refused(r, "max_apps")
        assert quota("max_apps")["used"] == used + 5
        limit("max_apps", None)

    @case("A14 two scale-ups that together exceed: one succeeds")
    def _():
        envs = []
        for i in range(8):
            A, E = make_env("scale-%d" % i, "prod")
            deployed(E, release(A, manifest(memory="64Mi", cpu="0.1")))
            envs.append(E)
        for turn in range(6):
            limit("max_instances", 8 + 3)  # eight run; each scale-up wants two more
            versions = [w.ok("GET", E + "/scale")["resource_version"] for E in envs]
            with concurrent.futures.ThreadPoolExecutor(8) as ex:
                rs = list(ex.map(lambda k: put_scale(envs[k], 3, versions[k]), range(8)))
            won = [i for i, r in enumerate(rs) if r.status == 200]
            assert len(won) == 1, [(r.status, r.text) for r in rs]
            for i, r in enumerate(rs):
                if i not in won:
                    d = refused(r, "max_instances")
                    assert (d["limit"], d["requested"]) == (11, 2) and d["current"] in (8, 10), d
            assert put_scale(envs[won[0]], None).status == 200  # going down is always allowed
        limit("max_instances", 2)
        assert put_scale(envs[0], 1).status == 200  # above the limit: the same and less pass, more does not
        refused(put_scale(envs[0], 2), "max_instances")
        limit("max_instances", None)

    @case("memory and processor sums count caps with overhead, and the size of one instance")
    def _():
        A, E = make_env("sums", "prod")
        rel = release(A, manifest(memory="256Mi", cpu="1.0", scale=2))
        wait_for("what was scaled down to be gone", lambda: quota("max_instances")["used"] == 8, 60)
        before = {d: quota(d)["used"] for d in ("max_total_memory_bytes", "max_total_cpu_millis")}
        wanted = w.pg.sql("SELECT count(*) FROM instances_view WHERE released_at IS NULL AND status <> 'stopped'")
        assert int(wanted) >= 8
        limit("max_instance_memory_bytes", 255 * MIB)
        d = refused(w.q("POST", E + "/deploys", {"release_id": rel}), "max_instance_memory_bytes")
        assert d["limit"] == 255 * MIB and d["requested"] == 256 * MIB, d
        limit("max_instance_memory_bytes", None)
        total = 8 * (64 + 64) * MIB  # the eight of the case before, as wanted
        limit("max_total_memory_bytes", total + 2 * (256 + 64) * MIB - 1)
        d = refused(w.q("POST", E + "/deploys", {"release_id": rel}), "max_total_memory_bytes")
        assert d["current"] == total and d["requested"] == 2 * (256 + 64) * MIB, d
        limit("max_total_memory_bytes", None)
        limit("max_total_cpu_millis", 8 * 100 + 1999)
        d = refused(w.q("POST", E + "/deploys", {"release_id": rel}), "max_total_cpu_millis")
        assert d["current"] == 800 and d["requested"] == 2000, d
        limit("max_total_cpu_millis", 8 * 100 + 2000)
        deployed(E, rel)
        limit("max_total_cpu_millis", None)
        assert quota("max_total_cpu_millis")["used"] >= before["max_total_cpu_millis"] + 2000

    @case("routes and ports of a manifest count too; a second name on the same port is no new port")
    def _():
        A, E = make_env("routed", "prod")
        limit("max_routes", 0)
        refused(w.q("POST", E + "/deploys", {"release_id": release(A, manifest(host="r.example.com"))}), "max_routes")
        limit("max_routes", None)
        limit("max_public_ports", 1)
        deployed(E, release(A, manifest(host="r.example.com")))
        w.ok("POST", E + "/routes", {"hostname": "s.example.com", "backend_process_type": "web", "backend_port": 8443})
        refused(w.q("POST", E + "/routes", {"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 8443}), "max_public_ports")
        limit("max_public_ports", None)

    @case("deploys of an environment are counted over the hour")
    def _():
        A, E = make_env("often", "prod")
        rel = release(A, manifest(memory="64Mi", cpu="0.1"))
        limit("max_deploys_per_env_hour", 2)
        deployed(E, rel)
        w.ok("POST", E + "/restarts", {})
        d = refused(w.q("POST", E + "/restarts", {}), "max_deploys_per_env_hour")
        assert d["current"] == 2, d
        limit("max_deploys_per_env_hour", None)

    @case("the scheduler blocks a group for quota, names the dimension, and goes on when there is room")
    def _():
        A, E = make_env("blocked", "prod")
        deployed(E, release(A, manifest(memory="64Mi", cpu="0.1")))
        assert put_scale(E, 3).status == 200
        wait_for("three", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 3, 30)
        limit("max_instances", 0)
        w.ok("POST", E + "/restarts", {})  # asks for no more than is there, but has to start before it stops
        s = wait_for("blocked", lambda: (lambda p: p if p["sched_condition"] == "blocked" else None)(w.ok("GET", E + "/status")["processes"][0]), 40)
        assert s["reason"] == "org_quota_exceeded" and "max_instances" in json.dumps(s), s
        # since when, and what makes it go on: of the block, not of whatever changed last in the group
        began = w.pg.sql("SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM moat.events WHERE env_id = '%s'"
                         " AND event_type = 'env.scheduling_changed' AND payload->>'condition' = 'blocked'" % E.rsplit("/", 1)[1])
        assert (s["since"], s["next_try"], s["matching"]) == (began, "room", 0) and "next_try_at" not in s, (s, began)
        w.ok("POST", "/v1/admin/scheduler/pause", {"reason": "look"})
        assert w.ok("GET", E + "/status")["processes"][0]["next_try"] == "resume"
        w.ok("POST", "/v1/admin/scheduler/resume", {"reason": "looked"})
        w.ok("POST", E + "/restarts", {})
        again = w.ok("GET", E + "/status")["processes"][0]
        assert (again["since"], again["next_try"]) == (began, "room"), (again, began)
        assert len(w.ok("GET", E + "/instances?status=ready")["items"]) == 3, "lowering a limit took work away"
        limit("max_instances", None)
        wait_for("ok again", lambda: w.ok("GET", E + "/status")["processes"][0]["sched_condition"] == "ok", 40)
        s = w.ok("GET", E + "/status")["processes"][0]
        assert s["since"] > began and "next_try" not in s, s
        wait_for("three ready", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 3, 40)
        # room for what runs and for no more: the old go first, and the deploy says so, also when it is done (control-plane.md 5.3)
        wait_for("nothing else to be there", lambda: w.pg.sql("SELECT count(*) FROM moat_views.instances_view WHERE released_at IS NULL AND desired_state <> 'running'") == "0", 60)
        limit("max_instances", quota("max_instances")["used"])
        try:
            d = w.ok("POST", E + "/restarts", {})["id"]
            said = wait_for("what it says", lambda: (lambda m: m if "surge_unavailable" in m else None)(w.ok("GET", E + "/deploys/" + d).get("message", "")), 40)
            assert said == "process 'web': surge_unavailable, old instances are drained before new ones start", said
        finally:
            limit("max_instances", None)

    @case("quarantine: the node's plan names the addresses, for an instance, its environment, its organisation, until it is taken back")
    def _():
        E = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        i = wait_for("an instance", lambda: w.ok("GET", E + "/instances?status=ready")["items"], 20)[0]

        def named():
            return w.agent.plans[-1]["network"]["quarantine"]
        all_of_env = {x["overlay_ipv6"] for x in w.ok("GET", E + "/instances")["items"]}
        assert named() == []
        for kind, target in (("instance", i["id"]), ("env", i["env_id"]), ("org", org["id"])):
            body = {"target_type": kind, "target_id": target, "reason": "spam"}
            assert w.q("POST", "/v1/quarantine", {"target_type": kind, "target_id": target}).status == 400  # a reason is needed
            q = w.ok("POST", "/v1/quarantine", body, want=(201,))
            assert w.ok("POST", "/v1/quarantine", body) == q and w.ok("GET", "/v1/quarantine")["items"] == [q], q  # told twice, set once
            wait_for("the plan", lambda: i["overlay_ipv6"] in named())
            assert (set(named()) == {i["overlay_ipv6"]}) if kind == "instance" else (set(named()) >= all_of_env), (kind, named())
            assert w.q("DELETE", "/v1/quarantine/" + target, {}).status == 400
            assert w.ok("DELETE", "/v1/quarantine/" + target, {"reason": "clean"}) == {"ok": True, "already_deleted": False}
            assert w.ok("DELETE", "/v1/quarantine/" + target, {"reason": "clean"})["already_deleted"]
            wait_for("the plan without it", lambda: named() == [])
        for kind, target, status in (("node", org["id"], 400), ("env", org["id"], 400), ("env", "env_" + "0" * 26, 404), ("instance", "x", 400)):
            assert w.q("POST", "/v1/quarantine", {"target_type": kind, "target_id": target, "reason": "x"}).status == status, (kind, target)
        assert w.q("DELETE", "/v1/quarantine/env_" + "0" * 26, {"reason": "x"}).status == 404
        seen = [e for e in w.ok("GET", O + "/events?limit=500&order=desc")["items"] if e["event_type"].startswith("quarantine.")]
        assert not seen, seen  # operators only
        assert len(w.ok("GET", "/v1/admin/events?event_type=quarantine.*")["items"]) == 6

    @case("the scheduler is paused and goes on; a group is held and let go; explain tells both, and each node's answer")
    def _():
        nothing_under_way()  # a pass that had begun before the pause would end after it
        A, E = make_env("handled", "prod")
        env = E.rsplit("/", 1)[1]
        G = "/v1/admin/groups/%s/web/" % env
        assert w.q("POST", G + "hold", {"reason": "x"}).status == 404  # nothing was ever deployed
        assert w.q("POST", "/v1/admin/scheduler/pause", {}).status == 400
        w.ok("POST", "/v1/admin/scheduler/pause", {"reason": "thrashing"})
        s = w.ok("GET", "/v1/admin/scheduler")
        assert s["paused"] and s["reason"] == "thrashing" and s["leader"]["holder"], s
        first = release(A, manifest(memory="64Mi", cpu="0.1"))
        d = w.ok("POST", E + "/deploys", {"release_id": first})
        assert {"type": "scheduler_paused"} in w.ok("GET", E + "/status")["conditions"]
        # anything that the scheduler would do by itself: another environment's instance that asks to be replaced
        B = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        passes = w.pg.sql("SELECT count(*) FROM moat.events WHERE actor_id = 'scheduler' AND event_type = 'instance.allocated'")
        w.ok("POST", B + "/restarts", {})
        e = w.ok("GET", "/v1/admin/explain?env_id=" + env)
        assert e["scheduler"]["paused"] and e["placement"][0]["process_type"] == "web" and e["placement"][0]["desired"] == 1, e
        node = e["placement"][0]["nodes"][0]
        assert node["node_id"] == w.agent.node_id and node["takes_one_more"], node
        w.kill_control()  # nor does the next server begin by itself
        w.start_control()
        wait_for("a leader", lambda: w.ok("GET", "/v1/admin/scheduler")["leader"]["epoch"] > s["leader"]["epoch"], 30)
        wait_for("a node that would take it", lambda: w.ok("GET", "/v1/nodes/" + w.agent.node_id)["health"] == "ready", 30)
        assert not w.ok("GET", E + "/instances")["items"]
        now = w.pg.sql("SELECT count(*) FROM moat.events WHERE actor_id = 'scheduler' AND event_type = 'instance.allocated'")
        assert now == passes, (now, passes)
        w.ok("POST", "/v1/admin/scheduler/resume", {"reason": "done"})
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 40)
        assert {"type": "scheduler_paused"} not in w.ok("GET", E + "/status")["conditions"]
        # a held group gets nothing new, and its deploy says who holds it
        g = w.ok("POST", G + "hold", {"reason": "look at it"})
        assert g == {"env_id": env, "process_type": "web", "condition": "held", "detail": "held by an operator: look at it"}, g
        assert w.ok("POST", G + "hold", {"reason": "look at it"}) == g
        assert [x["env_id"] for x in w.ok("GET", "/v1/admin/scheduler")["waiting"] if x["condition"] == "held"] == [env]
        c = [x for x in w.ok("GET", E + "/status")["conditions"] if x["type"] == "held"]
        assert c and c[0]["detail"] == g["detail"], c
        assert w.ok("GET", E + "/status")["processes"][0]["next_try"] == "command"
        before = {x["id"] for x in w.ok("GET", E + "/instances")["items"]}
        put = put_scale(E, 2)
        assert put.status == 200, put.text  # a tenant's own command ends a hold, as it ends one after failed attempts
        wait_for("two", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 2, 30)
        w.ok("POST", G + "hold", {"reason": "again"})
        w.ok("POST", G + "resume", {"reason": "good"})
        assert w.ok("POST", G + "resume", {"reason": "good"})["condition"] == "ok"
        assert before < {x["id"] for x in w.ok("GET", E + "/instances")["items"]}
        one = w.ok("GET", E + "/instances?status=ready")["items"][0]["id"]
        why = w.ok("GET", "/v1/admin/explain?instance_id=" + one)
        assert why["instance_id"] == one and [x["event_type"] for x in why["why"]].count("instance.allocated") == 1, why["why"]
        # one that failed and that its agent tries again: when
        w.agent.report(one, "failed", reason_code="crash_loop_backoff", next_retry_at="2099-01-02T03:04:05.000000Z")
        s = w.ok("GET", E + "/status")["processes"][0]
        assert (s["sched_condition"], s["next_try"], s["next_try_at"], s["failed"]) == ("ok", "time", "2099-01-02T03:04:05.000000Z", 1), s
        w.agent.report(one, "ready")
        assert "next_try" not in w.ok("GET", E + "/status")["processes"][0]
        for q in ("", "?env_id=%s&instance_id=%s" % (env, one), "?env_id=", "?instance_id=" + env):
            assert w.q("GET", "/v1/admin/explain" + q).status in (400, 404), q
        put_scale(E, 0)
        wait_for("all that shall stop is gone", lambda: w.pg.sql("SELECT count(*) FROM moat_views.instances_view WHERE released_at IS NULL"
                                                                 " AND (desired_state <> 'running' OR env_id = '%s')" % env) == "0", 40)

    @case("what fails again and again is told as that: an event every five minutes, until it is ready again")
    def _():
        A, E = make_env("looping", "prod")
        w.ok("POST", E + "/deploys", {"release_id": release(A, manifest(memory="64Mi", cpu="0.1"))})
        one = wait_for("an instance", lambda: w.ok("GET", E + "/instances?status=ready")["items"], 20)[0]["id"]
        w.ok("POST", "/v1/admin/scheduler/pause", {"reason": "nothing is replaced meanwhile"})
        try:
            told = lambda: [e["payload"] for e in w.ok("GET", O + "/events?event_type=instance.status_changed&limit=500&aggregate_id=" + one)["items"]]
            tries = 4

            def attempt():
                nonlocal tries
                tries += 1
                boot = "boot_%s%02d" % (one[5:-2], tries)
                got = [w.agent.report(one, "booting", status_detail="booting_vm", boot_id=boot, restart_count=tries), w.agent.report(one, "starting", boot_id=boot, restart_count=tries),
                       w.agent.report(one, "unready", boot_id=boot, restart_count=tries),
                       w.agent.report(one, "failed", status_detail="backoff", boot_id=boot, restart_count=tries + 1, reason_code="crash_loop_backoff", reason_detail="workload_exited", exit_code=3)]
                return [g.json["accepted"] for g in got]
            assert attempt() == [1, 1, 1, 1], "the first that is called a loop is told in full"
            before = told()
            assert attempt() == attempt() == [0, 0, 0, 0] and told() == before
            for minute in range(60):
                w.pg.sql("UPDATE moat_views.instances_view SET updated_at = updated_at - interval '1 minute' WHERE instance_id = '%s'" % one)
                attempt()
            hour = told()[len(before):]
            assert 11 <= len(hour) <= 12 and all(p["status"] == "failed" for p in hour), hour
            assert hour[-1]["restart_count"] - hour[-2]["restart_count"] == 5, hour[-2:]
            assert w.agent.report(one, "failed", reason_code="workload_exited", exit_code=4, restart_count=tries).json["accepted"] == 1  # given up: no wait for another attempt
            assert attempt()[:3] == [1, 1, 1]
            assert attempt() == [0, 0, 0, 0]
            assert w.agent.report(one, "ready", restart_count=tries).json["accepted"] == 1 and told()[-1]["status"] == "ready"
            assert w.agent.report(one, "unready", restart_count=tries).json["accepted"] == 1
            assert w.agent.report(one, "ready", restart_count=tries).json["accepted"] == 1
        finally:
            w.ok("POST", "/v1/admin/scheduler/resume", {"reason": "looked"})

    @case("usage per environment and hour equals a replay of the log")
    def _():
        u = [x for kind in ("vcpu", "memory") for x in w.ok("GET", O + "/usage?limit=200&kind=" + kind)["items"]]
        assert u, "no usage"
        ev = json.loads(w.pg.sql("SELECT json_agg(json_build_object('t', event_type, 'id', aggregate_id, 'env', env_id, 'p', payload,"
                                 " 'us', (extract(epoch FROM occurred_at) * 1000000)::bigint) ORDER BY event_id) FROM moat.events"
                                 " WHERE event_type IN ('instance.allocated', 'instance.released')"))
        live, spans = {}, []
        for e in ev:
            if e["t"] == "instance.allocated":
                live[e["id"]] = e
            else:
                a = live.pop(e["id"])
                spans.append((a["env"], a["p"]["resources"], a["us"], e["us"]))
        assert spans, "nothing was released"
        ended = {s[0] for s in spans} - {e["env"] for e in live.values()}
        hour = 3600 * 10**6
        want = {}
        for env, res, a, b in spans:
            for h in range(a // hour, b // hour + 1):
                us = min(b, (h + 1) * hour) - max(a, h * hour)
                for kind, size, per in (("vcpu", res["cpu_millis"], 10**6), ("memory", res["memory_bytes"], MIB * 10**6)):
                    n, _ = want.get((env, h, kind), (0, 0))
                    want[(env, h, kind)] = (n + size * us, per)
        got = {}
        for x in u:
            t = datetime.datetime.fromisoformat(x["from"].replace("Z", "+00:00"))
            got[(x["env_id"], int(t.timestamp()) // 3600, x["kind"])] = x["quantity"]
        for k, (n, per) in want.items():
            if k[0] in ended:
                assert got[k] == n // per, (k, got.get(k), n // per)
            else:
                assert got[k] >= n // per, (k, got[k], n // per)
        for bad in ("since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z", "kind=disk", "env_id=x", "until=2026-01-01T00:00:00Z&since=2026-01-02T00:00:00Z"):
            assert w.q("GET", O + "/usage?" + bad).status == 400, bad

    @case("exec grants that come at once: two for an instance, as many as the organisation may have, never one more")
    def _():
        E = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        one = wait_for("an instance", lambda: w.ok("GET", E + "/instances?status=ready")["items"], 20)[0]

        def grant(_=None):
            r = w.q("POST", E + "/instances/%s/exec" % one["id"], {"command": ["true"]})
            return r.status, r.json.get("code") or r.json["exec_session_id"]
        for limit, most in ((None, 2), (1, 1)):
            w.ok("PUT", O + "/quotas/max_exec_sessions", {"limit": limit, "reason": "test"})
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                got = list(pool.map(grant, range(24)))
            made = [x for s, x in got if s == 201]
            assert len(made) == most and all(x == (429, "too_many_exec_sessions") for x in got if x[0] != 201), got
            assert quota("max_exec_sessions")["used"] == most
            for x in made:
                w.ok("DELETE", E + "/exec-sessions/" + x)
            assert quota("max_exec_sessions")["used"] == 0 and quota("max_exec_sessions")["source"] == ("override" if limit else "paid")
        # an operator's higher limit is the organisation's: that of an instance stands
        w.ok("PUT", O + "/quotas/max_exec_sessions", {"limit": 30, "reason": "test"})
        assert [grant()[0] for _ in range(3)] == [201, 201, 429]
        for x in w.ok("GET", E + "/exec-sessions?status=granted")["items"]:
            w.ok("DELETE", E + "/exec-sessions/" + x["id"])
        w.ok("PUT", O + "/quotas/max_exec_sessions", {"limit": None, "reason": "test"})

    @case("exec: which states may be entered; ten sessions for an environment; a hundred grants an hour; one that nobody uses ends as connect_timeout")
    def _():
        E = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        had = [s["desired"] for s in w.ok("GET", E + "/scale")["processes"] if s["process_type"] == "web"][0]
        assert put_scale(E, 6).status == 200
        six = wait_for("six instances", lambda: (lambda x: len(x) == 6 and x)(w.ok("GET", E + "/instances?status=ready")["items"]), 30)

        def grant(i):
            return w.q("POST", E + "/instances/%s/exec" % i["id"], {"command": ["true"]})

        def take_back(r):
            assert r.status == 201, r.text
            w.ok("DELETE", E + "/exec-sessions/" + r.json["exec_session_id"])
        was = "UPDATE moat_views.instances_view SET status = '%s' WHERE instance_id = '" + six[0]["id"] + "'"
        want = was.replace("status", "desired_state")
        w.ok("POST", "/v1/admin/scheduler/pause", {"reason": "states of an instance are written by hand"})
        try:
            for status in ("booting", "starting", "ready", "unready", "draining", "stopped", "failed"):  # no plan holds it, so no agent sees it
                w.pg.sql(was % status)
                r = grant(six[0])
                w.pg.sql(was % "ready")
                if status in ("starting", "ready", "unready"):
                    take_back(r)
                else:
                    assert r.status == 409 and r.json["code"] == "instance_not_execable" and status in r.json["detail"], (status, r.text)
            for desired in ("draining", "stopped"):  # observed ready, and shall not be
                w.pg.sql(want % desired)
                r = grant(six[0])
                assert r.status == 409 and r.json["code"] == "instance_not_execable" and desired in r.json["detail"], (desired, r.text)
        finally:
            w.pg.sql(was % "ready")
            w.pg.sql(want % "running")
            w.ok("POST", "/v1/admin/scheduler/resume", {"reason": "they are as they were"})
        w.ok("PUT", O + "/quotas/max_exec_sessions", {"limit": 30, "reason": "test"})
        got = [grant(i) for i in six for _ in range(2)]
        assert [r.status for r in got] == [201] * 10 + [429] * 2 and got[-1].json["code"] == "too_many_exec_sessions", [r.text for r in got]
        for r in got[:10]:
            take_back(r)
        count = "SELECT count(*) FROM moat_views.exec_sessions_view WHERE org_id = '%s' AND created_at > now() - interval '1 hour'" % org["id"]
        for _ in range(100 - int(w.pg.sql(count))):
            take_back(grant(six[1]))
        r = grant(six[1])
        assert r.status == 429 and r.json["code"] == "too_many_exec_sessions" and "100" in r.json["detail"] and w.pg.sql(count) == "100", r.text
        w.pg.sql("UPDATE moat_views.exec_sessions_view SET created_at = created_at - interval '61 minutes'")
        unused = grant(six[1]).json["exec_session_id"]  # the hour has passed
        w.pg.sql("UPDATE moat_views.exec_sessions_view SET expires_at = now() - interval '6 seconds' WHERE session_id = '%s'" % unused)
        wait_for("the end of what nobody used", lambda: w.ok("GET", E + "/exec-sessions/" + unused)["status"] == "ended", 30)
        ended = w.ok("GET", O + "/events?event_type=exec_session.ended&aggregate_id=%s" % unused)["items"]
        assert [e["payload"]["end_reason"] for e in ended] == ["connect_timeout"], ended
        w.ok("PUT", O + "/quotas/max_exec_sessions", {"limit": None, "reason": "test"})
        assert put_scale(E, had).status == 200
        # The next case takes an instance that stays, and looks at who waits for the log: nothing of this is on its way any more.
        wait_for("as many as before", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == had, 60)
        nothing_under_way()

    @case("a session that is ended while it connects: 409, not an error of the server")
    def _():
        E = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        one = w.ok("GET", E + "/instances?status=ready")["items"][0]["id"]
        s = w.ok("POST", E + "/instances/%s/exec" % one, {"command": ["true"]})
        ws = {"Authorization": "Bearer " + s["session_token"], "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "moat.exec.v1"}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            with kit.HeldLog(w.pg) as log:
                end = pool.submit(w.q, "DELETE", E + "/exec-sessions/" + s["exec_session_id"])
                wait_for("its end in the queue", log.waited_for)
                since = time.time()
                connect = pool.submit(kit.call, w.api, "GET", "/v1/exec-sessions/%s/connect" % s["exec_session_id"], None, ws)
                wait_for("its token used", lambda: log.asked("SET used_at = now(), alive_at", since))
            assert end.result(20).status == 200, end.result().text
            got = connect.result(20)
        assert got.status == 409 and got.json["code"] == "conflict", (got.status, got.text)

    @case("maintenance: changes are refused, reads and what runs go on, the operator ends it")
    def _():
        assert w.q("POST", "/v1/admin/maintenance", {"on": True}).status == 400
        w.ok("POST", "/v1/admin/maintenance", {"on": True, "reason": "moving the database"})
        r = w.q("POST", O + "/projects", {"name": "later"})
        assert r.status == 503 and r.json["code"] == "maintenance" and r.json["retryable"] and int(r.headers["Retry-After"]) > 0, r.text
        assert "moving the database" in r.json["detail"], r.text
        assert w.q("POST", O + "/suspend", {"reason": "x"}).status == 503
        assert w.ok("GET", O + "/apps")["items"] and w.ok("GET", "/v1/admin/maintenance")["on"]
        assert w.agent.heartbeat().status == 200
        assert w.ok("POST", "/v1/admin/maintenance", {"on": False, "reason": "done"})["on"] is False
        w.ok("POST", O + "/projects", {"name": "later"})
        got = [a["action"] for a in w.ok("GET", "/v1/admin/audit?chain=platform&action=maintenance.*")["items"]]
        assert got == ["maintenance.off", "maintenance.on", "maintenance.set"], got  # the one without a reason is told too

    @case("a suspended organisation: changes refused with the reason, reads go on, its instances stop, its routes are closed")
    def _():
        E = [O + "/apps/%s/envs/%s" % (r["app_id"], r["env_id"]) for r in w.ok("GET", O + "/routes")["items"]][0]
        wait_for("backends", lambda: any((w.edge_config() or {}).get("backends", {}).values()))
        w.ok("POST", O + "/suspend", {"reason": "unpaid"})
        w.pg.sql("UPDATE moat_views.users_view SET is_operator = false")  # the owner, for once no operator
        try:
            r = w.q("POST", O + "/projects", {"name": "no"})
            assert r.status == 403 and r.json["code"] == "forbidden" and r.json["details"]["reason"] == "org_suspended", r.text
            assert w.ok("GET", O)["suspended"] and w.ok("GET", E + "/status")
            assert w.ok("DELETE", O + "/projects/" + [p for p in w.ok("GET", O + "/projects")["items"] if p["name"] == "later"][0]["id"])
        finally:
            w.pg.sql("UPDATE moat_views.users_view SET is_operator = true")
        s = wait_for("blocked", lambda: (lambda p: p if p.get("reason") == "org_suspended" else None)(w.ok("GET", E + "/status")["processes"][0]), 20)
        assert s["sched_condition"] == "blocked", s
        try:
            wait_for("stopped", lambda: quota("max_instances")["used"] == 0, 40)
        except AssertionError:
            print("# " + w.pg.sql("SELECT instance_id, desired_state, desired_reason, status, drain_delay_seconds FROM instances_view"
                                  " WHERE released_at IS NULL").replace("\n", "\n# "))
            raise
        wait_for("all routes closed at the edge", lambda: all(r["disabled"] for r in w.edge_config()["routes"]), 30)
        reasons = {e["payload"]["reason"] for e in w.ok("GET", O + "/events?event_type=instance.desired_state_changed&limit=200&order=desc")["items"][:10]}
        assert "org_suspended" in reasons, reasons
        limit("max_projects", 60)  # operators' own switches work on
        limit("max_projects", None)
        w.ok("POST", O + "/resume", {"reason": "paid"})
        wait_for("ready again", lambda: w.ok("GET", E + "/status")["processes"][0]["ready"] >= 1, 40)
        wait_for("routes open", lambda: not any(r["disabled"] for r in w.edge_config()["routes"]), 20)
        w.ok("POST", O + "/projects", {"name": "again"})

    @case("rates: the headers count down, the bucket's end is 429 with Retry-After, the local operator is never held up")
    def _():
        n = Nobody()
        r = n.q("GET", O + "/apps")
        assert r["status"] == 200 and r["headers"]["ratelimit-limit"] == "600", r["headers"]
        left = int(r["headers"]["ratelimit-remaining"])
        for _ in range(20):
            r = n.q("GET", O + "/projects")
        assert left - 20 <= int(r["headers"]["ratelimit-remaining"]) <= left, (left, r["headers"])
        seen, began = None, time.monotonic()
        for i in range(2000):  # writes: 120 a minute, so that two places come back in each second that this takes
            r = n.q("PUT", O + "/quotas/max_apps", {"limit": None, "reason": "x"})
            if r["status"] == 429:
                seen = i
                break
        back = 2 * (time.monotonic() - began)
        assert seen is not None and 100 <= seen <= max(150, 125 + back), (seen, back)
        p = json.loads(r["body"])
        assert p["code"] == "rate_limited" and p["retryable"] and p["details"]["limit"] == "write_token", p
        assert int(r["headers"]["retry-after"]) >= 1 and r["headers"]["ratelimit-remaining"] == "0", r["headers"]
        assert n.q("GET", O + "/apps")["status"] == 200  # reads have their own bucket
        for _ in range(10):  # the same token, by root over the local socket
            r2 = w.q("PUT", O + "/quotas/max_apps", {"limit": None, "reason": "x"})
            assert r2.status == 200 and r2.headers["RateLimit-Limit"] is None, r2.text
        deny = [a for a in w.ok("GET", O + "/audit?decision=deny")["items"] if a["error_code"] == "rate_limited"]
        assert deny and deny[0]["source_ip"] == "unix:uid=65534", deny[:1]
        n.close()

    @case("rates are shared through the database: a restart of the server does not fill the bucket")
    def _():
        def spend():
            """how many of 120 a minute were left"""
            n = Nobody()
            left = 0
            while left < 2000 and n.q("PUT", O + "/quotas/max_apps", {"limit": None, "reason": "x"})["status"] != 429:
                left += 1
            n.close()
            return left
        spend()
        at = w.pg.sql("SELECT now()")
        # what comes back is spent too until all of it is written, which takes a second at most
        wait_for("it to be written", lambda: (spend(), w.pg.sql(
            "SELECT count(*) FROM moat.rate_buckets WHERE cap = 120000000 AND tokens < 4000000 AND updated_at > '%s'" % at) != "0")[1])
        began = time.monotonic()
        w.control.terminate()
        w.control.wait()
        w.start_control()
        at = w.pg.sql("SELECT now()")
        n = Nobody()  # the server that begins learns what is left when it first tells what was spent, a second later at most
        n.q("PUT", O + "/quotas/max_apps", {"limit": None, "reason": "x"})
        n.close()
        wait_for("the first exchange", lambda: w.pg.sql("SELECT count(*) FROM moat.rate_buckets WHERE cap = 120000000 AND updated_at > '%s'" % at) != "0")
        left = spend()
        back = 2 * (time.monotonic() - began)  # two come back in each second
        assert left <= back + 10, (left, back)

    @case("streams: five for a token, the sixth is refused, a place is free again when one ends")
    def _():
        def open_stream():
            s = subprocess.Popen(["/usr/bin/python3", "-c", "import sys, time\nsys.path.insert(0, sys.argv[2]); from control_kit import UnixHTTP\n"
                                  "c = UnixHTTP(sys.argv[1], 60)\nc.request('GET', sys.argv[4], headers={'Authorization': 'Bearer ' + sys.argv[3]})\n"
                                  "r = c.getresponse(); print(r.status if r.status == 200 else '%d %s' % (r.status, __import__('json').loads(r.read())['code']), flush=True)\n"
                                  "if r.status == 200: r.read(1); print('on', flush=True); r.read()",
                                  w.api, os.path.dirname(os.path.abspath(__file__)), w.token, O + "/events/stream"],
                                 stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[])
            return s, s.stdout.readline().strip()
        limit("max_projects", 100000)  # below, each try makes one
        open_ones = [open_stream() for _ in range(6)]
        assert [x[1] for x in open_ones] == ["200"] * 5 + ["429 too_many_streams"], [x[1] for x in open_ones]
        wait_for("counted", lambda: quota("max_log_streams")["used"] == 5)
        open_ones[0][0].kill()
        def again():
            w.ok("POST", O + "/projects", {"name": "s%d" % int(time.time() * 1000)})  # a write tells the server who is gone
            s = open_stream()
            open_ones.append(s)
            return s[1] == "200"
        wait_for("a free place", again, 20)
        for s, _ in open_ones:
            s.kill()
            s.wait()

    @case("counters of refusals are on the metrics page")
    def _():
        t = call(w.api, "GET", "/metrics").text.decode()
        for line in ('moat_quota_rejections_total{dimension="max_instances"}', 'moat_rate_limited_total{dimension="write_token"}',
                     "moat_audit_append_failures_total 0"):
            assert line in t, line
finally:
    w.close()
kit.finish()
