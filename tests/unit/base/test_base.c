/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/num.h"
#include "base/rd.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void wrapping_puts_context_in_front_and_cuts(void **state)
{
    (void)state;
    struct mt_err e = {0};
    assert_int_equal(MT_FAIL(&e, MT_E_LIMIT, "no node has %d MiB", 512), -MT_E_LIMIT);
    assert_int_equal(mt_err_wrap(&e, "placing '%s'", "web.1"), -MT_E_LIMIT);
    assert_string_equal(e.msg, "placing 'web.1': no node has 512 MiB");
    for (int i = 0; i < 40; i++)
        (void)mt_err_wrap(&e, "a fairly long context number %d", i);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    errno = ENOENT;
    (void)MT_FAIL_ERRNO(&e, MT_E_IO, "open '%s'", "x");
    assert_string_equal(e.msg, "open 'x': No such file or directory");
    assert_int_equal(e.sys_errno, ENOENT);
}

static void a_message_keeps_its_reason_and_may_quote_itself(void **state)
{
    (void)state;
    struct mt_err e = {0};
    char name[400];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    errno = ENOENT;
    (void)MT_FAIL_ERRNO(&e, MT_E_IO, "open '%s'", name);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_non_null(strstr(e.msg, "...: No such file or directory"));
    (void)MT_FAIL(&e, MT_E_INVALID, "first");
    (void)MT_FAIL(&e, MT_E_INVALID, "%s (and 2 more)", e.msg);
    assert_string_equal(e.msg, "first (and 2 more)");
}

static void untrusted_text_cannot_drive_a_terminal(void **state)
{
    (void)state;
    struct mt_err e = {0};
    char out[64];
    static const char hostile[] = "a\033[2Jb\302\2332Jc\342\200\256d\342\201\246e\377f\tg\303\274\302\240";
    static const char tame[] = "a?[2Jb?2Jc?d?e?f g\303\274\302\240";
    assert_string_equal(mt_printable(hostile, strlen(hostile), out, sizeof out), tame);
    (void)MT_FAIL(&e, MT_E_INVALID, "%s", hostile);
    assert_string_equal(e.msg, tame);
    (void)MT_FAIL(&e, MT_E_INVALID, "x");
    (void)mt_err_wrap(&e, "%s", "\033]0;title\007");
    assert_string_equal(e.msg, "?]0;title?: x");
}

static void hostile_fields_cannot_hide_an_event(void **state)
{
    (void)state;
    char line[20000], field[4000];
    int p[2], saved = dup(2);
    memset(field, 1, sizeof field - 1); /* six bytes each when escaped */
    field[sizeof field - 1] = '\0';
    assert_int_equal(pipe(p), 0);
    (void)dup2(p[1], 2);
    mt_log(MT_ERROR, "edge.refused", KV("name", (const char *)field));
    (void)dup2(saved, 2);
    ssize_t n = read(p[0], line, sizeof line - 1);
    assert_true(n > 0);
    line[n] = '\0';
    assert_non_null(strstr(line, "\"msg\":\"edge.refused\""));
    assert_int_equal(line[n - 1], '\n');
    (void)close(saved);
    (void)close(p[0]);
    (void)close(p[1]);
}

