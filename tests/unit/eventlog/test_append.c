/* SPDX-License-Identifier: Apache-2.0 */
/* Appending against a real server: order, idempotency, reliances, names, neighbours, projections, verify. */
#include "lab.h"

#include "control/views/projections.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct lab lab;

static int up(void **state)
{
    (void)state;
    struct mt_err err = {0};
    int r = lab_up(&lab, &err);
    if (r < 0)
        print_error("%s\n", err.msg);
    return r;
}

static int down(void **state)
{
    (void)state;
    lab_down(&lab);
    return 0;
}

static void make_org(const char *id, const char *name)
{
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", name));
    (void)lab_done(&lab, c);
}

static int org_reply(void *arg, const struct mt_cmd_ids_given *given, struct mt_buf *body, int *ret_status, struct mt_err *err)
{
    (void)err;
    mt_buf_printf(body, "{\"id\":\"%s\",\"event\":%lld}", (const char *)arg, (long long)given->first_event_id);
    *ret_status = 201;
    return 0;
}

static struct mt_cmd *keyed_org(const char *id, const char *name, const char *key, uint8_t mac_byte)
{
    struct mt_err err = {0};
    uint8_t mac[32];
    memset(mac, mac_byte, sizeof mac);
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", name));
    assert_int_equal(mt_cmd_idempotency(c, "-", "usr_1", "POST /v1/orgs", key, mac, &err), 0);
    return c;
}

static void a_command_gets_ids_a_row_and_a_reply(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    struct mt_cmd *c = keyed_org("org_first", "first", "key-1", 7);
    char id[] = "org_first";
    mt_cmd_reply(c, org_reply, id);
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), 0);
    assert_int_equal(done.end, MT_END_DONE);
    assert_int_equal(done.status, 201);
    assert_int_equal(done.event_id, 1);
    assert_string_equal(done.body, "{\"id\":\"org_first\",\"event\":1}");
    mt_cmd_done_free(&done);
    assert_string_equal(lab_text(&lab, "SELECT name || ' ' || resource_version || ' ' || last_event_id FROM orgs_view"), "first 1 1");
    assert_true(mt_log_head_wait(lab.head, 0, 5000) >= 1);
}

static void the_same_key_replays_and_another_body_is_refused(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    assert_int_equal(mt_append(lab.ap, keyed_org("org_other", "other", "key-1", 7), 5000, &done, &err), 0);
    assert_int_equal(done.end, MT_END_REPLAY);
    assert_int_equal(done.status, 201);
    assert_int_equal(done.event_id, 1);
    assert_string_equal(done.body, "{\"id\":\"org_first\",\"event\":1}");
    mt_cmd_done_free(&done);
    assert_int_equal(mt_append(lab.ap, keyed_org("org_other", "other", "key-1", 8), 5000, &done, &err), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_KEY_REUSE);
    assert_string_equal(lab_text(&lab, "SELECT last_event_id::text FROM event_counter"), "1");
    /* What the migration computes for records of before is what the program computes. */
    assert_string_equal(lab_text(&lab, "SELECT (scope = encode(substring(sha256('\\x2d00'::bytea || 'usr_1' || '\\x00' || 'POST /v1/orgs' || '\\x00' || 'key-1') FOR 16), 'hex')::uuid)::text"
                                       " FROM idempotency_records"), "true");
}

static void a_cause_is_an_earlier_event(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    for (int i = 0; i < 4; i++) { /* the first after another's batch goes the long way, later ones ahead */
        char id[32], head[32];
        (void)snprintf(id, sizeof id, "org_cause%d", i);
        (void)snprintf(head, sizeof head, "%s", lab_text(&lab, "SELECT last_event_id::text FROM event_counter"));
        struct mt_cmd *c = lab_cmd();
        assert_int_equal(mt_cmd_cause(c, NULL, strtoll(head, NULL, 10) + 1, &err), 0);
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
        assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_INVALID);
        assert_int_equal(done.end, MT_END_ERROR);
        assert_string_equal(lab_text(&lab, "SELECT last_event_id::text FROM event_counter"), head);
        c = lab_cmd();
        assert_int_equal(mt_cmd_cause(c, NULL, strtoll(head, NULL, 10), &err), 0);
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
        (void)lab_done(&lab, c);
    }
}

static void a_changed_row_makes_a_command_stale(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_first", "org_first", NULL, NULL, json_pack("{s:b}", "developer_exec", 1));
    assert_int_equal(mt_cmd_rely(c, MT_RELY_ORG, "org_first", NULL, 1, &err), 0);
    (void)lab_done(&lab, c);
    c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_first", "org_first", NULL, NULL, json_pack("{s:b}", "developer_exec", 0));
    assert_int_equal(mt_cmd_rely(c, MT_RELY_ORG, "org_first", NULL, 1, &err), 0);
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_STALE);
    assert_int_equal(done.rely, MT_RELY_ORG);
    assert_string_equal(done.rely_key, "org_first");
    assert_int_equal(done.rely_version, 2);
    c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, "org_2", "org_2", NULL, NULL, json_pack("{s:s}", "name", "first"));
    assert_int_equal(mt_cmd_rely(c, MT_RELY_ORG_NAME, "first", NULL, 0, &err), 0);
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_STALE);
    assert_int_equal(done.rely, MT_RELY_ORG_NAME);
}

/* A kind that nobody asks for would let through what it was to refuse, and no test of another kind would see it. */
static void each_kind_of_reliance_is_asked_for(void **state)
{
    (void)state;
    struct mt_err err = {0};
    for (int what = 0; what < MT_RELY_MAX; what++) {
        struct mt_cmd_done done;
        char id[32];
        if (what >= MT_RELY_ENV_BUNDLE && what <= MT_RELY_RELEASE_CONTENT)
            continue; /* rely on absence, which holds here */
        (void)snprintf(id, sizeof id, "org_kind%d", what);
        struct mt_cmd *c = lab_cmd();
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
        assert_int_equal(mt_cmd_rely(c, (enum mt_rely)what, "nothing", what == MT_RELY_DESIRED ? "web" : NULL, 7, &err), 0);
        assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_CONFLICT);
        assert_int_equal(done.end, MT_END_STALE);
        assert_int_equal(done.rely, what);
        mt_cmd_done_free(&done);
    }
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM orgs_view WHERE org_id LIKE 'org_kind%'"), "0");
}

static int as_leader(const char *org, int64_t epoch, struct mt_cmd_done *done)
{
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, org, org, NULL, NULL, json_pack("{s:s}", "name", org));
    assert_int_equal(mt_cmd_rely(c, MT_RELY_LEASE, "scheduler", NULL, epoch, &err), 0);
    int r = mt_append(lab.ap, c, 10000, done, &err);
    mt_cmd_done_free(done);
    return r;
}

