/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What thin_delta says of two thin volumes: an element for each run of blocks. See backend_ops.h.
 *
 *     <superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="100">
 *       <diff left="1" right="2"> <same begin="0" length="4"/> <different begin="4" length="1"/> <left_only .../> <right_only .../> </diff>
 *     </superblock>
 *
 * Blocks that neither maps are not named: both read as zeros. A block that only one maps differs.
 */
#include "agent/volume/backend_ops.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/str.h"

#include <stdlib.h>

#define SECTOR 512
#define BLOCK_MAX ((uint64_t)1 << 30) /* dm-thin's own limit */

static bool number(const char *element, const char *end, const char *name, uint64_t *ret)
{
    char key[32];
    (void)snprintf(key, sizeof key, " %s=\"", name);
    const char *at = strstr(element, key);
    char *stop;
    if (!at || at >= end)
        return false;
    at += strlen(key);
    if (*at < '0' || *at > '9')
        return false;
    errno = 0;
    *ret = strtoull(at, &stop, 10);
    return errno == 0 && *stop == '"' && stop < end;
}

struct told {
    uint64_t from, to; /* what differs and is not told yet */
    mt_delta_fn fn;
    void *arg;
};

static int tell(struct told *t, uint64_t from, uint64_t to)
{
    int rc = 0;
    if (t->to > t->from && t->to == from) {
        t->to = to;
        return 0;
    }
    if (t->to > t->from)
        rc = t->fn(t->arg, t->from, t->to - t->from);
    t->from = from;
    t->to = to;
    return rc;
}

int mt_thin_delta_read(const char *text, uint64_t base_bytes, uint64_t bytes, mt_delta_fn fn, void *arg, struct mt_err *err)
{
    static const char *const kinds[] = {"<same ", "<different ", "<left_only ", "<right_only "};
    struct told t = {.fn = fn, .arg = arg};
    uint64_t block = 0, after = 0, shared = mt_min_u64(base_bytes, bytes);
    const char *at = strstr(text, "<superblock "), *end = at ? strchr(at, '>') : NULL;
    if (!end || !number(at, end, "data_block_size", &block) || block == 0 || block * SECTOR > BLOCK_MAX || !strstr(end, "</diff>") || !strstr(end, "</superblock>"))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "thin_delta's answer is cut off or not understood");
    block *= SECTOR;
    for (at = strchr(end, '<'); at; at = strchr(end, '<')) {
        size_t kind = 0;
        uint64_t begin, length;
        int rc;
        if (!(end = strchr(at, '>')))
            break;
        while (kind < MT_ARRAY_LEN(kinds) && strncmp(at, kinds[kind], strlen(kinds[kind])) != 0)
            kind++;
        if (kind == MT_ARRAY_LEN(kinds)) {
            if (strncmp(at, "<diff ", 6) == 0 || strncmp(at, "</diff>", 7) == 0 || strncmp(at, "</superblock>", 13) == 0)
                continue;
            return MT_FAIL(err, MT_E_UNAVAILABLE, "thin_delta's answer has an element that is not known");
        }
        if (!number(at, end, "begin", &begin) || !number(at, end, "length", &length) || begin < after || length == 0 || begin > UINT64_MAX / block - length)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "thin_delta's answer is out of order");
        after = begin + length;
        if (kind == 0 || begin * block >= shared)
            continue;
        if ((rc = tell(&t, begin * block, mt_min_u64(after * block, shared))) != 0)
            return rc;
    }
    if (bytes > base_bytes) { /* the volume has grown: nothing to compare with */
        int rc = tell(&t, base_bytes, bytes);
        if (rc != 0)
            return rc;
    }
    return t.to > t.from ? fn(arg, t.from, t.to - t.from) : 0;
}
