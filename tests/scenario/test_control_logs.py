#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moat logs -f` against a real moat-control that is killed and stopped under it: every line once and in order. What a stream begins with.
COST 30 s, 6 s of processor."""
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


def stream(query, n, ms=3000):
    """The first @n objects of a stream."""
    c = kit.UnixHTTP(w.api, ms / 1000)
    c.request("GET", E + "/logs/stream?" + query, headers={"Authorization": "Bearer " + w.token})
    r = c.getresponse()
    assert r.status == 200, r.read()
    out = [json.loads(r.readline()) for _ in range(n)]
    c.close()
    return out


def cursor(at):
    return json.dumps(at).encode().hex()


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
            t.join(60)
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

    @case("positions are told on request, after the history")
    def _():
        got = stream("limit=3&positions=true", 4)
        assert [g["type"] for g in got] == ["log"] * 3 + ["position"] and got[3]["positions"] == {one: COUNT, two: COUNT}, got

    @case("a stream of what is new does not begin with what is old")
    def _():
        w.logs.asked.clear()
        c = kit.UnixHTTP(w.api, 10)
        c.request("GET", E + "/logs/stream?contains=fresh&instance_id=" + one, headers={"Authorization": "Bearer " + w.token})
        r = c.getresponse()

        def follows():  # asked for after the history was; what a stream before this one still asks is not meant
            asked = list(w.logs.asked)
            at = [k for k, a in enumerate(asked) if a.get("limit") == 5000]
            return [a for a in asked[at[0]:] if a.get("follow") and a["instance_id"] == one] if at else []
        assert [a["since_seq"] for a in wait_for("following", follows, 10)] == [COUNT], w.logs.asked
        w.logs.add(one, "fresh line")
        assert json.loads(r.readline())["line"] == "fresh line"
        c.close()

    @case("the attempt before is asked of the agent, at once or followed; a cursor goes before it")
    def _():
        w.logs.asked.clear()
        w.ok("GET", E + "/logs?previous=true&instance_id=" + one)
        assert w.logs.asked[-1].get("previous") is True and "since_seq" not in w.logs.asked[-1], w.logs.asked
        stream("previous=true&instance_id=" + one, 1)
        assert w.logs.asked[-1].get("previous") is True and w.logs.asked[-1]["follow"] is True, w.logs.asked
        stream("previous=true&cursor=" + cursor({one: 5}) + "&instance_id=" + one, 1)
        assert "previous" not in w.logs.asked[-1] and w.logs.asked[-1]["since_seq"] == 5, w.logs.asked
        assert w.q("GET", E + "/logs?previous=maybe").status == 400
finally:
    w.close()
kit.finish()
