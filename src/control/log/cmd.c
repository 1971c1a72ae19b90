/* SPDX-License-Identifier: Apache-2.0 */
/* Building prepared commands. All checking of content happens here, on the worker's thread; the appender only orders. */
#include "control/log/cmd.h"

#include "base/assert.h"
#include "base/str.h"
#include "os/digest.h"

#include <stdlib.h>
#include <string.h>

#define CMD_BYTES_MAX (8u << 20)
#define ID_MAX 200
#define ROUTE_MAX 400
#define KEY_MAX 128

static int no_memory(struct mt_err *err)
{
    return MT_FAIL(err, MT_E_NOMEM, "no memory for a command");
}

/* Text of an envelope: bounded, UTF-8, not empty. */
static int text_ok(const char *what, const char *s, size_t max, struct mt_err *err)
{
    if (!s || !*s)
        return MT_FAIL(err, MT_E_INVALID, "%s is missing", what);
    if (strlen(s) > max || !mt_utf8_valid(s, strlen(s)))
        return MT_FAIL(err, MT_E_INVALID, "%s is longer than %zu bytes or not UTF-8", what, max);
    return 0;
}

static int copy_text(struct mt_cmd *cmd, const char *what, const char *s, const char **ret, struct mt_err *err)
{
    *ret = NULL;
    if (!s)
        return 0;
    int r = text_ok(what, s, ID_MAX, err);
    if (r < 0)
        return r;
    *ret = mt_arena_strdup(&cmd->arena, s);
    return *ret ? 0 : no_memory(err);
}

bool mt_actor_type_known(const char *type)
{
    static const char *const types[] = {"user", "service_principal", "node", "operator", "system"};
    bool known = false;
    for (size_t i = 0; i < MT_ARRAY_LEN(types) && !known; i++)
        known = MT_STREQ(type, types[i]);
    return known;
}

int mt_cmd_new(const struct mt_cmd_actor *actor, struct mt_cmd **ret_cmd, struct mt_err *err)
{
    if (!actor->actor_type || !mt_actor_type_known(actor->actor_type))
        return MT_FAIL(err, MT_E_INVALID, "unknown actor type '%.40s'", actor->actor_type ? actor->actor_type : "");
    mt_auto_cmd struct mt_cmd *cmd = calloc(1, sizeof *cmd);
    if (!cmd)
        return no_memory(err);
    cmd->magic = CMD_MAGIC;
    mt_arena_init(&cmd->arena, CMD_BYTES_MAX);
    mt_list_init(&cmd->link);
    mt_buf_init(&cmd->body, 1u << 20);
    MT_ASSERT(sem_init(&cmd->answered, 0, 0) == 0);
    int r = copy_text(cmd, "actor type", actor->actor_type, &cmd->actor_type, err);
    if (r == 0)
        r = text_ok("actor id", actor->actor_id, ID_MAX, err);
    if (r == 0)
        r = text_ok("request id", actor->request_id, ID_MAX, err);
    if (r == 0)
        r = copy_text(cmd, "actor id", actor->actor_id, &cmd->actor_id, err);
    if (r == 0)
        r = copy_text(cmd, "request id", actor->request_id, &cmd->request_id, err);
    if (r == 0)
        r = copy_text(cmd, "idempotency key", actor->idempotency_key, &cmd->idempotency_key, err);
    if (r < 0)
        return r;
    *ret_cmd = cmd;
    cmd = NULL;
    return 0;
}

void mt_cmd_free(struct mt_cmd *cmd)
{
    if (!cmd)
        return;
    MT_CHECK(cmd, CMD_MAGIC);
    MT_ASSERT(mt_list_empty(&cmd->link));
    mt_arena_done(&cmd->arena);
    mt_buf_done(&cmd->body);
    mt_cmd_done_free(&cmd->done);
    free(cmd->events);
    for (int i = 0; i < cmd->n_sides; i++)
        free(cmd->sides[i]);
    (void)sem_destroy(&cmd->answered);
    cmd->magic = 0;
    free(cmd);
}

void mt_cmd_freep(struct mt_cmd **cmd)
{
    mt_cmd_free(*cmd);
    *cmd = NULL;
}

void mt_cmd_done_free(struct mt_cmd_done *done)
{
    free(done->body);
    done->body = NULL;
}

int mt_cmd_cause(struct mt_cmd *cmd, const char *correlation_id, int64_t causation_id, struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    if (causation_id < 0 || causation_id > INT64_C(9007199254740991))
        return MT_FAIL(err, MT_E_INVALID, "causation id %lld is no event id", (long long)causation_id);
    cmd->causation_id = causation_id;
    return copy_text(cmd, "correlation id", correlation_id, &cmd->correlation_id, err);
}

