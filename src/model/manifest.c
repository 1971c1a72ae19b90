/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest as a whole: top level, canonical form, hash, list of problems. */
#include "model/manifest.h"

#include "model/manifest_ctx.h"
#include "model/names.h"
#include "os/digest.h"
#include "wire/imageref.h"
#include "wire/json.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#define CANONICAL_MAX (1024U * 1024U)

static const char *const code_names[MT_MANIFEST_CODE_MAX] = {
#define CODE_ROW(symbol) #symbol,
    MT_MANIFEST_CODES(CODE_ROW)
#undef CODE_ROW
};

const char *mt_manifest_code_name(enum mt_manifest_code code)
{
    MT_ASSERT((unsigned)code < MT_MANIFEST_CODE_MAX);
    return code_names[code];
}

bool mt_manifest_code_is_warning(enum mt_manifest_code code)
{
    return mt_manifest_code_name(code)[0] == 'W';
}

static const struct mt_mf_hint root_hints[] = {
    {"build", MT_E_BUILD_UNSUPPORTED, "build and push the image yourself, then name it: [image] ref = \"...\""},
    {"version", MT_E_SCHEMA_VERSION, "write schema_version = \"v1\""},
    {"name", MT_E_UNKNOWN_FIELD, "write [app] name = \"...\""},
    {"resources", MT_E_UNKNOWN_FIELD, "resources belong to a process: [processes.web.resources]"},
    {"run", MT_E_UNKNOWN_FIELD, "what runs is a process: [processes.web] command = [\"...\"]"},
    {"ports", MT_E_UNKNOWN_FIELD, "ports belong to a process: [[processes.web.ports]]"},
    {"health", MT_E_UNKNOWN_FIELD, "health belongs to a process: [processes.web.health]"},
    {"mounts", MT_E_UNKNOWN_FIELD, "mounts belong to a process: [[processes.web.mounts]]"},
    {"scaling", MT_E_UNKNOWN_FIELD, "scaling belongs to a process: [processes.web.scaling]"},
    {"vars", MT_E_UNKNOWN_FIELD, "write [env.vars]"},
    {"secrets_path", MT_E_SECRETS_PATH, "the secrets file is always " MT_SECRETS_PATH "; remove the key"},
    {"app_name", MT_E_UNKNOWN_FIELD, "write [app] name = \"...\""},
    {"command", MT_E_UNKNOWN_FIELD, "what runs is a process: [processes.web] command = [\"...\"]"},
    {"network", MT_E_UNKNOWN_FIELD, "ports belong to a process, host names to [[routes]]"},
    {"secrets", MT_E_UNKNOWN_FIELD, "secrets are never in the manifest; a process asks for them with secrets.required = true"},
    {"services", MT_E_UNKNOWN_FIELD, "write [processes.<name>]"},
    {"process", MT_E_UNKNOWN_FIELD, "write [processes.<name>]"},
    {"route", MT_E_UNKNOWN_FIELD, "write [[routes]]"},
    {"volume", MT_E_UNKNOWN_FIELD, "write [[volumes]]"},
    {NULL, MT_E_UNKNOWN_FIELD, NULL}};

static void check_version(struct mt_mf *c, const struct mt_mf_at *root)
{
    static const char hint[] = "write schema_version = \"v1\"";
    const struct mt_toml_entry *e = mt_toml_find(root->table, "schema_version");

    if (!e) {
        if (!c->partial)
            mt_mf_problem(c, MT_E_SCHEMA_VERSION, root->table->pos, "schema_version", hint, "'schema_version' is missing");
    } else if (e->value->type != MT_TOML_STRING) {
        mt_mf_problem(c, MT_E_SCHEMA_VERSION, e->value->pos, "schema_version", hint, "'schema_version' must be a string, not %s",
                      mt_toml_type_name(e->value->type));
    } else if (e->value->string.len != 2 || memcmp(e->value->string.s, "v1", 2) != 0) {
        char shown[40];
        mt_mf_problem(c, MT_E_SCHEMA_VERSION, e->value->pos, "schema_version", hint, "schema version '%s' is not known",
                      mt_printable(e->value->string.s, e->value->string.len, shown, sizeof shown));
    }
}

