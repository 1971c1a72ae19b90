/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets and places of streams, in this process alone. */
#include "control/limits/limits.h"

#include "base/clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct mt_limits *fresh(unsigned percent)
{
    static const struct mt_pg_conf alone;
    struct mt_limits *l = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_limits_new(&alone, percent, &l, &err), 0);
    return l;
}

static void a_bucket_gives_its_minute_and_then_says_when(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(100);
    struct mt_limit_state s;
    for (int i = 0; i < 120; i++)
        assert_true(mt_limits_take(l, MT_LIMIT_WRITE_TOKEN, "tok_1", &s));
    assert_int_equal(s.limit, 120);
    assert_in_range(s.remaining, 0, 1);
    assert_in_range(s.reset_seconds, 59, 60);
    int more = 0;
    while (mt_limits_take(l, MT_LIMIT_WRITE_TOKEN, "tok_1", &s) && more < 50)
        more++; /* what came back meanwhile: two each second */
    assert_in_range(more, 0, 20);
    assert_int_equal(s.remaining, 0);
    assert_int_equal(s.retry_seconds, 1);
    assert_int_equal(mt_limits_refused(l, MT_LIMIT_WRITE_TOKEN), 1);
    assert_true(mt_limits_take(l, MT_LIMIT_WRITE_TOKEN, "tok_2", &s)); /* another subject, another bucket */
    assert_true(mt_limits_take(l, MT_LIMIT_READ_TOKEN, "tok_1", &s));  /* another kind too */
    mt_limits_free(l);
}

static void it_fills_again_with_time(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(10000); /* 60,000 reads a minute: one each millisecond */
    struct mt_limit_state s;
    while (mt_limits_take(l, MT_LIMIT_READ_TOKEN, "t", &s))
        ;
    int64_t until = mt_clock_mono() + 2 * MT_NS_PER_S;
    bool again = false;
    while (!again && mt_clock_mono() < until)
        again = mt_limits_take(l, MT_LIMIT_READ_TOKEN, "t", &s);
    assert_true(again);
    mt_limits_free(l);
}

static void a_look_spends_nothing(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(100);
    struct mt_limit_state s;
    for (int i = 0; i < 100; i++)
        assert_true(mt_limits_peek(l, MT_LIMIT_LOGIN_FAILED, "a@example.com", &s));
    for (int i = 0; i < 5; i++)
        assert_true(mt_limits_take(l, MT_LIMIT_LOGIN_FAILED, "a@example.com", &s));
    assert_false(mt_limits_peek(l, MT_LIMIT_LOGIN_FAILED, "a@example.com", &s));
    assert_in_range(s.retry_seconds, 11, 12);
    mt_limits_free(l);
}

static void zero_percent_is_no_limit_and_little_is_at_least_one(void **state)
{
    (void)state;
    struct mt_limit_state s;
    struct mt_limits *l = fresh(0);
    for (int i = 0; i < 10000; i++)
        assert_true(mt_limits_take(l, MT_LIMIT_LOGIN_FAILED, "x", &s));
    mt_limits_free(l);
    l = fresh(1);
    assert_true(mt_limits_take(l, MT_LIMIT_LOGIN_FAILED, "x", &s));
    assert_false(mt_limits_take(l, MT_LIMIT_LOGIN_FAILED, "x", &s));
    mt_limits_free(l);
}

static void too_many_subjects_pass_as_tenants_and_not_as_logins(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(100);
    struct mt_limit_state s;
    char subject[24];
    for (int i = 0; i < 65536; i++) {
        (void)snprintf(subject, sizeof subject, "tok_%d", i);
        assert_true(mt_limits_take(l, MT_LIMIT_READ_TOKEN, subject, &s));
    }
    assert_true(mt_limits_take(l, MT_LIMIT_READ_TOKEN, "one more", &s));
    assert_false(mt_limits_take(l, MT_LIMIT_MINT, "one more", &s));
    assert_true(s.retry_seconds > 0);
    mt_limits_free(l);
}

struct taker {
    pthread_t thread;
    struct mt_limits *l;
    int got;
};

static void *take_all(void *arg)
{
    struct taker *t = arg;
    struct mt_limit_state s;
    for (int i = 0; i < 500; i++)
        t->got += mt_limits_take(t->l, MT_LIMIT_MINT, "sp_1", &s);
    return NULL;
}

static void threads_share_one_bucket(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(100);
    struct taker t[8] = {0};
    int got = 0;
    int64_t from = mt_clock_mono();
    for (int i = 0; i < 8; i++) {
        t[i].l = l;
        assert_int_equal(pthread_create(&t[i].thread, NULL, take_all, &t[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        (void)pthread_join(t[i].thread, NULL);
        got += t[i].got;
    }
    int64_t gained = (mt_clock_mono() - from) / (2 * MT_NS_PER_S) + 1; /* 30 a minute */
    assert_in_range(got, 30, 30 + gained);
    mt_limits_free(l);
}

static void streams_have_places_per_token_and_organisation(void **state)
{
    (void)state;
    struct mt_limits *l = fresh(100);
    struct mt_stream_place p[8] = {0};
    bool token;
    for (int i = 0; i < 5; i++)
        assert_int_equal(mt_limits_stream_enter(l, "tok_1", "org_1", 6, &p[i], &token), 0);
    assert_int_equal(mt_limits_stream_enter(l, "tok_1", "org_1", 6, &p[5], &token), -MT_E_LIMIT);
    assert_true(token);
    assert_int_equal(mt_limits_stream_enter(l, "tok_2", "org_1", 6, &p[5], &token), 0);
    assert_int_equal(mt_limits_stream_enter(l, "tok_2", "org_1", 6, &p[6], &token), -MT_E_LIMIT);
    assert_false(token);
    assert_int_equal(mt_limits_stream_enter(l, "tok_1", "org_2", 6, &p[6], &token), -MT_E_LIMIT); /* five are five, wherever */
    assert_int_equal(mt_limits_stream_enter(l, "", "org_1", -1, &p[6], &token), 0);             /* the local operator */
    assert_int_equal(mt_limits_streams_of(l, "org_1"), 7);
    for (int i = 0; i < 8; i++) {
        mt_limits_stream_leave(&p[i]);
        mt_limits_stream_leave(&p[i]); /* twice is once */
    }
    assert_int_equal(mt_limits_streams_of(l, "org_1"), 0);
    assert_int_equal(mt_limits_stream_enter(l, "tok_1", "org_1", 6, &p[0], &token), 0);
    mt_limits_stream_leave(&p[0]);
    mt_limits_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_gives_its_minute_and_then_says_when),
        cmocka_unit_test(it_fills_again_with_time),
        cmocka_unit_test(a_look_spends_nothing),
        cmocka_unit_test(zero_percent_is_no_limit_and_little_is_at_least_one),
        cmocka_unit_test(too_many_subjects_pass_as_tenants_and_not_as_logins),
        cmocka_unit_test(threads_share_one_bucket),
        cmocka_unit_test(streams_have_places_per_token_and_organisation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
