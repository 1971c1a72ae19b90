#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A moat-agent with 100 instances that are ready and to which nothing happens: its memory and its processor time.

The VMs are stand-ins (tests/tools/standin_vm.c): two processes where QEMU and moat-vsock would be, and a guest that speaks the control channel
and does nothing. All else is real: jails, cgroups, scratch disks, root disk, taps, addresses, firewall, monitor, log store, health checks of every
instance every ten seconds, pings, heartbeats, reports, the look for drift. The addresses of the instances lead to one listener of this file.
Then the node is made to look as after a boot of its own, with the control plane away; one monitor does not die of SIGKILL (the freezer holds it, as a
disk that hangs would); and at the end all is taken down and nothing is left.
With --figures: one line of JSON, for bench/deploy. With MOAT_CHURN_S: instead of all that, so many seconds in which instances come and go beside a guest that floods.

COST 145 s, 12 s of processor."""
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import fair  # noqa: E402
from imagekit import want  # noqa: E402
from test_agent_backups import xfs  # noqa: E402

INSTANCES = int(os.environ.get("MOAT_MANY", "100"))
CHURN = float(os.environ.get("MOAT_CHURN_S", "0"))  # seconds in which instances come and go (R24: MOAT_MANY=200 MOAT_CHURN_S=3600), 0: not
PAUSE = float(os.environ.get("MOAT_CHURN_PAUSE_S", "2"))  # between two changes of four instances each
MIB = 96 if INSTANCES <= 100 else 72  # of each; what the bundle's kernel needs at least
QUIET = 30.0  # three periods of pings, monitors and health checks, one look for drift
HEAP_MAX = 2 + 0.06 * INSTANCES  # MiB in use by as many that are ready: no buffers for what is not being said
MIB_MAX, CORE_MAX = 30.0, 0.01 * max(1, INSTANCES / 100)  # said of 100
LIMIT = INSTANCES + (100 if CHURN else 1)  # limits.instances
GROWTH_KIB_A_MINUTE = 64
METRICS = "127.0.0.1:9464"  # in a network of its own


def missing():
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists(kit.STANDIN):
        return "standin_vm is not built"
    for program in ("mkfs.xfs", "nft", "docker-registry"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return "no " + program
    with open("/proc/meminfo") as f:
        mib = int(f.readline().split()[1]) // 1024  # MemTotal
    if mib < INSTANCES * (MIB + 16) + 3072:  # what they may use and the reserve, which nobody takes: a stand-in holds some 2 MiB
        return "%d instances of %d MiB are not placed on %d MiB of memory" % (INSTANCES, MIB, mib)
    return None


def rollup_mib(pid, what):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(l.split()[1]) for l in f if l.startswith(what + ":")) / 1024


def pss_mib(pid):
    return rollup_mib(pid, "Pss")


def own_mib(pid):
    """Without files, and not shared out: a page counts for less while a child that has not come to its exec, or another agent, has it, too."""
    return rollup_mib(pid, "Anonymous")


def heap_mib():
    """(in use, free and kept, blocks of their own) of the agent's allocator"""
    with urllib.request.urlopen("http://%s/metrics" % METRICS, timeout=120) as r:
        lines = r.read().decode().splitlines()
    of = lambda kind: next(float(l.rsplit(" ", 1)[1]) for l in lines if l.startswith('moat_process_heap_bytes{') and 'kind="%s"' % kind in l) / (1 << 20)
    return of("used"), of("free"), of("mapped")


