#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The cases of test_exec_guest.py that measure: Ctrl-C while output floods, a reader that does not read. RUN ALONE.

COST 8 s, 5 s of processor."""
import os, sys

os.execv(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_exec_guest.py"), ["test_exec_guest.py"] + (sys.argv[1:] or ["nothing_is_lost_to_a_slow_reader", "ctrl_c_under_flood"]))
