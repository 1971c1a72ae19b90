/* SPDX-License-Identifier: Apache-2.0 */
/* Manifest routes against the rows of the environment: create missing, update differing, delete those that were the
 * manifest's and are no longer in it. Routes made by API are never changed. */
#include "control/api/manifest_routes.h"

#include "base/str.h"
#include "control/api/routes.h"
#include "control/commands/route.h"
#include "model/manifest.h"

static const struct mt_pg_stmt env_routes = {
    "deploy_routes",
    "SELECT route_id, coalesce(hostname, '') AS hostname, listen_port, protocol, backend_process_type, backend_port,"
    " proxy_protocol, backend_expects_proxy_protocol, managed_by, resource_version, ipv4_required, default_for_listener OR allow_non_tls, last_event_id FROM routes_view"
    " WHERE env_id = $1 AND NOT deleted ORDER BY route_id"};

enum { R_ID = 0, R_HOST, R_PORT, R_PROTOCOL, R_PROCESS, R_BACKEND, R_PROXY, R_EXPECTS, R_MANAGED, R_VERSION, R_IPV4, R_LISTENER, R_EVENT };

static bool deployed(const struct mt_manifest_routes_in *in, const char *process)
{
    for (size_t i = 0; i < in->plan->n_items; i++)
        if (MT_STREQ(in->plan->items[i].process_type, process))
            return true;
    return false;
}

static bool has_port(const json_t *manifest, const char *process, int64_t port)
{
    struct mt_manifest_process p;
    bool yes = false;
    if (mt_manifest_process_read(manifest, process, &p, NULL) < 0)
        return false;
    for (size_t i = 0; i < p.n_ports; i++)
        yes = yes || p.ports[i].internal == port;
    mt_manifest_process_done(&p);
    return yes;
}

static void note(json_t *changes, const char *action, const char *id, const char *host, int64_t port)
{
    json_array_append_new(changes, json_pack("{s:s,s:s,s:s*,s:I}", "action", action, "route_id", id, "hostname",
                                             host && host[0] ? host : NULL, "listen_port", (json_int_t)port));
}

/* The row that a manifest route stands for: same listener and, for tls, same name. A name may come to its IPv4 address later. */
static int find(const struct mt_pg_res *r, const struct mt_route_spec *s)
{
    bool tls = MT_STREQ(s->protocol, "tls_passthrough");
    for (int i = 0; i < mt_pg_rows(r); i++)
        if (MT_STREQ(mt_pg_text(r, i, R_PROTOCOL), s->protocol) && mt_pg_i64(r, i, R_PORT) == s->listen_port &&
            (tls ? MT_STREQ(mt_pg_text(r, i, R_HOST), s->hostname) : mt_pg_bool(r, i, R_IPV4) == s->ipv4_required))
            return i;
    return -1;
}

