/* SPDX-License-Identifier: Apache-2.0 */
/* Mutations: look for a replay, prepare, append, answer; prepared again while rows move under it. */
#include "control/api/mutate.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/gate.h"
#include "control/api/trail.h"
#include "control/quota/claims.h"
#include "model/names.h"
#include "os/digest.h"

#include <stdarg.h>

#define ROUNDS 12
#define APPEND_TIMEOUT_MS 10000

struct scope {
    const char *key; /* NULL: no Idempotency-Key */
    const char *org;
    char route[400];
    uint8_t mac[32];
};

static const struct mt_pg_stmt find_record = {
    "idempotency_find",
    "SELECT request_mac, status, response_body, event_id FROM moat.idempotency_records WHERE scope = $1"};

static const char *const times[] = {"created_at", "updated_at"};

static void made_done(struct mt_api_made *m)
{
    json_decref(m->object);
    json_decref(m->ids);
    json_decref(m->next);
    json_decref(m->desired);
    explicit_bzero(m->secret, sizeof m->secret);
    *m = (struct mt_api_made){0};
}

/* Method, template and path ids: the place of the key's scope. */
static int scope_make(struct mt_api_call *c, struct scope *s)
{
    *s = (struct scope){.key = mt_http_req_header(c->http, "Idempotency-Key"), .org = c->org.id[0] ? c->org.id : "-"};
    if (!s->key)
        return 0;
    int n = snprintf(s->route, sizeof s->route, "%s %s", c->route->method, c->route->path);
    for (int i = 0; i < c->params_n; i++)
        n += snprintf(s->route + n, sizeof s->route - (size_t)n, " %s", c->param[i].value);
    mt_auto_free char *canonical = json_dumps(c->body, JSON_COMPACT | JSON_SORT_KEYS);
    mt_auto_buf struct mt_buf all = MT_BUF_INIT(4u * 1024u * 1024u);
    const char *k, *v;
    if (canonical) /* at once: what grows leaves copies behind */
        (void)mt_buf_reserve(&all, strlen(canonical) + 4096);
    mt_buf_puts(&all, canonical ? canonical : "");
    for (size_t i = 0; mt_http_req_query_at(c->http, i, &k, &v); i++) /* ?cascade=true asks for something else */
        if (!MT_STREQ(k, "min_event_id"))
            mt_buf_printf(&all, "\n%s=%s", k, v);
    if (!canonical || mt_buf_check(&all, &c->err) < 0) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "canonical body");
        return mt_api_fail_err(c);
    }
    mt_hmac_sha256(c->ctl->mac_key, sizeof c->ctl->mac_key, all.p, all.len, s->mac);
    if (c->route->flags & MT_API_SECRET) {
        explicit_bzero(canonical, strlen(canonical));
        explicit_bzero(all.p, all.len);
    }
    return 0;
}

static int key_reuse(struct mt_api_call *c)
{
    mt_measure_one(&c->ctl->measure.idempotency[MT_IDEM_CONFLICT]);
    return mt_api_fail(c, 409, "idempotency_key_reuse", "this Idempotency-Key was used for another request body; use a new key");
}

static bool wants_receipt(struct mt_api_call *c)
{
    const char *prefer = mt_http_req_header(c->http, "Prefer");
    return prefer && strstr(prefer, "return=receipt");
}

/* The stored or fresh body goes out; its receipt only when the client asked for it. @made: of a fresh answer. */
static int answer(struct mt_api_call *c, const struct mt_api_made *made, int status, const char *body, int64_t event_id,
                  bool replay)
{
    char t[32];
    json_error_t je;
    if (event_id > 0) {
        snprintf(t, sizeof t, "%lld", (long long)event_id);
        mt_http_add_header(c->http, "X-Event-Id", t);
    }
    if (replay) {
        mt_measure_one(&c->ctl->measure.idempotency[MT_IDEM_HIT]);
        mt_http_add_header(c->http, "Idempotent-Replay", "true");
    }
    json_t *o = json_loads(body, JSON_REJECT_DUPLICATES, &je);
    if (!o) {
        (void)MT_FAIL(&c->err, MT_E_CORRUPT, "stored reply is not JSON");
        return mt_api_fail_err(c);
    }
    json_t *v = json_object_get(o, "resource_version"), *receipt = json_object_get(o, "receipt");
    const char *location = json_string_value(json_object_get(receipt, "location"));
    if (location)
        mt_http_add_header(c->http, "Location", location);
    if (json_is_integer(v)) {
        snprintf(t, sizeof t, "\"%lld\"", (long long)json_integer_value(v));
        mt_http_add_header(c->http, "ETag", t);
    }
    if (made && made->secret_name) {
        json_object_set_new(o, made->secret_name, json_string(made->secret));
        json_object_del(o, "secret_shown");
    }
    if (!wants_receipt(c) || !receipt) {
        json_object_del(o, "receipt");
    } else {
        json_object_del(receipt, "location");
        json_object_set_new(receipt, "event_id", event_id > 0 ? json_integer(event_id) : json_null());
        json_object_set_new(receipt, "replayed", json_boolean(replay));
    }
    return mt_api_send(c, status, o);
}