static void a_former_leader_appends_nothing(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    assert_int_equal(mt_pg_exec(lab.pg, "INSERT INTO moat.leases (name, holder, epoch) VALUES ('scheduler', 'one', 7)", &err), 0);
    assert_int_equal(as_leader("org_lead1", 7, &done), 0);
    assert_int_equal(as_leader("org_lead2", 7, &done), 0); /* by now without looking first */
    assert_int_equal(mt_pg_exec(lab.pg, "UPDATE moat.leases SET holder = 'two', epoch = 8 WHERE name = 'scheduler'", &err), 0);
    assert_int_equal(as_leader("org_lead3", 7, &done), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_STALE);
    assert_int_equal(done.rely, MT_RELY_LEASE);
    assert_int_equal(done.rely_version, 8);
    assert_int_equal(as_leader("org_lead4", 8, &done), 0);
    assert_string_equal(lab_text(&lab, "SELECT string_agg(org_id, ' ' ORDER BY org_id) FROM orgs_view WHERE org_id LIKE 'org_lead%'"), "org_lead1 org_lead2 org_lead4");
}

static void a_taken_name_is_reported_by_its_index(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, "org_3", "org_3", NULL, NULL, json_pack("{s:s}", "name", "first"));
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_TAKEN);
    assert_string_equal(done.constraint, "orgs_view_name_live");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM events WHERE aggregate_id = 'org_3'"), "0");
}

static void a_birth_happens_once_and_before_all_else(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_nobody", "org_nobody", NULL, NULL, json_object());
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_NOT_FOUND);
    c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, "org_first", "org_first", NULL, NULL, json_pack("{s:s}", "name", "again"));
    assert_int_equal(mt_append(lab.ap, c, 5000, &done, &err), -MT_E_CONFLICT);
    assert_string_equal(done.constraint, "events_aggregate_seq_key");
    assert_int_equal(mt_append(lab.ap, lab_cmd(), 5000, &done, &err), -MT_E_INVALID);
}

/* ---- many at once ---- */

struct gather {
    pthread_mutex_t mutex;
    pthread_cond_t all;
    int left, done, taken, failed;
};

static void on_done(void *arg, struct mt_cmd_done *done, const struct mt_err *err)
{
    struct gather *g = arg;
    (void)pthread_mutex_lock(&g->mutex);
    g->done += done->end == MT_END_DONE;
    g->taken += done->end == MT_END_TAKEN;
    g->failed += err->code != MT_OK && done->end != MT_END_TAKEN;
    if (--g->left == 0)
        (void)pthread_cond_signal(&g->all);
    (void)pthread_mutex_unlock(&g->mutex);
    mt_cmd_done_free(done);
}

static void gather_wait(struct gather *g)
{
    (void)pthread_mutex_lock(&g->mutex);
    while (g->left > 0)
        (void)pthread_cond_wait(&g->all, &g->mutex);
    (void)pthread_mutex_unlock(&g->mutex);
}

static void one_bad_command_does_not_harm_its_neighbours(void **state)
{
    (void)state;
    struct gather g = {.left = 40};
    struct mt_err err = {0};
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    for (int i = 0; i < 40; i++) {
        char id[32], name[32];
        (void)snprintf(id, sizeof id, "org_n%d", i);
        (void)snprintf(name, sizeof name, "%s-%d", i == 17 ? "first" : "neighbour", i);
        struct mt_cmd *c = lab_cmd();
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", i == 17 ? "first" : name));
        assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    }
    gather_wait(&g);
    assert_int_equal(g.done, 39);
    assert_int_equal(g.taken, 1);
    assert_int_equal(g.failed, 0);
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM orgs_view WHERE name LIKE 'neighbour%'"), "39");
}

static void commands_for_one_row_keep_their_order(void **state)
{
    (void)state;
    struct gather g = {.left = 50};
    struct mt_err err = {0};
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    make_org("org_row", "row");
    for (int i = 0; i < 50; i++) {
        char mail[32];
        (void)snprintf(mail, sizeof mail, "m%d", i);
        struct mt_cmd *c = lab_cmd();
        lab_event(c, MT_EV_ORG_UPDATED, "org_row", "org_row", NULL, NULL, json_pack("{s:s}", "billing_email", mail));
        assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    }
    gather_wait(&g);
    assert_int_equal(g.done, 50);
    assert_string_equal(lab_text(&lab, "SELECT billing_email || ' ' || resource_version FROM orgs_view WHERE org_id = 'org_row'"), "m49 51");
    assert_string_equal(lab_text(&lab, "SELECT string_agg(payload->>'billing_email', ',' ORDER BY event_id) FROM events WHERE aggregate_id = 'org_row'"
                                       " AND aggregate_seq BETWEEN 2 AND 5"), "m0,m1,m2,m3");
}

/* The most that a batch can hold for one row. */
static void full_commands_for_one_row_fit_in_a_batch(void **state)
{
    (void)state;
    enum { COMMANDS = 24 };
    struct gather g = {.left = COMMANDS};
    struct mt_err err = {0};
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    make_org("org_full", "full");
    for (int i = 0; i < COMMANDS; i++) {
        struct mt_cmd *c = lab_cmd();
        for (int k = 0; k < MT_CMD_EVENTS_MAX; k++) {
            char mail[32];
            (void)snprintf(mail, sizeof mail, "m%d-%d", i, k);
            lab_event(c, MT_EV_ORG_UPDATED, "org_full", "org_full", NULL, NULL, json_pack("{s:s}", "billing_email", mail));
        }
        assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    }
    gather_wait(&g);
    assert_int_equal(g.done, COMMANDS);
    assert_string_equal(lab_text(&lab, "SELECT billing_email || ' ' || resource_version FROM orgs_view WHERE org_id = 'org_full'"), "m23-255 6145");
}

struct worker {
    pthread_t thread;
    int n;
    struct mt_appender *ap;
    int64_t last;
    _Atomic bool failed;
};

/* A later event of the aggregate just made: its number comes from the appender's memory. */
static bool update_own(struct mt_appender *ap, const char *id)
{
    struct mt_cmd *c = NULL;
    struct mt_err err = {0};
    struct mt_cmd_done done;
    const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_w", .request_id = "req_w"};
    bool ok = mt_cmd_new(&actor, &c, &err) == 0 &&
              mt_cmd_event(c, MT_EV_ORG_UPDATED, id, &(struct mt_cmd_ids){.org_id = id}, json_pack("{s:s}", "billing_email", id), &err) == 0 &&
              mt_cmd_rely(c, MT_RELY_ORG, id, NULL, 1, &err) == 0 && mt_append(ap, c, 10000, &done, &err) == 0;
    if (ok)
        mt_cmd_done_free(&done);
    return ok;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 50; i++) {
        char id[32];
        struct mt_cmd *c = NULL;
        struct mt_err err = {0};
        struct mt_cmd_done done;
        const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_w", .request_id = "req_w"};
        (void)snprintf(id, sizeof id, "org_w%d_%d", w->n, i);
        if (mt_cmd_new(&actor, &c, &err) < 0 ||
            mt_cmd_event(c, MT_EV_ORG_CREATED, id, &(struct mt_cmd_ids){.org_id = id}, json_pack("{s:s}", "name", id), &err) < 0 ||
            mt_append(w->ap, c, 10000, &done, &err) < 0 || done.event_id <= w->last ||
            !update_own(w->ap, id))
            w->failed = true;
        w->last = done.event_id;
        mt_cmd_done_free(&done);
    }
    return NULL;
}

