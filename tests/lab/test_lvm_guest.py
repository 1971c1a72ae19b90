#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A microVM on QEMU + KVM whose disk is a thin volume, and the cases of tests/scenario/test_agent_backups.py with volumes in LVM: held still for a snapshot,
deltas, kills, restores into a new volume that a guest then has, proofs.
COST 313 s, 362 s of processor."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labkit  # noqa: E402
import test_lvm as lvm  # noqa: E402

NAMES = ["a_store_is_told_when_there_is_one", "a_volume_that_is_written_to", "the_next_reads_what_changed",
         "a_guest_that_does_not_answer_holds_nothing_up", "killed_while_it_uploads",
         "a_backup_becomes_a_new_volume_that_a_guest_has", "parts_that_no_plan_wants_go", "a_proof_is_told_and_leaves_nothing",
         "one_that_is_cancelled_leaves_nothing", "one_of_a_volume_that_is_not_here", "a_volume_at_rest", "removed_with_its_snapshots"]
MOVE = "a_move_is_a_pre_copy_and_what_differs"  # two minutes: only when it is named, after a_volume_that_is_written_to, killed_while_it_uploads and a_volume_at_rest
if MOVE in sys.argv:
    NAMES.insert(-1, MOVE)


if __name__ == "__main__":
    if not labkit.INSIDE:
        lvm.bk.versitygw()  # made where there is a network
    sys.exit(labkit.main(lambda: lvm.tests(NAMES, guest=True), "volumes of guests in LVM", vms=True))
