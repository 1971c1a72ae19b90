/* SPDX-License-Identifier: Apache-2.0 */
/* platform.env: the vectors and the must-reject list of storage-and-secrets.md §6.6, the limits, the round trip. */
#include "model/secretfile.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/str.h"
#include "model/dotenv.h"
#include "os/digest.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define H "# MOAT_SECRETS_V1\n"
#define LIT(s) s, sizeof s - 1

static uint8_t mem[MT_SECRETFILE_INPUT_MAX], out[MT_SECRETFILE_MAX], again[MT_SECRETFILE_MAX];
static struct mt_secretfile file, second;
static struct mt_err err;

static void canonical_is(struct mt_secretfile *f, const char *want, size_t len, const char *sha256)
{
    char hex[MT_SHA256_HEX];
    size_t n;
    assert_int_equal(mt_secretfile_write(f, out, &n, &err), 0);
    assert_int_equal(n, len);
    assert_memory_equal(out, want, len);
    mt_sha256_hex(out, n, hex);
    assert_string_equal(hex, sha256);
    /* and it reads back to itself */
    assert_int_equal(mt_secretfile_read(want, len, mem, &second, &err), 0);
    assert_int_equal(mt_secretfile_write(&second, again, &n, &err), 0);
    assert_int_equal(n, len);
    assert_memory_equal(again, want, len);
}

static void set(const char *key, const void *value, size_t len)
{
    assert_int_equal(mt_secretfile_set(&file, key, value, len, &err), 0);
}

static void vectors_of_the_specification_hold(void **state)
{
    (void)state;
    file.n = 0;
    canonical_is(&file, LIT(H), "bfcd3711fe815f12de8ee4cb5655af260f97aa341958f2c06311448419fe719a");
    set("DB_USER", LIT("app"));
    set("DB_PASS", LIT("correct horse = battery"));
    set("A", LIT(""));
    canonical_is(&file, LIT(H "A=\nDB_PASS=correct horse = battery\nDB_USER=app\n"),
                 "c5e8d8d48faa80f5e4fd69c56ca99bd6a45b902d780cb61f54c5b690b455a247");
    file.n = 0;
    set("Z", LIT("z"));
    set("RAW", LIT("\x00\x01\xff"));
    set("PEM", LIT("line1\nline2\n"));
    canonical_is(&file, LIT(H "PEM=base64:bGluZTEKbGluZTIK\nRAW=base64:AAH/\nZ=z\n"),
                 "abbb31e52bdab117014e03bb2bd0e2b42ff4f20af43d8691353b8c868cee54c8");
    file.n = 0;
    set("X", LIT("base64:AAAA"));
    set("Y", LIT("#not-a-comment"));
    set("_S", LIT(" padded "));
    canonical_is(&file, LIT(H "X=base64:YmFzZTY0OkFBQUE=\nY=#not-a-comment\n_S=base64:IHBhZGRlZCA=\n"),
                 "6eb10db77818a8ed3c8f5bc7ad752b54f9873566c296ce056b1eec4ad331acfb");
    file.n = 0;
    set("GREETING", LIT("h\xc3\xa9llo \xe2\x9c\x93"));
    set("LS", LIT("a\xe2\x80\xa8" "b"));
    canonical_is(&file, LIT(H "GREETING=h\xc3\xa9llo \xe2\x9c\x93\nLS=base64:YeKAqGI=\n"),
                 "c478e5454061f5f985a7cec31b0189de94fd12c1e808115f80c22beb38a2bf25");
}

