/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of moat-backup that need no network: frames, manifests, sets, ranges, lists, signatures, requests. */
#include "backup/idset.h"
#include "backup/listing.h"
#include "backup/ranges.h"
#include "backup/request.h"
#include "backup/sigv4.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME "vol_00000000000000000000000001"
#define SNAPSHOT "snap_00000000000000000000000001"

static const struct mt_bk_scope scope = {.cluster = "c1", .org = "org_00000000000000000000000001", .volume = VOLUME};

static void keys_of(uint8_t byte, struct mt_bk_keys *ret)
{
    uint8_t vbk[32];
    memset(vbk, byte, sizeof vbk);
    mt_bk_keys_derive(vbk, 7, VOLUME, ret);
}

/* What may be wrong with an object, as docs/formats/backup.md lists it: all of the code's words, in its order, and no other. */
static void the_words_for_damage_are_those_of_the_page(void **state)
{
    const char *root = getenv("MOAT_SOURCE_ROOT");
    char path[512], want[256] = "\"why\":\"", *text = NULL;
    size_t len = 0, at = strlen(want);
    struct mt_err err;
    (void)state;
    if (!root)
        skip(); /* meson names it */
    for (unsigned i = MT_BK_FINE + 1; i < MT_BK_WHY_MAX; i++)
        at += (size_t)snprintf(want + at, sizeof want - at, "%s%s", i == MT_BK_FINE + 1 ? "" : "|", mt_bk_why_name((enum mt_bk_why)i));
    (void)snprintf(want + at, sizeof want - at, "\"");
    (void)snprintf(path, sizeof path, "%s/docs/formats/backup.md", root);
    assert_int_equal(mt_file_read(path, 1 << 20, &text, &len, &err), 0);
    assert_non_null(strstr(text, want));
    free(text);
}

static void keys_are_those_of_rfc_5869(void **state)
{
    struct mt_bk_keys k;
    char hex[65];
    (void)state;
    keys_of(0x11, &k); /* golden: Python's hmac over the same steps */
    mt_hex_encode(k.id, 32, hex);
    assert_string_equal(hex, "62914777bdea60f6810f9fcf25b05bfcbec4b0153dcbe2785b6ec593c55fc444");
    mt_hex_encode(k.chunk, 32, hex);
    assert_string_equal(hex, "c9d6ccfcdd61b7eea7bee8c6b18e936b0e3c30d4cdc0f228b8cf226032f53b81");
    mt_hex_encode(k.manifest, 32, hex);
    assert_string_equal(hex, "30da8e5d021b145591606b1db40762485f4ac6e148cd1c1862bf646554ba9f49");
}

/* A sealed chunk of compressible or random bytes; @ret_len. */
static uint8_t *sealed(const struct mt_bk_keys *k, struct mt_bk_zip *z, uint8_t *plain, bool noise, uint8_t id[32], size_t *ret_len)
{
    uint8_t *frame = malloc(MT_BK_CHUNK_OBJECT_MAX);
    assert_non_null(frame);
    for (size_t i = 0; i < MT_BK_CHUNK; i++)
        plain[i] = (uint8_t)(i / 97);
    if (noise)
        mt_random(plain, MT_BK_CHUNK);
    mt_bk_chunk_id(k, plain, id);
    size_t n = mt_bk_compress(z, plain, frame);
    assert_true(noise == (n == 0));
    if (!n)
        memcpy(frame + MT_BK_HEADER, plain, MT_BK_CHUNK);
    assert_int_equal(mt_bk_seal(MT_BK_FRAME_CHUNK, n != 0, k, &scope, id, MT_BK_CHUNK, frame, n ? n : MT_BK_CHUNK, ret_len, NULL), 0);
    return frame;
}

