#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random mixed commands while the writer is killed (kill -9) and the database stopped at once (SIGQUIT to the postmaster) at random
points. Afterwards the log is gap-free and its chain whole, numbers of aggregates have no gaps, every view equals a rebuild, every
acknowledged command is there with the id it was given, and no command is half there. About 40 s, or until MOAT_MIXED_COMMANDS
commands were acknowledged (100000 by hand); MOAT_SEED repeats a run."""
import os, random, shutil, signal, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("MOAT_EVENTLOG_BUILD") or os.path.join(ROOT, "build/tests/unit/eventlog")
LOAD, HISTORY = os.path.join(BUILD, "eventlog-load"), os.path.join(BUILD, "history-load")
if os.geteuid() != 0 or not os.path.exists(HISTORY):
    print("skip - mixed commands: needs root and a build")
    sys.exit(0)
seed = int(os.environ.get("MOAT_SEED") or time.time_ns() % 10**9)
want = int(os.environ.get("MOAT_MIXED_COMMANDS") or 0)
seconds = 3600 if want else 40
print("# seed %d" % seed, flush=True)
rnd = random.Random(seed)
where = tempfile.mkdtemp(prefix="mt-mixed-", dir="/tmp")
os.chmod(where, 0o755)
tries, acks, odd = {}, {}, []
ok = True


def up():
    return int(subprocess.run([LOAD, "up", where], check=True, capture_output=True, text=True, timeout=120).stdout.split()[1])


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


def report(good, name, detail=""):
    global ok
    ok = ok and good
    print(("ok - " if good else "not ok - ") + name + ("" if good else ": " + str(detail)[:800]), flush=True)


try:
    pid, runs, quits, kills = up(), 1, 0, 0
    p, end = start(runs), time.monotonic() + seconds
    while time.monotonic() < end and not (want and len(acks) >= want):
        time.sleep(rnd.random() * 3)
        if p.poll() is not None:
            odd.append(open(where + "/history.err").read()[-500:])
            break
        if rnd.random() < 0.5:
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
    p.stdin.close()
    p.wait(60)
    p.ear.join()
    print("# %d commands acknowledged of %d, %d immediate stops, %d kills" % (len(acks), len(tries), quits, kills), flush=True)
    report(not odd and p.returncode == 0, "no command was refused", odd or p.returncode)
    report(quits >= 2 and kills >= 2 and len(acks) > 500, "enough happened", (quits, kills, len(acks)))
    out = subprocess.run([HISTORY, "check", where], capture_output=True, text=True, timeout=600)
    log, views = (out.stdout.splitlines() + ["", ""])[:2]
    report(log.startswith("log ") and log.endswith(" good"), "the log has no gap, its chain and numbers are whole", log or out.stderr)
    report(views.startswith("views ") and views.split()[2] == "0", "every view equals a rebuild", views)
    sql = subprocess.run(["psql", "-h", where + "/sock", "-U", "moat_super", "-AtF", " ", "-c",
                          "SELECT e.idempotency_key, count(*), max(e.event_id), max(e.event_id) - min(e.event_id), sum(r.event_id) FROM moat.events e"
                          " LEFT JOIN moat.idempotency_records r USING (event_id) GROUP BY 1", "moat"],
                         capture_output=True, text=True, check=True).stdout
    there = {f[0]: tuple(map(int, f[1:])) for f in (line.split(" ") for line in sql.splitlines())}
    lost = [k for k, n in acks.items() if there.get(k, (0, 0))[1] != n]
    report(not lost, "every acknowledged command is there with its id", lost[:5])
    half = [k for k, (n, last, span, record) in there.items() if n != tries.get(k) or span != n - 1 or record != last]
    report(not half, "no command is half there, or without its record", [(k, there[k], tries.get(k)) for k in half[:5]])
finally:
    subprocess.run([LOAD, "down", where, "immediate"], capture_output=True)
    shutil.rmtree(where, ignore_errors=True)
sys.exit(0 if ok else 1)
