/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and changing the configuration file. Changes are made line by line, so that what a person wrote around them stays. */
#include "cli/config.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/toml.h"

#include <sys/stat.h>
#include <unistd.h>

/* The platform of this machine: that of the packages (a configuration file of moat-control), else that of `moat up`. */
static const char *const platform_files[] = {"/etc/moat/cli.toml", "/var/lib/moat/etc/cli.toml"};
enum { CONFIG_MAX = 64 * 1024, VALUE_MAX = 4000 };

static const struct {
    const char *key;
    size_t offset; /* of a char * */
} text_keys[] = {
    {"api", offsetof(struct cli_conf, api)},           {"token_file", offsetof(struct cli_conf, token_file)},
    {"org", offsetof(struct cli_conf, org)},           {"project", offsetof(struct cli_conf, project)},
    {"app", offsetof(struct cli_conf, app)},           {"env", offsetof(struct cli_conf, env)},
    {"data_dir", offsetof(struct cli_conf, data_dir)}, {"ca_file", offsetof(struct cli_conf, ca_file)},
    {"pin", offsetof(struct cli_conf, pin)},
};
static const char *const key_names[] = {"api", "token_file", "ca_file", "pin", "org", "project", "app", "env", "data_dir", "tls_port", "profiles", NULL};

static char **text_of(struct cli_conf *conf, size_t i)
{
    return (char **)(void *)((char *)conf + text_keys[i].offset);
}

void cli_conf_done(struct cli_conf *conf)
{
    for (size_t i = 0; i < MT_ARRAY_LEN(text_keys); i++)
        free(*text_of(conf, i));
    *conf = (struct cli_conf){0};
}

char *cli_conf_path(void)
{
    const char *given = getenv("MOAT_CONFIG"), *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (given && *given)
        return strdup(given);
    if (xdg && *xdg)
        return mt_asprintf("%s/moat/config.toml", xdg);
    return mt_asprintf("%s/.config/moat/config.toml", home && *home ? home : "");
}