def cpu_seconds(pid):
    """Of the agent and of what it ran and reaped."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def measure(w):
    w.bundle()
    given = os.path.realpath(os.path.join(w.dir, "boot"))
    os.unlink(os.path.join(w.dir, "boot"))
    shutil.copytree(given, os.path.join(w.dir, "boot"), symlinks=True)  # jails link to it: one filesystem
    kit.answer_for_instances(kit.P + ":1:1::/80", 8080)
    image = w.many_image = w.push()
    w.conf = {**w.stand_in(), "log_level": "info", "heartbeat_ms": 5000,
              "reserve": {"overhead_mib": 16, "memory_bytes": 1 << 30}, "limits": {"parallel_boots": 8, "instances": LIMIT}, "logs": {"max_bytes_per_instance": 16 << 20}}
    w.start(listen_metrics=METRICS)
    began = time.monotonic()
    ids = []
    for _ in range(INSTANCES):
        wl = w.workload(image, memory=MIB, health={"type": "tcp", "port": 8080})
        ids.append(wl["instance_id"])
        w.control.assignments[wl["instance_id"]] = {"assignment_id": kit.ulid(), "instance_id": wl["instance_id"], "generation": 1,
                                                    "desired_state": "running", "drain_delay_seconds": 0, "workload": wl}
    w.control.publish()

    def ready():
        with w.control.lock:
            return len({r["instance_id"] for r in w.control.reports if r["status"] == "ready"})
    try:
        kit.wait_for("%d ready" % INSTANCES, lambda: ready() == INSTANCES, 240, 0.25)
    except AssertionError:
        with w.control.lock:
            last = [(r["status"], r.get("status_detail"), r.get("reason_code"), r.get("reason_detail")) for r in w.control.reports[-4:]]
        raise AssertionError("%d of %d ready; reports %s; %s" % (ready(), INSTANCES, last, w.tail(4)))
    boots = time.monotonic() - began
    time.sleep(12)  # past the quick checks of a start and the first period
    told, pid = len(w.control.reports), w.proc.pid

    def quiet():
        """(share of a core, seconds of processor, seconds) of a time in which nothing happens"""
        cpu, at = cpu_seconds(pid), time.monotonic()
        time.sleep(QUIET)
        cpu, took = cpu_seconds(pid) - cpu, time.monotonic() - at
        return cpu / took, cpu, took
    windows, _ = fair.best(quiet, lambda seen: min(seen)[0] <= CORE_MAX, 1, 4)  # a neighbour's cache misses are the agent's time too
    core, cpu, took = min(windows)
    figures = {"instances": INSTANCES, "pss_mib": round(pss_mib(pid), 2), "core": round(core, 5), "cpu_s": round(cpu, 3), "quiet_s": round(took, 1),
               "boots_s": round(boots, 1), "fds": len(os.listdir("/proc/%d/fd" % pid)), "ctl_s": round(ctl(w), 3), "heap_mib": round(sum(heap_mib()[::2]), 2)}
    live = w.ask({"op": "list"}, 10)
    want(sum(x.get("phase") == "ready" for x in live) == INSTANCES, "not all are ready: %s" % live[:2])
    want(len(w.vm_processes()) == 2 * INSTANCES, "%d processes" % len(w.vm_processes()))
    more = [r for r in w.control.reports[told:] if r["status"] != "ready"]
    want(not more, "something changed: %s" % more[:3])
    w.links = w.host()["links"]
    return figures


def story(w, instance_id):
    """What the agent's log tells of an instance."""
    told = []
    for name in ("instance.phase", "instance.kill", "instance.ended", "instance.prepare_failed", "instance.not_adopted"):
        told += [(r["ts"], name, {k: v for k, v in r.items() if k in ("from", "to", "phase", "why", "reason", "reason_code", "detail", "error")})
                 for r in w.log_events(name) if r.get("instance_id") == instance_id]
    return sorted(told, key=lambda t: t[0])


