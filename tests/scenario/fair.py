# SPDX-License-Identifier: Apache-2.0
"""A clock for limits of time on a machine that others use too.

now() gives seconds like time.monotonic(), less the time in which this machine made somebody wait: runnable tasks without a processor and
tasks waiting for the disk (/proc/pressure), and what a hypervisor took away (steal of /proc/stat). On a quiet machine it is the
monotonic clock; it never runs slower than a quarter of it, so that every limit is reached. A limit measured with it is the same claim
in each run: a busy neighbour does not fail it, a program that idles too long does.

Waiting for something whose moment is not the claim is given LEAST seconds at the least.
"""
import os
import threading
import time

LEAST = 30.0
SLOWEST = 0.25
CORES = os.cpu_count() or 1
TICKS = os.sysconf("SC_CLK_TCK")


def _pressure(kind):
    """seconds since boot in which some task waited for it"""
    try:
        with open("/proc/pressure/" + kind) as f:
            return int(f.readline().rsplit("total=", 1)[1]) / 1e6
    except (OSError, IndexError, ValueError):  # a kernel without it
        return 0.0


def _lost():
    with open("/proc/stat") as f:
        steal = int((f.readline().split() + ["0"] * 9)[8])
    return _pressure("cpu") + _pressure("io") + steal / TICKS / CORES


class Clock:
    def __init__(self, real=time.monotonic, lost=_lost):
        self.real, self.lost, self.lock = real, lost, threading.Lock()
        self.seen = self.fair = real()
        self.lost_seen = lost()

    def now(self):
        with self.lock:
            real, lost = self.real(), self.lost()
            passed = real - self.seen
            self.fair += max(SLOWEST * passed, passed - max(0.0, lost - self.lost_seen))
            self.seen, self.lost_seen = real, lost
            return self.fair


now = Clock().now


class Pace:
    """Rests between looks at what is waited for. Looking costs processor time that this is slower by: @every seconds at the least, twice
    what a look took, and a twentieth of the time waited so far."""
    LONGEST = 0.25

    def __init__(self, every):
        self.every = every
        self.begun = self.asked = time.monotonic()

    def rest(self):
        t = time.monotonic()
        time.sleep(max(self.every, min(self.LONGEST, max(2 * (t - self.asked), (t - self.begun) / 20))))
        self.asked = time.monotonic()


def limit(seconds):
    """What to wait for an event whose moment is not the claim."""
    return max(LEAST, seconds)


def rest(seconds):
    """Sleeps until others have had @seconds with the machine's time for them: on a full machine longer."""
    end = now() + seconds
    while now() < end:
        time.sleep(min(0.1, seconds))


def best(measure, good, first, most):
    """@first samples of measure(), then more, up to @most, until good(samples); (samples, whether they are good). The bound stays what it is: a
    sample that a neighbour spoiled is followed by others, and a program that is too slow is so in all of them."""
    samples = []
    while len(samples) < most:
        samples.append(measure())
        if len(samples) >= first and good(samples):
            return samples, True
    return samples, False
