/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is to be done for one volume of the plan, from what the plan says and what is known of it here. Pure.
 * Source: storage-and-secrets.md 2.4, 3.5; docs/formats/volume-plan.md.
 */
#pragma once

#include "model/volume.h"

enum mt_volume_act {
    MT_VOLUME_ACT_NONE = 0,
    MT_VOLUME_ACT_PROVISION, /* make it, or see that what is there is it; then tell */
    MT_VOLUME_ACT_REMOVE,    /* then tell */
    MT_VOLUME_ACT_PRESENT,   /* tell that it is there */
    MT_VOLUME_ACT_MISSING,   /* tell that it is missing */
    MT_VOLUME_ACT_CHECK,     /* the check that an operator has asked for; then tell */
    MT_VOLUME_ACT_MAX
};

struct mt_volume_seen {
    bool found; /* in the folder, when it was looked at last */
    bool busy;  /* a step on it runs */
    bool told;  /* something of its state was reported by this process: */
    enum mt_volume_event last;
    bool failed;         /* with result failed */
    int64_t retry_at_ns; /* no step before this time; 0 at once */
    uint32_t checked;    /* number of the check that this process has carried out last */
};

/** The next thing for @v. Doing it twice is harmless. */
enum mt_volume_act mt_volume_act(const struct mt_plan_volume *v, const struct mt_volume_seen *s, int64_t now_ns);

/** Milliseconds to wait before the next try after @failures (1..) in a row. */
int64_t mt_volume_retry_ms(unsigned failures);
