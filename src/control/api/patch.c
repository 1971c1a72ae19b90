/* SPDX-License-Identifier: Apache-2.0 */
/* See patch.h. */
#include "control/api/patch.h"

#include "base/str.h"

int mt_api_patch_begin(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *params,
                       const char *what, struct mt_api_patch *ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    *ret = (struct mt_api_patch){0};
    if (mt_pg_query_one(c->pg, stmt, params, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, what) : mt_api_fail_err(c);
    ret->version = mt_pg_i64(r, 0, 1);
    if (mt_api_check_version(c, true, ret->version, what) < 0)
        return -1;
    ret->object = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    ret->payload = json_object();
    if (!ret->object || !ret->payload) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "%s", what);
        return mt_api_fail_err(c);
    }
    return 0;
}

int mt_api_patch_set(struct mt_api_call *c, struct mt_api_patch *p, const char *name, json_t *value)
{
    json_t *now = json_object_get(p->object, name);
    bool clear = !value || json_is_null(value);
    int rc = 0;
    (void)c;
    p->asked = true;
    if (clear ? !now : now && json_equal(now, value))
        return 0;
    if (clear) {
        (void)json_object_del(p->object, name);
        rc = json_object_set_new(p->payload, name, json_null());
    } else {
        rc = json_object_set(p->object, name, value) | json_object_set(p->payload, name, value);
    }
    if (rc == 0)
        return 0;
    (void)MT_FAIL(&c->err, MT_E_NOMEM, "patch");
    return mt_api_fail_err(c);
}

/* 1: the field is named with a value to read; 0: dealt with; -1: refused. */
static int named(struct mt_api_call *c, struct mt_api_patch *p, const char *name, bool clearable)
{
    json_t *v = json_object_get(c->body, name);
    if (!v)
        return 0;
    if (!json_is_null(v))
        return 1;
    if (!clearable)
        return mt_api_fail(c, 400, "invalid_argument", "'%s': cannot be cleared", name);
    return mt_api_patch_set(c, p, name, NULL);
}

int mt_api_patch_text(struct mt_api_call *c, struct mt_api_patch *p, const char *name, size_t max, bool clearable)
{
    const char *s;
    int rc = named(c, p, name, clearable);
    if (rc <= 0)
        return rc;
    if (mt_api_text(c, name, true, max, &s) < 0)
        return -1;
    return mt_api_patch_set(c, p, name, json_object_get(c->body, name));
}

int mt_api_patch_bool(struct mt_api_call *c, struct mt_api_patch *p, const char *name)
{
    bool b;
    int rc = named(c, p, name, false);
    if (rc <= 0)
        return rc;
    if (mt_api_bool(c, name, false, &b) < 0)
        return -1;
    return mt_api_patch_set(c, p, name, json_object_get(c->body, name));
}

int mt_api_patch_int(struct mt_api_call *c, struct mt_api_patch *p, const char *name, int64_t min, int64_t max, bool clearable)
{
    int64_t n;
    int rc = named(c, p, name, clearable);
    if (rc <= 0)
        return rc;
    if (mt_api_int(c, name, true, min, max, 0, &n) < 0)
        return -1;
    return mt_api_patch_set(c, p, name, json_object_get(c->body, name));
}

int mt_api_patch_end(struct mt_api_call *c, struct mt_api_patch *p, struct mt_api_made *made, const char *operation,
                     const char *id_name, const char *id)
{
    if (json_object_size(p->payload) == 0)
        return mt_api_fail(c, 400, "no_changes", p->asked ? "every field has the given value already" : "no field to change is given");
    json_object_set_new(p->object, "resource_version", json_integer(p->version + 1));
    json_object_set_new(p->object, "updated_at", json_null());
    made->operation = operation;
    made->ids = json_pack("{s:s}", id_name, id);
    made->desired = json_incref(p->payload);
    made->object = p->object;
    p->object = NULL;
    return 0;
}

void mt_api_patch_done(struct mt_api_patch *p)
{
    json_decref(p->object);
    json_decref(p->payload);
    *p = (struct mt_api_patch){0};
}
