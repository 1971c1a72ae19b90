/* SPDX-License-Identifier: Apache-2.0 */
/* NodePlan: strict decoding and encoding. Which plan wins is not decided here. */
#include "model/plan.h"

#include "model/jsonout.h"
#include "model/names.h"
#include "wire/json.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <arpa/inet.h>

#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1)
#define TRACE_DIGITS 32

static const char *const desired_names[MT_DESIRED_STATE_MAX] = {
    [MT_DESIRED_RUNNING] = "running",
    [MT_DESIRED_DRAINING] = "draining",
    [MT_DESIRED_STOPPED] = "stopped",
};

static const char *const status_names[MT_STATUS_MAX] = {
    [MT_STATUS_BOOTING] = "booting", [MT_STATUS_STARTING] = "starting", [MT_STATUS_READY] = "ready",
    [MT_STATUS_UNREADY] = "unready", [MT_STATUS_DRAINING] = "draining", [MT_STATUS_STOPPED] = "stopped",
    [MT_STATUS_FAILED] = "failed",
};

const char *mt_desired_state_name(enum mt_desired_state state)
{
    MT_ASSERT((unsigned)state < MT_DESIRED_STATE_MAX);
    return desired_names[state];
}

const char *mt_instance_status_name(enum mt_instance_status status)
{
    MT_ASSERT((unsigned)status < MT_STATUS_MAX);
    return status_names[status];
}

bool mt_desired_state_parse(const char *word, enum mt_desired_state *ret)
{
    for (unsigned i = 0; word && i < MT_DESIRED_STATE_MAX; i++)
        if (MT_STREQ(desired_names[i], word)) {
            *ret = (enum mt_desired_state)i;
            return true;
        }
    return false;
}

bool mt_instance_status_parse(const char *word, enum mt_instance_status *ret)
{
    for (unsigned i = 0; word && i < MT_STATUS_MAX; i++)
        if (MT_STREQ(status_names[i], word)) {
            *ret = (enum mt_instance_status)i;
            return true;
        }
    return false;
}

/* ---- decoding ---- */

