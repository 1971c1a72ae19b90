/* SPDX-License-Identifier: Apache-2.0 */
/* Releases: an image pinned by digest and a checked manifest, immutable (control-plane.md §5.1). */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/registry/store.h"
#include "model/manifest.h"
#include "os/spawn.h"
#include "wire/imageref.h"
#include "wire/json.h"

#define RELEASE_OBJECT                                                                                                \
    "json_strip_nulls(json_build_object('id',release_id,'org_id',org_id,'app_id',app_id,'number',number,"             \
    "'image_ref',image_ref,'image_digest',image_digest,'image_kind',image_kind,'platforms',platforms,"                \
    "'image_verified',image_verified,'manifest_hash',manifest_hash,'manifest',manifest,'process_types',process_types," \
    "'created_by',created_by,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(releases, RELEASE_OBJECT, "releases_view", "release_id",
            "app_id = $1 AND ($2::text IS NULL OR number::text = $2)" MT_SQL_CREATED("3", "4"), "5", "6");
static const struct mt_pg_stmt release_get = {
    "release_get", "SELECT " RELEASE_OBJECT ", resource_version FROM releases_view WHERE app_id = $1 AND release_id = $2"};
static const struct mt_pg_stmt release_same = {
    "release_same", "SELECT " RELEASE_OBJECT " FROM releases_view WHERE app_id = $1 AND image_digest = $2 AND manifest_hash = $3"};
static const struct mt_pg_stmt next_number = {"release_next_number",
                                              "SELECT next_release_number, resource_version FROM apps_view WHERE app_id = $1"};

/* What a reference turned out to be. */
struct image {
    char ref[680]; /* host/path[:tag] */
    char digest[MT_DIGEST_LEN + 1];
    char kind[16];
    json_t *platforms; /* owned */
    bool verified;
};

static void image_free(void *p)
{
    struct image *im = p;
    if (im)
        json_decref(im->platforms);
    free(im);
}

/* ---------------------------------------------------------------- manifest */

static int refuse_manifest(struct mt_api_call *c, const struct mt_manifest *m)
{
    json_t *list = mt_manifest_problems_json(m, false), *p;
    size_t i;
    c->problem.errors = json_array();
    json_array_foreach (list, i, p) {
        json_t *e = json_deep_copy(p);
        json_object_set(e, "field", json_object_get(p, "path"));
        json_array_append_new(c->problem.errors, e);
    }
    json_decref(list);
    for (i = 0; i < m->n_problems; i++)
        if (!mt_manifest_code_is_warning(m->problems[i].code))
            return mt_api_fail(c, 400, "manifest_invalid", "line %u, column %u: %s%s%s", m->problems[i].line,
                               m->problems[i].column, m->problems[i].message, m->problems[i].hint[0] ? "; " : "",
                               m->problems[i].hint);
    return mt_api_fail(c, 400, "manifest_invalid", "the manifest has %zu errors", m->n_errors);
}

