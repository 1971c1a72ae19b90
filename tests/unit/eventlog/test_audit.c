/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records against a real server: written with the command, chained per organisation, every altered byte found. */
#include "lab.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/audit/seal.h"
#include "control/audit/verify.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct lab lab;
static struct mt_pg *sealer; /* as the role that seals */

static int up(void **state)
{
    (void)state;
    struct mt_err err = {0};
    int r = lab_up(&lab, &err);
    if (r == 0)
        r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.control, .role = "moat_projector"}, &sealer, &err);
    if (r < 0)
        print_error("%s\n", err.msg);
    return r;
}

static int down(void **state)
{
    (void)state;
    mt_pg_free(sealer);
    lab_down(&lab);
    return 0;
}

static struct mt_audit_rec record(const char *id, const char *org, int64_t ts_us)
{
    struct mt_audit_rec r = {.ts_us = ts_us};
    r.text[MT_AUDIT_T_audit_id] = id;
    r.text[MT_AUDIT_T_org_id] = org;
    r.text[MT_AUDIT_T_action] = "app.create";
    r.text[MT_AUDIT_T_actor_type] = "user";
    r.text[MT_AUDIT_T_actor_id] = "usr_1";
    r.text[MT_AUDIT_T_decision] = "allow";
    r.text[MT_AUDIT_T_result] = "ok";
    return r;
}

static struct mt_cmd *org_cmd(const char *org, const char *name, const char *audit_id)
{
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(8192);
    struct mt_err err = {0};
    struct mt_cmd *c = lab_cmd();
    const struct mt_audit_rec r = record(audit_id, org, 0);
    lab_event(c, MT_EV_ORG_CREATED, org, org, NULL, NULL, json_pack("{s:s}", "name", name));
    assert_int_equal(mt_audit_put(&r, &json, &err), 0);
    assert_int_equal(mt_cmd_audit(c, (const char *)json.p, json.len, &err), 0);
    return c;
}

static int seal_all(char *const *extra, int n)
{
    struct mt_err err = {0};
    int total = 0, got = 0;
    bool more = false;
    do {
        got = mt_audit_seal(sealer, extra, n, &more, &err);
        if (got < 0)
            fail_msg("%s", err.msg);
        total += got;
        n = 0;
    } while (more);
    return total;
}

struct found {
    int chains, bad;
    int64_t records, pending;
    struct mt_audit_verdict last, first_bad;
};

static void note(void *arg, const struct mt_audit_verdict *v)
{
    struct found *f = arg;
    f->chains++;
    f->records += v->records;
    f->last = *v;
    if (v->bad_seq && !f->bad++)
        f->first_bad = *v;
}

static struct found verify(const char *chain)
{
    struct found f = {0};
    struct mt_err err = {0};
    if (mt_audit_verify(lab.pg, chain, note, &f, &f.pending, &err) < 0)
        fail_msg("%s", err.msg);
    return f;
}

/* As one who got past every guard of the database. */
static void tamper(const char *sql)
{
    struct mt_err err = {0};
    char text[600];
    (void)snprintf(text, sizeof text, "SET session_replication_role = replica; %s; SET session_replication_role = origin", sql);
    if (mt_pg_exec(lab.pg, text, &err) < 0)
        fail_msg("%s", err.msg);
}

static void the_genesis_is_that_of_the_specification(void **state)
{
    (void)state;
    struct mt_err err = {0};
    uint8_t h[32];
    char hex[65];
    assert_int_equal(mt_audit_genesis("org_01HZ0000000000000000000001", h, &err), 0);
    mt_hex_encode(h, 32, hex);
    assert_string_equal(hex, "41cb869b2be5c6e9f137ca5595118d9a566df7dd61dcde25df0e832fbe2ded82");
}

