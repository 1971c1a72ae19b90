# SPDX-License-Identifier: Apache-2.0
"""A port for a server that is started later: nobody else's until this process ends.

A port that the kernel gives and takes back may be another's by the time it is used: of another test, or of any connection on its way
out. These are below the range of outgoing connections, and a lock held for the life of the process keeps them from other tests.
The next higher port belongs to its holder too.
"""
import fcntl
import os
import random
import socket

FOLDER = "/tmp/moat-test-ports"
FIRST, LAST = 12000, 32766
held = []  # open files: their locks go with this process


def take(port):
    """@port and the next one, if nobody has them or has been told to take them"""
    f = open("%s/%d" % (FOLDER, port), "w")
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for p in (port, port + 1):
                with socket.socket(family) as s:
                    if family == socket.AF_INET6:
                        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    s.bind((address, p))
        return f
    except OSError:
        f.close()
        return None


def free_ports(count):
    """The first of @count ports in a row."""
    os.makedirs(FOLDER, exist_ok=True)
    for _ in range(1000):
        first, got = random.SystemRandom().randrange(FIRST, LAST - count, 2), []
        for port in range(first, first + count, 2):
            got.append(take(port))
            if not got[-1]:
                break
        else:
            held.extend(got)
            return first
        for f in filter(None, got):
            f.close()
    raise OSError("no %d ports in a row are free between %d and %d" % (count, FIRST, LAST))


def free_port():
    return free_ports(1)
