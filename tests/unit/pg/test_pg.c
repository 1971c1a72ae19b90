/* SPDX-License-Identifier: Apache-2.0 */
/* The connection, pipelines, typed results and the cluster's life against a real server. */
#include "scratch.h"

#include "base/clock.h"
#include "pg/array.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static struct scratch sc;

static int up(void **state)
{
    (void)state;
    struct mt_err err = {0};
    int r = scratch_up(&sc, &err);
    if (r < 0)
        print_error("%s\n", err.msg);
    return r;
}

static int down(void **state)
{
    (void)state;
    scratch_down(&sc);
    return 0;
}

static struct mt_pg *open_pg(const char *conninfo)
{
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = conninfo}, &pg, &err) < 0)
        fail_msg("%s", err.msg);
    return pg;
}

static const struct mt_pg_stmt st_types = {
    "t_types", "SELECT $1::text, $2::int8, $3::int4, $4::boolean, $5::jsonb, $6::timestamptz, $7::bytea, $8::text[], NULL::int8,"
               " $9::int8[]"};

static void values_come_back_as_they_went(void **state)
{
    (void)state;
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    struct mt_pg_arr texts, ints;
    mt_pg_arr_init(&texts, MT_PG_ELEM_TEXT, 4096);
    mt_pg_arr_init(&ints, MT_PG_ELEM_I64, 4096);
    mt_pg_arr_text_add(&texts, "a");
    mt_pg_arr_text_add(&texts, "");
    mt_pg_arr_text_add(&texts, "ü,\"{}");
    mt_pg_arr_i64(&ints, INT64_MIN);
    struct mt_pg_res *res = NULL;
    for (int round = 0; round < 2; round++) { /* the second uses the prepared statement */
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, "x' y");
        mt_pg_p_i64(&p, INT64_C(-9007199254740993));
        mt_pg_p_i32(&p, INT32_MIN);
        mt_pg_p_bool(&p, true);
        mt_pg_p_json(&p, "{\"b\": 1, \"a\": [true, null]}");
        mt_pg_p_time(&p, INT64_C(1700000000123456));
        mt_pg_p_bytes(&p, "\0\1\2", 3);
        mt_pg_p_arr(&p, &texts);
        mt_pg_p_arr(&p, &ints);
        assert_int_equal(mt_pg_query_one(pg, &st_types, &p, &res, &err), 0);
        assert_string_equal(mt_pg_text(res, 0, 0), "x' y");
        assert_true(mt_pg_i64(res, 0, 1) == INT64_C(-9007199254740993));
        assert_true(mt_pg_i64(res, 0, 2) == INT32_MIN);
        assert_true(mt_pg_bool(res, 0, 3));
        assert_string_equal(mt_pg_text(res, 0, 4), "{\"a\": [true, null], \"b\": 1}");
        assert_true(mt_pg_time(res, 0, 5) == INT64_C(1700000000123456));
        size_t n = 0;
        assert_memory_equal(mt_pg_bytes(res, 0, 6, &n), "\0\1\2", 3);
        assert_int_equal(n, 3);
        assert_int_equal(mt_pg_arr_len(res, 0, 7), 3);
        char text[16];
        assert_int_equal(mt_pg_arr_text(res, 0, 7, 2, text, sizeof text), 0);
        assert_string_equal(text, "ü,\"{}");
        assert_int_equal(mt_pg_arr_text(res, 0, 7, 2, text, 3), -MT_E_LIMIT);
        assert_true(mt_pg_null(res, 0, 8));
        assert_true(mt_pg_i64_or(res, 0, 8, 7) == 7);
        mt_pg_res_freep(&res);
    }
    mt_pg_arr_done(&texts);
    mt_pg_arr_done(&ints);
    mt_pg_free(pg);
}

/* Made in a frame that is gone when they are used. */
static struct mt_pg_params __attribute__((noinline)) made_elsewhere(int64_t v, const char *text)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, v);
    mt_pg_p_text(&p, text);
    mt_pg_p_i32(&p, -5);
    return p;
}

static void a_copy_of_parameters_is_as_good_as_they_are(void **state)
{
    static const struct mt_pg_stmt st = {"t_copy", "SELECT $1::int8, $2::text, $3::int4"};
    (void)state;
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    struct mt_pg_res *res = NULL;
    struct mt_pg_params p = made_elsewhere(42, "x"), other, copy;
    other = made_elsewhere(7, "y");
    copy = p;
    p = other; /* what the copy was made of says something else now */
    assert_int_equal(mt_pg_query_one(pg, &st, &copy, &res, &err), 0);
    assert_true(mt_pg_i64(res, 0, 0) == 42 && mt_pg_i64(res, 0, 2) == -5);
    assert_string_equal(mt_pg_text(res, 0, 1), "x");
    mt_pg_res_freep(&res);
    assert_int_equal(mt_pg_query_one(pg, &st, &p, &res, &err), 0);
    assert_true(mt_pg_i64(res, 0, 0) == 7);
    mt_pg_res_freep(&res);
    mt_pg_free(pg);
}

