/* SPDX-License-Identifier: Apache-2.0 */
/* Enrolment of the local machine and keeping its record true. The record is known by cert_fingerprint "local". */
#include "control/nodes/local.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/nodes/number.h"
#include "control/plans/address.h"
#include "model/names.h"
#include "wire/json.h"

#include <ctype.h>

static const struct mt_pg_stmt differs = {
    "local_node_differs",
    "SELECT allocatable IS DISTINCT FROM $2::jsonb, vmm IS DISTINCT FROM $3::jsonb, agent_version IS DISTINCT FROM $4,"
    " public_ipv6 IS DISTINCT FROM $5 OR public_ipv4 IS DISTINCT FROM $6 FROM nodes_view WHERE node_id = $1"};

/* What the scheduler needs to know about room, as kept in the record. */
static json_t *allocatable(const struct mt_control *ctl, const struct mt_heartbeat *hb)
{
    uint64_t least = ctl->conf.vmm_overhead_bytes, overhead = hb->memory_overhead_bytes > least ? hb->memory_overhead_bytes : least;
    const struct mt_storage_figures *f = &hb->storage;
    json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:I}", "cpu_millis", (json_int_t)hb->allocatable.cpu_millis, "memory_bytes",
                     (json_int_t)hb->allocatable.memory_bytes, "disk_bytes", (json_int_t)hb->allocatable.disk_bytes,
                     "ceiling_cpu_millis", (json_int_t)hb->ceiling_cpu_millis, "memory_overhead_bytes",
                     (json_int_t)overhead);
    if (o && f->present) { /* no new volumes on a pool that is ill or nearly full (storage-and-secrets.md §3.4) */
        bool room = f->pool_used_bytes < mt_storage_allocatable(f->pool_bytes) &&
                    (f->meta_bytes == 0 || f->meta_used_bytes < mt_storage_allocatable(f->meta_bytes));
        json_object_set_new(o, "volume_bytes", json_integer((json_int_t)mt_storage_allocatable(f->pool_bytes)));
        json_object_set_new(o, "new_volumes", json_boolean(f->healthy && room));
        if (f->backup_store)
            json_object_set_new(o, "backup_store", json_true());
        if (f->restores)
            json_object_set_new(o, "restores", json_true());
    }
    return o;
}

static json_t *vmm(const struct mt_heartbeat *hb)
{
    return json_pack("{s:s,s:s,s:s}", "driver", hb->vmm_driver, "accel", hb->vmm_accel, "reason", hb->vmm_reason);
}

/* The host's name as a node name: lower case, other characters become '-'. */
static void node_name(char ret[64])
{
    char host[64] = "";
    (void)gethostname(host, sizeof host - 1);
    size_t o = 0;
    for (size_t i = 0; host[i] && o < 62; i++) {
        char ch = (char)tolower((unsigned char)host[i]);
        if (ch == '.')
            break;
        ret[o++] = (char)((isalnum((unsigned char)ch) && (unsigned char)ch < 0x80) ? ch : '-');
    }
    while (o && ret[o - 1] == '-')
        o--;
    ret[o] = 0;
    if (!mt_name_valid(MT_NAME_NODE, ret, o))
        snprintf(ret, 64, "local");
}

int mt_local_node_enrol(struct mt_control *ctl, struct mt_pg *pg, const struct mt_heartbeat *hb, const char *request_id,
                        struct mt_err *err)
{
    char name[64], overlay[MT_ADDR_SIZE], prefix[MT_ADDR_SIZE], key[64];
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = hb->node_id, .request_id = request_id};
    node_name(name);
    snprintf(key, sizeof key, "local:%s", hb->node_id);
    int rc = mt_node_addresses_next(pg, ctl->prefix, overlay, prefix, err);
    if (rc < 0 || (rc = mt_cmd_new(&actor, &cmd, err)) < 0)
        return rc;
    json_t *roles = json_array();
    for (size_t i = 0; i < ctl->conf.node_roles.n; i++)
        json_array_append_new(roles, json_string(ctl->conf.node_roles.v[i]));
    json_t *payload = json_pack("{s:s,s:o,s:s,s:s,s:s,s:s,s:s,s:{s:s},s:o,s:s}", "name", name, "roles", roles, "arch", hb->arch,
                                "wireguard_public_key", key, "cert_fingerprint", "local", "overlay_ipv6", overlay,
                                "instance_prefix", prefix, "labels", "vmm", hb->vmm_driver, "capacity", allocatable(ctl, hb),
                                "enrollment_token_id", "local");
    struct mt_cmd_ids none = {0};
    if ((rc = mt_cmd_event(cmd, MT_EV_NODE_ENROLLED, hb->node_id, &none, payload, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_NODE_ADMIN_STATE_CHANGED, hb->node_id, &none,
                           json_pack("{s:s,s:s,s:s}", "old", "enrolled", "new", "active", "reason",
                                     "the machine's own agent"),
                           err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_NODE_UPDATED, hb->node_id, &none,
                           json_pack("{s:o,s:o,s:s,s:I}", "allocatable", allocatable(ctl, hb), "vmm", vmm(hb), "agent_version",
                                     hb->agent_version, "mtu", (json_int_t)ctl->conf.mtu),
                           err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "node.enrolled", KV("node_id", hb->node_id), KV("overlay_ipv6", overlay),
               KV("instance_prefix", prefix));
    return rc;
}

int mt_node_refresh(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node,
                          const struct mt_heartbeat *hb, const char *request_id, struct mt_err *err)
{
    mt_auto_json json_t *alloc = allocatable(ctl, hb);
    mt_auto_json json_t *driver = vmm(hb);
    mt_auto_free char *at = alloc ? json_dumps(alloc, JSON_COMPACT) : NULL;
    mt_auto_free char *dt = driver ? json_dumps(driver, JSON_COMPACT) : NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_pg_params p;
    if (!at || !dt)
        return MT_FAIL(err, MT_E_NOMEM, "node record");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node->node_id);
    mt_pg_p_json(&p, at);
    mt_pg_p_json(&p, dt);
    mt_pg_p_text(&p, hb->agent_version);
    mt_pg_p_text(&p, hb->public_ipv6);
    mt_pg_p_text(&p, hb->public_ipv4);
    int rc = mt_pg_query_one(pg, &differs, &p, &r, err);
    if (rc < 0)
        return rc;
    bool a = mt_pg_bool(r, 0, 0), v = mt_pg_bool(r, 0, 1), w = mt_pg_bool(r, 0, 2), at_public = mt_pg_bool(r, 0, 3);
    if (!a && !v && !w && !at_public)
        return 0;
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = node->node_id, .request_id = request_id};
    struct mt_cmd_ids none = {0};
    json_t *payload = json_object();
    if (a)
        json_object_set(payload, "allocatable", alloc);
    if (v)
        json_object_set(payload, "vmm", driver);
    if (w)
        json_object_set_new(payload, "agent_version", json_string(hb->agent_version));
    if (at_public) {
        json_object_set_new(payload, "public_ipv6", hb->public_ipv6 ? json_string(hb->public_ipv6) : json_null());
        json_object_set_new(payload, "public_ipv4", hb->public_ipv4 ? json_string(hb->public_ipv4) : json_null());
    }
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_NODE_UPDATED, node->node_id, &none, payload, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}
