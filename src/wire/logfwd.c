/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/logfwd.h"

#include "base/str.h"

#define HEAD 5 /* length, type */
#define TAG_IDS 'I'
#define TAG_RECORD 'R'

size_t mt_logfwd_begin(struct mt_buf *b, enum mt_logfwd_type type)
{
    size_t at = b->len;
    mt_buf_put_be32(b, 0);
    mt_buf_putc(b, (char)type);
    return at;
}

void mt_logfwd_end(struct mt_buf *b, size_t at)
{
    if (b->failed)
        return;
    uint32_t n = (uint32_t)(b->len - at - HEAD);
    for (unsigned i = 0; i < 4; i++)
        b->p[at + i] = (uint8_t)(n >> (24 - 8 * i));
}

void mt_logfwd_put_ids(struct mt_buf *b, const char *const ids[MT_LOGFWD_IDS])
{
    mt_buf_putc(b, TAG_IDS);
    for (int i = 0; i < MT_LOGFWD_IDS; i++) {
        size_t n = strlen(ids[i]);
        if (n > 255)
            n = 255;
        mt_buf_putc(b, (char)(uint8_t)n);
        mt_buf_put(b, ids[i], n);
    }
}

void mt_logfwd_put_record(struct mt_buf *b, const struct mt_logfwd_record *r)
{
    mt_buf_putc(b, TAG_RECORD);
    mt_buf_put_be64(b, r->seq);
    mt_buf_put_be64(b, (uint64_t)r->ts_us);
    mt_buf_put_be32(b, r->boot);
    mt_buf_putc(b, (char)r->stream);
    mt_buf_putc(b, (char)r->flags);
    mt_buf_put_be32(b, (uint32_t)r->len);
    mt_buf_put(b, r->line, r->len);
}

int mt_logfwd_next(struct mt_rd *rd, struct mt_logfwd_record *ret, struct mt_err *err)
{
    while (rd->left > 0 && !rd->bad) {
        uint8_t tag = mt_rd_u8(rd);
        if (tag == TAG_IDS) {
            for (int i = 0; i < MT_LOGFWD_IDS; i++) {
                ret->ids[i].n = mt_rd_u8(rd);
                ret->ids[i].p = (const char *)mt_rd_bytes(rd, ret->ids[i].n);
            }
            continue;
        }
        if (tag != TAG_RECORD || !ret->ids[MT_LOGFWD_INSTANCE].p)
            break;
        ret->seq = mt_rd_be64(rd);
        ret->ts_us = (int64_t)mt_rd_be64(rd);
        ret->boot = mt_rd_be32(rd);
        ret->stream = mt_rd_u8(rd);
        ret->flags = mt_rd_u8(rd);
        ret->len = mt_rd_be32(rd);
        ret->line = mt_rd_bytes(rd, ret->len);
        if (rd->bad)
            break;
        return 1;
    }
    return rd->left == 0 && !rd->bad ? 0 : MT_FAIL(err, MT_E_CORRUPT, "batch of log records is malformed");
}

int64_t mt_logfwd_frame(const uint8_t *p, size_t n, uint8_t *ret_type, struct mt_rd *ret_body, struct mt_err *err)
{
    struct mt_rd r = mt_rd_of(p, n);
    if (n < HEAD)
        return 0;
    uint32_t len = mt_rd_be32(&r);
    if (len > MT_LOGFWD_FRAME_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "frame of %u bytes", len);
    if (n < HEAD + (size_t)len)
        return 0;
    *ret_type = mt_rd_u8(&r);
    *ret_body = mt_rd_of(p + HEAD, len);
    return HEAD + (int64_t)len;
}

static void put_why(struct mt_buf *b, const char *why)
{
    size_t n = strlen(why);
    mt_buf_put(b, why, n < MT_LOGFWD_TEXT_MAX ? n : MT_LOGFWD_TEXT_MAX);
}

void mt_logfwd_put_done(struct mt_buf *b, uint64_t id, uint32_t rejected, const char *why)
{
    size_t at = mt_logfwd_begin(b, MT_LOGFWD_DONE);
    mt_buf_put_be64(b, id);
    mt_buf_put_be32(b, rejected);
    put_why(b, why);
    mt_logfwd_end(b, at);
}

void mt_logfwd_put_state(struct mt_buf *b, bool up, const char *why)
{
    size_t at = mt_logfwd_begin(b, MT_LOGFWD_STATE);
    mt_buf_putc(b, up ? 1 : 0);
    put_why(b, why);
    mt_logfwd_end(b, at);
}

void mt_logfwd_why(struct mt_rd *body, char ret[MT_LOGFWD_TEXT_MAX + 1])
{
    size_t n = body->left;
    const uint8_t *p = mt_rd_bytes(body, n);
    (void)mt_printable(p ? (const char *)p : "", n, ret, MT_LOGFWD_TEXT_MAX + 1);
}
