/* SPDX-License-Identifier: Apache-2.0 */
/* Load and checks for the crash test of the event log. One line per fact on stdout, written the moment it is known:
 *   up DIR [CONF]     make or start a cluster under DIR, migrate; CONF: further lines of postgresql.conf; "up PID MILLISECONDS"
 *   down DIR fast|immediate
 *   load DIR CLIENTS [SQL]   commands until stdin closes or the database goes away; SQL runs on the appender's sessions
 *        "ack EVENT_ID ORG_ID"  a command was answered: durable
 *        "seen EVENT_ID CHAIN"  a reader by cursor got the event
 *   check DIR         "verify EVENTS BAD WHAT", "views DIFFERENCES", then "event ID CHAIN AGGREGATE" for each event
 */
#include "control/log/append.h"
#include "control/log/read.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "pg/cluster.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
    char data[128], sock[128], log[128], owner[256], control[256];
    struct mt_pg_cluster_conf conf;
};

static void place_of(struct place *p, const char *dir)
{
    struct mt_err err;
    const struct passwd *pw = getpwnam("nobody");
    (void)snprintf(p->data, sizeof p->data, "%s/data", dir);
    (void)snprintf(p->sock, sizeof p->sock, "%s/sock", dir);
    (void)snprintf(p->log, sizeof p->log, "%s/log", dir);
    p->conf = (struct mt_pg_cluster_conf){.data_dir = p->data, .socket_dir = p->sock, .log_file = p->log,
                                          .uid = geteuid() ? geteuid() : pw ? pw->pw_uid : 65534,
                                          .gid = geteuid() ? getegid() : pw ? pw->pw_gid : 65534};
    (void)mt_pg_cluster_conninfo(&p->conf, "moat_owner", p->owner, sizeof p->owner, &err);
    (void)mt_pg_cluster_conninfo(&p->conf, "moat_control", p->control, sizeof p->control, &err);
}

static int complain(const struct mt_err *err)
{
    (void)fprintf(stderr, "error: %s\n", err->msg);
    return 1;
}

static int cmd_up(struct place *p)
{
    struct mt_err err = {0};
    struct mt_pg_cluster c;
    mt_auto_pg struct mt_pg *pg = NULL;
    int64_t from = mt_clock_mono();
    if (mt_pg_cluster_up(&p->conf, 30000, &c, &err) < 0)
        return complain(&err);
    int64_t ms = (mt_clock_mono() - from) / MT_NS_PER_MS;
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = p->owner}, &pg, &err) < 0 || mt_log_migrate(pg, NULL, &err) < 0)
        return complain(&err);
    printf("up %d %lld\n", (int)c.pid, (long long)ms);
    return 0;
}

static int cmd_down(struct place *p, const char *how)
{
    struct mt_err err = {0};
    struct mt_pg_cluster c;
    int r = mt_pg_cluster_find(&p->conf, &c, &err);
    if (r == -(int)MT_E_NOT_FOUND)
        return 0;
    if (r < 0 || mt_pg_cluster_stop(&c, &p->conf, MT_STREQ(how, "fast") ? MT_PG_STOP_FAST : MT_PG_STOP_IMMEDIATE, 20000, &err) < 0)
        return complain(&err);
    return 0;
}

/* ---- load ---- */

static struct mt_appender *appender;
static _Atomic bool stopping;
static pthread_mutex_t out_mutex = PTHREAD_MUTEX_INITIALIZER;

static void say(const char *line)
{
    /* One write per line: what the parent has read was known here before. */
    (void)pthread_mutex_lock(&out_mutex);
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        stopping = true;
    (void)pthread_mutex_unlock(&out_mutex);
}