static const struct mt_pg_stmt st_one = {"t_one", "SELECT 1"};
static const struct mt_pg_stmt st_two = {"t_two", "SELECT 2"};
static const struct mt_pg_stmt st_div = {"t_div", "SELECT 1 / $1::int8"};
static const struct mt_pg_stmt st_ins = {"t_ins", "INSERT INTO t_names VALUES ($1)"};

static void a_failing_statement_skips_the_rest_and_the_connection_lives_on(void **state)
{
    (void)state;
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    struct mt_pg_params zero;
    mt_pg_p_init(&zero);
    mt_pg_p_i64(&zero, 0);
    struct mt_pg_res *res[3] = {NULL};
    assert_int_equal(mt_pg_pipe_enter(pg, &err), 0);
    assert_int_equal(mt_pg_pipe_send(pg, &st_one, NULL, &err), 0);
    assert_int_equal(mt_pg_pipe_send(pg, &st_div, &zero, &err), 0);
    assert_int_equal(mt_pg_pipe_send(pg, &st_two, NULL, &err), 0); /* its prepare is skipped too */
    assert_int_equal(mt_pg_pipe_sync(pg, res, 3, &err), -MT_E_INVALID);
    assert_ptr_equal(mt_pg_diag(pg)->stmt, &st_div);
    assert_string_equal(mt_pg_diag(pg)->sqlstate, "22012");
    assert_null(res[0]);
    assert_int_equal(mt_pg_pipe_send(pg, &st_two, NULL, &err), 0);
    assert_int_equal(mt_pg_pipe_sync(pg, res, 1, &err), 0);
    assert_true(mt_pg_i64(res[0], 0, 0) == 2);
    mt_pg_res_freep(&res[0]);
    assert_int_equal(mt_pg_pipe_leave(pg, &err), 0);
    assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), 0);
    mt_pg_free(pg);
}

static void a_pipeline_grows_with_what_is_queued_and_is_refused_past_its_bound(void **state)
{
    (void)state;
    enum { MANY = 3000, MARKS = 66000 };
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    struct mt_pg_res **res = calloc(MANY, sizeof(struct mt_pg_res *));
    assert_non_null(res);
    assert_int_equal(mt_pg_pipe_enter(pg, &err), 0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(mt_pg_pipe_send(pg, i % 2 ? &st_two : &st_one, NULL, &err), 0);
    assert_int_equal(mt_pg_pipe_sync(pg, res, MANY, &err), 0);
    for (int i = 0; i < MANY; i++) {
        assert_true(mt_pg_i64(res[i], 0, 0) == 1 + i % 2);
        mt_pg_res_freep(&res[i]);
    }
    int r = 0, n = 0;
    for (; n < MARKS && r == 0; n++)
        r = mt_pg_pipe_send(pg, &st_one, NULL, &err);
    assert_int_equal(r, -MT_E_LIMIT);
    assert_false(mt_pg_alive(pg)); /* what was queued had no end yet: nothing of it counts */
    assert_int_equal(mt_pg_reset(pg, &err), 0);
    assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), 0);
    free(res);
    mt_pg_free(pg);
}

/* A plan that was made for a table of one row is kept while it grows to 20,000, until somebody says that the data have grown. */
static void what_was_planned_for_little_is_planned_again_for_much(void **state)
{
    (void)state;
    static const struct mt_pg_stmt find = {"grown_find", "SELECT v FROM grown WHERE id = $1"}, show = {"grown_show", "EXPLAIN EXECUTE grown_find('x')"},
                                   again = {"grown_again", "EXPLAIN EXECUTE grown_find('y')"};
    mt_auto_pg struct mt_pg *pg = open_pg(sc.super);
    struct mt_err err = {0};
    struct mt_pg_params p;
    struct mt_pg_res *r = NULL;
    assert_int_equal(mt_pg_exec(pg, "SET plan_cache_mode = force_generic_plan; CREATE TABLE grown (id text PRIMARY KEY, v int) WITH (autovacuum_enabled = off);"
                                    " INSERT INTO grown VALUES ('x', 1); ANALYZE grown", &err), 0);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, "x");
    assert_int_equal(mt_pg_grown(pg, 1, &err), 0);
    assert_int_equal(mt_pg_query(pg, &find, &p, NULL, &err), 0);
    assert_int_equal(mt_pg_exec(pg, "INSERT INTO grown SELECT 'k' || i, i FROM generate_series(1, 20000) i", &err), 0);
    assert_int_equal(mt_pg_grown(pg, 999, &err), 0); /* below twice the least that counts */
    assert_int_equal(mt_pg_query(pg, &show, NULL, &r, &err), 0);
    assert_non_null(strstr(mt_pg_text(r, 0, 0), "Seq Scan"));
    mt_pg_res_free(r);
    assert_int_equal(mt_pg_grown(pg, 20001, &err), 0);
    assert_int_equal(mt_pg_query(pg, &again, NULL, &r, &err), 0);
    assert_non_null(strstr(mt_pg_text(r, 0, 0), "Index Scan"));
    mt_pg_res_free(r);
    assert_int_equal(mt_pg_exec(pg, "DROP TABLE grown", &err), 0);
}

