/* SPDX-License-Identifier: Apache-2.0 */
/* Master keys as operators see them: ids, states and counts; never keys (storage-and-secrets.md §8). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
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