static void a_chunk_opens_only_as_itself(void **state)
{
    struct mt_bk_keys k, other;
    struct mt_bk_zip *z = mt_bk_zip_new();
    uint8_t *plain = malloc(MT_BK_CHUNK), *scratch = malloc(MT_BK_CHUNK), *copy = malloc(MT_BK_CHUNK_OBJECT_MAX), id[32];
    const uint8_t *got = NULL;
    size_t len = 0;
    (void)state;
    assert_true(z && plain && scratch && copy);
    keys_of(0x11, &k);
    keys_of(0x12, &other);
    for (int noise = 0; noise < 2; noise++) {
        uint8_t *frame = sealed(&k, z, plain, noise, id, &len);
        memcpy(copy, frame, len);
        assert_int_equal(mt_bk_open_chunk(&k, &scope, id, z, copy, len, scratch, &got), MT_BK_FINE);
        assert_memory_equal(got, plain, MT_BK_CHUNK);
        /* any byte of the header, some of the body, each of the tag */
        for (size_t at = 0; at < len; at += at < 40 || at + 20 > len ? 1 : (len - 60) / 7 + 1) {
            memcpy(copy, frame, len);
            copy[at] ^= 1;
            assert_int_not_equal(mt_bk_open_chunk(&k, &scope, id, z, copy, len, scratch, &got), MT_BK_FINE);
        }
        for (size_t cut = 1; cut < len; cut = cut * 5 + 1) {
            memcpy(copy, frame, len);
            assert_int_equal(mt_bk_open_chunk(&k, &scope, id, z, copy, len - cut, scratch, &got), MT_BK_WHY_TRUNCATED);
        }
        struct mt_bk_scope foreign = scope;
        foreign.volume[29] = '2';
        memcpy(copy, frame, len);
        assert_int_equal(mt_bk_open_chunk(&k, &foreign, id, z, copy, len, scratch, &got), MT_BK_WHY_TAG);
        memcpy(copy, frame, len);
        assert_int_equal(mt_bk_open_chunk(&other, &scope, id, z, copy, len, scratch, &got), MT_BK_WHY_TAG);
        id[5] ^= 1; /* replayed under another name */
        memcpy(copy, frame, len);
        assert_int_equal(mt_bk_open_chunk(&k, &scope, id, z, copy, len, scratch, &got), MT_BK_WHY_TAG);
        free(frame);
    }
    mt_bk_zip_free(z);
    free(plain);
    free(scratch);
    free(copy);
}

static void a_writer_that_lies_about_content_is_found_out(void **state)
{
    struct mt_bk_keys k;
    struct mt_bk_zip *z = mt_bk_zip_new();
    uint8_t *frame = calloc(1, MT_BK_CHUNK_OBJECT_MAX), *scratch = malloc(MT_BK_CHUNK), id[32] = {1};
    const uint8_t *got = NULL;
    size_t len = 0;
    (void)state;
    assert_true(z && frame && scratch);
    keys_of(0x11, &k);
    assert_int_equal(mt_bk_seal(MT_BK_FRAME_CHUNK, false, &k, &scope, id, MT_BK_CHUNK, frame, MT_BK_CHUNK, &len, NULL), 0);
    assert_int_equal(mt_bk_open_chunk(&k, &scope, id, z, frame, len, scratch, &got), MT_BK_WHY_ID);
    memset(frame, 7, 200); /* no zstd at all, rightly sealed */
    assert_int_equal(mt_bk_seal(MT_BK_FRAME_CHUNK, true, &k, &scope, id, MT_BK_CHUNK, frame, 100, &len, NULL), 0);
    assert_int_equal(mt_bk_open_chunk(&k, &scope, id, z, frame, len, scratch, &got), MT_BK_WHY_COMPRESSION);
    mt_bk_zip_free(z);
    free(frame);
    free(scratch);
}

