# SPDX-License-Identifier: Apache-2.0
"""The firecracker driver with the real binary, its jailer and KVM: what test_vmm_qemu.py asks of the other driver, and what differs.

Not a test itself. vmtool (tests/tools) is the agent here; cases follow each other, the first leaves its VM to the next ones.
"""
import json
import os
import subprocess
import time

import test_vmm_qemu as raw
from test_vmm_qemu import check

LIMITS = {"memory.max": str((128 + 96) << 20), "memory.swap.max": "0", "memory.oom.group": "1", "cpu.weight": "100", "pids.max": "128"}


def boots_the_bundle_to_hello(w):
    t = w.start()
    launched = t.wait("launched")["ms"]
    check(t.wait("guest_connected")["uid"] == raw.UID, "the vsock peer is not the VM's user")
    hello = t.wait("guest_said")
    w.hello_at = time.monotonic()
    check('"hello"' in hello["text"] and ("inst_" + raw.INSTANCE) in hello["text"], "not a hello: %s" % hello)
    print("# launched after %d ms, hello after %d ms" % (launched, hello["ms"]), flush=True)


def every_thread_is_confined(w):
    pids = raw.living(w).pids
    check([os.path.basename(os.readlink("/proc/%d/exe" % p)) for p in pids] == ["firecracker"], "pids %s" % pids)
    threads = {}
    for tid in os.listdir("/proc/%d/task" % pids[0]):
        s = raw.status("/proc/%d/task/%s/status" % (pids[0], tid))
        threads[s["Name"]] = s
        check(s["Uid"].split() == [str(raw.UID)] * 4 and s["Gid"].split() == [str(raw.UID)] * 4, "ids %s %s" % (s["Uid"], s["Gid"]))
        check(s["Groups"].strip() == "", "groups %r" % s["Groups"])
        for cap in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            check(int(s[cap], 16) == 0, "%s is %s" % (cap, s[cap]))
        check(s["NoNewPrivs"] == "1" and s["Seccomp"] == "2", "NoNewPrivs %s Seccomp %s" % (s["NoNewPrivs"], s["Seccomp"]))
    check(sorted(t for t in threads if not t.startswith("kvm-")) == ["fc_api", "fc_vcpu 0", "firecracker"], "threads are %s" % sorted(threads))
    for ns in ("mnt", "pid"):
        check(os.readlink("/proc/%d/ns/%s" % (pids[0], ns)) != os.readlink("/proc/self/ns/" + ns), "shares the %s namespace" % ns)
    with open("/proc/%d/limits" % pids[0]) as f:
        limits = f.read()
    check("Max open files            1024                 1024" in limits and "Max file size             unlimited" not in limits, limits)
    check(os.getsid(pids[0]) not in (os.getsid(0), os.getsid(w.tools[-1].p.pid)), "in the session of its starter")


def the_jail_is_all_it_sees(w):
    pid = raw.living(w).pids[0]
    top = sorted(os.listdir("/proc/%d/root" % pid))
    check(top == ["dev", "firecracker", "firecracker.pid", "initramfs", "root.ext4", "run", "scratch.ext4", "vmlinux"], "root holds %s" % top)
    dev = sorted(os.listdir("/proc/%d/root/dev" % pid))
    check(set(dev) - {"userfaultfd"} == {"kvm", "net", "urandom"}, "/dev holds %s" % dev)
    root = w.path("jail/%s/%s/root" % (w.kind, w.jail_id))
    for name, want in (("", (0, 0o750)), ("vmlinux", (0, 0o444)), ("root.ext4", (0, 0o444)), ("scratch.ext4", (raw.UID, 0o600)),
                       ("run", (raw.UID, 0o700)), ("firecracker.pid", (0, 0o644))):
        s = os.stat(os.path.join(root, name))
        check((s.st_uid, s.st_mode & 0o777) == want, "%s is %d %o" % (name or "the root folder", s.st_uid, s.st_mode & 0o777))


def the_cgroup_has_its_limits(w):
    raw.living(w)
    group = "/sys/fs/cgroup/%s/%s/" % (raw.PARENT, w.jail_id)
    for name, want in LIMITS.items():
        with open(group + name) as f:
            got = f.read().strip()
        check(got == want, "%s is %s, not %s" % (name, got, want))
    with open(group + "cgroup.procs") as f:
        procs = f.read().split()
    check(str(w.tools[-1].pids[0]) in procs, "firecracker is not in its cgroup: %s" % procs)
    names = []
    for pid in procs:
        with open("/proc/%s/comm" % pid) as f:
            names.append(f.read().strip())
    check("kvm-pit/1" in names, "the VM's PIT thread is charged to nobody: %s" % names)


