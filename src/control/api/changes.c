/* SPDX-License-Identifier: Apache-2.0 */
/* See changes.h. The words a person would use; whoever wants every field has the patch beside them. */
#include "control/api/changes.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "model/reason.h"
#include "wire/json.h"

#include <stdarg.h>
#include <string.h>

struct told {
    json_t *out;
    char where[200];  /* "" or "shop/prod: " */
    const char *app, *env;
    bool failed;
};

static const char *text(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "";
}

static json_int_t number(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}

static json_t *items(const json_t *o, const char *name)
{
    return json_object_get(o, name);
}

/* The entry, for more members; NULL when memory is out. */
static json_t *say(struct told *t, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static json_t *say(struct told *t, const char *kind, const char *fmt, ...)
{
    va_list ap;
    char line[600];
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(2048);
    mt_buf_puts(&b, t->where);
    mt_buf_puts(&b, line);
    mt_buf_putc(&b, 0);
    size_t len = b.failed ? 0 : b.len - 1;
    while (n >= (int)sizeof line && len > 0 && !mt_utf8_valid(b.p, len)) /* cut inside a character */
        len--;
    json_t *e = json_pack("{s:s,s:s%,s:s*,s:s*}", "kind", kind, "text", b.p ? (const char *)b.p : "", len, "app_id", t->app, "env_id", t->env);
    if (!e || json_array_append_new(t->out, e) < 0) {
        t->failed = true;
        return NULL;
    }
    return e;
}

static void with(struct told *t, json_t *entry, const char *name, const json_t *v)
{
    if (entry && v && json_object_set(entry, name, (json_t *)(uintptr_t)v) < 0)
        t->failed = true;
}

static void from_to(struct told *t, json_t *entry, const json_t *from, const json_t *to)
{
    with(t, entry, "from", from);
    with(t, entry, "to", to);
}

static json_t *find(const json_t *list, const char *key, const char *value)
{
    size_t i;
    json_t *v;
    json_array_foreach ((json_t *)(uintptr_t)list, i, v)
        if (MT_STREQ(text(v, key), value))
            return v;
    return NULL;
}

static bool same(const json_t *a, const json_t *b, const char *name)
{
    json_t *x = json_object_get(a, name), *y = json_object_get(b, name);
    return (!x && !y) || (x && y && json_equal(x, y));
}

/* A value in a sentence. */
static char *shown(const json_t *v)
{
    if (!v || json_is_null(v))
        return strdup("none");
    if (json_is_string(v))
        return strdup(json_string_value(v));
    if (json_is_boolean(v))
        return strdup(json_is_true(v) ? "yes" : "no");
    return json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
}

/* Members of @names that differ: one entry each, "<what> <name> is <new>, was <old>". */
static void fields(struct told *t, const char *kind, const char *what, const json_t *a, const json_t *b, const char *const *names)
{
    for (; *names; names++) {
        if (same(a, b, *names))
            continue;
        mt_auto_free char *was = shown(json_object_get(a, *names)), *is = shown(json_object_get(b, *names));
        json_t *e = say(t, kind, "%s: %s is %.200s, was %.200s", what, *names, is ? is : "", was ? was : "");
        if (e && json_object_set_new(e, "field", json_string(*names)) < 0)
            t->failed = true;
        from_to(t, e, json_object_get(a, *names), json_object_get(b, *names));
    }
}

/* ---- an environment ---- */

static void one_process(struct told *t, const json_t *a, const json_t *b)
{
    const char *name = text(b ? b : a, "process_type");
    json_t *e = NULL;
    json_int_t was = number(a, "release_number"), is = number(b, "release_number");
    if (was != is) {
        if (!is)
            e = say(t, "release", "%s is not deployed any more, ran release v%lld", name, (long long)was);
        else if (!was)
            e = say(t, "release", "%s is deployed, release v%lld", name, (long long)is);
        else
            e = say(t, "release", "%s shall run release v%lld, was v%lld", name, (long long)is, (long long)was);
        with(t, e, "process_type", json_object_get(b ? b : a, "process_type"));
        from_to(t, e, json_object_get(a, "release_number"), json_object_get(b, "release_number"));
    }
    if (number(a, "desired") != number(b, "desired")) {
        e = say(t, "scale", "%s: %lld wanted, %lld before", name, (long long)number(b, "desired"), (long long)number(a, "desired"));
        with(t, e, "process_type", json_object_get(b ? b : a, "process_type"));
        from_to(t, e, json_object_get(a, "desired"), json_object_get(b, "desired"));
    }
    json_int_t ready_was = number(a, "ready") + number(a, "old_ready"), ready = number(b, "ready") + number(b, "old_ready");
    if (ready_was != ready) {
        e = say(t, "ready", "%s: %lld ready, %lld before", name, (long long)ready, (long long)ready_was);
        with(t, e, "process_type", json_object_get(b ? b : a, "process_type"));
    }
    const char *cond = text(b, "sched_condition");
    if (b && (!MT_STREQ(cond, a ? text(a, "sched_condition") : "ok") || !same(a, b, "reason"))) {
        const char *reason = text(b, "reason"), *detail = text(b, "detail");
        e = say(t, "scheduling", "%s is %s%s%s%s%.300s", name, MT_STREQ(cond, "ok") ? "no longer blocked or held" : cond, *reason ? ": " : "", reason,
                *detail ? ", " : "", detail);
        with(t, e, "process_type", json_object_get(b, "process_type"));
        from_to(t, e, json_object_get(a, "sched_condition"), json_object_get(b, "sched_condition"));
    }
}

static const char *address(const json_t *route, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%.253s:%lld", *text(route, "hostname") ? text(route, "hostname") : "*", (long long)number(route, "listen_port"));
    return ret;
}

static void routes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const told[] = {"backend_process_type", "backend_port", "disabled", "status", NULL};
    char at[300], what[320];
    size_t i;
    json_t *v, *e, *was;
    json_array_foreach (items(a, "routes"), i, v)
        if (!find(items(b, "routes"), "id", text(v, "id"))) {
            e = say(t, "route_removed", "route %s is removed", address(v, at, sizeof at));
            with(t, e, "id", json_object_get(v, "id"));
        }
    json_array_foreach (items(b, "routes"), i, v) {
        if ((was = find(items(a, "routes"), "id", text(v, "id")))) {
            (void)snprintf(what, sizeof what, "route %s", address(v, at, sizeof at));
            fields(t, "route_changed", what, was, v, told);
            continue;
        }
        e = say(t, "route_added", "route %s is made, to %s port %lld, %s", address(v, at, sizeof at), text(v, "backend_process_type"),
                (long long)number(v, "backend_port"), text(v, "status"));
        with(t, e, "id", json_object_get(v, "id"));
    }
}

