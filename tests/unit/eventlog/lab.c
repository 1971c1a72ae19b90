/* SPDX-License-Identifier: Apache-2.0 */
#include "lab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

int lab_up(struct lab *l, struct mt_err *err)
{
    memset(l, 0, sizeof *l);
    int r = scratch_up(&l->sc, err);
    if (r < 0)
        return r;
    struct mt_pg *owner = NULL;
    if ((r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = l->sc.owner}, &owner, err)) < 0)
        return r;
    r = mt_log_migrate(owner, NULL, err);
    mt_pg_free(owner);
    if (r < 0 || (r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = l->sc.super}, &l->pg, err)) < 0)
        return r;
    /* The real way: the application's login, its writing role. */
    const struct mt_pg_conf control = {.conninfo = l->sc.control, .options = MT_LOG_SEES_ALL};
    if ((r = mt_log_head_new(&control, &l->head, err)) < 0)
        return r;
    const struct mt_appender_conf conf = {.pg = {.conninfo = l->sc.control, .role = "moat_projector"}, .head = l->head,
                                           .lane_events = 1 /* batches overlap whenever two can */};
    return mt_appender_new(&conf, &l->ap, err);
}

void lab_down(struct lab *l)
{
    mt_appender_free(l->ap);
    mt_log_head_free(l->head);
    mt_pg_free(l->pg);
    scratch_down(&l->sc);
}

struct mt_cmd *lab_cmd(void)
{
    struct mt_cmd *c = NULL;
    struct mt_err err = {0};
    const struct mt_cmd_actor actor = {.actor_type = "operator", .actor_id = "usr_1", .request_id = "req_1"};
    if (mt_cmd_new(&actor, &c, &err) < 0)
        fail_msg("%s", err.msg);
    return c;
}

void lab_event(struct mt_cmd *c, enum mt_ev ev, const char *id, const char *org, const char *app, const char *env, json_t *payload)
{
    struct mt_err err = {0};
    if (mt_cmd_event(c, ev, id, &(struct mt_cmd_ids){.org_id = org, .app_id = app, .env_id = env}, payload, &err) < 0)
        fail_msg("%s", err.msg);
}

int64_t lab_done(struct lab *l, struct mt_cmd *c)
{
    struct mt_cmd_done done;
    struct mt_err err = {0};
    int r = mt_append(l->ap, c, 10000, &done, &err);
    int64_t id = done.event_id;
    mt_cmd_done_free(&done);
    if (r < 0)
        fail_msg("%s", err.msg);
    return id;
}

const char *lab_text(struct lab *l, const char *sql)
{
    static char text[4096];
    static char names[64][16];
    static struct mt_pg_stmt stmts[64];
    static char sqls[64][1024];
    static int n;
    /* statements are known by address: one slot per text */
    int i = 0;
    while (i < n && strcmp(sqls[i], sql) != 0)
        i++;
    if (i == n) {
        assert_true(n < 64);
        (void)snprintf(sqls[n], sizeof sqls[n], "%s", sql);
        (void)snprintf(names[n], sizeof names[n], "lab_%d", n);
        stmts[n] = (struct mt_pg_stmt){names[n], sqls[n]};
        n++;
    }
    struct mt_pg_res *res = NULL;
    struct mt_err err = {0};
    if (mt_pg_query(l->pg, &stmts[i], NULL, &res, &err) < 0)
        fail_msg("%s", err.msg);
    text[0] = 0;
    if (mt_pg_rows(res) > 0 && !mt_pg_null(res, 0, 0))
        (void)snprintf(text, sizeof text, "%s", mt_pg_text(res, 0, 0));
    mt_pg_res_free(res);
    return text;
}