static bool assignment_id_valid(const char *s)
{
    size_t n = strlen(s);

    if (n < 1 || n > 64)
        return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static int dec_assignment(json_t *json, struct mt_assignment *a, struct mt_err *err)
{
    const char *desired;
    uint64_t delay;
    json_t *workload;
    int rc;

    if (!json_is_object(json))
        return MT_FAIL(err, MT_E_INVALID, "is not an object");
    if ((rc = mt_json_get_str(json, "instance_id", MT_ID_SIZE, &a->instance_id, err)) < 0 ||
        (rc = mt_id_check(MT_ID_INSTANCE, a->instance_id, err)) < 0 ||
        (rc = mt_json_get_str(json, "assignment_id", 64, &a->assignment_id, err)) < 0 ||
        (rc = mt_json_get_u64(json, "generation", 1, JSON_INT_MAX, &a->generation, err)) < 0 ||
        (rc = mt_json_get_str(json, "desired_state", 16, &desired, err)) < 0 ||
        (rc = mt_json_opt_u64(json, "drain_delay_seconds", 0, 60, 5, &delay, err)) < 0 ||
        (rc = mt_json_opt_str(json, "secret_ref", MT_ID_SIZE, NULL, &a->secret_ref, err)) < 0 ||
        (rc = mt_json_opt_str(json, "trace_id", TRACE_DIGITS, NULL, &a->trace_id, err)) < 0 ||
        (rc = mt_json_opt_object(json, "workload", &workload, err)) < 0)
        return rc;
    if (!assignment_id_valid(a->assignment_id))
        return MT_FAIL(err, MT_E_INVALID, "'assignment_id' is not 1 to 64 of a-z 0-9 _ -");
    if (!mt_desired_state_parse(desired, &a->desired_state))
        return MT_FAIL(err, MT_E_INVALID, "'desired_state' is not running, draining or stopped");
    if (a->secret_ref && (rc = mt_id_check(MT_ID_SECRET_VERSION, a->secret_ref, err)) < 0)
        return rc;
    if (a->trace_id && strspn(a->trace_id, "0123456789abcdef") != TRACE_DIGITS)
        return MT_FAIL(err, MT_E_INVALID, "'trace_id' is not 32 lower-case hex digits");
    a->drain_delay_seconds = (uint32_t)delay;
    if (!workload) {
        if (a->desired_state != MT_DESIRED_STOPPED)
            return MT_FAIL(err, MT_E_INVALID, "'workload' is missing");
        return 0;
    }
    struct mt_err inner = {0};
    rc = mt_workload_decode(workload, &a->workload, &a->fault, &inner);
    if (rc == -MT_E_NOMEM) {
        if (err)
            *err = inner;
        return rc;
    }
    if (rc < 0) {
        a->unread = workload; /* the fault travels with the assignment */
        return 0;
    }
    if (!MT_STREQ(a->workload->instance_id, a->instance_id))
        return MT_FAIL(err, MT_E_INVALID, "the workload is of another instance");
    if (a->workload->generation != a->generation)
        return MT_FAIL(err, MT_E_INVALID, "the workload is of another generation");
    return 0;
}

/* `addr` or, when @prefix_bits is not 0, `addr/prefix_bits` (any length when < 0). */
static bool ipv6_text(const char *s, int prefix_bits)
{
    char addr[INET6_ADDRSTRLEN];
    struct in6_addr a;
    const char *slash = strchr(s, '/');
    size_t n = slash ? (size_t)(slash - s) : strlen(s);

    if ((slash != NULL) != (prefix_bits != 0) || n >= sizeof addr)
        return false;
    memcpy(addr, s, n);
    addr[n] = '\0';
    if (inet_pton(AF_INET6, addr, &a) != 1)
        return false;
    uint64_t bits;
    return !slash || (mt_parse_u64(slash + 1, 0, 128, &bits, NULL) == 0 && (prefix_bits < 0 || bits == (uint64_t)prefix_bits));
}

static int addresses(const json_t *o, const char *key, size_t max, struct mt_strings *ret, struct mt_err *err)
{
    int rc = mt_strings_read(o, key, max, 45, ret, err);

    for (size_t i = 0; rc == 0 && i < ret->n; i++)
        if (!ipv6_text(ret->v[i], 0))
            rc = MT_FAIL(err, MT_E_INVALID, "'%s' holds something that is not an IPv6 address", key);
    return rc;
}

static int dec_rotation(const json_t *of, struct mt_plan_rotation *ret, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_opt_object(of, "rotation", &o, err);

    if (rc < 0 || !o)
        return rc;
    if ((rc = mt_json_get_str(o, "next_public_key", 44, &ret->next_public_key, err)) < 0 ||
        (rc = mt_json_get_u64(o, "cutover_unix_ms", 1, JSON_INT_MAX, &ret->cutover_unix_ms, err)) < 0)
        return mt_err_wrap(err, "rotation");
    return 0;
}

static int dec_mesh(const json_t *network, struct mt_plan_mesh *m, struct mt_err *err)
{
    uint64_t port;
    json_t *o;
    int rc = mt_json_opt_object(network, "mesh", &o, err);

    if (rc < 0 || !o)
        return rc;
    if ((rc = mt_json_get_u64(o, "revision", 1, JSON_INT_MAX, &m->revision, err)) < 0 ||
        (rc = mt_json_get_u64(o, "listen_port", 1, 65535, &port, err)) < 0 ||
        (rc = mt_json_get_str(o, "public_key", 44, &m->public_key, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "key_generation", 0, JSON_INT_MAX, 0, &m->key_generation, err)) < 0 ||
        (rc = dec_rotation(o, &m->rotation, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "rotate", false, &m->rotate, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "allow_mass_removal", false, &m->allow_mass_removal, err)) < 0)
        return mt_err_wrap(err, "mesh");
    m->listen_port = (uint32_t)port;
    m->present = true;
    return 0;
}

static int dec_peers(const json_t *o, struct mt_plan_network *n, struct mt_err *err)
{
    json_t *list, *p;
    size_t i;
    uint64_t keepalive;
    int rc = mt_json_opt_array(o, "peers", 1024, &list, err);

    if (rc < 0 || !list)
        return rc;
    n->peers = calloc(json_array_size(list) + 1, sizeof *n->peers);
    if (!n->peers)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, p) {
        struct mt_plan_peer *peer = &n->peers[i];
        if (!json_is_object(p))
            return MT_FAIL(err, MT_E_INVALID, "'peers' holds something that is not an object");
        n->n_peers++;
        if ((rc = mt_json_get_str(p, "node_id", MT_ID_SIZE, &peer->node_id, err)) < 0 ||
            (rc = mt_id_check(MT_ID_NODE, peer->node_id, err)) < 0 ||
            (rc = mt_json_get_str(p, "public_key", 44, &peer->public_key, err)) < 0 ||
            (rc = mt_strings_read(p, "endpoints", 8, 64, &peer->endpoints, err)) < 0 ||
            (rc = mt_strings_read(p, "allowed_ips", 8, 64, &peer->allowed_ips, err)) < 0 ||
            (rc = mt_strings_read(p, "roles", 8, 16, &peer->roles, err)) < 0 ||
            (rc = mt_json_opt_u64(p, "keepalive", 0, 65535, 0, &keepalive, err)) < 0 ||
            (rc = mt_json_opt_u64(p, "key_generation", 0, JSON_INT_MAX, 0, &peer->key_generation, err)) < 0 ||
            (rc = dec_rotation(p, &peer->rotation, err)) < 0)
            return rc;
        peer->keepalive = (uint32_t)keepalive;
        for (size_t k = 0; k < peer->allowed_ips.n; k++)
            if (!ipv6_text(peer->allowed_ips.v[k], -1))
                return MT_FAIL(err, MT_E_INVALID, "'allowed_ips' of a peer holds something that is not an IPv6 prefix");
        for (size_t k = 0; k < i; k++)
            if (MT_STREQ(n->peers[k].node_id, peer->node_id))
                return MT_FAIL(err, MT_E_INVALID, "peer %s is there twice", peer->node_id);
    }
    return 0;
}