static void a_manifest_reads_back_and_every_flipped_byte_is_refused(void **state)
{
    uint8_t p[MT_BK_MANIFEST_LEN(3)] = {0};
    struct mt_bk_manifest m = {.filesystem = true, .delta = true, .size_bytes = 3 * MT_BK_CHUNK, .count = 3, .captured_at_ms = 1800000000000,
                               .snapshot = SNAPSHOT, .volume = VOLUME, .changed_bytes = 5, .uploaded_bytes = 6, .ids = p + MT_BK_MANIFEST_HEADER},
                          got;
    (void)state;
    memset(p + MT_BK_MANIFEST_HEADER, 9, 32);
    assert_int_equal(mt_bk_image_root(m.size_bytes, m.count, m.ids, m.root, NULL), 0);
    mt_bk_manifest_head(&m, p);
    assert_int_equal(mt_bk_manifest_read(p, sizeof p, &got, NULL), 0);
    assert_true(got.filesystem && got.delta && got.count == 3 && got.changed_bytes == 5 && got.uploaded_bytes == 6);
    assert_string_equal(got.snapshot, SNAPSHOT);
    assert_string_equal(got.parent, "");
    assert_int_equal(mt_bk_manifest_read(p, sizeof p - 1, &got, NULL), -MT_E_CORRUPT);
    for (size_t i = 0; i < sizeof p; i++) {
        if ((i >= 24 && i < 32) || (i >= 64 && i < 160) || (i >= 168 && i < 184) || i == 7 || i == 163)
            continue; /* times, names, counters and flags are free; the object's tag guards them */
        p[i] ^= 1;
        assert_int_equal(mt_bk_manifest_read(p, sizeof p, &got, NULL), -MT_E_CORRUPT);
        p[i] ^= 1;
    }
}

static void a_set_and_an_index_know_what_they_hold(void **state)
{
    struct mt_bk_idset s;
    struct mt_bk_index x;
    uint8_t ids[300][32];
    uint32_t at;
    (void)state;
    mt_random(ids, sizeof ids);
    memset(ids[5], 0, 32);
    memcpy(ids[9], ids[2], 32);
    assert_int_equal(mt_bk_idset_init(&s, 300, NULL), 0);
    for (size_t i = 0; i < 200; i++)
        assert_int_equal(mt_bk_idset_add(&s, ids[i]), i != 9);
    for (size_t i = 0; i < 300; i++)
        assert_int_equal(mt_bk_idset_has(&s, ids[i]), i < 200);
    mt_bk_idset_done(&s);
    assert_int_equal(mt_bk_index_init(&x, ids[0], 200, NULL), 0);
    assert_int_equal(x.unique, 198);
    assert_true(mt_bk_index_find(&x, ids[9], &at));
    assert_int_equal(at, 2);
    assert_false(mt_bk_index_find(&x, ids[250], &at));
    mt_bk_index_done(&x);
    uint8_t page[64] = {0};
    assert_true(mt_bk_zero(page, sizeof page));
    for (size_t i = 0; i < sizeof page; i++) {
        page[i] = 1;
        assert_false(mt_bk_zero(page, sizeof page));
        page[i] = 0;
    }
}

static int feed(const char *text, uint8_t *bits)
{
    struct mt_bk_ranges r;
    mt_bk_ranges_init(&r, 4 * MT_BK_CHUNK, bits);
    for (size_t i = 0; text[i]; i++) /* byte by byte: pieces do not matter */
        if (mt_bk_ranges_feed(&r, text + i, 1, NULL) < 0)
            return -1;
    return mt_bk_ranges_end(&r, NULL);
}

