#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ClientHellos of real programs, cut and mutated: the reader and the whole edge against a slow reference written from the RFCs.

HELLO_SEED and HELLO_MUTATIONS (default 4,000) choose the mutated inputs; the seed is printed. Where Go is, its client
(post-quantum key shares) is compiled once for each build tree, which takes a minute of processor.
COST 34 s, 28 s of processor, its compilation among them.
"""
import os
import random
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hello_clients  # noqa: E402
import hello_reference  # noqa: E402
from edgekit import ROOT, Backend, Edge, Scratch, check, client_hello, connect, free_port, read_all, run_cases, until  # noqa: E402

TOOL = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(ROOT, "build"), "tests/tools/hello_tool")
SEED = int(os.environ.get("HELLO_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
MUTATIONS = int(os.environ.get("HELLO_MUTATIONS", "4000"))
scratch = Scratch()
corpus = {}
rnd = random.Random(SEED)


def tool(inputs, cuts="some"):
    """answers of the real reader as the reference gives them; cuts="all": each input cut in two at every byte as well"""
    feed = b"".join(len(x).to_bytes(4, "little") + x for x in inputs)
    r = subprocess.run([TOOL, cuts], input=feed, stdout=subprocess.PIPE, timeout=300)
    check(r.returncode == 0, "hello_tool ended with %d" % r.returncode)
    lines = r.stdout.decode().split("\n")[:-1]
    check(len(lines) == len(inputs), "%d answers to %d inputs" % (len(lines), len(inputs)))
    out = []
    for i, line in enumerate(lines):
        w = line.split(" ")
        check(len(w) == 3, "the answer depends on how the stream is cut: %s for %s" % (line, inputs[i].hex()))
        out.append((w[0], w[1], int(w[2], 16)))
    return out


def compare(inputs):
    outcomes = {}
    for x, got in zip(inputs, tool(inputs)):
        want = hello_reference.read(x)[:3]
        check(got == want, "reader says %s, reference %s for %s" % (got, want, x.hex()))
        outcomes[got[0]] = outcomes.get(got[0], 0) + 1
    return outcomes


def real_programs_are_read_rightly():
    got, missing = hello_clients.capture(scratch.dir)
    corpus.update(got)
    corpus["python"] = ("py.example.com", client_hello("py.example.com"))
    corpus["python_alpn"] = ("py.example.com", client_hello("py.example.com", alpn=["h2"]))
    for m in missing:
        print("# SKIP hellos of %s: not on this machine" % m)
    families = {k.split("_")[0].rstrip("0123456789#") for k in corpus}
    check({"openssl", "curl", "python"} <= families and len(corpus) >= 18, "only %s" % sorted(corpus))
    for label, (name, data) in corpus.items():
        (got,) = tool([data], "all")
        check(got == hello_reference.read(data)[:3], "%s: %s" % (label, got))
        check(got[0] == ("ok" if name else "no_sni") and got[1] == (name.lower() if name else "-"), "%s: %s" % (label, got))
    if any(k.startswith("go") for k in corpus) and hello_clients.go_knows_ml_kem():
        big = max(len(d) for k, (_, d) in corpus.items() if k.startswith("go"))
        check(big > 1400, "the post-quantum key share of go is not there: at most %d bytes" % big)
    print("# %d hellos of %s, %d..%d bytes" % (len(corpus), ", ".join(sorted(families)), min(len(d) for _, d in corpus.values()),
                                               max(len(d) for _, d in corpus.values())))


def every_prefix_asks_for_more_and_no_cut_changes_the_answer():
    for label, (_, data) in corpus.items():
        step = 1 if len(data) < 2000 else 7
        prefixes = [data[:i] for i in range(0, len(data), step)]
        check(all(x[0] == "more" for x in tool(prefixes)), "%s: a prefix was judged" % label)
        compare(prefixes[::50])


def records(payload, sizes):
    out, i = b"", 0
    while i < len(payload):
        n = max(1, sizes())
        piece = payload[i:i + n]
        out += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        i += n
    return out


def mutate(data):
    """a hello with a few faults, near lengths and types more often than elsewhere"""
    d = bytearray(data)
    kind = rnd.randrange(9)
    if kind == 0:
        return bytes(d[:rnd.randrange(len(d) + 1)])
    if kind == 1:  # cut anew into records
        return records(bytes(d[5:]), lambda: rnd.choice((1, 2, 3, 5, 17, 100, 600)))
    if kind == 2:
        i = rnd.randrange(len(d))
        d[i:i] = rnd.randbytes(rnd.randrange(1, 9))
        return bytes(d)
    if kind == 3:
        i = rnd.randrange(len(d))
        del d[i:i + rnd.randrange(1, 9)]
        return bytes(d)
    if kind == 4:  # an extension twice, or more of them, with lengths put right: a valid message or nearly
        try:
            return grown(bytes(d))
        except (IndexError, OverflowError):  # mutated too far already
            return bytes(d)
    if kind == 5:  # in and around the name
        at = data.lower().find(b"example.com")
        i = (at if at > 0 else 60) + rnd.randrange(-18, 14)
        d[max(0, min(i, len(d) - 1))] = rnd.choice(b"abcdefgxyz._-0A\x00\xff*")
        return bytes(d)
    for _ in range(rnd.randrange(1, 4)):
        i = rnd.choice((rnd.randrange(len(d)), rnd.randrange(min(140, len(d))), rnd.randrange(min(12, len(d)))))
        d[i] = rnd.choice((0, 1, 2, 22, 255, d[i] ^ (1 << rnd.randrange(8)), rnd.randrange(256), (d[i] + 1) & 255, (d[i] - 1) & 255))
    return bytes(d)


def grown(data):
    """the message with extensions added and all lengths put right"""
    body = data[9:9 + int.from_bytes(data[6:9], "big")]
    i = 34
    i += 1 + body[i]
    i += 2 + int.from_bytes(body[i:i + 2], "big")
    i += 1 + body[i]
    ext = body[i + 2:]
    for _ in range(rnd.randrange(1, 4)):
        k = rnd.choice((0, 0x0a0a, 0xfe0d, 43, 51, 0x1a1a, rnd.randrange(65536)))
        n = rnd.choice((0, 1, 2, 5, 40, 300, 5000))
        inner = rnd.randbytes(n)
        if k == 0:
            name = rnd.choice((b"corpus.example.com", b"d.example.com", b"1.2.3.4", b"x" * 64 + b".com", b"a..b", b"A_b-C.Example.COM."))
            inner = (len(name) + 3).to_bytes(2, "big") + b"\0" + len(name).to_bytes(2, "big") + name
        if k == 43:
            inner = b"\x04\x7a\x7a" + rnd.choice((b"\x03\x04", b"\x03\x01", b"\x7f\x1c"))
        new = k.to_bytes(2, "big") + len(inner).to_bytes(2, "big") + inner
        ext = new + ext if rnd.random() < 0.5 else ext + new
    body = body[:i] + len(ext).to_bytes(2, "big") + ext
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return records(message, lambda: rnd.choice((16384, 16384, 700)))


def mutated_inputs_are_read_as_the_reference_reads_them():
    print("# HELLO_SEED=%d HELLO_MUTATIONS=%d" % (SEED, MUTATIONS))
    sources = [d for _, d in corpus.values()]
    small = [d for d in sources if len(d) < 700]
    outcomes = {}
    for _ in range(0, MUTATIONS, 1000):
        batch = []
        for _ in range(1000):
            x = rnd.choice(small if rnd.random() < 0.8 else sources)
            for _ in range(rnd.choice((1, 1, 1, 2, 3))):
                x = mutate(x) if len(x) > 100 else x
            batch.append(x)
        batch += [rnd.randbytes(rnd.randrange(0, 60)) for _ in range(20)] + [b"\x16\x03\x01" + rnd.randbytes(rnd.randrange(3, 90)) for _ in range(20)]
        for k, n in compare(batch).items():
            outcomes[k] = outcomes.get(k, 0) + n
    print("# outcomes: %s" % outcomes)
    check({"ok", "more", "malformed", "not_tls", "bad_name", "too_big"} <= set(outcomes), "the inputs reach too little: %s" % outcomes)


def edge_sends_each_input_where_the_reference_says_with_its_bytes_unchanged():
    seen = {}

    def backend(tag):
        def handle(c):
            data = b""
            c.settimeout(120)
            while True:
                d = c.recv(65536)
                if not d:
                    break
                data += d
            seen[data] = seen.get(data, []) + [tag]
            c.sendall(tag)
        return Backend(handle)
    backends = [backend(b"one"), backend(b"two"), backend(b"three")]
    names = {"%sorpus.example.com" % chr(97 + i): i % 3 for i in range(26)}
    names.update({"py.example.com": 1, "d.example.com": 2, "a_b-c.example.com": 0})
    port = free_port()
    e = Edge(["--static", scratch.write("routes", "".join("%s ::1 %d\n" % (n, backends[i].port) for n, i in names.items())), "--listen",
              "[::1]:%d" % port, "--workers", "2"])
    e.wait("edge.started")
    alert = {"no_sni": 112, "bad_name": 112, "malformed": 50, "too_big": 50}
    wrong, counts, late, lock = [], {}, {}, threading.Lock()

    def one(x):
        outcome, name, _, used = hello_reference.read(x)
        target = names.get(name) if outcome == "ok" else None
        s, began = connect(port), time.monotonic()
        try:
            i = 0
            while i < len(x):  # the stream in pieces, each pushed at once
                n = lengths.choice((1, 7, 100, 5000, 5000))
                s.sendall(x[i:i + n])
                i += n
            s.shutdown(socket.SHUT_WR)
            got = read_all(s)
        except (ConnectionResetError, BrokenPipeError, OSError) as err:  # not connected: reset before the end was said
            check(isinstance(err, (ConnectionResetError, BrokenPipeError)) or err.errno == 107, repr(err))
            got = b"reset"
        s.close()
        if outcome == "ok" and target is not None:
            want = [(b"one", b"two", b"three")[target]]
            ok = got in want and seen.get(x) and set(seen[x]) == set(want)
        else:
            number = alert.get(outcome, 112 if outcome == "ok" else None)
            want = [bytes([21, 3, 1, 0, 2, 2, number])] if number else [b""]
            # what follows the judged bytes may come after the goodbye, then a reset takes the place of the end
            ok = (got in want or (got == b"reset" and used < len(x))) and x not in seen
        with lock:
            late[x] = late.get(x, 0) + 1
            if not ok and time.monotonic() - began > 2 and late[x] < 10:  # a name has three seconds to come, and this process may have stood for as long
                queue.append(x)
                return
            counts[outcome] = counts.get(outcome, 0) + 1
            if not ok:
                wrong.append("%s %s: got %r, want %r for %s" % (outcome, name, got[:40], want, x.hex()))

    lengths = random.Random(SEED + 1)
    inputs = [d for _, d in corpus.values()]
    small = [d for d in inputs if len(d) < 700]
    inputs += [mutate(rnd.choice(small)) for _ in range(500)]
    inputs = [x for x in dict.fromkeys(inputs) if x]
    queue = list(inputs)

    def run():
        while True:
            with lock:
                if not queue:
                    return
                x = queue.pop()
            try:
                one(x)
            except Exception as err:  # noqa: BLE001
                with lock:
                    wrong.append("%r for %s" % (err, x.hex()))
    threads = [threading.Thread(target=run) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print("# %d inputs through the edge: %s" % (len(inputs), counts))
    check(not wrong, "%d went wrong: %s" % (len(wrong), wrong[0] if wrong else ""))
    check(counts.get("ok", 0) > 50, "too few were routed")
    until(lambda: e.proc.poll() is None, "the edge")
    check(e.end() == 0, "exit status")


CASES = [real_programs_are_read_rightly, every_prefix_asks_for_more_and_no_cut_changes_the_answer,
         mutated_inputs_are_read_as_the_reference_reads_them, edge_sends_each_input_where_the_reference_says_with_its_bytes_unchanged]

if __name__ == "__main__":
    try:
        status = run_cases(CASES)
    finally:
        scratch.end()
    sys.exit(status)
