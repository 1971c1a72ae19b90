#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moat logs -f` against a real moat-control that is killed and stopped under it: every line once and in order. What a stream begins with.
COST 55 s, 6 s of processor."""
import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control logs")
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h"]
[processes.web.resources]
memory = "100Mi"
[processes.web.scaling]
min = 2
"""
w = kit.World()
COUNT = 600


def stream(query, n):
    """The first @n objects of a stream."""
    c = kit.UnixHTTP(w.api, 60)
    c.request("GET", E + "/logs/stream?" + query, headers={"Authorization": "Bearer " + w.token})
    r = c.getresponse()
    assert r.status == 200, r.read()
    out = [json.loads(r.readline()) for _ in range(n)]
    c.close()
    return out


def cursor(at):
    return json.dumps(at).encode().hex()


def next_of(r):
    """The next object of a stream that is no sign of life."""
    while True:
        o = json.loads(r.readline())
        if o["type"] != "heartbeat":
            return o


try:
    w.open()
    A, E = w.make_app("one")
    w.deploy(A, E, M)
    one, two = sorted(i["id"] for i in w.ok("GET", E + "/instances")["items"])
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d)

    @case("moat logs -f goes on through kills and stops of moat-control: no line lost, none twice")
    def _():
        def talk():
            for n in range(COUNT):
                for i in (one, two):
                    w.logs.add(i, "n %d" % n)
                time.sleep(0.02)
        out = open(w.d + "/tail.out", "wb")
        p = subprocess.Popen([kit.program("moat"), "logs", "-f", "--json", "-n", "5000", "--org", "local", "--app", "one", "--env", "prod"], env=env, stdout=out, stderr=subprocess.PIPE)
        t = threading.Thread(target=talk)
        t.start()

        def rows():
            return [json.loads(x) for x in open(w.d + "/tail.out").read().splitlines(True) if x.endswith("\n")]
        try:
            for turn in range(4):
                wait_for("lines", lambda: len(rows()) > 100 + turn * 200, 60)
                if turn % 2:
                    w.control.terminate()
                    w.control.wait(25)
                else:
                    w.kill_control()
                w.start_control()
            t.join(240)
            wait_for("all lines", lambda: len(rows()) >= 2 * COUNT, 60)
            assert p.poll() is None, p.communicate()
        finally:
            p.kill()
            p.communicate()
        for i in (one, two):
            seen = [r["line"] for r in rows() if r.get("instance_id") == i]
            assert seen == ["n %d" % n for n in range(COUNT)], (len(seen), [(k, s) for k, s in enumerate(seen) if s != "n %d" % k][:3])
        assert all(r.get("type") == "log" for r in rows()), [r for r in rows() if r.get("type") != "log"][:3]

    @case("a stream goes on from its cursor, and an instance that the cursor lacks begins at its first line")
    def _():
        got = stream("cursor=" + cursor({one: COUNT - 2}) + "&instance_id=" + one, 2)
        assert [g["line"] for g in got] == ["n %d" % n for n in range(COUNT - 2, COUNT)], got
        got = stream("cursor=" + cursor({one: COUNT}), 3)
        assert {g["instance_id"] for g in got} == {two} and [g["seq"] for g in got] == [1, 2, 3], got
        for bad in ("zz", "abc", "7b", "5b5d"):
            assert w.q("GET", E + "/logs/stream?cursor=" + bad).status == 400, bad

    @case("each filter takes in and leaves out, also what lies thousands of lines back; a window of a day, pages of 5000")
    def _():
        A, E = w.make_app("two")
        w.deploy(A, E, M.replace("[processes.web]", '[processes.other]\ncommand = ["/o"]\n[processes.other.resources]\nmemory = "100Mi"\n[processes.web]', 1))
        one = w.ok("GET", E + "/instances?process_type=web")["items"][0]["id"]
        o = wait_for("an instance of the other process", lambda: w.ok("GET", E + "/instances?process_type=other")["items"])[0]
        L, day = o["id"], "2026-01-02T"

        def put(n, stream="stdout", i=L):  # one a second from midnight on
            w.logs.lines[i] = [{"ts": day + "%02d:%02d:%02d.000000Z" % (k // 3600, k // 60 % 60, k % 60), "seq": k + 1, "stream": stream if k == 3 else "stdout",
                                "line": "old %d" % k, "truncated": False} for k in range(n)]

        def got(q, token=None):
            w.logs.asked.clear()
            return [x["line"] for x in w.ok("GET", E + "/logs?" + q)["items"]]
        put(12345, "stderr")
        w.logs.lines[L] += [{"ts": "2026-01-03T10:00:00.000000Z", "seq": 12346, "stream": "system", "line": "end", "truncated": False}]
        P = "process_type=other&"
        asked = lambda: [a for a in list(w.logs.asked) if a["instance_id"] == L]  # a stream of before may ask for others'
        assert got(P + "limit=2") == ["old 12344", "end"] and len(asked()) == 1
        assert got(P + "stream=stderr") == ["old 3"] and [a.get("since_seq") for a in asked()] == [None, 2346, 0], w.logs.asked
        assert got(P + "stream=system") == ["end"] and got(P + "contains=ld%20777&limit=2") == ["old 7778", "old 7779"]
        assert got(P + "until=%s00:00:03Z" % day) == ["old 0", "old 1", "old 2"]  # before it, not at it
        assert got(P + "since=%s03:25:43Z&until=2026-01-03T03:00:00Z" % day) == ["old 12343", "old 12344"] and len(asked()) == 1
        assert got(P + "since=%s01:00:00Z&until=%s01:00:02Z" % (day, day)) == ["old 3600", "old 3601"] and len(asked()) == 2, w.logs.asked
        assert got("contains=old&limit=1&instance_id=" + L) == ["old 12344"] and got("contains=old&instance_id=" + one) == [] and got("contains=old&process_type=web") == []
        rel = o["release_id"]
        assert got("contains=end&release_id=" + rel) == ["end"] and got("contains=end&release_id=rel_" + "0" * 26) == []
        assert len(got(P + "limit=5000")) == 5000
        w.logs.lines[L] = w.logs.lines[L][6000:]  # retention took the first ones
        assert got(P + "contains=old&limit=5000") == ["old %d" % n for n in range(7345, 12345)] and len(got(P + "until=%s02:00:00Z&limit=5000" % day)) == 1200
        sp = w.ok("POST", w.org() + "/service-principals", {"name": "reader", "scopes": ["logs:read"]})
        t = w.ok("POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]})["access_token"]
        for q, code in (("since=2026-01-02T00:00:00Z&until=2026-01-03T00:00:00Z", 200), ("since=2026-01-02T00:00:00Z&until=2026-01-03T00:00:01Z", 400), ("since=23h", 200),
                        ("since=25h", 400), ("since=1h&until=2h", 400), ("stream=all", 400), ("limit=5001", 400), ("limit=0", 400), ("since=yesterday", 400)):
            r = kit.call(w.api, "GET", E + "/logs?" + q, headers={"Authorization": "Bearer " + t})
            assert r.status == code, (q, r.text)
        assert w.q("GET", E + "/logs?since=25h").status == 200  # operators have no window

    @case("positions are told on request, after the history")
    def _():
        got = stream("limit=3&positions=true", 4)
        assert [g["type"] for g in got] == ["log"] * 3 + ["position"] and got[3]["positions"] == {one: COUNT, two: COUNT}, got

    @case("a stream ends at its `until`: with what was there when that is past, with what came before it when it is not")
    def _():
        def whole(query, token=w.token):
            c = kit.UnixHTTP(w.api, 200)
            c.request("GET", E + "/logs/stream?" + query, headers={"Authorization": "Bearer " + token})
            r = c.getresponse()
            assert r.status == 200, r.read()
            out = [json.loads(x) for x in r.read().splitlines()]
            c.close()
            return [o for o in out if o["type"] not in ("heartbeat", "missing")]

        def at(ahead):
            t = time.time() + ahead
            return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) + ".%06dZ" % int(t % 1 * 1e6)
        old = w.logs.lines[one][9]["ts"]
        got = whole("limit=5000&instance_id=%s&until=%s" % (one, old))
        assert [o["seq"] for o in got[:-1]] == [l["seq"] for l in w.logs.lines[one] if l["ts"] < old] and got[-1] == {"type": "end", "reason": "until"}, got[-3:]
        again = whole("cursor=%s&instance_id=%s&until=%s" % (cursor({one: 3}), one, old))
        assert [o["seq"] for o in again[:-1]] == [l["seq"] for l in w.logs.lines[one] if l["seq"] > 3 and l["ts"] < old] and again[-1]["reason"] == "until", again[-3:]
        lines = dict(w.logs.lines)
        try:
            for seconds in (4, 20, 90):  # on a busy machine the line of the time may come too late for the nearest end
                w.logs.lines, until, ends = {k: list(v) for k, v in lines.items()}, at(seconds), time.time() + seconds
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    asked = len(w.logs.asked)
                    ahead = pool.submit(whole, "limit=1&instance_id=%s&until=%s" % (one, until))
                    wait_for("it follows", lambda: [a for a in list(w.logs.asked)[asked:] if a.get("follow") and a["instance_id"] == one] or ahead.done())
                    w.logs.add(one, "in time")
                    w.logs.lines[one].append({"ts": at(600), "seq": len(w.logs.lines[one]) + 1, "stream": "stdout", "line": "too late", "truncated": False})
                    said = time.time()
                    got = ahead.result(200)
                if said < ends - 0.5:
                    break
            assert [o.get("line") for o in got] == ["n %d" % (COUNT - 1), "in time", None] and got[-1] == {"type": "end", "reason": "until"}, got
            assert time.time() >= time.mktime(time.strptime(until[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone, until
            p = subprocess.run([kit.program("moat"), "logs", "-f", "--instance", one, "--until", old, "-n", "2", "--org", "local", "--app", "one", "--env", "prod"], env=env, capture_output=True, text=True, timeout=60)
            assert p.returncode == 0, (p.returncode, p.stderr)
        finally:
            w.logs.lines = lines

    @case("as server-sent events: the same lines, and a client that comes back with its last id loses none")
    def _():
        s = kit.Sse(w.api, E + "/logs/stream?limit=3", w.token)
        wait_for("the history", lambda: len(s.messages()) == 3)
        assert {o["type"] for _, o in s.messages()} == {"log"} and all(o["line"] == "n %d" % (o["seq"] - 1) for _, o in s.messages()), s.got
        w.logs.add(one, "sse 1")
        wait_for("the new line", lambda: len(s.messages()) == 4)
        wait_for("where that is", lambda: s.last and json.loads(bytes.fromhex(s.last)).get(one) == COUNT + 1, 10)
        assert json.loads(bytes.fromhex(s.last)) == {one: COUNT + 1, two: COUNT}, bytes.fromhex(s.last)
        s.close()
        w.logs.add(one, "sse 2")
        w.logs.add(two, "sse 3")
        again = kit.Sse(w.api, E + "/logs/stream?limit=3", w.token, s.last)
        wait_for("both", lambda: len(again.messages()) >= 2)
        w.logs.add(two, "sse 4")
        wait_for("one more", lambda: len(again.messages()) >= 3)
        assert sorted(o["line"] for _, o in again.messages()) == ["sse 2", "sse 3", "sse 4"], again.got
        wait_for("where that is", lambda: json.loads(bytes.fromhex(again.last)) == {one: COUNT + 2, two: COUNT + 2}, 10)
        w.control.terminate()
        w.control.wait(25)
        wait_for("the end", lambda: not again.is_alive(), 20)
        assert again.got[-1][0] == "end" and again.got[-1][2] == {"type": "end", "reason": "shutdown"}, again.got[-1]
        assert json.loads(bytes.fromhex(again.last)) == {one: COUNT + 2, two: COUNT + 2}, again.last
        w.start_control()
        for bad in ("zz", "5b5d"):
            r = kit.call(w.api, "GET", E + "/logs/stream", headers={"Authorization": "Bearer " + w.token, "Accept": "text/event-stream", "Last-Event-ID": bad})
            assert r.status == 400 and r.json["code"] == "invalid_cursor", (bad, r.text)

    @case("a stream of what is new does not begin with what is old")
    def _():
        w.logs.asked.clear()
        c = kit.UnixHTTP(w.api, 60)
        c.request("GET", E + "/logs/stream?contains=fresh&instance_id=" + one, headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()

        def follows():  # asked for after the history was; what a stream before this one still asks is not meant
            asked = list(w.logs.asked)
            at = [k for k, a in enumerate(asked) if a.get("limit") == 5000]
            return [a for a in asked[at[0]:] if a.get("follow") and a["instance_id"] == one] if at else []
        assert [a["since_seq"] for a in wait_for("following", follows, 10)] == [COUNT + 2], w.logs.asked
        w.logs.add(one, "fresh line")
        assert next_of(r)["line"] == "fresh line"
        c.close()

    @case("an agent that is killed under a stream is followed anew from where its lines were read to; every line is there once")
    def _():
        c = kit.UnixHTTP(w.api, 120)
        c.request("GET", E + "/logs/stream?contains=cut&instance_id=" + one, headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()
        seen = []

        def read():
            for x in iter(r.readline, b""):
                seen.append(json.loads(x))
        t = threading.Thread(target=read, daemon=True)
        t.start()

        def said():
            return [x["line"] for x in seen if x.get("type") == "log"]
        for turn in range(3):
            before = len(w.logs.asked)
            w.logs.add(one, "cut %d" % turn)
            wait_for("the line", lambda: len(said()) > turn, 20)
            w.logs.cut()
            wait_for("following anew", lambda: [a for a in list(w.logs.asked)[before:] if a.get("follow") and a["instance_id"] == one], 20)
        w.logs.add(one, "cut 3")
        wait_for("the last", lambda: len(said()) > 3, 20)
        assert said() == ["cut 0", "cut 1", "cut 2", "cut 3"], seen
        c.sock.close()

    @case("a node that does not answer is named in the stream, and taken back when it does")
    def _():
        os.rename(w.agent_sock, w.agent_sock + ".away")
        try:
            c = kit.UnixHTTP(w.api, 120)
            c.request("GET", E + "/logs/stream?contains=away", headers={"Authorization": "Bearer " + w.token})
            r = c.getresponse()
            first = next_of(r)
            assert first == {"type": "missing", "nodes": [w.agent.node_id]}, first
        finally:
            os.rename(w.agent_sock + ".away", w.agent_sock)
        assert next_of(r) == {"type": "missing", "nodes": []}
        w.logs.add(two, "away no more")
        assert next_of(r)["line"] == "away no more"
        c.sock.close()

    @case("the attempt before is asked of the agent, at once or followed; a cursor goes before it")
    def _():
        def asks(what):
            """What is asked for @what; not what a stream of before still asks."""
            w.logs.asked.clear()
            what()
            return list(w.logs.asked)
        got = [a for a in asks(lambda: w.ok("GET", E + "/logs?previous=true&instance_id=" + one)) if a.get("previous") is True]
        assert got and all("since_seq" not in a for a in got), w.logs.asked
        assert [a for a in asks(lambda: stream("previous=true&instance_id=" + one, 1)) if a.get("previous") is True and a["follow"] is True], w.logs.asked
        got = asks(lambda: stream("previous=true&cursor=" + cursor({one: 5}) + "&instance_id=" + one, 1))
        assert [a for a in got if a.get("since_seq") == 5] and not [a for a in got if "previous" in a], got
        assert w.q("GET", E + "/logs?previous=maybe").status == 400
finally:
    w.close()
kit.finish()
