/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster as a whole: what it still takes, and what the loss or the drain of a machine would do to it. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

#define GIB (1024.0 * 1024.0 * 1024.0)

/* Append {resource, has, promised, free} in words, @unit to the one of @per. */
static void row(json_t *rows, const char *resource, int64_t has, int64_t used, double per, const char *unit)
{
    char a[40], b[40], c[40];
    (void)snprintf(a, sizeof a, "%.1f%s", (double)has / per, unit);
    (void)snprintf(b, sizeof b, "%.1f%s", (double)used / per, unit);
    (void)snprintf(c, sizeof c, "%.1f%s", (double)(has - used) / per, unit);
    (void)json_array_append_new(rows, json_pack("{s:s,s:s,s:s,s:s}", "resource", resource, "has", a, "promised", b, "free", c));
}

static int print_capacity(struct cli *c, const json_t *k)
{
    static const struct cli_column cols[] = {{"RESOURCE", "resource"}, {"HAS", "has"}, {"PROMISED", "promised"}, {"FREE", "free"}};
    mt_auto_json json_t *rows = json_array();
    int64_t left = cli_int(k, "headroom_memory_bytes");
    const char *worst = cli_str(k, "worst_node_id");
    row(rows, "memory", cli_int(k, "allocatable.memory_bytes"), cli_int(k, "used.memory_bytes"), GIB, " GiB");
    row(rows, "cpu", cli_int(k, "allocatable.cpu_millis"), cli_int(k, "used.cpu_millis"), 1000, "");
    row(rows, "scratch", cli_int(k, "allocatable.disk_bytes"), cli_int(k, "used.disk_bytes"), GIB, " GiB");
    int code = cli_print_table(c, rows, cols, MT_ARRAY_LEN(cols), "resources");
    if (code != CLI_OK || c->quiet)
        return code;
    (void)printf("\nnodes that take work: %" PRId64 " of %" PRId64 "\n", cli_int(k, "eligible_nodes"), cli_int(k, "nodes"));
    (void)printf("largest instance that still fits: %.1f GiB\n", (double)cli_int(k, "largest_instance_memory_bytes") / GIB);
    if (*worst && left >= 0)
        (void)printf("after the loss of %s: %.1f GiB of memory left\n", worst, (double)left / GIB);
    else if (*worst)
        (void)printf("after the loss of %s: %.1f GiB of memory are missing, so not all would run\n", worst, (double)-left / GIB);
    return CLI_OK;
}

