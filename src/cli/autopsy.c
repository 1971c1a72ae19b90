/* SPDX-License-Identifier: Apache-2.0 */
/* Attempts of instances that failed: reason, place, memory, health, last lines. Under a release, and with an instance. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

static const char *shown(const char *text, char *buf, size_t size)
{
    return mt_printable(text, strlen(text), buf, size);
}

static void print_lines(struct cli *c, const json_t *lines, const char *what)
{
    size_t i;
    json_t *l;
    char safe[700];
    if (json_array_size(lines) == 0)
        return;
    (void)printf("  last lines of the %s:\n", what);
    json_array_foreach((json_t *)(uintptr_t)lines, i, l)
    {
        const char *text = json_is_string(l) ? json_string_value(l) : cli_str(l, "line");
        bool err = MT_STREQ(cli_str(l, "stream"), "stderr");
        (void)printf("    %s| %s%s\n", cli_color(c, err ? "yellow" : "dim"), shown(text, safe, sizeof safe), cli_color(c, "reset"));
    }
}

static void print_health(struct cli *c, const json_t *h)
{
    char safe[700], path[300];
    if (!h)
        return;
    const char *error = cli_str(h, "error"), *p = cli_str(h, "path"), *body = cli_str(h, "body");
    (void)printf("  health     %s :%" PRId64 "%s, %" PRId64 " failures in a row%s%s\n", cli_str(h, "type"), cli_int(h, "port"), shown(p, path, sizeof path),
                 cli_int(h, "failures"), *error ? ": " : "", shown(error, safe, sizeof safe));
    if (*body)
        (void)printf("    %s| %s%s\n", cli_color(c, "dim"), shown(body, safe, sizeof safe), cli_color(c, "reset"));
}

static void print_memory(const json_t *oom)
{
    int64_t guest = cli_int(oom, "guest_kills"), cgroup = cli_int(oom, "cgroup_kills"), cap = cli_int(oom, "memory_bytes"), left = cli_int(oom, "memory_available_bytes");
    if (!cap && !guest && !cgroup)
        return;
    (void)printf("  memory     %" PRId64 " MiB", cap >> 20);
    if (left)
        (void)printf(", %" PRId64 " MiB available when last asked", left >> 20);
    if (guest || cgroup)
        (void)printf(", killed for want of memory: %" PRId64 " in the guest, %" PRId64 " by the host", guest, cgroup);
    (void)putchar('\n');
}

static void print_one(struct cli *c, const json_t *item)
{
    const json_t *r = cli_member(item, "record");
    char safe[700];
    const char *detail = cli_str(r, "reason_detail"), *text = cli_str(item, "reason_text"), *signal = cli_str(r, "signal"), *explain = cli_str(r, "explain");
    const char *phase = cli_str(r, "phase"), *step = cli_str(r, "step"), *vmm = cli_str(r, "vmm");
    (void)printf("%s%.19sZ%s %s %s%s%s: %s%s%s", cli_color(c, "bold"), cli_str(item, "ended_at"), cli_color(c, "reset"), cli_str(item, "process_type"),
                 cli_str(item, "instance_id"), *cli_str(item, "release") ? " " : "", cli_str(item, "release"), cli_color(c, "red"), cli_str(item, "reason_code"), cli_color(c, "reset"));
    if (cli_member(r, "exit_code"))
        (void)printf(", exit code %" PRId64, cli_int(r, "exit_code"));
    (void)printf("%s%s%s%s%s\n", *signal ? ", " : "", shown(signal, safe, sizeof safe), *text ? " (" : "", text, *text ? ")" : "");
    if (*detail)
        (void)printf("  detail     %s\n", shown(detail, safe, sizeof safe));
    if (*explain && !strstr(detail, explain))
        (void)printf("  explained  %s\n", shown(explain, safe, sizeof safe));
    (void)printf("  attempt    %" PRId64 "%s%s%s%s%s%s%s\n", cli_int(r, "boot_seq"), *phase ? ", while it was " : "", phase, *step ? " (" : "", step, *step ? ")" : "",
                 *vmm ? ", on " : "", vmm);
    print_memory(cli_member(r, "oom"));
    print_health(c, cli_member(r, "health"));
    print_lines(c, cli_member(r, "log"), "workload");
    print_lines(c, cli_member(r, "console"), "console");
}

void cli_print_autopsies(struct cli *c, const json_t *items)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)(uintptr_t)items, i, item) print_one(c, item);
}

int cli_autopsies(struct cli *c, const char *filter, const char *id, int limit, json_t **ret)
{
    mt_auto_json json_t *page = NULL;
    mt_auto_free char *path = id ? cli_env_path(c, "/autopsies?limit=%d&%s=%s", limit, filter, id) : cli_env_path(c, "/autopsies?limit=%d", limit);
    int code = cli_call(c, "GET", path, NULL, &page);
    if (code == CLI_OK)
        *ret = json_incref(json_object_get(page, "items"));
    return code;
}

int cmd_releases_autopsy(struct cli *c)
{
    char id[40] = "";
    mt_auto_json json_t *items = NULL;
    int code = cli_need_env(c);
    if (code == CLI_OK && c->argc > 0)
        code = cli_release_id(c, c->argv[0], id);
    if (code == CLI_OK)
        code = cli_autopsies(c, "release_id", *id ? id : NULL, 50, &items);
    if (code != CLI_OK)
        return code;
    if (!*id) { /* the release that failed last */
        (void)snprintf(id, sizeof id, "%s", cli_str(json_array_get(items, 0), "release_id"));
        for (size_t i = json_array_size(items); i-- > 0;)
            if (!MT_STREQ(cli_str(json_array_get(items, i), "release_id"), id))
                (void)json_array_remove(items, i);
    }
    if (c->json)
        return cli_print_list(c, items);
    if (json_array_size(items) == 0) {
        cli_say(c, c->argc > 0 ? "no autopsy: nothing of this release has failed here" : "no autopsy: nothing has failed here");
        return CLI_OK;
    }
    cli_name_releases(c, items);
    cli_print_autopsies(c, items);
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
