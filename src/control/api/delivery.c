/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets leave the control plane here and nowhere else (storage-and-secrets.md §9.1): to the node that hosts an instance
 * which pins exactly that version. That assignment is the authorisation; each release is in the audit log before it goes. And to
 * an owner, where the operator allows that (§7.2). */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/trail.h"
#include "control/nodes/local.h"
#include "control/secrets/store.h"
#include "model/secretfile.h"
#include "wire/json.h"

/* The content comes with the assignment, so that a delivery asks once; who is not assigned gets nothing of it. */
static const struct mt_pg_stmt assigned = {
    "delivery_assigned", "SELECT i.org_id, i.app_id, i.env_id, i.node_id = $2 AND i.desired_state IN ('running', 'draining')"
                         " AND i.released_at IS NULL AND i.secret_version_id IS NOT DISTINCT FROM $3, v.org_id, v.bundle_id, m.envelope, m.wrapped_data_key"
                         " FROM instances_view i LEFT JOIN moat.secret_versions v ON v.version_id = $3 AND v.env_id = i.env_id"
                         " LEFT JOIN moat.secret_material m USING (version_id) WHERE i.instance_id = $1"};
enum { COL_ASSIGNED = 3, COL_ORG, COL_BUNDLE, COL_ENVELOPE, COL_WRAPPED };

enum outcome { DELIVERED = 0, FORBIDDEN, NO_KEY, BROKEN, UNAVAILABLE, NO_AUDIT, OUTCOME_MAX };
static const char *const reasons[OUTCOME_MAX] = {"", "forbidden", "master_key_unavailable", "decrypt_failed", "unavailable", "audit"};
_Static_assert(MT_ARRAY_LEN(((struct mt_control *)0)->deliveries) == OUTCOME_MAX, "one counter for each");

static void count(struct mt_api_call *c, enum outcome o)
{
    atomic_fetch_add(&c->ctl->deliveries[o], 1);
    if (o != DELIVERED)
        mt_log(MT_WARN, "secrets.not_delivered", KV("request_id", (const char *)c->request_id), KV("reason", reasons[o]));
}

void mt_api_delivery_metrics(struct mt_api_call *c, struct mt_metrics *page)
{
    for (size_t i = 0; i < OUTCOME_MAX; i++)
        mt_metrics_u64(page, MT_M_SECRETS_DELIVERIES, mt_metrics_get(&c->ctl->deliveries[i]),
                       i == DELIVERED ? "delivered" : i == FORBIDDEN ? "forbidden" : "failed", reasons[i]);
    mt_metrics_hist(page, MT_M_SECRETS_SECONDS, &c->ctl->measure.delivery);
}

static int forbidden(struct mt_api_call *c, const char *instance_id)
{
    count(c, FORBIDDEN);
    mt_api_trail_note(c, "secrets.deliver", "deny", "forbidden", "instance", instance_id, NULL);
    return mt_api_fail(c, 403, "forbidden", "instance %s is not on this node, shall not run, or has another version", instance_id);
}

/* Who asks becomes the actor, whose environment it is the place of the audit record. */
static int check_assignment(struct mt_api_call *c, const char *node_id, const char *instance_id, const char *version_id,
                            struct mt_secrets_sealed *s)
{
    struct mt_pg_params p;
    snprintf(c->who.subject_id, sizeof c->who.subject_id, "%s", node_id);
    snprintf(c->who.subject_type, sizeof c->who.subject_type, "node");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, instance_id);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_text(&p, version_id);
    if (mt_pg_query(c->pg, &assigned, &p, &s->row, &c->err) < 0)
        return mt_api_fail_err(c);
    const struct mt_pg_res *r = s->row;
    if (mt_pg_rows(r) == 0)
        return forbidden(c, instance_id);
    snprintf(c->org.id, sizeof c->org.id, "%s", mt_pg_text(r, 0, 0));
    snprintf(c->app.id, sizeof c->app.id, "%s", mt_pg_text(r, 0, 1));
    snprintf(c->env.id, sizeof c->env.id, "%s", mt_pg_text(r, 0, 2));
    return mt_pg_bool(r, 0, COL_ASSIGNED) ? 0 : forbidden(c, instance_id);
}

static int open_assigned(struct mt_api_call *c, struct mt_secrets_sealed *s, const char *version_id, struct mt_lockmem *ret)
{
    if (mt_pg_null(s->row, 0, COL_BUNDLE))
        return MT_FAIL(&c->err, MT_E_NOT_FOUND, "%s is no version of %s", version_id, c->env.id);
    mt_secrets_sealed_in(s, (struct mt_seal_ids){mt_pg_text(s->row, 0, COL_ORG), c->env.id, mt_pg_text(s->row, 0, COL_BUNDLE), version_id}, COL_ENVELOPE,
                         COL_WRAPPED);
    return mt_secrets_unseal(c->ctl->keys, s, ret, &c->err);
}

