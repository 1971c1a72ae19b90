/* SPDX-License-Identifier: Apache-2.0 */
/* The command line against the table of commands: what is taken, and what is refused with which words. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { WORDS = 12 };

struct parsed {
    int code;
    char out[4000], err[4000];
};

static void begin(int fd, int *ret_saved)
{
    (void)fflush(NULL);
    *ret_saved = dup(fd);
    FILE *f = tmpfile();
    assert_true(*ret_saved >= 0 && f != NULL);
    (void)dup2(fileno(f), fd);
    (void)fclose(f);
}

static void end(int fd, int saved, char *ret, size_t size)
{
    (void)fflush(NULL);
    ssize_t n = pread(fd, ret, size - 1, 0);
    (void)dup2(saved, fd);
    (void)close(saved);
    ret[n > 0 ? n : 0] = '\0';
}

/* Parse "moat" and @words; the words stay writable in @argv, which c->argv points into. */
static struct parsed parse(struct cli *c, char *argv[WORDS], const char *const words[])
{
    struct parsed p = {0};
    int argc = 1, out, err;
    memset(c, 0, sizeof *c);
    argv[0] = (char *)(uintptr_t)"moat";
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    argv[argc] = NULL;
    begin(STDOUT_FILENO, &out);
    begin(STDERR_FILENO, &err);
    p.code = cli_parse(c, argc, argv);
    end(STDERR_FILENO, err, p.err, sizeof p.err);
    end(STDOUT_FILENO, out, p.out, sizeof p.out);
    return p;
}

static void words_and_options_in_any_order(void **state)
{
    (void)state;
    static const struct {
        const char *words[WORDS - 1], *command, *option, *value, *first;
        int argc;
    } cases[] = {
        {{"status"}, "status", NULL, NULL, NULL, 0},
        {{"routes"}, "routes list", NULL, NULL, NULL, 0},
        {{"instances", "list", "--all"}, "instances list", "all", "", NULL, 0},
        {{"routes", "create", "a.example", "--port", "8443"}, "routes create", "port", "8443", "a.example", 1},
        {{"routes", "create", "--port=8443", "a.example"}, "routes create", "port", "8443", "a.example", 1},
        {{"routes", "create", "-p", "8443", "a.example"}, "routes create", "port", "8443", "a.example", 1},
        {{"routes", "create", "-p8443", "a.example"}, "routes create", "port", "8443", "a.example", 1},
        {{"scale", "web=2", "--json", "worker=1", "--no-wait"}, "scale", "json", "", "web=2", 2},
        {{"logs", "-f"}, "logs", "follow", "", NULL, 0},
        {{"deploy", "-f", "x.toml"}, "deploy", "manifest", "x.toml", NULL, 0},
        {{"deploy", "-f", "-"}, "deploy", "manifest", "-", NULL, 0},
        {{"deploys", "get", "dep_1", "-e", "prod"}, "deploys get", "env", "prod", "dep_1", 1},
        {{"deploys", "get", "--", "--json"}, "deploys get", NULL, NULL, "--json", 1},
        {{"status", "--app", "one", "--app", "two"}, "status", "app", "two", NULL, 0},
        {{"--app", "shop", "status"}, "status", "app", "shop", NULL, 0},
        {{"--app=shop", "-q", "routes", "delete", "rt_1"}, "routes delete", "app", "shop", "rt_1", 1},
        {{"-a", "shop", "--json", "releases", "get", "v1"}, "releases get", "json", "", "v1", 1},
        {{"--version"}, "version", NULL, NULL, NULL, 0},
        {{"nodes", "describe", "vm"}, "node describe", NULL, NULL, "vm", 1},
        {{"env", "list"}, "envs list", NULL, NULL, NULL, 0},
        {{"deploys"}, "deploys list", NULL, NULL, NULL, 0},
        {{"node"}, "nodes", NULL, NULL, NULL, 0},
        {{"--app", "shop", "volume", "list"}, "volumes list", "app", "shop", NULL, 0},
        {{"usage", "--month"}, "usage", "month", "", NULL, 0},
        {{"usage", "--month", "--csv"}, "usage", "csv", "", NULL, 0},
        {{"usage", "--csv", "--month", "2026-11"}, "usage", "month", "2026-11", NULL, 0},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(cases); i++) {
        struct cli c;
        char *argv[WORDS];
        struct parsed p = parse(&c, argv, cases[i].words);
        if (p.code != 0)
            print_error("case %zu: %s\n", i, p.err);
        assert_int_equal(p.code, 0);
        assert_string_equal(c.command->name, cases[i].command);
        assert_int_equal(c.argc, cases[i].argc);
        if (cases[i].first)
            assert_string_equal(c.argv[0], cases[i].first);
        if (cases[i].option)
            assert_string_equal(cli_opt(&c, cases[i].option), cases[i].value);
        assert_string_equal(p.out, "");
        assert_string_equal(p.err, "");
    }
}

