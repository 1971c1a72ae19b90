/* SPDX-License-Identifier: Apache-2.0 */
/* Whose bundles are taken, which bundle comes before another one, and from how many failed boots on a bundle does not hold (runtime.md §7.1). */
#include "agent/bundle.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "os/digest.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include <cmocka.h>

static char dir[64];
static const struct mt_bundle_trust nobody = {.machine_id = "/nonexistent"};

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/moat-bundle-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[96];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* A bundle of two files of a few bytes, made @ago_s seconds ago; @whole: with the hashes that its manifest says. */
static void make(const char *version, int64_t ago_s, bool whole)
{
    char path[160], text[512], sum[MT_SHA256_HEX];
    (void)snprintf(path, sizeof path, "%s/%s", dir, version);
    assert_int_equal(mkdir(path, 0755), 0);
    mt_sha256_hex("x", 1, sum);
    for (const char *const *f = (const char *const[]){"vmlinux", "initramfs.cpio", NULL}; *f; f++) {
        (void)snprintf(path, sizeof path, "%s/%s/%s", dir, version, *f);
        assert_int_equal(mt_file_write(path, whole ? "x" : "y", 1, 0444, NULL), 0);
    }
    (void)snprintf(path, sizeof path, "%s/%s/manifest.json", dir, version);
    int n = snprintf(text, sizeof text, "{\"version\":\"%s\",\"kind\":\"modules\",\"vmlinux_sha256\":\"%s\",\"initramfs_sha256\":\"%s\"}", version, sum, sum);
    assert_int_equal(mt_file_write(path, text, (size_t)n, 0444, NULL), 0);
    const struct timespec at[2] = {{.tv_sec = time(NULL) - ago_s}, {.tv_sec = time(NULL) - ago_s}};
    assert_int_equal(utimensat(AT_FDCWD, path, at, 0), 0);
}