/* As a pooler finds it: what one transaction did to the session is not there for the next, whoever has that one. */
static void a_shared_session_keeps_nothing(void **state)
{
    (void)state;
    static const struct mt_pg_stmt named = {"t_named", "SELECT current_setting('moat.org_id', true)"},
                                   left = {"t_left", "SELECT count(*) FROM pg_prepared_statements"};
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    struct mt_pg_res *r = NULL, *both[2] = {NULL};
    struct mt_pg_params zero;
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = sc.owner, .shared = "moat.org_id"}, &pg, &err) < 0)
        fail_msg("%s", err.msg);
    assert_true(mt_pg_shared(pg));
    static const char *const names[] = {"one", "", "two"};
    for (size_t i = 0; i < 3; i++) {
        mt_pg_name(pg, names[i]);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(mt_pg_query(pg, &named, NULL, &r, &err), 0);
            assert_string_equal(mt_pg_text(r, 0, 0), names[i]);
            mt_pg_res_freep(&r);
        }
    }
    mt_pg_name(pg, "one");
    assert_int_equal(mt_pg_exec(pg, "DO $$ BEGIN ASSERT COALESCE(current_setting('moat.org_id', true), '') = ''; END $$", &err), 0); /* outside: nothing */
    assert_int_equal(mt_pg_query_beside(pg, &named, NULL, &left, both, &err), 0);
    assert_string_equal(mt_pg_text(both[0], 0, 0), "one");
    assert_int_equal(mt_pg_i64(both[1], 0, 0), 0);
    mt_pg_res_freep(&both[0]);
    mt_pg_res_freep(&both[1]);
    /* In a transaction that was begun, and after a statement that failed in a group. */
    assert_int_equal(mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &err), 0);
    assert_int_equal(mt_pg_query(pg, &named, NULL, &r, &err), 0);
    assert_string_equal(mt_pg_text(r, 0, 0), "one");
    mt_pg_res_freep(&r);
    mt_pg_name(pg, "two");
    assert_int_equal(mt_pg_query(pg, &named, NULL, &r, &err), 0);
    assert_string_equal(mt_pg_text(r, 0, 0), "two");
    mt_pg_res_freep(&r);
    assert_int_equal(mt_pg_exec(pg, "COMMIT", &err), 0);
    mt_pg_p_init(&zero);
    mt_pg_p_i64(&zero, 0);
    assert_int_equal(mt_pg_query(pg, &st_div, &zero, NULL, &err), -MT_E_INVALID);
    assert_ptr_equal(mt_pg_diag(pg)->stmt, &st_div);
    assert_int_equal(mt_pg_query(pg, &named, NULL, &r, &err), 0);
    assert_string_equal(mt_pg_text(r, 0, 0), "two");
    mt_pg_res_freep(&r);
    mt_pg_free(pg);
}

static void a_unique_violation_names_its_constraint(void **state)
{
    (void)state;
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    assert_int_equal(mt_pg_exec(pg, "CREATE TEMP TABLE t_names (name text CONSTRAINT names_once UNIQUE)", &err), 0);
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, "x");
    assert_int_equal(mt_pg_query(pg, &st_ins, &p, NULL, &err), 0);
    assert_int_equal(mt_pg_query(pg, &st_ins, &p, NULL, &err), -MT_E_CONFLICT);
    assert_string_equal(mt_pg_diag(pg)->constraint, "names_once");
    mt_pg_free(pg);
}

static const struct mt_pg_stmt st_sleep = {"t_sleep", "SELECT pg_sleep(30)::text"};

