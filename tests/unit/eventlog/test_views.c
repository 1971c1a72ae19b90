/* SPDX-License-Identifier: Apache-2.0 */
/* Rebuilding and verifying the views: against what appending made of random histories, with old definitions, old event
 * versions, damage, and writers beside it. */
#include "control/views/projections.h"
#include "control/views/rebuild.h"
#include "history.h"
#include "lab.h"

#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct lab lab;
static uint64_t seed;

static int setup(void **state)
{
    struct mt_err err = {0};
    (void)state;
    mt_log_init("test", MT_ERROR, false);
    seed = getenv("MOAT_SEED") ? strtoull(getenv("MOAT_SEED"), NULL, 10) : (uint64_t)mt_clock_wall_us();
    printf("# seed %llu\n", (unsigned long long)seed);
    if (lab_up(&lab, &err) < 0) {
        print_message("SKIP: no PostgreSQL: %s\n", err.msg);
        return -1;
    }
    /* Nothing crashes here, and every rebuild makes some hundred files. */
    return mt_pg_exec(lab.pg, "ALTER SYSTEM SET fsync = off", &err) < 0 ? -1 : mt_pg_exec(lab.pg, "SELECT pg_reload_conf()", &err);
}

static int teardown(void **state)
{
    (void)state;
    lab_down(&lab);
    return 0;
}

static void one(struct history *h)
{
    struct mt_cmd *c = NULL;
    struct mt_err err = {0};
    if (history_next(h, &c, &err) < 0)
        fail_msg("%s", err.msg);
    (void)lab_done(&lab, c);
}

static void grow(const char *tag, int commands)
{
    static struct history h;
    history_init(&h, tag, seed ^ mt_proj_hash(tag, NULL));
    while (h.n < commands)
        one(&h);
}

static struct mt_pg *owner(void)
{
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.owner}, &pg, &err) < 0)
        fail_msg("%s", err.msg);
    return pg;
}

static void verify(struct mt_views_verdict *v)
{
    struct mt_err err = {0};
    mt_auto_pg struct mt_pg *pg = owner();
    if (mt_views_verify(pg, NULL, v, &err) < 0)
        fail_msg("%s", err.msg);
}

static void equal(void)
{
    struct mt_views_verdict v;
    verify(&v);
    if (v.differences)
        fail_msg("%lld rows differ, first in %s.%s: live %s rebuilt %s", (long long)v.differences, v.view, v.column, v.live, v.rebuilt);
    assert_true(v.rows > 0);
}

static void rebuild(const char *name)
{
    struct mt_err err = {0};
    struct mt_rebuild_report report;
    mt_auto_pg struct mt_pg *pg = owner();
    if (mt_views_rebuild(pg, name, NULL, &report, &err) < 0)
        fail_msg("%s", err.msg);
    assert_true(report.events > 0);
}

static void run_sql(const char *sql)
{
    struct mt_err err = {0};
    if (mt_pg_exec(lab.pg, sql, &err) < 0)
        fail_msg("%s", err.msg);
}

static void a_random_history_rebuilds_to_the_same_rows(void **state)
{
    (void)state;
    grow("a", 800);
    equal();
}

static void a_row_changed_by_hand_is_named_and_mended(void **state)
{
    (void)state;
    struct mt_views_verdict v;
    run_sql("UPDATE moat_views.apps_view SET description = 'forged' WHERE app_id = (SELECT min(app_id) FROM moat_views.apps_view)");
    verify(&v);
    assert_int_equal(v.differences, 1);
    assert_string_equal(v.view, "apps_view");
    assert_string_equal(v.column, "description");
    assert_non_null(strstr(v.live, "forged"));
    run_sql("DELETE FROM moat_views.instances_view WHERE instance_id = (SELECT min(instance_id) FROM moat_views.instances_view)");
    verify(&v);
    assert_int_equal(v.differences, 2);
    rebuild(NULL);
    equal();
}

static void one_view_alone_is_made_again(void **state)
{
    (void)state;
    run_sql("UPDATE moat_views.hostname_owners_view SET route_count = 77; UPDATE moat_views.orgs_view SET name = 'forged'");
    rebuild("hostname_owners_view");
    struct mt_views_verdict v;
    verify(&v);
    assert_string_equal(v.view, "orgs_view"); /* the other one stays as it was */
    rebuild("orgs_view");
    equal();
    assert_string_equal(lab_text(&lab, "SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace WHERE nspname LIKE 'moat%'"), "moat,moat_views");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'moat_views'::regnamespace AND relpersistence <> 'p'"), "0");
}

