/* SPDX-License-Identifier: Apache-2.0 */
/* moat exec: choosing an instance, asking for a session, what its end means (control-plane.md §15.3, §15.4). The session itself runs in
 * exec_session.c. */
#include "cli/exec.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/exec.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* The newest ready instance, of @process when there is one; its id into @ret. */
static int pick(struct cli *c, const char *process, char ret[48])
{
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(300);
    mt_auto_json json_t *page = NULL;
    mt_buf_puts(&q, "?status=ready&limit=1");
    if (process) {
        mt_buf_puts(&q, "&process_type=");
        mt_http_put_query(&q, process);
    }
    mt_auto_free char *path = cli_env_path(c, "/instances%s", mt_buf_cstr(&q));
    int code = cli_call(c, "GET", path, NULL, &page);
    if (code != CLI_OK)
        return code;
    const json_t *first = json_array_get(json_object_get(page, "items"), 0);
    if (!first)
        return cli_error(c, CLI_NOT_FOUND, process ? "no instance of that process is ready" : "no instance of the environment is ready",
                         "`moat ps` shows what there is; give the id of one that is starting or unready to enter it all the same");
    (void)snprintf(ret, 48, "%s", cli_str(first, "id"));
    cli_say(c, "%s (%s)", ret, cli_str(first, "process_type"));
    return CLI_OK;
}

/* Positional words before "--": nothing, an instance or a process type. */
static int choose(struct cli *c, size_t before, char ret[48])
{
    const char *word = before ? c->argv[0] : NULL, *process = cli_opt(c, "process");
    if (before > 1)
        return cli_usage(c, "'%.60s': the command comes behind --", c->argv[1]);
    if (word && process)
        return cli_usage(c, "an instance and --process: one of them");
    if (word && mt_starts_with(word, "inst_")) {
        (void)snprintf(ret, 48, "%.47s", word);
        return cli_check_id(c, word, "inst_", "moat ps");
    }
    return pick(c, word ? word : process, ret);
}

static int read_env(struct cli *c, json_t **ret)
{
    json_t *env = json_object();
    for (size_t i = 0; cli_opt_n(c, "variable", i); i++) {
        const char *kv = cli_opt_n(c, "variable", i), *eq = strchr(kv, '=');
        char key[129];
        if (!eq || eq == kv || (size_t)(eq - kv) >= sizeof key) {
            json_decref(env);
            return cli_usage(c, "-e %.40s: it is KEY=VALUE", kv);
        }
        (void)snprintf(key, sizeof key, "%.*s", (int)(eq - kv), kv);
        if (mt_json_set_str(env, key, eq + 1) < 0 || !json_object_get(env, key)) {
            json_decref(env);
            return cli_usage(c, "-e %.40s: it is not UTF-8", key);
        }
    }
    *ret = env;
    return CLI_OK;
}

