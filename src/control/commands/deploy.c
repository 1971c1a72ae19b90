/* SPDX-License-Identifier: Apache-2.0 */
/* A deploy as events. */
#include "control/commands/deploy.h"

#include "base/str.h"

static json_t *type_list(const struct mt_deploy_plan *p)
{
    json_t *a = json_array();
    for (size_t i = 0; i < p->n_items; i++)
        json_array_append_new(a, json_string(p->items[i].process_type));
    return a;
}

static json_t *release_map(const struct mt_deploy_plan *p, bool previous)
{
    json_t *o = json_object();
    for (size_t i = 0; i < p->n_items; i++) {
        const char *rel = previous ? p->items[i].previous_release_id : p->items[i].release_id;
        if (rel)
            json_object_set_new(o, p->items[i].process_type, json_string(rel));
    }
    return o;
}

static int supersede(struct mt_cmd *cmd, const struct mt_cmd_ids *ids, const struct mt_deploy_plan *p, struct mt_err *err)
{
    int rc;
    for (size_t i = 0; i < p->n_open; i++)
        if ((rc = mt_cmd_rely(cmd, MT_RELY_DEPLOY, p->open[i].deploy_id, NULL, p->open[i].version, err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_DEPLOY_STATUS_CHANGED, p->open[i].deploy_id, ids,
                               json_pack("{s:s,s:s}", "status", "superseded", "superseded_by", p->deploy_id), err)) < 0)
            return rc;
    return 0;
}

static int desired(struct mt_cmd *cmd, const struct mt_cmd_ids *ids, const struct mt_deploy_plan *p, struct mt_err *err)
{
    int rc;
    for (size_t i = 0; i < p->n_items; i++) {
        const struct mt_deploy_item *it = &p->items[i];
        if ((rc = mt_cmd_rely(cmd, MT_RELY_DESIRED, ids->env_id, it->process_type, it->desired_version, err)) < 0)
            return rc;
        if (MT_STREQ(p->kind, "restart"))
            continue;
        if ((rc = mt_cmd_event(cmd, MT_EV_ENV_DESIRED_RELEASE_SET, ids->env_id, ids,
                               json_pack("{s:s,s:s,s:s}", "process_type", it->process_type, "release_id", it->release_id,
                                         "deploy_id", p->deploy_id),
                               err)) < 0)
            return rc;
    }
    for (size_t i = 0; i < p->n_cleared; i++)
        if ((rc = mt_cmd_rely(cmd, MT_RELY_DESIRED, ids->env_id, p->cleared[i].process_type, p->cleared[i].desired_version,
                              err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_ENV_DESIRED_RELEASE_CLEARED, ids->env_id, ids,
                               json_pack("{s:s,s:s}", "process_type", p->cleared[i].process_type, "deploy_id", p->deploy_id),
                               err)) < 0)
            return rc;
    if (MT_STREQ(p->kind, "restart"))
        return mt_cmd_event(cmd, MT_EV_ENV_RESTART_REQUESTED, ids->env_id, ids,
                            json_pack("{s:o,s:s}", "process_types", type_list(p), "deploy_id", p->deploy_id), err);
    return 0;
}

int mt_deploy_events(struct mt_cmd *cmd, const struct mt_cmd_ids *ids, const struct mt_deploy_plan *p, struct mt_err *err)
{
    int rc;
    json_t *payload = json_pack("{s:s,s:s*,s:o,s:o,s:s,s:s,s:I,s:o,s:s*}", "kind", p->kind, "release_id", p->release_id,
                                "release_ids", release_map(p, false), "process_types", type_list(p), "strategy", "rolling",
                                "on_failure", p->on_failure, "timeout_seconds", (json_int_t)p->timeout_seconds,
                                "previous_release_ids", release_map(p, true), "note", p->note);
    if (payload && json_array_size(p->warnings))
        json_object_set_new(payload, "warnings", json_deep_copy(p->warnings));
    if ((rc = mt_cmd_cause(cmd, p->deploy_id, 0, err)) < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_DEPLOY_CREATED, p->deploy_id, ids, payload, err)) < 0 ||
        (rc = supersede(cmd, ids, p, err)) < 0)
        return rc;
    return desired(cmd, ids, p, err);
}

json_t *mt_deploy_object(const struct mt_cmd_ids *ids, const struct mt_deploy_plan *p, const char *created_by)
{
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s*,s:o,s:o,s:o,s:s,s:s,s:s,s:I,s:s*,s:s,s:i,s:n,s:n}", "id", p->deploy_id,
                     "org_id", ids->org_id, "app_id", ids->app_id, "env_id", ids->env_id, "kind", p->kind, "release_id",
                     p->release_id, "release_ids", release_map(p, false), "previous_release_ids", release_map(p, true),
                     "process_types", type_list(p), "strategy", "rolling", "on_failure", p->on_failure, "status", "queued",
                     "timeout_seconds", (json_int_t)p->timeout_seconds, "note", p->note, "created_by", created_by,
                     "resource_version", 1, "created_at", "updated_at");
    if (o && json_array_size(p->warnings))
        json_object_set_new(o, "warnings", json_deep_copy(p->warnings));
    return o;
}
