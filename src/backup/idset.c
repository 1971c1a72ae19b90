/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/idset.h"

#include "base/cleanup.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

static uint64_t word(const uint8_t id[MT_BK_ID], size_t at)
{
    uint64_t v;
    memcpy(&v, id + at, sizeof v);
    return v;
}

bool mt_bk_id_zero(const uint8_t id[MT_BK_ID])
{
    return (word(id, 0) | word(id, 8) | word(id, 16) | word(id, 24)) == 0;
}

static size_t slots_for(size_t n)
{
    size_t k = 64;
    while (k < n + n / 4)
        k *= 2;
    return k;
}

int mt_bk_idset_init(struct mt_bk_idset *s, size_t n, struct mt_err *err)
{
    size_t k = slots_for(n);
    *s = (struct mt_bk_idset){.slots = calloc(k, sizeof *s->slots), .mask = k - 1, .most = k / 10 * 9};
    mt_random(&s->seed, sizeof s->seed); /* a store that lists ids of its own choosing cannot aim at one slot */
    return s->slots ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory for %zu chunk ids", n);
}

void mt_bk_idset_done(struct mt_bk_idset *s)
{
    free(s->slots);
    *s = (struct mt_bk_idset){0};
}

/* Slot of the id, or the free one where it belongs. */
static size_t place(const struct mt_bk_idset *s, uint64_t print)
{
    size_t i = (size_t)((print ^ s->seed) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & s->mask;
    while (s->slots[i] && s->slots[i] != print)
        i = (i + 1) & s->mask;
    return i;
}

static uint64_t print_of(const uint8_t id[MT_BK_ID])
{
    uint64_t v = word(id, 8);
    return v ? v : 1;
}

bool mt_bk_idset_has(const struct mt_bk_idset *s, const uint8_t id[MT_BK_ID])
{
    return s->slots[place(s, print_of(id))] != 0;
}

bool mt_bk_idset_full(const struct mt_bk_idset *s)
{
    return s->count >= s->most;
}

bool mt_bk_idset_add(struct mt_bk_idset *s, const uint8_t id[MT_BK_ID])
{
    uint64_t print = print_of(id);
    size_t i = place(s, print);
    if (s->slots[i])
        return false;
    if (!mt_bk_idset_full(s)) {
        s->slots[i] = print;
        s->count++;
    }
    return true;
}

int mt_bk_index_init(struct mt_bk_index *x, const uint8_t *ids, uint32_t count, struct mt_err *err)
{
    size_t k = slots_for(count);
    *x = (struct mt_bk_index){.ids = ids, .slots = calloc(k, sizeof *x->slots), .mask = k - 1};
    if (!x->slots)
        return MT_FAIL(err, MT_E_NOMEM, "no memory to index %u chunks", count);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *id = ids + (size_t)i * MT_BK_ID;
        if (mt_bk_id_zero(id))
            continue;
        size_t at = (size_t)word(id, 0) & x->mask;
        while (x->slots[at] && memcmp(ids + (size_t)(x->slots[at] - 1) * MT_BK_ID, id, MT_BK_ID) != 0)
            at = (at + 1) & x->mask;
        if (!x->slots[at]) {
            x->slots[at] = i + 1;
            x->unique++;
        }
    }
    return 0;
}

void mt_bk_index_done(struct mt_bk_index *x)
{
    free(x->slots);
    *x = (struct mt_bk_index){0};
}

bool mt_bk_index_find(const struct mt_bk_index *x, const uint8_t id[MT_BK_ID], uint32_t *ret)
{
    size_t at = (size_t)word(id, 0) & x->mask;
    for (; x->slots[at]; at = (at + 1) & x->mask) {
        if (memcmp(x->ids + (size_t)(x->slots[at] - 1) * MT_BK_ID, id, MT_BK_ID) == 0) {
            *ret = x->slots[at] - 1;
            return true;
        }
    }
    return false;
}