static int one_command(int client, int n, const char *run, struct mt_cmd_done *done, char id[64], struct mt_err *err)
{
    struct mt_cmd *c = NULL;
    const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_load", .request_id = "req_load"};
    uint8_t mac[32] = {0};
    char app[80], key[80];
    (void)snprintf(id, 64, "org_%s_%d_%d", run, client, n);
    (void)snprintf(app, sizeof app, "app_%s", id + 4);
    (void)snprintf(key, sizeof key, "key-%s", id);
    int r = mt_cmd_new(&actor, &c, err);
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_ORG_CREATED, id, &(struct mt_cmd_ids){.org_id = id}, json_pack("{s:s}", "name", id), err);
    if (r == 0 && n % 2)
        r = mt_cmd_event(c, MT_EV_APP_CREATED, app, &(struct mt_cmd_ids){.org_id = id, .app_id = app}, json_pack("{s:s}", "name", "web"), err);
    if (r == 0 && n % 4 == 3)
        r = mt_cmd_event(c, MT_EV_ORG_UPDATED, id, &(struct mt_cmd_ids){.org_id = id}, json_pack("{s:s}", "billing_email", key), err);
    if (r == 0)
        r = mt_cmd_idempotency(c, "-", "usr_load", "POST /v1/orgs", key, mac, err);
    if (r < 0) {
        mt_cmd_free(c);
        memset(done, 0, sizeof *done);
        return r;
    }
    return mt_append(appender, c, 20000, done, err);
}

struct client {
    pthread_t thread;
    int n;
    const char *run;
};

static void *client_main(void *arg)
{
    struct client *c = arg;
    for (int n = 0; !stopping; n++) {
        struct mt_cmd_done done;
        struct mt_err err = {0};
        char id[64], line[128];
        int r = one_command(c->n, n, c->run, &done, id, &err);
        mt_cmd_done_free(&done);
        if (r == 0) {
            (void)snprintf(line, sizeof line, "ack %lld %s\n", (long long)done.event_id, id);
            say(line);
        } else {
            stopping = true;
        }
    }
    return NULL;
}

struct reader {
    pthread_t thread;
    struct mt_pg *pg;
    struct mt_log_head *head;
    int64_t cursor;
};

static void *reader_main(void *arg)
{
    struct reader *rd = arg;
    int64_t cursor = rd->cursor;
    while (!stopping) {
        struct mt_err err = {0};
        struct mt_log_page page;
        (void)mt_log_head_wait(rd->head, cursor, 50);
        if (mt_log_read(rd->pg, NULL, cursor, 500, &page, &cursor, NULL, &err) < 0)
            break;
        for (int i = 0; i < page.n; i++) {
            struct mt_log_event e;
            char hash[65], line[128];
            mt_log_page_get(&page, i, &e);
            mt_hex_encode(e.chain_hash, 32, hash);
            (void)snprintf(line, sizeof line, "seen %lld %s\n", (long long)e.event_id, hash);
            say(line);
        }
        mt_log_page_done(&page);
    }
    return NULL;
}

static int cmd_load(struct place *p, int clients, const char *sql)
{
    struct mt_err err = {0};
    struct reader rd = {0};
    static struct client cs[256];
    char run[24];
    const struct mt_pg_conf pg = {.conninfo = p->control, .options = MT_LOG_SEES_ALL};
    (void)snprintf(run, sizeof run, "%llx", (unsigned long long)mt_clock_wall_us());
    if (clients < 1 || clients > 256)
        return 2;
    if (mt_log_head_new(&pg, &rd.head, &err) < 0 || mt_pg_connect(&pg, &rd.pg, &err) < 0 ||
        mt_log_position(rd.pg, &rd.cursor, NULL, &err) < 0)
        return complain(&err);
    const struct mt_appender_conf conf = {.pg = {.conninfo = p->control, .role = "moat_projector"}, .head = rd.head, .session_sql = sql,
                                           .lane_events = 1 /* as much as can be in the air when it is killed */};
    if (mt_appender_new(&conf, &appender, &err) < 0)
        return complain(&err);
    bool ok = pthread_create(&rd.thread, NULL, reader_main, &rd) == 0;
    for (int i = 0; i < clients; i++) {
        cs[i] = (struct client){.n = i, .run = run};
        ok = ok && pthread_create(&cs[i].thread, NULL, client_main, &cs[i]) == 0;
    }
    if (!ok)
        return 3;
    while (!stopping) { /* the parent closes stdin to end the load */
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&in, 1, 50) > 0)
            stopping = true;
    }
    for (int i = 0; i < clients; i++)
        (void)pthread_join(cs[i].thread, NULL);
    (void)pthread_join(rd.thread, NULL);
    mt_appender_free(appender);
    mt_log_head_free(rd.head);
    mt_pg_free(rd.pg);
    return 0;
}