static void the_bytes_that_are_hashed_are_canonical(void **state)
{
    (void)state;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(8192);
    struct mt_err err = {0};
    struct mt_audit_rec r = record("aud_1", "org_1", INT64_C(1767225600000001));
    uint8_t prev[32] = {0}, h[32];
    r.event_id = 7;
    assert_int_equal(mt_audit_hash(prev, "org_1", 3, &r, &b, h, &err), 0);
    assert_string_equal(mt_buf_cstr(&b) + 32,
                        "{\"action\":\"app.create\",\"actor_id\":\"usr_1\",\"actor_type\":\"user\",\"app_id\":null,\"audit_id\":\"aud_1\","
                        "\"chain\":\"org_1\",\"decision\":\"allow\",\"env_id\":null,\"error_code\":null,\"event_id\":7,"
                        "\"idempotency_key_hash\":null,\"org_id\":\"org_1\",\"reason\":null,\"request_id\":null,\"resource_id\":null,"
                        "\"resource_type\":null,\"result\":\"ok\",\"scopes\":null,\"seq\":3,\"source_ip\":null,\"token_id\":null,"
                        "\"ts\":\"2026-01-01T00:00:00.000001Z\",\"user_agent\":null}");
}

static void a_line_comes_back_as_it_was_and_hostile_text_is_tamed(void **state)
{
    (void)state;
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(16384), line = MT_BUF_INIT(16384);
    struct mt_err err = {0};
    struct mt_audit_rec r = record("aud_1", NULL, 0), back;
    json_t *tree = NULL;
    char longer[900];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    r.text[MT_AUDIT_T_user_agent] = longer;
    r.text[MT_AUDIT_T_reason] = "a\nb\xff\"";
    assert_int_equal(mt_audit_put(&r, &json, &err), 0);
    mt_audit_put_line(&line, 12, 2, 99, (const char *)json.p, json.len);
    assert_int_equal(mt_audit_parse_line((const char *)line.p, line.len - 1, &back, &tree, &err), 0);
    assert_int_equal(back.event_id, 12);
    assert_int_equal(back.ts_us, 99);
    assert_string_equal(back.text[MT_AUDIT_T_reason], "a?b?\"");
    assert_in_range(strlen(back.text[MT_AUDIT_T_user_agent]), 400, MT_AUDIT_TEXT_MAX);
    assert_string_equal(mt_audit_chain(&back), "platform");
    json_decref(tree);
    static const char *const wrong[] = {
        "", "[]", "[1,1,1]", "[1,1,1,{}]", "[-1,1,1,{\"action\":\"a\",\"audit_id\":\"b\",\"decision\":\"c\",\"result\":\"d\"}]",
        "[1,1,1,{\"action\":\"a\",\"audit_id\":\"b\",\"decision\":\"c\",\"result\":\"d\",\"body\":\"x\"}]",
        "[1,1,1,{\"action\":1,\"audit_id\":\"b\",\"decision\":\"c\",\"result\":\"d\"}]",
        "[1,1,1,{\"action\":\"a\",\"action\":\"a\",\"audit_id\":\"b\",\"decision\":\"c\",\"result\":\"d\"}]"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(mt_audit_parse_line(wrong[i], strlen(wrong[i]), &back, &tree, &err), -MT_E_CORRUPT);
}

static void a_command_leaves_its_record_and_a_refused_one_none(void **state)
{
    (void)state;
    struct mt_cmd_done done;
    struct mt_err err = {0};
    int64_t id = lab_done(&lab, org_cmd("org_a", "a", "aud_a1"));
    assert_int_equal(mt_append(lab.ap, org_cmd("org_b", "a", "aud_b1"), 5000, &done, &err), -MT_E_CONFLICT); /* the name is taken */
    mt_cmd_done_free(&done);
    assert_int_equal(verify(NULL).pending, 1);
    assert_int_equal(seal_all(NULL, 0), 1);
    char want[100];
    (void)snprintf(want, sizeof want, "org_a 1 aud_a1 %lld true", (long long)id);
    assert_string_equal(lab_text(&lab, "SELECT chain || ' ' || seq || ' ' || audit_id || ' ' || event_id || ' ' ||"
                                       " (l.ts = e.occurred_at)::text FROM moat.audit_log l JOIN moat.events e USING (event_id)"),
                        want);
    struct found f = verify(NULL);
    assert_int_equal(f.bad, 0);
    assert_int_equal(f.chains, 1);
    assert_int_equal(f.records, 1);
    assert_int_equal(f.pending, 0);
}

static void each_organisation_has_a_chain_and_the_rest_is_the_platforms(void **state)
{
    (void)state;
    struct mt_err err = {0};
    for (int i = 0; i < 12; i++) {
        char id[20];
        (void)snprintf(id, sizeof id, "aud_c%d", i);
        const struct mt_audit_rec r = record(id, i % 3 == 0 ? "org_a" : i % 3 == 1 ? "org_c" : NULL, mt_clock_wall_us());
        assert_int_equal(mt_audit_write(lab.pg, &r, &err), 0);
    }
    assert_int_equal(seal_all(NULL, 0), 12);
    assert_string_equal(lab_text(&lab, "SELECT string_agg(chain || '=' || last_seq, ' ' ORDER BY chain) FROM moat.audit_chains"),
                        "org_a=5 org_c=4 platform=4");
    struct found f = verify(NULL);
    assert_int_equal(f.bad, 0);
    assert_int_equal(f.records, 13);
    assert_int_equal(verify("org_c").records, 4);
}

static void the_database_refuses_to_change_or_delete_a_record(void **state)
{
    (void)state;
    struct mt_err err = {0};
    static const char *const sqls[] = {"UPDATE moat.audit_log SET action = 'x'", "DELETE FROM moat.audit_log", "TRUNCATE moat.audit_log"};
    for (int i = 0; i < 3; i++)
        assert_int_equal(mt_pg_exec(lab.pg, sqls[i], &err), -MT_E_CONFLICT);
    assert_true(mt_pg_exec(sealer, "DELETE FROM audit_log", &err) < 0); /* no grant either */
    assert_non_null(strstr(err.msg, "permission denied"));
}

static void a_change_of_any_column_is_found_and_named(void **state)
{
    (void)state;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    static const struct mt_pg_stmt columns = {
        "test_columns", "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'moat.audit_log'::regclass"
                        " AND attnum > 0 ORDER BY attnum"};
    struct mt_err err = {0};
    assert_int_equal(mt_pg_query(lab.pg, &columns, NULL, &res, &err), 0);
    assert_int_equal(mt_pg_rows(res), 25);
    tamper("CREATE TABLE moat.kept AS SELECT * FROM moat.audit_log");
    for (int i = 0; i < mt_pg_rows(res); i++) {
        const char *col = mt_pg_text(res, i, 0), *type = mt_pg_text(res, i, 1);
        char sql[400];
        char expr[120];
        (void)snprintf(expr, sizeof expr, MT_STREQ(type, "bytea") ? "set_byte(%s, 31, get_byte(%s, 31) # 1)"
                                          : MT_STREQ(type, "text") ? "COALESCE(%s, '') || 'x'"
                                          : MT_STREQ(type, "bigint") ? "COALESCE(%s, 0) + 100" : "%s + interval '1 microsecond'",
                       col, col);
        (void)snprintf(sql, sizeof sql, "UPDATE moat.audit_log SET %s = %s WHERE chain = 'org_a' AND seq = 2", col, expr);
        tamper(sql);
        struct found f = verify(NULL);
        if (f.bad == 0 || !MT_STREQ(f.first_bad.chain, "org_a") || f.first_bad.bad_seq != 2)
            fail_msg("column %s: bad %d in %s at %lld", col, f.bad, f.first_bad.chain, (long long)f.first_bad.bad_seq);
        tamper("DELETE FROM moat.audit_log; INSERT INTO moat.audit_log SELECT * FROM moat.kept");
        assert_int_equal(verify(NULL).bad, 0);
    }
}

static void a_record_taken_out_anywhere_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *sql;
        int64_t at;
    } cuts[] = {{"DELETE FROM moat.audit_log WHERE chain = 'org_a' AND seq = 1", 1},
                {"DELETE FROM moat.audit_log WHERE chain = 'org_a' AND seq = 3", 3},
                {"DELETE FROM moat.audit_log WHERE chain = 'org_a' AND seq = 5", 5},
                {"DELETE FROM moat.audit_chains WHERE chain = 'org_a'", 1},
                {"UPDATE moat.audit_chains SET last_hash = set_byte(last_hash, 0, get_byte(last_hash, 0) # 128) WHERE chain = 'org_a'", 5}};
    tamper("CREATE TABLE moat.kept_chains AS SELECT * FROM moat.audit_chains");
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        tamper(cuts[i].sql);
        struct found f = verify(NULL);
        assert_int_equal(f.bad, 1);
        assert_string_equal(f.first_bad.chain, "org_a");
        assert_int_equal(f.first_bad.bad_seq, cuts[i].at);
        tamper("DELETE FROM moat.audit_log; INSERT INTO moat.audit_log SELECT * FROM moat.kept;"
               " DELETE FROM moat.audit_chains; INSERT INTO moat.audit_chains SELECT * FROM moat.kept_chains");
    }
    assert_int_equal(verify(NULL).bad, 0);
}

