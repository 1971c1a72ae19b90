/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets of an environment: values go in from stdin, a file or a prompt, and never come out. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/dotenv.h"
#include "os/lockmem.h"

#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

/* ---------------------------------------------------------------- looking */

int cmd_secrets_list(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *m = NULL, *rows = json_array();
    mt_auto_free char *path = cli_env_path(c, "/secrets");
    if ((code = cli_call(c, "GET", path, NULL, &m)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Secrets", m);
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(m, "key_names"), i, name)
        (void)json_array_append_new(rows, json_pack("{s:O}", "key", name));
    static const struct cli_column cols[] = {{"KEY", "key"}};
    if (MT_STREQ(cli_str(m, "config_gate"), "confirmed_none"))
        cli_say(c, "the environment needs no secrets, and says so");
    return cli_print_table(c, rows, cols, MT_ARRAY_LEN(cols), "secrets");
}

int cmd_secrets_history(struct cli *c)
{
    static const struct cli_column cols[] = {{"VERSION", "version_number"}, {"ID", "id"},         {"CURRENT", "current"}, {"SOURCE", "source"},
                                             {"KEYS", "key_names"},         {"CREATED", "created_at"}, {"BY", "created_by"}, {"CONTENT", "material_state"}};
    int code = cli_need_env(c);
    return code != CLI_OK ? code : cli_show_list(c, cli_env_path(c, "/secrets/versions?order=desc"), cols, MT_ARRAY_LEN(cols), "versions");
}

int cmd_secrets_status(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *m = NULL;
    mt_auto_free char *path = cli_env_path(c, "/secrets");
    if ((code = cli_call(c, "GET", path, NULL, &m)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Secrets", m);
    if (!*cli_str(m, "version_id"))
        cli_say(c, "no secrets are set");
    else
        cli_say(c, "version %lld (%s), %lld keys, by %s", (long long)cli_int(m, "version_number"), cli_str(m, "version_id"),
                (long long)cli_int(m, "key_count"), cli_str(m, "updated_by"));
    static const struct cli_column cols[] = {{"PROCESS", "process_type"}, {"ON IT", "instances_on_current"}, {"RUNNING", "instances_total"}};
    return cli_print_table(c, json_object_get(m, "delivery"), cols, MT_ARRAY_LEN(cols), "instances");
}

/* ---------------------------------------------------------------- values */

/* All of @fd into locked memory; one byte more than is allowed tells that there is too much. */
static int read_fd(struct cli *c, int fd, const char *name, size_t max, struct mt_lockmem *ret)
{
    struct mt_err err;
    char what[160];
    if (mt_lockmem_new(ret, max + 1, &err) < 0)
        return cli_fail(c, &err, NULL);
    while (ret->len <= max) {
        ssize_t n = read(fd, ret->p + ret->len, ret->cap - ret->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            (void)MT_FAIL_ERRNO(&err, MT_E_IO, "read '%s'", name);
            return cli_fail(c, &err, NULL);
        }
        if (n == 0)
            return CLI_OK;
        ret->len += (size_t)n;
    }
    (void)snprintf(what, sizeof what, "'%.80s' has more than %zu bytes", name, max);
    return cli_error(c, CLI_USAGE, what, NULL);
}

static int read_path(struct cli *c, const char *path, size_t max, struct mt_lockmem *ret)
{
    struct mt_err err;
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        (void)MT_FAIL_ERRNO(&err, MT_E_IO, "open '%s'", path);
        return cli_fail(c, &err, NULL);
    }
    return read_fd(c, fd, path, max, ret);
}

/* Typed on the terminal, unseen. */
static int read_typed(struct cli *c, const char *key, const char *else_how, size_t max, struct mt_lockmem *ret)
{
    struct mt_err err;
    struct termios was, hidden;
    mt_auto_fd int tty = cli_no_input(c) || c->json ? -1 : open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (tty < 0 || tcgetattr(tty, &was) < 0)
        return cli_usage(c, "no value for %s: %s", key, else_how);
    if (mt_lockmem_new(ret, max, &err) < 0)
        return cli_fail(c, &err, NULL);
    hidden = was;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    (void)dprintf(tty, "%s: ", key);
    (void)tcsetattr(tty, TCSAFLUSH, &hidden);
    ssize_t n = read(tty, ret->p, ret->cap);
    (void)tcsetattr(tty, TCSAFLUSH, &was);
    (void)dprintf(tty, "\n");
    if (n <= 0 || ret->p[n - 1] != '\n')
        return cli_error(c, CLI_USAGE, "no line was typed", NULL);
    ret->len = (size_t)n - 1;
    return CLI_OK;
}

static int read_prompt(struct cli *c, const char *key, struct mt_lockmem *ret)
{
    char how[400];
    (void)snprintf(how, sizeof how, "write %.128s=- (stdin) or %.128s=@FILE", key, key);
    return read_typed(c, key, how, MT_SECRETFILE_VALUE_MAX, ret);
}

int cli_read_hidden(struct cli *c, bool from_stdin, const char *what, const char *flag, size_t max, struct mt_lockmem *ret)
{
    char how[80];
    (void)snprintf(how, sizeof how, "use %.40s", flag);
    return from_stdin ? read_fd(c, STDIN_FILENO, "stdin", max, ret) : read_typed(c, what, how, max, ret);
}

static int put_value(struct cli *c, json_t *set, const char *key, const void *value, size_t n)
{
    char *text = malloc(MT_B64_SIZE(n));
    if (!text)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    size_t len = mt_b64_encode(value, n, text);
    bool there = json_object_get(set, key) != NULL;
    (void)json_object_set_new(set, key, json_stringn(text, len));
    explicit_bzero(text, len);
    free(text);
    return there ? cli_usage(c, "%s is given twice", key) : CLI_OK;
}

/* One argument of set: K=V, K=-, K=@FILE, or K alone. Nothing of a value gets into a message. */
static int take_argument(struct cli *c, char *arg, json_t *set, bool *stdin_used, bool *ret_shown)
{
    mt_auto_lockmem struct mt_lockmem m = {0};
    enum mt_secretfile_fault fault;
    struct mt_err err;
    char *eq = strchr(arg, '=');
    const char *value = eq ? eq + 1 : NULL;
    char key[MT_SECRETFILE_KEY_MAX + 2];
    size_t n = eq ? (size_t)(eq - arg) : strlen(arg);
    (void)snprintf(key, sizeof key, "%.*s", (int)(n < sizeof key ? n : sizeof key - 1), arg);
    if (mt_secretfile_key_check(key, &fault, &err) < 0)
        return cli_usage(c, "%s", err.msg);
    if (value && *value != '-' && *value != '@') {
        *ret_shown = true;
        int code = put_value(c, set, key, value, strlen(value));
        explicit_bzero(eq + 1, strlen(eq + 1)); /* the process list shows it no longer */
        return code;
    }
    int code;
    if (!value) {
        code = read_prompt(c, key, &m);
    } else if (MT_STREQ(value, "-")) {
        if (*stdin_used)
            return cli_usage(c, "stdin can be the value of one key");
        *stdin_used = true;
        code = read_fd(c, STDIN_FILENO, "stdin", MT_SECRETFILE_VALUE_MAX + 1, &m);
        if (code == CLI_OK && m.len && m.p[m.len - 1] == '\n')
            m.len--; /* what echo and a keyboard add */
    } else if (*value == '@') {
        code = read_path(c, value + 1, MT_SECRETFILE_VALUE_MAX, &m);
    } else {
        return cli_usage(c, "%s: a value that begins with '-' goes in by stdin (%s=-) or a file (%s=@FILE)", key, key, key);
    }
    return code != CLI_OK ? code : put_value(c, set, key, m.p, m.len);
}

/* ---------------------------------------------------------------- changing */

/* True when every process runs as many ready instances as it shall, all of them with the version that is wanted now. */
static bool rolled(const json_t *secrets, const json_t *status, const char **ret_held)
{
    bool all = true;
    size_t i;
    json_t *p;
    *ret_held = NULL;
    json_array_foreach(json_object_get(secrets, "delivery"), i, p) all &= cli_int(p, "instances_on_current") == cli_int(p, "instances_total");
    json_array_foreach(json_object_get(status, "processes"), i, p)
    {
        all &= cli_int(p, "old") == 0 && cli_int(p, "starting") == 0 && cli_int(p, "ready") == cli_int(p, "desired");
        if (MT_STREQ(cli_str(p, "sched_condition"), "held"))
            *ret_held = cli_str(p, "process_type");
    }
    return all;
}

/* Wait until version @number has been rolled to every instance. */
static int wait_rolled(struct cli *c, int64_t number)
{
    int64_t began = mt_clock_mono(), deadline = began + c->wait_ms * MT_NS_PER_MS, held_since = 0;
    mt_auto_free char *secrets = cli_env_path(c, "/secrets"), *status = cli_env_path(c, "/status");
    char shown[80] = "", now[80], what[160];
    const char *held;
    cli_catch_interrupt(c, "the rollout", "moat secrets status");
    for (;;) {
        mt_auto_json json_t *s = NULL, *st = NULL;
        size_t i;
        json_t *p;
        int64_t on = 0, total = 0;
        int code = cli_call(c, "GET", secrets, NULL, &s);
        if (code != CLI_OK || (code = cli_call(c, "GET", status, NULL, &st)) != CLI_OK)
            return code;
        if (cli_int(s, "version_number") != number) {
            (void)snprintf(what, sizeof what, "version %lld took over", (long long)cli_int(s, "version_number"));
            return cli_error(c, CLI_NOT_CONVERGED, what, "moat secrets status");
        }
        json_array_foreach(json_object_get(s, "delivery"), i, p)
        {
            on += cli_int(p, "instances_on_current");
            total += cli_int(p, "instances_total");
        }
        (void)snprintf(now, sizeof now, "%lld of %lld instances on version %lld", (long long)on, (long long)total, (long long)number);
        if (!MT_STREQ(now, shown))
            cli_say(c, "  %6.2f s  %s", (double)(mt_clock_mono() - began) / 1e9, now);
        memcpy(shown, now, sizeof shown);
        if (rolled(s, st, &held))
            return CLI_OK;
        held_since = !held ? 0 : held_since ? held_since : mt_clock_mono();
        if (held && mt_clock_mono() - held_since > 3 * MT_NS_PER_S) { /* at first it may be the word on the version before */
            (void)snprintf(what, sizeof what, "process '%.60s' does not become ready with version %lld", held, (long long)number);
            return cli_error(c, CLI_NOT_CONVERGED, what, "the version before still serves; moat secrets rollback, moat status");
        }
        if (mt_clock_mono() >= deadline)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; the rollout goes on", "moat secrets status");
        (void)usleep(300000);
    }
}

static int send_change(struct cli *c, const char *method, const char *suffix, const json_t *body)
{
    mt_auto_json json_t *r = NULL;
    mt_auto_free char *path = cli_env_path(c, "%s", suffix);
    int code = cli_call(c, method, path, body, &r);
    if (code != CLI_OK)
        return code;
    if (json_is_true(json_object_get(r, "unchanged")))
        cli_say(c, "nothing changed: version %lld goes on", (long long)cli_int(r, "version_number"));
    (void)json_object_set_new(r, "id", json_string(cli_str(r, "version_id")));
    if (cli_wants_wait(c) && (code = wait_rolled(c, cli_int(r, "version_number"))) != CLI_OK)
        return code;
    return cli_receipt(c, "secrets", r);
}

int cmd_secrets_set(struct cli *c)
{
    bool stdin_used = false, shown = false;
    mt_process_hide();
    mt_auto_json json_t *body = json_pack("{s:{}}", "set_base64");
    json_t *set = json_object_get(body, "set_base64");
    int code = CLI_OK;
    for (int i = 0; i < c->argc && code == CLI_OK; i++)
        code = take_argument(c, c->argv[i], set, &stdin_used, &shown);
    if (code == CLI_OK && shown)
        cli_say(c, "warning: a value on the command line stays in the shell's history; KEY=- reads stdin, KEY=@FILE a file, KEY asks");
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    cli_say_target(c, "setting secrets of");
    return send_change(c, "PATCH", "/secrets", body);
}

int cmd_secrets_unset(struct cli *c)
{
    mt_auto_json json_t *body = json_pack("{s:[]}", "unset");
    for (int i = 0; i < c->argc; i++) {
        enum mt_secretfile_fault fault;
        struct mt_err err;
        if (mt_secretfile_key_check(c->argv[i], &fault, &err) < 0)
            return cli_usage(c, "%s", err.msg);
        (void)json_array_append_new(json_object_get(body, "unset"), json_string(c->argv[i]));
    }
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    cli_say_target(c, "unsetting secrets of");
    return send_change(c, "PATCH", "/secrets", body);
}

/* Read and check a secrets file, or a .env of other tools; entries point into @mem. */
static int read_file(struct cli *c, const char *path, struct mt_lockmem *text, struct mt_lockmem *mem, struct mt_secretfile *f)
{
    struct mt_err err;
    int code = MT_STREQ(path, "-") ? read_fd(c, STDIN_FILENO, "stdin", MT_SECRETFILE_INPUT_MAX, text)
                                   : read_path(c, path, MT_SECRETFILE_INPUT_MAX, text);
    if (code != CLI_OK)
        return code;
    if (mt_lockmem_new(mem, text->len + 1, &err) < 0)
        return cli_fail(c, &err, NULL);
    bool own = mt_dotenv_is_secretfile(text->p, text->len);
    if ((own ? mt_secretfile_read : mt_dotenv_read)(text->p, text->len, mem->p, f, &err) < 0)
        return cli_usage(c, "%s: %s", cli_file_name(path), err.msg);
    return CLI_OK;
}

int cmd_secrets_import(struct cli *c)
{
    static struct mt_secretfile f;
    mt_auto_lockmem struct mt_lockmem text = {0}, mem = {0};
    mt_process_hide();
    bool replace = cli_has(c, "replace") || MT_STREQ(c->command->name, "secrets replace");
    const char *member = replace ? "values_base64" : "set_base64";
    mt_auto_json json_t *body = json_pack("{s:{}}", member), *now = NULL;
    int code = read_file(c, c->argv[0], &text, &mem, &f);
    for (size_t i = 0; i < f.n && code == CLI_OK; i++)
        code = put_value(c, json_object_get(body, member), f.entries[i].key, f.entries[i].value, f.entries[i].len);
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    cli_say_target(c, replace ? "replacing all secrets of" : "setting secrets of");
    if (!replace)
        return send_change(c, "PATCH", "/secrets", body);
    mt_auto_free char *path = cli_env_path(c, "/secrets");
    if ((code = cli_call(c, "GET", path, NULL, &now)) != CLI_OK)
        return code;
    (void)json_object_set_new(body, "expected_version", json_integer((json_int_t)cli_int(now, "resource_version")));
    return send_change(c, "PUT", "/secrets", body);
}

int cmd_secrets_confirm_none(struct cli *c)
{
    mt_auto_json json_t *body = json_object();
    int code = cli_need_env(c);
    return code != CLI_OK ? code : send_change(c, "POST", "/secrets/confirm-none", body);
}

int cmd_secrets_confirm(struct cli *c)
{
    return cli_has(c, "none") ? cmd_secrets_confirm_none(c) : cli_usage(c, "all that can be confirmed is --none: that the environment needs no secrets");
}

int cli_pass_gate(struct cli *c, bool confirm)
{
    mt_auto_json json_t *env = NULL, *body = json_object(), *r = NULL;
    char what[200], pinned[sizeof c->idempotency_key];
    int code;
    if (!*c->env_gate) { /* named by its id, or found without being made */
        mt_auto_free char *path = cli_env_path(c, "%s", "");
        if ((code = cli_call(c, "GET", path, NULL, &env)) != CLI_OK)
            return code;
        (void)snprintf(c->env_gate, sizeof c->env_gate, "%s", cli_str(env, "config_gate"));
    }
    if (!MT_STREQ(c->env_gate, "unset")) {
        if (confirm && MT_STREQ(c->env_gate, "set"))
            cli_say(c, "environment %s has secrets: there is nothing to confirm", c->env);
        return CLI_OK; /* a server without the word decides by itself */
    }
    if (!confirm) {
        (void)snprintf(what, sizeof what, "environment '%.60s' has no secrets, and nobody has said that it needs none", c->env);
        return cli_error(c, CLI_CONFLICT, what, "moat secrets set KEY=- gives it some, --confirm-no-secrets says that it needs none");
    }
    if (cli_has(c, "dry-run"))
        return cli_usage(c, "a dry run confirms nothing: run 'moat secrets confirm-none' before it");
    memcpy(pinned, c->idempotency_key, sizeof pinned);
    *c->idempotency_key = '\0'; /* it belongs to the release or deploy */
    mt_auto_free char *path = cli_env_path(c, "/secrets/confirm-none");
    code = cli_call(c, "POST", path, body, &r);
    memcpy(c->idempotency_key, pinned, sizeof pinned);
    if (code == CLI_OK)
        cli_say(c, "%s✓%s confirmed: %s needs no secrets", cli_color(c, "green"), cli_color(c, "reset"), c->env);
    return code;
}

int cmd_secrets_rollback(struct cli *c)
{
    mt_auto_json json_t *body = json_object(), *items = NULL;
    char id[40] = "", suffix[100];
    int code = cli_need_env(c);
    if (code == CLI_OK && c->argc)
        code = cli_check_id(c, c->argv[0], "sv_", "moat secrets history");
    if (code != CLI_OK)
        return code;
    if (c->argc) {
        (void)snprintf(id, sizeof id, "%s", c->argv[0]);
    } else {
        size_t i;
        json_t *v;
        mt_auto_free char *path = cli_env_path(c, "/secrets/versions?order=asc");
        if ((code = cli_list(c, path, &items)) != CLI_OK)
            return code;
        json_array_foreach(items, i, v)
            if (!json_is_true(json_object_get(v, "current")) && MT_STREQ(cli_str(v, "material_state"), "present"))
                (void)snprintf(id, sizeof id, "%s", cli_str(v, "id"));
        if (!*id)
            return cli_error(c, CLI_CONFLICT, "there is no older version to go back to", "moat secrets history");
    }
    cli_say_target(c, "going back to older secrets of");
    (void)snprintf(suffix, sizeof suffix, "/secrets/versions/%s/activate", id);
    return send_change(c, "POST", suffix, body);
}

/* ---------------------------------------------------------------- rendering */

/* Not by stdio: its buffer is not ours to wipe. */
static int write_out(struct cli *c, const struct mt_lockmem *m)
{
    for (size_t at = 0; at < m->len;) {
        ssize_t n = write(STDOUT_FILENO, m->p + at, m->len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return cli_error(c, CLI_FAILURE, "stdout cannot be written", NULL);
        at += (size_t)n;
    }
    return CLI_OK;
}

static int render_local(struct cli *c, const char *path)
{
    static struct mt_secretfile f;
    mt_auto_lockmem struct mt_lockmem text = {0}, mem = {0}, out = {0};
    struct mt_err err;
    mt_process_hide();
    int code = read_file(c, path, &text, &mem, &f);
    if (code != CLI_OK)
        return code;
    if (mt_lockmem_new(&out, MT_SECRETFILE_MAX, &err) < 0 || mt_secretfile_write(&f, out.p, &out.len, &err) < 0)
        return cli_fail(c, &err, NULL);
    return write_out(c, &out);
}

/* What the server gives back where its operator allows that: written as it is, or the document with --json. */
static int render_values(struct cli *c)
{
    mt_auto_json json_t *m = NULL;
    mt_auto_lockmem struct mt_lockmem out = {0};
    struct mt_err err;
    mt_process_hide();
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, "/secrets/material") : NULL;
    if (code == CLI_OK)
        code = cli_call(c, "GET", path, NULL, &m);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "SecretsMaterial", m);
    const char *data = cli_str(m, "data");
    if (mt_lockmem_new(&out, MT_SECRETFILE_MAX + 3, &err) < 0)
        return cli_fail(c, &err, NULL);
    ssize_t n = mt_b64_decode(data, strlen(data), out.p, out.cap);
    if (n < 0)
        return cli_error(c, CLI_FAILURE, "the server's answer is not base64", NULL);
    out.len = (size_t)n;
    return write_out(c, &out);
}

int cmd_secrets_render(struct cli *c)
{
    if (cli_has(c, "local"))
        return render_local(c, cli_opt(c, "local"));
    if (cli_has(c, "values"))
        return render_values(c);
    mt_auto_json json_t *m = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, "/secrets") : NULL;
    if (code == CLI_OK)
        code = cli_call(c, "GET", path, NULL, &m);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Secrets", m);
    if (cli_int(m, "key_count") == 0)
        cli_say(c, "instances get no file");
    size_t i;
    json_t *name;
    printf("%s\n", MT_SECRETFILE_HEADER);
    json_array_foreach(json_object_get(m, "key_names"), i, name)
        printf("%s=********\n", json_string_value(name));
    return CLI_OK;
}
