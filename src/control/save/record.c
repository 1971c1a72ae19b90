/* SPDX-License-Identifier: Apache-2.0 */
/* See record.h. */
#include "control/save/record.h"

int mt_record_write(struct mt_sealed *s, enum mt_record type, const void *data, size_t n, struct mt_err *err)
{
    const uint8_t head[5] = {(uint8_t)type, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    if (n > MT_RECORD_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "a record of %zu bytes", n);
    int rc = mt_sealed_write(s, head, sizeof head, err);
    return rc < 0 ? rc : mt_sealed_write(s, data, n, err);
}

int mt_record_read(struct mt_sealed *s, enum mt_record *ret, uint8_t *buf, uint32_t *ret_n, struct mt_err *err)
{
    uint8_t head[5];
    int rc = mt_sealed_read(s, head, sizeof head, err);
    if (rc < 0)
        return rc;
    uint32_t n = (uint32_t)head[1] << 24 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 8 | head[4];
    if ((head[0] != MT_RECORD_MEMBER && head[0] != MT_RECORD_DATA && head[0] != MT_RECORD_END) || n > MT_RECORD_MAX ||
        (head[0] == MT_RECORD_MEMBER && (n == 0 || n > MT_RECORD_NAME_MAX)) || (head[0] == MT_RECORD_END && n != 0))
        return MT_FAIL(err, MT_E_CORRUPT, "the backup has a malformed record");
    if ((rc = mt_sealed_read(s, buf, n, err)) < 0)
        return rc;
    buf[n] = '\0';
    *ret = (enum mt_record)head[0];
    *ret_n = n;
    return 0;
}
