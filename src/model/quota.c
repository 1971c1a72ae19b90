/* SPDX-License-Identifier: Apache-2.0 */
/* Quotas: names and tiers out of the one table. */
#include "model/quota.h"

#include <string.h>

static const struct {
    const char *name;
    int64_t tier[MT_TIER_MAX];
    const char *counts;
} table[MT_QUOTA_MAX] = {
#define X(symbol, name, free, paid, counts) [MT_QUOTA_##symbol] = {name, {free, paid, MT_QUOTA_UNLIMITED}, counts},
    MT_QUOTAS(X)
#undef X
};

static const char *const tiers[MT_TIER_MAX] = {"free", "paid", "unlimited"};

const char *mt_quota_name(enum mt_quota q)
{
    return table[q].name;
}

enum mt_quota mt_quota_by_name(const char *name)
{
    unsigned q = 0;
    while (q < MT_QUOTA_MAX && strcmp(table[q].name, name) != 0)
        q++;
    return (enum mt_quota)q;
}

const char *mt_quota_counts(enum mt_quota q)
{
    return table[q].counts;
}

static struct {
    bool set;
    int64_t limit;
} own[MT_QUOTA_MAX];

void mt_quota_configure(enum mt_quota q, int64_t limit)
{
    own[q].set = true;
    own[q].limit = limit;
}

bool mt_quota_configured(enum mt_quota q)
{
    return own[q].set;
}

int64_t mt_quota_default(enum mt_quota q, enum mt_quota_tier tier)
{
    return own[q].set ? own[q].limit : table[q].tier[tier];
}

bool mt_quota_tier_parse(const char *name, enum mt_quota_tier *ret)
{
    for (unsigned t = 0; t < MT_TIER_MAX; t++)
        if (strcmp(tiers[t], name) == 0) {
            *ret = (enum mt_quota_tier)t;
            return true;
        }
    return false;
}

const char *mt_quota_tier_name(enum mt_quota_tier tier)
{
    return tiers[tier];
}
