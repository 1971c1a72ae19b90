#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The VMM drivers alone on a real host: Firecracker under its jailer, then QEMU with KVM, both with nested KVM and cgroup v2.
COST 70 s, 78 s of processor."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402


def tests():
    import test_vmm_qemu as raw
    import vmcases
    labkit.modprobe("kvm_amd", "tun")
    raw.HELLO_LIMIT_MS, raw.PATIENCE = 60000, 4
    failed = 0
    folder = os.environ.get("LAB_FIRECRACKER")
    only = sys.argv[1:]

    def wanted(cases):
        return [c for c in cases if not only or c.__name__ in only] or cases[:1]

    if folder:
        raw.World.kind = "firecracker"
        raw.World.driver = ["--firecracker", os.path.join(folder, "firecracker"), "--jailer", os.path.join(folder, "jailer"), "--patience", "30"]
        failed += raw.run_cases(wanted(vmcases.FIRECRACKER), "firecracker: ")
    else:
        print("skip - firecracker: " + os.environ["LAB_NO_FIRECRACKER"])
    raw.World.kind = "qemu"
    raw.World.driver = ["--vsock-program", os.path.join(raw.BIN, "moat-vsock"), "--kvm", "--patience", "30"]
    raw.World.devices = ["kvm"] + raw.World.devices
    failed += raw.run_cases(wanted(vmcases.QEMU), "qemu+kvm: ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(labkit.main(tests, "VMM drivers on a real host", vms=True))
