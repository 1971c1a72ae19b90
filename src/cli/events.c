/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the organisation, oldest first, at once or as they come. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>

struct tail {
    uint64_t last; /* last event id seen: where to resume */
};

static int print_event(struct cli *c, json_t *ev, void *arg)
{
    struct tail *t = arg;
    if (!cli_member(ev, "event_type"))
        return 0; /* heartbeat, or the end line: the caller resumes */
    if (t)
        t->last = (uint64_t)cli_int(ev, "event_id");
    if (c->json) {
        (void)json_object_set_new(ev, "type", json_string("event"));
        (void)json_object_set(ev, "ts", json_object_get(ev, "occurred_at"));
        return cli_print_line(c, ev) == CLI_OK ? 0 : CLI_FAILURE + 1;
    }
    char safe[600];
    const char *ts = cli_str(ev, "occurred_at"), *summary = cli_str(ev, "summary");
    (void)printf("%s%6" PRId64 "  %.10s %.12s%s  %-30s %s\n", cli_color(c, "dim"), cli_int(ev, "event_id"), ts, strlen(ts) > 11 ? ts + 11 : "",
                 cli_color(c, "reset"), cli_str(ev, "event_type"), mt_printable(summary, strlen(summary), safe, sizeof safe));
    return fflush(stdout) == EOF ? CLI_OK + 1 : 0;
}

static bool follows(const struct cli *c)
{
    return cli_has(c, "follow") || MT_STREQ(c->command->name, "events tail") || MT_STREQ(c->command->name, "admin events tail");
}

/* The whole log has no stream: it is asked again each second. */
static int poll_all(struct cli *c, uint64_t last, const char *filters)
{
    for (bool away = false;;) {
        mt_auto_json json_t *j = NULL;
        char target[2400];
        json_t *ev;
        size_t i;
        (void)snprintf(target, sizeof target, "/v1/admin/events?limit=500&order=asc&after_event_id=%" PRIu64 "%s", last, filters);
        c->hush = away;
        int code = cli_call(c, "GET", target, NULL, &j);
        c->hush = false;
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return code;
        away = code == CLI_TRANSIENT;
        json_array_foreach(json_object_get(j, "items"), i, ev)
            if (print_event(c, ev, NULL) != 0)
                return CLI_OK;
        if (j)
            last = (uint64_t)cli_int(j, "next_after_event_id");
        if (ferror(stdout))
            return CLI_OK;
        (void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
}

int cmd_events(struct cli *c)
{
    uint64_t lines = 50, after = 0;
    struct mt_err err;
    bool all = mt_starts_with(c->command->name, "admin events");
    if (cli_has(c, "lines") && mt_parse_u64(cli_opt(c, "lines"), 1, 500, &lines, &err) < 0)
        return cli_usage(c, "--lines: %s", err.msg);
    if (cli_has(c, "after") && mt_parse_u64(cli_opt(c, "after"), 0, INT64_MAX, &after, &err) < 0)
        return cli_usage(c, "--after: %s", err.msg);
    int code = all ? cli_connect(c) : cli_need_org(c);
    if (!all && code == CLI_OK && (cli_opt(c, "app") || cli_opt(c, "env")))
        code = cli_opt(c, "env") ? cli_need_env(c) : cli_need_app(c);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    cli_put_filter(c, &q, "type", "event_type");
    cli_put_filter(c, &q, "deploy", "correlation_id");
    cli_put_filter(c, &q, "instance", "aggregate_id");
    cli_put_filter(c, &q, "since", "since");
    cli_put_filter(c, &q, "until", "until");
    if (*c->app_id)
        mt_buf_printf(&q, "&app_id=%s", c->app_id);
    if (*c->env_id)
        mt_buf_printf(&q, "&env_id=%s", c->env_id);
    char target[2400], base[80] = "/v1/admin";
    bool newest = !cli_has(c, "after");
    if (!all)
        (void)snprintf(base, sizeof base, "/v1/orgs/%s", c->org_id);
    (void)snprintf(target, sizeof target, "%s/events?limit=%" PRIu64 "&order=%s&after_event_id=%" PRIu64 "%s", base, lines,
                   newest ? "desc" : "asc", after, mt_buf_cstr(&q));
    mt_auto_json json_t *j = NULL;
    code = cli_call(c, "GET", target, NULL, &j);
    if (code != CLI_OK)
        return code;
    json_t *items = json_object_get(j, "items");
    struct tail tail = {.last = (uint64_t)cli_int(j, "head_event_id")};
    if (c->json && !follows(c))
        return cli_print_list(c, items);
    size_t n = json_array_size(items);
    for (size_t i = 0; i < n; i++) { /* oldest first on the screen, whatever the order asked for */
        int r = print_event(c, json_array_get(items, newest ? n - 1 - i : i), NULL);
        if (r)
            return r - 1;
    }
    if (!follows(c)) {
        if (n == 0)
            cli_say(c, "no events");
        return CLI_OK;
    }
    if (all)
        return poll_all(c, tail.last, mt_buf_cstr(&q));
    for (bool away = false;;) { /* the server ends streams now and then; nothing is lost or doubled by resuming after the last id */
        (void)snprintf(target, sizeof target, "/v1/orgs/%s/events/stream?after_event_id=%" PRIu64 "%s", c->org_id, tail.last, mt_buf_cstr(&q));
        c->hush = away; /* said once; it may come back */
        code = cli_follow(c, target, print_event, &tail, 40000);
        c->hush = false;
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return code;
        away = code == CLI_TRANSIENT;
        if (ferror(stdout))
            return CLI_OK;
        (void)nanosleep(&(struct timespec){.tv_nsec = 500 * 1000000L}, NULL);
    }
}
