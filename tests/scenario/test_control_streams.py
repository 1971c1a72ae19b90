#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Event streams (control-plane.md 11.1): many at once, joined at any moment, each with every event it may see, once and in order;
slow clients, revoked tokens, an outage of the database. With MOAT_STREAM_SECONDS (600 with MOAT_FULL=1) writers of that long beside two consumers.
COST 21 s, 20 s of processor."""
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit  # noqa: E402
from control_kit import case  # noqa: E402


CLOCK_SHIFT = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(kit.ROOT, "build"), "tests/tools/clock_shift.so")


class Stream(threading.Thread):
    """Reads a stream to its end; `lines` grows."""

    def __init__(self, w, path, token=None):
        super().__init__(daemon=True)
        self.c = kit.UnixHTTP(w.api, 60)
        self.c.request("GET", path, headers={"Authorization": "Bearer " + (token or w.token)})
        self.r = self.c.getresponse()
        if self.r.status != 200:
            raise AssertionError("%s -> %d %s" % (path, self.r.status, self.r.read()))
        self.lines = []
        self.start()

    def run(self):
        try:
            while True:
                line = self.r.readline()
                if not line:
                    return
                self.lines.append(json.loads(line))
        except (OSError, ValueError):
            return

    def events(self):
        return [e for e in self.lines if "event_id" in e]

    def names(self):
        return [e["payload"]["name"] for e in self.events()]

    def end(self):
        return next((e for e in self.lines if e.get("type") == "end"), None)


def writers(w, org, prefix, threads, each, text=None):
    def work(k):
        for n in range(each):
            body = {"name": "%s-%d-%d" % (prefix, k, n)}
            if text:
                body["description"] = text
            w.ok("POST", "/v1/orgs/%s/apps" % org, body)
    ts = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    for t in ts:
        t.start()
    return ts


def main():
    if os.geteuid() != 0:
        kit.skip("event streams", "needs root")
        return
    w = kit.World(max_connections=700)
    w.confirm = False  # streams are counted
    a = w.ok("POST", "/v1/orgs", {"name": "stream-a"})["id"]
    b = w.ok("POST", "/v1/orgs", {"name": "stream-b"})["id"]
    A, B = "/v1/orgs/" + a, "/v1/orgs/" + b
    for org in (A, B):
        w.ok("PUT", org + "/quotas/max_apps", {"limit": 100000, "reason": "each event of this test is an app"})

    @case("A05 streams opened while commands run have every event of theirs, once, in order, and none of another organisation")
    def _():
        ts = writers(w, a, "w", 4, 60) + writers(w, b, "x", 2, 60)
        streams = []
        while any(t.is_alive() for t in ts) and len(streams) < 150:
            streams.append(Stream(w, A + "/events/stream?after_event_id=0&event_type=app.*"))
        for t in ts:
            t.join()
        want = [e["event_id"] for e in w.ok("GET", A + "/events?limit=500&event_type=app.*")["items"]]
        assert len(want) == 240 and len(streams) > 5, (len(want), len(streams))
        for i, s in enumerate(streams):
            kit.wait_for("240 events at stream %d of %d" % (i, len(streams)), lambda s=s: len(s.events()) >= 240, 30)
            got = [e["event_id"] for e in s.events()]
            assert got == want, (i, got[:5], want[:5])
            s.c.sock.close()

    full = float(os.environ.get("MOAT_STREAM_SECONDS") or (600 if os.environ.get("MOAT_FULL") else 0))
    if full:
        @case("A05 for %d s of writers a consumer has every event once, in order, and so has one that goes on from where it was cut, every few seconds" % full)
        def _():
            w.ok("PUT", A + "/quotas/max_apps", {"limit": 10000000, "reason": "a long run"})
            first = w.ok("GET", A + "/events?limit=1&order=desc")["items"][0]["event_id"]
            end, made = time.monotonic() + full, []

            def work(k):
                n = 0
                while time.monotonic() < end:
                    made.append(w.ok("POST", A + "/apps", {"name": "long-%d-%d" % (k, n)})["id"])
                    n += 1
                    time.sleep(0.02)  # a load for minutes beside whatever else the machine does
            ts = [threading.Thread(target=work, args=(k,)) for k in range(6)]
            path = A + "/events/stream?event_type=app.created&after_event_id="
            whole, cut, got = Stream(w, path + "%d" % first), Stream(w, path + "%d" % first), []
            for t in ts:
                t.start()
            while any(t.is_alive() for t in ts):
                time.sleep(3)
                got += cut.events()
                cut.c.sock.close()
                cut = Stream(w, path + "%d" % (got[-1]["event_id"] if got else first))
            for t in ts:
                t.join()
            kit.wait_for("the end at both", lambda: len(whole.events()) >= len(made) and len(got) + len(cut.events()) >= len(made), 60)
            got += cut.events()
            want, after = [], first
            while True:
                page = w.ok("GET", A + "/events?limit=500&event_type=app.created&after_event_id=%d" % after)["items"]
                if not page:
                    break
                want += [e["event_id"] for e in page]
                after = want[-1]
            print("# %d events in %d s" % (len(want), full), flush=True)
            assert len(want) == len(made) == len(set(made)) and want == sorted(want), (len(want), len(made))
            assert [e["event_id"] for e in whole.events()] == want, "the stream that stayed open"
            assert [e["event_id"] for e in got] == want, "the stream that was cut"
            whole.c.sock.close()
            cut.c.sock.close()

    @case("filters of a live stream are those of the list; a stream starts at the head unless told otherwise")
    def _():
        app = w.ok("POST", A + "/apps", {"name": "filtered"})["id"]
        one = Stream(w, A + "/events/stream?app_id=" + app)
        env = Stream(w, A + "/events/stream?event_type=env.created")
        under = Stream(w, A + "/events/stream?event_type=app_.*")  # the underscore stands for itself
        kit.wait_for("heartbeats", lambda: one.lines and env.lines and under.lines)
        w.ok("POST", A + "/apps", {"name": "other"})
        w.ok("POST", A + "/apps/" + app + "/envs", {"name": "prod"})
        kit.wait_for("the env", lambda: len(one.events()) == 1 and len(env.events()) == 1)
        time.sleep(0.3)
        assert [e["event_type"] for e in one.events()] == ["env.created"], one.lines
        assert [e["event_type"] for e in env.events()] == ["env.created"] and under.events() == [], (env.lines, under.lines)
        every = w.ok("GET", A + "/events?limit=500")["items"]
        made = next(e for e in every if e["event_type"] == "env.created" and e["app_id"] == app)
        who = made["actor"]["id"]
        for q, ids in (("aggregate_type=env", [e["event_id"] for e in every if e["aggregate_type"] == "env"]), ("aggregate_id=" + app, [e["event_id"] for e in every if e["aggregate_id"] == app]),
                       ("actor_id=" + who, [e["event_id"] for e in every if e["actor"]["id"] == who]), ("actor_id=usr_" + "0" * 26, []), ("correlation_id=dep_" + "0" * 26, []), ("env_id=" + made["env_id"], [made["event_id"]]),
                       ("event_type=env.created&event_type=org.*", [e["event_id"] for e in every if e["event_type"] == "env.created" or e["event_type"].startswith("org.")]),
                       ("since=" + made["occurred_at"], [e["event_id"] for e in every if e["occurred_at"] >= made["occurred_at"]]),
                       ("until=" + made["occurred_at"], [e["event_id"] for e in every if e["occurred_at"] < made["occurred_at"]])):
            for order in ("asc", "desc"):
                page = w.ok("GET", A + "/events?limit=500&order=%s&%s" % (order, q))
                assert [e["event_id"] for e in page["items"]] == sorted(ids, reverse=order == "desc"), (q, order, ids, page)
        page = w.ok("GET", A + "/events?limit=500&order=asc&correlation_id=dep_" + "0" * 26)
        assert page["next_after_event_id"] == page["head_event_id"] >= made["event_id"], page  # past what was left out

    @case("who did it has a name in lists and streams: people and programs of tenants, neither operators' nor nodes'")
    def _():
        bot = w.ok("POST", A + "/service-principals", {"name": "robot", "scopes": ["apps:read", "apps:write", "events:read"]})
        t = w.q("POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": bot["client_id"], "client_secret": bot["client_secret"]}).json["access_token"]
        s = Stream(w, A + "/events/stream?event_type=app.created")
        kit.wait_for("heartbeat", lambda: s.lines)
        for name, token in (("by-hand", w.token), ("by-robot", t)):
            assert kit.call(w.api, "POST", A + "/apps", {"name": name}, {"Authorization": "Bearer " + token}).status == 201
        kit.wait_for("both", lambda: len(s.events()) == 2)
        s.c.sock.close()
        me = next(u for u in w.ok("GET", "/v1/users")["items"] if u["id"] == w.ok("GET", "/v1/auth/whoami")["subject_id"])
        listed = w.ok("GET", A + "/events?event_type=app.created&limit=2&order=desc")["items"][::-1]
        for got in (s.events(), listed):
            assert [e["actor"] for e in got] == [{"type": "user", "id": me["id"], "display": me["display_name"]}, {"type": "service_principal", "id": bot["id"], "display": "robot"}], got
        rest = [e["actor"] for e in w.ok("GET", "/v1/admin/events?limit=500")["items"] if e["actor"]["type"] not in ("user", "service_principal")]
        assert rest and not any("display" in a for a in rest), rest

    @case("where somebody came from is told to those who may read the audit log only, in lists and in streams")
    def _():
        app = w.ok("POST", A + "/apps", {"name": "seen"})["id"]
        env = w.ok("POST", A + "/apps/" + app + "/envs", {"name": "prod"})["id"]
        few, more = (w.ok("POST", A + "/service-principals", {"name": n, "scopes": s}) for n, s in
                     (("few", ["events:read"]), ("more", ["events:read", "audit:read"])))
        tokens = {p["name"]: w.q("POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": p["client_id"],
                                                            "client_secret": p["client_secret"]}).json["access_token"] for p in (few, more)}
        tokens["owner"] = w.token
        streams = {who: Stream(w, A + "/events/stream?event_type=exec_session.*", t) for who, t in tokens.items()}
        kit.wait_for("heartbeats", lambda: all(s.lines for s in streams.values()))
        session = "exec_01j" + "0" * 23

        def append(what, payload):
            r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "append", "--type", "exec_session." + what, "--id", session,
                                "--org", a, "--app", app, "--env", env, "--payload", json.dumps(payload), "--reason", "test"], capture_output=True, text=True, timeout=60)
            assert r.returncode == 0, r.stderr + r.stdout
        append("granted", {"instance_id": "inst_01j" + "0" * 23, "command": ["true"], "tty": False, "expires_at": "2030-01-01T00:00:00.000000Z", "max_duration_seconds": 60})
        append("connected", {"instance_id": "inst_01j" + "0" * 23, "source_ip": "192.0.2.77"})
        kit.wait_for("both events everywhere", lambda: all(len(s.events()) == 2 for s in streams.values()), 30)
        for who, t in tokens.items():
            r = kit.call(w.api, "GET", A + "/events?event_type=exec_session.connected", headers={"Authorization": "Bearer " + t})
            for where, e in (("list", r.json["items"][0]), ("stream", streams[who].events()[1])):
                assert e["event_type"] == "exec_session.connected" and e["payload"]["instance_id"], e
                assert e["payload"].get("source_ip") == (None if who == "few" else "192.0.2.77"), (who, where, e)
            streams[who].c.sock.close()
        late = Stream(w, A + "/events/stream?after_event_id=0&event_type=exec_session.connected", tokens["few"])  # out of the feed's memory or the database
        kit.wait_for("it", late.events)
        assert "source_ip" not in late.events()[0]["payload"], late.lines
        late.c.sock.close()
        assert w.ok("GET", "/v1/admin/events?event_type=exec_session.connected")["items"][0]["payload"]["source_ip"] == "192.0.2.77"

    @case("a restricted token's stream holds what is inside its restriction only")
    def _():
        mine, other = (w.ok("POST", A + "/apps", {"name": n})["id"] for n in ("mine", "not-mine"))
        t = w.ok("POST", "/v1/auth/tokens", {"name": "narrow", "scopes": ["events:read"], "restrict": {"app_ids": [mine], "env_ids": []}})
        s = Stream(w, A + "/events/stream", t["token"])
        kit.wait_for("heartbeat", lambda: s.lines)
        w.ok("POST", A + "/apps/" + other + "/envs", {"name": "out"})
        w.ok("POST", A + "/apps/" + mine + "/envs", {"name": "in"})
        kit.wait_for("the env inside", lambda: s.events())
        time.sleep(0.3)
        assert s.names() == ["in"], s.lines

    @case("a revoked token ends its stream within seconds, with the reason")
    def _():
        t = w.ok("POST", "/v1/auth/tokens", {"name": "short", "scopes": ["events:read"]})
        s = Stream(w, A + "/events/stream", t["token"])
        kit.wait_for("heartbeat", lambda: s.lines)
        w.ok("DELETE", "/v1/auth/tokens/" + t["id"], want=(200, 204))
        kit.wait_for("the end", s.end, 12)
        assert s.end()["reason"] == "token_revoked" and s.end()["resume_after"] >= s.lines[0]["head_event_id"], s.lines

    @case("server-sent events: the same objects, ids that a client comes back with, heartbeats as comments, the end with its reason")
    def _():
        t = w.ok("POST", "/v1/auth/tokens", {"name": "browser", "scopes": ["events:read"]})
        path = A + "/events/stream?event_type=app.created"
        s = kit.Sse(w.api, path, t["token"])
        kit.wait_for("the heartbeat", lambda: s.comments)
        head = w.ok("GET", A + "/events?limit=1&order=desc")["head_event_id"]
        assert s.comments == ["heartbeat"] and s.got == [] and s.last == str(head) and s.retry == 1000, (s.comments, s.got, s.last, head)
        for n in ("sse-1", "sse-2", "sse-3"):
            w.ok("POST", A + "/apps", {"name": n})
        kit.wait_for("three", lambda: len(s.messages()) >= 3)
        want = w.ok("GET", A + "/events?event_type=app.created&after_event_id=%d" % head)["items"]
        assert s.messages() == [(str(e["event_id"]), e) for e in want], (s.got, want)
        s.close()
        for n in ("sse-4", "sse-5"):
            w.ok("POST", A + "/apps", {"name": n})
        # as a browser does: the URL of the first time, and the last id beside it
        again = kit.Sse(w.api, path + "&after_event_id=%d" % head, t["token"], s.last)
        kit.wait_for("the two of meanwhile", lambda: len(again.messages()) >= 2)
        w.ok("POST", A + "/apps", {"name": "sse-6"})
        kit.wait_for("and one more", lambda: len(again.messages()) >= 3)
        assert [o["payload"]["name"] for _, o in again.messages()] == ["sse-4", "sse-5", "sse-6"], again.got
        w.ok("POST", A + "/projects", {"name": "moves-the-head"})
        w.ok("DELETE", "/v1/auth/tokens/" + t["id"], want=(200, 204))
        kit.wait_for("the end", lambda: not again.is_alive(), 12)
        event, at, o = again.got[-1]
        assert event == "end" and o["type"] == "end" and o["reason"] == "token_revoked" and at == str(o["resume_after"]) == again.last, again.got[-1]
        assert o["resume_after"] > again.messages()[-1][1]["event_id"], again.got[-1]

    @case("which form a stream has: what Accept asks for first; a Last-Event-ID that is none is refused")
    def _():
        path = A + "/events/stream"
        for accept in (None, "*/*", "application/x-ndjson", "application/x-ndjson, text/event-stream", "text/event-stream;q=0", "text/event-stream;q=0.5, application/x-ndjson"):
            c = kit.UnixHTTP(w.api, 60)
            c.request("GET", path, headers={"Authorization": "Bearer " + w.token, "Last-Event-ID": "1", **({"Accept": accept} if accept else {})})
            r = c.getresponse()
            assert r.status == 200 and r.headers["Content-Type"].startswith("application/x-ndjson"), (accept, r.headers)
            assert json.loads(r.readline())["type"] == "heartbeat", accept  # no history: the header is not for this form
            c.sock.close()
        for accept in ("text/event-stream", "Text/Event-Stream;q=0.9", "text/event-stream, application/x-ndjson", "application/x-ndjson;q=0.25, text/event-stream ; q=0.5"):
            kit.Sse(w.api, path, w.token, accept=accept).close()
        for bad in ("x", "-1", "1.5", "99999999999999999999", "1 2"):
            r = kit.call(w.api, "GET", path, headers={"Authorization": "Bearer " + w.token, "Accept": "text/event-stream", "Last-Event-ID": bad})
            assert r.status == 400 and r.json["code"] == "invalid_argument" and r.headers["Content-Type"].startswith("application/problem+json"), (bad, r.status, r.text)

    @case("a personal token's use is noted once in ten minutes, without asking the database at each request")
    def _():
        t = w.ok("POST", "/v1/auth/tokens", {"name": "noted", "scopes": ["apps:read"]})
        used = "FROM moat.personal_tokens WHERE token_id = '%s'" % t["id"]

        def read():
            return kit.call(w.api, "GET", A + "/apps", headers={"Authorization": "Bearer " + t["token"]}).status
        assert w.pg.sql("SELECT last_used_at IS NULL " + used) == "t"
        read()
        kit.wait_for("the note", lambda: w.pg.sql("SELECT last_used_at > now() - interval '1 minute' " + used) == "t")
        w.pg.sql("UPDATE moat.personal_tokens SET last_used_at = NULL WHERE token_id = '%s'" % t["id"])
        read()
        assert w.pg.sql("SELECT last_used_at IS NULL " + used) == "t"

    @case("a client that does not read is ended as slow_consumer; from resume_after on nothing is missing or double")
    def _():
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", B + "/events/stream", headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()
        first = json.loads(r.readline())
        for t in writers(w, b, "slow", 8, 180, "d" * 1000):
            t.join()
        lines = [json.loads(x) for x in r.read().splitlines()]
        assert lines[-1]["type"] == "end" and lines[-1]["reason"] == "slow_consumer", lines[-1]
        got = [e["event_id"] for e in lines if "event_id" in e]
        assert got and got[-1] == lines[-1]["resume_after"], (len(got), lines[-1])
        rest = Stream(w, B + "/events/stream?after_event_id=%d" % lines[-1]["resume_after"])
        kit.wait_for("the rest", lambda: len(got) + len(rest.events()) >= 1440, 20)
        every = got + [e["event_id"] for e in rest.events()]
        assert every == sorted(set(every)) and len(every) == 1440 and every[0] > first["head_event_id"], (len(every), every[:3])

    @case("a client of server-sent events that does not read is ended the same way, and its last id is where it goes on")
    def _():
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", B + "/events/stream", headers={"Authorization": "Bearer " + w.token, "Accept": "text/event-stream"})
        r = c.getresponse()
        for t in writers(w, b, "still", 8, 180, "d" * 1000):
            t.join()
        blocks = [dict(f.split(": ", 1) for f in x.splitlines()) for x in r.read().decode().split("\n\n") if x and not x.startswith(":")]
        ids = [int(x["id"]) for x in blocks if "event" not in x and "data" in x]
        end = blocks[-1]
        assert end["event"] == "end" and json.loads(end["data"])["reason"] == "slow_consumer" and int(end["id"]) == ids[-1], (end, ids[-1:])
        rest = kit.Sse(w.api, B + "/events/stream", w.token, end["id"])
        kit.wait_for("the rest", lambda: len(ids) + len(rest.messages()) >= 1440, 20)
        every = ids + [int(i) for i, _ in rest.messages()]
        assert every == sorted(set(every)) and len(every) == 1440, len(every)
        rest.close()

    @case("a history larger than the buffer is read to its end by a client that reads")
    def _():
        s = Stream(w, B + "/events/stream?after_event_id=0")
        kit.wait_for("3,000 events", lambda: len(s.events()) >= 3001, 30)
        ids = [e["event_id"] for e in s.events()]
        assert ids == sorted(set(ids)) and s.end() is None, (len(ids), s.end())

    @case("PostgreSQL stopped by SIGQUIT and started again: the streams go on without gap or double")
    def _():
        streams = [Stream(w, A + "/events/stream?event_type=app.created") for _ in range(20)]
        kit.wait_for("heartbeats", lambda: all(s.lines for s in streams))
        w.ok("POST", A + "/apps", {"name": "before"})
        kit.wait_for("the first", lambda: all(s.names() == ["before"] for s in streams))
        w.pg.stop(signal.SIGQUIT)
        time.sleep(1)
        w.pg.start()
        kit.wait_for("a write", lambda: w.q("POST", A + "/apps", {"name": "after"}, key="after").status in (200, 201), 20)
        kit.wait_for("the second", lambda: all(s.names() == ["before", "after"] for s in streams), 20)

    @case("by the server's own clock: a heartbeat each 15 s, the end after an hour with where to go on, of events and of log lines")
    def _():
        clock = w.d + "/clock"

        def at(seconds):
            with open(clock, "r+b" if os.path.exists(clock) else "wb") as f:
                f.write(struct.pack("=qq", 0, int(seconds * 10**9)))
        at(0)
        app = w.ok("POST", A + "/apps", {"name": "timed"})["id"]
        env = w.ok("POST", A + "/apps/%s/envs" % app, {"name": "prod"})["id"]
        w.kill_control()
        before = {k: os.environ.get(k) for k in ("LD_PRELOAD", "MOAT_CLOCK_FILE")}
        os.environ.update(LD_PRELOAD=CLOCK_SHIFT, MOAT_CLOCK_FILE=clock)
        try:
            w.start_control()
        finally:
            for k, v in before.items():
                os.environ.pop(k) if v is None else os.environ.update({k: v})
        events = Stream(w, A + "/events/stream")
        lines = Stream(w, A + "/apps/%s/envs/%s/logs/stream" % (app, env))
        beats = lambda s: sum(1 for x in s.lines if x.get("type") == "heartbeat")
        kit.wait_for("the first heartbeat", lambda: beats(events) == 1)
        # The true time goes on beside the shifted one: each step leaves room for a machine that is busy for many seconds.
        at(3)
        w.ok("POST", A + "/apps", {"name": "one"})  # what is said is a sign of life too: 15 s from here
        kit.wait_for("the event", lambda: events.names() == ["one"])
        assert beats(events) == 1, events.lines
        first, second = beats(events), beats(lines)
        at(30)
        kit.wait_for("another heartbeat of both", lambda: beats(events) > first and beats(lines) > second, 20)
        first = beats(events)
        at(3400)
        kit.wait_for("a heartbeat before the end", lambda: beats(events) > first, 20)
        assert events.end() is None and lines.end() is None, (events.lines[-2:], lines.lines[-2:])
        at(3605)
        kit.wait_for("their ends", lambda: events.end() and lines.end(), 20)
        assert (events.end()["reason"], events.end()["resume_after"], lines.end()["reason"]) == ("max_duration", events.events()[-1]["event_id"], "max_duration"), (events.end(), lines.end())
        w.ok("POST", A + "/apps", {"name": "two"})
        again = Stream(w, A + "/events/stream?after_event_id=%d" % events.end()["resume_after"])
        kit.wait_for("what came since", lambda: again.names() == ["two"], 20)

    w.close()


if __name__ == "__main__":
    main()
    kit.finish()
