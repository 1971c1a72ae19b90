/* SPDX-License-Identifier: Apache-2.0 */
/* What an agent reports: the status batch and the heartbeat. Strict decoding and encoding. */
#include "model/plan.h"

#include "model/jsonout.h"
#include "wire/json.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <arpa/inet.h>

#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1)

/* ---- status batch ---- */

static int opt_time(const json_t *o, const char *key, const char **ret, struct mt_err *err)
{
    int64_t ignored;
    int rc = mt_json_opt_str(o, key, 40, NULL, ret, err);

    if (rc < 0 || !*ret)
        return rc;
    if (mt_rfc3339_parse(*ret, &ignored, NULL) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not an RFC 3339 time", key);
    return 0;
}

static int dec_report(const json_t *o, struct mt_status_report *r, struct mt_err *err)
{
    const char *status;
    json_t *autopsy;
    uint64_t code, restarts;
    int rc;

    if (!json_is_object(o))
        return MT_FAIL(err, MT_E_INVALID, "is not an object");
    if ((rc = mt_json_get_str(o, "instance_id", MT_ID_SIZE, &r->instance_id, err)) < 0 ||
        (rc = mt_id_check(MT_ID_INSTANCE, r->instance_id, err)) < 0 ||
        (rc = mt_json_opt_str(o, "boot_id", MT_ID_SIZE, NULL, &r->boot_id, err)) < 0 ||
        (rc = mt_json_get_u64(o, "generation", 0, JSON_INT_MAX, &r->generation, err)) < 0 ||
        (rc = mt_json_get_str(o, "status", 16, &status, err)) < 0 ||
        (rc = mt_json_opt_str(o, "status_detail", 64, NULL, &r->status_detail, err)) < 0 ||
        (rc = mt_json_opt_str(o, "reason_code", 64, NULL, &r->reason_code, err)) < 0 ||
        (rc = mt_json_opt_str(o, "reason_detail", 512, NULL, &r->reason_detail, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "exit_code", 0, 255, 0, &code, err)) < 0 ||
        (rc = mt_json_opt_str(o, "signal", 16, NULL, &r->signal, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "restart_count", 0, UINT32_MAX, 0, &restarts, err)) < 0 ||
        (rc = opt_time(o, "next_retry_at", &r->next_retry_at, err)) < 0 ||
        (rc = opt_time(o, "reported_at", &r->reported_at, err)) < 0 ||
        (rc = mt_json_get_u64(o, "seq", 1, JSON_INT_MAX, &r->seq, err)) < 0 ||
        (rc = mt_json_opt_object(o, "autopsy", &autopsy, err)) < 0)
        return rc;
    r->autopsy = autopsy;
    if (r->boot_id && (rc = mt_id_check(MT_ID_BOOT, r->boot_id, err)) < 0)
        return rc;
    if (!mt_instance_status_parse(status, &r->status))
        return MT_FAIL(err, MT_E_INVALID, "'status' is not a known status");
    r->has_exit_code = json_is_integer(json_object_get(o, "exit_code"));
    r->exit_code = (int32_t)code;
    r->restart_count = (uint32_t)restarts;
    if (r->status == MT_STATUS_FAILED && !(r->reason_code && *r->reason_code))
        return MT_FAIL(err, MT_E_INVALID, "'reason_code' is missing (status is failed)");
    return 0;
}

static void batch_freep(struct mt_status_batch **b)
{
    mt_status_batch_free(*b);
}

int mt_status_batch_decode(json_t *json, struct mt_status_batch **ret, struct mt_err *err)
{
    struct mt_err own = {0};
    json_t *list, *item;
    size_t i;
    int rc;

    err = err ? err : &own;
    mt_cleanup(batch_freep) struct mt_status_batch *b = calloc(1, sizeof *b);
    if (!b)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (!json_is_object(json))
        return MT_FAIL(err, MT_E_INVALID, "a status batch is an object");
    b->doc = json_incref(json);
    if ((rc = mt_json_opt_str(json, "agent_version", 64, NULL, &b->agent_version, err)) < 0 ||
        (rc = mt_json_opt_bool(json, "resync", false, &b->resync, err)) < 0 ||
        (rc = mt_json_get_array(json, "instances", MT_STATUS_BATCH_MAX, &list, err)) < 0)
        return rc;
    b->reports = calloc(json_array_size(list) + 1, sizeof *b->reports);
    if (!b->reports)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, item) {
        if ((rc = dec_report(item, &b->reports[i], err)) < 0) {
            (void)mt_err_wrap(err, "instances[%zu]", i);
            return rc;
        }
        b->n_reports++;
    }
    if ((rc = mt_storage_reports_decode(json, MT_STATUS_BATCH_MAX - b->n_reports, &b->storage, err)) < 0)
        return rc;
    *ret = MT_TAKE(b);
    return 0;
}

