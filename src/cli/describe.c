/* SPDX-License-Identifier: Apache-2.0 */
/* describe and wait: one object by kind and id, all there is to see of it, and waiting until it is as wanted (§15.3, §15.6). */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>
#include <unistd.h>

enum scope { ORG = 0, APP, ENV, PLATFORM };

static const struct kind {
    struct cli_kind k;
    enum scope scope;
    const char *path;      /* below its scope, before the id */
    const char *condition; /* what `wait` waits for; NULL: nothing to wait for */
    const char *failed;    /* states that never become it, ended by a blank each */
} kinds[] = {
    {{"app", "app_", "App", "moat apps"}, ORG, "/apps", NULL, ""},
    {{"env", "env_", "Env", "moat envs"}, APP, "/envs", NULL, ""},
    {{"release", "rel_", "Release", "moat releases"}, APP, "/releases", NULL, ""},
    {{"deploy", "dep_", "Deploy", "moat deploys"}, ENV, "/deploys", "succeeded", "failed superseded cancelled "},
    {{"instance", "inst_", "Instance", "moat ps"}, ENV, "/instances", "ready", "failed stopped exited lost "},
    {{"route", "rt_", "Route", "moat routes"}, ENV, "/routes", "active", "failed deleted conflict "},
    {{"volume", "vol_", "Volume", "moat volumes"}, ENV, "/volumes", "available", "error deleting deleted "},
    {{"snapshot", "snap_", "Snapshot", "moat snapshots"}, ENV, "/snapshots", "succeeded", "failed "},
    {{"restore", "rst_", "Restore", "moat restores"}, ORG, "/restores", "succeeded", "failed "},
    {{"migration", "mig_", "Migration", "moat migrations"}, ORG, "/migrations", "succeeded", "failed "},
    {{"secret-bundle", "sb_", "SecretBundle", "moat secrets"}, ENV, "/secrets", NULL, ""},
    {{"node", "node_", "Node", "moat nodes"}, PLATFORM, "/v1/nodes", NULL, ""},
};

const struct cli_kind *cli_kind_of(const char *word)
{
    for (size_t i = 0; i < MT_ARRAY_LEN(kinds); i++)
        if (MT_STREQ(kinds[i].k.name, word))
            return &kinds[i].k;
    return NULL;
}

const char *cli_kind_names(void)
{
    static char names[200];
    size_t n = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(kinds) && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", kinds[i].k.name);
    return names;
}

static char *path_of(struct cli *c, const struct kind *k, const char *id, int *ret_code)
{
    bool secrets = MT_STREQ(k->k.name, "secret-bundle"); /* one for each environment */
    *ret_code = k->scope == PLATFORM ? cli_connect(c) : k->scope == ORG ? cli_need_org(c) : k->scope == APP ? cli_need_app(c) : cli_need_env(c);
    if (*ret_code != CLI_OK)
        return NULL;
    char *path = k->scope == PLATFORM ? mt_asprintf("%s/%s", k->path, id)
                 : k->scope == ORG    ? mt_asprintf("/v1/orgs/%s%s/%s", c->org_id, k->path, id)
                 : k->scope == APP    ? cli_app_path(c, "%s/%s", k->path, id)
                 : secrets            ? cli_env_path(c, "%s", k->path)
                                      : cli_env_path(c, "%s/%s", k->path, id);
    if (!path)
        *ret_code = cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return path;
}

int cli_get_kind(struct cli *c, const struct cli_kind *kind, const char *id, json_t **ret)
{
    const struct kind *k = (const struct kind *)(const void *)kind; /* the first member of it */
    int code = cli_check_id(c, id, kind->prefix, kind->list);
    mt_auto_free char *path = code == CLI_OK ? path_of(c, k, id, &code) : NULL;
    return code == CLI_OK ? cli_call(c, "GET", path, NULL, ret) : code;
}