static int dec_ports(const json_t *list, size_t max, uint16_t *ret, size_t *ret_n, struct mt_err *err)
{
    const json_t *port;
    size_t i;

    json_array_foreach((json_t *)(uintptr_t)list, i, port) {
        if (i == max || !json_is_integer(port) || json_integer_value(port) < 1 || json_integer_value(port) > 65535)
            return MT_FAIL(err, MT_E_INVALID, "'ports' holds something that is no port, or too many");
        ret[(*ret_n)++] = (uint16_t)json_integer_value(port);
    }
    return 0;
}

static int dec_private(const json_t *o, struct mt_plan_network *n, struct mt_err *err)
{
    json_t *list, *e, *ports;
    size_t i;
    int rc = mt_json_opt_array(o, "private", MT_PLAN_PRIVATE_MAX, &list, err);

    if (rc < 0 || !list || json_array_size(list) == 0)
        return rc;
    n->private = calloc(json_array_size(list), sizeof *n->private);
    if (!n->private)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, e) {
        struct mt_plan_private *v = &n->private[i];
        if (!json_is_object(e))
            return MT_FAIL(err, MT_E_INVALID, "'private' holds something that is not an object");
        if ((rc = mt_json_get_str(e, "env_id", MT_ID_SIZE, &v->env_id, err)) < 0 || (rc = mt_id_check(MT_ID_ENV, v->env_id, err)) < 0 ||
            (rc = mt_json_get_str(e, "address", 45, &v->address, err)) < 0 ||
            (rc = mt_json_get_array(e, "ports", MT_WORKLOAD_PORTS_MAX, &ports, err)) < 0 ||
            (rc = dec_ports(ports, MT_WORKLOAD_PORTS_MAX, v->ports, &v->n_ports, err)) < 0)
            return mt_err_wrap(err, "private[%zu]", i);
        if (!ipv6_text(v->address, 0))
            return MT_FAIL(err, MT_E_INVALID, "'private' holds something that is not an IPv6 address");
        if (i > 0 && strcmp(n->private[i - 1].env_id, v->env_id) > 0)
            return MT_FAIL(err, MT_E_INVALID, "'private' is not sorted by env_id");
        n->n_private++;
    }
    return 0;
}

