#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL goes away again and again, cleanly and by SIGQUIT, under writes, deploys and streams: moat-control stays up, what
it acknowledged is there, nothing is there twice, and a deploy completes afterwards. Seed: first argument. With MOAT_OUTAGE_SECONDS (300 with
MOAT_FULL=1) one outage of that length follows, under writes.
COST 23 s, 14 s of processor."""
import os, random, signal, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control outages")

seed = int(sys.argv[1]) if len(sys.argv) > 1 else int(time.time())
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20
print("# seed %d" % seed)
rnd = random.Random(seed)
long = float(os.environ.get("MOAT_OUTAGE_SECONDS") or (300 if os.environ.get("MOAT_FULL") else 0))
kit.REPORT_S = max(kit.REPORT_S, long + 60)  # an agent reports until it is heard
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.web]
command = ["/h"]
[processes.web.resources]
memory = "%dMi"
[[processes.web.ports]]
name = "tls"
internal = 8443
[[routes]]
env = "prod"
hostname = "a.example.com"
process = "web"
port = "tls"
"""
w = kit.World()
stop = threading.Event()
acked = {}
odd = []


def release(mib):
    return w.q("POST", A + "/releases", {"manifest": M % mib, "image_digest": "sha256:" + "1" * 64, "verify_image": False})


def writer(k):
    n, dice = 0, random.Random(seed + k)
    while not stop.is_set():
        try:
            name = "a%d-%d" % (k, n)
            r = w.q("POST", O + "/apps", {"name": name}, key="key-" + name)
            if r.status == 201:
                acked[name] = r.json["id"]
                n += 1
            elif r.status != 503:
                odd.append((r.status, r.text))
            w.q("GET", E + "/status")
            stop.wait(0.05)  # requests are there to be met by an outage: more at once show nothing more
            if k == 0:
                r = release(dice.randint(100, 900))
                if r.status < 300:
                    w.q("POST", E + "/deploys", {"release_id": r.json["id"]})
        except OSError as e:
            odd.append(e)
            time.sleep(0.05)


def streamer(k):
    dice = random.Random(seed + 100 + k)
    while not stop.is_set():
        try:
            c = kit.UnixHTTP(w.api, 2)
            c.request("GET", dice.choice([O + "/events/stream?after_event_id=0", E + "/logs/stream"]),
                      headers={"Authorization": "Bearer " + w.token})
            r, end = c.getresponse(), time.monotonic() + dice.random() * 2
            while time.monotonic() < end and r.readline():
                pass
            c.close()
            stop.wait(0.1)
        except OSError:
            time.sleep(0.05)


try:
    w.agent.start()
    w.start_edge()
    O = "/v1/orgs/" + w.ok("GET", "/v1/orgs")["items"][0]["id"]
    w.ok("PUT", O + "/quotas/max_apps", {"limit": 1000000, "reason": "each change of this test makes one"})
    A = O + "/apps/" + w.ok("POST", O + "/apps", {"name": "hello"})["id"]
    E = A + "/envs/" + w.ok("POST", A + "/envs", {"name": "prod"})["id"]
    wait_for("the node", lambda: w.ok("GET", "/v1/nodes")["items"])
    threads = [threading.Thread(target=writer, args=(k,), daemon=True) for k in range(3)]
    threads += [threading.Thread(target=streamer, args=(k,), daemon=True) for k in range(2)]
    for t in threads:
        t.start()

    @case("A15 the process outlives every outage of the database")
    def _():
        begun, outages = time.monotonic(), 0
        # on a busy machine a start takes longer: until there were enough of them
        while time.monotonic() < begun + (seconds if outages >= 8 and len(acked) >= 20 else 240):
            time.sleep(rnd.random() * 1.2)
            w.pg.stop(rnd.choice([signal.SIGINT, signal.SIGQUIT]))
            time.sleep(rnd.random() * 1.5)
            assert w.control.poll() is None, "moat-control ended after %d outages" % outages
            w.pg.start()
            outages += 1
        stop.set()
        for t in threads:
            t.join(60)
        print("# %d outages, %d acknowledged writes" % (outages, len(acked)))
        assert outages >= 8 and len(acked) >= 20, (outages, len(acked))
        assert not odd, odd[:3]

    @case("every acknowledged write is there once, the log has no gap")
    def _():
        wait_for("readyz", w.ready)
        rows = w.pg.sql("SELECT payload->>'name', aggregate_id FROM moat.events WHERE event_type = 'app.created'").splitlines()
        there = dict(r.split("|") for r in rows)
        assert len(there) == len(rows), "a name was made twice"
        lost = [n for n in acked if there.get(n) != acked[n]]
        assert not lost, lost[:5]
        n, top = w.pg.sql("SELECT count(*), max(event_id) FROM moat.events").split("|")
        assert n == top, (n, top)

    @case("a deploy after all that completes")
    def _():
        r = wait_for("a release", lambda: (lambda r: r if r.status < 300 else None)(release(901)))
        # 503 is an answer too: a worker that slept through the outage finds its connection dead only when it uses it
        d = wait_for("an accepted deploy", lambda: (lambda x: x.json if x.status < 300 else None)(
            w.q("POST", E + "/deploys", {"release_id": r.json["id"]}, "after-all")))
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"], want=(200, 503)).get("status") == "succeeded", 40)

    if long:
        @case("A15 a database that is away for %d s: 503 all that time, no workload is stopped or moved, all goes on by itself" % long)
        def _():
            def running():
                return sorted((i["id"], i["status"]) for i in w.ok("GET", E + "/instances")["items"] if i["status"] != "stopped")
            wait_for("the old ones gone", lambda: len(running()) == 1)
            before, state, began = running(), dict(w.agent.state), len(acked)
            stop.clear()
            again = [threading.Thread(target=writer, args=(k,), daemon=True) for k in (11, 12, 13)]
            for t in again:
                t.start()
            wait_for("writes", lambda: len(acked) > began + 20)
            w.pg.stop(signal.SIGQUIT)
            end, told = time.monotonic() + long, 0
            while time.monotonic() < end:
                r = w.q("GET", E + "/status")
                assert r.status == 503 and r.headers.get("Retry-After"), (r.status, r.text)
                assert w.control.poll() is None, "moat-control ended"
                told += 1
                time.sleep(1)
            at = len(acked)
            w.pg.start()
            wait_for("writes again", lambda: len(acked) > at + 20)
            stop.set()
            for t in again:
                t.join(60)
            assert w.control.poll() is None and not odd, odd[:3]
            assert running() == before and {i: s for i, s in w.agent.state.items() if i in state} == state, (running(), before)
            print("# away for %d s, %d answers of 503, %d writes before and after" % (long, told, len(acked) - began))
            rows = w.pg.sql("SELECT payload->>'name', aggregate_id FROM moat.events WHERE event_type = 'app.created'").splitlines()
            there = dict(r.split("|") for r in rows)
            assert len(there) == len(rows) and all(there.get(n) == acked[n] for n in acked)
finally:
    stop.set()
    w.close()
kit.finish()