static void an_unknown_view_is_refused_with_the_nearest_name(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_rebuild_report report;
    mt_auto_pg struct mt_pg *pg = owner();
    assert_int_equal(mt_views_rebuild(pg, "app_view", NULL, &report, &err), -MT_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "apps_view"));
}

/* ---- beside writers ---- */

static atomic_bool over;
static _Atomic int64_t written;
static _Atomic int64_t worst_us;

static void *writer(void *arg)
{
    static struct history h;
    (void)arg;
    history_init(&h, "w", seed + 1);
    while (!atomic_load(&over)) {
        struct mt_cmd *c = NULL;
        struct mt_cmd_done done;
        struct mt_err err = {0};
        int64_t from = mt_clock_mono();
        if (history_next(&h, &c, &err) < 0 || mt_append(lab.ap, c, 20000, &done, &err) < 0) {
            (void)fprintf(stderr, "writer: %s\n", err.msg);
            return (void *)1;
        }
        mt_cmd_done_free(&done);
        int64_t us = (mt_clock_mono() - from) / 1000;
        if (us > atomic_load(&worst_us))
            atomic_store(&worst_us, us);
        atomic_fetch_add(&written, 1);
    }
    return NULL;
}

/* Reads under one snapshot, as a pass of the scheduler does: no view may be empty while the others are not. */
static void *reader(void *arg)
{
    static const struct mt_pg_stmt a = {"t_a", "SELECT count(*) FROM apps_view"}, i = {"t_i", "SELECT count(*) FROM instances_view"};
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    const char *how = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE moat.views_state IN ACCESS SHARE MODE";
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.control, .options = MT_LOG_SEES_ALL}, &pg, &err) < 0)
        return (void *)1;
    while (!atomic_load(&over)) {
        struct mt_pg_res *r1 = NULL, *r2 = NULL;
        if (mt_pg_exec(pg, how, &err) < 0 || mt_pg_query_one(pg, &a, NULL, &r1, &err) < 0 ||
            mt_pg_exec(pg, arg ? "SELECT pg_sleep(1.2)" : "SELECT pg_sleep(0.002)", &err) < 0 || mt_pg_query_one(pg, &i, NULL, &r2, &err) < 0 || mt_pg_exec(pg, "COMMIT", &err) < 0) {
            (void)fprintf(stderr, "reader: %s\n", err.msg);
            return (void *)1;
        }
        bool empty = mt_pg_i64(r1, 0, 0) == 0 || mt_pg_i64(r2, 0, 0) == 0;
        mt_pg_res_free(r1);
        mt_pg_res_free(r2);
        if (empty) {
            (void)fprintf(stderr, "reader: a view was empty\n");
            return (void *)1;
        }
    }
    mt_pg_free(pg);
    return NULL;
}

static void writers_and_readers_go_on_beside_rebuilds(void **state)
{
    (void)state;
    pthread_t t[3];
    void *failed = NULL, *any = NULL;
    assert_int_equal(pthread_create(&t[0], NULL, writer, NULL), 0);
    assert_int_equal(pthread_create(&t[1], NULL, reader, NULL), 0);
    assert_int_equal(pthread_create(&t[2], NULL, reader, &lab), 0);
    for (int i = 0; i < 3; i++)
        rebuild(i == 1 ? "routes_view" : NULL);
    struct mt_views_verdict v;
    verify(&v);
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(t[i], &failed);
        any = failed ? failed : any;
    }
    printf("# %lld commands beside 3 rebuilds, the slowest took %lld ms\n", (long long)atomic_load(&written), (long long)atomic_load(&worst_us) / 1000);
    assert_null(any);
    assert_int_equal(v.differences, 0);
    assert_true(atomic_load(&written) > 0);
    equal();
}

/* ---- definitions that change ---- */

static void a_changed_definition_rebuilds_at_the_next_migration(void **state)
{
    (void)state;
    struct mt_err err = {0};
    /* as an older program left it: a column less, another one more, and a fingerprint that nobody knows */
    run_sql("ALTER TABLE moat_views.apps_view DROP COLUMN description; ALTER TABLE moat_views.orgs_view ADD COLUMN antique text;"
            "DROP TABLE moat_views.cluster_view; UPDATE moat.views_state SET fingerprint = 'antique';"
            "DELETE FROM moat.projection_checkpoints WHERE projection = 'cluster_view'");
    mt_auto_pg struct mt_pg *pg = owner();
    if (mt_log_migrate(pg, NULL, &err) < 0)
        fail_msg("%s", err.msg);
    equal();
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM information_schema.columns WHERE column_name = 'antique'"), "0");
    assert_string_equal(lab_text(&lab, "SELECT state FROM moat.projection_checkpoints WHERE projection = 'cluster_view'"), "live");
    grow("b", 100);
    equal();
}

