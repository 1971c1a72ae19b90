/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may differ between two snapshots of one volume, by where the filesystem keeps their bytes. See backend_ops.h.
 *
 * A range is the same only when both have it at the same physical address with the same flags, and neither is of a kind whose address
 * means nothing. Both maps are walked together, piece by piece, with bounded memory. Source: storage-and-secrets.md 3.3.
 */
#include "agent/volume/backend_ops.h"

#include "base/assert.h"
#include "base/num.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum { EXTENTS = 128 };

#define MEANINGLESS                                                                                                              \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_ENCRYPTED | FIEMAP_EXTENT_DATA_INLINE | \
     FIEMAP_EXTENT_NOT_ALIGNED)
/* Says how the map was cut or who else has the bytes, not what they are. */
#define IRRELEVANT (FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_SHARED)

/* One file's map, read on as it is used up. */
struct side {
    int fd;
    uint64_t size;
    uint64_t next; /* where the next request begins */
    union {
        struct fiemap map;
        uint8_t room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
    } u;
    unsigned at;
    bool ended;
};

/* What is at one offset, and for how long it goes on. */
struct piece {
    uint64_t end, physical;
    uint32_t flags;
    bool hole;
};

static int refill(struct side *s, struct mt_err *err)
{
    memset(&s->u, 0, sizeof s->u);
    s->at = 0;
    if (s->next >= s->size) {
        s->ended = true;
        return 0;
    }
    s->u.map.fm_start = s->next;
    s->u.map.fm_length = s->size - s->next;
    s->u.map.fm_flags = FIEMAP_FLAG_SYNC;
    s->u.map.fm_extent_count = EXTENTS;
    if (ioctl(s->fd, FS_IOC_FIEMAP, &s->u.map) < 0)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "map of a snapshot's extents");
    unsigned n = s->u.map.fm_mapped_extents;
    if (n == 0) {
        s->ended = true;
        return 0;
    }
    const struct fiemap_extent *last = &s->u.map.fm_extents[n - 1];
    uint64_t to = last->fe_logical + last->fe_length;
    if (to <= s->next) /* no way forward */
        return MT_FAIL(err, MT_E_UNAVAILABLE, "map of a snapshot's extents does not advance");
    s->next = last->fe_flags & FIEMAP_EXTENT_LAST ? s->size : to;
    return 0;
}

static int look(struct side *s, uint64_t offset, struct piece *ret, struct mt_err *err)
{
    for (;;) {
        while (s->at < s->u.map.fm_mapped_extents) {
            const struct fiemap_extent *e = &s->u.map.fm_extents[s->at];
            if (e->fe_logical + e->fe_length <= offset) {
                s->at++;
                continue;
            }
            if (e->fe_logical > offset)
                *ret = (struct piece){.end = mt_min_u64(e->fe_logical, s->size), .hole = true};
            else
                *ret = (struct piece){.end = mt_min_u64(e->fe_logical + e->fe_length, s->size),
                                      .physical = e->fe_physical + (offset - e->fe_logical),
                                      .flags = e->fe_flags & ~(uint32_t)IRRELEVANT};
            return 0;
        }
        if (s->ended) {
            *ret = (struct piece){.end = s->size, .hole = true};
            return 0;
        }
        int rc = refill(s, err);
        if (rc < 0)
            return rc;
    }
}

static bool same(const struct piece *a, const struct piece *b)
{
    if (a->hole || b->hole)
        return a->hole && b->hole;
    return a->physical == b->physical && a->flags == b->flags && !(a->flags & MEANINGLESS);
}

int mt_extents_delta(int base_fd, int snap_fd, mt_delta_fn fn, void *arg, struct mt_err *err)
{
    struct stat bs, ss;
    uint64_t from = 0, to = 0; /* what differs and is not told yet */
    if (fstat(base_fd, &bs) < 0 || fstat(snap_fd, &ss) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "size of a snapshot");
    struct side base = {.fd = base_fd, .size = (uint64_t)bs.st_size}, snap = {.fd = snap_fd, .size = (uint64_t)ss.st_size};
    for (uint64_t at = 0; at < snap.size;) {
        struct piece p, q = {.end = UINT64_MAX};
        int rc = look(&snap, at, &p, err);
        bool beyond = at >= base.size; /* the volume has grown: nothing to compare with */
        if (rc == 0 && !beyond)
            rc = look(&base, at, &q, err);
        if (rc < 0)
            return rc;
        uint64_t end = mt_min_u64(p.end, beyond ? p.end : q.end);
        MT_ASSERT(end > at);
        if (beyond || !same(&p, &q)) {
            if (to == at && to > from) {
                to = end;
            } else {
                if (to > from && (rc = fn(arg, from, to - from)) != 0)
                    return rc;
                from = at;
                to = end;
            }
        }
        at = end;
    }
    return to > from ? fn(arg, from, to - from) : 0;
}