static void threads_share_batches_and_ids_have_no_gaps(void **state)
{
    (void)state;
    struct worker w[16];
    struct mt_appender_stats before, after;
    mt_appender_stats(lab.ap, &before);
    for (int i = 0; i < 16; i++) {
        w[i] = (struct worker){.n = i, .ap = lab.ap};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 16; i++) {
        (void)pthread_join(w[i].thread, NULL);
        assert_false(w[i].failed);
    }
    mt_appender_stats(lab.ap, &after);
    assert_int_equal(after.commands - before.commands, 1600);
    assert_true(after.batches - before.batches < 1600 / 2);
    assert_true(after.lock_takes - before.lock_takes == after.batches - before.batches);
    assert_true(after.overlapped > before.overlapped); /* both lanes were in use */
    assert_string_equal(lab_text(&lab, "SELECT (max(event_id) = count(*) AND max(event_id) = (SELECT last_event_id FROM event_counter))::text FROM events"),
                        "true");
}

/* With batches of one, a flight in the air makes the appender sleep in the one way and its landing in the other. A command
 * that comes only then must wake it; a lost wake-up is a timeout. */
static void a_command_after_a_landing_wakes_the_appender(void **state)
{
    (void)state;
    struct mt_appender *small = NULL;
    struct mt_err err = {0};
    const struct mt_appender_conf conf = {.pg = {.conninfo = lab.sc.control, .role = "moat_projector"}, .batch_max = 1};
    assert_int_equal(mt_appender_new(&conf, &small, &err), 0);
    int r = 0;
    for (int i = 0; i < 10 && r == 0; i++) {
        char id[32];
        struct mt_cmd_done done;
        struct mt_cmd *c = lab_cmd();
        (void)snprintf(id, sizeof id, "org_late%d", i);
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
        r = mt_append(small, c, 3000, &done, &err);
        mt_cmd_done_free(&done);
        usleep(20000);
    }
    mt_appender_free(small);
    assert_int_equal(r, 0);
}

static json_t *route(const char *host, int port, const char *proto)
{
    return json_pack("{s:s,s:i,s:s,s:s,s:s,s:i,s:s,s:b,s:b,s:{s:i,s:s},s:s}", "hostname", host, "listen_port", port, "protocol", proto, "address_scope", "shared6",
                     "backend_process_type", "web", "backend_port", 8443, "proxy_protocol", "off", "backend_expects_proxy_protocol", 0, "ipv4_required", 0,
                     "options", "max_connections", 100, "balance", "least_conn", "managed_by", "api");
}

static struct mt_cmd *raw_route(const char *id, int port)
{
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ROUTE_CREATED, id, "org_y", "app_y", "env_y", route(id, port, "tcp_raw"));
    return c;
}

static void await_text(const char *sql, const char *want)
{
    for (int i = 0; i < 1000 && strcmp(lab_text(&lab, sql), want) != 0; i++)
        usleep(2000);
    assert_string_equal(lab_text(&lab, sql), want);
}

/* An older batch that waits for a row of a younger one would wait for ever: the younger commits after it. Here the older one
 * is held up by a row lock of ours until the younger has taken the port that the older one wants too. */
