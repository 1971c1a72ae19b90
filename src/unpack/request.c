/* SPDX-License-Identifier: Apache-2.0 */
/* The request and the image's documents. Runs unprivileged, before any layer byte is read. */
#include "unpack/job.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "wire/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int take_text(const json_t *obj, const char *key, const char *fallback, char **ret, struct mt_err *err)
{
    const char *s = NULL;
    int r = fallback ? mt_json_opt_str(obj, key, 3000, fallback, &s, err) : mt_json_get_str(obj, key, 3000, &s, err);
    if (r < 0)
        return r;
    *ret = mt_strndup(s, strlen(s));
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory for the request");
}

int mt_unpack_request_parse(const char *text, size_t len, struct mt_unpack_request *ret, struct mt_err *err)
{
    static const char *const known[] = {"images_dir", "work_dir", "digest", "arch", "format_version", "e2fsck", "uid", "gid",
                                        "max_unpacked_bytes", "max_entries", "cpu_seconds", NULL};
    mt_auto_json json_t *root = NULL;
    mt_cleanup(mt_unpack_request_done) struct mt_unpack_request q = {0};
    uint64_t uid, gid;
    int r = mt_json_parse(text, len, (size_t)256 << 10, 8, &root, err);
    if (r < 0 || (r = mt_json_only(root, known, err)) < 0 ||
        (r = take_text(root, "images_dir", NULL, &q.images_dir, err)) < 0 ||
        (r = take_text(root, "work_dir", NULL, &q.work_dir, err)) < 0 ||
        (r = take_text(root, "digest", NULL, &q.digest, err)) < 0 || (r = take_text(root, "arch", NULL, &q.arch, err)) < 0 ||
        (r = take_text(root, "format_version", "r1", &q.format_version, err)) < 0 ||
        (r = take_text(root, "e2fsck", "/sbin/e2fsck", &q.e2fsck, err)) < 0 ||
        (r = mt_json_opt_u64(root, "uid", 0, UINT32_MAX - 1, 0, &uid, err)) < 0 ||
        (r = mt_json_opt_u64(root, "gid", 0, UINT32_MAX - 1, 0, &gid, err)) < 0 ||
        (r = mt_json_opt_u64(root, "max_unpacked_bytes", 1, (uint64_t)1 << 44, (uint64_t)50 << 30, &q.limits.unpacked_bytes,
                             err)) < 0 ||
        (r = mt_json_opt_u64(root, "max_entries", 1, 2000000, 2000000, &q.limits.entries, err)) < 0 ||
        (r = mt_json_opt_u64(root, "cpu_seconds", 1, 14400, 1800, &q.cpu_seconds, err)) < 0)
        return r;
    q.limits.file_bytes = q.limits.unpacked_bytes < (uint64_t)50 << 30 ? q.limits.unpacked_bytes : (uint64_t)50 << 30;
    q.uid = (uid_t)uid;
    q.gid = (gid_t)gid;
    if (q.images_dir[0] != '/' || q.e2fsck[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "images_dir and e2fsck must be absolute paths");
    if (q.work_dir[0] == 0 || q.work_dir[0] == '.' || strchr(q.work_dir, '/'))
        return MT_FAIL(err, MT_E_INVALID, "work_dir must be the name of a folder in images_dir/tmp");
    if (!mt_digest_valid(q.digest))
        return MT_FAIL(err, MT_E_INVALID, "digest must be 'sha256:' and 64 lower-case hex digits");
    *ret = q;
    q = (struct mt_unpack_request){0};
    return 0;
}

void mt_unpack_request_done(struct mt_unpack_request *r)
{
    free(r->images_dir);
    free(r->work_dir);
    free(r->digest);
    free(r->arch);
    free(r->format_version);
    free(r->e2fsck);
    *r = (struct mt_unpack_request){0};
}

static int open_blob(const char *digest, uint64_t *ret_size, struct mt_fault *f)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof path, "blobs/sha256/%s", digest + strlen("sha256:"));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return mt_fault_sys(f, "missing_blob", errno, "opening a blob of the image");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return mt_fault_sys(f, "missing_blob", EIO, "a blob of the image is not a file");
    }
    *ret_size = (uint64_t)st.st_size;
    return fd;
}

