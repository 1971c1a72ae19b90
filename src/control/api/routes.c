/* SPDX-License-Identifier: Apache-2.0 */
/* Routes: which name or port leads to which process of an environment. Their status is derived, never stored. */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/patch.h"
#include "control/api/routes.h"
#include "control/api/sql.h"
#include "control/commands/route.h"
#include "control/plans/edge_acks.h"

/* $2 is the newest revision an edge has applied: a route is active once it is applied and has a ready backend. */
#define READY_BACKEND                                                                                                  \
    "EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = r.env_id AND i.process_type = r.backend_process_type"      \
    " AND i.released_at IS NULL AND i.desired_state = 'running' AND i.status = 'ready')"
#define EVER_BACKEND                                                                                                    \
    "EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = r.env_id AND i.process_type = r.backend_process_type"      \
    " AND i.ready_at IS NOT NULL)"
#define ROUTE_OBJECT                                                                                                    \
    "json_strip_nulls(json_build_object('id',route_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,"                 \
    "'hostname',hostname,'listen_port',listen_port,'protocol',protocol,'address_scope',address_scope,"                  \
    "'backend_process_type',backend_process_type,'backend_port',backend_port,'proxy_protocol',proxy_protocol,"          \
    "'backend_expects_proxy_protocol',backend_expects_proxy_protocol,'proxy_tlv',proxy_tlv,"                            \
    "'ipv4_required',ipv4_required,'max_connections',max_connections,'idle_timeout_seconds',idle_timeout_seconds,"      \
    "'balance',balance,'min_tls_version',min_tls_version,'default_for_listener',default_for_listener,'allow_non_tls',allow_non_tls," \
    "'disabled',disabled,'managed_by',managed_by,'deleted',CASE WHEN deleted THEN true END,'status',CASE WHEN disabled THEN 'degraded' WHEN " READY_BACKEND                                     \
    " THEN CASE WHEN r.last_event_id <= $2 THEN 'active' ELSE 'pending' END WHEN " EVER_BACKEND                         \
    " THEN 'degraded' ELSE 'pending' END,'hints','[]'::json,'addresses',(SELECT coalesce(json_agg(x.a),'[]')" \
    " FROM (SELECT n.public_ipv6 AS a FROM nodes_view n WHERE r.address_scope = 'shared6' AND 'edge' = ANY (n.roles) AND NOT n.deleted" \
    " AND n.admin_state <> 'disabled' AND n.public_ipv6 IS NOT NULL UNION ALL SELECT v4.ipv4_address FROM ipv4_allocations_view v4 WHERE r.ipv4_required" \
    " AND v4.env_id = r.env_id AND v4.ended_at IS NULL) x),"                                                             \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(env_routes, ROUTE_OBJECT, "routes_view r", "route_id",
            "($4 OR NOT deleted) AND env_id = $1 AND ($3::text IS NULL OR hostname = $3)"
            " AND ($5::text IS NULL OR backend_process_type = $5)" MT_SQL_CREATED("6", "7") " AND "
            MT_SQL_INSIDE("app_id", "env_id", "8", "9"), "10", "11");
MT_SQL_LIST(org_routes, ROUTE_OBJECT, "routes_view r", "route_id",
            "($4 OR NOT deleted) AND org_id = $1 AND ($3::text IS NULL OR hostname = $3)"
            " AND ($5::text IS NULL OR backend_process_type = $5)" MT_SQL_CREATED("6", "7") " AND "
            MT_SQL_INSIDE("app_id", "env_id", "8", "9")
            " AND ($10::text IS NULL OR app_id = $10) AND ($11::text IS NULL OR env_id = $11)", "12", "13");
static const struct mt_pg_stmt route_get = {
    "route_get",
    "SELECT " ROUTE_OBJECT ", resource_version FROM routes_view r WHERE ($1::text IS NULL OR env_id = $1) AND route_id = $3"
    " AND NOT deleted"};