static void a_call_past_its_deadline_drops_the_connection(void **state)
{
    (void)state;
    struct mt_pg *pg = open_pg(sc.owner);
    struct mt_err err = {0};
    mt_pg_timeout(pg, 100);
    int64_t from = mt_clock_mono();
    assert_int_equal(mt_pg_query(pg, &st_sleep, NULL, NULL, &err), -MT_E_TIMEOUT);
    assert_true(mt_clock_mono() - from < 2 * MT_NS_PER_S);
    assert_false(mt_pg_alive(pg));
    assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), -MT_E_UNAVAILABLE);
    assert_int_equal(mt_pg_reset(pg, &err), 0);
    assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), 0);
    mt_pg_free(pg);
}

static int waiting(int listener)
{
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void an_attempt_that_the_server_has_taken_goes_on(void **state)
{
    (void)state;
    char dir[] = "/tmp/moat-pg-XXXXXX", info[64];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct mt_err err = {0};
    struct mt_pg *pg = NULL;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s/.s.PGSQL.5432", dir);
    (void)snprintf(info, sizeof info, "host=%s dbname=x user=x", dir);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, (const struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 8), 0);
    const struct mt_pg_conf conf = {.conninfo = info, .connect_timeout_ms = 50};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mt_pg_open(&conf, &pg, &err), -MT_E_UNAVAILABLE);
        assert_true(pg && !mt_pg_alive(pg));
        assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), -MT_E_UNAVAILABLE);
    }
    int first = waiting(listener);
    assert_true(first >= 0);
    assert_int_equal(waiting(listener), -1);
    /* who took it ends: the next call begins anew at once */
    (void)close(first);
    assert_int_equal(mt_pg_open(&conf, &pg, &err), -MT_E_UNAVAILABLE);
    int second = waiting(listener);
    assert_true(second >= 0);
    assert_int_equal(waiting(listener), -1);
    mt_pg_free(pg);
    char byte[256];
    while (read(second, byte, sizeof byte) > 0)
        ; /* what it had begun with; then that it is closed */
    (void)close(second);
    (void)close(listener);
    (void)unlink(a.sun_path);
    (void)rmdir(dir);
}

static void a_server_that_is_slow_is_reached_in_the_end(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_pg *pg = NULL;
    const struct mt_pg_conf conf = {.conninfo = sc.owner, .connect_timeout_ms = 50};
    assert_int_equal(kill(sc.cluster.pid, SIGSTOP), 0);
    int stopped = mt_pg_open(&conf, &pg, &err), again = mt_pg_open(&conf, &pg, &err);
    assert_int_equal(kill(sc.cluster.pid, SIGCONT), 0);
    assert_int_equal(stopped, -MT_E_UNAVAILABLE);
    assert_int_equal(again, -MT_E_UNAVAILABLE);
    int64_t end = mt_clock_mono() + 20 * MT_NS_PER_S;
    while (mt_pg_open(&conf, &pg, &err) < 0)
        assert_true(mt_clock_mono() < end);
    assert_int_equal(mt_pg_query(pg, &st_one, NULL, NULL, &err), 0);
    mt_pg_free(pg);
}

static void a_notification_wakes_a_listener(void **state)
{
    (void)state;
    struct mt_pg *a = open_pg(sc.owner), *b = open_pg(sc.owner);
    struct mt_err err = {0};
    char text[16] = "";
    assert_int_equal(mt_pg_listen(a, "moat_events", &err), 0);
    assert_int_equal(mt_pg_notify_wait(a, -1, 10, text, sizeof text, &err), 0);
    assert_int_equal(mt_pg_exec(b, "SELECT pg_notify('moat_events', '41'); SELECT pg_notify('moat_events', '42')", &err), 0);
    assert_int_equal(mt_pg_notify_wait(a, -1, 5000, text, sizeof text, &err), 1);
    assert_string_equal(text, "42");
    mt_pg_free(a);
    mt_pg_free(b);
}

static void roles_are_separate(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_pg *pg = open_pg(sc.control);
    assert_int_equal(mt_pg_exec(pg, "CREATE DATABASE other", &err), -MT_E_DENIED);
    mt_pg_free(pg);
    char conninfo[256];
    (void)snprintf(conninfo, sizeof conninfo, "host=%s dbname=moat user=stranger", sc.sock);
    pg = NULL;
    assert_int_equal(mt_pg_connect(&(struct mt_pg_conf){.conninfo = conninfo}, &pg, &err), -MT_E_UNAVAILABLE);
    assert_null(pg);
}

static void a_running_cluster_is_adopted(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_pg_cluster again;
    assert_int_equal(mt_pg_cluster_up(&sc.conf, 5000, &again, &err), 0);
    assert_true(again.adopted);
    assert_false(again.fresh);
    assert_int_equal(again.pid, sc.cluster.pid);
    close(again.pidfd);
}

