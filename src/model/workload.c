/* SPDX-License-Identifier: Apache-2.0 */
/* WorkloadSpec: strict decoding, encoding, and the few figures derived from a cpu share. */
#include "model/workload.h"

#include "model/ids.h"
#include "model/jsonout.h"
#include "model/mountpath.h"
#include "model/names.h"
#include "wire/imageref.h"
#include "wire/json.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <stdarg.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define DEFAULT_DISK_BYTES (4 * GIB)
#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1) /* control-plane.md 2: integers stay within 2^53 - 1 */
#define SPEED_MAX JSON_INT_MAX

static const char *const policies[MT_RESTART_POLICY_MAX] = {
    [MT_RESTART_ALWAYS] = "always",
    [MT_RESTART_ON_FAILURE] = "on-failure",
    [MT_RESTART_NEVER] = "never",
};

static const char *const stop_signals[] = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2"};

const char *mt_restart_policy_name(enum mt_restart_policy policy)
{
    MT_ASSERT((unsigned)policy < MT_RESTART_POLICY_MAX);
    return policies[policy];
}

uint32_t mt_vcpu_count(uint32_t cpu_millis)
{
    uint32_t n = cpu_millis / 1000 + (cpu_millis % 1000 != 0);

    return n < 1 ? 1 : n > 32 ? 32 : n;
}

uint32_t mt_cpu_weight(uint32_t cpu_millis)
{
    uint32_t w = cpu_millis / 10 + (cpu_millis % 10 >= 5);

    return w < 1 ? 1 : w > 10000 ? 10000 : w;
}

uint32_t mt_health_startup_timeout(const struct mt_health *health)
{
    /* Without a check the defaults of a built-in one count. Source: runtime.md 12. */
    uint32_t grace = health->type == MT_HEALTH_NONE ? 10 : health->grace_period_seconds;
    uint32_t successes = health->type == MT_HEALTH_NONE ? 1 : health->success_threshold;
    uint32_t interval = health->type == MT_HEALTH_NONE ? 10 : health->interval_seconds;
    uint32_t rounds = (successes + 1) * interval;

    return grace + (rounds > 120 ? rounds : 120);
}

/* ---- decoding ---- */

struct dec {
    struct mt_workload *w;
    struct mt_workload_fault *fault;
    struct mt_err *err;
};

/* Refuse: @field is the path inside the spec. Keeps a message that a getter has left in err when @fmt is NULL. */
__attribute__((format(printf, 3, 4))) static int refuse(struct dec *d, const char *field, const char *fmt, ...)
{
    if (fmt) {
        char msg[160];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(msg, sizeof msg, fmt, ap);
        va_end(ap);
        (void)MT_FAIL(d->err, MT_E_INVALID, "%s: %s", field, msg);
    } else {
        (void)mt_err_wrap(d->err, "%s", field);
    }
    (void)snprintf(d->fault->field, sizeof d->fault->field, "%s", field);
    (void)snprintf(d->fault->message, sizeof d->fault->message, "%.159s", d->err->msg);
    return -(int)d->err->code;
}

#define TRY(d, field, call)                  \
    do {                                     \
        if ((call) < 0)                      \
            return refuse((d), (field), NULL); \
    } while (0)

static int get_id(struct dec *d, const char *key, enum mt_id_kind kind, const char **ret)
{
    TRY(d, key, mt_json_get_str(d->w->doc, key, MT_ID_SIZE, ret, d->err));
    TRY(d, key, mt_id_check(kind, *ret, d->err));
    return 0;
}

static int get_u32(const json_t *obj, const char *key, uint32_t min, uint32_t max, uint32_t *ret, struct mt_err *err)
{
    uint64_t v;
    int rc = mt_json_get_u64(obj, key, min, max, &v, err);

    if (rc == 0)
        *ret = (uint32_t)v;
    return rc;
}

static int opt_u32(const json_t *obj, const char *key, uint32_t min, uint32_t max, uint32_t fallback, uint32_t *ret,
                   struct mt_err *err)
{
    uint64_t v;
    int rc = mt_json_opt_u64(obj, key, min, max, fallback, &v, err);

    if (rc == 0)
        *ret = (uint32_t)v;
    return rc;
}