static const struct mt_pg_stmt route_row = {
    "route_row", "SELECT hostname, listen_port, resource_version, deleted FROM routes_view WHERE env_id = $1 AND route_id = $2"};
static const struct mt_pg_stmt shared_port = {
    "route_free_raw_port",
    "SELECT p FROM unnest($1::text::int4multirange) m, generate_series(lower(m), upper(m) - 1) p WHERE NOT EXISTS (SELECT 1 FROM routes_view r WHERE r.listen_port = p"
    " AND r.address_scope = 'shared6' AND (NOT r.deleted OR r.updated_at > now() - interval '24 hours')) ORDER BY p LIMIT 1"};
static const struct mt_pg_stmt desired_ports = {
    "route_backend_known",
    "SELECT EXISTS (SELECT 1 FROM jsonb_array_elements(r.manifest->'processes'->($2::text)->'ports') q"
    " WHERE (q->>'internal')::int = $3) FROM env_desired_view d JOIN releases_view r ON r.release_id = d.release_id"
    " WHERE d.env_id = $1 AND d.process_type = $2"};

/* $1 owner, $2 revision, $3 hostname, $4 include_deleted, $5 process_type, $6 and $7 times. */
static int list_begin(struct mt_api_call *c, struct mt_api_list *l, const char *owner)
{
    bool deleted;
    mt_pg_p_init(&l->params);
    mt_pg_p_text(&l->params, owner);
    mt_pg_p_i64(&l->params, mt_edges_best(c->ctl->edges, mt_clock_mono()));
    mt_pg_p_text(&l->params, mt_api_query(c, "hostname"));
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_bool(&l->params, deleted);
    mt_pg_p_text(&l->params, mt_api_query(c, "process_type"));
    if (mt_api_list_created(c, l) < 0)
        return -1;
    mt_api_list_inside(c, l);
    return 0;
}

int mt_api_routes_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &env_routes_asc, .desc = &env_routes_desc, .show = mt_api_route_show};
    return list_begin(c, &l, c->env.id) < 0 ? -1 : mt_api_send_list(c, &l);
}

int mt_api_routes_list_org(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &org_routes_asc, .desc = &org_routes_desc, .show = mt_api_route_show};
    if (list_begin(c, &l, c->org.id) < 0)
        return -1;
    mt_pg_p_text(&l.params, mt_api_query(c, "app_id"));
    mt_pg_p_text(&l.params, mt_api_query(c, "env_id"));
    return mt_api_send_list(c, &l);
}

static struct mt_pg_params route_params(struct mt_api_call *c, const char *env_id, const char *id)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env_id);
    mt_pg_p_i64(&p, mt_edges_best(c->ctl->edges, mt_clock_mono()));
    mt_pg_p_text(&p, id);
    return p;
}

