/* SPDX-License-Identifier: Apache-2.0 */
/* Each fact that is bad turns exactly its own check, with a finding that tells it and a command that mends it. */
#include "control/doctor/checks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct mt_doctor_facts fine(void)
{
    struct mt_doctor_facts f = {
        .schema_have = 14, .schema_known = 14, .clock_off_s = 0.01, .connections = 12, .connections_max = 100, .views_bad = "", .retired = "", .orphans = "", .disk_used_percent = 40,
        .lease_age_s = 1, .roles_lost = "", .nodes = 3, .nodes_ready = 3, .offline = "", .degraded = "", .waiting = "", .lost = "", .versions = 1,
        .version_list = "0.1.0 (4)", .headroom_bytes = 5LL << 30, .volumes_kept = 4, .proven_age_s = 3600, .api_left_s = 60 * 86400, .ca_left_s = INT64_MAX,
        .certs_ending = "", .keys_configured = true, .keys_problem = "", .keys_active = 1};
    for (int i = 0; i < MT_DOCTOR_NODE_MAX; i++)
        f.condition[i] = "";
    return f;
}

static const json_t *check_of(const json_t *doctor, const char *name)
{
    size_t i;
    const json_t *k;
    json_array_foreach(json_object_get(doctor, "checks"), i, k)
        if (strcmp(json_string_value(json_object_get(k, "check")), name) == 0)
            return k;
    return NULL;
}

/* @f gives @severity for @name with @text in its finding, a mend, and every other check stays fine but those named "A B". */
static void turns(const struct mt_doctor_facts *f, const char *name, const char *severity, const char *text, const char *also)
{
    json_t *d = mt_doctor(f);
    const json_t *k = check_of(d, name);
    size_t i;
    const json_t *other;
    if (!k)
        fail_msg("no check %s", name);
    assert_string_equal(json_string_value(json_object_get(k, "severity")), severity);
    if (!strstr(json_string_value(json_object_get(k, "finding")), text))
        fail_msg("%s says '%s', not '%s'", name, json_string_value(json_object_get(k, "finding")), text);
    assert_true(json_string_length(json_object_get(k, "mend")) > 10);
    assert_int_equal(json_is_true(json_object_get(d, "ok")), strcmp(severity, "fail") != 0);
    json_array_foreach(json_object_get(d, "checks"), i, other)
    {
        const char *o = json_string_value(json_object_get(other, "check"));
        if (other != k && !strstr(also, o) && strcmp(json_string_value(json_object_get(other, "severity")), "ok") != 0)
            fail_msg("%s turned %s, too", name, o);
    }
    json_decref(d);
}

static void a_sound_cluster_has_nothing_to_mend(void **state)
{
    (void)state;
    struct mt_doctor_facts f = fine();
    json_t *d = mt_doctor(&f);
    size_t i;
    const json_t *k;
    assert_true(json_is_true(json_object_get(d, "ok")));
    assert_true(json_array_size(json_object_get(d, "checks")) >= 28);
    json_array_foreach(json_object_get(d, "checks"), i, k)
    {
        assert_string_equal(json_string_value(json_object_get(k, "severity")), "ok");
        assert_null(json_object_get(k, "mend"));
    }
    json_decref(d);
}

#define BAD(change, name, severity, text) \
    {                                      \
        struct mt_doctor_facts f = fine(); \
        change;                            \
        turns(&f, name, severity, text, ""); \
    }

static void database_and_log(void **state)
{
    (void)state;
    BAD((f.schema_have = 15, f.schema_least = 15), "database.schema", "fail", "version 15");
    BAD((f.schema_have = 15, f.schema_least = 14), "database.schema", "warn", "may use it");
    BAD(f.schema_have = 13, "database.schema", "fail", "knows 14");
    BAD(f.connections = 80, "database.connections", "warn", "80 of 100");
    BAD(f.clock_off_s = -1.5, "database.clock", "warn", "1.50 s");
    BAD(f.clock_off_s = 5.5, "database.clock", "fail", "5.50 s");
    BAD(f.disk_used_percent = 85, "control.disk", "warn", "85 %");
    BAD(f.disk_used_percent = 95, "control.disk", "fail", "95 %");
    BAD(f.views_bad = "routes_view", "log.views", "fail", "routes_view");
    BAD(f.audit_waits_s = 61, "log.audit", "warn", "61 s");
    BAD(f.audit_waits_s = 301, "log.audit", "fail", "301 s");
    BAD(f.history_split = true, "log.history", "fail", "recovery mode");
}

static void the_scheduler(void **state)
{
    (void)state;
    BAD(f.lease_age_s = -1, "scheduler.leader", "fail", "nobody");
    BAD(f.lease_age_s = 16, "scheduler.leader", "warn", "16 s");
    BAD(f.lease_age_s = 61, "scheduler.leader", "fail", "61 s");
    BAD(f.roles_lost = "gc", "scheduler.roles", "warn", "gc");
    BAD(f.paused = true, "scheduler.paused", "warn", "paused");
    BAD(f.maintenance = true, "platform.maintenance", "warn", "refused");
    BAD(f.blocked_groups = 2, "scheduler.groups", "warn", "2 cannot be placed");
    BAD(f.held_groups = 1, "scheduler.groups", "warn", "1 held");
}

