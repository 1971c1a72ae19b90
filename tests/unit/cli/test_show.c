/* SPDX-License-Identifier: Apache-2.0 */
/* Tables and fields: widths, what is cut and what never, text that would drive the terminal. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct cli_column cols[] = {{"ID", "id"}, {"NAME", "name"}, {"CREATED", "created_at"}, {"WHY", "deep.why"}};

static json_t *items_of(const char *text)
{
    json_t *j = NULL;
    assert_int_equal(mt_json_parse(text, strlen(text), 100000, 8, &j, NULL), 0);
    return j;
}

/* What printing @items writes to @fd, malloc'ed text cut at 8000 bytes. */
static void printed(struct cli *c, int fd, const json_t *items, bool fields, char ret[8000])
{
    (void)fflush(NULL);
    int saved = dup(fd);
    FILE *f = tmpfile();
    assert_true(saved >= 0 && f != NULL);
    (void)dup2(fileno(f), fd);
    (void)fclose(f);
    int code = fields ? cli_print_fields(c, items) : cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "things");
    (void)fflush(NULL);
    ssize_t n = pread(fd, ret, 7999, 0);
    (void)dup2(saved, fd);
    (void)close(saved);
    ret[n > 0 ? n : 0] = '\0';
    assert_int_equal(code, CLI_OK);
}

static void columns_are_aligned(void **state)
{
    (void)state;
    struct cli c = {0};
    char text[8000];
    mt_auto_json json_t *items = items_of("[{\"id\":\"a\",\"name\":\"gr\\u00fc\\u00df\",\"created_at\":\"2026-11-23T04:35:22.255992Z\",\"deep\":{\"why\":null}},"
                                          "{\"id\":\"long-id\",\"name\":\"x\",\"created_at\":\"2026-11-23T04:35:22Z\",\"deep\":{\"why\":[\"p\",\"q\"]}},"
                                          "{\"id\":7,\"name\":true,\"deep\":{\"why\":0.427}}]");
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_string_equal(text, "ID       NAME  CREATED               WHY\n"
                              "a        gr\xc3\xbc\xc3\x9f  2026-11-23T04:35:22Z  -\n"
                              "long-id  x     2026-11-23T04:35:22Z  p,q\n"
                              "7        yes   -                     0.43\n");
}

static void a_narrow_screen_cuts_words_but_no_id(void **state)
{
    (void)state;
    struct cli c = {.columns = 40};
    char text[8000];
    mt_auto_json json_t *items = items_of("[{\"id\":\"inst_01m83azv10e8qc0gthyf5mnqvn\",\"name\":\"a-name-that-is-long\",\"deep\":{\"why\":\"\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\"}}]");
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_non_null(strstr(text, "inst_01m83azv10e8qc0gthyf5mnqvn  a-name-\xe2\x80\xa6  "));
    assert_non_null(strstr(text, "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xe2\x80\xa6\n"));
    c.columns = 200;
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_null(strstr(text, "\xe2\x80\xa6"));
}

static void untrusted_text_reaches_no_terminal(void **state)
{
    (void)state;
    struct cli c = {0};
    char text[8000];
    mt_auto_json json_t *items = items_of("[{\"id\":\"a\\u001b]0;x\\u0007\",\"name\":\"n\\r\\n\\u202e\\u009b\",\"deep\":{\"why\":[\"\\u001b[2J\"]}}]");
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_non_null(strstr(text, "a?]0;x?  n????  -"));
    for (const char *p = text; *p; p++)
        assert_true(*p == '\n' || (unsigned char)*p >= ' ');
    printed(&c, STDOUT_FILENO, json_array_get(items, 0), true, text);
    assert_null(strpbrk(text, "\x1b\a\r"));
    assert_non_null(strstr(text, "a?]0;x?\n"));
}

static void long_text_ends_where_the_cell_ends(void **state)
{
    (void)state;
    struct cli c = {0};
    char text[8000], name[3000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    mt_auto_json json_t *items = json_pack("[{s:s,s:s}]", "id", "a", "name", name);
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_true(strlen(text) < 2000);
    assert_non_null(strstr(text, "nnn..."));
}

static void an_empty_list_says_so_beside_stdout(void **state)
{
    (void)state;
    struct cli c = {0};
    char text[8000];
    mt_auto_json json_t *items = json_array();
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_string_equal(text, "");
    printed(&c, STDERR_FILENO, items, false, text);
    assert_string_equal(text, "no things\n");
}

static void quiet_is_ids_only(void **state)
{
    (void)state;
    struct cli c = {.quiet = true};
    char text[8000];
    mt_auto_json json_t *items = items_of("[{\"id\":\"a\",\"name\":\"x\"},{\"id\":\"b\"}]");
    printed(&c, STDOUT_FILENO, items, false, text);
    assert_string_equal(text, "a\nb\n");
}

static void fields_are_the_plain_members(void **state)
{
    (void)state;
    struct cli c = {0};
    char text[8000];
    mt_auto_json json_t *obj = items_of("{\"id\":\"a\",\"n\":3,\"none\":null,\"empty\":\"\",\"nested\":{\"x\":1},\"list\":[\"p\",\"q\"],\"objects\":[{}]}");
    printed(&c, STDOUT_FILENO, obj, true, text);
    assert_string_equal(text, "id                     a\nn                      3\nlist                   p,q\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned),
        cmocka_unit_test(a_narrow_screen_cuts_words_but_no_id),
        cmocka_unit_test(untrusted_text_reaches_no_terminal),
        cmocka_unit_test(long_text_ends_where_the_cell_ends),
        cmocka_unit_test(an_empty_list_says_so_beside_stdout),
        cmocka_unit_test(quiet_is_ids_only),
        cmocka_unit_test(fields_are_the_plain_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
