/* SPDX-License-Identifier: Apache-2.0 */
/* The key of a volume's backups leaves the control plane here and nowhere else (storage-and-secrets.md §4.4): to the node on which a
 * job of that volume is active. The job is the authorisation; each release is in the audit log before it goes. */
#include "control/api/handlers.h"

#include "base/b64.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/trail.h"
#include "control/nodes/local.h"
#include "control/volumes/backup_key.h"
#include "os/lockmem.h"
#include "wire/json.h"

/* A restore reads with the key of its snapshot, which is that of another volume than the one it makes. */
static const struct mt_pg_stmt restoring = {
    "volume_key_restore", "SELECT r.org_id, r.app_id, r.env_id, r.status IN ('queued', 'running') AND CASE WHEN r.purpose IS DISTINCT FROM 'proof' THEN v.state = 'creating' AND NOT v.deleted ELSE s.pruned_at IS NULL END,"
                          " coalesce(s.key_epoch, 0) FROM restores_view r LEFT JOIN volumes_view v ON v.volume_id = r.new_volume_id"
                          " JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id"
                          " WHERE r.restore_id = $1 AND r.source_volume_id = $2 AND r.target_node_id = $3"};
static const struct mt_pg_stmt active = {
    "volume_key_job", "SELECT s.org_id, s.app_id, s.env_id, s.status IN ('queued', 'running') AND s.pruned_at IS NULL AND v.home_node_id = $3 AND NOT v.deleted, 0::int8"
                      " FROM snapshots_view s JOIN volumes_view v ON v.volume_id = s.volume_id"
                      " WHERE s.snapshot_id = $1 AND s.volume_id = $2 AND s.source_node_id = $3"};

static const char *kind_of(const char *job_id)
{
    return mt_id_check(MT_ID_RESTORE, job_id, NULL) == 0 ? "restore_job" : "snapshot";
}

static int forbidden(struct mt_api_call *c, const char *job_id)
{
    mt_api_trail_note(c, "volume_key.deliver", "deny", "forbidden", kind_of(job_id), job_id, NULL);
    return mt_api_fail(c, 403, "forbidden", "job %s is no active job of that volume on this node", job_id);
}

/* Who asks becomes the actor, whose environment it is the place of the audit record. */
static int check_job(struct mt_api_call *c, const char *node_id, const char *volume_id, const char *job_id, uint32_t *ret_epoch)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    snprintf(c->who.subject_id, sizeof c->who.subject_id, "%s", node_id);
    snprintf(c->who.subject_type, sizeof c->who.subject_type, "node");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, job_id);
    mt_pg_p_text(&p, volume_id);
    mt_pg_p_text(&p, node_id);
    bool restore = mt_id_check(MT_ID_RESTORE, job_id, NULL) == 0;
    if (mt_pg_query(c->pg, restore ? &restoring : &active, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return forbidden(c, job_id);
    snprintf(c->org.id, sizeof c->org.id, "%s", mt_pg_text(r, 0, 0));
    snprintf(c->app.id, sizeof c->app.id, "%s", mt_pg_text(r, 0, 1));
    snprintf(c->env.id, sizeof c->env.id, "%s", mt_pg_text(r, 0, 2));
    *ret_epoch = (uint32_t)mt_pg_i64(r, 0, 4);
    return mt_pg_bool(r, 0, 3) ? 0 : forbidden(c, job_id);
}

static int not_opened(struct mt_api_call *c, const char *volume_id, const char *job_id)
{
    bool key = c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key");
    if (!key && c->err.code != MT_E_CORRUPT && c->err.code != MT_E_NOT_FOUND)
        return mt_api_fail_err(c);
    /* The one place where an operator learns that a row was tampered with or a key is gone. */
    mt_log(MT_ERROR, "volume_key.does_not_open", KV("volume_id", volume_id), KV_ERR(&c->err));
    mt_api_trail_note(c, "volume_key.deliver", "allow", key ? "master_key_unavailable" : "decrypt_failed", kind_of(job_id), job_id, NULL);
    return key ? mt_api_fail(c, 503, "master_key_unavailable", "the master key of %s is not loaded", volume_id)
               : mt_api_fail(c, 500, "decrypt_failed", "the key of %s does not open", volume_id);
}

int mt_api_node_volume_key(struct mt_api_call *c)
{
    struct mt_node node;
    const char *volume_id, *job_id;
    mt_auto_lockmem struct mt_lockmem m = {0};
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char hex[2 * MT_AEAD_KEY + 1], b64[MT_B64_SIZE(MT_SEAL_WRAPPED)];
    uint32_t epoch, wanted = 0; /* of a backup: the newest */
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &node) < 0)
        return -1;
    if (mt_json_get_str(c->body, "volume_id", MT_ID_SIZE, &volume_id, &c->err) < 0 || mt_json_get_str(c->body, "job_id", MT_ID_SIZE, &job_id, &c->err) < 0 ||
        mt_id_check(MT_ID_VOLUME, volume_id, &c->err) < 0 ||
        (mt_id_check(MT_ID_RESTORE, job_id, NULL) < 0 && mt_id_check(MT_ID_SNAPSHOT, job_id, &c->err) < 0))
        return mt_api_fail_err(c);
    if (check_job(c, node.node_id, volume_id, job_id, &wanted) < 0)
        return -1;
    if (mt_lockmem_new(&m, MT_AEAD_KEY, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_backup_key_open(c->ctl->keys, c->pg, c->ctl->cluster_id, volume_id, wanted, &epoch, m.p, wrapped, &c->err) < 0)
        return not_opened(c, volume_id, job_id);
    if (mt_api_trail_read(c, "volume_key.deliver", kind_of(job_id), job_id) < 0)
        return -1;
    mt_log(MT_INFO, "volume_key.delivered", KV("volume_id", volume_id), KV("job_id", job_id), KV("node_id", (const char *)node.node_id));
    mt_hex_encode(m.p, MT_AEAD_KEY, hex);
    b64[mt_b64_encode(wrapped, sizeof wrapped, b64)] = 0;
    char *t = malloc(sizeof hex + sizeof b64 + 96);
    if (!t) {
        explicit_bzero(hex, sizeof hex);
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "key");
        return mt_api_fail_err(c);
    }
    int n = snprintf(t, sizeof hex + sizeof b64 + 96, "{\"key_epoch\":%u,\"key\":\"%s\",\"wrapped\":\"%s\"}", epoch, hex, b64);
    explicit_bzero(hex, sizeof hex);
    return mt_api_send_text(c, 200, t, (size_t)n); /* wiped when it was sent (wire/http_reply.c) */
}
