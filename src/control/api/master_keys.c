/* SPDX-License-Identifier: Apache-2.0 */
/* Master keys as operators see them: ids, states and counts; never keys (storage-and-secrets.md §8). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/trail.h"
#include "control/secrets/rewrap.h"

#define REWRAP_MS 5000

static const char *const no_fields[] = {NULL};

static int failed(struct mt_api_call *c)
{
    if (c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key"))
        return mt_api_fail(c, 503, "master_key_unavailable", "%s", c->err.msg);
    return c->err.code == MT_E_CONFLICT ? mt_api_fail(c, 409, "conflict", "%s", c->err.msg) : mt_api_fail_err(c);
}

int mt_api_master_keys_get(struct mt_api_call *c)
{
    mt_auto_free struct mt_key_rows *rows = NULL;
    struct mt_key_info keys[MT_MASTERKEYS_MAX];
    size_t n = 0, loaded;
    char problem[240];
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_key_rows(c->pg, &rows, &n, &c->err) < 0)
        return failed(c);
    loaded = mt_keys_list(c->ctl->keys, keys, MT_MASTERKEYS_MAX);
    mt_keys_problem(c->ctl->keys, problem, sizeof problem);
    json_t *list = json_array();
    for (size_t i = 0; i < loaded; i++) {
        int64_t held = 0;
        for (size_t k = 0; k < n; k++)
            held += MT_STREQ(rows[k].id, keys[i].id) ? rows[k].rows : 0;
        json_array_append_new(list, json_pack("{s:s,s:s,s:I}", "id", keys[i].id, "state", keys[i].active ? "active" : "retired", "rows", (json_int_t)held));
    }
    for (size_t k = 0; k < n; k++) {
        bool known = false;
        for (size_t i = 0; i < loaded; i++)
            known = known || MT_STREQ(rows[k].id, keys[i].id);
        if (!known)
            json_array_append_new(list, json_pack("{s:s,s:s,s:I}", "id", rows[k].id, "state", "missing", "rows", (json_int_t)rows[k].rows));
    }
    return mt_api_send(c, 200, json_pack("{s:o,s:s*}", "keys", list, "problem", problem[0] ? problem : NULL));
}

int mt_api_master_keys_rewrap(struct mt_api_call *c)
{
    struct mt_rewrap_done d;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, no_fields) < 0 || mt_api_trail_read(c, "master_keys.rewrap", NULL, NULL) < 0)
        return -1;
    if (mt_rewrap(c->ctl->keys, c->pg, REWRAP_MS, &d, &c->err) < 0)
        return failed(c);
    return mt_api_send(c, 200, json_pack("{s:I,s:I,s:I}", "rewrapped", (json_int_t)d.rewrapped, "remaining", (json_int_t)d.remaining, "failed",
                                         (json_int_t)d.failed));
}

/*
 * The end of a key that holds nothing any more. The file is its administrator's and mostly not even writable for this server (a systemd credential): taking the
 * line out is done there, by `moat admin keys retire --file`. What is done here: nothing may need the key, which this server alone can tell; it is written down who
 * said so and why; and this server has it no more from now on, so that what was overlooked is seen while SIGHUP still brings the key back.
 */
int mt_api_master_keys_retire(struct mt_api_call *c)
{
    static const char *const known[] = {"reason", NULL};
    const char *id = mt_api_param(c, "key_id"), *reason;
    mt_auto_free struct mt_key_rows *rows = NULL;
    struct mt_key_info keys[MT_MASTERKEYS_MAX];
    size_t n = 0, loaded = mt_keys_list(c->ctl->keys, keys, MT_MASTERKEYS_MAX);
    int64_t held = 0;
    bool there = false, active = false;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    if (strlen(id) != 16 || strspn(id, "0123456789abcdef") != 16)
        return mt_api_fail(c, 400, "invalid_id", "the id of a master key has 16 hex digits (moat admin keys status)");
    if (mt_key_rows(c->pg, &rows, &n, &c->err) < 0)
        return failed(c);
    for (size_t i = 0; i < n; i++)
        held += MT_STREQ(rows[i].id, id) ? rows[i].rows : 0;
    for (size_t i = 0; i < loaded; i++)
        if (MT_STREQ(keys[i].id, id)) {
            there = true;
            active = keys[i].active;
        }
    if (active)
        return mt_api_fail(c, 409, "conflict", "master key %s is the active one: make another one active first (moat admin keys generate)", id);
    if (held > 0)
        return mt_api_fail(c, 409, "conflict", "master key %s still holds %lld wrapped keys: moat admin keys rewrap", id, (long long)held);
    if (!there)
        return mt_api_not_found(c, "master key");
    if (mt_api_trail_read(c, "master_keys.retire", "master_key", id) < 0)
        return -1;
    if (mt_keys_forget(c->ctl->keys, id, &c->err) < 0 && c->err.code != MT_E_NOT_FOUND)
        return failed(c);
    mt_log(MT_INFO, "master_keys.retired", KV("request_id", c->request_id), KV("key_id", id));
    return mt_api_send(c, 200, json_pack("{s:s,s:s,s:s}", "id", id, "state", "forgotten", "next",
                                         "take its line out of the file of master keys on every machine of the control plane (moat admin keys retire ID --file FILE), then SIGHUP moat-control"));
}

int mt_api_master_keys_verify(struct mt_api_call *c)
{
    struct mt_verify_done d;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, no_fields) < 0 || mt_api_trail_read(c, "master_keys.verify", NULL, NULL) < 0)
        return -1;
    if (mt_secrets_verify(c->ctl->keys, c->pg, &d, &c->err) < 0)
        return failed(c);
    return mt_api_send(c, 200, json_pack("{s:I,s:I,s:I,s:I}", "wrapped_keys", (json_int_t)d.wrapped, "opened", (json_int_t)d.opened, "envelopes",
                                         (json_int_t)d.envelopes, "envelopes_opened", (json_int_t)d.envelopes_opened));
}
