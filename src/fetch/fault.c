/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/fault.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *code, *reason;
    bool retryable;
} table[MT_FETCH_KIND_MAX] = {
    [MT_FETCH_OK] = {"", "", false},
    [MT_FETCH_INVALID_ARGUMENT] = {"invalid_argument", "image_pull_failed", false},
    [MT_FETCH_NOT_FOUND] = {"image_not_found", "image_pull_failed", false},
    [MT_FETCH_PLATFORM] = {"image_platform_unsupported", "image_arch_mismatch", false},
    [MT_FETCH_TOO_LARGE] = {"image_too_large", "image_too_large", false},
    [MT_FETCH_BAD_IMAGE] = {"image_invalid", "image_pull_failed", false},
    [MT_FETCH_BAD_LAYER] = {"image_invalid", "image_layer_invalid", false},
    [MT_FETCH_UNRESOLVED] = {"image_invalid", "image_unresolved", false},
    [MT_FETCH_UNAUTHORIZED] = {"registry_unauthorized", "image_pull_failed", false},
    [MT_FETCH_UNAVAILABLE] = {"registry_unavailable", "image_pull_failed", true},
    [MT_FETCH_REFUSED] = {"registry_unavailable", "image_pull_failed", true},
    [MT_FETCH_TIMEOUT] = {"registry_unavailable", "image_pull_timeout", true},
    [MT_FETCH_DISK_FULL] = {"disk_full", "disk_full", true},
    [MT_FETCH_INTERNAL] = {"internal", "image_pull_failed", true},
    [MT_FETCH_STOPPED] = {"internal", "image_pull_failed", true},
};

int mt_fetch_fail(struct mt_fetch_fault *f, enum mt_fetch_kind kind, const char *detail, const char *fmt, ...)
{
    va_list ap;
    if (f->kind != MT_FETCH_OK)
        return -1;
    f->kind = kind;
    (void)snprintf(f->detail, sizeof f->detail, "%s", detail);
    va_start(ap, fmt);
    (void)vsnprintf(f->message, sizeof f->message, fmt, ap);
    va_end(ap);
    return -1;
}

const char *mt_fetch_code(enum mt_fetch_kind kind)
{
    return table[kind].code;
}

const char *mt_fetch_reason(enum mt_fetch_kind kind)
{
    return table[kind].reason;
}

bool mt_fetch_retryable(enum mt_fetch_kind kind)
{
    return table[kind].retryable;
}
