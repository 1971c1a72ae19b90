/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/fault.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *reason;
    bool retryable;
} table[MT_BK_KIND_MAX] = {
    [MT_BK_OK] = {"", false},
    [MT_BK_INVALID] = {"invalid_argument", false},
    [MT_BK_UNREACHABLE] = {"backup_store_unreachable", true},
    [MT_BK_REFUSED] = {"backup_store_unreachable", false},
    [MT_BK_CREDENTIALS] = {"credentials_invalid", false},
    [MT_BK_UPLOAD] = {"upload_failed", false},
    [MT_BK_VERIFY] = {"verify_failed", false},
    [MT_BK_READ] = {"disk_read_failed", false},
    [MT_BK_ENCRYPTION] = {"encryption_failed", false},
    [MT_BK_NO_SNAPSHOT] = {"snapshot_not_found", false},
    [MT_BK_MISSING] = {"backup_object_missing", false},
    [MT_BK_INTEGRITY] = {"integrity_check_failed", false},
    [MT_BK_DOWNLOAD] = {"download_failed", false},
    [MT_BK_WRITE] = {"write_failed", false},
    [MT_BK_EXPIRED] = {"artifact_expired", true},
    [MT_BK_INTERNAL] = {"internal_error", false},
};

int mt_bk_fail(struct mt_bk_fault *f, enum mt_bk_kind kind, const char *detail, const char *fmt, ...)
{
    va_list ap;
    if (f->kind != MT_BK_OK)
        return -1;
    f->kind = kind;
    (void)snprintf(f->detail, sizeof f->detail, "%s", detail);
    va_start(ap, fmt);
    (void)vsnprintf(f->message, sizeof f->message, fmt, ap);
    va_end(ap);
    return -1;
}

const char *mt_bk_reason(enum mt_bk_kind kind)
{
    return table[kind].reason;
}

bool mt_bk_retryable(enum mt_bk_kind kind)
{
    return table[kind].retryable;
}
