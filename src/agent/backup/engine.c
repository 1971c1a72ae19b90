/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/engine.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/spawn.h"
#include "wire/http_client.h"
#include "wire/json.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEY_TARGET "/internal/v1/nodes/self/volume-key"
#define KEY_TIMEOUT_MS 5000
#define KEY_HEX 64
#define ANSWER_MAX 65536
#define LINE_MAX_ 65536
#define POLL_MS 200
#define IOPRIO_IDLE (3 << 13)

int mt_engine_failed(struct mt_engine *r, const char *reason, bool retryable, int rc)
{
    (void)snprintf(r->failed_reason, sizeof r->failed_reason, "%s", reason);
    r->retryable = retryable;
    return rc;
}

static bool is_cancelled(const struct mt_engine *r)
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

int mt_engine_key(struct mt_engine *r, struct mt_lockmem *ret, struct mt_err *err)
{
    char body[160];
    mt_auto_http_reply struct mt_http_reply reply = {0};
    int rc = mt_fmt(body, sizeof body, err, "{\"volume_id\":\"%s\",\"job_id\":\"%s\"}", r->volume_id, r->job_id);
    if (rc < 0)
        return mt_engine_failed(r, "internal_error", false, rc);
    const struct mt_http_request rq = {.method = "POST", .target = KEY_TARGET, .body = body, .body_len = strlen(body), .timeout_ms = KEY_TIMEOUT_MS, .secret = true};
    rc = mt_http_do(r->control, &rq, ANSWER_MAX, &reply, err);
    if (rc < 0)
        return mt_engine_failed(r, "master_key_unavailable", true, rc);
    const char *text = mt_buf_cstr(&reply.body);
    if (reply.status != 200) {
        rc = MT_FAIL(err, MT_E_UNAVAILABLE, "the control plane gives no key: http %d", reply.status);
        (void)mt_engine_failed(r, reply.status == 500 ? "encryption_failed" : "master_key_unavailable", reply.status != 500, rc);
    } else {
        size_t key_n = 0, wrapped_n = 0;
        const char *key = member(text, "key", &key_n), *wrapped = member(text, "wrapped", &wrapped_n);
        const char *epoch = strstr(text, "\"key_epoch\":");
        if (!key || !wrapped || !epoch || key_n != KEY_HEX || wrapped_n == 0 || wrapped_n > 128 || strtoull(epoch + 12, NULL, 10) != r->key_epoch)
            rc = mt_engine_failed(r, "encryption_failed", false, MT_FAIL(err, MT_E_CORRUPT, "the control plane's answer is not the key of epoch %u", r->key_epoch));
        else if ((rc = mt_lockmem_new(ret, key_n + wrapped_n + 2, err)) < 0)
            (void)mt_engine_failed(r, "internal_error", true, rc);
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
static int follow(struct mt_engine *r, int out, json_t **ret, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(LINE_MAX_);
    char now[16] = "";
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
                if (phase && strlen(phase) < sizeof now && !MT_STREQ(phase, now)) {
                    (void)snprintf(now, sizeof now, "%s", phase);
                    if (r->phase)
                        r->phase(r->arg, now);
                }
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
static int call(struct mt_engine *r, const char *verb, struct mt_buf *b, const int *fds, size_t fd_n, json_t **ret_line, struct mt_err *err)
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
static int judge(struct mt_engine *r, const json_t *line, struct mt_err *err)
{
    const json_t *e = json_object_get(line, "error");
    const char *reason = json_string_value(json_object_get(e, "failed_reason")), *text = json_string_value(json_object_get(e, "message"));
    char said[160] = "", word[64] = "internal_error";
    if (json_is_true(json_object_get(line, "ok")))
        return 0;
    if (!line)
        return mt_engine_failed(r, "internal_error", true, MT_FAIL(err, MT_E_IO, "moat-backup ended without a result"));
    if (text)
        (void)mt_printable(text, strlen(text), said, sizeof said);
    if (reason && strlen(reason) < sizeof word && strspn(reason, "abcdefghijklmnopqrstuvwxyz_:") == strlen(reason) && !MT_STREQ(reason, "invalid_argument"))
        (void)snprintf(word, sizeof word, "%s", reason);
    return mt_engine_failed(r, word, json_is_true(json_object_get(e, "retryable")), MT_FAIL(err, MT_E_UNAVAILABLE, "%s: %s", word, said));
}

int mt_engine_call(struct mt_engine *r, const char *verb, struct mt_buf *b, const int *fds, size_t fd_n, json_t **ret_line, struct mt_err *err)
{
    int rc = call(r, verb, b, fds, fd_n, ret_line, err);
    if (rc == -MT_E_CANCELLED)
        return rc;
    return rc < 0 ? mt_engine_failed(r, "internal_error", true, rc) : judge(r, *ret_line, err);
}

const char *mt_engine_wrapped(const struct mt_lockmem *key)
{
    return (const char *)key->p + KEY_HEX + 1;
}

void mt_engine_head(const struct mt_engine *r, struct mt_buf *b)
{
    mt_buf_puts(b, "{\"store\":");
    mt_backup_conf_put(r->store, b);
    mt_buf_printf(b, ",\"cluster_id\":\"%s\",\"org_id\":\"%s\",\"volume_id\":\"%s\",\"uid\":%u,\"gid\":%u", r->cluster_id, r->org_id, r->volume_id,
                  (unsigned)r->uid, (unsigned)r->gid);
}
