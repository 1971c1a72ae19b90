/* SPDX-License-Identifier: Apache-2.0 */
/* What one release changes against another of the same app. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/call.h"
#include "model/manifest_diff.h"
#include "wire/json.h"

/* $2 the release; $3 the other, NULL: the one numbered before it. */
static const struct mt_pg_stmt two = {
    "release_diff",
    "SELECT r.release_id, r.number, r.image_ref, r.image_digest, r.manifest::text, b.release_id, b.number, b.image_ref,"
    " b.image_digest, b.manifest::text FROM releases_view r LEFT JOIN LATERAL (SELECT * FROM releases_view x"
    "  WHERE x.app_id = r.app_id AND CASE WHEN $3::text IS NULL THEN x.number < r.number ELSE x.release_id = $3 END"
    "  ORDER BY x.number DESC LIMIT 1) b ON true WHERE r.app_id = $1 AND r.release_id = $2"};

enum { TO_ID = 0, TO_NUMBER, TO_REF, TO_DIGEST, TO_MANIFEST, FROM_ID, FROM_NUMBER, FROM_REF, FROM_DIGEST, FROM_MANIFEST };

static json_t *side(const struct mt_pg_res *r, int first)
{
    return json_pack("{s:s,s:I,s:s,s:s}", "release_id", mt_pg_text(r, 0, first), "number", (json_int_t)mt_pg_i64(r, 0, first + 1),
                     "image_ref", mt_pg_text(r, 0, first + 2), "image_digest", mt_pg_text(r, 0, first + 3));
}

/* {added[], removed[], changed[]} of process types, out of two manifests. */
static json_t *processes(const json_t *from, const json_t *to)
{
    json_t *a = json_object_get(from, "processes"), *b = json_object_get(to, "processes"), *v;
    json_t *added = json_array(), *removed = json_array(), *changed = json_array();
    const char *name;
    json_object_foreach (b, name, v) {
        json_t *old = json_object_get(a, name);
        if (!old)
            json_array_append_new(added, json_string(name));
        else if (!json_equal(old, v))
            json_array_append_new(changed, json_string(name));
    }
    json_object_foreach (a, name, v)
        if (!json_object_get(b, name))
            json_array_append_new(removed, json_string(name));
    return json_pack("{s:o,s:o,s:o}", "added", added, "removed", removed, "changed", changed);
}

int mt_api_releases_diff(struct mt_api_call *c)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    const char *against = mt_api_query(c, "against");
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->app.id);
    mt_pg_p_text(&p, mt_api_param(c, "release_id"));
    mt_pg_p_text(&p, against);
    if (mt_pg_query_one(c->pg, &two, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "release") : mt_api_fail_err(c);
    if (mt_pg_null(r, 0, FROM_ID))
        return against ? mt_api_not_found(c, "release to compare with")
                       : mt_api_fail(c, 400, "invalid_argument", "the first release has none before it; name one with against=");
    mt_auto_json json_t *from = json_loads(mt_pg_text(r, 0, FROM_MANIFEST), 0, &je);
    mt_auto_json json_t *to = json_loads(mt_pg_text(r, 0, TO_MANIFEST), 0, &je);
    json_t *changes = from && to ? mt_manifest_diff(from, to) : NULL;
    if (!changes) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "diff of releases");
        return mt_api_fail_err(c);
    }
    bool image = !MT_STREQ(mt_pg_text(r, 0, FROM_DIGEST), mt_pg_text(r, 0, TO_DIGEST));
    bool same = !image && json_array_size(changes) == 0;
    return mt_api_send(c, 200, json_pack("{s:o,s:o,s:b,s:b,s:o,s:o}", "from", side(r, FROM_ID), "to", side(r, TO_ID), "same", same,
                                         "image_changed", image, "processes", processes(from, to), "changes", changes));
}