static json_t *enc_report(const struct mt_status_report *r)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "instance_id", r->instance_id);
    mt_jout_str(&o, "boot_id", r->boot_id);
    mt_jout_u64(&o, "generation", r->generation);
    mt_jout_str(&o, "status", mt_instance_status_name(r->status));
    mt_jout_str(&o, "status_detail", r->status_detail);
    mt_jout_str(&o, "reason_code", r->reason_code);
    mt_jout_str(&o, "reason_detail", r->reason_detail);
    if (r->has_exit_code)
        mt_jout_json(&o, "exit_code", json_integer(r->exit_code));
    mt_jout_str(&o, "signal", r->signal);
    mt_jout_u64(&o, "restart_count", r->restart_count);
    mt_jout_str(&o, "next_retry_at", r->next_retry_at);
    mt_jout_str(&o, "reported_at", r->reported_at);
    mt_jout_u64(&o, "seq", r->seq);
    if (r->autopsy)
        mt_jout_json(&o, "autopsy", json_deep_copy(r->autopsy));
    return mt_jout_take(&o);
}

int mt_status_batch_encode(const struct mt_status_batch *b, json_t **ret, struct mt_err *err)
{
    struct mt_jout o = mt_jout_new();
    json_t *list = json_array();

    mt_jout_str(&o, "agent_version", b->agent_version);
    mt_jout_bool(&o, "resync", b->resync);
    for (size_t i = 0; i < b->n_reports; i++) {
        json_t *item = enc_report(&b->reports[i]);
        if (!item || !list || json_array_append_new(list, item) != 0)
            o.failed = true;
    }
    mt_jout_json(&o, "instances", list);
    mt_auto_json json_t *json = mt_jout_take(&o);
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding a status batch (or a text that is not UTF-8)");
    int rc = mt_storage_reports_encode(&b->storage, json, err);
    if (rc == 0)
        *ret = MT_TAKE(json);
    return rc;
}

void mt_status_batch_free(struct mt_status_batch *b)
{
    if (!b)
        return;
    free(b->reports);
    mt_storage_reports_done(&b->storage);
    json_decref(b->doc);
    free(b);
}

/* ---- heartbeat ---- */

static int dec_figures(const json_t *json, const char *key, uint64_t *cpu, uint64_t *memory, uint64_t *disk, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_get_object(json, key, &o, err);

    if (rc < 0)
        return rc;
    if ((rc = mt_json_get_u64(o, "cpu_millis", 0, JSON_INT_MAX, cpu, err)) < 0 ||
        (rc = mt_json_get_u64(o, "memory_bytes", 0, JSON_INT_MAX, memory, err)) < 0 ||
        (rc = mt_json_get_u64(o, "disk_bytes", 0, JSON_INT_MAX, disk, err)) < 0)
        return mt_err_wrap(err, "%s", key);
    return 0;
}

static int dec_vmm(const json_t *json, struct mt_heartbeat *h, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_get_object(json, "vmm", &o, err);

    if (rc < 0)
        return rc;
    if ((rc = mt_json_get_str(o, "driver", 32, &h->vmm_driver, err)) < 0 ||
        (rc = mt_json_get_str(o, "accel", 32, &h->vmm_accel, err)) < 0 ||
        (rc = mt_json_opt_str(o, "reason", 1024, "", &h->vmm_reason, err)) < 0)
        return mt_err_wrap(err, "vmm");
    return 0;
}