static void ranges_that_were_cut_off_are_refused(void **state)
{
    static const char *const bad[] = {"", "0 1\n", "0 1\nend 2\n", "0 1\nend 1", "end 0\n0 1\n", "16777216 1\nend 1\n", "16777215 2\nend 1\n", "0 0\nend 1\n",
                                      "-1 5\nend 1\n", "1\nend 1\n", "end 0\nend 0\n", "18446744073709551615 2\nend 1\n", "0 1\n\nend 1\n"};
    uint8_t bits = 0;
    (void)state;
    assert_int_equal(feed("4194303 2\n12582912 1\nend 2\n", &bits), 0);
    assert_int_equal(bits, 0x0b);
    bits = 0;
    assert_int_equal(feed("end 0\n", &bits), 0);
    assert_int_equal(bits, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (feed(bad[i], &bits) == 0)
            fail_msg("'%s' was taken", bad[i]);
}

static int count(const struct mt_bk_listed *e, void *arg)
{
    struct mt_bk_listed *last = arg;
    *last = *e;
    return 0;
}

#define LIST(inner) "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\">" inner "</ListBucketResult>"

static void lists_of_stores_are_read(void **state)
{
    static const char *const bad[] = {"", "<a/>", "<ListBucketResult>", "<!DOCTYPE a><ListBucketResult/>", LIST("<IsTruncated>true</IsTruncated>"),
                                      LIST("<Contents><Size>1</Size></Contents>"), LIST("<Contents><Key>a</Key><Size>-1</Size></Contents>"),
                                      LIST("<Contents><Key>&evil;</Key></Contents>"), LIST("<a><b><c><d><e><f><g><h><i>") };
    const char *text = LIST("<Prefix>p</Prefix><Contents><Key>a&amp;b&#x2F;c</Key><LastModified>2026-11-23T03:00:00.000Z</LastModified><Size>70</Size>"
                            "<Owner><ID>7</ID></Owner></Contents><CommonPrefixes><Prefix>q/</Prefix></CommonPrefixes><IsTruncated>true</IsTruncated>"
                            "<NextContinuationToken>t==</NextContinuationToken>");
    struct mt_bk_listed last;
    struct mt_bk_page page;
    char code[32];
    (void)state;
    assert_int_equal(mt_bk_list_read(text, strlen(text), count, &last, &page, NULL), 0);
    assert_int_equal(page.entries, 2);
    assert_string_equal(page.token, "t==");
    assert_string_equal(last.prefix, "q/");
    const char *one = strstr(text, "<CommonPrefixes>");
    char cut[600];
    (void)snprintf(cut, sizeof cut, "%.*s</ListBucketResult>", (int)(one - text), text);
    assert_int_equal(mt_bk_list_read(cut, strlen(cut), count, &last, &page, NULL), 0);
    assert_string_equal(last.key, "a&b/c");
    assert_int_equal(last.size, 70);
    for (size_t i = 1; i < strlen(text); i++)
        assert_int_equal(mt_bk_list_read(text, i, count, &last, &page, NULL), -MT_E_CORRUPT);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (mt_bk_list_read(bad[i], strlen(bad[i]), count, &last, &page, NULL) == 0)
            fail_msg("'%s' was taken", bad[i]);
    const char *e = "<Error><Code>NoSuchBucket</Code></Error>";
    mt_bk_error_code(e, strlen(e), code, sizeof code);
    assert_string_equal(code, "NoSuchBucket");
}

static void signatures_are_those_of_the_reference(void **state)
{
    /* S3 API reference, "Examples: signature calculations": bucket lifecycle, list objects */
    static const struct {
        const char *query, *signature;
    } cases[] = {{"lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
                 {"max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"}};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const struct mt_bk_sign s = {.access_key = "AKIAIOSFODNN7EXAMPLE", .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", .region = "us-east-1",
                                     .method = "GET", .host = "examplebucket.s3.amazonaws.com", .path = "/", .query = cases[i].query,
                                     .payload_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", .unix_s = 1369353600};
        char date[MT_BK_AMZ_DATE];
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(4096);
        assert_int_equal(mt_bk_sign(&s, &b, date, NULL), 0);
        assert_string_equal(date, "20130524T000000Z");
        assert_non_null(strstr(mt_buf_cstr(&b), cases[i].signature));
    }
}

#define STORE(more) "\"store\":{\"endpoint\":\"https://s3.test\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"" more "},\"cluster_id\":\"c\""
#define VOL STORE("") ",\"org_id\":\"org_00000000000000000000000001\",\"volume_id\":\"" VOLUME "\""

static int parse(const char *text, enum mt_bk_verb verb)
{
    struct mt_bk_request q;
    struct mt_err err = {0};
    int r = mt_bk_request_parse(text, strlen(text), verb, &q, &err);
    mt_bk_request_done(&q);
    return r;
}

static void requests_are_checked(void **state)
{
    static const struct {
        enum mt_bk_verb verb;
        int want;
        const char *text;
    } cases[] = {
        {MT_BK_SCAN, 0, "{" STORE("") "}"},
        {MT_BK_SCAN, 0, "{" VOL "}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{" STORE(",\"endpoint\":\"x\"") "}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{" STORE(",\"prefix\":\"a/../b\"") "}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{" STORE(",\"prefix\":\"/a\"") "}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{" STORE(",\"style\":\"other\"") "}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{" STORE("") ",\"org_id\":\"org_00000000000000000000000001\"}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{\"store\":{\"endpoint\":\"http://s3.test\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"},\"cluster_id\":\"c\"}"},
        {MT_BK_SCAN, 0, "{\"store\":{\"endpoint\":\"http://127.0.0.1:9\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"},\"cluster_id\":\"c\"}"},
        {MT_BK_SCAN, 0, "{\"store\":{\"endpoint\":\"https://s3.test\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"},\"cluster_id\":\"cl_01m8kw7knc79xh3kchp9aap5zg\"}"},
        {MT_BK_SCAN, -MT_E_INVALID, "{\"store\":{\"endpoint\":\"https://s3.test\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"},\"cluster_id\":\"../x\"}"},
        {MT_BK_SCAN, 0, "{\"store\":{\"endpoint\":\"http://[::1]:9\",\"bucket\":\"buck\",\"access_key\":\"a\",\"secret_key\":\"s\"},\"cluster_id\":\"c\"}"},
        {MT_BK_GC, 0, "{" VOL "}"},
        {MT_BK_GC, -MT_E_INVALID, "{" VOL ",\"purge\":true,\"delete_manifests\":[\"" SNAPSHOT "\"]}"},
        {MT_BK_GC, -MT_E_INVALID, "{" VOL ",\"delete_manifests\":[\"../x\"]}"},
        {MT_BK_RESTORE, 0, "{" VOL ",\"snapshot_id\":\"" SNAPSHOT "\",\"image_fd\":3}"},
        {MT_BK_RESTORE, -MT_E_INVALID, "{" VOL ",\"snapshot_id\":\"" SNAPSHOT "\",\"image_fd\":2}"},
        {MT_BK_BACKUP, 0, "{" VOL ",\"snapshot_id\":\"" SNAPSHOT "\",\"image_fd\":3,\"size_bytes\":4194304,\"captured_at_ms\":1,\"key_epoch\":1}"},
        {MT_BK_BACKUP, -MT_E_INVALID, "{" VOL ",\"snapshot_id\":\"" SNAPSHOT "\",\"image_fd\":3,\"size_bytes\":4194305,\"captured_at_ms\":1,\"key_epoch\":1}"},
        {MT_BK_BACKUP, -MT_E_INVALID, "{" VOL ",\"snapshot_id\":\"" SNAPSHOT "\",\"image_fd\":3,\"size_bytes\":4194304,\"captured_at_ms\":1,\"key_epoch\":1,\"ranges_fd\":4}"},
        {MT_BK_PUT_KEY, -MT_E_INVALID, "{" VOL ",\"key_epoch\":1,\"wrapped\":\"AAAA\"}"},
        {MT_BK_GET_KEY, 0, "{" VOL ",\"key_epoch\":1}"},
        {MT_BK_GET_KEY, -MT_E_INVALID, "{" VOL "}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (parse(cases[i].text, cases[i].verb) != cases[i].want)
            fail_msg("case %zu: %s", i, cases[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_words_for_damage_are_those_of_the_page), cmocka_unit_test(keys_are_those_of_rfc_5869),
        cmocka_unit_test(a_chunk_opens_only_as_itself),
        cmocka_unit_test(a_writer_that_lies_about_content_is_found_out),
        cmocka_unit_test(a_manifest_reads_back_and_every_flipped_byte_is_refused),
        cmocka_unit_test(a_set_and_an_index_know_what_they_hold),
        cmocka_unit_test(ranges_that_were_cut_off_are_refused),
        cmocka_unit_test(lists_of_stores_are_read),
        cmocka_unit_test(signatures_are_those_of_the_reference),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
