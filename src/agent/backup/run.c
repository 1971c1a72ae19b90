/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/run.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "model/volume.h"
#include "os/lockmem.h"
#include "os/spawn.h"
#include "wire/http_client.h"
#include "wire/json.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEY_TARGET "/internal/v1/nodes/self/volume-key"
#define KEY_TIMEOUT_MS 5000
#define KEY_HEX 64
#define ANSWER_MAX 65536
#define LINE_MAX_ 65536
#define REQUEST_MAX 16384
#define POLL_MS 200
#define KEY_RUN_S 300
#define IOPRIO_IDLE (3 << 13)

static int failed(struct mt_backup_run *r, const char *reason, bool retryable, int rc)
{
    (void)snprintf(r->failed_reason, sizeof r->failed_reason, "%s", reason);
    r->retryable = retryable;
    return rc;
}

static bool is_cancelled(const struct mt_backup_run *r)
{
    return atomic_load(r->cancelled);
}

/* ---- key --------------------------------------------------------------------------------- */

/* The value of a text member of a flat object that our own control plane wrote: no parser copies the key about. */
static const char *member(const char *text, const char *name, size_t *ret_n)
{
    char key[32];
    if (mt_fmt(key, sizeof key, NULL, "\"%s\":\"", name) < 0)
        return NULL;
    const char *at = strstr(text, key);
    if (!at)
        return NULL;
    at += strlen(key);
    const char *end = strchr(at, '"');
    *ret_n = end ? (size_t)(end - at) : 0;
    return end ? at : NULL;
}

/* @ret: the key as 64 hex digits and NUL, then its wrapped form as base64 and NUL. */
static int fetch_key(struct mt_backup_run *r, struct mt_lockmem *ret, struct mt_err *err)
{
    char body[160];
    mt_auto_http_reply struct mt_http_reply reply = {0};
    int rc = mt_fmt(body, sizeof body, err, "{\"volume_id\":\"%s\",\"job_id\":\"%s\"}", r->volume_id, r->snapshot_id);
    if (rc < 0)
        return failed(r, "internal_error", false, rc);
    const struct mt_http_request rq = {.method = "POST", .target = KEY_TARGET, .body = body, .body_len = strlen(body), .timeout_ms = KEY_TIMEOUT_MS, .secret = true};
    rc = mt_http_do(r->control, &rq, ANSWER_MAX, &reply, err);
    if (rc < 0)
        return failed(r, "master_key_unavailable", true, rc);
    const char *text = mt_buf_cstr(&reply.body);
    if (reply.status != 200) {
        rc = MT_FAIL(err, MT_E_UNAVAILABLE, "the control plane gives no key: http %d", reply.status);
        (void)failed(r, reply.status == 500 ? "encryption_failed" : "master_key_unavailable", reply.status != 500, rc);
    } else {
        size_t key_n = 0, wrapped_n = 0;
        const char *key = member(text, "key", &key_n), *wrapped = member(text, "wrapped", &wrapped_n);
        const char *epoch = strstr(text, "\"key_epoch\":");
        if (!key || !wrapped || !epoch || key_n != KEY_HEX || wrapped_n == 0 || wrapped_n > 128 || strtoull(epoch + 12, NULL, 10) != r->key_epoch)
            rc = failed(r, "encryption_failed", false, MT_FAIL(err, MT_E_CORRUPT, "the control plane's answer is not the key of epoch %u", r->key_epoch));
        else if ((rc = mt_lockmem_new(ret, key_n + wrapped_n + 2, err)) < 0)
            (void)failed(r, "internal_error", true, rc);
        else {
            memcpy(ret->p, key, key_n);
            memcpy(ret->p + key_n + 1, wrapped, wrapped_n);
            ret->len = key_n + wrapped_n + 2;
        }
    }
    if (reply.body.p)
        explicit_bzero(reply.body.p, reply.body.cap);
    return rc;
}

/* ---- the program ------------------------------------------------------------------------- */