static void what_must_be_rejected_is_and_no_message_holds_a_value(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t n;
        enum mt_secretfile_fault fault;
    } bad[] = {
        {LIT("A=canary\n"), MT_SECRETFILE_FORMAT},
        {LIT(""), MT_SECRETFILE_FORMAT},
        {LIT("# MOAT_SECRETS_V1 \nA=canary\n"), MT_SECRETFILE_FORMAT},
        {LIT("# MOAT_SECRETS_V2\nA=canary\n"), MT_SECRETFILE_FORMAT},
        {LIT("# c\n" H "A=canary\n"), MT_SECRETFILE_FORMAT},
        {LIT("\xef\xbb\xbf" H "A=canary\n"), MT_SECRETFILE_FORMAT},
        {LIT(H "a=canary"), MT_SECRETFILE_KEY},
        {LIT(H "1A=canary"), MT_SECRETFILE_KEY},
        {LIT(H "A B=canary"), MT_SECRETFILE_KEY},
        {LIT(H " A=canary"), MT_SECRETFILE_KEY},
        {LIT(H "canary=x"), MT_SECRETFILE_KEY},
        {LIT(H "canary"), MT_SECRETFILE_FORMAT},
        {LIT(H "=canary"), MT_SECRETFILE_KEY},
        {LIT(H "A=canary\nB=\nA=canary"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:@@"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:AB C="), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:AAA=="), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:AAB="), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:A"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:===="), MT_SECRETFILE_FORMAT},
        {LIT(H "A=base64:AA-_"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=canary\rB=1\n"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=canary\r"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=canary\0\n"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=\xff"), MT_SECRETFILE_FORMAT},
        {LIT(H "A=\xed\xa0\x80"), MT_SECRETFILE_FORMAT},
        {LIT(H "MOAT_X=canary"), MT_SECRETFILE_KEY_RESERVED},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        err = (struct mt_err){0};
        if (mt_secretfile_read(bad[i].s, bad[i].n, mem, &file, &err) != -MT_E_INVALID || file.fault != bad[i].fault)
            fail_msg("case %zu: fault %d, %s", i, (int)file.fault, err.msg);
        assert_null(strstr(err.msg, "canary"));
    }
}

static void what_must_be_accepted_is(void **state)
{
    (void)state;
    size_t n;
    assert_int_equal(mt_secretfile_read(LIT(" \t\r\n# MOAT_SECRETS_V1\r\n#A=0\r\n\t\r\nDB_USER=app\r\nA=\r\n"
                                            "DB_PASS=correct horse = battery"), mem, &file, &err), 0);
    assert_int_equal(file.entries[0].line, 6);
    canonical_is(&file, LIT(H "A=\nDB_PASS=correct horse = battery\nDB_USER=app\n"),
                 "c5e8d8d48faa80f5e4fd69c56ca99bd6a45b902d780cb61f54c5b690b455a247");
    static const struct {
        const char *s;
        size_t n;
        const char *want;
        size_t len;
    } good[] = {{LIT(H "A=base64:AAH/\n"), LIT("\0\1\xff")}, {LIT(H "A=base64:AA"), LIT("\0")},
                {LIT(H "A=base64:AA=="), LIT("\0")},          {LIT(H "A=base64:"), LIT("")},
                {LIT(H "A= x "), LIT(" x ")},                 {LIT(H "A=\"x\" # y"), LIT("\"x\" # y")},
                {LIT(H "A=\xef\xbb\xbf"), LIT("\xef\xbb\xbf")}};
    for (size_t i = 0; i < MT_ARRAY_LEN(good); i++) {
        assert_int_equal(mt_secretfile_read(good[i].s, good[i].n, mem, &file, &err), 0);
        assert_int_equal(file.n, 1);
        assert_int_equal(file.entries[0].len, good[i].len);
        assert_memory_equal(file.entries[0].value, good[i].want, good[i].len);
        assert_int_equal(mt_secretfile_write(&file, out, &n, &err), 0);
    }
}