def node_reboot_restores_the_plan_without_control_plane(w):
    """No process of agent or VM is left, the host says that it booted anew, and nobody answers where the control plane was."""
    w.control.stop()
    w.kill()
    w.kill_vms()
    fake = os.path.join(w.dir, "boot_id")
    with open(fake, "w") as f:
        f.write("%s\n" % uuid.uuid4())
    kit.sh("mount", "--bind", fake, "/proc/sys/kernel/random/boot_id")
    w.start()

    def again():
        live = w.ask({"op": "list"}, 10)
        return sum(x["phase"] == "ready" for x in live) == INSTANCES
    kit.wait_for("%d ready after the reboot" % INSTANCES, again, 240, 0.25)
    for one in (w.describe(i) for i in w.control.assignments):
        want(one["boot_seq"] == 2, "boot %d after %d restarts: %s" % (one["boot_seq"], one["restart_count"], story(w, one["instance_id"])))
    kit.wait_for("as many processes as before", lambda: len(w.vm_processes()) == 2 * INSTANCES, 30, 0.25)
    kit.wait_for("as many links as before", lambda: w.host()["links"] == w.links, 30, 0.25)
    w.control.start()


FREEZER = "/sys/fs/cgroup/freezer"


class Undying:
    """A process that SIGKILL ends only when this lets go of it."""

    def __init__(self, pid):
        self.dir, self.pid = "%s/moat-undying-%d" % (FREEZER, os.getpid()), pid
        os.mkdir(self.dir)
        self.put("cgroup.procs", pid)
        self.put("freezer.state", "FROZEN")
        kit.wait_for("it is held", lambda: open(self.dir + "/freezer.state").read().strip() == "FROZEN", 20)

    def put(self, name, value):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(str(value))

    def let_go(self):
        self.put("freezer.state", "THAWED")

    def close(self):
        """Thawed, whatever happened; what lives on (nobody killed it) goes back."""
        self.let_go()
        for pid in open(self.dir + "/cgroup.procs").read().split():
            try:
                with open(FREEZER + "/cgroup.procs", "w") as f:
                    f.write(pid)
            except OSError:
                pass  # it has just ended
        kit.wait_for("an empty group", lambda: not open(self.dir + "/cgroup.procs").read(), 20)
        os.rmdir(self.dir)


def a_monitor_that_does_not_die(w):
    """runtime.md §7.5: the node says so and is degraded, nothing that the VM has is given away, and it is tried again until it is gone; a kill -9
    of the agent changes none of that, and the neighbours do not notice."""
    i = next(iter(w.control.assignments))
    d = w.describe(i)
    tap, told = "mt%05x" % d["slot"], len(w.control.reports)

    def has():
        """which of its things are there"""
        now = w.host()
        return {"tap": tap + ":" in kit.sh("ip", "-o", "link"), "route": "dev " + tap in kit.sh("ip", "-6", "route", "show", "table", "all"),
                "jail": any(d["jail_id"] in j for j in now["jails"]), "scratch": any(i[5:] in s for s in now["scratch"]), "cgroup": any(d["jail_id"] in c for c in now["cgroups"])}
    before = has()
    want(all(before.values()), before)
    held = Undying(d["pids"][-1])
    stuck = lambda since: kit.wait_for("the condition", lambda: any("vm_stuck" in b["conditions"] for b in w.control.beats[since:]), 90)
    try:
        beats = len(w.control.beats)
        w.control.want(i, "stopped")
        stuck(beats)
        said = kit.wait_for("what it says", lambda: w.log_events("instance.vm_stuck"), 20)[-1]
        want(said["instance_id"] == i and said["error"], said)
        want(has() == before and w.describe(i)["phase"] == "teardown", (has(), w.describe(i)["phase"]))
        w.kill()
        beats = len(w.control.beats)
        w.start()
        stuck(beats)
        want(has() == before, has())
        want(not [r for r in w.control.reports_of(i) if r["status"] == "stopped"], "it is said to have stopped")
        rows = {x["instance_id"]: x["phase"] for x in w.ask({"op": "list"}, 10)}
        want(sum(p == "ready" for p in rows.values()) == INSTANCES - 1 and rows[i] == "teardown", rows)
        held.let_go()
        beats = len(w.control.beats)
        w.control.wait_status(i, "stopped", 90)  # tried every 30 s
        kit.wait_for("no condition", lambda: w.control.beats[beats:] and "vm_stuck" not in w.control.beats[-1]["conditions"], 60)
        kit.wait_for("nothing of it", lambda: not any(has().values()), 30, 0.25)
        others = [r for r in w.control.reports[told:] if r["instance_id"] != i and r["status"] != "ready"]
        want(not others, "others changed: %s" % others[:3])
        w.control.drop(i)
    finally:
        held.close()