static int dec_identity(struct dec *d)
{
    struct mt_workload *w = d->w;
    const char *version;

    TRY(d, "spec_version", mt_json_get_str(w->doc, "spec_version", 16, &version, d->err));
    if (!MT_STREQ(version, MT_SPEC_VERSION))
        return refuse(d, "spec_version", "is not " MT_SPEC_VERSION);
    int rc;
    if ((rc = get_id(d, "org_id", MT_ID_ORG, &w->org_id)) < 0 || (rc = get_id(d, "app_id", MT_ID_APP, &w->app_id)) < 0 ||
        (rc = get_id(d, "env_id", MT_ID_ENV, &w->env_id)) < 0 ||
        (rc = get_id(d, "instance_id", MT_ID_INSTANCE, &w->instance_id)) < 0 ||
        (rc = get_id(d, "release_id", MT_ID_RELEASE, &w->release_id)) < 0)
        return rc;
    TRY(d, "process_type", mt_json_get_str(w->doc, "process_type", 32, &w->process_type, d->err));
    TRY(d, "process_type", mt_name_check(MT_NAME_PROCESS, w->process_type, d->err));
    TRY(d, "generation", mt_json_get_u64(w->doc, "generation", 1, JSON_INT_MAX, &w->generation, d->err));
    TRY(d, "manifest_hash", mt_json_get_str(w->doc, "manifest_hash", MT_DIGEST_LEN, &w->manifest_hash, d->err));
    if (!mt_digest_valid(w->manifest_hash))
        return refuse(d, "manifest_hash", "is not sha256: and 64 hex digits");
    TRY(d, "spec_hash", mt_json_get_str(w->doc, "spec_hash", 64, &w->spec_hash, d->err));
    if (!mt_hex64_valid(w->spec_hash, strlen(w->spec_hash)))
        return refuse(d, "spec_hash", "is not 64 lower-case hex digits");
    return 0;
}

static int dec_image(struct dec *d)
{
    struct mt_workload *w = d->w;
    struct mt_imageref ref;
    json_t *o;

    TRY(d, "image", mt_json_get_object(w->doc, "image", &o, d->err));
    TRY(d, "image.repository", mt_json_get_str(o, "repository", MT_IMAGEREF_MAX, &w->image.repository, d->err));
    TRY(d, "image.repository", mt_imageref_parse_repository(w->image.repository, &ref, d->err));
    TRY(d, "image.index_digest", mt_json_opt_str(o, "index_digest", MT_DIGEST_LEN, NULL, &w->image.index_digest, d->err));
    if (w->image.index_digest && !mt_digest_valid(w->image.index_digest))
        return refuse(d, "image.index_digest", "is not sha256: and 64 hex digits");
    TRY(d, "image.resolved_digest",
        mt_json_opt_str(o, "resolved_digest", MT_DIGEST_LEN, NULL, &w->image.resolved_digest, d->err));
    if (w->image.resolved_digest && !mt_digest_valid(w->image.resolved_digest))
        return refuse(d, "image.resolved_digest", "is not sha256: and 64 hex digits");
    TRY(d, "image.os", mt_json_get_str(o, "os", 16, &w->image.os, d->err));
    TRY(d, "image.arch", mt_json_get_str(o, "arch", 16, &w->image.arch, d->err));
    TRY(d, "image.pull_credential_ref",
        mt_json_opt_str(o, "pull_credential_ref", 128, NULL, &w->image.pull_credential_ref, d->err));
    return 0;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct mt_env_var *)a)->key, ((const struct mt_env_var *)b)->key);
}

static bool env_key_valid(const char *s)
{
    if (!*s || (*s >= '0' && *s <= '9'))
        return false;
    for (; *s; s++)
        if (!(*s >= 'A' && *s <= 'Z') && !(*s >= 'a' && *s <= 'z') && !(*s >= '0' && *s <= '9') && *s != '_')
            return false;
    return true;
}