static void deploys(struct told *t, const json_t *a, const json_t *b)
{
    const json_t *x = json_object_get(a, "last_deploy"), *y = json_object_get(b, "last_deploy");
    if (!y || (x && MT_STREQ(text(x, "id"), text(y, "id")) && same(x, y, "status")))
        return;
    const char *why = text(y, "failed_reason"), *message = text(y, "message");
    json_t *e = say(t, "deploy", "the last %s is %s, %s%s%s%s%.300s", text(y, "kind"), text(y, "id"), text(y, "status"), *why ? ": " : "", why,
                    *message ? ", " : "", message);
    with(t, e, "id", json_object_get(y, "id"));
    from_to(t, e, x ? json_object_get(x, "status") : NULL, json_object_get(y, "status"));
}

/* Which version is wanted; what is in it is in no state. */
static void secrets(struct told *t, const json_t *a, const json_t *b)
{
    const json_t *x = json_object_get(a, "secrets"), *y = json_object_get(b, "secrets");
    json_t *e = NULL;
    if (same(x, y, "version_id") || !json_object_get(y, "version_id"))
        return;
    if (number(y, "key_count") == 0)
        e = say(t, "secrets", "secrets: version %lld, without any", (long long)number(y, "version_number"));
    else
        e = say(t, "secrets", "secrets: version %lld, %lld keys", (long long)number(y, "version_number"), (long long)number(y, "key_count"));
    with(t, e, "id", json_object_get(y, "version_id"));
    from_to(t, e, x ? json_object_get(x, "version_number") : NULL, json_object_get(y, "version_number"));
}

static void env_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const told[] = {"name", "private_network", "protected", "label_selector", "backup_interval_seconds", NULL};
    size_t i;
    json_t *v;
    t->env = text(json_is_object(b) ? b : a, "env_id");
    if (!json_is_object(a) && json_is_object(b))
        (void)say(t, "env_created", "environment %s is made", text(b, "name"));
    if (json_is_object(a) && !json_is_object(b))
        (void)say(t, "env_deleted", "environment %s is deleted", text(a, "name"));
    if (json_is_object(a) && json_is_object(b))
        fields(t, "env_changed", "environment", a, b, told);
    if (json_is_object(b)) {
        json_array_foreach (items(a, "processes"), i, v)
            if (!find(items(b, "processes"), "process_type", text(v, "process_type")))
                one_process(t, v, NULL);
        json_array_foreach (items(b, "processes"), i, v)
            one_process(t, find(items(a, "processes"), "process_type", text(v, "process_type")), v);
        secrets(t, a, b);
        routes(t, a, b);
        deploys(t, a, b);
    }
    t->env = NULL;
}