static void what_retention_takes_away_leaves_a_chain_that_holds(void **state)
{
    (void)state;
    struct mt_err err = {0};
    const int64_t day = INT64_C(86400) * 1000000, now = mt_clock_wall_us();
    char ids[60][16];
    for (int i = 0; i < 60; i++) {
        (void)snprintf(ids[i], sizeof ids[i], "aud_p%d", i);
        const struct mt_audit_rec r = record(ids[i], "org_old", now - (i < 40 ? 401 : 399) * day);
        assert_int_equal(mt_audit_write(lab.pg, &r, &err), 0);
    }
    assert_int_equal(seal_all(NULL, 0), 60);
    assert_true(mt_pg_exec(sealer, "SELECT moat.audit_prune(89, 100)", &err) < 0); /* the shortest retention is 90 days */
    assert_int_equal(mt_pg_exec(sealer, "SELECT moat.audit_prune(400, 25)", &err), 0);
    assert_string_equal(lab_text(&lab, "SELECT anchor_seq || ' ' || last_seq FROM moat.audit_chains WHERE chain = 'org_old'"), "25 60");
    assert_int_equal(mt_pg_exec(sealer, "SELECT moat.audit_prune(400, 25)", &err), 0);
    assert_int_equal(mt_pg_exec(sealer, "SELECT moat.audit_prune(400, 25)", &err), 0);
    struct found f = verify("org_old");
    assert_int_equal(f.bad, 0);
    assert_int_equal(f.records, 20);
    assert_int_equal(f.last.anchor_seq, 40);
    assert_int_equal(f.last.head_seq, 60);
    const struct mt_audit_rec r = record("aud_after", "org_old", now);
    assert_int_equal(mt_audit_write(lab.pg, &r, &err), 0); /* the chain goes on */
    assert_int_equal(seal_all(NULL, 0), 1);
    assert_int_equal(verify("org_old").records, 21);
    tamper("UPDATE moat.audit_chains SET anchor_hash = set_byte(anchor_hash, 3, get_byte(anchor_hash, 3) # 1) WHERE chain = 'org_old'");
    assert_int_equal(verify("org_old").first_bad.bad_seq, 41);
    tamper("UPDATE moat.audit_chains SET anchor_hash = set_byte(anchor_hash, 3, get_byte(anchor_hash, 3) # 1) WHERE chain = 'org_old'");
}