int mt_api_route_load(struct mt_api_call *c, const char *env_id, const char *id, struct mt_pg_res **ret)
{
    struct mt_pg_params p = route_params(c, env_id, id);
    if (mt_pg_query_one(c->pg, &route_get, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "route") : mt_api_fail_err(c);
    return 0;
}

int mt_api_routes_get(struct mt_api_call *c)
{
    struct mt_pg_params p = route_params(c, c->env.id, mt_api_param(c, "route_id"));
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send_shown(c, &route_get, &p, "route", mt_api_route_show);
}

/* ---------------------------------------------------------------- create */

static int read_spec(struct mt_api_call *c, struct mt_route_spec *s)
{
    static const char *const known[] = {"hostname", "listen_port", "protocol", "backend_process_type", "backend_port",
                                        "proxy_protocol", "backend_expects_proxy_protocol", "proxy_tlv", "ipv4_required",
                                        "max_connections", "idle_timeout_seconds", "balance", "min_tls_version",
                                        "default_for_listener", "allow_non_tls", NULL};
    const char *hostname;
    *s = (struct mt_route_spec){0};
    if (mt_api_fields(c, known) < 0 || mt_api_text(c, "hostname", false, 300, &hostname) < 0 ||
        mt_api_text(c, "protocol", false, 20, &s->protocol) < 0 ||
        mt_api_text(c, "backend_process_type", true, 32, &s->backend_process_type) < 0 ||
        mt_api_int(c, "backend_port", true, 1, 65535, 0, &s->backend_port) < 0 ||
        mt_api_int(c, "listen_port", false, 1, 65535, 0, &s->listen_port) < 0 ||
        mt_api_text(c, "proxy_protocol", false, 8, &s->proxy_protocol) < 0 ||
        mt_api_bool(c, "backend_expects_proxy_protocol", false, &s->backend_expects_proxy_protocol) < 0 ||
        mt_api_bool(c, "proxy_tlv", false, &s->proxy_tlv) < 0 || mt_api_bool(c, "ipv4_required", false, &s->ipv4_required) < 0 ||
        mt_api_int(c, "max_connections", false, 1, 1000000, 0, &s->max_connections) < 0 ||
        mt_api_int(c, "idle_timeout_seconds", false, 0, 86400, 0, &s->idle_timeout_seconds) < 0 ||
        mt_api_text(c, "balance", false, 20, &s->balance) < 0 || mt_api_text(c, "min_tls_version", false, 8, &s->min_tls_version) < 0 ||
        mt_api_bool(c, "default_for_listener", false, &s->default_for_listener) < 0 || mt_api_bool(c, "allow_non_tls", false, &s->allow_non_tls) < 0)
        return -1;
    s->protocol = s->protocol ? s->protocol : "tls_passthrough";
    s->proxy_protocol = s->proxy_protocol ? s->proxy_protocol : "off";
    s->balance = s->balance ? s->balance : "round_robin";
    if (hostname && mt_hostname_normalise(hostname, strlen(hostname), s->hostname, &c->err) < 0)
        return mt_api_fail(c, 400, "hostname_invalid", "%s", c->err.msg);
    if (!s->listen_port && MT_STREQ(s->protocol, "tls_passthrough"))
        s->listen_port = 443;
    return 0;
}

/* A route may come before the first deploy; after it, its backend must be there. */
static int check_backend(struct mt_api_call *c, const struct mt_route_spec *s)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, s->backend_process_type);
    mt_pg_p_i32(&p, (int32_t)s->backend_port);
    if (mt_pg_query(c->pg, &desired_ports, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 1 && !mt_pg_bool(r, 0, 0))
        return mt_api_fail(c, 409, "route_backend_missing", "process '%s' of the running release declares no port %lld",
                           s->backend_process_type, (long long)s->backend_port);
    return 0;
}

static const struct mt_pg_stmt env_ipv4 = {
    "route_env_ipv4", "SELECT resource_version FROM ipv4_allocations_view WHERE env_id = $1 AND ended_at IS NULL"};
/* Sum as MT_RELY_ENV_ROUTES has it; is the port one of the other protocol on that address, and has it a default? $2 port, $3 protocol, $4 route or NULL */
static const struct mt_pg_stmt ipv4_place = {
    "route_ipv4_place",
    "SELECT coalesce(sum(last_event_id), 0)::int8, coalesce(bool_or(ipv4_required AND listen_port = $2 AND protocol <> $3"
    " AND route_id IS DISTINCT FROM $4), false), coalesce(bool_or(ipv4_required AND listen_port = $2 AND default_for_listener"
    " AND route_id IS DISTINCT FROM $4), false) FROM routes_view WHERE env_id = $1 AND NOT deleted"};

int mt_api_route_ipv4(struct mt_api_call *c, struct mt_route_spec *s, int64_t *ret_version)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query(c->pg, &env_ipv4, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    s->has_ipv4 = mt_pg_rows(r) == 1;
    *ret_version = s->has_ipv4 ? mt_pg_i64(r, 0, 0) : 0;
    return 0;
}

