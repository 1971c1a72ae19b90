/* SPDX-License-Identifier: Apache-2.0 */
#include "os/x509.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static char *ca_key, *ca_cert;

static int make_ca(void **state)
{
    (void)state;
    int64_t now = time(NULL);
    return mt_x509_ca_new("test authority", now - 60, now + 3600, &ca_key, &ca_cert, NULL);
}

static int drop_ca(void **state)
{
    (void)state;
    free(ca_key);
    free(ca_cert);
    return 0;
}

static void a_request_is_signed_for_the_name_that_the_authority_gives(void **state)
{
    (void)state;
    char *key = NULL, *csr = NULL, *cert = NULL, *other = NULL;
    struct mt_x509_csr asked;
    struct mt_x509_cert about, again;
    struct mt_err err = {0};
    int64_t now = time(NULL);
    const struct mt_x509_spec spec = {.cn = "node_1", .uri = "moat://c/node/node_1", .ip = "fd00::1", .not_before_s = now - 60, .not_after_s = now + 600,
                                      .client = true, .server = true};
    assert_int_equal(mt_x509_key_new(&key, &err), 0);
    assert_int_equal(mt_x509_key_new(&other, &err), 0);
    assert_int_equal(mt_x509_csr_new(key, "box", &csr, &err), 0);
    assert_int_equal(mt_x509_csr_read(csr, &asked, &err), 0);
    assert_string_equal(asked.cn, "box");
    assert_int_equal(mt_x509_sign(ca_key, ca_cert, csr, &spec, &cert, &about, &err), 0);
    assert_string_equal(about.cn, "node_1");
    assert_string_equal(about.spki_sha256, asked.spki_sha256);
    assert_int_equal(about.not_after_s, now + 600);
    assert_int_equal(strlen(about.serial), 32);
    assert_int_equal(mt_x509_read(cert, &again, &err), 0);
    assert_memory_equal(&about, &again, sizeof about);
    assert_true(mt_x509_belongs(key, cert));
    assert_false(mt_x509_belongs(other, cert));
    assert_true(mt_x509_belongs(ca_key, ca_cert));
    free(key);
    free(other);
    free(csr);
    free(cert);
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    char *key = NULL, *csr = NULL;
    struct mt_x509_csr asked = {.cn = "kept"};
    struct mt_err err;
    assert_int_equal(mt_x509_key_new(&key, NULL), 0);
    assert_int_equal(mt_x509_csr_new(key, "box", &csr, NULL), 0);
    const char *const bad[] = {"", "x", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", ca_cert, key};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(mt_x509_csr_read(bad[i], &asked, &err), -MT_E_INVALID);
    for (size_t i = 30; i < strlen(csr) - 30; i++) { /* every letter of it counts */
        char was = csr[i];
        if (was == '\n')
            continue;
        csr[i] = was == 'A' ? 'B' : 'A';
        if (mt_x509_csr_read(csr, &asked, &err) == 0)
            print_error("a changed letter %zu of the request is accepted\n", i);
        assert_string_equal(asked.cn, "kept");
        csr[i] = was;
    }
    assert_int_equal(mt_x509_csr_read(csr, &asked, &err), 0);
    free(key);
    free(csr);
}

static void a_wireguard_key_has_the_public_half_of_rfc_7748(void **state)
{
    (void)state;
    uint8_t private_key[32], want[32], got[32];
    assert_int_equal(mt_hex_decode("0900000000000000000000000000000000000000000000000000000000000000", 32, private_key), 0);
    assert_int_equal(mt_hex_decode("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079", 32, want), 0);
    assert_int_equal(mt_x25519_public(private_key, got, NULL), 0);
    assert_memory_equal(want, got, 32);
    assert_int_equal(mt_x25519_new(private_key, got, NULL), 0);
    assert_int_equal(private_key[0] & 7, 0);
    assert_int_equal(private_key[31] & 0xc0, 0x40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_signed_for_the_name_that_the_authority_gives),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(a_wireguard_key_has_the_public_half_of_rfc_7748),
    };
    return cmocka_run_group_tests(tests, make_ca, drop_ca);
}
