/* SPDX-License-Identifier: Apache-2.0 */
/* Spec hash and WorkloadSpec: the one place where a manifest slice becomes what a node runs. */
#include "model/spec.h"

#include "model/jsonout.h"
#include "model/manifest.h"
#include "os/digest.h"
#include "wire/json.h"

#include "base/cleanup.h"
#include "base/str.h"

#define SPEC_MAX (2U * 1024U * 1024U)

static const json_t *process_of(const struct mt_spec_group *g)
{
    return json_object_get(json_object_get(g->manifest, "processes"), g->process_type);
}

static json_t *merged_vars(const struct mt_spec_group *g)
{
    json_t *vars = json_copy(json_object_get(json_object_get(g->manifest, "env"), "vars"));
    json_t *own = json_object_get(process_of(g), "vars");

    if (!vars)
        vars = json_object();
    if (vars && own && json_object_update(vars, own) != 0) {
        json_decref(vars);
        return NULL;
    }
    return vars;
}

/* Value of a key where the process wins over the environment level; borrowed, NULL when neither has it. */
static json_t *inherited(const struct mt_spec_group *g, const char *key)
{
    json_t *v = json_object_get(process_of(g), key);

    return v ? v : json_object_get(json_object_get(g->manifest, "env"), key);
}

/* [{argv, timeout_seconds}]: the environment's first, then the process's. */
static json_t *prestart(const struct mt_spec_group *g)
{
    const json_t *levels[2] = {json_object_get(g->manifest, "env"), process_of(g)};
    json_t *list = json_array();

    for (size_t i = 0; list && i < 2; i++) {
        json_t *argv = json_object_get(levels[i], "prestart");
        if (!argv)
            continue;
        struct mt_jout o = mt_jout_new();
        mt_jout_json(&o, "argv", json_incref(argv));
        mt_jout_json(&o, "timeout_seconds", json_incref(json_object_get(levels[i], "prestart_timeout_seconds")));
        json_t *item = mt_jout_take(&o);
        if (!item || json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static const struct mt_spec_volume *volume_of(const struct mt_spec_group *g, const char *name)
{
    for (size_t i = 0; i < g->n_volumes; i++)
        if (MT_STREQ(g->volumes[i].name, name))
            return &g->volumes[i];
    return NULL;
}

static int by_volume(const void *a, const void *b)
{
    const char *x = json_string_value(json_object_get(*(json_t *const *)a, "volume_id"));
    const char *y = json_string_value(json_object_get(*(json_t *const *)b, "volume_id"));

    return strcmp(x ? x : "", y ? y : "");
}

/* Mounts with their volumes, ascending volume_id. @full: with name, filesystem and UUID for the spec. */
static int mounts(const struct mt_spec_group *g, const struct mt_manifest_process *p, bool full, json_t **ret,
                  struct mt_err *err)
{
    json_t *items[MT_WORKLOAD_MOUNTS_MAX] = {NULL};
    size_t n = 0;
    int rc = 0;

    json_t *list = json_array();
    if (p->n_mounts > MT_WORKLOAD_MOUNTS_MAX)
        rc = MT_FAIL(err, MT_E_CORRUPT, "process '%s' has more than %d mounts", g->process_type, MT_WORKLOAD_MOUNTS_MAX);
    for (size_t i = 0; rc == 0 && i < p->n_mounts; i++) {
        const struct mt_spec_volume *v = volume_of(g, p->mounts[i].volume);
        struct mt_jout o = mt_jout_new();
        if (!v) {
            json_decref(o.obj);
            rc = MT_FAIL(err, MT_E_INVALID, "process '%s' mounts volume '%s', which the environment does not have",
                         g->process_type, p->mounts[i].volume);
            break;
        }
        mt_jout_str(&o, "volume_id", v->volume_id);
        mt_jout_str(&o, "path", p->mounts[i].path);
        mt_jout_bool(&o, "read_only", p->mounts[i].read_only);
        if (full) {
            mt_jout_str(&o, "name", v->name);
            mt_jout_str(&o, "filesystem", "ext4");
            mt_jout_str(&o, "fs_uuid", v->fs_uuid);
        }
        items[n] = mt_jout_take(&o);
        if (!items[n])
            rc = MT_FAIL(err, MT_E_NOMEM, "out of memory");
        else
            n++;
    }
    qsort(items, n, sizeof items[0], by_volume);
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(list, items[i]) != 0 && rc == 0)
            rc = MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (rc < 0) {
        json_decref(list);
        return rc;
    }
    *ret = list;
    return 0;
}

/* The process's part of the manifest as it will run: merged, and without what is no input (scaling). */
static json_t *slice(const struct mt_spec_group *g)
{
    json_t *o = json_copy((json_t *)(uintptr_t)process_of(g)); /* json_copy takes no const but changes nothing */
    json_t *workdir = inherited(g, "workdir"), *user = inherited(g, "user");

    if (!o)
        return NULL;
    (void)json_object_del(o, "scaling");
    (void)json_object_del(o, "prestart_timeout_seconds");
    bool ok = json_object_set_new(o, "vars", merged_vars(g)) == 0 && json_object_set_new(o, "prestart", prestart(g)) == 0;
    ok = ok && (!workdir || json_object_set(o, "workdir", workdir) == 0) && (!user || json_object_set(o, "user", user) == 0);
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static int hash_of(const struct mt_spec_group *g, const struct mt_manifest_process *p, char ret[MT_SPEC_HASH_SIZE],
                   struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(SPEC_MAX);
    struct mt_jout o = mt_jout_new();
    json_t *mount_list = NULL;

    int rc = mounts(g, p, false, &mount_list, err);
    mt_jout_str(&o, "release_id", g->release_id);
    mt_jout_str(&o, "image_digest", g->image_digest);
    mt_jout_str(&o, "process_type", g->process_type);
    mt_jout_json(&o, "process", slice(g));
    mt_jout_u64(&o, "cpu_millis", p->cpu_millis);
    mt_jout_u64(&o, "memory_bytes", p->memory_bytes);
    mt_jout_u64(&o, "disk_bytes", p->disk_bytes);
    mt_jout_json(&o, "secret_version_id", g->secret_version_id ? json_string(g->secret_version_id) : json_null());
    mt_jout_json(&o, "mounts", mount_list);
    mt_jout_u64(&o, "restart_generation", g->restart_generation);
    mt_jout_u64(&o, "rebalance_generation", g->rebalance_generation);
    mt_auto_json json_t *json = mt_jout_take(&o);
    if (rc < 0)
        return rc;
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if ((rc = mt_json_dump_canonical(json, &b, err)) < 0)
        return rc;
    mt_sha256_hex(b.p, b.len, ret);
    return 0;
}

int mt_spec_hash(const struct mt_spec_group *g, char ret[MT_SPEC_HASH_SIZE], struct mt_err *err)
{
    struct mt_manifest_process p;
    int rc = mt_manifest_process_read(g->manifest, g->process_type, &p, err);

    if (rc < 0)
        return rc;
    rc = hash_of(g, &p, ret, err);
    mt_manifest_process_done(&p);
    return rc;
}

/* ---- the spec of one instance ---- */

static json_t *image(const struct mt_spec_group *g, const struct mt_spec_instance *i)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "repository", g->image_repository);
    mt_jout_str(&o, "index_digest", g->image_is_index ? g->image_digest : NULL);
    mt_jout_str(&o, "resolved_digest", i->resolved_digest);
    mt_jout_str(&o, "os", "linux");
    mt_jout_str(&o, "arch", i->arch);
    mt_jout_str(&o, "pull_credential_ref", g->pull_credential_ref);
    return mt_jout_take(&o);
}

/* Platform variables last: they are not overridable. Source: control-plane.md 18, runtime.md 2.2. */
static json_t *env_vars(const struct mt_spec_group *g, const struct mt_spec_instance *i)
{
    struct mt_jout o = {.obj = merged_vars(g)};
    char number[24];

    o.failed = o.obj == NULL;
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)g->release_number);
    mt_jout_str(&o, "MOAT_ORG", g->org_name);
    mt_jout_str(&o, "MOAT_APP", g->app_name);
    mt_jout_str(&o, "MOAT_ENV", g->env_name);
    mt_jout_str(&o, "MOAT_PROCESS", g->process_type);
    mt_jout_str(&o, "MOAT_INSTANCE_ID", i->instance_id);
    mt_jout_str(&o, "MOAT_RELEASE_ID", g->release_id);
    mt_jout_str(&o, "MOAT_RELEASE_NUMBER", number);
    mt_jout_str(&o, "MOAT_SECRETS_FILE", g->secrets_file ? MT_SECRETS_PATH : NULL);
    mt_jout_str(&o, "MOAT_IPV6", i->overlay_ipv6);
    return mt_jout_take(&o);
}

