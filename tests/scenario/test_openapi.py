#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""docs/api/openapi.yaml is what the program serves: it is made again and compared, every call is answered as it says, with
nothing undescribed, and every endpoint is given every kind of bad input, from tables that miss no route. Needs root.
COST 22 s, 15 s of processor."""
import importlib.util, json, os, re, subprocess, sys, time
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import call, case, wait_for

kit.need("openapi")
try:
    import jsonschema
except ImportError:
    kit.skip("openapi", "python3-jsonschema is not installed")
    sys.exit(0)

spec = importlib.util.spec_from_file_location("openapi", os.path.join(kit.ROOT, "docs/api/openapi.py"))
gen = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gen)
FILE = os.path.join(kit.ROOT, "docs/api/openapi.yaml")
O, A, E = gen.O, gen.A, gen.E
D1 = "sha256:" + "1" * 64
DB = """
[processes.db]
command = ["/db"]
[processes.db.resources]
memory = "128Mi"
cpu = 0.1
[processes.db.scaling]
min = 0
max = 1
[[processes.db.mounts]]
volume = "files"
path = "/files"
[[volumes]]
name = "files"
size = "1Gi"
"""
MANIFEST = """schema_version = "v1"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[processes.web.resources]
memory = "128Mi"
[[processes.web.ports]]
name = "tls"
internal = 8443
"""
# A body that works, for each route that takes one. "$x" is the id of what the seeding made; "$v" the version of the object.
BODIES = {
    "POST /v1/auth/tokens": {"name": "ci", "scopes": ["apps:read"]},
    "POST /v1/auth/device/start": {"client_name": "test"},
    "POST /v1/auth/device/token": {"device_code": "moat_dc_x"},
    "POST /v1/auth/token": {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"},
    "POST /v1/auth/token/refresh": {"refresh_token": "x"},
    "POST /v1/auth/token/revoke": {"token": "x"},
    "POST /v1/orgs": {"name": "walk-org", "billing_email": "a@b.example"},
    "PATCH " + O: {"developer_exec": True, "expected_version": "$v"},
    "DELETE " + O: {},
    "POST " + O + "/suspend": {"reason": "walk"},
    "POST " + O + "/resume": {"reason": "walk"},
    "POST " + O + "/members": {"email": "m@walk.example", "role": "readonly"},
    "PATCH " + O + "/members/{member_id}": {"role": "developer", "expected_version": "$v"},
    "DELETE " + O + "/members/{member_id}": {},
    "POST " + O + "/service-principals": {"name": "bot", "scopes": ["apps:read"]},
    "PATCH " + O + "/service-principals/{sp_id}": {"name": "bot2", "expected_version": "$v"},
    "POST " + O + "/service-principals/{sp_id}/rotate": {"overlap_seconds": 60},
    "DELETE " + O + "/service-principals/{sp_id}": {},
    "PUT " + O + "/log-drains/{drain}": {"kind": "otlp", "target": "https://otlp.walk.example/v1/logs", "token": "t", "expected_version": 0},
    "DELETE " + O + "/log-drains/{drain}": {},
    "PUT " + O + "/registry-credentials/{host}": {"username": "walker", "password": "p", "expected_version": 0},
    "DELETE " + O + "/registry-credentials/{host}": {},
    "POST /v1/ipv4-pool": {"address": "203.0.113.77"},
    "DELETE /v1/ipv4-pool/{address}": {},
    "POST " + E + "/networking/ipv4": {},
    "DELETE " + E + "/networking/ipv4": {},
    "POST /v1/quarantine": {"target_type": "env", "target_id": "$env_id", "reason": "walk"},
    "DELETE /v1/quarantine/{target_id}": {"reason": "walk"},
    "POST /v1/image-blocks": {"digest": "sha256:" + "9" * 64, "reason": "walk"},
    "DELETE /v1/image-blocks/{digest}": {"reason": "walk"},
    "POST " + O + "/projects": {"name": "walk"},
    "PATCH " + O + "/projects/{project_id}": {"name": "walk2", "expected_version": "$v"},
    "DELETE " + O + "/projects/{project_id}": {},
    "POST " + O + "/apps": {"name": "walk", "description": "d"},
    "PATCH " + A: {"description": "e", "expected_version": "$v"},
    "DELETE " + A: {},
    "POST " + A + "/envs": {"name": "walk", "protected": False},
    "PATCH " + E: {"protected": True, "expected_version": "$v"},
    "DELETE " + E: {},
    "POST " + A + "/manifest/validate": {"manifest": MANIFEST},
    "POST " + A + "/releases": {"manifest": MANIFEST.replace("128", "192"), "image_digest": D1, "verify_image": False},
    "POST " + E + "/deploys": {"release_id": "$release_id", "note": "walk", "timeout_seconds": 60},
    "POST " + E + "/rollbacks": {"release_id": "$release_id"},
    "POST " + E + "/restarts": {"process_types": ["web"]},
    "PUT " + E + "/scale": {"processes": [{"process_type": "web", "desired": 1}], "expected_version": "$v"},
    "PUT " + E + "/secrets": {"values": {"A": "1"}, "expected_version": "$v"},
    "PATCH " + E + "/secrets": {"set": {}, "unset": ["A"]},
    "POST " + E + "/secrets/confirm-none": {},
    "POST " + E + "/secrets/versions/{version_id}/activate": {},
    "POST /v1/admin/keys/rewrap": {},
    "POST /v1/admin/keys/verify": {},
    "POST " + E + "/rebalance": {"process_types": ["web"]},
    "POST " + E + "/instances/{instance_id}/restart": {},
    "POST " + E + "/instances/{instance_id}/exec": {"command": ["true"], "cols": 100},
    "DELETE " + E + "/exec-sessions/{exec_session_id}": {},
    "POST " + E + "/volumes": {"name": "walk", "size_bytes": 1 << 30},
    "PATCH " + E + "/volumes/{volume_id}": {"backup_enabled": False, "expected_version": "$v"},
    "POST " + E + "/volumes/{volume_id}/resize": {"size_bytes": 2 << 30},
    "DELETE " + E + "/volumes/{volume_id}": {},
    "POST " + E + "/volumes/{volume_id}/snapshots": {"note": "walk"},
    "DELETE " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}": {},
    "POST " + E + "/volumes/{volume_id}/restore": {"snapshot_id": "$backup_id", "name": "walk-restored"},
    "POST " + E + "/volumes/{volume_id}/migrate": {"node_id": "$node_id"},
    "DELETE " + O + "/migrations/{migration_id}": {},
    "POST " + E + "/volumes/{volume_id}/verify": {"snapshot_id": "$backup_id"},
    "POST " + E + "/volumes/{volume_id}/recover": {"accept_loss_since": "2026-01-01T00:00:00Z"},
    "POST " + E + "/volume-attachments": {"volume_id": "$volume_id", "process_type": "db", "mount_path": "/walk"},
    "POST " + E + "/volume-attachments/{attachment_id}/replace": {"new_volume_id": "$attached_id"},
    "DELETE " + E + "/volume-attachments/{attachment_id}": {},
    "POST " + E + "/routes": {"hostname": "walk.example.com", "backend_process_type": "web", "backend_port": 8443, "max_connections": 5},
    "PATCH " + E + "/routes/{route_id}": {"balance": "least_conn", "expected_version": "$v"},
    "DELETE " + E + "/routes/{route_id}": {},
    "POST /v1/routes/{route_id}/disable": {"reason": "walk"},
    "POST /v1/routes/{route_id}/enable": {"reason": "walk"},
    "PATCH /v1/nodes/{node_id}": {"labels": {"zone": "walk"}, "config": {"cpu_ceiling_percent": 700}, "reason": "walk", "expected_version": "$v"},
    "POST /v1/nodes/{node_id}/approve": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/cordon": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/uncordon": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/drain": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/disable": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/confirm-offline": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/mark-lost": {"reason": "walk"},
    "POST /v1/nodes/{node_id}/rotate-key": {"reason": "walk", "lead_seconds": 60},
    "DELETE /v1/nodes/{node_id}": {"reason": "walk"},
    "POST /v1/enrollment-tokens": {"roles": ["worker", "edge"], "node_name": "walk", "source_cidr": "2001:db8::/32"},
    "DELETE /v1/enrollment-tokens/{enrollment_token_id}": {},
    "POST /v1/users": {"email": "u@walk.example"},
    "PATCH /v1/users/{user_id}": {"display_name": "W", "expected_version": "$v"},
    "POST /v1/users/{user_id}/setup-link": {},
    "POST /v1/tokens/{token_id}/revoke": {"reason": "walk"},
    "POST /v1/admin/projections/{name}/rebuild": {},
    "PUT " + O + "/quotas/{dimension}": {"limit": 100, "reason": "walk"},
    "POST /v1/admin/mesh-removal": {"reason": "walk"},
    "POST /v1/admin/edges/{node_id}/drain": {"reason": "walk", "force": True},
    "POST /v1/admin/edges/{node_id}/undrain": {"reason": "walk"},
    "POST /v1/admin/backups/verify": {"volume_id": "$volume_id"},
    "POST /v1/admin/backups/rekey": {"volume_id": "$volume_id", "reason": "walk"},
    "POST /v1/admin/backups/scan": {},
    "POST /v1/admin/keys/{key_id}/retire": {"reason": "walk"},
    "POST /v1/admin/node-ca": {"step": "prepare", "reason": "walk"},
    "POST /v1/admin/maintenance": {"on": False, "reason": "walk"},
    "POST /v1/admin/scheduler/pause": {"reason": "walk"},
    "POST /v1/admin/scheduler/resume": {"reason": "walk"},
    "POST /v1/admin/volumes/{volume_id}/fsck": {},
    "POST /v1/admin/volumes/{volume_id}/repair": {},
    "POST /v1/admin/groups/{env_id}/{process_type}/hold": {"reason": "walk"},
    "POST /v1/admin/groups/{env_id}/{process_type}/resume": {"reason": "walk"},
    "POST /v1/admin/recovery/apply": {"reason": "walk"},
    "POST /v1/admin/recovery/finish": {"reason": "walk"},
    "POST /v1/admin/break-glass": {"org_id": "$org_id", "reason": "walk"},
}
QUERIES = {"GET " + O + "/usage/month": "?month=" + time.strftime("%Y-%m", time.gmtime()), "GET /v1/admin/explain": "?env_id=$env_id", **{"GET " + p + "/history/diff": "?from=-1s" for p in (O, A, E)}, "GET " + A + "/releases/{release_id}/diff": "?against=$release_id", "DELETE " + E: "?cascade=true", "DELETE " + A: "?cascade=true"}
# Where the sample of a walk is refused for a good reason: credentials that are made up, organisations that still have apps.
REFUSED = {"GET /v1/exec-sessions/{exec_session_id}/connect": 400, "POST /v1/auth/device/token": 400, "POST /v1/auth/token": 401, "POST /v1/auth/token/refresh": 401, "DELETE " + O: 409,
           "POST /v1/auth/device/start": (200, 429), "POST /v1/admin/recovery/apply": 409, "POST /v1/admin/recovery/finish": 409,
           "POST " + E + "/volumes/{volume_id}/migrate": 409,  # there is no other node
           "POST " + E + "/volumes/{volume_id}/recover": 409,  # its node is not lost
           "POST " + E + "/volume-attachments/{attachment_id}/replace": 200,  # it has that volume already
           "POST /v1/admin/backups/scan": 400, "POST /v1/admin/keys/{key_id}/retire": 409,  # it is the active one
           "POST /v1/admin/backups/verify": (201, 409), "POST /v1/admin/backups/rekey": (200, 409),
           "POST /v1/admin/volumes/{volume_id}/fsck": (200, 409), "POST /v1/admin/volumes/{volume_id}/repair": (200, 409),  # one at a time
           "POST /v1/nodes/{node_id}/disable": 409, "POST /v1/nodes/{node_id}/confirm-offline": 409, "POST /v1/nodes/{node_id}/mark-lost": 409, "POST /v1/nodes/{node_id}/rotate-key": 409, "DELETE /v1/nodes/{node_id}": 409}  # the machine's own node
LAST = ["DELETE " + E + "/volume-attachments/{attachment_id}", "DELETE " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}", "DELETE " + E + "/volumes/{volume_id}", "DELETE " + E + "/routes/{route_id}", "DELETE " + O + "/members/{member_id}", "DELETE " + O + "/service-principals/{sp_id}", "DELETE " + E,
        "DELETE " + A, "DELETE " + O + "/projects/{project_id}", "DELETE " + O, "DELETE /v1/auth/tokens/{token_id}"]
EARLY = ["POST " + E + "/instances/{instance_id}/exec", "POST " + E + "/instances/{instance_id}/restart",  # before what drains every instance
         "GET " + E + "/volume-attachments/{attachment_id}", "POST " + E + "/volume-attachments/{attachment_id}/replace", "POST " + E + "/volume-attachments"]  # before a deploy takes volume and process away

# What agents and edges post, with every field that is looked at: each is given wrong values.
NODE = "node_01j" + "0" * 23
SELF = "/internal/v1/nodes/self/"
WG_KEY = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
CALLS = {
    SELF + "confirm": {},
    SELF + "drain": {"reason": "x"},
    SELF + "cert": {"csr": "x", "kind": "node"},
    SELF + "wg-key": {"public_key": WG_KEY, "endpoints": []},
    SELF + "wg-key/result": {"public_key": WG_KEY, "ok": True, "detail": "x"},
    SELF + "heartbeat": {"node_id": NODE, "agent_version": "test", "arch": "amd64", "conditions": [], "protocols": ["node/1"], "vmm": {"driver": "qemu", "accel": "tcg", "reason": "x"},
                         "epoch": 1, "cursor_event_id": 1, "plan_id": "x", "allocatable": {"cpu_millis": 1, "memory_bytes": 1, "disk_bytes": 1},
                         "used": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0}, "clock_unix_ms": 1, "disk_pressure": False, "public_ipv6": "::1", "public_ipv4": "x"},
    SELF + "volume-key": {"volume_id": "x", "job_id": "x"},
    SELF + "secrets": {"instance_id": "x", "version_id": "x"},
    SELF + "registry-credential": {"instance_id": "x"},
    SELF + "log-drain": {"log_drain_id": "x"},
    SELF + "status": {"agent_version": "test", "resync": False, "instances": [], "volumes": [], "snapshots": [], "restores": []},
    "/internal/v1/edge/status": {"epoch": 1, "revision": 1, "rejected": {}, "listeners": [], "routes": {}},
}

# What each of their fields is given, and what is answered: 400 invalid_argument, but for what stands in ANSWERS (last word of the path, field, kind; "*": every kind).
BAD_VALUES = {"text": "x", "number": 1, "true": True, "null": None, "array": [], "object": {}, "negative": -1, "fraction": 1.5, "huge": 2**63 - 1, "nested": [[1]], "members": {"x": 1},
              "nul": "\x00", "long": "x" * 5000}
ANSWERS = {
    ("*", "*", "nul"): (400, "invalid_json"),  # no text of ours holds one
    ("nodes/self/cert", "csr", "long"): (409, "conflict"),  # it is not read: the caller needs no certificate, it is known by its socket
    ("nodes/self/cert", "kind", "null"): (409, "conflict"),
    ("nodes/self/wg-key/result", "ok", "null"): (200, None),  # as absent: it did not go well, of which there is none
    ("nodes/self/wg-key/result", "detail", "null"): (409, "conflict"),
    # optional ones: null is as good as absent
    **{("nodes/self/status", f, "null"): (200, None) for f in ("agent_version", "resync", "volumes", "snapshots", "restores")},
    **{("edge/status", f, "null"): (200, None) for f in ("rejected", "listeners", "routes")},
    ("edge/status", "listeners", "nested"): (200, None),  # of which only those that are objects count
    ("edge/status", "rejected", "members"): (200, None),  # an object of any members: it is logged
    ("edge/status", "routes", "members"): (200, None),  # counters of routes by id, of which only those that are numbers count
}

w = kit.World(listen_nodes="127.0.0.1:0", nodes_address="nodes.walk.example:7443", allow_secret_export=True,
              roles=["scheduler", "gc", "projector"])  # no scheduled backup comes between the walk and its own
ids = {}


def strict(doc):
    """Answers may hold nothing that is not described."""
    for name, s in doc["components"]["schemas"].items():
        if not gen.is_request(name):
            s["additionalProperties"] = False
    return doc


DOC = strict(json.loads(json.dumps(gen.document(kit.program("moat-control")))))


def fits(value, schema, what):
    v = jsonschema.Draft202012Validator(dict(schema, components=DOC["components"]))
    bad = sorted(v.iter_errors(value), key=lambda e: list(e.path))
    assert not bad, "%s: %s at %s" % (what, bad[0].message[:300], list(bad[0].path))


def op_of(key):
    method, path = key.split()
    return DOC["paths"][path][method.lower()]


def fill(key, deep):
    text = json.dumps(deep)
    for k, v in ids.items():
        text = text.replace('"$%s"' % k, json.dumps(v))
    if '"$v"' in text:
        get = concrete(key.split()[1])
        text = text.replace('"$v"', str(version_of(key, get)))
    return json.loads(text)


def version_of(key, path):
    if "/members/" in path:
        return [m for m in w.ok("GET", path.rsplit("/", 1)[0])["items"] if m["id"] == ids["member_id"]][0]["resource_version"]
    return w.ok("GET", path)["resource_version"]


def concrete(path):
    return re.sub(r"{(\w+)}", lambda m: ids[m.group(1)], path)


def check_problem(r, what):
    assert r.status < 500, "%s -> %d %s" % (what, r.status, r.text[:300])
    assert r.headers["Content-Type"] == "application/problem+json", (what, r.headers["Content-Type"], r.text[:200])
    fits(r.json, gen.schema("Problem"), what)
    assert r.json["status"] == r.status and r.json["type"] == "urn:moat:error:" + r.json["code"] and r.json["request_id"], (what, r.text)
    return r.json


def check_answer(key, r):
    op = op_of(key)
    if r.status >= 400:
        return check_problem(r, key)
    assert str(r.status) in op["responses"], "%s: status %d is not described" % (key, r.status)
    content = op["responses"][str(r.status)]["content"]
    if "application/json" in content:
        fits(r.json, content["application/json"]["schema"], key)


def seed():
    ids["org_id"] = w.ok("GET", "/v1/orgs")["items"][0]["id"]
    o = concrete(O)
    ids["node_id"] = wait_for("a node", lambda: w.ok("GET", "/v1/nodes")["items"])[0]["id"]
    ids["project_id"] = w.ok("POST", o + "/projects", {"name": "seed"})["id"]
    ids["app_id"] = w.ok("POST", o + "/apps", {"name": "seed"})["id"]
    ids["env_id"] = w.ok("POST", concrete(A) + "/envs", {"name": "prod"})["id"]
    ids["release_id"] = w.ok("POST", concrete(A) + "/releases", {"manifest": MANIFEST, "image_digest": D1, "verify_image": False})["id"]
    ids["version_id"] = w.ok("PATCH", concrete(E) + "/secrets", {"set": {"SEED": "1"}})["version_id"]
    ids["deploy_id"] = w.ok("POST", concrete(E) + "/deploys", {"release_id": ids["release_id"]})["id"]
    ids["instance_id"] = wait_for("an instance", lambda: w.ok("GET", concrete(E) + "/instances?status=ready")["items"])[0]["id"]
    ids["exec_session_id"] = w.ok("POST", concrete(E) + "/instances/" + ids["instance_id"] + "/exec", {"command": ["true"]})["exec_session_id"]
    ids["route_id"] = w.ok("POST", concrete(E) + "/routes", {"hostname": "seed.example.com", "backend_process_type": "web", "backend_port": 8443})["id"]
    ids["volume_id"] = w.ok("POST", concrete(E) + "/volumes", {"name": "seed", "size_bytes": 1 << 30})["id"]
    wait_for("the volume", lambda: w.ok("GET", concrete(E) + "/volumes/" + ids["volume_id"])["state"] == "available")
    ids["snapshot_id"] = w.ok("POST", concrete(E) + "/volumes/" + ids["volume_id"] + "/snapshots", {})["id"]
    w.agent.snapshot(ids["snapshot_id"], "failed", failed_reason="cancelled")  # so that the walk can make another
    ids["backup_id"] = w.ok("POST", concrete(E) + "/volumes/" + ids["volume_id"] + "/snapshots", {})["id"]
    w.agent.snapshot(ids["backup_id"], "succeeded", captured_at_ms=1700000000000, size_bytes=1 << 30, key_epoch=1, image_root="a" * 64, manifest_sha256="b" * 64)
    ids["restore_id"] = w.ok("POST", concrete(E) + "/volumes/" + ids["volume_id"] + "/restore", {"snapshot_id": ids["backup_id"]})["id"]
    w.agent.restore(ids["restore_id"], "failed", failed_reason="cancelled")
    ids["migration_id"] = "mig_" + ids["volume_id"][4:]  # a second node is what this world has not: one that ended
    w.pg.sql("INSERT INTO volume_migrations_view (migration_id, org_id, app_id, env_id, process_type, volume_ids, new_volume_ids, source_node_id, target_node_id, reason, status, phase_at,"
             " failed_reason, requested_by, finished_at, created_at, updated_at, resource_version, last_event_id) VALUES ('%s', '%s', '%s', '%s', 'db', '{%s}', '{%s}', '%s', '%s', 'user',"
             " 'failed', now(), 'cancelled', 'usr_x', now(), now(), now(), 4, 1)" % (ids["migration_id"], ids["org_id"], ids["app_id"], ids["env_id"], ids["volume_id"], ids["volume_id"],
                                                                                      ids["node_id"], ids["node_id"]))
    db = w.ok("POST", concrete(A) + "/releases", {"manifest": MANIFEST + DB, "image_digest": D1, "verify_image": False})["id"]
    w.ok("POST", concrete(E) + "/deploys", {"release_id": db, "process_types": ["db"]})
    a = w.ok("GET", concrete(E) + "/volume-attachments")["items"][0]
    ids["attachment_id"], ids["attached_id"] = a["id"], a["volume_id"]
    ids["member_id"] = w.ok("POST", o + "/members", {"email": "seed@walk.example", "role": "readonly"})["id"]
    ids["sp_id"] = w.ok("POST", o + "/service-principals", {"name": "seed", "scopes": ["apps:read"]})["id"]
    ids["token_id"] = w.ok("POST", "/v1/auth/tokens", {"name": "seed", "scopes": ["apps:read"]})["id"]
    u = w.ok("POST", "/v1/users", {"email": "seed-user@walk.example"})
    ids["user_id"] = u["id"]
    ids["enrollment_token_id"] = w.ok("POST", "/v1/enrollment-tokens", {})["id"]
    ids["host"] = "registry.walk:5000"
    ids["digest"] = "sha256:" + "9" * 64
    ids["name"], ids["drain"] = "users_view", "walk-drain"
    ids["target_id"] = ids["env_id"]
    ids["process_type"] = "web"
    w.ok("POST", "/v1/ipv4-pool", {"address": "203.0.113.78"})  # for the walk's environment; the walk itself adds and removes this:
    ids["address"] = "203.0.113.77"
    ids["dimension"] = "max_apps"
    ids["key_id"] = w.ok("GET", "/v1/admin/keys")["keys"][0]["id"]


def stream(path):
    """Status and first line of an answer that does not end."""
    c = kit.UnixHTTP(w.api, 60)
    c.request("GET", path, headers={"Authorization": "Bearer " + w.token})
    r = c.getresponse()
    line = r.readline() if r.status == 200 and "/events/" in path else b"{}"
    kind = r.headers["Content-Type"]
    c.close()
    return r.status, kind, line


def wrong_types(schema):
    """Values that a field must not take, by what it may."""
    kinds = {json.dumps(s.get("type", s.get("$ref", "any"))) for s in schema.get("anyOf", [schema])}
    if any("string" in k for k in kinds):
        return [1, True, ["x"], {"x": 1}, ""]
    if any("integer" in k for k in kinds):
        return ["1", True, 1.5, [], -1, 9223372036854775807, -9223372036854775808]
    if any("boolean" in k for k in kinds):
        return ["true", 1, []]
    if any("array" in k for k in kinds):
        return ["x", 1, {}, [1], [[]]]
    return ["x", 1, [1]]


try:
    w.agent.pool, w.agent.backup_store, w.agent.restores = 64 << 30, True, True
    w.agent.start()
    seed()
    keys = list(gen.OPS)

    @case("openapi.yaml is made of the route table and nothing else")
    def _():
        have = open(FILE).read()
        assert have == gen.text(kit.program("moat-control")), "run: docs/api/openapi.py bin/moat-control > docs/api/openapi.yaml"
        try:
            import yaml
        except ImportError:
            return
        assert yaml.safe_load(have) == gen.document(kit.program("moat-control")), "the file does not read back as what was written"

    @case("every route that takes a body has a sample, and no other")
    def _():
        want = {k for k, (_, _, body, _) in gen.OPS.items() if body is not None}
        assert want == set(BODIES), want ^ set(BODIES)
        changing = {m + " " + p for m, p, _, _ in gen.routes(kit.program("moat-control")) if m != "GET"}
        assert changing - want == {"DELETE /v1/auth/tokens/{token_id}"}, changing ^ want  # that one reads none

    @case("the registered event schemas are published, and every event of the log fits its own")
    def _():
        r = call(w.api, "GET", "/v1/schemas/events")
        assert r.status == 200, r.text
        by = {s["event_type"]: s for s in r.json["items"]}
        assert len(by) == len(r.json["items"]) and "deploy.created" in by
        n = 0
        for e in w.ok("GET", "/v1/admin/events?limit=500")["items"]:
            s = by[e["event_type"]]
            assert s["aggregate_type"] == e["aggregate_type"] and s["event_version"] == e["event_version"], e
            jsonschema.Draft202012Validator(s["payload"]).validate(e["payload"])
            n += 1
        assert n > 10, n

    @case("every endpoint x bad body: oversized, duplicate keys, too deep, not UTF-8, no object, not JSON, wrong media type")
    def _():
        deep = b'{"x":' + b"[" * 33 + b"]" * 33 + b"}"
        bad = [(b'{"x":"' + b"x" * (1 << 20) + b'"}', 413, "payload_too_large"), (b'{"x":1,"x":2}', 400, "invalid_json"), (deep, 400, "invalid_json"),
               (b'{"x":"\xff\xfe"}', 400, "invalid_json"), (b'{"x":"\xed\xa0\x80"}', 400, "invalid_json"), (b'[]', 400, "invalid_json"),
               (b'"x"', 400, "invalid_json"), (b"{", 400, "invalid_json"), (b'{"x":1e999}', 400, "invalid_json"), (b'{"x":"\\u0000"}', 400, None),
               (b'{"x":99999999999999999999999}', 400, None), (b"{}trailing", 400, "invalid_json")]
        for key in BODIES:
            method, path = key.split()
            for body, status, code in bad:
                p = check_problem(w.q(method, concrete(path), body), "%s %r" % (key, body[:40]))
                assert p["status"] in (status, 429) and (code is None or p["code"] in (code, "rate_limited")), (key, body[:40], p)
            p = check_problem(w.q(method, concrete(path), b"{}", Content_Type="text/plain"), key)
            assert p["code"] in ("unsupported_media_type", "rate_limited"), (key, p)

    @case("every call of agents and edges x bad body, bad query, and every field of a wrong type: refused by name, and nothing comes of it")
    def _():
        table = [l.split()[:2] for l in subprocess.run([kit.program("moat-control"), "--routes"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
                 if l.split()[1].startswith("/internal/v1/") and not l.split()[1].endswith("/enroll")]  # what is wrong there: test_nodes.py
        assert {"POST " + p for m, p in table if m == "POST"} == {"POST " + p for p in CALLS}, "CALLS has another list than the program"
        deep = b'{"x":' + b"[" * 33 + b"]" * 33 + b"}"
        n, wrong = 0, []

        def q(method, path, body, kind="application/json"):
            r = call(w.internal, method, path, body, {"Content-Type": kind})
            return check_problem(r, "%s %s %r" % (method, path, str(body)[:80])) if r.status != 200 else {"status": 200, "code": None, "detail": ""}

        def as_edge(path, body):
            """The same as the user of the edge, who is asked for by his uid."""
            r, wr = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([65534])
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                    got = call(w.internal, "POST", path, body, {"Content-Type": "application/json"})
                    os.write(wr, json.dumps([got.status, got.text if isinstance(got.text, str) else got.text.decode()]).encode())
                finally:
                    os._exit(0)
            os.close(wr)
            with os.fdopen(r) as f:
                status, text = json.load(f)
            os.waitpid(pid, 0)
            assert status < 500, (path, body, text)
            return json.loads(text) if status != 200 else {"status": 200, "code": None, "detail": ""}
        before = w.pg.sql("SELECT count(*) FROM moat.events WHERE actor_type <> 'system'")
        for method, path in table:
            if method == "GET":
                for bad in ("?zzz=1", "?after=x", "?after=-1", "?wait=61", "?wait=99999999999999999999", "?epoch=x", "?after=1&after=2", "?wait=0&wait=0", "?after=%ff"):
                    p = q(method, path + bad, None)
                    assert (p["status"], p["code"]) == (400, "invalid_argument"), (path, bad, p)
                    assert "&" not in bad or "given twice" in p["detail"] or path.endswith("/log-drains"), (path, bad, p)
                    n += 1
                continue
            for body, status, code in ((b'{"x":"' + b"x" * (1 << 20) + b'"}', 413, "payload_too_large"), (b'{"x":1,"x":2}', 400, "invalid_json"), (deep, 400, "invalid_json"),
                                       (b'{"x":"\xff\xfe"}', 400, "invalid_json"), (b"[]", 400, "invalid_json"), (b"{", 400, "invalid_json"), (b'{"x":1e999}', 400, "invalid_json"),
                                       (b'{"x":99999999999999999999999}', 400, "invalid_json"), (b"{}trailing", 400, "invalid_json")):
                p = q(method, path, body)
                assert (p["status"], p["code"]) == (status, code), (path, body[:40], p)
                n += 1
            assert q(method, path, b"{}", "text/plain")["code"] == "unsupported_media_type", path
            assert q(method, path + "?zzz=1", {})["status"] in (400, 403), path
            for field, value in CALLS[path].items():
                for kind, bad in BAD_VALUES.items():
                    if type(bad) is type(value) and kind in ("text", "number", "true", "array", "object"):
                        continue
                    body = dict(CALLS[path], **{field: bad})
                    p = as_edge(path, body) if path.startswith("/internal/v1/edge/") else q(method, path, body)
                    short = path.split("/internal/v1/")[1]
                    want = ANSWERS.get((short, field, kind), ANSWERS.get(("*", "*", kind), ANSWERS.get((short, field, "*"), (400, "invalid_argument"))))
                    if (p["status"], p["code"]) != want:
                        wrong.append("(%r, %r, %r): (%r, %r),  # not %r: %s" % (short, field, kind, p["status"], p["code"], want, p["detail"][:90]))
                    n += 1
        print("\n".join("# " + x for x in wrong))
        assert not wrong, "%d answers are not those of the table" % len(wrong)
        print("# %d bad calls" % n)

    @case("every endpoint x every field: unknown, of a wrong type, out of range; none does anything")
    def _():
        n = 0
        before = w.pg.sql("SELECT count(*) FROM moat.events WHERE actor_type <> 'system' AND actor_type <> 'node'")
        for key, sample in BODIES.items():
            method, path = key.split()
            sample = fill(key, sample)
            p = check_problem(w.q(method, concrete(path), dict(sample, zzz_unknown=1)), key)
            assert p["code"] in ("unknown_field", "rate_limited"), (key, p)
            assert p["code"] == "rate_limited" or "zzz_unknown" in p["detail"], (key, p)
            for field, schema in DOC["components"]["schemas"][gen.OPS[key][2]].get("properties", {}).items():
                for value in wrong_types(schema):
                    if field == "manifest" and value == "":
                        continue  # a text like any other; its faults are the manifest's
                    r = w.q(method, concrete(path), dict(sample, **{field: value}))
                    p = check_problem(r, "%s %s=%r" % (key, field, value))
                    assert r.status in (400, 404, 409, 422, 429), (key, field, value, p)
                    n += 1
        after = w.pg.sql("SELECT count(*) FROM moat.events WHERE actor_type <> 'system' AND actor_type <> 'node'")
        print("# %d wrong values" % n)
        assert after == before, "something was changed by a refused request"

    @case("every endpoint x bad query: unknown parameters and values out of range are refused by name")
    def _():
        for key, (_, _, body, query) in gen.OPS.items():
            method, path = key.split()
            p = check_problem(w.q(method, concrete(path) + "?zzz=1", {} if body else None), key)
            assert p["code"] in ("invalid_argument", "rate_limited") and ("zzz" in p["detail"] or p["code"] == "rate_limited"), (key, p)
            for q in query.split():
                s = gen.QUERY.get(q)
                for bad in ([] if not s else ["maybe"] if s.get("type") == "boolean" else ["x", "-1", "99999999999999999999"] if s.get("type") == "integer"
                            else ["sideways"] if "enum" in s else ["yesterday"]):
                    p = check_problem(w.q(method, concrete(path) + "?%s=%s" % (q, bad), {} if body else None), "%s ?%s=%s" % (key, q, bad))
                    assert p["status"] == 400, (key, q, bad, p)

    @case("every endpoint x ids that are none")
    def _():
        for key, (_, _, body, _) in gen.OPS.items():
            method, path = key.split()
            names = re.findall(r"{(\w+)}", path)
            for name in names:
                for bad in (ids[name][:-1] + ("_" if name == "drain" else "x" if name in ("name", "dimension", "host", "digest", "process_type") else "0" if ids[name][-1] != "0" else "1"), "x", "a" * 70, "..", "%00", "%2e%2e%2f", "a b".replace(" ", "%20")):
                    target = re.sub(r"{(\w+)}", lambda m: bad if m.group(1) == name else ids[m.group(1)], path)
                    sample = None if body is None else {} if "$v" in json.dumps(BODIES[key]) else fill(key, BODIES[key])
                    try:
                        r = w.q(method, target, sample)
                    except (BrokenPipeError, ConnectionResetError):  # refused before the body was read
                        r = w.q(method, target)
                    p = check_problem(r, "%s %s=%s" % (key, name, bad))
                    assert p["status"] in (400, 404), (key, name, bad, p)

    @case("every call is answered as described, with nothing undescribed")
    def _():
        seen = {}
        for key in EARLY + [k for k in keys if k not in LAST and k not in EARLY] + LAST:
            method, path = key.split()
            target = concrete(path) + re.sub(r"\$(\w+)", lambda m: ids[m.group(1)], QUERIES.get(key, ""))
            if key == "DELETE " + E + "/volumes/{volume_id}":
                for t in [t for t in w.ok("GET", concrete(E) + "/volume-attachments")["items"] if t["managed_by"] == "api"]:
                    w.ok("DELETE", concrete(E) + "/volume-attachments/" + t["id"])
                for s in w.ok("GET", concrete(E) + "/volumes/" + ids["volume_id"] + "/snapshots?include_deleted=true")["items"]:
                    w.agent.snapshot(s["id"], "failed", failed_reason="cancelled")
            if key == "DELETE " + E:
                for v in w.ok("GET", concrete(E) + "/volumes")["items"]:  # with them it is never deleted
                    w.ok("DELETE", concrete(E) + "/volumes/" + v["id"])
                wait_for("no volume", lambda: not w.ok("GET", concrete(E) + "/volumes")["items"])
                w.ok("PATCH", concrete(E), {"protected": False, "expected_version": w.ok("GET", concrete(E))["resource_version"]})
            if gen.OPS[key][0] == "ndjson":
                status, kind, line = stream(target)
                assert status == 200 and kind.startswith("application/x-ndjson"), (key, status, kind)
                json.loads(line)
                continue
            for _ in range(5):  # what nodes tell may change an object between the look at its version and the call
                body = fill(key, BODIES[key]) if key in BODIES else None
                r = w.q(method, target, body)
                if r.status != 409 or r.json["code"] != "version_conflict":
                    break
            check_answer(key, r)
            want = REFUSED.get(key, gen.OPS[key][1])
            assert r.status in (want if isinstance(want, tuple) else (want,)), "%s -> %d %s" % (key, r.status, r.text[:300])
            seen[key] = r.status
            if r.status == 201 and r.headers["Location"] and "/v1/auth" not in path and "/members" not in path:
                again = w.q("GET", r.headers["Location"])
                assert again.status == 200, (key, r.headers["Location"], again.text)
        assert len(seen) + sum(v[0] == "ndjson" for v in gen.OPS.values()) == len(gen.OPS)

    @case("methods that a path does not have are 405, paths that are none 404")
    def _():
        for path, ops in DOC["paths"].items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {m.upper() for m in ops}:
                p = check_problem(w.q(method, concrete(path), {} if method != "GET" else None), "%s %s" % (method, path))
                assert p["code"] == "method_not_allowed", (method, path, p)
        for path in ("/v1", "/v1/", "/v1/nothing", "/v1/orgs/", concrete(O) + "/apps/", "/v2/orgs", "/v1/orgs//apps"):
            p = check_problem(w.q("GET", path), path)
            assert p["status"] == 404, (path, p)
finally:
    w.close()
kit.finish()
