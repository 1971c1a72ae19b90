/* SPDX-License-Identifier: Apache-2.0 */
/* Golden bytes of the PROXY v2 encoder (networking.md 9.1) and its refusals. */
#include "wire/proxy2.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static struct sockaddr_in6 v6(const char *ip, uint16_t port)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET6, ip, &a.sin6_addr), 1);
    return a;
}

static struct sockaddr_in v4(const char *ip, uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET, ip, &a.sin_addr), 1);
    return a;
}

static void check(const struct mt_proxy2 *h, const char *hex)
{
    uint8_t buf[MT_PROXY2_MAX];
    char got[2 * MT_PROXY2_MAX + 1];
    size_t len = 0;
    struct mt_err err = {0};
    assert_int_equal(mt_proxy2_encode(h, buf, sizeof buf, &len, &err), 0);
    mt_hex_encode(buf, len, got);
    assert_string_equal(got, hex);
    assert_int_not_equal(mt_proxy2_encode(h, buf, len - 1, &len, &err), 0); /* one byte short is refused */
    assert_int_equal(err.code, MT_E_LIMIT);
}

static void golden_ipv6_without_tlv(void **state)
{
    (void)state;
    struct sockaddr_in6 s = v6("2001:db8::1", 50000), d = v6("2001:db8::2", 443);
    struct mt_proxy2 h = {.src = (struct sockaddr *)&s, .dst = (struct sockaddr *)&d};
    check(&h, "0d0a0d0a000d0a515549540a2121002420010db800000000000000000000000120010db800000000000000000000000"
              "2c35001bb");
}

static void golden_ipv4_without_tlv(void **state)
{
    (void)state;
    struct sockaddr_in s = v4("198.51.100.7", 50000), d = v4("203.0.113.9", 443);
    struct mt_proxy2 h = {.src = (struct sockaddr *)&s, .dst = (struct sockaddr *)&d};
    check(&h, "0d0a0d0a000d0a515549540a2111000cc6336407cb007109c35001bb");
}

static void golden_ipv4_with_tlvs(void **state)
{
    (void)state;
    struct sockaddr_in s = v4("198.51.100.7", 50000), d = v4("203.0.113.9", 443);
    uint8_t id[16];
    for (unsigned i = 0; i < 16; i++)
        id[i] = (uint8_t)i;
    struct mt_proxy2 h = {.src = (struct sockaddr *)&s, .dst = (struct sockaddr *)&d, .tlv = true,
                          .authority = "app.example.com", .authority_len = 15, .unique_id = id};
    check(&h, "0d0a0d0a000d0a515549540a21110038c6336407cb007109c35001bb02000f6170702e6578616d706c652e636f6d0500"
              "10000102030405060708090a0b0c0d0e0f030004ba0a7f1c");
}

static void golden_local(void **state)
{
    (void)state;
    uint8_t buf[MT_PROXY2_LOCAL_LEN];
    char got[2 * MT_PROXY2_LOCAL_LEN + 1];
    mt_proxy2_local(buf);
    mt_hex_encode(buf, sizeof buf, got);
    assert_string_equal(got, "0d0a0d0a000d0a515549540a20000000");
}

static void mapped_addresses_become_ipv4(void **state)
{
    (void)state;
    struct sockaddr_in6 s = v6("::ffff:198.51.100.7", 50000), d = v6("::ffff:203.0.113.9", 443);
    struct mt_proxy2 h = {.src = (struct sockaddr *)&s, .dst = (struct sockaddr *)&d};
    check(&h, "0d0a0d0a000d0a515549540a2111000cc6336407cb007109c35001bb");
}

static void mixed_or_foreign_families_and_long_names_are_refused(void **state)
{
    (void)state;
    struct sockaddr_in6 a6 = v6("2001:db8::1", 1);
    struct sockaddr_in6 mapped = v6("::ffff:1.2.3.4", 1);
    struct sockaddr_in a4 = v4("198.51.100.7", 1);
    struct sockaddr un = {.sa_family = AF_UNIX};
    uint8_t buf[MT_PROXY2_MAX], id[16] = {0};
    static char name[256];
    memset(name, 'a', sizeof name);
    size_t len = 77;
    struct mt_err err = {0};
    struct mt_proxy2 bad[] = {
        {.src = (struct sockaddr *)&a6, .dst = (struct sockaddr *)&a4},
        {.src = (struct sockaddr *)&mapped, .dst = (struct sockaddr *)&a6},
        {.src = &un, .dst = &un},
        {.src = (struct sockaddr *)&a6, .dst = (struct sockaddr *)&a6, .tlv = true, .authority = name, .authority_len = 256},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(mt_proxy2_encode(&bad[i], buf, sizeof buf, &len, &err), -MT_E_INVALID);
        assert_int_equal(len, 77);
    }
    struct mt_proxy2 largest = {.src = (struct sockaddr *)&a6, .dst = (struct sockaddr *)&a6, .tlv = true,
                                .authority = name, .authority_len = 255, .unique_id = id};
    assert_int_equal(mt_proxy2_encode(&largest, buf, sizeof buf, &len, &err), 0);
    assert_int_equal(len, MT_PROXY2_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_ipv6_without_tlv),
        cmocka_unit_test(golden_ipv4_without_tlv),
        cmocka_unit_test(golden_ipv4_with_tlvs),
        cmocka_unit_test(golden_local),
        cmocka_unit_test(mapped_addresses_become_ipv4),
        cmocka_unit_test(mixed_or_foreign_families_and_long_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
