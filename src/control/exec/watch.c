/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway and the database: signs of life, revocations, ends of sessions. See gateway_int.h. */
#include "control/exec/gateway_int.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/log/append.h"
#include "control/roles.h"

#include <poll.h>
#include <sys/eventfd.h>

#define TICK_MS 2000

static const struct mt_pg_stmt alive = {
    "exec_alive", "UPDATE moat.exec_tokens SET alive_at = now() WHERE gateway = $1 RETURNING session_id, revoked"};
/* Never connected in time; or its gateway has not been heard of for half a minute. Their grace lets a gateway end its own. */
static const struct mt_pg_stmt stale = {
    "exec_stale",
    "SELECT v.session_id, v.org_id, v.app_id, v.env_id, v.instance_id, v.resource_version,"
    " CASE WHEN v.status = 'granted' AND t.used_at IS NULL THEN 'connect_timeout' ELSE 'client_disconnect' END"
    " FROM exec_sessions_view v LEFT JOIN moat.exec_tokens t ON t.session_id = v.session_id WHERE v.status <> 'ended' AND"
    " CASE WHEN t.used_at IS NULL THEN v.expires_at < now() - interval '5 seconds'"
    " ELSE COALESCE(t.alive_at, t.used_at) < now() - interval '30 seconds' END LIMIT 50"};
static const struct mt_pg_stmt token_drop = {"exec_token_drop", "DELETE FROM moat.exec_tokens WHERE session_id = $1"};

struct ended {
    char session[MT_ID_SIZE];
};

static void on_appended(void *arg, struct mt_cmd_done *done, const struct mt_err *err)
{
    struct ended *e = arg;
    if (err->code && done->end != MT_END_STALE)
        mt_log(MT_WARN, "exec.end_not_recorded", KV("session", e->session), KV_ERR(err)); /* found again when its gateway is silent */
    mt_cmd_done_free(done);
    free(e);
}

/* @version of the row it relies on; 0: whatever it is. */
static void append_ended(struct mt_control *ctl, const char *id, const char *org, const char *app, const char *env, int64_t version,
                         json_t *payload)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "exec-gateway", .request_id = "exec-gateway"};
    const struct mt_cmd_ids ids = {.org_id = org, .app_id = app, .env_id = env};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_err err = {0};
    struct mt_pg_params p;
    struct ended *e = calloc(1, sizeof *e);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    int rc = e ? mt_cmd_new(&actor, &cmd, &err) : MT_FAIL(&err, MT_E_NOMEM, "exec end");
    if (rc == 0)
        rc = mt_cmd_event(cmd, MT_EV_EXEC_SESSION_ENDED, id, &ids, json_incref(payload), &err);
    if (rc == 0 && version)
        rc = mt_cmd_rely(cmd, MT_RELY_EXEC_SESSION, id, NULL, version, &err);
    if (rc == 0)
        rc = mt_cmd_side(cmd, &token_drop, &p, -1, &err);
    json_decref(payload);
    if (e)
        snprintf(e->session, sizeof e->session, "%s", id);
    if (rc == 0)
        rc = mt_append_async(ctl->appender, MT_TAKE(cmd), on_appended, e, &err);
    if (rc < 0) {
        mt_log(MT_WARN, "exec.end_not_recorded", KV("session", id), KV_ERR(&err));
        free(e);
    }
}

void gw_append_ended(struct mt_gateway *g, const struct mt_gateway_session *s)
{
    json_t *p = json_pack("{s:s,s:s,s:I,s:I}", "instance_id", s->instance_id, "end_reason", s->reason, "stdin_bytes",
                          (json_int_t)s->bytes_in, "output_bytes", (json_int_t)s->bytes_out);
    if (p && s->exit_code >= 0)
        json_object_set_new(p, "exit_code", json_integer(s->exit_code));
    if (p && s->signal[0])
        json_object_set_new(p, "signal", json_string(s->signal));
    append_ended(g->ctl, s->id, s->org_id, s->app_id, s->env_id, 0, p);
}

