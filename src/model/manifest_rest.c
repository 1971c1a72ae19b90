/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes and routes of a manifest, and how they hang together with the processes. */
#include "model/manifest_ctx.h"

#include "model/names.h"

#include "base/str.h"

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static int by_name(const void *a, const void *b)
{
    return strcmp(text_of(*(json_t *const *)a, "name"), text_of(*(json_t *const *)b, "name"));
}

static int by_route(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    int r = strcmp(text_of(x, "env"), text_of(y, "env"));

    if (r == 0) {
        json_int_t p = json_integer_value(json_object_get(x, "listen_port"));
        json_int_t q = json_integer_value(json_object_get(y, "listen_port"));
        r = (p > q) - (p < q);
    }
    return r ? r : strcmp(text_of(x, "hostname"), text_of(y, "hostname"));
}

static json_t *sorted(struct mt_mf *c, json_t *list, int (*compare)(const void *, const void *))
{
    size_t n = json_array_size(list);
    json_t **items = calloc(n + 1, sizeof(json_t *)), *out = json_array();

    if (!items || !out)
        c->nomem = true;
    for (size_t i = 0; items && i < n; i++)
        items[i] = json_array_get(list, i);
    if (items)
        qsort(items, n, sizeof items[0], compare);
    for (size_t i = 0; items && i < n; i++)
        if (json_array_append(out, items[i]) != 0)
            c->nomem = true;
    json_decref(list);
    free(items);
    return out;
}

struct declared {
    const char *name;
    struct mt_toml_pos pos;
    char path[MT_MF_PATH];
    const char *used_by;
};

/* Every mount names a declared volume, and no two processes share one. Positions come from the TOML. */
static void check_mounts(struct mt_mf *c, const struct mt_mf_at *root, struct declared *volumes, size_t n)
{
    const struct mt_toml_entry *all = mt_toml_find(root->table, "processes");

    for (size_t p = 0; all && all->value->type == MT_TOML_TABLE && p < all->value->table.n; p++) {
        const struct mt_toml_entry *process = &all->value->table.v[p];
        const struct mt_toml_entry *mounts =
            process->value->type == MT_TOML_TABLE ? mt_toml_find(process->value, "mounts") : NULL;
        for (size_t i = 0; mounts && mounts->value->type == MT_TOML_ARRAY && i < mounts->value->array.n; i++) {
            const struct mt_toml_value *m = mounts->value->array.v[i];
            const struct mt_toml_entry *v = m->type == MT_TOML_TABLE ? mt_toml_find(m, "volume") : NULL;
            char path[MT_MF_PATH], base[MT_MF_PATH], shown[64];
            size_t k = 0;
            if (!v || v->value->type != MT_TOML_STRING)
                continue;
            while (k < n && !MT_STREQ(volumes[k].name, v->value->string.s))
                k++;
            mt_mf_path(base, "processes", process->key);
            mt_mf_path_index(path, base, "mounts", i);
            mt_mf_path(path, path, "volume");
            if (k == n) {
                if (!c->partial)
                    mt_mf_problem(c, MT_E_MOUNT_VOLUME, v->value->pos, path, "add it under [[volumes]]",
                                  "volume '%s' is not declared",
                                  mt_printable(v->value->string.s, v->value->string.len, shown, sizeof shown));
            } else if (volumes[k].used_by && !MT_STREQ(volumes[k].used_by, process->key)) {
                mt_mf_problem(c, MT_E_VOLUME_SHARED, v->value->pos, path, "give each process a volume of its own",
                              "volume '%s' is already mounted by process '%s'", volumes[k].name, volumes[k].used_by);
            } else {
                volumes[k].used_by = process->key;
            }
        }
    }
    for (size_t k = 0; k < n; k++)
        if (!volumes[k].used_by && !c->partial)
            mt_mf_problem(c, MT_W_UNUSED_VOLUME, volumes[k].pos, volumes[k].path, "", "volume '%s' is never mounted",
                          volumes[k].name);
}

/* A name that may stand in the file, and did not yet. */
static bool volume_name(struct mt_mf *c, const struct mt_mf_at *at, const char *name, struct mt_toml_pos pos, const struct declared *before, size_t n)
{
    char path[MT_MF_PATH];
    if (!name)
        return false;
    mt_mf_path(path, at->path, "name");
    if (!mt_name_valid(MT_NAME_VOLUME, name, strlen(name))) {
        mt_mf_problem(c, MT_E_PATTERN, pos, path, "", "volume name is not %s", mt_name_rule(MT_NAME_VOLUME));
        return false;
    }
    for (size_t k = 0; k < n; k++) {
        if (MT_STREQ(before[k].name, name)) {
            mt_mf_problem(c, MT_E_DUPLICATE, pos, path, "", "volume '%s' is declared twice", name);
            return false;
        }
    }
    return true;
}

