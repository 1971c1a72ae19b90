# SPDX-License-Identifier: Apache-2.0
"""The Debian packages on a host that has none of moat: what is done with them there, step by step, by whatever monitor runs the VMs. Not a test itself:
tests/scenario/test_packages_host.py does it on a host of namespaces of this machine with QEMU.

The next version is a build of its own number whose moat-control has one migration more. Outside are made: the packages, an empty PostgreSQL data folder, the
kernel bundle that moat-bundle.service then finds in its place, a registry with the example's image.
"""
import json
import os
import pwd
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time

import backupkit
import fair
from platform_kit import BIN, ROOT, Cases

ONE, TWO = "0.1.0", "0.2.0"
NAMES = ("moat", "moat-control", "moat-agent", "moat-edge")
UNITS = ("moat-control.service", "moat-agent.service", "moat-edge.service", "moat-bundle.service")
HOST = "hello.moat.test"
PG = "/usr/lib/postgresql/15/bin"
LONG = 120
PATIENCE = int(os.environ.get("MOAT_PATIENCE") or 1)  # an emulated host
APT = ("-o", "Dir::State::Lists=/run/home/lists", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Options::=--no-triggers",
       "-o", "Dpkg::Options::=--force-unsafe-io")


def next_version(folder):
    """The programs as of another version: its number in all of them, moat-control with one migration more."""
    os.mkdir(folder)
    for n in os.listdir(BIN):
        source = os.path.join(os.environ.get("MOAT_BUILD") or ROOT + "/build", "tests/tools/moat-control-next") if n == "moat-control" else os.path.join(BIN, n)
        with open(source, "rb") as f:
            data = f.read()
        with open(os.path.join(folder, n), "wb") as f:
            f.write(data.replace(ONE.encode(), TWO.encode()))
        os.chmod(os.path.join(folder, n), 0o755)


def prepare(folder, cache="/var/cache/moat", bundles=(ONE,)):
    """What is not the packages' own work. @cache: the kernel package is there. @bundles: the versions whose kernel bundle a host then has; what it has not it
    makes itself."""
    import imagekit
    tool = ROOT + "/packaging/deb/build"
    next_version(folder + "/next")
    for argv in (["genpkey", "-algorithm", "ed25519", "-out", "/release.pem"], ["pkey", "-in", "/release.pem", "-pubout", "-out", "/release.pub"]):
        subprocess.run(["openssl", *(folder + x if x.startswith("/") else x for x in argv)], check=True, stdout=subprocess.DEVNULL)
    for v, programs in ((ONE, BIN), (TWO, folder + "/next")):
        subprocess.run([tool, "--bin", programs, "--out", "%s/%s" % (folder, v), "--version", v, "--compress", "none", "--sign-key", folder + "/release.pem"], check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(cache, folder + "/cache")  # what the unit finds needs no network
    for v in bundles:
        tree = "%s/tree-%s" % (folder, v)
        subprocess.run(["dpkg-deb", "-x", "%s/%s/moat-agent_%s_amd64.deb" % (folder, v, v), tree], check=True)
        subprocess.run([tree + "/usr/lib/moat/bundle/make-bundle", "--init", tree + "/usr/lib/moat/moat-init", "--out", folder + "/boot", "--cache", folder + "/cache"],
                       check=True, stdout=subprocess.DEVNULL)
    subprocess.run([ROOT + "/examples/hello/build-image", folder + "/example", "--hostname", HOST], check=True, stdout=subprocess.DEVNULL)
    registry = imagekit.Registry(folder + "/registry")
    try:
        registry.push(folder + "/example/oci:latest", "hello:t")
    finally:
        registry.stop()
    with open(folder + "/registry/host", "w") as f:
        f.write(registry.host)
    os.mkdir(folder + "/pg")
    shutil.chown(folder + "/pg", "postgres", "postgres")
    subprocess.run(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", PG + "/initdb", "-D", folder + "/pg", "-A", "peer", "-E", "UTF8",
                    "--locale=C.UTF-8", "-N"], check=True, stdout=subprocess.DEVNULL)


def sh(*argv, code=0, **kw):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if code is not None and r.returncode != code:
        raise AssertionError("%s: status %d: %s" % (" ".join(argv[:5]), r.returncode, r.stdout.strip()[-700:]))
    return r.stdout


