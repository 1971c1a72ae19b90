/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer with a hard bound. The failed flag is sticky: write many times, check once at the end. */
#pragma once

#include "base/cleanup.h"
#include "base/err.h"

struct mt_buf {
    uint8_t *p;
    size_t len;  /* bytes in use */
    size_t cap;  /* bytes allocated; one more is kept for the NUL of mt_buf_cstr */
    size_t max;  /* bound on len */
    bool failed; /* bound hit or memory out; later writes do nothing */
};

#define MT_BUF_INIT(limit) {.max = (limit)}

/** Empty buffer that may grow to @max bytes. Release with mt_buf_done. */
void mt_buf_init(struct mt_buf *b, size_t max);
/** Free the memory; the buffer can be used again afterwards. Safe on a zeroed struct. */
void mt_buf_done(struct mt_buf *b);
/** Forget the content and the failed flag, keep the memory. */
void mt_buf_reset(struct mt_buf *b);
/** Room for @n more bytes; NULL and failed when the bound would be passed. Commit with b->len += used. */
void *mt_buf_reserve(struct mt_buf *b, size_t n);
void mt_buf_put(struct mt_buf *b, const void *data, size_t n);
void mt_buf_puts(struct mt_buf *b, const char *s);
void mt_buf_putc(struct mt_buf *b, char c);
void mt_buf_printf(struct mt_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** JSON string literal with quotes; invalid UTF-8 becomes U+FFFD. */
void mt_buf_put_json_str(struct mt_buf *b, const char *s, size_t n);
void mt_buf_put_be16(struct mt_buf *b, uint16_t v);
void mt_buf_put_be32(struct mt_buf *b, uint32_t v);
void mt_buf_put_be64(struct mt_buf *b, uint64_t v);
/** Drop the first @n bytes (n <= len). */
void mt_buf_consume(struct mt_buf *b, size_t n);
/** Content as a C string (a NUL is kept behind it); "" when empty. Valid until the next write. */
const char *mt_buf_cstr(struct mt_buf *b);
/** 0, or -MT_E_LIMIT when a write did not fit (or memory was out). */
int mt_buf_check(const struct mt_buf *b, struct mt_err *err);
/** Move the memory out as a malloc'ed, NUL terminated string; NULL when failed. */
char *mt_buf_take(struct mt_buf *b);

#define mt_auto_buf mt_cleanup(mt_buf_done)
