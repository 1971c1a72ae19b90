#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-agent with Firecracker under its jailer on a real host: see agentcases.py.
COST 109 s, 112 s of processor."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402


def tests():
    if not os.environ.get("LAB_FIRECRACKER"):
        print("skip - agent on firecracker: " + os.environ["LAB_NO_FIRECRACKER"])
        return 0
    import agentcases
    return agentcases.run("firecracker", "kvm")


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "agent on firecracker+kvm", vms=True))
