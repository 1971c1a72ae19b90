/* SPDX-License-Identifier: Apache-2.0 */
/* Runs in the indexes by organisation and by environment: what is listed by them is what there is. */
#include "history.h"
#include "lab.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HISTORIES 6
#define HISTORY_EVENTS 400

static struct lab lab;

static void *live(void *arg)
{
    struct history *h = arg;
    struct mt_err err = {0};
    while (h->events < HISTORY_EVENTS) {
        struct mt_cmd *c = NULL;
        struct mt_cmd_done done;
        if (history_next(h, &c, &err) < 0 || mt_append(lab.ap, c, 30000, &done, &err) < 0) {
            print_error("%s\n", err.msg);
            return h;
        }
        mt_cmd_done_free(&done);
    }
    return NULL;
}

/* Organisations that live side by side, so that their events share batches. */
static int up(void **state)
{
    (void)state;
    static struct history h[HISTORIES];
    pthread_t t[HISTORIES];
    struct mt_err err = {0};
    int r = lab_up(&lab, &err);
    if (r < 0) {
        print_error("%s\n", err.msg);
        return r;
    }
    for (int i = 0; i < HISTORIES; i++) {
        char tag[16];
        (void)snprintf(tag, sizeof tag, "run%d", i);
        history_init(&h[i], tag, (uint64_t)i + 1);
        if (pthread_create(&t[i], NULL, live, &h[i]) != 0)
            return -1;
    }
    for (int i = 0; i < HISTORIES; i++) {
        void *failed = NULL;
        (void)pthread_join(t[i], &failed);
        r |= failed ? -1 : 0;
    }
    return r;
}

static int down(void **state)
{
    (void)state;
    lab_down(&lab);
    return 0;
}

/* Ids of a listing, page by page, as "1,2,3". */
static void list(const struct mt_log_filter *f, int64_t after, int limit, int pages_max, char *ret, size_t size)
{
    size_t at = 0;
    ret[0] = 0;
    for (int k = 0; k < pages_max; k++) {
        struct mt_log_page page;
        struct mt_err err = {0};
        int64_t head;
        if (mt_log_read(lab.pg, f, after, limit, &page, &after, &head, &err) < 0)
            fail_msg("%s", err.msg);
        int n = page.n;
        for (int i = 0; i < n; i++) {
            struct mt_log_event e;
            mt_log_page_get(&page, i, &e);
            at += (size_t)snprintf(ret + at, size - at, "%s%lld", at ? "," : "", (long long)e.event_id);
            assert_true(at < size);
        }
        mt_log_page_done(&page);
        if (n < limit)
            return;
    }
}

/* The same without pages and runs: events of $1 past $2, or the nine before it. */
static const struct mt_pg_stmt st_list_org = {"t_list_org", "SELECT string_agg(event_id::text, ',' ORDER BY event_id) FROM events WHERE org_id = $1 AND event_id > $2"};
static const struct mt_pg_stmt st_list_env = {"t_list_env", "SELECT string_agg(event_id::text, ',' ORDER BY event_id) FROM events WHERE env_id = $1 AND event_id > $2"};
static const struct mt_pg_stmt st_list_down = {
    "t_list_down", "SELECT string_agg(event_id::text, ',' ORDER BY event_id DESC) FROM"
                   " (SELECT event_id FROM events WHERE org_id = $1 AND event_id < $2 ORDER BY 1 DESC LIMIT 9) x"};
static const struct mt_pg_stmt st_busy_orgs = {"t_busy_orgs", "SELECT org_id FROM events WHERE org_id IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 40"};
static const struct mt_pg_stmt st_busy_envs = {"t_busy_envs", "SELECT env_id FROM events WHERE env_id IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 40"};

static void list_plainly(const struct mt_pg_stmt *st, const char *id, int64_t from, char *ret, size_t size)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    struct mt_err err = {0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_i64(&p, from);
    if (mt_pg_query_one(lab.pg, st, &p, &res, &err) < 0)
        fail_msg("%s", err.msg);
    assert_true(snprintf(ret, size, "%s", mt_pg_null(res, 0, 0) ? "" : mt_pg_text(res, 0, 0)) < (int)size);
}

/* Events of one organisation share entries of its index with others written beside them, of which a page may begin anywhere. */
static void a_listing_is_whole_wherever_it_begins(void **state)
{
    (void)state;
    static char have[200000], want[200000];
    int64_t ids[40];
    /* two organisations in turn in one command, with more of others between than a run spans, twice */
    for (int k = 0; k < 2; k++) {
        struct mt_cmd *c = lab_cmd();
        for (int i = 0; i < 40; i++) {
            char id[40], other[40];
            (void)snprintf(id, sizeof id, "app_run_%d_%d", k, i);
            (void)snprintf(other, sizeof other, "org_run_other_%d", i % 12);
            lab_event(c, MT_EV_APP_CREATED, id, i < 6 || i > 36 ? (i & 1 ? "org_run_a" : "org_run_b") : other, id, NULL, json_pack("{s:s}", "name", id));
        }
        ids[k] = lab_done(&lab, c) - 39;
    }
    assert_string_equal(lab_text(&lab, "SELECT string_agg(COALESCE(org_run, 0)::text, ',' ORDER BY event_id) FROM events WHERE org_id = 'org_run_a'"),
                        "4,-1,-1,2,-1,4,-1,-1,2,-1");
    static const char *const orgs[] = {"org_run_a", "org_run_b", "org_run_other_3", "org_none"};
    for (size_t o = 0; o < sizeof orgs / sizeof *orgs; o++) {
        const struct mt_log_filter up = {.org_id = orgs[o]}, down = {.org_id = orgs[o], .desc = true};
        for (int64_t from = ids[0] - 2; from < ids[1] + 42; from++) {
            list_plainly(&st_list_org, orgs[o], from, want, sizeof want);
            list(&up, from, 3, 1000, have, sizeof have);
            assert_string_equal(have, want);
            list_plainly(&st_list_down, orgs[o], from, want, sizeof want);
            list(&down, from, 9, 1, have, sizeof have);
            assert_string_equal(have, want);
        }
    }
}

