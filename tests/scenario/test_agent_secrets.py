#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Secrets from the agent into real microVMs: owner, mode and tmpfs, kept over crash of the agent and absence of the control
plane, every way in which it cannot be had, and the planted value in none of the node's files, logs and consoles.

It measures nothing: the guests have three times the usual time.
COST 40 s, 29 s of processor."""
import base64
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agentkit as kit  # noqa: E402
import imagekit  # noqa: E402
from imagekit import Report, want  # noqa: E402

HEADER = b"# MOAT_SECRETS_V1\n"
CANARY = b"cAnArY-5e1d-in-the-guest"
TMPFS = "1021994"
CONFIG = {"Entrypoint": ["/app"], "Cmd": ["serve", "8080"]}


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & (1 << 64) - 1
    return "%016x" % h


def forms(raw):
    out = {raw, raw.hex().encode()}
    for pad in range(3):
        out.add(base64.b64encode(b"x" * pad + raw)[4 if pad else 0:-4])
    return out


class Suite:
    def __init__(self, world, private):
        self.w, self.c = world, world.control
        self.image = world.push()
        self.private = private
        self.tmpfs = os.path.join(world.dir, "run/secrets")

    def start(self, content, secrets=None, status="ready", user=None, **more):
        version = kit.new_id("sv")
        wl = self.w.workload(self.image, command=["/app", "secret"],
                             secrets=dict({"required": True, "version_id": version}, **(secrets or {})), **more)
        if user:
            wl["user"] = user
        self.c.secrets[version] = ([wl["instance_id"]], content) if not isinstance(content, tuple) else content
        self.c.want(wl["instance_id"], workload=wl)
        return wl, version, self.c.wait_status(wl["instance_id"], status, 90) if status else None

    def said(self, wl, nth=1, seconds=20):
        def look():
            rows = [r["line"] for r in self.w.ask({"op": "logs", "instance_id": wl["instance_id"]}) if "secret " in r.get("line", "")]
            return rows[nth - 1] if len(rows) >= nth else None
        return kit.wait_for("the workload tells", look, seconds)

    def gone(self, wl):
        self.c.want(wl["instance_id"], "stopped")
        self.c.wait_status(wl["instance_id"], "stopped", 60)
        self.c.drop(wl["instance_id"])

    def exact_bytes_owner_and_mode(self):
        content = HEADER + b"A=" + CANARY + b"\nB=base64:AAH/\n"
        wl, version, _ = self.start(content)
        line = self.said(wl)
        want("uid 0 gid 0 mode 400 size %d sum %s dir 0:0 755 type %s" % (len(content), fnv(content), TMPFS) in line, line)
        flags = int(line.split(" flags ")[1].split()[0], 16)
        want(flags & 0xe == 0xe and int(line.split("blocks ")[1]) == 1 << 20, line)  # nosuid, nodev, noexec; 1 MiB
        want(self.c.asked == [(wl["instance_id"], version)], self.c.asked)
        return wl

    def the_user_of_the_process_owns_it(self):
        wl, _, _ = self.start(HEADER + b"A=1\n", user="1234:77", secrets={"mode": "0440"})
        want("uid 1234 gid 77 mode 440" in self.said(wl), self.said(wl))
        self.gone(wl)

    def the_largest_file_arrives(self):
        content = HEADER + b"".join(b"K%03d=" % i + b"v" * 8180 + b"\n" for i in range(32))[:262144 - len(HEADER) - 1] + b"\n"
        wl, _, _ = self.start(content)
        want("size %d sum %s" % (len(content), fnv(content)) in self.said(wl), self.said(wl))
        self.gone(wl)

    def none_means_no_file(self):
        wl = self.w.workload(self.image, command=["/app", "secret"])
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", 90)
        want(self.said(wl).endswith("secret none"), self.said(wl))
        self.gone(wl)

    def a_crash_starts_again_without_the_control_plane(self):
        content = HEADER + b"A=" + CANARY + b"-held\n"
        wl, version, _ = self.start(content)
        self.said(wl)  # ready is when it runs; killed before its line is here, it would have told once only
        want(os.listdir(self.tmpfs) and version in os.listdir(self.tmpfs), os.listdir(self.tmpfs))
        st = os.stat(os.path.join(self.tmpfs, version))
        want(st.st_mode & 0o7777 == 0o600 and st.st_uid == 0 and os.stat(self.tmpfs).st_mode & 0o7777 == 0o700, oct(st.st_mode))
        with open("/proc/self/mountinfo") as f:
            want(any(" %s " % self.tmpfs in l and " - tmpfs " in l for l in f), "not a tmpfs")
        asked = len(self.c.asked)
        self.w.kill()  # the agent
        self.c.stop()  # and the control plane
        for pid, name in self.w.vm_processes().items():
            if "qemu" in name:
                os.kill(pid, 9)
        try:
            self.w.start(**{"limits.patience": 3})
            kit.wait_for("a second start of the workload", lambda: self.w.describe(wl["instance_id"])["phase"] == "ready" and self.said(wl, 2, 90), 100)
            want("size %d sum %s" % (len(content), fnv(content)) in self.said(wl, 2), self.said(wl, 2))
        finally:
            self.c.start()
        want(len(self.c.asked) == asked, self.c.asked)
        self.gone(wl)
        kit.wait_for("wiped", lambda: not os.path.exists(os.path.join(self.tmpfs, version)), 20)

    def where_in_memory(self, raw):
        """How often any form of raw is in the agent's memory: (in pages that are locked and left out of dumps, elsewhere)."""
        pattern = re.compile(b"|".join(re.escape(f) for f in forms(raw)))
        found, region = [0, 0], None
        with open("/proc/%d/smaps" % self.w.proc.pid) as maps, open("/proc/%d/mem" % self.w.proc.pid, "rb", 0) as mem:
            for line in maps:
                m = re.match("([0-9a-f]+)-([0-9a-f]+) (r?)", line)
                if m:
                    region = (int(m[1], 16), int(m[2], 16), m[3])
                elif line.startswith("VmFlags:") and region[2] == "r":
                    flags = line.split()
                    try:
                        mem.seek(region[0])
                        data = mem.read(region[1] - region[0])
                    except (OSError, OverflowError, ValueError):  # vvar, vsyscall
                        continue
                    found[not ("lo" in flags and "dd" in flags)] += len(pattern.findall(data))
        return tuple(found)

    def held_in_locked_memory_and_wiped_from_it(self):
        marker = b"cAnArY-" + os.urandom(12).hex().encode()
        wl, version, _ = self.start(HEADER + b"".join(b"K%d=%s\n" % (i, marker * 200) for i in range(16)))
        self.said(wl)
        kit.wait_for("copies on the way are wiped", lambda: self.where_in_memory(marker)[1] == 0, 5)
        want(self.where_in_memory(marker)[0] > 0, "what is held was not found: the search is blind")
        self.gone(wl)
        kit.wait_for("wiped", lambda: not os.path.exists(os.path.join(self.tmpfs, version)), 20)
        kit.wait_for("no copy of it", lambda: self.where_in_memory(marker) == (0, 0), 20)

    def unused_versions_are_wiped(self):
        wl, a, _ = self.start(HEADER + b"A=1\n")
        wl2, b, _ = self.start(HEADER + b"A=2\n")
        want({a, b} <= set(os.listdir(self.tmpfs)), os.listdir(self.tmpfs))
        self.gone(wl2)
        kit.wait_for("one is wiped", lambda: b not in os.listdir(self.tmpfs), 20)
        want(a in os.listdir(self.tmpfs), "the other is gone too")
        self.gone(wl)
        kit.wait_for("the other", lambda: not os.path.exists(os.path.join(self.tmpfs, a)), 20)

    def refusals_have_their_detail_and_wait(self):
        for answer, detail in (((403, "forbidden"), "forbidden"), ((503, "master_key_unavailable"), "master_key_unavailable"),
                               ((500, "decrypt_failed"), "decrypt_failed"), ((500, "internal"), "unavailable")):
            wl, version, _ = self.start(answer, status=None)
            r = self.c.wait_status(wl["instance_id"], "booting", 30, reason_code="secrets_injection_failed")
            want(r["reason_detail"] == "%s: %s" % (detail, version), r)
            if detail == "unavailable":  # and it comes by itself once it can be had
                self.c.secrets[version] = ([wl["instance_id"]], HEADER + b"A=late\n")
                self.c.wait_status(wl["instance_id"], "ready", 90)
            self.c.want(wl["instance_id"], "stopped")
            self.c.wait_status(wl["instance_id"], "stopped", 60)
            self.c.drop(wl["instance_id"])

    def a_wrong_digest_is_refused(self):
        plain = self.c.secret
        try:
            self.c.secret = lambda body: (200, dict(plain(body)[1], sha256="0" * 64))
            wl, version, _ = self.start(HEADER + b"A=1\n", status=None)
            r = self.c.wait_status(wl["instance_id"], "booting", 30, reason_code="secrets_injection_failed")
            want(r["reason_detail"] == "hash_mismatch: " + version, r)
        finally:
            self.c.secret = plain
        self.gone(wl)

    def the_value_is_nowhere_on_the_node(self, wl):
        found = []
        tops = [self.w.dir]
        for top in tops:
            for d, _, names in os.walk(top):
                if d.startswith(self.tmpfs):
                    continue
                for n in names:
                    p = os.path.join(d, n)
                    if os.path.islink(p) or not os.path.isfile(p):
                        continue
                    try:
                        with open(p, "rb") as f:
                            data = f.read()
                    except FileNotFoundError:  # of an agent at work
                        continue
                    found += [p for v in forms(CANARY) if v in data]
        want(not found, found)
        for op in ({"op": "list"}, {"op": "describe", "instance_id": wl["instance_id"]}, {"op": "logs", "instance_id": wl["instance_id"]},
                   {"op": "console", "instance_id": wl["instance_id"]}):
            text = repr(self.w.ask(op)).encode()
            want(not any(v in text for v in forms(CANARY)), op)
        with open(os.path.join(self.w.dir, "planted"), "wb") as f:
            f.write(b"..." + base64.b64encode(b"xy" + CANARY))
        with open(os.path.join(self.w.dir, "planted"), "rb") as f:
            data = f.read()
        want(any(v in data for v in forms(CANARY)), "the search finds nothing at all")
        with open("/proc/%d/limits" % self.w.proc.pid) as f:
            want([l for l in f if l.startswith("Max core file size")][0].split()[4:6] == ["0", "0"], "core dumps")

    def a_private_image_is_pulled_with_the_credential_and_not_without(self):
        image = self.w.push(dict(CONFIG, Labels={"n": "private"}), "private", self.private)
        refused = self.w.workload(image)
        self.c.want(refused["instance_id"], workload=refused)
        r = self.c.wait_status(refused["instance_id"], "booting", 60, reason_code="image_pull_failed")
        want("auth" in r["reason_detail"], r)
        self.c.want(refused["instance_id"], "stopped")
        self.c.wait_status(refused["instance_id"], "stopped", 60)
        self.c.drop(refused["instance_id"])
        wl = self.w.workload(image)
        self.c.logins[wl["instance_id"]] = self.private
        self.c.want(wl["instance_id"], workload=wl)
        self.c.wait_status(wl["instance_id"], "ready", 90)
        asked = [b["instance_id"] for p, b in self.c.posts if p.endswith("/registry-credential")]
        want(asked.count(wl["instance_id"]) == 1, asked)
        again = self.w.workload(image)  # cached: nobody is asked
        self.c.want(again["instance_id"], workload=again)
        self.c.wait_status(again["instance_id"], "ready", 90)
        want(again["instance_id"] not in [b.get("instance_id") for p, b in self.c.posts if p.endswith("/registry-credential")], "asked for a cached image")
        for x in (wl, again):
            self.gone(x)
        for raw, where in ((open(self.w.log_path, "rb").read(), "log"), (open(os.path.join(self.w.dir, "state.json"), "rb").read() if os.path.exists(os.path.join(self.w.dir, "state.json")) else b"", "state")):
            want(self.private.login[1].encode() not in raw, "the password is in the " + where)

    def planned_end_leaves_nothing(self, before):
        got, rc = self.w.stop_all()
        want(got == [{"stopped": True, "clean": True}] and rc == 0, (got, rc))
        after = self.w.host()
        want(after["mounts"] == before["mounts"], after["mounts"])


