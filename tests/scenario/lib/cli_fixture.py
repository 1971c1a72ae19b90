# SPDX-License-Identifier: Apache-2.0
"""A control plane of fixed answers on a Unix socket, for tests of the CLI alone: every request is kept, faults are set by the test."""
import copy
import http.server
import json
import os
import socketserver
import threading


def oid(prefix, n):
    return f"{prefix}_{n:026d}"


ORG, APP, ENV, NODE = oid("org", 1), oid("app", 1), oid("env", 1), oid("node", 1)
REL1, REL2, DEP, DEP_BAD, INST, INST_BAD, ROUTE = (oid("rel", 1), oid("rel", 2), oid("dep", 1), oid("dep", 2), oid("inst", 1), oid("inst", 2),
                                                   oid("rt", 1))
PRJ = oid("prj", 1)
MANIFEST_2 = {"app": {"name": "web"}, "processes": {"web": {"command": ["/b"]}}}
T = "2001-01-01T00:00:%02d.%06dZ"
O, A, E = f"/v1/orgs/{ORG}", f"/v1/orgs/{ORG}/apps/{APP}", f"/v1/orgs/{ORG}/apps/{APP}/envs/{ENV}"
DIGEST = "sha256:" + "4a" * 32
ESC = "\x1b[2J"  # what a tenant would like to send to a terminal


def lst(*items):
    return {"kind": "List", "items": list(items), "next_cursor": None}


def named(i, name):
    return {"id": i, "name": name, "created_at": T % (1, 5)}


def release(i, n):
    return {"id": i, "app_id": APP, "number": n, "image_ref": f"registry.test/web:{n}", "image_digest": DIGEST, "process_types": ["web"],
            "manifest": {"app": {"name": "web"}}, "created_at": T % (n, 0)}


def deploy(i, status, **more):
    return dict({"id": i, "kind": "deploy", "status": status, "release_id": REL1, "process_types": ["web"], "created_at": T % (2, 0)}, **more)


def receipt(op, body):
    return dict(body, receipt={"operation": op, "event_id": 120, "desired": {"release_id": REL1},
                               "next": [{"label": "see", "command": "moat status"}]})


FAILURE = {"instance_id": INST_BAD, "status": "failed", "reason_code": "workload_exited", "reason_text": "the process ended by itself",
           "reason_detail": f"it said {ESC}", "exit_code": 7, "last_lines": ["one", f"two {ESC}"], "last_console": []}
AUTOPSY = {"boot_id": oid("boot", 1), "instance_id": INST_BAD, "release_id": REL2, "process_type": "web", "node_id": NODE, "ended_at": T % (8, 0),
           "reason_code": "healthcheck_failed", "reason_text": "health was lost",
           "record": {"boot_id": oid("boot", 1), "boot_seq": 2, "ended_at": T % (8, 0), "reason_code": "healthcheck_failed", "reason_detail": f"http_503 {ESC}", "phase": "starting",
                      "vmm": "qemu/tcg", "oom": {"guest_kills": 1, "cgroup_kills": 0, "memory_bytes": 134217728, "memory_available_bytes": 1048576},
                      "health": {"type": "http", "port": 8443, "path": "/healthz", "failures": 9, "error": "http_503", "status": 503, "body": f"no database {ESC}"},
                      "console": [f"[    1.0] moat {ESC}"], "log": [{"ts": T % (7, 0), "stream": "stderr", "line": f"cannot connect {ESC}"}]}}
AUTOPSY_EXIT = {"boot_id": oid("boot", 2), "instance_id": INST, "release_id": REL1, "process_type": "web", "node_id": NODE, "ended_at": T % (6, 0), "reason_code": "workload_signaled",
                "record": {"boot_id": oid("boot", 2), "boot_seq": 1, "ended_at": T % (6, 0), "reason_code": "workload_signaled", "reason_detail": "SIGSEGV", "exit_code": 139, "signal": "SIGSEGV",
                           "phase": "preparing", "step": "building_rootfs", "explain": "layer 1 of 1: mend it", "oom": {"guest_kills": 0, "cgroup_kills": 0}, "console": [], "log": []}}
ROUTE_OBJ = {"id": ROUTE, "hostname": "web.test", "protocol": "tls_passthrough", "listen_port": 443, "backend_process_type": "web",
             "backend_port": 8443, "proxy_protocol": "off", "managed_by": "api", "status": "active", "hints": ["dns_mismatch"], "dns_ok": False,
             "dns_records": [{"name": "web.test", "type": "AAAA", "ttl": 60, "value": "2001:db8::1"}, {"name": "web.test", "type": "A", "ttl": 300, "value": "203.0.113.10"},
                             {"name": "_moat-challenge.web.test", "type": "TXT", "ttl": 300, "value": "moat-proof=0123456789abcdef0123456789abcdef"}]}
VOLUME = oid("vol", 1)
VOLUME_OBJ = {"id": VOLUME, "name": "data", "size_bytes": 10 << 30, "filesystem": "ext4", "backup_enabled": True, "home_node_id": oid("node", 1), "state": "in_use",
              "reachable": True, "attachment": {"id": oid("att", 1), "process_type": "web", "mount_path": "/data", "read_only": False, "managed_by": "manifest"},
              "last_backup_at": T % (9, 0), "last_backup_snapshot_id": oid("snap", 1), "collected_at": T % (8, 0), "collect_failed": "internal_error", "backup_lag_seconds": 180000, "backup_stale": True,
              "latest_snapshot": {"id": oid("snap", 2), "origin": "manual", "status": "failed", "failed_reason": f"upload_failed{ESC}", "created_at": T % (10, 0)},
              "resource_version": 3}
SNAPSHOT = oid("snap", 1)
SNAPSHOT_OBJ = {"id": SNAPSHOT, "volume_id": VOLUME, "source_node_id": oid("node", 1), "origin": "manual", "status": "succeeded", "consistency": "filesystem",
                "captured_at": T % (9, 0), "finished_at": T % (10, 0), "size_bytes": 10 << 30, "changed_bytes": 8 << 20, "uploaded_bytes": 5 << 20, "note": f"before {ESC}",
                "requested_by": oid("usr", 1), "resource_version": 4, "created_at": T % (8, 0)}
SNAPSHOT_NEW = {"id": oid("snap", 3), "volume_id": VOLUME, "source_node_id": oid("node", 1), "origin": "manual", "status": "queued", "requested_by": oid("usr", 1),
                "resource_version": 1, "created_at": T % (11, 0)}
SNAPSHOT_BAD = dict(SNAPSHOT_NEW, id=oid("snap", 2), status="failed", failed_reason="upload_failed", resource_version=3)
RESTORE = {"id": oid("rst", 1), "env_id": ENV, "snapshot_id": SNAPSHOT, "source_volume_id": VOLUME, "new_volume_id": oid("vol", 3), "target_node_id": oid("node", 1),
           "status": "queued", "requested_by": oid("usr", 1), "resource_version": 1, "created_at": T % (12, 0)}
