/* SPDX-License-Identifier: Apache-2.0 */
/* See schedule.h. */
#include "control/volumes/schedule.h"

#include "base/assert.h"
#include "os/digest.h"

#include <string.h>

int64_t mt_backup_offset_s(const char *volume_id, int64_t interval_s)
{
    uint8_t d[MT_SHA256_LEN];
    uint64_t n = 0;
    MT_ASSERT(interval_s > 0);
    mt_sha256_of(volume_id, strlen(volume_id), d);
    for (int i = 0; i < 8; i++)
        n = n << 8 | d[i];
    return (int64_t)(n % (uint64_t)interval_s);
}

static int64_t floor_div(int64_t n, int64_t by)
{
    return n / by - (n % by < 0);
}

/* The first beginning of a slot after @ms. */
static int64_t slot_after(int64_t ms, int64_t offset_s, int64_t interval_s)
{
    return ((floor_div(floor_div(ms, 1000) - offset_s, interval_s) + 1) * interval_s + offset_s) * 1000;
}

int64_t mt_backup_due_ms(const struct mt_backup_clock *c)
{
    int64_t since = c->asked_ms > c->made_ms ? c->asked_ms : c->made_ms, due = slot_after(since, mt_backup_offset_s(c->volume_id, c->interval_s), c->interval_s);
    if (c->asked_ms == 0 || !c->failed)
        return due;
    int64_t pause_s = c->interval_s / 24 < MT_BACKUP_RETRY_LEAST_S ? MT_BACKUP_RETRY_LEAST_S : c->interval_s / 24, again = c->ended_ms + pause_s * 1000;
    return again < due ? again : due;
}

int64_t mt_proof_due_ms(const struct mt_proof_clock *c)
{
    int64_t due = c->proven_ms ? c->proven_ms + INT64_C(1000) * MT_PROOF_INTERVAL_S : c->first_ms + mt_backup_offset_s(c->volume_id, MT_PROOF_FIRST_S) * 1000;
    int64_t again = c->tried_ms > c->proven_ms ? c->tried_ms + INT64_C(1000) * MT_PROOF_RETRY_S : 0;
    return again > due ? again : due;
}

bool mt_proof_fits(bool one_runs, int64_t spent_bytes, int64_t bytes)
{
    return !one_runs && (spent_bytes == 0 || (bytes <= MT_PROOF_DAY_BYTES && spent_bytes <= MT_PROOF_DAY_BYTES - bytes));
}

int mt_longest_owed_first(const void *a, const void *b)
{
    const struct mt_owed *x = a, *y = b;
    return x->due_ms != y->due_ms ? (x->due_ms < y->due_ms ? -1 : 1) : x->row - y->row;
}
