/* SPDX-License-Identifier: Apache-2.0 */
/* The processes of a manifest: control-plane.md 4.2, rows `processes.<name>` and below. */
#include "model/manifest_ctx.h"

#include "model/mountpath.h"
#include "model/names.h"

#include "base/str.h"

static json_t *resources(struct mt_mf *c, const struct mt_mf_at *process)
{
    static const struct mt_mf_hint hints[] = {
        {"mem", MT_E_UNKNOWN_FIELD, "write memory = \"256Mi\""},
        {"memory_mb", MT_E_UNKNOWN_FIELD, "write memory = \"256Mi\""},
        {"vcpu", MT_E_UNKNOWN_FIELD, "write cpu = 0.5"},
        {"vcpus", MT_E_UNKNOWN_FIELD, "write cpu = 0.5"},
        {"cpus", MT_E_UNKNOWN_FIELD, "write cpu = 0.5"},
        {"storage", MT_E_UNKNOWN_FIELD, "write disk = \"4Gi\""},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_mf_at at = mt_mf_table(c, process, "resources");
    struct mt_jout o = mt_jout_new();
    char path[MT_MF_PATH];

    mt_mf_known(c, &at, hints);
    if (!at.table) {
        mt_mf_path(path, at.path, "memory");
        if (!c->partial && !mt_toml_find(process->table, "resources"))
            mt_mf_problem(c, MT_E_REQUIRED, process->table->pos, path, "add resources.memory, for example \"256Mi\"",
                          "'memory' is missing");
    }
    mt_jout_u64(&o, "memory_bytes", mt_mf_size(c, &at, "memory"));
    mt_jout_u64(&o, "cpu_millis", mt_mf_cpu(c, &at, "cpu"));
    mt_jout_u64(&o, "disk_bytes", mt_mf_size(c, &at, "disk"));
    return mt_jout_take(&o);
}

static json_t *limits(struct mt_mf *c, const struct mt_mf_at *process)
{
    struct mt_mf_at at = mt_mf_table(c, process, "limits");
    struct mt_jout o = mt_jout_new();

    mt_mf_known(c, &at, NULL);
    for (const struct mt_mf_field *f = at.fields; f->key; f++)
        mt_jout_u64(&o, f->key, mt_mf_int(c, &at, f->key));
    return mt_jout_take(&o);
}

static json_t *restart(struct mt_mf *c, const struct mt_mf_at *process)
{
    struct mt_mf_at at = mt_mf_table(c, process, "restart");
    struct mt_jout o = mt_jout_new();
    char path[MT_MF_PATH];

    mt_mf_known(c, &at, NULL);
    const char *policy = mt_mf_word(c, &at, "policy", MT_E_ENUM);
    const struct mt_toml_entry *retries = at.table ? mt_toml_find(at.table, "max_retries") : NULL;
    if (retries && !MT_STREQ(policy, "on-failure")) {
        mt_mf_path(path, at.path, "max_retries");
        mt_mf_problem(c, MT_E_RESTART_FIELDS, retries->pos, path, "set policy = \"on-failure\" or remove max_retries",
                      "'max_retries' only counts with policy \"on-failure\"");
    }
    mt_jout_str(&o, "policy", policy);
    mt_jout_u64(&o, "max_retries", mt_mf_int(c, &at, "max_retries"));
    mt_jout_u64(&o, "backoff_seconds", mt_mf_int(c, &at, "backoff_seconds"));
    return mt_jout_take(&o);
}

static json_t *stop(struct mt_mf *c, const struct mt_mf_at *process)
{
    struct mt_mf_at at = mt_mf_table(c, process, "stop");
    struct mt_jout o = mt_jout_new();

    mt_mf_known(c, &at, NULL);
    mt_jout_u64(&o, "grace_seconds", mt_mf_int(c, &at, "grace_seconds"));
    mt_jout_str(&o, "signal", mt_mf_word(c, &at, "signal", MT_E_ENUM));
    return mt_jout_take(&o);
}

static json_t *secrets(struct mt_mf *c, const struct mt_mf_at *process)
{
    static const char fixed[] = "the secrets file is always " MT_SECRETS_PATH "; remove the key";
    static const struct mt_mf_hint hints[] = {
        {"path", MT_E_SECRETS_PATH, fixed}, {"file", MT_E_SECRETS_PATH, fixed}, {"mount", MT_E_SECRETS_PATH, fixed},
        {"mount_path", MT_E_SECRETS_PATH, fixed}, {"dir", MT_E_SECRETS_PATH, fixed}, {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_mf_at at = mt_mf_table(c, process, "secrets");
    struct mt_jout o = mt_jout_new();

    mt_mf_known(c, &at, hints);
    mt_jout_bool(&o, "required", mt_mf_bool(c, &at, "required"));
    return mt_jout_take(&o);
}

static int by_number(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "internal"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "internal"));

    return (x > y) - (x < y);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "path")),
                  json_string_value(json_object_get(*(json_t *const *)b, "path")));
}