static void limits_are_where_they_are_written(void **state)
{
    (void)state;
    static char keys[MT_SECRETFILE_KEYS_MAX + 1][16], big[MT_SECRETFILE_VALUE_MAX + 1];
    char key[MT_SECRETFILE_KEY_MAX + 2];
    size_t n;
    file.n = 0;
    for (int i = 0; i <= MT_SECRETFILE_KEYS_MAX; i++) {
        assert_int_equal(mt_fmt(keys[i], sizeof keys[i], NULL, "K%d", (i * 7919) % 1009), 0);
        int rc = mt_secretfile_set(&file, keys[i], "", 0, &err);
        assert_int_equal(rc, i < MT_SECRETFILE_KEYS_MAX ? 0 : -MT_E_INVALID);
    }
    assert_int_equal(file.fault, MT_SECRETFILE_TOO_MANY);
    for (size_t i = 1; i < file.n; i++)
        assert_true(strcmp(file.entries[i - 1].key, file.entries[i].key) < 0);
    assert_true(mt_secretfile_unset(&file, keys[5]));
    assert_false(mt_secretfile_unset(&file, keys[5]));
    assert_null(mt_secretfile_get(&file, keys[5]));
    assert_int_equal(file.n, MT_SECRETFILE_KEYS_MAX - 1);

    memset(key, 'K', sizeof key - 1);
    key[MT_SECRETFILE_KEY_MAX + 1] = '\0';
    assert_int_equal(mt_secretfile_set(&file, key, "", 0, &err), -MT_E_INVALID);
    assert_int_equal(file.fault, MT_SECRETFILE_KEY);
    key[MT_SECRETFILE_KEY_MAX] = '\0';
    assert_int_equal(mt_secretfile_set(&file, key, "", 0, &err), 0);

    file.n = 0;
    memset(big, 'v', sizeof big);
    assert_int_equal(mt_secretfile_set(&file, "A", big, sizeof big, &err), -MT_E_INVALID);
    assert_int_equal(file.fault, MT_SECRETFILE_VALUE_TOO_LARGE);
    set("A", big, MT_SECRETFILE_PLAIN_MAX);
    assert_int_equal(mt_secretfile_write(&file, out, &n, &err), 0);
    assert_int_equal(n, sizeof H - 1 + 3 + MT_SECRETFILE_PLAIN_MAX);
    set("A", big, MT_SECRETFILE_PLAIN_MAX + 1); /* plain no more */
    assert_int_equal(mt_secretfile_write(&file, out, &n, &err), 0);
    assert_int_equal(n, sizeof H - 1 + 3 + 7 + (MT_SECRETFILE_PLAIN_MAX + 1 + 2) / 3 * 4);
    assert_in_range(mt_secretfile_room(&file), n, n + 8);

    file.n = 0;
    for (int i = 0; i < 32; i++)
        set(keys[i], big, 8177 - 3 - strlen(keys[i]));
    int rc = mt_secretfile_write(&file, out, &n, &err);
    assert_int_equal(rc, 0);
    set("A", big, 8000);
    assert_int_equal(mt_secretfile_write(&file, out, &n, &err), -MT_E_LIMIT);
    assert_int_equal(file.fault, MT_SECRETFILE_TOO_LARGE);
    assert_int_equal(mt_secretfile_room(&file), MT_SECRETFILE_MAX);
}

static uint32_t next(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    return *x ^= *x << 5;
}

/* parse(canon(m)) == m for random maps; values are made of bytes that readers like to trip over. */
static void canonical_form_reads_back_to_the_same_map(void **state)
{
    (void)state;
    static const char *const pieces[] = {"a", "=", "#", " ", "\t", "\n", "\r", "base64:", "\xe2\x80\xa9", "\xc2\x85", "\xff", "'", "\"", "\\",
                                         "$X", "\xef\xbb\xbf", "\x7f", "\xf0\x9f\x94\x91"};
    static char keys[MT_SECRETFILE_KEYS_MAX][12];
    static uint8_t values[MT_SECRETFILE_KEYS_MAX][64];
    uint32_t x = 2463534242u;
    for (int round = 0; round < 2000; round++) {
        size_t n;
        file.n = 0;
        for (uint32_t k = next(&x) % 12; k > 0; k--) {
            size_t len = 0;
            assert_int_equal(mt_fmt(keys[k], sizeof keys[k], NULL, "%c%u", "AZ_"[next(&x) % 3], next(&x) % 40), 0);
            if (mt_secretfile_get(&file, keys[k]))
                continue;
            for (uint32_t i = next(&x) % 8; i > 0; i--) {
                const char *p = pieces[next(&x) % MT_ARRAY_LEN(pieces)];
                memcpy(values[k] + len, p, strlen(p));
                len += strlen(p);
                if (next(&x) % 16 == 0)
                    values[k][len++] = '\0';
            }
            set(keys[k], values[k], len);
        }
        assert_int_equal(mt_secretfile_write(&file, out, &n, &err), 0);
        assert_int_equal(mt_secretfile_read(out, n, mem, &second, &err), 0);
        assert_int_equal(second.n, file.n);
        for (size_t i = 0; i < file.n; i++) {
            assert_string_equal(second.entries[i].key, file.entries[i].key);
            assert_int_equal(second.entries[i].len, file.entries[i].len);
            assert_memory_equal(second.entries[i].value, file.entries[i].value, file.entries[i].len);
        }
    }
}