MIGRATION = {"id": oid("mig", 1), "env_id": ENV, "process_type": "web", "volume_ids": [VOLUME, oid("vol", 2)], "new_volume_ids": [oid("vol", 3), oid("vol", 4)],
             "source_node_id": oid("node", 1), "target_node_id": oid("node", 2), "reason": "user", "status": "queued", "requested_by": oid("usr", 1), "resource_version": 1}
MIGRATION_BAD = dict(MIGRATION, id=oid("mig", 2), status="failed", failed_reason="not_ready_on_target", resource_version=8)
RESTORE_BAD = dict(RESTORE, id=oid("rst", 2), status="failed", failed_reason="integrity_check_failed", resource_version=3)
SPARE_VOLUME = {"id": oid("vol", 2), "name": "spare", "size_bytes": 1 << 30, "filesystem": "ext4", "backup_enabled": True, "home_node_id": oid("node", 1),
                "state": "creating", "reachable": True, "resource_version": 1}
SIMULATED_GROUP = {"org_id": ORG, "app_id": APP, "env_id": ENV, "app": "web", "env": "prod", "process_type": "web", "instances": 3, "ready_elsewhere": 1,
                   "restart_on": [{"node_id": oid("node", 2), "name": f"box-b{ESC}", "instances": 1}, {"node_id": oid("node", 3), "name": "box-c", "instances": 1}],
                   "missing": 1, "stay": 0, "reason": "no_capacity_memory", "detail": f"3 nodes: 2 memory, 1 not ready{ESC}"}
SIMULATED = {"node_id": NODE, "name": "box", "instances": 5, "restart": 3, "missing": 1, "stay": 1,
             "groups": [SIMULATED_GROUP,
                        dict(SIMULATED_GROUP, process_type="worker", instances=1, ready_elsewhere=0, restart_on=SIMULATED_GROUP["restart_on"][1:], missing=0),
                        dict(SIMULATED_GROUP, process_type="db", instances=1, ready_elsewhere=0, restart_on=[], missing=0, stay=1, reason="volume_home_node_offline")],
             "volumes": [{"id": VOLUME, "name": "data", "org_id": ORG, "app_id": APP, "env_id": ENV, "app": "web", "env": "prod", "size_bytes": 10 << 30,
                          "state": "available", "last_backup_at": T % (3, 0), "loses_seconds": 3601},
                         {"id": oid("vol", 2), "name": "spare", "org_id": ORG, "app_id": APP, "env_id": ENV, "app": "web", "env": "prod", "size_bytes": 1 << 30,
                          "state": "creating", "last_backup_at": None, "loses_seconds": None}]}
RAW_ROUTE = {"id": oid("rt", 2), "hostname": None, "protocol": "tcp_raw", "listen_port": 5432, "backend_process_type": "db", "backend_port": 5432,
             "proxy_protocol": "v2", "managed_by": "manifest", "status": "pending"}
INSTANCES = [
    {"id": INST, "process_type": "web", "release_id": REL1, "status": "ready", "status_detail": None, "reason_code": None, "restart_count": 0,
     "overlay_ipv6": "fd00::1"},
    {"id": INST_BAD, "process_type": "web", "release_id": REL2, "status": "failed", "status_detail": None, "reason_code": "workload_exited",
     "reason_detail": f"bye {ESC}", "exit_code": 7, "restart_count": 3, "overlay_ipv6": "fd00::2"},
    {"id": oid("inst", 3), "process_type": "web", "release_id": REL1, "status": "stopped", "restart_count": 0, "overlay_ipv6": "fd00::3"},
]
STATUS = {"env_id": ENV, "name": "prod", "routes": [ROUTE_OBJ],
          "processes": [{"process_type": "web", "release_id": REL1, "release_number": 1, "desired": 2, "ready": 1, "matching": 1, "old": 1, "sched_condition": "blocked",
                         "reason": "no_capacity", "detail": f"no node has 512 MiB{ESC}", "since": T % (3, 0), "next_try": "room"},
                        {"process_type": "job", "release_id": REL1, "release_number": 1, "desired": 1, "ready": 0, "matching": 1, "old": 0,
                         "sched_condition": "blocked", "reason": "retry_backoff", "since": T % (4, 0), "next_try": "time", "next_try_at": T % (5, 0)}],
          "last_deploy": deploy(DEP, "failed", failed_reason="instance_failed", message=f"web did not get ready {ESC}"), "failure": FAILURE}


def event(n, kind, aggregate, payload, seconds, summary="", micros=0):
    return {"event_id": n, "event_type": kind, "aggregate_id": aggregate, "payload": payload, "occurred_at": T % (seconds, micros), "summary": summary}


EVENTS = [event(1, "org.created", ORG, {}, 0, "org 'local' is made"), event(2, "app.created", APP, {"name": "web"}, 1, f"app 'web{ESC}' is made")]


def rollout(dep, end):
    ready = end == "succeeded"
    inst = INST if ready else INST_BAD
    ev = [event(101, "deploy.created", dep, {}, 10),
          event(102, "instance.allocated", inst, {"process_type": "web", "node_id": NODE}, 10, micros=20000),
          event(103, "instance.status_changed", inst, {"status": "booting", "status_detail": "booting_vm"}, 11)]
    if ready:
        ev += [event(104, "instance.status_changed", inst, {"status": "starting"}, 12), event(105, "instance.status_changed", inst, {"status": "ready"}, 13)]
    else:
        ev += [event(104, "instance.status_changed", inst, {"status": "failed", "reason_code": "workload_exited", "exit_code": 7,
                                                            "reason_detail": f"it said {ESC}"}, 12)]
    return ev + [event(106, "deploy.status_changed", dep, {"status": end, "message": "" if ready else "web failed 3 times"}, 14)]


LOGS = [{"ts": T % (3, 0), "seq": 1, "stream": "stdout", "process_type": "web", "instance_id": INST, "line": "hello", "truncated": False},
        {"ts": T % (4, 0), "seq": 2, "stream": "stderr", "process_type": "web", "instance_id": INST, "line": f"bad {ESC}\r", "truncated": False}]

def audit(n, action, **more):
    return dict({"id": oid("aud", n), "chain": ORG, "seq": n, "ts": T % (n, 0), "org_id": ORG, "actor_id": oid("usr", 1), "action": action,
                 "resource_type": "app", "resource_id": APP, "decision": "allow", "result": "ok", "error_code": None, "event_id": n,
                 "source_ip": "unix:uid=0", "user_agent": f"moat {ESC}"}, **more)


AUDIT = [audit(2, "deploy.create", decision="deny", result="error", error_code="insufficient_scope", event_id=None), audit(1, "app.create")]
CHAIN = {"chain": ORG, "ok": True, "records": 2, "anchor_seq": 0, "head_seq": 2, "head_hash": "ab" * 32}
BROKEN = {"chain": "platform", "ok": False, "records": 6, "anchor_seq": 0, "head_seq": 9, "head_hash": "cd" * 32,
          "bad": {"seq": 7, "audit_id": oid("aud", 7), "what": "the hash does not fit the record: it was altered"}}

