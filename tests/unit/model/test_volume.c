/* SPDX-License-Identifier: Apache-2.0 */
#include "model/plan.h"
#include "model/volume.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define U "01aryz6s4104hmasw9nf6yy09"
#define HEX "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"
#define UUID "0156bf93-6404-8246-8565-9c4af76de409"

static json_t *json_of(const char *s)
{
    char *t = mt_strndup(s, strlen(s));
    json_error_t je;

    assert_non_null(t);
    for (char *p = t; *p; p++)
        if (*p == '\'')
            *p = '"';
    json_t *j = json_loads(t, 0, &je);
    if (!j)
        print_error("%s\n%s\n", je.text, t);
    assert_non_null(j);
    free(t);
    return j;
}

static char *edited(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);

    if (!at)
        print_error("no '%s' to edit\n", from);
    assert_non_null(at);
    return mt_asprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

#define VOLUME                                                                                                             \
    "{'volume_id':'vol_" U "0','org_id':'org_" U "0','app_id':'app_" U "0','env_id':'env_" U "0','name':'data',"           \
    "'size_bytes':1073741824,'resize_to_bytes':2147483648,'fs_uuid':'" UUID "','desired':'present','was_available':true}"
#define VOLUME2                                                                                                            \
    "{'volume_id':'vol_" U "1','org_id':'org_" U "0','app_id':'app_" U "0','env_id':'env_" U "0','name':'copy',"           \
    "'size_bytes':1073741824,'desired':'absent','was_available':false,'from_restore':'rst_" U "0','check':{'number':7,'repair':true}}"
#define SECTIONS                                                                                                           \
    "{'volumes':[" VOLUME "," VOLUME2 "],'snapshot_jobs':[{'snapshot_id':'snap_" U "0','volume_id':'vol_" U "0',"          \
    "'org_id':'org_" U "0','origin':'scheduled','key_epoch':1,'parent_snapshot_id':'snap_" U "1','full_read':false,'distrust_stored':true,'cancel':true}]," \
    "'restore_jobs':[{'restore_id':'rst_" U "0','snapshot_id':'snap_" U "0','source_volume_id':'vol_" U "0',"              \
    "'source_org_id':'org_" U "0','new_volume_id':'vol_" U "1','size_bytes':1073741824,'key_epoch':1,'cancel':false,'proof':true,'probe':{'timeout_seconds':60,'workload':{'spec_version':'v9'}}}]}"

static void the_sections_of_a_plan_survive_a_round_trip(void **state)
{
    (void)state;
    struct mt_plan_storage s;
    struct mt_err err;
    json_t *j = json_of(SECTIONS), *back = json_object();

    assert_int_equal(mt_plan_storage_decode(j, &s, &err), 0);
    assert_int_equal(s.n_volumes, 2);
    assert_true(s.volumes[0].was_available && !s.volumes[0].absent && s.volumes[1].absent);
    assert_int_equal(s.volumes[0].resize_to_bytes, INT64_C(2) << 30);
    assert_null(s.volumes[1].fs_uuid);
    assert_true(s.snapshots[0].cancel && s.snapshots[0].distrust_stored);
    assert_int_equal(s.restores[0].probe_seconds, 60); /* what a workload is, is not asked here */
    assert_string_equal(json_string_value(json_object_get(s.restores[0].probe, "spec_version")), "v9");
    assert_int_equal(mt_plan_storage_encode(&s, back, &err), 0);
    assert_true(json_equal(j, back));
    mt_plan_storage_done(&s);
    json_decref(j);
    json_decref(back);
    /* and a plan without volumes has no word of them */
    back = json_object();
    assert_int_equal(mt_plan_storage_encode(&s, back, &err), 0);
    assert_int_equal(json_object_size(back), 0);
    json_decref(back);
}

static void bad_sections_refuse_the_plan(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } rows[] = {
        {"'vol_" U "0'", "'../../etc'"},
        {"'org_" U "0'", "'app_" U "0'"},
        {"'name':'data'", "'name':'Data'"},
        {"'size_bytes':1073741824", "'size_bytes':1073741825"},
        {"'size_bytes':1073741824", "'size_bytes':4194304"},
        {"'size_bytes':1073741824", "'size_bytes':-1"},
        {"'resize_to_bytes':2147483648", "'resize_to_bytes':1073741824"},
        {"'desired':'present'", "'desired':'maybe'"},
        {"'fs_uuid':'" UUID "'", "'fs_uuid':'" UUID "0'"},
        {"'from_restore':'rst_", "'from_restore':'vol_"},
        {"'proof':true", "'proof':false"}, /* with a probe */
        {"'timeout_seconds':60", "'timeout_seconds':601"},
        {"'timeout_seconds':60,", ""},
        {",'workload':{'spec_version':'v9'}", ""},
        {"'workload':{'spec_version':'v9'}", "'workload':[]"},
        {"'volume_id':'vol_" U "1'", "'volume_id':'vol_" U "0'"}, /* twice */
        {"'origin':'scheduled'", "'origin':'whim'"},
        {"'number':7", "'number':0"},
        {"'repair':true", "'repair':1"},
        {"'check':{", "'check':7,'x':{"},
        {"'key_epoch':1", "'key_epoch':0"},
        {"'distrust_stored':true", "'distrust_stored':1"},
        {"'volumes':[", "'volumes':[1,"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct mt_plan_storage s;
        struct mt_err err = {0};
        char *text = edited(SECTIONS, rows[i].from, rows[i].to);
        json_t *j = json_of(text);
        if (mt_plan_storage_decode(j, &s, &err) != -MT_E_INVALID)
            print_error("row %zu\n", i);
        assert_int_equal(err.code, MT_E_INVALID);
        assert_true(err.msg[0] != '\0');
        json_decref(j);
        free(text);
    }
}

