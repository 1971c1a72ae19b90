/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials of registries: one for each host of an organisation. The password goes in and reaches the registry alone: by this
 * server when it resolves a reference, by a node that has an instance or the probe of a proof to pull for (control-plane.md §9.4, §9.6). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/nodes/local.h"
#include "control/plans/probe_plan.h"
#include "control/registry/store.h"
#include "wire/imageref.h"
#include "wire/json.h"

#define REGISTRY_OBJECT                                                                                                     \
    "json_build_object('id',reg_id,'org_id',org_id,'host',host,'username',username,'updated_by',set_by,'resource_version'," \
    "resource_version," MT_SQL_TIMES ")::text"

MT_SQL_LIST(registries, REGISTRY_OBJECT, "registry_credentials_view", "reg_id",
            "org_id = $1 AND NOT deleted AND ($2::text IS NULL OR host = $2)", "3", "4");
static const struct mt_pg_stmt registry_row = {
    "registry_row", "SELECT reg_id, resource_version, deleted, " MT_SQL_TS("created_at") ", username FROM registry_credentials_view"
                    " WHERE org_id = $1 AND host = $2 ORDER BY deleted, reg_id DESC LIMIT 1"};
static const struct mt_pg_stmt pulls_for = {
    "registry_pulls_for", "SELECT i.org_id, i.app_id, i.env_id, i.node_id = $2 AND i.desired_state = 'running' AND i.released_at IS NULL,"
                          " r.image_ref FROM instances_view i JOIN releases_view r USING (release_id) WHERE i.instance_id = $1"};
/* The image of a probe is that of the release which is wanted now, as in the plan (probe_plan.c). */
static const struct mt_pg_stmt proofs_for = {
    "registry_proofs_for", "SELECT v.org_id, v.app_id, v.env_id, j.target_node_id = $2 AND j.purpose = 'proof' AND j.status IN ('queued', 'running') AND s.pruned_at IS NULL, r.image_ref,"
                           " j.new_volume_id FROM restores_view j JOIN snapshots_view s ON s.snapshot_id = j.snapshot_id JOIN volumes_view v ON v.volume_id = j.source_volume_id"
                           " JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
                           " JOIN env_desired_view d ON d.env_id = v.env_id AND d.process_type = a.process_type JOIN releases_view r ON r.release_id = d.release_id"
                           " WHERE j.restore_id = $1"};

int mt_api_registries_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &registries_asc, .desc = &registries_desc};
    const char *host = mt_api_query(c, "host");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, host);
    return mt_api_send_list(c, &l);
}

static int not_opened(struct mt_api_call *c)
{
    bool key = c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key");
    if (!key && c->err.code != MT_E_CORRUPT)
        return mt_api_fail_err(c);
    mt_log(MT_ERROR, "registries.do_not_open", KV("org_id", (const char *)c->org.id), KV_ERR(&c->err));
    return key ? mt_api_fail(c, 503, "master_key_unavailable", "the server lacks the master key for registry credentials")
               : mt_api_fail(c, 500, "internal", "the stored credential does not open; set it again, and tell the operator");
}

static int load(struct mt_api_call *c, const char *host, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    if (!mt_imageref_host_valid(host))
        return mt_api_fail(c, 400, "invalid_id", "a registry is named as in an image reference: a host name with a dot, a host and"
                                                       " port, or localhost; Docker Hub is docker.io");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, host);
    return mt_pg_query(c->pg, &registry_row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* A text of the body without control bytes, or the refusal. It may be secret: no message repeats it. */
static int word(struct mt_api_call *c, const char *name, size_t max, const char **ret)
{
    const json_t *v = json_object_get(c->body, name);
    const char *t = json_string_value(v);
    bool ok = t && json_string_length(v) >= 1 && json_string_length(v) <= max;
    for (const char *p = t; ok && *p; p++)
        ok = (unsigned char)*p >= 0x20 && *p != 0x7f;
    *ret = t;
    return ok ? 0 : mt_api_fail(c, 400, "invalid_argument", "'%s': is required, a text of 1 to %zu bytes without control bytes", name, max);
}

static int prepare_put(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"username", "password", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *username, *password, *host = mt_api_param(c, "host");
    char id[MT_ID_SIZE], material[MT_ID_SIZE];
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, host, &r) < 0 ||
        word(c, "username", MT_REGISTRY_USER_MAX, &username) < 0 || word(c, "password", MT_REGISTRY_PASSWORD_MAX, &password) < 0)
        return -1;
    if (strchr(username, ':'))
        return mt_api_fail(c, 400, "invalid_argument", "'username': holds no ':'"); /* RFC 7617 2 */
    bool there = mt_pg_rows(r) && !mt_pg_bool(r, 0, 2);
    int64_t version = there ? mt_pg_i64(r, 0, 1) : 0;
    if (mt_api_check_version(c, there, version, "registry credential") < 0)
        return -1;
    if (there)
        snprintf(id, sizeof id, "%s", mt_pg_text(r, 0, 0));
    else
        mt_id_new(MT_ID_REGISTRY, id);
    if ((there && mt_cmd_rely(cmd, MT_RELY_REGISTRY, id, NULL, version, &c->err) < 0) ||
        mt_cmd_rely(cmd, MT_RELY_ORG_LIVE, c->org.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_registry_put(c->ctl->keys, cmd, c->org.id, id, password, strlen(password), material, &c->err) < 0)
        return not_opened(c);
    made->status = there ? 200 : 201;
    made->operation = "registry.set";
    made->ids = json_pack("{s:s}", "registry_credential_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I}", "id", id, "org_id", c->org.id, "host", host, "username", username, "updated_by",
                             c->who.subject_id, "resource_version", (json_int_t)version + 1);
    json_object_set_new(made->object, "created_at", there ? json_string(mt_pg_text(r, 0, 3)) : json_null());
    json_object_set_new(made->object, "updated_at", json_null());
    return mt_api_event(c, cmd, MT_EV_REGISTRY_CREDENTIAL_SET, id,
                        json_pack("{s:s,s:s,s:s}", "host", host, "username", username, "material_id", material));
}

