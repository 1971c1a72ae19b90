/* SPDX-License-Identifier: Apache-2.0 */
/* status: desired against observed, and why they differ. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>
#include <unistd.h>

/* Since when a group is as it is, and what ends that. */
static void print_next(struct cli *c, const json_t *p)
{
    static const struct {
        const char *word, *text;
    } texts[] = {
        {"room", "tried again as soon as there is room"},
        {"command", "not tried before a deploy, a scale, secrets or an operator changes something"},
        {"resume", "not tried before the scheduler is resumed"},
    };
    const char *since = cli_str(p, "since"), *word = cli_str(p, "next_try"), *at = cli_str(p, "next_try_at");
    if (!*since)
        return;
    (void)printf("    %ssince %s", cli_color(c, "dim"), since);
    if (MT_STREQ(word, "time") && *at)
        (void)printf(", next try at %s", at);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (MT_STREQ(word, texts[i].word))
            (void)printf(", %s", texts[i].text);
    (void)printf("%s\n", cli_color(c, "reset"));
}

static void print_process(struct cli *c, const json_t *p)
{
    int64_t desired = cli_int(p, "desired"), ready = cli_int(p, "ready"), old = cli_int(p, "old");
    const char *cond = cli_str(p, "sched_condition"), *reason = cli_str(p, "reason"), *detail = cli_str(p, "detail");
    bool good = ready >= desired && (!*cond || MT_STREQ(cond, "ok"));
    (void)printf("  %s%-12s%s %s%" PRId64 "/%" PRId64 " ready%s", cli_color(c, "bold"), cli_str(p, "process_type"), cli_color(c, "reset"),
                 cli_color(c, good ? "green" : "red"), ready, desired, cli_color(c, "reset"));
    if (cli_int(p, "release_number"))
        (void)printf("  v%" PRId64, cli_int(p, "release_number"));
    if (cli_member(p, "matching") && cli_int(p, "matching") != desired)
        (void)printf("  %" PRId64 " matching", cli_int(p, "matching"));
    if (old)
        (void)printf("  %" PRId64 " old", old);
    if (*cond && !MT_STREQ(cond, "ok"))
        (void)printf("  %s%s%s", cli_color(c, "yellow"), cond, cli_color(c, "reset"));
    if (*reason)
        (void)printf(": %s", reason);
    if (*detail) {
        char safe[300];
        (void)printf(" (%s)", mt_printable(detail, strlen(detail), safe, sizeof safe));
    }
    (void)putchar('\n');
    if (!good || *cli_str(p, "next_try"))
        print_next(c, p);
}

static void print_instance(struct cli *c, const json_t *in)
{
    char safe[300];
    const char *status = cli_str(in, "status"), *detail = cli_str(in, "status_detail"), *reason = cli_str(in, "reason_code");
    (void)printf("    %s  %s%s%s%s%s", cli_str(in, "id"), cli_color(c, MT_STREQ(status, "ready") ? "green" : MT_STREQ(status, "failed") ? "red" : "yellow"),
                 status, cli_color(c, "reset"), *detail ? " " : "", detail);
    if (*reason)
        (void)printf("  %s%s%s", reason, *cli_str(in, "reason_detail") ? ": " : "",
                     mt_printable(cli_str(in, "reason_detail"), strlen(cli_str(in, "reason_detail")), safe, sizeof safe));
    if (cli_member(in, "exit_code"))
        (void)printf("  exit code %" PRId64, cli_int(in, "exit_code"));
    if (cli_int(in, "restart_count"))
        (void)printf("  %" PRId64 " restart%s", cli_int(in, "restart_count"), cli_int(in, "restart_count") == 1 ? "" : "s");
    (void)printf("  %s%s%s\n", cli_color(c, "dim"), cli_str(in, "overlay_ipv6"), cli_color(c, "reset"));
}

