#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""docs/api/openapi.yaml walked by schemathesis, a tool of others that knows nothing of the server: requests made from the document, good
and bad ones, against a real server, and what comes back held against the document. Bounded: 45 s, a fixed seed. Needs root and PyPI (once).
COST 55 s, 30 s of processor."""
import os, re, subprocess, sys
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
import ports
from control_kit import case

NAME, VERSION, SECONDS = "openapi walk", "4.32.5", 45
if os.geteuid() != 0:
    kit.skip(NAME, "needs root")
    sys.exit(0)
if not kit.program("moat-control"):
    kit.skip(NAME, "moat-control is not built")
    sys.exit(0)


def tool():
    """Path of the walker in a folder of its own, made once; None when the registry does not give it."""
    venv = os.path.join(kit.ROOT, "build/schemathesis-" + VERSION)
    st = venv + "/bin/st"
    if os.path.exists(venv + "/done"):
        return st, ""
    r = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if r.returncode == 0:
        r = subprocess.run([venv + "/bin/pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
                            "schemathesis==" + VERSION], capture_output=True, text=True)
    if r.returncode:
        return None, (r.stderr.strip().splitlines() or ["?"])[-1][:200]
    open(venv + "/done", "w").close()
    return st, ""


ST, why = tool()
if not ST:
    kit.skip(NAME, "schemathesis %s does not install: %s" % (VERSION, why))
    sys.exit(0)

PORT = ports.free_port()
w = kit.World(listen_http="127.0.0.1:%d" % PORT, rate_limit_percent=0, quota_tier="unlimited")

# Streams, pages and sockets are no JSON; the rest would end the walk itself: its token, or every answer but 503.
PATHS_OUT = r"(/stream$|/connect$|/logs$|^/device|^/setup|/v1/auth/logout|/v1/auth/token/revoke|maintenance|suspend|/recovery)"
# Left to test_openapi.py and test_auth_matrix.py, which know ids that exist: that good requests are accepted, who may do what.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection"
ENOUGH = 20  # operations; with fewer the machine was too busy for the walk to say anything


def walk():
    env = {"PATH": os.environ["PATH"], "HOME": w.d, "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    r = subprocess.run([ST, "run", os.path.join(kit.ROOT, "docs/api/openapi.yaml"), "--url", "http://127.0.0.1:%d" % PORT,
                        "-H", "Authorization: Bearer " + w.token, "--max-time", str(SECONDS), "--phases", "fuzzing", "--checks", CHECKS,
                        "--exclude-path-regex", PATHS_OUT, "--seed", "1", "--max-examples", "4", "--request-timeout", "60", "--workers", "1",
                        "--suppress-health-check", "all", "--warnings", "off"], capture_output=True, text=True, env=env, cwd=w.d, timeout=SECONDS + 500)
    said = r.stdout
    tested = re.search(r"Tested: (\d+)", said)
    made = re.search(r"(\d+) generated", said)
    return r.returncode, int(tested.group(1)) if tested else 0, int(made.group(1)) if made else 0, said + r.stderr


try:
    status, tested, made, said = walk()
    print("# %d operations, %d requests in at most %d s" % (tested, made, SECONDS))
    if status == 0 and tested < ENOUGH:
        kit.skip("schemathesis finds nothing", "the machine was too busy: %d operations in %d s" % (tested, SECONDS))
    else:
        @case("schemathesis finds no answer that the document does not allow, and no fault of the server")
        def _():
            if status:
                print("\n".join("# " + line for line in said.splitlines()[:400]))
            assert status == 0 and made >= tested, (status, tested, made)

    @case("what it found: a key of a call that is no command is checked too")
    def _():
        for path in ("/v1/admin/keys/verify", "/v1/admin/keys/rewrap", "/v1/admin/projections/org_members_view/rebuild"):
            for key in ("k" * 129, ""):
                r = w.q("POST", path, {}, **{"Idempotency_Key": key})
                assert r.status == 400 and r.json["code"] == "invalid_argument", (path, len(key), r.status, r.text)
            assert w.q("POST", path, {}, key="k" * 128).status == 200, path

    @case("the server lives, its log holds and its views are what the log says")
    def _():
        assert w.control.poll() is None
        for verb in ("verify-log", "verify-views"):
            r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", verb], capture_output=True, text=True, timeout=120)
            assert r.returncode == 0, (verb, r.stdout[-500:], r.stderr[-500:])
finally:
    w.close()

sys.exit(kit.finish())
