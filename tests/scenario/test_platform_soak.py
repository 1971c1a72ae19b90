#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole platform under mixed load for a while: requests through the edge, deploys, scalings, logs, events, exec. No daemon's memory grows, none keeps
descriptors. COST 110 s, 30 s of processor.

SOAK_S chooses how long (default 60; with MOAT_FULL=1 1800). Memory is anonymous memory (pages of files count for more or less as others begin or cease to map
them), sampled every two seconds; its slope is that of the least squares over the samples after the warm-up, the first third. What each daemon had is printed in
twelve steps, with its Pss and with what of it is the heap.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

SOAK_S = int(os.environ.get("SOAK_S") or (1800 if os.environ.get("MOAT_FULL") else 60))
DAEMONS_ = ("control", "agent", "edge", "up")
STEP_S = 2
# What may come on top between the two halves of what is looked at. An allocator that settles moves by some hundred KiB; a leak of one request of the load below in
# half an hour is more than either figure.
GROWTH_KIB, FDS = 1024, 8
# A minute, where the part after the warm-up lasts long enough to tell a slope from what answers of the moment take.
SLOPE_KIB, SLOPE_S = 64, 600


class Work(threading.Thread):
    """What people do, one after the other, by the command line."""

    def __init__(self, p, images):
        super().__init__(daemon=True)
        self.p, self.images, self.ending, self.done, self.failed = p, images, threading.Event(), 0, []
        self.start()

    def run(self):
        n = 0
        while not self.ending.is_set():
            n += 1
            try:
                if n % 12 == 1:
                    self.p.deploy(self.p.hello_manifest(self.images[n // 12 % 2]), timeout=900)
                elif n % 12 == 7:
                    self.p.cli("scale", "--app", "hello", f"web={1 + n // 12 % 2}", "--wait", timeout=900)
                else:
                    for args in (("apps", "create", f"soak{n}"), ("status", "--app", "hello"), ("logs", "--app", "hello"), ("events", "--app", "hello"), ("nodes",),
                                 ("routes", "--app", "hello"), ("apps", "delete", f"soak{n}", "--yes")):
                        self.p.cli(*args, timeout=300)
                        self.done += 1
                self.done += 1
            except (Failed, subprocess.TimeoutExpired) as e:
                self.failed.append(str(e)[:300])
            self.ending.wait(0.5)

    def end(self):
        self.ending.set()
        self.join(1000)


def at_rest(pid, most):
    """Of VMs that come and go on a slow machine there are more at a time: with the work over, what was theirs is given back, what was kept is not."""
    try:
        wait_until(lambda: descriptors(pid) <= most, 60, "descriptors given back")
        return True
    except Failed:
        return False


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_kib(pid):
    """anonymous memory of a process: heap, arenas, stacks; without pages of files, which others may begin or cease to share"""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Anonymous:"))


def heap_kib(p, daemon):
    """(used, free, mapped) of the allocator of a daemon that has a page of metrics on a socket; the supervisor has none"""
    sock = {"control": f"{p.data}/run/control/api.sock", "edge": f"{p.data}/run/edge/edge.sock"}.get(daemon)
    if not sock:
        return None
    r = subprocess.run(["curl", "-sS", "-m", "120", "--unix-socket", sock, "http://x/metrics"], capture_output=True, text=True)
    got = dict(re.findall(r'^moat_process_heap_bytes\{kind="(\w+)"\} (\d+)$', r.stdout, re.M))
    return tuple(int(got.get(k, 0)) // 1024 for k in ("used", "free", "mapped"))


def slope(points):
    """of the least squares, per unit of x"""
    mx, my = statistics.mean(x for x, _ in points), statistics.mean(y for _, y in points)
    return sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)


def main():
    need_root()
    own_host()
    p = Platform("o")
    c = Cases()
    images = []

    def start():
        p.up()
        images.extend(p.push_hello(v, v) for v in ("v1", "v2"))
        r = p.deploy(p.hello_manifest(images[0]), timeout=600)
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        wait_until(lambda: p.curl(ok=False), 60, "the page")

    def soak():
        pids = {d: p.pid(d) for d in DAEMONS_}
        seen = {d: [] for d in DAEMONS_}
        heaps, looked = {d: [] for d in DAEMONS_}, 0.0
        load, work = Load(p, 0.2), Work(p, images)
        begun = time.monotonic()
        try:
            while time.monotonic() < begun + SOAK_S:
                for d, pid in pids.items():
                    seen[d].append((time.monotonic() - begun, pss_kib(pid), descriptors(pid), private_kib(pid)))
                if time.monotonic() - begun >= looked:
                    looked += SOAK_S / 12
                    for d in pids:
                        heaps[d].append(heap_kib(p, d))
                time.sleep(STEP_S)
        finally:
            work.end()
            ok, errors = load.end()
        check({d: p.pid(d) for d in DAEMONS_} == pids, "a daemon was started anew")
        print(f"# {SOAK_S} s: {ok} requests, {len(errors)} failed; {work.done} commands, {len(work.failed)} failed", flush=True)
        bad = [f"requests failed: {errors[:2]}"] if errors else []
        bad += [f"commands failed: {work.failed[:2]}"] if work.failed else []
        for d, all_of in seen.items():
            warm = all_of[len(all_of) // 3:]
            half = len(warm) // 2
            kib = [statistics.median(x[3] for x in part) for part in (warm[:half], warm[half:])]
            fds = [statistics.median(x[2] for x in part) for part in (warm[:half], warm[half:])]
            per_minute = 60 * slope([(x[0], x[3]) for x in warm])
            print(f"# moat-{d}: {kib[0]:.0f} KiB, then {kib[1]:.0f}, slope {per_minute:+.1f} KiB a minute; descriptors {fds[0]:.0f}, then {fds[1]:.0f}", flush=True)
            step = max(1, len(all_of) // 12)
            print(f"#   Pss (of it anonymous): {', '.join(f'{x[1]} ({x[3]})' for x in all_of[step - 1::step])}", flush=True)
            if heaps[d][0]:
                print(f"#   heap used/free/mapped: {', '.join('/'.join(map(str, x)) for x in heaps[d])}", flush=True)
            if kib[1] - kib[0] > GROWTH_KIB:
                bad.append(f"moat-{d} grew from {kib[0]:.0f} to {kib[1]:.0f} KiB")
            if warm[-1][0] - warm[0][0] >= SLOPE_S and per_minute > SLOPE_KIB:
                bad.append(f"moat-{d} grows by {per_minute:.0f} KiB a minute")
            if fds[1] - fds[0] > FDS and not at_rest(pids[d], fds[0] + FDS):
                bad.append(f"moat-{d} had {fds[0]:.0f} descriptors, then {fds[1]:.0f}")
        check(not bad, "; ".join(bad))

    try:
        if c.run("the platform serves", start):
            c.run(f"{SOAK_S} s of mixed load: memory flat, no descriptor kept, nothing failed", soak)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
