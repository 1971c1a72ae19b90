/* SPDX-License-Identifier: Apache-2.0 */
#include "control/doctor/findings.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const words[] = {"ok", "warn", "fail"};

void mt_found(struct mt_findings *o, const char *check, enum mt_finding_level level, const char *mend, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    o->fail = o->fail || level == FAIL;
    (void)json_array_append_new(o->list, json_pack("{s:s,s:s,s:s,s:s*}", "check", check, "severity", words[level], "finding", text, "mend",
                                                   level == OK ? NULL : mend));
}

void mt_found_names(struct mt_findings *o, const char *check, const char *list, enum mt_finding_level level, const char *bad, const char *good, const char *mend)
{
    if (*list)
        mt_found(o, check, level, mend, "%s: %s", bad, list);
    else
        mt_found(o, check, OK, NULL, "%s", good);
}
