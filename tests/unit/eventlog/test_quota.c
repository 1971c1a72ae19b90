/* SPDX-License-Identifier: Apache-2.0 */
/* Quotas under the append lock: commands of many threads never pass a limit together, and nobody is refused who fits. */
#include "lab.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void make_org(const char *id)
{
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_CREATED, id, id, NULL, NULL, json_pack("{s:s}", "name", id));
    (void)lab_done(&lab, c);
}

static void set_limit(const char *org, const char *dimension, int64_t limit)
{
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_ORG_QUOTA_SET, org, org, NULL, NULL,
              json_pack("{s:s,s:o,s:s}", "dimension", dimension, "limit", limit < 0 ? json_null() : json_integer(limit), "reason", "test"));
    (void)lab_done(&lab, c);
}

static struct mt_cmd *app_cmd(const char *org, const char *app, int64_t unless_set)
{
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    lab_event(c, MT_EV_APP_CREATED, app, org, app, NULL, json_pack("{s:s}", "name", app));
    assert_int_equal(mt_cmd_quota(c, MT_QUOTA_APPS, org, NULL, 1, unless_set, &err), 0);
    return c;
}

static void the_table_holds_what_the_specification_says(void **state)
{
    (void)state;
    assert_int_equal(mt_quota_default(MT_QUOTA_APPS, MT_TIER_FREE), 10);
    assert_int_equal(mt_quota_default(MT_QUOTA_APPS, MT_TIER_PAID), 200);
    assert_int_equal(mt_quota_default(MT_QUOTA_APPS, MT_TIER_UNLIMITED), MT_QUOTA_UNLIMITED);
    assert_int_equal(mt_quota_default(MT_QUOTA_TOTAL_MEMORY, MT_TIER_PAID), INT64_C(1099511627776));
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++) {
        assert_int_equal(mt_quota_by_name(mt_quota_name((enum mt_quota)q)), q);
        assert_true(mt_quota_default((enum mt_quota)q, MT_TIER_FREE) < mt_quota_default((enum mt_quota)q, MT_TIER_PAID));
    }
    assert_int_equal(mt_quota_by_name("max_nothing"), MT_QUOTA_MAX);
    enum mt_quota_tier t;
    assert_true(mt_quota_tier_parse("free", &t) && t == MT_TIER_FREE);
    assert_false(mt_quota_tier_parse("gold", &t));
}

static void a_command_past_the_limit_is_refused_with_its_numbers(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    make_org("org_q");
    (void)lab_done(&lab, app_cmd("org_q", "app_q1", 1));
    assert_int_equal(mt_append(lab.ap, app_cmd("org_q", "app_q2", 1), 5000, &done, &err), -MT_E_CONFLICT);
    assert_int_equal(done.end, MT_END_QUOTA);
    assert_int_equal(done.quota.dimension, MT_QUOTA_APPS);
    assert_int_equal(done.quota.limit, 1);
    assert_int_equal(done.quota.current, 1);
    assert_int_equal(done.quota.requested, 1);
    mt_cmd_done_free(&done);
    set_limit("org_q", "max_apps", 2); /* an override beats the default, both ways */
    (void)lab_done(&lab, app_cmd("org_q", "app_q2", 1));
    set_limit("org_q", "max_apps", 0);
    assert_int_equal(mt_append(lab.ap, app_cmd("org_q", "app_q3", MT_QUOTA_UNLIMITED), 5000, &done, &err), -MT_E_CONFLICT);
    mt_cmd_done_free(&done);
    set_limit("org_q", "max_apps", -1); /* taken back */
    (void)lab_done(&lab, app_cmd("org_q", "app_q3", MT_QUOTA_UNLIMITED));
    make_org("org_other"); /* nobody else's sum counts */
    (void)lab_done(&lab, app_cmd("org_other", "app_o1", 1));
}

static void the_check_before_appending_says_the_same(void **state)
{
    (void)state;
    struct mt_cmd_refused_quota q;
    struct mt_err err = {0};
    mt_auto_cmd struct mt_cmd *c = app_cmd("org_q", "app_q4", 3), *d = app_cmd("org_q", "app_q4", 4);
    assert_int_equal(mt_cmd_quota_check(c, lab.pg, &q, &err), 1);
    assert_int_equal(q.current, 3);
    assert_int_equal(mt_cmd_quota_check(d, lab.pg, &q, &err), 0);
}

