#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-edge in static mode: outcome table of networking.md 8.4, relaying, retries, PROXY v2, SIGHUP, memory and descriptors.
COST 15 s, 4 s of processor."""
import hashlib
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair  # noqa: E402
from edgekit import (Backend, Edge, Scratch, check, client_hello, connect, curl, free_port, read_all, run_cases,  # noqa: E402
                     tls_backend, until)

scratch = Scratch()
a, b = tls_backend(scratch, "this is a"), tls_backend(scratch, "this is b")


def echo(c):
    """echoes until the end of the input, then says 'bye' and closes: needs the half-close to come through"""
    while True:
        d = c.recv(65536)
        if not d:
            break
        c.sendall(d)
    c.sendall(b"bye")


def sink(c):
    """reads all of it, then answers with the checksum of what came"""
    h = hashlib.sha256()
    while True:
        d = c.recv(1 << 16)
        if not d:
            break
        h.update(d)
    c.sendall(h.hexdigest().encode())


BIG = 192 * 1024 * 1024


def source(c):
    """reads the hello, sends a known big stream, closes"""
    c.recv(65536)
    block = bytes(range(256)) * 256
    for _ in range(BIG // len(block)):
        c.sendall(block)


def resetter(c):
    c.recv(65536)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def holder(c):
    holder.got.append(c.recv(65536))
    try:
        c.settimeout(120)
        holder.ends.append(c.recv(1))
    except ConnectionResetError:
        holder.ends.append("reset")


holder.got, holder.ends = [], []
backends = {n: Backend(f) for n, f in (("echo", echo), ("sink", sink), ("source", source), ("reset", resetter), ("hold", holder))}
DEAD = free_port()
PORT = free_port()
ROUTES = "# name address port\na.example.com ::1 %d\nb.example.com [::1] %d   # b\nretry.example.com ::1 %d\nretry.example.com ::1 %d\n" \
         "dead.example.com ::1 %d\n" % (a.port, b.port, DEAD, a.port, DEAD)
hole = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=0)  # its queue is full: what more comes is dropped, as by a cut between two nodes
plugs = [socket.socket(socket.AF_INET6) for _ in range(4)]
for p in plugs:
    p.setblocking(False)
    p.connect_ex(hole.getsockname())
ROUTES += "cut.example.com ::1 %d\ncut.example.com ::1 %d\n" % (hole.getsockname()[1], a.port)
ROUTES += "".join("%s.example.com ::1 %d\n" % (n, x.port) for n, x in backends.items())
routes = scratch.write("routes", ROUTES)
edge = Edge(["--static", routes, "--listen", "[::1]:%d" % PORT, "--workers", "2", "--access-log"])
edge.wait("edge.started")


def send_hello(name, port=PORT):
    s = connect(port)
    s.sendall(client_hello(name))
    return s


def raw_answer(data, **kw):
    s = connect(PORT, **kw)
    s.sendall(data)
    try:
        return read_all(s)
    finally:
        s.close()


ALERT = {n: bytes([21, 3, 1, 0, 2, 2, n]) for n in (50, 80, 112)}


def the_name_decides_the_backend():
    for name, say in (("a.example.com", "this is a"), ("b.example.com", "this is b")):
        code, out, err = curl(scratch, name, PORT)
        check(code == 0 and out == say, "curl %s: %d %r %s" % (name, code, out, err))
    line = edge.wait("edge.conn.closed", sni="b.example.com")[-1]
    check(line["result"] == "ok" and line["bytes_out"] > 500 and line["bytes_in"] > 300 and line["tries"] == 1, line)


def openssl_with_old_and_new_versions_is_routed():
    for version in ("-tls1_2", "-tls1_3"):
        r = subprocess.run(["openssl", "s_client", "-connect", "[::1]:%d" % PORT, "-servername", "B.Example.COM", version, "-CAfile",
                            scratch.cert, "-verify_return_error", "-quiet"], input="GET / HTTP/1.0\r\n\r\n", capture_output=True,
                           text=True, timeout=120)
        check("this is b" in r.stdout, "%s: %s" % (version, r.stderr[-300:]))


def unknown_name_gets_alert_112():
    r = subprocess.run(["openssl", "s_client", "-connect", "[::1]:%d" % PORT, "-servername", "nobody.example.com"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    check(re.search(r"alert number 112", r.stderr + r.stdout), r.stderr[-300:])
    check(raw_answer(client_hello("nobody.example.com")) == ALERT[112], "not exactly the alert and FIN")
    edge.wait("edge.conn.closed", result="no_route")


def no_name_gets_alert_112():
    check(raw_answer(client_hello(None)) == ALERT[112], "not the alert")
    edge.wait("edge.conn.closed", result="no_sni")


def not_tls_is_closed_without_a_byte():
    for data in (b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n", bytes.fromhex("802e010301")):
        check(raw_answer(data) == b"", "it answered")
    edge.wait("edge.conn.closed", result="not_tls", count=2)


def malformed_and_too_large_get_alert_50():
    hello = client_hello("a.example.com")
    check(raw_answer(hello[:5] + b"\x02" + hello[6:]) == ALERT[50], "wrong handshake type")
    check(raw_answer(b"\x16\x03\x01\x00\x04\x01\x01\x00\x00") == ALERT[50], "announced 64 KiB")
    edge.wait("edge.conn.closed", result="malformed")
    edge.wait("edge.conn.closed", result="too_big")


def early_end_of_the_client_is_counted():
    s = connect(PORT)
    s.sendall(client_hello("a.example.com")[:40])
    s.shutdown(socket.SHUT_WR)
    check(read_all(s) == b"", "it answered")
    edge.wait("edge.conn.closed", result="client_eof")


def hello_byte_by_byte_and_in_tiny_records_arrives_unchanged():
    hello = client_hello("echo.example.com")
    records = b"".join(b"\x16\x03\x01\x00\x01" + bytes([x]) for x in hello[5:])
    for data, step in ((hello, 1), (records, 97)):
        s = connect(PORT)
        for i in range(0, len(data), step):
            s.sendall(data[i:i + step])
            if i % 200 == 0:  # seldom: a name has three seconds to come, and on a full machine each rest may take long
                time.sleep(0.001)
        s.shutdown(socket.SHUT_WR)
        check(read_all(s) == data + b"bye", "the backend saw other bytes")
        s.close()


def hello_of_1700_bytes_and_early_data_arrive_unchanged():
    hello = client_hello("echo.example.com", alpn=["p%03d" % i for i in range(300)])
    check(len(hello) > 1700, "the hello has only %d bytes" % len(hello))
    data = hello + os.urandom(40000)
    s = connect(PORT)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    check(read_all(s) == data + b"bye", "the backend saw other bytes")


def slow_hello_is_closed_after_three_seconds_whatever_trickles():
    hello = client_hello("a.example.com")
    start, late = time.monotonic(), fair.now() + 6
    s = connect(PORT)
    try:
        for i in range(300):
            s.sendall(hello[i:i + 1])
            time.sleep(0.1)
            try:
                if s.recv(1, socket.MSG_DONTWAIT) == b"":
                    break
            except BlockingIOError:
                pass
    except OSError:
        pass
    s.settimeout(120)
    while True:
        try:
            if s.recv(100) == b"":
                break
        except ConnectionResetError:
            break
    took = time.monotonic() - start
    check(2.5 < took and fair.now() < late, "closed after %.1f s" % took)
    edge.wait("edge.conn.closed", result="sniff_timeout")


def silent_client_is_closed_too():
    start, late = time.monotonic(), fair.now() + 6
    s = connect(PORT, limit=30)
    check(read_all(s) == b"", "it answered")
    check(2.5 < time.monotonic() - start and fair.now() < late, "took %.1f s" % (time.monotonic() - start))


def half_close_comes_through_both_ways():
    s = send_hello("echo.example.com")
    want = client_hello("echo.example.com")
    got = b""
    while len(got) < len(want):
        got += s.recv(65536)
    s.sendall(b"more")
    check(s.recv(100) == b"more", "no echo")
    s.shutdown(socket.SHUT_WR)  # client first
    check(read_all(s) == b"bye", "the end of the client did not reach the backend")
    early = Backend(lambda c: (c.recv(65536), c.sendall(b"first"), c.shutdown(socket.SHUT_WR), early_got.append(read_all(c))))
    early_got = []
    reload_with("early.example.com ::1 %d\n" % early.port)
    s = send_hello("early.example.com")
    check(read_all(s) == b"first", "the end of the backend did not reach the client")  # backend first
    s.sendall(b"still talking")
    s.shutdown(socket.SHUT_WR)
    until(lambda: early_got, "the backend's input to end")
    check(early_got[0] == b"still talking", early_got)
    early.end()


def reload_with(more):
    n = len(edge.find("edge.config_applied"))
    scratch.write("routes", ROUTES + more)
    edge.kill(signal.SIGHUP)
    edge.wait("edge.config_applied", count=n + 1)


def large_upload_keeps_its_checksum():
    s = send_hello("sink.example.com")
    h = hashlib.sha256()
    hello_len = len(client_hello("sink.example.com"))
    s.close()
    hello = client_hello("sink.example.com")
    check(len(hello) == hello_len, "hello sizes differ")
    s = connect(PORT, limit=60)
    h.update(hello)
    s.sendall(hello)
    block = os.urandom(1 << 20)
    for i in range(BIG >> 20):
        piece = block[i:] + block[:i]
        h.update(piece)
        s.sendall(piece)
    s.shutdown(socket.SHUT_WR)
    check(read_all(s).decode() == h.hexdigest(), "checksum differs")


def large_download_keeps_its_checksum_at_a_slow_reader():
    h, n = hashlib.sha256(), 0
    s = connect(PORT, limit=60)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.sendall(client_hello("source.example.com"))
    before = edge.own_kib()
    time.sleep(0.5)  # the reader sleeps: the edge must hold the source back, not take its bytes
    grown = edge.own_kib() - before
    check(grown < 1024, "the edge keeps what a slow reader does not take: %d KiB" % grown)
    while True:
        d = s.recv(1 << 16)
        if not d:
            break
        h.update(d)
        n += len(d)
    want = hashlib.sha256()
    block = bytes(range(256)) * 256
    for _ in range(BIG // len(block)):
        want.update(block)
    check(n == BIG and h.digest() == want.digest(), "%d bytes of %d, checksum %s" % (n, BIG, h.digest() == want.digest()))


def held_by_the_kernel():
    """(the most, the sum) of bytes in send buffers, and the sum of those in receive buffers, of the edge's connections; sizes of memory"""
    out = subprocess.run(["ss", "-tmnpOH"], capture_output=True, text=True, check=True).stdout
    rows = [re.search(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f\d+,w(\d+)", x) for x in out.split("\n") if "pid=%d," % edge.pid in x]
    return max(int(m.group(2)) for m in rows), sum(int(m.group(2)) for m in rows), sum(int(m.group(1)) for m in rows)


def readers_that_take_nothing_hold_little_of_the_kernels_memory():
    """some hundred of them are all that TCP of a host may have, and then it drops what comes in for others"""
    done = threading.Event()
    mute = Backend(lambda c: (c.recv(65536), done.wait(600)))
    reload_with("mute.example.com ::1 %d\n" % mute.port)
    conns = [send_hello("source.example.com" if i % 2 else "mute.example.com") for i in range(16)]
    pushed = dict.fromkeys(conns[::2], 0)
    for s in conns:
        s.setblocking(False)
    seen = [()]

    def still():
        for s in pushed:
            try:
                while pushed[s] < BIG:
                    pushed[s] += s.send(bytes(65536))
            except BlockingIOError:
                pass
        seen.append((held_by_the_kernel(), sum(pushed.values())))
        time.sleep(0.1)
        return len(seen) > 4 and seen[-1] == seen[-2] == seen[-3] == seen[-4]
    until(still, "the edge to hold them all back", 20)
    most, send, receive = seen[-1][0]
    print("# 16 connections: at most %d KiB of a send buffer, %d KiB of all, %d KiB of receive buffers" % (most >> 10, send >> 10, receive >> 10))
    check(max(pushed.values()) < BIG, "the edge takes all that a client sends")
    # 512 KiB that are not under way, one splice more, and what the other side's window takes
    check(most <= 1280 << 10, "%d KiB wait in one send buffer" % (most >> 10))
    done.set()
    for s in conns:
        s.close()
    mute.end()
    until(lambda: open_connections() == 0, "connections to end", 20)


def small_messages_on_many_connections_arrive_whole_and_in_order():
    """what the edge gathers in one turn: messages around the size of a slot, some clients that send on without reading"""
    rnd = random.Random(7)
    stream, hello = rnd.randbytes(1 << 20) * 3, client_hello("echo.example.com")
    conns = {}
    for i in range(48):
        s = connect(PORT)
        s.sendall(hello)
        back = b""
        while len(back) < len(hello):
            back += s.recv(len(hello) - len(back))
        s.setblocking(False)
        greedy = i % 6 == 0
        conns[s.fileno()] = {"s": s, "sent": 0, "got": 0, "total": len(stream) if greedy else 150000, "greedy": greedy, "reads": not greedy}
    left, end = dict(conns), time.monotonic() + 300
    while left and time.monotonic() < end:
        for c in left.values():
            while c["sent"] < c["total"] and (c["greedy"] or c["sent"] - c["got"] < 6000):
                n = rnd.choice((1, 64, 500, 2047, 2048, 2049, 5000))
                try:
                    c["sent"] += c["s"].send(stream[c["sent"]:min(c["sent"] + n, c["total"])])
                except BlockingIOError:
                    c["reads"] = True
                    break
            c["reads"] = c["reads"] or c["sent"] == c["total"]
        for fd in select.select([f for f, c in left.items() if c["reads"]], [], [], 1)[0]:
            c = left[fd]
            d = c["s"].recv(65536)
            check(d and d == stream[c["got"]:c["got"] + len(d)], "bytes of connection %d differ after %d of %d" % (fd, c["got"], c["total"]))
            c["got"] += len(d)
            if c["got"] == c["total"]:
                del left[fd]
    check(not left, "%d connections did not get all of it" % len(left))
    for c in conns.values():
        c["s"].setblocking(True)
        c["s"].shutdown(socket.SHUT_WR)
        check(read_all(c["s"]) == b"bye", "the end")


def reset_is_carried_over_both_ways():
    s = send_hello("reset.example.com")
    try:
        s.recv(100)
        raise AssertionError("no reset came from the backend")
    except ConnectionResetError:
        pass
    s = send_hello("hold.example.com")
    until(lambda: holder.got, "the backend to hold a connection")
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    until(lambda: holder.ends, "the backend to see the end")
    check(holder.ends[-1] == "reset", holder.ends)


def refused_backend_is_retried_on_another_without_the_client_seeing_it():
    before = a.conns
    for _ in range(8):
        code, out, err = curl(scratch, "a.example.com", PORT)
        check(code == 0, err)
    for _ in range(8):  # one after the other without a pause: it is out for a second, then for two, then for four
        s = send_hello("retry.example.com")
        check(len(s.recv(65536)) > 50, "no server hello")
        s.close()
    check(a.conns - before >= 16, "the living backend got %d connections" % (a.conns - before))
    lines = edge.wait("edge.conn.closed", count=8, sni="retry.example.com")
    tries = [x["tries"] for x in lines]
    check(2 in tries, "no retry was needed: %s" % tries)
    check(tries.count(1) >= 5, "the dead backend was not ejected: %s" % tries)


def backend_that_nothing_comes_back_from_is_left_for_another():
    """a partition between edge and one node: who meets it waits for one connect (2 s), then it is ejected and hardly anybody meets it"""
    for _ in range(16):
        s = send_hello("cut.example.com")
        check(len(s.recv(65536)) > 50, "no server hello")
        s.close()
    lines = edge.wait("edge.conn.closed", count=16, sni="cut.example.com")
    tries = [x["tries"] for x in lines]
    check(all(x["result"] == "ok" for x in lines) and 1 <= tries.count(2) <= 4 and tries.count(1) == 16 - tries.count(2), "tries %s" % tries)


def no_living_backend_gets_alert_80():
    for _ in range(3):  # never refused without a try, ejected or not
        check(raw_answer(client_hello("dead.example.com")) == ALERT[80], "not the alert")
    check(all(x["tries"] == 1 for x in edge.wait("edge.conn.closed", count=3, result="connect_failed")), "no try was made")


def hup_swaps_routes_and_leaves_connections_alone():
    s = send_hello("echo.example.com")
    s.recv(65536)
    reload_with("new.example.com ::1 %d\n" % a.port)
    t = send_hello("new.example.com")
    check(len(t.recv(65536)) > 50, "the new route does not answer")
    s.sendall(b"x" * 1000)
    check(s.recv(65536) == b"x" * 1000, "the old connection was touched")
    scratch.write("routes", "a.example.com ::1 notaport\n")
    edge.kill(signal.SIGHUP)
    bad = edge.wait("edge.config_rejected")[-1]
    check("line 1" in bad["error"], bad)
    code, out, _ = curl(scratch, "a.example.com", PORT)
    check(code == 0 and out == "this is a", "the old routes are gone")
    reload_with("")
    check(raw_answer(client_hello("new.example.com")) == ALERT[112], "the removed route still answers")


def proxy_v2_header_is_exact_and_before_the_hello():
    port, got = free_port(), []
    keep = Backend(lambda c: (got.append(read_until(c, 52 + hello_len)), c.close()))

    def read_until(c, n):
        d = b""
        while len(d) < n:
            x = c.recv(65536)
            if not x:
                break
            d += x
        return d
    hello = client_hello("p.example.com")
    hello_len = len(hello)
    e = Edge(["--static", scratch.write("proxy", "p.example.com ::1 %d\n" % keep.port), "--listen", "[::1]:%d" % port, "--proxy-protocol",
              "v2", "--workers", "1"])
    try:
        e.wait("edge.started")
        for _ in range(3):
            s = connect(port)
            mine = s.getsockname()
            s.sendall(hello)
            want = (bytes.fromhex("0d0a0d0a000d0a515549540a21210024") + socket.inet_pton(socket.AF_INET6, "::1") * 2 +
                    struct.pack(">HH", mine[1], port) + hello)
            try:
                s.recv(1)
            except ConnectionResetError:
                pass
            until(lambda: got, "the backend to read")
            check(got.pop() == want, "header or hello differ")
            s.close()
    finally:
        e.end()
        keep.end()


def header_is_never_sent_where_it_is_off():
    s = send_hello("echo.example.com")
    check(s.recv(16)[:3] == b"\x16\x03\x01", "something came before the hello")


def two_thousand_connections_leave_no_descriptor():
    def burst(n):
        for _ in range(n):
            s = send_hello("echo.example.com")
            s.recv(65536)
            s.shutdown(socket.SHUT_WR)
            read_all(s)
            s.close()
    burst(50)
    until(lambda: open_connections() == 0, "connections to end")
    before = edge.fds()
    threads = [threading.Thread(target=burst, args=(500,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    until(lambda: open_connections() == 0, "connections to end")
    until(lambda: edge.fds() <= before, "as few descriptors as the %d before: %s" % (before, edge.fds_by_kind()))


def open_connections():
    """established or closing sockets of the edge beyond its listeners, by its own descriptors"""
    n = 0
    for fd in os.listdir("/proc/%d/fd" % edge.pid):
        try:
            n += os.readlink("/proc/%d/fd/%s" % (edge.pid, fd)).startswith("socket:")
        except OSError:
            pass
    return n - 2  # one listening socket for each worker


def idle_memory_is_within_8_mib():
    pss = edge.pss_kib()
    check(pss <= 8 * 1024, "Pss is %d KiB" % pss)


def idle_connections_hold_no_pipe_and_little_memory():
    until(lambda: open_connections() == 0, "connections to end")
    before = edge.own_kib()
    conns = [send_hello("echo.example.com") for _ in range(200)]
    for s in conns:
        s.recv(65536)
    pipes = edge.fds_by_kind()["pipe"]
    grown = edge.own_kib() - before
    for s in conns:
        s.close()
    check(pipes <= 2 * 2 * 16, "%d pipe ends are open" % pipes)
    check(grown < 400, "200 idle pairs cost %d KiB" % grown)


def end_is_clean():
    check(edge.end() == 0, "exit status %s" % edge.proc.returncode)
    check(edge.find("edge.stopped"), "no closing line")


CASES = [the_name_decides_the_backend, openssl_with_old_and_new_versions_is_routed, unknown_name_gets_alert_112, no_name_gets_alert_112,
         not_tls_is_closed_without_a_byte, malformed_and_too_large_get_alert_50, early_end_of_the_client_is_counted,
         hello_byte_by_byte_and_in_tiny_records_arrives_unchanged, hello_of_1700_bytes_and_early_data_arrive_unchanged,
         slow_hello_is_closed_after_three_seconds_whatever_trickles, silent_client_is_closed_too, half_close_comes_through_both_ways,
         large_upload_keeps_its_checksum, large_download_keeps_its_checksum_at_a_slow_reader,
         readers_that_take_nothing_hold_little_of_the_kernels_memory, small_messages_on_many_connections_arrive_whole_and_in_order,
         reset_is_carried_over_both_ways, refused_backend_is_retried_on_another_without_the_client_seeing_it,
         backend_that_nothing_comes_back_from_is_left_for_another, no_living_backend_gets_alert_80,
         hup_swaps_routes_and_leaves_connections_alone, proxy_v2_header_is_exact_and_before_the_hello, header_is_never_sent_where_it_is_off,
         two_thousand_connections_leave_no_descriptor, idle_memory_is_within_8_mib, idle_connections_hold_no_pipe_and_little_memory,
         end_is_clean]

if __name__ == "__main__":
    try:
        status = run_cases(CASES)
    finally:
        if edge.proc.poll() is None:
            edge.proc.kill()
        scratch.end()
    sys.exit(status)