/* ---- apps, an organisation ---- */

/* Each item of either list by its key, with the item of the other list or NULL. */
static void pairs(struct told *t, const json_t *a, const json_t *b, const char *list, const char *key,
                  void (*one)(struct told *t, const json_t *a, const json_t *b))
{
    size_t i;
    json_t *v;
    json_array_foreach (items(a, list), i, v)
        if (!find(items(b, list), key, text(v, key)))
            one(t, v, NULL);
    json_array_foreach (items(b, list), i, v)
        one(t, find(items(a, list), key, text(v, key)), v);
}

static void env_of_app(struct told *t, const json_t *a, const json_t *b)
{
    char was[sizeof t->where];
    memcpy(was, t->where, sizeof was);
    (void)snprintf(t->where, sizeof t->where, "%.100s/%.60s: ", was, text(b ? b : a, "name"));
    env_changes(t, a, b);
    memcpy(t->where, was, sizeof was);
}

static void app_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const told[] = {"name", "description", "project_id", NULL};
    bool had = json_is_object(a), has = json_is_object(b);
    t->app = text(has ? b : a, "app_id");
    t->where[0] = 0;
    if (!had && has)
        (void)say(t, "app_created", "app %s is made", text(b, "name"));
    if (had && !has)
        (void)say(t, "app_deleted", "app %s is deleted", text(a, "name"));
    if (had && has)
        fields(t, "app_changed", "app", a, b, told);
    json_int_t was = number(a, "releases_made"), is = number(b, "releases_made");
    if (has && is > was) {
        json_t *e = is == was + 1 ? say(t, "releases", "app %s: release v%lld is made", text(b, "name"), (long long)is)
                                  : say(t, "releases", "app %s: releases v%lld to v%lld are made", text(b, "name"), (long long)was + 1, (long long)is);
        from_to(t, e, json_object_get(a, "releases_made"), json_object_get(b, "releases_made"));
    }
    if (has) { /* of one that is deleted its environments are gone too */
        (void)snprintf(t->where, sizeof t->where, "%.63s", text(b, "name"));
        pairs(t, a, b, "envs", "env_id", env_of_app);
    }
    t->where[0] = 0;
    t->app = NULL;
}

static void member_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const told[] = {"role", "state", NULL};
    char what[360];
    if (!a)
        with(t, say(t, "member_added", "%s is a member, as %s", text(b, "email"), text(b, "role")), "id", json_object_get(b, "id"));
    if (!b)
        with(t, say(t, "member_removed", "%s is a member no more", text(a, "email")), "id", json_object_get(a, "id"));
    (void)snprintf(what, sizeof what, "member %.320s", text(b ? b : a, "email"));
    if (a && b)
        fields(t, "member_changed", what, a, b, told);
}

static void named_changes(struct told *t, const json_t *a, const json_t *b, const char *const kinds[3], const char *noun)
{
    static const char *const told[] = {"name", "scopes", "restrict", NULL};
    char what[120];
    if (!a)
        with(t, say(t, kinds[0], "%s %s is made", noun, text(b, "name")), "id", json_object_get(b, "id"));
    if (!b)
        with(t, say(t, kinds[1], "%s %s is deleted", noun, text(a, "name")), "id", json_object_get(a, "id"));
    (void)snprintf(what, sizeof what, "%s %.80s", noun, text(b ? b : a, "name"));
    if (a && b)
        fields(t, kinds[2], what, a, b, told);
}

static void principal_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const kinds[] = {"service_principal_created", "service_principal_deleted", "service_principal_changed"};
    named_changes(t, a, b, kinds, "service principal");
}

static void project_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const kinds[] = {"project_created", "project_deleted", "project_changed"};
    named_changes(t, a, b, kinds, "project");
}

static void limit_changes(struct told *t, const json_t *a, const json_t *b)
{
    if (a && b && same(a, b, "limit"))
        return;
    json_t *e = b ? say(t, "limit", "the limit %s is set to %lld", text(b, "dimension"), (long long)number(b, "limit"))
                  : say(t, "limit", "the limit %s is the default again", text(a, "dimension"));
    from_to(t, e, json_object_get(a, "limit"), json_object_get(b, "limit"));
}