static int read_manifest(struct mt_api_call *c, bool image_given, struct mt_manifest **ret)
{
    json_t *text = json_object_get(c->body, "manifest");
    const char *format;
    struct mt_manifest_options o = {.image_given = image_given};
    if (mt_api_text(c, "manifest_format", false, 8, &format) < 0)
        return -1;
    o.json = format && MT_STREQ(format, "json");
    if (format && !o.json && !MT_STREQ(format, "toml"))
        return mt_api_fail(c, 400, "not_supported", "manifest_format '%s' is not supported in this version; it is toml or json", format);
    if (!json_is_string(text))
        return mt_api_fail(c, 400, "invalid_argument", "'manifest': is required and is the text of a moat.toml%s", o.json ? " as JSON, in a string" : "");
    if (mt_manifest_parse(json_string_value(text), json_string_length(text), &o, ret, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

int mt_api_manifest_validate(struct mt_api_call *c)
{
    static const char *const known[] = {"manifest", "manifest_format", "image_ref", NULL};
    mt_auto_manifest struct mt_manifest *m = NULL;
    const char *image;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "image_ref", false, 600, &image) < 0 ||
        read_manifest(c, image != NULL, &m) < 0)
        return -1;
    json_t *o = json_pack("{s:b,s:o}", "ok", m->n_errors == 0, "errors", mt_manifest_problems_json(m, true));
    if (o && m->n_errors == 0) {
        json_object_set_new(o, "manifest_hash", json_string(m->hash));
        json_object_set(o, "canonical", m->canonical);
    }
    return mt_api_send(c, 200, o);
}

/* ---------------------------------------------------------------- image */

static json_t *strings(const struct mt_conf_list *l)
{
    json_t *a = json_array();
    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(a, json_string(l->v[i]));
    return a;
}

static int fetch_failure(struct mt_api_call *c, const json_t *answer, const char *ref)
{
    const json_t *e = json_object_get(answer, "error");
    const char *code = json_string_value(json_object_get(e, "code")), *msg = json_string_value(json_object_get(e, "message"));
    int status;
    if (!msg)
        msg = "the registry client failed";
    if (!code || MT_STREQ(code, "internal") || MT_STREQ(code, "disk_full"))
        return mt_api_fail(c, 503, "registry_unavailable", "%s", msg);
    if (MT_STREQ(code, "registry_unauthorized"))
        return mt_api_fail(c, 400, "image_not_found", "%s; an organisation's credential is set by `moat registries set HOST`", msg);
    if (MT_STREQ(code, "image_invalid"))
        return mt_api_fail(c, 400, "image_platform_unsupported", "%s", msg);
    if (!mt_api_code_known(code, &status))
        return mt_api_fail(c, 400, "image_not_found", "%s: %s", ref, msg);
    return mt_api_fail(c, status, code, "%s", msg);
}

/* Ask the registry through moat-fetch, a short-lived child (ruling R32). */
static int resolve(struct mt_api_call *c, const char *ref, const char *host, struct image *im)
{
    const struct mt_control_conf *conf = &c->ctl->conf;
    mt_auto_registry_login struct mt_registry_login login = {0};
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(1024u * 1024u);
    mt_auto_json json_t *in =
        json_pack("{s:o,s:o,s:I,s:I,s:s*}", "local_registries", strings(&conf->local_registries), "insecure_registries",
                  strings(&conf->insecure_registries), "max_compressed_bytes", (json_int_t)conf->max_image_bytes,
                  "total_timeout_s", (json_int_t)conf->registry_timeout_seconds, "ca_file", conf->registry_ca_file);
    int found = mt_registry_login(c->ctl->keys, c->pg, c->org.id, host, &login, &c->err);
    if (found < 0) {
        bool key = c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key");
        mt_log(MT_ERROR, "registries.do_not_open", KV("org_id", (const char *)c->org.id), KV_ERR(&c->err));
        return key ? mt_api_fail(c, 503, "master_key_unavailable", "the server lacks the master key of the credential for '%s'", host)
                   : mt_api_fail_err(c);
    }
    if (found && in) {
        json_object_set_new(in, "username", json_string(login.username));
        json_object_set_new(in, "password", json_string((const char *)login.password.p));
    }
    mt_auto_free char *input = in ? json_dumps(in, JSON_COMPACT) : NULL;
    mt_auto_json json_t *answer = NULL;
    const char *argv[] = {"moat-fetch", "resolve", ref, "--json", NULL};
    struct mt_spawn sp = {.path = conf->fetch_program, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1,
                          .no_new_privs = true};
    struct mt_run_result res;
    if (!input) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "resolve");
        return mt_api_fail_err(c);
    }
    int rc = mt_run(&sp, input, strlen(input), &out, NULL, (int64_t)(conf->registry_timeout_seconds + 2) * 1000, &res, &c->err);
    explicit_bzero(input, strlen(input));
    if (rc < 0 || mt_json_parse(mt_buf_cstr(&out), out.len, out.max, 32, &answer, &c->err) < 0) {
        mt_log(MT_ERROR, "release.resolve_failed", KV("ref", ref), KV_ERR(&c->err));
        return mt_api_fail(c, 503, "registry_unavailable", "the image reference could not be resolved in time");
    }
    if (!json_is_true(json_object_get(answer, "ok")))
        return fetch_failure(c, answer, ref);
    const char *repo, *digest, *kind, *tag;
    json_t *platforms, *p;
    if (mt_json_get_str(answer, "repository", 500, &repo, &c->err) < 0 ||
        mt_json_get_str(answer, "digest", MT_DIGEST_LEN, &digest, &c->err) < 0 ||
        mt_json_get_str(answer, "kind", 15, &kind, &c->err) < 0 ||
        mt_json_opt_str(answer, "tag", 128, NULL, &tag, &c->err) < 0 ||
        mt_json_get_array(answer, "platforms", 16, &platforms, &c->err) < 0)
        return mt_api_fail(c, 500, "internal", "the registry client answered: %s", c->err.msg);
    snprintf(im->ref, sizeof im->ref, "%s%s%s", repo, tag ? ":" : "", tag ? tag : "");
    snprintf(im->digest, sizeof im->digest, "%s", digest);
    snprintf(im->kind, sizeof im->kind, "%s", kind);
    im->platforms = json_array();
    im->verified = true;
    size_t i;
    json_array_foreach (platforms, i, p) {
        const char *variant = json_string_value(json_object_get(p, "variant"));
        json_array_append_new(im->platforms,
                              json_pack("{s:O,s:O,s:s*,s:O}", "os", json_object_get(p, "os"), "arch", json_object_get(p, "arch"),
                                        "variant", variant, "digest", json_object_get(p, "digest")));
    }
    if (json_array_size(im->platforms) == 0)
        return mt_api_fail(c, 400, "image_platform_unsupported", "the image has no linux platform for amd64 or arm64");
    return 0;
}

