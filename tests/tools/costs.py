#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What tests/run measured becomes what the files state: `costs.py LOG [SHARE]` writes the seconds and the seconds of processor of a whole run's log
into the COST of each file's first lines. The runner orders and packs the files by it. SHARE (1): how much of the log's time a quiet machine needs.
A file that says RUN ALONE keeps saying so; one that says nearly the same stays as it is.
"""
import os
import re
import sys

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STATED = re.compile(r"COST (\d+)\s+s,\s+(\d+)\s+s\s+of\s+processor")
NEARLY = 0.3


def near(a, b):
    return abs(a - b) <= max(3, NEARLY * max(a, b))


def main():
    with open(sys.argv[1]) as f:
        rows = re.findall(r"^(test_\w+\.py): \d+ cases in ([\d.]+) s, ([\d.]+) s of processor", f.read(), re.M)
    share = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    for name, seconds, cpu in rows:
        path = next((p for d in ("scenario", "lab") if os.path.exists(p := os.path.join(TESTS, d, name))), None)
        if not path:
            continue
        with open(path) as f:
            text = f.read()
        cpu = max(1, round(float(cpu)))
        seconds = max(1, round(float(seconds) * share), cpu // 2)
        says = "COST %d s, %d s of processor" % (seconds, cpu)
        head, rest = text[:2000], text[2000:]
        said = STATED.search(head)
        if said and near(int(said.group(1)), seconds) and near(int(said.group(2)), cpu):
            continue
        if said:
            head = STATED.sub(says, head, 1)
        else:  # before the end of the text that every file begins with
            end = head.index('"""', head.index('"""') + 3)
            head = head[:end].rstrip() + "\n\n" + says + "." + head[end:]
        with open(path, "w") as f:
            f.write(head + rest)
        print("%s: %s" % (name, says))


if __name__ == "__main__":
    sys.exit(main())