static void a_warm_start_takes_less_than_a_second(void **state)
{
    (void)state;
    struct mt_err err = {0};
    int64_t ms = INT64_MAX;
    for (int i = 0; i < 10 && ms >= 1000; i++) { /* again when others had the processor */
        assert_int_equal(mt_pg_cluster_stop(&sc.cluster, &sc.conf, MT_PG_STOP_FAST, 60000, &err), 0);
        int64_t from = mt_clock_mono();
        assert_int_equal(mt_pg_cluster_up(&sc.conf, 60000, &sc.cluster, &err), 0);
        ms = (mt_clock_mono() - from) / MT_NS_PER_MS;
        print_message("warm start: %lld ms\n", (long long)ms);
        assert_false(sc.cluster.adopted);
    }
    assert_true(ms < 1000);
}

static void a_killed_postmaster_is_followed_by_a_new_one(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_pg *pg = open_pg(sc.owner);
    assert_int_equal(mt_pg_exec(pg, "CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)", &err), 0);
    pid_t old = sc.cluster.pid;
    assert_int_equal(kill(old, SIGKILL), 0); /* backends live on for a moment and hold the shared memory */
    close(sc.cluster.pidfd);
    sc.cluster.pidfd = -1;
    int r = mt_pg_cluster_up(&sc.conf, 20000, &sc.cluster, &err);
    if (r < 0)
        fail_msg("%s", err.msg);
    assert_int_not_equal(sc.cluster.pid, old);
    assert_int_equal(mt_pg_reset(pg, &err), 0);
    assert_int_equal(mt_pg_exec(pg, "SELECT 1 / count(*) FROM kept WHERE x = 7", &err), 0);
    mt_pg_free(pg);
}

static void a_pid_file_that_names_a_stranger_does_not_stop_the_start(void **state)
{
    (void)state;
    struct mt_err err = {0};
    char path[128];
    assert_int_equal(mt_pg_cluster_stop(&sc.cluster, &sc.conf, MT_PG_STOP_FAST, 10000, &err), 0);
    (void)snprintf(path, sizeof path, "%s/postmaster.pid", sc.data);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%d\n%s\n1\n5432\n%s\n\n0 0\nready   \n", (int)getpid(), sc.data, sc.sock);
    fclose(f);
    int r = mt_pg_cluster_up(&sc.conf, 20000, &sc.cluster, &err);
    if (r < 0)
        fail_msg("%s", err.msg);
    assert_int_not_equal(sc.cluster.pid, getpid());
}

static void a_folder_closed_to_the_user_is_named(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct mt_err err = {0};
    struct mt_pg_cluster_conf conf = sc.conf;
    char closed[96], data[128];
    (void)snprintf(closed, sizeof closed, "%s/closed", sc.dir);
    (void)snprintf(data, sizeof data, "%s/data", closed);
    assert_int_equal(mkdir(closed, 0700), 0);
    conf.data_dir = data;
    struct mt_pg_cluster c;
    assert_int_equal(mt_pg_cluster_up(&conf, 1000, &c, &err), -MT_E_DENIED);
    assert_non_null(strstr(err.msg, closed));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back_as_they_went),
        cmocka_unit_test(a_copy_of_parameters_is_as_good_as_they_are),
        cmocka_unit_test(a_failing_statement_skips_the_rest_and_the_connection_lives_on),
        cmocka_unit_test(a_pipeline_grows_with_what_is_queued_and_is_refused_past_its_bound),
        cmocka_unit_test(what_was_planned_for_little_is_planned_again_for_much),
        cmocka_unit_test(a_shared_session_keeps_nothing),
        cmocka_unit_test(a_unique_violation_names_its_constraint),
        cmocka_unit_test(a_call_past_its_deadline_drops_the_connection),
        cmocka_unit_test(an_attempt_that_the_server_has_taken_goes_on),
        cmocka_unit_test(a_server_that_is_slow_is_reached_in_the_end),
        cmocka_unit_test(a_notification_wakes_a_listener),
        cmocka_unit_test(roles_are_separate),
        cmocka_unit_test(a_running_cluster_is_adopted),
        cmocka_unit_test(a_warm_start_takes_less_than_a_second),
        cmocka_unit_test(a_killed_postmaster_is_followed_by_a_new_one),
        cmocka_unit_test(a_pid_file_that_names_a_stranger_does_not_stop_the_start),
        cmocka_unit_test(a_folder_closed_to_the_user_is_named),
    };
    return cmocka_run_group_tests_name("pg", tests, up, down);
}