static int dec_env(struct dec *d)
{
    struct mt_workload *w = d->w;
    json_t *o, *v;
    const char *key;
    size_t total = 0;

    TRY(d, "env_vars", mt_json_opt_object(w->doc, "env_vars", &o, d->err));
    if (!o)
        return 0;
    if (json_object_size(o) > MT_WORKLOAD_ENV_MAX)
        return refuse(d, "env_vars", "has %zu entries, at most %d are allowed", json_object_size(o), MT_WORKLOAD_ENV_MAX);
    w->env_vars = calloc(json_object_size(o) + 1, sizeof *w->env_vars);
    if (!w->env_vars)
        return MT_FAIL(d->err, MT_E_NOMEM, "out of memory");
    json_object_foreach(o, key, v) {
        const char *text = json_string_value(v);
        if (!env_key_valid(key))
            return refuse(d, "env_vars", "a key is not [A-Za-z_][A-Za-z0-9_]*");
        if (!text || strlen(text) != json_string_length(v))
            return refuse(d, "env_vars", "'%.40s' is not a text without NUL", key);
        total += strlen(key) + json_string_length(v) + 2;
        w->env_vars[w->n_env_vars++] = (struct mt_env_var){key, text};
    }
    if (total > MT_WORKLOAD_ENV_BYTES_MAX)
        return refuse(d, "env_vars", "has %zu bytes, at most %u are allowed", total, MT_WORKLOAD_ENV_BYTES_MAX);
    qsort(w->env_vars, w->n_env_vars, sizeof *w->env_vars, by_key);
    return 0;
}

static int dec_process(struct dec *d)
{
    struct mt_workload *w = d->w;
    json_t *list, *o;
    size_t i;

    TRY(d, "command", mt_strings_read(w->doc, "command", MT_WORKLOAD_ARGV_MAX, 65536, &w->command, d->err));
    TRY(d, "workdir", mt_json_opt_str(w->doc, "workdir", 4096, NULL, &w->workdir, d->err));
    if (w->workdir && w->workdir[0] != '/')
        return refuse(d, "workdir", "is not absolute");
    TRY(d, "user", mt_json_opt_str(w->doc, "user", 256, NULL, &w->user, d->err));
    TRY(d, "prestart", mt_json_opt_array(w->doc, "prestart", MT_WORKLOAD_PRESTART_MAX, &list, d->err));
    if (!list)
        return 0;
    w->prestart = calloc(json_array_size(list) + 1, sizeof *w->prestart);
    if (!w->prestart)
        return MT_FAIL(d->err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, o) {
        struct mt_prestart *p = &w->prestart[i];
        if (!json_is_object(o))
            return refuse(d, "prestart", "holds something that is not an object");
        w->n_prestart++;
        TRY(d, "prestart.argv", mt_strings_read(o, "argv", MT_WORKLOAD_ARGV_MAX, 65536, &p->argv, d->err));
        if (p->argv.n == 0)
            return refuse(d, "prestart.argv", "is empty");
        TRY(d, "prestart.timeout_seconds", opt_u32(o, "timeout_seconds", 1, 600, 30, &p->timeout_seconds, d->err));
    }
    return 0;
}

int mt_limits_read(const json_t *parent, struct mt_limits *ret, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_opt_object(parent, "limits", &o, err);

    *ret = (struct mt_limits){0};
    if (rc < 0 || !o)
        return rc;
    if ((rc = mt_json_opt_u64(o, "disk_bytes_per_second", 0, SPEED_MAX, 0, &ret->disk_bytes_per_second, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "disk_ops_per_second", 0, SPEED_MAX, 0, &ret->disk_ops_per_second, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "net_bytes_per_second", 0, SPEED_MAX, 0, &ret->net_bytes_per_second, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "net_packets_per_second", 0, SPEED_MAX, 0, &ret->net_packets_per_second, err)) < 0)
        return rc;
    return 0;
}

static int dec_resources(struct dec *d)
{
    struct mt_workload *w = d->w;
    json_t *o;

    TRY(d, "resources", mt_json_get_object(w->doc, "resources", &o, d->err));
    TRY(d, "resources.cpu_millis", get_u32(o, "cpu_millis", 50, 32000, &w->resources.cpu_millis, d->err));
    TRY(d, "resources.memory_bytes",
        mt_json_get_u64(o, "memory_bytes", 64 * MIB, JSON_INT_MAX, &w->resources.memory_bytes, d->err));
    if (w->resources.memory_bytes % MIB)
        return refuse(d, "resources.memory_bytes", "is not a multiple of 1 MiB");
    TRY(d, "resources.disk_bytes",
        mt_json_opt_u64(o, "disk_bytes", GIB, JSON_INT_MAX, DEFAULT_DISK_BYTES, &w->resources.disk_bytes, d->err));
    TRY(d, "resources.vcpu_count",
        opt_u32(o, "vcpu_count", 1, 32, mt_vcpu_count(w->resources.cpu_millis), &w->resources.vcpu_count, d->err));
    TRY(d, "resources.cpu_weight",
        opt_u32(o, "cpu_weight", 1, 10000, mt_cpu_weight(w->resources.cpu_millis), &w->resources.cpu_weight, d->err));
    TRY(d, "limits", mt_limits_read(w->doc, &w->limits, d->err));
    return 0;
}