static void org_changes(struct told *t, const json_t *a, const json_t *b)
{
    static const char *const told[] = {"name", "billing_email", "developer_exec", "suspended", NULL};
    if (!json_is_object(a) && json_is_object(b))
        (void)say(t, "org_created", "organisation %s is made", text(b, "name"));
    if (json_is_object(a) && !json_is_object(b))
        (void)say(t, "org_deleted", "organisation %s is deleted", text(a, "name"));
    if (json_is_object(a) && json_is_object(b))
        fields(t, "org_changed", "organisation", a, b, told);
    if (!json_is_object(b))
        return;
    pairs(t, a, b, "members", "id", member_changes);
    pairs(t, a, b, "service_principals", "id", principal_changes);
    pairs(t, a, b, "projects", "id", project_changes);
    pairs(t, a, b, "limits", "dimension", limit_changes);
    pairs(t, a, b, "apps", "app_id", app_changes);
}

int mt_changes(json_t *out, const json_t *from, const json_t *to)
{
    struct told t = {.out = out};
    const json_t *any = json_is_object(to) ? to : from;
    if (json_object_get(any, "org_id"))
        org_changes(&t, from, to);
    else if (json_object_get(any, "releases_made"))
        app_changes(&t, from, to);
    else
        env_changes(&t, from, to);
    return t.failed ? -1 : 0;
}

/* ---- instances ---- */

/* id to status of every instance in a state, however deep it lies. */
static void known(const json_t *state, json_t *ret)
{
    size_t i;
    json_t *v;
    json_array_foreach (items(state, "instances"), i, v)
        (void)json_object_set(ret, text(v, "id"), json_object_get(v, "status"));
    json_array_foreach (items(state, "envs"), i, v)
        known(v, ret);
    json_array_foreach (items(state, "apps"), i, v)
        known(v, ret);
}

static void ended(struct told *t, const json_t *row)
{
    const char *planned = text(row, "reason"), *code = text(row, "reason_code"), *detail = text(row, "reason_detail");
    enum mt_reason r = mt_reason_from_code(planned), f = mt_reason_from_code(code);
    mt_auto_buf struct mt_buf why = MT_BUF_INIT(512);
    if (*planned)
        mt_buf_printf(&why, "%s", r == MT_REASON_NONE ? planned : mt_reason_info(r)->text);
    if (*code)
        mt_buf_printf(&why, "%s%s", *planned ? "; " : "", f == MT_REASON_NONE ? code : mt_reason_info(f)->text);
    if (json_object_get(row, "exit_code"))
        mt_buf_printf(&why, ", exit code %lld", (long long)number(row, "exit_code"));
    if (*detail)
        mt_buf_printf(&why, " (%.200s)", detail);
    mt_buf_putc(&why, 0);
    json_t *e = say(t, "instance_ended", "%s %s ended%s%s", text(row, "process_type"), text(row, "id"), *planned || *code ? ": " : "",
                    why.p ? (const char *)why.p : "");
    with(t, e, "id", json_object_get(row, "id"));
    with(t, e, "process_type", json_object_get(row, "process_type"));
    with(t, e, "at", json_object_get(row, "at"));
    with(t, e, "reason", json_object_get(row, "reason"));
    with(t, e, "reason_code", json_object_get(row, "reason_code"));
    with(t, e, "exit_code", json_object_get(row, "exit_code"));
}

int mt_changes_instances(json_t *out, const json_t *before, const json_t *rows)
{
    struct told t = {.out = out};
    mt_auto_json json_t *had = json_object();
    size_t i;
    json_t *v;
    known(before, had);
    json_array_foreach ((json_t *)(uintptr_t)rows, i, v) {
        const char *was = json_string_value(json_object_get(had, text(v, "id")));
        bool gone = MT_STREQ(text(v, "status"), "stopped") || json_is_true(json_object_get(v, "released"));
        bool born = json_is_true(json_object_get(v, "born"));
        t.env = text(v, "env_id");
        (void)snprintf(t.where, sizeof t.where, "%.150s%s", text(v, "where"), *text(v, "where") ? ": " : "");
        if (born) {
            json_t *e = say(&t, "instance_started", "%s %s started, release v%lld", text(v, "process_type"), text(v, "id"),
                            (long long)number(v, "release_number"));
            with(&t, e, "id", json_object_get(v, "id"));
            with(&t, e, "process_type", json_object_get(v, "process_type"));
            with(&t, e, "at", json_object_get(v, "born_at"));
        }
        if (gone && (born || (was && !MT_STREQ(was, "stopped"))))
            ended(&t, v);
    }
    return t.failed || !had ? -1 : 0;
}
