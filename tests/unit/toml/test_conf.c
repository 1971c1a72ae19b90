/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/conf.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct sample {
    char *dir, *opt;
    uint64_t port, conns;
    bool loud;
    struct mt_conf_list listen;
    struct mt_conf_map uids, labels;
};

static const struct mt_conf_key keys[] = {
    {"data_dir", MT_CONF_STRING, offsetof(struct sample, dir), 1, 100, NULL, "path", "where files are kept"},
    {"token_file", MT_CONF_STRING, offsetof(struct sample, opt), 1, 100, MT_CONF_NONE, "path", "token to read"},
    {"port", MT_CONF_U64, offsetof(struct sample, port), 1, 65535, "5180", "", "port to listen on"},
    {"loud", MT_CONF_BOOL, offsetof(struct sample, loud), 0, 0, "false", "", "say more"},
    {"listen", MT_CONF_STRINGS, offsetof(struct sample, listen), 0, 4, "[::]:443 [::]:80", "", "addresses"},
    {"uids", MT_CONF_MAP_U64, offsetof(struct sample, uids), 0, 3, "", "", "who may call"},
    {"limits.conns", MT_CONF_U64, offsetof(struct sample, conns), 10, 100, "20", "connections", "bound"},
    {"node.labels", MT_CONF_MAP_STRING, offsetof(struct sample, labels), 0, 8, "", "", "labels"},
};
#define N_KEYS (sizeof keys / sizeof keys[0])

static int read_conf(const char *text, struct sample *s, char **ret_problems, struct mt_err *err)
{
    size_t size = 0;
    FILE *out = open_memstream(ret_problems, &size);

    memset(s, 0, sizeof *s);
    int rc = mt_conf_parse(text, strlen(text), "x.toml", keys, N_KEYS, s, out, err);
    (void)fclose(out);
    return rc;
}

static void defaults_fill_what_is_absent(void **state)
{
    (void)state;
    struct sample s;
    struct mt_err err;
    char *problems = NULL;
    assert_int_equal(read_conf("data_dir = '/d'\n", &s, &problems, &err), 0);
    assert_string_equal(s.dir, "/d");
    assert_null(s.opt);
    assert_int_equal(s.port, 5180);
    assert_int_equal(s.conns, 20);
    assert_false(s.loud);
    assert_int_equal(s.listen.n, 2);
    assert_string_equal(s.listen.v[1], "[::]:80");
    assert_int_equal(s.uids.n, 0);
    mt_conf_done(keys, N_KEYS, &s);
    free(problems);
}

static void every_type_is_read(void **state)
{
    (void)state;
    struct sample s;
    struct mt_err err;
    char *problems = NULL;
    assert_int_equal(read_conf("data_dir = '/d'\ntoken_file='/t'\nport = 1\nloud = true\nlisten = []\n"
                               "[uids]\nroot = 0\nmoat = 990\n[limits]\nconns = 100\n[node]\nlabels = {zone = 'a'}\n",
                               &s, &problems, &err),
                     0);
    assert_string_equal(s.opt, "/t");
    assert_true(s.loud);
    assert_int_equal(s.listen.n, 0);
    assert_int_equal(mt_conf_map_u64(&s.uids, "moat", 7), 990);
    assert_int_equal(mt_conf_map_u64(&s.uids, "none", 7), 7);
    assert_string_equal(mt_conf_map_text(&s.labels, "zone"), "a");
    assert_int_equal(s.conns, 100);
    mt_conf_done(keys, N_KEYS, &s);
    mt_conf_done(keys, N_KEYS, &s); /* twice is harmless */
    free(problems);
}

