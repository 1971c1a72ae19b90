/* SPDX-License-Identifier: Apache-2.0 */
/* One sentence for each event type, as a template: {field} is that field of the payload, {id} the aggregate, {*} the names of all
 * fields; a part in [brackets] is left out when a field in it is absent or empty. A type without a template of its own gets
 * "<aggregate> <id>: <verb>". */
#include "control/streams/event_json.h"

#include "base/str.h"
#include "control/log/types.h"

#include <jansson.h>

static const char *const sentences[MT_EV_MAX] = {
    [MT_EV_USER_CREATED] = "user {email} is made[, an operator: {is_operator}]",
    [MT_EV_USER_UPDATED] = "user {id} changed: {*}",
    [MT_EV_ORG_CREATED] = "org '{name}' is made",
    [MT_EV_ORG_UPDATED] = "the organisation changed: {*}[, its name is now '{name}']",
    [MT_EV_ORG_SUSPENDED] = "the organisation is suspended: {reason}",
    [MT_EV_ORG_RESUMED] = "the organisation is resumed: {reason}",
    [MT_EV_ORG_DELETED] = "the organisation is deleted",
    [MT_EV_ORG_MEMBER_ADDED] = "{email} is a member now, as {role}",
    [MT_EV_ORG_MEMBER_ACTIVATED] = "member {id} has joined",
    [MT_EV_ORG_MEMBER_ROLE_UPDATED] = "member {id} is {new_role} now, was {old_role}",
    [MT_EV_ORG_MEMBER_REMOVED] = "{email} is a member no more",
    [MT_EV_SERVICE_PRINCIPAL_CREATED] = "service principal '{name}' is made",
    [MT_EV_SERVICE_PRINCIPAL_UPDATED] = "service principal {id} changed: {*}",
    [MT_EV_SERVICE_PRINCIPAL_SECRET_ROTATED] = "service principal {id} has a new secret[, the old one is good until {old_valid_until}]",
    [MT_EV_SERVICE_PRINCIPAL_DELETED] = "service principal {id} is deleted",
    [MT_EV_REGISTRY_CREDENTIAL_SET] = "the credential for the registry {host} is that of {username} now",
    [MT_EV_REGISTRY_CREDENTIAL_DELETED] = "there is no credential for the registry {host} any more",
    [MT_EV_LOG_DRAIN_CREATED] = "log lines go to {target} ({kind}) by the drain '{name}'",
    [MT_EV_LOG_DRAIN_UPDATED] = "the log drain '{name}' goes to {target} ({kind}) now",
    [MT_EV_LOG_DRAIN_DELETED] = "the log drain '{name}' is deleted",
    [MT_EV_PROJECT_CREATED] = "project '{name}' is made",
    [MT_EV_PROJECT_UPDATED] = "project {id} changed: {*}[, its name is now '{name}']",
    [MT_EV_PROJECT_DELETED] = "project {id} is deleted",
    [MT_EV_APP_CREATED] = "app '{name}' is made",
    [MT_EV_APP_UPDATED] = "app {id} changed: {*}[, its name is now '{name}']",
    [MT_EV_APP_DELETED] = "app {id} is deleted",
    [MT_EV_ENV_CREATED] = "env '{name}' is made",
    [MT_EV_ENV_UPDATED] = "env {id} changed: {*}[, its name is now '{name}']",
    [MT_EV_ENV_DELETED] = "env {id} is deleted",
    [MT_EV_RELEASE_CREATED] = "release v{number} of {image_ref} is made",
    [MT_EV_DEPLOY_CREATED] = "{kind} {id} is accepted",
    [MT_EV_DEPLOY_STATUS_CHANGED] = "deploy {id} is {status}[: {failed_reason}][ - {message}]",
    [MT_EV_ENV_DESIRED_RELEASE_SET] = "{process_type} shall run {release_id}",
    [MT_EV_ENV_DESIRED_RELEASE_CLEARED] = "{process_type} shall not run any more",
    [MT_EV_ENV_SCALE_SET] = "replicas wanted: {scales}",
    [MT_EV_ENV_RESTART_REQUESTED] = "a rolling restart is asked for: {process_types}",
    [MT_EV_ENV_SCHEDULING_CHANGED] = "{process_type} is {condition}[: {reason}][, {detail}]",
    [MT_EV_ENV_REBALANCE_REQUESTED] = "a new spread over the nodes is asked for: {process_types}",
    [MT_EV_ROUTE_CREATED] = "route {hostname}:{listen_port} goes to {backend_process_type} port {backend_port}",
    [MT_EV_ROUTE_UPDATED] = "route {id} changed: {*}",
    [MT_EV_ROUTE_DELETED] = "route {hostname}:{listen_port} is removed",
    [MT_EV_SECRET_BUNDLE_CREATED] = "the environment has secrets now",
    [MT_EV_SECRET_BUNDLE_VERSION_SET] = "secrets are at version {version_number}, with {key_count} keys ({source})",
    [MT_EV_SECRET_BUNDLE_DELETED] = "the secrets are deleted with their environment",
    [MT_EV_INSTANCE_ALLOCATED] = "instance {id} of {process_type} is placed on {node_id}",
    [MT_EV_INSTANCE_DESIRED_STATE_CHANGED] = "instance {id} shall be {desired_state} ({reason})",
    [MT_EV_INSTANCE_STATUS_CHANGED] = "instance {id} is {status}[, {status_detail}][: {reason_code}][/{reason_detail}]",
    [MT_EV_INSTANCE_RELEASED] = "instance {id} is gone",
    [MT_EV_ENV_IPV4_ENABLED] = "the environment has the IPv4 address {ipv4_address}",
    [MT_EV_ENV_IPV4_DISABLED] = "the environment has the IPv4 address {ipv4_address} no more",
    [MT_EV_VOLUME_UPDATED] = "volume {id} changed: {*}[, its name is now '{name}']",
    [MT_EV_VOLUME_CHECKED] = "filesystem of volume {id}: {result}[ ({detail})]",
    [MT_EV_VOLUME_MOVE_REFUSED] = "volume {id} cannot be moved from node {node_id}: {reason}",
    [MT_EV_VOLUME_MIGRATION_CREATED] = "[{process_type}: ]volumes {volume_ids} are to move from node {source_node_id} to {target_node_id}",
    [MT_EV_VOLUME_MIGRATION_STATUS_CHANGED] = "the migration is {status}[, {phase}][, {failed_reason}][, the process was down for {downtime_ms} ms]",
    [MT_EV_ENV_IPV4_CARRIER_CHANGED] = "{ipv4_address} is carried by {edge_node_id}: {reason}",
    [MT_EV_USAGE_RECORDED] = "{kind} {ipv4_address} was had from {from} to {to}",
    [MT_EV_IPV4_POOL_ADDED] = "{address} is in the pool of IPv4 addresses",
    [MT_EV_IPV4_POOL_REMOVED] = "{address} is in the pool of IPv4 addresses no more[: {reason}]",
    [MT_EV_NODE_ENROLLED] = "node '{name}' is enrolled",
    [MT_EV_NODE_ADMIN_STATE_CHANGED] = "node {id} is set to {new}[: {reason}]",
    [MT_EV_NODE_HEALTH_CHANGED] = "node {id} is {new}, was {old}[: {conditions}][, {reason}]",
    [MT_EV_NODE_CONFIG_SET] = "node {id} has new settings ({changed}): {reason}",
    [MT_EV_NODE_UPDATED] = "node {id} tells of itself: {*}",
    [MT_EV_NODE_REMOVED] = "node {id} is removed: {reason}",
    [MT_EV_QUARANTINE_SET] = "{target_type} {id} is in quarantine: {reason}",
    [MT_EV_QUARANTINE_CLEARED] = "{target_type} {id} is out of quarantine: {reason}",
    [MT_EV_IMAGE_BLOCK_SET] = "image {digest} may not run: {reason}",
    [MT_EV_IMAGE_BLOCK_CLEARED] = "image {digest} may run again: {reason}",
    [MT_EV_CLUSTER_CONFIG_SET] = "cluster setting {key} is {value}: {reason}",
    [MT_EV_CLUSTER_EPOCH_BUMPED] = "the log was restored to an older point, epoch {epoch} begins: {reason}",
    [MT_EV_CLUSTER_RECOVERY_FINISHED] = "recovery of epoch {epoch} is finished: {reason}",
};

