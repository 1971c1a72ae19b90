/* SPDX-License-Identifier: Apache-2.0 */
/* Canonical JSON by both writers, payload schemas, the chain hash as golden bytes, the cut into rounds. No database. */
#include "control/log/canon.h"
#include "control/log/types.h"
#include "control/views/projections.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void both_writers_agree_on_the_canonical_form(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"{}", "{}"},
        {"{\"b\": 1, \"a\": [true, null, -5, {\"z\": {}, \"y\": []}]}", "{\"a\":[true,null,-5,{\"y\":[],\"z\":{}}],\"b\":1}"},
        {"{\"bb\": 1, \"a\": 2, \"b\": 3, \"aa\": 4}", "{\"a\":2,\"aa\":4,\"b\":3,\"bb\":1}"},
        {"{\"t\": \"a\\\"b\\\\c\\nd\\u0001\\u001f é /\"}", "{\"t\":\"a\\\"b\\\\c\\nd\\u0001\\u001f é /\"}"},
        {"{\"i\": 9007199254740991}", "{\"i\":9007199254740991}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mt_err err = {0};
        struct mt_buf a = MT_BUF_INIT(4096), b = MT_BUF_INIT(4096);
        json_t *v = json_loads(cases[i].in, 0, NULL);
        int ra = mt_canon_json(v, &a, &err), rb = mt_canon_text(cases[i].in, strlen(cases[i].in), &b, &err);
        json_decref(v);
        assert_int_equal(ra, 0);
        assert_int_equal(rb, 0);
        assert_string_equal(mt_buf_cstr(&a), cases[i].out);
        assert_string_equal(mt_buf_cstr(&b), cases[i].out);
        mt_buf_done(&a);
        mt_buf_done(&b);
    }
}

static void text_that_is_no_stored_json_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "{", "{\"a\"}", "{\"a\":}", "[1,]", "[1 2]", "1.5", "1e3", "01", "-", "tru", "\"\\q\"", "\"\\u0000\"",
                                      "\"\\u00", "\"a", "\"\x01\"", "{} x", "12345678901234567", "{\"a\":1,}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mt_err err = {0};
        struct mt_buf b = MT_BUF_INIT(4096);
        /* an exact copy, so that a read past the end is seen by the sanitizer */
        size_t n = strlen(bad[i]);
        char *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, bad[i], n);
        int r = mt_canon_text(copy, n, &b, &err);
        free(copy);
        mt_buf_done(&b);
        if (r != -MT_E_CORRUPT)
            fail_msg("'%s' gave %d", bad[i], r);
    }
    char deep[200];
    memset(deep, '[', sizeof deep);
    struct mt_err err = {0};
    struct mt_buf b = MT_BUF_INIT(4096);
    assert_int_equal(mt_canon_text(deep, sizeof deep, &b, &err), -MT_E_CORRUPT);
    mt_buf_done(&b);
}

static int check(enum mt_ev ev, const char *text, struct mt_err *err)
{
    struct mt_buf b = MT_BUF_INIT(MT_EV_PAYLOAD_MAX * 2);
    json_t *v = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!v)
        fail_msg("test text '%s' is no JSON", text);
    int r = mt_ev_payload(ev, v, &b, err);
    json_decref(v);
    mt_buf_done(&b);
    return r;
}

