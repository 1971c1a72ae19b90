/* SPDX-License-Identifier: Apache-2.0 */
/* The command line against the table of commands: options anywhere, what is unknown is named with what is near. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/str.h"
#include "model/names.h"

#include <getopt.h>
#include <unistd.h>

const char *cli_opt_n(const struct cli *c, const char *name, size_t i)
{
    for (size_t k = 0; k < c->value_count; k++)
        if (MT_STREQ(c->values[k].name, name) && i-- == 0)
            return c->values[k].value;
    return NULL;
}

const char *cli_opt(const struct cli *c, const char *name)
{
    const char *last = NULL;
    for (size_t k = 0; k < c->value_count; k++)
        if (MT_STREQ(c->values[k].name, name))
            last = c->values[k].value;
    return last;
}

bool cli_has(const struct cli *c, const char *name)
{
    return cli_opt(c, name) != NULL;
}

enum { OPTION_BASE = 256 };

static size_t add_options(struct option *longs, size_t n, const struct cli_option **by_index, char *shorts, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        longs[n] = (struct option){.name = o->name, .has_arg = o->arg ? required_argument : no_argument, .val = (int)(OPTION_BASE + n)};
        by_index[n] = o;
        n++;
        if (o->short_name && !strchr(shorts + 2, o->short_name)) {
            size_t k = strlen(shorts);
            shorts[k++] = o->short_name;
            if (o->arg)
                shorts[k++] = ':';
            shorts[k] = '\0';
        }
    }
    return n;
}

/* Global options may stand before the command: bring the @words of the command to the front. */
static void command_first(int argc, char **argv)
{
    int i = 1, words;
    while (i < argc && argv[i][0] == '-') {
        const struct cli_option *o = cli_global_options;
        const char *name = argv[i] + 2;
        size_t n = strcspn(argv[i][1] == '-' ? name : "", "=");
        bool is_long = argv[i][1] == '-' && n > 0;
        for (; o->name; o++)
            if (is_long ? strlen(o->name) == n && memcmp(o->name, name, n) == 0 : o->short_name && argv[i][1] == o->short_name)
                break;
        if (!o->name)
            return;
        i += o->arg && !(is_long ? name[n] : argv[i][2]) ? 2 : 1;
    }
    if (i == 1 || i >= argc)
        return;
    (void)cli_find_command(argv[i], i + 1 < argc ? argv[i + 1] : NULL, i + 2 < argc ? argv[i + 2] : NULL, &words);
    for (int w = 0; w < words; w++) {
        char *word = argv[i + w];
        memmove(argv + 2 + w, argv + 1 + w, (size_t)(i - 1) * sizeof *argv);
        argv[1 + w] = word;
    }
}

/* Nothing is called @first @second: say what is near, or what the noun can do. */
static int unknown_command(struct cli *c, const char *first, const char *second)
{
    const char *names[256], *kind = second ? second : "";
    char two[128], verbs[600] = "";
    size_t n = 0, used = 0, len = strlen(first);
    (void)snprintf(two, sizeof two, "%.60s%s%.60s", first, second ? " " : "", kind);
    for (const struct cli_command *k = cli_commands; k->name && n + 1 < MT_ARRAY_LEN(names); k++) {
        names[n++] = k->name;
        if (strncmp(k->name, first, len) == 0 && k->name[len] == ' ') {
            int w = snprintf(verbs + used, sizeof verbs - used, "%s%s", used ? ", " : "", k->name + len + 1);
            used += w > 0 && (size_t)w < sizeof verbs - used ? (size_t)w : 0;
        }
    }
    names[n] = NULL;
    c->command = NULL;
    if (used && !second)
        return cli_usage(c, "'%.40s' needs one of: %s", first, verbs);
    const char *near = mt_nearest(two, names);
    if (used)
        return near && MT_STREQ(near, two) ? cli_usage(c, "write '%s' directly after '%s'", kind, first)
               : near                      ? cli_usage(c, "unknown command '%.80s', did you mean '%s'?", two, near)
                                           : cli_usage(c, "unknown command '%.80s': '%s' knows %s", two, first, verbs);
    near = mt_nearest(first, names);
    return near ? cli_usage(c, "unknown command '%.40s', did you mean '%s'?", first, near) : cli_usage(c, "unknown command '%.40s'", first);
}

