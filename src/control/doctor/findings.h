/* SPDX-License-Identifier: Apache-2.0 */
/* What the lists of findings are made with: one entry for each check. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

enum mt_finding_level { OK = 0, WARN, FAIL };

struct mt_findings {
    json_t *list;
    bool fail;
};

/** @mend is said when @level is not OK. */
void mt_found(struct mt_findings *o, const char *check, enum mt_finding_level level, const char *mend, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/** A list of names that should be empty. */
void mt_found_names(struct mt_findings *o, const char *check, const char *list, enum mt_finding_level level, const char *bad, const char *good, const char *mend);
