/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator sets for one node (control-plane.md §9.5): labels, which selectors of environments ask for, and settings that its agent reads
 * from the next plan instead of its own file: how much memory is kept for the machine, how far the cores are promised, what a VM costs beyond its
 * memory, and the rate limits of what runs there. A member that is null goes back to what the node says by itself.
 */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/str.h"
#include "control/api/patch.h"
#include "control/nodes/node.h"

#define LABELS_MAX 64
#define TEXT_MAX 63

static const struct {
    const char *key;
    int64_t min, max;
} settings[] = {
    {"reserved_memory_bytes", INT64_C(256) << 20, INT64_C(1) << 42}, {"memory_overhead_bytes", INT64_C(16) << 20, INT64_C(256) << 20},
    {"cpu_overcommit_percent", 100, 10000},                          {"cpu_ceiling_percent", 100, 10000},
    {"disk_bytes_per_second", 1, INT64_C(1) << 40},                  {"disk_ops_per_second", 1, INT64_C(1) << 40},
    {"net_bytes_per_second", 1, INT64_C(1) << 40},                   {"net_packets_per_second", 1, INT64_C(1) << 40},
};

static const struct mt_pg_stmt node_row = {
    "node_patch", "SELECT json_build_object('id',node_id,'name',name,'admin_state',admin_state,'labels',labels,'config',config)::text, resource_version"
                  " FROM nodes_view WHERE node_id = $1 AND NOT deleted"};

static int check_setting(struct mt_api_call *c, const char *key, const json_t *v)
{
    char shown[48];
    for (size_t i = 0; i < MT_ARRAY_LEN(settings); i++) {
        if (!MT_STREQ(settings[i].key, key))
            continue;
        if (json_is_null(v) || (json_is_integer(v) && json_integer_value(v) >= settings[i].min && json_integer_value(v) <= settings[i].max))
            return 0;
        return mt_api_fail(c, 400, "invalid_argument", "'config.%s': is a number from %lld to %lld, or null for what the node says by itself", key,
                           (long long)settings[i].min, (long long)settings[i].max);
    }
    return mt_api_fail(c, 400, "unknown_field", "'config.%s': is no setting of a node; there are reserved_memory_bytes, memory_overhead_bytes, cpu_overcommit_percent, "
                       "cpu_ceiling_percent, disk_bytes_per_second, disk_ops_per_second, net_bytes_per_second and net_packets_per_second",
                       mt_printable(key, strlen(key), shown, sizeof shown));
}

static bool label_char(char ch, bool edge)
{
    bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
    return plain || (!edge && (ch == '-' || ch == '_' || ch == '.' || ch == '/'));
}

/* Letters and digits, within it also -_./ : what `--label-selector NAME=VALUE` can say. */
static bool label_text(const char *s, size_t n)
{
    if (n < 1 || n > TEXT_MAX || strlen(s) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!label_char(s[i], i == 0 || i + 1 == n))
            return false;
    return true;
}

static int check_label(struct mt_api_call *c, const char *key, const json_t *v)
{
    char shown[80];
    if (MT_STREQ(key, "vmm")) /* which driver runs what is placed there (ruling R3): the node's own word */
        return mt_api_fail(c, 400, "invalid_argument", "'labels.vmm': is what the node says of itself");
    if (!label_text(key, strlen(key)) || (!json_is_null(v) && (!json_is_string(v) || !label_text(json_string_value(v), json_string_length(v)))))
        return mt_api_fail(c, 400, "invalid_argument", "'labels.%s': name and value are 1 to %d letters and digits, within them also - _ . and /; null takes it away",
                           mt_printable(key, strlen(key), shown, sizeof shown), TEXT_MAX);
    return 0;
}

/* Lay the member @name of the body over that of the node. *ret_changed: what differs, null for what goes; *ret_before: what was there of it. */
static int merge(struct mt_api_call *c, json_t *object, const char *name, int (*check)(struct mt_api_call *, const char *, const json_t *), json_t **ret_changed,
                 json_t **ret_before)
{
    json_t *in = json_object_get(c->body, name), *now = json_object_get(object, name), *v;
    const char *key;
    *ret_changed = json_object();
    *ret_before = json_object();
    if (!in)
        return 0;
    if (!json_is_object(in))
        return mt_api_fail(c, 400, "invalid_argument", "'%s': is an object", name);
    json_object_foreach (in, key, v) {
        json_t *old = json_object_get(now, key);
        if (check(c, key, v) < 0)
            return -1;
        if (json_is_null(v) ? !old : old && json_equal(old, v))
            continue;
        json_object_set(*ret_changed, key, v);
        if (old)
            json_object_set(*ret_before, key, old);
        if (json_is_null(v))
            (void)json_object_del(now, key);
        else
            json_object_set(now, key, v);
    }
    return 0;
}

static int events(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, json_t *labels, json_t *config, json_t *before, const char *reason, int64_t version)
{
    const char *id = mt_api_param(c, "node_id");
    if (json_object_size(labels) == 0 && json_object_size(config) == 0)
        return mt_api_fail(c, 400, "no_changes", "%s", json_object_get(c->body, "labels") || json_object_get(c->body, "config") ? "every member has the given value already"
                                                                                                                                  : "neither labels nor config is given");
    if (json_object_size(config) && !reason)
        return mt_api_fail(c, 400, "invalid_argument", "'reason': is needed with 'config'; it is kept in the log");
    if (json_object_size(json_object_get(made->object, "labels")) > LABELS_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'labels': a node has at most %d", LABELS_MAX);
    if (mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (json_object_size(labels) && mt_api_event(c, cmd, MT_EV_NODE_UPDATED, id, json_pack("{s:O}", "labels", json_object_get(made->object, "labels"))) < 0)
        return -1;
    if (json_object_size(config) &&
        mt_api_event(c, cmd, MT_EV_NODE_CONFIG_SET, id, json_pack("{s:O,s:O,s:s}", "changed", config, "previous", before, "reason", reason)) < 0)
        return -1;
    json_object_set_new(made->object, "resource_version", json_integer(version + (json_object_size(labels) > 0) + (json_object_size(config) > 0)));
    return 0;
}

static int patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"labels", "config", "reason", "expected_version", NULL};
    struct mt_pg_params key;
    const char *id = mt_api_param(c, "node_id"), *reason;
    json_t *labels = NULL, *config = NULL, *before = NULL, *labels_before = NULL;
    mt_pg_p_init(&key);
    mt_pg_p_text(&key, id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", false, 500, &reason) < 0 ||
        mt_api_patch_begin(c, &node_row, &key, "node", p) < 0)
        return -1;
    made->operation = "node.update";
    made->ids = json_pack("{s:s}", "node_id", id);
    made->object = json_incref(p->object);
    int rc = merge(c, made->object, "labels", check_label, &labels, &labels_before);
    rc = rc < 0 ? rc : merge(c, made->object, "config", check_setting, &config, &before);
    rc = rc < 0 ? rc : events(c, cmd, made, labels, config, before, reason, p->version);
    json_decref(labels);
    json_decref(labels_before);
    json_decref(config);
    json_decref(before);
    return rc;
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_api_patch p = {0};
    int rc = patch(c, cmd, made, &p);
    mt_api_patch_done(&p);
    return rc;
}

int mt_api_nodes_patch(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare);
}