static int dec_ipv4(const json_t *o, struct mt_plan_network *n, struct mt_err *err)
{
    json_t *list, *e, *ports;
    size_t i, k;
    int rc = mt_json_opt_array(o, "ipv4", MT_PLAN_IPV4_MAX, &list, err);

    if (rc < 0 || !list || json_array_size(list) == 0)
        return rc;
    n->ipv4 = calloc(json_array_size(list), sizeof *n->ipv4);
    if (!n->ipv4)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, e) {
        struct mt_plan_ipv4 *v = &n->ipv4[i];
        struct in_addr a;
        if (!json_is_object(e))
            return MT_FAIL(err, MT_E_INVALID, "'ipv4' holds something that is not an object");
        if ((rc = mt_json_get_str(e, "address", 15, &v->address, err)) < 0 ||
            (rc = mt_json_opt_u64(e, "until_unix_ms", 1, JSON_INT_MAX, 0, &v->until_unix_ms, err)) < 0 ||
            (rc = mt_json_opt_bool(e, "moved", false, &v->moved, err)) < 0 || (rc = mt_json_get_array(e, "ports", MT_PLAN_IPV4_PORTS, &ports, err)) < 0)
            return mt_err_wrap(err, "ipv4[%zu]", i);
        if (inet_pton(AF_INET, v->address, &a) != 1)
            return MT_FAIL(err, MT_E_INVALID, "'ipv4' holds something that is not an IPv4 address");
        for (k = 0; k < i; k++)
            if (MT_STREQ(n->ipv4[k].address, v->address))
                return MT_FAIL(err, MT_E_INVALID, "IPv4 address %s is there twice", v->address);
        if ((rc = dec_ports(ports, MT_PLAN_IPV4_PORTS, v->ports, &v->n_ports, err)) < 0)
            return mt_err_wrap(err, "ipv4[%zu]", i);
        n->n_ipv4++;
    }
    return 0;
}

static int dec_edge_ports(const json_t *o, struct mt_plan_network *n, struct mt_err *err)
{
    json_t *list;
    int rc = mt_json_opt_array(o, "edge_ports", MT_PLAN_EDGE_PORTS, &list, err);

    if (rc < 0 || !list || json_array_size(list) == 0)
        return rc;
    n->edge_ports = calloc(json_array_size(list), sizeof *n->edge_ports);
    if (!n->edge_ports)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    rc = dec_ports(list, json_array_size(list), n->edge_ports, &n->n_edge_ports, err);
    return rc < 0 ? mt_err_wrap(err, "edge_ports") : 0;
}

