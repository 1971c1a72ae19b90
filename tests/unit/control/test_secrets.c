/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes and master keys: the vectors of storage-and-secrets.md §6.6, and every way to tamper. */
#include "control/secrets/keys.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/lockmem.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

static const struct mt_seal_ids ids = {"org_01HZ0000000000000000000001", "env_01HZ0000000000000000000002",
                                       "sb_01HZ0000000000000000000003", "sv_01HZ0000000000000000000004"};
static const char v2[] = "# MOAT_SECRETS_V1\nA=\nDB_PASS=correct horse = battery\nDB_USER=app\n";
static uint8_t master[32], data_key[32];
static struct mt_err err;

static int setup(void **state)
{
    (void)state;
    for (uint8_t i = 0; i < 32; i++)
        master[i] = i;
    memset(data_key, 0x22, sizeof data_key);
    return 0;
}

static void vectors_of_the_specification_hold(void **state)
{
    (void)state;
    uint8_t nonce[12], id8[8], wrapped[MT_SEAL_WRAPPED], back[128], envelope[sizeof v2 - 1 + MT_SEAL_MATERIAL_EXTRA];
    char id[MT_MASTERKEY_ID], hex[2 * MT_SEAL_WRAPPED + 1], sha[MT_SHA256_HEX];
    struct mt_seal_context c;
    size_t n;
    mt_masterkey_id(master, id);
    assert_string_equal(id, "b90bc12db23d7ce4");
    assert_int_equal(mt_hex_decode(id, 8, id8), 0);
    memset(nonce, 0x33, sizeof nonce);
    mt_seal_context_secret(&ids, &c);
    assert_int_equal(mt_seal_wrap(master, id8, &c, data_key, nonce, wrapped, &err), 0);
    mt_hex_encode(wrapped, sizeof wrapped, hex);
    assert_string_equal(hex, "4d545731b90bc12db23d7ce43333333333333333333333336732a2c843823bc7076326cb954259903303f43a40d28ae6540201faa63b991e52bcca96e38b062568a0fb25da6316be");
    assert_int_equal(mt_seal_unwrap(master, &c, wrapped, sizeof wrapped, back, &err), 0);
    assert_memory_equal(back, data_key, 32);

    memset(nonce, 0x44, sizeof nonce);
    assert_int_equal(mt_seal_material(data_key, &ids, v2, sizeof v2 - 1, nonce, envelope, &err), 0);
    assert_int_equal(sizeof envelope, 105);
    mt_sha256_hex(envelope, sizeof envelope, sha);
    assert_string_equal(sha, "cbcd2598159d935f17960be00cbe339989143ba952436c80cc76712834cc7733");
    assert_int_equal(mt_seal_open(data_key, &ids, envelope, sizeof envelope, back, &n, &err), 0);
    assert_int_equal(n, sizeof v2 - 1);
    assert_memory_equal(back, v2, n);

    uint8_t tag_key[32], vbk[32];
    memset(tag_key, 0x55, sizeof tag_key);
    mt_seal_data_hash(tag_key, v2, sizeof v2 - 1, sha);
    assert_string_equal(sha, "73d037bdde2d7ecfa3116d13b25e026d49c15662e2ca088e542c26efe36dde83");

    memset(vbk, 0x66, sizeof vbk);
    memset(nonce, 0x99, sizeof nonce);
    mt_seal_context_volume("prod-1", ids.org_id, "vol_01HZ0000000000000000000005", 1, &c);
    assert_int_equal(mt_seal_wrap(master, id8, &c, vbk, nonce, wrapped, &err), 0);
    mt_hex_encode(wrapped, sizeof wrapped, hex);
    assert_string_equal(hex, "4d545731b90bc12db23d7ce49999999999999999999999997d848f95f4f9728b0b3c47ed1d7f1bdd963d0e3240cf59bfa49f1b468b73a547d4a6986af84a5fb53e02bf8383320403");
}

