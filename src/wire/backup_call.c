/* SPDX-License-Identifier: Apache-2.0 */
/* See backup_call.h. */
#include "wire/backup_call.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/spawn.h"
#include "wire/json.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_MAX_ 65536
#define POLL_MS 200
#define IOPRIO_IDLE (3 << 13)
#define REQUEST_MAX (256 << 10)

static int failed(struct mt_backup_call *c, const char *reason, bool retryable, int rc)
{
    (void)snprintf(c->failed_reason, sizeof c->failed_reason, "%s", reason);
    c->retryable = retryable;
    return rc;
}

/* Lines of @out until its end; the last whole line with "ok" is the result. */
static int follow(struct mt_backup_call *c, int out, json_t **ret, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(LINE_MAX_);
    char now[16] = "";
    for (;;) {
        struct pollfd p = {.fd = out, .events = POLLIN};
        if (c->stop && c->stop(c->arg))
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
                const json_t *progress = json_object_get(line, "progress");
                const char *phase = json_string_value(json_object_get(progress, "phase"));
                json_int_t done = json_integer_value(json_object_get(progress, "bytes_done"));
                if (progress && c->done && done >= 0)
                    c->done(c->arg, (uint64_t)done);
                if (phase && strlen(phase) < sizeof now && !MT_STREQ(phase, now)) {
                    (void)snprintf(now, sizeof now, "%s", phase);
                    if (c->phase)
                        c->phase(c->arg, now);
                }
                const char *step = json_string_value(json_object_get(line, "step"));
                if (step && c->step)
                    c->step(c->arg, step);
                if (c->item && !phase && !step && !json_object_get(line, "ok"))
                    c->item(c->arg, line);
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

static int call(struct mt_backup_call *c, struct mt_buf *b, json_t **ret_line, struct mt_err *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    pid_t pid;
    mt_auto_fd int pidfd = -1;
    const char *const argv[] = {"moat-backup", c->verb, NULL};
    int rc = mt_buf_check(b, err);
    if (rc == 0 && (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0))
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    struct mt_spawn s = {.path = c->program, .argv = argv, .stdin_fd = in[0], .stdout_fd = out[1], .stderr_fd = -1, .keep_fds = c->fds, .keep_count = c->fd_n,
                         .new_session = true, .parent_death_signal = SIGKILL, .cgroup_procs = {c->cgroup_procs}};
    if (rc == 0 && (rc = mt_spawn(&s, &pid, &pidfd, err)) < 0 && rc != -MT_E_NOT_FOUND && c->cgroup_procs) {
        s.cgroup_procs[0] = NULL; /* a group that cannot be joined is no reason not to have a backup */
        rc = mt_spawn(&s, &pid, &pidfd, err);
    }
    mt_closep(&in[0]);
    mt_closep(&out[1]);
    if (rc == 0) {
        (void)syscall(SYS_ioprio_set, 1, pid, IOPRIO_IDLE); /* what runs in the VMs comes first */
        (void)fcntl(in[1], F_SETPIPE_SZ, REQUEST_MAX); /* it is given all of it at once: nobody waits for it to read */
        if (write(in[1], b->p, b->len) != (ssize_t)b->len)
            rc = MT_FAIL_ERRNO(err, MT_E_IO, "give moat-backup its request");
    }
    mt_closep(&in[1]);
    if (b->p)
        explicit_bzero(b->p, b->cap);
    if (rc == 0)
        rc = follow(c, out[0], ret_line, err);
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
static int judge(struct mt_backup_call *c, const json_t *line, struct mt_err *err)
{
    const json_t *e = json_object_get(line, "error");
    const char *reason = json_string_value(json_object_get(e, "failed_reason")), *text = json_string_value(json_object_get(e, "message"));
    char said[160] = "", word[64] = "internal_error";
    if (json_is_true(json_object_get(line, "ok")))
        return 0;
    if (!line)
        return failed(c, "internal_error", true, MT_FAIL(err, MT_E_IO, "moat-backup ended without a result"));
    if (text)
        (void)mt_printable(text, strlen(text), said, sizeof said);
    if (reason && strlen(reason) < sizeof word && strspn(reason, "abcdefghijklmnopqrstuvwxyz_:") == strlen(reason) && !MT_STREQ(reason, "invalid_argument"))
        (void)snprintf(word, sizeof word, "%s", reason);
    return failed(c, word, json_is_true(json_object_get(e, "retryable")), MT_FAIL(err, MT_E_UNAVAILABLE, "%s: %s", word, said));
}

int mt_backup_call(struct mt_backup_call *c, struct mt_buf *b, json_t **ret_line, struct mt_err *err)
{
    int rc = call(c, b, ret_line, err);
    if (rc == -MT_E_CANCELLED)
        return rc;
    return rc < 0 ? failed(c, "internal_error", true, rc) : judge(c, *ret_line, err);
}