static int bad(struct cli *c, const char *path, struct mt_toml_pos pos, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static int bad(struct cli *c, const char *path, struct mt_toml_pos pos, const char *fmt, ...)
{
    char text[200], what[400];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(what, sizeof what, "%.150s:%u:%u: %s", path, pos.line, pos.column, text);
    return cli_error(c, CLI_USAGE, what, "moat help context");
}

/* One table of the file into @conf; what is set already stays. */
static int take_table(struct cli *c, const char *path, const struct mt_toml_value *t, bool top, struct cli_conf *conf)
{
    for (size_t i = 0; i < t->table.n; i++) {
        const struct mt_toml_entry *e = &t->table.v[i];
        char shown[64];
        size_t k = 0;
        if (top && MT_STREQ(e->key, "profiles"))
            continue;
        if (MT_STREQ(e->key, "tls_port")) {
            if (e->value->type != MT_TOML_INTEGER || e->value->integer < 0 || e->value->integer > 65535)
                return bad(c, path, e->value->pos, "'tls_port' must be a port, 0 to 65535");
            if (!conf->tls_port)
                conf->tls_port = (uint64_t)e->value->integer;
            continue;
        }
        while (k < MT_ARRAY_LEN(text_keys) && !MT_STREQ(text_keys[k].key, e->key))
            k++;
        if (k == MT_ARRAY_LEN(text_keys)) {
            const char *near = mt_nearest(e->key, key_names);
            mt_printable(e->key, e->key_len, shown, sizeof shown);
            return near ? bad(c, path, e->pos, "unknown key '%s', did you mean '%s'?", shown, near) : bad(c, path, e->pos, "unknown key '%s'", shown);
        }
        if (e->value->type != MT_TOML_STRING || e->value->string.len == 0 || e->value->string.len > VALUE_MAX ||
            strlen(e->value->string.s) != e->value->string.len)
            return bad(c, path, e->value->pos, "'%s' must be a text of 1 to %d bytes", e->key, VALUE_MAX);
        if (!*text_of(conf, k))
            *text_of(conf, k) = strdup(e->value->string.s);
    }
    return CLI_OK;
}

/* The profile's table, or NULL with the error printed. */
static const struct mt_toml_value *profile_of(struct cli *c, const char *path, const struct mt_toml_value *root, const char *name)
{
    const struct mt_toml_entry *all = mt_toml_find(root, "profiles"), *e = NULL;
    const char *names[33];
    size_t n = 0;

    if (all && all->value->type == MT_TOML_TABLE) {
        e = mt_toml_find(all->value, name);
        for (; n < all->value->table.n && n < 32; n++)
            names[n] = all->value->table.v[n].key;
    }
    names[n] = NULL;
    if (e && e->value->type == MT_TOML_TABLE)
        return e->value;
    const char *near = mt_nearest(name, names);
    char what[300], hint[120];
    (void)snprintf(what, sizeof what, "there is no profile '%.60s' in %.150s", name, path);
    (void)snprintf(hint, sizeof hint, near ? "did you mean --profile %.60s?" : "moat context set --profile %.60s --api URL makes it", near ? near : name);
    (void)cli_error(c, CLI_USAGE, what, hint);
    return NULL;
}

/* Others who may write the file could send our token anywhere. */
static int check_owner(struct cli *c, const char *path)
{
    struct stat st;
    char what[300];

    if (stat(path, &st) != 0 || ((st.st_mode & (S_IWGRP | S_IWOTH)) == 0 && (st.st_uid == geteuid() || st.st_uid == 0)))
        return CLI_OK;
    (void)snprintf(what, sizeof what, "%.200s can be written by others", path);
    return cli_error(c, CLI_USAGE, what, "chmod go-w it, and let it belong to you");
}

/* 1: there is no such file. */
static int read_file(struct cli *c, const char *path, char **ret_text, size_t *ret_len, struct mt_toml **ret)
{
    struct mt_err err;
    int rc = mt_file_read(path, CONFIG_MAX, ret_text, ret_len, &err);

    if (rc == -MT_E_NOT_FOUND)
        return -1;
    if (rc < 0)
        return cli_error(c, CLI_USAGE, err.msg, "MOAT_CONFIG names the configuration file");
    if (mt_toml_parse(*ret_text, *ret_len, ret, &err) < 0)
        return cli_fail(c, &err, NULL);
    return (*ret)->n_problems ? bad(c, path, (*ret)->problems[0].pos, "%s", (*ret)->problems[0].message) : CLI_OK;
}

static const char *profile_name(const struct cli *c)
{
    const char *p = cli_opt(c, "profile");

    return p ? p : getenv("MOAT_PROFILE");
}

/* -1: there is no such file; else an exit code. */
static int load_one(struct cli *c, const char *path, const char *profile, struct cli_conf *conf)
{
    mt_auto_free char *text = NULL;
    mt_auto_toml struct mt_toml *toml = NULL;
    size_t len;
    int code = read_file(c, path, &text, &len, &toml);

    if (code != CLI_OK || (code = check_owner(c, path)) != CLI_OK)
        return code;
    if (!profile || !*profile)
        return take_table(c, path, toml->root, true, conf);
    const struct mt_toml_value *t = profile_of(c, path, toml->root, profile);
    return t ? take_table(c, path, t, false, conf) : CLI_USAGE;
}

int cli_conf_load(struct cli *c, struct cli_conf *ret)
{
    mt_auto_free char *path = cli_conf_path();
    const char *given = getenv("MOAT_CONFIG"), *profile = profile_name(c);
    struct cli_conf conf = {0}, platform = {0};

    if (!path)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    int code = load_one(c, path, profile, &conf);
    if (code == -1 && given && *given) {
        char what[300];
        (void)snprintf(what, sizeof what, "open '%.200s': there is no such file", path);
        code = cli_error(c, CLI_USAGE, what, "MOAT_CONFIG names the configuration file");
    } else if (code == -1 && profile && *profile) {
        code = profile_of(c, path, &(const struct mt_toml_value){.type = MT_TOML_TABLE}, profile) ? CLI_OK : CLI_USAGE;
    } else if (code == -1) {
        code = CLI_OK;
    }
    /* a platform of its own has its own token, ports and names */
    bool here = code == CLI_OK && !conf.api && !(given && *given);
    code = here ? -1 : code;
    for (size_t i = 0; here && code == -1 && i < MT_ARRAY_LEN(platform_files); i++)
        code = load_one(c, platform_files[i], NULL, &platform);
    if (here && code == CLI_OK) {
        for (size_t i = 0; i < MT_ARRAY_LEN(text_keys); i++)
            if (!*text_of(&conf, i)) {
                *text_of(&conf, i) = *text_of(&platform, i);
                *text_of(&platform, i) = NULL;
            }
        conf.tls_port = conf.tls_port ? conf.tls_port : platform.tls_port;
    }
    cli_conf_done(&platform);
    code = code == -1 ? CLI_OK : code;
    if (code == CLI_OK)
        *ret = conf;
    else
        cli_conf_done(&conf);
    return code;
}

/* ---- changing ---- */

struct edit {
    struct mt_buf out;
    const char *text, *end;
    const struct mt_toml_value *table; /* the section that is changed; NULL: it is not there yet */
};

static const struct cli_conf_change *change_at(const struct edit *e, uint32_t line, const struct cli_conf_change *changes, size_t n)
{
    for (size_t i = 0; e->table && i < n; i++) {
        const struct mt_toml_entry *entry = mt_toml_find(e->table, changes[i].key);
        if (entry && entry->pos.line == line)
            return &changes[i];
    }
    return NULL;
}

static void put_change(struct edit *e, const struct cli_conf_change *ch)
{
    if (!ch->value)
        return;
    mt_buf_printf(&e->out, "%s = ", ch->key);
    mt_buf_put_json_str(&e->out, ch->value, strlen(ch->value)); /* a JSON string is a basic string of TOML */
    mt_buf_putc(&e->out, '\n');
}

static void put_new(struct edit *e, const struct cli_conf_change *changes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!e->table || !mt_toml_find(e->table, changes[i].key))
            put_change(e, &changes[i]);
}