int mt_api_route_ipv4_rely(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_route_spec *s, const char *own)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_route_spec again = *s;
    int64_t version;
    if (!s->ipv4_required)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_i32(&p, (int32_t)s->listen_port);
    mt_pg_p_text(&p, s->protocol);
    mt_pg_p_text(&p, own);
    if (mt_pg_query_one(c->pg, &ipv4_place, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_bool(r, 0, 1))
        return mt_api_fail(c, 409, "port_taken", "port %lld of the IPv4 address belongs to a route of the other protocol", (long long)s->listen_port);
    if (s->default_for_listener && mt_pg_bool(r, 0, 2)) /* an edge refuses a whole snapshot with two */
        return mt_api_fail(c, 409, "conflict", "another route is the default of port %lld already: take default_for_listener from it first", (long long)s->listen_port);
    if (mt_api_route_ipv4(c, &again, &version) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_ENV_IPV4, c->env.id, NULL, version, &c->err) < 0 || mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_ENV_ROUTES, c->env.id, NULL, mt_pg_i64(r, 0, 0), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* Sums as MT_RELY_ENV_ROUTES and MT_RELY_ENV_PROXIED have them, and does another route lead to the same port with the other kind of start? $5 own id or NULL */
static const struct mt_pg_stmt proxy_mix = {
    "route_proxy_mix",
    "SELECT coalesce(sum(last_event_id), 0)::int8, coalesce(bool_or(backend_process_type = $2 AND backend_port = $3 AND proxy_protocol <> $4"
    " AND route_id IS DISTINCT FROM $5), false), coalesce(sum(last_event_id) FILTER (WHERE proxy_protocol = 'v2'), 0)::int8"
    " FROM routes_view WHERE env_id = $1 AND NOT deleted"};

/* A backend may trust the header because every connection to its port begins with one (networking.md §9). Who turns it on relies on the routes that
 * there are, who has it off on those that have it on, so that routes without it do not wait for each other; of two requests at one moment the later
 * one is told. Both are something below the environment (MT_RELY_ENV_LIVE notes it), so that they never share a batch. */
static int check_proxy(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_route_spec *s, const char *own)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, s->backend_process_type);
    mt_pg_p_i32(&p, (int32_t)s->backend_port);
    mt_pg_p_text(&p, s->proxy_protocol);
    mt_pg_p_text(&p, own);
    if (mt_pg_query_one(c->pg, &proxy_mix, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    bool v2 = MT_STREQ(s->proxy_protocol, "v2");
    if (mt_pg_bool(r, 0, 1))
        return mt_api_fail(c, 409, "proxy_port_conflict", "another route leads to port %lld of '%s' %s the PROXY header: a port has it on every connection or on none",
                           (long long)s->backend_port, s->backend_process_type, v2 ? "without" : "with");
    if (mt_cmd_rely(cmd, v2 ? MT_RELY_ENV_ROUTES : MT_RELY_ENV_PROXIED, c->env.id, NULL, mt_pg_i64(r, 0, v2 ? 0 : 2), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* A port of the shared addresses is of one protocol; the policy keeps both apart, but it may have been another one when the other route was made. */
static const struct mt_pg_stmt other_kind = {
    "route_other_kind", "SELECT EXISTS (SELECT 1 FROM routes_view WHERE NOT deleted AND address_scope = 'shared6' AND listen_port = $1 AND protocol <> $2)"};

static int check_kind(struct mt_api_call *c, const struct mt_route_spec *s)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (!MT_STREQ(s->address_scope, "shared6") || s->listen_port == 443)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, (int32_t)s->listen_port);
    mt_pg_p_text(&p, s->protocol);
    if (mt_api_query_all(c, &other_kind, &p, &r) < 0)
        return -1;
    return mt_pg_bool(r, 0, 0) ? mt_api_fail(c, 409, "port_taken", "the port is already in use on this address") : 0;
}

static const struct mt_pg_stmt listener_taken = {
    "route_listener_taken",
    "SELECT CASE WHEN $4 <> 'tls_passthrough' THEN EXISTS (SELECT 1 FROM routes_view r WHERE r.address_scope_key = $3"
    "  AND r.listen_port = $2 AND r.protocol = 'tcp_raw' AND NOT r.deleted)"
    " ELSE EXISTS (SELECT 1 FROM routes_view r WHERE r.hostname = $1 AND r.listen_port = $2 AND r.protocol = 'tls_passthrough'"
    "  AND NOT r.deleted) OR EXISTS (SELECT 1 FROM hostname_owners_view h WHERE h.hostname = $1 AND h.route_count > 0"
    "  AND h.env_id <> $5) END"};

/* For a dry run, which no unique index looks at. Who holds it is not told. */
static int check_taken(struct mt_api_call *c, const struct mt_route_spec *s)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, s->hostname[0] ? s->hostname : NULL);
    mt_pg_p_i32(&p, (int32_t)s->listen_port);
    char key[MT_ID_SIZE + 8]; /* as address_scope_key of the view */
    snprintf(key, sizeof key, "%s%s%s", s->address_scope, MT_STREQ(s->address_scope, "ipv4") ? ":" : "", MT_STREQ(s->address_scope, "ipv4") ? c->env.id : "");
    mt_pg_p_text(&p, key);
    mt_pg_p_text(&p, s->protocol);
    mt_pg_p_text(&p, c->env.id);
    if (mt_api_query_all(c, &listener_taken, &p, &r) < 0) /* by whomever */
        return -1;
    if (!mt_pg_bool(r, 0, 0))
        return 0;
    return MT_STREQ(s->protocol, "tcp_raw") ? mt_api_fail(c, 409, "port_taken", "the port is already in use on this address")
                                            : mt_api_fail(c, 409, "hostname_taken", "the host name is already in use");
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_route_spec s;
    const char *code;
    char id[MT_ID_SIZE];
    int64_t version;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || read_spec(c, &s) < 0)
        return -1;
    if (!s.listen_port && s.ipv4_required)
        return mt_api_fail(c, 400, "invalid_argument", "'listen_port': of a tcp_raw route on an IPv4 address is yours to choose");
    if (!s.listen_port) {
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, c->ctl->ports.shared_pool);
        if (mt_api_query_all(c, &shared_port, &p, &r) < 0)
            return -1;
        if (mt_pg_rows(r) == 0) {
            mt_measure_one(&c->ctl->measure.ipam_failures[MT_IPAM_PORTS]);
            return mt_api_fail(c, 409, "port_taken", "no shared port is free");
        }
        s.listen_port = mt_pg_i64(r, 0, 0);
    }
    if (mt_api_route_ipv4(c, &s, &version) < 0 || (MT_STREQ(s.protocol, "tls_passthrough") && mt_api_route_name(c, s.hostname) < 0))
        return -1;
    if (mt_route_check(&s, &c->ctl->ports, &code, &c->err) < 0)
        return mt_api_fail(c, MT_STREQ(code, "ipv4_not_enabled") ? 409 : 400, code, "%s", c->err.msg);
    if (MT_STREQ(s.protocol, "tls_passthrough") && mt_api_route_proven(c, s.hostname) < 0)
        return -1;
    if (mt_api_route_ipv4_rely(c, cmd, &s, NULL) < 0 || check_backend(c, &s) < 0 || check_kind(c, &s) < 0 || check_proxy(c, cmd, &s, NULL) < 0 || (made->dry_run && check_taken(c, &s) < 0))
        return -1;
    mt_id_new(MT_ID_ROUTE, id);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_ROUTE_CREATED, id, mt_route_payload(&s, "api")) < 0)
        return -1;
    made->status = 201;
    made->operation = "route.create";
    made->ids = json_pack("{s:s}", "route_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s*,s:I,s:s,s:s,s:s,s:I,s:s,s:b,s:b,s:b,s:s,s:b,s:b,s:b,s:s,s:s,s:[],s:i,s:n,s:n}",
                             "id", id, "org_id", c->org.id, "app_id", c->app.id, "env_id", c->env.id, "hostname",
                             s.hostname[0] ? s.hostname : NULL, "listen_port", (json_int_t)s.listen_port, "protocol",
                             s.protocol, "address_scope", s.address_scope, "backend_process_type", s.backend_process_type,
                             "backend_port", (json_int_t)s.backend_port, "proxy_protocol", s.proxy_protocol,
                             "backend_expects_proxy_protocol", s.backend_expects_proxy_protocol, "proxy_tlv", s.proxy_tlv,
                             "ipv4_required", s.ipv4_required, "balance", s.balance, "default_for_listener", s.default_for_listener,
                             "allow_non_tls", s.allow_non_tls, "disabled", false, "managed_by", "api", "status", "pending", "hints",
                             "resource_version", 1, "created_at", "updated_at");
    if (made->object && s.max_connections)
        json_object_set_new(made->object, "max_connections", json_integer(s.max_connections));
    if (made->object && s.idle_timeout_seconds)
        json_object_set_new(made->object, "idle_timeout_seconds", json_integer(s.idle_timeout_seconds));
    if (made->object && s.min_tls_version && *s.min_tls_version)
        json_object_set_new(made->object, "min_tls_version", json_string(s.min_tls_version));
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/routes/%s", c->org.id, c->app.id, c->env.id, id);
    return 0;
}

