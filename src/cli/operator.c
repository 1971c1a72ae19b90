/* SPDX-License-Identifier: Apache-2.0 */
/* Operators' hands on what is not theirs: quarantine, disabled routes, the scheduler, held groups, views, and why something is as it is. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

/* A word that goes into a path: an id, a process type, the name of a view. */
static bool plain(const char *word)
{
    size_t n = strlen(word);
    return n > 0 && n <= 64 && strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static int need_plain(struct cli *c, const char *word, const char *what)
{
    char safe[100];
    return plain(word) ? CLI_OK : cli_usage(c, "'%s' is no %s", mt_printable(word, strlen(word), safe, sizeof safe), what);
}

static int need_reason(struct cli *c)
{
    const char *reason = cli_opt(c, "reason");
    return reason && *reason ? CLI_OK : cli_usage(c, "--reason is needed: it is kept in the audit log");
}

/* @body is taken; the receipt with --json, else @done on stderr. */
static int change(struct cli *c, const char *method, const char *path, json_t *body, const char *type, const char *done)
{
    mt_auto_json json_t *made = NULL;
    c->said = true; /* it is about none of the caller's own */
    int code = body ? cli_call(c, method, path, body, &made) : cli_usage(c, "--reason is not UTF-8");
    json_decref(body);
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_receipt(c, type, made) : code;
    cli_say(c, "%s", done);
    return CLI_OK;
}

static json_t *reason_body(const struct cli *c)
{
    return json_pack("{s:s}", "reason", cli_opt(c, "reason"));
}

/* ---- quarantine ---- */

int cmd_quarantine_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"TYPE", "target_type"}, {"TARGET", "target_id"}, {"REASON", "reason"}, {"SINCE", "updated_at"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/quarantine"), cols, MT_ARRAY_LEN(cols), "quarantines") : code;
}

int cmd_quarantine_add(struct cli *c)
{
    const char *type = c->argv[0], *id = c->argv[1];
    char done[160];
    if (!MT_STREQ(type, "instance") && !MT_STREQ(type, "env") && !MT_STREQ(type, "org"))
        return cli_usage(c, "quarantine is of an instance, an env or an org");
    int code = need_plain(c, id, "id");
    if (code == CLI_OK)
        code = need_reason(c);
    if (code == CLI_OK)
        code = cli_confirm(c, type, id);
    if (code != CLI_OK)
        return code;
    (void)snprintf(done, sizeof done, "%s %s may send nothing of its own accord any more; what it serves goes on", type, id);
    return change(c, "POST", "/v1/quarantine", json_pack("{s:s,s:s,s:s}", "target_type", type, "target_id", id, "reason", cli_opt(c, "reason")),
                  "quarantine", done);
}

int cmd_quarantine_remove(struct cli *c)
{
    char path[120], done[120];
    int code = need_plain(c, c->argv[0], "id");
    if (code == CLI_OK)
        code = need_reason(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/quarantine/%s", c->argv[0]);
    (void)snprintf(done, sizeof done, "%s is out of quarantine", c->argv[0]);
    return change(c, "DELETE", path, reason_body(c), "quarantine", done);
}

/* ---- routes ---- */

static int switch_route(struct cli *c, const char *verb)
{
    char path[120], done[120];
    int code = cli_check_id(c, c->argv[0], "rt_", "moat events and the tenant know the ids of routes");
    if (code == CLI_OK)
        code = need_reason(c);
    if (code == CLI_OK && MT_STREQ(verb, "disable"))
        code = cli_confirm(c, "route", c->argv[0]);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/routes/%s/%s", c->argv[0], verb);
    (void)snprintf(done, sizeof done, "%s is %sd", c->argv[0], verb);
    return change(c, "POST", path, reason_body(c), "route", done);
}

int cmd_admin_routes_disable(struct cli *c)
{
    return switch_route(c, "disable");
}

int cmd_admin_routes_enable(struct cli *c)
{
    return switch_route(c, "enable");
}

/* ---- the scheduler ---- */

int cmd_scheduler_status(struct cli *c)
{
    static const struct cli_column cols[] = {{"ENV", "env_id"},       {"PROCESS", "process_type"}, {"CONDITION", "condition"},
                                             {"REASON", "reason"}, {"DETAIL", "detail"},         {"SINCE", "since"}};
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", "/v1/admin/scheduler", NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Scheduler", j);
    const json_t *n = json_object_get(j, "groups");
    bool off = json_is_true(json_object_get(j, "paused"));
    cli_tame(j);
    (void)printf("state   %s%s\n", off ? "paused: " : "runs", off ? cli_str(j, "reason") : "");
    (void)printf("leader  %s\n", *cli_str(j, "leader.holder") ? cli_str(j, "leader.holder") : "none");
    (void)printf("groups  %" PRId64 " ok, %" PRId64 " blocked, %" PRId64 " held\n", cli_int(n, "ok"), cli_int(n, "blocked"), cli_int(n, "held"));
    return cli_print_table(c, json_object_get(j, "waiting"), cols, MT_ARRAY_LEN(cols), "groups that wait");
}

