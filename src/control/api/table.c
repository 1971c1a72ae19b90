/* SPDX-License-Identifier: Apache-2.0 */
/* The route table: data, so that the API description can be made from it (`moat-control --routes`). Anything that is not
 * here is answered 404. Source: control-plane.md §9.3-9.6. */
#include "control/api/dispatch.h"
#include "control/api/handlers.h"

#define O "/v1/orgs/{org_id}"
#define A O "/apps/{app_id}"
#define E A "/envs/{env_id}"
#define N "/internal/v1/nodes/self"

#define WRITE (MT_API_BODY | MT_API_MUTATES)
#define REMOVE (WRITE | MT_API_GONE_OK)

const struct mt_api_route mt_api_routes[] = {
    {"GET", "/v1/auth/whoami", NULL, 0, mt_api_whoami, "who the token belongs to", MT_LISTEN_API},
    {"GET", "/v1/auth/tokens", NULL, MT_API_USER, mt_api_tokens_list, "personal tokens of the caller", MT_LISTEN_API},
    {"POST", "/v1/auth/tokens", NULL, WRITE | MT_API_USER, mt_api_tokens_create, "token.create", MT_LISTEN_API},
    {"DELETE", "/v1/auth/tokens/{token_id}", NULL, WRITE | MT_API_USER, mt_api_tokens_delete, "token.revoke", MT_LISTEN_API},
    {"POST", "/v1/auth/device/start", NULL, MT_API_BODY | MT_API_ANYONE, mt_api_device_start, "begin a login of a device", MT_LISTEN_API},
    {"POST", "/v1/auth/device/token", NULL, MT_API_BODY | MT_API_ANYONE, mt_api_device_token, "ask for its tokens", MT_LISTEN_API},
    {"POST", "/v1/auth/token", NULL, MT_API_BODY | MT_API_ANYONE, mt_api_auth_token, "exchange client credentials", MT_LISTEN_API},
    {"POST", "/v1/auth/token/refresh", NULL, MT_API_BODY | MT_API_ANYONE, mt_api_auth_refresh, "exchange a refresh token", MT_LISTEN_API},
    {"POST", "/v1/auth/token/revoke", NULL, MT_API_BODY | MT_API_ANYONE, mt_api_auth_revoke, "end a login or a token", MT_LISTEN_API},
    {"GET", "/v1/capabilities", NULL, MT_API_ANYONE | MT_API_NO_DB, mt_api_capabilities, "versions, features, limits", MT_LISTEN_API},
    {"GET", "/v1/schemas/events", NULL, MT_API_ANYONE | MT_API_NO_DB, mt_api_event_schemas, "payload schemas of the event log", MT_LISTEN_API},

    {"GET", "/v1/orgs", "orgs:read", 0, mt_api_orgs_list, "organisations of the caller", MT_LISTEN_API},
    {"POST", "/v1/orgs", NULL, WRITE | MT_API_USER, mt_api_orgs_create, "org.create", MT_LISTEN_API},
    {"GET", O, "orgs:read", MT_API_FILTERS, mt_api_orgs_get, "one organisation", MT_LISTEN_API},
    {"PATCH", O, "orgs:admin", WRITE, mt_api_orgs_patch, "org.update", MT_LISTEN_API},
    {"DELETE", O, "orgs:admin", REMOVE, mt_api_orgs_delete, "org.delete", MT_LISTEN_API},
    {"POST", O "/suspend", "admin", WRITE | MT_API_OPERATOR, mt_api_orgs_suspend, "org.suspend", MT_LISTEN_API},
    {"POST", O "/resume", "admin", WRITE | MT_API_OPERATOR, mt_api_orgs_resume, "org.resume", MT_LISTEN_API},
    {"GET", O "/members", "orgs:read", 0, mt_api_members_list, "members of an organisation", MT_LISTEN_API},
    {"POST", O "/members", "members:write", WRITE, mt_api_members_create, "member.add", MT_LISTEN_API},
    {"PATCH", O "/members/{member_id}", "members:write", WRITE, mt_api_members_update, "member.set_role", MT_LISTEN_API},
    {"DELETE", O "/members/{member_id}", "members:write", WRITE, mt_api_members_delete, "member.remove", MT_LISTEN_API},
    {"GET", O "/service-principals", "sps:read", 0, mt_api_sps_list, "service principals", MT_LISTEN_API},
    {"POST", O "/service-principals", "sps:write", WRITE, mt_api_sps_create, "service_principal.create", MT_LISTEN_API},
    {"GET", O "/service-principals/{sp_id}", "sps:read", 0, mt_api_sps_get, "one service principal", MT_LISTEN_API},
    {"PATCH", O "/service-principals/{sp_id}", "sps:write", WRITE, mt_api_sps_update, "service_principal.update", MT_LISTEN_API},
    {"POST", O "/service-principals/{sp_id}/rotate", "sps:write", WRITE, mt_api_sps_rotate, "service_principal.rotate", MT_LISTEN_API},
    {"DELETE", O "/service-principals/{sp_id}", "sps:write", WRITE, mt_api_sps_delete, "service_principal.delete", MT_LISTEN_API},
    {"GET", O "/projects", "apps:read", 0, mt_api_projects_list, "projects of an organisation", MT_LISTEN_API},
    {"POST", O "/projects", "apps:write", WRITE, mt_api_projects_create, "project.create", MT_LISTEN_API},
    {"GET", O "/projects/{project_id}", "apps:read", 0, mt_api_projects_get, "one project", MT_LISTEN_API},
    {"PATCH", O "/projects/{project_id}", "apps:write", WRITE, mt_api_projects_patch, "project.update", MT_LISTEN_API},
    {"DELETE", O "/projects/{project_id}", "apps:write", WRITE, mt_api_projects_delete, "project.delete", MT_LISTEN_API},
    {"GET", O "/apps", "apps:read", MT_API_FILTERS, mt_api_apps_list, "apps of an organisation", MT_LISTEN_API},
    {"POST", O "/apps", "apps:write", WRITE, mt_api_apps_create, "app.create", MT_LISTEN_API},
    {"GET", A, "apps:read", 0, mt_api_apps_get, "one app", MT_LISTEN_API},
    {"PATCH", A, "apps:write", WRITE, mt_api_apps_patch, "app.update", MT_LISTEN_API},
    {"DELETE", A, "apps:admin", REMOVE, mt_api_apps_delete, "app.delete", MT_LISTEN_API},
    {"GET", A "/envs", "envs:read", 0, mt_api_envs_list, "environments of an app", MT_LISTEN_API},
    {"POST", A "/envs", "envs:write", WRITE, mt_api_envs_create, "env.create", MT_LISTEN_API},
    {"GET", E, "envs:read", 0, mt_api_envs_get, "one environment", MT_LISTEN_API},
    {"PATCH", E, "envs:write", WRITE, mt_api_envs_patch, "env.update", MT_LISTEN_API},
    {"DELETE", E, "envs:admin", REMOVE, mt_api_envs_delete, "env.delete", MT_LISTEN_API},
    {"GET", E "/status", "envs:read", 0, mt_api_env_status, "what runs in an environment and why", MT_LISTEN_API},

    {"POST", A "/manifest/validate", "releases:read", MT_API_BODY, mt_api_manifest_validate, "check a manifest", MT_LISTEN_API},
    {"GET", A "/releases", "releases:read", 0, mt_api_releases_list, "releases of an app", MT_LISTEN_API},
    {"POST", A "/releases", "releases:write", WRITE, mt_api_releases_create, "release.create", MT_LISTEN_API},
    {"GET", A "/releases/{release_id}", "releases:read", 0, mt_api_releases_get, "one release", MT_LISTEN_API},
    {"GET", A "/releases/{release_id}/diff", "releases:read", 0, mt_api_releases_diff, "what a release changes", MT_LISTEN_API},

    {"GET", E "/deploys", "deploys:read", 0, mt_api_deploys_list, "deploys of an environment", MT_LISTEN_API},
    {"POST", E "/deploys", "deploys:write", WRITE, mt_api_deploys_create, "deploy.create", MT_LISTEN_API},
    {"GET", E "/deploys/{deploy_id}", "deploys:read", 0, mt_api_deploys_get, "one deploy", MT_LISTEN_API},
    {"POST", E "/rollbacks", "rollbacks:write", WRITE, mt_api_rollbacks_create, "rollback.create", MT_LISTEN_API},
    {"POST", E "/restarts", "deploys:write", WRITE, mt_api_restarts_create, "restart.create", MT_LISTEN_API},
    {"GET", E "/scale", "envs:read", 0, mt_api_scale_get, "replicas wanted", MT_LISTEN_API},
    {"PUT", E "/scale", "scale:write", WRITE, mt_api_scale_put, "scale.set", MT_LISTEN_API},
    {"POST", E "/rebalance", "deploys:write", WRITE, mt_api_rebalance_create, "rebalance.create", MT_LISTEN_API},
    {"GET", E "/instances", "instances:read", 0, mt_api_instances_list, "instances of an environment", MT_LISTEN_API},
    {"GET", E "/instances/{instance_id}", "instances:read", 0, mt_api_instances_get, "one instance", MT_LISTEN_API},
    {"POST", E "/instances/{instance_id}/restart", "instances:write", WRITE, mt_api_instances_restart, "instance.restart", MT_LISTEN_API},
    {"GET", E "/instances/{instance_id}/why", "events:read", 0, mt_api_instance_why, "the chain of causes of an instance", MT_LISTEN_API},
    {"GET", E "/routes", "routes:read", 0, mt_api_routes_list, "routes of an environment", MT_LISTEN_API},
    {"GET", O "/routes", "routes:read", MT_API_FILTERS, mt_api_routes_list_org, "routes of all environments", MT_LISTEN_API},
    {"POST", E "/routes", "routes:write", WRITE, mt_api_routes_create, "route.create", MT_LISTEN_API},
    {"GET", E "/routes/{route_id}", "routes:read", 0, mt_api_routes_get, "one route", MT_LISTEN_API},
    {"PATCH", E "/routes/{route_id}", "routes:write", WRITE, mt_api_routes_patch, "route.update", MT_LISTEN_API},
    {"DELETE", E "/routes/{route_id}", "routes:write", REMOVE, mt_api_routes_delete, "route.delete", MT_LISTEN_API},
    {"POST", "/v1/routes/{route_id}/disable", "admin", WRITE | MT_API_OPERATOR, mt_api_routes_disable, "route.disable", MT_LISTEN_API},
    {"POST", "/v1/routes/{route_id}/enable", "admin", WRITE | MT_API_OPERATOR, mt_api_routes_enable, "route.enable", MT_LISTEN_API},
    {"GET", E "/networking", "routes:read", 0, mt_api_networking_get, "where an environment is reached", MT_LISTEN_API},

    {"GET", O "/events", "events:read", MT_API_FILTERS, mt_api_events_list, "the event log of an organisation", MT_LISTEN_API},
    {"GET", O "/events/stream", "events:read", MT_API_FILTERS, mt_api_events_stream, "events as they happen (NDJSON)", MT_LISTEN_API},
    {"GET", O "/audit", "audit:read", 0, mt_api_audit_list, "the audit log of an organisation", MT_LISTEN_API},
    {"GET", O "/audit/verify", "audit:read", 0, mt_api_audit_verify, "check the chain of the audit log", MT_LISTEN_API},
    {"GET", E "/logs", "logs:read", 0, mt_api_logs_list, "log lines", MT_LISTEN_API},
    {"GET", E "/logs/stream", "logs:read", 0, mt_api_logs_stream, "log lines as they come (NDJSON)", MT_LISTEN_API},

    {"GET", "/v1/users", "users:admin", MT_API_OPERATOR, mt_api_users_list, "users of the platform", MT_LISTEN_API},
    {"POST", "/v1/users", "users:admin", WRITE | MT_API_OPERATOR, mt_api_users_create, "user.create", MT_LISTEN_API},
    {"GET", "/v1/users/{user_id}", "users:admin", MT_API_OPERATOR, mt_api_users_get, "one user", MT_LISTEN_API},
    {"PATCH", "/v1/users/{user_id}", "users:admin", WRITE | MT_API_OPERATOR, mt_api_users_update, "user.update", MT_LISTEN_API},
    {"POST", "/v1/users/{user_id}/setup-link", "users:admin", WRITE | MT_API_OPERATOR, mt_api_users_setup_link, "user.setup_link", MT_LISTEN_API},
    {"POST", "/v1/admin/break-glass", "admin", WRITE | MT_API_OPERATOR, mt_api_break_glass, "break_glass", MT_LISTEN_API},
    {"GET", "/v1/nodes", "nodes:read", MT_API_OPERATOR, mt_api_nodes_list, "nodes", MT_LISTEN_API},
    {"GET", "/v1/nodes/{node_id}", "nodes:read", MT_API_OPERATOR, mt_api_nodes_get, "one node", MT_LISTEN_API},
    {"GET", "/v1/admin/events", "events:admin", MT_API_OPERATOR, mt_api_admin_events_list, "the whole event log", MT_LISTEN_API},
    {"GET", "/v1/admin/audit", "admin", MT_API_OPERATOR, mt_api_admin_audit_list, "the audit log of the platform and of all organisations", MT_LISTEN_API},
    {"GET", "/v1/admin/audit/verify", "admin", MT_API_OPERATOR, mt_api_admin_audit_verify, "check every chain of the audit log", MT_LISTEN_API},

    {"GET", "/v1/admin/projections", "admin", MT_API_OPERATOR, mt_api_projections_list, "views, their state and rebuilds", MT_LISTEN_API},
    {"POST", "/v1/admin/projections/{name}/rebuild", "admin", MT_API_OPERATOR | MT_API_BODY, mt_api_projections_rebuild,
     "make a view (or all) again from the log", MT_LISTEN_API},

    {"POST", N "/heartbeat", NULL, MT_API_BODY, mt_api_heartbeat, "an agent lives", MT_LISTEN_INTERNAL},
    {"GET", N "/plan", NULL, 0, mt_api_plan, "what a node shall run (long poll)", MT_LISTEN_INTERNAL},
    {"POST", N "/status", NULL, MT_API_BODY, mt_api_node_status, "transitions of instances", MT_LISTEN_INTERNAL},
    {"GET", "/internal/v1/edge/config", NULL, 0, mt_api_edge_config, "routing snapshot (long poll)", MT_LISTEN_INTERNAL},
    {"POST", "/internal/v1/edge/status", NULL, MT_API_BODY, mt_api_edge_status, "what an edge has applied", MT_LISTEN_INTERNAL},

    {"GET", "/livez", NULL, MT_API_NO_DB, mt_api_livez, "the process lives", MT_LISTEN_ADMIN},
    {"GET", "/readyz", NULL, MT_API_NO_DB, mt_api_readyz, "the server can serve", MT_LISTEN_ADMIN},
    {"GET", "/metrics", NULL, MT_API_NO_DB, mt_api_metrics, "Prometheus text", MT_LISTEN_ADMIN},
    {NULL, NULL, NULL, 0, NULL, NULL, MT_LISTEN_API},
};
