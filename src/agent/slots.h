/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slot numbers of live instances: basis of uid, tap name and MACs (runtime.md §0).
 *
 * Pure; a freed number rests 60 s before it is given again (§7.5). Numbers are handed out in turn, so the
 * same one comes back as late as possible.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The probe VM uses 65535 (vmm/probe.h), so live instances use the numbers below it. */
#define MT_SLOTS 65535U
#define MT_SLOT_REST_NS (60LL * 1000000000LL)

struct mt_slots {
    uint64_t used[(MT_SLOTS + 63) / 64];
    struct mt_slot_rest {
        uint32_t slot;
        int64_t until_ns;
    } *rest; /* owned */
    size_t rest_n, rest_cap;
    uint32_t next;
};

void mt_slots_done(struct mt_slots *s);
/** Mark a number found in a state file as taken. False when it was taken already or is out of range. */
bool mt_slots_claim(struct mt_slots *s, uint32_t slot);
/** Take a free number. False when there is none. */
bool mt_slots_take(struct mt_slots *s, int64_t now_ns, uint32_t *ret);
/** Give a number back; it rests. Unknown numbers are ignored. */
void mt_slots_free(struct mt_slots *s, uint32_t slot, int64_t now_ns);