/* 1: answered as a replay; 0: no record; -1: problem. */
static int replay(struct mt_api_call *c, const struct scope *s)
{
    uint8_t scope[MT_IDEM_SCOPE_LEN];
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (!s->key)
        return 0;
    mt_pg_p_init(&p);
    mt_idempotency_scope(s->org, c->who.subject_id, s->route, s->key, scope);
    mt_pg_p_uuid(&p, scope);
    if (mt_pg_query(c->pg, &find_record, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return 0;
    size_t n = 0;
    const void *mac = mt_pg_bytes(r, 0, 0, &n);
    if (n != sizeof s->mac || !mt_digest_equal(mac, s->mac, n))
        return key_reuse(c);
    return answer(c, NULL, (int)mt_pg_i64(r, 0, 1), mt_pg_text(r, 0, 2), mt_pg_i64(r, 0, 3), true) < 0 ? -1 : 1;
}

/* Object and receipt as they are stored; a replay gives the same. */
static char *with_receipt(const struct mt_api_made *m)
{
    json_t *receipt = json_pack("{s:s,s:O*,s:O*,s:O*,s:s*}", "operation", m->operation, "resource_ids", m->ids, "desired",
                                m->desired, "next", m->next, "location", m->location[0] ? m->location : NULL);
    json_object_set_new(m->object, "receipt", receipt);
    return receipt ? json_dumps(m->object, JSON_COMPACT) : NULL;
}

/* Runs on the appender's thread: times are known now. */
static int build_reply(void *arg, const struct mt_cmd_ids_given *given, struct mt_buf *body, int *ret_status,
                       struct mt_err *err)
{
    struct mt_api_made *m = arg;
    char ts[MT_RFC3339_LEN];
    mt_rfc3339(given->occurred_us, ts);
    for (size_t i = 0; i < MT_ARRAY_LEN(times); i++)
        if (m->fill_times >> i & 1) /* noted once: this may run again with a later time */
            json_object_set_new(m->object, times[i], json_string(ts));
    if (m->version_is_event)
        json_object_set_new(m->object, "resource_version", json_integer(given->first_event_id + given->n_events - 1));
    if (m->secret_name) { /* what is stored never holds it */
        json_object_set_new(m->object, m->secret_name, json_null());
        json_object_set_new(m->object, "secret_shown", json_true());
    }
    char *t = with_receipt(m);
    if (!t)
        return MT_FAIL(err, MT_E_NOMEM, "reply");
    mt_buf_puts(body, t);
    free(t);
    *ret_status = m->status;
    return mt_buf_check(body, err);
}

static int taken(struct mt_api_call *c, const char *constraint)
{
    static const struct {
        const char *constraint, *code, *text;
    } names[] = {
        {"users_view_email_key", "conflict", "a user with this address exists"},
        {"org_members_view_email_live", "conflict", "this address is a member or invited already"},
        {"orgs_view_name_live", "name_taken", "an organisation with this name exists"},
        {"projects_view_name_live", "name_taken", "a project with this name exists in this organisation"},
        {"apps_view_name_live", "name_taken", "an app with this name exists in this organisation"},
        {"envs_view_name_live", "name_taken", "an environment with this name exists in this app"},
        {"volumes_view_name_live", "name_taken", "a volume with this name exists in this environment"},
        {"volume_attachments_view_volume_live", "volume_already_attached", "the volume is attached already"},
        {"volume_attachments_view_path_live", "mount_path_conflict", "something is mounted at this path of the process already"},
        {"registry_credentials_view_host_live", "conflict", "somebody else set a credential for this registry at the same time"},
        {"log_drains_view_name_live", "conflict", "somebody else set a drain of this name at the same time"},
        {"routes_view_hostname_live", "hostname_taken", "the host name is already routed on this port"},
        {"hostname_owners_view_one_env", "hostname_taken", "the host name is already in use"},
        {"routes_view_port_live", "port_taken", "the port is already in use on this address"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (MT_STREQ(names[i].constraint, constraint))
            return mt_api_fail(c, 409, names[i].code, "%s", names[i].text);
    return mt_api_fail(c, 409, "conflict", "another change got in between; try again");
}

/* One round. 1: run again; 0: answered; -1: problem. */
static int round_once(struct mt_api_call *c, mt_prepare_fn *prepare, const struct scope *s, struct mt_api_made *made,
                      bool last)
{
    bool operator = (c->route->flags & MT_API_OPERATOR) || MT_STREQ(c->who.kind, "break_glass");
    struct mt_cmd_actor actor = {.actor_type = operator ? "operator" : c->who.subject_type,
                                 .actor_id = c->who.subject_id,
                                 .request_id = c->request_id,
                                 .idempotency_key = s->key};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    if (mt_cmd_new(&actor, &cmd, &c->err) < 0)
        return mt_api_fail_err(c);
    if (prepare(c, cmd, made) < 0 || mt_quota_claim(c, cmd) < 0)
        return -1;
    if (made->dry_run) {
        made->nothing = true;
        made->status = 200;
        made->location[0] = '\0';
        json_object_set_new(made->object, "dry_run", json_true());
        json_object_set_new(made->object, "changes", mt_cmd_events_json(cmd));
    }
    if (made->nothing) {
        int again = made->dry_run ? 0 : replay(c, s); /* a duplicate may have done it since we looked */
        if (again)
            return again > 0 ? 0 : -1;
        mt_auto_free char *t = with_receipt(made);
        if (t)
            return answer(c, made, made->status, t, 0, false);
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "reply");
        return mt_api_fail_err(c);
    }
    if (s->key && mt_cmd_idempotency(cmd, s->org, c->who.subject_id, s->route, s->key, s->mac, &c->err) < 0)
        return mt_api_fail_err(c);
    for (unsigned i = 0; i < MT_ARRAY_LEN(times); i++)
        if (json_is_null(json_object_get(made->object, times[i])))
            made->fill_times |= 1u << i;
    if (mt_api_trail_command(c, cmd, made) < 0)
        return -1;
    mt_cmd_reply(cmd, build_reply, made);
    int rc = mt_append(c->ctl->appender, MT_TAKE(cmd), APPEND_TIMEOUT_MS, &done, &c->err);
    switch (done.end) {
    case MT_END_DONE:
        if (s->key)
            mt_measure_one(&c->ctl->measure.idempotency[MT_IDEM_MISS]);
        rc = answer(c, made, done.status, done.body, done.event_id, false);
        break;
    case MT_END_REPLAY:
        rc = answer(c, made, done.status, done.body, done.event_id, true);
        break;
    case MT_END_KEY_REUSE:
        rc = key_reuse(c);
        break;
    case MT_END_STALE:
        rc = last ? mt_api_fail(c, 409, "conflict", "the objects involved keep changing; try again") : 1;
        break;
    case MT_END_TAKEN:
        rc = ((mt_starts_with(done.constraint, "releases_view_") || mt_starts_with(done.constraint, "ipv4_allocations_view_")) && !last) ? 1 : taken(c, done.constraint);
        break;
    case MT_END_QUOTA:
        rc = mt_quota_refused(c, &done.quota);
        break;
    case MT_END_ERROR:
    default: /* a side write that found another row than was read is as good as a row that moved */
        rc = c->err.code == MT_E_CONFLICT && !last ? 1 : mt_api_fail_err(c);
        break;
    }
    mt_cmd_done_free(&done);
    return rc;
}

int mt_api_mutate(struct mt_api_call *c, mt_prepare_fn *prepare)
{
    struct scope s;
    if (mt_api_gate(c) < 0 || scope_make(c, &s) < 0)
        return -1;
    int rc = replay(c, &s);
    if (rc)
        return rc > 0 ? 0 : -1;
    for (int i = 0; i < ROUNDS; i++) {
        struct mt_api_made made = {.status = 200};
        if (i > 0 && mt_api_owners(c) < 0) { /* what the path names may be what changed */
            rc = -1;
            break;
        }
        c->query_n = 0;
        rc = round_once(c, prepare, &s, &made, i == ROUNDS - 1);
        made_done(&made);
        if (rc <= 0)
            break;
    }
    if (rc < 0 && s.key && c->problem.status >= 400 && c->problem.status < 500) {
        /* A duplicate may have won the race between our look for a replay and the refusal: then that reply counts. */
        struct mt_api_problem keep = c->problem;
        c->problem = (struct mt_api_problem){0};
        int again = replay(c, &s);
        if (again > 0) {
            json_decref(keep.errors);
            json_decref(keep.details);
            return 0;
        }
        json_decref(c->problem.errors);
        json_decref(c->problem.details);
        c->problem = keep;
    }
    return rc < 0 ? -1 : 0;
}

int mt_api_event(struct mt_api_call *c, struct mt_cmd *cmd, enum mt_ev ev, const char *aggregate_id, json_t *payload)
{
    struct mt_cmd_ids ids = {.org_id = c->org.id[0] ? c->org.id : NULL,
                             .app_id = c->app.id[0] ? c->app.id : NULL,
                             .env_id = c->env.id[0] ? c->env.id : NULL};
    if (!payload) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "payload of %s", mt_ev_info(ev)->type);
        return mt_api_fail_err(c);
    }
    return mt_cmd_event(cmd, ev, aggregate_id, &ids, payload, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

void mt_api_next(struct mt_api_made *made, const char *label, const char *fmt, ...)
{
    char command[200];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    if (!made->next)
        made->next = json_array();
    json_array_append_new(made->next, json_pack("{s:s,s:s}", "label", label, "command", command));
}

void mt_api_deleted(struct mt_api_made *made, const char *operation, const char *id_name, const char *id, bool gone)
{
    made->operation = operation;
    made->ids = json_pack("{s:s}", id_name, id);
    made->object = json_pack("{s:b,s:b}", "ok", true, "already_deleted", gone);
    made->nothing = gone;
}

int mt_api_dry_run(struct mt_api_call *c, bool *ret)
{
    return mt_api_query_bool(c, "dry_run", false, ret);
}