int cmd_capacity(struct cli *c)
{
    mt_auto_json json_t *k = NULL;
    int code = cli_connect(c);
    if (code != CLI_OK || (code = cli_call(c, "GET", "/v1/admin/capacity", NULL, &k)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Capacity", k);
    cli_tame(k);
    return print_capacity(c, k);
}

/* ---- moat simulate ---- */

/* "a 2, b 1": where a process would start again. */
static void put_places(const json_t *group, char *out, size_t n)
{
    size_t at = 0, i;
    json_t *p;
    out[0] = '\0';
    json_array_foreach(json_object_get(group, "restart_on"), i, p)
        if (at < n)
            at += (size_t)snprintf(out + at, n - at, "%s%s %" PRId64, i ? ", " : "", cli_str(p, "name"), cli_int(p, "instances"));
}

/* What is wrong with a group, in words; "" when all of it starts again. */
static void put_trouble(const json_t *group, bool drain, char *out, size_t n)
{
    int64_t missing = cli_int(group, "missing"), stay = cli_int(group, "stay");
    const char *reason = cli_str(group, "reason"), *detail = cli_str(group, "detail");
    out[0] = '\0';
    if (missing)
        (void)snprintf(out, n, "%" PRId64 " %s: %s%s%s%s", missing, drain ? "cannot leave" : "do not fit", *reason ? reason : "no reason known", *detail ? " (" : "", detail,
                       *detail ? ")" : "");
    else if (stay)
        (void)snprintf(out, n, "%" PRId64 " %s", stay, drain ? "stays: its volume is there" : "waits for the machine: its volume is there");
    else if (!drain && cli_int(group, "ready_elsewhere") == 0)
        (void)snprintf(out, n, "down until it has started");
}

static json_t *group_rows(const json_t *s, bool drain)
{
    json_t *rows = json_array(), *g;
    size_t i;
    json_array_foreach(json_object_get(s, "groups"), i, g)
    {
        char places[400], trouble[400], name[300];
        put_places(g, places, sizeof places);
        put_trouble(g, drain, trouble, sizeof trouble);
        (void)snprintf(name, sizeof name, "%s/%s/%s", cli_str(g, "app"), cli_str(g, "env"), cli_str(g, "process_type"));
        (void)json_array_append_new(rows, json_pack("{s:s,s:I,s:I,s:s,s:s}", "process", name, "there", cli_int(g, "instances"), "elsewhere",
                                                    cli_int(g, "ready_elsewhere"), "to", places, "trouble", trouble));
    }
    return rows;
}

static json_t *volume_rows(const json_t *s, bool drain)
{
    json_t *rows = json_array(), *v;
    size_t i;
    json_array_foreach(json_object_get(s, "volumes"), i, v)
    {
        char size[40], loses[560], where[200];
        const char *backup = cli_str(v, "last_backup_at");
        (void)snprintf(size, sizeof size, "%.1f GiB", (double)cli_int(v, "size_bytes") / GIB);
        if (drain && *cli_str(v, "moves_to"))
            (void)snprintf(loses, sizeof loses, "moves to %s", cli_str(v, "moves_to"));
        else if (drain)
            (void)snprintf(loses, sizeof loses, "stays: %s", *cli_str(v, "not_moved") ? cli_str(v, "not_moved") : "not looked at");
        else if (*backup)
            (void)snprintf(loses, sizeof loses, "%" PRId64 " min", (cli_int(v, "loses_seconds") + 59) / 60);
        else
            (void)snprintf(loses, sizeof loses, "all: no backup is known");
        (void)snprintf(where, sizeof where, "%s/%s", cli_str(v, "app"), cli_str(v, "env"));
        (void)json_array_append_new(rows, json_pack("{s:s,s:s,s:s,s:s,s:s}", "name", cli_str(v, "name"), "where", where, "size", size, "backup",
                                                    *backup ? backup : "unknown", "loses", loses));
    }
    return rows;
}

static int print_simulation(struct cli *c, const json_t *s, bool drain)
{
    static const struct cli_column groups[] = {{"PROCESS", "process"}, {"THERE", "there"}, {"READY ELSEWHERE", "elsewhere"}, {"RESTART ON", "to"}, {"BUT", "trouble"}};
    static const struct cli_column volumes[] = {{"VOLUME", "name"}, {"OF", "where"}, {"SIZE", "size"}, {"LAST BACKUP", "backup"}, {"LOSES", "loses"}};
    static const struct cli_column moves[] = {{"VOLUME", "name"}, {"OF", "where"}, {"SIZE", "size"}, {"LAST BACKUP", "backup"}, {"WITH --stateful migrate", "loses"}};
    mt_auto_json json_t *g = group_rows(s, drain), *v = volume_rows(s, drain);
    int code = json_array_size(g) ? cli_print_table(c, g, groups, MT_ARRAY_LEN(groups), "processes") : CLI_OK;
    if (code == CLI_OK && json_array_size(v)) {
        if (json_array_size(g))
            (void)printf("\n");
        code = cli_print_table(c, v, drain ? moves : volumes, MT_ARRAY_LEN(volumes), "volumes");
    }
    if (code == CLI_OK)
        cli_say(c, "%s of %s: of %" PRId64 " instances %" PRId64 " would restart elsewhere, %" PRId64 " %s, %" PRId64 " stay with their volumes; nothing was changed",
                drain ? "a drain" : "the loss", cli_str(s, "name"), cli_int(s, "instances"), cli_int(s, "restart"), cli_int(s, "missing"),
                drain ? "could not leave" : "would not fit", cli_int(s, "stay"));
    return code;
}

static int simulate(struct cli *c, bool drain)
{
    mt_auto_json json_t *n = NULL, *s = NULL;
    char path[120];
    int code = cli_find_node(c, c->argv[0], &n);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/nodes/%s/simulate/%s", cli_str(n, "id"), drain ? "drain" : "loss");
    if ((code = cli_call(c, "GET", path, NULL, &s)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Simulation", s);
    cli_tame(s);
    return print_simulation(c, s, drain);
}

int cmd_simulate_loss(struct cli *c)
{
    return simulate(c, false);
}

int cmd_simulate_drain(struct cli *c)
{
    return simulate(c, true);
}