def main():
    report = Report()
    if os.geteuid() != 0:
        print("skip - secrets into real VMs: needs root")
        return 0
    kit.own_network()
    world, private = kit.World("secrets"), None
    try:
        world.bundle()
        before = world.host()
        private = imagekit.Registry(os.path.join(world.dir, "private"), ("robot", "cAnArY-of-a-registry"))
        world.registries.append(private.host)
        world.start(**{"limits.patience": 3})
        s = Suite(world, private)
        kept = []
        report.case("agent secrets: exact bytes, owner and mode on a tmpfs of its own", lambda: kept.append(s.exact_bytes_owner_and_mode()))
        for name in ("the_user_of_the_process_owns_it", "the_largest_file_arrives", "none_means_no_file", "refusals_have_their_detail_and_wait",
                     "a_wrong_digest_is_refused", "held_in_locked_memory_and_wiped_from_it", "unused_versions_are_wiped", "a_private_image_is_pulled_with_the_credential_and_not_without", "a_crash_starts_again_without_the_control_plane"):
            report.case("agent secrets: " + name.replace("_", " "), getattr(s, name))
        if kept:
            report.case("agent secrets: the value is in no file, log, console or answer of the node", s.the_value_is_nowhere_on_the_node, kept[0])
        report.case("agent secrets: planned end leaves nothing", s.planned_end_leaves_nothing, before)
        if report.failed:
            print("agent log: " + world.tail(20), flush=True)
    finally:
        os.system("umount %s 2> /dev/null" % os.path.join(world.dir, "run/secrets"))
        world.close()
        if private:
            private.stop()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
