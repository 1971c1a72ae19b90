# SPDX-License-Identifier: Apache-2.0
"""Who may call what: control-plane.md section 10.4 as data, and one line for every route of `moat-control --routes`.

A new route fails test_auth_matrix.py until it has a line here. A line says what guards the route:

    "METHOD /path": "scope"          tenant route: the scope of the table below is needed in the organisation of the path
    "METHOD /path": "one|other"      the same, and either scope suffices
    "METHOD /path": USER             any person with an unrestricted token
    "METHOD /path": ANY              any valid token
    "METHOD /path": OPEN             no token at all
    "METHOD /path": op("scope")      operators whose token has the scope
    "METHOD /path": inside("scope")  as a scope, and open to tokens that are restricted to apps or environments, since the
                                     handler leaves out of its answer what they may not see (flag MT_API_FILTERS)

Write the line from the specification, not from the code: it is the second opinion.
"""
O = "/v1/orgs/{org_id}"
A = O + "/apps/{app_id}"
E = A + "/envs/{env_id}"

OPEN, ANY, USER = "open", "any", "user"


class op(str):
    pass


class inside(str):
    pass


# Section 10.4. Letters: owner, admin, developer, readonly.
READS = ("orgs:read apps:read envs:read releases:read deploys:read instances:read routes:read volumes:read "
         "secrets:read-metadata events:read logs:read").split()
SCOPES = {s: "oadr" for s in READS}
SCOPES.update({"sps:read": "oad", "registries:read": "oad", "drains:read": "oad"})
SCOPES.update({s: "oad" for s in ("apps:write envs:write releases:write deploys:write rollbacks:write scale:write "
                                  "instances:write routes:write volumes:write secrets:write").split()})
SCOPES["exec:write"] = "oa"  # and developer, when the organisation says so
SCOPES.update({s: "oa" for s in "apps:admin envs:admin ipv4:write registries:write drains:write members:write sps:write audit:read".split()})
SCOPES.update({s: "o" for s in "orgs:admin billing:read billing:write".split()})
SCOPES["secrets:read-material"] = "o"  # where the server allows it, as the one of test_auth_matrix does
OPERATOR = "nodes:read nodes:admin users:admin quotas:admin events:admin admin".split()

