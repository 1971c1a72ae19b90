#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The mesh of many machines (tests/mesh/run) as often as everything else is tested: ten with real wireguard-go, then fifty with the recording
device, which shows who was told what and when and not that packets pass. Three are in test_mesh and test_two_nodes.
COST 90 s, 31 s of processor."""
import os
import subprocess
import sys

run = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mesh/run")
sys.exit(max(subprocess.call([run, *more]) for more in (["10"], ["--record", "50"])))
