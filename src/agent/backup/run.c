/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/run.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "model/volume.h"
#include "wire/json.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK ((uint64_t)4 << 20) /* of the backup format: docs/formats/backup.md */

#define KEY_RUN_S 300

/* Without the wrapped key beside them the backups of a lost database could not be read. */
static int put_key(struct mt_backup_run *r, const char *key, const char *wrapped, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_ENGINE_REQUEST_MAX);
    mt_auto_json json_t *line = NULL;
    (void)mt_buf_reserve(&b, MT_ENGINE_REQUEST_MAX / 2); /* it must not move: a copy would stay behind */
    mt_engine_head(&r->e, &b);
    mt_buf_printf(&b, ",\"key_epoch\":%" PRIu32 ",\"keys\":[{\"epoch\":%" PRIu32 ",\"key\":\"%s\"}],\"wrapped\":\"%s\",\"total_timeout_s\":%d}", r->e.key_epoch, r->e.key_epoch, key, wrapped,
                  KEY_RUN_S);
    return mt_engine_call(&r->e, "put-key", &b, NULL, 0, &line, err);
}

static int put_range(void *arg, uint64_t offset, uint64_t bytes)
{
    struct {
        FILE *f;
        uint64_t n;
    } *o = arg;
    o->n++;
    return fprintf(o->f, "%" PRIu64 " %" PRIu64 "\n", offset, bytes) < 0 ? -MT_E_IO : 0;
}

/* What may have changed since the base, as a file without a name; -1: it cannot be told. */
static int ranges_since(const struct mt_backup_run *r)
{
    struct {
        FILE *f;
        uint64_t n;
    } o = {0};
    struct mt_err why = {0};
    mt_auto_fd int fd = memfd_create("ranges", MFD_CLOEXEC);
    if (fd < 0 || !(o.f = fdopen(dup(fd), "w")))
        return -1;
    int rc = mt_backend_snap_delta(r->backend, r->base, r->e.job_id, put_range, &o, &why);
    if (rc == 0)
        (void)fprintf(o.f, "end %" PRIu64 "\n", o.n);
    bool good = fclose(o.f) == 0 && rc == 0 && lseek(fd, 0, SEEK_SET) == 0;
    if (!good)
        mt_log(MT_INFO, "backup.full_read", KV("snapshot_id", r->e.job_id), KV_ERR(&why));
    return good ? MT_TAKE_FD(fd) : -1;
}

static void take_text(const json_t *line, const char *key, char ret[65])
{
    const char *s = json_string_value(json_object_get(line, key));
    if (s && strlen(s) == 64)
        memcpy(ret, s, 65);
}

static int backup(struct mt_backup_run *r, const char *key, struct mt_err *err)
{
    char path[PATH_MAX];
    uint64_t bytes;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_ENGINE_REQUEST_MAX);
    mt_auto_json json_t *line = NULL;
    mt_auto_fd int image = -1, journal = -1, ranges = -1;
    if (mt_backend_snap_open(r->backend, r->e.job_id, &image, err) < 0 || mt_backend_fd_size(image, &bytes, err) < 0)
        return mt_engine_failed(&r->e, "disk_read_failed", false, -MT_E_IO);
    if (mt_backup_journal(r->dir, r->e.job_id, path, err) < 0 || (journal = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
        return mt_engine_failed(&r->e, "internal_error", true, MT_FAIL_ERRNO(err, MT_E_IO, "open the journal of '%s'", r->e.job_id));
    if (r->base)
        ranges = ranges_since(r);
    r->size_bytes = (bytes + MT_VOLUME_SIZE_STEP - 1) / MT_VOLUME_SIZE_STEP * MT_VOLUME_SIZE_STEP;
    (void)mt_buf_reserve(&b, MT_ENGINE_REQUEST_MAX / 2);
    mt_engine_head(&r->e, &b);
    mt_buf_printf(&b, ",\"key_epoch\":%" PRIu32 ",\"keys\":[{\"epoch\":%" PRIu32 ",\"key\":\"%s\"}],\"snapshot_id\":\"%s\",\"size_bytes\":%" PRIu64 ",\"image_fd\":%d,\"journal_fd\":%d,"
                      "\"captured_at_ms\":%" PRId64 ",\"consistency\":\"%s\"",
                  r->e.key_epoch, r->e.key_epoch, key, r->e.job_id, r->size_bytes, image, journal, r->captured_ms, r->filesystem ? "filesystem" : "crash");
    if (r->parent)
        mt_buf_printf(&b, ",\"base_snapshot_id\":\"%s\"", r->parent);
    if (ranges >= 0)
        mt_buf_printf(&b, ",\"ranges_fd\":%d", ranges);
    if (r->distrust_stored)
        mt_buf_printf(&b, ",\"distrust_stored\":true");
    mt_buf_putc(&b, '}');
    const int fds[] = {image, journal, ranges};
    int rc = mt_engine_call(&r->e, "backup", &b, fds, ranges >= 0 ? 3 : 2, &line, err);
    if (rc < 0)
        return rc;
    take_text(line, "image_root", r->image_root);
    take_text(line, "manifest_sha256", r->manifest_sha256);
    r->changed_bytes = (uint64_t)json_integer_value(json_object_get(line, "changed_bytes"));
    r->uploaded_bytes = (uint64_t)json_integer_value(json_object_get(line, "uploaded_bytes"));
    r->read_bytes = (uint64_t)json_integer_value(json_object_get(line, "read_bytes"));
    r->distrusted_stored = json_is_true(json_object_get(line, "distrust_stored"));
    uint64_t sent = (uint64_t)json_integer_value(json_object_get(line, "chunks_uploaded")) * CHUNK;
    r->known_bytes = r->changed_bytes - mt_min_u64(sent, r->changed_bytes);
    if (!r->image_root[0] || !r->manifest_sha256[0])
        return mt_engine_failed(&r->e, "internal_error", false, MT_FAIL(err, MT_E_CORRUPT, "moat-backup's result names no image"));
    mt_log(MT_INFO, "backup.done", KV("snapshot_id", r->e.job_id), KV("volume_id", r->e.volume_id), KV("delta", ranges >= 0), KV("distrusted_stored", r->distrusted_stored), KV("changed_bytes", r->changed_bytes),
           KV("uploaded_bytes", r->uploaded_bytes), KV("elapsed_ms", (int64_t)json_integer_value(json_object_get(line, "elapsed_ms"))));
    return 0;
}

int mt_backup_run(struct mt_backup_run *r, struct mt_err *err)
{
    mt_auto_lockmem struct mt_lockmem key = {0};
    r->e.failed_reason[0] = '\0';
    r->e.retryable = false;
    int rc = mt_engine_key(&r->e, &key, err);
    if (rc == 0)
        rc = put_key(r, (const char *)key.p, mt_engine_wrapped(&key), err);
    return rc < 0 ? rc : backup(r, (const char *)key.p, err);
}