/* KIND and ID from the command line; a release also by v3, an app or environment also by name. */
static int kind_and_id(struct cli *c, const struct cli_kind **ret, char id[64])
{
    const char *names[MT_ARRAY_LEN(kinds) + 1] = {0}, *word = c->argv[1];
    if (!(*ret = cli_kind_of(c->argv[0]))) {
        for (size_t i = 0; i < MT_ARRAY_LEN(kinds); i++)
            names[i] = kinds[i].k.name;
        const char *near = mt_nearest(c->argv[0], names);
        return near ? cli_usage(c, "unknown kind '%.40s', did you mean '%s'?", c->argv[0], near)
                    : cli_usage(c, "unknown kind '%.40s': give one of %s", c->argv[0], cli_kind_names());
    }
    bool is_id = mt_starts_with(word, (*ret)->prefix) && strlen(word) < 64;
    int code = CLI_OK;
    (void)snprintf(id, 64, "%.63s", word);
    if (!is_id && MT_STREQ((*ret)->name, "release")) {
        code = cli_need_app(c);
        return code == CLI_OK ? cli_release_id(c, word, id) : code;
    }
    if (!is_id && (MT_STREQ((*ret)->name, "app") || MT_STREQ((*ret)->name, "env"))) {
        bool app = MT_STREQ((*ret)->name, "app");
        if ((code = app ? cli_connect(c) : cli_need_app(c)) != CLI_OK)
            return code;
        *(app ? &c->app : &c->env) = word;
        code = app ? cli_need_app(c) : cli_need_env(c);
        (void)snprintf(id, 64, "%s", app ? c->app_id : c->env_id);
    }
    return code;
}

/* The last 20 events about the object or caused by it, oldest first. */
static json_t *events_of(struct cli *c, const char *id, const char *filter)
{
    mt_auto_json json_t *page = NULL;
    json_t *out = json_array();
    char target[300];
    bool hush = c->hush;
    c->hush = true; /* without the right to read events the object is still worth showing */
    int code = cli_need_org(c);
    (void)snprintf(target, sizeof target, "/v1/orgs/%s/events?limit=20&order=desc&%s=%s", c->org_id, filter, id);
    if (code == CLI_OK)
        code = cli_call(c, "GET", target, NULL, &page);
    c->hush = hush;
    const json_t *items = code == CLI_OK ? json_object_get(page, "items") : NULL;
    for (size_t i = json_array_size(items); i-- > 0;)
        (void)json_array_append(out, json_array_get(items, i));
    return out;
}

/* Members that name other objects, one level deep. */
static json_t *related_of(const json_t *obj)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        size_t n = strlen(key);
        bool one = n > 3 && MT_STREQ(key + n - 3, "_id") && json_is_string(v), many = n > 4 && MT_STREQ(key + n - 4, "_ids") && json_array_size(v) + json_object_size(v) > 0;
        if (one || many)
            (void)json_object_set(out, key, v);
    }
    return out;
}

static void print_nested(struct cli *c, const json_t *obj)
{
    const char *key;
    json_t *v, *item;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        bool deep = json_is_object(v) ? json_object_size(v) > 0 : json_is_array(v) && json_is_object(json_array_get(v, 0));
        if (!deep || MT_STREQ(key, "failure"))
            continue;
        (void)printf("%s%s%s\n", cli_color(c, "bold"), key, cli_color(c, "reset"));
        if (json_is_array(v)) {
            json_array_foreach(v, i, item)
            {
                mt_auto_free char *text = json_dumps(item, JSON_COMPACT | JSON_ENCODE_ANY);
                (void)printf("  %s\n", text ? text : "?");
            }
            continue;
        }
        mt_auto_free char *text = json_dumps(v, JSON_INDENT(2));
        for (char *p = text, *nl; p; p = nl) {
            if ((nl = strchr(p, '\n')))
                *nl++ = '\0';
            if (*p != '{' && *p != '}')
                (void)printf("%s\n", p);
        }
    }
}