/* What the host lacks: shown to operators as it came, so it is bounded here. */
static int dec_host(const json_t *json, struct mt_heartbeat *h, struct mt_err *err)
{
    json_t *o;
    size_t i;
    const char *text;
    int rc = mt_json_opt_array(json, "host", MT_HEARTBEAT_HOST_MAX, &h->host, err);

    if (rc < 0 || !h->host)
        return rc;
    json_array_foreach (h->host, i, o) {
        if (!json_is_object(o))
            return MT_FAIL(err, MT_E_INVALID, "host[%zu] is no object", i);
        if ((rc = mt_json_get_str(o, "item", 32, &text, err)) < 0 || (rc = mt_json_get_str(o, "finding", 256, &text, err)) < 0 ||
            (rc = mt_json_get_str(o, "mend", 512, &text, err)) < 0)
            return mt_err_wrap(err, "host[%zu]", i);
    }
    return 0;
}

/* Shown to operators, and looked into by the choice of an address: what it is made of is certain. */
static int dec_strays(const json_t *json, struct mt_heartbeat *h, struct mt_err *err)
{
    json_t *o;
    size_t i;
    const char *address, *at;
    struct in_addr a;
    int rc = mt_json_opt_array(json, "ipv4_strays", MT_IPV4_STRAYS_MAX, &h->ipv4_strays, err);
    if (rc < 0 || (rc = mt_json_opt_bool(json, "asks_ipv4_pool", false, &h->asks_ipv4_pool, err)) < 0 || !h->ipv4_strays)
        return rc;
    json_array_foreach (h->ipv4_strays, i, o) {
        if (!json_is_object(o))
            return MT_FAIL(err, MT_E_INVALID, "ipv4_strays[%zu] is no object", i);
        if ((rc = mt_json_get_str(o, "address", 15, &address, err)) < 0 || (rc = mt_json_get_str(o, "at", 17, &at, err)) < 0)
            return mt_err_wrap(err, "ipv4_strays[%zu]", i);
        if (inet_pton(AF_INET, address, &a) != 1 || (!MT_STREQ(at, MT_IPV4_STRAY_HERE) && (strlen(at) != 17 || strspn(at, "0123456789abcdef:") != 17)))
            return MT_FAIL(err, MT_E_INVALID, "ipv4_strays[%zu] is no address, or at no hardware address", i);
    }
    return 0;
}

static int dec_counts(const json_t *json, struct mt_heartbeat *h, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_opt_object(json, "instance_counts", &o, err);

    for (unsigned i = 0; rc == 0 && o && i < MT_STATUS_MAX; i++) {
        uint64_t n;
        rc = mt_json_opt_u64(o, mt_instance_status_name((enum mt_instance_status)i), 0, UINT32_MAX, 0, &n, err);
        h->counts[i] = rc == 0 ? (uint32_t)n : 0;
    }
    return rc;
}

static void heartbeat_freep(struct mt_heartbeat **h)
{
    mt_heartbeat_free(*h);
}

/* An address in its one spelling: it is compared as text from here on. */
static int dec_address(const json_t *json, const char *key, int family, const char **ret, struct mt_err *err)
{
    uint8_t bin[16];
    char text[INET6_ADDRSTRLEN];
    int rc = mt_json_opt_str(json, key, INET6_ADDRSTRLEN, NULL, ret, err);
    if (rc == 0 && *ret && (inet_pton(family, *ret, bin) != 1 || !inet_ntop(family, bin, text, sizeof text) || !MT_STREQ(text, *ret)))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no address as it is written", key);
    return rc;
}

