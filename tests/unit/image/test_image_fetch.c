/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of moat-fetch that need no network: address rule, challenges, requests. */
#include "os/addr.h"
#include "fetch/challenge.h"
#include "fetch/options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static bool public_text(const char *text)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
        return mt_addr_public((const struct sockaddr *)&in, sizeof in);
    assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
    return mt_addr_public((const struct sockaddr *)&in6, sizeof in6);
}

static void only_public_addresses_pass(void **state)
{
    static const char *const yes[] = {"1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.1.1",
                                      "223.255.255.255", "2606:4700::1111", "2a00::1", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"};
    static const char *const no[] = {"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254",
                                     "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
                                     "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
                                     "2001:db8::1", "2001::1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
                                     "2002:7f00:1::1", "2002:a9fe:a9fe::1", "3fff::1", "::8.8.8.8", "fec0::1"};
    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        if (!public_text(yes[i]))
            fail_msg("%s is public", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        if (public_text(no[i]))
            fail_msg("%s is not public", no[i]);
    const struct sockaddr unix_family = {.sa_family = AF_UNIX};
    assert_false(mt_addr_public(&unix_family, sizeof unix_family));
}

static void challenge(const char *text, enum mt_challenge_scheme scheme, const char *realm, const char *service, const char *scope)
{
    struct mt_challenge c;
    mt_challenge_parse(text, strlen(text), &c);
    assert_int_equal(c.scheme, scheme);
    assert_string_equal(c.realm, realm);
    assert_string_equal(c.service, service);
    assert_string_equal(c.scope, scope);
}

static void challenges_are_read(void **state)
{
    (void)state;
    challenge("Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull\"", MT_CHALLENGE_BEARER, "https://a/t", "s", "repository:x:pull");
    challenge("bearer REALM=tok , error=\"invalid_token\"", MT_CHALLENGE_BEARER, "tok", "", "");
    challenge("Bearer realm=\"a\\\"b\\\\c\"", MT_CHALLENGE_BEARER, "a\"b\\c", "", "");
    challenge("Basic realm=\"x, y\"", MT_CHALLENGE_BASIC, "x, y", "", "");
    challenge("Negotiate abc", MT_CHALLENGE_NONE, "", "", "");
    challenge("", MT_CHALLENGE_NONE, "", "", "");
    challenge("Bearer realm=\"open", MT_CHALLENGE_NONE, "", "", "");
    challenge("Bearer realm=\"a\nb\"", MT_CHALLENGE_NONE, "", "", "");
}

static void an_overlong_parameter_voids_the_challenge(void **state)
{
    char text[2200];
    struct mt_challenge c;
    (void)state;
    int n = snprintf(text, sizeof text, "Bearer realm=\"%02000d\"", 7);
    mt_challenge_parse(text, (size_t)n, &c);
    assert_int_equal(c.scheme, MT_CHALLENGE_NONE);
    n = snprintf(text, sizeof text, "Bearer service=\"%0300d\"", 7);
    mt_challenge_parse(text, (size_t)n, &c);
    assert_int_equal(c.scheme, MT_CHALLENGE_NONE);
}

static void requests_are_checked(void **state)
{
    static const char *const bad[] = {"[]", "{\"x\":1}", "{\"images_dir\":\"rel\",\"repository\":\"h.x/a\",\"digest\":\"sha256:0\",\"arch\":\"amd64\"}",
                                      "{\"local_registries\":\"x\"}", "{\"local_registries\":[1]}", "{\"total_timeout_s\":0}", "{\"uid\":-1}"};
    struct mt_fetch_options o;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_fetch_options_parse("", 0, false, &o, &err), 0);
    assert_int_equal(o.total_timeout_s, 10);
    assert_false(mt_fetch_listed(o.local_registries, "h:1"));
    mt_fetch_options_done(&o);
    assert_int_equal(mt_fetch_options_parse("", 0, true, &o, &err), -MT_E_INVALID);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (mt_fetch_options_parse(bad[i], strlen(bad[i]), i == 2, &o, &err) >= 0)
            fail_msg("'%s' was accepted", bad[i]);
    static const char good[] = "{\"local_registries\":[\"Host.X:5000\"]}";
    assert_int_equal(mt_fetch_options_parse(good, sizeof good - 1, false, &o, &err), 0);
    assert_true(mt_fetch_listed(o.local_registries, "host.x:5000"));
    assert_false(mt_fetch_listed(o.local_registries, "host.x:500"));
    mt_fetch_options_done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_public_addresses_pass),
        cmocka_unit_test(challenges_are_read),
        cmocka_unit_test(an_overlong_parameter_voids_the_challenge),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
