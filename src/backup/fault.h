/* SPDX-License-Identifier: Apache-2.0 */
/* Why a run failed; the closed table of docs/formats/backup.md "Failure". The first fault of a run wins. */
#pragma once

#include "base/err.h"

enum mt_bk_kind {
    MT_BK_OK = 0,
    MT_BK_INVALID,        /* invalid_argument */
    MT_BK_UNREACHABLE,    /* backup_store_unreachable, may pass */
    MT_BK_REFUSED,        /* backup_store_unreachable, will not pass by itself */
    MT_BK_CREDENTIALS,    /* credentials_invalid */
    MT_BK_UPLOAD,         /* upload_failed */
    MT_BK_VERIFY,         /* verify_failed */
    MT_BK_READ,           /* disk_read_failed */
    MT_BK_ENCRYPTION,     /* encryption_failed */
    MT_BK_NO_SNAPSHOT,    /* snapshot_not_found */
    MT_BK_MISSING,        /* backup_object_missing */
    MT_BK_INTEGRITY,      /* integrity_check_failed */
    MT_BK_DOWNLOAD,       /* download_failed */
    MT_BK_WRITE,          /* write_failed */
    MT_BK_EXPIRED,        /* artifact_expired */
    MT_BK_INTERNAL,       /* internal_error */
    MT_BK_KIND_MAX
};

struct mt_bk_fault {
    enum mt_bk_kind kind;
    char detail[32];
    char message[320];
};

/** Fill the fault unless it is filled; returns -1. Untrusted text must have passed mt_printable. No host path, no credential. */
int mt_bk_fail(struct mt_bk_fault *f, enum mt_bk_kind kind, const char *detail, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/** "backup_store_unreachable" and whether the caller should try again. */
const char *mt_bk_reason(enum mt_bk_kind kind);
bool mt_bk_retryable(enum mt_bk_kind kind);
