/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of releases into what specs are built from. */
#include "control/plans/release_row.h"

#include "base/str.h"
#include "wire/imageref.h"

static const char *const known_archs[] = {"amd64", "arm64"};

int mt_release_row_read(const struct mt_pg_res *r, int row, struct mt_release_row *ret, struct mt_err *err)
{
    json_error_t je;
    struct mt_imageref ref;
    const char *text = mt_pg_text(r, row, mt_pg_col(r, "rel_ref"));
    *ret = (struct mt_release_row){.number = (uint64_t)mt_pg_i64(r, row, mt_pg_col(r, "rel_number"))};
    snprintf(ret->release_id, sizeof ret->release_id, "%s", mt_pg_text(r, row, mt_pg_col(r, "rel_id")));
    snprintf(ret->manifest_hash, sizeof ret->manifest_hash, "%s", mt_pg_text(r, row, mt_pg_col(r, "rel_manifest_hash")));
    snprintf(ret->digest, sizeof ret->digest, "%s", mt_pg_text(r, row, mt_pg_col(r, "rel_digest")));
    ret->is_index = MT_STREQ(mt_pg_text(r, row, mt_pg_col(r, "rel_kind")), "index");
    if (mt_imageref_parse(text, &ref, err) < 0)
        return mt_err_wrap(err, "image reference of release %s", ret->release_id);
    snprintf(ret->repository, sizeof ret->repository, "%s/%s", ref.host, ref.path);
    ret->manifest = json_loads(mt_pg_text(r, row, mt_pg_col(r, "rel_manifest")), JSON_REJECT_DUPLICATES, &je);
    ret->platforms = json_loads(mt_pg_text(r, row, mt_pg_col(r, "rel_platforms")), JSON_REJECT_DUPLICATES, &je);
    if (!ret->manifest || !ret->platforms) {
        mt_release_row_done(ret);
        return MT_FAIL(err, MT_E_CORRUPT, "release %s holds broken JSON", ret->release_id);
    }
    return 0;
}

void mt_release_row_done(struct mt_release_row *row)
{
    json_decref(row->manifest);
    json_decref(row->platforms);
    row->manifest = row->platforms = NULL;
}

const char *mt_release_row_digest(const struct mt_release_row *row, const char *arch)
{
    size_t i;
    json_t *p;
    json_array_foreach (row->platforms, i, p) {
        const char *a = json_string_value(json_object_get(p, "arch")), *d = json_string_value(json_object_get(p, "digest"));
        if (a && d && MT_STREQ(a, arch))
            return d;
    }
    return json_array_size(row->platforms) == 0 ? row->digest : NULL;
}

size_t mt_release_row_archs(const struct mt_release_row *row, const char *ret[2])
{
    size_t n = 0;
    for (size_t i = 0; i < 2; i++)
        if (mt_release_row_digest(row, known_archs[i]))
            ret[n++] = known_archs[i];
    return n;
}

void mt_release_row_group(const struct mt_release_row *row, struct mt_spec_group *ret)
{
    ret->release_id = row->release_id;
    ret->release_number = row->number;
    ret->manifest = row->manifest;
    ret->manifest_hash = row->manifest_hash;
    ret->image_digest = row->digest;
    ret->image_is_index = row->is_index;
    ret->image_repository = row->repository;
}
