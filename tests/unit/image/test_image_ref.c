/* SPDX-License-Identifier: Apache-2.0 */
/* Image references. */
#include "wire/imageref.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void references_fall_into_their_parts(void **state)
{
    static const struct {
        const char *text, *host, *path, *tag, *digest;
    } good[] = {
        {"nginx", "docker.io", "library/nginx", "latest", ""},
        {"nginx:1.25", "docker.io", "library/nginx", "1.25", ""},
        {"user/app", "docker.io", "user/app", "latest", ""},
        {"localhost/app", "localhost", "app", "latest", ""},
        {"127.0.0.1:5000/a/b:v1", "127.0.0.1:5000", "a/b", "v1", ""},
        {"[::1]:5000/x:y", "[::1]:5000", "x", "y", ""},
        {"ghcr.io/o/r@sha256:" HEX, "ghcr.io", "o/r", "", "sha256:" HEX},
        {"ghcr.io/o/r:t@sha256:" HEX, "ghcr.io", "o/r", "t", "sha256:" HEX},
        {"host:5000/a", "host:5000", "a", "latest", ""},
        {"a__b/c-d---e/f.g", "docker.io", "a__b/c-d---e/f.g", "latest", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct mt_imageref r;
        struct mt_err err = {0};
        assert_int_equal(mt_imageref_parse(good[i].text, &r, &err), 0);
        assert_string_equal(r.host, good[i].host);
        assert_string_equal(r.path, good[i].path);
        assert_string_equal(r.tag, good[i].tag);
        assert_string_equal(r.digest, good[i].digest);
    }
}

static void malformed_references_are_refused(void **state)
{
    static const char *const bad[] = {
        "", ":", "/", "a:", "a@", "a@sha256:", "a@sha256:" HEX "0", "a@sha512:" HEX, "a@sha256:0123456789ABCDEF" "0123456789abcdef0123456789abcdef0123456789abcdef",
        "Upper/x", "a//b", "a/", "/a", "a/../b", "..", "a/.b", "a/b.", "a..b", "a___b", "a b", "a\n", "host:0/x", "host:65536/x",
        "host:5x/x", "-h.x/a", "h-.x/a", "h..x/a", "[::1/a", "[zz]:1/a", "a:-x", "a:b c", "a:b:c", "http://h.x/a", "u@h.x/a", "h.x:80:80/a",
        "\xc3\xa4/x",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mt_imageref r;
        struct mt_err err = {0};
        if (mt_imageref_parse(bad[i], &r, &err) != -MT_E_INVALID || !err.msg[0])
            fail_msg("'%s' was not refused", bad[i]);
    }
}

static void lengths_are_bounded(void **state)
{
    char text[MT_IMAGEREF_MAX + 2];
    struct mt_imageref r;
    struct mt_err err;
    (void)state;
    memset(text, 'a', sizeof text);
    text[247] = 0; /* with "library/" the 255 that fit */
    assert_int_equal(mt_imageref_parse(text, &r, &err), 0);
    assert_int_equal(strlen(r.path), 255);
    text[247] = 'a';
    text[248] = 0;
    assert_int_equal(mt_imageref_parse(text, &r, &err), -MT_E_INVALID);
    text[248] = 'a';
    text[MT_IMAGEREF_MAX + 1] = 0;
    assert_int_equal(mt_imageref_parse(text, &r, &err), -MT_E_INVALID);
    memcpy(text, "x:", 2);
    text[2 + 128] = 0;
    assert_int_equal(mt_imageref_parse(text, &r, &err), 0);
    text[2 + 128] = 'a';
    text[2 + 129] = 0;
    assert_int_equal(mt_imageref_parse(text, &r, &err), -MT_E_INVALID);
}

static void a_repository_has_a_host_and_no_tag(void **state)
{
    struct mt_imageref r;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_imageref_parse_repository("127.0.0.1:5000/hello", &r, &err), 0);
    assert_string_equal(r.host, "127.0.0.1:5000");
    assert_string_equal(r.path, "hello");
    assert_string_equal(r.tag, "");
    assert_int_equal(mt_imageref_parse_repository("hello", &r, &err), -MT_E_INVALID);
    assert_int_equal(mt_imageref_parse_repository("h.x/hello:tag", &r, &err), -MT_E_INVALID);
    assert_int_equal(mt_imageref_parse_repository("h.x/hello@sha256:" HEX, &r, &err), -MT_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_fall_into_their_parts),
        cmocka_unit_test(malformed_references_are_refused),
        cmocka_unit_test(lengths_are_bounded),
        cmocka_unit_test(a_repository_has_a_host_and_no_tag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