/* All of what there is, by organisation and by environment. */
static void lists_are_whole(void)
{
    static char have[200000], want[200000];
    struct mt_err err = {0};
    for (int b = 0; b < 2; b++) {
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        assert_int_equal(mt_pg_query(lab.pg, b == 0 ? &st_busy_orgs : &st_busy_envs, NULL, &res, &err), 0);
        assert_true(mt_pg_rows(res) > 0);
        for (int i = 0; i < mt_pg_rows(res); i++) {
            const char *id = mt_pg_text(res, i, 0);
            const struct mt_log_filter f = {.org_id = b == 0 ? id : NULL, .env_id = b == 1 ? id : NULL};
            list_plainly(b == 0 ? &st_list_org : &st_list_env, id, 0, want, sizeof want);
            list(&f, 0, 7, 100000, have, sizeof have);
            assert_string_equal(have, want);
        }
    }
}

static struct mt_cmd *two_apps(void)
{
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_APP_CREATED, "app_late_1", "org_run_a", "app_late_1", NULL, json_pack("{s:s}", "name", "late-1"));
    lab_event(c, MT_EV_APP_CREATED, "app_late_2", "org_run_a", "app_late_2", NULL, json_pack("{s:s}", "name", "late-2"));
    return c;
}

static void all_is_listed(void **state)
{
    (void)state;
    assert_string_not_equal(lab_text(&lab, "SELECT count(*)::text FROM events WHERE org_run > 0"), "0");
    assert_string_not_equal(lab_text(&lab, "SELECT count(*)::text FROM events WHERE env_run > 0"), "0");
    lists_are_whole();
}

static void verify_names_what_a_list_would_hide_or_show_twice(void **state)
{
    (void)state;
    struct mt_log_verdict v;
    struct mt_err err = {0};
    /* An event that no entry stands for, one that two stand for, a run that is longer than any */
    static const struct {
        const char *run, *id; /* which row, and what is found, as SQL of @at */
        const char *which;
    } runs[] = {
        {"-1", "@at", "org_run > 0"},
        {"NULL", "@at + 1", "org_run > 0 AND (SELECT n.org_run FROM events n WHERE n.event_id = e.event_id + 1 AND n.org_id = e.org_id) = -1"},
        {"NULL", "@at", "org_run = -1"},
        {"0", "@at", "env_run = -1"},
        {"5000", "@at", "org_run IS NULL AND org_id IS NOT NULL"},
        {"1", "@at", "org_run IS NULL AND org_id IS NULL"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char sql[400];
        const char *col = strstr(runs[i].which, "env_run") ? "env_run" : "org_run";
        (void)snprintf(sql, sizeof sql, "SELECT max(e.event_id)::text FROM events e WHERE %s", runs[i].which);
        long long at = strtoll(lab_text(&lab, sql), NULL, 10);
        assert_true(at > 0);
        (void)snprintf(sql, sizeof sql, "CREATE TEMP TABLE was AS SELECT %s AS run FROM events WHERE event_id = %lld; SET session_replication_role = replica;"
                       " UPDATE events SET %s = %s WHERE event_id = %lld", col, at, col, runs[i].run, at);
        assert_int_equal(mt_pg_exec(lab.pg, sql, &err), 0);
        assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
        assert_int_equal(v.bad_event_id, runs[i].id[3] ? at + 1 : at);
        (void)snprintf(sql, sizeof sql, "UPDATE events SET %s = (SELECT run FROM was) WHERE event_id = %lld; DROP TABLE was; SET session_replication_role = origin", col, at);
        assert_int_equal(mt_pg_exec(lab.pg, sql, &err), 0);
    }
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_string_equal(v.what, "");
}

/* Last: as a log is that was written before there were runs. */
static void what_was_written_before_runs_is_listed_too(void **state)
{
    (void)state;
    struct mt_log_verdict v;
    struct mt_err err = {0};
    assert_int_equal(mt_pg_exec(lab.pg, "SET session_replication_role = replica; UPDATE events SET org_run = NULL, env_run = NULL;"
                                        " SET session_replication_role = origin", &err), 0);
    lists_are_whole();
    (void)lab_done(&lab, two_apps());
    assert_string_equal(lab_text(&lab, "SELECT count(org_run)::text FROM events"), "2");
    lists_are_whole();
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_string_equal(v.what, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_listing_is_whole_wherever_it_begins),
        cmocka_unit_test(all_is_listed),
        cmocka_unit_test(verify_names_what_a_list_would_hide_or_show_twice),
        cmocka_unit_test(what_was_written_before_runs_is_listed_too),
    };
    return cmocka_run_group_tests_name("eventlog-runs", tests, up, down);
}