static int describe(struct cli *c, const struct cli_kind *k, const char *id)
{
    mt_auto_json json_t *obj = NULL, *autopsies = NULL;
    int code = cli_get_kind(c, k, id, &obj);
    if (code != CLI_OK)
        return code;
    if (MT_STREQ(k->name, "instance")) {
        bool hush = c->hush;
        c->hush = true; /* without the right to read logs the object is still worth showing */
        (void)cli_autopsies(c, "instance_id", id, 3, &autopsies);
        c->hush = hush;
    }
    bool caused = MT_STREQ(k->name, "deploy");
    mt_auto_json json_t *events = events_of(c, id, caused ? "correlation_id" : "aggregate_id");
    mt_auto_json json_t *related = related_of(obj);
    if (c->json) {
        json_t *conditions = json_object_get(obj, "conditions");
        mt_auto_json json_t *d = json_pack("{s:s,s:s,s:O,s:o,s:O,s:O}", "kind", k->name, "id", id, "object", obj, "conditions",
                                           json_is_array(conditions) ? json_incref(conditions) : json_array(), "related", related, "events", events);
        if (autopsies)
            (void)json_object_set(d, "autopsies", autopsies);
        return cli_print_object(c, "Description", d);
    }
    code = cli_print_fields(c, obj);
    if (c->quiet)
        return code;
    print_nested(c, obj);
    cli_print_failure(c, stdout, cli_member(obj, "failure"));
    if (json_array_size(autopsies) > 0) {
        (void)printf("%sfailed attempts%s\n", cli_color(c, "bold"), cli_color(c, "reset"));
        cli_print_autopsies(c, autopsies);
    }
    (void)printf("%sevents%s\n", cli_color(c, "bold"), cli_color(c, "reset"));
    size_t i;
    json_t *ev;
    char safe[400];
    json_array_foreach(events, i, ev)
    {
        const char *ts = cli_str(ev, "occurred_at"), *summary = cli_str(ev, "summary");
        (void)printf("  %s%.19s%s  %-30s %s\n", cli_color(c, "dim"), ts, cli_color(c, "reset"), cli_str(ev, "event_type"),
                     mt_printable(summary, strlen(summary), safe, sizeof safe));
    }
    if (json_array_size(events) == 0)
        cli_say(c, "  no events");
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

int cmd_describe(struct cli *c)
{
    const struct cli_kind *k = NULL;
    char id[64];
    int code = kind_and_id(c, &k, id);
    return code == CLI_OK ? describe(c, k, id) : code;
}

int cmd_instances_describe(struct cli *c)
{
    return describe(c, cli_kind_of("instance"), c->argv[0]);
}

/* ---- wait ---- */

static bool in_words(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = words; n && (p = strstr(p, word)); p += n)
        if ((p == words || p[-1] == ' ') && p[n] == ' ')
            return true;
    return false;
}

static const char *state_of(const json_t *obj)
{
    return *cli_str(obj, "status") ? cli_str(obj, "status") : cli_str(obj, "state");
}

/* Told when it changes: for people seconds and state, with --json one line each. */
static void tell(struct cli *c, const struct cli_kind *k, const char *id, const json_t *obj, int64_t began)
{
    char ts[MT_RFC3339_LEN];
    if (c->json) {
        mt_auto_json json_t *line = json_pack("{s:s,s:s,s:s,s:s,s:s}", "type", "status", "ts", mt_rfc3339(mt_clock_wall_us(), ts), "kind", k->name, "id", id,
                                              "status", state_of(obj));
        (void)cli_print_line(c, line);
        return;
    }
    const char *detail = cli_str(obj, "status_detail"), *reason = cli_str(obj, "reason_code");
    cli_say(c, "  %6.2f s  %s%s%s%s%s", (double)(mt_clock_mono() - began) / 1e9, state_of(obj), *detail ? " " : "", detail, *reason ? ": " : "", reason);
}

static int finished(struct cli *c, const struct cli_kind *k, const json_t *obj, bool good)
{
    char what[200], op[40], ts[MT_RFC3339_LEN];
    if (c->json) {
        (void)snprintf(op, sizeof op, "%s.wait", k->name);
        mt_auto_json json_t *r = cli_receipt_json(c, k->name, op, obj);
        (void)json_object_set_new(r, "type", json_string("receipt"));
        (void)json_object_set_new(r, "ts", json_string(mt_rfc3339(mt_clock_wall_us(), ts)));
        (void)json_object_set_new(r, "changed", json_false());
        (void)cli_print_line(c, r);
        return good ? CLI_OK : CLI_NOT_CONVERGED;
    }
    if (good) {
        (void)printf("%s %s %s\n", k->name, cli_str(obj, "id"), state_of(obj));
        return CLI_OK;
    }
    cli_print_failure(c, stderr, cli_member(obj, "failure"));
    (void)snprintf(what, sizeof what, "%s is %s", k->name, state_of(obj));
    char hint[120];
    (void)snprintf(hint, sizeof hint, "moat describe %s %.64s", k->name, cli_str(obj, "id"));
    return cli_error(c, CLI_NOT_CONVERGED, what, hint);
}

