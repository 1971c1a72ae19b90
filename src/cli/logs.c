/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of an environment, at once or as they come. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

struct place {
    json_t *at; /* how far each instance was read, {instance: seq}: where a stream is taken up again */
    bool over;  /* all that is from before --until was there */
};

/* @arg: a struct place, or NULL: nothing is kept. */
static int print_line(struct cli *c, json_t *l, void *arg)
{
    struct place *place = arg;
    json_t *at = place ? place->at : NULL, *seq;
    const char *id = cli_str(l, "instance_id");
    if (at)
        c->hush = true; /* the stream stands: that it breaks off is no error any more */
    if (at && MT_STREQ(cli_str(l, "type"), "position")) {
        const char *key;
        json_object_foreach(json_object_get(l, "positions"), key, seq)
            if (json_integer_value(seq) > json_integer_value(json_object_get(at, key)))
                (void)json_object_set(at, key, seq);
        return 0;
    }
    if (MT_STREQ(cli_str(l, "type"), "missing")) {
        size_t i;
        json_t *node;
        json_array_foreach (json_object_get(l, "nodes"), i, node)
            cli_say(c, "node %s does not answer: its lines are missing here until it does", json_string_value(node));
        return c->json && cli_print_line(c, l) != CLI_OK ? CLI_FAILURE + 1 : 0;
    }
    if (place && MT_STREQ(cli_str(l, "type"), "end") && MT_STREQ(cli_str(l, "reason"), "until"))
        place->over = true;
    if (!cli_member(l, "line"))
        return 0; /* heartbeat, or the end line: the caller resumes */
    seq = json_object_get(l, "seq");
    if (at && json_integer_value(seq) <= json_integer_value(json_object_get(at, id)))
        return 0; /* shown before the stream broke off */
    if (at)
        (void)json_object_set(at, id, seq);
    if (c->json) {
        (void)json_object_set_new(l, "type", json_string("log"));
        return cli_print_line(c, l) == CLI_OK ? 0 : CLI_FAILURE + 1;
    }
    char safe[17000];
    const char *ts = cli_str(l, "ts"), *text = cli_str(l, "line"), *stream = cli_str(l, "stream");
    size_t n = strlen(id);
    (void)printf("%s%.12s%s %s%s.%s%s %s%s%s\n", cli_color(c, "dim"), strlen(ts) > 11 ? ts + 11 : ts, cli_color(c, "reset"), cli_color(c, "bold"),
                 cli_str(l, "process_type"), n > 4 ? id + n - 4 : id, cli_color(c, "reset"),
                 cli_color(c, MT_STREQ(stream, "stderr") ? "yellow" : MT_STREQ(stream, "system") ? "dim" : ""), mt_printable(text, strlen(text), safe, sizeof safe),
                 cli_color(c, "reset"));
    return fflush(stdout) == EOF ? CLI_OK + 1 : 0; /* a closed pipe ends the stream quietly */
}

/* The server ends streams now and then, and may be restarted: it is asked to go on after what each instance has shown. */
static int follow(struct cli *c, const char *filters, uint64_t lines)
{
    mt_auto_json json_t *at = json_object();
    struct place place = {.at = at};
    for (bool away = false, first = true;;) {
        mt_auto_buf struct mt_buf q = MT_BUF_INIT(64u * 1024u);
        if (first || json_object_size(at) == 0) {
            mt_buf_printf(&q, "?limit=%llu", (unsigned long long)lines);
        } else {
            mt_auto_free char *text = json_dumps(at, JSON_COMPACT);
            mt_buf_puts(&q, "?cursor=");
            for (const char *p = text; p && *p; p++)
                mt_buf_printf(&q, "%02x", (unsigned char)*p);
        }
        mt_buf_printf(&q, "&positions=true%s", filters);
        mt_auto_free char *path = q.failed ? NULL : cli_env_path(c, "/logs/stream%s", mt_buf_cstr(&q));
        c->hush = !first;
        int code = cli_follow(c, path, print_line, &place, 60000);
        bool stood = c->hush;
        c->hush = false;
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return stood ? cli_error(c, code, "the log stream is refused now", "moat logs") : code;
        if (code == CLI_TRANSIENT && !stood)
            return code;
        if (code == CLI_TRANSIENT && !away)
            cli_say(c, "the server is away; the stream goes on when it is back");
        away = code == CLI_TRANSIENT;
        first = false;
        if (ferror(stdout) || place.over)
            return CLI_OK;
        (void)nanosleep(&(struct timespec){.tv_nsec = 500 * 1000000L}, NULL);
    }
}

static bool follows(const struct cli *c)
{
    return cli_has(c, "follow") || MT_STREQ(c->command->name, "logs tail");
}

int cmd_logs(struct cli *c)
{
    uint64_t lines = 100;
    struct mt_err err;
    if (cli_has(c, "lines") && mt_parse_u64(cli_opt(c, "lines"), 1, 5000, &lines, &err) < 0)
        return cli_usage(c, "--lines: %s", err.msg);
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    cli_put_filter(c, &q, "process", "process_type");
    cli_put_filter(c, &q, "instance", "instance_id");
    cli_put_filter(c, &q, "since", "since");
    cli_put_filter(c, &q, "until", "until");
    cli_put_filter(c, &q, "stream", "stream");
    cli_put_filter(c, &q, "contains", "contains");
    if (cli_has(c, "release")) {
        char release[40];
        if ((code = cli_release_id(c, cli_opt(c, "release"), release)) != CLI_OK)
            return code;
        mt_buf_printf(&q, "&release_id=%s", release);
    }
    if (cli_has(c, "previous"))
        mt_buf_puts(&q, "&previous=true");
    if (follows(c))
        return follow(c, mt_buf_cstr(&q), lines);
    mt_auto_free char *path = cli_env_path(c, "/logs?limit=%llu%s", (unsigned long long)lines, mt_buf_cstr(&q));
    mt_auto_json json_t *j = NULL;
    code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    json_t *items = json_object_get(j, "items"), *l;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_array_foreach(items, i, l)
    {
        int r = print_line(c, l, NULL);
        if (r)
            return r - 1;
    }
    json_array_foreach(json_object_get(j, "missing_nodes"), i, l) cli_say(c, "node %s does not answer: its lines are missing here", json_string_value(l));
    if (json_array_size(items) == 0)
        cli_say(c, "no log lines");
    return CLI_OK;
}