QUOTA = {"dimension": "max_apps", "limit": 20, "used": 1, "source": "override", "counts": "live apps"}

MOMENT = {"asked": "@2", "event_id": 2, "last_event_at": T % (2, 0)}
PAST = dict(STATUS, private_network=False, protected=False, instances=[dict(i, restart_count=0) for i in INSTANCES], as_of_event_id=2, at=MOMENT)
PAST_APP = {"app_id": APP, "name": f"web{ESC}", "releases_made": 2, "releases": [], "envs": [{k: v for k, v in PAST.items() if k not in ("at", "as_of_event_id")}],
            "as_of_event_id": 2, "at": MOMENT}
STATE_DIFF = {
    "of": "environment", "from": MOMENT, "to": {"asked": "now", "event_id": 9, "last_event_at": T % (9, 0)}, "same": False,
    "changes": [{"kind": "release", "text": "web shall run release v2, was v1", "env_id": ENV, "process_type": "web", "from": 1, "to": 2},
                {"kind": "instance_ended", "text": f"web {INST} ended: a newer instance took its place{ESC}", "env_id": ENV, "id": INST, "at": T % (5, 0)}],
    "patch": [{"op": "replace", "path": "/processes/0/release_number", "value": 2}]}

REGISTRY = {"id": oid("reg", 1), "org_id": ORG, "host": "registry.test:5000", "username": f"robot{ESC}", "updated_by": oid("usr", 1), "resource_version": 2,
            "created_at": T % (1, 0), "updated_at": T % (2, 0)}
DRAIN = {"id": oid("drn", 1), "org_id": ORG, "name": "main", "kind": "otlp", "target": f"https://otlp.test/v1/logs{ESC}", "has_token": True, "updated_by": oid("usr", 1),
         "resource_version": 2, "created_at": T % (1, 0), "updated_at": T % (2, 0)}
QUARANTINE = {"target_type": "env", "target_id": ENV, "reason": f"spam{ESC}", "updated_by": oid("usr", 1), "resource_version": 1, "created_at": T % (1, 0),
              "updated_at": T % (1, 0)}
POOL4 = {"address": "203.0.113.9", "state": "allocated", "allocation_id": oid("ip4", 1), "org_id": ORG, "env_id": ENV, "edge_node_id": NODE, "resource_version": 1,
         "created_at": T % (1, 0), "updated_at": T % (1, 0)}
IPV4 = {"ipv4_address": "203.0.113.9", "allocation_id": oid("ip4", 1), "status": "pending"}
NETWORKING = {"env_id": ENV, "ipv6": ["2001:db8::1"], "ipv4": dict(IPV4, edge_node_id=NODE, detail=f"the edge: address already in use{ESC}", status="degraded", enabled_at=T % (1, 0)),
              "listeners": [{"protocol": "tls_passthrough", "address_scope": "shared6", "listen_port": 443, "routes": 2, "ipv4_routes": 1}], "hostnames": ["web.test"],
              "domain_proof": {"required": False, "name": "_moat-challenge.DOMAIN", "value": "moat-proof=0123456789abcdef0123456789abcdef"}}
BLOCK = {"digest": "sha256:" + "9" * 64, "evict": True, "reason": f"miner{ESC}", "updated_by": oid("usr", 1), "resource_version": 1, "created_at": T % (1, 0),
         "updated_at": T % (1, 0)}
SV1, SV2 = oid("sv", 1), oid("sv", 2)
SECRETS = {"env_id": ENV, "config_gate": "set", "bundle_id": oid("sb", 1), "version_id": SV2, "version_number": 2, "key_count": 2, "key_names": ["A", "DB_PASS"],
           "size_bytes": 60, "data_hash": "ab" * 32, "updated_at": T % (5, 0), "updated_by": oid("usr", 1), "resource_version": 3,
           "delivery": [{"process_type": "web", "instances_on_current": 1, "instances_total": 2}]}
CHANGED = dict({k: v for k, v in SECRETS.items() if k not in ("delivery", "updated_at")}, unchanged=False)


def version(i, n, **more):
    return dict({"id": i, "bundle_id": oid("sb", 1), "env_id": ENV, "version_number": n, "data_hash": "ab" * 32, "key_names": ["A", "DB_PASS"][:n], "size_bytes": 60,
                 "source": "patch", "created_by": oid("usr", 1), "material_state": "present", "current": False, "created_at": T % (n, 0)}, **more)