static int wake(struct cli *c, json_t *ev, void *arg)
{
    (void)c;
    (void)arg;
    return cli_member(ev, "event_type") ? CLI_OK + 1 : 0; /* anything about the object: ask it again */
}

int cli_wait_kind(struct cli *c, const struct cli_kind *k, const char *id, const char *want)
{
    const struct kind *kind = (const struct kind *)(const void *)k;
    char resume[160], target[300], shown[64] = "";
    mt_auto_free char *path = NULL;
    int64_t began = mt_clock_mono(), end = began + c->wait_ms * MT_NS_PER_MS;
    int code = cli_check_id(c, id, k->prefix, k->list);
    if (code == CLI_OK)
        path = path_of(c, kind, id, &code);
    if (code != CLI_OK)
        return code;
    bool other = !kind->condition || !MT_STREQ(want, kind->condition);
    (void)snprintf(resume, sizeof resume, "moat wait %s %s%s%s", k->name, id, other ? " --for " : "", other ? want : "");
    cli_catch_interrupt(c, "it", resume);
    for (;;) {
        mt_auto_json json_t *obj = NULL;
        code = cli_call(c, "GET", path, NULL, &obj);
        if (code != CLI_OK)
            return code;
        if (!MT_STREQ(shown, state_of(obj)))
            tell(c, k, id, obj, began);
        (void)snprintf(shown, sizeof shown, "%s", state_of(obj));
        if (MT_STREQ(state_of(obj), want) || (MT_STREQ(want, "available") && MT_STREQ(state_of(obj), "in_use"))) /* of a volume: ready, and used already */
            return finished(c, k, obj, true);
        if (in_words(kind->failed, state_of(obj)))
            return finished(c, k, obj, false);
        int64_t left_ms = (end - mt_clock_mono()) / MT_NS_PER_MS;
        if (left_ms <= 0)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; it goes on", resume);
        /* the stream wakes us at once, two seconds of silence ask again: an edge's acknowledgement, for one, is no event */
        (void)snprintf(target, sizeof target, "/v1/orgs/%s/events/stream?aggregate_id=%s", c->org_id, id);
        int64_t asked = mt_clock_mono();
        c->hush = true;
        int followed = *c->org_id ? cli_follow(c, target, wake, NULL, left_ms < 2000 ? left_ms : 2000) : CLI_FAILURE;
        c->hush = false;
        int64_t least_ms = followed == CLI_OK ? 200 : 2000, took_ms = (mt_clock_mono() - asked) / MT_NS_PER_MS;
        if (took_ms < least_ms) /* a stream that ends at once must not make us ask in a circle */
            (void)usleep((useconds_t)(least_ms - took_ms < left_ms ? least_ms - took_ms : left_ms) * 1000);
    }
}

int cmd_wait(struct cli *c)
{
    const struct cli_kind *k = NULL;
    char id[64];
    int code = kind_and_id(c, &k, id);
    if (code != CLI_OK)
        return code;
    const struct kind *kind = (const struct kind *)(const void *)k;
    const char *want = cli_has(c, "for") ? cli_opt(c, "for") : kind->condition;
    if (!want)
        return cli_usage(c, "a %s has nothing to wait for; give --for STATUS", k->name);
    code = cli_check_id(c, id, k->prefix, k->list);
    if (code == CLI_OK && MT_STREQ(k->name, "deploy") && MT_STREQ(want, "succeeded"))
        return (code = cli_need_env(c)) == CLI_OK ? cli_wait_deploy(c, id, 0) : code;
    return code == CLI_OK ? cli_wait_kind(c, k, id, want) : code;
}
