/* SPDX-License-Identifier: Apache-2.0 */
/* Slot numbers. See slots.h. */
#include "agent/slots.h"

#include <stdlib.h>

static bool is_used(const struct mt_slots *s, uint32_t slot)
{
    return s->used[slot / 64] >> (slot % 64) & 1;
}

static void set_used(struct mt_slots *s, uint32_t slot, bool on)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);
    if (on)
        s->used[slot / 64] |= bit;
    else
        s->used[slot / 64] &= ~bit;
}

void mt_slots_done(struct mt_slots *s)
{
    free(s->rest);
    *s = (struct mt_slots){0};
}

bool mt_slots_claim(struct mt_slots *s, uint32_t slot)
{
    if (slot >= MT_SLOTS || is_used(s, slot))
        return false;
    set_used(s, slot, true);
    return true;
}

static void wake_rested(struct mt_slots *s, int64_t now_ns)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->rest_n; i++) {
        if (s->rest[i].until_ns <= now_ns)
            set_used(s, s->rest[i].slot, false);
        else
            s->rest[kept++] = s->rest[i];
    }
    s->rest_n = kept;
}

bool mt_slots_take(struct mt_slots *s, int64_t now_ns, uint32_t *ret)
{
    wake_rested(s, now_ns);
    for (uint32_t i = 0; i < MT_SLOTS; i++) {
        uint32_t slot = (s->next + i) % MT_SLOTS;
        if (is_used(s, slot))
            continue;
        set_used(s, slot, true);
        s->next = slot + 1;
        *ret = slot;
        return true;
    }
    return false;
}

void mt_slots_free(struct mt_slots *s, uint32_t slot, int64_t now_ns)
{
    if (slot >= MT_SLOTS || !is_used(s, slot))
        return;
    if (s->rest_n == s->rest_cap) {
        size_t cap = s->rest_cap ? s->rest_cap * 2 : 16;
        struct mt_slot_rest *v = realloc(s->rest, cap * sizeof *v);
        if (!v)
            return; /* without memory to remember the rest the number stays taken: safe, and one of 65535 */
        s->rest = v;
        s->rest_cap = cap;
    }
    s->rest[s->rest_n++] = (struct mt_slot_rest){slot, now_ns + MT_SLOT_REST_NS};
}