def a_disk_that_is_nearly_full(w):
    """Less than 10 % free after a pass over the cache: the node says so, is degraded by it, begins nothing new and restarts what has run there; less than
    3 %: it keeps no lines of workloads and counts them; all that is over when there is room."""
    says = lambda since, there: kit.wait_for("a heartbeat %s it" % ("with" if there else "without"), lambda: (
        w.ask({"op": "gc"}), w.control.beats[since:] and ("disk_pressure" in w.control.beats[-1]["conditions"]) == there)[1], 90, 1)
    says(0, False)
    one, other = [x["instance_id"] for x in w.ask({"op": "list"}, 10) if x["phase"] == "ready"][:2]

    def say():
        """the workload of @one says a line, of 5 bytes; the lines that are there"""
        w.ask({"op": "initlog", "instance_id": one})
        return [r["line"] for r in w.ask({"op": "logs", "instance_id": one})]
    kit.wait_for("a line", lambda: "asked" in say(), 20)
    doctor = lambda: next(r for r in w.ask({"op": "doctor"}) if r["check"] == "agent.disk")
    want(doctor()["severity"] == "ok", doctor())
    ballast, st = os.path.join(w.dir, "ballast"), os.statvfs(w.dir)
    wl = dict(w.workload(w.many_image, memory=MIB, health={"type": "tcp", "port": 8080}))
    try:
        with open(ballast, "wb") as f:
            leave = lambda percent: os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - st.f_blocks * st.f_frsize // 100 * percent)
            leave(8)
            says(len(w.control.beats), True)
            w.control.want(wl["instance_id"], workload=wl)
            r = w.control.wait_status(wl["instance_id"], "booting", 30, status_detail="backoff")
            want(r["reason_code"] == "disk_full" and "less than 10 %" in r["reason_detail"], r)
            row = doctor()
            want(row["severity"] == "warn" and row["finding"].endswith("nothing new starts"), row)
            boot = w.describe(other)["boot_seq"]
            os.kill(w.describe(other)["pids"][0], 9)
            kit.wait_for("its next attempt", lambda: (lambda d: d["phase"] == "ready" and d["boot_seq"] == boot + 1)(w.describe(other)), 60, 0.2)
            leave(2)
            kit.wait_for("no more lines", lambda: (w.ask({"op": "gc"}), w.log_events("logs.stopped"))[1], 60, 1)
            lines = w.ask({"op": "logs", "instance_id": one})
            want(say() == say() == [r["line"] for r in lines] and doctor()["severity"] == "fail", (lines, say(), doctor()))
    finally:
        os.unlink(ballast)
    says(len(w.control.beats), False)
    kit.wait_for("lines again", lambda: w.log_events("logs.kept_again"), 60, 1)
    more = kit.wait_for("the next line, after the word of the others", lambda: (lambda new: new if len(new) > 1 else None)(say()[len(lines):]), 20)
    want(more[0].startswith("dropped=") and int(more[0][8:]) >= 15 and int(more[0][8:]) % 5 == 0 and more[1] == "asked", more)
    w.control.wait_status(wl["instance_id"], "ready", 120)
    want(sum(x["phase"] == "ready" for x in w.ask({"op": "list"}, 10)) >= INSTANCES, "what ran did not run on")