/* getopt stopped at something that is no option of the command. */
static int unknown_option(struct cli *c, const char *word, const struct cli_option *const *known, size_t n)
{
    const char *names[65];
    if (optopt >= OPTION_BASE)
        return cli_usage(c, "option '--%s' takes no value", known[optopt - OPTION_BASE]->name);
    if (optopt)
        return cli_usage(c, "unknown option '-%c'", optopt);
    for (size_t i = 0; i < n; i++)
        names[i] = known[i]->name;
    names[n] = NULL;
    const char *near = mt_starts_with(word, "--") ? mt_nearest(word + 2, names) : NULL;
    return near ? cli_usage(c, "unknown option '%.40s', did you mean '--%s'?", word, near) : cli_usage(c, "unknown option '%.40s'", word);
}

/* The value of an option may be left out where nothing but options follows: getopt would take one of those for it. */
static char *without_value(const struct cli_option *o, int argc, char **argv, int i)
{
    static char empty[40];
    for (; o && o->name; o++)
        if (o->arg && o->arg[0] == '[' && mt_starts_with(argv[i], "--") && MT_STREQ(argv[i] + 2, o->name) && (i + 1 == argc || argv[i + 1][0] == '-')) {
            (void)snprintf(empty, sizeof empty, "--%s=", o->name);
            return empty;
        }
    return argv[i];
}

