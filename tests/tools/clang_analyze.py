#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""clang's static analyser over every C file of src, as the compile database of BUILD has it: `clang_analyze.py BUILD`. Prints what it finds, ends with 1 then.

What a file came to is kept by content (the file, every header it includes, the flags, clang's version, this file) in MOAT_ANALYZE_CACHE, by default
~/.cache/moat-analyze, as ccache does it: all worktrees of a machine share it, and CI pays for what changed alone. With MOAT_ANALYZE_SECONDS nothing new is begun after
so long, and how many files were left out is said; those that were changed last come first, so a change is always looked at, on a machine that has no answers yet too.

Checkers that are switched off, and why:
- security.insecureAPI.DeprecatedOrUnsafeBufferHandling wants the _s functions of C11's annex K, which no libc here has.
- deadcode.DeadStores: the analyser does not know __attribute__((cleanup)), which reads what MT_TAKE and `fd = -1` leave. gcc's own warnings look for unused values.
- a way to a finding on which it assumes that one result of a call is neither 0 nor below: a function of another file may do that for all it knows; ours answer 0 or -code (style.md §3).
- what clang_analyze.known lists: file, checker, the source line, and why it is none. A line of it that no longer applies is told.
- of unix.Malloc what it calls a potential leak (the same reason; use after free and double free stay on): LeakSanitizer looks for leaks, in each unit test and with every allocation
  failed in turn.
Everything else that is on by default stays on. That MT_FAIL is below 0 it is told in base/err.h.
"""
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("MOAT_ANALYZE_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "moat-analyze")
OFF = ["security.insecureAPI.DeprecatedOrUnsafeBufferHandling", "deadcode.DeadStores"]
LEAK = re.compile("Potential leak of memory pointed to by|Potential memory leak")
# What moves between machines, and gcc's own words.
DROP = re.compile(r"-(W.*|f(diagnostics|macro-prefix|stack-clash|cf-protection|trivial|no-delete|no-strict-overflow).*|M[DMGP]|g|O\d|U_FORTIFY_SOURCE|D_FORTIFY_SOURCE=\d|D__SANITIZE.*)$")


def flags_of(command):
    out, words = [], iter(shlex.split(command))
    for w in words:
        if w in ("-MQ", "-MF", "-o", "-c"):
            next(words)
        elif w.startswith("-") and not DROP.match(w):
            out.append(w)
    return out


def digest(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p.encode() if isinstance(p, str) else p)
        h.update(b"\0")
    return h.hexdigest()


class Files:
    """Hashes of files, each read once."""

    def __init__(self):
        self.seen = {}

    def hash(self, path):
        if path not in self.seen:
            try:
                with open(path, "rb") as f:
                    self.seen[path] = hashlib.sha256(f.read()).hexdigest()
            except OSError:
                self.seen[path] = "-"
        return self.seen[path]


def place(path):
    """A path as it is called in the cache: below this tree by its name there, so that worktrees share."""
    return "@" + os.path.relpath(path, ROOT) if path.startswith(ROOT + os.sep) else path


def real(name):
    return os.path.join(ROOT, name[1:]) if name.startswith("@") else name


def reports(text):
    """One text for each finding: its warning and the way there."""
    out = []
    for line in text.split("\n"):
        if re.match(r"\d+ warnings? generated", line) or line.startswith("In file included from "):
            continue
        if re.search(r": (warning|error|fatal error): ", line):
            out.append(line)
        elif out:
            out[-1] += "\n" + line
    return out


NEITHER = re.compile(r"note: Assuming '(\w+)' is not equal to 0\n")


def neither(report):
    return any("note: Assuming '%s' is >= 0\n" % v in report for v in NEITHER.findall(report))


def read_known():
    """{(file, checker, source line): reason}"""
    out = {}
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "clang_analyze.known")) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                file, checker, text, why = line.rstrip("\n").split("\t")
                out[file, checker, text] = why
    return out


KNOWN, MET = read_known(), set()
UNTIL = time.monotonic() + float(os.environ.get("MOAT_ANALYZE_SECONDS") or 86400)


def known(report):
    lines = report.split("\n")
    m = re.match(r"([^:]+):\d+:\d+: \w+: .* \[([\w.]+)\]", lines[0])
    key = (m[1], m[2], lines[1].strip()) if m and len(lines) > 1 else None
    if key in KNOWN:
        MET.add(key)
    return key in KNOWN


def newest_first(entries):
    """By the commit that changed them last, what is not committed before all; without a history as they come."""
    def git(*argv):
        r = subprocess.run(["git", "-C", ROOT, *argv], capture_output=True, text=True)
        return r.stdout.split("\n") if r.returncode == 0 else []
    rank = {}
    for name in [line[3:] for line in git("status", "--porcelain", "--untracked-files=all", "--", "src")] + git("log", "-n", "400", "--format=", "--name-only", "--", "src"):
        rank.setdefault(name, len(rank))
    return sorted(entries, key=lambda e: rank.get(os.path.relpath(os.path.normpath(os.path.join(e["directory"], e["file"])), ROOT), len(rank)))


def look(entry, version, files):
    """What is found in a file, "" nothing; None when there is no time left to look."""
    build, source = entry["directory"], os.path.normpath(os.path.join(entry["directory"], entry["file"]))
    flags = flags_of(entry["command"])
    first = digest(version, " ".join(OFF), place(source), files.hash(source), " ".join(flags))
    known = os.path.join(CACHE, first[:2], first)
    try:
        with open(known) as f:
            for line in f:
                said = json.loads(line)
                if all(files.hash(real(name)) == h for name, h in said["deps"].items()):
                    return said["found"]
    except (OSError, ValueError, KeyError):
        pass
    if time.monotonic() > UNTIL:
        return None
    deps = os.path.join(build, "analyze-%s.d" % first[:16])
    r = subprocess.run(["clang", "--analyze", "--analyzer-output", "text", "-Wno-everything", "-MD", "-MF", deps, "-D__CLANG_ANALYZER__"] +
                       [x for c in OFF for x in ("-Xclang", "-analyzer-disable-checker=" + c)] + flags + ["-o", "/dev/null", source], cwd=build, capture_output=True, text=True)
    found = re.sub(re.escape(ROOT) + "/", "", r.stderr).replace("../", "").strip()
    found = "\n".join(reports(found))
    if r.returncode and not found:
        found = "%s: clang ended with %d" % (place(source), r.returncode)
    try:
        with open(deps) as f:
            named = f.read().replace("\\\n", " ").split(":", 1)[1].split()
        os.unlink(deps)
    except (OSError, IndexError):
        return found
    if r.returncode == 0:
        os.makedirs(os.path.dirname(known), exist_ok=True)
        said = {"deps": {place(p): files.hash(p) for p in (os.path.normpath(os.path.join(build, n)) for n in named)}, "found": found}
        with open(known, "a") as f:  # one short write: two at once leave two lines
            f.write(json.dumps(said) + "\n")
    return found


def main():
    build = os.path.abspath(sys.argv[1])
    only = sys.argv[2:]
    with open(os.path.join(build, "compile_commands.json")) as f:
        entries = [e for e in json.load(f) if os.path.normpath(os.path.join(e["directory"], e["file"])).startswith(os.path.join(ROOT, "src") + os.sep)]
    entries = newest_first({e["file"]: e for e in entries if not only or any(o in e["file"] for o in only)}.values())
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    files, bad, late = Files(), 0, 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as ex:
        for found in ex.map(lambda e: look(e, version, files), entries):
            if found is None:
                late += 1
                continue
            # what is kept is all that clang said: the rules here may change without another run
            found = "\n".join(x for x in reports(found) if not LEAK.search(x.split("\n")[0]) and not neither(x) and not known(x)) or ("" if ": warning: " in found else found)
            if found:
                bad += 1
                print(found, flush=True)
    for key in sorted(set(KNOWN) - MET) if not only and not late else []:
        bad += 1
        print("tests/tools/clang_analyze.known: %s: %s is found no more: take the line out: %s" % key)
    print("%d files, %d with findings%s" % (len(entries) - late, bad, ", %d not looked at for want of time" % late if late else ""), file=sys.stderr)
    return 1 if bad or late == len(entries) else 0


if __name__ == "__main__":
    sys.exit(main())