void mt_mf_volumes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o)
{
    static const struct mt_mf_hint hints[] = {
        {"backup", MT_E_UNKNOWN_FIELD, "write backup_enabled = true"},
        {"host_path", MT_E_HOST_ACCESS, "a volume is a block device of the platform; remove the key"},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    const struct mt_toml_value *list = mt_mf_list(c, root, "volumes");
    struct declared declared[16] = {0};
    json_t *out = json_array();
    size_t n = 0;

    for (size_t i = 0; list && i < list->array.n; i++) {
        struct mt_mf_at at;
        struct mt_toml_pos pos = {1, 1};
        char path[MT_MF_PATH];
        if (!mt_mf_item(c, root, "volumes", list, i, &at))
            continue;
        mt_mf_known(c, &at, hints);
        const char *name = mt_mf_text(c, &at, "name", &pos);
        uint64_t size = mt_mf_size(c, &at, "size");
        (void)mt_mf_word(c, &at, "filesystem", MT_E_FILESYSTEM_UNSUPPORTED);
        bool backup = mt_mf_bool(c, &at, "backup_enabled");
        json_t *probe = mt_mf_argv(c, &at, "probe");
        uint64_t probe_seconds = mt_mf_int(c, &at, "probe_timeout_seconds");
        if (mt_toml_find(at.table, "probe_timeout_seconds") && !mt_toml_find(at.table, "probe")) {
            mt_mf_path(path, at.path, "probe");
            mt_mf_problem(c, MT_E_REQUIRED, mt_mf_pos(&at, "probe_timeout_seconds"), path, "add probe = [\"...\"], or take probe_timeout_seconds away",
                          "probe_timeout_seconds is for a probe, and there is none");
        }
        if (!volume_name(c, &at, name, pos, declared, n)) {
            json_decref(probe);
            continue;
        }
        mt_mf_path(path, at.path, "name");
        declared[n] = (struct declared){.name = name, .pos = pos};
        memcpy(declared[n++].path, path, sizeof path);
        struct mt_jout v = mt_jout_new();
        mt_jout_str(&v, "name", name);
        mt_jout_u64(&v, "size_bytes", size);
        mt_jout_str(&v, "filesystem", "ext4");
        mt_jout_bool(&v, "backup_enabled", backup);
        if (probe) {
            mt_jout_json(&v, "probe", probe);
            mt_jout_u64(&v, "probe_timeout_seconds", probe_seconds);
        }
        if (json_array_append_new(out, mt_jout_take(&v)) != 0)
            c->nomem = true;
    }
    check_mounts(c, root, declared, n);
    mt_jout_json(o, "volumes", sorted(c, out, by_name));
}

/* Two entries that the edge could not tell apart. A host name is unique over all environments; a raw port too, save on an
 * environment's own IPv4. */
static bool same_place(const json_t *a, const json_t *b)
{
    bool raw = MT_STREQ(text_of(a, "protocol"), "tcp_raw");

    if (raw != MT_STREQ(text_of(b, "protocol"), "tcp_raw") ||
        json_integer_value(json_object_get(a, "listen_port")) != json_integer_value(json_object_get(b, "listen_port")))
        return false;
    if (!raw)
        return MT_STREQ(text_of(a, "hostname"), text_of(b, "hostname"));
    bool dedicated = json_is_true(json_object_get(a, "ipv4"));
    if (dedicated != json_is_true(json_object_get(b, "ipv4")))
        return false;
    return !dedicated || MT_STREQ(text_of(a, "env"), text_of(b, "env"));
}

static json_t *route(struct mt_mf *c, const struct mt_mf_at *at, const json_t *processes)
{
    struct mt_toml_pos pos = {1, 1};
    struct mt_jout o = mt_jout_new();
    char path[MT_MF_PATH], shown[80];

    const char *env = mt_mf_text(c, at, "env", &pos);
    mt_mf_path(path, at->path, "env");
    if (env && !mt_name_valid(MT_NAME_ENV, env, strlen(env)))
        mt_mf_problem(c, MT_E_PATTERN, pos, path, "", "environment name is not %s", mt_name_rule(MT_NAME_ENV));
    mt_jout_str(&o, "env", env);

    const char *process = mt_mf_text(c, at, "process", &pos);
    const json_t *p = process ? json_object_get(processes, process) : NULL;
    mt_mf_path(path, at->path, "process");
    if (process && !p && !c->partial)
        mt_mf_problem(c, MT_E_PORT_UNRESOLVED, pos, path, "name one of [processes]", "process '%s' is not declared",
                      mt_printable(process, strlen(process), shown, sizeof shown));
    mt_jout_str(&o, "process", process);
    if (p)
        mt_jout_u64(&o, "port", mt_mf_port_ref(c, at, "port", json_object_get(p, "ports"), process));
    else if (!process)
        (void)mt_mf_port_ref(c, at, "port", NULL, "?");

    const char *protocol = mt_mf_word(c, at, "protocol", MT_E_ENUM);
    bool raw = MT_STREQ(protocol, "tcp_raw");
    mt_jout_str(&o, "protocol", protocol);
    bool bad_protocol = at->table && mt_toml_find(at->table, "protocol") &&
                        mt_toml_find(at->table, "protocol")->value->type != MT_TOML_STRING;
    const char *hostname = mt_mf_text_if(c, at, "hostname", !raw && !bad_protocol, &pos);
    const char *fault = hostname ? mt_hostname_fault(hostname, strlen(hostname)) : NULL;
    mt_mf_path(path, at->path, "hostname");
    if (fault)
        mt_mf_problem(c, MT_E_PATTERN, pos, path, "", "host name '%s' %s",
                      mt_printable(hostname, strlen(hostname), shown, sizeof shown), fault);
    mt_jout_str(&o, "hostname", hostname);
    if (raw && !bad_protocol)
        (void)mt_mf_value(c, at, "listen_port", MT_TOML_INTEGER, true);
    bool typed = !at->table || !mt_toml_find(at->table, "listen_port") ||
                 mt_toml_find(at->table, "listen_port")->value->type == MT_TOML_INTEGER;
    mt_jout_u64(&o, "listen_port", raw && !typed ? 0 : mt_mf_int_or(c, at, "listen_port", raw ? 0 : 443));

    const char *proxy = mt_mf_word(c, at, "proxy_protocol", MT_E_ENUM);
    bool v2 = MT_STREQ(proxy, "v2");
    bool expects = mt_mf_bool(c, at, "backend_expects_proxy_protocol");
    mt_jout_str(&o, "proxy_protocol", proxy);
    if (v2 && !expects) {
        mt_mf_path(path, at->path, "proxy_protocol");
        mt_mf_problem(c, MT_E_PROXY_ACK, mt_mf_pos(at, "proxy_protocol"), path, "add backend_expects_proxy_protocol = true",
                      "a backend that does not expect PROXY v2 would take the header for data");
    }
    mt_jout_bool(&o, "backend_expects_proxy_protocol", expects);
    mt_jout_bool(&o, "ipv4", mt_mf_bool(c, at, "ipv4"));
    return mt_jout_take(&o);
}

void mt_mf_routes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o)
{
    static const struct mt_mf_hint hints[] = {
        {"host", MT_E_UNKNOWN_FIELD, "write hostname = \"...\""}, {"domain", MT_E_UNKNOWN_FIELD, "write hostname = \"...\""},
        {"service", MT_E_UNKNOWN_FIELD, "write process = \"...\""},
        {"path", MT_E_UNKNOWN_FIELD, "routes work on TLS names and ports, not on paths"},
        {"environment", MT_E_UNKNOWN_FIELD, "write env = \"...\""}, {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    const struct mt_toml_value *list = mt_mf_list(c, root, "routes");
    const json_t *processes = json_object_get(o->obj, "processes");
    json_t *out = json_array();

    for (size_t i = 0; list && i < list->array.n; i++) {
        struct mt_mf_at at;
        json_t *other;
        size_t k;
        if (!mt_mf_item(c, root, "routes", list, i, &at))
            continue;
        mt_mf_known(c, &at, hints);
        size_t errors = c->out->n_errors;
        json_t *entry = route(c, &at, processes);
        if (!entry) {
            c->nomem = true;
            continue;
        }
        json_array_foreach(out, k, other)
            if (c->out->n_errors == errors && same_place(other, entry))
                mt_mf_problem(c, MT_E_DUPLICATE, at.table->pos, at.path, "", "another route has the same %s and listen port",
                              MT_STREQ(text_of(entry, "protocol"), "tcp_raw") ? "protocol" : "host name");
        if (json_array_append_new(out, entry) != 0)
            c->nomem = true;
    }
    mt_jout_json(o, "routes", sorted(c, out, by_route));
}