def wait_for(what, fn, seconds=LONG, shown=None):
    """When it comes is not the claim."""
    seconds = fair.limit(seconds * PATIENCE)
    end = fair.now() + seconds
    while True:
        got = fn()
        if got:
            return got
        if fair.now() > end:
            raise AssertionError("%s: not in %d s; %s" % (what, seconds, shown() if shown else ""))
        time.sleep(0.2)


def property_of(unit, name):
    return sh("systemctl", "show", "-P", name, unit).strip()


def started(pid):
    """(pid, when it began): one that has it anew is another process"""
    with open("/proc/%d/stat" % pid) as f:
        return pid, f.read().rsplit(") ", 1)[1].split()[19]


def running(name):
    """Every process of a program, and whether its file is still the one on disk; not its children that have not become another program yet."""
    found, parent = {}, {}
    for d in filter(str.isdigit, os.listdir("/proc")):
        try:
            exe = os.readlink("/proc/%s/exe" % d)
            if os.path.basename(exe.split(" ")[0]) == name:
                with open("/proc/%s/stat" % d) as f:
                    parent[int(d)] = int(f.read().rsplit(") ", 1)[1].split()[1])
                found[started(int(d))] = not exe.endswith("(deleted)")
        except OSError:
            pass
    return {p: f for p, f in found.items() if parent[p[0]] not in parent}


def files():
    """What a package, its scripts or its daemons could have made: every name in the folders that are shared, and all below what has our name or is the package
    tools' memory of us. Not all below everything: each file that is looked at costs the share of this host's root a descriptor."""
    out = set()
    for top in ("/", "/etc", "/run", "/var/lib", "/var/cache", "/var/log", "/var/spool", "/srv", "/opt", "/root", "/usr", "/usr/lib", "/usr/bin", "/usr/sbin", "/usr/lib/sysusers.d",
                "/usr/lib/tmpfiles.d", "/lib/systemd/system", "/usr/share/doc", "/usr/share/man/man1", "/usr/share/man/man8", "/usr/share", "/var/lib/systemd",
                "/usr/share/bash-completion/completions", "/usr/share/fish/vendor_completions.d", "/usr/share/zsh/vendor-completions", "/var/lib/dpkg/info", "/etc/cron.d",
                "/etc/default", "/etc/init.d", "/etc/logrotate.d", "/etc/sysctl.d", "/etc/modules-load.d", "/dev"):
        out.update(os.path.join(top, n) for n in (os.listdir(top) if os.path.isdir(top) else []))
    for top in [x for x in out if "moat" in x] + ["/etc/systemd", "/run/systemd/system", "/run/systemd/transient", "/var/lib/systemd/deb-systemd-helper-enabled",
                                                  "/var/lib/systemd/deb-systemd-helper-masked"]:
        for d, dirs, names in os.walk(top):
            out.update(os.path.join(d, x) for x in dirs + names)
    return out


def machine():
    """What of the running machine a package could leave: name of the kind to a set."""
    with open("/proc/self/mounts") as f:
        mounts = {x.split()[1] for x in f}
    cgroups = {os.path.join(d, x) for d, dirs, _ in os.walk("/sys/fs/cgroup") for x in dirs if "moat" in x or "moat" in d}
    with open("/etc/passwd") as f:
        users = {x.split(":")[0] for x in f}
    with open("/etc/group") as f:
        groups = {x.split(":")[0] for x in f}
    return {"links": {x["ifname"] for x in json.loads(sh("ip", "-j", "link"))}, "addresses": {a["local"] for x in json.loads(sh("ip", "-j", "addr")) for a in x["addr_info"]},
            "nft tables": set(sh("nft", "list", "tables").splitlines()), "rules": set(sh("ip", "rule").splitlines()) | set(sh("ip", "-6", "rule").splitlines()),
            "routes": set(sh("ip", "-6", "route", "show", "table", "all").splitlines()), "mounts": mounts, "cgroups": cgroups, "users": users, "groups": groups,
            "units": {x.split()[0] for x in sh("systemctl", "list-unit-files", "--no-legend", "--no-pager", "moat*", code=None).splitlines() if x.startswith("moat")},
            "processes": {n for p in filter(str.isdigit, os.listdir("/proc")) for n in [comm(p)] if n.startswith(("moat", "qemu", "firecracker"))}}


