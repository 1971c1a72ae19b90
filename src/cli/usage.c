/* SPDX-License-Identifier: Apache-2.0 */
/* What an organisation took: by hour, or a month of it as a table, CSV or JSON. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>

static int by_hour(struct cli *c)
{
    static const struct cli_column cols[] = {{"FROM", "from"}, {"TO", "to"},         {"ENV", "env_id"}, {"KIND", "kind"},
                                             {"UNIT", "unit"}, {"QUANTITY", "quantity"}, {"FINAL", "final"}};
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    const char *names[] = {"since", "until"};
    struct mt_err err;
    mt_buf_printf(&q, "/v1/orgs/%s/usage?order=asc", c->org_id);
    for (int i = 0; i < 2; i++) {
        const char *v = cli_opt(c, names[i]);
        char ts[MT_RFC3339_LEN];
        int64_t us, ms;
        if (!v)
            continue;
        if (mt_rfc3339_parse(v, &us, &err) < 0) {
            if (cli_parse_duration(v, &ms, &err) < 0)
                return cli_usage(c, "--%s: an RFC 3339 time, or a time span such as 90m", names[i]);
            us = mt_clock_wall_us() - ms * 1000;
        }
        mt_buf_printf(&q, "&%s=%s", names[i], mt_rfc3339(us, ts));
    }
    cli_put_filter(c, &q, "kind", "kind");
    if (cli_opt(c, "env"))
        mt_buf_printf(&q, "&env_id=%s", c->env_id);
    return cli_show_list(c, strdup(mt_buf_cstr(&q)), cols, sizeof cols / sizeof cols[0], "usage");
}

/* Units for people: the API's integer times a million / per, as a decimal with six places, rounded down. */
static const struct unit {
    const char *api, *name;
    uint64_t per;
} units[] = {{"vcpu_milliseconds", "vCPU-seconds", 1000},
             {"mib_seconds", "GiB-hours", UINT64_C(1024) * 3600},
             {"address_seconds", "IPv4-hours", 3600}};

static const char *in_words(const json_t *item, char ret[48])
{
    const char *api = json_string_value(json_object_get(item, "unit"));
    json_int_t n = json_integer_value(json_object_get(item, "quantity"));
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (api && n >= 0 && MT_STREQ(api, units[i].api)) {
            uint64_t whole = (uint64_t)n / units[i].per, rest = (uint64_t)n % units[i].per;
            (void)snprintf(ret, 48, "%" PRIu64 ".%06" PRIu64, whole, rest * 1000000 / units[i].per);
            return units[i].name;
        }
    (void)snprintf(ret, 48, "%" JSON_INTEGER_FORMAT, n);
    return api ? api : "";
}

/* Names of apps and environments, and ids: nothing in them needs quotes. One of a platform that gives others would break a line. */
static const char *cell(const json_t *item, const char *key)
{
    const char *v = json_string_value(json_object_get(item, key));
    return v && !strpbrk(v, ",\"\r\n") ? v : "";
}

static int month_csv(struct cli *c, const json_t *doc)
{
    size_t i;
    json_t *item;
    (void)puts("month,org_id,app,env,env_id,kind,quantity,unit,exact_quantity,exact_unit,final");
    json_array_foreach (json_object_get(doc, "items"), i, item) {
        char n[48];
        const char *unit = in_words(item, n);
        (void)printf("%s,%s,%s,%s,%s,%s,%s,%s,%" JSON_INTEGER_FORMAT ",%s,%s\n", cell(doc, "month"), c->org_id, cell(item, "app"), cell(item, "env"),
                     cell(item, "env_id"), cell(item, "kind"), n, unit, json_integer_value(json_object_get(item, "quantity")), cell(item, "unit"),
                     json_is_true(json_object_get(doc, "final")) ? "true" : "false");
    }
    return fflush(stdout) == 0 ? CLI_OK : cli_error(c, CLI_FAILURE, "standard output cannot be written", NULL);
}

/* Rows of environments, then those of the organisation. */
static int month_table(struct cli *c, const json_t *doc)
{
    static const struct cli_column cols[] = {{"APP", "app"}, {"ENV", "env"}, {"KIND", "kind"}, {"QUANTITY", "words"}, {"UNIT", "in"}};
    mt_auto_json json_t *rows = json_array();
    static const char *const lists[] = {"items", "totals"};
    for (size_t l = 0; l < 2; l++) {
        size_t i;
        json_t *item;
        json_array_foreach (json_object_get(doc, lists[l]), i, item) {
            char n[48];
            mt_auto_json json_t *row = json_copy(item);
            const char *unit = in_words(item, n);
            (void)json_object_set_new(row, "words", json_string(n));
            (void)json_object_set_new(row, "in", json_string(unit));
            if (l == 1)
                (void)json_object_set_new(row, "app", json_string("(all)"));
            (void)json_array_append(rows, row);
        }
    }
    if (!json_is_true(json_object_get(doc, "final")))
        cli_say(c, "the month goes on: as of %s", cell(doc, "as_of"));
    return cli_print_table(c, rows, cols, sizeof cols / sizeof cols[0], "usage");
}

static int month(struct cli *c, const char *which)
{
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    mt_auto_json json_t *doc = NULL;
    char now[MT_RFC3339_LEN];
    if (!*which) { /* this one */
        (void)mt_rfc3339(mt_clock_wall_us(), now);
        now[7] = '\0';
        which = now;
    }
    if (strlen(which) != 7 || strspn(which, "0123456789-") != 7)
        return cli_usage(c, "--month: a month of UTC such as 2026-11");
    if (cli_opt(c, "since") || cli_opt(c, "until"))
        return cli_usage(c, "--month is a whole month: leave out --since and --until");
    if (cli_has(c, "csv") && c->json)
        return cli_usage(c, "--csv and --json exclude each other");
    mt_buf_printf(&q, "/v1/orgs/%s/usage/month?month=%s", c->org_id, which);
    cli_put_filter(c, &q, "kind", "kind");
    if (cli_opt(c, "env"))
        mt_buf_printf(&q, "&env_id=%s", c->env_id);
    int code = cli_call(c, "GET", mt_buf_cstr(&q), NULL, &doc);
    if (code != CLI_OK)
        return code;
    return c->json ? cli_print_object(c, "UsageMonth", doc) : cli_has(c, "csv") ? month_csv(c, doc) : month_table(c, doc);
}

int cmd_usage(struct cli *c)
{
    int code = cli_need_org(c);
    if (code == CLI_OK && cli_opt(c, "env"))
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    if (cli_opt(c, "month"))
        return month(c, cli_opt(c, "month"));
    return cli_has(c, "csv") ? cli_usage(c, "--csv goes with --month") : by_hour(c);
}