static void the_nodes(void **state)
{
    (void)state;
    static const struct {
        enum mt_doctor_node which;
        const char *check, *severity;
    } conditions[] = {{MT_DOCTOR_VMM, "nodes.vmm", "fail"},   {MT_DOCTOR_BUNDLE, "nodes.bundle", "fail"}, {MT_DOCTOR_DISK, "nodes.disk", "warn"},
                      {MT_DOCTOR_POOL, "nodes.pool", "warn"}, {MT_DOCTOR_CLOCK, "nodes.clock", "warn"},   {MT_DOCTOR_NET, "nodes.network", "fail"},
                      {MT_DOCTOR_OTHER, "nodes.conditions", "warn"}};
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++)
        BAD(f.condition[conditions[i].which] = "box2", conditions[i].check, conditions[i].severity, "box2");
    BAD((f.nodes = 0, f.nodes_ready = 0), "nodes.count", "warn", "no node");
    BAD(f.nodes_ready = 0, "nodes.count", "fail", "0 of 3");
    BAD(f.offline = "box3, box4", "nodes.offline", "fail", "box3, box4");
    BAD(f.degraded = "box3", "nodes.degraded", "warn", "box3");
    BAD(f.waiting = "box3", "nodes.waiting", "warn", "box3");
    BAD(f.lost = "box3", "nodes.lost", "warn", "box3");
    BAD(f.guard = true, "nodes.guard", "fail", "half");
    BAD((f.versions = 2, f.version_list = "0.1.0 (3), 0.2.0 (1)"), "nodes.versions", "warn", "0.2.0 (1)");
    BAD((f.versions = 3, f.version_list = "0.1.0 (1), 0.2.0 (1), 0.3.0 (2)"), "nodes.versions", "fail", "0.3.0 (2)");
    BAD(f.headroom_bytes = -(2LL << 30), "capacity.headroom", "warn", "2.0 GiB of memory are missing");
    /* one node alone has nothing that could stand in for it, and nobody promised that */
    struct mt_doctor_facts one = fine();
    one.nodes = one.nodes_ready = 1;
    one.headroom_bytes = -1;
    json_t *d = mt_doctor(&one);
    assert_null(check_of(d, "capacity.headroom"));
    json_decref(d);
}

static void backups_certificates_and_keys(void **state)
{
    (void)state;
    BAD(f.stale = 1, "backups.stale", "fail", "1 of 4");
    BAD(f.unproven = 3, "backups.unproven", "warn", "3 of 4");
    BAD(f.retired = "vol_1", "volumes.retired", "warn", "vol_1");
    BAD(f.orphans = "vol_2 box", "volumes.orphans", "warn", "vol_2 box");
    BAD(f.proven_age_s = 8 * 86400, "backups.proof", "warn", "192 h");
    BAD(f.api_left_s = 13 * 86400, "certificates.api", "warn", "13 days");
    BAD(f.api_left_s = 2 * 86400, "certificates.api", "fail", "2 days");
    BAD(f.api_left_s = 0, "certificates.api", "fail", "has ended");
    BAD(f.ca_left_s = 364LL * 86400, "certificates.authority", "warn", "364 days");
    BAD(f.certs_ending = "box2", "certificates.nodes", "warn", "box2");
    BAD((f.keys_configured = false, f.keys_active = 0), "keys.file", "warn", "no secrets");
    BAD(f.keys_problem = "open '/etc/moat/master-keys': denied", "keys.file", "fail", "denied");
    BAD(f.keys_active = 0, "keys.file", "fail", "no key");
    BAD(f.rows_missing = 7, "keys.missing", "fail", "7 wrapped keys");
    BAD(f.rows_retired = 3, "keys.retired", "warn", "3 wrapped keys");
}

/* Of an upgrade: the same rule, a fact turns its own check and no other. */
static struct mt_upgrade_facts ready(void)
{
    return (struct mt_upgrade_facts){.backup_age_s = 600, .archived_age_s = -1, .edges = 2, .edges_silent = "", .draining = "", .versions = 1,
                                     .version_list = "0.1.0 (1 edge, 1 this server, 3 agent)"};
}

static void alters(const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u, const char *name, const char *severity, const char *text)
{
    json_t *d = mt_upgrade_check(f, u);
    size_t i;
    const json_t *k = check_of(d, name), *other;
    if (!k)
        fail_msg("no check %s", name);
    assert_string_equal(json_string_value(json_object_get(k, "severity")), severity);
    if (!strstr(json_string_value(json_object_get(k, "finding")), text))
        fail_msg("%s says '%s', not '%s'", name, json_string_value(json_object_get(k, "finding")), text);
    assert_int_equal(json_string_length(json_object_get(k, "mend")) > 10, strcmp(severity, "ok") != 0);
    assert_int_equal(json_is_true(json_object_get(d, "ok")), strcmp(severity, "fail") != 0);
    json_array_foreach(json_object_get(d, "checks"), i, other)
        if (other != k && strcmp(json_string_value(json_object_get(other, "severity")), "ok") != 0)
            fail_msg("%s turned, too", json_string_value(json_object_get(other, "check")));
    json_decref(d);
}