int mt_api_registries_put(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_put);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *host = mt_api_param(c, "host");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, host, &r) < 0)
        return -1;
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "registry credential");
    const char *id = mt_pg_text(r, 0, 0);
    bool gone = mt_pg_bool(r, 0, 2);
    int64_t version = mt_pg_i64(r, 0, 1);
    mt_api_deleted(made, "registry.delete", "registry_credential_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, version, "registry credential") < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_REGISTRY, id, NULL, version, &c->err) < 0 || mt_registry_drop(cmd, id, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_REGISTRY_CREDENTIAL_DELETED, id, json_pack("{s:s}", "host", host));
}

int mt_api_registries_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}

/* ---------------------------------------------------------------- to a node */

/* What is pulled for: an instance, or the probe of a proof. */
struct puller {
    const char *id;
    bool proof;
};

static int forbidden(struct mt_api_call *c, const struct puller *u)
{
    mt_api_trail_note(c, "registry.deliver", "deny", "forbidden", u->proof ? "restore_job" : "instance", u->id, NULL);
    return u->proof ? mt_api_fail(c, 403, "forbidden", "restore %s is no active proof with a probe on this node", u->id)
                    : mt_api_fail(c, 403, "forbidden", "instance %s is not on this node, or shall not run", u->id);
}

static int read_puller(struct mt_api_call *c, struct puller *ret)
{
    *ret = (struct puller){.proof = json_object_get(c->body, "restore_id") != NULL};
    if (ret->proof && json_object_get(c->body, "instance_id"))
        return mt_api_fail(c, 400, "invalid_argument", "'instance_id' or 'restore_id', not both");
    if (mt_json_get_str(c->body, ret->proof ? "restore_id" : "instance_id", MT_ID_SIZE, &ret->id, &c->err) < 0 ||
        mt_id_check(ret->proof ? MT_ID_RESTORE : MT_ID_INSTANCE, ret->id, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* 1 the plan of the node names a probe for that proof; 0 none. */
static int has_probe(struct mt_api_call *c, const char *node_id, const char *restore_id, const char *volume_id)
{
    json_t *workload = NULL;
    uint32_t seconds;
    int rc = mt_probe_plan(c->pg, node_id, restore_id, volume_id, &workload, &seconds, &c->err);
    json_decref(workload);
    return rc;
}

/* The text is wiped when it was sent (wire/http_reply.c). */
static int deliver(struct mt_api_call *c, const char *host, const struct mt_registry_login *l)
{
    json_t *o = json_pack("{s:s,s:s,s:s}", "host", host, "username", l->username, "password", (const char *)l->password.p);
    char *t = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!t) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "registry credential");
        return mt_api_fail_err(c);
    }
    return mt_api_send_text(c, 200, t, strlen(t));
}

/* That an instance of the organisation, or what proves a backup of it, has to be pulled here is the authorisation; each release is in the audit log
 * before it goes. */
int mt_api_node_registry_credential(struct mt_api_call *c)
{
    struct mt_node node;
    struct mt_pg_params p;
    struct mt_imageref ref;
    struct puller u;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_registry_login struct mt_registry_login login = {0};
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &node) < 0)
        return -1;
    if (read_puller(c, &u) < 0)
        return -1;
    snprintf(c->who.subject_id, sizeof c->who.subject_id, "%s", node.node_id);
    snprintf(c->who.subject_type, sizeof c->who.subject_type, "node");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, u.id);
    mt_pg_p_text(&p, node.node_id);
    if (mt_pg_query(c->pg, u.proof ? &proofs_for : &pulls_for, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return forbidden(c, &u);
    snprintf(c->org.id, sizeof c->org.id, "%s", mt_pg_text(r, 0, 0));
    snprintf(c->app.id, sizeof c->app.id, "%s", mt_pg_text(r, 0, 1));
    snprintf(c->env.id, sizeof c->env.id, "%s", mt_pg_text(r, 0, 2));
    if (!mt_pg_bool(r, 0, 3))
        return forbidden(c, &u);
    int rc = u.proof ? has_probe(c, node.node_id, u.id, mt_pg_text(r, 0, 5)) : 1;
    if (rc <= 0)
        return rc < 0 ? mt_api_fail_err(c) : forbidden(c, &u);
    if (mt_imageref_parse(mt_pg_text(r, 0, 4), &ref, &c->err) < 0)
        return mt_api_fail_err(c);
    rc = mt_registry_login(c->ctl->keys, c->pg, c->org.id, ref.host, &login, &c->err);
    if (rc < 0)
        return not_opened(c);
    if (rc == 0)
        return mt_api_not_found(c, "credential for this registry");
    if (mt_api_trail_read(c, "registry.deliver", "registry_credential", login.reg_id) < 0)
        return -1;
    mt_log(MT_INFO, "registry.delivered", KV(u.proof ? "restore_id" : "instance_id", u.id), KV("host", (const char *)ref.host));
    return deliver(c, ref.host, &login);
}
