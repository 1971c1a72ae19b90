/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/vmm/argv.h"

#include <stdarg.h>
#include <stdio.h>

void mt_argv_add(struct mt_argv *a, const char *fmt, ...)
{
    va_list ap;
    if (a->failed || a->count == MT_ARGV_WORDS) {
        a->failed = true;
        return;
    }
    va_start(ap, fmt);
    int n = vsnprintf(a->text + a->used, sizeof a->text - a->used, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof a->text - a->used) {
        a->failed = true;
        return;
    }
    a->argv[a->count++] = a->text + a->used;
    a->argv[a->count] = NULL;
    a->used += (size_t)n + 1;
}