static void an_older_program_leaves_newer_views_alone(void **state)
{
    (void)state;
    struct mt_err err = {0};
    bool rebuilt = true;
    /* the database went on to a newer definition with a column more */
    run_sql("UPDATE moat.views_state SET is_current = false; INSERT INTO moat.views_state VALUES ('newer', true);"
            "ALTER TABLE moat_views.orgs_view ADD COLUMN novel text");
    mt_auto_pg struct mt_pg *pg = owner();
    assert_int_equal(mt_views_settle(pg, NULL, &rebuilt, &err), 0);
    assert_false(rebuilt);
    grow("c", 50); /* and works with them */
    run_sql("ALTER TABLE moat_views.orgs_view DROP COLUMN billing_email"); /* a column it needs is gone: it has to */
    assert_int_equal(mt_views_settle(pg, NULL, &rebuilt, &err), 0);
    assert_true(rebuilt);
    equal();
}

/* ---- the fence between tenants (log/fence.sql) ---- */

static struct mt_pg *as_control(const char *options)
{
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = lab.sc.control, .options = options}, &pg, &err) < 0)
        fail_msg("%s", err.msg);
    return pg;
}

/* What a session sees: of $1's rows and of those of others. */
static void sees(struct mt_pg *pg, const char *org, int64_t ret[2])
{
    static const struct mt_pg_stmt st = {
        "t_sees", "SELECT count(*) FILTER (WHERE org_id = $1), count(*) FILTER (WHERE org_id IS DISTINCT FROM $1) FROM (SELECT org_id FROM moat.events"
                  " UNION ALL SELECT org_id FROM orgs_view UNION ALL SELECT org_id FROM apps_view UNION ALL SELECT org_id FROM releases_view) x"};
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    struct mt_err err = {0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org);
    if (mt_pg_query_one(pg, &st, &p, &res, &err) < 0)
        fail_msg("%s", err.msg);
    ret[0] = mt_pg_i64(res, 0, 0);
    ret[1] = mt_pg_i64(res, 0, 1);
}

static void a_session_sees_the_organisation_it_named_and_no_other(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_rebuild_report report;
    char org[64], other[64], sql[160];
    int64_t all[2], n[2];
    mt_auto_pg struct mt_pg *own = owner(), *pg = as_control(NULL), *everybody = as_control(MT_LOG_SEES_ALL);
    for (int rebuilt = 0; rebuilt < 2; rebuilt++) { /* as migrated, and as a rebuild makes the views */
        (void)snprintf(org, sizeof org, "%s", lab_text(&lab, "SELECT min(org_id) FROM moat_views.apps_view"));
        (void)snprintf(other, sizeof other, "%s", lab_text(&lab, "SELECT max(org_id) FROM moat_views.apps_view"));
        assert_string_not_equal(org, other);
        sees(everybody, org, all);
        assert_true(all[0] > 0 && all[1] > 0);
        assert_int_equal(mt_pg_exec(pg, "RESET moat.org_id", &err), 0);
        sees(pg, org, n);
        assert_int_equal(n[0] + n[1], 0); /* it named nobody */
        (void)snprintf(sql, sizeof sql, "SET moat.org_id = '%s'", org);
        assert_int_equal(mt_pg_exec(pg, sql, &err), 0);
        sees(pg, org, n);
        assert_int_equal(n[0], all[0]);
        assert_int_equal(n[1], strtoll(lab_text(&lab, "SELECT count(*)::text FROM moat.events WHERE org_id IS NULL"), NULL, 10)); /* nobody's */
        sees(pg, other, n);
        assert_int_equal(n[0], 0);
        if (!rebuilt && mt_views_rebuild(own, NULL, NULL, &report, &err) < 0)
            fail_msg("%s", err.msg);
    }
}

static void every_table_that_says_whose_its_rows_are_is_fenced(void **state)
{
    (void)state;
    /* Another table with an org_id: let its migration end with SELECT moat.fence('moat'). */
    assert_string_equal(lab_text(&lab, "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                                       " AND a.attname = 'org_id' WHERE c.relkind = 'r' AND c.relnamespace IN ('moat'::regnamespace, 'moat_views'::regnamespace)"
                                       " AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant'))"),
                        "access_tokens personal_tokens service_principals_view");
}

