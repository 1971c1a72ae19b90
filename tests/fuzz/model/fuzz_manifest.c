/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a manifest. Properties: refused with a place and a code, or accepted with a canonical form that everything
 * downstream can read: every process gives a spec hash, every route and volume reads back; its canonical text has the same hash. */
#include "model/manifest.h"
#include "model/spec.h"
#include "wire/toml.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ULID "01aryz6s4104hmasw9nf6yy093"
#define DIGEST "sha256:7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"

static void downstream(const struct mt_manifest *m)
{
    struct mt_spec_volume volumes[16];
    static char ids[16][48];
    struct mt_strings types;
    struct mt_err err;
    size_t n_volumes = mt_manifest_n_volumes(m->canonical);

    MT_ASSERT(n_volumes <= 16);
    for (size_t i = 0; i < n_volumes; i++) {
        struct mt_manifest_volume v;
        MT_ASSERT(mt_manifest_volume_read(m->canonical, i, &v, &err) == 0);
        (void)snprintf(ids[i], sizeof ids[i], "vol_01aryz6s4104hmasw9nf6yy0%02zu", i);
        volumes[i] = (struct mt_spec_volume){v.name, ids[i], NULL};
    }
    for (size_t i = 0; i < mt_manifest_n_routes(m->canonical); i++) {
        struct mt_manifest_route r;
        MT_ASSERT(mt_manifest_route_read(m->canonical, i, &r, &err) == 0);
    }
    MT_ASSERT(mt_manifest_process_types(m->canonical, &types, &err) == 0 && types.n > 0);
    for (size_t i = 0; i < types.n; i++) {
        struct mt_spec_group g = {.org_id = "org_" ULID, .org_name = "o", .app_id = "app_" ULID, .app_name = "a",
            .env_id = "env_" ULID, .env_name = "e", .process_type = types.v[i], .release_id = "rel_" ULID, .manifest = m->canonical,
            .manifest_hash = m->hash, .image_digest = DIGEST, .image_repository = "a.example/b", .volumes = volumes,
            .n_volumes = n_volumes};
        struct mt_spec_instance inst = {.instance_id = "inst_" ULID, .generation = 1, .overlay_ipv6 = "fd00::1", .arch = "amd64",
                                        .resolved_digest = DIGEST};
        struct mt_workload *w = NULL;
        int rc = mt_spec_build(&g, &inst, &w, &err);
        /* 256 variables of 8 KiB each pass the manifest but not the 128 KiB of the spec */
        MT_ASSERT(rc == 0 || strstr(err.msg, "env_vars"));
        mt_workload_free(w);
    }
    free(types.v);
}

/* The canonical text: the same hash, every comment still there, and formatting it again changes nothing. */
static void formatted(const uint8_t *data, size_t len, const struct mt_manifest *m)
{
    mt_auto_buf struct mt_buf once = MT_BUF_INIT(1U << 20), twice = MT_BUF_INIT(1U << 20);
    mt_auto_manifest struct mt_manifest *again = NULL;
    mt_auto_toml struct mt_toml *toml = NULL;
    struct mt_manifest_options options = {.image_given = true};
    struct mt_err err;
    int rc = mt_manifest_format((const char *)data, len, &once, &err);

    MT_ASSERT(rc == 0 || rc == -MT_E_LIMIT); /* the text may grow over 64 KiB */
    if (rc < 0)
        return;
    MT_ASSERT(mt_manifest_parse((const char *)once.p, once.len, &options, &again, &err) == 0 && MT_STREQ(again->hash, m->hash));
    MT_ASSERT(mt_manifest_format((const char *)once.p, once.len, &twice, &err) == 0);
    MT_ASSERT(once.len == twice.len && memcmp(once.p, twice.p, once.len) == 0);
    MT_ASSERT(mt_toml_parse((const char *)data, len, &toml, &err) == 0);
    for (size_t i = 0; i < toml->n_comments; i++) {
        size_t n = toml->comments[i].len;
        while (n > 1 && (toml->comments[i].s[n - 1] == ' ' || toml->comments[i].s[n - 1] == '\t'))
            n--;
        MT_ASSERT(memmem(once.p, once.len, toml->comments[i].s, n));
    }
}

/* The same bytes as JSON; and what is good in JSON is good, and the same, downstream. */
static void as_json(const uint8_t *data, size_t len)
{
    const struct mt_manifest_options json = {.json = true};
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_err err;

    MT_ASSERT(mt_manifest_parse((const char *)data, len, &json, &m, &err) == 0);
    MT_ASSERT((m->n_errors == 0) == (m->canonical != NULL));
    for (size_t i = 0; i < m->n_problems; i++)
        MT_ASSERT(m->problems[i].line >= 1 && m->problems[i].column >= 1 && m->problems[i].message[0]);
    if (m->canonical)
        downstream(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_manifest *m = NULL;
    struct mt_err err;

    MT_ASSERT(mt_manifest_parse((const char *)data, len, NULL, &m, &err) == 0);
    MT_ASSERT((m->n_errors == 0) == (m->canonical != NULL));
    for (size_t i = 0; i < m->n_problems; i++)
        MT_ASSERT(m->problems[i].line >= 1 && m->problems[i].column >= 1 && m->problems[i].message[0]);
    if (m->canonical) {
        downstream(m);
        formatted(data, len, m);
    }
    json_decref(mt_manifest_problems_json(m, true));
    mt_manifest_free(m);
    as_json(data, len);
    return 0;
}