/* ---- .env files ---- */

static void env_is(const char *text, const char *want)
{
    size_t n;
    assert_int_equal(mt_dotenv_read(text, strlen(text), mem, &file, &err), 0);
    assert_int_equal(mt_secretfile_write(&file, out, &n, &err), 0);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
}

static void a_dotenv_file_is_read_as_shells_mean_it(void **state)
{
    (void)state;
    env_is("", H);
    env_is("# c\n\n  # c\nexport A=1\n\texport\tB_2 = two words # c\nC=#x\nD=a#b\nE=\nF= # c\n", H "A=1\nB_2=two words\nC=#x\nD=a#b\nE=\nF=\n");
    env_is("A=\"a\\n\\t\\\"\\\\\\$B \\q\" # c\nB=\"two\nlines\"\nC='a\\n$B'\nD=\" x \"", H "A=base64:YQoJIlwkQiBccQ==\nB=base64:dHdvCmxpbmVz\nC=a\\n$B\n"
           "D=base64:IHgg\n");
    env_is("\xef\xbb\xbf" "A=1\r\nB='x\r\ny'\r\nC=base64:AA\r\n", H "A=1\nB=base64:eAp5\nC=base64:YmFzZTY0OkFB\n"); /* no base64 in a .env */
    assert_true(mt_dotenv_is_secretfile(LIT("\n \n" H "A=1")));
    assert_true(mt_dotenv_is_secretfile(LIT("\xef\xbb\xbf# MOAT_SECRETS_V2\n")));
    assert_false(mt_dotenv_is_secretfile(LIT("A=1\n" H)) || mt_dotenv_is_secretfile(LIT("# MOAT")) || mt_dotenv_is_secretfile(LIT("")));
}

static void a_bad_dotenv_is_refused_with_its_line_and_without_its_value(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t n;
        enum mt_secretfile_fault fault;
        const char *says;
    } bad[] = {
        {LIT("A=1\nB=\"canary\nx\n"), MT_SECRETFILE_FORMAT, "line 2: the value of 'B' has no closing \""},
        {LIT("A='x\ny' canary\n"), MT_SECRETFILE_FORMAT, "line 2: more than a comment after the closing '"},
        {LIT("canary\n"), MT_SECRETFILE_FORMAT, "line 1: neither"},
        {LIT("export canary x=1\n"), MT_SECRETFILE_FORMAT, "line 1: neither"},
        {LIT("export\n"), MT_SECRETFILE_FORMAT, "line 1: neither"},
        {LIT("A=1\n\nA=canary\n"), MT_SECRETFILE_FORMAT, "line 3: key 'A' is there twice"},
        {LIT("canary=1\n"), MT_SECRETFILE_KEY, "line 1: a key is"},
        {LIT("MOAT_X=canary\n"), MT_SECRETFILE_KEY_RESERVED, "line 1: key 'MOAT_X' is reserved"},
        {LIT("A=canary\0\n"), MT_SECRETFILE_FORMAT, "line 1: a NUL byte"},
        {LIT("A=canary\xff\n"), MT_SECRETFILE_FORMAT, "line 1: not UTF-8"},
        {LIT("\nA=canary\rB=1\n"), MT_SECRETFILE_FORMAT, "line 2: a carriage return"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        assert_int_equal(mt_dotenv_read(bad[i].s, bad[i].n, mem, &file, &err), -MT_E_INVALID);
        assert_int_equal(file.fault, bad[i].fault);
        if (!mt_starts_with(err.msg, bad[i].says) || strstr(err.msg, "canary"))
            fail_msg("%zu: %s", i, err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dotenv_file_is_read_as_shells_mean_it),
        cmocka_unit_test(a_bad_dotenv_is_refused_with_its_line_and_without_its_value),
        cmocka_unit_test(vectors_of_the_specification_hold),
        cmocka_unit_test(what_must_be_rejected_is_and_no_message_holds_a_value),
        cmocka_unit_test(what_must_be_accepted_is),
        cmocka_unit_test(limits_are_where_they_are_written),
        cmocka_unit_test(canonical_form_reads_back_to_the_same_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
