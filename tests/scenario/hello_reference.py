# SPDX-License-Identifier: Apache-2.0
"""A slow ClientHello reader written from RFC 8446 (4.1.2, 5.1), RFC 6066 3 and networking.md 8.4, to compare the real one with.

It works on the whole stream, one byte at a time, and knows nothing of the other's states.
"""
LIMIT = 16384


class More(Exception):
    """the stream ends too early"""


class Bad(Exception):
    """carries the outcome"""


class Records:
    """payload bytes out of the record layer; used counts the bytes of the stream"""

    def __init__(self, data):
        self.data, self.used, self.left, self.first = data, 0, 0, True

    def raw(self):
        if self.used >= LIMIT:
            raise Bad("too_big")
        if self.used >= len(self.data):
            raise More()
        self.used += 1
        return self.data[self.used - 1]

    def byte(self):
        if self.left == 0:
            wrong = "not_tls" if self.first else "malformed"
            if self.raw() != 22:
                raise Bad(wrong)
            if self.raw() != 3:
                raise Bad(wrong)
            self.raw()
            self.left = self.raw() * 256 + self.raw()
            self.first = False
            if not 1 <= self.left <= 16384:
                raise Bad("malformed")
        self.left -= 1
        return self.raw()


class Part:
    """a length-bound part of another part, or of the record layer"""

    def __init__(self, parent, size):
        self.parent, self.left = parent, size
        if isinstance(parent, Part):
            if size > parent.left:
                raise Bad("malformed")
            parent.left -= size
        self.source = parent.source if isinstance(parent, Part) else parent

    def byte(self):
        if self.left == 0:
            raise Bad("malformed")
        self.left -= 1
        return self.source.byte()

    def number(self, n):
        v = 0
        for _ in range(n):
            v = v * 256 + self.byte()
        return v

    def skip(self):
        while self.left:
            self.byte()


def normal_name(raw):
    """lower-case name or None"""
    if not all(chr(c) in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-" for c in raw):
        return None
    s = raw.decode("ascii").lower()
    if s.endswith("."):
        s = s[:-1]
    labels = s.split(".")
    if len(s) > 253 or any(not 1 <= len(x) <= 63 for x in labels):
        return None
    if len(labels) == 4 and all(x.isdigit() for x in labels):
        return None
    return s


def hello(stream):
    if stream.byte() != 1:
        raise Bad("malformed")
    size = 0
    for _ in range(3):
        size = size * 256 + stream.byte()
    if size > LIMIT:
        raise Bad("too_big")
    if size < 41:  # the shortest ClientHello there is
        raise Bad("malformed")
    body = Part(stream, size)
    legacy = body.number(2)
    Part(body, 32).skip()
    n = body.number(1)
    if n > 32:
        raise Bad("malformed")
    Part(body, n).skip()
    n = body.number(2)
    if n < 2 or n % 2:
        raise Bad("malformed")
    Part(body, n).skip()
    n = body.number(1)
    if n < 1:
        raise Bad("malformed")
    Part(body, n).skip()
    name, versions = None, []
    if body.left:
        n = body.number(2)
        if n != body.left:
            raise Bad("malformed")
        extensions = Part(body, n)
        while extensions.left:
            kind = extensions.number(2)
            n = extensions.number(2)
            e = Part(extensions, n)
            if kind == 0:
                if name is not None or n < 6:
                    raise Bad("malformed")
                if e.number(2) != e.left or e.number(1) != 0:
                    raise Bad("malformed")
                n = e.number(2)
                if not 1 <= n <= 255 or n != e.left:
                    raise Bad("malformed")
                name = bytes(e.byte() for _ in range(n))
            elif kind == 43:
                if n < 3:
                    raise Bad("malformed")
                n = e.number(1)
                if n < 2 or n % 2 or n != e.left:
                    raise Bad("malformed")
                while e.left:
                    v = e.number(2)
                    if v >> 8 == 3:  # GREASE is 0x?a?a, so never this
                        versions.append(v)
            else:
                e.skip()
    return name, max(versions) if versions else legacy


def read(data):
    """(outcome, name or "-", best version or 0, bytes looked at): outcomes are the words of mt_hello_result_name"""
    s = Records(data)
    try:
        name, version = hello(s)
    except More:
        return ("too_big" if s.used >= LIMIT else "more", "-", 0, s.used)
    except Bad as e:
        return (str(e), "-", 0, s.used)
    if name is None:
        return ("no_sni", "-", version, s.used)
    n = normal_name(name)
    return ("ok", n, version, s.used) if n else ("bad_name", "-", version, s.used)