static void the_application_cannot_take_the_fence_away(void **state)
{
    (void)state;
    static const char *const tries[] = {"ALTER TABLE moat.events DISABLE ROW LEVEL SECURITY", "ALTER TABLE moat_views.apps_view NO FORCE ROW LEVEL SECURITY",
                                        "DROP POLICY tenant ON moat_views.apps_view", "CREATE POLICY mine ON moat_views.apps_view USING (true)",
                                        "SET ROLE moat_owner", "SET row_security = off; TABLE moat_views.apps_view", "ALTER ROLE moat_control BYPASSRLS"};
    struct mt_err err = {0};
    mt_auto_pg struct mt_pg *pg = as_control(NULL);
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        if (mt_pg_exec(pg, tries[i], &err) != -MT_E_DENIED)
            fail_msg("'%s' was not refused: %s", tries[i], err.msg);
        assert_int_equal(mt_pg_exec(pg, "SET row_security = on", &err), 0);
    }
    assert_string_equal(lab_text(&lab, "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname IN ('moat_control', 'moat_projector') AND (rolsuper OR rolbypassrls)"), "");
}

/* ---- events of other versions ---- */

static int old_name(json_t *payload, struct mt_err *err)
{
    json_t *title = json_object_get(payload, "title");
    if (!title)
        return MT_FAIL(err, MT_E_CORRUPT, "no title");
    (void)json_object_set(payload, "name", title);
    (void)json_object_del(payload, "title");
    return 0;
}

static void old_versions_are_brought_up_and_unknown_ones_stop(void **state)
{
    (void)state;
    static const struct mt_upcaster ups[] = {{MT_EV_APP_CREATED, 0, old_name}, {MT_EV_MAX, 0, NULL}};
    const struct mt_rebuild_conf conf = {.ups = ups};
    struct mt_rebuild_report report;
    struct mt_err err = {0};
    mt_auto_pg struct mt_pg *pg = owner();
    run_sql("ALTER TABLE moat.events DISABLE TRIGGER USER;"
            "UPDATE moat.events SET event_version = 0, payload = payload - 'name' || jsonb_build_object('title', payload->'name')"
            " WHERE event_type = 'app.created' AND event_id % 2 = 0");
    assert_int_equal(mt_views_rebuild(pg, NULL, NULL, &report, &err), -MT_E_CORRUPT); /* nobody brings version 0 up */
    assert_non_null(strstr(err.msg, "app.created"));
    assert_string_equal(lab_text(&lab, "SELECT string_agg(DISTINCT state, ',') FROM moat.projection_checkpoints"), "failed");
    if (mt_views_rebuild(pg, NULL, &conf, &report, &err) < 0)
        fail_msg("%s", err.msg);
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM moat_views.apps_view a JOIN moat.events e ON e.aggregate_id = a.app_id AND e.event_type ="
                                       " 'app.created' WHERE e.event_version = 0 AND a.name IS DISTINCT FROM e.payload->>'title'"), "0");
    assert_string_equal(lab_text(&lab, "SELECT string_agg(DISTINCT state, ',') FROM moat.projection_checkpoints"), "live");
    run_sql("UPDATE moat.events SET event_version = 1, payload = payload - 'title' || jsonb_build_object('name', payload->'title') WHERE event_version = 0");
    equal();
    run_sql("UPDATE moat.events SET event_version = 9 WHERE event_id = 40");
    assert_int_equal(mt_views_rebuild(pg, NULL, NULL, &report, &err), -MT_E_CORRUPT);
    assert_non_null(strstr(err.msg, "event 40"));
    run_sql("UPDATE moat.events SET event_version = 1, event_type = 'app.evaporated' WHERE event_id = 40");
    assert_int_equal(mt_views_rebuild(pg, NULL, NULL, &report, &err), -MT_E_CORRUPT);
    assert_non_null(strstr(err.msg, "app.evaporated"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_history_rebuilds_to_the_same_rows),
        cmocka_unit_test(a_row_changed_by_hand_is_named_and_mended),
        cmocka_unit_test(one_view_alone_is_made_again),
        cmocka_unit_test(an_unknown_view_is_refused_with_the_nearest_name),
        cmocka_unit_test(writers_and_readers_go_on_beside_rebuilds),
        cmocka_unit_test(a_changed_definition_rebuilds_at_the_next_migration),
        cmocka_unit_test(an_older_program_leaves_newer_views_alone),
        cmocka_unit_test(a_session_sees_the_organisation_it_named_and_no_other),
        cmocka_unit_test(every_table_that_says_whose_its_rows_are_is_fenced),
        cmocka_unit_test(the_application_cannot_take_the_fence_away),
        cmocka_unit_test(old_versions_are_brought_up_and_unknown_ones_stop),
    };
    return cmocka_run_group_tests_name("eventlog-views", tests, setup, teardown);
}