#define REPORTS                                                                                                            \
    "{'resync':false,'instances':[],'volumes':[{'volume_id':'vol_" U "0','seq':3,'event':'provisioned','result':'ok','fs_uuid':'" UUID "'," \
    "'size_bytes':1073741824},{'volume_id':'vol_" U "1','seq':4,'event':'error','error_reason':'no_space'},"                                              \
    "{'volume_id':'vol_" U "2','seq':5,'event':'checked','check':{'number':7,'result':'damaged','detail':'an inode'}}],"              \
    "'snapshots':[{'snapshot_id':'snap_" U "0','seq':9,'status':'succeeded','phase':'verifying','consistency':'filesystem'," \
    "'captured_at_ms':1800000000000,'size_bytes':1,'changed_bytes':0,'uploaded_bytes':1,'key_epoch':1,'image_root':'" HEX "'," \
    "'manifest_sha256':'" HEX "','distrusted_stored':true,'parent_snapshot_id':'snap_" U "1'}],"                           \
    "'restores':[{'restore_id':'rst_" U "0','seq':4,'status':'failed','phase':'checking','bytes_done':1,'bytes_total':2,"  \
    "'failed_reason':'integrity_check_failed','snapshot_damaged':true,'probe':{'ms':1,'exit_code':255,'detail':'exited','output':'a\\nb'}}]}"

static void reports_of_storage_survive_a_round_trip(void **state)
{
    (void)state;
    struct mt_status_batch *b = NULL;
    struct mt_err err;
    json_t *j = json_of(REPORTS), *back = NULL;

    assert_int_equal(mt_status_batch_decode(j, &b, &err), 0);
    assert_int_equal(b->storage.n_volumes, 3);
    assert_true(b->storage.volumes[2].check == 7 && b->storage.volumes[2].verdict == MT_VOLUME_DAMAGED);
    assert_int_equal(b->storage.volumes[1].fault, MT_VOLUME_FAULT_NO_SPACE);
    assert_true(b->storage.snapshots[0].has_changed && b->storage.snapshots[0].distrusted_stored);
    assert_int_equal(b->storage.restores[0].status, MT_JOB_FAILED);
    assert_true(b->storage.restores[0].probed && b->storage.restores[0].probe_exit_code == 255);
    assert_int_equal(mt_status_batch_encode(b, &back, &err), 0);
    assert_true(json_equal(j, back));
    mt_status_batch_free(b);
    json_decref(j);
    json_decref(back);
}

static void bad_reports_of_storage_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } rows[] = {
        {"'seq':3", "'seq':0"},
        {"'event':'provisioned'", "'event':'exploded'"},
        {"'event':'checked',", "'event':'missing',"},
        {"'distrusted_stored':true", "'distrusted_stored':'true'"},
        {",'check':{", ",'x':{"},
        {"'number':7", "'number':4294967296"},
        {"'result':'damaged'", "'result':'fine'"},
        {"'detail':'an inode'", "'detail':[]"},
        {"'result':'ok',", ""},
        {"'result':'ok'", "'result':'failed'"}, /* without a reason */
        {"'event':'error'", "'event':'error','result':'ok'"},
        {"'error_reason':'no_space'", "'error_reason':'a_whim'"},
        {",'error_reason':'no_space'", ""},
        {"'fs_uuid':'" UUID "',", ""},
        {"'status':'succeeded'", "'status':'queued'"},
        {"'status':'succeeded'", "'status':'failed'"}, /* without a reason */
        {"'image_root':'" HEX "',", ""},
        {"'phase':'verifying'", "'phase':'checking'"},
        {"'consistency':'filesystem'", "'consistency':'hope'"},
        {"'captured_at_ms':1800000000000", "'captured_at_ms':-1"},
        {"'failed_reason':'integrity_check_failed'", "'failed_reason':'/var/lib/x'"},
        {"'status':'failed'", "'status':'succeeded'"},
        {"'restores':[", "'restores':[[],"},
        {"'exit_code':255", "'exit_code':256"},
        {"'ms':1,", ""},
        {"'probe':{", "'probe':[],'x':{"},
        {"'detail':'exited'", "'detail':7"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct mt_status_batch *b = NULL;
        struct mt_err err = {0};
        char *text = edited(REPORTS, rows[i].from, rows[i].to);
        json_t *j = json_of(text);
        if (mt_status_batch_decode(j, &b, &err) != -MT_E_INVALID)
            print_error("row %zu\n", i);
        assert_int_equal(err.code, MT_E_INVALID);
        json_decref(j);
        free(text);
    }
}