/* A place that says the same hundreds of times a second is heard ten times, and then how often it was not; what it says of another thing is heard at once. */
static void a_line_that_repeats_is_counted(void **state)
{
    (void)state;
    static char text[65536]; /* less than a pipe holds */
    int p[2], saved = dup(2);
    size_t same = 0, n = 0;
    assert_int_equal(pipe(p), 0);
    (void)dup2(p[1], 2);
    int64_t began = mt_clock_mono() / MT_NS_PER_S, ended;
    for (int i = 0; i < 301; i++)
        mt_log(MT_ERROR, "test.again", KV("name", i < 300 ? "same" : "other"), KV_OPT("trace_id", NULL));
    ended = mt_clock_mono() / MT_NS_PER_S;
    (void)dup2(saved, 2);
    (void)close(p[1]);
    for (ssize_t got; (got = read(p[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    for (const char *at = text; (at = strstr(at, "\"same\"")) != NULL; at++)
        same++;
    assert_in_range(same, 10, 10 * (size_t)(ended - began + 1));
    const char *last = strstr(text, "\"other\"");
    assert_non_null(last);
    assert_null(strstr(text, "trace_id"));
    if (ended == began) /* else a line of the next second has said a part of it */
        assert_non_null(strstr(last, ",\"suppressed\":290}"));
    (void)close(saved);
    (void)close(p[0]);
}

static void every_code_has_a_name_and_statuses(void **state)
{
    (void)state;
    for (int c = 0; c < MT_E_MAX; c++) {
        assert_non_null(mt_code_name((enum mt_code)c));
        assert_true(mt_code_http((enum mt_code)c) >= 200);
        assert_true(c == 0 || mt_code_exit((enum mt_code)c) > 0);
    }
}

static void numbers_are_whole_decimal_and_in_range(void **state)
{
    (void)state;
    static const struct { const char *s; bool ok; uint64_t v; } t[] = {
        {"0", true, 0}, {"18446744073709551615", true, UINT64_MAX}, {"18446744073709551616", false, 0}, {"", false, 0},
        {" 1", false, 0}, {"1 ", false, 0}, {"-1", false, 0}, {"+1", false, 0}, {"0x10", false, 0}, {"007", true, 7}};
    for (size_t i = 0; i < MT_ARRAY_LEN(t); i++) {
        uint64_t v = 42;
        struct mt_err e;
        assert_int_equal(mt_parse_u64(t[i].s, 0, UINT64_MAX, &v, &e) == 0, t[i].ok);
        assert_true(v == (t[i].ok ? t[i].v : 42));
    }
    int64_t s;
    assert_int_equal(mt_parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &s, NULL), 0);
    assert_true(s == INT64_MIN);
    struct mt_err e;
    assert_int_equal(mt_parse_i64("11", 1, 10, &s, &e), -MT_E_INVALID);
    assert_string_equal(e.msg, "11 is outside 1..10");
}

static void a_buffer_stops_at_its_bound_and_stays_failed(void **state)
{
    (void)state;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(10);
    mt_buf_puts(&b, "12345");
    mt_buf_printf(&b, "%d", 678);
    assert_int_equal(mt_buf_check(&b, NULL), 0);
    mt_buf_puts(&b, "xyz");
    assert_true(b.failed);
    mt_buf_puts(&b, "a");
    assert_int_equal(b.len, 8);
    assert_string_equal(mt_buf_cstr(&b), "12345678");
    mt_buf_reset(&b);
    mt_buf_put_json_str(&b, "a\"\n\xff", 4);
    assert_true(b.failed);
    mt_auto_buf struct mt_buf c = MT_BUF_INIT(100);
    mt_buf_put_json_str(&c, "a\"\n\xff\xc3\xa9", 6);
    assert_string_equal(mt_buf_cstr(&c), "\"a\\\"\\u000a\xef\xbf\xbd\xc3\xa9\"");
}

static void nested_length_cannot_escape_its_parent(void **state)
{
    (void)state;
    uint8_t bytes[] = {0, 4, 1, 2, 3, 4, 9};
    struct mt_rd r = mt_rd_of(bytes, sizeof bytes);
    struct mt_rd in = mt_rd_sub(&r, mt_rd_be16(&r));
    assert_int_equal(mt_rd_be24(&in), 0x010203);
    assert_int_equal(mt_rd_be16(&in), 0);
    assert_true(in.bad);
    assert_false(r.bad);
    assert_int_equal(mt_rd_u8(&r), 9);
    struct mt_rd big = mt_rd_sub(&r, 1);
    assert_true(big.bad && r.bad);
}

static bool is_plain(char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* Each byte value at each place of texts that end in the middle of a word, against the rule byte by byte. */
static void plain_run_ends_at_the_first_other_byte(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 26; n++) {
        char s[32];
        for (size_t at = 0; at < n; at++) {
            for (int c = 0; c < 256; c++) {
                memset(s, '!', sizeof s);
                s[at] = (char)c;
                s[n - 1] = at == n - 1 ? (char)c : (char)(c + 1); /* a second one behind it */
                size_t want = 0;
                while (want < n && is_plain(s[want]))
                    want++;
                assert_int_equal(mt_plain_run(s, n), want);
            }
        }
        memset(s, '~', sizeof s);
        assert_int_equal(mt_plain_run(s, n), n);
    }
}

static void utf8_is_judged_strictly(void **state)
{
    (void)state;
    static const struct { const char *s; bool ok; } t[] = {{"abc", true}, {"\xc3\xa9", true}, {"\xc0\xaf", false},
        {"\xed\xa0\x80", false}, {"\xf0\x9f\x98\x80", true}, {"\xf4\x90\x80\x80", false}, {"\xe2\x82", false}, {"\x80", false}};
    for (size_t i = 0; i < MT_ARRAY_LEN(t); i++)
        assert_int_equal(mt_utf8_valid(t[i].s, strlen(t[i].s)), t[i].ok);
    char out[12];
    assert_string_equal(mt_printable("a\x1b[31m\xff", 7, out, sizeof out), "a?[31m?");
    assert_string_equal(mt_printable("abcdefghijklmnop", 16, out, sizeof out), "abcdefgh...");
}

static void the_nearest_name_is_offered_only_when_near(void **state)
{
    (void)state;
    static const char *const names[] = {"memory", "cpu", "disk", NULL};
    assert_string_equal(mt_nearest("memmory", names), "memory");
    assert_string_equal(mt_nearest("dsk", names), "disk");
    assert_null(mt_nearest("frobnicate", names));
}

static void a_map_survives_growth_and_removal(void **state)
{
    (void)state;
    struct mt_map m;
    mt_map_init(&m, 7);
    static int v[2000];
    char key[16];
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(mt_map_put(&m, key, &v[i]), 0);
        if (i % 3 == 0)
            assert_ptr_equal(mt_map_remove(&m, key), &v[i]);
    }
    size_t seen = 0, pos = 0;
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(key, sizeof key, "k%d", i);
        assert_ptr_equal(mt_map_get(&m, key), i % 3 == 0 ? NULL : &v[i]);
    }
    while (mt_map_next(&m, &pos, NULL, NULL))
        seen++;
    assert_int_equal(seen, m.count);
    assert_int_equal(m.count, 2000 - 667);
    mt_map_done(&m);
}

static void an_arena_is_bounded(void **state)
{
    (void)state;
    struct mt_arena a;
    mt_arena_init(&a, 10000);
    assert_string_equal(mt_arena_printf(&a, "%s-%d", "x", 5), "x-5");
    assert_non_null(mt_arena_alloc(&a, 8000));
    assert_null(mt_arena_alloc(&a, 8000));
    assert_null(mt_arena_alloc(&a, SIZE_MAX));
    mt_arena_done(&a);
}

static void time_round_trips(void **state)
{
    (void)state;
    char s[MT_RFC3339_LEN];
    int64_t us;
    assert_string_equal(mt_rfc3339(1732330800123456, s), "2024-11-23T03:00:00.123456Z");
    assert_int_equal(mt_rfc3339_parse(s, &us, NULL), 0);
    assert_true(us == 1732330800123456);
    assert_int_equal(mt_rfc3339_parse("2024-11-23T05:00:00.5+02:00", &us, NULL), 0);
    assert_true(us == 1732330800500000);
    assert_int_equal(mt_rfc3339_parse("2024-13-23T05:00:00Z", &us, NULL), -MT_E_INVALID);
    assert_int_equal(mt_rfc3339_parse("2024-11-23", &us, NULL), -MT_E_INVALID);
    assert_int_equal(mt_rfc3339_parse("2024-02-29T00:00:00Z", &us, NULL), 0);
    assert_int_equal(mt_rfc3339_parse("2023-02-29T00:00:00Z", &us, NULL), -MT_E_INVALID);
    assert_int_equal(mt_rfc3339_parse("2024-11-31T00:00:00Z", &us, NULL), -MT_E_INVALID);
    assert_int_equal(mt_rfc3339_parse("2024-11-23T05:00:00+24:00", &us, NULL), -MT_E_INVALID);
    assert_int_equal(mt_rfc3339_parse("2024-12-31T23:59:60Z", &us, NULL), 0);
}

static void crc32c_matches_the_published_vector(void **state)
{
    (void)state;
    assert_int_equal(mt_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(mt_crc32c(mt_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void lists_allow_removal_while_iterating(void **state)
{
    (void)state;
    struct item { int v; struct mt_list link; } it[5];
    struct mt_list head = MT_LIST_INIT(head);
    for (int i = 0; i < 5; i++) {
        it[i].v = i;
        mt_list_push_back(&head, &it[i].link);
    }
    MT_LIST_EACH(n, &head)
        if (MT_CONTAINER(n, struct item, link)->v % 2)
            mt_list_remove(n);
    int sum = 0;
    for (struct mt_list *n; (n = mt_list_pop_front(&head));)
        sum = sum * 10 + MT_CONTAINER(n, struct item, link)->v;
    assert_int_equal(sum, 24);
    assert_true(mt_list_empty(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrapping_puts_context_in_front_and_cuts),
        cmocka_unit_test(a_message_keeps_its_reason_and_may_quote_itself),
        cmocka_unit_test(untrusted_text_cannot_drive_a_terminal),
        cmocka_unit_test(hostile_fields_cannot_hide_an_event),
        cmocka_unit_test(a_line_that_repeats_is_counted),
        cmocka_unit_test(every_code_has_a_name_and_statuses),
        cmocka_unit_test(numbers_are_whole_decimal_and_in_range),
        cmocka_unit_test(a_buffer_stops_at_its_bound_and_stays_failed),
        cmocka_unit_test(nested_length_cannot_escape_its_parent),
        cmocka_unit_test(utf8_is_judged_strictly),
        cmocka_unit_test(plain_run_ends_at_the_first_other_byte),
        cmocka_unit_test(the_nearest_name_is_offered_only_when_near),
        cmocka_unit_test(a_map_survives_growth_and_removal),
        cmocka_unit_test(an_arena_is_bounded),
        cmocka_unit_test(time_round_trips),
        cmocka_unit_test(crc32c_matches_the_published_vector),
        cmocka_unit_test(lists_allow_removal_while_iterating),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