static void a_younger_batch_gives_way_to_the_older(void **state)
{
    (void)state;
    struct gather g = {.left = 2};
    struct mt_err err = {0};
    struct mt_appender_stats before, after;
    mt_auto_pg struct mt_pg *holder = NULL;
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    make_org("org_y", "yield");
    for (int i = 0; i < 10; i++) { /* past the look-ups first that a failed guard orders */
        struct mt_cmd *c = lab_cmd();
        lab_event(c, MT_EV_ORG_UPDATED, "org_y", "org_y", NULL, NULL, json_pack("{s:s}", "billing_email", "x"));
        (void)lab_done(&lab, c);
    }
    mt_appender_stats(lab.ap, &before);
    assert_int_equal(mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.super}, &holder, &err), 0);
    assert_int_equal(mt_pg_exec(holder, "BEGIN; UPDATE orgs_view SET suspended = suspended WHERE org_id = 'org_y'", &err), 0);
    struct mt_cmd *older = raw_route("rt_older", 7001);
    lab_event(older, MT_EV_ORG_UPDATED, "org_y", "org_y", NULL, NULL, json_pack("{s:s}", "billing_email", "older"));
    assert_int_equal(mt_append_async(lab.ap, older, on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND wait_event_type = 'Lock'", "1");
    assert_int_equal(mt_append_async(lab.ap, raw_route("rt_younger", 7001), on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND state = 'idle in transaction'", "1");
    assert_int_equal(mt_pg_exec(holder, "COMMIT", &err), 0);
    gather_wait(&g);
    mt_appender_stats(lab.ap, &after);
    assert_int_equal(g.done, 1);
    assert_int_equal(g.taken, 1);
    assert_true(after.yielded == before.yielded + 1);
    assert_string_equal(lab_text(&lab, "SELECT string_agg(route_id, ',') FROM routes_view WHERE env_id = 'env_y'"), "rt_older");
    assert_string_equal(lab_text(&lab, "SELECT (max(event_id) = count(*) AND max(event_id) = (SELECT last_event_id FROM event_counter))::text FROM events"),
                        "true");
}

/* What a batch on its way writes, the next one has to see: it is not sent beside it. */
static void a_command_waits_for_the_row_that_is_on_its_way(void **state)
{
    (void)state;
    struct gather g = {.left = 3};
    struct mt_err err = {0};
    struct mt_appender_stats before, after;
    mt_auto_pg struct mt_pg *holder = NULL;
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    make_org("org_z", "zeal");
    make_org("org_z2", "zest");
    mt_appender_stats(lab.ap, &before);
    assert_int_equal(mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.super}, &holder, &err), 0);
    assert_int_equal(mt_pg_exec(holder, "BEGIN; UPDATE orgs_view SET suspended = suspended WHERE org_id = 'org_z'", &err), 0);
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_z", "org_z", NULL, NULL, json_pack("{s:s}", "billing_email", "one"));
    assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND wait_event_type = 'Lock'", "1");
    c = lab_cmd(); /* relies on the row as the command before leaves it */
    lab_event(c, MT_EV_ORG_UPDATED, "org_z", "org_z", NULL, NULL, json_pack("{s:s}", "billing_email", "two"));
    assert_int_equal(mt_cmd_rely(c, MT_RELY_ORG, "org_z", NULL, 2, &err), 0);
    assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    c = lab_cmd(); /* has nothing to do with it, goes at once */
    lab_event(c, MT_EV_ORG_UPDATED, "org_z2", "org_z2", NULL, NULL, json_pack("{s:s}", "billing_email", "three"));
    assert_int_equal(mt_append_async(lab.ap, c, on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND state = 'idle in transaction'", "1");
    assert_int_equal(mt_pg_exec(holder, "COMMIT", &err), 0);
    gather_wait(&g);
    mt_appender_stats(lab.ap, &after);
    assert_int_equal(g.done, 3);
    assert_int_equal(after.stale - before.stale, 0);
    assert_string_equal(lab_text(&lab, "SELECT string_agg(payload->>'billing_email', ',' ORDER BY event_id) FROM events WHERE aggregate_id IN ('org_z', 'org_z2')"
                                       " AND aggregate_seq > 1"), "one,three,two");
}

/* Few events wait for the batch in the air and share the next one, unless that one does not end: then they go beside it. */
static void few_events_do_not_wait_for_a_batch_that_is_held_up(void **state)
{
    (void)state;
    struct gather g = {.left = 2};
    struct mt_err err = {0};
    struct mt_appender *usual = NULL;
    struct mt_appender_stats stats;
    mt_auto_pg struct mt_pg *holder = NULL;
    const struct mt_appender_conf conf = {.pg = {.conninfo = lab.sc.control, .role = "moat_projector"}};
    assert_int_equal(pthread_mutex_init(&g.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&g.all, NULL), 0);
    make_org("org_h", "held");
    make_org("org_h2", "free");
    assert_int_equal(mt_appender_new(&conf, &usual, &err), 0);
    for (int i = 0; i < 3; i++) { /* its first batch looks up; from then on it knows the head and the numbers of both */
        struct mt_cmd *c = lab_cmd();
        struct mt_cmd_done done;
        lab_event(c, MT_EV_ORG_UPDATED, "org_h", "org_h", NULL, NULL, json_pack("{s:s}", "billing_email", "x"));
        lab_event(c, MT_EV_ORG_UPDATED, "org_h2", "org_h2", NULL, NULL, json_pack("{s:s}", "billing_email", "x"));
        assert_int_equal(mt_append(usual, c, 10000, &done, &err), 0);
        mt_cmd_done_free(&done);
    }
    assert_int_equal(mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.super}, &holder, &err), 0);
    assert_int_equal(mt_pg_exec(holder, "BEGIN; UPDATE orgs_view SET suspended = suspended WHERE org_id = 'org_h'", &err), 0);
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_h", "org_h", NULL, NULL, json_pack("{s:s}", "billing_email", "held"));
    assert_int_equal(mt_append_async(usual, c, on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND wait_event_type = 'Lock'", "1");
    c = lab_cmd();
    lab_event(c, MT_EV_ORG_UPDATED, "org_h2", "org_h2", NULL, NULL, json_pack("{s:s}", "billing_email", "beside"));
    assert_int_equal(mt_append_async(usual, c, on_done, &g, &err), 0);
    await_text("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moat appender' AND state = 'idle in transaction'", "1");
    assert_int_equal(mt_pg_exec(holder, "COMMIT", &err), 0);
    gather_wait(&g);
    mt_appender_stats(usual, &stats);
    mt_appender_free(usual);
    assert_int_equal(g.done, 2);
    assert_int_equal(stats.overlapped, 1);
}

/* As a client does: the same key again until there is an answer. */
static void *insist(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 50; i++) {
        char id[32];
        int r = -1;
        (void)snprintf(id, sizeof id, "org_w%d_%d", w->n, i);
        for (int try = 0; try < 50 && r < 0; try++) {
            struct mt_cmd *c = NULL;
            struct mt_err err = {0};
            struct mt_cmd_done done;
            const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_w", .request_id = "req_w"};
            if (mt_cmd_new(&actor, &c, &err) < 0 ||
                mt_cmd_event(c, MT_EV_ORG_CREATED, id, &(struct mt_cmd_ids){.org_id = id}, json_pack("{s:s}", "name", id), &err) < 0 ||
                mt_cmd_idempotency(c, "-", "usr_w", "POST /v1/orgs", id, (const uint8_t[32]){7}, &err) < 0)
                break;
            r = mt_append(w->ap, c, 10000, &done, &err);
            mt_cmd_done_free(&done);
            if (r < 0 && err.code != MT_E_UNAVAILABLE && err.code != MT_E_TIMEOUT)
                break;
            if (r < 0)
                usleep(20000);
        }
        w->failed |= r < 0;
    }
    return NULL;
}

/* One connection goes, the other stays, at any step of a batch: each command is written once, and its caller hears of it. */
static void a_lost_lane_loses_nothing(void **state)
{
    (void)state;
    struct worker w[8];
    for (int i = 0; i < 8; i++) {
        w[i] = (struct worker){.n = 300 + i, .ap = lab.ap};
        assert_int_equal(pthread_create(&w[i].thread, NULL, insist, &w[i]), 0);
    }
    for (int i = 0; i < 12; i++) {
        usleep(15000);
        (void)lab_text(&lab, "SELECT count(pg_terminate_backend(pid))::text FROM (SELECT pid FROM pg_stat_activity"
                             " WHERE application_name = 'moat appender' AND state <> 'idle' ORDER BY random() LIMIT 1) one");
    }
    for (int i = 0; i < 8; i++) {
        (void)pthread_join(w[i].thread, NULL);
        assert_false(w[i].failed);
    }
    assert_string_equal(lab_text(&lab, "SELECT (max(event_id) = count(*) AND max(event_id) = (SELECT last_event_id FROM event_counter))::text FROM events"),
                        "true");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM events WHERE aggregate_id LIKE 'org\\_w3__\\_%'"), "400");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM orgs_view WHERE name LIKE 'org\\_w3__\\_%' AND resource_version = 1"), "400");
}

static void two_appenders_take_turns_without_gaps(void **state)
{
    (void)state;
    struct worker w[8];
    struct mt_appender *other = NULL;
    struct mt_err err = {0};
    const struct mt_appender_conf conf = {.pg = {.conninfo = lab.sc.control, .role = "moat_projector"}, .lane_events = 1};
    assert_int_equal(mt_appender_new(&conf, &other, &err), 0);
    for (int i = 0; i < 8; i++) {
        w[i] = (struct worker){.n = 100 + i, .ap = i % 2 ? other : lab.ap};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        (void)pthread_join(w[i].thread, NULL);
        assert_false(w[i].failed);
    }
    mt_appender_free(other);
    assert_string_equal(lab_text(&lab, "SELECT (max(event_id) = count(*) AND max(event_id) = (SELECT last_event_id FROM event_counter))::text FROM events"),
                        "true");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM orgs_view WHERE name LIKE 'org\\_w1__\\_%' AND resource_version = 2"), "400");
}

/* ---- all projections ---- */