/* All lines again, those of changed keys in their new form; new keys come first in their section. */
static void rewrite(struct edit *e, bool top, const char *profile, const struct cli_conf_change *changes, size_t n)
{
    uint32_t line = 1, header = top || !e->table ? 0 : e->table->pos.line;

    if (top)
        put_new(e, changes, n);
    for (const char *p = e->text; p < e->end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(e->end - p)), *next = nl ? nl + 1 : e->end;
        const struct cli_conf_change *ch = change_at(e, line, changes, n);
        if (ch)
            put_change(e, ch);
        else
            mt_buf_put(&e->out, p, (size_t)(next - p));
        if (!nl)
            mt_buf_putc(&e->out, '\n');
        if (header && line == header)
            put_new(e, changes, n);
        p = next;
    }
    if (!top && !e->table) {
        mt_buf_printf(&e->out, "%s[profiles.%s]\n", e->out.len ? "\n" : "", profile);
        put_new(e, changes, n);
    }
}

static int write_private(struct cli *c, const char *path, struct mt_buf *out)
{
    struct mt_err err;
    mt_auto_free char *folder = mt_strndup(path, (size_t)(strrchr(path, '/') ? strrchr(path, '/') - path : 0));

    if (!folder)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if ((*folder && mt_file_mkdirs(folder, 0700, &err) < 0) || mt_file_write(path, mt_buf_cstr(out), out->len, 0600, &err) < 0)
        return cli_fail(c, &err, NULL);
    return CLI_OK;
}

int cli_conf_change(struct cli *c, const struct cli_conf_change *changes, size_t n, char **ret_path)
{
    mt_auto_free char *path = cli_conf_path(), *text = NULL;
    mt_auto_toml struct mt_toml *toml = NULL, *after = NULL;
    const char *profile = profile_name(c);
    bool top = !profile || !*profile;
    size_t len = 0;
    struct mt_err err;
    struct edit e = {.out = MT_BUF_INIT(2 * CONFIG_MAX)};

    if (!path)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (!top && (strlen(profile) > 64 || strspn(profile, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != strlen(profile)))
        return cli_usage(c, "--profile: at most 64 letters, digits, '_', '-'");
    int code = read_file(c, path, &text, &len, &toml);
    if (code > CLI_OK)
        return code;
    e.text = text ? text : "";
    e.end = e.text + len;
    const struct mt_toml_entry *all = toml ? mt_toml_find(toml->root, "profiles") : NULL;
    const struct mt_toml_entry *one = all && !top && all->value->type == MT_TOML_TABLE ? mt_toml_find(all->value, profile) : NULL;
    e.table = top ? (toml ? toml->root : NULL) : one && one->value->type == MT_TOML_TABLE ? one->value : NULL;
    rewrite(&e, top, profile, changes, n);
    /* a value over several lines, or a section written with dots, would not survive this: then nothing is written */
    if (mt_buf_check(&e.out, &err) < 0 || mt_toml_parse(mt_buf_cstr(&e.out), e.out.len, &after, &err) < 0)
        code = cli_fail(c, &err, NULL);
    else if (after->n_problems)
        code = cli_error(c, CLI_CONFLICT, "the configuration file is written in a way this command cannot change", "edit it by hand");
    else
        code = write_private(c, path, &e.out);
    mt_buf_done(&e.out);
    if (code == CLI_OK && ret_path)
        *ret_path = MT_TAKE(path);
    return code;
}
