/* SPDX-License-Identifier: Apache-2.0 */
/* What must be there before the first request. */
#include "control/bootstrap.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/auth/auth.h"
#include "control/log/schema.h"
#include "control/plans/address.h"
#include "os/file.h"
#include "pg/array.h"

#include <sys/stat.h>

#define APPEND_TIMEOUT_MS 10000

static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "bootstrap", .request_id = "bootstrap"};

static const struct mt_pg_stmt cluster_value = {"bootstrap_cluster", "SELECT value #>> '{}' FROM cluster_view WHERE key = $1"};
static const struct mt_pg_stmt any_operator = {
    "bootstrap_operator", "SELECT user_id FROM users_view WHERE is_operator AND state = 'active' ORDER BY user_id LIMIT 1"};
static const struct mt_pg_stmt any_org = {"bootstrap_org", "SELECT 1 FROM orgs_view WHERE NOT deleted LIMIT 1"};
/* Organisations from before there were members: somebody must be able to reach them. */
static const struct mt_pg_stmt orphans = {
    "bootstrap_orphans", "SELECT o.org_id, u.email FROM orgs_view o JOIN users_view u ON u.user_id = $1 WHERE NOT o.deleted"
                         " AND NOT EXISTS (SELECT 1 FROM org_members_view m WHERE m.org_id = o.org_id) LIMIT 200"};
static const struct mt_pg_stmt user_email = {"bootstrap_email", "SELECT email FROM users_view WHERE user_id = $1"};
static const struct mt_pg_stmt token_scopes = {
    "bootstrap_token_scopes", "UPDATE moat.personal_tokens SET scopes = $2 WHERE token_id = $1 AND name = 'bootstrap'"};
static const struct mt_pg_stmt token_put = {
    "bootstrap_token_put", "INSERT INTO moat.personal_tokens (token_id, user_id, name, token_hash, scopes)"
                           " VALUES ($1, $2, 'bootstrap', $3, $4)"};

static const struct mt_pg_stmt fenced = {"bootstrap_fenced", "SELECT current_user::text, row_security_active('moat.events')"};

char *mt_bootstrap_owner_conninfo(const struct mt_control_conf *conf)
{
    /* The owner comes by another user name of the same connection string (peer authentication maps it). */
    return strstr(conf->database_url, "://") ? strdup(conf->database_url) : mt_asprintf("%s user=%s", conf->database_url, conf->owner_role);
}

int mt_bootstrap_owner(const struct mt_control_conf *conf, const char *application_name, struct mt_pg **ret, struct mt_err *err)
{
    mt_auto_free char *info = mt_bootstrap_owner_conninfo(conf);
    struct mt_pg_conf pc = {.conninfo = info, .application_name = application_name, .call_timeout_ms = 60000};
    if (!info)
        return MT_FAIL(err, MT_E_NOMEM, "connecting as the owner");
    return mt_pg_connect(&pc, ret, err);
}

int mt_bootstrap_migrate(const struct mt_control_conf *conf, const struct mt_rebuild_conf *watch, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    int rc = mt_bootstrap_owner(conf, "moat-control migrate", &pg, err);
    return rc < 0 ? rc : mt_log_migrate(pg, watch, err);
}

int mt_bootstrap_mac_key(struct mt_control *ctl, struct mt_err *err)
{
    mt_auto_free char *path = mt_asprintf("%s/mac.key", ctl->conf.data_dir);
    mt_auto_free char *key = NULL;
    size_t n = 0;
    if (!path)
        return MT_FAIL(err, MT_E_NOMEM, "mac key");
    int rc = mt_file_mkdirs(ctl->conf.data_dir, 0700, err);
    if (rc < 0)
        return rc;
    rc = mt_file_read(path, 64, &key, &n, err);
    if (rc == 0 && n == sizeof ctl->mac_key) {
        memcpy(ctl->mac_key, key, n);
        return 0;
    }
    if (rc < 0 && rc != -MT_E_NOT_FOUND)
        return rc;
    if (rc == 0)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is not %zu bytes long", path, sizeof ctl->mac_key);
    mt_random(ctl->mac_key, sizeof ctl->mac_key);
    return mt_file_write(path, ctl->mac_key, sizeof ctl->mac_key, 0600, err);
}