static int find_image(struct mt_api_call *c, const struct mt_manifest *m, struct image *im)
{
    const char *ref, *digest;
    char full[800];
    struct mt_imageref parsed;
    bool verify;
    if (mt_api_text(c, "image_ref", false, MT_IMAGEREF_MAX, &ref) < 0 ||
        mt_api_text(c, "image_digest", false, MT_DIGEST_LEN, &digest) < 0 ||
        mt_api_bool(c, "verify_image", true, &verify) < 0)
        return -1;
    ref = ref ? ref : m->image_ref;
    if (!ref)
        return mt_api_fail(c, 400, "invalid_argument", "no image: give image_ref, or image.ref in the manifest");
    if (mt_imageref_parse(ref, &parsed, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "image_ref: %s", c->err.msg);
    if (digest && !mt_digest_valid(digest))
        return mt_api_fail(c, 400, "invalid_argument", "'image_digest': is sha256: and 64 lower-case hex digits");
    if (digest && parsed.digest[0] && !MT_STREQ(digest, parsed.digest))
        return mt_api_fail(c, 400, "invalid_argument", "image_ref and image_digest name different digests");
    if (!digest && parsed.digest[0])
        digest = parsed.digest;
    snprintf(im->ref, sizeof im->ref, "%s/%s%s%s", parsed.host, parsed.path, parsed.tag[0] ? ":" : "", parsed.tag);
    if (verify) {
        if (digest)
            snprintf(full, sizeof full, "%s/%s@%s", parsed.host, parsed.path, digest);
        else
            snprintf(full, sizeof full, "%s", im->ref);
        char keep[sizeof im->ref];
        memcpy(keep, im->ref, sizeof keep);
        int rc = resolve(c, full, parsed.host, im);
        memcpy(im->ref, keep, sizeof keep);
        return rc;
    }
    if (!digest)
        return mt_api_fail(c, 400, "invalid_argument", "verify_image=false needs a digest: nothing else pins the image");
    snprintf(im->digest, sizeof im->digest, "%s", digest);
    snprintf(im->kind, sizeof im->kind, "manifest");
    im->platforms = json_array(); /* agents resolve */
    return 0;
}

/* ---------------------------------------------------------------- create, list, get */

static int existing(struct mt_api_call *c, const struct image *im, const struct mt_manifest *m, json_t **ret)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->app.id);
    mt_pg_p_text(&p, im->digest);
    mt_pg_p_text(&p, m->hash);
    if (mt_pg_query(c->pg, &release_same, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret = mt_pg_rows(r) ? json_loads(mt_pg_text(r, 0, 0), 0, &je) : NULL;
    return 0;
}

static int prepare_release(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"manifest", "manifest_format", "image_ref", "image_digest", "verify_image", NULL};
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_pg_params p;
    struct mt_strings types = {0};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    char id[MT_ID_SIZE];
    bool dry_run;
    if (mt_api_dry_run(c, &dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        read_manifest(c, json_object_get(c->body, "image_ref") != NULL, &m) < 0)
        return -1;
    if (m->n_errors)
        return refuse_manifest(c, m);
    if (!c->prepared) { /* the registry is asked once, before the command's transaction */
        struct image *im = calloc(1, sizeof *im);
        if (!im) {
            (void)MT_FAIL(&c->err, MT_E_NOMEM, "release");
            return mt_api_fail_err(c);
        }
        c->prepared = im;
        if (find_image(c, m, im) < 0)
            return -1;
    }
    const struct image *im = c->prepared;
    made->operation = "release.create";
    if (existing(c, im, m, &made->object) < 0)
        return -1;
    if (made->object) {
        made->nothing = true;
        json_object_set_new(made->object, "deduplicated", json_true());
        made->ids = json_pack("{s:O}", "release_id", json_object_get(made->object, "id"));
        return 0;
    }
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->app.id);
    if (mt_pg_query_one(c->pg, &next_number, &p, &r, &c->err) < 0 ||
        mt_manifest_process_types(m->canonical, &types, &c->err) < 0)
        return mt_api_fail_err(c);
    int64_t number = mt_pg_i64(r, 0, 0);
    json_t *type_list = json_array();
    for (size_t i = 0; i < types.n; i++)
        json_array_append_new(type_list, json_string(types.v[i]));
    free(types.v);
    mt_id_new(MT_ID_RELEASE, id);
    made->status = 201;
    made->ids = json_pack("{s:s}", "release_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:I,s:s,s:s,s:s,s:O,s:b,s:s,s:O,s:o,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id,
                             "app_id", c->app.id, "number", (json_int_t)number, "image_ref", im->ref, "image_digest", im->digest,
                             "image_kind", im->kind, "platforms", im->platforms, "image_verified", im->verified,
                             "manifest_hash", m->hash, "manifest", m->canonical, "process_types", type_list, "created_by",
                             c->who.subject_id, "resource_version", 1, "created_at", "updated_at");
    made->dry_run = dry_run;
    if (mt_cmd_rely(cmd, MT_RELY_APP_LIVE, c->app.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/releases/%s", c->org.id, c->app.id, id);
    return mt_api_event(c, cmd, MT_EV_RELEASE_CREATED, id,
                        json_pack("{s:I,s:s,s:s,s:s,s:O,s:b,s:s,s:O}", "number", (json_int_t)number, "image_ref", im->ref,
                                  "image_digest", im->digest, "image_kind", im->kind, "platforms", im->platforms,
                                  "image_verified", im->verified, "manifest_hash", m->hash, "manifest", m->canonical));
}

int mt_api_releases_create(struct mt_api_call *c)
{
    int rc = mt_api_mutate(c, prepare_release);
    image_free(c->prepared);
    c->prepared = NULL;
    return rc;
}

int mt_api_releases_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &releases_asc, .desc = &releases_desc};
    const char *number = mt_api_query(c, "number");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->app.id);
    mt_pg_p_text(&l.params, number);
    if (mt_api_list_created(c, &l) < 0)
        return -1;
    return mt_api_send_list(c, &l);
}

int mt_api_releases_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->app.id);
    mt_pg_p_text(&p, mt_api_param(c, "release_id"));
    return mt_api_send_row(c, &release_get, &p, "release");
}