def one_more_than_may_run(w):
    """As many as limits.instances says, and one that waits until one of them has gone."""
    n = len(w.control.assignments)
    kit.wait_for("all %d in the plan ready" % n, lambda: sum(x["phase"] == "ready" for x in w.ask({"op": "list"}, 10)) == n, 60, 0.2)
    more = [w.workload(w.many_image, memory=MIB, health={"type": "tcp", "port": 8080}) for _ in range(LIMIT - n + 1)]
    for wl in more[:-1]:
        w.control.want(wl["instance_id"], workload=wl)
        w.control.wait_status(wl["instance_id"], "ready", 60)
    last = more[-1]["instance_id"]
    w.control.want(last, workload=more[-1])
    r = w.control.wait_status(last, "booting", 60, status_detail="backoff")
    want(r["reason_code"] == "node_capacity_exceeded" and "limits.instances" in r["reason_detail"], r)
    one = next(x["instance_id"] for x in w.ask({"op": "list"}, 10) if x["phase"] == "ready")
    w.control.want(one, "stopped")
    w.control.wait_status(one, "stopped", 60)
    w.control.drop(one)
    w.control.wait_status(last, "ready", 60)


class Growth:
    """The agent over minutes: what it holds and takes, looked at every quarter of one."""

    def __init__(self, w):
        self.w, self.seen, self.began = w, [], time.monotonic()
        self.cpu0 = cpu_seconds(w.proc.pid)
        self.look()

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.w.proc.pid))

    def look(self):
        self.seen.append((time.monotonic() - self.began, own_mib(self.w.proc.pid), self.fds(), heap_mib()))

    def due(self):
        return time.monotonic() - self.began - self.seen[-1][0] >= 15

    def core(self):
        return (cpu_seconds(self.w.proc.pid) - self.cpu0) / (time.monotonic() - self.began)

    def kib_a_minute(self):
        """Slope of the line of least squares through the second half: caches and high-water marks of the start are filled by then."""
        half = self.seen[len(self.seen) // 2:]
        t, m = (sum(x[k] for x in half) / len(half) for k in (0, 1))
        over = sum((x[0] - t) ** 2 for x in half)
        return sum((x[0] - t) * (x[1] - m) for x in half) / over * 60 * 1024 if over else 0.0


def they_come_and_go(w):
    """For CHURN seconds the plan lets instances go and names new ones, or gives those that are there another spec, beside a guest that floods control
    channel, connections and logs all that time; then there is as much as there was."""
    def there():
        """what the host has of this agent's, and what the agent has of the host's"""
        now = w.host()
        return {"taps": kit.sh("ip", "-o", "link").count(": mt"), "jails": len(now["jails"]), "scratch": len(now["scratch"]), "processes": len(now["processes"]),
                "cgroups": len(now["cgroups"]), "folders": len(os.listdir(os.path.join(w.dir, "agent/instances")))}

    def settled():
        rows = w.ask({"op": "list"}, 30)
        return len(rows) == len(w.control.assignments) and all(x["phase"] == "ready" for x in rows) and there()
    mad = w.workload(w.many_image, memory=MIB, health={"type": "tcp", "port": 8080}, env_vars={"MOAT_STANDIN_FLOOD": "1"})
    m = mad["instance_id"]
    w.control.want(m, workload=mad)
    w.control.wait_status(m, "ready", 60)
    before = kit.wait_for("all ready", settled, 300, 1)
    pid, g, n, rng = w.proc.pid, Growth(w), [0, 0], random.Random(7)
    fds, end, printed = g.seen[0][2], time.monotonic() + CHURN, 0
    while time.monotonic() < end:
        with w.control.lock:
            ids = [i for i, a in w.control.assignments.items() if i != m and a["desired_state"] == "running"]
            for i in rng.sample(ids, 4):
                a = w.control.assignments[i]
                if rng.random() < 0.5:  # its next spec, in place
                    wl = dict(a["workload"], generation=a["generation"] + 1, spec_hash="%064x" % rng.getrandbits(256))
                    w.control.assignments[i] = dict(a, generation=a["generation"] + 1, workload=wl)
                    n[0] += 1
                    continue
                w.control.assignments[i] = dict(a, desired_state="stopped")
                wl = w.workload(w.many_image, memory=MIB, health={"type": "tcp", "port": 8080})
                w.control.assignments[wl["instance_id"]] = {"assignment_id": kit.ulid(), "instance_id": wl["instance_id"], "generation": 1,
                                                            "desired_state": "running", "drain_delay_seconds": 0, "workload": wl}
                n[1] += 1
            del w.control.reports[:-1000]  # of an hour of it nobody reads the beginning
            del w.control.beats[:-10], w.control.posts[:-100], w.control.batches[:-100]
        w.control.publish()
        time.sleep(PAUSE)
        with w.control.lock:  # one that was told to have stopped leaves the plan, as it does in the control plane
            over = {r["instance_id"] for r in w.control.reports if r["status"] == "stopped"}
            for i in [i for i, a in w.control.assignments.items() if a["desired_state"] == "stopped" and i in over]:
                del w.control.assignments[i]
        if g.due():
            g.look()
        if time.monotonic() - g.began - printed > 60:
            printed = time.monotonic() - g.began
            print("# %4.0f s: %d replaced, %d new, %d in the plan: %.1f MiB of its own (heap %.1f in use, %.1f free, %.1f mapped), %d descriptors, %.1f %% of a core, %s" % (
                printed, n[0], n[1], len(w.control.assignments), g.seen[-1][1], *g.seen[-1][3], g.seen[-1][2], 100 * g.core(), there()), flush=True)
    core, mine = g.core(), time.process_time() / (time.monotonic() - g.began)
    for i in [i for i, a in w.control.assignments.items() if a["desired_state"] == "stopped"]:
        kit.wait_for("%s gone" % i, lambda: not [x for x in w.ask({"op": "list"}, 30) if x["instance_id"] == i and x["phase"] != "stopped"], 120, 1)
        w.control.drop(i)
    w.control.publish()  # those that left the plan after the last one, too
    try:
        kit.wait_for("as much as before", lambda: settled() == before, 120, 2)
    except AssertionError:
        raise AssertionError("%s, before %s; in the plan %d; %s" % (there(), before, len(w.control.assignments), [x for x in w.ask({"op": "list"}, 30) if x["phase"] != "ready"][:4]))
    g.look()
    d = w.describe(m)
    want(w.proc.pid == pid and d["boot_seq"] == 1 and d["phase"] == "ready", "the flood ended its VM or the agent: %s" % d)
    # each closes the door for a second (src/agent/door.h)
    want(d["guest_breaches"] > CHURN / 4, "no flood: %d breaches" % d["guest_breaches"])
    want(abs(g.fds() - fds) <= 8, "%d descriptors, before %d" % (g.fds(), fds))
    slope, seen, heap = g.kib_a_minute(), [round(x[1], 1) for x in g.seen], [round(x[3][0] + x[3][2], 1) for x in g.seen]
    want(g.seen[-1][1] <= max(seen[:4]) + 4 and (CHURN < 300 or slope <= GROWTH_KIB_A_MINUTE), "%.0f KiB a minute; private MiB of the agent: %s; of its heap in use: %s" % (slope, seen, heap))
    print("ok - %d instances come and go for %.0f s beside a guest that floods, %d boots, %d breaches: nothing leaks; %.1f to %.1f MiB of its own, at most %.1f, %+.1f KiB a minute in the second half (heap in use %.1f to %.1f), %d to %d descriptors, %.1f %% of a core, this test's own %.1f %%" % (
        INSTANCES, CHURN, sum(n), d["guest_breaches"], seen[0], seen[-1], max(seen), slope, heap[0], heap[-1], fds, g.fds(), 100 * core, 100 * mine), flush=True)


def nothing_is_left(w):
    w.stop_all(240000)
    left = w.host()
    want(not left["processes"] and not left["jails"] and not left["scratch"] and not left["cgroups"], "left behind: %s" % left)
    want("mt0" not in kit.sh("ip", "-o", "link") and not kit.sh("ip", "-6", "route", "show", "dev", "lo", "table", "main").count(kit.P + ":1:1::"), "links or routes are left: %s" % left)


def others(w, f):
    node_reboot_restores_the_plan_without_control_plane(w)
    fds = lambda: len(os.listdir("/proc/%d/fd" % w.proc.pid))
    # each instance that has just started is looked at often, by a connection
    kit.wait_for("as many descriptors as before, %d: %d" % (f["fds"], fds()), lambda: abs(fds() - f["fds"]) <= 8, 60, 0.1)
    print("ok - the node boots anew without a control plane: all %d are ready again" % INSTANCES, flush=True)
    if os.path.exists(FREEZER + "/cgroup.procs"):
        a_monitor_that_does_not_die(w)
        print("ok - a monitor that does not die: the node is degraded, what the VM has stays its own, it is tried again until it is gone", flush=True)
    else:
        print("skip - a monitor that does not die: no freezer of cgroup v1 that holds what was killed")
    a_disk_that_is_nearly_full(w)
    print("ok - a disk that is nearly full: a condition of the node, nothing new begins, below 3 % lines are counted and not kept, until there is room", flush=True)
    one_more_than_may_run(w)
    print("ok - one instance more than may run waits until another has gone", flush=True)


def ctl(w):
    began = time.monotonic()
    w.ask({"op": "list"}, 10)
    return time.monotonic() - began


def main():
    why = missing()
    if why:
        print("skip - agent with many instances: " + why)
        return 0
    kit.make_bundle()
    kit.own_network()
    kit.own_mounts()  # it says what boot this is
    w = kit.World("many")
    plain = w.dir
    try:
        w.dir = os.path.join(plain, "fs")
        os.mkdir(w.dir, 0o755)
        why = xfs(w.dir, (256 if INSTANCES <= 100 else 640) << 30)  # sparse: a scratch disk of 1 GiB for each is reserved in it, and hardly written
        if why:
            print("skip - agent with many instances: " + why)
            return 0
        for d in ("run", "boot"):
            os.mkdir(os.path.join(w.dir, d), 0o755)
        w.log_path = os.path.join(w.dir, "agent.log")
        w.control.stop()
        w.control = kit.Control(os.path.join(w.dir, "run/internal.sock"), w.node_id)
        f = measure(w)
        if "--figures" in sys.argv:
            print(json.dumps(f))
            return 0
        print("  %s" % f, flush=True)
        if CHURN:
            they_come_and_go(w)
        else:
            others(w, f)
        nothing_is_left(w)
        want(f["pss_mib"] <= MIB_MAX, "%.1f MiB with %d instances, at most %g" % (f["pss_mib"], INSTANCES, MIB_MAX))
        want(f["heap_mib"] <= HEAP_MAX, "%.1f MiB of its heap in use with %d instances, at most %g" % (f["heap_mib"], INSTANCES, HEAP_MAX))
        want(f["core"] <= CORE_MAX, "%.2f %% of a core with %d instances, at most %g %%" % (100 * f["core"], INSTANCES, 100 * CORE_MAX))
        print("ok - %d instances, nothing changes: %.1f MiB, %.1f of its heap in use, %.2f %% of a core" % (INSTANCES, f["pss_mib"], f["heap_mib"], 100 * f["core"]))
        return 0
    except Exception as e:
        import traceback
        traceback.print_exc(file=sys.stdout)
        print("not ok - agent with many instances: %s" % str(e).replace("\n", " ")[:600])
        return 1
    finally:
        subprocess.run(["umount", "-l", os.path.join(plain, "fs")], stderr=subprocess.DEVNULL)
        w.dir = plain
        w.close()


if __name__ == "__main__":
    sys.exit(main())