static int append(struct mt_control *ctl, struct mt_cmd *cmd, struct mt_err *err)
{
    struct mt_cmd_done done = {0};
    mt_cmd_in_recovery(cmd); /* without these nobody could sign in to end it */
    int rc = mt_append(ctl->appender, cmd, APPEND_TIMEOUT_MS, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}

/* Known only now: which addresses are the cluster's own. */
static int dns_outside(const struct mt_control *ctl, struct mt_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ctl->conf.vm_dns.n; i++)
        rc = mt_addr_dns_check(ctl->conf.vm_dns.v[i], ctl->prefix, err);
    return rc;
}

/* The value of a cluster key; sets it to @make when it is not there. Another server may be quicker: its value counts. */
static int cluster_key(struct mt_control *ctl, struct mt_pg *pg, const char *key, const char *make, char *ret, size_t size,
                       struct mt_err *err)
{
    for (int i = 0; i < 2; i++) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_auto_cmd struct mt_cmd *cmd = NULL;
        struct mt_cmd_ids none = {0};
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, key);
        int rc = mt_pg_query(pg, &cluster_value, &p, &r, err);
        if (rc < 0)
            return rc;
        if (mt_pg_rows(r) == 1) {
            snprintf(ret, size, "%s", mt_pg_text(r, 0, 0));
            return 0;
        }
        if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 ||
            (rc = mt_cmd_rely(cmd, MT_RELY_CLUSTER, key, NULL, 0, err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_CLUSTER_CONFIG_SET, key, &none,
                               json_pack("{s:s,s:s,s:s}", "key", key, "value", make, "reason", "first start"), err)) < 0)
            return rc;
        rc = append(ctl, MT_TAKE(cmd), err);
        if (rc < 0 && rc != -MT_E_CONFLICT)
            return rc;
    }
    return MT_FAIL(err, MT_E_CORRUPT, "cluster key '%s' does not stay", key);
}

static int operator_user(struct mt_control *ctl, struct mt_pg *pg, char ret[MT_ID_SIZE], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    int rc = mt_pg_query(pg, &any_operator, NULL, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r)) {
        snprintf(ret, MT_ID_SIZE, "%s", mt_pg_text(r, 0, 0));
        return 0;
    }
    mt_id_new(MT_ID_USER, ret);
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_USER_CREATED, ret, &none,
                           json_pack("{s:s,s:s,s:b}", "email", "operator@localhost", "display_name", "First operator",
                                     "is_operator", true),
                           err)) < 0)
        return rc;
    mt_log(MT_INFO, "bootstrap.operator", KV("user_id", (const char *)ret));
    return append(ctl, MT_TAKE(cmd), err);
}

/* A newer server has scopes that did not exist when the token was made. */
static int token_renew(struct mt_pg *pg, const char *token_id, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr scopes;
    mt_scopes_arr(mt_scopes_every(), &scopes);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, token_id);
    mt_pg_p_arr(&p, &scopes);
    int rc = mt_pg_query(pg, &token_scopes, &p, NULL, err);
    mt_pg_arr_done(&scopes);
    return rc;
}

/* The token file holds a token that the database knows; else a new one is made. The hash is stored before the file is
 * written: a token that nobody knows is useless, a file that does not work is a riddle. */