static void bad_files_are_told_apart_with_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"data_dri = '/d'\n", "x.toml:1:1: unknown key 'data_dri'; did you mean 'data_dir'?"},
        {"port = 1\n", "x.toml:1:1: required key 'data_dir' is missing (where files are kept)"},
        {"data_dir = 5\n", "x.toml:1:12: 'data_dir' must be a string in double quotes, not integer"},
        {"data_dir = ''\n", "x.toml:1:12: 'data_dir' must have 1 to 100 bytes, not 0"},
        {"data_dir = \"a\\u0000b\"\n", "x.toml:1:12: 'data_dir' must not hold a NUL"},
        {"data_dir='/d'\nport = 0\n", "x.toml:2:8: 'port' must be 1 to 65535, not 0"},
        {"data_dir='/d'\nport = -1\n", "x.toml:2:8: 'port' must be 1 to 65535, not -1"},
        {"data_dir='/d'\n[limits]\nconns = 9\n", "x.toml:3:9: 'limits.conns' must be 10 to 100 connections, not 9"},
        {"data_dir='/d'\nlimits = 1\n", "x.toml:2:10: 'limits' must be a table, not integer"},
        {"data_dir='/d'\n[limits]\nconn = 9\n", "x.toml:3:1: unknown key 'limits.conn'; did you mean 'limits.conns'?"},
        {"data_dir='/d'\nlisten = ['a','b','c','d','e']\n", "x.toml:2:10: 'listen' must have 0 to 4 entries, not 5"},
        {"data_dir='/d'\nlisten = ['a',1]\n", "x.toml:2:15: 'listen' must be a string in double quotes, not integer"},
        {"data_dir='/d'\nloud = 1\n", "x.toml:2:8: 'loud' must be true or false, not integer"},
        {"data_dir='/d'\nuids = {a = 'b'}\n", "x.toml:2:13: 'uids' must be an integer, not string"},
        {"data_dir='/d'\n\"port\\u0000\" = 1\n", "x.toml:2:1: unknown key 'port'"},
        {"data_dir='/d'\nport = 2026-01-01\n", "x.toml:2:8: 'port' must be an integer, not local date"},
        {"data_dir='/d'\nport = \n", "x.toml:2:8: a value is missing"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sample s, zero;
        struct mt_err err;
        char *problems = NULL;
        memset(&zero, 0, sizeof zero);
        int rc = read_conf(rows[i].text, &s, &problems, &err);
        if (!strstr(problems, rows[i].part))
            print_error("row %zu: %s", i, problems);
        assert_int_equal(rc, -MT_E_INVALID);
        assert_non_null(strstr(problems, rows[i].part));
        assert_memory_equal(&s, &zero, sizeof s);
        free(problems);
    }
}

static void all_problems_come_at_once(void **state)
{
    (void)state;
    struct sample s;
    struct mt_err err;
    char *problems = NULL;
    assert_int_equal(read_conf("a = 1\nport = 0\nloud = 3\n", &s, &problems, &err), -MT_E_INVALID);
    size_t lines = 0;
    for (const char *p = problems; *p; p++)
        lines += *p == '\n';
    assert_int_equal(lines, 4);
    assert_non_null(strstr(err.msg, "(and 3 more)"));
    free(problems);
}

static void help_is_a_file_the_reader_takes(void **state)
{
    (void)state;
    char *help = NULL, *problems = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&help, &size);
    mt_conf_help(keys, N_KEYS, out);
    (void)fclose(out);
    assert_non_null(strstr(help, "# bound\n# integer, 10..100, connections\n# conns = 20\n"));
    assert_non_null(strstr(help, "# listen = [\"[::]:443\", \"[::]:80\"]"));
    assert_non_null(strstr(help, "data_dir = \"\""));
    /* with the one required key filled in, the help is a valid file */
    char *at = strstr(help, "data_dir = \"\"");
    char *file = NULL;
    out = open_memstream(&file, &size);
    (void)fprintf(out, "%.*sdata_dir = \"/d\"%s", (int)(at - help), help, at + strlen("data_dir = \"\""));
    (void)fclose(out);
    struct sample s;
    struct mt_err err;
    assert_int_equal(read_conf(file, &s, &problems, &err), 0);
    mt_conf_done(keys, N_KEYS, &s);
    free(problems);
    free(file);
    free(help);
}

/* A table that the code's own order comes back to would stand in the file twice, which TOML refuses. */
static void help_opens_each_table_once(void **state)
{
    (void)state;
    static const struct mt_conf_key mixed[] = {
        {"limits.conns", MT_CONF_U64, offsetof(struct sample, conns), 10, 100, "20", "connections", "bound"},
        {"node.dir", MT_CONF_STRING, offsetof(struct sample, dir), 1, 100, "/d", "path", "where files are kept"},
        {"limits.port", MT_CONF_U64, offsetof(struct sample, port), 1, 65535, "5180", "", "port to listen on"},
        {"loud", MT_CONF_BOOL, offsetof(struct sample, loud), 0, 0, "false", "", "say more"},
    };
    char *help = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&help, &size);
    mt_conf_help(mixed, sizeof mixed / sizeof mixed[0], out);
    (void)fclose(out);
    assert_int_equal(strncmp(help, "# say more\n", 11), 0);
    struct sample s = {0};
    struct mt_err err;
    assert_int_equal(mt_conf_parse(help, strlen(help), "x.toml", mixed, sizeof mixed / sizeof mixed[0], &s, NULL, &err), 0);
    assert_int_equal(s.port, 5180);
    mt_conf_done(mixed, sizeof mixed / sizeof mixed[0], &s);
    char *first = strstr(help, "[limits]"), *port = strstr(help, "# port = 5180"), *node = strstr(help, "[node]");
    assert_true(first && port && node && first < port && port < node);
    assert_null(strstr(first + 1, "[limits]"));
    free(help);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_what_is_absent),
        cmocka_unit_test(every_type_is_read),
        cmocka_unit_test(bad_files_are_told_apart_with_line_and_column),
        cmocka_unit_test(all_problems_come_at_once),
        cmocka_unit_test(help_is_a_file_the_reader_takes),
        cmocka_unit_test(help_opens_each_table_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
