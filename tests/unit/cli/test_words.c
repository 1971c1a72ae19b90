/* SPDX-License-Identifier: Apache-2.0 */
/* Small translations: durations, names out of image references, exit codes, addresses of routes, ids. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void durations(void **state)
{
    (void)state;
    static const struct { const char *text; int64_t ms; } good[] = {
        {"0s", 0}, {"500ms", 500}, {"30s", 30000}, {"5m", 300000}, {"1h", 3600000}, {"1000000h", INT64_C(3600000000000)}};
    static const char *const bad[] = {"", "5", "s", "-1s", "+1s", " 1s", "1 s", "1s ", "1.5s", "1d", "1S", "0x1s", "1000001s", "99999999999999999999s", "5mm"};
    struct mt_err err;
    for (size_t i = 0; i < MT_ARRAY_LEN(good); i++) {
        int64_t ms = -1;
        assert_int_equal(cli_parse_duration(good[i].text, &ms, &err), 0);
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        int64_t ms = -7;
        assert_int_equal(cli_parse_duration(bad[i], &ms, &err), -MT_E_INVALID);
        assert_int_equal(ms, -7);
    }
}

static void an_app_is_named_after_its_image(void **state)
{
    (void)state;
    static const struct { const char *ref, *name; } cases[] = {
        {"nginx", "nginx"},
        {"nginx:1.27", "nginx"},
        {"127.0.0.1:5056/hello:latest", "hello"},
        {"ghcr.io/some-body/My_App.Web:v2", "my-app-web"},
        {"ghcr.io/a/b/c@sha256:4aa57fdb5a15f2c18ce9295264c7ff45f89c18f0b93d1ee194793c45e2dd667f", "c"},
        {"r.example/a:1@sha256:00", "a"},
        {"r.example/3proxy", "proxy"},
        {"r.example/a_", "a"},
        {"r.example/123", "app"},
        {"r.example/", "app"},
        {"", "app"},
        {"r/\x1b[2J\xff", "j"},
        {"r/aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee", "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(cases); i++) {
        char name[64] = "?";
        cli_app_name_of_image(cases[i].ref, name);
        assert_string_equal(name, cases[i].name);
    }
}

static void a_status_has_one_exit_code(void **state)
{
    (void)state;
    static const struct { int status, code; } cases[] = {
        {400, CLI_USAGE}, {405, CLI_USAGE}, {413, CLI_USAGE}, {415, CLI_USAGE}, {422, CLI_USAGE}, {401, CLI_AUTH}, {403, CLI_AUTH},
        {404, CLI_NOT_FOUND}, {410, CLI_NOT_FOUND}, {409, CLI_CONFLICT}, {412, CLI_CONFLICT}, {429, CLI_TRANSIENT}, {502, CLI_TRANSIENT},
        {503, CLI_TRANSIENT}, {504, CLI_TRANSIENT}, {500, CLI_INTERNAL}, {501, CLI_INTERNAL}, {599, CLI_INTERNAL}, {418, CLI_FAILURE}, {302, CLI_FAILURE}};
    static const struct { int code; const char *name; } names[] = {
        {CLI_OK, "ok"}, {CLI_FAILURE, "failure"}, {CLI_USAGE, "usage"}, {CLI_AUTH, "auth"}, {CLI_NOT_FOUND, "not_found"}, {CLI_CONFLICT, "conflict"},
        {CLI_TRANSIENT, "transient"}, {CLI_INTERNAL, "internal"}, {CLI_NOT_CONVERGED, "not_converged"}, {CLI_INTERRUPTED, "failure"}, {-1, "failure"}};
    for (size_t i = 0; i < MT_ARRAY_LEN(cases); i++)
        assert_int_equal(cli_exit_of_status(cases[i].status), cases[i].code);
    for (size_t i = 0; i < MT_ARRAY_LEN(names); i++)
        assert_string_equal(cli_category(names[i].code), names[i].name);
}

static void an_address_is_what_this_machine_can_reach(void **state)
{
    (void)state;
    static const struct { uint64_t tls_port; const char *protocol, *host; int port; const char *url; } cases[] = {
        {0, "tls_passthrough", "a.example", 443, "https://a.example/"},
        {443, "tls_passthrough", "a.example", 443, "https://a.example/"},
        {9443, "tls_passthrough", "a.example", 443, "https://a.example:9443/"},
        {9443, "tls_passthrough", "a.example", 8443, "https://a.example:8443/"},
        {9443, "tcp_raw", "", 5432, "[::]:5432"},
        {9443, "tcp_raw", "db.example", 443, "db.example:443"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(cases); i++) {
        struct cli c = {.tls_port = cases[i].tls_port};
        char url[300];
        mt_auto_json json_t *r = json_pack("{s:s,s:i,s:s}", "hostname", cases[i].host, "listen_port", cases[i].port, "protocol", cases[i].protocol);
        assert_string_equal(cli_route_url(&c, r, url, sizeof url), cases[i].url);
    }
    struct cli c = {0};
    char small[12];
    mt_auto_json json_t *r = json_pack("{s:s,s:i}", "hostname", "a-long-name.example", "listen_port", 443);
    assert_int_equal(strlen(cli_route_url(&c, r, small, sizeof small)), sizeof small - 1);
}

static void only_ids_get_into_paths(void **state)
{
    (void)state;
    struct cli c = {.hush = true};
    assert_int_equal(cli_check_id(&c, "dep_01m83azv0sfxymp40vjt1c3dt4", "dep_", NULL), CLI_OK);
    static const char *const bad[] = {"", "dep_", "rel_01m83azv0sfxymp40vjt1c3dt4", "dep_01m83azv0sfxymp40vjt1c3dt", "dep_01m83azv0sfxymp40vjt1c3dt44",
                                      "dep_01m83azv0sfxymp40vjt1c3dt/", "dep_../../../../../../orgs/xxx", "dep_01M83azv0sfxymp40vjt1c3dt4"};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_int_equal(cli_check_id(&c, bad[i], "dep_", NULL), CLI_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(an_app_is_named_after_its_image),
        cmocka_unit_test(a_status_has_one_exit_code),
        cmocka_unit_test(an_address_is_what_this_machine_can_reach),
        cmocka_unit_test(only_ids_get_into_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
