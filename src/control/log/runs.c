/* SPDX-License-Identifier: Apache-2.0 */
/* Runs: events of one organisation (or environment) that one statement writes share an entry in its index. The first of them has the entry
 * and says how many ids further the last one lies; the others say that they are found by an earlier one. Which events of that range are
 * meant, their own org_id tells: what others wrote in between is skipped by who reads (read.h). docs/formats/event-log.md */
#include "control/log/batch.h"

#include "base/str.h"

/* To skip an event costs a reader a tenth of what an entry costs the writer. */
#define GAP_MAX 16

void batch_runs_begin(struct runs *r)
{
    r->n = r->oldest = 0;
    r->shared = false;
}

void batch_runs_add(struct runs *r, int i, const char *id)
{
    r->run[i] = 0;
    if (!id)
        return;
    for (int k = 0; k < r->n; k++) {
        if (r->heads[k].id != id && !MT_STREQ(r->heads[k].id, id))
            continue;
        if (i - r->heads[k].last > GAP_MAX) {
            r->heads[k].first = i;
        } else {
            r->run[r->heads[k].first] = i - r->heads[k].first;
            r->run[i] = -1;
            r->shared = true;
        }
        r->heads[k].last = i;
        return;
    }
    int at = r->n < RUN_HEADS ? r->n++ : r->oldest++ % RUN_HEADS;
    r->heads[at].id = id;
    r->heads[at].first = r->heads[at].last = i;
}

void batch_runs_put(const struct runs *r, int n, struct mt_pg_arr *col)
{
    for (int i = 0; i < n; i++) {
        if (r->run[i])
            mt_pg_arr_i32(col, r->run[i]);
        else
            mt_pg_arr_null(col);
    }
}
