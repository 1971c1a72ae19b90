/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: one table of commands drives parsing and help. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/str.h"

#include <getopt.h>
#include <unistd.h>

static const struct cli_option global_options[] = {
    {"org", 0, "NAME", "organisation"},
    {"app", 'a', "NAME", "app"},
    {"env", 'e', "NAME", "environment"},
    {"api", 0, "URL", "server, unix:/path/to/api.sock"},
    {"token", 0, "TOKEN", "bearer token (rather MOAT_TOKEN or the configuration)"},
    {"json", 0, NULL, "one JSON document on stdout (streams: one object per line)"},
    {"quiet", 'q', NULL, "ids only"},
    {"no-color", 0, NULL, "no colours"},
    {"no-input", 0, NULL, "never ask"},
    {"yes", 'y', NULL, "do not ask for confirmation"},
    {"idempotency-key", 0, "KEY", "pin the key of a mutation, so that a script may repeat it"},
    {"timeout", 0, "DURATION", "limit for one request (default 30s)"},
    {"debug", 0, NULL, "show each request on stderr"},
    {"help", 'h', NULL, "this help"},
    {NULL, 0, NULL, NULL},
};

static const struct cli_option wait_options[] = {
    {"wait", 0, NULL, "wait until it has converged (default on a terminal)"},
    {"no-wait", 0, NULL, "return once it is accepted"},
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"},
    {NULL, 0, NULL, NULL},
};