static const struct {
    const char *words[WORDS - 1], *message;
} refused[] = {
    {{"staus"}, "unknown command 'staus', did you mean 'status'?"},
    {{"restarts"}, "unknown command 'restarts', did you mean 'restart'?"},
    {{"xyzzy"}, "unknown command 'xyzzy'"},
    {{"releases", "lst"}, "unknown command 'releases lst', did you mean 'releases list'?"},
    {{"routes", "--json", "delete"}, "write 'delete' directly after 'routes'"},
    {{"manifest"}, "'manifest' needs one of: validate, show, fmt, schema"},
    {{"status", "--watsh"}, "unknown option '--watsh', did you mean '--watch'?"},
    {{"status", "extra", "--zzzzzzzzzz"}, "unknown option '--zzzzzzzzzz'"},
    {{"status", "-Z"}, "unknown option '-Z'"},
    {{"logs", "-fZ"}, "unknown option '-Z'"},
    {{"status", "--watch=3"}, "option '--watch' takes no value"},
    {{"status", "--app"}, "option '--app' needs a value"},
    {{"logs", "-n"}, "option '-n' needs a value"},
    {{"status", "extra"}, "'extra' is one argument too many"},
    {{"run", "a", "b"}, "'b' is one argument too many"},
    {{"run"}, "IMAGE is missing"},
    {{"routes", "delete"}, "ROUTE is missing"},
    {{"--json"}, "no command is given"},
    {{"status", "--timeout", "soon"}, "--timeout: 'soon' is not a duration such as 500ms, 30s, 5m, 1h"},
    {{"scale", "web=2", "--wait-timeout", "1"}, "--wait-timeout: '1' is not a duration such as 500ms, 30s, 5m, 1h"},
    {{"scale", "--idempotency-key", "a b"}, "--idempotency-key: 1 to 128 printable characters without blanks"},
    {{"st\x1b[2Jatus-of-it"}, "unknown command 'st?[2Jatus-of-it'"},
};

static void what_is_wrong_is_named_with_what_is_near(void **state)
{
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(refused); i++) {
        struct cli c;
        char *argv[WORDS], want[300];
        struct parsed p = parse(&c, argv, refused[i].words);
        assert_int_equal(p.code, CLI_USAGE);
        if (c.json) {
            assert_string_equal(p.err, "");
            continue;
        }
        (void)snprintf(want, sizeof want, "error: %s\n", refused[i].message);
        p.err[strlen(want) < sizeof p.err ? strlen(want) : 0] = '\0';
        assert_string_equal(p.err, want);
        assert_string_equal(p.out, "");
    }
}

