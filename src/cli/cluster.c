/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster as a whole: what it still takes. */
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