def comm(pid):
    try:
        with open("/proc/%s/comm" % pid) as f:
            return f.read().strip()
    except OSError:
        return ""


class Watch(threading.Thread):
    """Every VM of an instance that there is in the meantime, if for @rest seconds."""

    def __init__(self, vms, rest):
        super().__init__(daemon=True)
        self.vms, self.rest, self.seen, self.looks, self.ending = vms, rest, {}, 0, threading.Event()
        self.start()

    def run(self):
        while not self.ending.is_set():
            self.seen.update(self.vms())
            self.looks += 1
            self.ending.wait(self.rest)

    def end(self):
        self.ending.set()
        self.join(60)
        return self.seen


class Load(threading.Thread):
    """A request after the other through the edge, each with a connection and a TLS session of its own."""

    def __init__(self, get, pause):
        super().__init__(daemon=True)
        self.get, self.pause, self.ok, self.errors, self.ending = get, pause, 0, [], threading.Event()
        self.start()

    def run(self):
        while not self.ending.is_set():
            try:
                page = self.get()
                if "hello from a microVM" not in page:
                    raise AssertionError("page %r" % page[:80])
                self.ok += 1
                self.ending.wait(self.pause)  # each costs the emulated guest a handshake: without a pause it would have a processor of its own
            except (OSError, AssertionError) as e:
                self.errors.append("%s: %s" % (type(e).__name__, e))
                time.sleep(0.05)

    def end(self):
        self.ending.set()
        self.join(120)
        return self.ok, self.errors