static int pause_or_not(struct cli *c, const char *path, const char *done)
{
    mt_auto_json json_t *j = NULL;
    int code = need_reason(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = reason_body(c);
    c->said = true;
    code = body ? cli_call(c, "POST", path, body, &j) : cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_print_object(c, "SchedulerSwitch", j) : code;
    cli_say(c, "%s", done);
    return CLI_OK;
}

int cmd_scheduler_pause(struct cli *c)
{
    return pause_or_not(c, "/v1/admin/scheduler/pause", "the scheduler is paused: nothing is placed or drained; what runs goes on");
}

int cmd_scheduler_resume(struct cli *c)
{
    return pause_or_not(c, "/v1/admin/scheduler/resume", "the scheduler runs again");
}

static int group(struct cli *c, const char *verb)
{
    mt_auto_json json_t *j = NULL;
    char path[200];
    int code = cli_check_id(c, c->argv[0], "env_", "moat admin scheduler status shows what waits, with its environments");
    if (code == CLI_OK)
        code = need_plain(c, c->argv[1], "process type");
    if (code == CLI_OK)
        code = need_reason(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/admin/groups/%s/%s/%s", c->argv[0], c->argv[1], verb);
    mt_auto_json json_t *body = reason_body(c);
    c->said = true;
    code = body ? cli_call(c, "POST", path, body, &j) : cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_print_object(c, "Group", j) : code;
    return cli_print_fields(c, j);
}

int cmd_groups_hold(struct cli *c)
{
    return group(c, "hold");
}

int cmd_groups_resume(struct cli *c)
{
    return group(c, "resume");
}

/* ---- views ---- */

int cmd_projections_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"VIEW", "name"}, {"STATE", "state"}, {"AT", "last_applied_event_id"}, {"HEAD", "head_event_id"},
                                             {"REBUILD", "rebuild.requested_at"}};
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", "/v1/admin/projections", NULL, &j); /* all of them at once: it has no pages */
    if (code != CLI_OK)
        return code;
    const json_t *items = json_object_get(j, "items");
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "views");
}

int cmd_projections_rebuild(struct cli *c)
{
    mt_auto_json json_t *j = NULL, *body = json_object();
    char path[140];
    int code = need_plain(c, c->argv[0], "view");
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/admin/projections/%s/rebuild", c->argv[0]);
    c->said = true;
    code = cli_call(c, "POST", path, body, &j);
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_print_object(c, "Rebuild", j) : code;
    cli_say(c, "it is made again from the log beside the one in use; see: moat admin projections list");
    return CLI_OK;
}

/* ---- why ---- */

static void print_placement(const json_t *group)
{
    const json_t *n;
    size_t i;
    (void)printf("%s wants %" PRId64 "\n", cli_str(group, "process_type"), cli_int(group, "desired"));
    json_array_foreach(json_object_get(group, "nodes"), i, n)
        (void)printf("  %s  %s, %s: %s%s\n", cli_str(n, "node_id"), cli_str(n, "admin_state"), cli_str(n, "health"),
                     json_is_true(json_object_get(n, "takes_one_more")) ? "takes one more" : *cli_str(n, "refuses_for") ? "refuses for " : "nothing to take",
                     cli_str(n, "refuses_for"));
}

static void print_condition(const json_t *o)
{
    const char *const parts[] = {"process_type", "reason", "detail", "hostname"};
    (void)printf("  %s", cli_str(o, "type"));
    for (size_t i = 0; i < MT_ARRAY_LEN(parts); i++)
        if (*cli_str(o, parts[i]))
            (void)printf(" %s", cli_str(o, parts[i]));
    (void)putchar('\n');
}

int cmd_admin_explain(struct cli *c)
{
    const char *kind = c->argv[0], *id = c->argv[1];
    mt_auto_json json_t *j = NULL;
    char path[140];
    bool env = MT_STREQ(kind, "env");
    if (!env && !MT_STREQ(kind, "instance"))
        return cli_usage(c, "explain is about an env or an instance");
    int code = cli_check_id(c, id, env ? "env_" : "inst_", "give the id");
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/admin/explain?%s_id=%s", kind, id);
    code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Explanation", j);
    const json_t *o;
    size_t i;
    cli_tame(j);
    (void)printf("%s/%s@%s  %s\n", cli_str(j, "org"), cli_str(j, "app"), cli_str(j, "status.name"), cli_str(j, "env_id"));
    if (json_is_true(cli_member(j, "scheduler.paused")))
        (void)printf("the scheduler is paused: %s\n", cli_str(j, "scheduler.reason"));
    json_array_foreach(cli_member(j, "status.conditions"), i, o)
        print_condition(o);
    json_array_foreach(json_object_get(j, "placement"), i, o)
        print_placement(o);
    json_array_foreach(json_object_get(j, "why"), i, o)
        (void)printf("%6" PRId64 "  %.19s  %s\n", cli_int(o, "event_id"), cli_str(o, "occurred_at"), cli_str(o, "summary"));
    return CLI_OK;
}
