#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-agent with QEMU and KVM on a real host: see agentcases.py.
COST 140 s, 141 s of processor."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402


def tests():
    import agentcases
    return agentcases.run("qemu", "kvm")


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "agent on qemu+kvm", vms=True))
