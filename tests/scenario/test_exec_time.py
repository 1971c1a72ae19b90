#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The cases of test_exec.py that measure: Ctrl-C while output floods, through the CLI. RUN ALONE.

COST 8 s, 4 s of processor."""
import os, sys

os.execv(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_exec.py"), ["test_exec.py"] + (sys.argv[1:] or ["ctrl_c_under_flood"]))
