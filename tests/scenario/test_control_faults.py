#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Failures of the control plane that no other file makes (control-plane.md §16, §17): words of PostgreSQL's NOTIFY that are lost, a projection
that fails, a registry that is down, and what the logs of all that look like. Two servers on one database.
COST 8 s, 2 s of processor."""
import json, os, re, socket, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for, call

kit.need("control faults", "moat-fetch")
closed = socket.socket()
closed.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
NOWHERE = "127.0.0.1:%d" % closed.getsockname()[1]
w = kit.World(fetch_program=kit.program("moat-fetch"), local_registries=[NOWHERE])
MANIFEST = """schema_version = "v1"
[image]
ref = "%s/hello:latest"
[processes.web]
command = ["/h"]
[processes.web.resources]
memory = "128Mi"
""" % NOWHERE


def ask(server, method, path, body=None, key=None):
    return call(server, method, path, body, {"Authorization": "Bearer " + w.token, **({"Idempotency-Key": key} if key else {})})


def head():
    """How many events there are, but of nodes: a busy machine may miss a heartbeat. The log has no gap, so that is what was appended."""
    n, count, top = map(int, w.pg.sql("SELECT count(*) FILTER (WHERE aggregate_type <> 'node'), count(*), max(event_id) FROM moat.events").split("|"))
    assert count == top, (count, top)
    return n


try:
    O = w.open()
    one, two = w.api, w.d + "/api2.sock"

    TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    @case("a projection that fails: its command is 500 and appends nothing, all others go on; mended, the same request goes through, once")
    def _():
        w.pg.sql("ALTER TABLE moat_views.apps_view ADD CONSTRAINT wrong CHECK (name <> 'poison')")
        before, done = head(), []

        def others():
            for i in range(20):
                done.append(w.q("POST", O + "/apps", {"name": "beside-%d" % i}).status)
        t = threading.Thread(target=others)
        t.start()
        bad = [w.q("POST", O + "/apps", {"name": "poison"}, key="k-poison", traceparent=t) for t in (TRACE, TRACE.upper(), TRACE[:-1], "00-x", TRACE + "-00")]
        t.join()
        assert done == [201] * 20, done
        for r in bad:
            p = r.json
            assert r.status == 500 and p["code"] == "internal" and r.headers["Content-Type"].startswith("application/problem+json") and not p["retryable"], r.text
            assert p["request_id"] in p["detail"] and "wrong" not in p["detail"] and "apps_view" not in p["detail"], p
        assert head() == before + 20 and w.pg.sql("SELECT count(*) FROM moat.events WHERE payload->>'name' = 'poison'") == "0"
        w.pg.sql("ALTER TABLE moat_views.apps_view DROP CONSTRAINT wrong")
        first, again = (w.q("POST", O + "/apps", {"name": "poison"}, key="k-poison") for _ in range(2))
        assert first.status == again.status == 201 and first.json["id"] == again.json["id"] and head() == before + 21, (first.text, again.text)

    @case("a registry that is down: no release, 503 worth a retry; what was made before is deployed all the same")
    def _():
        A, E = w.make_app("image")
        before = head()
        r = w.q("POST", A + "/releases", {"manifest": MANIFEST})
        assert r.status == 503 and r.json["code"] == "registry_unavailable" and r.json["retryable"] and r.headers["Retry-After"], r.text
        assert head() == before and w.ok("GET", A + "/releases")["items"] == []
        known = w.ok("POST", A + "/releases", {"manifest": MANIFEST, "image_digest": "sha256:" + "1" * 64, "verify_image": False})["id"]
        d = w.ok("POST", E + "/deploys", {"release_id": known})["id"]
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d)["status"] == "succeeded", 30)

    @case("every NOTIFY of another server is lost: its events are at this one's streams within seconds all the same, once, in order")
    def _():
        w.pg.sql("CREATE SCHEMA silent; GRANT USAGE ON SCHEMA silent TO PUBLIC;"
                 "CREATE FUNCTION silent.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT NULL::void';"
                 "ALTER DATABASE moat SET search_path = silent, pg_catalog, moat_views, moat")
        try:
            w.start_twin()  # its sessions find that function first
            assert w.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'moat'") != "0"
            s = kit.Sse(one, O + "/events/stream?event_type=app.created", w.token)
            wait_for("the heartbeat", lambda: s.comments)
            late = []
            for i in range(5):
                assert ask(two, "POST", O + "/apps", {"name": "silent-%d" % i}).status == 201
                since = time.monotonic()
                wait_for("the event", lambda: len(s.messages()) > i, 20)
                late.append(time.monotonic() - since)
            assert [o["payload"]["name"] for _, o in s.messages()] == ["silent-%d" % i for i in range(5)], s.got
            print("# late by %s s" % ", ".join("%.2f" % x for x in late))
            assert max(late) > 0.2, "no NOTIFY was lost: %s" % late
            s.close()
        finally:
            w.pg.sql("ALTER DATABASE moat SET search_path = moat_views, moat; DROP SCHEMA silent CASCADE")

    @case("what the server logs: one JSON object a line with time, level, component and words, the request's id with each refusal, no token")
    def _():
        lines = [l for l in open(w.d + "/control.log").read().splitlines(True) if l.endswith("\n")]
        assert len(lines) > 10
        for line in lines:
            o = json.loads(line)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", o["ts"]) and o["level"] in ("debug", "info", "warn", "error") and o["component"] and o["msg"], line
        failed = [json.loads(x) for x in lines if '"api.internal"' in x]
        assert len(failed) >= 5 and all(o["request_id"].startswith("req_") and o["error"] and o["error_code"] for o in failed), failed[:1]
        said = [json.loads(x) for x in lines if '"api.request"' in x and '/apps"' in x]
        traces = [o["trace_id"] for o in said]
        # what is no trace is not repeated: such a request begins one of its own
        assert len(traces) >= 5 and traces.count(TRACE[3:35]) == 1 and len(set(traces)) == len(traces) and all(re.fullmatch("[0-9a-f]{32}", t) for t in traces), traces
        spans = {o["request_id"]: o for o in map(json.loads, lines) if o.get("kind") == "span"}
        for o in said:  # whatever failed is a span
            s = spans[o["request_id"]]
            assert s["name"] == "POST /v1/orgs/{org_id}/apps" and s["status"] == 500 and s["error_code"] == "internal" and s["duration_us"] > 0, s
            assert (s["trace_id"], s["span_id"]) == (o["trace_id"], o["span_id"]) and s["parent_span_id"] == (TRACE[36:52] if s["trace_id"] == TRACE[3:35] else ""), (s, o)
        assert w.token not in "\n".join(lines) and not re.search(r"moat_(at|rt|pat|sps|ex|en)_[A-Za-z0-9]", "\n".join(lines))
finally:
    w.close()
    closed.close()
kit.finish()