static const struct cli_option up_options[] = {
    {"data-dir", 0, "DIR", "folder of everything it keeps (default /var/lib/moat)"},
    {"vmm", 0, "DRIVER", "auto, firecracker or qemu (default auto)"},
    {"listen", 0, "ADDRESS", "address the edge serves (default [::])"},
    {"tls-port", 0, "PORT", "local port for routes of port 443 (default 443, or the next free one from 8443)"},
    {"registry", 0, "HOST:PORT", "use this registry and start none"},
    {"detach", 'd', NULL, "return when it is ready and leave it running"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option down_options[] = {
    {"data-dir", 0, "DIR", "folder given to moat up (default /var/lib/moat)"},
    {"purge", 0, NULL, "remove the data too"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option doctor_options[] = {
    {"data-dir", 0, "DIR", "folder given to moat up (default /var/lib/moat)"},
    {NULL, 0, NULL, NULL},
};
#define MANIFEST_OPTION {"manifest", 'f', "PATH", "manifest (default moat.toml; - reads stdin)"}
#define GENERATE_OPTIONS \
    {"name", 0, "APP", "app name (default: from the image)"}, {"port", 'p', "PORT", "port the process listens on"}, \
    {"hostname", 0, "HOST", "public host name of the port"}, {"memory", 0, "SIZE", "memory cap, e.g. 256Mi (default 256Mi)"}
static const struct cli_option init_options[] = {
    {"image", 0, "REF", "image reference"},
    GENERATE_OPTIONS,
    MANIFEST_OPTION,
    {"force", 0, NULL, "replace an existing manifest"},
    {NULL, 0, NULL, NULL},
};
#define WAIT_OPTIONS \
    {"wait", 0, NULL, "wait until it has converged (default on a terminal)"}, {"no-wait", 0, NULL, "return once it is accepted"}, \
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"}
static const struct cli_option run_options[] = {GENERATE_OPTIONS, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option deploy_options[] = {
    MANIFEST_OPTION,
    {"image", 0, "REF", "image, instead of the manifest's"},
    {"release", 0, "RELEASE", "deploy an existing release (v3 or its id)"},
    {"process", 0, "NAME", "only this process type; may be repeated"},
    {"on-failure", 0, "ACTION", "hold (default) or rollback"},
    {"note", 0, "TEXT", "kept with the deploy"},
    {"dry-run", 0, NULL, "run all checks, change nothing"},
    {"force", 0, NULL, "deploy even if a route loses its port"},
    WAIT_OPTIONS,
    {NULL, 0, NULL, NULL},
};
static const struct cli_option rollback_options[] = {
    {"to", 0, "RELEASE", "release to go back to (default: the last one that succeeded)"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option process_wait_options[] = {{"process", 0, "NAME", "only this process type; may be repeated"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option status_options[] = {{"watch", 'w', NULL, "refresh until interrupted"}, {NULL, 0, NULL, NULL}};
static const struct cli_option instances_options[] = {
    {"all", 0, NULL, "stopped ones too"}, {"process", 0, "NAME", "only this process type"}, {NULL, 0, NULL, NULL}};
static const struct cli_option logs_options[] = {
    {"follow", 'f', NULL, "keep printing what comes"},
    {"process", 0, "NAME", "only this process type"},
    {"instance", 0, "ID", "only this instance"},
    {"lines", 'n', "N", "at most this many lines of history (default 100)"},
    {"since", 0, "TIME", "from this RFC 3339 time"},
    {"stream", 0, "NAME", "stdout, stderr or system"},
    {"contains", 0, "TEXT", "only lines that hold this text"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option events_options[] = {
    {"follow", 'f', NULL, "keep printing what comes"},
    {"type", 0, "TYPE", "event type, or a prefix such as instance.*"},
    {"deploy", 0, "ID", "only what this deploy caused"},
    {"instance", 0, "ID", "only this instance"},
    {"after", 0, "EVENT_ID", "only later events"},
    {"lines", 'n', "N", "at most this many (default 50)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option routes_list_options[] = {{"all", 0, NULL, "routes of every environment"}, {NULL, 0, NULL, NULL}};
static const struct cli_option routes_create_options[] = {
    {"process", 0, "NAME", "process type behind it (default web)"},
    {"port", 'p', "PORT", "port of that process"},
    {"listen", 0, "PORT", "public port (default 443)"},
    {"raw", 0, NULL, "raw TCP by port instead of TLS by host name"},
    {"proxy", 0, "v2", "send a PROXY protocol v2 header; the process must expect it"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option manifest_options[] = {MANIFEST_OPTION, {NULL, 0, NULL, NULL}};

const struct cli_command cli_commands[] = {
    {"up", "", "run a whole platform on this machine", up_options, cmd_up},
    {"down", "", "stop what `moat up` runs", down_options, cmd_down},
    {"doctor", "", "check this machine and the connection to the platform", doctor_options, cmd_doctor},
    {"run", "IMAGE", "deploy an image without a file: makes and shows the manifest", run_options, cmd_run},
    {"init", "", "write a minimal moat.toml", init_options, cmd_init},
    {"deploy", "", "make a release of moat.toml and roll it out", deploy_options, cmd_deploy},
    {"rollback", "", "go back to an earlier release", rollback_options, cmd_rollback},
    {"scale", "[PROCESS=N]...", "set or show the number of replicas", wait_options, cmd_scale},
    {"restart", "", "rolling restart", process_wait_options, cmd_restart},
    {"status", "", "desired and observed state, and why they differ", status_options, cmd_status},
    {"ps", "", "instances of the environment (instances list)", instances_options, cmd_instances_list},
    {"logs", "", "log lines of the environment", logs_options, cmd_logs},
    {"events", "", "what happened", events_options, cmd_events},
    {"releases", "", "releases of the app (releases list)", NULL, cmd_releases_list},
    {"releases list", "", "releases of the app", NULL, cmd_releases_list},
    {"releases get", "RELEASE", "one release with its manifest", NULL, cmd_releases_get},
    {"deploys list", "", "deploys of the environment", NULL, cmd_deploys_list},
    {"deploys get", "ID", "one deploy", NULL, cmd_deploys_get},
    {"deploys wait", "ID", "wait until a deploy has ended", wait_options, cmd_deploys_wait},
    {"instances list", "", "instances of the environment", instances_options, cmd_instances_list},
    {"instances get", "ID", "one instance", NULL, cmd_instances_get},
    {"routes", "", "routes of the environment (routes list)", routes_list_options, cmd_routes_list},
    {"routes list", "", "routes of the environment", routes_list_options, cmd_routes_list},
    {"routes create", "[HOSTNAME]", "make a port of a process reachable", routes_create_options, cmd_routes_create},
    {"routes delete", "ID", "remove a route", NULL, cmd_routes_delete},
    {"apps list", "", "apps of the organisation", NULL, cmd_apps_list},
    {"apps create", "NAME", "make an app", NULL, cmd_apps_create},
    {"envs list", "", "environments of the app", NULL, cmd_envs_list},
    {"envs create", "NAME", "make an environment", NULL, cmd_envs_create},
    {"orgs list", "", "organisations you belong to", NULL, cmd_orgs_list},
    {"nodes", "", "machines of the platform", NULL, cmd_nodes_list},
    {"whoami", "", "who the token belongs to", NULL, cmd_whoami},
    {"manifest validate", "", "check a manifest, offline", manifest_options, cmd_manifest_validate},
    {"manifest show", "", "the manifest in canonical form, offline", manifest_options, cmd_manifest_show},
    {"version", "", "version of this program", NULL, cmd_version},
    {"help", "[COMMAND]", "help for a command", NULL, cmd_help},
    {NULL, NULL, NULL, NULL, NULL},
};

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

static void print_options(FILE *out, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[48];
        (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->short_name ? '-' : ' ', o->short_name ? o->short_name : ' ',
                       o->short_name ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        (void)fprintf(out, "  %-30s %s\n", left, o->help);
    }
}

static const struct cli_command *find_command(const char *first, const char *second, int *ret_words)
{
    char two[64];
    if (second && snprintf(two, sizeof two, "%s %s", first, second) < (int)sizeof two)
        for (const struct cli_command *k = cli_commands; k->name; k++)
            if (MT_STREQ(k->name, two)) {
                *ret_words = 2;
                return k;
            }
    *ret_words = 1;
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (MT_STREQ(k->name, first))
            return k;
    return NULL;
}

void cli_help(FILE *out, const char *topic)
{
    const struct cli_command *shown = NULL;
    if (topic) {
        char copy[64];
        (void)snprintf(copy, sizeof copy, "%s", topic);
        char *blank = strchr(copy, ' ');
        if (blank)
            *blank = '\0';
        int words;
        shown = find_command(copy, blank ? blank + 1 : NULL, &words);
    }
    if (shown) {
        (void)fprintf(out, "usage: moat %s%s%s [options]\n\n%s\n", shown->name, *shown->args ? " " : "", shown->args, shown->summary);
        if (shown->options) {
            (void)fprintf(out, "\noptions:\n");
            print_options(out, shown->options);
        }
        (void)fprintf(out, "\noptions of every command:\n");
        print_options(out, global_options);
        return;
    }
    (void)fprintf(out, "moat runs OCI images, each replica in its own microVM.\n\nusage: moat COMMAND [options]\n\ncommands:\n");
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        char left[48];
        (void)snprintf(left, sizeof left, "%s %s", k->name, k->args);
        (void)fprintf(out, "  %-26s %s\n", left, k->summary);
    }
    (void)fprintf(out, "\n`moat help COMMAND` shows its options.\n");
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

int cli_parse(struct cli *c, int argc, char **argv)
{
    if (argc < 2 || MT_STREQ(argv[1], "--help") || MT_STREQ(argv[1], "-h")) {
        cli_help(argc < 2 ? stderr : stdout, NULL);
        return argc < 2 ? CLI_USAGE : -1;
    }
    if (MT_STREQ(argv[1], "--version"))
        argv[1] = (char *)(uintptr_t)"version";
    int words;
    c->command = find_command(argv[1], argc > 2 ? argv[2] : NULL, &words);
    for (int i = 2; i < argc; i++) /* so that the first error is printed in the right mode */
        c->json = c->json || MT_STREQ(argv[i], "--json");
    if (!c->command) {
        const char *names[64];
        size_t n = 0;
        for (const struct cli_command *k = cli_commands; k->name && n + 1 < MT_ARRAY_LEN(names); k++)
            names[n++] = k->name;
        names[n] = NULL;
        const char *near = mt_nearest(argv[1], names);
        return near ? cli_usage(c, "unknown command '%.40s', did you mean '%s'?", argv[1], near) : cli_usage(c, "unknown command '%.40s'", argv[1]);
    }
    struct option longs[64] = {0};
    const struct cli_option *by_index[64];
    char shorts[64] = ": "; /* leading ':': a missing value is told apart; the blank matches no option */
    size_t n = add_options(longs, 0, by_index, shorts, c->command->options);
    n = add_options(longs, n, by_index, shorts, global_options);
    optind = 1 + words;
    opterr = 0;
    for (;;) {
        int at = optind;
        int k = getopt_long(argc, argv, shorts, longs, NULL);
        if (k == -1)
            break;
        const struct cli_option *o = NULL;
        if (k >= OPTION_BASE) {
            o = by_index[k - OPTION_BASE];
        } else if (k != '?' && k != ':') {
            for (size_t i = 0; i < n && !o; i++)
                o = by_index[i]->short_name == k ? by_index[i] : NULL;
        }
        if (k == ':')
            return cli_usage(c, "option '%.40s' needs a value", argv[optind - 1]);
        if (!o) {
            const char *word = argv[at < argc ? at : argc - 1], *names[65];
            for (size_t i = 0; i < n; i++)
                names[i] = by_index[i]->name;
            names[n] = NULL;
            const char *near = mt_starts_with(word, "--") ? mt_nearest(word + 2, names) : NULL;
            return near ? cli_usage(c, "unknown option '%.40s', did you mean '--%s'?", word, near) : cli_usage(c, "unknown option '%.40s'", word);
        }
        if (c->value_count == MT_ARRAY_LEN(c->values))
            return cli_usage(c, "more than %zu options", MT_ARRAY_LEN(c->values));
        c->values[c->value_count++] = (struct cli_value){o->name, o->arg ? optarg : ""};
    }
    c->argc = argc - optind;
    c->argv = argv + optind;
    if (cli_has(c, "help")) {
        cli_help(stdout, c->command->name);
        return -1;
    }
    c->json = cli_has(c, "json");
    c->quiet = cli_has(c, "quiet");
    c->debug = cli_has(c, "debug");
    c->tty = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
    c->color = c->tty && !c->json && !cli_has(c, "no-color") && !getenv("NO_COLOR");
    c->timeout_ms = 30000;
    struct mt_err err;
    if (cli_has(c, "timeout") && cli_parse_duration(cli_opt(c, "timeout"), &c->timeout_ms, &err) < 0)
        return cli_usage(c, "--timeout: %s", err.msg);
    const char *key = cli_opt(c, "idempotency-key");
    if (key && (strlen(key) > 64 || !*key || strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(key)))
        return cli_usage(c, "--idempotency-key: 1 to 64 letters, digits, '.', '_', '-'");
    if (key)
        (void)snprintf(c->idempotency_key, sizeof c->idempotency_key, "%s", key);
    const char *usage_args = c->command->args;
    int max = !*usage_args ? 0 : strstr(usage_args, "...") ? 1000 : 1;
    int min = *usage_args && *usage_args != '[' ? 1 : 0;
    if (c->argc > max)
        return cli_usage(c, "'%.60s' is one argument too many", c->argv[max]);
    if (c->argc < min)
        return cli_usage(c, "%s is missing", usage_args);
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
