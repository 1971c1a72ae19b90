/* SPDX-License-Identifier: Apache-2.0 */
/* ids, names, reasons, mount paths: the small words. */
#include "model/ids.h"
#include "model/mountpath.h"
#include "model/names.h"
#include "model/reason.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void ulid_has_its_known_form(void **state)
{
    (void)state;
    static const uint8_t zero[10] = {0}, ones[10] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    static const uint8_t steps[10] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23};
    char u[MT_ULID_SIZE];
    mt_ulid_encode(0, zero, u);
    assert_string_equal(u, "00000000000000000000000000");
    mt_ulid_encode(UINT64_C(0xFFFFFFFFFFFF), ones, u);
    assert_string_equal(u, "7zzzzzzzzzzzzzzzzzzzzzzzzz");
    mt_ulid_encode(1469918176385, steps, u); /* the time of the ULID specification's example, 01ARYZ6S41 */
    assert_string_equal(u, "01aryz6s4104hmasw9nf6yy093");
}

static void ids_of_one_process_only_grow(void **state)
{
    (void)state;
    struct mt_ulid_gen gen = {0};
    static const uint8_t high[10] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    char last[MT_ULID_SIZE] = "", u[MT_ULID_SIZE];
    static const uint64_t times[] = {5, 5, 5, 4, 6, 1, 6, 7};
    for (size_t i = 0; i < MT_ARRAY_LEN(times); i++) {
        mt_ulid_gen_next(&gen, times[i], high, u);
        assert_true(mt_ulid_valid(u, strlen(u)));
        assert_true(strcmp(u, last) > 0);
        memcpy(last, u, sizeof u);
    }
    char prev[MT_ID_SIZE] = "", id[MT_ID_SIZE];
    for (int i = 0; i < 10000; i++) {
        mt_id_new(MT_ID_INSTANCE, id);
        assert_true(strcmp(id, prev) > 0);
        memcpy(prev, id, sizeof id);
    }
}

#define PER_THREAD 2000
static void *make_ids(void *arg)
{
    char(*ids)[MT_ID_SIZE] = arg;
    for (int i = 0; i < PER_THREAD; i++)
        mt_id_new(MT_ID_REQUEST, ids[i]);
    return NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void ids_of_many_threads_differ(void **state)
{
    (void)state;
    static char ids[4 * PER_THREAD][MT_ID_SIZE];
    pthread_t t[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, make_ids, ids[i * PER_THREAD]), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    qsort(ids, 4 * PER_THREAD, MT_ID_SIZE, by_text);
    for (size_t i = 1; i < 4 * PER_THREAD; i++)
        assert_true(strcmp(ids[i - 1], ids[i]) < 0);
}

static void only_well_formed_ids_pass(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "inst", "inst_", "inst_01aryz6s4104hmasw9nf6yy09", "inst_01aryz6s4104hmasw9nf6yy0930",
        "inst_01ARYZ6S4104HMASW9NF6YY093", "inst_81aryz6s4104hmasw9nf6yy093", "inst_01aryz6s4104hmasw9nf6yy09i",
        "inst_01aryz6s4104hmasw9nf6yy09l", "inst_01aryz6s4104hmasw9nf6yy09o", "inst_01aryz6s4104hmasw9nf6yy09u",
        "boot_01aryz6s4104hmasw9nf6yy093", "inst-01aryz6s4104hmasw9nf6yy093", "xinst_01aryz6s4104hmasw9nf6yy093",
        "inst_../../../../etc/passwd_123", "inst_01aryz6s4104hmasw9nf6yy0/3"};
    struct mt_err err;
    enum mt_id_kind kind;
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_int_equal(mt_id_check(MT_ID_INSTANCE, bad[i], &err), -MT_E_INVALID);
    assert_int_equal(mt_id_check(MT_ID_INSTANCE, NULL, &err), -MT_E_INVALID);
    assert_int_equal(mt_id_check(MT_ID_INSTANCE, "inst_01aryz6s4104hmasw9nf6yy093", &err), 0);
    assert_string_equal(mt_id_ulid("inst_01aryz6s4104hmasw9nf6yy093"), "01aryz6s4104hmasw9nf6yy093");
    for (unsigned k = 0; k < MT_ID_KIND_MAX; k++) {
        char id[MT_ID_SIZE];
        mt_id_new((enum mt_id_kind)k, id);
        assert_int_equal(mt_id_parse(id, strlen(id), &kind, &err), 0);
        assert_int_equal(kind, k);
    }
    assert_int_equal(mt_id_parse("zzz_01aryz6s4104hmasw9nf6yy093", 30, &kind, &err), -MT_E_INVALID);
}