void mt_gateway_unreached(struct mt_gateway *g, const struct mt_gateway_open *w)
{
    append_ended(g->ctl, w->session_id, w->org_id, w->app_id, w->env_id, 0,
                 json_pack("{s:s,s:s}", "instance_id", w->instance_id, "end_reason", "agent_unreachable"));
}

/* ---------------------------------------------------------------- the watcher */

struct revocation {
    struct mt_gateway *g;
    char id[MT_ID_SIZE];
};

static void revoke_here(void *arg)
{
    struct revocation *r = arg;
    MT_LIST_EACH(n, &r->g->sessions) {
        struct mt_gateway_session *s = MT_CONTAINER(n, struct mt_gateway_session, link);
        if (MT_STREQ(s->id, r->id)) {
            gw_revoke(s);
            break;
        }
    }
    free(r);
}

static int signs_of_life(struct mt_gateway *g, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, g->name);
    int rc = mt_pg_query(g->pg, &alive, &p, &res, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(res); i++) {
        if (!mt_pg_bool(res, i, 1))
            continue;
        struct revocation *r = calloc(1, sizeof *r);
        if (!r)
            break;
        r->g = g;
        snprintf(r->id, sizeof r->id, "%s", mt_pg_text(res, i, 0));
        if (mt_loop_post(g->loop, revoke_here, r) < 0)
            free(r);
    }
    return rc;
}

static int end_stale(struct mt_gateway *g, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(g->pg, &stale, NULL, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++)
        append_ended(g->ctl, mt_pg_text(r, i, 0), mt_pg_text(r, i, 1), mt_pg_text(r, i, 2), mt_pg_text(r, i, 3), mt_pg_i64(r, i, 5),
                     json_pack("{s:s,s:s}", "instance_id", mt_pg_text(r, i, 4), "end_reason", mt_pg_text(r, i, 6)));
    return rc;
}

static int tick(struct mt_gateway *g, struct mt_err *err)
{
    int rc = 0;
    bool leads = g->ctl->roles && mt_roles_epoch(g->ctl->roles, MT_LEAD_GC) != 0;
    if (!atomic_load(&g->ctl->ready) || (!leads && mt_gateway_count(g) == 0))
        return 0;
    if (!g->pg || !mt_pg_idle_check(g->pg))
        rc = mt_pg_open(&g->ctl->pg_conf, &g->pg, err);
    if (rc == 0 && mt_gateway_count(g))
        rc = signs_of_life(g, err);
    return rc == 0 && leads ? end_stale(g, err) : rc;
}

static void *watch_main(void *arg)
{
    struct mt_gateway *g = arg;
    char last[240] = "";
    (void)pthread_setname_np(pthread_self(), "exec-watch");
    while (!atomic_load(&g->quit)) {
        struct mt_err err = {0};
        if (tick(g, &err) < 0 && !MT_STREQ(last, err.msg))
            mt_log(MT_WARN, "exec.watch_failed", KV_ERR(&err));
        snprintf(last, sizeof last, "%s", err.msg);
        struct pollfd p = {.fd = g->wake_fd, .events = POLLIN};
        (void)poll(&p, 1, TICK_MS);
    }
    return NULL;
}

int gw_watch_start(struct mt_gateway *g, struct mt_err *err)
{
    g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->wake_fd < 0 || pthread_create(&g->watcher, NULL, watch_main, g) != 0)
        return MT_FAIL(err, MT_E_NOMEM, "exec watcher");
    g->watching = true;
    return 0;
}

void gw_watch_stop(struct mt_gateway *g)
{
    uint64_t one = 1;
    atomic_store(&g->quit, true);
    if (g->watching) {
        (void)!write(g->wake_fd, &one, sizeof one);
        pthread_join(g->watcher, NULL);
        g->watching = false;
    }
    mt_closep(&g->wake_fd);
    mt_pg_free(g->pg);
    g->pg = NULL;
}
