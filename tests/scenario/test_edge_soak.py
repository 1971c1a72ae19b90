#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The edge under bounded load for a while, with reloads and dying backends. COST 25 s, 7 s of processor.

The case under attack, with others watching their p99, is run by test_edge_attack.py.
SOAK_S and SOAK_RATE (new connections a second) choose the soak: 18 s and 500/s with a change of the configuration twice a second, with MOAT_FULL=1 600 s and
2,000/s with one each second. Memory is Pss; flat is what it is from the first half to the second, after the pools were filled once. In the long one these are
halves of its second half: tables of 50 sizes that come and go make the allocator's holes larger for some 350 reloads, by 1.9 MiB in all (4.6 to 6.6; of 2,719
reloads in 75 s the last 2,350 added nothing). Of 600 s under a load of 50 on 2026-11-30, when only 360/s were served: 215,778 connections, 0 to a wrong
backend, 544 reloads, 109 deaths of a backend, descriptors the same before and after, medians of the last two quarters 6,715 and 6,799 KiB.
"""
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from edgekit import ROOT, Backend, Control, Edge, Scratch, check, client_hello, connect, free_port, run_cases, snapshot, until  # noqa: E402
from ports import free_ports  # noqa: E402

LOAD = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(ROOT, "build"), "tests/tools/edge_load")
FULL = bool(os.environ.get("MOAT_FULL"))
SOAK_S, RATE = int(os.environ.get("SOAK_S") or (600 if FULL else 18)), int(os.environ.get("SOAK_RATE") or (2000 if FULL else 500))
STEP_S = 1 if FULL else 0.5  # from one configuration to the next
CLASSES, ROUTES = 4, 200
MOST_OPEN = 8192  # that the load program keeps open at one time
# What the median of the second half may be above the first's: allocators settle by some pages. In the short soak a leak of 60 bytes a connection
# or of 15 KiB a reload is more (a configuration of these routes is 40), in the long one of 1 byte or 1 KiB.
GROWTH_KIB = 256
PIPES_KEPT = 2 * 2 * 16  # two descriptors each, by each of two workers, MT_EDGE_PIPES_KEPT
scratch = Scratch()
procs = []


def serve(base, n):
    p = subprocess.Popen([LOAD, "serve", str(base), str(n)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    procs.append(p)
    check(p.stdout.readline().strip() == "ready", "the backend did not start")
    return p


def start_load(mode, *args, env=None):
    return subprocess.Popen([LOAD, mode] + [str(x) for x in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env)


def held_by(ports):
    """How many connections the processes behind these ports have, or have waiting for them."""
    with open("/proc/net/tcp6") as f:
        rows = [x.split() for x in f.readlines()[1:]]
    return sum(int(r[1].rsplit(":", 1)[1], 16) in ports and r[3] in ("01", "08") for r in rows)


def at_once(pid):
    """All threads of a process run whenever they can. The attackers, who are elsewhere in life, share this machine's processors with
    the edge and those whose p99 is taken; what they take from them by computing is not the edge's doing. False: it is not allowed here."""
    try:
        for t in os.listdir("/proc/%d/task" % pid):
            os.sched_setscheduler(int(t), os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    return True


def words(p):
    out = p.communicate()[0].strip().split("\n")[-1]
    return {k: float(v) for k, v in (w.split("=") for w in out.split() if "=" in w)}


def soak_with_reloads_and_dying_backends_sends_nothing_wrong_and_leaks_nothing():
    # two backends for each class: ports base..+3 in one process, +4..+7 in another, which dies and returns
    base, port = free_ports(2 * CLASSES), free_port()
    serve(base, CLASSES)
    second = serve(base + CLASSES, CLASSES)

    def routes(turn):
        """the same names always; order, and further names, differ with each turn"""
        lines = ["r%d.bench.test ::1 %d\nr%d.bench.test ::1 %d\n" % (i, base + i % CLASSES, i, base + CLASSES + i % CLASSES) for i in range(ROUTES)]
        lines += ["x%d.bench.test ::1 %d\n" % (i, base) for i in range(turn % 50)]
        return "".join(lines[turn % 7:] + lines[:turn % 7])
    e = Edge(["--static", scratch.write("routes", routes(0)), "--listen", "[::1]:%d" % port, "--workers", "2"])
    procs.append(e.proc)
    e.wait("edge.started")
    listeners = e.fds_by_kind()["socket"]
    env = dict(os.environ, EDGE_LOAD_BASE=str(base), EDGE_LOAD_CLASSES=str(CLASSES))
    # the pools keep what the most connections at one time took: that many at once, and then they are at their size
    most = min(MOST_OPEN, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000) // 2)
    full = subprocess.Popen([LOAD, "idle", str(port), str(most), str(ROUTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    check(full.stdout.readline().strip() == "ready", "%d connections at once were not taken" % most)
    full.stdin.close()
    check(full.wait() == 0, "the load that holds connections open")
    warm = words(start_load("open", port, 2000, RATE, ROUTES, env=env))
    check(warm["done"] > 0 and warm["wrong"] == 0, warm)
    until(lambda: e.fds_by_kind()["socket"] == listeners, "connections to end")
    fds, pss = e.fds_by_kind(), e.own_kib()
    load = start_load("open", port, SOAK_S * 1000, RATE, ROUTES, env=env)
    end, turn, deaths, taken, kib = time.monotonic() + SOAK_S - 1, 0, 0, 0, []
    while time.monotonic() < end:
        turn += 1
        scratch.write("routes.new", routes(turn))
        os.rename(scratch.path("routes.new"), scratch.path("routes"))
        e.kill(signal.SIGHUP)
        if turn % 5 == 2:
            taken += held_by(range(base + CLASSES, base + 2 * CLASSES))
            second.kill()
            second.wait()
            deaths += 1
        if turn % 5 == 4:
            second = serve(base + CLASSES, CLASSES)
        time.sleep(STEP_S)
        kib.append(e.own_kib())
    got = words(load)
    applied = len(e.find("edge.config_applied"))
    until(lambda: e.fds_by_kind()["socket"] <= listeners, "the last descriptors to be closed, of %s" % e.fds_by_kind())
    if FULL:
        kib = kib[len(kib) // 2:]
    after, half = e.fds_by_kind(), len(kib) // 2
    grown = statistics.median(kib[half:]) - statistics.median(kib[:half])
    print("# %d connections, %d failed, %d wrong; %d reloads, %d deaths; descriptors %s, then %s; memory of its own %d KiB at rest before, medians %d and %d, most %d" %
          (got["done"], got["failed"], got["wrong"], applied, deaths, fds, after, pss, statistics.median(kib[:half]), statistics.median(kib[half:]), max(kib)))
    check(got["wrong"] == 0, "%d connections reached a backend of another route" % got["wrong"])
    check(got["stuck"] == 0, "%d connections never ended" % got["stuck"])
    # a backend that dies takes the connections it holds with it, and those that come while it is being killed; those are the only ones that may fail
    check(got["failed"] <= taken + deaths * 40, "%d failed with %d deaths that had %d connections" % (got["failed"], deaths, taken))
    check(applied >= turn * 0.9, "%d of %d reloads were applied" % (applied, turn))
    pipes = after.pop("pipe", 0)
    fds.pop("pipe", 0)
    check(after == fds, "descriptors before: %s, after: %s" % (fds, after))
    check(pipes <= PIPES_KEPT, "%d descriptors of pipes for splice are kept" % pipes)
    check(grown <= GROWTH_KIB, "memory grew by %d KiB from one half to the next: %s" % (grown, kib))
    check(e.end() == 0, "exit status")


def others_do_not_feel_the_attacks():
    base, port = free_port(), free_port()
    server = serve(base, 1)
    mute = Backend(lambda c: time.sleep(60))  # neither reads nor writes
    greedy = Backend(lambda c: [c.sendall(bytes(65536)) for _ in range(10000)])
    control = Control(scratch.path("control"))
    os.mkdir(scratch.path("data"), 0o700)
    e = Edge(["--config", scratch.write("edge.toml", 'data_dir = "%s"\ncontrol_socket = "%s"\npublic_addresses = ["::1"]\nworkers = 2\npreroute_max = 400\n'
                                        'access_log = "off"\n[port_map]\n443 = %d\n' % (scratch.path("data"), scratch.path("control"), port))])
    procs.append(e.proc)
    control.set(snapshot(1, [{"name": "r0.bench.test", "port": 443, "backends": [("inst_0", base)]},
                             {"name": "mute.example.com", "port": 443, "backends": [("inst_m", mute.port)], "max_connections": 100},
                             {"name": "greedy.example.com", "port": 443, "backends": [("inst_g", greedy.port)], "max_connections": 100}]))
    until(lambda: [s for s in list(control.statuses) if s["revision"] == 1], "the configuration")
    prompt = at_once(e.pid) and at_once(server.pid)
    if not prompt:
        print("# no real-time priority here: the attackers' own computing is part of what is compared")
    hello, stop, kept = client_hello("r0.bench.test"), threading.Event(), []

    def attack(fn):
        while not stop.is_set():
            try:
                fn()
            except OSError:
                pass
            stop.wait(0.02)

    def slow_hello():  # half-open ones, a few bytes each, up to the limit and over it
        s = connect(port)
        s.sendall(hello[:9])
        kept.append(s)
        if len(kept) > 600:
            kept.pop(0).close()

    def tiny_segments():
        s = connect(port)
        for i in range(0, 200):
            s.sendall(hello[i:i + 1])
        s.close()

    def huge_extensions():
        s = connect(port)
        s.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00\x3f\xd1\xff\x01\x3f\xcd" + bytes(16000))
        s.close()

    def never_read_by(name):
        def go():
            s = connect(port)
            s.sendall(client_hello(name))
            s.setblocking(False)
            try:
                s.send(bytes(1 << 20))
            except BlockingIOError:
                pass
            kept.append(s)
        return go

    def measure():
        load = start_load("open", port, 2500, 100, 1)
        at_once(load.pid)
        got = words(load)
        check(got["failed"] == 0 and got["stuck"] == 0 and got["done"] > 50, "others suffer: %s" % got)
        return got["p99_us"]
    pss = e.own_kib()
    ratios = []
    for _ in range(5 if prompt else 15):  # of three rounds in a row the middle one; what neighbours disturbed is followed by others
        if len(ratios) >= 3 and statistics.median(ratios[-3:]) <= 2.0:
            break
        quiet = measure()
        stop.clear()
        threads = [threading.Thread(target=attack, args=(f,)) for f in (slow_hello, tiny_segments, huge_extensions, never_read_by("mute.example.com"),
                                                                        never_read_by("greedy.example.com"))]
        for t in threads:
            t.start()
        time.sleep(0.5)
        loud = measure()
        stop.set()
        for t in threads:
            t.join()
        after = measure()
        print("# p99 %.1f ms quiet, %.1f ms under attack, %.1f ms quiet again" % (quiet / 1000, loud / 1000, after / 1000))
        if max(quiet, after) <= 20000:
            ratios.append(loud / max(quiet, after, 5000))  # under 5 ms the scheduler of a shared machine decides
    if len(ratios) < 3:
        print("# SKIP the comparison of p99: this machine is so busy that it is over 20 ms without any attack")
    else:
        check(statistics.median(ratios[-3:]) <= 2.0, "p99 grew by %s" % ["%.1f" % r for r in ratios])
    check(e.own_kib() < pss + 24 * 1024, "memory grew from %d to %d KiB" % (pss, e.own_kib()))
    for s in kept:
        s.close()
    check(e.proc.poll() is None, "it ended")
    control.end()


CASES = {"soak": soak_with_reloads_and_dying_backends_sends_nothing_wrong_and_leaks_nothing, "attack": others_do_not_feel_the_attacks}

if __name__ == "__main__":
    try:
        status = run_cases([CASES[name] for name in sys.argv[1:] or ["soak"]])
    finally:
        for p in procs:
            if p.poll() is None:
                p.kill()
        scratch.end()
    sys.exit(status)