static int not_opened(struct mt_api_call *c, const char *version_id)
{
    bool key = c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key");
    bool broken = c->err.code == MT_E_CORRUPT || c->err.code == MT_E_NOT_FOUND || c->err.code == MT_E_LIMIT;
    count(c, key ? NO_KEY : broken ? BROKEN : UNAVAILABLE);
    if (!key && !broken)
        return mt_api_fail_err(c);
    /* The one place where an operator learns that a row was tampered with or a key is gone. */
    mt_log(MT_ERROR, "secrets.do_not_open", KV("version_id", version_id), KV("env_id", (const char *)c->env.id), KV_ERR(&c->err));
    mt_api_trail_note(c, "secrets.deliver", "allow", key ? "master_key_unavailable" : "decrypt_failed", "secret_version", version_id, NULL);
    return key ? mt_api_fail(c, 503, "master_key_unavailable", "the master key of %s is not loaded", version_id)
               : mt_api_fail(c, 500, "decrypt_failed", "%s does not open", version_id);
}

/* {<more>"version_id","encoding","data","sha256"}; the text is wiped when it was sent (wire/http_reply.c). */
static int reply(struct mt_api_call *c, const char *more, const char *version_id, const struct mt_lockmem *m)
{
    char sha[MT_SHA256_HEX];
    mt_sha256_hex(m->p, m->len, sha);
    char *t = malloc(MT_B64_SIZE(m->len) + 384);
    if (!t) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "secrets");
        return mt_api_fail_err(c);
    }
    int n = snprintf(t, 384, "{%s\"version_id\":\"%s\",\"encoding\":\"base64\",\"sha256\":\"%s\",\"data\":\"", more, version_id, sha);
    size_t len = (size_t)n + mt_b64_encode(m->p, m->len, t + n);
    memcpy(t + len, "\"}", 3);
    return mt_api_send_text(c, 200, t, len + 2);
}

int mt_api_node_secrets(struct mt_api_call *c)
{
    struct mt_node node;
    const char *instance_id, *version_id;
    mt_auto_lockmem struct mt_lockmem m = {0};
    mt_auto_secrets_sealed struct mt_secrets_sealed sealed = {0};
    int64_t began = mt_clock_mono();
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &node) < 0)
        return -1;
    if (mt_json_get_str(c->body, "instance_id", MT_ID_SIZE, &instance_id, &c->err) < 0 ||
        mt_json_get_str(c->body, "version_id", MT_ID_SIZE, &version_id, &c->err) < 0 ||
        mt_id_check(MT_ID_INSTANCE, instance_id, &c->err) < 0 || mt_id_check(MT_ID_SECRET_VERSION, version_id, &c->err) < 0)
        return mt_api_fail_err(c);
    if (check_assignment(c, node.node_id, instance_id, version_id, &sealed) < 0)
        return -1;
    if (open_assigned(c, &sealed, version_id, &m) < 0)
        return not_opened(c, version_id);
    if (mt_api_trail_read(c, "secrets.deliver", "secret_version", version_id) < 0) {
        count(c, NO_AUDIT);
        return -1;
    }
    count(c, DELIVERED);
    mt_hist_observe_ns(&c->ctl->measure.delivery, mt_clock_mono() - began);
    mt_log(MT_INFO, "secrets.delivered", KV("version_id", version_id), KV("instance_id", instance_id), KV("bytes", m.len),
           KV("took_us", (mt_clock_mono() - began) / 1000));
    return reply(c, "", version_id, &m);
}

/* For an owner, where the operator has set allow_secret_export (the scope is carried by nobody else, and not at all without it). */
int mt_api_secrets_material(struct mt_api_call *c)
{
    struct mt_secrets_now now;
    mt_auto_lockmem struct mt_lockmem m = {0};
    char more[160];
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_secrets_now(c->pg, c->env.id, &now, &c->err) < 0)
        return mt_api_fail_err(c);
    if (!now.version_id[0])
        return mt_api_not_found(c, "version of secrets");
    if (mt_secrets_open(c->ctl->keys, c->pg, c->env.id, now.version_id, &m, &c->err) < 0) {
        bool key = c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key");
        if (!key && c->err.code != MT_E_CORRUPT)
            return mt_api_fail_err(c);
        mt_log(MT_ERROR, "secrets.do_not_open", KV("version_id", (const char *)now.version_id), KV("env_id", (const char *)c->env.id), KV_ERR(&c->err));
        return key ? mt_api_fail(c, 503, "master_key_unavailable", "the master key of %s is not loaded", now.version_id)
                   : mt_api_fail(c, 500, "decrypt_failed", "%s does not open", now.version_id);
    }
    if (mt_api_trail_read(c, "secrets.export", "secret_version", now.version_id) < 0)
        return -1;
    mt_log(MT_WARN, "secrets.exported", KV("version_id", (const char *)now.version_id), KV("env_id", (const char *)c->env.id),
           KV("subject_id", (const char *)c->who.subject_id));
    (void)snprintf(more, sizeof more, "\"env_id\":\"%s\",\"version_number\":%d,\"format\":\"moat_env_v1\",", c->env.id, now.version_number);
    return reply(c, more, now.version_id, &m);
}