static void names_follow_their_patterns(void **state)
{
    (void)state;
    char s[80];
    memset(s, 'a', sizeof s);
    static const struct {
        enum mt_name_kind kind;
        size_t min, max;
    } rows[] = {{MT_NAME_ORG, 2, 39},  {MT_NAME_PROJECT, 1, 63}, {MT_NAME_APP, 1, 63},    {MT_NAME_ENV, 1, 32},
                {MT_NAME_PROCESS, 1, 32}, {MT_NAME_PORT, 1, 32}, {MT_NAME_VOLUME, 1, 32}, {MT_NAME_NODE, 1, 63}};
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++)
        for (size_t n = 0; n < sizeof s; n++)
            assert_int_equal(mt_name_valid(rows[i].kind, s, n), n >= rows[i].min && n <= rows[i].max);
    assert_false(mt_name_valid(MT_NAME_APP, "ab-", 3));
    assert_true(mt_name_valid(MT_NAME_ENV, "ab-", 3));
    static const char *const bad[] = {"1a", "-a", "A", "a_b", "a.b", "a b", "\xc3\xa9", "a/b"};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_false(mt_name_valid(MT_NAME_ENV, bad[i], strlen(bad[i])));
    assert_false(mt_name_valid(MT_NAME_ENV, "a\0b", 3));
}

