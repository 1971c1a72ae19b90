/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/ranges.h"

#include "backup/idset.h"
#include "base/num.h"
#include "base/str.h"

#include <string.h>

void mt_bk_ranges_init(struct mt_bk_ranges *r, uint64_t size_bytes, uint8_t *bits)
{
    *r = (struct mt_bk_ranges){.size_bytes = size_bytes, .bits = bits};
}

static int take_line(struct mt_bk_ranges *r, struct mt_err *err)
{
    uint64_t offset, length;
    char shown[64];
    r->line[r->len] = 0;
    char *blank = memchr(r->line, ' ', r->len);
    if (r->ended)
        return MT_FAIL(err, MT_E_INVALID, "the ranges go on after their end");
    if (!blank || strlen(r->line) != r->len)
        return MT_FAIL(err, MT_E_INVALID, "a range must be 'OFFSET LENGTH', not '%s'", mt_printable(r->line, r->len, shown, sizeof shown));
    *blank = 0;
    if (MT_STREQ(r->line, "end")) {
        if (mt_parse_u64(blank + 1, 0, UINT64_MAX, &length, err) < 0 || length != r->ranges)
            return MT_FAIL(err, MT_E_INVALID, "the ranges say that they are another number than the %ju that came", (uintmax_t)r->ranges);
        r->ended = true;
        return 0;
    }
    if (mt_parse_u64(r->line, 0, r->size_bytes - 1, &offset, err) < 0 || mt_parse_u64(blank + 1, 1, r->size_bytes - offset, &length, err) < 0)
        return mt_err_wrap(err, "range %ju", (uintmax_t)r->ranges + 1);
    for (uint64_t i = offset / MT_BK_CHUNK; i <= (offset + length - 1) / MT_BK_CHUNK; i++)
        mt_bk_bit_set(r->bits, (size_t)i);
    r->ranges++;
    return 0;
}

int mt_bk_ranges_feed(struct mt_bk_ranges *r, const char *p, size_t n, struct mt_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n') {
            int rc = take_line(r, err);
            if (rc < 0)
                return rc;
            r->len = 0;
        } else if (r->len + 1 >= sizeof r->line) {
            return MT_FAIL(err, MT_E_INVALID, "range %ju is longer than a range can be", (uintmax_t)r->ranges + 1);
        } else {
            r->line[r->len++] = p[i];
        }
    }
    return 0;
}

int mt_bk_ranges_end(const struct mt_bk_ranges *r, struct mt_err *err)
{
    return r->ended && r->len == 0 ? 0 : MT_FAIL(err, MT_E_INVALID, "the ranges stop without their line 'end N': the list was cut off");
}