int mt_api_routes_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

/* ---------------------------------------------------------------- change */

static const char *text_of(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "";
}

/* The patched object must be a route that could have been made so. */
static int check_patched(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_api_patch *patch)
{
    const json_t *o = patch->object;
    const char *code;
    int64_t version;
    struct mt_route_spec s = {
        .listen_port = json_integer_value(json_object_get(o, "listen_port")),
        .protocol = text_of(o, "protocol"),
        .backend_process_type = text_of(o, "backend_process_type"),
        .backend_port = json_integer_value(json_object_get(o, "backend_port")),
        .proxy_protocol = text_of(o, "proxy_protocol"),
        .backend_expects_proxy_protocol = json_is_true(json_object_get(o, "backend_expects_proxy_protocol")),
        .proxy_tlv = json_is_true(json_object_get(o, "proxy_tlv")),
        .ipv4_required = json_is_true(json_object_get(o, "ipv4_required")),
        .max_connections = json_integer_value(json_object_get(o, "max_connections")),
        .idle_timeout_seconds = json_integer_value(json_object_get(o, "idle_timeout_seconds")),
        .balance = text_of(o, "balance"),
        .min_tls_version = text_of(o, "min_tls_version"),
        .port_settled = true,
        .default_for_listener = json_is_true(json_object_get(o, "default_for_listener")),
        .allow_non_tls = json_is_true(json_object_get(o, "allow_non_tls")),
    };
    snprintf(s.hostname, sizeof s.hostname, "%s", text_of(o, "hostname"));
    bool asked = json_is_true(json_object_get(patch->payload, "ipv4_required"));
    if (json_object_get(patch->payload, "ipv4_required") && MT_STREQ(s.protocol, "tcp_raw"))
        return mt_api_fail(c, 400, "not_supported", "'ipv4_required' of a tcp_raw route does not change; delete the route and create another");
    if (mt_api_route_ipv4(c, &s, &version) < 0)
        return -1;
    s.has_ipv4 = s.has_ipv4 || (s.ipv4_required && !asked); /* one whose address was taken by force keeps its other fields */
    if (mt_route_check(&s, &c->ctl->ports, &code, &c->err) < 0)
        return mt_api_fail(c, MT_STREQ(code, "ipv4_not_enabled") ? 409 : 400, code, "%s", c->err.msg);
    if ((asked || json_is_true(json_object_get(patch->payload, "default_for_listener"))) && mt_api_route_ipv4_rely(c, cmd, &s, mt_api_param(c, "route_id")) < 0)
        return -1;
    static const char *const way[] = {"proxy_protocol", "backend_process_type", "backend_port"};
    bool another = false; /* what is there stays, also from before this rule */
    for (size_t i = 0; i < MT_ARRAY_LEN(way); i++)
        another = another || json_object_get(patch->payload, way[i]);
    if (another && check_proxy(c, cmd, &s, mt_api_param(c, "route_id")) < 0)
        return -1;
    return check_backend(c, &s);
}

