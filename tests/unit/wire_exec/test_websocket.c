/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket frames: the examples of RFC 6455, every length form, masks, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "wire/websocket.h"

static void the_key_of_the_rfc_is_answered_as_the_rfc_says(void **state)
{
    (void)state;
    char accept[MT_WS_ACCEPT_SIZE], key[25];
    assert_true(mt_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept));
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_false(mt_ws_accept(NULL, accept));
    assert_false(mt_ws_accept("short", accept));
    assert_false(mt_ws_accept("dGhlIHNhbXBsZSBub25jZQ=a", accept));
    assert_false(mt_ws_accept("dGhl\nHNhbXBsZSBub25jZQ==", accept));
    mt_ws_key(key);
    assert_true(mt_ws_accept(key, accept));
}

static void the_masked_hello_of_the_rfc_is_read(void **state)
{
    (void)state;
    uint8_t in[] = {0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58};
    struct mt_ws_frame f;
    size_t used;
    struct mt_err err;
    for (size_t n = 0; n < sizeof in; n++)
        assert_int_equal(mt_ws_decode(in, n, true, 100, &f, &used, &err), 1);
    assert_int_equal(mt_ws_decode(in, sizeof in, true, 100, &f, &used, &err), 0);
    assert_int_equal(used, sizeof in);
    assert_memory_equal(f.payload, "Hello", 5);
}

static void every_length_goes_there_and_back(void **state)
{
    (void)state;
    static const size_t lens[] = {0, 1, 125, 126, 127, 65535, 65536, 65537};
    const uint8_t mask[4] = {1, 2, 3, 4};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++)
        for (int client = 0; client < 2; client++) {
            uint8_t *b = malloc(MT_WS_HEAD_MAX + lens[i]);
            struct mt_ws_frame f;
            struct mt_err err;
            size_t used, h = mt_ws_head(b, MT_WS_BINARY, lens[i], client ? mask : NULL);
            memset(b + h, 'z', lens[i]);
            if (client)
                mt_ws_mask(b + h, lens[i], mask);
            assert_int_equal(mt_ws_decode(b, h + lens[i], client, 65537, &f, &used, &err), 0);
            assert_int_equal(f.len, lens[i]);
            assert_int_equal(used, h + lens[i]);
            for (size_t k = 0; k < f.len; k++)
                assert_int_equal(f.payload[k], 'z');
            if (lens[i] > 1000)
                assert_int_equal(mt_ws_decode(b, h + lens[i], client, 1000, &f, &used, &err), -MT_E_LIMIT);
            free(b);
        }
}

static void what_is_refused(void **state)
{
    (void)state;
    static const uint8_t bad[][14] = {{0x02, 0x80}, {0xc2, 0x80}, {0x83, 0x80}, {0x80, 0x80}, {0x82, 0x01, 'x'}, {0x88, 0xfe, 0, 126},
                                      {0x82, 0xfe, 0, 125}, {0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, {0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t copy[14];
        struct mt_ws_frame f;
        struct mt_err err = {0};
        size_t used;
        memcpy(copy, bad[i], sizeof copy);
        assert_true(mt_ws_decode(copy, sizeof copy, true, 65537, &f, &used, &err) < 0);
        assert_true(err.msg[0] != 0);
    }
    uint8_t masked[] = {0x82, 0x81, 0, 0, 0, 0, 'x'};
    struct mt_ws_frame f;
    struct mt_err err;
    size_t used;
    assert_int_equal(mt_ws_decode(masked, sizeof masked, false, 100, &f, &used, &err), -MT_E_INVALID); /* a server does not mask */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_of_the_rfc_is_answered_as_the_rfc_says),
        cmocka_unit_test(the_masked_hello_of_the_rfc_is_read),
        cmocka_unit_test(every_length_goes_there_and_back),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
