#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An immediate stop of PostgreSQL under load takes back nothing that was answered or streamed (control-plane.md 6.4, ruling R18).

Each round: a load tool appends from many threads and reads by cursor, naming every acknowledged and every streamed event on its
stdout; the postmaster gets SIGQUIT, or is killed; the server starts again; then every named event is there with the hash it had,
ids have no gap, the chain and the aggregates' numbers are whole, and the views equal the events.
With MOAT_CRASH_SQL="SET synchronous_commit = off" the appender's sessions acknowledge before the flush: the test then fails,
which shows that it can.
COST 21 s, 7 s of processor."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = os.environ.get("MOAT_EVENTLOG_TOOL") or os.path.join(ROOT, "build/tests/unit/eventlog/eventlog-load")
SQL = os.environ.get("MOAT_CRASH_SQL")
# 200 clients keep a second batch on its way behind the one that is being flushed
ROUNDS = (("sigquit", 0.8, 16), ("sigquit", 0.35, 200), ("sigkill", 0.6, 200), ("sigquit", 1.1, 200), ("sigquit", 0.15, 16))


def tool(*args):
    r = subprocess.run([TOOL, *args], capture_output=True, text=True, timeout=240)
    if r.returncode:
        raise RuntimeError(f"{args[0]}: {r.stderr.strip()[:300]}")
    return r.stdout


class Load:
    """The load tool; its lines are taken apart as they come."""

    def __init__(self, where, clients):
        self.acks, self.seen, self.crash_lines = {}, {}, 0
        self.p = subprocess.Popen([TOOL, "load", where, str(clients)] + ([SQL] if SQL else []), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.t = threading.Thread(target=self.read, daemon=True)
        self.t.start()

    def read(self):
        for line in self.p.stdout:
            word = line.split()
            if len(word) != 3:
                continue
            (self.acks if word[0] == "ack" else self.seen)[int(word[1])] = word[2]

    def end(self):
        try:
            self.p.stdin.close()
        except OSError:
            pass
        # While the server is away the appender looks for the fate of its last batch; that ends with the restart.
        self.p.wait(150)
        self.t.join(150)


def postmaster(where):
    with open(f"{where}/data/postmaster.pid") as f:
        return int(f.readline())


def one_round(where, how, seconds, clients, known):
    """Returns the list of what is wrong, and numbers for the transcript."""
    load = Load(where, clients)
    end = time.monotonic() + 180
    while not load.acks and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(seconds)
    while (len(load.acks) < 20 or len(load.seen) < 20) and time.monotonic() < end:  # a busy machine is slower
        time.sleep(0.01)
    pid = postmaster(where)
    os.kill(pid, signal.SIGQUIT if how == "sigquit" else signal.SIGKILL)
    if how == "sigquit":
        while os.path.exists(f"{where}/data/postmaster.pid") and os.path.exists(f"/proc/{pid}"):
            time.sleep(0.005)
    _, _, ms = tool("up", where).split()
    load.end()
    events, wrong = {}, []
    for line in tool("check", where).splitlines():
        word = line.split(" ", 3)
        if word[0] == "verify" and word[2] != "0":
            wrong.append(f"verify-log: event {word[2]}: {word[3]}")
        elif word[0] == "views" and word[1] != "0":
            wrong.append(f"{word[1]} differences between events and views")
        elif word[0] == "event":
            events[int(word[1])] = (word[2], word[3])
    if sorted(events) != list(range(1, len(events) + 1)):
        wrong.append("ids have gaps")
    for i, org in load.acks.items():
        if i not in events or events[i][1].split("_", 1)[1] != org.split("_", 1)[1]:
            wrong.append(f"acknowledged event {i} ({org}) is gone")
    for i, chain in list(load.seen.items()) + list(known.items()):
        if i not in events or events[i][0] != chain:
            wrong.append(f"streamed event {i} is gone or changed")
    known.update({i: e[0] for i, e in events.items()})
    if len(load.acks) < 20 or len(load.seen) < 20:
        wrong.append(f"too little load to tell: {len(load.acks)} acknowledged, {len(load.seen)} streamed")
    return wrong, f"{len(load.acks)} acknowledged, {len(load.seen)} streamed, {len(events)} in all, up again in {ms} ms"


def main():
    if not os.path.exists(TOOL):
        print(f"not ok - event log crash: {TOOL} is not built")
        return 1
    where = tempfile.mkdtemp(prefix="mt-crash-", dir="/tmp")
    os.chmod(where, 0o755)
    failed = False
    try:
        tool("up", where)
        known = {}
        for n, (how, seconds, clients) in enumerate(ROUNDS):
            name = f"round {n + 1} ({how}, {clients} clients): A19 nothing answered or streamed is lost"
            try:
                wrong, said = one_round(where, how, seconds, clients, known)
            except Exception as e:  # noqa: BLE001
                wrong, said = [f"{type(e).__name__}: {e}"], ""
            print(f"# {said}")
            if wrong:
                failed = True
                print(f"not ok - {name}: {len(wrong)} wrong, first: {wrong[0]}", flush=True)
                break
            print(f"ok - {name}", flush=True)
    finally:
        subprocess.run([TOOL, "down", where, "immediate"], capture_output=True)
        shutil.rmtree(where, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
