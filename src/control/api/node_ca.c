/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rotation of the authority for nodes, for operators (nodes/ca.h): how far it is, and its steps. How far follows from what is kept anyway: what
 * the last heartbeats say they trust, and who signed the certificates in use. A step waits for the nodes unless it is forced; those that are not
 * heard then have to join anew.
 */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/trail.h"
#include "control/nodes/ca.h"
#include "control/nodes/tls.h"
#include "os/x509.h"

#define OVERLAP_S (INT64_C(30) * 86400) /* networking.md §1.4 */

static const struct mt_pg_stmt nodes = {
    "node_ca_nodes", "SELECT n.node_id, n.name, coalesce(h.body->>'ca_trust', ''), coalesce(" MT_SQL_TS("h.received_at") ", '') FROM nodes_view n"
                     " LEFT JOIN moat.node_heartbeats h USING (node_id) WHERE NOT n.deleted AND n.admin_state <> 'disabled' AND n.cert_fingerprint <> 'local'"
                     " ORDER BY n.node_id"};
/* Certificates that may be shown: of a node that renewed and was not heard with the new one yet, both. */
static const struct mt_pg_stmt certificates = {
    "node_ca_certificates", "SELECT c.serial, c.node_id, c.kind, c.pem FROM moat.node_certs c JOIN nodes_view n USING (node_id) WHERE c.revoked_at IS NULL"
                            " AND NOT n.deleted AND n.admin_state <> 'disabled' ORDER BY c.node_id, c.kind, c.issued_at"};
static const struct mt_pg_stmt out = {
    "node_ca_revoke", "UPDATE moat.node_certs SET revoked_at = now() WHERE serial = ANY ($1::text[]) AND revoked_at IS NULL"};

static bool of_signer(const struct mt_node_ca_about *a, const char *pem)
{
    struct mt_x509_cert about;
    return mt_x509_read(pem, &about, NULL) == 0 && MT_STREQ(about.issuer_key_id, a->key_id);
}

/* Certificates that another authority signed, of @node_id (NULL: of all), @kind; a newer one of the same kind counts for the older. */
static bool renewed(const struct mt_pg_res *certs, const struct mt_node_ca_about *a, const char *node_id)
{
    bool node = false, edge = true;
    for (int i = 0; i < mt_pg_rows(certs); i++) {
        if (!MT_STREQ(mt_pg_text(certs, i, 1), node_id))
            continue;
        bool good = of_signer(a, mt_pg_text(certs, i, 3)); /* rows are in order of issue: the newest decides */
        *(MT_STREQ(mt_pg_text(certs, i, 2), "edge") ? &edge : &node) = good;
    }
    return node && edge;
}

static json_t *authority(const char *role, const char *pin, int64_t ends_s)
{
    char at[MT_RFC3339_LEN];
    return json_pack("{s:s,s:s,s:s}", "role", role, "pin", pin, "ends_at", mt_rfc3339(ends_s * 1000000, at));
}

