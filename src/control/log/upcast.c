/* SPDX-License-Identifier: Apache-2.0 */
/* The table of upcasters, one line per step; never removed. Every type is still at its first version. */
#include "control/log/upcast.h"

#include "base/assert.h"

const struct mt_upcaster mt_upcasters[] = {
    {MT_EV_MAX, 0, NULL},
};

static const struct mt_upcaster *find(const struct mt_upcaster *table, enum mt_ev ev, int from)
{
    for (const struct mt_upcaster *u = table; u->up; u++)
        if (u->ev == ev && u->from == from)
            return u;
    return NULL;
}

int mt_ev_upcast(const struct mt_upcaster *table, enum mt_ev ev, int version, json_t *payload, struct mt_err *err)
{
    const struct mt_ev_info *info = mt_ev_info(ev);
    if (version > info->version)
        return MT_FAIL(err, MT_E_CORRUPT, "%s has version %d, this program knows %d: use a newer program", info->type, version,
                       info->version);
    for (; version < info->version; version++) {
        const struct mt_upcaster *u = find(table ? table : mt_upcasters, ev, version);
        if (!u)
            return MT_FAIL(err, MT_E_CORRUPT, "%s: no way from version %d to %d", info->type, version, version + 1);
        int r = u->up(payload, err);
        if (r < 0)
            return mt_err_wrap(err, "%s from version %d", info->type, version);
    }
    return 0;
}