static int dec_network_fields(json_t *o, struct mt_plan_network *n, struct mt_err *err)
{
    uint64_t mtu;
    int rc;

    if ((rc = mt_json_opt_u64(o, "mtu", 1280, 9000, 1420, &mtu, err)) < 0 ||
        (rc = mt_json_get_str(o, "cluster_prefix", 64, &n->cluster_prefix, err)) < 0 ||
        (rc = mt_json_get_str(o, "overlay_ipv6", 45, &n->overlay_ipv6, err)) < 0 ||
        (rc = mt_json_get_str(o, "instance_prefix", 64, &n->instance_prefix, err)) < 0 ||
        (rc = addresses(o, "dns", MT_WORKLOAD_DNS_MAX, &n->dns, err)) < 0 ||
        (rc = addresses(o, "edges", 256, &n->edges, err)) < 0 ||
        (rc = addresses(o, "gateways", 256, &n->gateways, err)) < 0 ||
        (rc = addresses(o, "quarantine", MT_PLAN_INSTANCES_MAX, &n->quarantine, err)) < 0 ||
        (rc = mt_json_opt_str(o, "egress_mode", 16, "none", &n->egress_mode, err)) < 0 ||
        (rc = dec_edge_ports(o, n, err)) < 0 || (rc = dec_ipv4(o, n, err)) < 0 || (rc = dec_private(o, n, err)) < 0 || (rc = dec_mesh(o, &n->mesh, err)) < 0 || (rc = dec_peers(o, n, err)) < 0)
        return mt_err_wrap(err, "network");
    n->mtu = (uint32_t)mtu;
    if (!ipv6_text(n->cluster_prefix, -1))
        return MT_FAIL(err, MT_E_INVALID, "network: 'cluster_prefix' is not an IPv6 prefix");
    if (!ipv6_text(n->overlay_ipv6, 0))
        return MT_FAIL(err, MT_E_INVALID, "network: 'overlay_ipv6' is not an IPv6 address");
    if (!ipv6_text(n->instance_prefix, 80))
        return MT_FAIL(err, MT_E_INVALID, "network: 'instance_prefix' is not an IPv6 /80");
    if (!MT_STREQ(n->egress_mode, "none") && !MT_STREQ(n->egress_mode, "routed") && !MT_STREQ(n->egress_mode, "nat66"))
        return MT_FAIL(err, MT_E_INVALID, "network: 'egress_mode' is not none, routed or nat66");
    return 0;
}

static int dec_network(const json_t *plan, struct mt_plan_network *n, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_get_object(plan, "network", &o, err);

    return rc < 0 ? rc : dec_network_fields(o, n, err);
}

int mt_plan_network_decode(json_t *network, struct mt_plan_network *ret, struct mt_err *err)
{
    struct mt_err own = {0};
    struct mt_plan_network n = {0};
    int rc = json_is_object(network) ? dec_network_fields(network, &n, err ? err : &own)
                                     : MT_FAIL(err, MT_E_INVALID, "network: not an object");
    if (rc < 0) {
        mt_plan_network_done(&n);
        return rc;
    }
    *ret = n;
    return 0;
}

static int dec_node_config(const json_t *plan, struct mt_plan_node_config *c, struct mt_err *err)
{
    json_t *o;
    int rc = mt_json_opt_object(plan, "node_config", &o, err);

    if (rc < 0 || !o)
        return rc;
    if ((rc = mt_json_opt_str(o, "kernel_version", 128, NULL, &c->kernel_version, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "reserved_memory_bytes", 0, JSON_INT_MAX, 0, &c->reserved_memory_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "image_cache_bytes", 0, JSON_INT_MAX, 0, &c->image_cache_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "memory_overhead_bytes", 0, JSON_INT_MAX, 0, &c->memory_overhead_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "cpu_overcommit_percent", 0, 10000, 0, &c->cpu_overcommit_percent, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "cpu_ceiling_percent", 0, 10000, 0, &c->cpu_ceiling_percent, err)) < 0 ||
        (rc = mt_limits_read(o, &c->limits, err)) < 0)
        return mt_err_wrap(err, "node_config");
    return 0;
}

static int by_instance(const void *a, const void *b)
{
    return strcmp((*(const struct mt_assignment *const *)a)->instance_id, (*(const struct mt_assignment *const *)b)->instance_id);
}

static int refuse_twins(const struct mt_plan *p, struct mt_err *err)
{
    mt_auto_free const struct mt_assignment **sorted = calloc(p->n_instances + 1, sizeof *sorted);

    if (!sorted)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    for (size_t i = 0; i < p->n_instances; i++)
        sorted[i] = &p->instances[i];
    qsort(sorted, p->n_instances, sizeof *sorted, by_instance);
    for (size_t i = 1; i < p->n_instances; i++)
        if (by_instance(&sorted[i - 1], &sorted[i]) == 0)
            return MT_FAIL(err, MT_E_INVALID, "instance %s is there twice", sorted[i]->instance_id);
    return 0;
}

static void plan_freep(struct mt_plan **p)
{
    mt_plan_free(*p);
}

