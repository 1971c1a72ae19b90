/* SPDX-License-Identifier: Apache-2.0 */
/* The moat.* words of the kernel command line. Pure: text in, struct out. */
#pragma once

#include "base/err.h"

struct mt_cmdline {
    char instance_id[65], boot_id[65];
    unsigned proto; /**< highest protocol the host speaks; 1 when absent */
};

/**
 * Read moat.instance, moat.boot and moat.proto out of @text (NUL-terminated, as /proc/cmdline gives it).
 * Words after a lone "--" and all other words are ignored. The last of equal words counts.
 * Returns 0; -MT_E_INVALID an id is missing or has other characters than [A-Za-z0-9_-], at most 64.
 * Source: runtime.md 7.2.
 */
int mt_cmdline_parse(const char *text, struct mt_cmdline *ret, struct mt_err *err);