/* ---- the race ---- */

#define THREADS 24
#define TURNS 12

struct racer {
    pthread_t thread;
    int n, turn, made, refused, other;
};
static pthread_barrier_t start;

static void *race(void *arg)
{
    struct racer *r = arg;
    for (r->turn = 0; r->turn < TURNS; r->turn++) {
        char app[40], org[24];
        struct mt_cmd_done done;
        struct mt_err err = {0};
        (void)snprintf(org, sizeof org, "org_race%d", r->turn);
        (void)snprintf(app, sizeof app, "app_r%d-%d", r->turn, r->n);
        struct mt_cmd *c = app_cmd(org, app, 7);
        (void)pthread_barrier_wait(&start);
        (void)mt_append(lab.ap, c, 20000, &done, &err);
        r->made += done.end == MT_END_DONE;
        r->refused += done.end == MT_END_QUOTA;
        r->other += done.end != MT_END_DONE && done.end != MT_END_QUOTA;
        mt_cmd_done_free(&done);
    }
    return NULL;
}

static void many_threads_fill_a_quota_exactly(void **state)
{
    (void)state;
    struct racer r[THREADS] = {0};
    int made = 0, refused = 0, other = 0;
    for (int i = 0; i < TURNS; i++) {
        char org[24];
        (void)snprintf(org, sizeof org, "org_race%d", i);
        make_org(org);
    }
    assert_int_equal(pthread_barrier_init(&start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++) {
        r[i].n = i;
        assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(r[i].thread, NULL);
        made += r[i].made;
        refused += r[i].refused;
        other += r[i].other;
    }
    (void)pthread_barrier_destroy(&start);
    assert_int_equal(other, 0);
    assert_int_equal(made, 7 * TURNS);
    assert_int_equal(refused, (THREADS - 7) * TURNS);
    assert_string_equal(lab_text(&lab, "SELECT string_agg(DISTINCT n::text, ',') FROM (SELECT count(*) AS n FROM apps_view WHERE org_id LIKE 'org_race%'"
                                       " GROUP BY org_id) x"), "7");
}

/* Two servers with an appender each, one limit. */
struct far {
    pthread_t thread;
    struct mt_appender *ap;
    int n, made, other;
};

static void *race_far(void *arg)
{
    struct far *f = arg;
    for (int i = 0; i < 30; i++) {
        char app[40];
        struct mt_cmd_done done;
        struct mt_err err = {0};
        (void)snprintf(app, sizeof app, "app_f%d-%d", f->n, i);
        (void)mt_append(f->ap, app_cmd("org_far", app, 25), 20000, &done, &err);
        f->made += done.end == MT_END_DONE;
        f->other += done.end != MT_END_DONE && done.end != MT_END_QUOTA;
        mt_cmd_done_free(&done);
    }
    return NULL;
}

static void two_servers_share_a_limit(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_appender *second = NULL;
    struct far f[4] = {0};
    int made = 0;
    make_org("org_far");
    assert_int_equal(mt_appender_new(&(struct mt_appender_conf){.pg = {.conninfo = lab.sc.control, .role = "moat_projector"}}, &second, &err), 0);
    for (int i = 0; i < 4; i++) {
        f[i].n = i;
        f[i].ap = i % 2 ? second : lab.ap;
        assert_int_equal(pthread_create(&f[i].thread, NULL, race_far, &f[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        (void)pthread_join(f[i].thread, NULL);
        assert_int_equal(f[i].other, 0);
        made += f[i].made;
    }
    assert_int_equal(made, 25);
    mt_appender_free(second);
}

static void neighbours_in_a_batch_are_not_harmed_by_a_refusal(void **state)
{
    (void)state;
    struct mt_log_verdict v;
    struct mt_err err = {0};
    assert_int_equal(mt_log_verify(lab.pg, NULL, NULL, &v, &err), 0);
    assert_int_equal(v.bad_event_id, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds_what_the_specification_says),
        cmocka_unit_test(a_command_past_the_limit_is_refused_with_its_numbers),
        cmocka_unit_test(the_check_before_appending_says_the_same),
        cmocka_unit_test(many_threads_fill_a_quota_exactly),
        cmocka_unit_test(two_servers_share_a_limit),
        cmocka_unit_test(neighbours_in_a_batch_are_not_harmed_by_a_refusal),
    };
    return cmocka_run_group_tests(tests, up, down);
}
