/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for keys and secret values: locked against swapping, left out of core dumps, wiped when given back
 * (storage-and-secrets.md §8, §9.3). There is no way to print or serialise it. */
#pragma once

#include "base/cleanup.h"
#include "base/err.h"

struct mt_lockmem {
    uint8_t *p;
    size_t len; /* in use; the owner's to keep */
    size_t cap; /* as asked for */
};

/** @cap bytes (>= 1), zeroed. -MT_E_UNAVAILABLE when RLIMIT_MEMLOCK does not allow it, -MT_E_NOMEM. */
int mt_lockmem_new(struct mt_lockmem *m, size_t cap, struct mt_err *err);
/** Wipe and unmap; safe on a zeroed struct and twice. */
void mt_lockmem_done(struct mt_lockmem *m);
#define mt_auto_lockmem mt_cleanup(mt_lockmem_done)

/** For programs that hold secrets: no core dumps, not traceable by their own user, as much lockable memory as is allowed. */
void mt_process_hide(void);