ROUTES = {
    "GET /v1/auth/whoami": ANY,
    "GET /v1/auth/tokens": USER,
    "POST /v1/auth/tokens": USER,
    "DELETE /v1/auth/tokens/{token_id}": USER,
    "POST /v1/auth/device/start": OPEN,
    "POST /v1/auth/device/token": OPEN,
    "POST /v1/auth/token": OPEN,
    "POST /v1/auth/token/refresh": OPEN,
    "POST /v1/auth/token/revoke": OPEN,
    "GET /v1/capabilities": OPEN,
    "GET /v1/schemas/events": OPEN,

    "GET /v1/orgs": ANY,
    "POST /v1/orgs": USER,
    "GET " + O: inside("orgs:read"),
    "PATCH " + O: "orgs:admin",
    "DELETE " + O: "orgs:admin",
    "POST " + O + "/suspend": op("admin"),
    "POST " + O + "/resume": op("admin"),
    "GET " + O + "/members": "orgs:read",
    "POST " + O + "/members": "members:write",
    "PATCH " + O + "/members/{member_id}": "members:write",
    "DELETE " + O + "/members/{member_id}": "members:write",
    "GET " + O + "/service-principals": "sps:read",
    "POST " + O + "/service-principals": "sps:write",
    "GET " + O + "/service-principals/{sp_id}": "sps:read",
    "PATCH " + O + "/service-principals/{sp_id}": "sps:write",
    "POST " + O + "/service-principals/{sp_id}/rotate": "sps:write",
    "DELETE " + O + "/service-principals/{sp_id}": "sps:write",
    "GET " + O + "/log-drains": "drains:read",
    "PUT " + O + "/log-drains/{drain}": "drains:write",
    "DELETE " + O + "/log-drains/{drain}": "drains:write",
    "GET " + O + "/registry-credentials": "registries:read",
    "PUT " + O + "/registry-credentials/{host}": "registries:write",
    "DELETE " + O + "/registry-credentials/{host}": "registries:write",
    "GET /v1/ipv4-pool": op("nodes:admin"),
    "POST /v1/ipv4-pool": op("nodes:admin"),
    "DELETE /v1/ipv4-pool/{address}": op("nodes:admin"),
    "GET /v1/quarantine": op("admin"),
    "POST /v1/quarantine": op("admin"),
    "DELETE /v1/quarantine/{target_id}": op("admin"),
    "GET /v1/image-blocks": op("admin"),
    "POST /v1/image-blocks": op("admin"),
    "DELETE /v1/image-blocks/{digest}": op("admin"),
    "GET " + O + "/projects": "apps:read",
    "POST " + O + "/projects": "apps:write",
    "GET " + O + "/projects/{project_id}": "apps:read",
    "PATCH " + O + "/projects/{project_id}": "apps:write",
    "DELETE " + O + "/projects/{project_id}": "apps:write",
    "GET " + O + "/apps": inside("apps:read"),
    "POST " + O + "/apps": "apps:write",
    "GET " + O + "/routes": inside("routes:read"),
    "GET " + O + "/volumes": inside("volumes:read"),
    "GET " + O + "/events": inside("events:read"),
    "GET " + O + "/events/stream": inside("events:read"),

    "GET " + O + "/audit": "audit:read",
    "GET " + O + "/audit/verify": "audit:read",

    "GET " + A: "apps:read",
    "PATCH " + A: "apps:write",
    "DELETE " + A: "apps:admin",
    "GET " + A + "/envs": "envs:read",
    "POST " + A + "/envs": "envs:write",
    "POST " + A + "/manifest/validate": "releases:read",
    "GET " + A + "/releases": "releases:read",
    "POST " + A + "/releases": "releases:write",
    "GET " + A + "/releases/{release_id}": "releases:read",
    "GET " + A + "/releases/{release_id}/diff": "releases:read",

    "GET " + E: "envs:read",
    "PATCH " + E: "envs:write",
    "DELETE " + E: "envs:admin",
    "GET " + E + "/status": "envs:read",
    "GET " + E + "/deploys": "deploys:read",
    "POST " + E + "/deploys": "deploys:write",
    "GET " + E + "/deploys/{deploy_id}": "deploys:read",
    "POST " + E + "/rollbacks": "rollbacks:write",
    "POST " + E + "/restarts": "deploys:write",
    "GET " + E + "/scale": "envs:read",
    "PUT " + E + "/scale": "scale:write",
    "POST " + E + "/rebalance": "deploys:write",
    "GET " + E + "/instances": "instances:read",
    "GET " + E + "/instances/{instance_id}": "instances:read",
    "POST " + E + "/instances/{instance_id}/restart": "instances:write",
    "POST " + E + "/instances/{instance_id}/exec": "exec:write",
    "GET " + E + "/exec-sessions": "exec:write|audit:read",
    "GET " + E + "/exec-sessions/{exec_session_id}": "exec:write|audit:read",
    "DELETE " + E + "/exec-sessions/{exec_session_id}": "exec:write",
    "GET /v1/exec-sessions/{exec_session_id}/connect": OPEN,
    "GET " + E + "/volumes": "volumes:read",
    "POST " + E + "/volumes/{volume_id}/restore": "volumes:write",
    "POST " + E + "/volumes/{volume_id}/recover": "volumes:write",
    "POST " + E + "/volumes/{volume_id}/verify": "volumes:write",
    "POST " + E + "/volumes/{volume_id}/migrate": "volumes:write",
    "GET " + O + "/migrations": inside("volumes:read"),
    "GET " + O + "/migrations/{migration_id}": inside("volumes:read"),
    "DELETE " + O + "/migrations/{migration_id}": "volumes:write",
    "GET " + O + "/restores": inside("volumes:read"),
    "GET " + O + "/restores/{restore_id}": inside("volumes:read"),
    "GET " + E + "/snapshots": "volumes:read",
    "GET " + E + "/snapshots/{snapshot_id}": "volumes:read",
    "GET " + E + "/volumes/{volume_id}/snapshots": "volumes:read",
    "POST " + E + "/volumes/{volume_id}/snapshots": "volumes:write",
    "GET " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}": "volumes:read",
    "DELETE " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}": "volumes:write",
    "GET " + E + "/volume-attachments": "volumes:read",
    "GET " + E + "/volume-attachments/{attachment_id}": "volumes:read",
    "POST " + E + "/volume-attachments": "volumes:write",
    "POST " + E + "/volume-attachments/{attachment_id}/replace": "volumes:write",
    "DELETE " + E + "/volume-attachments/{attachment_id}": "volumes:write",
    "POST " + E + "/volumes": "volumes:write",
    "GET " + E + "/volumes/{volume_id}": "volumes:read",
    "PATCH " + E + "/volumes/{volume_id}": "volumes:write",
    "POST " + E + "/volumes/{volume_id}/resize": "volumes:write",
    "DELETE " + E + "/volumes/{volume_id}": "volumes:write",
    "GET " + E + "/routes": "routes:read",
    "POST " + E + "/routes": "routes:write",
    "GET " + E + "/routes/{route_id}": "routes:read",
    "PATCH " + E + "/routes/{route_id}": "routes:write",
    "DELETE " + E + "/routes/{route_id}": "routes:write",
    "GET " + E + "/secrets": "secrets:read-metadata",
    "PUT " + E + "/secrets": "secrets:write",
    "PATCH " + E + "/secrets": "secrets:write",
    "POST " + E + "/secrets/confirm-none": "secrets:write",
    "GET " + E + "/secrets/material": "secrets:read-material",
    "GET " + E + "/secrets/versions": "secrets:read-metadata",
    "POST " + E + "/secrets/versions/{version_id}/activate": "secrets:write",
    "GET /v1/admin/keys": op("admin"),
    "POST /v1/admin/keys/rewrap": op("admin"),
    "POST /v1/admin/keys/verify": op("admin"),
    "GET " + E + "/networking": "routes:read",
    "POST " + E + "/networking/ipv4": "ipv4:write",
    "DELETE " + E + "/networking/ipv4": "ipv4:write",
    "POST /v1/routes/{route_id}/disable": op("admin"),
    "POST /v1/routes/{route_id}/enable": op("admin"),
    "GET " + E + "/autopsies": "logs:read",
    "GET " + E + "/logs": "logs:read",
    "GET " + E + "/logs/stream": "logs:read",

    "GET /v1/users": op("users:admin"),
    "POST /v1/users": op("users:admin"),
    "GET /v1/users/{user_id}": op("users:admin"),
    "PATCH /v1/users/{user_id}": op("users:admin"),
    "POST /v1/users/{user_id}/setup-link": op("users:admin"),
    "POST /v1/tokens/{token_id}/revoke": op("users:admin"),
    "POST /v1/admin/break-glass": op("admin"),
    "GET /v1/nodes": op("nodes:read"),
    "GET /v1/nodes/{node_id}": op("nodes:read"),
    "POST /v1/nodes/{node_id}/approve": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/cordon": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/uncordon": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/drain": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/disable": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/confirm-offline": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/mark-lost": op("nodes:admin"),
    "POST /v1/nodes/{node_id}/rotate-key": op("nodes:admin"),
    "PATCH /v1/nodes/{node_id}": op("nodes:admin"),
    "DELETE /v1/nodes/{node_id}": op("nodes:admin"),
    "GET /v1/enrollment-tokens": op("nodes:admin"),
    "POST /v1/enrollment-tokens": op("nodes:admin"),
    "DELETE /v1/enrollment-tokens/{enrollment_token_id}": op("nodes:admin"),
    "GET /v1/admin/projections": op("admin"),
    "POST /v1/admin/projections/{name}/rebuild": op("admin"),
    "GET /v1/admin/events": op("events:admin"),
    "GET /v1/admin/projections": op("admin"),
    "POST /v1/admin/projections/{name}/rebuild": op("admin"),
    "GET " + E + "/instances/{instance_id}/why": "events:read",
    "GET " + O + "/history/status": "events:read",
    "GET " + O + "/history/diff": "events:read",
    "GET " + A + "/history/status": "events:read",
    "GET " + A + "/history/diff": "events:read",
    "GET " + E + "/history/status": "events:read",
    "GET " + E + "/history/diff": "events:read",
    "GET " + O + "/quotas": "orgs:read",
    "GET " + O + "/usage": "orgs:read",
    "GET " + O + "/usage/month": "orgs:read",
    "PUT " + O + "/quotas/{dimension}": op("quotas:admin"),
    "GET /v1/admin/volumes": op("admin"),
    "POST /v1/admin/volumes/{volume_id}/fsck": op("admin"),
    "POST /v1/admin/volumes/{volume_id}/repair": op("admin"),
    "GET /v1/admin/node-ca": op("nodes:admin"),
    "POST /v1/admin/node-ca": op("nodes:admin"),
    "POST /v1/admin/mesh-removal": op("nodes:admin"),
    "GET /v1/admin/maintenance": op("admin"),
    "POST /v1/admin/maintenance": op("admin"),
    "GET /v1/admin/capacity": op("admin"),
    "GET /v1/admin/mesh": op("nodes:read"),
    "GET /v1/admin/edges": op("nodes:read"),
    "POST /v1/admin/edges/{node_id}/drain": op("nodes:admin"),
    "POST /v1/admin/edges/{node_id}/undrain": op("nodes:admin"),
    "GET /v1/admin/backups": op("admin"),
    "POST /v1/admin/backups/verify": op("admin"),
    "POST /v1/admin/backups/rekey": op("admin"),
    "POST /v1/admin/backups/scan": op("admin"),
    "POST /v1/admin/keys/{key_id}/retire": op("admin"),
    "GET /v1/admin/ipam": op("nodes:read"),
    "GET /v1/admin/ipam/leaks": op("nodes:read"),
    "GET /v1/admin/doctor": op("admin"),
    "GET /v1/admin/upgrade": op("admin"),
    "GET /v1/admin/explain": op("admin"),
    "GET /v1/admin/scheduler": op("admin"),
    "POST /v1/admin/scheduler/pause": op("admin"),
    "POST /v1/admin/scheduler/resume": op("admin"),
    "POST /v1/admin/groups/{env_id}/{process_type}/hold": op("admin"),
    "POST /v1/admin/groups/{env_id}/{process_type}/resume": op("admin"),
    "GET /v1/nodes/{node_id}/simulate/loss": op("admin"),
    "GET /v1/nodes/{node_id}/simulate/drain": op("admin"),
    "GET /v1/admin/recovery": op("admin"),
    "POST /v1/admin/recovery/apply": op("admin"),
    "POST /v1/admin/recovery/finish": op("admin"),
    "GET /v1/admin/audit": op("admin"),
    "GET /v1/admin/audit/verify": op("admin"),
}