static int patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const fixed[] = {"hostname", "listen_port", "protocol"};
    static const char *const known[] = {"backend_process_type", "backend_port", "proxy_protocol",
                                        "backend_expects_proxy_protocol", "proxy_tlv", "ipv4_required", "max_connections",
                                        "idle_timeout_seconds", "balance", "min_tls_version", "default_for_listener", "allow_non_tls",
                                        "expected_version", NULL};
    const char *id = mt_api_param(c, "route_id");
    struct mt_pg_params key = route_params(c, c->env.id, id);
    for (size_t i = 0; i < MT_ARRAY_LEN(fixed); i++)
        if (json_object_get(c->body, fixed[i]))
            return mt_api_fail(c, 400, "not_supported", "'%s' of a route does not change; delete the route and create another", fixed[i]);
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_patch_begin(c, &route_get, &key, "route", p) < 0 ||
        mt_api_patch_text(c, p, "backend_process_type", 32, false) < 0 ||
        mt_api_patch_int(c, p, "backend_port", 1, 65535, false) < 0 || mt_api_patch_text(c, p, "proxy_protocol", 8, false) < 0 ||
        mt_api_patch_bool(c, p, "backend_expects_proxy_protocol") < 0 || mt_api_patch_bool(c, p, "proxy_tlv") < 0 ||
        mt_api_patch_bool(c, p, "ipv4_required") < 0 || mt_api_patch_int(c, p, "max_connections", 1, 1000000, true) < 0 ||
        mt_api_patch_int(c, p, "idle_timeout_seconds", 60, 86400, true) < 0 || mt_api_patch_text(c, p, "balance", 20, false) < 0 ||
        mt_api_patch_text(c, p, "min_tls_version", 8, true) < 0 || mt_api_patch_bool(c, p, "default_for_listener") < 0 ||
        mt_api_patch_bool(c, p, "allow_non_tls") < 0 ||
        check_patched(c, cmd, p) < 0 || mt_api_patch_end(c, p, made, "route.update", "route_id", id) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_ROUTE, id, NULL, p->version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (MT_STREQ(text_of(made->object, "status"), "active")) /* until an edge has applied it */
        json_object_set_new(made->object, "status", json_string("pending"));
    mt_api_route_show(c, made->object);
    return mt_api_event(c, cmd, MT_EV_ROUTE_UPDATED, id, json_incref(p->payload));
}

static int prepare_patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_api_patch p = {0};
    int rc = patch(c, cmd, made, &p);
    mt_api_patch_done(&p);
    return rc;
}

int mt_api_routes_patch(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_patch);
}

/* ---------------------------------------------------------------- delete */

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "route_id");
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &route_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "route");
    bool gone = mt_pg_bool(r, 0, 3);
    int64_t version = mt_pg_i64(r, 0, 2);
    mt_api_deleted(made, "route.delete", "route_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, version, "route") < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_ROUTE, id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *payload = json_pack("{s:I,s:s*}", "listen_port", (json_int_t)mt_pg_i64(r, 0, 1), "hostname",
                                mt_pg_text_or_null(r, 0, 0));
    return mt_api_event(c, cmd, MT_EV_ROUTE_DELETED, id, payload);
}

int mt_api_routes_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