int mt_heartbeat_decode(json_t *json, struct mt_heartbeat **ret, struct mt_err *err)
{
    struct mt_err own = {0};
    uint64_t clock_ms;
    int rc;

    err = err ? err : &own;
    mt_cleanup(heartbeat_freep) struct mt_heartbeat *h = calloc(1, sizeof *h);
    if (!h)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (!json_is_object(json))
        return MT_FAIL(err, MT_E_INVALID, "a heartbeat is an object");
    h->doc = json_incref(json);
    if ((rc = mt_json_get_str(json, "node_id", MT_ID_SIZE, &h->node_id, err)) < 0 ||
        (rc = mt_id_check(MT_ID_NODE, h->node_id, err)) < 0 ||
        (rc = mt_json_get_str(json, "agent_version", 64, &h->agent_version, err)) < 0 ||
        (rc = mt_json_opt_str(json, "kernel_version", 128, NULL, &h->kernel_version, err)) < 0 ||
        (rc = mt_json_opt_str(json, "init_version", 64, NULL, &h->init_version, err)) < 0 ||
        (rc = mt_json_opt_str(json, "vmm_version", 128, NULL, &h->vmm_version, err)) < 0 ||
        (rc = dec_vmm(json, h, err)) < 0 || (rc = mt_json_get_str(json, "arch", 16, &h->arch, err)) < 0 ||
        (rc = mt_strings_read(json, "conditions", 32, 64, &h->conditions, err)) < 0 ||
        (rc = mt_strings_read(json, "protocols", 16, 32, &h->protocols, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "epoch", 0, JSON_INT_MAX, 0, &h->epoch, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "cursor_event_id", 0, JSON_INT_MAX, 0, &h->cursor_event_id, err)) < 0 ||
        (rc = mt_json_opt_str(json, "plan_id", MT_ULID_LEN, NULL, &h->plan_id, err)) < 0 ||
        (rc = dec_figures(json, "allocatable", &h->allocatable.cpu_millis, &h->allocatable.memory_bytes,
                          &h->allocatable.disk_bytes, err)) < 0 ||
        (rc = dec_figures(json, "used", &h->used.cpu_millis, &h->used.memory_bytes, &h->used.disk_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "ceiling_cpu_millis", 0, JSON_INT_MAX, h->allocatable.cpu_millis * 2,
                              &h->ceiling_cpu_millis, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "memory_overhead_bytes", 0, 1U << 30, 64U << 20, &h->memory_overhead_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "image_cache_bytes", 0, JSON_INT_MAX, 0, &h->image_cache_bytes, err)) < 0 ||
        (rc = dec_counts(json, h, err)) < 0 ||
        (rc = mt_json_opt_bool(json, "disk_pressure", false, &h->disk_pressure, err)) < 0 ||
        (rc = mt_json_opt_bool(json, "memory_pressure", false, &h->memory_pressure, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "clock_unix_ms", 0, JSON_INT_MAX, 0, &clock_ms, err)) < 0 ||
        (rc = mt_json_opt_str(json, "ca_trust", 64, NULL, &h->ca_trust, err)) < 0 ||
        (rc = dec_address(json, "public_ipv6", AF_INET6, &h->public_ipv6, err)) < 0 || (rc = dec_address(json, "public_ipv4", AF_INET, &h->public_ipv4, err)) < 0 ||
        (rc = mt_json_opt_object(json, "mesh", &h->mesh, err)) < 0 || (rc = mt_json_opt_array(json, "ipv4", MT_PLAN_IPV4_MAX, &h->ipv4, err)) < 0 ||
        (rc = dec_host(json, h, err)) < 0 || (rc = dec_strays(json, h, err)) < 0 || (rc = mt_storage_figures_decode(json, &h->storage, err)) < 0)
        return rc;
    h->clock_unix_ms = (int64_t)clock_ms;
    if (!MT_STREQ(h->arch, "amd64") && !MT_STREQ(h->arch, "arm64"))
        return MT_FAIL(err, MT_E_INVALID, "'arch' is neither amd64 nor arm64");
    if (h->plan_id && !mt_ulid_valid(h->plan_id, strlen(h->plan_id)))
        return MT_FAIL(err, MT_E_INVALID, "'plan_id' is not a ULID");
    *ret = MT_TAKE(h);
    return 0;
}

