/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init says of itself: to the kernel log (so that the console tail explains a failed boot), to a
 * bounded copy in memory, and from there to /run/moat/init.log. Never environment values or secrets.
 */
#pragma once

#include "base/err.h"

enum mt_say_level { MT_SAY_ERROR = 3, MT_SAY_WARN = 4, MT_SAY_INFO = 6 }; /* as kernel log levels */

/** Open /dev/kmsg; before that, and without it, lines go to the memory copy only. */
void mt_say_open(void);
/** Say one line (no '\n'); longer than 900 bytes is cut. Keeps errno. */
void mt_say(enum mt_say_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Up to @n bytes of what was said, from @offset on; *@ret_total: how many there are. Returns how many were put into @buf. */
size_t mt_say_read(uint64_t offset, void *buf, size_t n, uint64_t *ret_total);
/** From now on also append to @path, beginning with what memory holds; at most 1 MiB in all. */
void mt_say_to_file(const char *path);
