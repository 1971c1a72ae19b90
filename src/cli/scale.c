/* SPDX-License-Identifier: Apache-2.0 */
/* scale: the number of replicas, shown or set. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>
#include <unistd.h>

static int show(struct cli *c, const json_t *scale)
{
    if (c->json)
        return cli_print_object(c, "Scale", scale);
    static const struct cli_column cols[] = {{"PROCESS", "process_type"}, {"DESIRED", "desired"}, {"SOURCE", "source"}, {"MAX", "max"}};
    return cli_print_table(c, json_object_get(scale, "processes"), cols, MT_ARRAY_LEN(cols), "processes");
}

/* Ask until each process has as many ready instances as it shall have, and none too many. */
static int wait_scaled(struct cli *c)
{
    int64_t began = mt_clock_mono(), deadline = began + c->wait_ms * MT_NS_PER_MS;
    int code = CLI_OK;
    mt_auto_free char *path = cli_env_path(c, "/status");
    cli_catch_interrupt(c, "scaling", "moat status");
    for (char shown[64] = ""; code == CLI_OK;) {
        mt_auto_json json_t *st = NULL;
        code = cli_call(c, "GET", path, NULL, &st);
        int64_t ready = 0, desired = 0, settled = 1;
        size_t i;
        json_t *p;
        json_array_foreach(json_object_get(st, "processes"), i, p)
        {
            ready += cli_int(p, "ready");
            desired += cli_int(p, "desired");
            settled &= cli_int(p, "ready") == cli_int(p, "desired") && cli_int(p, "starting") == 0;
        }
        char now[64];
        (void)snprintf(now, sizeof now, "%" PRId64 "/%" PRId64 " ready", ready, desired);
        if (code == CLI_OK && !MT_STREQ(now, shown))
            cli_say(c, "  %6.2f s  %s", (double)(mt_clock_mono() - began) / 1e9, now);
        memcpy(shown, now, sizeof shown);
        if (code != CLI_OK || settled)
            return code;
        if (mt_clock_mono() >= deadline)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; scaling goes on", "moat status");
        (void)usleep(300000);
    }
    return code;
}

/* Set the scale to @list ([{process_type, desired|null}]); an empty one shows it. */
static int set_scale(struct cli *c, json_t *list)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *now = NULL;
    mt_auto_free char *path = cli_env_path(c, "/scale");
    code = cli_call(c, "GET", path, NULL, &now);
    if (code != CLI_OK || json_array_size(list) == 0)
        return code != CLI_OK ? code : show(c, now);
    cli_say_target(c, "scaling");
    mt_auto_json json_t *body = json_pack("{s:O,s:I}", "processes", list, "expected_version", (json_int_t)cli_int(now, "resource_version"));
    mt_auto_json json_t *after = NULL;
    code = cli_call(c, "PUT", path, body, &after);
    if (code != CLI_OK)
        return code;
    if (cli_wants_wait(c) && (code = wait_scaled(c)) != CLI_OK)
        return code;
    if (!c->json)
        return show(c, after);
    mt_auto_json json_t *about = json_copy(after);
    (void)json_object_set_new(about, "id", json_string(c->env_id));
    mt_auto_json json_t *doc = cli_receipt_json(c, "scale", "scale.set", about);
    return cli_print_line(c, doc);
}

int cmd_scale(struct cli *c)
{
    mt_auto_json json_t *list = json_array();
    for (int i = 0; i < c->argc; i++) {
        const char *eq = strchr(c->argv[i], '=');
        uint64_t n;
        struct mt_err err;
        if (!eq || eq == c->argv[i])
            return cli_usage(c, "'%.40s' is not PROCESS=N", c->argv[i]);
        bool reset = strcmp(eq + 1, "default") == 0;
        if (!reset && mt_parse_u64(eq + 1, 0, 100, &n, &err) < 0)
            return cli_usage(c, "%.*s: %s", (int)(eq - c->argv[i]), c->argv[i], err.msg);
        json_t *one = json_object();
        (void)mt_json_set_strn(one, "process_type", c->argv[i], (size_t)(eq - c->argv[i]));
        (void)json_object_set_new(one, "desired", reset ? json_null() : json_integer((json_int_t)n));
        (void)json_array_append_new(list, one);
    }
    return set_scale(c, list);
}

int cmd_scale_reset(struct cli *c)
{
    mt_auto_json json_t *list = json_array();
    for (int i = 0; i < c->argc; i++) {
        json_t *one = json_object();
        if (mt_json_set_str(one, "process_type", c->argv[i]) < 0) {
            json_decref(one);
            return cli_usage(c, "'%.40s' is not a process type", c->argv[i]);
        }
        (void)json_object_set_new(one, "desired", json_null());
        (void)json_array_append_new(list, one);
    }
    return set_scale(c, list);
}
