#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moat status --at`, `moat diff` and their endpoints: the past out of the log is what was seen when it was the present.
COST 19 s, 20 s of processor."""
import copy, json, os, random, subprocess, sys, time, datetime
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import control_kit as kit
from control_kit import case, wait_for

kit.need("control history")
SEED = int(os.environ.get("MOAT_SEED", random.randrange(1 << 30)))
STEPS, EVENTS = 30, 100000
print("# MOAT_SEED=%d" % SEED, flush=True)
rnd = random.Random(SEED)
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h", "%d"]
ports = [{ name = "tls", internal = 8443, protocol = "tcp" }]
scaling = { min = %d, max = 9 }
[processes.web.resources]
memory = "100Mi"
"""
w = kit.World()


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def apply(doc, patch):
    """RFC 6902, the operations that a diff has."""
    root = {"": copy.deepcopy(doc)}

    def at(path):
        parts = [""] + [p.replace("~1", "/").replace("~0", "~") for p in path.split("/")[1:]]
        o = root
        for p in parts[:-1]:
            o = o[int(p)] if isinstance(o, list) else o[p]
        return o, (int(parts[-1]) if isinstance(o, list) else parts[-1])

    for s in patch:
        if s["op"] == "move":
            o, k = at(s["from"])
            value = o.pop(k)
        else:
            value = copy.deepcopy(s.get("value"))
        o, k = at(s["path"])
        if s["op"] == "remove":
            o.pop(k)
        elif s["op"] == "replace" or isinstance(o, dict):
            assert s["op"] != "replace" or s["path"] == "" or isinstance(o, list) and k < len(o) or k in o, s
            o[k] = value
        else:
            assert k <= len(o), s
            o.insert(k, value)
    return root[""]


def seen(status):
    """What the log can know of an answer: not the workload's last lines, which lie on the node."""
    s = copy.deepcopy(status)
    for e in [s] + s.get("envs", []) + [e for a in s.get("apps", []) for e in a["envs"]]:
        for k in ("last_lines", "last_console"):
            e.get("failure", {}).pop(k, None)
    s.pop("at", None)
    return s