static int apply_one(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const struct mt_manifest_route *mr,
                     bool *kept, json_t *changes)
{
    struct mt_route_spec s = {.listen_port = mr->listen_port,
                              .protocol = mr->protocol,
                              .backend_process_type = mr->process,
                              .backend_port = mr->port,
                              .proxy_protocol = mr->proxy_protocol,
                              .backend_expects_proxy_protocol = mr->backend_expects_proxy_protocol,
                              .ipv4_required = mr->ipv4,
                              .balance = "round_robin"};
    const char *code;
    char id[MT_ID_SIZE];
    snprintf(s.hostname, sizeof s.hostname, "%s", mr->hostname ? mr->hostname : "");
    if (mt_api_route_ipv4(c, &s, &(int64_t){0}) < 0)
        return -1;
    if (mt_route_check(&s, &c->ctl->ports, &code, &c->err) < 0)
        return mt_api_fail(c, MT_STREQ(code, "ipv4_not_enabled") ? 409 : 400, code, "route %s:%lld of the manifest: %s",
                           s.hostname, (long long)s.listen_port, c->err.msg);
    if (mt_api_route_ipv4_rely(c, cmd, &s, NULL) < 0)
        return -1;
    int row = find(r, &s);
    if (row < 0) {
        if (MT_STREQ(s.protocol, "tls_passthrough") && mt_api_route_proven(c, s.hostname) < 0)
            return -1;
        mt_id_new(MT_ID_ROUTE, id);
        note(changes, "create", id, s.hostname, s.listen_port);
        return mt_api_event(c, cmd, MT_EV_ROUTE_CREATED, id, mt_route_payload(&s, "manifest"));
    }
    kept[row] = true;
    if (!MT_STREQ(mt_pg_text(r, row, R_MANAGED), "manifest"))
        return 0; /* somebody's own route has this listener and name: it stays as it is */
    if (MT_STREQ(mt_pg_text(r, row, R_PROCESS), s.backend_process_type) && mt_pg_i64(r, row, R_BACKEND) == s.backend_port &&
        MT_STREQ(mt_pg_text(r, row, R_PROXY), s.proxy_protocol) &&
        mt_pg_bool(r, row, R_EXPECTS) == s.backend_expects_proxy_protocol && mt_pg_bool(r, row, R_IPV4) == s.ipv4_required)
        return 0;
    const char *rid = mt_pg_text(r, row, R_ID);
    note(changes, "update", rid, s.hostname, s.listen_port);
    if (mt_cmd_rely(cmd, MT_RELY_ROUTE, rid, NULL, mt_pg_i64(r, row, R_VERSION), &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *payload = json_pack("{s:s,s:I,s:s,s:b,s:b}", "backend_process_type", s.backend_process_type, "backend_port",
                                (json_int_t)s.backend_port, "proxy_protocol", s.proxy_protocol,
                                "backend_expects_proxy_protocol", s.backend_expects_proxy_protocol, "ipv4_required", s.ipv4_required);
    if (payload && !s.ipv4_required && mt_pg_bool(r, row, R_LISTENER)) { /* options of a listener that it leaves */
        json_object_set_new(payload, "default_for_listener", json_false());
        json_object_set_new(payload, "allow_non_tls", json_false());
    }
    return mt_api_event(c, cmd, MT_EV_ROUTE_UPDATED, rid, payload);
}

/* As check_proxy of routes.c: a deploy that makes or changes routes is told of those that came at the same moment. */
static int rely_on_proxies(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, bool v2)
{
    int64_t sum = 0;
    for (int i = 0; i < mt_pg_rows(r); i++)
        if (v2 || MT_STREQ(mt_pg_text(r, i, R_PROXY), "v2"))
            sum += mt_pg_i64(r, i, R_EVENT);
    if (mt_cmd_rely(cmd, v2 ? MT_RELY_ENV_ROUTES : MT_RELY_ENV_PROXIED, c->env.id, NULL, sum, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* The port of a process has the PROXY header on every connection or on none: among the routes of the manifest that are applied, and with those made by API. */
static int check_proxies(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const struct mt_manifest_routes_in *in)
{
    bool any = false, v2 = false;
    for (size_t i = 0; i < mt_manifest_n_routes(in->manifest); i++) {
        struct mt_manifest_route a, b;
        if (mt_manifest_route_read(in->manifest, i, &a, &c->err) < 0)
            return mt_api_fail_err(c);
        if (!MT_STREQ(a.env, c->env.name) || (in->partial && !deployed(in, a.process)))
            continue;
        any = true;
        v2 |= MT_STREQ(a.proxy_protocol, "v2");
        bool mix = false;
        for (size_t k = 0; k < i && !mix; k++)
            mix = mt_manifest_route_read(in->manifest, k, &b, &c->err) == 0 && MT_STREQ(b.env, a.env) && MT_STREQ(b.process, a.process) && b.port == a.port &&
                  !MT_STREQ(b.proxy_protocol, a.proxy_protocol);
        struct mt_route_spec s = {.listen_port = a.listen_port, .protocol = a.protocol, .ipv4_required = a.ipv4};
        snprintf(s.hostname, sizeof s.hostname, "%s", a.hostname ? a.hostname : "");
        int own = find(r, &s);
        for (int k = 0; k < mt_pg_rows(r) && !mix; k++) /* one that somebody made for this very listener stays in place of the manifest's */
            mix = own != k && (own < 0 || MT_STREQ(mt_pg_text(r, own, R_MANAGED), "manifest")) && !MT_STREQ(mt_pg_text(r, k, R_MANAGED), "manifest") &&
                  MT_STREQ(mt_pg_text(r, k, R_PROCESS), a.process) && mt_pg_i64(r, k, R_BACKEND) == a.port && !MT_STREQ(mt_pg_text(r, k, R_PROXY), a.proxy_protocol);
        if (mix)
            return mt_api_fail(c, 409, "proxy_port_conflict", "route %s:%lld of the manifest: another route leads to port %lld of '%s' %s the PROXY header: a port has it on every connection or on none",
                               s.hostname, (long long)a.listen_port, (long long)a.port, a.process, MT_STREQ(a.proxy_protocol, "v2") ? "without" : "with");
    }
    return any ? rely_on_proxies(c, cmd, r, v2) : 0;
}

/* Rows the manifest does not name: its own ones go, others must still find their port. */
static int settle_rest(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r,
                       const struct mt_manifest_routes_in *in, const bool *kept, json_t *changes)
{
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const char *id = mt_pg_text(r, i, R_ID), *host = mt_pg_text(r, i, R_HOST), *process = mt_pg_text(r, i, R_PROCESS);
        int64_t port = mt_pg_i64(r, i, R_PORT);
        if (!kept[i] && !in->partial && MT_STREQ(mt_pg_text(r, i, R_MANAGED), "manifest")) {
            note(changes, "delete", id, host, port);
            if (mt_cmd_rely(cmd, MT_RELY_ROUTE, id, NULL, mt_pg_i64(r, i, R_VERSION), &c->err) < 0)
                return mt_api_fail_err(c);
            if (mt_api_event(c, cmd, MT_EV_ROUTE_DELETED, id,
                             json_pack("{s:I,s:s*}", "listen_port", (json_int_t)port, "hostname", host[0] ? host : NULL)) < 0)
                return -1;
            continue;
        }
        bool own = kept[i] && MT_STREQ(mt_pg_text(r, i, R_MANAGED), "manifest");
        if (!own && !in->force && deployed(in, process) && !has_port(in->manifest, process, mt_pg_i64(r, i, R_BACKEND)))
            return mt_api_fail(c, 409, "route_backend_missing",
                               "route %s:%lld goes to port %lld of '%s', which the release does not declare; delete the route "
                               "or deploy with force=true",
                               host, (long long)port, (long long)mt_pg_i64(r, i, R_BACKEND), process);
    }
    return 0;
}

int mt_manifest_routes_apply(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_manifest_routes_in *in,
                             json_t **ret_changes)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query(c->pg, &env_routes, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    bool *kept = calloc((size_t)mt_pg_rows(r) + 1, sizeof *kept);
    json_t *changes = json_array();
    int rc = 0;
    if (!kept || !changes) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "routes");
        rc = mt_api_fail_err(c);
    }
    for (size_t i = 0; rc == 0 && i < mt_manifest_n_routes(in->manifest); i++) {
        struct mt_manifest_route mr;
        if (mt_manifest_route_read(in->manifest, i, &mr, &c->err) < 0)
            rc = mt_api_fail_err(c);
        else if (MT_STREQ(mr.env, c->env.name) && (!in->partial || deployed(in, mr.process)))
            rc = apply_one(c, cmd, r, &mr, kept, changes);
    }
    if (rc == 0)
        rc = check_proxies(c, cmd, r, in);
    if (rc == 0)
        rc = settle_rest(c, cmd, r, in, kept, changes);
    free(kept);
    if (rc < 0)
        json_decref(changes);
    else
        *ret_changes = changes;
    return rc;
}
