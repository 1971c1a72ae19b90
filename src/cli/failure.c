/* SPDX-License-Identifier: Apache-2.0 */
/* What went wrong with an instance, as the API tells it under "failure": reason, exit code, last lines. */
#include "cli/cli.h"

#include "base/str.h"

#include <inttypes.h>

static void print_lines(struct cli *c, FILE *out, const json_t *lines, const char *what)
{
    size_t i;
    json_t *l;
    char safe[400];
    if (json_array_size(lines) == 0)
        return;
    (void)fprintf(out, "  last lines of the %s:\n", what);
    json_array_foreach(lines, i, l)
    {
        const char *t = json_string_value(l) ? json_string_value(l) : "";
        (void)fprintf(out, "    %s| %s%s\n", cli_color(c, "dim"), mt_printable(t, strlen(t), safe, sizeof safe), cli_color(c, "reset"));
    }
}

void cli_print_failure(struct cli *c, FILE *out, const json_t *failure)
{
    char safe[300];
    if (!failure)
        return;
    const char *detail = cli_str(failure, "reason_detail"), *text = cli_str(failure, "reason_text");
    (void)fprintf(out, "  %s%s%s %s: %s%s%s", cli_color(c, "red"), cli_str(failure, "status"), cli_color(c, "reset"), cli_str(failure, "instance_id"),
                  cli_str(failure, "reason_code"), *detail ? " " : "", mt_printable(detail, strlen(detail), safe, sizeof safe));
    if (cli_member(failure, "exit_code"))
        (void)fprintf(out, ", exit code %" PRId64, cli_int(failure, "exit_code"));
    (void)fprintf(out, "%s%s%s\n", *text ? " (" : "", text, *text ? ")" : "");
    print_lines(c, out, cli_member(failure, "last_lines"), "workload");
    /* the console tells only when the workload could not: kernel and init messages */
    if (json_array_size(cli_member(failure, "last_lines")) == 0)
        print_lines(c, out, cli_member(failure, "last_console"), "console");
}
