/* SPDX-License-Identifier: Apache-2.0 */
/* Exec frames: golden bytes, bounds, who may send what, bodies there and back, bodies that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "wire/exec.h"

static uint8_t mem_bytes[MT_EXEC_MEM];
static struct mt_guest_mem mem = {.base = mem_bytes, .cap = sizeof mem_bytes};

static void a_header_has_these_bytes(void **state)
{
    (void)state;
    uint8_t h[MT_EXEC_HEAD];
    mt_exec_head(h, MT_EXEC_STDOUT, 65536);
    assert_memory_equal(h, "\x02\0\0\0\0\x01\0\0", 8);
    struct mt_exec_frame f;
    size_t used;
    struct mt_err err;
    const uint8_t in[] = {1, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c', 9};
    for (size_t n = 0; n < 11; n++)
        assert_int_equal(mt_exec_decode(MT_EXEC_FROM_CLIENT, in, n, &f, &used, &err), 1);
    assert_int_equal(mt_exec_decode(MT_EXEC_FROM_CLIENT, in, sizeof in, &f, &used, &err), 0);
    assert_int_equal(used, 11);
    assert_int_equal(f.type, MT_EXEC_STDIN);
    assert_memory_equal(f.payload, "abc", 3);
    assert_int_equal(mt_exec_window((const uint8_t *)"\x00\x01\x02\x03"), 0x010203);
}

static void frames_of_the_wrong_side_or_size_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum mt_exec_from from;
        uint8_t head[8];
    } bad[] = {
        {MT_EXEC_FROM_CLIENT, {2, 0, 0, 0, 0, 0, 0, 1}},    {MT_EXEC_FROM_CLIENT, {0x12, 0, 0, 0, 0, 0, 0, 4}},
        {MT_EXEC_FROM_CLIENT, {0x20, 0, 0, 0, 0, 0, 0, 0}}, {MT_EXEC_FROM_CLIENT, {1, 1, 0, 0, 0, 0, 0, 0}},
        {MT_EXEC_FROM_CLIENT, {1, 0, 0, 1, 0, 0, 0, 0}},    {MT_EXEC_FROM_CLIENT, {1, 0, 0, 0, 0, 1, 0, 1}},
        {MT_EXEC_FROM_CLIENT, {1, 0, 0, 0, 255, 0, 0, 0}},  {MT_EXEC_FROM_GUEST, {1, 0, 0, 0, 0, 0, 0, 1}},
        {MT_EXEC_FROM_GUEST, {2, 0, 0, 0, 0, 0, 0, 0}},     {MT_EXEC_FROM_GUEST, {0x12, 0, 0, 0, 0, 0, 0, 5}},
        {MT_EXEC_FROM_GUEST, {0x20, 0, 0, 0, 0, 0, 0, 2}},  {MT_EXEC_FROM_GUEST, {0x11, 0, 0, 0, 0, 0, 4, 1}},
        {MT_EXEC_FROM_GUEST, {0, 0, 0, 0, 0, 0, 0, 0}},     {MT_EXEC_FROM_CLIENT, {0x10, 0, 0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mt_exec_frame f;
        size_t used;
        struct mt_err err = {0};
        assert_true(mt_exec_decode(bad[i].from, bad[i].head, 8, &f, &used, &err) < 0);
        assert_true(err.msg[0] != 0);
    }
}

static void open_goes_there_and_back(void **state)
{
    (void)state;
    const char *argv[] = {"sh", "-c", "echo \"\xc3\xa9\"\n", ""};
    struct mt_guest_env env[] = {{"A", "1"}, {"_B2", ""}};
    const struct mt_exec_open in = {.argv = argv, .argc = 4, .env = env, .env_count = 2, .cwd = "/x", .user = "bob:7", .term = "vt100",
                                    .tty = true, .stdin_open = true, .cols = 1000, .rows = 1};
    struct mt_exec_open out;
    static uint8_t body[MT_EXEC_PAYLOAD_MAX];
    size_t n;
    struct mt_err err;
    assert_int_equal(mt_exec_open_encode(&in, body, sizeof body, &n, &err), 0);
    assert_int_equal(mt_exec_open_decode(body, n, &mem, &out, &err), 0);
    assert_int_equal(out.argc, 4);
    assert_string_equal(out.argv[2], argv[2]);
    assert_string_equal(out.argv[3], "");
    assert_null(out.argv[4]);
    assert_int_equal(out.env_count, 2);
    assert_string_equal(out.env[1].key, "_B2");
    assert_string_equal(out.cwd, "/x");
    assert_string_equal(out.user, "bob:7");
    assert_string_equal(out.term, "vt100");
    assert_true(out.tty && out.stdin_open && out.cols == 1000 && out.rows == 1);
    assert_int_equal(mt_exec_open_encode(&in, body, 20, &n, &err), -MT_E_LIMIT);
}

static void bodies_that_are_refused(void **state)
{
    (void)state;
    static const char *const opens[] = {"", "{}", "[]", "{\"argv\":[]}", "{\"argv\":[\"\"]}", "{\"argv\":[1]}", "{\"argv\":\"sh\"}",
                                        "{\"argv\":[\"a\\u0000b\"]}", "{\"argv\":[\"a\"],\"env\":{\"1A\":\"x\"}}",
                                        "{\"argv\":[\"a\"],\"env\":{\"A=B\":\"x\"}}", "{\"argv\":[\"a\"],\"env\":{\"A\":1}}",
                                        "{\"argv\":[\"a\"],\"cwd\":\"x\"}", "{\"argv\":[\"a\"],\"cols\":1001}",
                                        "{\"argv\":[\"a\"],\"rows\":-1}", "{\"argv\":[\"a\"],\"argv\":[\"b\"]}", "{\"argv\":[\"a\"]}x"};
    static const char *const controls[] = {"{}", "{\"type\":\"resize\"}", "{\"type\":\"resize\",\"cols\":0,\"rows\":5}",
                                           "{\"type\":\"resize\",\"cols\":5,\"rows\":1001}", "{\"type\":\"signal\"}",
                                           "{\"type\":\"signal\",\"name\":\"STOP\"}", "{\"type\":\"close\",\"reason\":\"because\"}"};
    static const char *const exits[] = {"{}", "{\"exit_code\":256,\"reason\":\"exited\"}", "{\"exit_code\":-1,\"reason\":\"exited\"}",
                                        "{\"reason\":\"happy\"}", "{\"exit_code\":1,\"signal\":\"INT\",\"reason\":\"exited\"}",
                                        "{\"signal\":\"<b>\",\"reason\":\"killed\"}"};
    struct mt_err err;
    struct mt_exec_open o;
    struct mt_exec_control c;
    struct mt_exec_exit e;
    for (size_t i = 0; i < sizeof opens / sizeof opens[0]; i++)
        assert_true(mt_exec_open_decode((const uint8_t *)opens[i], strlen(opens[i]), &mem, &o, &err) < 0);
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++)
        assert_true(mt_exec_control_decode((const uint8_t *)controls[i], strlen(controls[i]), &mem, &c, &err) < 0);
    for (size_t i = 0; i < sizeof exits / sizeof exits[0]; i++)
        assert_true(mt_exec_exit_decode((const uint8_t *)exits[i], strlen(exits[i]), &mem, &e, &err) < 0);
    static const char later[] = "{\"type\":\"hologram\",\"depth\":3}";
    assert_int_equal(mt_exec_control_decode((const uint8_t *)later, strlen(later), &mem, &c, &err), 0);
    assert_int_equal(c.kind, MT_EXEC_UNKNOWN);
}

static void controls_and_exits_go_there_and_back(void **state)
{
    (void)state;
    const struct mt_exec_control all[] = {{.kind = MT_EXEC_RESIZE, .cols = 1, .rows = 1000}, {.kind = MT_EXEC_SIGNAL, .signal = "QUIT"},
                                          {.kind = MT_EXEC_CLOSE}, {.kind = MT_EXEC_CLOSE, .reason = "revoked"},
                                          {.kind = MT_EXEC_PING, .t = -5}, {.kind = MT_EXEC_PONG, .t = INT64_MAX}};
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    struct mt_err err;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct mt_exec_control c;
        assert_int_equal(mt_exec_control_encode(&all[i], body, sizeof body, &n, &err), 0);
        assert_int_equal(mt_exec_control_decode(body, n, &mem, &c, &err), 0);
        assert_true(c.kind == all[i].kind && c.cols == all[i].cols && c.rows == all[i].rows && c.t == all[i].t);
        assert_true((c.reason != NULL) == (all[i].reason != NULL) && (c.signal != NULL) == (all[i].signal != NULL));
    }
    static char long_text[2000];
    memset(long_text, 'x', sizeof long_text - 1);
    const struct mt_exec_exit ends[] = {{.exit_code = 0, .reason = "exited"}, {.exit_code = 255, .reason = "timeout", .detail = "d"},
                                        {.exit_code = -1, .signal = "KILL", .reason = "killed"},
                                        {.exit_code = -1, .reason = "start_failed", .detail = long_text}};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct mt_exec_exit e;
        assert_int_equal(mt_exec_exit_encode(&ends[i], body, sizeof body, &n, &err), 0);
        assert_int_equal(mt_exec_exit_decode(body, n, &mem, &e, &err), 0);
        assert_int_equal(e.exit_code, ends[i].exit_code);
        assert_string_equal(e.reason, ends[i].reason);
        assert_true(i != 3 || e.detail == NULL); /* left out, so that the reason goes through */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_has_these_bytes),       cmocka_unit_test(frames_of_the_wrong_side_or_size_are_refused),
        cmocka_unit_test(open_goes_there_and_back),       cmocka_unit_test(bodies_that_are_refused),
        cmocka_unit_test(controls_and_exits_go_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