ANSWERS = {
    ("GET", f"{E}/history/status?at=%402"): PAST,
    ("GET", f"{A}/history/status"): {k: v for k, v in PAST_APP.items() if k != "at"},
    ("GET", f"{O}/history/status?at=-2h"): {
        "org_id": ORG, "name": "local", "developer_exec": False, "suspended": True, "members": [{"id": oid("mem", 1), "email": "a@b.example", "role": "owner", "state": "active"}],
        "service_principals": [{"id": oid("sp", 1), "name": "ci", "client_id": "cid", "scopes": ["apps:read"]}], "projects": [], "limits": [{"dimension": "max_apps", "limit": 20}],
        "apps": [{k: v for k, v in PAST_APP.items() if k not in ("at", "as_of_event_id")}], "as_of_event_id": 2, "at": MOMENT},
    ("GET", f"{E}/history/diff?from=%402"): STATE_DIFF,
    ("GET", f"{A}/history/diff?from=-1h&to=2001-01-01T00%3A00%3A00Z"): dict(STATE_DIFF, of="app", same=True, changes=[], patch=[]),
    ("GET", f"{E}/secrets"): SECRETS,
    ("PATCH", f"{E}/secrets"): receipt("secrets.change", CHANGED),
    ("PUT", f"{E}/secrets"): receipt("secrets.replace", CHANGED),
    ("POST", f"{E}/secrets/confirm-none"): receipt("secrets.confirm_none", dict(CHANGED, unchanged=True)),
    ("GET", f"{E}/secrets/material"): {"env_id": ENV, "version_number": 2, "format": "moat_env_v1", "version_id": SV2, "encoding": "base64", "sha256": "ab" * 32,
                                       "data": "IyBNT0FUX1NFQ1JFVFNfVjEKQT0xCg=="},
    ("GET", f"{E}/secrets/versions"): lst(version(SV1, 1), version(SV2, 2, current=True)),
    ("POST", f"{E}/secrets/versions/{SV1}/activate"): receipt("secrets.activate", CHANGED),
    ("GET", "/v1/admin/keys"): {"keys": [{"id": "b90bc12db23d7ce4", "state": "active", "rows": 3}, {"id": "00" * 8, "state": "missing", "rows": 1}],
                                "problem": f"no file {ESC}"},
    ("POST", "/v1/admin/keys/rewrap"): {"rewrapped": 3, "remaining": 0, "failed": 0},
    ("POST", "/v1/admin/keys/verify"): {"wrapped_keys": 4, "opened": 3, "envelopes": 2, "envelopes_opened": 2},
    ("GET", f"{O}/quotas"): lst(QUOTA, {"dimension": "max_envs", "limit": None, "used": 3, "source": "unlimited", "counts": "live environments"}),
    ("PUT", f"{O}/quotas/max_apps"): QUOTA,
    ("POST", f"{O}/suspend"): {"id": ORG, "name": "local", "suspended": True, "resource_version": 3},
    ("POST", f"{O}/resume"): {"id": ORG, "name": "local", "suspended": False, "resource_version": 4},
    ("POST", "/v1/tokens/" + oid("tok", 1) + "/revoke"): {"id": oid("tok", 1), "kind": "session", "subject_id": oid("usr", 1), "already_revoked": False},
    ("GET", "/v1/admin/node-ca"): {"phase": "prepared", "since": T % (9, 0), "waiting": 1, "authorities": [
        {"role": "signs", "pin": "ab" * 32, "ends_at": T % (9, 0)}, {"role": "prepared", "pin": "cd" * 32, "ends_at": T % (9, 0)}], "nodes": [
        {"node_id": oid("node", 2), "name": f"box2 {ESC}", "trusts": True, "renewed": True, "last_heartbeat_at": T % (9, 0)},
        {"node_id": oid("node", 3), "name": "box3", "trusts": False, "renewed": True}]},
    ("POST", "/v1/admin/node-ca"): {"phase": "switched", "since": T % (9, 0), "waiting": 0, "authorities": [
        {"role": "signs", "pin": "cd" * 32, "ends_at": T % (9, 0)}, {"role": "replaced", "pin": "ab" * 32, "ends_at": T % (9, 0)}], "nodes": [
        {"node_id": oid("node", 2), "name": "box2", "trusts": True, "renewed": True, "last_heartbeat_at": T % (9, 0)}]},
    ("POST", "/v1/admin/mesh-removal"): {"revision": 341, "reason": "moved out"},
    ("GET", "/v1/admin/maintenance"): {"on": False, "reason": f"done {ESC}", "changed_at": T % (9, 0)},
    ("POST", "/v1/admin/maintenance"): {"on": True, "reason": "move"},
    ("GET", "/v1/admin/recovery"): {
        "state": "frozen", "epoch": 2, "head_event_id": 301, "changed_at": T % (9, 0), "reason": f"node x is ahead {ESC}",
        "counts": {"adopt": 1, "start": 0, "stop": 0, "ignore": 1, "unknown": 0},
        "nodes": [{"node_id": oid("node", 1), "name": "local", "listed_at": T % (9, 1), "epoch": 1, "cursor_event_id": 350, "next_address": 1048580}],
        "items": [{"node_id": oid("node", 1), "instance_id": INST_BAD, "action": "ignore", "reported": "ready"},
                  {"node_id": oid("node", 1), "instance_id": INST, "action": "adopt", "reported": "ready", "wanted": "running", "address": "fd00::1"}]},
    ("POST", f"/v1/nodes/{NODE}/uncordon"): {"id": NODE, "name": "vm", "admin_state": "active", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/cordon"): {"id": NODE, "name": "vm", "admin_state": "cordoned", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/drain"): {"id": NODE, "name": "vm", "admin_state": "draining", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/disable"): {"id": NODE, "name": "vm", "admin_state": "disabled", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/confirm-offline"): {"id": NODE, "name": "vm", "admin_state": "active", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/mark-lost"): {"id": NODE, "name": "vm", "admin_state": "active", "resource_version": 4},
    ("POST", f"/v1/nodes/{NODE}/rotate-key"): {"id": NODE, "name": "vm", "admin_state": "active", "resource_version": 4},
    ("POST", "/v1/nodes/" + oid("node", 2) + "/rotate-key"): {"id": oid("node", 2), "name": "away", "admin_state": "draining", "resource_version": 4},
    ("DELETE", f"/v1/nodes/{NODE}"): {"ok": True, "already_deleted": False},
    ("DELETE", f"/v1/nodes/{NODE}?force=true"): {"ok": True, "already_deleted": False},
    ("PATCH", f"/v1/nodes/{NODE}"): receipt("node.update", {"id": NODE, "name": "vm", "admin_state": "active", "labels": {"zone": "a"}, "config": {"disk_ops_per_second": 900},
                                                            "resource_version": 5}),
    ("GET", "/v1/enrollment-tokens"): lst({"id": oid("enr", 1), "roles": ["worker", "edge"], "node_name": "box", "require_approval": False, "expires_at": T % (10, 1),
                                           "created_by": oid("usr", 1), "state": "unused"}),
    ("POST", "/v1/enrollment-tokens"): {"id": oid("enr", 1), "roles": ["worker"], "require_approval": False, "expires_at": T % (10, 1), "created_by": oid("usr", 1),
                                        "state": "unused", "control_address": "control.example:7443", "ca_pin": "00" * 32, "token": "moat_en_example.pin"},
    ("DELETE", "/v1/enrollment-tokens/" + oid("enr", 1)): {"ok": True, "already_deleted": False},
    ("POST", "/v1/admin/recovery/apply"): {"state": "applied", "epoch": 2, "reason": "last night"},
    ("POST", "/v1/admin/recovery/finish"): {"state": "none", "epoch": 2, "reason": "all is back"},
    ("GET", f"{O}/usage"): lst({"env_id": ENV, "app_id": APP, "kind": "vcpu", "unit": "vcpu_milliseconds", "from": "2001-01-01T00:00:00.000000Z",
                                "to": "2001-01-01T01:00:00.000000Z", "quantity": 1800000, "final": True}),
    ("GET", f"{O}/usage/month"): {"month": "2001-01", "from": "2001-01-01T00:00:00.000000Z", "to": "2001-02-01T00:00:00.000000Z", "as_of": "2001-02-03T00:00:00.000000Z",
                                  "final": True, "items": [{"app_id": APP, "app": "hello", "env_id": ENV, "env": "prod", "kind": k, "unit": u, "quantity": q} for k, u, q in
                                                           (("backup", "mib_seconds", 1), ("ipv4", "address_seconds", 2678400), ("memory", "mib_seconds", 3686400 * 7 + 1843200),
                                                            ("vcpu", "vcpu_milliseconds", 1234567))],
                                  "totals": [{"kind": "vcpu", "unit": "vcpu_milliseconds", "quantity": 1234567}]},
    ("GET", f"{O}/audit"): lst(*AUDIT),
    ("GET", f"{O}/audit/verify"): {"ok": True, "pending": 0, "chains": [CHAIN]},
    ("GET", "/v1/admin/audit"): lst(*AUDIT),
    ("GET", "/v1/admin/audit/verify"): {"ok": False, "pending": 0, "chains": [CHAIN, BROKEN]},
    ("GET", "/v1/orgs"): lst(named(ORG, "local")),
    ("GET", "/v1/nodes"): lst({"id": NODE, "name": "vm", "admin_state": "active", "health": "ready", "conditions": ["disk_pressure"],
                               "vmm": {"driver": "qemu", "accel": "tcg", "reason": "no KVM"}, "overlay_ipv6": "fd00::100"}),
    ("GET", "/v1/auth/whoami"): {"subject_type": "user", "subject_id": oid("usr", 1), "email": "operator@localhost"},
    ("GET", "/v1/capabilities"): {"server_version": "9.9.9", "api_versions": ["v1"], "manifest_versions": ["v1"], "features": {"logs": True}, "limits": {}},
    ("GET", "/v1/nodes/" + oid("node", 2)): {"id": oid("node", 2), "name": "away", "admin_state": "draining", "health": "ready", "conditions": [],
                                             "drain": {"state": "complete", "remaining": 0, "blocked_by_stateful": []}},
    ("GET", "/v1/nodes/" + oid("node", 3)): {"id": oid("node", 3), "name": "db", "admin_state": "draining", "health": "ready", "conditions": [],
                                             "drain": {"state": "blocked", "remaining": 0, "blocked_by_stateful": [{"instance_id": INST, "volume_id": VOLUME, "env_id": ENV}]}},
    ("GET", "/v1/nodes/" + oid("node", 5)): {"id": oid("node", 5), "name": "stuck", "admin_state": "draining", "health": "ready", "conditions": [],
                                             "drain": {"state": "blocked", "remaining": 0, "blocked_by_stateful": [{"instance_id": INST, "volume_id": VOLUME, "env_id": ENV}], "volumes": 2,
                                                       "not_moved": [{"volume_id": VOLUME, "name": "data", "env_id": ENV, "code": "no_capacity_storage", "reason": f"no other node{ESC}"},
                                                                     {"volume_id": oid("vol", 2), "name": "spare", "env_id": ENV, "code": "conflict", "reason": "it is error"}]}},
    ("GET", "/v1/nodes/" + oid("node", 6)): {"id": oid("node", 6), "name": "moving", "admin_state": "draining", "health": "ready", "conditions": [],
                                             "drain": {"state": "draining", "remaining": 0, "blocked_by_stateful": [], "volumes": 2,
                                                       "migrations": [{"id": oid("mig", 1), "env_id": ENV, "process_type": f"db{ESC}", "phase": "final_copy", "target_node_id": NODE},
                                                                      {"id": oid("mig", 2), "env_id": ENV, "target_node_id": NODE}]}},
    ("GET", "/v1/nodes/" + oid("node", 4)): {"id": oid("node", 4), "name": "full", "admin_state": "draining", "health": "ready", "conditions": [],
                                             "drain": {"state": "draining", "remaining": 2, "blocked_by_stateful": []}},
    ("GET", "/v1/nodes/" + oid("node", 7)): {"id": oid("node", 7), "name": "lacks", "admin_state": "active", "health": "degraded", "conditions": ["host_swap"],
                                             "health_reason": "swap is on and not encrypted: /dev/sda2: on the node, swapoff -a",
                                             "host_requirements": [{"item": "swap", "finding": "swap is on and not encrypted: /dev/sda2", "mend": f"swapoff -a{ESC}"}]},
    ("GET", f"/v1/nodes/{NODE}"): {"id": NODE, "name": "vm", "health": "ready", "conditions": [], "vmm": {"driver": "qemu", "accel": "tcg", "reason": "no KVM"}},
    ("GET", f"{O}/apps/{APP}"): dict(named(APP, "web"), project_id=oid("prj", 1)),
    ("GET", f"{A}/envs/{ENV}"): dict(named(ENV, "prod"), app_id=APP, config_gate="set", conditions=[{"type": "ready", "status": "false", "reason": f"no_capacity {ESC}"}]),
    ("GET", f"{E}/routes/{ROUTE}"): ROUTE_OBJ,
    ("GET", f"{E}/instances/{INST}"): INSTANCES[0],
    ("GET", f"{O}/projects"): lst(named(oid("prj", 1), "billing")),
    ("GET", f"{O}/apps"): lst(named(APP, "web")),
    ("POST", f"{O}/apps"): receipt("app.create", named(oid("app", 2), "shop")),
    ("GET", f"{A}/envs"): lst(dict(named(ENV, "prod"), config_gate="set")),
    ("POST", f"{A}/envs"): receipt("env.create", dict(named(oid("env", 2), "staging"), config_gate="unset")),
    ("GET", f"{A}/releases"): lst(release(REL2, 2), release(REL1, 1)),
    ("POST", f"{A}/releases"): release(REL1, 1),
    ("GET", f"{A}/releases/{REL1}"): release(REL1, 1),
    ("GET", f"{E}/status"): STATUS,
    ("GET", f"{E}/instances"): lst(*INSTANCES),
    ("GET", f"{E}/instances/{INST_BAD}"): dict(INSTANCES[1], failure=FAILURE),
    ("GET", f"{E}/deploys"): lst(deploy(DEP_BAD, "failed", failed_reason="instance_failed"), deploy(DEP, "succeeded")),
    ("POST", f"{E}/deploys"): receipt("deploy.create", deploy(DEP, "pending")),
    ("GET", f"{E}/deploys/{DEP}"): deploy(DEP, "succeeded"),
    ("POST", f"{E}/deploys?dry_run=true"): deploy(DEP, "queued", release_ids={"web": REL2, "worker": REL2}, previous_release_ids={"web": REL1},
                                                  strategy="rolling", on_failure="hold", dry_run=True),
    ("GET", f"{E}/deploys/{DEP_BAD}"): deploy(DEP_BAD, "failed", failed_reason="instance_failed", message="web failed 3 times", failure=FAILURE),
    ("POST", f"{E}/rollbacks"): receipt("rollback.create", deploy(DEP_BAD, "pending", kind="rollback")),
    ("POST", f"{E}/restarts"): receipt("restart.create", deploy(DEP, "pending", kind="restart")),
    ("GET", f"{E}/scale"): {"resource_version": 4, "processes": [{"process_type": "web", "desired": 1, "source": "manifest", "max": 100}]},
    ("PUT", f"{E}/scale"): {"resource_version": 5, "processes": [{"process_type": "web", "desired": 2, "source": "override", "max": 100}]},
    ("GET", f"{E}/volumes"): lst(VOLUME_OBJ, SPARE_VOLUME),
    ("GET", "/v1/admin/doctor"): {"ok": False, "checks": [{"check": "database.schema", "severity": "ok", "finding": "version 14"},
                                                          {"check": "nodes.offline", "severity": "fail", "finding": f"silent: box2{ESC}", "mend": "look at the machine"},
                                                          {"check": "keys.retired", "severity": "warn", "finding": "3 wrapped keys are under a retired master key",
                                                           "mend": "moat admin keys rewrap"}]},
    ("GET", "/v1/admin/upgrade"): {"ok": False, "checks": [{"check": "upgrade.schema", "severity": "ok", "finding": "version 18"},
                                                           {"check": "upgrade.backup", "severity": "fail", "finding": f"no backup{ESC}", "mend": "moat admin backup FILE"}]},
    ("GET", "/v1/admin/capacity"): {"nodes": 3, "eligible_nodes": 2, "allocatable": {"memory_bytes": 12 << 30, "cpu_millis": 8000, "disk_bytes": 200 << 30},
                                     "used": {"memory_bytes": 5 << 30, "cpu_millis": 2500, "disk_bytes": 30 << 30}, "headroom_memory_bytes": -(1 << 30),
                                     "worst_node_id": NODE, "largest_instance_memory_bytes": 3 << 29},
    ("GET", f"/v1/nodes/{NODE}/simulate/loss"): dict(SIMULATED, event="loss"),
    ("GET", f"/v1/nodes/{NODE}/simulate/drain"): dict(SIMULATED, event="drain", volumes=[dict(SIMULATED["volumes"][0], moves_to=oid("node", 2)),
                                                                                     dict(SIMULATED["volumes"][1], not_moved="no other node")]),
    ("GET", "/v1/admin/volumes"): lst(VOLUME_OBJ, SPARE_VOLUME),
    ("POST", f"/v1/admin/volumes/{VOLUME}/fsck"): receipt("volume.fsck", dict(VOLUME_OBJ, check={"repair": False, "pending": True})),
    ("POST", f"/v1/admin/volumes/{VOLUME}/repair"): receipt("volume.repair", dict(VOLUME_OBJ, check={"repair": True, "pending": True})),
    ("POST", "/v1/admin/volumes/" + oid("vol", 2) + "/fsck"): receipt("volume.fsck", dict(SPARE_VOLUME, check={"repair": False, "pending": True})),
    ("GET", f"/v1/admin/volumes?volume_id={VOLUME}"): lst(dict(VOLUME_OBJ, check={"repair": True, "pending": False, "result": "repaired", "detail": f"Inode 12 {ESC} is odd", "checked_at": T % (9, 0)})),
    ("GET", "/v1/admin/volumes?volume_id=" + oid("vol", 2)): lst(dict(SPARE_VOLUME, check={"repair": False, "pending": False, "result": "damaged", "detail": "Inode 12 has a bad block", "checked_at": T % (9, 0)})),
    ("GET", f"{O}/volumes"): lst(VOLUME_OBJ, SPARE_VOLUME),
    ("POST", f"{E}/volumes"): receipt("volume.create", SPARE_VOLUME),
    ("GET", f"{E}/volumes/{VOLUME}"): VOLUME_OBJ,
    ("GET", f"{E}/volumes/" + oid("vol", 2)): SPARE_VOLUME,
    ("PATCH", f"{E}/volumes/" + oid("vol", 2)): receipt("volume.update", dict(SPARE_VOLUME, name="other", backup_enabled=False, resource_version=2)),
    ("POST", f"{E}/volume-attachments"): {"id": oid("att", 2), "env_id": ENV, "volume_id": oid("vol", 2), "process_type": "web", "mount_path": "/more", "read_only": True,
                                          "managed_by": "api", "resource_version": 1},
    ("POST", f"{E}/volumes/{VOLUME}/resize"): receipt("volume.resize", dict(VOLUME_OBJ, resize_to_bytes=20 << 30, resource_version=4, deploy_id=DEP)),
    ("POST", f"{E}/volume-attachments/" + oid("att", 1) + "/replace"): {"id": oid("att", 1), "volume_id": oid("vol", 2), "old_volume_id": oid("vol", 1), "process_type": "web"},
    ("DELETE", f"{E}/volume-attachments/" + oid("att", 1)): {"ok": True, "already_deleted": False},
    ("DELETE", f"{E}/volumes/" + oid("vol", 2)): {"ok": True, "already_deleted": False},
    ("POST", f"{E}/volumes/{VOLUME}/restore"): receipt("volume.restore", RESTORE),
    ("POST", f"{E}/volumes/{VOLUME}/verify"): receipt("volume.verify", RESTORE),
    ("POST", f"{E}/volumes/{VOLUME}/migrate"): receipt("volume.migrate", MIGRATION),
    ("GET", f"{O}/migrations"): lst(MIGRATION, MIGRATION_BAD),
    ("GET", f"{O}/migrations/" + oid("mig", 1)): dict(MIGRATION, status="succeeded", downtime_ms=21000),
    ("GET", f"{O}/migrations/" + oid("mig", 2)): MIGRATION_BAD,
    ("DELETE", f"{O}/migrations/" + oid("mig", 1)): {"ok": True, "already_deleted": False},
    ("GET", f"{O}/restores"): lst(RESTORE, RESTORE_BAD),
    ("GET", f"{O}/restores/" + oid("rst", 1)): dict(RESTORE, status="succeeded", bytes_done=1 << 30, bytes_total=1 << 30),
    ("GET", f"{O}/restores/" + oid("rst", 2)): RESTORE_BAD,
    ("GET", f"{E}/snapshots"): lst(SNAPSHOT_OBJ, SNAPSHOT_BAD),
    ("GET", f"{E}/snapshots/{SNAPSHOT}"): SNAPSHOT_OBJ,
    ("GET", f"{E}/snapshots/" + oid("snap", 2)): SNAPSHOT_BAD,
    ("GET", f"{E}/snapshots/" + oid("snap", 3)): SNAPSHOT_NEW,
    ("GET", f"{E}/volumes/{VOLUME}/snapshots"): lst(SNAPSHOT_OBJ),
    ("GET", f"{E}/volumes/" + oid("vol", 2) + "/snapshots"): lst(),
    ("POST", f"{E}/volumes/{VOLUME}/snapshots"): receipt("snapshot.create", SNAPSHOT_NEW),
    ("DELETE", f"{E}/volumes/{VOLUME}/snapshots/{SNAPSHOT}"): {"ok": True, "already_deleted": False},
    ("DELETE", f"{E}/volumes/{VOLUME}/snapshots/" + oid("snap", 3)): {"ok": True, "already_deleted": False},
    ("GET", f"{E}/routes"): lst(ROUTE_OBJ, RAW_ROUTE),
    ("GET", f"{O}/routes"): lst(ROUTE_OBJ, RAW_ROUTE),
    ("POST", f"{E}/routes"): receipt("route.create", ROUTE_OBJ),
    ("GET", f"{E}/routes/{ROUTE}"): dict(ROUTE_OBJ, resource_version=3),
    ("PATCH", f"{E}/routes/{ROUTE}"): receipt("route.update", dict(ROUTE_OBJ, resource_version=4)),
    ("POST", "/v1/orgs"): receipt("org.create", named(oid("org", 2), "acme")),
    ("GET", O): dict(named(ORG, "local"), developer_exec=False, suspended=False, resource_version=7),
    ("PATCH", O): receipt("org.update", dict(named(ORG, "corp"), resource_version=8)),
    ("DELETE", O): {"ok": True, "already_deleted": False},
    ("GET", f"{O}/projects"): lst(named(PRJ, "team")),
    ("GET", f"{O}/log-drains"): lst(DRAIN),
    ("GET", f"{O}/log-drains?name=main"): lst(DRAIN),
    ("GET", f"{O}/log-drains?name=second"): lst(),
    ("PUT", f"{O}/log-drains/main"): receipt("drain.set", dict(DRAIN, resource_version=3)),
    ("PUT", f"{O}/log-drains/second"): receipt("drain.set", dict(DRAIN, id=oid("drn", 2), name="second", kind="syslog", target="logs.test:6514", has_token=False, resource_version=1)),
    ("DELETE", f"{O}/log-drains/main"): {"ok": True, "already_deleted": False},
    ("GET", f"{O}/registry-credentials"): lst(REGISTRY),
    ("GET", f"{O}/registry-credentials?host=registry.test%3A5000"): lst(REGISTRY),
    ("GET", f"{O}/registry-credentials?host=other.test"): lst(),
    ("PUT", f"{O}/registry-credentials/registry.test:5000"): receipt("registry.set", dict(REGISTRY, resource_version=3)),
    ("PUT", f"{O}/registry-credentials/other.test"): receipt("registry.set", dict(REGISTRY, id=oid("reg", 2), host="other.test", resource_version=1)),
    ("DELETE", f"{O}/registry-credentials/registry.test:5000"): {"ok": True, "already_deleted": False},
    ("GET", f"{E}/networking"): NETWORKING,
    ("POST", f"{E}/networking/ipv4"): receipt("ipv4.enable", IPV4),
    ("DELETE", f"{E}/networking/ipv4"): {"ok": True, "already_deleted": False},
    ("DELETE", f"{E}/networking/ipv4?force=true"): {"ok": True, "already_deleted": True},
    ("GET", "/v1/ipv4-pool"): lst(POOL4),
    ("GET", "/v1/admin/edges"): lst({"node_id": NODE, "name": f"vm{ESC}", "admin_state": "active", "health": "ready", "state": "draining", "draining": True, "public_ipv6": "2001:db8::1",
                                     "version": "0.1.0", "epoch": 1, "revision": 341, "connections": 0, "last_report_at": T % (9, 0), "seconds_since_report": 4, "resource_version": 5},
                                    {"node_id": oid("node", 2), "name": "box2", "admin_state": "active", "health": "ready", "state": "silent", "draining": False, "resource_version": 2}),
    ("POST", f"/v1/admin/edges/{NODE}/drain"): receipt("edge.drain", {"node_id": NODE, "name": "vm", "admin_state": "active", "health": "ready", "state": "draining", "draining": True, "connections": 7,
                                                                       "resource_version": 5}),
    ("POST", f"/v1/admin/edges/{NODE}/undrain"): receipt("edge.undrain", {"node_id": NODE, "name": "vm", "admin_state": "active", "health": "ready", "state": "serving", "draining": False,
                                                                           "resource_version": 6}),
    ("GET", "/v1/admin/backups"): lst(VOLUME_OBJ, SPARE_VOLUME),
    ("GET", "/v1/admin/backups?stale=true"): lst(VOLUME_OBJ),
    ("POST", "/v1/admin/backups/verify"): receipt("backups.verify", RESTORE),
    ("POST", "/v1/admin/backups/rekey"): receipt("backups.rekey", {"volume_id": VOLUME, "key_epoch": 2}),
    ("POST", "/v1/admin/keys/b90bc12db23d7ce4/retire"): {"id": "b90bc12db23d7ce4", "state": "forgotten", "next": "take its line out"},
    ("GET", "/v1/admin/ipam"): lst({"pool": "nodes", "allocated": 3, "cooldown": 0, "retired": 1, "free": 65531}, {"pool": "ipv4", "allocated": 1, "cooldown": 2, "retired": 0, "free": 0}),
    ("GET", "/v1/admin/ipam/leaks"): lst({"pool": "nodes", "address": "fd00:1:2:1:3::/80", "id": NODE, "since": T % (1, 0), "why": f"the node was disabled for good and is not removed{ESC}",
                                          "reclaim": "moat node remove box3 --reason TEXT"}),
    ("POST", "/v1/ipv4-pool"): receipt("ipv4_pool.add", {"address": "203.0.113.10", "state": "free", "resource_version": 1, "created_at": T % (1, 0), "updated_at": T % (1, 0)}),
    ("DELETE", "/v1/ipv4-pool/203.0.113.10"): {"ok": True, "already_deleted": False},
    ("GET", "/v1/quarantine"): lst(QUARANTINE),
    ("POST", "/v1/quarantine"): receipt("quarantine.set", QUARANTINE),
    ("DELETE", f"/v1/quarantine/{ENV}"): {"ok": True, "already_deleted": False},
    ("POST", f"/v1/routes/{ROUTE}/disable"): receipt("route.disable", dict(ROUTE_OBJ, disabled=True, resource_version=4)),
    ("POST", f"/v1/routes/{ROUTE}/enable"): receipt("route.enable", dict(ROUTE_OBJ, resource_version=5)),
    ("GET", "/v1/admin/scheduler"): {"paused": True, "reason": f"move {ESC}", "changed_at": T % (9, 0), "groups": {"ok": 3, "blocked": 1, "held": 0},
                                     "waiting": [{"org_id": ORG, "app_id": APP, "env_id": ENV, "process_type": "web", "condition": "blocked",
                                                  "reason": "no_capacity_memory", "detail": "3 nodes: 3 memory", "since": T % (8, 0)}],
                                     "leader": {"holder": "host/42", "epoch": 3, "since": T % (7, 0), "renewed_at": T % (9, 0)}},
    ("POST", "/v1/admin/scheduler/pause"): {"paused": True, "reason": "move"},
    ("POST", "/v1/admin/scheduler/resume"): {"paused": False, "reason": "done"},
    ("POST", f"/v1/admin/groups/{ENV}/web/hold"): {"env_id": ENV, "process_type": "web", "condition": "held", "detail": "held by an operator: look"},
    ("POST", f"/v1/admin/groups/{ENV}/web/resume"): {"env_id": ENV, "process_type": "web", "condition": "ok"},
    ("GET", "/v1/admin/explain"): {"org_id": ORG, "org": "local", "app_id": APP, "app": "web", "env_id": ENV, "instance_id": INST,
                                   "scheduler": {"paused": True, "reason": "move"}, "status": dict(STATUS, conditions=[
                                       {"type": "blocked", "process_type": "web", "reason": "no_capacity_memory", "detail": f"2 nodes {ESC}"}]),
                                   "placement": [{"process_type": "web", "desired": 2, "target_spec": "a" * 64, "nodes": [
                                       {"node_id": NODE, "admin_state": "active", "health": "ready", "takes_one_more": False, "refuses_for": "memory"},
                                       {"node_id": oid("node", 2), "admin_state": "active", "health": "ready", "takes_one_more": True}]}],
                                   "why": EVENTS},
    ("GET", "/v1/admin/events"): {"items": EVENTS, "next_after_event_id": 7, "head_event_id": 7, "epoch": 1},
    ("GET", "/v1/admin/projections"): lst({"name": "apps_view", "state": "live", "last_applied_event_id": 7, "head_event_id": 7, "updated_at": T % (9, 0),
                                           "rebuild": {"view": "apps_view", "requested_at": T % (9, 1), "requested_by": oid("usr", 1), "failed": None}}),
    ("POST", "/v1/admin/projections/apps_view/rebuild"): {"view": "apps_view", "requested_at": T % (9, 1), "requested_by": oid("usr", 1)},
    ("GET", "/v1/image-blocks"): lst(BLOCK),
    ("POST", "/v1/image-blocks"): receipt("image.block", BLOCK),
    ("DELETE", f"/v1/image-blocks/{BLOCK['digest']}"): {"ok": True, "already_deleted": False},
    ("POST", f"{O}/projects"): receipt("project.create", named(oid("prj", 2), "crew")),
    ("GET", f"{O}/projects/{PRJ}"): dict(named(PRJ, "team"), resource_version=1),
    ("PATCH", f"{O}/projects/{PRJ}"): receipt("project.update", dict(named(PRJ, "crew"), resource_version=2)),
    ("DELETE", f"{O}/projects/{PRJ}"): {"ok": True, "already_deleted": True},
    ("GET", A): dict(named(APP, "web"), description=f"the site {ESC}", resource_version=2),
    ("PATCH", A): receipt("app.update", dict(named(APP, "shop"), resource_version=3)),
    ("DELETE", A): {"ok": True, "already_deleted": False},
    ("GET", E): dict(named(ENV, "prod"), protected=False, private_network=False, resource_version=5),
    ("PATCH", E): receipt("env.update", dict(named(ENV, "live"), protected=True, resource_version=6)),
    ("DELETE", E): {"ok": True, "already_deleted": False},
    ("POST", f"{E}/rebalance"): {"resource_version": 4, "processes": [{"process_type": "web", "desired": 1, "source": "manifest", "max": 100}]},
    ("POST", f"{E}/instances/{INST}/restart"): receipt("instance.restart", dict(INSTANCES[0], restart_requested=True)),
    ("GET", f"{A}/releases/{REL2}"): dict(release(REL2, 2), manifest=MANIFEST_2),
    ("POST", f"{A}/releases?dry_run=true"): dict(release(REL2, 3), manifest=MANIFEST_2, dry_run=True),
    ("GET", f"{A}/releases/{REL2}/diff"): {
        "from": {"release_id": REL1, "number": 1, "image_ref": "registry.test/web:1", "image_digest": DIGEST},
        "to": {"release_id": REL2, "number": 2, "image_ref": "registry.test/web:2", "image_digest": DIGEST}, "same": False, "image_changed": True,
        "processes": {"added": [], "removed": [], "changed": ["web"]},
        "changes": [{"path": f"processes.web.command{ESC}", "op": "replace", "from": ["/a"], "to": ["/b"]},
                    {"path": "processes.web.ports[9000]", "op": "add", "to": {"internal": 9000, "name": "m"}}]},
    ("DELETE", f"{E}/routes/{ROUTE}"): {"id": ROUTE, "deleted": True},
    ("GET", f"{E}/autopsies"): {"items": [AUTOPSY, AUTOPSY_EXIT]},
    ("GET", f"{E}/logs"): dict(lst(*LOGS), missing_nodes=[NODE]),
    ("GET", f"{O}/events"): {"kind": "List", "items": EVENTS[::-1], "head_event_id": 2},
}


class Fixture:
    """Serves ANSWERS until close(); `faults` maps (method, path) to (status, body bytes or JSON); `hold` keeps streams silent and open."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "api.sock")
        self.faults, self.seen, self.keys, self.hold, self.delay = {}, [], [], False, 0.0
        self.refuse, self.refuse_method = [], None  # (status, Retry-After) of the next answers, to requests of one method
        self.answers = copy.deepcopy(ANSWERS)
        self.released = threading.Event()
        fixture = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def address_string(self):
                return "unix"

            def log_message(self, *_):
                pass

            def handle_any(self):
                n = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(n).decode() if n else ""
                fixture.serve(self, body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that went away

        self.server = Server(self.path, Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def reset(self):
        self.faults, self.seen, self.keys, self.hold, self.delay, self.refuse, self.refuse_method = {}, [], [], False, 0.0, [], None

    def serve(self, h, body):
        path, _, _ = h.path.partition("?")
        self.seen.append(f"{h.command} {h.path}" + (f" {body}" if body else ""))
        if h.headers.get("Authorization") != "Bearer secret":
            return self.reply(h, 401, {"code": "unauthorized", "detail": "the token is not valid", "retryable": False})
        if h.command != "GET":
            self.keys.append(h.headers.get("Idempotency-Key"))
        if h.command != "GET" and not self.keys[-1]:
            return self.reply(h, 400, {"code": "bad_request", "detail": "no Idempotency-Key"})
        if self.delay:
            self.released.wait(self.delay)
        if self.refuse and self.refuse_method in (None, h.command):
            status, after = self.refuse.pop(0)
            return self.reply(h, status, {"code": "unavailable", "detail": "not now", "retryable": True}, [("Retry-After", str(after))] if after else [])
        fault = self.faults.get((h.command, path))
        if fault:
            return self.reply(h, *fault)
        if path == f"{O}/events/stream":
            dep = DEP_BAD if DEP_BAD in h.path else DEP
            rows = rollout(dep, "failed" if dep == DEP_BAD else "succeeded") if "correlation_id" in h.path else [event(3, "env.created", ENV, {}, 2, "env")]
            return self.stream(h, rows)
        if path == f"{E}/logs/stream":
            first = "cursor=" not in h.path
            if "until=" in h.path:
                return self.stream(h, LOGS + [{"type": "end", "reason": "until"}])
            return self.stream(h, LOGS + [{"type": "position", "positions": {INST: 1, INST_BAD: 7}}, {"type": "end", "reason": "shutdown"}] if first
                               else [LOGS[1], dict(LOGS[1], seq=3), {"type": "end", "reason": "max_duration"}])
        if path == f"{O}/events" and "correlation_id" in h.path and "order=asc" in h.path:
            dep = DEP_BAD if DEP_BAD in h.path else DEP
            return self.reply(h, 200, {"kind": "List", "items": rollout(dep, "failed" if dep == DEP_BAD else "succeeded"), "head_event_id": 106})
        answer = self.answers.get((h.command, h.path), self.answers.get((h.command, path)))
        if answer is None:
            return self.reply(h, 404, {"code": "not_found", "detail": f"nothing is at {path}", "retryable": False})
        if "name=nothing" in h.path:
            answer = lst()
        self.reply(h, 200, answer)

    def reply(self, h, status, body, headers=()):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        h.send_response(status)
        h.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        h.send_header("Content-Length", str(len(raw)))
        h.send_header("X-Request-Id", "req_fixture")
        for k, v in headers:
            h.send_header(k, v)
        h.end_headers()
        h.wfile.write(raw)

    def stream(self, h, rows):
        h.send_response(200)
        h.send_header("Content-Type", "application/x-ndjson")
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        for r in [] if self.hold else rows:
            line = json.dumps(r).encode() + b"\n"
            h.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        h.wfile.flush()
        if self.hold:
            self.released.wait(20)
        try:
            h.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
