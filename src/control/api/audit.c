/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and verifying the audit log: of an organisation, and of the whole platform for operators. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/audit/seal.h"
#include "control/audit/verify.h"
#include "wire/json.h"

#define SETTLE_MS 5000

/* $1 chain or NULL (all), $2 actor, $3 action (LIKE), $4 decision, $5 resource, $6 since, $7 until, $8 cursor, $9 limit */
#define COLUMNS                                                                                                        \
    "jsonb_build_object('id',audit_id,'chain',chain,'seq',seq,'ts'," MT_SQL_TS("ts") ",'org_id',org_id,'app_id',app_id," \
    "'env_id',env_id,'actor_type',actor_type,'actor_id',actor_id,'token_id',token_id,'scopes',scopes,'action',action,"  \
    "'resource_type',resource_type,'resource_id',resource_id,'decision',decision,'reason',reason,'request_id',request_id," \
    "'idempotency_key_hash',idempotency_key_hash,'source_ip',source_ip,'user_agent',user_agent,'result',result,"        \
    "'error_code',error_code,'event_id',event_id,'prev_hash',encode(prev_hash,'hex'),'hash',encode(hash,'hex'))::text"
#define WHERE                                                                                                          \
    " AND ($2::text IS NULL OR actor_id = $2) AND ($3::text IS NULL OR action LIKE $3)"                                \
    " AND ($4::text IS NULL OR decision = $4) AND ($5::text IS NULL OR resource_id = $5)"                              \
    " AND ($6::timestamptz IS NULL OR ts >= $6) AND ($7::timestamptz IS NULL OR ts < $7)"
#define SEQ_TEXT "to_char(seq,'FM0000000000000000')"
#define OF_CHAIN "SELECT " SEQ_TEXT "," COLUMNS " FROM moat.audit_log WHERE chain = $1" WHERE " AND ($8::text IS NULL OR seq "
#define OF_ALL "SELECT audit_id," COLUMNS " FROM moat.audit_log WHERE $1::text IS NULL" WHERE " AND ($8::text IS NULL OR audit_id "
static const struct mt_pg_stmt chain_asc = {"audit_list_asc", OF_CHAIN "> $8::bigint) ORDER BY seq ASC LIMIT $9"},
                               chain_desc = {"audit_list_desc", OF_CHAIN "< $8::bigint) ORDER BY seq DESC LIMIT $9"},
                               all_asc = {"audit_all_asc", OF_ALL "> $8) ORDER BY audit_id ASC LIMIT $9"},
                               all_desc = {"audit_all_desc", OF_ALL "< $8) ORDER BY audit_id DESC LIMIT $9"};

static int take(struct mt_api_call *c, const char *name, char *ret, size_t size)
{
    const char *v = mt_api_query(c, name);
    ret[0] = 0;
    if (v && (strlen(v) >= size || !mt_utf8_valid(v, strlen(v))))
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is too long or not UTF-8", name);
    if (v)
        snprintf(ret, size, "%s", v);
    return 0;
}

