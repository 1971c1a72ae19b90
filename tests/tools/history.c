/* SPDX-License-Identifier: Apache-2.0 */
#include "history.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

static uint64_t rnd(struct history *h)
{
    uint64_t z = h->seed += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(struct history *h, int n)
{
    return (int)(rnd(h) % (uint64_t)n);
}

void history_init(struct history *h, const char *tag, uint64_t seed)
{
    memset(h, 0, sizeof *h);
    h->seed = seed;
    (void)snprintf(h->tag, sizeof h->tag, "%s", tag);
    (void)snprintf(h->org, sizeof h->org, "org_%s", tag);
    (void)snprintf(h->node, sizeof h->node, "node_%s", tag);
    for (int i = 0; i < HISTORY_INSTANCES; i++)
        h->inst[i].step = -1;
}

struct making {
    struct history *h;
    struct mt_cmd *c;
    struct mt_err *err;
    int rc;
};

static void put(struct making *m, enum mt_ev ev, const char *id, const char *app, const char *env, json_t *payload)
{
    const struct mt_cmd_ids ids = {.org_id = app || env || strncmp(id, "org_", 4) == 0 ? m->h->org : NULL, .app_id = app, .env_id = env};
    if (m->rc == 0)
        m->rc = mt_cmd_event(m->c, ev, id, &ids, payload, m->err);
    else
        json_decref(payload);
    m->h->events++;
}

static void new_id(struct history *h, const char *prefix, char ret[64])
{
    (void)snprintf(ret, 64, "%s_%s_%d", prefix, h->tag, h->made++);
}

/* ---- what a command can be; false when it does not fit now ---- */

static bool begin(struct making *m)
{
    struct history *h = m->h;
    put(m, MT_EV_ORG_CREATED, h->org, NULL, NULL, json_pack("{s:s}", "name", h->org));
    put(m, MT_EV_NODE_ENROLLED, h->node, NULL, NULL,
        json_pack("{s:s,s:[s],s:s,s:s,s:s,s:s,s:s,s:{s:s},s:{s:i},s:s}", "name", h->node, "roles", "worker", "arch", "amd64", "wireguard_public_key", h->tag,
                  "cert_fingerprint", "f", "overlay_ipv6", h->tag, "instance_prefix", h->tag, "labels", "zone", "a", "capacity", "memory_bytes", 1024,
                  "enrollment_token_id", "enr_1"));
    return true;
}

static bool new_app(struct making *m, int i)
{
    struct history_app *a = &m->h->apps[i];
    if (a->live)
        return false;
    memset(a, 0, sizeof *a);
    new_id(m->h, "app", a->id);
    (void)snprintf(a->name, sizeof a->name, "app%d", i); /* the name of the one that was there before */
    put(m, MT_EV_APP_CREATED, a->id, a->id, NULL, json_pack("{s:s,s:s}", "name", a->name, "description", "made by a history"));
    a->live = true;
    return true;
}

static bool new_env(struct making *m, int i)
{
    struct history_app *a = &m->h->apps[i];
    if (!a->live || a->env_live)
        return false;
    new_id(m->h, "env", a->env);
    put(m, MT_EV_ENV_CREATED, a->env, a->id, a->env, json_pack("{s:s}", "name", "prod"));
    a->env_live = true;
    a->deployed = false;
    return true;
}

static bool deploy(struct making *m, int i)
{
    static const char *const types[] = {"web", "worker"};
    struct history_app *a = &m->h->apps[i];
    if (!a->env_live)
        return false;
    char hash[96];
    new_id(m->h, "rel", a->rel);
    new_id(m->h, "dep", a->dep);
    (void)snprintf(hash, sizeof hash, "sha256:%016llx%016llx", (unsigned long long)rnd(m->h), (unsigned long long)rnd(m->h));
    put(m, MT_EV_RELEASE_CREATED, a->rel, a->id, NULL,
        json_pack("{s:i,s:s,s:s,s:s,s:[{s:s,s:s,s:s}],s:b,s:s,s:{s:{s:{s:i},s:{s:i}}}}", "number", ++a->releases, "image_ref", "registry/app:1", "image_digest",
                  "sha256:0011223344556677889900112233445566778899001122334455667788990011", "image_kind", "manifest", "platforms", "os", "linux", "arch",
                  "amd64", "digest", "sha256:0011", "image_verified", 1, "manifest_hash", hash, "manifest", "processes", "web", "cpu_millis", 500, "worker",
                  "cpu_millis", 250));
    (void)mt_cmd_cause(m->c, a->dep, 0, m->err);
    put(m, MT_EV_DEPLOY_CREATED, a->dep, a->id, a->env,
        json_pack("{s:s,s:s,s:{s:s,s:s},s:[s,s],s:s,s:s,s:i,s:{}}", "kind", "deploy", "release_id", a->rel, "release_ids", "web", a->rel, "worker", a->rel,
                  "process_types", "web", "worker", "strategy", "rolling", "on_failure", "hold", "timeout_seconds", 900, "previous_release_ids"));
    for (int t = 0; t < 2; t++)
        put(m, MT_EV_ENV_DESIRED_RELEASE_SET, a->env, a->id, a->env,
            json_pack("{s:s,s:s,s:s}", "process_type", types[t], "release_id", a->rel, "deploy_id", a->dep));
    put(m, MT_EV_DEPLOY_STATUS_CHANGED, a->dep, a->id, a->env, json_pack("{s:s}", "status", "rolling"));
    if (below(m->h, 2))
        put(m, MT_EV_DEPLOY_STATUS_CHANGED, a->dep, a->id, a->env, json_pack("{s:s,s:s}", "status", "failed", "failed_reason", "deploy_timeout"));
    a->deployed = true;
    return true;
}

static bool env_wish(struct making *m, int i)
{
    struct history_app *a = &m->h->apps[i];
    if (!a->deployed)
        return false;
    switch (below(m->h, 6)) {
    case 0:
        put(m, MT_EV_ENV_SCALE_SET, a->env, a->id, a->env,
            json_pack("{s:[{s:s,s:i},{s:s,s:i}]}", "scales", "process_type", "web", "desired", below(m->h, 9), "process_type", "worker", "desired", 1));
        break;
    case 1:
        put(m, MT_EV_ENV_RESTART_REQUESTED, a->env, a->id, a->env, json_pack("{s:[s,s],s:s}", "process_types", "web", "worker", "deploy_id", a->dep));
        break;
    case 2:
        put(m, MT_EV_ENV_REBALANCE_REQUESTED, a->env, a->id, a->env, json_pack("{s:[s]}", "process_types", "worker"));
        break;
    case 3:
        put(m, MT_EV_ENV_DESIRED_RELEASE_CLEARED, a->env, a->id, a->env, json_pack("{s:s,s:s}", "process_type", "worker", "deploy_id", a->dep));
        break;
    case 4:
        put(m, MT_EV_ENV_UPDATED, a->env, a->id, a->env, json_pack("{s:b,s:i}", "protected", below(m->h, 2), "backup_interval_seconds", below(m->h, 99)));
        break;
    default:
        put(m, MT_EV_ENV_SCHEDULING_CHANGED, a->env, a->id, a->env,
            json_pack("{s:s,s:s,s:s}", "process_type", below(m->h, 2) ? "web" : "worker", "condition", "blocked", "reason", "no_capacity_memory"));
        put(m, MT_EV_ENV_SCHEDULING_CHANGED, a->env, a->id, a->env, json_pack("{s:s,s:s,s:s}", "process_type", "web", "condition", "ok", "target_spec", m->h->tag));
    }
    return true;
}

static void status(struct making *m, const struct history_inst *n, const struct history_app *a, const char *what, const char *detail)
{
    char boot[80];
    (void)snprintf(boot, sizeof boot, "boot_%s", n->id + 5);
    put(m, MT_EV_INSTANCE_STATUS_CHANGED, n->id, a->id, a->env,
        json_pack("{s:s,s:s,s:s*,s:s,s:i,s:s}", "node_id", m->h->node, "status", what, "status_detail", detail, "boot_id", boot, "restart_count", n->restarts,
                  "reported_at", "2026-01-01T00:00:00Z"));
}

/* Instances go their way step by step; the slot is free again at the end. */
static bool instance(struct making *m, int i)
{
    struct history_inst *n = &m->h->inst[i];
    struct history_app *a = &m->h->apps[n->step < 0 ? below(m->h, HISTORY_APPS) : n->app];
    char address[80];
    if (n->step < 0) {
        if (!a->deployed)
            return false;
        *n = (struct history_inst){.app = (int)(a - m->h->apps)};
        new_id(m->h, "inst", n->id);
        (void)snprintf(address, sizeof address, "fd00::%s", n->id + 5);
        (void)mt_cmd_cause(m->c, a->dep, 0, m->err);
        put(m, MT_EV_INSTANCE_ALLOCATED, n->id, a->id, a->env,
            json_pack("{s:s,s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", i % 2 ? "web" : "worker", "node_id", m->h->node, "release_id",
                      a->rel, "deploy_id", a->dep, "overlay_ipv6", address, "resources", "cpu_millis", 500, "memory_bytes", 268435456, "disk_bytes",
                      1073741824, "arch", "amd64", "image_digest", "sha256:0011", "spec_hash", "0123456789abcdef", "generation", 1));
        return true;
    }
    (void)mt_cmd_cause(m->c, a->dep, 0, m->err);
    switch (n->step++) {
    case 0:
        status(m, n, a, "booting", "building_rootfs");
        status(m, n, a, "booting", "booting_vm");
        break;
    case 1:
        status(m, n, a, "starting", NULL);
        break;
    case 2:
        status(m, n, a, "ready", NULL);
        break;
    case 3:
        if (below(m->h, 3) == 0) {
            n->restarts++;
            status(m, n, a, "unready", NULL);
            n->step = 2;
            break;
        }
        put(m, MT_EV_INSTANCE_DESIRED_STATE_CHANGED, n->id, a->id, a->env,
            json_pack("{s:s,s:i,s:s}", "desired_state", "draining", "grace_seconds", 10, "reason", "replaced"));
        break;
    case 4:
        put(m, MT_EV_INSTANCE_DESIRED_STATE_CHANGED, n->id, a->id, a->env, json_pack("{s:s,s:s}", "desired_state", "stopped", "reason", "replaced"));
        status(m, n, a, "stopped", NULL);
        break;
    default:
        (void)snprintf(address, sizeof address, "fd00::%s", n->id + 5);
        put(m, MT_EV_INSTANCE_RELEASED, n->id, a->id, a->env, json_pack("{s:s}", "overlay_ipv6", address));
        n->step = -1;
    }
    return true;
}

static bool route(struct making *m, int i)
{
    struct history_route *r = &m->h->routes[i];
    struct history_app *a = &m->h->apps[r->live ? r->app : below(m->h, HISTORY_APPS)];
    if (r->live && below(m->h, 2)) {
        put(m, MT_EV_ROUTE_UPDATED, r->id, a->id, r->env, json_pack("{s:i,s:b}", "max_connections", below(m->h, 1000), "disabled", below(m->h, 2)));
        return true;
    }
    if (r->live) {
        put(m, MT_EV_ROUTE_DELETED, r->id, a->id, r->env, json_pack("{s:s,s:i}", "hostname", r->host, "listen_port", 443));
        r->live = false;
        return true;
    }
    if (!a->env_live)
        return false;
    new_id(m->h, "rt", r->id);
    (void)snprintf(r->host, sizeof r->host, "h%d.%s.example", i, m->h->tag);
    memcpy(r->env, a->env, sizeof r->env);
    r->app = (int)(a - m->h->apps);
    r->live = true;
    put(m, MT_EV_ROUTE_CREATED, r->id, a->id, a->env,
        json_pack("{s:s,s:i,s:s,s:s,s:s,s:i,s:s,s:b,s:b,s:{s:i,s:s},s:s}", "hostname", r->host, "listen_port", 443, "protocol", "tls_passthrough",
                  "address_scope", "shared6", "backend_process_type", "web", "backend_port", 8443, "proxy_protocol", "off",
                  "backend_expects_proxy_protocol", 0, "ipv4_required", 0, "options", "max_connections", 100, "balance", "least_conn", "managed_by", "api"));
    return true;
}

static bool busy(const struct history *h, int app)
{
    for (int i = 0; i < HISTORY_INSTANCES; i++)
        if (h->inst[i].step >= 0 && h->inst[i].app == app)
            return true;
    for (int i = 0; i < HISTORY_APPS; i++)
        if (h->routes[i].live && h->routes[i].app == app)
            return true;
    return false;
}

/* Names become free, and are taken again in the same command now and then. */
static bool remove_app(struct making *m, int i)
{
    struct history_app *a = &m->h->apps[i];
    if (!a->live || busy(m->h, i))
        return false;
    if (a->env_live)
        put(m, MT_EV_ENV_DELETED, a->env, a->id, a->env, json_pack("{s:b}", "cascade", 1));
    put(m, MT_EV_APP_DELETED, a->id, a->id, NULL, json_pack("{s:b}", "cascade", 1));
    a->live = a->env_live = a->deployed = false;
    if (below(m->h, 2))
        (void)new_app(m, i);
    return true;
}

static bool other(struct making *m)
{
    struct history *h = m->h;
    switch (below(h, 4)) {
    case 0:
        put(m, MT_EV_NODE_HEALTH_CHANGED, h->node, NULL, NULL, json_pack("{s:s,s:s,s:[s]}", "old", "ready", "new", "degraded", "conditions", "disk_pressure"));
        break;
    case 1:
        put(m, MT_EV_NODE_UPDATED, h->node, NULL, NULL, json_pack("{s:{s:s},s:i}", "labels", "zone", "b", "mtu", 1280 + below(h, 200)));
        break;
    case 2:
        put(m, MT_EV_ORG_UPDATED, h->org, NULL, NULL, json_pack("{s:s}", "billing_email", below(h, 2) ? "a@example.org" : "b@example.org"));
        break;
    default:
        put(m, MT_EV_CLUSTER_CONFIG_SET, h->tag, NULL, NULL, json_pack("{s:s,s:i,s:s}", "key", h->tag, "value", below(h, 1000), "reason", "history"));
    }
    return true;
}

static bool any(struct making *m)
{
    int dice = below(m->h, 100), app = below(m->h, HISTORY_APPS);
    if (dice < 3)
        return new_app(m, app);
    if (dice < 6)
        return new_env(m, app);
    if (dice < 14)
        return deploy(m, app);
    if (dice < 20)
        return env_wish(m, app);
    if (dice < 24)
        return route(m, app);
    if (dice < 26)
        return remove_app(m, app);
    if (dice < 28)
        return other(m);
    return instance(m, below(m->h, HISTORY_INSTANCES));
}

int history_next(struct history *h, struct mt_cmd **ret, struct mt_err *err)
{
    char key[64];
    uint8_t mac[32] = {7};
    const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_01hzhistory000000000000", .request_id = "req_01hzhistory000000000000",
                                       .idempotency_key = key};
    (void)snprintf(key, sizeof key, "%s-%d", h->tag, h->n);
    struct making m = {.h = h, .err = err};
    int r = mt_cmd_new(&actor, &m.c, err);
    if (r < 0)
        return r;
    if (h->n == 0)
        (void)begin(&m);
    else
        while (!any(&m))
            ;
    h->n++;
    if ((r = m.rc) == 0)
        r = mt_cmd_idempotency(m.c, h->org, actor.actor_id, "POST /v1/history", key, mac, err);
    if (r < 0)
        mt_cmd_free(m.c);
    else
        *ret = m.c;
    return r;
}
