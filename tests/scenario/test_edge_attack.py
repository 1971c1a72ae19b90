#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The case of test_edge_soak.py that measures: others' p99 while the edge is attacked. RUN ALONE.

COST 18 s, 6 s of processor."""
import os, sys

os.execv(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_edge_soak.py"), ["test_edge_soak.py", "attack"])