static json_t *resources(const struct mt_manifest_process *p)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "cpu_millis", p->cpu_millis);
    mt_jout_u64(&o, "memory_bytes", p->memory_bytes);
    mt_jout_u64(&o, "disk_bytes", p->disk_bytes);
    mt_jout_u64(&o, "vcpu_count", mt_vcpu_count(p->cpu_millis));
    mt_jout_u64(&o, "cpu_weight", mt_cpu_weight(p->cpu_millis));
    return mt_jout_take(&o);
}

static json_t *network(const struct mt_manifest_process *p, const struct mt_spec_instance *i)
{
    struct mt_jout o = mt_jout_new();
    json_t *ports = json_array();

    for (size_t k = 0; k < p->n_ports; k++) {
        struct mt_jout port = mt_jout_new();
        mt_jout_str(&port, "name", p->ports[k].name);
        mt_jout_u64(&port, "port", p->ports[k].internal);
        mt_jout_str(&port, "protocol", "tcp");
        json_t *item = mt_jout_take(&port);
        if (!item || !ports || json_array_append_new(ports, item) != 0)
            o.failed = true;
    }
    mt_jout_str(&o, "overlay_ipv6", i->overlay_ipv6);
    mt_jout_json(&o, "ports", ports);
    return mt_jout_take(&o);
}