def killing_firecracker_without_an_agent_ends_it(w):
    t = w.start()
    t.wait("launched")
    pids = t.pids
    w.end_tools()
    os.kill(pids[0], 9)
    raw.wait_dead(pids)
    e = w.call("adopt")
    check(e["event"] == "failed" and e["code"] == "not_found", "adopting a dead VM: %s" % e)
    raw.undo(w)


def an_agent_killed_at_the_record_leaves_nothing_that_runs_a_guest(w):
    hold = w.path("hold")
    open(hold, "w").close()
    t = w.start("--hold", hold)
    t.wait("recorded")
    pid = t.pids[0]
    t.crash()
    check(len(os.listdir("/proc/%d/task" % pid)) < 3, "a vCPU runs before it was recorded")
    os.unlink(hold)
    raw.undo(w)
    raw.wait_dead([pid])


def a_reused_pid_is_not_taken_over(w):
    t = w.start()
    t.wait("launched")
    w.end_tools()
    with open(w.path("state.json")) as f:
        state = json.load(f)
    other = subprocess.Popen(["sleep", "600"])
    try:
        state["procs"][0]["pid"] = other.pid
        with open(w.path("state.json"), "w") as f:
            json.dump(state, f)
        e = w.call("adopt")
        check(e["event"] == "failed" and e["code"] == "not_found", "adopted a stranger: %s" % e)
        check(other.poll() is None, "a stranger was killed")
        raw.wait_dead(t.pids)
    finally:
        other.kill()
        other.wait()
    raw.undo(w)


def a_failing_start_says_why_in_firecrackers_words(w):
    def refused(code, word, *extra):
        t = w.start(*extra)
        e = {"event": ""}
        while e["event"] not in ("failed", "closed", "launched"):
            e = t.events.get(timeout=600)
        check(e["event"] == "failed" and e["code"] == code and word in e["message"], "%s: %s" % (extra, e))
        print("# " + e["message"], flush=True)
        raw.undo(w)
    bad = w.path("not-a-kernel")
    with open(bad, "w") as f:
        f.write("no kernel here\n")
    os.chmod(bad, 0o444)
    refused("unavailable", "PUT /actions", "--kernel", bad)
    refused("unavailable", "Open tap device failed", "--tap", "mtnotap")


def probe_takes_firecracker_and_remembers(w):
    cache = w.path("vmm.json")
    args = ["--kernel", w.path("vmlinux"), "--initramfs", w.path("initramfs.cpio"), "--cache", cache,
            "--vsock-program", os.path.join(raw.BIN, "moat-vsock")]
    e = w.call("probe", *args)
    check(e["ok"] and (e["driver"], e["accel"]) == ("firecracker", "kvm"), "%s" % e)
    print("# " + e["reason"], flush=True)
    check("booted the bundle to hello" in e["reason"] and e["version"] in e["reason"] and not e["cached"], e["reason"])

    def once():
        start = time.monotonic()
        again = w.call("probe", *args)
        check(again["cached"] and again["reason"] == e["reason"], "the answer was not remembered: %s" % again)
        return time.monotonic() - start
    took, quick = raw.fair.best(once, lambda seen: min(seen) < 5, 1, 4)
    check(quick, "what is remembered took %s s" % took)
    os.unlink(cache)
    saved, w.driver = w.driver, w.driver + ["--firecracker", "/nowhere/firecracker"]
    e = w.call("probe", *args)
    w.driver = saved
    raw.undo(w)
    check(e["ok"] and (e["driver"], e["accel"]) == ("qemu", "kvm"), "without the binary: %s" % e)
    check("firecracker+kvm not taken: '/nowhere/firecracker' is missing" in e["reason"], e["reason"])


FIRECRACKER = [boots_the_bundle_to_hello, raw.monitor_answers_and_figures_are_there, every_thread_is_confined, the_jail_is_all_it_sees,
               the_cgroup_has_its_limits, raw.a_crashed_agent_takes_its_vm_back, raw.killed_by_name_alone,
               killing_firecracker_without_an_agent_ends_it, an_agent_killed_at_the_record_leaves_nothing_that_runs_a_guest,
               a_reused_pid_is_not_taken_over, raw.teardown_needs_only_the_name, raw.a_guest_that_ends_ends_the_unit,
               a_failing_start_says_why_in_firecrackers_words, probe_takes_firecracker_and_remembers]
QEMU = [c for c in raw.CASES if c is not raw.probe_decides_and_remembers]