/* A whole small blob; its hash must be its name, whoever put it there. */
static int read_document(const char *digest, size_t max, char **ret, size_t *ret_len, struct mt_fault *f)
{
    uint64_t size;
    char hex[MT_SHA256_HEX];
    mt_auto_fd int fd = open_blob(digest, &size, f);
    if (fd < 0)
        return -1;
    if (size > max)
        return mt_fault_limit(f, "document_bytes", max);
    mt_auto_free char *data = malloc((size_t)size + 1);
    if (!data)
        return mt_fault_sys(f, "memory", ENOMEM, "reading a document of the image");
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, data + got, (size_t)size - got);
        if (n <= 0)
            return mt_fault_sys(f, "read_blob", n < 0 ? errno : EIO, "reading a document of the image");
        got += (size_t)n;
    }
    data[got] = 0;
    mt_sha256_hex(data, got, hex);
    if (strcmp(hex, digest + strlen("sha256:")) != 0)
        return mt_fault_sys(f, "blob_corrupt", 0, "a document of the image on disk does not have its digest");
    *ret = MT_TAKE(data);
    *ret_len = got;
    return 0;
}

static int oci_fault(struct mt_fault *f, enum mt_oci_fault what, const struct mt_err *err)
{
    static const struct {
        const char *reason, *detail;
    } table[MT_OCI_FAULT_MAX] = {
        [MT_OCI_OK] = {"rootfs_build_failed", "memory"},
        [MT_OCI_BAD_DOCUMENT] = {"image_layer_invalid", "config"},
        [MT_OCI_BAD_MEDIA_TYPE] = {"image_layer_invalid", "media_type"},
        [MT_OCI_TOO_LARGE] = {"image_too_large", "manifest"},
        [MT_OCI_BAD_PLATFORM] = {"image_arch_mismatch", "config"},
    };
    f->reason = table[what].reason;
    (void)snprintf(f->detail, sizeof f->detail, "%s", table[what].detail);
    (void)snprintf(f->message, sizeof f->message, "%s", err->msg);
    return -1;
}

int mt_unpack_image_load(const struct mt_unpack_request *r, struct mt_unpack_image *image, struct mt_fault *f)
{
    mt_auto_free char *manifest = NULL, *config = NULL;
    size_t manifest_len = 0, config_len = 0;
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    *image = (struct mt_unpack_image){0};
    for (size_t i = 0; i < MT_ARRAY_LEN(image->layer_fd); i++)
        image->layer_fd[i] = -1;
    if (read_document(r->digest, MT_OCI_MANIFEST_MAX, &manifest, &manifest_len, f) < 0)
        return -1;
    if (mt_oci_manifest_parse(manifest, manifest_len, UINT64_MAX, &image->manifest, &what, &err) < 0)
        return oci_fault(f, what, &err);
    if (read_document(image->manifest.config.digest, MT_OCI_CONFIG_MAX, &config, &config_len, f) < 0)
        return -1;
    if (mt_oci_config_parse(config, config_len, image->manifest.layer_count, &image->config, &what, &err) < 0 ||
        mt_oci_config_match(&image->config, r->arch, &what, &err) < 0)
        return oci_fault(f, what, &err);
    for (size_t i = 0; i < image->manifest.layer_count; i++) {
        uint64_t size;
        image->layer_fd[i] = open_blob(image->manifest.layers[i].digest, &size, f);
        if (image->layer_fd[i] < 0)
            return -1;
        if (size != image->manifest.layers[i].size)
            return mt_fault_sys(f, "blob_corrupt", 0, "a layer blob on disk does not have its declared size");
    }
    return 0;
}

void mt_unpack_image_done(struct mt_unpack_image *image)
{
    for (size_t i = 0; i < image->manifest.layer_count; i++)
        mt_closep(&image->layer_fd[i]);
    mt_oci_config_done(&image->config);
}