static void walk_of_all_event_types(void **state)
{
    (void)state;
    const char *o = "org_p", *a = "app_p", *e = "env_p";
    json_t *manifest = json_pack("{s:{s:{},s:{}}}", "processes", "worker", "web");
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, o, o, NULL, NULL, json_pack("{s:s}", "name", "projections"));
    lab_event(c, MT_EV_USER_CREATED, "usr_p", NULL, NULL, NULL, json_pack("{s:s,s:b}", "email", "p@example.org", "is_operator", 1));
    lab_event(c, MT_EV_PROJECT_CREATED, "prj_p", o, NULL, NULL, json_pack("{s:s}", "name", "p"));
    lab_event(c, MT_EV_APP_CREATED, a, o, a, NULL, json_pack("{s:s,s:s,s:s}", "name", "web", "description", "d", "project_id", "prj_p"));
    lab_event(c, MT_EV_ENV_CREATED, e, o, a, e, json_pack("{s:s}", "name", "prod"));
    lab_event(c, MT_EV_RELEASE_CREATED, "rel_p", o, a, NULL,
              json_pack("{s:i,s:s,s:s,s:s,s:[{s:s,s:s,s:s}],s:b,s:s,s:o}", "number", 1, "image_ref", "r/i:1", "image_digest", "sha256:aa", "image_kind",
                        "manifest", "platforms", "os", "linux", "arch", "amd64", "digest", "sha256:aa", "image_verified", 1, "manifest_hash", "sha256:bb",
                        "manifest", manifest));
    lab_event(c, MT_EV_NODE_ENROLLED, "node_p", NULL, NULL, NULL,
              json_pack("{s:s,s:[s,s],s:s,s:s,s:s,s:s,s:s,s:{s:s},s:{s:i},s:s}", "name", "n1", "roles", "worker", "edge", "arch", "amd64",
                        "wireguard_public_key", "k", "cert_fingerprint", "f", "overlay_ipv6", "fd00::1", "instance_prefix", "fd00:1::/64", "labels", "zone",
                        "a", "capacity", "memory_bytes", 1024, "enrollment_token_id", "enr_1"));
    (void)lab_done(&lab, c);

    c = lab_cmd();
    struct mt_err err = {0};
    assert_int_equal(mt_cmd_cause(c, "dep_p", 1, &err), 0);
    lab_event(c, MT_EV_DEPLOY_CREATED, "dep_p", o, a, e,
              json_pack("{s:s,s:s,s:{s:s},s:[s,s],s:s,s:s,s:i,s:{}}", "kind", "deploy", "release_id", "rel_p", "release_ids", "web", "rel_p", "process_types",
                        "web", "worker", "strategy", "rolling", "on_failure", "hold", "timeout_seconds", 900, "previous_release_ids"));
    lab_event(c, MT_EV_ENV_DESIRED_RELEASE_SET, e, o, a, e, json_pack("{s:s,s:s,s:s}", "process_type", "web", "release_id", "rel_p", "deploy_id", "dep_p"));
    lab_event(c, MT_EV_ENV_DESIRED_RELEASE_SET, e, o, a, e,
              json_pack("{s:s,s:s,s:s}", "process_type", "worker", "release_id", "rel_p", "deploy_id", "dep_p"));
    lab_event(c, MT_EV_ENV_SCALE_SET, e, o, a, e, json_pack("{s:[{s:s,s:i}]}", "scales", "process_type", "web", "desired", 3));
    lab_event(c, MT_EV_ENV_SCALE_SET, e, o, a, e, json_pack("{s:[{s:s,s:i}]}", "scales", "process_type", "web", "desired", 4));
    lab_event(c, MT_EV_ENV_RESTART_REQUESTED, e, o, a, e, json_pack("{s:[s],s:s}", "process_types", "web", "deploy_id", "dep_p"));
    lab_event(c, MT_EV_ENV_REBALANCE_REQUESTED, e, o, a, e, json_pack("{s:[s]}", "process_types", "web"));
    lab_event(c, MT_EV_ENV_SCHEDULING_CHANGED, e, o, a, e,
              json_pack("{s:s,s:s,s:s,s:s}", "process_type", "web", "condition", "blocked", "reason", "retry_backoff", "next_try_at",
                        "2026-01-01T00:00:07Z"));
    lab_event(c, MT_EV_ENV_SCHEDULING_CHANGED, e, o, a, e,
              json_pack("{s:s,s:s,s:s,s:s}", "process_type", "web", "condition", "blocked", "reason", "no_capacity_memory", "target_spec", "t0"));
    lab_event(c, MT_EV_ENV_SCHEDULING_CHANGED, e, o, a, e, /* another target: blocked since the one before it */
              json_pack("{s:s,s:s,s:s,s:s}", "process_type", "web", "condition", "blocked", "reason", "no_capacity_memory", "target_spec", "t1"));
    lab_event(c, MT_EV_ENV_DESIRED_RELEASE_CLEARED, e, o, a, e, json_pack("{s:s,s:s}", "process_type", "worker", "deploy_id", "dep_p"));
    lab_event(c, MT_EV_DEPLOY_STATUS_CHANGED, "dep_p", o, a, e, json_pack("{s:s}", "status", "rolling"));
    lab_event(c, MT_EV_DEPLOY_STATUS_CHANGED, "dep_p", o, a, e, json_pack("{s:s,s:s}", "status", "failed", "failed_reason", "timeout"));
    (void)lab_done(&lab, c);
    assert_string_equal(lab_text(&lab, "SELECT release_id || ' ' || desired_user || ' ' || restart_generation || ' ' || rebalance_generation || ' ' ||"
                                       " sched_condition || ' ' || sched_reason || ' ' || target_spec || ' ' || resource_version FROM env_desired_view"
                                       " WHERE env_id = 'env_p' AND process_type = 'web'"),
                        "rel_p 4 1 1 blocked no_capacity_memory t1 8");
    assert_string_equal(lab_text(&lab, "SELECT (sched_since = (SELECT occurred_at FROM events WHERE event_type = 'env.scheduling_changed' AND payload->>'target_spec' = 't0'))"
                                       " || ' ' || (sched_next_at IS NULL) FROM env_desired_view WHERE env_id = 'env_p' AND process_type = 'web'"),
                        "true true");
    assert_string_equal(lab_text(&lab, "SELECT (release_id IS NULL)::text || resource_version FROM env_desired_view WHERE process_type = 'worker'"), "true2");
    assert_string_equal(lab_text(&lab, "SELECT status || ' ' || failed_reason || ' ' || (finished_at IS NOT NULL) || ' ' ||"
                                       " (deadline_at - created_at)::text || array_to_string(process_types, '+') FROM deploys_view"),
                        "failed timeout true 00:15:00web+worker");
    assert_string_equal(lab_text(&lab, "SELECT array_to_string(process_types, ',') || number || created_by FROM releases_view"), "web,worker1usr_1");
    assert_string_equal(lab_text(&lab, "SELECT next_release_number || ' ' || resource_version FROM apps_view WHERE app_id = 'app_p'"), "2 2");
    assert_string_equal(lab_text(&lab, "SELECT correlation_id || causation_id FROM events WHERE event_type = 'deploy.created'"), "dep_p1");

    c = lab_cmd();
    lab_event(c, MT_EV_INSTANCE_ALLOCATED, "inst_p", o, a, e,
              json_pack("{s:s,s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", "web", "node_id", "node_p", "release_id", "rel_p", "deploy_id",
                        "dep_p", "overlay_ipv6", "fd00:1::1", "resources", "cpu_millis", 500, "memory_bytes", 1 << 30, "disk_bytes", 1 << 30, "arch", "amd64",
                        "image_digest", "sha256:aa", "spec_hash", "s1", "generation", 1));
    lab_event(c, MT_EV_INSTANCE_STATUS_CHANGED, "inst_p", o, a, e,
              json_pack("{s:s,s:s,s:s,s:i,s:s}", "node_id", "node_p", "status", "starting", "boot_id", "boot_1", "restart_count", 0, "reported_at",
                        "2026-01-01T00:00:00Z"));
    lab_event(c, MT_EV_INSTANCE_STATUS_CHANGED, "inst_p", o, a, e,
              json_pack("{s:s,s:s,s:i,s:s}", "node_id", "node_p", "status", "ready", "restart_count", 0, "reported_at", "2026-01-01T00:00:00Z"));
    lab_event(c, MT_EV_INSTANCE_DESIRED_STATE_CHANGED, "inst_p", o, a, e,
              json_pack("{s:s,s:i,s:s}", "desired_state", "draining", "grace_seconds", 10, "reason", "replaced"));
    lab_event(c, MT_EV_INSTANCE_STATUS_CHANGED, "inst_p", o, a, e,
              json_pack("{s:s,s:s,s:i,s:s,s:i,s:s}", "node_id", "node_p", "status", "stopped", "exit_code", 143, "reason_code", "completed", "restart_count", 0,
                        "reported_at", "2026-01-01T00:00:00Z"));
    lab_event(c, MT_EV_INSTANCE_RELEASED, "inst_p", o, a, e, json_pack("{s:s}", "overlay_ipv6", "fd00:1::1"));
    (void)lab_done(&lab, c);
    assert_string_equal(lab_text(&lab, "SELECT status || ' ' || desired_state || ' ' || desired_reason || ' ' || boot_id || ' ' || exit_code || ' ' ||"
                                       " reason_code || ' ' || grace_seconds || ' ' || (ready_at IS NOT NULL AND started_at IS NOT NULL AND released_at"
                                       " IS NOT NULL) || ' ' || resource_version FROM instances_view"),
                        "stopped draining replaced boot_1 143 completed 10 true 6");

    c = lab_cmd();
    lab_event(c, MT_EV_NODE_ADMIN_STATE_CHANGED, "node_p", NULL, NULL, NULL, json_pack("{s:s,s:s}", "old", "enrolled", "new", "active"));
    lab_event(c, MT_EV_NODE_HEALTH_CHANGED, "node_p", NULL, NULL, NULL,
              json_pack("{s:s,s:s,s:[s]}", "old", "ready", "new", "degraded", "conditions", "disk_pressure"));
    lab_event(c, MT_EV_NODE_UPDATED, "node_p", NULL, NULL, NULL,
              json_pack("{s:{s:s},s:i,s:{s:i},s:s}", "labels", "zone", "b", "mtu", 1420, "allocatable", "memory_bytes", 512, "agent_version", "1"));
    lab_event(c, MT_EV_NODE_CONFIG_SET, "node_p", NULL, NULL, NULL, json_pack("{s:{s:i},s:{},s:s}", "changed", "rate", 5, "previous", "reason", "r"));
    lab_event(c, MT_EV_CLUSTER_CONFIG_SET, "cluster", NULL, NULL, NULL, json_pack("{s:s,s:i,s:s}", "key", "mtu", "value", 1400, "reason", "r"));
    lab_event(c, MT_EV_CLUSTER_CONFIG_SET, "cluster", NULL, NULL, NULL, json_pack("{s:s,s:i,s:s}", "key", "mtu", "value", 1420, "reason", "r"));
    lab_event(c, MT_EV_CLUSTER_CONFIG_SET, "cluster", NULL, NULL, NULL, json_pack("{s:s,s:n,s:s}", "key", "pause", "value", "reason", "r"));
    (void)lab_done(&lab, c);
    assert_string_equal(lab_text(&lab, "SELECT admin_state || ' ' || health || ' ' || conditions[1] || ' ' || labels::text || ' ' || mtu || ' ' ||"
                                       " allocatable::text || ' ' || config::text || ' ' || resource_version FROM nodes_view"),
                        "active degraded disk_pressure {\"zone\": \"b\"} 1420 {\"memory_bytes\": 512} {\"rate\": 5} 5");
    assert_string_equal(lab_text(&lab, "SELECT string_agg(key || '=' || value::text || ':' || resource_version, ' ' ORDER BY key) FROM cluster_view"),
                        "mtu=1420:2 pause=null:1");

    c = lab_cmd();
    lab_event(c, MT_EV_USER_UPDATED, "usr_p", NULL, NULL, NULL, json_pack("{s:s,s:s}", "display_name", "P", "state", "disabled"));
    lab_event(c, MT_EV_ORG_SUSPENDED, o, o, NULL, NULL, json_pack("{s:s}", "reason", "unpaid"));
    lab_event(c, MT_EV_ORG_RESUMED, o, o, NULL, NULL, json_pack("{s:s}", "reason", "paid"));
    lab_event(c, MT_EV_PROJECT_UPDATED, "prj_p", o, NULL, NULL, json_pack("{s:s}", "name", "q"));
    lab_event(c, MT_EV_APP_UPDATED, a, o, a, NULL, json_pack("{s:n,s:n}", "description", "project_id"));
    lab_event(c, MT_EV_PROJECT_DELETED, "prj_p", o, NULL, NULL, NULL);
    lab_event(c, MT_EV_ENV_UPDATED, e, o, a, e, json_pack("{s:b,s:{s:s}}", "protected", 1, "label_selector", "zone", "b"));
    lab_event(c, MT_EV_ENV_UPDATED, e, o, a, e, json_pack("{s:n,s:i}", "label_selector", "backup_interval_seconds", 60));
    lab_event(c, MT_EV_ENV_DELETED, e, o, a, e, json_pack("{s:b}", "cascade", 1));
    lab_event(c, MT_EV_APP_DELETED, a, o, a, NULL, json_pack("{s:b}", "cascade", 1));
    lab_event(c, MT_EV_ORG_DELETED, o, o, NULL, NULL, NULL);
    lab_event(c, MT_EV_NODE_REMOVED, "node_p", NULL, NULL, NULL, json_pack("{s:s}", "reason", "old"));
    (void)lab_done(&lab, c);
    assert_string_equal(lab_text(&lab, "SELECT o.deleted::text || o.suspended || o.resource_version || a.deleted || (a.description IS NULL) || a.resource_version ||"
                                       " e.deleted || e.protected || (e.label_selector IS NULL) || e.backup_interval_seconds || p.name || p.deleted || u.state ||"
                                       " n.admin_state FROM orgs_view o, apps_view a, envs_view e, projects_view p, users_view u, nodes_view n"
                                       " WHERE o.org_id = 'org_p' AND a.app_id = 'app_p' AND e.env_id = 'env_p'"),
                        "truefalse4truetrue4truetruetrue60qtruedisabledremoved");
}

