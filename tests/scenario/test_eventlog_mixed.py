#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random mixed commands from two processes on one log, a writer with every kind of command and a moat-control asked over its API, while
either is killed (kill -9) and the database stopped at once (SIGQUIT to the postmaster) at random points. Afterwards the log is gap-free
and its chain whole, numbers of aggregates have no gaps, every view equals a rebuild, every acknowledged command is there with the id it
was given, and no command is half there. About 20 s, until each of the three was killed three times and enough commands were acknowledged,
or until MOAT_MIXED_COMMANDS commands were (100000 with MOAT_FULL=1); MOAT_SEED repeats a run.
COST 21 s, 34 s of processor."""
import http.client, json, os, random, shutil, signal, subprocess, sys, tempfile, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from control_kit import call, program

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("MOAT_EVENTLOG_BUILD") or os.path.join(ROOT, "build/tests/unit/eventlog")
LOAD, HISTORY = os.path.join(BUILD, "eventlog-load"), os.path.join(BUILD, "history-load")
if os.geteuid() != 0 or not os.path.exists(HISTORY):
    print("skip - mixed commands: needs root and a build")
    sys.exit(0)
seed = int(os.environ.get("MOAT_SEED") or time.time_ns() % 10**9)
want = int(os.environ.get("MOAT_MIXED_COMMANDS") or (100000 if os.environ.get("MOAT_FULL") else 0))
seconds, longest = (3600, 3600) if want else (16, 480)
print("# seed %d" % seed, flush=True)
rnd = random.Random(seed)
where = tempfile.mkdtemp(prefix="mt-mixed-", dir="/tmp")
os.chmod(where, 0o755)
tries, acks, odd, over = {}, {}, [], threading.Event()
ok = True


def up():
    return int(subprocess.run([LOAD, "up", where], check=True, capture_output=True, text=True, timeout=240).stdout.split()[1])


def listen(p):
    """Whole lines only: one that was cut by kill -9 was not said."""
    rest = b""
    for chunk in iter(lambda: os.read(p.stdout.fileno(), 65536), b""):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            what, key, n = line.decode().split()
            (tries if what == "try" else acks)[key] = int(n)


def start(k):
    p = subprocess.Popen([HISTORY, "run", where, "r%d" % k, str(rnd.randrange(1 << 60)), "24"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=open(where + "/history.err", "ab"))
    p.ear = threading.Thread(target=listen, args=(p,))
    p.ear.start()
    return p


class Control:
    """moat-control, begun again whenever it ends, as `moat up` does."""

    def __init__(self):
        self.api, self.kills, self.stopping = where + "/api.sock", 0, False
        conf = {"listen_api": self.api, "listen_internal": where + "/int.sock", "data_dir": where + "/control",
                "database_url": "host=%s/sock dbname=moat user=moat_control" % where, "operator_token_file": where + "/operator.token",
                "agent_socket": where + "/agent.sock", "agent_user": "root", "edge_user": "nobody", "internal_group": "nogroup",
                "fetch_program": "/bin/false", "rate_limit_percent": 0}
        with open(where + "/control.toml", "w") as f:
            f.writelines("%s = %s\n" % (k, json.dumps(v)) for k, v in conf.items())
        self.p = None
        self.keeper = threading.Thread(target=self.keep)
        self.keeper.start()

    def keep(self):
        while not self.stopping:
            self.p = subprocess.Popen([program("moat-control"), "--config", where + "/control.toml"], stderr=open(where + "/control.err", "ab"))
            code = self.p.wait()
            if code < 0 and code != -signal.SIGKILL: # it may end for want of a database, never by a signal of its own
                odd.append("moat-control ended with %d: %s" % (code, open(where + "/control.err").read()[-500:]))
            time.sleep(0.1)

    def kill(self):
        while not self.p:  # its keeper has not come to begin it
            time.sleep(0.01)
        self.p.kill()
        self.kills += 1

    def stop(self):
        self.stopping = True
        self.p.terminate()
        self.keeper.join(60)
        return self.p.returncode


class Caller(threading.Thread):
    """An organisation of its own, changed over the API. What has no answer is asked again under its key until it has one."""

    def __init__(self, n):
        super().__init__(daemon=True)
        self.n, self.commands, self.rnd = n, 0, random.Random(seed + n)

    def ask(self, events, method, target, body=None):
        key, self.commands = "api-%d-%d" % (self.n, self.commands), self.commands + 1
        tries[key] = events
        while True:
            try:
                token = open(where + "/operator.token").read().strip()
                r = call(control.api, method, target, body, {"Authorization": "Bearer " + token, "Idempotency-Key": key}, 30)
                if r.status in (200, 201):
                    acks[key] = int(r.headers["X-Event-Id"])
                    return r.json
                if r.status not in (500, 502, 503, 504):
                    raise AssertionError("%s %s under %s: %d %s" % (method, target, key, r.status, r.text.decode()[:300]))
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)

    def life(self, org, n):
        """An app from its birth to its end; the first figure of each command is how many events it has."""
        app = self.ask(1, "POST", org + "/apps", {"name": "a%d" % n})
        at = org + "/apps/" + app["id"]
        for i in range(self.rnd.randrange(3)):
            app = self.ask(1, "PATCH", at, {"description": "d%d" % i, "expected_version": app["resource_version"]})
        envs = self.rnd.randrange(3)
        for i in range(envs):
            self.ask(1, "POST", at + "/envs", {"name": "e%d" % i})
        self.ask(1 + envs, "DELETE", at + "?cascade=true")

    def run(self):
        try:
            org, n = "/v1/orgs/" + self.ask(2, "POST", "/v1/orgs", {"name": "caller-%d" % self.n})["id"], 0
            while not over.is_set():
                self.life(org, n)
                n += 1
        except Exception as e:
            odd.append(repr(e))


def report(good, name, detail=""):
    global ok
    ok = ok and good
    print(("ok - " if good else "not ok - ") + name + ("" if good else ": " + str(detail)[:800]), flush=True)


try:
    pid, runs, quits, kills = up(), 1, 0, 0
    p, control, callers = start(runs), Control(), [Caller(n) for n in range(6)]
    begun, turns = time.monotonic(), []
    for c in callers:
        c.start()

    def enough():
        return quits >= 3 and kills >= 3 and control.kills >= 3 and len(acks) > 500 and sum(k.startswith("api-") for k in list(acks)) > 100

    while not (want and len(acks) >= want) and time.monotonic() < begun + (longest if want or not enough() else seconds):
        time.sleep(rnd.random() * 3)
        if p.poll() is not None:
            odd.append(open(where + "/history.err").read()[-500:])
        if odd:
            break
        turns = turns or rnd.sample(range(3), 3)  # each of them once, then again in another order
        what = turns.pop()
        if what == 0:
            control.kill()
        elif what == 1:
            os.kill(pid, signal.SIGQUIT)
            time.sleep(rnd.random() * 0.5)
            pid, quits = up(), quits + 1
        else:
            p.kill()
            p.wait()
            p.ear.join()
            runs, kills = runs + 1, kills + 1
            p = start(runs)
    # what is under way comes to its end
    before = len(acks)
    limit = time.monotonic() + 60
    while p.poll() is None and len(acks) == before and time.monotonic() < limit:
        time.sleep(0.05)
    over.set()
    p.stdin.close()
    p.wait(240)
    p.ear.join()
    for c in callers:
        c.join(120)
        if c.is_alive():
            odd.append("caller %d has had no answer for 120 s" % c.n)
    since = time.monotonic()
    report(control.stop() == 0, "moat-control ends in order", control.p.returncode)
    print("# moat-control ended %.1f s after SIGTERM" % (time.monotonic() - since), flush=True)
    asked = sum(k.startswith("api-") for k in acks)
    print("# %d commands acknowledged of %d, %d of them over the API; %d immediate stops, %d kills of the writer, %d of moat-control"
          % (len(acks), len(tries), asked, quits, kills, control.kills), flush=True)
    report(not odd and p.returncode == 0, "no command was refused", odd or p.returncode)
    report(enough(), "enough happened",
           (quits, kills, control.kills, len(acks), asked))
    out = subprocess.run([HISTORY, "check", where], capture_output=True, text=True, timeout=600)
    log, views = (out.stdout.splitlines() + ["", ""])[:2]
    report(log.startswith("log ") and log.endswith(" good"), "the log has no gap, its chain and numbers are whole", log or out.stderr)
    report(views.startswith("views ") and views.split()[2] == "0", "A04 every view equals a rebuild", views)
    sql = subprocess.run(["psql", "-h", where + "/sock", "-U", "moat_super", "-AtF", " ", "-c",
                          "SELECT e.idempotency_key, count(*), max(e.event_id), max(e.event_id) - min(e.event_id), sum(r.event_id) FROM moat.events e"
                          " LEFT JOIN moat.idempotency_records r USING (event_id)"
                          " WHERE e.idempotency_key IS NOT NULL GROUP BY 1", "moat"],
                         capture_output=True, text=True, check=True).stdout
    there = {f[0]: tuple(map(int, f[1:])) for f in (line.split(" ") for line in sql.splitlines())}
    lost = [k for k, n in acks.items() if there.get(k, (0, 0))[1] != n]
    report(not lost, "every acknowledged command is there with its id", lost[:5])
    half = [k for k, (n, last, span, record) in there.items() if n != tries.get(k) or span != n - 1 or record != last]
    report(not half, "no command is half there, or without its record", [(k, there[k], tries.get(k)) for k in half[:5]])
finally:
    over.set()
    if "control" in globals() and not control.stopping:
        control.stop()
    subprocess.run([LOAD, "down", where, "immediate"], capture_output=True)
    shutil.rmtree(where, ignore_errors=True)
sys.exit(0 if ok else 1)