static bool ipv6_valid(const char *s)
{
    struct in6_addr a;

    return inet_pton(AF_INET6, s, &a) == 1;
}

static int dec_network(struct dec *d)
{
    struct mt_workload *w = d->w;
    json_t *o, *list, *p;
    size_t i;

    TRY(d, "network", mt_json_get_object(w->doc, "network", &o, d->err));
    TRY(d, "network.overlay_ipv6", mt_json_get_str(o, "overlay_ipv6", 45, &w->network.overlay_ipv6, d->err));
    if (!ipv6_valid(w->network.overlay_ipv6))
        return refuse(d, "network.overlay_ipv6", "is not an IPv6 address");
    TRY(d, "network.mtu", opt_u32(o, "mtu", 1280, 9000, 0, &w->network.mtu, d->err));
    TRY(d, "network.dns", mt_strings_read(o, "dns", MT_WORKLOAD_DNS_MAX, 45, &w->network.dns, d->err));
    for (i = 0; i < w->network.dns.n; i++)
        if (!ipv6_valid(w->network.dns.v[i]))
            return refuse(d, "network.dns", "holds something that is not an IPv6 address");
    TRY(d, "network.ports", mt_json_opt_array(o, "ports", MT_WORKLOAD_PORTS_MAX, &list, d->err));
    if (!list)
        return 0;
    w->network.ports = calloc(json_array_size(list) + 1, sizeof *w->network.ports);
    if (!w->network.ports)
        return MT_FAIL(d->err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, p) {
        struct mt_workload_port *port = &w->network.ports[i];
        const char *protocol;
        uint32_t number;
        if (!json_is_object(p))
            return refuse(d, "network.ports", "holds something that is not an object");
        TRY(d, "network.ports.name", mt_json_get_str(p, "name", 32, &port->name, d->err));
        TRY(d, "network.ports.name", mt_name_check(MT_NAME_PORT, port->name, d->err));
        TRY(d, "network.ports.port", get_u32(p, "port", 1, 65535, &number, d->err));
        TRY(d, "network.ports.protocol", mt_json_opt_str(p, "protocol", 8, "tcp", &protocol, d->err));
        if (!MT_STREQ(protocol, "tcp"))
            return refuse(d, "network.ports.protocol", "is not tcp");
        port->port = (uint16_t)number;
        w->network.n_ports++;
    }
    return 0;
}

static int dec_health(struct dec *d)
{
    struct mt_health *h = &d->w->health;
    const char *type;
    uint32_t port;
    json_t *o;

    TRY(d, "health", mt_json_opt_object(d->w->doc, "health", &o, d->err));
    if (!o)
        return 0;
    TRY(d, "health.type", mt_json_opt_str(o, "type", 8, "tcp", &type, d->err));
    if (!MT_STREQ(type, "tcp") && !MT_STREQ(type, "http"))
        return refuse(d, "health.type", "is neither tcp nor http");
    h->type = *type == 't' ? MT_HEALTH_TCP : MT_HEALTH_HTTP;
    TRY(d, "health.port", get_u32(o, "port", 1, 65535, &port, d->err));
    h->port = (uint16_t)port;
    TRY(d, "health.path", mt_json_opt_str(o, "path", 1024, NULL, &h->path, d->err));
    if (h->type == MT_HEALTH_HTTP && (!h->path || h->path[0] != '/'))
        return refuse(d, "health.path", "is needed for http and starts with '/'");
    /* it goes into a request line */
    for (const char *s = h->path; s && *s; s++)
        if ((unsigned char)*s <= 0x20 || *s == 0x7f)
            return refuse(d, "health.path", "holds a blank or a control byte");
    TRY(d, "health.interval_seconds", opt_u32(o, "interval_seconds", 1, 300, 10, &h->interval_seconds, d->err));
    TRY(d, "health.timeout_seconds", opt_u32(o, "timeout_seconds", 1, 60, 2, &h->timeout_seconds, d->err));
    TRY(d, "health.grace_period_seconds", opt_u32(o, "grace_period_seconds", 0, 900, 10, &h->grace_period_seconds, d->err));
    TRY(d, "health.success_threshold", opt_u32(o, "success_threshold", 1, 10, 1, &h->success_threshold, d->err));
    TRY(d, "health.failure_threshold", opt_u32(o, "failure_threshold", 1, 20, 3, &h->failure_threshold, d->err));
    TRY(d, "health.proxy_protocol", mt_json_opt_bool(o, "proxy_protocol", false, &h->proxy_protocol, d->err));
    return 0;
}