static void print_env(struct cli *c, const json_t *st, json_t *instances)
{
    size_t i, k;
    json_t *p, *in, *r;
    char url[300], safe[400];
    if (json_array_size(json_object_get(st, "processes")) == 0)
        (void)printf("  nothing is deployed\n");
    json_array_foreach(json_object_get(st, "processes"), i, p)
    {
        print_process(c, p);
        json_array_foreach(instances, k, in) if (MT_STREQ(cli_str(in, "process_type"), cli_str(p, "process_type")) && !MT_STREQ(cli_str(in, "status"), "stopped")) print_instance(c, in);
    }
    json_array_foreach(json_object_get(st, "routes"), i, r)
    {
        const char *s = cli_str(r, "status");
        (void)printf("  route %s %s%s%s -> %s:%" PRId64 "\n", cli_route_url(c, r, url, sizeof url),
                     cli_color(c, MT_STREQ(s, "active") ? "green" : "yellow"), s, cli_color(c, "reset"), cli_str(r, "backend_process_type"),
                     cli_int(r, "backend_port"));
    }
    const json_t *d = cli_member(st, "last_deploy");
    if (d) {
        const char *s = cli_str(d, "status"), *why = cli_str(d, "failed_reason");
        (void)printf("  last deploy %s %s%s%s%s%s\n", cli_str(d, "id"), cli_color(c, MT_STREQ(s, "succeeded") ? "green" : MT_STREQ(s, "failed") ? "red" : "yellow"), s,
                     cli_color(c, "reset"), *why ? ": " : "", why);
        if (*cli_str(d, "message"))
            (void)printf("    %s\n", mt_printable(cli_str(d, "message"), strlen(cli_str(d, "message")), safe, sizeof safe));
    }
    cli_print_failure(c, stdout, cli_member(st, "failure"));
}

static int show(struct cli *c)
{
    mt_auto_json json_t *st = NULL;
    mt_auto_free char *path = cli_env_path(c, "/status");
    int code = cli_call(c, "GET", path, NULL, &st);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Status", st);
    mt_auto_json json_t *instances = NULL;
    mt_auto_free char *ipath = cli_env_path(c, "/instances");
    code = cli_list(c, ipath, &instances);
    if (code != CLI_OK)
        return code;
    (void)printf("%s%s/%s@%s%s\n", cli_color(c, "bold"), c->org, c->app, c->env, cli_color(c, "reset"));
    print_env(c, st, instances);
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

/* ---- no app is named: all of the organisation, a line for each process ---- */

static int add_env(struct cli *c, const json_t *app, const json_t *env, json_t *rows)
{
    size_t i;
    json_t *p;
    mt_auto_json json_t *st = NULL;
    mt_auto_free char *path = mt_asprintf("/v1/orgs/%s/apps/%s/envs/%s/status", c->org_id, cli_str(app, "id"), cli_str(env, "id"));
    int code = path ? cli_call(c, "GET", path, NULL, &st) : CLI_INTERNAL;
    if (code == CLI_NOT_FOUND) /* removed since it was listed */
        return CLI_OK;
    if (code != CLI_OK)
        return code;
    json_array_foreach(json_object_get(st, "processes"), i, p)
    {
        const char *cond = cli_str(p, "sched_condition");
        char ready[48], release[24] = "";
        if (cli_int(p, "release_number"))
            (void)snprintf(release, sizeof release, "v%" PRId64, cli_int(p, "release_number"));
        (void)snprintf(ready, sizeof ready, "%" PRId64 "/%" PRId64, cli_int(p, "ready"), cli_int(p, "desired"));
        json_t *row = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:s,s:s,s:s}", "app", cli_str(app, "name"), "env", cli_str(env, "name"), "process_type",
                                cli_str(p, "process_type"), "readiness", ready, "ready", (json_int_t)cli_int(p, "ready"), "desired", (json_int_t)cli_int(p, "desired"),
                                "release_number", (json_int_t)cli_int(p, "release_number"), "release", release, "sched_condition", MT_STREQ(cond, "ok") ? "" : cond, "reason", cli_str(p, "reason"));
        if (!row || json_array_append_new(rows, row) != 0)
            return cli_error(c, CLI_INTERNAL, "out of memory", NULL);
    }
    return CLI_OK;
}

