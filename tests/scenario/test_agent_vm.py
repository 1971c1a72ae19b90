#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-agent with real images, real QEMU microVMs and a stand-in control plane, in a network namespace of its own.

Boot to ready, logs, adoption after kill -9 in every phase that matters, ends of workloads, drain, replacement, absence,
planned end of the platform; the host is the same before and after.

What asks for milliseconds is run by test_agent_vm_time.py. COST 205 s, 74 s of processor."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import fair  # noqa: E402
from imagekit import Report, want  # noqa: E402

CLOCK_SHIFT = os.path.join(os.environ.get("MOAT_BUILD", os.path.join(kit.ROOT, "build")), "tests/tools/clock_shift.so")
FULL = os.environ.get("MOAT_FULL")
MEASURED = ("second_start_is_quick_to_exec", "twenty_thousand_lines_a_second")  # run when named only


def fetch(address, port=8080, seconds=60):
    return subprocess.run(["curl", "-6", "-s", "-m", str(seconds), "http://[%s]:%d/" % (address, port)],
                          stdout=subprocess.PIPE).stdout.decode()


class Suite:
    def __init__(self, world):
        self.w, self.c = world, world.control
        self.image = world.push()
        self.long = None  # an instance that lives over several cases
        self.running = []  # workloads that a case has left ready for others: a boot costs two seconds of processor

    def run_one(self, status="ready", seconds=60, **more):
        wl = self.w.workload(self.image, **more)
        self.c.want(wl["instance_id"], workload=wl)
        return wl, self.c.wait_status(wl["instance_id"], status, seconds)

    def one_that_runs(self):
        """A ready workload, the caller's from here on: one that a case before has left, or a new one."""
        if not self.running:
            return self.run_one()[0]
        wl = self.running.pop()
        kit.wait_for("its guest", lambda: (lambda d: d["phase"] == "ready" and d["guest_connected"])(self.w.describe(wl["instance_id"])), 60)
        return wl

    def gone(self, instance_id, seconds=30):
        self.c.want(instance_id, "stopped")
        return self.c.wait_status(instance_id, "stopped", seconds)

    # -- cases, from basic to complex

    def boots_to_ready(self):
        wl, r = self.run_one()
        self.long = wl
        want(fetch(wl["network"]["overlay_ipv6"]) == "moat", "the workload does not answer with the plan's variable")
        seen = [(x["status"], x.get("status_detail")) for x in self.c.reports_of(wl["instance_id"])]
        want(("booting", "booting_vm") in seen, seen)  # `starting` may be coalesced away before a quick ready
        seqs = [x["seq"] for x in self.c.reports_of(wl["instance_id"])]
        want(seqs == sorted(seqs), "sequence numbers do not grow: %s" % seqs)
        d = self.w.describe(wl["instance_id"])
        want(set(d["timing_ms"]) >= {"image", "disk", "net", "vm", "boot", "start", "ready"}, d["timing_ms"])
        want("status_detail" not in r, r)  # a step is for the way up only

    def second_start_is_quick_to_exec(self):
        """Plan received to exec of the VMM, image cached: 60 ms on a quiet machine (32 ms measured); the limit here leaves
        room for other tests on the same cores, and is asked of the best of three, or of more when those were disturbed."""
        def once():
            wl, _ = self.run_one()
            t = self.w.describe(wl["instance_id"])["timing_ms"]
            self.gone(wl["instance_id"])
            return sum(t.get(k, 0) for k in ("wait", "image", "disk", "net", "vm"))
        took, quick = fair.best(once, lambda seen: min(seen) <= 150, 3, 12)
        print("  plan to exec of the VMM: %s ms" % took, flush=True)
        want(quick, "%s ms from plan to exec" % took)

    def logs_are_read_and_followed(self):
        wl, _ = self.run_one(command=["/app", "talk", "40"])
        i = wl["instance_id"]
        read = lambda: [r["line"] for r in self.w.ask({"op": "logs", "instance_id": i})]
        # the last of each, and what it says when it serves: nothing comes after it
        kit.wait_for("80 lines and the last", lambda: {"out 39", "err 39"} <= set(read()) and any(l.startswith("testapp: serving") for l in read()), 40)
        rows = self.w.ask({"op": "logs", "instance_id": i})
        want([r["seq"] for r in rows] == list(range(1, len(rows) + 1)), "sequence numbers have holes")
        want({r["stream"] for r in rows} == {"stdout", "stderr"}, {r["stream"] for r in rows})
        last = self.w.ask({"op": "logs", "instance_id": i, "limit": 3})
        want([r["seq"] for r in last] == [r["seq"] for r in rows[-3:]], last)
        some = self.w.ask({"op": "logs", "instance_id": i, "since_seq": 10, "limit": 5})
        want([r["seq"] for r in some] == [11, 12, 13, 14, 15], some)
        self.gone(i)
        want(len(self.w.ask({"op": "logs", "instance_id": i})) >= len(rows), "logs went with the instance")
        bad = self.w.ask({"op": "logs", "instance_id": "inst_../../etc"})
        want(bad[0]["error"]["code"] == "invalid", bad)

    def twenty_thousand_lines_a_second(self):
        """Out of one VM, more than all buffers on the way hold: each is in the node's store, in order, and the workload keeps its pace. What is above a
        buffer or the rate of an instance and how it is told: stubborn_workload_and_flood of test_guest_boot.py, tests/unit/agent/test_logpath.c."""
        n = 200000 if FULL else 60000  # 9.8 or 2.9 MB; a guest's ring holds one

        def once():
            wl = self.w.workload(self.image, command=["/app", "pour", str(n), "20000"])
            i = wl["instance_id"]
            self.c.want(i, workload=wl)
            kit.wait_for("its last line", lambda: any(r["line"].startswith("poured ") for r in self.last_lines(i, 2)), 90, 0.2)
            rows = self.w.ask({"op": "logs", "instance_id": i}, 60)
            self.gone(i)
            mine = [r["line"] for r in rows if r["stream"] == "stdout" and r["line"][:10].isdigit()]
            ms, us = (int(x) for x in re.findall(r"(\d+) [mu]s", next(r["line"] for r in rows if r["line"].startswith("poured "))))
            told = [r["line"] for r in rows if r["stream"] == "system" and "dropped=" in r["line"]]
            print("  %d of %d lines, %d ms for what is due in %d, longest write %d us %s" % (len(mine), n, ms, n // 20, us, told), flush=True)
            whole = [int(l[:10]) for l in mine] == list(range(n)) and all(len(l) == 48 for l in mine)
            want(whole or told, "lines are missing and nothing says so")
            return whole, ms
        # an emulated guest that had no processor for a while makes up for it in one go: what a neighbour disturbed is done again
        seen, good = fair.best(once, lambda seen: seen[-1][0] and seen[-1][1] <= n // 20 * 1.05, 1, 5)
        want(good, seen)

    def last_lines(self, i, n):
        return [r for r in self.w.ask({"op": "logs", "instance_id": i, "limit": n}) if "line" in r]

    def confined(self):
        d = self.w.describe(self.long["instance_id"])
        for pid in d["pids"]:
            with open("/proc/%d/status" % pid) as f:
                status = dict(l.split(":\t", 1) for l in f if ":\t" in l)
            want(status["Uid"].split()[1] == str(200000 + d["slot"]), "uid %s" % status["Uid"])
            want(status["CapEff"].strip() == "0" * 16 and status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2",
                 "pid %d: %s %s %s" % (pid, status["CapEff"], status["NoNewPrivs"], status["Seccomp"]))
        name = "mt%05x" % d["slot"]
        route = kit.sh("ip", "-6", "route", "show", self.long["network"]["overlay_ipv6"])
        want("dev " + name in route and "src " + kit.NODE_ADDRESS in route, route)

    def guarded_by_nft(self):
        """an undeclared port is closed even for root here; a third user reaches nothing"""
        address = self.long["network"]["overlay_ipv6"]
        want(fetch(address) == "moat", "declared port")
        r = subprocess.run(["curl", "-6", "-s", "-m", "1", "http://[%s]:9/" % address], stdout=subprocess.PIPE)
        want(r.returncode == 28, "undeclared port: curl says %d, not a timeout" % r.returncode)
        r = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "curl", "-6", "-s", "-m", "1", "http://[%s]:8080/" % address])
        want(r.returncode == 28, "a third user reached the VM: %d" % r.returncode)

    def adopted_after_kill(self):
        i, address = self.long["instance_id"], self.long["network"]["overlay_ipv6"]
        before = self.w.describe(i)
        self.w.kill()
        want(fetch(address) == "moat", "traffic stopped with the agent")
        n = len(self.c.reports_of(i))
        self.w.start()
        kit.wait_for("guest to come back", lambda: self.w.describe(i)["guest_connected"], 40)
        after = self.w.describe(i)
        want(after["pids"] == before["pids"] and after["boot_id"] == before["boot_id"] and after["boot_seq"] == before["boot_seq"],
             "the VM was restarted: %s -> %s" % (before["pids"], after["pids"]))
        want(after["phase"] == "ready", after["phase"])
        r = self.c.wait_status(i, "ready", 10, since=n)
        want(r["boot_id"] == before["boot_id"] and r["seq"] > before["report_seq"], r)
        time.sleep(0.3)
        want(self.w.describe(i)["phase"] == "ready", "health did not resume")

    def adopted_while_booting(self):
        wl = self.w.workload(self.image)
        i = wl["instance_id"]
        self.c.want(i, workload=wl)
        self.c.wait_status(i, "booting", 20, status_detail="booting_vm")
        # that is said before the monitor's exec; killed before it there would be nothing to adopt
        kit.wait_for("its monitor", lambda: self.w.describe(i)["phase"] not in ("none", "preparing"), 20)
        self.w.kill()
        self.w.start()
        self.c.wait_status(i, "ready", 30)
        d = self.w.describe(i)
        want(d["boot_seq"] == 1, "the boot was begun again: %s" % d)
        self.gone(i)

    def exit_codes(self):
        for code in (0, 137):  # 3: cut_off_for_an_hour; 5, 7: below
            wl, r = self.run_one("stopped" if code == 0 else "failed", command=["/app", "exit", str(code)], ports=(),
                                 lifecycle={"restart_policy": "never", "stop_grace_seconds": 2, "backoff_seconds": 1})
            want(r["exit_code"] == code, r)
            want(r["reason_code"] == ("completed" if code == 0 else "workload_exited"), r)
            self.gone(wl["instance_id"])

    def exit_while_agent_is_away(self):
        wl = self.w.workload(self.image, command=["/app", "exit", "7"], ports=(),
                             lifecycle={"restart_policy": "never", "stop_grace_seconds": 2, "backoff_seconds": 1})
        i = wl["instance_id"]
        self.c.want(i, workload=wl)
        self.c.wait_status(i, "booting", 20, status_detail="booting_vm")
        kit.wait_for("config", lambda: self.w.describe(i)["timing_ms"].get("boot"), 20, 0.005)
        self.w.kill()
        time.sleep(1.5)
        self.w.start()
        r = self.c.wait_status(i, "failed", 40)
        want(r["reason_code"] == "workload_exited" and r["exit_code"] == 7, r)
        self.gone(i)

    def restarts_with_backoff(self):
        wl, r = self.run_one("booting", command=["/app", "exit", "5"], ports=())
        i = wl["instance_id"]
        r = self.c.wait_status(i, "booting", 40, status_detail="backoff")
        want(r["exit_code"] == 5 and r["reason_code"] == "workload_exited" and r["next_retry_at"] and r["restart_count"] == 1, r)
        kit.wait_for("second attempt", lambda: self.w.describe(i)["boot_seq"] >= 2, 15)
        # the serial lines of both attempts are there, each in its ring
        kit.wait_for("the second kernel's first lines", lambda: {x["attempt"] for x in self.w.ask({"op": "console", "instance_id": i})} == {"previous", "latest"}, 30)
        self.gone(i)

    def out_of_memory(self):
        wl, r = self.run_one("failed", command=["/app", "hog", "400"], ports=(),
                             lifecycle={"restart_policy": "never", "stop_grace_seconds": 2, "backoff_seconds": 1})
        want(r["reason_code"] == "oom_killed" and r["reason_detail"] == "guest", r)
        want(fetch(self.long["network"]["overlay_ipv6"]) == "moat", "the neighbour suffered")
        self.gone(wl["instance_id"])

    def unhealthy_ends(self):
        wl = self.w.workload(self.image, command=["/app", "deaf"], health={
            "type": "tcp", "port": 8080, "interval_seconds": 1, "timeout_seconds": 30, "grace_period_seconds": 0, "failure_threshold": 1},
            lifecycle={"restart_policy": "on-failure", "max_retries": 0, "stop_grace_seconds": 1, "backoff_seconds": 1})
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "failed", 60)
        want(r["reason_code"] == "healthcheck_failed" and "refused" in r["reason_detail"], r)
        self.gone(wl["instance_id"])

    def bad_image(self):
        wl = self.w.workload((self.image[0], "sha256:" + "1" * 64))
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "booting", 60, status_detail="backoff")
        want(r["reason_code"] == "image_pull_failed" and r["next_retry_at"], r)
        self.gone(wl["instance_id"])

    def missing_program_and_metrics_say_what_happened(self):
        """Of this process of the agent: it was started last in exit_while_agent_is_away, or with the file when only this is run."""
        def page():
            with urllib.request.urlopen("http://%s/metrics" % self.w.conf["listen_metrics"], timeout=120) as r:
                return r.read().decode()

        def v(series, text=None):
            m = [l for l in (text or page()).splitlines() if l.rsplit(" ", 1)[0] == series]
            want(len(m) == 1, "%d times %s" % (len(m), series))
            return float(m[0].rsplit(" ", 1)[1])
        before = page()
        wl, r = self.run_one()
        self.running.append(wl)
        wl, r = self.run_one("failed", command=["/nothing"], ports=(),
                             lifecycle={"restart_policy": "never", "stop_grace_seconds": 2, "backoff_seconds": 1})
        want(r["reason_code"] == "exec_not_found" and "/nothing" in r["reason_detail"], r)
        self.gone(wl["instance_id"])
        after = page()
        for series, grown in (('moat_agent_boot_seconds_count{phase="ready",result="ok"}', 1),
                              ('moat_agent_boot_seconds_count{phase="vmm",result="ok"}', 1),
                              ('moat_agent_boot_seconds_count{phase="guest",result="failed"}', 1),
                              ('moat_agent_instance_failures_total{reason="exec_not_found"}', 1),
                              ('moat_agent_restarts_total{reason="exec_not_found"}', 0)):
            want(v(series, after) - v(series, before) == grown, "%s: %s, then %s" % (series, v(series, before), v(series, after)))
        want(v('moat_agent_instances{state="ready"}', after) >= 1 and v('moat_agent_memory_bytes{kind="assigned"}', after) >= 96 << 20, "what runs")
        want(v('moat_agent_memory_bytes{kind="used"}', after) > 10 << 20, "what VMs use")
        kit.wait_for("processor time that VMs use", lambda: v('moat_agent_cpu_millis{kind="used"}') > 0, 20)  # of the last half second; an idle guest that got no processor in it has none
        want('moat_agent_vmm{driver="qemu",accel="' in after, "the driver")
        want(v('moat_agent_log_lines_total{stream="stdout"}', after) > 0 and v("moat_agent_plan_age_seconds", after) < 60, "lines and plan")
        want(v("moat_agent_image_cache_bytes", after) > 0 and v("moat_agent_reconcile_duration_seconds_count", after) > 5, "cache and passes")
        if len(sys.argv) == 1:
            want(v('moat_agent_oom_kills_total{scope="guest"}') == 1 and v('moat_agent_image_pulls_total{result="failed"}') >= 1, "what ran before")
            want(v('moat_agent_restarts_total{reason="workload_exited"}') >= 1 and v('moat_agent_instance_failures_total{reason="oom_killed"}') == 1,
                 "restarts and failures")
        listed = {l.split("\t")[0] for l in open(os.path.join(kit.ROOT, "docs/api/metrics.txt"))}
        stray = {l.split()[2] for l in after.splitlines() if l.startswith("# TYPE")} - listed
        want(not stray, stray)

    def vm_death_is_seen(self):
        wl = self.one_that_runs()
        i = wl["instance_id"]
        n = len(self.c.reports_of(i))
        pids = self.w.describe(i)["pids"]
        os.kill(pids[-1], signal.SIGKILL)
        r = self.c.wait_status(i, "booting", 20, since=n, status_detail="backoff")
        want(r["reason_code"] == "vm_lost", r)
        self.c.wait_status(i, "ready", 40, since=n)
        self.running.append(wl)

    def what_never_answers_is_killed(self):
        """Guest and monitor stand still. By the agent's clock, which this test sets: out of traffic after a minute, then ended with that reason and begun anew."""
        clock = os.path.join(self.w.dir, "clock-silent")

        def at(seconds):
            with open(clock, "r+b" if os.path.exists(clock) else "wb") as f:
                f.write(struct.pack("=qq", 0, seconds * 10**9))
        at(0)
        wl = self.one_that_runs()
        i = wl["instance_id"]
        self.w.kill()
        self.w.start(env={"LD_PRELOAD": CLOCK_SHIFT, "MOAT_CLOCK_FILE": clock})
        kit.wait_for("guests to come back", lambda: all(self.w.describe(x)["guest_connected"] for x in (i, self.long["instance_id"])), 20)
        before, n = self.w.describe(i), len(self.c.reports_of(i))
        for pid in before["pids"]:
            os.kill(pid, signal.SIGSTOP)
        try:
            for second in range(20, 400, 20):  # the neighbour has its turn in each step and is not late
                at(second)
                want(fetch(self.long["network"]["overlay_ipv6"], seconds=60) == "moat", "the neighbour does not serve")
                fair.rest(0.5)
                if self.w.describe(i)["phase"] not in ("ready", "unready"):
                    break
            want(60 <= second <= 160, "ended after %d s of silence of both" % second)
            r = self.c.wait_status(i, "booting", 30, since=n, status_detail="backoff")
            want(r["reason_code"] == "vm_unresponsive" and "silent" in (r.get("reason_detail") or ""), r)
        finally:
            for pid in before["pids"]:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        self.c.wait_status(i, "ready", 60, since=n)
        want(not set(self.w.vm_processes()) & set(before["pids"]), "a process of the silent VM is left")
        want(self.w.describe(self.long["instance_id"])["phase"] == "ready", "its neighbour suffered")
        self.w.kill()
        self.w.start()
        self.running.append(wl)

    def drain_waits_then_stops(self):
        wl = self.one_that_runs()
        i, address = wl["instance_id"], wl["network"]["overlay_ipv6"]
        t0 = time.monotonic()
        self.c.want(i, "draining", delay=2)
        late = fair.now() + 8
        self.c.wait_status(i, "draining", 20)
        want(fetch(address) == wl["env_vars"]["WORD"] or time.monotonic() - t0 > 2, "it stopped serving before the delay")
        self.c.wait_status(i, "stopped", 20)
        want(1.8 < time.monotonic() - t0 and fair.now() < late, "stopped after %.1f s" % (time.monotonic() - t0))
        wl = self.one_that_runs()
        self.c.want(wl["instance_id"], "draining", delay=60)
        self.c.wait_status(wl["instance_id"], "draining", 20)
        self.c.want(wl["instance_id"], "draining", delay=0)
        at = fair.now()
        self.c.wait_status(wl["instance_id"], "stopped", 40)
        want(fair.now() - at < 10, "the shorter delay does not count")

    def replaced_in_place(self):
        wl = self.one_that_runs()
        i = wl["instance_id"]
        new = dict(wl, generation=2, spec_hash="f" * 64, env_vars={"WORD": "second"})
        n = len(self.c.reports_of(i))
        self.c.want(i, workload=new)
        self.c.wait_status(i, "ready", 60, since=n, generation=2)
        want(fetch(wl["network"]["overlay_ipv6"]) == "second", "old spec still runs")
        self.running.append(new)

    def absence_needs_two_plans(self):
        wl = self.one_that_runs()
        i = wl["instance_id"]
        n = len(self.c.reports_of(i))
        self.c.drop(i)
        time.sleep(2)
        want(self.w.describe(i)["phase"] == "ready", "one plan without it was enough")
        time.sleep(9)

        def again():  # how long ago the first one was accepted only the agent knows
            self.c.publish()
            return [r for r in self.c.reports_of(i)[n:] if r["status"] == "draining"]
        kit.wait_for("its end after a second plan", again, 40, 1)
        self.c.wait_status(i, "stopped", 30, since=n)
        kit.wait_for("state folder to go", lambda: not os.path.exists(os.path.join(self.w.dir, "agent/instances", i)), 30)

    def stale_and_foreign_plans(self):
        i = self.long["instance_id"]
        self.c.extra["node_id"] = kit.new_id("node")
        self.c.publish()
        kit.wait_for("refusal", lambda: any("for node" in e["error"] for e in self.w.log_events("plan.rejected")), 30)
        del self.c.extra["node_id"]
        saved = self.c.cursor
        self.c.extra["cursor_event_id"] = 1
        self.c.publish()
        kit.wait_for("stale plan", lambda: self.w.log_events("plan.stale"), 30)
        del self.c.extra["cursor_event_id"]
        self.c.cursor = saved + 5
        self.c.publish()
        want(self.w.describe(i)["phase"] == "ready", "a bad plan touched a VM")

    def control_away(self):
        wl = self.one_that_runs()
        i = wl["instance_id"]
        self.c.stop()
        before = self.w.describe(i)
        restarts, boots = before["restart_count"], before["boot_seq"]
        os.kill(before["pids"][-1], signal.SIGKILL)
        kit.wait_for("restart without control plane", lambda: self.w.describe(i)["boot_seq"] == boots + 1 and self.w.describe(i)["phase"] == "ready", 40)
        n = len(self.c.reports_of(i))
        self.c.start()
        r = self.c.wait_status(i, "ready", 20, since=n)
        want(r["restart_count"] == restarts + 1, r)
        self.running.append(wl)

    def control_of_another_protocol(self):
        """426 agent_incompatible: one line with versions and mend, no call in a loop, what runs serves on; then it hears the next plan, and who told nothing tells it."""
        wl = self.one_that_runs()
        i = wl["instance_id"]
        before, lines = self.w.describe(i), len(self.w.log_events("control.incompatible"))
        self.c.strange = True
        try:
            self.c.publish()  # ends a poll that hangs
            said = kit.wait_for("the line that says so", lambda: self.w.log_events("control.incompatible")[lines:], 40)
            want("9.9.9" in said[0]["detail"] and "install on the node" in said[0]["detail"] and "install" in said[0]["mend"] and said[0]["agent_version"], said)
            asked, began = self.c.strangers, time.monotonic()
            kit.wait_for("some calls", lambda: self.c.strangers >= asked + 4 and time.monotonic() > began + 2, 60)  # heartbeat, poll and reports may fall into one moment
            rate = (self.c.strangers - asked) / (time.monotonic() - began)
            want(rate <= 8, "%.1f calls a second" % rate)
            now = self.w.describe(i)
            want(now["phase"] == "ready" and now["boot_seq"] == before["boot_seq"] and now["pids"] == before["pids"], now)
            want(len(self.w.log_events("control.incompatible")) == lines + 1, "it is said once")
        finally:
            self.c.strange = False
        kit.wait_for("it fits again", lambda: len(self.w.log_events("control.compatible_again")) == lines + 1, 30)
        cursor = self.c.cursor
        kit.wait_for("it has the plan of meanwhile", lambda: self.c.beats[-1]["cursor_event_id"] >= cursor, 30)
        self.running.append(wl)

    def cut_off_for_an_hour(self):
        """By the agent's clocks, which this test sets: an hour without a control plane. What runs serves at every step of it, what dies is begun
        again or kept as failed, lines are kept; then all of it is told, once, and what was planned meanwhile is done."""
        clock, step = os.path.join(self.w.dir, "clock"), 20
        i, address = self.long["instance_id"], self.long["network"]["overlay_ipv6"]

        def at(seconds):
            with open(clock, "r+b" if os.path.exists(clock) else "wb") as f:
                f.write(struct.pack("=qq", seconds * 10**9, seconds * 10**9))
        at(0)
        self.w.kill()
        self.w.start(env={"LD_PRELOAD": CLOCK_SHIFT, "MOAT_CLOCK_FILE": clock})
        wl = self.w.workload(self.image, command=["/app", "count", "100000", "100"], ports=())
        ids = {"leaves": wl["instance_id"]}
        self.c.want(ids["leaves"], workload=wl)
        wl = self.one_that_runs()
        ids["crashes"], crashes = wl["instance_id"], wl["network"]["overlay_ipv6"]
        begun = self.w.describe(ids["crashes"])
        self.c.wait_status(ids["leaves"], "ready")
        kit.wait_for("guest to come back", lambda: self.w.describe(i)["guest_connected"], 40)
        before, beats = self.w.describe(i), len(self.c.beats)
        wl = self.w.workload(self.image, command=["/app", "exit", "3"], ports=(), lifecycle={"restart_policy": "never", "stop_grace_seconds": 2, "backoff_seconds": 1})
        ids["ends"] = wl["instance_id"]
        self.c.want(ids["ends"], workload=wl)
        kit.wait_for("the plan", lambda: any(r.get("instance_id") == ids["ends"] for r in self.w.ask({"op": "list"})), 20)
        self.c.stop()
        self.c.want(ids["leaves"], "stopped")  # nobody hears it
        told = {x: len(self.c.reports_of(x)) for x in [i, *ids.values()]}
        kit.wait_for("the end of what had just begun", lambda: self.w.describe(ids["ends"])["phase"] == "failed", 60)
        lines = 0

        def talks():
            last = self.w.ask({"op": "logs", "instance_id": ids["leaves"], "limit": 1})
            return last and last[0]["seq"] > lines and last[0]["seq"]
        for second in range(0, 3600, step):
            if second == 1200:
                os.kill(self.w.describe(ids["crashes"])["pids"][-1], signal.SIGKILL)
                kit.wait_for("restart", lambda: (lambda d: d["boot_seq"] == begun["boot_seq"] + 1 and d["phase"] == "ready")(self.w.describe(ids["crashes"])), 60)
            at(second + step)
            # every guest had its turn since, so that what it owes (an answer to a ping within five minutes) is not late for our clock alone
            for a in (address, crashes):
                want(fetch(a, seconds=60) == "moat", "not served %d s after the control plane went" % second)
            lines = kit.wait_for("a line", talks, 20)
        after = self.w.describe(i)
        kit.wait_for("its last answer, by which it is ready", lambda: self.w.describe(i)["phase"] == before["phase"], 40)
        want([after[k] for k in ("pids", "boot_id", "boot_seq")] == [before[k] for k in ("pids", "boot_id", "boot_seq")],
             "not left alone: %s -> %s" % (before, after))
        kit.wait_for("that of the one that talks", lambda: self.w.describe(ids["leaves"])["phase"] == "ready", 40)
        self.c.start()
        self.c.wait_status(ids["crashes"], "ready", 30, since=told[ids["crashes"]], restart_count=begun["restart_count"] + 1)
        r = self.c.wait_status(ids["ends"], "failed", 30, since=told[ids["ends"]])
        want(r["exit_code"] == 3 and r["reason_code"] == "workload_exited", r)
        self.c.wait_status(i, "ready", 30, since=told[i])
        self.c.wait_status(ids["leaves"], "stopped", 60, since=told[ids["leaves"]])
        kit.wait_for("heartbeats", lambda: len(self.c.beats) > beats + 1, 20)
        for kind, x in ids.items():
            if kind != "leaves":
                kit.wait_for("the record of " + kind, lambda: any("autopsy" in r for r in self.c.reports_of(x)[told[x]:]), 20)
            rows = self.c.reports_of(x)[told[x]:]
            seen = {}
            for r in rows:  # the full list of a node that is back repeats what was told: the same number, the same words
                plain = {k: v for k, v in r.items() if k not in ("at", "reported_at", "autopsy")}
                want(seen.setdefault(r["seq"], plain) == plain, "%s: two reports of one number: %s, %s" % (kind, seen[r["seq"]], plain))
            want(sum("autopsy" in r for r in rows) == (kind != "leaves"), "%s: records %s" % (kind, [(r["seq"], r["status"], "autopsy" in r) for r in rows]))
        rows = self.w.ask({"op": "logs", "instance_id": ids["leaves"]})
        want([r["seq"] for r in rows] == list(range(rows[0]["seq"], rows[0]["seq"] + len(rows))) and len(rows) > 50, "%d lines" % len(rows))
        self.w.kill()
        self.w.start()  # by the true clocks again, an hour back
        for kind in ("crashes", "ends"):
            self.gone(ids[kind])
        want(self.w.describe(i)["phase"] == "ready" and fetch(address) == "moat", "an hour back")

    def table_comes_back(self):
        """somebody deletes the table: the next start brings all of it back before its tap is up"""
        kit.sh("nft", "delete", "table", "inet", "moat")
        wl, _ = self.run_one()
        rules = kit.sh("nft", "list", "table", "inet", "moat")
        want(self.long["network"]["overlay_ipv6"] + " . 8080" in rules and wl["network"]["overlay_ipv6"] + " . 8080" in rules, rules)
        self.running.append(wl)

    def orphans_go_and_strangers_stay(self):
        ours, theirs = os.path.join(self.w.dir, "scratch", kit.ulid() + "-1.ext4"), os.path.join(self.w.dir, "scratch", "notes.txt")
        for path in (ours, theirs):
            open(path, "w").close()
        try:
            for name in ("mt01234", "mtfoo", "mt012345"):
                kit.sh("ip", "tuntap", "add", "dev", name, "mode", "tap")
            self.w.kill()
            self.w.start()
            kit.wait_for("orphans to go", lambda: not os.path.exists(ours) and "mt01234:" not in kit.sh("ip", "-o", "link"), 15)
            links = kit.sh("ip", "-o", "link")
            want("mtfoo:" in links and "mt012345:" in links and os.path.exists(theirs), "something of a stranger was removed: %s" % links)
        finally:
            for name in ("mtfoo", "mt012345"):
                subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)
            if os.path.exists(theirs):
                os.unlink(theirs)
        want(self.w.describe(self.long["instance_id"])["phase"] == "ready", "the live VM suffered")

    def state_folder_lost(self):
        """With the state of all instances and the plan gone: without a plan no VM is killed; one whose jail says what it is goes on, one that cannot be known is begun anew."""
        wl = self.one_that_runs()
        kept, lost = self.w.describe(self.long["instance_id"]), self.w.describe(wl["instance_id"])
        self.w.kill()
        self.c.stop()
        shutil.rmtree(os.path.join(self.w.dir, "agent/instances"))
        for name in ("plan.json", "plan.prev.json"):
            if os.path.exists(os.path.join(self.w.dir, "agent", name)):
                os.unlink(os.path.join(self.w.dir, "agent", name))
        for name in ("state.json", "spec.json"):
            os.unlink(os.path.join(self.w.dir, "jail/qemu", lost["jail_id"], name))
        n = len(self.c.reports_of(self.long["instance_id"]))
        self.w.start()
        kit.wait_for("the known one to be adopted", lambda: self.w.describe(kept["instance_id"])["guest_connected"], 30)
        want(any(r["instance_id"] == kept["instance_id"] for r in self.w.log_events("instance.recovered")), self.w.log_events("instance.recovered"))
        time.sleep(4)  # a pass over what nothing explains is due 2 s after a start
        want(set(kept["pids"]) | set(lost["pids"]) <= set(self.w.vm_processes()), "killed without a plan: %s" % self.w.vm_processes())
        want(fetch(self.long["network"]["overlay_ipv6"]) == "moat", "the known one does not serve")
        self.c.start()
        self.c.wait_status(kept["instance_id"], "ready", 30, since=n)
        kit.wait_for("the unknown one to be begun anew", lambda: (lambda d: d["phase"] == "ready" and d["boot_id"] != lost["boot_id"])(self.w.describe(lost["instance_id"])), 90, 0.2)
        want(not set(lost["pids"]) & set(self.w.vm_processes()), "the unknown VM runs beside its successor")
        want(fetch(wl["network"]["overlay_ipv6"]) == "moat", "its successor does not serve")
        now = self.w.describe(kept["instance_id"])
        want([now[k] for k in ("pids", "boot_id", "boot_seq", "slot")] == [kept[k] for k in ("pids", "boot_id", "boot_seq", "slot")], (kept, now))
        self.gone(wl["instance_id"])

    def network_limits_hold_and_go_with_the_vm(self):
        """QEMU has none of its own: the tap holds them, each way. A flood is cut and counted, what somebody takes away is put back, nothing is left."""
        wl, _ = self.run_one(limits={"net_bytes_per_second": 1 << 20, "net_packets_per_second": 50})
        tap = "mt%05x" % self.w.describe(wl["instance_id"])["slot"]
        table = lambda: subprocess.run(["nft", "list", "table", "netdev", "moat-" + tap], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        text = table()
        want(text.count('device "%s"' % tap) == 2 and text.count("limit rate over 1 mbytes/second") == 2 and text.count("limit rate over 50/second burst 100 packets") == 2, text)

        def flood():
            while self.held:
                self.held.pop().close()
            for _ in range(300):
                s = socket.socket(socket.AF_INET6)
                s.setblocking(False)
                s.connect_ex((wl["network"]["overlay_ipv6"], 8080))
                self.held.append(s)
            to_guest = table().partition("chain to_guest")[2]
            return sum(int(n) for n in re.findall(r"counter packets (\d+)", to_guest)) >= 100
        self.held = []
        try:
            kit.wait_for("packets that are cut", flood, 20)
        finally:
            for s in self.held:
                s.close()
        kit.wait_for("an answer, when the bucket has something again", lambda: fetch(wl["network"]["overlay_ipv6"]) == "moat", 60, 1)
        kit.sh("nft", "delete", "table", "netdev", "moat-" + tap)
        kit.wait_for("its limits again", lambda: (self.w.ask({"op": "gc"}), table())[1], 40, 0.5)
        self.gone(wl["instance_id"])
        want(not table() and "moat-" + tap not in kit.sh("nft", "list", "tables"), "its limits are left")

    def ctl_tells_what_this_machine_knows(self):
        def ctl(*words, code=0):
            r = subprocess.run([os.path.join(kit.BIN, "moat-agent"), "--config", os.path.join(self.w.dir, "agent.toml"), "ctl", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            want(r.returncode == code, (words, r.returncode, r.stderr[-300:]))
            return [json.loads(l) for l in r.stdout.decode().splitlines()] if code == 0 else r.stderr.decode()
        i = self.long["instance_id"]
        kit.wait_for("the same list both ways, when nothing comes or goes", lambda: ctl("list") == self.w.ask({"op": "list"}), 20)
        want(any(r["instance_id"] == i for r in ctl("list")), ctl("list"))
        d = ctl("describe", i)[0]
        want((d["boot_id"], d["pids"]) == (self.w.describe(i)["boot_id"], self.w.describe(i)["pids"]), d)
        want(isinstance(ctl("console", i), list) and ctl("logs", i)[-1]["line"].startswith("testapp: serving"), ctl("logs", i)[-1:])
        said = [r["line"] for r in ctl("initlog", i)]
        want(any(l.endswith(" handshake -> running") for l in said) and all(re.match(r"\d+\.\d{3} ", l) for l in said), said)
        want("instance" in ctl("initlog", kit.new_id("inst"), code=1) and "inst" in ctl("initlog", "../etc", code=1), "no such instance")
        want({r["check"] for r in ctl("doctor")} == {r["check"] for r in self.w.ask({"op": "doctor"})}, "doctor")
        state = ctl("state", i)
        want(len(state) == 1 and state[0]["instance_id"] == i and state[0]["boot_id"] == d["boot_id"] and len(ctl("state")) >= 1, state)
        disk = ctl("verify-image", self.image[1])[0]
        want(disk["intact"] is True and os.path.exists(disk["disk"]), disk)
        stray = os.path.join(self.w.dir, "scratch", kit.ulid() + "-1.ext4")
        open(stray, "w").close()
        want(ctl("gc") == [{"begun": True}], "gc")
        kit.within("what nothing needs to go at once", lambda: not os.path.exists(stray), 20)  # by itself: every 30 s
        want("no state of" in ctl("state", kit.new_id("inst"), code=1) and "no root disk of" in ctl("verify-image", "sha256:" + "0" * 64, code=1), "what is not there")
        want("instance" in ctl("describe", kit.new_id("inst"), code=1) and "ctl list" in ctl("destroy", code=2), "what is not known")
        want("inst" in ctl("describe", "../../etc", code=1), "no id")
        # taken out of use from here: asked of the control plane, whose refusal or silence is told
        want(ctl("drain", 'a "new" disk') == [{"draining": True, "node_id": self.w.node_id}], "drain")
        asked = [p for p in self.c.posts if p[0].endswith("/drain")]  # reports come among them
        want(asked == [("/internal/v1/nodes/self/drain", {"reason": 'a "new" disk'})], asked)
        self.c.on_drain, taken = (409, {"code": "conflict", "detail": "node one is pending_approval, from which it cannot become draining", "more": "x" * 300}), self.c.on_drain
        said = ctl("drain", code=1)
        self.c.on_drain = taken
        want("refuses it: node one is pending_approval" in said, said)
        self.c.down = True
        try:
            said = ctl("drain", code=1)
        finally:
            self.c.down = False
        want("the control plane does not answer" in said and self.w.describe(i)["phase"] == "ready", said)

    def refuses_what_it_cannot_hold(self):
        wl = self.w.workload(self.image, memory=4 << 20)
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "booting", 20, status_detail="backoff")
        want(r["reason_code"] == "node_capacity_exceeded" and "memory" in r["reason_detail"], r)
        self.gone(wl["instance_id"])
        wl = self.w.workload(self.image, required_features=["teleport"])
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "failed", 20)
        want(r["reason_code"] == "spec_unsupported" and "required_features" in r["reason_detail"], r)
        self.gone(wl["instance_id"])
        wl = self.w.workload(self.image)
        wl["network"]["overlay_ipv6"] = "2001:db8::1"
        self.c.want(wl["instance_id"], workload=wl)
        r = self.c.wait_status(wl["instance_id"], "booting", 20, status_detail="backoff")
        want(r["reason_code"] == "network_setup_failed" and "address_not_local" in r["reason_detail"], r)
        self.gone(wl["instance_id"])

    def several_at_once(self):
        all_of = [self.w.workload(self.image) for _ in range(3)]
        for wl in all_of:
            self.c.want(wl["instance_id"], workload=wl)
        most = 0
        end = fair.now() + 60
        while fair.now() < end:
            rows = {r["instance_id"]: r["phase"] for r in self.w.ask({"op": "list"})}
            most = max(most, sum(rows.get(w["instance_id"]) == "booting" for w in all_of))
            if all(rows.get(w["instance_id"]) == "ready" for w in all_of):
                break
            time.sleep(0.05)
        else:
            raise AssertionError("not all became ready: %s" % rows)
        want(most <= os.cpu_count(), "%d boots at once on %d cores" % (most, os.cpu_count()))
        self.running += all_of

    def keeps_no_descriptors(self):
        while self.running:  # none, when all cases ran
            self.gone(self.running.pop()["instance_id"])
        fds = lambda: len(os.listdir("/proc/%d/fd" % self.w.proc.pid))
        kit.wait_for("fewer than 64 descriptors with one VM", lambda: fds() < 64, 20)
        print("  %d descriptors" % fds(), flush=True)

    def memory_is_small(self):
        with open("/proc/%d/smaps_rollup" % self.w.proc.pid) as f:
            pss = [int(l.split()[1]) for l in f if l.startswith("Pss:")][0]
        print("  Pss %d KiB" % pss, flush=True)
        want(pss <= 12 * 1024, "Pss %d KiB" % pss)

    def heartbeat_says_enough(self):
        b = kit.wait_for("a heartbeat that knows its driver", lambda: self.c.beats[-1]["vmm"]["driver"] != "probing" and self.c.beats[-1], 20)
        want(b["vmm"]["driver"] == "qemu" and b["vmm"]["accel"] in ("tcg", "kvm") and b["vmm"]["reason"], b["vmm"])
        want(b["allocatable"]["memory_bytes"] > 0 and b["used"]["memory_bytes"] >= 96 << 20, b)
        rows = {f["check"][6:]: f for f in self.w.ask({"op": "doctor"})}
        want(set(rows) >= {"vmm", "cgroups", "firewall", "tun", "folders", "disk", "mesh", "swap", "ksm", "smt", "inodes", "kernel", "nftables", "e2fsprogs", "forwarding",
                           "mounts", "uids", "clock", "nofile", "openat2", "memory"}, sorted(rows))
        bad = [f for f in rows.values() if not f["finding"] or (f["severity"] == "ok") != ("mend" not in f)]
        want(not bad, "each thing that is not fine comes with what mends it: %s" % bad)
        want(rows["forwarding"]["severity"] == "ok" and rows["kernel"]["finding"] == "Linux " + os.uname().release, (rows["forwarding"], rows["kernel"]))

    def memory_that_is_short_is_told(self):
        """By what /proc/meminfo says, which this test does: a condition, a flag, a line of the doctor; and when there is room again none of them."""
        fake = os.path.join(self.w.dir, "meminfo")
        says = lambda since, there: kit.wait_for("a heartbeat %s it" % ("with" if there else "without"), lambda: next((b for b in self.c.beats[since:] if (
            "memory_pressure" in b["conditions"], b["memory_pressure"]) == (there, there)), None), 40)
        row = lambda: next(f for f in self.w.ask({"op": "doctor"}) if f["check"] == "agent.memory")
        with open("/proc/meminfo") as f:
            total = int(f.readline().split()[1])

        def available(percent):
            """replaced in one piece: it is read at any moment"""
            with open(fake, "r+" if os.path.exists(fake) else "w") as out:
                out.write("MemTotal: %12d kB\nMemAvailable: %12d kB\n" % (total, total // 100 * percent))
        available(50)
        kit.sh("mount", "--bind", fake, "/proc/meminfo")
        try:
            says(len(self.c.beats), False)
            want(row()["severity"] == "ok" and row()["finding"].endswith(" MiB available"), row())
            n = len(self.c.beats)
            available(4)
            says(n, True)
            want(row()["severity"] == "warn" and "takes no new work" in row()["finding"] and row()["mend"], row())
            want(self.w.log_events("host.memory_short"), "it is not in the log")
            available(50)
            says(len(self.c.beats), False)
            kit.wait_for("the word that it is over", lambda: self.w.log_events("host.memory_there_again"), 20)
        finally:
            kit.sh("umount", "/proc/meminfo")

    def planned_end_leaves_nothing(self, before):
        got, rc = self.w.stop_all()
        want(got == [{"stopped": True, "clean": True}] and rc == 0, (got, rc))
        after = self.w.host()
        for key, value in before.items():
            want(after[key] == value, "%s: before %s after %s" % (key, value, after[key]))


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - agent with real VMs: needs root")
        return 0
    kit.own_network()
    kit.own_mounts()
    world = kit.World("vm")
    try:
        world.bundle()
        before = world.host()
        world.conf["listen_metrics"] = "127.0.0.1:9464"  # in a network of its own
        world.start()
        suite = Suite(world)
        only = sys.argv[1:]
        names = ["boots_to_ready", "second_start_is_quick_to_exec", "twenty_thousand_lines_a_second", "confined", "guarded_by_nft", "logs_are_read_and_followed",
                 "adopted_after_kill", "adopted_while_booting", "exit_codes", "exit_while_agent_is_away", "restarts_with_backoff",
                 "out_of_memory", "unhealthy_ends", "bad_image", "missing_program_and_metrics_say_what_happened", "vm_death_is_seen", "what_never_answers_is_killed",
                 "several_at_once", "replaced_in_place", "drain_waits_then_stops", "absence_needs_two_plans", "stale_and_foreign_plans", "control_away", "control_of_another_protocol", "cut_off_for_an_hour",
                 "heartbeat_says_enough", "memory_that_is_short_is_told", "table_comes_back", "orphans_go_and_strangers_stay", "state_folder_lost", "network_limits_hold_and_go_with_the_vm", "ctl_tells_what_this_machine_knows", "refuses_what_it_cannot_hold", "keeps_no_descriptors", "memory_is_small"]
        for name in names:
            if name in only or name == "boots_to_ready" or not only and name not in MEASURED:
                report.case("agent: " + name.replace("_", " "), getattr(suite, name))
        report.case("agent: planned end leaves nothing", suite.planned_end_leaves_nothing, before)
        if report.failed:
            print("agent log: " + world.tail(20), flush=True)
    finally:
        world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
