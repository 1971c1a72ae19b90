/* SPDX-License-Identifier: Apache-2.0 */
/* help, version and completion: what the table of commands says of itself. */
#include "cli/cli.h"

#include "base/str.h"

static const struct cli_command *named(const char *const *words, int n, const char *more)
{
    char name[96];
    if (snprintf(name, sizeof name, "%s%s%s%s%s%s", words[0], n > 1 ? " " : "", n > 1 ? words[1] : "", n > 2 ? " " : "", n > 2 ? words[2] : "",
                 more) >= (int)sizeof name)
        return NULL;
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (MT_STREQ(k->name, name))
            return k;
    return NULL;
}

const struct cli_command *cli_find_command(const char *first, const char *second, const char *third, int *ret_words)
{
    const char *const words[] = {first, second, third};
    int given = !second ? 1 : !third ? 2 : 3;
    for (int n = given; n > 0; n--) { /* as written; "routes" stands for "routes list" */
        const struct cli_command *k = named(words, n, "");
        *ret_words = n;
        if (k || (k = named(words, n, " list")))
            return k;
    }
    return NULL;
}

static void print_options(FILE *out, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[48];
        (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->short_name ? '-' : ' ', o->short_name ? o->short_name : ' ',
                       o->short_name ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        (void)fprintf(out, "  %-30s %s\n", left, o->help);
    }
}

static void print_command(FILE *out, const struct cli_command *k)
{
    char left[48];
    (void)snprintf(left, sizeof left, "%s %s", k->name, k->args);
    (void)fprintf(out, "  %-26s %s\n", left, k->summary);
}

static void help_of_command(FILE *out, const struct cli_command *k)
{
    (void)fprintf(out, "usage: moat %s%s%s [options]\n\n%s\n", k->name, *k->args ? " " : "", k->args, k->summary);
    if (k->options) {
        (void)fprintf(out, "\noptions:\n");
        print_options(out, k->options);
    }
    (void)fprintf(out, "\noptions of every command:\n");
    print_options(out, cli_global_options);
}

/* Commands of a noun, "routes ..."; false when there is none. */
static bool help_of_noun(FILE *out, const char *noun)
{
    size_t n = strlen(noun), found = 0;
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        if (strncmp(k->name, noun, n) != 0 || k->name[n] != ' ')
            continue;
        if (found++ == 0)
            (void)fprintf(out, "usage: moat %s COMMAND [options]\n\ncommands:\n", noun);
        print_command(out, k);
    }
    if (found)
        (void)fprintf(out, "\n`moat help %s COMMAND` shows the options.\n", noun);
    return found > 0;
}

bool cli_help(FILE *out, const char *topic)
{
    static const char *const title[CLI_GROUP_MAX] = {
        [CLI_PLATFORM] = "the platform", [CLI_APPS] = "apps", [CLI_LOOK] = "looking at what runs", [CLI_ROUTES] = "routes", [CLI_MORE] = "more"};
    if (topic) {
        char copy[128];
        (void)snprintf(copy, sizeof copy, "%s", topic);
        if (help_of_noun(out, copy))
            return true;
        const char *word[3] = {copy};
        int given = 1, words;
        for (char *blank = strchr(copy, ' '); blank && given < 3; blank = strchr(blank, ' ')) {
            *blank++ = '\0';
            word[given++] = blank;
        }
        const struct cli_command *k = cli_find_command(word[0], word[1], word[2], &words);
        if (!k || words < given)
            return false;
        help_of_command(out, k);
        return true;
    }
    (void)fprintf(out, "moat runs OCI images, each replica in its own microVM.\n\nusage: moat COMMAND [options]\n");
    for (enum cli_group g = 0; g < CLI_GROUP_MAX; g++) {
        (void)fprintf(out, "\n%s:\n", title[g]);
        for (const struct cli_command *k = cli_commands; k->name; k++)
            if (k->group == g)
                print_command(out, k);
    }
    (void)fprintf(out, "\n`moat help COMMAND` shows its options; a noun alone lists: `moat routes`, `moat releases`.\n");
    return true;
}

int cmd_help(struct cli *c)
{
    char topic[128];
    if (c->argc == 0)
        return cli_help(stdout, NULL) ? CLI_OK : CLI_INTERNAL;
    (void)snprintf(topic, sizeof topic, "%.40s%s%.40s%s%.40s", c->argv[0], c->argc > 1 ? " " : "", c->argc > 1 ? c->argv[1] : "",
                   c->argc > 2 ? " " : "", c->argc > 2 ? c->argv[2] : "");
    c->command = NULL; /* the hint is the list of all commands */
    return c->argc <= 3 && cli_help(stdout, topic) ? CLI_OK : cli_usage(c, "there is no command '%s'", topic);
}

int cmd_version(struct cli *c)
{
    if (!c->json) {
        (void)printf("moat %s\n", MOAT_VERSION);
        return CLI_OK;
    }
    mt_auto_json json_t *v = json_pack("{s:s}", "client_version", MOAT_VERSION);
    return cli_print_object(c, "Version", v);
}