/* Options of the command line behind the command; argv[0] is its last word. */
static int parse_options(struct cli *c, int argc, char **argv)
{
    struct option longs[64] = {0};
    const struct cli_option *by_index[64];
    char shorts[64] = ": "; /* leading ':': a missing value is told apart; the blank matches no option */
    size_t n = add_options(longs, 0, by_index, shorts, c->command->options);
    n = add_options(longs, n, by_index, shorts, cli_global_options);
    c->behind_dashes = -1;
    for (int i = 1; i < argc && c->behind_dashes < 0; i++) /* getopt takes the -- away */
        c->behind_dashes = MT_STREQ(argv[i], "--") ? argc - i - 1 : -1;
    for (int i = 1; i < argc && !MT_STREQ(argv[i], "--"); i++)
        argv[i] = without_value(c->command->options, argc, argv, i);
    optind = 0; /* glibc: begin anew, whatever was parsed before */
    opterr = 0;
    for (int k; (k = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
        const struct cli_option *o = k >= OPTION_BASE ? by_index[k - OPTION_BASE] : NULL;
        if (k == ':')
            return cli_usage(c, "option '%.40s' needs a value", argv[optind - 1]);
        if (k == '?')
            return unknown_option(c, argv[optind - 1], by_index, n);
        for (size_t i = 0; i < n && !o; i++)
            o = by_index[i]->short_name == k ? by_index[i] : NULL;
        if (!o)
            return unknown_option(c, argv[optind - 1], by_index, n);
        if (c->value_count == MT_ARRAY_LEN(c->values))
            return cli_usage(c, "more than %zu options", MT_ARRAY_LEN(c->values));
        c->values[c->value_count++] = (struct cli_value){o->name, o->arg ? optarg : ""};
    }
    c->argc = argc - optind;
    c->argv = argv + optind;
    return 0;
}

/* What the global options mean. */
static int settle(struct cli *c)
{
    const char *mode = cli_opt(c, "output") ? cli_opt(c, "output") : getenv("MOAT_OUTPUT");
    if (mode && *mode && !MT_STREQ(mode, "table") && !MT_STREQ(mode, "wide") && !MT_STREQ(mode, "json"))
        return cli_usage(c, "%s: '%.20s' is not table, wide or json", cli_opt(c, "output") ? "--output" : "MOAT_OUTPUT", mode);
    c->ndjson = cli_has(c, "ndjson");
    c->json = cli_has(c, "json") || c->ndjson || (mode && MT_STREQ(mode, "json"));
    c->wide = mode && MT_STREQ(mode, "wide");
    c->quiet = cli_has(c, "quiet");
    c->debug = cli_has(c, "debug");
    c->tty = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
    c->color = c->tty && !c->json && !cli_has(c, "no-color") && !getenv("NO_COLOR");
    c->timeout_ms = 30000;
    c->wait_ms = 15 * 60 * 1000;
    struct mt_err err;
    if (cli_has(c, "timeout") && cli_parse_duration(cli_opt(c, "timeout"), &c->timeout_ms, &err) < 0)
        return cli_usage(c, "--timeout: %s", err.msg);
    if (cli_has(c, "wait-timeout") && cli_parse_duration(cli_opt(c, "wait-timeout"), &c->wait_ms, &err) < 0) /* known before anything is changed */
        return cli_usage(c, "--wait-timeout: %s", err.msg);
    const char *key = cli_opt(c, "idempotency-key");
    if (key && !mt_idempotency_key_valid(key, strlen(key)))
        return cli_usage(c, "--idempotency-key: 1 to 128 printable characters without blanks");
    if (key)
        (void)snprintf(c->idempotency_key, sizeof c->idempotency_key, "%s", key);
    return 0;
}

/* The specification's runbooks say "admin nodes drain" for what is "nodes drain" here; other words behind "admin" are commands of their own. */
static bool stands_without_admin(int argc, char **argv)
{
    static const char *const nouns[] = {"node", "nodes", "capacity", "simulate", "net"};
    for (size_t i = 0; argc > 2 && MT_STREQ(argv[1], "admin") && i < MT_ARRAY_LEN(nouns); i++)
        if (MT_STREQ(argv[2], nouns[i]))
            return true;
    return false;
}

/* Take @argv[@at] out, by moving what is before it. */
static void leave_out(int *argc, char ***argv, int at)
{
    memmove(*argv + 1, *argv, (size_t)at * sizeof **argv);
    ++*argv;
    --*argc;
}

int cli_parse(struct cli *c, int argc, char **argv)
{
    if (argc < 2) {
        (void)cli_help(stderr, NULL);
        return CLI_USAGE;
    }
    if (stands_without_admin(argc, argv)) {
        leave_out(&argc, &argv, 1);
        if (argc > 2 && MT_STREQ(argv[1], "capacity") && MT_STREQ(argv[2], "report"))
            leave_out(&argc, &argv, 2);
    }
    command_first(argc, argv);
    if (MT_STREQ(argv[1], "--help") || MT_STREQ(argv[1], "-h")) {
        (void)cli_help(stdout, NULL);
        return -1;
    }
    for (int i = 1; i < argc && !MT_STREQ(argv[i], "--"); i++) /* so that the first error is printed in the right mode */
        c->json = c->json || MT_STREQ(argv[i], "--json") || MT_STREQ(argv[i], "--ndjson") || MT_STREQ(argv[i], "--output=json") ||
                  ((MT_STREQ(argv[i], "--output") || MT_STREQ(argv[i], "-o")) && i + 1 < argc && MT_STREQ(argv[i + 1], "json"));
    if (argv[1][0] == '-' && !MT_STREQ(argv[1], "--version"))
        return cli_usage(c, "no command is given");
    int words;
    c->command = cli_find_command(MT_STREQ(argv[1], "--version") ? "version" : argv[1], argc > 2 ? argv[2] : NULL,
                                  argc > 3 ? argv[3] : NULL, &words);
    if (!c->command)
        return unknown_command(c, argv[1], NULL);
    int code = parse_options(c, argc - words, argv + words);
    if (code != 0)
        return code;
    if (cli_has(c, "help")) {
        (void)cli_help(stdout, c->command->name);
        return -1;
    }
    code = settle(c);
    if (code != 0)
        return code;
    if (words == 1 && c->argc > 0 && strchr(c->command->name, ' ')) /* "routes" stands for "routes list": a verb it does not know */
        return unknown_command(c, argv[1], c->argv[0]);
    const char *usage_args = c->command->args;
    int max = 0, min = 0; /* one for each word, "[WORD]" may be left out, "WORD..." repeats */
    for (const char *p = usage_args; *p; p += strcspn(p, " ")) {
        p += strspn(p, " ");
        max += *p != 0;
        min += *p && *p != '[';
    }
    max = strstr(usage_args, "...") ? 1000 : max;
    if (c->argc > max)
        return cli_usage(c, "'%.60s' is one argument too many", c->argv[max]);
    if (c->argc < min)
        return c->argc ? cli_usage(c, "'%s': the last one is missing", usage_args) : cli_usage(c, "%s is missing", usage_args);
    return 0;
}

int cli_parse_duration(const char *s, int64_t *ret_ms, struct mt_err *err)
{
    static const struct { const char *unit; int64_t ms; } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    char *end;
    errno = 0;
    unsigned long long v = *s >= '0' && *s <= '9' ? strtoull(s, &end, 10) : 0;
    if (*s >= '0' && *s <= '9' && errno == 0 && v <= 1000000)
        for (size_t i = 0; i < MT_ARRAY_LEN(units); i++)
            if (MT_STREQ(end, units[i].unit)) {
                *ret_ms = (int64_t)v * units[i].ms;
                return 0;
            }
    return MT_FAIL(err, MT_E_INVALID, "'%.20s' is not a duration such as 500ms, 30s, 5m, 1h", s);
}
