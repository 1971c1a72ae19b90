# SPDX-License-Identifier: Apache-2.0
"""docs/api/cli-schemas.json as a check: each document that a command prints with --json, and each item of a list."""
import json
import os
import re

try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = os.environ.get("MOAT_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))
with open(os.path.join(ROOT, "docs/api/cli-schemas.json")) as f:
    SCHEMA = json.load(f)
if jsonschema:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    RESOLVER = jsonschema.RefResolver("", SCHEMA)


def one(name, value):
    check = jsonschema.Draft202012Validator(SCHEMA["$defs"][name], resolver=RESOLVER)
    return [f"{name} at {'/'.join(map(str, e.absolute_path)) or 'top'}: {e.message[:300]}" for e in check.iter_errors(value)]


def command_of(line):
    """Name of the list command of a line: "routes --all" is "routes list"."""
    words = [w for w in line.replace("| ", "").split() if not w.startswith("-")]
    for name in (" ".join(words[:3]), " ".join(words[:2]), words[0] + " list", words[0]):
        if name in SCHEMA["x-lists"]:
            return name
    return None


def faults(line, docs):
    """What is wrong with the documents of one command; none is a good answer."""
    if not jsonschema:
        return []
    bad = []
    for d in docs:
        kind = d.get("kind") if "api" in d else None
        if "error" in d:
            bad += one("error", d)
        elif "type" in d and "data" not in d:
            bad += one("line", d)
        elif kind == "List":
            bad += one("list", d)
            name = command_of(line)
            if not name:
                bad.append(f"'{line}' prints a list, but x-lists of docs/api/cli-schemas.json does not name its items")
            for item in d["items"] if name else []:
                bad += one(SCHEMA["x-lists"][name], item)
        elif kind == "Receipt":
            bad += one("receipt", d)
        else:
            bad += one("object", d)
            if kind not in SCHEMA["$defs"]:
                bad.append(f"kind '{kind}' is not in docs/api/cli-schemas.json")
    return bad
