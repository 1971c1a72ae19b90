#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_control_api.py once more, with two moat-control on one database and requests that take turns between them.
COST 36 s, 6 s of processor."""
import os, sys

os.environ["MOAT_REPLICAS"] = "2"
os.execv(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_control_api.py"), ["test_control_api.py"] + sys.argv[1:])