static int take_time(struct mt_api_call *c, const char *name, struct mt_pg_params *p, char *shown, size_t size)
{
    int64_t us;
    if (take(c, name, shown, size) < 0)
        return -1;
    if (!shown[0])
        return mt_pg_p_time_null(p), 0;
    if (mt_rfc3339_parse(shown, &us, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is not an RFC 3339 time", name);
    return mt_pg_p_time(p, us), 0;
}

/* "app.create", or "secrets.*" as a LIKE pattern. */
static int action_pattern(struct mt_api_call *c, const char *action, char *ret, size_t size)
{
    size_t o = 0, n = strlen(action);
    bool prefix = n > 2 && MT_STREQ(action + n - 2, ".*");
    for (size_t i = 0; i < n - (prefix ? 1 : 0); i++) {
        if (o + 3 >= size)
            return mt_api_fail(c, 400, "invalid_argument", "query parameter 'action' is too long");
        if (strchr("%_\\", action[i]))
            ret[o++] = '\\';
        ret[o++] = action[i];
    }
    if (prefix)
        ret[o++] = '%';
    ret[o] = 0;
    return 0;
}

static int list(struct mt_api_call *c, const char *chain)
{
    char actor[80], action[80], pattern[170], decision[16], resource[80], since[40], until[40];
    struct mt_api_list l = {.asc = chain ? &chain_asc : &all_asc, .desc = chain ? &chain_desc : &all_desc};
    if (take(c, "actor", actor, sizeof actor) < 0 || take(c, "action", action, sizeof action) < 0 ||
        take(c, "decision", decision, sizeof decision) < 0 || take(c, "resource", resource, sizeof resource) < 0 ||
        action_pattern(c, action, pattern, sizeof pattern) < 0)
        return -1;
    if (decision[0] && !MT_STREQ(decision, "allow") && !MT_STREQ(decision, "deny"))
        return mt_api_fail(c, 400, "invalid_argument", "query parameter 'decision' is allow or deny");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, chain);
    mt_pg_p_text(&l.params, actor[0] ? actor : NULL);
    mt_pg_p_text(&l.params, action[0] ? pattern : NULL);
    mt_pg_p_text(&l.params, decision[0] ? decision : NULL);
    mt_pg_p_text(&l.params, resource[0] ? resource : NULL);
    if (take_time(c, "since", &l.params, since, sizeof since) < 0 || take_time(c, "until", &l.params, until, sizeof until) < 0)
        return -1;
    /* What happened before this request is in its chain before it is read. */
    (void)mt_audit_settle(c->ctl->audit, SETTLE_MS);
    return mt_api_send_list(c, &l);
}

int mt_api_audit_list(struct mt_api_call *c)
{
    return list(c, c->org.id);
}

int mt_api_admin_audit_list(struct mt_api_call *c)
{
    char chain[64];
    return take(c, "chain", chain, sizeof chain) < 0 ? -1 : list(c, chain[0] ? chain : NULL);
}

static void add_verdict(void *arg, const struct mt_audit_verdict *v)
{
    json_t *o = json_pack("{s:s,s:b,s:I,s:I,s:I,s:s}", "chain", v->chain, "ok", v->bad_seq == 0, "records", (json_int_t)v->records,
                          "anchor_seq", (json_int_t)v->anchor_seq, "head_seq", (json_int_t)v->head_seq, "head_hash", v->head_hash);
    if (v->bad_seq)
        json_object_set_new(o, "bad", json_pack("{s:I,s:s,s:s}", "seq", (json_int_t)v->bad_seq, "audit_id", v->bad_audit_id,
                                                "what", v->what));
    json_array_append_new(arg, o);
}

static int verify(struct mt_api_call *c, const char *chain)
{
    mt_auto_json json_t *chains = json_array();
    int64_t pending = 0;
    size_t i;
    json_t *o;
    bool ok = true;
    if (mt_api_query_done(c) < 0)
        return -1;
    (void)mt_audit_settle(c->ctl->audit, SETTLE_MS);
    if (mt_audit_verify(c->pg, chain, add_verdict, chains, &pending, &c->err) < 0)
        return mt_api_fail_err(c);
    json_array_foreach (chains, i, o)
        ok = ok && json_is_true(json_object_get(o, "ok"));
    return mt_api_send(c, 200, json_pack("{s:b,s:I,s:O}", "ok", ok, "pending", (json_int_t)pending, "chains", chains));
}

int mt_api_audit_verify(struct mt_api_call *c)
{
    return verify(c, c->org.id);
}

int mt_api_admin_audit_verify(struct mt_api_call *c)
{
    char chain[64];
    return take(c, "chain", chain, sizeof chain) < 0 ? -1 : verify(c, chain[0] ? chain : NULL);
}