static int grow_events(struct mt_cmd *cmd, struct mt_err *err)
{
    if (cmd->n_events == MT_CMD_EVENTS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "a command holds at most %d events", MT_CMD_EVENTS_MAX);
    if (cmd->n_events < cmd->cap_events)
        return 0;
    int cap = cmd->cap_events ? cmd->cap_events * 2 : 4;
    struct cmd_event *bigger = reallocarray(cmd->events, (size_t)cap, sizeof *bigger);
    if (!bigger)
        return no_memory(err);
    cmd->events = bigger;
    cmd->cap_events = cap;
    return 0;
}

static int add_event(struct mt_cmd *cmd, enum mt_ev ev, const char *aggregate_id, const struct mt_cmd_ids *ids,
                     const json_t *payload, struct mt_err *err)
{
    static const struct mt_cmd_ids none;
    int r = grow_events(cmd, err);
    if (r < 0)
        return r;
    struct cmd_event *e = &cmd->events[cmd->n_events];
    memset(e, 0, sizeof *e);
    e->ev = ev;
    e->correlation_id = cmd->correlation_id;
    e->causation_id = cmd->causation_id;
    if (!ids)
        ids = &none;
    if ((r = text_ok("aggregate id", aggregate_id, ID_MAX, err)) < 0 ||
        (r = copy_text(cmd, "aggregate id", aggregate_id, &e->aggregate_id, err)) < 0 ||
        (r = copy_text(cmd, "org id", ids->org_id, &e->org_id, err)) < 0 ||
        (r = copy_text(cmd, "app id", ids->app_id, &e->app_id, err)) < 0 ||
        (r = copy_text(cmd, "env id", ids->env_id, &e->env_id, err)) < 0)
        return r;
    mt_auto_buf struct mt_buf canon = MT_BUF_INIT(MT_EV_PAYLOAD_MAX * 2);
    if ((r = mt_ev_payload(ev, payload, &canon, err)) < 0)
        return r;
    e->payload = mt_arena_strndup(&cmd->arena, (const char *)canon.p, canon.len);
    if (!e->payload)
        return no_memory(err);
    e->payload_len = canon.len;
    mt_proj_keys_of(ev, e->aggregate_id, e->app_id, payload, &e->keys);
    cmd->n_events++;
    return 0;
}

int mt_cmd_event(struct mt_cmd *cmd, enum mt_ev ev, const char *aggregate_id, const struct mt_cmd_ids *ids, json_t *payload,
                 struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    MT_ASSERT(ev < MT_EV_MAX);
    json_t *p = payload ? payload : json_object();
    if (!p)
        return no_memory(err);
    int r = add_event(cmd, ev, aggregate_id, ids, p, err);
    json_decref(p);
    return r;
}

int mt_cmd_n_events(const struct mt_cmd *cmd)
{
    return cmd->n_events;
}