static json_t *secrets(const struct mt_spec_group *g, const struct mt_manifest_process *p)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_bool(&o, "required", p->secrets_required);
    mt_jout_str(&o, "version_id", g->secret_version_id);
    return mt_jout_take(&o);
}

static json_t *lifecycle(const struct mt_manifest_process *p)
{
    const json_t *stop = json_object_get(p->slice, "stop"), *restart = json_object_get(p->slice, "restart");
    struct mt_jout o = mt_jout_new();

    mt_jout_json(&o, "stop_grace_seconds", json_incref(json_object_get(stop, "grace_seconds")));
    mt_jout_json(&o, "stop_signal", json_incref(json_object_get(stop, "signal")));
    mt_jout_json(&o, "restart_policy", json_incref(json_object_get(restart, "policy")));
    mt_jout_json(&o, "max_retries", json_incref(json_object_get(restart, "max_retries")));
    mt_jout_json(&o, "backoff_seconds", json_incref(json_object_get(restart, "backoff_seconds")));
    return mt_jout_take(&o);
}

static int build(const struct mt_spec_group *g, const struct mt_spec_instance *i, const struct mt_manifest_process *p,
                 const char *hash, json_t **ret, struct mt_err *err)
{
    struct mt_jout o = mt_jout_new();
    json_t *mount_list = NULL, *command = json_object_get(p->slice, "command");
    int rc = mounts(g, p, true, &mount_list, err);

    mt_jout_str(&o, "spec_version", MT_SPEC_VERSION);
    mt_jout_str(&o, "org_id", g->org_id);
    mt_jout_str(&o, "app_id", g->app_id);
    mt_jout_str(&o, "env_id", g->env_id);
    mt_jout_str(&o, "process_type", g->process_type);
    mt_jout_str(&o, "instance_id", i->instance_id);
    mt_jout_u64(&o, "generation", i->generation);
    mt_jout_str(&o, "release_id", g->release_id);
    mt_jout_str(&o, "manifest_hash", g->manifest_hash);
    mt_jout_str(&o, "spec_hash", hash);
    mt_jout_json(&o, "image", image(g, i));
    mt_jout_json(&o, "command", command ? json_incref(command) : json_array());
    mt_jout_str(&o, "workdir", json_string_value(inherited(g, "workdir")));
    mt_jout_str(&o, "user", json_string_value(inherited(g, "user")));
    mt_jout_json(&o, "env_vars", env_vars(g, i));
    mt_jout_json(&o, "prestart", prestart(g));
    mt_jout_json(&o, "resources", resources(p));
    mt_jout_json(&o, "limits", json_incref(json_object_get(p->slice, "limits")));
    mt_jout_json(&o, "network", network(p, i));
    if (p->health.type != MT_HEALTH_NONE) {
        json_t *health = json_copy(json_object_get(p->slice, "health"));
        if (health && i->health_proxy_protocol && json_object_set_new(health, "proxy_protocol", json_true()) != 0)
            o.failed = true;
        mt_jout_json(&o, "health", health);
    }
    if (g->secret_version_id || p->secrets_required)
        mt_jout_json(&o, "secrets", secrets(g, p));
    mt_jout_json(&o, "mounts", mount_list);
    mt_jout_json(&o, "lifecycle", lifecycle(p));
    json_t *json = mt_jout_take(&o);
    if (rc < 0) {
        json_decref(json);
        return rc;
    }
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory building a workload (or a field of the manifest is missing)");
    *ret = json;
    return 0;
}

int mt_spec_build(const struct mt_spec_group *g, const struct mt_spec_instance *i, struct mt_workload **ret,
                  struct mt_err *err)
{
    struct mt_manifest_process p;
    char hash[MT_SPEC_HASH_SIZE];
    mt_auto_json json_t *json = NULL;

    int rc = mt_manifest_process_read(g->manifest, g->process_type, &p, err);
    if (rc < 0)
        return rc;
    if (i->spec_hash)
        (void)snprintf(hash, sizeof hash, "%s", i->spec_hash);
    else
        rc = hash_of(g, &p, hash, err);
    if (rc == 0)
        rc = build(g, i, &p, hash, &json, err);
    mt_manifest_process_done(&p);
    if (rc < 0)
        return rc;
    return mt_workload_decode(json, ret, NULL, err);
}
