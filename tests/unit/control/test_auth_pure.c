/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of authentication and authorisation: tokens, user codes, scopes and roles, restrictions. */
#include "base/assert.h"
#include "base/str.h"
#include "control/auth/auth.h"
#include "control/auth/form.h"
#include "control/auth/password.h"
#include "control/auth/totp.h"

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

/* RFC 6238 appendix B, the SHA-1 rows, last six digits. */
static void one_time_codes_are_those_of_the_rfc_and_work_once(void **state)
{
    (void)state;
    static const struct {
        int64_t at;
        const char *code;
    } t[] = {{59, "287082"}, {1111111109, "081804"}, {1111111111, "050471"}, {1234567890, "005924"}, {2000000000, "279037"}};
    const uint8_t secret[MT_TOTP_SECRET] = {'1', '2', '3', '4', '5', '6', '7', '8', '9', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '0'};
    char text[MT_TOTP_BASE32];
    mt_totp_base32(secret, text);
    assert_string_equal(text, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    for (size_t i = 1; i < MT_ARRAY_LEN(t); i++) {
        uint64_t step = (uint64_t)t[i].at / 30;
        assert_int_equal(mt_totp_check(secret, t[i].code, t[i].at, 0), step);
        assert_int_equal(mt_totp_check(secret, t[i].code, t[i].at + 30, 0), step);
        assert_int_equal(mt_totp_check(secret, t[i].code, t[i].at + 61, 0), 0);
        assert_int_equal(mt_totp_check(secret, t[i].code, t[i].at, step), 0);
    }
    assert_int_equal(mt_totp_code(secret, 1), 287082);
    assert_int_equal(mt_totp_check(secret, "08180", 1111111109, 0), 0);
    assert_int_equal(mt_totp_check(secret, "0818040", 1111111109, 0), 0);
    assert_int_equal(mt_totp_check(secret, "08180x", 1111111109, 0), 0);
    uint8_t key[32] = {7}, other[32] = {8}, blob[MT_TOTP_BLOB], a[MT_TOTP_SECRET], b[MT_TOTP_SECRET];
    mt_totp_new(key, blob);
    mt_totp_open(key, blob, a);
    mt_totp_open(other, blob, b);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, blob + MT_TOTP_BLOB - MT_TOTP_SECRET, sizeof a);
}

static void passwords_are_hashed_with_argon2id_and_told_apart(void **state)
{
    (void)state;
    char hash[MT_PASSWORD_HASH];
    struct mt_err err = {0};
    bool right = false;
    assert_int_equal(mt_password_hash("correct horse battery", hash, &err), 0);
    assert_true(mt_starts_with(hash, "$argon2id$v=19$m=65536,t=3,p=1$"));
    assert_int_equal(mt_password_check(hash, "correct horse battery", &right, &err), 0);
    assert_true(right);
    assert_int_equal(mt_password_check(hash, "correct horse batterz", &right, &err), 0);
    assert_false(right);
    assert_int_equal(mt_password_check(NULL, "correct horse battery", &right, &err), 0);
    assert_false(right);
    assert_non_null(mt_password_fault("short"));
    assert_null(mt_password_fault("correct horse battery"));
}

static void cookies_are_found_by_their_whole_name_and_once(void **state)
{
    (void)state;
    char v[8];
    assert_true(mt_cookie_get("a=1; moat=two; b=3", "moat", v, sizeof v));
    assert_string_equal(v, "two");
    assert_true(mt_cookie_get("moat=", "moat", v, sizeof v));
    assert_string_equal(v, "");
    assert_false(mt_cookie_get("xmoat=1; moatx=2; moat", "moat", v, sizeof v));
    assert_false(mt_cookie_get("moat=1; moat=2", "moat", v, sizeof v));
    assert_false(mt_cookie_get("moat=12345678", "moat", v, sizeof v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_has_a_checksum_that_catches_one_wrong_letter),
        cmocka_unit_test(user_codes_are_read_as_people_type_them),
        cmocka_unit_test(roles_carry_what_the_table_says),
        cmocka_unit_test(a_restriction_that_cannot_be_read_allows_nothing),
        cmocka_unit_test(one_time_codes_are_those_of_the_rfc_and_work_once),
        cmocka_unit_test(passwords_are_hashed_with_argon2id_and_told_apart),
        cmocka_unit_test(cookies_are_found_by_their_whole_name_and_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