static int try_route(const char *id, const char *env, const char *host, int port, const char *proto, char constraint[64])
{
    struct mt_cmd_done done;
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ROUTE_CREATED, id, "org_r", "app_r", env, route(host, port, proto));
    int r = mt_append(lab.ap, c, 5000, &done, &err);
    memcpy(constraint, done.constraint, 64);
    mt_cmd_done_free(&done);
    return r;
}

static void a_hostname_belongs_to_one_env(void **state)
{
    (void)state;
    char why[64];
    assert_int_equal(try_route("rt_1", "env_r1", "a.example", 443, "tls_passthrough", why), 0);
    assert_int_equal(try_route("rt_2", "env_r1", "a.example", 8443, "tls_passthrough", why), 0);
    assert_int_equal(try_route("rt_3", "env_r1", "a.example", 443, "tls_passthrough", why), -MT_E_CONFLICT);
    assert_string_equal(why, "routes_view_hostname_live");
    assert_int_equal(try_route("rt_4", "env_r2", "a.example", 9443, "tls_passthrough", why), -MT_E_CONFLICT);
    assert_string_equal(why, "hostname_owners_view_one_env");
    assert_int_equal(try_route("rt_5", "env_r2", "raw.example", 5432, "tcp_raw", why), 0);
    assert_int_equal(try_route("rt_6", "env_r1", "raw.example", 5432, "tcp_raw", why), -MT_E_CONFLICT);
    assert_string_equal(why, "routes_view_port_live");
    assert_string_equal(lab_text(&lab, "SELECT env_id || route_count FROM hostname_owners_view WHERE hostname = 'a.example'"), "env_r12");
    struct mt_cmd *c = lab_cmd(); /* free both, then another env takes the name, in one command */
    lab_event(c, MT_EV_ROUTE_DELETED, "rt_1", "org_r", "app_r", "env_r1", json_pack("{s:s,s:i}", "hostname", "a.example", "listen_port", 443));
    lab_event(c, MT_EV_ROUTE_DELETED, "rt_2", "org_r", "app_r", "env_r1", json_pack("{s:s,s:i}", "hostname", "a.example", "listen_port", 8443));
    lab_event(c, MT_EV_ROUTE_CREATED, "rt_7", "org_r", "app_r", "env_r2", route("a.example", 443, "tls_passthrough"));
    lab_event(c, MT_EV_ROUTE_UPDATED, "rt_7", "org_r", "app_r", "env_r2", json_pack("{s:n,s:b}", "max_connections", "disabled", 1));
    (void)lab_done(&lab, c);
    assert_string_equal(lab_text(&lab, "SELECT env_id || route_count FROM hostname_owners_view WHERE hostname = 'a.example'"), "env_r21");
    assert_string_equal(lab_text(&lab, "SELECT balance || disabled || (max_connections IS NULL) FROM routes_view WHERE route_id = 'rt_7'"), "least_conntruetrue");
}