def mismatch(a, b, path=""):
    if type(a) is not type(b):
        return "%s: %r / %r" % (path, a, b)
    if isinstance(a, dict):
        for k in sorted(set(a) | set(b)):
            if a.get(k) != b.get(k):
                return mismatch(a.get(k), b.get(k), path + "/" + k)
    if isinstance(a, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return mismatch(x, y, "%s/%d" % (path, i))
    return "%s: %r / %r" % (path, a, b)

CANARY = "cAnArY-in-history-"


class Shop:
    """An app with an environment that lives, and what is done to it."""

    def __init__(self, name):
        self.name, self.a, self.e = name, O + "/apps/" + w.ok("POST", O + "/apps", {"name": name})["id"], None
        self.releases, self.routes, self.n = [], [], 0

    def make_env(self):
        self.e = self.a + "/envs/" + w.ok("POST", self.a + "/envs", {"name": "prod%d" % self.n})["id"]
        self.routes = []
        self.n += 1

    def release(self):
        self.releases.append(w.ok("POST", self.a + "/releases", {"manifest": M % (rnd.randrange(1 << 30), rnd.choice([1, 2])), "image_digest":
                                  "sha256:%064x" % rnd.randrange(1 << 60), "verify_image": False})["id"])

    def deploy(self):
        if not self.releases or rnd.random() < 0.5:
            self.release()
        w.q("POST", self.e + "/deploys", {"release_id": rnd.choice(self.releases), "timeout_seconds": 60})

    def scale(self):
        have = w.ok("GET", self.e + "/scale")
        w.q("PUT", self.e + "/scale", {"processes": [{"process_type": "web", "desired": rnd.choice([0, 1, 2, 3, None])}], "expected_version": have["resource_version"]})

    def route(self):
        if self.routes and rnd.random() < 0.5:
            w.q("DELETE", self.e + "/routes/" + self.routes.pop(rnd.randrange(len(self.routes))), {})
            return
        r = w.q("POST", self.e + "/routes", {"hostname": "h%d.%s.test" % (rnd.randrange(4), self.name), "backend_process_type": "web", "backend_port": 8443})
        if r.status == 201:
            self.routes.append(r.json["id"])

    def protect(self):
        v = w.ok("GET", self.e)
        w.q("PATCH", self.e, {"name": "prod%d%s" % (self.n, rnd.choice("abc")), "expected_version": v["resource_version"]})

    def secrets(self):
        w.q("PATCH", self.e + "/secrets", {"set": {"K%d" % rnd.randrange(3): CANARY + str(rnd.random())}})

    def restart(self):
        w.q("POST", self.e + "/restarts", {})

    def new_env(self):
        w.q("DELETE", self.e + "?cascade=true", {})
        self.make_env()


def member():
    have = w.ok("GET", O + "/members")["items"]
    mine = [m for m in have if m["email"].endswith("@crew.test")]
    if mine and rnd.random() < 0.4:
        w.q("DELETE", O + "/members/" + rnd.choice(mine)["id"], {})
    elif mine and rnd.random() < 0.5:
        m = rnd.choice(mine)
        w.q("PATCH", O + "/members/" + m["id"], {"role": rnd.choice(["admin", "developer", "readonly"]), "expected_version": m["resource_version"]})
    else:
        w.q("POST", O + "/members", {"email": "m%d@crew.test" % rnd.randrange(6), "role": "developer"})


def limit():
    w.q("PUT", O + "/quotas/max_apps", {"limit": rnd.choice([None, 50, 60]), "reason": "a test"})


def behave(a):
    return rnd.choice(["ready", "ready", "ready", "ready", "exit", "hang"])


def known_end():
    """What chance may have left out comes at the end: each kind of change that a difference has to tell, between two moments that are kept."""
    w.agent.behave = lambda a: "ready"
    s = shops[0]
    for last in (False, True):
        s.release()
        d = w.ok("POST", s.e + "/deploys", {"release_id": s.releases[-1], "timeout_seconds": 300})["id"]
        wait_for("success", lambda: w.ok("GET", s.e + "/deploys/" + d)["status"] == "succeeded", 60)
        if last:
            have = w.ok("GET", s.e + "/scale")
            desired = 3 if have["processes"][0]["desired"] != 3 else 2
            w.ok("PUT", s.e + "/scale", {"processes": [{"process_type": "web", "desired": desired}], "expected_version": have["resource_version"]})
            wait_for("as many as that", lambda: w.ok("GET", s.e + "/status")["processes"][0]["ready"] == desired, 60)
            w.ok("POST", s.e + "/routes", {"hostname": "h9.%s.test" % s.name, "backend_process_type": "web", "backend_port": 8443})
            w.ok("PATCH", s.e + "/secrets", {"set": {"K9": CANARY + str(rnd.random())}})
        settled()


records = []  # (time, {path: state}) of moments when nothing moved


def settled():
    """A moment at which the live answers of all paths are of one event."""
    paths = [O] + [s.a for s in shops] + [s.e for s in shops]
    for _ in range(400):
        head = w.ok("GET", O + "/events?order=desc&limit=1")["head_event_id"]
        edge_acked(head)
        states = {p: w.ok("GET", p + "/history/status") for p in paths}
        plain = {s.e: w.ok("GET", s.e + "/status") for s in shops}
        t = now()
        if {s["as_of_event_id"] for s in list(states.values()) + list(plain.values())} == {head}:
            for e, p in plain.items():
                part = {k: v for k, v in states[e].items() if k in p}
                assert seen(part) == seen(p), (part, p)
            records.append((t, head, {p: seen(s) for p, s in states.items()}))
            return
        time.sleep(0.02)
    raise AssertionError("the platform never stood still")


def all_events():
    events, after = [], 0
    while page := w.ok("GET", O + "/events?limit=500&after_event_id=%d" % after)["items"]:
        events, after = events + page, page[-1]["event_id"]
    return events


def cli(*argv, code=0, json_out=False):
    env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d, NO_COLOR="1")
    r = subprocess.run([kit.program("moat"), *argv], env=env, capture_output=True, text=True, timeout=60)
    assert r.returncode == code, (r.returncode, r.stdout, r.stderr)
    return json.loads(r.stdout)["data"] if json_out else r.stdout + r.stderr


