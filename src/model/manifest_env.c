/* SPDX-License-Identifier: Apache-2.0 */
/* The keys that `env` and each process share: vars, workdir, user, prestart. */
#include "model/manifest_ctx.h"

#include "model/names.h"

#include "base/str.h"

static bool secret_like(const char *key)
{
    return strstr(key, "SECRET") || strstr(key, "TOKEN") || strstr(key, "PASSWORD") || strstr(key, "PRIVATE_KEY");
}

static json_t *vars(struct mt_mf *c, const struct mt_mf_at *at)
{
    struct mt_mf_at t = mt_mf_table(c, at, "vars");
    struct mt_jout o = mt_jout_new();
    size_t max = (size_t)mt_mf_field(at->fields, "vars")->max;

    if (t.table && t.table->table.n > max) {
        mt_mf_problem(c, MT_E_TOO_LARGE, t.table->pos, t.path, "", "'vars' has %zu keys, at most %zu are allowed",
                      t.table->table.n, max);
        t.table = NULL;
    }
    for (size_t i = 0; t.table && i < t.table->table.n; i++) {
        const struct mt_toml_entry *e = &t.table->table.v[i];
        char path[MT_MF_PATH], shown[80];
        mt_printable(e->key, e->key_len, shown, sizeof shown);
        mt_mf_path(path, t.path, shown);
        if (!mt_var_key_valid(e->key, e->key_len)) {
            mt_mf_problem(c, MT_E_PATTERN, e->pos, path, "", "variable '%s' is not 1 to 128 of A-Z, 0-9 and _, not starting with "
                          "a digit", shown);
            continue;
        }
        if (mt_starts_with(e->key, "MOAT_")) {
            mt_mf_problem(c, MT_E_RESERVED_VAR, e->pos, path, "choose another name; MOAT_ variables are set by the platform",
                          "variable '%s' is reserved", shown);
            continue;
        }
        if (e->value->type != MT_TOML_STRING) {
            mt_mf_problem(c, MT_E_TYPE, e->value->pos, path, "put the value in double quotes",
                          "variable '%s' must be a string, not %s", shown, mt_toml_type_name(e->value->type));
            continue;
        }
        if (strlen(e->value->string.s) != e->value->string.len) {
            mt_mf_problem(c, MT_E_PATTERN, e->value->pos, path, "", "variable '%s' must not hold a NUL", shown);
            continue;
        }
        if (e->value->string.len > 8192) {
            mt_mf_problem(c, MT_E_RANGE, e->value->pos, path, "", "variable '%s' has %zu bytes, at most 8192 are allowed", shown,
                          e->value->string.len);
            continue;
        }
        if (secret_like(e->key))
            mt_mf_problem(c, MT_W_SECRET_LIKE_VAR, e->pos, path, "keep secrets in the environment's secrets file",
                          "variable '%s' looks like a secret; a manifest is readable by everyone in the organisation", shown);
        mt_jout_str(&o, e->key, e->value->string.s);
    }
    return mt_jout_take(&o);
}

/* uid[:gid] or name[:group] */
static bool user_valid(const char *s)
{
    size_t parts = 0;

    for (;;) {
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
        if (n == 0 || n > 64 || *s == '-' || *s == '.')
            return false;
        size_t digits = strspn(s, "0123456789");
        if (digits > 0 && (digits != n || n > 10))
            return false; /* a number, or a name that does not start with a digit */
        s += n;
        if (*s == '\0')
            return true;
        if (*s != ':' || ++parts > 1)
            return false;
        s++;
    }
}

void mt_mf_surroundings(struct mt_mf *c, const struct mt_mf_at *at, struct mt_jout *o, uint64_t prestart_timeout_default)
{
    struct mt_toml_pos pos;
    char path[MT_MF_PATH];

    mt_jout_json(o, "vars", vars(c, at));
    const char *workdir = mt_mf_text(c, at, "workdir", &pos);
    if (workdir && workdir[0] != '/') {
        mt_mf_path(path, at->path, "workdir");
        mt_mf_problem(c, MT_E_PATTERN, pos, path, "start it with '/'", "'workdir' is not absolute");
    }
    mt_jout_str(o, "workdir", workdir);
    const char *user = mt_mf_text(c, at, "user", &pos);
    if (user && !user_valid(user)) {
        mt_mf_path(path, at->path, "user");
        mt_mf_problem(c, MT_E_PATTERN, pos, path, "write \"1000\", \"1000:1000\" or a name of the image's passwd file",
                      "'user' is neither a number, uid:gid nor a name");
    }
    mt_jout_str(o, "user", user);
    json_t *prestart = mt_mf_argv(c, at, "prestart");
    if (prestart)
        mt_jout_json(o, "prestart", prestart);
    mt_jout_u64(o, "prestart_timeout_seconds", mt_mf_int_or(c, at, "prestart_timeout_seconds", prestart_timeout_default));
}
