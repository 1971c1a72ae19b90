/* SPDX-License-Identifier: Apache-2.0 */
/* Images that may not run (control-plane.md §9.5): a digest, of a reference or of one platform. A blocked one is placed nowhere any
 * more; with evict what runs of it is drained too. Each change says why. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "wire/imageref.h"

#define BLOCK_OBJECT \
    "json_build_object('digest',digest,'evict',evict,'reason',reason,'updated_by',set_by,'resource_version',resource_version," MT_SQL_TIMES ")::text"

MT_SQL_LIST(image_blocks, BLOCK_OBJECT, "image_blocks_view", "digest", "NOT deleted", "1", "2");
static const struct mt_pg_stmt block_row = {
    "image_block_row", "SELECT resource_version, deleted, evict, reason, " MT_SQL_TS("created_at") ", " BLOCK_OBJECT
                       " FROM image_blocks_view WHERE digest = $1"};

int mt_api_image_blocks_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &image_blocks_asc, .desc = &image_blocks_desc};
    mt_pg_p_init(&l.params);
    return mt_api_send_list(c, &l);
}

static int load(struct mt_api_call *c, const char *digest, const char *code, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    if (!mt_digest_valid(digest))
        return mt_api_fail(c, 400, code, "'digest': is sha256: and 64 lower-case hex digits");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, digest);
    return mt_pg_query(c->pg, &block_row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"digest", "evict", "reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *digest, *reason;
    bool evict;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "digest", true, MT_DIGEST_LEN, &digest) < 0 ||
        mt_api_bool(c, "evict", false, &evict) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0 || load(c, digest, "invalid_argument", &r) < 0)
        return -1;
    bool row = mt_pg_rows(r) > 0, live = row && !mt_pg_bool(r, 0, 1);
    int64_t version = row ? mt_pg_i64(r, 0, 0) : 0;
    made->operation = "image.block";
    made->ids = json_pack("{s:s}", "digest", digest);
    if (live && mt_pg_bool(r, 0, 2) == evict && MT_STREQ(mt_pg_text(r, 0, 3), reason)) {
        json_error_t je;
        made->object = json_loads(mt_pg_text(r, 0, 5), 0, &je);
        made->nothing = true;
        return 0;
    }
    made->status = 201;
    made->object = json_pack("{s:s,s:b,s:s,s:s,s:I,s:o,s:n}", "digest", digest, "evict", evict, "reason", reason, "updated_by",
                             c->who.subject_id, "resource_version", (json_int_t)version + 1, "created_at",
                             row ? json_string(mt_pg_text(r, 0, 4)) : json_null(), "updated_at");
    if (mt_cmd_rely(cmd, MT_RELY_IMAGE_BLOCK, digest, NULL, live ? version : 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_IMAGE_BLOCK_SET, digest, json_pack("{s:s,s:b,s:s}", "digest", digest, "evict", evict, "reason", reason));
}

int mt_api_image_blocks_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason, *digest = mt_api_param(c, "digest");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, digest, "invalid_id", &r) < 0)
        return -1;
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "image block");
    if (mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    bool gone = mt_pg_bool(r, 0, 1);
    mt_api_deleted(made, "image.unblock", "digest", digest, gone);
    if (gone)
        return 0;
    if (mt_cmd_rely(cmd, MT_RELY_IMAGE_BLOCK, digest, NULL, mt_pg_i64(r, 0, 0), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_IMAGE_BLOCK_CLEARED, digest,
                        json_pack("{s:s,s:b,s:s}", "digest", digest, "evict", mt_pg_bool(r, 0, 2), "reason", reason));
}

int mt_api_image_blocks_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
