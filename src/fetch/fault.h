/* SPDX-License-Identifier: Apache-2.0 */
/* Why a fetch failed; the closed table of docs/formats/fetch.md. */
#pragma once

#include <stdbool.h>

enum mt_fetch_kind {
    MT_FETCH_OK = 0,
    MT_FETCH_INVALID_ARGUMENT,
    MT_FETCH_NOT_FOUND,
    MT_FETCH_PLATFORM,
    MT_FETCH_TOO_LARGE,
    MT_FETCH_BAD_IMAGE,      /* image_pull_failed: digest_mismatch, manifest, config */
    MT_FETCH_BAD_LAYER,      /* image_layer_invalid: media_type */
    MT_FETCH_UNRESOLVED,     /* image_unresolved: an index where a manifest was promised */
    MT_FETCH_UNAUTHORIZED,
    MT_FETCH_UNAVAILABLE,    /* registry or network; tries again */
    MT_FETCH_REFUSED,        /* registry or network; trying again would not help */
    MT_FETCH_TIMEOUT,
    MT_FETCH_DISK_FULL,
    MT_FETCH_INTERNAL,
    MT_FETCH_STOPPED,        /* another part of the pull failed first; never reported */
    MT_FETCH_KIND_MAX
};

struct mt_fetch_fault {
    enum mt_fetch_kind kind;
    char detail[64];
    char message[320];
};

/** Fill the fault unless it is filled; returns -1. Untrusted text must have passed mt_printable. */
int mt_fetch_fail(struct mt_fetch_fault *f, enum mt_fetch_kind kind, const char *detail, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/** API code ("image_not_found"), reason code ("image_pull_failed") and whether the caller should try again. */
const char *mt_fetch_code(enum mt_fetch_kind kind);
const char *mt_fetch_reason(enum mt_fetch_kind kind);
bool mt_fetch_retryable(enum mt_fetch_kind kind);
