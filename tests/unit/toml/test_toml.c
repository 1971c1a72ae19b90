/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/toml.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct mt_toml *parse_n(const char *text, size_t len)
{
    struct mt_toml *toml = NULL;
    struct mt_err err;

    assert_int_equal(mt_toml_parse(text, len, &toml, &err), 0);
    assert_non_null(toml);
    return toml;
}

static struct mt_toml *parse(const char *text)
{
    return parse_n(text, strlen(text));
}

static void every_kind_of_value_is_read(void **state)
{
    (void)state;
    struct mt_toml *t = parse("s = \"a\\u00e9\"\ni = -0x\n");
    assert_int_equal(t->n_problems, 1);
    mt_toml_free(t);

    t = parse("s = \"a\\u00e9\"\ni = -12_3\nf = 6.5e-1\nb = true\nd = 2026-11-23T03:00:00.5+01:30\n"
              "a = [1, 'two', [3]]\nt = {x.y = 1, z = []}\nm = '''\nline1\nline2'''\n");
    assert_int_equal(t->n_problems, 0);
    assert_string_equal(mt_toml_find(t->root, "s")->value->string.s, "a\xc3\xa9");
    assert_int_equal(mt_toml_find(t->root, "i")->value->integer, -123);
    assert_string_equal(mt_toml_find(t->root, "i")->value->text, "-123");
    assert_true(mt_toml_find(t->root, "f")->value->number > 0.649 && mt_toml_find(t->root, "f")->value->number < 0.651);
    assert_true(mt_toml_find(t->root, "b")->value->boolean);
    const struct mt_toml_value *d = mt_toml_find(t->root, "d")->value;
    assert_int_equal(d->type, MT_TOML_OFFSET_DATETIME);
    assert_int_equal(d->date.offset_minutes, 90);
    assert_int_equal(d->date.nanosecond, 500000000);
    assert_int_equal(mt_toml_find(t->root, "a")->value->array.n, 3);
    const struct mt_toml_value *x = mt_toml_find(mt_toml_find(t->root, "t")->value, "x")->value;
    assert_int_equal(mt_toml_find(x, "y")->value->integer, 1);
    assert_string_equal(mt_toml_find(t->root, "m")->value->string.s, "line1\nline2");
    mt_toml_free(t);
}

static void keys_and_values_carry_line_and_column(void **state)
{
    (void)state;
    struct mt_toml *t = parse("\n[a.b]\n  key = [\n    1,\n    'x']\n\"\xc3\xa9\xc3\xa9\" = 5\n");
    assert_int_equal(t->n_problems, 0);
    const struct mt_toml_entry *a = mt_toml_find(t->root, "a");
    assert_int_equal(a->pos.line, 2);
    assert_int_equal(a->pos.column, 2);
    const struct mt_toml_entry *b = mt_toml_find(a->value, "b");
    assert_int_equal(b->pos.column, 4);
    assert_int_equal(b->value->pos.column, 1);
    const struct mt_toml_entry *key = mt_toml_find(b->value, "key");
    assert_int_equal(key->pos.line, 3);
    assert_int_equal(key->pos.column, 3);
    assert_int_equal(key->value->pos.column, 9);
    assert_int_equal(key->value->array.v[1]->pos.line, 5);
    assert_int_equal(key->value->array.v[1]->pos.column, 5);
    /* columns count characters, not bytes */
    const struct mt_toml_entry *wide = mt_toml_find(b->value, "\xc3\xa9\xc3\xa9");
    assert_int_equal(wide->value->pos.column, 8);
    mt_toml_free(t);
}

static void one_pass_finds_every_problem(void **state)
{
    (void)state;
    static const struct {
        uint32_t line, column;
        const char *part;
    } want[] = {
        {1, 5, "not a value"},       {2, 1, "cannot start a key"}, {3, 3, "expected '='"},
        {5, 1, "already defined at line 4, column 1"}, {7, 5, "not closed"},   {9, 9, "one key or one header a line"},
        {11, 2, "table 'x' is already defined"},
    };
    struct mt_toml *t = parse("a = yes\n"
                              "? = 1\n"
                              "b 1\n"
                              "c = 1\n"
                              "c = 2\n"
                              "[x]\n"
                              "s = \"open\n"
                              "good = 1\n"
                              "bad = 2 3\n"
                              "# fine\n"
                              "[x]\n"
                              "lost = 1\n"
                              "[y]\n"
                              "kept = 1\n");
    size_t n = t->n_problems;
    for (size_t i = 0; i < n && i < 7; i++) {
        assert_int_equal(t->problems[i].pos.line, want[i].line);
        assert_int_equal(t->problems[i].pos.column, want[i].column);
        assert_non_null(strstr(t->problems[i].message, want[i].part));
    }
    assert_int_equal(n, 7);
    assert_int_equal(mt_toml_find(mt_toml_find(t->root, "x")->value, "good")->value->integer, 1);
    assert_null(mt_toml_find(mt_toml_find(t->root, "x")->value, "lost"));
    assert_int_equal(mt_toml_find(mt_toml_find(t->root, "y")->value, "kept")->value->integer, 1);
    mt_toml_free(t);
}