int mt_plan_decode(json_t *json, struct mt_plan **ret, struct mt_err *err)
{
    struct mt_err own = {0};
    const char *version;
    json_t *list, *item;
    size_t i;
    int rc;

    err = err ? err : &own;
    mt_cleanup(plan_freep) struct mt_plan *p = calloc(1, sizeof *p);
    if (!p)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (!json_is_object(json))
        return MT_FAIL(err, MT_E_INVALID, "a plan is an object");
    p->doc = json_incref(json);
    if ((rc = mt_json_get_str(json, "spec_version", 16, &version, err)) < 0)
        return rc;
    if (!MT_STREQ(version, MT_SPEC_VERSION))
        return MT_FAIL(err, MT_E_INVALID, "'spec_version' is not " MT_SPEC_VERSION);
    if ((rc = mt_json_get_str(json, "cluster_id", 64, &p->cluster_id, err)) < 0 ||
        (rc = mt_json_get_str(json, "node_id", MT_ID_SIZE, &p->node_id, err)) < 0 ||
        (rc = mt_id_check(MT_ID_NODE, p->node_id, err)) < 0 ||
        (rc = mt_json_get_u64(json, "epoch", 0, JSON_INT_MAX, &p->epoch, err)) < 0 ||
        (rc = mt_json_get_u64(json, "cursor_event_id", 0, JSON_INT_MAX, &p->cursor_event_id, err)) < 0 ||
        (rc = mt_json_get_str(json, "plan_id", MT_ULID_LEN, &p->plan_id, err)) < 0 ||
        (rc = mt_json_opt_bool(json, "allow_empty", false, &p->allow_empty, err)) < 0 ||
        (rc = mt_json_opt_bool(json, "recovery", false, &p->recovery, err)) < 0 ||
        (rc = dec_network(json, &p->network, err)) < 0 || (rc = dec_node_config(json, &p->node_config, err)) < 0 ||
        (rc = mt_json_get_array(json, "instances", MT_PLAN_INSTANCES_MAX, &list, err)) < 0 ||
        (rc = mt_plan_storage_decode(json, &p->storage, err)) < 0)
        return rc;
    if (!mt_ulid_valid(p->plan_id, strlen(p->plan_id)))
        return MT_FAIL(err, MT_E_INVALID, "'plan_id' is not a ULID");
    if (!*p->cluster_id)
        return MT_FAIL(err, MT_E_INVALID, "'cluster_id' is empty");
    p->instances = calloc(json_array_size(list) + 1, sizeof *p->instances);
    if (!p->instances)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(list, i, item) {
        p->n_instances++;
        if ((rc = dec_assignment(item, &p->instances[i], err)) < 0) {
            (void)mt_err_wrap(err, "instances[%zu]", i);
            return rc;
        }
    }
    if ((rc = refuse_twins(p, err)) < 0)
        return rc;
    *ret = MT_TAKE(p);
    return 0;
}

int mt_plan_parse(const char *text, size_t len, struct mt_plan **ret, struct mt_err *err)
{
    mt_auto_json json_t *json = NULL;
    int rc = mt_json_parse(text, len, MT_PLAN_BYTES_MAX, 16, &json, err);

    return rc < 0 ? rc : mt_plan_decode(json, ret, err);
}

void mt_plan_network_done(struct mt_plan_network *n)
{
    mt_strings_done(&n->dns);
    mt_strings_done(&n->edges);
    mt_strings_done(&n->gateways);
    mt_strings_done(&n->quarantine);
    free(n->edge_ports);
    free(n->ipv4);
    free(n->private);
    for (size_t i = 0; i < n->n_peers; i++) {
        mt_strings_done(&n->peers[i].endpoints);
        mt_strings_done(&n->peers[i].allowed_ips);
        mt_strings_done(&n->peers[i].roles);
    }
    free(n->peers);
    *n = (struct mt_plan_network){0};
}

void mt_plan_free(struct mt_plan *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_instances; i++)
        mt_workload_free(p->instances[i].workload);
    free(p->instances);
    mt_plan_network_done(&p->network);
    mt_plan_storage_done(&p->storage);
    json_decref(p->doc);
    free(p);
}

