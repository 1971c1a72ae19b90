/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a canonical manifest as it is stored with a release. What does not have the shape is corrupt, not bad input. */
#include "model/manifest.h"

#include "model/jsonout.h"
#include "wire/json.h"

#include "base/str.h"

#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1)

static int corrupt(struct mt_err *err, const char *what)
{
    return MT_FAIL(err, MT_E_CORRUPT, "canonical manifest: %s is missing or of the wrong type", what);
}

static bool u64_of(const json_t *o, const char *key, uint64_t *ret)
{
    const json_t *v = json_object_get(o, key);

    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

static bool u32_of(const json_t *o, const char *key, uint32_t *ret)
{
    uint64_t v;

    if (!u64_of(o, key, &v) || v > UINT32_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

static bool port_of(const json_t *o, const char *key, uint16_t *ret)
{
    uint64_t v;

    if (!u64_of(o, key, &v) || v < 1 || v > 65535)
        return false;
    *ret = (uint16_t)v;
    return true;
}

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static int read_ports(struct mt_manifest_process *p, struct mt_err *err)
{
    const json_t *list = json_object_get(p->slice, "ports"), *o;
    size_t i;

    if (!json_is_array(list))
        return corrupt(err, "ports");
    p->ports = calloc(json_array_size(list) + 1, sizeof *p->ports);
    if (!p->ports)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, o) {
        p->ports[i].name = text_of(o, "name");
        if (!p->ports[i].name || !port_of(o, "internal", &p->ports[i].internal))
            return corrupt(err, "a port");
        p->n_ports++;
    }
    return 0;
}

static int read_mounts(struct mt_manifest_process *p, struct mt_err *err)
{
    const json_t *list = json_object_get(p->slice, "mounts"), *o;
    size_t i;

    if (!json_is_array(list))
        return corrupt(err, "mounts");
    p->mounts = calloc(json_array_size(list) + 1, sizeof *p->mounts);
    if (!p->mounts)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, o) {
        struct mt_manifest_mount *m = &p->mounts[i];
        m->volume = text_of(o, "volume");
        m->path = text_of(o, "path");
        m->read_only = json_is_true(json_object_get(o, "read_only"));
        if (!m->volume || !m->path)
            return corrupt(err, "a mount");
        p->n_mounts++;
    }
    return 0;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(text_of(*(json_t *const *)a, "path"), text_of(*(json_t *const *)b, "path"));
}

static bool has_mount(const json_t *list, const json_t *mount)
{
    const json_t *o;
    size_t i;

    json_array_foreach(list, i, o)
        if (json_equal(json_object_get(o, "path"), json_object_get(mount, "path")) || json_equal(json_object_get(o, "volume"), json_object_get(mount, "volume")))
            return true;
    return false;
}

/* Both lists in one, ascending by path as in a canonical manifest. NULL when memory is out or an item is broken. */
static json_t *merged_mounts(const json_t *own, const json_t *more)
{
    json_t *all = json_copy((json_t *)(uintptr_t)own), *sorted = json_array(), *o; /* json_copy takes no const but changes nothing */
    size_t i, n = 0;
    bool ok = all && sorted;

    json_array_foreach(more, i, o)
        ok = ok && text_of(o, "path") && text_of(o, "volume") && (has_mount(all, o) || json_array_append(all, o) == 0);
    json_t **items = ok ? calloc(json_array_size(all) + 1, sizeof *items) : NULL;
    ok = ok && items;
    json_array_foreach(ok ? all : NULL, i, o) {
        if (!items)
            break;
        ok = ok && text_of(o, "path") != NULL;
        items[n++] = o;
    }
    if (ok)
        qsort(items, n, sizeof *items, by_path);
    for (i = 0; ok && i < n; i++)
        ok = json_array_append(sorted, items[i]) == 0;
    free(items);
    json_decref(all);
    if (ok)
        return sorted;
    json_decref(sorted);
    return NULL;
}

int mt_manifest_with_mounts(const json_t *canonical, const char *process_type, const json_t *more, json_t **ret, struct mt_err *err)
{
    json_t *processes = json_object_get(canonical, "processes"), *slice = json_object_get(processes, process_type), *own = json_object_get(slice, "mounts");

    if (json_array_size(more) == 0) {
        *ret = json_incref((json_t *)(uintptr_t)canonical);
        return 0;
    }
    if (!json_is_array(own))
        return corrupt(err, "mounts");
    json_t *all = json_copy((json_t *)(uintptr_t)canonical), *list = json_copy(processes), *process = json_copy(slice), *mounts = merged_mounts(own, more);
    bool ok = all && list && process && mounts;
    ok = ok && json_object_set(process, "mounts", mounts) == 0 && json_object_set(list, process_type, process) == 0 && json_object_set(all, "processes", list) == 0;
    json_decref(mounts);
    json_decref(process);
    json_decref(list);
    if (ok) {
        *ret = all;
        return 0;
    }
    json_decref(all);
    return MT_FAIL(err, MT_E_NOMEM, "mounts of process '%s'", process_type);
}

static int read_health(struct mt_manifest_process *p, struct mt_err *err)
{
    const json_t *o = json_object_get(p->slice, "health");
    struct mt_health *h = &p->health;

    if (!o)
        return 0;
    const char *type = text_of(o, "type");
    h->type = type && MT_STREQ(type, "http") ? MT_HEALTH_HTTP : MT_HEALTH_TCP;
    h->path = text_of(o, "path");
    if (!type || !port_of(o, "port", &h->port) || !u32_of(o, "interval_seconds", &h->interval_seconds) ||
        !u32_of(o, "timeout_seconds", &h->timeout_seconds) || !u32_of(o, "grace_period_seconds", &h->grace_period_seconds) ||
        !u32_of(o, "success_threshold", &h->success_threshold) || !u32_of(o, "failure_threshold", &h->failure_threshold) ||
        (h->type == MT_HEALTH_HTTP && !h->path))
        return corrupt(err, "health");
    return 0;
}

static int read_rest(const json_t *canonical, struct mt_manifest_process *p, struct mt_err *err)
{
    const json_t *resources = json_object_get(p->slice, "resources"), *scaling = json_object_get(p->slice, "scaling");
    const json_t *env = json_object_get(canonical, "env");
    const char *policy = text_of(json_object_get(p->slice, "restart"), "policy");
    uint32_t timeout;

    if (!u32_of(resources, "cpu_millis", &p->cpu_millis) || !u64_of(resources, "memory_bytes", &p->memory_bytes) ||
        !u64_of(resources, "disk_bytes", &p->disk_bytes))
        return corrupt(err, "resources");
    if (!u32_of(scaling, "min", &p->scaling_min) || !u32_of(scaling, "max", &p->scaling_max))
        return corrupt(err, "scaling");
    if (!policy)
        return corrupt(err, "restart.policy");
    p->restart_policy = MT_STREQ(policy, "always")       ? MT_RESTART_ALWAYS
                        : MT_STREQ(policy, "on-failure") ? MT_RESTART_ON_FAILURE
                                                         : MT_RESTART_NEVER;
    if (!u32_of(json_object_get(p->slice, "stop"), "grace_seconds", &p->stop_grace_seconds))
        return corrupt(err, "stop.grace_seconds");
    if (json_object_get(env, "prestart") && u32_of(env, "prestart_timeout_seconds", &timeout))
        p->prestart_seconds += timeout;
    if (json_object_get(p->slice, "prestart") && u32_of(p->slice, "prestart_timeout_seconds", &timeout))
        p->prestart_seconds += timeout;
    p->secrets_required = json_is_true(json_object_get(json_object_get(p->slice, "secrets"), "required"));
    return 0;
}

int mt_manifest_process_read(const json_t *canonical, const char *process_type, struct mt_manifest_process *ret,
                             struct mt_err *err)
{
    struct mt_manifest_process p = {.slice = json_object_get(json_object_get(canonical, "processes"), process_type)};
    int rc;

    if (!p.slice)
        return MT_FAIL(err, MT_E_NOT_FOUND, "the release has no process type '%.64s'", process_type);
    if ((rc = read_ports(&p, err)) < 0 || (rc = read_mounts(&p, err)) < 0 || (rc = read_health(&p, err)) < 0 ||
        (rc = read_rest(canonical, &p, err)) < 0) {
        mt_manifest_process_done(&p);
        return rc;
    }
    *ret = p;
    return 0;
}

void mt_manifest_process_done(struct mt_manifest_process *p)
{
    free(p->ports);
    free(p->mounts);
    *p = (struct mt_manifest_process){0};
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int mt_manifest_process_types(const json_t *canonical, struct mt_strings *ret, struct mt_err *err)
{
    json_t *processes = json_object_get(canonical, "processes"), *o;
    const char *name;

    *ret = (struct mt_strings){0};
    if (!json_is_object(processes))
        return corrupt(err, "processes");
    ret->v = calloc(json_object_size(processes) + 1, sizeof *ret->v);
    if (!ret->v)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_object_foreach(processes, name, o)
        ret->v[ret->n++] = name;
    qsort(ret->v, ret->n, sizeof *ret->v, by_text);
    return 0;
}

size_t mt_manifest_n_routes(const json_t *canonical)
{
    return json_array_size(json_object_get(canonical, "routes"));
}

int mt_manifest_route_read(const json_t *canonical, size_t i, struct mt_manifest_route *ret, struct mt_err *err)
{
    const json_t *o = json_array_get(json_object_get(canonical, "routes"), i);
    struct mt_manifest_route r = {
        .env = text_of(o, "env"),
        .process = text_of(o, "process"),
        .hostname = text_of(o, "hostname"),
        .protocol = text_of(o, "protocol"),
        .proxy_protocol = text_of(o, "proxy_protocol"),
        .backend_expects_proxy_protocol = json_is_true(json_object_get(o, "backend_expects_proxy_protocol")),
        .ipv4 = json_is_true(json_object_get(o, "ipv4")),
    };

    if (!r.env || !r.process || !r.protocol || !r.proxy_protocol || !port_of(o, "port", &r.port) ||
        !port_of(o, "listen_port", &r.listen_port))
        return corrupt(err, "a route");
    *ret = r;
    return 0;
}

size_t mt_manifest_n_volumes(const json_t *canonical)
{
    return json_array_size(json_object_get(canonical, "volumes"));
}

int mt_manifest_volume_read(const json_t *canonical, size_t i, struct mt_manifest_volume *ret, struct mt_err *err)
{
    const json_t *o = json_array_get(json_object_get(canonical, "volumes"), i);
    struct mt_manifest_volume v = {.name = text_of(o, "name"),
                                   .backup_enabled = json_is_true(json_object_get(o, "backup_enabled"))};

    if (!v.name || !u64_of(o, "size_bytes", &v.size_bytes))
        return corrupt(err, "a volume");
    *ret = v;
    return 0;
}