static void a_broken_array_of_many_lines_is_one_problem(void **state)
{
    (void)state;
    struct mt_toml *t = parse("a = [\n  1,\n  oops,\n  \"three\",\n  4\n]\nb = 1\n");
    assert_int_equal(t->n_problems, 1);
    assert_int_equal(t->problems[0].pos.line, 3);
    assert_non_null(mt_toml_find(t->root, "b"));
    mt_toml_free(t);
}

static void problems_stop_at_one_hundred(void **state)
{
    (void)state;
    char text[4096] = "";
    for (size_t i = 0; i < 300; i++)
        memcpy(text + i * 4, "? ?\n", 4);
    struct mt_toml *t = parse_n(text, 1200);
    assert_int_equal(t->n_problems, MT_TOML_PROBLEMS_MAX);
    assert_int_equal(t->problems[99].pos.line, 100);
    mt_toml_free(t);
}

static char *repeat(const char *unit, size_t n, const char *head)
{
    size_t len = strlen(unit), head_len = strlen(head);
    char *s = malloc(head_len + len * n + 1);

    assert_non_null(s);
    memcpy(s, head, head_len);
    for (size_t i = 0; i < n; i++)
        memcpy(s + head_len + i * len, unit, len);
    s[head_len + len * n] = '\0';
    return s;
}

static void nesting_and_dotted_keys_are_bounded(void **state)
{
    (void)state;
    static const struct {
        const char *head, *unit;
        const char *part;
    } rows[] = {
        {"a = ", "[", "nested deeper than 16"},
        {"a = ", "{a = ", "nested deeper than 16"},
        {"a = ", "[{a = ", "nested deeper than 16"},
        {"a", ".a", "more than 16 parts"},
        {"[a", ".a", "more than 16 parts"},
        {"a = {a", ".a", "more than 16 parts"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *text = repeat(rows[i].unit, 40000, rows[i].head);
        struct mt_toml *t = parse(text);
        assert_true(t->n_problems >= 1);
        assert_non_null(strstr(t->problems[0].message, rows[i].part));
        mt_toml_free(t);
        free(text);
    }
    /* the bound itself is allowed */
    struct mt_toml *t = parse("a = [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]\n");
    assert_int_equal(t->n_problems, 0);
    mt_toml_free(t);
}

static void text_above_the_limit_is_refused(void **state)
{
    (void)state;
    char *text = repeat("#\n", MT_TOML_BYTES_MAX / 2 + 1, "");
    struct mt_toml *toml = NULL;
    struct mt_err err;
    assert_int_equal(mt_toml_parse(text, strlen(text), &toml, &err), -MT_E_LIMIT);
    assert_null(toml);
    struct mt_toml *t = parse_n(text, MT_TOML_BYTES_MAX);
    assert_int_equal(t->n_problems, 0);
    mt_toml_free(t);
    free(text);
}

/* Processor time of this process: what others take of the machine is not the parser's. */
static int64_t worked_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * MT_NS_PER_S + t.tv_nsec;
}

/* Work must grow with the text, not with its square: each shape at full size stays far below a second. */
static void no_shape_of_text_is_slow(void **state)
{
    (void)state;
    static const char *const units[] = {"[]=", "'',", "a=1\n", "[[a]]\n", "\"\"\"", "\\\"", "{},", "x", "\xc3\xa9", "'''\n"};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        for (int k = 0; k < 3; k++) {
            static const char *const heads[] = {"", "a = [", "a = \"\"\""};
            char *text = repeat(units[i], 200000 / strlen(units[i]), heads[k]);
            int64_t start = worked_ns();
            struct mt_toml *t = parse(text);
            assert_true(worked_ns() - start < 2 * MT_NS_PER_S);
            mt_toml_free(t);
            free(text);
        }
    }
    char *text = malloc(250000);
    assert_non_null(text);
    size_t n = 0;
    for (unsigned i = 0; n < 249000; i++)
        n += (size_t)snprintf(text + n, 250000 - n, "k%u=%u\n", i, i);
    int64_t start = worked_ns();
    struct mt_toml *t = parse_n(text, n);
    assert_true(worked_ns() - start < 2 * MT_NS_PER_S);
    assert_int_equal(t->n_problems, 0);
    assert_true(t->root->table.n > 15000);
    mt_toml_free(t);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_is_read),
        cmocka_unit_test(keys_and_values_carry_line_and_column),
        cmocka_unit_test(one_pass_finds_every_problem),
        cmocka_unit_test(a_broken_array_of_many_lines_is_one_problem),
        cmocka_unit_test(problems_stop_at_one_hundred),
        cmocka_unit_test(nesting_and_dotted_keys_are_bounded),
        cmocka_unit_test(text_above_the_limit_is_refused),
        cmocka_unit_test(no_shape_of_text_is_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
