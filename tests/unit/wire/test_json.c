/* SPDX-License-Identifier: Apache-2.0 */
#include "base/assert.h"
#include "wire/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int parse(const char *s, json_t **ret, struct mt_err *e)
{
    return mt_json_parse(s, strlen(s), 1000, 4, ret, e);
}

static void hostile_text_is_refused_with_a_place(void **state)
{
    (void)state;
    static const struct { const char *text, *part; } t[] = {
        {"{\"a\":1,\"a\":2}", "duplicate"}, {"{\"a\":1} x", "line 1"}, {"[[[[[1]]]]]", "deeper than 4"}, {"{\"a\":\"\\u0000\"}", "line 1"},
        {"", "line"}, {"{\"a\":\"\xff\"}", "line 1"}, {"{\"a\":99999999999999999999}", "line 1"}};
    for (size_t i = 0; i < MT_ARRAY_LEN(t); i++) {
        json_t *j = NULL;
        struct mt_err e = {0};
        assert_int_equal(parse(t[i].text, &j, &e), -MT_E_INVALID);
        assert_non_null(strstr(e.msg, t[i].part));
        assert_null(j);
    }
    json_t *j = NULL;
    assert_int_equal(mt_json_parse("[1,2,3]", 7, 6, 4, &j, NULL), -MT_E_LIMIT);
    assert_int_equal(parse("[\"[[[[[\\\"[[[\"]", &j, NULL), 0); /* brackets in text do not nest */
    json_decref(j);
}

static void getters_name_the_field(void **state)
{
    (void)state;
    mt_auto_json json_t *j = NULL;
    struct mt_err e;
    assert_int_equal(parse("{\"n\":70000,\"s\":\"abc\",\"z\":null,\"neg\":-1}", &j, &e), 0);
    uint64_t n;
    const char *s;
    bool b;
    assert_int_equal(mt_json_get_u64(j, "n", 1, 65535, &n, &e), -MT_E_INVALID);
    assert_string_equal(e.msg, "'n' is 70000, outside 1..65535");
    assert_int_equal(mt_json_get_u64(j, "neg", 0, UINT64_MAX, &n, &e), -MT_E_INVALID);
    assert_int_equal(mt_json_get_u64(j, "s", 0, 1, &n, &e), -MT_E_INVALID);
    assert_string_equal(e.msg, "'s' must be an integer");
    assert_int_equal(mt_json_get_str(j, "z", 9, &s, &e), -MT_E_INVALID);
    assert_string_equal(e.msg, "'z' is missing");
    assert_int_equal(mt_json_opt_str(j, "z", 9, "d", &s, &e), 0);
    assert_string_equal(s, "d");
    assert_int_equal(mt_json_get_str(j, "s", 2, &s, &e), -MT_E_INVALID);
    assert_int_equal(mt_json_opt_bool(j, "b", true, &b, &e), 0);
    assert_true(b);
    static const char *const known[] = {"n", "s", "neg", "zz", NULL};
    assert_int_equal(mt_json_only(j, known, &e), -MT_E_INVALID);
    assert_string_equal(e.msg, "unknown field 'z', did you mean 'n'?");
}

static void canonical_text_is_sorted_and_compact(void **state)
{
    (void)state;
    mt_auto_json json_t *j = NULL;
    assert_int_equal(parse("{ \"b\" : [1, true, null], \"a\" : \"\xc3\xa9/\\u0001\" }", &j, NULL), 0);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(100);
    assert_int_equal(mt_json_dump_canonical(j, &b, NULL), 0);
    assert_string_equal(mt_buf_cstr(&b), "{\"a\":\"\xc3\xa9/\\u0001\",\"b\":[1,true,null]}");
    struct mt_buf small = MT_BUF_INIT(5);
    assert_int_equal(mt_json_dump(j, &small, NULL), -MT_E_LIMIT);
    mt_buf_done(&small);
}

static void foreign_bytes_become_replacement_characters(void **state)
{
    (void)state;
    mt_auto_json json_t *j = json_object();
    assert_int_equal(mt_json_set_strn(j, "k", "a\xff\0z", 4), 0);
    assert_int_equal(json_string_length(json_object_get(j, "k")), 1 + 3 + 1 + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_text_is_refused_with_a_place),
        cmocka_unit_test(getters_name_the_field),
        cmocka_unit_test(canonical_text_is_sorted_and_compact),
        cmocka_unit_test(foreign_bytes_become_replacement_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