/* How far it is; @ret_waiting: nodes that the next step waits for. */
static int progress(struct mt_api_call *c, json_t **ret, int64_t *ret_waiting)
{
    const char *sha256;
    (void)mt_node_ca_trust(c->ctl->node_ca, &sha256);
    const struct mt_node_ca_about *a = mt_node_ca_about(c->ctl->node_ca);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_pg_res struct mt_pg_res *certs = NULL;
    char at[MT_RFC3339_LEN];
    if (mt_pg_query(c->pg, &nodes, NULL, &r, &c->err) < 0 || mt_pg_query(c->pg, &certificates, NULL, &certs, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *list = json_array(), *authorities = json_array();
    (void)json_array_append_new(authorities, authority("signs", a->pin, a->ends_s));
    if (a->phase != MT_NODE_CA_STEADY)
        (void)json_array_append_new(authorities, authority(a->phase == MT_NODE_CA_PREPARED ? "prepared" : "replaced", a->other_pin, a->other_ends_s));
    *ret_waiting = 0;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        bool trusts = MT_STREQ(mt_pg_text(r, i, 2), sha256), has = renewed(certs, a, mt_pg_text(r, i, 0));
        *ret_waiting += a->phase == MT_NODE_CA_PREPARED ? !trusts : a->phase == MT_NODE_CA_SWITCHED && !has;
        const char *heard = mt_pg_text(r, i, 3);
        json_t *n = json_pack("{s:s,s:s,s:b,s:b}", "node_id", mt_pg_text(r, i, 0), "name", mt_pg_text(r, i, 1), "trusts", trusts, "renewed", has);
        if (*heard)
            (void)json_object_set_new(n, "last_heartbeat_at", json_string(heard));
        (void)json_array_append_new(list, n);
    }
    *ret = json_pack("{s:s,s:o,s:o,s:I}", "phase", mt_node_ca_phase_name(a->phase), "authorities", authorities, "nodes", list, "waiting", (json_int_t)*ret_waiting);
    if (*ret && a->since_s)
        (void)json_object_set_new(*ret, "since", json_string(mt_rfc3339(a->since_s * 1000000, at)));
    return 0;
}

int mt_api_node_ca_get(struct mt_api_call *c)
{
    json_t *doc;
    int64_t waiting;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (!c->ctl->node_ca)
        return mt_api_not_found(c, "authority for nodes: this server has no listen_nodes");
    return progress(c, &doc, &waiting) < 0 ? -1 : mt_api_send(c, 200, doc);
}

/* Whom the retired authority signed is out at once, open connections too: every request is asked for its serial. */
static int revoke_others(struct mt_api_call *c)
{
    const struct mt_node_ca_about *a = mt_node_ca_about(c->ctl->node_ca);
    mt_auto_pg_res struct mt_pg_res *certs = NULL;
    struct mt_pg_params p;
    struct mt_pg_arr serials;
    if (mt_pg_query(c->pg, &certificates, NULL, &certs, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_pg_arr_init(&serials, MT_PG_ELEM_TEXT, 1u << 20);
    for (int i = 0; i < mt_pg_rows(certs); i++)
        if (!of_signer(a, mt_pg_text(certs, i, 3)))
            mt_pg_arr_text_add(&serials, mt_pg_text(certs, i, 0));
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &serials);
    int rc = mt_pg_query(c->pg, &out, &p, NULL, &c->err);
    mt_pg_arr_done(&serials);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

static int may(struct mt_api_call *c, enum mt_node_ca_step step, int64_t waiting)
{
    const struct mt_node_ca_about *a = mt_node_ca_about(c->ctl->node_ca);
    if (step == MT_NODE_CA_SWITCH && a->phase == MT_NODE_CA_PREPARED && waiting)
        return mt_api_fail(c, 409, "conflict", "%lld node%s not said to trust the new authority yet: wait for %s, disable them, or force it; those then join anew",
                           (long long)waiting, waiting == 1 ? " has" : "s have", waiting == 1 ? "it" : "them");
    if (step != MT_NODE_CA_RETIRE || a->phase != MT_NODE_CA_SWITCHED)
        return 0;
    if (waiting)
        return mt_api_fail(c, 409, "conflict", "%lld node%s a certificate of the replaced authority: wait for %s, disable them, or force it; those then join anew",
                           (long long)waiting, waiting == 1 ? " has" : "s have", waiting == 1 ? "it" : "them");
    int64_t left = OVERLAP_S - (mt_clock_wall_us() / 1000000 - a->since_s);
    return left <= 0 ? 0 : mt_api_fail(c, 409, "conflict", "the replaced authority is trusted for 30 days, so that nodes that were off come back: %lld more, or force it",
                                       (long long)(left / 86400 + 1));
}

int mt_api_node_ca_step(struct mt_api_call *c)
{
    static const char *const known[] = {"step", "reason", "force", NULL};
    static const char *const words[MT_NODE_CA_STEP_MAX] = {"prepare", "abort", "switch", "retire"};
    const char *word, *reason;
    bool force;
    int64_t waiting;
    json_t *doc;
    int step = 0;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "step", true, 16, &word) < 0 ||
        mt_api_text(c, "reason", true, 500, &reason) < 0 || mt_api_bool(c, "force", false, &force) < 0)
        return -1;
    while (step < MT_NODE_CA_STEP_MAX && !MT_STREQ(words[step], word))
        step++;
    if (step == MT_NODE_CA_STEP_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'step' is prepare, switch, retire or abort");
    if (!c->ctl->node_ca)
        return mt_api_not_found(c, "authority for nodes: this server has no listen_nodes");
    mt_nodes_tls_follow(c->ctl); /* another server may have been here */
    if (progress(c, &doc, &waiting) < 0)
        return -1;
    json_decref(doc);
    if (!force && may(c, (enum mt_node_ca_step)step, waiting) < 0)
        return -1;
    char action[40];
    snprintf(action, sizeof action, "node_ca.%s", word);
    mt_api_trail_note(c, action, "allow", NULL, "cluster", c->ctl->cluster_id, reason);
    if (step == MT_NODE_CA_RETIRE && mt_node_ca_about(c->ctl->node_ca)->phase == MT_NODE_CA_SWITCHED && revoke_others(c) < 0)
        return -1;
    if (mt_node_ca_do(c->ctl->node_ca, (enum mt_node_ca_step)step, &c->err) < 0)
        return c->err.code == MT_E_CONFLICT ? mt_api_fail(c, 409, "conflict", "%s", c->err.msg) : mt_api_fail_err(c);
    mt_nodes_tls_follow(c->ctl);
    mt_log(MT_INFO, "node_ca.step", KV("step", word), KV("forced", force), KV("by", c->who.subject_id), KV("reason", reason));
    return progress(c, &doc, &waiting) < 0 ? -1 : mt_api_send(c, 200, doc);
}
