/* SPDX-License-Identifier: Apache-2.0 */
/* See autopsy.h. */
#include "control/autopsy/autopsy.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"
#include "wire/json.h"

#define RECORD_MAX ((size_t)32 << 10) /* the agent makes at most 16 KiB */
#define TEXT(n) #n
#define NUMBER(n) TEXT(n)

static const struct mt_pg_stmt insert = {
    "autopsy_insert",
    "INSERT INTO moat.autopsies (boot_id, instance_id, org_id, app_id, env_id, release_id, process_type, node_id, ended_at, reason_code, record)"
    " SELECT $1, i.instance_id, i.org_id, i.app_id, i.env_id, i.release_id, i.process_type, i.node_id, $4::text::timestamptz, $5, $6::text::json"
    " FROM instances_view i WHERE i.instance_id = $2 AND i.node_id = $3 ON CONFLICT (boot_id) DO NOTHING"};

static const struct mt_pg_stmt trim = {
    "autopsy_trim",
    "DELETE FROM moat.autopsies a USING (SELECT boot_id,"
    "  row_number() OVER (PARTITION BY instance_id ORDER BY ended_at DESC, boot_id DESC) AS of_instance,"
    "  row_number() OVER (ORDER BY ended_at DESC, boot_id DESC) AS of_release"
    "  FROM moat.autopsies WHERE release_id = (SELECT release_id FROM moat.autopsies WHERE boot_id = $1)) n"
    " WHERE a.boot_id = n.boot_id AND (n.of_instance > " NUMBER(MT_AUTOPSIES_PER_INSTANCE) " OR n.of_release > " NUMBER(MT_AUTOPSIES_PER_RELEASE) ")"};

static const struct mt_pg_stmt prune = {
    "autopsy_prune", "DELETE FROM moat.autopsies WHERE received_at < now() - make_interval(days => " NUMBER(MT_AUTOPSY_DAYS) ")"};

int mt_autopsy_keep(struct mt_pg *pg, const char *node_id, const char *instance_id, const json_t *record, struct mt_err *err)
{
    const char *boot, *ended, *reason;
    int64_t ignored;
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(RECORD_MAX);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    int rc;

    if ((rc = mt_json_get_str(record, "boot_id", MT_ID_SIZE, &boot, err)) < 0 || (rc = mt_id_check(MT_ID_BOOT, boot, err)) < 0 ||
        (rc = mt_json_get_str(record, "ended_at", 40, &ended, err)) < 0 || (rc = mt_rfc3339_parse(ended, &ignored, err)) < 0 ||
        (rc = mt_json_get_str(record, "reason_code", 64, &reason, err)) < 0 || (rc = mt_json_dump(record, &text, err)) < 0 ||
        (rc = mt_buf_check(&text, err)) < 0)
        return MT_FAIL(err, MT_E_INVALID, "autopsy of '%s': %s", instance_id, err->msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, boot);
    mt_pg_p_text(&p, instance_id);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_text(&p, ended);
    mt_pg_p_text(&p, reason);
    mt_pg_p_text(&p, mt_buf_cstr(&text));
    if ((rc = mt_pg_query(pg, &insert, &p, &r, err)) < 0 || mt_pg_affected(r) == 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, boot);
    return mt_pg_query(pg, &trim, &p, NULL, err);
}

int mt_autopsy_prune(struct mt_pg *pg, int64_t *ret_removed, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(pg, &prune, NULL, &r, err);
    if (rc == 0)
        *ret_removed = mt_pg_affected(r);
    return rc;
}