/* ---- check ---- */

static const struct mt_pg_stmt st_views = {
    "load_views",
    "SELECT (SELECT count(*) FROM (SELECT aggregate_id, payload->>'name' FROM events WHERE event_type = 'org.created'"
    " EXCEPT SELECT org_id, name FROM orgs_view) a)"
    " + (SELECT count(*) FROM (SELECT org_id, name FROM orgs_view EXCEPT SELECT aggregate_id, payload->>'name' FROM events"
    "  WHERE event_type = 'org.created') b)"
    " + (SELECT count(*) FROM (SELECT aggregate_id, org_id FROM events WHERE event_type = 'app.created' EXCEPT SELECT app_id, org_id FROM apps_view) c)"
    " + (SELECT count(*) FROM (SELECT app_id, org_id FROM apps_view EXCEPT SELECT aggregate_id, org_id FROM events WHERE event_type = 'app.created') d)"
    " + (SELECT count(*) FROM orgs_view v WHERE (v.resource_version, v.last_event_id) IS DISTINCT FROM"
    "  (SELECT ROW(count(*), max(event_id)) FROM events e WHERE e.aggregate_id = v.org_id AND e.aggregate_type = 'org'))"
    " + (SELECT count(*) FROM idempotency_records r WHERE NOT EXISTS (SELECT FROM events e WHERE e.event_id = r.event_id))"};

static int cmd_check(struct place *p)
{
    struct mt_err err = {0};
    struct mt_log_verdict v;
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = p->owner, .call_timeout_ms = 60000}, &pg, &err) < 0 ||
        mt_log_verify(pg, NULL, NULL, &v, &err) < 0 || mt_pg_query_one(pg, &st_views, NULL, &res, &err) < 0)
        return complain(&err);
    printf("verify %lld %lld %s\n", (long long)v.events, (long long)v.bad_event_id, v.what[0] ? v.what : "good");
    printf("views %lld\n", (long long)mt_pg_i64(res, 0, 0));
    for (int64_t cursor = 0; cursor < v.head;) {
        struct mt_log_page page;
        if (mt_log_read(pg, NULL, cursor, 1000, &page, &cursor, NULL, &err) < 0)
            return complain(&err);
        for (int i = 0; i < page.n; i++) {
            struct mt_log_event e;
            char hash[65];
            mt_log_page_get(&page, i, &e);
            mt_hex_encode(e.chain_hash, 32, hash);
            printf("event %lld %s %s\n", (long long)e.event_id, hash, e.aggregate_id);
        }
        mt_log_page_done(&page);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct place p;
    mt_log_init("eventlog-load", MT_ERROR, false);
    if (argc >= 3) {
        place_of(&p, argv[2]);
        if (MT_STREQ(argv[1], "up")) {
            p.conf.extra_conf = argc > 3 ? argv[3] : NULL;
            return cmd_up(&p);
        }
        if (MT_STREQ(argv[1], "down") && argc == 4)
            return cmd_down(&p, argv[3]);
        if (MT_STREQ(argv[1], "load") && argc >= 4)
            return cmd_load(&p, (int)strtol(argv[3], NULL, 10), argc > 4 ? argv[4] : NULL);
        if (MT_STREQ(argv[1], "check"))
            return cmd_check(&p);
    }
    (void)fprintf(stderr, "usage: eventlog-load up DIR [CONF] | down DIR fast|immediate | load DIR CLIENTS [SQL] | check DIR\n");
    return 2;
}
