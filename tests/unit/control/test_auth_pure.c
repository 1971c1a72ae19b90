/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of authentication and authorisation: tokens, user codes, scopes and roles, restrictions. */
#include "base/assert.h"
#include "base/str.h"
#include "control/auth/auth.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void a_token_has_a_checksum_that_catches_one_wrong_letter(void **state)
{
    (void)state;
    for (int k = 0; k < MT_TOKEN_KIND_MAX; k++) {
        enum mt_token_kind kind = (enum mt_token_kind)k;
        char token[MT_TOKEN_SIZE], other[MT_TOKEN_SIZE];
        uint8_t a[32], b[32];
        mt_token_new(kind, token, a);
        mt_token_new(kind, other, b);
        assert_int_equal(mt_token_kind_of(token), kind);
        assert_true(mt_starts_with(token, mt_token_prefix(kind)));
        assert_string_not_equal(token, other);
        assert_true(mt_token_hash(kind, token, b));
        assert_memory_equal(a, b, 32);
        assert_false(mt_token_hash((enum mt_token_kind)((k + 1) % MT_TOKEN_KIND_MAX), token, b));
        for (size_t i = 0; token[i]; i++) {
            char bad[MT_TOKEN_SIZE];
            memcpy(bad, token, sizeof bad);
            bad[i] = bad[i] == 'x' ? 'y' : 'x';
            assert_int_equal(mt_token_kind_of(bad), MT_TOKEN_KIND_MAX);
        }
    }
    assert_int_equal(mt_token_kind_of(""), MT_TOKEN_KIND_MAX);
    assert_int_equal(mt_token_kind_of("moat_pat_"), MT_TOKEN_KIND_MAX);
}

static void user_codes_are_read_as_people_type_them(void **state)
{
    (void)state;
    char code[MT_USER_CODE_SIZE], read[MT_USER_CODE_SIZE], typed[32];
    for (int i = 0; i < 200; i++) {
        mt_user_code_new(code);
        assert_int_equal(strlen(code), 9);
        assert_int_equal(code[4], '-');
        assert_null(strpbrk(code, "AEIOUY0123456789"));
        snprintf(typed, sizeof typed, " %.4s %c%s", code, code[5] | 0x20, code + 6);
        assert_true(mt_user_code_read(typed, read));
        assert_string_equal(read, code);
    }
    static const char *const bad[] = {"", "BCDF", "BCDF-GHJA", "BCDF-GHJKL", "BCDFGHJ1", "BCDF_GHJK"};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_false(mt_user_code_read(bad[i], read));
}

static bool has(enum mt_role role, const char *scope, bool exec, bool export)
{
    return (mt_role_scopes(role, exec, export) & mt_scope_bit(scope)) != 0;
}

static void roles_carry_what_the_table_says(void **state)
{
    (void)state;
    static const struct {
        const char *scope, *roles; /* first letters: owner, admin, developer, readonly */
    } t[] = {{"orgs:read", "oadr"},     {"logs:read", "oadr"},     {"sps:read", "oad"},     {"registries:read", "oad"},
             {"deploys:write", "oad"},  {"secrets:write", "oad"},  {"exec:write", "oa"},    {"apps:admin", "oa"},
             {"ipv4:write", "oa"},      {"members:write", "oa"},   {"sps:write", "oa"},     {"audit:read", "oa"},
             {"orgs:admin", "o"},       {"billing:read", "o"},     {"secrets:read-material", ""}, {"nodes:read", ""},
             {"users:admin", ""},       {"admin", ""}};
    for (size_t i = 0; i < MT_ARRAY_LEN(t); i++) {
        assert_true(mt_scope_bit(t[i].scope) != 0);
        assert_int_equal(has(MT_ROLE_OWNER, t[i].scope, false, false), strchr(t[i].roles, 'o') != NULL);
        assert_int_equal(has(MT_ROLE_ADMIN, t[i].scope, false, false), strchr(t[i].roles, 'a') != NULL);
        assert_int_equal(has(MT_ROLE_DEVELOPER, t[i].scope, false, false), strchr(t[i].roles, 'd') != NULL);
        assert_int_equal(has(MT_ROLE_READONLY, t[i].scope, false, false), strchr(t[i].roles, 'r') != NULL);
        assert_false(has(MT_ROLE_NONE, t[i].scope, true, true));
    }
    assert_true(has(MT_ROLE_DEVELOPER, "exec:write", true, false));
    assert_false(has(MT_ROLE_READONLY, "exec:write", true, false));
    assert_true(has(MT_ROLE_OWNER, "secrets:read-material", false, true));
    assert_false(has(MT_ROLE_ADMIN, "secrets:read-material", false, true));
    for (int r = 0; r < MT_ROLE_MAX; r++)
        assert_int_equal(mt_role_scopes((enum mt_role)r, true, true) & mt_scopes_operator(), 0);
    assert_int_equal(mt_role_parse("owner"), MT_ROLE_OWNER);
    assert_int_equal(mt_role_parse(""), MT_ROLE_NONE);
    assert_int_equal(mt_role_parse("root"), MT_ROLE_NONE);
    assert_int_equal(mt_scope_bit("apps:reed"), 0);
}

#define APP "app_01aryz6s4104hmasw9nf6yy093"
#define ENV "env_01aryz6s4104hmasw9nf6yy093"

static void a_restriction_that_cannot_be_read_allows_nothing(void **state)
{
    (void)state;
    static struct mt_auth_restrict r;
    assert_true(mt_restrict_parse(NULL, &r));
    assert_false(r.on);
    assert_true(mt_restrict_parse("{\"app_ids\":[\"" APP "\"],\"env_ids\":[\"" ENV "\"]}", &r));
    assert_true(r.on && mt_restrict_has_app(&r, APP) && mt_restrict_has_env(&r, ENV));
    assert_false(mt_restrict_has_app(&r, "app_01aryz6s4104hmasw9nf6yy094"));
    static const char *const bad[] = {"", "[]", "{\"app_ids\":[\"" ENV "\"]}", "{\"app_ids\":\"" APP "\"}", "{\"apps\":[]}",
                                      "{\"app_ids\":[\"" APP "\"],\"env_ids\":[1]}"};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        assert_false(mt_restrict_parse(bad[i], &r));
        assert_true(r.on && r.apps_n == 0 && r.envs_n == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_has_a_checksum_that_catches_one_wrong_letter),
        cmocka_unit_test(user_codes_are_read_as_people_type_them),
        cmocka_unit_test(roles_carry_what_the_table_says),
        cmocka_unit_test(a_restriction_that_cannot_be_read_allows_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
