#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The firecracker driver against a strict stand-in of jailer and API socket.

No Firecracker runs here. The stand-in jailer refuses any other option order than that of runtime.md 7.3, builds the jail as the
real one does and becomes a confined process called `firecracker` that answers the API and writes down every request; the bodies
are then checked against the published API description (MOAT_FC_API, a swagger file), where that is at hand.
COST 8 s, 2 s of processor."""
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import fair

sys.dont_write_bytecode = True
ROOT = os.environ.get("MOAT_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("MOAT_BIN") or os.path.join(ROOT, "bin")
TOOL = os.environ.get("MOAT_VMTOOL") or os.path.join(ROOT, "build/tests/tools/vmtool")
SWAGGER = os.environ.get("MOAT_FC_API") or "/work/shared/data/firecracker-swagger.yaml"
SLOT = 77
UID = 200000 + SLOT
MIB = 1 << 20

JAILER = r'''#!/usr/bin/python3
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
conf = json.load(open(here + "/fake.json"))
a = sys.argv[1:]
if a == ["--version"]:
    print("Jailer v" + conf["jailer_version"]); sys.exit(0)
json.dump(a, open(here + "/argv.json", "w"))
if conf.get("jailer_fails"):
    sys.stderr.write("jailer: no such luck\n"); sys.exit(1)
order = ["--id", None, "--exec-file", None, "--uid", None, "--gid", None, "--chroot-base-dir", None, "--new-pid-ns",
         "--cgroup-version", "2", "--parent-cgroup", None] + ["--cgroup", None] * 6 + ["--resource-limit", None] * 2 + [
         "--", "--api-sock", "/run/api.sock", "--log-path", "/run/fc.log", "--level", "Warning", "--http-api-max-payload-size", "65536"]
if len(a) != len(order) or any(o not in (None, x) for o, x in zip(order, a)):
    sys.stderr.write("jailer: options differ from the contract\n"); sys.exit(2)
opt = dict(zip(a[0:10:2], a[1:10:2]))
root = "%s/%s/%s/root" % (opt["--chroot-base-dir"], os.path.basename(opt["--exec-file"]), opt["--id"])
uid = int(opt["--uid"])
for d in ("", "/run"):
    os.makedirs(root + d, exist_ok=True); os.chown(root + d, uid, uid); os.chmod(root + d, 0o700)
pid = os.fork()
if pid == 0:
    os.setsid()
    if conf.get("exec_fails"):
        sys.stderr.write("noise before it\n" * 300 + "Jailer error: Failed to exec into Firecracker: Permission denied (os error 13)\n"); sys.exit(1)
    os.execv(here + "/py/firecracker", ["firecracker", "-S", "-B", here + "/server.py", root, str(uid), here])
with open(root + "/firecracker.pid", "w") as f:
    f.write(str(pid))
'''

SERVER = r'''
import ctypes, json, os, socket, struct, sys
root, uid, here = sys.argv[1], int(sys.argv[2]), sys.argv[3]
conf = json.load(open(here + "/fake.json"))
log = open(here + "/requests", "a", buffering=1)
libc = ctypes.CDLL(None, use_errno=True)
os.chroot(root); os.chdir("/")
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if not conf.get("unconfined"):
    allow = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)  # BPF_RET, SECCOMP_RET_ALLOW
    code = ctypes.create_string_buffer(allow)
    prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
    if libc.prctl(PR_SET_SECCOMP, FILTER, prog, 0, 0) != 0:
        sys.exit("seccomp")
os.write(1, b"guest console line\n")
srv = socket.socket(socket.AF_UNIX)
if not conf.get("silent"):
    srv.bind("/run/api.sock"); srv.listen(8)
else:
    import time; time.sleep(60)
state = "Not started"
while True:
    c, _ = srv.accept()
    f = c.makefile("rb")
    while True:
        line = f.readline()
        if not line:
            break
        method, target, _ = line.decode().split(" ", 2)
        length = 0
        while True:
            h = f.readline().strip().lower()
            if not h:
                break
            if h.startswith(b"content-length:"):
                length = int(h.split(b":")[1])
        body = f.read(length).decode()
        log.write(json.dumps([method, target, json.loads(body) if body else None]) + "\n")
        status, reply = "204 No Content", ""
        if method == "GET":
            status = "200 OK"
            state = conf.get("state", state)
            reply = json.dumps({"firecracker_version": conf["version"]} if target == "/version" else
                               {"app_name": "Firecracker", "id": "x", "state": state, "vmm_version": conf["version"]})
        elif conf.get("refuse") == target:
            status, reply = "400 Bad Request", json.dumps({"fault_message": "The vsock device \x1b[31m is unhappy" + " very" * 200})
        elif target == "/actions":
            state = "Running"
            if conf.get("chatty"):
                os.set_blocking(1, False)
                for i in range(4000):
                    try:
                        os.write(1, b"%063d\n" % i)
                    except BlockingIOError:
                        pass
        head = "HTTP/1.1 %s\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n" % status
        if reply:
            head += "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(reply)
        c.sendall((head + "\r\n" + reply).encode())
    c.close()
'''


def check(ok, text):
    if not ok:
        raise AssertionError(text)


def missing():
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists(TOOL):
        return "not built: " + TOOL
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        return "/dev/kvm: %s (the driver wants it open, the stand-in does not use it)" % e.strerror
    return None


class World:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="moat-fc-", dir="/var/tmp")
        os.chmod(self.dir, 0o755)
        for d in ("jail", "fake", "fake/py", "cg"):
            os.mkdir(self.path(d), 0o755)
        for name in ("vmlinux", "initramfs", "root.ext4", "scratch.ext4", "vol"):
            with open(self.path(name), "wb") as f:
                f.truncate(3 * MIB if name == "scratch.ext4" else 2 * MIB)
            os.chmod(self.path(name), 0o600 if name in ("scratch.ext4", "vol") else 0o444)
        self.program("fake/jailer", JAILER)
        # the driver asks this file for its version; what runs is a copy of Python under the same name
        self.program("fake/firecracker", "#!/bin/sh\nexec cat %s\n" % self.path("fake/version"))
        shutil.copy(os.path.realpath("/usr/bin/python3"), self.path("fake/py/firecracker"))
        self.program("fake/server.py", SERVER)
        with open(self.path("mountinfo"), "w") as f:
            f.write("30 1 0:26 / %s rw - cgroup2 cgroup2 rw\n" % self.path("cg"))
        with open(self.path("cg/cgroup.controllers"), "w") as f:
            f.write("cpuset cpu io memory pids\n")
        self.boots = 0
        self.tools = []
        self.conf()

    def path(self, name):
        return os.path.join(self.dir, name)

    def program(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        os.chmod(self.path(name), 0o755)

    def conf(self, version="1.16.1", jailer_version=None, **extra):
        with open(self.path("fake/version"), "w") as f:
            f.write("Firecracker v%s\n\nSupported snapshot data format versions: 8\n" % version)
        with open(self.path("fake/fake.json"), "w") as f:
            json.dump(dict(extra, version=version, jailer_version=jailer_version or version), f)
        for f in ("requests", "argv.json"):
            if os.path.exists(self.path("fake/" + f)):
                os.unlink(self.path("fake/" + f))

    def base(self, jail="jail"):
        return ["--jail-base", self.path(jail), "--firecracker", self.path("fake/firecracker"), "--jailer", self.path("fake/jailer"),
                "--mountinfo", self.path("mountinfo"), "--state", self.path("state.json")]

    def start(self, *extra, jail="jail"):
        self.boots += 1
        self.jail_id = "01hyyyyyyyyyyyyyyyyyyyyyyy-%d" % self.boots
        if "--patience" not in extra:
            extra += ("--patience", "20")  # the stand-in is Python and has 3 s otherwise: on a full machine not enough
        t = Tool(["run"] + self.base(jail) + ["--kernel", self.path("vmlinux"), "--initramfs", self.path("initramfs"), "--root",
                 self.path("root.ext4"), "--scratch", self.path("scratch.ext4"), "--console", self.path("console.ring"), "--id",
                 self.jail_id, "--slot", str(SLOT), "--boot-args", "console=ttyS0 quiet moat.proto=1"] + list(extra))
        self.tools.append(t)
        return t

    def call(self, what):
        r = subprocess.run([TOOL, what] + self.base(), stdout=subprocess.PIPE, text=True, timeout=300)
        return json.loads(r.stdout.strip().splitlines()[-1])

    def requests(self):
        try:
            with open(self.path("fake/requests")) as f:
                return [json.loads(line) for line in f]
        except FileNotFoundError:
            return []

    def undo(self):
        for t in self.tools:
            t.crash()
        self.tools = []
        e = self.call("teardown")
        check(e["event"] == "gone", "teardown: %s" % e)
        d = self.path("jail/firecracker")
        check(not os.path.isdir(d) or not os.listdir(d), "jail left: %s" % d)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/status" % pid) as f:
                    s = f.read()
                if not os.readlink("/proc/%s/exe" % pid).startswith(self.dir):
                    continue  # an agent of another test may give a VM of its own the same slot
            except OSError:
                continue
            check("\nUid:\t%d\t" % UID not in s or "\nState:\tZ" in s, "process %s is left" % pid)

    def close(self):
        for t in self.tools:
            t.crash()
        if os.path.exists(self.path("state.json")):
            self.call("teardown")
        shutil.rmtree(self.dir, ignore_errors=True)


class Tool:
    def __init__(self, argv):
        self.p = subprocess.Popen([TOOL] + argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.events = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.p.stdout:
            self.events.put(json.loads(line))
        self.events.put({"event": "closed"})

    def wait(self, *names, limit=180):
        while True:
            e = self.events.get(timeout=limit)
            if e["event"] in names:
                return e
            check(e["event"] not in ("failed", "closed"), "wanted %s, got %s" % (names, e))

    def ask(self, command):
        self.p.stdin.write(command + "\n")
        return self.wait("done", "failed")

    def crash(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


def limiter(size, refill):
    return {"rate_limiter": {"bandwidth": {"size": size, "refill_time": refill}}}


def drive(name, file, ro, cache, **extra):
    return ["PUT", "/drives/" + name, dict({"drive_id": name, "path_on_host": "/" + file, "is_root_device": False, "is_read_only": ro,
                                            "cache_type": cache, "io_engine": "Sync"}, **extra)]


def expected(volume=False, tap=None, mtu=False, serial=False, scratch=None, net=None):
    calls = [["GET", "/version", None],
             ["PUT", "/machine-config", {"vcpu_count": 2, "mem_size_mib": 200, "smt": False, "track_dirty_pages": False}],
             ["PUT", "/boot-source", {"kernel_image_path": "/vmlinux", "initrd_path": "/initramfs",
                                      "boot_args": "console=ttyS0 quiet moat.proto=1"}],
             drive("root", "root.ext4", True, "Unsafe"), drive("scratch", "scratch.ext4", False, "Unsafe", **(scratch or {}))]
    if volume:
        calls.append(drive("vol0", "vol0", False, "Writeback"))
    if tap:
        nic = {"iface_id": "eth0", "host_dev_name": tap, "guest_mac": "02:fc:00:00:00:02"}
        if mtu:
            nic["mtu"] = 1420
        nic.update(net or {})
        calls.append(["PUT", "/network-interfaces/eth0", nic])
    calls += [["PUT", "/vsock", {"guest_cid": 3, "uds_path": "/run/v.sock"}], ["PUT", "/entropy", limiter(65536, 1000)]]
    if serial:
        calls.append(["PUT", "/serial", {"rate_limiter": {"size": 16384, "one_time_burst": 65536, "refill_time": 1000}}])
    calls.append(["PUT", "/actions", {"action_type": "InstanceStart"}])
    return calls


def compare(got, want):
    for i, (g, e) in enumerate(zip(got, want)):
        check(g == e, "call %d is %s, expected %s" % (i + 1, g, e))
    check(len(got) == len(want), "%d calls, expected %d: %s" % (len(got), len(want), got[len(want):]))


# ---- cases ----

def api_calls_come_in_order_with_exact_bodies(w):
    for version, mtu, serial in (("1.12.1", False, False), ("1.16.1", True, False), ("1.17.0-dev", True, True)):
        w.conf(version)
        t = w.start("--mem", "200", "--vcpus", "2", "--tap", "mt0004d", "--volume", w.path("vol"))
        t.wait("launched")
        compare(w.requests(), expected(volume=True, tap="mt0004d", mtu=mtu, serial=serial))
        w.undo()
    w.conf()
    t = w.start("--mem", "200", "--vcpus", "2", "--disk-bps", "1000")
    t.wait("launched")
    compare(w.requests(), expected(scratch=limiter(2000, 2000)))
    w.undo()
    w.conf()
    t = w.start("--mem", "200", "--vcpus", "2", "--tap", "mt0004d", "--net-bps", "5000", "--net-pps", "70")
    t.wait("launched")
    bucket = {"bandwidth": {"size": 10000, "refill_time": 2000}, "ops": {"size": 140, "refill_time": 2000}}
    compare(w.requests(), expected(tap="mt0004d", mtu=True, net={"rx_rate_limiter": bucket, "tx_rate_limiter": bucket}))
    w.undo()


def jailer_options_are_the_golden_ones_and_the_jail_stays_roots(w):
    w.conf()
    t = w.start("--mem", "200")
    t.wait("launched")
    s = os.stat(w.path("jail/firecracker/%s/root" % w.jail_id))  # the jailer gave it to the VM
    check((s.st_uid, s.st_gid, s.st_mode & 0o777) == (0, UID, 0o750), "the jail's root is %d:%d %o" % (s.st_uid, s.st_gid, s.st_mode & 0o777))
    with open(w.path("fake/argv.json")) as f:
        argv = json.load(f)
    with open(os.path.join(ROOT, "tests/unit/vmm/jailer.argv")) as f:
        golden = f.read().split("\n")
    golden = [g.replace("@JAIL_ID@", w.jail_id).replace("@FIRECRACKER@", w.path("fake/firecracker")).replace("@BASE@", w.path("jail"))
              for g in golden if g]
    for i, (a, b) in enumerate(zip(argv, golden)):
        check(a == b, "option %d is %r, golden %r" % (i + 1, a, b))
    check(len(argv) == len(golden), "%d options, golden %d" % (len(argv), len(golden)))
    w.undo()


def definitions(text):
    """{definition: (required, {property: (type, enum)})} of a swagger file, by indentation"""
    out, name, part, prop = {}, None, None, None
    for line in text[text.index("\ndefinitions:") + 1:].split("\n")[1:]:
        if re.match(r"^  \w+:$", line):
            name, part = line.strip()[:-1], None
            out[name] = ([], {})
        elif re.match(r"^    \w+:", line):
            part = line.strip().split(":")[0]
        elif part == "required" and line.startswith("      - "):
            out[name][0].append(line.strip()[2:])
        elif part == "properties" and re.match(r"^      \w+:$", line):
            prop = line.strip()[:-1]
            out[name][1][prop] = {}
        elif part == "properties" and re.match(r"^        (type|\$ref|enum):", line):
            key, value = line.strip().split(":", 1)
            out[name][1][prop][key] = value.strip().strip('"')
    return out


def bodies_fit_the_published_api(w):
    if not os.path.exists(SWAGGER):
        return "no API description at " + SWAGGER
    with open(SWAGGER) as f:
        text = f.read()
    defs = definitions(text)
    types = {"string": str, "boolean": bool, "integer": int, "object": dict, "array": list}

    def fits(value, name, where):
        required, props = defs[name]
        for r in required:
            check(r in value, "%s lacks %s" % (where, r))
        for k, v in value.items():
            check(k in props, "%s has %s, which %s does not know" % (where, k, name))
            if "$ref" in props[k] and isinstance(v, dict):
                fits(v, props[k]["$ref"].split("/")[-1], where + "." + k)
            elif "type" in props[k]:
                check(type(v) is types[props[k]["type"]], "%s.%s is not a %s" % (where, k, props[k]["type"]))
            if "enum" in props[k] and props[k]["enum"].startswith("["):
                check(str(v) in re.findall(r"\w+", props[k]["enum"]), "%s.%s = %s is not in the enum" % (where, k, v))

    model = {"/machine-config": "MachineConfiguration", "/boot-source": "BootSource", "/drives": "Drive",
             "/network-interfaces": "NetworkInterface", "/vsock": "Vsock", "/entropy": "EntropyDevice", "/serial": "SerialDevice",
             "/actions": "InstanceActionInfo"}
    w.conf("1.17.0")
    t = w.start("--mem", "200", "--tap", "mt0004d", "--volume", w.path("vol"), "--disk-bps", "5000")
    t.wait("launched")
    seen = set()
    for method, target, body in w.requests():
        if method != "PUT":
            continue
        head = "/" + target.split("/")[1]
        seen.add(head)
        fits(body, model[head], target)
    check(seen == set(model), "only %s was called" % sorted(seen))
    w.undo()


def refusal_keeps_firecrackers_words_and_leaves_nothing(w):
    w.conf(refuse="/vsock")
    e = w.start().wait("failed", "launched")
    check(e["event"] == "failed" and e["code"] == "unavailable", "%s" % e)
    check("400 to PUT /vsock" in e["message"] and "The vsock device ?[31m is unhappy" in e["message"], e["message"])
    check(w.requests()[-1][1] == "/vsock", "calls went on after the refusal")
    w.undo()


def failing_jailer_is_reported_with_its_words(w):
    w.conf(jailer_fails=True)
    e = w.start().wait("failed", "launched")
    check(e["event"] == "failed" and "exit 1" in e["message"] and "no such luck" in e["message"], "%s" % e)
    w.undo()


def a_monitor_that_ends_at_once_is_reported_at_once_with_the_systems_word(w):
    w.conf(exec_fails=True)
    start = fair.now()
    e = w.start("--patience", "30").wait("failed", "launched")  # patience: 90 s for the API
    check(e["event"] == "failed" and e["code"] in ("unavailable", "not_found"), "%s" % e)
    check("ended" in e["message"] and "Failed to exec into Firecracker: Permission denied (os error 13)" in e["message"], e["message"])
    check(fair.now() - start < 20, "waited for a dead process")
    w.undo()


def unconfined_monitor_is_killed(w):
    w.conf(unconfined=True)
    e = w.start().wait("failed", "launched")
    check(e["event"] == "failed" and e["code"] == "denied" and "Seccomp is not 2" in e["message"], "%s" % e)
    w.undo()


def silent_api_times_out(w):
    w.conf(silent=True)
    start = fair.now()
    e = w.start("--patience", "1").wait("failed", "launched")
    check(e["event"] == "failed" and "did not answer in 3000 ms" in e["message"], "%s" % e)
    check(fair.now() - start < 8, "took too long")
    w.undo()


def versions_are_checked(w):
    for version, jailer, word in (("1.11.4", None, "1.12 or newer"), ("1.16.1", "1.16.0", "from one release"), ("x", None, "not a firecracker")):
        w.conf(version, jailer)
        e = w.start().wait("failed", "launched")
        check(e["event"] == "failed" and e["code"] == "invalid" and word in e["message"], "%s: %s" % (version, e))
    w.conf()


def only_listed_monitors_are_taken(w):
    """runtime.md §22: with a list each of the two programs has to be in it, by the sum of its bytes."""
    sums = []
    for name in ("firecracker", "jailer"):
        with open(w.path("fake/" + name), "rb") as f:
            sums.append(hashlib.sha256(f.read()).hexdigest())
    for listed, missing in (([sums[0]], 1), ([sums[1]], 0), (["0" * 64], 0)):
        e = w.start(*[x for s in listed for x in ("--listed", s)]).wait("failed", "launched")
        check(e["event"] == "failed" and e["code"] == "invalid" and "vmm_sha256" in e["message"] and sums[missing] in e["message"], e)
    t = w.start("--listed", "0" * 64, "--listed", sums[1], "--listed", sums[0])
    check(t.wait("launched", "failed")["event"] == "launched", "both are listed")
    w.undo()


def a_cpu_template_comes_before_the_kernel(w):
    path, body = w.path("template.json"), {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [{"register": "eax", "bitmap": "0bx000"}]}]}
    for text, mode, word in (("[]", 0o644, "no object"), ("{", 0o644, "template"), (json.dumps(body), 0o666, "nobody else")):
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        e = w.start("--cpu-template", path).wait("failed", "launched")
        check(e["event"] == "failed" and word in e["message"], e)
    os.chmod(path, 0o644)
    w.conf()
    w.start("--mem", "200", "--vcpus", "2", "--cpu-template", path).wait("launched")
    calls = expected()
    compare(w.requests(), calls[:2] + [["PUT", "/cpu-config", body]] + calls[2:])
    w.undo()


def too_long_a_path_is_refused_at_once(w):
    deep = "jail/" + "d" * 60
    e = w.start(jail=deep).wait("failed", "launched")
    check(e["event"] == "failed" and e["code"] == "limit" and "107 bytes" in e["message"], "%s" % e)
    check(not os.path.exists(w.path(deep)), "it made the folder all the same")


def pid_is_recorded_before_the_first_call(w):
    hold = w.path("hold")
    w.conf()
    open(hold, "w").close()
    t = w.start("--hold", hold)
    pid = t.wait("recorded")["pids"][0]
    check(w.requests() == [], "called before it was recorded")
    end = fair.now() + fair.LEAST  # the jailer names the process just before it becomes firecracker
    while os.path.basename(os.readlink("/proc/%d/exe" % pid)) != "firecracker":
        check(fair.now() < end, "recorded another process")
        time.sleep(0.01)
    os.unlink(hold)
    t.wait("launched")
    check(len(w.requests()) > 5, "no calls after the record")
    w.undo()


def a_crashed_agent_takes_its_vm_back(w):
    w.conf(chatty=True)
    t = w.start()
    pid = t.wait("recorded")["pids"][0]
    t.wait("launched")
    t.crash()
    t = Tool(["adopt"] + w.base())
    w.tools.append(t)
    t.wait("adopted")
    check(t.ask("check")["event"] == "done", "not alive")
    t.p.stdin.write("console\n")
    e = t.wait("console")
    # 4000 lines of 64 bytes went into a FIFO of 64 KiB that nobody read: the first ones are there, the monitor never waited
    check(60000 < e["len"] <= 65536, "console has %d bytes" % e["len"])
    os.kill(pid, signal.SIGKILL)
    t.wait("ended")
    w.undo()


def a_vm_that_does_not_run_fails_its_check(w):
    w.conf(state="Paused")
    t = w.start()
    t.wait("launched")
    e = t.ask("check")
    check(e["event"] == "failed" and "Paused" in e["message"], "%s" % e)
    w.undo()


CASES = [api_calls_come_in_order_with_exact_bodies, jailer_options_are_the_golden_ones_and_the_jail_stays_roots, bodies_fit_the_published_api,
         refusal_keeps_firecrackers_words_and_leaves_nothing, failing_jailer_is_reported_with_its_words,
         a_monitor_that_ends_at_once_is_reported_at_once_with_the_systems_word, unconfined_monitor_is_killed,
         silent_api_times_out, versions_are_checked, only_listed_monitors_are_taken, a_cpu_template_comes_before_the_kernel, too_long_a_path_is_refused_at_once, pid_is_recorded_before_the_first_call,
         a_crashed_agent_takes_its_vm_back, a_vm_that_does_not_run_fails_its_check]


def main():
    why = missing()
    if why:
        print("skip - the firecracker driver against a stand-in: " + why)
        return 0
    failed = 0
    w = World()
    try:
        for case in CASES:
            name = case.__name__.replace("_", " ")
            try:
                why = case(w)
                print("skip - %s: %s" % (name, why) if why else "ok - " + name, flush=True)
            except Exception as e:  # every case is reported, whatever it trips over
                failed += 1
                print("not ok - %s: %s: %s" % (name, type(e).__name__, e), flush=True)
                for t in w.tools:
                    t.crash()
                w.tools = []
                w.call("teardown")
    finally:
        w.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
