/* SPDX-License-Identifier: Apache-2.0 */
/* What changed since the base, as text lines "OFFSET LENGTH" closed by "end N"; docs/formats/backup.md. Pure. */
#pragma once

#include "base/err.h"

struct mt_bk_ranges {
    uint64_t size_bytes; /* of the volume */
    uint8_t *bits;       /* borrowed: one bit for each chunk, set where a range touches it */
    uint64_t ranges;
    char line[64];
    size_t len;
    bool ended;
};

/** @bits: size / 4 MiB bits, zeroed, the caller's. */
void mt_bk_ranges_init(struct mt_bk_ranges *r, uint64_t size_bytes, uint8_t *bits);
/** Any piece of the text, in order. -MT_E_INVALID: malformed, outside the volume, text after the end. */
int mt_bk_ranges_feed(struct mt_bk_ranges *r, const char *p, size_t n, struct mt_err *err);
/** The text is over: -MT_E_INVALID unless its last line was "end N" with the right N. */
int mt_bk_ranges_end(const struct mt_bk_ranges *r, struct mt_err *err);
