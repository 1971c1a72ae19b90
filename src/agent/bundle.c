/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles. See bundle.h. */
#include "agent/bundle.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "wire/json.h"

#include <sys/stat.h>

#define MANIFEST_MAX 65536

static int check_file(const char *path, const char *want, struct mt_err *err)
{
    char have[MT_SHA256_HEX];
    int rc = mt_sha256_file(path, have, err);
    if (rc == 0 && strcmp(have, want) != 0)
        rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' is not what its manifest says; build the bundle again", path);
    return rc;
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
