/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/skew.h"

bool mt_skew_least(int64_t sent_ms, int64_t got_ms, int64_t there_ms, int64_t *ret_ms)
{
    if (got_ms < sent_ms || sent_ms < 0 || there_ms < 0)
        return false;
    *ret_ms = sent_ms > there_ms ? sent_ms - there_ms : got_ms < there_ms ? got_ms - there_ms : 0;
    return true;
}
