/* SPDX-License-Identifier: Apache-2.0 */
/* See retention.h. */
#include "control/volumes/retention.h"

#include "base/assert.h"

size_t mt_retention(struct mt_kept_backup *b, size_t n, uint32_t keep_last)
{
    size_t good = 0, gone = 0;
    MT_ASSERT(keep_last >= 1);
    for (size_t i = 0; i < n; i++) {
        b[i].prune = b[i].scheduled && good >= keep_last && !b[i].read;
        good += b[i].scheduled && !b[i].damaged;
        gone += b[i].prune;
    }
    return gone;
}

int64_t mt_collect_due_ms(const struct mt_collect_clock *c)
{
    int64_t since = c->collected_ms ? c->collected_ms : c->first_ms, due = since + INT64_C(1000) * MT_COLLECT_INTERVAL_S;
    if (c->given_up_ms) {
        int64_t soon = c->collected_ms ? c->collected_ms + INT64_C(1000) * MT_COLLECT_PAUSE_S : 0;
        soon = soon > c->given_up_ms ? soon : c->given_up_ms;
        due = soon < due ? soon : due;
    }
    int64_t again = c->tried_ms > c->collected_ms ? c->tried_ms + INT64_C(1000) * MT_COLLECT_RETRY_S : 0;
    return again > due ? again : due;
}