static void payloads_that_do_not_fit_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        enum mt_ev ev;
        const char *text, *says;
    } cases[] = {
        {MT_EV_ORG_CREATED, "{}", "field 'name' is missing"},
        {MT_EV_ORG_CREATED, "[]", "not an object"},
        {MT_EV_ORG_CREATED, "{\"name\": 1}", "field 'name' is not a text"},
        {MT_EV_ORG_CREATED, "{\"name\": \"x\", \"nmae\": 1}", "did you mean 'name'"},
        {MT_EV_ORG_CREATED, "{\"name\": \"a\\u0000b\"}", "U+0000"},
        {MT_EV_CLUSTER_CONFIG_SET, "{\"key\": \"k\", \"value\": 1.5, \"reason\": \"r\"}", "field 'value': there are no floating"},
        {MT_EV_CLUSTER_CONFIG_SET, "{\"key\": \"k\", \"value\": {\"a\": [9007199254740992]}, \"reason\": \"r\"}",
         "field 'value.a[0]': integers stay"},
        {MT_EV_CLUSTER_CONFIG_SET, "{\"key\": \"k\", \"value\": {\"a\\\"b\": 1}, \"reason\": \"r\"}", "a key may not hold"},
        {MT_EV_DEPLOY_STATUS_CHANGED, "{\"status\": \"rollin\"}", "field 'status' is not one of queued|rolling"},
        {MT_EV_ENV_RESTART_REQUESTED, "{\"process_types\": [\"web\", \"web\"], \"deploy_id\": \"d\"}", "names 'web' twice"},
        {MT_EV_ENV_SCALE_SET, "{\"scales\": [{\"process_type\": \"web\", \"desired\": -1}]}", "scales[0]"},
        {MT_EV_ENV_SCALE_SET,
         "{\"scales\": [{\"process_type\": \"w\", \"desired\": 1}, {\"process_type\": \"w\", \"desired\": null}]}", "twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mt_err err = {0};
        assert_int_equal(check(cases[i].ev, cases[i].text, &err), -MT_E_INVALID);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, cases[i].says);
    }
    struct mt_err err = {0};
    struct mt_buf big = MT_BUF_INIT(1u << 20);
    mt_buf_puts(&big, "{\"key\": \"k\", \"reason\": \"r\", \"value\": \"");
    for (int i = 0; i < MT_EV_PAYLOAD_MAX; i++)
        mt_buf_putc(&big, 'x');
    mt_buf_puts(&big, "\"}");
    int r = check(MT_EV_CLUSTER_CONFIG_SET, mt_buf_cstr(&big), &err);
    mt_buf_done(&big);
    assert_int_equal(r, -MT_E_LIMIT);
}

static void every_type_has_a_schema_and_an_aggregate(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MT_EV_MAX; i++) {
        assert_non_null(mt_ev_fields((enum mt_ev)i));
        const struct mt_ev_info *info = mt_ev_info((enum mt_ev)i);
        assert_true(mt_starts_with(info->type, info->aggregate_type));
        assert_int_equal(mt_ev_by_name(info->type), i);
    }
    assert_int_equal(mt_ev_by_name("no.such"), MT_EV_MAX);
}

/* docs/formats/event-log.md holds the same vector; a change of the format must fail here. */
static void the_chain_hash_is_the_documented_one(void **state)
{
    (void)state;
    const uint8_t zero[32] = {0};
    const char payload[] = "{\"name\":\"acme\"}";
    const struct mt_chain_event e = {
        .event_id = 1, .occurred_us = INT64_C(1767225600000001), .org_id = "org_1", .aggregate_type = "org", .aggregate_id = "org_1",
        .aggregate_seq = 1, .event_type = "org.created", .event_version = 1, .actor_type = "operator", .actor_id = "usr_1",
        .request_id = "req_1", .payload = payload, .payload_len = sizeof payload - 1};
    struct mt_buf b = MT_BUF_INIT(4096);
    struct mt_err err = {0};
    uint8_t hash[32];
    char text[65];
    assert_int_equal(mt_chain_hash(zero, &e, &b, hash, &err), 0);
    assert_string_equal(mt_buf_cstr(&b),
                        "{\"actor_id\":\"usr_1\",\"actor_type\":\"operator\",\"aggregate_id\":\"org_1\",\"aggregate_seq\":1,"
                        "\"aggregate_type\":\"org\",\"app_id\":null,\"causation_id\":null,\"correlation_id\":null,\"env_id\":null,"
                        "\"event_id\":1,\"event_type\":\"org.created\",\"event_version\":1,\"idempotency_key\":null,"
                        "\"occurred_at\":\"2026-01-01T00:00:00.000001Z\",\"org_id\":\"org_1\",\"payload\":{\"name\":\"acme\"},"
                        "\"request_id\":\"req_1\"}");
    mt_hex_encode(hash, 32, text);
    assert_string_equal(text, "2c74b9c26c0e96ba2b8096cfa48a7881dc0ee099d9f12cab9b1a81777c5f1ec9");
    mt_buf_done(&b);
}