static void all_lists_of_a_batch_share_one_bound(void **state)
{
    (void)state;
    struct mt_err err;
    json_t *j = json_of("{'instances':[],'volumes':[]}"), *list = json_object_get(j, "volumes");
    struct mt_status_batch *b = NULL;

    for (int i = 0; i < MT_STATUS_BATCH_MAX; i++)
        json_array_append_new(list, json_pack("{s:s,s:i,s:s}", "volume_id", "vol_" U "0", "seq", i + 1, "event", "deleted"));
    assert_int_equal(mt_status_batch_decode(j, &b, &err), 0);
    mt_status_batch_free(b);
    b = NULL;
    json_object_set_new(j, "restores", json_pack("[{s:s,s:i,s:s}]", "restore_id", "rst_" U "0", "seq", 1, "status", "running"));
    assert_int_equal(mt_status_batch_decode(j, &b, &err), -MT_E_INVALID);
    json_decref(j);
}

static void storage_of_a_node_survives_a_round_trip(void **state)
{
    (void)state;
    struct mt_storage_figures f;
    struct mt_err err;
    json_t *j = json_of("{'storage':{'backend':'reflink','pool_bytes':100,'pool_used_bytes':1,'meta_bytes':0,'meta_used_bytes':0,"
                        "'healthy':false,'reason':'the pool is gone','backup_store':true,'restores':true,'orphans':['vol_" U "0']}}"),
           *back = json_object();

    assert_int_equal(mt_storage_figures_decode(j, &f, &err), 0);
    assert_true(f.present && !f.healthy && f.backup_store && f.restores && f.n_orphans == 1);
    assert_int_equal(mt_storage_figures_encode(&f, back, &err), 0);
    assert_true(json_equal(j, back));
    json_object_set_new(json_object_get(j, "storage"), "backend", json_string("nfs"));
    assert_int_equal(mt_storage_figures_decode(j, &f, &err), -MT_E_INVALID);
    json_object_del(j, "storage");
    assert_int_equal(mt_storage_figures_decode(j, &f, &err), 0);
    assert_false(f.present);
    json_decref(j);
    json_decref(back);
}

static void a_volume_gives_the_uuid_of_its_filesystem(void **state)
{
    (void)state;
    char a[MT_VOLUME_UUID_SIZE], b[MT_VOLUME_UUID_SIZE];

    mt_volume_fs_uuid("vol_7zzzzzzzzzzzzzzzzzzzzzzzzz", a);
    assert_string_equal(a, "ffffffff-ffff-8fff-bfff-ffffffffffff");
    mt_volume_fs_uuid("vol_00000000000000000000000000", a);
    assert_string_equal(a, "00000000-0000-8000-8000-000000000000");
    mt_volume_fs_uuid("vol_" U "0", a);
    mt_volume_fs_uuid("vol_" U "1", b);
    assert_string_not_equal(a, b);
    assert_true(mt_volume_uuid_valid(a));
    assert_false(mt_volume_uuid_valid("ffffffff-ffff-8fff-bfff-fffffffffff"));
    assert_false(mt_volume_uuid_valid("FFFFFFFF-ffff-8fff-bfff-ffffffffffff"));
    assert_false(mt_volume_uuid_valid(NULL));
}

static void sizes_are_whole_chunks_within_bounds(void **state)
{
    (void)state;
    const uint64_t g = MT_VOLUME_SIZE_MIN;

    assert_int_equal(mt_volume_size(g - 1), 0);
    assert_int_equal(mt_volume_size(g), g);
    assert_int_equal(mt_volume_size(g + 1), g + MT_VOLUME_SIZE_STEP);
    assert_int_equal(mt_volume_size(MT_VOLUME_SIZE_MAX), MT_VOLUME_SIZE_MAX);
    assert_int_equal(mt_volume_size(MT_VOLUME_SIZE_MAX + 1), 0);
    assert_int_equal(mt_volume_size(UINT64_MAX), 0);
    assert_int_equal(mt_storage_allocatable(0), 0);
    assert_int_equal(mt_storage_allocatable(14), 11); /* 11.2 */
    assert_int_equal(mt_storage_allocatable(UINT64_MAX), UINT64_MAX / 5 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sections_of_a_plan_survive_a_round_trip),
        cmocka_unit_test(bad_sections_refuse_the_plan),
        cmocka_unit_test(reports_of_storage_survive_a_round_trip),
        cmocka_unit_test(bad_reports_of_storage_are_refused),
        cmocka_unit_test(all_lists_of_a_batch_share_one_bound),
        cmocka_unit_test(storage_of_a_node_survives_a_round_trip),
        cmocka_unit_test(a_volume_gives_the_uuid_of_its_filesystem),
        cmocka_unit_test(sizes_are_whole_chunks_within_bounds),
    };
    return cmocka_run_group_tests_name("volume", tests, NULL, NULL);
}