/* Owned copy of a text that is in order, or NULL. */
static char *keep(struct mt_mf *c, const char *s)
{
    char *copy = s ? mt_strndup(s, strlen(s)) : NULL;

    if (s && !copy)
        c->nomem = true;
    return copy;
}

static size_t characters(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void read_app(struct mt_mf *c, const struct mt_mf_at *root)
{
    struct mt_mf_at at = mt_mf_table(c, root, "app");
    struct mt_toml_pos pos = {1, 1};

    mt_mf_known(c, &at, NULL);
    const char *name = mt_mf_text(c, &at, "name", &pos);
    if (name && !mt_name_valid(MT_NAME_APP, name, strlen(name)))
        mt_mf_problem(c, MT_E_PATTERN, pos, "app.name", "", "app name is not %s", mt_name_rule(MT_NAME_APP));
    c->out->app_name = keep(c, name);
    const char *description = mt_mf_text(c, &at, "description", &pos);
    if (description && characters(description) > 256)
        mt_mf_problem(c, MT_E_RANGE, pos, "app.description", "", "'description' has %zu characters, at most 256 are allowed",
                      characters(description));
    c->out->app_description = keep(c, description);
}

static void read_image(struct mt_mf *c, const struct mt_mf_at *root)
{
    static const struct mt_mf_hint hints[] = {
        {"pull_policy", MT_E_UNKNOWN_FIELD, "images run by digest, so there is no pull policy; remove the key"},
        {"name", MT_E_UNKNOWN_FIELD, "write ref = \"...\""},
        {"tag", MT_E_UNKNOWN_FIELD, "the tag is part of ref: \"host/repository:tag\""},
        {"digest", MT_E_UNKNOWN_FIELD, "the digest is part of ref: \"host/repository@sha256:...\""},
        {"build", MT_E_BUILD_UNSUPPORTED, "build and push the image yourself, then name it in ref"},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_mf_at at = mt_mf_table(c, root, "image");
    struct mt_toml_pos pos = {1, 1};
    struct mt_imageref parsed;
    struct mt_err err;

    mt_mf_known(c, &at, hints);
    bool needed = !c->image_given && !c->partial;
    if (needed && !mt_toml_find(root->table, "image"))
        mt_mf_problem(c, MT_E_REQUIRED, root->table->pos, "image.ref", "add [image] ref = \"...\" or pass --image", "'ref' is missing");
    const char *ref = mt_mf_text_if(c, &at, "ref", needed && at.table, &pos);
    if (!ref)
        return;
    const char *digest = strchr(ref, '@');
    if (digest && !mt_digest_valid(digest + 1))
        mt_mf_problem(c, MT_E_DIGEST, pos, "image.ref", "", "digest is not sha256: and 64 lower-case hexadecimal digits");
    else if (mt_imageref_parse(ref, &parsed, &err) < 0)
        mt_mf_problem(c, MT_E_PATTERN, pos, "image.ref", "write [host[:port]/]repository[:tag][@sha256:...]", "%s", err.msg);
    c->out->image_ref = keep(c, ref);
}

static uint64_t read_env(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o)
{
    struct mt_mf_at at = mt_mf_table(c, root, "env");
    struct mt_jout env = mt_jout_new();

    mt_mf_known(c, &at, NULL);
    mt_mf_surroundings(c, &at, &env, 30);
    json_t *json = mt_jout_take(&env);
    json_int_t timeout = json_integer_value(json_object_get(json, "prestart_timeout_seconds"));
    mt_jout_json(o, "env", json);
    return timeout > 0 ? (uint64_t)timeout : 30;
}

static int by_place(const void *a, const void *b)
{
    const struct mt_manifest_problem *x = a, *y = b;

    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    int r = strcmp(x->path, y->path);
    return r ? r : (int)x->code - (int)y->code;
}

/* Drop what only a good manifest may show. */
static void forget(struct mt_manifest *m)
{
    json_decref(m->canonical);
    m->canonical = NULL;
    free(m->app_name);
    free(m->app_description);
    free(m->image_ref);
    m->app_name = m->app_description = m->image_ref = NULL;
}

static int canonicalise(struct mt_manifest *m, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(CANONICAL_MAX);
    int rc = mt_json_dump_canonical(m->canonical, &b, err);

    if (rc < 0)
        return rc;
    memcpy(m->hash, "sha256:", 7);
    mt_sha256_hex(b.p, b.len, m->hash + 7);
    m->canonical_len = b.len;
    m->canonical_text = mt_buf_take(&b);
    return m->canonical_text ? 0 : MT_FAIL(err, MT_E_NOMEM, "out of memory");
}

static void check(struct mt_mf *c)
{
    struct mt_mf_at root = {.table = c->toml->root, .fields = mt_mf_root_fields};
    struct mt_jout o = mt_jout_new();

    for (size_t i = 0; i < c->toml->n_problems; i++)
        mt_mf_problem(c, MT_E_TOML_SYNTAX, c->toml->problems[i].pos, "", "", "%s", c->toml->problems[i].message);
    c->partial = c->toml->n_problems > 0;
    mt_mf_known(c, &root, root_hints);
    check_version(c, &root);
    mt_jout_str(&o, "schema_version", "v1");
    read_app(c, &root);
    read_image(c, &root);
    uint64_t prestart_timeout = read_env(c, &root, &o);
    mt_mf_processes(c, &root, &o, prestart_timeout);
    mt_mf_volumes(c, &root, &o);
    mt_mf_routes(c, &root, &o);
    if (c->out->n_errors)
        o.failed = true; /* no document of a bad manifest, which also has holes */
    c->out->canonical = mt_jout_take(&o);
    if (!c->out->canonical && c->out->n_errors == 0)
        c->nomem = true;
}

int mt_manifest_parse(const char *text, size_t len, const struct mt_manifest_options *options, struct mt_manifest **ret,
                      struct mt_err *err)
{
    mt_auto_manifest struct mt_manifest *m = calloc(1, sizeof *m);
    mt_auto_toml struct mt_toml *toml = NULL;
    struct mt_mf c = {.out = m};

    if (!m)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    m->problems = calloc(MT_MANIFEST_PROBLEMS_MAX, sizeof *m->problems);
    if (!m->problems)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (options) {
        c.image_given = options->image_given;
        c.max_memory_bytes = options->max_memory_bytes;
    }
    if (len > MT_MANIFEST_BYTES_MAX) {
        mt_mf_problem(&c, MT_E_TOO_LARGE, (struct mt_toml_pos){1, 1}, "", "", "the manifest has %zu bytes, at most %u are allowed",
                      len, MT_MANIFEST_BYTES_MAX);
        *ret = MT_TAKE(m);
        return 0;
    }
    int rc = options && options->json ? mt_toml_from_json(text, len, &toml, err) : mt_toml_parse(text, len, &toml, err);
    if (rc < 0)
        return rc;
    c.toml = toml;
    check(&c);
    if (c.nomem)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    qsort(m->problems, m->n_problems, sizeof *m->problems, by_place);
    if (m->n_errors)
        forget(m);
    else if ((rc = canonicalise(m, err)) < 0)
        return rc;
    *ret = MT_TAKE(m);
    return 0;
}

void mt_manifest_free(struct mt_manifest *m)
{
    if (!m)
        return;
    forget(m);
    free(m->canonical_text);
    free(m->problems);
    free(m);
}

json_t *mt_manifest_problems_json(const struct mt_manifest *m, bool warnings)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < m->n_problems; i++) {
        const struct mt_manifest_problem *p = &m->problems[i];
        if (!warnings && mt_manifest_code_is_warning(p->code))
            continue;
        struct mt_jout o = mt_jout_new();
        mt_jout_str(&o, "code", mt_manifest_code_name(p->code));
        mt_jout_str(&o, "path", p->path);
        mt_jout_u64(&o, "line", p->line);
        mt_jout_u64(&o, "column", p->column);
        mt_jout_str(&o, "message", p->message);
        mt_jout_str(&o, "hint", p->hint);
        json_t *item = mt_jout_take(&o);
        if (!item || json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}