/* Lines of @out until its end; the last whole line with "ok" is the result. */
static int follow(struct mt_backup_run *r, int out, json_t **ret, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(LINE_MAX_);
    bool verifying = false;
    for (;;) {
        struct pollfd p = {.fd = out, .events = POLLIN};
        if (is_cancelled(r))
            return MT_FAIL(err, MT_E_CANCELLED, "broken off");
        if (poll(&p, 1, POLL_MS) <= 0)
            continue;
        char part[4096];
        ssize_t n = read(out, part, sizeof part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        mt_buf_put(&b, part, (size_t)n);
        if (mt_buf_check(&b, err) < 0)
            return -MT_E_LIMIT;
        for (uint8_t *end; b.len && (end = memchr(b.p, '\n', b.len));) {
            size_t len = (size_t)(end - b.p);
            json_t *line = NULL;
            if (mt_json_parse((const char *)b.p, len, LINE_MAX_, 8, &line, NULL) == 0) {
                const char *phase = json_string_value(json_object_get(json_object_get(line, "progress"), "phase"));
                bool now = phase && MT_STREQ(phase, "verifying");
                if (phase && now != verifying && r->phase)
                    r->phase(r->arg, verifying = now);
                if (json_object_get(line, "ok")) {
                    json_decref(*ret);
                    *ret = json_incref(line);
                }
                json_decref(line);
            }
            mt_buf_consume(&b, len + 1);
        }
    }
}

/* Run @verb with the request @b (wiped). @ret_line: its result line, new reference. */
static int call(struct mt_backup_run *r, const char *verb, struct mt_buf *b, const int *fds, size_t fd_n, json_t **ret_line, struct mt_err *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    pid_t pid;
    mt_auto_fd int pidfd = -1;
    const char *const argv[] = {"moat-backup", verb, NULL};
    int rc = mt_buf_check(b, err);
    if (rc == 0 && (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0))
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    const struct mt_spawn s = {.path = r->program, .argv = argv, .stdin_fd = in[0], .stdout_fd = out[1], .stderr_fd = -1, .keep_fds = fds, .keep_count = fd_n,
                               .new_session = true, .parent_death_signal = SIGKILL};
    if (rc == 0)
        rc = mt_spawn(&s, &pid, &pidfd, err);
    mt_closep(&in[0]);
    mt_closep(&out[1]);
    if (rc == 0) {
        (void)syscall(SYS_ioprio_set, 1, pid, IOPRIO_IDLE); /* what runs in the VMs comes first */
        if (write(in[1], b->p, b->len) != (ssize_t)b->len) /* far below what a pipe takes */
            rc = MT_FAIL_ERRNO(err, MT_E_IO, "give moat-backup its request");
    }
    mt_closep(&in[1]);
    if (b->p)
        explicit_bzero(b->p, b->cap);
    if (rc == 0)
        rc = follow(r, out[0], ret_line, err);
    mt_closep(&out[0]);
    if (pidfd >= 0) {
        struct mt_run_result end;
        if (rc < 0)
            (void)mt_pidfd_kill(pidfd, SIGTERM, NULL);
        if (mt_pidfd_wait(pidfd, 5000, &end, NULL) < 0) {
            (void)mt_pidfd_kill(pidfd, SIGKILL, NULL);
            (void)mt_pidfd_wait(pidfd, 5000, &end, NULL);
        }
    }
    return rc;
}

/* What the program says of itself; no line at all: it died. */
static int judge(struct mt_backup_run *r, const json_t *line, struct mt_err *err)
{
    const json_t *e = json_object_get(line, "error");
    const char *reason = json_string_value(json_object_get(e, "failed_reason")), *text = json_string_value(json_object_get(e, "message"));
    char said[160] = "", word[64] = "internal_error";
    if (json_is_true(json_object_get(line, "ok")))
        return 0;
    if (!line)
        return failed(r, "internal_error", true, MT_FAIL(err, MT_E_IO, "moat-backup ended without a result"));
    if (text)
        (void)mt_printable(text, strlen(text), said, sizeof said);
    if (reason && strlen(reason) < sizeof word && strspn(reason, "abcdefghijklmnopqrstuvwxyz_:") == strlen(reason) && !MT_STREQ(reason, "invalid_argument"))
        (void)snprintf(word, sizeof word, "%s", reason);
    return failed(r, word, json_is_true(json_object_get(e, "retryable")), MT_FAIL(err, MT_E_UNAVAILABLE, "%s: %s", word, said));
}

static void put_head(const struct mt_backup_run *r, struct mt_buf *b)
{
    mt_buf_puts(b, "{\"store\":");
    mt_backup_conf_put(r->store, b);
    mt_buf_printf(b, ",\"cluster_id\":\"%s\",\"org_id\":\"%s\",\"volume_id\":\"%s\",\"uid\":%u,\"gid\":%u,\"key_epoch\":%" PRIu32, r->cluster_id, r->org_id, r->volume_id,
                  (unsigned)r->uid, (unsigned)r->gid, r->key_epoch);
}

/* Without the wrapped key beside them the backups of a lost database could not be read. */
static int put_key(struct mt_backup_run *r, const char *wrapped, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX);
    mt_auto_json json_t *line = NULL;
    (void)mt_buf_reserve(&b, REQUEST_MAX / 2); /* it must not move: a copy would stay behind */
    put_head(r, &b);
    mt_buf_printf(&b, ",\"wrapped\":\"%s\",\"total_timeout_s\":%d}", wrapped, KEY_RUN_S);
    int rc = call(r, "put-key", &b, NULL, 0, &line, err);
    if (rc == -MT_E_CANCELLED)
        return rc;
    return rc < 0 ? failed(r, "internal_error", true, rc) : judge(r, line, err);
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
static int ranges_since(const struct mt_backup_run *r, int image)
{
    struct {
        FILE *f;
        uint64_t n;
    } o = {0};
    struct mt_err why = {0};
    mt_auto_fd int base = -1;
    mt_auto_fd int fd = memfd_create("ranges", MFD_CLOEXEC);
    if (fd < 0 || mt_backend_snap_open(r->backend, r->base, &base, &why) < 0 || !(o.f = fdopen(dup(fd), "w")))
        return -1;
    int rc = mt_backend_snap_delta(r->backend, base, image, put_range, &o, &why);
    if (rc == 0)
        (void)fprintf(o.f, "end %" PRIu64 "\n", o.n);
    bool good = fclose(o.f) == 0 && rc == 0 && lseek(fd, 0, SEEK_SET) == 0;
    if (!good)
        mt_log(MT_INFO, "backup.full_read", KV("snapshot_id", r->snapshot_id), KV_ERR(&why));
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
    struct stat st;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX);
    mt_auto_json json_t *line = NULL;
    mt_auto_fd int image = -1, journal = -1, ranges = -1;
    if (mt_backend_snap_open(r->backend, r->snapshot_id, &image, err) < 0 || fstat(image, &st) < 0)
        return failed(r, "disk_read_failed", false, -MT_E_IO);
    if (mt_backup_journal(r->dir, r->snapshot_id, path, err) < 0 || (journal = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
        return failed(r, "internal_error", true, MT_FAIL_ERRNO(err, MT_E_IO, "open the journal of '%s'", r->snapshot_id));
    if (r->base)
        ranges = ranges_since(r, image);
    r->size_bytes = ((uint64_t)st.st_size + MT_VOLUME_SIZE_STEP - 1) / MT_VOLUME_SIZE_STEP * MT_VOLUME_SIZE_STEP;
    (void)mt_buf_reserve(&b, REQUEST_MAX / 2);
    put_head(r, &b);
    mt_buf_printf(&b, ",\"keys\":[{\"epoch\":%" PRIu32 ",\"key\":\"%s\"}],\"snapshot_id\":\"%s\",\"size_bytes\":%" PRIu64 ",\"image_fd\":%d,\"journal_fd\":%d,"
                      "\"captured_at_ms\":%" PRId64 ",\"consistency\":\"%s\"",
                  r->key_epoch, key, r->snapshot_id, r->size_bytes, image, journal, r->captured_ms, r->filesystem ? "filesystem" : "crash");
    if (r->parent)
        mt_buf_printf(&b, ",\"base_snapshot_id\":\"%s\"", r->parent);
    if (ranges >= 0)
        mt_buf_printf(&b, ",\"ranges_fd\":%d", ranges);
    mt_buf_putc(&b, '}');
    const int fds[] = {image, journal, ranges};
    int rc = call(r, "backup", &b, fds, ranges >= 0 ? 3 : 2, &line, err);
    if (rc == -MT_E_CANCELLED)
        return rc;
    if (rc < 0)
        return failed(r, "internal_error", true, rc);
    if ((rc = judge(r, line, err)) < 0)
        return rc;
    take_text(line, "image_root", r->image_root);
    take_text(line, "manifest_sha256", r->manifest_sha256);
    r->changed_bytes = (uint64_t)json_integer_value(json_object_get(line, "changed_bytes"));
    r->uploaded_bytes = (uint64_t)json_integer_value(json_object_get(line, "uploaded_bytes"));
    if (!r->image_root[0] || !r->manifest_sha256[0])
        return failed(r, "internal_error", false, MT_FAIL(err, MT_E_CORRUPT, "moat-backup's result names no image"));
    mt_log(MT_INFO, "backup.done", KV("snapshot_id", r->snapshot_id), KV("volume_id", r->volume_id), KV("delta", ranges >= 0), KV("changed_bytes", r->changed_bytes),
           KV("uploaded_bytes", r->uploaded_bytes), KV("elapsed_ms", (int64_t)json_integer_value(json_object_get(line, "elapsed_ms"))));
    return 0;
}

int mt_backup_run(struct mt_backup_run *r, struct mt_err *err)
{
    mt_auto_lockmem struct mt_lockmem key = {0};
    r->failed_reason[0] = '\0';
    r->retryable = false;
    int rc = fetch_key(r, &key, err);
    if (rc == 0)
        rc = put_key(r, (const char *)key.p + KEY_HEX + 1, err);
    return rc < 0 ? rc : backup(r, (const char *)key.p, err);
}