static void host_names_are_exact_names(void **state)
{
    (void)state;
    static const struct {
        const char *name, *fault; /* NULL: fine */
    } rows[] = {
        {"a.example.net", NULL},      {"xn--bcher-kva.example", NULL}, {"a-b.c2", NULL},
        {"", "empty"},                {"example", "single label"},     {"*.example.net", "wildcard"},
        {"a..b", "empty label"},      {".a.b", "empty label"},         {"a.b.", "ends in a dot"},
        {"-a.b", "'-'"},              {"a-.b", "'-'"},                 {"A.b", "upper-case"},
        {"10.0.0.1", "IPv4"},         {"a.1", "ends in a number"},     {"::1", "address"},
        {"[::1]", "address"},         {"a.b:443", "port"},             {"b\xc3\xbc.de", "A-label"},
        {"a_b.c", "other than"},      {"a b.c", "other than"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        const char *fault = mt_hostname_fault(rows[i].name, strlen(rows[i].name));
        if (rows[i].fault)
            assert_true(fault && strstr(fault, rows[i].fault));
        else
            assert_null(fault);
    }
    char longest[256], out[MT_HOSTNAME_SIZE];
    struct mt_err err;
    memset(longest, 'a', sizeof longest);
    for (size_t i = 63; i < 254; i += 64)
        longest[i] = '.';
    assert_null(mt_hostname_fault(longest, 253));
    assert_non_null(mt_hostname_fault(longest, 254));
    assert_non_null(mt_hostname_fault("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b", 66));
    assert_int_equal(mt_hostname_normalise("WWW.Example.NET.", 16, out, &err), 0);
    assert_string_equal(out, "www.example.net");
    assert_int_equal(mt_hostname_normalise("a..", 3, out, &err), -MT_E_INVALID);
}

static void small_forms(void **state)
{
    (void)state;
    assert_true(mt_idempotency_key_valid("a-1", 3));
    assert_false(mt_idempotency_key_valid("", 0));
    assert_false(mt_idempotency_key_valid("a b", 3));
    assert_true(mt_email_valid("a@b", 3));
    assert_false(mt_email_valid("a@b@c", 5));
    assert_false(mt_email_valid("@b", 2));
    assert_false(mt_email_valid("a@", 2));
    assert_true(mt_var_key_valid("_A1", 3));
    assert_false(mt_var_key_valid("1A", 2));
    assert_false(mt_var_key_valid("a", 1));
    assert_true(mt_hex64_valid("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 64));
    assert_false(mt_hex64_valid("0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", 64));
}

static void reasons_are_one_closed_table(void **state)
{
    (void)state;
    for (unsigned i = 1; i < MT_REASON_MAX; i++) {
        const struct mt_reason_info *r = mt_reason_info((enum mt_reason)i);
        assert_non_null(r->code);
        assert_true(r->parts != 0 && r->text[0]);
        assert_int_equal(mt_reason_from_code(r->code), i); /* no code stands twice */
        assert_true(!r->platform || r->parts == MT_REASON_INSTANCE);
    }
    assert_int_equal(mt_reason_from_code("nope"), MT_REASON_NONE);
    assert_int_equal(mt_reason_from_code(NULL), MT_REASON_NONE);
    assert_int_equal(mt_reason_from_code(""), MT_REASON_NONE);
    /* column P of runtime.md 6, whole */
    static const char *const platform[] = {
        "image_pull_failed", "image_pull_timeout", "rootfs_build_failed", "disk_full", "node_capacity_exceeded", "vmm_start_failed",
        "boot_timeout", "guest_protocol_mismatch", "config_fetch_failed", "network_setup_failed", "rootfs_mount_failed",
        "volume_attach_failed", "secrets_injection_failed", "vm_lost", "vm_unresponsive", "cgroup_setup_failed"};
    size_t n = 0;
    for (unsigned i = 1; i < MT_REASON_MAX; i++)
        n += mt_reason_info((enum mt_reason)i)->platform;
    assert_int_equal(n, MT_ARRAY_LEN(platform));
    for (size_t i = 0; i < n; i++)
        assert_true(mt_reason_is_platform(platform[i]));
    assert_int_equal(mt_reason_info(MT_REASON_SECRETS_MISSING)->parts, MT_REASON_INSTANCE | MT_REASON_PLACEMENT);
    assert_int_equal(mt_reason_info(MT_REASON_ORG_SUSPENDED)->parts, MT_REASON_STOP | MT_REASON_PLACEMENT);
}

static void mount_paths_stay_out_of_the_way(void **state)
{
    (void)state;
    static const char *const good[] = {"/data", "/data/x", "/srv/a.b", "/etcetera", "/libx", "/a..b", "/..."};
    static const char *const bad[] = {"", "data", "/", "//a", "/a/", "/a//b", "/a/./b", "/a/..", "/../a", "/.", "/proc", "/proc/x",
                                      "/sys", "/dev/shm", "/run", "/tmp/x", "/etc", "/bin", "/sbin/x", "/lib", "/lib64", "/usr/local",
                                      "/boot", "/a\nb", "/a\x7f"};
    for (size_t i = 0; i < MT_ARRAY_LEN(good); i++)
        assert_null(mt_mountpath_fault(good[i], strlen(good[i])));
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_non_null(mt_mountpath_fault(bad[i], strlen(bad[i])));
    char s[257];
    memset(s, 'a', sizeof s);
    s[0] = '/';
    assert_null(mt_mountpath_fault(s, 255));
    assert_non_null(mt_mountpath_fault(s, 256));
    assert_true(mt_mountpath_nested("/a", 2, "/a/b", 4));
    assert_true(mt_mountpath_nested("/a/b", 4, "/a", 2));
    assert_true(mt_mountpath_nested("/a", 2, "/a", 2));
    assert_false(mt_mountpath_nested("/a", 2, "/ab", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ulid_has_its_known_form),
        cmocka_unit_test(ids_of_one_process_only_grow),
        cmocka_unit_test(ids_of_many_threads_differ),
        cmocka_unit_test(only_well_formed_ids_pass),
        cmocka_unit_test(names_follow_their_patterns),
        cmocka_unit_test(host_names_are_exact_names),
        cmocka_unit_test(small_forms),
        cmocka_unit_test(reasons_are_one_closed_table),
        cmocka_unit_test(mount_paths_stay_out_of_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
