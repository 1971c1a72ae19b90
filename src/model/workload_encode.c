/* SPDX-License-Identifier: Apache-2.0 */
/* WorkloadSpec to JSON: every field of the contract that is set, in the order of runtime.md 2.2. */
#include "model/jsonout.h"

json_t *mt_limits_json(const struct mt_limits *limits)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "disk_bytes_per_second", limits->disk_bytes_per_second);
    mt_jout_u64(&o, "disk_ops_per_second", limits->disk_ops_per_second);
    mt_jout_u64(&o, "net_bytes_per_second", limits->net_bytes_per_second);
    mt_jout_u64(&o, "net_packets_per_second", limits->net_packets_per_second);
    return mt_jout_take(&o);
}

static json_t *image(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "repository", w->image.repository);
    mt_jout_str(&o, "index_digest", w->image.index_digest);
    mt_jout_str(&o, "resolved_digest", w->image.resolved_digest);
    mt_jout_str(&o, "os", w->image.os);
    mt_jout_str(&o, "arch", w->image.arch);
    mt_jout_str(&o, "pull_credential_ref", w->image.pull_credential_ref);
    return mt_jout_take(&o);
}

static json_t *env_vars(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();

    for (size_t i = 0; i < w->n_env_vars; i++)
        mt_jout_str(&o, w->env_vars[i].key, w->env_vars[i].value);
    return mt_jout_take(&o);
}

/* Append an object to an array; both failures end in a NULL array. */
static void append(json_t **array, json_t *item)
{
    if (*array && item && json_array_append_new(*array, item) == 0)
        return;
    if (!*array)
        json_decref(item);
    json_decref(*array);
    *array = NULL;
}

static json_t *prestart(const struct mt_workload *w)
{
    json_t *list = json_array();

    for (size_t i = 0; i < w->n_prestart; i++) {
        struct mt_jout o = mt_jout_new();
        mt_jout_json(&o, "argv", mt_jout_strings(&w->prestart[i].argv));
        mt_jout_u64(&o, "timeout_seconds", w->prestart[i].timeout_seconds);
        append(&list, mt_jout_take(&o));
    }
    return list;
}

static json_t *resources(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "cpu_millis", w->resources.cpu_millis);
    mt_jout_u64(&o, "memory_bytes", w->resources.memory_bytes);
    mt_jout_u64(&o, "disk_bytes", w->resources.disk_bytes);
    mt_jout_u64(&o, "vcpu_count", w->resources.vcpu_count);
    mt_jout_u64(&o, "cpu_weight", w->resources.cpu_weight);
    return mt_jout_take(&o);
}

static json_t *network(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();
    json_t *ports = json_array();

    for (size_t i = 0; i < w->network.n_ports; i++) {
        struct mt_jout p = mt_jout_new();
        mt_jout_str(&p, "name", w->network.ports[i].name);
        mt_jout_u64(&p, "port", w->network.ports[i].port);
        mt_jout_str(&p, "protocol", "tcp");
        append(&ports, mt_jout_take(&p));
    }
    mt_jout_str(&o, "overlay_ipv6", w->network.overlay_ipv6);
    mt_jout_json(&o, "ports", ports);
    if (w->network.mtu)
        mt_jout_u64(&o, "mtu", w->network.mtu);
    if (w->network.dns.n)
        mt_jout_json(&o, "dns", mt_jout_strings(&w->network.dns));
    return mt_jout_take(&o);
}

static json_t *health(const struct mt_health *h)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "type", h->type == MT_HEALTH_HTTP ? "http" : "tcp");
    mt_jout_u64(&o, "port", h->port);
    mt_jout_str(&o, "path", h->path);
    mt_jout_u64(&o, "interval_seconds", h->interval_seconds);
    mt_jout_u64(&o, "timeout_seconds", h->timeout_seconds);
    mt_jout_u64(&o, "grace_period_seconds", h->grace_period_seconds);
    mt_jout_u64(&o, "success_threshold", h->success_threshold);
    mt_jout_u64(&o, "failure_threshold", h->failure_threshold);
    if (h->proxy_protocol)
        mt_jout_bool(&o, "proxy_protocol", true);
    return mt_jout_take(&o);
}

