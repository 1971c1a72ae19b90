#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages on a host that has none of moat, under its own systemd: installed, used, upgraded to the next version under load, back, the database
lost and put back from the object store, purged. COST 142 s, 67 s of processor.

Real: dpkg and its maintainer scripts, systemd with the units as packaged, PostgreSQL by its own unit, the daemons, the VM. The steps are lib/packages_kit.py's.
"""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "lib")]
import backupkit  # noqa: E402
import hostkit  # noqa: E402
import packages_kit  # noqa: E402


class Suite(packages_kit.Suite):
    """What this host has other than most: QEMU and an emulated processor."""
    AGENT = (("# host_accepted = ", 'host_accepted = ["nofile"]'),)  # a container's limit is lower than the unit's
    CONTROL = (("# vmm_allowed = ", 'vmm_allowed = ["qemu-kvm", "qemu-tcg"]'),)


def prepare(folder):
    backupkit.versitygw()  # there is no network inside
    packages_kit.prepare(folder)


def tests():
    s = Suite("/data")
    return s.run((("a machine with PostgreSQL and without moat", s.bare),
                  ("the installer: users, keys, units enabled, control plane and edge run, no agent without a node", s.install),
                  ("the documented steps make this machine a node, every unit runs confined", s.setup),
                  ("golden path: the example is deployed and serves through the edge", s.golden_path),
                  ("upgrade to the next version under load: no request failed, no connection cut, VM and instance the same, new programs run", s.upgrade),
                  ("and back to the version before, which serves on the newer schema, the same", s.and_back),
                  ("the database is lost and put back from its backup: the page is served all the while, the VM goes on", s.database_lost),
                  ("apt purge leaves nothing: files, users, units, nft, cgroups, links, mounts", s.purge)))


if __name__ == "__main__":
    sys.exit(hostkit.main(tests, prepare))