static struct mt_proj_event ev(enum mt_ev type, const char *id, const char *app, const char *part)
{
    struct mt_proj_event e = {.ev = type};
    json_t *p = part ? json_pack("{s:s,s:s}", "process_type", part, "key", part) : json_object();
    mt_proj_keys_of(type, id, app, p, &e.keys);
    json_decref(p);
    return e;
}

static void rounds_keep_the_order_that_matters(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_proj_round r[8];
    /* different rows, rising order of types: one round */
    const struct mt_proj_event one[] = {ev(MT_EV_APP_CREATED, "a1", "a1", NULL), ev(MT_EV_APP_CREATED, "a2", "a2", NULL),
                                        ev(MT_EV_ENV_CREATED, "e1", "a1", NULL), ev(MT_EV_RELEASE_CREATED, "r1", "a1", NULL),
                                        ev(MT_EV_RELEASE_CREATED, "r2", "a1", NULL),
                                        ev(MT_EV_ENV_DESIRED_RELEASE_SET, "e1", "a1", "web"),
                                        ev(MT_EV_ENV_DESIRED_RELEASE_SET, "e1", "a1", "worker"), ev(MT_EV_ENV_SCALE_SET, "e1", "a1", NULL)};
    assert_int_equal(mt_proj_rounds(one, 8, r, &err), 1);
    assert_int_equal(r[0].count, 8);
    /* the same row twice with the same type */
    const struct mt_proj_event twice[] = {ev(MT_EV_INSTANCE_STATUS_CHANGED, "i1", NULL, NULL), ev(MT_EV_INSTANCE_STATUS_CHANGED, "i2", NULL, NULL),
                                          ev(MT_EV_INSTANCE_STATUS_CHANGED, "i1", NULL, NULL)};
    assert_int_equal(mt_proj_rounds(twice, 3, r, &err), 2);
    assert_int_equal(r[1].first, 2);
    /* the same process type twice, and all process types after one */
    const struct mt_proj_event parts[] = {ev(MT_EV_ENV_SCALE_SET, "e1", NULL, NULL), ev(MT_EV_ENV_DESIRED_RELEASE_SET, "e1", NULL, "web"),
                                          ev(MT_EV_ENV_DESIRED_RELEASE_SET, "e1", NULL, "web")};
    assert_int_equal(mt_proj_rounds(parts, 3, r, &err), 3);
    /* a name taken, then freed: the free statement would run first */
    const struct mt_proj_event names[] = {ev(MT_EV_ROUTE_CREATED, "t1", NULL, NULL), ev(MT_EV_ROUTE_DELETED, "t2", NULL, NULL)};
    assert_int_equal(mt_proj_rounds(names, 2, r, &err), 2);
    const struct mt_proj_event freed[] = {ev(MT_EV_ROUTE_DELETED, "t2", NULL, NULL), ev(MT_EV_ROUTE_CREATED, "t1", NULL, NULL)};
    assert_int_equal(mt_proj_rounds(freed, 2, r, &err), 1);
    /* a release touches its app's row: after an update of the app comes a new round, before it does not */
    const struct mt_proj_event app[] = {ev(MT_EV_APP_UPDATED, "a1", "a1", NULL), ev(MT_EV_RELEASE_CREATED, "r1", "a1", NULL)};
    assert_int_equal(mt_proj_rounds(app, 2, r, &err), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_writers_agree_on_the_canonical_form),
        cmocka_unit_test(text_that_is_no_stored_json_is_refused),
        cmocka_unit_test(payloads_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(every_type_has_a_schema_and_an_aggregate),
        cmocka_unit_test(the_chain_hash_is_the_documented_one),
        cmocka_unit_test(rounds_keep_the_order_that_matters),
    };
    return cmocka_run_group_tests_name("eventlog-canon", tests, NULL, NULL);
}