static json_t *secrets(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_bool(&o, "required", w->secrets.required);
    mt_jout_str(&o, "version_id", w->secrets.version_id);
    mt_jout_str(&o, "mode", w->secrets.mode == 0440 ? "0440" : "0400");
    if (w->secrets.has_uid)
        mt_jout_u64(&o, "uid", w->secrets.uid);
    if (w->secrets.has_gid)
        mt_jout_u64(&o, "gid", w->secrets.gid);
    return mt_jout_take(&o);
}

static json_t *mounts(const struct mt_workload *w)
{
    json_t *list = json_array();

    for (size_t i = 0; i < w->n_mounts; i++) {
        const struct mt_workload_mount *m = &w->mounts[i];
        struct mt_jout o = mt_jout_new();
        mt_jout_str(&o, "volume_id", m->volume_id);
        mt_jout_str(&o, "name", m->name);
        mt_jout_str(&o, "path", m->path);
        mt_jout_bool(&o, "read_only", m->read_only);
        mt_jout_str(&o, "filesystem", "ext4");
        mt_jout_str(&o, "fs_uuid", m->fs_uuid);
        append(&list, mt_jout_take(&o));
    }
    return list;
}

static json_t *lifecycle(const struct mt_workload *w)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "stop_grace_seconds", w->lifecycle.stop_grace_seconds);
    mt_jout_str(&o, "stop_signal", w->lifecycle.stop_signal);
    mt_jout_str(&o, "restart_policy", mt_restart_policy_name(w->lifecycle.restart_policy));
    mt_jout_u64(&o, "max_retries", w->lifecycle.max_retries);
    mt_jout_u64(&o, "backoff_seconds", w->lifecycle.backoff_seconds);
    return mt_jout_take(&o);
}

int mt_workload_encode(const struct mt_workload *w, json_t **ret, struct mt_err *err)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "spec_version", MT_SPEC_VERSION);
    mt_jout_str(&o, "org_id", w->org_id);
    mt_jout_str(&o, "app_id", w->app_id);
    mt_jout_str(&o, "env_id", w->env_id);
    mt_jout_str(&o, "process_type", w->process_type);
    mt_jout_str(&o, "instance_id", w->instance_id);
    mt_jout_u64(&o, "generation", w->generation);
    mt_jout_str(&o, "release_id", w->release_id);
    mt_jout_str(&o, "manifest_hash", w->manifest_hash);
    mt_jout_str(&o, "spec_hash", w->spec_hash);
    mt_jout_json(&o, "image", image(w));
    mt_jout_json(&o, "command", mt_jout_strings(&w->command));
    mt_jout_str(&o, "workdir", w->workdir);
    mt_jout_str(&o, "user", w->user);
    mt_jout_json(&o, "env_vars", env_vars(w));
    mt_jout_json(&o, "prestart", prestart(w));
    mt_jout_json(&o, "resources", resources(w));
    mt_jout_json(&o, "limits", mt_limits_json(&w->limits));
    mt_jout_json(&o, "network", network(w));
    if (w->health.type != MT_HEALTH_NONE)
        mt_jout_json(&o, "health", health(&w->health));
    if (w->secrets.present)
        mt_jout_json(&o, "secrets", secrets(w));
    mt_jout_json(&o, "mounts", mounts(w));
    mt_jout_json(&o, "lifecycle", lifecycle(w));
    if (w->required_features.n)
        mt_jout_json(&o, "required_features", mt_jout_strings(&w->required_features));
    json_t *json = mt_jout_take(&o);
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding a workload (or a text that is not UTF-8)");
    *ret = json;
    return 0;
}
