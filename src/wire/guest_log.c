/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the guest log channel (runtime.md 10). */
#include "base/err.h"
#include "base/rd.h"
#include "wire/guest.h"

enum { REST_FIXED = 18 }; /* stream, flags, seq, unix_ns */

static int check(const struct mt_guest_log_record *r, struct mt_err *err)
{
    if (r->stream < MT_GUEST_STREAM_STDOUT || r->stream > MT_GUEST_STREAM_SYSTEM)
        return MT_FAIL(err, MT_E_INVALID, "log record: stream %u", r->stream);
    if (r->flags & ~(MT_GUEST_LOG_CONTINUES | MT_GUEST_LOG_GAP))
        return MT_FAIL(err, MT_E_INVALID, "log record: flags 0x%02x", r->flags);
    if ((r->flags & MT_GUEST_LOG_GAP) && r->payload_len != 8)
        return MT_FAIL(err, MT_E_INVALID, "log record: gap payload of %zu bytes, not 8", r->payload_len);
    return 0;
}

static void put_be(uint8_t *out, uint64_t v, size_t n)
{
    for (size_t i = n; i > 0; i--, v >>= 8)
        out[i - 1] = (uint8_t)v;
}

int mt_guest_log_encode(const struct mt_guest_log_record *record, uint8_t *out, size_t cap, size_t *ret_len,
                        struct mt_err *err)
{
    int res = check(record, err);
    if (res < 0)
        return res;
    if (record->payload_len > MT_GUEST_LOG_PAYLOAD_MAX || record->payload_len + MT_GUEST_LOG_HEAD > cap)
        return MT_FAIL(err, MT_E_LIMIT, "log record: payload of %zu bytes", record->payload_len);
    put_be(out, REST_FIXED + record->payload_len, 4);
    out[4] = record->stream;
    out[5] = record->flags;
    put_be(out + 6, record->seq, 8);
    put_be(out + 14, record->unix_ns, 8);
    if (record->payload_len > 0)
        memcpy(out + MT_GUEST_LOG_HEAD, record->payload, record->payload_len);
    *ret_len = MT_GUEST_LOG_HEAD + record->payload_len;
    return 0;
}

int mt_guest_log_decode(const uint8_t *data, size_t len, struct mt_guest_log_record *ret_record,
                        size_t *ret_used, struct mt_err *err)
{
    struct mt_rd r = mt_rd_of(data, len);
    if (len < 4)
        return 1;
    uint32_t rest = mt_rd_be32(&r);
    if (rest < REST_FIXED)
        return MT_FAIL(err, MT_E_INVALID, "log record: length %u is below %d", rest, REST_FIXED);
    if (rest > MT_GUEST_LOG_REST_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "log record: length %u is above %zu", rest, MT_GUEST_LOG_REST_MAX);
    if (r.left < rest)
        return 1;
    struct mt_guest_log_record record = {.stream = mt_rd_u8(&r), .flags = mt_rd_u8(&r)};
    record.seq = mt_rd_be64(&r);
    record.unix_ns = mt_rd_be64(&r);
    record.payload_len = rest - REST_FIXED;
    record.payload = mt_rd_bytes(&r, record.payload_len);
    int res = check(&record, err);
    if (res < 0)
        return res;
    *ret_record = record;
    *ret_used = 4 + (size_t)rest;
    return 0;
}

uint64_t mt_guest_log_gap_bytes(const struct mt_guest_log_record *record)
{
    if (!(record->flags & MT_GUEST_LOG_GAP) || record->payload_len != 8)
        return 0;
    struct mt_rd r = mt_rd_of(record->payload, 8);
    return mt_rd_be64(&r);
}