/* ---- encoding ---- */

static bool push(json_t *array, json_t *item)
{
    return array && item ? json_array_append_new(array, item) == 0 : (json_decref(item), false);
}

static json_t *enc_assignment(const struct mt_assignment *a)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "assignment_id", a->assignment_id);
    mt_jout_str(&o, "instance_id", a->instance_id);
    mt_jout_u64(&o, "generation", a->generation);
    mt_jout_str(&o, "desired_state", mt_desired_state_name(a->desired_state));
    mt_jout_u64(&o, "drain_delay_seconds", a->drain_delay_seconds);
    mt_jout_str(&o, "secret_ref", a->secret_ref);
    mt_jout_str(&o, "trace_id", a->trace_id);
    if (a->workload) {
        json_t *workload = NULL;
        (void)mt_workload_encode(a->workload, &workload, NULL);
        mt_jout_json(&o, "workload", workload);
    } else if (a->unread) {
        mt_jout_json(&o, "workload", json_incref(a->unread));
    }
    return mt_jout_take(&o);
}

static void enc_rotation(struct mt_jout *to, const struct mt_plan_rotation *r)
{
    struct mt_jout o;

    if (!r->next_public_key)
        return;
    o = mt_jout_new();
    mt_jout_str(&o, "next_public_key", r->next_public_key);
    mt_jout_u64(&o, "cutover_unix_ms", r->cutover_unix_ms);
    mt_jout_json(to, "rotation", mt_jout_take(&o));
}

static json_t *enc_mesh(const struct mt_plan_mesh *m)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_u64(&o, "revision", m->revision);
    mt_jout_u64(&o, "listen_port", m->listen_port);
    mt_jout_str(&o, "public_key", m->public_key);
    mt_jout_u64(&o, "key_generation", m->key_generation);
    enc_rotation(&o, &m->rotation);
    if (m->rotate)
        mt_jout_bool(&o, "rotate", true);
    if (m->allow_mass_removal)
        mt_jout_bool(&o, "allow_mass_removal", true);
    return mt_jout_take(&o);
}

static json_t *enc_peer(const struct mt_plan_peer *peer)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "node_id", peer->node_id);
    mt_jout_str(&o, "public_key", peer->public_key);
    mt_jout_json(&o, "endpoints", mt_jout_strings(&peer->endpoints));
    mt_jout_json(&o, "allowed_ips", mt_jout_strings(&peer->allowed_ips));
    mt_jout_json(&o, "roles", mt_jout_strings(&peer->roles));
    mt_jout_u64(&o, "keepalive", peer->keepalive);
    mt_jout_u64(&o, "key_generation", peer->key_generation);
    enc_rotation(&o, &peer->rotation);
    return mt_jout_take(&o);
}

static json_t *enc_ipv4(const struct mt_plan_ipv4 *v)
{
    struct mt_jout o = mt_jout_new();
    json_t *ports = json_array();

    mt_jout_str(&o, "address", v->address);
    for (size_t i = 0; i < v->n_ports; i++)
        o.failed = !push(ports, json_integer(v->ports[i])) || o.failed;
    mt_jout_json(&o, "ports", ports);
    if (v->until_unix_ms)
        mt_jout_u64(&o, "until_unix_ms", v->until_unix_ms);
    if (v->moved)
        mt_jout_bool(&o, "moved", true);
    return mt_jout_take(&o);
}

static json_t *enc_private(const struct mt_plan_private *v)
{
    struct mt_jout o = mt_jout_new();
    json_t *ports = json_array();

    mt_jout_str(&o, "env_id", v->env_id);
    mt_jout_str(&o, "address", v->address);
    for (size_t i = 0; i < v->n_ports; i++)
        o.failed = !push(ports, json_integer(v->ports[i])) || o.failed;
    mt_jout_json(&o, "ports", ports);
    return mt_jout_take(&o);
}

