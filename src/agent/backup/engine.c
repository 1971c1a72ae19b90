/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/engine.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/backup_call.h"
#include "wire/http_client.h"


#define KEY_TARGET "/internal/v1/nodes/self/volume-key"
#define KEY_TIMEOUT_MS 5000
#define KEY_HEX 64
#define ANSWER_MAX 65536

int mt_engine_failed(struct mt_engine *r, const char *reason, bool retryable, int rc)
{
    (void)snprintf(r->failed_reason, sizeof r->failed_reason, "%s", reason);
    r->retryable = retryable;
    return rc;
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

static bool stopped(void *arg)
{
    const struct mt_engine *r = arg;
    return atomic_load(r->cancelled);
}

static void told(void *arg, const char *word)
{
    const struct mt_engine *r = arg;
    r->phase(r->arg, word);
}

static void done(void *arg, uint64_t bytes)
{
    const struct mt_engine *r = arg;
    r->done(r->arg, bytes);
}

int mt_engine_call(struct mt_engine *r, const char *verb, struct mt_buf *b, const int *fds, size_t fd_n, json_t **ret_line, struct mt_err *err)
{
    struct mt_backup_call c = {.program = r->program, .verb = verb, .fds = fds, .fd_n = fd_n, .cgroup_procs = r->cgroup_procs, .stop = stopped, .phase = r->phase ? told : NULL,
                                .done = r->done ? done : NULL, .arg = r};
    int rc = mt_backup_call(&c, b, ret_line, err);
    return rc == 0 || rc == -MT_E_CANCELLED ? rc : mt_engine_failed(r, c.failed_reason, c.retryable, rc);
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
