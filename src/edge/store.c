/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/store.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/snapshot.h"
#include "os/digest.h"
#include "os/file.h"

#include <limits.h>

#define HEADER_MAX 256U
#define MAGIC "moat-edge-config 1 "

static int path_of(const char *dir, const char *suffix, char *ret, struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/config.json%s", dir, suffix);
}

int mt_edge_store_save(const char *dir, const char *text, size_t len, uint64_t epoch, uint64_t revision, struct mt_err *err)
{
    char path[PATH_MAX], fresh[PATH_MAX], prev[PATH_MAX], sum[MT_SHA256_HEX];
    if (path_of(dir, "", path, err) < 0 || path_of(dir, ".new", fresh, err) < 0 || path_of(dir, ".prev", prev, err) < 0)
        return -(int)err->code;
    mt_sha256_hex(text, len, sum);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(len + HEADER_MAX);
    mt_buf_printf(&b, MAGIC "length=%zu sha256=%s epoch=%llu revision=%llu\n", len, sum, (unsigned long long)epoch,
                  (unsigned long long)revision);
    mt_buf_put(&b, text, len);
    if (mt_buf_check(&b, err) < 0 || mt_file_write(fresh, b.p, b.len, 0600, err) < 0)
        return mt_err_wrap(err, "keeping the configuration");
    /* between the two renames there is no current file: the start then takes .prev */
    if (rename(path, prev) == -1 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "rename '%s' to .prev", path);
    if (rename(fresh, path) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "rename '%s'", fresh);
    return mt_file_sync_dir(dir, err);
}

/* " key=value" at *p; the value ends at a blank or the end of the line. */
static bool field(const char **p, const char *key, char *ret, size_t size)
{
    size_t k = strlen(key);
    if (strncmp(*p, key, k) != 0)
        return false;
    size_t n = strcspn(*p + k, " \n");
    if (n == 0 || n >= size)
        return false;
    memcpy(ret, *p + k, n);
    ret[n] = '\0';
    *p += k + n;
    if (**p == ' ')
        (*p)++;
    return true;
}

int mt_edge_store_load(const char *dir, bool prev, char **ret_text, size_t *ret_len, struct mt_err *err)
{
    char path[PATH_MAX], sum[MT_SHA256_HEX], length[24], digest[MT_SHA256_HEX], epoch[24], revision[24];
    mt_auto_free char *file = NULL;
    size_t size;
    uint64_t want;
    if (path_of(dir, prev ? ".prev" : "", path, err) < 0 ||
        mt_file_read(path, MT_EDGE_SNAPSHOT_MAX + HEADER_MAX, &file, &size, err) < 0)
        return -(int)err->code;
    const char *p = file;
    const char *eol = memchr(file, '\n', size < HEADER_MAX ? size : HEADER_MAX);
    if (!eol || strncmp(p, MAGIC, strlen(MAGIC)) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' has no header of a configuration", path);
    p += strlen(MAGIC);
    if (!field(&p, "length=", length, sizeof length) || !field(&p, "sha256=", digest, sizeof digest) ||
        !field(&p, "epoch=", epoch, sizeof epoch) || !field(&p, "revision=", revision, sizeof revision) || p != eol ||
        mt_parse_u64(length, 0, MT_EDGE_SNAPSHOT_MAX, &want, err) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the header of '%s' is damaged", path);
    const char *text = eol + 1;
    size_t len = size - (size_t)(text - file);
    if (len != want)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' holds %zu bytes, its header says %llu", path, len, (unsigned long long)want);
    mt_sha256_hex(text, len, sum);
    if (!MT_STREQ(sum, digest))
        return MT_FAIL(err, MT_E_CORRUPT, "the bytes of '%s' do not fit its sha256", path);
    char *out = malloc(len + 1);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for '%s'", path);
    memcpy(out, text, len + 1); /* mt_file_read ends the block with a NUL */
    *ret_text = out;
    *ret_len = len;
    return 0;
}