static void with_json_the_first_error_is_one_document_on_stdout(void **state)
{
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(refused); i++) {
        struct cli c;
        char *argv[WORDS];
        const char *words[WORDS] = {refused[i].words[0]};
        size_t n = 1, from = 1;
        words[n++] = "--json"; /* before what is wrong, so that it cannot be eaten as its value */
        if (refused[i].words[1] && refused[i].words[1][0] != '-') { /* but behind the second word of a command */
            words[1] = refused[i].words[1];
            words[n++] = "--json";
            words[2] = "--json";
            n = 3;
            from = 2;
        }
        for (; refused[i].words[from]; from++)
            words[n++] = refused[i].words[from];
        words[n] = NULL;
        struct parsed p = parse(&c, argv, words);
        mt_auto_json json_t *j = NULL;
        assert_int_equal(p.code, CLI_USAGE);
        assert_string_equal(p.err, "");
        assert_int_equal(mt_json_parse(p.out, strlen(p.out), sizeof p.out, 8, &j, NULL), 0);
        assert_string_equal(cli_str(j, "error.category"), "usage");
        assert_string_equal(cli_str(j, "error.message"), refused[i].message);
        assert_true(*cli_str(j, "error.hint"));
        assert_ptr_equal(strchr(p.out, '\n'), p.out + strlen(p.out) - 1);
    }
}

static void help_is_on_stdout_when_asked_and_on_stderr_when_not(void **state)
{
    (void)state;
    struct cli c;
    char *argv[WORDS];
    struct parsed p = parse(&c, argv, (const char *const[]){NULL});
    assert_int_equal(p.code, CLI_USAGE);
    assert_non_null(strstr(p.err, "usage: moat COMMAND"));
    p = parse(&c, argv, (const char *const[]){"routes", "create", "--help", NULL});
    assert_int_equal(p.code, -1);
    assert_non_null(strstr(p.out, "usage: moat routes create [HOSTNAME]"));
    assert_non_null(strstr(p.out, "--proxy v2"));
    p = parse(&c, argv, (const char *const[]){"-h", NULL});
    assert_int_equal(p.code, -1);
}

static void more_options_than_there_is_room_for_are_refused(void **state)
{
    (void)state;
    char *argv[70] = {(char *)(uintptr_t)"moat", (char *)(uintptr_t)"restart"};
    for (size_t i = 2; i < 69; i++)
        argv[i] = (char *)(uintptr_t)"-q";
    struct cli c = {.hush = true};
    assert_int_equal(cli_parse(&c, 69, argv), CLI_USAGE);
    assert_int_equal(c.value_count, MT_ARRAY_LEN(c.values));
}

static void the_table_is_sound(void **state)
{
    (void)state;
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        int words;
        char copy[64];
        (void)snprintf(copy, sizeof copy, "%s", k->name);
        const char *word[3] = {copy};
        int given = 1;
        for (char *blank = strchr(copy, ' '); blank; blank = strchr(blank, ' ')) {
            assert_in_range(given, 1, 2);
            *blank++ = '\0';
            word[given++] = blank;
        }
        assert_ptr_equal(cli_find_command(word[0], word[1], word[2], &words), k);
        assert_int_equal(words, given);
        assert_non_null(k->run);
        assert_true(k->group < CLI_GROUP_MAX);
        size_t n = 0;
        for (const struct cli_option *o = k->options; o && o->name; o++, n++) {
            for (const struct cli_option *g = cli_global_options; g->name; g++)
                assert_string_not_equal(o->name, g->name);
            for (const struct cli_option *e = k->options; e < o; e++) {
                assert_string_not_equal(o->name, e->name);
                assert_true(!o->short_name || o->short_name != e->short_name);
            }
        }
        for (const struct cli_option *g = cli_global_options; g->name; g++)
            n++;
        assert_true(n < 60); /* room in the arrays of args.c */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_and_options_in_any_order),
        cmocka_unit_test(what_is_wrong_is_named_with_what_is_near),
        cmocka_unit_test(with_json_the_first_error_is_one_document_on_stdout),
        cmocka_unit_test(help_is_on_stdout_when_asked_and_on_stderr_when_not),
        cmocka_unit_test(more_options_than_there_is_room_for_are_refused),
        cmocka_unit_test(the_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