static void any_flipped_bit_is_noticed(void **state)
{
    (void)state;
    uint8_t id8[8] = {1}, wrapped[MT_SEAL_WRAPPED], envelope[sizeof v2 - 1 + MT_SEAL_MATERIAL_EXTRA], back[128];
    struct mt_seal_context c;
    size_t n;
    mt_seal_context_secret(&ids, &c);
    assert_int_equal(mt_seal_wrap(master, id8, &c, data_key, NULL, wrapped, &err), 0);
    assert_int_equal(mt_seal_material(data_key, &ids, v2, sizeof v2 - 1, NULL, envelope, &err), 0);
    for (size_t bit = 0; bit < 8 * sizeof wrapped; bit++) {
        wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(mt_seal_unwrap(master, &c, wrapped, sizeof wrapped, back, &err), -MT_E_CORRUPT);
        wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * sizeof envelope; bit++) {
        envelope[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(mt_seal_open(data_key, &ids, envelope, sizeof envelope, back, &n, &err), -MT_E_CORRUPT);
        envelope[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < sizeof envelope; cut++)
        assert_int_equal(mt_seal_open(data_key, &ids, envelope, cut, back, &n, &err), -MT_E_CORRUPT);
    assert_int_equal(mt_seal_unwrap(master, &c, wrapped, sizeof wrapped, back, &err), 0);
    assert_int_equal(mt_seal_open(data_key, &ids, envelope, sizeof envelope, back, &n, &err), 0);
}

static void nothing_opens_in_another_place(void **state)
{
    (void)state;
    uint8_t id8[8] = {1}, other[32] = {9}, wrapped[MT_SEAL_WRAPPED], envelope[sizeof v2 - 1 + MT_SEAL_MATERIAL_EXTRA], back[128];
    struct mt_seal_context c, tag;
    size_t n;
    mt_seal_context_secret(&ids, &c);
    assert_int_equal(mt_seal_wrap(master, id8, &c, data_key, NULL, wrapped, &err), 0);
    assert_int_equal(mt_seal_material(data_key, &ids, v2, sizeof v2 - 1, NULL, envelope, &err), 0);
    for (int i = 0; i < 4; i++) {
        struct mt_seal_ids wrong = ids;
        const char **field = i == 0 ? &wrong.org_id : i == 1 ? &wrong.env_id : i == 2 ? &wrong.bundle_id : &wrong.version_id;
        *field = "sv_01HZ0000000000000000000009";
        mt_seal_context_secret(&wrong, &c);
        assert_int_equal(mt_seal_unwrap(master, &c, wrapped, sizeof wrapped, back, &err), -MT_E_CORRUPT);
        assert_int_equal(mt_seal_open(data_key, &wrong, envelope, sizeof envelope, back, &n, &err), -MT_E_CORRUPT);
    }
    mt_seal_context_secret(&ids, &c);
    mt_seal_context_tag(&ids, &tag);
    assert_int_equal(mt_seal_unwrap(master, &tag, wrapped, sizeof wrapped, back, &err), -MT_E_CORRUPT);
    assert_int_equal(mt_seal_unwrap(other, &c, wrapped, sizeof wrapped, back, &err), -MT_E_CORRUPT);
    assert_int_equal(mt_seal_open(other, &ids, envelope, sizeof envelope, back, &n, &err), -MT_E_CORRUPT);
}

/* ---- the file ---- */

static char path[] = "/tmp/moat-test-keys-XXXXXX";

static void put(const char *text, mode_t mode)
{
    (void)unlink(path);
    mt_auto_fd int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
}

static void line(uint8_t fill, bool active, char ret[MT_MASTERKEY_LINE])
{
    struct mt_masterkey k = {.active = active};
    memset(k.key, fill, sizeof k.key);
    mt_masterkey_id(k.key, k.id);
    mt_masterkey_line(&k, ret);
}

static void only_a_sound_file_of_ones_own_is_read(void **state)
{
    (void)state;
    char a[MT_MASTERKEY_LINE], b[MT_MASTERKEY_LINE], old[MT_MASTERKEY_LINE], text[400];
    struct mt_key_info info[4];
    struct mt_keys *k;
    line(1, true, a);
    line(2, true, b);
    line(1, false, old);
    const char *const bad[] = {"",  "# nothing\n", old, "zz active x\n", "b90bc12db23d7ce4 active AAAA\n",
                               "b90bc12db23d7ce4 waiting AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
                               "b90bc12db23d7ce5 active AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
                               "b90bc12db23d7ce4 active  AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"};
    char both[400], twice[400];
    (void)mt_fmt(both, sizeof both, NULL, "%s%s", a, b);
    (void)mt_fmt(twice, sizeof twice, NULL, "%s%s", a, old);
    (void)mt_fmt(text, sizeof text, NULL, "# ours\n%s\n%s", a, "b90bc12db23d7ce4 retired AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    put(text, 0400);
    assert_int_equal(mt_keys_new(path, &k, &err), 0);
    assert_int_equal(mt_keys_list(k, info, 4), 2);
    assert_true(info[0].active && !info[1].active);
    assert_string_equal(info[1].id, "b90bc12db23d7ce4");
    for (size_t i = 0; i < MT_ARRAY_LEN(bad) + 2; i++) {
        put(i < MT_ARRAY_LEN(bad) ? bad[i] : i == MT_ARRAY_LEN(bad) ? both : twice, 0400);
        assert_true(mt_keys_reload(k, &err) < 0);
        assert_null(strstr(err.msg, "AAEC"));
        assert_int_equal(mt_keys_list(k, info, 4), 2); /* the old ones stay */
    }
    put(text, 0440);
    if (geteuid() != 0) /* a credential of systemd, which belongs to root, may have it */
        assert_int_equal(mt_keys_reload(k, &err), -MT_E_DENIED);
    put(text, 0444);
    assert_int_equal(mt_keys_reload(k, &err), -MT_E_DENIED);
    put(text, 0600);
    assert_int_equal(mt_keys_reload(k, &err), -MT_E_DENIED);
    mt_keys_free(k);
}

static void what_was_wrapped_opens_while_its_key_is_loaded(void **state)
{
    (void)state;
    char a[MT_MASTERKEY_LINE], b[MT_MASTERKEY_LINE], old[MT_MASTERKEY_LINE], text[400], id[MT_MASTERKEY_ID], id2[MT_MASTERKEY_ID], why[240];
    uint8_t wrapped[MT_SEAL_WRAPPED], again[MT_SEAL_WRAPPED], back[32];
    struct mt_seal_context c;
    struct mt_keys *k;
    mt_seal_context_secret(&ids, &c);
    line(1, true, a);
    line(1, false, old);
    line(2, true, b);
    put(a, 0400);
    assert_int_equal(mt_keys_new(path, &k, &err), 0);
    assert_int_equal(mt_keys_wrap(k, &c, data_key, wrapped, id, &err), 0);
    (void)mt_fmt(text, sizeof text, NULL, "%s%s", b, old);
    put(text, 0400);
    assert_int_equal(mt_keys_reload(k, &err), 0);
    assert_int_equal(mt_keys_unwrap(k, &c, wrapped, sizeof wrapped, back, &err), 0);
    assert_memory_equal(back, data_key, 32);
    assert_int_equal(mt_keys_wrap(k, &c, back, again, id2, &err), 0);
    assert_string_not_equal(id, id2);
    put(b, 0400);
    assert_int_equal(mt_keys_reload(k, &err), 0);
    assert_int_equal(mt_keys_unwrap(k, &c, wrapped, sizeof wrapped, back, &err), -MT_E_UNAVAILABLE);
    assert_int_equal(mt_keys_unwrap(k, &c, again, sizeof again, back, &err), 0);
    again[70] ^= 1;
    assert_int_equal(mt_keys_unwrap(k, &c, again, sizeof again, back, &err), -MT_E_CORRUPT);
    mt_keys_free(k);

    (void)unlink(path);
    assert_int_equal(mt_keys_new(path, &k, &err), 0); /* it starts all the same */
    mt_keys_problem(k, why, sizeof why);
    assert_non_null(strstr(why, path));
    assert_int_equal(mt_keys_wrap(k, &c, data_key, wrapped, id, &err), -MT_E_UNAVAILABLE);
    mt_keys_free(k);
}

static void locked_memory_is_wiped_and_not_dumped(void **state)
{
    (void)state;
    struct mt_lockmem m;
    char row[200];
    unsigned long lo = 0, hi;
    bool flag = false;
    assert_int_equal(mt_lockmem_new(&m, 5000, &err), 0);
    mt_auto_file FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    while (fgets(row, sizeof row, f)) {
        unsigned long l;
        if (sscanf(row, "%lx-%lx ", &l, &hi) == 2 && strchr(row, '-') < strchr(row, ' '))
            lo = l <= (uintptr_t)m.p && (uintptr_t)m.p < hi ? l : 0;
        else if (lo && mt_starts_with(row, "VmFlags:"))
            flag = flag || (strstr(row, " lo") && strstr(row, " dd"));
    }
    assert_true(flag);
    mt_lockmem_done(&m);
    mt_lockmem_done(&m);
    assert_null(m.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_the_specification_hold),
        cmocka_unit_test(any_flipped_bit_is_noticed),
        cmocka_unit_test(nothing_opens_in_another_place),
        cmocka_unit_test(only_a_sound_file_of_ones_own_is_read),
        cmocka_unit_test(what_was_wrapped_opens_while_its_key_is_loaded),
        cmocka_unit_test(locked_memory_is_wiped_and_not_dumped),
    };
    int fd = mkstemp(path);
    if (fd >= 0)
        (void)close(fd);
    int rc = cmocka_run_group_tests(tests, setup, NULL);
    (void)unlink(path);
    return rc;
}