try:
    w.agent.behave = behave
    O = w.open()
    edge = subprocess.Popen(["/usr/bin/python3", "-c", "import sys; sys.path.insert(0, sys.argv[2]); from control_kit import call\n"
        "for head in sys.stdin:\n"
        "    call(sys.argv[1], 'POST', '/internal/v1/edge/status', {'epoch': 1, 'revision': int(head)})\n"
        "    print(head, end='', flush=True)", w.internal, kit.HERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        user=65534, group=65534, extra_groups=[])

    def edge_acked(head):
        edge.stdin.write("%d\n" % head)
        edge.stdin.flush()
        assert edge.stdout.readline() == "%d\n" % head, "the edge has ended"
    shops = [Shop("alpha"), Shop("beta")]
    for s in shops:
        s.make_env()
    steps = ["deploy"] * 4 + ["scale"] * 3 + ["route"] * 3 + ["secrets"] * 2 + ["protect", "restart", "new_env"]

    @case("a random history is driven and what is seen at %d moments is kept" % (4 + STEPS // 2))
    def _():
        settled()  # two moments that differ in what is ready, whatever chance brings after them
        w.agent.behave = lambda a: "ready"
        shops[0].deploy()
        wait_for("the first instances", lambda: any(p["ready"] for p in w.ok("GET", shops[0].e + "/status")["processes"]), 30)
        settled()
        w.agent.behave = behave
        deck = []
        noise = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "noise"})["id"]  # its events lie between, where a search for a time looks
        for i in range(STEPS):
            for k in range(rnd.randrange(3)):
                w.ok("POST", noise + "/projects", {"name": "p%d-%d" % (i, k)})
            if rnd.random() < 0.2:
                rnd.choice([member, limit])()
            else:
                deck = deck or rnd.sample(steps, len(steps))  # each of them, then again in another order
                getattr(rnd.choice(shops), deck.pop())()
            if i % 2:
                settled()
        known_end()
        assert len(records) == 4 + STEPS // 2
        churn = sum(1 for e in all_events() if e["event_type"] == "instance.allocated")
        assert churn < 10 * STEPS, churn  # a group that is held is left alone
        for n, (t, head, states) in enumerate(records):  # something may have begun between the last answer and the look at the clock
            after = w.ok("GET", O + "/events?after_event_id=%d&limit=1" % head)["items"]
            if after and after[0]["occurred_at"] <= t:
                records[n] = "@%d" % head, head, states
        timed = sum(not t.startswith("@") for t, _, _ in records)
        assert timed > len(records) // 2, [(t, head) for t, head, _ in records]
        print("# %d events" % records[-1][1])

    @case("status at each of them, by event and by time, is what was seen then")
    def _():
        assert records
        n, took = 0, 0
        for t, head, states in records:
            for p, want in states.items():
                for at in ("@%d" % head, t)[n % 2:][:1]:
                    n, took = n + 1, took - time.monotonic()
                    got = w.ok("GET", "%s/history/status?at=%s" % (p, at))
                    assert got["at"]["event_id"] >= head and got["at"]["asked"] == at, (got["at"], head, at, p)
                    took += time.monotonic()
                    got["as_of_event_id"] = head  # between the last event seen and the time there was none that matters
                    assert seen(got) == want, (p, at, mismatch(want, seen(got)))
        print("# %d looks, %.0f ms each" % (n, 1000 * took / n))

    @case("a span of time lists the events of that time, forwards and backwards")
    def _():
        events = all_events()
        assert len(events) > 100
        for _ in range(10):
            since, until = sorted(rnd.choice(events)["occurred_at"] for _ in "ab")
            want = [e["event_id"] for e in events if since <= e["occurred_at"] < until]
            for order, ids in (("asc", want), ("desc", want[::-1])):
                got = [e["event_id"] for e in w.ok("GET", O + "/events?limit=500&order=%s&since=%s&until=%s" % (order, since, until))["items"]]
                assert got == ids[:500], (since, until, order, len(got), len(ids))
            got = [e["event_id"] for e in w.ok("GET", O + "/events?limit=500&since=%s" % since)["items"] if e["event_id"] <= events[-1]["event_id"]]
            assert got == [e["event_id"] for e in events if e["occurred_at"] >= since][:500], (since, len(got))

    @case("the difference of two moments makes the later state out of the earlier")
    def _():
        told, wanted = set(), {"release", "scale", "ready", "instance_started", "instance_ended", "deploy", "route_added", "secrets"}
        for n in range(1000):  # 40, or more until each kind of change came by
            if n >= 40 and wanted <= told:
                break
            (t1, h1, s1), (t2, h2, s2) = sorted(rnd.sample(records, 2), key=lambda r: r[1])
            p = rnd.choice(sorted(set(s1) & set(s2)))
            d = w.ok("GET", "%s/history/diff?from=@%d&to=%s" % (p, h1, t2))
            assert CANARY not in json.dumps([d, s1[p], s2[p]]), p  # versions and numbers, never values
            got = apply(s1[p], d["patch"])
            got["as_of_event_id"] = h2
            assert got == s2[p], (p, h1, h2, mismatch(s2[p], got))
            assert d["same"] == ({**s1[p], "as_of_event_id": 0} == {**s2[p], "as_of_event_id": 0}), d
            told |= {c["kind"] for c in d["changes"]}
            ready = {c["id"] for c in d["changes"] if c["kind"] == "instance_started"} - {c["id"] for c in d["changes"] if c["kind"] == "instance_ended"}
            if p in [s.e for s in shops]:
                before, after = ({i["id"] for i in s[p]["instances"] if i["status"] != "stopped"} for s in (s1, s2))
                assert ready >= after - before, (ready, before, after)
                assert {c["id"] for c in d["changes"] if c["kind"] == "instance_ended"} >= before - after
        print("# told: " + " ".join(sorted(told)))
        assert wanted <= told, told

    def refused(target, status, code, *words):
        r = w.q("GET", target)
        assert r.status == status and r.json["code"] == code, (target, r.status, r.text)
        for word in words:
            assert word in r.json["detail"], (word, r.json["detail"])

    @case("a moment that is none, in the future or before there was anything is refused with the reason and what to ask for")
    def _():
        e, born = shops[0].e, w.ok("GET", O + "/events?aggregate_id=%s&limit=1" % shops[0].e.split("/")[-1])["items"][0]["event_id"]
        h = e + "/history/status?at="
        for bad in ("yesterday", "-2x", "-", "-1h-1h", "@", "@0", "@-1", "@1x", "2026-13-01T00:00:00Z", "-99999999h", "-9999999w", ""):
            refused(h + bad, 400, "invalid_argument", "'at'", "-2h, @EVENT_ID or now")
        refused(h + "@999999999", 400, "invalid_argument", "in the future", "ask for @", "the log ends at event")
        refused(h + "2999-01-01T00:00:00Z", 400, "invalid_argument", "in the future", "ask for now")
        refused(h + "-20w", 400, "invalid_argument", "before the organisation's first event, @", "later moment")
        refused(h + "0001-01-01T00:00:00Z", 400, "invalid_argument", "before the organisation's first event, @")
        refused(h + "@%d" % (born - 1), 404, "not_found", "was not there yet", "event @%d" % born, "later moment")
        assert w.ok("GET", h + "@%d" % born)["name"]
        refused(e + "/history/diff", 400, "invalid_argument", "'from' is missing")
        refused(e + "/history/diff?from=now&to=@%d" % born, 400, "invalid_argument", "lies after 'to'", "swap them")
        refused(e + "/history/diff?from=@%d&to=@%d" % (born - 1, born - 1), 404, "not_found", "was not there yet")
        refused(h + "@1&frm=2", 400, "invalid_argument")
        got = w.ok("GET", e + "/history/diff?from=@%d&to=now" % (born - 1))
        assert got["changes"][0]["kind"] == "env_created" and got["patch"][0]["path"] == "" and not got["same"]

    @case("what was deleted since is still there in its past")
    def _():
        s = shops[1]
        old, head = s.e, w.ok("GET", O + "/events?order=desc&limit=1")["head_event_id"]
        w.ok("DELETE", old + "?cascade=true", {})
        s.make_env()
        assert w.ok("GET", old + "/history/status?at=@%d" % head)["env_id"] == old.split("/")[-1]
        refused(old + "/history/status?at=now", 404, "not_found", "was gone", "deleted it", "a moment before")
        assert w.q("GET", old + "/history/status").status == 404 and w.q("GET", old + "/status").status == 404
        d = w.ok("GET", old + "/history/diff?from=@%d" % head)
        assert [c["kind"] for c in d["changes"]][:1] == ["env_deleted"] and d["patch"][-1] == {"op": "replace", "path": "", "value": None}, d

    @case("another organisation's events are not in it, and its members see nothing of this one")
    def _():
        other = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "other"})["id"]
        a = other + "/apps/" + w.ok("POST", other + "/apps", {"name": "alpha"})["id"]
        w.ok("POST", a + "/envs", {"name": "prod"})
        got = w.ok("GET", O + "/history/status?at=now")
        assert a.split("/")[-1] not in json.dumps(got) and other.split("/")[-1] not in json.dumps(got)
        mixed = O + a[len(other):]
        for p in (mixed, other + shops[0].a[len(O):], other + shops[0].e[len(O):]):
            for what in ("/history/status?at=now", "/history/status", "/history/diff?from=-1h"):
                assert w.q("GET", p + what).status == 404, p
        sp = w.ok("POST", other + "/service-principals", {"name": "reader", "scopes": ["events:read"]})
        token = kit.call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json["access_token"]
        as_sp = {"Authorization": "Bearer " + token}
        assert kit.call(w.api, "GET", other + "/history/status?at=now", headers=as_sp).status == 200
        assert kit.call(w.api, "GET", O + "/history/status?at=now", headers=as_sp).status == 404

    @case("the commands tell it in plain words")
    def _():
        s = shops[0]
        app, env = s.name, w.ok("GET", s.e)["name"]
        t = ["--org", "local", "--app", app, "--env", env]
        w.ok("PUT", s.e + "/scale", {"processes": [{"process_type": "web", "desired": 7}], "expected_version": w.ok("GET", s.e + "/scale")["resource_version"]}) if \
            w.ok("GET", s.e + "/scale")["processes"] else None
        born = w.ok("GET", O + "/events?aggregate_id=%s&limit=1" % s.e.split("/")[-1])["items"][0]["event_id"]
        out = cli("diff", "--from", "@%d" % (born - 1), *t)
        assert "environment " in out and " is made" in out, out
        assert "as after event @%d" % born in cli("status", "--at", "@%d" % born, *t)
        j = cli("status", "--at", "-1s", "--of", "org", "--json", *t, json_out=True)
        assert {a["name"] for a in j["apps"]} == {"alpha", "beta"} and j["at"]["asked"] == "-1s"
        assert "nothing changed" in cli("diff", "--from", "@%d" % born, "--to", "@%d" % born, *t)
        out = cli("status", "--at", "tomorrow", *t, code=2)
        assert "is no time" in out and "-2h" in out, out
        assert "was not there yet" in cli("status", "--at", "@%d" % (born - 1), *t, code=4)

    @case("others than the local operator have 30 looks a minute for an organisation")
    def _():
        ask = ("import os, sys, time; sys.path.insert(0, sys.argv[2]); from control_kit import call\n"
               "began, got = time.monotonic(), []\n"
               "while len(got) < int(sys.argv[5]) and (not got or got[-1].status == 400):\n"
               "    got.append(call(sys.argv[1], 'GET', sys.argv[3], headers={'Authorization': 'Bearer ' + sys.argv[4]}))\n"
               "print(len(got) - 1, got[-1].status, got[-1].json.get('details', {}).get('limit'), got[-1].headers.get('Retry-After'), time.monotonic() - began)")
        os.chmod(w.api, 0o666)
        # what is refused without a replay costs as well; half a place comes back in each second that this takes
        r = subprocess.run(["/usr/bin/python3", "-c", ask, w.api, kit.HERE, shops[0].e + "/history/status?at=yesterday", w.token, "500"],
                           user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=True)
        good, last, limit, after, took = r.stdout.split()
        assert (last, limit) == ("429", "history") and 30 <= int(good) <= 35 + float(took) / 2 and int(after) > 0, r.stdout

    @case("%d events: the time is told" % EVENTS)
    def _():
        e = shops[0].e
        app, env = shops[0].a.split("/")[-1], e.split("/")[-1]
        if not shops[0].releases:  # the random steps may have made none
            shops[0].release()
        rel = shops[0].releases[0]
        w.control.terminate()
        w.control.wait(30)
        # Whole lives of instances: placed, booting, ready, stopped, released. Nothing runs that could see that views lag behind.
        w.pg.sql("""INSERT INTO moat.events (event_id, occurred_at, org_id, app_id, env_id, aggregate_type, aggregate_id, aggregate_seq, event_type,
            actor_type, actor_id, request_id, payload, chain_hash)
          SELECT c.h + g, now(), '%s', '%s', '%s', 'instance', 'inst_' || lpad(((g - 1) / 5)::text, 26, '0'), (g - 1) %% 5 + 1,
            (ARRAY['instance.allocated', 'instance.status_changed', 'instance.status_changed', 'instance.status_changed', 'instance.released'])[(g - 1) %% 5 + 1],
            'system', 'scheduler', 'req_x',
            CASE (g - 1) %% 5 WHEN 0 THEN jsonb_build_object('process_type', 'web', 'node_id', 'node_x', 'release_id', '%s', 'overlay_ipv6', 'fd00::' || g, 'resources',
                jsonb_build_object('cpu_millis', 100, 'memory_bytes', 1, 'disk_bytes', 1), 'arch', 'amd64', 'image_digest', 'sha256:x', 'spec_hash', 'x', 'generation', 1)
              WHEN 4 THEN jsonb_build_object('overlay_ipv6', 'fd00::' || (g - 4))
              ELSE jsonb_build_object('node_id', 'node_x', 'status', (ARRAY['booting', 'ready', 'stopped'])[(g - 1) %% 5], 'restart_count', 0, 'reported_at', now()) END, ''
          FROM (SELECT max(event_id) AS h FROM moat.events) c, generate_series(1, %d) g""" % (O.split("/")[-1], app, env, rel, EVENTS))
        w.pg.sql("UPDATE moat.event_counter SET last_event_id = (SELECT max(event_id) FROM moat.events)")
        w.start_control()

        def look(target):
            """The server gives up after 30 s by the clock of the wall, on a machine without a processor to spare too: asked again then."""
            for _ in range(4):
                t = fair.now()
                r = w.q("GET", target)
                if r.status != 504:
                    break
            assert r.status == 200, r.text
            return r.json, fair.now() - t
        for p, what in ((e, "of the environment"), (O, "of the organisation")):
            got, took = look(p + "/history/status?at=now")
            print("# status at an event %s after %d: %.2f s" % (what, EVENTS, took))
            assert got["as_of_event_id"] > EVENTS and took < 30
        d, took = look(e + "/history/diff?from=@%d" % (got["as_of_event_id"] - EVENTS // 2))
        print("# diff of two moments, the second after %d events: %.2f s" % (EVENTS, took))
        assert sum(c["kind"] == "instance_ended" for c in d["changes"]) >= EVENTS // 10 - 1
finally:
    if "edge" in globals():
        edge.kill()
    w.close()
kit.finish()