struct line {
    char *p;
    size_t n, size;
};

static void add(struct line *l, const char *s)
{
    for (; *s && l->n + 1 < l->size; s++)
        l->p[l->n++] = *s;
    l->p[l->n] = 0;
}

static void add_value(struct line *l, const json_t *v)
{
    char number[24];
    size_t i;
    json_t *e;
    const char *key;
    if (json_is_string(v)) {
        add(l, json_string_value(v));
    } else if (json_is_integer(v)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        add(l, number);
    } else if (json_is_boolean(v)) {
        add(l, json_is_true(v) ? "yes" : "no");
    } else if (json_is_array(v)) {
        json_array_foreach (v, i, e) {
            const char *type = json_string_value(json_object_get(e, "process_type"));
            add(l, i ? ", " : "");
            if (type) {
                add(l, type);
                add(l, "=");
                add_value(l, json_object_get(e, "desired"));
            } else if (!json_is_array(e)) {
                add_value(l, e);
            }
        }
    } else if (json_is_object(v)) {
        bool more = false;
        json_object_foreach ((json_t *)(uintptr_t)v, key, e) {
            add(l, more ? ", " : "");
            add(l, key);
            more = true;
        }
    } else if (json_is_null(v)) {
        add(l, "none");
    }
}

/* From @t up to @end. False when a field was absent or empty. */
static bool fill(struct line *l, const char *t, const char *end, const char *id, const json_t *p)
{
    bool whole = true;
    while (t < end) {
        const char *close = *t == '{' ? strchr(t, '}') : *t == '[' ? strchr(t, ']') : NULL;
        char name[40], one[2] = {*t, 0};
        size_t before = l->n;
        if (!close) {
            add(l, one);
            t++;
            continue;
        }
        if (*t == '[') {
            if (!fill(l, t + 1, close, id, p)) {
                l->n = before;
                l->p[l->n] = 0;
            }
        } else {
            (void)snprintf(name, sizeof name, "%.*s", (int)(close - t - 1), t + 1);
            if (MT_STREQ(name, "id"))
                add(l, id);
            else
                add_value(l, MT_STREQ(name, "*") ? p : json_object_get(p, name));
            whole = whole && l->n > before;
        }
        t = close + 1;
    }
    return whole;
}

void mt_event_summary(const char *type, const char *id, const char *payload, char *ret, size_t size)
{
    json_error_t je;
    json_t *p = json_loads(payload, 0, &je);
    enum mt_ev ev = mt_ev_by_name(type);
    const char *t = ev == MT_EV_MAX ? NULL : sentences[ev];
    struct line l = {.p = ret, .size = size};
    ret[0] = 0;
    if (t) {
        (void)fill(&l, t, t + strlen(t), id, p);
    } else {
        const char *dot = strchr(type, '.');
        char verb[64];
        (void)snprintf(verb, sizeof verb, "%s", dot ? dot + 1 : "");
        for (char *q = verb; *q; q++)
            if (*q == '_')
                *q = ' ';
        (void)snprintf(ret, size, "%.*s %s: %s", dot ? (int)(dot - type) : (int)strlen(type), type, id, verb);
    }
    while (l.n > 0 && !mt_utf8_valid(ret, l.n)) /* cut inside a character */
        ret[--l.n] = 0;
    json_decref(p);
}