static void the_one_made_last_before_it(void **state)
{
    struct mt_bundle b;
    struct mt_err err;
    char link[96];
    (void)state;
    if (geteuid() != 0)
        skip(); /* a manifest has to be root's */
    make("6.12-a", 5000, true);
    make("6.12-b", 4000, true);
    make("6.12-broken", 3000, false);
    make("6.12-c", 2000, true);
    make("6.12-later", 10, true);
    (void)snprintf(link, sizeof link, "%s/current", dir);
    assert_int_equal(symlink("6.12-c", link), 0);
    assert_int_equal(mt_bundle_before(dir, "6.12-c", true, &nobody, &b, &err), 0);
    assert_string_equal(b.version, "6.12-b"); /* not the broken one, not itself by `current`, not one that was made later */
    assert_int_equal(mt_bundle_before(dir, "6.12-b", true, &nobody, &b, &err), 0);
    assert_string_equal(b.version, "6.12-a");
    assert_int_equal(mt_bundle_before(dir, "6.12-a", true, &nobody, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_bundle_before(dir, "6.12-nowhere", true, &nobody, &b, &err), -MT_E_NOT_FOUND);
}

static void a_day_of_use_proves_it(void **state)
{
    struct mt_bundle b;
    struct mt_err err;
    (void)state;
    if (geteuid() != 0)
        skip();
    make("old", 3 * 86400, true);
    make("proven", 86500, true);
    assert_int_equal(mt_bundle_before(dir, "proven", true, &nobody, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_bundle_before(dir, "proven", false, &nobody, &b, &err), 0); /* one that was given up in its first day stays so */
    assert_string_equal(b.version, "old");
}

static struct mt_boot_count counted(const char *boots)
{
    struct mt_boot_count c = {.n = 0};
    for (; *boots; boots++)
        mt_boot_count_note(&c, "v", *boots == '+');
    return c;
}

static void three_and_every_fifth_of_the_last_twenty(void **state)
{
    static const struct {
        const char *boots; /* '+' hello, '-' none */
        bool bad;
    } t[] = {
        {"", false}, {"--", false}, {"---", true}, {"+-+-+-", true}, {"++++++++++++---", true}, /* 3 of 15 */
        {"+++++++++++++---", false}, /* 3 of 16 */
        {"---+++++++++++++", false}, {"+++++++++++++++++---", false}, {"++++++++++++++++----", true}, /* 4 of 20 */
        {"----++++++++++++++++", true}, {"----+++++++++++++++++", false}, /* the first of them is more than twenty ago */
        {"----------++++++++++++++++++++", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_boot_count c = counted(t[i].boots);
        if (mt_boot_count_bad(&c) != t[i].bad)
            fail_msg("'%s' is %s", t[i].boots, t[i].bad ? "bad" : "not bad");
    }
    struct mt_boot_count c = counted("--");
    mt_boot_count_note(&c, "w", false); /* of another version: not the third */
    assert_false(mt_boot_count_bad(&c));
    assert_int_equal(c.n, 1);
}

/* A key pair of OpenSSL's making, its public key as bundle_keys has it. */
static EVP_PKEY *key_pair(char ret[64])
{
    uint8_t raw[32];
    size_t n = sizeof raw;
    EVP_PKEY *k = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    assert_non_null(k);
    assert_int_equal(EVP_PKEY_get_raw_public_key(k, raw, &n), 1);
    (void)mt_b64_encode(raw, sizeof raw, ret);
    return k;
}

static const char *at(const char *version, const char *file)
{
    static char path[200];
    (void)snprintf(path, sizeof path, "%s/%s/%s", dir, version, file);
    return path;
}

/* manifest.sig of @signed_of's manifest put beside @version's. */
static void sign(EVP_PKEY *k, const char *version, const char *signed_of)
{
    mt_auto_free char *text = NULL;
    uint8_t sig[64];
    size_t len, n = sizeof sig;
    assert_int_equal(mt_file_read(at(signed_of, "manifest.json"), 4096, &text, &len, NULL), 0);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(c, NULL, NULL, NULL, k), 1);
    assert_int_equal(EVP_DigestSign(c, sig, &n, (const uint8_t *)text, len), 1);
    EVP_MD_CTX_free(c);
    (void)unlink(at(version, "manifest.sig"));
    assert_int_equal(mt_file_write(at(version, "manifest.sig"), sig, sizeof sig, 0444, NULL), 0);
}

static void put(const char *version, const char *file, const void *data, size_t n)
{
    (void)unlink(at(version, file));
    assert_int_equal(mt_file_write(at(version, file), data, n, 0444, NULL), 0);
}

static void find(const char *version, const struct mt_bundle_trust *trust, int want, const char *word)
{
    struct mt_bundle b = {.version = "untouched"};
    struct mt_err err = {0};
    int rc = mt_bundle_find(dir, version, trust, &b, &err);
    if (rc != want || (rc < 0 && !strstr(err.msg, word)) || (rc == 0 && strcmp(b.origin, word) != 0))
        fail_msg("%s: %d, '%s', origin '%s'; wanted %d, '%s'", version, rc, err.msg, b.origin, want, word);
    assert_string_equal(b.version, rc == 0 ? version : "untouched");
}

/* What was brought here is signed by a pinned key, over this manifest, or it is not taken. */
static void signed_by_a_pinned_key(void **state)
{
    char mine[64], theirs[64], origin[48], sig[64] = {0};
    (void)state;
    if (geteuid() != 0)
        skip();
    EVP_PKEY *good = key_pair(mine), *bad = key_pair(theirs);
    char *pinned[] = {theirs, mine}, *one[] = {mine};
    const struct mt_bundle_trust both = {.keys = pinned, .n_keys = 2, .machine_id = "/nonexistent"}, only = {.keys = one, .n_keys = 1, .machine_id = "/nonexistent"};
    (void)snprintf(origin, sizeof origin, "signed by %.12s...", mine);
    make("v1", 10, true);
    make("v2", 10, true);
    find("v1", &nobody, 0, "");
    find("v1", &only, -MT_E_DENIED, "is not signed");
    sign(good, "v1", "v1");
    find("v1", &only, 0, origin);
    find("v1", &both, 0, origin);
    find("v1", &nobody, -MT_E_DENIED, "no key to check it by");
    sign(good, "v2", "v1"); /* another bundle's signature */
    find("v2", &only, -MT_E_CORRUPT, "not a signature of this manifest");
    sign(bad, "v1", "v1");
    find("v1", &only, -MT_E_CORRUPT, "not a signature of this manifest");
    put("v1", "manifest.sig", sig, 64); /* zeros */
    find("v1", &only, -MT_E_CORRUPT, "not a signature of this manifest");
    put("v1", "manifest.sig", sig, 63);
    find("v1", &only, -MT_E_CORRUPT, "63 bytes");
    put("v1", "manifest.sig", sig, 0);
    find("v1", &only, -MT_E_CORRUPT, "0 bytes");
    (void)unlink(at("v1", "manifest.sig"));
    assert_int_equal(mkfifo(at("v1", "manifest.sig"), 0644), 0); /* would hold who opens it */
    find("v1", &only, -MT_E_DENIED, "manifest.sig");
    (void)unlink(at("v1", "manifest.sig"));
    assert_int_equal(symlink("manifest.json", at("v1", "manifest.sig")), 0);
    find("v1", &only, -MT_E_DENIED, "manifest.sig");
    sign(good, "v1", "v1");
    put("v1", "vmlinux", "y", 1); /* the manifest holds, what it names does not */
    find("v1", &only, -MT_E_CORRUPT, "vmlinux");
    put("v1", "vmlinux", "x", 1);
    find("v1", &only, 0, origin);
    char moved[160];
    (void)snprintf(moved, sizeof moved, "%s/v9", dir);
    assert_int_equal(rename(at("v1", ""), moved), 0); /* an old one under a new name */
    find("v9", &only, -MT_E_CORRUPT, "version 'v1'");
    EVP_PKEY_free(good);
    EVP_PKEY_free(bad);
}

/* make-bundle's mark holds on the machine and for the manifest it was made for. */
static void built_on_this_machine(void **state)
{
    char mine[64], id[96], other[96], sum[MT_SHA256_HEX + 1], text[4096];
    mt_auto_free char *manifest = NULL;
    size_t len;
    (void)state;
    if (geteuid() != 0)
        skip();
    EVP_PKEY *k = key_pair(mine);
    char *pinned[] = {mine};
    (void)snprintf(id, sizeof id, "%s/machine-id", dir);
    (void)snprintf(other, sizeof other, "%s/other-id", dir);
    assert_int_equal(mt_file_write(id, "0123456789abcdef0123456789abcdef\n", 33, 0444, NULL), 0);
    assert_int_equal(mt_file_write(other, "1123456789abcdef0123456789abcdef\n", 33, 0444, NULL), 0);
    const struct mt_bundle_trust here = {.keys = pinned, .n_keys = 1, .machine_id = id}, there = {.keys = pinned, .n_keys = 1, .machine_id = other},
                                 nowhere = {.keys = pinned, .n_keys = 1, .machine_id = "/nonexistent"};
    make("v1", 10, true);
    assert_int_equal(mt_file_read(at("v1", "manifest.json"), sizeof text, &manifest, &len, NULL), 0);
    memcpy(text, "0123456789abcdef0123456789abcdef\n", 33);
    memcpy(text + 33, manifest, len);
    mt_sha256_hex(text, 33 + len, sum);
    (void)snprintf(sum + strlen(sum), 2, "\n");
    put("v1", "built-here", sum, 65);
    find("v1", &here, 0, "built here");
    find("v1", &there, -MT_E_DENIED, "is not signed");
    find("v1", &nowhere, -MT_E_DENIED, "is not signed");
    put("v1", "built-here", sum, 64);
    find("v1", &here, -MT_E_DENIED, "is not signed");
    put("v1", "built-here", sum, 65);
    manifest[len - 1] = ' '; /* the same bundle, another manifest */
    put("v1", "manifest.json", manifest, len);
    find("v1", &here, -MT_E_DENIED, "is not signed");
    EVP_PKEY_free(k);
}

static void a_key_is_32_bytes_of_base64(void **state)
{
    static const char *const bad[] = {"", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                      "AAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA=", "----BEGIN PUBLIC KEY----"};
    uint8_t key[32];
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_bundle_key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", key, &err), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (mt_bundle_key(bad[i], key, &err) != -MT_E_INVALID)
            fail_msg("'%s' is taken", bad[i]);
}

/* A manifest for another agent: of a protocol that this one does not speak, or of a version that is not there yet. */
static void for_another_agent(void **state)
{
    static const struct {
        const char *more, *word;
    } rows[] = {{"\"proto_min\":2,\"proto_max\":3,", "protocol 2 to 3"}, {"\"proto_min\":0,\"proto_max\":0,", "protocol 0 to 0"}, {"\"min_agent_version\":\"99.0.0\",", "99.0.0"},
                {"\"min_agent_version\":\"0.0.99\",\"proto_min\":1,\"proto_max\":9,", NULL}};
    (void)state;
    if (geteuid() != 0)
        skip();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char version[8], text[600], sum[MT_SHA256_HEX];
        (void)snprintf(version, sizeof version, "v%zu", i);
        make(version, 10, true);
        mt_sha256_hex("x", 1, sum);
        int n = snprintf(text, sizeof text, "{%s\"version\":\"%s\",\"kind\":\"modules\",\"vmlinux_sha256\":\"%s\",\"initramfs_sha256\":\"%s\"}", rows[i].more, version, sum, sum);
        put(version, "manifest.json", text, (size_t)n);
        find(version, &nobody, rows[i].word ? -MT_E_INVALID : 0, rows[i].word ? rows[i].word : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_one_made_last_before_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_day_of_use_proves_it, setup, teardown),
        cmocka_unit_test_setup_teardown(signed_by_a_pinned_key, setup, teardown),
        cmocka_unit_test_setup_teardown(built_on_this_machine, setup, teardown),
        cmocka_unit_test_setup_teardown(for_another_agent, setup, teardown),
        cmocka_unit_test(a_key_is_32_bytes_of_base64),
        cmocka_unit_test(three_and_every_fifth_of_the_last_twenty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
