#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The control plane with a real PostgreSQL and fakes of agent and edge: the golden path, rollouts, faults. COST 35 s, 6 s of processor."""
import concurrent.futures, datetime, json, os, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
from control_kit import case, wait_for, call

kit.need("control api")

w = kit.World(min_ready_seconds=2)  # what it asks for is looked at below
D1, D2, D3 = ("sha256:" + c * 64 for c in "123")


def manifest(memory="128Mi", port=8443, host="hello.example.com", scale=1, extra=""):
    return """schema_version = "v1"
[app]
name = "hello"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[processes.web.resources]
memory = "%s"
cpu = 0.5
[processes.web.scaling]
min = %d
[[processes.web.ports]]
name = "tls"
internal = %d
[[routes]]
env = "prod"
hostname = "%s"
process = "web"
port = "tls"
%s""" % (memory, scale, port, host, extra)


def at(event):
    return datetime.datetime.fromisoformat(event["occurred_at"].replace("Z", "+00:00"))


try:
    org = w.ok("GET", "/v1/orgs")["items"][0]
    O = "/v1/orgs/" + org["id"]
    A = E = None
    NEVER = 2**52

    def ask_for_what_never_comes():
        began = time.monotonic()
        r = w.q("GET", O + "/apps?min_event_id=%d" % NEVER)
        r.took = time.monotonic() - began
        return r
    never = concurrent.futures.ThreadPoolExecutor(1).submit(ask_for_what_never_comes)  # looked at below: it takes its five seconds beside the others

    @case("a request without a token is refused, with one it is known")
    def _():
        r = call(w.api, "GET", "/v1/orgs")
        assert r.status == 401 and r.json["code"] == "unauthorized", r.text
        assert r.headers["X-Request-Id"], "no request id"
        r = call(w.api, "GET", "/v1/orgs", headers={"Authorization": "Bearer moat_pat_" + "A" * 49})
        assert r.status == 401, r.text
        me = w.ok("GET", "/v1/auth/whoami")
        assert me["is_operator"] and me["orgs"][0]["name"] == "local", me
        assert oct(os.stat(w.d + "/operator.token").st_mode)[-3:] == "600"

    @case("app and environment are made, read back the same, and listed by name")
    def _():
        global A, E
        r = w.q("POST", O + "/apps", {"name": "hello", "description": "d"}, key="k-app")
        assert r.status == 201 and r.headers["X-Event-Id"] and r.headers["Location"], r.text
        app = r.json
        A = O + "/apps/" + app["id"]
        assert w.ok("GET", A) == app, (w.ok("GET", A), app)
        env = w.ok("POST", A + "/envs", {"name": "prod"})
        E = A + "/envs/" + env["id"]
        now = w.ok("GET", E)  # the kit has said that it needs no secrets
        assert now.pop("secrets")["version_id"] and now == dict(env, config_gate="confirmed_none") and env["config_gate"] == "unset", (now, env)
        assert [x["id"] for x in w.ok("GET", O + "/apps?name=hello")["items"]] == [app["id"]]
        assert w.ok("GET", O + "/apps?name=nothing")["items"] == []

    @case("a repeated key replays, with another body it is refused")
    def _():
        r = w.q("POST", O + "/apps", {"name": "hello", "description": "d"}, key="k-app")
        assert r.status == 201 and r.headers["Idempotent-Replay"] == "true", (r.status, r.text)
        assert r.json["id"] == A.split("/")[-1]
        r = w.q("POST", O + "/apps", {"name": "other"}, key="k-app")
        assert r.status == 409 and r.json["code"] == "idempotency_key_reuse", r.text

    @case("a taken name is 409 name_taken")
    def _():
        r = w.q("POST", O + "/apps", {"name": "hello"}, key="k-app-2")
        assert r.status == 409 and r.json["code"] == "name_taken", r.text

    @case("fifty parallel duplicates have one effect")
    def _():
        def one(_):
            return w.q("POST", O + "/apps", {"name": "many"}, key="k-many")
        with concurrent.futures.ThreadPoolExecutor(50) as ex:
            rs = list(ex.map(one, range(50)))
        assert {r.status for r in rs} == {201}, [(r.status, r.text) for r in rs if r.status != 201][:2]
        assert len({r.json["id"] for r in rs}) == 1
        assert sum(r.headers["Idempotent-Replay"] != "true" for r in rs) == 1
        assert w.pg.sql("SELECT count(*) FROM moat.events WHERE event_type='app.created' AND payload->>'name'='many'") == "1"

    @case("bodies are strict: unknown field, duplicate key, depth, size, type")
    def _():
        r = w.q("POST", O + "/apps", {"name": "x", "descripton": "typo"})
        assert r.status == 400 and r.json["code"] == "unknown_field" and "description" in r.json["detail"], r.text
        r = w.q("POST", O + "/apps", b'{"name":"x","name":"y"}')
        assert r.status == 400 and r.json["code"] == "invalid_json", r.text
        r = w.q("POST", O + "/apps", b'{"name":' + b"[" * 40 + b"]" * 40 + b"}")
        assert r.status == 400 and r.json["code"] == "invalid_json", r.text
        r = w.q("POST", O + "/apps", b'{"name":"' + b"x" * (1 << 20) + b'"}')
        assert r.status == 413 and r.json["code"] == "payload_too_large", r.text
        r = w.q("POST", O + "/apps", b"{}", Content_Type="text/plain")
        assert r.status == 415 and r.json["code"] == "unsupported_media_type", r.text
        r = w.q("POST", O + "/apps", {"name": "Bad_Name"})
        assert r.status == 400 and r.json["code"] == "invalid_argument", r.text
        r = w.q("GET", O + "/apps?nme=x")
        assert r.status == 400, r.text

    @case("foreign and unknown ids, unknown paths and methods")
    def _():
        other = w.ok("POST", "/v1/orgs", {"name": "other"})
        assert w.q("GET", "/v1/orgs/%s/apps/%s" % (other["id"], A.split("/")[-1])).status == 404
        assert w.q("GET", O + "/apps/app_nothing").status == 404
        r = w.q("GET", O + "/nothing")
        assert r.status == 404 and r.json["code"] == "not_found", r.text
        r = w.q("PUT", A)
        assert r.status == 405 and r.json["code"] == "method_not_allowed", r.text

    @case("an agent's first heartbeat makes the node record")
    def _():
        r = call(w.internal, "GET", "/internal/v1/nodes/self/plan?after=0&wait=0")
        assert r.status == 409, r.text
        assert w.agent.heartbeat().status == 200
        n = w.ok("GET", "/v1/nodes")["items"]
        assert len(n) == 1 and n[0]["admin_state"] == "active" and n[0]["overlay_ipv6"].endswith("::1"), n
        assert n[0]["instance_prefix"].endswith(":1:1::/80"), n
        w.agent.start()

    @case("manifest errors name line and column, unknown keys the nearest one")
    def _():
        r = w.q("POST", A + "/releases", {"manifest": manifest().replace("memory", "memry"), "image_digest": D1, "verify_image": False})
        assert r.status == 400 and r.json["code"] == "manifest_invalid", r.text
        e = r.json["errors"][0]
        assert e["line"] and e["column"] and "memory" in json.dumps(r.json["errors"]), e
        v = w.ok("POST", A + "/manifest/validate", {"manifest": manifest()})
        assert v["ok"] and v["manifest_hash"].startswith("sha256:"), v

    @case("a release is made, deduplicated, numbered")
    def _():
        global rel1
        r = w.q("POST", A + "/releases", {"manifest": manifest(), "image_digest": D1, "verify_image": False})
        assert r.status == 201, r.text
        rel1 = r.json
        assert rel1["number"] == 1 and rel1["process_types"] == ["web"], rel1
        assert w.ok("GET", A + "/releases/" + rel1["id"]) == rel1
        again = w.q("POST", A + "/releases", {"manifest": manifest(), "image_digest": D1, "verify_image": False})
        assert again.status == 200 and again.json["deduplicated"] and again.json["id"] == rel1["id"], again.text

    @case("deploy: plan within 50 ms of the answer, ready, routed, succeeded")
    def _():
        global dep1, accepted_to_plan
        w.start_edge()
        n = len(w.agent.plans)
        t0 = fair.now()
        dep1 = w.ok("POST", E + "/deploys", {"release_id": rel1["id"]}, key="k-dep-1")
        t1 = fair.now()
        assert dep1["status"] == "queued" and dep1["routes"][0]["action"] == "create", dep1
        wait_for("a plan", lambda: w.agent.plan_at)
        took = list(w.agent.plan_at.values())[0] - t1
        print("# accepted %.1f ms, plan at the agent %.1f ms later" % ((t1 - t0) * 1e3, took * 1e3))
        assert took < 0.5, took
        spec = w.agent.plans[-1]["instances"][0]["workload"]
        assert spec["image"]["resolved_digest"] == D1 and spec["env_vars"]["MOAT_APP"] == "hello", spec
        c = wait_for("a backend at the edge", lambda: (w.edge_config() or {}).get("backends"))
        rt = w.edge_config()["routes"][0]
        assert rt["hostname"] == "hello.example.com" and c[rt["route_id"]][0]["port"] == 8443, c
        d = wait_for("success", lambda: (lambda x: x if x["status"] == "succeeded" else None)(w.ok("GET", E + "/deploys/" + dep1["id"])))
        assert d["progress"][0]["ready"] == 1, d
        s = w.ok("GET", E + "/status")
        assert s["conditions"] == [] and s["processes"][0]["ready"] == 1, s
        wait_for("an active route", lambda: w.ok("GET", E + "/routes")["items"][0]["status"] == "active", 15)
        r = w.q("POST", E + "/rollbacks", {})
        assert r.status == 409 and r.json["code"] == "no_rollback_target", r.text  # nothing but what runs has succeeded here

    @case("rolling update: the new one is ready before the old one drains, edges end the delay early")
    def _():
        global rel2
        rel2 = w.ok("POST", A + "/releases", {"manifest": manifest("192Mi"), "image_digest": D2, "verify_image": False})
        t0 = time.monotonic()
        d = w.ok("POST", E + "/deploys", {"release_id": rel2["id"]})
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 20)
        ev = w.ok("GET", O + "/events?correlation_id=%s&limit=500" % d["id"])["items"]
        ready = [e for e in ev if e["event_type"] == "instance.status_changed" and e["payload"]["status"] == "ready"]
        drain = wait_for("a drain", lambda: w.ok("GET", O + "/events?event_type=instance.desired_state_changed&limit=500")["items"])
        assert drain and ready and drain[0]["event_id"] > ready[0]["event_id"], (drain, ready)
        served = at(drain[0]) - at(ready[0])
        assert served.total_seconds() >= 2, served  # min_ready_seconds
        wait_for("the old instance to go", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 1)
        if len(w.apis) > 1:
            return  # what an edge has acknowledged is known to the server it told; with another leading, the delay runs its course
        wait_for("the drain delay to be cut", lambda: any(e["payload"].get("drain_delay_seconds") == 0 for e in
                 w.ok("GET", O + "/events?event_type=instance.desired_state_changed&limit=500")["items"]), 12)
        wait_for("release of the address", lambda: w.ok("GET", O + "/events?event_type=instance.released")["items"])
        print("# rolled in %.2f s" % (time.monotonic() - t0))

    @case("a failing release is held, says why, and the old one keeps serving")
    def _():
        global rel3
        # with two servers the drain delay of the release before runs its course: its instance may still be listed
        before = wait_for("one backend alone", lambda: (lambda ids: ids if len(ids) == 1 else None)(
            [b["instance_id"] for b in list(w.edge_config()["backends"].values())[0]]), 20)
        w.agent.behave = lambda a: "exit" if a["workload"]["image"]["resolved_digest"] == D3 else "ready"
        rel3 = w.ok("POST", A + "/releases", {"manifest": manifest("256Mi"), "image_digest": D3, "verify_image": False})
        d = w.ok("POST", E + "/deploys", {"release_id": rel3["id"]})
        inst = wait_for("an instance", lambda: [i for i in w.ok("GET", E + "/instances")["items"] if i["release_id"] == rel3["id"]])[0]
        w.logs.add(inst["id"], "cannot open /data: no such file", "stderr")
        w.logs.console[inst["id"]] = ["moat-init: workload ended with 3"]
        d = wait_for("failure", lambda: (lambda x: x if x["status"] == "failed" else None)(w.ok("GET", E + "/deploys/" + d["id"])), 20)
        assert d["failed_reason"] == "workload_exited", d
        # its last words are asked of its node with each look, and left out when that takes its time
        f = wait_for("its last words", lambda: (lambda f: f if f.get("last_lines") and f.get("last_console") else None)(w.ok("GET", E + "/deploys/" + d["id"])["failure"]))
        assert f["reason_code"] == "workload_exited" and f["exit_code"] == 3, f
        assert f["last_lines"] == ["cannot open /data: no such file"] and f["last_console"], f
        wait_for("the failed one to be stopped", lambda: w.ok("GET", E + "/instances/" + inst["id"])["status"] == "stopped")
        assert w.ok("GET", E + "/deploys/" + d["id"])["failure"]["exit_code"] == 3, "the reason went with the instance"
        s = w.ok("GET", E + "/status")
        assert s["processes"][0]["sched_condition"] == "held" and s["failure"]["reason_code"] == "workload_exited", s
        time.sleep(0.3)
        after = [b["instance_id"] for b in list(w.edge_config()["backends"].values())[0]]
        assert after == before, (before, after)

    @case("one that was ready for a moment and crashes ever since is held at once; what the platform ended is waited for")
    def _():
        before = [b["instance_id"] for b in list(w.edge_config()["backends"].values())[0]]
        w.agent.behave = lambda a: "loop boot_timeout" if a["workload"]["image"]["resolved_digest"] == D3 else "ready"
        d = w.ok("POST", E + "/deploys", {"release_id": rel3["id"]})
        inst = wait_for("the crash loop", lambda: [i for i in w.ok("GET", E + "/instances?status=failed")["items"] if i["release_id"] == rel3["id"]])[0]
        time.sleep(3)  # longer than what is ready has to stay it
        assert w.ok("GET", E + "/deploys/" + d["id"])["status"] == "rolling"
        again = {"boot_id": "boot_%s1" % inst["id"][5:-1], "restart_count": 6}
        w.agent.report(inst["id"], "ready", **again)
        w.agent.report(inst["id"], "failed", status_detail="backoff", reason_code="crash_loop_backoff", reason_detail="workload_exited", exit_code=3, **again)
        d = wait_for("the hold", lambda: (lambda x: x if x["status"] == "failed" else None)(w.ok("GET", E + "/deploys/" + d["id"])))
        assert d["failed_reason"] == "workload_exited" and "was ready once and crashes again and again: workload_exited" in d["message"], d
        wait_for("it to be stopped", lambda: w.ok("GET", E + "/instances/" + inst["id"])["status"] == "stopped")
        assert [b["instance_id"] for b in list(w.edge_config()["backends"].values())[0]] == before

    @case("rollback goes to the newest release that succeeded")
    def _():
        d = w.ok("POST", E + "/rollbacks", {})
        assert d["kind"] == "rollback" and d["release_id"] == rel2["id"], d
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 20)
        w.agent.behave = lambda a: "ready"

    @case("scale: version is needed, conflicts are told, replicas follow")
    def _():
        s = w.ok("GET", E + "/scale")
        assert s["processes"][0]["desired"] == 1 and s["processes"][0]["source"] == "manifest", s
        body = {"processes": [{"process_type": "web", "desired": 3}]}
        r = w.q("PUT", E + "/scale", body)
        assert r.status == 400 and r.json["code"] == "expected_version_required", r.text
        r = w.q("PUT", E + "/scale", dict(body, expected_version=s["resource_version"] + 77))
        assert r.status == 409 and r.json["code"] == "version_conflict" and r.json["details"]["current_version"] == s["resource_version"], r.text
        new = w.ok("PUT", E + "/scale", dict(body, expected_version=s["resource_version"]))
        assert new["processes"][0]["desired"] == 3, new
        assert w.ok("GET", E + "/scale") == new
        wait_for("three", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 3)
        wait_for("three backends", lambda: len(list(w.edge_config()["backends"].values())[0]) == 3)
        w.ok("PUT", E + "/scale", {"processes": [{"process_type": "web", "desired": None}], "expected_version": new["resource_version"]})
        wait_for("one", lambda: len(w.ok("GET", E + "/instances?status=ready")["items"]) == 1, 20)
        r = w.q("PUT", E + "/scale", {"processes": [{"process_type": "nope", "desired": 1}], "expected_version": w.ok("GET", E + "/scale")["resource_version"]})
        assert r.status == 400 and r.json["code"] == "unknown_process_type", r.text

    @case("restart replaces the instance")
    def _():
        old = w.ok("GET", E + "/instances?status=ready")["items"][0]["id"]
        d = w.ok("POST", E + "/restarts", {})
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 20)
        now = wait_for("one other", lambda: (lambda x: x if len(x) == 1 else None)([i["id"] for i in w.ok("GET", E + "/instances?status=ready")["items"]]))
        assert old not in now, (old, now)

    @case("routes: taken, bad, raw with a port given out, deleted twice")
    def _():
        r = w.q("POST", E + "/routes", {"hostname": "hello.example.com", "backend_process_type": "web", "backend_port": 8443})
        assert r.status == 409 and r.json["code"] == "hostname_taken", r.text
        for bad in ("*.example.com", "a..example.com", "192.0.2.1", "[2001:db8::1]", "a" * 64 + ".example.com", ".".join(["a" * 60] * 4 + ["b" * 12]), "-a.example.com", "ex_ample.com", "bücher.example"):
            r = w.q("POST", E + "/routes", {"hostname": bad, "backend_process_type": "web", "backend_port": 8443})
            assert r.status == 400 and r.json["code"] == "hostname_invalid", (bad, r.text)
        for port in (80, 22, 51820, 0, 65536):  # a plain HTTP request has no name to route by
            r = w.q("POST", E + "/routes", {"hostname": "c.example.com", "listen_port": port, "backend_process_type": "web", "backend_port": 8443})
            assert r.status == 400 and r.json["code"] == ("port_not_allowed" if 0 < port < 65536 else "invalid_argument"), (port, r.text)
        r = w.q("POST", E + "/routes", {"hostname": "c.example.com", "backend_process_type": "web", "backend_port": 8443, "proxy_protocol": "v2"})
        assert r.status == 400 and "backend_expects_proxy_protocol" in r.json["detail"], r.text
        r = w.q("POST", E + "/routes", {"hostname": "b.example.com", "backend_process_type": "web", "backend_port": 1})
        assert r.status == 409 and r.json["code"] == "route_backend_missing", r.text
        r = w.q("POST", E + "/routes", {"protocol": "tcp_raw", "backend_process_type": "web", "backend_port": 8443})
        assert r.status == 201 and 10000 <= r.json["listen_port"] <= 29999, r.text
        rid = r.json["id"]
        wait_for("the raw listener", lambda: any(x["protocol"] == "tcp_raw" for x in w.edge_config()["listeners"]))
        assert w.ok("DELETE", E + "/routes/" + rid) == {"ok": True, "already_deleted": False}
        assert w.ok("DELETE", E + "/routes/" + rid) == {"ok": True, "already_deleted": True}

    @case("answers that the server gives by itself carry the request's id, the client's own where it sent one")
    def _():
        for body, headers, status in ((b" " * (3 << 20), {}, 413), (b" " * (3 << 20), {"X-Request-Id": "mine-1"}, 413), (None, {"H%d" % i: "x" for i in range(200)}, 400)):
            r = kit.call(w.api, "POST" if body else "GET", "/v1/orgs", body, {"Authorization": "Bearer " + w.token, **headers})
            assert r.status == status and r.json["request_id"] == r.headers["X-Request-Id"] and r.headers["X-Api-Version"] == "v1", (r.status, r.text[:300])
            assert headers.get("X-Request-Id", r.headers["X-Request-Id"]) == r.headers["X-Request-Id"] and len(r.headers.get_all("X-Request-Id")) == 1

    @case("no room is told as no_capacity_memory with counts")
    def _():
        e2 = w.ok("POST", A + "/envs", {"name": "big"})
        E2 = A + "/envs/" + e2["id"]
        rel = w.ok("POST", A + "/releases", {"manifest": manifest("32Gi"), "image_digest": D1, "verify_image": False})
        w.ok("POST", E2 + "/deploys", {"release_id": rel["id"]})
        s = wait_for("blocked", lambda: (lambda s: s if s["processes"] and s["processes"][0]["sched_condition"] == "blocked" else None)(w.ok("GET", E2 + "/status")))
        assert s["processes"][0]["reason"] == "no_capacity_memory", s
        assert "1 memory" in s["processes"][0]["detail"], s

    @case("a newer deploy supersedes an unfinished one")
    def _():
        e3 = w.ok("POST", A + "/envs", {"name": "slow"})
        E3 = A + "/envs/" + e3["id"]
        w.agent.behave = lambda a: "hang" if a["workload"]["env_vars"]["MOAT_ENV"] == "slow" and a["workload"]["image"]["resolved_digest"] == D1 else "ready"
        a = w.ok("POST", E3 + "/deploys", {"release_id": rel1["id"]})
        wait_for("rolling", lambda: w.ok("GET", E3 + "/deploys/" + a["id"])["status"] == "rolling")
        b = w.ok("POST", E3 + "/deploys", {"release_id": rel2["id"]})
        x = w.ok("GET", E3 + "/deploys/" + a["id"])
        assert x["status"] == "superseded" and x["superseded_by"] == b["id"], x
        wait_for("success", lambda: w.ok("GET", E3 + "/deploys/" + b["id"])["status"] == "succeeded", 20)
        w.agent.behave = lambda a: "ready"

    @case("dry run changes nothing")
    def _():
        head = w.ok("GET", O + "/events?limit=1")["head_event_id"]
        d = w.ok("POST", E + "/deploys?dry_run=true", {"release_id": rel1["id"]})
        assert d["dry_run"], d
        time.sleep(0.2)
        mine = [e for e in w.ok("GET", O + "/events?after_event_id=%d" % head)["items"] if e["event_type"].startswith("deploy")]
        assert mine == [], mine

    @case("logs: history merged, cursor goes on, stream follows")
    def _():
        i = w.ok("GET", E + "/instances?status=ready")["items"][0]["id"]
        for n in range(5):
            w.logs.add(i, "line %d" % n)
        got = w.ok("GET", E + "/logs?instance_id=" + i)
        assert [x["line"] for x in got["items"]] == ["line %d" % n for n in range(5)] and got["missing_nodes"] == [], got
        w.logs.add(i, "line 5")
        more = w.ok("GET", E + "/logs?instance_id=%s&cursor=%s" % (i, got["next_cursor"]))
        assert [x["line"] for x in more["items"]] == ["line 5"], more
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", E + "/logs/stream?instance_id=" + i, headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()
        seen = [json.loads(r.readline())["line"] for _ in range(6)]
        w.logs.add(i, "live")
        last = json.loads(r.readline())
        c.close()
        assert seen[-1] == "line 5" and last["line"] == "live" and last["process_type"] == "web", (seen, last)

    @case("A16 the event stream resumes without gap or double, across a restart of the server")
    def _():
        head = w.ok("GET", O + "/events?limit=1")["head_event_id"]
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", O + "/events/stream?after_event_id=%d&event_type=app.*" % head, headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()
        json.loads(r.readline())  # heartbeat
        w.ok("POST", O + "/apps", {"name": "s-one"})
        t0 = fair.now()
        one = json.loads(r.readline())
        assert one["event_type"] == "app.created" and one["payload"]["name"] == "s-one" and fair.now() - t0 < 0.5, one
        w.control.terminate()
        rest = [json.loads(x) for x in r.read().splitlines()]
        assert rest and rest[-1]["type"] == "end" and rest[-1]["reason"] == "shutdown", rest
        w.control.wait(25)
        w.start_control()
        w.ok("POST", O + "/apps", {"name": "s-two"})
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", O + "/events/stream?after_event_id=%d&event_type=app.*" % one["event_id"], headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()
        two = json.loads(r.readline())
        c.close()
        assert two["payload"]["name"] == "s-two", two

    @case("kill -9 in the middle of a deploy: it completes after the restart")
    def _():
        for n in range(4):
            rel = w.ok("POST", A + "/releases", {"manifest": manifest("%dMi" % (300 + n)), "image_digest": D1, "verify_image": False})
            d = w.ok("POST", E + "/deploys", {"release_id": rel["id"]})
            time.sleep(0.004 * 5 ** n)
            w.kill_control()
            w.start_control()
            wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 30)
        gaps = w.pg.sql("SELECT count(*), max(event_id) FROM moat.events")
        assert len(set(gaps.split("|"))) == 1, gaps

    @case("PostgreSQL away for 10 s: 503 with Retry-After, process stays, all goes on by itself")
    def _():
        pid = w.control.pid
        w.pg.stop()
        r = wait_for("503", lambda: (lambda r: r if r.status == 503 else None)(w.q("GET", O + "/apps")))
        assert r.json["code"] == "database_unavailable" and r.headers["Retry-After"] and r.json["retryable"], r.text
        r = w.q("POST", O + "/apps", {"name": "later"}, key="k-later")
        assert r.status == 503, r.text
        assert call(w.api, "GET", "/livez").status == 200
        wait_for("readyz to fail", lambda: call(w.api, "GET", "/readyz").status == 503)
        time.sleep(10)
        assert w.control.poll() is None
        w.pg.start()
        wait_for("readyz", w.ready, 10)
        # the appender of either server tries a database that was away again each 200 ms; until then it says 503, worth a retry
        wait_for("an app", lambda: w.q("POST", O + "/apps", {"name": "later"}, key="k-later").status == 201, 5)
        assert w.control.pid == pid
        d = wait_for("an accepted deploy", lambda: (lambda r: r.json if r.status == 201 else None)(
            w.q("POST", E + "/deploys", {"release_id": rel2["id"]}, key="d-later")), 5)
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 30)

    @case("a caller of another protocol is told so by every call of agents and edges, before it is asked who it is; one that names none is of the first")
    def _():
        n = 0
        for line in subprocess.run([kit.program("moat-control"), "--routes"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            method, path = line.split()[:2]
            if not path.startswith("/internal/v1/") or path.endswith("/enroll"):  # that one is heard elsewhere: test_nodes.py
                continue
            n += 1
            for said in ("node/2", "node/99, node/2,node/11", "guest/1 node/10"):
                r = call(w.internal, method, path, None if method == "GET" else {}, {"X-Moat-Protocol": said, "X-Moat-Agent-Version": "9.9"})
                assert r.status == 426 and r.json["code"] == "agent_incompatible" and said.split(", ")[0] in r.json["detail"], (method, path, r.status, r.text)
                assert r.headers["Upgrade"] == "node/1" and r.json["details"]["protocols"] == ["node/1"] and not r.json["retryable"], (r.headers, r.text)
        assert n >= 10, n
        before = w.pg.sql("SELECT count(*) || ' ' || coalesce(max(plan_cursor), 0) FROM moat.node_heartbeats")
        beat = {"node_id": w.agent.node_id, "agent_version": "9.9", "arch": "amd64", "conditions": [], "vmm": {"driver": "qemu", "accel": "tcg", "reason": "x"}, "epoch": 1,
                "cursor_event_id": 2**40, "allocatable": {"cpu_millis": 1, "memory_bytes": 1, "disk_bytes": 1}, "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0},
                "clock_unix_ms": int(time.time() * 1000)}
        r = w.agent.post("heartbeat", dict(beat, protocols=["guest/1", "node/2"]))
        assert r.status == 426 and r.json["code"] == "agent_incompatible", r.text
        assert w.pg.sql("SELECT count(*) || ' ' || coalesce(max(plan_cursor), 0) FROM moat.node_heartbeats WHERE agent_version = '9.9'") == "0 0", before
        assert w.agent.heartbeat().status == 200  # protocols ["v1"]: of before there were names
        for said in ("node/1", "node/2, node/1", "guest/1"):
            r = call(w.internal, "GET", "/internal/v1/nodes/self/plan?after=0&wait=0", None, {"X-Moat-Protocol": said})
            assert r.status == 200, (said, r.text)
        wait_for("the line in the log", lambda: '"node.agent_incompatible"' in open(w.d + "/control.log").read())

    @case("min_event_id: a read waits for the event that it names, five seconds at most, then 504 projection_timeout")
    def _():
        head = w.ok("GET", O + "/events?limit=1")["head_event_id"]
        with concurrent.futures.ThreadPoolExecutor(1) as ex:
            began = time.monotonic()
            read = ex.submit(w.q, "GET", O + "/apps?min_event_id=%d" % (head + 1))
            made = w.q("POST", O + "/apps", {"name": "waited-for"})
            assert made.status == 201 and read.result().status == 200, read.result().text
        r = never.result()
        assert r.status == 504 and r.json["code"] == "projection_timeout" and r.json["retryable"] and str(NEVER) in r.json["detail"], (r.status, r.text)
        assert r.took >= 4.9, r.took

    @case("a strange peer of the internal socket is refused")
    def _():
        r = call(w.internal, "GET", "/internal/v1/edge/config?after=0&wait=0")
        assert r.status == 403 and r.json["code"] == "forbidden", r.text

    @case("the published list of calls and the configuration reference are what the program prints")
    def _():
        for flag, name in (("--routes", "routes.txt"), ("--errors", "errors.txt"), ("--metrics", "metrics.txt"), ("--help-config", "control.toml.txt")):
            out = subprocess.run([kit.program("moat-control"), flag], stdout=subprocess.PIPE, text=True, check=True).stdout
            have = open(os.path.join(kit.ROOT, "docs/api", name)).read().split("\n", 1)
            assert have[0].startswith("# generated") and have[1] == out, "run: bin/moat-control %s, into docs/api/%s" % (flag, name)

    sanitized = "libasan" in open("/proc/%d/maps" % w.control.pid).read()
    if sanitized:
        kit.skip("idle memory is at most 30 MiB Pss", "the program is built with sanitizers")

    @case("idle memory is at most 30 MiB Pss") if not sanitized else (lambda fn: fn)
    def _():
        pss = [int(x.split()[1]) for x in open("/proc/%d/smaps_rollup" % w.control.pid) if x.startswith("Pss:")][0]
        print("# Pss %d KiB" % pss)
        assert pss <= 30 * 1024, pss

    @case("SIGTERM ends the process cleanly")
    def _():
        w.agent.stop()
        w.control.terminate()
        assert w.control.wait(25) == 0
finally:
    w.close()
kit.finish()
