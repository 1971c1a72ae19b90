#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that never stops: over its serial line, its logs and its vsock, against what the agent holds for it.

A real QEMU microVM under the real agent. Its program (lib/hostile.c, `spam`) writes lines and the serial line, takes the log connection from PID 1
for gaps of its own making, connects as fast as it can and breaks each rule of the control channel in turn, with a third of its processor (SHARE), so
that neighbours of this test go on. The agent's own memory, its heap in use, its descriptors and all it keeps on the disk are looked at meanwhile.
MOAT_FLOOD_S says for how long (an hour: 3600); the slope of the agent's memory is asked from five minutes on.

COST 45 s, 15 s of processor."""
import os
import re
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import imagekit  # noqa: E402
from imagekit import want  # noqa: E402
from test_agent_many import METRICS, Growth, cpu_seconds  # noqa: E402

FLOOD = float(os.environ.get("MOAT_FLOOD_S", "30"))
SHARE = 33  # percent of the guest's processor
GROWTH_KIB_A_MINUTE = 16
LOG_MAX = 17 << 20  # logs.max_bytes_per_instance
MORE_MIB, MORE_FDS = 4, 8


def push(w):
    exe = os.path.join(w.dir, "hostile")
    kit.sh("musl-gcc", "-static", "-Os", "-o", exe, os.path.join(kit.ROOT, "tests/scenario/lib/hostile.c"))
    store = imagekit.Store(os.path.join(w.dir, "src"))
    with open(exe, "rb") as f:
        layer = imagekit.tar(imagekit.entry("hostile", data=f.read(), mode=0o755), imagekit.entry("etc/", b"5"))
    digest = store.image([layer], config={"Entrypoint": ["/hostile"]})
    w.registry.push(imagekit.layout(store, os.path.join(w.dir, "layout"), "t", digest), "hostile:t")
    return "%s/hostile" % w.registry.host, digest


def kept(*folders):
    """bytes of all files below, as the disk counts them"""
    total = 0
    for folder in folders:
        for top, _, files in os.walk(folder):
            for name in files:
                try:
                    total += os.stat(os.path.join(top, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
    return total


def segments(folder):
    for top, _, files in os.walk(folder):
        for name in files:
            try:
                with open(os.path.join(top, name), "rb") as f:
                    yield f.read()
            except FileNotFoundError:
                pass


class Watch:
    """What is seen of one flood, over its time."""

    def __init__(self, w, instance_id):
        self.w, self.id, self.g = w, instance_id, Growth(w)
        self.pids = w.describe(instance_id)["pids"]
        self.guest0 = sum(cpu_seconds(p) for p in self.pids)
        self.drops = self.lines = self.logs_most = self.state_most = 0
        self.serial, self.seq, self.fds_most = False, 0, 0

    def look(self):
        self.g.look()
        self.fds_most = max(self.fds_most, self.g.seen[-1][2])
        self.logs_most = max(self.logs_most, kept(os.path.join(self.w.dir, "logs")))
        self.state_most = max(self.state_most, kept(os.path.join(self.w.dir, "agent")))
        self.serial = str(self.w.ask({"op": "console", "instance_id": self.id})).count("serial") > 1000
        for r in self.w.ask({"op": "logs", "instance_id": self.id, "limit": 300}):
            self.seq = max(self.seq, r["seq"])
            self.lines += r["stream"] == "stdout"
        # what is said of bytes that ring or store dropped, in the segments as they lie there (docs/formats/log-segments.md); each of the guest's own says 1
        self.drops = max(self.drops, sum(int(n) >= 100 for n in re.findall(rb"dropped=(\d+)", b"".join(segments(os.path.join(self.w.dir, "logs"))))))
        with self.w.control.lock:  # of an hour of it nobody reads the beginning
            del self.w.control.reports[:-1000], self.w.control.beats[:-10], self.w.control.posts[:-100], self.w.control.batches[:-100]

    def said(self):
        t, own, fds, heap = self.g.seen[-1]
        seconds = time.monotonic() - self.g.began
        return "%.1f MiB of its own (heap %.1f in use, %.1f free, %.1f mapped), %d descriptors, %.1f %% of a core; the VM %.1f %%; %d lines stored, %d drops told at once, %d breaches; %.1f MiB of logs, %.0f KiB of state" % (
            own, *heap, fds, 100 * self.g.core(), 100 * (sum(cpu_seconds(p) for p in self.pids) - self.guest0) / seconds, self.seq, self.drops,
            self.w.describe(self.id)["guest_breaches"], self.logs_most / (1 << 20), self.state_most / 1024)


def flood(w):
    wl = w.workload(push(w), ports=(), command=["/hostile", "spam", "%d" % FLOOD, "%d" % SHARE])
    i = wl["instance_id"]
    w.control.want(i, workload=wl)
    w.control.wait_status(i, "ready", 90)
    kit.wait_for("its first lines", lambda: len(w.ask({"op": "logs", "instance_id": i, "limit": 10})) == 10, 60, 0.2)
    pid, watch, agent_log = w.proc.pid, Watch(w, i), os.path.getsize(w.log_path)
    every, printed = min(15, FLOOD / 20), 0
    while time.monotonic() - watch.g.began < FLOOD:
        time.sleep(every)
        watch.look()
        if time.monotonic() - watch.g.began > printed + 60:
            printed = time.monotonic() - watch.g.began
            print("# %4.0f s: %s" % (printed, watch.said()), flush=True)
    last = watch.said()
    agent_log = os.path.getsize(w.log_path) - agent_log
    seen, slope = watch.g.seen, watch.g.kib_a_minute()
    own, heap = [x[1] for x in seen], [x[3][0] + x[3][2] for x in seen]
    d = w.describe(i)
    want(w.proc.pid == pid and w.proc.poll() is None and d["phase"] == "ready" and d["boot_seq"] == 1 and d["pids"] == watch.pids, "the flood ended its VM or the agent: %s" % d)
    # it was a flood: on all three ways
    # (what is more than PID 1 or the store takes in a second is dropped and told: of half a minute with a third of a busy processor that need not be)
    want(watch.serial and watch.lines > 0 and d["guest_breaches"] >= FLOOD / 15 and (FLOOD < 300 or watch.drops > 0), last)
    # and nothing of it stays
    half = len(own) // 4
    want(max(own[half:]) <= max(own[:half]) + MORE_MIB, "MiB of its own: %s" % [round(x, 1) for x in own])
    want(FLOOD < 300 or slope <= GROWTH_KIB_A_MINUTE, "%+.1f KiB a minute: %s" % (slope, [round(x, 1) for x in own]))
    want(watch.fds_most <= seen[0][2] + MORE_FDS, "%d descriptors, before %d" % (watch.fds_most, seen[0][2]))
    want(watch.logs_most <= LOG_MAX + (1 << 20), "%d KiB of logs" % (watch.logs_most >> 10))
    ring = os.path.getsize(os.path.join(w.dir, "agent/instances", i, "console.ring"))
    want(65536 <= ring < 66000, "%d bytes of the serial line" % ring)  # runtime.md §20: 64 KiB of each of two attempts
    want(watch.state_most < 1 << 20, "%d KiB of state" % (watch.state_most >> 10))
    want(agent_log < 65536 + FLOOD * 100, "the agent's own log grew by %d bytes" % agent_log)
    print("  %s" % last, flush=True)
    print("ok - a guest floods serial line, logs and vsock for %.0f s: the agent's own memory %.1f to %.1f MiB, at most %.1f, %+.1f KiB a minute in the second half (heap in use %.1f to %.1f), its log %d bytes longer" % (
        FLOOD, own[0], own[-1], max(own), slope, heap[0], heap[-1], agent_log), flush=True)
    # afterwards it is a guest like any other
    kit.wait_for("its last line", lambda: any(r["line"] == "mad spam over" for r in w.ask({"op": "logs", "instance_id": i, "limit": 300})), 120, 0.5)
    w.control.want(i, "stopped")
    w.control.wait_status(i, "stopped", 60)
    print("ok - when it is over its lines come, and it stops as told", flush=True)


def main():
    if os.geteuid() != 0:
        print("skip - a guest that floods: needs root")
        return 0
    kit.make_bundle()
    kit.own_network()
    kit.own_mounts()
    w = kit.World("flood")
    try:
        w.bundle()
        w.conf = {"log_level": "info", "heartbeat_ms": 5000, "logs": {"max_bytes_per_instance": LOG_MAX}}
        w.start(listen_metrics=METRICS)
        flood(w)
        return 0
    except Exception as e:  # noqa: BLE001
        import traceback
        traceback.print_exc(file=sys.stdout)
        print("not ok - a guest that floods: %s" % str(e).replace("\n", " ")[:900])
        print("agent log: " + w.tail(12), flush=True)
        return 1
    finally:
        w.close()


if __name__ == "__main__":
    sys.exit(main())
