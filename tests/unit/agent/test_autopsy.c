/* SPDX-License-Identifier: Apache-2.0 */
/* The record of a failed attempt: what is in it, and that nothing a guest prints makes it longer than its bound or no JSON. */
#include "agent/instance/autopsy.h"

#include "agent/logstore.h"
#include "base/cleanup.h"
#include "os/file.h"
#include "wire/json.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define ENV "env_01hzzzzzzzzzzzzzzzzzzzzzzz"
#define INST "inst_01hzzzzzzzzzzzzzzzzzzzzzzz"

static struct mt_state state(void)
{
    struct mt_state st;
    mt_state_init(&st, INST, 1);
    (void)snprintf(st.boot_id, sizeof st.boot_id, "boot_01hzzzzzzzzzzzzzzzzzzzzzzz");
    st.boot_seq = 4;
    st.end = (struct mt_end){.reason = "workload_exited", .detail = "it said so", .has_exit_code = true, .exit_code = 3};
    (void)snprintf(st.driver, sizeof st.driver, "qemu");
    (void)snprintf(st.accel, sizeof st.accel, "tcg");
    st.t.launch = 1;
    return st;
}

static json_t *made(const struct mt_autopsy_in *in)
{
    struct mt_err err = {0};
    json_t *ret = NULL;
    mt_auto_free char *text = mt_autopsy_text(in);
    if (!text || strlen(text) > MT_AUTOPSY_MAX || mt_json_parse(text, strlen(text), MT_AUTOPSY_MAX, 8, &ret, &err) < 0)
        fail_msg("no record: %s", err.msg);
    return ret;
}

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void a_record_tells_end_place_memory_health_and_last_lines(void **s)
{
    (void)s;
    struct mt_state st = state();
    struct mt_health h = {.type = MT_HEALTH_HTTP, .port = 8080, .path = "/up"};
    struct mt_autopsy_tail tail = {.n = 1, .line[0] = {.ts_us = 1, .stream = MT_LOG_STDERR, .len = 4, .text = "bye\0"}};
    struct mt_autopsy_in in = {.st = &st, .phase = "ready", .step = "", .explain = "", .console = "one\r\ntwo\r\n\r\n", .console_len = 12, .tail = &tail,
                               .oom_guest = 2, .memory_bytes = 1 << 20,
                               .health = {.check = &h, .error = "http_503", .status = 503, .body = "no", .body_len = 2, .failures = 9}};
    mt_auto_json json_t *r = made(&in);
    assert_string_equal(str(r, "reason_code"), "workload_exited");
    assert_string_equal(str(r, "phase"), "ready");
    assert_string_equal(str(r, "vmm"), "qemu/tcg");
    assert_null(json_object_get(r, "step"));
    assert_int_equal(json_integer_value(json_object_get(r, "exit_code")), 3);
    assert_int_equal(json_integer_value(json_object_get(r, "boot_seq")), 4);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(r, "oom"), "guest_kills")), 2);
    assert_string_equal(str(json_object_get(r, "health"), "body"), "no");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(r, "health"), "status")), 503);
    json_t *console = json_object_get(r, "console"), *log = json_object_get(r, "log");
    assert_int_equal(json_array_size(console), 2);
    assert_string_equal(json_string_value(json_array_get(console, 1)), "two");
    assert_int_equal(json_array_size(log), 1);
    assert_string_equal(str(json_array_get(log, 0), "stream"), "stderr");
    assert_string_equal(str(json_array_get(log, 0), "line"), "bye\xef\xbf\xbd"); /* no NUL reaches the database */
}

static void whatever_is_printed_the_record_keeps_its_bound(void **s)
{
    (void)s;
    static char console[6144];
    struct mt_state st = state();
    static struct mt_autopsy_tail tail;
    struct mt_health h = {.type = MT_HEALTH_HTTP, .port = 1, .path = "/"};
    for (int byte = 0; byte < 256; byte++) { /* each byte: escaped, not UTF-8, line ends */
        memset(console, byte, sizeof console);
        for (size_t i = 99; i < sizeof console; i += 100)
            console[i] = '\n';
        tail.n = MT_AUTOPSY_LINES;
        for (size_t i = 0; i < tail.n; i++) {
            tail.line[i].len = sizeof tail.line[i].text;
            memset(tail.line[i].text, byte, sizeof tail.line[i].text);
        }
        memset(st.end.detail, byte == 0 ? 1 : byte, sizeof st.end.detail - 1);
        struct mt_autopsy_in in = {.st = &st, .phase = "", .console = console, .console_len = sizeof console, .tail = &tail,
                                   .health = {.check = &h, .error = "", .status = 500, .body = console, .body_len = MT_AUTOPSY_BODY}};
        mt_auto_json json_t *r = made(&in);
        assert_true(json_array_size(json_object_get(r, "log")) > 0);
    }
}

static void the_tail_is_the_attempts_own(void **s)
{
    (void)s;
    char dir[] = "/tmp/mt-autopsy-XXXXXX";
    struct mt_log_store *store = NULL;
    struct mt_err err = {0};
    uint64_t seq;
    struct mt_autopsy_tail *tail = calloc(1, sizeof *tail);
    assert_non_null(mkdtemp(dir));
    assert_non_null(tail);
    mt_autopsy_tail(dir, INST, 2, tail); /* no log at all */
    assert_int_equal(tail->n, 0);
    assert_int_equal(mt_log_store_open(dir, ENV, INST, &store, &err), 0);
    for (uint32_t i = 1; i <= 60; i++) {
        char line[40];
        int n = snprintf(line, sizeof line, "line %u", i);
        struct mt_log_record r = {.boot = i <= 50 ? 1 : 2, .guest_seq = i, .stream = MT_LOG_STDOUT, .line = (const uint8_t *)line, .len = (size_t)n};
        assert_int_equal(mt_log_append(store, &r, 1, &seq, &err), 0);
    }
    mt_log_store_close(store);
    mt_autopsy_tail(dir, INST, 2, tail);
    assert_int_equal(tail->n, 10);
    assert_memory_equal(tail->line[9].text, "line 60", 7);
    mt_autopsy_tail(dir, INST, 9, tail);
    assert_int_equal(tail->n, 0);
    free(tail);
    (void)mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

static void a_guest_that_died_of_no_memory_is_known_by_its_panic(void **state)
{
    (void)state;
    char text[512] = "[    1.0] Out of memory: Killed process 7 (awk)\n[    1.1] Kernel panic - not syncing: System is deadlocked on memory\n[    1.2] CPU: 0\n";
    char line[MT_AUTOPSY_CONSOLE_LINE];
    size_t len;
    free(mt_autopsy_console(text, strlen(text), &len, line));
    assert_true(mt_autopsy_says_oom(line));
    assert_false(mt_autopsy_says_oom("Kernel panic - not syncing: Attempted to kill init!"));
    assert_false(mt_autopsy_says_oom("Out of memory: Killed process 7 (awk)"));
    assert_false(mt_autopsy_says_oom(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_tells_end_place_memory_health_and_last_lines),
        cmocka_unit_test(whatever_is_printed_the_record_keeps_its_bound),
        cmocka_unit_test(the_tail_is_the_attempts_own),
        cmocka_unit_test(a_guest_that_died_of_no_memory_is_known_by_its_panic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
