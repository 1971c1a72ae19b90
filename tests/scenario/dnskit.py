# SPDX-License-Identifier: Apache-2.0
"""A name server on loopback that says what a test wants, good and bad. Nothing is asked of the world's DNS."""
import ipaddress
import socket
import struct
import threading

TYPES = {1: "A", 28: "AAAA", 16: "TXT", 5: "CNAME"}


def name_bytes(name):
    return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".") if p) + b"\0"


class Dns(threading.Thread):
    """records[name]: [(type, value)]; ill[name]: "silent", "refused", or a function of the good reply that gives another one."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.sock.getsockname()[1]
        self.records, self.ill, self.asked = {}, {}, []
        self.start()

    def run(self):
        while True:
            try:
                q, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            try:
                self.answer(q, peer)
            except (IndexError, struct.error, OSError):
                pass

    def answer(self, q, peer):
        labels, at = [], 12
        while q[at]:
            labels.append(q[at + 1:at + 1 + q[at]].decode().lower())
            at += 1 + q[at]
        kind = TYPES.get(struct.unpack(">H", q[at + 1:at + 3])[0], "?")
        question, name = q[12:at + 5], ".".join(labels)
        self.asked.append((name, kind, q[:2]))
        how = self.ill.get(name)
        if how == "silent":
            return
        found, at_name = [], name
        for _ in range(8):  # an alias is followed, as a resolver does
            rows = self.records.get(at_name, [])
            alias = [v for t, v in rows if t == "CNAME"]
            if alias and kind != "CNAME":
                found.append((at_name, 5, name_bytes(alias[0])))
                at_name = alias[0]
                continue
            for t, v in rows:
                if t == kind:
                    data = b"".join(bytes([len(v[i:i + 255])]) + v[i:i + 255].encode() for i in range(0, max(len(v), 1), 255)) if t == "TXT" else ipaddress.ip_address(v).packed
                    found.append((at_name, {"A": 1, "AAAA": 28, "TXT": 16}[t], data))
            break
        rcode = 5 if how == "refused" else 3 if not found and not any(n == at_name for n in self.records) else 0
        head = q[:2] + struct.pack(">HHHHH", 0x8180 | rcode, 1, 0 if rcode else len(found), 0, 0)
        reply = head + question + b"".join(name_bytes(n) + struct.pack(">HHIH", t, 1, 60, len(d)) + d for n, t, d in found if not rcode)
        reply = how(reply) if callable(how) else reply
        self.sock.sendto(reply, peer)

    def count(self, name):
        """How many questions: what is sent again for want of an answer in time has the same number."""
        return len({(n, kind, number) for n, kind, number in list(self.asked) if n == name})

    def close(self):
        self.sock.close()