static int dec_secrets(struct dec *d)
{
    struct mt_workload *w = d->w;
    const char *mode;
    json_t *o;

    TRY(d, "secrets", mt_json_opt_object(w->doc, "secrets", &o, d->err));
    if (!o)
        return 0;
    w->secrets.present = true;
    TRY(d, "secrets.required", mt_json_opt_bool(o, "required", false, &w->secrets.required, d->err));
    TRY(d, "secrets.version_id", mt_json_opt_str(o, "version_id", MT_ID_SIZE, NULL, &w->secrets.version_id, d->err));
    if (w->secrets.version_id)
        TRY(d, "secrets.version_id", mt_id_check(MT_ID_SECRET_VERSION, w->secrets.version_id, d->err));
    TRY(d, "secrets.mode", mt_json_opt_str(o, "mode", 4, "0400", &mode, d->err));
    if (!MT_STREQ(mode, "0400") && !MT_STREQ(mode, "0440"))
        return refuse(d, "secrets.mode", "is neither 0400 nor 0440");
    w->secrets.mode = mode[2] == '4' ? 0440 : 0400;
    w->secrets.has_uid = json_is_integer(json_object_get(o, "uid"));
    w->secrets.has_gid = json_is_integer(json_object_get(o, "gid"));
    TRY(d, "secrets.uid", opt_u32(o, "uid", 0, UINT32_MAX - 1, 0, &w->secrets.uid, d->err));
    TRY(d, "secrets.gid", opt_u32(o, "gid", 0, UINT32_MAX - 1, 0, &w->secrets.gid, d->err));
    return 0;
}

static int by_volume(const void *a, const void *b)
{
    return strcmp(((const struct mt_workload_mount *)a)->volume_id, ((const struct mt_workload_mount *)b)->volume_id);
}

static int dec_mounts(struct dec *d)
{
    struct mt_workload *w = d->w;
    json_t *list, *o;
    size_t i;

    TRY(d, "mounts", mt_json_opt_array(w->doc, "mounts", MT_WORKLOAD_MOUNTS_MAX, &list, d->err));
    if (!list)
        return 0;
    w->mounts = calloc(json_array_size(list) + 1, sizeof *w->mounts);
    if (!w->mounts)
        return MT_FAIL(d->err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, o) {
        struct mt_workload_mount *m = &w->mounts[i];
        const char *filesystem;
        if (!json_is_object(o))
            return refuse(d, "mounts", "holds something that is not an object");
        TRY(d, "mounts.volume_id", mt_json_get_str(o, "volume_id", MT_ID_SIZE, &m->volume_id, d->err));
        TRY(d, "mounts.volume_id", mt_id_check(MT_ID_VOLUME, m->volume_id, d->err));
        TRY(d, "mounts.name", mt_json_get_str(o, "name", 32, &m->name, d->err));
        TRY(d, "mounts.path", mt_json_get_str(o, "path", 255, &m->path, d->err));
        const char *fault = mt_mountpath_fault(m->path, strlen(m->path));
        if (fault)
            return refuse(d, "mounts.path", "%s", fault);
        for (size_t k = 0; k < i; k++)
            if (mt_mountpath_nested(m->path, strlen(m->path), w->mounts[k].path, strlen(w->mounts[k].path)))
                return refuse(d, "mounts.path", "is nested in another mount");
            else if (MT_STREQ(m->volume_id, w->mounts[k].volume_id))
                return refuse(d, "mounts.volume_id", "is there twice");
        TRY(d, "mounts.read_only", mt_json_opt_bool(o, "read_only", false, &m->read_only, d->err));
        TRY(d, "mounts.filesystem", mt_json_opt_str(o, "filesystem", 8, "ext4", &filesystem, d->err));
        if (!MT_STREQ(filesystem, "ext4"))
            return refuse(d, "mounts.filesystem", "is not ext4");
        TRY(d, "mounts.fs_uuid", mt_json_opt_str(o, "fs_uuid", 36, NULL, &m->fs_uuid, d->err));
        w->n_mounts++;
    }
    qsort(w->mounts, w->n_mounts, sizeof *w->mounts, by_volume);
    return 0;
}