static json_t *enc_figures(uint64_t cpu, uint64_t memory, uint64_t disk)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "cpu_millis", cpu);
    mt_jout_u64(&o, "memory_bytes", memory);
    mt_jout_u64(&o, "disk_bytes", disk);
    return mt_jout_take(&o);
}

int mt_heartbeat_encode(const struct mt_heartbeat *h, json_t **ret, struct mt_err *err)
{
    struct mt_jout o = mt_jout_new(), vmm = mt_jout_new(), counts = mt_jout_new();

    mt_jout_str(&o, "node_id", h->node_id);
    mt_jout_str(&o, "agent_version", h->agent_version);
    mt_jout_str(&o, "kernel_version", h->kernel_version);
    mt_jout_str(&o, "init_version", h->init_version);
    mt_jout_str(&o, "vmm_version", h->vmm_version);
    mt_jout_str(&vmm, "driver", h->vmm_driver);
    mt_jout_str(&vmm, "accel", h->vmm_accel);
    mt_jout_str(&vmm, "reason", h->vmm_reason);
    mt_jout_json(&o, "vmm", mt_jout_take(&vmm));
    mt_jout_str(&o, "arch", h->arch);
    mt_jout_json(&o, "conditions", mt_jout_strings(&h->conditions));
    mt_jout_json(&o, "protocols", mt_jout_strings(&h->protocols));
    mt_jout_u64(&o, "epoch", h->epoch);
    mt_jout_u64(&o, "cursor_event_id", h->cursor_event_id);
    mt_jout_str(&o, "plan_id", h->plan_id);
    mt_jout_json(&o, "allocatable",
                 enc_figures(h->allocatable.cpu_millis, h->allocatable.memory_bytes, h->allocatable.disk_bytes));
    mt_jout_json(&o, "used", enc_figures(h->used.cpu_millis, h->used.memory_bytes, h->used.disk_bytes));
    mt_jout_u64(&o, "ceiling_cpu_millis", h->ceiling_cpu_millis);
    mt_jout_u64(&o, "memory_overhead_bytes", h->memory_overhead_bytes);
    mt_jout_u64(&o, "image_cache_bytes", h->image_cache_bytes);
    for (unsigned i = 0; i < MT_STATUS_MAX; i++)
        mt_jout_u64(&counts, mt_instance_status_name((enum mt_instance_status)i), h->counts[i]);
    mt_jout_json(&o, "instance_counts", mt_jout_take(&counts));
    mt_jout_bool(&o, "disk_pressure", h->disk_pressure);
    mt_jout_bool(&o, "memory_pressure", h->memory_pressure);
    mt_jout_json(&o, "clock_unix_ms", json_integer(h->clock_unix_ms));
    mt_jout_str(&o, "ca_trust", h->ca_trust);
    mt_jout_str(&o, "public_ipv6", h->public_ipv6);
    mt_jout_str(&o, "public_ipv4", h->public_ipv4);
    if (h->mesh)
        mt_jout_json(&o, "mesh", json_incref(h->mesh));
    if (h->host)
        mt_jout_json(&o, "host", json_incref(h->host));
    if (h->ipv4)
        mt_jout_json(&o, "ipv4", json_incref(h->ipv4));
    if (h->ipv4_strays)
        mt_jout_json(&o, "ipv4_strays", json_incref(h->ipv4_strays));
    if (h->asks_ipv4_pool)
        mt_jout_bool(&o, "asks_ipv4_pool", true);
    mt_auto_json json_t *json = mt_jout_take(&o);
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding a heartbeat (or a text that is not UTF-8)");
    int rc = mt_storage_figures_encode(&h->storage, json, err);
    if (rc == 0)
        *ret = MT_TAKE(json);
    return rc;
}

void mt_heartbeat_free(struct mt_heartbeat *h)
{
    if (!h)
        return;
    mt_strings_done(&h->conditions);
    mt_strings_done(&h->protocols);
    json_decref(h->doc);
    free(h);
}
