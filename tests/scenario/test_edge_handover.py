#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A new moat-edge takes the listening sockets of the running one: no connection is refused or cut, whatever dies on the way.

COST 2 s, 1 s of processor."""
import os
import signal
import socket
import subprocess
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from edgekit import (EDGE, Backend, Control, Edge, Scratch, check, client_hello, connect, free_port, read_all, run_cases, snapshot, until)  # noqa: E402

scratch = Scratch()
PORT, RAW = free_port(), free_port()
SOCKET = scratch.path("handover")
HELLO = client_hello("echo.example.com")


def echo(c):
    while True:
        d = c.recv(65536)
        if not d:
            return
        c.sendall(d)


backend = Backend(echo)
routes = scratch.write("routes", "echo.example.com ::1 %d\n" % backend.port)
state = {}


def static(workers=2, file=routes):
    return Edge(["--static", file, "--listen", "[::1]:%d" % PORT, "--workers", str(workers), "--handover", SOCKET, "--access-log"])


def talk(s, data=b"x" * 100):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        d = s.recv(65536)
        check(d, "the connection ended")
        got += d
    check(got == data, "other bytes came back")


def opened(port=PORT):
    s = connect(port)
    talk(s, HELLO)
    return s


class Load:
    """new connections without a pause, each with a hello and an echo; errors holds what went wrong"""

    def __init__(self, port=PORT, hello=HELLO, threads=3):
        self.errors, self.done, self.stop = [], 0, False
        self.threads = [threading.Thread(target=self._run, args=(port, hello), daemon=True) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def _run(self, port, hello):
        while not self.stop:
            try:
                s = connect(port)
                talk(s, hello)
                s.shutdown(socket.SHUT_WR)
                check(read_all(s) == b"", "bytes at the end")
                s.close()
                self.done += 1
            except (OSError, AssertionError) as e:
                self.errors.append(repr(e))

    def end(self):
        self.stop = True
        for t in self.threads:
            t.join()
        if self.errors:
            print([y for x in everyone for y in x.find("edge.conn.closed") if y["result"] != "ok"])
        check(not self.errors, "%d of %d connections went wrong: %s" % (len(self.errors), self.done, self.errors[:3]))
        return self.done


def five_upgrades_under_load_refuse_and_cut_nothing():
    edge = static()
    edge.wait("edge.started")
    kept = [(opened(), None)]
    load = Load()
    olds = []
    for i in range(5):
        before = load.done
        new = static(workers=1 + i % 3)  # fewer and more workers than sockets
        new.wait("edge.handover_taken")
        new.wait("edge.started")
        edge.wait("edge.handed_over")
        kept.append((opened(), new))
        until(lambda: load.done > before + 20, "connections after the upgrade")
        olds.append(edge)
        edge = new
    for s, _ in kept:
        talk(s)  # through processes that accept no longer
    check(load.end() > 100, "too little load to mean anything")
    check(all(x.proc.poll() is None for x in olds[:1]), "the first process left a connection behind")
    for s, _ in kept:
        s.close()
    for x in olds:
        until(lambda: x.proc.poll() is not None, "an old process to end after its last connection")
        check(x.proc.returncode == 0, "exit status %s" % x.proc.returncode)
        until(lambda x=x: x.find("edge.stopped"), "the last line of its log")
    state["edge"] = edge


def successor_that_fails_or_dies_leaves_the_old_one_serving():
    edge = state["edge"]
    load = Load(threads=2)
    bad = static(file=scratch.write("bad", "echo.example.com ::1 notaport\n"))
    bad.wait("edge.start_failed")
    check(bad.proc.wait(60) == 1, "exit status")
    edge.wait("edge.handover_missed")
    s = socket.socket(socket.AF_UNIX)  # dies between asking and serving
    s.connect(SOCKET)
    s.sendall(b"1hom" + (1).to_bytes(4, "little") + bytes(8) + bytes(28) + bytes(4))
    until(lambda: s.recv(1, socket.MSG_PEEK), "an answer")
    s.close()
    edge.wait("edge.handover_missed", count=2)
    s = socket.socket(socket.AF_UNIX)  # speaks something else
    s.connect(SOCKET)
    s.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(40))
    edge.wait("edge.handover_refused")
    s.close()
    until(lambda: load.done > 20, "some load", 20)
    load.end()
    talk(opened())
    new = static()
    new.wait("edge.started")
    edge.wait("edge.handed_over")
    state["edge"] = new


def hup_works_in_the_successor():
    scratch.write("routes", "echo.example.com ::1 %d\nmore.example.com ::1 %d\n" % (backend.port, backend.port))
    state["edge"].kill(signal.SIGHUP)
    state["edge"].wait("edge.config_applied", revision=2)
    s = connect(PORT)
    talk(s, client_hello("more.example.com"))
    check(state["edge"].end() == 0, "exit status")
    check(not os.path.exists(SOCKET), "the socket stayed")


def with_a_control_plane_the_newest_configuration_and_raw_ports_go_over():
    data = scratch.path("data")
    os.mkdir(data, 0o700)
    control = Control(scratch.path("control"))
    conf = scratch.write("edge.toml", 'data_dir = "%s"\ncontrol_socket = "%s"\nadmin_socket = "%s"\nhandover_socket = "%s"\n'
                         'public_addresses = ["::1"]\nworkers = 2\n[port_map]\n443 = %d\n' %
                         (data, scratch.path("control"), scratch.path("admin"), SOCKET, PORT))
    raw = {"port": RAW, "proto": "tcp_raw", "backends": [("inst_r", backend.port)]}
    tls = {"name": "echo.example.com", "port": 443, "backends": [("inst_e", backend.port)]}
    old = Edge(["--config", conf])
    old.wait("edge.started")
    for rev in range(1, 8):  # faster than they are written: the last one must still be what the successor starts with
        control.set(snapshot(rev, [raw, tls] + [{"name": "n%d.example.com" % rev, "port": 443, "backends": []}]))
        until(lambda: [s for s in list(control.statuses) if s["revision"] == rev], "acknowledgement of %d" % rev)
    control.end()  # and the control plane is away when it starts
    kept = opened(RAW)
    load, load2 = Load(), Load(RAW, b"hi", 2)
    new = Edge(["--config", conf])
    new.wait("edge.started")
    applied = new.wait("edge.config_applied")[-1]
    check(applied["revision"] == 7, "it started with revision %s" % applied["revision"])
    old.wait("edge.handed_over")
    before = load.done + load2.done
    until(lambda: load.done + load2.done > max(50, before + 10), "load enough, also after the upgrade")
    load.end()
    load2.end()
    talk(kept)
    check(len([x for x in new.find("edge.listener_open") if x["inherited"] == 2]) == 2, new.find("edge.listener_open"))
    control = Control(scratch.path("control"))
    control.set(snapshot(8, [tls]))
    until(lambda: [s for s in list(control.statuses) if s["revision"] == 8], "the successor to hear the control plane", 10)

    def refused():
        try:
            connect(RAW).close()
            return False
        except ConnectionRefusedError:
            return True
    until(refused, "the raw port to close in both processes")
    kept.close()
    until(lambda: old.proc.poll() == 0, "the old process to end")
    check(os.path.exists(scratch.path("admin")), "the old process took the admin socket of the new one along")
    check(new.end() == 0, "exit status")
    control.end()


def a_reload_gives_the_service_another_main_process():
    """What systemd does with ExecReload=: the supervisor hears of the new process before the old one ends, and of the old one again when that goes on."""
    data = scratch.path("data")  # of the case before: configuration that is good without a control plane
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.bind(scratch.path("notify"))
    notes.setblocking(False)
    conf = scratch.path("edge.toml")
    env = dict(os.environ, NOTIFY_SOCKET=scratch.path("notify"))

    def said():
        out = []
        while True:
            try:
                out.append(notes.recv(4096).decode())
            except BlockingIOError:
                return out

    def take_over():
        with open(scratch.path("said"), "w+") as f:  # a file: the new process keeps it open
            r = subprocess.run([EDGE, "--config", conf, "--take-over"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=f, env=env, timeout=60)
            f.seek(0)
            r.stderr = f.read()
        return r
    r = take_over()
    check(r.returncode == 1 and "no moat-edge answers" in r.stderr and not said(), "with nobody to take from: %d %s" % (r.returncode, r.stderr))
    first = Edge(["--config", conf], env)
    first.wait("edge.started")
    until(lambda: "READY=1" in said(), "the first one's word that it is ready")
    os.rename(data, data + ".away")  # nothing to serve with: the new one gives up
    os.mkdir(data, 0o700)
    r = take_over()
    check(r.returncode == 1 and "edge.start_failed" in r.stderr, "without a configuration: %d %s" % (r.returncode, r.stderr[-300:]))
    check(not [x for x in said() if x.startswith("MAINPID") and x != "MAINPID=%d" % first.pid], "the supervisor was told of one that failed")
    talk(opened())
    os.rmdir(data)
    os.rename(data + ".away", data)
    kept, load, pids = opened(), Load(), [first.pid]
    for i in range(3):
        r = take_over()
        check(r.returncode == 0, "reload: %d %s" % (r.returncode, r.stderr[-300:]))
        told = []
        until(lambda: told.extend(said()) or [x for x in told if x.startswith("MAINPID=")], "the supervisor to be told")
        main = [int(x[8:]) for x in told if x.startswith("MAINPID=")]
        check(len(main) == 1 and main[0] not in pids and os.path.exists("/proc/%d" % main[0]), "told %s" % told)
        check(os.readlink("/proc/%d/exe" % main[0]) == os.path.realpath(EDGE), "another program")
        with open("/proc/%d/stat" % main[0]) as f:
            check(int(f.read().rsplit(") ", 1)[1].split()[1]) not in (os.getpid(), first.pid), "it is somebody's child that nobody waits for")
        pids.append(main[0])
    load.end()
    talk(kept)
    kept.close()
    until(lambda: first.proc.poll() == 0, "the first one to end with its last connection", 20)
    talk(opened())
    os.kill(pids[-1], signal.SIGTERM)
    until(lambda: not any(os.path.exists("/proc/%d" % p) for p in pids[1:]), "all to end", 20)


CASES = [five_upgrades_under_load_refuse_and_cut_nothing, successor_that_fails_or_dies_leaves_the_old_one_serving, hup_works_in_the_successor,
         with_a_control_plane_the_newest_configuration_and_raw_ports_go_over, a_reload_gives_the_service_another_main_process]

if __name__ == "__main__":
    everyone = []
    made = Edge.__init__

    def remember(self, *a, **k):
        made(self, *a, **k)
        everyone.append(self)
    Edge.__init__ = remember
    try:
        status = run_cases(CASES)
    finally:
        for x in everyone:
            if x.proc.poll() is None:
                x.proc.kill()
        scratch.end()
    sys.exit(status)