#define UP(change, name, severity, text)     \
    {                                        \
        struct mt_doctor_facts f = fine();   \
        struct mt_upgrade_facts u = ready(); \
        change;                              \
        alters(&f, &u, name, severity, text); \
    }

static void what_stands_against_an_upgrade(void **state)
{
    (void)state;
    UP((void)0, "upgrade.backup", "ok", "10 min ago");
    UP(u.backup_age_s = -1, "upgrade.backup", "fail", "no backup");
    UP(u.backup_age_s = 30 * 3600, "upgrade.backup", "fail", "30 h ago");
    UP((u.backup_age_s = -1, u.archived_age_s = 40), "upgrade.backup", "ok", "archived its log 40 s ago");
    UP((u.backup_age_s = -1, u.archived_age_s = 4000), "upgrade.backup", "fail", "no backup");
    UP(f.stale = 1, "upgrade.volumes", "warn", "1 of 4");
    UP(f.history_split = true, "upgrade.history", "fail", "recovery mode");
    UP(f.keys_problem = "open '/etc/moat/master-keys': denied", "upgrade.keys", "fail", "denied");
    UP(f.disk_used_percent = 95, "upgrade.disk", "fail", "95 %");
    UP(f.views_bad = "routes_view", "upgrade.views", "fail", "routes_view");
    UP(f.audit_waits_s = 301, "upgrade.audit", "fail", "301 s");
    UP((u.standbys = 1, u.standby_lag_ms = 40), "upgrade.standby", "ok", "40 ms behind");
    UP((u.standbys = 1, u.standby_lag_ms = 11000), "upgrade.standby", "warn", "11000 ms");
    UP((u.standbys = 1, u.standby_lag_ms = 61000), "upgrade.standby", "fail", "61000 ms");
    UP((u.standbys = 1, u.standby_lag_ms = -1), "upgrade.standby", "warn", "may not see");
    UP(f.lease_age_s = 16, "upgrade.leader", "fail", "no scheduler");
    UP(f.offline = "box3", "upgrade.nodes", "fail", "box3");
    UP(f.degraded = "box3", "upgrade.degraded", "warn", "box3");
    UP(u.draining = "box3", "upgrade.draining", "warn", "box3");
    UP(u.edges_silent = "box4", "upgrade.edges", "fail", "box4");
    UP(f.headroom_bytes = -(2LL << 30), "upgrade.headroom", "fail", "2.0 GiB of memory are missing");
    UP(f.nodes = 1, "upgrade.headroom", "warn", "one node");
    UP((u.versions = 2, u.version_list = "0.1.0 (3 agent), 0.2.0 (1 this server)"), "upgrade.versions", "warn", "0.2.0 (1 this server)");
    UP((u.versions = 2, u.far = true, u.version_list = "0.1.0 (3 agent), 0.3.0 (1 this server)"), "upgrade.versions", "fail", "0.3.0");
    UP(u.versions = 3, "upgrade.versions", "fail", "different");
    UP((f.schema_have = 15, f.schema_least = 14), "upgrade.schema", "warn", "version 15");
    UP((f.schema_have = 15, f.schema_least = 15), "upgrade.schema", "fail", "version 15");
    UP(f.schema_have = 13, "upgrade.schema", "fail", "version 13");
    UP(f.clock_off_s = 5.5, "upgrade.clock", "fail", "5.50 s");
    UP(u.rollouts = 2, "upgrade.rollouts", "warn", "2 deploys");
    UP(u.moving = 1, "upgrade.jobs", "warn", "1 snapshots");
    UP(f.held_groups = 1, "upgrade.groups", "warn", "1 held");
    UP(f.paused = true, "upgrade.paused", "warn", "paused");
    UP(f.maintenance = true, "upgrade.maintenance", "warn", "refused");
}

static void a_version_and_the_next_one_are_near(void **state)
{
    (void)state;
    assert_false(mt_versions_far("0.1.0", "0.1.7"));
    assert_false(mt_versions_far("0.1.0", "0.2.0"));
    assert_false(mt_versions_far("0.3.0", "0.2.9"));
    assert_true(mt_versions_far("0.1.0", "0.3.0"));
    assert_false(mt_versions_far("1.9.0", "2.0.0"));
    assert_true(mt_versions_far("1.9.0", "3.0.0"));
    assert_false(mt_versions_far("test", "0.1.0"));
    assert_false(mt_versions_far("", "0.1.0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_cluster_has_nothing_to_mend), cmocka_unit_test(database_and_log),
        cmocka_unit_test(the_scheduler),                       cmocka_unit_test(the_nodes),
        cmocka_unit_test(backups_certificates_and_keys),      cmocka_unit_test(what_stands_against_an_upgrade),
        cmocka_unit_test(a_version_and_the_next_one_are_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