static json_t *enc_network(const struct mt_plan_network *n)
{
    struct mt_jout o = mt_jout_new();
    json_t *peers = json_array();

    mt_jout_u64(&o, "mtu", n->mtu);
    mt_jout_str(&o, "cluster_prefix", n->cluster_prefix);
    mt_jout_str(&o, "overlay_ipv6", n->overlay_ipv6);
    mt_jout_str(&o, "instance_prefix", n->instance_prefix);
    mt_jout_json(&o, "dns", mt_jout_strings(&n->dns));
    mt_jout_json(&o, "edges", mt_jout_strings(&n->edges));
    mt_jout_json(&o, "gateways", mt_jout_strings(&n->gateways));
    mt_jout_json(&o, "quarantine", mt_jout_strings(&n->quarantine));
    mt_jout_str(&o, "egress_mode", n->egress_mode);
    if (n->n_edge_ports) {
        json_t *list = json_array();
        for (size_t i = 0; i < n->n_edge_ports; i++)
            o.failed = !push(list, json_integer(n->edge_ports[i])) || o.failed;
        mt_jout_json(&o, "edge_ports", list);
    }
    if (n->n_ipv4) {
        json_t *list = json_array();
        for (size_t i = 0; i < n->n_ipv4; i++)
            o.failed = !push(list, enc_ipv4(&n->ipv4[i])) || o.failed;
        mt_jout_json(&o, "ipv4", list);
    }
    if (n->n_private) {
        json_t *list = json_array();
        for (size_t i = 0; i < n->n_private; i++)
            o.failed = !push(list, enc_private(&n->private[i])) || o.failed;
        mt_jout_json(&o, "private", list);
    }
    if (n->mesh.present)
        mt_jout_json(&o, "mesh", enc_mesh(&n->mesh));
    for (size_t i = 0; i < n->n_peers; i++)
        o.failed = !push(peers, enc_peer(&n->peers[i])) || o.failed;
    mt_jout_json(&o, "peers", peers);
    return mt_jout_take(&o);
}

static json_t *enc_node_config(const struct mt_plan_node_config *c)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "kernel_version", c->kernel_version);
    mt_jout_u64(&o, "reserved_memory_bytes", c->reserved_memory_bytes);
    mt_jout_u64(&o, "image_cache_bytes", c->image_cache_bytes);
    mt_jout_u64(&o, "memory_overhead_bytes", c->memory_overhead_bytes);
    mt_jout_u64(&o, "cpu_overcommit_percent", c->cpu_overcommit_percent);
    mt_jout_u64(&o, "cpu_ceiling_percent", c->cpu_ceiling_percent);
    mt_jout_json(&o, "limits", mt_limits_json(&c->limits));
    return mt_jout_take(&o);
}

int mt_plan_encode(const struct mt_plan *p, json_t **ret, struct mt_err *err)
{
    struct mt_jout o = mt_jout_new();
    json_t *instances = json_array();

    mt_jout_str(&o, "spec_version", MT_SPEC_VERSION);
    mt_jout_str(&o, "cluster_id", p->cluster_id);
    mt_jout_str(&o, "node_id", p->node_id);
    mt_jout_u64(&o, "epoch", p->epoch);
    mt_jout_u64(&o, "cursor_event_id", p->cursor_event_id);
    mt_jout_str(&o, "plan_id", p->plan_id);
    if (p->allow_empty)
        mt_jout_bool(&o, "allow_empty", true);
    if (p->recovery)
        mt_jout_bool(&o, "recovery", true);
    for (size_t i = 0; i < p->n_instances; i++)
        o.failed = !push(instances, enc_assignment(&p->instances[i])) || o.failed;
    mt_jout_json(&o, "instances", instances);
    mt_jout_json(&o, "network", enc_network(&p->network));
    mt_jout_json(&o, "node_config", enc_node_config(&p->node_config));
    mt_auto_json json_t *json = mt_jout_take(&o);
    if (!json)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding a plan (or a text that is not UTF-8)");
    int rc = mt_plan_storage_encode(&p->storage, json, err);
    if (rc == 0)
        *ret = MT_TAKE(json);
    return rc;
}