json_t *mt_cmd_events_json(const struct mt_cmd *cmd)
{
    json_t *list = json_array();
    for (int i = 0; i < cmd->n_events; i++) {
        const struct cmd_event *e = &cmd->events[i];
        const struct mt_ev_info *info = mt_ev_info(e->ev);
        json_t *o = json_pack("{s:s,s:s,s:s,s:o}", "event_type", info->type, "aggregate_type", info->aggregate_type,
                              "aggregate_id", e->aggregate_id, "payload", json_loadb(e->payload, e->payload_len, 0, NULL));
        if (json_array_append_new(list, o) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

bool mt_cmd_event_at(const struct mt_cmd *cmd, int i, struct mt_cmd_event_view *ret)
{
    MT_CHECK(cmd, CMD_MAGIC);
    if (i < 0 || i >= cmd->n_events)
        return false;
    const struct cmd_event *e = &cmd->events[i];
    *ret = (struct mt_cmd_event_view){.ev = e->ev, .aggregate_id = e->aggregate_id, .org_id = e->org_id, .app_id = e->app_id,
                                      .env_id = e->env_id, .payload = e->payload};
    return true;
}

int mt_cmd_rely(struct mt_cmd *cmd, enum mt_rely what, const char *key, const char *key2, int64_t version, struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    MT_ASSERT(what < MT_RELY_MAX && version >= 0);
    bool two = what == MT_RELY_DESIRED || (what >= MT_RELY_PROJECT_NAME && what <= MT_RELY_RELEASE_CONTENT);
    MT_ASSERT(key && two == (key2 != NULL));
    bool name = what >= MT_RELY_ENV_BUNDLE && what <= MT_RELY_RELEASE_CONTENT;
    MT_ASSERT(!name || version == 0);
    if (cmd->n_relies == MT_CMD_RELIES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "a command relies on at most %d rows", MT_CMD_RELIES_MAX);
    struct cmd_rely *y = &cmd->relies[cmd->n_relies];
    *y = (struct cmd_rely){.what = what, .version = version, .key = mt_arena_strdup(&cmd->arena, key)};
    y->key2 = key2 ? mt_arena_strdup(&cmd->arena, key2) : NULL;
    if (!y->key || (key2 && !y->key2))
        return no_memory(err);
    /* Rows are known by their aggregate's id, so that a write of the aggregate conflicts; names by kind and name. Who makes
     * something below an owner notes it, and who relies on what is below waits for that. */
    y->hash = mt_proj_hash(key, NULL);
    if (name) {
        const char kind[3] = {'n', (char)('0' + (int)what), 0};
        y->note = y->hash = mt_proj_hash(key, key2) ^ mt_proj_hash(kind, NULL); /* who relies on a free name takes it */
    } else if (what == MT_RELY_IPV4_POOL) {
        y->note = y->hash; /* who relies on an address of the pool takes it */
    } else if (what >= MT_RELY_ORG_LIVE && what <= MT_RELY_VOLUME_LIVE) {
        y->note = mt_proj_hash(key, "below");
    } else if (what >= MT_RELY_ORG_APPS && what <= MT_RELY_VOLUME_ATTACHMENTS) {
        y->hash = mt_proj_hash(key, "below");
    }
    cmd->n_relies++;
    return 0;
}

void mt_cmd_in_recovery(struct mt_cmd *cmd)
{
    MT_CHECK(cmd, CMD_MAGIC);
    cmd->in_recovery = true;
}

int mt_cmd_side(struct mt_cmd *cmd, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, int64_t affected,
                struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    if (cmd->n_sides == CMD_SIDES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "a command has at most %d side writes", CMD_SIDES_MAX);
    struct cmd_side *s = calloc(1, sizeof *s);
    if (!s)
        return no_memory(err);
    s->stmt = stmt;
    s->affected = affected;
    cmd->sides[cmd->n_sides++] = s;
    if (!p)
        return 0;
    s->p = *p;
    for (int i = 0; i < p->n; i++) {
        if (!p->value[i]) /* NULL, or a number that came with the copy */
            continue;
        const char *c = mt_arena_strndup(&cmd->arena, p->value[i], (size_t)p->len[i]);
        if (!c)
            return no_memory(err);
        s->p.value[i] = c;
    }
    return 0;
}

void mt_idempotency_scope(const char *org_id, const char *actor_id, const char *route, const char *key,
                          uint8_t ret[MT_IDEM_SCOPE_LEN])
{
    const char *const part[] = {org_id, actor_id, route, key};
    char all[2 * ID_MAX + ROUTE_MAX + KEY_MAX + 4];
    uint8_t sum[MT_SHA256_LEN];
    size_t at = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(part); i++) {
        size_t n = strlen(part[i]) + 1; /* with its NUL, which no part holds: the parts stay told apart */
        MT_ASSERT(at + n <= sizeof all);
        memcpy(all + at, part[i], n);
        at += n;
    }
    mt_sha256_of(all, at - 1, sum);
    memcpy(ret, sum, MT_IDEM_SCOPE_LEN);
}

int mt_cmd_idempotency(struct mt_cmd *cmd, const char *org_id, const char *actor_id, const char *route, const char *key,
                       const uint8_t mac[32], struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    org_id = org_id ? org_id : "-";
    int r = text_ok("idempotency route", route, ROUTE_MAX, err);
    if (r == 0)
        r = text_ok("idempotency key", key, KEY_MAX, err);
    if (r == 0)
        r = text_ok("idempotency org", org_id, ID_MAX, err);
    if (r == 0)
        r = text_ok("idempotency actor", actor_id, ID_MAX, err);
    if (r < 0)
        return r;
    mt_idempotency_scope(org_id, actor_id, route, key, cmd->idem_scope);
    memcpy(cmd->idem_mac, mac, 32);
    memcpy(&cmd->idem_hash, cmd->idem_scope, sizeof cmd->idem_hash);
    cmd->idem_hash |= 1; /* 0 is no key */
    cmd->idempotent = true;
    return 0;
}

int mt_cmd_audit(struct mt_cmd *cmd, const char *json, size_t len, struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    cmd->audit = mt_arena_strndup(&cmd->arena, json, len);
    cmd->audit_len = len;
    return cmd->audit ? 0 : no_memory(err);
}

void mt_cmd_reply(struct mt_cmd *cmd, mt_cmd_reply_fn *fn, void *arg)
{
    MT_CHECK(cmd, CMD_MAGIC);
    cmd->reply_fn = fn;
    cmd->reply_arg = arg;
}