static int make_request(struct cli *c, size_t before, bool tty, bool in, json_t **ret)
{
    mt_auto_json json_t *env = NULL;
    int code = read_env(c, &env);
    if (code != CLI_OK)
        return code;
    json_t *words = json_array();
    for (int i = (int)before; i < c->argc; i++)
        if (json_array_append_new(words, json_string(c->argv[i])) < 0) {
            json_decref(words);
            return cli_usage(c, "word %d of the command is not UTF-8", i - (int)before + 1);
        }
    int64_t limit_ms = 0;
    struct mt_err err;
    if (cli_has(c, "limit") && cli_parse_duration(cli_opt(c, "limit"), &limit_ms, &err) < 0) {
        json_decref(words);
        return cli_usage(c, "--limit: %s", err.msg);
    }
    struct winsize ws = {0};
    json_t *b = json_pack("{s:o,s:b,s:b,s:O,s:s*}", "command", words, "tty", tty, "stdin", in, "env", env, "user", cli_opt(c, "user"));
    if (tty && ioctl(STDIN_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col && ws.ws_row && ws.ws_col <= MT_EXEC_SIZE_MAX &&
        ws.ws_row <= MT_EXEC_SIZE_MAX) {
        json_object_set_new(b, "cols", json_integer(ws.ws_col));
        json_object_set_new(b, "rows", json_integer(ws.ws_row));
    }
    if (tty && getenv("TERM") && !json_object_get(env, "TERM"))
        (void)mt_json_set_str(json_object_get(b, "env"), "TERM", getenv("TERM"));
    if (limit_ms)
        json_object_set_new(b, "max_duration_seconds", json_integer(limit_ms / 1000));
    *ret = b;
    return CLI_OK;
}

static int signal_number(const char *name)
{
    for (int i = 1; i < NSIG; i++) {
        const char *n = sigabbrev_np(i);
        if (n && MT_STREQ(n, name))
            return i;
    }
    return 0;
}

/* The exit status of the command, else why there is none. */
static int outcome(struct cli *c, const json_t *granted, const struct cli_exec_end *e)
{
    int signo = signal_number(e->signal);
    bool ran = MT_STREQ(e->reason, "exited") || MT_STREQ(e->reason, "killed");
    int code = ran && e->exit_code >= 0 ? e->exit_code : ran && signo ? 128 + signo : 255;
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:s,s:{s:s,s:s,s:s,s:s*,s:i}}", "api", "v1", "kind", "ExecResult", "data", "exec_session_id",
                                           cli_str(granted, "exec_session_id"), "instance_id", cli_str(granted, "instance_id"), "reason", e->reason,
                                           "detail", e->detail[0] ? e->detail : NULL, "exit_status", code);
        json_t *data = json_object_get(j, "data");
        if (e->exit_code >= 0)
            json_object_set_new(data, "exit_code", json_integer(e->exit_code));
        if (e->signal[0])
            json_object_set_new(data, "signal", json_string(e->signal));
        (void)json_dumpf(j, stderr, JSON_COMPACT); /* stdout is the command's */
        (void)fputc('\n', stderr);
    } else if (!ran) {
        char safe[300];
        (void)fprintf(stderr, "%serror:%s exec: %s%s%s\n", cli_color(c, "red"), cli_color(c, "reset"), e->reason, e->detail[0] ? ": " : "",
                      mt_printable(e->detail, strlen(e->detail), safe, sizeof safe));
    }
    return code;
}

int cmd_exec(struct cli *c)
{
    char instance[48] = "";
    mt_auto_json json_t *body = NULL, *granted = NULL;
    struct cli_exec_end e = {.exit_code = -1};
    bool tty = cli_has(c, "tty"), in = tty || cli_has(c, "interactive");
    if (c->behind_dashes < 0 || c->behind_dashes == 0)
        return cli_usage(c, "the command comes behind --: moat exec web -- ls /");
    if (tty && !isatty(STDIN_FILENO))
        return cli_usage(c, "-t: stdin is not a terminal");
    size_t before = (size_t)(c->argc > c->behind_dashes ? c->argc - c->behind_dashes : 0);
    int code = cli_need_env(c);
    if (code == CLI_OK)
        code = choose(c, before, instance);
    if (code == CLI_OK)
        code = make_request(c, before, tty, in, &body);
    if (code != CLI_OK)
        return code;
    c->said = true; /* the instance is said already, and a session must not begin with words of ours in scripts */
    mt_auto_free char *path = cli_env_path(c, "/instances/%s/exec", instance);
    code = cli_call(c, "POST", path, body, &granted);
    if (code != CLI_OK)
        return code;
    if (json_object_get(granted, "receipt"))
        (void)json_object_del(granted, "receipt");
    code = cli_exec_run(c, cli_str(granted, "connect_url"), cli_str(granted, "session_token"), tty, in, &e);
    return code == CLI_OK ? outcome(c, granted, &e) : code;
}
