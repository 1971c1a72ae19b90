/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of what goes through one tap, each way, where the monitor has none of its own (QEMU): a table `netdev moat-<tap>` whose two chains hang on
 * that link alone, so a VM without limits pays nothing. What is above is dropped; two seconds of it may come at once (runtime.md §7.4). Blocking; any thread.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct mt_buf;

/** Text of the table: pure. 0 is no limit of that kind. */
void mt_limit_text(const char *tap, uint64_t bytes_per_s, uint64_t packets_per_s, struct mt_buf *out);
/** Make the table what it has to be, by one process of nft; when @only_missing nothing is done where it is there. */
int mt_limit_set(const char *nft_path, const char *tap, uint64_t bytes_per_s, uint64_t packets_per_s, bool only_missing, struct mt_err *err);
/** Take it away, without a process. 0 also when there is none. */
int mt_limit_clear(const char *tap, struct mt_err *err);
