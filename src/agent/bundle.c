/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles. See bundle.h. */
#include "agent/bundle.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "wire/json.h"

#include <dirent.h>
#include <sys/stat.h>

#define MANIFEST_MAX 65536
#define DAY_NS (24 * 3600 * MT_NS_PER_S)
#define BEFORE_MAX 8

static int check_file(const char *path, const char *want, struct mt_err *err)
{
    char have[MT_SHA256_HEX];
    int rc = mt_sha256_file(path, have, err);
    if (rc == 0 && strcmp(have, want) != 0)
        rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' is not what its manifest says; build the bundle again", path);
    return rc;
}

/* When it was made, ns; 0 no bundle is there. */
static int64_t made_ns(const char *boot_dir, const char *version)
{
    char path[PATH_MAX];
    struct stat st;
    if (mt_fmt(path, sizeof path, NULL, "%s/%s/manifest.json", boot_dir, version) < 0 || stat(path, &st) < 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * MT_NS_PER_S + st.st_mtim.tv_nsec;
}

/* The last one that was made before @until_ns. */
static int64_t last_before(const char *boot_dir, int64_t until_ns, char ret[64])
{
    int64_t best = 0;
    DIR *d = opendir(boot_dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char name[64];
        if (e->d_name[0] == '.' || e->d_type == DT_LNK || mt_fmt(name, sizeof name, NULL, "%s", e->d_name) < 0)
            continue; /* `current` names one that comes by its own name too */
        int64_t at = made_ns(boot_dir, name);
        if (at > best && at < until_ns) {
            best = at;
            memcpy(ret, name, sizeof name);
        }
    }
    if (d)
        (void)closedir(d);
    return best;
}

int mt_bundle_before(const char *boot_dir, const char *version, bool young, struct mt_bundle *ret, struct mt_err *err)
{
    char name[64];
    int64_t at = made_ns(boot_dir, version);
    if (young && mt_clock_wall_us() * 1000 - at > DAY_NS)
        return MT_FAIL(err, MT_E_NOT_FOUND, "bundle '%s' has been in use for a day", version);
    for (int i = 0; i < BEFORE_MAX && (at = last_before(boot_dir, at, name)) > 0; i++)
        if (mt_bundle_find(boot_dir, name, ret, err) == 0)
            return 0; /* one that is not whole is as good as none */
    return MT_FAIL(err, MT_E_NOT_FOUND, "no bundle from before '%s' in '%s'", version, boot_dir);
}

void mt_boot_count_note(struct mt_boot_count *c, const char *version, bool hello)
{
    if (!MT_STREQ(c->version, version)) {
        *c = (struct mt_boot_count){.n = 0};
        (void)snprintf(c->version, sizeof c->version, "%s", version);
    }
    c->failed = (c->failed << 1 | !hello) & ((UINT32_C(1) << MT_BOOTS_LOOKED_AT) - 1);
    c->n += c->n < MT_BOOTS_LOOKED_AT;
}

bool mt_boot_count_bad(const struct mt_boot_count *c)
{
    unsigned failed = (unsigned)__builtin_popcount(c->failed);
    return failed >= 3 && failed * 5 >= c->n;
}

int mt_bundle_find(const char *boot_dir, const char *version, struct mt_bundle *ret, struct mt_err *err)
{
    char dir[PATH_MAX], path[PATH_MAX];
    const char *name, *kind, *kernel_sum, *init_sum;
    uint64_t min_memory = 0;
    struct mt_bundle b = {0};
    struct stat st;
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *doc = NULL;
    size_t len;

    if (version && (strchr(version, '/') || version[0] == '.'))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no name of a bundle", version);
    if (mt_fmt(dir, sizeof dir, err, "%s/%s", boot_dir, version ? version : "current") < 0 ||
        mt_fmt(path, sizeof path, err, "%s/manifest.json", dir) < 0)
        return -MT_E_LIMIT;
    if (stat(path, &st) < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no kernel bundle in '%s'; packaging/bundle/make-bundle makes one", dir);
    if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is not root's alone", path);
    int rc = mt_file_read(path, MANIFEST_MAX, &text, &len, err);
    if (rc == 0)
        rc = mt_json_parse(text, len, MANIFEST_MAX, 8, &doc, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "version", sizeof b.version - 1, &name, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "kind", 16, &kind, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "vmlinux_sha256", 64, &kernel_sum, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "initramfs_sha256", 64, &init_sum, err);
    if (rc == 0)
        rc = mt_json_opt_u64(doc, "min_memory_mib", 0, 65536, 0, &min_memory, err);
    if (rc < 0)
        return mt_err_wrap(err, "'%s'", path);
    (void)snprintf(b.version, sizeof b.version, "%s", name);
    b.builtin = strcmp(kind, "builtin") == 0;
    b.min_memory_mib = (uint32_t)min_memory;
    /* the real folder, not the link: a bundle made later must not slip under a VM that is being built */
    char real[PATH_MAX];
    if (!realpath(dir, real))
        return MT_FAIL_ERRNO(err, MT_E_IO, "resolve '%s'", dir);
    if (mt_fmt(b.kernel_path, sizeof b.kernel_path, err, "%s/vmlinux", real) < 0 ||
        mt_fmt(b.initramfs_path, sizeof b.initramfs_path, err, "%s/initramfs.cpio", real) < 0)
        return -MT_E_LIMIT;
    rc = check_file(b.kernel_path, kernel_sum, err);
    if (rc == 0)
        rc = check_file(b.initramfs_path, init_sum, err);
    if (rc == 0)
        *ret = b;
    return rc;
}