static void replaying_events_changes_nothing(void **state)
{
    (void)state;
    static const struct mt_pg_stmt st_types = {"test_types", "SELECT event_type FROM events ORDER BY event_id"};
    mt_auto_pg_res struct mt_pg_res *types = NULL;
    struct mt_err err = {0};
    char before[64], after[64];
    int64_t head = 0;
    assert_int_equal(mt_log_position(lab.pg, &head, NULL, &err), 0);
    const char *sum = "SELECT md5((SELECT string_agg(t::text, '' ORDER BY app_id) FROM apps_view t) || (SELECT string_agg(t::text, '' ORDER BY hostname) FROM"
                      " hostname_owners_view t) || (SELECT string_agg(t::text, '' ORDER BY instance_id) FROM instances_view t) ||"
                      " (SELECT string_agg(t::text, '' ORDER BY env_id, process_type) FROM env_desired_view t))";
    (void)snprintf(before, sizeof before, "%s", lab_text(&lab, sum));
    assert_int_equal(mt_pg_query(lab.pg, &st_types, NULL, &types, &err), 0);
    assert_int_equal(mt_pg_rows(types), head);
    assert_int_equal(mt_pg_pipe_enter(lab.pg, &err), 0);
    /* One by one, each by the statements of its own type; for some by all, of which those of other types find nothing. All for each of
     * 9,000 events would take minutes. */
    for (int64_t id = 1; id <= head; id++) {
        enum mt_ev ev = mt_ev_by_name(mt_pg_text(types, (int)id - 1, 0));
        assert_true(ev < MT_EV_MAX);
        if (mt_proj_send_again(lab.pg, id % 64 == 0 ? MT_EV_ALL : MT_EV_BIT(ev), id, id, &err) < 0 || mt_pg_pipe_sync(lab.pg, NULL, 0, &err) < 0)
            fail_msg("%s", err.msg);
    }
    assert_int_equal(mt_pg_pipe_leave(lab.pg, &err), 0);
    (void)snprintf(after, sizeof after, "%s", lab_text(&lab, sum));
    assert_string_equal(before, after);
}

/* ---- reading ---- */

static void pages_filter_and_go_on_past_what_they_skip(void **state)
{
    (void)state;
    struct mt_log_page page;
    struct mt_err err = {0};
    int64_t cursor = 0, head = 0, real = 0, epoch = 0;
    assert_int_equal(mt_log_position(lab.pg, &real, &epoch, &err), 0);
    assert_int_equal(epoch, 1);
    const char *types[] = {"deploy.*", "env.scale_set"};
    const struct mt_log_filter f = {.org_id = "org_p", .event_types = types, .n_event_types = 2};
    assert_int_equal(mt_log_read(lab.pg, &f, 0, 2, &page, &cursor, &head, &err), 0);
    assert_int_equal(page.n, 2);
    struct mt_log_event e;
    mt_log_page_get(&page, 1, &e);
    assert_string_equal(e.event_type, "env.scale_set");
    assert_true(cursor == e.event_id);
    mt_log_page_done(&page);
    assert_int_equal(mt_log_read(lab.pg, &f, cursor, 100, &page, &cursor, &head, &err), 0);
    assert_int_equal(page.n, 3);
    assert_true(cursor == head && head == real);
    mt_log_page_done(&page);
    const struct mt_log_filter all = {.tenant_only = true, .desc = true};
    assert_int_equal(mt_log_read(lab.pg, &all, 0, 10, &page, &cursor, &head, &err), 0);
    mt_log_page_get(&page, 0, &e);
    assert_true(e.event_id == head);
    mt_log_page_done(&page);
    const struct mt_log_filter nodes = {.tenant_only = true, .event_type = "node.*"};
    assert_int_equal(mt_log_read(lab.pg, &nodes, 0, 10, &page, &cursor, &head, &err), 0);
    assert_int_equal(page.n, 0);
    mt_log_page_done(&page);
    const struct mt_log_filter bad = {.event_type = "x' OR 1=1"};
    assert_int_equal(mt_log_read(lab.pg, &bad, 0, 10, &page, &cursor, &head, &err), -MT_E_INVALID);
    assert_int_equal(mt_log_get(lab.pg, 1, &page, &err), 0);
    mt_log_page_get(&page, 0, &e);
    struct mt_buf b = MT_BUF_INIT(4096);
    mt_log_event_json(&e, "made", &b);
    json_t *j = json_loads(mt_buf_cstr(&b), 0, NULL);
    mt_buf_done(&b);
    mt_log_page_done(&page);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "actor"), "id")), "usr_1");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "payload"), "name")), "first");
    assert_null(json_object_get(j, "app_id"));
    json_decref(j);
    assert_int_equal(mt_log_get(lab.pg, 99999999, &page, &err), -MT_E_NOT_FOUND);
}

static void the_application_cannot_change_the_log(void **state)
{
    (void)state;
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.control}, &pg, &err), 0);
    assert_int_equal(mt_pg_exec(pg, "UPDATE events SET actor_id = 'x'", &err), -MT_E_DENIED);
    assert_int_equal(mt_pg_exec(pg, "INSERT INTO orgs_view SELECT * FROM orgs_view", &err), -MT_E_DENIED);
    assert_int_equal(mt_pg_exec(pg, "SET ROLE moat_projector; DELETE FROM events", &err), -MT_E_DENIED);
    mt_pg_free(pg);
    assert_int_equal(mt_pg_exec(lab.pg, "UPDATE events SET actor_id = 'x' WHERE event_id = 1", &err), -MT_E_CONFLICT);
    assert_int_equal(mt_pg_exec(lab.pg, "TRUNCATE events CASCADE", &err), -MT_E_CONFLICT);
}