static int operator_token(struct mt_control *ctl, struct mt_pg *pg, const char *user_id, struct mt_err *err)
{
    const char *path = ctl->conf.operator_token_file;
    mt_auto_free char *text = NULL;
    size_t n = 0;
    struct mt_auth_who who;
    struct mt_auth_chain chain;
    enum mt_auth_end end;
    struct mt_pg_params p;
    struct mt_pg_arr scopes;
    char token[MT_TOKEN_SIZE], line[MT_TOKEN_SIZE + 2], id[MT_ID_SIZE];
    uint8_t hash[32];
    int rc = mt_file_read(path, 256, &text, &n, err);
    if (rc == 0) {
        while (n && (text[n - 1] == '\n' || text[n - 1] == ' '))
            text[--n] = 0;
        rc = mt_auth_lookup(pg, text, NULL, NULL, NULL, false, false, false, NULL, NULL, &who, &chain, &end, err);
        if (rc < 0)
            return rc;
        if (end == MT_AUTH_OK)
            return who.scopes == mt_scopes_every() ? 0 : token_renew(pg, who.token_id, err);
        mt_log(MT_WARN, "bootstrap.token_unknown", KV("file", path));
    } else if (rc != -MT_E_NOT_FOUND) {
        return rc;
    }
    mt_token_new(MT_TOKEN_PERSONAL, token, hash);
    mt_id_new(MT_ID_TOKEN, id);
    mt_scopes_arr(mt_scopes_every(), &scopes);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_text(&p, user_id);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_arr(&p, &scopes);
    rc = mt_pg_query(pg, &token_put, &p, NULL, err);
    mt_pg_arr_done(&scopes);
    if (rc < 0)
        return rc;
    int len = snprintf(line, sizeof line, "%s\n", token);
    rc = mt_file_write(path, line, (size_t)len, 0600, err);
    explicit_bzero(token, sizeof token);
    explicit_bzero(line, sizeof line);
    if (rc == 0)
        mt_log(MT_INFO, "bootstrap.token", KV("file", path), KV("token_id", (const char *)id));
    return rc;
}

static int add_owner(struct mt_cmd *cmd, const char *org_id, const char *user_id, const char *email, struct mt_err *err)
{
    char member[MT_ID_SIZE];
    struct mt_cmd_ids ids = {.org_id = org_id};
    mt_id_new(MT_ID_MEMBER, member);
    return mt_cmd_event(cmd, MT_EV_ORG_MEMBER_ADDED, member, &ids,
                        json_pack("{s:s,s:s,s:s,s:s}", "email", email, "user_id", user_id, "role", "owner", "state", "active"), err);
}

static int adopt_orphans(struct mt_control *ctl, struct mt_pg *pg, const char *user_id, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_id);
    int rc = mt_pg_query(pg, &orphans, &p, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++) {
        mt_auto_cmd struct mt_cmd *cmd = NULL;
        if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 ||
            (rc = add_owner(cmd, mt_pg_text(r, i, 0), user_id, mt_pg_text(r, i, 1), err)) < 0)
            return rc;
        rc = append(ctl, MT_TAKE(cmd), err);
        rc = rc == -MT_E_CONFLICT ? 0 : rc;
    }
    return rc;
}

static int first_org(struct mt_control *ctl, struct mt_pg *pg, const char *user_id, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *u = NULL;
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    char id[MT_ID_SIZE];
    int rc = mt_pg_query(pg, &any_org, NULL, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r))
        return adopt_orphans(ctl, pg, user_id, err);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_id);
    if ((rc = mt_pg_query_one(pg, &user_email, &p, &u, err)) < 0)
        return rc;
    mt_id_new(MT_ID_ORG, id);
    struct mt_cmd_ids ids = {.org_id = id};
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_ORG_CREATED, id, &ids, json_pack("{s:s}", "name", ctl->conf.bootstrap_org), err)) < 0 ||
        (rc = add_owner(cmd, id, user_id, mt_pg_text(u, 0, 0), err)) < 0)
        return rc;
    rc = append(ctl, MT_TAKE(cmd), err);
    return rc == -MT_E_CONFLICT ? 0 : rc; /* another server was quicker */
}

