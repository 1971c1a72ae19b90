/* SPDX-License-Identifier: Apache-2.0 */
/* A release as rows give it, ready for model/spec.h: parsed manifest, platforms, repository. Shared by plans and controller. */
#pragma once

#include "base/err.h"
#include "model/manifest.h"
#include "model/spec.h"
#include "pg/pg.h"

#include <jansson.h>

/* Columns mt_release_row_read reads, for a releases_view called r. */
#define MT_RELEASE_COLUMNS                                                                                             \
    "r.release_id AS rel_id, r.number AS rel_number, r.manifest AS rel_manifest, r.manifest_hash AS rel_manifest_hash," \
    " r.image_digest AS rel_digest, r.image_kind AS rel_kind, r.image_ref AS rel_ref, r.platforms AS rel_platforms"

struct mt_release_row {
    char release_id[40];
    uint64_t number;
    json_t *manifest, *platforms; /* owned */
    char manifest_hash[80], digest[80], repository[520];
    bool is_index;
};

/** Read row @row of @r. Free with mt_release_row_done. */
int mt_release_row_read(const struct mt_pg_res *r, int row, struct mt_release_row *ret, struct mt_err *err);
void mt_release_row_done(struct mt_release_row *row);

/** Digest to run on @arch; NULL when the release was not resolved for it. Borrowed. */
const char *mt_release_row_digest(const struct mt_release_row *row, const char *arch);
/** Architectures it can run on; at most 2, static texts. An unresolved release claims both. Returns how many. */
size_t mt_release_row_archs(const struct mt_release_row *row, const char *ret[2]);
/** Fill the release part of a spec group. Borrows from @row. */
void mt_release_row_group(const struct mt_release_row *row, struct mt_spec_group *ret);
