/* SPDX-License-Identifier: Apache-2.0 */
/* The sealed file of the control plane's backup: what was written comes back, in pieces of any size, and every way to tamper with a frame is noticed
 * by itself, without what the records inside would notice too. */
#include "control/save/sealed.h"

#include "base/assert.h"
#include "base/str.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD ((size_t)22 + 144 + 1)
#define FRAME (4 + MT_SEALED_FRAME + MT_AEAD_TAG)

static char path[] = "/tmp/mt-sealed.XXXXXX";
static struct mt_keys *keys;
static struct mt_err err;
static uint8_t plain[4 * MT_SEALED_FRAME];

static int setup(void **state)
{
    (void)state;
    struct mt_masterkey k = {.active = true};
    char line[MT_MASTERKEY_LINE];
    mt_random(k.key, sizeof k.key);
    mt_masterkey_id(k.key, k.id);
    mt_masterkey_line(&k, line);
    mt_random(plain, sizeof plain);
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line) || fchmod(fd, 0400) < 0 || close(fd) < 0)
        return -1;
    return mt_keys_new(path, &keys, &err);
}

/* A file of @n bytes of plain, written in parts of @part. */
static uint8_t *make(size_t n, size_t part, size_t *ret)
{
    struct mt_sealed s;
    int fd = memfd_create("sealed", MFD_CLOEXEC);
    assert_int_equal(mt_sealed_create(&s, fd, keys, &err), 0);
    for (size_t at = 0; at < n; at += part)
        assert_int_equal(mt_sealed_write(&s, plain + at, n - at < part ? n - at : part, &err), 0);
    assert_int_equal(mt_sealed_finish(&s, &err), 0);
    *ret = s.bytes;
    mt_sealed_done(&s);
    uint8_t *p = malloc(*ret + FRAME);
    assert_non_null(p);
    assert_int_equal(pread(fd, p, *ret + FRAME, 0), (ssize_t)*ret);
    (void)close(fd);
    return p;
}

/* 0 when @want bytes of plain and nothing else come out of it. */
static int read_back(const uint8_t *file, size_t n, size_t want, size_t part)
{
    struct mt_sealed s;
    static uint8_t got[sizeof plain];
    int fd = memfd_create("sealed", MFD_CLOEXEC);
    assert_int_equal(write(fd, file, n), (ssize_t)n);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    int rc = mt_sealed_open(&s, fd, keys, &err);
    for (size_t at = 0; rc == 0 && at < want; at += part)
        rc = mt_sealed_read(&s, got + at, want - at < part ? want - at : part, &err);
    if (rc == 0)
        rc = mt_sealed_at_end(&s, &err);
    if (rc == 0)
        assert_memory_equal(got, plain, want);
    mt_sealed_done(&s);
    (void)close(fd);
    return rc;
}

static void what_was_written_comes_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, MT_SEALED_FRAME - 1, MT_SEALED_FRAME, MT_SEALED_FRAME + 1, 3 * MT_SEALED_FRAME, sizeof plain};
    static const size_t parts[] = {1 << 20, 4096, 65537};
    for (size_t i = 0; i < MT_ARRAY_LEN(sizes); i++)
        for (size_t k = 0; k < MT_ARRAY_LEN(parts); k++) {
            size_t n;
            uint8_t *f = make(sizes[i], parts[k], &n);
            assert_int_equal(read_back(f, n, sizes[i], parts[MT_ARRAY_LEN(parts) - 1 - k]), 0);
            assert_int_equal(read_back(f, n, sizes[i] + 1, 777), -MT_E_CORRUPT);
            if (sizes[i])
                assert_int_equal(read_back(f, n, sizes[i] - 1, 777), -MT_E_CORRUPT);
            free(f);
        }
}

static void swap(uint8_t *a, uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t t = a[i];
        a[i] = b[i];
        b[i] = t;
    }
}

static void frames_keep_their_place_and_their_file(void **state)
{
    (void)state;
    const size_t whole = 3 * MT_SEALED_FRAME;
    size_t n, m;
    uint8_t *f = make(whole, whole, &n), *g = make(whole, whole, &m), *keep = malloc(n + FRAME);
    assert_non_null(keep);
    assert_int_equal(n, m);
    assert_int_equal(n, HEAD + 3 * FRAME + 4 + MT_AEAD_TAG);
    memcpy(keep, f, n);
    /* the bytes that come out would be other ones: what is asked is that none do */
    swap(f + HEAD, f + HEAD + FRAME, FRAME);
    assert_int_equal(read_back(f, n, whole, 4096), -MT_E_CORRUPT);
    memcpy(f, keep, n);
    memcpy(f + HEAD + FRAME, g + HEAD + FRAME, FRAME);
    assert_int_equal(read_back(f, n, whole, 4096), -MT_E_CORRUPT);
    memcpy(f, keep, n);
    memcpy(f, g, HEAD);
    assert_int_equal(read_back(f, n, whole, 4096), -MT_E_CORRUPT);
    /* cut between two frames, the one before made the last */
    memcpy(f, keep, n);
    f[HEAD + FRAME] |= 0x80;
    assert_int_equal(read_back(f, HEAD + 2 * FRAME, 2 * MT_SEALED_FRAME, 4096), -MT_E_CORRUPT);
    /* and without that */
    memcpy(f, keep, n);
    assert_int_equal(read_back(f, HEAD + 2 * FRAME, 2 * MT_SEALED_FRAME, 4096), -MT_E_CORRUPT);
    /* the last one made one of many, with another behind it */
    f[HEAD + 3 * FRAME] = 0;
    memcpy(f + n, keep + HEAD + 3 * FRAME, 4 + MT_AEAD_TAG);
    assert_int_equal(read_back(f, n + 4 + MT_AEAD_TAG, whole, 4096), -MT_E_CORRUPT);
    free(f);
    free(g);
    free(keep);
}

static void any_flipped_bit_and_any_cut_is_noticed(void **state)
{
    (void)state;
    size_t n;
    uint8_t *f = make(1000, 1000, &n);
    for (size_t i = 0; i < n; i++) {
        f[i] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(read_back(f, n, 1000, 100), 0);
        f[i] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(read_back(f, i, 1000, 100), 0);
    }
    f[n] = 0;
    assert_int_equal(read_back(f, n + 1, 1000, 100), -MT_E_CORRUPT);
    assert_int_equal(read_back(f, n, 1000, 100), 0);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_comes_back),
        cmocka_unit_test(frames_keep_their_place_and_their_file),
        cmocka_unit_test(any_flipped_bit_and_any_cut_is_noticed),
    };
    int rc = cmocka_run_group_tests(tests, setup, NULL);
    mt_keys_free(keys);
    (void)unlink(path);
    return rc;
}