/* One fence between tenants is not two: whom row security does not bind must not answer tenants. */
static int behind_the_fence(struct mt_pg *pg, const char *key, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query_one(pg, &fenced, NULL, &r, err);
    if (rc < 0 || mt_pg_bool(r, 0, 1))
        return rc;
    return MT_FAIL(err, MT_E_DENIED, "row security does not bind the database role '%s' (it owns the tables, or has BYPASSRLS): let %s or"
                                     " database_role name another one, moat_control as a rule, and owner_role the owner", mt_pg_text(r, 0, 0), key);
}

int mt_bootstrap_pool(struct mt_control *ctl, struct mt_err *err)
{
    const struct mt_pg_conf pc = {.conninfo = ctl->conf.database_pool_url, .application_name = "moat-control", .role = ctl->conf.database_role, .shared = MT_LOG_SETTING,
                                  .connect_timeout_ms = 5000, .call_timeout_ms = 10000};
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    if (!pc.conninfo)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, "cluster_id");
    int rc = mt_pg_connect(&pc, &pg, err);
    if (rc < 0)
        return mt_err_wrap(err, "database_pool_url");
    mt_pg_name(pg, MT_LOG_ALL);
    if ((rc = mt_pg_exec(pg, "BEGIN", err)) < 0 || /* refused in the mode "statement" */
        (rc = behind_the_fence(pg, "database_pool_url", err)) < 0 || (rc = mt_pg_query(pg, &cluster_value, &p, &r, err)) < 0 || (rc = mt_pg_exec(pg, "COMMIT", err)) < 0)
        return mt_err_wrap(err, "database_pool_url");
    if (mt_pg_rows(r) != 1 || !MT_STREQ(mt_pg_text(r, 0, 0), ctl->cluster_id))
        return MT_FAIL(err, MT_E_INVALID, "database_pool_url leads to the database of cluster '%s', database_url to that of '%s': let both lead to one",
                       mt_pg_rows(r) == 1 ? mt_pg_text(r, 0, 0) : "none", ctl->cluster_id);
    return 0;
}

int mt_bootstrap(struct mt_control *ctl, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    char ulid[MT_ULID_SIZE], cluster[sizeof ctl->cluster_id], prefix[MT_ADDR_SIZE], user[MT_ID_SIZE];
    int rc = mt_pg_connect(&ctl->pg_conf, &pg, err);
    if (rc < 0 || (rc = behind_the_fence(pg, "database_url", err)) < 0)
        return rc;
    mt_ulid_new(ulid);
    if (ctl->cluster_id[0]) /* of one that was lost: what is sealed for it opens */
        snprintf(cluster, sizeof cluster, "%s", ctl->cluster_id);
    else
        snprintf(cluster, sizeof cluster, "cl_%s", ulid);
    if (ctl->conf.cluster_ipv6_prefix)
        snprintf(prefix, sizeof prefix, "%s", ctl->conf.cluster_ipv6_prefix);
    else
        mt_prefix_random_ula(prefix);
    struct in6_addr parsed;
    unsigned len;
    if ((rc = cluster_key(ctl, pg, "cluster_id", cluster, ctl->cluster_id, sizeof ctl->cluster_id, err)) < 0 ||
        (rc = mt_prefix_parse(prefix, &parsed, &len, err)) < 0 ||
        (rc = cluster_key(ctl, pg, "cluster_ipv6_prefix", prefix, ctl->prefix, sizeof ctl->prefix, err)) < 0 ||
        (rc = dns_outside(ctl, err)) < 0 || !ctl->conf.operator_token_file) /* then people begin with `moat-control init` */
        return rc;
    if ((rc = operator_user(ctl, pg, user, err)) < 0 || (rc = operator_token(ctl, pg, user, err)) < 0)
        return rc;
    return first_org(ctl, pg, user, err);
}