/* Order an array of objects in place of the one given. */
static json_t *sorted(struct mt_mf *c, json_t *list, int (*compare)(const void *, const void *))
{
    size_t n = json_array_size(list);
    json_t *items[64] = {NULL}, *out = json_array();

    for (size_t i = 0; i < n; i++)
        items[i] = json_array_get(list, i);
    qsort(items, n, sizeof items[0], compare);
    for (size_t i = 0; i < n; i++)
        if (json_array_append(out, items[i]) != 0)
            c->nomem = true;
    json_decref(list);
    return out;
}

static json_t *ports(struct mt_mf *c, const struct mt_mf_at *process)
{
    static const struct mt_mf_hint hints[] = {
        {"port", MT_E_UNKNOWN_FIELD, "write internal = <number>"},
        {"container_port", MT_E_UNKNOWN_FIELD, "write internal = <number>"},
        {"external", MT_E_UNKNOWN_FIELD, "what is reachable from outside is a [[routes]] entry"},
        {"host_port", MT_E_HOST_ACCESS, "what is reachable from outside is a [[routes]] entry"},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    const struct mt_toml_value *list = mt_mf_list(c, process, "ports");
    json_t *out = json_array();

    for (size_t i = 0; list && i < list->array.n; i++) {
        struct mt_mf_at at;
        struct mt_toml_pos pos = {1, 1};
        char derived[8], path[MT_MF_PATH];
        if (!mt_mf_item(c, process, "ports", list, i, &at))
            continue;
        mt_mf_known(c, &at, hints);
        (void)mt_mf_word(c, &at, "protocol", MT_E_PROTOCOL_UNSUPPORTED);
        uint64_t number = mt_mf_int(c, &at, "internal");
        (void)snprintf(derived, sizeof derived, "p%u", (unsigned)number & 0xFFFF);
        const char *name = mt_mf_text(c, &at, "name", &pos);
        mt_mf_path(path, at.path, "name");
        if (!name) {
            name = derived;
            pos = mt_mf_pos(&at, "internal");
        } else if (!mt_name_valid(MT_NAME_PORT, name, strlen(name))) {
            mt_mf_problem(c, MT_E_PATTERN, pos, path, "", "port name is not %s", mt_name_rule(MT_NAME_PORT));
            name = derived;
        }
        if (number == 0)
            continue;
        size_t k;
        json_t *other;
        json_array_foreach(out, k, other) {
            if ((uint64_t)json_integer_value(json_object_get(other, "internal")) == number) {
                mt_mf_path(path, at.path, "internal");
                mt_mf_problem(c, MT_E_DUPLICATE, mt_mf_pos(&at, "internal"), path, "", "port %u is declared twice",
                              (unsigned)number);
                name = NULL;
                break;
            }
            if (MT_STREQ(json_string_value(json_object_get(other, "name")), name)) {
                mt_mf_problem(c, MT_E_DUPLICATE, pos, path, "", "port name '%s' is used twice", name);
                name = NULL;
                break;
            }
        }
        if (!name)
            continue;
        struct mt_jout o = mt_jout_new();
        mt_jout_u64(&o, "internal", number);
        mt_jout_str(&o, "name", name);
        mt_jout_str(&o, "protocol", "tcp");
        if (json_array_append_new(out, mt_jout_take(&o)) != 0)
            c->nomem = true;
    }
    return sorted(c, out, by_number);
}

uint16_t mt_mf_port_ref(struct mt_mf *c, const struct mt_mf_at *at, const char *key, const json_t *ports_json, const char *of)
{
    const struct mt_toml_entry *e = at->table ? mt_toml_find(at->table, key) : NULL;
    char path[MT_MF_PATH], shown[64];
    const json_t *port;
    size_t i;

    mt_mf_path(path, at->path, key);
    if (!e) {
        if (at->table && !c->partial)
            mt_mf_problem(c, MT_E_REQUIRED, at->table->pos, path, "name a declared port or give its number", "'%s' is missing", key);
        return 0;
    }
    if (e->value->type != MT_TOML_STRING && e->value->type != MT_TOML_INTEGER) {
        mt_mf_problem(c, MT_E_TYPE, e->value->pos, path, "", "'%s' must be a port name or number, not %s", key,
                      mt_toml_type_name(e->value->type));
        return 0;
    }
    json_array_foreach(ports_json, i, port) {
        const char *name = json_string_value(json_object_get(port, "name"));
        json_int_t number = json_integer_value(json_object_get(port, "internal"));
        if (e->value->type == MT_TOML_INTEGER ? number == e->value->integer : MT_STREQ(name, e->value->string.s))
            return (uint16_t)number;
    }
    if (e->value->type == MT_TOML_STRING)
        mt_printable(e->value->string.s, e->value->string.len, shown, sizeof shown);
    else
        (void)snprintf(shown, sizeof shown, "%lld", (long long)e->value->integer);
    mt_mf_problem(c, MT_E_PORT_UNRESOLVED, e->value->pos, path, "declare it under ports", "process '%s' declares no port '%s'",
                  of, shown);
    return 0;
}

static json_t *health(struct mt_mf *c, const struct mt_mf_at *process, const char *name, const json_t *ports_json)
{
    static const struct mt_mf_hint hints[] = {
        {"interval", MT_E_UNKNOWN_FIELD, "write interval_seconds = <number>"},
        {"timeout", MT_E_UNKNOWN_FIELD, "write timeout_seconds = <number>"},
        {"grace_period", MT_E_UNKNOWN_FIELD, "write grace_period_seconds = <number>"},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_mf_at at = mt_mf_table(c, process, "health");
    struct mt_toml_pos pos = {1, 1};
    char path[MT_MF_PATH];

    if (!at.table)
        return NULL;
    struct mt_jout o = mt_jout_new();
    mt_mf_known(c, &at, hints);
    bool http = MT_STREQ(mt_mf_word(c, &at, "type", MT_E_ENUM), "http");
    mt_jout_str(&o, "type", http ? "http" : "tcp");
    mt_jout_u64(&o, "port", mt_mf_port_ref(c, &at, "port", ports_json, name));

    const char *url = mt_mf_text(c, &at, "path", &pos);
    mt_mf_path(path, at.path, "path");
    if (http && !url && !c->partial && !mt_toml_find(at.table, "path"))
        mt_mf_problem(c, MT_E_HEALTH_PATH, at.table->pos, path, "add path = \"/\"", "a health check over http needs 'path'");
    if (!http && url)
        mt_mf_problem(c, MT_E_HEALTH_PATH, pos, path, "set type = \"http\" or remove path", "a health check over tcp has no 'path'");
    if (http && url) {
        bool plain = *url == '/';
        for (const char *s = url; *s; s++)
            plain = plain && (unsigned char)*s > 0x20 && *s != 0x7f;
        if (!plain)
            mt_mf_problem(c, MT_E_PATTERN, pos, path, "", "'path' must start with '/' and hold no blank or control byte");
        mt_jout_str(&o, "path", url);
    }
    uint64_t interval = mt_mf_int(c, &at, "interval_seconds");
    uint64_t timeout = mt_mf_int_or(c, &at, "timeout_seconds", interval < 2 ? interval : 2);
    if (timeout > interval) {
        mt_mf_path(path, at.path, "timeout_seconds");
        mt_mf_problem(c, MT_E_RANGE, mt_mf_pos(&at, "timeout_seconds"), path, "", "'timeout_seconds' must not be above "
                      "'interval_seconds' (%u)", (unsigned)interval);
    }
    mt_jout_u64(&o, "interval_seconds", interval);
    mt_jout_u64(&o, "timeout_seconds", timeout);
    mt_jout_u64(&o, "grace_period_seconds", mt_mf_int(c, &at, "grace_period_seconds"));
    mt_jout_u64(&o, "success_threshold", mt_mf_int(c, &at, "success_threshold"));
    mt_jout_u64(&o, "failure_threshold", mt_mf_int(c, &at, "failure_threshold"));
    return mt_jout_take(&o);
}

static json_t *mounts(struct mt_mf *c, const struct mt_mf_at *process)
{
    static const struct mt_mf_hint hints[] = {
        {"source", MT_E_HOST_ACCESS, "mount a volume: volume = \"<name of a [[volumes]] entry>\""},
        {"host", MT_E_HOST_ACCESS, "mount a volume: volume = \"<name of a [[volumes]] entry>\""},
        {"target", MT_E_UNKNOWN_FIELD, "write path = \"/...\""},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    const struct mt_toml_value *list = mt_mf_list(c, process, "mounts");
    json_t *out = json_array();

    for (size_t i = 0; list && i < list->array.n; i++) {
        struct mt_mf_at at;
        struct mt_toml_pos vpos = {1, 1}, ppos = {1, 1};
        char path[MT_MF_PATH];
        json_t *other;
        size_t k;
        if (!mt_mf_item(c, process, "mounts", list, i, &at))
            continue;
        mt_mf_known(c, &at, hints);
        const char *volume = mt_mf_text(c, &at, "volume", &vpos);
        const char *where = mt_mf_text(c, &at, "path", &ppos);
        bool read_only = mt_mf_bool(c, &at, "read_only");
        if (!volume || !where)
            continue;
        mt_mf_path(path, at.path, "path");
        const char *fault = mt_mountpath_fault(where, strlen(where));
        json_array_foreach(out, k, other) {
            const char *p = json_string_value(json_object_get(other, "path"));
            if (!fault && mt_mountpath_nested(p, strlen(p), where, strlen(where)))
                fault = MT_STREQ(p, where) ? "is used twice" : "is nested in another mount";
            if (MT_STREQ(json_string_value(json_object_get(other, "volume")), volume)) {
                char vpath[MT_MF_PATH], shown[64];
                mt_mf_path(vpath, at.path, "volume");
                mt_mf_problem(c, MT_E_DUPLICATE, vpos, vpath, "", "volume '%s' is mounted twice",
                              mt_printable(volume, strlen(volume), shown, sizeof shown));
            }
        }
        if (fault) {
            mt_mf_problem(c, MT_E_MOUNT_PATH, ppos, path, "", "mount path %s", fault);
            continue;
        }
        struct mt_jout o = mt_jout_new();
        mt_jout_str(&o, "volume", volume);
        mt_jout_str(&o, "path", where);
        mt_jout_bool(&o, "read_only", read_only);
        if (json_array_append_new(out, mt_jout_take(&o)) != 0)
            c->nomem = true;
    }
    return sorted(c, out, by_path);
}

static json_t *scaling(struct mt_mf *c, const struct mt_mf_at *process, bool has_mounts)
{
    static const char fixed[] = "the number of replicas is set with moat scale";
    static const struct mt_mf_hint hints[] = {
        {"autoscale", MT_E_AUTOSCALE_UNSUPPORTED, fixed}, {"autoscaling", MT_E_AUTOSCALE_UNSUPPORTED, fixed},
        {"auto", MT_E_AUTOSCALE_UNSUPPORTED, fixed},      {"metric", MT_E_AUTOSCALE_UNSUPPORTED, fixed},
        {"metrics", MT_E_AUTOSCALE_UNSUPPORTED, fixed},   {"target", MT_E_AUTOSCALE_UNSUPPORTED, fixed},
        {"target_cpu", MT_E_AUTOSCALE_UNSUPPORTED, fixed}, {"target_memory", MT_E_AUTOSCALE_UNSUPPORTED, fixed},
        {"target_cpu_percent", MT_E_AUTOSCALE_UNSUPPORTED, fixed}, {"policy", MT_E_AUTOSCALE_UNSUPPORTED, fixed},
        {"replicas", MT_E_UNKNOWN_FIELD, "write min = <number>"}, {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_mf_at at = mt_mf_table(c, process, "scaling");
    struct mt_jout o = mt_jout_new();
    char path[MT_MF_PATH];

    mt_mf_known(c, &at, hints);
    uint64_t min = mt_mf_int(c, &at, "min");
    bool max_given = at.table && mt_toml_find(at.table, "max");
    uint64_t max = mt_mf_int_or(c, &at, "max", has_mounts ? 1 : 100);
    if (has_mounts && (min > 1 || max > 1)) {
        const char *key = max_given && max > 1 ? "max" : "min";
        mt_mf_path(path, at.path, key);
        mt_mf_problem(c, MT_E_VOLUME_REPLICA_LIMIT, mt_mf_pos(&at, key), path, "a volume is used by one instance at a time",
                      "a process with mounts has at most 1 replica");
    } else if (max < min) {
        mt_mf_path(path, at.path, "max");
        mt_mf_problem(c, MT_E_SCALE_RANGE, mt_mf_pos(&at, "max"), path, "", "'max' (%u) is below 'min' (%u)", (unsigned)max,
                      (unsigned)min);
    }
    mt_jout_u64(&o, "min", min);
    mt_jout_u64(&o, "max", max);
    return mt_jout_take(&o);
}

static json_t *process(struct mt_mf *c, const struct mt_mf_at *at, const char *name, uint64_t prestart_timeout)
{
    static const struct mt_mf_hint hints[] = {
        {"env", MT_E_UNKNOWN_FIELD, "write vars = { NAME = \"value\" }"},
        {"environment", MT_E_UNKNOWN_FIELD, "write vars = { NAME = \"value\" }"},
        {"memory", MT_E_UNKNOWN_FIELD, "write resources.memory = \"256Mi\""},
        {"cpu", MT_E_UNKNOWN_FIELD, "write resources.cpu = 0.5"},
        {"replicas", MT_E_UNKNOWN_FIELD, "write scaling.min = <number>"},
        {"count", MT_E_UNKNOWN_FIELD, "write scaling.min = <number>"},
        {"port", MT_E_UNKNOWN_FIELD, "write ports = [{ internal = <number> }]"},
        {"cmd", MT_E_UNKNOWN_FIELD, "write command = [\"program\", \"argument\"]"},
        {"args", MT_E_UNKNOWN_FIELD, "write command = [\"program\", \"argument\"]"},
        {"entrypoint", MT_E_UNKNOWN_FIELD, "write command = [\"program\", \"argument\"]"},
        {"volumes", MT_E_UNKNOWN_FIELD, "write mounts = [{ volume = \"data\", path = \"/data\" }]"},
        {"secrets_path", MT_E_SECRETS_PATH, "the secrets file is always " MT_SECRETS_PATH "; remove the key"},
        {"secrets_file", MT_E_SECRETS_PATH, "the secrets file is always " MT_SECRETS_PATH "; remove the key"},
        {"autoscale", MT_E_AUTOSCALE_UNSUPPORTED, "the number of replicas is set with moat scale"},
        {"autoscaling", MT_E_AUTOSCALE_UNSUPPORTED, "the number of replicas is set with moat scale"},
        {NULL, MT_E_UNKNOWN_FIELD, NULL}};
    struct mt_jout o = mt_jout_new();

    mt_mf_known(c, at, hints);
    json_t *command = mt_mf_argv(c, at, "command");
    if (command)
        mt_jout_json(&o, "command", command);
    mt_mf_surroundings(c, at, &o, prestart_timeout);
    mt_jout_json(&o, "resources", resources(c, at));
    mt_jout_json(&o, "limits", limits(c, at));
    mt_jout_json(&o, "restart", restart(c, at));
    mt_jout_json(&o, "stop", stop(c, at));
    json_t *port_list = ports(c, at);
    mt_jout_json(&o, "ports", port_list);
    json_t *check = health(c, at, name, port_list);
    if (check)
        mt_jout_json(&o, "health", check);
    json_t *mount_list = mounts(c, at);
    bool has_mounts = json_array_size(mount_list) > 0;
    mt_jout_json(&o, "mounts", mount_list);
    mt_jout_json(&o, "scaling", scaling(c, at, has_mounts));
    mt_jout_json(&o, "secrets", secrets(c, at));
    return mt_jout_take(&o);
}

void mt_mf_processes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o, uint64_t prestart_timeout)
{
    struct mt_mf_at all = mt_mf_table(c, root, "processes");
    struct mt_jout out = mt_jout_new();

    if (all.table ? all.table->table.n == 0 : !mt_toml_find(root->table, "processes")) {
        if (!c->partial)
            mt_mf_problem(c, MT_E_NO_PROCESSES, all.table ? all.table->pos : root->table->pos, "processes",
                          "add [processes.web] with resources.memory", "no process is declared");
    } else if (all.table && all.table->table.n > mt_mf_field(root->fields, "processes")->max) {
        mt_mf_problem(c, MT_E_TOO_LARGE, all.table->table.v[16].pos, "processes", "", "%zu process types, at most 16 are allowed",
                      all.table->table.n);
        all.table = NULL;
    }
    for (size_t i = 0; all.table && i < all.table->table.n; i++) {
        const struct mt_toml_entry *e = &all.table->table.v[i];
        struct mt_mf_at at = {.table = e->value, .fields = all.fields};
        char shown[64];
        mt_printable(e->key, e->key_len, shown, sizeof shown);
        mt_mf_path(at.path, all.path, shown);
        if (!mt_name_valid(MT_NAME_PROCESS, e->key, e->key_len)) {
            mt_mf_problem(c, MT_E_PATTERN, e->pos, at.path, "", "process type '%s' is not %s", shown, mt_name_rule(MT_NAME_PROCESS));
            continue;
        }
        if (e->value->type != MT_TOML_TABLE) {
            mt_mf_problem(c, MT_E_TYPE, e->value->pos, at.path, "", "process '%s' must be a table, not %s", shown,
                          mt_toml_type_name(e->value->type));
            continue;
        }
        mt_jout_json(&out, e->key, process(c, &at, e->key, prestart_timeout));
    }
    mt_jout_json(o, "processes", mt_jout_take(&out));
}
