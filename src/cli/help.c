/* SPDX-License-Identifier: Apache-2.0 */
/* help, version and completion: what the table of commands says of itself. */
#include "cli/cli.h"

#include "base/str.h"

/*
 * "nodes describe" for "node describe", "env list" for "envs list", "node" for "nodes": nobody remembers which nouns we say in the plural. Not "restarts"
 * for "restart": who types it wants to see something, not to do it.
 */
static bool same_but_number(const char *name, const char *typed)
{
    size_t n = strcspn(name, " "), m = strcspn(typed, " ");
    bool more = n == m + 1 && name[m] == 's', less = m == n + 1 && typed[n] == 's' && name[n] == ' ';
    return (more || less) && memcmp(name, typed, more ? m : n) == 0 && MT_STREQ(name + n, typed + m);
}

static bool same(const char *name, const char *typed)
{
    return MT_STREQ(name, typed);
}

static const struct cli_command *named(const char *const *words, int n, const char *more, bool (*is)(const char *name, const char *typed))
{
    char name[96];
    if (snprintf(name, sizeof name, "%s%s%s%s%s%s", words[0], n > 1 ? " " : "", n > 1 ? words[1] : "", n > 2 ? " " : "", n > 2 ? words[2] : "",
                 more) >= (int)sizeof name)
        return NULL;
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (is(k->name, name))
            return k;
    return NULL;
}

const struct cli_command *cli_find_command(const char *first, const char *second, const char *third, int *ret_words)
{
    const char *const words[] = {first, second, third};
    int given = !second ? 1 : !third ? 2 : 3;
    for (int n = given; n > 0; n--) { /* as written; "routes" stands for "routes list" */
        const struct cli_command *k = named(words, n, "", same);
        *ret_words = n;
        if (k || (k = named(words, n, " list", same)) || (k = named(words, n, "", same_but_number)) || (k = named(words, n, " list", same_but_number)))
            return k;
    }
    return NULL;
}

static void print_options(FILE *out, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[48];
        if (MT_STREQ(o->name, "token")) /* it works, but a token on a command line is seen by all of the machine: MOAT_TOKEN is not */
            continue;
        (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->short_name ? '-' : ' ', o->short_name ? o->short_name : ' ',
                       o->short_name ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        (void)fprintf(out, "  %-30s %s\n", left, o->help);
    }
}

static void print_command(FILE *out, const struct cli_command *k)
{
    char left[48];
    (void)snprintf(left, sizeof left, "%s %s", k->name, k->args);
    (void)fprintf(out, "  %-26s%s %s\n", left, strlen(left) > 26 ? " " : "", k->summary); /* two blanks part them, however long the left is */
}

static void help_of_command(FILE *out, const struct cli_command *k)
{
    const struct cli_page *page = cli_page_of(k->name);
    (void)fprintf(out, "usage: moat %s%s%s [options]\n\n%s\n", k->name, *k->args ? " " : "", k->args, k->summary);
    if (page)
        (void)fprintf(out, "\n%s\n", page->text);
    if (k->options) {
        (void)fprintf(out, "\noptions:\n");
        print_options(out, k->options);
    }
    if (page && page->examples)
        (void)fprintf(out, "\nexamples:\n%s\n", page->examples);
    (void)fprintf(out, "\n`moat help options` shows the options of every command, `moat help exit-codes` what it may end with.\n");
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

/* True for a command of exactly this name: "logs" is one, although "logs tail" is another. */
static bool exact(const char *name)
{
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (MT_STREQ(k->name, name))
            return true;
    return false;
}

bool cli_help(FILE *out, const char *topic)
{
    static const char *const title[CLI_GROUP_MAX] = {
        [CLI_PLATFORM] = "the platform", [CLI_APPS] = "apps", [CLI_LOOK] = "looking at what runs", [CLI_ROUTES] = "routes", [CLI_MORE] = "more"};
    if (topic) {
        char copy[128];
        (void)snprintf(copy, sizeof copy, "%s", topic);
        const struct cli_page *page = cli_topic(copy);
        if (MT_STREQ(copy, "options")) {
            (void)fprintf(out, "options of every command:\n");
            print_options(out, cli_global_options);
            return true;
        }
        if (MT_STREQ(copy, "man")) {
            cli_man(out);
            return true;
        }
        if (page) {
            (void)fprintf(out, "%s\n", page->text);
            return true;
        }
        if (!exact(copy) && help_of_noun(out, copy))
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
    (void)fprintf(out, "\n`moat help COMMAND` shows its options; a noun alone lists: `moat routes`, `moat releases`.\n"
                       "topics: `moat help options`, `moat help exit-codes`, `moat help environment`.\n");
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
    mt_auto_json json_t *server = NULL;
    if (!cli_has(c, "client")) {
        c->hush = true; /* the version of this program is worth knowing without a server, too */
        c->timeout_ms = c->timeout_ms < 5000 ? c->timeout_ms : 5000;
        if (cli_connect(c) == CLI_OK)
            (void)cli_call_once(c, "/v1/capabilities", &server);
        c->hush = false;
    }
    const char *v = cli_str(server, "server_version");
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:s?}", "client_version", MOAT_VERSION, "server_version", *v ? v : NULL);
        return cli_print_object(c, "Version", j);
    }
    (void)printf("moat %s\n", MOAT_VERSION);
    if (*v)
        (void)printf("server %s\n", v);
    return CLI_OK;
}