static int dec_lifecycle(struct dec *d)
{
    struct mt_workload *w = d->w;
    const char *policy = policies[MT_RESTART_ALWAYS];
    json_t *o, *none = NULL;

    TRY(d, "lifecycle", mt_json_opt_object(w->doc, "lifecycle", &o, d->err));
    if (!o) {
        none = json_object();
        if (!none)
            return MT_FAIL(d->err, MT_E_NOMEM, "out of memory");
    }
    mt_auto_json json_t *owned = none;
    const json_t *l = o ? o : none;
    TRY(d, "lifecycle.stop_grace_seconds",
        opt_u32(l, "stop_grace_seconds", 1, 300, 10, &w->lifecycle.stop_grace_seconds, d->err));
    TRY(d, "lifecycle.stop_signal", mt_json_opt_str(l, "stop_signal", 8, "TERM", &w->lifecycle.stop_signal, d->err));
    bool known = false;
    for (size_t i = 0; i < MT_ARRAY_LEN(stop_signals); i++)
        known = known || MT_STREQ(stop_signals[i], w->lifecycle.stop_signal);
    if (!known)
        return refuse(d, "lifecycle.stop_signal", "is not one of TERM INT QUIT HUP USR1 USR2");
    TRY(d, "lifecycle.restart_policy", mt_json_opt_str(l, "restart_policy", 16, policy, &policy, d->err));
    unsigned p = 0;
    while (p < MT_RESTART_POLICY_MAX && !MT_STREQ(policies[p], policy))
        p++;
    if (p == MT_RESTART_POLICY_MAX)
        return refuse(d, "lifecycle.restart_policy", "is not one of always on-failure never");
    w->lifecycle.restart_policy = (enum mt_restart_policy)p;
    TRY(d, "lifecycle.max_retries", opt_u32(l, "max_retries", 0, 100, 3, &w->lifecycle.max_retries, d->err));
    TRY(d, "lifecycle.backoff_seconds", opt_u32(l, "backoff_seconds", 1, 60, 2, &w->lifecycle.backoff_seconds, d->err));
    return 0;
}

static int dec_features(struct dec *d)
{
    TRY(d, "required_features", mt_strings_read(d->w->doc, "required_features", 32, 64, &d->w->required_features, d->err));
    /* None is defined yet: whatever is asked for is more than this version can do. */
    if (d->w->required_features.n) {
        char shown[48];
        const char *f = d->w->required_features.v[0];
        return refuse(d, "required_features", "'%s' is not known to this version",
                      mt_printable(f, strlen(f), shown, sizeof shown));
    }
    return 0;
}

int mt_workload_decode(json_t *json, struct mt_workload **ret, struct mt_workload_fault *ret_fault, struct mt_err *err)
{
    struct mt_workload_fault fault = {{0}, {0}};
    struct mt_err own = {0};
    struct dec d = {.fault = ret_fault ? ret_fault : &fault, .err = err ? err : &own};
    int rc;

    *d.fault = fault;
    mt_auto_workload struct mt_workload *w = calloc(1, sizeof *w);
    if (!w)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    d.w = w;
    w->doc = json_incref(json);
    if (!json_is_object(json))
        return refuse(&d, "workload", "is not an object");
    if ((rc = dec_identity(&d)) < 0 || (rc = dec_image(&d)) < 0 || (rc = dec_process(&d)) < 0 || (rc = dec_env(&d)) < 0 ||
        (rc = dec_resources(&d)) < 0 || (rc = dec_network(&d)) < 0 || (rc = dec_health(&d)) < 0 ||
        (rc = dec_secrets(&d)) < 0 || (rc = dec_mounts(&d)) < 0 || (rc = dec_lifecycle(&d)) < 0 || (rc = dec_features(&d)) < 0)
        return rc;
    *ret = MT_TAKE(w);
    return 0;
}

void mt_workload_free(struct mt_workload *w)
{
    if (!w)
        return;
    mt_strings_done(&w->command);
    free(w->env_vars);
    for (size_t i = 0; i < w->n_prestart; i++)
        mt_strings_done(&w->prestart[i].argv);
    free(w->prestart);
    free(w->network.ports);
    mt_strings_done(&w->network.dns);
    free(w->mounts);
    mt_strings_done(&w->required_features);
    json_decref(w->doc);
    free(w);
}
