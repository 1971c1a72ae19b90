/* SPDX-License-Identifier: Apache-2.0 */
/* Last number of the aggregates that this appender wrote lately: a table in which a newcomer takes the place of whoever has
 * its slot. Right as long as nobody else wrote, which the guard on the head checks. */
#include "control/log/batch.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 2048 /* what a process has written in the last minutes; the whole table is touched before long */
#define KEY_MAX 56

struct slot {
    const char *aggregate_type; /* static text of the catalogue; NULL: empty */
    int32_t seq;
    char id[KEY_MAX];
};

struct batch_seqs {
    struct slot slots[SLOTS];
};

struct batch_seqs *batch_seqs_new(void)
{
    return calloc(1, sizeof(struct batch_seqs));
}

void batch_seqs_free(struct batch_seqs *s)
{
    free(s);
}

void batch_seqs_clear(struct batch_seqs *s)
{
    for (size_t i = 0; i < SLOTS; i++)
        s->slots[i].aggregate_type = NULL;
}

static size_t slot_of(const struct cmd_event *e)
{
    return (e->keys.row ^ e->keys.row >> 32) & (SLOTS - 1);
}

int32_t batch_seqs_get(const struct batch_seqs *s, const struct cmd_event *e)
{
    const struct slot *t = &s->slots[slot_of(e)];
    return t->aggregate_type && strcmp(t->aggregate_type, mt_ev_info(e->ev)->aggregate_type) == 0 &&
                   strcmp(t->id, e->aggregate_id) == 0
               ? t->seq
               : 0;
}

void batch_seqs_put(struct batch_seqs *s, const struct cmd_event *e)
{
    struct slot *t = &s->slots[slot_of(e)];
    size_t n = strlen(e->aggregate_id);
    if (n >= KEY_MAX)
        return; /* such an id has no entry to go stale either */
    t->aggregate_type = mt_ev_info(e->ev)->aggregate_type;
    t->seq = e->seq;
    memcpy(t->id, e->aggregate_id, n + 1);
}