static void side_writes_decide_with_their_counts(void **state)
{
    (void)state;
    static const struct mt_pg_stmt st = {"t_ipam", "INSERT INTO ipam_counters VALUES ($1, $2) ON CONFLICT (node_id) DO UPDATE SET next_address = excluded.next_address"
                                                   " WHERE ipam_counters.next_address = excluded.next_address - 1"};
    struct mt_cmd_done done;
    struct mt_err err = {0};
    static const int next[] = {5, 6, 9};
    for (int i = 0; i < 3; i++) {
        char id[16];
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        (void)snprintf(id, sizeof id, "node_%d", 7);
        mt_pg_p_text(&p, id);
        mt_pg_p_i64(&p, next[i]);
        struct mt_cmd *c = lab_cmd();
        (void)snprintf(id, sizeof id, "org_side%d", i);
        lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
        assert_int_equal(mt_cmd_side(c, &st, &p, 1, &err), 0);
        int r = mt_append(lab.ap, c, 5000, &done, &err);
        mt_cmd_done_free(&done);
        assert_int_equal(r, i < 2 ? 0 : -MT_E_CONFLICT);
    }
    assert_string_equal(lab_text(&lab, "SELECT next_address::text || (SELECT count(*) FROM orgs_view WHERE name LIKE 'org_side%') FROM ipam_counters"), "62");
}

static void a20_verify_accepts_the_log_and_names_a_flipped_byte(void **state)
{
    (void)state;
    struct mt_log_verdict v;
    struct mt_err err = {0};
    int64_t head = 0;
    assert_int_equal(mt_log_position(lab.pg, &head, NULL, &err), 0);
    assert_true(head > 6000); /* several ranges, by both readers */
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_string_equal(v.what, "");
    assert_true(v.events == head && v.head == head && v.bad_event_id == 0);
    static const struct {
        const char *flip, *back;
        int64_t id;
    } cases[] = {
        {"payload = '{\"name\": \"firsu\"}'", "payload = '{\"name\": \"first\"}'", 1},
        {"chain_hash = set_byte(chain_hash, 31, get_byte(chain_hash, 31) # 1)", "chain_hash = set_byte(chain_hash, 31, get_byte(chain_hash, 31) # 1)", 5},
        {"occurred_at = occurred_at + '1 microsecond'", "occurred_at = occurred_at - interval '1 microsecond'", 9},
        {"org_id = NULL", "org_id = aggregate_id", 1},
        {"causation_id = 3", "causation_id = NULL", 3},
        {"actor_type = 'owner'", "actor_type = 'operator'", 1},
        {"chain_hash = set_byte(chain_hash, 0, get_byte(chain_hash, 0) # 1)", "chain_hash = set_byte(chain_hash, 0, get_byte(chain_hash, 0) # 1)", 2049},
        {"payload = payload || '{\"more\": 1}'", "payload = payload - 'more'", 5000},
        {"event_id = 1000000", "event_id = 6", 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[400];
        (void)snprintf(sql, sizeof sql, "SET session_replication_role = replica; UPDATE events SET %s WHERE event_id = %lld; SET session_replication_role = origin",
                       cases[i].flip, (long long)cases[i].id);
        assert_int_equal(mt_pg_exec(lab.pg, sql, &err), 0);
        assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
        assert_int_equal(v.bad_event_id, cases[i].id);
        (void)snprintf(sql, sizeof sql, "SET session_replication_role = replica; UPDATE events SET %s WHERE event_id = %lld; SET session_replication_role = origin",
                       cases[i].back, (long long)(cases[i].id == 6 ? 1000000 : cases[i].id));
        assert_int_equal(mt_pg_exec(lab.pg, sql, &err), 0);
    }
    /* what the chain does not tell */
    assert_int_equal(mt_pg_exec(lab.pg, "CREATE TEMP TABLE beyond AS SELECT * FROM events WHERE event_id = 6;"
                                        " UPDATE beyond SET event_id = 1000001, aggregate_seq = 1000001; INSERT INTO events SELECT * FROM beyond", &err), 0);
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_int_equal(v.bad_event_id, 1000001);
    assert_int_equal(mt_pg_exec(lab.pg, "SET session_replication_role = replica; DELETE FROM events WHERE event_id = 1000001;"
                                        " SET session_replication_role = origin", &err), 0);
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_string_equal(v.what, "");
}

/* Last: it restarts the server. */
static void the_appender_comes_back_after_the_server_was_away(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    assert_int_equal(mt_pg_cluster_stop(&lab.sc.cluster, &lab.sc.conf, MT_PG_STOP_IMMEDIATE, 5000, &err), 0);
    assert_int_equal(mt_append(lab.ap, keyed_org("org_away", "away", "key-away", 1), 5000, &done, &err), -MT_E_UNAVAILABLE);
    assert_int_equal(mt_pg_cluster_up(&lab.sc.conf, 20000, &lab.sc.cluster, &err), 0);
    int r = -1;
    for (int i = 0; i < 100 && r < 0; i++) {
        r = mt_append(lab.ap, keyed_org("org_away", "away", "key-away", 1), 5000, &done, &err);
        mt_cmd_done_free(&done);
        if (r < 0)
            usleep(50000);
    }
    assert_int_equal(r, 0);
    assert_int_equal(mt_pg_reset(lab.pg, &err), 0);
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM orgs_view WHERE name = 'away'"), "1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_gets_ids_a_row_and_a_reply),
        cmocka_unit_test(the_same_key_replays_and_another_body_is_refused),
        cmocka_unit_test(a_changed_row_makes_a_command_stale),
        cmocka_unit_test(each_kind_of_reliance_is_asked_for),
        cmocka_unit_test(a_former_leader_appends_nothing),
        cmocka_unit_test(a_taken_name_is_reported_by_its_index),
        cmocka_unit_test(a_birth_happens_once_and_before_all_else),
        cmocka_unit_test(one_bad_command_does_not_harm_its_neighbours),
        cmocka_unit_test(commands_for_one_row_keep_their_order),
        cmocka_unit_test(full_commands_for_one_row_fit_in_a_batch),
        cmocka_unit_test(threads_share_batches_and_ids_have_no_gaps),
        cmocka_unit_test(a_command_after_a_landing_wakes_the_appender),
        cmocka_unit_test(a_younger_batch_gives_way_to_the_older),
        cmocka_unit_test(a_command_waits_for_the_row_that_is_on_its_way),
        cmocka_unit_test(few_events_do_not_wait_for_a_batch_that_is_held_up),
        cmocka_unit_test(a_lost_lane_loses_nothing),
        cmocka_unit_test(two_appenders_take_turns_without_gaps),
        cmocka_unit_test(walk_of_all_event_types),
        cmocka_unit_test(a_hostname_belongs_to_one_env),
        cmocka_unit_test(replaying_events_changes_nothing),
        cmocka_unit_test(pages_filter_and_go_on_past_what_they_skip),
        cmocka_unit_test(a_cause_is_an_earlier_event),
        cmocka_unit_test(the_application_cannot_change_the_log),
        cmocka_unit_test(side_writes_decide_with_their_counts),
        cmocka_unit_test(a20_verify_accepts_the_log_and_names_a_flipped_byte),
        cmocka_unit_test(the_appender_comes_back_after_the_server_was_away),
    };
    return cmocka_run_group_tests_name("eventlog-append", tests, up, down);
}