static int show_all(struct cli *c)
{
    static const struct cli_column cols[] = {{"APP", "app"}, {"ENV", "env"}, {"PROCESS", "process_type"}, {"READY", "readiness"}, {"RELEASE", "release"},
                                             {"CONDITION", "sched_condition"}, {"REASON", "reason"}};
    mt_auto_json json_t *apps = NULL, *rows = json_array();
    mt_auto_free char *list = mt_asprintf("/v1/orgs/%s/apps", c->org_id);
    size_t i, k;
    json_t *app, *env;
    int code = list && rows ? cli_list(c, list, &apps) : CLI_INTERNAL;
    json_array_foreach(apps, i, app)
    {
        mt_auto_json json_t *envs = NULL;
        mt_auto_free char *path = mt_asprintf("%s/%s/envs", list, cli_str(app, "id"));
        code = code == CLI_OK && path ? cli_list(c, path, &envs) : code;
        json_array_foreach(envs, k, env) code = code == CLI_OK ? add_env(c, app, env, rows) : code;
    }
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, rows);
    code = cli_print_table(c, rows, cols, sizeof cols / sizeof cols[0], "processes are deployed");
    if (code == CLI_OK && json_array_size(rows) > 0)
        cli_say(c, "more of one: moat status --app NAME");
    return code;
}

/* ---- a moment of the past, or more than one environment ---- */

static void print_app(struct cli *c, const json_t *app)
{
    size_t i;
    json_t *env;
    (void)printf("%sapp %s%s, %" PRId64 " releases\n", cli_color(c, "bold"), cli_str(app, "name"), cli_color(c, "reset"), cli_int(app, "releases_made"));
    json_array_foreach(json_object_get(app, "envs"), i, env)
    {
        (void)printf("%s%s@%s%s\n", cli_color(c, "bold"), cli_str(app, "name"), cli_str(env, "name"), cli_color(c, "reset"));
        print_env(c, env, json_object_get(env, "instances"));
    }
}

static void print_org(struct cli *c, const json_t *org)
{
    size_t i;
    json_t *v;
    (void)printf("%sorganisation %s%s%s\n", cli_color(c, "bold"), cli_str(org, "name"), cli_color(c, "reset"),
                 json_is_true(json_object_get(org, "suspended")) ? ", suspended" : "");
    json_array_foreach(json_object_get(org, "members"), i, v)
        (void)printf("  member %s  %s%s\n", cli_str(v, "email"), cli_str(v, "role"), MT_STREQ(cli_str(v, "state"), "invited") ? ", invited" : "");
    json_array_foreach(json_object_get(org, "service_principals"), i, v)
        (void)printf("  service principal %s  %s\n", cli_str(v, "name"), cli_str(v, "client_id"));
    json_array_foreach(json_object_get(org, "limits"), i, v)
        (void)printf("  limit %s  %" PRId64 "\n", cli_str(v, "dimension"), cli_int(v, "limit"));
    json_array_foreach(json_object_get(org, "apps"), i, v)
        print_app(c, v);
}

static int show_state(struct cli *c)
{
    mt_auto_json json_t *st = NULL;
    int code = cli_history(c, "status", &st);
    if (code != CLI_OK)
        return code;
    bool org = json_object_get(st, "org_id") != NULL, app = !org && json_object_get(st, "app_id") != NULL;
    if (c->json)
        return cli_print_object(c, org ? "OrgState" : app ? "AppState" : "Status", st);
    cli_tame(st);
    if (cli_member(st, "at"))
        (void)printf("%sas after event @%" PRId64 " (%s)%s\n", cli_color(c, "dim"), cli_int(st, "at.event_id"),
                     cli_str(st, "at.last_event_at"), cli_color(c, "reset"));
    if (org)
        print_org(c, st);
    else if (app)
        print_app(c, st);
    else {
        (void)printf("%s%s/%s@%s%s\n", cli_color(c, "bold"), c->org, c->app, cli_str(st, "name"), cli_color(c, "reset"));
        print_env(c, st, json_object_get(st, "instances"));
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

int cmd_status(struct cli *c)
{
    if ((cli_has(c, "at") || cli_has(c, "of")) && cli_has(c, "watch"))
        return cli_usage(c, "--watch shows the environment as it is now; it does not go with --at or --of");
    if (cli_has(c, "at") || cli_has(c, "of"))
        return show_state(c);
    int code = cli_need_org(c);
    if (code == CLI_OK && !cli_has(c, "watch") && !cli_app_named(c))
        return show_all(c);
    if (code != CLI_OK || (code = cli_need_env(c)) != CLI_OK)
        return code;
    if (!cli_has(c, "watch"))
        return show(c);
    if (c->json)
        return cli_usage(c, "--watch is for a terminal; `moat events -f --json` streams changes");
    for (;;) {
        if (c->tty)
            (void)fputs("\033[H\033[2J", stdout);
        code = show(c);
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return code;
        (void)usleep(1000000);
    }
}