static void a_line_nobody_can_read_stops_nothing_and_is_told(void **state)
{
    (void)state;
    char bad[] = "[1,2,{]", good[400];
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(8192);
    struct mt_err err = {0};
    const struct mt_audit_rec r = record("aud_good", "org_a", 5);
    assert_int_equal(mt_audit_put(&r, &json, &err), 0);
    (void)snprintf(good, sizeof good, "[0,0,5,%s]", mt_buf_cstr(&json));
    char *lines[] = {bad, good};
    assert_int_equal(seal_all(lines, 2), 2);
    assert_string_equal(lab_text(&lab, "SELECT chain || ' ' || result FROM moat.audit_log WHERE action = 'audit.unreadable'"), "platform error");
    assert_int_equal(verify(NULL).bad, 0);
}

/* Commands of many threads while two sealers run: every command has one record, in one piece. */
struct writer {
    pthread_t thread;
    int n;
    bool failed;
};

static void *write_orgs(void *arg)
{
    struct writer *w = arg;
    for (int i = 0; i < 40; i++) {
        char org[40], id[40];
        struct mt_cmd_done done;
        struct mt_err err = {0};
        (void)snprintf(org, sizeof org, "org_w%d-%d", w->n, i);
        (void)snprintf(id, sizeof id, "aud_w%d-%d", w->n, i);
        w->failed |= mt_append(lab.ap, org_cmd(org, org, id), 10000, &done, &err) < 0;
        mt_cmd_done_free(&done);
    }
    return NULL;
}