class Kept(threading.Thread):
    """One connection all the while, with a request every @pause seconds."""

    def __init__(self, s, pause):
        super().__init__(daemon=True)
        self.pause = pause
        self.s, self.ok, self.error, self.ending = s, 0, None, threading.Event()
        self.start()

    def ask(self):
        self.s.sendall(("GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST).encode())
        got = b""
        while b"\r\n\r\n" not in got:
            part = self.s.recv(65536)
            want(part, "the connection ended")
            got += part
        head, body = got.split(b"\r\n\r\n", 1)
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(body)
        while left > 0:
            part = self.s.recv(65536)
            want(part, "the connection ended within a page")
            left -= len(part)
        self.ok += 1

    def run(self):
        while not self.ending.is_set():
            try:
                self.ask()
            except (OSError, AssertionError) as e:
                self.error = "%s: %s, after %d requests" % (type(e).__name__, e, self.ok)
                return
            self.ending.wait(self.pause)

    def end(self):
        self.ending.set()
        self.join(60)
        self.s.close()
        want(self.ok > 1 and not self.error, self.error or "no request on it")
        return self.ok


class Suite:
    """On one host, which has @given, the folder that prepare() filled, and of it pg and registry in /data to write to."""
    # the program of a VM; what the arguments of an instance's have, and those of the one that an agent boots to find out how it can run VMs
    MONITOR, INSTANCE, NOBODY = "qemu-system-x86_64", b"moat.instance=inst_", b"moat.instance=inst_00000000000000000000000000 "
    PAUSE, LOOK = 0.05, 0.1  # s: between requests, and between looks at the VMs
    AGENT, CONTROL = (), ()  # what their files say here beside what the documented steps write

    def __init__(self, given):
        self.given = given
        self.t0 = time.monotonic()
        self.tls = ssl.create_default_context(cafile=given + "/example/ca.pem")
        self.registry = None

    def vms(self):
        """The VMs of instances. Others ask for the program's version, or are nobody's."""
        return {p: f for p, f in running(self.MONITOR).items() if self.of_instance(p[0])}

    def of_instance(self, pid):
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as f:
                said = f.read()
        except OSError:
            return False
        return self.INSTANCE in said and self.NOBODY not in said

    def store(self):
        """An object store for the backups; one that has a `why` is none."""
        return backupkit.Store("versitygw", "/data/s3")

    def between(self):
        """After each case."""

    def lap(self, what):
        print("# %5.1f s: %s" % (time.monotonic() - self.t0, what), flush=True)

    def dial(self):
        return self.tls.wrap_socket(socket.create_connection(("::1", 443), 60), server_hostname=HOST)

    def page(self, s=None):
        with s or self.dial() as s:
            s.sendall(("GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % HOST).encode())
            got = b""
            while True:
                part = s.recv(65536)
                if not part:
                    return got.decode(errors="replace")
                got += part

    def moat(self, *argv, **kw):
        return sh("moat", *argv, **kw)

    def dpkg(self, *argv):
        """Without syncing what is gone with the host anyway, and without man-db, which would read every manual page of the machine."""
        return sh("dpkg", "--force-unsafe-io", "--force-confold", "--no-triggers", *argv)

    def journal(self, unit, lines=12):
        return sh("journalctl", "--no-pager", "-o", "cat", "-n", str(lines), "-u", unit, code=None)

    # -- a machine that has what the packages ask for, and nothing of ours

    def bare(self):
        os.makedirs("/run/home", exist_ok=True)
        os.environ["HOME"] = "/run/home"
        have = sh("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *NAMES, code=None)
        want("installed" not in have.replace("not-installed", ""), have)
        # images of containers have one, which forbids scripts to start anything; a host has none
        if os.path.exists("/usr/sbin/policy-rc.d"):
            os.unlink("/usr/sbin/policy-rc.d")
        # what an earlier `make demo` of the machine outside may have left is none of this host's
        for d in ("/var/lib/moat", "/etc/moat", "/var/cache/moat"):
            shutil.rmtree(d, ignore_errors=True)
        with open("/etc/passwd") as f, open("/etc/group") as g:
            known = {x.split(":")[0] for x in f}, {x.split(":")[0] for x in g}
        for user in ("moat-control", "moat-edge", "moat-fetch", "moat-fsck"):
            user not in known[0] or sh("userdel", user, code=None)
        "moat" not in known[1] or sh("groupdel", "moat", code=None)
        # nor what this machine does after every use of apt: it reads each of its manual pages, and tells a daemon that does not run here
        for name in ("/var/lib/man-db/auto-update", "/etc/apt/apt.conf.d/20packagekit"):
            if os.path.exists(name):
                os.unlink(name)
        # PostgreSQL as its own package leaves it
        uid, gid = pwd.getpwnam("postgres")[2:4]
        shutil.rmtree("/etc/postgresql/15", ignore_errors=True)
        os.makedirs("/etc/postgresql/15/main")
        conf = {"postgresql.conf": "data_directory = '/data/pg'\nhba_file = '/etc/postgresql/15/main/pg_hba.conf'\nident_file = '/etc/postgresql/15/main/pg_ident.conf'\n"
                                   "external_pid_file = '/run/postgresql/15-main.pid'\nport = 5432\nunix_socket_directories = '/run/postgresql'\nfsync = off\n"
                                   "listen_addresses = ''\n",
                "pg_hba.conf": "local all postgres peer\nlocal all all peer\n", "pg_ident.conf": "", "start.conf": "auto\n", "environment": "", "pg_ctl.conf": "pg_ctl_options = ''\n"}
        for name, text in conf.items():
            with open("/etc/postgresql/15/main/" + name, "w") as f:
                f.write(text)
        for d, _, names in os.walk("/etc/postgresql/15"):
            for n in [d] + [os.path.join(d, x) for x in names]:
                os.chown(n, uid, gid)
        os.makedirs("/run/postgresql", exist_ok=True)
        os.chown("/run/postgresql", uid, gid)
        sh("systemctl", "start", "postgresql@15-main")
        with open(self.given + "/registry/host") as f:
            self.host = f.read()
        with open("/data/registry/registry.yml") as f:
            text = f.read()
        with open("/data/registry/here.yml", "w") as f:
            f.write("".join(line if "rootdirectory" not in line else "    rootdirectory: /data/registry/data\n" for line in text.splitlines(True)))
        self.registry = subprocess.Popen(["docker-registry", "serve", "/data/registry/here.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.lap("PostgreSQL runs")
        os.makedirs("/run/home/lists/partial")
        self.files, self.machine = files(), machine()
        want(not [x for x in self.files if "moat" in x], sorted(x for x in self.files if "moat" in x)[:5])
        want(not self.machine["units"], self.machine["units"])

    def put_on(self, folder, key):
        """By the installer, which checks the signature; no lists, as in take_off."""
        sh(ROOT + "/packaging/deb/install", folder, key, "--", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", *APT)

    def take_off(self):
        """No lists: apt has nothing to look up but what is installed, and need not read an index of all Debian."""
        return sh("apt-get", *APT, "-q", "-y", "purge", *NAMES, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))

    # -- cases, in order

    def install(self):
        # the kernel package as if apt had been asked before: this host has no network
        os.makedirs("/var/lib/moat")
        sh("cp", "-a", self.given + "/boot", "/var/lib/moat/boot")
        sh("cp", "-a", self.given + "/cache", "/var/cache/moat")
        self.put_on("%s/%s" % (self.given, ONE), self.given + "/release.pub")
        self.lap("installed")
        state = {u: (property_of(u, "ActiveState"), sh("systemctl", "is-enabled", u, code=None).strip()) for u in UNITS}
        want(all(e == "enabled" for _, e in state.values()), state)
        # the agent of a machine that is no node yet is skipped; the control plane waits for its database
        want(state["moat-agent.service"][0] == "inactive" and state["moat-edge.service"][0] == "active", state)
        keys = os.stat("/etc/moat/master-keys")
        want((keys.st_mode & 0o777, pwd.getpwuid(keys.st_uid).pw_name) == (0o400, "moat-control"), oct(keys.st_mode))

    def setup(self):
        """docs/packages.md, "One machine", word for word, and what this machine has other than most: QEMU, a registry on itself, an emulated processor."""
        sh("/usr/lib/moat/setup-database")
        self.lap("database")
        local = json.dumps(self.host)
        edit("/etc/moat/agent.toml", ("# control_socket = ", 'control_socket = "/run/moat-control/internal.sock"'), ("# patience = ", "patience = %d" % min(30, 10 * PATIENCE)),
             ("# memory_bytes = ", "memory_bytes = %d" % (256 << 20)), ("# local_registries = ", "local_registries = [%s]" % local),
             ("# insecure_registries = ", "insecure_registries = [%s]" % local), ("# heartbeat_ms = ", "heartbeat_ms = 1000"), *self.AGENT)
        edit("/etc/moat/control.toml", ("# local_registries = ", "local_registries = [%s]" % local),
             ("# insecure_registries = ", "insecure_registries = [%s]" % local), *self.CONTROL)
        sh("systemctl", "restart", "moat-control")
        self.lap("control plane")
        sh("systemctl", "start", "moat-agent")
        self.lap("agent")
        nodes = wait_for("the node is ready", self.ready,
                         shown=lambda: self.moat("nodes", code=None) + self.journal("moat-agent"))
        self.lap("node %s" % nodes[0]["health"])
        want(property_of("moat-bundle.service", "Result") == "success", self.journal("moat-bundle"))

    def ready(self):
        said = self.moat("nodes", "--json", code=None)
        items = json.loads(said)["items"] if '"items"' in said else []
        return items if items and items[0]["health"] == "ready" else None

    def golden_path(self):
        self.moat("deploy", "-f", ROOT + "/examples/hello/moat.toml", "--image", self.host + "/hello:t", "--confirm-no-secrets", "--wait")
        self.lap("deployed")
        page = self.page()
        want("hello from a microVM" in page, page[:200])
        self.running = self.vms()
        want(len(self.running) == 1, self.running)

    def upgrade(self):
        self.change(ONE, TWO)

    def and_back(self):
        self.change(TWO, ONE, "--force-downgrade")

    def change(self, old, new, *more):
        before = {n: running(n) for n in NAMES[1:]}
        serials = self.instances()
        load, kept, watch = Load(self.page, self.PAUSE), Kept(self.dial(), max(1, self.PAUSE)), Watch(self.vms, self.LOOK)
        wait_for("requests", lambda: load.ok + len(load.errors) > 2)
        order = random.sample(NAMES[1:], 3)  # who is new first speaks to those that are not yet
        self.dpkg(*more, "-i", *("%s/%s/%s_%s_amd64.deb" % (self.given, new, n, new) for n in ["moat"] + order))
        self.lap("%s is installed over %s, in the order %s" % (new, old, ", ".join(order)))
        for n in NAMES[1:]:
            # the edge's old process goes with its last connection, which is ours
            news = lambda n=n: {p: f for p, f in running(n).items() if p not in before[n]}
            # who asked the old edge to hand over may be on its way out
            now = wait_for(n + " is the new one", lambda: (lambda x: x if len(x) == 1 and all(x.values()) else None)(news()),
                           shown=lambda n=n: "it runs as %s, before %s; %s" % (news(), before[n], self.journal(n)))
            wait_for("systemd knows of it", lambda: property_of(n + ".service", "MainPID") == str(list(now)[0][0]), 30, lambda: "%s: %s" % (n, property_of(n + ".service", "MainPID")))
        want(set(before["moat-edge"]) <= set(running("moat-edge")), "the old edge has left a connection behind")
        print("# %d requests on one connection all the while" % kept.end(), flush=True)
        wait_for("the old edge ends", lambda: not set(before["moat-edge"]) & set(running("moat-edge")), 60)
        # the new agent boots a VM of its own, of no instance, to try the bundle; its own word that this is over, because the control plane may still tell
        # what the agent before said
        agent = property_of("moat-agent.service", "MainPID")
        wait_for("the new agent has chosen a driver", lambda: '"vmm.chosen"' in sh("journalctl", "--no-pager", "-o", "cat", "-u", "moat-agent", "_PID=" + agent, code=None),
                 shown=lambda: self.journal("moat-agent"))
        wait_for("the node is ready", self.ready, shown=lambda: self.journal("moat-agent"))
        count = load.ok
        wait_for("requests afterwards", lambda: load.ok > count + 2, 60)
        ok, errors = load.end()
        print("# %s to %s: %d requests worked, %d failed" % (old, new, ok, len(errors)), flush=True)
        want(ok > 5 and not errors, errors[:3])
        seen = watch.end()
        want(watch.looks > 10 and set(seen) == set(self.running), "VMs %s, before %s" % (seen, self.running))
        wait_for("only the instance's VM is left", lambda: running(self.MONITOR) == self.running, 60,
                 shown=lambda: "VMs %s, before %s" % (running(self.MONITOR), self.running))
        want(self.instances() == serials, "instances %s, before %s" % (self.instances(), serials))
        # the agent's version is told by its heartbeats
        wait_for("the new versions in what is told", lambda: self.moat("nodes", "--json").count('"agent_version":"%s"' % new) == 1 and
                 "\"server_version\":\"%s\"" % new in self.moat("version", "--json"), 30, lambda: self.moat("version", "--json") + self.moat("nodes", "--json"))
        have = sh("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}\n", *NAMES).splitlines()
        want(have == [new + " installed"] * 4, have)
        want("heartbeat_ms = 1000" in open("/etc/moat/agent.toml").read(), "what the operator wrote is gone")
        want(all(property_of(u, "NRestarts") == "0" for u in UNITS[:3]), "systemd had to restart something")

    def instances(self):
        return sorted((i["id"], i["restart_count"]) for i in json.loads(self.moat("instances", "--app", "hello", "--json"))["items"])

    def purge(self):
        sh("/usr/lib/moat/setup-database", "--remove")
        self.lap("the database is gone")
        # on a slow host systemd is faster with beginning anew what ended than the package's script is with stopping it
        slow = "/usr/sbin/deb-systemd-invoke"  # before the real one in the path
        with open(slow, "w") as f:
            f.write('#!/bin/sh\ncase "$*" in stop*moat-agent*) sleep 4 ;; esac\nexec /usr/bin/deb-systemd-invoke "$@"\n')
        os.chmod(slow, 0o755)
        said = self.take_off()
        os.unlink(slow)
        self.lap("purged")
        want("warning" not in said.lower(), said[-600:])
        def left():
            """systemd removes in its own time what it had made for a unit that is gone"""
            now = machine()
            found = {kind: sorted(now[kind] - before) for kind, before in self.machine.items() if not now[kind] <= before}
            made = files() - self.files - {"/var/cache/apt/pkgcache.bin", "/var/cache/apt/srcpkgcache.bin", "/var/lib/systemd/timers"}  # systemd's own, of the first timer that is persistent
            return dict(found, files=sorted(made)[:12]) if made else found
        wait_for("nothing is left", lambda: not left(), 30, lambda: str(left()))
        want("moat" not in sh("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"), "dpkg knows them still")

    # -- the database is lost: docs/recovery.md, "Restore, on this machine or a new one"

    def database_lost(self):
        began = time.time()
        check = self.moat("admin", "upgrade", "check", code=None)
        want("no backup" in check or "backed up" in check, check)
        # by the units of the timers, as confined as they are: here, into the object store, and the drill of what the store has
        store = self.store()
        if not store.why:
            with open("/etc/moat/control-backup.toml", "w") as f:
                os.fchmod(f.fileno(), 0o600)
                f.write('endpoint = "http://127.0.0.1:%d"\nbucket = "%s"\naccess_key = "%s"\nsecret_key = "%s"\n' % (store.port, backupkit.BUCKET, backupkit.ACCESS, backupkit.SECRET))
        sh("systemctl", "enable", "--now", "moat-control-backup.timer", "moat-restore-drill.timer")
        for unit, word in (("moat-control-backup", "sent moat-"), ("moat-restore-drill", "drill passed")):
            r = sh("systemctl", "start", unit, code=None)
            want(property_of(unit + ".service", "Result") == "success", r + self.journal(unit, 30))
            # systemd knows of its end before journald has written down what it said
            store.why or wait_for("'%s' in its journal" % word, lambda: word in self.journal(unit), shown=lambda: r + self.journal(unit, 30))
            self.lap(unit)
        made = sorted(os.listdir("/var/lib/moat/backups"))
        want(made and all(x.startswith("moat-") and x.endswith(".backup") for x in made), made)
        if store.why:
            shutil.copy("/var/lib/moat/backups/" + made[-1], "/root/whole.backup")
        else:
            shutil.rmtree("/var/lib/moat/backups")
            stored = [x["name"] for x in json.loads(self.moat("admin", "backup", "stored", "--json"))["items"]]
            want(made[-1] in stored, (made, stored))
            self.moat("admin", "backup", "fetch", max(stored), "/root/whole.backup")
            store.close()
            os.unlink("/etc/moat/control-backup.toml")  # the operator's, not the package's
        check = self.moat("admin", "upgrade", "check")
        age = re.search(r"backed up (\d+) min ago", check)
        want(age and int(age.group(1)) <= (time.time() - began) // 60 and "✗" not in check, check)
        load = Load(self.page, self.PAUSE)
        sh("systemctl", "stop", "moat-control")
        sh("/usr/lib/moat/setup-database", "--remove")
        sh("find", "/var/lib/moat/control", "-mindepth", "1", "-delete")
        sh("/usr/lib/moat/setup-database")
        self.lap("the database is gone, an empty one is there")
        self.moat("admin", "restore", "/root/whole.backup", "--yes")
        sh("systemctl", "start", "moat-control")
        plan = json.loads(wait_for("the plan of the recovery", lambda: self.plan_with_node()))
        want(plan["data"]["state"] == "frozen" and [i["action"] for i in plan["data"]["items"]] == ["adopt"], plan)
        self.moat("admin", "recovery", "apply", "--reason", "the database was lost")
        self.moat("admin", "recovery", "finish", "--reason", "nothing is missing")
        self.lap("recovered")
        self.moat("deploy", "-f", ROOT + "/examples/hello/moat.toml", "--image", self.host + "/hello:t", "--confirm-no-secrets", "--wait")
        self.lap("deployed again")
        ok, errors = load.end()
        print("# %d requests worked while the database was lost and put back, %d failed" % (ok, len(errors)), flush=True)
        want(ok > 5 and not errors, errors[:3])
        os.unlink("/root/whole.backup")

    def plan_with_node(self):
        for line in self.moat("admin", "recovery", "plan", "--json", code=None).splitlines():  # beside it: that the platform recovers
            if line.startswith('{"api"') and json.loads(line)["data"]["counts"]["adopt"] == 1:
                return line
        return None

    def run(self, cases):
        """@cases: (name, what is done) in order, each needs the one before"""
        c = Cases()
        try:
            for name, case in cases:
                if not c.run("packages: " + name, case):
                    for unit in UNITS:
                        print("# %s: %s" % (unit, self.journal(unit, 15).replace("\n", "\n#   ")), flush=True)
                    break
                self.between()
        finally:
            if self.registry:
                self.registry.kill()
        return 1 if c.failed else 0


def want(condition, shown):
    if not condition:
        raise AssertionError(str(shown))


def edit(path, *changes):
    with open(path) as f:
        lines = f.read().split("\n")
    for begin, line in changes:
        at = [i for i, x in enumerate(lines) if x.startswith(begin)]
        want(len(at) == 1, "%s has %d lines that begin with '%s'" % (path, len(at), begin))
        lines[at[0]] = line
    with open(path, "w") as f:
        f.write("\n".join(lines))