static void many_writers_and_two_sealers_lose_and_double_nothing(void **state)
{
    (void)state;
    struct writer w[16] = {0};
    struct mt_audit *a[2] = {0};
    struct mt_audit_stats st;
    struct mt_err err = {0};
    for (int i = 0; i < 2; i++)
        assert_int_equal(mt_audit_new(&(struct mt_audit_conf){.pg = {.conninfo = lab.sc.control, .role = "moat_projector"},
                                                              .retention_days = 400, .interval_ms = 5}, &a[i], &err), 0);
    for (int i = 0; i < 16; i++) {
        w[i].n = i;
        assert_int_equal(pthread_create(&w[i].thread, NULL, write_orgs, &w[i]), 0);
    }
    const struct mt_audit_rec denied = record("aud_denied", NULL, mt_clock_wall_us());
    mt_audit_note(a[0], &denied);
    for (int i = 0; i < 16; i++) {
        (void)pthread_join(w[i].thread, NULL);
        assert_false(w[i].failed);
    }
    assert_true(mt_audit_settle(a[0], 10000));
    assert_true(mt_audit_settle(a[1], 10000));
    assert_string_equal(lab_text(&lab, "SELECT count(*) || ' ' || count(DISTINCT event_id) FROM moat.audit_log WHERE audit_id LIKE 'aud_w%'"), "640 640");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM moat.audit_log WHERE audit_id = 'aud_denied'"), "1");
    mt_audit_stats(a[0], &st);
    assert_int_equal(st.dropped, 0);
    mt_audit_free(a[0]);
    mt_audit_free(a[1]);
    struct found f = verify(NULL);
    assert_int_equal(f.bad, 0);
    assert_int_equal(f.pending, 0);
}

static void a_full_queue_drops_and_counts(void **state)
{
    (void)state;
    struct mt_audit *a = NULL;
    struct mt_audit_stats st;
    struct mt_err err = {0};
    assert_int_equal(mt_audit_new(&(struct mt_audit_conf){.pg = {.conninfo = "host=/nowhere dbname=none"}, .interval_ms = 5}, &a, &err), 0);
    const struct mt_audit_rec r = record("aud_flood", NULL, 1);
    for (int i = 0; i < MT_AUDIT_QUEUE_MAX + 76; i++)
        mt_audit_note(a, &r);
    mt_audit_stats(a, &st);
    assert_int_equal(st.dropped, 76);
    assert_int_equal(st.queued, MT_AUDIT_QUEUE_MAX);
    assert_false(mt_audit_settle(a, 20));
    mt_audit_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_genesis_is_that_of_the_specification),
        cmocka_unit_test(the_bytes_that_are_hashed_are_canonical),
        cmocka_unit_test(a_line_comes_back_as_it_was_and_hostile_text_is_tamed),
        cmocka_unit_test(a_command_leaves_its_record_and_a_refused_one_none),
        cmocka_unit_test(each_organisation_has_a_chain_and_the_rest_is_the_platforms),
        cmocka_unit_test(the_database_refuses_to_change_or_delete_a_record),
        cmocka_unit_test(a_change_of_any_column_is_found_and_named),
        cmocka_unit_test(a_record_taken_out_anywhere_is_found),
        cmocka_unit_test(what_retention_takes_away_leaves_a_chain_that_holds),
        cmocka_unit_test(a_line_nobody_can_read_stops_nothing_and_is_told),
        cmocka_unit_test(many_writers_and_two_sealers_lose_and_double_nothing),
        cmocka_unit_test(a_full_queue_drops_and_counts),
    };
    return cmocka_run_group_tests(tests, up, down);
}
